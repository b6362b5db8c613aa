"""A file that is written and renamed onto another, as editors and `rsync` do: answered at once, and never half of it.

Who renames need not wait for the bytes. But the NameNode is not told that the file has taken the other's place before
it is told of them: or, should the client end in between, neither would be left.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import trio
from structlog.testing import capture_logs

from dfs import errors, limits
from dfs.checksum import Buffer
from dfs.client import FileSystem
from dfs.client.cache import Cache
from dfs.client.openinodes import OpenInodes, open_inodes
from dfs.types import Attr, Ino, SessionId
from tests.cluster import Cluster, running_cluster

_PATIENCE_S: Final = 60


class _Here(NamedTuple):
    """A client as a mount is one, and a directory in which there is a file `old`."""

    cluster: Cluster
    fs: FileSystem
    files: OpenInodes
    directory: Ino

    async def write(self, name: bytes, content: bytes) -> Attr:
        """A new file, written and closed."""
        file = await self.files.create(self.directory, name, 0o644, 0, 0, exclusive=True)
        await file.write(0, content)
        self.files.close(file)
        return file.attr

    async def replace(self, content: bytes, name: bytes = b"old") -> Attr:
        """As an editor does."""
        attr = await self.write(b"new", content)
        await self.fs.inodes.rename(self.directory, b"new", self.directory, name)
        return attr

    async def seen(self, path: str = "/d/old") -> bytes:
        """What another client reads."""
        async with self.cluster.client() as other:
            return await content_of(other, path)


async def content_of(fs: FileSystem, path: str) -> bytes:
    async with await fs.open(path, "r") as file:
        return await file.pread(limits.MIB, 0)


@asynccontextmanager
async def here(directory: Path) -> AsyncIterator[_Here]:
    async with running_cluster(directory, datanodes=3) as cluster, cluster.client(cache=Cache(10_000, 10_000)) as fs:
        async with open_inodes(fs) as files:
            with trio.fail_after(_PATIENCE_S):
                found = _Here(cluster, fs, files, (await fs.mkdir("/d")).ino)
                await found.write(b"old", b"what was there before")
                await files.settle_all()
                yield found


def batches(fs: FileSystem, monkeypatch: pytest.MonkeyPatch) -> list[list[list[Any]]]:
    """The verbs and first arguments of each batch of commands that is sent from now on."""
    sent: list[list[list[Any]]] = []
    passed = fs.session.send

    async def send(session: SessionId, wire: Sequence[Any], patience_s: float) -> Sequence[Any]:
        sent.append([[verb, *args[:4]] for _, verb, args, *_ in wire])
        return await passed(session, wire, patience_s)

    monkeypatch.setattr(fs.session, "send", send)
    return sent


async def test_who_replaces_a_file_does_not_wait_for_its_bytes_and_they_come_with_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with here(tmp_path) as at:
        sent = batches(at.fs, monkeypatch)
        attr = await at.replace(b"new content")
        assert at.files.is_dirty(attr.ino) and at.fs.session.stream
        await at.fs.inodes.mkdir(at.directory, b"later", 0o755, 0, 0)
        assert await at.seen() == b"new content"
        (batch,) = [batch for batch in sent if any(verb == "rename" for verb, *_ in batch)]
        verbs = [verb for verb, *_ in batch]
        assert verbs[verbs.index("rename") + 1] == "commit"
        assert batch[verbs.index("commit")][1] == attr.ino
        assert at.fs.session.stream.surprises == 0


async def test_many_replaced_one_after_the_other_leave_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 40
    async with here(tmp_path) as at:
        for number in range(count):
            await at.write(b"%d" % number, b"before")
        await at.files.settle_all()
        sent = batches(at.fs, monkeypatch)
        for number in range(count):
            await at.replace(b"%d after" % number, b"%d" % number)
        assert [await at.seen(f"/d/{number}") for number in range(count)] == [b"%d after" % n for n in range(count)]
        for batch in sent:
            verbs = [verb for verb, *_ in batch]
            assert verbs.count("rename") == verbs.count("commit"), "no name without its bytes"
        assert len(sent) < count
        assert at.fs.session.stream.surprises == 0


async def test_of_two_that_replace_it_at_once_the_first_is_never_there_without_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with here(tmp_path) as at:
        sent = batches(at.fs, monkeypatch)
        for content in (b"first", b"second", b"third"):
            await at.replace(content)
        assert await at.seen() == b"third"
        for batch in sent:
            verbs = [verb for verb, *_ in batch]
            assert "rename" not in verbs or verbs.index("commit") > verbs.index("rename")


async def test_a_file_that_is_written_anew_before_it_replaces_another_keeps_up_nobody(tmp_path: Path) -> None:
    """Its commit overwrites, which takes more than a command; the one beside it must not wait for that."""
    async with here(tmp_path) as at:
        rewritten = await at.write(b"rewritten", b"committed before")
        await at.write(b"other", b"in the way")
        await at.files.settle_all()
        file = await at.files.acquire(rewritten.ino, "rewritten")
        await file.write(0, b"overwritten     ")
        at.files.close(file)
        await at.write(b"new", b"new")
        with trio.fail_after(limits.HELD_BACK_MAX_S / 2):
            await at.fs.inodes.rename(at.directory, b"rewritten", at.directory, b"old")
            await at.fs.inodes.rename(at.directory, b"new", at.directory, b"other")
            await at.fs.session.stream.flush()
        assert await at.seen() == b"overwritten     "
        assert await at.seen("/d/other") == b"new"


async def test_what_is_done_to_the_file_afterwards_comes_out_as_it_was_done(tmp_path: Path) -> None:
    async with here(tmp_path) as at:
        with capture_logs() as logs:
            attr = await at.replace(b"first")
            await at.fs.inodes.setattr(attr.ino, {"mode": 0o600})
            await at.fs.inodes.rename(at.directory, b"old", at.directory, b"elsewhere")
            await at.write(b"old", b"another one")
            await at.fs.inodes.rename(at.directory, b"elsewhere", at.directory, b"old")
            shown = await at.files.seen(await at.fs.inodes.getattr(attr.ino))
            assert await at.seen() == b"first"
            async with at.cluster.client() as other:
                found = await other.stat("/d/old")
            assert found == shown._replace(version=found.version)
            assert found == await at.fs.inodes.getattr(attr.ino)
            assert (found.mode & 0o777, found.size) == (0o600, 5)
        assert at.fs.session.stream.surprises == 0
        assert not [entry for entry in logs if entry["log_level"] in ("warning", "error")]


async def test_fsync_after_it_has_name_and_bytes_on_disk(tmp_path: Path) -> None:
    async with here(tmp_path) as at:
        file = await at.files.create(at.directory, b"new", 0o644, 0, 0, exclusive=True)
        await file.write(0, b"to be kept")
        await at.fs.inodes.rename(at.directory, b"new", at.directory, b"old")
        await file.fsync()
        assert not at.fs.session.stream
        at.files.close(file)
        assert await at.seen() == b"to be kept"


async def test_a_large_file_has_its_bytes_written_before_it_takes_the_place(tmp_path: Path) -> None:
    content = bytes(range(256)) * (limits.SMALL_WRITE_MAX_BYTES // 128)
    async with here(tmp_path) as at:
        attr = await at.replace(content)
        assert not at.files.is_dirty(attr.ino)
        assert await at.seen() == content


async def test_bytes_that_are_long_in_coming_keep_up_nothing_else_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HELD_BACK_MAX_S", 0.5)
    async with here(tmp_path) as at:
        go_on, passed = trio.Event(), at.fs.chunks.append

        async def late(data: Sequence[Buffer], *args: Any, **options: Any) -> Any:
            await go_on.wait()
            return await passed(data, *args, **options)

        monkeypatch.setattr(at.fs.chunks, "append", late)
        await at.replace(b"late")
        with trio.fail_after(5):
            await at.fs.session.stream.flush()
        go_on.set()
        assert await at.seen() == b"late"


async def test_bytes_that_cannot_be_written_are_told_as_lost_and_the_name_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with here(tmp_path) as at:

        async def refuse(*_: Any, **__: Any) -> Any:
            raise errors.NoSpace("no DataNode has room")

        monkeypatch.setattr(at.fs.chunks, "append", refuse)
        with capture_logs() as logs:
            file = await at.files.create(at.directory, b"new", 0o644, 0, 0, exclusive=True)
            await file.write(0, b"lost")
            await at.fs.inodes.rename(at.directory, b"new", at.directory, b"old")
            await at.fs.session.stream.flush()
        assert file.late_errors == 1
        assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["written bytes are lost"]
        at.files.close(file)


@pytest.mark.parametrize("is_known_before", [False, True])
async def test_a_large_file_that_could_not_be_written_takes_the_place_of_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_known_before: bool
) -> None:
    async with here(tmp_path) as at:

        async def refuse(*_: Any, **__: Any) -> Any:
            raise errors.NoSpace("no DataNode has room")

        with monkeypatch.context() as patched:
            patched.setattr(at.fs.chunks, "append", refuse)
            await at.write(b"new", bytes(limits.MIB))
            if is_known_before:
                await at.files.settle_all()
            with pytest.raises(errors.NoSpace, match="no DataNode has room"):
                await at.fs.inodes.rename(at.directory, b"new", at.directory, b"old")
        assert await at.seen() == b"what was there before"
        assert (await at.fs.stat("/d/new")).size == 0
        await at.fs.inodes.rename(at.directory, b"new", at.directory, b"old")  # he has been told
        await at.fs.session.stream.flush()
        assert await at.seen() == b""


async def test_who_looks_from_elsewhere_meanwhile_sees_one_or_the_other(tmp_path: Path) -> None:
    async with here(tmp_path) as at, at.cluster.client(cache=Cache(10_000, 10_000)) as other:
        known, done = {b"what was there before"}, trio.Event()

        async def look() -> None:
            while not done.is_set():
                assert await content_of(other, "/d/old") in known

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            for number in range(50):
                content = b"%d" % number
                known.add(content)
                await at.replace(content)
                await trio.sleep(0.002 * (number % 5))
            done.set()
        assert await content_of(other, "/d/old") == b"49"


@pytest.mark.parametrize("is_settled", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("content", [b"first", b"first" * limits.MIB], ids=["in memory", "on its way"])
async def test_who_opens_a_file_that_was_replaced_and_closed_is_told_that_it_is_gone(
    tmp_path: Path, content: bytes, *, is_settled: bool
) -> None:
    """Its bytes were given up, though it may be held for a moment still: it must not be found empty."""
    async with here(tmp_path) as it:
        file = await it.files.create(it.directory, b"file", 0o644, 0, 0, exclusive=True)
        await file.write(0, content)
        await it.replace(b"second", b"file")
        assert bytes(await file.read(0, len(content))) == content
        it.files.close(file)
        with pytest.raises(errors.NotFound):
            await it.files.getattr(file.ino)
        if is_settled:
            await it.files.settle_all()
            await it.fs.session.stream.flush()
        with pytest.raises(errors.NotFound):
            await it.files.acquire(file.ino, "old")
        assert await it.seen("/d/file") == b"second"


async def test_who_opens_a_file_while_it_is_replaced_has_it_as_it_was_or_none(tmp_path: Path) -> None:
    """Whatever comes between: many that look its name up, open it, and close it, each in turn with the others."""

    async def read() -> None:
        nonlocal reads
        while reads < 500:
            try:
                found = await it.fs.inodes.lookup(it.directory, b"old")
                await trio.sleep(chance.uniform(0, 0.002))
                opened = await it.files.acquire(found.ino, "old")
            except errors.NotFound:
                continue
            try:
                assert bytes(await opened.read(0, limits.MIB)).isdigit()
            finally:
                it.files.close(opened)
            reads += 1

    reads, chance = 0, random.Random(1)
    async with here(tmp_path) as it, trio.open_nursery() as nursery:
        await it.replace(b"0")
        for _ in range(4):
            nursery.start_soon(read)
        while reads < 500:
            await it.replace(b"%d" % reads)
            await trio.sleep(chance.uniform(0, 0.002))


async def test_a_file_that_is_closed_and_opened_again_while_it_comes_to_be_held_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who removes it waits for that: it is to be there for whoever has it open, though it is opened as leased."""

    async def late(ino: Ino) -> Attr:
        attr = await hold(ino)
        asked.set()
        await may_go_on.wait()
        return attr

    asked, may_go_on = trio.Event(), trio.Event()
    async with here(tmp_path) as it:
        made = await it.write(b"file", b"what it holds")
        await it.files.settle_all()
        hold = it.fs.inodes.hold
        opened = await it.files.acquire(made.ino, "file")
        assert not opened.holds
        async with trio.open_nursery() as nursery:
            with monkeypatch.context() as patch:
                patch.setattr(it.fs.inodes, "hold", late)
                nursery.start_soon(it.files.hold, made.ino)
                await asked.wait()
                it.files.close(opened)
                opened = await it.files.acquire(made.ino, "file")
                assert not opened.holds
                may_go_on.set()
        assert opened.holds
        async with it.cluster.client() as other:
            await other.inodes.unlink(it.directory, b"file")
        assert bytes(await opened.read(0, limits.MIB)) == b"what it holds"
        it.files.close(opened)
