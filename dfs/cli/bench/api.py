"""Measuring through the Python API: the client library in this process, without mount or kernel."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from dfs import errors, limits
from dfs.cli import show
from dfs.cli.bench.figures import Stopwatch
from dfs.cli.bench.target import PIECE_BYTES
from dfs.cli.context import complain

if TYPE_CHECKING:
    from dfs.client import FileSystem
    from dfs.client.file import File


class ApiHandle:
    """A `dfs.client` file: each write is committed when it returns."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._buffer = memoryview(bytearray(PIECE_BYTES))

    async def pread(self, length: int, offset: int) -> int:
        return await self._file.pread_into(self._buffer[:length], offset)

    async def pwrite(self, data: memoryview, offset: int) -> None:
        await self._file.pwrite(data, offset)

    async def fsync(self) -> None:
        await self._file.fsync()

    async def aclose(self) -> None:
        await self._file.aclose()


class _Repetitions:
    """The source of an upload: a lap for each piece that was taken."""

    def __init__(self, size_bytes: int, pattern: memoryview, watch: Stopwatch) -> None:
        self._left_bytes = size_bytes
        self._pattern = pattern
        self._watch = watch
        self._given_bytes = 0

    async def readinto(self, view: memoryview) -> int:
        if self._given_bytes:
            self._watch.lap(self._given_bytes)
        count = 0 if self._watch.is_over else min(len(view), len(self._pattern), self._left_bytes)
        view[:count] = self._pattern[:count]
        self._given_bytes = count
        self._left_bytes -= count
        return count


class _Counter:
    """The sink of a download: a lap for each piece that came, until time is up."""

    leaves_holes = False

    def __init__(self, watch: Stopwatch, scope: trio.CancelScope) -> None:
        self._watch = watch
        self._scope = scope

    async def write(self, view: memoryview) -> None:
        await self.skip(len(view))

    async def skip(self, length: int) -> None:
        self._watch.lap(length)
        if self._watch.is_over:
            self._scope.cancel()


class ApiTarget:
    """See `Target`; a directory of the cluster. The client library caches nothing of files between calls."""

    rereads = False

    def __init__(self, fs: FileSystem, directory: bytes) -> None:
        self._fs = fs
        self._directory = directory

    def _path(self, path: str) -> bytes:
        return self._directory + b"/" + path.encode()

    async def write_whole(self, path: str, size_bytes: int, pattern: memoryview, watch: Stopwatch) -> None:
        await self._fs.upload(_Repetitions(size_bytes, pattern, watch), self._path(path), replace=True)

    async def read_whole(self, path: str, watch: Stopwatch) -> None:
        with trio.CancelScope() as scope:
            await self._fs.download(self._path(path), _Counter(watch, scope))

    async def open(self, path: str, mode: str) -> ApiHandle:
        return ApiHandle(await self._fs.open(self._path(path), mode))

    async def forget(self, path: str) -> None:
        pass  # nothing is kept

    async def stat(self, path: str) -> None:
        await self._fs.stat(self._path(path))

    async def list(self, path: str) -> int:
        count = 0
        async for _ in self._fs.scandir(self._path(path)):
            count += 1
        return count

    async def mkdir(self, path: str) -> None:
        await self._fs.mkdir(self._path(path))

    async def rename(self, old: str, new: str) -> None:
        await self._fs.rename(self._path(old), self._path(new))

    async def unlink(self, path: str) -> None:
        await self._fs.remove(self._path(path))


@asynccontextmanager
async def open_api_target(fs: FileSystem, name: str, needed_bytes: int) -> AsyncIterator[ApiTarget]:
    """A new directory of that name in the cluster's root; on leaving it is gone, whatever happened.

    Raises `NoSpace`, `NotPermitted` (a reader's key).
    """
    found = await fs.statfs()
    free_bytes = found.free_bytes // max(1, found.replicas)
    if free_bytes < needed_bytes:
        raise errors.NoSpace(
            f"this would write {show.human(needed_bytes)}, and the cluster has room for {show.human(free_bytes)}:"
            " give a smaller --size, or add DataNodes"
        )
    directory = b"/" + os.fsencode(name)
    is_gone = False
    try:
        await _make(fs, directory)
        yield ApiTarget(fs, directory)
        await _remove(fs, directory)  # as long as it takes, unless somebody interrupts this
        is_gone = True
    finally:
        if not is_gone:
            await _remove_soon(fs, directory)


async def _make(fs: FileSystem, directory: bytes) -> None:
    try:
        await fs.mkdir(directory, 0o700)
    except errors.NotPermitted as error:
        raise errors.NotPermitted(f"a benchmark writes, and this key may not ({error}): use a client's key") from None


async def _remove_soon(fs: FileSystem, directory: bytes) -> None:
    """Whatever happened: also when the making of it was interrupted, and nobody knows how far it came."""
    with trio.move_on_after(limits.BENCH_CLEANUP_TIMEOUT_S, shield=True) as scope:
        await _remove(fs, directory)
    if scope.cancelled_caught:
        complain(f"{show.escaped(directory)} could not be removed in time: dfs rm -r {show.escaped(directory)}")


async def _remove(fs: FileSystem, directory: bytes) -> None:
    try:
        await fs.remove_tree(directory)
    except errors.NotFound:
        pass  # it was never made
    except errors.DfsError as error:
        complain(f"{show.escaped(directory)} is left ({error}): remove it with dfs rm -r {show.escaped(directory)}")
