"""Set a file's size: what is beyond it goes, what it gains is a hole."""

from __future__ import annotations

import stat
from typing import Any

from dfs import errors
from dfs.posix import without_set_id
from dfs.types import Attr
from nodes.namenode import arguments
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, ino: Any, size: Any) -> Attr:
    attr = tx.attr(arguments.ino(ino))
    if stat.S_ISDIR(attr.mode):
        raise errors.IsADirectory("is a directory")
    if not stat.S_ISREG(attr.mode):
        raise errors.InvalidArgument("not a regular file")
    if arguments.size(size) < attr.size:
        tx.free(attr.ino, size)
    tx.run(
        "UPDATE inode SET mode = ?, size = ?, mtime_ns = ?, ctime_ns = ?, version = version + 1 WHERE ino = ?",
        *(without_set_id(attr.mode), size, tx.now_ns, tx.now_ns, attr.ino),
    )
    tx.drop_capability(attr.ino)
    return tx.attr(attr.ino)
