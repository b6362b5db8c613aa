"""Missing copies are made again, surplus ones dropped.

`plan` is a pure function: from one chunk's replicas and the nodes' states to what is to be done. `Repair` goes round
all sealed chunks slice by slice, counts those with too few copies, and keeps a bounded number of copies under way. A
copy is an order to its target with a negative number, which lives in memory only: after a restart it is simply
planned anew. Open chunks are left alone: their commits say who has what.

A copy that is shorter than what was committed (its node lost power before it flushed) still holds what was flushed: it
does not count, is no source, and is dropped only when there are enough whole ones. If all are short, all stay.

Invariants: at most `COPIES_IN_FLIGHT_MAX` copies per target and one per (chunk, target); the last live replica of a
chunk is never dropped.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog
import trio

from dfs import errors, limits
from dfs.placement import candidates, choose_nodes
from dfs.types import ChunkId, NodeId, NodeState, NodeView

if TYPE_CHECKING:
    from nodes.namenode.membership import Membership
    from nodes.namenode.store import Store
    from nodes.namenode.writer import Writer

log = structlog.get_logger(__name__)

_SLICE: Final = 2048
_PAUSE_S: Final = 0.2
"""Between two slices while there is something to repair."""
_PAUSE_AFTER_ERROR_S: Final = 5.0
"""After a round that the disk or a full queue of commands stopped."""
_COPY_TIMEOUT_S: Final = 120.0
"""After which a copy that was ordered and not reported is given up, and planned anew."""


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
    live: int


def plan(
    chunk: ChunkState,
    nodes: Mapping[NodeId, NodeView],
    busy: Mapping[NodeId, int],
    chance: random.Random,
    short: Collection[NodeId] = (),
) -> Plan:
    """What to do for one chunk. Copies on suspect nodes count as long as they are not dead, and as sources.

    Those on `short` nodes do not: they are surplus once there are enough others.
    A target holds no copy, is up, has room, and has fewer than COPIES_IN_FLIGHT_MAX copies (`busy`) under way.
    """
    there = [node for node in chunk.holders if node in nodes and nodes[node].state != NodeState.DEAD]
    live = [node for node in there if node not in short]
    if not live:
        return Plan([], [], 0)
    up = [node for node in live if nodes[node].state == NodeState.UP]
    if len(up) >= chunk.wanted and len(there) > len(live):
        return Plan([], [node for node in there if node in short], len(live))
    if len(up) > chunk.wanted:
        fullest = sorted(up, key=lambda node: nodes[node].free_bytes / max(1, nodes[node].capacity_bytes))
        return Plan([], fullest[: len(up) - chunk.wanted], len(live))
    missing = chunk.wanted - len(live)
    if missing <= 0:
        return Plan([], [], len(live))
    full = {node for node, copies in busy.items() if copies >= limits.COPIES_IN_FLIGHT_MAX}
    able = candidates(nodes.values(), full.union(chunk.holders), chunk.length)
    racks = [nodes[node].rack for node in live]
    return Plan(choose_nodes(able, missing, chance, racks_taken=racks), [], len(live))


class _Copy(NamedTuple):
    chunk: ChunkId
    length: int
    target: NodeId
    sources: list[NodeId]
    ordered_at: float


class Repair:
    """Use `run` as a task. `orders` and `finished` are called by heartbeats."""

    def __init__(self, store: Store, writer: Writer, members: Membership, chance: random.Random, enabled: bool) -> None:
        self._store = store
        self._writer = writer
        self._members = members
        self._chance = chance
        self._enabled = enabled
        self._copies: dict[int, _Copy] = {}
        self._short: dict[NodeId, set[ChunkId]] = {}
        self._last_order = -(chance.getrandbits(40) << 20)  # of no other process: a late report is of no other copy
        self.under_replicated = 0
        """Chunks with fewer live copies than wanted, as the last round found."""
        self.lost = 0
        """Chunks without a live copy."""
        self.copied = 0

    async def run(self) -> None:
        """Go round until cancelled."""
        while True:
            changed = self._members.changed
            started = trio.current_time()
            try:
                found = await self._round()
            except errors.DfsError as error:
                log.warning("repair was interrupted: trying again", error=str(error))
                await trio.sleep(_PAUSE_AFTER_ERROR_S)
                continue
            if found:
                await trio.sleep(_PAUSE_S)
                continue
            with trio.move_on_after(max(1.0, 10 * (trio.current_time() - started))):
                await changed.wait()

    async def _round(self) -> bool:
        """Once over all chunks; whether any needs, or is getting, something."""
        self._give_up_old()
        after = under = lost = 0
        while rows := self._slice(after):
            after = rows[-1].chunk
            nodes = {view.node: view for view in self._members.views()}
            for chunk in sorted(rows, key=lambda row: len(row.holders)):
                live = await self._mend(chunk, nodes)
                under += 0 < live < chunk.wanted
                lost += live == 0
            await trio.lowlevel.checkpoint()
        self.under_replicated, self.lost = under, lost
        return bool(self._copies)

    def _slice(self, after: int) -> list[ChunkState]:
        rows = self._store.reads.execute(
            "SELECT c.chunk, c.length, c.replicas, group_concat(n.name) FROM (SELECT * FROM chunk WHERE chunk > ? AND"
            " session = 0 ORDER BY chunk LIMIT ?) c LEFT JOIN replica r ON r.chunk = c.chunk LEFT JOIN node n"
            " ON n.id = r.node GROUP BY c.chunk ORDER BY c.chunk",
            (after, _SLICE),
        )
        return [
            ChunkState(row[0], row[1], row[2], tuple(map(NodeId, row[3].split(","))) if row[3] else ()) for row in rows
        ]

    async def _mend(self, chunk: ChunkState, nodes: Mapping[NodeId, NodeView]) -> int:
        """Do what one chunk needs; how many live copies it has."""
        busy: dict[NodeId, int] = {}
        under_way = [copy for copy in self._copies.values() if copy.chunk == chunk.chunk]
        for copy in self._copies.values():
            busy[copy.target] = busy.get(copy.target, 0) + 1
        for copy in under_way:
            busy[copy.target] = limits.COPIES_IN_FLIGHT_MAX  # not a second copy of this chunk to the same node
        short = [node for node in chunk.holders if chunk.chunk in self._short.get(node, ())]
        todo = plan(chunk, nodes, busy, self._chance, short)
        if not self._enabled:
            return todo.live
        for node in todo.surplus[:1]:  # one at a time: the next round sees the new state
            log.info("dropping a surplus copy", chunk=chunk.chunk, node=node)
            await self._writer.decide("drop_replica", chunk.chunk, node, chunk.wanted)
        for target in todo.targets[: max(0, chunk.wanted - todo.live - len(under_way))]:
            if not self._is_to_be_deleted(chunk.chunk, target):
                self._order(
                    chunk,
                    target,
                    [node for node in chunk.holders if node not in short and nodes[node].state != NodeState.DEAD],
                )
        return todo.live

    def _is_to_be_deleted(self, chunk: ChunkId, node: NodeId) -> bool:
        """An old copy there waits for its deletion, which would hit the new one."""
        row = self._store.reads.execute(
            "SELECT 1 FROM work w JOIN node n ON n.id = w.node WHERE w.chunk = ? AND n.name = ? AND w.kind = 'delete'",
            (chunk, node),
        ).fetchone()
        return row is not None

    def _order(self, chunk: ChunkState, target: NodeId, sources: list[NodeId]) -> None:
        self._last_order -= 1
        self._copies[self._last_order] = _Copy(chunk.chunk, chunk.length, target, sources, trio.current_time())

    def _give_up_old(self) -> None:
        deadline = trio.current_time() - _COPY_TIMEOUT_S
        for number, copy in list(self._copies.items()):
            if copy.ordered_at < deadline:
                log.warning("a copy was not made in time", chunk=copy.chunk, node=copy.target)
                del self._copies[number]

    # --- heartbeats -------------------------------------------------------------------------------------

    def orders(self, node: NodeId) -> list[list[Any]]:
        """The copies that a node is to make: [number, "copy", chunk, length, [[node, address], ...]]."""
        addresses = {view.node: view.address for view in self._members.views()}
        return [
            [number, "copy", copy.chunk, copy.length, [[source, addresses[source]] for source in copy.sources]]
            for number, copy in self._copies.items()
            if copy.target == node
        ]

    def note_short(self, node: NodeId, first: int, last: int, chunks: Sequence[ChunkId]) -> None:
        """In [first, last], these are the chunks of which a node has less than was committed."""
        known = self._short.setdefault(node, set())
        known.difference_update([chunk for chunk in known if first <= chunk <= last])
        known.update(chunks)

    async def finished(self, node: NodeId, numbers: Sequence[int]) -> None:
        """A node has made these copies."""
        for number in numbers:
            copy = self._copies.get(number)
            if copy is None or copy.target != node:
                continue
            counts = await self._writer.decide("add_replica", copy.chunk, node, copy.length)
            if not counts:
                await self._writer.decide("delete_stray", node, [copy.chunk])
            self._copies.pop(number, None)
            self.copied += 1

    def failed(self, node: NodeId, number: int) -> None:
        """A node could not make a copy: it is planned anew, perhaps elsewhere."""
        copy = self._copies.get(number)
        if copy is not None and copy.target == node:
            del self._copies[number]

    @property
    def copying(self) -> int:
        return len(self._copies)
