"""What a local file system does, a mount does: POSIX area by area, beside a real local directory where that helps."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fuse.conftest import Cluster, Mount

pytestmark = pytest.mark.fuse

LETTERS = (b"a", b"b", b"c", b"d")
KIB = 1024
MIB = 1024 * KIB


def fails(number: int, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    with pytest.raises(OSError) as caught:
        call(*args, **kwargs)
    assert caught.value.errno == number, caught.value


def renameat2(old: Path, new: Path, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags):
        raise OSError(ctypes.get_errno(), "renameat2")


# --- bytes ----------------------------------------------------------------------------------------------


def test_random_reads_and_writes_beside_a_local_file(here: Path, there: Path, tmp_path: Path) -> None:
    chance = random.Random(5)
    files = [os.open(where / "file", os.O_RDWR | os.O_CREAT) for where in (here, tmp_path)]
    for _ in range(600):
        offset, size = chance.randrange(3 * MIB), chance.choice((1, 100, 4096, 70_000, 200_000))
        kind = chance.random()
        if kind < 0.5:
            data = chance.randbytes(size)
            assert [os.pwrite(fd, data, offset) for fd in files] == [size, size]
        elif kind < 0.9:
            mine, local = (os.pread(fd, size, offset) for fd in files)
            assert mine == local
        elif kind < 0.95:
            for fd in files:
                os.ftruncate(fd, offset)
        elif kind < 0.97:
            os.fsync(files[0])
        else:
            assert os.fstat(files[0]).st_size == os.fstat(files[1]).st_size
    for fd in files:
        os.close(fd)
    assert (here / "file").read_bytes() == (tmp_path / "file").read_bytes() == (there / "file").read_bytes()


def test_a_stream_goes_in_and_comes_out(here: Path, there: Path) -> None:
    data = os.urandom(40 * MIB + 17)
    (here / "file").write_bytes(data)
    assert (there / "file").read_bytes() == data
    assert (here / "file").stat().st_size == len(data)


def test_holes_read_as_zeros_and_take_no_space(here: Path) -> None:
    with open(here / "file", "wb") as file:
        file.seek(2**62)
        file.write(b"end")
        os.fsync(file.fileno())
    found = (here / "file").stat()
    assert found.st_size == 2**62 + 3
    assert found.st_blocks <= 8
    with open(here / "file", "rb") as file:
        assert file.read(10) == bytes(10)
        file.seek(2**62 - 2)
        assert file.read() == b"\0\0end"
    os.truncate(here / "file", 5)
    assert (here / "file").read_bytes() == bytes(5)


def test_a_mapped_file_is_written_and_read(here: Path, there: Path) -> None:
    (here / "file").write_bytes(b"a" * 10_000)
    with open(here / "file", "r+b") as file, mmap.mmap(file.fileno(), 0) as shared:
        shared[5000:5003] = b"xyz"
        shared.flush()
        os.fsync(file.fileno())
        assert (there / "file").read_bytes()[4999:5004] == b"axyza"
    with open(here / "file", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as private:
        private[0:1] = b"p"
        assert (here / "file").read_bytes()[0:1] == b"a"


def test_what_fstat_says_before_close_stays_true(here: Path) -> None:
    with open(here / "file", "wb") as file:
        file.write(b"x" * 5000)
        file.flush()
        before = os.fstat(file.fileno())
    after = (here / "file").stat()
    fields = ("st_size", "st_mtime_ns", "st_ctime_ns", "st_ino", "st_nlink", "st_mode")
    assert [getattr(before, field) for field in fields] == [getattr(after, field) for field in fields]


# --- names ----------------------------------------------------------------------------------------------


def test_errors_are_those_of_a_local_file_system(here: Path) -> None:
    (here / "file").touch()
    (here / "full" / "x").mkdir(parents=True)
    (here / "loop").symlink_to("loop")
    fails(errno.ENOENT, os.stat, here / "nothing")
    fails(errno.ENOTDIR, os.stat, here / "file" / "x")
    fails(errno.EISDIR, os.open, here / "full", os.O_WRONLY)
    fails(errno.EEXIST, os.open, here / "file", os.O_CREAT | os.O_EXCL)
    fails(errno.EEXIST, os.mkdir, here / "full")
    fails(errno.ENOTEMPTY, os.rmdir, here / "full")
    fails(errno.ENOTDIR, os.rmdir, here / "file")
    fails(errno.EISDIR, os.unlink, here / "full")
    fails(errno.ENOTEMPTY, os.rename, here / "full" / "x", here / "full")
    fails(errno.EINVAL, os.rename, here / "full", here / "full" / "x" / "y")
    fails(errno.ELOOP, os.stat, here / "loop")
    fails(errno.ENAMETOOLONG, os.mkdir, here / ("x" * 256))
    fails(errno.EPERM, os.link, here / "full", here / "other")


def test_names_of_any_bytes(here: Path, there: Path) -> None:
    names = [b"\xff\xfe", b"new\nline", "snow \u2603".encode(), b"x" * 255, b" "]
    for name in names:
        os.close(os.open(os.fsencode(here) + b"/" + name, os.O_CREAT | os.O_WRONLY))
    assert sorted(os.listdir(os.fsencode(there))) == sorted(names)


def test_a_listing_stays_whole_while_entries_come_and_go(here: Path, there: Path) -> None:
    stay = {f"stay-{number}" for number in range(700)}
    for number, name in enumerate(sorted(stay)):
        (here / name).touch()
        if number % 2:
            (here / f"go-{number}").touch()
    seen = []
    with os.scandir(there) as entries:
        for count, entry in enumerate(entries):
            seen.append(entry.name)
            if count % 10 == 0:
                for gone in [name for name in os.listdir(here) if name.startswith("go-")][:10]:
                    (here / gone).unlink()
                (here / f"new-{count}").touch()
    assert len(seen) == len(set(seen))
    assert stay <= set(seen)


def test_rename_flags(here: Path) -> None:
    (here / "a").write_text("a")
    (here / "d").mkdir()
    fails(errno.EEXIST, renameat2, here / "a", here / "d", 1)
    renameat2(here / "a", here / "d", 2)
    assert (here / "d").read_text() == "a"
    assert (here / "a").is_dir()
    (here / "b").write_text("b")
    (here / "b").rename(here / "d")
    assert (here / "d").read_text() == "b"


def test_links_and_special_files(here: Path) -> None:
    (here / "a").write_text("data")
    os.link(here / "a", here / "b")
    assert (here / "a").stat().st_nlink == 2
    (here / "a").unlink()
    assert (here / "b").read_text() == "data"
    (here / "s").symlink_to("/" + "x" * 3000)
    assert (here / "s").readlink() == Path("/" + "x" * 3000)
    os.mkfifo(here / "fifo", 0o640)
    os.mknod(here / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    assert stat.S_ISFIFO((here / "fifo").stat().st_mode)
    assert (here / "device").stat().st_rdev == os.makedev(1, 3)
    before = here.stat().st_nlink
    (here / "sub").mkdir()
    assert here.stat().st_nlink == before + 1


def test_an_open_file_outlives_its_name(here: Path, there: Path) -> None:
    with open(here / "file", "w+b") as file:
        file.write(b"before")
        file.flush()
        os.fsync(file.fileno())
        (there / "file").unlink()
        file.write(b" and after")
        file.flush()
        assert os.fstat(file.fileno()).st_nlink == 0
        file.seek(0)
        assert file.read() == b"before and after"
    assert not (here / "file").exists()


# --- attributes -----------------------------------------------------------------------------------------


def test_extended_attributes(here: Path, there: Path) -> None:
    file = here / "file"
    file.write_bytes(b"x" * 100)
    for name in ("user.color", "trusted.x", "security.y"):
        os.setxattr(file, name, b"value \0 binary")
        assert os.getxattr(there / "file", name) == b"value \0 binary"
    fails(errno.EEXIST, os.setxattr, file, "user.color", b"", os.XATTR_CREATE)
    fails(errno.ENODATA, os.setxattr, file, "user.new", b"", os.XATTR_REPLACE)
    assert sorted(os.listxattr(file)) == ["security.y", "trusted.x", "user.color"]
    os.removexattr(file, "user.color")
    fails(errno.ENODATA, os.getxattr, there / "file", "user.color")
    assert int(os.getxattr(file, "dfs.ino")) == file.stat().st_ino
    chunk, nodes = os.getxattr(file, "dfs.replicas").decode().split()
    assert int(chunk, 16) > 0
    assert sorted(nodes.split(",")) == ["n1", "n2", "n3"]
    assert os.getxattr(file, "dfs.chunks").decode().startswith("0 100 ")
    assert os.getxattr(here, "dfs.files") == b"1"
    fails(errno.EPERM, os.setxattr, file, "dfs.ino", b"7")


def test_times_follow_what_was_done(here: Path, there: Path) -> None:
    file = here / "file"
    file.write_bytes(b"1")
    os.utime(file, ns=(1_000_000_001, 2_000_000_002))
    assert (there / "file").stat().st_mtime_ns == 2_000_000_002
    assert (there / "file").stat().st_atime_ns == 1_000_000_001
    first = file.stat()
    file.chmod(0o600)
    assert file.stat().st_ctime_ns > first.st_ctime_ns
    assert file.stat().st_mtime_ns == first.st_mtime_ns
    with open(file, "ab") as more:
        more.write(b"2")
    assert file.stat().st_mtime_ns > first.st_ctime_ns
    parent = here.stat()
    (here / "other").touch()
    assert here.stat().st_mtime_ns > parent.st_mtime_ns


def test_modes_owners_and_permissions(here: Path) -> None:
    file = here / "file"
    file.write_bytes(b"secret")
    file.chmod(0o4755)
    os.chown(file, 1000, 1000)
    assert file.stat().st_mode & 0o7777 == 0o755, "chown takes the set-id bits"
    file.chmod(0o6755)
    with open(file, "r+b") as written:
        written.write(b"x")
    assert file.stat().st_mode & 0o7777 == 0o755, "and so does a write"
    file.chmod(0o600)
    here.chmod(0o755)
    denied = subprocess.run(["cat", file], user=65534, capture_output=True, text=True, check=False)
    assert "Permission denied" in denied.stderr
    (here / "group").mkdir()
    os.chown(here / "group", 0, 1234)
    (here / "group").chmod(0o2775)
    (here / "group" / "sub").mkdir()
    assert (here / "group" / "sub").stat().st_gid == 1234
    assert (here / "group" / "sub").stat().st_mode & stat.S_ISGID
    sticky = here / "sticky"
    sticky.mkdir()
    sticky.chmod(0o1777)
    (sticky / "mine").touch()
    denied = subprocess.run(["rm", "-f", sticky / "mine"], user=65534, capture_output=True, text=True, check=False)
    assert "Operation not permitted" in denied.stderr


# --- two mounts -----------------------------------------------------------------------------------------


def test_what_returned_on_one_mount_is_seen_on_the_other(here: Path, there: Path) -> None:
    (here / "a").write_text("one")
    assert (there / "a").read_text() == "one"
    (there / "a").write_text("two, longer")
    assert (here / "a").read_text() == "two, longer"
    (here / "a").rename(here / "b")
    assert os.listdir(there) == ["b"]
    os.truncate(there / "b", 3)
    assert (here / "b").stat().st_size == 3
    (here / "b").chmod(0o640)
    assert (there / "b").stat().st_mode & 0o777 == 0o640
    (there / "b").unlink()
    assert os.listdir(here) == []
    fails(errno.ENOENT, os.stat, here / "b")


def test_a_reader_sees_what_another_mount_wrote_into_its_open_file(here: Path, there: Path) -> None:
    (here / "file").write_bytes(b"a" * 300_000)
    with open(there / "file", "rb", buffering=0) as reader:
        assert reader.read(10) == b"a" * 10
        with open(here / "file", "r+b") as writer:
            writer.write(b"b" * 10)
        reader.seek(0)
        assert reader.read(12) == b"b" * 10 + b"aa"


def test_appends_from_two_mounts_never_overwrite(here: Path, there: Path) -> None:
    def append(where: Path, letter: bytes) -> None:
        fd = os.open(where / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for _ in range(25):
            os.write(fd, letter * 99 + b"\n")
        os.close(fd)

    writers = [threading.Thread(target=append, args=pair) for pair in zip((here, there) * 2, LETTERS, strict=True)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = (here / "log").read_bytes().splitlines()
    assert sorted(lines) == sorted(letter * 99 for letter in LETTERS for _ in range(25))


# --- options --------------------------------------------------------------------------------------------


def test_a_directory_of_the_cluster_is_mounted_read_only(here: Path, mount: Mount) -> None:
    (here / "sub").mkdir()
    (here / "sub" / "file").write_text("data")
    other = mount(f"/{here.name}/sub", "ro,allow_other")
    assert os.listdir(other) == ["file"]
    fails(errno.EROFS, os.unlink, other / "file")
    assert (other / "..").resolve() == other.parent


def test_owners_can_be_set_and_root_squashed(here: Path, mount: Mount) -> None:
    as_user = mount("/" + here.name, "uid=1234,gid=4321,allow_other")
    (as_user / "file").touch()
    assert ((here / "file").stat().st_uid, (here / "file").stat().st_gid) == (1234, 4321)
    here.chmod(0o777)
    squashed = mount("/" + here.name, "root_squash,allow_other")
    (squashed / "nobodys").touch()
    assert (here / "nobodys").stat().st_uid == 65534
    fails(errno.EPERM, os.chown, squashed / "nobodys", 0, 0)


def test_what_cannot_be_mounted_is_said_in_a_sentence(cluster: Cluster, here: Path) -> None:
    assert "no directory" in cluster.dfs("mount", cluster.base / "missing", status=1).stderr
    assert "not an option" in cluster.dfs("mount", cluster.base, "-o", "nonsense", status=1).stderr
    assert "already" in cluster.dfs("mount", here.parent, status=1).stderr
    assert "nothing is mounted" in cluster.dfs("umount", cluster.base, status=1).stderr


# --- failures -------------------------------------------------------------------------------------------


def test_a_killed_mount_is_taken_over(cluster: Cluster, here: Path, mount: Mount) -> None:
    where = mount("/" + here.name)
    (where / "file").write_text("data")
    os.kill(cluster.mount_pids()[where], 9)
    with pytest.raises(OSError):
        while True:
            where.stat()
    cluster.dfs("mount", where, "--subtree", "/" + here.name, "-o", "allow_other")
    assert (where / "file").read_text() == "data"


def test_a_datanode_killed_during_a_copy_is_not_noticed(cluster: Cluster, here: Path, there: Path) -> None:
    data = os.urandom(24 * MIB)

    def kill() -> None:
        os.kill(cluster.status()["daemons"]["n2"]["pid"], 9)

    killer = threading.Timer(0.2, kill)
    killer.start()
    with open(here / "file", "wb") as file:
        for start in range(0, len(data), MIB):
            file.write(data[start : start + MIB])
        os.fsync(file.fileno())
    killer.join()
    assert (there / "file").read_bytes() == data


def test_nothing_leaks_and_memory_stays_bounded(cluster: Cluster, here: Path) -> None:
    def write(name: str) -> None:
        with open(here / name, "wb") as file:
            for _ in range(24):
                file.write(bytes(MIB))

    writers = [threading.Thread(target=write, args=(f"f{number}",)) for number in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    for pid in cluster.mount_pids().values():
        status = Path(f"/proc/{pid}/status").read_text()
        peak_kib = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
        assert peak_kib < 300 * KIB
