"""A DataNode has not the copy that it is counted for."""

from __future__ import annotations

from typing import Any

from nodes.namenode import arguments
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, chunk: Any, node: Any) -> list[str]:
    """Count it no more, so that another is made; what was done. The last copy stays: its node may get it back.

    Who says so has seen that another node has all of it.
    """
    number, name = arguments.chunk(chunk), arguments.text(node, "a node")
    known = tx.one("SELECT id FROM node WHERE name = ?", name)
    if known is None or not tx.one("SELECT 1 FROM chunk WHERE chunk = ? AND session = 0", number):
        return []
    is_dropped = len(tx.holders(number)) > 1 and tx.forget_replica(number, known[0])
    return ["dropped, and a new copy is made"] if is_dropped else []
