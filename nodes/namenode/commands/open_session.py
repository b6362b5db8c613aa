"""A client begins a session: with whose key, limited to what, and whether it caches."""

from __future__ import annotations

from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, name: str, host: str, holder: str = "", subtree: str = "", caches: int = 0) -> int:
    """The session's number. `holder` is that of the key that opens it, `subtree` the directory it is limited to.

    `caches`: 1, it is given leases; 2, on directories too that it changes by itself.
    """
    session = tx.number("next_session")
    row = (session, name, host, tx.now_ns, holder, subtree, caches)
    tx.run("INSERT INTO session VALUES (?, ?, ?, 0, ?, ?, ?, ?)", *row)
    return session
