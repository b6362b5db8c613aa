"""What the kernel is made to forget: more than it is sure to show, and never less."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from dfs.client.cache import Cache
from dfs.client.session import Session
from dfs.types import ALL_NAMES, ROOT_INO, Attr, Ino, Item
from mount.device import Device
from mount.kernel import Kernel

D, OTHER, FILE = Ino(10), Ino(11), Ino(12)


class Told:
    """In place of a `Device`: what the kernel was made to forget; pages when they are unlocked."""

    zeroes_ends = True

    def __init__(self) -> None:
        self.unlocked = threading.Event()
        self.unlocked.set()
        self.attributes: list[int] = []
        self.inodes: list[int] = []
        self.names: list[tuple[int, bytes]] = []
        self.stored: list[int] = []

    def forget_attributes(self, number: int) -> None:
        self.attributes.append(number)

    def forget_inode(self, number: int) -> None:
        self.unlocked.wait()
        self.inodes.append(number)

    def forget_name(self, directory: int, name: bytes) -> None:
        self.names.append((directory, name))

    def store(self, number: int, offset: int, data: Any) -> None:
        self.stored.append(number)


class World:
    """A mount's kernel; all that it asks the cache about is leased."""

    def __init__(self) -> None:
        self.work: list[Callable[[], Any]] = []
        self.session = SimpleNamespace(
            held_besides=[], kernel_timeout_s=10.0, is_trusted=True, spawn=lambda work: self.work.append(work)
        )
        cache = SimpleNamespace(
            covers=lambda _: True,
            covers_name=lambda *_: True,
            lists=lambda _: True,
            lists_first=lambda _: True,
        )
        self.told = Told()
        self.kernel = Kernel(cast(Session, self.session), cast(Cache, cache), ROOT_INO, cast(Device, self.told))

    def held(self) -> tuple[list[Ino], list[Ino]]:
        (besides,) = self.session.held_besides
        return cast("tuple[list[Ino], list[Ino]]", besides())


@pytest.fixture
def world() -> World:
    return World()


def attr(version: int = 1, ino: Ino = FILE) -> Attr:
    return Attr(ino, 0o100644, 1, 0, 0, 0, 0, 0, 1, 2, 3, 4, version, 3)


async def test_what_it_may_show_is_claimed_until_it_was_made_to_forget(world: World) -> None:
    world.kernel.attr_timeout_s(attr())
    world.kernel.name_timeout_s(D, b"name", FILE)
    world.kernel.lists(OTHER, await world.kernel.begins_pass(OTHER))
    assert world.held() == ([FILE], [D, OTHER])
    items: list[Item] = [(FILE, None), (D, ALL_NAMES), (OTHER, ALL_NAMES)]
    await world.kernel.forget(items)
    assert (world.told.attributes, world.told.names) == ([FILE], [(D, b"name")])
    assert sorted(world.told.inodes) == [OTHER, FILE]
    assert world.held()[0] == []


async def test_a_name_that_it_was_given_by_a_rename_is_forgotten(world: World) -> None:
    """With the time-out of the old one."""
    world.kernel.name_timeout_s(D, b"old", FILE)
    world.kernel.renames(D, b"old", OTHER, b"new")
    await world.kernel.forget([(OTHER, b"new")])
    assert world.told.names == [(OTHER, b"new")]


async def test_a_listing_of_which_names_were_recalled_does_not_become_whole(world: World) -> None:
    reading = await world.kernel.begins_pass(D)
    world.kernel.lists(D, reading)
    await world.kernel.forget([(D, b"name")])
    world.told.inodes.clear()
    world.kernel.lists(D, reading)
    await world.kernel.ends_listing(D, reading)
    assert world.told.inodes == [D]


async def test_a_listing_a_part_of_which_was_told_without_a_lease_does_not_become_whole(world: World) -> None:
    """Nor one that somebody else reads meanwhile: there is one of each directory."""
    mine, others = await world.kernel.begins_pass(D), await world.kernel.begins_pass(D)
    world.session.is_trusted = False
    world.kernel.lists(D, others)
    world.session.is_trusted = True
    world.kernel.lists(D, mine)
    await world.kernel.ends_listing(D, mine)
    assert world.told.inodes == [D]


async def test_a_listing_that_is_leased_from_first_to_last_is_kept(world: World) -> None:
    reading = await world.kernel.begins_pass(D)
    world.kernel.lists(D, reading)
    await world.kernel.ends_listing(D, reading)
    assert world.told.inodes == []


async def test_pages_are_kept_for_the_version_that_they_are_of_and_what_this_mount_made_of_it(world: World) -> None:
    kernel = world.kernel
    assert not kernel.keeps_pages(attr(1))
    assert kernel.keeps_pages(attr(1))
    kernel.changed(attr(2))
    assert kernel.keeps_pages(attr(2))
    kernel.changed(attr(4))  # between the two somebody else has written
    assert not kernel.keeps_pages(attr(4))


async def test_pages_with_bytes_that_are_lost_are_not_kept(world: World) -> None:
    world.kernel.keeps_pages(attr())
    world.kernel.lost(FILE)
    assert not world.kernel.keeps_pages(attr())
    await world.work[0]()
    assert world.told.inodes == [FILE]


async def test_news_that_it_may_not_show_has_arrived_as_well_before_it_is_forgotten(world: World) -> None:
    """Or the kernel passes it over, and who has asked for it reads to the end that the file had before."""
    await world.kernel.forget([(FILE, None)])
    for size, waits in ((10, True), (10, False), (20, True), (20, False)):
        began = trio.current_time()
        assert world.kernel.attr_timeout_s(attr()._replace(size=size)) == 0.0, "somebody else has just changed it"
        assert world.held() == ([], []), "nobody relies on it"
        await world.kernel.forget([(FILE, None)])
        assert (trio.current_time() >= began + 0.025) == waits


async def test_pages_are_forgotten_with_all_else_though_its_attributes_have_timed_out(world: World) -> None:
    world.kernel.keeps_pages(attr())
    await world.kernel.forget_all()
    assert world.told.inodes == [FILE]
    assert not world.kernel.keeps_pages(attr())


async def test_pages_are_given_of_the_version_only_that_it_was_told_of(world: World) -> None:
    world.kernel.attr_timeout_s(attr(1))
    assert not world.kernel.give(attr(2), 0, b"newer")
    assert world.kernel.give(attr(1), 0, b"content")
    assert world.told.stored == [FILE]


async def test_what_was_just_told_is_forgotten_when_it_has_arrived(world: World) -> None:
    """A notification that overtakes an answer is of no use."""
    began = trio.current_time()
    world.kernel.name_timeout_s(D, b"name", FILE)
    await world.kernel.forget([(D, b"name")])
    assert trio.current_time() >= began + 0.025
    world.kernel.attr_timeout_s(attr())
    began = trio.current_time()
    await world.kernel.forget([(FILE, None)])
    assert trio.current_time() >= began + 0.025


async def test_pages_that_were_told_without_a_lease_are_forgotten_once_however_many_they_are(world: World) -> None:
    for _ in range(3):
        world.kernel.forget_soon(FILE)
    assert len(world.work) == 1 and world.told.inodes == []
    await world.work[0]()
    assert world.told.inodes == [FILE]
    world.kernel.forget_soon(FILE)
    assert len(world.work) == 2


async def test_who_writes_a_part_of_a_page_does_not_keep_others_waiting_until_it_is_unlocked(world: World) -> None:
    """He may be waiting for just them. Whoever has begun to wait before he writes does not wait longer either."""
    world.told.unlocked.clear()
    with world.kernel.writing_part(FILE), trio.fail_after(0.5):
        await world.kernel.forget([(FILE, None)])
    assert world.told.inodes == []
    with trio.fail_after(0.5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.kernel.forget, [(FILE, None), (OTHER, None)])
            await trio.sleep(0.05)
            with world.kernel.writing_part(OTHER):
                await trio.sleep(0.1)
    assert (world.told.attributes, world.told.inodes) == ([FILE, FILE, OTHER], [])
    world.told.unlocked.set()


async def test_pages_that_are_locked_for_anything_else_are_waited_for(world: World) -> None:
    world.told.unlocked.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.kernel.forget, [(FILE, None)])
        with world.kernel.writing_part(OTHER):
            await trio.sleep(0.3)
        assert len(nursery.child_tasks) == 1
        world.told.unlocked.set()
    assert world.told.inodes == [FILE]


async def test_a_recall_is_answered_when_pages_are_forgotten_that_were_told_meanwhile(world: World) -> None:
    assert not world.kernel.tells_meanwhile(FILE)
    world.told.unlocked.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.kernel.forget, [(FILE, None), (OTHER, None)])
        await trio.sleep(0.05)
        assert world.kernel.tells_meanwhile(FILE) and not world.kernel.tells_meanwhile(D)
        world.told.unlocked.set()
    assert world.told.inodes == [FILE, OTHER, FILE]
    assert not world.kernel.tells_meanwhile(FILE)
