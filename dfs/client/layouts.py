"""What is known of where a file's bytes are, in one version of it.

One question tells of most files whole. A file that was written at random has more extents than one answer holds, and a
full one takes the NameNode and its client milliseconds: so from then on questions are for stretches of the file that
have about an eighth as many, as far as can be told, and what they say is kept as well. Who reads such a file at random
has soon asked for all of it, or for as much as is kept.

What this client commits itself is put in (`point`), or who reads and writes by turns would ask after each change.

What is kept of all open files is bounded together (`KeptLayouts`): a program may have hundreds of such files open.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Final

from dfs import limits
from dfs.client.inodes import Layout
from dfs.types import ChunkId, ChunkPlace, Extent

_SHARE: Final = 8
"""Of a full answer, what a stretch is to have: so many stretches cost as much as one answer."""
_POINTED_MAX: Final = 256
"""Extents times layouts, a millisecond or two: with more they are asked for anew."""
_OFFSET: Final = itemgetter(0)
_LAYOUT_WORTH: Final = 5
"""As much memory as so many extents take what is kept of a hole, and"""
_PLACE_WORTH: Final = 2
"""where a chunk is, with its grant."""


class KeptLayouts:
    """Of all open files of one client: as much as LAYOUT_KEPT_EXTENTS extents take.

    Of more, what came first goes first of the file that was used least recently. `_files`: those of which something is
    known, the most recently used last. Invariant: `extents` is the sum of what is kept of these, in extents.
    """

    def __init__(self) -> None:
        self.extents = 0
        self._files: OrderedDict[Layouts, None] = OrderedDict()

    def use(self, file: Layouts) -> None:
        """It is of use now, and something is known of it."""
        self._files[file] = None
        self._files.move_to_end(file)

    def count(self, change: int) -> None:
        """So much more is kept."""
        self.extents += change

    def leave(self, file: Layouts) -> None:
        """Nothing is known of it any more."""
        self._files.pop(file, None)

    def bound(self) -> None:
        while self.extents > limits.LAYOUT_KEPT_EXTENTS:
            next(iter(self._files)).drop_oldest()


class Layouts:
    """One file's. `_starts` is where each begins, in order, `_kept` what it is, `_order` the places as they came.

    `_stretch_bytes` is how much to ask for at a time, from a multiple of it on; None while one answer is enough.
    """

    def __init__(self, all_kept: KeptLayouts) -> None:
        self._all_kept = all_kept
        self._starts: list[int] = []
        self._kept: dict[int, Layout] = {}
        self._order: deque[int] = deque()
        self._stretch_bytes: int | None = None

    def __bool__(self) -> bool:
        """Whether anything is known."""
        return bool(self._starts)

    def find(self, offset: int, end: int) -> Layout | None:
        """What covers all of [offset, end)."""
        index = bisect_right(self._starts, offset) - 1
        if index < 0:
            return None
        layout = self._kept[self._starts[index]]
        if end > layout.end:
            return None
        self._all_kept.use(self)
        return layout

    def stretch(self, offset: int, length: int) -> tuple[int, int]:
        """Where to begin, and how much to ask for, when [offset, offset + length) is to be known."""
        if self._stretch_bytes is None:
            return offset, max(length, limits.LAYOUT_BYTES)
        start = offset - offset % self._stretch_bytes
        return start, max(offset + length - start, self._stretch_bytes)

    def keep(self, start: int, length: int, layout: Layout) -> None:
        """`layout` was the answer to a question for [start, start + length)."""
        if layout.end < start + length:
            share = max(limits.LAYOUT_STRETCH_MIN_BYTES, (layout.end - start) // _SHARE)
            stretch_bytes = 1 << share.bit_length() - 1  # a power of two: those asked for later divide those of now
            self._stretch_bytes = min(stretch_bytes, self._stretch_bytes or stretch_bytes)
        if start in self._kept:
            self._drop(start)
        self._starts.insert(bisect_left(self._starts, start), start)
        self._kept[start] = layout
        self._order.append(start)
        self._all_kept.use(self)
        self._all_kept.count(_worth(layout))
        self._all_kept.bound()

    def drop_oldest(self) -> None:
        """Forget what came first; there is something."""
        self._drop(self._order[0])

    def _drop(self, start: int) -> None:
        self._order.remove(start)
        del self._starts[bisect_left(self._starts, start)]
        self._all_kept.count(-_worth(self._kept.pop(start)))
        if not self._kept:
            self._all_kept.leave(self)

    def point(self, extents: Sequence[Extent], places: Mapping[ChunkId, ChunkPlace]) -> None:
        """These have become the file's, in place of what was there; and where their chunks are."""
        if len(extents) * len(self._order) > _POINTED_MAX:
            self.forget()
        for start, layout in self._kept.items():
            before = _worth(layout)
            for extent in extents:
                if start < extent.end and extent.offset < layout.end:
                    _replace(layout.extents, extent)
                    layout.places[extent.chunk] = places[extent.chunk]
            self._all_kept.count(_worth(layout) - before)
        self._all_kept.bound()

    def forget(self) -> None:
        """The file has another version now, with about as many extents; or its bytes are elsewhere; or it is closed."""
        self._all_kept.count(-sum(map(_worth, self._kept.values())))
        self._all_kept.leave(self)
        self._starts.clear()
        self._kept.clear()
        self._order.clear()


def _worth(layout: Layout) -> int:
    """How many extents take as much memory."""
    return _LAYOUT_WORTH + len(layout.extents) + _PLACE_WORTH * len(layout.places)


def _replace(extents: list[Extent], new: Extent) -> None:
    """Put an extent among others, which are in order, in place of what they have there."""
    first = bisect_right(extents, new.offset, key=_OFFSET)
    if first and extents[first - 1].end > new.offset:
        first -= 1
    last = bisect_left(extents, new.end, first, key=_OFFSET)
    put = [new]
    if first < last:
        before, behind = extents[first], extents[last - 1]
        if before.offset < new.offset:
            put.insert(0, before._replace(length=new.offset - before.offset))
        if new.end < behind.end:
            skipped = new.end - behind.offset
            put.append(Extent(new.end, behind.length - skipped, behind.chunk, behind.chunk_offset + skipped))
    extents[first:last] = put
