"""Several mounts are one file system: whatever many processes do on them at once, there is an order that explains it.

What is done to names, to a file's bytes and to its mode is looked at separately: a history is linearizable if its
objects' histories are (Herlihy and Wing, theorem 1). A file's bytes are a regular register, not an atomic one: the
kernel puts what is being written into its page cache before it asks the mount, so processes of that mount may read it a
moment before those of others can, until the write returns.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from dfs import errors
from tests.fuse.conftest import PATIENCE_S, Cluster, Mount
from tests.fuse.hammer import REGISTER
from tests.integration.real import wait_until
from tests.simulation import naming
from tests.simulation.linearizable import Operation, explain

pytestmark = pytest.mark.fuse

KERNEL: Final = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
ROUNDS: Final = 6
PROCESSES_OF_A_MOUNT: Final = 2
OPERATIONS: Final = 40

_CODES: Final = {errors.NotFound.code: "not-found", errors.Exists.code: "exists"}


def _named(step: naming.Step) -> naming.Step:
    """With results as `hammer` gives them."""

    def told(state: Any) -> tuple[Any, Any]:
        result, after = step(state)
        if isinstance(result, bytes):
            result = result.decode()
        if isinstance(result, tuple):
            result = tuple(name.decode() for name in result)
        return _CODES.get(result, None if result == "done" else result), after

    return told


def _set(value: int) -> naming.Step:
    return lambda _state: (None, value)


def _get() -> naming.Step:
    return lambda state: (state, state)


def _publish(name: bytes, target: bytes) -> naming.Step:
    return lambda state: ("done", frozenset(entry for entry in state if entry[0] != name) | {(name, target)})


_NAMING: Final[dict[str, Callable[..., naming.Step]]] = {
    "symlink": naming.symlink,
    "unlink": naming.unlink,
    "publish": _publish,
    "take": naming.unlink,
    "readlink": naming.readlink,
    "listdir": naming.listdir,
}
_OBJECTS: Final = (frozenset(_NAMING), frozenset({"chmod", "mode"}))
_INITIAL: Final = (naming.EMPTY, 0o600)


def _step(verb: str, args: Sequence[Any]) -> naming.Step:
    if verb in _NAMING:
        return _named(_NAMING[verb](*(str(arg).encode() for arg in args)))
    return _set(args[0]) if args else _get()


def _history(done: Sequence[Any], verbs: frozenset[str]) -> Iterator[Operation]:
    for who, verb, args, called, returned, result in done:
        if verb in verbs:
            operation = Operation(f"{who}: {verb} {args}", called, _step(verb, args))
            operation.returned = returned
            operation.result = tuple(result) if isinstance(result, list) else result
            yield operation


def hammer(directories: Sequence[Path], seed: int) -> list[Any]:
    """What processes did, one in each directory, all at once; each [who, verb, args, called, returned, result]."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.fuse.hammer", directory, str(seed * 100 + number), str(OPERATIONS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for number, directory in enumerate(directories)
    ]
    try:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
            process.stdin.flush()
        outputs = [process.communicate(timeout=PATIENCE_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [
        [f"process {number} on {directory.parent.parent.name}", *operation]
        for number, (directory, output) in enumerate(zip(directories, outputs, strict=True))
        for operation in json.loads(output)
    ]


def _prepare(directory: Path) -> None:
    directory.mkdir()
    register = directory / REGISTER
    register.write_bytes(bytes(8))
    register.chmod(0o600)


def _check(done: Sequence[Any]) -> None:
    _check_register(done)
    for verbs, initial in zip(_OBJECTS, _INITIAL, strict=True):
        history = list(_history(done, verbs))
        if explain(history, initial) is None:
            told = "\n".join(map(str, _inexplicable(history, initial)))
            pytest.fail(f"no order explains this, of which the last is too much:\n{told}")


def _check_register(done: Sequence[Any]) -> None:
    """Each read gives what was written last before it, or is being written. Each value is written once."""
    written = {0: (-math.inf, -math.inf)}
    written |= {args[0]: (called, returned) for _, verb, args, called, returned, _ in done if verb == "write"}
    for who, verb, _, called, returned, value in done:
        if verb != "read":
            continue
        assert value in written, f"{who} read {value} at {called}, which nobody wrote"
        began, ended = written[value]
        assert began < returned, f"{who} read {value} at {called} before it was written"
        for later, (after, until) in written.items():
            assert not ended < after <= until < called, f"{who} read {value} at {called}, {later} came after it"


def _inexplicable(history: Sequence[Operation], initial: Any) -> list[Operation]:
    """The shortest beginning that has no order, by the moments of return."""
    ordered = sorted(history, key=lambda operation: operation.returned)
    return next(
        ordered[:count] for count in range(1, len(ordered) + 1) if explain(_until(ordered, count), initial) is None
    )


def _until(ordered: Sequence[Operation], count: int) -> list[Operation]:
    """What had returned, and what had been called by then, with its outcome open."""
    last = ordered[count - 1].returned
    under_way = []
    for operation in ordered[count:]:
        if operation.called < last:
            open_one = Operation(operation.name, operation.called, operation.apply)
            under_way.append(open_one)
    return [*ordered[:count], *under_way]


@pytest.mark.parametrize("number", range(ROUNDS))
def test_what_many_processes_do_on_three_mounts_has_an_order(
    here: Path, there: Path, mount: Mount, number: int
) -> None:
    third = mount() / here.name
    _prepare(here / "shared")
    _check(hammer([each / "shared" for each in (here, there, third) * PROCESSES_OF_A_MOUNT], number))


# --- what is in a mount's memory only -------------------------------------------------------------------


def test_what_was_written_is_seen_before_it_is_closed(here: Path, there: Path) -> None:
    with (here / "file").open("wb", buffering=0) as file:
        for number in range(20):
            file.write(b"%04d" % number)
            assert (there / "file").stat().st_size == 4 * (number + 1)
            assert (there / "file").read_bytes()[-4:] == b"%04d" % number


def test_what_was_closed_a_moment_ago_is_seen_in_a_listing(here: Path, there: Path) -> None:
    for number in range(50):
        (here / f"{number}").write_bytes(bytes(number))
    assert {entry.name: entry.stat().st_size for entry in os.scandir(there)} == {f"{size}": size for size in range(50)}


def test_a_file_is_removed_while_another_mount_writes_to_it(here: Path, there: Path) -> None:
    with (here / "file").open("w+b", buffering=0) as file:
        file.write(b"one")
        (there / "file").unlink()
        file.write(b"two")
        os.fsync(file.fileno())
        assert os.pread(file.fileno(), 10, 0) == b"onetwo"
        assert os.fstat(file.fileno()).st_nlink == 0
    assert os.listdir(here) == os.listdir(there) == []


def test_two_mounts_write_one_file_in_turn(here: Path, there: Path) -> None:
    (here / "file").write_bytes(bytes(100))
    with (here / "file").open("r+b", buffering=0) as one, (there / "file").open("r+b", buffering=0) as other:
        for number in range(50):
            writer, reader = (one, other) if number % 2 else (other, one)
            os.pwrite(writer.fileno(), bytes([number + 1]), number)
            assert os.pread(reader.fileno(), 100, 0) == bytes(range(1, number + 2)).ljust(100, b"\0")


def test_a_file_that_is_cut_while_another_mount_appends_has_whole_records(here: Path, there: Path) -> None:
    fd = os.open(here / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        for number in range(30):
            os.write(fd, b"%07d\n" % number)
            if number % 10 == 4:
                os.truncate(there / "log", 8)
    finally:
        os.close(fd)
    records = (there / "log").read_bytes().split()
    assert records == [b"%07d" % number for number in (0, *range(25, 30))]


def test_a_map_shows_what_another_mount_has_synced(here: Path, there: Path) -> None:
    (here / "file").write_bytes(bytes(8192))
    with (here / "file").open("r+b") as one, (there / "file").open("r+b") as other:
        with mmap.mmap(one.fileno(), 8192) as ours, mmap.mmap(other.fileno(), 8192) as theirs:
            assert theirs[5000] == ours[5000] == 0
            for value in (1, 2, 3):
                ours[5000] = value
                ours.flush()
                assert theirs[5000] == value
                theirs[0] = value
                theirs.flush()
                assert ours[0] == value


def test_what_is_stored_in_a_map_is_written_before_another_mount_changes_its_page(here: Path, there: Path) -> None:
    """The kernel writes whole pages: one that is written after the other mount's change undoes it."""
    for number in range(1, 4):
        path = here / f"{number}"
        path.write_bytes(bytes(4096))
        assert (there / path.name).read_bytes() == bytes(4096)
        with path.open("r+b") as ours, (there / path.name).open("r+b", buffering=0) as theirs:
            with mmap.mmap(ours.fileno(), 4096) as page:
                assert page[0] == 0
                page[0] = number
                os.pwrite(theirs.fileno(), bytes([number]), 100)
                page.flush()
        content = (there / path.name).read_bytes()
        assert (content[0], content[100]) == (number, number)


def test_neither_a_map_nor_who_writes_beside_it_undoes_what_the_other_has_done(here: Path, there: Path) -> None:
    """Each of both commits before it returns, has the page locked meanwhile, and makes the other drop it."""
    (here / "file").write_bytes(bytes(4096))
    chance = random.Random(1)
    written, undone, is_over = 0, [], threading.Event()

    def write() -> None:
        nonlocal written
        with (there / "file").open("r+b", buffering=0) as file:
            while not is_over.wait(0.01 * chance.random()):
                written += 1
                os.pwrite(file.fileno(), written.to_bytes(8, "little"), 100)
                is_over.wait(0.02 * chance.random())
                found = int.from_bytes(os.pread(file.fileno(), 8, 100), "little")
                if found != written:
                    undone.append((written, found))

    writer = threading.Thread(target=write)
    with (here / "file").open("r+b") as file, mmap.mmap(file.fileno(), 4096) as page:
        writer.start()
        try:
            for number in range(1, 201):
                page[0:8] = number.to_bytes(8, "little")
                if number % 2:
                    page.flush()
                assert int.from_bytes(page[0:8], "little") == number
                is_over.wait(0.02 * chance.random())
        finally:
            is_over.set()
            writer.join()
        page.flush()
    assert written and not undone
    content = (there / "file").read_bytes()
    assert [int.from_bytes(content[start : start + 8], "little") for start in (0, 100)] == [200, written]


def test_a_map_is_not_left_behind_by_who_writes_all_the_time(here: Path, there: Path) -> None:
    """What is read while it is being changed is told without a lease, and nobody recalls it."""
    (here / "file").write_bytes(bytes(4096))
    chance = random.Random(1)
    written = 0
    is_over = threading.Event()

    def write() -> None:
        nonlocal written
        with (there / "file").open("r+b", buffering=0) as file:
            while not is_over.wait(0.03 * chance.random()):
                os.pwrite(file.fileno(), (written + 1).to_bytes(8, "little"), 100)
                written += 1

    writer = threading.Thread(target=write)
    with (here / "file").open("r+b") as file, mmap.mmap(file.fileno(), 4096) as page:
        writer.start()
        try:
            seen = [page[100:108] for _ in range(150) if not is_over.wait(0.01)]
        finally:
            is_over.set()
            writer.join()
        assert len(set(seen)) > 1
        wait_until(lambda: int.from_bytes(page[100:108], "little") == written)


def test_whoever_looks_at_what_another_mount_changes_all_the_time_has_an_answer_and_his_turn(
    here: Path, there: Path
) -> None:
    """One mount opens files, appends to them and closes them; none of them is ever left alone."""
    names = [f"log-{number}" for number in range(8)]
    stop = threading.Event()
    limit = threading.Timer(PATIENCE_S / 2, stop.set)  # then it comes to an end all the same, and the test fails

    def append(name: str) -> None:
        while not stop.is_set():
            with (there / name).open("ab", buffering=0) as file:
                file.write(b"x")

    for name in names:
        (there / name).touch()
    writers = [threading.Thread(target=append, args=[name]) for name in names]
    for thread in (*writers, limit):
        thread.start()
    try:
        for number in range(3):
            found = {entry.name: entry.stat().st_size for entry in os.scandir(here)}
            assert sorted(found) == names
            for name in names:
                path = here / name
                assert len(path.read_bytes()) >= found[name]
                path.chmod(0o600 + number)
                os.setxattr(path, "user.number", b"%d" % number)
                os.truncate(path, 0)
        assert not stop.is_set(), "they were waited for"
    finally:
        stop.set()
        limit.cancel()
        for thread in writers:
            thread.join()
    for name in names:
        assert (there / name).stat().st_mode & 0o777 == 0o602


# --- races that have names ------------------------------------------------------------------------------


def test_a_name_that_was_missing_is_seen_as_soon_as_it_is_made(here: Path, there: Path) -> None:
    for number in range(30):
        name = f"{number}"
        assert not (there / name).exists()  # which the kernel remembers
        (here / name).touch()
        assert (there / name).exists()


def test_a_tree_that_mounts_have_listed_is_gone_for_them_when_it_is_removed(
    here: Path, there: Path, cluster: Cluster
) -> None:
    """What a batch of commands touches is recalled at once: more names than a kernel is notified of in one piece."""
    names = [f"{number:04}" for number in range(600)]
    for name in names:
        (here / name).touch()
    for mount in (here, there):
        subprocess.run(["ls", "-l", mount], check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE_S)
    cluster.dfs("rm", "-r", f"/{here.name}")
    for mount in (here, there):
        assert not mount.exists()
        assert not [name for name in names if (mount / name).exists()]


@pytest.mark.skipif(KERNEL < (6, 2), reason="Linux 6.2 and later can look a name up anew and keep it")
def test_where_a_program_works_and_what_is_mounted_stay_when_another_mount_looks_there(here: Path, there: Path) -> None:
    (there / "w" / "d").mkdir(parents=True)
    (there / "w" / "below").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", there / "w" / "below"], check=False).returncode:
        pytest.skip("no tmpfs may be mounted here")
    program = "import os, sys; sys.stdin.readline(); print(os.getcwd())"
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=there / "w" / "d", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        os.listdir(here / "w")
        (here / "w" / "d").chmod(0o700)
        (here / "w" / "other").touch()
        assert process.communicate("\n")[0] == f"{there / 'w' / 'd'}\n"
    assert sorted(os.listdir(there / "w")) == ["below", "d", "other"]
    assert os.path.ismount(there / "w" / "below")
    subprocess.run(["umount", there / "w" / "below"], check=True)
    (here / "w" / "d").rmdir()
    assert not (there / "w" / "d").exists()


def test_a_rename_across_directories_that_the_other_mount_knows(here: Path, there: Path) -> None:
    for name in ("a", "b"):
        (here / name).mkdir()
    (here / "a" / "file").write_bytes(b"x")
    for number in range(20):
        source, target = ("a", "b") if number % 2 == 0 else ("b", "a")
        assert os.listdir(there / source) == ["file"]
        assert os.listdir(there / target) == []
        assert not (there / target / "file").exists()
        (here / source / "file").rename(here / target / "file")
        assert (there / target / "file").read_bytes() == b"x"
        assert not (there / source / "file").exists()
        assert os.listdir(there / source) == []


def test_a_listing_during_renames_has_each_file_once(here: Path, there: Path) -> None:
    """One that fits in a page is of one moment."""
    for number in range(100):
        (here / f"{number}").touch()
    program = "import os,sys\nfor n in range(100): os.rename(str(n), f'new-{n}')"
    renamer = subprocess.Popen([sys.executable, "-c", program], cwd=here)
    try:
        while renamer.poll() is None:
            numbers = sorted(int(name.removeprefix("new-")) for name in os.listdir(there))
            assert numbers == list(range(100))
    finally:
        renamer.kill()
        renamer.wait()
    assert sorted(os.listdir(there)) == sorted(f"new-{number}" for number in range(100))


def test_what_is_remembered_follows_every_kind_of_change(here: Path, there: Path) -> None:
    path = there / "file"
    (here / "file").write_bytes(b"12345")
    changes: list[tuple[Callable[[], object], Callable[[], object], object]] = [
        (lambda: (here / "file").chmod(0o640), lambda: path.stat().st_mode & 0o777, 0o640),
        (lambda: os.utime(here / "file", ns=(1, 2)), lambda: path.stat().st_mtime_ns, 2),
        (lambda: os.setxattr(here / "file", "user.k", b"v"), lambda: os.getxattr(path, "user.k"), b"v"),
        (lambda: os.removexattr(here / "file", "user.k"), lambda: os.listxattr(path), []),
        (lambda: os.truncate(here / "file", 3), lambda: path.read_bytes(), b"123"),
        (lambda: os.link(here / "file", here / "other"), lambda: path.stat().st_nlink, 2),
        (lambda: os.unlink(here / "other"), lambda: path.stat().st_nlink, 1),
        (lambda: (here / "d").mkdir(), lambda: there.stat().st_nlink, 3),
    ]
    for change, look, expected in changes:
        look_before = None
        with contextlib.suppress(OSError):
            look_before = look()
        change()
        assert look() == expected != look_before


def test_two_mounts_cut_a_file_that_both_have_open(here: Path, there: Path) -> None:
    (here / "file").write_bytes(b"x" * 100)
    with (here / "file").open("r+b", buffering=0) as one, (there / "file").open("r+b", buffering=0) as other:
        for number in range(10):
            cutters = [threading.Thread(target=os.ftruncate, args=(file.fileno(), number)) for file in (one, other)]
            for cutter in cutters:
                cutter.start()
            for cutter in cutters:
                cutter.join()
            assert os.fstat(one.fileno()).st_size == os.fstat(other.fileno()).st_size == number


def test_two_mounts_append_to_a_file_that_both_make(here: Path, there: Path) -> None:
    program = "import os,sys\nfor n in range(20): os.system(f'echo {sys.argv[1]}-{n} >> log-{n}')"
    writers = [
        subprocess.Popen([sys.executable, "-c", program, name], cwd=where)
        for name, where in (("one", here), ("other", there))
    ]
    for writer in writers:
        assert writer.wait(PATIENCE_S) == 0
    for number in range(20):
        found = sorted((here / f"log-{number}").read_text().split())
        assert found == [f"one-{number}", f"other-{number}"]


def test_a_stream_that_was_closed_is_committed_soon(here: Path, cluster: Cluster) -> None:
    """All of it had left the mount's memory before it was closed."""
    (here / "large").write_bytes(bytes(4 << 20))
    os.utime(here / "large", ns=(5, 7))
    deadline = time.monotonic() + PATIENCE_S
    while json.loads(os.getxattr(here, "dfs.statistics"))["open_files"]["open"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert (here / "large").stat().st_mtime_ns == 7
    assert json.loads(cluster.dfs("stat", "--json", f"/{here.name}/large").stdout)[0]["mtime_ns"] == 7
