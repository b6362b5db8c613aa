"""A node holds copies of sealed chunks."""

from __future__ import annotations

from collections.abc import Sequence

from dfs.types import ChunkId
from nodes.namenode.commands.plan_punches import RANGES
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, node: str, copies: Sequence[tuple[ChunkId, int]]) -> list[bool]:
    """Count each (chunk, length), unless the chunk has changed or the copy is to be deleted; which of them count.

    Copies of chunks that are gone are deleted, after the grace period, unless files have bytes in them (`lacks`). Bytes
    that the other copies were told to free by now are freed in this one as well: it may have been begun before that,
    and one that was mended may have lacked them.
    """
    known = tx.one("SELECT id FROM node WHERE name = ?", node)
    return [known is not None and _count(tx, known[0], chunk, length) for chunk, length in copies]


def _count(tx: Transaction, node: int, chunk: ChunkId, length: int) -> bool:
    if tx.one("SELECT 1 FROM work WHERE chunk = ? AND node = ? AND kind = 'delete'", chunk, node):
        return False
    row = tx.one("SELECT length, session FROM chunk WHERE chunk = ?", chunk)
    if row is None:
        if not tx.lacks(chunk):
            tx.add_work(node, "delete", chunk, None, tx.now_ns + tx.grace_ns)
        return False
    if row != (length, 0):
        return False
    tx.run("INSERT OR IGNORE INTO replica VALUES (?, ?)", chunk, node)
    tx.add_work(node, "cut", chunk, length, tx.now_ns)  # it may have a tail that nobody committed
    freed = tx.gaps(chunk)
    for at in range(0, len(freed), RANGES):
        tx.add_work(node, "punch", chunk, freed[at : at + RANGES], tx.now_ns)
    return True
