"""Making a copy of a chunk that other DataNodes hold: pulled block by block, verified, then synced.

What is pulled waits for its share of `bandwidth`, which all copies to this node have together, and for its turn while
users are here. A copy that is cut
short, as the daemon stops, leaves nothing behind.

A copy keeps the blocks of its source, the punched ones as holes, so that both read and punch alike. When one source
fails, the next one is asked from the beginning.
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


async def copy(
    pool: Pool,
    volumes: Volumes,
    bandwidth: TokenBucket,
    turns: Turns,
    chunk: ChunkId,
    length: int,
    sources: Sequence[tuple[NodeId, str]],
) -> None:
    """Have `length` bytes of `chunk` here, durably, from one of `sources` (node, address).

    What is here of the chunk already is replaced if it is not just that. Raises the last source's error, or
    `NoSpace`, `DiskFailed`; nothing of the copy is left then.
    """
    if volumes.length(chunk) == length and await volumes.sync([chunk]) == [length]:
        return
    error: errors.DfsError = errors.DataLost(f"chunk {chunk:x} has no source to be copied from")
    for node, address in sources:
        try:
            await _pull(pool, volumes, bandwidth, turns, chunk, length, _Source(node, address))
            async with turns.step():
                if await volumes.sync([chunk]) == [length]:
                    return
            error = errors.DiskFailed(f"the copy of chunk {chunk:x} could not be made durable")
        except (errors.NoSpace, errors.DiskFailed, trio.Cancelled):
            with trio.CancelScope(shield=True):  # bounded by the disk
                await volumes.delete(chunk)
            raise
        except errors.DfsError as failure:
            log.warning("source of a copy failed", chunk=chunk, source=node, error=str(failure))
            error = failure
    await volumes.delete(chunk)
    raise error


class _Source(NamedTuple):
    node: NodeId
    address: str


async def _pull(
    pool: Pool,
    volumes: Volumes,
    bandwidth: TokenBucket,
    turns: Turns,
    chunk: ChunkId,
    length: int,
    source: _Source,
) -> None:
    await volumes.delete(chunk)
    blocks = position = 0
    buffer = memoryview(bytearray(limits.READ_MAX_BYTES))
    while position < length:
        async with turns.step():
            packed, data = await _read_blocks(pool, source, chunk, blocks, buffer)
            records = _up_to(unpack_records(packed, position), length)
            if not records:
                raise errors.ChunkNotFound(
                    f"DataNode {source.node} has {position} of {length} bytes of chunk {chunk:x}"
                )
            size = sum(record.length for record in records if not record.punched)
            have = data if data is not None else memoryview(b"")
            position = await volumes.append_records(chunk, position, records, have[:size])
        blocks += len(records)
        await bandwidth.take(size)


async def _read_blocks(
    pool: Pool, source: _Source, chunk: ChunkId, first: int, buffer: memoryview
) -> tuple[Any, memoryview | None]:
    """Ask for blocks, and again while the source has other copies to serve. Raises its error, Busy in the end."""
    give_up_at = trio.current_time() + limits.COPY_BUSY_MAX_S
    while True:
        try:
            return await pool.call_with_data(
                *(source.address, datanode_object(source.node), "read_blocks", chunk, first, _BLOCKS_AT_ONCE),
                into=buffer,
            )
        except errors.Busy:
            if trio.current_time() >= give_up_at:
                raise
            await trio.sleep(limits.RETRY_DELAY_MAX_S)


def _up_to(records: Sequence[Record], length: int) -> list[Record]:
    """Those that belong to the first `length` bytes: commits end where appends did, so no block crosses it."""
    return [record for record in records if record.start + record.length <= length]
