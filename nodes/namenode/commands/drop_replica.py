"""A copy is lost, damaged or one too many."""

from __future__ import annotations

from dfs.types import ChunkId
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, chunk: ChunkId, node: str) -> None:
    """The copy on `node` does not count any more and is to be deleted there, if it is still there."""
    known = tx.one("SELECT id FROM node WHERE name = ?", node)
    if known:
        tx.drop_replicas(chunk, [known[0]], tx.now_ns + tx.grace_ns)
