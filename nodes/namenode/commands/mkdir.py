"""Make a directory."""

from __future__ import annotations

import stat
from typing import Any

from dfs import errors
from dfs.types import Attr
from nodes.namenode import arguments
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, parent: Any, name: Any, mode: Any, uid: Any, gid: Any, ino: Any = 0) -> Attr:
    directory = tx.directory(arguments.ino(parent))
    if tx.find(directory.ino, arguments.name(name)):
        raise errors.Exists("exists already")
    owner, group = arguments.owner(uid), arguments.owner(gid)
    attr = tx.make_inode(directory, stat.S_IFDIR | arguments.permissions(mode), owner, group, nlink=2, ino=ino)
    tx.add_entry(directory.ino, name, attr.ino, subdirectories=1)
    return attr
