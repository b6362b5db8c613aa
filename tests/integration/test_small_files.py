"""Small files that are read in the order of their directory: fetched many at a time, and never as they were before."""

from __future__ import annotations

import itertools
import mmap
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from dfs import errors, limits
from dfs.checksum import Buffer
from dfs.client import FileSystem
from dfs.client.openinodes import OpenInodes
from dfs.types import Attr, Ino
from tests.cluster import Cluster, mounted, questions, running_cluster

_PATIENCE_S = 60
_COUNT = 100


def content(number: int) -> bytes:
    return b"%06d " % number * (number % 40 + 1)


class Mount:
    """A client as a mount is one."""

    def __init__(self, fs: FileSystem, files: OpenInodes) -> None:
        self.fs = fs
        self.files = files

    async def make(self, directory: Ino, contents: dict[bytes, bytes]) -> dict[bytes, Ino]:
        """New files, durable."""
        made = {}
        for name, data in contents.items():
            file = await self.files.create(directory, name, 0o644, 0, 0, exclusive=True)
            made[name] = file.ino
            await file.write(0, data)
            self.files.close(file)
        await self.files.settle_all()
        await self.fs.session.stream.flush()
        return made

    async def write(self, ino: Ino, data: bytes) -> None:
        file = await self.files.acquire(ino, "a file")
        await file.truncate(0)
        await file.write(0, data)
        self.files.close(file)

    async def read(self, attr: Attr) -> bytes:
        file = await self.files.acquire(attr.ino, "a file")
        self.files.reads(file)
        try:
            return bytes(await file.read(0, limits.READ_MAX_BYTES))
        finally:
            self.files.close(file)

    async def read_all(self, directory: Ino) -> dict[bytes, bytes]:
        return {entry.name: await self.read(entry.attr) for entry in await self.fs.inodes.readdir(directory)}

    @property
    def used(self) -> int:
        """Files that had been fetched before they were read."""
        return self.files.statistics()["small_files_used"]

    @property
    def kept_bytes(self) -> int:
        return self.files.statistics()["small_files_kept_bytes"]


@asynccontextmanager
async def mount(cluster: Cluster) -> AsyncIterator[Mount]:
    async with mounted(cluster) as (fs, files):
        yield Mount(fs, files)


@asynccontextmanager
async def two_mounts(directory: Path) -> AsyncIterator[tuple[Cluster, Mount, Mount, Ino]]:
    """A cluster, one who writes, one who reads, and a directory with _COUNT small files that only the first knows."""
    async with running_cluster(directory, datanodes=3) as cluster, mount(cluster) as writer, mount(cluster) as reader:
        with trio.fail_after(_PATIENCE_S):
            d = (await writer.fs.mkdir("/d")).ino
            await writer.make(d, {b"%d" % number: content(number) for number in range(_COUNT)})
            yield cluster, writer, reader, d


async def test_who_reads_a_directory_asks_for_many_files_at_a_time(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (_, _, reader, d):
        found: dict[bytes, bytes] = {}

        async def read() -> None:
            found.update(await reader.read_all(d))

        asked = await questions(reader.fs, read)
        assert found == {b"%d" % number: content(number) for number in range(_COUNT)}
        assert reader.used >= _COUNT - 2
        assert asked < _COUNT / 4
        assert reader.kept_bytes == 0, "what was read is the kernel's"


async def test_what_others_write_meanwhile_is_what_is_read(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (_, writer, reader, d):
        entries = await reader.fs.inodes.readdir(d)
        for entry in entries[:4]:
            await reader.read(entry.attr)
        assert reader.kept_bytes, "the next ones are fetched"
        for entry in entries[4:]:
            await writer.write(entry.attr.ino, b"new " + entry.name)
        for entry in entries[4:]:
            assert await reader.read(entry.attr) == b"new " + entry.name


async def test_what_this_client_writes_meanwhile_is_what_it_reads(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (_, _, reader, d):
        entries = await reader.fs.inodes.readdir(d)
        for entry in entries[:4]:
            await reader.read(entry.attr)
        for entry in entries[4:20]:
            await reader.write(entry.attr.ino, b"mine")
            assert await reader.read(entry.attr) == b"mine"


async def test_a_file_that_goes_meanwhile_is_gone_and_the_others_are_read(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (_, writer, reader, d):
        entries = await reader.fs.inodes.readdir(d)
        for entry in entries[:4]:
            await reader.read(entry.attr)
        for entry in entries[4::2]:
            await writer.fs.inodes.unlink(d, entry.name)
        for entry in entries[4::2]:
            with pytest.raises(errors.NotFound):
                await reader.fs.inodes.lookup(d, entry.name)
        for entry in entries[5::2]:
            assert await reader.read(entry.attr) == content(int(entry.name))


async def test_with_one_copy_away_the_others_serve_what_is_fetched_ahead(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (cluster, _, reader, d):
        await cluster.stop("n1")
        assert await reader.read_all(d) == {b"%d" % number: content(number) for number in range(_COUNT)}
        assert reader.used >= _COUNT - 2


async def test_files_in_pieces_or_empty_or_large_are_read_as_ever(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, datanodes=3) as cluster, mount(cluster) as writer, mount(cluster) as reader:
        d = (await writer.fs.mkdir("/d")).ino
        large = bytes(range(256)) * (limits.SMALL_FILE_MAX_BYTES // 256) + b"more"
        wanted = {b"%d" % number: (b"", b"small", large)[number % 3] for number in range(30)}
        made = await writer.make(d, wanted)
        for name in (b"1", b"4", b"7"):
            file = await writer.files.acquire(made[name], "a file")
            await file.write(2, b"A")
            await file.fsync()
            await file.write(9, b"end")  # behind a hole
            writer.files.close(file)
            wanted[name] = b"smAll\0\0\0\0end"
        assert await reader.read_all(d) == wanted


async def test_several_who_read_what_cannot_be_fetched_ahead_do_not_take_it_from_each_other(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, datanodes=3) as cluster, mount(cluster) as writer, mount(cluster) as reader:
        d = (await writer.fs.mkdir("/d")).ino
        for ino in (await writer.make(d, {b"%d" % number: b"small" for number in range(12)})).values():
            file = await writer.files.acquire(ino, "a file in two pieces")
            await file.write(5, b"er")
            await file.fsync()
            writer.files.close(file)
        entries = await reader.fs.inodes.readdir(d)

        async def read() -> None:
            for entry in entries:
                assert await reader.read(entry.attr) == b"smaller"

        for _ in range(10):
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(read)
                    await trio.sleep(0.0005)


async def test_who_reads_at_random_has_nothing_fetched_for_him(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (_, _, reader, d):
        entries = await reader.fs.inodes.readdir(d)
        for number in (90, 10, 70, 30, 50, 5, 99):
            assert await reader.read(entries[number].attr) == content(number)
        assert reader.kept_bytes == 0


async def test_no_more_is_kept_than_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SMALL_FILES_KEPT_BYTES", 2000)
    async with two_mounts(tmp_path) as (_, writer, reader, d):
        names = [(await writer.fs.mkdir(f"/e{number}")).ino for number in range(4)]
        for directory in names:
            await writer.make(directory, {b"%d" % number: b"x" * 100 for number in range(40)})
        for directory in (d, *names):
            for entry in (await reader.fs.inodes.readdir(directory))[:3]:
                await reader.read(entry.attr)
            assert reader.kept_bytes <= 2000 + limits.FOLLOWED_FIRST * max(map(len, map(content, range(_COUNT))))


# --- what the kernel is given ---------------------------------------------------------------------------


class Pages:
    """A page cache of whole files, by what it is given."""

    def __init__(self, mount: Mount) -> None:
        self.held: dict[Ino, tuple[Attr, bytes]] = {}
        self._mount = mount
        mount.files.give = self._take

    def _take(self, attr: Attr, offset: int, data: Buffer) -> bool:
        assert not self._mount.files.is_open(attr.ino)
        before = self.held[attr.ino][1][:offset] if offset else b""
        assert len(before) == offset
        self.held[attr.ino] = attr, before + bytes(data)
        return True

    async def read_all(self, directory: Ino) -> dict[bytes, bytes]:
        """As `Mount.read_all`, of the kernel's pages where it has them."""
        found = {}
        for entry in await self._mount.fs.inodes.readdir(directory):
            ino = entry.attr.ino
            file = await self._mount.files.acquire(ino, "a file")
            self._mount.files.reads(file)
            held = self.held.get(ino)
            found[entry.name] = held[1] if held else bytes(await file.read(0, limits.READ_MAX_BYTES))
            self._mount.files.close(file)
            await trio.sleep(0.001)  # as a program takes some time
        return found


async def test_the_kernel_is_given_what_is_fetched_and_its_reader_is_followed_all_the_same(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (_, _, reader, d):
        pages = Pages(reader)
        found: dict[bytes, bytes] = {}

        async def read() -> None:
            found.update(await pages.read_all(d))

        asked = await questions(reader.fs, read)
        assert found == {b"%d" % number: content(number) for number in range(_COUNT)}
        assert len(pages.held) > _COUNT / 2
        assert reader.used >= _COUNT - 2
        assert asked < _COUNT / 4
        assert reader.kept_bytes == 0


async def test_what_the_kernel_drops_again_is_not_fetched_over_and_over(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (_, _, reader, d):
        reader.files.give = lambda *_: True
        assert await reader.read_all(d) == {b"%d" % number: content(number) for number in range(_COUNT)}
        assert reader.files.statistics()["small_files_fetched"] <= _COUNT
        assert await reader.read_all(d) == {b"%d" % number: content(number) for number in range(_COUNT)}
        assert reader.files.statistics()["small_files_fetched"] <= 2 * _COUNT


async def test_the_kernel_hears_of_lost_bytes(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, datanodes=3) as cluster, mount(cluster) as only:
        lost: list[Ino] = []
        only.files.on_loss = lost.append
        d = (await only.fs.mkdir("/d")).ino
        file = await only.files.create(d, b"file", 0o644, 0, 0, exclusive=True)
        await file.write(0, b"bytes")
        await file.fail(errors.NoSpace("no DataNode has room"))
        assert lost == [file.ino]
        only.files.close(file)


async def test_who_goes_on_in_another_directory_is_known_there(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (_, writer, reader, d):
        there = (await writer.fs.mkdir("/e")).ino
        await writer.make(there, {b"%d" % number: content(number) for number in range(8)})
        await reader.fs.inodes.readdir(reader.fs.session.root)
        await reader.read_all(d)
        before = reader.used
        await reader.read_all(there)
        assert reader.used == before + 8, "from the first on"


async def test_the_kernel_is_given_nothing_of_what_is_open_or_changes(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (_, writer, reader, d):
        entries = await reader.fs.inodes.readdir(d)
        pages = Pages(reader)
        is_open = await reader.files.acquire(entries[5].attr.ino, "a file")
        written = await reader.files.acquire(entries[6].attr.ino, "a file")
        await written.write(0, b"mine ")
        reader.files.close(written)  # and is not committed yet
        others = b"o" * entries[7].attr.size
        fetched = reader.files.small_files
        assert fetched is not None
        before = fetched._fetch_run

        async def fetch_run(*args: Any) -> None:
            await writer.write(entries[7].attr.ino, others)  # after it was asked where the bytes are
            await reader.fs.inodes.getattr(entries[7].attr.ino)
            await before(*args)

        fetched._fetch_run = fetch_run  # type: ignore[method-assign]
        for entry in entries[:3]:
            await reader.read(entry.attr)
        while len(pages.held) < 8:
            await trio.sleep(0.01)
        given = {reader_attr.ino for reader_attr, _ in pages.held.values()}
        assert given.isdisjoint(entry.attr.ino for entry in entries[5:8])
        reader.files.close(is_open)
        assert await reader.read(entries[5].attr) == content(int(entries[5].name))
        assert (await reader.read(entries[6].attr))[:5] == b"mine "
        assert await reader.read(entries[7].attr) == others
        for attr, data in list(pages.held.values()):  # more may be given meanwhile
            assert data == await writer.read(attr)


async def test_the_kernel_is_given_what_was_not_written_in_whole_pages(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, datanodes=3) as cluster, mount(cluster) as only:
        given: list[tuple[int, bytes]] = []
        only.files.give = lambda _, offset, data: not given.append((offset, bytes(data)))  # type: ignore[func-returns-value]
        d = (await only.fs.mkdir("/d")).ino
        data = os.urandom(30_000)
        file = await only.files.create(d, b"file", 0o644, 0, 0, exclusive=True)
        for start in range(0, len(data), 10_240):  # as tar does
            await file.write(start, data[start : start + 10_240])
        only.files.close(file)
        page = 10_240 - 10_240 % mmap.PAGESIZE
        assert given == [(page, data[page:])]


@pytest.mark.parametrize("size", [1, 4095, 4097, 1_000_001])
async def test_the_kernel_is_given_the_last_page_of_what_was_written(tmp_path: Path, size: int) -> None:
    async with running_cluster(tmp_path, datanodes=3) as cluster, mount(cluster) as only:
        given: list[tuple[int, bytes]] = []
        only.files.give = lambda _, offset, data: not given.append((offset, bytes(data)))  # type: ignore[func-returns-value]
        d = (await only.fs.mkdir("/d")).ino
        data = os.urandom(size)
        file = await only.files.create(d, b"file", 0o644, 0, 0, exclusive=True)
        await file.write(0, data)
        again = await only.files.acquire(file.ino, "a file")
        only.files.close(file)
        assert not given, "it is open"
        only.files.close(again)
        start = size - size % mmap.PAGESIZE
        assert given == [(start, data[start:])]
        only.files.close(await only.files.acquire(file.ino, "a file"))
        assert len(given) == 1, "nothing was written since"


async def test_whole_pages_the_kernel_has_already(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, datanodes=3) as cluster, mount(cluster) as only:
        given: list[int] = []
        only.files.give = lambda _, offset, __: not given.append(offset)  # type: ignore[func-returns-value]
        d = (await only.fs.mkdir("/d")).ino
        await only.make(d, {b"file": bytes(2 * mmap.PAGESIZE), b"empty": b""})
        assert not given


async def test_first_bytes_have_the_time_at_which_the_file_was_made(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, datanodes=3) as cluster, mount(cluster) as one, mount(cluster) as other:
        d = (await one.fs.mkdir("/d")).ino
        file = await one.files.create(d, b"file", 0o644, 0, 0, exclusive=True)
        made_ns = file.attr.btime_ns
        for name, looks in ((b"seen", True), (b"appended", False)):
            another = await one.files.create(d, name, 0o644, 0, 0, exclusive=True)
            if looks:
                await another.write(0, b"first")
                assert another.shown().mtime_ns == another.attr.btime_ns
                await another.write(0, b"FIRST")
            else:
                await another.append(b"first")
            assert another.shown().mtime_ns > another.attr.btime_ns
            one.files.close(another)
        new_ns = round(limits.NEW_FILE_S * 1e9)
        clock = itertools.count(made_ns + new_ns - 1)
        one.files.now_ns = lambda: next(clock)  # type: ignore[method-assign]
        await file.write(0, b"first")
        await file.write(5, b"and later")
        assert file.shown().mtime_ns == made_ns + new_ns
        shown = file.shown()
        assert (await other.fs.stat("/d/file")).mtime_ns == shown.mtime_ns
        one.files.now_ns = lambda: made_ns + 1  # type: ignore[method-assign]
        await file.write(0, b"FIRST")  # others have seen the file
        assert file.shown().mtime_ns == made_ns + 1
        one.files.close(file)


async def test_first_bytes_after_a_cut_have_the_time_of_it(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, datanodes=3) as cluster, mount(cluster) as one, mount(cluster) as other:
        d = (await one.fs.mkdir("/d")).ino
        made = await one.make(d, {b"%d" % number: b"before" for number in range(4)})
        new_ns = round(limits.NEW_FILE_S * 1e9)
        for name, size, looks, late in (
            (b"0", 0, False, False),
            (b"1", 1, False, False),
            (b"2", 0, True, False),
            (b"3", 0, False, True),
        ):
            file = await one.files.acquire(made[name], "a file")
            cut_ns = (await file.truncate(size)).mtime_ns
            times = [cut_ns + (new_ns if late else 1 if size else new_ns - 1), cut_ns + 2]
            clock = iter(times)
            one.files.now_ns = lambda clock=clock: next(clock)  # type: ignore[method-assign,misc]
            await file.write(0, b"after")
            of_cut = not size and not late
            assert file.shown().mtime_ns == (cut_ns if of_cut else times[0])
            if looks:
                await file.write(0, b"AFTER")
                assert file.shown().mtime_ns == times[1]
            shown = file.shown()
            assert (await other.fs.stat(f"/d/{name.decode()}")).mtime_ns == shown.mtime_ns
            one.files.close(file)


# --- what the client has written itself -----------------------------------------------------------------


async def test_who_has_written_small_files_reads_them_many_at_a_time_too(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (_, writer, _, d):
        assert await writer.read_all(d) == {b"%d" % number: content(number) for number in range(_COUNT)}
        assert writer.used > _COUNT // 2


async def test_what_was_just_written_is_read_from_memory(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, datanodes=3) as cluster, mount(cluster) as only:
        with trio.fail_after(_PATIENCE_S):
            d = (await only.fs.mkdir("/d")).ino
            file = await only.files.create(d, b"file", 0o644, 0, 0, exclusive=True)
            await file.write(0, b"0123456789")
            await file.write(10, b"abcdef")
            assert await file.read(0, 100) == b"0123456789abcdef"
            assert await file.read(8, 4) == b"89ab"
            assert await file.read(16, 10) == b""
            assert only.fs.statistics()["writer"]["appended_bytes"] == 0
            await file.write(20, b"z")  # and a hole before it, which nobody has written
            assert await file.read(14, 10) == b"ef\0\0\0\0z"
            await file.write(2, b"--")
            assert await file.read(0, 6) == b"01--45"
            only.files.close(file)


async def test_what_is_cut_before_it_has_left_never_leaves(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, datanodes=3) as cluster, mount(cluster) as one, mount(cluster) as other:
        with trio.fail_after(_PATIENCE_S):
            d = (await one.fs.mkdir("/d")).ino
            for number, (cut, after) in enumerate(itertools.product((0, 5), (b"", b"after"))):
                before = one.fs.statistics()["writer"]["appended_bytes"]
                file = await one.files.create(d, b"%d" % number, 0o644, 0, 0, exclusive=True)
                await file.write(0, b"0123456789")
                await file.truncate(cut)
                await file.write(cut, after)
                assert file.shown().size == cut + len(after)
                one.files.close(file)
                attr = await other.fs.stat(f"/d/{number}")
                assert attr.size == cut + len(after)
                assert await other.read(attr) == b"0123456789"[:cut] + after
                appended = one.fs.statistics()["writer"]["appended_bytes"] - before
                assert appended == (len(after) if cut == 0 else 10 + len(after))


async def test_who_else_reads_has_what_was_just_written_sent_first(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (_, writer, reader, d):
        attr = await writer.fs.inodes.lookup(d, b"7")
        await writer.write(attr.ino, b"one")
        assert await writer.read(attr) == b"one"
        assert await reader.read(attr) == b"one"
        await reader.write(attr.ino, b"another")
        assert await writer.read(attr) == b"another"
        assert await reader.read(attr) == b"another"
