"""New chunks for a session, where placement wants them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, replicas: int, places: Sequence[Sequence[str]]) -> list[list[Any]]:
    """[[chunk, [node, ...]], ...]."""
    chunks = []
    for names in places:
        chunk = tx.number("next_chunk")
        tx.run("INSERT INTO chunk VALUES (?, ?, 0, 0, ?)", chunk, tx.session, replicas)
        for name in names:
            tx.run("INSERT INTO replica SELECT ?, id FROM node WHERE name = ?", chunk, name)
        chunks.append([chunk, list(names)])
    return chunks
