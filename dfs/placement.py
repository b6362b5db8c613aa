"""Where replicas go, and which go first: pure functions from a view of the nodes to a choice.

Copies go to different nodes, and to different racks as long as there are any. Among nodes that are equally good so
far the choice is by chance, weighted by free space and against load: a new node fills up without being
overrun, and two clients that ask at once do not choose alike. A copy too many goes from where copies are closest
together, and there from the fullest node.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence

from dfs.types import NodeId, NodeState, NodeView

_LOAD_HALVES_AT = 16
"""Requests in work at which a node is half as likely to be chosen."""


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
