"""Open files of one client as a mount needs them: write-back, read-ahead, one state for each inode.

**Writing.** `write` puts bytes into memory (`DirtyRanges`) and returns. They leave in full appends when there are
WRITE_BACK_AT_BYTES of them, or all after WRITE_BACK_AFTER_S, by `flush` (what close does), `fsync`, or because all open
files together reach DIRTY_MAX_BYTES; then writers wait. Leaving means: appended to chunks, then committed, with the
time of the last write as the file's. Whoever asks for attributes, or reads where bytes are dirty, has them
committed first, so what was seen once never changes afterwards. A write to a handle that appends is committed
at once: only the NameNode knows where the end of file is for everybody.

**Reading.** What is read in order is fetched a READ_AHEAD_BYTES segment at a time, up to READ_AHEAD_MAX segments ahead.
Segments and extents are kept only as long as the inode's version does not change: every attribute that comes by
(`note`) is compared, and the kernel asks for attributes before each read.

**Errors.** What could not be written is lost, said in the log with the file's name, and raised once by the next `flush`
or `fsync`, as a disk's late errors are.

Invariants: of each inode there is at most one `OpenInode`; `_flushing` is held by whoever moves bytes from `_dirty` to
the writer, so they leave in the order in which they were written; `_clean` is true only when nothing is dirty, on its
way or uncommitted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog
import trio

from dfs import errors, limits
from dfs.checksum import Buffer
from dfs.client.dirty import DirtyRanges
from dfs.client.filesystem import FileSystem
from dfs.client.reader import Layout
from dfs.types import Attr, Ino

log = structlog.get_logger(__name__)

_SEGMENTS_KEPT = 2 * limits.READ_AHEAD_MAX
"""Of one inode: those ahead of its reader, and as many behind."""
_NEAR_BYTES = 512 * limits.KIB
"""The kernel's own read-ahead asks a little out of order: this far from a stream's end still continues it."""


class _Segment:
    """READ_AHEAD_BYTES of a file, or fewer at its end, on their way. `done` is set when `view` or `error` is there."""

    __slots__ = ("done", "error", "view")

    def __init__(self) -> None:
        self.view = memoryview(b"")
        self.error: errors.DfsError | None = None
        self.done = trio.Event()


class OpenInode:
    """A regular file that this client has open, `users` times. Get it from `OpenInodes.open`.

    `attr` is the newest that was seen.
    """

    def __init__(self, owner: OpenInodes, attr: Attr, name: str) -> None:
        self.ino = attr.ino
        self.attr = attr
        self.name = name
        self.users = 0
        self._owner = owner
        self._writer = owner.fs.writer(attr)
        self._dirty = DirtyRanges()
        self._flushing = trio.Lock()
        self._draining = False
        self._dirty_since = float("inf")
        self._written_ns = 0
        self._error: errors.DfsError | None = None
        self._layout: tuple[int, Layout] | None = None
        self._segments: OrderedDict[int, _Segment] = OrderedDict()
        self._streams: list[int] = []

    @property
    def _clean(self) -> bool:
        return not self._dirty and not self._flushing.locked() and not self._writer.uncommitted_bytes

    def note(self, attr: Attr) -> None:
        """These attributes came by: what was read of another version is forgotten."""
        if attr.version < self.attr.version:
            return
        if attr.version != self.attr.version:
            self._layout = None
            self._forget_segments()
        self.attr = attr

    # --- writing ----------------------------------------------------------------------------------------

    async def write(self, offset: int, data: Buffer) -> None:
        """Take `data` as the file's bytes at `offset`. Waits while too much is dirty."""
        if offset + len(data) > limits.FILE_SIZE_MAX_BYTES:
            raise errors.FileTooLarge(f"a file cannot be larger than {limits.FILE_SIZE_MAX_BYTES} bytes")
        await self._owner.wait_for_room()
        if not self._dirty:
            self._dirty_since = trio.current_time()
        before = self._dirty.length_bytes
        self._dirty.write(offset, data)
        self._written_ns = self._owner.now_ns()
        self._owner.count_dirty(self._dirty.length_bytes - before)
        if self._dirty.length_bytes >= limits.WRITE_BACK_AT_BYTES:
            self.begin_to_drain()

    async def append(self, data: Buffer) -> None:
        """Put `data` at the end of file, as it is for everybody at this moment, in one piece."""
        async with self._flushing:
            await self._push_and_commit(durable=False)
            for start in range(0, len(data), limits.APPEND_MAX_BYTES):
                await self._writer.write_pieces([(start, memoryview(data)[start : start + limits.APPEND_MAX_BYTES])])
            self._written_ns = self._owner.now_ns()
            await self._commit(durable=False, append=True)

    def begin_to_drain(self) -> None:
        """Have what is dirty leave, unless it does so already."""
        if self._dirty and not self._draining:
            self._draining = True
            self._owner.start(self._drain)

    async def _drain(self) -> None:
        """Move what is dirty to the DataNodes, and commit it where there is much."""
        try:
            async with self._flushing:
                await self._push()
                if self._writer.uncommitted_bytes >= limits.CHUNK_MAX_BYTES:
                    await self._commit(durable=False)
        except errors.DfsError as error:
            self._give_up(error)
        finally:
            self._draining = False

    async def _push(self) -> None:
        while self._dirty:
            pieces = self._dirty.take(limits.APPEND_MAX_BYTES)
            try:
                await self._writer.write_pieces(pieces)
            finally:
                self._owner.count_dirty(-sum(len(data) for _, data in pieces))

    async def _commit(self, *, durable: bool, append: bool = False) -> None:
        mtime_ns = self._written_ns or None
        if durable:
            attr: Attr | None = await self._writer.fsync(mtime_ns=mtime_ns)
        else:
            attr = await self._writer.commit(append=append, mtime_ns=mtime_ns)
        if attr is not None:
            self.note(attr)

    async def _push_and_commit(self, *, durable: bool) -> None:
        try:
            await self._push()
            await self._commit(durable=durable)
        except errors.DfsError:
            await self._lose()
            raise

    async def _lose(self) -> None:
        """What is on its way cannot be written."""
        self._owner.count_dirty(-self._dirty.length_bytes)
        self._dirty = DirtyRanges()
        try:
            await self._writer.discard()
        except errors.DfsError as error:
            log.info("space of lost bytes comes back with the session's end", ino=self.ino, error=str(error))

    def _give_up(self, error: errors.DfsError) -> None:
        log.error("written bytes are lost", file=self.name, ino=self.ino, error=str(error))
        self._error = error

    async def write_back(self) -> None:
        """Commit what is dirty; what goes wrong is raised by the next `flush` or `fsync`."""
        try:
            await self._flush(durable=False)
        except errors.DfsError as error:
            self._give_up(error)

    async def settle(self) -> Attr:
        """Commit what is dirty, so that attributes and bytes are what everybody sees; the attributes."""
        if not self._clean:
            await self.write_back()
        return self.attr

    async def flush(self) -> None:
        """Commit what is dirty. Raises what went wrong now, or earlier and was not raised yet."""
        if not self._clean:
            await self._flush(durable=False)
        self._raise_late()

    async def fsync(self) -> None:
        """Return when all bytes that the file has are on stable storage on its replicas."""
        await self._flush(durable=True)
        self._raise_late()

    def _raise_late(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise type(error)(error.message)

    async def _flush(self, *, durable: bool) -> None:
        async with self._flushing:
            self._dirty_since = float("inf")
            await self._push_and_commit(durable=durable)

    async def truncate(self, size: int) -> Attr:
        """Set the size, after everything that was written before."""
        async with self._flushing:
            await self._push_and_commit(durable=False)
            attr = await self._owner.fs.inodes.truncate(self.ino, size)
            self.note(attr)
            return attr

    def is_due(self, now: float) -> bool:
        return self._dirty_since <= now - limits.WRITE_BACK_AFTER_S and bool(self._dirty)

    # --- reading ----------------------------------------------------------------------------------------

    async def read(self, offset: int, length: int) -> Buffer:
        """At most `length` bytes at `offset`; fewer at the end of file."""
        if not self._clean:
            await self.settle()
        count = min(length, self.attr.size - offset)
        if count <= 0:
            return b""
        size = limits.READ_AHEAD_BYTES
        if not self._continues_stream(offset, count):
            return await self._read_directly(offset, count)
        first, last = offset // size, (offset + count - 1) // size
        ahead = limits.READ_AHEAD_MAX if offset else 0
        version = self.attr.version
        pieces = []
        for number in range(first, last + 1):
            segment = self._segment(number)
            if number == last:
                self._fetch_ahead(last, ahead)
            await segment.done.wait()  # bounded: the reader gives up by its own deadlines
            if segment.error is not None:
                raise type(segment.error)(segment.error.message)
            pieces.append(segment.view[max(0, offset - number * size) : max(0, offset + count - number * size)])
        if self.attr.version != version:
            return await self.read(offset, length)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _read_directly(self, offset: int, count: int) -> Buffer:
        buffer = bytearray(count)
        await self._fill(offset, memoryview(buffer))
        return buffer

    async def _fill(self, offset: int, view: memoryview) -> None:
        """Fill `view`; what a file that became shorter has no more is zeros."""
        reader = self._owner.fs.reader
        start, layout = self._layout or (0, None)
        if layout is None or not start <= offset <= offset + len(view) <= layout.end:
            layout = await reader.layout(self.ino, offset, max(len(view), limits.LAYOUT_BYTES))
            if layout.attr.version == self.attr.version:
                self._layout = (offset, layout)
            if offset + len(view) > layout.end:
                await reader.read_into(self.ino, offset, view)
                return
        await reader.fill(self.ino, layout, offset, view)

    def _continues_stream(self, offset: int, count: int) -> bool:
        """Whether a read begins the file or goes on where another one ended; remembers where this one ends."""
        end = offset + count
        for index, stream in enumerate(self._streams):
            if abs(offset - stream) <= _NEAR_BYTES and offset + _NEAR_BYTES > stream:
                self._streams[index] = max(end, stream)
                return True
        self._streams = [*self._streams[1 - limits.STREAMS_MAX :], end]
        return offset == 0

    def _segment(self, number: int) -> _Segment:
        segment = self._segments.get(number)
        if segment is None or segment.error is not None:
            segment = self._segments[number] = _Segment()
            self._owner.count_read_ahead(limits.READ_AHEAD_BYTES)
            self._owner.start(self._fetch, number, segment)
        self._segments.move_to_end(number)
        while len(self._segments) > _SEGMENTS_KEPT:
            self._segments.popitem(last=False)
            self._owner.count_read_ahead(-limits.READ_AHEAD_BYTES)
        return segment

    def _fetch_ahead(self, number: int, count: int) -> None:
        for following in range(number + 1, number + 1 + count):
            if following * limits.READ_AHEAD_BYTES >= self.attr.size or not self._owner.may_read_ahead():
                return
            self._segment(following)

    async def _fetch(self, number: int, segment: _Segment) -> None:
        offset = number * limits.READ_AHEAD_BYTES
        view = memoryview(bytearray(max(0, min(limits.READ_AHEAD_BYTES, self.attr.size - offset))))
        try:
            await self._fill(offset, view)
            segment.view = view
        except errors.DfsError as error:
            segment.error = error
        finally:
            segment.done.set()

    def _forget_segments(self) -> None:
        self._owner.count_read_ahead(-limits.READ_AHEAD_BYTES * len(self._segments))
        self._segments.clear()
        self._streams.clear()

    def forget(self) -> None:
        """The last user is gone."""
        self._forget_segments()


class OpenInodes:
    """All open files of one client. Use `open_inodes`."""

    def __init__(self, fs: FileSystem, nursery: trio.Nursery) -> None:
        self.fs = fs
        self._nursery = nursery
        self._open: dict[Ino, OpenInode] = {}
        self._dirty_bytes = 0
        self._read_ahead_bytes = 0
        self._room = trio.Event()
        fs.on_new_session(self._hold_again)

    def now_ns(self) -> int:
        return self.fs.session.runtime.now_ns()

    def start(self, work: Callable[..., Any], *args: Any) -> None:
        self._nursery.start_soon(work, *args)

    # --- opening ----------------------------------------------------------------------------------------

    def open(self, attr: Attr, name: str) -> OpenInode:
        """One more user of a file that this session holds for it."""
        inode = self._open.get(attr.ino)
        if inode is None:
            inode = self._open[attr.ino] = OpenInode(self, attr, name)
        inode.note(attr)
        inode.users += 1
        return inode

    def close(self, inode: OpenInode) -> None:
        """One user less; its hold is released, after what is still dirty was committed."""
        self.start(self._close, inode)

    async def _close(self, inode: OpenInode) -> None:
        await inode.settle()
        inode.users -= 1
        if not inode.users:
            inode.forget()
            del self._open[inode.ino]
        try:
            await self.fs.inodes.release(inode.ino)
        except errors.DfsError as error:
            log.info("hold left to the session's end", ino=inode.ino, error=str(error))

    def find(self, ino: Ino) -> OpenInode | None:
        return self._open.get(ino)

    async def seen(self, attr: Attr) -> Attr:
        """Attributes that the NameNode gave, as this client is to show them: after what it has written itself."""
        inode = self._open.get(attr.ino)
        if inode is None:
            return attr
        inode.note(attr)
        return await inode.settle()

    def _hold_again(self) -> None:
        """The session was lost and another one is open: it holds what is open here."""
        for inode in self._open.values():
            for _ in range(inode.users):
                self.start(self._hold, inode)

    async def _hold(self, inode: OpenInode) -> None:
        try:
            inode.note(await self.fs.inodes.hold(inode.ino))
        except errors.DfsError as error:
            log.warning("open file not held any more", file=inode.name, ino=inode.ino, error=str(error))

    # --- bounds -----------------------------------------------------------------------------------------

    def count_dirty(self, change: int) -> None:
        self._dirty_bytes += change
        if self._dirty_bytes < limits.DIRTY_MAX_BYTES:
            self._room.set()
            self._room = trio.Event()

    async def wait_for_room(self) -> None:
        """Return when one more write may be taken."""
        while self._dirty_bytes >= limits.DIRTY_MAX_BYTES:
            room = self._room
            for inode in list(self._open.values()):
                inode.begin_to_drain()
            await room.wait()  # bounded: draining ends, with an error at worst

    def count_read_ahead(self, change: int) -> None:
        self._read_ahead_bytes += change

    def may_read_ahead(self) -> bool:
        return self._read_ahead_bytes < limits.READ_AHEAD_KEPT_MAX_BYTES

    # --- time -------------------------------------------------------------------------------------------

    async def write_back_when_due(self) -> None:
        """Commit what has been dirty for long. Runs until cancelled."""
        while True:
            await trio.sleep(limits.WRITE_BACK_AFTER_S / 4)
            now = trio.current_time()
            for inode in list(self._open.values()):
                if inode.is_due(now):
                    self.start(inode.write_back)

    async def settle_all(self) -> None:
        """Commit everything that is dirty: the last thing before the end."""
        async with trio.open_nursery() as nursery:
            for inode in list(self._open.values()):
                nursery.start_soon(inode.settle)

    def statistics(self) -> dict[str, int]:
        return {"open": len(self._open), "dirty_bytes": self._dirty_bytes, "read_ahead_bytes": self._read_ahead_bytes}


@asynccontextmanager
async def open_inodes(fs: FileSystem) -> AsyncIterator[OpenInodes]:
    """Open files over `fs`; on leaving, everything dirty is committed first."""
    async with trio.open_nursery() as nursery:
        inodes = OpenInodes(fs, nursery)
        nursery.start_soon(inodes.write_back_when_due)
        try:
            yield inodes
        finally:
            with trio.move_on_after(fs.session.wait_s, shield=True):
                await inodes.settle_all()
            nursery.cancel_scope.cancel()
