"""Which bytes of one file have left memory and are not committed yet: they can be read neither here nor there.

They are committed in the order in which they left, so a commit of so many bytes is of the first ones. After some of
them were lost more are in here than there are, until `clear`: who asks waits in vain then, and is told nothing wrong.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from dfs.checksum import Buffer

_LOOKS_MAX: Final = 1024
"""Ranges that are looked at before any byte is taken to be among them."""


class InFlight:
    """Ranges of bytes, in the order in which they left. Those that continue one another are one."""

    __slots__ = ("_ranges",)

    def __init__(self) -> None:
        self._ranges: deque[tuple[int, int]] = deque()

    @property
    def length_bytes(self) -> int:
        return sum(end - start for start, end in self._ranges)

    def add(self, pieces: Iterable[tuple[int, Buffer]]) -> None:
        """Pieces of the file (offset, bytes) leave."""
        for start, data in pieces:
            end = start + len(data)
            if self._ranges and self._ranges[-1][1] == start:
                start, _ = self._ranges.pop()
            self._ranges.append((start, end))

    def committed(self, length_bytes: int) -> None:
        """So many of them are, the first ones."""
        while length_bytes and self._ranges:
            start, end = self._ranges.popleft()
            if end - start > length_bytes:
                self._ranges.appendleft((start + length_bytes, end))
                return
            length_bytes -= end - start

    def touches(self, start: int, end: int) -> bool:
        """Whether any byte of [start, end) may be among them."""
        return len(self._ranges) > _LOOKS_MAX or any(first < end and start < last for first, last in self._ranges)

    def clear(self) -> None:
        """There are none."""
        self._ranges.clear()
