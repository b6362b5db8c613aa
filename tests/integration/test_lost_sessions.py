"""What is on its way when a session ends is lost with it, said so, and never written over what others wrote since."""

from __future__ import annotations

import itertools
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from dfs import errors, limits
from dfs.client import FileSystem
from dfs.client.cache import Cache
from dfs.client.filewriter import FileWriter
from dfs.client.openinode import OpenInode
from dfs.client.openinodes import OpenInodes, open_inodes
from dfs.client.stream import Command
from tests.cluster import running_cluster
from tests.integration.test_owned_directories import end_session, mounted

MIB = limits.MIB


class Door:
    """What whoever comes to a method waits at, before it or after it. The first one behind it gets the `error`.

    `passing` come through before. With `first` the others need not wait: `overtaken` is set when one of them has done
    what he came for.
    """

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        owner: Any,
        method: str,
        *,
        passing: int = 0,
        after: bool = False,
        first: bool = False,
    ) -> None:
        self.reached = trio.Event()
        self.opened = trio.Event()
        self.overtaken = trio.Event()
        self.error: errors.DfsError | None = None
        before = itertools.count()
        passed: Callable[..., Awaitable[Any]] = getattr(owner, method)

        async def wait(*args: Any, **options: Any) -> Any:
            if next(before) < passing:
                return await passed(*args, **options)
            if first and self.reached.is_set():
                found = await passed(*args, **options)
                self.overtaken.set()
                return found
            if first:
                self.reached.set()
            if after:
                found = await passed(*args, **options)
                await self._wait()
                return found
            await self._wait()
            return await passed(*args, **options)

        patch.setattr(owner, method, wait)

    async def _wait(self) -> None:
        self.reached.set()
        await self.opened.wait()
        error, self.error = self.error, None
        if error is not None:
            raise error


async def a_file(fs: FileSystem, files: OpenInodes, content: bytes = b"") -> OpenInode:
    """/d/f, and nothing of it on its way."""
    file = await files.create((await fs.mkdir("/d")).ino, b"f", 0o644, 0, 0, exclusive=True)
    if content:
        await file.append(content)
        await file.fsync()
    await fs.session.stream.flush()
    return file


async def read(fs: FileSystem) -> bytes:
    async with await fs.open("/d/f") as file:
        return await file.pread(64 * MIB, 0)


async def write(fs: FileSystem, content: bytes) -> None:
    async with await fs.open("/d/f", "r+b") as file:
        await file.pwrite(content, 0)


async def check_what_others_wrote_stays(file: OpenInode, other: FileSystem) -> None:
    """Nothing of the lost session is written over it, its loss is said once, and what is written now is kept."""
    await file.settle()
    await file.fsync()
    assert await read(other) == b"OTHERS"
    assert bytes(await file.read(0, 100)) == b"OTHERS"
    assert file.late_errors == 1
    await file.append(b", kept")
    await file.fsync()
    assert await read(other) == b"OTHERS, kept"
    assert file.late_errors == 1


@pytest.mark.parametrize("after", [False, True])
async def test_an_append_that_ends_in_another_session_is_not_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    async with mounted(tmp_path) as (cluster, fs, files), cluster.client() as other:
        file = await a_file(fs, files, b"before")
        door = Door(monkeypatch, fs.chunks, "append", after=after)
        await file.write(0, b"L" * limits.WRITE_BACK_AT_BYTES)  # which leaves at once
        await door.reached.wait()
        await end_session(fs, other)
        await write(other, b"OTHERS")
        door.opened.set()
        await check_what_others_wrote_stays(file, other)
        files.close(file)


async def test_what_is_written_anew_in_another_session_is_not_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mounted(tmp_path) as (cluster, fs, files), cluster.client() as other:
        file = await a_file(fs, files, b"before")
        weak = iter([True])
        monkeypatch.setattr(FileWriter, "_is_weak", lambda *_: next(weak, False))
        door = Door(monkeypatch, FileWriter, "_rewrite", after=True)
        await file.write(0, b"lost")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(file.write_back)
            await door.reached.wait()
            await end_session(fs, other)
            await write(other, b"OTHERS")
            door.opened.set()
        assert await read(other) == b"OTHERS"
        assert file.late_errors == 1
        assert file.is_clean
        await fs.mkdir("/e")  # in another session
        assert not any(lane.uncommitted for lane in fs.chunks._unsealed)
        files.close(file)


async def test_a_flush_that_ends_in_another_session_is_followed_by_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mounted(tmp_path) as (cluster, fs, files), cluster.client() as other:
        file = await a_file(fs, files, b"before")
        before = await other.stat("/d/f")
        door = Door(monkeypatch, fs.chunks, "sync")
        await file.write(0, b"lost")
        async with trio.open_nursery() as nursery:

            async def sync() -> None:
                with pytest.raises(errors.SessionExpired):
                    await file.fsync()

            nursery.start_soon(sync)
            await door.reached.wait()
            await end_session(fs, other)
            door.opened.set()
        assert (await other.stat("/d/f")).version == before.version
        assert file.late_errors == 1
        files.close(file)


async def test_what_is_appended_after_a_loss_comes_behind_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mounted(tmp_path) as (cluster, fs, files), cluster.client() as other:
        file = await a_file(fs, files, b"first.")
        door = Door(monkeypatch, fs.chunks, "append")
        await file.append(b"lost")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(file.write_back)
            await door.reached.wait()
            await end_session(fs, other)
            await file.append(b"kept")  # while the other is on its way still
            door.opened.set()
        await file.fsync()
        assert await read(other) == b"first.kept"
        files.close(file)


async def test_an_append_that_fails_takes_nothing_with_it_that_others_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mounted(tmp_path) as (cluster, fs, files), cluster.client() as other:
        file = await a_file(fs, files, b"before")

        async def never(*_: object) -> bool:
            return False

        monkeypatch.setattr(OpenInode, "_own", never)  # as when others want the file as well
        door = Door(monkeypatch, fs.chunks, "append")
        door.error = errors.NoSpace("no DataNode has room")
        async with trio.open_nursery() as nursery:

            async def fail() -> None:
                with pytest.raises(errors.NoSpace):
                    await file.append(b"no room for this")

            nursery.start_soon(fail)
            await door.reached.wait()
            nursery.start_soon(file.write, 0, b"AFTER ")
            await trio.sleep(0.05)  # it waits for its turn now
            door.opened.set()
        await file.fsync()
        assert await read(other) == b"AFTER "
        files.close(file)


async def test_a_commit_goes_on_when_an_append_beside_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or nobody would know what has become of it."""
    async with mounted(tmp_path) as (_, fs, files):
        file = await a_file(fs, files)
        writer = fs.writer(file.attr)
        monkeypatch.setattr(limits, "COMMIT_EVERY_BYTES", 4 * MIB)
        await writer.write(0, bytes(4 * MIB))
        committing = Door(monkeypatch, fs.session, "apply", after=True)
        appending = Door(monkeypatch, fs.chunks, "append")
        appending.error = errors.NoSpace("no DataNode has room")
        async with trio.open_nursery() as nursery:

            async def open_doors() -> None:
                await committing.reached.wait()
                appending.opened.set()
                await trio.sleep(0.05)  # it has failed now
                committing.opened.set()

            nursery.start_soon(open_doors)
            with pytest.raises(errors.NoSpace):
                async with writer.window(writer.commit) as window:
                    window.write([(4 * MIB, bytes(MIB))])
        assert not writer.uncommitted_bytes
        assert (await fs.stat("/d/f")).size == 4 * MIB
        assert writer._volatile, "the commit's end was seen"
        files.close(file)


async def test_what_has_left_of_a_file_that_is_removed_is_given_up(tmp_path: Path) -> None:
    async with mounted(tmp_path) as (_, fs, files):
        file = await a_file(fs, files)
        await file.write(0, bytes(5 * MIB))
        while file._dirty.length_bytes > 3 * MIB or file._draining:
            await trio.sleep(0.01)
        assert file._writer.uncommitted_bytes
        files.close(file)
        await fs.remove("/d/f")
        with trio.fail_after(limits.WRITE_BACK_AFTER_S):
            while files.statistics()["open"]:
                await trio.sleep(0.01)
        assert files.statistics()["dirty_bytes"] == 0
        assert not any(lane.uncommitted for lane in fs.chunks._unsealed)


async def test_reads_that_fail_count_for_what_they_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with mounted(tmp_path) as (_, fs, files):
        file = await a_file(fs, files, os.urandom(8 * MIB))

        async def fail(*_args: object, **_options: object) -> None:
            raise errors.Unreachable("all DataNodes are away")

        for method in ("read_whole", "fill", "read_into"):
            monkeypatch.setattr(fs.reader, method, fail)
        for _ in range(50):
            for offset in range(0, 3 * MIB, MIB):
                with pytest.raises(errors.Unreachable):
                    await file.read(offset, MIB)
        kept = files.statistics()["read_ahead_bytes"]
        assert kept <= 16 * MIB
        file.forget()
        assert files.statistics()["read_ahead_bytes"] == 0
        monkeypatch.undo()
        assert len(await file.read(0, MIB)) == MIB
        files.close(file)


async def test_a_client_hears_that_space_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then closing a file commits it, and whoever opens a session hears of it too."""
    async with mounted(tmp_path) as (cluster, fs, files):
        file = await a_file(fs, files, b"before")
        await file.write(0, b"owned")
        assert not file.is_flushed_on_close
        monkeypatch.setattr(limits, "SPACE_SHORT_BYTES", 1 << 60)
        while not fs.session.is_space_short:
            await trio.sleep(0.05)
        assert file.is_flushed_on_close
        await file.flush()
        assert file.is_clean
        async with cluster.client() as other:
            assert await read(other) == b"ownede"
            assert other.session.is_space_short
        monkeypatch.setattr(limits, "SPACE_SHORT_BYTES", 0)
        while fs.session.is_space_short:
            await trio.sleep(0.05)
        files.close(file)


async def test_an_append_that_is_cancelled_puts_nothing_at_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a file that others append to as well: where its bytes are to be is known with the commit only."""
    async with mounted(tmp_path) as (_, fs, files):
        file = await a_file(fs, files, b"before")

        async def never(_: OpenInode) -> bool:
            return False

        with monkeypatch.context() as patch:
            patch.setattr(OpenInode, "_own", never)
            door = Door(patch, FileWriter, "commit", passing=1)  # of what was written before
            async with trio.open_nursery() as nursery:
                nursery.start_soon(file.append, b"more")
                await door.reached.wait()
                nursery.cancel_scope.cancel()
        await file.settle()
        assert await file.read(0, 100) == b"before"
        files.close(file)


async def test_a_version_that_was_foreseen_and_did_not_come_vouches_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes of another client may be in it, which an fsync is to have flushed as well."""
    async with mounted(tmp_path) as (cluster, fs, files), cluster.client() as other:
        file = await a_file(fs, files, b"before")
        assert file._writer._is_vouched(file.attr.version)
        file.note_own(await fs.inodes.setattr(file.ino, {"mode": 0o600}))
        assert file._writer._is_vouched(file.attr.version)
        await fs.session.stream.flush()
        fs.session.stream._compare(Command(0, "setattr", [file.ino]), errors.NotPermitted("refused"), None)
        assert not file._writer._is_vouched(file.attr.version)
        await file.fsync()
        assert file._writer._is_vouched(file.attr.version)
        await write(other, b"OTHERS")
        assert bytes(await file.read(0, 100)) == b"OTHERS"
        assert not file._writer._is_vouched(file.attr.version)
        file.note_own(await fs.inodes.setattr(file.ino, {"mode": 0o644}))
        assert not file._writer._is_vouched(file.attr.version), "they are in this one as well"
        files.close(file)


async def test_what_is_committed_while_an_fsync_is_under_way_is_flushed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mounted(tmp_path) as (_, fs, files):
        file = await a_file(fs, files)
        door = Door(monkeypatch, fs.chunks, "make_durable", after=True)
        await file.write(0, b"first")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(file.fsync)
            await door.reached.wait()
            await file.write(5, b"later")
            await file.settle()
            door.opened.set()
        assert any(lane.synced < lane.length for lane in fs.chunks._unsealed)
        await file.fsync()
        assert all(lane.synced == lane.length for lane in fs.chunks._unsealed)
        files.close(file)


async def test_an_fsync_that_ends_in_another_session_vouches_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has seen may never have been."""
    async with mounted(tmp_path) as (cluster, fs, files), cluster.client() as other:
        file = await a_file(fs, files, b"before")
        await write(other, b"OTHERS")
        door = Door(monkeypatch, fs.chunks, "sync_places")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(file.fsync)
            await door.reached.wait()
            await end_session(fs, other)
            door.opened.set()
        assert not file._writer._is_vouched((await other.stat("/d/f")).version)
        files.close(file)


async def test_an_fsync_that_waits_for_copies_keeps_nobody_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or its client would be taken for one that gives up nothing, and lose its session."""
    async with mounted(tmp_path) as (cluster, fs, files), cluster.client() as other:
        file = await a_file(fs, files, b"before")
        session = fs.session.session
        door = Door(monkeypatch, fs.chunks, "make_durable")
        await file.write(0, b"after.")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(file.fsync)
            await door.reached.wait()
            with trio.fail_after(5):
                assert (await other.stat("/d/f")).size == 6
                await write(other, b"OTHERS")
                assert bytes(await file.read(0, 100)) == b"OTHERS"
                await file.write(6, b", and more")
                assert await read(other) == b"OTHERS, and more"
            door.opened.set()
        assert fs.session.session == session
        await file.fsync()
        assert file.late_errors == 0
        files.close(file)


async def test_what_overtook_an_append_that_ends_in_another_session_is_forgotten_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SPREAD_FROM_BYTES", 0)
    async with mounted(tmp_path) as (cluster, fs, files), cluster.client() as other:
        file = await a_file(fs, files, b"before")
        door = Door(monkeypatch, fs.chunks, "append", after=True, first=True)
        await file.write(0, b"L" * max(limits.WRITE_BACK_AT_BYTES, 2 * fs.chunks.append_bytes))
        await door.overtaken.wait()
        await end_session(fs, other)
        await write(other, b"OTHERS")
        door.opened.set()
        await check_what_others_wrote_stays(file, other)
        files.close(file)


async def test_chunks_that_are_asked_for_when_the_session_ends_are_of_the_next_one(tmp_path: Path) -> None:
    async with mounted(tmp_path) as (cluster, fs, files), cluster.client() as other:
        file = await a_file(fs, files)
        async with trio.open_nursery() as nursery:
            async with fs.chunks._allocating:
                for replicas in (1, 1, 2):
                    nursery.start_soon(fs.chunks.append, [b"data"], replicas)
                await trio.testing.wait_all_tasks_blocked()
                await end_session(fs, other)
        assert {lane.session for lane in fs.chunks._unsealed} == {fs.session.session}
        files.close(file)


async def test_nothing_of_a_session_that_was_closed_is_known_in_the_next_one(tmp_path: Path) -> None:
    async with mounted(tmp_path) as (cluster, fs, files), cluster.client() as other:
        file = await a_file(fs, files)
        files.close(file)
        await fs.session.close()
        await other.chmod("/d/f", 0o600)
        await fs.stat("/")  # in another session
        assert (await fs.inodes.getattr(file.ino)).mode & 0o777 == 0o600


async def test_a_file_that_was_removed_after_the_session_that_held_it_is_told_so(tmp_path: Path) -> None:
    async with mounted(tmp_path) as (cluster, _, _), cluster.client() as fs, cluster.client() as other:
        async with await fs.open("/f", "x+") as file:
            await file.pwrite(b"content", 0)
            await end_session(fs, other)
            await other.remove("/f")
            for work in (file.fsync, file.stat, lambda: file.pread(7, 0), lambda: file.pwrite(b"more", 0)):
                with pytest.raises(errors.SessionExpired):
                    await work()


async def test_a_file_that_is_only_read_outlives_its_name_though_the_session_was_lost(tmp_path: Path) -> None:
    """Of a client that has sent no command in it, and asks nothing afterwards."""
    async with mounted(tmp_path) as (cluster, fs, files), cluster.client() as other:
        async with await other.open("/f", "w") as theirs:
            await theirs.pwrite(b"content", 0)
        file = await files.acquire((await fs.stat("/f")).ino, "f")
        assert not file.holds
        await end_session(fs, other)
        with trio.fail_after(10):
            while not file.holds:
                await trio.sleep(0.01)
        await other.remove("/f")
        assert bytes(await file.read(0, 100)) == b"content"
        files.close(file)


async def test_an_upload_whose_session_ends_says_so_and_not_that_the_directory_is_gone(tmp_path: Path) -> None:
    async with mounted(tmp_path) as (cluster, _, _), cluster.client() as fs, cluster.client() as other:
        is_read = False

        class Source:
            async def readinto(self, view: memoryview) -> int:
                nonlocal is_read
                if is_read:
                    await end_session(fs, other)
                    await fs.stat("/")  # in the next one
                    return 0
                is_read = True
                view[:4] = b"lost"
                return 4

        with pytest.raises(errors.SessionExpired):
            await fs.upload(Source(), "/f")
        assert await other.listdir("/") == []


@pytest.mark.parametrize("size", [7, 3 * MIB])
async def test_what_cannot_be_committed_before_the_end_is_lost_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Nobody answers, so that there is no other error than that of the end."""
    async with running_cluster(tmp_path) as cluster, cluster.client(cache=Cache(10_000, 10_000)) as fs:
        async with open_inodes(fs) as files:
            file = await a_file(fs, files)
            await file.write(0, bytes(size))
            assert files.uncommitted() == (1, size)
            Door(monkeypatch, FileWriter, "append")
            monkeypatch.setattr(fs.session, "wait_s", 0.1)
        [(name, error)] = files.untold_losses()
        assert name == "f"
        assert fs.session.address in str(error)
