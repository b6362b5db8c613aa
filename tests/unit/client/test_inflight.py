"""Bytes that have left memory and are not committed, held against all of them in a list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dfs.client import inflight
from dfs.client.inflight import InFlight

PLACES = st.integers(0, 60)
PIECES = st.lists(st.tuples(PLACES, st.integers(1, 12)), max_size=4)


@given(st.lists(st.tuples(PIECES, st.integers(0, 40)), max_size=8), PLACES, st.integers(1, 20))
def test_what_is_not_committed_is_known(steps: list[tuple[list[tuple[int, int]], int]], start: int, count: int) -> None:
    here, model = InFlight(), list[int]()
    for pieces, committed in steps:
        here.add((at, bytes(length)) for at, length in pieces)
        model += [byte for at, length in pieces for byte in range(at, at + length)]
        committed = min(committed, len(model))
        here.committed(committed)
        del model[:committed]
        assert here.length_bytes == len(model)
        assert here.touches(start, start + count) == any(start <= byte < start + count for byte in model)
    here.clear()
    assert not here.touches(0, 100)
    assert here.length_bytes == 0


def test_more_may_be_committed_than_is_here() -> None:
    here = InFlight()
    here.add([(0, bytes(10))])
    here.committed(1000)
    assert not here.touches(0, 10)
    assert here.length_bytes == 0


def test_a_stream_is_one_range_and_of_very_many_none_is_told_apart() -> None:
    here = InFlight()
    for start in range(0, 10 * inflight._LOOKS_MAX, 10):
        here.add([(start, bytes(10))])
    assert not here.touches(10 * inflight._LOOKS_MAX, 10 * inflight._LOOKS_MAX + 1)
    here.committed(10 * inflight._LOOKS_MAX - 5)
    assert here.touches(10 * inflight._LOOKS_MAX - 1, 10 * inflight._LOOKS_MAX)
    assert not here.touches(0, 10)
    for start in range(0, 20 * inflight._LOOKS_MAX, 20):
        here.add([(start, bytes(10))])
    assert here.touches(15, 16), "there are too many to look at each"
