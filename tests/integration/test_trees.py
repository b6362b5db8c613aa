"""Who walks a tree is told of many directories at a time, and sees what others do in them all the same."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from dfs import errors, limits
from dfs.client import FileSystem
from dfs.client.cache import Cache
from dfs.types import Ino
from tests.cluster import questions, running_cluster

_PATIENCE_S = 60
_DIRECTORIES = 60


@asynccontextmanager
async def tree(directory: Path) -> AsyncIterator[tuple[FileSystem, FileSystem]]:
    """/top with _DIRECTORIES in it, each with a file and a directory that has a file: who made it, and who did not."""
    async with running_cluster(directory, datanodes=0) as cluster:
        async with (
            cluster.client(cache=Cache(10_000, 10_000)) as one,
            cluster.client(cache=Cache(10_000, 10_000)) as two,
        ):
            with trio.fail_after(_PATIENCE_S):
                top = (await one.mkdir("/top")).ino
                for number in range(_DIRECTORIES):
                    outer = (await one.inodes.mkdir(top, b"%d" % number, 0o755, 0, 0)).ino
                    inner = (await one.inodes.mkdir(outer, b"inner", 0o755, 0, 0)).ino
                    for parent in (outer, inner):
                        await one.inodes.create(parent, b"file", 0o644, 0, 0)
                yield one, two


async def released(owner: FileSystem) -> None:
    """It goes, and owns nothing any more."""
    await owner.session.close()


async def walk(fs: FileSystem, directory: Ino, path: str = "") -> list[str]:
    """All paths beneath, as find(1) comes to them, with what each directory says that it is in."""
    found = []
    for entry in await fs.inodes.readdir(directory):
        name = f"{path}/{entry.name.decode()}"
        found.append(name)
        if stat.S_ISDIR(entry.attr.mode):
            assert (await fs.inodes.parent(entry.attr.ino)).ino == directory
            found += await walk(fs, entry.attr.ino, name)
    return found


async def remove(fs: FileSystem, directory: Ino) -> None:
    """As rm -r does."""
    for entry in await fs.inodes.readdir(directory):
        if stat.S_ISDIR(entry.attr.mode):
            await remove(fs, entry.attr.ino)
            await fs.inodes.rmdir(directory, entry.name)
        else:
            await fs.inodes.unlink(directory, entry.name)


async def test_a_walk_costs_a_few_questions(tmp_path: Path) -> None:
    async with tree(tmp_path) as (one, two):
        top = (await one.stat("/top")).ino
        expected = await walk(one, top)
        await released(one)
        found: list[str] = []

        async def look() -> None:
            found.extend(await walk(two, top))

        assert await questions(two, look) < _DIRECTORIES / 4
        assert found == expected
        assert len(found) == 4 * _DIRECTORIES


async def test_a_walk_is_told_of_what_it_comes_to_and_of_nothing_else(tmp_path: Path) -> None:
    """Of a deep tree too, and though it is told in parts that end anywhere in it."""
    async with running_cluster(tmp_path, datanodes=0) as cluster:
        async with cluster.client(cache=Cache(10_000, 10_000)) as maker:
            count = await grow(maker, (await maker.mkdir("/top")).ino, levels=5)
            expected = await walk(maker, (await maker.stat("/top")).ino)
        async with cluster.client(cache=Cache(10_000, 10_000)) as fs:
            assert await walk(fs, (await fs.stat("/top")).ino) == expected
            told = fs.statistics()["cache"]
            assert told["directories_ahead"] > count - 10, "the first ones are asked for"
            assert told["directories_ahead_used"] == told["directories_ahead"]


async def test_who_looks_at_names_only_is_told_ahead_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As git status does, which has them from its index."""
    monkeypatch.setattr(limits, "AHEAD_FIRST", 10)
    async with tree(tmp_path) as (one, two):
        await released(one)
        top = (await two.stat("/top")).ino

        async def look() -> None:
            for number in range(_DIRECTORIES):
                outer = (await two.inodes.lookup(top, b"%d" % number)).ino
                for name in (b"inner", b"file", b"inner", b".gitignore"):
                    try:
                        await two.inodes.lookup(outer, name)
                    except errors.NotFound:
                        assert name == b".gitignore"

        assert await questions(two, look) < _DIRECTORIES


async def test_directories_may_be_come_to_in_any_order(tmp_path: Path) -> None:
    """As by name, where they were made in another order."""
    async with tree(tmp_path) as (one, two):
        await released(one)
        top = (await two.stat("/top")).ino

        async def look() -> None:
            outer = {entry.name: entry.attr.ino for entry in await two.inodes.readdir(top)}
            for _, ino in sorted(outer.items()):
                for entry in await two.inodes.readdir(ino):
                    if stat.S_ISDIR(entry.attr.mode):
                        await two.inodes.readdir(entry.attr.ino)

        assert await questions(two, look) < _DIRECTORIES / 4


async def test_directories_that_are_too_large_to_be_told_cost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tree(tmp_path) as (one, two):
        await released(one)
        top = (await two.stat("/top")).ino
        monkeypatch.setattr(limits, "TREE_MAX_ENTRIES", 2)  # as all of them have
        listing = await two.inodes.readdir(top)

        async def look() -> None:
            await two.inodes.readdir(listing[0].attr.ino)
            await trio.testing.wait_all_tasks_blocked(0.05)

        assert await questions(two, look) == 1


async def test_what_is_asked_for_is_told_though_most_of_it_is_known(tmp_path: Path) -> None:
    """One file of a directory has changed: its listing is asked for again, not that of others."""
    async with tree(tmp_path) as (one, two):
        top = (await two.stat("/top")).ino
        await walk(two, top)
        outer = (await two.inodes.lookup(top, b"0")).ino
        file = (await one.inodes.lookup(outer, b"file")).ino
        await one.inodes.setattr(file, {"mode": 0o600})

        async def look() -> None:
            listing = await two.inodes.readdir(outer)
            assert [entry.attr.mode & 0o777 for entry in listing if entry.name == b"file"] == [0o600]
            await trio.testing.wait_all_tasks_blocked(0.05)

        assert await questions(two, look) <= 2  # what has just been changed may be asked for once more


async def grow(fs: FileSystem, directory: Ino, *, levels: int) -> int:
    """Make four directories in one, with a file behind each, and so on in every other one; how many were made."""
    count = 4
    for number in range(count):
        made = (await fs.inodes.mkdir(directory, b"d%d" % number, 0o755, 0, 0)).ino
        await fs.inodes.create(directory, b"f%d" % number, 0o644, 0, 0)
        if levels > 1 and number % 2:
            count += await grow(fs, made, levels=levels - 1)
    return count


async def test_who_stops_soon_is_told_of_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "AHEAD_FIRST", 10)
    async with tree(tmp_path) as (one, two):
        await released(one)
        top = (await two.stat("/top")).ino
        for entry in (await two.inodes.readdir(top))[:1]:
            await two.inodes.readdir(entry.attr.ino)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert two.statistics()["cache"]["directories_ahead"] < _DIRECTORIES / 4


async def test_two_who_walk_at_once_see_the_same(tmp_path: Path) -> None:
    async with tree(tmp_path) as (one, two):
        top = (await two.stat("/top")).ino
        expected = await walk(one, top)
        found: list[list[str]] = []

        async def look(after_s: float) -> None:
            await trio.sleep(after_s)
            found.append(await walk(two, top))

        async with trio.open_nursery() as nursery:
            for after_s in (0.0, 0.003, 0.01):
                nursery.start_soon(look, after_s)
        assert found == 3 * [expected]


async def test_a_walk_goes_on_when_the_namenode_was_away(tmp_path: Path) -> None:
    async with tree(tmp_path) as (one, two):
        await released(one)
        top = (await two.stat("/top")).ino
        before, asked = two.session._call, 0

        async def failing(method: str, *args: Any, **kwargs: Any) -> Any:
            nonlocal asked
            if method == "leased_tree":
                asked += 1
                if asked % 3 == 2:
                    raise errors.NotSupported("as an error that nothing is tried again for")
            return await before(method, *args, **kwargs)

        two.session._call = failing  # type: ignore[method-assign]
        names = []
        for entry in await two.inodes.readdir(top):
            for attempt in (1, 2):
                try:
                    names += [each.name for each in await two.inodes.readdir(entry.attr.ino)]
                    break
                except errors.NotSupported:
                    assert attempt == 1
        assert names == _DIRECTORIES * [b"inner", b"file"]


async def test_removing_a_tree_costs_a_few_questions(tmp_path: Path) -> None:
    async with tree(tmp_path) as (one, two):
        await released(one)
        top = (await two.stat("/top")).ino
        assert await questions(two, lambda: remove(two, top)) < _DIRECTORIES / 4
        await two.session.stream.flush()
        assert await two.inodes.readdir(top) == []
        assert two.session.stream.losses == 0


async def test_what_others_do_meanwhile_is_seen(tmp_path: Path) -> None:
    async with tree(tmp_path) as (one, two):
        top = (await two.stat("/top")).ino
        await walk(two, top)  # the other one owns it all, and gives it up
        last = (await two.inodes.lookup(top, b"%d" % (_DIRECTORIES - 1))).ino
        await one.inodes.create(last, b"new", 0o644, 0, 0)
        assert [entry.name for entry in await two.inodes.readdir(last)] == [b"inner", b"file", b"new"]
        await one.inodes.rename(top, b"%d" % (_DIRECTORIES - 2), last, b"moved")
        moved = (await two.inodes.lookup(last, b"moved")).ino
        assert (await two.inodes.parent(moved)).ino == last
        with pytest.raises(errors.NotFound):
            await two.inodes.lookup(top, b"%d" % (_DIRECTORIES - 2))


async def test_two_that_remove_a_tree_at_once_remove_it_once(tmp_path: Path) -> None:
    async with tree(tmp_path) as (one, two):
        top = (await two.stat("/top")).ino
        gone = 0

        async def remove_all(fs: FileSystem, names: list[bytes]) -> None:
            nonlocal gone
            for name in names:
                try:
                    directory = (await fs.inodes.lookup(top, name)).ino
                    await remove(fs, directory)
                    await fs.inodes.rmdir(top, name)
                    gone += 1
                except (errors.NotFound, errors.NotEmpty):
                    continue

        names = [b"%d" % number for number in range(_DIRECTORIES)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(remove_all, one, names)
            nursery.start_soon(remove_all, two, names[::-1])
        assert await two.inodes.readdir(top) == []
        assert gone <= _DIRECTORIES
        assert one.session.stream.losses == two.session.stream.losses == 0


async def test_what_somebody_else_owns_is_not_asked_for_ahead(tmp_path: Path) -> None:
    async with tree(tmp_path) as (one, two):
        inode = (await one.stat("/top/0")).ino
        told = await two.session.leased_query("leased_tree", [inode], limits.TREE_MAX_ENTRIES, True)
        assert told == []
        assert one.session.cache is not None
        assert one.session.cache.owns_names(inode)


async def test_no_more_is_told_than_was_asked_for(tmp_path: Path) -> None:
    async with tree(tmp_path) as (one, two):
        top = (await two.stat("/top")).ino
        await released(one)
        told = await two.session.leased_query("leased_tree", [top], _DIRECTORIES + 1, False)
        assert [listing[0][0] for listing in told] == [top]
        assert await two.session.leased_query("leased_tree", [top], _DIRECTORIES, False) == []
        with pytest.raises(errors.InvalidArgument):
            await two.session.leased_query("leased_tree", [top], limits.TREE_MAX_ENTRIES + 1, False)
        with pytest.raises(errors.ArgumentTooLarge):
            await two.session.leased_query("leased_tree", [top] * (limits.TREE_MAX_DIRECTORIES + 1), 100, False)
