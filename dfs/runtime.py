"""The seam to what makes a run differ from another: the machine's clocks, randomness, and worker threads.

Daemons and clients take a `Runtime`; a simulation gives them one whose time is virtual, whose random
numbers come from a seed, and which runs blocking work inline, so that a run is a function of its seed.
Monotonic time needs no seam: `trio.current_time()` already follows trio's clock. That stands still while the machine
is suspended; who has promised something to others until some moment counts by `boot_s`, which does not.

What a process has used so far is of the world as well, and is asked here: a simulated one uses nothing.
"""

from __future__ import annotations

import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, TypeVarTuple, cast

import trio
from outcome import Error, Outcome, capture

from dfs import errors, limits

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Usage(NamedTuple):
    """What a process has used since its start. Two of these and the time between them say how busy it was."""

    cpu_s: float
    """Seconds of processors, of all its threads."""
    blocking_s: float
    """Seconds in which blocking work was being done: in daemons, those in which they waited for a disk."""


class Workers(Protocol):
    """Threads for one kind of blocking work: what hangs in them keeps none of those that others use."""

    async def run(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        """As `Runtime.run_blocking`, until these workers are given up."""
        ...

    def busy_s(self) -> float:
        """Since when the oldest work that goes on does, seconds; 0 if none does. To wait for a thread is no work."""
        ...

    def watched_s(self, passed_s: float) -> float:
        """As `busy_s`, of the time only that who watches them says has passed, by `passed_s` each time that he asks.

        All of a process may have stood still, and he with it: what had its work done meanwhile says nothing.
        """
        ...

    def give_up(self, failure: Callable[[], Exception]) -> None:
        """Who waits for work has `failure()` raised at once, and so has who comes later. What was begun may go on."""
        ...


class Runtime(Protocol):
    """What the code may ask of the world besides network and disk."""

    random: random.Random

    def now_ns(self) -> int:
        """Wall-clock time, nanoseconds since the epoch."""
        ...

    def boot_s(self) -> float:
        """Seconds since the machine was started, with those in which it was suspended."""
        ...

    async def run_blocking(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run `work(*args)`, which may block on a disk, off the event loop. Once it has begun it is not cancelled."""
        ...

    async def run_abandonable(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        """As `run_blocking`, but who is cancelled goes at once: `work` ends later, and must not matter to anybody."""
        ...

    def workers(self, most: int) -> Workers:
        """Threads besides, for what may hang: `most` of them."""
        ...

    def usage(self) -> Usage:
        """What this process has used so far."""
        ...


class _Job(Generic[T]):
    """Work for a thread. `task` waits for its `outcome`; None when it does not any more; of the event loop."""

    __slots__ = ("outcome", "task", "token", "work")

    outcome: Outcome[Any]

    def __init__(self, work: Callable[[], T]) -> None:
        self.work = work
        self.task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
        self.token = trio.lowlevel.current_trio_token()

    def finish(self) -> None:
        if self.task is not None:
            trio.lowlevel.reschedule(self.task, self.outcome)

    def fail(self, error: Exception) -> None:
        """Have nobody wait any more: who does gets `error`."""
        if self.task is not None:
            trio.lowlevel.reschedule(self.task, Error(error))
            self.task = None


class _Meter:
    """The time in which anything was being done, in the event loop's view: works side by side count once."""

    def __init__(self) -> None:
        self._under_way = 0
        self._since_s = 0.0  # when the first of them began
        self._ended_s = 0.0

    @contextmanager
    def count(self) -> Iterator[None]:
        """Around a work."""
        if not self._under_way:
            self._since_s = time.monotonic()
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._ended_s += time.monotonic() - self._since_s

    def seconds(self) -> float:
        return self._ended_s + (time.monotonic() - self._since_s if self._under_way else 0.0)


class _Workers:
    """At most `most` threads, made when they are needed, that do jobs in the order in which they came.

    trio's own, which know the context of who sent them and bear the name of what they do, take twice as long to begin
    and to end; that is as much as a read from a disk. A job is a thread's from when it is taken out of `_waiting`;
    until then it can be taken back, and is gone with all that it holds.

    `_lock` guards `_waiting`, `_begun` (jobs in the hands of threads, and since when, by the clock and by `_watched_s`,
    oldest first), `_watched_s` (all that has passed for who watches), the number of `_threads`, and `_free`: those with
    nothing to do, less the jobs that wait. `_signals` has one for each job that waits, except for those that a thread
    has in its hand. `_failure` belongs to the event loop.
    """

    def __init__(self, most: int, meter: _Meter, is_abandonable: bool = False) -> None:
        self._most = most
        self._meter = meter
        self._is_abandonable = is_abandonable
        self._failure: Callable[[], Exception] | None = None
        self._lock = threading.Lock()
        self._waiting: OrderedDict[_Job[Any], None] = OrderedDict()
        self._begun: dict[_Job[Any], tuple[float, float]] = {}
        self._watched_s = 0.0
        self._threads = 0
        self._free = 0
        self._signals: SimpleQueue[None] = SimpleQueue()

    async def run(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._failure is not None:
            raise self._failure()
        job = _Job(partial(work, *args))
        self._put(job)

        def leave(_: object) -> trio.lowlevel.Abort:
            if not self._take_back(job):
                if not self._is_abandonable:
                    return trio.lowlevel.Abort.FAILED
                job.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        with self._meter.count():
            return cast(T, await trio.lowlevel.wait_task_rescheduled(leave))

    def busy_s(self) -> float:
        with self._lock:
            return self._ages_s()[0]

    def watched_s(self, passed_s: float) -> float:
        with self._lock:
            self._watched_s += passed_s
            return min(self._ages_s())

    def _ages_s(self) -> tuple[float, float]:
        """Of the oldest work, by the clock and as watched. The lock is held."""
        if not self._begun:
            return 0.0, 0.0
        by_clock, as_watched = next(iter(self._begun.values()))
        return time.monotonic() - by_clock, self._watched_s - as_watched

    def give_up(self, failure: Callable[[], Exception]) -> None:
        self._failure = failure
        with self._lock:
            left = [*self._begun, *self._waiting]
            self._free += len(self._waiting)
            self._waiting.clear()
        for job in left:
            job.fail(failure())

    # --- in the event loop ------------------------------------------------------------------------------

    def _put(self, job: _Job[Any]) -> None:
        """Raises Busy if there is no thread, and none can be had."""
        with self._lock:
            self._waiting[job] = None
            self._free -= 1
            is_short = self._free < 0 and self._threads < self._most
        if is_short:
            self._add_thread(job)
        self._signals.put(None)

    def _add_thread(self, job: _Job[Any]) -> None:
        try:
            threading.Thread(target=self._work, name="dfs worker", daemon=True).start()
        except RuntimeError as error:  # the machine has no more
            with self._lock:
                if self._threads:
                    return
                del self._waiting[job]
                self._free += 1
            raise errors.Busy(f"this machine has no thread left for what blocks: {error}") from error
        with self._lock:
            self._threads += 1
            self._free += 1

    def _take_back(self, job: _Job[Any]) -> bool:
        """Whether no thread has the job, which none gets any more then."""
        with self._lock:
            if job not in self._waiting:
                return False
            del self._waiting[job]
            self._free += 1
        with suppress(Empty):  # then a thread has it in its hand, and finds nothing, or the next job
            self._signals.get_nowait()
        return True

    # --- in the threads ---------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            try:
                self._signals.get(timeout=limits.WORKER_IDLE_S)
            except Empty:
                if self._leave():
                    return
            else:
                self._do_next()

    def _do_next(self) -> None:
        with self._lock:
            if not self._waiting:
                return
            job, _ = self._waiting.popitem(last=False)
            self._begun[job] = time.monotonic(), self._watched_s
        job.outcome = capture(job.work)
        with self._lock:
            del self._begun[job]
            self._free += 1
        with suppress(trio.RunFinishedError):  # nobody waits
            job.token.run_sync_soon(job.finish)

    def _leave(self) -> bool:
        """Whether a thread that has had nothing to do for long may end."""
        with self._lock:
            if self._waiting:
                return False
            self._threads -= 1
            self._free -= 1
            return True


class RealRuntime:
    """The machine's clock, its entropy, and worker threads.

    There are as many for work that may be left behind as for other: what a hung disk keeps for good keeps nothing else.
    """

    def __init__(self, worker_threads: int = 16) -> None:
        self.random = random.Random()
        self._blocking = _Meter()
        self._workers = _Workers(worker_threads, self._blocking)
        self._abandonable_workers = _Workers(worker_threads, _Meter(), is_abandonable=True)

    def now_ns(self) -> int:
        return time.time_ns()

    def boot_s(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    async def run_blocking(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        return await self._workers.run(work, *args)

    async def run_abandonable(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        return await self._abandonable_workers.run(work, *args)

    def workers(self, most: int) -> Workers:
        return _Workers(most, self._blocking)

    def usage(self) -> Usage:
        return Usage(time.process_time(), self._blocking.seconds())
