"""A file is looked at and read while bytes of it are on their way: who does waits for those only that he wants."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trio.testing

from dfs import limits
from dfs.client import File, FileSystem
from dfs.client.datanodes import DataNodes
from dfs.client.openinode import OpenInode
from dfs.client.openinodes import OpenInodes
from dfs.client.readahead import ReadAhead
from tests.integration.test_lost_sessions import Door, a_file
from tests.integration.test_owned_directories import mounted

_MOMENT_S: Final = 0.2
MIB: Final = limits.MIB


@asynccontextmanager
async def written(directory: Path, content: bytes) -> AsyncIterator[tuple[FileSystem, OpenInodes, OpenInode]]:
    """A file that holds `content`, on the disks."""
    async with mounted(directory) as (_, fs, files):
        file = await a_file(fs, files, content)
        yield fs, files, file
        files.close(file)


def in_small_parts(patch: pytest.MonkeyPatch, append: int, commit: int) -> None:
    """Have clients append and commit so many bytes at a time."""
    patch.setattr(limits, "WRITE_BACK_AT_BYTES", append)
    patch.setattr(limits, "DIRTY_RANGE_MAX_BYTES", append)
    patch.setattr(limits, "APPEND_SURE_BYTES", append)
    patch.setattr(limits, "APPEND_GROWS_UNDER_S", 0.0)
    patch.setattr(limits, "SPREAD_FROM_BYTES", 0)
    patch.setattr(limits, "COMMIT_EVERY_BYTES", commit)


async def result_of(work: Callable[[], Awaitable[Any]], into: list[Any]) -> None:
    into.append(await work())


async def test_only_bytes_that_are_on_their_way_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(os.urandom(8 * MIB))
    async with written(tmp_path, content) as (fs, files, file), trio.open_nursery() as nursery:
        door = Door(monkeypatch, fs.chunks, "append")
        new = os.urandom(MIB)
        content[2 * MIB : 3 * MIB] = new
        await file.write(2 * MIB, new)
        nursery.start_soon(file.fsync)
        await door.reached.wait()
        content[5 * MIB :] = b"and then no more" + bytes(4 * MIB)
        await file.write(5 * MIB, content[5 * MIB :])

        shown = files.seen_now(await fs.inodes.getattr(file.ino))
        assert shown is not None
        assert shown.size == len(content) == 9 * MIB + 16
        assert shown.allocated >= 9 * MIB
        assert await file.read(0, MIB) == content[:MIB]
        assert await file.read(5 * MIB - 100, 200) == content[5 * MIB - 100 : 5 * MIB + 100], "in part from memory"
        assert await file.read(9 * MIB, MIB) == content[9 * MIB :]

        read: list[Any] = []
        for at in (2 * MIB - 10, 3 * MIB - 10):
            nursery.start_soon(result_of, lambda at=at: file.read(at, 20), read)
        await trio.sleep(_MOMENT_S)
        assert not read, "of bytes that are neither here nor there"
        door.opened.set()
        while len(read) < 2:
            await trio.sleep(0.01)
        assert sorted(read) == sorted(content[at : at + 20] for at in (2 * MIB - 10, 3 * MIB - 10))
        await file.fsync()
        settled = await fs.inodes.getattr(file.ino)
        assert (settled.size, settled.mtime_ns) == (shown.size, shown.mtime_ns)
        assert await file.read(0, len(content)) == content


async def test_while_a_stream_is_committed_in_parts_each_part_is_read_when_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 64 * limits.KIB
    in_small_parts(monkeypatch, size, 2 * size)
    async with written(tmp_path, bytes(16 * size)) as (fs, _, file), trio.open_nursery() as nursery:
        version, new = file.attr.version, os.urandom(16 * size)
        door = Door(monkeypatch, fs.chunks, "append", passing=limits.APPENDS_AT_ONCE)
        await file.write(0, new)
        await door.reached.wait()
        while file.attr.version == version:
            await trio.sleep(0.01)
        assert await file.read(size, size) == new[size : 2 * size]
        read: list[Any] = []
        nursery.start_soon(result_of, lambda: file.read(8 * size, size), read)
        await trio.sleep(_MOMENT_S)
        assert not read, "it has left, and is not committed"
        door.opened.set()
        while not read:
            await trio.sleep(0.01)
        assert read == [new[8 * size : 9 * size]]


async def test_who_reads_more_slowly_than_others_commit_has_his_bytes_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(MIB)
    read, is_slow = ReadAhead.read, False

    async def slow(*args: Any) -> Any:
        if is_slow:
            await trio.sleep(_MOMENT_S)
        return await read(*args)

    monkeypatch.setattr(ReadAhead, "read", slow)
    async with written(tmp_path, content) as (_, _, file), trio.open_nursery() as nursery:

        async def write() -> None:
            while True:
                await file.write(0, b"first")
                await file.write_back()
                await file.write(100, b"next")
                await trio.sleep(_MOMENT_S / 10)

        nursery.start_soon(write)
        await trio.sleep(_MOMENT_S)
        is_slow = True
        with trio.fail_after(50 * _MOMENT_S):
            assert await file.read(MIB // 2, 100) == content[MIB // 2 : MIB // 2 + 100]
        nursery.cancel_scope.cancel()


async def test_a_file_that_is_being_cut_is_not_shown_before_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with written(tmp_path, bytes(MIB)) as (fs, files, file), trio.open_nursery() as nursery:
        door = Door(monkeypatch, fs.chunks, "append")
        await file.write(0, b"first")
        nursery.start_soon(file.truncate, 100)
        await door.reached.wait()
        assert files.seen_now(await fs.inodes.getattr(file.ino)) is None
        door.opened.set()
        assert (await files.seen(await fs.inodes.getattr(file.ino))).size == 100


async def test_what_is_appended_to_a_file_that_is_being_cut_comes_right_behind_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a log that one program appends to while another one cuts it."""
    async with written(tmp_path, bytes(MIB)) as (fs, _, file):
        async with trio.open_nursery() as nursery:
            door = Door(monkeypatch, fs.inodes, "truncate")
            nursery.start_soon(file.truncate, 3)
            await door.reached.wait()
            nursery.start_soon(file.append, b"one line, ")
            await trio.testing.wait_all_tasks_blocked(_MOMENT_S)
            door.opened.set()
        await file.append(b"and another")
        await file.fsync()
        assert await file.read(0, MIB) == b"\0\0\0one line, and another"


async def test_what_is_read_while_another_client_cuts_a_file_is_of_one_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mounted(tmp_path) as (cluster, fs, files), cluster.client() as other:
        file = await a_file(fs, files, b"o" * 300_000)
        async with await other.open("/d/f", "r+") as theirs:
            await theirs.truncate(300_000)  # so this client owns it no more
            assert (await fs.stat("/d/f")).size == 300_000
            door = Door(monkeypatch, fs.inodes, "layout")
            found: list[Any] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(result_of, partial(file.read, 0, 400_000), found)
                await door.reached.wait()
                await theirs.truncate(0)
                await theirs.pwrite(b"new", 0)
                door.opened.set()
        assert found == [b"new"]
        files.close(file)


@asynccontextmanager
async def shared(directory: Path, content: bytes) -> AsyncIterator[tuple[OpenInodes, OpenInode, File]]:
    """A file of one client that another one has written last, who has it open."""
    async with mounted(directory) as (cluster, fs, files), cluster.client() as other:
        file = await a_file(fs, files, bytes(len(content)))
        async with await other.open("/d/f", "r+") as theirs:
            await theirs.pwrite(content, 0)
            yield files, file, theirs
        files.close(file)


@pytest.mark.parametrize("is_owned", [False, True])
async def test_what_a_client_writes_while_it_reads_is_in_what_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_owned: bool
) -> None:
    """All who read a page of a kernel get one answer, those too that come after the write."""
    async with shared(tmp_path, b"one, two") as (_, file, _):
        if is_owned:
            await file.write(9, b"three")  # which is in memory
        door = Door(monkeypatch, file._ahead, "read", after=True, first=True)
        found: list[Any] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(result_of, partial(file.read, 0, 100), found)
            await door.reached.wait()
            await file.write(0, b"ONE")
            await file.write(15, b"four")
            door.opened.set()
        assert found == [b"ONE, two\0three\0four" if is_owned else b"ONE, two" + bytes(7) + b"four"]


async def test_what_another_client_writes_while_one_reads_is_in_what_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even a mount has its recalls wait for its readers for long."""
    async with shared(tmp_path, b"before") as (_, file, theirs):
        door = Door(monkeypatch, file._ahead, "read", after=True, first=True)
        found: list[Any] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(result_of, partial(file.read, 0, 100), found)
            await door.reached.wait()
            await theirs.pwrite(b"AFTER!", 0)
            door.opened.set()
        assert found == [b"AFTER!"]


async def test_while_others_wait_for_a_recall_to_be_answered_nothing_is_read_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shared(tmp_path, b"before") as (files, file, theirs), trio.open_nursery() as nursery:
        recalled, forgotten = trio.Event(), trio.Event()

        async def forget_slowly(items: Any) -> None:
            recalled.set()
            await forgotten.wait()

        files.fs.recall_listeners.append(forget_slowly)
        read, count = file._ahead.read, 0

        async def recalled_meanwhile(offset: int, length: int) -> Any:
            nonlocal count
            count += 1
            if count == 1:
                nursery.start_soon(theirs.pwrite, b"AFTER!", 0)
                await recalled.wait()
            return await read(offset, length)

        monkeypatch.setattr(file._ahead, "read", recalled_meanwhile)
        assert await file.read(0, 100) == b"before"
        assert count == 1
        forgotten.set()


async def test_a_file_that_is_written_more_often_than_it_can_be_read_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shared(tmp_path, b"000") as (_, file, theirs):
        read, count = file._ahead.read, 0

        async def overtaken(offset: int, length: int) -> Any:
            nonlocal count
            found, count = await read(offset, length), count + 1
            await theirs.pwrite(b"%03d" % count, 0)
            return found

        monkeypatch.setattr(file._ahead, "read", overtaken)
        assert await file.read(0, 100) == b"%03d" % (count - 1)
        assert count > 1
        monkeypatch.undo()
        assert await file.read(0, 100) == b"%03d" % count


@pytest.mark.parametrize("seed", range(3))
async def test_what_is_written_at_random_is_what_is_read_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """By one program, without a sync: parts of the file are in memory, on their way, appended, and committed."""
    chance = random.Random(seed)
    size = 2 * MIB
    in_small_parts(monkeypatch, 64 * limits.KIB, 300 * limits.KIB)
    append = DataNodes.append

    async def slow(*args: Any, **kwargs: Any) -> bool:
        await trio.sleep(0.005 * chance.random())
        return await append(*args, **kwargs)

    monkeypatch.setattr(DataNodes, "append", slow)
    content = bytearray(os.urandom(size))
    async with written(tmp_path, content) as (fs, files, file):
        for _ in range(400):
            at = chance.randrange(size)
            match chance.randrange(20):
                case 0:
                    await file.truncate(at)
                    content = content[:at].ljust(at, b"\0")
                case 1:
                    await file.write_back()
                case 2:
                    nowhere = len(content) + 10
                    assert await file.read(nowhere, 10) == b""
                case number:
                    for start in [at, *(chance.randrange(size) for _ in range(20 * (number == 3)))]:
                        data = chance.randbytes(chance.choice((10, 4096, 50_000, 200_000)))
                        content += bytes(max(0, start + len(data) - len(content)))
                        content[start : start + len(data)] = data
                        await file.write(start, data)
                    await trio.sleep(0.03 * chance.random() * (number == 3))
            seen = await files.seen(await fs.inodes.getattr(file.ino))
            assert seen.size == len(content)
            for start in (at, chance.randrange(size), chance.randrange(size)):
                count = chance.choice((1, 4096, 131072))
                assert await file.read(start, count) == content[start : start + count]
