"""One file's new bytes on their way: appended to chunks, then committed, then durable.

    write   bytes are in chunks on DataNodes, in nobody's file yet
    commit  extents point at them: every client sees them
    flush   and the replicas have them on stable storage, at least `min_replicas` of them

Nodes may die in between. Bytes without enough copies that are not committed yet are read back from a copy
that is left, and appended anew to a chunk with all its copies: nobody has seen them, so nobody can have changed
them. Bytes that are committed stay where they are: the NameNode has the missing copies made, and
flush waits for that.

Invariants: `_uncommitted` is in the order of writing (of two runs that overlap, the later wins), and a run
stays in it until a commit with it was answered; `_volatile` has every lane with committed bytes of this file
that no flush has made durable since.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import trio

from dfs import codec, errors, limits
from dfs.checksum import Buffer
from dfs.client.reader import Piece, Reader
from dfs.client.session import Session
from dfs.client.writer import ChunkWriter, Lane
from dfs.types import Attr, Ino

_FLUSH_ROUNDS = 4


class _Run(NamedTuple):
    """`length` bytes of the file at `offset`, in `lane` at `chunk_offset`."""

    offset: int
    length: int
    lane: Lane
    chunk_offset: int

    def extent(self) -> list[int]:
        return [self.offset, self.length, self.lane.chunk, self.chunk_offset]


class FileWriter:
    """Writes to one inode. One task at a time may write; `commit` and `flush` may be called by any."""

    def __init__(self, session: Session, chunks: ChunkWriter, reader: Reader, ino: Ino, replicas: int) -> None:
        self.ino = ino
        self.replicas = replicas
        self._session = session
        self._chunks = chunks
        self._reader = reader
        self._lane: Lane | None = None
        self._committing = trio.Lock()
        self._uncommitted: list[_Run] = []
        self._volatile: dict[Lane, int] = {}
        """How far into each lane committed bytes of this file reach."""

    @property
    def uncommitted_bytes(self) -> int:
        return sum(run.length for run in self._uncommitted)

    @property
    def _wanted(self) -> int:
        return min(self._chunks.min_replicas, self.replicas)

    async def write(self, offset: int, data: Buffer) -> None:
        """Append `data`, to become the file's bytes at `offset` with the next commit."""
        if offset + len(data) > limits.FILE_SIZE_MAX_BYTES:
            raise errors.FileTooLarge(f"a file cannot be larger than {limits.FILE_SIZE_MAX_BYTES} bytes")
        view = memoryview(data)
        for start in range(0, len(view), limits.APPEND_MAX_BYTES):
            _add(
                self._uncommitted,
                await self._append(offset + start, view[start : start + limits.APPEND_MAX_BYTES]),
            )

    async def _append(self, offset: int, data: Buffer) -> _Run:
        written = await self._chunks.append(data, self.replicas, self._lane)
        self._lane = written.lane
        return _Run(offset, written.length, written.lane, written.chunk_offset)

    # --- commit -----------------------------------------------------------------------------------------

    async def commit(self, *, append: bool = False, mtime_ns: int | None = None) -> Attr | None:
        """Make all that was written visible, in one moment; the inode's attributes, None if there was nothing.

        With `append`, offsets count from the end of file as it is at that moment.
        """
        async with self._committing:
            await self._strengthen()
            return await self._commit(append, mtime_ns)

    async def _commit(self, append: bool, mtime_ns: int | None) -> Attr | None:
        attr: Attr | None = None
        while self._uncommitted:
            runs = self._uncommitted[: limits.EXTENTS_MAX]
            reach = _reach(runs)
            extents = [run.extent() for run in runs]
            places = [[lane.chunk, length, list(lane.nodes)] for lane, length in reach.items()]
            reply = await self._session.apply("commit", self.ino, extents, places, append, mtime_ns)
            attr = codec.attr(reply[0])
            del self._uncommitted[: len(runs)]
            for lane, length in reach.items():
                self._volatile[lane] = max(self._volatile.get(lane, 0), length)
            await self._settle(runs)
        return attr

    async def _settle(self, runs: Iterable[_Run]) -> None:
        """These runs need no commit any more; lanes that nobody needs any more are sealed."""
        lanes = set()
        for run in runs:
            run.lane.uncommitted -= run.length
            lanes.add(run.lane)
        await self._chunks.seal_finished(lanes)

    async def discard(self) -> None:
        """Forget what was written and not committed: its space comes back when its chunks are sealed."""
        runs, self._uncommitted = self._uncommitted, []
        await self._settle(runs)

    async def _strengthen(self) -> bool:
        """Write again what is not committed and has too few copies left; whether there was any."""
        weak = [run for run in self._uncommitted if len(run.lane.nodes) < self._wanted]
        for run in weak:
            fresh = await self._rewrite(run)
            at = self._uncommitted.index(run)
            self._uncommitted[at : at + 1] = fresh
        await self._settle(weak)
        return bool(weak)

    async def _rewrite(self, run: _Run) -> list[_Run]:
        fresh: list[_Run] = []
        buffer = memoryview(bytearray(min(run.length, limits.APPEND_MAX_BYTES)))
        for start in range(0, run.length, limits.APPEND_MAX_BYTES):
            size = min(limits.APPEND_MAX_BYTES, run.length - start)
            piece = Piece(0, size, run.lane.chunk, run.chunk_offset + start)
            await self._reader.read_uncommitted(run.lane.nodes, piece, buffer[:size])
            _add(fresh, await self._append(run.offset + start, buffer[:size]))
        return fresh

    # --- durability -------------------------------------------------------------------------------------

    async def flush(self, *, append: bool = False, mtime_ns: int | None = None) -> Attr | None:
        """Commit, and return when all bytes ever written here are durable on their replicas.

        That is on every replica that is alive, and on at least `min_replicas`. Raises `NotEnoughNodes`,
        `NoSpace` or `DataLost` when that cannot be had.
        """
        async with self._committing:
            for _ in range(_FLUSH_ROUNDS):
                await self._chunks.sync({run.lane for run in self._uncommitted})
                if not await self._strengthen():
                    break
            else:
                raise errors.NotEnoughNodes("DataNodes keep failing while the file is flushed to them")
            before = dict(self._volatile)
            attr = await self._commit(append, mtime_ns)
            await self._chunks.make_durable(before, self._wanted)
            self._volatile.clear()
            return attr


def _add(runs: list[_Run], new: _Run) -> None:
    """Append `new`, joined to the last run where it continues it in file and chunk."""
    if runs:
        last = runs[-1]
        in_file = last.offset + last.length == new.offset
        if last.lane is new.lane and in_file and last.chunk_offset + last.length == new.chunk_offset:
            runs[-1] = last._replace(length=last.length + new.length)
            return
    runs.append(new)


def _reach(runs: Iterable[_Run]) -> dict[Lane, int]:
    """How far into each lane these runs reach."""
    reach: dict[Lane, int] = {}
    for run in runs:
        reach[run.lane] = max(reach.get(run.lane, 0), run.chunk_offset + run.length)
    return reach
