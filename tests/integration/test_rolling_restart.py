"""Daemons are stopped and started again one after another while clients work: nobody notices.

What a client did is held against a model, exactly: no operation may fail, so each has happened or was not begun.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from dfs import limits
from dfs.client import FileSystem
from tests.integration.real import NAMENODE, PATIENCE_S, RealCluster, real_cluster, until
from tests.integration.test_failures import get, put, store, until_sound

KIB, MIB = limits.KIB, limits.MIB
DATANODES = ("n1", "n2", "n3", "n4")
IN_ORDER = (NAMENODE, *DATANODES)


class Worker:
    """A user of a directory of its own. `model` is what is in it, `done` how many operations were."""

    def __init__(self, fs: FileSystem, number: int) -> None:
        self.done = 0
        self.model: dict[str, bytes] = {}
        self._fs = fs
        self._directory = f"/{number}"
        self._random = random.Random(number)

    async def run(self, stopping: trio.Event) -> None:
        """Work until told to stop. Raises whatever goes wrong."""
        await self._fs.mkdir(self._directory)
        works = [self._write_new, self._write_new, self._change, self._change, self._read, self._rename, self._remove]
        while not stopping.is_set():
            await self._random.choice(works)()
            self.done += 1

    def _path(self) -> str:
        return f"{self._directory}/{self._random.randrange(10)}"

    def _known(self) -> str | None:
        return self._random.choice(sorted(self.model)) if self.model else None

    async def _write_new(self) -> None:
        path, size = self._path(), self._random.choice([0, 1, 700, 50 * KIB, 300 * KIB, 2 * MIB + 3])
        data = self._random.randbytes(size)
        await put(self._fs, path, data)
        self.model[path] = data

    async def _change(self) -> None:
        """Overwrite a piece of a file, and have it on the disks."""
        if path := self._known():
            data = bytearray(self.model[path])
            offset, piece = (
                self._random.randrange(len(data) + 1),
                self._random.randbytes(self._random.randrange(70_000)),
            )
            async with await self._fs.open(path, "r+") as file:
                await file.pwrite(piece, offset)
                await file.fsync()
            data[offset : offset + len(piece)] = piece
            self.model[path] = bytes(data)

    async def _read(self) -> None:
        if path := self._known():
            assert await get(self._fs, path) == self.model[path], path

    async def _rename(self) -> None:
        source, target = self._known(), self._path()
        if source and source != target:
            await self._fs.rename(source, target)
            self.model[target] = self.model.pop(source)

    async def _remove(self) -> None:
        if path := self._known():
            await self._fs.remove(path)
            del self.model[path]

    async def check(self, fs: FileSystem) -> None:
        """What is there is what the model says, and nothing else."""
        names = [entry.name.decode() for entry in await fs.listdir(self._directory)]
        assert sorted(f"{self._directory}/{name}" for name in names) == sorted(self.model)
        for path, data in self.model.items():
            found = await get(fs, path)
            assert hashlib.sha256(found).digest() == hashlib.sha256(data).digest(), path


async def progress(workers: Sequence[Worker], operations: int) -> None:
    """Return when every one of them has done so many more operations."""
    goals = [worker.done + operations for worker in workers]

    async def reached() -> bool:
        return all(worker.done >= goal for worker, goal in zip(workers, goals, strict=True))

    await until(reached, f"{operations} more operations of each worker")


@asynccontextmanager
async def working(fs: FileSystem, count: int) -> AsyncIterator[list[Worker]]:
    """So many workers, who end what they are at on leaving. An error of one of them ends the block."""
    workers, stopping = [Worker(fs, number) for number in range(count)], trio.Event()
    async with trio.open_nursery() as nursery:
        for worker in workers:
            nursery.start_soon(worker.run, stopping)
        yield workers
        stopping.set()
        nursery.cancel_scope.deadline = trio.current_time() + PATIENCE_S


async def end(cluster: RealCluster, name: str, *, in_order: bool) -> None:
    """Stop a daemon, or kill it, without stopping this loop, in which clients work."""
    await trio.to_thread.run_sync(cluster.stop if in_order else cluster.kill, name)


@pytest.mark.slow
@pytest.mark.parametrize("in_order", [True, False], ids=["stopped", "killed"])
async def test_every_daemon_is_started_again_under_load_and_no_client_sees_an_error(
    tmp_path: Path, in_order: bool
) -> None:
    async with real_cluster(tmp_path, datanodes=len(DATANODES)) as cluster:
        async with cluster.client() as fs, working(fs, 3) as workers:
            await progress(workers, 5)
            for name in IN_ORDER:
                await end(cluster, name, in_order=in_order)
                if name != NAMENODE:
                    await progress(workers, 3)
                await cluster.start(name)
                await progress(workers, 3)
        async with cluster.client() as fs:
            await until_sound(fs)
            for worker in workers:
                await worker.check(fs)


async def test_a_restart_of_each_datanode_makes_no_copies(tmp_path: Path) -> None:
    """It is as long away as a restart takes: what it holds is waited for, and not made again elsewhere."""
    async with real_cluster(tmp_path, datanodes=len(DATANODES), node_suspect_after_s=2, node_dead_after_s=3) as cluster:
        files = {f"/{number}": random.Random(number).randbytes(200 * KIB) for number in range(8)}
        await store(cluster, files)
        async with cluster.client() as fs:
            await until_sound(fs)
            before = {path: await fs.replicas(path) for path in files}
            for name in DATANODES:
                await end(cluster, name, in_order=True)
                for path, data in files.items():
                    assert await get(fs, path) == data
                await until_dead_if_it_were_not_awaited(fs, name)
                await cluster.start(name)
            await until_sound(fs)
            assert (await fs.status())["repair"]["copied"] == 0
            assert {path: await fs.replicas(path) for path in files} == before


async def until_dead_if_it_were_not_awaited(fs: FileSystem, name: str) -> None:
    """Return when a node has been silent for longer than makes one dead that has not said farewell."""

    async def silent() -> bool:
        [view] = [view for view in await fs.nodes() if view.node == name]
        assert view.state == "suspect"
        others = [other.last_heartbeat_ns for other in await fs.nodes() if other.node != name]
        return min(others) - view.last_heartbeat_ns > 4e9

    await until(silent, f"{name} to be silent for four seconds")
