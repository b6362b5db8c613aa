"""An open file: reads and writes at offsets, coherent with every other client.

A write is in the file, for everybody, when it returns (`pwrite` commits); `fsync` makes the file durable, whoever wrote
it. The handle holds its inode: the file stays readable and writable though its name goes. Should the session end, so
does that: a file that was removed is then gone, which is told as `SessionExpired`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress
from typing import Any

import trio

from dfs import errors, limits
from dfs.checksum import Buffer
from dfs.client.filewriter import FileWriter
from dfs.client.inodes import Inodes
from dfs.client.reader import Reader
from dfs.types import Attr, Ino


class File:
    """Made by `FileSystem.open`. Methods may be called concurrently; writes take effect one after another."""

    def __init__(
        self,
        inodes: Inodes,
        reader: Reader,
        writer: FileWriter,
        *,
        readable: bool,
        writable: bool,
        append: bool,
    ) -> None:
        self.ino: Ino = writer.ino
        self.readable = readable
        self.writable = writable
        self.append = append
        self.closed = False
        self._inodes = inodes
        self._reader = reader
        self._writer = writer
        self._writing = trio.Lock()
        self._held_by = inodes.session.session

    def _held(self) -> AbstractContextManager[None]:
        return self._inodes.session.held_by(self._held_by)

    def _check(self, allowed: bool, what: str) -> None:
        if self.closed:
            raise ValueError("the file is closed")
        if not allowed:
            raise errors.NotPermitted(f"the file is not open for {what}")

    async def pread_into(self, view: memoryview, offset: int) -> int:
        """Fill `view` with bytes at `offset`; how many there were before the end of file."""
        self._check(self.readable, "reading")
        with self._held():
            return await self._reader.read_into(self.ino, offset, view)

    async def pread(self, length: int, offset: int) -> bytes:
        buffer = bytearray(length)
        return bytes(buffer[: await self.pread_into(memoryview(buffer), offset)])

    async def pwrite(self, data: Buffer, offset: int) -> Attr | None:
        """Write all of `data` at `offset` (at the end of file, atomically, if the file was opened to append).

        Returns the attributes after it, None for empty data.
        """
        self._check(self.writable, "writing")
        async with self._writing:
            try:
                with self._held():
                    await self._writer.write(0 if self.append else offset, data)
                    return await self._writer.commit(append=self.append)
            except BaseException:
                with trio.move_on_after(limits.CALL_TIMEOUT_S, shield=True):
                    await self._writer.discard()  # or the next commit would bring these bytes back
                raise

    async def write_behind(self, pieces: trio.MemoryReceiveChannel[tuple[int, bytes]]) -> None:
        """Write what comes (offset, at most APPEND_SURE_BYTES) until its end, several appends at a time.

        It is in the file, for everybody, on return; none of it waits longer than WRITE_BACK_AFTER_S for that to begin.
        After an error what was not committed yet is given up.
        """
        self._check(self.writable and not self.append, "writing at offsets")
        async with self._writing:
            try:
                with self._held():
                    async for first in pieces:
                        await self._write_some(first, pieces)
                        await self._writer.commit()
            except BaseException:
                with trio.move_on_after(limits.CALL_TIMEOUT_S, shield=True):
                    await self._writer.discard()
                raise

    async def _write_some(self, first: tuple[int, bytes], pieces: trio.MemoryReceiveChannel[tuple[int, bytes]]) -> None:
        """Write what comes from `first` on, as long as it may wait to be committed."""
        deadline = trio.current_time() + limits.WRITE_BACK_AFTER_S
        group, length = [first], len(first[1])
        async with self._writer.window(self._writer.commit) as window:
            while True:
                piece = None
                with trio.move_on_at(deadline), suppress(trio.EndOfChannel):
                    piece = await pieces.receive()
                if piece is None or length + len(piece[1]) > self._writer.append_bytes:
                    await window.room()
                    window.write(group)
                    group, length = [], 0
                if piece is None:
                    return
                group.append(piece)
                length += len(piece[1])

    async def truncate(self, size: int) -> Attr:
        self._check(self.writable, "writing")
        if not 0 <= size <= limits.FILE_SIZE_MAX_BYTES:
            raise errors.InvalidArgument(f"not a size for a file: {size}")
        with self._held():
            return await self._inodes.truncate(self.ino, size)

    async def stat(self) -> Attr:
        self._check(True, "anything")
        with self._held():
            return await self._inodes.getattr(self.ino)

    async def fsync(self) -> None:
        """Return when all bytes of the file, whoever wrote them, are on stable storage on their replicas."""
        self._check(True, "anything")
        async with self._writing:  # or it would commit a part of what is being written, at its own idea of where
            with self._held():
                await self._writer.fsync()

    async def aclose(self) -> None:
        """Let the inode go. What was written is committed already; close does not make it durable."""
        if not self.closed:
            self.closed = True
            with trio.move_on_after(self._inodes.session.wait_s):  # it is tried on after that
                await self._inodes.release(self.ino)

    async def __aenter__(self) -> File:
        return self

    async def __aexit__(self, *_: Any) -> None:
        with trio.move_on_after(limits.CALL_TIMEOUT_S, shield=True):
            await self.aclose()
