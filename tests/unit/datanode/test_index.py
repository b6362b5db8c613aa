"""A chunk's index, on the disk and in memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfs import errors
from dfs.checksum import Block
from dfs.types import ChunkId, ClusterId
from nodes.datanode import index as formats
from nodes.datanode.index import BlockIndex, Mark, Record, pack_records, records_of, unpack_records

CLUSTER = ClusterId("00112233445566778899aabbccddeeff")
LENGTHS = st.lists(st.integers(1, 65536), max_size=40)


def index_of(*lengths: int) -> BlockIndex:
    index = BlockIndex()
    index.append(records_of([Block(length, number) for number, length in enumerate(lengths)], 0))
    return index


@given(st.lists(st.tuples(st.integers(1, 65536), st.integers(0, 2**32 - 1), st.booleans()), max_size=50))
def test_records_are_the_same_after_the_disk(blocks: list[tuple[int, int, bool]]) -> None:
    records, start = [], 0
    for length, crc, punched in blocks:
        records.append(Record(start, length, crc, punched))
        start += length
    packed = pack_records(records)
    assert len(packed) == 8 * len(records)
    index = BlockIndex.unpack(packed + b"half")
    assert list(index.records()) == unpack_records(packed) == records
    assert index.length == start and index.pack(0, len(index)) == packed


def test_reading_stops_at_the_first_record_that_cannot_be_one() -> None:
    good = pack_records(records_of([Block(5, 1), Block(6, 2)], 0))
    assert len(BlockIndex.unpack(good + bytes(8) + good)) == 2
    assert len(BlockIndex.unpack(good + b"\xff\xff\x0f\x00\0\0\0\0")) == 2


@pytest.mark.parametrize("packed", [b"1234567", bytes(8), b"\x01\x00\x01\x00\0\0\0\0", "text", 7])
def test_records_from_elsewhere_are_checked(packed: object) -> None:
    with pytest.raises(errors.InvalidArgument):
        unpack_records(packed)


@given(LENGTHS.filter(bool), st.data())
def test_ranges_find_their_blocks(lengths: list[int], data: st.DataObject) -> None:
    index = index_of(*lengths)
    offset = data.draw(st.integers(0, index.length - 1))
    length = data.draw(st.integers(1, index.length - offset))
    records = list(index.records())
    end = offset + length
    touching = [n for n, r in enumerate(records) if r.start < end and r.start + r.length > offset]
    inside = [n for n, r in enumerate(records) if r.start >= offset and r.start + r.length <= end]
    assert list(index.covering(offset, length)) == touching
    assert list(index.within(offset, length)) == inside
    assert index.is_border(offset) == (offset in {r.start for r in records})


def test_cut_forgets_the_blocks_behind() -> None:
    index = index_of(10, 20, 30)
    index.cut(30)
    assert len(index) == 2 and index.length == 30
    index.cut(0)
    assert len(index) == 0 and index.length == 0


def test_blocks_match_only_where_and_as_they_are() -> None:
    index = index_of(10, 20, 30)
    same = list(index.records(1, 3))
    assert index.matches(10, same) and index.matches(10, same[:1])
    assert not index.matches(9, same) and not index.matches(0, same)
    assert not index.matches(10, [same[0]._replace(crc=99)])
    assert not index.matches(10, [*same, same[0]])


def test_the_newer_whole_mark_counts() -> None:
    head = bytearray(formats.pack_header(CLUSTER, ChunkId(7), Mark(1, 0, 0)))
    formats.check_header(bytes(head), CLUSTER, ChunkId(7))
    assert formats.unpack_marks(bytes(head)) == [Mark(1, 0, 0)]
    second = Mark(2, 3, 300)
    head[second.offset : second.offset + 16] = formats.pack_mark(second)
    assert formats.unpack_marks(bytes(head)) == [second, Mark(1, 0, 0)]
    head[second.offset] ^= 1
    assert formats.unpack_marks(bytes(head)) == [Mark(1, 0, 0)]


def test_a_header_says_whose_it_is() -> None:
    head = formats.pack_header(CLUSTER, ChunkId(7), Mark(1, 0, 0))
    with pytest.raises(errors.Corrupt, match="belongs to chunk 7"):
        formats.check_header(head, CLUSTER, ChunkId(8))
    with pytest.raises(errors.Corrupt, match=f"belongs to cluster {CLUSTER}"):
        formats.check_header(head, ClusterId("f" * 32), ChunkId(7))
    with pytest.raises(errors.Corrupt, match="damaged"):
        formats.check_header(head[:20] + b"?" + head[21:], CLUSTER, ChunkId(7))
    with pytest.raises(errors.Corrupt, match="damaged"):
        formats.check_header(head[:20], CLUSTER, ChunkId(7))
