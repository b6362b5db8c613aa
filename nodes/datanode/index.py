"""A chunk's index: the length and the CRC32C of each of its blocks, on the disk and in memory.

The file CHUNK.idx, all numbers little-endian:

    0     header: magic "dfsidx1\\0", version u32, cluster (32 hex digits), chunk u64, zeros, crc32c of the above
    64    sync mark 0: generation u32, blocks u32, length u32, crc32c of these
    80    sync mark 1
    128   a record a block: length u32 (bit 31: punched), crc32c u32

A sync mark says that so many blocks and bytes were on the disk when it was written. The two are written in turn, so one
of them is whole whatever happens; the newer one that is whole counts. Records up to the mark are trusted as read, later
ones only after the block has been verified. A punched block's bytes were given back to the disk on purpose: its record
stays, its bytes are gone.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice, repeat
from typing import Final, NamedTuple

from crc32c import crc32c

from dfs import errors, limits
from dfs.checksum import Block, Buffer, rows
from dfs.types import ChunkId, ClusterId

VERSION: Final = 1
HEADER_BYTES: Final = 64
MARK_BYTES: Final = 16
RECORDS_OFFSET: Final = 128
RECORD_BYTES: Final = 8

_MAGIC: Final = b"dfsidx1\0"
_HEADER: Final = struct.Struct("<8sI32sQ8x")
_MARK: Final = struct.Struct("<III")
_RECORD: Final = struct.Struct("<II")
_CRC: Final = struct.Struct("<I")
_PUNCHED: Final = 1 << 31


class Mark(NamedTuple):
    """`blocks` blocks, which are `length` bytes, are on the disk. Of two marks the higher `generation` counts."""

    generation: int
    blocks: int
    length: int

    @property
    def offset(self) -> int:
        """Where in the file this mark is written."""
        return HEADER_BYTES + MARK_BYTES * (self.generation % 2)


class Record(NamedTuple):
    """What the index has of one block, which starts at `start` in its chunk."""

    start: int
    length: int
    crc: int
    punched: bool


# --- the file -------------------------------------------------------------------------------------------


def pack_header(cluster: ClusterId, chunk: ChunkId, mark: Mark) -> bytes:
    """The first bytes of a new index: its header and its first mark, which is of nothing, up to the first record."""
    header = _HEADER.pack(_MAGIC, VERSION, cluster.encode("ascii"), chunk)
    header += _CRC.pack(crc32c(header))
    return (header.ljust(mark.offset, b"\0") + pack_mark(mark)).ljust(RECORDS_OFFSET, b"\0")


def check_header(head: bytes, cluster: ClusterId | None, chunk: ChunkId) -> None:
    """Raise Corrupt, with the reason, unless `head` begins an index of this `chunk` of `cluster` (None: of any)."""
    header = head[: _HEADER.size]
    if len(head) < HEADER_BYTES or _CRC.unpack_from(head, _HEADER.size)[0] != crc32c(header):
        raise errors.Corrupt("the header of its index is damaged")
    magic, version, its_cluster, its_chunk = _HEADER.unpack(header)
    if magic != _MAGIC or version != VERSION:
        raise errors.Corrupt(f"its index has format {version}, this version of dfs knows {VERSION}")
    if cluster is not None and its_cluster != cluster.encode("ascii"):
        raise errors.Corrupt(f"its index belongs to cluster {its_cluster.decode('ascii', 'replace')}")
    if its_chunk != chunk:
        raise errors.Corrupt(f"its index belongs to chunk {its_chunk:x}")


def pack_mark(mark: Mark) -> bytes:
    packed = _MARK.pack(*mark)
    return packed + _CRC.pack(crc32c(packed))


def unpack_marks(head: bytes) -> list[Mark]:
    """The marks that are whole among those in the first bytes of an index, the one that counts first."""
    found = []
    for offset in (HEADER_BYTES, HEADER_BYTES + MARK_BYTES):
        packed = head[offset : offset + _MARK.size]
        crc = head[offset + _MARK.size : offset + MARK_BYTES]
        if len(crc) == _CRC.size and _CRC.unpack(crc)[0] == crc32c(packed):
            found.append(Mark._make(_MARK.unpack(packed)))
    return sorted((mark for mark in found if mark.generation), reverse=True)


def marks_are_whole(head: bytes, newest: Mark) -> bool:
    """Whether the first bytes of an index have `newest` as the mark that counts, and nothing is damaged around it.

    A place that no mark was written to yet is zeros.
    """
    older = head[Mark(newest.generation - 1, 0, 0).offset :][:MARK_BYTES]
    marks = unpack_marks(head)
    whole = len(marks) == 2 or (not newest.length and not any(older))
    return whole and marks[:1] == [newest] and not any(head[HEADER_BYTES + 2 * MARK_BYTES : RECORDS_OFFSET])


def pack_records(records: Iterable[Record]) -> bytes:
    """Records as they stand in the file, and as they travel between DataNodes: 8 bytes each."""
    words = [word for _, length, crc, punched in records for word in (length | punched << 31, crc)]
    return struct.pack(f"<{len(words)}I", *words)


def unpack_records(packed: object, start: int = 0) -> list[Record]:
    """The reverse of `pack_records`, for blocks that begin at `start`. Raises InvalidArgument for what it cannot be."""
    if not isinstance(packed, bytes | bytearray | memoryview) or len(packed) % RECORD_BYTES:
        raise errors.InvalidArgument("block records are not pairs of 32-bit numbers")
    records = []
    for word, crc in _RECORD.iter_unpack(packed):
        length = word & ~_PUNCHED
        if not 0 < length <= limits.BLOCK_MAX_BYTES:
            raise errors.InvalidArgument(f"a block record says {length} bytes, of 1 to {limits.BLOCK_MAX_BYTES}")
        records.append(Record(start, length, crc, word >= _PUNCHED))
        start += length
    return records


def records_of(blocks: Sequence[Block], start: int) -> list[Record]:
    """The records of `blocks` that begin at `start` and hold their bytes."""
    lengths, crcs = zip(*blocks, strict=True) if blocks else ((), ())
    return rows(Record, zip(accumulate(lengths, initial=start), lengths, crcs, repeat(False), strict=False))


# --- in memory ------------------------------------------------------------------------------------------


class BlockIndex:
    """The blocks of one chunk, in order: 9 bytes a block.

    Block i is the bytes from `_ends[i - 1]` (0 for the first) to `_ends[i]`; `_crcs[i]` is its checksum, `_punched[i]`
    is 1 where the bytes are gone.
    """

    __slots__ = ("_crcs", "_ends", "_punched")

    def __init__(self) -> None:
        self._ends = array("I")
        self._crcs = array("I")
        self._punched = bytearray()

    @classmethod
    def unpack(cls, packed: Buffer) -> BlockIndex:
        """From the records of a file: up to the first that cannot be one, and none half written."""
        words = array("I")
        words.frombytes(packed[: len(packed) // RECORD_BYTES * RECORD_BYTES])
        if sys.byteorder == "big":
            words.byteswap()
        index = cls()
        for word, crc in zip(words[::2], words[1::2], strict=True):
            end = index.length + (word & ~_PUNCHED)
            if not index.length < end <= min(index.length + limits.BLOCK_MAX_BYTES, limits.CHUNK_MAX_BYTES):
                break
            index._add(end, crc, word >= _PUNCHED)
        return index

    def _add(self, end: int, crc: int, punched: bool) -> None:
        self._ends.append(end)
        self._crcs.append(crc)
        self._punched.append(punched)

    @property
    def length(self) -> int:
        """Bytes in all blocks."""
        return self._ends[-1] if self._ends else 0

    def __len__(self) -> int:
        return len(self._ends)

    def record(self, number: int) -> Record:
        start = self._ends[number - 1] if number else 0
        return Record(start, self._ends[number] - start, self._crcs[number], bool(self._punched[number]))

    def records(self, first: int = 0, stop: int | None = None) -> Iterator[Record]:
        for number in range(first, len(self) if stop is None else min(stop, len(self))):
            yield self.record(number)

    def append(self, records: Sequence[Record]) -> None:
        """Blocks that follow the last one."""
        lengths = [record.length for record in records]
        self._ends.extend(islice(accumulate(lengths, initial=self.length), 1, None))
        self._crcs.extend([record.crc for record in records])
        self._punched.extend([record.punched for record in records])

    def blocks_in(self, length: int) -> int:
        """How many whole blocks the first `length` bytes are."""
        return bisect_right(self._ends, length)

    def is_border(self, offset: int) -> bool:
        """Whether a block begins, or the last one ends, at `offset`."""
        return offset == 0 or (offset <= self.length and self._ends[bisect_left(self._ends, offset)] == offset)

    def cut(self, length: int) -> None:
        """Forget the blocks beyond `length`, which is a border."""
        assert self.is_border(length)
        count = self.blocks_in(length)
        del self._ends[count:], self._crcs[count:], self._punched[count:]

    def covering(self, offset: int, length: int) -> range:
        """The numbers of the blocks that hold `length` (1 or more) bytes from `offset`, which exist."""
        assert length > 0
        assert offset + length <= self.length
        return range(bisect_right(self._ends, offset), bisect_left(self._ends, offset + length) + 1)

    def within(self, offset: int, length: int) -> range:
        """The numbers of the blocks that lie whole in the `length` bytes from `offset`, as far as these exist."""
        first = bisect_left(self._ends, offset) + 1 if offset > 0 else 0
        return range(first, max(first, bisect_right(self._ends, offset + length)))

    def matches(self, offset: int, records: Sequence[Record]) -> bool:
        """Whether exactly these blocks are there from `offset` on. Punched or not does not count."""
        if not self.is_border(offset):
            return False
        first = self.blocks_in(offset)
        if first + len(records) > len(self):
            return False
        mine = self.records(first, first + len(records))
        return all(a.length == b.length and a.crc == b.crc for a, b in zip(mine, records, strict=True))

    def punch(self, number: int) -> None:
        """The bytes of this block are gone."""
        self._punched[number] = 1

    def unpunch(self, number: int) -> None:
        """The bytes of this block are there after all."""
        self._punched[number] = 0

    def punched_bytes(self, start: int = 0) -> int:
        """Bytes of punched blocks, as far as they lie beyond `start`."""
        if not any(self._punched):
            return 0
        beyond = (record for record in self.records() if record.punched)
        return sum(max(0, record.start + record.length - max(start, record.start)) for record in beyond)

    def columns(self) -> tuple[bytes, bytes, bytes]:
        """For who reads the chunk's file himself: the ends of all blocks and their checksums, u32 little-endian each,
        and for each block a byte that is 1 if it was punched."""
        return _little_endian(self._ends), _little_endian(self._crcs), bytes(self._punched)

    def pack(self, first: int, stop: int) -> bytes:
        """The records of the blocks `first` to `stop` - 1 as they stand in the file."""
        return pack_records(self.records(first, stop))


def _little_endian(words: array[int]) -> bytes:
    if sys.byteorder == "big":
        words = words[:]
        words.byteswap()
    return words.tobytes()
