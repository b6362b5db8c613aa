"""The bytes of removed files are freed piece by piece, so that no command takes long."""

from __future__ import annotations

from nodes.namenode.transaction import Transaction


def apply(tx: Transaction) -> bool:
    """Free some of the bytes of one doomed inode; whether there may be more to free."""
    row = tx.one("SELECT ino FROM doomed LIMIT 1")
    if row is None:
        return False
    tx.free_doomed(row[0])
    return True
