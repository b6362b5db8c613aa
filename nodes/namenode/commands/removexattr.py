"""Remove an extended attribute."""

from __future__ import annotations

from typing import Any

from dfs import errors
from nodes.namenode import arguments
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, ino: Any, name: Any) -> None:
    attr = tx.attr(arguments.ino(ino))
    if not tx.run("DELETE FROM xattr WHERE ino = ? AND name = ?", attr.ino, arguments.xattr_name(name)):
        raise errors.NoAttribute("no such extended attribute")
    tx.touch_ctime(attr.ino)
