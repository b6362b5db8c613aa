"""The NameNode starts, perhaps on an old copy of its database: numbers that were given since then stay given.

Or on a new one, as the disk of the old one is not mounted, or lost. A DataNode that comes late would have its old chunk
taken for a new one of the same number, a client that outlived the restoring its session for somebody else's. So numbers
begin where no earlier life can have come to by this time.
"""

from __future__ import annotations

from typing import Final

from nodes.namenode.commands import skip_chunks
from nodes.namenode.transaction import Transaction

_CHUNKS_PER_S: Final = 1 << 16
_SESSIONS_PER_S: Final = 1 << 6
"""More than are given, in the long run."""


def apply(tx: Transaction) -> None:
    """Numbers of chunks and sessions go on where the clock is, if that is further."""
    now_s = tx.now_ns // 1_000_000_000
    skip_chunks.apply(tx, now_s * _CHUNKS_PER_S - 1)
    tx.counters["next_session"] = max(tx.counters["next_session"], now_s * _SESSIONS_PER_S)
