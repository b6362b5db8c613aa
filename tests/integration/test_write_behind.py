"""Files of the Python API whose bytes are written while the program goes on: whatever happens, none is lost unsaid."""

from __future__ import annotations

import gc
import io
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from dfs import errors, limits
from dfs.client.filewriter import FileWriter
from tests.integration.real import PATIENCE_S, RealCluster, lasting_cluster
from tests.integration.test_python_api import connected

MIB = limits.MIB


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    with lasting_cluster(tmp_path_factory.mktemp("cluster"), datanodes=2, replicas=2) as made:
        yield made


def run_program(cluster: RealCluster, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", text, *arguments],
        env={**os.environ, "DFS_CONFIG": str(cluster.client_config)},
        capture_output=True,
        text=True,
        check=False,
        timeout=3 * PATIENCE_S,
    )


def test_it_is_there_when_flush_or_close_returns(cluster: RealCluster) -> None:
    data = os.urandom(9 * MIB + 17)
    with connected(cluster) as fs, connected(cluster) as other:
        with fs.open("/behind", "wb") as file:
            for start in range(0, len(data), MIB):
                file.write(data[start : start + MIB])
            file.flush()
            assert other.read_bytes("/behind") == data
            file.write(data)
            file.write(b"end")
        assert other.read_bytes("/behind") == data + data + b"end"
        with fs.open("/text", "w") as text:
            text.write("ä" * 3_000_000)
            text.flush()
            assert other.stat("/text").size == 6_000_000


@pytest.mark.parametrize("size", [50, 10_240, 700_000, MIB])
def test_it_begins_with_the_first_full_buffer_whatever_is_written_at_a_time(cluster: RealCluster, size: int) -> None:
    with connected(cluster) as fs, fs.open(f"/of{size}", "wb") as file:
        while file.tell() < 3 * MIB:
            file.write(bytes(size))
        assert file.raw._behind is not None  # type: ignore[attr-defined]


def test_it_is_there_soon_though_nobody_asks(cluster: RealCluster) -> None:
    with connected(cluster) as fs, connected(cluster) as other, fs.open("/slow", "wb") as file:
        for size in (3 * MIB, 6 * MIB):
            file.write(bytes(3 * MIB))
            deadline = time.monotonic() + PATIENCE_S
            while other.stat("/slow").size < size:
                assert time.monotonic() < deadline
                time.sleep(0.05)


@pytest.mark.parametrize("seed", range(3))
def test_a_file_behaves_as_one_in_memory_does(cluster: RealCluster, seed: int) -> None:
    """Whatever of it is written behind, read, cut and sought in between."""
    chance = random.Random(seed)
    model = io.BytesIO()
    with connected(cluster) as fs, fs.open(f"/model{seed}", "w+b") as file:
        for _ in range(60):
            what = chance.choice(["write", "write", "write", "seek", "read", "truncate", "flush", "stat", "rewind"])
            if what == "write":
                data = chance.randbytes(chance.choice([10, 70_000, MIB, 2 * MIB + 5]))
                assert file.write(data) == model.write(data)
            elif what == "seek":
                place = chance.randrange(len(model.getvalue()) + 100_000)
                assert file.seek(place) == model.seek(place)
            elif what == "rewind":
                assert file.seek(-model.tell() // 2, os.SEEK_CUR) == model.seek(-model.tell() // 2, os.SEEK_CUR)
            elif what == "read":
                size = chance.choice([1, 50_000, 3 * MIB])
                assert file.read(size) == model.read(size)
            elif what == "truncate":
                size = chance.randrange(len(model.getvalue()) + 1)
                assert file.truncate(size) == model.truncate(size)
            elif what == "flush":
                file.flush()
                assert fs.read_bytes(f"/model{seed}") == model.getvalue()
            else:
                file.flush()
                assert fs.stat(f"/model{seed}").size == len(model.getvalue())
            assert file.tell() == model.tell()
    with connected(cluster) as fs:
        assert fs.read_bytes(f"/model{seed}") == model.getvalue()


def test_what_goes_wrong_is_told_and_the_file_works_on(cluster: RealCluster) -> None:
    with connected(cluster) as fs:
        file = fs.open("/too far", "w+b", perm=0o600)
        file.seek(limits.FILE_SIZE_MAX_BYTES - MIB)
        with pytest.raises(errors.FileTooLarge):
            for _ in range(100):
                file.write(bytes(MIB))
        with suppress(errors.FileTooLarge):  # Python before 3.13 tries again what it could not write
            file.close()
        assert file.closed
        assert fs.stat("/too far").size == limits.FILE_SIZE_MAX_BYTES
        file = fs.open("/not so far", "w+b")
        file.seek(limits.FILE_SIZE_MAX_BYTES - MIB)
        with pytest.raises(errors.FileTooLarge):
            file.write(bytes(2 * MIB))
        file.seek(3)
        file.write(bytes(2 * MIB) + b"works")
        file.close()
        assert fs.read_bytes("/not so far") == bytes(2 * MIB + 3) + b"works"


def test_a_detached_raw_file_waits_for_what_it_writes(cluster: RealCluster) -> None:
    with connected(cluster) as fs, connected(cluster) as other:
        file: Any = fs.open("/detached", "wb")
        file.write(bytes(2 * MIB))
        raw = file.detach()
        assert other.stat("/detached").size == 2 * MIB
        raw.write(bytes(2 * MIB))
        assert other.stat("/detached").size == 4 * MIB
        raw.close()


# --- threads ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["raw.fsync", "raw.stat", "flush", "seek"])
def test_what_one_thread_asks_of_a_file_keeps_or_hurts_no_other_that_writes(cluster: RealCluster, what: str) -> None:
    wrong: list[BaseException] = []
    done = threading.Event()
    with connected(cluster) as fs:
        file: Any = fs.open(f"/{what}", "wb")

        def guarded(work: Callable[[], None]) -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - it is looked at below
                wrong.append(error)
            finally:
                done.set()

        def write() -> None:
            for number in range(20):
                file.write(bytes([number]) * (2 * MIB))

        def ask() -> None:
            method = {"raw.fsync": file.raw.fsync, "raw.stat": file.raw.stat, "flush": file.flush}.get(what)
            while not done.is_set():
                method() if method else file.seek(0, os.SEEK_CUR)

        threads = [threading.Thread(target=guarded, args=(each,), daemon=True) for each in (write, ask)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert not wrong and not any(thread.is_alive() for thread in threads)
        file.close()
        found = fs.read_bytes(f"/{what}")
        assert [found[number * 2 * MIB] for number in range(20)] == list(range(20))


def test_calls_of_a_connection_that_another_thread_closes_say_so(cluster: RealCluster) -> None:
    fs = connected(cluster)
    fs.write_bytes("/read", bytes(8 * MIB))
    behind, raw = fs.open("/behind it", "wb"), fs.open("/raw", "wb", buffering=0)
    ended: list[BaseException] = []

    def for_ever(work: Callable[[], object]) -> None:
        try:
            while True:
                work()
        except BaseException as error:  # noqa: BLE001 - it is looked at below
            ended.append(error)

    calls: list[Callable[[], object]] = [
        lambda: behind.write(bytes(MIB)),
        lambda: raw.write(bytes(MIB)),
        lambda: fs.read_bytes("/read"),
        lambda: fs.stat("/read"),
        lambda: fs.open("/new", "wb").close(),
    ]
    threads = [threading.Thread(target=for_ever, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    fs.close()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert [type(error) for error in ended] == [ValueError] * len(calls), ended
    assert all("closed" in str(error) for error in ended), ended
    assert behind.closed and raw.closed


def test_a_file_that_is_collected_in_the_loops_own_thread_leaves_nothing_there(cluster: RealCluster) -> None:
    with connected(cluster) as fs:
        file: Any = fs.open("/collected", "wb")
        file.write(bytes(3 * MIB))
        ring = [file]
        ring.append(ring)
        del file, ring

        async def collect() -> None:
            gc.collect()

        fs._loop.call(collect)

        async def tasks() -> int:
            return len(fs._loop._nursery.child_tasks)

        deadline = time.monotonic() + PATIENCE_S
        while fs._loop.call(tasks):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert fs.stat("/collected").size == 3 * MIB


# --- interrupts, and ends of programs -----------------------------------------------------------------------

_INTERRUPTED = """
import dfs, random, signal, sys

signal.signal(signal.SIGALRM, signal.default_int_handler)
chance = random.Random(int(sys.argv[1]))
interrupts = unsaid = 0
with dfs.connect() as fs:
    for number in range(60):
        file, accepted, is_told = fs.open("/interrupted", "wb"), 0, False
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0002, 0.03))
            try:
                for _ in range(6):
                    file.write(bytes(1 << 20))
                    accepted += 1 << 20
                file.flush()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            interrupts += 1
        try:
            file.close()
        except Exception:
            is_told = True
        unsaid += not is_told and fs.stat("/interrupted").size < accepted
print(interrupts, unsaid)
"""


def test_after_an_interrupt_close_waits_for_all_that_was_taken(cluster: RealCluster) -> None:
    done = run_program(cluster, _INTERRUPTED, "1")
    assert done.returncode == 0, done.stderr
    interrupts, unsaid = map(int, done.stdout.split())
    assert interrupts > 5 and not unsaid


_INTERRUPTED_WHEN_CONNECTING = """
import dfs, signal, threading, time

connect = dfs.connect  # loads the client: when that is interrupted, Python's asyncio cannot be loaded again
signal.signal(signal.SIGALRM, signal.default_int_handler)
for _ in range(3):
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        connect("127.0.0.1:1")
    except KeyboardInterrupt:
        continue
deadline = time.monotonic() + 10
while threading.active_count() > 1:
    assert time.monotonic() < deadline, threading.enumerate()
    time.sleep(0.01)
print("ok")
"""


def test_after_an_interrupt_nothing_goes_on_connecting(cluster: RealCluster) -> None:
    done = run_program(cluster, _INTERRUPTED_WHEN_CONNECTING)
    assert (done.stdout, done.stderr) == ("ok\n", "")


_INTERRUPTED_AND_USED_ON = """
import dfs, signal, sys, trio
from dfs.client.filewriter import FileWriter
from dfs.client.reader import Reader

def late(owner, method):
    passed, is_first = getattr(owner, method), True

    async def wait(*args, **options):
        global is_waiting
        nonlocal is_first
        was_first, is_first = is_first, False
        if was_first:
            is_waiting = True
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            try:
                await trio.sleep(1)
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(0.1)
                is_waiting = False
        return await passed(*args, **options)

    setattr(owner, method, wait)

def interrupted(work, *args):
    try:
        work(*args)
    except KeyboardInterrupt:
        return
    sys.exit("nothing has interrupted it")

signal.signal(signal.SIGALRM, signal.default_int_handler)
piece = 1 << 20
with dfs.connect() as fs:
    with fs.open("/used-on", "wb") as file:
        file.write(b"a" * piece)
        file.write(b"b" * piece)
        late(FileWriter, "commit")
        interrupted(file.flush)
        file.write(b"c" * piece)
        file.write(b"d" * 100)
    late(Reader, "_fetch")
    with fs.open("/used-on", "rb") as file:
        interrupted(file.read, 10)
        assert not is_waiting, "with memory of the file's buffer"
        file.seek(piece)
        assert file.read(10) == b"b" * 10
        file.seek(0)
        assert file.read() == b"a" * piece + b"b" * piece + b"c" * piece + b"d" * 100
print("ok")
"""


def test_after_an_interrupt_a_file_is_read_and_written_on(cluster: RealCluster) -> None:
    done = run_program(cluster, _INTERRUPTED_AND_USED_ON)
    assert (done.stdout, done.stderr) == ("ok\n", "")


_LEFT_OPEN = """
import dfs, sys

fs = dfs.connect()
file = fs.open("/left", sys.argv[1])
file.write("x" * int(sys.argv[2]) if sys.argv[1] == "w" else b"x" * int(sys.argv[2]))
if sys.argv[3] == "raises":
    raise RuntimeError("as programs do")
if sys.argv[3] == "forgets":
    del fs
"""


@pytest.mark.parametrize("end", ["ends", "raises", "forgets"])
@pytest.mark.parametrize(("mode", "size"), [("w", 1000), ("wb", 1000), ("wb", 3_000_000)])
def test_what_a_program_leaves_open_is_written_when_it_ends(
    cluster: RealCluster, mode: str, size: int, end: str
) -> None:
    done = run_program(cluster, _LEFT_OPEN, mode, str(size), end)
    assert done.returncode == (end == "raises"), done.stderr
    assert end == "raises" or not done.stderr
    with connected(cluster) as fs:
        assert fs.stat("/left").size == size
        fs.remove("/left")


def test_a_connection_closes_what_was_left_open(cluster: RealCluster) -> None:
    with connected(cluster) as fs:
        file, text = fs.open("/open", "wb"), fs.open("/text", "w")
        file.write(bytes(5 * MIB))
        text.write("results")
    assert file.closed and text.closed
    with connected(cluster) as fs:
        assert (fs.stat("/open").size, fs.read_bytes("/text")) == (5 * MIB, b"results")


def test_a_connection_says_when_what_was_left_open_could_not_be_written(
    cluster: RealCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_: Any, **options: Any) -> None:
        raise errors.NoSpace("it is full")

    with pytest.raises(OSError, match="it is full"), connected(cluster) as fs:
        kept = fs.open("/kept", "w"), fs.open("/kept too", "w")
        for file in kept:
            file.write("results")
        monkeypatch.setattr(FileWriter, "commit", refused)
    with pytest.raises(ValueError, match="closed"):
        fs.stat("/")
