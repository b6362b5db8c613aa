"""Remove an empty directory."""

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
    if not stat.S_ISDIR(attr.mode):
        raise errors.NotADirectory("not a directory")
    if attr.size:
        raise errors.NotEmpty("directory not empty")
    tx.remove_entry(directory.ino, name, subdirectories=1)
    return tx.drop_link(attr, directory.ino)
