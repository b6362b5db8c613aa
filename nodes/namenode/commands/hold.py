"""Keep an inode, though its last name may go."""

from __future__ import annotations

from typing import Any

from dfs.types import Attr
from nodes.namenode import arguments
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, ino: Any) -> Attr:
    """Until `release`, as often, or the end of the session."""
    attr = tx.attr(arguments.ino(ino))
    tx.hold(attr.ino)
    return attr
