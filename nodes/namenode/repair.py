"""What one chunk needs: copies where there are too few, fewer where there are too many. Pure functions.

A copy counts if it is whole, its node is not dead, and its node is not being emptied. A copy that is not whole (some of
its blocks are damaged, or its node lost power before it flushed) still holds the other blocks: it does not count, and
is mended where it is, from whole ones; from one another where none is whole, since each may have what others lack, or
put together on another node if none of theirs takes orders.
Should that fail, another node gets a copy. It is dropped only when there are enough whole ones. A copy on a node that
is being emptied is a source, and is dropped when enough others are there. A copy on a node that has not reported since
it registered counts, so that no other is made at once; but no other is dropped for its sake, since its disk may be a
new one.

Invariants: as many copies as are wanted, on nodes that are up and have reported, stay when any is dropped; so the last
one is never dropped. A target holds no whole copy, is up, is not being emptied, and has room, for which a copy that is
to be mended has to ask only itself.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from dfs.placement import Lots, candidates, choose_nodes, choose_surplus, takes_orders
from dfs.types import ChunkId, NodeId, NodeState, NodeView


class ChunkState(NamedTuple):
    """A sealed chunk: how many copies it is to have, and which nodes have one."""

    chunk: ChunkId
    length: int
    wanted: int
    holders: tuple[NodeId, ...]


class Plan(NamedTuple):
    """What one chunk needs: a copy on `targets`, or none on `surplus`."""

    targets: list[NodeId]
    surplus: list[NodeId]
    kept: list[NodeId]
    """Copies on nodes that are up and have reported, for whose sake the surplus may go."""
    sources: list[NodeId]
    """Copies on nodes that are not dead: whole ones, or all if none is whole. A target is no source of its own."""
    whole: int
    """How many of these are whole, or taken for it."""
    live: int
    """Copies that count."""
    missing: int
    """Copies to be made, those on `targets` and those that no node takes now. Not those that are coming.

    0 while no copy is whole: `targets` are to mend theirs then, as far as that can be.
    """
    blocked: bool
    """No node may take a copy, however little it has to do."""
    is_lost: bool
    """No live copy is whole."""


def live_among(holders: Iterable[NodeId], nodes: Mapping[NodeId, NodeView]) -> list[NodeId]:
    """Those of a chunk's holders whose copies there are, whole or not: the nodes that are known and not dead."""
    return [node for node in holders if node in nodes and nodes[node].state != NodeState.DEAD]


def plan(
    chunk: ChunkState,
    nodes: Mapping[NodeId, NodeView],
    chance: random.Random,
    *,
    busy: Collection[NodeId] = (),
    short: Collection[NodeId] = (),
    left: Collection[NodeId] = (),
    replacing: Collection[NodeId] = (),
    coming: Collection[NodeId] = (),
    unreported: Collection[NodeId] = (),
    is_one_rack: bool = False,
    lots: Lots | None = None,
) -> Plan:
    """What to do for one chunk. Nodes in `busy` take no copy of it now; to those in `coming` one is under way.

    Copies on suspect nodes count, and are sources; copies on `short` nodes are not whole. If none is, those on nodes in
    `left` are taken for it, as they have all that is left; a copy then goes only if its node is up and has reported, as
    what it lacks is known from itself. Nodes in `replacing` are of an older release, which would replace what they
    have, or have failed to mend it: theirs are not mended. Those on `unreported` nodes are believed in, but not relied
    on. `is_one_rack`: there is no other rack for a copy to go to. Of a chunk that needs nothing only the holders are
    looked at, however many nodes there are; and of one that lacks copies few others, if targets are drawn from `lots`.
    """
    there = live_among(chunk.holders, nodes)
    intact = [node for node in there if node not in short]
    is_lost = not intact
    whole = intact or [node for node in there if node in left]
    staying = [node for node in whole if not nodes[node].draining]
    able_to_mend = (node for node in there if node not in whole and takes_orders(nodes[node]))
    mendable = [node for node in able_to_mend if node not in replacing and node not in coming]
    if not whole:
        targets = [node for node in mendable if node not in busy] if len(there) > 1 else []
        if there and not mendable and not coming:  # as all that have one are being emptied: put together elsewhere
            able = candidates(nodes.values(), set(chunk.holders), chunk.length)
            targets = choose_nodes([view for view in able if view.node not in busy], 1, chance)
        return Plan(targets, [], [], there, 0, 0, 0, False, is_lost)
    missing = max(0, chunk.wanted - len(staying) - len(coming))
    if not missing:
        surplus, kept = _surplus(chunk, nodes, there, staying, unreported)
        if surplus:
            if is_lost:
                surplus = [node for node in surplus if is_heard(node, nodes, unreported)]
            return Plan([], surplus, kept, whole, len(whole), len(staying), 0, False, is_lost)
    taken = [nodes[node].rack for node in (*staying, *coming) if node in nodes]
    is_in_one_rack = chunk.wanted > 1 and len(set(taken)) == 1 and not is_one_rack
    if not missing and not is_in_one_rack:
        return Plan([], [], [], whole, len(whole), len(staying), 0, False, is_lost)
    if missing and lots is not None and not mendable:
        targets = _drawn(lots, missing, [chunk.holders, coming, busy], chunk.length, taken, nodes)
        if len(targets) == missing:
            return Plan(targets, [], [], whole, len(whole), len(staying), missing, False, is_lost)
    able = candidates(nodes.values(), {*chunk.holders, *coming}, chunk.length)
    free = [view for view in able if view.node not in busy]
    if missing:
        targets = [node for node in mendable if node not in busy][:missing]
        targets += choose_nodes(free, missing - len(targets), chance, racks_taken=taken)
        return Plan(targets, [], [], whole, len(whole), len(staying), missing, not able and not mendable, is_lost)
    apart = [view for view in free if view.rack != taken[0]]  # what fails together holds all: one more, then one goes
    return Plan(choose_nodes(apart, 1, chance), [], [], whole, len(whole), len(staying), 0, False, is_lost)


def _drawn(
    lots: Lots,
    count: int,
    exclude: Sequence[Collection[NodeId]],
    length: int,
    racks_taken: Sequence[str],
    nodes: Mapping[NodeId, NodeView],
) -> list[NodeId]:
    """So many different nodes, or fewer."""
    targets: list[NodeId] = []
    while len(targets) < count:
        racks = [*racks_taken, *(nodes[node].rack for node in targets)]
        node = lots.draw([*exclude, targets], length, racks)
        if node is None:
            break
        targets.append(node)
    return targets


def _surplus(
    chunk: ChunkState,
    nodes: Mapping[NodeId, NodeView],
    there: list[NodeId],
    staying: list[NodeId],
    unreported: Collection[NodeId],
) -> tuple[list[NodeId], list[NodeId]]:
    up = [node for node in staying if is_heard(node, nodes, unreported)]
    if len(up) < max(1, chunk.wanted):
        return [], []
    leaving = [node for node in there if node not in staying]
    leaving += choose_surplus(up, len(up) - max(1, chunk.wanted), nodes)
    return leaving, [node for node in up if node not in leaving]


def is_heard(node: NodeId, nodes: Mapping[NodeId, NodeView], unreported: Collection[NodeId]) -> bool:
    """Whether all that the node has to say of its copy is known."""
    return nodes[node].state == NodeState.UP and node not in unreported
