"""Which destructive orders (delete, cut, punch) a DataNode does not obey before an operator has agreed.

A NameNode that was restored from an old copy believes in a past in which newer chunks do not exist, and has them
deleted. So the DataNode remembers, durably and before it obeys, the highest `log_index` under which it destroyed
anything; and the highest that it has heard, a while later or when it stops in order, for an old copy may be younger
than what it obeyed last. An answer with a lower index than that, or than any answer before it, is not from where we
were: all destructive orders are held from then on, also across restarts, until an operator decides. And a NameNode
gone wrong in another way, or a user, may delete everything: orders beyond a share of the node's chunks within
HOLD_WINDOW_S are held too. That is a share of those chunks that are older than the window: who writes and removes all
day, as builds do, has many more deleted than there are at a time. Chunks have growing numbers; so the highest one that
there was when the window began tells which are older. Nothing is known of before a start: all that there is then is
old.

Held orders are put off at the NameNode (they come again after HOLD_POSTPONE_S), so that they do not take the places of
others in its answers. Their numbers are kept, as many as HELD_ORDERS_MAX. The operator says:

- allow: this NameNode is right. Its index counts from now on, and what was held is asked for again at once and done.
- discard: what was held is answered as failed. The NameNode gives it again in a while. If it is still behind, or wants
  as much deleted again, that is held again: meanwhile the operator brings back a newer copy of its database, or undoes
  the mistake, after which nothing is held any more.

A copy, too, takes away what lies here beyond the length that it is ordered with, as nobody committed that: so says the
NameNode, and as long as it is not believed, such an order is refused (`refuse_to_shorten`). The NameNode repeats it.

Invariant: `memory.log_index` is on the disk (see nodes.datanode.obeyed) before anything is destroyed under an answer
with that index.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Protocol

import structlog
import trio

from dfs import errors, limits
from dfs.types import ChunkId
from nodes.datanode.obeyed import Memory

log = structlog.get_logger(__name__)

DESTRUCTIVE: Final = ("delete", "cut", "punch")
_AGES_EVERY_S: Final = limits.HOLD_WINDOW_S / 60


class Chunks(Protocol):
    """What the node has: `Volumes`."""

    def last_chunk(self) -> ChunkId: ...

    def chunks_up_to(self, chunk: ChunkId) -> int: ...


class Restraint:
    """Belongs to the event loop. `memory` is what is to be on the disk; whoever calls `sift` writes it down.

    `writing` is held by who writes it, or wants to see it as it is when nobody does.
    """

    def __init__(self, share: float, memory: Memory) -> None:
        self.memory = memory
        self.writing = trio.Lock()
        self._share = share
        self._newest_index = memory.log_index
        self._last_index = memory.log_index
        self._newest: deque[tuple[float, ChunkId]] = deque()
        """The highest number of a chunk so far, now and then (trio's clock); the first when the window began, or we."""
        self._deleted: deque[tuple[float, int]] = deque()  # when (trio's clock), how many, within the window
        self._counted: dict[int, None] = {}  # numbers of orders to delete that are in it, oldest first
        self._noted_at = float("-inf")  # when (trio's clock) an index was last to be remembered for its own sake
        self._held: dict[int, None] = {}  # numbers of orders, oldest first
        self._allowed: set[int] = set()

    # --- judging ----------------------------------------------------------------------------------------

    def sift(
        self, orders: Sequence[Sequence[Any]], log_index: int | None, chunks: Chunks, is_draining: bool
    ) -> tuple[list[Sequence[Any]], list[int]]:
        """Those of an answer's orders that may be obeyed, and the numbers of those that are held.

        Of the former `note_begun` is to be told as they are begun; those that are not come again, and are sifted again.
        On a node that is being emptied there is no mass of deletions.
        """
        self._note_index(log_index)
        self._note_newest(chunks.last_chunk())
        obeyed, held, planned = [], [], 0
        for order in orders:
            if order[1] not in DESTRUCTIVE:
                obeyed.append(order)
            elif self.memory.held_because or self._is_too_many(order, chunks, is_draining, planned):
                held.append(order[0])
                _add(self._held, order[0])
            else:
                obeyed.append(order)
                planned += self._counts(order, is_draining)
        if log_index is not None and (any(order[1] in DESTRUCTIVE for order in obeyed) or self._is_to_be_noted()):
            self.note_heard()
        return obeyed, held

    def note_heard(self) -> None:
        """Have it remembered how far the NameNode is; not of one that is not believed."""
        if not self.memory.held_because:
            self.memory = self.memory._replace(log_index=max(self._last_index, self.memory.log_index))

    def _is_to_be_noted(self) -> bool:
        now = trio.current_time()
        is_due = now >= self._noted_at + limits.INDEX_NOTED_EVERY_S
        if is_due:
            self._noted_at = now
        return is_due

    def _note_index(self, log_index: int | None) -> None:
        if log_index is None:
            return
        if log_index < self._newest_index and not self.memory.held_because:
            reason = (
                f"the NameNode is at change {log_index}, and was at {self._newest_index} before: was it restored from"
                " an old copy?"
            )
            self.memory = self.memory._replace(held_because=reason)
            log.error("deletions are held for an operator", reason=reason)
        self._newest_index = max(self._newest_index, log_index)
        self._last_index = log_index

    def _note_newest(self, chunk: ChunkId) -> None:
        now = trio.current_time()
        latest_at, highest = self._newest[-1] if self._newest else (float("-inf"), chunk)
        if now >= latest_at + _AGES_EVERY_S:
            self._newest.append((now, max(chunk, highest)))
        while len(self._newest) > 1 and self._newest[1][0] <= now - limits.HOLD_WINDOW_S:
            self._newest.popleft()

    def _is_old(self, chunk: ChunkId) -> bool:
        """Whether it was there when the window began; known from the first answer on."""
        return chunk <= self._newest[0][1]

    def note_begun(self, order: Sequence[Any], is_draining: bool) -> None:
        """An order is begun. One to delete counts from now on: once, though it comes again if it fails."""
        if self._counts(order, is_draining):
            _add(self._counted, order[0])
            self._note_deleted()
        self._allowed.discard(order[0])

    def refuse_to_shorten(self, chunk: ChunkId) -> None:
        """Before a copy is made of a chunk that is here, and longer than ordered. Raises Busy while that is held."""
        if self.memory.held_because:
            what = f"chunk {chunk:x} is longer than the copy of it that is wanted, and deletions are held"
            raise errors.Busy(f"{what} for an operator: {self.memory.held_because}")

    def _may_be_too_many(self, order: Sequence[Any], is_draining: bool) -> bool:
        return order[1] == "delete" and not is_draining and order[0] not in self._allowed

    def _counts(self, order: Sequence[Any], is_draining: bool) -> bool:
        """Whether the order, once it is begun, is one deletion more."""
        may_be = self._may_be_too_many(order, is_draining) and self._is_old(order[2])
        return may_be and self._share < 1 and order[0] not in self._counted

    def _is_too_many(self, order: Sequence[Any], chunks: Chunks, is_draining: bool, planned: int) -> bool:
        """`planned`: deletions that are about to be begun."""
        if not self._may_be_too_many(order, is_draining):
            return False
        if not self.memory.mass_because and self._counts(order, is_draining):
            self._forget_old()
            deleted = sum(count for _, count in self._deleted) + planned
            left = chunks.chunks_up_to(self._newest[0][1])
            if deleted >= max(limits.HOLD_MIN_CHUNKS, self._share * (left + deleted)):
                reason = (
                    f"the NameNode had {deleted} chunks deleted within an hour that are older than that, {left} such"
                    " are left, and wants more"
                )
                self.memory = self.memory._replace(mass_because=reason)
                log.error("deletions are held for an operator", reason=reason)
        return bool(self.memory.mass_because)

    def _note_deleted(self) -> None:
        now = trio.current_time()
        if self._deleted and self._deleted[-1][0] > now - 1.0:
            self._deleted[-1] = (self._deleted[-1][0], self._deleted[-1][1] + 1)
        else:
            self._deleted.append((now, 1))

    def _forget_old(self) -> None:
        while self._deleted and self._deleted[0][0] < trio.current_time() - limits.HOLD_WINDOW_S:
            self._deleted.popleft()

    # --- deciding ---------------------------------------------------------------------------------------

    def decide(self, allow: bool) -> list[int]:
        """What the operator said: nothing is held from now on. Returns the numbers of the orders that were."""
        numbers = list(self._held)
        self._held.clear()
        self.memory = self.memory._replace(held_because="", mass_because="")
        if allow:
            self._allowed.update(numbers)
            self._deleted.clear()
            self._counted.clear()
            self._newest_index = self._last_index
            self.memory = self.memory._replace(log_index=self._last_index)
        log.warning("an operator decided about held deletions", allowed=allow, orders=len(numbers))
        return numbers

    def note_damaged(self) -> None:
        """A copy of `memory` is not on the disk any more as it was: have it written again."""
        self.memory = self.memory._replace(generation=self.memory.generation + 1)

    def report(self) -> dict[str, Any] | None:
        """What a heartbeat says of it: {orders, reason}; None while nothing is held."""
        reason = self.memory.held_because or self.memory.mass_because
        return {"orders": len(self._held), "reason": reason} if reason else None


def _add(numbers: dict[int, None], number: int) -> None:
    """Remember an order's number; of too many the oldest is forgotten."""
    numbers[number] = None
    if len(numbers) > limits.HELD_ORDERS_MAX:
        del numbers[next(iter(numbers))]
