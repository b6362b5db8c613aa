"""Undo one `hold`."""

from __future__ import annotations

from typing import Any

from nodes.namenode import arguments
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, ino: Any) -> None:
    """Nothing happens where the session does not hold the inode."""
    number = arguments.ino(ino)
    row = tx.one("UPDATE hold SET count = count - 1 WHERE ino = ? AND session = ? RETURNING count", number, tx.session)
    if row and not row[0]:
        tx.let_go(number, tx.session)
