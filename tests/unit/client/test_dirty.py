"""Dirty ranges against the plain picture: an array of bytes, and which of them were written."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from dfs import limits
from dfs.client.dirty import DirtyRanges

WRITES = st.lists(st.tuples(st.integers(0, 120), st.binary(max_size=40)), max_size=30)


def picture(writes: list[tuple[int, bytes]]) -> dict[int, int]:
    found: dict[int, int] = {}
    for offset, data in writes:
        found.update({offset + at: byte for at, byte in enumerate(data)})
    return found


@given(WRITES)
@settings(max_examples=300, deadline=None)
def test_later_writes_cover_earlier_ones(writes: list[tuple[int, bytes]]) -> None:
    dirty = DirtyRanges()
    for offset, data in writes:
        dirty.write(offset, data)
    wanted = picture(writes)
    assert dirty.length_bytes == len(wanted)
    assert dirty.end == max(wanted, default=-1) + 1
    for start in range(0, 160, 3):
        for end in range(start + 1, start + 30, 4):
            found = dirty.read(start, end)
            assert (found is not None) == all(at in wanted for at in range(start, end))
            assert found is None or list(found) == [wanted[at] for at in range(start, end)]
            parts = dirty.within(start, end)
            assert picture(parts) == {at: wanted[at] for at in range(start, end) if at in wanted}
            assert parts == sorted(parts)
    taken: list[tuple[int, bytes]] = []
    while dirty:
        taken += [(offset, bytes(data)) for offset, data in dirty.take(16)]
    assert taken == sorted(taken)
    assert picture(taken) == wanted
    assert dirty.length_bytes == 0 == dirty.end


def test_a_stream_leaves_in_full_pieces() -> None:
    dirty = DirtyRanges()
    for number in range(48):
        dirty.write(number * 65_536, bytes([number]) * 65_536)
    assert [len(data) for _, data in dirty.take(3 * limits.MIB)] == [limits.DIRTY_RANGE_MAX_BYTES] * 3


def test_a_write_larger_than_a_piece_leaves_as_several() -> None:
    dirty = DirtyRanges()
    dirty.write(100, bytes(2 * limits.DIRTY_RANGE_MAX_BYTES + 1))
    assert dirty.length_bytes == 2 * limits.DIRTY_RANGE_MAX_BYTES + 1
    first, second, third = dirty.take(4 * limits.DIRTY_RANGE_MAX_BYTES)
    assert [len(data) for _, data in (first, second, third)] == [
        limits.DIRTY_RANGE_MAX_BYTES,
        limits.DIRTY_RANGE_MAX_BYTES,
        1,
    ]
    assert third[0] == 100 + 2 * limits.DIRTY_RANGE_MAX_BYTES


def test_a_full_piece_is_kept_as_it_is_until_it_is_written_to() -> None:
    full = bytes(range(256)) * (limits.DIRTY_RANGE_MAX_BYTES // 256)
    dirty = DirtyRanges()
    dirty.write(0, full)
    assert dirty.take(len(full))[0][1] is full
    dirty.write(0, full)
    dirty.write(1000, b"x" * (len(full) - 1000))
    dirty.write(500, b"y" * 500)
    dirty.write(500, b"z")
    assert b"".join(data for _, data in dirty.take(2 * len(full))) == (
        full[:500] + b"z" + b"y" * 499 + b"x" * (len(full) - 1000)
    )
    assert dirty.length_bytes == 0
