"""Files of the cluster as Python's `io` has them: a raw one, for whoever reads and writes, and buffers above it.

A buffered file **writes behind**: what its buffer gives out is written while the program goes on, several appends at a
time (`File.write_behind`), from the first full buffer until anything else is asked of the file. Then all of it is
waited for, and what went wrong is raised, once: by `flush`, `seek`, `read`, `truncate`, `fsync` or `close`, or by a
later `write`. Whatever interrupts that wait, it is for the next of these to end it.

Invariants: `_behind` is there from before its first piece is taken until what became of all of them is known. Whoever
looks at it, or moves the position, holds `_lock`, as a buffer's lock does not cover what is asked of the raw file.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
import trio

from dfs import errors, limits
from dfs.client.file import File
from dfs.client.loopthread import Ending, LoopThread
from dfs.posix import check_file_size
from dfs.types import Attr

log = structlog.get_logger(__name__)

BUFFER_BYTES = 1 * limits.MIB


class _Behind:
    """Bytes of a file that are written after `take` has returned; `settle` says what became of them. Used once."""

    def __init__(self, loop: LoopThread, file: File) -> None:
        self._loop = loop
        self._file = file
        self._pieces, self._incoming = trio.open_memory_channel[tuple[int, bytes]](0)
        self._is_running = False
        self._done = Ending()
        self._error: Exception | None = ValueError("the connection to the cluster was closed before the file")

    def take(self, data: memoryview, offset: int) -> bool:
        """Have bytes written at `offset`, when there is room for them.

        False if it takes no more, as it has failed or a `settle` was interrupted: `settle` says which.
        """
        try:
            for start in range(0, len(data), BUFFER_BYTES):
                self._loop.call(self._take, offset + start, bytes(data[start : start + BUFFER_BYTES]))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        return True

    def settle(self) -> Exception | None:
        """Return when all is in the file, or will never be: what went wrong."""
        self._loop.call(self.end)
        self._done.wait()  # bounded as any write is
        return self._error

    # --- in the loop ------------------------------------------------------------------------------------

    async def _take(self, offset: int, piece: bytes) -> None:
        if not self._is_running:
            self._is_running = True
            self._loop.spawn(self._run)
        await self._pieces.send((offset, piece))

    async def _run(self) -> None:
        try:
            with self._incoming:
                await self._file.write_behind(self._incoming)
            self._error = None
        except Exception as error:  # noqa: BLE001 - whatever it is, it is for who writes
            self._error = error
        finally:
            self._done.set()

    async def end(self) -> None:
        """Nothing more comes."""
        await self._pieces.aclose()
        if not self._is_running:  # who began it was interrupted
            self._error = None
            self._done.set()


class RawFile(io.RawIOBase):
    """An unbuffered file. Made by `opened`. Its methods may be called by several threads."""

    def __init__(self, loop: LoopThread, file: File, name: str, mode: str, *, is_buffered: bool) -> None:
        super().__init__()
        self.is_buffered = is_buffered
        self._loop = loop
        self._file = file
        self._lock = threading.RLock()
        self._behind: _Behind | None = None
        self._position = 0
        self.name = name
        self.mode = mode
        if file.append:
            self.seek(0, os.SEEK_END)

    def readable(self) -> bool:
        return self._file.readable

    def writable(self) -> bool:
        return self._file.writable

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._file.readable:
            raise io.UnsupportedOperation("not readable")
        with self._settled():
            count = self._loop.call(self._file.pread_into, memoryview(buffer).cast("B"), self._position)
            self._position += count
        return count

    def write(self, data: Any) -> int:
        if not self._file.writable:
            raise io.UnsupportedOperation("not writable")
        view = memoryview(data).cast("B")
        with self._lock:
            if not self._file.append:
                check_file_size(self._position + len(view))
            if not self._file.append and (self._behind is not None or self._is_of_a_full_buffer(view)):
                self._write_behind(view)
                self._position += len(view)
            else:
                attr = self._loop.call(self._file.pwrite, view, self._position)
                self._position = attr.size if self._file.append and attr else self._position + len(view)
        return len(view)

    def _is_of_a_full_buffer(self, view: memoryview) -> bool:
        """A buffer gives out what it has when more does not fit: so it may lack something of its size."""
        return self.is_buffered and len(view) > BUFFER_BYTES // 2

    def _write_behind(self, view: memoryview) -> None:
        if self._behind is None:
            self._behind = _Behind(self._loop, self._file)
        if not self._behind.take(view, self._position):
            self._settle()
            self._loop.call(self._file.pwrite, view, self._position)

    @contextmanager
    def _settled(self) -> Iterator[None]:
        """Alone with the file, when all that was written is in it. Raises what went wrong."""
        with self._lock:
            self._settle()
            yield

    def _settle(self) -> None:
        """Return when all that was written is in the file. Raises what went wrong."""
        if self._behind is not None:
            error = self._behind.settle()
            self._behind = None
            if error is not None:
                raise error

    def flush(self) -> None:
        """Return when all that was written is visible to all clients. Raises what went wrong with it."""
        super().flush()
        if not self._loop.is_inside:
            with self._settled():
                pass

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with self._settled():
            base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}.get(whence)
            if whence == os.SEEK_END:
                base = self._loop.call(self._file.stat).size
            if base is None:
                raise ValueError(f"not a place to seek from: {whence}")
            if base + offset < 0:
                raise errors.InvalidArgument(f"cannot seek before the beginning of {self.name}")
            self._position = base + offset
            return self._position

    def tell(self) -> int:
        return self._position

    def truncate(self, size: int | None = None) -> int:
        with self._settled():
            size = self._position if size is None else size
            self._loop.call(self._file.truncate, size)
            return size

    def fsync(self) -> None:
        """Return when all that was written is on stable storage on the replicas."""
        with self._settled():
            self._loop.call(self._file.fsync)

    def stat(self) -> Attr:
        with self._settled():
            return self._loop.call(self._file.stat)

    def close(self) -> None:
        if not self.closed:
            try:
                super().close()
            finally:
                if self._loop.is_inside:  # the garbage collector closes it
                    self._loop.spawn(self._let_go)
                elif self._loop.is_ours:  # in another process it is not ours to close
                    self._loop.call(self._file.aclose)

    async def _let_go(self) -> None:
        """Raises nothing: there is nobody to hear of it."""
        try:
            if self._behind is not None:
                await self._behind.end()
            await self._file.aclose()
        except errors.DfsError as error:
            log.warning("a file that nobody closed could not be let go", ino=self._file.ino, error=str(error))


class _Flushing:
    """Of a buffer: its `flush` is that of the raw file too, and a raw file that it lets go does not write behind."""

    raw: RawFile

    def flush(self) -> None:
        super().flush()  # type: ignore[misc]
        self.raw.flush()

    def detach(self) -> RawFile:
        raw: RawFile = super().detach()  # type: ignore[misc]
        raw.is_buffered = False
        return raw


class _BufferedWriter(_Flushing, io.BufferedWriter):  # type: ignore[misc]
    pass


class _BufferedRandom(_Flushing, io.BufferedRandom):  # type: ignore[misc]
    pass


def opened(loop: LoopThread, file: File, name: str, mode: str, *, is_buffered: bool) -> RawFile | io.BufferedIOBase:
    """A binary file object for an open file, which it closes with itself."""
    raw = RawFile(loop, file, name, mode, is_buffered=is_buffered)
    if not is_buffered:
        return raw
    if raw.readable() and raw.writable():
        return _BufferedRandom(raw, BUFFER_BYTES)
    return _BufferedWriter(raw, BUFFER_BYTES) if raw.writable() else io.BufferedReader(raw, BUFFER_BYTES)
