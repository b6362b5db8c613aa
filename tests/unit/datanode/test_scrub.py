"""Bit rot in any file of a data directory is found, and nobody ever reads it as data."""

from __future__ import annotations

import errno
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from dfs import errors, limits
from dfs.checksum import sum_blocks
from dfs.types import ChunkId, NodeId
from nodes.datanode import obeyed
from nodes.datanode.chunkfiles import data_path, index_path
from nodes.datanode.journal import JOURNAL
from nodes.datanode.obeyed import Memory, load, save
from nodes.datanode.restraint import Restraint
from nodes.datanode.scrub import Scrub
from nodes.datanode.users import Users
from nodes.datanode.volumes import Volumes
from tests.simulation.disk import PAGE, InlineRuntime, MemoryDisk
from tests.unit.datanode.world import CLUSTER

NODE = NodeId("node-1")
FIRST, SECOND = ChunkId(0x101), ChunkId(0x201)
DATA = data_path(FIRST)
INDEX = index_path(FIRST)
BYTES = random.Random(7).randbytes(3 * 500)


def started(disk: MemoryDisk) -> Volumes:
    volumes = Volumes([disk], NODE, InlineRuntime(), 0)
    volumes.open()
    volumes.join(CLUSTER)
    return volumes


async def put(volumes: Volumes, chunk: ChunkId, data: bytes = BYTES) -> None:
    for start in range(0, len(data), 500):
        piece = data[start : start + 500]
        await volumes.append(chunk, start, sum_blocks(piece), piece)
    await volumes.sync([chunk])


async def filled(disk: MemoryDisk) -> Volumes:
    """Two chunks of three blocks each, synced twice so that both marks are written."""
    volumes = started(disk)
    for chunk in (FIRST, SECOND):
        await put(volumes, chunk, BYTES[:1000])
        await volumes.append(chunk, 1000, sum_blocks(BYTES[1000:]), BYTES[1000:])
        await volumes.sync([chunk])
    return volumes


def scrub_of(volumes: Volumes, period_s: float = 0, bandwidth: float = 1 << 40, users: Users | None = None) -> Scrub:
    return Scrub(volumes, Restraint(0.5, Memory()), InlineRuntime(), users or Users(), period_s, bandwidth)


async def findings(volumes: Volumes) -> list[str]:
    """What one pass finds."""
    scrub = scrub_of(volumes)
    await scrub.run_once()
    status = scrub.status()
    assert not status["running"] and status["last_finished_ns"]
    found: list[str] = status["findings"]
    return found


async def content(volumes: Volumes, chunk: ChunkId) -> bytes:
    _, buffers = await volumes.read(chunk, 0, len(BYTES))
    return b"".join(bytes(buffer) for buffer in buffers)


async def is_never_read_wrong(volumes: Volumes, chunk: ChunkId) -> bool:
    """Whether it is read as it was, if it is read; asserts that it is not read otherwise."""
    try:
        assert await content(volumes, chunk) == BYTES
    except (errors.Corrupt, errors.ChunkNotFound, errors.InvalidArgument):  # the last: it is shorter, and says so
        return False
    return True


# --- a flipped bit


async def test_a_sound_directory_has_nothing_to_be_found() -> None:
    disk = MemoryDisk()
    volumes = await filled(disk)
    await volumes.punch(FIRST, [(500, 500)])
    assert await findings(volumes) == []
    await volumes.close()
    volumes = started(disk)
    assert await findings(volumes) == [] and volumes.take_corrupt() == []
    assert not any(path.startswith("quarantine/") for path in disk.paths())


@pytest.mark.parametrize("path", [DATA, INDEX])
async def test_a_bit_that_flips_while_the_node_runs_is_found_wherever_it_is(path: str) -> None:
    size = len(BYTES) if path == DATA else 128 + 3 * 8
    for offset in range(size) if path == INDEX else range(0, size, 50):
        disk = MemoryDisk()
        volumes = await filled(disk)
        disk.flip_bit(path, offset, bit=offset % 8)
        found = await findings(volumes)
        assert len(found) == 1 and "101" in found[0], offset
        assert [chunk for chunk, _ in (*volumes.take_corrupt(), *volumes.take_damaged())] == [FIRST]
        assert await content(volumes, SECOND) == BYTES


@pytest.mark.parametrize("bit", [0, 7])
@pytest.mark.parametrize("path", [DATA, INDEX])
async def test_a_bit_that_flips_while_the_node_is_stopped_is_found(path: str, bit: int) -> None:
    size = len(BYTES) if path == DATA else 128 + 3 * 8
    for offset in range(size) if path == INDEX else range(0, size, 50):
        disk = MemoryDisk()
        await (await filled(disk)).close()
        disk.flip_bit(path, offset, bit)
        volumes = started(disk)
        assert await findings(volumes) or volumes.take_corrupt(), offset
        await is_never_read_wrong(volumes, FIRST)
        assert await content(volumes, SECOND) == BYTES


@pytest.mark.parametrize("bit", [0, 7])
async def test_a_bit_that_flips_while_the_machine_is_down_is_found_or_mended(bit: int) -> None:
    for offset in range(128 + 3 * 8):
        disk = MemoryDisk()
        await filled(disk)
        disk.crash(random.Random(offset))
        disk.flip_bit(INDEX, offset, bit)
        volumes = started(disk)
        found = [*volumes.take_corrupt(), *await findings(volumes)]
        assert await is_never_read_wrong(volumes, FIRST) or found or volumes.length(FIRST) != len(BYTES), offset
        assert volumes.is_damaged(FIRST) == bool(await findings(volumes)), offset  # its other blocks are of use


async def test_a_block_that_is_wrongly_called_freed_is_restored() -> None:
    disk = MemoryDisk()
    await (await filled(disk)).close()
    disk.flip_bit(INDEX, 128 + 8 + 3, bit=7)  # the flag of the second record
    volumes = started(disk)
    with pytest.raises(errors.ChunkNotFound):
        await content(volumes, FIRST)
    (found,) = await findings(volumes)
    assert "1 blocks of chunk 101 were wrongly called freed" in found
    assert await content(volumes, FIRST) == BYTES
    assert volumes.take_corrupt() == [] and await findings(volumes) == []


async def test_an_identity_that_is_damaged_under_a_running_node_is_written_anew() -> None:
    disk = MemoryDisk()
    volumes = await filled(disk)
    whole = disk.read_file("identity.json")
    for offset in range(0, len(whole) - 1, 7):
        disk.flip_bit("identity.json", offset)
        assert any("identity.json was damaged" in found for found in await findings(volumes)), offset
        assert disk.read_file("identity.json") == whole
    disk.remove("identity.json")
    assert await findings(volumes) and disk.read_file("identity.json") == whole


async def test_any_flipped_bit_in_a_stopped_nodes_identity_keeps_its_directory_out() -> None:
    disk = MemoryDisk()
    await (await filled(disk)).close()
    for offset in range(len(disk.read_file("identity.json")) - 1):
        disk.flip_bit("identity.json", offset, bit=offset % 7)
        volumes = Volumes([disk], NODE, InlineRuntime(), 0)
        with pytest.raises((errors.DiskFailed, errors.FormatUnknown)):
            volumes.open()
        disk.flip_bit("identity.json", offset, bit=offset % 7)
    assert started(disk).chunk_count() == 2


async def test_a_damaged_word_of_a_clean_stop_is_not_believed() -> None:
    disk = MemoryDisk()
    await (await filled(disk)).close()
    disk.flip_bit("clean", 20)
    index = disk.read_file(INDEX)
    disk.replace_file(INDEX, index[:-8])  # seen by a start that looks into chunks, and by no other
    assert started(disk).length(FIRST) == 1000


async def test_damaged_progress_and_a_damaged_memory_are_written_anew() -> None:
    disk = MemoryDisk()
    volumes = await filled(disk)
    assert await findings(volumes) == []
    await save(volumes.stores, Memory(9))
    for path in ("scrub.json", "obeyed.json"):
        disk.flip_bit(path, 10)
    disk.flip_bit("obeyed.json", obeyed.RECORD_BYTES + 10)
    restraint = Restraint(0.5, Memory(9, generation=3))
    scrub = Scrub(volumes, restraint, InlineRuntime(), Users(), 0, 1 << 40)
    await scrub.run_once()
    assert scrub.status()["found"] == 2
    assert restraint.memory.generation > 3  # so the agent writes it with its next heartbeat
    assert json.loads(disk.read_file("scrub.json"))["last_found"] == 2
    assert load([disk]).held_because


async def test_what_is_in_quarantine_is_nobodys_concern_any_more() -> None:
    disk = MemoryDisk()
    volumes = await filled(disk)
    disk.flip_bit(INDEX, 3)
    assert len(await findings(volumes)) == 1
    for path in [path for path in disk.paths() if path.startswith("quarantine/")]:
        disk.flip_bit(path, 0)
    assert await findings(volumes) == []


# --- files that go, and files that come


def swap(disk: MemoryDisk) -> None:
    disk.rename(DATA, "other")
    disk.rename(data_path(SECOND), DATA)
    disk.rename("other", data_path(SECOND))


def truncate(disk: MemoryDisk) -> None:
    file = disk.open(DATA, create=False)
    file.truncate(1000)
    file.close()


DAMAGES: dict[str, Callable[[MemoryDisk], None]] = {
    "truncated": truncate,
    "data removed": lambda disk: disk.remove(DATA),
    "index removed": lambda disk: disk.remove(INDEX),
    "both removed": lambda disk: (disk.remove(DATA), disk.remove(INDEX))[0],
    "replaced by another's index": lambda disk: disk.replace_file(INDEX, disk.read_file(index_path(SECOND))),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_files_hurt_under_a_running_node_are_found(damage: str) -> None:
    disk = MemoryDisk()
    volumes = await filled(disk)
    await content(volumes, FIRST)  # its files are open
    DAMAGES[damage](disk)
    assert len(await findings(volumes)) == 1
    assert [chunk for chunk, _ in volumes.take_corrupt()] == [FIRST]
    assert volumes.length(FIRST) is None and await content(volumes, SECOND) == BYTES


@pytest.mark.parametrize("damage", DAMAGES)
async def test_files_hurt_while_the_node_is_stopped_are_found_or_not_reported(damage: str) -> None:
    disk = MemoryDisk()
    await (await filled(disk)).close()
    DAMAGES[damage](disk)
    volumes = started(disk)
    found = [*volumes.take_corrupt(), *await findings(volumes)]
    assert found or volumes.length(FIRST) is None
    assert not await is_never_read_wrong(volumes, FIRST)
    assert await content(volumes, SECOND) == BYTES


@pytest.mark.parametrize("running", [True, False])
async def test_two_chunks_that_changed_places_are_both_found(running: bool) -> None:
    disk = MemoryDisk()
    volumes = started(disk)
    await put(volumes, FIRST)
    await put(volumes, SECOND, BYTES[::-1])
    if not running:
        await volumes.close()
    swap(disk)
    if not running:
        volumes = started(disk)
    assert len(await findings(volumes)) == 2
    assert [chunk for chunk, _ in (volumes.take_corrupt() if running else volumes.take_damaged())] == [FIRST, SECOND]


async def test_files_of_others_are_told_and_let_alone() -> None:
    disk = MemoryDisk()
    volumes = await filled(disk)
    await volumes.stores[0].flush_due()
    assert disk.exists(JOURNAL), "which is no stranger"
    strangers = ["notes.txt", "chunks/stray", "chunks/01/0000000000000101.bak", "chunks/01/0000000000000901"]
    for path in strangers:
        disk.replace_file(path, b"mine")
    found = await findings(volumes)
    assert len(found) == len(strangers) and all(any(path in line for line in found) for path in strangers)
    assert all(disk.read_file(path) == b"mine" for path in strangers)
    scrub = scrub_of(volumes)
    await scrub.run_once()
    assert scrub.status()["found"] == 0  # strange is not damaged


async def test_names_are_looked_at_one_directory_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once would keep a node with a million chunks from everything else for a second."""
    disk = MemoryDisk()
    volumes = started(disk)
    for chunk in (1, 2, 0x102):
        await put(volumes, ChunkId(chunk))
    listed = []

    def list_dir(path: str) -> list[str]:
        listed.append((path, turns))
        return MemoryDisk.list_dir(disk, path)

    turns = 0
    on_disk = volumes.stores[0].drive.on_disk

    async def in_a_turn_of_its_own(*args: Any) -> Any:
        nonlocal turns
        turns += 1
        return await on_disk(*args)

    monkeypatch.setattr(disk, "list_dir", list_dir)
    monkeypatch.setattr(volumes.stores[0].drive, "on_disk", in_a_turn_of_its_own)
    assert await findings(volumes) == []
    of_chunks = [turn for path, turn in listed if path.startswith("chunks/")]
    assert len(of_chunks) == len(set(of_chunks)) == 2


async def test_a_chunk_whose_name_can_be_no_chunks_any_more_is_told_and_let_alone() -> None:
    """The NameNode would refuse a node with such a number."""
    disk = MemoryDisk()
    volumes = await filled(disk)
    await volumes.close()
    spoiled = [f"chunks/01/8000000000000101{suffix}" for suffix in ("", ".idx")]
    for path, name in zip((DATA, INDEX), spoiled, strict=True):
        disk.rename(path, name)
    volumes = started(disk)
    assert volumes.last_chunk() == SECOND
    found = await findings(volumes)
    assert len(found) == 2 and all(any(path in line for line in found) for path in spoiled)
    assert all(disk.exists(path) for path in spoiled)


async def test_a_directory_whose_disk_went_away_leaves_service() -> None:
    disk = MemoryDisk()
    volumes = await filled(disk)
    for path in disk.paths():
        disk.remove(path)
    disk.fail("read", errno.ENODEV)
    await scrub_of(volumes).run_once()
    assert volumes.statistics()[0].failed


async def test_a_pass_in_which_the_disk_fails_is_not_finished() -> None:
    disk = MemoryDisk()
    volumes = started(disk)
    for number in range(1, 11):
        await put(volumes, ChunkId(number))
    disk.fail("read", errno.EIO, "chunks")
    scrub = scrub_of(volumes)
    await scrub.run_once()
    assert scrub.status()["failed"] == ["memory is out of service, and not scrubbed: Input/output error"]
    progress = json.loads(disk.read_file("scrub.json"))
    assert progress["next"] and not progress["last_finished_ns"]


# --- how fast, and how far


async def test_one_bad_chunk_does_not_stop_the_sweep() -> None:
    disk = MemoryDisk()
    volumes = started(disk)
    for number in range(1, 21):
        await put(volumes, ChunkId(number))
    for number in (3, 9, 20):
        disk.flip_bit(data_path(ChunkId(number)), 700)
    assert len(await findings(volumes)) == 3
    assert [chunk for chunk, _ in volumes.take_damaged()] == [3, 9, 20]


async def test_a_pass_takes_the_period_and_no_more_bandwidth_than_it_may(
    autojump_clock: trio.testing.MockClock,
) -> None:
    volumes = started(MemoryDisk())
    for number in range(1, 11):
        await put(volumes, ChunkId(number), bytes(500 * 2))
    scrub = scrub_of(volumes, period_s=1000.0)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrub.run)
        while not scrub.status()["last_finished_ns"]:
            await trio.sleep(1)
        assert 990 <= trio.current_time() - began <= 1010
        nursery.cancel_scope.cancel()
    slow = scrub_of(volumes, bandwidth=100.0)
    began = trio.current_time()
    await slow.run_once()
    assert 85 <= trio.current_time() - began <= 101  # 10,000 bytes, the last of which need not be waited for


async def test_a_pass_takes_the_period_where_chunks_were_punched_and_are_slow_to_read(
    autojump_clock: trio.testing.MockClock,
) -> None:
    volumes = started(MemoryDisk())
    for number in range(1, 11):
        await put(volumes, ChunkId(number))
        await volumes.punch(ChunkId(number), [(0, 1000)])
    scrub = scrub_of(volumes, period_s=1000.0, bandwidth=10.0)  # half of the period goes by while they are read
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrub.run)
        while not scrub.status()["last_finished_ns"]:
            status = scrub.status()
            assert status["bytes_done"] <= status["bytes_total"] == volumes.used_bytes() == 5000
            await trio.sleep(1)
        assert 990 <= trio.current_time() - began <= 1010
        nursery.cancel_scope.cancel()


async def test_a_scrub_that_is_wanted_at_once_does_not_rest(autojump_clock: trio.testing.MockClock) -> None:
    volumes = await filled(MemoryDisk())
    scrub = scrub_of(volumes, period_s=limits.SCRUB_PERIOD_S)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrub.run)
        await trio.sleep(60)
        assert scrub.status()["chunks_done"] == 1 and not scrub.status()["running"]
        scrub.scrub_now()
        assert scrub.status()["running"]
        while scrub.status()["running"]:
            await trio.sleep(0.1)
        assert trio.current_time() < 3600
        assert scrub.status()["last_finished_ns"]
        nursery.cancel_scope.cancel()


async def test_what_a_pass_found_is_told_while_the_next_one_is_under_way(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = MemoryDisk()
    volumes = await filled(disk)
    disk.flip_bit(INDEX, 3)
    scrub = scrub_of(volumes, period_s=limits.SCRUB_PERIOD_S)
    for found in (1, 0):
        scrub.scrub_now()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scrub.run)
            await trio.sleep(60)
            status = scrub.status()
            assert not status["running"] and status["chunks_done"] == 1  # of the next one
            assert status["found"] == status["last_found"] == len(status["findings"]) == found
            assert (status["last_chunks"], status["last_bytes"] > status["bytes_done"]) == (1 + found, found == 1)
            nursery.cancel_scope.cancel()


async def test_a_scrub_goes_on_where_it_was_after_a_restart(autojump_clock: trio.testing.MockClock) -> None:
    disk = MemoryDisk()
    volumes = started(disk)
    for number in range(1, 11):
        await put(volumes, ChunkId(number))
    for _ in range(2):
        scrub = scrub_of(volumes, period_s=limits.SCRUB_PERIOD_S)
        with trio.move_on_after(limits.SCRUB_PERIOD_S * 0.45):
            await scrub.run()
        await volumes.close()
        volumes = started(disk)
    progress = json.loads(disk.read_file("scrub.json"))
    assert progress["chunks"] in (9, 10) and progress["next"] in (10, 11)


async def test_a_scrub_lets_users_go_first_but_not_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    volumes = await filled(MemoryDisk())
    users = Users()
    scrub = scrub_of(volumes, users=users)
    began = trio.current_time()
    with users.call():
        await scrub.run_once()
    waited_s = trio.current_time() - began
    assert 2 * limits.SCRUB_YIELD_MAX_S <= waited_s <= 10 * limits.SCRUB_YIELD_MAX_S


async def test_a_scrub_meets_users_who_append_cut_punch_and_delete(autojump_clock: trio.testing.MockClock) -> None:
    volumes = started(MemoryDisk())
    chance = random.Random(3)

    async def use(chunk: ChunkId) -> None:
        for _ in range(30):
            await put(volumes, chunk, chance.randbytes(2000))
            await trio.sleep(chance.random() * 0.01)
            await volumes.punch(chunk, [(500, 500)])
            await volumes.cut(chunk, 1700)
            await trio.sleep(chance.random() * 0.01)
            await volumes.delete(chunk)

    async with trio.open_nursery() as nursery:
        for number in range(1, 5):
            nursery.start_soon(use, ChunkId(number))
        for _ in range(30):
            scrub = scrub_of(volumes, bandwidth=200 * PAGE)
            await scrub.run_once()
            assert scrub.status()["findings"] == []
            await trio.sleep(0.003)
    assert volumes.take_corrupt() == []
