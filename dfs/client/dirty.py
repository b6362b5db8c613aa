"""Bytes that were written to a file and are still in this process's memory.

Ranges in order, not overlapping, none longer than `DIRTY_RANGE_MAX_BYTES`; a later write covers an earlier one.
Sequential writes grow one range as far as that, so that a stream leaves in full pieces; `take` hands out the lowest
first. `bytes` of a full piece are kept as they are, and not copied.
"""

from __future__ import annotations

from sortedcontainers import SortedDict

from dfs import limits
from dfs.checksum import Buffer


class DirtyRanges:
    """One file's. `length_bytes` is what they take in memory; `end` the end of the last, 0 if there is none."""

    def __init__(self) -> None:
        self._ranges: SortedDict[int, bytes | bytearray] = SortedDict()
        self.length_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._ranges)

    @property
    def end(self) -> int:
        if not self._ranges:
            return 0
        offset, data = self._ranges.peekitem(-1)
        return int(offset) + len(data)

    def write(self, offset: int, data: Buffer) -> None:
        """Make `data` the file's bytes at `offset`."""
        if isinstance(data, bytes) and len(data) == limits.DIRTY_RANGE_MAX_BYTES:
            self._make_room(offset, offset + len(data))
            self._put(offset, data)
            return
        view = memoryview(data)
        for start in range(0, len(view), limits.DIRTY_RANGE_MAX_BYTES):
            self._write(offset + start, view[start : start + limits.DIRTY_RANGE_MAX_BYTES])

    def _write(self, offset: int, data: memoryview) -> None:
        end = offset + len(data)
        self._make_room(offset, end)
        index = self._ranges.bisect_left(offset) - 1
        if index >= 0:
            first, before = self._ranges.peekitem(index)
            if first + len(before) == offset and len(before) + len(data) <= limits.DIRTY_RANGE_MAX_BYTES:
                if isinstance(before, bytes):  # what a later write left of a full piece
                    before = self._ranges[first] = bytearray(before)
                before += data
                self.length_bytes += len(data)
                return
        self._put(offset, bytearray(data))

    def _put(self, offset: int, data: bytes | bytearray) -> None:
        self._ranges[offset] = data
        self.length_bytes += len(data)

    def _make_room(self, start: int, end: int) -> None:
        """Take [start, end) out of what is there."""
        index = max(0, self._ranges.bisect_right(start) - 1)
        while index < len(self._ranges):
            offset, data = self._ranges.peekitem(index)
            last = offset + len(data)
            if offset >= end:
                return
            if last <= start:
                index += 1
                continue
            del self._ranges[offset]
            self.length_bytes -= len(data)
            for first, piece in ((offset, data[: max(0, start - offset)]), (end, data[max(0, end - offset) :])):
                if piece and (first == offset or last > end):
                    self._put(first, piece)
            index = max(0, self._ranges.bisect_right(start) - 1)
            if offset < start:
                index += 1

    def touches(self, start: int, end: int) -> bool:
        """Whether any byte of [start, end) is here."""
        index = self._ranges.bisect_left(end) - 1
        if index < 0:
            return False
        offset, data = self._ranges.peekitem(index)
        return bool(offset + len(data) > start)

    def take(self, limit_bytes: int) -> list[tuple[int, Buffer]]:
        """The lowest ranges, at least one if there is any, together at most `limit_bytes`; they are gone from here."""
        taken: list[tuple[int, Buffer]] = []
        total = 0
        while self._ranges:
            offset, data = self._ranges.peekitem(0)
            if taken and total + len(data) > limit_bytes:
                break
            del self._ranges[offset]
            taken.append((offset, data))
            total += len(data)
        self.length_bytes -= total
        return taken
