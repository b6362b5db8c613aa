"""Two mounts of one directory: what returned on one is seen by the next call on the other."""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fuse.conftest import PATIENCE_S
from tests.fuse.test_posix import NOBODY, as_nobody, opened

pytestmark = pytest.mark.fuse


_MAKE_AND_REMOVE = """
import contextlib, os, sys

while True:
    with contextlib.suppress(FileExistsError, FileNotFoundError):
        os.close(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        os.unlink(sys.argv[1])
"""
CAPABILITIES = struct.pack("<IIIII", 0x02000000, 1 << 10, 0, 0, 0)
"""Of a program: <linux/capability.h>, revision 2."""


# --- times, and promises of open(2) -----------------------------------------------------------------------


@pytest.mark.parametrize("mtime_ns", [0, 1, -5_000_000_000, 1_500_000_000_000_000_000, 2_000_000_000_000_000_000])
def test_a_time_that_is_set_while_bytes_are_on_their_way_stays_and_changes_no_other(
    here: Path, there: Path, mtime_ns: int
) -> None:
    with opened(here / "file", os.O_RDWR | os.O_CREAT) as fd:
        os.write(fd, b"x" * 100_000)
        os.utime(fd, ns=(mtime_ns, mtime_ns))
    for path in (here / "file", there / "file", here / "file"):
        assert path.stat().st_mtime_ns == mtime_ns
        assert abs(path.stat().st_ctime - time.time()) < PATIENCE_S
    with opened(here / "file", os.O_RDWR) as fd:
        os.fsync(fd)
    assert (there / "file").stat().st_mtime_ns == mtime_ns


@pytest.mark.parametrize(("seconds", "kept_ns"), [(1 << 34, 2**63 - 1), (-(1 << 34), -(2**63))])
def test_a_time_beyond_what_can_be_kept_is_the_nearest_one_and_costs_no_other_change(
    here: Path, there: Path, seconds: int, kept_ns: int
) -> None:
    with opened(here / "file", os.O_RDWR | os.O_CREAT, 0o600) as fd:
        os.write(fd, b"data")
        os.utime(fd, (seconds, seconds))
        os.fchmod(fd, 0o644)
        os.fsync(fd)
    for path in (here / "file", there / "file"):
        assert path.stat().st_mtime_ns == kept_ns
        assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("sync", [os.O_SYNC, os.O_DSYNC])
@pytest.mark.parametrize("append", [0, os.O_APPEND])
def test_what_is_written_to_a_file_that_is_opened_so_is_on_the_disks(here: Path, sync: int, append: int) -> None:

    def dirty_bytes() -> int:
        return int(json.loads(os.getxattr(here, "dfs.statistics"))["open_files"]["dirty_bytes"])

    deadline = time.monotonic() + PATIENCE_S
    while dirty_bytes():  # of other tests' files
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with opened(here / "log", os.O_WRONLY | os.O_CREAT | sync | append) as fd:
        for number in range(3):
            os.write(fd, b"%d" % number * 4096)
            assert dirty_bytes() == 0
    assert (here / "log").stat().st_size == 3 * 4096


# --- names ----------------------------------------------------------------------------------------------


def test_created_and_removed(here: Path, there: Path) -> None:
    for round_number in range(20):
        name = f"file-{round_number % 3}"
        assert not (there / name).exists()  # the kernel must not remember that it is missing
        (here / name).touch()
        assert (there / name).exists()
        assert os.listdir(there) == [name]
        (there / name).unlink()
        assert not (here / name).exists()
        assert os.listdir(here) == []


def test_directories(here: Path, there: Path) -> None:
    (here / "d").mkdir(0o700)
    assert (there / "d").stat().st_mode & 0o777 == 0o700
    (there / "d" / "inner").mkdir()
    assert here.joinpath("d").stat().st_nlink == 3
    with pytest.raises(OSError) as caught:
        (here / "d").rmdir()
    assert caught.value.errno == errno.ENOTEMPTY
    (here / "d" / "inner").rmdir()
    (there / "d").rmdir()
    assert not (here / "d").exists()


def test_renamed(here: Path, there: Path) -> None:
    (here / "a").write_bytes(b"of a")
    (here / "b").write_bytes(b"of b, longer")
    assert (there / "a").read_bytes() == b"of a"
    (here / "b").rename(here / "a")
    assert (there / "a").read_bytes() == b"of b, longer"
    assert not (there / "b").exists()
    (there / "a").rename(there / "c")
    assert (here / "c").read_bytes() == b"of b, longer"
    assert os.listdir(here) == ["c"]


def test_directory_renamed_above_an_open_one(here: Path, there: Path) -> None:
    (here / "old" / "below").mkdir(parents=True)
    with opened(there / "old" / "below", os.O_RDONLY | os.O_DIRECTORY) as directory:
        (here / "old").rename(here / "new")
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=directory))
    assert (here / "new" / "below" / "file").exists()
    assert (there / "new" / "below" / "file").exists()


def test_links(here: Path, there: Path) -> None:
    (here / "file").write_bytes(b"x")
    os.link(there / "file", there / "hard")
    assert (here / "file").stat().st_nlink == 2
    os.symlink("file", here / "soft")
    assert os.readlink(there / "soft") == "file"
    (there / "soft").unlink()
    os.symlink("hard", there / "soft")
    assert os.readlink(here / "soft") == "hard"


def test_exclusive_creation_has_one_winner(here: Path, there: Path) -> None:
    for number in range(10):
        first, second = (here, there) if number % 2 else (there, here)
        os.close(os.open(first / f"{number}", os.O_CREAT | os.O_EXCL))
        with pytest.raises(FileExistsError):
            os.open(second / f"{number}", os.O_CREAT | os.O_EXCL)


# --- attributes -----------------------------------------------------------------------------------------


def test_a_file_that_is_made_on_two_mounts_at_the_same_time_is_opened_on_both(here: Path, there: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _MAKE_AND_REMOVE, there / "file"]) as maker:
        try:
            for _ in range(150):
                with opened(here / "file", os.O_RDWR | os.O_CREAT):
                    pass
                with suppress(FileNotFoundError):
                    (here / "file").unlink()
            assert maker.poll() is None
        finally:
            maker.kill()


def test_who_may_not_open_a_file_may_not_by_making_it_at_the_same_time_on_another_mount(
    here: Path, there: Path
) -> None:
    """The kernel checks nothing of a file that it takes for made by who opens it."""
    here.chmod(0o777)

    def open_it() -> None:
        for _ in range(150):
            with suppress(OSError), opened(here / "file", os.O_RDWR | os.O_CREAT, 0o666) as fd:
                assert os.fstat(fd).st_uid == NOBODY
                (here / "file").unlink()

    with subprocess.Popen([sys.executable, "-c", _MAKE_AND_REMOVE, there / "file"]) as maker:
        try:
            assert as_nobody(open_it) == 0
            assert maker.poll() is None
        finally:
            maker.kill()


def test_attributes(here: Path, there: Path) -> None:
    (here / "file").touch()
    (there / "file").stat()
    (here / "file").chmod(0o604)
    assert (there / "file").stat().st_mode & 0o7777 == 0o604
    os.chown(there / "file", 12, 34)
    assert ((here / "file").stat().st_uid, (here / "file").stat().st_gid) == (12, 34)
    os.utime(here / "file", ns=(1_000_000_001, 2_000_000_002))
    found = (there / "file").stat()
    assert (found.st_atime_ns, found.st_mtime_ns) == (1_000_000_001, 2_000_000_002)


def test_extended_attributes(here: Path, there: Path) -> None:
    (here / "file").touch()
    os.setxattr(here / "file", "user.a", b"1")
    assert os.getxattr(there / "file", "user.a") == b"1"
    os.setxattr(there / "file", "user.a", b"22")
    assert os.getxattr(here / "file", "user.a") == b"22"
    os.removexattr(here / "file", "user.a")
    assert os.listxattr(there / "file") == []


# --- contents -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_WRONLY | os.O_APPEND])
def test_writing_clears_capabilities_that_another_mount_has_set(here: Path, there: Path, flags: int) -> None:
    """And those that were set on this one, by whatever changes the bytes."""
    path = here / "program"
    with opened(path, flags | os.O_CREAT, 0o755) as fd:
        for change in (
            lambda: os.write(fd, b"x"),
            lambda: os.ftruncate(fd, 100),
            lambda: os.chown(path, 1, 1),
            lambda: os.fsync(fd) or os.write(fd, b"y"),
        ):
            for setter in (there, here):
                change()
                os.setxattr(setter / "program", "security.capability", CAPABILITIES)
                for reader in (here, there):
                    assert os.getxattr(reader / "program", "security.capability") == CAPABILITIES
                    assert "security.capability" in os.listxattr(reader / "program")
                change()
                for reader in (there, here):
                    with pytest.raises(OSError) as caught:
                        os.getxattr(reader / "program", "security.capability")
                    assert caught.value.errno == errno.ENODATA


def test_capabilities_that_are_set_after_a_write_stay(here: Path, there: Path) -> None:
    """Though its bytes reach the NameNode later."""
    (here / "program").write_bytes(b"x" * 10_000)
    os.setxattr(here / "program", "security.capability", CAPABILITIES)
    os.sync()
    for reader in (here, there):
        assert os.getxattr(reader / "program", "security.capability") == CAPABILITIES


def test_closed_is_seen(here: Path, there: Path) -> None:
    for size in (1, 70_000, 5, 2_000_000, 0, 4096):
        data = os.urandom(size)
        (here / "file").write_bytes(data)
        assert (there / "file").stat().st_size == size
        assert (there / "file").read_bytes() == data
        here, there = there, here


def test_synced_is_seen_before_it_is_closed(here: Path, there: Path) -> None:
    with opened(here / "file", os.O_CREAT | os.O_RDWR) as writer:
        for number in range(5):
            os.write(writer, b"%d" % number * 1000)
            os.fsync(writer)
            assert (there / "file").stat().st_size == 1000 * (number + 1)
            assert (there / "file").read_bytes() == os.pread(writer, 10_000, 0)


def test_truncated_under_a_reader(here: Path, there: Path) -> None:
    (here / "file").write_bytes(b"a" * 100_000)
    with opened(there / "file", os.O_RDONLY) as reader:
        assert os.pread(reader, 100_000, 0) == b"a" * 100_000
        os.truncate(here / "file", 10)
        assert os.fstat(reader).st_size == 10
        assert os.pread(reader, 100_000, 0) == b"a" * 10
        os.truncate(here / "file", 20)
        assert os.pread(reader, 100_000, 0) == b"a" * 10 + bytes(10)


def test_rewritten_in_place_under_a_reader(here: Path, there: Path) -> None:
    """Same size, other bytes: only the time of modification tells the reader's kernel to forget its pages."""
    (here / "file").write_bytes(b"0" * 300_000)
    with opened(here / "file", os.O_RDWR) as writer, opened(there / "file", os.O_RDONLY) as reader:
        for number in range(10):
            os.pwrite(writer, b"%d" % number * 100_000, 100_000)
            os.fsync(writer)
            os.fstat(reader)
            expected = b"0" * 100_000 + b"%d" % number * 100_000 + b"0" * 100_000
            assert os.pread(reader, 300_000, 0) == expected


def test_both_write_different_parts(here: Path, there: Path) -> None:
    (here / "file").write_bytes(bytes(200_000))
    with opened(here / "file", os.O_RDWR) as one, opened(there / "file", os.O_RDWR) as other:
        for index in range(0, 200_000, 20_000):
            os.pwrite(one, b"1" * 10_000, index)
            os.pwrite(other, b"2" * 10_000, index + 10_000)
        os.fsync(one)
        os.fsync(other)
        expected = (b"1" * 10_000 + b"2" * 10_000) * 10
        os.fstat(one), os.fstat(other)
        assert os.pread(one, 200_000, 0) == expected
        assert os.pread(other, 200_000, 0) == expected


def test_truncated_under_a_writer(here: Path, there: Path) -> None:
    with opened(here / "file", os.O_CREAT | os.O_RDWR) as writer:
        os.write(writer, b"a" * 50_000)
        os.fsync(writer)
        os.truncate(there / "file", 100)
        os.write(writer, b"b" * 100)
    assert (there / "file").read_bytes() == b"a" * 100 + bytes(49_900) + b"b" * 100


def test_removed_file_stays_for_who_has_it_open(here: Path, there: Path) -> None:
    data = os.urandom(500_000)
    (here / "file").write_bytes(data)
    with opened(there / "file", os.O_RDWR) as held:
        (here / "file").unlink()
        assert not (there / "file").exists()
        assert os.fstat(held).st_nlink == 0
        assert os.pread(held, 500_000, 0) == data
        os.pwrite(held, b"still mine", 0)
        os.fsync(held)
        assert os.pread(held, 10, 0) == b"still mine"
        (here / "file").write_bytes(b"another one")
        assert os.pread(held, 10, 0) == b"still mine"
    assert (there / "file").read_bytes() == b"another one"


def test_replaced_file_stays_for_who_has_it_open(here: Path, there: Path) -> None:
    """How editors save: readers of the old contents are not disturbed, the next open sees the new."""
    (here / "file").write_bytes(b"old")
    with opened(there / "file", os.O_RDONLY) as held:
        (here / "temporary").write_bytes(b"new!")
        (here / "temporary").rename(here / "file")
        assert os.pread(held, 100, 0) == b"old"
        assert (there / "file").read_bytes() == b"new!"


# --- appending ------------------------------------------------------------------------------------------

APPENDER = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
for number in range(int(sys.argv[3])):
    line = f"{sys.argv[2]} {number} ".encode().ljust(99 + number % 50, b"x") + b"\\n"
    assert os.write(fd, line) == len(line)
os.close(fd)
"""


def test_appenders_never_overwrite_each_other(here: Path, there: Path) -> None:
    """Two processes on each of two mounts: every line is there once, whole, and each writer's in their order."""
    lines = 40
    (here / "log").touch()
    writers = [
        subprocess.Popen([sys.executable, "-c", APPENDER, str(place / "log"), str(who), str(lines)])
        for who, place in enumerate((here, there, here, there))
    ]
    assert [writer.wait(PATIENCE_S) for writer in writers] == [0] * 4
    content = (there / "log").read_bytes()
    assert content == (here / "log").read_bytes()
    found = [tuple(map(int, line.split()[:2])) for line in content.splitlines()]
    assert len(found) == 4 * lines
    assert all([n for who, n in found if who == writer] == list(range(lines)) for writer in range(4))
    assert all(len(line) == 99 + int(line.split()[1]) % 50 for line in content.splitlines())
