"""The kernel has pages of small files before it asks for them: of those just written, and of those read in order."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from pathlib import Path

import pytest

from tests.integration.real import wait_until

pytestmark = pytest.mark.fuse


def resident(path: Path) -> list[bool]:
    """Of which of its pages the kernel has the bytes."""
    size = path.stat().st_size
    count = -(-size // mmap.PAGESIZE)
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE) as mapped:
        pages = (ctypes.c_ubyte * count)()
        first = ctypes.c_char.from_buffer(mapped)
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.mincore(ctypes.byref(first), ctypes.c_size_t(size), pages):
                raise OSError(ctypes.get_errno(), "mincore")
        finally:
            del first
        return [bool(page & 1) for page in pages]


@pytest.mark.parametrize("before", [None, b"", bytes(10_000)], ids=["new", "empty", "cut"])
@pytest.mark.parametrize("size", [1, 1000, 4096, 4097, 20_000])
def test_what_was_just_written_is_read_without_asking(here: Path, there: Path, size: int, before: bytes | None) -> None:
    data = os.urandom(size)
    attempts = iter(range(1 << 20))

    def is_kept() -> bool:  # where making or cutting it, and writing to it, do not take 10 ms
        path = here / f"{size}-{next(attempts)}"
        if before is not None:
            path.write_bytes(before)
            assert path.read_bytes() == before
        fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)  # as open() looks at its time before it is written to
        assert os.write(fd, data) == len(data)
        os.close(fd)
        time.sleep(0.01)  # the mount hears of the close afterwards
        return all(resident(path))

    wait_until(is_kept)
    for path in here.iterdir():
        assert path.read_bytes() == data
        assert (there / path.name).read_bytes() == data
        assert (there / path.name).stat().st_mtime_ns == path.stat().st_mtime_ns


def test_what_is_read_in_order_is_there_before_it_is_asked_for_and_not_as_it_was(here: Path, there: Path) -> None:
    for number in range(60):
        (there / f"{number:02}").write_bytes(b"%02d" % number * 1000)
    names = os.listdir(here)
    for name in names[:5]:
        assert (here / name).read_bytes() == name.encode() * 1000
    wait_until(lambda: all(resident(here / names[12])))
    for name in names:
        (there / name).write_bytes(name.encode() * 999)
    for name in names:
        assert (here / name).read_bytes() == name.encode() * 999


def test_what_others_write_is_read_though_the_kernel_had_been_given_pages(here: Path, there: Path) -> None:
    for number in range(40):
        one, other = (here, there) if number % 2 else (there, here)
        name = f"file-{number // 4}"
        data = os.urandom(100 + number * 321)
        (one / name).write_bytes(data)
        assert (one / name).read_bytes() == data
        assert (other / name).read_bytes() == data
        with (other / name).open("r+b") as file:
            file.seek(50)
            file.write(b"changed")
        changed = data[:50] + b"changed" + data[57:]
        for path in (one / name, other / name):
            assert path.read_bytes() == changed
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
                assert mapped[:] == changed
        with (one / name).open("ab") as file:
            file.write(b"end")
        os.truncate(other / name, 60)
        assert (one / name).read_bytes() == changed[:60]
        assert (other / name).read_bytes() == changed[:60]
