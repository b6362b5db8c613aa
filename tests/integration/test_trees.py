"""Who walks a tree is told of many directories at a time, and sees what others do in them all the same."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from dfs import errors, limits
from dfs.client import FileSystem
from dfs.client.cache import Cache
from dfs.types import Ino
from tests.cluster import running_cluster

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


async def questions(fs: FileSystem, work: Callable[[], Awaitable[Any]]) -> int:
    """How many calls `work` costs, besides that of who listens for events and what is sent afterwards."""
    session, count = fs.session, 0
    before = session._call

    async def counted(method: str, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += method not in ("events", "forgot", "apply")
        return await before(method, *args, **kwargs)

    session._call = counted  # type: ignore[method-assign]
    try:
        await work()
    finally:
        session._call = before  # type: ignore[method-assign]
    return count


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
