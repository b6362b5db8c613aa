"""Who looks a path up again. Time is trio's, and jumps."""

from __future__ import annotations

import trio
import trio.testing

from mount.retries import MOMENT_S, Retries


async def test_a_thread_is_known_for_a_moment_after_it_was_told(autojump_clock: trio.testing.MockClock) -> None:
    retries = Retries()
    assert not retries.of(1)
    retries.note(1)
    assert retries.of(1)
    assert not retries.of(2)
    await trio.sleep(0.6 * MOMENT_S)
    retries.note(1)
    await trio.sleep(0.6 * MOMENT_S)
    assert retries.of(1)
    await trio.sleep(0.6 * MOMENT_S)
    assert not retries.of(1)


async def test_no_more_files_stay_than_may(autojump_clock: trio.testing.MockClock) -> None:
    retries = Retries()
    async with trio.open_nursery() as nursery:
        for _ in range(10_000):
            retries.note(0)
            retry = retries.of(0)
            if retry is None:
                break
            nursery.start_soon(retries.stay, 0, retry)
            await trio.testing.wait_all_tasks_blocked()
        else:
            raise AssertionError("as many as there are")
    retries.note(0)
    assert retries.of(0)


async def test_what_a_thread_has_found_stays_until_it_has_opened_something(
    autojump_clock: trio.testing.MockClock,
) -> None:
    retries = Retries()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for thread in (1, 2):
            retries.note(thread)
            retry = retries.of(thread)
            assert retry is not None
            nursery.start_soon(retries.stay, thread, retry)
        await trio.testing.wait_all_tasks_blocked()
        retries.opened(1)
        assert not retries.of(1)
        assert retries.of(2)
        await trio.testing.wait_all_tasks_blocked()
        assert trio.current_time() == began
        assert len(nursery.child_tasks) == 1
    assert trio.current_time() == began + MOMENT_S


async def test_a_thread_that_opens_nothing_keeps_what_its_last_call_has_found(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """As one that changes the mode of a file by its path all the time."""
    retries = Retries()
    began = trio.current_time()
    gone: list[int] = []

    async def stay(number: int) -> None:
        retry = retries.of(1)
        assert retry is not None, "there are as many as may be"
        await retries.stay(1, retry)
        gone.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(1000):
            retries.note(1)
            nursery.start_soon(stay, number)
            await trio.testing.wait_all_tasks_blocked()
        assert gone == list(range(998))
        assert trio.current_time() == began


async def test_threads_that_cannot_be_told_apart_do_not_end_each_others_retries(
    autojump_clock: trio.testing.MockClock,
) -> None:
    retries = Retries()
    retries.note(0)
    retries.opened(0)
    assert retries.of(0)


async def test_of_very_many_threads_the_last_are_known(autojump_clock: trio.testing.MockClock) -> None:
    retries = Retries()
    for thread in range(3000):
        retries.note(thread)
        retries.note(7)
    assert retries.of(7)
    assert retries.of(2999)
    assert not retries.of(8)
