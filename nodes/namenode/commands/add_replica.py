"""A node holds a copy of a sealed chunk."""

from __future__ import annotations

from dfs.types import ChunkId
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, chunk: ChunkId, node: str, length: int) -> bool:
    """Count it, unless the chunk has changed or the copy is to be deleted; whether it counts."""
    row = tx.one("SELECT length FROM chunk WHERE chunk = ? AND session = 0", chunk)
    known = tx.one("SELECT id FROM node WHERE name = ?", node)
    if row is None or known is None or row[0] != length:
        return False
    if tx.one("SELECT 1 FROM work WHERE chunk = ? AND node = ? AND kind = 'delete'", chunk, known[0]):
        return False
    if tx.run("INSERT OR IGNORE INTO replica VALUES (?, ?)", chunk, known[0]):
        tx.add_work(known[0], "cut", chunk, length, tx.now_ns)  # it may have a tail that nobody committed
    return True
