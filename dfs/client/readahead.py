"""What is read of an open file, and what is fetched ahead for who reads it in order.

Who reads in order (`sequential`) is given a READ_AHEAD_BYTES segment at a time, and up to READ_AHEAD_MAX segments are
fetched ahead of him. Segments and extents (`layouts`) are kept only as long as the inode's version does not change:
every attribute that comes by (`note`) is compared, and the kernel asks for attributes before each read. Of what is
committed here (`committed`) the extents are known.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import trio

from dfs import errors, limits, tasks
from dfs.checksum import Buffer
from dfs.client.layouts import KeptLayouts, Layouts
from dfs.client.reader import Reader
from dfs.client.sequential import Streams
from dfs.client.writer import Lane
from dfs.types import Attr, Extent

_SEGMENTS_KEPT: Final = 2 * limits.READ_AHEAD_MAX
"""Of one inode: those ahead of its reader, and as many behind."""


class Bounds(Protocol):
    """What all open files have in common. `layouts`: what is kept of where their bytes are."""

    layouts: KeptLayouts

    def start(self, work: Callable[..., Any], *args: Any) -> None:
        """Run a task."""

    def count_read_ahead(self, change: int) -> None:
        """So many bytes more are kept."""

    def may_read_ahead(self) -> bool: ...


class _Segment:
    """READ_AHEAD_BYTES of a file, or fewer at its end, on their way. `done`: `view` is there, or never will be."""

    __slots__ = ("done", "view")

    def __init__(self) -> None:
        self.view: memoryview | None = None
        self.done = trio.Event()

    @property
    def has_failed(self) -> bool:
        return self.view is None and self.done.is_set()


class ReadAhead:
    """Of one file."""

    def __init__(self, attr: Attr, reader: Reader, bounds: Bounds) -> None:
        self._attr = attr
        self._reader = reader
        self._bounds = bounds
        self._layouts = Layouts(bounds.layouts)
        self._segments: OrderedDict[int, _Segment] = OrderedDict()
        self._streams = Streams()

    def note(self, attr: Attr) -> None:
        """The attributes of the file: what was read of another version is forgotten."""
        if attr.version != self._attr.version:
            self._layouts.forget()
            self.forget_segments()
        self._attr = attr

    def committed(self, attr: Attr, extents: Sequence[Extent], reach: Mapping[Lane, int]) -> None:
        """The attributes after a commit of this client's, what it was of, and how far into which lanes that reaches.

        `note` is for other changes.
        """
        if attr.version != self._attr.version + 1:
            return  # there were others: `note` has come, or will
        self._attr = attr
        if self._layouts:
            self._layouts.point(extents, {lane.chunk: lane.place(length) for lane, length in reach.items()})
        self.forget_segments()

    async def read(self, offset: int, count: int) -> Buffer | None:
        """The bytes from `offset` on, 1 or more, all of them before the end of file; None if that changed meanwhile."""
        size = limits.READ_AHEAD_BYTES
        first, last = offset // size, (offset + count - 1) // size
        steps = self._streams.note(offset, count)
        is_there = all(number in self._segments for number in range(first, last + 1))
        if steps < limits.STREAM_SURE_AFTER and not is_there:
            return await self._read_directly(offset, count)
        ahead = min(steps, limits.READ_AHEAD_MAX) if offset else 0
        version = self._attr.version
        pieces = []
        for number in range(first, last + 1):
            segment = self._segment(number)
            if number == last:
                self._fetch_ahead(last, ahead)
            await segment.done.wait()  # bounded: the reader gives up by its own deadlines
            if segment.view is None:
                return await self._read_directly(offset, count)
            pieces.append(segment.view[max(0, offset - number * size) : max(0, offset + count - number * size)])
        if self._attr.version != version:
            return None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _bytes(self, offset: int, count: int) -> memoryview | None:
        """As `_fill`, in memory that comes with them; None where that is False."""
        layout = self._layouts.find(offset, offset + count) if count else None
        view = await self._reader.read_whole(layout, offset, count) if layout is not None else None
        if view is None:
            view = memoryview(bytearray(count))
            if not await self._fill(offset, view):
                return None
        return view

    async def _read_directly(self, offset: int, count: int) -> Buffer | None:
        buffer = bytearray(count)
        return buffer if await self._fill(offset, memoryview(buffer)) else None

    async def _fill(self, offset: int, view: memoryview) -> bool:
        """Fill `view`; False if the file has another size than was known, so that it may not hold as much, or more."""
        layout = self._layouts.find(offset, offset + len(view))
        if layout is None:
            start, length = self._layouts.stretch(offset, len(view))
            size = self._attr.size
            layout = await self._reader.inodes.layout(self._attr.ino, start, length)
            if layout.attr.version == self._attr.version:
                self._layouts.keep(start, length, layout)
            if layout.attr.size != size:
                return False
            if offset + len(view) > layout.end:
                return await self._reader.read_into(self._attr.ino, offset, view) == len(view)
        filled = await self._reader.fill(self._attr.ino, layout, offset, view)
        if not filled.was_good:
            self._layouts.forget()
        return filled.length == len(view)

    def _segment(self, number: int) -> _Segment:
        segment = self._segments.get(number)
        if segment is None or segment.has_failed:
            if segment is None:
                self._bounds.count_read_ahead(limits.READ_AHEAD_BYTES)
            segment = self._segments[number] = _Segment()
            self._bounds.start(tasks.in_advance, self._fetch, number, segment)
        self._segments.move_to_end(number)
        while len(self._segments) > _SEGMENTS_KEPT:
            self._segments.popitem(last=False)
            self._bounds.count_read_ahead(-limits.READ_AHEAD_BYTES)
        return segment

    def _fetch_ahead(self, number: int, count: int) -> None:
        for following in range(number + 1, number + 1 + count):
            if following * limits.READ_AHEAD_BYTES >= self._attr.size or not self._bounds.may_read_ahead():
                return
            self._segment(following)

    async def _fetch(self, number: int, segment: _Segment) -> None:
        offset = number * limits.READ_AHEAD_BYTES
        try:
            segment.view = await self._bytes(offset, max(0, min(limits.READ_AHEAD_BYTES, self._attr.size - offset)))
        except errors.DfsError:
            pass  # of bytes that nobody has asked for, perhaps: who does hears of it
        finally:
            segment.done.set()

    def forget(self) -> None:
        """Nobody has it open."""
        self._layouts.forget()
        self.forget_segments()

    def forget_segments(self) -> None:
        self._bounds.count_read_ahead(-limits.READ_AHEAD_BYTES * len(self._segments))
        self._segments.clear()
        self._streams.forget()
