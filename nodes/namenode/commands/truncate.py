"""Set a file's size: what is beyond it goes, what it gains is a hole.

A file that was written at random may have millions of extents, which take seconds to be freed. Such a one is cut in
several steps, from its end on: in between it is as long as was cut by then.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from dfs import errors
from dfs.posix import without_set_id
from dfs.types import Attr
from nodes.namenode import arguments
from nodes.namenode.transaction import FREED_AT_ONCE, Transaction

if TYPE_CHECKING:
    from nodes.namenode.store import Database

_ARGUMENTS: Final = 2


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


def first_part(db: Database, *args: Any) -> Sequence[Any] | None:
    """What to cut first of a file with very many extents, as this command's arguments; None if it has not.

    Who dies before he has cut the rest leaves the file as long as it was by then.
    """
    if len(args) != _ARGUMENTS or not all(type(value) is int and 0 <= value <= arguments.INTEGER_MAX for value in args):
        return None  # the command itself says what is wrong with them
    found: tuple[int, int] | None = db.execute(
        "SELECT ino, offset FROM extent WHERE ino = ? AND offset >= ? ORDER BY offset DESC LIMIT 1 OFFSET ?",
        (*args, FREED_AT_ONCE),
    ).fetchone()
    return found
