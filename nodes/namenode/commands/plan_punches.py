"""Freed bytes that are due become orders to the nodes that hold them."""

from __future__ import annotations

from typing import Final

from dfs.grants import merged
from dfs.types import ChunkId
from nodes.namenode.transaction import Transaction

_CHUNKS: Final = 64
RANGES: Final = 4096
"""In one order, and in all of one command: some ten milliseconds."""


def apply(tx: Transaction) -> bool:
    """Order some punches of a few sealed chunks; whether there may be more that are due."""
    due = tx.all(
        "SELECT t.chunk FROM trim t INDEXED BY trim_by_time JOIN chunk c ON c.chunk = t.chunk AND c.session = 0"
        " WHERE t.due_ns <= ? ORDER BY t.due_ns LIMIT ?",
        *(tx.now_ns, RANGES),
    )
    chunks = list(dict.fromkeys(chunk for (chunk,) in due))
    room = RANGES
    for chunk in chunks[:_CHUNKS]:
        room -= _order(tx, chunk, room)
        if not room:
            return True
    return len(chunks) > _CHUNKS


def _order(tx: Transaction, chunk: ChunkId, most: int) -> int:
    """Order the first punches of a chunk that are due; how many ranges of `trim` they are."""
    rows = tx.all(
        "SELECT offset, length FROM trim WHERE chunk = ? AND due_ns <= ? ORDER BY offset LIMIT ?",
        *(chunk, tx.now_ns, most),
    )
    ranges = [[start, end - start] for start, end in merged((offset, offset + length) for offset, length in rows)]
    for node in tx.holders(chunk):
        tx.add_work(node, "punch", chunk, ranges, tx.now_ns)
    return tx.run("DELETE FROM trim WHERE chunk = ? AND due_ns <= ? AND offset <= ?", chunk, tx.now_ns, rows[-1][0])
