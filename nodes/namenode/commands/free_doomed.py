"""The bytes of removed files are freed piece by piece, so that no command takes long."""

from __future__ import annotations

from nodes.namenode.transaction import FREED_AT_ONCE, Transaction


def apply(tx: Transaction, most: int = FREED_AT_ONCE) -> bool:
    """Free the bytes of so many extents of one doomed inode, or fewer; whether there may be more to free."""
    row = tx.one("SELECT ino FROM doomed LIMIT 1")
    if row is None:
        return False
    tx.free_doomed(row[0], most)
    return True
