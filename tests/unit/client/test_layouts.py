"""What is kept of where a file's bytes are, and how much is asked for at a time."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfs import limits
from dfs.client import layouts as layouts_module
from dfs.client.inodes import Layout
from dfs.client.layouts import KeptLayouts, Layouts
from dfs.types import Attr, ChunkId, ChunkPlace, Extent, NodeId

KIB, MIB, GIB = limits.KIB, limits.MIB, limits.GIB
PAGE = 4 * KIB
ATTR = Attr._make([0] * len(Attr._fields))


class Scattered:
    """A file of `size` bytes, an extent for each page, and what is known of it; `asked` counts questions."""

    def __init__(self, size: int, all_kept: KeptLayouts | None = None) -> None:
        self.size = size
        self.layouts = Layouts(all_kept or KeptLayouts())
        self.asked = 0
        self.told = 0

    def ask(self, start: int, length: int) -> Layout:
        """As the NameNode answers."""
        first, last = start // PAGE, min(-(-(start + length) // PAGE), self.size // PAGE)
        pages = range(first, min(last, first + limits.EXTENTS_MAX))
        end = pages.stop * PAGE if len(pages) == limits.EXTENTS_MAX else start + length
        self.asked += 1
        self.told += len(pages)
        return Layout(ATTR, [Extent(page * PAGE, PAGE, ChunkId(1), page * PAGE) for page in pages], {}, end)

    def read(self, offset: int, length: int = PAGE) -> None:
        if self.layouts.find(offset, offset + length) is None:
            start, count = self.layouts.stretch(offset, length)
            self.layouts.keep(start, count, self.ask(start, count))


def test_of_a_file_in_a_few_pieces_one_question_is_enough() -> None:
    file = Scattered(8 * MIB)
    for offset in (0, 7 * MIB, 3 * MIB, 5 * PAGE + 1):
        file.read(offset)
    assert file.asked == 1


def test_what_is_kept_covers_all_of_what_is_read() -> None:
    file = Scattered(8 * MIB)
    file.read(4 * MIB)
    assert file.layouts.find(4 * MIB, 4 * MIB + 1) is not None
    assert file.layouts.find(4 * MIB - 1, 4 * MIB + 1) is None
    assert file.layouts.find(4 * MIB, 4 * MIB + limits.LAYOUT_BYTES + 1) is None


def test_who_reads_a_scattered_file_at_random_has_soon_asked_for_all_of_it() -> None:
    file, random = Scattered(200 * MIB), Random(1)
    for _ in range(2000):
        file.read(random.randrange(file.size // PAGE) * PAGE)
    asked = file.asked
    for page in range(file.size // PAGE):
        file.read(page * PAGE)
    assert file.asked <= asked + 1
    assert file.told < 2 * (file.size // PAGE)


def test_of_a_file_that_is_too_scattered_to_be_known_whole_little_is_asked_at_a_time() -> None:
    file, random = Scattered(4 * GIB), Random(1)
    for _ in range(1000):
        file.read(random.randrange(file.size // PAGE) * PAGE)
    assert file.told < 1000 * limits.EXTENTS_MAX / 4
    assert sum(len(layout.extents) for layout in file.layouts._kept.values()) <= limits.LAYOUT_KEPT_EXTENTS


def test_of_many_scattered_files_together_no_more_is_kept_and_that_of_those_in_use() -> None:
    all_kept, random = KeptLayouts(), Random(1)
    files = [Scattered(256 * MIB, all_kept) for _ in range(10)]
    for file in files:
        for _ in range(500):
            files[0].read(0)
            file.read(random.randrange(file.size // PAGE) * PAGE)
    assert limits.LAYOUT_KEPT_EXTENTS / 2 < all_kept.extents <= limits.LAYOUT_KEPT_EXTENTS
    assert files[0].layouts.find(0, PAGE) is not None and files[-1].layouts
    assert not files[1].layouts
    for file in files:
        file.layouts.forget()
    assert all_kept.extents == 0


def test_what_is_kept_of_holes_counts_as_well() -> None:
    all_kept = KeptLayouts()
    layouts = Layouts(all_kept)
    for number in range(limits.LAYOUT_KEPT_EXTENTS):
        layouts.keep(number * MIB, MIB, Layout(ATTR, [], {}, (number + 1) * MIB))
    assert 0 < len(layouts._kept) < limits.LAYOUT_KEPT_EXTENTS / 4
    assert all_kept.extents <= limits.LAYOUT_KEPT_EXTENTS


def test_a_read_over_the_border_of_two_stretches_is_known_after_one_question() -> None:
    file = Scattered(200 * MIB)
    file.read(0)
    border = 128 * MIB
    file.read(border - PAGE, 2 * PAGE)
    assert file.asked == 2
    assert file.layouts.find(border - PAGE, border + PAGE) is not None


@pytest.mark.parametrize("again", [0, 100 * MIB])
def test_of_another_version_nothing_is_known(again: int) -> None:
    file = Scattered(200 * MIB)
    file.read(0)
    file.read(100 * MIB)
    file.layouts.forget()
    assert file.layouts.find(again, again + 1) is None
    file.read(again)
    assert file.asked == 3


RANGES = st.tuples(st.integers(0, 60), st.integers(1, 25))


def bytes_of(extents: list[Extent]) -> dict[int, tuple[int, int]]:
    """Where each byte of the file is: the chunk, and the place in it."""
    found: dict[int, tuple[int, int]] = {}
    for extent in extents:
        for at in range(extent.length):
            assert extent.offset + at not in found
            found[extent.offset + at] = extent.chunk, extent.chunk_offset + at
    return found


@given(st.lists(RANGES, max_size=6), st.lists(st.lists(RANGES, min_size=1, max_size=3), max_size=8))
@settings(max_examples=300, deadline=None)
def test_what_was_committed_is_in_place_of_what_was_there(
    questions: list[tuple[int, int]], commits: list[list[tuple[int, int]]]
) -> None:
    file = [Extent(start, 7, ChunkId(1), 100 + start) for start in range(0, 80, 10)]
    layouts = Layouts(KeptLayouts())
    for start, length in questions:
        told = [extent for extent in file if start - extent.length < extent.offset < start + length]
        layouts.keep(start, length, Layout(ATTR, told, {}, start + length))
    wanted = bytes_of(file)
    for number, ranges in enumerate(commits, 2):
        chunk = ChunkId(number)
        extents = [Extent(start, length, chunk, 1000 * at) for at, (start, length) in enumerate(ranges)]
        layouts.point(extents, {chunk: ChunkPlace(chunk, 9, (NodeId("n1"),))})
        for extent in extents:  # of two that overlap, the later counts
            wanted |= bytes_of([extent])
    for start, length in questions:
        found = layouts.find(start, start + length)
        if found is None:  # another answer that begins there, and is shorter, came later
            continue
        assert all(a.offset + a.length <= b.offset for a, b in pairwise(found.extents))
        told_of = bytes_of(found.extents)
        for at in range(start, start + length):
            assert told_of.get(at) == wanted.get(at)
        assert {extent.chunk for extent in found.extents} - {1} <= set(found.places)


def test_what_takes_too_long_to_put_in_is_asked_for_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts_module, "_POINTED_MAX", 2)
    file = Scattered(8 * MIB)
    file.read(0)
    place = {ChunkId(7): ChunkPlace(ChunkId(7), PAGE, ())}
    file.layouts.point([Extent(number * PAGE, PAGE, ChunkId(7), 0) for number in range(2)], place)
    assert file.layouts.find(0, PAGE) is not None
    file.layouts.point([Extent(number * PAGE, PAGE, ChunkId(7), 0) for number in range(3)], place)
    assert file.layouts.find(0, PAGE) is None


def test_what_is_put_in_counts_as_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    file = Scattered(8 * MIB)
    file.read(0)
    monkeypatch.setattr(limits, "LAYOUT_KEPT_EXTENTS", file.told + 10)
    for number in range(100):
        chunk = ChunkId(number + 2)
        inside = Extent(number * PAGE + 100, 50, chunk, 0)
        file.layouts.point([inside], {chunk: ChunkPlace(chunk, 50, ())})
    assert file.layouts.find(0, PAGE) is None
