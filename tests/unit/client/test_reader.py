"""Which pieces of which chunks a range of a file is made of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfs import limits
from dfs.client.reader import Piece, gather, joined, parts_of, pieces_of
from dfs.client.transfer import stretches
from dfs.types import ChunkId, Extent

MIB = limits.MIB


@st.composite
def files(draw: st.DrawFn) -> list[Extent]:
    """Extents in order, with holes between some of them."""
    extents, offset = [], 0
    for number in range(draw(st.integers(0, 12))):
        offset += draw(st.integers(0, 5))
        length = draw(st.integers(1, 9))
        extents.append(Extent(offset, length, ChunkId(number + 1), draw(st.integers(0, 100))))
        offset += length
    return extents


@given(files(), st.integers(0, 120), st.integers(0, 60))
def test_each_byte_of_the_range_is_in_one_piece_or_in_a_hole(extents: list[Extent], offset: int, length: int) -> None:
    wanted = {}
    for extent in extents:
        for at in range(max(extent.offset, offset), min(extent.offset + extent.length, offset + length)):
            wanted[at - offset] = (extent.chunk, extent.chunk_offset + at - extent.offset)
    found = {}
    for piece in pieces_of(extents, offset, length):
        for at in range(piece.length):
            assert piece.start + at not in found
            found[piece.start + at] = (piece.chunk, piece.chunk_offset + at)
    assert found == wanted


@pytest.mark.parametrize("offset", [0, 17])
def test_no_piece_is_longer_than_one_read(offset: int) -> None:
    pieces = list(pieces_of([Extent(0, 64 * MIB, ChunkId(1), 0)], offset, 3 * limits.READ_MAX_BYTES + 1))
    assert [piece.length for piece in pieces] == [limits.READ_MAX_BYTES] * 3 + [1]


def test_the_parts_of_a_piece_are_what_it_has_of_blocks() -> None:
    block = limits.BLOCK_MAX_BYTES
    parts = list(parts_of(Piece(7, 2 * block, ChunkId(1), block + 100)))
    assert parts == [
        Piece(7, block - 100, ChunkId(1), block + 100),
        Piece(7 + block - 100, block, ChunkId(1), 2 * block),
        Piece(7 + 2 * block - 100, 100, ChunkId(1), 3 * block),
    ]


def test_a_piece_without_a_border_of_large_blocks_is_halved_down_to_a_byte() -> None:
    assert list(parts_of(Piece(7, 3, ChunkId(1), 100))) == [Piece(7, 2, ChunkId(1), 100), Piece(9, 1, ChunkId(1), 102)]
    assert [part.length for part in parts_of(Piece(0, 2, ChunkId(1), 0))] == [1, 1]


@st.composite
def long_files(draw: st.DrawFn) -> list[Extent]:
    """Extents in order, of two chunks, short and long ones, with holes between some of them."""
    extents, offset = [], 0
    lengths = st.sampled_from([1, 4096, limits.BLOCK_MAX_BYTES, limits.BLOCK_MAX_BYTES + 1, MIB, 3 * MIB + 5])
    for number in range(draw(st.integers(0, 40))):
        offset += draw(st.sampled_from([0, 0, 0, 4096]))
        length = draw(lengths)
        extents.append(Extent(offset, length, ChunkId(1 + draw(st.integers(0, 1))), number * 4 * MIB))
        offset += length
    return extents


@given(long_files())
def test_all_pieces_are_gathered_and_short_ones_of_a_chunk_together(extents: list[Extent]) -> None:
    pieces = list(pieces_of(extents, 0, 2**40))
    groups = gather(pieces)
    assert sorted(piece for group in groups for piece in group) == pieces
    for group in groups:
        assert group == sorted(group) and len({piece.chunk for piece in group}) == 1
        assert len(group) == 1 or all(piece.length <= limits.BLOCK_MAX_BYTES for piece in group)
        whole = joined(group)
        assert whole.length <= limits.READ_MAX_BYTES and len(whole.spans) <= limits.READ_RANGES_MAX
        assert list(whole.spans) == [(piece.chunk_offset, piece.length) for piece in group]
        if len(group) > 1:
            assert [part[1:4] for part in parts_of(whole)] == [piece[1:4] for piece in group]


def test_as_many_are_gathered_as_one_call_can_be_for() -> None:
    chunk, count = ChunkId(1), 2 * limits.READ_RANGES_MAX + 1
    tiny = [Piece(10 * number, 1, chunk, number) for number in range(count)]
    assert [len(group) for group in gather(tiny)] == [limits.READ_RANGES_MAX, limits.READ_RANGES_MAX, 1]
    block = limits.BLOCK_MAX_BYTES
    longer = [Piece(number * block, block, chunk, 2 * number * block) for number in range(MIB // block + 1)]
    assert [len(group) for group in gather(longer)] == [MIB // block, 1]


@given(long_files(), st.integers(0, 5 * MIB), st.integers(0, 20 * MIB))
def test_what_is_downloaded_at_a_time_is_all_that_is_there_and_never_too_much(
    extents: list[Extent], start: int, length: int
) -> None:
    at_a_time = list(stretches(extents, start, start + length))
    assert all(parts[-1][1] <= parts[0][0] + limits.READ_MAX_BYTES for parts in at_a_time)
    found = [part for parts in at_a_time for part in parts]
    assert all(first < last for first, last in found)
    merged: list[list[int]] = []
    for extent in extents:
        begin, end = max(extent.offset, start), min(extent.end, start + length)
        if begin < end and merged and merged[-1][1] == begin:
            merged[-1][1] = end
        elif begin < end:
            merged.append([begin, end])
    again: list[list[int]] = []
    for first, last in found:
        if again and again[-1][1] == first:
            again[-1][1] = last
        else:
            again.append([first, last])
    assert again == merged


def test_short_extents_are_downloaded_together_and_long_ones_from_their_beginning() -> None:
    page, chunk = 4096, ChunkId(1)
    short = [Extent(number * page, page, chunk, 2 * number * page) for number in range(300)]
    long = Extent(300 * page, 2 * MIB + 1, chunk, 32 * MIB)
    end = 300 * page
    assert list(stretches([*short, long], 0, 2**40)) == [
        [(0, MIB)],
        [(MIB, end)],
        [(end, end + MIB)],
        [(end + MIB, end + 2 * MIB)],
        [(end + 2 * MIB, end + 2 * MIB + 1)],
    ]


def test_short_extents_with_holes_between_them_are_downloaded_together() -> None:
    far = 5 * MIB
    extents = [Extent(number * MIB // 4, 512, ChunkId(1), number * 512) for number in range(6)]
    last = Extent(far, 512, ChunkId(1), 32 * MIB)
    assert list(stretches([*extents, last], 0, 2**40)) == [
        [(number * MIB // 4, number * MIB // 4 + 512) for number in range(4)],
        [(MIB, MIB + 512), (MIB + MIB // 4, MIB + MIB // 4 + 512)],
        [(far, far + 512)],
    ]
