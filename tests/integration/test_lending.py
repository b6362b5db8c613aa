"""Who reads on a DataNode's host reads its files himself, and is as safe as who asks."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from dfs import errors, limits
from dfs.client import FileSystem
from dfs.client.datanodes import DataNodes
from dfs.client.spans import Span
from dfs.types import ChunkId, NodeId
from nodes.datanode.index import BlockIndex
from tests.cluster import running_cluster
from tests.integration.real import RealCluster, real_cluster, until
from tests.integration.test_failures import get, put

MIB = limits.MIB
SPANS = [Span(0, 7)]
ONE_COPY: dict[str, Any] = {"datanodes": 1, "replicas": 1, "min_replicas": 1}


def lent_bytes(fs: FileSystem) -> int:
    return fs.statistics()["reader"]["lent_read_bytes"]


async def whereabouts(fs: FileSystem) -> tuple[NodeId, ChunkId, bytes]:
    """The only replica of the only chunk of /file: its node, the chunk, and a grant to read it."""
    layout = await fs.inodes.layout((await fs.stat("/file")).ino, 0, 1)
    [place] = layout.places.values()
    [node] = place.nodes
    await fs.nodes_known.refresh()
    return node, place.chunk, place.grant


def lender(fs: FileSystem) -> NodeId:
    """Who has lent the only chunk that is read."""
    [key] = fs.lent._lent
    return key.node


async def read_often(fs: FileSystem, data: bytes) -> None:
    """Until the chunk of /file is lent, and longer."""
    for _ in range(5):
        assert await get(fs, "/file") == data


def out_of_memory(cluster: RealCluster, node: str) -> None:
    """Have what is read next of the node's chunks come from the disk."""
    os.sync()
    for path in cluster.chunk_files(node).values():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def stored_as(cluster: RealCluster, node: str, data: bytes) -> Path:
    """The one chunk file of a node that holds `data` and perhaps more."""
    [path] = [path for path in cluster.chunk_files(node).values() if data in path.read_bytes()]
    return path


async def test_what_was_lent_is_read_without_the_datanode(tmp_path: Path) -> None:
    data = os.urandom(3 * MIB + 12_345)
    async with real_cluster(tmp_path) as cluster, cluster.client() as fs:
        await put(fs, "/file", data)
        await read_often(fs, data)
        before = lent_bytes(fs)
        with cluster.suspended("n1"), cluster.suspended("n2"), cluster.suspended("n3"):
            assert await get(fs, "/file") == data
        assert lent_bytes(fs) == before + len(data)
        assert fs.statistics()["reader"]["lenders_refused"] == 0


async def test_of_several_replicas_on_this_host_one_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(4 * MIB)  # in several pieces, which are fetched at once
    monkeypatch.setattr(limits, "SLOW_NODE_S", 0.0)
    async with real_cluster(tmp_path) as cluster, cluster.client() as fs:
        await put(fs, "/file", data)
        for _ in range(20):
            assert await get(fs, "/file") == data
        assert fs.statistics()["reader"]["lent_chunks"] == 1
        assert lent_bytes(fs) >= 15 * len(data)


async def test_when_the_one_that_lends_is_gone_another_one_lends(tmp_path: Path) -> None:
    data = os.urandom(MIB)
    async with real_cluster(tmp_path) as cluster, cluster.client() as fs:
        await put(fs, "/file", data)
        await read_often(fs, data)
        first = lender(fs)
        fs.nodes_known.avoid(first)
        await read_often(fs, data)
        assert {key.node for key in fs.lent._lent} > {first}


async def test_a_block_that_is_on_a_quick_disk_is_read_without_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(MIB)
    monkeypatch.setattr(limits, "DISK_QUICK_S", 60.0)
    async with real_cluster(tmp_path, **ONE_COPY) as cluster, cluster.client() as fs:
        await put(fs, "/file", data)
        out_of_memory(cluster, "n1")
        await read_often(fs, data)  # by threads, who have seen that it is quick
        out_of_memory(cluster, "n1")
        _, chunk, _ = await whereabouts(fs)
        view = memoryview(bytearray(4096))
        with monkeypatch.context() as patched:
            patched.setattr(fs.session.runtime, "run_abandonable", None)
            assert await fs.lent.read_soon(chunk, 500_000, view)
        assert view == data[500_000:504_096]


async def test_a_disk_that_is_slow_is_waited_for_by_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, looked = os.urandom(MIB), 0
    preadv = os.preadv

    def slow(descriptor: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        nonlocal looked
        if flags:
            looked += 1
            raise BlockingIOError  # it is not in memory yet
        return preadv(descriptor, buffers, offset, flags)

    async with real_cluster(tmp_path, **ONE_COPY) as cluster, cluster.client() as fs:
        await put(fs, "/file", data)
        await read_often(fs, data)
        monkeypatch.setattr(os, "preadv", slow)
        monkeypatch.setattr(limits, "DISK_QUICK_S", 0.0)
        fs.lent._quick.add(NodeId("n1"))
        _, chunk, _ = await whereabouts(fs)
        view = memoryview(bytearray(4096))
        for _ in range(2):
            assert not await fs.lent.read_soon(chunk, 0, view)
        assert looked == 2, "in memory, and not from the loop again"
        async with await fs.open("/file", "r") as reader:
            assert await reader.pread(4096, 0) == data[:4096]
        assert fs.statistics()["reader"]["failovers"] == 0


async def test_a_damaged_block_is_not_read_past_a_quick_disk(tmp_path: Path) -> None:
    data = os.urandom(MIB)
    async with real_cluster(tmp_path, **ONE_COPY) as cluster, cluster.client() as fs:
        await put(fs, "/file", data)
        await read_often(fs, data)
        with stored_as(cluster, "n1", data).open("r+b") as file:
            file.write(b"wrong")
        out_of_memory(cluster, "n1")
        fs.lent._quick.add(NodeId("n1"))
        _, chunk, _ = await whereabouts(fs)
        view = memoryview(bytearray(4096))
        assert not await fs.lent.read_soon(chunk, 0, view)
        assert bytes(view) == bytes(4096)


async def test_any_piece_is_read_as_it_was_written(tmp_path: Path) -> None:
    data = os.urandom(300_000)
    async with real_cluster(tmp_path) as cluster, cluster.client() as fs, await fs.open("/file", "w") as file:
        for start in range(0, len(data), 70_001):  # blocks of odd lengths
            await file.pwrite(data[start : start + 70_001], start)
        async with await fs.open("/file", "r") as reader:
            for start, length in ((0, 1), (65_535, 2), (70_000, 2), (1, 299_999), (299_999, 1), (140_002, 70_001)):
                assert await reader.pread(length, start) == data[start : start + length]
        assert lent_bytes(fs) > 0


async def test_a_damaged_file_that_was_lent_shows_no_wrong_byte_and_is_mended(tmp_path: Path) -> None:
    data = os.urandom(MIB)
    async with real_cluster(tmp_path) as cluster, cluster.client() as fs:
        await put(fs, "/file", data)
        await read_often(fs, data)
        node = lender(fs)
        damaged = stored_as(cluster, node, data)
        with damaged.open("r+b") as file:
            file.write(b"wrong")

        async def mended() -> bool:
            assert await get(fs, "/file") == data
            return damaged.read_bytes() == data

        await until(mended, "the damaged block as it was")


async def test_who_may_not_be_lent_a_file_asks_for_its_bytes(tmp_path: Path) -> None:
    """A DataNode of before does not know how to lend, and one in a container has no way to."""
    data = os.urandom(MIB)
    async with real_cluster(tmp_path) as cluster, cluster.client() as fs:
        await put(fs, "/file", data)
        assert fs.lent._inbox is not None
        fs.lent._inbox.name = "0" * len(fs.lent._inbox.name)  # nobody is there
        for _ in range(3):
            assert await get(fs, "/file") == data
        assert lent_bytes(fs) == 0
        assert fs.statistics()["reader"]["lenders_refused"] > 0


async def test_a_datanode_that_is_told_not_to_lends_nothing(tmp_path: Path) -> None:
    data = os.urandom(MIB)
    async with real_cluster(tmp_path, datanode={"lend": False}) as cluster, cluster.client() as fs:
        await put(fs, "/file", data)
        for _ in range(3):
            assert await get(fs, "/file") == data
        assert lent_bytes(fs) == 0


async def test_who_reads_a_chunk_once_borrows_nothing(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, **ONE_COPY) as cluster, cluster.client() as fs:
        await put(fs, "/file", b"content")
        node, chunk, grant = await whereabouts(fs)
        view = memoryview(bytearray(7))
        assert not await fs.lent.read_into(node, chunk, SPANS, view, grant)
        assert fs.statistics()["reader"]["lent_chunks"] == 0
        assert await fs.lent.read_into(node, chunk, SPANS, view, grant)
        assert view == b"content"


async def test_many_readers_of_one_chunk_ask_for_it_once_and_share_the_answer(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, **ONE_COPY) as cluster, cluster.client() as fs:
        await put(fs, "/file", b"content")
        node, chunk, grant = await whereabouts(fs)
        assert not await fs.lent.read_into(node, chunk, SPANS, memoryview(bytearray(7)), grant)
        calls, read = fs.session.pool.statistics().calls, []

        async def read_it() -> None:
            view = memoryview(bytearray(7))
            if await fs.lent.read_into(node, chunk, SPANS, view, grant):
                read.append(bytes(view))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(read_it)
        assert read == [b"content"] * 20
        assert fs.session.pool.statistics().calls <= calls + 2, "one for the file, and perhaps one of the session"


async def test_readers_who_wait_for_a_file_share_the_error_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A DataNode that hangs is waited for once, and not by one reader after the other."""
    monkeypatch.setitem(DataNodes.call.__kwdefaults__, "timeout_s", 1.0)
    async with real_cluster(tmp_path, **ONE_COPY) as cluster, cluster.client() as fs:
        await put(fs, "/file", b"content")
        node, chunk, grant = await whereabouts(fs)
        assert not await fs.lent.read_into(node, chunk, SPANS, memoryview(bytearray(7)), grant)
        asked, failed = 0, 0
        call = DataNodes.call

        async def counted(nodes: DataNodes, node: NodeId, method: str, *args: Any, **options: Any) -> Any:
            nonlocal asked
            asked += method == "lend"
            return await call(nodes, node, method, *args, **options)

        async def fail() -> None:
            nonlocal failed
            with pytest.raises(errors.DeadlineExceeded):
                await fs.lent.read_into(node, chunk, SPANS, memoryview(bytearray(7)), grant)
            failed += 1

        monkeypatch.setattr(DataNodes, "call", counted)
        with cluster.suspended("n1"):
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(fail)
        assert (asked, failed) == (1, 5)


async def test_seventy_cancelled_questions_do_not_fill_the_inbox(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, **ONE_COPY) as cluster, cluster.client() as fs:
        await put(fs, "/file", b"content")
        node, chunk, grant = await whereabouts(fs)
        view = memoryview(bytearray(7))
        assert not await fs.lent.read_into(node, chunk, SPANS, view, grant)
        with cluster.suspended("n1"):
            for _ in range(70):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(fs.lent.read_into, node, chunk, SPANS, view, grant)
                    await trio.testing.wait_all_tasks_blocked()
                    nursery.cancel_scope.cancel()

        async def is_lent() -> bool:
            return await fs.lent.read_into(node, chunk, SPANS, view, grant)

        await until(is_lent, "a file that is lent")
        assert view == b"content"


async def test_a_disk_of_this_host_that_hangs_holds_up_a_few_reads_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, goes_on, hung = os.urandom(4 * MIB), threading.Event(), 0
    pread = os.pread

    def hanging(descriptor: int, length: int, offset: int) -> bytes:
        nonlocal hung
        if f"/{node}/" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            hung += 1
            goes_on.wait()
        return pread(descriptor, length, offset)

    monkeypatch.setattr(limits, "SLOW_NODE_S", 0.0)
    async with real_cluster(tmp_path) as cluster, cluster.client() as fs:
        try:
            await put(fs, "/file", data)
            await read_often(fs, data)
            node = lender(fs)
            monkeypatch.setattr(os, "pread", hanging)
            for _ in range(30):
                assert await get(fs, "/file") == data
            assert 0 < hung < 2 * limits.LENT_BEHIND_MAX, "four mebibytes are read at a time"
            assert await fs.session.runtime.run_blocking(divmod, 7, 2) == (3, 1)
            assert fs.statistics()["reader"]["failovers"] == 0
        finally:
            goes_on.set()


async def test_what_a_disk_says_too_late_is_not_put_into_what_was_read_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, goes_on, late = os.urandom(MIB), threading.Event(), 0

    def garbled(_descriptor: int, length: int, _offset: int) -> bytes:
        nonlocal late
        goes_on.wait()
        late += 1
        return bytes(length)

    async with real_cluster(tmp_path) as cluster, cluster.client() as fs:
        try:
            await put(fs, "/file", data)
            await read_often(fs, data)
            layout = await fs.inodes.layout((await fs.stat("/file")).ino, 0, MIB)
            whole = await fs.reader.read_whole(layout, 0, MIB)
            assert whole is not None and bytes(whole) == data
            assert await fs.reader.read_whole(layout, 1, MIB - 1) is None, "that is not whole blocks"
            monkeypatch.setattr(os, "pread", garbled)
            assert await fs.reader.read_whole(layout, 0, MIB) is None
            view = memoryview(bytearray(MIB))
            [extent] = layout.extents
            await fs.nodes_known.read_into(lender(fs), extent.chunk, [Span(extent.chunk_offset, MIB)], view, b"")
            goes_on.set()
            with trio.fail_after(30):
                while not late:
                    await trio.sleep(0.01)
            assert bytes(view) == bytes(whole) == data
        finally:
            goes_on.set()


async def test_a_disk_that_did_not_answer_in_time_is_left_to_its_datanode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, goes_on = os.urandom(MIB), threading.Event()

    def hanging(*_: Any) -> int:
        goes_on.wait()
        return 0

    monkeypatch.setattr(limits, "DATA_TIMEOUT_S", 0.5)
    async with real_cluster(tmp_path, **ONE_COPY) as cluster, cluster.client() as fs:
        try:
            await put(fs, "/file", data)
            monkeypatch.setattr(os, "preadv", hanging)
            for _ in range(5):
                assert await get(fs, "/file") == data
            assert fs.statistics()["reader"]["lenders_refused"] == 1
            assert lent_bytes(fs) == 0
        finally:
            goes_on.set()


def open_files(directory: Path) -> list[str]:
    """Those beneath a directory that this process, where the DataNodes are as well, has open; each time it has."""
    found = []
    for descriptor in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):
            found.append(str(descriptor.readlink()))
    return sorted(path for path in found if path.startswith(f"{directory}/"))


@pytest.mark.parametrize(
    "columns",
    [
        (),
        (b"", b"", 0),
        ("", "", ""),
        (b"123", b"1234", b"\0"),
        (b"\7\0\0\0", b"", b"\0"),
        (b"\7\0\0\0", b"1234", b""),
        (b"\0\0\0\0", b"1234", b"\0"),
        (b"\0\0\2\0", b"1234", b"\0"),
        (b"\7\0\0\0\6\0\0\0", b"12341234", b"\0\0"),
    ],
)
async def test_blocks_that_no_chunk_has_are_refused_and_the_file_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: tuple[Any, ...]
) -> None:
    async with running_cluster(tmp_path, **ONE_COPY) as cluster, cluster.client() as fs:
        await put(fs, "/file", b"content")
        monkeypatch.setattr(BlockIndex, "columns", lambda _: columns)
        node, chunk, grant = await whereabouts(fs)
        view = memoryview(bytearray(7))
        assert not await fs.lent.read_into(node, chunk, SPANS, view, grant)
        before = open_files(tmp_path)
        with pytest.raises(errors.ProtocolViolation, match="n1 lent"):
            await fs.lent.read_into(node, chunk, SPANS, view, grant)
        assert open_files(tmp_path) == before
        assert not await fs.lent.read_into(node, chunk, SPANS, view, grant)
        assert await get(fs, "/file") == b"content"


async def test_a_file_that_is_given_back_while_a_thread_reads_it_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(MIB)
    async with running_cluster(tmp_path, **ONE_COPY) as cluster, cluster.client() as fs:
        await put(fs, "/file", data)
        await read_often(fs, data)
        node, chunk, _ = await whereabouts(fs)
        passed = fs.lent._runtime.run_abandonable

        async def give_back_meanwhile(*work: Any) -> Any:
            found = await passed(*work)
            [(key, lent)] = fs.lent._lent.items()
            fs.lent._give_up(key, lent)
            fs.lent.forget(chunk, node)
            return found

        with monkeypatch.context() as patched:
            patched.setattr(fs.lent._runtime, "run_abandonable", give_back_meanwhile)
            view = await fs.lent.read_whole(chunk, 0, limits.BLOCK_MAX_BYTES, 10)
        assert view is not None
        assert bytes(view) == data[: limits.BLOCK_MAX_BYTES]
