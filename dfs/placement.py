"""Where replicas go, and which go first: pure functions from a view of the nodes to a choice.

Copies go to different nodes, and to different racks as long as there are any. Among nodes that are equally good so
far the choice is by chance, weighted by free space and against load: a new node fills up without being
overrun, and two clients that ask at once do not choose alike. A copy too many goes from where copies are closest
together, and there from the fullest node.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from typing import Final

from dfs.types import NodeId, NodeState, NodeView

_LOAD_HALVES_AT = 16
"""Requests in work at which a node is half as likely to be chosen."""
_DRAWS_MAX: Final = 8


def takes_orders(view: NodeView) -> bool:
    """Whether a node mends copies, or makes new ones where it has room: up, and not being emptied."""
    return view.state == NodeState.UP and not view.draining


def candidates(nodes: Iterable[NodeView], exclude: Collection[NodeId], needed_bytes: int) -> list[NodeView]:
    """Nodes that may take new data: up, not being emptied, not excluded, with room."""
    return [
        view for view in nodes if takes_orders(view) and view.node not in exclude and view.free_bytes >= needed_bytes
    ]


def fill_level(view: NodeView) -> float:
    """How full a node is: the share that its chunks have of what they could have; 0 of a node without space."""
    total = view.used_bytes + view.free_bytes
    return view.used_bytes / total if total else 0.0


def with_less(view: NodeView, length: int) -> NodeView:
    """A node after so many bytes of chunks have left it."""
    return view._replace(used_bytes=max(0, view.used_bytes - length), free_bytes=view.free_bytes + length)


def choose_surplus(holders: Iterable[NodeId], count: int, nodes: Mapping[NodeId, NodeView]) -> list[NodeId]:
    """Which `count` of a chunk's holders give up their copy, so that those that stay are in as many racks as can be."""
    left = list(holders)
    chosen: list[NodeId] = []
    for _ in range(min(count, len(left))):
        racks = [nodes[node].rack for node in left]
        fullest = max(left, key=lambda node: (racks.count(nodes[node].rack), fill_level(nodes[node]), node))
        chosen.append(fullest)
        left.remove(fullest)
    return chosen


def weight(view: NodeView) -> float:
    """How much a node is to be preferred: by the share of it that is free, and by how little it has to do."""
    share = view.free_bytes / view.capacity_bytes if view.capacity_bytes else 1.0
    return max(share, 0.01) * _LOAD_HALVES_AT / (_LOAD_HALVES_AT + view.load)


def choose_nodes(
    nodes: Sequence[NodeView],
    count: int,
    chance: random.Random,
    *,
    near_host: str = "",
    racks_taken: Collection[str] = (),
) -> list[NodeId]:
    """At most `count` different nodes of `nodes`, all of which may be taken; fewer if there are fewer.

    `near_host`: the first copy goes to a node on this host, if there is one. `racks_taken`: racks that hold a
    copy already.
    """
    left = list(nodes)
    chosen: list[NodeId] = []
    racks = list(racks_taken)
    while left and len(chosen) < count:
        pool = left
        if near_host and not chosen and any(view.host == near_host for view in left):
            pool = [view for view in left if view.host == near_host]
        fewest = min(racks.count(view.rack) for view in pool)
        pool = [view for view in pool if racks.count(view.rack) == fewest]
        pick = chance.choices(pool, [weight(view) for view in pool])[0]
        chosen.append(pick.node)
        racks.append(pick.rack)
        left.remove(pick)
    return chosen


class Lots:
    """For who chooses nodes for many chunks, in a cluster of hundreds: none that is drawn is found by looking at all.

    Draws go by weights that were true at the first one, racks and free space by `nodes` as they are: what is drawn is
    as likely as if `choose_nodes` had chosen it.
    """

    def __init__(self, nodes: Mapping[NodeId, NodeView], able: Sequence[NodeId], chance: random.Random) -> None:
        """`able`: those of `nodes` that may take copies at all."""
        self._nodes = nodes
        self._able = able
        self._chance = chance
        self._weights: list[float] = []
        self._racks: set[str] = set()

    def draw(
        self, exclude: Sequence[Container[NodeId]], needed_bytes: int, racks_taken: Sequence[str]
    ) -> NodeId | None:
        """A node in none of `exclude`, of those in racks that have the fewest copies.

        None if none was drawn in a few attempts, as when nearly all are full: there may be one all the same.
        """
        if not self._able:
            return None
        if not self._weights:
            self._weights = list(itertools.accumulate(weight(self._nodes[node]) for node in self._able))
            self._racks = {self._nodes[node].rack for node in self._able}
        fewest = min(racks_taken.count(rack) for rack in self._racks)
        for node in self._chance.choices(self._able, cum_weights=self._weights, k=_DRAWS_MAX):
            view = self._nodes[node]
            is_apart = racks_taken.count(view.rack) == fewest
            if is_apart and view.free_bytes >= needed_bytes and not any(node in each for each in exclude):
                return node
        return None
