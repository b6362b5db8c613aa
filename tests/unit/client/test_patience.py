"""A read waits for one replica as long as reads take, and asks twice seldom."""

from __future__ import annotations

import pytest

from dfs import limits
from dfs.client.patience import Patience


def after(*took_s: float) -> Patience:
    patience = Patience()
    for each in took_s:
        patience.note(each)
    return patience


def test_before_anything_is_known_patience_is_shortest() -> None:
    assert Patience().delay_s == limits.HEDGE_AFTER_MIN_S


def test_fast_reads_leave_a_disk_the_time_to_seek() -> None:
    assert after(*[0.001] * 100).delay_s == limits.HEDGE_AFTER_MIN_S


def test_where_all_is_slow_nobody_asks_twice() -> None:
    assert after(*[0.5] * 100).delay_s > 0.5


def test_where_reads_differ_much_patience_covers_most_of_them() -> None:
    assert after(*[0.05, 0.25] * 50).delay_s > 0.3


def test_nobody_waits_for_ever() -> None:
    assert after(*[9.0] * 100).delay_s == limits.HEDGE_AFTER_MAX_S


def test_a_client_that_was_slow_is_as_impatient_as_others_when_it_is_fast_again() -> None:
    assert after(*[9.0] * 10, *[0.001] * 200).delay_s == limits.HEDGE_AFTER_MIN_S


@pytest.mark.parametrize("reads", [0, 1000])
def test_only_a_share_of_reads_asks_twice(reads: int) -> None:
    patience = Patience()
    asked = sum(patience.spend() for _ in range(100))
    assert asked == limits.HEDGES_SAVED_MAX
    for _ in range(reads):
        patience.note(0.01)
        asked += patience.spend()
    assert asked <= limits.HEDGES_SAVED_MAX + limits.HEDGE_SHARE * reads + 1
