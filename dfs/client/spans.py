"""Bytes of a chunk that are read together though they are not in one piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """`length` bytes of a chunk, 1 or more, from `offset` on."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length


def parts(view: memoryview, spans: Sequence[Span]) -> Iterator[tuple[Span, memoryview]]:
    """Each span with its part of `view`, which has room for all of them one after the other."""
    position = 0
    for span in spans:
        yield span, view[position : position + span.length]
        position += span.length
