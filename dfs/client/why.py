"""`dfs why`: where the copies of a file's chunks are, in what state, and why one is missing or being made.

The NameNode says what it believes and what it is doing about it (`explain`); the DataNodes that are up are asked what
they have. A copy is `whole`; `short` (its node lost power before it flushed); `damaged` (found only by reading it);
`not there`; `unknown`, as its node does not answer; or `not looked at`, as our key does not let us ask its node (a
reader's), so that all that is known of it is that the NameNode counts on it.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Collection
from typing import NamedTuple

from dfs import errors, limits
from dfs.client.copies import NOT_THERE, ChunkFacts, Held, Reading, Survey, is_up
from dfs.client.inodes import Layout
from dfs.types import Attr, ChunkId, NodeId, NodeView


class Condition(enum.StrEnum):
    """How a copy is."""

    WHOLE = "whole"
    SHORT = "short"
    DAMAGED = "damaged"
    NOT_THERE = "not there"
    UNKNOWN = "unknown"
    UNSEEN = "not looked at"


class Copy(NamedTuple):
    """A copy that the NameNode counts on; `length` is None where its node does not answer, or was not asked."""

    node: NodeId
    state: str
    condition: Condition
    length: int | None


class ChunkReport(NamedTuple):
    """A chunk of a file."""

    chunk: ChunkId
    offset: int
    """In the file, of the first piece that is in it."""
    length: int
    wanted: int
    copies: tuple[Copy, ...]
    reasons: tuple[str, ...]
    unseen: str = ""
    """Why copies were not looked at, where our key does not let us ask DataNodes."""

    @property
    def whole(self) -> int:
        """How many copies are whole; of those that were not looked at the NameNode says so."""
        return sum(copy.condition in (Condition.WHOLE, Condition.UNSEEN) for copy in self.copies)

    @property
    def is_well(self) -> bool:
        """It has all the copies that it is to have, and all are whole, as far as they were looked at."""
        return self.whole == len(self.copies) >= self.wanted


async def file_report(
    survey: Survey, attr: Attr, told: Collection[ChunkId] = (), *, data: bool = False
) -> AsyncIterator[ChunkReport]:
    """The chunks of a file in its order; none of one that is gone.

    Chunks in `told` are passed over, as small files share them. With `data` every copy of its bytes is read, which
    finds what is damaged: of that a chunk is told again.
    """
    nodes = await survey.views()
    up = [node for node, view in nodes.items() if is_up(view)]
    seen: set[ChunkId] = set()
    try:
        layouts = await survey.layouts(attr.ino, attr.size)
    except errors.NotFound:
        return
    for layout in layouts:
        offsets: dict[ChunkId, int] = {}
        for extent in layout.extents:
            offsets.setdefault(extent.chunk, extent.offset)
        reading = await survey.read(attr.ino, layout, up) if data else Reading([], {})
        damaged = {(each.chunk, each.node) for each in reading.damages}
        bad_chunks = {chunk for chunk, _ in damaged}
        chunks = [chunk for chunk in offsets if chunk in bad_chunks or not (chunk in seen or chunk in told)]
        seen |= offsets.keys()
        for start in range(0, len(chunks), limits.EXPLAIN_MAX_CHUNKS):
            some = chunks[start : start + limits.EXPLAIN_MAX_CHUNKS]
            facts = await survey.facts(some)
            asked = {node for each in facts for node in each.holders}.intersection(up)
            held: Held = {}
            unseen = ""
            try:
                held = await survey.held({chunk: _grant(layout, chunk) for chunk in some}, asked)
            except errors.NotPermitted as error:
                unseen = error.message
            for each in facts:
                lengths = {node: lengths[each.chunk] for node, lengths in held.items() if node not in reading.silent}
                bad = {node for chunk, node in damaged if chunk == each.chunk}
                yield report(each, offsets[each.chunk], attr.replicas, nodes, lengths, bad, unseen)


def _grant(layout: Layout, chunk: ChunkId) -> bytes:
    place = layout.places.get(chunk)
    return place.grant if place else b""


def report(
    facts: ChunkFacts,
    offset: int,
    replicas: int,
    nodes: dict[NodeId, NodeView],
    lengths: dict[NodeId, int],
    damaged: Collection[NodeId],
    unseen: str = "",
) -> ChunkReport:
    """What is to be said of a chunk: `lengths` is what nodes that answered have of it, `replicas` the file's wish.

    `unseen` says why no node could be asked, if that is so.
    """
    copies = []
    said = list(facts.reasons)
    for node in (*facts.holders, *(node for node in damaged if node not in facts.holders)):
        view = nodes.get(node)
        condition = _condition(facts, node, lengths.get(node), damaged)
        if unseen and condition == Condition.UNKNOWN and is_up(view):
            condition = Condition.UNSEEN
        copies.append(Copy(node, str(view.state) if view else "unknown", condition, _bytes(lengths.get(node))))
        if (sentence := _SENTENCES.get(condition)) and node not in facts.damaged:
            said.append(sentence.format(node=node, has=lengths.get(node, 0), length=facts.length))
        elif condition == Condition.UNKNOWN and is_up(view):
            said.append(f"{node} counts as up and did not answer: look into its log, and at the network between.")
    if replicas != facts.wanted and not facts.session:
        said.append(f"The file is to have {replicas} copies now; this chunk was written to have {facts.wanted}.")
    return ChunkReport(facts.chunk, offset, facts.length, facts.wanted, tuple(copies), tuple(said), unseen)


def _condition(facts: ChunkFacts, node: NodeId, length: int | None, damaged: Collection[NodeId]) -> Condition:
    if node in damaged:
        return Condition.DAMAGED
    if length is None:
        return Condition.UNKNOWN
    if length == NOT_THERE:
        return Condition.NOT_THERE if facts.length else Condition.WHOLE
    if length >= facts.length:
        return Condition.WHOLE
    return Condition.DAMAGED if node in facts.damaged else Condition.SHORT


def _bytes(length: int | None) -> int | None:
    return None if length is None else max(0, length)


_SENTENCES = {
    Condition.SHORT: "{node} has {has} of {length} bytes: others serve reads, and it is mended from them once it has"
    " said so.",
    Condition.NOT_THERE: "{node} has no copy any more, and has not said so yet: another is made when it does;"
    " `dfs fsck --repair` has it made now.",
    Condition.DAMAGED: "{node} has a damaged copy: it is mended from those that are right there.",
}
