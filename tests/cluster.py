"""A whole cluster in the test's own trio loop: the daemons' own code, on real sockets or a simulated network.

async with running_cluster(tmp_path, datanodes=4) as cluster:
    async with cluster.client() as fs:
        ...
    await cluster.stop_datanode("n1")
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from dfs import tasks
from dfs.client import FileSystem, open_filesystem
from dfs.client.cache import Cache
from dfs.client.openinodes import OpenInodes, open_inodes
from dfs.config import DataNodeConfig, NameNodeConfig
from dfs.daemon import Health
from dfs.keys import Key
from dfs.rpc import SPOKEN, Network, SocketNetwork, Versions
from dfs.runtime import RealRuntime, Runtime
from nodes.datanode.daemon import run_datanode
from nodes.namenode.daemon import run_namenode
from tests.keys import ADMIN, PLAIN, node_file


class _Running:
    """One daemon: where it serves, and how to stop it."""

    def __init__(self, address: str, scope: trio.CancelScope, stopped: trio.Event) -> None:
        self.address = address
        self.scope = scope
        self.stopped = stopped


class Cluster:
    """Use `running_cluster`."""

    def __init__(self, directory: Path, nursery: trio.Nursery, network: Network, runtime: Runtime) -> None:
        self.directory = directory
        self.network = network
        self.runtime = runtime
        self.namenode_address = "127.0.0.1:0"
        self.namenode_options: dict[str, Any] = {}
        self.spoken: dict[str, Versions] = {}
        """Versions of the protocol that daemons speak from their next start on; the others speak this release's."""
        self._nursery = nursery
        self._running: dict[str, _Running] = {}

    async def _start(self, name: str, daemon: Any, config: Any, key: Any) -> str:
        scope, stopped = trio.CancelScope(), trio.Event()

        async def run(task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
            try:
                with scope:
                    await daemon(
                        config,
                        key,
                        network=self.network,
                        runtime=self.runtime,
                        health=Health(),
                        spoken=self.spoken.get(name, SPOKEN),
                        task_status=task_status,
                    )
            finally:
                stopped.set()

        address: str = await self._nursery.start(run)
        self._running[name] = _Running(address, scope, stopped)
        return address

    async def start_namenode(self, **options: Any) -> None:
        self.namenode_options |= options
        config = NameNodeConfig(
            state_dir=self.directory / "namenode",
            listen=self.namenode_address,
            nameserver="off",
            **self.namenode_options,
        )
        self.namenode_address = await self._start("namenode", run_namenode, config, PLAIN)

    async def start_datanode(self, name: str, **options: Any) -> None:
        config = DataNodeConfig(
            node=name,
            namenode=self.namenode_address,
            listen="127.0.0.1:0",
            directories=[self.directory / name],
            reserve_bytes=0,
            **options,
        )
        await self._start(name, run_datanode, config, node_file(name))

    async def stop(self, name: str) -> None:
        """Stop a daemon as SIGTERM does, and wait until it has."""
        running = self._running.pop(name)
        running.scope.cancel()
        await running.stopped.wait()

    def address(self, name: str) -> str:
        return self._running[name].address

    def client(self, key: Key = ADMIN, **options: Any) -> AbstractAsyncContextManager[FileSystem]:
        options = {"network": self.network, "runtime": self.runtime, "name": "client", **options}
        return open_filesystem(self.namenode_address, key, **options)

    async def wait_until_up(self, datanodes: int) -> None:
        async with self.client() as fs:
            with trio.fail_after(20):
                while sum(view.state == "up" for view in await fs.nodes()) < datanodes:
                    await trio.sleep(0.02)


@asynccontextmanager
async def mounted(cluster: Cluster) -> AsyncIterator[tuple[FileSystem, OpenInodes]]:
    """A client as a mount has it."""
    async with cluster.client(cache=Cache(10_000, 10_000)) as fs, open_inodes(fs) as files:
        yield fs, files


async def questions(fs: FileSystem, work: Callable[[], Awaitable[Any]]) -> int:
    """How many calls of a client `work` costs, besides that of who listens for events and what is sent afterwards.

    Nor does it count who the DataNodes are, which is asked for when one of them has come up a moment ago.
    """
    session, count = fs.session, 0
    before = session._call

    async def counted(method: str, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += method not in ("events", "forgot", "apply", "nodes")
        return await before(method, *args, **kwargs)

    session._call = counted  # type: ignore[method-assign]
    try:
        await work()
    finally:
        session._call = before  # type: ignore[method-assign]
    return count


@asynccontextmanager
async def running_cluster(
    directory: Path,
    *,
    datanodes: int = 4,
    network: Network | None = None,
    runtime: Runtime | None = None,
    spoken: Mapping[str, Versions] | None = None,
    **namenode: Any,
) -> AsyncIterator[Cluster]:
    """A NameNode and DataNodes n1, n2, ...; all are stopped on leaving. Options go to the NameNode's configuration."""
    async with tasks.open_nursery() as nursery:
        cluster = Cluster(directory, nursery, network or SocketNetwork(), runtime or RealRuntime())
        cluster.spoken |= spoken or {}
        await cluster.start_namenode(**{"reserve_bytes": 0, **namenode})
        for number in range(1, datanodes + 1):
            await cluster.start_datanode(f"n{number}")
        await cluster.wait_until_up(datanodes)
        try:
            yield cluster
        finally:
            nursery.cancel_scope.cancel()
