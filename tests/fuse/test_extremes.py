"""Files and directories far larger than most."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dfs import limits
from tests.fuse.conftest import Cluster

pytestmark = pytest.mark.fuse

TIB = 1024 * limits.GIB
MANY = 20_000
"""More than a mount fetches as one listing, and many pages of one."""


def test_a_file_of_a_tebibyte_has_its_bytes_where_they_were_written_and_takes_room_for_them_only(
    cluster: Cluster, here: Path, there: Path
) -> None:
    pieces = {place: os.urandom(limits.MIB) for place in (0, TIB // 2, TIB - limits.MIB)}
    with open(here / "sparse", "wb", buffering=0) as file:
        for place, piece in pieces.items():
            os.pwrite(file.fileno(), piece, place)
        os.fsync(file.fileno())
    found = os.stat(there / "sparse")
    assert (found.st_size, found.st_blocks * 512) == (TIB, len(pieces) * limits.MIB)
    with open(there / "sparse", "rb", buffering=0) as file:
        for place, piece in pieces.items():
            assert os.pread(file.fileno(), limits.MIB, place) == piece
        across = os.pread(file.fileno(), limits.MIB, TIB // 2 - limits.MIB // 2)
        assert across == bytes(limits.MIB // 2) + pieces[TIB // 2][: limits.MIB // 2]
        assert os.pread(file.fileno(), limits.MIB, TIB) == b""
    assert "all well" in cluster.dfs("why", "--data", f"/{here.name}/sparse").stdout


def test_a_file_of_a_tebibyte_that_is_cut_and_made_long_again_has_forgotten_its_end(here: Path, there: Path) -> None:
    end = os.urandom(limits.MIB)
    with open(here / "sparse", "wb", buffering=0) as file:
        os.pwrite(file.fileno(), end, TIB - len(end))
        os.pwrite(file.fileno(), end, 0)
    os.truncate(there / "sparse", TIB // 2)
    os.truncate(there / "sparse", TIB)
    found = os.stat(here / "sparse")
    assert (found.st_size, found.st_blocks * 512) == (TIB, len(end))
    with open(here / "sparse", "rb", buffering=0) as file:
        assert os.pread(file.fileno(), len(end), TIB - len(end)) == bytes(len(end))
        assert os.pread(file.fileno(), len(end), 0) == end


@pytest.mark.slow
def test_a_directory_of_twenty_thousand_files_is_one_like_others(cluster: Cluster, here: Path, there: Path) -> None:
    made = [f"{number:05}" for number in range(MANY)]
    for name in made:
        os.close(os.open(here / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640))
    for name in made[::4]:
        os.unlink(here / name)
    names = sorted({*made} - {*made[::4]})
    with os.scandir(there) as entries:
        listed = {entry.name: entry.stat().st_mode & 0o777 for entry in entries}
    assert listed == dict.fromkeys(names, 0o640)
    assert sorted(os.listdir(here)) == names

    os.unlink(there / names[MANY // 2])
    os.rename(here / names[0], here / "renamed")
    left = sorted({*names, "renamed"} - {names[0], names[MANY // 2]})
    assert sorted(os.listdir(here)) == sorted(os.listdir(there)) == left
    assert cluster.dfs("ls", f"/{here.name}").stdout.split() == left
