"""A copy is lost, damaged or one too many."""

from __future__ import annotations

from dfs.types import ChunkId
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, chunk: ChunkId, node: str, keep: int) -> bool:
    """The copy on `node` does not count any more and is to be deleted there, if it is still there.

    Refused, with False, if fewer than `keep` (1 or more) others would be left: several nodes may report at once, and
    each of them sees the others still counted.
    """
    known = tx.one("SELECT id FROM node WHERE name = ?", node)
    holders = tx.holders(chunk)
    if known is None or known[0] not in holders or len(holders) - 1 < max(1, keep):
        return False
    tx.drop_replicas(chunk, [known[0]], tx.now_ns)  # other copies serve its readers
    return True
