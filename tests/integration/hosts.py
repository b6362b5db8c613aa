"""Hosts of their own on one machine: network namespaces on one bridge, that can be cut off and joined again.

    with hosts("namenode", "n1", "client") as network:
        network.start("namenode", [...])
        network.cut("n1")

Each host has its own name and loopback, one address, and a link to a bridge in a namespace that nobody works in;
nothing leads outside. Processes see the machine's files. What was cut off gets no answer, not even a refusal: packets
are lost. Links are as fast as the machine, until they are limited.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.forked import Host, as_text, run_dfs

_NETWORK: Final = "10.213.7"
_TIMEOUT_S: Final = 30
_BURST: Final = "256kb"  # more than one packet that the card would cut; at 1 Gbit/s 2 ms
_QUEUE: Final = "20ms"  # as deep as a switch's buffers; beyond it packets are lost


def need_namespaces() -> None:
    """Skip the test where namespaces cannot be made; fail it where everything must be there."""
    reason = "" if os.geteuid() == 0 else "network namespaces need root"
    missing = [program for program in ("ip", "tc", "nsenter", "unshare") if not shutil.which(program)]
    if missing:
        reason = f"not installed: {', '.join(missing)}"
    if reason and os.environ.get("DFS_REQUIRE_FUSE") == "1":
        pytest.fail(f"DFS_REQUIRE_FUSE=1, but {reason}")
    if reason:
        pytest.skip(reason)


class Hosts:
    """Use `hosts`."""

    def __init__(self, names: Sequence[str]) -> None:
        self._prefix = f"dfs-{secrets.token_hex(3)}"
        self.names = list(names)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def address(self, name: str) -> str:
        """Of a host, without a port."""
        return f"{_NETWORK}.{self.names.index(name) + 1}"

    def make(self) -> None:
        hub = self._space("hub")
        _ip("netns", "add", hub)
        _ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        _ip("-n", hub, "link", "set", "bridge", "up")
        for number, name in enumerate(self.names):
            space = self._space(name)
            _ip("netns", "add", space)
            _ip("-n", hub, "link", "add", f"port{number}", "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("-n", hub, "link", "set", f"port{number}", "master", "bridge", "up")
            _ip("-n", space, "address", "add", f"{self.address(name)}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "lo", "up")
            _ip("-n", space, "link", "set", "eth0", "up")

    def remove(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait(_TIMEOUT_S)
        for name in ("hub", *self.names):
            subprocess.run(["ip", "netns", "delete", self._space(name)], capture_output=True, timeout=_TIMEOUT_S)

    def _space(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    # --- the network

    def cut(self, name: str) -> None:
        """Nothing reaches this host any more, and nothing comes from it."""
        self._set_port(name, "down")

    def join(self, name: str) -> None:
        self._set_port(name, "up")

    def _set_port(self, name: str, state: str) -> None:
        _ip("-n", self._space("hub"), "link", "set", f"port{self.names.index(name)}", state)

    def limit(self, name: str, mbit_per_s: int) -> None:
        """Have a host's link carry no more than this, each way, headers and all: token buckets, tc-tbf(8)."""
        for space, device in ((name, "eth0"), ("hub", f"port{self.names.index(name)}")):
            bucket = ("tbf", "rate", f"{mbit_per_s}mbit", "burst", _BURST, "latency", _QUEUE)
            _run("tc", "-n", self._space(space), "qdisc", "replace", "dev", device, "root", *bucket)

    # --- processes

    def within(self, name: str, argv: Sequence[str | Path]) -> list[str]:
        """What runs `argv` on a host. The mounts are the machine's: only the network and the host's name are others."""
        renamed = ["unshare", "--uts", "sh", "-c", 'echo "$0" > /proc/sys/kernel/hostname && exec "$@"', name]
        return ["nsenter", f"--net=/run/netns/{self._space(name)}", "--", *renamed, *map(str, argv)]

    def dfs(
        self, name: str, *arguments: str | Path, environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run `dfs` on a host."""
        where = Host(f"/run/netns/{self._space(name)}", name)
        return as_text(run_dfs(*arguments, environment=environment, host=where))

    def run(self, name: str, argv: Sequence[str | Path], **how: Any) -> subprocess.CompletedProcess[str]:
        how = {"capture_output": True, "text": True, "timeout": _TIMEOUT_S * 4, "check": False, **how}
        return subprocess.run(self.within(name, argv), **how)

    def start(self, name: str, argv: Sequence[str | Path], log: Path) -> None:
        """Start the daemon of a host; it ends with the network."""
        with log.open("ab") as file:
            self._processes[name] = subprocess.Popen(
                self.within(name, argv), stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )

    def stop(self, name: str) -> None:
        """End the daemon of a host as SIGTERM does. Asserts that it ended well."""
        process = self._processes.pop(name)
        process.terminate()
        assert process.wait(_TIMEOUT_S) == 0, f"{name} ended with {process.returncode}"

    def kill(self, name: str) -> None:
        process = self._processes.pop(name)
        process.kill()
        process.wait(_TIMEOUT_S)


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"


@contextmanager
def hosts(*names: str) -> Iterator[Hosts]:
    """Hosts with these names, without processes; all is gone on leaving."""
    made = Hosts(names)
    try:
        made.make()
        yield made
    finally:
        made.remove()
