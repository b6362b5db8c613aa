"""DataNodes did what they were told: their orders are forgotten."""

from __future__ import annotations

from collections.abc import Sequence

from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, node: str, ids: Sequence[int]) -> None:
    """Forget these orders to `node`."""
    for number in ids:
        tx.run("DELETE FROM work WHERE id = ? AND node = (SELECT id FROM node WHERE name = ?)", number, node)
