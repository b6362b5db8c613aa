"""A DataNode that does not answer costs those who write little: when enough others have their bytes they go on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from dfs import errors, limits
from dfs.client import FileSystem
from tests.integration.real import PATIENCE_S, RealCluster, real_cluster
from tests.integration.test_failures import get, put

MIB = limits.MIB


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines of calls do not help: no test lasts as long."""
    monkeypatch.setattr(limits, "STRAGGLER_S", 0.5)
    monkeypatch.setattr(limits, "LANE_IDLE_S", 1.0)
    monkeypatch.setattr(limits, "DATA_TIMEOUT_S", 10 * PATIENCE_S)
    monkeypatch.setattr(limits, "CALL_TIMEOUT_S", 10 * PATIENCE_S)


async def overwrite(fs: FileSystem, path: str, data: bytes) -> None:
    async with await fs.open(path, "r+") as file:
        await file.pwrite(data, 0)
        await file.fsync()


async def copies(cluster: RealCluster, fs: FileSystem, path: str, count: int) -> None:
    """Return when a file has so many of each of its chunks."""
    while any(len(place.nodes) < count for place in await fs.replicas(path)):
        await trio.sleep(0.1)


@pytest.mark.parametrize("size", [100, 9 * MIB])
async def test_who_writes_goes_on_without_a_datanode_that_hangs(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    async with real_cluster(tmp_path) as cluster, cluster.client() as fs:
        with trio.fail_after(PATIENCE_S):
            with cluster.suspended("n1"):
                for number in range(4):
                    await put(fs, f"/file{number}", data)
                    assert await get(fs, f"/file{number}") == data
            assert fs.statistics()["writer"]["struck"] > 0
            for number in range(4):
                await copies(cluster, fs, f"/file{number}", 3)
                assert await get(fs, f"/file{number}") == data


async def test_who_flushes_goes_on_without_a_datanode_that_hangs(tmp_path: Path) -> None:
    async with real_cluster(tmp_path) as cluster, cluster.client() as fs, await fs.open("/file", "x") as file:
        with trio.fail_after(PATIENCE_S):
            await file.pwrite(b"written", 0)
            with cluster.suspended("n3"):
                await file.fsync()
                await file.pwrite(b"more", 7)
                await file.fsync()
                assert await get(fs, "/file") == b"writtenmore"


async def test_a_replica_that_is_needed_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CALL_TIMEOUT_S", 1.0)
    monkeypatch.setattr(limits, "DATA_TIMEOUT_S", 1.0)
    monkeypatch.setattr(limits, "DATANODES_WAIT_S", PATIENCE_S)
    async with real_cluster(tmp_path, datanodes=2, replicas=2, min_replicas=2) as cluster:
        async with cluster.client(wait_s=1.0) as fs:
            await put(fs, "/before", b"data")
            with cluster.suspended("n2"), pytest.raises((errors.DeadlineExceeded, errors.NotEnoughNodes)):
                await put(fs, "/file", b"data")
        async with cluster.client() as fs, trio.open_nursery() as nursery:
            with cluster.suspended("n2"):
                nursery.start_soon(put, fs, "/file", b"data")
                await trio.sleep(3.0)  # longer than a call has
            with trio.fail_after(PATIENCE_S):
                while not await fs.exists("/file"):
                    await trio.sleep(0.05)


async def test_a_replica_is_needed_of_a_file_with_more_copies_than_others_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though files have one copy by default, of which no more can be needed."""
    monkeypatch.setattr(limits, "CALL_TIMEOUT_S", 1.0)
    monkeypatch.setattr(limits, "DATA_TIMEOUT_S", 1.0)
    monkeypatch.setattr(limits, "DATANODES_WAIT_S", PATIENCE_S)
    async with real_cluster(tmp_path, datanodes=2, replicas=1, min_replicas=2) as cluster, cluster.client() as fs:
        await put(fs, "/file", b"data")
        await fs.set_replicas("/file", 2)
        async with trio.open_nursery() as nursery:
            with cluster.suspended("n2"):
                nursery.start_soon(overwrite, fs, "/file", b"more")
                await trio.sleep(3.0)  # longer than a call has
        assert await get(fs, "/file") == b"more"
