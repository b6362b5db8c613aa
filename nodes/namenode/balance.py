"""Evening out how full nodes are: pure functions from a view of nodes and chunks to moves.

A node's fill level is used / (used + free); the cluster's is the same of all nodes' sums. A node is to give when it is
more than `threshold` above the cluster's, and to take when it is more than `threshold` below. A move goes from a node
above the cluster's level to one below, at least one of them by more than the threshold, and is planned only if

* afterwards the giver is not emptier than the taker, so each move makes the spread of levels smaller, none can be
  taken back by another, and planning ends; and
* the rule that drops a copy too many (`dfs.placement.choose_surplus`) would take it off the giver, so that a move is no
  more than a copy to the taker, and keeps the chunk in as many racks as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from dfs.placement import choose_surplus, fill_level, takes_orders, with_less
from dfs.types import ChunkId, NodeId, NodeView
from nodes.namenode.repair import ChunkState


class Move(NamedTuple):
    chunk: ChunkId
    length: int
    source: NodeId
    target: NodeId


class Excess(NamedTuple):
    """How far a node is from the cluster's level: bytes above it, or below where negative."""

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


def excesses(nodes: Mapping[NodeId, NodeView]) -> list[Excess]:
    """All nodes, the fullest first."""
    mean = mean_level(nodes)
    found = [
        Excess(view.node, fill_level(view), view.used_bytes - round(mean * (view.used_bytes + view.free_bytes)))
        for view in nodes.values()
    ]
    return sorted(found, key=lambda each: (-each.level, each.node))


def is_even(nodes: Mapping[NodeId, NodeView], threshold: float) -> bool:
    mean = mean_level(nodes)
    return all(abs(fill_level(view) - mean) <= threshold for view in nodes.values())


def givers(nodes: Mapping[NodeId, NodeView], threshold: float) -> list[NodeId]:
    """The nodes whose chunks are worth looking at, the fullest first; none if the cluster is even."""
    if is_even(nodes, threshold):
        return []
    mean = mean_level(nodes)
    return [each.node for each in excesses(nodes) if each.level > mean]


def plan_moves(
    nodes: Mapping[NodeId, NodeView], chunks: Iterable[ChunkState], threshold: float, *, most: int, most_bytes: int
) -> list[Move]:
    """Moves of some of `chunks`, at most `most` and not more than `most_bytes` but for one. `nodes`: see `able`."""
    views = dict(nodes)
    mean = mean_level(views)
    moves: list[Move] = []
    moved_bytes = 0
    for chunk in chunks:
        if len(moves) >= most or moved_bytes >= most_bytes:
            break
        if not chunk.length or len(chunk.holders) != chunk.wanted or not views.keys() >= set(chunk.holders):
            continue  # repair's, or not wholly in view
        move = _move(views, chunk, mean, threshold)
        if move is not None:
            moves.append(move)
            moved_bytes += move.length
            apply_move(views, move)
    return moves


def apply_move(views: dict[NodeId, NodeView], move: Move) -> None:
    """What the levels are after it."""
    taker = views[move.target]
    views[move.source] = with_less(views[move.source], move.length)
    views[move.target] = taker._replace(
        used_bytes=taker.used_bytes + move.length, free_bytes=max(0, taker.free_bytes - move.length)
    )


def _move(views: Mapping[NodeId, NodeView], chunk: ChunkState, mean: float, threshold: float) -> Move | None:
    source = max(chunk.holders, key=lambda node: (fill_level(views[node]), node))
    level = fill_level(views[source])
    if level <= mean:
        return None
    for taker in sorted(views.values(), key=lambda view: (fill_level(view), view.node)):
        below = fill_level(taker)
        if below >= mean or (level - mean <= threshold and mean - below <= threshold):
            return None  # and all that follow are fuller
        if taker.node in chunk.holders or taker.free_bytes < chunk.length:
            continue
        move = Move(chunk.chunk, chunk.length, source, taker.node)
        if _helps(views, chunk, move):
            return move
    return None


def _helps(views: Mapping[NodeId, NodeView], chunk: ChunkState, move: Move) -> bool:
    giver, taker = views[move.source], views[move.target]
    after_giver = (giver.used_bytes - move.length) / (giver.used_bytes + giver.free_bytes)
    after_taker = (taker.used_bytes + move.length) / (taker.used_bytes + taker.free_bytes)
    if after_giver < after_taker:
        return False
    return choose_surplus([*chunk.holders, move.target], 1, views) == [move.source]
