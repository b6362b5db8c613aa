"""Blocks of one chunk: which are meant, what is wrong with them, and pieces of them with checksums of their own.

Pure functions of records, and reads that block; what follows from damage is `nodes.datanode.store`'s to decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from crc32c import crc32c

from dfs import errors, limits
from dfs.checksum import Block, Buffer
from dfs.grants import merged
from nodes.datanode import chunkfiles
from nodes.datanode.disk import File
from nodes.datanode.index import BlockIndex, Record


def read_nowait(data: File, view: memoryview, records: Sequence[Record]) -> bool:
    """Whether the blocks were in memory, and whole. What went wrong is for `faults` to find out."""
    try:
        count = data.pread_nowait_into(view, records[0].start)
    except OSError:
        return False
    return count == len(view) and chunkfiles.intact(view, records)


class Fault(NamedTuple):
    """What is wrong with the block that begins at `start`, and the disk's error if it could not be read.

    None: with the chunk as a whole.
    """

    reason: str
    start: int | None
    error: OSError | None = None


def faults(data: File, view: memoryview, records: Sequence[Record]) -> list[Fault]:
    """Read the blocks. Blocks the thread. Returns what is wrong with them."""
    base = records[0].start
    parts = [(record, view[record.start - base : record.start - base + record.length]) for record in records]
    try:
        count = data.pread_into(view, base)
    except OSError as error:
        if len(records) > 1 and chunkfiles.is_damage(error):
            return [fault for record, part in parts for fault in faults(data, part, [record])]
        return [Fault(f"bytes {base} to {base + len(view)} cannot be read: {error.strerror}", base, error)]
    if count < len(view):
        return [Fault(f"its data end at {base + count}", None)]
    bad = [record for record, part in parts if not chunkfiles.intact(part, [record])]
    return [
        Fault(f"bytes {each.start} to {each.start + each.length} do not match their checksum", each.start)
        for each in bad
    ]


class Run:
    """Blocks that are neighbours, which one range of several that are read at once touches; what of them is wanted.

    `found`: that, as `pieces` has it, when the blocks were read.
    """

    __slots__ = ("found", "is_whole", "length", "records", "view", "wanted")

    def __init__(self, records: Sequence[Record], wanted: tuple[int, int]) -> None:
        self.records = records
        self.wanted = wanted
        self.length = chunkfiles.total_length(records)
        self.view = memoryview(b"")
        self.is_whole = False
        self.found: tuple[list[Block], list[Buffer]] = ([], [])

    def read_nowait(self, data: File) -> None:
        """Read the blocks, if they are in memory, and whole."""
        self.view = memoryview(bytearray(self.length))
        self.is_whole = read_nowait(data, self.view, self.records)
        self.take() if self.is_whole else self.drop()

    def take(self) -> None:
        """Keep what is wanted: the blocks that it is of may be many times as long."""
        blocks, (wanted,) = pieces(self.records, self.view, *self.wanted)
        self.found = blocks, [bytes(wanted)]
        self.drop()

    def drop(self) -> None:
        """Keep nothing else."""
        self.view = memoryview(b"")


def batches(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """Runs to be read together: READ_MAX_BYTES, and a run more at most."""
    batch: list[Run] = []
    total = 0
    for run in runs:
        batch.append(run)
        total += run.length
        if total >= limits.READ_MAX_BYTES:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def read_all(data: File, runs: Sequence[Run]) -> None:
    """Read the blocks of all of them, as fast as the disk gives them in any order. Blocks the thread."""
    for run in runs:
        data.will_need(run.records[0].start, run.length)
    for run in runs:
        run.view = memoryview(bytearray(run.length))
        run.is_whole = not faults(data, run.view, run.records)


def whole_ones(data: File, run: Sequence[Record]) -> list[int]:
    """Positions in `run` of the blocks whose bytes are there, not all zero, and match their checksums. Blocks."""
    found = []
    for position, record in enumerate(run):
        try:
            content = chunkfiles.read_up_to(data, record.length, record.start)
        except OSError:
            continue  # nobody misses what was freed
        if content != bytes(len(content)) and chunkfiles.intact(memoryview(content), [record]):
            found.append(position)
    return found


def unchanged(index: BlockIndex, records: Sequence[Record]) -> bool:
    if not index.matches(records[0].start, records):
        return False
    first = index.blocks_in(records[0].start)
    return not any(record.punched for record in index.records(first, first + len(records)))


def pieces(records: Sequence[Record], view: memoryview, offset: int, length: int) -> tuple[list[Block], list[Buffer]]:
    """What was asked for, out of the verified blocks in `view`: whole blocks keep their sums, pieces get their own."""
    base, end = records[0].start, offset + length
    wanted = view[offset - base : end - base]
    blocks = []
    for record in records:
        start, stop = max(record.start, offset), min(record.start + record.length, end)
        whole = stop - start == record.length
        blocks.append(Block(stop - start, record.crc if whole else crc32c(view[start - base : stop - base])))
    return blocks, [wanted]


def up_to_bytes(index: BlockIndex, first: int, count: int) -> list[Record]:
    """Blocks from `first` on with no more than READ_MAX_BYTES of bytes among them, and `count` at most."""
    if first < 0 or count < 1:
        raise errors.InvalidArgument(f"{count} blocks from number {first} on cannot be read")
    chosen: list[Record] = []
    total = 0
    for record in index.records(first, first + count):
        total += 0 if record.punched else record.length
        if total > limits.READ_MAX_BYTES:
            break
        chosen.append(record)
    return chosen


def to_punch(index: BlockIndex, ranges: Sequence[tuple[int, int]]) -> list[int]:
    """The numbers, in order, of blocks that lie whole in `ranges` (neighbours count as one)."""
    spans = merged((offset, offset + length) for offset, length in ranges)
    return [number for start, end in spans for number in index.within(start, end - start)]
