"""Make a symbolic link."""

from __future__ import annotations

import stat
from typing import Any

from dfs import errors
from dfs.types import Attr
from nodes.namenode import arguments
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, parent: Any, name: Any, target: Any, uid: Any, gid: Any, ino: Any = 0) -> Attr:
    directory = tx.directory(arguments.ino(parent))
    if tx.find(directory.ino, arguments.name(name)):
        raise errors.Exists("exists already")
    mode = stat.S_IFLNK | 0o777
    owner, group = arguments.owner(uid), arguments.owner(gid)
    attr = tx.make_inode(directory, mode, owner, group, target=arguments.target(target), ino=ino)
    tx.add_entry(directory.ino, name, attr.ino)
    return attr
