"""Which way large appends go: to all replicas at once, or to the first, which sends them on (`nodes.datanode.chain`).

At once may be quicker where links are fast, and costs DataNodes less. But the client sends each copy itself, so where
its link is the narrow one a chain is as many times as fast as there are copies. So a chain is what a client begins
with: many write less in their lives than it takes to find out. Which of them is better shows when both are tried: what
is appended in TRIAL_BYTES of the one, and then of the other, while any of it is under way, is compared. A chain must be
_GAIN times as fast to be kept. What is not used is tried again after every TRIED_AGAIN_BYTES. A chain that failed is
not used until then.
"""

from __future__ import annotations

from enum import Enum, auto

import trio

from dfs import limits

_GAIN = 1.2


class Outcome(Enum):
    """How an append ended: as it should, without some of the nodes, or otherwise, so that it says nothing."""

    DONE = auto()
    FAILED = auto()
    UNKNOWN = auto()


class Routes:
    """Of one client."""

    def __init__(self) -> None:
        self._is_chained = True
        self._rates: dict[bool, float] = {}
        """Bytes a second, by whether they went along a chain."""
        self._until_bytes = limits.TRIED_AGAIN_BYTES
        """So much goes the present way before it is compared."""
        self._bytes = 0
        self._in_work = 0
        self._stragglers = 0
        """How many of those went the other way."""
        self._since = 0.0
        """Since when any are in work."""
        self._busy_s = 0.0

    def begin(self) -> bool:
        """An append begins: whether along a chain. `end` it."""
        if not self._in_work:
            self._since = trio.current_time()
        self._in_work += 1
        return self._is_chained

    def end(self, length: int, *, is_chained: bool, outcome: Outcome) -> None:
        """An append that has begun, of so many bytes, has ended."""
        self._in_work -= 1
        now = trio.current_time()
        if is_chained != self._is_chained:
            self._stragglers -= 1
            if not self._stragglers:
                self._start_anew(now)
            return
        if not self._in_work:
            self._busy_s += now - self._since
        if outcome is not Outcome.DONE:
            self._start_anew(now)
            if outcome is Outcome.FAILED and is_chained:
                self._rates[True] = 0.0
                self._go(False, limits.TRIED_AGAIN_BYTES)
            return
        if not self._stragglers:
            self._bytes += length
            if self._bytes >= self._until_bytes:
                self._compare(self._busy_s + (now - self._since if self._in_work else 0.0))

    def _start_anew(self, now: float) -> None:
        self._bytes, self._busy_s, self._since = 0, 0.0, now

    def _compare(self, busy_s: float) -> None:
        self._rates[self._is_chained] = self._bytes / max(busy_s, 1e-9)
        is_trial = self._until_bytes == limits.TRIAL_BYTES
        if not is_trial or len(self._rates) < 2:
            self._go(not self._is_chained, limits.TRIAL_BYTES)
            return
        self._go(self._rates[True] > _GAIN * self._rates[False], limits.TRIED_AGAIN_BYTES)

    def _go(self, chained: bool, until_bytes: int) -> None:
        if chained != self._is_chained:
            self._stragglers = self._in_work - self._stragglers
        self._is_chained = chained
        self._until_bytes = until_bytes
        self._start_anew(trio.current_time())

    def statistics(self) -> dict[str, int]:
        return {"chained": int(self._is_chained)}
