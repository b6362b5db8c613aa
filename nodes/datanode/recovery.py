"""Which chunks a data directory holds when its DataNode starts, and making them whole after a crash.

After a clean stop (the file `clean` is there, and whole) sizes say it all. After a crash each chunk's sync mark says
which bytes are certain, and the journal has those that follow it and are certain too; blocks after these are kept as
far as they can be read and are whole, one after the other. A mark can have reached the disk before all the records that
it counts: then the other mark counts, which was complete before this one was written. What never was synced goes
without a word; what was, or may have been, and is damaged, goes to quarantine. A chunk that cannot be looked at for
another reason, as files of another user or too few descriptors, is not damaged: then the directory cannot be used, and
nothing in it is moved.

Memory is not asked what the disk has: of a sync that failed before the start it has the bytes, and the disk does not.
So the whole directory is synced before anything is believed, and what is to be checked, beyond a mark, is dropped from
memory first. Marks are not: who fails to write one has it dropped himself (`chunkfiles`), and to read each of them from
the disk would take a large one an hour.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from dfs import errors
from dfs.types import ChunkId, ClusterId
from nodes.datanode import chunkfiles, damage
from nodes.datanode import index as formats
from nodes.datanode.damage import Damages
from nodes.datanode.disk import Disk, File
from nodes.datanode.index import BlockIndex, Mark, Record
from nodes.datanode.journal import Entry

_NAME: Final = re.compile(r"([0-7][0-9a-f]{15})" + chunkfiles.SUFFIXES)
"""Of a chunk's file. Numbers of chunks have 63 bits."""
_NOTHING: Final = Mark(0, 0, 0)
Journaled: TypeAlias = Mapping[ChunkId, Sequence[Entry]]
"""What the journal has of each chunk."""


@dataclasses.dataclass
class Found:
    """What a directory holds.

    The bytes of each chunk, how many of them take no space as they were punched, chunks with bytes not yet synced,
    those with damaged blocks, and (chunk, what is wrong) of those that are of no use.
    """

    lengths: dict[ChunkId, int] = dataclasses.field(default_factory=dict)
    punched: dict[ChunkId, int] = dataclasses.field(default_factory=dict)
    unsynced: list[ChunkId] = dataclasses.field(default_factory=list)
    damages: Damages = dataclasses.field(default_factory=Damages)
    damaged: list[tuple[ChunkId, str]] = dataclasses.field(default_factory=list)


def settle(disk: Disk) -> None:
    """Before `scan` after a crash: whoever was killed may have left in memory what is to be on the disk.

    Raises OSError.
    """
    if disk.list_dir(chunkfiles.CHUNKS):
        try:
            disk.sync_all()
        except OSError:  # the first to ask is told what went wrong at any time before
            disk.sync_all()


def scan(disk: Disk, cluster: ClusterId | None, clean: bool, journaled: Journaled) -> Found:
    """Look at all chunks and mend what a crash left. Damaged chunks are only listed.

    Raises OSError for directories, and for a chunk that cannot be looked at though nothing says that it is damaged.
    """
    found = Found()
    for chunk, names in _names(disk):
        try:
            if not names & {"", ".idx"}:  # a deletion was cut short
                chunkfiles.remove(disk, chunk)
                continue
            length = _clean_length(disk, chunk, names) if clean else 0
            durable = length
            if not length:
                length, durable = _recover(disk, cluster, chunk, names, journaled.get(chunk, ()))
            missing = length - disk.allocated_bytes(chunkfiles.data_path(chunk)) if length else 0
        except OSError as error:  # Corrupt is one too
            if not chunkfiles.is_damage(error):
                what = f"chunk {chunk:x} cannot be looked at: {error.strerror}"
                raise OSError(error.errno, what) from error
            found.damaged.append((chunk, str(error)))
            continue
        if length:
            found.lengths[chunk] = length
        if missing > 0:
            found.punched[chunk] = missing
        if durable < length:
            found.unsynced.append(chunk)
        if length and ".bad" in names:
            _load_damage(disk, chunk, length, found.damages)
    return found


def _load_damage(disk: Disk, chunk: ChunkId, length: int, damages: Damages) -> None:
    """Of blocks that are still there: what was not synced may be gone."""
    blocks = damage.load(disk, chunk)
    found = {start: reason for start, reason in blocks.items() if start < length}
    if found:
        damages.note(chunk, found)
    if len(found) < len(blocks) or not found:
        try:
            damage.save(disk, chunk, found)
        except OSError as error:
            if error.errno not in chunkfiles.FULL:  # a full disk keeps what the next start passes over again
                raise


def _names(disk: Disk) -> Iterator[tuple[ChunkId, set[str]]]:
    """Each chunk with the suffixes ("" for the data, ".idx", ...) of the files that it has. Others are let alone."""
    for directory in disk.list_dir(chunkfiles.CHUNKS):
        seen: dict[ChunkId, set[str]] = {}
        for name in disk.list_dir(f"{chunkfiles.CHUNKS}/{directory}"):
            match = _NAME.fullmatch(name)
            if match and match[1].endswith(directory):
                seen.setdefault(ChunkId(int(match[1], 16)), set()).add(match[2] or "")
        yield from seen.items()


def _clean_length(disk: Disk, chunk: ChunkId, names: set[str]) -> int:
    """The bytes of a chunk of a directory that was closed cleanly; 0 where it must be looked into."""
    if not names >= {"", ".idx"}:
        return 0
    records_bytes = disk.size(chunkfiles.index_path(chunk)) - formats.RECORDS_OFFSET
    whole = records_bytes > 0 and records_bytes % formats.RECORD_BYTES == 0
    return disk.size(chunkfiles.data_path(chunk)) if whole else 0


def _recover(
    disk: Disk, cluster: ClusterId | None, chunk: ChunkId, names: set[str], journaled: Sequence[Entry]
) -> tuple[int, int]:
    """(bytes of the chunk, how many of them are certain to be on the disk); of 0 bytes the files are removed.

    Raises Corrupt if synced bytes are damaged.
    """
    if ".idx" not in names:
        if disk.size(chunkfiles.data_path(chunk)):
            raise errors.Corrupt("it has no index")
        chunkfiles.remove(disk, chunk)
        return 0, 0
    index = disk.open(chunkfiles.index_path(chunk), create=False)
    try:
        length, durable = _recover_by_index(disk, cluster, chunk, index, "" in names, journaled)
    finally:
        index.close()
    if not length:
        chunkfiles.remove(disk, chunk)
    return length, durable


def _recover_by_index(
    disk: Disk, cluster: ClusterId | None, chunk: ChunkId, index: File, has_data: bool, journaled: Sequence[Entry]
) -> tuple[int, int]:
    head = chunkfiles.read_up_to(index, formats.RECORDS_OFFSET, 0)
    if not any(head) and _was_never_synced(index, has_data and disk.size(chunkfiles.data_path(chunk)) > 0):
        return 0, 0
    formats.check_header(head, cluster, chunk)
    marks = formats.unpack_marks(head)
    if not marks:
        raise errors.Corrupt("both sync marks of its index are damaged")
    if not has_data:
        if marks[0].length:
            raise errors.Corrupt("its data are missing")
        return 0, 0
    data = disk.open(chunkfiles.data_path(chunk), create=False)
    try:
        return _mend(index, data, marks, journaled)
    finally:
        data.close()


def _was_never_synced(index: File, has_bytes: bool) -> bool:
    """Whether an index has no header because no sync has put it on the disk yet. If in doubt, it was lost since."""
    content = chunkfiles.read_up_to(index, index.size(), 0)
    return not content or not (has_bytes or any(content))


def _mend(index: File, data: File, marks: list[Mark], journaled: Sequence[Entry]) -> tuple[int, int]:
    newest = marks[0]
    size = data.size()
    if size < newest.length:
        raise errors.Corrupt(f"it has {size} bytes of {newest.length} that were synced")
    mark = _trusted(index, marks)
    if entries := _following(journaled, mark):
        mark = _complete(index, data, newest, entries)
    elif journaled or mark != newest or _has_torn_mark(index, marks):  # what voids entries is surely on the disk then
        mark = _write_mark(index, newest, mark.blocks, mark.length)
    if size == mark.length and index.size() == formats.RECORDS_OFFSET + mark.blocks * formats.RECORD_BYTES:
        return mark.length, mark.length
    index.drop_cached(0, index.size())
    blocks = chunkfiles.read_index(index)
    if len(blocks) < mark.blocks:
        raise errors.Corrupt("its index is shorter than what was synced")
    blocks.cut(_intact_length(data, blocks, mark.blocks))
    data.truncate(blocks.length)
    index.truncate(formats.RECORDS_OFFSET + len(blocks) * formats.RECORD_BYTES)
    return blocks.length, mark.length


def _trusted(index: File, marks: list[Mark]) -> Mark:
    """The newest mark whose records are all there. Raises Corrupt if none is."""
    newest, older = marks[0], marks[1] if len(marks) > 1 else _NOTHING
    goes_up = older.blocks <= newest.blocks and older.length <= newest.length
    if _records_complete(index, older if goes_up else _NOTHING, newest):
        return newest
    if len(marks) == 1 or not goes_up:
        raise errors.Corrupt("records in its index that were synced are damaged")
    return older


def _records_complete(index: File, low: Mark, high: Mark) -> bool:
    """Whether the records after those that `low` counts, up to those that `high` does, hold as many bytes."""
    offset = formats.RECORDS_OFFSET + low.blocks * formats.RECORD_BYTES
    packed = chunkfiles.read_up_to(index, (high.blocks - low.blocks) * formats.RECORD_BYTES, offset)
    between = BlockIndex.unpack(packed)
    return len(between) == high.blocks - low.blocks and between.length == high.length - low.length


def _has_torn_mark(index: File, marks: list[Mark]) -> bool:
    """Whether the power went while the other mark was written: it is to be whole again, or would look like damage."""
    other = Mark(marks[0].generation + 1, 0, 0)
    return len(marks) == 1 and any(chunkfiles.read_up_to(index, formats.MARK_BYTES, other.offset))


def _write_mark(index: File, newest: Mark, blocks: int, length: int) -> Mark:
    """The mark that counts from now on, in the place of the other than `newest`, which it may be lower than.

    Nothing under the newest may go before.
    """
    mark = Mark(newest.generation + 1, blocks, length)
    index.pwrite([formats.pack_mark(mark)], mark.offset)
    index.sync()
    return mark


def _following(journaled: Sequence[Entry], mark: Mark) -> list[Entry]:
    """The entries that follow the mark, one after the other."""
    found: list[Entry] = []
    blocks, length = mark.blocks, mark.length
    for entry in journaled:
        if (entry.generation, entry.first, entry.start) == (mark.generation, blocks, length):
            found.append(entry)
            blocks, length = blocks + len(entry.records), entry.end
    return found


def _complete(index: File, data: File, newest: Mark, entries: Sequence[Entry]) -> Mark:
    """Write what the journal has of a chunk into its own files, durably; the mark that counts it."""
    for entry in entries:
        data.pwrite([entry.data], entry.start)
        offset = formats.RECORDS_OFFSET + entry.first * formats.RECORD_BYTES
        index.pwrite([formats.pack_records(entry.records)], offset)
    data.sync()
    index.sync()
    last = entries[-1]
    return _write_mark(index, newest, last.first + len(last.records), last.end)


def _intact_length(data: File, blocks: BlockIndex, first: int) -> int:
    """Where the first block from number `first` on starts whose bytes are missing, wrong, or not to be read."""
    size = data.size()
    data.drop_cached(0, size)
    for record in blocks.records(first):
        if record.start + record.length > size or not (record.punched or _is_intact(data, record)):
            return record.start
    return blocks.length


def _is_intact(data: File, record: Record) -> bool:
    """Whether the disk gives a block's bytes back. Raises OSError where that says nothing about them."""
    try:
        content = chunkfiles.read_up_to(data, record.length, record.start)
    except OSError as error:
        if not chunkfiles.is_damage(error):
            raise
        return False
    return chunkfiles.intact(memoryview(content), [record])
