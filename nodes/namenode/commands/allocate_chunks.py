"""New chunks for a session, where placement wants them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dfs import errors
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, session: int, replicas: int, places: Sequence[Sequence[str]]) -> list[list[Any]]:
    """[[chunk, [node, ...]], ...]. Raises `SessionExpired`."""
    if not tx.one("SELECT 1 FROM session WHERE session = ?", session):
        raise errors.SessionExpired(f"session {session} has ended")
    chunks = []
    for names in places:
        chunk = tx.number("next_chunk")
        tx.run("INSERT INTO chunk VALUES (?, ?, 0, 0, ?)", chunk, session, replicas)
        for name in names:
            tx.run("INSERT INTO replica SELECT ?, id FROM node WHERE name = ?", chunk, name)
        chunks.append([chunk, list(names)])
    return chunks
