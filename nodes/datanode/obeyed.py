"""What a DataNode remembers of the orders that it obeyed: DIR/obeyed.json, two records that say the same.

Before anything is destroyed it is written down, and on a full disk nothing could be destroyed if that needed room. So
the file is made at the start, while there is room, and from then on written over in its place. Each record fills
RECORD_BYTES with an object of nodes.datanode.statefile and spaces; spaces only are one that was not written yet:

    {"crc32c": ..., "format": 2, "log_index": ..., "held_because": ..., "mass_because": ..., "generation": ...}

One record is on the disk before the other is written, and the one that counts is written last. So a crash tears one at
most. If it is the first, the other still says what was before, and nothing was obeyed under what was to be written; a
bit that flips costs nothing either. Of two the higher generation counts.

Format 1 was one record, of any length: it is read, and the file made anew.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple

import structlog

from dfs import errors
from nodes.datanode import statefile
from nodes.datanode.disk import Disk
from nodes.datanode.store import ChunkStore

log = structlog.get_logger(__name__)

PATH: Final = "obeyed.json"
RECORD_BYTES: Final = 4096  # a block of a file system: neither record is touched when the other is written
_FORMAT: Final = 2
_FORMAT_OF_ONE_RECORD: Final = 1
_REASON_MAX_CHARS: Final = 250  # 12 bytes each at most, as JSON has them
_NOTHING: Final = b" " * RECORD_BYTES
_COPIES: Final = 2
"""Directories that have the newest memory, where as many take it: one may fail."""


class Memory(NamedTuple):
    """What survives a restart: the highest index obeyed, and why orders are held ("": they are not).

    `generation` counts the writes: of several directories' memories the highest counts.
    """

    log_index: int = 0
    held_because: str = ""
    """All destructive orders."""
    mass_because: str = ""
    """Orders to delete."""
    generation: int = 0


def load(disks: Sequence[Disk]) -> Memory:
    """What the directories remember; each has room for more after this, unless it is full. Blocks.

    Where nothing readable is left of it, everything is held.
    """
    found: list[Memory] = []
    damaged = ""
    for disk in disks:
        try:
            memory = read(disk)
        except OSError as error:  # of the disk's, Corrupt, or FormatUnknown
            damaged = str(error)
            continue
        if memory is not None:
            found.append(memory)
        _make_room(disk, memory)
    if not found and damaged:
        return Memory(held_because=f"how far the NameNode had come when it last was obeyed is not known: {damaged}")
    return max(found, key=lambda memory: memory.generation, default=Memory())


def read(disk: Disk) -> Memory | None:
    """What one directory remembers, None if nothing yet. Raises Corrupt, FormatUnknown, OSError."""
    found: list[Memory] = []
    fault: errors.DfsError | None = None
    for record in _records(disk):
        try:
            memory = _parse(disk, record)
        except errors.DfsError as error:
            fault = error
            continue
        if memory is not None:
            found.append(memory)
    if fault is not None and not found:
        raise fault
    return max(found, key=lambda memory: memory.generation, default=None)


def is_damaged(disk: Disk) -> bool:
    """Whether a record is not whole, also where the other one is. Raises OSError."""
    for record in _records(disk):
        with suppress(errors.FormatUnknown):
            try:
                _parse(disk, record)
            except errors.Corrupt:
                return True
    return False


async def save(stores: Sequence[ChunkStore], memory: Memory) -> None:
    """Write it down, durably, in the first directories that take it. Raises OSError if none of them does."""
    failure = OSError(errno.EIO, "no data directory is in service")
    written = 0
    for store in [store for store in stores if store.drive.failed is None]:
        try:
            await store.drive.run_blocking(_write, store.disk, memory)
        except OSError as error:
            log.warning("what was obeyed could not be written down", directory=store.disk.name, error=str(error))
            failure = error
        else:
            written += 1
            if written == _COPIES:
                return
    if not written:
        raise failure


def _records(disk: Disk) -> list[bytes]:
    try:
        raw = disk.read_file(PATH)
    except FileNotFoundError:
        return []
    return [raw[:RECORD_BYTES], raw[RECORD_BYTES:]]


def _have_room(records: Sequence[bytes]) -> bool:
    return [len(record) for record in records] == [RECORD_BYTES, RECORD_BYTES]


def _parse(disk: Disk, record: bytes) -> Memory | None:
    """What a record says, None if nothing was written there yet. Raises Corrupt, FormatUnknown."""
    if not record.strip():
        return None
    content = statefile.parse(record, f"{disk.name}/{PATH}")
    statefile.check_format(content, f"{disk.name}/{PATH}", _FORMAT_OF_ONE_RECORD, _FORMAT)
    del content["format"]
    return Memory(**content)


def _packed(memory: Memory) -> bytes:
    memory = memory._replace(held_because=memory.held_because[:_REASON_MAX_CHARS])
    record = statefile.pack(_FORMAT, memory._asdict()).ljust(RECORD_BYTES)
    assert len(record) == RECORD_BYTES
    return record


def _make_room(disk: Disk, memory: Memory | None) -> None:
    if _have_room(_records(disk)):
        return
    try:
        disk.replace_file(PATH, 2 * (_packed(memory) if memory is not None else _NOTHING))
    except OSError as error:
        log.warning("no room to write down what is obeyed", directory=disk.name, error=str(error))


def _write(disk: Disk, memory: Memory) -> None:
    records = _records(disk)
    packed = _packed(memory)
    if not _have_room(records):
        disk.replace_file(PATH, 2 * packed)
        return
    counts = max((0, 1), key=lambda number: _generation(disk, records[number]))
    file = disk.open(PATH, create=False)
    try:
        for number in (1 - counts, counts):
            file.pwrite([packed], number * RECORD_BYTES)
            file.sync()
    finally:
        file.close()


def _generation(disk: Disk, record: bytes) -> int:
    """Of a record that is whole; -1 of any other."""
    try:
        memory = _parse(disk, record)
    except errors.DfsError:
        return -1
    return -1 if memory is None else memory.generation
