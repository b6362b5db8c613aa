"""One file's new bytes on their way: appended to chunks, then committed, then durable.

Several appends may be under way at once (`Window`), each to a chunk of its own, and a commit of what came before them,
so that the link is never idle. What they wrote counts in the order in which it was given.

    write   bytes are in chunks on DataNodes, in nobody's file yet
    commit  extents point at them: every client sees them
    flush   and the replicas have them on stable storage, at least `min_replicas` of them

Nodes may die in between. Bytes without enough copies that are not committed yet are read back from a copy that is left,
or from a node that was given up and is back, and appended anew to a chunk with all its copies: nobody has seen them, so
nobody can have changed them. Bytes that are committed stay where they are: the NameNode has the missing copies made,
and flush waits for that.

`fsync` covers the file, not only what was written here: bytes of others may be committed and in their DataNodes' memory
only. The inode's version tells whether there were others: each change makes it one more, so a commit of ours that
made it one more than the last version vouched for came right after it.

A commit whose outcome is not known (cancelled, or the NameNode did not answer in time) is never tried again: its bytes
may be the file's already, and of somebody else's overwriting since. They are given up, and the caller gets the error.

A commit that overwrites is preceded by a flush of its chunks: it frees the bytes that it replaces, which may have been
durable, so a power cut must not find the new ones in memory only. Who has no lease may not know that there are any:
so what is not flushed is committed on condition that it overwrites nothing.

What was given before the session ended (`forget`) is never committed in another: others may have written since. So
whatever waited meanwhile, for an append or a flush, looks at `epoch` afterwards.

Invariants: `_uncommitted` is in the order of writing (of two runs that overlap, the later wins), and a run is in it
until the commit with it is sent; `_volatile` has every lane with committed bytes of this file
that no flush has made durable since; all bytes of the version `_vouched` that are not in `_volatile` are durable.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import trio

from dfs import codec, errors, limits, tasks
from dfs.checksum import Buffer
from dfs.client.datanodes import SILENT
from dfs.client.reader import Piece, Reader
from dfs.client.session import Session
from dfs.client.stream import Command
from dfs.client.writer import ChunkWriter, Lane
from dfs.posix import check_file_size
from dfs.types import Attr, ChunkId, ChunkPlace, Extent, Ino

_VOLATILE_MAX = 256
"""Lanes with bytes of one file that may not be on the disks yet: with more, all are flushed."""
_ROUNDS_MAX = 4
"""Of writing the same bytes anew because DataNodes failed meanwhile."""


class _Run(NamedTuple):
    """`length` bytes of the file at `offset`, in `lane` at `chunk_offset`."""

    offset: int
    length: int
    lane: Lane
    chunk_offset: int


class Begun(NamedTuple):
    """A commit under way."""

    command: Command
    runs: list[_Run]
    extents: list[Extent]
    reach: dict[Lane, int]
    epoch: int


class Window:
    """Appends of one file under way at once. Get it from `FileWriter.window`.

    What a file begins with is appended one after the other: unless it is large, it stays in one chunk.
    """

    def __init__(self, writer: FileWriter, nursery: trio.Nursery, commit: Callable[[], Awaitable[Any]] | None) -> None:
        self._writer = writer
        self._nursery = nursery
        self._commit = commit
        """None while it is under way as well."""
        self._under_way = 0
        self._ended = trio.Event()
        self._given: deque[_Given] = deque()
        """Whatever is under way, or was overtaken."""

    def __bool__(self) -> bool:
        """Whether anything is under way."""
        return self._under_way > 0

    async def room(self) -> None:
        """Return when `write` may be called. For one task."""
        while self._under_way >= self._writer.appends_at_once:
            self._ended = trio.Event()
            await self._ended.wait()  # bounded: appends end by their own deadlines

    def write(self, pieces: Sequence[tuple[int, Buffer]], done: Callable[[], None] | None = None) -> None:
        """Begin as `FileWriter.write_pieces` does it; `done` is called when that has ended, well or not."""
        if self._commit is not None and self._writer.uncommitted_bytes >= limits.COMMIT_EVERY_BYTES:
            commit, self._commit = self._commit, None
            self._nursery.start_soon(self._commit_some, commit)
        self._under_way += 1
        given = _Given(self._writer.epoch)
        self._given.append(given)
        self._nursery.start_soon(self._append, pieces, given, done)

    async def _commit_some(self, commit: Callable[[], Awaitable[Any]]) -> None:
        with trio.CancelScope(shield=True):  # bounded by the session's patience; what of it happened would not be known
            await commit()
        self._commit = commit

    async def _append(
        self, pieces: Sequence[tuple[int, Buffer]], given: _Given, done: Callable[[], None] | None
    ) -> None:
        try:
            given.runs = await self._writer.append(pieces)
        finally:
            given.has_ended = True
            while self._given and self._given[0].has_ended:
                ended = self._given.popleft()
                if ended.epoch == self._writer.epoch:  # or it is forgotten, with all that was written then
                    self._writer.take(ended.runs)
            self._under_way -= 1
            self._ended.set()
            if done is not None:
                done()


class _Given:
    """An append in a window, and what it wrote, in the writer's `epoch` then."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.has_ended = False
        self.runs: list[_Run] = []


class FileWriter:
    """Writes to one inode. One task at a time may write, and commit: but see `Window`, and `ensure_durable`."""

    def __init__(self, session: Session, chunks: ChunkWriter, reader: Reader, attr: Attr) -> None:
        self.ino: Ino = attr.ino
        self.replicas = attr.replicas
        self._size = attr.size
        """The file's, as far as is known here: below it, there may be something to overwrite."""
        self._session = session
        self._chunks = chunks
        self._reader = reader
        self._lane: Lane | None = None
        self._appended_bytes = 0
        self._committing = trio.Lock()
        self._uncommitted: list[_Run] = []
        self._meanwhile: list[_Run] = []
        """What was appended while others are committed."""
        self._volatile: dict[Lane, int] = {}
        """How far into each lane committed bytes of this file reach."""
        self._vouched = attr.version if attr.size == 0 else -1
        self._surprises = session.stream.surprises
        """As the stream counts them, when `_vouched` was right: a version in it may be foreseen."""
        self.epoch = 0
        """How often what was written has been forgotten."""
        self.on_commit: Callable[[Attr, Sequence[Extent], Mapping[Lane, int]], None] = lambda *_: None
        """Called after a commit with the attributes, what it made the file's, and how far into lanes that reaches.

        Not of bytes that were appended: where in the file they are is the NameNode's to say.
        """

    @property
    def uncommitted_bytes(self) -> int:
        return sum(run.length for run in itertools.chain(self._uncommitted, self._meanwhile))

    @property
    def is_large(self) -> bool:
        """Whether so much of the file was written here that it may be in several chunks."""
        return self._appended_bytes >= limits.SPREAD_FROM_BYTES

    @property
    def appends_at_once(self) -> int:
        """How many appends may be under way."""
        return self._chunks.appends_at_once if self.is_large else 1

    @property
    def _wanted(self) -> int:
        return self._chunks.least(self.replicas)

    @property
    def append_bytes(self) -> int:
        """How much is best written at a time, at most APPEND_MAX_BYTES."""
        return self._chunks.append_bytes

    async def write(self, offset: int, data: Buffer) -> None:
        """Append `data`, to become the file's bytes at `offset` with the next commit."""
        if 0 < len(data) <= self.append_bytes:
            await self.write_pieces([(offset, data)])
            return
        view = memoryview(data)
        async with self.window() as window:
            while len(view):
                await window.room()
                size = self.append_bytes
                window.write([(offset, view[:size])])
                offset, view = offset + size, view[size:]

    @asynccontextmanager
    async def window(self, commit: Callable[[], Awaitable[Any]] | None = None) -> AsyncIterator[Window]:
        """For several appends at a time; on leaving they are all done. Raises what went wrong with one of them.

        `commit` is called meanwhile whenever COMMIT_EVERY_BYTES wait for it.
        """
        async with tasks.open_nursery() as nursery:
            yield Window(self, nursery, commit)

    async def write_pieces(self, pieces: Sequence[tuple[int, Buffer]], *, durably: bool = False) -> None:
        """Append pieces of the file (offset, bytes), 1 to APPEND_MAX_BYTES together, in one append.

        `durably`: a `flush` follows, and so they may be flushed in the same call.
        """
        self.take(await self.append(pieces, durably=durably))

    async def append(self, pieces: Sequence[tuple[int, Buffer]], *, durably: bool = False) -> list[_Run]:
        """As `write_pieces`, but `take` is to be given what this returns."""
        check_file_size(max((offset + len(piece) for offset, piece in pieces), default=0))
        epoch = self.epoch
        data = [piece for _, piece in pieces]
        if any(len(piece) % limits.BLOCK_BYTES for piece in data[:-1]):
            data = [b"".join(data)]  # or there would be many small blocks
        run = await self._append(0, data, durably=durably)
        await self._check_epoch(epoch, [run])
        runs, position = [], run.chunk_offset
        for offset, piece in pieces:
            runs.append(_Run(offset, len(piece), run.lane, position))
            position += len(piece)
        return runs

    def take(self, runs: Iterable[_Run]) -> None:
        """What was appended is to become the file's with the next commit."""
        waiting = self._meanwhile if self._committing.locked() else self._uncommitted
        for run in runs:
            _add(waiting, run)

    def adopt(self, pieces: Iterable[tuple[int, int]], lane: Lane, position: int) -> None:
        """Pieces of the file (offset, length) are in `lane` from `position` on, appended by somebody else."""
        for offset, length in pieces:
            _add(self._uncommitted, _Run(offset, length, lane, position))
            position += length

    async def _check_epoch(self, epoch: int, runs: Sequence[_Run] = ()) -> None:
        """Raises `SessionExpired` if what was written then is forgotten, and with it these runs, which are settled."""
        if epoch != self.epoch:
            await self._settle_surely(runs)
            raise errors.SessionExpired(f"the session ended while a file was written (inode {self.ino})")

    async def _append(self, offset: int, data: Sequence[Buffer], *, durably: bool = False) -> _Run:
        written = await self._chunks.append(data, self.replicas, self._lane, durably=durably)
        self._lane = written.lane
        self._appended_bytes += written.length
        return _Run(offset, written.length, written.lane, written.chunk_offset)

    # --- commit -----------------------------------------------------------------------------------------

    async def commit(self, *, append: bool = False, mtime_ns: int | None = None, durable: bool = False) -> Attr | None:
        """Make all that was written visible, in one moment; the inode's attributes, None if there was nothing.

        With `append`, offsets count from the end of file as it is at that moment. `durable`: it is flushed before, as
        `ensure_durable` is to follow.
        """
        async with self._committing:
            return await self._commit(append, mtime_ns, durable=durable)

    async def _commit(self, append: bool, mtime_ns: int | None, *, durable: bool) -> Attr | None:
        self._gather()
        try:
            return await self._commit_all(append, mtime_ns, durable=durable)
        finally:
            self._gather()

    def _gather(self) -> None:
        for run in self._meanwhile:
            _add(self._uncommitted, run)
        self._meanwhile.clear()

    async def _commit_all(self, append: bool, mtime_ns: int | None, *, durable: bool) -> Attr | None:
        attr: Attr | None = None
        refusals, epoch = 0, self.epoch
        while self._uncommitted:
            await self._prepare(append, durable)
            await self._check_epoch(epoch)
            runs, self._uncommitted = self._uncommitted[: limits.EXTENTS_MAX], self._uncommitted[limits.EXTENTS_MAX :]
            done_with = runs
            try:
                extents, reach = _extents(runs), _reach(runs)
                is_fresh = not (durable or append or self._overwrites(runs))
                command = self._command(extents, reach, append, mtime_ns, is_fresh=is_fresh)
                reply = await self._session.apply("commit", *command)
                attr = self._committed(reply, [] if append else extents, reach)
            except errors.Overwrites as error:
                done_with = []
                await self._check_epoch(epoch, runs)
                self._commit_again(runs, error)
            except (errors.ChunkSealed, errors.NotEnoughNodes):  # the NameNode knows more of these chunks than we did
                self._refuse_other_session(runs)
                refusals += 1
                if refusals >= _ROUNDS_MAX:
                    raise
                fresh = await self._rewrite_all(runs)
                await self._check_epoch(epoch, fresh)
                self._uncommitted[:0] = fresh
            finally:
                await self._settle_surely(done_with)
        await self._thin_out()
        return attr

    async def _thin_out(self) -> None:
        """Flush what was written through many lanes, by a program that writes now and then and never asks for it."""
        if len(self._volatile) <= _VOLATILE_MAX:
            return
        await self._chunks.sync(list(self._volatile))
        for lane in [lane for lane in self._volatile if len(lane.nodes) >= self._wanted]:
            if lane.synced >= self._volatile[lane]:
                del self._volatile[lane]

    def begin_commit(self, mtime_ns: int | None) -> Begun | None:
        """As `commit`, without waiting: `end_commit` does. None where a command is not all that there is to do.

        Nobody else commits before it has ended.
        """
        runs = self._uncommitted
        if len(runs) > limits.EXTENTS_MAX or self._overwrites(runs) or any(map(self._is_weak, runs)):
            return None
        extents, reach = _extents(runs), _reach(runs)
        command = self._session.begin("commit", *self._command(extents, reach, False, mtime_ns, is_fresh=True))
        if command is None:
            return None
        self._uncommitted = []
        return Begun(command, runs, extents, reach, self.epoch)

    async def end_commit(self, begun: Begun) -> Attr | None:
        """The inode's attributes after a commit; None if `commit` is to try it again."""
        try:
            attr = self._committed(await self._session.stream.result(begun.command), begun.extents, begun.reach)
        except (errors.ChunkSealed, errors.NotEnoughNodes, errors.Overwrites) as error:
            await self._check_epoch(begun.epoch, begun.runs)
            self._commit_again(begun.runs, error)
            return None
        except BaseException:
            await self._settle_surely(begun.runs)
            raise
        await self._settle_surely(begun.runs)
        await self._thin_out()
        return attr

    def _overwrites(self, runs: Iterable[_Run]) -> bool:
        """As far as is known here: others may have written since, which the NameNode says (`Overwrites`)."""
        return any(run.offset < self._size for run in runs)

    def _commit_again(self, runs: Sequence[_Run], error: errors.DfsError) -> None:
        """The NameNode has refused to make these the file's."""
        if isinstance(error, errors.Overwrites):
            self.note_size(max(run.offset + run.length for run in runs))
        self._uncommitted[:0] = runs

    def _is_weak(self, run: _Run) -> bool:
        return len(run.lane.nodes) < self._wanted

    async def _prepare(self, append: bool, durable: bool) -> None:
        """Have enough copies of what the next commit takes, and have them durable if `durable` or if it overwrites.

        No await stands between the last look at the copies and the commit that names them.
        """
        for _ in range(_ROUNDS_MAX):
            runs = self._uncommitted[: limits.EXTENTS_MAX]
            if durable or (not append and self._overwrites(runs)):
                await self._chunks.sync(_reach(runs))
            if not await self._strengthen():
                return
        raise errors.NotEnoughNodes(f"DataNodes keep failing while a file is written to them (inode {self.ino})")

    def _command(
        self, extents: Sequence[Extent], reach: dict[Lane, int], append: bool, mtime_ns: int | None, *, is_fresh: bool
    ) -> list[Any]:
        """The arguments of the command that makes these the file's. `is_fresh`: if they overwrite nothing."""
        places = [[lane.chunk, length, list(lane.nodes)] for lane, length in reach.items()]
        return [self.ino, extents, places, append, mtime_ns, is_fresh]

    def _committed(self, reply: Sequence[Any], extents: Sequence[Extent], reach: dict[Lane, int]) -> Attr:
        """The inode's attributes, of the answer to that command; no `extents` of bytes appended."""
        for lane, length in reach.items():
            self._volatile[lane] = max(self._volatile.get(lane, 0), length)
        attr = codec.attr(reply[0])
        self.note_change(attr)
        self._size = attr.size
        if extents:
            self.on_commit(attr, extents, reach)
        return attr

    def note_size(self, size: int) -> None:
        """The file was seen to be so large, whoever wrote it."""
        self._size = max(self._size, size)

    def note_cut(self, size: int) -> None:
        """The file was cut to this: what is written beyond overwrites nothing."""
        self._size = size

    def note_change(self, attr: Attr) -> None:
        """A change of this client's, which brought in no bytes of anybody else's, made the inode this, or will."""
        if attr.version == self._vouched + 1:
            self._vouched = attr.version

    def _is_vouched(self, version: int) -> bool:
        """When all has happened that was foreseen."""
        if self._surprises != self._session.stream.surprises:
            self._surprises, self._vouched = self._session.stream.surprises, -1
        return version <= self._vouched

    def _refuse_other_session(self, runs: Iterable[_Run]) -> None:
        """Who has leases must not write in one session what was written in another. Raises `SessionExpired`."""
        if self._session.cache is not None and any(run.lane.session != self._session.session for run in runs):
            raise errors.SessionExpired(f"the session ended before what was written was committed (inode {self.ino})")

    async def _rewrite_all(self, runs: Iterable[_Run]) -> list[_Run]:
        """These bytes, in another chunk. The caller settles the runs that they were in."""
        fresh: list[_Run] = []
        try:
            for run in runs:
                run.lane.usable = False
                fresh += await self._rewrite(run)
        except BaseException:
            await self._settle_surely(fresh)
            raise
        return fresh

    async def _settle_surely(self, runs: Iterable[_Run]) -> None:
        with trio.CancelScope(shield=True):  # bounded by the session's patience
            await self._settle(runs)

    async def _settle(self, runs: Iterable[_Run]) -> None:
        """These runs need no commit any more; lanes that nobody needs any more are sealed."""
        lanes: dict[Lane, None] = {}
        for run in runs:
            run.lane.uncommitted -= run.length
            lanes[run.lane] = None
        await self._chunks.seal_finished(lanes)

    def forget(self) -> None:
        """As `discard`, for what was written in a session that has ended: its chunks are sealed already.

        A version that was foreseen may never have been, so none is vouched for.
        """
        self.epoch += 1
        self._uncommitted.clear()
        self._meanwhile.clear()
        self._vouched = -1

    async def discard(self) -> None:
        """Forget what was written and not committed: its space comes back when its chunks are sealed."""
        runs = [*self._uncommitted, *self._meanwhile]
        self._uncommitted, self._meanwhile = [], []
        await self._settle(runs)

    async def _strengthen(self) -> bool:
        """Write again what is not committed and has too few copies left; whether there was any."""
        weak, epoch = list(filter(self._is_weak, self._uncommitted)), self.epoch
        for run in weak:
            fresh = await self._rewrite(run)
            await self._check_epoch(epoch, fresh)
            at = self._uncommitted.index(run)
            self._uncommitted[at : at + 1] = fresh
            await self._settle([run])
        return bool(weak)

    async def _rewrite(self, run: _Run) -> list[_Run]:
        fresh: list[_Run] = []
        buffer = memoryview(bytearray(min(run.length, limits.READ_MAX_BYTES)))
        try:
            for start in range(0, run.length, limits.READ_MAX_BYTES):
                size = min(limits.READ_MAX_BYTES, run.length - start)
                piece = Piece(0, size, run.lane.chunk, run.chunk_offset + start)
                await self._read_back(run.lane, piece, buffer[:size])
                _add(fresh, await self._append(run.offset + start, [buffer[:size]]))
        except BaseException:
            await self._settle_surely(fresh)
            raise
        return fresh

    async def _read_back(self, lane: Lane, piece: Piece, view: memoryview) -> None:
        """Bytes that are not committed, from any node that was to have them: nobody else can have written there.

        Waits for nodes that are away. Raises `DataLost`.
        """
        wait = self._chunks.wait(1)
        while True:
            try:
                grant = await self._chunks.grant(lane)
                await self._reader.read_piece([*lane.nodes, *lane.struck], piece, view, grant)
            except errors.DataLost as error:
                if not isinstance(error.__cause__, SILENT):
                    raise
                try:
                    await wait.step(error.__cause__)
                except SILENT:
                    raise error from None
            else:
                return

    # --- durability -------------------------------------------------------------------------------------

    async def flush(self) -> Attr | None:
        """Commit, and return when all bytes ever written here are durable on their replicas.

        That is on every replica that is alive, and on at least `min_replicas`. Raises `NotEnoughNodes`,
        `NoSpace` or `DataLost` when that cannot be had.
        """
        attr = await self.commit(durable=True)
        await self._make_durable()
        return attr

    async def _make_durable(self) -> None:
        reach = dict(self._volatile)
        await self._chunks.make_durable(reach, self._wanted, self._locate)
        for lane, length in reach.items():
            if self._volatile.get(lane) == length:
                del self._volatile[lane]

    async def fsync(self) -> Attr:
        """Commit, and return when all bytes of the file, whoever wrote them, are on stable storage; its attributes.

        Raises what `flush` raises.
        """
        return await self.ensure_durable(await self.commit(durable=True))

    async def ensure_durable(self, attr: Attr | None = None, losses: int | None = None) -> Attr:
        """As `fsync`, of what is committed; `attr` are the attributes after the commit, if there was one.

        Raises `SessionExpired`, too, if changes of attributes or names were lost since the stream had `losses`.

        It may wait for copies to be made, for a minute: others may write and commit meanwhile.
        """
        epoch = self.epoch
        await self._make_durable()
        attr = attr or await self._reader.inodes.getattr(self.ino)
        await self._session.stream.flush(losses)
        if not self._is_vouched(attr.version):
            async for layout in self._reader.inodes.layouts(self.ino, attr.size):
                await self._chunks.sync_places(list(layout.places.values()), self._wanted, self._locate)
            if epoch == self.epoch:
                self._vouched = max(self._vouched, attr.version)
        return attr

    async def _locate(self) -> dict[ChunkId, ChunkPlace]:
        """Where all chunks of the file are now; none of one that is gone."""
        try:
            return await self._reader.places(self.ino)
        except errors.NotFound:
            return {}


def _add(runs: list[_Run], new: _Run) -> None:
    """Append `new`, joined to the last run where it continues it in file and chunk."""
    if runs:
        last = runs[-1]
        in_file = last.offset + last.length == new.offset
        if last.lane is new.lane and in_file and last.chunk_offset + last.length == new.chunk_offset:
            runs[-1] = last._replace(length=last.length + new.length)
            return
    runs.append(new)


def _extents(runs: Iterable[_Run]) -> list[Extent]:
    return [Extent(run.offset, run.length, run.lane.chunk, run.chunk_offset) for run in runs]


def _reach(runs: Iterable[_Run]) -> dict[Lane, int]:
    """How far into each lane these runs reach."""
    reach: dict[Lane, int] = {}
    for run in runs:
        reach[run.lane] = max(reach.get(run.lane, 0), run.chunk_offset + run.length)
    return reach
