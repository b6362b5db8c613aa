"""Evening out how full nodes are: what a view of nodes and chunks makes of moves, without I/O.

A node's fill level is used / (used + free); the cluster's is the same of all nodes' sums. Where no copy can go from
one rack to another (`rack_levels`), a rack's level stands for the cluster's: of two racks one may be fuller for good. A
node is to give when it is more than `threshold` above that level, and to take when it is more than `threshold` below. A
move goes from a node above it to one below, at least one of them by more than the threshold, and is planned only if

* afterwards the giver is not emptier than the taker, so each move makes the spread of levels smaller, none can be
  taken back by another, and planning ends; and
* the rule that drops a copy too many (`dfs.placement.choose_surplus`) would take it off the giver, so that a move is no
  more than a copy to the taker, and keeps the chunk in as many racks as it was.

A cluster may have hundreds of nodes, and a giver a million chunks that cannot go: so takers are sorted once, those in
racks to which the chunk cannot go are not looked at, and of the others the `_TAKERS_MAX` that want it most.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from typing import Final, NamedTuple

from dfs.placement import choose_surplus, fill_level, takes_orders, with_less
from dfs.types import ChunkId, NodeId, NodeView
from nodes.namenode.repair import ChunkState

_TAKERS_MAX: Final = 8
"""Nodes that are tried for one chunk, besides those that hold it."""


class Move(NamedTuple):
    chunk: ChunkId
    length: int
    source: NodeId
    target: NodeId


class Excess(NamedTuple):
    """How far a node is from the level that it should have: bytes above it, or below where negative."""

    node: NodeId
    level: float
    bytes: int


def able(nodes: Iterable[NodeView]) -> dict[NodeId, NodeView]:
    """Nodes that take part: up, not being emptied, with space."""
    return {view.node: view for view in nodes if takes_orders(view) and view.used_bytes + view.free_bytes}


def mean_level(nodes: Mapping[NodeId, NodeView]) -> float:
    """The cluster's fill level."""
    used = sum(view.used_bytes for view in nodes.values())
    total = used + sum(view.free_bytes for view in nodes.values())
    return used / total if total else 0.0


def rack_levels(nodes: Mapping[NodeId, NodeView], copies: Collection[int] = ()) -> dict[str, float]:
    """The level that nodes of each rack are to have: the cluster's, or their rack's own where no copy can change racks.

    So it is if chunks of each of these numbers of `copies` have as many in each rack: one that went elsewhere would
    leave fewer in its own. No number stands for not known.
    """
    racks: dict[str, dict[NodeId, NodeView]] = {}
    for view in nodes.values():
        racks.setdefault(view.rack, {})[view.node] = view
    if racks and copies and not any(number % len(racks) for number in copies):
        return {rack: mean_level(views) for rack, views in racks.items()}
    return dict.fromkeys(racks, mean_level(nodes))


def excesses(nodes: Mapping[NodeId, NodeView], copies: Collection[int] = ()) -> list[Excess]:
    """All nodes, the fullest first."""
    levels = rack_levels(nodes, copies)
    found = [
        Excess(
            view.node,
            fill_level(view),
            view.used_bytes - round(levels[view.rack] * (view.used_bytes + view.free_bytes)),
        )
        for view in nodes.values()
    ]
    return sorted(found, key=lambda each: (-each.level, each.node))


def is_even(nodes: Mapping[NodeId, NodeView], threshold: float, copies: Collection[int] = ()) -> bool:
    levels = rack_levels(nodes, copies)
    return all(abs(fill_level(view) - levels[view.rack]) <= threshold for view in nodes.values())


def givers(nodes: Mapping[NodeId, NodeView], threshold: float, copies: Collection[int] = ()) -> list[NodeId]:
    """The nodes whose chunks are worth looking at, the fullest first; none if the cluster is even."""
    if is_even(nodes, threshold, copies):
        return []
    levels = rack_levels(nodes, copies)
    return [each.node for each in excesses(nodes, copies) if each.level > levels[nodes[each.node].rack]]


class MovePlan:
    """Give it chunks, slice by slice, for moves of some of them: each changes the levels that the next ones go by.

    Each node gives or takes at most `most` chunks, and not more than `most_bytes` but for one. `nodes`: see `able`;
    `copies`: see `rack_levels`.
    """

    def __init__(
        self,
        nodes: Mapping[NodeId, NodeView],
        threshold: float,
        copies: Collection[int] = (),
        *,
        most: int,
        most_bytes: int,
    ) -> None:
        self._views = dict(nodes)
        self._threshold = threshold
        self._most = most
        self._most_bytes = most_bytes
        self._levels = rack_levels(nodes, copies)
        self._busy: dict[NodeId, tuple[int, int]] = {}
        """How many chunks, and bytes, each node is to give or take so far."""
        self._above: dict[NodeId, float] = {}
        """How far each node is above its level, or below where negative."""
        self._takers: dict[str, list[tuple[float, NodeId]]] = {rack: [] for rack in self._levels}
        """Of each rack the nodes that are below and may take more, the furthest first."""
        for view in nodes.values():
            self._enter(view)

    @property
    def is_full(self) -> bool:
        """Whether no node takes any more."""
        return not any(self._takers.values())

    def has_room(self, node: NodeId) -> bool:
        """Whether a node may give or take any more."""
        count, length = self._busy.get(node, (0, 0))
        return count < self._most and length < self._most_bytes

    def add(self, chunks: Iterable[ChunkState]) -> list[Move]:
        """Moves of some of these."""
        moves: list[Move] = []
        for chunk in chunks:
            if self.is_full:
                break
            if not chunk.length or len(chunk.holders) != chunk.wanted or not self._views.keys() >= set(chunk.holders):
                continue  # repair's, or not wholly in view
            move = self._move(chunk)
            if move is not None:
                moves.append(move)
                self._apply(move)
        return moves

    def _apply(self, move: Move) -> None:
        for node in (move.source, move.target):
            self._leave(self._views[node])
        apply_move(self._views, move)
        for node in (move.source, move.target):
            count, length = self._busy.get(node, (0, 0))
            self._busy[node] = (count + 1, length + move.length)
            self._enter(self._views[node])

    def _enter(self, view: NodeView) -> None:
        above = self._above[view.node] = fill_level(view) - self._levels[view.rack]
        if above < 0 and self.has_room(view.node):
            insort(self._takers[view.rack], (above, view.node))

    def _leave(self, view: NodeView) -> None:
        above = self._above[view.node]
        if above < 0 and self.has_room(view.node):
            takers = self._takers[view.rack]
            del takers[bisect_left(takers, (above, view.node))]

    def _move(self, chunk: ChunkState) -> Move | None:
        source = max(chunk.holders, key=lambda node: (self._above[node], node))
        above = self._above[source]
        if above <= 0 or not self.has_room(source):
            return None
        takers = heapq.merge(*self._apart(chunk, source))
        for below, node in islice(takers, _TAKERS_MAX + len(chunk.holders)):
            if above <= self._threshold and -below <= self._threshold:
                return None  # and all that follow are fuller
            if node in chunk.holders or self._views[node].free_bytes < chunk.length:
                continue
            move = Move(chunk.chunk, chunk.length, source, node)
            if _helps(self._views, chunk, move):
                return move
        return None

    def _apart(self, chunk: ChunkState, source: NodeId) -> list[list[tuple[float, NodeId]]]:
        """Takers in the racks to which a copy may go: where there would still be no more than in that of `source`."""
        racks = [self._views[node].rack for node in chunk.holders]
        own = self._views[source].rack
        together = racks.count(own)
        if together < max(map(racks.count, racks)):
            return [self._takers[own]]
        return [takers for rack, takers in self._takers.items() if rack == own or racks.count(rack) < together]


def apply_move(views: dict[NodeId, NodeView], move: Move) -> None:
    """What the levels are after it."""
    taker = views[move.target]
    views[move.source] = with_less(views[move.source], move.length)
    views[move.target] = taker._replace(
        used_bytes=taker.used_bytes + move.length, free_bytes=max(0, taker.free_bytes - move.length)
    )


def _helps(views: Mapping[NodeId, NodeView], chunk: ChunkState, move: Move) -> bool:
    giver, taker = views[move.source], views[move.target]
    after_giver = (giver.used_bytes - move.length) / (giver.used_bytes + giver.free_bytes)
    after_taker = (taker.used_bytes + move.length) / (taker.used_bytes + taker.free_bytes)
    if after_giver < after_taker:
        return False
    return choose_surplus([*chunk.holders, move.target], 1, views) == [move.source]
