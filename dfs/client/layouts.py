"""What is known of where a file's bytes are, in one version of it.

One question tells of most files whole. A file that was written at random has more extents than one answer holds, and a
full one takes the NameNode and its client milliseconds: so from then on questions are for stretches of the file that
have about an eighth as many, as far as can be told, and what they say is kept as well. Who reads such a file at random
has soon asked for all of it, or for as much as is kept.

What this client commits itself is put in (`point`), or who reads and writes by turns would ask after each change.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
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


class Layouts:
    """One file's. `_starts` is where each begins, in order, `_kept` what it is, `_order` the places as they came.

    `_stretch_bytes` is how much to ask for at a time, from a multiple of it on; None while one answer is enough.
    """

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._kept: dict[int, Layout] = {}
        self._order: deque[int] = deque()
        self._extents = 0
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
        return layout if end <= layout.end else None

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
        self._extents += len(layout.extents)
        self._bound()

    def _bound(self) -> None:
        while self._extents > limits.LAYOUT_KEPT_EXTENTS:
            self._drop(self._order[0])

    def _drop(self, start: int) -> None:
        self._order.remove(start)
        del self._starts[bisect_left(self._starts, start)]
        self._extents -= len(self._kept.pop(start).extents)

    def point(self, extents: Sequence[Extent], places: Mapping[ChunkId, ChunkPlace]) -> None:
        """These have become the file's, in place of what was there; and where their chunks are."""
        if len(extents) * len(self._order) > _POINTED_MAX:
            self.forget()
        for start in list(self._order):
            layout = self._kept[start]
            for extent in extents:
                if start < extent.end and extent.offset < layout.end:
                    self._extents -= len(layout.extents)
                    _replace(layout.extents, extent)
                    self._extents += len(layout.extents)
                    layout.places[extent.chunk] = places[extent.chunk]
        self._bound()

    def forget(self) -> None:
        """The file has another version now, with about as many extents; or its bytes are elsewhere."""
        self._starts.clear()
        self._kept.clear()
        self._order.clear()
        self._extents = 0


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
