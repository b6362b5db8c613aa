"""Copies share a number of bytes per second."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from dfs import errors
from nodes.datanode.bandwidth import TokenBucket


async def test_tasks_together_take_no_more_than_the_rate(autojump_clock: trio.testing.MockClock) -> None:
    bucket = TokenBucket(1000.0)

    async def take() -> None:
        for _ in range(10):
            await bucket.take(100)

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(take)
    assert 4.7 <= trio.current_time() - began <= 5.0


async def test_without_a_rate_nobody_waits(autojump_clock: trio.testing.MockClock) -> None:
    bucket = TokenBucket()
    began = trio.current_time()
    await bucket.take(1 << 40)
    assert trio.current_time() == began
    bucket.rate_bytes_per_s = 10.0
    await bucket.take(100)
    await bucket.take(1)
    assert trio.current_time() - began == pytest.approx(10.0, abs=0.2)


async def test_whoever_would_wait_too_long_is_told_so_at_once(autojump_clock: trio.testing.MockClock) -> None:
    bucket = TokenBucket(10.0)
    await bucket.take(1000)
    began = trio.current_time()
    with pytest.raises(errors.Busy, match="ask again"):
        await bucket.take(1, most_s=50)
    assert trio.current_time() == began
    await bucket.take(1, most_s=150)


async def test_what_was_not_used_is_no_credit(autojump_clock: trio.testing.MockClock) -> None:
    bucket = TokenBucket(1000.0)
    await trio.sleep(1000)
    began = trio.current_time()
    for _ in range(11):
        await bucket.take(1000)
    assert trio.current_time() - began >= 9.8
