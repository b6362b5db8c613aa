"""Orders that may destroy what is right wait for an operator, and stand in nobody's way meanwhile."""

from __future__ import annotations

from typing import Any, NamedTuple

import trio
import trio.testing

from dfs import limits
from dfs.types import ChunkId
from nodes.datanode.obeyed import Memory, load, save
from nodes.datanode.restraint import Restraint
from tests.simulation.disk import MemoryDisk
from tests.unit.datanode.world import stores_on


def deletes(first: int, count: int) -> list[list[Any]]:
    return [[number, "delete", number] for number in range(first, first + count)]


class Here(NamedTuple):
    """What the node has: chunks with numbers up to `last`, of which `count` have been there for long."""

    count: int
    last: int = 1_000_000

    def last_chunk(self) -> ChunkId:
        return ChunkId(self.last)

    def chunks_up_to(self, _chunk: ChunkId) -> int:
        return self.count


def sifted(
    restraint: Restraint, orders: list[list[Any]], index: int | None, chunks: int | Here = 10
) -> tuple[int, int]:
    """How many of the orders are obeyed, and begun; how many held."""
    here = Here(chunks) if isinstance(chunks, int) else chunks
    obeyed, held = restraint.sift(orders, index, here, is_draining=False)
    for order in obeyed:
        restraint.note_begun(order, is_draining=False)
    return len(obeyed), len(held)


def restored() -> Restraint:
    """A node whose NameNode is back from an old copy, and had three chunks deleted by it."""
    restraint = Restraint(0.5, Memory())
    assert sifted(restraint, deletes(1, 2), 100) == (2, 0)
    assert sifted(restraint, [*deletes(5, 1), [6, "cut", 6, 10], [7, "punch", 7, []]], 90) == (0, 3)
    return restraint


# --- a namenode from the past


async def test_orders_of_a_namenode_that_goes_forward_are_obeyed() -> None:
    restraint = Restraint(0.5, Memory())
    for index in (1, 1, 7, 100):
        assert sifted(restraint, deletes(1, 3), index) == (3, 0)
    assert restraint.memory.log_index == 100 and restraint.report() is None


async def test_what_is_obeyed_is_to_be_remembered_and_copies_are_not(autojump_clock: trio.testing.MockClock) -> None:
    restraint = Restraint(0.5, Memory())
    sifted(restraint, [], 40)
    assert sifted(restraint, [[-1, "copy", 5, 10, []]], 50) == (1, 0)
    assert restraint.memory.log_index == 40
    sifted(restraint, deletes(1, 1), 50)
    assert restraint.memory.log_index == 50


async def test_how_far_the_namenode_is_is_remembered_though_nothing_is_destroyed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    restraint = Restraint(0.5, Memory())
    sifted(restraint, [], 100)
    sifted(restraint, [], 110)
    assert restraint.memory.log_index == 100  # and not written with each answer
    await trio.sleep(limits.INDEX_NOTED_EVERY_S)
    sifted(restraint, [], 120)
    again = Restraint(0.5, restraint.memory)
    assert sifted(again, [[1, "cut", 6, 10]], 119) == (0, 1)
    await trio.sleep(limits.INDEX_NOTED_EVERY_S)
    sifted(again, [], 200)  # it has come far since then, and is still another one
    again.note_heard()
    assert again.memory.log_index == 120


async def test_a_namenode_restored_from_an_old_copy_destroys_nothing() -> None:
    restraint = restored()
    report = restraint.report()
    assert report is not None and report["orders"] == 3
    assert "change 90, and was at 100" in report["reason"]
    assert sifted(restraint, [*deletes(8, 1), [-9, "copy", 9, 10, []]], 500) == (1, 1)  # however far it has come since


async def test_a_namenode_that_goes_back_is_noticed_even_if_it_never_was_obeyed() -> None:
    restraint = Restraint(0.5, Memory())
    sifted(restraint, [], 100)
    assert sifted(restraint, deletes(1, 1), 99) == (0, 1)


async def test_the_hold_and_the_index_survive_a_restart() -> None:
    disks = [MemoryDisk(name="a"), MemoryDisk(name="b")]
    await save(stores_on(disks), Memory(100, generation=1))
    again = Restraint(0.5, load(disks))
    assert sifted(again, deletes(1, 1), 99) == (0, 1)
    await save(stores_on(disks), again.memory._replace(generation=2))
    assert sifted(Restraint(0.5, load(disks)), deletes(1, 1), 1000) == (0, 1)


async def test_a_namenode_that_says_no_index_is_obeyed() -> None:
    restraint = Restraint(0.5, Memory(100))
    assert sifted(restraint, deletes(1, 2), None) == (2, 0)
    assert restraint.memory.log_index == 100


# --- what an operator says


async def test_allowed_orders_come_again_and_the_namenode_is_trusted_from_its_index_on() -> None:
    restraint = restored()
    assert restraint.decide(allow=True) == [5, 6, 7]
    assert restraint.report() is None and restraint.memory.log_index == 90
    assert sifted(restraint, deletes(5, 1), 91) == (1, 0)
    assert sifted(restraint, deletes(9, 1), 80) == (0, 1)


async def test_discarded_orders_are_held_again_unless_the_namenode_is_a_newer_one() -> None:
    restraint = restored()
    assert restraint.decide(allow=False) == [5, 6, 7]
    assert restraint.report() is None and restraint.memory.log_index == 100
    assert sifted(restraint, deletes(5, 1), 95) == (0, 1)
    restraint.decide(allow=False)
    assert sifted(restraint, deletes(5, 1), 100) == (1, 0)


# --- a mass of deletions


async def test_more_than_a_share_of_the_chunks_is_not_deleted_in_an_hour(
    autojump_clock: trio.testing.MockClock,
) -> None:
    restraint = Restraint(0.5, Memory())
    chunks, deleted = 10_000, 0
    for start in range(1, 10_000, 250):
        count, _ = sifted(restraint, deletes(start, 250), 1, chunks)
        chunks, deleted = chunks - count, deleted + count
    assert deleted == 5000
    report = restraint.report()
    assert report is not None and report["orders"] == 5000 and "wants more" in report["reason"]
    await trio.sleep(2 * limits.HOLD_WINDOW_S)
    assert sifted(restraint, deletes(20_000, 1), 1, chunks) == (0, 1)  # it does not forget by itself
    numbers = restraint.decide(allow=True)
    assert len(numbers) == 5001
    assert sifted(restraint, deletes(5001, 4999), 1, chunks) == (4999, 0)


async def test_small_numbers_and_slow_deletion_are_no_mass(autojump_clock: trio.testing.MockClock) -> None:
    restraint = Restraint(0.5, Memory())
    assert sifted(restraint, deletes(1, limits.HOLD_MIN_CHUNKS), 1, limits.HOLD_MIN_CHUNKS) == (
        limits.HOLD_MIN_CHUNKS,
        0,
    )
    for hour in range(20):
        await trio.sleep(limits.HOLD_WINDOW_S + 1)
        assert sifted(restraint, deletes(hour * 4000, 4000), 1, 10_000) == (4000, 0)


async def test_who_writes_and_removes_all_day_is_no_mass(autojump_clock: trio.testing.MockClock) -> None:
    restraint = Restraint(0.5, Memory())
    sifted(restraint, [], 1, Here(5000, 5000))
    first = 5001
    for _ in range(200):  # ten times as much within each hour as there is for long
        await trio.sleep(60)
        last = first + 800
        assert sifted(restraint, deletes(first, 800), 1, Here(5000, last)) == (800, 0)
        first = last
    count = 5000 // 2
    assert sifted(restraint, deletes(1, count), 1, Here(5000, first)) == (count, 0)
    assert sifted(restraint, deletes(count + 1, 1), 1, Here(5000 - count, first)) == (0, 1)
    assert sifted(restraint, deletes(first - 1, 1), 1, Here(5000 - count, first)) == (0, 1)  # all is held then


async def test_chunks_are_old_after_an_hour_and_at_a_start(autojump_clock: trio.testing.MockClock) -> None:
    count = limits.HOLD_MIN_CHUNKS
    restraint = Restraint(0.5, Memory())
    sifted(restraint, [], 1, Here(0, 0))
    await trio.sleep(60)
    sifted(restraint, [], 1, Here(0, 5 * count))
    await trio.sleep(limits.HOLD_WINDOW_S - 60)
    assert sifted(restraint, deletes(1, 2 * count), 1, Here(0, 5 * count)) == (2 * count, 0)
    again = Restraint(0.5, restraint.memory)
    await trio.sleep(61)
    for each in (restraint, again):
        assert sifted(each, deletes(2 * count + 1, count + 5), 1, Here(count, 5 * count)) == (count, 5)


async def test_an_order_that_fails_and_comes_again_counts_once(autojump_clock: trio.testing.MockClock) -> None:
    restraint = Restraint(0.5, Memory())
    for _ in range(10):
        assert sifted(restraint, deletes(1, 200), 1, 400) == (200, 0)
        await trio.sleep(60)
    count = limits.HOLD_MIN_CHUNKS - 200
    assert sifted(restraint, deletes(1001, count + 5), 1, 400) == (count, 5)  # others count as ever


async def test_orders_that_are_not_begun_do_not_count(autojump_clock: trio.testing.MockClock) -> None:
    restraint = Restraint(0.5, Memory())
    for start in range(1, 10 * limits.HOLD_MIN_CHUNKS, 250):  # nothing can be written down
        obeyed, held = restraint.sift(deletes(start, 250), 1, Here(400), is_draining=False)
        assert (len(obeyed), held) == (250, [])
    count = limits.HOLD_MIN_CHUNKS
    assert sifted(restraint, deletes(1, count + 5), 1, 400) == (count, 5)


async def test_what_an_operator_allowed_is_allowed_until_it_is_begun() -> None:
    restraint = Restraint(0.5, Memory())
    count = limits.HOLD_MIN_CHUNKS
    assert sifted(restraint, deletes(1, count + 5), 1, 400) == (count, 5)
    numbers = restraint.decide(allow=True)
    assert sifted(restraint, deletes(10_001, count), 1, 400) == (count, 0)
    for _ in range(2):
        obeyed, _ = restraint.sift(deletes(numbers[0], 5), 1, Here(400), is_draining=False)
        assert len(obeyed) == 5
    assert sifted(restraint, deletes(numbers[0], 5), 1, 400) == (5, 0)
    assert sifted(restraint, deletes(20_001, 1), 1, 400) == (0, 1)


async def test_an_emptied_node_and_a_share_of_all_know_no_mass() -> None:
    obeyed, _ = Restraint(0.5, Memory()).sift(deletes(1, 9000), 1, Here(9000), is_draining=True)
    assert len(obeyed) == 9000
    assert sifted(Restraint(1.0, Memory()), deletes(1, 9000), 1, 9000) == (9000, 0)
