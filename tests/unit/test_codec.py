"""Shapes on the wire: packed checksums, and values of the domain as plain arrays."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfs import codec, errors, limits
from dfs.checksum import Block, sum_blocks, verify
from dfs.types import Attr, ChunkId, ChunkPlace, DirEntry, Extent, Ino, NodeId, NodeState, NodeView

ATTR = Attr(Ino(7), 0o100644, 1, 0, 0, 0, 10, 10, 1, 2, 3, 4, 5, 3)
blocks = st.lists(st.builds(Block, st.integers(1, limits.BLOCK_MAX_BYTES), st.integers(0, 2**32 - 1)), max_size=50)


@given(blocks)
def test_blocks_come_back_as_they_were(some: list[Block]) -> None:
    packed = codec.pack_blocks(some)
    assert len(packed) == 8 * len(some)
    for form in (packed, bytearray(packed), memoryview(packed)):
        assert codec.unpack_blocks(form) == some


def test_the_packed_form_is_little_endian_length_and_sum() -> None:
    assert codec.pack_blocks([Block(1, 0x01020304)]) == b"\x01\0\0\0\x04\x03\x02\x01"


@pytest.mark.parametrize(
    "packed",
    [None, 7, "12345678", [1, 2], b"1234567", b"\0" * 8, codec.pack_blocks([Block(limits.BLOCK_MAX_BYTES + 1, 0)])],
    ids=repr,
)
def test_what_cannot_have_been_packed_is_refused(packed: object) -> None:
    with pytest.raises(errors.InvalidArgument):
        codec.unpack_blocks(packed)


@given(st.binary(max_size=1000))
def test_any_bytes_are_blocks_or_are_refused(packed: bytes) -> None:
    try:
        assert codec.pack_blocks(codec.unpack_blocks(packed)) == packed
    except errors.InvalidArgument:
        pass


def test_more_blocks_than_a_chunk_can_have_are_refused_before_they_are_looked_at() -> None:
    one = codec.pack_blocks([Block(1, 0)])
    assert len(codec.unpack_blocks(one * limits.CHUNK_MAX_BLOCKS)) == limits.CHUNK_MAX_BLOCKS
    with pytest.raises(errors.ArgumentTooLarge, match="blocks that a chunk can have"):
        codec.unpack_blocks(one * (limits.CHUNK_MAX_BLOCKS + 1))


@pytest.mark.parametrize("length", [0, 1, limits.BLOCK_MAX_BYTES, limits.BLOCK_MAX_BYTES + 1, 200_000])
def test_sums_of_data_survive_the_wire_and_find_a_flipped_bit(length: int) -> None:
    data = bytearray(random.Random(length).randbytes(length))
    some = codec.unpack_blocks(codec.pack_blocks(sum_blocks(data)))
    verify(data, some, "the data")
    for position in {0, length // 2, length - 1} if length else set():
        data[position] ^= 0x10
        with pytest.raises(errors.Corrupt, match="the data"):
            verify(data, some, "the data")
        data[position] ^= 0x10


def test_values_are_arrays_in_the_order_of_their_fields() -> None:
    extent = Extent(0, 10, ChunkId(3), 5)
    place = ChunkPlace(ChunkId(3), 10, (NodeId("n1"), NodeId("n2")))
    view = NodeView(NodeId("n1"), "h:1", "h", "", NodeState.UP, 10, 5, 1, 0, 7)
    assert codec.attr(list(ATTR)) == ATTR
    assert codec.extent(list(extent)) == extent
    assert codec.chunk_place([3, 10, ["n1", "n2"]]) == place
    assert codec.dir_entries([[9, b"name", list(ATTR)]]) == [DirEntry(9, b"name", ATTR)]
    assert codec.node_view([*view[:4], "up", *view[5:]]) == view


def test_fields_of_a_newer_version_are_passed_over() -> None:
    assert codec.attr([*ATTR, "new", 1]) == ATTR
    assert codec.dir_entries([[9, b"name", [*ATTR, "new"], "new"]]) == [DirEntry(9, b"name", ATTR)]
    assert codec.extent([0, 10, 3, 5, "new"]) == Extent(0, 10, ChunkId(3), 5)
