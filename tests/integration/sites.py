"""A cluster with a host for each daemon, and hosts for its users: see `tests.integration.hosts`."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from dfs.config import ClientConfig, DataNodeConfig, NameNodeConfig, render
from tests.integration.hosts import Hosts
from tests.keys import write as write_keys

PATIENCE_S: Final = 90.0
NAMENODE: Final = "namenode"
CLIENT: Final = "client"
PORT: Final = 9400
PYTHON: Final = sys.executable
SUSPECT_S, DEAD_S = 2.0, 5.0


class Site:
    """A cluster with a host for each daemon; users are on hosts whose names begin with `client`.

    `namenode` are more options of its configuration.
    """

    def __init__(self, network: Hosts, directory: Path, *, tls: bool = False, **namenode: Any) -> None:
        self.network = network
        self.directory = directory
        self.datanodes = [name for name in network.names if name != NAMENODE and not name.startswith(CLIENT)]
        write_keys(directory, *self.datanodes, tls=tls)
        self.address = f"{network.address(NAMENODE)}:{PORT}"
        settings: dict[str, Any] = {
            "listen": self.address,
            "state_dir": directory / NAMENODE,
            "nameserver": "off",
            "reserve_bytes": 0,
            "node_suspect_after_s": SUSPECT_S,
            "node_dead_after_s": DEAD_S,
            "garbage_grace_s": 0.2,
        }
        self._write(NAMENODE, NameNodeConfig(**{**settings, **namenode}))
        for name in self.datanodes:
            listen = f"{network.address(name)}:{PORT}"
            disks = [directory / name]
            self._write(
                name,
                DataNodeConfig(node=name, namenode=self.address, listen=listen, directories=disks, reserve_bytes=0),
            )
        self._write(CLIENT, ClientConfig(namenode=self.address, namenode_wait_s=PATIENCE_S))

    def _write(self, name: str, config: Any) -> None:
        self._file(name).write_text(render(config))

    def _file(self, name: str) -> Path:
        return self.directory / f"{name}.toml"

    def start(self, *names: str) -> None:
        for name in names:
            kind = NAMENODE if name == NAMENODE else "datanode"
            argv: list[str | Path] = [PYTHON, "-m", f"nodes.{kind}", "--config", self._file(name)]
            self.network.start(name, argv, self.directory / f"{name}.log")

    def dfs(self, *arguments: str | Path, host: str = CLIENT) -> subprocess.CompletedProcess[str]:
        """Run `dfs` on a host, by default the client's."""
        return self.network.dfs(host, *arguments, environment=self.environment())

    def environment(self) -> dict[str, str]:
        """What a user of this cluster has set."""
        return {**os.environ, "DFS_CONFIG": str(self._file(CLIENT))}

    def states(self) -> dict[str, str]:
        return {node["node"]: node["state"] for node in json.loads(self.dfs("nodes", "--json").stdout)}

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with contextlib.suppress(ValueError):  # no JSON: the NameNode cannot be reached yet
                if condition():
                    return
            time.sleep(0.2)
        raise AssertionError(f"waited {PATIENCE_S:.0f} s in vain for {what}: {self.dfs('status').stdout}")

    def until_sound(self) -> None:
        def sound() -> bool:
            if self.dfs("fsck").stdout != "nothing wrong\n":
                return False
            return not json.loads(self.dfs("status", "--json").stdout)["under_replicated"]

        self.until(sound, "a sound cluster")
