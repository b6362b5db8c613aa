"""Every chunk has as many copies as it is to have, where they should be: repair, drain and trimming at work.

`run` goes round all sealed chunks, slice by slice, again and again: it counts what is missing, puts chunks that need a
copy into the backlog, but for those that wait until an old copy is deleted, and has surplus copies dropped. `fill`
takes the most urgent chunks out of the backlog and orders their copies, as long as any target's window has room; it
runs whenever there may be room: as the round finds chunks, and with every heartbeat, before its answer takes the orders
along. What is to be done is decided by `repair.plan`, from the state that the database has at that moment; copies under
way are in `copies.Copies`, those that `balancing` orders too.

A copy that was made is registered (a few in one command), then its chunk is looked at once more: that is
how the copy that a drain or a balance left behind is dropped. A copy under way that is not needed any more, since a
node came back or the chunk is gone, is cancelled by the next round.

Open chunks are left alone: their commits say who has what.

A chunk of which no live copy is whole has lost blocks. What is left of it is looked after all the same. Its copies are
mended from one another, and nodes say which of their blocks are damaged (`_damage`): so a copy is known to lack nothing
that any live one has. Such a copy is taken for whole (`_have_all_that_is_left`): others are made from it, and those go
of which it has all. Where a node has not said which blocks it lacks, nobody knows that another has all of its.

Invariants: at most one look at a chunk at a time decides about it (there is no await between reading its state and
ordering its copies); what is dropped is dropped by a command that verifies that the copies it relies on are there.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Collection, Container, Iterable, Mapping, Sequence, Set
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import structlog
import trio

from dfs import errors, limits, tasks
from dfs.config import NameNodeConfig
from dfs.placement import Lots, takes_orders, with_less
from dfs.types import ChunkId, NodeId, NodeState, NodeView
from nodes.namenode.backlog import Backlog
from nodes.namenode.balancing import Balancing
from nodes.namenode.copies import Copies, Copy
from nodes.namenode.repair import ChunkState, Plan, is_heard, live_among, plan

if TYPE_CHECKING:
    from nodes.namenode.membership import Membership
    from nodes.namenode.store import Store
    from nodes.namenode.writer import Writer

log = structlog.get_logger(__name__)

_SLICE: Final = 1024
_ROWS: Final = 64
"""Chunks of a round that are read at a time: a millisecond, or some in a very large cluster."""
_TURN_S: Final = 0.005
"""For which a round, or a `fill`, keeps the event loop, but for its last rows."""
_PERIOD_LEAST_S: Final = 1.0
"""Between two rounds; ten times what a round took, if that is more."""
_PAUSE_S: Final = 0.2
"""Between two rounds when a node came or went, at least."""
_PAUSE_AFTER_ERROR_S: Final = 5.0
"""After a round that the disk or a full queue of commands stopped."""
_TRIES: Final = 512
"""Chunks of the backlog that are looked at before the most urgent ones are anew."""
_MISSES: Final = 32
"""Chunks in a row that no node takes, after which a `fill` that has ordered some copies ends: the next one looks on."""
_FEW_KNOWN: Final = limits.EXPLAIN_MAX_CHUNKS
"""Chunks with too few copies that are known by number: as many as are explained at once."""
_COUNTED_AT_ONCE: Final = 8
"""Copies that one command counts: some milliseconds for each whose chunk is in pieces."""
_VAIN_PAUSE_S: Final = 1.0
"""Before `fill` looks again after it found nothing to order, unless a copy ended or a node changed."""
_STATES: Final = (
    "SELECT c.chunk, c.length, c.replicas, group_concat(n.name) FROM ({chosen}) c LEFT JOIN replica r"
    " ON r.chunk = c.chunk LEFT JOIN node n ON n.id = r.node GROUP BY c.chunk ORDER BY c.chunk"
)
_ALL: Final = _STATES.format(chosen="SELECT * FROM chunk WHERE chunk > ? AND session = 0 ORDER BY chunk LIMIT ?")
_ONE: Final = _STATES.format(chosen="SELECT * FROM chunk WHERE chunk = ? AND session = 0")
_EVEN_OPEN: Final = _STATES.format(chosen="SELECT * FROM chunk WHERE chunk = ?")
_OF_NODE: Final = _STATES.format(
    chosen="SELECT h.* FROM node m JOIN replica q ON q.node = m.id JOIN chunk h ON h.chunk = q.chunk"
    " WHERE m.name = ? AND q.chunk > ? AND h.session = 0 ORDER BY q.chunk LIMIT ?"
)

_Surplus: TypeAlias = tuple[ChunkId, list[NodeId], list[NodeId]]
"""A chunk, the nodes that are to drop it, and those for whose sake they may."""


class _Count:
    """What a round found, in copies; `under_replicated` and `lost` in chunks.

    `to_copy` are the missing ones, `blocked` those of them that no node may take, `waiting` those that none takes
    before it has deleted an old copy, `held_up` those of these for which a node holds deletions back. `stuck_bytes` are
    those of the blocked and the held up ones. `few` are the first of the `under_replicated`. `of_draining` has the
    chunks and bytes left on each node that is being emptied; of a dead one, those of chunks that lack copies elsewhere.
    `wanted` are the numbers of copies that chunks are to have.
    """

    def __init__(self) -> None:
        self.few: list[ChunkId] = []
        self.under_replicated = self.lost = self.surplus = self.blocked = 0
        self.waiting = self.held_up = 0
        self.to_copy = self.to_copy_bytes = self.stuck_bytes = 0
        self.wanted: set[int] = set()
        self.of_draining: dict[NodeId, list[int]] = {}


class _Leaving(NamedTuple):
    """Bytes that are to leave a node, which used so many before the first of them was found."""

    used_bytes: int
    bytes: int

    def without(self, view: NodeView) -> NodeView:
        """The node as it is when they are gone: some may be already."""
        return with_less(view, max(0, self.bytes - max(0, self.used_bytes - view.used_bytes)))


class _Turn:
    """The nodes as one turn of a round sees them, and what of that need not be found out for each chunk.

    Those in `racks` are up and not being emptied, and have reported since they registered. `doubted` are the chunks of
    which a node has less than was committed, for sure or perhaps.
    """

    def __init__(
        self,
        nodes: dict[NodeId, NodeView],
        unreported: Container[NodeId],
        doubted: Mapping[NodeId, Sequence[Set[ChunkId]]],
        chance: random.Random,
    ) -> None:
        self.nodes = nodes
        able = [view for view in nodes.values() if takes_orders(view)]
        self.lots = Lots(nodes, [view.node for view in able], chance)
        self.racks = {view.node: view.rack for view in able if view.node not in unreported}
        self.doubted = doubted
        self.is_one_rack = len({view.rack for view in nodes.values()}) <= 1

    def is_well(self, chunk: ChunkState) -> bool:
        """Whether a chunk, of which no copy is under way, has all that it is to have, where it is to be."""
        if not chunk.holders or len(chunk.holders) != chunk.wanted:
            return False
        racks = {self.racks.get(node) for node in chunk.holders}
        if None in racks or (len(racks) == 1 < chunk.wanted and not self.is_one_rack):
            return False
        if not self.doubted:
            return True
        return not any(chunk.chunk in each for node in chunk.holders for each in self.doubted.get(node, ()))


class Damage(NamedTuple):
    """What a node says of a copy: where its damaged blocks begin, and its length in bytes, these included."""

    blocks: frozenset[int]
    length: int


class Replication:
    """Use `run` as a task. `note_*`, `finished`, `failed` and `orders` are called by heartbeats and reports."""

    def __init__(
        self, store: Store, writer: Writer, members: Membership, chance: random.Random, config: NameNodeConfig
    ) -> None:
        self._store = store
        self._writer = writer
        self._members = members
        self._chance = chance
        self._config = config
        self._copies = Copies(chance, config.copy_bandwidth)
        self._backlog = Backlog(limits.COPY_BACKLOG_MAX)
        self._hungry = trio.Event()
        self._tries: deque[ChunkId] = deque()
        """Chunks of the backlog that the last `fill` had no time for."""
        self._tries_began_at = 0  # copies that were ordered before the first of them was looked at
        self._in_vain_until = -1e9  # the last `fill` found nothing to order
        self._in_vain_with = (0, members.changed)  # copies that had ended by then, and the nodes as they were
        self._short: dict[NodeId, set[ChunkId]] = {}
        self._unsure: dict[NodeId, set[ChunkId]] = {}
        self._damage: dict[tuple[NodeId, ChunkId], Damage] = {}
        """Of copies in `_short`, if their nodes have said so."""
        self._position = ChunkId(0)  # how far the round is: what finishes below is counted already
        self._now = _Count()
        self._found = _Count()
        self._leaving: dict[NodeId, _Leaving] = {}
        """What the round under way has found surplus: the next one goes where nodes are fullest without that."""
        self.balancing = Balancing(self, members, config)

    # --- rounds -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Go round until cancelled."""
        while True:
            changed = self._members.changed
            started = trio.current_time()
            try:
                with self._store.translating():
                    await self.run_once()
            except errors.DfsError as error:
                log.warning("repair was interrupted: trying again", error=str(error))
                await trio.sleep(_PAUSE_AFTER_ERROR_S)
                continue
            took_s = trio.current_time() - started
            await trio.sleep(_PAUSE_S + took_s)
            await self._wait(changed, max(_PERIOD_LEAST_S, 10 * took_s))

    async def _wait(self, changed: trio.Event, most_s: float) -> None:
        """Until a node came, went or has reported, there is more to do than the backlog held, or it is time again."""
        async with tasks.open_nursery() as nursery:

            async def end(event: trio.Event) -> None:
                await event.wait()
                nursery.cancel_scope.cancel()

            nursery.cancel_scope.deadline = trio.current_time() + most_s
            nursery.start_soon(end, changed)
            nursery.start_soon(end, self._hungry)
            nursery.start_soon(self._balance)

    async def _balance(self) -> None:
        """Between two rounds: all that the last one found is so, as long as no node comes or goes."""
        while True:
            started = trio.current_time()
            try:
                with self._store.translating():
                    await self.balancing.go_on()
            except errors.DfsError as error:
                log.warning("balance was interrupted: trying again after the next round", error=str(error))
                return
            await trio.sleep(max(_PERIOD_LEAST_S, 10 * (trio.current_time() - started)))

    async def run_once(self) -> None:
        """Once over all chunks."""
        await self._cancel_needless()
        self._now, self._position = _Count(), ChunkId(0)
        self._leaving.clear()
        self._backlog.overflowed = False
        self._hungry = trio.Event()
        is_through = False
        while not is_through:
            surplus, is_through = self._look_on()
            await self._drop(surplus)
            self.fill()
            await trio.lowlevel.checkpoint()
        self._found = self._now
        await self.balancing.go_on()

    def _look_on(self) -> tuple[list[_Surplus], bool]:
        """Look at the next chunks for a turn; what is surplus of them, and whether they were the last."""
        nodes = dict(self._members.by_name())
        for node in nodes.keys() & self._leaving.keys():
            nodes[node] = self._leaving[node].without(nodes[node])
        turn = _Turn(nodes, self._members.unreported, self._doubted(), self._chance)
        surplus: list[_Surplus] = []
        until = trio.current_time() + _TURN_S
        for _ in range(_SLICE // _ROWS):
            rows = self._states(_ALL, self._position, _ROWS)
            for chunk in rows:
                todo = self._look_at(chunk, turn)
                if todo is not None:
                    surplus.append(todo)
                    self._note_leaving(chunk, todo, nodes)
            if rows:
                self._position = rows[-1].chunk
            if len(rows) < _ROWS:
                return surplus, True
            if trio.current_time() >= until:
                break
        return surplus, False

    def _doubted(self) -> dict[NodeId, list[Set[ChunkId]]]:
        """See `_Turn`."""
        found: dict[NodeId, list[Set[ChunkId]]] = {}
        for copies in (self._short, self._unsure):
            for node, chunks in copies.items():
                if chunks:
                    found.setdefault(node, []).append(chunks)
        return found

    def _note_leaving(self, chunk: ChunkState, surplus: _Surplus, nodes: dict[NodeId, NodeView]) -> None:
        """What the levels are after it."""
        for node in surplus[1]:
            before = self._leaving.get(node) or _Leaving(nodes[node].used_bytes, 0)
            self._leaving[node] = before._replace(bytes=before.bytes + chunk.length)
            nodes[node] = with_less(nodes[node], chunk.length)

    def _states(self, sql: str, *values: Any) -> list[ChunkState]:
        return [
            ChunkState(row[0], row[1], row[2], tuple(map(NodeId, row[3].split(","))) if row[3] else ())
            for row in self._store.reads.execute(sql, values)
        ]

    def _state(self, chunk: ChunkId) -> ChunkState | None:
        """A sealed chunk as it is now."""
        found = self._states(_ONE, chunk)
        return found[0] if found else None

    def _look_at(self, chunk: ChunkState, turn: _Turn) -> _Surplus | None:
        """Count one chunk, put it into the backlog if it needs a copy; what is surplus of it."""
        count, nodes = self._now, turn.nodes
        count.wanted.add(chunk.wanted)
        if turn.is_well(chunk) and not self._copies.of_chunk(chunk.chunk):
            return None  # as are nearly all
        todo = self._plan(chunk, nodes, lots=turn.lots)
        for node in chunk.holders:
            if node in nodes and nodes[node].draining:
                left = count.of_draining.setdefault(node, [0, 0])
                if nodes[node].state != NodeState.DEAD or (chunk.length and todo.live < chunk.wanted):
                    left[0] += 1
                    left[1] += chunk.length
        count.lost += todo.is_lost and chunk.length > 0
        if _has_few(chunk, todo):
            count.under_replicated += 1
            if len(count.few) < _FEW_KNOWN:
                count.few.append(chunk.chunk)
        missing = todo.missing + sum(not copy.extra for copy in self._copies.of_chunk(chunk.chunk))
        count.to_copy += missing
        count.to_copy_bytes += missing * chunk.length
        if todo.blocked:
            count.blocked += todo.missing
            count.stuck_bytes += todo.missing * chunk.length
        if (todo.missing or todo.targets) and not todo.blocked and not self._is_delayed(chunk.chunk):
            deleting = self._to_be_deleted(chunk.chunk)
            if self._waits(chunk, nodes, deleting):
                if self._members.holding(deleting):
                    count.held_up += todo.missing
                    count.stuck_bytes += todo.missing * chunk.length
                count.waiting += todo.missing  # in the backlog they would stand in the way of what can be copied
                return None
            is_urgent = todo.missing or todo.is_lost
            self._backlog.put(chunk.chunk, todo.whole if is_urgent else limits.REPLICAS_MAX + 1)
        if todo.surplus:
            count.surplus += len(todo.surplus)
            return chunk.chunk, todo.surplus, todo.kept
        return None

    def _plan(
        self,
        chunk: ChunkState,
        nodes: Mapping[NodeId, NodeView],
        busy: Collection[NodeId] = (),
        failed: Collection[NodeId] = (),
        lots: Lots | None = None,
    ) -> Plan:
        """See `repair.plan`. Nodes in `busy` take no copy now; those in `failed` are not to mend theirs."""
        short = self.short_of(chunk.chunk, chunk.holders)
        return plan(
            chunk,
            nodes,
            self._chance,
            busy=busy,
            short=short,
            left=self._have_all_that_is_left(chunk, nodes) if short else (),
            replacing=[node for node in short if node in failed or not self._members.mends(node)],
            coming=[copy.target for copy in self._copies.of_chunk(chunk.chunk)],
            unreported=[
                node
                for node in chunk.holders
                if node in self._members.unreported or chunk.chunk in self._unsure.get(node, ())
            ],
            is_one_rack=self._members.is_one_rack(),
            lots=lots,
        )

    def _lacks_blocks(self, chunk: ChunkState, nodes: Mapping[NodeId, NodeView]) -> bool:
        """Whether there are live copies, and none of them is whole."""
        short = self.short_of(chunk.chunk, chunk.holders)
        return bool(short) and set(live_among(chunk.holders, nodes)).issubset(short)

    def _have_all_that_is_left(self, chunk: ChunkState, nodes: Mapping[NodeId, NodeView]) -> set[NodeId]:
        """Of a chunk that has lost blocks: the nodes whose copies have all the others."""
        if not self._lacks_blocks(chunk, nodes):
            return set()
        told = {node: self._damage.get((node, chunk.chunk)) for node in live_among(chunk.holders, nodes)}
        known = {node: each.blocks for node, each in told.items() if each is not None and each.length == chunk.length}
        if len(known) < len(told):
            return set()
        nowhere = frozenset.intersection(*known.values())
        return {node for node, blocks in known.items() if blocks == nowhere}

    def _is_delayed(self, chunk: ChunkId) -> bool:
        failure = self._copies.failure(chunk)
        return failure is not None and failure.not_before > trio.current_time()

    async def _drop(self, surplus: Sequence[_Surplus]) -> None:
        if not surplus or not self._config.repair:
            return
        dropped = await self._writer.decide("drop_surplus", surplus)
        log.info("surplus copies dropped", copies=dropped)

    # --- ordering copies --------------------------------------------------------------------------------

    def fill(self) -> None:
        """Order copies of the most urgent chunks, as far as there are targets that may take another, for one turn.

        Where that is not enough for `_TRIES` of them, the next one goes on where this one ended.
        """
        if not self._backlog or not self._config.repair or self._is_in_vain():
            return
        until = trio.current_time() + _TURN_S
        nodes = self._members.by_name()
        able = {node for node, view in nodes.items() if takes_orders(view)}
        full = {node for node in able if not self._copies.has_room(node)}
        lots = Lots(nodes, [node for node in nodes if node in able and node not in full], self._chance)
        if not self._tries:
            self._tries.extend(self._backlog.first(_TRIES))
            self._tries_began_at = self._copies.ordered
        ordered = self._copies.ordered
        misses = 0
        while self._tries:
            if misses == _MISSES or full >= able:
                self._tries.clear()
                return
            if trio.current_time() >= until:
                return
            chunk = self._tries.popleft()
            if chunk not in self._backlog:
                continue
            before = self._copies.ordered
            if self._mend(chunk, nodes, full, lots):
                self._backlog.discard(chunk)
            else:
                self._backlog.defer(chunk)
            misses = misses + 1 if ordered < before == self._copies.ordered else 0
        if self._copies.ordered == self._tries_began_at and self._backlog:
            self._in_vain_until = trio.current_time() + _VAIN_PAUSE_S
            self._in_vain_with = (self._copies.ended, self._members.changed)
        if not self._backlog and self._backlog.overflowed:
            self._hungry.set()

    def _is_in_vain(self) -> bool:
        """Whether looking would most likely find nothing again: nodes that are up take none of the chunks that wait."""
        unchanged = self._in_vain_with == (self._copies.ended, self._members.changed)
        return unchanged and trio.current_time() < self._in_vain_until

    def _mend(self, number: ChunkId, nodes: Mapping[NodeId, NodeView], full: set[NodeId], lots: Lots) -> bool:
        """Order what a chunk needs; whether that is all it needs. Targets whose windows are full join `full`."""
        chunk = self._state(number)
        if chunk is None or self._is_delayed(number):
            return True
        deleting = self._to_be_deleted(number)
        todo = self._plan(chunk, nodes, full | deleting, lots=lots)
        failure = self._copies.failure(number)
        if failure is not None and todo.targets:  # another target, if there is one
            busy = full | deleting | failure.targets
            elsewhere = self._plan(chunk, nodes, busy, failure.targets)
            todo = elsewhere if elsewhere.targets else todo
        for target in todo.targets:
            self._order(chunk, target, todo.sources, extra=not todo.missing)
            if not self._copies.has_room(target):
                full.add(target)
        return todo.blocked or len(todo.targets) >= todo.missing or self._waits(chunk, nodes, deleting)

    def _waits(self, chunk: ChunkState, nodes: Mapping[NodeId, NodeView], deleting: Set[NodeId]) -> bool:
        """Whether all nodes that may take a copy have to delete an old one first: a round finds it when one has."""
        return bool(deleting) and not self._plan(chunk, nodes, deleting).targets

    def _order(self, chunk: ChunkState, target: NodeId, sources: Sequence[NodeId], *, extra: bool) -> None:
        nodes = self._members.by_name()
        others = [node for node in sources if node != target]
        partly = target not in chunk.holders and self._lacks_blocks(chunk, nodes)
        if partly and self._have_all_that_is_left(chunk, nodes).issuperset(others):  # any of them will do
            others = [node for node in others if nodes[node].state == NodeState.UP] or others
        now = trio.current_time()
        self._copies.order(chunk.chunk, chunk.length, target, others, extra=extra, partly=partly, now=now)

    def _to_be_deleted(self, chunk: ChunkId) -> set[NodeId]:
        """Nodes where an old copy waits for its deletion, which would hit a new one."""
        rows = self._store.reads.execute(
            "SELECT n.name FROM work w JOIN node n ON n.id = w.node WHERE w.chunk = ? AND w.kind = 'delete'", (chunk,)
        )
        return {NodeId(row[0]) for row in rows}

    async def _cancel_needless(self) -> None:
        """Give up copies that are late, whose target fell silent, or that are not missing any more."""
        self._copies.give_up_overdue(trio.current_time())
        nodes = self._members.by_name()
        until = trio.current_time() + _TURN_S
        for copy in self._copies.all():
            if trio.current_time() >= until:
                await trio.lowlevel.checkpoint()
                until = trio.current_time() + _TURN_S
            if not self._is_needed(copy, nodes):
                self._copies.cancel(copy)

    def _is_needed(self, copy: Copy, nodes: Mapping[NodeId, NodeView]) -> bool:
        target = nodes.get(copy.target)
        if target is None or not takes_orders(target):
            return False
        chunk = self._state(copy.chunk)
        if chunk is None or chunk.length != copy.length:
            return False
        todo = self._plan(chunk, nodes)
        others = sum(not other.extra for other in self._copies.of_chunk(copy.chunk)) - 1
        return bool(todo.sources) and (copy.extra or todo.live + others < chunk.wanted)

    # --- what nodes say ---------------------------------------------------------------------------------

    def orders(self, node: NodeId) -> list[list[Any]]:
        """The copies that a node is to make: [number, "copy", chunk, length, [[node, address], ...]]."""
        self.fill()
        return self._copies.orders(node, self._members.by_name()) if self._copies.incoming(node) else []

    async def finished(
        self, node: NodeId, numbers: Sequence[Any], partial: Mapping[int, Damage | None] = MappingProxyType({})
    ) -> None:
        """A node has made these copies; those in `partial` are damaged, so and so."""
        copies = self._copies.reported(node, numbers)
        if not copies:
            return
        for start in range(0, len(copies), _COUNTED_AT_ONCE):
            part = copies[start : start + _COUNTED_AT_ONCE]
            for copy in part:  # before it counts, or it would count as whole
                if copy.number in partial:
                    self.note_damaged(node, copy.chunk, partial[copy.number])
            counted = await self._writer.decide("add_replicas", node, [(copy.chunk, copy.length) for copy in part])
            now = trio.current_time()
            for copy, counts in zip(part, counted, strict=True):
                self._copies.finish(copy, counts=counts, now=now)
                if counts:
                    if copy.number in partial:  # a report may have come between that was older
                        self.note_damaged(node, copy.chunk, partial[copy.number])
                    self._note_copied(copy, is_whole=copy.number not in partial)
        await self._trim({copy.chunk for copy in copies})

    def _note_copied(self, copy: Copy, *, is_whole: bool) -> None:
        self._unsure.get(copy.target, set()).discard(copy.chunk)
        if is_whole:
            self._short.get(copy.target, set()).discard(copy.chunk)
            self._damage.pop((copy.target, copy.chunk), None)
        if copy.extra:
            return
        for count in {self._found, self._now} if copy.chunk <= self._position else {self._found}:
            count.to_copy = max(0, count.to_copy - 1)
            count.to_copy_bytes = max(0, count.to_copy_bytes - copy.length)

    async def _trim(self, chunks: Iterable[ChunkId]) -> None:
        """Drop what is surplus of these chunks now."""
        nodes = self._members.by_name()
        surplus: list[_Surplus] = []
        for number in sorted(chunks):
            chunk = self._state(number)
            todo = self._plan(chunk, nodes) if chunk is not None else None
            if todo is not None and todo.surplus:
                surplus.append((number, todo.surplus, todo.kept))
        await self._drop(surplus)

    def failed(self, node: NodeId, number: int, why: str) -> None:
        """A node could not make a copy: it is planned anew after a while, elsewhere if that can be."""
        self._copies.fail(node, number, why, trio.current_time())

    def note_short(
        self,
        node: NodeId,
        first: int,
        last: int,
        short: Sequence[ChunkId],
        unsure: Sequence[ChunkId],
        counted: Container[ChunkId],
    ) -> None:
        """In [first, last], these are the chunks of which a node has less than was committed, for sure or perhaps.

        `counted` are its copies that were compared: of one that was counted meanwhile this says nothing.
        """
        for copies, chunks in ((self._short, short), (self._unsure, unsure)):
            known = copies.setdefault(node, set())
            before = {chunk for chunk in known if first <= chunk <= last}
            before = {chunk for chunk in before if chunk in counted or not self._holds(node, chunk)}
            known.difference_update(before)
            known.update(chunks)
            for chunk in before.symmetric_difference(chunks):
                self._damage.pop((node, chunk), None)

    def _holds(self, node: NodeId, chunk: ChunkId) -> bool:
        state = self._state(chunk)
        return state is not None and node in state.holders

    def note_reported(self) -> None:
        """What a node holds is known now: copies that waited for it may go."""
        self._hungry.set()

    def note_damaged(self, node: NodeId, chunk: ChunkId, damage: Damage | None) -> None:
        """Blocks of a copy are damaged: the others may be the only ones that there are.

        `damage` is None where nobody has said which.
        """
        short = self._short.setdefault(node, set())
        if chunk not in short:
            short.add(chunk)
            self._hungry.set()
        if damage is None:
            self._damage.pop((node, chunk), None)
        else:
            self._damage[node, chunk] = damage

    def note_missing(self, node: NodeId, chunk: ChunkId) -> None:
        """A copy is not there, and keeps its place, as it is the last one."""
        self._short.setdefault(node, set()).add(chunk)
        self._damage.pop((node, chunk), None)

    def short_of(self, chunk: ChunkId, holders: Iterable[NodeId]) -> list[NodeId]:
        """Those of a chunk's holders whose copy is not whole, for sure."""
        return [node for node in holders if chunk in self._short.get(node, ())]

    def have_all_that_is_left(self, chunk: ChunkId) -> set[NodeId]:
        """Of a sealed chunk that has lost blocks: the nodes whose copies have all the others."""
        state = self._state(chunk)
        return self._have_all_that_is_left(state, self._members.by_name()) if state is not None else set()

    def can_be_spared(self, chunk: ChunkId, node: NodeId) -> bool:
        """Whether a copy on `node` that does not count may be deleted now.

        So it is if nothing needs the chunk any more, or another node that is up and has reported has all of it, or all
        that is left: what was so when the deletion was ordered may be otherwise since.
        """
        found = self._states(_EVEN_OPEN, chunk)
        if not found or not found[0].length:
            return True
        state, nodes = found[0], self._members.by_name()
        left = self._have_all_that_is_left(state, nodes)
        return any(
            is_heard(other, nodes, self._members.unreported)
            and chunk not in self._unsure.get(other, ())
            and (other in left or chunk not in self._short.get(other, ()))
            for other in live_among(state.holders, nodes)
            if other != node
        )

    def is_wanted_back(self, chunk: ChunkId, node: NodeId) -> int | None:
        """The length of a sealed chunk if a copy on `node` that cannot be spared is to count again: else None.

        So it is if all the others are there and none is whole: it may have what they lack.
        """
        state, nodes = self._state(chunk), self._members.by_name()
        if state is None:
            return None
        others = [other for other in live_among(state.holders, nodes) if other != node]
        are_heard = all(is_heard(other, nodes, self._members.unreported) for other in others)
        return state.length if others and are_heard else None

    def is_needed_again(self, chunk: ChunkId, node: NodeId) -> int | None:
        """The length of a sealed chunk that lacks a copy, if that on `node`, which was to go, may serve: else None.

        It does once the node has looked whether it is whole.
        """
        state, nodes = self._state(chunk), self._members.by_name()
        is_able = node in nodes and takes_orders(nodes[node]) and self._members.mends(node)
        if state is None or not state.length or not is_able:
            return None
        return state.length if self._plan(state, nodes).missing else None

    def short_copies(self, among: Set[ChunkId] | None = None) -> list[tuple[NodeId, ChunkId]]:
        """Copies that are not whole, or perhaps not; those of chunks `among` these, if any are given."""
        found = (*self._short.items(), *self._unsure.items())
        return [(node, chunk) for node, chunks in found for chunk in (chunks if among is None else chunks & among)]

    def forget_node(self, node: NodeId) -> None:
        """It was removed."""
        for chunk in self._short.get(node, ()):
            self._damage.pop((node, chunk), None)
        self._short.pop(node, None)
        self._unsure.pop(node, None)
        self.balancing.forget_node(node)

    # --- for balance ------------------------------------------------------------------------------------

    def begin_balance(self, threshold: float) -> None:
        """See `Balancing.begin`."""
        self.balancing.begin(threshold)
        self._hungry.set()

    @property
    def is_at_rest(self) -> bool:
        """Whether no copy is under way, and none is missing that a node could take."""
        is_all_there = self._found.to_copy <= self._found.blocked + self._found.waiting
        return is_all_there and len(self._copies) == 0 and not self._backlog

    def chunks_of(self, node: NodeId, after: ChunkId, most: int) -> list[ChunkState]:
        """The sealed chunks of a node with higher numbers than `after`, the first `most`."""
        return self._states(_OF_NODE, node, after, most)

    def movable(self, number: ChunkId) -> ChunkState | None:
        """A chunk as it is now; None if it lacks a copy: one may have turned out to be damaged."""
        chunk = self._state(number)
        return chunk if chunk and self._plan(chunk, self._members.by_name()).live >= chunk.wanted else None

    def order_move(self, chunk: ChunkState, target: NodeId) -> None:
        """Have a chunk copied besides, in the moment in which it is movable: what is surplus then is dropped.

        Nothing is ordered where an old copy waits for its deletion, which would hit the new one.
        """
        if not self.is_to_be_deleted(chunk.chunk, target):
            self._order(chunk, target, chunk.holders, extra=True)

    def is_to_be_deleted(self, chunk: ChunkId, node: NodeId) -> bool:
        """Whether an old copy waits there for its deletion."""
        return node in self._to_be_deleted(chunk)

    # --- telling ----------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """How far repair, drains and balance are, as the last round found and copies since then changed."""
        rate = self._copies.rate.per_second(trio.current_time())
        left = self._found.to_copy_bytes - self._found.stuck_bytes  # for the others nobody knows how long it takes
        return {
            "copies": self._found.to_copy,
            "bytes": self._found.to_copy_bytes,
            "bytes_per_s": round(rate),
            "left_s": round(left / rate) if rate and left > 0 else None,
            "copying": self._copies.count(extra=False),
            "moving": self.moving,
            "copied": self._copies.made,
            "copied_bytes": self._copies.made_bytes,
            "failed": self._copies.failures,
            "surplus": self._found.surplus,
            "blocked": self._found.blocked,
            "held_up": self._found.held_up,
            "limit_bytes_per_s": self._config.copy_bandwidth,
        }

    def drain_left(self, node: NodeId) -> tuple[int, int]:
        """Chunks and bytes on a node that is being emptied, as the last round found; (-1, -1) before it did.

        Of a dead one only those count that lack copies elsewhere.
        """
        found = self._found.of_draining.get(node)
        return (found[0], found[1]) if found else (-1, -1)

    def busy(self, node: NodeId) -> dict[str, int]:
        return {"copies": self._copies.incoming(node), "sending_bytes": self._copies.outgoing_bytes(node)}

    def copies_of(self, chunk: ChunkId) -> Sequence[Copy]:
        """Those of one chunk that are under way."""
        return self._copies.of_chunk(chunk)

    def failures_of(self, chunk: ChunkId) -> tuple[int, float]:
        """How often making a copy of a chunk failed on end, and in how many seconds it is tried again."""
        failure = self._copies.failure(chunk)
        return (failure.times, failure.not_before - trio.current_time()) if failure is not None else (0, 0.0)

    def is_full(self, node: NodeId) -> bool:
        """Whether a node makes as many copies as it may at once."""
        return not self._copies.has_room(node)

    @property
    def is_on(self) -> bool:
        return self._config.repair

    @property
    def under_replicated(self) -> int:
        """Chunks with fewer live copies than wanted, as the last round found."""
        return self._found.under_replicated

    @property
    def few(self) -> Sequence[ChunkId]:
        """The first of the `under_replicated`, some hundreds."""
        return self._found.few

    @property
    def wanted(self) -> Set[int]:
        """The numbers of copies that chunks are to have, as the last round found."""
        return self._found.wanted

    def few_of(self, chunks: Iterable[ChunkId]) -> list[ChunkId]:
        """Those with fewer live copies than wanted, as it is now."""
        nodes = self._members.by_name()
        with self._store.translating():
            states = [state for chunk in chunks if (state := self._state(chunk))]
        return [state.chunk for state in states if _has_few(state, self._plan(state, nodes))]

    @property
    def blocked(self) -> int:
        """Missing copies that no node may take, as the last round found."""
        return self._found.blocked

    @property
    def held_up(self) -> int:
        """Missing copies that no node may take, as they hold deletions back, as the last round found."""
        return self._found.held_up

    @property
    def lost(self) -> int:
        """Chunks without a live copy."""
        return self._found.lost

    @property
    def copying(self) -> int:
        return len(self._copies)

    @property
    def moving(self) -> int:
        """Of the `copying`, those besides what chunks are to have."""
        return self._copies.count(extra=True)


def _has_few(chunk: ChunkState, todo: Plan) -> bool:
    """Some whole copies, and fewer than wanted."""
    return not todo.is_lost and todo.whole < chunk.wanted
