"""A node holds a copy that nobody knows of."""

from __future__ import annotations

from collections.abc import Sequence

from dfs.types import ChunkId
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, node: str, chunks: Sequence[ChunkId]) -> None:
    """Have those deleted, after the grace period, that still are not known and not to be deleted already.

    What files have bytes in stays: the tables lack it, and `dfs fsck --repair` enters it again. Other orders to cut or
    punch such a copy, from when its chunk was known, are void.
    """
    known = tx.one("SELECT id FROM node WHERE name = ?", node)
    if known is None:
        return
    for chunk in chunks:
        copy = chunk, known[0]
        if tx.one("SELECT 1 FROM replica WHERE chunk = ? AND node = ?", *copy) or tx.lacks(chunk):
            continue
        tx.run("DELETE FROM work WHERE chunk = ? AND node = ? AND kind != 'delete'", *copy)
        if not tx.one("SELECT 1 FROM work WHERE chunk = ? AND node = ?", *copy):
            tx.add_work(known[0], "delete", chunk, None, tx.now_ns + tx.grace_ns)
