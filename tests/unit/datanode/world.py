"""What the tests of a chunk store begin with."""

from __future__ import annotations

from dfs.checksum import Block, sum_blocks, verify
from dfs.types import ChunkId, ClusterId
from nodes.datanode.store import ChunkStore
from tests.simulation.disk import InlineRuntime, MemoryDisk

CLUSTER = ClusterId("0123456789abcdef" * 2)
CHUNK = ChunkId(0x1234)
DATA = "chunks/34/0000000000001234"
INDEX = DATA + ".idx"


def opened(disk: MemoryDisk, reserve_bytes: int = 0, cluster: ClusterId | None = CLUSTER) -> ChunkStore:
    """A store on what `disk` has."""
    store = ChunkStore(disk, cluster, InlineRuntime(), reserve_bytes)
    store.open()
    return store


def stores_on(disks: list[MemoryDisk]) -> list[ChunkStore]:
    """Stores that are not opened."""
    return [ChunkStore(disk, CLUSTER, InlineRuntime(), 0) for disk in disks]


async def appended(store: ChunkStore, data: bytes, chunk: ChunkId = CHUNK) -> int:
    """Append `data` at the chunk's end."""
    return await store.append(chunk, store.chunks.get(chunk, 0), sum_blocks(data), data)


async def content(store: ChunkStore, offset: int, length: int, chunk: ChunkId = CHUNK) -> bytes:
    _, buffers = await store.read(chunk, offset, length)
    return b"".join(bytes(buffer) for buffer in buffers)


async def content_of(store: ChunkStore, ranges: list[tuple[int, int]]) -> bytes:
    """As they come with their checksums."""
    blocks, buffers = await store.read_ranges(CHUNK, ranges)
    data = b"".join(bytes(buffer) for buffer in buffers)
    verify(data, blocks, "the answer")
    return data


def blocks_of(*pieces: bytes) -> list[Block]:
    return [block for piece in pieces for block in sum_blocks(piece)]
