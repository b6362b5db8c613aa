"""The copies that are under way: who makes which, from whom, and what became of it. No I/O, no clock of its own.

A copy is an order to its target with a negative number, which lives in memory only: after a restart it is simply
planned anew. Each target has a window: so many copies, and so many bytes, are ordered ahead of it as keep it busy from
one heartbeat to the next, and no more, so that what is ordered can follow what is needed. The window in bytes is at
most what the bandwidth limit lets through in `_WINDOW_S`, but always room for one copy.

A source serves many targets: each copy asks first the one that has been asked for the fewest bytes. A copy that
failed is tried again after a delay that doubles, on another target where there is one; after `_SUSPICIOUS` failures
the log names the sources, whose fault it may be.

Invariants: one copy per (chunk, target); `_incoming` and `_outgoing` are the bytes of the copies in `_orders`.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import structlog

from dfs import limits
from dfs.types import ChunkId, NodeId, NodeView
from nodes.namenode.repair import live_among

log = structlog.get_logger(__name__)

_WINDOW_S: Final = 10.0
_COPY_TIMEOUT_S: Final = 120.0
"""After which a copy is given up, and planned anew: on top of four times what the limit makes of the bytes ahead."""
_GIVEN_UP_MAX: Final = 4096
"""Copies given up that may still be reported done: then they count."""
_SUSPICIOUS: Final = 3
_RATE_OVER_S: Final = 30.0
_RATE_SLICE_S: Final = 1.0


class Copy(NamedTuple):
    """`extra`: not because a copy is missing (balance, racks), so it is made whether or not there are enough.

    `partly`: it need not have blocks that no source has whole.
    """

    number: int
    chunk: ChunkId
    length: int
    target: NodeId
    sources: tuple[NodeId, ...]
    ordered_at: float
    deadline: float
    extra: bool
    partly: bool


class Failure(NamedTuple):
    """What is remembered of a chunk's copies that failed."""

    times: int
    not_before: float
    targets: frozenset[NodeId]


class Rate:
    """Bytes a second over the last `_RATE_OVER_S`."""

    def __init__(self) -> None:
        self._slices: deque[tuple[float, int]] = deque()

    def note(self, length_bytes: int, now: float) -> None:
        if self._slices and now - self._slices[-1][0] < _RATE_SLICE_S:
            began, so_far = self._slices.pop()
            self._slices.append((began, so_far + length_bytes))
        else:
            self._slices.append((now, length_bytes))
        while self._slices[0][0] < now - _RATE_OVER_S:
            self._slices.popleft()

    def per_second(self, now: float) -> float:
        recent = [(began, length) for began, length in self._slices if began >= now - _RATE_OVER_S]
        if not recent:
            return 0.0
        return sum(length for _, length in recent) / max(_RATE_SLICE_S, now - recent[0][0])


class Copies:
    """All copies under way. `bytes_per_s` is what copies may take of one node, 0 for no limit."""

    def __init__(self, chance: random.Random, bytes_per_s: int) -> None:
        self._per_s = bytes_per_s or limits.COPY_BANDWIDTH_BYTES_PER_S
        limited = int(bytes_per_s * _WINDOW_S) if bytes_per_s else limits.COPIES_AHEAD_MAX_BYTES
        self._window_bytes = min(limits.COPIES_AHEAD_MAX_BYTES, limited)
        self._last = -(chance.getrandbits(40) << 20)  # of no other process: a late report is of no other copy
        self._orders: dict[NodeId, dict[int, Copy]] = {}
        self._by_chunk: dict[ChunkId, list[Copy]] = {}
        self._given_up: dict[int, Copy] = {}
        self._failures: dict[ChunkId, Failure] = {}
        self._incoming: dict[NodeId, int] = {}
        self._outgoing: dict[NodeId, int] = {}
        self.ordered = 0
        self.ended = 0
        """Copies that were ordered since the start, and those of them that are not under way any more."""
        self.rate = Rate()
        self.made = 0
        self.made_bytes = 0
        self.failures = 0

    def __len__(self) -> int:
        return sum(map(len, self._orders.values()))

    # --- ordering ---------------------------------------------------------------------------------------

    def has_room(self, node: NodeId) -> bool:
        """Whether `node` may be ordered another copy."""
        ahead = self._orders.get(node)
        return not ahead or (len(ahead) < limits.COPIES_AHEAD_MAX and self._incoming[node] < self._window_bytes)

    def order(
        self,
        chunk: ChunkId,
        length: int,
        target: NodeId,
        sources: Sequence[NodeId],
        *,
        extra: bool,
        now: float,
        partly: bool = False,
    ) -> None:
        """Have `target` make a copy, from the least busy of `sources` if that one can."""
        self._last -= 1
        self.ordered += 1
        ranked = tuple(sorted(sources, key=lambda node: self._outgoing.get(node, 0)))
        ahead = self._incoming.get(target, 0) + self._outgoing.get(ranked[0], 0) + length
        deadline = now + _COPY_TIMEOUT_S + 4 * ahead / self._per_s
        copy = Copy(self._last, chunk, length, target, ranked, now, deadline, extra, partly)
        self._orders.setdefault(target, {})[copy.number] = copy
        self._by_chunk.setdefault(chunk, []).append(copy)
        self._incoming[target] = self._incoming.get(target, 0) + length
        self._outgoing[ranked[0]] = self._outgoing.get(ranked[0], 0) + length

    def orders(self, node: NodeId, nodes: Mapping[NodeId, NodeView]) -> list[list[Any]]:
        """What a heartbeat of `node` brings back: [number, "copy", chunk, length, [[node, address], ...]].

        And True at the end of one that need not have all blocks.
        """
        return [
            [
                *(copy.number, "copy", copy.chunk, copy.length),
                [[each, nodes[each].address] for each in sources],
                *((True,) if copy.partly else ()),
            ]
            for copy in self._orders.get(node, {}).values()
            if (sources := live_among(copy.sources, nodes))
        ]

    def _remove(self, copy: Copy) -> None:
        self.ended += 1
        ahead = self._orders[copy.target]
        del ahead[copy.number]
        self._incoming[copy.target] -= copy.length
        if not ahead:
            del self._orders[copy.target], self._incoming[copy.target]
        self._by_chunk[copy.chunk].remove(copy)
        if not self._by_chunk[copy.chunk]:
            del self._by_chunk[copy.chunk]
        self._outgoing[copy.sources[0]] -= copy.length
        if not self._outgoing[copy.sources[0]]:
            del self._outgoing[copy.sources[0]]

    # --- looking ----------------------------------------------------------------------------------------

    def of_chunk(self, chunk: ChunkId) -> list[Copy]:
        return self._by_chunk.get(chunk, [])

    def all(self) -> list[Copy]:
        return [copy for ahead in self._orders.values() for copy in ahead.values()]

    def count(self, *, extra: bool) -> int:
        return sum(copy.extra == extra for copy in self.all())

    def incoming(self, node: NodeId) -> int:
        """Copies that a node is making."""
        return len(self._orders.get(node, ()))

    def outgoing_bytes(self, node: NodeId) -> int:
        return self._outgoing.get(node, 0)

    def failure(self, chunk: ChunkId) -> Failure | None:
        return self._failures.get(chunk)

    # --- ending -----------------------------------------------------------------------------------------

    def reported(self, node: NodeId, numbers: Sequence[Any]) -> list[Copy]:
        """The copies that a node says it has made, those that were given up included."""
        mine = self._orders.get(node, {})
        found = [mine.get(number) or self._given_up.get(number) for number in numbers if isinstance(number, int)]
        return [copy for copy in found if copy is not None and copy.target == node]

    def finish(self, copy: Copy, *, counts: bool, now: float) -> None:
        """It is registered, or was of no use."""
        self._failures.pop(copy.chunk, None)
        if self._given_up.pop(copy.number, None) is None and copy.number in self._orders.get(copy.target, {}):
            self._remove(copy)
        if counts:
            self.made += 1
            self.made_bytes += copy.length
            self.rate.note(copy.length, now)

    def cancel(self, copy: Copy) -> None:
        """It is not needed any more, or not made in time. Should it be reported done all the same, it counts."""
        if copy.number in self._orders.get(copy.target, {}):
            self._remove(copy)
            self._given_up[copy.number] = copy
            if len(self._given_up) > _GIVEN_UP_MAX:
                del self._given_up[next(iter(self._given_up))]

    def fail(self, node: NodeId, number: int, why: str, now: float) -> None:
        """A node could not make a copy."""
        copy = self._orders.get(node, {}).get(number)
        if copy is None:
            return
        self._remove(copy)
        self.failures += 1
        before = self._failures.pop(copy.chunk, Failure(0, 0.0, frozenset()))
        times = before.times + 1
        delay_s = min(limits.COPY_RETRY_MAX_S, limits.COPY_RETRY_FIRST_S * 2 ** min(times - 1, 16))
        self._failures[copy.chunk] = Failure(times, now + delay_s, before.targets | {node})
        if len(self._failures) > limits.COPY_FAILURES_MAX:
            del self._failures[next(iter(self._failures))]
        if times >= _SUSPICIOUS:
            log.error(
                "copies of a chunk fail again and again: it may be its sources' fault",
                chunk=f"{copy.chunk:x}",
                sources=list(copy.sources),
                failed_on=sorted(before.targets | {node}),
                error=why,
            )

    def give_up_overdue(self, now: float) -> None:
        for copy in self.all():
            if copy.deadline < now:
                log.warning("a copy was not made in time", chunk=f"{copy.chunk:x}", node=copy.target)
                self.cancel(copy)
