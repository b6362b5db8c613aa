"""What the DataNode may rely on, whichever disk it runs on: the machine's or the simulation."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from dfs import errors, limits
from nodes.datanode import disk as machine
from nodes.datanode.disk import Disk, File, RealDisk, flags_of_large_writes
from tests.simulation.disk import MemoryDisk

KIB = 1024


@pytest.fixture(params=["real", "memory"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return RealDisk(tmp_path) if request.param == "real" else MemoryDisk()


@pytest.fixture
def file(disk: Disk) -> Iterator[File]:
    opened = disk.open("file", create=True)
    yield opened
    opened.close()


def content(file: File, length: int, offset: int = 0) -> bytes:
    buffer = bytearray(length)
    return bytes(buffer[: file.pread_into(memoryview(buffer), offset)])


def test_what_is_written_reads_back(file: File) -> None:
    assert file.pwrite([b"abc", b"", memoryview(b"defg")], 10) == 7
    assert file.size() == 17
    assert content(file, 100) == bytes(10) + b"abcdefg"
    assert content(file, 3, 12) == b"cde"
    assert content(file, 5, 17) == b""


def test_more_buffers_than_one_system_call_takes_are_all_written(file: File) -> None:
    buffers = [bytes([number % 251]) * 3 for number in range(3000)]
    assert file.pwrite(buffers, 5) == 9000
    assert content(file, 9000, 5) == b"".join(buffers)


def test_large_writes_read_back_and_leave_what_is_beside_them(file: File) -> None:
    large = os.urandom(limits.UNCACHED_WRITE_MIN_BYTES)
    file.pwrite([b"before"], 0)
    file.pwrite([large[:1000], large[1000:]], 6)
    file.pwrite([b"after"], 6 + len(large))
    file.sync()
    assert content(file, len(large) + 20) == b"before" + large + b"after"


def test_large_writes_work_where_nothing_can_be_kept_out_of_memory() -> None:
    with TemporaryDirectory(dir="/dev/shm") as directory:  # a file system in memory
        file = RealDisk(Path(directory)).open("file", create=True)
        large = os.urandom(limits.UNCACHED_WRITE_MIN_BYTES)
        for number in range(2):
            file.pwrite([large], number * len(large))
        assert content(file, 3 * len(large)) == 2 * large
        file.close()


@pytest.mark.parametrize(
    ("release", "is_safe"),
    [
        ("6.16.0", True),
        ("6.18.44-generic", True),
        ("7.0", True),
        ("10.2-rc1", True),
        ("6.14.0-37-generic", False),
        ("6.15.9", False),
        ("6.9.1", False),
        ("5.14.0-611.el9", False),
        ("unknown", False),
    ],
)
def test_memory_is_spared_only_by_kernels_that_lose_no_page_for_it(release: str, is_safe: bool) -> None:
    assert bool(flags_of_large_writes(release)) == is_safe


def test_reading_from_memory_gives_the_bytes_or_says_that_it_would_wait(file: File) -> None:
    file.pwrite([b"x" * 100], 0)
    buffer = bytearray(100)
    count = file.pread_nowait_into(memoryview(buffer), 0)
    assert count is None or buffer[:count] == b"x" * count


def test_a_file_that_is_lent_can_be_read_and_not_written(file: File) -> None:
    file.pwrite([b"content"], 0)
    try:
        lent = file.lend()
    except OSError as error:
        assert error.errno == errno.EOPNOTSUPP
        return
    try:
        assert os.pread(lent, 100, 0) == b"content"
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(lent, b"x", 0)
    finally:
        os.close(lent)


def test_a_file_is_the_one_that_was_opened_whatever_its_name_leads_to(disk: Disk) -> None:
    first = disk.open("file", create=True)
    disk.rename("file", "other")
    found = [disk.open("file", create=True), disk.open("other", create=False)]
    assert [each.inode() == first.inode() for each in found] == [False, True]
    for each in (first, *found):
        each.close()


def test_truncate_cuts_and_grows_by_zeros(file: File) -> None:
    file.pwrite([b"abcdef"], 0)
    file.truncate(3)
    file.truncate(6)
    assert content(file, 10) == b"abc\0\0\0"


def test_a_punched_range_takes_no_space_and_reads_as_zeros(file: File) -> None:
    file.pwrite([b"x" * 64 * KIB], 0)
    file.sync()
    before = file.allocated_bytes()
    try:
        file.punch(16 * KIB, 32 * KIB)
    except OSError as error:
        assert error.errno == errno.EOPNOTSUPP  # a file system without holes says so
        return
    assert file.size() == 64 * KIB
    assert content(file, 64 * KIB) == b"x" * 16 * KIB + bytes(32 * KIB) + b"x" * 16 * KIB
    file.sync()
    assert file.allocated_bytes() <= before - 32 * KIB


def test_names_are_made_listed_renamed_and_removed(disk: Disk) -> None:
    disk.make_dirs("a/b")
    disk.make_dirs("a/b")
    disk.open("a/b/two", create=True).close()
    disk.open("a/b/one", create=True).close()
    assert disk.list_dir("a/b") == ["one", "two"]
    assert disk.list_dir("a") == ["b"]
    assert disk.exists("a/b") and disk.exists("a/b/one") and not disk.exists("a/b/three")
    disk.rename("a/b/one", "a/b/two")
    disk.sync_dir("a/b")
    disk.sync_dir("")
    disk.sync_all()
    assert disk.list_dir("a/b") == ["two"]
    disk.remove("a/b/two")
    assert disk.list_dir("a/b") == []


def test_what_is_missing_is_file_not_found(disk: Disk) -> None:
    for attempt in (
        lambda: disk.open("missing", create=False),
        lambda: disk.open("no/such", create=True),
        lambda: disk.size("missing"),
        lambda: disk.remove("missing"),
        lambda: disk.touch("missing"),
        lambda: disk.rename("missing", "other"),
        lambda: disk.read_file("missing"),
        lambda: disk.list_dir("missing"),
        lambda: disk.sync_dir("missing"),
    ):
        with pytest.raises(FileNotFoundError):
            attempt()


def test_touching_changes_no_bytes(disk: Disk) -> None:
    disk.make_dirs("d")
    disk.replace_file("d/file", b"content")
    disk.touch("d/file")
    disk.touch("d")
    assert disk.read_file("d/file") == b"content"


def test_opening_to_create_keeps_what_is_there(disk: Disk) -> None:
    disk.replace_file("kept", b"content")
    file = disk.open("kept", create=True)
    assert content(file, 10) == b"content"
    file.close()


def test_a_file_is_replaced_whole(disk: Disk) -> None:
    disk.make_dirs("d")
    disk.replace_file("d/file", b"a long first content")
    disk.replace_file("d/file", b"second")
    assert disk.read_file("d/file") == b"second"
    assert disk.size("d/file") == 6
    assert disk.list_dir("d") == ["file"]


def test_a_renamed_file_stays_open(disk: Disk, file: File) -> None:
    file.pwrite([b"here"], 0)
    disk.rename("file", "moved")
    assert content(file, 4) == b"here"
    assert disk.read_file("moved") == b"here"


def test_a_directory_has_one_owner(disk: Disk) -> None:
    disk.lock("lock")
    with pytest.raises(errors.DirectoryInUse, match="is in use by another DataNode"):
        disk.lock("lock")
    disk.unlock("lock")
    disk.lock("lock")
    disk.unlock("lock")


def test_free_space_is_part_of_the_capacity(disk: Disk) -> None:
    assert 0 < disk.free_bytes() <= disk.capacity_bytes()


def test_errors_of_the_system_come_out_as_they_are() -> None:
    disk = RealDisk(Path("/proc/self"))
    with pytest.raises(OSError) as caught:
        disk.make_dirs("nothing/can/be/made/here")
    assert not isinstance(caught.value, errors.DfsError)
    assert os.strerror(caught.value.errno or 0)


def test_what_a_file_takes_is_known_by_its_name_too(disk: Disk, file: File) -> None:
    file.pwrite([b"x" * 64 * KIB], 0)
    file.truncate(1024 * KIB)
    file.sync()
    assert 64 * KIB <= disk.allocated_bytes("file") == file.allocated_bytes() < 1024 * KIB
    with pytest.raises(FileNotFoundError):
        disk.allocated_bytes("missing")


@pytest.mark.parametrize("synced", [True, False])
def test_bytes_dropped_from_the_cache_read_as_before(file: File, synced: bool) -> None:
    file.pwrite([b"x" * 64 * KIB], 0)
    if synced:
        file.sync()
    file.drop_cached(0, 64 * KIB)
    file.drop_cached(1 << 40, 1)
    assert content(file, 64 * KIB) == b"x" * 64 * KIB


def test_what_a_sync_failed_to_write_is_read_until_it_is_dropped_and_never_written() -> None:
    """As Linux has it. No real disk can be told to fail here."""
    disk = MemoryDisk()
    file = disk.open("file", create=True)
    file.pwrite([b"a" * 12 * KIB], 0)
    file.sync()
    disk.sync_dir("")
    file.pwrite([b"b" * 12 * KIB], 0)
    disk.fail("sync", errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        file.sync()
    disk.mend()
    file.pwrite([b"c"], 12 * KIB - 1)
    file.sync()
    assert content(file, 12 * KIB) == b"b" * (12 * KIB - 1) + b"c"
    file.drop_cached(5 * KIB, 1)
    assert content(file, 12 * KIB) == b"b" * 4 * KIB + b"a" * 4 * KIB + b"b" * (4 * KIB - 1) + b"c"
    disk.crash(random.Random(1))
    assert disk.read_file("file") == b"a" * 8 * KIB + b"b" * (4 * KIB - 1) + b"c"


@pytest.fixture
def flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the machine is told to flush, in order, each by the path below `tmp_path` that it has then."""
    found: list[str] = []

    def note(descriptor: int) -> int:
        found.append(str(Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(tmp_path)))
        return 0

    monkeypatch.setattr(os, "fdatasync", note)
    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(machine._libc, "syncfs", note)
    return found


def test_what_is_to_be_on_the_disk_is_flushed_to_it(tmp_path: Path, flushed: list[str]) -> None:
    """No test of the machine's disk loses its power: the twin is believed as to what survives that."""
    disk = RealDisk(tmp_path)
    disk.make_dirs("d")
    file = disk.open("d/file", create=True)
    file.sync()
    file.close()
    disk.sync_dir("d")
    disk.sync_dir("")
    disk.sync_all()
    assert flushed == ["d/file", "d", ".", "."]


def test_a_file_that_is_replaced_is_flushed_before_it_has_the_name_and_the_name_after(
    tmp_path: Path, flushed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = RealDisk(tmp_path)
    disk.make_dirs("d")
    rename = disk.rename

    def note_and_rename(old: str, new: str) -> None:
        flushed.append(f"{old} becomes {new}")
        rename(old, new)

    monkeypatch.setattr(disk, "rename", note_and_rename)
    disk.replace_file("d/file", b"content")
    assert flushed == ["d/file.new", "d/file.new becomes d/file", "d"]


def test_directories_of_one_file_system_say_so(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    real = [RealDisk(tmp_path), RealDisk(tmp_path / "a"), RealDisk(Path("/proc"))]
    memory = [MemoryDisk(file_system=1), MemoryDisk(file_system=1), MemoryDisk()]
    for same, also, other in (real, memory):
        assert same.file_system() == also.file_system() != other.file_system()


def test_a_read_only_file_system_has_no_free_space() -> None:
    memory = MemoryDisk()
    memory.fail("space", errno.EROFS)
    read_only = [Path(line.split()[1]) for line in Path("/proc/mounts").read_text().splitlines() if _is_read_only(line)]
    for disk in [memory, *(RealDisk(path) for path in read_only[:1])]:
        with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
            disk.free_bytes()


def _is_read_only(line: str) -> bool:
    """Of a line of /proc/mounts: its fourth column are the options."""
    return "ro" in line.split()[3].split(",") and Path(line.split()[1]).is_dir()
