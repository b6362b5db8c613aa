"""A chunk store on a disk that does as it is told."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest
import trio
import trio.testing

from dfs import errors, limits
from dfs.checksum import Block, sum_blocks, verify
from dfs.runtime import RealRuntime
from dfs.types import ChunkId, ClusterId
from nodes.datanode.chunkfiles import data_path
from nodes.datanode.disk import RealDisk
from nodes.datanode.index import HEADER_BYTES, RECORD_BYTES, RECORDS_OFFSET
from nodes.datanode.store import ChunkStore
from tests.simulation.disk import PAGE, InlineRuntime, MemoryDisk, PowerOff
from tests.unit.datanode.world import CHUNK, CLUSTER, DATA, INDEX, appended, blocks_of, content, content_of, opened

KIB = 1024


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk()


@pytest.fixture
def store(disk: MemoryDisk) -> ChunkStore:
    return opened(disk)


# --- appending and reading


async def test_what_is_appended_reads_back_with_its_checksums(store: ChunkStore) -> None:
    data = random.Random(1).randbytes(200 * KIB)
    assert await appended(store, data) == 200 * KIB
    blocks, buffers = await store.read(CHUNK, 0, 200 * KIB)
    assert blocks == sum_blocks(data)
    verify(b"".join(bytes(buffer) for buffer in buffers), blocks, "the answer")
    assert dict(store.chunks) == {CHUNK: 200 * KIB}


async def test_a_part_of_blocks_comes_with_checksums_of_its_own(store: ChunkStore) -> None:
    await appended(store, b"a" * 100)
    await appended(store, b"b" * 100)
    await appended(store, b"c" * 100)
    blocks, buffers = await store.read(CHUNK, 50, 200)
    data = b"".join(bytes(buffer) for buffer in buffers)
    assert data == b"a" * 50 + b"b" * 100 + b"c" * 50
    assert blocks == blocks_of(b"a" * 50, b"b" * 100, b"c" * 50)


@pytest.mark.parametrize("cold", [False, True])
async def test_several_ranges_are_read_as_if_they_were_one(store: ChunkStore, disk: MemoryDisk, cold: bool) -> None:
    data = random.Random(2).randbytes(400 * KIB)
    for start in range(0, len(data), 100 * KIB):
        await appended(store, data[start : start + 100 * KIB])
    disk.cold = cold
    ranges = [(350 * KIB, 50 * KIB), (5, 1), (16 * KIB, 16 * KIB), (99 * KIB, 2 * KIB), (0, 300 * KIB), (5, 1)]
    assert await content_of(store, ranges) == b"".join(data[start : start + size] for start, size in ranges)
    with pytest.raises(errors.InvalidArgument, match="409600 bytes: 2 from 409599"):
        await store.read_ranges(CHUNK, [(0, 1), (400 * KIB - 1, 2)])
    with pytest.raises(errors.ChunkNotFound):
        await store.read_ranges(ChunkId(9), [(0, 1)])


@pytest.mark.parametrize("cold", [False, True])
async def test_a_range_that_is_damaged_is_found_among_others(store: ChunkStore, disk: MemoryDisk, cold: bool) -> None:
    for letter in (b"a", b"b", b"c"):
        await appended(store, letter * 100)
    disk.flip_bit(DATA, 150)
    disk.cold = cold
    for _ in range(2):
        with pytest.raises(errors.Corrupt, match=r"bytes 100 to 200 do not match their checksum$"):
            await store.read_ranges(CHUNK, [(0, 10), (110, 1), (250, 50)])
    assert await content_of(store, [(0, 10), (250, 50)]) == b"a" * 10 + b"c" * 50
    assert [chunk for chunk, _ in store.take_damaged()] == [CHUNK]


async def test_a_repeated_append_succeeds_and_changes_nothing(store: ChunkStore, disk: MemoryDisk) -> None:
    await appended(store, b"first")
    await appended(store, b"second")
    before = disk.read_file(DATA), disk.read_file(INDEX)
    assert await store.append(CHUNK, 0, sum_blocks(b"first"), b"first") == 11
    assert (disk.read_file(DATA), disk.read_file(INDEX)) == before


async def test_an_append_that_does_not_continue_the_chunk_is_a_conflict(store: ChunkStore) -> None:
    await appended(store, b"first")
    for offset in (0, 3, 7):
        with pytest.raises(errors.ChunkConflict):
            await store.append(CHUNK, offset, sum_blocks(b"other"), b"other")
    with pytest.raises(errors.ChunkNotFound):
        await store.append(ChunkId(99), 5, sum_blocks(b"other"), b"other")
    assert await content(store, 0, 5) == b"first"


async def test_bytes_that_the_wire_changed_are_not_taken(store: ChunkStore, disk: MemoryDisk) -> None:
    with pytest.raises(errors.Corrupt, match="appended"):
        await store.append(CHUNK, 0, sum_blocks(b"right"), b"wrong")
    assert not store.chunks and disk.paths() == []
    await appended(store, b"right")
    with pytest.raises(errors.Corrupt):
        await store.append(CHUNK, 5, sum_blocks(b"right"), b"wrong")
    assert store.chunks[CHUNK] == disk.size(DATA) == 5


async def test_a_chunk_has_its_limits(store: ChunkStore) -> None:
    mib = bytes(limits.MIB)
    for _ in range(limits.CHUNK_MAX_BYTES // limits.MIB):
        await appended(store, mib)
    with pytest.raises(errors.ChunkFull):
        await appended(store, b"x")
    many = [Block(1, block.crc) for block in sum_blocks(b"x")] * limits.CHUNK_MAX_BLOCKS
    await store.append(ChunkId(2), 0, many, b"x" * limits.CHUNK_MAX_BLOCKS)
    with pytest.raises(errors.ChunkFull):
        await appended(store, b"x", ChunkId(2))


async def test_bytes_that_do_not_exist_are_not_read(store: ChunkStore) -> None:
    await appended(store, b"12345")
    for offset, length in ((0, 6), (5, 1), (-1, 2), (0, 0)):
        with pytest.raises(errors.InvalidArgument):
            await store.read(CHUNK, offset, length)
    with pytest.raises(errors.ChunkNotFound):
        await store.read(ChunkId(9), 0, 1)


async def test_nothing_is_appended_before_the_cluster_is_known(disk: MemoryDisk) -> None:
    store = opened(disk, cluster=None)
    with pytest.raises(errors.Busy, match="no cluster yet"):
        await appended(store, b"x")


# --- disks that are full, or fail


@pytest.mark.parametrize("room_pages", range(6))
async def test_an_append_without_room_leaves_the_chunk_as_it_was(room_pages: int) -> None:
    disk = MemoryDisk()
    store = opened(disk)
    for _ in range(500):  # so that the index needs a new page as well
        await appended(store, b"x")
    disk.set_capacity(disk.capacity_bytes() - disk.free_bytes() + room_pages * PAGE)
    before = disk.read_file(DATA), disk.read_file(INDEX)
    big = [Block(1, block.crc) for block in sum_blocks(b"x")] * (5 * PAGE)
    with pytest.raises(errors.NoSpace):
        await store.append(CHUNK, 500, big, b"x" * len(big))
    assert (disk.read_file(DATA), disk.read_file(INDEX)) == before
    assert store.drive.failed is None
    disk.set_capacity(1 << 30)
    assert await store.append(CHUNK, 500, big, b"x" * len(big)) == 500 + len(big)


async def test_a_chunk_that_found_no_room_does_not_exist(disk: MemoryDisk, store: ChunkStore) -> None:
    disk.set_capacity(2 * PAGE)
    with pytest.raises(errors.NoSpace):
        await appended(store, b"x" * 3 * PAGE)
    assert disk.paths() == [] and not store.chunks


async def test_the_reserve_is_kept_free() -> None:
    store = opened(MemoryDisk(capacity_bytes=100 * PAGE), reserve_bytes=90 * PAGE)
    await appended(store, b"x" * PAGE)
    with pytest.raises(errors.NoSpace, match="above its reserve"):
        await appended(store, b"x" * 20 * PAGE)


@pytest.mark.parametrize("path", [DATA, INDEX])
async def test_a_write_error_takes_the_directory_out_of_service(disk: MemoryDisk, store: ChunkStore, path: str) -> None:
    await appended(store, b"kept")
    disk.fail("write", errno.EIO, path)
    with pytest.raises(errors.DiskFailed, match="out of service"):
        await appended(store, b"lost")
    disk.mend()
    with pytest.raises(errors.DiskFailed):
        await appended(store, b"more")
    with pytest.raises(errors.DiskFailed):
        await store.sync([CHUNK])
    assert store.drive.failed and store.drive.free_bytes() == 0
    assert await content(store, 0, 4) == b"kept"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.ENOMEM])
async def test_after_an_error_of_fsync_nothing_is_believed(disk: MemoryDisk, store: ChunkStore, number: int) -> None:
    await appended(store, b"x")
    disk.fail("sync", number, DATA)
    with pytest.raises(errors.DiskFailed):
        await store.sync([CHUNK])
    disk.mend()
    with pytest.raises(errors.DiskFailed):
        await store.sync([CHUNK])
    await store.close()
    assert not disk.exists("clean")


@pytest.mark.parametrize("path", [DATA, INDEX])
async def test_a_restart_after_an_error_of_fsync_takes_nothing_in_memory_for_written(
    disk: MemoryDisk, store: ChunkStore, path: str
) -> None:
    """The system takes pages that it could not write for written, and still has them."""
    data = random.Random(4).randbytes(120_000)
    await appended(store, data[:20_000])
    await store.sync([CHUNK])
    await appended(store, data[20_000:])
    disk.fail("sync", errno.EIO, path)
    with pytest.raises(errors.DiskFailed):
        await store.sync([CHUNK])
    disk.mend()
    disk.kill()
    durable = (await opened(disk).sync([CHUNK]))[0]
    assert durable >= 20_000
    disk.crash(random.Random(1))
    assert await content(opened(disk), 0, durable) == data[:durable]


@pytest.mark.parametrize("path", [DATA, INDEX])
async def test_what_could_not_be_written_before_a_start_is_not_taken_for_written(path: str) -> None:
    """The process was killed before it asked. The system tells the first who does, and then takes it for written."""

    class Failed(MemoryDisk):
        has_told = True

        def sync_all(self) -> None:
            if not self.has_told:
                self.has_told = True
                self._file(path).fail_to_sync()
                raise OSError(errno.EIO, "write-back failed")
            super().sync_all()

    disk = Failed()
    data = random.Random(4).randbytes(20_000)
    blocks = blocks_of(*(data[start : start + 20] for start in range(0, len(data), 20)))
    store = opened(disk)
    await store.append(CHUNK, 0, blocks[:100], data[:2000])
    await store.sync([CHUNK])
    await store.append(CHUNK, 2000, blocks[100:], data[2000:])
    disk.kill()
    disk.has_told = False
    durable = (await opened(disk).sync([CHUNK]))[0]
    assert durable >= 2000
    disk.crash(random.Random(1))
    assert await content(opened(disk), 0, durable) == data[:durable]


async def test_a_lack_of_file_descriptors_is_no_failure_of_the_disk(disk: MemoryDisk, store: ChunkStore) -> None:
    disk.fail("names", errno.EMFILE)
    with pytest.raises(errors.Busy):
        await appended(store, b"x")
    disk.mend()
    await appended(store, b"x")


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
async def test_a_machine_short_of_means_takes_no_chunk_for_damaged(disk: MemoryDisk, number: int, clean: bool) -> None:
    await left_behind(disk, clean)
    disk.fail("open", number, "chunks")
    with pytest.raises(errors.Busy, match="raise the DataNode's limits"):
        await content(opened(disk), 0, 4)
    disk.mend()
    again = opened(disk)
    assert await content(again, 0, 4) == b"kept" and again.take_corrupt() == []


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize(
    "number, why", [(errno.EACCES, "belong to the user"), (errno.EPERM, "belong to the user"), (errno.ENOSPC, "")]
)
async def test_chunks_that_may_not_be_opened_take_the_directory_out_of_service_and_stay_where_they_are(
    disk: MemoryDisk, number: int, why: str, clean: bool
) -> None:
    await left_behind(disk, clean)
    disk.fail("open", number, "chunks")
    with pytest.raises(errors.DiskFailed, match=rf"out of service: chunk 1234 .*{os.strerror(number)}.*{why}"):
        await content(opened(disk), 0, 4)
    disk.mend()
    again = opened(disk)
    assert await content(again, 0, 4) == b"kept" and again.take_corrupt() == []


async def test_a_read_that_finds_no_memory_damages_nothing(disk: MemoryDisk, store: ChunkStore) -> None:
    await appended(store, b"kept")
    disk.fail("read", errno.ENOMEM, DATA)
    with pytest.raises(errors.Busy):
        await content(store, 0, 4)
    disk.mend()
    assert await content(store, 0, 4) == b"kept" and store.drive.failed is None


async def left_behind(disk: MemoryDisk, clean: bool) -> None:
    """A chunk, by a DataNode that stopped in order or did not."""
    store = opened(disk)
    await appended(store, b"kept")
    await store.sync([CHUNK])
    await store.close(clean)


# --- damage


async def test_a_chunk_whose_files_are_damaged_goes_to_quarantine(disk: MemoryDisk, store: ChunkStore) -> None:
    await appended(store, b"x" * 100)
    await appended(store, b"y" * 100)
    disk.flip_bit(DATA, 50)
    with pytest.raises(errors.Corrupt, match="bytes 0 to 100 do not match"):
        await store.read(CHUNK, 0, 100)
    file = disk.open(DATA, create=False)
    file.truncate(150)
    file.close()
    with pytest.raises(errors.Corrupt, match="out of use: its data end at 150"):
        await store.read(CHUNK, 120, 10)
    name = "quarantine/0000000000001234.0"
    assert disk.paths() == [name, name + ".idx", name + ".txt"]
    assert b"2023-11-14T22:13:20+00:00 its data end at 150" in disk.read_file(name + ".txt")
    assert [chunk for chunk, _ in store.take_corrupt()] == [CHUNK]
    assert store.take_corrupt() == store.take_damaged() == [] and not store.chunks and store.used_bytes == 0
    with pytest.raises(errors.ChunkNotFound):
        await store.read(CHUNK, 0, 1)
    assert disk.open_files == 0
    await appended(store, b"made anew")
    assert await content(store, 0, 9) == b"made anew"


async def test_a_chunk_that_cannot_be_set_aside_just_now_is_not_forgotten(disk: MemoryDisk, store: ChunkStore) -> None:
    """Or the next one of its number would be written over it."""
    await appended(store, b"x" * 100)
    await store.close()
    disk.flip_bit(INDEX, 0)
    store = opened(disk)
    disk.fail("names", errno.EMFILE, DATA)
    with pytest.raises(errors.Busy):
        await content(store, 0, 100)
    assert store.chunks == {CHUNK: 100} and store.take_corrupt() == []
    disk.mend()
    with pytest.raises(errors.Corrupt):
        await content(store, 0, 100)
    assert not store.chunks and store.take_corrupt() and disk.exists("quarantine/0000000000001234.0")


async def test_verify_reads_every_block(disk: MemoryDisk, store: ChunkStore) -> None:
    data = random.Random(2).randbytes(2 * limits.MIB)
    await appended(store, data[: limits.MIB])
    await appended(store, data[limits.MIB :])
    await store.verify(CHUNK)
    for offset in (2 * limits.MIB - 1, limits.MIB + 1, 7):
        disk.flip_bit(DATA, offset)
    with pytest.raises(errors.Corrupt, match=r"bytes 0 to 16384 do not match .*, and 2 other blocks are damaged"):
        await store.verify(CHUNK)
    assert len((await store.holding(CHUNK)).damaged) == 3


# --- cut, punch, delete


async def test_cut_keeps_what_comes_before(disk: MemoryDisk, store: ChunkStore) -> None:
    await appended(store, b"a" * 100)
    await appended(store, b"b" * 100)
    await store.sync([CHUNK])
    await store.cut(CHUNK, 150)
    assert await content(store, 0, 150) == b"a" * 100 + b"b" * 50
    await store.cut(CHUNK, 100)
    assert disk.size(DATA) == store.used_bytes == 100
    await appended(store, b"c")
    assert await content(store, 99, 2) == b"ac"
    with pytest.raises(errors.InvalidArgument):
        await store.cut(CHUNK, 102)
    await store.cut(CHUNK, 0)
    assert not store.chunks and disk.paths() == []


async def test_a_cut_is_durable(disk: MemoryDisk, store: ChunkStore) -> None:
    await appended(store, b"a" * 9000)
    await store.sync([CHUNK])
    await store.cut(CHUNK, 5000)
    disk.crash(random.Random(3))
    assert dict(opened(disk).chunks) == {CHUNK: 5000}


async def test_punched_blocks_are_gone_and_the_others_stay(disk: MemoryDisk, store: ChunkStore) -> None:
    for letter in (b"a", b"b", b"c", b"d"):
        await appended(store, letter * 8192)
    free = disk.free_bytes()
    await store.punch(CHUNK, [(8000, 10_000), (18_000, 6576)])  # neighbours: b and c are whole within them
    assert disk.free_bytes() == free + 2 * 8192
    assert await content(store, 0, 8192) == b"a" * 8192
    assert await content(store, 24576, 8192) == b"d" * 8192
    with pytest.raises(errors.ChunkNotFound, match="were freed"):
        await store.read(CHUNK, 8191, 2)
    await store.verify(CHUNK)
    disk.crash(random.Random(4))
    again = opened(disk)
    assert dict(again.chunks) == {CHUNK: 4 * 8192}
    with pytest.raises(errors.ChunkNotFound):
        await again.read(CHUNK, 8192, 1)


async def test_what_was_punched_stays_so_after_a_power_cut_and_a_scrub(disk: MemoryDisk) -> None:
    for seed in range(20):  # of which bytes survive the power cut
        chunk = ChunkId(100 + seed)
        store = opened(disk)
        for letter in (b"a", b"b", b"c"):
            await appended(store, letter * 8192, chunk)
        await store.punch(chunk, [(8192, 8192)])
        disk.crash(random.Random(seed))
        again = opened(disk)
        assert await again.verify(chunk) == 0  # it found no block that was called punched and was not
        with pytest.raises(errors.ChunkNotFound):
            await again.read(chunk, 8192, 1)
        disk.crash(random.Random(seed))


async def test_an_order_to_punch_that_a_power_cut_interrupted_frees_all_when_it_comes_again() -> None:
    interrupted = 0
    for step in range(12):
        disk = MemoryDisk()
        store = opened(disk)
        for letter in (b"a", b"b", b"c"):
            await appended(store, letter * 8192)
        await store.sync([CHUNK])
        disk.power_off_after(step)
        try:
            await store.punch(CHUNK, [(0, 16_384)])
        except PowerOff:
            interrupted += 1
        disk.crash(random.Random(step))
        again = opened(disk)
        for _ in range(2):
            await again.punch(CHUNK, [(0, 16_384)])
            assert disk.allocated_bytes(data_path(CHUNK)) == 8192
        assert await again.verify(CHUNK) == 0
        assert await content(again, 16_384, 8192) == b"c" * 8192
    assert 3 <= interrupted < 12


async def test_a_deleted_chunk_is_gone_and_may_be_deleted_again(disk: MemoryDisk, store: ChunkStore) -> None:
    await appended(store, b"x")
    await store.delete(CHUNK)
    await store.delete(CHUNK)
    assert disk.paths() == [] and not store.chunks and disk.open_files == 0
    assert await store.sync([CHUNK]) == [-1]


# --- copies between nodes


async def test_a_copy_has_the_same_blocks_and_the_same_holes(store: ChunkStore) -> None:
    rng = random.Random(5)
    for _ in range(6):
        await appended(store, rng.randbytes(limits.MIB // 2))
    await store.punch(CHUNK, [(limits.MIB, limits.MIB), (5 * limits.MIB // 2, limits.MIB // 2)])
    target_disk = MemoryDisk()
    target = opened(target_disk)
    number = offset = 0
    while True:
        records, buffers = await store.read_records(CHUNK, number, 1000)
        if not records:
            break
        data = b"".join(bytes(buffer) for buffer in buffers)
        assert len(data) <= limits.READ_MAX_BYTES
        offset = await target.append_records(CHUNK, offset, records, data)
        assert await target.append_records(CHUNK, records[0].start, records, data) == offset
        number += len(records)
    assert offset == store.chunks[CHUNK] == target.chunks[CHUNK]
    assert await target.sync([CHUNK]) == [offset]
    assert await content(target, 0, limits.MIB) == await content(store, 0, limits.MIB)
    with pytest.raises(errors.ChunkNotFound):
        await target.read(CHUNK, limits.MIB, 1)
    target_disk.crash(random.Random(6))
    assert dict(opened(target_disk).chunks) == {CHUNK: offset}


# --- durability


async def test_a_block_that_is_wrongly_called_freed_is_no_hole_in_copies(disk: MemoryDisk, store: ChunkStore) -> None:
    data = random.Random(6).randbytes(64 * KIB)
    await appended(store, data)
    await store.punch(CHUNK, [(0, 16 * KIB)])
    await store.close()
    disk.flip_bit(INDEX, RECORDS_OFFSET + 2 * RECORD_BYTES + 3, bit=7)  # the flag of the third record
    store = opened(disk)
    records, buffers = await store.read_records(CHUNK, 0, 100)
    assert [record.punched for record in records] == [True, False, False, False]
    assert b"".join(bytes(buffer) for buffer in buffers) == data[16 * KIB :]
    assert await content(store, 16 * KIB, 48 * KIB) == data[16 * KIB :]


async def test_synced_bytes_survive_a_crash(disk: MemoryDisk, store: ChunkStore) -> None:
    await appended(store, b"a" * 5000)
    assert await store.sync([CHUNK, ChunkId(9)]) == [5000, -1]
    await appended(store, b"b" * 5000)
    disk.crash(random.Random(7))
    again = opened(disk)
    assert again.chunks[CHUNK] in (5000, 10_000)
    assert await content(again, 0, 5000) == b"a" * 5000
    assert again.take_corrupt() == []


async def test_syncs_that_wait_for_one_another_share_the_work(disk: MemoryDisk, store: ChunkStore) -> None:
    await appended(store, b"a")
    before = disk.syncs
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(store.sync, [CHUNK])
    assert disk.syncs - before == 4  # data, two directories, index
    await store.sync([CHUNK])
    assert disk.syncs - before == 4


async def test_unsynced_bytes_are_flushed_when_it_is_time(
    disk: MemoryDisk, store: ChunkStore, autojump_clock: trio.testing.MockClock
) -> None:
    await appended(store, b"a")
    await store.flush_due()
    assert disk.syncs == 1  # of the directory, at the start
    assert store.changed_recently(CHUNK)
    await trio.sleep(limits.FLUSH_AFTER_S)
    await store.flush_due()
    disk.crash(random.Random(8))
    assert dict(opened(disk).chunks) == {CHUNK: 1}
    await trio.sleep(limits.SETTLED_AFTER_S)
    assert not store.changed_recently(CHUNK)


async def test_after_a_clean_stop_no_chunk_is_looked_into(disk: MemoryDisk, store: ChunkStore) -> None:
    await appended(store, b"a" * 100)
    await store.close()
    assert disk.exists("clean")
    disk.fail("read", errno.EIO, "chunks")  # any look into a file would fail
    again = opened(disk)
    assert dict(again.chunks) == {CHUNK: 100} and again.take_corrupt() == []
    assert not disk.exists("clean")


@pytest.mark.parametrize("steps", range(6))
async def test_a_sync_that_the_power_cuts_short_costs_nothing_synced_before(steps: int) -> None:
    """The records take several pages: the mark that counts them may reach the disk before they do."""
    data = bytes(range(200)) * 5
    blocks = blocks_of(*(data[number : number + 1] for number in range(1000)))
    for seed in range(15):
        disk = MemoryDisk()
        store = opened(disk)
        await store.append(CHUNK, 0, blocks[:300], data[:300])
        await store.sync([CHUNK])
        await store.append(CHUNK, 300, blocks[300:], data[300:])
        durable = 300
        disk.power_off_after(steps)
        try:
            await store.sync([CHUNK])
            durable = 1000
        except PowerOff:
            pass
        for crash in range(2):  # the second finds what the first start mended
            disk.crash(random.Random(100 * seed + crash))
            store = opened(disk)
            assert store.take_corrupt() == []
            length = store.chunks[CHUNK]
            assert length >= durable
            assert await content(store, 0, length) == data[:length]


async def test_a_mark_that_was_torn_is_not_taken_for_damage_later(disk: MemoryDisk, store: ChunkStore) -> None:
    for data in (b"one", b"two"):
        await appended(store, data)
        await store.sync([CHUNK])
    disk.flip_bit(INDEX, HEADER_BYTES)  # of the older one, in whose place the next is written
    disk.crash(random.Random(1))
    again = opened(disk)
    await again.verify(CHUNK)
    assert await content(again, 0, 6) == b"onetwo"


@pytest.mark.parametrize("steps", range(14))
async def test_a_cut_that_the_power_cuts_short_keeps_what_it_was_to_keep(steps: int) -> None:
    data = random.Random(9).randbytes(600 * 20)
    for seed in range(15):
        disk = MemoryDisk()
        store = opened(disk)
        pieces = blocks_of(*(data[start : start + 20] for start in range(0, len(data), 20)))
        await store.append(CHUNK, 0, pieces, data)
        await store.sync([CHUNK])
        disk.power_off_after(steps)
        try:
            await store.cut(CHUNK, 11_010)
            disk.power_off_after(1 << 60)
            assert await content(store, 0, 11_010) == data[:11_010]
        except PowerOff:
            pass
        disk.crash(random.Random(seed))
        store = opened(disk)
        assert store.take_corrupt() == []
        length = store.chunks[CHUNK]
        assert length >= 11_010
        assert await content(store, 0, length) == data[:length]


# --- starting on what is there


async def synced_chunk(disk: MemoryDisk) -> None:
    store = opened(disk)
    await appended(store, b"a" * 100)
    await store.sync([CHUNK])
    await store.close(clean=False)


async def test_a_chunk_shorter_than_what_was_synced_is_damaged(disk: MemoryDisk) -> None:
    await synced_chunk(disk)
    disk.open(DATA, create=False).truncate(99)
    store = opened(disk)
    assert not store.chunks
    assert store.take_corrupt() == [(CHUNK, "it has 99 bytes of 100 that were synced")]


async def test_a_place_that_cannot_be_read_beyond_what_was_synced_costs_nothing_that_was(
    disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await synced_chunk(disk)
    await appended(opened(disk), b"b" * 100)

    def check(operation: str, path: str) -> None:
        if (operation, path) == ("read", DATA):  # after a crash that is what was not synced
            raise OSError(errno.EIO, "a bad sector")

    with monkeypatch.context() as patched:
        patched.setattr(disk, "check", check)
        store = opened(disk)
    assert store.chunks[CHUNK] == 100 and store.take_corrupt() == []
    assert await content(store, 0, 100) == b"a" * 100


@pytest.mark.parametrize("path, reason", [(DATA, "its data are missing"), (INDEX, "it has no index")])
async def test_half_a_chunk_is_damaged(disk: MemoryDisk, path: str, reason: str) -> None:
    await synced_chunk(disk)
    disk.remove(path)
    assert opened(disk).take_corrupt() == [(CHUNK, reason)]


async def test_another_clusters_chunk_is_not_taken(disk: MemoryDisk) -> None:
    await synced_chunk(disk)
    store = opened(disk, cluster=ClusterId("f" * 32))
    assert not store.chunks
    assert store.take_corrupt() == [(CHUNK, f"its index belongs to cluster {CLUSTER}")]


async def test_a_chunk_that_never_was_synced_goes_without_a_word(disk: MemoryDisk) -> None:
    disk.make_dirs("chunks/34")
    disk.open(DATA, create=True).close()
    disk.open(INDEX, create=True).close()
    store = opened(disk)
    assert not store.chunks and store.take_corrupt() == [] and disk.paths() == []


@pytest.mark.parametrize("lost_bytes", [RECORDS_OFFSET, RECORDS_OFFSET + RECORD_BYTES])
async def test_a_synced_chunk_is_not_removed_because_its_index_reads_as_zeros(
    disk: MemoryDisk, lost_bytes: int
) -> None:
    await synced_chunk(disk)
    disk.open(INDEX, create=False).pwrite([bytes(lost_bytes)], 0)
    store = opened(disk)
    assert store.take_corrupt() == [(CHUNK, "the header of its index is damaged")]
    assert disk.read_file("quarantine/0000000000001234.0") == b"a" * 100


async def test_files_of_others_are_let_alone(disk: MemoryDisk) -> None:
    disk.make_dirs("chunks/34")
    disk.make_dirs("chunks/lost+found")
    disk.open("chunks/34/notes.txt", create=True).close()
    assert not opened(disk).chunks
    assert disk.paths() == ["chunks/34/notes.txt"]


async def test_a_directory_that_cannot_be_used_says_why(disk: MemoryDisk) -> None:
    disk.fail("sync", errno.EIO)
    store = ChunkStore(disk, CLUSTER, InlineRuntime(), 0)
    with pytest.raises(errors.DiskFailed, match="Input/output error"):
        store.open()
    assert store.drive.failed


# --- many at a time


async def test_few_files_stay_open(disk: MemoryDisk, store: ChunkStore) -> None:
    count = limits.OPEN_CHUNKS_MAX + 20
    for number in range(1, count + 1):
        await appended(store, b"%d" % number, ChunkId(number))
    assert disk.open_files == 2 * limits.OPEN_CHUNKS_MAX
    for number in range(1, count + 1):
        assert await content(store, 0, len(b"%d" % number), ChunkId(number)) == b"%d" % number
    assert await store.sync([ChunkId(1), ChunkId(count)]) == [1, 3]
    assert disk.open_files == 2 * limits.OPEN_CHUNKS_MAX
    await store.close()
    assert disk.open_files == 0


async def test_no_file_is_closed_before_its_bytes_are_synced(
    disk: MemoryDisk, store: ChunkStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "OPEN_CHUNKS_MAX", 4)
    async with trio.open_nursery() as nursery:
        for number in range(1, 21):
            nursery.start_soon(appended, store, b"x" * 100, ChunkId(number))
    for number in range(21, 41):
        await appended(store, b"x" * 100, ChunkId(number))
        assert disk.open_files <= 2 * 4
    closed = [number for number in range(1, 41) if ChunkId(number) not in store._open]
    assert len(closed) == 36
    assert all(disk.durable_size(data_path(ChunkId(number))) == 100 for number in closed)


async def test_a_directory_that_failed_closes_what_it_cannot_sync(
    disk: MemoryDisk, store: ChunkStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "OPEN_CHUNKS_MAX", 4)
    await appended(store, b"first", ChunkId(1))
    await store.sync([ChunkId(1)])
    for number in range(2, 6):
        await appended(store, b"lost", ChunkId(number))
    disk.fail("sync", errno.EIO)
    assert await content(store, 0, 5, ChunkId(1)) == b"first"
    assert store.drive.failed == "Input/output error" and disk.open_files == 2 * 4


async def test_appends_reads_and_syncs_share_a_chunk(tmp_path: Path) -> None:
    """On the machine's own disk, with threads."""
    store = ChunkStore(RealDisk(tmp_path), CLUSTER, RealRuntime(), 0)
    store.open()
    pieces = [random.Random(number).randbytes(100 * KIB) for number in range(20)]
    whole = b"".join(pieces)
    finished = trio.Event()

    async def write() -> None:
        for piece in pieces:
            await appended(store, piece)
        finished.set()

    async def sync() -> None:
        while not finished.is_set():
            await store.sync([CHUNK])

    async def read() -> None:
        while not finished.is_set():
            length = store.chunks.get(CHUNK, 0)
            if length:
                assert await content(store, length // 3, length - length // 3) == whole[length // 3 : length]
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        nursery.start_soon(sync)
        nursery.start_soon(read)
    await store.verify(CHUNK)
    await store.punch(CHUNK, [(0, 100 * KIB)])
    await store.close()
    again = ChunkStore(RealDisk(tmp_path), CLUSTER, RealRuntime(), 0)
    again.open()
    assert dict(again.chunks) == {CHUNK: len(whole)}
    assert await content(again, 100 * KIB, 1900 * KIB) == whole[100 * KIB :]
    await again.close()


@pytest.mark.parametrize("ranges", [[(0, 16384)], [(12288, 1), (0, 8192), (8190, 4)]])
@pytest.mark.parametrize("take_away", ["cut", "punch", "delete"])
async def test_what_is_taken_away_under_a_reader_is_not_taken_for_damage(
    disk: MemoryDisk, store: ChunkStore, take_away: str, ranges: list[tuple[int, int]]
) -> None:
    await appended(store, b"a" * 8192)
    await appended(store, b"b" * 8192)
    whole = b"a" * 8192 + b"b" * 8192
    disk.cold = True
    caught: list[errors.DfsError] = []

    async def read() -> None:
        try:
            assert await content_of(store, ranges) == b"".join(whole[start : start + size] for start, size in ranges)
        except errors.DfsError as error:
            caught.append(error)

    async def remove() -> None:
        if take_away == "cut":
            await store.cut(CHUNK, 8192)
        elif take_away == "punch":
            await store.punch(CHUNK, [(8192, 8192)])
        else:
            await store.delete(CHUNK)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(read)
        nursery.start_soon(remove)
        for _ in range(5):
            nursery.start_soon(read)
    assert store.take_corrupt() == []
    assert all(isinstance(error, errors.InvalidArgument | errors.ChunkNotFound) for error in caught)
