"""The local ends of a transfer: files, standard input and output. Each blocking call runs in a worker thread.

A call on a pipe or a terminal may never return, so its thread is left behind when the transfer is cancelled; a call
on a file is waited for.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from dfs import limits

_ZEROS = memoryview(bytes(limits.MIB))
_PIECES_MAX = 1024
"""Of a sparse file in one go: some milliseconds of a thread, where they are in memory."""


class FileSource:
    """Bytes of a local file, from its current position to its end. Errors name `path`."""

    def __init__(self, fd: int, path: bytes, *, may_block: bool = False) -> None:
        self._fd = fd
        self._path = path
        self._may_block = may_block

    async def readinto(self, view: memoryview) -> int:
        with _naming(self._path):
            return await trio.to_thread.run_sync(os.readv, self._fd, [view], abandon_on_cancel=self._may_block)


class SparseFileSource:
    """A regular file that takes less space than it is long: its holes are left out. Errors name `path`."""

    def __init__(self, fd: int, path: bytes) -> None:
        self._fd = fd
        self._path = path

    async def read_pieces(self, view: memoryview) -> list[tuple[int, int]]:
        with _naming(self._path):
            return await trio.to_thread.run_sync(_read_pieces, self._fd, view)


@contextmanager
def _naming(path: bytes) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        error.filename = path
        raise


def _read_pieces(fd: int, view: memoryview) -> list[tuple[int, int]]:
    """See `SparseSource.read_pieces`; from the file's position on, which moves behind what was read."""
    pieces: list[tuple[int, int]] = []
    position, filled = os.lseek(fd, 0, os.SEEK_CUR), 0
    while filled < len(view) and len(pieces) < _PIECES_MAX:
        start, end = _next_data(fd, position)
        length = os.preadv(fd, [view[filled : filled + end - start]], start)
        if start + length == position:
            break
        pieces.append((start - position, length))
        position, filled = start + length, filled + length
    os.lseek(fd, position, os.SEEK_SET)
    return pieces


def _next_data(fd: int, position: int) -> tuple[int, int]:
    """Where bytes are next, and where these end; the end of the file twice where there are none."""
    try:
        start = os.lseek(fd, position, os.SEEK_DATA)
        return start, os.lseek(fd, start, os.SEEK_HOLE)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        end = max(position, os.fstat(fd).st_size)
        return end, end


def standard_input() -> FileSource:
    return FileSource(sys.stdin.fileno(), b"standard input", may_block=True)


class FileSink:
    """A local file, written from its beginning. Holes are left out; `length` is what it must be cut to at the end."""

    leaves_holes = True

    def __init__(self, fd: int, path: bytes) -> None:
        self._fd = fd
        self._path = path
        self.length = 0

    async def write(self, view: memoryview) -> None:
        with _naming(self._path):
            await trio.to_thread.run_sync(_write_at, self._fd, view, self.length)
        self.length += len(view)

    async def skip(self, length: int) -> None:
        self.length += length


def _write_at(fd: int, view: memoryview, offset: int) -> None:
    written = 0
    while written < len(view):
        written += os.pwrite(fd, view[written:], offset + written)


class StreamSink:
    """A pipe, a terminal or a device: holes are written as zeros. Errors name `path`."""

    leaves_holes = False

    def __init__(self, fd: int, path: bytes) -> None:
        self._fd = fd
        self._path = path

    async def write(self, view: memoryview) -> None:
        with _naming(self._path):
            await trio.to_thread.run_sync(_write_all, self._fd, view, abandon_on_cancel=True)

    async def skip(self, length: int) -> None:
        while length:
            count = min(length, len(_ZEROS))
            await self.write(_ZEROS[:count])
            length -= count


def _write_all(fd: int, view: memoryview) -> None:
    written = 0
    while written < len(view):
        written += os.write(fd, view[written:])


def standard_output() -> StreamSink:
    """What was printed before goes first."""
    sys.stdout.flush()
    return StreamSink(sys.stdout.fileno(), b"standard output")
