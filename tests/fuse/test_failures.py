"""A mounted cluster whose processes are killed: programs on it wait, or get an errno, and nothing needs cleaning up.

Each test has daemons of its own, real processes, and mounts them with `dfs mount`. Calls on the mount are made in
threads and given up after PATIENCE_S; on leaving, mounts are killed before they are taken away, which ends such calls.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import re
import select
import signal
import socket
import stat
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio

from dfs import errors, limits
from dfs.client.openinode import OpenInode
from dfs.mountpoint import find, is_mounted, unmount
from mount.handles import FileHandle
from tests.cluster import mounted as mounted_on
from tests.cluster import running_cluster
from tests.fuse.conftest import Cluster
from tests.fuse.test_programs import need
from tests.integration.real import NAMENODE, PATIENCE_S, RealCluster, environment, real_cluster, until
from tests.soak import Program

pytestmark = pytest.mark.fuse

T = TypeVar("T")

KIB, MIB = limits.KIB, limits.MIB
NAMES = ["n1", "n2", "n3", "n4"]


async def off(function: Callable[..., T], *args: Any) -> T:
    """Call something that uses the mount, and so may block."""
    with trio.fail_after(PATIENCE_S):
        return await trio.to_thread.run_sync(function, *args, abandon_on_cancel=True)


class Mounted:
    """One mount, at `path`, of daemons that are its own."""

    def __init__(self, daemons: RealCluster, base: Path) -> None:
        self.daemons = daemons
        self.path = base / "mnt"
        self.path.mkdir()
        self._user = Cluster(base, {**environment(daemons), "XDG_STATE_HOME": str(base / "state")})

    @property
    def pid(self) -> int:
        return self._user.mount_pids()[self.path]

    @property
    def log(self) -> str:
        return self._user.mount_log()

    async def mount(self, options: str = "") -> None:
        await off(self._user.dfs, "mount", self.path, "-o", options)

    async def umount(self, written: str = "", *, status: int = 0) -> str:
        """What the command says; `written`: its directory's path in another form."""
        done = await off(partial(self._user.dfs, "umount", written or self.path, status=status))
        return done.stderr

    def kill(self) -> None:
        """End the mount's process as SIGKILL does."""
        for pid in self._user.mount_pids().values():
            process = os.pidfd_open(pid)
            os.kill(pid, signal.SIGKILL)
            ended, _, _ = select.select([process], [], [], PATIENCE_S)
            os.close(process)
            assert ended

    def peak_bytes(self) -> int:
        """The most memory that the mount's process ever had."""
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert found is not None
        return int(found[1]) * KIB


@asynccontextmanager
async def mounted_cluster(base: Path, *, options: str = "", **cluster: Any) -> AsyncIterator[Mounted]:
    """Daemons as `real_cluster` starts them, with their cluster mounted; nothing of both is left on leaving."""
    directory = base / "daemons"
    directory.mkdir()
    async with real_cluster(directory, **cluster) as daemons:
        mounted = Mounted(daemons, base)
        try:
            await mounted.mount(options)
            yield mounted
        finally:
            mounted.kill()
            if is_mounted(mounted.path):
                unmount(mounted.path)


def write_new(path: Path, data: bytes, *, sync: bool = False) -> None:
    with path.open("wb") as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())


def seconds(function: Callable[..., Any], *args: Any) -> tuple[OSError | None, float]:
    """The error that a call ended with, and how long it took."""
    began = time.monotonic()
    try:
        function(*args)
    except OSError as error:
        return error, time.monotonic() - began
    return None, time.monotonic() - began


def stacks(pid: int) -> str:
    """Where the threads of a process are in the kernel."""
    return "".join(each.read_text() for each in Path(f"/proc/{pid}/task").glob("*/stack"))


@contextmanager
def aborted_at_last(mountpoint: Path) -> Iterator[None]:
    """A mount whose connection the kernel gives up on leaving."""
    ours = find(mountpoint)
    assert ours is not None
    with Path(f"/sys/fs/fuse/connections/{ours.connection}/abort").open("wb", 0) as abort:
        try:
            yield
        finally:
            abort.write(b"1")


async def arrived(daemons: RealCluster, at_least_bytes: int) -> None:
    """Return when so much is on the DataNodes, all copies counted."""

    async def enough() -> bool:
        return daemons.disk_bytes() >= at_least_bytes

    await until(enough, f"{at_least_bytes} bytes to be on the DataNodes")


# --- the mount itself is killed -------------------------------------------------------------------------


async def test_a_killed_mount_is_taken_over_and_what_it_held_is_let_go(tmp_path: Path) -> None:
    async with mounted_cluster(tmp_path, session_timeout_s=2, garbage_grace_s=0.2) as mounted:
        await off(lambda: write_new(mounted.path / "kept", b"kept", sync=True))
        orphan = await off((mounted.path / "orphan").open, "wb", 0)
        await off(orphan.write, bytes(3 * MIB))
        await off(os.fsync, orphan.fileno())
        await off((mounted.path / "orphan").unlink)
        async with mounted.daemons.client() as fs:
            assert (await fs.statfs()).used_bytes >= 3 * MIB
            assert [entry.name for entry in await fs.listdir("/")] == [b"kept"]  # the NameNode knows it
            mounted.kill()
            with orphan, pytest.raises(OSError, match=r"not connected|abort"):
                os.fsync(orphan.fileno())
            error, _ = seconds(mounted.path.stat)
            assert error is not None
            assert error.errno == errno.ENOTCONN
            await mounted.mount()
            assert await off(os.listdir, mounted.path) == ["kept"]
            assert await off((mounted.path / "kept").read_bytes) == b"kept"

            async def let_go() -> bool:
                return (await fs.statfs()).used_bytes == 4

            await until(let_go, "the space of the file that the killed mount held")
        await mounted.umount()
        assert not is_mounted(mounted.path)


async def test_a_killed_mount_is_taken_over_while_the_kernel_still_shows_its_attributes(tmp_path: Path) -> None:
    async with mounted_cluster(tmp_path, session_timeout_s=4) as mounted:
        await off(mounted.path.stat)
        mounted.kill()
        await mounted.mount()


async def test_nobody_waits_for_what_a_killed_mount_had_to_itself(tmp_path: Path) -> None:
    async with mounted_cluster(tmp_path, session_timeout_s=24) as mounted, mounted.daemons.client() as fs:
        await off((mounted.path / "made").mkdir)
        await off(partial(write_new, sync=True), mounted.path / "made" / "synced", b"content")
        await off((mounted.path / "made" / "answered").mkdir)  # in the mount's memory only, and lost with it
        mounted.kill()
        began = trio.current_time()
        with trio.fail_after(PATIENCE_S):
            await fs.mkdir("/made/other")
        assert 6 < trio.current_time() - began < 18  # no sooner than its kernel forgets what it was told
        with trio.fail_after(PATIENCE_S):
            async with await fs.open("/made/synced", "r") as file:
                assert await file.pread(100, 0) == b"content"

        async def told() -> bool:
            return "the mount is no more: its session was ended" in mounted.log

        await until(told, "the end of the session in the mount's log")


async def test_a_file_that_another_has_replaced_is_the_old_or_the_new_one_when_the_mount_is_killed(
    tmp_path: Path,
) -> None:
    """Whenever that is: nobody called fsync, and yet never is there an empty one."""
    async with mounted_cluster(tmp_path, session_timeout_s=2) as mounted:
        target, whole = mounted.path / "target", {b"0" * 5000}
        await off(partial(write_new, sync=True), target, b"0" * 5000)
        for number, delay_s in enumerate((0, 0.004, 0.006, 0.008, 0.012, 0.02), 1):
            content = b"%d" % number * 5000
            whole.add(content)
            await off(write_new, mounted.path / "temporary", content)
            await off(os.rename, mounted.path / "temporary", target)
            await trio.sleep(delay_s)  # when it is killed matters, not what becomes true meanwhile
            mounted.kill()
            await mounted.mount()
            assert await off(target.read_bytes) in whole
            await off(lambda: (mounted.path / "temporary").unlink(missing_ok=True))


async def test_a_mount_that_ends_in_order_leaves_nothing_to_be_ended(tmp_path: Path) -> None:
    async with mounted_cluster(tmp_path) as mounted:
        await off((mounted.path / "made").mkdir)
        await mounted.umount()
        await mounted.mount()
        assert "the mount is no more" not in mounted.log


async def test_a_mount_that_ends_while_the_namenode_is_away_has_its_session_ended_later(tmp_path: Path) -> None:
    async with mounted_cluster(tmp_path, options="wait=1", session_timeout_s=3600) as mounted:
        await off(os.listdir, mounted.path)
        mounted.daemons.kill(NAMENODE)
        await mounted.umount()
        await mounted.daemons.start(NAMENODE)
        async with mounted.daemons.client() as fs:
            with trio.fail_after(PATIENCE_S):
                await fs.mkdir("/made")


async def test_a_mount_that_hangs_is_not_taken_over_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    async with mounted_cluster(tmp_path) as mounted, mounted.daemons.client() as fs:
        await fs.chmod("/", 0o777)  # the kernel has no attributes of it
        os.kill(mounted.pid, signal.SIGSTOP)
        try:
            with pytest.raises(AssertionError, match="already: unmount it first"):
                await mounted.mount()
        finally:
            os.kill(mounted.pid, signal.SIGCONT)


async def test_whoever_waits_for_a_mount_that_hangs_is_told_which_one_it_is(tmp_path: Path) -> None:
    async with mounted_cluster(tmp_path, session_timeout_s=3600) as mounted, mounted.daemons.client() as fs:
        await fs.mkdir("/directory")
        assert await off(os.listdir, mounted.path) == ["directory"]
        os.kill(mounted.pid, signal.SIGSTOP)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fs.chmod, "/directory", 0o700)

                async def is_asked() -> bool:
                    return any([client["asked"] async for client in fs.clients()])

                await until(is_asked, "the mount to be asked to forget")
                shown = (await mounted.daemons.dfs("clients")).stdout.decode()
                os.kill(mounted.pid, signal.SIGCONT)
        finally:
            os.kill(mounted.pid, signal.SIGCONT)
        (line,) = [line for line in shown.splitlines() if f"mount {mounted.path} (pid {mounted.pid})" in line]
        assert socket.gethostname() in line
        assert re.search(r"admin \w+ .* for [\d.]+ s$", line)
        assert f"(pid {os.getpid()})" in shown, "this program"
        assert not await is_asked()


# --- DataNodes are killed -------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_datanode_killed_while_a_file_is_copied_there_and_back_is_not_noticed(tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.write_bytes(random.Random(3).randbytes(160 * MIB))
    digest = hashlib.sha256(local.read_bytes()).hexdigest()
    async with mounted_cluster(tmp_path, datanodes=4) as mounted:
        daemons, file = mounted.daemons, mounted.path / "file"
        copying = subprocess.Popen(["cp", local, file])
        await arrived(daemons, 30 * MIB)
        assert copying.poll() is None
        victim = max(NAMES, key=lambda name: len(daemons.chunk_files(name)))
        daemons.kill(victim)
        assert await off(copying.wait, PATIENCE_S) == 0
        await daemons.start(victim)

        def read(kill_after: int) -> str:
            found = hashlib.sha256()
            with file.open("rb", buffering=0) as reader:
                for number in range(161):
                    if number == kill_after:
                        daemons.kill(victim)
                    found.update(reader.read(MIB))
            return found.hexdigest()

        victim = next(name for name in NAMES if daemons.chunk_files(name))
        assert await off(read, 10) == digest
        assert await off(read, -1) == digest


def fio(directory: Path, leavings: Path, *more: str) -> subprocess.Popen[bytes]:
    """Two files written at random in pieces of 512 bytes to a mebibyte, each with its checksum; the same each time.

    It works in `leavings`, where it notes how far it has verified.
    """
    argv = ["fio", "--name=large", f"--directory={directory}", "--ioengine=psync", "--rw=randwrite", "--numjobs=2"]
    argv += ["--bsrange=512-1m", "--size=48m", "--verify=crc32c", "--verify_fatal=1"]
    argv += ["--randrepeat=1", "--verify_state_save=0", "--fallocate=none", "--end_fsync=1", *more]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=leavings)


async def test_fio_finds_every_byte_though_datanodes_die_while_it_writes_and_reads(tmp_path: Path) -> None:
    need("fio")
    async with mounted_cluster(tmp_path, datanodes=4) as mounted:
        daemons = mounted.daemons
        writing = fio(mounted.path, tmp_path, "--do_verify=0")
        await arrived(daemons, 100 * MIB)
        assert writing.poll() is None
        daemons.kill("n1")
        said, _ = await off(writing.communicate)
        assert writing.returncode == 0, said
        await mounted.umount()
        await mounted.mount()
        reading = fio(mounted.path, tmp_path, "--verify_only")
        daemons.kill("n2")
        said, _ = await off(reading.communicate)
        assert reading.returncode == 0, said


async def test_a_block_that_is_lost_everywhere_takes_no_other_bytes_with_it(tmp_path: Path) -> None:
    """Though the kernel, and the mount, read much more at a time."""
    async with mounted_cluster(tmp_path, datanodes=2, replicas=2) as mounted:
        data = os.urandom(3 * MIB)
        await off(write_new, mounted.path / "file", data)
        await mounted.umount()  # so the chunk is sealed, and nothing of it in memory
        for name in ("n1", "n2"):
            (chunk,) = mounted.daemons.chunk_files(name).values()
            content = bytearray(chunk.read_bytes())
            content[MIB + 100] ^= 1
            chunk.write_bytes(content)
        await mounted.mount()
        assert await off(_readable, mounted.path / "file", len(data)) == {
            start: data[start : start + 4 * KIB]
            for start in range(0, len(data), 4 * KIB)
            if not MIB <= start < MIB + limits.BLOCK_BYTES
        }


def _readable(path: Path, size: int) -> dict[int, bytes]:
    """The pages of a file that can be read, one after the other, by where they begin."""
    found = {}
    with path.open("rb", buffering=0) as file:
        for start in range(0, size, 4 * KIB):
            try:
                found[start] = os.pread(file.fileno(), 4 * KIB, start)
            except OSError as error:
                assert error.errno == errno.EIO
    return found


# --- the NameNode is away -------------------------------------------------------------------------------


def _change_and_check(top: Path, chance: random.Random) -> None:
    """One round of a program: every answer of the mount is as on a local disk."""
    data = chance.randbytes(chance.choice([10, 5000, 300 * KIB]))
    first, second = top / "first", top / "second"
    write_new(first, data, sync=chance.random() < 0.3)
    first.rename(second)
    with second.open("ab") as file:
        file.write(b"end")
    assert second.read_bytes() == data + b"end"
    assert list(top.iterdir()) == [second]
    second.unlink()


@asynccontextmanager
async def loaded(top: Path, count: int) -> AsyncIterator[list[Program]]:
    """So many programs at work. Asserts on leaving that they ended well."""
    programs = [Program(top, seed, _change_and_check) for seed in range(count)]
    for program in programs:
        program.start()
    try:
        yield programs
    finally:
        for program in programs:
            program.stop()
        problems = [await off(program.join) for program in programs]
    assert not any(problems), "\n".join(problems)


async def progress(programs: list[Program], rounds: int) -> None:
    """Return when each of them has done so many more rounds, or one has failed."""
    goals = [program.rounds + rounds for program in programs]

    async def reached() -> bool:
        done = all(program.rounds >= goal for program, goal in zip(programs, goals, strict=True))
        return done or any(program.ended for program in programs)

    await until(reached, f"{rounds} more rounds")


@pytest.mark.slow
async def test_programs_pause_while_the_namenode_is_away_and_see_no_error(tmp_path: Path) -> None:
    async with mounted_cluster(tmp_path) as mounted:
        async with loaded(mounted.path, 3) as programs:
            for _ in range(2):
                await progress(programs, 3)
                mounted.daemons.kill(NAMENODE)
                await mounted.daemons.start(NAMENODE)
            await progress(programs, 3)


@pytest.mark.slow
async def test_programs_see_no_error_while_every_daemon_is_started_again(tmp_path: Path) -> None:
    async with mounted_cluster(tmp_path, datanodes=4) as mounted, loaded(mounted.path, 3) as programs:
        for name in (NAMENODE, *mounted.daemons.datanodes):
            await progress(programs, 3)
            await off(mounted.daemons.stop, name)
            await mounted.daemons.start(name)
        await progress(programs, 3)


async def test_a_namenode_away_for_too_long_is_a_timeout_and_the_mount_works_again_by_itself(tmp_path: Path) -> None:
    async with mounted_cluster(tmp_path, options="wait=2") as mounted:
        await off(lambda: write_new(mounted.path / "file", b"bytes", sync=True))
        mounted.daemons.kill(NAMENODE)
        assert (await off((mounted.path / "file").stat)).st_size == 5  # nobody else can have changed it yet
        error, took_s = await off(seconds, os.statvfs, mounted.path)
        assert error is not None
        assert error.errno == errno.ETIMEDOUT
        assert took_s < 5
        await mounted.daemons.start(NAMENODE)
        assert await off((mounted.path / "file").read_bytes) == b"bytes"
        await off(write_new, mounted.path / "another", b"more")
        mounted.daemons.kill(NAMENODE)
        began = time.monotonic()
        said = await mounted.umount(status=1)
        assert time.monotonic() - began < 15
        assert not is_mounted(mounted.path)
        assert "what was written to another is lost" in said
        assert re.search('"written bytes are lost" .*file=another', mounted.log)


async def test_unmounting_says_what_was_lost_of_what_was_still_on_its_way(tmp_path: Path) -> None:
    async with mounted_cluster(tmp_path, options="wait=4") as mounted:
        await off(partial(write_new, sync=True), mounted.path / "kept", b"bytes")
        mounted.daemons.kill(NAMENODE)
        await off(write_new, mounted.path / "small", b"bytes")
        await off(write_new, mounted.path / "large", bytes(3 * MIB))
        said = await mounted.umount(status=1)
        assert "waiting for the cluster: 2 files (3.1M) are not committed" in said
        assert re.search("what was written to (small and large|large and small) is lost", said)
        assert "changes of names are lost" in said
        for name in ("small", "large"):
            assert re.search(f'"written bytes are lost" .*file={name}', mounted.log)


async def test_a_mount_is_waited_for_however_its_directory_is_written(tmp_path: Path) -> None:
    async with mounted_cluster(tmp_path) as mounted, mounted.daemons.client() as fs:
        link = tmp_path / "link"
        link.symlink_to(tmp_path)
        data = os.urandom(16 * MIB)
        await off(write_new, mounted.path / "file", data)
        await mounted.umount(f"{link}/../{tmp_path.name}/mnt")
        assert "unmounted" in mounted.log
        async with await fs.open("/file") as file:
            assert await file.pread(len(data) + 1, 0) == data


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGABRT])
async def test_a_mount_that_is_killed_while_the_kernel_waits_for_a_page_ends_all_the_same(
    tmp_path: Path, how: signal.Signals
) -> None:
    """A thread that makes the kernel forget it cannot end before the read of it is answered: the process owed that.

    SIGABRT is what systemd's watchdog sends: the process is about to dump core, and waits for its threads first.
    """
    async with mounted_cluster(tmp_path, session_timeout_s=2) as mounted, mounted.daemons.client() as fs:
        async with await fs.open("/file", "x") as file:
            await file.pwrite(os.urandom(MIB), 0)
            await file.fsync()
        path = mounted.path / "file"
        with ExitStack() as stack:
            # Without what is tested the machine would hang with this mount: whatever happens, it is aborted.
            stack.enter_context(aborted_at_last(mounted.path))
            for name in mounted.daemons.datanodes:
                stack.enter_context(mounted.daemons.suspended(name))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(off, seconds, path.read_bytes)
                await trio.sleep(0.5)
                await fs.chmod("/file", 0o600)  # the thread waits now

                async def waits_for_a_page() -> bool:
                    return "fuse_reverse_inval_inode" in stacks(mounted.pid)

                await until(waits_for_a_page, "a thread to wait for a page")
                os.kill(mounted.pid, how)
                with trio.fail_after(10):
                    error, _ = await off(seconds, path.stat)
                assert error is not None
                assert error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
        await mounted.mount()
        assert stat.S_IMODE((await off(path.stat)).st_mode) == 0o600


async def test_nobody_waits_for_who_reads_from_a_datanode_that_hangs_to_change_the_file(tmp_path: Path) -> None:
    """The kernel has its pages locked meanwhile, and cannot be made to forget them."""
    data = os.urandom(2 * MIB)
    async with mounted_cluster(tmp_path) as mounted, mounted.daemons.client() as fs:
        async with await fs.open("/file", "x") as file:
            await file.pwrite(data, 0)
            await file.fsync()
        path, read = mounted.path / "file", []
        assert (await off(path.stat)).st_mode & 0o777 == 0o644
        async with trio.open_nursery() as nursery:
            with ExitStack() as suspended:
                for name in mounted.daemons.datanodes:
                    suspended.enter_context(mounted.daemons.suspended(name))

                async def read_all() -> None:
                    read.append(await off(path.read_bytes))

                nursery.start_soon(read_all)
                await trio.sleep(0.5)
                assert not read
                began = time.monotonic()
                with trio.fail_after(PATIENCE_S):
                    await fs.chmod("/file", 0o600)
                assert time.monotonic() - began < 5, "it waited until attributes of that time were none any more"
                assert not read
                assert (await off(path.stat)).st_mode & 0o777 == 0o600
        assert read == [data]


# --- the mount is away for longer than its session ------------------------------------------------------


async def test_a_mount_that_was_frozen_shows_nothing_old_and_loses_only_what_it_could_not_write(tmp_path: Path) -> None:
    async with mounted_cluster(tmp_path, session_timeout_s=3) as mounted, mounted.daemons.client() as fs:
        path = mounted.path / "file"
        await off(lambda: write_new(path, b"synced", sync=True))
        file, writer = await off(path.open, "r+b", 0), await off(path.open, "r+b", 0)
        await off(file.write, b"unsync")  # in the mount's memory
        assert await off(os.listdir, mounted.path) == ["file"]
        os.kill(mounted.pid, signal.SIGSTOP)
        try:
            with trio.fail_after(PATIENCE_S):  # they wait until its session ends, and go on
                async with await fs.open("/file", "r+") as theirs:
                    await theirs.pwrite(b"theirs", 0)
                    await theirs.fsync()
                await fs.rename("/file", "/renamed")
        finally:
            os.kill(mounted.pid, signal.SIGCONT)
        assert await off(os.listdir, mounted.path) == ["renamed"]
        assert await off((mounted.path / "renamed").read_bytes) == b"theirs"  # who opens it now hears of no error
        assert not await off(path.exists)
        error, _ = await off(seconds, os.fsync, file.fileno())
        assert error is not None
        assert error.errno == errno.EIO
        await off(os.pwrite, file.fileno(), b"again", 0)  # it works again
        await off(os.fsync, file.fileno())
        await off(file.close)
        assert await off((mounted.path / "renamed").read_bytes) == b"agains"
        for _ in range(2):  # the kernel may have made a short write of the first answer
            error, _ = await off(seconds, writer.write, b"more")
            assert error is not None
        await off(writer.write, b"more")
        error, _ = await off(seconds, os.fsync, writer.fileno())
        assert error is not None
        await off(os.fsync, writer.fileno())
        await off(writer.close)
        assert await off((mounted.path / "renamed").read_bytes) == b"morens"
        assert "written bytes are lost" in mounted.log
        await off(write_new, mounted.path / "new", b"new")
        async with await fs.open("/new") as seen:
            assert await seen.pread(10, 0) == b"new"


async def test_the_namenode_restarts_and_two_clients_agree_all_the_same(tmp_path: Path) -> None:
    async with mounted_cluster(tmp_path) as mounted, mounted.daemons.client() as fs:
        await off(write_new, mounted.path / "file", b"old")
        assert await off(os.listdir, mounted.path) == ["file"]
        file = await off((mounted.path / "file").open, "r+b", 0)
        await off(file.write, b"new")  # in the mount's memory, over the restart
        mounted.daemons.kill(NAMENODE)
        await mounted.daemons.start(NAMENODE)
        async with await fs.open("/file") as seen:
            assert await seen.pread(10, 0) == b"new"
        await fs.rename("/file", "/other")
        assert await off(os.listdir, mounted.path) == ["other"]
        await off(os.fsync, file.fileno())
        await off(file.close)


# --- everything is killed -------------------------------------------------------------------------------


async def test_what_was_fsynced_is_there_after_everything_was_killed(tmp_path: Path) -> None:
    data = {f"{number}": random.Random(number).randbytes(number * 300 * KIB + 1) for number in range(5)}
    async with mounted_cluster(tmp_path) as mounted:
        for name, content in data.items():
            await off(lambda name=name, content=content: write_new(mounted.path / name, content, sync=True))
        mounted.kill()
        mounted.daemons.kill_all()
        for name in [NAMENODE, "n1", "n2", "n3"]:
            mounted.daemons.launch(name)
        await mounted.daemons.wait_until_up("n1", "n2", "n3")
        await mounted.mount()
        for name, content in data.items():
            assert await off((mounted.path / name).read_bytes) == content


def make_names(path: Path) -> None:
    """All kinds of changes of names, not one of them synced."""
    for number in range(20):
        (path / f"{number}").mkdir()
        (path / f"{number}" / "file").touch()
        (path / f"{number}" / "file").rename(path / f"{number}" / "renamed")
    (path / "0" / "renamed").unlink()
    (path / "0").rmdir()


def sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


async def test_names_are_on_disk_when_their_directory_is_synced(tmp_path: Path) -> None:
    async with mounted_cluster(tmp_path, session_timeout_s=3) as mounted, mounted.daemons.client() as fs:
        await off(make_names, mounted.path)
        await off(sync_directory, mounted.path)
        mounted.kill()
        assert len(await fs.listdir("/")) == 19
        assert [entry.name for entry in await fs.listdir("/19")] == [b"renamed"]


async def test_with_sync_metadata_names_are_on_disk_when_they_are_made(tmp_path: Path) -> None:
    options: dict[str, Any] = {"options": "sync_metadata", "session_timeout_s": 3}
    async with mounted_cluster(tmp_path, **options) as mounted, mounted.daemons.client() as fs:
        await off(make_names, mounted.path)
        mounted.kill()
        assert len(await fs.listdir("/")) == 19
        assert [entry.name for entry in await fs.listdir("/19")] == [b"renamed"]


# --- no space -------------------------------------------------------------------------------------------


@contextmanager
def small_disks(directory: Path, names: list[str], size: str) -> Iterator[None]:
    """Real file systems of a size, where the DataNodes of these names keep their data."""
    made = []
    try:
        for name in names:
            (directory / name).mkdir(parents=True)
            done = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", directory / name], check=False
            )
            if done.returncode:
                pytest.skip("no tmpfs may be mounted here")
            made.append(name)
        yield
    finally:
        for name in made:
            subprocess.run(["umount", "-l", directory / name], check=True)


async def test_full_datanodes_are_enospc_and_the_mount_lives_on(tmp_path: Path) -> None:
    """What is written does not fit in single copies either: a slow DataNode may be left out."""
    names = ["n1", "n2"]
    with small_disks(tmp_path / "disks", names, "100m"):
        async with small_cluster(tmp_path, names) as mounted:
            await off(write_new, mounted.path / "before", b"before")
            # In one write(2), of which the kernel makes many, and a short one if any but the first is refused.
            error, _ = await off(seconds, write_new, mounted.path / "too large", bytes(210 * MIB))
            assert error is not None
            assert error.errno == errno.ENOSPC
            assert await off((mounted.path / "before").read_bytes) == b"before"
            await off((mounted.path / "too large").unlink)

            async def fits_again() -> bool:
                error, _ = await off(seconds, write_new, mounted.path / "small", bytes(MIB))
                return error is None

            await until(fits_again, "the space to come back")
            assert await off((mounted.path / "small").read_bytes) == bytes(MIB)


async def test_df_counts_no_space_that_nothing_can_be_written_to(tmp_path: Path) -> None:
    """A DataNode with less than a chunk free is full."""
    names = ["n1", "n2"]
    with small_disks(tmp_path / "disks", names, f"{limits.CHUNK_MAX_BYTES // MIB + 36}m"):
        async with small_cluster(tmp_path, names) as mounted:
            assert (await off(os.statvfs, mounted.path)).f_bavail > 0
            for name in names:
                subprocess.run(["mount", "-o", "remount,size=40m", tmp_path / "disks" / name], check=True)

            async def nothing_is_free() -> bool:
                return (await off(os.statvfs, mounted.path)).f_bavail == 0

            await until(nothing_is_free, "df to tell what is left")
            error, _ = await off(seconds, write_new, mounted.path / "file", bytes(MIB))
            assert error is not None
            assert error.errno == errno.ENOSPC


async def test_who_writes_to_full_datanodes_hears_of_it_though_he_ignores_what_closing_says(tmp_path: Path) -> None:
    """As a shell does: `echo text > file`."""
    names = ["n1", "n2"]
    with small_disks(tmp_path / "disks", names, "40m"):
        async with small_cluster(tmp_path, names) as mounted:
            error, _ = await off(seconds, write_new, mounted.path / "first", bytes(MIB))
            assert error is not None
            for name in ("second", "third"):
                echo = f"echo text > '{mounted.path / name}'"
                done = await off(partial(subprocess.run, ["sh", "-c", echo], capture_output=True))
                assert done.returncode


async def test_a_file_that_was_opened_while_there_was_space_is_not_cut_without_a_word(tmp_path: Path) -> None:
    """Closing it tells nothing."""
    names = ["n1", "n2"]
    with small_disks(tmp_path / "disks", names, f"{limits.SPACE_SHORT_BYTES // MIB + 300}m"):
        async with small_cluster(tmp_path, names) as mounted:
            file = await off((mounted.path / "file").open, "wb", 0)
            await off(file.write, b"first")
            for name in names:
                subprocess.run(["mount", "-o", "remount,size=1m", tmp_path / "disks" / name], check=True)

            async def is_known() -> bool:
                error, _ = await off(seconds, write_new, mounted.path / "another", bytes(MIB))
                return error is not None

            await until(is_known, "the mount to hear of it")

            def write_on() -> None:
                try:
                    for _ in range(3 * 8):  # which a mount keeps in memory
                        file.write(bytes(128 * KIB))
                finally:
                    file.close()

            error, _ = await off(seconds, write_on)
            assert error is not None
            assert error.errno == errno.ENOSPC


@asynccontextmanager
async def small_cluster(base: Path, names: list[str]) -> AsyncIterator[Mounted]:
    """DataNodes on `small_disks`, mounted."""
    options: dict[str, Any] = {"replicas": 2, "min_replicas": 1, "garbage_grace_s": 0.2, "session_timeout_s": 3}
    async with mounted_cluster(base, datanodes=0, **options) as mounted:
        for name in names:
            mounted.daemons.configure_datanode(name, directories=[base / "disks" / name / "data"])
            await mounted.daemons.start(name)
        yield mounted


# --- bugs, and bounds -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "number"),
    [
        pytest.param(ZeroDivisionError("a bug"), errno.EIO, marks=pytest.mark.meets_bugs),
        pytest.param(OSError(errno.ENOENT, "of some local file"), errno.EIO, marks=pytest.mark.meets_bugs),
        (errors.NotFound("inode 5 is gone"), errno.ESTALE),
        (errors.NoSpace("full"), errno.ENOSPC),
        (errors.DataLost("gone"), errno.EIO),
        (errors.Unreachable("away"), errno.ETIMEDOUT),
        (errors.ConnectionLost("broken"), errno.ETIMEDOUT),
        (errors.DeadlineExceeded("silent"), errno.ETIMEDOUT),
    ],
)
async def test_whatever_a_handler_raises_leaves_it_as_an_errno(raised: Exception, number: int) -> None:
    pyfuse3 = pytest.importorskip("pyfuse3")
    from mount.operations import _handler

    async def operation() -> None:
        raise raised

    wrapped: Callable[[], Awaitable[None]] = _handler(operation)
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await wrapped()
    assert caught.value.errno == number


async def test_a_name_that_is_missing_is_no_stale_inode() -> None:
    pyfuse3 = pytest.importorskip("pyfuse3")
    from mount.operations import _handler

    async def unlink() -> None:
        raise errors.NotFound("no such file")

    with pytest.raises(pyfuse3.FUSEError) as caught:
        await _handler(unlink)()
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize("is_closed", [True, False])
async def test_whoever_syncs_a_file_first_hears_that_bytes_were_lost_before_he_opened_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_closed: bool
) -> None:
    """As programs do that have others sync what they have written."""

    def opened(inode: OpenInode) -> FileHandle:
        return FileHandle(inode, False, is_flushed=False, is_durable=False, is_cached=False, moves_atime=True)

    async def full(*_: Any, **__: Any) -> None:
        raise errors.NoSpace("the disks are full")

    async with running_cluster(tmp_path) as cluster, mounted_on(cluster) as (fs, files):
        inode = await files.create(fs.session.root, b"f", 0o644, 0, 0, exclusive=True)
        await inode.write(0, b"lost")
        with monkeypatch.context() as patch:
            patch.setattr(fs.chunks, "append", full)
            await inode.write_back()
            if is_closed:
                files.close(inode)
        later, latest = [opened(await files.acquire(inode.ino, "f")) for _ in range(2)]
        with pytest.raises(errors.NoSpace):
            await later.fsync()
        await latest.fsync()
        await later.inode.write(0, b"kept")
        await later.fsync()


async def test_cancellation_passes_through_a_handler() -> None:
    pytest.importorskip("pyfuse3")
    from mount.operations import _handler

    with trio.move_on_after(0) as scope:
        await _handler(trio.sleep_forever)()
    assert scope.cancelled_caught


@pytest.mark.slow
async def test_eight_writers_do_not_make_the_mount_large(tmp_path: Path) -> None:
    def write(number: int) -> None:
        with (mounted.path / str(number)).open("wb", buffering=0) as file:
            for _ in range(64):
                file.write(block)

    block = os.urandom(MIB)
    async with mounted_cluster(tmp_path, replicas=2) as mounted:
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(off, write, number)
        assert mounted.peak_bytes() < 300 * MIB
        assert {path.stat().st_size for path in mounted.path.iterdir()} == {64 * MIB}
