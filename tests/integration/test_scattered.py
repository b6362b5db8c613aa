"""A file that was written at random lies in many short pieces: they are read together, and as safely as one."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dfs import errors
from dfs.client import FileSystem
from dfs.client.datanodes import DataNodes
from dfs.types import NodeId
from tests.integration.real import RealCluster, real_cluster
from tests.integration.test_failures import chunk_file, flip, get
from tests.integration.test_lending import lent_bytes, out_of_memory

PAGE = 4096
PAGES = 200
ASKED: dict[str, Any] = {"datanode": {"lend": False}}
"""Every read is a question to a DataNode."""


async def scattered(fs: FileSystem, path: str, seed: int = 1) -> bytes:
    """What a file holds whose pages were written one after the other, and then most of them again in any order.

    The last of them is the only one that is shorter, and a page is missing.
    """
    chance = random.Random(seed)
    content = bytearray(chance.randbytes(PAGES * PAGE - 100))
    async with await fs.open(path, "w") as file:
        content[7 * PAGE : 8 * PAGE] = bytes(PAGE)
        await file.pwrite(content[: 7 * PAGE], 0)
        await file.pwrite(content[8 * PAGE :], 8 * PAGE)
        await file.fsync()
        order = [page for page in range(8, PAGES - 1) if page % 4]
        chance.shuffle(order)
        for count, page in enumerate(order):
            place = slice(page * PAGE, (page + 1) * PAGE)
            content[place] = chance.randbytes(PAGE)
            await file.pwrite(content[place], page * PAGE)
            if not count % 5:
                await file.fsync()
    return bytes(content)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often DataNodes are asked what."""
    asked, call = Counter[str](), DataNodes.call

    async def counted(nodes: DataNodes, node: NodeId, method: str, *args: Any, **options: Any) -> Any:
        asked[method] += 1
        return await call(nodes, node, method, *args, **options)

    monkeypatch.setattr(DataNodes, "call", counted)
    return asked


async def test_it_is_read_with_a_few_calls(tmp_path: Path, calls: Counter[str]) -> None:
    async with real_cluster(tmp_path, **ASKED) as cluster:
        async with cluster.client() as fs:
            data = await scattered(fs, "/file")
        calls.clear()
        async with cluster.client() as fs:
            assert await get(fs, "/file") == data
            assert 0 < calls["read_ranges"] + calls["read"] < 10
            async with await fs.open("/file", "r") as file:
                for offset, length in ((7 * PAGE - 3, 2 * PAGE), (100, 30 * PAGE), (PAGES * PAGE - 5000, PAGE)):
                    assert await file.pread(length, offset) == data[offset : offset + length]


async def test_of_nodes_that_do_not_know_how_it_is_read_piece_by_piece(
    tmp_path: Path, calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DataNodes, "_said", lambda *_: None)
    async with real_cluster(tmp_path, **ASKED) as cluster, cluster.client() as fs:
        data = await scattered(fs, "/file")
        calls.clear()
        assert await get(fs, "/file") == data
        assert calls["read"] > PAGES / 2 and not calls["read_ranges"]


async def test_copies_that_are_damaged_in_different_pieces_lose_nothing(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=2, replicas=2, repair=False, **ASKED) as cluster:
        async with cluster.client() as fs:
            data = await scattered(fs, "/file")
        async with cluster.client() as fs:
            for node, offset in (("n1", 20 * PAGE + 1), ("n2", 24 * PAGE + 1)):  # of pages that were not written again
                copy = await chunk_file(cluster, fs, "/file", node)
                cluster.stop(node)
                flip(copy, offset - PAGE)
                await cluster.start(node)
            assert await get(fs, "/file") == data


async def test_a_piece_that_is_lost_everywhere_costs_those_who_read_it(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=1, replicas=1, min_replicas=1, **ASKED) as cluster:
        async with cluster.client() as fs:
            data = await scattered(fs, "/file")
        async with cluster.client() as fs:
            copy = await chunk_file(cluster, fs, "/file", "n1")
            cluster.stop("n1")
            flip(copy, 19 * PAGE + 1)  # page 20 of the file
            await cluster.start("n1")
            with pytest.raises(errors.DataLost):
                await get(fs, "/file")
            async with await fs.open("/file", "r") as file:
                assert await file.pread(10 * PAGE, 0) == data[: 10 * PAGE]
                assert await file.pread(100 * PAGE, 30 * PAGE) == data[30 * PAGE : 130 * PAGE]


@asynccontextmanager
async def lent(directory: Path) -> AsyncIterator[tuple[RealCluster, FileSystem, bytes]]:
    """A client that has read all of /file so often that its only chunk is lent."""
    async with real_cluster(directory, datanodes=1, replicas=1, min_replicas=1) as cluster:
        async with cluster.client() as fs:
            data = await scattered(fs, "/file")
        async with cluster.client() as fs:
            for _ in range(3):
                assert await get(fs, "/file") == data
            yield cluster, fs, data


@pytest.mark.parametrize("is_in_memory", [True, False])
async def test_of_a_file_that_is_lent_nobody_is_asked(tmp_path: Path, calls: Counter[str], is_in_memory: bool) -> None:
    async with lent(tmp_path) as (cluster, fs, data):
        before = lent_bytes(fs)
        calls.clear()
        if not is_in_memory:
            out_of_memory(cluster, "n1")
        assert await get(fs, "/file") == data
        assert lent_bytes(fs) - before >= len(data) - PAGE, "all but the hole"
        assert not calls


async def test_a_piece_of_a_lent_file_that_is_not_as_it_was_written_is_never_read(tmp_path: Path) -> None:
    async with lent(tmp_path) as (cluster, fs, _):
        flip_in_place(await chunk_file(cluster, fs, "/file", "n1"), 19 * PAGE + 1)
        with pytest.raises(errors.DataLost):
            await get(fs, "/file")


def flip_in_place(path: Path, offset: int) -> None:
    """A bit of a file, which stays the same file for who has it open."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
