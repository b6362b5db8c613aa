"""Mixed load on a mounted cluster whose daemons are restarted all the time, for as long as one likes.

    python -m tests.soak --minutes 15

Programs change and check files of their own on the mount: large files, small ones, appended and sparse ones, trees,
databases. Meanwhile a daemon is killed or stopped every few seconds, and started again. At the end all files are
removed, and nothing may be left: no hold, no session but the mount's, no chunk, no more open files than at first, and
no more memory in the mount than in the middle third of the time. Prints a table; ends with 1 if anything is wrong.
"""

# ruff: noqa: T201 - it is a program: it prints

from __future__ import annotations

import argparse
import contextlib
import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import statistics
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, NamedTuple

import trio

from dfs import limits
from dfs.client import FileSystem
from dfs.mountpoint import is_mounted, unmount
from tests.fuse.conftest import Cluster
from tests.integration.real import NAMENODE, RealCluster, environment, real_cluster, until

KIB, MIB = limits.KIB, limits.MIB

_DATANODES = ("n1", "n2", "n3", "n4")
_NAMES = (NAMENODE, *_DATANODES)
_SAMPLE_PERIOD_S = 1.0
_BETWEEN_RESTARTS_S = 8.0
_STOP_TIMEOUT_S = 120.0
"""For a program to end its round: a daemon may just have been away."""
_GROWTH_MAX_BYTES = 32 * MIB
"""Of the mount's memory from the second third to the last: buffers come and go."""
_FD_GROWTH_MAX = 16
"""Of each process from before the load to when all is removed: connections come and go."""

# --- load -----------------------------------------------------------------------------------------------


_spawn = multiprocessing.get_context("spawn")


class Program:
    """A process that does one kind of thing on the mount, in a directory of its own, until it is told to stop.

    Not a thread: one that waits for the mount in a system call for which Python keeps its lock would stop this process,
    and with it the restart that the mount waits for.
    """

    def __init__(self, directory: Path, seed: int, work: Callable[[Path, random.Random], None]) -> None:
        self.name = work.__name__.strip("_")
        self._stopping = _spawn.Event()
        self._rounds = _spawn.Value("Q", 0)
        self._errors, self._tell = _spawn.Pipe(duplex=False)
        own = directory / f"{self.name}-{seed}"
        arguments = (work, own, seed, self._stopping, self._rounds, self._tell)
        self._process = _spawn.Process(target=_repeat, args=arguments, daemon=True)

    @property
    def rounds(self) -> int:
        return int(self._rounds.value)

    @property
    def ended(self) -> bool:
        return not self._process.is_alive()

    def start(self) -> None:
        self._process.start()

    def stop(self) -> None:
        self._stopping.set()

    def join(self) -> str:
        """Why it did not end well after `stop`; empty if it did."""
        self._process.join(_STOP_TIMEOUT_S)
        if self._process.is_alive():
            self._process.kill()
            return f"hangs after {self.rounds} rounds"
        if self._errors.poll():
            return str(self._errors.recv())
        return f"ended with {self._process.exitcode}" if self._process.exitcode else ""


def _repeat(
    work: Callable[[Path, random.Random], None],
    directory: Path,
    seed: int,
    stopping: Event,
    rounds: Synchronized[int],
    errors: Connection,
) -> None:
    """What the process of a program runs."""
    chance = random.Random(seed)
    try:
        directory.mkdir()
        while not stopping.is_set():
            work(directory, chance)
            rounds.value += 1
        shutil.rmtree(directory)
    except Exception:  # noqa: BLE001 - it is reported at the end
        errors.send(f"{time.strftime('%H:%M:%S')} in round {rounds.value}: {traceback.format_exc()}")


def _check(condition: bool, what: str) -> None:
    if not condition:
        raise AssertionError(what)


def _large(top: Path, chance: random.Random) -> None:
    """A file of some ten mebibytes is written, read back and removed."""
    block, length, found, wanted = chance.randbytes(MIB), 0, hashlib.sha256(), hashlib.sha256()
    with (top / "large").open("wb") as file:
        for number in range(chance.randrange(8, 20)):
            piece = number.to_bytes(4, "big") + block
            wanted.update(piece)
            length += file.write(piece)
        if chance.random() < 0.3:
            file.flush()
            os.fsync(file.fileno())
    with (top / "large").open("rb") as file:
        while piece := file.read(300 * KIB):
            found.update(piece)
        _check(file.tell() == length, f"{length} bytes were written, {file.tell()} are read")
    _check(found.digest() == wanted.digest(), "a large file reads as it was written")
    (top / "large").unlink()


def _small(top: Path, chance: random.Random) -> None:
    """A directory of small files is made, renamed, listed, read and removed."""
    files = {str(number): chance.randbytes(chance.randrange(5000)) for number in range(12)}
    directory = top / "new"
    directory.mkdir()
    for name, data in files.items():
        (directory / name).write_bytes(data)
    directory = directory.rename(top / "old")
    _check(sorted(path.name for path in directory.iterdir()) == sorted(files), "a directory lists what was made in it")
    for name, data in files.items():
        _check((directory / name).read_bytes() == data, "a small file reads as it was written")
    shutil.rmtree(directory)


def _appended(top: Path, chance: random.Random) -> None:
    """A log is appended to by two handles, and never loses a line."""
    path = top / "log"
    lines = [b"%d\n" % chance.randrange(10**6) for _ in range(20)]
    with path.open("ab", buffering=0) as first, path.open("ab", buffering=0) as second:
        for number, line in enumerate(lines):
            (first if number % 2 else second).write(line)
    _check(path.read_bytes() == b"".join(lines), "a log has every line that was appended")
    path.unlink()


def _overwritten(top: Path, chance: random.Random) -> None:
    """One file, kept open and without a name, is written, cut and read at random."""
    model = bytearray()
    with (top / "file").open("w+b", buffering=0) as file:
        (top / "file").unlink()
        for _ in range(30):
            offset, data = chance.randrange(2 * MIB), chance.randbytes(chance.randrange(1, 60_000))
            model.extend(bytes(max(0, offset + len(data) - len(model))))
            model[offset : offset + len(data)] = data
            os.pwrite(file.fileno(), data, offset)
            if chance.random() < 0.1:
                del model[chance.randrange(len(model)) :]
                file.truncate(len(model))
            start = chance.randrange(2 * MIB)
            _check(os.pread(file.fileno(), 40_000, start) == model[start : start + 40_000], "random reads and writes")


def _database(top: Path, chance: random.Random) -> None:
    """Rows are committed to a database, which stays sound."""
    with contextlib.closing(sqlite3.connect(top / "database", timeout=60)) as database:
        database.execute("CREATE TABLE IF NOT EXISTS entry (number INTEGER, data)")
        with database:
            database.execute("INSERT INTO entry VALUES (?, ?)", (chance.randrange(10**9), chance.randbytes(3000)))
            database.execute("DELETE FROM entry WHERE rowid < (SELECT max(rowid) - 50 FROM entry)")
        _check(database.execute("PRAGMA integrity_check").fetchone() == ("ok",), "a sound database")


_WORK = (_large, _small, _appended, _overwritten, _database)

# --- measures -------------------------------------------------------------------------------------------


class Sample(NamedTuple):
    """One look at a process."""

    at_s: float
    pid: int
    memory_bytes: int
    fds: int


def _look(pid: int) -> Sample | None:
    """None if the process is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        fds = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
        return Sample(time.monotonic(), pid, pages * os.sysconf("SC_PAGE_SIZE"), fds)
    except (OSError, IndexError):
        return None


class Soak:
    """One run. `samples` are of each process, by name; `wrong` is what was found."""

    def __init__(self, daemons: RealCluster, mountpoint: Path, pid: int) -> None:
        self.samples: dict[str, list[Sample]] = defaultdict(list)
        self.restarts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._daemons = daemons
        self._mountpoint = mountpoint
        self._mount_pid = pid
        chance = random.Random(1)
        self.programs = [Program(mountpoint, chance.randrange(10**6), work) for work in _WORK for _ in range(2)]

    # --- running

    async def run(self, duration_s: float) -> None:
        self._look_at_all()
        for program in self.programs:
            program.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sample)
            with trio.move_on_after(duration_s):
                await self._restart_daemons()
            await self._all_running()
            await self._stop_programs()
            nursery.cancel_scope.cancel()

    async def _restart_daemons(self) -> None:
        chance = random.Random(2)
        while not any(program.ended for program in self.programs):
            await trio.sleep(_BETWEEN_RESTARTS_S)
            name = chance.choice(_NAMES)
            with trio.CancelScope(shield=True):  # bounded by the cluster's patience; no daemon is left away
                await trio.to_thread.run_sync(chance.choice((self._daemons.kill, self._daemons.stop)), name)
                await self._daemons.start(name)
            self.restarts[name] += 1

    async def _all_running(self) -> None:
        await self._daemons.wait_until_up(*_DATANODES)

    async def _stop_programs(self) -> None:
        for program in self.programs:
            program.stop()
        for program in self.programs:
            if problem := await trio.to_thread.run_sync(program.join):
                self.wrong.append(f"{program.name} {problem}")
        for left in self._mountpoint.iterdir():  # of programs that failed
            await trio.to_thread.run_sync(shutil.rmtree, left)

    async def _sample(self) -> None:
        while True:
            self._look_at_all()
            await trio.sleep(_SAMPLE_PERIOD_S)

    def _look_at_all(self) -> None:
        for name, pid in self._pids().items():
            sample = _look(pid)
            if sample is not None:
                self.samples[name].append(sample)

    def _pids(self) -> dict[str, int]:
        """The processes that run now; daemons are found by their command lines."""
        wanted = {b"\0".join(map(os.fsencode, self._daemons.command(name))) + b"\0": name for name in _NAMES}
        found = {"mount": self._mount_pid}
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if name := wanted.get(path.read_bytes()):
                    found[name] = int(path.parent.name)
        return found

    # --- judging

    async def check_nothing_left(self, fs: FileSystem) -> None:
        """Everything was removed: what is there still was leaked."""

        async def clean() -> bool:
            left = await self._left(fs)
            return not any(left.values())

        try:
            await until(clean, "everything that was removed to be gone")
        except AssertionError:
            left = {what: count for what, count in (await self._left(fs)).items() if count}
            self.wrong.append(f"left behind: {left}")
        self.wrong += [str(finding) async for finding in fs.fsck()]

    async def _left(self, fs: FileSystem) -> dict[str, int]:
        """What should be nothing, when all is removed and only the mount and `fs`, which opens no session, are here."""
        status = await fs.status()
        with contextlib.closing(sqlite3.connect(f"file:{self._database()}?mode=ro", uri=True)) as database:
            (holds,) = database.execute("SELECT total(count) FROM hold").fetchone()
            (sessions,) = database.execute("SELECT count(*) FROM session").fetchone()
            (extents,) = database.execute("SELECT count(*) FROM extent").fetchone()
            (inodes,) = database.execute("SELECT count(*) FROM inode").fetchone()
        files = sum(len(self._daemons.chunk_files(name)) for name in _DATANODES)
        return {
            "holds": int(holds),
            "sessions": sessions - 1,
            "extents": extents,
            "inodes": inodes - 1,
            "chunks": status["chunks"],
            "chunk files": files,
        }

    def _database(self) -> Path:
        return self._daemons.directory / NAMENODE / "namespace.sqlite"

    async def judge_growth(self) -> None:
        before, after = _medians([sample.memory_bytes for sample in self.samples["mount"]])
        if after > before + _GROWTH_MAX_BYTES:
            self.wrong.append(f"the mount grew by {(after - before) // MIB} MiB")
        with trio.move_on_after(2 * limits.LENT_FOR_S):  # until then files of DataNodes are in use
            while self._left_open():
                await trio.sleep(1.0)
        self.wrong += self._left_open()

    def _left_open(self) -> list[str]:
        """Which processes have more files open than at first."""
        found = []
        for name, pid in self._pids().items():
            first, last = self.samples[name][0].fds, _look(pid)
            if last is not None and last.fds > first + _FD_GROWTH_MAX:
                found.append(f"{name} had {first} files open before the load, and has {last.fds} after it")
        return found

    def _memory(self, name: str) -> tuple[int, int]:
        """Medians of the second third of the time and of the last."""
        return _medians([sample.memory_bytes for sample in self.samples[name]])

    def _fds(self, name: str) -> tuple[int, int]:
        return _medians([sample.fds for sample in self.samples[name]])

    def print_table(self) -> None:
        headings = ("restarts", "MiB mid", "MiB end", "MiB max", "fds mid", "fds end")
        print(f"\n{'process':12}" + "".join(f"{heading:>10}" for heading in headings))
        for name, samples in self.samples.items():
            memory = [size / MIB for size in (*self._memory(name), max(sample.memory_bytes for sample in samples))]
            fds = self._fds(name)
            print(f"{name:12}{self.restarts[name]:10}" + "".join(f"{size:10.1f}" for size in memory), end="")
            print(f"{fds[0]:10}{fds[1]:10}")
        print(f"\n{'program':24}{'rounds':>10}")
        for program in self.programs:
            print(f"{program.name:24}{program.rounds:10}")
        print("\n" + ("\n".join(f"WRONG: {what}" for what in self.wrong) or "nothing wrong"))


def _medians(values: list[int]) -> tuple[int, int]:
    third = max(1, len(values) // 3)
    return int(statistics.median(values[third : 2 * third] or values)), int(statistics.median(values[-third:]))


# --- all of it ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _mounted(daemons: RealCluster, base: Path) -> Iterator[tuple[Path, int]]:
    """A mount point of the cluster and the process behind it."""
    mountpoint = base / "mnt"
    mountpoint.mkdir()
    user = Cluster(base, {**environment(daemons), "XDG_STATE_HOME": str(base / "state")})
    try:
        user.dfs("mount", mountpoint)
        yield mountpoint, user.mount_pids()[mountpoint]
    finally:
        user.kill_mounts()
        if is_mounted(mountpoint):
            unmount(mountpoint)
        for line in user.mount_log().splitlines():
            if "[error" in line or "operation failed" in line or "Traceback" in line:
                print(line)


async def soak(base: Path, duration_s: float) -> bool:
    """Run it in an empty directory; whether all was well."""
    (base / "daemons").mkdir()
    options: dict[str, Any] = {"garbage_grace_s": 2.0, "session_timeout_s": 20.0}
    async with real_cluster(base / "daemons", datanodes=len(_DATANODES), **options) as daemons:
        with _mounted(daemons, base) as (mountpoint, pid):
            run = Soak(daemons, mountpoint, pid)
            await run.run(duration_s)
            async with daemons.client() as fs:
                await run.check_nothing_left(fs)
            await run.judge_growth()
            run.print_table()
    return not run.wrong


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0)
    minutes = parser.parse_args().minutes
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leaves nothing running
    with tempfile.TemporaryDirectory(prefix="soak-") as base:
        return 0 if trio.run(soak, Path(base), 60 * minutes) else 1


if __name__ == "__main__":
    sys.exit(main())
