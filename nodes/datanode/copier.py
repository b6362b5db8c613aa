"""Making a copy of a chunk that other DataNodes hold: pulled block by block, verified, then synced.

A copy keeps the blocks of its source, the punched ones as holes, so that both read and punch alike. When one source
fails, the next one is asked from the beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog

from dfs import errors, limits
from dfs.rpc import Pool
from dfs.types import ChunkId, NodeId
from nodes.datanode.index import Record, unpack_records
from nodes.datanode.volumes import Volumes

log = structlog.get_logger(__name__)

_BLOCKS_AT_ONCE: Final = 256
"""Asked for in one call; as many come as fit its bound of bytes."""


async def copy(
    pool: Pool, volumes: Volumes, chunk: ChunkId, length: int, sources: Sequence[tuple[NodeId, str]]
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
            await _pull(pool, volumes, chunk, length, node, address)
            if await volumes.sync([chunk]) == [length]:
                return
            error = errors.DiskFailed(f"the copy of chunk {chunk:x} could not be made durable")
        except (errors.NoSpace, errors.DiskFailed):
            await volumes.delete(chunk)
            raise
        except errors.DfsError as failure:
            log.warning("source of a copy failed", chunk=chunk, source=node, error=str(failure))
            error = failure
    await volumes.delete(chunk)
    raise error


async def _pull(pool: Pool, volumes: Volumes, chunk: ChunkId, length: int, node: NodeId, address: str) -> None:
    await volumes.delete(chunk)
    blocks = position = 0
    buffer = memoryview(bytearray(limits.READ_MAX_BYTES))
    while position < length:
        packed, data = await pool.call_with_data(
            address, f"dfs.datanode.{node}", "read_blocks", chunk, blocks, _BLOCKS_AT_ONCE, into=buffer
        )
        records = _up_to(unpack_records(packed, position), length)
        if not records:
            raise errors.ChunkNotFound(f"DataNode {node} has {position} of {length} bytes of chunk {chunk:x}")
        size = sum(record.length for record in records if not record.punched)
        have = data if data is not None else memoryview(b"")
        position = await volumes.append_records(chunk, position, records, have[:size])
        blocks += len(records)


def _up_to(records: Sequence[Record], length: int) -> list[Record]:
    """Those that belong to the first `length` bytes: commits end where appends did, so no block crosses it."""
    return [record for record in records if record.start + record.length <= length]
