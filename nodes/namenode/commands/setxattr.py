"""Set an extended attribute."""

from __future__ import annotations

from typing import Any

from dfs import errors, limits
from nodes.namenode import arguments
from nodes.namenode.transaction import Transaction

CREATE, REPLACE = 1, 2


def apply(tx: Transaction, ino: Any, name: Any, value: Any, flags: Any = 0) -> None:
    attr = tx.attr(arguments.ino(ino))
    key, content = arguments.xattr_name(name), arguments.xattr_value(value)
    if flags not in (0, CREATE, REPLACE):
        raise errors.InvalidArgument(f"setxattr does not know flags {flags}")
    there = tx.one("SELECT 1 FROM xattr WHERE ino = ? AND name = ?", attr.ino, key)
    if flags == CREATE and there:
        raise errors.Exists("the extended attribute exists already")
    if flags == REPLACE and not there:
        raise errors.NoAttribute("no such extended attribute")
    if not there:
        row = tx.one("SELECT total(length(name) + 1) FROM xattr WHERE ino = ?", attr.ino)
        if row and row[0] + len(key) + 1 > limits.XATTR_TOTAL_MAX_BYTES:
            raise errors.NoSpace("the file has as many extended attributes as it can")
    row = tx.one("SELECT total(length(value)) FROM xattr WHERE ino = ? AND name != ?", attr.ino, key)
    if row and row[0] + len(content) > limits.XATTR_VALUES_MAX_BYTES:
        raise errors.NoSpace("the file's extended attributes have as many bytes as they can")
    tx.run("INSERT OR REPLACE INTO xattr VALUES (?, ?, ?)", attr.ino, key, content)
    tx.touch_ctime(attr.ino)
