"""Rates and percentiles of what was timed."""

from __future__ import annotations

import pytest

from dfs.cli.bench.figures import Stopwatch, percentile


class Clock:
    """Seconds, as the test lets them pass."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(("percent", "found"), [(1, 1), (50, 50), (95, 95), (99, 99), (100, 100)])
def test_of_a_hundred_values_the_percentile_is_the_one_of_that_rank(percent: float, found: float) -> None:
    assert percentile([float(number) for number in range(1, 101)], percent) == found


def test_a_percentile_is_always_one_of_the_values() -> None:
    assert percentile([3.0], 50) == percentile([3.0], 99) == 3.0
    assert percentile([1.0, 9.0], 50) == 1.0
    assert percentile([1.0, 9.0], 99) == 9.0


def test_steps_make_rates_and_latencies() -> None:
    clock = Clock()
    watch = Stopwatch(clock, limit_s=60)
    for step_s in (1.0, 1.0, 4.0):
        clock.now_s += step_s
        watch.lap(moved_bytes=3_000)
    figures = watch.stop()
    assert (figures.operations, figures.moved_bytes, figures.elapsed_s) == (3, 9_000, 6.0)
    assert (figures.operations_per_s, figures.bytes_per_s) == (0.5, 1_500)
    assert (figures.p50_s, figures.p99_s) == (1.0, 4.0)


def test_what_follows_the_last_step_counts_for_the_rate_and_for_no_latency() -> None:
    """An fsync at the end of a file: without it a rate would be that of memory."""
    clock = Clock()
    watch = Stopwatch(clock, limit_s=60)
    clock.now_s += 1
    watch.lap(moved_bytes=1_000)
    clock.now_s += 9
    figures = watch.stop()
    assert (figures.bytes_per_s, figures.p99_s) == (100, 1.0)


def test_a_step_may_be_many_operations() -> None:
    clock = Clock()
    watch = Stopwatch(clock, limit_s=60)
    clock.now_s += 2
    watch.lap(operations=500)
    figures = watch.stop()
    assert (figures.operations_per_s, figures.p50_s) == (250, 2.0)


def test_preparation_is_not_timed() -> None:
    clock = Clock()
    watch = Stopwatch(clock, limit_s=5)
    clock.now_s += 100
    watch.start()
    assert not watch.is_over
    clock.now_s += 1
    watch.lap()
    assert watch.stop().elapsed_s == 1


def test_it_is_over_when_the_steps_have_taken_long_enough() -> None:
    clock = Clock()
    watch = Stopwatch(clock, limit_s=3)
    for _ in range(2):
        clock.now_s += 1
        watch.lap()
        assert not watch.is_over
    clock.now_s += 1
    watch.lap()
    assert watch.is_over


def test_nothing_done_is_no_error() -> None:
    figures = Stopwatch(Clock(), limit_s=3).stop()
    assert (figures.operations, figures.operations_per_s, figures.bytes_per_s, figures.p50_s) == (0, 0, 0, 0)
