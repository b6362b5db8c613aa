"""The copies of chunks as they are: what the NameNode says of them, and what DataNodes say that they have.

`Survey` asks both, and reads copies whole where that is wanted; what follows from the answers is decided by
`dfs.client.fsck` and `dfs.client.why`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import trio

from dfs import errors, limits, tasks
from dfs.client.datanodes import DataNodes
from dfs.client.inodes import Inodes, Layout
from dfs.client.reader import Piece, pieces_of
from dfs.client.session import Session
from dfs.types import ChunkId, Ino, NodeId, NodeState, NodeView

NOT_THERE = -1
_BAD = (errors.Corrupt, errors.ChunkNotFound, errors.InvalidArgument)
"""What a read says of a copy that is damaged, not there, or too short; any other error says nothing of the copy."""

Held = Mapping[NodeId, Mapping[ChunkId, int]]
"""How many bytes of which chunks each node has, of those that could be asked; `NOT_THERE` for none."""


class ChunkFacts(NamedTuple):
    """What the NameNode says of a chunk; one that it does not know has `length` -1."""

    chunk: ChunkId
    given: bool
    length: int
    live: int
    wanted: int
    session: int
    holders: tuple[NodeId, ...]
    deleting: tuple[NodeId, ...]
    """Nodes with an order to delete their copy."""
    copying: tuple[NodeId, ...]
    """Nodes that are making a copy."""
    files: str
    """The files with bytes in it, for a sentence."""
    reasons: tuple[str, ...]
    """Why copies are missing or being made, a sentence each."""
    damaged: tuple[NodeId, ...] = ()
    """Holders whose copies are known not to be whole."""


def facts_from_wire(wire: Mapping[str, Any]) -> ChunkFacts:
    known = {name: wire[name] for name in ("chunk", "given", "length", "live", "wanted", "session", "files")}
    return ChunkFacts(
        **known,
        holders=tuple(wire["holders"]),
        deleting=tuple(wire["deleting"]),
        copying=tuple(each[0] for each in wire["copying"]),
        reasons=tuple(wire["reasons"]),
        damaged=tuple(wire.get("damaged", ())),
    )


class Damage(NamedTuple):
    """Bytes of a file that a node's copy of a chunk does not give."""

    chunk: ChunkId
    node: NodeId
    offset: int
    """Where in the file."""
    others: bool
    """The same bytes were read, and right, from another node."""
    error: errors.DfsError


class Reading(NamedTuple):
    """What came of reading all bytes of a part of a file from every node that has them."""

    damages: list[Damage]
    silent: dict[NodeId, errors.DfsError]
    """Nodes that could not be asked, and why: not all of their copies were read, and nothing is known of the others."""


class Survey:
    """Asks the NameNode and DataNodes. Methods may be called concurrently."""

    def __init__(self, session: Session, nodes: DataNodes, inodes: Inodes) -> None:
        self._session = session
        self._nodes = nodes
        self._inodes = inodes
        self._slots = trio.CapacityLimiter(limits.BYTES_IN_FLIGHT_MAX // limits.READ_MAX_BYTES)

    async def views(self) -> dict[NodeId, NodeView]:
        return {view.node: view for view in await self._nodes.refresh()}

    async def facts(self, chunks: Sequence[ChunkId]) -> list[ChunkFacts]:
        """At most `limits.EXPLAIN_MAX_CHUNKS` of them."""
        return [facts_from_wire(wire) for wire in await self._session.query("explain", list(chunks))]

    async def held(self, chunks: Sequence[ChunkId] | Mapping[ChunkId, bytes], nodes: Collection[NodeId]) -> Held:
        """What `nodes` have of these chunks on their disks; who needs grants gives them.

        A node that does not answer is not in the answer. Raises `NotPermitted` where our key lets us ask none of them.
        """
        asked = chunks if isinstance(chunks, Mapping) else dict.fromkeys(chunks, b"")
        found: dict[NodeId, dict[ChunkId, int]] = {}
        refusals: list[errors.NotPermitted] = []

        async def ask(node: NodeId) -> None:
            try:
                found[node] = dict(zip(asked, await self._nodes.sync(node, asked), strict=True))
            except errors.NotPermitted as error:
                refusals.append(error)
            except errors.DfsError:
                return  # as a node that is not up

        async with tasks.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(ask, node)
        if refusals and not found:
            raise refusals[0]
        return found

    async def listed(self, node: NodeId, after: int, last: int | None, slice_chunks: int) -> dict[ChunkId, int]:
        """All chunks that a node has with numbers above `after` up to `last`, and their lengths. Raises `RpcError`."""
        found: dict[ChunkId, int] = {}
        while last is None or after < last:
            page, _ = await self._nodes.call(node, "list_chunks", after, slice_chunks)
            found.update((chunk, length) for chunk, length in page if last is None or chunk <= last)
            if len(page) < slice_chunks:
                break
            after = page[-1][0]
        return found

    # --- reading ----------------------------------------------------------------------------------------

    async def layouts(self, ino: Ino, size: int) -> list[Layout]:
        """Where all bytes of a file are."""
        return [layout async for layout in self._inodes.layouts(ino, size)]

    async def read(self, ino: Ino, layout: Layout, up: Collection[NodeId]) -> Reading:
        """Read all bytes of a layout from every node that has them and is up. One that is silent is asked no more."""
        found = Reading([], {})
        async with tasks.open_nursery() as nursery:
            for start, piece in _pieces(layout):
                await self._slots.acquire_on_behalf_of(piece)
                nursery.start_soon(self._read_everywhere, layout, start, piece, up, found)
        if not found.damages:
            return found
        # What was freed while it was read is no damage: then the file does not point there any more.
        try:
            now = await self._inodes.layout(ino, layout.extents[0].offset, layout.end - layout.extents[0].offset)
        except errors.NotFound:
            return found._replace(damages=[])
        still = [each for each in found.damages if isinstance(each.error, errors.Corrupt) or each.chunk in now.places]
        return found._replace(damages=still)

    async def _read_everywhere(
        self, layout: Layout, start: int, piece: Piece, up: Collection[NodeId], found: Reading
    ) -> None:
        try:
            bad: list[tuple[NodeId, errors.DfsError]] = []
            was_right = False
            place = layout.places[piece.chunk]
            buffer = memoryview(bytearray(piece.length))
            for node in place.nodes:
                if node not in up or node in found.silent:
                    continue
                try:
                    await self._nodes.read_into(node, piece.chunk, piece.spans, buffer, place.grant)
                    was_right = True
                except _BAD as error:
                    bad.append((node, error))
                except errors.DfsError as error:
                    found.silent[node] = error
            found.damages.extend(Damage(piece.chunk, node, start, was_right, error) for node, error in bad)
        finally:
            self._slots.release_on_behalf_of(piece)


def _pieces(layout: Layout) -> Iterator[tuple[int, Piece]]:
    """What a layout points to, in pieces of one read, each with its place in the file."""
    for extent in layout.extents:
        for piece in pieces_of([extent], extent.offset, extent.length):
            yield extent.offset + piece.start, piece


def is_up(view: NodeView | None) -> bool:
    return view is not None and view.state == NodeState.UP
