"""Large directories are listed page by page, the next one while the last one is used, and are what others see."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from dfs import errors, limits
from dfs.client import FileSystem
from dfs.client.cache import Cache
from dfs.types import DirEntry, Ino
from tests.cluster import questions, running_cluster

_PATIENCE_S = 60
_PAGE = 4
_NAMES = [b"%02d" % number for number in range(3 * _PAGE + 2)]


@pytest.fixture(autouse=True)
def _pages_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PREFETCH_PAGE_ENTRIES", _PAGE)


@asynccontextmanager
async def listed(directory: Path) -> AsyncIterator[tuple[FileSystem, FileSystem, Ino]]:
    """Who lists, who changes things, and a directory of _NAMES."""
    async with running_cluster(directory, datanodes=0) as cluster:
        async with cluster.client(cache=Cache(1000, 1000)) as fs, cluster.client() as other:
            with trio.fail_after(_PATIENCE_S):
                top = (await other.mkdir("/top")).ino
                for name in _NAMES:
                    await other.inodes.create(top, name, 0o644, 0, 0)
                yield fs, other, top


async def rest(fs: FileSystem, directory: Ino, after: int = 0) -> list[DirEntry]:
    """All entries behind a cookie, a page at a time, as the kernel asks for them."""
    found: list[DirEntry] = []
    while page := await fs.inodes.readdir(directory, after, _PAGE):
        found += page
        after = page[-1].cookie
    return found


def hold_back(fs: FileSystem) -> tuple[list[int], trio.Event]:
    """Behind which cookies pages are asked for from now on, and the event for which all but the first wait."""
    asked: list[int] = []
    goes_on = trio.Event()
    before = fs.session._call

    async def call(method: str, *args: Any, **kwargs: Any) -> Any:
        if method == "leased_readdir":
            asked.append(args[2])
            if args[2]:
                await goes_on.wait()
        return await before(method, *args, **kwargs)

    fs.session._call = call  # type: ignore[method-assign]
    return asked, goes_on


def before_listings(fs: FileSystem, work: Callable[[], Awaitable[None]]) -> None:
    """Have `work` done before each question for a listing, of whatever kind."""
    before = fs.session._call

    async def call(method: str, *args: Any, **kwargs: Any) -> Any:
        if method in ("leased_readdir", "leased_tree"):
            await work()
        return await before(method, *args, **kwargs)

    fs.session._call = call  # type: ignore[method-assign]


def names(entries: list[DirEntry]) -> list[bytes]:
    return [entry.name for entry in entries]


async def test_each_page_is_asked_for_once_though_several_want_it(tmp_path: Path) -> None:
    async with listed(tmp_path) as (fs, _, top):
        found: list[list[DirEntry]] = []

        async def read() -> None:
            found.append(await rest(fs, top))

        async def look() -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(read)

        await fs.stat("/")
        assert await questions(fs, look) == len(_NAMES) // _PAGE + 1
        assert [names(each) for each in found] == [_NAMES] * 3
        assert await questions(fs, read) == 0


async def test_the_first_page_is_there_before_the_next_one_is_answered(tmp_path: Path) -> None:
    async with listed(tmp_path) as (fs, _, top):
        asked, goes_on = hold_back(fs)
        first = await fs.inodes.readdir(top, 0, _PAGE)
        assert names(first) == _NAMES[:_PAGE]
        await trio.testing.wait_all_tasks_blocked()
        assert asked == [0, first[-1].cookie], "the next one is asked for ahead"
        goes_on.set()
        assert names(first + await rest(fs, top, first[-1].cookie)) == _NAMES


async def test_what_is_changed_between_two_pages_is_seen(tmp_path: Path) -> None:
    async with listed(tmp_path) as (fs, other, top):
        first = await fs.inodes.readdir(top, 0, _PAGE)
        await other.inodes.unlink(top, _NAMES[-1])
        await other.inodes.create(top, b"new", 0o644, 0, 0)
        changed = await other.inodes.setattr((await other.inodes.lookup(top, _NAMES[-2])).ino, {"mode": 0o600})
        last = await rest(fs, top, first[-1].cookie)
        assert names(first + last) == [*_NAMES[:-1], b"new"]
        assert last[-2].attr == changed
        with pytest.raises(errors.NotFound):
            await fs.inodes.lookup(top, _NAMES[-1])
        assert names(await rest(fs, top)) == [*_NAMES[:-1], b"new"]


async def test_a_listing_that_has_changed_is_not_fetched_to_its_end(tmp_path: Path) -> None:
    async with listed(tmp_path) as (fs, other, top):
        asked, goes_on = hold_back(fs)
        first = await fs.inodes.readdir(top, 0, _PAGE)
        await other.inodes.unlink(top, _NAMES[0])
        goes_on.set()
        rest_of_it = await fs.inodes.readdir(top, first[-1].cookie, 2 * _PAGE)
        assert names(rest_of_it) == _NAMES[_PAGE : 3 * _PAGE]
        assert asked == [0, first[-1].cookie, first[-1].cookie]


async def test_who_joins_another_in_listing_has_all_his_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listed(tmp_path) as (fs, _, top):
        before = fs.session._call
        is_there = False

        async def away(method: str, *args: Any, **kwargs: Any) -> Any:
            if method == "leased_readdir" and not is_there:
                await trio.sleep(0.01)
                raise errors.Unreachable("away")
            return await before(method, *args, **kwargs)

        await fs.stat("/")
        fs.session._call = away  # type: ignore[method-assign]
        monkeypatch.setattr(fs.session, "wait_s", 0.5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_gives_up, fs, top)
            await trio.testing.wait_all_tasks_blocked(0.001)
            monkeypatch.setattr(fs.session, "wait_s", _PATIENCE_S)
            joined: list[list[DirEntry]] = []

            async def join() -> None:
                joined.append(await fs.inodes.readdir(top, 0, _PAGE))

            async with trio.open_nursery() as inner:
                inner.start_soon(join)
                await trio.sleep(1)
                is_there = True
        assert [names(each) for each in joined] == [_NAMES[:_PAGE]]


async def _gives_up(fs: FileSystem, directory: Ino) -> None:
    with pytest.raises(errors.Unreachable):
        await fs.inodes.readdir(directory)


async def test_whoever_lists_what_is_gone_is_told(tmp_path: Path) -> None:
    async with listed(tmp_path) as (fs, other, top):
        gone = (await other.mkdir("/gone")).ino
        await other.rmdir("/gone")
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(partial(_is_told, fs, gone))
        with pytest.raises(errors.NotADirectory):
            await fs.inodes.readdir((await other.inodes.lookup(top, _NAMES[0])).ino)
        assert names(await rest(fs, top)) == _NAMES


async def _is_told(fs: FileSystem, gone: Ino) -> None:
    with pytest.raises(errors.NotFound):
        await fs.inodes.readdir(gone)


async def test_of_a_directory_that_is_too_large_the_rest_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PREFETCH_MAX_ENTRIES", 2 * _PAGE)
    async with listed(tmp_path) as (fs, _, top):
        assert names(await rest(fs, top)) == _NAMES
        with pytest.raises(errors.NotFound):
            await fs.inodes.lookup(top, b"none")


async def test_who_looks_names_up_does_not_wait_for_a_listing_that_does_not_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where somebody has to be heard for it who does not answer. It is a guess."""
    async with listed(tmp_path) as (fs, _, top):
        asked, goes_on = 0, trio.Event()

        async def hang() -> None:
            nonlocal asked
            asked += 1
            await goes_on.wait()

        before_listings(fs, hang)
        monkeypatch.setattr(limits, "PREFETCH_AWAITED_S", 0.05)
        with trio.fail_after(_PATIENCE_S / 4):
            for name in _NAMES:
                assert (await fs.inodes.lookup(top, name)).nlink == 1
        assert asked == 1
        goes_on.set()
        while not fs.inodes._cache.lists(top):  # type: ignore[attr-defined]
            await trio.sleep(0.01)
        assert await questions(fs, lambda: fs.inodes.lookup(top, _NAMES[0])) == 0
        with pytest.raises(errors.NotFound):
            await fs.inodes.lookup(top, b"none")


async def test_a_listing_that_fails_fails_no_name_that_is_looked_up(tmp_path: Path) -> None:
    async def fail() -> None:
        raise errors.NotPermitted("no listings")

    async with listed(tmp_path) as (fs, _, top):
        before_listings(fs, fail)
        for name in _NAMES:
            assert (await fs.inodes.lookup(top, name)).nlink == 1
