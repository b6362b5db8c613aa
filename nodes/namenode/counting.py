"""How many rows there are of what may be many: counted on a worker thread, and told again for some time.

Counting takes a part of a second where there are millions, and who waits for something asks every now and then. So what
was counted is told for ten times as long as that took: of a small cluster always anew.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import trio

from dfs.runtime import Runtime
from nodes.namenode.store import Store

_AGE: Final = 10.0
"""For so many times as long as they took to count, counts are told."""


class Counts(NamedTuple):
    """`orders` are those to DataNodes; `deletions`, of these, by node, with those whose grace period is not over."""

    chunks: int
    orders: int
    deletions: dict[str, int]


class Counting:
    """May be asked concurrently: there is one count at a time, for all who ask meanwhile."""

    def __init__(self, store: Store, runtime: Runtime) -> None:
        self._store = store
        self._runtime = runtime
        self._lock = trio.Lock()
        self._found = Counts(0, 0, {})
        self._until = -math.inf

    async def counts(self) -> Counts:
        """Raises `DiskFailed`."""
        async with self._lock:
            began = trio.current_time()
            if began >= self._until:
                self._found = await self._runtime.run_blocking(self._count)
                self._until = trio.current_time() + _AGE * (trio.current_time() - began)
            return self._found

    def _count(self) -> Counts:
        """Blocks."""
        with self._store.translating():
            ask = self._store.counts.execute
            deletions = ask(
                "SELECT n.name, w.orders FROM (SELECT node, count(*) AS orders FROM work INDEXED BY deletion_by_node"
                " WHERE kind = 'delete' GROUP BY node) w JOIN node n ON n.id = w.node"
            )
            chunks, orders = ask("SELECT (SELECT count(*) FROM chunk), (SELECT count(*) FROM work)").fetchone()
            return Counts(chunks, orders, dict(deletions))
