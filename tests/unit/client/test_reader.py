"""Which pieces of which chunks a range of a file is made of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfs import limits
from dfs.client.reader import Piece, parts_of, pieces_of
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
