"""A client says hello."""

from __future__ import annotations

from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, name: str, host: str, holder: str = "", subtree: str = "", caches: bool = False) -> int:
    """The session's number. `holder` is that of the key that opens it, `subtree` the directory it is limited to.

    `caches`: it is given leases.
    """
    session = tx.number("next_session")
    row = (session, name, host, tx.now_ns, holder, subtree, caches)
    tx.run("INSERT INTO session VALUES (?, ?, ?, 0, ?, ?, ?, ?)", *row)
    return session
