"""Time that stands still while a task can run, and then is at once what the next one waits for.

trio.testing.MockClock with `autojump_threshold=0` has things happen in the same order, in twice as many rounds of the
loop: in every other one nothing happens, after which it jumps. Here there is nothing but tasks to wait for, no other
thread and no file. And `at` has something happen without a task and a cancel scope of its own, which cost much more.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from typing import Any

import trio


def virtual() -> VirtualClock:
    """That of the run."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, VirtualClock)
    return clock


class VirtualClock(trio.abc.Clock):
    def __init__(self) -> None:
        self._now_s = 0.0
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._serials = itertools.count()

    def at(self, time_s: float, call: Callable[[], object]) -> None:
        """Call something when it is that time: it may have tasks go on."""
        heapq.heappush(self._due, (time_s, next(self._serials), call))

    async def sleep(self, seconds: float) -> None:
        """As trio.sleep, but for nothing if there is nothing to wait for."""
        if seconds <= 0:
            return
        task = trio.lowlevel.current_task()
        waits = True

        def wake() -> None:
            if waits:
                trio.lowlevel.reschedule(task)

        def abort(_raise_cancel: Any) -> trio.lowlevel.Abort:
            nonlocal waits
            waits = False
            return trio.lowlevel.Abort.SUCCEEDED

        self.at(self._now_s + seconds, wake)
        await trio.lowlevel.wait_task_rescheduled(abort)

    # --- for trio

    def start_clock(self) -> None:
        """Nothing to do."""

    def current_time(self) -> float:
        return self._now_s

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """trio asks when no task can run."""
        if self._due:
            deadline = min(deadline, self._due[0][0])
        if deadline == math.inf:
            return deadline  # everything waits for something that nobody does
        self._now_s = max(self._now_s, deadline)
        while self._due and self._due[0][0] <= self._now_s:
            heapq.heappop(self._due)[2]()
        return 0.0
