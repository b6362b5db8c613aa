"""Give a file one more name."""

from __future__ import annotations

import stat
from typing import Any

from dfs import errors, limits
from dfs.types import Attr
from nodes.namenode import arguments
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, ino: Any, parent: Any, name: Any, replace: Any = False) -> Attr:
    """With `replace`, what the name stood for is unlinked in the same moment."""
    attr = tx.attr(arguments.ino(ino))
    directory = tx.directory(arguments.ino(parent))
    if stat.S_ISDIR(attr.mode):
        raise errors.NotPermitted("a directory has one name only")
    held = tx.one("SELECT 1 FROM hold WHERE ino = ? AND session = ?", attr.ino, tx.session)
    if not attr.nlink and not held:
        raise errors.NotFound(f"inode {attr.ino} has been removed")
    if attr.nlink >= limits.LINK_MAX:
        raise errors.TooManyLinks("the file has as many names as it can")
    old = tx.find(directory.ino, arguments.name(name))
    if old is not None:
        if not replace:
            raise errors.Exists("exists already")
        if old.ino == attr.ino:
            return attr
        tx.remove_target(old, directory.ino, name, new_is_directory=False)
    tx.add_entry(directory.ino, name, attr.ino)
    tx.run("UPDATE inode SET nlink = nlink + 1, ctime_ns = ?, version = version + 1 WHERE ino = ?", tx.now_ns, attr.ino)
    return tx.attr(attr.ino)
