"""Reading a file's bytes: extents, then replicas, until verified bytes are there.

A read asks the NameNode which extents cover the range and where their chunks are, fills holes with zeros, and
fetches the rest in parallel, each piece from the replica that seems best (same host, least busy). A replica that
does not answer, has lost the chunk or sends bytes that do not match their checksum costs a retry at the next one. Short
pieces of one chunk, as a file has them that was written at random, are asked for together. A
piece that several have, and none of them whole, is asked for in parts, and these in halves, as where smaller blocks
begin is not known here: each may have what others have not. One
that is slow to answer is not given up: the next one is asked as well, and the first answer counts (`patience`).
When all fail, the extents are asked for again: the file may have been rewritten or its chunks copied
elsewhere meanwhile. Only then is the data called lost: soon, where no replica is silent and all are damaged, and after
DATANODES_WAIT_S where one does not answer that the NameNode does not call dead.

Bytes under way are bounded for the whole client by `BYTES_IN_FLIGHT_MAX`; those of replicas that are asked as well come
on top of that, as often as patience allows.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Final, NamedTuple

import structlog
import trio

from dfs import errors, limits, tasks
from dfs.client.datanodes import SILENT, DataNodes
from dfs.client.inodes import Inodes, Layout
from dfs.client.lent import LentChunks
from dfs.client.patience import Patience
from dfs.client.spans import Span, parts
from dfs.types import ChunkId, ChunkPlace, Extent, Ino, NodeId

_ROUNDS = 4  # times the extents are asked for before data counts as lost
_ROUND_DELAY_S = 0.5
_END: Final = attrgetter("end")

log = structlog.get_logger(__name__)


class Piece(NamedTuple):
    """Part of one extent, at most READ_MAX_BYTES: `length` bytes for the buffer at `start`.

    Or of several, whose bytes are wanted one after the other: `gathered` has where they are, `chunk_offset` is the
    first of these.
    """

    start: int
    length: int
    chunk: ChunkId
    chunk_offset: int
    gathered: tuple[Span, ...] = ()

    @property
    def spans(self) -> tuple[Span, ...]:
        return self.gathered or (Span(self.chunk_offset, self.length),)


class Filled(NamedTuple):
    """How many bytes are there, fewer than were wanted where the file ended before them; and whether what was known of
    where they are was good: if it was not, who keeps it forgets it."""

    length: int
    was_good: bool


def pieces_of(extents: Sequence[Extent], offset: int, length: int) -> Iterator[Piece]:
    """Cut what `extents` hold of the file's [offset, offset + length) into pieces; what is between them is a hole.

    They are in order, and a file that was written at random has thousands: those of the range are found by halving.
    """
    end = offset + length
    for index in range(bisect_right(extents, offset, key=_END), len(extents)):
        extent = extents[index]
        if extent.offset >= end:
            return
        first, last = max(extent.offset, offset), min(extent.end, end)
        while first < last:
            size = min(last - first, limits.READ_MAX_BYTES)
            yield Piece(first - offset, size, extent.chunk, extent.chunk_offset + first - extent.offset)
            first += size


def gather(pieces: Iterable[Piece]) -> list[list[Piece]]:
    """Which pieces are to be asked for together: short ones of one chunk, no more than one call can be for."""
    groups: list[list[Piece]] = []
    open_groups: dict[ChunkId, tuple[list[Piece], int]] = {}
    for piece in pieces:
        group, total = open_groups.get(piece.chunk, ([], 0))
        is_short = piece.length <= limits.BLOCK_MAX_BYTES
        if (
            not group
            or not is_short
            or len(group) == limits.READ_RANGES_MAX
            or (total + piece.length > limits.READ_MAX_BYTES)
        ):
            group, total = [], 0
            groups.append(group)
        group.append(piece)
        if is_short:
            open_groups[piece.chunk] = group, total + piece.length
    return groups


def joined(group: Sequence[Piece]) -> Piece:
    """The pieces of a group as one, for a buffer that has them one after the other."""
    if len(group) == 1:
        return group[0]
    spans = tuple(Span(piece.chunk_offset, piece.length) for piece in group)
    length = sum(span.length for span in spans)
    return Piece(group[0].start, length, group[0].chunk, spans[0].offset, spans)


def parts_of(piece: Piece) -> Iterator[Piece]:
    """What was gathered; else a piece of 2 or more bytes in parts that do not reach over a border of the largest
    blocks, or in halves."""
    done = 0
    if piece.gathered:
        for span in piece.gathered:
            yield Piece(piece.start + done, span.length, piece.chunk, span.offset)
            done += span.length
        return
    while done < piece.length:
        at = piece.chunk_offset + done
        length = min(limits.BLOCK_MAX_BYTES - at % limits.BLOCK_MAX_BYTES, piece.length - done)
        if length == piece.length:
            length = (piece.length + 1) // 2
        yield Piece(piece.start + done, length, piece.chunk, at)
        done += length


class _Other:
    """Another replica that is asked as well, into a buffer of its own. `done` is set when it has answered, or not."""

    __slots__ = ("buffer", "done", "node", "scope")

    def __init__(self, node: NodeId, buffer: bytearray) -> None:
        self.node = node
        self.buffer = buffer
        self.scope = trio.CancelScope()
        self.done = trio.Event()


class _Fetch:
    """One piece on its way to `target`. `left` are the replicas not asked yet.

    `others` are asked as well, as the one that was asked first is slow; `asking` ends when one of them has the bytes:
    the `winner`. `failures` and `expired` say why some did not serve it. `is_part`: of a piece that nobody had whole.
    """

    __slots__ = (*("asking", "expired", "failures", "grant", "is_part", "left", "others", "piece", "target", "winner"),)

    def __init__(
        self, piece: Piece, target: memoryview, grant: bytes, left: deque[NodeId], *, is_part: bool = False
    ) -> None:
        self.piece = piece
        self.is_part = is_part
        self.target = target
        self.grant = grant
        self.left = left
        self.asking = trio.CancelScope()
        self.others: list[_Other] = []
        self.winner: _Other | None = None
        self.failures: list[tuple[NodeId, errors.DfsError]] = []
        self.expired: errors.GrantExpired | None = None

    def end_attempt(self) -> None:
        """Nobody waits any more for those that were asked."""
        self.asking = trio.CancelScope()
        for other in self.others:
            other.scope.cancel()
        self.others = []


class Reader:
    """Reads files of one client. Methods may be called concurrently.

    `_watched` has the pieces under way, and when waiting for one replica only is to end; `hedge` looks after them when
    `_alarm` rings.
    """

    def __init__(self, inodes: Inodes, nodes: DataNodes, lent: LentChunks) -> None:
        self.inodes = inodes
        self._nodes = nodes
        self._lent = lent
        self._slots = trio.CapacityLimiter(limits.BYTES_IN_FLIGHT_MAX // limits.READ_MAX_BYTES)
        self._read_bytes = 0
        self._failovers = 0
        self._hedges = 0
        self._patience = Patience()
        self._watched: dict[_Fetch, float] = {}
        self._alarm = trio.CancelScope()

    async def places(self, ino: Ino) -> dict[ChunkId, ChunkPlace]:
        """Where all chunks of a file are. Raises `NotFound`."""
        found: dict[ChunkId, ChunkPlace] = {}
        async for layout in self.inodes.layouts(ino):
            found.update(layout.places)
        return found

    async def read_into(self, ino: Ino, offset: int, view: memoryview) -> int:
        """Fill `view` with the file's bytes at `offset`; how many there were before the end of file.

        Raises `NotFound` for an inode that is gone, `DataLost` when bytes can be had from no replica.
        """
        done = 0
        while done < len(view):
            layout = await self.inodes.layout(ino, offset + done, len(view) - done)
            length = min(layout.attr.size, layout.end) - (offset + done)
            if length <= 0:
                break
            filled = (await self.fill(ino, layout, offset + done, view[done : done + length])).length
            done += filled
            if filled < length:
                break
        return done

    async def fill(self, ino: Ino, layout: Layout, offset: int, view: memoryview) -> Filled:
        """Fill all of `view` from `layout`, which covers it, or from a newer one that is asked for where that fails.

        Of a newer one only as far as the file reaches then.
        """
        wait_until = trio.current_time() + limits.DATANODES_WAIT_S
        for attempt in itertools.count(1):
            try:
                await self._fill(layout, offset, view)
                return Filled(len(view), attempt == 1)
            except errors.GrantExpired:
                if attempt >= _ROUNDS:
                    raise
                if attempt > 1:  # the NameNode's clock was set: DataNodes hear of it with the next heartbeat
                    await trio.sleep(_ROUND_DELAY_S)
            except errors.DataLost as error:
                is_damaged = isinstance(error.__cause__, errors.Corrupt)  # everywhere: waiting does not help
                is_away = isinstance(error.__cause__, SILENT) and trio.current_time() < wait_until
                if attempt >= (2 if is_damaged else _ROUNDS) and not is_away:
                    raise
                log.warning("no replica could serve a read, asking where they are now", ino=ino, error=str(error))
                if not is_damaged:
                    await trio.sleep(_ROUND_DELAY_S)
            layout = await self.inodes.layout(ino, offset, len(view))
            if min(layout.attr.size, layout.end) < offset + len(view):
                return Filled(await self.read_into(ino, offset, view), False)
        raise AssertionError("the last attempt returns or raises")

    async def read_whole(self, layout: Layout, offset: int, length: int) -> memoryview | None:
        """Bytes that are whole blocks of one chunk on this host's disks, in memory of their own, without a copy.

        None where they are not, or a disk takes longer than it should: `fill` has them, from another replica perhaps.
        """
        pieces = list(pieces_of(layout.extents, offset, length))
        if len(pieces) != 1 or pieces[0].length != length:
            return None
        began = trio.current_time()
        async with self._slots:
            chunk, chunk_offset = pieces[0].chunk, pieces[0].chunk_offset
            view = await self._lent.read_whole(chunk, chunk_offset, length, self._patience.delay_s)
        if view is not None:
            self._read_bytes += length
            self._patience.note(trio.current_time() - began)
        return view

    async def _fill(self, layout: Layout, offset: int, view: memoryview) -> None:
        pieces = list(pieces_of(layout.extents, offset, len(view)))
        position = 0
        for piece in pieces:
            _zero(view[position : piece.start])
            position = piece.start + piece.length
        _zero(view[position:])
        groups = gather(pieces)
        if len(groups) == 1:
            await self._fetch_group(groups[0], layout.places, view)
            return
        lost: list[errors.DataLost | errors.GrantExpired] = []

        async def fetch(group: Sequence[Piece]) -> None:
            try:
                await self._fetch_group(group, layout.places, view)
            except (errors.DataLost, errors.GrantExpired) as error:
                lost.append(error)

        async with tasks.open_nursery() as nursery:
            for group in groups:
                nursery.start_soon(fetch, group)
        if lost:
            raise lost[0]

    async def _fetch_group(self, group: Sequence[Piece], places: dict[ChunkId, ChunkPlace], view: memoryview) -> None:
        whole, last = joined(group), group[-1]
        if whole.start + whole.length == last.start + last.length:  # nothing is between them
            await self._fetch(whole, places, view)
            return
        buffer = memoryview(bytearray(whole.length))
        await self._fetch(whole._replace(start=0), places, buffer)
        for piece, (_, part) in zip(group, parts(buffer, whole.gathered), strict=True):
            view[piece.start : piece.start + piece.length] = part

    async def _fetch(
        self, piece: Piece, places: dict[ChunkId, ChunkPlace], view: memoryview, *, is_part: bool = False
    ) -> None:
        target = view[piece.start : piece.start + piece.length]
        if not piece.gathered and await self._lent.read_soon(piece.chunk, piece.chunk_offset, target):
            self._read_bytes += piece.length
            return
        place = places.get(piece.chunk) or ChunkPlace(piece.chunk, 0, ())
        nodes = self._lent.first(piece.chunk, self._nodes.by_preference(place.nodes))
        fetch = _Fetch(piece, target, place.grant, deque(nodes), is_part=is_part)
        async with self._slots:
            while fetch.left:
                if await self._fetch_from(fetch, fetch.left.popleft()):
                    self._read_bytes += piece.length
                    return
        if fetch.expired is not None:
            raise fetch.expired
        damages = [error for _, error in fetch.failures if isinstance(error, errors.Corrupt)]
        answered = tuple(node for node, error in fetch.failures if not isinstance(error, SILENT))
        if damages and len(answered) > 1 and piece.length > 1:
            try:
                for part in parts_of(piece):
                    await self._fetch(part, {piece.chunk: place._replace(nodes=answered)}, view, is_part=True)
            except errors.DataLost:
                if len(answered) == len(fetch.failures):
                    raise
            else:
                return
        why = "; ".join(f"{node}: {error}" for node, error in fetch.failures) or "no DataNode holds a copy"
        silent = [error for _, error in fetch.failures if isinstance(error, SILENT)]
        cause = damages[0] if damages and len(damages) == len(fetch.failures) else next(iter(silent), None)
        raise errors.DataLost(f"chunk {piece.chunk:x}: {why}") from cause

    async def _fetch_from(self, fetch: _Fetch, node: NodeId) -> bool:
        """Whether the bytes are there, from `node` or from another one that was asked since this one is slow."""
        began = trio.current_time()
        if fetch.left:
            self._watch(fetch)
        is_read, slow = False, [node]
        try:
            with fetch.asking:
                is_read = await self._attempt(fetch, node, fetch.target)
                slow.remove(node)
                for other in () if is_read else fetch.others:  # of which there may be more meanwhile
                    await other.done.wait()  # bounded by the deadline of its call
            if not is_read and fetch.winner is not None:
                fetch.target[:], is_read = fetch.winner.buffer, True
                slow += [
                    other.node for other in fetch.others[: fetch.others.index(fetch.winner)] if not other.done.is_set()
                ]
                for each in slow:
                    self._nodes.note_slow(each)
        finally:
            self._watched.pop(fetch, None)
            fetch.end_attempt()
        if is_read:
            self._patience.note(trio.current_time() - began)
        return is_read

    async def _attempt(self, fetch: _Fetch, node: NodeId, target: memoryview) -> bool:
        piece = fetch.piece
        try:
            await self._read_from(node, piece, target, fetch.grant)
        except errors.GrantExpired as error:  # the same at all nodes, unless one's clock is wrong
            fetch.expired = error
        except errors.DfsError as error:
            self._failovers += 1
            self._lent.forget(piece.chunk, node)
            fetch.failures.append((node, error))
            say = log.debug if fetch.is_part else log.warning  # the whole piece was told of
            say("replica could not serve a read", node=node, chunk=f"{piece.chunk:x}", error=str(error))
        else:
            return True
        return False

    async def _read_from(self, node: NodeId, piece: Piece, target: memoryview, grant: bytes) -> None:
        if not await self._lent.read_into(node, piece.chunk, piece.spans, target, grant):
            await self._nodes.read_into(node, piece.chunk, piece.spans, target, grant)

    # --- asking twice -----------------------------------------------------------------------------------

    def _watch(self, fetch: _Fetch) -> None:
        """Have another replica asked as well if this one takes long. The alarm is never later than the first is due."""
        due = self._watched[fetch] = trio.current_time() + self._patience.delay_s
        if due < self._alarm.deadline:
            self._alarm.deadline = due

    async def hedge(self) -> None:
        """Ask another replica as well where one is slow to answer. Runs until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                with self._alarm:
                    await trio.sleep_forever()
                for fetch in self._take_slow():
                    other = _Other(fetch.left.popleft(), bytearray(fetch.piece.length))
                    fetch.others.append(other)
                    nursery.start_soon(self._fetch_other, fetch, other)
                    if fetch.left:
                        self._watch(fetch)
                self._alarm = trio.CancelScope(deadline=min(self._watched.values(), default=math.inf))

    def _take_slow(self) -> list[_Fetch]:
        """Those that have waited long enough, as many as may ask another one now: they are watched no more."""
        now = trio.current_time()
        taken = []
        for fetch in [fetch for fetch, due in self._watched.items() if due <= now]:
            if self._patience.spend():
                del self._watched[fetch]
                taken.append(fetch)
            else:
                self._watched[fetch] = now + self._patience.delay_s
        return taken

    async def _fetch_other(self, fetch: _Fetch, other: _Other) -> None:
        self._hedges += 1
        is_read = False
        try:
            with other.scope:
                is_read = await self._attempt(fetch, other.node, memoryview(other.buffer))
        except Exception:
            told = {"node": other.node, "chunk": f"{fetch.piece.chunk:x}"}
            log.exception("another replica could not be asked as well: unexpected error", **told)
        finally:
            other.done.set()
        if is_read and other in fetch.others and fetch.winner is None:
            fetch.winner = other
            fetch.asking.cancel()

    async def read_piece(self, nodes: Sequence[NodeId], piece: Piece, view: memoryview, grant: bytes) -> None:
        """Fill `view` with one piece of a chunk, whatever file has it, from the nodes that are known to have it.

        Raises `DataLost`, from one of SILENT if a node that may have it did not answer; `GrantExpired`.
        """
        place = ChunkPlace(piece.chunk, piece.chunk_offset + piece.length, tuple(nodes), grant)
        await self._fetch(piece, {piece.chunk: place}, view)

    def statistics(self) -> dict[str, int]:
        return {"read_bytes": self._read_bytes, "failovers": self._failovers, "hedges": self._hedges}


def _zero(view: memoryview) -> None:
    if len(view):
        view[:] = bytes(len(view))
