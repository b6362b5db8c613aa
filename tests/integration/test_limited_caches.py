"""Who is limited to a subtree caches as all others do, and forgets all of it when something is moved out of that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from dfs import errors, limits
from dfs.client import FileSystem, open_filesystem
from dfs.client.cache import Cache
from dfs.client.openinodes import OpenInodes, open_inodes
from dfs.keys import Key, Role
from dfs.rpc import Pool, SocketNetwork
from dfs.types import NAMENODE_OBJECT, SHAPE, Ino
from tests.cluster import Cluster, questions, running_cluster
from tests.keys import ADMIN, MASTERS

ALICE = MASTERS.issue(Role.CLIENT, "alice", {"subtree": "/home/alice"})
BOB = MASTERS.issue(Role.CLIENT, "bob", {"subtree": "/home/alice/bob"})
_PATIENCE_S = 60


class Mount:
    """A client as a mount is one."""

    def __init__(self, fs: FileSystem, files: OpenInodes) -> None:
        self.fs = fs
        self.files = files

    async def make(self, path: str, data: bytes) -> Ino:
        directory, _, name = path.rpartition("/")
        parent = (await self.fs.stat(directory or "/")).ino
        file = await self.files.create(parent, name.encode(), 0o644, 0, 0, exclusive=True)
        await file.write(0, data)
        self.files.close(file)
        return file.ino

    async def read(self, ino: Ino) -> bytes:
        file = await self.files.acquire(ino, "a file")
        try:
            return bytes(await file.read(0, limits.READ_MAX_BYTES))
        finally:
            self.files.close(file)


@asynccontextmanager
async def mount(cluster: Cluster, key: Key) -> AsyncIterator[Mount]:
    cache = Cache(10_000, 10_000)
    async with open_filesystem(cluster.namenode_address, key, cache=cache) as fs, open_inodes(fs) as files:
        fs.session.wants_directories = True
        yield Mount(fs, files)


@asynccontextmanager
async def two_mounts(directory: Path, key: Key = ALICE) -> AsyncIterator[tuple[Cluster, Mount, Mount]]:
    """A cluster, somebody who sees all of it, and somebody who is limited to /home/alice, where /d/e is."""
    async with (
        running_cluster(directory, datanodes=2, session_timeout_s=8.0) as cluster,
        mount(cluster, ADMIN) as admin,
    ):
        await admin.fs.mkdir("/home/alice/d/e", parents=True)
        await admin.fs.mkdir("/home/alice/bob", parents=True)
        await admin.fs.mkdir("/elsewhere")
        await admin.fs.session.stream.flush()
        async with mount(cluster, key) as limited:
            with trio.fail_after(_PATIENCE_S):
                yield cluster, admin, limited


async def look(mount: Mount, *paths: str) -> None:
    for path in paths:
        await mount.fs.stat(path)


async def test_what_is_known_is_not_asked_for_again(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (_, admin, limited):
        ino = await admin.make("/home/alice/d/e/file", b"bytes")
        assert await limited.read((await limited.fs.stat("/d/e/file")).ino) == b"bytes"

        async def work() -> None:
            d = await limited.fs.inodes.lookup((await limited.fs.inodes.getattr(limited.fs.session.root)).ino, b"d")
            e = await limited.fs.inodes.lookup(d.ino, b"e")
            assert (await limited.fs.inodes.lookup(e.ino, b"file")).ino == ino
            assert [entry.name for entry in await limited.fs.inodes.readdir(e.ino)] == [b"file"]

        await work()
        assert limited.fs.session.caches
        assert await questions(limited.fs, work) == 0


async def test_what_it_writes_stays_here_and_is_what_others_read(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (_, admin, limited):
        ino = await limited.make("/d/file", b"written")
        assert limited.files.is_dirty(ino)
        assert await admin.read((await admin.fs.stat("/home/alice/d/file")).ino) == b"written"
        assert not limited.files.is_dirty(ino)
        await admin.make("/home/alice/d/other", b"x")
        assert await limited.read((await limited.fs.stat("/d/other")).ino) == b"x"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("/home/alice/d", "/elsewhere/d"),
        ("/home/alice", "/home/carol"),  # then the path is nobody's
        ("/home", "/house"),
    ],
)
async def test_what_is_moved_out_is_gone_at_once_with_all_beneath(tmp_path: Path, old: str, new: str) -> None:
    async with two_mounts(tmp_path) as (_, admin, limited):
        await admin.make("/home/alice/d/e/file", b"bytes")
        await admin.make("/home/alice/d/e/empty", b"")
        e = (await limited.fs.stat("/d/e")).ino
        file = await limited.fs.inodes.lookup(e, b"file")
        assert await limited.read(file.ino) == b"bytes"
        await limited.fs.inodes.readdir(e)
        dirty = await limited.make("/d/e/mine", b"not committed yet")
        with pytest.raises(errors.NotFound):
            await limited.fs.inodes.lookup(e, b"nothing")
        await admin.fs.rename(old, new)
        for ask in (
            lambda: limited.fs.inodes.lookup(e, b"file"),
            lambda: limited.fs.inodes.lookup(e, b"nothing"),
            lambda: limited.fs.inodes.getattr(file.ino),
            lambda: limited.fs.inodes.readdir(e),
            lambda: limited.read(file.ino),
            lambda: limited.fs.stat("/d/e/file"),
        ):
            with pytest.raises(errors.NotFound):
                await ask()
        assert await admin.read(dirty) == b"not committed yet"


async def test_who_owns_a_directory_on_the_way_does_not_move_it_by_himself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "OWN_AGAIN_FIRST_S", 0.0)
    async with two_mounts(tmp_path) as (_, admin, limited):
        e = (await limited.fs.stat("/d/e")).ino
        await admin.fs.mkdir("/home/new")
        await admin.fs.mkdir("/new")
        cache = admin.fs.session.cache
        assert cache is not None and cache.owned_directory((await admin.fs.stat("/home")).ino) is not None
        await admin.fs.rename("/home", "/house")
        with pytest.raises(errors.NotFound):
            await limited.fs.inodes.getattr(e)


async def test_what_is_moved_within_or_elsewhere_costs_nothing(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (_, admin, limited):
        await admin.fs.mkdir("/elsewhere/f/g", parents=True)
        await look(limited, "/d/e", "/bob")
        await admin.fs.rename("/home/alice/bob", "/home/alice/d/bob")
        await admin.fs.rename("/elsewhere/f", "/f")
        e = await limited.fs.stat("/d/e")

        async def work() -> None:
            assert await limited.fs.inodes.getattr(e.ino) == e

        assert await questions(limited.fs, work) == 0
        await look(limited, "/d/bob")


async def test_it_caches_again_after_it_forgot_and_what_comes_back_is_there(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (_, admin, limited):
        await admin.make("/home/alice/d/e/file", b"bytes")
        for _ in range(3):
            e = await limited.fs.stat("/d/e")
            await admin.fs.rename("/home/alice/d", "/elsewhere/d")
            with pytest.raises(errors.NotFound):
                await limited.fs.stat("/d/e")
            await admin.fs.rename("/elsewhere/d", "/home/alice/d")
            assert (await limited.fs.stat("/d/e")).ino == e.ino
            await limited.fs.inodes.getattr(e.ino)

            async def work(ino: Ino = e.ino) -> None:
                await limited.fs.inodes.getattr(ino)

            assert await questions(limited.fs, work) == 0


async def test_exchanging_directories_across_the_border_is_seen(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (_, admin, limited):
        await admin.fs.mkdir("/elsewhere/x")
        e = (await limited.fs.stat("/d/e")).ino
        elsewhere, home = [(await admin.fs.stat(path)).ino for path in ("/elsewhere", "/home/alice")]
        await admin.fs.inodes.rename(elsewhere, b"x", home, b"d", 2)
        with pytest.raises(errors.NotFound):
            await limited.fs.inodes.getattr(e)
        await look(limited, "/d")


async def test_who_is_limited_moves_things_out_of_what_another_is_limited_to(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (cluster, _, alice), mount(cluster, BOB) as bob:
        await alice.fs.mkdir("/bob/deep/er", parents=True)
        er = (await bob.fs.stat("/deep/er")).ino
        await alice.fs.rename("/bob/deep", "/deep")
        with pytest.raises(errors.NotFound):
            await bob.fs.inodes.getattr(er)
        assert (await alice.fs.stat("/deep/er")).ino == er


async def test_leases_are_kept_when_the_namenode_restarts_and_recalled_afterwards(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (cluster, admin, limited):
        dirty = await limited.make("/d/e/mine", b"not committed yet")
        e = await limited.fs.stat("/d/e")
        await cluster.stop("namenode")
        await cluster.start_namenode()
        await admin.fs.stat("/home/alice")  # answered when all have said what they hold
        assert limited.files.is_dirty(dirty)

        async def work() -> None:
            assert (await limited.fs.inodes.getattr(e.ino)).ino == e.ino

        assert await questions(limited.fs, work) == 0
        await admin.fs.rename("/home/alice/d", "/elsewhere/d")
        with pytest.raises(errors.NotFound):
            await limited.fs.inodes.getattr(e.ino)
        assert await admin.read(dirty) == b"not committed yet"


async def test_looking_and_moving_at_once_shows_nothing_that_is_gone(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (_, admin, limited):
        await admin.make("/home/alice/d/e/file", b"bytes")
        ino = (await limited.fs.stat("/d/e/file")).ino
        places = "/home/alice/d", "/elsewhere/d"
        moves, is_out = 0.0, False

        async def look_on() -> None:
            while True:
                before = moves
                try:
                    await limited.fs.inodes.getattr(ino)
                    is_there = True
                except errors.NotFound:
                    is_there = False
                if before == moves == int(before):  # nothing moved meanwhile
                    assert is_there is not is_out
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(look_on)
            for _ in range(15):
                await trio.sleep(0.01)
                moves += 0.5
                await admin.fs.rename(*places)
                places, is_out = places[::-1], not is_out
                moves += 0.5
            nursery.cancel_scope.cancel()


async def test_who_writes_all_the_time_neither_keeps_others_from_moving_nor_loses_what_he_wrote(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (_, admin, limited):
        bob = (await limited.fs.stat("/bob")).ino
        written: dict[bytes, bytes] = {}

        async def write(writer: int) -> None:
            for number in range(1 << 20):
                name, data = b"%d-%d" % (writer, number), b"%d" % number * 100
                try:
                    file = await limited.files.create(bob, name, 0o644, 0, 0, exclusive=True)
                    await file.write(0, data)
                    limited.files.close(file)
                except errors.NotFound:
                    return
                written[name] = data

        async with trio.open_nursery() as nursery:
            for writer in range(3):
                nursery.start_soon(write, writer)
            for _ in range(5):
                await trio.sleep(0.03)
                await admin.fs.rename("/home/alice/d", "/elsewhere/d")
                await admin.fs.rename("/elsewhere/d", "/home/alice/d")
            await admin.fs.rename("/home/alice/bob", "/elsewhere/bob")
        assert len(written) > 10
        for name, data in written.items():
            assert await admin.read((await admin.fs.inodes.lookup(bob, name)).ino) == data


# --- attacks ----------------------------------------------------------------------------------------------


async def test_leases_on_what_is_outside_are_not_to_be_had(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (cluster, admin, _), Pool(SocketNetwork(), key=ALICE) as pool:
        secret = await admin.make("/elsewhere/secret", b"x")
        outside = (await admin.fs.stat("/elsewhere")).ino
        await admin.files.settle_all()

        async def call(method: str, *args: Any) -> Any:
            return await pool.call(cluster.namenode_address, NAMENODE_OBJECT, method, *args)

        wish = {"name": "by hand", "host": "here", "caches": True, "directories": True, "forgets_all": True}
        opened = await call("open_session", wish)
        session = opened["session"]
        assert opened["caches"] and not opened["directories"]
        for method in ("leased_getattr", "own"):
            with pytest.raises(errors.NotFound):
                await call(method, session, outside)
        assert await call("own_files", session, [secret]) == []
        assert await call("leased_xattrs_of", session, [secret]) == [[], [secret]]
        assert await call("leased_tree", session, [outside], 100, False) == []
        with pytest.raises(errors.NotPermitted):
            await call("own_directory", session, outside, 100)
        with pytest.raises(errors.InvalidArgument):
            await call("reclaim", session, opened["incarnation"], [SHAPE[0]], [], [], True)
        del wish["forgets_all"]
        assert not (await call("open_session", wish))["caches"], "it does not know how to forget"


async def test_who_says_that_he_held_what_is_outside_is_not_believed(tmp_path: Path) -> None:
    async with two_mounts(tmp_path) as (cluster, admin, limited):
        outside = (await admin.fs.stat("/elsewhere")).ino
        limited.fs.session.held_besides.append(lambda: ([outside], [outside]))
        await limited.fs.stat("/d")
        await cluster.stop("namenode")
        await cluster.start_namenode()
        await admin.fs.stat("/home/alice")
        recalled: list[Any] = []

        async def note(items: Any) -> None:
            recalled.extend(items)

        limited.fs.recall_listeners.append(note)
        await admin.make("/elsewhere/secret", b"x")
        await admin.fs.session.stream.flush()
        assert not recalled
