"""Which lines are measured, what they need, and how they look."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from dfs import errors, limits
from dfs.cli.bench import report
from dfs.cli.bench.figures import Figures
from dfs.cli.bench.limiting import Limit, Share
from dfs.cli.bench.posix import open_posix_target
from dfs.cli.bench.target import PIECE_BYTES
from dfs.cli.bench.works import GROUPS, WORKS, Place, chosen_works, measure, needed_bytes


def is_empty(directory: Path) -> bool:
    return not list(directory.iterdir())


def names(*wanted: str, rereads: bool = True) -> list[str]:
    return [work.name for work in chosen_works(wanted, rereads)]


def test_all_is_measured_unless_something_is_chosen() -> None:
    assert names() == [work.name for work in WORKS]
    assert names("append", "stat") == ["append", "stat"]
    assert names("small") == ["small_create", "small_read"]
    assert set(GROUPS) == {work.group for work in WORKS}


def test_reading_again_is_left_out_where_nothing_is_kept() -> None:
    assert "seq_reread" not in names("large", rereads=False)


def test_where_nothing_is_left_to_measure_that_is_said() -> None:
    with pytest.raises(errors.InvalidArgument, match=r"Python API.*name a PATH"):
        names("seq_reread", rereads=False)


def test_what_does_not_exist_cannot_be_chosen() -> None:
    with pytest.raises(errors.InvalidArgument, match=r"'writing'.*large.*seq_write"):
        names("writing")


def test_room_is_wanted_for_what_will_be_written_only() -> None:
    assert needed_bytes(chosen_works(("metadata",), True), limits.GIB, 10) == 0
    assert needed_bytes(chosen_works(("seq_read",), True), limits.GIB, 10) >= limits.GIB


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.name)
async def test_each_line_can_be_measured_alone_and_leaves_nothing(tmp_path: Path, work: report.Work) -> None:
    async with open_posix_target(tmp_path, "new", 0) as target:
        pattern = memoryview(bytes(PIECE_BYTES))
        place = Place(target, 3 * PIECE_BYTES, 7, 60.0, time.monotonic, random.Random(1), pattern)
        await work.prepare(place)
        figures = await measure(place, work)
        assert figures.operations >= 3
        assert figures.p50_s <= figures.p95_s <= figures.p99_s <= figures.elapsed_s
    assert is_empty(tmp_path)


async def test_lines_go_on_with_what_there_was_time_for(tmp_path: Path) -> None:
    """Creating was stopped after one file: the others work on that one."""
    async with open_posix_target(tmp_path, "new", 0) as target:
        pattern = memoryview(bytes(PIECE_BYTES))
        place = Place(target, 3 * PIECE_BYTES, 1000, 0.0, time.monotonic, random.Random(1), pattern)
        for work in chosen_works(("metadata", "small", "seq_write", "seq_read"), True):
            await work.prepare(place)
            assert (await measure(place, work)).operations == 1, work.name


# --- refusals -------------------------------------------------------------------------------------------


async def refused(parent: Path, needed: int = 0) -> str:
    with pytest.raises(errors.DfsError) as caught:
        async with open_posix_target(parent, "new", needed):
            raise AssertionError("not reached")
    return str(caught.value)


async def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "not a directory" in await refused(tmp_path / "file")
    assert "there is no" in await refused(tmp_path / "missing")


async def test_what_has_no_room_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    said = await refused(tmp_path, needed=2**62)
    assert "has room for" in said
    assert "--size" in said
    assert is_empty(tmp_path)


async def test_a_directory_that_takes_nothing_new_is_refused() -> None:
    said = await refused(Path("/proc"))
    assert "a benchmark writes" in said


async def test_the_directory_goes_when_an_error_ends_it(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_posix_target(tmp_path, "new", 0) as target:
            await target.mkdir("inside")
            raise ZeroDivisionError
    assert is_empty(tmp_path)


# --- how it looks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 us"), (85e-6, "85 us"), (0.9999e-3, "1.0 ms"), (12.4e-3, "12 ms"), (1.26, "1.3 s"), (90, "90 s")],
)
def test_durations(seconds: float, shown: str) -> None:
    assert report.duration(seconds) == shown


@pytest.mark.parametrize(("value", "shown"), [(0.123, "0.12"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12,346")])
def test_rates(value: float, shown: str) -> None:
    assert report.rate(value) == shown


def test_a_line_stands_beneath_its_headings_and_says_what_the_limit_was() -> None:
    figures = Figures(2560, 256 * limits.MIB, 2.0, 0.004, 0.007, 0.010)
    limit = Limit(True, (Share("n1 disk", 0.93, "DataNode disk"),))
    row = report.row(report.Line(WORKS[0], figures, limit))
    assert row.index("1,280") + len("1,280") == report.heading().index("ops/s") + len("ops/s")
    assert row.endswith("n1 disk 93 %")
    assert report.heading().index("limited by") == row.index("n1 disk")


def test_words_of_the_table_are_explained_where_they_are_there() -> None:
    (listing,) = chosen_works(("list",), True)
    figures, share = Figures(1, 0, 2.0, 0.1, 0.1, 0.1), Share("n1 disk", 0.5, "DataNode disk")
    for is_known, words in ((False, ["warm", "list", "limited by", "shared"]), (True, ["warm", "list", "limited by"])):
        notes = report.notes([report.Line(listing, figures, Limit(is_known, (share,)))])
        assert [note.partition(":")[0] for note in notes] == words


def test_what_is_announced_is_what_is_measured() -> None:
    assert report.amounts(chosen_works(("append",), True), limits.GIB, 7) == "7 appends"
    assert report.amounts(chosen_works(("large", "stat"), True), limits.GIB, 1) == "a file of 1.0G, 1 empty file"


def test_programs_get_all_shares_and_the_limit() -> None:
    limit = Limit(False, (Share("client CPU", 0.4567, "client CPU"),))
    found = report.record(report.Line(WORKS[-1], Figures(10, 0, 2.0, 0.1, 0.2, 0.3), limit))
    assert found["limited_by"] is None
    assert found["busy"] == [{"what": "client CPU", "part": 0.457}]
    assert (found["operations_per_s"], found["p99_s"], found["cache"]) == (5.0, 0.3, None)
