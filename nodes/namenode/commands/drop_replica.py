"""A copy is lost or damaged: it counts no more."""

from __future__ import annotations

from collections.abc import Collection

from dfs.types import ChunkId
from nodes.namenode.transaction import Transaction


def apply(
    tx: Transaction, chunk: ChunkId, node: str, trusted: Collection[str], short: Collection[tuple[str, int]]
) -> bool:
    """The copy on `node` does not count any more. It is not to be deleted: should it come back, a report says so.

    Refused, with False, unless another node has one for sure (`Transaction.is_elsewhere`): several nodes may report at
    once, and each of them sees the others still counted.
    """
    known = tx.one("SELECT id FROM node WHERE name = ?", node)
    if known is None or not tx.is_elsewhere(chunk, node, trusted, short):
        return False
    return tx.forget_replica(chunk, known[0])
