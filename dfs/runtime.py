"""The seam to what makes a run differ from another: the wall clock, randomness, and worker threads.

Daemons and clients take a `Runtime`; a simulation gives them one whose time is virtual, whose random
numbers come from a seed, and which runs blocking work inline, so that a run is a function of its seed.
Monotonic time needs no seam: `trio.current_time()` already follows trio's clock.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Protocol, TypeVar, TypeVarTuple

import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Runtime(Protocol):
    """What the code may ask of the world besides network and disk."""

    random: random.Random

    def now_ns(self) -> int:
        """Wall-clock time, nanoseconds since the epoch."""
        ...

    async def run_blocking(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run `work(*args)`, which may block on a disk, off the event loop; not cancellable half-way."""
        ...

    async def run_abandonable(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        """As `run_blocking`, but who is cancelled goes at once: `work` ends later, and must not matter to anybody."""
        ...


class RealRuntime:
    """The machine's clock, its entropy, and trio's worker threads.

    There are as many for work that may be left behind as for other: what a hung disk keeps for good keeps nothing else.
    """

    def __init__(self, worker_threads: int = 16) -> None:
        self.random = random.Random()
        self._limiter = trio.CapacityLimiter(worker_threads)
        self._abandonable_limiter = trio.CapacityLimiter(worker_threads)

    def now_ns(self) -> int:
        return time.time_ns()

    async def run_blocking(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        return await trio.to_thread.run_sync(work, *args, limiter=self._limiter)

    async def run_abandonable(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        return await trio.to_thread.run_sync(work, *args, limiter=self._abandonable_limiter, abandon_on_cancel=True)
