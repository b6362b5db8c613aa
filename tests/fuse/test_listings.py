"""Listings that the kernel keeps: as fresh as those that the mount gives, and no question when they are fresh."""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dfs import limits
from tests.fuse.conftest import PATIENCE_S, Cluster

pytestmark = pytest.mark.fuse

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.fdopendir.restype = _LIBC.readdir64.restype = ctypes.c_void_p
_LIBC.fdopendir.argtypes = [ctypes.c_int]
for _name in ("readdir64", "rewinddir", "closedir"):
    getattr(_LIBC, _name).argtypes = [ctypes.c_void_p]


class _Dirent(ctypes.Structure):
    """struct dirent64 of glibc."""

    _fields_ = (
        ("ino", ctypes.c_uint64),
        ("off", ctypes.c_int64),
        ("length", ctypes.c_uint16),
        ("type", ctypes.c_uint8),
        ("name", ctypes.c_char * 256),
    )


@contextmanager
def rewound(path: Path) -> Iterator[Callable[[], set[str]]]:
    """Lists a directory that stays open, from its beginning each time."""
    stream = _LIBC.fdopendir(os.open(path, os.O_RDONLY | os.O_DIRECTORY))

    def names() -> set[str]:
        _LIBC.rewinddir(stream)
        found = set()
        while entry := _LIBC.readdir64(stream):
            found.add(os.fsdecode(ctypes.cast(entry, ctypes.POINTER(_Dirent)).contents.name))
        return found - {".", ".."}

    try:
        yield names
    finally:
        _LIBC.closedir(stream)


def _listing_is_kept(path: Path) -> bool:
    """Whether the mount is asked for no entry when the directory is listed: entries would be hits of its cache."""

    def hits() -> int:
        return int(json.loads(os.getxattr(path, b"dfs.statistics"))["cache"]["hits"])

    before = hits()
    names = os.listdir(path)
    return hits() - before < len(names)


@pytest.mark.parametrize("count", [50, limits.PREFETCH_PAGE_ENTRIES + 50])
def test_a_listing_is_kept_from_one_opening_to_the_next(here: Path, there: Path, count: int) -> None:
    """Of the mount that made it, and of one that has it fetched page by page."""
    for number in range(count):
        (here / f"file-{number}").touch()
    time.sleep(1.1)  # names in a directory that changed a moment ago are soon looked up again
    for each in (here, there):
        os.listdir(each)
        assert _listing_is_kept(each)
        assert len(os.listdir(each)) == count
    (here / "another").touch()
    assert len(os.listdir(here)) == count + 1, "the kernel sees what this mount changes"


def test_programs_are_told_to_list_less_at_a_time_than_to_read(here: Path) -> None:
    (here / "file").touch()
    assert os.stat(here).st_blksize == limits.LISTED_BYTES < os.stat(here / "file").st_blksize == limits.IO_BYTES


def test_another_mount_changes_what_is_kept(here: Path, there: Path) -> None:
    """Though it puts back the time of modification, as archivers do."""
    for number in range(50):
        (here / f"file-{number}").touch()
    os.utime(here, ns=(10**18, 10**18))
    time.sleep(1.1)
    with rewound(there) as names:
        for number in range(8):
            for _ in range(2):
                assert set(os.listdir(there)) == names() == set(os.listdir(here))
            (here / f"file-{number}").rename(here / f"renamed-{number}")
            os.utime(here, ns=(10**18, 10**18))
            assert names() == set(os.listdir(here)), "who has the directory open"
            assert set(os.listdir(there)) == set(os.listdir(here)), "who opens it"
            (here / f"new-{number}").touch()
            os.utime(here, ns=(10**18, 10**18))
            assert f"new-{number}" in names()
            (here / f"new-{number}").unlink()
            os.utime(here, ns=(10**18, 10**18))
            assert f"new-{number}" not in os.listdir(there)


def test_a_change_in_the_midst_of_a_listing(here: Path, there: Path) -> None:
    """What was read of it before is not kept with what is read afterwards."""
    for number in range(3000):  # several answers
        (here / f"a-file-with-a-name-of-some-length-{number}").touch()
    os.sync()
    time.sleep(1.1)
    for number in range(5):
        with os.scandir(there) as entries:
            for _ in range(10 + 500 * number):
                next(entries)
            (here / f"a-file-with-a-name-of-some-length-{number}").unlink()
            (here / f"new-{number}").touch()
            os.utime(here, ns=(10**18, 10**18))
            found = [entry.name for entry in entries]
        assert len(found) == len(set(found))
        for _ in range(2):
            names = set(os.listdir(there))
            assert f"new-{number}" in names
            assert f"a-file-with-a-name-of-some-length-{number}" not in names
            assert len(names) == 3000


_CHANGES_MIN = 20
_LISTER = """
import os
import random
import sys
import time

path, seed, until = sys.argv[1], int(sys.argv[2]), time.monotonic() + 6
chance = random.Random(seed)
while time.monotonic() < until:
    with os.scandir(path) as entries:
        for entry in entries:
            if chance.random() < 0.01:
                time.sleep(chance.random() * 0.01)
"""


@pytest.mark.parametrize("change", ["rename", "create"])
def test_who_renames_or_makes_files_while_he_reads_their_directory_comes_to_an_end(here: Path, change: str) -> None:
    count = 1500  # more than one page
    for number in range(count):
        (here / f"{number}").touch()
    met = []
    with os.scandir(here) as entries:
        for entry in entries:
            met.append(entry.name)
            assert len(met) <= count
            if change == "rename":
                os.rename(entry, here / f"{entry.name}-")
            else:
                (here / f"{entry.name}-").touch()
    assert {name for name in met if name[-1] != "-"} == {f"{number}" for number in range(count)}
    assert len(os.listdir(here)) == (count if change == "rename" else 2 * count)


def test_many_list_while_two_mounts_change(here: Path, there: Path) -> None:
    """Who changed a name finds it so at once, on the other mount and there in a directory that was open, always."""
    chance = random.Random(20261127)
    for number in range(400):
        (here / f"a-file-with-a-long-enough-name-{number}").touch()
    names = {entry.name for entry in os.scandir(here)}
    listers = [
        subprocess.Popen([sys.executable, "-c", _LISTER, str(path), str(number)])
        for number, path in enumerate([here, there, there, there])
    ]
    try:
        with rewound(there) as there_again, rewound(here) as here_again:
            checks = {
                here: (lambda: set(os.listdir(there)), there_again),
                there: (lambda: set(os.listdir(here)), here_again),
            }
            until, changes = time.monotonic() + 6, 0
            while time.monotonic() < until or changes < _CHANGES_MIN:
                where = chance.choice([here, there])
                if chance.random() < 0.5:
                    name = f"new-{changes}"
                    (where / name).touch()
                    names.add(name)
                else:
                    name = chance.choice(sorted(names))
                    (where / name).unlink()
                    names.discard(name)
                os.utime(where, ns=(10**18, 10**18))
                changes += 1
                for look in checks[where]:
                    assert look() == names, f"after {changes} changes"
                if chance.random() < 0.1:
                    time.sleep(chance.random() * 0.1)
                if chance.random() < 0.02:
                    time.sleep(1.2)  # so that listings are kept
    finally:
        for lister in listers:
            assert lister.wait(PATIENCE_S) == 0


def test_a_mount_that_was_frozen_lists_what_there_is_now(cluster: Cluster, here: Path, there: Path) -> None:
    """Its session has ended meanwhile, and with it what it told the kernel."""
    (here / "before").touch()
    time.sleep(1.1)
    pid = cluster.mount_pids()[there.parent]
    with rewound(there) as names:
        assert names() == {"before"} == set(os.listdir(there))
        os.kill(pid, signal.SIGSTOP)
        try:
            (here / "after").touch()  # when the frozen mount has been given up
            os.utime(here, ns=(10**18, 10**18))
        finally:
            os.kill(pid, signal.SIGCONT)
        assert names() == {"before", "after"}
        assert set(os.listdir(there)) == {"before", "after"}


def test_where_a_symbolic_link_leads_is_kept_and_another_in_its_place_is_another(here: Path, there: Path) -> None:
    (here / "link").symlink_to("one")
    for _ in range(3):
        assert os.readlink(there / "link") == "one" == os.readlink(here / "link")
    (here / "new").symlink_to("another, and a longer one")
    (here / "new").rename(here / "link")
    assert os.readlink(there / "link") == "another, and a longer one" == os.readlink(here / "link")
    assert (there / "link").lstat().st_size == len("another, and a longer one")


def test_a_file_that_is_read_or_new_is_closed_without_a_request(cluster: Cluster, here: Path) -> None:
    """So a mount that does not answer keeps nobody from it."""
    path = here / "file"
    path.write_bytes(b"x" * 5000)
    pid = cluster.mount_pids()[here.parent]
    with path.open("rb", buffering=0) as file, (here / "new").open("xb", buffering=0) as new:
        file.read()
        new.write(b"y")
        os.kill(pid, signal.SIGSTOP)
        alarm = threading.Timer(PATIENCE_S, os.kill, (pid, signal.SIGCONT))
        alarm.start()
        try:
            began = time.monotonic()
            file.close()
            new.close()
            took_s = time.monotonic() - began
        finally:
            alarm.cancel()
            os.kill(pid, signal.SIGCONT)
    assert took_s < PATIENCE_S / 2
