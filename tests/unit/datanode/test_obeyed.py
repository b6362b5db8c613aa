"""What was obeyed is remembered whatever happens to the disk, also on one that is full."""

from __future__ import annotations

import errno
import random

import pytest

from nodes.datanode import obeyed, statefile
from nodes.datanode.obeyed import Memory, load, save
from tests.simulation.disk import MemoryDisk, PowerOff
from tests.unit.datanode.world import stores_on


def fill(disk: MemoryDisk) -> None:
    disk.set_capacity(disk.capacity_bytes() - disk.free_bytes())


def flip(disk: MemoryDisk, record: int, offset: int = 20, bit: int = 0) -> None:
    disk.flip_bit("obeyed.json", record * obeyed.RECORD_BYTES + offset, bit)


def records(disk: MemoryDisk) -> list[bytes]:
    raw = disk.read_file("obeyed.json")
    return [raw[: obeyed.RECORD_BYTES], raw[obeyed.RECORD_BYTES :]]


async def test_the_newest_of_two_directories_memories_counts() -> None:
    disks = [MemoryDisk(name="a"), MemoryDisk(name="b"), MemoryDisk(name="c")]
    await save(stores_on(disks), Memory(100, generation=1))
    disks[0].fail("write", errno.EIO)
    await save(stores_on(disks), Memory(100, "a reason", generation=2))
    assert load(disks).held_because == "a reason"


async def test_a_memory_that_cannot_be_written_is_an_error() -> None:
    disk = MemoryDisk()
    disk.fail("write", errno.EROFS)
    for disks in ([disk], []):
        with pytest.raises(OSError):
            await save(stores_on(disks), Memory(1))


async def test_disks_that_take_no_memory_are_passed_over_for_others() -> None:
    disks = [MemoryDisk(name=name) for name in "abcd"]
    for disk in disks[:2]:
        disk.fail("write", errno.ENOSPC)
    await save(stores_on(disks[:3]), Memory(100, generation=1))
    assert load(disks[:3]) == Memory(100, generation=1)
    disks[0].mend()
    await save(stores_on(disks), Memory(200, generation=2))
    assert [load([disk]).log_index for disk in disks] == [200, 0, 200, 0]


async def test_a_damaged_memory_holds_everything_unless_another_directory_has_it() -> None:
    disks = [MemoryDisk(name="a"), MemoryDisk(name="b"), MemoryDisk(name="c")]
    assert load(disks) == Memory()
    await save(stores_on(disks), Memory(100))
    for record in (0, 1):
        flip(disks[0], record)
    assert load(disks) == Memory(100)
    for record in (0, 1):
        flip(disks[1], record)
    assert "a/obeyed.json is damaged" in load(disks[:1]).held_because
    assert load(disks).held_because  # the third has room for a memory, and none


async def test_a_flipped_bit_costs_nothing_and_is_seen() -> None:
    disk = MemoryDisk()
    memory = Memory(100, "a reason", generation=7)
    await save(stores_on([disk]), memory)
    for offset in range(0, obeyed.RECORD_BYTES, 13):
        for record in (0, 1):
            assert not obeyed.is_damaged(disk)
            flip(disk, record, offset, offset % 8)
            assert obeyed.is_damaged(disk) and load([disk]) == memory
            flip(disk, record, offset, offset % 8)


async def test_a_disk_that_filled_up_takes_what_is_obeyed() -> None:
    disk = MemoryDisk()
    assert load([disk]) == Memory() and not obeyed.is_damaged(disk)
    fill(disk)
    for generation in (1, 2, 3):
        await save(stores_on([disk]), Memory(100 * generation, generation=generation))
    assert load([disk]) == Memory(300, generation=3)


async def test_a_disk_that_is_full_from_the_beginning_leaves_it_to_others() -> None:
    disks = [MemoryDisk(name="a"), MemoryDisk(name="b")]
    fill(disks[0])
    assert load(disks) == Memory()
    await save(stores_on(disks), Memory(100, generation=1))
    assert [disk.exists("obeyed.json") for disk in disks] == [False, True]


@pytest.mark.parametrize("steps", range(4))
async def test_power_cuts_leave_what_was_remembered_or_what_was_to_be(steps: int) -> None:
    for seed in range(50):
        source, disk = random.Random(seed), MemoryDisk()
        possible = [load([disk])]
        for generation in range(1, 10):
            memory = Memory(generation, generation=generation)
            disk.power_off_after(steps if source.random() < 0.8 else 100)
            try:
                await save(stores_on([disk]), memory)
            except PowerOff:
                possible.append(memory)
            else:
                possible = [memory]
            disk.crash(source)
            possible = [load([disk])] if load([disk]) in possible else []
            assert possible, seed


@pytest.mark.parametrize("torn", [0, 1])
async def test_a_second_power_cut_does_not_tear_the_record_that_the_first_one_left(torn: int) -> None:
    disk = MemoryDisk()
    memory = Memory(100, generation=1)
    await save(stores_on([disk]), memory)
    flip(disk, torn)
    before = records(disk)
    disk.power_off_after(1)
    with pytest.raises(PowerOff):
        await save(stores_on([disk]), Memory(200, generation=2))
    (written,) = [number for number in (0, 1) if records(disk)[number] != before[number]]
    flip(disk, written)
    disk.crash(random.Random(0))
    assert load([disk]) == memory


@pytest.mark.parametrize("seed", range(4))
async def test_one_record_is_on_the_disk_before_the_other_is_written(seed: int) -> None:
    disk = MemoryDisk()
    await save(stores_on([disk]), Memory(100, generation=1))
    disk.power_off_after(2)
    with pytest.raises(PowerOff):
        await save(stores_on([disk]), Memory(200, generation=2))
    disk.crash(random.Random(seed))
    assert load([disk]) == Memory(200, generation=2)


async def test_a_file_of_one_record_is_read_and_made_anew() -> None:
    disk = MemoryDisk()
    memory = Memory(100, "a reason", generation=7)
    statefile.write(disk, "obeyed.json", 1, memory._asdict())
    assert load([disk]) == memory
    fill(disk)
    await save(stores_on([disk]), memory._replace(generation=8))
    assert load([disk]).generation == 8


async def test_a_memory_of_a_newer_version_holds_everything() -> None:
    disk = MemoryDisk()
    statefile.write(disk, "obeyed.json", 3, {})
    assert "has format 3" in load([disk]).held_because


async def test_a_long_reason_has_room() -> None:
    disk = MemoryDisk()
    await save(stores_on([disk]), Memory(2**63 - 1, "\N{FLOPPY DISK}" * 5000, "x" * 300, generation=2**63 - 1))
    assert load([disk]).held_because
