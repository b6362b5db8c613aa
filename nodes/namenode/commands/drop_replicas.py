"""Copies of one node are lost or damaged: they count no more."""

from __future__ import annotations

from collections.abc import Sequence

from dfs.types import ChunkId
from nodes.namenode.transaction import Transaction


def apply(
    tx: Transaction, node: str, chunks: Sequence[ChunkId], trusted: Sequence[str], short: Sequence[tuple[str, int]]
) -> list[ChunkId]:
    """The copies of these chunks on `node` do not count any more; those that do.

    They are not to be deleted: should one come back, a report says so. One goes on counting unless another node has one
    for sure (`Transaction.is_elsewhere`): several nodes may report at once, and each of them sees the others still
    counted.
    """
    known = tx.one("SELECT id FROM node WHERE name = ?", node)
    if known is None:
        return []
    good, bad = set(trusted), set(short)
    kept = []
    for chunk in chunks:
        if tx.is_elsewhere(chunk, node, good, bad):
            tx.forget_replica(chunk, known[0])
        elif known[0] in tx.holders(chunk):
            kept.append(chunk)
    return kept
