"""A DataNode's report against what the NameNode believes: which copies are lost, which are back, which are strays.

`compare` is a pure function over one slice of chunk numbers. Only what the node has not touched for a while
(`settled`) is acted on, so that a report cannot disagree merely because it was on its way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from dfs import limits
from dfs.types import ChunkId


class Young:
    """Which chunks are so young that a report may be older than they are: numbers grow, so one number says it.

    After a start none is: what was there before, every report should have.
    """

    def __init__(self) -> None:
        self._noted: deque[tuple[float, int]] = deque()

    def note(self, next_chunk: int, now: float) -> int:
        """The first chunk that was given less than `SETTLED_AFTER_S` ago, `next_chunk` being the next one now."""
        if not self._noted or now - self._noted[-1][0] >= 1.0:
            self._noted.append((now, next_chunk))
        while len(self._noted) > 1 and self._noted[1][0] <= now - limits.SETTLED_AFTER_S:
            self._noted.popleft()
        return self._noted[0][1]


class Held(NamedTuple):
    """What the node says: it has `length` bytes of a chunk, unchanged for a while if `settled`."""

    length: int
    settled: bool


class Believed(NamedTuple):
    """What the NameNode says of a chunk in the slice that exists or is counted on this node."""

    length: int
    is_open: bool
    is_counted: bool
    """The node is among its holders."""


class Differences(NamedTuple):
    """What is to be done.

    `lost`: there is no copy. `short`: it has not all that was committed. `back`: count it. `strays`: have them deleted.
    `unknown`: chunks with numbers that were never given, which somebody has to look at.
    """

    lost: list[ChunkId]
    short: list[ChunkId]
    back: list[ChunkId]
    strays: list[ChunkId]
    unknown: list[ChunkId]


def compare(held: Mapping[ChunkId, Held], believed: Mapping[ChunkId, Believed], next_chunk: int) -> Differences:
    """Compare one slice. `next_chunk` is the first number that was not given yet."""
    found = Differences([], [], [], [], [])
    for chunk, known in believed.items():
        copy = held.get(chunk)
        if not known.is_counted or known.is_open or not known.length:
            continue
        if copy is None:
            found.lost.append(chunk)
        elif copy.settled and copy.length < known.length:
            found.short.append(chunk)
    for chunk, copy in held.items():
        known_chunk = believed.get(chunk)
        if not copy.settled or (known_chunk and (known_chunk.is_counted or known_chunk.is_open)):
            continue
        if chunk >= next_chunk:
            found.unknown.append(chunk)
        elif known_chunk and copy.length >= known_chunk.length:
            found.back.append(chunk)
        else:
            found.strays.append(chunk)
    return found
