"""What there is a lot of is counted while others work, and seldom where that takes long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from nodes.namenode.counting import Counting, Counts
from tests.simulation.disk import InlineRuntime
from tests.unit.namenode.world import Namespace


class SlowRuntime(InlineRuntime):
    """Its worker takes a second."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    async def run_blocking(self, work: Callable[..., Any], *args: Any) -> Any:
        self.calls += 1
        await trio.sleep(1)
        return work(*args)


async def test_chunks_and_orders_are_counted(space: Namespace, autojump_clock: trio.testing.MockClock) -> None:
    """By a clock that stands still meanwhile: nothing that was counted is told again."""
    counting = Counting(space.store, InlineRuntime())
    session = space.open_session()
    space.written(session, space.file(session).ino, 7)
    assert await counting.counts() == Counts(1, 0, {})
    space.chunk(session, ["n2"])
    space.end_session(session)
    space.own("delete_stray", "n1", [77])
    found = await counting.counts()
    assert found.deletions == {"n1": 1, "n2": 1}
    assert found.orders >= 2


async def test_what_takes_long_to_count_is_counted_seldom(
    space: Namespace, autojump_clock: trio.testing.MockClock
) -> None:
    runtime = SlowRuntime()
    counting = Counting(space.store, runtime)
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(counting.counts)
    assert (runtime.calls, trio.current_time()) == (1, pytest.approx(1))
    for _ in range(40):
        await counting.counts()
        await trio.sleep(0.5)
    assert runtime.calls == 2
