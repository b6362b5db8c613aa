"""What emptying a node would mean: a pure function over its chunks, slice by slice, for who asks before doing it.

A node may have a million chunks, and a cluster hundreds of nodes: so not all of them are looked at for each chunk.
Targets are drawn by weights that are true at the beginning of a slice; only when that goes wrong
(`dfs.placement.Lots`), as when nearly all are full, or a chunk lacks more than this copy, all are looked at, and the
target is chosen as those of copies are.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Any

from dfs.placement import Lots, candidates, choose_nodes, takes_orders
from dfs.types import NodeId, NodeState, NodeView
from nodes.namenode.repair import ChunkState


class DrainPlan:
    """Give it all chunks of `node`, then ask for the `result`. The copies take space in its view of the nodes."""

    def __init__(self, node: NodeId, nodes: Mapping[NodeId, NodeView], chance: random.Random) -> None:
        self._node = node
        self._views = dict(nodes)
        self._chance = chance
        self._able = [view.node for view in nodes.values() if takes_orders(view) and view.node != node]
        """Those that may take chunks."""
        self._lots = Lots(self._views, self._able, chance)
        self._targets: dict[NodeId, list[int]] = {}
        self._chunks = self._bytes = self._stay = self._only_copies = self._too_few_nodes = self._no_space = 0

    def add(self, chunks: Iterable[ChunkState]) -> None:
        """A slice of the chunks that have a copy on the node."""
        self._lots = Lots(self._views, self._able, self._chance)
        for chunk in chunks:
            self._add(chunk)

    def _add(self, chunk: ChunkState) -> None:
        self._chunks += 1
        self._bytes += chunk.length
        others = [node for node in chunk.holders if node != self._node and self._is_there(node)]
        staying = [node for node in others if not self._views[node].draining]
        self._only_copies += not others
        if len(staying) >= chunk.wanted:
            self._stay += 1
            return
        missing = chunk.wanted - len(staying)
        racks = [self._views[node].rack for node in staying]
        target = self._lots.draw([chunk.holders], chunk.length, racks)
        if target is None or missing > 1:
            able = candidates(self._views.values(), {*chunk.holders, self._node}, 0)
            roomy = [view for view in able if view.free_bytes >= chunk.length]
            if len(able) < missing:
                self._too_few_nodes += 1
            elif len(roomy) < missing:
                self._no_space += 1
            target = target or next(iter(choose_nodes(roomy, 1, self._chance, racks_taken=racks)), None)
        if target is not None:
            self._place(target, chunk.length)

    def _is_there(self, node: NodeId) -> bool:
        return node in self._views and self._views[node].state != NodeState.DEAD

    def _place(self, target: NodeId, length: int) -> None:
        view = self._views[target]
        self._views[target] = view._replace(free_bytes=view.free_bytes - length, used_bytes=view.used_bytes + length)
        counted = self._targets.setdefault(target, [0, 0])
        counted[0] += 1
        counted[1] += length

    def result(self, bytes_per_s: int) -> dict[str, Any]:
        """A map: what moves where, how long that takes at `bytes_per_s` (0: no limit) at least, what is at risk."""
        targets = {node: {"chunks": count, "bytes": length} for node, (count, length) in self._targets.items()}
        longest = max((length for _, length in self._targets.values()), default=0)
        return {
            "node": self._node,
            "chunks": self._chunks,
            "bytes": self._bytes,
            "already_elsewhere": self._stay,
            "targets": targets,
            "bytes_per_s": bytes_per_s,
            "at_least_s": longest / bytes_per_s if bytes_per_s else 0.0,
            "only_copies": self._only_copies,
            "too_few_nodes": self._too_few_nodes,
            "no_space": self._no_space,
        }
