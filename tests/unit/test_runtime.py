"""The real Runtime: worker threads, where what blocks goes, and what it says of the process it is in."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator

import pytest
import trio
import trio.lowlevel
import trio.testing

from dfs import errors
from dfs.runtime import RealRuntime

PATIENCE_S = 60


class Gate:
    """Work that blocks until it is opened; how much of it has begun, and ended."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.begun = threading.Semaphore(0)
        self.ended = threading.Semaphore(0)
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def pass_through(self) -> int:
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.begun.release()
        assert self.opened.wait(PATIENCE_S)
        with self._lock:
            self.at_once -= 1
        self.ended.release()
        return threading.get_ident()

    def wait_begun(self) -> None:
        """Blocks, as the work does: it runs in a thread that is not this one."""
        assert self.begun.acquire(timeout=PATIENCE_S)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.opened.set()


async def test_work_is_done_elsewhere_and_its_result_is_here() -> None:
    runtime = RealRuntime()
    assert await runtime.run_blocking(threading.get_ident) != threading.get_ident()
    assert await runtime.run_blocking(divmod, 7, 2) == (3, 1)


async def test_its_errors_come_out_as_they_are() -> None:
    with pytest.raises(ZeroDivisionError):
        await RealRuntime().run_blocking(divmod, 1, 0)


async def test_the_loop_goes_on_meanwhile_and_no_more_threads_than_allowed_are_at_work(gate: Gate) -> None:
    runtime = RealRuntime(worker_threads=3)
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(runtime.run_blocking, gate.pass_through)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            gate.wait_begun()
        gate.opened.set()
    assert gate.most_at_once == 3


async def test_threads_are_used_again() -> None:
    runtime = RealRuntime()
    assert len({await runtime.run_blocking(threading.get_ident) for _ in range(20)}) == 1


async def test_who_is_cancelled_waits_for_work_that_matters(gate: Gate) -> None:
    runtime = RealRuntime()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.run_blocking, gate.pass_through)
            await trio.testing.wait_all_tasks_blocked()
            gate.wait_begun()
            scope.cancel()
            gate.opened.set()
    assert gate.ended.acquire(blocking=False)


async def test_who_is_cancelled_leaves_work_behind_that_does_not_matter(gate: Gate) -> None:
    runtime = RealRuntime()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.run_abandonable, gate.pass_through)
            await trio.testing.wait_all_tasks_blocked()
            gate.wait_begun()
            scope.cancel()
    assert not gate.ended.acquire(blocking=False)
    gate.opened.set()
    assert await runtime.run_blocking(divmod, 7, 2) == (3, 1)


async def test_nothing_begins_for_who_is_cancelled_already(gate: Gate) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await RealRuntime().run_blocking(gate.pass_through)
    assert not gate.begun.acquire(blocking=False)


def test_a_loop_may_end_before_its_work_does(gate: Gate) -> None:
    async def leave() -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(runtime.run_abandonable, gate.pass_through)
                await trio.testing.wait_all_tasks_blocked()
                gate.wait_begun()
                scope.cancel()

    runtime = RealRuntime()
    trio.run(leave)
    gate.opened.set()
    assert gate.ended.acquire(timeout=PATIENCE_S)
    assert trio.run(runtime.run_blocking, divmod, 7, 2) == (3, 1)


@pytest.mark.parametrize("how", ["run_blocking", "run_abandonable"])
async def test_work_that_has_not_begun_is_dropped_with_all_that_it_holds(gate: Gate, how: str) -> None:
    class Held:
        def work(self) -> None:
            raise AssertionError("it was cancelled before it began")

    runtime = RealRuntime(worker_threads=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(getattr(runtime, how), gate.pass_through)
        await trio.testing.wait_all_tasks_blocked()
        gate.wait_begun()
        held = Held()
        is_gone = weakref.ref(held)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as cancelled:
                cancelled.start_soon(getattr(runtime, how), held.work)
                del held
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        assert is_gone() is None
        gate.opened.set()
    assert await getattr(runtime, how)(divmod, 7, 2) == (3, 1)


async def test_without_more_threads_work_waits_for_those_that_there_are(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    runtime = RealRuntime()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(errors.Busy, match="no thread left"):
            await runtime.run_blocking(divmod, 7, 2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runtime.run_blocking, gate.pass_through)
        await trio.testing.wait_all_tasks_blocked()
        gate.wait_begun()
        monkeypatch.setattr(threading.Thread, "start", refuse)
        nursery.start_soon(runtime.run_blocking, gate.pass_through)
        await trio.testing.wait_all_tasks_blocked()
        gate.opened.set()
    assert gate.most_at_once == 1
    assert await runtime.run_blocking(divmod, 7, 2) == (3, 1)


async def test_workers_that_hang_keep_no_others(gate: Gate) -> None:
    runtime = RealRuntime(worker_threads=1)
    hung, other = runtime.workers(1), runtime.workers(1)
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(hung.run, gate.pass_through)
        await trio.testing.wait_all_tasks_blocked()
        gate.wait_begun()
        assert await other.run(divmod, 7, 2) == await runtime.run_blocking(divmod, 7, 2) == (3, 1)
        gate.opened.set()
    assert gate.most_at_once == 1


async def test_workers_say_how_long_they_have_been_at_it_and_not_how_long_others_wait(gate: Gate) -> None:
    workers = RealRuntime().workers(1)
    assert workers.busy_s() == 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(workers.run, gate.pass_through)
        await trio.testing.wait_all_tasks_blocked()
        gate.wait_begun()
        nursery.start_soon(workers.run, time.sleep, 0.001)
        await trio.sleep(0.5)
        assert workers.busy_s() >= 0.5
        gate.opened.set()
        while workers.busy_s() >= 0.5:
            await trio.lowlevel.checkpoint()
    assert workers.busy_s() == 0


async def test_time_that_nobody_watched_does_not_count(gate: Gate) -> None:
    workers = RealRuntime().workers(1)
    assert workers.watched_s(1000) == 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(workers.run, gate.pass_through)
        await trio.testing.wait_all_tasks_blocked()
        gate.wait_begun()
        while workers.busy_s() < 0.25:
            await trio.lowlevel.checkpoint()
        assert workers.watched_s(0) == 0
        assert workers.watched_s(0.125) == 0.125
        assert 0.25 <= workers.watched_s(1000) < 1000  # no longer than it is
        gate.opened.set()
    assert workers.watched_s(0) == 0


async def test_who_waits_for_workers_that_are_given_up_goes_at_once(gate: Gate) -> None:
    class Hangs(Exception):
        pass

    workers = RealRuntime().workers(1)

    async def wait() -> None:
        with pytest.raises(Hangs):
            await workers.run(gate.pass_through)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        gate.wait_begun()
        nursery.start_soon(wait)  # for the thread
        await trio.testing.wait_all_tasks_blocked()
        workers.give_up(Hangs)
    await wait()
    assert not gate.ended.acquire(blocking=False)
    gate.opened.set()
    assert gate.ended.acquire(timeout=PATIENCE_S)
    assert not gate.begun.acquire(blocking=False)


async def test_a_process_that_computes_uses_processors_and_no_disk() -> None:
    runtime = RealRuntime()
    before = runtime.usage()
    sum(number * number for number in range(100_000))
    after = runtime.usage()
    assert after.cpu_s > before.cpu_s
    assert after.blocking_s == before.blocking_s == 0


async def test_works_that_block_at_the_same_time_count_once() -> None:
    """Otherwise two flushes side by side made a disk look busy twice over."""
    runtime = RealRuntime()
    begun, may_end = [threading.Event() for _ in range(4)], threading.Event()

    def block(number: int) -> None:
        begun[number].set()
        may_end.wait()

    async with trio.open_nursery() as nursery:
        started = trio.current_time()
        for number in range(4):
            nursery.start_soon(runtime.run_blocking, block, number)
        while not all(event.is_set() for event in begun):
            await trio.sleep(0.001)
        under_way_s = runtime.usage().blocking_s
        may_end.set()
    elapsed_s = trio.current_time() - started
    assert 0 < under_way_s <= runtime.usage().blocking_s <= elapsed_s
