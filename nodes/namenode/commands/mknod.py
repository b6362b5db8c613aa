"""Make a special file, or an empty regular one."""

from __future__ import annotations

import stat
from typing import Any

from dfs import errors
from dfs.types import Attr
from nodes.namenode import arguments
from nodes.namenode.transaction import Transaction

_TYPES = {stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFREG}
_DEVICES = {stat.S_IFCHR, stat.S_IFBLK}


def apply(tx: Transaction, parent: Any, name: Any, mode: Any, uid: Any, gid: Any, rdev: Any, ino: Any = 0) -> Attr:
    """`mode` has the type as well; `rdev` counts for devices only."""
    directory = tx.directory(arguments.ino(parent))
    kind = stat.S_IFMT(arguments.integer(mode, "a mode", 0, 0o177777)) or stat.S_IFREG
    if kind not in _TYPES:
        raise errors.InvalidArgument(f"mknod makes no files of type {kind:o}")
    if tx.find(directory.ino, arguments.name(name)):
        raise errors.Exists("exists already")
    device = arguments.integer(rdev, "a device number") if kind in _DEVICES else 0
    owner, group = arguments.owner(uid), arguments.owner(gid)
    attr = tx.make_inode(directory, kind | arguments.permissions(mode), owner, group, rdev=device, ino=ino)
    tx.add_entry(directory.ino, name, attr.ino)
    return attr
