"""The two files of one chunk, its bytes and its index, and the order in which they are written.

Everything here blocks, and raises OSErrors as they are; those of a sync are NotSynced. What must hold after a crash at
any point:

- a sync mark counts only bytes that were on the disk before the mark was written, and only names that were;
- so no byte under the newer mark goes away before a lower mark is on the disk (`cut`);
- a block is flagged as punched, on the disk, before its bytes go (`punch`).
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, TypeAlias

from crc32c import crc32c

from dfs import errors, limits
from dfs.checksum import Block, Buffer, grouped, length_of, rows, verify
from dfs.rpc import SharedBytes
from dfs.types import ChunkId, ClusterId
from nodes.datanode import index as formats
from nodes.datanode.disk import Disk, File
from nodes.datanode.index import BlockIndex, Mark, Record

Content: TypeAlias = Buffer | SharedBytes
"""Bytes that are to be appended: here, or in memory of a client."""

CHUNKS: Final = "chunks"
QUARANTINE: Final = "quarantine"
SUFFIXES: Final = r"(\.idx|\.bad|\.bad\.new)?"
"""Of the files of a chunk, as a regular expression: its data have none."""
FULL: Final = (errno.ENOSPC, errno.EDQUOT)
SHORT: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors of the machine's means: the disk is well."""
MEDIUM: Final = (errno.EIO, errno.ENODEV, errno.ENXIO, errno.EUCLEAN, errno.EBADMSG, errno.ENODATA, errno.EILSEQ)
"""Errors of a disk that fails, or of a file system that is damaged."""
_NO_FILE: Final = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
_NO_PUNCHING: Final = (errno.EOPNOTSUPP, errno.ENOSYS)


class NotSynced(OSError):
    """A sync failed, for whatever reason: nobody knows what the disk has of the file, and no later sync would say."""


def chunk_name(chunk: ChunkId) -> str:
    return f"{chunk:016x}"


def directory_of(chunk: ChunkId) -> str:
    return f"{CHUNKS}/{chunk & 0xFF:02x}"


def data_path(chunk: ChunkId) -> str:
    return f"{directory_of(chunk)}/{chunk_name(chunk)}"


def index_path(chunk: ChunkId) -> str:
    return data_path(chunk) + ".idx"


def damage_path(chunk: ChunkId) -> str:
    """Of what is known of damaged blocks, where there are any: see nodes.datanode.damage."""
    return data_path(chunk) + ".bad"


def is_damage(error: OSError) -> bool:
    """Whether an error of a chunk's files is the chunk's own. If not, the chunk may be whole, and stays where it is."""
    return isinstance(error, errors.Corrupt) or error.errno in (*MEDIUM, *_NO_FILE)


def read_up_to(file: File, length: int, offset: int) -> bytes:
    """`length` bytes from `offset`, or what there is of them."""
    buffer = bytearray(length)
    return bytes(memoryview(buffer)[: file.pread_into(memoryview(buffer), offset)])


def intact(view: memoryview, records: Sequence[Record]) -> bool:
    """Whether `view`, which begins where the first of `records` does, holds the bytes that they sum."""
    base = records[0].start
    return all(crc32c(view[start - base : start - base + length]) == crc for start, length, crc, _ in records)


def runs(records: Iterable[Record]) -> Iterator[list[Record]]:
    """The records in groups of neighbours that are all punched, or all not."""
    group: list[Record] = []
    for record in records:
        if group and (group[-1].punched != record.punched or group[-1].start + group[-1].length != record.start):
            yield group
            group = []
        group.append(record)
    if group:
        yield group


def total_length(records: Sequence[Record]) -> int:
    """Bytes from the start of the first to the end of the last."""
    return records[-1].start + records[-1].length - records[0].start if records else 0


class ChunkFiles:
    """The files, open. `mark` is the newer sync mark on the disk: one thread at a time calls what changes it.

    `journaled` is how far beyond it entries of the journal reach that follow it; 0 if there are none.
    """

    __slots__ = ("_chunk", "_disk", "_index", "data", "journaled", "mark")

    def __init__(self, disk: Disk, chunk: ChunkId, data: File, index: File, mark: Mark) -> None:
        self._disk = disk
        self._chunk = chunk
        self._index = index
        self.data = data
        self.mark = mark
        self.journaled = 0

    @classmethod
    def create(cls, disk: Disk, cluster: ClusterId, chunk: ChunkId, generation: int = 1) -> ChunkFiles:
        """Make the files of a chunk without bytes, with a mark of this `generation`. After an error there are none."""
        disk.make_dirs(directory_of(chunk))
        mark = Mark(generation, 0, 0)
        opened: list[File] = []
        try:
            for path in (data_path(chunk), index_path(chunk)):
                opened.append(disk.open(path, create=True))
                opened[-1].truncate(0)
            opened[1].pwrite([formats.pack_header(cluster, chunk, mark)], 0)
        except OSError:
            for file in opened:
                file.close()
            remove(disk, chunk)
            raise
        return cls(disk, chunk, opened[0], opened[1], mark)

    @classmethod
    def open(cls, disk: Disk, cluster: ClusterId | None, chunk: ChunkId, length: int) -> tuple[ChunkFiles, BlockIndex]:
        """The files of a chunk that is known to have `length` bytes. Raises Corrupt where they say otherwise."""
        opened: list[File] = []
        try:
            opened += [disk.open(path, create=False) for path in (data_path(chunk), index_path(chunk))]
            head = read_up_to(opened[1], formats.RECORDS_OFFSET, 0)
            formats.check_header(head, cluster, chunk)
            index = read_index(opened[1])
            marks = formats.unpack_marks(head)
            if not marks or index.length < length or not index.is_border(length) or opened[0].size() < length:
                raise errors.Corrupt("its index and its data do not fit together")
            if marks[0].length > length:
                raise errors.Corrupt(f"it has {length} bytes of {marks[0].length} that were synced")
        except OSError:
            for file in opened:
                file.close()
            raise
        index.cut(length)
        return cls(disk, chunk, opened[0], opened[1], marks[0]), index

    @property
    def durable(self) -> int:
        """So many bytes are on the disk for certain, here or in the journal."""
        return max(self.mark.length, self.journaled)

    def close(self) -> None:
        self.data.close()
        self._index.close()

    # --- changes: `index` is what is in memory, and is not changed here

    def append(self, index: BlockIndex, records: Sequence[Record], data: Content | None) -> None:
        """Write blocks that follow the last one; `data` has the bytes of those that are not punched.

        None: nobody has the bytes of these blocks, and a hole is in their place. Raises Corrupt if `data` does not
        match their checksums. After an error the files are as before.
        """
        blocks = rows(Block, [(length, crc) for _, length, crc, punched in records if not punched])
        what = f"chunk {self._chunk:x}: what was to be appended"
        if isinstance(data, Buffer):
            verify(data, blocks, what)
        try:
            if data is None:
                self.data.truncate(index.length + total_length(records))
            elif isinstance(data, SharedBytes):
                self._write_verified(records[0].start, blocks, data, what)
            else:
                self._write_runs(records, memoryview(data))
            self._write_records(len(index), records)
        except OSError:
            self.data.truncate(index.length)
            self._index.truncate(formats.RECORDS_OFFSET + len(index) * formats.RECORD_BYTES)
            raise

    def _write_verified(self, position: int, blocks: Sequence[Block], data: SharedBytes, what: str) -> None:
        """Part by part: each is still in the processor's cache when it is written."""
        groups = list(grouped(blocks, limits.MEMORY_PART_BYTES))
        for some, part in zip(groups, data.parts([length_of(some) for some in groups]), strict=True):
            verify(part, some, what)
            self.data.pwrite([part], position)
            position += len(part)

    def _write_runs(self, records: Sequence[Record], data: memoryview) -> None:
        if total_length(records) == len(data):  # none is punched, as verified
            self.data.pwrite([data], records[0].start)
            return
        position = 0
        for run in runs(records):
            start, length = run[0].start, total_length(run)
            if run[0].punched:
                self.data.truncate(start + length)
            else:
                self.data.pwrite([data[position : position + length]], start)
                position += length

    def _write_records(self, number: int, records: Sequence[Record]) -> None:
        packed = formats.pack_records(records)
        self._index.pwrite([packed], formats.RECORDS_OFFSET + number * formats.RECORD_BYTES)

    def sync(self, blocks: int, length: int) -> None:
        """Put on the disk what is written, and then a mark of `blocks` blocks and `length` bytes, which are."""
        _sync(self.data)
        if not self.mark.length:  # never synced: the names may not be on the disk either
            self._disk.sync_dir(directory_of(self._chunk))
            self._disk.sync_dir(CHUNKS)
        self._write_mark(blocks, length)

    def _write_mark(self, blocks: int, length: int) -> None:
        mark = Mark(self.mark.generation + 1, blocks, length)
        self._index.pwrite([formats.pack_mark(mark)], mark.offset)
        _sync(self._index)
        self.mark, self.journaled = mark, 0

    def cut(self, index: BlockIndex, length: int) -> list[Record]:
        """Shorten the chunk to `length`, for certain when this returns.

        Returns the record of a last block that was shortened, if one was. Raises Corrupt if that one was not intact.
        """
        count = index.blocks_in(length)
        partial = [] if index.is_border(length) else [self._shortened(index.record(count), length)]
        base = partial[0].start if partial else length
        if self.mark.length > base:
            self._write_mark(count, base)
        if partial:  # written over the old record: a crash leaves the one or the other, and the bytes for both
            self._write_records(count, partial)
            _sync(self._index)
        self._index.truncate(formats.RECORDS_OFFSET + (count + len(partial)) * formats.RECORD_BYTES)
        self.data.truncate(length)
        self.sync(count + len(partial), length)
        return partial

    def _shortened(self, record: Record, length: int) -> Record:
        kept = length - record.start
        if record.punched:
            return record._replace(length=kept, crc=0)
        content = self._read_back(record, f"block at {record.start}")
        return record._replace(length=kept, crc=crc32c(memoryview(content)[:kept]))

    def _read_back(self, record: Record, what: str) -> bytes:
        """A block, verified. Raises Corrupt, from the disk's error if it could not be read."""
        try:
            content = read_up_to(self.data, record.length, record.start)
        except OSError as error:
            if not is_damage(error):
                raise
            raise errors.Corrupt(f"{what} cannot be read: {error.strerror}") from error
        verify(content, [Block(record.length, record.crc)], what)
        return content

    def punch(self, index: BlockIndex, numbers: Sequence[int]) -> None:
        """Give back the bytes of these blocks, durably: a scrub takes a punched block whose bytes are there for damage.

        A file system that cannot do so keeps zeros in their place.
        """
        if self.mark.blocks <= max(numbers):
            self.sync(len(index), index.length)
        records = [index.record(number)._replace(punched=True) for number in numbers]
        for number, record in zip(numbers, records, strict=True):
            self._write_records(number, [record])
        _sync(self._index)
        for run in runs(records):
            self._punch(run[0].start, total_length(run))
        _sync(self.data)

    def unpunch(self, index: BlockIndex, number: int) -> None:
        """Call a block whose bytes are there no longer punched, durably."""
        self._write_records(number, [index.record(number)._replace(punched=False)])
        _sync(self._index)

    def mend(self, record: Record, content: Buffer) -> None:
        """Write a damaged block anew, durably, and have the disk give it back.

        Raises Corrupt if `content` is not what the block holds, or if the disk does not give it back.
        """
        verify(content, [Block(record.length, record.crc)], f"what block at {record.start} is to hold")
        self.data.pwrite([content], record.start)
        _sync(self.data)
        self.data.drop_cached(record.start, record.length)
        self._read_back(record, f"block at {record.start}, which was just written anew,")

    def inspect(self, cluster: ClusterId | None, index: BlockIndex) -> None:
        """Compare the files, found by their names, with what is known of them; not the bytes of the blocks.

        Whoever calls keeps others from changing the chunk. Raises Corrupt, with what is wrong; OSErrors as they are.
        """
        file = _open_existing(self._disk, index_path(self._chunk), "its index is missing")
        try:
            size = formats.RECORDS_OFFSET + len(index) * formats.RECORD_BYTES
            file.drop_cached(0, size)
            head = read_up_to(file, formats.RECORDS_OFFSET, 0)
            formats.check_header(head, cluster, self._chunk)
            if not formats.marks_are_whole(head, self.mark):
                raise errors.Corrupt("a sync mark of its index is damaged")
            if read_up_to(file, size, formats.RECORDS_OFFSET) != index.pack(0, len(index)):
                raise errors.Corrupt("the records in its index are not what was written")
        finally:
            file.close()
        data = _open_existing(self._disk, data_path(self._chunk), "its data are missing")
        try:
            if data.size() != index.length:
                raise errors.Corrupt(f"its data are {data.size()} bytes, and were {index.length}")
            if data.inode() != self.data.inode():
                raise errors.Corrupt("another file has the place of its data")
        finally:
            data.close()

    def _punch(self, offset: int, length: int) -> None:
        try:
            self.data.punch(offset, length)
        except OSError as error:
            if error.errno not in (*_NO_PUNCHING, *FULL):
                raise
            self.data.pwrite([bytes(length)], offset)


def _sync(file: File) -> None:
    try:
        file.sync()
    except OSError as error:
        file.drop_cached(0, file.size())  # or whoever starts next finds in memory what the disk has not
        raise NotSynced(error.errno, error.strerror) from error


def _open_existing(disk: Disk, path: str, otherwise: str) -> File:
    try:
        return disk.open(path, create=False)
    except FileNotFoundError:
        raise errors.Corrupt(otherwise) from None


def read_index(file: File) -> BlockIndex:
    """All records in an index file, up to the first that cannot be one."""
    size = max(0, file.size() - formats.RECORDS_OFFSET)
    return BlockIndex.unpack(read_up_to(file, size, formats.RECORDS_OFFSET))


def remove(disk: Disk, chunk: ChunkId) -> None:
    """Remove what there is of a chunk's files."""
    _remove(disk, data_path(chunk), index_path(chunk))  # in this order: an index alone is small, and says what it was
    _remove_damage(disk, chunk)


def _remove_damage(disk: Disk, chunk: ChunkId) -> None:
    _remove(disk, damage_path(chunk), damage_path(chunk) + ".new")


def _remove(disk: Disk, *paths: str) -> None:
    for path in paths:
        if disk.exists(path):
            disk.remove(path)


def quarantine(disk: Disk, chunk: ChunkId, reason: str, now_ns: int) -> None:
    """Move what there is of a chunk's files to quarantine/CHUNK.N, with the reason in CHUNK.N.txt."""
    taken = set(disk.list_dir(QUARANTINE))
    number = 0
    while any(f"{chunk_name(chunk)}.{number}{suffix}" in taken for suffix in ("", ".idx", ".txt")):
        number += 1
    target = f"{QUARANTINE}/{chunk_name(chunk)}.{number}"
    when = datetime.fromtimestamp(now_ns // 1_000_000_000, UTC).isoformat()
    for path, suffix in ((data_path(chunk), ""), (index_path(chunk), ".idx")):
        if disk.exists(path):
            disk.rename(path, target + suffix)
    _remove_damage(disk, chunk)
    try:
        disk.replace_file(target + ".txt", f"{when} {reason}\n".encode())
    except OSError as error:
        if error.errno not in (*FULL, *SHORT):  # no reason to keep a bad chunk: what is wrong is reported as well
            raise
