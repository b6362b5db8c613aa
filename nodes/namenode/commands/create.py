"""Make a regular file with a name."""

from __future__ import annotations

import stat
from typing import Any

from dfs import errors
from dfs.types import Attr
from nodes.namenode import arguments
from nodes.namenode.transaction import Transaction


def apply(
    tx: Transaction,
    parent: Any,
    name: Any,
    mode: Any,
    uid: Any,
    gid: Any,
    exclusive: Any = True,
    hold: Any = False,
    ino: Any = 0,
) -> Attr:
    """Create it; unless `exclusive`, a regular file that is there already will do. `hold`: keep it open as well.

    `ino`: a number that is reserved for the session (`reserve_inodes`).
    """
    directory = tx.directory(arguments.ino(parent))
    attr = tx.find(directory.ino, arguments.name(name))
    if attr is None:
        owner, group = arguments.owner(uid), arguments.owner(gid)
        attr = tx.make_inode(directory, stat.S_IFREG | arguments.permissions(mode), owner, group, ino=ino)
        tx.add_entry(directory.ino, name, attr.ino)
    elif exclusive:
        raise errors.Exists("exists already")
    elif stat.S_ISDIR(attr.mode):
        raise errors.IsADirectory("is a directory")
    if hold:
        tx.hold(attr.ino)
    return attr
