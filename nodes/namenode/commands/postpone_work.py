"""DataNodes could not do what they were told: their orders are given again later."""

from __future__ import annotations

from collections.abc import Sequence

from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, node: str, ids: Sequence[int], delay_ns: int) -> None:
    """Give these orders to `node` again, but later: those that it can follow come first."""
    for number in ids:
        tx.run(
            "UPDATE work SET due_ns = ? WHERE id = ? AND node = (SELECT id FROM node WHERE name = ?)",
            *(tx.now_ns + delay_ns, number, node),
        )
