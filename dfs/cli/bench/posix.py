"""Measuring through system calls: a directory of a mount, or of any file system to compare with.

Calls block the event loop for as long as they take, and are timed without it: a worker thread's hop costs more than
many of them. What else runs in the loop gets its turn between two steps.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from dfs import errors
from dfs.cli import show
from dfs.cli.bench.figures import Stopwatch
from dfs.cli.bench.target import PIECE_BYTES, Breather
from dfs.cli.context import complain

_FLAGS: Final = {
    "r": os.O_RDONLY,
    "r+": os.O_RDWR,
    "x": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
    "a": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
}


class PosixHandle:
    """A file descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffer = memoryview(bytearray(PIECE_BYTES))

    async def pread(self, length: int, offset: int) -> int:
        return os.preadv(self._fd, [self._buffer[:length]], offset)

    async def pwrite(self, data: memoryview, offset: int) -> None:
        done = 0
        while done < len(data):
            done += os.pwrite(self._fd, data[done:], offset + done)

    async def fsync(self) -> None:
        os.fsync(self._fd)

    async def aclose(self) -> None:
        os.close(self._fd)


class PosixTarget:
    """See `Target`; a local directory."""

    rereads = True

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def write_whole(self, path: str, size_bytes: int, pattern: memoryview, watch: Stopwatch) -> None:
        breather = Breather()
        with open(self._directory / path, "wb", buffering=0) as file:
            while size_bytes and not watch.is_over:
                written = file.write(pattern[: min(size_bytes, PIECE_BYTES)])
                size_bytes -= written
                watch.lap(written)
                await breather.give()
            os.fsync(file.fileno())

    async def read_whole(self, path: str, watch: Stopwatch) -> None:
        buffer, breather = bytearray(PIECE_BYTES), Breather()
        with open(self._directory / path, "rb", buffering=0) as file:
            while not watch.is_over and (count := file.readinto(buffer)):
                watch.lap(count)
                await breather.give()

    async def open(self, path: str, mode: str) -> PosixHandle:
        return PosixHandle(os.open(self._directory / path, _FLAGS[mode], 0o600))

    async def forget(self, path: str) -> None:
        fd = os.open(self._directory / path, os.O_RDWR)
        try:
            os.fsync(fd)  # dirty pages are not given up
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)

    async def stat(self, path: str) -> None:
        os.stat(self._directory / path)

    async def list(self, path: str) -> int:
        count = 0
        with os.scandir(self._directory / path) as entries:
            for entry in entries:
                entry.stat(follow_symlinks=False)
                count += 1
        return count

    async def mkdir(self, path: str) -> None:
        os.mkdir(self._directory / path, 0o700)

    async def rename(self, old: str, new: str) -> None:
        os.rename(self._directory / old, self._directory / new)

    async def unlink(self, path: str) -> None:
        os.unlink(self._directory / path)


@asynccontextmanager
async def open_posix_target(parent: Path, name: str, needed_bytes: int) -> AsyncIterator[PosixTarget]:
    """A new directory in `parent`; on leaving it is gone, whatever happened.

    Raises `NotFound`, `NotADirectory`, `NoSpace`, `NotPermitted`.
    """
    directory = _checked(parent, needed_bytes) / name
    try:
        directory.mkdir(0o700)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise errors.NotPermitted(
            f"a benchmark writes, and {_shown(parent)} does not take that ({why}): name a directory that does"
        ) from None
    try:
        yield PosixTarget(directory)
    finally:
        try:
            shutil.rmtree(directory)
        except OSError as error:
            complain(f"{_shown(directory)} is left ({error.strerror}): remove it with rm -r")


def _checked(parent: Path, needed_bytes: int) -> Path:
    if not parent.exists():
        raise errors.NotFound(f"there is no {_shown(parent)}: name a directory of a mount, or none to use the API")
    if not parent.is_dir():
        raise errors.NotADirectory(f"not a directory, which a benchmark needs: {_shown(parent)}")
    found = os.statvfs(parent)
    free_bytes = found.f_bavail * found.f_frsize
    if free_bytes < needed_bytes:
        raise errors.NoSpace(
            f"this would write {show.human(needed_bytes)}, and {_shown(parent)} has room for"
            f" {show.human(free_bytes)}: give a smaller --size, or another directory"
        )
    return parent


def _shown(path: Path) -> str:
    return show.escaped(os.fsencode(path))
