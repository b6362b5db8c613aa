"""Chunks that wait for a copy, those with the fewest live ones first.

Memory is bounded: of more than `most` chunks the least urgent are forgotten, and `overflowed` says that there are
others, which the next round over all chunks finds. So what is remembered is always the most urgent part, whatever the
cluster's size. Chunks that are equally urgent wait in the order they came; one that cannot be served now goes to the
end.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from dfs.types import ChunkId


class Backlog:
    """Each chunk is in one queue: that of its urgency, the number of its live copies (fewer are more urgent)."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._queues: dict[int, dict[ChunkId, None]] = {}
        self._urgency: dict[ChunkId, int] = {}
        self.overflowed = False

    def __len__(self) -> int:
        return len(self._urgency)

    def __contains__(self, chunk: ChunkId) -> bool:
        return chunk in self._urgency

    def put(self, chunk: ChunkId, live: int) -> None:
        """Add a chunk, or note how many copies it has now; one that waits already keeps its place among its equals."""
        if self._urgency.get(chunk) == live:
            return
        self.discard(chunk)
        self._urgency[chunk] = live
        self._queues.setdefault(live, {})[chunk] = None
        if len(self._urgency) > self._most:
            self.overflowed = True
            self.discard(next(reversed(self._queues[max(self._queues)])))

    def discard(self, chunk: ChunkId) -> None:
        live = self._urgency.pop(chunk, None)
        if live is not None:
            queue = self._queues[live]
            del queue[chunk]
            if not queue:
                del self._queues[live]

    def defer(self, chunk: ChunkId) -> None:
        """It cannot be served now: behind its equals."""
        queue = self._queues[self._urgency[chunk]]
        del queue[chunk]
        queue[chunk] = None

    def first(self, count: int) -> list[ChunkId]:
        """The most urgent ones."""
        return list(islice(self._in_order(), count))

    def _in_order(self) -> Iterator[ChunkId]:
        for live in sorted(self._queues):
            yield from self._queues[live]
