"""Small files that are read in the order of their directory: fetched many at a time, and never as they were before."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from dfs import errors, limits
from dfs.client import FileSystem
from dfs.client.cache import Cache
from dfs.client.openinodes import OpenInodes, open_inodes
from dfs.types import Attr, Ino
from tests.cluster import Cluster, running_cluster

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
    async with cluster.client(cache=Cache(10_000, 10_000)) as fs, open_inodes(fs) as files:
        yield Mount(fs, files)


@asynccontextmanager
async def two_mounts(directory: Path) -> AsyncIterator[tuple[Cluster, Mount, Mount, Ino]]:
    """A cluster, one who writes, one who reads, and a directory with _COUNT small files that only the first knows."""
    async with running_cluster(directory, datanodes=3) as cluster, mount(cluster) as writer, mount(cluster) as reader:
        with trio.fail_after(_PATIENCE_S):
            d = (await writer.fs.mkdir("/d")).ino
            await writer.make(d, {b"%d" % number: content(number) for number in range(_COUNT)})
            yield cluster, writer, reader, d


async def calls_to_namenode(mount: Mount, work: Callable[[], Any]) -> int:
    """How many questions `work` costs. The one who listens for events is not counted."""
    session, count = mount.fs.session, 0
    before = session._call

    async def counted(method: str, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += method not in ("events", "forgot")
        return await before(method, *args, **kwargs)

    session._call = counted  # type: ignore[method-assign]
    await work()
    session._call = before  # type: ignore[method-assign]
    return count


async def test_who_reads_a_directory_asks_for_many_files_at_a_time(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (_, _, reader, d):
        found: dict[bytes, bytes] = {}

        async def read() -> None:
            found.update(await reader.read_all(d))

        questions = await calls_to_namenode(reader, read)
        assert found == {b"%d" % number: content(number) for number in range(_COUNT)}
        assert reader.used >= _COUNT - 2
        assert questions < _COUNT / 4
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


async def test_who_else_reads_has_what_was_just_written_sent_first(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (_, writer, reader, d):
        attr = await writer.fs.inodes.lookup(d, b"7")
        await writer.write(attr.ino, b"one")
        assert await writer.read(attr) == b"one"
        assert await reader.read(attr) == b"one"
        await reader.write(attr.ino, b"another")
        assert await writer.read(attr) == b"another"
        assert await reader.read(attr) == b"another"
