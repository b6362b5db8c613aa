"""A DataNode's report against what the NameNode believes: which copies are lost, which are back, which are strays.

`compare` is a pure function over one slice of chunk numbers. Only what the node has not touched for a while
(`settled`) is acted on, and only what two reports in a row lack is lost (`Doubts`), so that a report cannot disagree
merely because it was on its way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from dfs.types import ChunkId, NodeId


class Doubts:
    """Copies that a report lacked, until the node's next report of them.

    A copy counts only once the node has it, but a report may have been made before that, and come after. So a copy is
    lost when two reports in a row lack it: the second one was begun when the first was answered.
    """

    def __init__(self) -> None:
        self._doubted: dict[NodeId, set[ChunkId]] = {}

    def lost_again(self, node: NodeId, lost: Iterable[ChunkId]) -> list[ChunkId]:
        """Those that the node's last report lacked as well."""
        before = self._doubted.get(node, ())
        return [chunk for chunk in lost if chunk in before]

    def note(self, node: NodeId, lost: Iterable[ChunkId]) -> None:
        """These a report lacked, and none of them again. To be called when the others are dropped, and not before."""
        self._doubted[node] = set(lost)
        if not self._doubted[node]:
            del self._doubted[node]


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

    `lost`: there is no copy. `short`: it has not all that was committed. `unsure`: likewise, but the rest may have been
    on its way. `back`: count it; one that is `short`, too, may have bytes that no other copy has, and is mended or
    dropped as all those are. `strays`: have them deleted, as nothing needs the chunk. `unknown`: chunks with numbers
    that were never given, which nobody touches.
    """

    lost: list[ChunkId]
    short: list[ChunkId]
    unsure: list[ChunkId]
    back: list[ChunkId]
    strays: list[ChunkId]
    unknown: list[ChunkId]


def compare(
    held: Mapping[ChunkId, Held],
    believed: Mapping[ChunkId, Believed],
    next_chunk: int,
    skipped: Sequence[tuple[int, int]] = (),
) -> Differences:
    """Compare one slice. `next_chunk` is the first number that was not given yet.

    `skipped` are ranges of lower ones, first and last, that were not given either.
    """
    found = Differences([], [], [], [], [], [])
    for chunk, (length, is_open, is_counted) in believed.items():
        copy = held.get(chunk)
        if is_open:
            continue
        if copy is None:
            if is_counted and length:
                found.lost.append(chunk)
        elif is_counted:
            if copy.length < length:
                (found.short if copy.settled else found.unsure).append(chunk)
        elif copy.settled:
            found.back.append(chunk)
            if copy.length < length:
                found.short.append(chunk)
    for chunk in [each for each in held if each not in believed]:
        if chunk >= next_chunk or any(low <= chunk <= high for low, high in skipped):
            found.unknown.append(chunk)
        elif held[chunk].settled:
            found.strays.append(chunk)
    return found
