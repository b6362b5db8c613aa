"""Several directories as one, and whose they are."""

from __future__ import annotations

import errno
import json
import random
from typing import Any

import pytest
import trio
import trio.testing

from dfs import errors, limits
from dfs.checksum import sum_blocks
from dfs.types import ChunkId, ClusterId, NodeId
from nodes.datanode import statefile
from nodes.datanode.store import ChunkStore
from nodes.datanode.volumes import Volumes
from tests.simulation.disk import PAGE, InlineRuntime, MemoryDisk, PowerOff
from tests.unit.datanode.world import CHUNK, CLUSTER, DATA, appended, opened

NODE = NodeId("node-1")
OTHER = ClusterId("f" * 32)


def two_disks() -> list[MemoryDisk]:
    return [MemoryDisk(1000 * PAGE, "disk-1"), MemoryDisk(2000 * PAGE, "disk-2")]


def started(disks: list[MemoryDisk], seed: int = 0, limit_bytes: int = 0, node: NodeId = NODE) -> Volumes:
    volumes = Volumes(disks, node, InlineRuntime(seed), 0, limit_bytes)
    volumes.open()
    return volumes


def joined(disks: list[MemoryDisk], limit_bytes: int = 0, seed: int = 0) -> Volumes:
    volumes = started(disks, seed, limit_bytes)
    volumes.join(CLUSTER)
    return volumes


async def put(volumes: Volumes, chunk: int, data: bytes = b"x") -> None:
    offset = volumes.length(ChunkId(chunk)) or 0
    await volumes.append(ChunkId(chunk), offset, sum_blocks(data), data)


async def is_whole(volumes: Volumes, chunk: ChunkId) -> bool:
    """Whether it is read; of one whose sync failed the bytes may be gone."""
    try:
        await volumes.read(chunk, 0, 1)
    except errors.Corrupt:
        return False
    return True


# --- whose they are


async def test_directories_are_a_clusters_once_they_joined_it() -> None:
    disks = two_disks()
    volumes = started(disks)
    assert volumes.cluster is None
    with pytest.raises(errors.Busy):
        await put(volumes, 1)
    volumes.join(CLUSTER)
    await put(volumes, 1)
    await volumes.close()
    again = started(disks)
    assert again.cluster == CLUSTER and again.chunk_count() == 1
    with pytest.raises(errors.WrongCluster, match=OTHER):
        again.join(OTHER)
    again.join(CLUSTER)


async def test_another_nodes_directory_is_refused_and_let_go() -> None:
    disks = two_disks()
    await joined(disks).close()
    with pytest.raises(errors.WrongCluster, match="'node-1', not to 'node-2'"):
        started(disks, node=NodeId("node-2"))
    started(disks)  # nothing is locked any more


async def test_directories_of_two_clusters_are_not_mixed() -> None:
    disks = two_disks()
    await joined(disks[:1]).close()
    other = started(disks[1:])
    other.join(OTHER)
    await other.close()
    with pytest.raises(errors.WrongCluster):
        started(disks)


async def test_an_identity_of_a_newer_version_is_refused() -> None:
    disks = two_disks()
    statefile.write(disks[0], "identity.json", 4, {})
    with pytest.raises(errors.FormatUnknown, match=r"disk-1/identity\.json has format 4"):
        started(disks)


async def test_an_identity_without_checksum_is_read_and_written_anew() -> None:
    disks = two_disks()
    ids = {"directory": "a" * 16, "directories": ["a" * 16]}
    disks[0].replace_file("identity.json", json.dumps({"format": 1, "cluster": CLUSTER, "node": NODE, **ids}).encode())
    await joined(disks[:1]).close()
    assert json.loads(disks[0].read_file("identity.json"))["format"] == 3
    assert started(disks[:1]).directory_ids() == ["a" * 16]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format": 3}', b"\xff", b'{"format": 1}'])
async def test_a_directory_with_a_damaged_identity_is_left_out(content: bytes) -> None:
    disks = two_disks()
    disks[0].replace_file("identity.json", content)
    volumes = started(disks)
    assert [line.failed is not None for line in volumes.statistics()] == [True, False]
    assert "disk-1/identity.json is damaged" in (volumes.statistics()[0].failed or "")
    await volumes.close()
    with pytest.raises(errors.DiskFailed, match=r"disk-1/identity\.json is damaged: restore it"):
        started(disks[:1])


async def test_a_directory_has_one_daemon() -> None:
    disks = two_disks()
    volumes = joined(disks)
    with pytest.raises(errors.DirectoryInUse, match="disk-1"):
        started(disks)
    await volumes.close()
    started(disks)


async def test_a_disk_that_is_not_mounted_is_not_taken_for_a_new_one() -> None:
    disks = two_disks()
    await joined(disks).close()
    mount_point = MemoryDisk(name="disk-2")
    with pytest.raises(errors.InvalidArgument, match=r"disk-2 is empty.*mount its disk"):
        started([disks[0], mount_point])
    mount_point.open("new-disk", create=True).close()
    volumes = joined([disks[0], mount_point], seed=1)
    assert not mount_point.exists("new-disk")
    await volumes.close()
    assert len(json.loads(disks[0].read_file("identity.json"))["directories"]) == 2
    started([disks[0], mount_point])


def listed(disk: MemoryDisk) -> tuple[str, set[str]]:
    """A directory's own id, and those that it remembers."""
    found = json.loads(disk.read_file("identity.json"))
    return found["directory"], set(found["directories"])


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("known", [0, 1])
async def test_joining_that_the_power_cuts_short_anywhere_is_completed_at_the_next_start(
    victim: int, known: int
) -> None:
    cut_short = 0
    while True:
        disks = two_disks()
        if known:
            await joined(disks[:known]).close()
        volumes = started(disks, seed=1)
        disks[victim].power_off_after(cut_short)
        try:
            volumes.join(CLUSTER)
        except PowerOff:
            cut_short += 1
        else:
            break
        for disk in disks:
            disk.crash(random.Random(cut_short))
        again = joined(disks, seed=2)
        assert [volume.failed for volume in again.statistics()] == [None, None]
        assert {listed(disk)[0] for disk in disks} == listed(disks[0])[1] == listed(disks[1])[1]
        await put(again, 1)
        await again.close()
        assert started(disks).chunk_count() == 1
    assert cut_short > 3


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("operation", ["write", "sync", "names"])
async def test_a_disk_that_fails_at_joining_is_taken_up_when_it_is_well_again(operation: str, victim: int) -> None:
    disks = two_disks()
    volumes = started(disks)
    disks[victim].fail(operation, errno.EIO, "" if operation == "sync" else "identity.json")
    volumes.join(CLUSTER)
    assert [volume.failed is None for volume in volumes.statistics()] == [victim == 1, victim == 0]
    await put(volumes, 1)
    await volumes.close()
    disks[victim].mend()
    again = joined(disks, seed=1)
    assert [volume.failed for volume in again.statistics()] == [None, None] and again.chunk_count() == 1
    assert {listed(disk)[0] for disk in disks} == listed(disks[0])[1] == listed(disks[1])[1]


def fill(disk: MemoryDisk) -> None:
    disk.set_capacity(disk.capacity_bytes() - disk.free_bytes())


async def test_a_full_directory_stays_in_service_when_another_is_added_and_learns_of_it_when_it_has_room() -> None:
    disks = two_disks()
    volumes = joined(disks[:1])
    await put(volumes, 1, b"x" * PAGE)
    await volumes.close()
    again = started(disks, seed=1)
    fill(disks[0])
    again.join(CLUSTER)
    assert [volume.failed for volume in again.statistics()] == [None, None] and again.length(ChunkId(1)) == PAGE
    own, known = listed(disks[0])
    assert known == {own} and listed(disks[1])[1] == {own, listed(disks[1])[0]}
    assert not again.mend_identity(again.stores[0]) and listed(disks[0])[1] == {own}
    disks[0].set_capacity(1000 * PAGE)
    assert not again.mend_identity(again.stores[0])  # it was never damaged
    assert listed(disks[0])[1] == listed(disks[1])[1]


async def test_a_new_directory_without_room_for_its_identity_is_left_out() -> None:
    disks = two_disks()
    await joined(disks[:1]).close()
    fill(disks[1])
    assert [volume.failed for volume in joined(disks, seed=1).statistics()] == [None, "No space left on device"]


async def test_no_directory_takes_chunks_before_all_know_one_another() -> None:
    disks = [MemoryDisk(name="disk-1"), MemoryDisk(1000 * PAGE, "disk-2")]  # a chunk would go to the first
    volumes = started(disks)
    disks[1].power_off_after(0)
    with pytest.raises(PowerOff):
        volumes.join(CLUSTER)
    with pytest.raises(errors.Busy):
        await put(volumes, 1)


# --- which directory


async def test_new_chunks_go_where_most_is_free() -> None:
    disks = [MemoryDisk(1000 * PAGE, "disk-1"), MemoryDisk(1000 * PAGE, "disk-2")]
    volumes = joined(disks)
    for number in range(1, 11):
        await put(volumes, number, b"x" * 20 * PAGE)
    counts = [line.chunks for line in volumes.statistics()]
    assert counts == [5, 5]
    assert volumes.chunk_count() == 10
    assert volumes.used_bytes() == 200 * PAGE


async def test_chunks_of_all_directories_are_listed_in_order() -> None:
    volumes = joined(two_disks())
    for number in range(1, 8):
        await put(volumes, number, b"x" * 40 * PAGE)
    assert all(line.chunks for line in volumes.statistics())
    assert [entry[0] for entry in volumes.list_chunks(ChunkId(0), 3)] == [1, 2, 3]
    assert volumes.list_chunks(ChunkId(5), 10) == [(6, 40 * PAGE, False), (7, 40 * PAGE, False)]
    await volumes.delete(ChunkId(6))
    await volumes.delete(ChunkId(6))
    assert [entry[0] for entry in volumes.list_chunks(ChunkId(5), 10)] == [7]


async def test_the_highest_chunk_number_is_known() -> None:
    volumes = joined(two_disks())
    assert volumes.last_chunk() == 0
    for chunk in (3, 900, 7):
        await put(volumes, chunk)
    assert volumes.last_chunk() == 900


async def test_every_verb_finds_its_chunk() -> None:
    volumes = joined(two_disks())
    for number in (1, 2):
        await put(volumes, number, b"a" * PAGE)
        await put(volumes, number, b"b" * PAGE)
    assert await volumes.sync([ChunkId(2), ChunkId(9), ChunkId(1)]) == [2 * PAGE, -1, 2 * PAGE]
    for number in (ChunkId(1), ChunkId(2)):
        await volumes.verify(number)
        records, _ = await volumes.read_records(number, 0, 10)
        assert len(records) == 2
        await volumes.cut(number, PAGE)
        _, buffers = await volumes.read(number, 0, PAGE)
        assert bytes(buffers[0]) == b"a" * PAGE
        await volumes.punch(number, [(0, PAGE)])
        with pytest.raises(errors.ChunkNotFound):
            await volumes.read(number, 0, 1)
        await volumes.cut(number, 0)
        assert volumes.length(number) is None
    with pytest.raises(errors.ChunkNotFound):
        await volumes.read(ChunkId(9), 0, 1)


async def test_no_more_is_used_than_is_allowed() -> None:
    volumes = joined(two_disks(), limit_bytes=10 * PAGE)
    assert volumes.capacity_bytes() == volumes.free_bytes() == 10 * PAGE
    await put(volumes, 1, b"x" * 6 * PAGE)
    assert volumes.free_bytes() == 4 * PAGE
    with pytest.raises(errors.NoSpace, match="raise capacity_bytes"):
        await put(volumes, 2, b"x" * 5 * PAGE)
    await put(volumes, 2, b"x" * 4 * PAGE)


async def test_an_append_that_is_repeated_needs_no_room() -> None:
    volumes = joined(two_disks(), limit_bytes=10 * PAGE)
    data = b"x" * 10 * PAGE
    for _ in range(2):  # the answer to the first was lost
        assert await volumes.append(ChunkId(1), 0, sum_blocks(data), data) == len(data)
    assert volumes.used_bytes() == 10 * PAGE


async def test_full_directories_take_no_new_chunk() -> None:
    disks = two_disks()
    volumes = joined(disks)
    for disk in disks:
        fill(disk)
    with pytest.raises(errors.NoSpace):
        await put(volumes, 1)


# --- directories that fail


async def look_after(volumes: Volumes, time_s: float) -> None:
    with trio.move_on_after(time_s):
        await volumes.look_after()


async def test_a_node_goes_on_without_a_directory_that_failed(autojump_clock: trio.testing.MockClock) -> None:
    disks = two_disks()
    volumes = joined(disks)
    for number in range(1, 11):
        await put(volumes, number, b"x" * 40 * PAGE)
    kept = volumes.statistics()[0].chunks
    lost = list(volumes.stores[1].chunks)
    disks[1].fail("sync", errno.EIO)
    lengths = await volumes.sync([ChunkId(number) for number in range(1, 11)])
    assert lengths.count(-1) == len(lost) > 0
    assert volumes.chunk_count() == kept == len(volumes.list_chunks(ChunkId(0), 100)) > 0
    assert [line.failed for line in volumes.statistics()] == [None, "Input/output error"]
    assert [chunk for chunk in lost if await is_whole(volumes, chunk)]  # reads are tried still
    await put(volumes, 11)
    assert volumes.length(ChunkId(11)) == 1
    await look_after(volumes, limits.FLUSH_AFTER_S)
    await volumes.close()
    assert disks[0].exists("clean") and not disks[1].exists("clean")


async def test_what_only_a_failed_directory_has_counts_as_deleted_and_can_be_made_anew() -> None:
    disks = two_disks()
    volumes = joined(disks)
    for number in range(1, 11):
        await put(volumes, number, b"x" * 40 * PAGE)
    lost = next(iter(volumes.stores[1].chunks))
    disks[1].fail("sync", errno.EIO)
    await volumes.sync([lost])
    await volumes.delete(lost)
    with pytest.raises(errors.ChunkNotFound):
        await volumes.append(lost, 40 * PAGE, sum_blocks(b"more"), b"more")
    await put(volumes, lost, b"y" * PAGE)
    assert await volumes.sync([lost]) == [PAGE]
    _, buffers = await volumes.read(lost, 0, PAGE)
    assert bytes(buffers[0]) == b"y" * PAGE
    await volumes.delete(lost)
    assert volumes.length(lost) is None


async def test_a_node_starts_without_a_directory_that_cannot_be_used() -> None:
    disks = two_disks()
    await joined(disks).close()
    disks[0].fail("read", errno.EIO)
    volumes = started(disks)
    assert [line.failed for line in volumes.statistics()] == ["Input/output error", None]
    volumes.join(CLUSTER)
    await put(volumes, 1)
    await volumes.close()
    disks[1].fail("read", errno.EIO)
    with pytest.raises(errors.DiskFailed, match="none of the data directories"):
        started(disks)


@pytest.mark.parametrize("operation", ["open", "read"])
async def test_a_node_does_not_start_while_the_machine_is_short_of_means(operation: str) -> None:
    disks = two_disks()
    volumes = joined(disks)
    for number in range(1, 11):
        await put(volumes, number, b"x" * 40 * PAGE)
    await volumes.sync([ChunkId(number) for number in range(1, 11)])
    await volumes.close(clean=False)
    disks[1].fail(operation, errno.ENFILE)
    with pytest.raises(errors.Busy, match=r"disk-2.*Too many open files in system"):
        started(disks)
    disks[1].mend()
    again = started(disks)
    assert again.chunk_count() == 10 and again.take_corrupt() == []


async def test_of_two_copies_of_a_chunk_the_longer_stays() -> None:
    disks = two_disks()
    await joined(disks).close()
    for disk, length in zip(disks, (10, 20), strict=True):
        store = opened(disk)
        await appended(store, b"x" * length)
        await store.close()
    volumes = started(disks)
    assert [(entry[0], entry[1]) for entry in volumes.list_chunks(ChunkId(0), 10)] == [(0x1234, 20)]
    assert "quarantine/0000000000001234.0" in disks[0].paths()


async def test_of_two_copies_of_a_chunk_the_one_stays_of_which_more_can_be_read() -> None:
    disks = two_disks()
    await joined(disks).close()
    for disk, length in zip(disks, (limits.MIB, 2 * limits.MIB), strict=True):
        store = opened(disk)
        await appended(store, bytes(length))
        if length > limits.MIB:
            disk.flip_bit(DATA, 0)
            with pytest.raises(errors.Corrupt):
                await store.verify(CHUNK)
        await store.close()
    volumes = started(disks)
    assert volumes.length(CHUNK) == 2 * limits.MIB and volumes.is_damaged(CHUNK)


async def test_a_crash_of_the_node_loses_nothing_that_was_synced() -> None:
    disks = two_disks()
    volumes = joined(disks)
    for number in range(1, 11):
        await put(volumes, number, b"x" * 40 * PAGE)
    await volumes.sync([ChunkId(number) for number in range(1, 11)])
    for seed, disk in enumerate(disks):
        disk.crash(random.Random(seed))
    again = started(disks)
    assert again.chunk_count() == 10 and again.take_corrupt() == []


async def test_a_directory_that_became_read_only_is_left_out_before_anybody_writes_there(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disks = two_disks()
    volumes = joined(disks)
    for number in range(1, 11):
        await put(volumes, number, b"x" * 40 * PAGE)
    disks[1].fail("space", errno.EROFS)
    await trio.sleep(2 * limits.FREE_SPACE_CHECK_PERIOD_S)
    assert volumes.free_bytes() <= 1000 * PAGE
    assert [line.failed for line in volumes.statistics()] == [None, "Read-only file system"]
    assert volumes.chunk_count() == volumes.statistics()[0].chunks
    disks[1].mend()
    assert volumes.statistics()[1].failed  # until a restart
    for disk in disks:
        disk.kill()
    assert started(disks).chunk_count() == 10


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO])
@pytest.mark.parametrize("operation", ["touch", "sync"])
async def test_a_disk_that_takes_no_changes_is_noticed_though_nobody_makes_any(
    number: int, operation: str, autojump_clock: trio.testing.MockClock
) -> None:
    disks = two_disks()
    volumes = joined(disks)
    await look_after(volumes, 2 * limits.DISK_PROBE_PERIOD_S)
    assert [line.failed for line in volumes.statistics()] == [None, None]
    disks[1].fail(operation, number)
    await look_after(volumes, 2 * limits.DISK_PROBE_PERIOD_S)
    assert [line.failed is not None for line in volumes.statistics()] == [False, True]


async def test_a_disk_that_cannot_read_several_chunks_leaves_service() -> None:
    disks = [MemoryDisk(name="disk-1")]
    volumes = joined(disks)
    for number in range(1, 11):
        await put(volumes, number)
    disks[0].cold = True
    disks[0].fail("read", errno.EIO, "chunks")
    for number in range(1, limits.READ_ERRORS_MAX + 1):
        assert volumes.statistics()[0].failed is None
        with pytest.raises(errors.Corrupt, match="cannot be read"):
            await volumes.read(ChunkId(number), 0, 1)
    assert volumes.statistics()[0].failed == "Input/output error"
    assert [chunk for chunk, _ in volumes.take_damaged()] == list(range(1, limits.READ_ERRORS_MAX + 1))
    assert volumes.chunk_count() == 0
    with pytest.raises(errors.DiskFailed, match="none of the data directories of DataNode 'node-1' can be used"):
        await put(volumes, 11)


async def test_a_disk_that_loses_a_sector_now_and_then_stays_in_service(autojump_clock: trio.testing.MockClock) -> None:
    disks = [MemoryDisk(name="disk-1")]
    volumes = joined(disks)
    for number in range(1, 11):
        await put(volumes, number)
    disks[0].cold = True
    disks[0].fail("read", errno.EIO, "chunks")
    for number in range(1, 11):
        with pytest.raises(errors.Corrupt, match="cannot be read"):
            await volumes.read(ChunkId(number), 0, 1)
        await trio.sleep(limits.READ_ERRORS_WITHIN_S / (limits.READ_ERRORS_MAX - 1))
    assert volumes.statistics()[0].failed is None


async def test_damaged_chunks_are_no_failure_of_the_disk() -> None:
    disks = [MemoryDisk(name="disk-1")]
    volumes = joined(disks)
    for number in range(1, 2 * limits.READ_ERRORS_MAX + 1):
        await put(volumes, number)
        disks[0].flip_bit(f"chunks/{number:02x}/{number:016x}", 0)
        with pytest.raises(errors.Corrupt):
            await volumes.read(ChunkId(number), 0, 1)
    assert volumes.statistics()[0].failed is None


async def test_a_full_directory_serves_what_it_has_and_comes_back(autojump_clock: trio.testing.MockClock) -> None:
    disks = two_disks()
    volumes = joined(disks)
    for number in range(1, 11):
        await put(volumes, number, b"x" * PAGE)
    held = list(volumes.stores[0].chunks)
    fill(disks[0])
    await trio.sleep(2 * limits.FREE_SPACE_CHECK_PERIOD_S)
    assert [(line.full, line.failed) for line in volumes.statistics()] == [(True, None), (False, None)]
    with pytest.raises(errors.NoSpace):
        await put(volumes, held[0], b"y" * PAGE)
    _, buffers = await volumes.read(held[0], 0, PAGE)
    assert bytes(buffers[0]) == b"x" * PAGE
    for number in range(20, 30):
        await put(volumes, number)
    assert list(volumes.stores[0].chunks) == held
    await volumes.delete(held[0])
    disks[0].set_capacity(1000 * PAGE)
    await trio.sleep(2 * limits.FREE_SPACE_CHECK_PERIOD_S)
    assert not volumes.statistics()[0].full
    await put(volumes, held[1], b"y" * PAGE)


async def test_directories_on_one_file_system_share_its_space() -> None:
    disks = [MemoryDisk(1000 * PAGE, name, file_system=1) for name in ("a", "b")]
    volumes = joined([*disks, MemoryDisk(500 * PAGE, "c", file_system=2)])
    assert volumes.capacity_bytes() == 1500 * PAGE
    assert volumes.free_bytes() <= 1500 * PAGE


async def test_what_is_used_is_what_was_not_punched() -> None:
    disks = [MemoryDisk(name="disk-1")]
    volumes = joined(disks)
    for _ in range(4):
        await put(volumes, 1, b"x" * 4 * PAGE)
    await put(volumes, 2, b"x" * 100)
    assert volumes.used_bytes() == 16 * PAGE + 100
    await volumes.punch(ChunkId(1), [(4 * PAGE, 8 * PAGE)])
    assert volumes.used_bytes() == 8 * PAGE + 100
    await volumes.close()
    volumes = started(disks)
    assert volumes.used_bytes() == 8 * PAGE + 100
    await volumes.cut(ChunkId(1), 10 * PAGE)  # of which the second block, and half of the third, are gone
    assert volumes.used_bytes() == 4 * PAGE + 100
    await volumes.delete(ChunkId(1))
    assert volumes.used_bytes() == 100


async def test_a_directory_that_failed_is_not_forgotten_by_the_others() -> None:
    disks = two_disks()
    await joined(disks).close()
    whole = json.loads(disks[0].read_file("identity.json"))["directories"]
    disks[1].fail("read", errno.EIO)
    await joined(disks).close()
    assert json.loads(disks[0].read_file("identity.json"))["directories"] == whole


async def test_a_chunk_that_several_create_at_once_is_in_one_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    volumes = joined(two_disks())
    chosen = iter([*volumes.stores, *volumes.stores])
    monkeypatch.setattr(volumes, "_chosen", lambda _: next(chosen))
    passed, go_on = ChunkStore.append_records, trio.Event()

    async def wait(self: ChunkStore, chunk: ChunkId, offset: int, records: Any, data: Any, **how: Any) -> int:
        if bytes(data) == b"fails":
            raise errors.Corrupt("not what was sent")
        await go_on.wait()
        return await passed(self, chunk, offset, records, data, **how)

    monkeypatch.setattr(ChunkStore, "append_records", wait)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(put, volumes, 1)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(errors.Corrupt):
                await put(volumes, 1, b"fails")
            nursery.start_soon(put, volumes, 1)
            await trio.testing.wait_all_tasks_blocked()
            go_on.set()
    assert sorted(len(store.chunks) for store in volumes.stores) == [0, 1]
    assert not volumes._placing


async def test_there_is_no_journal_before_older_versions_refuse_the_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would not look into it."""
    monkeypatch.setattr(limits, "JOURNAL_BYTES", 8 * PAGE)
    disks = two_disks()
    await joined(disks[:1]).close()
    statefile.write(disks[0], "identity.json", 2, _identity(disks[0]))
    volumes = started(disks[:1])
    for _ in range(3):
        await put(volumes, 1)
        await volumes.sync([ChunkId(1)])
        await volumes.stores[0].flush_due()
    assert not disks[0].exists("journal")
    volumes.join(CLUSTER)
    await put(volumes, 1)
    await volumes.sync([ChunkId(1)])
    await volumes.stores[0].flush_due()
    assert disks[0].exists("journal") and json.loads(disks[0].read_file("identity.json"))["format"] == 3


async def test_an_identity_of_an_older_format_is_not_called_damaged() -> None:
    """As when a scrub comes before the NameNode was reached."""
    disks = two_disks()
    await joined(disks[:1]).close()
    statefile.write(disks[0], "identity.json", 2, _identity(disks[0]))
    volumes = started(disks[:1])
    assert not volumes.mend_identity(volumes.stores[0])
    assert json.loads(disks[0].read_file("identity.json"))["format"] == 3
    disks[0].replace_file("identity.json", b"{}")
    assert volumes.mend_identity(volumes.stores[0])
    assert json.loads(disks[0].read_file("identity.json"))["format"] == 3


def _identity(disk: MemoryDisk) -> dict[str, object]:
    found = json.loads(disk.read_file("identity.json"))
    return {key: value for key, value in found.items() if key not in ("format", "crc32c")}
