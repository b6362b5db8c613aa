"""Keep an inode, though its last name may go."""

from __future__ import annotations

from typing import Any

from dfs import errors
from dfs.types import Attr
from nodes.namenode import arguments
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, ino: Any) -> Attr:
    """Until `release`, as often, or the end of the session."""
    attr = tx.attr(arguments.ino(ino))
    if not attr.nlink and not tx.one("SELECT 1 FROM hold WHERE ino = ? LIMIT 1", ino):
        raise errors.NotFound(f"inode {ino} has been removed")
    tx.hold(attr.ino)
    return attr
