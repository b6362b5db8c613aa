"""The journal of a data directory: small syncs are one write, and no crash takes away what they made durable."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import pytest
import trio
import trio.testing
from crc32c import crc32c

from dfs import errors, limits
from dfs.runtime import RealRuntime
from dfs.tasks import open_nursery
from dfs.types import ChunkId
from nodes.datanode import journal
from nodes.datanode.chunkfiles import data_path
from nodes.datanode.disk import RealDisk, RealFile
from nodes.datanode.index import Record
from nodes.datanode.journal import ALIGNMENT, JOURNAL, Entry, Journal
from nodes.datanode.store import ChunkStore
from tests.simulation.disk import InlineRuntime, MemoryDisk, PowerOff
from tests.unit.datanode.world import CHUNK, CLUSTER, DATA, appended, content, opened

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
OTHER = ChunkId(0x5634)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "JOURNAL_BYTES", 8 * ALIGNMENT)


@pytest.fixture
def disk() -> MemoryDisk:
    disk = MemoryDisk()
    opened(disk)
    Journal.create(disk, random.Random(1)).close()
    return disk


@pytest.fixture
def store(disk: MemoryDisk) -> ChunkStore:
    return opened(disk)


async def begun(store: ChunkStore, *chunks: ChunkId) -> None:
    """Have each of them begin with b"begun", in its own files: what follows may go to the journal."""
    for chunk in chunks:
        await appended(store, b"begun", chunk)
        await store.sync([chunk])


async def synced(store: ChunkStore, data: bytes, chunk: ChunkId = CHUNK) -> None:
    await appended(store, data, chunk)
    assert await store.sync([chunk]) == [store.chunks[chunk]]


def crashed(disk: MemoryDisk, seed: int = 1) -> ChunkStore:
    disk.crash(random.Random(seed))
    return opened(disk)


async def test_a_small_sync_is_one_flush(store: ChunkStore, disk: MemoryDisk) -> None:
    await begun(store, CHUNK)
    before = disk.syncs
    await synced(store, b"more")
    assert disk.syncs == before + 1
    assert disk.durable_size(DATA) == len(b"begun")


@pytest.mark.parametrize("seed", range(8))
async def test_what_it_made_durable_survives_a_crash(store: ChunkStore, disk: MemoryDisk, seed: int) -> None:
    await begun(store, CHUNK, OTHER)
    await synced(store, b"-one")
    await synced(store, b"-else", OTHER)
    await synced(store, b"-two")
    await appended(store, b"-never synced")
    again = crashed(disk, seed)
    assert await content(again, 0, 13) == b"begun-one-two"
    assert await content(again, 0, 10, OTHER) == b"begun-else"
    assert again.take_corrupt() == []
    assert disk.durable_size(DATA) >= 13, "it is in the chunk's own files now"
    await synced(again, b"-three")
    assert (await content(crashed(disk, seed), 0, 19)).startswith(b"begun-one-two-")


@pytest.mark.parametrize("operations", range(12))
async def test_the_power_may_go_again_while_it_is_read(store: ChunkStore, disk: MemoryDisk, operations: int) -> None:
    await begun(store, CHUNK)
    await synced(store, b"-one")
    await synced(store, b"-two")
    disk.crash(random.Random(operations))
    disk.power_off_after(operations)
    try:
        opened(disk)
    except PowerOff:
        pass
    assert await content(crashed(disk), 0, 13) == b"begun-one-two"


async def test_syncs_that_wait_together_are_one_flush(store: ChunkStore, disk: MemoryDisk) -> None:
    chunks = [ChunkId(number) for number in range(1, 4)]
    await begun(store, *chunks)
    for chunk in chunks:
        await appended(store, b"more", chunk)
    before = disk.syncs
    async with trio.open_nursery() as nursery:
        for chunk in chunks:
            nursery.start_soon(store.sync, [chunk])
    assert disk.syncs <= before + 2  # the first one does not wait for others
    again = crashed(disk)
    assert [await content(again, 0, 9, chunk) for chunk in chunks] == [b"begunmore"] * 3


class _Waiting(InlineRuntime):
    """Nothing is written into the journal before `go`."""

    def __init__(self) -> None:
        super().__init__()
        self.go = trio.Event()
        self.go.set()

    async def run_blocking(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        if getattr(work, "__func__", None) is Journal._write:
            await self.go.wait()
        return await super().run_blocking(work, *args)


async def test_who_gives_up_waits_all_the_same(disk: MemoryDisk) -> None:
    """What comes next goes on from there."""
    runtime = _Waiting()
    store = ChunkStore(disk, CLUSTER, runtime, 0)
    store.open()
    third = ChunkId(0x9934)
    await begun(store, CHUNK, OTHER, third)
    for chunk in (CHUNK, OTHER, third):
        await appended(store, b"-one", chunk)
    runtime.go = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.sync, [CHUNK])
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(store.sync, [OTHER])  # this one writes both
        await trio.testing.wait_all_tasks_blocked()
        given_up = await nursery.start(_sync_and_give_up, store, third)
        runtime.go.set()
        given_up.cancel()
    await synced(store, b"-two", third)
    assert await content(crashed(disk), 0, 13, third) == b"begun-one-two"


async def _sync_and_give_up(
    store: ChunkStore, chunk: ChunkId, *, task_status: trio.TaskStatus[trio.CancelScope]
) -> None:
    with trio.CancelScope() as scope:
        task_status.started(scope)
        await store.sync([chunk])


@pytest.mark.parametrize("seed", range(24))
async def test_what_a_first_power_cut_left_does_not_come_alive_after_a_second(disk: MemoryDisk, seed: int) -> None:
    """The first page of a half that was begun is lost, a later one is there, and the next start begins it again."""
    store = opened(disk)
    await begun(store, CHUNK, OTHER)
    for _ in range(2):
        await synced(store, b"fill")  # with the entry that begins it three of four places are taken
    await appended(store, b"a" * 5000, OTHER)  # two places: in the other half
    await appended(store, b"-never acknowledged")
    disk.power_off_after(2)  # the two entries are written, and not flushed
    with pytest.raises(PowerOff):
        async with open_nursery() as nursery:
            nursery.start_soon(store.sync, [OTHER])
            nursery.start_soon(store.sync, [CHUNK])
    again = crashed(disk, seed)
    length = again.chunks[CHUNK]
    await synced(again, b"=acknowledged")
    last = crashed(disk, seed)
    assert await content(last, length, 13) == b"=acknowledged"


@pytest.mark.parametrize("operations", range(8))
@pytest.mark.parametrize("seed", range(4))
async def test_a_mark_in_memory_only_does_not_void_what_is_on_the_disk(
    store: ChunkStore, disk: MemoryDisk, operations: int, seed: int
) -> None:
    """The process is killed while it syncs the chunk's files, the machine goes on; after a restart the power goes."""
    await begun(store, CHUNK)
    await synced(store, b"-one")
    disk.power_off_after(operations)
    with suppress(PowerOff):
        await store.close()
    disk.kill()
    opened(disk)
    assert await content(crashed(disk, seed), 0, 9) == b"begun-one"


async def test_what_a_start_after_a_crash_found_is_on_the_disk(disk: MemoryDisk) -> None:
    """Whoever left it had not synced it."""
    store = opened(disk)
    await appended(store, b"begun")
    await appended(store, b"-else", OTHER)
    disk.kill()
    opened(disk)
    assert disk.durable_size(DATA) == disk.durable_size(data_path(OTHER)) == 5


@pytest.mark.parametrize("times", [1, 2])
async def test_an_error_from_before_the_start_is_told_once(times: int) -> None:
    """As `syncfs` does, to the first who asks."""

    class Told(MemoryDisk):
        left = 0

        def sync_all(self) -> None:
            if self.left:
                self.left -= 1
                raise OSError(errno.EIO, "write-back failed")
            super().sync_all()

    disk = Told()
    store = opened(disk)
    await begun(store, CHUNK)
    disk.kill()
    disk.left = times
    if times == 1:
        assert await content(opened(disk), 0, 5) == b"begun"
    else:
        with pytest.raises(errors.DiskFailed):
            opened(disk)


@pytest.mark.parametrize("seed", range(8))
async def test_a_mark_that_a_killed_process_wrote_is_not_taken_for_flushed(disk: MemoryDisk, seed: int) -> None:
    store = opened(disk)
    await appended(store, b"begun")
    disk.power_off_after(4)  # its data and names are flushed, the mark is written
    with pytest.raises(PowerOff):
        await store.sync([CHUNK])
    disk.kill()
    again = opened(disk)
    if seed % 2:
        await again.close()
        again = opened(disk)
    assert await again.sync([CHUNK]) == [5]
    assert await content(crashed(disk, seed), 0, 5) == b"begun"


async def test_a_half_is_filled_anew_only_when_nobody_needs_it(store: ChunkStore, disk: MemoryDisk) -> None:
    """Each half has room for four entries. One chunk's, which nobody appends to any more, is in the way for a while."""
    await begun(store, CHUNK, OTHER)
    await synced(store, b"quiet", OTHER)
    for number in range(30):
        await synced(store, b"%04d" % number)
        if number % 7 == 0:
            assert await content(crashed_copy(disk), 0, 10, OTHER) == b"begunquiet"
    again = crashed(disk)
    assert await content(again, 0, 125) == b"begun" + b"".join(b"%04d" % number for number in range(30))
    assert await content(again, 0, 10, OTHER) == b"begunquiet"


async def test_it_serves_for_ever(store: ChunkStore, disk: MemoryDisk) -> None:
    """A half has room for four: of eight syncs one is of the chunk's own files."""
    await begun(store, CHUNK)
    before = disk.syncs
    for _ in range(80):
        await synced(store, b"more")
    assert disk.syncs <= before + 80 + 80 // 8 + 1


def crashed_copy(disk: MemoryDisk) -> ChunkStore:
    """What a crash now would leave, of which `disk` itself knows nothing."""
    copy = MemoryDisk()
    for path in disk.paths():
        copy.make_dirs(path.rpartition("/")[0])
        file = copy.open(path, create=True)
        file.pwrite([disk.read_file(path)[: disk.durable_size(path)]], 0)
        file.close()
    return opened(copy)


async def test_what_is_in_the_way_of_the_journal_is_synced_soon(store: ChunkStore, disk: MemoryDisk) -> None:
    await begun(store, CHUNK, OTHER)
    await synced(store, b"quiet", OTHER)
    size = 5
    for _ in range(6):  # now the other half is more than half full
        await synced(store, b"more")
        size += 4
    assert disk.durable_size(data_path(OTHER)) == 5
    await store.flush_due()
    assert disk.durable_size(data_path(OTHER)) == 10


@pytest.mark.parametrize("seed", range(4))
async def test_what_was_cut_does_not_come_back(store: ChunkStore, disk: MemoryDisk, seed: int) -> None:
    await begun(store, CHUNK)
    await synced(store, b"-one")
    await synced(store, b"-two")
    await store.cut(CHUNK, 9)
    assert await content(crashed(disk, seed), 0, 9) == b"begun-one"
    assert opened_length(disk) == 9


def opened_length(disk: MemoryDisk) -> int:
    return opened(disk).chunks[CHUNK]


async def test_what_was_freed_does_not_come_back(store: ChunkStore, disk: MemoryDisk) -> None:
    await begun(store, CHUNK)
    await synced(store, b"-one")
    await store.punch(CHUNK, [(5, 4)])
    again = crashed(disk)
    assert await content(again, 0, 5) == b"begun"
    with pytest.raises(errors.ChunkNotFound, match="were freed"):
        await again.read(CHUNK, 5, 4)


@pytest.mark.parametrize("seed", range(4))
async def test_what_a_start_has_voided_does_not_come_back(store: ChunkStore, disk: MemoryDisk, seed: int) -> None:
    await begun(store, CHUNK)
    await synced(store, b"-before")
    disk.kill()
    again = opened(disk)
    await again.delete(CHUNK)
    await begun(again, CHUNK)
    assert crashed(disk, seed).chunks[CHUNK] == 5


@pytest.mark.parametrize("seed", range(4))
async def test_a_chunk_made_anew_gets_nothing_of_the_one_before(store: ChunkStore, disk: MemoryDisk, seed: int) -> None:
    await begun(store, CHUNK)
    await synced(store, b"-before")
    await store.delete(CHUNK)
    await appended(store, b"anew!")
    await store.sync([CHUNK])
    again = crashed(disk, seed)
    assert again.chunks[CHUNK] == 5
    assert await content(again, 0, 5) == b"anew!"


async def test_a_large_sync_goes_to_the_chunk_alone(store: ChunkStore, disk: MemoryDisk) -> None:
    await begun(store, CHUNK)
    large = bytes(limits.JOURNAL_ENTRY_MAX_BYTES + 1)
    await synced(store, large)
    assert disk.durable_size(DATA) == 5 + len(large)


async def test_what_does_not_fit_goes_to_the_chunk_alone(store: ChunkStore, disk: MemoryDisk) -> None:
    await begun(store, CHUNK)
    await synced(store, bytes(4 * ALIGNMENT))
    assert disk.durable_size(DATA) == 5 + 4 * ALIGNMENT


async def test_a_first_sync_makes_the_names_durable(store: ChunkStore, disk: MemoryDisk) -> None:
    await synced(store, b"first")
    assert disk.durable_size(DATA) == 5


async def test_a_journal_is_made_by_whoever_may(disk: MemoryDisk) -> None:
    other = MemoryDisk()
    store = opened(other)
    await begun(store, CHUNK)
    await synced(store, b"-one")
    await store.flush_due()
    assert not other.exists(JOURNAL)
    store.makes_journal = True
    await store.flush_due()
    assert other.size(JOURNAL) == limits.JOURNAL_BYTES
    await synced(store, b"-two")
    assert other.durable_size(DATA) == 9
    assert await content(crashed(other), 0, 13) == b"begun-one-two"


@pytest.mark.parametrize("has_room", [True, False])
async def test_none_is_made_where_space_is_scarce(has_room: bool) -> None:
    disk = MemoryDisk(capacity_bytes=(limits.JOURNAL_FREE_TIMES + 8) * limits.JOURNAL_BYTES)
    store = opened(disk, reserve_bytes=0 if has_room else 9 * limits.JOURNAL_BYTES)
    store.makes_journal = True
    await store.flush_due()
    assert disk.exists(JOURNAL) is has_room
    await begun(store, CHUNK)
    await synced(store, b"more")


async def test_one_that_cannot_be_made_leaves_nothing_behind(autojump_clock: trio.testing.MockClock) -> None:
    other = MemoryDisk()
    store = opened(other)
    store.makes_journal = True
    other.fail("write", errno.ENOSPC, "journal")
    await store.flush_due()
    assert not [path for path in other.paths() if path.startswith(JOURNAL)]
    other.mend()
    await store.flush_due()
    assert not other.exists(JOURNAL), "it was just tried"
    autojump_clock.jump(limits.JOURNAL_RETRY_S)
    await store.flush_due()
    assert other.exists(JOURNAL) and store.drive.failed is None


async def test_one_that_cannot_be_written_fails_the_directory_for_all(store: ChunkStore, disk: MemoryDisk) -> None:
    await begun(store, CHUNK, OTHER)
    await appended(store, b"more")
    await appended(store, b"more", OTHER)
    disk.fail("sync", errno.EIO, JOURNAL)
    refused = []

    async def sync(chunk: ChunkId) -> None:
        with pytest.raises(errors.DiskFailed):
            await store.sync([chunk])
        refused.append(chunk)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sync, CHUNK)
        nursery.start_soon(sync, OTHER)
    assert sorted(refused) == sorted([CHUNK, OTHER])
    assert store.drive.failed is not None


async def test_one_that_takes_no_more_is_not_used_any_more(store: ChunkStore, disk: MemoryDisk) -> None:
    """As on a full file system that takes space to write anything again."""
    await begun(store, CHUNK)
    await synced(store, b"-one")
    disk.fail("write", errno.ENOSPC, JOURNAL)
    await synced(store, b"-two")
    disk.mend()
    await synced(store, b"-six")
    assert store.drive.failed is None and disk.durable_size(DATA) == 17
    assert await content(crashed(disk), 0, 17) == b"begun-one-two-six"


async def test_a_chunk_set_aside_and_made_anew_meanwhile_is_another(disk: MemoryDisk) -> None:
    runtime = _Waiting()
    store = ChunkStore(disk, CLUSTER, runtime, 0)
    store.open()
    await begun(store, CHUNK, OTHER)
    await appended(store, b"-one")
    await appended(store, b"-else", OTHER)
    runtime.go = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.sync, [OTHER])
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(store.sync, [CHUNK])  # it waits for the one before
        await trio.testing.wait_all_tasks_blocked()
        file = disk.open(DATA, create=False)
        file.truncate(0)
        file.close()
        with pytest.raises(errors.Corrupt):
            await store.read(CHUNK, 0, 9)
        assert CHUNK not in store.chunks
        await begun(store, CHUNK)
        runtime.go.set()
    await appended(store, b"-two")
    for _ in range(20):
        await synced(store, b"more", OTHER)
    before = disk.syncs
    for _ in range(8):
        await synced(store, b"more", OTHER)
    assert disk.syncs <= before + 10, "nothing of a chunk that is gone is in the way"
    assert await content(store, 0, 9) == b"begun-two"
    assert await content(crashed(disk), 0, 5) == b"begun"


async def test_damage_ends_what_can_be_found(store: ChunkStore, disk: MemoryDisk) -> None:
    await begun(store, CHUNK)
    for data in (b"-one", b"-two", b"-three"):
        await synced(store, data)
    disk.flip_bit(JOURNAL, 2 * ALIGNMENT + 57)  # in the second entry, after the one that begins the epoch
    found = journal.read(disk.open(JOURNAL, create=False)).entries
    assert [bytes(entry.data) for entry in found[CHUNK]] == [b"-one"]
    again = crashed(disk)
    assert (await content(again, 0, 9)) == b"begun-one"


async def test_one_that_cannot_be_read_is_no_reason_to_stay_away(store: ChunkStore, disk: MemoryDisk) -> None:
    await begun(store, CHUNK)
    await synced(store, b"-one")
    disk.crash(random.Random(1))
    disk.fail("read", errno.EIO, JOURNAL)
    again = opened(disk)
    assert await content(again, 0, 5) == b"begun"


def test_an_epoch_that_is_begun_twice_has_nothing_of_the_first_time(disk: MemoryDisk) -> None:
    entry = Entry(CHUNK, 2, 1, [Record(5, 4, crc32c(b"more"), False)], b"more")
    first = Journal.begin(disk, disk.open(JOURNAL, create=False), 7, random.Random(1))
    writes: list[tuple[int, bytes]] = []
    assert first._place(entry, writes)
    first._write(writes)
    file = disk.open(JOURNAL, create=False)
    assert list(journal.read(file).entries) == [CHUNK]
    Journal.begin(disk, file, 7, random.Random(2))
    assert journal.read(file).entries == {}


async def test_what_stands_before_a_place_that_cannot_be_read_is_found(tmp_path: Path) -> None:
    class Bad(RealFile):
        def pread_into(self, view: memoryview, offset: int) -> int:
            if offset >= 2 * ALIGNMENT:
                raise OSError(errno.EIO, "a bad sector")
            return super().pread_into(view, offset)

    disk = RealDisk(tmp_path)
    store = ChunkStore(disk, CLUSTER, RealRuntime(), 0)
    store.open()
    Journal.create(disk, random.Random(1)).close()
    store = ChunkStore(disk, CLUSTER, RealRuntime(), 0)
    store.open()
    await begun(store, CHUNK)
    await synced(store, b"-one")
    found = journal.read(Bad(os.open(tmp_path / JOURNAL, os.O_RDWR))).entries
    assert [bytes(entry.data) for entry in found[CHUNK]] == [b"-one"]
    await store.close()


async def test_what_is_left_of_one_that_was_being_made_is_removed(disk: MemoryDisk) -> None:
    disk.open(f"{JOURNAL}.new", create=True).close()
    opened(disk)
    assert not disk.exists(f"{JOURNAL}.new")


async def test_one_of_another_size_serves_as_it_is(
    store: ChunkStore, disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begun(store, CHUNK)
    await synced(store, b"-one")
    monkeypatch.setattr(limits, "JOURNAL_BYTES", 1 << 20)
    again = crashed(disk)
    assert await content(again, 0, 9) == b"begun-one"
    await synced(again, b"-two")
    assert await content(crashed(disk), 0, 13) == b"begun-one-two"
    assert disk.size(JOURNAL) == 8 * ALIGNMENT


async def test_after_a_clean_stop_it_has_nothing_to_say(store: ChunkStore, disk: MemoryDisk) -> None:
    await begun(store, CHUNK)
    await synced(store, b"-one")
    await store.close()
    assert disk.open_files == 0
    assert disk.durable_size(DATA) == 9
    again = opened(disk)
    assert journal.read(disk.open(JOURNAL, create=False)).entries == {}
    assert await content(again, 0, 9) == b"begun-one"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
async def test_where_none_can_be_begun_there_is_none(store: ChunkStore, disk: MemoryDisk, number: int) -> None:
    await begun(store, CHUNK)
    await synced(store, b"-one")
    disk.crash(random.Random(3))
    disk.fail("write", number, JOURNAL)
    again = opened(disk)
    assert await content(again, 0, 9) == b"begun-one"
    assert not disk.exists(JOURNAL) and again.drive.failed is None
    disk.mend()
    disk.crash(random.Random(2))
    assert not disk.exists(JOURNAL), "nor does it come back"


async def test_damaged_blocks_do_not_go_through_it(store: ChunkStore, disk: MemoryDisk) -> None:
    """What it holds is taken for whole."""
    await begun(store, CHUNK)
    await appended(store, b"-one")
    disk.flip_bit(DATA, 6)
    disk.cold = True
    with pytest.raises(errors.Corrupt):
        await store.read(CHUNK, 5, 4)
    assert await store.sync([CHUNK]) == [5]
    assert journal.read(disk.open(JOURNAL, create=False)).entries == {}
