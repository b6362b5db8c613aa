"""For how long a client may believe what it has leases on, though it hears nothing.

What the NameNode gave is trusted only while all events have been heard, counted from when they were asked for, for half
the time after which the client's own silence would end its session. Other answers count for nothing: a recall may wait
to be fetched. What the client owes an answer to, a recall or the claim of its leases after a restart, counts likewise,
from when the NameNode may have begun to wait for it.

That time goes on while the machine is suspended, though trio's clock, and the one by which the kernel counts its
time-outs, stand still: so trust ends by `Runtime.boot_s`. A virtual machine that is paused has no clock that goes on;
but its wall clock is put right some time later. Whoever finds one of the two ahead (`notice_stop`) trusts nothing until
the NameNode is heard anew. A wall clock that is set ahead for another reason costs the same and nothing else; one that
is set back changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import NamedTuple

import trio

from dfs import limits
from dfs.runtime import Runtime


class ClockOffsets(NamedTuple):
    """How far other clocks are ahead of trio's, which stands still while the machine is suspended or paused."""

    boot_s: float
    wall_s: float


class Trust:
    """In one session after another."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.timeout_s = 0.0
        """The silence after which the NameNode ends the session; 0 before the first one."""
        self._is_leased = False
        self._heard_at = -math.inf
        """When our session asked last for what has come: all events until then, so what comes yet was sent later."""
        self._until = -math.inf
        """As `Runtime.boot_s` has it."""
        self._owed: dict[Hashable, float] = {}
        """What is to be answered, and since when at most the NameNode waits for it."""
        self.offsets = ClockOffsets(0.0, 0.0)
        """When it was found last that the machine had been stopped, or the session was asked for; the least since."""
        self._stopped_at = -math.inf
        """When that was: what was asked for before tells nothing of now."""

    @property
    def holds(self) -> bool:
        """Whether what was leased may be shown: the session cannot have ended, nor any of its leases."""
        return self._runtime.boot_s() < self._until

    def look_at_clocks(self) -> ClockOffsets:
        boot_s, wall_s = self._runtime.boot_s(), self._runtime.now_ns() / 1e9
        now = trio.current_time()  # after the others: a stop in between counts as one that comes later
        return ClockOffsets(boot_s - now, wall_s - now)

    def begin(self, timeout_s: float, asked_at: float, offsets: ClockOffsets, *, is_leased: bool) -> None:
        """There is a new session, which was asked for `asked_at` that time, with clocks as they were before that."""
        self.timeout_s, self._is_leased = timeout_s, is_leased
        self.offsets, self._stopped_at, self._heard_at = offsets, -math.inf, asked_at
        self._owed.clear()
        self._reckon()

    def end(self) -> None:
        """There is none any more, or it is not to be trusted."""
        self._is_leased = False
        self._reckon()

    def hear(self, asked_at: float) -> None:
        """All events that there were when they were asked for, then or later, are here."""
        if asked_at >= self._stopped_at:
            self._heard_at = max(self._heard_at, asked_at)
            self._reckon()

    def owe(self, what: Hashable, since: float | None = None) -> None:
        """The NameNode waits for something; without `since` it was not asked for before the last event was heard."""
        self._owed[what] = self._heard_at if since is None else since
        self._reckon()

    def answered(self, what: Hashable) -> None:
        """It knows, or its session is over: then it does not wait."""
        self._owed.pop(what, None)
        self._reckon()

    def notice_stop(self) -> float:
        """For how many seconds the machine was suspended or paused since this was called last, 0 if it was not.

        If it was, nothing is trusted until something is heard that is asked for from now on.
        """
        ahead = self.look_at_clocks()
        stopped_s = max(ahead.boot_s - self.offsets.boot_s, ahead.wall_s - self.offsets.wall_s)
        self.offsets = self.offsets._replace(wall_s=min(self.offsets.wall_s, ahead.wall_s))
        if stopped_s <= limits.STOP_S:
            return 0.0
        self.offsets = ahead
        self._stopped_at = trio.current_time()
        self._heard_at = -math.inf
        self._owed = {what: since - stopped_s for what, since in self._owed.items()}  # others have waited all the time
        self._reckon()
        return stopped_s

    def _reckon(self) -> None:
        since = min(self._heard_at, *self._owed.values(), math.inf)
        self._until = since + self.timeout_s / 2 + self.offsets.boot_s if self._is_leased else -math.inf
