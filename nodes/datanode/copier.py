"""Making a copy of a chunk that other DataNodes hold: pulled block by block, verified, then synced.

What is pulled waits for its share of `bandwidth`, which all copies to this node have together, and for its turn at the
disk while users are here: nobody has a turn while he waits for a source. A source that has not answered in time is
asked after all others for COPY_SOURCE_LATE_S. A copy that is cut short, as the daemon stops, leaves nothing behind.

A copy keeps the blocks of its source, the punched ones as holes, so that both read and punch alike. When one source
fails, the next one is asked from the beginning.

What is here already will do if it is long enough and whole: a chunk's bytes never change, and what lies beyond the
length was never committed. Anything else is replaced. A directory has one place for a chunk: so it goes when the first
bytes of the copy are here, and before they are written, and not only when all of them are.
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
from nodes.datanode.users import Turns
from nodes.datanode.volumes import Volumes

log = structlog.get_logger(__name__)

_BLOCKS_AT_ONCE: Final = 256
"""Asked for in one call; as many come as fit its bound of bytes."""


class _Source(NamedTuple):
    node: NodeId
    address: str


class Copier:
    """All copies to one node. `_late` has when sources ran out of time, in trio's time, of those that did of late."""

    def __init__(self, pool: Pool, volumes: Volumes, bandwidth: TokenBucket, turns: Turns) -> None:
        self._pool = pool
        self._volumes = volumes
        self._bandwidth = bandwidth
        self._turns = turns
        self._late: dict[NodeId, float] = {}

    async def copy(self, chunk: ChunkId, length: int, sources: Sequence[tuple[NodeId, str]]) -> None:
        """Have `length` bytes of `chunk` here, durably: what is here, if it will do, or those of one of `sources`.

        A source is a node and its address. What is here and will not do stays until a source has sent something.
        A disk that fails, here or at a source, is no reason not to try the next one: there are others.
        Raises the error of the last attempt, or `NoSpace`; nothing that was pulled is left then.
        """
        if await self._has(chunk, length):
            return
        error: errors.DfsError = errors.DataLost(f"chunk {chunk:x} has no source to be copied from")
        for source in self._ordered(sources):
            try:
                await self._pull(chunk, length, source)
                return
            except errors.NoSpace:
                raise
            except errors.DfsError as failure:
                log.warning("a copy failed", chunk=chunk, source=source.node, error=str(failure))
                error = failure
        raise error

    async def _has(self, chunk: ChunkId, length: int) -> bool:
        """Whether so many bytes are here, verified, and durable now. What lies beyond them is cut off."""
        has = self._volumes.length(chunk)
        if has is None or has < length:
            return False
        try:
            async with self._turns.step():
                await self._volumes.cut(chunk, length)
                await self._volumes.verify(chunk)
                return await self._volumes.sync([chunk]) == [length]
        except (errors.ChunkNotFound, errors.Corrupt):  # or in quarantine now
            return False

    def _ordered(self, sources: Sequence[tuple[NodeId, str]]) -> list[_Source]:
        """Those last that ran out of time of late."""
        after = trio.current_time() - limits.COPY_SOURCE_LATE_S
        self._late = {node: late for node, late in self._late.items() if late > after}
        return sorted((_Source(*source) for source in sources), key=lambda source: source.node in self._late)

    async def _pull(self, chunk: ChunkId, length: int, source: _Source) -> None:
        """Replace what is here by the source's copy, once it has sent the beginning; durably, or leave nothing."""
        buffer = memoryview(bytearray(limits.READ_MAX_BYTES))
        records, data = await self._fetch(source, chunk, length, 0, 0, buffer)
        try:
            await self._volumes.delete(chunk)
            blocks = position = 0
            while True:
                async with self._turns.step():
                    position = await self._volumes.append_records(chunk, position, records, data)
                blocks += len(records)
                await self._bandwidth.take(len(data))
                if position >= length:
                    break
                records, data = await self._fetch(source, chunk, length, blocks, position, buffer)
            async with self._turns.step():
                if await self._volumes.sync([chunk]) != [length]:
                    raise errors.DiskFailed(f"the copy of chunk {chunk:x} could not be made durable")
        except BaseException:
            with trio.CancelScope(shield=True):  # bounded by the disk
                await self._volumes.delete(chunk)
            raise

    async def _fetch(
        self, source: _Source, chunk: ChunkId, length: int, blocks: int, position: int, buffer: memoryview
    ) -> tuple[list[Record], memoryview]:
        """What follows the first `blocks` blocks, which are `position` bytes; `buffer` has the bytes."""
        packed, data = await self._read_blocks(source, chunk, blocks, buffer, length - position)
        records = _up_to(unpack_records(packed, position), length)
        if not records:
            raise errors.ChunkNotFound(f"DataNode {source.node} has {position} of {length} bytes of chunk {chunk:x}")
        size = sum(record.length for record in records if not record.punched)
        return records, (data if data is not None else memoryview(b""))[:size]

    async def _read_blocks(
        self, source: _Source, chunk: ChunkId, first: int, buffer: memoryview, missing: int
    ) -> tuple[Any, memoryview | None]:
        """Ask for blocks, and again while the source has other copies to serve. Raises its error, Busy in the end.

        `missing` bytes of the chunk are still to come, with this answer or others.
        """
        give_up_at = trio.current_time() + limits.COPY_BUSY_MAX_S
        timeout_s = limits.COPY_ANSWER_MAX_S + min(missing, len(buffer)) / limits.COPY_SLOWEST_BYTES_PER_S
        while True:
            try:
                return await self._pool.call_with_data(
                    *(source.address, datanode_object(source.node), "read_blocks", chunk, first, _BLOCKS_AT_ONCE),
                    into=buffer,
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
