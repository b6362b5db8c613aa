"""How much may be dirty follows what the link carries away."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from dfs import errors, limits
from dfs.client.throttle import DirtyThrottle

MIB = limits.MIB
TIMEOUT_S = 30.0


async def append(throttle: DirtyThrottle, size: int, took_s: float) -> None:
    with throttle.measured(size, TIMEOUT_S):
        await trio.sleep(took_s)


async def stream(throttle: DirtyThrottle, size: int, rate: float, at_once: int = 1) -> None:
    """So many bytes leave, 1 MiB in each append, several at a time, at this rate in all."""
    for _ in range(size // (at_once * MIB)):
        async with trio.open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(append, throttle, MIB, at_once * MIB / rate)


async def test_at_first_little_may_be_dirty(autojump_clock: MockClock) -> None:
    assert DirtyThrottle().limit_bytes == limits.DIRTY_FIRST_BYTES


@pytest.mark.parametrize("at_once", [1, 4])
async def test_a_fast_link_takes_as_much_as_memory_has(autojump_clock: MockClock, at_once: int) -> None:
    throttle = DirtyThrottle()
    await stream(throttle, 32 * MIB, 100 * MIB, at_once)
    assert throttle.limit_bytes == limits.DIRTY_MAX_BYTES


@pytest.mark.parametrize("at_once", [1, 4])
async def test_over_a_slow_link_what_is_dirty_can_leave_in_time(autojump_clock: MockClock, at_once: int) -> None:
    throttle = DirtyThrottle()
    await stream(throttle, 16 * MIB, 0.5 * MIB, at_once)
    assert throttle.limit_bytes == pytest.approx(0.5 * MIB * TIMEOUT_S / 4, rel=0.01)


async def test_what_a_buffer_takes_at_once_says_little(autojump_clock: MockClock) -> None:
    throttle = DirtyThrottle()
    await stream(throttle, 2 * MIB, 1000 * MIB)
    assert throttle.limit_bytes == limits.DIRTY_FIRST_BYTES + 8 * MIB


async def test_small_appends_tell_of_the_way_and_not_of_the_link(autojump_clock: MockClock) -> None:
    throttle = DirtyThrottle()
    for _ in range(100):
        await append(throttle, 4096, 1.0)
    assert throttle.limit_bytes == limits.DIRTY_FIRST_BYTES


async def test_a_link_that_has_become_slow_is_noticed_and_one_that_has_become_fast(autojump_clock: MockClock) -> None:
    throttle = DirtyThrottle()
    await stream(throttle, 64 * MIB, 100 * MIB)
    await stream(throttle, 64 * MIB, 0.5 * MIB)
    assert throttle.limit_bytes < 5 * MIB
    await stream(throttle, 128 * MIB, 100 * MIB)
    assert throttle.limit_bytes == limits.DIRTY_MAX_BYTES


async def test_time_in_which_nothing_leaves_does_not_count(autojump_clock: MockClock) -> None:
    throttle = DirtyThrottle()
    for _ in range(16):
        await stream(throttle, 2 * MIB, 100 * MIB)
        await trio.sleep(limits.DIRTY_BELIEVED_S / 2)
    assert throttle.limit_bytes == limits.DIRTY_MAX_BYTES


async def test_what_was_measured_long_ago_is_not_believed(autojump_clock: MockClock) -> None:
    throttle = DirtyThrottle()
    await stream(throttle, 64 * MIB, 100 * MIB)
    await trio.sleep(limits.DIRTY_BELIEVED_S + 1)
    with throttle.measured(4096, TIMEOUT_S):
        assert throttle.limit_bytes == limits.DIRTY_FIRST_BYTES


async def test_appends_that_fail_take_time_and_carry_nothing(autojump_clock: MockClock) -> None:
    throttle = DirtyThrottle()
    for _ in range(8):
        with pytest.raises(errors.NoSpace), throttle.measured(MIB, TIMEOUT_S):
            await trio.sleep(1)
            raise errors.NoSpace("full")
    assert throttle.limit_bytes == limits.DIRTY_MIN_BYTES
