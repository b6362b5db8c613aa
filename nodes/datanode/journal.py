"""The journal of a data directory: a small sync is one write to the disk.

To sync a chunk's own two files has the file system write both, one after the other, and each time their new sizes and
places in a journal of its own. So what a small sync is to make durable is written once more, one behind the other, into
a file whose size and places stay as they are: that is one flush, for all syncs that wait at that moment together. The
chunk's own files follow when its bytes are FLUSH_AFTER_S old, and after a crash they are completed from the journal.

The file DIR/journal has two halves, which are written in turn. In each stand entries, the first one at its beginning,
each at a multiple of 4096, so that no page that was synced is written again. Numbers are little-endian:

    0     magic "dfsjrnl1", epoch u64, chunk u64, and of the bytes: the generation u32 of the sync mark that they
          follow, the number u32 of their first block, how many blocks u32, their start u32 in the chunk and their
          length u32; crc32c u32 of the entry before (0 for the first), all this and what follows
    48    a record a block, as in the chunk's index; the bytes

An **epoch** is one filling of one half; it counts up, and even ones are in the first half. It ends before the first
entry that is not whole: the checksums form a chain, so nothing from before follows what was written anew. Each start
begins with an entry of chunk 0 in both halves, which holds a random number and so voids all that was there.

Invariants:

- An entry begins where its chunk's mark `generation` ends, or the entry before it of the same chunk and generation.
  Both are put there by who holds the chunk's `syncing`, and who waits for his entry cannot give up.
- So a newer mark voids all entries of older ones: what they hold is on the disk by then, or was cut on purpose. That is
  so of marks that are on the disk: a start after a crash has all of the directory synced before it voids entries.
- A half is not filled anew before all of its entries are void. Where that is not so, and where an entry is too large,
  the chunk's own files are synced, which voids its entries.
- Files of a chunk that are made anew begin with a generation beyond those that may be in the journal.
- A chunk has entries only if its files were synced before: they are not to be missed because their names were lost.

The file is made in the background, soon after a start that finds none, where there is space enough. After an error that
kept an entry from being written no more are, as what would follow could not be found. An entry that is damaged ends an
epoch: what a chunk lacks then, the NameNode finds missing.
"""

from __future__ import annotations

import random
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from operator import itemgetter
from typing import Final, NamedTuple, Protocol, TypeVar, TypeVarTuple

import structlog
import trio
from crc32c import crc32c

from dfs import limits
from dfs.checksum import Buffer
from dfs.tasks import holding
from dfs.types import ChunkId
from nodes.datanode import chunkfiles
from nodes.datanode.disk import Disk, File
from nodes.datanode.index import RECORD_BYTES, Record, pack_records, unpack_records

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

log = structlog.get_logger(__name__)

JOURNAL: Final = "journal"
_NEW: Final = JOURNAL + ".new"
"""What there may be of one that was being made."""
ALIGNMENT: Final = 4096

_MAGIC: Final = b"dfsjrnl1"
_HEADER: Final = struct.Struct("<8sQQIIIII")
_CRC: Final = struct.Struct("<I")
_HEAD_BYTES: Final = _HEADER.size + _CRC.size
_NO_CHUNK: Final = ChunkId(0)
_NONCE_BYTES: Final = 16


class OnDisk(Protocol):
    """Does blocking work, and raises as our own errors what goes wrong: `Drive.on_disk`."""

    def __call__(self, work: Callable[[*Ts], T], *args: *Ts, full_is_fatal: bool = False) -> Awaitable[T]: ...


class Entry(NamedTuple):
    """Blocks of a chunk with their bytes, none of them punched; `first` is the number of the first of `records`."""

    chunk: ChunkId
    generation: int
    first: int
    records: Sequence[Record]
    data: Buffer

    @property
    def start(self) -> int:
        return self.records[0].start

    @property
    def end(self) -> int:
        return self.start + len(self.data)


class _Waiting:
    """An entry that somebody wants written."""

    __slots__ = ("entry", "is_written")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.is_written = False


class Journal:
    """The journal in use: what it had from before is void. `begin` makes one; `put` may be called by many at a time."""

    def __init__(self, name: str, file: File, epoch: int) -> None:
        self._name = name
        self._file = file
        self._half_bytes = _half_bytes(file)
        self._epoch = epoch
        self._position = 0
        self._crc = 0
        """Of the entry before the next one."""
        self._needed: tuple[dict[ChunkId, int], dict[ChunkId, int]] = ({}, {})
        """Of each half: chunks with entries that are not void, and the newest generation of these."""
        self._generations: deque[dict[ChunkId, int]] = deque([{}], maxlen=4)
        """The newest generation of each chunk in the last epochs: of two more than there are halves, as one write may
        begin two, and they may not be on the disk yet."""
        self._queue: dict[_Waiting, None] = {}
        self._writing = trio.Lock()
        self._is_whole = True

    @classmethod
    def begin(cls, disk: Disk, file: File, epoch: int, source: random.Random) -> Journal:
        """Void all entries of epochs before `epoch`, durably, of an open `file`. Blocks. Raises OSError.

        `file` is the journal's from now on, or closed after an error.
        """
        try:
            journal = cls(disk.name, file, epoch)
            for each in (epoch, epoch + 1):
                journal._start(each)
                nothing = journal._packed(_NO_CHUNK, 0, 0, 0, b"", source.randbytes(_NONCE_BYTES))
                file.pwrite([nothing], journal._offset())
                journal._position += ALIGNMENT
            file.sync()
        except OSError:
            file.close()
            raise
        return journal

    @classmethod
    def create(cls, disk: Disk, source: random.Random) -> Journal:
        """The journal of a directory that has none. Blocks. Raises OSError; there is none then.

        All of its file is written, as only then its places stay as they are.
        """
        try:
            disk.replace_file(JOURNAL, bytes(limits.JOURNAL_BYTES))
        except OSError:
            with suppress(OSError):
                disk.remove(_NEW)
            raise
        return cls.begin(disk, disk.open(JOURNAL, create=False), 1, source)

    def close(self) -> None:
        self._file.close()

    # --- in use

    async def put(self, entry: Entry, on_disk: OnDisk) -> bool:
        """Whether the entry is on the disk when this returns. False: the journal has no room for it, or no use.

        The caller holds the chunk's `syncing`, and is not cancelled meanwhile: what he did not know to be there, he
        would not go on from. Raises what `on_disk` does.
        """
        waiting = _Waiting(entry)
        self._queue[waiting] = None
        with trio.CancelScope(shield=True):
            async with holding(self._writing):
                if waiting in self._queue:
                    await self._write_all(on_disk)
        return waiting.is_written

    async def _write_all(self, on_disk: OnDisk) -> None:
        """Write what is in the queue, which was empty when the write before began."""
        taken, self._queue = list(self._queue), {}
        if not self._is_whole:
            return
        self._is_whole = False  # until this is written: what follows a gap is not found
        try:
            writes: list[tuple[int, Buffer]] = []
            placed = [waiting for waiting in taken if self._place(waiting.entry, writes)]
            if placed and not await on_disk(self._write, writes, full_is_fatal=True):
                return
            self._is_whole = True
            for waiting in placed:
                waiting.is_written = True
        finally:
            if not self._is_whole:
                log.warning("the journal is not used any more until a restart", directory=self._name)

    def _place(self, entry: Entry, writes: list[tuple[int, Buffer]]) -> bool:
        """Give the entry its place and add what is to be written there; False if there is none."""
        records = pack_records(entry.records)
        length = _aligned(_HEAD_BYTES + len(records) + len(entry.data))
        if length > self._half_bytes or not self._make_room(length):
            return False
        packed = self._packed(entry.chunk, entry.generation, entry.first, entry.start, records, entry.data)
        writes.append((self._offset(), packed))
        self._position += length
        for newest in (self._generations[-1], self._needed[self._epoch % 2]):
            newest[entry.chunk] = max(newest.get(entry.chunk, 0), entry.generation)
        return True

    def _make_room(self, length: int) -> bool:
        if self._position + length > self._half_bytes:
            if self._needed[(self._epoch + 1) % 2]:
                return False
            self._start(self._epoch + 1)
        return True

    def _start(self, epoch: int) -> None:
        self._epoch, self._position, self._crc = epoch, 0, 0
        self._generations.append({})

    def _offset(self) -> int:
        return self._epoch % 2 * self._half_bytes + self._position

    def _packed(self, chunk: ChunkId, generation: int, first: int, start: int, records: Buffer, data: Buffer) -> bytes:
        """The entry that comes next."""
        blocks = len(records) // RECORD_BYTES
        head = _HEADER.pack(_MAGIC, self._epoch, chunk, generation, first, blocks, start, len(data))
        self._crc = crc32c(data, crc32c(records, crc32c(head, self._crc)))
        return b"".join((head, _CRC.pack(self._crc), records, data))

    def _write(self, writes: Sequence[tuple[int, Buffer]]) -> bool:
        """False where the file system has no room, as one that takes some to write anything again."""
        try:
            for offset, packed in writes:
                self._file.pwrite([packed], offset)
        except OSError as error:
            if error.errno not in chunkfiles.FULL:
                raise
            return False
        self._file.sync()
        return True

    def blocking(self) -> set[ChunkId]:
        """Chunks that are to be synced soon, or there is no room when this half, more than half full, is full."""
        return set(self._needed[(self._epoch + 1) % 2]) if self._position > self._half_bytes // 2 else set()

    def void(self, chunk: ChunkId, generation: int) -> None:
        """Entries of the chunk of generations before this one have served: it has a newer mark, or is gone."""
        for needed in self._needed:
            if needed.get(chunk, generation) < generation:
                del needed[chunk]

    def next_generation(self, chunk: ChunkId) -> int:
        """What files of the chunk that are made now begin with."""
        known = [newest.get(chunk, 0) for newest in self._generations]
        waiting = [each.entry.generation for each in self._queue if each.entry.chunk == chunk]
        return 1 + max(known + waiting)


# --- at the start ---------------------------------------------------------------------------------------


def open_existing(disk: Disk) -> File | None:
    """The file of the journal that there is; None if there is none. Blocks. Raises OSError."""
    if disk.exists(_NEW):
        disk.remove(_NEW)
    return disk.open(JOURNAL, create=False) if disk.exists(JOURNAL) else None


def remove(disk: Disk) -> None:
    """Have no journal. Blocks. Raises OSError."""
    disk.remove(JOURNAL)
    disk.sync_dir("")


class Found(NamedTuple):
    """The entries of a journal, each chunk's in their order, and an epoch beyond all that there were."""

    entries: dict[ChunkId, list[Entry]]
    next_epoch: int


def read(file: File) -> Found:
    """What there is in a journal. Blocks. Raises OSError, not where only a part of it cannot be read."""
    half_bytes = _half_bytes(file)
    halves = sorted((_half(file, offset, half_bytes) for offset in (0, half_bytes)), key=itemgetter(0))
    entries: dict[ChunkId, list[Entry]] = {}
    for _, found in halves:
        for entry in found:
            if entry.chunk != _NO_CHUNK:
                entries.setdefault(entry.chunk, []).append(entry)
    return Found(entries, halves[-1][0] + 1)


def _half_bytes(file: File) -> int:
    """Whatever version of dfs made it."""
    return file.size() // (2 * ALIGNMENT) * ALIGNMENT


def _aligned(length: int) -> int:
    return -(-length // ALIGNMENT) * ALIGNMENT


def _half(file: File, offset: int, length: int) -> tuple[int, list[Entry]]:
    """The epoch of a half, 0 if it has none, and its entries."""
    found = list(_entries(memoryview(_readable(file, offset, length))))
    return (found[0][0] if found else 0), [entry for _, entry in found]


def _readable(file: File, offset: int, length: int) -> bytearray:
    """What can be read of it, up to a place where the disk is damaged."""
    content = bytearray(length)
    view = memoryview(content)
    for start in range(0, length, ALIGNMENT):
        try:
            file.pread_into(view[start : start + ALIGNMENT], offset + start)
        except OSError as error:
            if not chunkfiles.is_damage(error):
                raise
            break
    return content


def _entries(content: memoryview) -> Iterator[tuple[int, Entry]]:
    """(epoch, entry) of those at the beginning of a half that are whole and follow one another."""
    position = before = 0
    while position + _HEAD_BYTES <= len(content):
        head = content[position : position + _HEADER.size]
        magic, epoch, chunk, generation, first, blocks, start, length = _HEADER.unpack(head)
        begin = position + _HEAD_BYTES + blocks * RECORD_BYTES
        body = content[position + _HEAD_BYTES : begin + length]
        crc = crc32c(body, crc32c(head, before))
        whole = magic == _MAGIC and begin + length <= len(content)
        if not whole or _CRC.unpack_from(content, position + _HEADER.size)[0] != crc:
            return
        records = unpack_records(body[: blocks * RECORD_BYTES], start)
        yield epoch, Entry(ChunkId(chunk), generation, first, records, content[begin : begin + length])
        before = crc
        position += _aligned(_HEAD_BYTES + len(body))
