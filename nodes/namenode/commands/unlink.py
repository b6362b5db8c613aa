"""Take away a name that is no directory."""

from __future__ import annotations

import stat
from typing import Any

from dfs import errors
from dfs.types import Attr
from nodes.namenode import arguments
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, parent: Any, name: Any) -> Attr:
    """The attributes of what it was, after it."""
    directory = tx.directory(arguments.ino(parent))
    attr = tx.get(directory.ino, arguments.name(name))
    if stat.S_ISDIR(attr.mode):
        raise errors.IsADirectory("is a directory")
    tx.remove_entry(directory.ino, name)
    return tx.drop_link(attr, directory.ino)
