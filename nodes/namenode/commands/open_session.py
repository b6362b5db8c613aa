"""A client says hello."""

from __future__ import annotations

from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, name: str, host: str) -> int:
    """The session's number."""
    session = tx.number("next_session")
    tx.run("INSERT INTO session VALUES (?, ?, ?, 0, ?)", session, name, host, tx.now_ns)
    return session
