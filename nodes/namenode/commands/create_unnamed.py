"""Make a regular file without a name, as open(2) does with O_TMPFILE."""

from __future__ import annotations

import stat
from typing import Any

from dfs.types import Attr
from nodes.namenode import arguments
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, near: Any, mode: Any, uid: Any, gid: Any) -> Attr:
    """Create it as if in directory `near`, held by this session; `link` gives it a name."""
    directory = tx.directory(arguments.ino(near))
    owner, group = arguments.owner(uid), arguments.owner(gid)
    attr = tx.make_inode(directory, stat.S_IFREG | arguments.permissions(mode), owner, group, nlink=0)
    tx.hold(attr.ino)
    return attr
