"""Who looks a path up again. Time is trio's, and jumps."""

from __future__ import annotations

import trio
import trio.testing

from mount.retries import MOMENT_S, Retries


async def test_a_thread_is_known_for_a_moment_after_it_was_told(autojump_clock: trio.testing.MockClock) -> None:
    retries = Retries()
    assert not retries.has(1)
    retries.note(1)
    assert retries.has(1)
    assert not retries.has(2)
    await trio.sleep(0.6 * MOMENT_S)
    retries.note(1)
    await trio.sleep(0.6 * MOMENT_S)
    assert retries.has(1)
    await trio.sleep(0.6 * MOMENT_S)
    assert not retries.has(1)


async def test_no_more_files_stay_than_may(autojump_clock: trio.testing.MockClock) -> None:
    retries = Retries()
    retries.note(0)
    assert retries.has(0)
    retries.files = 10_000
    assert not retries.has(0)


async def test_of_very_many_threads_the_last_are_known(autojump_clock: trio.testing.MockClock) -> None:
    retries = Retries()
    for thread in range(3000):
        retries.note(thread)
        retries.note(7)
    assert retries.has(7)
    assert retries.has(2999)
    assert not retries.has(8)
