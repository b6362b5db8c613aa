"""Directories that a client owns: what it answers by itself is what the NameNode says, and everybody sees it."""

from __future__ import annotations

import random
import sqlite3
import stat
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import trio
from structlog.testing import capture_logs

from dfs import errors, limits
from dfs.client import FileSystem
from dfs.client.cache import Cache
from dfs.client.cachedinodes import CachedInodes
from dfs.client.filewriter import FileWriter
from dfs.client.openinodes import OpenInodes, open_inodes
from dfs.posix import CAPABILITY
from dfs.types import ROOT_INO, Attr, Ino, Item, SessionId
from nodes.namenode.leases import Leases
from nodes.namenode.namespace import Namespace
from nodes.namenode.store import Store
from tests.cluster import Cluster, running_cluster
from tests.cluster import mounted as mounted_on
from tests.model import posix

_NAMES: Final = (b"a", b"b", b"c", b"d", b"e")
_PATIENCE_S: Final = 20


@asynccontextmanager
async def owners(
    directory: Path, clients: int = 1, names_max: int = 10_000, datanodes: int = 0, **options: Any
) -> AsyncIterator[tuple[Cluster, list[FileSystem]]]:
    """A NameNode, mostly alone, and clients that own what they change, and remember so many names."""
    async with running_cluster(directory, datanodes=datanodes, **options) as cluster, AsyncExitStack() as stack:
        caches = [Cache(10_000, names_max) for _ in range(clients)]
        opened = [await stack.enter_async_context(cluster.client(cache=cache)) for cache in caches]
        with trio.fail_after(_PATIENCE_S * 3):
            yield cluster, opened


async def status(fs: FileSystem) -> dict[str, Any]:
    """What the NameNode says of itself."""
    found: dict[str, Any] = await fs.session.pool.call(fs.session.address, "dfs.namenode", "status")
    return found


async def log_index(fs: FileSystem) -> int:
    """How many commands the NameNode has applied."""
    return int((await status(fs))["log_index"])


def count_questions(fs: FileSystem, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each is asked that comes with leases, from now on."""
    asked = Counter[str]()
    passed = fs.session.leased_query

    async def counting(method: str, *args: Any, **options: Any) -> Any:
        asked[method] += 1
        return await passed(method, *args, **options)

    monkeypatch.setattr(fs.session, "leased_query", counting)
    return asked


async def everything(fs: FileSystem, ino: Ino, path: bytes = b"") -> dict[bytes, Any]:
    """All attributes beneath a directory, and what links point to."""
    found: dict[bytes, Any] = {path: (await fs.inodes.getattr(ino))._replace(atime_ns=0)}
    for entry in await fs.inodes.readdir(ino):
        name = path + b"/" + entry.name
        found[name] = entry.attr._replace(atime_ns=0)
        if stat.S_ISDIR(entry.attr.mode):
            found |= await everything(fs, entry.attr.ino, name)
        elif stat.S_ISLNK(entry.attr.mode):
            found[name + b" ->"] = await fs.inodes.readlink(entry.attr.ino)
    return found


# --- what is answered -----------------------------------------------------------------------------------


async def test_what_is_made_in_a_new_directory_is_answered_before_it_is_sent(tmp_path: Path) -> None:
    async with owners(tmp_path) as (_, (fs,)):
        top = await fs.mkdir("/top")
        await fs.session.stream.flush()
        before = await log_index(fs)
        made = await fs.inodes.mkdir(top.ino, b"inner", 0o755, 0, 0)
        file = await fs.inodes.create(made.ino, b"file", 0o644, 0, 0)
        assert fs.session.stream.unsettled == 2
        assert await fs.inodes.lookup(made.ino, b"file") == file
        assert fs.session.stream.unsettled == 2, "it is looked up without asking"
        await fs.session.stream.flush()
        assert await log_index(fs) == before + 2


async def test_what_is_set_one_after_the_other_is_sent_at_once(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with owners(tmp_path, clients=2) as (_, (fs, other)):
            top = await fs.mkdir("/top")
            file = await fs.inodes.create(top.ino, b"file", 0o644, 0, 0)
            await fs.session.stream.flush()
            before = await log_index(fs)
            await fs.inodes.setattr(file.ino, {"mode": 0o4755})
            await fs.inodes.setattr(file.ino, {"uid": 7, "gid": 8})  # which takes the set-id bit away
            seen = await fs.inodes.setattr(file.ino, {"atime_ns": 5, "mtime_ns": 6})
            assert (stat.S_IMODE(seen.mode), seen.uid, seen.gid, seen.mtime_ns) == (0o755, 7, 8, 6)
            assert fs.session.stream.unsettled == 1
            await fs.inodes.rename(top.ino, b"file", top.ino, b"renamed")
            seen = await fs.inodes.setattr(file.ino, {"mode": 0o600})  # after that, and so by itself
            assert fs.session.stream.unsettled == 3
            await fs.session.stream.flush()
            assert await log_index(fs) == before + 3
            assert await other.inodes.getattr(file.ino) == seen
    assert not [entry for entry in logs if entry["log_level"] in ("warning", "error")]


async def test_extended_attributes_are_set_here_and_others_see_them(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with owners(tmp_path, clients=2) as (_, (fs, other)):
            top = await fs.mkdir("/top")
            file = await fs.inodes.create(top.ino, b"file", 0o644, 0, 0)
            await fs.inodes.readdir(top.ino)
            for ino in (file.ino, top.ino):
                await fs.inodes.setxattr(ino, b"user.a", b"1")
                await fs.inodes.setxattr(ino, b"user.b", b"2")
                await fs.inodes.setxattr(ino, b"user.a", b"3")
                await fs.inodes.removexattr(ino, b"user.b")
                with pytest.raises(errors.NoAttribute):
                    await fs.inodes.removexattr(ino, b"user.b")
                assert await fs.inodes.listxattr(ino) == [b"user.a"]
                assert await fs.inodes.getxattr(ino, b"user.a") == b"3"
            seen = await fs.inodes.setattr(file.ino, {"mode": 0o600})
            assert fs.session.stream.unsettled >= 9  # nobody has waited for any
            assert await other.stat("/top/file") == seen
            assert await other.inodes.getxattr(file.ino, b"user.a") == b"3"
            assert await other.inodes.listxattr(top.ino) == [b"user.a"]
    assert not [entry for entry in logs if entry["log_level"] in ("warning", "error")]


@pytest.mark.parametrize(
    ("name", "value", "flags", "error"),
    [
        (b"user." + b"x" * 300, b"", 0, errors.OutOfRange),
        (b"user.", b"", 0, errors.InvalidArgument),
        (b"user.k", b"", 1, errors.Exists),
        (b"user.other", b"", 2, errors.NoAttribute),
        (b"user.k", bytes(limits.XATTR_VALUE_MAX_BYTES + 1), 0, errors.ArgumentTooLarge),
        (b"user.large", bytes(limits.XATTR_VALUE_MAX_BYTES), 0, None),
    ],
)
async def test_what_extended_attributes_cannot_be_the_namenode_says(
    tmp_path: Path, name: bytes, value: bytes, flags: int, error: type[errors.DfsError] | None
) -> None:
    async with owners(tmp_path, clients=1) as (_, (fs,)):
        top = await fs.mkdir("/top")
        file = await fs.inodes.create(top.ino, b"file", 0o644, 0, 0)
        await fs.inodes.setxattr(file.ino, b"user.k", b"before")
        if error is None:
            await fs.inodes.setxattr(file.ino, name, value, flags)
            assert await fs.inodes.getxattr(file.ino, name) == value
            await fs.inodes.removexattr(file.ino, name)
        else:
            with pytest.raises(error):
                await fs.inodes.setxattr(file.ino, name, value, flags)
        assert await fs.inodes.listxattr(file.ino) == [b"user.k"]
        assert await fs.inodes.getxattr(file.ino, b"user.k") == b"before"


@pytest.fixture
def is_sent_when_somebody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not before."""
    monkeypatch.setattr(limits, "STREAM_DELAY_S", 2 * _PATIENCE_S)


@pytest.mark.usefixtures("is_sent_when_somebody_waits")
async def test_a_file_that_is_cut_to_nothing_is_written_anew_without_waiting(tmp_path: Path) -> None:
    async with owners(tmp_path, clients=2, datanodes=2) as (_, (fs, other)):
        top = await fs.mkdir("/top")
        made = await fs.inodes.create(top.ino, b"file", 0o4755, 0, 0)
        async with open_inodes(fs) as inodes:
            file = inodes.open(made, "file", holds=0)
            await file.write(0, b"x" * 9000)
            await file.fsync()
            await fs.session.stream.flush()
            cut = await file.truncate(0)
            assert (cut.size, cut.allocated, stat.S_IMODE(cut.mode)) == (0, 0, 0o755)
            assert await file.read(0, 10_000) == b""
            await file.write(0, b"new")
            assert not file.is_flushed_on_close
            assert bytes(await file.read(0, 10_000)) == b"new"
            assert fs.session.stream.unsettled == 1, "nothing of it was waited for"
            inodes.close(file)
            async with open_inodes(other) as others:
                theirs = others.open(await other.inodes.getattr(made.ino), "file", holds=0)
                assert theirs.attr.size == 3
                assert bytes(await theirs.read(0, 10_000)) == b"new"
                others.close(theirs)


@pytest.mark.usefixtures("is_sent_when_somebody_waits")
async def test_names_of_a_directory_too_large_to_be_known_are_asked_for_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PREFETCH_PAGE_ENTRIES", 2)
    monkeypatch.setattr(limits, "PREFETCH_MAX_ENTRIES", 2)
    async with owners(tmp_path, clients=2) as (_, (fs, other)):
        top = await other.mkdir("/top")
        for name in _NAMES:
            await other.inodes.create(top.ino, name, 0o644, 0, 0)
        assert (await fs.inodes.lookup(fs.inodes.root, b"top")).size == len(_NAMES)
        for number, name in enumerate((b"first", b"second")):
            with pytest.raises(errors.NotFound):
                await fs.inodes.lookup(top.ino, name)
            await fs.inodes.create(top.ino, name, 0o644, 0, 0)
            assert fs.session.stream.unsettled == number + 1
        assert {entry.name for entry in await other.inodes.readdir(top.ino)} == {*_NAMES, b"first", b"second"}


@pytest.mark.usefixtures("is_sent_when_somebody_waits")
async def test_what_was_answered_and_is_forgotten_is_found_nevertheless(tmp_path: Path) -> None:
    async with owners(tmp_path, names_max=4) as (_, (fs,)):
        beside = await fs.mkdir("/beside")
        await fs.session.stream.flush()

        async def forget(directory: Ino) -> None:
            for name in _NAMES[:4]:
                await fs.inodes.create(beside.ino, name, 0o644, 0, 0)
            for name in _NAMES[:4]:
                await fs.inodes.unlink(beside.ino, name)
            assert fs.session.cache is not None
            assert directory not in fs.session.cache.held()[1]
            assert directory in fs.session.stream.pending(), "it has not been sent"

        made = await fs.inodes.mkdir(fs.inodes.root, b"made", 0o755, 0, 0)
        file = await fs.inodes.create(made.ino, b"file", 0o644, 0, 0)
        await forget(made.ino)
        with pytest.raises(errors.NotFound, match="no such file"):
            await fs.inodes.lookup(made.ino, b"none")
        assert await fs.inodes.lookup(made.ino, b"file") == file
        await fs.inodes.unlink(made.ino, b"file")
        await forget(made.ino)
        with pytest.raises(errors.NotFound):
            await fs.inodes.lookup(made.ino, b"file")
        file = await fs.inodes.create(made.ino, b"file", 0o644, 0, 0)
        await forget(made.ino)
        assert await fs.inodes.lookup(made.ino, b"file") == file


@pytest.mark.parametrize("names_max", [10_000, 7])
@pytest.mark.parametrize("seed", range(8))
async def test_whatever_is_done_is_answered_as_the_namenode_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, names_max: int
) -> None:
    """Random changes by one client, of which each answer is compared with that of the model, and of the NameNode.

    Also where directories are too large to be listed, and most of what was known is forgotten.
    """
    chance = random.Random(seed)
    if names_max < len(_NAMES) * 2:
        monkeypatch.setattr(limits, "PREFETCH_PAGE_ENTRIES", 1)
        monkeypatch.setattr(limits, "PREFETCH_MAX_ENTRIES", 2)
    with capture_logs() as logs:
        async with owners(tmp_path, names_max=names_max) as (cluster, (fs,)):
            walk = Walk(fs, chance)
            for _ in range(400):
                await walk.step()
            seen = await everything(fs, fs.inodes.root)
            answered = fs.session.stream.statistics()
            async with cluster.client() as other:
                assert await everything(other, other.inodes.root) == seen
            assert answered["answered_here"] > 100
            assert fs.session.stream.losses == 0
    assert not [entry for entry in logs if entry["log_level"] in ("warning", "error")]


class Walk:
    """Random changes in a small tree, each done to the file system and to the model."""

    def __init__(self, fs: FileSystem, chance: random.Random) -> None:
        self._fs = fs
        self._chance = chance
        root = posix.Inode(posix.ROOT, stat.S_IFDIR | 0o755, 2, 0, 0, 0, 0, 0, 0)
        self._model = posix.FileSystem(root, 3, 2)
        self._inos: dict[int, Ino] = {posix.ROOT: fs.inodes.root}
        """The model's inode numbers, and those of the file system."""

    def _directory(self) -> int:
        inodes = self._model.state.inodes
        return self._chance.choice([ino for ino, inode in inodes.items() if inode.is_directory and inode.nlink])

    def _any(self) -> int:
        return self._chance.choice([ino for ino, inode in self._model.state.inodes.items() if inode.nlink])

    async def step(self) -> None:
        chance = self._chance
        name, other = chance.choice(_NAMES), chance.choice(_NAMES)
        directory, target = self._directory(), self._directory()
        mode = chance.choice((0o600, 0o644, 0o755, 0o2755))
        await chance.choice(
            (
                lambda: self._make("create", directory, name, mode & 0o777, 1, 2),
                lambda: self._make("mkdir", directory, name, mode, 3, 4),
                lambda: self._make("symlink", directory, name, b"to " + other, 5, 6),
                lambda: self._make("mknod", directory, name, stat.S_IFIFO | 0o600, 0, 0, 0),
                lambda: self._do("unlink", directory, name),
                lambda: self._do("rmdir", directory, name),
                lambda: self._do("rename", directory, name, target, other, chance.choice((0, 0, 0, 1, 2))),
                lambda: self._do("link", self._any(), directory, name),
                lambda: self._set(),
                lambda: self._cut(),
                lambda: self._set_extended(),
                lambda: self._do("lookup", directory, name),
            )
        )()

    async def _make(self, verb: str, directory: int, *args: Any) -> None:
        made = await self._do(verb, directory, *args)
        if made is not None:
            mine, theirs = made
            self._inos[mine.ino] = theirs.ino

    async def _set(self) -> None:
        """Three times in a row."""
        ino = self._any()
        for changes in self._chance.choices(({"mode": 0o4711}, {"uid": 7}, {"gid": 8, "mtime_ns": 9}), k=3):
            await self._do("setattr", ino, changes)

    async def _set_extended(self) -> None:
        """Some in a row, and what there is then."""
        ino, chance = self._any(), self._chance
        for _ in range(3):
            name, value = chance.choice((b"user.a", b"user.b")), b"%d" % chance.randrange(10)
            if chance.randrange(3):
                await self._do("setxattr", ino, name, value, chance.choice((0, 0, 0, 1, 2)))
            else:
                await self._do("removexattr", ino, name)
        there = self._inos[ino]
        found = {name: await self._fs.inodes.getxattr(there, name) for name in await self._fs.inodes.listxattr(there)}
        assert found == self._model.state.inodes[ino].xattrs

    async def _cut(self) -> None:
        """To nothing, which is answered here, and to some size, which is not: from more, and from nothing."""
        ino = self._any()
        for size in self._chance.choices((0, 0, 9), k=3):
            cut = await self._do("truncate", ino, size)
            if cut is not None:
                mine, theirs = cut
                assert (mine.size, theirs.size, theirs.allocated) == (size, size, 0)

    async def _do(self, verb: str, *args: Any) -> tuple[posix.Inode, Attr] | None:
        """A change; the inode that it results in, and its attributes."""
        inodes = {"rename": (0, 2), "link": (0, 1)}.get(verb, (0,))
        translated = [self._inos[arg] if at in inodes else arg for at, arg in enumerate(args)]
        mine = theirs = None
        expected = got = ""
        try:
            mine = self._model.attempt(verb, *args)
        except errors.DfsError as error:
            expected = error.code
        try:
            theirs = await getattr(self._fs.inodes, verb)(*translated)
        except errors.DfsError as error:
            got = error.code
        assert got == expected, f"{verb} {args}"
        if mine is None or theirs is None:
            return None
        assert (theirs.mode, theirs.nlink, theirs.uid, theirs.gid) == (mine.mode, mine.nlink, mine.uid, mine.gid), verb
        return mine, theirs


# --- who else looks -------------------------------------------------------------------------------------


async def test_who_asks_next_sees_what_was_answered_elsewhere(tmp_path: Path) -> None:
    async with owners(tmp_path, clients=2) as (_, (one, other)):
        await one.mkdir("/d")
        for number in range(20):
            await one.inodes.create((await one.stat("/d")).ino, b"%d" % number, 0o644, 0, 0)
            assert len(await other.listdir("/d")) == number + 1
            await one.rename(f"/d/{number}", f"/d/new {number}")
            assert not await other.exists(f"/d/{number}")
            await one.chmod(f"/d/new {number}", 0o600)
            assert (await other.stat(f"/d/new {number}")).mode & 0o777 == 0o600


async def test_who_has_a_directory_open_sees_what_was_answered_elsewhere(tmp_path: Path) -> None:
    """He asks by its number, and has not looked at it since."""
    async with owners(tmp_path, clients=2) as (_, (one, other)):
        d = (await one.mkdir("/d")).ino
        await one.session.stream.flush()
        await one.inodes.create(d, b"file", 0o644, 0, 0)
        assert [entry.name for entry in await other.inodes.readdir(d)] == [b"file"]


async def test_who_asks_is_answered_though_others_own_it_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a file that others write to all the time: they are asked once, and what they do then is after the question."""
    answer = Leases.forgot

    def own_again(self: Leases, session: SessionId, number: int, entries: Sequence[Ino]) -> None:
        owned = [ino for ino, _ in self.owned() if self.is_owner(session, ino)]
        answer(self, session, number, entries)
        for ino in owned:
            self.own_unknown(session, ino, is_directory=ino == d.ino)

    async with owners(tmp_path, clients=2) as (cluster, (one, other)), cluster.client() as third:
        d = await one.mkdir("/d")
        file = await one.inodes.create(d.ino, b"file", 0o644, 0, 0)
        await one.session.stream.flush()
        monkeypatch.setattr(Leases, "forgot", own_again)
        for fs in (other, third):
            assert await fs.inodes.getattr(file.ino) == file
            assert await fs.inodes.lookup(d.ino, b"file") == file
            assert await fs.inodes.listxattr(file.ino) == []
            assert [entry.attr for entry in await fs.inodes.readdir(d.ino)] == [file]
            assert (await fs.inodes.parent(d.ino)).ino == ROOT_INO
            assert (await fs.inodes.walk(ROOT_INO, [b"d", b"file"]))[-1] == file


def reply_late(fs: FileSystem, monkeypatch: pytest.MonkeyPatch) -> tuple[trio.Event, trio.Event]:
    """From now on commands' replies arrive after the second event; the first is set when one has happened."""
    applied, arrives = trio.Event(), trio.Event()
    call = fs.session._call

    async def late(method: str, *args: Any, **options: Any) -> Any:
        found = await call(method, *args, **options)
        if method == "apply":
            applied.set()
            await arrives.wait()
        return found

    monkeypatch.setattr(fs.session, "_call", late)
    return applied, arrives


def note_recalls(fs: FileSystem, monkeypatch: pytest.MonkeyPatch, wait_for: trio.Event | None = None) -> list[Item]:
    """What is recalled from now on; it is forgotten after the event."""
    recalled: list[Item] = []
    forget = fs.session.on_recall
    assert forget is not None

    async def noting(items: Sequence[Item]) -> None:
        recalled.extend(items)
        if wait_for is not None:
            await wait_for.wait()
        await forget(items)

    monkeypatch.setattr(fs.session, "on_recall", noting)
    return recalled


async def test_what_is_told_by_who_owns_it_again_he_knows_himself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He is heard before somebody else is, and has owned the file again, and changed it, by the time of the answer."""
    async with owners(tmp_path, clients=3) as (_, (one, slow, reader)), trio.open_nursery() as nursery:
        top, beside = (await one.mkdir("/top")).ino, (await one.mkdir("/beside")).ino
        file = (await one.inodes.create(top, b"file", 0o644, 0, 0)).ino
        await one.inodes.link(file, beside, b"file")
        await one.session.stream.flush()
        for directory in (top, beside):
            await reader.inodes.readdir(directory)
        assert await one.inodes.own(file) is not None
        goes_on, found = trio.Event(), list[Attr]()
        while not slow.session.cache.owns_names(top):  # type: ignore[union-attr]
            await slow.inodes.create(top, b"of slow %d" % trio.lowlevel.current_clock().current_time(), 0o644, 0, 0)
            await trio.sleep(0.2)
        await slow.session.stream.flush()
        asked, heard = note_recalls(slow, monkeypatch, goes_on), note_recalls(one, monkeypatch)

        async def look() -> None:
            found.append(await reader.inodes.lookup(top, b"file"))

        nursery.start_soon(look)
        while not asked or not heard or one.session.is_recalled(file):
            await trio.sleep(0.01)
        assert await one.inodes.own(file) is not None
        assert [entry.attr.size for entry in await one.inodes.readdir(beside)] == [0]
        applied, arrives = reply_late(one, monkeypatch)
        nursery.start_soon(one.inodes.truncate, file, 5)
        await applied.wait()
        goes_on.set()
        with trio.move_on_after(0.5):
            while not found:
                await trio.sleep(0.01)
        shown = [entry.attr.size for entry in await one.inodes.readdir(beside)] if found else [5]
        assert shown == [5] or found[0].size == 0
        arrives.set()
        while not found:
            await trio.sleep(0.01)
        assert found[0].size in (0, 5)


async def test_nobody_is_told_that_there_is_nothing_before_who_has_removed_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with owners(tmp_path) as (cluster, (one,)), cluster.client() as other, trio.open_nursery() as nursery:
        top = (await other.mkdir("/top")).ino
        await other.inodes.create(top, b"file", 0o644, 0, 0)
        one.session.wants_directories = False
        await one.inodes.readdir(top)
        goes_on = trio.Event()
        applied, arrives = reply_late(one, monkeypatch)
        recalled = note_recalls(one, monkeypatch, goes_on)
        nursery.start_soon(one.inodes.unlink, top, b"file")
        await applied.wait()

        async def go_on() -> None:
            while not recalled:
                await trio.sleep(0.01)
            goes_on.set()

        nursery.start_soon(go_on)
        with pytest.raises(errors.NotFound):
            await other.inodes.lookup(top, b"file")
        assert goes_on.is_set()
        arrives.set()


async def test_who_changes_a_file_has_his_turn_though_others_change_it_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with owners(tmp_path, clients=2) as (_, (one, other)), trio.open_nursery() as nursery:
        call = one.session._call

        async def forget_slowly(method: str, *args: Any, **options: Any) -> Any:
            """So that some change is always under way between a recall and its answer."""
            if method == "forgot":
                await trio.sleep(0.02)
            return await call(method, *args, **options)

        monkeypatch.setattr(one.session, "_call", forget_slowly)
        await one.inodes.create(ROOT_INO, b"file", 0o644, 0, 0)
        ino = (await other.stat("/file")).ino

        async def change() -> None:
            while True:
                for mode in range(0o600, 0o700):
                    await one.inodes.setattr(ino, {"mode": mode})
                    await trio.lowlevel.checkpoint()  # while it is owned there is none in it

        for _ in range(8):
            nursery.start_soon(change)
        with trio.fail_after(_PATIENCE_S):
            for number in range(20):
                await other.inodes.setxattr(ino, b"user.n", b"%d" % number)
                assert (await other.inodes.setattr(ino, {"uid": number})).uid == number
        nursery.cancel_scope.cancel()


async def test_who_is_refused_is_so_for_what_was_answered_elsewhere(tmp_path: Path) -> None:
    """An error is an answer, too: it may not be about how things were."""
    async with owners(tmp_path, clients=2) as (_, (one, other)):
        d = (await one.mkdir("/d")).ino
        assert await other.exists("/d")
        for number in range(5):
            await one.inodes.create(d, b"x", 0o644, 0, 0)
            await other.inodes.unlink(d, b"x")  # NotFound, if the NameNode were not told before
            await trio.sleep(limits.OWN_AGAIN_MAX_S if number == 2 else 0)  # once, it is owned again
            with pytest.raises(errors.NotFound):
                await one.inodes.unlink(d, b"x")
        inner = (await one.inodes.mkdir(d, b"inner", 0o755, 0, 0)).ino
        await one.inodes.create(inner, b"file", 0o644, 0, 0)
        with pytest.raises(errors.NotEmpty):
            await other.inodes.rmdir(d, b"inner")
        await one.inodes.unlink(inner, b"file")
        await other.inodes.rmdir(d, b"inner")


async def test_two_that_work_in_each_others_directories_wait_for_each_other_and_not_for_ever(tmp_path: Path) -> None:
    async with owners(tmp_path, clients=2) as (_, clients):
        inos = [(await fs.mkdir(f"/d{number}")).ino for number, fs in enumerate(clients)]
        for fs in clients:
            for number, ino in enumerate(inos):
                assert await fs.exists(f"/d{number}")
                await fs.inodes.create(ino, f"file of {id(fs)}".encode(), 0o644, 0, 0)

        async def move(fs: FileSystem, here: Ino, there: Ino) -> None:
            name = f"file of {id(fs)}".encode()
            for _ in range(20):
                await fs.inodes.rename(here, name, there, name + b"!")
                await fs.inodes.rename(there, name + b"!", here, name)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(move, clients[0], inos[0], inos[1])
            nursery.start_soon(move, clients[1], inos[1], inos[0])
        for fs in clients:
            assert [len(await fs.inodes.readdir(ino)) for ino in inos] == [2, 2]


async def test_names_are_made_once_by_whoever_makes_them(tmp_path: Path) -> None:
    async with owners(tmp_path, clients=3) as (_, clients):
        d = (await clients[0].mkdir("/d")).ino
        assert all([await fs.exists("/d") for fs in clients])
        made: list[bytes] = []

        async def race(fs: FileSystem) -> None:
            for number in range(30):
                try:
                    await fs.inodes.mkdir(d, b"%d" % number, 0o755, 0, 0)
                    made.append(b"%d" % number)
                except errors.Exists:
                    pass

        async with trio.open_nursery() as nursery:
            for fs in clients:
                nursery.start_soon(race, fs)
        assert sorted(made) == sorted(b"%d" % number for number in range(30))
        assert (await clients[1].stat("/d")).nlink == 32


async def test_a_rename_across_two_owned_directories_is_of_one_moment_for_who_looks(tmp_path: Path) -> None:
    async with owners(tmp_path, clients=2) as (_, (one, other)):
        a, b = [(await one.mkdir(f"/{name}")).ino for name in "ab"]
        await one.inodes.create(a, b"f", 0o644, 0, 0)
        done = trio.Event()

        async def look() -> None:
            while not done.is_set():
                there = [await other.exists("/a/f"), await other.exists("/b/f"), await other.exists("/a/f")]
                assert any(there)
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            for _ in range(50):
                await one.inodes.rename(a, b"f", b, b"f")
                await one.inodes.rename(b, b"f", a, b"f")
                await trio.sleep(0.002)
            done.set()


# --- files ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def mounted(directory: Path) -> AsyncIterator[tuple[Cluster, FileSystem, OpenInodes]]:
    """A cluster with DataNodes, and a client as a mount is one."""
    async with running_cluster(directory, datanodes=3) as cluster, mounted_on(cluster) as (fs, files):
        with trio.fail_after(_PATIENCE_S * 3):
            yield cluster, fs, files


async def test_a_file_that_is_open_outlives_its_name_and_goes_with_its_last_user(tmp_path: Path) -> None:
    async with mounted(tmp_path) as (cluster, fs, files):
        d = (await fs.mkdir("/d")).ino
        file = await files.create(d, b"f", 0o644, 0, 0, exclusive=True)
        await file.write(0, b"before")
        assert (await fs.inodes.unlink(d, b"f")).nlink == 0
        await file.write(6, b" and after")
        await file.fsync()
        assert bytes(await file.read(0, 100)) == b"before and after"
        async with cluster.client() as other:
            assert not await other.listdir("/d")
            files.close(file)
            while (await other.statfs()).inodes > 2:
                await trio.sleep(0.01)


@pytest.mark.parametrize("users", [1, 2])
async def test_a_file_that_is_gone_with_its_last_user_is_not_changed_here_any_more(tmp_path: Path, users: int) -> None:
    """Who had found it before may still want to, and is told so: the NameNode would refuse what was taken for done."""

    async def change(ino: Ino) -> None:
        with pytest.raises(errors.NotFound):
            await fs.inodes.setattr(ino, {"mode": 0o600})
        with pytest.raises(errors.NotFound):
            await fs.inodes.setxattr(ino, b"user.a", b"1")

    async with mounted(tmp_path) as (_, fs, files):
        d = (await fs.mkdir("/d")).ino
        file = await files.create(d, b"f", 0o644, 0, 0, exclusive=True)
        await file.write(0, b"content")
        for _ in range(users - 1):
            await files.acquire(file.ino, "f")
        assert (await fs.inodes.unlink(d, b"f")).nlink == 0
        assert (await fs.inodes.setattr(file.ino, {"mode": 0o600})).mode & 0o777 == 0o600
        for _ in range(users):
            files.close(file)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await change(file.ino)
        await fs.session.stream.flush(losses=0)
        assert fs.session.stream.surprises == 0


async def test_what_is_written_to_a_file_that_goes_at_once_leaves_no_memory(tmp_path: Path) -> None:
    async with mounted(tmp_path) as (_, fs, files):
        d = (await fs.mkdir("/d")).ino
        for _ in range(20):
            file = await files.create(d, b"scratch", 0o644, 0, 0, exclusive=True)
            await file.write(0, bytes(1000))
            await file.flush()
            files.close(file)
            await fs.inodes.unlink(d, b"scratch")
        while files.statistics()["open"]:
            await trio.sleep(0.01)
        assert files.statistics()["dirty_bytes"] == 0
        assert fs.chunks.statistics()["appended_bytes"] == 0


async def test_a_file_that_goes_while_its_bytes_are_on_their_way_is_no_reason_for_caution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or each file that is closed would be waited for."""
    async with mounted(tmp_path) as (_, fs, files):
        d = (await fs.mkdir("/d")).ino
        file = await files.create(d, b"scratch", 0o644, 0, 0, exclusive=True)
        await file.write(0, bytes(1000))
        files.close(file)
        passed = FileWriter.commit

        async def late(self: FileWriter, **options: Any) -> Attr | None:
            await fs.inodes.unlink(d, b"scratch")
            return await passed(self, **options)

        monkeypatch.setattr(FileWriter, "commit", late)
        with capture_logs() as logs:
            await file.write_back()
        assert (await fs.inodes.getattr(d)).size == 0
        assert not files.is_cautious
        assert not [entry for entry in logs if entry["log_level"] in ("warning", "error")]


async def test_a_sum_has_what_was_written_beneath_and_leaves_alone_who_works_elsewhere(tmp_path: Path) -> None:
    """The NameNode does not know yet of what was made last, nor of the bytes of that."""
    async with mounted(tmp_path) as (cluster, fs, files), cluster.client() as other:
        counted, elsewhere = [(await fs.mkdir(path)).ino for path in ("/counted", "/elsewhere")]
        await fs.session.stream.flush()
        inos = []
        for directory in ((await fs.inodes.mkdir(counted, b"inner", 0o755, 0, 0)).ino, counted, elsewhere):
            file = await files.create(directory, b"file", 0o644, 0, 0, exclusive=True)
            await file.write(0, bytes(1000))
            files.close(file)
            inos.append(file.ino)
        found = await other.inodes.summarize(counted)
        assert (found["files"], found["directories"], found["bytes"]) == (2, 1, 2000)
        assert isinstance(fs.inodes, CachedInodes)
        assert [fs.inodes.owned_attr(ino) is not None for ino in inos] == [False, False, True]
        assert (await other.inodes.summarize(fs.inodes.root))["bytes"] == 3000


async def test_what_somebody_else_has_open_keeps_what_is_written_to_it(tmp_path: Path) -> None:
    async with mounted(tmp_path) as (cluster, fs, files), cluster.client() as other:
        d = (await fs.mkdir("/d")).ino
        file = await files.create(d, b"f", 0o644, 0, 0, exclusive=True)
        async with await other.open("/d/f") as theirs:
            await trio.sleep(limits.OWN_AGAIN_MAX_S)
            await file.write(0, b"for them")
            await file.flush()
            files.close(file)
            await fs.inodes.unlink(d, b"f")
            assert await theirs.pread(100, 0) == b"for them"


async def test_a_file_that_comes_to_be_owned_with_its_directory_is_as_others_have_left_it(tmp_path: Path) -> None:
    """Nobody asks for its attributes then: they came with the listing."""
    async with mounted(tmp_path) as (cluster, fs, files):
        d = (await fs.mkdir("/d")).ino
        mine = [await files.create(d, name, 0o644, 0, 0, exclusive=True) for name in (b"longer", b"shorter")]
        for file in mine:
            await file.append(b"a" * 10)
        async with mounted_on(cluster) as (other, others):
            found = [await other.stat(path) for path in ("/d/longer", "/d/shorter")]
            longer, shorter = [await others.acquire(attr.ino, "theirs") for attr in found]
            await longer.append(b"b" * 10)
            await shorter.truncate(5)
        await trio.sleep(limits.OWN_AGAIN_MAX_S)
        await fs.inodes.create(d, b"another", 0o644, 0, 0)
        assert [file.is_owned for file in mine] == [True, True]
        for file in mine:
            await file.append(b"c")
        expected = [b"a" * 10 + b"b" * 10 + b"c", b"a" * 5 + b"c"]
        assert [bytes(await file.read(0, 100)) for file in mine] == expected
        assert [file.shown().size for file in mine] == [21, 6]
        for file in mine:
            await file.settle()
        assert [bytes(await file.read(0, 100)) for file in mine] == expected


async def test_who_has_no_files_open_any_more_gives_back_what_was_owned(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, datanodes=3) as cluster, cluster.client() as other:
        async with cluster.client(cache=Cache(10_000, 10_000)) as fs:
            async with open_inodes(fs) as files:
                d = (await fs.mkdir("/d")).ino
                file = await files.create(d, b"f", 0o644, 0, 0, exclusive=True)
                await file.write(0, b"content")
            with trio.fail_after(_PATIENCE_S):
                assert (await other.stat("/d/f")).size == 7
                await other.remove("/d/f")


async def test_an_fsynced_file_has_its_names_on_disk(tmp_path: Path) -> None:
    async with mounted(tmp_path) as (_, fs, files):
        d = (await fs.mkdir("/d")).ino
        file = await files.create(d, b"temporary", 0o644, 0, 0, exclusive=True)
        await file.write(0, b"content")
        await fs.inodes.rename(d, b"temporary", d, b"final")
        await file.fsync()
        assert not fs.session.stream
        empty = await files.create(d, b"empty", 0o644, 0, 0, exclusive=True)
        await empty.fsync()
        assert not fs.session.stream
        for opened in (file, empty):
            files.close(opened)


async def test_an_overwrite_of_what_another_client_added_is_flushed_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It frees bytes that may be durable."""
    async with mounted(tmp_path) as (cluster, fs, files), cluster.client() as other:
        file = await files.create((await fs.mkdir("/d")).ino, b"f", 0o644, 0, 0, exclusive=True)
        await fs.session.stream.flush()
        async with await other.open("/d/f", "r+") as theirs:
            await theirs.pwrite(b"o" * 300_000, 0)
            await theirs.fsync()
        assert bytes(await file.read(0, 1)) == b"o"
        flushed, sync = [], fs.chunks.sync

        async def counting(reach: dict[Any, int]) -> Any:
            flushed.extend(reach)
            return await sync(reach)

        monkeypatch.setattr(fs.chunks, "sync", counting)
        await file.write(0, b"n" * 300_000)
        await file.settle()
        assert flushed
        files.close(file)


async def test_a_layout_that_failed_is_not_tried_again_for_each_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its grants have expired, or all replicas have moved."""
    async with mounted(tmp_path) as (cluster, fs, files), cluster.client() as other:
        d = (await fs.mkdir("/d")).ino
        await fs.session.stream.flush()
        async with await other.open("/d/f", "w") as theirs:
            await theirs.pwrite(bytes(limits.MIB), 0)
        attr = await fs.inodes.lookup(d, b"f")
        assert attr is not None
        file = await files.acquire(attr.ino, "f")
        await file.read(0, 4096)
        stale = list(file._ahead._layouts._kept.values())
        assert stale
        fill, tried = fs.reader._fill, []

        async def refused(layout: Any, offset: int, view: memoryview) -> None:
            if layout in stale:
                tried.append(offset)
                raise errors.GrantExpired("as after an hour")
            await fill(layout, offset, view)

        monkeypatch.setattr(fs.reader, "_fill", refused)
        for page in (100, 200, 50, 150):
            await file._ahead._read_directly(page * 4096, 4096)
        assert len(tried) == 1
        files.close(file)


# --- what goes wrong ------------------------------------------------------------------------------------


async def test_changes_that_were_answered_survive_a_namenode_that_restarts(tmp_path: Path) -> None:
    async with owners(tmp_path) as (cluster, (fs,)):
        d = (await fs.mkdir("/d")).ino
        for number in range(200):
            await fs.inodes.create(d, b"%d" % number, 0o644, 0, 0)
            if number == 100:
                await cluster.stop("namenode")
                await cluster.start_namenode()
        async with cluster.client() as other:
            assert len(await other.listdir("/d")) == 200
        assert fs.session.stream.losses == 0


async def test_commands_that_are_waited_for_do_not_wait_for_each_other_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of two clients has one under way on a file of its own, and looks at that of the other meanwhile."""
    async with owners(tmp_path, clients=2, session_timeout_s=_PATIENCE_S / 4) as (cluster, clients):
        directories = [(await fs.mkdir(f"/{number}")).ino for number, fs in enumerate(clients)]
        files = [
            (await fs.inodes.create(directory, b"f", 0o644, 0, 0)).ino
            for fs, directory in zip(clients, directories, strict=True)
        ]
        sessions = [await fs.session.ensure() for fs in clients]
        for fs in clients:
            await fs.session.stream.flush()
        await cluster.stop("namenode")
        async with trio.open_nursery() as nursery:
            for fs, mine, other in zip(clients, files, reversed(files), strict=True):
                nursery.start_soon(fs.inodes.setxattr, mine, b"user.name", b"value")
                while not fs.session.stream:
                    await trio.sleep(0.01)
                nursery.start_soon(fs.inodes.hold, other)  # it is not answered either, so what is known is forgotten
            seen = [trio.Event() for _ in clients]
            for number, fs in enumerate(clients):
                sent_once_seen(fs, seen[number], monkeypatch)
                nursery.start_soon(look, clients[1 - number], files[number], seen[number])
            await cluster.start_namenode()
        for fs, mine, session in zip(clients, files, sessions, strict=True):
            assert await fs.inodes.getxattr(mine, b"user.name") == b"value"
            assert fs.session.session == session


async def look(fs: FileSystem, ino: Ino, seen: trio.Event) -> None:
    await fs.inodes.getattr(ino)
    seen.set()


def sent_once_seen(fs: FileSystem, seen: trio.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a client sends again comes after others have seen its file, or asked it to give that up."""
    send, recall = fs.session.pool.call, fs.session.on_recall
    assert recall is not None, "a file system hears of recalls"

    async def call(address: str, name: str, method: str, *args: Any, **options: Any) -> Any:
        if method == "apply" and args[2][0][1] == "setxattr":
            await seen.wait()
        return await send(address, name, method, *args, **options)

    async def recalled(items: Sequence[Item]) -> None:
        seen.set()
        await recall(items)

    monkeypatch.setattr(fs.session.pool, "call", call)
    fs.session.on_recall = recalled


async def test_who_cannot_say_what_he_holds_gives_up_his_session_and_others_wait_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with owners(tmp_path, clients=2, session_timeout_s=_PATIENCE_S * 3) as (cluster, (fs, other)):
        await fs.inodes.create((await fs.mkdir("/d")).ino, b"before", 0o644, 0, 0)
        await fs.session.stream.flush()
        session, call = fs.session.session, fs.session.pool.call

        async def refused(address: str, name: str, method: str, *args: Any, **options: Any) -> Any:
            if method == "reclaim":
                raise errors.InvalidArgument("as of another release")
            return await call(address, name, method, *args, **options)

        monkeypatch.setattr(fs.session.pool, "call", refused)
        with capture_logs() as logs, trio.fail_after(_PATIENCE_S):
            await cluster.stop("namenode")
            await cluster.start_namenode()
            await other.mkdir("/d/of the other")
            assert "leases could not be claimed again" in [entry["event"] for entry in logs]
            await fs.mkdir("/d/after")
            assert fs.session.session not in (None, session)
            assert {entry.name for entry in await fs.listdir("/d")} == {b"before", b"of the other", b"after"}


async def test_who_has_not_said_what_he_holds_stops_showing_it_before_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though he hears the NameNode all the time, which gives him up when he has kept it waiting for long enough."""
    async with owners(tmp_path, session_timeout_s=5.0) as (cluster, (fs,)):
        await fs.mkdir("/d")
        session, call, has_asked = await fs.session.ensure(), fs.session.pool.call, trio.Event()

        async def stuck(address: str, name: str, method: str, *args: Any, **options: Any) -> Any:
            if method == "reclaim":
                has_asked.set()
                await trio.sleep_forever()
            return await call(address, name, method, *args, **options)

        monkeypatch.setattr(fs.session.pool, "call", stuck)
        with trio.fail_after(_PATIENCE_S):
            await cluster.stop("namenode")
            await cluster.start_namenode()
            await has_asked.wait()
            while fs.session.is_trusted:
                await trio.sleep(0.01)
            assert fs.session.session == session
            while fs.session.session == session:
                await trio.sleep(0.01)


async def test_changes_are_lost_with_the_session_and_who_syncs_hears_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mounted(tmp_path) as (cluster, fs, files), cluster.client() as admin:
        d = (await fs.mkdir("/d")).ino
        await fs.session.stream.flush()
        monkeypatch.setattr(limits, "STREAM_DELAY_S", _PATIENCE_S)
        file = await files.create(d, b"lost", 0o644, 0, 0, exclusive=True)
        with capture_logs() as logs:
            await admin.session.pool.call(admin.session.address, "dfs.namenode", "close_session", fs.session.session)
            with pytest.raises(errors.SessionExpired):
                await fs.session.stream.flush(losses=0)
        assert fs.session.stream.losses == 1
        assert "changes of names are lost" in [entry["event"] for entry in logs]
        assert isinstance(file.late_error, errors.SessionExpired)
        files.close(file)
        assert await admin.listdir("/d") == []
        await fs.inodes.create(d, b"found", 0o644, 0, 0)  # it works again
        assert [entry.name for entry in await fs.listdir("/d")] == [b"found"]


async def end_session(fs: FileSystem, admin: FileSystem) -> None:
    """Have the NameNode end a session; return when its client knows."""
    session = fs.session.session
    await admin.session.pool.call(admin.session.address, "dfs.namenode", "close_session", session)
    while fs.session.session == session:
        await trio.sleep(0.01)


async def test_each_lost_session_is_said_and_what_is_written_after_it_is_not_lost_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mounted(tmp_path) as (cluster, fs, files), cluster.client() as admin:
        file = await files.create((await fs.mkdir("/d")).ino, b"f", 0o644, 0, 0, exclusive=True)
        await fs.session.stream.flush()
        append, has_arrived, may_go_on = fs.chunks.append, trio.Event(), trio.Event()

        async def slow(*args: Any, **options: Any) -> Any:
            written = await append(*args, **options)
            has_arrived.set()
            await may_go_on.wait()
            return written

        monkeypatch.setattr(fs.chunks, "append", slow)
        await file.write(0, b"lost")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(file.write_back)
            await has_arrived.wait()
            await end_session(fs, admin)
            monkeypatch.setattr(fs.chunks, "append", append)
            await file.write(1, b"kept")
            may_go_on.set()
        assert file.late_errors == 1
        await file.settle()
        async with await admin.open("/d/f") as theirs:
            assert await theirs.pread(100, 0) == b"\0kept"
        await file.write(5, b"lost")
        await end_session(fs, admin)
        assert file.late_errors == 2
        assert bytes(await file.read(0, 100)) == b"\0kept"
        files.close(file)


async def test_after_changes_were_lost_a_file_is_shown_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it had come further with them than it is without."""
    async with mounted(tmp_path) as (cluster, fs, files), cluster.client() as admin:
        d = (await fs.mkdir("/d")).ino
        file = await files.create(d, b"f", 0o644, 0, 0, exclusive=True)
        await file.append(b"content")
        await file.settle()
        await fs.session.stream.flush()
        monkeypatch.setattr(limits, "STREAM_DELAY_S", _PATIENCE_S)
        for number in range(5):
            await fs.inodes.link(file.ino, d, b"%d" % number)
            file.note_own(await fs.inodes.setattr(file.ino, {"mode": 0o600}))
        await end_session(fs, admin)
        async with await admin.open("/d/f", "r+b") as theirs:
            await theirs.pwrite(b"other", 0)
        assert await files.seen(await fs.inodes.getattr(file.ino)) == await admin.stat("/d/f")
        assert bytes(await file.read(0, 100)) == b"othernt"
        files.close(file)


@pytest.mark.parametrize("together", [False, True])
async def test_bytes_that_were_taken_are_not_given_up_before_the_session_however_impatient_their_client_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    monkeypatch.setattr(limits, "RETRY_DELAY_MAX_S", 0.01)
    async with mounted(tmp_path) as (cluster, fs, files), cluster.client() as other:
        file = await files.create((await fs.mkdir("/d")).ino, b"f", 0o644, 0, 0, exclusive=True)
        await file.write(0, b"content")
        await fs.session.stream.flush()
        send, tried = fs.session.send, Counter[str]()

        async def away(*args: Any) -> Any:
            tried["send"] += 1
            if tried["send"] < 10:
                await trio.sleep(0.15)
                raise errors.Unreachable("away")
            return await send(*args)

        monkeypatch.setattr(fs.session, "send", away)
        monkeypatch.setattr(fs.session, "wait_s", 1.0)
        if together:
            await files._write_back_together([file], file.attr.replicas)
        else:
            await file.write_back()
        assert (tried["send"], file.late_errors) == (10, 0)
        assert (await other.stat("/d/f")).size == 7
        files.close(file)


async def test_small_files_that_cannot_be_committed_are_given_up_together(tmp_path: Path) -> None:
    wait_s = 2.0
    async with running_cluster(tmp_path, datanodes=3, session_timeout_s=wait_s) as cluster:
        async with cluster.client(cache=Cache(10_000, 10_000), wait_s=wait_s) as fs, open_inodes(fs) as files:
            d = (await fs.mkdir("/d")).ino
            opened = [await files.create(d, b"%d" % number, 0o644, 0, 0, exclusive=True) for number in range(16)]
            for data in (b"before", b"content"):  # the second time there is a chunk to append to
                await files.settle_all()
                for file in opened:
                    await file.write(file.shown().size, data)
            await cluster.stop("namenode")
            with trio.fail_after(limits.WRITE_BACK_AFTER_S + 4 * wait_s):
                while files.statistics()["dirty_bytes"] or not all(file.late_errors for file in opened):
                    await trio.sleep(0.05)
            for file in opened:
                assert file.is_clean
                files.close(file)


async def test_what_is_refused_because_the_session_has_ended_is_lost_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end reaches the NameNode's tables just before a batch does: then each command is refused, not the batch."""
    async with owners(tmp_path, session_timeout_s=2.0) as (_, (fs,)):
        d = (await fs.mkdir("/d")).ino
        await fs.session.stream.flush()
        monkeypatch.setattr(limits, "STREAM_DELAY_S", _PATIENCE_S)
        for number in range(5):
            await fs.inodes.create(d, b"%d" % number, 0o644, 0, 0)
        with closing(sqlite3.connect(tmp_path / "namenode" / "namespace.sqlite")) as tables, tables:
            tables.execute("DELETE FROM session WHERE session = ?", (fs.session.session,))
        with pytest.raises(errors.SessionExpired):
            await fs.session.stream.flush()
        stream = fs.session.stream
        assert (stream.losses, stream.unsettled, stream.pending()) == (5, 0, [])
        monkeypatch.undo()
        await fs.inodes.create(d, b"found", 0o644, 0, 0)  # it works again
        await stream.flush()
        assert [entry.name for entry in await fs.listdir("/d")] == [b"found"]


async def test_a_number_that_is_not_reserved_is_refused(tmp_path: Path) -> None:
    async with owners(tmp_path) as (_, (fs,)):
        first, last = await fs.session.apply("reserve_inodes", 10)
        root = fs.inodes.root
        await fs.session.apply("mkdir", root, b"mine", 0o755, 0, 0, first)
        with pytest.raises(errors.Exists, match="exists already"):
            await fs.session.apply("mkdir", root, b"twice", 0o755, 0, 0, first)
        for number in (1, last + 1, -1, "x"):
            with pytest.raises(errors.InvalidArgument):
                await fs.session.apply("mkdir", root, b"other", 0o755, 0, 0, number)
        with pytest.raises(errors.InvalidArgument):
            await fs.session.apply("reserve_inodes", limits.INODES_RESERVED + 1)


async def test_with_a_namenode_disk_nearly_full_nothing_is_promised(tmp_path: Path) -> None:
    async with owners(tmp_path, reserve_bytes=2**60) as (_, (fs,)):
        with pytest.raises(errors.NoSpace):
            await fs.mkdir("/d")
        assert fs.session.stream.statistics()["answered_here"] == 0


async def test_no_number_is_given_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "INODES_RESERVED", 4)
    async with owners(tmp_path) as (_, (fs,)):
        await fs.mkdir("/d")
        assert isinstance(fs.inodes, CachedInodes)
        owned = fs.inodes.owned
        given = []
        for _ in range(5):
            await owned.reserve()
            while (number := owned._number()) is not None:  # more is asked for meanwhile, and comes too late
                given.append(number)
            await trio.sleep(0.05)
        assert len(given) >= 16
        assert len(set(given)) == len(given)


async def test_many_who_make_their_first_files_at_once_all_keep_them(tmp_path: Path) -> None:
    async with owners(tmp_path, clients=2) as (_, (fs, other)):
        directories = [(await fs.mkdir(f"/{number}")).ino for number in range(12)]
        await fs.session.stream.flush()

        async def make(directory: Ino) -> None:
            for name in _NAMES:
                await other.inodes.create(directory, name, 0o644, 0, 0)

        async with trio.open_nursery() as nursery:
            for directory in directories:
                nursery.start_soon(make, directory)
        await other.session.stream.flush()
        for number in range(12):
            assert [entry.name for entry in await fs.listdir(f"/{number}")] == [*_NAMES]


async def test_after_a_refused_change_others_are_made_with_other_numbers(tmp_path: Path) -> None:
    async with owners(tmp_path) as (_, (fs,)):
        directory = (await fs.mkdir("/d")).ino
        await fs.session.stream.flush()
        for _ in range(10):  # the NameNode forgets those that this client means to use
            await fs.session.apply("reserve_inodes", 1)
        await fs.inodes.create(directory, b"lost", 0o644, 0, 0)
        with pytest.raises(errors.SessionExpired):
            await fs.session.stream.flush(0)
        await fs.inodes.create(directory, b"kept", 0o644, 0, 0)
        await fs.session.stream.flush()
        assert [entry.name for entry in await fs.listdir("/d")] == [b"kept"]


async def test_a_change_that_is_refused_ends_no_session_that_others_wait_for(tmp_path: Path) -> None:
    async with owners(tmp_path, clients=2) as (_, (fs, other)):
        d = await fs.mkdir("/d")
        await fs.session.stream.flush()
        await fs.inodes.mkdir(d.ino, b"e", 0o755, 0, 0)
        session, stream = fs.session.session, fs.session.stream
        stream.put("mkdir", (d.ino, b"e", 0o755, 0, 0, 0), 1, None, ())  # which the NameNode refuses
        with trio.fail_after(_PATIENCE_S):
            assert [entry.name for entry in await other.listdir("/d")] == [b"e"]
        assert stream.losses == 1
        assert fs.session.session == session


async def test_a_capability_that_goes_while_it_is_asked_for_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with owners(tmp_path) as (_, (fs,)):
        d = await fs.mkdir("/d")
        ino = (await fs.inodes.create(d.ino, b"program", 0o755, 0, 0)).ino
        await fs.inodes.setxattr(ino, CAPABILITY, b"all of them")
        await fs.inodes.own(ino)
        known = fs.session.cache.inode(ino) if fs.session.cache is not None else None
        assert known is not None
        known.xattrs = None
        passed, answered, go_on = fs.session.leased_query, trio.Event(), trio.Event()

        async def late(method: str, *args: Any, **options: Any) -> Any:
            found = await passed(method, *args, **options)
            if method == "leased_xattrs_of":
                answered.set()
                await go_on.wait()
            return found

        monkeypatch.setattr(fs.session, "leased_query", late)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fs.inodes.listxattr, ino)
            await answered.wait()
            await fs.inodes.setattr(ino, {"uid": 5})
            go_on.set()
        with pytest.raises(errors.NoAttribute):
            await fs.inodes.getxattr(ino, CAPABILITY)


async def test_files_that_another_one_knows_are_removed_many_at_a_time(tmp_path: Path) -> None:
    """He is asked to forget many at once, and not each of them when its turn comes."""
    count = 300
    async with owners(tmp_path, clients=2) as (_, (fs, other)):
        top = await fs.mkdir("/top")
        names = [b"%d" % number for number in range(count)]
        for name in names:
            await fs.inodes.create(top.ino, name, 0o644, 0, 0)
        await fs.session.stream.flush()
        for entry in await other.inodes.readdir(top.ino, 0, count):
            await other.inodes.getattr(entry.attr.ino)
        await trio.sleep(limits.OWN_AGAIN_MAX_S)
        before = (await status(fs))["leases"]["recalls"]
        for number, name in enumerate(names):
            if number % 3 == 0:
                await fs.inodes.unlink(top.ino, name)
            elif number % 3 == 1:
                attr = await fs.inodes.lookup(top.ino, name)
                await fs.inodes.setattr(attr.ino, {"mode": 0o600})
            else:
                await fs.inodes.rename(top.ino, name, top.ino, name + b"-")
        assert (await status(fs))["leases"]["recalls"] < before + 30
        seen = {entry.name: entry.attr.mode & 0o777 for entry in await other.inodes.readdir(top.ino, 0, count)}
    kept = dict.fromkeys(names[1::3], 0o600) | dict.fromkeys((name + b"-" for name in names[2::3]), 0o644)
    assert seen == kept


@asynccontextmanager
async def tree(directory: Path, clients: int) -> AsyncIterator[tuple[list[Ino], list[FileSystem]]]:
    """30 files, each ten of them in a directory of /top, and clients of which nobody has looked at them."""
    async with owners(directory, clients=clients) as (cluster, found), cluster.client() as maker:
        await maker.mkdir("/top")
        inos: list[Ino] = []
        for number in range(3):
            inner = await maker.mkdir(f"/top/{number}")
            inos += [(await maker.inodes.create(inner.ino, b"%d" % n, 0o644, 0, 0)).ino for n in range(10)]
        yield inos, found


async def list_all(fs: FileSystem) -> None:
    top = await fs.stat("/top")
    for entry in await fs.inodes.readdir(top.ino):
        await fs.inodes.readdir(entry.attr.ino)


async def test_who_changes_a_tree_that_nobody_else_knows_owns_it_after_a_few_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tree(tmp_path, 2) as (inos, (fs, other)):
        await list_all(fs)
        asked = count_questions(fs, monkeypatch)
        for ino in inos:
            await fs.inodes.setattr(ino, {"mode": 0o600})
        assert fs.session.stream.statistics()["answered_here"] == len(inos)
        assert asked.total() <= 3, asked
        assert {(await other.inodes.getattr(ino)).mode & 0o777 for ino in inos} == {0o600}
        assert fs.session.stream.surprises == 0


async def test_what_others_know_is_left_to_them_by_who_changes_another_part_of_the_tree(tmp_path: Path) -> None:
    async with tree(tmp_path, 2) as (inos, (fs, other)):
        await list_all(fs)
        await other.inodes.getattr(inos[15])
        before = (await status(fs))["leases"]["recalls"]
        for ino in inos[:10]:
            await fs.inodes.setattr(ino, {"mode": 0o600})
        assert (await status(fs))["leases"]["recalls"] == before
        await fs.inodes.setattr(inos[15], {"mode": 0o600})
        assert (await other.inodes.getattr(inos[15])).mode & 0o777 == 0o600


async def test_two_who_remove_the_same_files_at_the_same_time(tmp_path: Path) -> None:
    """Each is removed once, and one of them hears that it is gone."""
    async with owners(tmp_path, clients=2) as (_, clients):
        top = await clients[0].mkdir("/top")
        names = [b"%d" % number for number in range(100)]
        for name in names:
            await clients[0].inodes.create(top.ino, name, 0o644, 0, 0)
        await clients[0].session.stream.flush()
        removed: list[bytes] = []

        async def remove(fs: FileSystem, mine: list[bytes]) -> None:
            await fs.inodes.readdir(top.ino, 0, 1000)
            for name in mine:
                try:
                    await fs.inodes.unlink(top.ino, name)
                    removed.append(name)
                except errors.NotFound:
                    pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(remove, clients[0], names)
            nursery.start_soon(remove, clients[1], names[::-1])
        assert sorted(removed) == sorted(names)
        for fs in clients:
            assert await fs.inodes.readdir(top.ino) == []
            assert fs.session.stream.losses == 0


# --- files that others know -----------------------------------------------------------------------------


@asynccontextmanager
async def sharing(directory: Path, count: int, clients: int = 2, **options: Any) -> AsyncIterator[_Shared]:
    """A directory with files that the first client has made, and the second one knows as well."""
    async with owners(directory, clients=clients, **options) as (_, found):
        top = await found[0].mkdir("/top")
        for number in range(count):
            await found[0].inodes.create(top.ino, b"%d" % number, 0o644, 0, 0)
        await found[0].session.stream.flush()
        entries = await found[1].inodes.readdir(top.ino, 0, count)
        inos = {entry.name: entry.attr.ino for entry in entries}
        await found[0].inodes.readdir(top.ino, 0, count)
        yield _Shared(top.ino, [inos[b"%d" % number] for number in range(count)], found)


class _Shared(NamedTuple):
    top: Ino
    inos: list[Ino]
    clients: list[FileSystem]


async def test_who_changes_one_file_time_and_again_takes_no_others_from_those_who_look_at_them(tmp_path: Path) -> None:
    async with sharing(tmp_path, 50) as (top, inos, (fs, other)):
        for number in range(12):
            before = (await status(fs))["leases"]["recalls"]
            await fs.inodes.setattr(inos[7], {"mtime_ns": number})
            assert (await status(fs))["leases"]["recalls"] <= before + 1
            for entry in await other.inodes.readdir(top, 0, 50):
                await other.inodes.getattr(entry.attr.ino)
        misses = other.session.cache.statistics()["misses"] if other.session.cache else 0
        for ino in inos:
            await other.inodes.getattr(ino)
        assert (other.session.cache.statistics()["misses"] if other.session.cache else 0) <= misses + 1


async def test_a_client_that_hangs_keeps_up_no_change_of_files_that_it_does_not_know(tmp_path: Path) -> None:
    async with sharing(tmp_path, 3, clients=3) as (_, inos, (hung, fs, other)):
        await hung.session.stream.flush()
        for ino in inos[:2]:
            await other.inodes.getattr(ino)
        for ino in inos[:2]:  # so that only the last one is known to who hangs
            await fs.inodes.setattr(ino, {"mode": 0o640})
            await other.inodes.getattr(ino)
        await hung.inodes.getattr(inos[2])

        async def never(items: Sequence[Item]) -> None:
            await trio.sleep_forever()

        hung.session.on_recall = never
        with trio.fail_after(5):
            for mode in (0o600, 0o644):
                for ino in inos[:2]:
                    await other.inodes.getattr(ino)
                    await fs.inodes.setattr(ino, {"mode": mode})


async def test_a_name_that_a_file_has_lost_does_not_count(tmp_path: Path) -> None:
    """A file with two names is listed under one of them, loses it, and is changed by the other."""
    async with sharing(tmp_path, 4) as (top, inos, (other, fs)):
        beside = await other.mkdir("/beside")
        await other.inodes.link(inos[0], beside.ino, b"second")
        await other.session.stream.flush()
        await fs.inodes.readdir(top)
        await fs.inodes.lookup(beside.ino, b"second")
        await other.inodes.readdir(top)
        await fs.inodes.setattr(inos[1], {"mode": 0o600})
        await fs.inodes.unlink(top, b"0")
        await fs.inodes.readdir(top)
        assert (await fs.inodes.setattr(inos[0], {"mode": 0o600})).mode & 0o777 == 0o600


async def test_a_namenode_that_does_not_give_several_files_is_asked_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Namespace, "own_files")
    async with sharing(tmp_path, 4) as (_, inos, (_, fs)):
        for ino in inos:
            assert (await fs.inodes.setattr(ino, {"mode": 0o600})).mode & 0o777 == 0o600


async def test_of_a_namenode_that_is_nearly_full_no_file_is_owned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FULL_GRACE_S", 0.0)
    async with sharing(tmp_path, 8, reserve_bytes=1) as (_, inos, (_, fs)):
        monkeypatch.setattr(Store, "free_bytes", lambda _: 0)
        await trio.sleep(1.2)
        for ino in inos:
            with pytest.raises(errors.NoSpace):
                await fs.inodes.setattr(ino, {"mode": 0o600})
        assert fs.session.stream.losses == 0
