"""The chunks of one data directory: appended to, read and synced by many tasks at a time.

    DIR/chunks/XX/CHUNK        the bytes (CHUNK: 16 hexadecimal digits, XX: the last two)
    DIR/chunks/XX/CHUNK.idx    their checksums and what of them is synced, see nodes.datanode.index
    DIR/chunks/XX/CHUNK.bad    which blocks are damaged, where any are, see nodes.datanode.damage
    DIR/journal                small syncs, see nodes.datanode.journal
    DIR/quarantine/CHUNK.N     a chunk that is of no use, with its .idx, and a .txt that says why and when
    DIR/clean                  everything was synced at the last stop; removed at the next start. How many chunks there
                               were, see nodes.datanode.statefile: a file that is damaged or wrong counts as none

Every chunk has two locks, always taken in this order. `syncing` is held by what writes sync marks (sync, cut, punch) or
into the journal, `lock` by what changes the bytes and the index in memory. So appends go on while the disk syncs, and
syncs that wait for one another find their bytes synced already. Readers take neither: committed bytes do not change. A
block that fails its check is read once more under `lock`, since a cut or a punch may have come between; if it fails
again, it is damaged: it is read for nobody until it is mended, and the chunk takes no more bytes of a client. The other
blocks are served as ever. Where the files themselves are not what they should be (the index, their lengths, their
places), the chunk goes to quarantine.

Files stay open, the least recently used are closed first; one that somebody uses is never closed under them, and none
before its bytes are synced: the kernel tells of bytes that it could not write by a file that was open then.

What the disk can do to all this, by errors, by hanging, by being full: see nodes.datanode.drive.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, NamedTuple, NoReturn

import trio
from sortedcontainers import SortedDict

from dfs import errors, limits
from dfs.checksum import Block, Buffer
from dfs.runtime import Runtime
from dfs.tasks import holding, open_nursery
from dfs.types import ChunkId, ClusterId
from nodes.datanode import chunkfiles, damage, journal, reading, recovery, statefile
from nodes.datanode.chunkfiles import ChunkFiles, Content
from nodes.datanode.damage import Damages
from nodes.datanode.disk import Disk, File
from nodes.datanode.drive import Drive
from nodes.datanode.index import BlockIndex, Record, records_of
from nodes.datanode.journal import Entry, Journal

CLEAN: Final = "clean"
_CLEAN_FORMAT: Final = 1
_NOWHERE: Final = "no copy that was asked has a block whole"
"""What is wrong with one that was taken over as damaged."""


class Holding(NamedTuple):
    """What there is of a chunk: so many blocks, which are `length` bytes, and those of them that are damaged.

    These are (number of the block, its record).
    """

    blocks: int
    length: int
    damaged: list[tuple[int, Record]]


async def _at_once(_bytes: int) -> None:
    """The pace of who need not wait."""


class _Replica:
    """A chunk in use. `lock` guards `files`, `index` and `gone`, `syncing` guards `files.mark`; see the module."""

    __slots__ = ("chunk", "files", "gone", "index", "lock", "syncing", "users")

    def __init__(self, chunk: ChunkId) -> None:
        self.chunk = chunk
        self.lock = trio.Lock()
        self.syncing = trio.Lock()
        self.files: ChunkFiles | None = None  # not opened yet, or not created
        self.index = BlockIndex()
        self.users = 0
        self.gone = False  # deleted or in quarantine: whoever waited for a lock finds that out here


class ChunkStore:
    """One data directory. Lengths and offsets are bytes.

    `drive` is what carries it. `chunks` is each chunk's length, in order of their ids.
    `cluster` is the one to which new chunks belong; None until it is known, and until then nothing can be appended.
    """

    def __init__(self, disk: Disk, cluster: ClusterId | None, runtime: Runtime, reserve_bytes: int) -> None:
        self.drive = Drive(disk, runtime, reserve_bytes)
        self.disk = disk
        self.cluster = cluster
        self.chunks: SortedDict[ChunkId, int] = SortedDict()
        self.used_bytes = 0  # of all chunks, without what was punched
        self.makes_journal = False
        """Where there is none yet: for who knows that older versions of dfs, which know none, refuse the directory."""
        self._runtime = runtime
        self._open: OrderedDict[ChunkId, _Replica] = OrderedDict()  # least recently used first
        self._unsynced: dict[ChunkId, float] = {}  # since when (trio's clock) a chunk's files have bytes not synced
        self._journal: Journal | None = None
        self._make_journal_from = float("-inf")  # trio's clock
        self._punched: dict[ChunkId, int] = {}  # bytes of chunks that take no space, of those that have any
        self._changed: dict[ChunkId, float] = {}  # when chunks last changed, oldest first, for SETTLED_AFTER_S
        self._corrupt: list[tuple[ChunkId, str]] = []
        self._damages = Damages()
        self._newly_damaged: set[ChunkId] = set()

    # --- starting and stopping

    def open(self) -> None:
        """Find the chunks, and mend what a crash left. Blocks, for minutes on a large directory after a crash.

        Raises DiskFailed if the directory cannot be used; it is then also `failed`. Raises Busy if the machine is short
        of something that this takes.
        """
        try:
            self._open_directory()
        except OSError as error:
            raise self.drive.explained(error, full_is_fatal=True) from error

    def _open_directory(self) -> None:
        self.disk.make_dirs(chunkfiles.CHUNKS)
        self.disk.make_dirs(chunkfiles.QUARANTINE)
        found = self._look_for_chunks()
        for chunk, reason in found.damaged:
            chunkfiles.quarantine(self.disk, chunk, reason, self._runtime.now_ns())
            self._corrupt.append((chunk, reason))
        self.chunks.update(found.lengths)
        self._punched = found.punched
        self.used_bytes = sum(found.lengths.values()) - sum(found.punched.values())
        self._unsynced = dict.fromkeys(found.unsynced, float("-inf"))
        self._damages = found.damages

    def _look_for_chunks(self) -> recovery.Found:
        """What there is, completed from the journal, which serves anew from then on."""
        file = journal.open_existing(self.disk)
        try:
            journaled = journal.read(file) if file is not None else journal.Found({}, 1)
            found = self._scan(journaled.entries)
        except OSError:
            if file is not None:
                file.close()
            raise
        if file is not None:
            self._begin_journal(file, journaled.next_epoch)
        return found

    def _begin_journal(self, file: File, epoch: int) -> None:
        try:
            self._journal = Journal.begin(self.disk, file, epoch, self._runtime.random)
        except OSError as error:
            if error.errno not in chunkfiles.FULL and not chunkfiles.is_damage(error):
                raise
            journal.remove(self.disk)  # a bad place, or a file system that takes space to write anything again

    def _scan(self, journaled: recovery.Journaled) -> recovery.Found:
        expected = self._take_clean()
        if expected is not None:
            found = recovery.scan(self.disk, self.cluster, True, journaled)
            if expected == len(found.lengths):
                return found
        recovery.settle(self.disk)
        return recovery.scan(self.disk, self.cluster, False, journaled)

    def _take_clean(self) -> int | None:
        """How many chunks there were at a clean stop; None if the last one was none. The word of it is gone then."""
        try:
            found = statefile.read(self.disk, CLEAN, _CLEAN_FORMAT)
        except (errors.Corrupt, errors.FormatUnknown):
            found = None
        if self.disk.exists(CLEAN):
            self.disk.remove(CLEAN)
        self.disk.sync_dir("")  # before anything is written: or a crash might find `clean` again
        return int(found["chunks"]) if found else None

    async def close(self, clean: bool = True) -> None:
        """Close all files. `clean`: sync everything before, and leave word of it, so that the next start is quick."""
        try:
            if clean and self.drive.failed is None:
                await self._sync_files(list(self._unsynced))
                await self.drive.on_disk(statefile.write, self.disk, CLEAN, _CLEAN_FORMAT, {"chunks": len(self.chunks)})
        finally:
            for replica in list(self._open.values()):
                self._drop(replica)
            if self._journal is not None and not self.drive.hangs:
                self._journal.close()
                self._journal = None

    # --- appending

    async def append(self, chunk: ChunkId, offset: int, blocks: Sequence[Block], data: Content) -> int:
        """Append `data`, cut and summed as `blocks`, where the chunk ends; offset 0 creates it. Returns its length.

        What is there already is not appended again. Raises Corrupt (data and sums differ), ChunkNotFound,
        ChunkConflict, ChunkFull, NoSpace, DiskFailed; the chunk is then as before. Corrupt also if it has damaged
        blocks: it takes no more. Not durable before `sync`.
        """
        return await self.append_records(chunk, offset, records_of(blocks, offset), data)

    async def append_records(
        self, chunk: ChunkId, offset: int, records: Sequence[Record], data: Content | None, *, to_damaged: bool = False
    ) -> int:
        """As `append`, of blocks some of which may be punched: `data` has only the bytes of the others.

        None: no copy has any of these blocks whole, and they are damaged here as well. `to_damaged`: damaged ones may
        come before them.
        """
        if not records or records[0].start != offset:
            raise errors.InvalidArgument(f"an append to chunk {chunk:x} at {offset} has no blocks for there")
        self.drive.check_usable()
        async with self._using(chunk, create=offset == 0) as replica, replica.lock:
            if replica.gone:
                raise self._not_found(chunk)
            if offset < replica.index.length and replica.index.matches(offset, records):
                return replica.index.length
            if not to_damaged and chunk in self._damages:
                raise self._damaged_error(chunk)
            self._check_append(replica, offset, records)
            await self._write(replica, records, data)
            return replica.index.length

    def _check_append(self, replica: _Replica, offset: int, records: Sequence[Record]) -> None:
        name, index = f"{replica.chunk:x}", replica.index
        if offset != index.length:
            raise errors.ChunkConflict(f"chunk {name} has {index.length} bytes: these do not continue it at {offset}")
        length = chunkfiles.total_length(records)
        if offset + length > limits.CHUNK_MAX_BYTES or len(index) + len(records) > limits.CHUNK_MAX_BLOCKS:
            raise errors.ChunkFull(
                f"chunk {name} has {offset} bytes in {len(index)} blocks: {length} more in {len(records)} are too many"
            )
        self.drive.check_room(length)

    async def _write(self, replica: _Replica, records: Sequence[Record], data: Content | None) -> None:
        """Append for good; the lock is held, the place is right."""
        length = chunkfiles.total_length(records)
        written = length if data is None else len(data)
        damaged = {} if data is not None else dict.fromkeys((record.start for record in records), _NOWHERE)
        if damaged:  # written down before they are there: what is no block does not count
            await self.drive.on_disk(self.disk.make_dirs, chunkfiles.directory_of(replica.chunk))
            known = {**self._damages.of(replica.chunk), **damaged}
            await self.drive.on_disk(damage.save, self.disk, replica.chunk, known)
        if written <= limits.INLINE_IO_MAX_BYTES and replica.files is not None and self.drive.answers_soon():
            self.drive.run_inline(self._write_blocking, replica, records, data)
        else:
            generation = 1
            if replica.files is None and self._journal is not None:
                generation = self._journal.next_generation(replica.chunk)
            await self.drive.on_disk(self._write_blocking, replica, records, data, generation)
        replica.index.append(records)
        if damaged:
            self._damages.note(replica.chunk, damaged)
        self.drive.note_written(written)
        self._note_punched(replica.chunk, length - written)
        self._set_length(replica)
        self._unsynced.setdefault(replica.chunk, trio.current_time())

    def _write_blocking(
        self, replica: _Replica, records: Sequence[Record], data: Content | None, generation: int = 1
    ) -> None:
        """`generation` is for files that are made for it."""
        if replica.files is not None:
            replica.files.append(replica.index, records, data)
            return
        if self.cluster is None:
            raise errors.Busy(f"{self.disk.name} belongs to no cluster yet: repeat when the NameNode was reached")
        files = ChunkFiles.create(self.disk, self.cluster, replica.chunk, generation)
        try:
            files.append(replica.index, records, data)
        except OSError:
            files.close()
            chunkfiles.remove(self.disk, replica.chunk)
            raise
        replica.files = files

    # --- reading

    async def read(self, chunk: ChunkId, offset: int, length: int) -> tuple[list[Block], list[Buffer]]:
        """The `length` (1 or more) bytes from `offset`, verified, with checksums of the pieces that make them up.

        Raises ChunkNotFound (also for bytes that were punched), InvalidArgument for bytes beyond the end, Corrupt if
        any of their blocks is damaged, or all of the replica, which is then in quarantine.
        """
        async with self._using(chunk) as replica:
            return await self._read(replica, offset, length)

    async def read_ranges(self, chunk: ChunkId, ranges: Sequence[tuple[int, int]]) -> tuple[list[Block], list[Buffer]]:
        """As `read`, of several ranges (offset, length): what there is of one after the other."""
        async with self._using(chunk) as replica:
            runs = [reading.Run(self._records_for(replica, *each), each) for each in ranges]
            assert replica.files is not None, "it is not gone"
            data = replica.files.data
            for run in runs:
                run.read_nowait(data)
            for batch in reading.batches([run for run in runs if not run.is_whole]):
                await self.drive.run_blocking(reading.read_all, data, batch)
                for run in batch:
                    if run.is_whole and not self._damages.among(chunk, run.records):
                        run.take()
                    else:
                        run.drop()
                        run.found = await self._read(replica, *run.wanted)
        found = [run.found for run in runs]
        return [each for blocks, _ in found for each in blocks], [each for _, buffers in found for each in buffers]

    async def _read(self, replica: _Replica, offset: int, length: int) -> tuple[list[Block], list[Buffer]]:
        view = None
        while view is None:
            records = self._records_for(replica, offset, length)
            view = await self._verified(replica, records)
        return reading.pieces(records, view, offset, length)

    def _records_for(self, replica: _Replica, offset: int, length: int) -> list[Record]:
        index, name = replica.index, f"{replica.chunk:x}"
        if replica.gone:
            raise self._not_found(replica.chunk)
        if offset < 0 or length < 1 or offset + length > index.length:
            raise errors.InvalidArgument(
                f"chunk {name} has {index.length} bytes: {length} from {offset} cannot be read"
            )
        numbers = index.covering(offset, length)
        records = list(index.records(numbers.start, numbers.stop))
        if any(record.punched for record in records):
            raise errors.ChunkNotFound(f"chunk {name}: some of the {length} bytes from {offset} were freed")
        if self._damages.among(replica.chunk, records):
            raise self._damaged_error(replica.chunk)
        return records

    async def _verified(self, replica: _Replica, records: Sequence[Record]) -> memoryview | None:
        """The bytes of these blocks, which are neighbours; None if the chunk was changed while they were read.

        Raises Corrupt if they are not what was written: which are not is known from now on.
        """
        assert replica.files is not None
        view = memoryview(bytearray(chunkfiles.total_length(records)))
        if reading.read_nowait(replica.files.data, view, records):
            return view
        return await self._read_verified(replica, replica.files.data, view, records)

    async def _read_verified(
        self, replica: _Replica, data: File, view: memoryview, records: Sequence[Record]
    ) -> memoryview | None:
        """As `_verified`, from the disk if it must be, and from a file `data` of the chunk.

        Blocks that were damaged and are not any more are read as all others from now on.
        """
        chunk = replica.chunk
        faults = await self.drive.run_blocking(reading.faults, data, view, records)
        if not faults and not self._damages.among(chunk, records):
            return view
        async with replica.lock:
            if replica.gone or not reading.unchanged(replica.index, records):
                return None
            faults = await self.drive.run_blocking(reading.faults, data, view, records)
            await self._settle_damage(replica, records, faults)
        if faults:
            raise self._damaged_error(chunk)
        return view

    async def _settle_damage(
        self, replica: _Replica, records: Sequence[Record], faults: Sequence[reading.Fault]
    ) -> None:
        """These of the blocks, which were just read, are damaged, and the others are not. The lock is held.

        Raises Corrupt if the chunk is in quarantine now; Busy or DiskFailed, where a fault says nothing about it; and
        as `_quarantine`.
        """
        chunk = replica.chunk
        for fault in faults:
            if fault.error is not None and not chunkfiles.is_damage(fault.error):
                raise self.drive.explained(fault.error, full_is_fatal=True) from fault.error
            if fault.start is None:
                await self._quarantine(replica, fault.reason)
                raise self._corrupt_error(chunk, fault.reason)
        bad = {fault.start: fault for fault in faults if fault.start is not None}
        if any(start not in self._damages.of(chunk) for start in bad):
            is_first = chunk not in self._damages
            self._damages.note(chunk, {start: fault.reason for start, fault in bad.items()})
            self._newly_damaged.add(chunk)
            await self._save_damage(chunk)
            if is_first:  # of several blocks of one chunk the disk may have lost one place
                self.drive.note_read_error(next((fault.error for fault in faults if fault.error is not None), None))
        await self._clear_damage(chunk, [each.start for each in records if each.start not in bad])

    async def _clear_damage(self, chunk: ChunkId, whole: Sequence[int]) -> None:
        """These blocks are not damaged, or nobody needs them any more. The lock is held."""
        before = self._damages.of(chunk)
        if any(start in before for start in whole):
            self._damages.clear(chunk, whole)
            if chunk in self._damages:  # less than was told
                self._newly_damaged.add(chunk)
            await self._save_damage(chunk)

    async def _save_damage(self, chunk: ChunkId) -> None:
        """What cannot be written down is known until a restart, as long as the directory is in use at all."""
        if self.drive.failed is None:
            with suppress(errors.NoSpace, errors.Busy, errors.DiskFailed):
                await self.drive.on_disk(damage.save, self.disk, chunk, self._damages.of(chunk))

    async def lend(self, chunk: ChunkId) -> tuple[BlockIndex, int]:
        """For who reads the chunk himself: its blocks, and a descriptor of its bytes, which the caller closes.

        Raises ChunkNotFound, Corrupt, NotSupported, Busy.
        """
        async with self._using(chunk) as replica:
            if replica.gone or replica.files is None:
                raise self._not_found(chunk)
            try:
                return replica.index, replica.files.data.lend()
            except OSError as error:
                if error.errno in chunkfiles.SHORT:
                    raise self.drive.explained(error, False) from error
                raise errors.NotSupported(f"{self.disk.name}: its files cannot be lent: {error.strerror}") from error

    async def read_records(
        self, chunk: ChunkId, first: int, count: int, at: int | None = None
    ) -> tuple[list[Record], list[Buffer]]:
        """Up to `count` blocks from number `first` on, for a copy of the chunk, and the bytes of those not punched.

        At least one block, no more than READ_MAX_BYTES of bytes, none at the end of the chunk or beyond it, none from
        the first damaged one on. Those that were called punched and had not been are restored before. Raises as `read`,
        DiskFailed, and ChunkConflict unless block `first` begins `at` (None: wherever it does), or would if there were
        one.
        """
        async with self._using(chunk) as replica:
            while not replica.gone:
                records = reading.up_to_bytes(replica.index, first, count)
                self._check_begin(replica, first, at, records)
                if bad := self._damages.among(chunk, records):
                    records = records[: records.index(bad[0])]
                    if not records:
                        raise self._damaged_error(chunk)
                try:
                    buffers = await self._verified_runs(replica, records)
                except errors.Corrupt:
                    if replica.gone:
                        raise
                    continue  # which of them are damaged is known now
                if buffers is not None:
                    return records, buffers
        raise self._not_found(chunk)

    async def damaged_records(self, chunk: ChunkId, first: int, count: int, at: int | None = None) -> list[Record]:
        """Up to `count` blocks from number `first` on that are damaged, as far as none between is not known to be.

        Raises ChunkNotFound, ChunkConflict (as `read_records`), Corrupt (now in quarantine).
        """
        async with self._using(chunk) as replica:
            if replica.gone:
                raise self._not_found(chunk)
            records = list(replica.index.records(first, first + count))
            self._check_begin(replica, first, at, records)
            bad = self._damages.of(chunk)
            return list(itertools.takewhile(lambda record: record.start in bad, records))

    def _check_begin(self, replica: _Replica, first: int, at: int | None, records: Sequence[Record]) -> None:
        """Raises ChunkConflict unless the first of `records`, which is block `first`, begins `at`."""
        begins = records[0].start if records else replica.index.length
        if at is not None and at != begins and (records or at < begins):  # beyond the end nothing contradicts
            raise errors.ChunkConflict(f"chunk {replica.chunk:x}: block {first} begins at {begins}, not {at}")

    async def _verified_runs(self, replica: _Replica, records: Sequence[Record]) -> list[Buffer] | None:
        """As `_verified`, of those that are not punched; the others are looked at, too: or copies would lack them."""
        assert replica.files is not None
        buffers: list[Buffer] = []
        for run in chunkfiles.runs(records):
            if run[0].punched:
                if await self._restore_wrongly_punched(replica, replica.files.data, run):
                    return None
                continue
            view = await self._verified(replica, run)
            if view is None:
                return None
            buffers.append(view)
        return buffers

    async def verify(self, chunk: ChunkId, pace: Callable[[int], Awaitable[None]] = _at_once) -> int:
        """Check the chunk's files as a restart would find them, and read every block from the disk.

        `pace` is awaited with the number of bytes before they are read. Returns how many blocks were called punched and
        had not been: they are restored. Raises Corrupt if anything is damaged or missing, when all blocks were read or
        the chunk is in quarantine; ChunkNotFound.
        """
        async with self._using(chunk) as replica:
            await self._inspect(replica)
            data = await self.drive.on_disk(self._open_data, chunk)
            try:
                restored = await self._verify_blocks(replica, data, pace)
            finally:
                data.close()
            if chunk in self._damages and not replica.gone:
                raise self._damaged_error(chunk)
            return restored

    async def _inspect(self, replica: _Replica) -> None:
        async with replica.syncing, replica.lock:
            if replica.gone or replica.files is None:
                raise self._not_found(replica.chunk)
            try:
                await self.drive.run_blocking(replica.files.inspect, self.cluster, replica.index)
            except errors.DiskFailed:
                raise
            except OSError as error:
                await self._give_up(replica, error)

    def _open_data(self, chunk: ChunkId) -> File:
        try:
            return self.disk.open(chunkfiles.data_path(chunk), create=False)
        except FileNotFoundError:
            raise self._not_found(chunk) from None  # deleted in this moment, or it is found missing next time

    async def _verify_blocks(self, replica: _Replica, data: File, pace: Callable[[int], Awaitable[None]]) -> int:
        number = restored = 0
        while not replica.gone and (records := reading.up_to_bytes(replica.index, number, limits.CHUNK_MAX_BLOCKS)):
            for run in chunkfiles.runs(records):
                if run[0].punched:
                    restored += await self._restore_wrongly_punched(replica, data, run)
                    continue
                length = chunkfiles.total_length(run)
                await pace(length)
                data.drop_cached(run[0].start, length)
                if not await self._settle(replica, data, run):
                    break  # the chunk was changed meanwhile: these are looked at anew
                data.drop_cached(run[0].start, length)
            else:
                number += len(records)
        return restored

    async def _settle(self, replica: _Replica, data: File, run: Sequence[Record]) -> bool:
        """Read blocks, and know then which are damaged; False if the chunk was changed meanwhile.

        Raises Corrupt if it went to quarantine.
        """
        try:
            view = memoryview(bytearray(chunkfiles.total_length(run)))
            return await self._read_verified(replica, data, view, run) is not None
        except errors.Corrupt:
            if replica.gone:
                raise
            return True

    async def _restore_wrongly_punched(self, replica: _Replica, data: File, run: Sequence[Record]) -> int:
        """Blocks that are called punched and whose bytes are there and right: their records were damaged.

        Or the power went before the bytes did. To have them back harms in neither case.
        """
        restored = 0
        for number in await self.drive.run_blocking(reading.whole_ones, data, run):
            record = run[number]
            async with replica.syncing, replica.lock:
                if replica.gone or replica.files is None or not replica.index.matches(record.start, [record]):
                    break
                self.drive.check_usable()
                at = replica.index.blocks_in(record.start)
                await self.drive.on_disk(replica.files.unpunch, replica.index, at, full_is_fatal=True)
                replica.index.unpunch(at)
                self._note_punched(replica.chunk, -record.length)
            restored += 1
        return restored

    # --- making durable

    async def sync(self, chunks: Sequence[ChunkId]) -> list[int]:
        """Put on the disk what was appended before this call. Returns each chunk's durable length, -1 if not here.

        What a damaged block holds, and what comes after it, does not count. Raises DiskFailed.
        """
        return await self._sync_all(chunks, journaling=True)

    async def _sync_files(self, chunks: Sequence[ChunkId]) -> list[int]:
        """As `sync`, into the chunks' own files."""
        return await self._sync_all(chunks, journaling=False)

    async def _sync_all(self, chunks: Sequence[ChunkId], *, journaling: bool) -> list[int]:
        self.drive.check_usable()
        if len(chunks) == 1:  # as after each write of a log
            return [await self._sync_one(chunks[0], journaling=journaling)]
        lengths: dict[ChunkId, int] = {}

        async def sync_into(chunk: ChunkId) -> None:
            lengths[chunk] = await self._sync_one(chunk, journaling=journaling)

        async with open_nursery() as nursery:
            for chunk in dict.fromkeys(chunks):
                nursery.start_soon(sync_into, chunk)
        return [lengths[chunk] for chunk in chunks]

    async def _sync_one(self, chunk: ChunkId, *, journaling: bool) -> int:
        try:
            async with self._using(chunk) as replica:
                target = replica.index.length
                if _is_synced(replica, target, journaling):
                    await trio.lowlevel.checkpoint()
                while not _is_synced(replica, target, journaling):
                    async with holding(replica.syncing):
                        if not _is_synced(replica, target, journaling):
                            await self._sync_replica(replica, journaling)
                if replica.gone or replica.files is None:
                    return -1
                if replica.files.mark.length >= replica.index.length:  # who made it so may have been cut short
                    self._note_synced(replica, trio.current_time())
                return self._damages.intact(chunk, replica.files.durable)
        except (errors.ChunkNotFound, errors.Corrupt):
            self._unsynced.pop(chunk, None)
            return -1

    async def _sync_replica(self, replica: _Replica, journaling: bool) -> None:
        """`syncing` is held."""
        assert replica.files is not None
        if journaling and await self._put_in_journal(replica, replica.files):
            return
        self.drive.check_usable()  # somebody else's write into the journal may have failed
        began = trio.current_time()
        await self.drive.on_disk(replica.files.sync, len(replica.index), replica.index.length, full_is_fatal=True)
        self._note_synced(replica, began)

    async def _put_in_journal(self, replica: _Replica, files: ChunkFiles) -> bool:
        """Whether what the chunk has is durable by that. `syncing` is held."""
        entry = self._entry(replica, files)
        if entry is None:
            return False
        if self._journal is None or not await self._journal.put(entry, self.drive.on_disk):
            return False
        if replica.gone:
            self._journal.void(replica.chunk, entry.generation + 1)
        files.journaled = entry.end
        return True

    def _entry(self, replica: _Replica, files: ChunkFiles) -> Entry | None:
        """What the chunk has beyond what is durable, for the journal; None where that is not worth it, or cannot be."""
        index, start = replica.index, files.durable
        length = index.length - start
        if not files.mark.length or length > limits.JOURNAL_ENTRY_MAX_BYTES:
            return None
        first = index.blocks_in(start)
        records = list(index.records(first))
        view = memoryview(bytearray(length))
        if any(record.punched for record in records) or not reading.read_nowait(files.data, view, records):
            return None
        return Entry(replica.chunk, files.mark.generation, first, records, view)

    def _note_synced(self, replica: _Replica, began: float) -> None:
        """The chunk's files have a mark that may be newer than what is known of them."""
        if replica.gone:
            return
        assert replica.files is not None
        if self._journal is not None:
            self._journal.void(replica.chunk, replica.files.mark.generation)
        if replica.files.mark.length >= replica.index.length:
            self._unsynced.pop(replica.chunk, None)
        else:
            self._unsynced[replica.chunk] = began

    async def flush_due(self) -> None:
        """Sync the files of chunks that have had unsynced bytes for FLUSH_AFTER_S or longer. Raises DiskFailed.

        Before that, where the journal needs the place of what it has of them.
        """
        latest = trio.current_time() - limits.FLUSH_AFTER_S
        due = {chunk for chunk, since in self._unsynced.items() if since <= latest}
        if self._journal is not None:
            due |= self._journal.blocking()
        elif self.makes_journal and trio.current_time() >= self._make_journal_from:
            self._make_journal_from = trio.current_time() + limits.JOURNAL_RETRY_S
            await self._make_journal()
        if due:
            await self._sync_files(sorted(due))

    async def _make_journal(self) -> None:
        """Unless space is scarce. Raises DiskFailed."""
        if self.drive.free_bytes() >= limits.JOURNAL_FREE_TIMES * limits.JOURNAL_BYTES:
            with suppress(errors.NoSpace, errors.Busy):
                self._journal = await self.drive.on_disk(Journal.create, self.disk, self._runtime.random)

    # --- taking away

    async def delete(self, chunk: ChunkId) -> None:
        """Remove the chunk, if it is here; who reads it just now reads on. Raises DiskFailed."""
        self.drive.check_usable()
        async with self._using(chunk, load=False) as replica, replica.syncing, replica.lock:
            if chunk in self.chunks and not replica.gone:
                await self.drive.on_disk(chunkfiles.remove, self.disk, chunk)
                self._forget(replica)

    async def cut(self, chunk: ChunkId, length: int) -> None:
        """Shorten the chunk to `length`, durably; to 0 deletes it.

        A block that would have to be summed anew and is damaged stays whole. Raises ChunkNotFound, InvalidArgument if
        it is shorter, DiskFailed.
        """
        if length == 0:
            await self.delete(chunk)
            return
        self.drive.check_usable()
        async with self._using(chunk) as replica, replica.syncing, replica.lock:
            if replica.gone:
                raise self._not_found(chunk)
            has = replica.index.length
            if not 0 < length <= has:
                raise errors.InvalidArgument(f"chunk {chunk:x} has {has} bytes: it cannot be cut to {length}")
            if length < has:
                await self._cut(replica, length)

    async def _cut(self, replica: _Replica, length: int) -> None:
        assert replica.files is not None
        began = trio.current_time()
        try:
            partial = await self.drive.on_disk(replica.files.cut, replica.index, length, full_is_fatal=True)
        except errors.Corrupt as error:
            last = replica.index.record(replica.index.blocks_in(length))
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else None
            await self._settle_damage(replica, [last], [reading.Fault(error.message, last.start, cause)])
            length, partial = last.start + last.length, []
            if length == replica.index.length:
                return
            await self.drive.on_disk(replica.files.cut, replica.index, length, full_is_fatal=True)
        gone = replica.index.punched_bytes(length)
        self._note_punched(replica.chunk, -gone)
        replica.index.cut(partial[0].start if partial else length)
        replica.index.append(partial)
        self._set_length(replica)
        self._note_synced(replica, began)
        await self._clear_damage(replica.chunk, [start for start in self._damages.of(replica.chunk) if start >= length])

    async def punch(self, chunk: ChunkId, ranges: Sequence[tuple[int, int]]) -> None:
        """Free the whole blocks inside each (offset, length), durably; the chunk keeps its length.

        Those that count as freed are freed once more: they may be there, if this was under way when the machine died.
        Raises ChunkNotFound, InvalidArgument for a range that cannot be, DiskFailed.
        """
        if any(offset < 0 or length < 0 for offset, length in ranges):
            raise errors.InvalidArgument(f"chunk {chunk:x}: a range to free has a negative offset or length")
        self.drive.check_usable()
        async with self._using(chunk) as replica, replica.syncing, replica.lock:
            if replica.gone or replica.files is None:
                raise self._not_found(chunk)
            numbers = reading.to_punch(replica.index, ranges)
            if not numbers:
                return
            began = trio.current_time()
            await self.drive.on_disk(replica.files.punch, replica.index, numbers, full_is_fatal=True)
            for number in numbers:
                if not replica.index.record(number).punched:
                    replica.index.punch(number)
                    self._note_punched(chunk, replica.index.record(number).length)
            self._note_changed(chunk)
            self._note_synced(replica, began)
            await self._clear_damage(chunk, [replica.index.record(number).start for number in numbers])

    # --- mending

    async def holding(self, chunk: ChunkId) -> Holding:
        """What there is of a chunk. Raises ChunkNotFound, Corrupt (now in quarantine)."""
        async with self._using(chunk) as replica:
            if replica.gone:
                raise self._not_found(chunk)
            index = replica.index
            numbers = [index.blocks_in(start) for start in self._damages.of(chunk)]
            return Holding(len(index), index.length, [(number, index.record(number)) for number in numbers])

    async def mend(self, chunk: ChunkId, record: Record, content: Buffer) -> None:
        """Write a damaged block anew, durably: `content` is what it held. Nothing is done if it is whole by now.

        Raises ChunkNotFound, ChunkConflict if there is no such block, Corrupt if `content` does not match its checksum,
        or if the disk does not give it back, NoSpace, DiskFailed.
        """
        self.drive.check_usable()
        async with self._using(chunk) as replica, replica.syncing, replica.lock:
            if replica.gone or replica.files is None:
                raise self._not_found(chunk)
            if not reading.unchanged(replica.index, [record]):
                raise errors.ChunkConflict(f"chunk {chunk:x} has another block at {record.start}")
            if record.start in self._damages.of(chunk):
                await self.drive.on_disk(replica.files.mend, record, content)
                await self._clear_damage(chunk, [record.start])

    async def look_at_damage(self) -> None:
        """Read the damaged blocks of each chunk again, the first few: they may have been unreadable for a while only.

        Raises Busy, DiskFailed.
        """
        for chunk in list(self._damages):
            with suppress(errors.ChunkNotFound, errors.Corrupt):
                async with self._using(chunk) as replica:
                    for start in list(self._damages.of(chunk))[: limits.DAMAGE_LOOK_BLOCKS]:
                        await self._look_again(replica, start)

    async def _look_again(self, replica: _Replica, start: int) -> None:
        if replica.gone or replica.files is None or start not in self._damages.of(replica.chunk):
            return
        record = replica.index.record(replica.index.blocks_in(start))
        replica.files.data.drop_cached(record.start, record.length)
        await self._settle(replica, replica.files.data, [record])

    async def set_aside(self, chunk: ChunkId, reason: str) -> None:
        """Move the chunk to quarantine, if it is here. Raises Busy."""
        async with self._using(chunk, load=False) as replica, replica.syncing, replica.lock:
            if chunk in self.chunks and not replica.gone:
                await self._quarantine(replica, reason)

    # --- what others want to know

    def intact_length(self, chunk: ChunkId) -> int | None:
        """Bytes of the chunk before its first damaged block; None if it is not here."""
        length = self.chunks.get(chunk)
        return None if length is None else self._damages.intact(chunk, length)

    def take_damaged(self) -> list[tuple[ChunkId, str]]:
        """Chunks of which more blocks were found damaged since the last call, and what is wrong with each.

        All that are damaged, after `tell_damaged_again`.
        """
        taken, self._newly_damaged = self._newly_damaged, set()
        return [(chunk, self._damages.summary(chunk)) for chunk in sorted(taken) if chunk in self._damages]

    def tell_damaged_again(self) -> None:
        """Those that were told may not be known any more."""
        self._newly_damaged.update(self._damages)

    def is_damaged(self, chunk: ChunkId) -> bool:
        """Whether any of the chunk's blocks is known to be."""
        return chunk in self._damages

    def damaged_blocks(self, chunk: ChunkId) -> list[int]:
        """Where those of the chunk's blocks begin that are known to be damaged."""
        return list(self._damages.of(chunk))

    def damaged_count(self) -> int:
        """Chunks with damaged blocks."""
        return len(self._damages)

    def is_known(self, chunk: ChunkId) -> bool:
        """Whether the chunk is here, or is just being made or taken away."""
        return chunk in self.chunks or chunk in self._open

    def changed_recently(self, chunk: ChunkId) -> bool:
        """Whether the chunk was created, appended to, cut or punched in the last SETTLED_AFTER_S, since the start."""
        return self._changed.get(chunk, float("-inf")) > trio.current_time() - limits.SETTLED_AFTER_S

    def take_corrupt(self) -> list[tuple[ChunkId, str]]:
        """Chunks that went to quarantine since the last call, and what was wrong with each."""
        taken, self._corrupt = self._corrupt, []
        return taken

    # --- chunks in use

    @asynccontextmanager
    async def _using(self, chunk: ChunkId, create: bool = False, load: bool = True) -> AsyncIterator[_Replica]:
        """The chunk, its files open unless not `load`. With `create` it need not exist: `files` may be None.

        Raises ChunkNotFound, Corrupt (now in quarantine), Busy.
        """
        if load and chunk not in self._open:
            await self._make_room()
        replica = self._open.get(chunk)
        if replica is None:
            replica = self._open[chunk] = _Replica(chunk)
        self._open.move_to_end(chunk)
        replica.users += 1
        try:
            if load and replica.files is None and (chunk in self.chunks or not create):
                await self._load(replica)
            yield replica
        finally:
            replica.users -= 1
            if not replica.users and (replica.gone or replica.files is None):
                self._drop(replica)

    async def _load(self, replica: _Replica) -> None:
        async with replica.lock:
            if replica.files is not None:
                return
            length = self.chunks.get(replica.chunk)
            if length is None or replica.gone:
                raise self._not_found(replica.chunk)
            try:
                opened = await self.drive.run_blocking(ChunkFiles.open, self.disk, self.cluster, replica.chunk, length)
            except errors.DiskFailed:
                raise
            except OSError as error:
                await self._give_up(replica, error)
            else:
                replica.files, replica.index = opened
                self._settle_punched(replica)
                await self._clear_damage(replica.chunk, damage.outdated(self._damages.of(replica.chunk), replica.index))

    async def _give_up(self, replica: _Replica, error: OSError) -> NoReturn:
        """The chunk's files are not what they should be: to quarantine. The lock is held. Raises Corrupt.

        Or Busy or DiskFailed, where the error says nothing about the chunk, and as `_quarantine`.
        """
        if not chunkfiles.is_damage(error):
            what = OSError(error.errno, f"chunk {replica.chunk:x} cannot be opened: {error.strerror}")
            raise self.drive.explained(what, full_is_fatal=True) from error
        reason = str(error) if isinstance(error, errors.DfsError) else f"it cannot be opened: {error.strerror}"
        await self._quarantine(replica, reason)
        self.drive.note_read_error(error)
        raise self._corrupt_error(replica.chunk, reason) from error

    async def _make_room(self) -> None:
        """Close what nobody uses, the least recently used first, until one more chunk may be opened. Raises Busy.

        Where all have bytes that are not synced they are synced for it: nobody is told of an error of the disk that
        comes when no file is open any more.
        """
        while len(self._open) >= limits.OPEN_CHUNKS_MAX:
            closable = next((replica for replica in self._open.values() if self._is_closable(replica)), None)
            if closable is None:
                break
            self._drop(closable)
        for replica in list(self._open.values()):
            if len(self._open) < limits.OPEN_CHUNKS_MAX:
                return
            if not replica.users:
                with suppress(errors.DiskFailed):  # `failed` says so
                    await self._sync_one(replica.chunk, journaling=False)
                if self._is_closable(replica):
                    self._drop(replica)

    def _is_closable(self, replica: _Replica) -> bool:
        """Of a directory that failed nothing is synced any more."""
        return not replica.users and (replica.chunk not in self._unsynced or self.drive.failed is not None)

    def _drop(self, replica: _Replica) -> None:
        if self._open.get(replica.chunk) is replica:
            del self._open[replica.chunk]
        if replica.files is not None and not self.drive.hangs:
            replica.files.close()
            replica.files = None

    def _set_length(self, replica: _Replica) -> None:
        length = replica.index.length
        self.used_bytes += length - self.chunks.get(replica.chunk, 0)
        self.chunks[replica.chunk] = length
        if replica.chunk in self._damages:  # what was told of it was of another length
            self._newly_damaged.add(replica.chunk)
        self._note_changed(replica.chunk)

    def _note_punched(self, chunk: ChunkId, length: int) -> None:
        """So many more bytes of the chunk take no space; fewer, if negative."""
        before = self._punched.pop(chunk, 0)
        after = max(0, before + length)
        self.used_bytes -= after - before
        if after:
            self._punched[chunk] = after

    def used_bytes_of(self, chunk: ChunkId) -> int:
        """Of a chunk that is here, without what was punched."""
        length: int = self.chunks[chunk]
        return length - self._punched.get(chunk, 0)

    def _settle_punched(self, replica: _Replica) -> None:
        """The index is known now: until then the space that the files take said what was punched."""
        self._note_punched(replica.chunk, replica.index.punched_bytes() - self._punched.get(replica.chunk, 0))

    def _note_changed(self, chunk: ChunkId) -> None:
        now = trio.current_time()
        self._changed.pop(chunk, None)
        self._changed[chunk] = now
        while (oldest := next(iter(self._changed))) and self._changed[oldest] < now - limits.SETTLED_AFTER_S:
            del self._changed[oldest]

    def _forget(self, replica: _Replica) -> None:
        """The chunk is not here any more."""
        replica.gone = True
        if self._journal is not None:
            self._journal.void(replica.chunk, self._journal.next_generation(replica.chunk))
        self._uncount(replica.chunk)
        self._unsynced.pop(replica.chunk, None)
        self._changed.pop(replica.chunk, None)
        self._damages.forget(replica.chunk)
        if self._open.get(replica.chunk) is replica:
            del self._open[replica.chunk]  # who makes it anew starts afresh; its files close with the last user

    def _uncount(self, chunk: ChunkId) -> None:
        self.used_bytes -= self.chunks.pop(chunk, 0) - self._punched.pop(chunk, 0)

    def drop_double(self, chunk: ChunkId, reason: str) -> None:
        """Between `open` and first use: set aside a chunk that another directory has too. Blocks. Raises OSError."""
        assert chunk not in self._open
        chunkfiles.quarantine(self.disk, chunk, reason, self._runtime.now_ns())
        self._uncount(chunk)
        self._unsynced.pop(chunk, None)
        self._damages.forget(chunk)

    async def _quarantine(self, replica: _Replica, reason: str) -> None:
        """The lock is held. If the files cannot even be moved, the directory has failed.

        Raises Busy, which passes: the chunk is where it was, and known, so that nobody makes another in its place.
        """
        chunk = replica.chunk
        if self.drive.failed is None:
            with suppress(errors.DiskFailed, errors.NoSpace):  # it is out of use either way, and told as that
                await self.drive.on_disk(chunkfiles.quarantine, self.disk, chunk, reason, self._runtime.now_ns())
        self._forget(replica)
        self._corrupt.append((chunk, reason))

    def _not_found(self, chunk: ChunkId) -> errors.ChunkNotFound:
        return errors.ChunkNotFound(f"chunk {chunk:x} is not in {self.disk.name}")

    def _corrupt_error(self, chunk: ChunkId, reason: str) -> errors.Corrupt:
        return errors.Corrupt(f"chunk {chunk:x} in {self.disk.name} is damaged and out of use: {reason}")

    def _damaged_error(self, chunk: ChunkId) -> errors.Corrupt:
        what = self._damages.summary(chunk) if chunk in self._damages else "it was just mended: read it again"
        return errors.Corrupt(f"chunk {chunk:x} in {self.disk.name} is damaged: {what}")


def _is_synced(replica: _Replica, target: int, journaling: bool) -> bool:
    """Whether `target` bytes, or all there still are, are on the disk: unless `journaling`, in the chunk's files."""
    if replica.gone or replica.files is None:
        return True
    durable = replica.files.durable if journaling else replica.files.mark.length
    return durable >= min(target, replica.index.length)
