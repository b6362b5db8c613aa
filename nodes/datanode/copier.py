"""Making a copy of a chunk that other DataNodes hold: pulled block by block, verified, then synced.

What is pulled waits for its share of `bandwidth`, which all copies to this node have together, and for its turn at the
disk while users are here: nobody has a turn while he waits for a source. A source that has not answered in time is
asked after all others for COPY_SOURCE_LATE_S.

A copy keeps the blocks of its source, the punched ones as holes, so that both read and punch alike. All copies of a
chunk have the same blocks. So what is here already stays, as far as it is whole: a chunk's bytes never change, and what
lies beyond the length was never committed. Its damaged blocks are written anew, and what it lacks at its end is
appended. Any source may have any block of it: where one fails, or has damaged blocks itself, the next one goes on, and
all are asked again as long as that brings more. So a chunk is whole again if each of its blocks is left somewhere.

A block that every source says it has not got whole is lost, and takes no other with it: a copy that is to be made
`partly` has it as damaged then, with the checksum that it had. That a source did not answer is a failure.

Should a source have other blocks than what is here (each says where the next one begins, and with which checksum), both
cannot be parts of one copy: what was here before is set aside then, what was pulled goes, and it begins anew from that
source. What was here before is not given up for one that has not all blocks whole itself: they are read once before.

A cut that went through a damaged block left it whole: it makes place for the source's, once that is here.

A copy of a chunk that was not here leaves nothing behind when it is cut short, as the daemon stops, or fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import structlog
import trio

from dfs import errors, limits
from dfs.rpc import Pool
from dfs.types import ChunkId, NodeId, datanode_object
from nodes.datanode.bandwidth import TokenBucket
from nodes.datanode.index import Record, unpack_records
from nodes.datanode.users import Background
from nodes.datanode.volumes import Volumes

log = structlog.get_logger(__name__)

_BLOCKS_AT_ONCE: Final = 256
"""Asked for in one call; as many come as fit its bound of bytes."""


class _Source(NamedTuple):
    node: NodeId
    address: str


class _Task:
    """A copy that is being made. `was_here`: so was the chunk, before. `lost`: where blocks begin that nobody has."""

    def __init__(self, chunk: ChunkId, length: int, was_here: bool) -> None:
        self.chunk = chunk
        self.length = length
        self.was_here = was_here
        self.lost: set[int] = set()
        self.buffer = memoryview(bytearray(limits.READ_MAX_BYTES))
        self.begun_anew: set[NodeId] = set()  # from these sources, whose blocks were other ones


class Copier:
    """All copies to one node. `_late` has when sources ran out of time, in trio's time, of those that did of late."""

    def __init__(self, pool: Pool, volumes: Volumes, bandwidth: TokenBucket, background: Background) -> None:
        self._pool = pool
        self._volumes = volumes
        self._bandwidth = bandwidth
        self._background = background
        self._late: dict[NodeId, float] = {}

    async def copy(
        self, chunk: ChunkId, length: int, sources: Sequence[tuple[NodeId, str]], *, partly: bool = False
    ) -> bool:
        """Have `length` bytes of `chunk` here, durably: what is here, and what of it is missing from `sources`.

        A source is a node and its address. A disk that fails, here or at a source, is no reason not to try the next
        one: there are others. `partly`: without the blocks that none of them has, if there are such; it returns False
        then. Raises the error of the last attempt, or `NoSpace`.
        """
        task = _Task(chunk, length, await self._look(chunk, length))
        try:
            return await self._complete(task, sources, partly)
        except BaseException:
            if not task.was_here:
                with trio.CancelScope(shield=True):  # bounded by the disk
                    await self._volumes.delete(chunk)
            raise

    async def _look(self, chunk: ChunkId, length: int) -> bool:
        """Whether the chunk is here, in part at least; what is damaged of it is known then, and it is not too long."""
        has = self._volumes.length(chunk)
        if has is None:
            return False
        try:
            async with self._background.step():
                if has > length:
                    await self._volumes.cut(chunk, length)
                await self._volumes.verify(chunk)
        except (errors.ChunkNotFound, errors.Corrupt):
            pass  # gone, in quarantine, or some blocks are damaged
        return self._volumes.length(chunk) is not None

    async def _complete(self, task: _Task, sources: Sequence[tuple[NodeId, str]], partly: bool) -> bool:
        """Go round the sources until nothing is missing, or none of them has more of it.

        Whether nothing is missing: if not `partly`, it raises the last error instead.
        """
        if await self._is_complete(task):
            return True
        error: errors.DfsError = errors.DataLost(f"chunk {task.chunk:x} has no source to be copied from")
        while True:
            before = await self._volumes.holding(task.chunk)
            are_heard = bool(sources)
            for source in self._ordered(sources):
                try:
                    await self._pull(task, source)
                    if await self._is_complete(task):
                        return True
                    error = errors.DiskFailed(f"the copy of chunk {task.chunk:x} could not be made durable")
                except errors.NoSpace:
                    raise
                except errors.DfsError as failure:
                    log.warning("a copy failed", chunk=f"{task.chunk:x}", source=source.node, error=str(failure))
                    error = failure
                    are_heard &= isinstance(failure, errors.Corrupt | errors.ChunkNotFound)
            if await self._volumes.holding(task.chunk) != before:
                continue
            if not partly or not are_heard:
                raise error
            lost = {record.start for _, record in before.damaged}
            if not lost <= task.lost:
                task.lost |= lost  # and what comes behind these is still to be had
                continue
            if before.length == task.length and await self._is_durable(task):
                return False
            if not await self._take_over_damaged(task, sources):
                raise error

    async def _is_complete(self, task: _Task) -> bool:
        """Whether all of it is here, whole and durable now."""
        if self._volumes.length(task.chunk) is None:
            return False
        async with self._background.step():
            return await self._volumes.sync([task.chunk]) == [task.length]

    async def _is_durable(self, task: _Task) -> bool:
        """Whether what is here of it is on the disk now, damaged blocks apart."""
        async with self._background.step():
            return await self._volumes.sync([task.chunk]) != [-1]

    async def _take_over_damaged(self, task: _Task, sources: Sequence[tuple[NodeId, str]]) -> bool:
        """Have the next blocks, the first of which no source has whole, as damaged ones. Whether any is known."""
        here = await self._volumes.holding(task.chunk)
        for source in self._ordered(sources):
            begins = (here.length,) if here.length else ()
            try:
                packed = await self._pool.call(
                    *(source.address, datanode_object(source.node), "damaged_blocks", task.chunk, here.blocks),
                    *(_BLOCKS_AT_ONCE, *begins),
                    timeout_s=limits.COPY_ANSWER_MAX_S,
                )
                records = _up_to(unpack_records(packed, here.length), task.length)
            except errors.DfsError as error:
                log.warning(
                    "damaged blocks are not told", chunk=f"{task.chunk:x}", source=source.node, error=str(error)
                )
                continue
            if records:
                async with self._background.step():
                    await self._volumes.append_records(task.chunk, here.length, records, None, to_damaged=True)
                return True
        return False

    def _ordered(self, sources: Sequence[tuple[NodeId, str]]) -> list[_Source]:
        """Those last that ran out of time of late."""
        after = trio.current_time() - limits.COPY_SOURCE_LATE_S
        self._late = {node: late for node, late in self._late.items() if late > after}
        return sorted((_Source(*source) for source in sources), key=lambda source: source.node in self._late)

    # --- one source -------------------------------------------------------------------------------------

    async def _pull(self, task: _Task, source: _Source) -> None:
        """Get what is missing from one source, as far as it has it. Raises its errors."""
        try:
            await self._pull_missing(task, source)
        except errors.ChunkConflict as conflict:
            if source.node in task.begun_anew:
                raise
            if task.was_here:
                await self._check(task, source)
            task.begun_anew.add(source.node)
            await self._give_up(task, source, conflict)
            await self._pull_missing(task, source)

    async def _check(self, task: _Task, source: _Source) -> None:
        """Read all that the source has of the chunk. Raises its error if that is not all of it."""
        blocks = position = 0
        while position < task.length:
            records, data = await self._fetch(task, source, blocks, position, None)
            blocks, position = blocks + len(records), records[-1].start + records[-1].length
            await self._bandwidth.take(len(data))

    async def _give_up(self, task: _Task, source: _Source, conflict: errors.ChunkConflict) -> None:
        """What is here does not go together with what the source has."""
        log.error(
            "a copy has other blocks than its source", chunk=f"{task.chunk:x}", source=source.node, error=str(conflict)
        )
        task.lost.clear()
        if task.was_here:
            await self._volumes.set_aside(task.chunk, f"it has other blocks than the copy on {source.node}: {conflict}")
            task.was_here = False
        else:
            await self._volumes.delete(task.chunk)

    async def _pull_missing(self, task: _Task, source: _Source) -> None:
        here = await self._volumes.holding(task.chunk)
        error: errors.DfsError | None = None
        cut_through = [each for each in here.damaged if each[1].start + each[1].length > task.length]
        for number, record in here.damaged[: len(here.damaged) - len(cut_through)]:
            if record.start in task.lost:
                continue
            try:
                await self._mend(task, source, number, record)
            except (errors.Corrupt, errors.ChunkNotFound) as failure:  # this source has not got this one
                error = failure
        blocks, position = here.blocks, here.length
        if cut_through:
            blocks, position = cut_through[0][0], cut_through[0][1].start
        at = position or None  # or its own blocks are followed
        while position < task.length:
            records, data = await self._fetch(task, source, blocks, position, at)
            async with self._background.step():
                if cut_through:
                    await self._volumes.cut(task.chunk, position)
                    cut_through.clear()
                position = await self._volumes.append_records(task.chunk, position, records, data, to_damaged=True)
            at = None
            blocks += len(records)
            await self._bandwidth.take(len(data))
        if error is not None:
            raise error

    async def _mend(self, task: _Task, source: _Source, number: int, record: Record) -> None:
        """Have a damaged block as the source has it.

        One that the source has freed is not freed for that: an order will say so, if that was right.
        """
        packed, data = await self._read_blocks(task, source, number, 1, record.length, record.start)
        records = unpack_records(packed, record.start)
        if not records:
            raise errors.ChunkNotFound(f"DataNode {source.node} has no block {number} of chunk {task.chunk:x}")
        (theirs,) = records
        if (theirs.length, theirs.crc) != (record.length, record.crc):
            raise errors.ChunkConflict(f"block {number} of chunk {task.chunk:x} is another one on {source.node}")
        if theirs.punched:
            raise errors.ChunkNotFound(f"block {number} of chunk {task.chunk:x} was freed on DataNode {source.node}")
        async with self._background.step():
            await self._volumes.mend(task.chunk, record, _bytes_of([theirs], data))
        log.info("a damaged block was mended", chunk=f"{task.chunk:x}", block=number, source=source.node)
        await self._bandwidth.take(record.length)

    async def _fetch(
        self, task: _Task, source: _Source, blocks: int, position: int, at: int | None
    ) -> tuple[list[Record], memoryview]:
        """What follows the first `blocks` blocks, which are `position` bytes."""
        missing = task.length - position
        packed, data = await self._read_blocks(task, source, blocks, _BLOCKS_AT_ONCE, missing, at)
        records = _up_to(unpack_records(packed, position), task.length)
        if not records:
            what = f"DataNode {source.node} has {position} of {task.length} bytes of chunk {task.chunk:x}"
            raise errors.ChunkNotFound(what)
        return records, _bytes_of(records, data)

    async def _read_blocks(
        self, task: _Task, source: _Source, first: int, count: int, missing: int, at: int | None
    ) -> tuple[Any, memoryview | None]:
        """Ask for blocks, and again while the source has other copies to serve. Raises its error, Busy in the end.

        `missing` bytes are still to come, with this answer or others. `at` is where the first block is to begin, None
        where that is sure.
        """
        give_up_at = trio.current_time() + limits.COPY_BUSY_MAX_S
        timeout_s = limits.COPY_ANSWER_MAX_S + min(missing, len(task.buffer)) / limits.COPY_SLOWEST_BYTES_PER_S
        begins = () if at is None else (at,)
        while True:
            try:
                return await self._pool.call_with_data(
                    *(source.address, datanode_object(source.node), "read_blocks", task.chunk, first, count, *begins),
                    into=task.buffer,
                    timeout_s=timeout_s,
                )
            except errors.Busy:
                if trio.current_time() >= give_up_at:
                    raise
                await trio.sleep(limits.RETRY_DELAY_MAX_S)
            except errors.DeadlineExceeded:
                self._late[source.node] = trio.current_time()
                raise


def _up_to(records: Sequence[Record], length: int) -> list[Record]:
    """Those that belong to the first `length` bytes: commits end where appends did, so no block crosses it."""
    return [record for record in records if record.start + record.length <= length]


def _bytes_of(records: Sequence[Record], data: memoryview | None) -> memoryview:
    """What of an answer's data belongs to these records."""
    size = sum(record.length for record in records if not record.punched)
    return (data if data is not None else memoryview(b""))[:size]
