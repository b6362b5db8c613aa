"""A cluster of real daemon processes on loopback ports, killed and started again by name: for tests from outside.

    async with real_cluster(tmp_path, datanodes=3, session_timeout_s=2) as cluster:
        async with cluster.client() as fs:
            ...
        cluster.kill("n1")
        await cluster.start("n1")

Every daemon is a process that runs what systemd would run, `python -m nodes.namenode --config FILE`: see
`tests.forked`. Its log is DIR/NAME.log. A daemon has the same port for life. Nothing is left running on leaving,
whatever happened.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from dfs import errors
from dfs.cli.local.ports import LOOPBACK, FreePorts
from dfs.client import FileSystem, open_filesystem
from dfs.config import ClientConfig, DataNodeConfig, NameNodeConfig, render
from dfs.keys import Role
from tests.forked import Forked, run_dfs
from tests.keys import ADMIN, holder
from tests.keys import write as write_keys

PATIENCE_S: Final = 120.0
"""How long any condition is waited for: a machine under load is slow, and a test that fails may take its time."""

NAMENODE: Final = "namenode"
_PORTS_FROM: Final = 20_000  # below the kernel's ephemeral ports, above those of daemons that are installed
_PORTS: Final = FreePorts()


def free_address() -> str:
    """An address on loopback that nothing listens on, and that no other caller in this process gets."""
    return f"{LOOPBACK}:{_PORTS.take(_PORTS_FROM + random.randrange(10_000))}"


async def until(condition: Callable[[], Awaitable[bool]], what: str = "") -> None:
    """Wait for a condition, called `what` if it never comes. Errors of a cluster in disarray count as not yet."""
    refusal: object = what or condition
    with trio.move_on_after(PATIENCE_S):
        while True:
            try:
                if await condition():
                    return
            except errors.DfsError as error:
                refusal = f"{what}: {error}"
            await trio.sleep(0.05)
    raise AssertionError(f"waited {PATIENCE_S} s in vain for {refusal}")


def wait_until(condition: Callable[[], bool]) -> None:
    """As `until`, where no event loop is."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s in vain for {condition}"
        time.sleep(0.02)


class RealCluster:
    """Use `real_cluster`. Daemons are `namenode`, `n1`, `n2`, ...; their directories have those names."""

    def __init__(self, directory: Path, *, tls: bool = False) -> None:
        self.directory = directory
        self.tls = tls
        self.admin = holder(Role.ADMIN, ADMIN.id.name, tls=tls)
        self.namenode_address = free_address()
        self.nameserver_address = free_address()
        self.client_config = directory / "client.toml"
        self.client_key = directory / "client.key"
        self.configure_client(namenode_wait_s=PATIENCE_S)
        self.datanodes: list[str] = []
        """Those that `start_all` started."""
        self.addresses: dict[str, str] = {NAMENODE: self.namenode_address}
        self._processes: dict[str, Forked] = {}
        self._logged: dict[str, int] = {}  # length of each daemon's log when it was last started

    async def dfs(self, *arguments: str | bytes | Path) -> subprocess.CompletedProcess[bytes]:
        """Run `dfs ARGUMENTS` as a user of this cluster does."""
        return await trio.to_thread.run_sync(partial(run_dfs, *arguments, environment=environment(self)))

    # --- configuration

    def configure_client(self, **options: Any) -> None:
        """Write client.toml."""
        write_keys(self.directory, tls=self.tls)
        self.client_config.write_text(render(ClientConfig(namenode=self.namenode_address, **options)))

    def configure_namenode(self, **options: Any) -> Path:
        """Write namenode.toml."""
        options = {
            "nameserver": self.nameserver_address,
            "reserve_bytes": 0,
            "state_dir": self.directory / NAMENODE,
            **options,
        }
        path = self.directory / "namenode.toml"
        write_keys(self.directory, tls=self.tls)
        path.write_text(render(NameNodeConfig(listen=self.namenode_address, **options)))
        return path

    def configure_datanode(self, name: str, **options: Any) -> Path:
        """Write the DataNode's configuration; it keeps the address that it had."""
        address = self.addresses.setdefault(name, free_address())
        known: dict[str, Any] = {
            "node": name,
            "namenode": self.namenode_address,
            "listen": address,
            "directories": [self.directory / name],
            "reserve_bytes": 0,
        }
        path = self.directory / f"datanode-{name}.toml"
        write_keys(self.directory, name, tls=self.tls)
        path.write_text(render(DataNodeConfig(**{**known, **options})))
        return path

    def command(self, name: str) -> list[str]:
        """What starts this daemon, in a shell."""
        return [sys.executable, "-m", *self._module(name)]

    def _module(self, name: str) -> list[str]:
        """A daemon's module, and what it is told."""
        kind, file = (NAMENODE, "namenode.toml") if name == NAMENODE else ("datanode", f"datanode-{name}.toml")
        return [f"nodes.{kind}", "--config", str(self.directory / file)]

    # --- daemons

    def launch(self, name: str) -> None:
        """Start a daemon, and do not wait until it serves."""
        log = self.directory / f"{name}.log"
        log.touch()
        self._logged[name] = len(self.log(name))
        module, *arguments = self._module(name)
        self._processes[name] = Forked(module, arguments, log)

    async def start(self, name: str) -> None:
        """Start a daemon, and return when the NameNode answers, for a DataNode also when it counts as up."""
        self.launch(name)
        await self.wait_until_up(*([name] if name != NAMENODE else []))

    async def start_all(self, datanodes: int, datanode: Mapping[str, Any], namenode: Mapping[str, Any]) -> None:
        """Configure and start a NameNode and DataNodes n1, n2, ...; return when all are up."""
        self.datanodes = [f"n{number}" for number in range(1, datanodes + 1)]
        self.configure_namenode(**namenode)
        self.launch(NAMENODE)
        for name in self.datanodes:
            self.configure_datanode(name, **datanode)
            self.launch(name)
        await self.wait_until_up(*self.datanodes)

    def kill(self, name: str) -> None:
        """End a daemon as SIGKILL does: it can do nothing about it."""
        self._end(name, signal.SIGKILL)

    def stop(self, name: str) -> None:
        """End a daemon as SIGTERM does, and wait for it. Asserts that it ended well."""
        assert self._end(name, signal.SIGTERM) == 0, self.log(name)

    @contextmanager
    def suspended(self, name: str) -> Iterator[None]:
        """A daemon does nothing meanwhile, and its connections stay."""
        self._processes[name].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._processes[name].send_signal(signal.SIGCONT)

    def _end(self, name: str, number: int) -> int:
        process = self._processes.pop(name)
        process.send_signal(number)
        return process.wait(PATIENCE_S)

    def running(self) -> list[str]:
        """The daemons that were started and neither killed nor stopped. Asserts that none ended by itself."""
        for name, process in self._processes.items():
            assert process.poll() is None, f"{name} ended with {process.returncode}: {self.log(name)}"
        return list(self._processes)

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()

    def kill_all(self) -> None:
        """SIGKILL to every daemon, at once."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait(PATIENCE_S)
        self._processes.clear()

    # --- looking at it

    def client(self, **options: Any) -> AbstractAsyncContextManager[FileSystem]:
        return open_filesystem(self.namenode_address, self.admin, **options)

    async def wait_until_up(self, *datanodes: str) -> None:
        """Return when the NameNode answers and all of `datanodes` are up, at this moment's processes."""
        await until(lambda: self._are_up(datanodes), f"{datanodes or NAMENODE} to be up")

    async def _are_up(self, datanodes: tuple[str, ...]) -> bool:
        self.running()
        if not all("registered" in self.log(name)[self._logged[name] :] for name in datanodes):
            return False
        async with self.client() as fs:
            views = await fs.nodes()
        return {view.node for view in views if view.state == "up"}.issuperset(datanodes)

    def chunk_files(self, name: str) -> dict[str, Path]:
        """The chunk files in a DataNode's directory by their names, without those that describe their blocks."""
        found = (self.directory / name / "chunks").glob("??/" + "?" * 16)
        return {path.name: path for path in found}

    def disk_bytes(self) -> int:
        """What all chunk files of all DataNodes take on disk: blocks allocated, holes not counted."""
        total = 0
        for name in self.addresses:
            for path in self.chunk_files(name).values():
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    total += path.stat().st_blocks * 512
        return total


@asynccontextmanager
async def real_cluster(
    directory: Path, *, datanodes: int = 3, datanode: dict[str, Any] | None = None, tls: bool = False, **namenode: Any
) -> AsyncIterator[RealCluster]:
    """A NameNode and DataNodes n1, n2, ..., all up. Options are their configurations'."""
    with dead_at_last(RealCluster(directory, tls=tls)) as cluster:
        await cluster.start_all(datanodes, datanode or {}, namenode)
        yield cluster


@contextmanager
def lasting_cluster(
    directory: Path, *, datanodes: int = 3, tls: bool = False, **namenode: Any
) -> Iterator[RealCluster]:
    """As `real_cluster`, for a fixture that outlives a test and its event loop."""
    with dead_at_last(RealCluster(directory, tls=tls)) as cluster:
        trio.run(cluster.start_all, datanodes, {}, namenode)
        yield cluster


async def make_as_new(cluster: RealCluster) -> None:
    """Start what a test left dead, and remove all files."""
    for name in [NAMENODE, *cluster.datanodes]:
        if name not in cluster.running():
            await cluster.start(name)
    async with cluster.client() as fs:
        for entry in await fs.listdir("/"):
            await fs.remove_tree(b"/" + entry.name)


@contextmanager
def dead_at_last(cluster: RealCluster) -> Iterator[RealCluster]:
    try:
        yield cluster
    finally:
        cluster.kill_all()


def environment(cluster: RealCluster) -> dict[str, str]:
    """What a shell of a user of this cluster has set."""
    return {**os.environ, "DFS_CONFIG": str(cluster.client_config)}
