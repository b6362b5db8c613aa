"""One client sends as much as it can, over many connections: the others work on, and have their share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from dfs import keys, limits
from dfs.client import FileSystem
from dfs.keys import Role
from tests.integration.real import NAMENODE, PATIENCE_S, RealCluster, real_cluster
from tests.keys import PLAIN

_FILES = 5
_CONNECTIONS = 40
_ATTEMPTS = 10


@asynccontextmanager
async def flooded(
    cluster: RealCluster, daemon: str, *what: object, connections: int = _CONNECTIONS
) -> AsyncIterator[None]:
    """A process with a key of its own sends a daemon all it can, and meets no error but that it has to wait."""
    key_file = cluster.directory / "flooder.key"
    keys.save(key_file, PLAIN.issue(Role.ADMIN, "flooder"))
    address = cluster.addresses[daemon]
    arguments = [key_file, connections, daemon, address, *what]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.flood", *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        with trio.fail_after(PATIENCE_S):
            assert await trio.to_thread.run_sync(process.stdout.readline, abandon_on_cancel=True) == "full\n"
        yield
        assert process.poll() is None, "the flood ended by itself"
    finally:
        process.kill()
        process.communicate()


async def work(fs: FileSystem) -> None:
    """Make files, durably, one after the other, and read them."""
    for number in range(_FILES):
        data = os.urandom(1000)
        async with await fs.open(f"/file{number}", "w") as file:
            await file.pwrite(data, 0)
            await file.fsync()
        async with await fs.open(f"/file{number}") as file:
            assert await file.pread(1000, 0) == data
    assert len([entry for entry in await fs.listdir("/") if entry.name.startswith(b"file")]) == _FILES


async def commands(fs: FileSystem) -> int:
    found: int = (await fs.status())["writer"]["commands"]
    return found


@pytest.mark.slow
async def test_a_client_has_its_turn_beside_forty_sessions_of_another_that_flood_the_namenode(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=2, replicas=2) as cluster, cluster.client() as fs:
        async with flooded(cluster, NAMENODE):
            meanwhile = []
            for number in range(_ATTEMPTS):
                before = await commands(fs)
                await fs.mkdir(f"/directory{number}")
                meanwhile.append(await commands(fs) - before)
            # With turns by session each would wait for a full batch of every session. The least counts: this process
            # may itself be kept waiting by its machine between two calls.
            assert min(meanwhile) < _CONNECTIONS * limits.BATCH_MAX_COMMANDS // 4
            await work(fs)


@pytest.mark.slow
async def test_a_client_finishes_its_work_while_another_reads_all_it_can_of_a_datanode(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=2, replicas=2) as cluster, cluster.client() as fs:
        length = 128 * limits.KIB
        async with await fs.open("/large", "w") as file:
            await file.pwrite(bytes(length), 0)
            await file.fsync()
        (place,) = await fs.replicas("/large")
        async with flooded(cluster, "n1", place.chunk, length):
            await work(fs)
