"""Many random reads and writes, and a stream, beside a local file: the bytes are the same all the time."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

pytestmark = pytest.mark.fuse

MIB = 1024 * 1024


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
