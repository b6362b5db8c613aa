"""Clients that wait for one another: what a recall's answer needs does not wait behind what waits for others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from dfs import errors, limits
from dfs.client import open_filesystem
from dfs.client.cache import Cache
from dfs.keys import Role
from dfs.runtime import RealRuntime
from dfs.types import Item
from tests.cluster import mounted, running_cluster
from tests.keys import ADMIN, holder

TIMEOUT_S = 20.0
AT_ONCE = 16


@pytest.mark.parametrize("bytes_of_each", [0, 10])
async def test_two_who_change_each_others_open_files(tmp_path: Path, bytes_of_each: int) -> None:
    """More commands of each at a time than calls are open."""
    async with (
        running_cluster(tmp_path, session_timeout_s=TIMEOUT_S) as cluster,
        mounted(cluster) as (one, ones),
        mounted(cluster) as (two, twos),
    ):
        made = {}
        for fs, files, letter in ((one, ones, b"a"), (two, twos, b"b")):
            top = await fs.mkdir(f"/{letter.decode()}")
            made[letter] = [
                await files.create(top.ino, b"%d" % number, 0o644, 0, 0, exclusive=True) for number in range(AT_ONCE)
            ]
            await fs.session.stream.flush()
            for inode in made[letter]:
                if bytes_of_each:
                    await inode.write(0, bytes(bytes_of_each))
        sessions = one.session.session, two.session.session
        with trio.fail_after(TIMEOUT_S / 2):
            async with trio.open_nursery() as nursery:
                for mine, his in zip(made[b"a"], made[b"b"], strict=True):
                    nursery.start_soon(one.inodes.setattr, his.ino, {"mode": 0o600})
                    nursery.start_soon(two.inodes.setattr, mine.ino, {"mode": 0o600})
        assert (one.session.session, two.session.session) == sessions
        for inode in (*made[b"a"], *made[b"b"]):
            attr = await one.inodes.getattr(inode.ino)
            assert (attr.mode & 0o777, attr.size) == (0o600, bytes_of_each)


async def test_who_is_revoked_shows_nothing_that_others_have_changed_since(tmp_path: Path) -> None:
    """Nor does a kernel that his mount has told of it, which nobody can tell anything any more."""
    async with (
        running_cluster(tmp_path, datanodes=0, session_timeout_s=3.0) as cluster,
        cluster.client(holder(Role.CLIENT, "bob"), cache=Cache(100, 100), wait_s=1.0) as revoked,
        cluster.client() as admin,
    ):
        file = await admin.mkdir("/d", 0o755)
        assert (await revoked.inodes.getattr(file.ino)).mode & 0o777 == 0o755 and revoked.session.is_trusted
        shown_until = trio.current_time() + revoked.session.kernel_timeout_s
        await admin.session.query("revoke_key", ["client", "bob"])
        assert await admin.inodes.setattr(file.ino, {"mode": 0o700})
        assert trio.current_time() > shown_until and not revoked.session.is_trusted
        with pytest.raises(errors.DfsError, match="revoked"):
            await revoked.inodes.getattr(file.ino)


async def test_who_waits_for_a_client_that_hangs_can_do_other_things_meanwhile(tmp_path: Path) -> None:
    async with (
        running_cluster(tmp_path, datanodes=0, session_timeout_s=TIMEOUT_S) as cluster,
        mounted(cluster) as (fs, _),
        mounted(cluster) as (hung, his_files),
        cluster.client() as other,
    ):
        top = await hung.mkdir("/his")
        his = [await his_files.create(top.ino, b"%d" % n, 0o644, 0, 0, exclusive=True) for n in range(AT_ONCE)]
        await hung.session.stream.flush()
        await other.mkdir("/apart")
        apart = await other.mkdir("/apart/from")

        async def never(items: Sequence[Item]) -> None:
            await trio.sleep_forever()

        hung.session.on_recall = never
        async with trio.open_nursery() as nursery:
            for inode in his:
                nursery.start_soon(fs.inodes.setattr, inode.ino, {"mode": 0o600})
            await trio.sleep(0.1)
            with trio.fail_after(TIMEOUT_S / 2):
                await fs.inodes.setxattr(apart.ino, b"user.a", b"b", 0)
            nursery.cancel_scope.cancel()


async def test_who_does_not_hear_of_recalls_trusts_nothing_though_all_else_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """His session is ended then, and others change what he knows, before he is told so."""
    timeout_s = 4.0
    async with (
        running_cluster(tmp_path, datanodes=0, session_timeout_s=timeout_s) as cluster,
        mounted(cluster) as (fs, _),
        cluster.client() as other,
    ):
        made = await fs.mkdir("/made")
        await fs.session.stream.flush()
        call = fs.session._call

        async def deaf(method: str, *args: Any, **options: Any) -> Any:
            if method == "events":
                await trio.sleep_forever()
            return await call(method, *args, **options)

        monkeypatch.setattr(fs.session, "_call", deaf)
        async with trio.open_nursery() as nursery:

            async def go_on() -> None:
                while True:
                    await fs.session.leased_query("leased_getattr", fs.inodes.root)
                    await trio.sleep(0.05)

            nursery.start_soon(go_on)
            await trio.sleep(timeout_s / 4)  # the call that was open then has ended
            await other.inodes.setattr(made.ino, {"mode": 0o700})
            assert (await fs.inodes.getattr(made.ino)).mode & 0o777 == 0o700
            nursery.cancel_scope.cancel()


class Stopped(RealRuntime):
    """Of a machine that was suspended, or whose wall clock was set."""

    def __init__(self) -> None:
        super().__init__()
        self.suspended_s = self.set_s = 0.0

    def boot_s(self) -> float:
        return super().boot_s() + self.suspended_s

    def now_ns(self) -> int:
        return super().now_ns() + round((self.suspended_s + self.set_s) * 1e9)


@pytest.mark.parametrize("is_paused", [False, True])
async def test_after_the_machine_was_stopped_nothing_is_trusted_until_the_namenode_is_heard_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_paused: bool
) -> None:
    """Suspended, or paused as virtual machines are: then only the wall clock is put right after a while."""
    monkeypatch.setattr(limits, "STOPS_WATCHED_S", 0.05)
    async with running_cluster(tmp_path, datanodes=0) as cluster:
        machine, address = Stopped(), cluster.namenode_address
        async with open_filesystem(
            address, ADMIN, network=cluster.network, runtime=machine, cache=Cache(100, 100)
        ) as fs:
            made = await fs.mkdir("/made")
            await fs.session.stream.flush()
            assert fs.inodes.cached_attr(made.ino) is not None
            forgotten = trio.Event()

            async def forget() -> None:
                assert not fs.session.is_trusted
                forgotten.set()

            fs.session.on_forget_all = forget
            if is_paused:
                machine.set_s += limits.SESSION_TIMEOUT_S
            else:
                machine.suspended_s += limits.SESSION_TIMEOUT_S
                assert fs.inodes.cached_attr(made.ino) is None
            with trio.fail_after(TIMEOUT_S):
                await forgotten.wait()
                monkeypatch.setattr(limits, "EVENTS_WAIT_S", 0.01)
                async with cluster.client() as other:
                    await other.chmod("/made", 0o700)  # which ends the call that was open meanwhile
                while not fs.session.is_trusted:
                    await trio.sleep(0.01)
            assert (await fs.inodes.getattr(made.ino)).mode & 0o777 == 0o700
            if is_paused:  # and its clock has been set back before
                forgotten, ahead_s = trio.Event(), fs.session._trust.offsets.wall_s
                machine.set_s -= 2 * limits.SESSION_TIMEOUT_S
                with trio.fail_after(TIMEOUT_S):
                    while fs.session._trust.offsets.wall_s >= ahead_s:
                        await trio.sleep(0.01)
                    assert fs.session.is_trusted
                    machine.set_s += limits.SESSION_TIMEOUT_S
                    await forgotten.wait()


async def test_a_recall_is_answered_however_impatient_the_client_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RETRY_DELAY_MAX_S", 0.01)
    async with (
        running_cluster(tmp_path, datanodes=0, session_timeout_s=TIMEOUT_S) as cluster,
        mounted(cluster) as (fs, _),
        cluster.client() as other,
    ):
        top = await fs.mkdir("/top")
        await fs.session.stream.flush()
        await fs.inodes.create(top.ino, b"file", 0o644, 0, 0)
        session, call, flush = fs.session.session, fs.session._call, fs.session.stream.flush
        tried = Counter[str]()

        async def away(method: str, *args: Any, **options: Any) -> Any:
            tried[method] += 1
            if (method == "apply" and tried["flush"] < 3) or (method == "forgot" and tried[method] < 5):
                raise errors.Unreachable("away")
            return await call(method, *args, **options)

        async def counted() -> None:
            tried["flush"] += 1
            await flush()

        monkeypatch.setattr(fs.session, "wait_s", 0.05)
        monkeypatch.setattr(fs.session, "_call", away)
        monkeypatch.setattr(fs.session.stream, "flush", counted)
        with trio.fail_after(TIMEOUT_S / 2):
            assert [entry.name for entry in await other.listdir("/top")] == [b"file"]
        assert fs.session.session == session


async def test_a_file_that_is_open_and_leased_is_held_before_the_lease_is_given_back(tmp_path: Path) -> None:
    async with (
        running_cluster(tmp_path, datanodes=0) as cluster,
        mounted(cluster) as (fs, files),
        cluster.client() as other,
    ):
        made = await other.touch("/file")
        assert await fs.exists("/file")
        file = await files.acquire(made.ino, "file")
        assert not file.holds
        await other.remove("/file")
        assert (await fs.inodes.getattr(made.ino)).nlink == 0
        assert file.holds
        files.close(file)
        with trio.fail_after(TIMEOUT_S):
            while (await other.statfs()).inodes > 1:
                await trio.sleep(0.01)


async def test_a_file_that_was_removed_goes_when_it_is_closed_while_the_namenode_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For longer than an operation waits for it."""
    monkeypatch.setattr(limits, "RETRY_DELAY_MAX_S", 0.01)
    async with (
        running_cluster(tmp_path, datanodes=0) as cluster,
        mounted(cluster) as (fs, files),
        cluster.client() as other,
    ):
        file = await files.acquire((await other.touch("/file")).ino, "file")
        await other.remove("/file")
        assert file.holds
        call, tried = fs.session._call, Counter[str]()

        async def away(method: str, *args: Any, **options: Any) -> Any:
            tried[method] += 1
            if method == "apply" and tried[method] < 10:
                raise errors.Unreachable("away")
            return await call(method, *args, **options)

        monkeypatch.setattr(fs.session, "wait_s", 0.05)
        monkeypatch.setattr(fs.session, "_call", away)
        files.close(file)
        with trio.fail_after(TIMEOUT_S / 2):
            while (await other.statfs()).inodes > 1:
                await trio.sleep(0.01)


async def test_a_write_does_not_wait_for_a_recall_that_waits_for_the_write(tmp_path: Path) -> None:
    """A kernel that is to forget a file's pages waits for the writes that have them locked."""
    async with (
        running_cluster(tmp_path, session_timeout_s=TIMEOUT_S) as cluster,
        mounted(cluster) as (fs, files),
        mounted(cluster) as (other, _),
    ):
        top = await fs.mkdir("/top")
        inode = await files.create(top.ino, b"file", 0o644, 0, 0, exclusive=True)
        await fs.session.stream.flush()
        recalled, is_written = trio.Event(), trio.Event()
        on_recall = fs.session.on_recall
        assert on_recall is not None

        async def as_a_kernel(items: Sequence[Item]) -> None:
            if any(item == (inode.ino, None) for item in items):
                recalled.set()
                await is_written.wait()
            await on_recall(items)

        fs.session.on_recall = as_a_kernel
        with trio.fail_after(TIMEOUT_S / 2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(other.inodes.setattr, inode.ino, {"mode": 0o600})
                await recalled.wait()
                await inode.write(0, b"data")
                is_written.set()
        attr = await other.inodes.getattr(inode.ino)
        assert (attr.size, attr.mode & 0o777) == (4, 0o600)


async def test_many_files_that_are_not_written_yet_are_given_up_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call for each of their commits, a few at a time, would take longer than a session lasts."""
    monkeypatch.setattr(limits, "WRITE_BACK_AFTER_S", 1000.0)
    count, size, way_s = 1000, 100, 0.05
    async with (
        running_cluster(tmp_path, datanodes=2, session_timeout_s=TIMEOUT_S) as cluster,
        mounted(cluster) as (fs, files),
        cluster.client() as other,
    ):
        top = await fs.mkdir("/top")
        for number in range(count):
            inode = await files.create(top.ino, b"%d" % number, 0o644, 0, 0, exclusive=True)
            await inode.write(0, bytes(size))
            files.close(inode)
        await fs.session.stream.flush()
        call = fs.session._call

        async def from_afar(*args: Any, **options: Any) -> Any:
            await trio.sleep(way_s)
            return await call(*args, **options)

        monkeypatch.setattr(fs.session, "_call", from_afar)
        session = fs.session.session
        entries = await other.inodes.readdir(top.ino, 0, count)
        assert sum(entry.attr.size for entry in entries) == count * size
        assert fs.session.session == session


async def test_who_waits_for_a_command_of_a_client_that_ends_waits_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    async with running_cluster(tmp_path, datanodes=0) as cluster, trio.open_nursery() as outside:
        async with cluster.client() as fs:
            await fs.session.ensure()
            call = fs.session._call

            async def unanswered(method: str, *args: Any, **options: Any) -> Any:
                if method == "apply":
                    await trio.sleep_forever()
                return await call(method, *args, **options)

            async def change(number: int) -> None:
                with trio.CancelScope(shield=True), pytest.raises(errors.Unreachable) as error:
                    await fs.inodes.mkdir(fs.inodes.root, b"%d" % number, 0o755, 0, 0)
                ended.append(error.value.message)

            monkeypatch.setattr(fs.session, "_call", unanswered)
            for number in range(20):
                outside.start_soon(change, number)
            await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(5):
            while len(ended) < 20:
                await trio.sleep(0.01)
