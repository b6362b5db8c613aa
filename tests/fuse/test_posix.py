"""What POSIX and Linux promise of a file system, asked of a mount through plain system calls.

One mount, one area after another; `tests.fuse.test_two_mounts` asks what the others see.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import re
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dfs import limits
from tests.fuse.conftest import PATIENCE_S

pytestmark = pytest.mark.fuse

NOBODY = 65534
MISSING_ERRNO = 255
"""The status of a child that failed otherwise than with an OSError."""

ACL_ENTRIES = [1, 6, 0, 2, 7, 1000, 4, 4, 0, 16, 7, 0, 32, 0, 0]
"""As acl(5), the kernel's numbers: tag, permissions and id of owner, user 1000, group, mask and others."""

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def opened(path: Path, flags: int, mode: int = 0o666) -> Iterator[int]:
    """A file descriptor for as long as the block lasts."""
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def refused(number: int) -> Iterator[None]:
    """What is done in the block must end with this errno."""
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == number, f"{caught.value!r}, not {errno.errorcode[number]}"


def rename2(old: Path, new: Path, flags: int) -> None:
    """renameat2(2)."""
    if _libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags):
        raise OSError(ctypes.get_errno(), "renameat2")


def as_nobody(work: Callable[[], object]) -> int:
    """Do `work` as a user without privileges; its errno, or 0."""
    child = os.fork()
    if child == 0:
        status = MISSING_ERRNO
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            work()
            status = 0
        except OSError as error:
            status = error.errno or MISSING_ERRNO
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def times(path: Path) -> tuple[int, int]:
    """When the contents, and when anything of an inode was changed, in nanoseconds."""
    status = path.lstat()
    return status.st_mtime_ns, status.st_ctime_ns


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# --- reading and writing --------------------------------------------------------------------------------


def test_random_reads_and_writes(here: Path) -> None:
    """Any offset, any length, many overlaps, now and then a close or a truncate: always the bytes of a plain buffer."""
    chance = random.Random(1)
    model = bytearray()
    fd = os.open(here / "file", os.O_CREAT | os.O_RDWR)
    for _ in range(500):
        offset, length = chance.randrange(600_000), chance.choice([1, 511, 4096, 10_000, 150_000])
        match chance.randrange(12):
            case 0:
                os.close(fd)
                fd = os.open(here / "file", os.O_RDWR)
            case 1:
                os.ftruncate(fd, offset)
                model = model[:offset].ljust(offset, b"\0")
            case 2 | 3 | 4 | 5:
                assert os.pread(fd, length, offset) == model[offset : offset + length]
            case _:
                data = chance.randbytes(length)
                assert os.pwrite(fd, data, offset) == length
                model = model.ljust(offset, b"\0")
                model[offset : offset + length] = data
    os.close(fd)
    assert (here / "file").read_bytes() == model


def test_vectors(here: Path) -> None:
    with opened(here / "file", os.O_CREAT | os.O_RDWR) as fd:
        assert os.writev(fd, [b"abc", b"", b"defg"]) == 7
        parts = [bytearray(2), bytearray(10)]
        assert os.preadv(fd, parts, 1) == 6
        assert bytes(parts[0] + parts[1][:4]) == b"bcdefg"


def test_sparse_file(here: Path) -> None:
    with opened(here / "file", os.O_CREAT | os.O_RDWR) as fd:
        os.pwrite(fd, b"end", 50_000_000)
        os.pwrite(fd, b"start", 0)
        assert os.pread(fd, 10, 0) == b"start" + bytes(5)
        assert os.pread(fd, 100, 49_999_990) == bytes(10) + b"end"
        assert os.pread(fd, 1000, 25_000_000) == bytes(1000)
        status = os.fstat(fd)
    assert status.st_size == 50_000_003
    assert status.st_blocks * 512 < 100_000


def test_seeking_for_holes_finds_none(here: Path) -> None:
    """Holes are not told apart: all is data, and the only hole is at the end, as POSIX allows."""
    with opened(here / "file", os.O_CREAT | os.O_RDWR) as fd:
        os.pwrite(fd, b"x", 10_000_000)
        assert os.lseek(fd, 10, os.SEEK_DATA) == 10
        assert os.lseek(fd, 10, os.SEEK_HOLE) == 10_000_001
        with refused(errno.ENXIO):
            os.lseek(fd, 10_000_002, os.SEEK_DATA)


def test_truncate_both_ways(here: Path) -> None:
    path = here / "file"
    path.write_bytes(b"0123456789" * 1000)
    os.truncate(path, 5)
    assert path.read_bytes() == b"01234"
    os.truncate(path, 9)
    assert path.read_bytes() == b"01234" + bytes(4)
    with opened(path, os.O_RDWR) as fd:
        os.pwrite(fd, b"abc", 20)
        os.ftruncate(fd, 21)
        assert os.pread(fd, 100, 0) == b"01234" + bytes(15) + b"a"
    os.truncate(path, 0)
    assert path.read_bytes() == b""
    assert path.stat().st_blocks == 0


def test_blocks_follow_contents(here: Path) -> None:
    path = here / "file"
    path.write_bytes(os.urandom(1_000_000))
    assert 1_000_000 <= path.stat().st_blocks * 512 < 1_100_000
    os.truncate(path, 10_000_000)
    assert path.stat().st_blocks * 512 < 1_100_000


def test_open_flags(here: Path) -> None:
    path = here / "file"
    with refused(errno.ENOENT):
        os.open(path, os.O_RDWR)
    with opened(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY) as fd:
        os.write(fd, b"contents")
        with refused(errno.EBADF):
            os.read(fd, 1)
    with refused(errno.EEXIST):
        os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    with opened(path, os.O_CREAT | os.O_RDONLY) as fd:
        assert os.read(fd, 100) == b"contents"
        with refused(errno.EBADF):
            os.write(fd, b"x")
    with opened(path, os.O_TRUNC | os.O_RDWR) as fd:
        assert os.fstat(fd).st_size == 0
        os.write(fd, b"new")
    assert path.read_bytes() == b"new"
    with opened(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY):
        assert path.stat().st_size == 0
    os.symlink("file", here / "symlink")
    with refused(errno.ELOOP):
        os.open(here / "symlink", os.O_RDONLY | os.O_NOFOLLOW)
    with refused(errno.ENOTDIR):
        os.open(path, os.O_RDONLY | os.O_DIRECTORY)


def test_append(here: Path) -> None:
    path = here / "file"
    path.write_bytes(b"begin")
    with opened(path, os.O_RDWR | os.O_APPEND) as first, opened(path, os.O_WRONLY | os.O_APPEND) as second:
        os.write(first, b"-one")
        os.write(second, b"-two")
        os.lseek(first, 0, os.SEEK_SET)
        os.write(first, b"-three")
        assert os.lseek(first, 0, os.SEEK_CUR) == len(b"begin-one-two-three")
        assert os.pread(first, 100, 0) == b"begin-one-two-three"
    with opened(path, os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b"!" * 1_500_000)
    assert path.read_bytes() == b"begin-one-two-three" + b"!" * 1_500_000


def test_append_after_writes_of_another_descriptor(here: Path) -> None:
    with opened(here / "file", os.O_CREAT | os.O_WRONLY) as plain:
        with opened(here / "file", os.O_WRONLY | os.O_APPEND) as appending:
            os.pwrite(plain, b"a" * 1000, 0)
            os.write(appending, b"b" * 10)
            os.pwrite(plain, b"c" * 10, 1010)
            os.write(appending, b"d")
    assert (here / "file").read_bytes() == b"a" * 1000 + b"b" * 10 + b"c" * 10 + b"d"


def test_far_offset(here: Path) -> None:
    path = here / "file"
    with opened(path, os.O_CREAT | os.O_RDWR) as fd:
        os.pwrite(fd, b"far away", 2**62)
        assert os.fstat(fd).st_size == 2**62 + 8
        assert os.pread(fd, 100, 2**62 - 2) == bytes(2) + b"far away"
        os.ftruncate(fd, 2**63 - 1)
        assert os.pread(fd, 4, 2**63 - 5) == bytes(4)
    os.truncate(path, 3)
    assert path.read_bytes() == bytes(3)


def test_what_fstat_says_before_close_stays(here: Path) -> None:
    """Archivers compare: size and times of a file just written are the same before and after it is closed."""
    path = here / "file"
    for size in (1, 100_000, 6_000_000):
        with opened(path, os.O_CREAT | os.O_WRONLY) as fd:
            for start in range(0, size, 1_000_000):
                os.write(fd, b"x" * min(1_000_000, size - start))
            before = os.fstat(fd)
        after = path.stat()
        assert before.st_size == size
        assert before == after


def test_mapped_file(here: Path) -> None:
    """In a process of its own: a page fault that waits would stop all threads of this one."""
    code = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
shared = mmap.mmap(fd, 0)
private = mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
assert shared[4090:4100] == private[4090:4100] == b"x" * 10
private[0:7] = b"private"
shared[4000:4200] = b"s" * 200
shared.flush()
assert os.pread(fd, 202, 3999) == b"x" + b"s" * 200 + b"x"
assert os.pread(fd, 7, 0) == b"x" * 7
os.pwrite(fd, b"written", 9000)
assert shared[9000:9007] == b"written"
shared[20_000] = ord("e")
shared.close()
os.close(fd)
assert private[0:7] == b"private"
"""
    (here / "file").write_bytes(b"x" * 100_000)
    subprocess.run([sys.executable, "-c", code, here / "file"], check=True, timeout=PATIENCE_S)
    expected = bytearray(b"x" * 100_000)
    expected[4000:4200] = b"s" * 200
    expected[9000:9007] = b"written"
    expected[20_000] = ord("e")
    assert (here / "file").read_bytes() == expected


def test_fallocate_is_not_supported_and_posix_fallocate_works(here: Path) -> None:
    with opened(here / "file", os.O_CREAT | os.O_RDWR) as fd:
        try:
            os.posix_fallocate(fd, 0, 10_000)
        except OSError as error:
            assert error.errno == errno.EOPNOTSUPP
        else:
            assert os.fstat(fd).st_size == 10_000


def test_copying_within_the_kernel(here: Path) -> None:
    data = os.urandom(300_000)
    (here / "from").write_bytes(data)
    with opened(here / "from", os.O_RDONLY) as source, opened(here / "to", os.O_CREAT | os.O_WRONLY) as target:
        copied = 0
        while count := os.copy_file_range(source, target, 1_000_000):
            copied += count
    assert copied == 300_000
    assert (here / "to").read_bytes() == data


def test_statfs(here: Path) -> None:
    found = os.statvfs(here)
    assert found.f_namemax == 255
    assert 0 < found.f_bavail <= found.f_bfree <= found.f_blocks
    assert found.f_frsize * found.f_blocks > 1_000_000
    assert 0 < found.f_favail <= found.f_files


# --- names and links ------------------------------------------------------------------------------------


def test_names_of_any_bytes(here: Path) -> None:
    names = [bytes([value]) * 3 for value in range(1, 256) if value != ord("/")]
    names += [b" ", b"\n\n", b"-rf", "ünïcödé".encode(), b"\xff" * 255, b"n" * 255]
    top = os.fsencode(here)
    for name in names:
        os.close(os.open(top + b"/" + name, os.O_CREAT | os.O_EXCL))
    assert sorted(os.listdir(top)) == sorted(names)
    for name in names:
        os.unlink(top + b"/" + name)
    assert os.listdir(top) == []


def test_names_that_are_too_long(here: Path) -> None:
    long = here / ("n" * 256)
    (here / "file").touch()
    for call in (
        long.touch,
        long.mkdir,
        long.stat,
        lambda: os.symlink("x", long),
        lambda: os.link(here / "file", long),
        lambda: (here / "file").rename(long),
    ):
        with refused(errno.ENAMETOOLONG):
            call()
    with refused(errno.ENAMETOOLONG):
        os.stat(f"{here}/{'d/' * 2048}")


def test_tree_deeper_than_a_path_can_say(here: Path) -> None:
    """Each level is reached from the one above; all together they are longer than PATH_MAX."""
    at = os.open(here, os.O_RDONLY)
    levels = []
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=at)
        levels.append(at)
        at = os.open("d" * 250, os.O_RDONLY, dir_fd=at)
    os.close(os.open("file", os.O_CREAT, dir_fd=at))
    assert os.listdir(at) == ["file"]
    os.unlink("file", dir_fd=at)
    os.close(at)
    for above in reversed(levels):
        os.rmdir("d" * 250, dir_fd=above)
        os.close(above)
    assert os.listdir(here) == []


def test_hard_links(here: Path) -> None:
    (here / "a").write_bytes(b"shared")
    os.link(here / "a", here / "b")
    assert (here / "a").stat().st_ino == (here / "b").stat().st_ino
    assert (here / "b").stat().st_nlink == 2
    (here / "b").write_bytes(b"changed")
    assert (here / "a").read_bytes() == b"changed"
    with refused(errno.EEXIST):
        os.link(here / "a", here / "b")
    (here / "a").unlink()
    assert (here / "b").stat().st_nlink == 1
    (here / "d").mkdir()
    with refused(errno.EPERM):
        os.link(here / "d", here / "e")
    os.symlink("nowhere", here / "s")
    os.link(here / "s", here / "t", follow_symlinks=False)
    assert os.readlink(here / "t") == "nowhere"


def test_link_counts_of_directories(here: Path) -> None:
    assert here.stat().st_nlink == 2
    (here / "a").mkdir()
    (here / "b").mkdir()
    (here / "file").touch()
    assert here.stat().st_nlink == 4
    (here / "a").rename(here / "b" / "a")
    assert (here.stat().st_nlink, (here / "b").stat().st_nlink) == (3, 3)
    (here / "b" / "a").rmdir()
    assert (here / "b").stat().st_nlink == 2


def test_symlinks(here: Path) -> None:
    (here / "d").mkdir()
    (here / "d" / "file").write_bytes(b"x")
    targets = {"relative": "d/file", "absolute": str(here / "d"), "dangling": "no/such", "long": "x/" * 2047 + "y"}
    targets["bytes"] = os.fsdecode(b"\xff\xfe \n")
    for name, target in targets.items():
        os.symlink(target, here / name)
        assert os.readlink(here / name) == target
        assert (here / name).lstat().st_size == len(os.fsencode(target))
        assert stat.S_ISLNK((here / name).lstat().st_mode)
    assert (here / "relative").read_bytes() == b"x"
    assert (here / "absolute" / "file").read_bytes() == b"x"
    with refused(errno.ENOENT):
        (here / "dangling").stat()
    with refused(errno.ENAMETOOLONG):
        os.symlink("x" * 4096, here / "longer")
    with refused(errno.ENOENT):
        os.symlink("", here / "empty")
    os.chown(here / "dangling", 7, 8, follow_symlinks=False)
    assert (here / "dangling").lstat().st_uid == 7


def test_special_files(here: Path) -> None:
    os.mkfifo(here / "fifo", 0o640)
    assert stat.S_ISFIFO((here / "fifo").stat().st_mode)
    os.mknod(here / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mknod(here / "disk", stat.S_IFBLK | 0o600, os.makedev(259, 70_000))
    os.mknod(here / "plain", stat.S_IFREG | 0o604)
    assert (here / "null").stat().st_rdev == os.makedev(1, 3)
    assert (here / "disk").stat().st_rdev == os.makedev(259, 70_000)
    assert stat.S_ISREG((here / "plain").stat().st_mode)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(here / "s"))
    assert stat.S_ISSOCK((here / "s").stat().st_mode)
    with opened(here / "fifo", os.O_RDWR | os.O_NONBLOCK) as fifo:
        os.write(fifo, b"through")
        assert os.read(fifo, 100) == b"through"


# --- directories ----------------------------------------------------------------------------------------


def test_listing_while_entries_come_and_go(here: Path) -> None:
    """Nothing twice, and nothing left out that was there all the time."""
    names = [f"{number:04}" for number in range(3000)]
    at = os.open(here, os.O_RDONLY)
    for name in names:
        os.mknod(name, dir_fd=at)
    removed, seen = set(), []
    with os.scandir(here) as entries:
        for number, entry in enumerate(entries):
            seen.append(entry.name)
            if number % 10 == 0:
                for victim in (names[number // 2], names[-1 - number // 3]):
                    if victim not in removed:
                        removed.add(victim)
                        os.unlink(victim, dir_fd=at)
                os.mknod(f"new-{number}", dir_fd=at)
    os.close(at)
    assert len(seen) == len(set(seen))
    assert set(names) - removed <= set(seen)
    assert set(names) - removed == {name for name in os.listdir(here) if not name.startswith("new")}


def test_listing_tells_type_and_number(here: Path) -> None:
    (here / "d").mkdir()
    (here / "f").touch()
    os.symlink("x", here / "l")
    with os.scandir(here) as entries:
        found = {entry.name: entry for entry in entries}
    assert found["d"].is_dir(follow_symlinks=False)
    assert found["f"].is_file(follow_symlinks=False)
    assert found["l"].is_symlink()
    assert all(entry.inode() == (here / name).lstat().st_ino for name, entry in found.items())


def test_directory_removed_while_it_is_open(here: Path) -> None:
    (here / "d").mkdir()
    with opened(here / "d", os.O_RDONLY | os.O_DIRECTORY) as directory:
        (here / "d").rmdir()
        assert os.fstat(directory).st_nlink == 0
        assert os.listdir(directory) == []
        with refused(errno.ENOENT):
            os.mknod("x", dir_fd=directory)


# --- rename ---------------------------------------------------------------------------------------------


def test_rename_replaces(here: Path) -> None:
    (here / "a").write_bytes(b"a")
    (here / "b").write_bytes(b"b")
    (here / "a").rename(here / "b")
    assert (here / "b").read_bytes() == b"a"
    (here / "d").mkdir()
    (here / "e").mkdir()
    (here / "d").rename(here / "e")
    assert sorted(os.listdir(here)) == ["b", "e"]
    os.link(here / "b", here / "c")
    (here / "b").rename(here / "c")  # two names of one file: nothing happens
    assert sorted(os.listdir(here)) == ["b", "c", "e"]


def test_rename_refuses(here: Path) -> None:
    (here / "file").touch()
    (here / "full" / "inner").mkdir(parents=True)
    (here / "empty").mkdir()
    for old, new, number in (
        ("empty", "full", errno.ENOTEMPTY),
        ("full", "full/inner/x", errno.EINVAL),
        ("full", "full/x", errno.EINVAL),
        ("file", "empty", errno.EISDIR),
        ("empty", "file", errno.ENOTDIR),
        ("missing", "x", errno.ENOENT),
        ("file", "missing/x", errno.ENOENT),
        ("file", "file/x", errno.ENOTDIR),
        ("full/inner", "full", errno.ENOTEMPTY),
    ):
        with refused(number):
            os.rename(here / old, here / new)
    assert sorted(os.listdir(here)) == ["empty", "file", "full"]


def test_rename_with_flags(here: Path) -> None:
    (here / "a").write_bytes(b"a")
    (here / "b").write_bytes(b"b")
    with refused(errno.EEXIST):
        rename2(here / "a", here / "b", RENAME_NOREPLACE)
    rename2(here / "a", here / "c", RENAME_NOREPLACE)
    rename2(here / "b", here / "c", RENAME_EXCHANGE)
    assert ((here / "b").read_bytes(), (here / "c").read_bytes()) == (b"a", b"b")
    (here / "d" / "inner").mkdir(parents=True)
    rename2(here / "d", here / "c", RENAME_EXCHANGE)
    assert (here / "d").read_bytes() == b"b"
    assert os.listdir(here / "c") == ["inner"]
    with refused(errno.ENOENT):
        rename2(here / "c", here / "missing", RENAME_EXCHANGE)
    with refused(errno.EINVAL):
        rename2(here / "c", here / "c" / "inner", RENAME_EXCHANGE)
    with refused(errno.EINVAL):
        rename2(here / "b", here / "x", RENAME_NOREPLACE | RENAME_EXCHANGE)


# --- open and gone --------------------------------------------------------------------------------------


def test_unlinked_file_lives_while_it_is_open(here: Path) -> None:
    path = here / "file"
    with opened(path, os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, b"before")
        path.unlink()
        assert os.fstat(fd).st_nlink == 0
        os.write(fd, b"-after")
        os.fsync(fd)
        assert os.pread(fd, 100, 0) == b"before-after"
        os.ftruncate(fd, 3)
        os.fchmod(fd, 0o600)
        assert (os.fstat(fd).st_size, stat.S_IMODE(os.fstat(fd).st_mode)) == (3, 0o600)
        with refused(errno.ENOENT):
            path.stat()


# --- extended attributes --------------------------------------------------------------------------------


def test_extended_attributes(here: Path) -> None:
    path = here / "file"
    path.touch()
    values: dict[str, bytes] = {"user.empty": b"", "user.zero": b"\0" * 10, "trusted.t": b"t", "security.dfs": b"s"}
    for name, value in values.items():
        os.setxattr(path, name, value)
    assert {name: os.getxattr(path, name) for name in os.listxattr(path)} == values
    with refused(errno.EEXIST):
        os.setxattr(path, "user.zero", b"", os.XATTR_CREATE)
    with refused(errno.ENODATA):
        os.setxattr(path, "user.new", b"", os.XATTR_REPLACE)
    os.setxattr(path, "user.zero", b"replaced", os.XATTR_REPLACE)
    os.setxattr(path, "user.new", b"created", os.XATTR_CREATE)
    assert os.getxattr(path, "user.zero") == b"replaced"
    os.removexattr(path, "user.new")
    with refused(errno.EINVAL):
        os.setxattr(path, "user.", b"nothing")
    for call in (os.getxattr, os.removexattr):
        with refused(errno.ENODATA):
            call(path, "user.new")
    access_list = struct.pack("<I" + "HHI" * 5, 2, *ACL_ENTRIES)
    for name in ("unknown.namespace", "system.posix_acl_access"):  # to keep what nobody obeys would be a lie
        with refused(errno.EOPNOTSUPP):
            os.setxattr(path, name, access_list)


def test_a_label_that_nobody_gave_is_no_reason_to_ask_for_more(here: Path) -> None:
    """`ls -l` asks of every file for one, until it hears that there are none."""
    path = here / "file"
    path.touch()
    with refused(errno.EOPNOTSUPP):
        os.getxattr(path, "security.selinux")
    os.setxattr(path, "security.selinux", b"u:object_r:t:s0")
    assert os.getxattr(path, "security.selinux") == b"u:object_r:t:s0"


def test_sizes_of_extended_attributes(here: Path) -> None:
    here.joinpath("d").mkdir()
    path = here / "d"
    os.setxattr(path, "user.large", b"v" * 60_000)
    assert os.getxattr(path, "user.large") == b"v" * 60_000
    with refused(errno.E2BIG):
        os.setxattr(path, "user.larger", b"v" * (64 * 1024 + 1))
    with refused(errno.ERANGE):
        os.setxattr(path, "user." + "n" * 251, b"")
    os.setxattr(path, "user." + "n" * 250, b"")
    assert sorted(os.listxattr(path)) == ["user.large", "user." + "n" * 250]


def test_a_mount_tells_what_it_remembers(here: Path) -> None:
    (here / "file").touch()
    before = json.loads(os.getxattr(here, "dfs.statistics"))["cache"]["hits"]
    for _ in range(3):
        os.stat(here / "file")
        os.listdir(here)
    found = json.loads(os.getxattr(here, "dfs.statistics"))
    assert found["cache"]["hits"] > before
    assert set(found) >= {"session", "cache", "open_files", "kernel"}


def test_what_the_cluster_tells_in_extended_attributes(here: Path) -> None:
    path = here / "file"
    path.write_bytes(b"x" * 100_000)
    assert int(os.getxattr(path, "dfs.ino")) == path.stat().st_ino
    assert re.fullmatch(rb"[0-9a-f]{32}", os.getxattr(path, "dfs.cluster"))
    chunk, nodes = os.getxattr(path, "dfs.replicas").decode().split()
    assert sorted(nodes.split(",")) == ["n1", "n2", "n3"]
    assert os.getxattr(path, "dfs.chunks").decode().split()[:3] == ["0", "100000", chunk]
    (here / "d").mkdir()
    (here / "d" / "file").touch()
    assert os.getxattr(here, "dfs.files") == b"2"
    assert int(os.getxattr(here, "dfs.bytes")) == 100_000
    assert os.listxattr(path) == []
    with refused(errno.EPERM):
        os.setxattr(path, "dfs.ino", b"7")
    with refused(errno.ENODATA):
        os.getxattr(path, "dfs.unheard-of")


# --- times ----------------------------------------------------------------------------------------------


def test_times_to_the_nanosecond(here: Path) -> None:
    (here / "file").touch()
    for stamps in ((1, 2), (1_700_000_000_123_456_789, 1_700_000_000_987_654_321), (-1_500_000_001, 2**33 * 10**9 + 1)):
        os.utime(here / "file", ns=stamps)
        status = (here / "file").stat()
        assert (status.st_atime_ns, status.st_mtime_ns) == stamps
    os.symlink("file", here / "symlink")
    os.utime(here / "symlink", ns=(5, 6), follow_symlinks=False)
    assert (here / "symlink").lstat().st_mtime_ns == 6
    before = times(here / "file")
    os.utime(here / "file")
    assert times(here / "file")[0] != before[0]
    assert abs((here / "file").stat().st_mtime - (here / "file").stat().st_ctime) < 1


def _minutes_old(path: Path, *, atime_min: int, mtime_min: int) -> int:
    """Set a file's times; the access time in nanoseconds."""
    now_ns = time.time_ns()
    os.utime(path, ns=(now_ns - atime_min * 60 * 10**9, now_ns - mtime_min * 60 * 10**9))
    return path.stat().st_atime_ns


def _read(path: Path) -> os.stat_result:
    """The status of a file after it was read, as the mount has noticed it."""
    before_ns = path.stat().st_atime_ns
    assert path.read_bytes()
    deadline = time.monotonic() + PATIENCE_S
    while (status := path.stat()).st_atime_ns == before_ns:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return status


def test_reading_moves_the_access_time_as_relatime_does(here: Path, there: Path) -> None:
    path = here / "file"
    path.write_bytes(b"x" * 5000)
    written = path.stat()
    read = _read(path)
    assert read.st_atime_ns > written.st_atime_ns
    assert (read.st_mtime_ns, read.st_ctime_ns) == (written.st_mtime_ns, written.st_ctime_ns)
    assert abs(read.st_atime - time.time()) < PATIENCE_S
    deadline = time.monotonic() + PATIENCE_S
    while (there / "file").stat().st_atime_ns != read.st_atime_ns:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert (there / "file").read_bytes()
    assert path.read_bytes()  # both saw it read since it was written
    assert path.stat().st_atime_ns == (there / "file").stat().st_atime_ns == read.st_atime_ns


def test_who_wants_no_access_time_moved_moves_none(here: Path, there: Path) -> None:
    path = here / "file"
    path.write_bytes(b"content")
    before = path.stat()
    for where in (path, there / "file", path):  # the last time from memory
        fd = os.open(where, os.O_RDONLY | os.O_NOATIME)
        assert os.read(fd, 100) == b"content"
        os.close(fd)
    time.sleep(0.2)  # the mount hears of the close afterwards
    assert path.stat().st_atime_ns == (there / "file").stat().st_atime_ns == before.st_atime_ns
    assert _read(path).st_atime_ns > before.st_atime_ns


def test_access_time_that_is_a_day_old_moves_and_one_that_was_set_stays(here: Path, there: Path) -> None:
    path = here / "file"
    path.write_bytes(b"x")
    old = _minutes_old(path, atime_min=25 * 60, mtime_min=26 * 60)
    assert path.stat().st_atime_ns == old
    assert _read(path).st_atime_ns > old
    was_set = _minutes_old(path, atime_min=30, mtime_min=40)  # before the NameNode hears of the read
    path.chmod(0o600)
    (there / "file").chmod(0o640)
    time.sleep(limits.WRITE_BACK_AFTER_S + 1)
    assert path.stat().st_atime_ns == (there / "file").stat().st_atime_ns == was_set


def test_an_access_time_that_was_set_elsewhere_stands_when_something_else_is_set(here: Path, there: Path) -> None:
    """Though this mount has a later read to tell of, from before that was set."""
    path = here / "file"
    path.write_bytes(b"content")
    _minutes_old(path, atime_min=30, mtime_min=20)
    _read(path)
    was_set = _minutes_old(there / "file", atime_min=60, mtime_min=20)
    path.chmod(0o600)
    assert path.stat().st_atime_ns == (there / "file").stat().st_atime_ns == was_set


def test_access_time_survives_a_change_right_after_the_read(here: Path, there: Path) -> None:
    path = here / "file"
    path.write_bytes(b"x")
    read_ns = _read(path).st_atime_ns
    path.chmod(0o600)
    assert path.stat().st_atime_ns == (there / "file").stat().st_atime_ns == read_ns


def test_listing_moves_the_access_time_of_a_directory(here: Path) -> None:
    before = here.stat()
    (here / "file").touch()
    assert os.listdir(here) == ["file"]
    after = here.stat()
    assert after.st_atime_ns > before.st_atime_ns
    assert os.listdir(here) == ["file"]
    assert here.stat().st_atime_ns == after.st_atime_ns


def test_times_set_on_a_file_just_written_stay(here: Path) -> None:
    """As archivers do it: write, set the times, close."""
    with opened(here / "file", os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"x" * 100_000)
        os.utime(fd, ns=(1_000, 2_000))
        assert os.fstat(fd).st_mtime_ns == 2_000
    assert (here / "file").stat().st_mtime_ns == 2_000


def test_changes_of_a_directory_are_seen_in_its_times(here: Path) -> None:
    (here / "other").mkdir()
    changes: list[Callable[[], Any]] = [
        lambda: (here / "file").touch(),
        lambda: (here / "d").mkdir(),
        lambda: os.symlink("x", here / "s"),
        lambda: os.link(here / "file", here / "hard"),
        lambda: os.mkfifo(here / "fifo"),
        lambda: (here / "hard").rename(here / "harder"),
        lambda: (here / "harder").rename(here / "other" / "x"),
        lambda: (here / "other" / "x").rename(here / "y"),
        lambda: (here / "y").unlink(),
        lambda: (here / "d").rmdir(),
    ]
    for number, change in enumerate(changes):
        before = times(here)
        change()
        after = times(here)
        assert after[0] > before[0], number
        assert after[1] > before[1], number


@pytest.mark.parametrize(
    ("change", "mtime_moves", "ctime_moves"),
    [
        (lambda path: path.write_bytes(b"more"), True, True),
        (lambda path: os.truncate(path, 2), True, True),
        (lambda path: os.truncate(path, 200), True, True),
        (lambda path: path.chmod(0o600), False, True),
        (lambda path: os.chown(path, 3, 3), False, True),
        (lambda path: os.setxattr(path, "user.x", b""), False, True),
        (lambda path: os.link(path, path.with_name("link")), False, True),
        (lambda path: path.rename(path.with_name("new")).rename(path), False, True),
        (lambda path: os.utime(path, ns=(1, path.stat().st_mtime_ns)), False, True),
        (lambda path: path.read_bytes(), False, False),
        (lambda path: os.getxattr(path, "user.kept"), False, False),
        (lambda path: os.close(os.open(path, os.O_RDWR)), False, False),
    ],
    ids=[
        "write",
        "shorten",
        "lengthen",
        "chmod",
        "chown",
        "setxattr",
        "link",
        "rename",
        "utimens",
        "read",
        "getxattr",
        "open",
    ],
)
def test_which_times_a_change_of_a_file_moves(
    here: Path, change: Callable[[Path], Any], mtime_moves: bool, ctime_moves: bool
) -> None:
    path = here / "file"
    path.write_bytes(b"contents")
    os.setxattr(path, "user.kept", b"")
    before = times(path)
    change(path)
    after = times(path)
    assert (after[0] > before[0], after[1] > before[1]) == (mtime_moves, ctime_moves)
    assert mtime_moves or after[0] == before[0]


# --- modes and owners -----------------------------------------------------------------------------------


def test_umask(here: Path) -> None:
    previous = os.umask(0o027)
    try:
        os.close(os.open(here / "file", os.O_CREAT, 0o666))
        os.mkdir(here / "d", 0o777)
        os.mkfifo(here / "fifo", 0o666)
    finally:
        os.umask(previous)
    assert [mode_of(here / name) for name in ("file", "d", "fifo")] == [0o640, 0o750, 0o640]


def test_writing_clears_set_id_bits(here: Path) -> None:
    path = here / "program"
    path.write_bytes(b"x" * 10)
    os.chown(path, NOBODY, NOBODY)

    def write() -> None:
        with opened(path, os.O_WRONLY) as fd:
            os.write(fd, b"y")

    for change in (write, lambda: os.truncate(path, 5)):
        path.chmod(0o6777)
        assert mode_of(path) == 0o6777
        assert as_nobody(change) == 0
        assert mode_of(path) == 0o777


def test_writing_clears_what_was_set_since_the_last_write_through_the_same_descriptor(here: Path) -> None:
    """Set-id bits and capabilities: after a write the kernel takes it that there are none, until they are set."""
    path = here / "program"
    capabilities = struct.pack("<IIIII", 0x02000000, 1 << 10, 0, 0, 0)  # <linux/capability.h>: revision 2
    with opened(path, os.O_WRONLY | os.O_CREAT, 0o777) as fd:
        for _ in range(3):
            os.write(fd, b"x")
            path.chmod(0o4755)
            os.write(fd, b"y")
            assert mode_of(path) == 0o755
            os.setxattr(path, "security.capability", capabilities)
            assert os.getxattr(path, "security.capability") == capabilities
            os.write(fd, b"z")
            with refused(errno.ENODATA):
                os.getxattr(path, "security.capability")


def test_changing_the_owner_clears_set_id_bits(here: Path) -> None:
    path = here / "program"
    path.touch()
    path.chmod(0o6755)
    os.chown(path, NOBODY, NOBODY)
    assert mode_of(path) == 0o755
    os.mkfifo(here / "fifo")
    (here / "fifo").chmod(0o6755)
    os.chown(here / "fifo", NOBODY, NOBODY)
    assert mode_of(here / "fifo") == 0o755
    (here / "d").mkdir()
    (here / "d").chmod(0o2755)
    os.chown(here / "d", NOBODY, NOBODY)
    assert mode_of(here / "d") == 0o2755


def test_set_gid_directory_passes_its_group_on(here: Path) -> None:
    (here / "d").mkdir()
    os.chown(here / "d", 0, 777)
    (here / "d").chmod(0o2775)
    (here / "d" / "file").touch()
    (here / "d" / "below").mkdir()
    assert (here / "d" / "file").stat().st_gid == 777
    assert (here / "d" / "below").stat().st_gid == 777
    assert mode_of(here / "d" / "below") & stat.S_ISGID


def test_sticky_directory(here: Path) -> None:
    shared = here / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "roots").touch()
    assert as_nobody(lambda: (shared / "own").touch()) == 0
    assert (shared / "own").stat().st_uid == NOBODY
    assert as_nobody(lambda: (shared / "roots").unlink()) == errno.EPERM
    assert as_nobody(lambda: (shared / "roots").rename(shared / "other")) == errno.EPERM
    assert as_nobody(lambda: (shared / "own").rename(shared / "roots")) == errno.EPERM
    assert as_nobody(lambda: (shared / "own").unlink()) == 0


def test_permissions_of_another_user(here: Path) -> None:
    secret = here / "secret"
    secret.write_bytes(b"x")
    secret.chmod(0o600)
    (here / "shown").write_bytes(b"x")
    (here / "closed").mkdir(0o700)
    (here / "closed" / "file").touch()
    assert as_nobody(secret.read_bytes) == errno.EACCES
    assert as_nobody(lambda: secret.write_bytes(b"")) == errno.EACCES
    assert as_nobody(lambda: os.truncate(secret, 0)) == errno.EACCES
    assert as_nobody((here / "shown").read_bytes) == 0
    assert as_nobody(lambda: (here / "new").touch()) == errno.EACCES
    assert as_nobody(secret.unlink) == errno.EACCES
    assert as_nobody((here / "closed" / "file").stat) == errno.EACCES
    assert as_nobody(lambda: os.listdir(here / "closed")) == errno.EACCES
    assert as_nobody(lambda: (here / "shown").chmod(0o777)) == errno.EPERM
    assert as_nobody(lambda: os.chown(here / "shown", NOBODY, NOBODY)) == errno.EPERM
    assert as_nobody(lambda: os.utime(here / "shown", ns=(1, 1))) == errno.EPERM
    assert as_nobody(lambda: os.setxattr(here / "shown", "user.x", b"")) == errno.EACCES
    assert as_nobody(lambda: os.getxattr(here / "shown", "trusted.x")) in (errno.EPERM, errno.ENODATA)
    os.chown(secret, NOBODY, 0)
    assert as_nobody(secret.read_bytes) == 0


def test_access(here: Path) -> None:
    (here / "file").touch()
    (here / "file").chmod(0o640)
    assert os.access(here / "file", os.R_OK | os.W_OK)
    assert not os.access(here / "file", os.X_OK)

    def others() -> None:
        assert not os.access(here / "file", os.R_OK)

    assert as_nobody(others) == 0


def test_programs_run_from_the_mount(here: Path) -> None:
    script = here / "script"
    script.write_text("#!/bin/sh\necho ran $1\n")
    with refused(errno.EACCES):
        subprocess.run([script], check=True, timeout=PATIENCE_S)
    script.chmod(0o755)
    done = subprocess.run([script, "here"], capture_output=True, check=True, timeout=PATIENCE_S)
    assert done.stdout == b"ran here\n"


# --- errors ---------------------------------------------------------------------------------------------


@pytest.fixture
def zoo(here: Path) -> Path:
    """One of each kind, for calls that do not fit."""
    (here / "file").touch()
    (here / "empty").mkdir()
    (here / "full" / "inner").mkdir(parents=True)
    os.symlink("loop", here / "loop")
    os.symlink("nowhere", here / "dangling")
    return here


@pytest.mark.parametrize(
    ("number", "call"),
    [
        (errno.ENOENT, lambda d: (d / "missing").stat()),
        (errno.ENOENT, lambda d: (d / "missing").unlink()),
        (errno.ENOENT, lambda d: (d / "missing").rmdir()),
        (errno.ENOENT, lambda d: (d / "missing" / "x").mkdir()),
        (errno.ENOENT, lambda d: os.link(d / "missing", d / "x")),
        (errno.ENOENT, lambda d: (d / "dangling").read_bytes()),
        (errno.EEXIST, lambda d: (d / "empty").mkdir()),
        (errno.EEXIST, lambda d: (d / "file").mkdir()),
        (errno.EEXIST, lambda d: os.symlink("x", d / "file")),
        (errno.EEXIST, lambda d: os.mkfifo(d / "file")),
        (errno.EEXIST, lambda d: os.mkdir(d / "dangling")),
        (errno.ENOTDIR, lambda d: (d / "file" / "x").stat()),
        (errno.ENOTDIR, lambda d: (d / "file" / "x").mkdir()),
        (errno.ENOTDIR, lambda d: (d / "file").rmdir()),
        (errno.ENOTDIR, lambda d: os.listdir(d / "file")),
        (errno.ENOTDIR, lambda d: os.rmdir(d / "dangling")),
        (errno.EISDIR, lambda d: (d / "empty").unlink()),
        (errno.EISDIR, lambda d: os.open(d / "empty", os.O_WRONLY)),
        (errno.EISDIR, lambda d: os.open(d / "empty", os.O_CREAT | os.O_RDWR)),
        (errno.EISDIR, lambda d: os.truncate(d / "empty", 0)),
        (errno.ENOTEMPTY, lambda d: (d / "full").rmdir()),
        (errno.ELOOP, lambda d: (d / "loop").read_bytes()),
        (errno.ELOOP, lambda d: (d / "loop" / "x").stat()),
        (errno.EINVAL, lambda d: os.readlink(d / "file")),
        (errno.EINVAL, lambda d: os.truncate(d / "file", -1)),
        (errno.EINVAL, lambda d: (d / "full").rename(d / "full" / "inner" / "x")),
        (errno.EINVAL, lambda d: os.rmdir(f"{d}/full/.")),
        (errno.ENOTEMPTY, lambda d: os.rmdir(f"{d}/full/inner/..")),
    ],
)
def test_errors(zoo: Path, number: int, call: Callable[[Path], Any]) -> None:
    with refused(number):
        call(zoo)


# --- names that change all the time ---------------------------------------------------------------------


def test_a_file_that_is_replaced_all_the_time_is_there_for_whoever_opens_it(here: Path) -> None:
    """Between finding it and opening it there is time for another one, twice in a row."""
    path, end = here / "file", time.monotonic() + 6.0
    path.write_bytes(b"0")
    errors: list[OSError] = []

    def replace(number: int) -> None:
        while time.monotonic() < end:
            (here / f"new-{number}").write_bytes(b"%d" % number)
            (here / f"new-{number}").rename(path)

    def read() -> None:
        try:
            while time.monotonic() < end:
                assert path.read_bytes() in (b"0", b"1")
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=replace, args=(number,)) for number in range(2)]
    threads += [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
