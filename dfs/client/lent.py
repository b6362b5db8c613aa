"""Chunks read without asking: a DataNode of this host lends the open file of a chunk, and the client reads it itself.

That spares the bytes two copies and a way through a socket, and the DataNode all work. What is lent is a descriptor for
reading only and the chunk's blocks as they were then (`DataNode.lend`); every byte is held against its block's checksum
here, as what comes over the network is. What was appended later, a block that was freed or cut since, a chunk in
quarantine, a disk that fails: all show as bytes that do not match or are not there, and then the DataNode itself is
asked, which looks into it. So nothing has to be taken back from who has borrowed a file.

To whom a file is lent at all, `dfs.rpc.handover` says; the others are refused, and read as ever. A chunk's file is
asked for when the chunk is read for the second time of late: who reads a page each of a thousand chunks asks for none.
Where several replicas are on this host, a chunk is read from the same one each time: one file is lent, one is in
memory, and one is read in order.

A borrowed file is given up after LENT_FOR_S, so that the space of a chunk that was deleted comes back. Reads from the
disk are done by threads, into buffers that nobody else has: who does not wait any more leaves his behind, for a disk
may never answer. Those are few: with LENT_BEHIND_MAX of them under way still, DataNodes are asked.

A thread takes longer to begin and to end than a disk without moving parts to read a block. So a disk that was quick the
last time is asked to have the blocks in memory, without waiting for it, and looked after from the event loop, between
whatever else there is to do, for DISK_QUICK_S; a disk that takes longer is left to threads until one finds it quick.
"""

from __future__ import annotations

import math
import os
import sys
import time
import weakref
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Any, Final, NamedTuple, TypeVar

import structlog
import trio
from crc32c import crc32c

from dfs import errors, grants, limits
from dfs.client.datanodes import DataNodes
from dfs.client.refusals import Refusals
from dfs.client.spans import Span, parts
from dfs.rpc import Inbox
from dfs.runtime import Runtime
from dfs.types import ChunkId, NodeId

T = TypeVar("T")

_BUFFER_BYTES: Final = limits.READ_MAX_BYTES + 2 * limits.BLOCK_MAX_BYTES
_AT_ONCE_MAX_BYTES: Final = 2 * limits.BLOCK_MAX_BYTES
"""Read from memory without a thread, whose hop costs more."""
_LOOKS: Final = 32
"""For blocks in memory, before others have a turn: some tens of microseconds, as long as a turn takes itself."""
_WORD_BYTES: Final = 4
_REFUSALS: Final = (errors.NotSupported, errors.NotPermitted, errors.InvalidArgument)

log = structlog.get_logger(__name__)


class _Key(NamedTuple):
    node: NodeId
    chunk: ChunkId


class _Blocks(NamedTuple):
    """The blocks of a chunk: block i is the bytes up to `ends[i]`, which were freed where `punched[i]` is 1."""

    ends: array[int]
    crcs: array[int]
    punched: bytes

    @property
    def length(self) -> int:
        return self.ends[-1] if self.ends else 0

    @property
    def size_bytes(self) -> int:
        """In memory."""
        return (2 * _WORD_BYTES + 1) * len(self.punched)

    def covering(self, offset: int, length: int) -> range:
        """The numbers of the blocks that hold these bytes, which exist."""
        return range(bisect_right(self.ends, offset), bisect_left(self.ends, offset + length) + 1)

    def around(self, offset: int, length: int) -> tuple[range, int, int]:
        """The blocks that hold these bytes, which exist: their numbers, where they begin, and how long they are."""
        numbers = self.covering(offset, length)
        start = self.start(numbers.start)
        return numbers, start, self.ends[numbers.stop - 1] - start

    def start(self, number: int) -> int:
        return self.ends[number - 1] if number else 0

    def is_intact(self, view: memoryview, numbers: range) -> bool:
        """Whether `view` holds these blocks, as they were written."""
        base = start = self.start(numbers.start)
        for number in numbers:
            end = self.ends[number]
            if self.punched[number] or crc32c(view[start - base : end - base]) != self.crcs[number]:
                return False
            start = end
        return True


def _blocks(node: NodeId, columns: Any) -> _Blocks:
    """What `DataNode.lend` answers. Raises `ProtocolViolation` where no chunk has such blocks."""
    try:
        ends, crcs, punched = columns
        blocks = _Blocks(_words(ends), _words(crcs), bytes(memoryview(punched)))
    except (TypeError, ValueError):
        raise errors.ProtocolViolation(f"{node} lent a file and did not say what blocks it has") from None
    if not len(blocks.ends) == len(blocks.crcs) == len(blocks.punched) <= limits.CHUNK_MAX_BLOCKS:
        raise errors.ProtocolViolation(f"{node} lent a file of which blocks are missing, or are too many")
    if not all(0 < end - start <= limits.BLOCK_MAX_BYTES for start, end in pairwise([0, *blocks.ends])):
        raise errors.ProtocolViolation(f"{node} lent a file with blocks that are too long, or not in order")
    return blocks


def _words(packed: Any) -> array[int]:
    words = array("I")
    words.frombytes(packed)
    if sys.byteorder == "big":
        words.byteswap()
    return words


class _Wanted(NamedTuple):
    """Bytes of a chunk from `offset` on, for `target`. They are in these blocks, which begin at `start`."""

    target: memoryview
    numbers: range
    start: int
    length: int
    """Of the blocks."""
    offset: int

    def fill_from(self, whole: memoryview) -> None:
        """The blocks are in `whole`."""
        skipped = self.offset - self.start
        self.target[:] = whole[skipped : skipped + len(self.target)]


def _batches(left: Iterable[_Wanted]) -> Iterator[list[_Wanted]]:
    """In order, as much at a time as has room in a buffer with all of its blocks."""
    batch: list[_Wanted] = []
    room = _BUFFER_BYTES
    for wanted in left:
        if wanted.length > room:
            yield batch
            batch, room = [], _BUFFER_BYTES
        batch.append(wanted)
        room -= wanted.length
    if batch:
        yield batch


class _Lent:
    """A borrowed file. It is closed when nobody refers to it any more: a thread that reads from it does."""

    __slots__ = ("__weakref__", "blocks", "descriptor", "since")

    def __init__(self, descriptor: int, blocks: _Blocks) -> None:
        self.descriptor = descriptor
        self.blocks = blocks
        self.since = trio.current_time()
        weakref.finalize(self, os.close, descriptor)


class _Asked:
    """A question to a DataNode for a chunk's file. When it is `done` there is `lent`, or `error`, or neither."""

    __slots__ = ("done", "error", "lent")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.lent: _Lent | None = None
        self.error: errors.DfsError | None = None

    async def wait(self) -> _Lent | None:
        """What came of it. Raises what the node said."""
        await self.done.wait()  # bounded by the deadline of the call
        if self.error is not None:
            raise type(self.error)(self.error.message)  # its own, or it would collect the tracebacks of all
        return self.lent


class _Progress:
    """How far the thread of one read is, and how long it took in the end. Changed by that thread."""

    __slots__ = ("has_begun", "has_ended", "took_s")

    def __init__(self) -> None:
        self.has_begun = self.has_ended = False
        self.took_s = math.inf

    def follow(self, read: Callable[[], T]) -> T:
        """What `read` comes by. Blocks the thread."""
        self.has_begun = True
        began_s = time.monotonic()
        try:
            return read()
        finally:
            self.took_s = time.monotonic() - began_s
            self.has_ended = True


class LentChunks:
    """The files that DataNodes of this host have lent to one client. Methods may be called concurrently.

    `_lent` is in the order of their last use, and `_blocks_bytes` what their blocks take; `_asking` has those that are
    being asked for, `_seen` the chunks read of late and from which node each is read, the latest last. `_behind` are
    the reads that nobody waits for any more. `_quick` are the nodes whose disk had what was wanted last within
    DISK_QUICK_S; `_looking` is how many reads look after one.
    """

    def __init__(self, nodes: DataNodes, runtime: Runtime, inbox: Inbox | None) -> None:
        self._nodes = nodes
        self._runtime = runtime
        self._inbox = inbox
        self._lent: OrderedDict[_Key, _Lent] = OrderedDict()
        self._blocks_bytes = 0
        self._asking: dict[_Key, _Asked] = {}
        self._seen: OrderedDict[ChunkId, NodeId] = OrderedDict()
        self._refusals = Refusals("files of a DataNode of this host are not read past it")
        self._behind: list[_Progress] = []
        self._quick: set[NodeId] = set()
        self._looking = 0
        self._buffers: list[bytearray] = []
        self._read_bytes = 0

    async def read_soon(self, chunk: ChunkId, offset: int, view: memoryview) -> bool:
        """As `read_into` from whoever has lent the chunk, where that is a matter of a moment; False: it is not.

        Nothing is asked for, and so nothing is raised.
        """
        node = self._seen.get(chunk)
        if node is None or len(view) > limits.BLOCK_MAX_BYTES or not self._nodes.is_well(node):
            return False
        key = _Key(node, chunk)
        lent = self._lent.get(key)
        if lent is None or offset + len(view) > lent.blocks.length or not self._is_timely(lent):
            return False
        self._seen.move_to_end(chunk)
        self._lent.move_to_end(key)
        is_read = await self._read_soon(node, lent, offset, view)
        self._read_bytes += len(view) * is_read
        return is_read

    async def read_whole(self, chunk: ChunkId, offset: int, length: int, timeout_s: float) -> memoryview | None:
        """Whole blocks, of a chunk that is lent already, in memory of their own; None: they are to be read otherwise.

        As `read_into`, but nothing is copied.
        """
        node = self._seen.get(chunk)
        lent = self._lent.get(_Key(node, chunk)) if node is not None and self._nodes.is_well(node) else None
        if node is None or lent is None or offset + length > lent.blocks.length or not self._is_timely(lent):
            return None
        numbers, start, whole = lent.blocks.around(offset, length)
        if (start, whole) != (offset, length) or self._is_held_up():
            return None
        self._seen.move_to_end(chunk)
        self._lent.move_to_end(_Key(node, chunk))
        view = None
        with suppress(errors.Busy):
            view = await self._off_the_loop(node, timeout_s, partial(_read_whole, lent, offset, length, numbers))
        if view is not None:
            self._read_bytes += length
        return view

    async def read_into(
        self, node: NodeId, chunk: ChunkId, spans: Sequence[Span], view: memoryview, grant: bytes
    ) -> bool:
        """Fill `view` with these bytes of a chunk, one after the other, verified; False: the node is to be asked.

        Raises what the node says when it is asked for the file.
        """
        if self._inbox is None or not self._nodes.is_on_this_host(node) or self._is_held_up():
            return False
        if grants.is_for_ranges(grant):
            return False
        key = _Key(node, chunk)
        lent = await self._borrow(key, max(span.end for span in spans), grant)
        if lent is None:
            return False
        is_read = await self._read(node, lent, spans, view)
        if not is_read:
            self._give_up(key, lent)
        self._read_bytes += len(view) * is_read
        return is_read

    def first(self, chunk: ChunkId, nodes: Sequence[NodeId]) -> Sequence[NodeId]:
        """`nodes`, in the order in which they are to be asked: first the one that lends the chunk, unless it is ill."""
        lender = self._seen.get(chunk)
        if lender is not None and lender not in nodes:
            del self._seen[chunk]  # its replica is elsewhere now
        elif lender is not None and lender != nodes[0] and self._may_lend(lender):
            return [lender, *(node for node in nodes if node != lender)]
        return nodes

    def forget(self, chunk: ChunkId, node: NodeId) -> None:
        """The node could not serve the chunk: the next read need not begin there."""
        if self._seen.get(chunk) == node:
            del self._seen[chunk]

    # --- reading ----------------------------------------------------------------------------------------

    def _is_timely(self, lent: _Lent) -> bool:
        return trio.current_time() < lent.since + limits.LENT_FOR_S

    async def _read_soon(self, node: NodeId, lent: _Lent, offset: int, view: memoryview) -> bool:
        wanted = _Wanted(view, *lent.blocks.around(offset, len(view)), offset)
        buffer = self._take_buffer()
        part = memoryview(buffer)[: wanted.length]
        is_intact = _read_nowait(lent, part, wanted.numbers)
        if is_intact is None and node in self._quick and self._looking < limits.DISK_LOOKING_MAX:
            is_intact = await self._look_after(node, lent, part, wanted.numbers)
        if is_intact:
            wanted.fill_from(part)
        self._keep_buffer(buffer)
        return bool(is_intact)

    async def _look_after(self, node: NodeId, lent: _Lent, part: memoryview, numbers: range) -> bool | None:
        """As `_read_nowait`, after the disk had a moment to have the blocks in memory."""
        give_up_at = trio.current_time() + limits.DISK_QUICK_S
        self._looking += 1
        try:
            _have_in_memory(lent, lent.blocks.start(numbers.start), len(part))
            while trio.current_time() < give_up_at:
                await trio.lowlevel.checkpoint()
                for _ in range(_LOOKS):
                    is_intact = _read_nowait(lent, part, numbers)
                    if is_intact is not None:
                        return is_intact
        finally:
            self._looking -= 1
        self._quick.discard(node)
        return None

    async def _read(self, node: NodeId, lent: _Lent, spans: Sequence[Span], view: memoryview) -> bool:
        everything = (_Wanted(target, *lent.blocks.around(*span), span.offset) for span, target in parts(view, spans))
        left = [wanted for wanted in everything if not self._read_at_once(lent, wanted)]
        for batch in _batches(left):
            if not await self._read_batch(node, lent, batch):
                return False
        return True

    def _read_at_once(self, lent: _Lent, wanted: _Wanted) -> bool:
        """Whether the bytes were in memory, and whole."""
        if wanted.length > _AT_ONCE_MAX_BYTES:
            return False
        if wanted.length == len(wanted.target):
            return bool(_read_nowait(lent, wanted.target, wanted.numbers))
        buffer = self._take_buffer()
        part = memoryview(buffer)[: wanted.length]
        is_intact = _read_nowait(lent, part, wanted.numbers)
        if is_intact:
            wanted.fill_from(part)
        self._keep_buffer(buffer)
        return bool(is_intact)

    async def _read_batch(self, node: NodeId, lent: _Lent, batch: Sequence[_Wanted]) -> bool:
        buffer = self._take_buffer()
        views, rest = [], memoryview(buffer)
        for wanted in batch:
            views.append(rest[: wanted.length])
            rest = rest[wanted.length :]
        reads = list(zip(views, (wanted.numbers for wanted in batch), strict=True))
        try:
            is_intact = await self._off_the_loop(node, limits.DATA_TIMEOUT_S, partial(_read_blocking, lent, reads))
        except errors.Busy:
            self._keep_buffer(buffer)
            return False
        if is_intact is None:  # the buffer is the thread's for good
            self._refusals.refuse(node, "its disk does not answer")
            return False
        if is_intact:
            for wanted, view in zip(batch, views, strict=True):
                wanted.fill_from(view)
        self._keep_buffer(buffer)
        return is_intact

    def _take_buffer(self) -> bytearray:
        return self._buffers.pop() if self._buffers else bytearray(_BUFFER_BYTES)

    def _keep_buffer(self, buffer: bytearray) -> None:
        if len(self._buffers) < limits.LENT_BUFFERS_KEPT:
            self._buffers.append(buffer)

    async def _off_the_loop(self, node: NodeId, timeout_s: float, read: Callable[[], T]) -> T | None:
        """What a thread comes by that reads from the disk of a node; None if it takes too long.

        Raises `Busy` if no thread may begin at the moment: that says nothing of the node.
        """
        progress = _Progress()
        try:
            with trio.move_on_after(timeout_s):
                found = await self._runtime.run_abandonable(progress.follow, read)
                if progress.took_s <= limits.DISK_QUICK_S:
                    self._quick.add(node)
                return found
        finally:
            if progress.has_begun and not progress.has_ended:
                self._behind.append(progress)
        return None

    def _is_held_up(self) -> bool:
        """Whether a disk of this host has been asked for so much, and not answered, that it is asked for no more."""
        self._behind = [progress for progress in self._behind if not progress.has_ended]
        return len(self._behind) >= limits.LENT_BEHIND_MAX

    # --- borrowing --------------------------------------------------------------------------------------

    async def _borrow(self, key: _Key, end: int, grant: bytes) -> _Lent | None:
        """The file of a chunk, with blocks up to `end`; None if it is not to be had now. Raises what the node says."""
        now = trio.current_time()
        asked = self._asking.get(key)
        lent = self._lent.get(key)
        if asked is not None:
            lent = await asked.wait()
        elif lent is None or now >= lent.since + self._serves_for_s(lent, end):
            if lent is not None:
                self._give_up(key, lent)
            if not self._is_read_again(key) or not self._refusals.may_ask(key.node):
                return None
            lent = await self._ask(key, grant)
        if lent is None or lent.blocks.length < end:
            return None
        if key in self._lent:
            self._lent.move_to_end(key)
        return lent

    def _serves_for_s(self, lent: _Lent, end: int) -> float:
        """A chunk that has grown is not asked for again at once: whoever reads what is being written asks the node."""
        return limits.LENT_FOR_S if end <= lent.blocks.length else limits.LEND_LONGER_AFTER_S

    def _is_read_again(self, key: _Key) -> bool:
        """Whether the chunk was read from this node of late. Another replica than the one that is read is not taken up
        instead of it, unless it has to be: pieces that are fetched at once, and hedged reads, ask several."""
        known = self._seen.get(key.chunk)
        if known is None or (known != key.node and not self._may_lend(known)):
            self._seen[key.chunk] = key.node
        self._seen.move_to_end(key.chunk)
        if len(self._seen) > limits.LENT_CHUNKS_MAX:
            self._seen.popitem(last=False)
        return known == key.node

    def _may_lend(self, node: NodeId) -> bool:
        return self._nodes.is_well(node) and self._refusals.may_ask(node)

    async def _ask(self, key: _Key, grant: bytes) -> _Lent | None:
        """Ask for a chunk's file; whoever wants it meanwhile waits for the same answer."""
        asked = self._asking[key] = _Asked()
        try:
            asked.lent = await self._receive(key, grant)
        except errors.DfsError as error:
            asked.error = error
            raise
        finally:
            del self._asking[key]
            asked.done.set()
        if asked.lent is not None:
            self._keep(key, asked.lent)
        return asked.lent

    async def _receive(self, key: _Key, grant: bytes) -> _Lent | None:
        assert self._inbox is not None
        ticket = self._inbox.expect()
        try:
            columns, _ = await self._nodes.call(key.node, "lend", key.chunk, grant, self._inbox.name, ticket)
            blocks = _blocks(key.node, columns)
            if not await self._inbox.collect(self._runtime):
                return None
            descriptor = self._inbox.take(ticket)
        except errors.Busy:  # perhaps of what is there and was never taken
            await self._inbox.collect(self._runtime)
            return None
        except errors.ProtocolViolation as error:
            self._refusals.refuse(key.node, error.message)
            raise
        except _REFUSALS as error:
            self._refusals.refuse(key.node, error.message)
            return None
        finally:
            self._inbox.forget(ticket)
        if descriptor is None:
            self._refusals.miss(key.node, "what it lends does not arrive")
            return None
        self._refusals.came(key.node)
        return _Lent(descriptor, blocks)

    def _keep(self, key: _Key, lent: _Lent) -> None:
        self._lent[key] = lent
        self._blocks_bytes += lent.blocks.size_bytes
        while len(self._lent) > limits.LENT_CHUNKS_MAX or self._blocks_bytes > limits.LENT_BLOCKS_MAX_BYTES:
            self._give_up(*next(iter(self._lent.items())))

    def _give_up(self, key: _Key, lent: _Lent) -> None:
        if self._lent.get(key) is lent:
            del self._lent[key]
            self._blocks_bytes -= lent.blocks.size_bytes

    async def give_back(self) -> None:
        """Give up each file when its time is over, all at the end. Runs until cancelled."""
        try:
            while True:
                await trio.sleep(limits.LENT_FOR_S / 4)
                due = trio.current_time() - limits.LENT_FOR_S
                for key, lent in [(key, lent) for key, lent in self._lent.items() if lent.since <= due]:
                    self._give_up(key, lent)
                if self._inbox is not None:
                    await self._inbox.collect(self._runtime)
        finally:
            self._lent.clear()
            if self._inbox is not None:
                await self._inbox.aclose(self._runtime)

    def statistics(self) -> dict[str, int]:
        return {
            "lent_chunks": len(self._lent),
            "lent_read_bytes": self._read_bytes,
            "lenders_refused": self._refusals.count(),
        }


def _read_nowait(lent: _Lent, view: memoryview, numbers: range) -> bool | None:
    """Whether the blocks are as they were written; None where they are not in memory."""
    try:
        count = os.preadv(lent.descriptor, [view], lent.blocks.start(numbers.start), os.RWF_NOWAIT)
    except OSError:
        return None
    return lent.blocks.is_intact(view, numbers) if count == len(view) else None


def _have_in_memory(lent: _Lent, offset: int, length: int) -> None:
    """Have the disk begin to read these bytes. What keeps it from that, who reads them finds out."""
    with suppress(OSError):
        os.posix_fadvise(lent.descriptor, offset, length, os.POSIX_FADV_WILLNEED)


def _read_blocking(lent: _Lent, reads: Sequence[tuple[memoryview, range]]) -> bool:
    """Read the blocks. Blocks the thread. Whether they are as they were written."""
    if len(reads) > 1:  # in any order that suits the disk
        for view, numbers in reads:
            _have_in_memory(lent, lent.blocks.start(numbers.start), len(view))
    return all(
        _fill(lent, view, lent.blocks.start(numbers.start)) and lent.blocks.is_intact(view, numbers)
        for view, numbers in reads
    )


def _read_whole(lent: _Lent, offset: int, length: int, numbers: range) -> memoryview | None:
    """As `_read_blocking`, into memory that is new and was not zeroed: these bytes, which the blocks are, or None."""
    try:
        view = memoryview(os.pread(lent.descriptor, length, offset))
    except OSError as error:
        _warn(error)
        return None
    return view if len(view) == length and lent.blocks.is_intact(view, numbers) else None


def _fill(lent: _Lent, view: memoryview, offset: int) -> bool:
    position = 0
    try:
        while position < len(view):
            count = os.preadv(lent.descriptor, [view[position:]], offset + position)
            if not count:
                return False
            position += count
    except OSError as error:
        _warn(error)
        return False
    return True


def _warn(error: OSError) -> None:
    log.warning("a chunk cannot be read from a disk of this host", error=error.strerror)
