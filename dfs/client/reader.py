"""Reading a file's bytes: extents, then replicas, until verified bytes are there.

A read asks the NameNode which extents cover the range and where their chunks are, fills holes with zeros, and
fetches the rest in parallel, each piece from the replica that seems best (same host, least busy). A replica that
does not answer, has lost the chunk or sends bytes that do not match their checksum costs a retry at the next one.
When all fail, the extents are asked for again: the file may have been rewritten or its chunks copied
elsewhere meanwhile. Only then is the data called lost.

Bytes under way are bounded for the whole client by `BYTES_IN_FLIGHT_MAX`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import structlog
import trio

from dfs import errors, limits, tasks
from dfs.client.datanodes import DataNodes
from dfs.client.inodes import Inodes, Layout
from dfs.types import ChunkId, ChunkPlace, Extent, Ino, NodeId

_ROUNDS = 4  # times the extents are asked for before data counts as lost
_ROUND_DELAY_S = 0.5

log = structlog.get_logger(__name__)


class Piece(NamedTuple):
    """Part of one extent, at most READ_MAX_BYTES: `length` bytes for the buffer at `start`."""

    start: int
    length: int
    chunk: ChunkId
    chunk_offset: int


def pieces_of(extents: Sequence[Extent], offset: int, length: int) -> Iterator[Piece]:
    """Cut what `extents` hold of the file's [offset, offset + length) into pieces; what is between them is a hole."""
    end = offset + length
    for extent in extents:
        first, last = max(extent.offset, offset), min(extent.offset + extent.length, end)
        while first < last:
            size = min(last - first, limits.READ_MAX_BYTES)
            yield Piece(first - offset, size, extent.chunk, extent.chunk_offset + first - extent.offset)
            first += size


class Reader:
    """Reads files of one client. Methods may be called concurrently."""

    def __init__(self, inodes: Inodes, nodes: DataNodes) -> None:
        self.inodes = inodes
        self._nodes = nodes
        self._slots = trio.CapacityLimiter(limits.BYTES_IN_FLIGHT_MAX // limits.READ_MAX_BYTES)
        self._read_bytes = 0
        self._failovers = 0

    async def layout(self, ino: Ino, offset: int, length: int) -> Layout:
        """As `Inodes.layout`."""
        return await self.inodes.layout(ino, offset, length)

    async def places(self, ino: Ino) -> dict[ChunkId, ChunkPlace]:
        """Where all chunks of a file are. Raises `NotFound`."""
        found: dict[ChunkId, ChunkPlace] = {}
        position, size = 0, 1
        while position < size:
            layout = await self.layout(ino, position, limits.FILE_SIZE_MAX_BYTES - position)
            found.update(layout.places)
            position, size = layout.end, layout.attr.size
        return found

    async def read_into(self, ino: Ino, offset: int, view: memoryview) -> int:
        """Fill `view` with the file's bytes at `offset`; how many there were before the end of file.

        Raises `NotFound` for an inode that is gone, `DataLost` when bytes can be had from no replica.
        """
        done = 0
        while done < len(view):
            layout = await self.layout(ino, offset + done, len(view) - done)
            length = min(layout.attr.size, layout.end) - (offset + done)
            if length <= 0:
                break
            await self.fill(ino, layout, offset + done, view[done : done + length])
            done += length
        return done

    async def fill(self, ino: Ino, layout: Layout, offset: int, view: memoryview) -> None:
        """Fill all of `view` from `layout`, which covers it; asks for a newer layout where that one fails."""
        for remaining in reversed(range(_ROUNDS)):
            try:
                await self._fill(layout, offset, view)
                return
            except errors.GrantExpired:
                if not remaining:
                    raise
            except errors.DataLost as error:
                if not remaining:
                    raise
                log.warning("no replica could serve a read, asking where they are now", ino=ino, error=str(error))
                await trio.sleep(_ROUND_DELAY_S)
            layout = await self.layout(ino, offset, len(view))
            if layout.end < offset + len(view):
                half = layout.end - offset
                await self.fill(ino, layout, offset, view[:half])
                await self.read_into(ino, offset + half, view[half:])
                return

    async def _fill(self, layout: Layout, offset: int, view: memoryview) -> None:
        pieces = list(pieces_of(layout.extents, offset, len(view)))
        position = 0
        for piece in pieces:
            _zero(view[position : piece.start])
            position = piece.start + piece.length
        _zero(view[position:])
        if len(pieces) == 1:
            await self._fetch(pieces[0], layout.places, view)
            return
        lost: list[errors.DataLost | errors.GrantExpired] = []

        async def fetch(piece: Piece) -> None:
            try:
                await self._fetch(piece, layout.places, view)
            except (errors.DataLost, errors.GrantExpired) as error:
                lost.append(error)

        async with tasks.open_nursery() as nursery:
            for piece in pieces:
                nursery.start_soon(fetch, piece)
        if lost:
            raise lost[0]

    async def _fetch(self, piece: Piece, places: dict[ChunkId, ChunkPlace], view: memoryview) -> None:
        target = view[piece.start : piece.start + piece.length]
        place = places.get(piece.chunk) or ChunkPlace(piece.chunk, 0, ())
        reasons = []
        expired: errors.GrantExpired | None = None
        async with self._slots:
            for node in self._nodes.by_preference(place.nodes):
                try:
                    await self._nodes.read_into(node, piece.chunk, piece.chunk_offset, target, place.grant)
                    self._read_bytes += piece.length
                    return
                except errors.GrantExpired as error:  # the same at all nodes, unless one's clock is wrong
                    expired = error
                except errors.DfsError as error:
                    self._failovers += 1
                    reasons.append(f"{node}: {error}")
                    log.warning("replica could not serve a read", node=node, chunk=piece.chunk, error=str(error))
        if expired is not None:
            raise expired
        why = "; ".join(reasons) or "no DataNode holds a copy"
        raise errors.DataLost(f"chunk {piece.chunk:x}: {why}")

    async def read_piece(self, nodes: Sequence[NodeId], piece: Piece, view: memoryview, grant: bytes) -> None:
        """Fill `view` with one piece of a chunk, whatever file has it, from the nodes that are known to have it.

        Raises `DataLost`, `GrantExpired`.
        """
        place = ChunkPlace(piece.chunk, piece.chunk_offset + piece.length, tuple(nodes), grant)
        await self._fetch(piece, {piece.chunk: place}, view)

    def statistics(self) -> dict[str, int]:
        return {"read_bytes": self._read_bytes, "failovers": self._failovers}


def _zero(view: memoryview) -> None:
    if len(view):
        view[:] = bytes(len(view))
