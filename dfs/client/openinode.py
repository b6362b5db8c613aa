"""An open file of one client as a mount needs it: write-back, and what is read of it. All of them: `openinodes`.

**Writing.** `write` puts bytes into memory (`DirtyRanges`) and returns. They leave in full appends when there are
WRITE_BACK_AT_BYTES of them, or all after WRITE_BACK_AFTER_S, by `fsync`, or because all open files together have too
many. Leaving means: appended to chunks, then committed, with the time of the last write as the file's.

What is written to a file in the NEW_FILE_S after its making, by who made it and before anybody looks at it, has the
time of its making: a kernel that sees the time of modification change drops the pages that it has, those too that it
has just written. Likewise after the file was cut to nothing. It does not know what is appended past its pages, so that
has its own time.

Bytes may stay in memory because this client owns the inode (`nodes.namenode.leases`): whoever else asks for it has us
commit first. So closing commits nothing, and attributes are shown as they will be (`shown`). Where it cannot be owned,
because others want it as well, each write is committed before it returns; where there are no leases at all, closing
commits, and asking for attributes. An inode can come to be owned with its directory, without being asked for: so
whoever acts on that takes the attributes that came with it (`is_owned`).

After bytes could not be written, and while the NameNode says that space is short, closing commits (`is_cautious`), so
that programs hear of a full disk. Two things are committed early in any case, since programs count on them when a
machine fails: a file that is closed after it was cut to nothing, and one that is renamed onto another, whose bytes
leave at once and with whose commit the rename goes (`dfs.client.stream`); those of a large one before it.

What is in memory when the session ends is lost (`forget_session`): by then others may have changed the file, and what
comes later would undo that. Whatever was on its way is not committed in another session (`_generation`).

**Reading.** What was just written is read from memory, what was read or written a while ago of a file that both is done
to as `recentpages` has it, small files as `smallfiles`, the rest as `readahead`. What waits in memory is laid over that
while the file is owned, which is its state at one moment if its version is the same at the end. Bytes that have left
memory are committed before they are read, others are read meanwhile (`inflight`); where the file cannot be owned, all
is committed before.

What is told is what the file holds when it is told, not only when it was asked for: a kernel has one page for all who
read it, and who has asked for it later, after a change, gets what the first one does. So what is written or committed
here meanwhile, or shown to anybody, has it read again (`_is_still`); and so has a recall, if it was answered: as a rule
that waits for the kernel to drop the page, and so for us (`mount.kernel`).

**Errors.** What could not be written is lost, said in the log with the file's name, and counted (`late_errors`): each
handle that was open then is to hear of it, as of a disk's late errors, by its next fsync, or by closing where that
waits for anything (`is_flushed_on_close`, as it was when the file was opened). If none has, the next fsync of any
handle does (`take_loss`): programs have others see to it that what they have written and closed is on the disks.

Invariants: `_flushing` is held by whoever moves bytes from `_dirty` to the writer, so they leave in the order in which
they were written; `is_clean` is true only when nothing is dirty, on its way or uncommitted; what is not clean and may
be asked for by others is owned; what has left memory and may be uncommitted is in `_in_flight`, unless it is appended
where nobody knows the end of file.
"""

from __future__ import annotations

import contextlib
import mmap
import stat
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
import trio

from dfs import errors, limits
from dfs.checksum import Buffer
from dfs.client.dirty import DirtyRanges
from dfs.client.filewriter import Begun, Window
from dfs.client.inflight import InFlight
from dfs.client.readahead import ReadAhead
from dfs.client.recentpages import RecentPages
from dfs.client.writer import Lane
from dfs.posix import check_file_size
from dfs.types import Attr, Extent

if TYPE_CHECKING:
    from dfs.client.openinodes import OpenInodes

log = structlog.get_logger(__name__)

_READS_BESIDE_COMMITS: Final = 2
"""That commits may undo, before one is done while there are none."""
_READS_BESIDE_CHANGES: Final = 3
"""That changes may overtake before what was there when the last one began is told all the same."""


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
        self.held_by = owner.fs.session.session
        """The last session that did."""
        self._owner = owner
        self._writer = owner.fs.writer(attr)
        self._dirty = DirtyRanges()
        self._in_flight = InFlight()
        self._flushing = trio.Lock()
        self._draining = False
        self._stirred = trio.Event()
        """There is more to leave, or something has left."""
        self._dirty_since = float("inf")
        self._written_ns: int | None = None
        """When it was written to last, or the time that was set since; None: never here."""
        self._end = 0
        """How far what was written reaches that is not committed."""
        self._is_new = True
        """Whether nobody has seen anything written to it since it was empty, nor closed it."""
        self._empty = 1, attr.btime_ns
        """Its version when it was made or cut to nothing, the last of both, and when that was."""
        self._ragged_from: int | None = None
        """Where the first page begins of which a part was written since `take_end`; None if there is none."""
        self._passing = 0
        """How many writes are under way of which each commits before it returns."""
        self._is_unforeseen = False
        """Whether a change is under way of which nobody here knows, or says, what it makes of the file."""
        self.was_cut = False
        """Since it was closed, to nothing."""
        self.is_promised = False
        """Whether bytes that nobody else has seen were taken, and their writer told so, while the file was owned."""
        self._generation = 0
        """Which of the owner's sessions it was when what is on its way left memory."""
        self.late_errors = 0
        """How often bytes were lost after the call that wrote them had returned."""
        self.late_error: errors.DfsError | None = None
        """Why, the last time."""
        self._ahead = ReadAhead(attr, owner.fs.reader, owner)
        self._recent = RecentPages(owner)
        self._writer.on_commit = self._on_commit
        self._surprises = owner.fs.session.stream.surprises
        """As the stream counts them, when `attr` was right."""
        self._forgotten = 0
        """How often its version has been."""

    def _held(self) -> AbstractContextManager[None]:
        """Around questions about it: it need not have a name, and is gone with the session that held it."""
        return self._owner.fs.session.held_by(self.held_by)

    @property
    def is_clean(self) -> bool:
        return not self._dirty and not self._flushing.locked() and not self._writer.uncommitted_bytes

    @property
    def uncommitted_bytes(self) -> int:
        return self._dirty.length_bytes + self._in_flight.length_bytes

    def note(self, attr: Attr) -> None:
        """These attributes came by: what was read of another version is forgotten."""
        if (attr.version, attr.ctime_ns) < (self.attr.version, self.attr.ctime_ns):  # what is set in a row is a version
            return
        self.attr = attr
        self._ahead.note(attr)
        self._writer.note_size(attr.size)

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
            with self._held():
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
        check_file_size(offset + len(data))
        await self._owner.wait_for_room()
        is_owned = await self._own()
        self.is_promised |= is_owned
        self._take(offset, data, self._time_of_write(is_owned=is_owned))
        if not is_owned and self._owner.is_coherent:
            self._passing += 1
            try:
                await self._flush(durable=False)
            finally:
                self._passing -= 1

    def _take(self, offset: int, data: Buffer, written_ns: int) -> None:
        if self.is_clean:
            self._end = 0
        self._dirty_since = min(self._dirty_since, trio.current_time())
        before = self._dirty.length_bytes
        self._dirty.write(offset, data)
        self._end = max(self._end, offset + len(data))
        self._written_ns = written_ns
        for edge in (offset, offset + len(data)):
            if edge % mmap.PAGESIZE:
                page = edge - edge % mmap.PAGESIZE
                self._ragged_from = page if self._ragged_from is None else min(page, self._ragged_from)
        self._owner.count_dirty(self._dirty.length_bytes - before)
        if self._dirty.length_bytes >= limits.WRITE_BACK_AT_BYTES:
            self._stirred.set()
            self.begin_to_drain()

    def _time_of_write(self, *, is_owned: bool) -> int:
        now_ns, (version, empty_ns) = self._owner.now_ns(), self._empty
        is_soon = 0 <= now_ns - empty_ns < limits.NEW_FILE_S * 1e9
        self._is_new &= is_owned and is_soon and self.attr.version == version and self.attr.ctime_ns == empty_ns
        return empty_ns if self._is_new else now_ns

    async def append(self, data: Buffer) -> None:
        """Put `data` at the end of file, as it is for everybody at this moment, in one piece."""
        await self._owner.wait_for_room()
        while await self._own():
            if not self._is_unforeseen:
                self.is_promised = True
                self._is_new = False
                self._take(self._size, data, self._owner.now_ns())
                return
            async with self._flushing:  # the file is being cut, as opening does it: where it ends is known after that
                pass
        async with self._move(unforeseen=True):
            await self._push_and_commit(durable=False)
            try:
                for start in range(0, len(data), limits.APPEND_MAX_BYTES):
                    piece = memoryview(data)[start : start + limits.APPEND_MAX_BYTES]
                    await self._writer.write_pieces([(start, piece)])
                    self._recent.leaves_unseen()
                self._written_ns = self._owner.now_ns()
                await self._commit(durable=False, append=True)
            except BaseException:
                await self._discard()  # or what follows would put it at the beginning
                raise

    @property
    def _size(self) -> int:
        """Of a file that is owned, with what is written here."""
        return self.attr.size if self.is_clean else max(self.attr.size, self._end)

    def take_end(self) -> tuple[int, Buffer] | None:
        """Where the first page begins that was not written in one piece, and all from there on; once after that.

        The kernel has the others. None where there is none, or it is not in memory, or may be different for others.
        """
        start, self._ragged_from = self._ragged_from, None
        if start is None or not self.is_owned:
            return None
        size = self._size
        if size - start > limits.SMALL_FILE_MAX_BYTES:
            start = size - size % mmap.PAGESIZE
        data = self._dirty.read(start, size) if start < size else None
        return None if data is None else (start, data)

    def shown(self) -> Attr:
        """The attributes of a file that is owned, as they will be when what is dirty is committed."""
        attr = self.attr
        if self.is_clean or not (self.is_promised or self._dirty):
            return attr
        self._is_new = False
        size = self._size
        more = min(size - attr.size, self.uncommitted_bytes)
        mtime_ns = attr.mtime_ns if self._written_ns is None else self._written_ns
        ctime_ns = max(attr.ctime_ns, mtime_ns)
        return attr._replace(size=size, allocated=attr.allocated + more, mtime_ns=mtime_ns, ctime_ns=ctime_ns)

    def expect_mtime(self, mtime_ns: int | None) -> int | None:
        """What is dirty is to be committed with this time, which is being set; what it was to be."""
        before, self._written_ns = self._written_ns, mtime_ns
        return before

    @property
    def is_foreseen(self) -> bool:
        """Whether `shown` can tell: of what is under way all is known, and writing clears no bits of the mode."""
        return not self._is_unforeseen and not self._passing and not self.attr.mode & (stat.S_ISUID | stat.S_ISGID)

    @property
    def is_simple(self) -> bool:
        """Likewise, and nothing is on its way."""
        return not self._flushing.locked() and self.is_foreseen

    @asynccontextmanager
    async def _move(self, *, unforeseen: bool = False) -> AsyncIterator[None]:
        """Alone move bytes out of memory, all in one session. `unforeseen`: for a change of that kind."""
        async with self._flushing:
            self._begin_to_flush()
            self._is_unforeseen = unforeseen
            try:
                yield
            finally:
                self._is_unforeseen = False

    def _begin_to_flush(self) -> None:
        """The lock is taken: nothing is under way, and nothing in flight but what waits for a commit."""
        self._generation = self._owner.generation
        if not self._writer.uncommitted_bytes:
            self._in_flight.clear()

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
        self._in_flight.clear()
        self._forget_version()
        if is_lost:
            error = errors.SessionExpired("the session ended before what was written to the file was committed")
            self._owner.be_cautious()
            self._note_loss(error)

    def see_surprises(self) -> None:
        """Forget the version that was known, if changes have turned out otherwise than they were foreseen."""
        if self._surprises != self._owner.fs.session.stream.surprises:
            self._surprises = self._owner.fs.session.stream.surprises
            self._forget_version()

    def _forget_version(self) -> None:
        """The version that was known may never have been: what was read of it is forgotten, what comes by is newer."""
        self._forgotten += 1
        self.attr = self.attr._replace(version=0)
        self._ahead.note(self.attr)
        self._recent.forget()

    def _forget_dirty(self) -> None:
        self._owner.count_dirty(-self._dirty.length_bytes)
        self._dirty = DirtyRanges()
        self._dirty_since = float("inf")
        self._end = 0
        self.is_promised = False

    def note_gone(self, attr: Attr, *, is_private: bool) -> bool:
        """It has lost a name. What was written to a file that has none, and that nobody has open, need not leave.

        Whether `abandon` is to be called as well.
        """
        self.note(attr)
        if attr.nlink or self.users or not is_private:
            return False
        self._forget_dirty()
        return not self.is_clean

    async def abandon(self) -> None:
        """What has left already is not to be committed."""
        async with self._move():
            await self._discard()

    def begin_to_drain(self) -> bool:
        """Have what is dirty leave, unless it does so already; whether it does."""
        if self._dirty and not self._draining:
            self._draining = True
            self._owner.start(self._drain)
        return self._draining

    async def _drain(self) -> None:
        """Move what fills appends to the DataNodes, or all where there is no room for more; commit it if it is much.

        Whoever waits for his turn to move bytes has it first: a stream may go on for ever.
        """
        try:
            while self._dirty.length_bytes >= self._writer.append_bytes or (self._owner.is_full and self._dirty):
                async with self._move():
                    await self._push_full()
                    if self._owner.is_full:
                        await self._push()
                    self._check_session()
                    if self._writer.uncommitted_bytes >= limits.COMMIT_EVERY_BYTES:
                        await self._commit_what_left()
        except errors.DfsError as error:
            self._give_up(error)
        finally:
            self._draining = False
            self._owner.make_room()

    async def _push_full(self) -> None:
        """Move what fills appends, several at a time, as long as there is so much or it comes while others leave.

        And as long as nobody else waits to move bytes.
        """
        if self._dirty.length_bytes < self._writer.append_bytes:
            return
        async with self._writer.window(partial(self._commit, durable=False)) as window:
            while not self._flushing.statistics().tasks_waiting:
                await window.room()
                self._stirred = trio.Event()
                if self._dirty.length_bytes >= self._writer.append_bytes:
                    self._check_session()
                    pieces = self._dirty.take(self._writer.append_bytes)
                    self._in_flight.add(pieces)
                    self._begin_to_move(pieces, window)
                elif window:
                    await self._stirred.wait()
                else:
                    return

    def _begin_to_move(self, pieces: Sequence[tuple[int, Buffer]], window: Window) -> None:
        """Have these leave, where the window has room."""
        self._recent.leaves_unseen()
        window.write(pieces, partial(self._has_gone, sum(len(data) for _, data in pieces)))

    def _has_gone(self, size_bytes: int) -> None:
        self._owner.count_dirty(-size_bytes)
        self._stirred.set()

    async def _push(self, *, durable: bool = False) -> None:
        """Move all that is dirty. What is written meanwhile is not: it might never end."""
        leaving, self._dirty = self._dirty, DirtyRanges()
        self._in_flight.add(leaving)
        try:
            if leaving.length_bytes > self._writer.append_bytes:
                async with self._writer.window(partial(self._commit, durable=False)) as window:
                    while leaving.length_bytes > self._writer.append_bytes:
                        await window.room()
                        self._check_session()
                        self._begin_to_move(leaving.take(self._writer.append_bytes), window)
            while leaving:
                self._check_session()
                pieces = leaving.take(self._writer.append_bytes)
                try:
                    await self._writer.write_pieces(pieces, durably=durable and not leaving)
                    self._recent.leaves(pieces)
                finally:
                    self._owner.count_dirty(-sum(len(data) for _, data in pieces))
        finally:
            self._owner.count_dirty(-leaving.length_bytes)

    async def _commit(self, *, durable: bool, append: bool = False) -> None:
        self._check_session()
        with self._known_to_happen():
            attr = await self._writer.commit(append=append, mtime_ns=self._written_ns, durable=durable)
        if attr is not None:
            self.note_own(attr)

    @contextlib.contextmanager
    def _known_to_happen(self) -> Iterator[None]:
        """Around a commit: nothing is known of what the file holds if that is not known to have happened."""
        try:
            yield
        except BaseException:
            self._recent.forget()
            raise

    def _on_commit(self, attr: Attr, extents: Sequence[Extent], reach: Mapping[Lane, int]) -> None:
        self._in_flight.committed(sum(extent.length for extent in extents))
        self._ahead.committed(attr, extents, reach)
        self._recent.committed(attr.version, extents, is_all=not self._writer.uncommitted_bytes)

    def note_own(self, attr: Attr) -> None:
        """The attributes after a change of ours."""
        self._writer.note_change(attr)
        self.note(attr)
        self._owner.on_own_change(attr)

    async def _push_and_commit(self, *, durable: bool) -> None:
        try:
            await self._push(durable=durable)
            await self._commit_what_left(durable=durable)
        except errors.DfsError as error:
            await self.fail(error)
            raise

    async def _commit_what_left(self, *, durable: bool = False) -> None:
        """Commit all that is not in memory any more, while nothing else leaves."""
        await self._commit(durable=durable)
        self.is_promised = bool(self._dirty)
        if not self._dirty:
            self._dirty_since = float("inf")

    async def _lose(self) -> None:
        """What is on its way cannot be written, nor what is dirty, unless that was written in a later session."""
        if self._generation == self._owner.generation:
            self._forget_dirty()
        await self._discard()

    async def _discard(self) -> None:
        self._recent.forget()
        self._in_flight.clear()
        try:
            await self._writer.discard()
        except errors.DfsError as error:
            log.info("space of lost bytes comes back with the session's end", ino=self.ino, error=str(error))

    def _give_up(self, error: errors.DfsError) -> None:
        """Bytes are lost: whoever has the file open hears of it."""
        if isinstance(error, errors.NotFound) and not self.users:
            return  # it was removed
        if isinstance(error, errors.SessionExpired) and self._generation != self._owner.generation:
            return  # that was said when it ended
        self._owner.be_cautious()
        self._note_loss(error)

    def _note_loss(self, error: errors.DfsError) -> None:
        log.error("written bytes are lost", file=self.name, ino=self.ino, error=str(error))
        self._owner.note_loss(self, error)
        self.late_errors += 1
        self.late_error = error

    def take_loss(self) -> errors.DfsError | None:
        """As `OpenInodes.take_loss`."""
        return self._owner.take_loss(self.ino)

    async def write_back(self) -> None:
        """Commit what is dirty; what goes wrong is a late error."""
        with contextlib.suppress(errors.DfsError):  # which is noted
            await self._flush(durable=False)

    async def settle(self) -> Attr:
        """Commit what is dirty, so that attributes and bytes are what everybody sees; the attributes."""
        if not self.is_clean:
            await self.write_back()
        return self.attr

    async def end(self, deadline: float) -> None:
        """As `settle`; what is not committed by then is lost."""
        with trio.move_on_at(deadline) as limit:
            await self.settle()
        if limit.cancelled_caught and self.attr.nlink:
            session = self._owner.fs.session
            awaited = f"the NameNode {session.address}, or DataNodes, did not answer for {session.wait_s:g} s"
            self._note_loss(errors.DeadlineExceeded(awaited))

    async def flush(self) -> None:
        """What closing does: commit what is dirty, unless that can wait. Raises what goes wrong."""
        if not self.is_clean and self.is_flushed_on_close:
            await self._flush(durable=False)
            self.was_cut = False

    @property
    def is_flushed_on_close(self) -> bool:
        """Whether closing commits what is dirty, and has to wait for that."""
        return not self.is_owned or self._owner.is_cautious

    async def fsync(self) -> None:
        """Return when all bytes that the file has are on stable storage on its replicas, and so are its names.

        What is committed may have to wait for copies to be made; meanwhile others can have the file.
        """
        stream = self._owner.fs.session.stream
        stream.hurry()  # on its way while bytes are: the commit is to come after it
        losses = stream.losses
        with self._held():
            await self._flush(durable=True)
            self.note(await self._writer.ensure_durable(losses=losses))

    async def _flush(self, *, durable: bool) -> None:
        async with self._move():
            self._dirty_since = float("inf")
            await self._push_and_commit(durable=durable)

    async def truncate(self, size: int) -> Attr:
        """Set the size, after everything that was written before."""
        await self._own()
        if size == 0 and (emptied := await self._emptied()) is not None:
            return emptied
        async with self._move(unforeseen=True):
            await self._push_and_commit(durable=False)
            with self._held():
                attr = await self._owner.fs.inodes.truncate(self.ino, size)
            self._end = self._dirty.end  # of what was written meanwhile
            self._note_cut(attr)
            return attr

    async def _emptied(self) -> Attr | None:
        """Cut it to nothing where that is answered here: then what is dirty need not leave. None where it is not."""
        await self._owner.fs.session.stream.wait_for_room()
        if not self.is_owned or self._flushing.locked() or self._writer.uncommitted_bytes:
            return None
        attr = self._owner.fs.inodes.empty(self.ino)
        if attr is not None:
            self._forget_dirty()
            self._note_cut(attr)
        return attr

    def _note_cut(self, attr: Attr) -> None:
        self._writer.note_cut(attr.size)
        self.was_cut |= self.attr.size > attr.size == 0
        self.note_own(attr)
        if attr.size == 0:
            self.take_loss()
            if not self._dirty and attr.mtime_ns == attr.ctime_ns:
                self._is_new, self._empty = True, (attr.version, attr.ctime_ns)

    def is_due(self, now: float) -> bool:
        return self._dirty_since <= now - limits.WRITE_BACK_AFTER_S and bool(
            self._dirty or self._writer.uncommitted_bytes
        )

    @property
    def is_lingering(self) -> bool:
        """Whether nobody has it open, and bytes of it wait that are not on their way."""
        return not self.users and not self._flushing.locked() and not self.is_clean

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
        self._begin_to_flush()
        self._dirty_since = float("inf")
        pieces = self._dirty.take(limits.APPEND_MAX_BYTES)
        self._in_flight.add(pieces)
        return pieces

    def has_left(self, pieces: Sequence[tuple[int, Buffer]]) -> None:
        """What is done with the pieces of `begin_to_leave` is done."""
        self._owner.count_dirty(-sum(len(data) for _, data in pieces))
        self._flushing.release()

    def begin_commit(self, pieces: Sequence[tuple[int, Buffer]], lane: Lane, position: int) -> Begun | None:
        """The pieces of `begin_to_leave` are in `lane` one after the other from `position`: have them made the file's.

        None where that takes more than a command.
        """
        self._writer.adopt([(offset, len(data)) for offset, data in pieces], lane, position)
        self._recent.leaves(pieces)
        if self._generation != self._owner.generation:
            return None
        return self._writer.begin_commit(self._written_ns)

    async def end_commit(self, begun: Begun) -> bool:
        """Return when what `begin_commit` has begun is done, or could not be; False if `commit_rest` is to do it."""
        try:
            with self._known_to_happen():
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
            await self._commit_what_left()
        except errors.DfsError as error:
            await self.fail(error)

    async def fail(self, error: errors.DfsError) -> None:
        """What is dirty or on its way is lost, and why."""
        await self._lose()
        self._give_up(error)

    # --- reading ----------------------------------------------------------------------------------------

    async def read(self, offset: int, length: int) -> Buffer:
        """At most `length` bytes at `offset`; fewer at the end of file."""
        with self._held():
            return await self._read(offset, length)

    async def _read(self, offset: int, length: int) -> Buffer:
        attempts, overtaken = 0, 0
        while True:
            self.see_surprises()
            found: Buffer | None
            if not self.is_clean:
                if self.is_owned:
                    found = await self._read_owned(offset, length, is_alone=attempts >= _READS_BESIDE_COMMITS)
                    if found is not None:
                        return found
                    attempts += 1
                    continue
                await self.settle()
            was_told = await self._refresh(surely=overtaken > 0)
            count = min(length, self.attr.size - offset)
            if count <= 0:
                return b""
            state = self._state
            found = await self._read_committed(offset, count)
            overtaken += 1
            if found is not None and (overtaken >= _READS_BESIDE_CHANGES or self._is_still(state, was_told)):
                return found

    def _look(self) -> bool:
        """See the attributes that are leased; whether nobody changes the file before we hear of it, and answer."""
        attr = self._owner.fs.inodes.cached_attr(self.ino)
        if attr is not None:
            self.note(attr)
        return attr is not None or self._owner.fs.session.is_recalled(self.ino)

    def _is_still(self, state: tuple[int, int], was_told: bool) -> bool:
        """Whether a file that was clean in this state is so still, as far as anybody here was told of it."""
        is_told = self._look()
        is_written = self.uncommitted_bytes or self._writer.uncommitted_bytes
        return self._state == state and not is_written and (is_told or not was_told)

    @property
    def _state(self) -> tuple[int, int]:
        """What is committed is the same whenever this is: versions that were forgotten may come again."""
        return self._forgotten, self.attr.version

    async def _read_owned(self, offset: int, length: int, *, is_alone: bool) -> Buffer | None:
        """As `read`, of a file that is owned, and not clean; None where it is to be tried again.

        `is_alone`: while nothing else is committed.
        """
        found = self._written(offset, length)
        if found is not None:
            return found
        if is_alone or not self._is_beneath(offset, offset + length):
            return await self._read_after_commit(offset, length, is_alone=is_alone)
        return await self._read_beneath(offset, length)

    def _is_beneath(self, start: int, end: int) -> bool:
        """Whether what is not committed of [start, end) is all in memory, of a file that is owned."""
        if self._is_unforeseen:
            return False
        has_left = self._flushing.locked() or self._writer.uncommitted_bytes
        return not has_left or not self._in_flight.touches(start, end)

    async def _read_after_commit(self, offset: int, length: int, *, is_alone: bool) -> Buffer | None:
        """Commit what has left memory; what goes wrong is a late error.

        With `is_alone` also as `_read_beneath`, while nothing else is committed. Else None: nothing leaves before the
        caller, who waits for nothing between, looks again.
        """
        async with self._move():
            try:
                await self._commit_what_left()
            except errors.DfsError as error:
                await self.fail(error)
            return await self._read_beneath(offset, length) if is_alone and self.is_owned else None

    async def _read_beneath(self, offset: int, length: int) -> Buffer | None:
        """As `read`, where `_is_beneath`: what the file holds, and over that what is dirty, at the end.

        None if it has become another version meanwhile, or is not owned any more, or bytes have left memory.
        """
        state, size = self._state, self.attr.size
        end = min(offset + length, self._size)
        if end <= offset:
            return b""
        beneath: Buffer | None = b""
        if offset < size:
            beneath = await self._read_committed(offset, min(end, size) - offset)
        is_same = self.is_owned and self._state == state and self._is_beneath(offset, offset + length)
        if beneath is None or not is_same:
            return None
        end = min(offset + length, self._size)
        whole = bytearray(end - offset)
        whole[: len(beneath)] = beneath
        for start, data in self._dirty.within(offset, end):
            whole[start - offset : start - offset + len(data)] = data
        return whole

    async def _read_committed(self, offset: int, count: int) -> Buffer | None:
        """The bytes from `offset` on, 1 or more, all of them before the end of file; None if that changed meanwhile."""
        state, version = self._state, self.attr.version
        found: Buffer | None = self._recent.read(version, offset, count)
        if found is None and self.attr.size <= limits.SMALL_FILE_MAX_BYTES and self._owner.small_files is not None:
            found = await self._owner.small_files.read(self.attr, offset, count)
        if found is not None:
            return found
        found = await self._ahead.read(offset, count)
        is_wanted = self._written_ns is not None and count <= limits.RECENT_READ_MAX_BYTES
        if found is not None and is_wanted and self.is_owned and self._state == state:
            self._recent.learn(version, offset, found)
        return found

    def _written(self, offset: int, length: int) -> bytes | None:
        """As `read`, of what was just written to a file that is owned; None where more is read than that."""
        end = min(offset + length, self._size)
        return self._dirty.read(offset, end) if offset < end else b""

    async def _refresh(self, *, surely: bool) -> bool:
        """As `_look`, of the attributes as they are now: not every read of a kernel comes after a look at them.

        Where nobody tells of changes they are asked for with `surely` only.
        """
        inodes = self._owner.fs.inodes
        if inodes.cached_attr(self.ino) is None and (self._owner.is_coherent or surely):
            self.note(await inodes.getattr(self.ino))
        return self._look()

    def closed(self) -> None:
        """The last user is gone."""
        self._is_new = False
        self._recent.forget()

    def forget(self) -> None:
        """Nobody has it open, and nothing of it is on its way."""
        self._recent.forget()
        self._ahead.forget()
