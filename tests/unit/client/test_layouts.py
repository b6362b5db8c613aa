"""What is kept of where a file's bytes are, and how much is asked for at a time."""

from __future__ import annotations

from random import Random

import pytest

from dfs import limits
from dfs.client.inodes import Layout
from dfs.client.layouts import Layouts
from dfs.types import Attr, ChunkId, Extent

KIB, MIB, GIB = limits.KIB, limits.MIB, limits.GIB
PAGE = 4 * KIB
ATTR = Attr._make([0] * len(Attr._fields))


class Scattered:
    """A file of `size` bytes, an extent for each page, and what is known of it; `asked` counts questions."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.layouts = Layouts()
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
