"""A file that is read and written by turns, as a database is: read without asking, and never as it was before."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from dfs import limits
from dfs.client import FileSystem
from dfs.client.openinode import OpenInode
from dfs.client.openinodes import OpenInodes
from dfs.types import Ino
from tests.cluster import Cluster, mounted, questions, running_cluster

_PATIENCE_S = 60
_PAGE: Final = 4096
_READ: Final = 4 * _PAGE
"""What a kernel asks for when a page is read."""


class Database:
    """An open file, and what it is to hold."""

    def __init__(self, fs: FileSystem, files: OpenInodes, file: OpenInode) -> None:
        self.fs = fs
        self.files = files
        self.file = file
        self.content = bytearray()

    async def write(self, offset: int, data: bytes) -> None:
        self.content += bytes(max(0, offset + len(data) - len(self.content)))
        self.content[offset : offset + len(data)] = data
        await self.file.write(offset, data)
        await self.file.fsync()

    async def read(self, offset: int = 0) -> None:
        assert await self.file.read(offset, _READ) == self.content[offset : offset + _READ]

    @property
    def read_bytes(self) -> int:
        """Of DataNodes."""
        return self.fs.reader.statistics()["read_bytes"]

    @property
    def kept_bytes(self) -> int:
        return self.files.statistics()["recent_bytes"]


@asynccontextmanager
async def database(directory: Path, size: int = 100 * _PAGE) -> AsyncIterator[tuple[Cluster, Database]]:
    async with running_cluster(directory, datanodes=3) as cluster, mounted(cluster) as (fs, files):
        with trio.fail_after(_PATIENCE_S):
            root = (await fs.stat("/")).ino
            file = await files.create(root, b"db", 0o644, 0, 0, exclusive=True)
            made = Database(fs, files, file)
            await made.write(0, os.urandom(size))
            await made.read()
            yield cluster, made
            files.close(file)
            await files.settle_all()
            assert made.kept_bytes == 0


async def write_elsewhere(cluster: Cluster, ino: Ino, offset: int, data: bytes) -> None:
    async with mounted(cluster) as (_, files):
        file = await files.acquire(ino, "db")
        await file.write(offset, data)
        await file.fsync()
        files.close(file)


async def test_what_was_written_and_read_is_read_without_asking(tmp_path: Path) -> None:
    async with database(tmp_path) as (_, db):
        before = db.read_bytes

        async def work() -> None:
            for number in range(20):
                await db.write(number % 4 * _PAGE, os.urandom(_PAGE))
                await db.write(8 * _PAGE, os.urandom(2 * _PAGE))
                await db.read()

        assert await questions(db.fs, work) == 0
        assert db.read_bytes == before
        assert 0 < db.kept_bytes <= limits.RECENT_PAGES_MAX * _PAGE


async def test_where_the_bytes_of_a_file_are_is_kept_while_it_is_open(tmp_path: Path) -> None:
    async with database(tmp_path) as (cluster, db), mounted(cluster) as (_, files):
        file = await files.acquire(db.file.ino, "db")
        assert await file.read(0, _READ) == db.content[:_READ]
        assert files.layouts.extents > 0
        files.close(file)
        assert files.layouts.extents == 0


async def test_what_others_write_is_what_is_read(tmp_path: Path) -> None:
    async with database(tmp_path) as (cluster, db):
        for number in range(4):
            data = os.urandom(100)
            at = number * 5000
            await write_elsewhere(cluster, db.file.ino, at, data)
            db.content[at : at + 100] = data
            await db.read()
            await db.write(_PAGE, os.urandom(10))
            await db.read()


async def test_a_file_that_is_cut_or_written_in_bulk_is_read_as_it_is(tmp_path: Path) -> None:
    async with database(tmp_path) as (_, db):
        await db.file.truncate(_PAGE + 1)
        del db.content[_PAGE + 1 :]
        await db.read()
        await db.write(3 * _PAGE, b"behind a hole")
        await db.read()
        await db.write(0, os.urandom(3 * limits.APPEND_MAX_BYTES))
        await db.read()
        await db.write(_PAGE, b"again")
        await db.read()


async def test_changes_at_random_are_read_as_they_are(tmp_path: Path) -> None:
    chance = random.Random(1)
    async with database(tmp_path, 400 * _PAGE) as (cluster, db):
        for _ in range(150):
            at = chance.randrange(390 * _PAGE)
            match chance.randrange(8):
                case 0:
                    data = chance.randbytes(chance.randrange(1, 3 * _PAGE))
                    await write_elsewhere(cluster, db.file.ino, at, data)
                    db.content[at : at + len(data)] = data
                case 1:
                    await db.file.truncate(at)
                    del db.content[at:]
                    await db.write(400 * _PAGE - 1, b"\0")
                case 2 | 3 | 4:
                    await db.write(at - at % _PAGE, chance.randbytes(_PAGE))
                case _:
                    await db.read(at)


async def test_what_was_read_before_is_read_beneath_what_waits_in_memory(tmp_path: Path) -> None:
    async with database(tmp_path, 200 * _PAGE) as (_, db):
        for at in range(0, 200 * _PAGE, _READ):
            await db.read(at)

        async def work() -> None:
            for number in range(50):
                at = number * 3 * _PAGE + 1000
                data = os.urandom(_PAGE)
                db.content[at : at + _PAGE] = data
                await db.file.write(at, data)
                for start in range(at - 1000, at + _READ, _PAGE):
                    await db.read(start)
            end = len(db.content)
            db.content += bytes(100) + b"behind the end"
            await db.file.write(end + 100, b"behind the end")
            await db.read(end - 10)
            assert await db.file.read(len(db.content), 10) == b""

        version = db.file.attr.version
        assert await questions(db.fs, work) == 0
        assert db.file.attr.version == version, "it was committed before it was read"


async def test_others_write_while_it_is_read_beneath_what_waits(tmp_path: Path) -> None:
    chance = random.Random(2)
    async with database(tmp_path) as (cluster, db), mounted(cluster) as (_, others):
        other = await others.acquire(db.file.ino, "db")
        last = bytearray(db.content)

        async def write(file: OpenInode, number: int, pages: range) -> None:
            """Each page has one writer, who writes ever larger numbers."""
            for page in pages:
                data = bytes([number]) * _PAGE
                await file.write(page * _PAGE, data)
                last[page * _PAGE : (page + 1) * _PAGE] = data
                await trio.sleep(chance.random() / 1000)

        async def read(file: OpenInode) -> None:
            for _ in range(60):
                first = chance.randrange(16)
                before = last[first * _PAGE : first * _PAGE + _READ]
                found = bytes(await file.read(first * _PAGE, _READ))
                for page in range(4):
                    at = page * _PAGE
                    assert found[at] >= before[at], "what had returned is seen"
                    assert found[at : at + _PAGE] == found[at : at + 1] * _PAGE, "a page is one write's"

        await write(db.file, 1, range(20))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, db.file)
            nursery.start_soon(read, other)
            for number in range(2, 12):
                await write(db.file, number, range(0, 20, 2))
                await write(other, number, range(1, 20, 2))
        assert await db.file.read(0, 20 * _PAGE) == last[: 20 * _PAGE]
        assert await other.read(0, 20 * _PAGE) == last[: 20 * _PAGE]
        others.close(other)


async def test_what_was_foreseen_wrongly_is_forgotten(tmp_path: Path) -> None:
    async with database(tmp_path) as (_, db):
        await db.write(0, b"new")
        before = db.read_bytes
        await db.read()
        assert db.read_bytes == before
        db.fs.session.stream.surprises += 1
        await db.read()
        assert db.read_bytes > before
