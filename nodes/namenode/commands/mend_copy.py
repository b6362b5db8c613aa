"""A DataNode has not the copy that it is counted for."""

from __future__ import annotations

from typing import Any

from nodes.namenode import arguments
from nodes.namenode.commands import drop_replica
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, chunk: Any, node: Any) -> list[str]:
    """Count it no more, so that another is made; what was done. The last copy stays: its node may get it back."""
    number, name = arguments.chunk(chunk), arguments.text(node, "a node")
    if not tx.one("SELECT 1 FROM chunk WHERE chunk = ? AND session = 0", number):
        return []
    return ["dropped, and a new copy is made"] if drop_replica.apply(tx, number, name, 1) else []
