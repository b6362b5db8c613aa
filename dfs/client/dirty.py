"""Bytes that were written to a file and are still in this process's memory.

Ranges in order, not overlapping, none longer than `DIRTY_RANGE_MAX_BYTES`; a later write covers an earlier one.
Sequential writes grow one range as far as that, so that a stream leaves in full pieces; `take` hands out the lowest
first. `bytes` of a full piece are kept as they are, and not copied.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from dfs import limits
from dfs.checksum import Buffer


class DirtyRanges:
    """One file's. `length_bytes` is what they take in memory; `end` the end of the last, 0 if there is none.

    `_starts` is where each begins, in order, and `_parts` their bytes.
    """

    __slots__ = ("_parts", "_starts", "length_bytes")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._parts: list[bytes | bytearray] = []
        self.length_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __iter__(self) -> Iterator[tuple[int, Buffer]]:
        """The ranges: where each begins, and its bytes."""
        return zip(self._starts, self._parts, strict=True)

    @property
    def end(self) -> int:
        return self._starts[-1] + len(self._parts[-1]) if self._starts else 0

    def write(self, offset: int, data: Buffer) -> None:
        """Make `data` the file's bytes at `offset`."""
        if isinstance(data, bytes) and len(data) == limits.DIRTY_RANGE_MAX_BYTES:
            self._put(self._make_room(offset, offset + len(data)), offset, data)
            return
        view = memoryview(data)
        for start in range(0, len(view), limits.DIRTY_RANGE_MAX_BYTES):
            self._write(offset + start, view[start : start + limits.DIRTY_RANGE_MAX_BYTES])

    def _write(self, offset: int, data: memoryview) -> None:
        index = self._make_room(offset, offset + len(data))
        if index:
            before = self._parts[index - 1]
            is_next = self._starts[index - 1] + len(before) == offset
            if is_next and len(before) + len(data) <= limits.DIRTY_RANGE_MAX_BYTES:
                if isinstance(before, bytes):  # what a later write left of a full piece
                    before = self._parts[index - 1] = bytearray(before)
                before += data
                self.length_bytes += len(data)
                return
        self._put(index, offset, bytearray(data))

    def _put(self, index: int, offset: int, data: bytes | bytearray) -> None:
        self._starts.insert(index, offset)
        self._parts.insert(index, data)
        self.length_bytes += len(data)

    def _make_room(self, start: int, end: int) -> int:
        """Take [start, end) out of what is there; which number a range has that is put there."""
        first = bisect_right(self._starts, start)
        if first and self._starts[first - 1] + len(self._parts[first - 1]) > start:
            first -= 1
        last = bisect_left(self._starts, end, first)
        if first == last:
            return first
        left = self._parts[first][: max(0, start - self._starts[first])]
        right = self._parts[last - 1][max(0, end - self._starts[last - 1]) :]
        kept = [(offset, piece) for offset, piece in ((self._starts[first], left), (end, right)) if piece]
        self.length_bytes += len(left) + len(right) - sum(map(len, self._parts[first:last]))
        self._starts[first:last] = [offset for offset, _ in kept]
        self._parts[first:last] = [piece for _, piece in kept]
        return first + bool(left)

    def read(self, start: int, end: int) -> bytes | None:
        """The bytes of [start, end), which is not empty; None unless all of them are here."""
        index = bisect_right(self._starts, start) - 1
        if index < 0:
            return None
        pieces, position = [], start
        for number in range(index, len(self._starts)):
            first, data = self._starts[number], self._parts[number]
            if not first <= position < first + len(data):
                return None
            pieces.append(data[position - first : end - first])
            position += len(pieces[-1])
            if position == end:
                return b"".join(pieces)
        return None

    def within(self, start: int, end: int) -> list[tuple[int, bytes]]:
        """Copies of what is here of [start, end): where each begins, and its bytes."""
        found = []
        for number in range(max(0, bisect_right(self._starts, start) - 1), bisect_left(self._starts, end)):
            first, data = self._starts[number], self._parts[number]
            part = bytes(data[max(0, start - first) : end - first])
            if part:
                found.append((max(start, first), part))
        return found

    def take(self, limit_bytes: int) -> list[tuple[int, Buffer]]:
        """The lowest ranges, at least one if there is any, together at most `limit_bytes`; they are gone from here."""
        count = total = 0
        for data in self._parts:
            if count and total + len(data) > limit_bytes:
                break
            count += 1
            total += len(data)
        taken: list[tuple[int, Buffer]] = list(zip(self._starts[:count], self._parts[:count], strict=True))
        del self._starts[:count], self._parts[:count]
        self.length_bytes -= total
        return taken
