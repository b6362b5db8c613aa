"""Freed bytes that are due become orders to the nodes that hold them."""

from __future__ import annotations

from collections.abc import Iterable

from nodes.namenode.transaction import Transaction

_CHUNKS = 64
RANGES = 4096
"""In one order."""


def apply(tx: Transaction) -> bool:
    """Order the punches of a few sealed chunks; whether there may be more that are due."""
    chunks = tx.all(
        "SELECT DISTINCT t.chunk FROM trim t JOIN chunk c ON c.chunk = t.chunk AND c.session = 0 WHERE t.due_ns <= ?"
        " LIMIT ?",
        *(tx.now_ns, _CHUNKS),
    )
    for (chunk,) in chunks:
        rows = tx.all(
            "SELECT offset, length FROM trim WHERE chunk = ? AND due_ns <= ? ORDER BY offset LIMIT ?",
            *(chunk, tx.now_ns, RANGES),
        )
        ranges = joined(rows)
        for node in tx.holders(chunk):
            tx.add_work(node, "punch", chunk, ranges, tx.now_ns)
        for offset, _ in rows:
            tx.run("DELETE FROM trim WHERE chunk = ? AND offset = ?", chunk, offset)
    return len(chunks) == _CHUNKS


def joined(rows: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Ranges in order, neighbours made one."""
    ranges: list[list[int]] = []
    for offset, length in rows:
        if ranges and ranges[-1][0] + ranges[-1][1] == offset:
            ranges[-1][1] += length
        else:
            ranges.append([offset, length])
    return ranges
