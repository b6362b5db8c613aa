"""A client says hello."""

from __future__ import annotations

from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, name: str, host: str, holder: str = "", subtree: str = "") -> int:
    """The session's number. `holder` is that of the key that opens it, `subtree` the directory it is limited to."""
    session = tx.number("next_session")
    tx.run("INSERT INTO session VALUES (?, ?, ?, 0, ?, ?, ?)", session, name, host, tx.now_ns, holder, subtree)
    return session
