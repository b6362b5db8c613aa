"""Open files of one client as a mount needs them: write-back, read-ahead, one state for each inode.

**Writing.** `write` puts bytes into memory (`DirtyRanges`) and returns. They leave in full appends when there are
WRITE_BACK_AT_BYTES of them, or all after WRITE_BACK_AFTER_S, by `fsync`, or because all open files together reach
DIRTY_MAX_BYTES; then writers wait. Leaving means: appended to chunks, then committed, with the time of the last write
as the file's. What small files have in memory leaves together, in one append.

Bytes may stay in memory because this client owns the inode (`nodes.namenode.leases`): whoever else asks for it has us
commit first (`_recall`). So closing commits nothing, attributes are shown as they will be (`shown`), and a file that
nobody has open any more lingers until its bytes have left. Where it cannot be owned, because others want it as well,
each write is committed before it returns; where there are no leases at all, closing commits, and asking for attributes.

After bytes could not be written, closing commits for a while (`is_cautious`), so that programs hear of a full disk. Two
things are committed early in any case, since programs count on them when a machine fails: a file that is closed after
it was cut to nothing, and one that is renamed onto another.

What is in memory when the session ends is lost (`_lost`): by then others may have changed the file, and what comes
later would undo that. Whatever was on its way is not committed in another session (`_generation`).

**Reading.** What is read in order (`streams`) is fetched a READ_AHEAD_BYTES segment at a time, up to READ_AHEAD_MAX
segments ahead. Segments and extents (`layouts`) are kept only as long as the inode's version does not change: every
attribute that comes by (`note`) is compared, and the kernel asks for attributes before each read.

**Errors.** What could not be written is lost, said in the log with the file's name, and counted (`late_errors`): each
handle that was open then is to hear of it once, by its next close or fsync, as of a disk's late errors.

**Holding.** What is open must outlive its last name. Where the inode is leased that needs no word with the NameNode:
before anybody removes the name the lease is recalled, and before that is answered the inode is held (`_recall`); what
is not leased is held when it is opened. One hold serves all users of an inode.

Invariants: of each inode there is at most one `OpenInode`; `_flushing` is held by whoever moves bytes from `_dirty` to
the writer, so they leave in the order in which they were written; `is_clean` is true only when nothing is dirty, on its
way or uncommitted; what is not clean and may be asked for by others is owned.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import structlog
import trio

from dfs import errors, limits
from dfs.checksum import Buffer
from dfs.client.cache import Absent
from dfs.client.cachedinodes import CachedInodes
from dfs.client.dirty import DirtyRanges
from dfs.client.filesystem import FileSystem
from dfs.client.filewriter import Begun
from dfs.client.layouts import Layouts
from dfs.client.smallfiles import SmallFiles
from dfs.client.streams import Streams
from dfs.client.writer import Lane
from dfs.types import Attr, Ino, Item

log = structlog.get_logger(__name__)

_SEGMENTS_KEPT = 2 * limits.READ_AHEAD_MAX
"""Of one inode: those ahead of its reader, and as many behind."""
_CREATE_ATTEMPTS = 4


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
        self.holds = 0
        """How often this session holds the inode."""
        self._owner = owner
        self._writer = owner.fs.writer(attr)
        self._dirty = DirtyRanges()
        self._flushing = trio.Lock()
        self._draining = False
        self._stirred = trio.Event()
        """There is more to leave, or something has left."""
        self._dirty_since = float("inf")
        self._written_ns = 0
        self._end = 0
        """How far what was written reaches that is not committed."""
        self._passing = 0
        """How many writes are under way of which each commits before it returns."""
        self._was_cut = False
        self.is_promised = False
        """Whether bytes that nobody else has seen were taken, and their writer told so, while the file was owned."""
        self._generation = 0
        """Which of the owner's sessions it was when what is on its way left memory."""
        self.late_errors = 0
        """How often bytes were lost after the call that wrote them had returned."""
        self.late_error: errors.DfsError | None = None
        """Why, the last time."""
        self._layouts = Layouts()
        self._segments: OrderedDict[int, _Segment] = OrderedDict()
        self._streams = Streams()

    @property
    def is_clean(self) -> bool:
        return not self._dirty and not self._flushing.locked() and not self._writer.uncommitted_bytes

    def note(self, attr: Attr) -> None:
        """These attributes came by: what was read of another version is forgotten."""
        if (attr.version, attr.ctime_ns) < (self.attr.version, self.attr.ctime_ns):  # what is set in a row is a version
            return
        if attr.version != self.attr.version:
            self._forget_read()
        self.attr = attr

    def _forget_read(self) -> None:
        self._layouts.forget()
        self._forget_segments()

    # --- writing ----------------------------------------------------------------------------------------

    @property
    def is_owned(self) -> bool:
        """Whether it is, and then `attr` is what it is: it may have come to be owned with its directory."""
        attr = self._owner.fs.inodes.owned_attr(self.ino)
        if attr is None:
            return False
        self.note(attr)
        return True

    async def _own(self) -> bool:
        """Have the inode owned. False where it cannot be had."""
        if not self.is_owned:
            attr = await self._owner.fs.inodes.own(self.ino)
            if attr is None:
                return False
            self.note(attr)
        if self._passing:  # others may have cut the file since that was taken: where it ends nobody here knows
            await self.write_back()
            return self.is_owned
        return True

    async def write(self, offset: int, data: Buffer) -> None:
        """Take `data` as the file's bytes at `offset`. Waits while too much is dirty."""
        if offset + len(data) > limits.FILE_SIZE_MAX_BYTES:
            raise errors.FileTooLarge(f"a file cannot be larger than {limits.FILE_SIZE_MAX_BYTES} bytes")
        await self._owner.wait_for_room()
        is_owned = await self._own()
        self.is_promised |= is_owned
        self._take(offset, data)
        if not is_owned and self._owner.is_coherent:
            self._passing += 1
            try:
                await self._flush(durable=False)
            finally:
                self._passing -= 1

    def _take(self, offset: int, data: Buffer) -> None:
        if self.is_clean:
            self._end = 0
        self._dirty_since = min(self._dirty_since, trio.current_time())
        before = self._dirty.length_bytes
        self._dirty.write(offset, data)
        self._end = max(self._end, offset + len(data))
        self._written_ns = self._owner.now_ns()
        self._owner.count_dirty(self._dirty.length_bytes - before)
        if self._dirty.length_bytes >= limits.WRITE_BACK_AT_BYTES:
            self._stirred.set()
            self.begin_to_drain()

    async def append(self, data: Buffer) -> None:
        """Put `data` at the end of file, as it is for everybody at this moment, in one piece."""
        await self._owner.wait_for_room()
        if await self._own():
            self.is_promised = True
            self._take(self._size, data)
            return
        async with self._move():
            await self._push_and_commit(durable=False)
            try:
                for start in range(0, len(data), limits.APPEND_MAX_BYTES):
                    piece = memoryview(data)[start : start + limits.APPEND_MAX_BYTES]
                    await self._writer.write_pieces([(start, piece)])
                self._written_ns = self._owner.now_ns()
                await self._commit(durable=False, append=True)
            except errors.DfsError:
                await self._lose()  # or what follows would put it at the beginning
                raise

    @property
    def _size(self) -> int:
        """Of a file that is owned, with what is written here."""
        return self.attr.size if self.is_clean else max(self.attr.size, self._end)

    def shown(self) -> Attr:
        """The attributes of a file that is owned, as they will be when what is dirty is committed."""
        attr = self.attr
        if self.is_clean:
            return attr
        size = self._size
        more = min(size - attr.size, self._dirty.length_bytes + self._writer.uncommitted_bytes)
        ctime_ns = max(attr.ctime_ns, self._written_ns)
        return attr._replace(size=size, allocated=attr.allocated + more, mtime_ns=self._written_ns, ctime_ns=ctime_ns)

    def expect_mtime(self, mtime_ns: int) -> int:
        """What is dirty is to be committed with this time, which is being set; what it was to be."""
        before, self._written_ns = self._written_ns, mtime_ns
        return before

    @property
    def is_simple(self) -> bool:
        """Whether `shown` can tell: nothing is on its way, and writing clears no bits of the mode."""
        return not self._flushing.locked() and not self.attr.mode & (stat.S_ISUID | stat.S_ISGID)

    @asynccontextmanager
    async def _move(self) -> AsyncIterator[None]:
        """Alone move bytes out of memory, all in one session."""
        async with self._flushing:
            self._generation = self._owner.generation
            yield

    def _check_session(self) -> None:
        """Raises `SessionExpired`."""
        if self._generation != self._owner.generation:
            raise errors.SessionExpired("the session ended before what was written to the file was committed")

    def forget_session(self, *, is_lost: bool) -> None:
        """The session has ended, and with it the right to what is in memory; `is_lost`: and other changes of it.

        What was known of its version may be true of another one, that somebody else has made in place of ours.
        """
        is_lost |= not self.is_clean
        self._forget_dirty()
        self._writer.forget()
        self._forget_read()
        self.attr = self.attr._replace(version=0)  # so that whatever comes by is newer
        if is_lost:
            error = errors.SessionExpired("the session ended before what was written to the file was committed")
            self._owner.be_cautious()
            self._note_loss(error)

    def _forget_dirty(self) -> None:
        self._owner.count_dirty(-self._dirty.length_bytes)
        self._dirty = DirtyRanges()
        self._dirty_since = float("inf")
        self.is_promised = False

    def note_gone(self, attr: Attr, *, is_private: bool) -> None:
        """It has lost a name. What was written to a file that has none, and that nobody has open, need not leave."""
        self.note(attr)
        if not attr.nlink and not self.users and is_private:
            self._forget_dirty()

    def begin_to_drain(self) -> None:
        """Have what is dirty leave, unless it does so already."""
        if self._dirty and not self._draining:
            self._draining = True
            self._owner.start(self._drain)

    async def _drain(self) -> None:
        """Move what fills appends to the DataNodes, or all where there is no room for more; commit it if it is much."""
        try:
            async with self._move():
                while self._dirty.length_bytes >= self._writer.append_bytes or (self._owner.is_full and self._dirty):
                    await self._push_full()
                    if self._owner.is_full:
                        await self._push()
                    self._check_session()
                    if self._writer.uncommitted_bytes >= limits.COMMIT_EVERY_BYTES:
                        await self._commit(durable=False)
        except errors.DfsError as error:
            self._give_up(error)
        finally:
            self._draining = False

    async def _push_full(self) -> None:
        """Move what fills appends, several at a time, as long as there is so much or it comes while others leave."""
        if self._dirty.length_bytes < self._writer.append_bytes:
            return
        async with self._writer.window(partial(self._commit, durable=False)) as window:
            while True:
                await window.room()
                self._check_session()
                self._stirred = trio.Event()
                if self._dirty.length_bytes >= self._writer.append_bytes:
                    pieces = self._dirty.take(self._writer.append_bytes)
                    size_bytes = sum(len(data) for _, data in pieces)
                    window.write(pieces, partial(self._has_gone, size_bytes))
                elif window:
                    await self._stirred.wait()
                else:
                    return

    def _has_gone(self, size_bytes: int) -> None:
        self._owner.count_dirty(-size_bytes)
        self._stirred.set()

    async def _push(self, *, durable: bool = False) -> None:
        while self._dirty.length_bytes > self._writer.append_bytes:
            await self._push_full()
        while self._dirty:
            self._check_session()
            pieces = self._dirty.take(self._writer.append_bytes)
            try:
                await self._writer.write_pieces(pieces, durably=durable and not self._dirty)
            finally:
                self._owner.count_dirty(-sum(len(data) for _, data in pieces))

    async def _commit(self, *, durable: bool, append: bool = False) -> None:
        self._check_session()
        mtime_ns = self._written_ns or None
        if durable:
            attr: Attr | None = await self._writer.fsync(mtime_ns=mtime_ns)
        else:
            attr = await self._writer.commit(append=append, mtime_ns=mtime_ns)
        if attr is not None:
            self.note_own(attr)

    def note_own(self, attr: Attr) -> None:
        """The attributes after a change of ours."""
        self.note(attr)
        self._owner.on_own_change(attr)

    async def _push_and_commit(self, *, durable: bool) -> None:
        try:
            await self._push(durable=durable)
            await self._commit(durable=durable)
            self.is_promised = bool(self._dirty)
        except errors.DfsError as error:
            await self.fail(error)
            raise

    async def _lose(self) -> None:
        """What is on its way cannot be written, nor what is dirty, unless that was written in a later session."""
        if self._generation == self._owner.generation:
            self._forget_dirty()
        try:
            await self._writer.discard()
        except errors.DfsError as error:
            log.info("space of lost bytes comes back with the session's end", ino=self.ino, error=str(error))

    def _give_up(self, error: errors.DfsError) -> None:
        """Bytes are lost: whoever has the file open hears of it."""
        self._owner.be_cautious()
        if isinstance(error, errors.NotFound) and not self.users:
            return  # it was removed
        if isinstance(error, errors.SessionExpired) and self._generation != self._owner.generation:
            return  # that was said when it ended
        self._note_loss(error)

    def _note_loss(self, error: errors.DfsError) -> None:
        log.error("written bytes are lost", file=self.name, ino=self.ino, error=str(error))
        self.late_errors += 1
        self.late_error = error

    async def write_back(self) -> None:
        """Commit what is dirty; what goes wrong is a late error."""
        with contextlib.suppress(errors.DfsError):  # which is noted
            await self._flush(durable=False)

    async def settle(self) -> Attr:
        """Commit what is dirty, so that attributes and bytes are what everybody sees; the attributes."""
        if not self.is_clean:
            await self.write_back()
        return self.attr

    async def flush(self) -> None:
        """What closing does: commit what is dirty, unless that can wait. Raises what goes wrong."""
        can_wait = self.is_owned and not self._was_cut and not self._owner.is_cautious
        if not self.is_clean and not can_wait:
            await self._flush(durable=False)
            self._was_cut = False

    async def fsync(self) -> None:
        """Return when all bytes that the file has are on stable storage on its replicas, and so are its names."""
        await self._flush(durable=True)

    async def _flush(self, *, durable: bool) -> None:
        async with self._move():
            self._dirty_since = float("inf")
            await self._push_and_commit(durable=durable)

    async def truncate(self, size: int) -> Attr:
        """Set the size, after everything that was written before."""
        await self._own()
        async with self._move():
            await self._push_and_commit(durable=False)
            attr = await self._owner.fs.inodes.truncate(self.ino, size)
            self._was_cut |= self.attr.size > size == 0
            self._end = self._dirty.end  # of what was written meanwhile
            self.note_own(attr)
            return attr

    def is_due(self, now: float) -> bool:
        return self._dirty_since <= now - limits.WRITE_BACK_AFTER_S and bool(
            self._dirty or self._writer.uncommitted_bytes
        )

    # --- together with others ---------------------------------------------------------------------------

    @property
    def is_small(self) -> bool:
        """Whether what is dirty may leave with that of other files."""
        return (
            0 < self._dirty.length_bytes <= limits.SMALL_WRITE_MAX_BYTES
            and not self._flushing.locked()
            and not self._writer.uncommitted_bytes
        )

    def begin_to_leave(self) -> list[tuple[int, Buffer]]:
        """The pieces that are dirty, of a file that `is_small`; nothing else of it moves until `has_left`."""
        self._flushing.acquire_nowait()
        self._generation = self._owner.generation
        self._dirty_since = float("inf")
        return self._dirty.take(limits.APPEND_MAX_BYTES)

    def has_left(self, pieces: Sequence[tuple[int, Buffer]]) -> None:
        """What is done with the pieces of `begin_to_leave` is done."""
        self._owner.count_dirty(-sum(len(data) for _, data in pieces))
        self._flushing.release()

    def begin_commit(self, pieces: Sequence[tuple[int, Buffer]], lane: Lane, position: int) -> Begun | None:
        """The pieces of `begin_to_leave` are in `lane` one after the other from `position`: have them made the file's.

        None where that takes more than a command.
        """
        self._writer.adopt([(offset, len(data)) for offset, data in pieces], lane, position)
        if self._generation != self._owner.generation:
            return None
        return self._writer.begin_commit(self._written_ns or None)

    async def end_commit(self, begun: Begun) -> bool:
        """Return when what `begin_commit` has begun is done, or could not be; False if `commit_rest` is to do it."""
        try:
            attr = await self._writer.end_commit(begun)
            if attr is None:
                return False
            self.note_own(attr)
            self.is_promised = bool(self._dirty)
        except errors.DfsError as error:
            await self.fail(error)
        return True

    async def commit_rest(self) -> None:
        """Commit what has left, whatever it takes."""
        try:
            await self._commit(durable=False)
            self.is_promised = bool(self._dirty)
        except errors.DfsError as error:
            await self.fail(error)

    async def fail(self, error: errors.DfsError) -> None:
        """What is dirty or on its way is lost, and why."""
        await self._lose()
        self._give_up(error)

    # --- reading ----------------------------------------------------------------------------------------

    async def read(self, offset: int, length: int) -> Buffer:
        """At most `length` bytes at `offset`; fewer at the end of file."""
        if not self.is_clean:
            written = self._written(offset, length)
            if written is not None:
                return written
            await self.settle()
        await self._refresh()
        count = min(length, self.attr.size - offset)
        if count <= 0:
            return b""
        if self.attr.size <= limits.SMALL_FILE_MAX_BYTES and self._owner.small_files is not None:
            found = await self._owner.small_files.read(self.attr, offset, count)
            if found is not None:
                return found
        size = limits.READ_AHEAD_BYTES
        first, last = offset // size, (offset + count - 1) // size
        steps = self._streams.note(offset, count)
        is_there = all(number in self._segments for number in range(first, last + 1))
        if steps < limits.STREAM_SURE_AFTER and not is_there:
            return await self._read_directly(offset, count)
        ahead = min(steps, limits.READ_AHEAD_MAX) if offset else 0
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

    def _written(self, offset: int, length: int) -> bytes | None:
        """As `read`, of what was just written; None where more is read than that, or others may have written too."""
        if not self.is_owned:
            return None
        end = min(offset + length, max(self.attr.size, self._end))
        return self._dirty.read(offset, end) if offset < end else b""

    async def _refresh(self) -> None:
        """See the attributes as they are now: not every read of a kernel comes after a look at them."""
        attr = self._owner.fs.inodes.cached_attr(self.ino)
        if attr is None and self._owner.is_coherent:
            attr = await self._owner.fs.inodes.getattr(self.ino)
        if attr is not None:
            self.note(attr)

    async def _read_directly(self, offset: int, count: int) -> Buffer:
        buffer = bytearray(count)
        await self._fill(offset, memoryview(buffer))
        return buffer

    async def _fill(self, offset: int, view: memoryview) -> None:
        """Fill `view`; what a file that became shorter has no more is zeros."""
        reader = self._owner.fs.reader
        layout = self._layouts.find(offset, offset + len(view))
        if layout is None:
            start, length = self._layouts.stretch(offset, len(view))
            layout = await reader.layout(self.ino, start, length)
            if layout.attr.version == self.attr.version:
                self._layouts.keep(start, length, layout)
            if offset + len(view) > layout.end:
                await reader.read_into(self.ino, offset, view)
                return
        await reader.fill(self.ino, layout, offset, view)

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
        self._streams.forget()

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
        self._room: trio.Event | None = None
        """Set, and gone, when more may be written; there while somebody waits for that."""
        self._hurry = trio.Event()
        self._lingering: dict[Ino, None] = {}
        """Files that nobody has open, and that are not committed yet."""
        self.flush_on_close = False
        self._cautious_until = -math.inf
        self.on_own_change: Callable[[Attr], None] = lambda _: None
        """Called with the attributes of a file after a change of ours, which its readers here have seen already."""
        self.generation = 0
        """How many sessions have ended."""
        fs.session.owned = self._dirty_inos
        fs.session.on_lost = self._lost
        fs.session.held_besides.append(lambda: (list(self._unheld), ()))
        fs.on_new_session(self._hold_again)
        self._unheld: dict[Ino, OpenInode] = {}
        """Those of them that no hold keeps."""
        fs.recall_listeners.append(self._recall)
        if isinstance(fs.inodes, CachedInodes):
            fs.inodes.attach(self)
        cache = fs.session.cache
        self.small_files = None if cache is None else SmallFiles(cache, fs.inodes, fs.reader, self.start)

    def now_ns(self) -> int:
        return self.fs.session.runtime.now_ns()

    @property
    def is_coherent(self) -> bool:
        """Whether others see what is written here at once: there are leases to see to it."""
        return self.fs.session.caches

    @property
    def is_cautious(self) -> bool:
        """Whether closing a file has it committed, so that who wrote it hears if that fails."""
        return self.flush_on_close or trio.current_time() < self._cautious_until

    def be_cautious(self) -> None:
        """Something could not be written: the next may not be either, while the disks are full perhaps."""
        self._cautious_until = trio.current_time() + limits.CAUTIOUS_S

    def _lost(self, inos: Sequence[Ino]) -> None:
        """The session has ended, and what these were to become is lost."""
        if self.is_coherent:
            self.generation += 1
            lost = set(inos)
            for inode in list(self._open.values()):
                inode.forget_session(is_lost=inode.ino in lost)

    def _dirty_inos(self) -> list[Ino]:
        return [ino for ino, inode in self._open.items() if not inode.is_clean]

    def start(self, work: Callable[..., Any], *args: Any) -> None:
        """Run a task, unless this has ended: recalls are answered until the session has ended as well."""
        if not self._nursery.cancel_scope.cancel_called:
            self._nursery.start_soon(work, *args)

    # --- opening ----------------------------------------------------------------------------------------

    async def acquire(self, ino: Ino, name: str) -> OpenInode:
        """One more user of a file. Raises `NotFound`."""
        attr = await self.fs.inodes.getattr(ino)
        inode = self._open.get(ino)
        is_leased = self.fs.inodes.cached_attr(ino) is not None and attr.nlink
        if is_leased or (inode is not None and inode.holds):
            return self.open(attr, name, holds=0)
        return self.open(await self.fs.inodes.hold(ino), name, holds=1)

    async def create(self, parent: Ino, name: bytes, mode: int, uid: int, gid: int, *, exclusive: bool) -> OpenInode:
        """A new file of that name; unless `exclusive`, the one that is there will do. One more user of it."""
        inodes = self.fs.inodes
        hold = not self.fs.session.is_trusted
        for left in reversed(range(_CREATE_ATTEMPTS)):
            attr = await inodes.create(parent, name, mode, uid, gid, exclusive=exclusive, hold=hold)
            holds = int(hold)
            if not hold and inodes.cached_attr(attr.ino) is None:  # the lease that came with it is recalled already
                try:
                    attr, holds = await inodes.hold(attr.ino), 1
                except errors.NotFound:  # somebody has removed it, so it can be made again
                    if left:
                        continue
                    raise
            return self.open(attr, os.fsdecode(name), holds)
        raise AssertionError("the last attempt returns or raises")

    def open(self, attr: Attr, name: str, holds: int = 1) -> OpenInode:
        """One more user of a file that this session holds for it so often; not at all if it is held or leased."""
        inode = self._open.get(attr.ino)
        if inode is None:
            inode = self._open[attr.ino] = OpenInode(self, attr, name)
        inode.note(attr)
        self._lingering.pop(attr.ino, None)
        inode.users += 1
        inode.holds += holds
        self._count_holds(inode)
        return inode

    def _count_holds(self, inode: OpenInode) -> None:
        if inode.holds or not inode.users:
            self._unheld.pop(inode.ino, None)
        else:
            self._unheld[inode.ino] = inode

    def close(self, inode: OpenInode) -> None:
        """One user less; its hold is released, after what is still dirty was committed."""
        inode.users -= 1
        if inode.users:
            return
        self._count_holds(inode)
        if not inode.attr.nlink:
            inode.note_gone(inode.attr, is_private=self.fs.inodes.is_private(inode.ino))
        if inode.is_clean:
            self._drop(inode)
        elif not inode.is_owned:
            self.start(self._write_back, inode)
        else:
            self._lingering[inode.ino] = None
            if len(self._lingering) > limits.LINGERING_MAX:
                self._hurry.set()

    def _drop(self, inode: OpenInode) -> None:
        """Forget a file that nobody has open, if nothing of it is on its way; what holds it is released soon."""
        if inode.users or not inode.is_clean or self._open.get(inode.ino) is not inode:
            return
        inode.forget()
        del self._open[inode.ino]
        self._lingering.pop(inode.ino, None)
        self.count_dirty(0)
        for _ in range(inode.holds):
            self.start(self._release, inode.ino)

    async def _release(self, ino: Ino) -> None:
        try:
            await self.fs.inodes.release(ino)
        except errors.DfsError as error:
            log.info("hold left to the session's end", ino=ino, error=str(error))

    async def _recall(self, items: Sequence[Item]) -> None:
        """The NameNode takes leases back: what is dirty is committed, what is open and not held is held."""
        async with trio.open_nursery() as nursery:
            for ino, name in items:
                if name is None and ino in self._open:
                    nursery.start_soon(self._give_back, self._open[ino])

    async def _give_back(self, inode: OpenInode) -> None:
        """What was promised is committed. For what is under way besides nobody waits, as it may wait for others."""
        if inode.is_promised:
            await inode.write_back()
            self._drop(inode)
        await self.hold(inode.ino)

    # --- what the cache tells (dfs.client.owned.Users) --------------------------------------------------

    def is_open(self, ino: Ino) -> bool:
        inode = self._open.get(ino)
        return inode is not None and bool(inode.users)

    async def hold(self, ino: Ino) -> None:
        inode = self._unheld.get(ino)
        if inode is not None:
            await self._hold(inode)

    def take_hold(self, ino: Ino) -> bool:
        inode = self._unheld.get(ino)
        if inode is None:
            return False
        inode.holds += 1
        self._count_holds(inode)
        return True

    def gone(self, attr: Attr, *, is_private: bool) -> None:
        inode = self._open.get(attr.ino)
        if inode is not None:
            inode.note_gone(attr, is_private=is_private)

    def find(self, ino: Ino) -> OpenInode | None:
        return self._open.get(ino)

    async def seen(self, attr: Attr) -> Attr:
        """Attributes that the NameNode gave, as this client is to show them: after what it has written itself."""
        inode = self._open.get(attr.ino)
        if inode is None:
            return attr
        inode.note(attr)
        if inode.is_clean or (inode.is_owned and inode.is_simple):
            return inode.shown()
        return await inode.settle()

    async def settle_before_replacing(self, parent: Ino, name: bytes, new_parent: Ino, new_name: bytes) -> None:
        """A rename is to follow: what was written to the file must not be lost where its target was."""
        inodes = self.fs.inodes
        if not self._dirty_bytes or not isinstance(inodes, CachedInodes):
            return
        found, target = inodes.cached_lookup(parent, name), inodes.cached_lookup(new_parent, new_name)
        inode = self._open.get(found.ino) if isinstance(found, Attr) else None
        if inode is not None and not isinstance(target, Absent):
            await inode.settle()

    def _hold_again(self) -> None:
        """The session was lost and another one is open: it holds what is open here."""
        for inode in self._open.values():
            inode.holds = 0
            self._count_holds(inode)
            self.start(self._hold, inode)

    async def _hold(self, inode: OpenInode) -> None:
        try:
            attr = await self.fs.inodes.hold(inode.ino)
        except errors.DfsError as error:
            log.warning("open file not held any more", file=inode.name, ino=inode.ino, error=str(error))
            return
        if not inode.users:  # closed meanwhile
            await self._release(inode.ino)
            return
        inode.note(attr)
        inode.holds += 1
        self._count_holds(inode)

    # --- bounds -----------------------------------------------------------------------------------------

    def count_dirty(self, change: int) -> None:
        self._dirty_bytes += change
        if self._room is not None and not (self.is_full and self._dirty_bytes):
            self._room.set()
            self._room = None

    @property
    def is_full(self) -> bool:
        """Whether whoever writes waits until something has left."""
        return self._dirty_bytes >= limits.DIRTY_MAX_BYTES or len(self._lingering) >= 2 * limits.LINGERING_MAX

    async def wait_for_room(self) -> None:
        """Return when one more write may be taken."""
        while self.is_full and self._dirty_bytes:
            if self._room is None:
                self._room = trio.Event()
            room = self._room
            if self._dirty_bytes >= limits.DIRTY_MAX_BYTES:
                for inode in list(self._open.values()):
                    inode.begin_to_drain()
            else:
                self._hurry.set()
            await room.wait()  # bounded: draining ends, with an error at worst

    def count_read_ahead(self, change: int) -> None:
        self._read_ahead_bytes += change

    def may_read_ahead(self) -> bool:
        return self._read_ahead_bytes < limits.READ_AHEAD_KEPT_MAX_BYTES

    # --- time -------------------------------------------------------------------------------------------

    async def write_back_when_due(self) -> None:
        """Commit what has been dirty for long, or everything that lingers when it is much. Runs until cancelled."""
        while True:
            with trio.move_on_after(limits.WRITE_BACK_AFTER_S / 4):
                await self._hurry.wait()
            now = trio.current_time()
            hurries = self._hurry.is_set()
            self._hurry = trio.Event()
            due = [inode for inode in self._open.values() if inode.is_due(now) or (hurries and not inode.users)]
            small: dict[int, list[OpenInode]] = {}
            for inode in due:
                if inode.is_small:
                    small.setdefault(inode.attr.replicas, []).append(inode)
                else:
                    self.start(self._write_back, inode)
            for replicas, inodes in small.items():
                most = limits.APPEND_SURE_BYTES // limits.SMALL_WRITE_MAX_BYTES
                for start in range(0, len(inodes), most):
                    self.start(self._write_back_together, inodes[start : start + most], replicas)
            self._sweep()

    def _sweep(self) -> None:
        """Forget files that nobody has open, and of which nothing is left to do."""
        for inode in [inode for inode in self._open.values() if not inode.users and inode.is_clean]:
            self._drop(inode)

    async def _write_back(self, inode: OpenInode) -> None:
        await inode.write_back()
        self._drop(inode)

    async def _write_back_together(self, inodes: Sequence[OpenInode], replicas: int) -> None:
        """Commit what small files have in memory: one append, one batch of commands."""
        leaving = [(inode, inode.begin_to_leave()) for inode in inodes if inode.is_small]  # as it was when it was due
        if not leaving:
            return
        async with AsyncExitStack() as last, trio.open_nursery() as nursery, AsyncExitStack() as first:
            for inode, pieces in leaving:
                first.callback(self._has_left, inode, pieces)
            try:
                data = b"".join(piece for _, pieces in leaving for _, piece in pieces)
                written = await self.fs.chunks.append([data], replicas)
            except errors.DfsError as error:
                for inode, _ in leaving:
                    await inode.fail(error)
                return
            first.pop_all()

            async def end(inode: OpenInode, pieces: Sequence[tuple[int, Buffer]], begun: Begun | None) -> None:
                """Return when a commit is done; where that takes more than a command, a task sees to it."""
                is_done = True
                try:
                    is_done = begun is not None and await inode.end_commit(begun)
                finally:
                    if is_done:
                        self._has_left(inode, pieces)
                    else:
                        last.callback(self._has_left, inode, pieces)
                        nursery.start_soon(inode.commit_rest)

            position = written.chunk_offset
            for inode, pieces in leaving:
                begun = inode.begin_commit(pieces, written.lane, position)
                first.push_async_callback(end, inode, pieces, begun)
                position += sum(len(piece) for _, piece in pieces)

    def _has_left(self, inode: OpenInode, pieces: Sequence[tuple[int, Buffer]]) -> None:
        inode.has_left(pieces)
        self._drop(inode)

    async def settle_all(self) -> None:
        """Commit everything that is dirty: the last thing before the end."""
        async with trio.open_nursery() as nursery:
            for inode in list(self._open.values()):
                nursery.start_soon(inode.settle)

    def statistics(self) -> dict[str, int]:
        ahead = self.small_files.statistics() if self.small_files is not None else {}
        return {
            "open": len(self._open),
            "dirty_bytes": self._dirty_bytes,
            "read_ahead_bytes": self._read_ahead_bytes,
            **{f"small_files_{name}": value for name, value in ahead.items()},
        }


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
