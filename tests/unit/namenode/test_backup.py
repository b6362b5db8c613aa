"""Copies of the namespace: of one moment, one at a time, and nothing of them stays. Time is trio's, and jumps."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

import pytest
import trio
import trio.testing

from dfs import errors, limits
from dfs.runtime import RealRuntime
from dfs.types import ROOT_INO
from nodes.namenode.backup import IDLE_S, Backups
from nodes.namenode.store import open_store
from tests.simulation.disk import InlineRuntime
from tests.unit.namenode.world import Namespace, namespace

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

LEFT_BEHIND = {"lock", "namespace.sqlite", "namespace.sqlite-shm", "namespace.sqlite-wal"}


class Slow(InlineRuntime):
    """Whatever blocks takes so long."""

    def __init__(self, takes_s: float) -> None:
        super().__init__()
        self._takes_s = takes_s

    async def run_blocking(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        await trio.sleep(self._takes_s)
        return await super().run_blocking(work, *args)


@asynccontextmanager
async def backups(space: Namespace, takes_s: float = 0.0, reserve_bytes: int = 0) -> AsyncIterator[Backups]:
    async with trio.open_nursery() as nursery:
        made = Backups(space.store, Slow(takes_s), reserve_bytes)
        nursery.start_soon(made.run)
        yield made
        nursery.cancel_scope.cancel()


async def fetched(made: Backups, name: str) -> bytes:
    data = b""
    while piece := await made.read(name, len(data)):
        data += piece
    return data


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


async def test_a_copy_is_the_namespace_of_one_moment(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    with namespace(tmp_path / "there") as space:
        session = space.open_session()
        space.written(session, space.file(session).ino, 100)
        for number in range(20):  # more than one read has
            space.do(session, "setxattr", ROOT_INO, b"user.%d" % number, bytes(limits.XATTR_VALUE_MAX_BYTES))
        async with backups(space) as made:
            before = space.dump()
            begun = await made.begin("mine")
            space.do(session, "mkdir", ROOT_INO, b"later", 0o755, 0, 0)
            data = await fetched(made, "mine")
            assert len(data) > limits.READ_MAX_BYTES
            assert begun == {"bytes": len(data), "files": 1, "made_ns": InlineRuntime().now_ns()}
            assert names_in(tmp_path / "there") == LEFT_BEHIND
        (tmp_path / "here").mkdir()
        (tmp_path / "here" / "namespace.sqlite").write_bytes(data)
        again = Namespace(tmp_path / "here")
        try:
            assert again.dump() == before
            assert again.findings() == []
        finally:
            again.store.close()


async def test_one_that_takes_long_is_asked_for_again_by_its_name(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    with namespace(tmp_path) as space:
        async with backups(space, takes_s=2.5 * limits.BACKUP_WAIT_S) as made:
            assert await made.begin("mine") is None
            with pytest.raises(errors.NotFound, match="begin another"):
                await made.read("mine", 0)  # there is nothing to be read yet
            assert await made.begin("mine") is None
            begun = await made.begin("mine")
            assert begun is not None
            assert await made.begin("mine") == begun
            assert trio.current_time() < 3 * limits.BACKUP_WAIT_S


async def test_there_is_one_at_a_time_and_the_next_when_it_is_read(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    with namespace(tmp_path) as space:
        async with backups(space) as made:
            await made.begin("mine")
            with pytest.raises(errors.Busy):
                await made.begin("another")
            with pytest.raises(errors.NotFound):
                await made.read("another", 0)
            assert made.end("another") is None  # is none of theirs
            assert await fetched(made, "mine")
            assert made.end("mine") == InlineRuntime().now_ns()
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(errors.NotFound):
                await made.read("mine", 0)
            assert await made.begin("another") is not None


async def test_one_that_nobody_reads_goes(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    with namespace(tmp_path) as space:
        async with backups(space) as made:
            await made.begin("mine")
            await trio.sleep(0.9 * IDLE_S)
            await made.read("mine", 0)
            await trio.sleep(0.9 * IDLE_S)
            assert await fetched(made, "mine")
            await trio.sleep(1.1 * IDLE_S)
            with pytest.raises(errors.NotFound):
                await made.read("mine", 0)
            assert await made.begin("another") is not None


async def test_a_read_that_goes_on_as_it_ends_reads_to_its_end(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    with namespace(tmp_path) as space:
        async with backups(space, takes_s=1.0) as made, trio.open_nursery() as nursery:
            await made.begin("mine")
            read: list[bytes] = []

            async def read_on() -> None:
                read.append(await made.read("mine", 0))

            nursery.start_soon(read_on)
            await trio.testing.wait_all_tasks_blocked()
            assert made.end("mine") is None  # nobody has all of it
            await trio.sleep(5.0)
            assert read[0].startswith(b"SQLite format 3\0")


@pytest.mark.parametrize("is_stopped", [True, False])
async def test_one_that_is_given_up_while_it_is_made_goes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_stopped: bool
) -> None:
    """The NameNode stops, or whoever wanted it has gone: neither waits for all of a large database."""
    monkeypatch.setattr("nodes.namenode.store._COPIED_AT_ONCE", 1)
    pages = 0
    with namespace(tmp_path) as space:
        async with trio.open_nursery() as nursery:
            made = Backups(space.store, RealRuntime(), 0)
            check = made._check

            def slowly(backup: Any) -> None:
                nonlocal pages
                pages += 1
                time.sleep(0.05)
                check(backup)

            made._check = slowly  # type: ignore[method-assign]
            nursery.start_soon(made.run)
            nursery.start_soon(_fails, made)
            while not pages:
                await trio.sleep(0.01)
            if is_stopped:
                nursery.cancel_scope.cancel()
            else:
                made.end("mine")
                while made._backup is not None:
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
        assert pages < space.store.size_bytes() // 4096 // 2
        assert names_in(tmp_path) == LEFT_BEHIND


async def _fails(made: Backups) -> None:
    with suppress(errors.Busy):  # it was given up
        await made.begin("mine")


async def test_where_it_has_no_room_none_is_made_and_commands_go_on(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with namespace(tmp_path) as space:
        async with backups(space, reserve_bytes=2**62) as made:
            for _ in range(2):
                with pytest.raises(errors.NoSpace, match="bytes left, and a copy of the namespace takes"):
                    await made.begin("mine")
            monkeypatch.setattr(space.store, "size_bytes", lambda: -(2**62))  # it gets short while one is made
            with pytest.raises(errors.NoSpace, match="takes 0 more until it is read"):
                await made.begin("mine")
        space.do(space.open_session(), "mkdir", ROOT_INO, b"d", 0o755, 0, 0)
        assert names_in(tmp_path) == LEFT_BEHIND


async def test_a_disk_that_fails_fails_the_copy_only(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with namespace(tmp_path) as space:
        async with backups(space) as made:
            with monkeypatch.context() as patched:
                patched.setattr("nodes.namenode.store._COPY_NAME", "missing/copy")
                with pytest.raises(errors.DiskFailed, match="unable to open database file"):
                    await made.begin("mine")
            assert await made.begin("mine") is not None


async def test_what_makes_no_sense_is_refused(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    with namespace(tmp_path) as space:
        async with backups(space) as made:
            wrong: list[Any] = [None, 7, "x" * 100]
            for name in wrong:
                with pytest.raises(errors.InvalidArgument):
                    await made.begin(name)
            await made.begin("mine")
            for offset in (-1, "0", None):
                with pytest.raises(errors.InvalidArgument):
                    await made.read("mine", offset)
            assert await made.read("mine", 2**40) == b""


def test_what_a_process_left_of_a_copy_that_it_made_goes_as_the_next_one_begins(tmp_path: Path) -> None:
    with namespace(tmp_path) as space:
        space.open_session()
    for name in ("copy.sqlite", "copy.sqlite-wal", "copy.sqlite-shm"):
        (tmp_path / name).write_bytes(b"half of it")
    store = open_store(tmp_path, InlineRuntime().random)
    assert not {name for name in names_in(tmp_path) if name.startswith("copy")}
    store.close()
