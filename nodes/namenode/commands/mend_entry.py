"""Take out an entry that leads nowhere, or that is in what is no directory."""

from __future__ import annotations

import stat
from typing import Any

from dfs.types import Ino
from nodes.namenode import arguments, rescue
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, parent: Any, name: Any) -> list[str]:
    """What was done, in a few words each; nothing where nothing is wrong any more.

    What the entry led to is made again where bytes or entries of it are there: then the entry stays.
    """
    directory = arguments.ino(parent)
    row = tx.one("SELECT ino FROM dentry WHERE parent = ? AND name = ?", directory, arguments.name(name))
    if row is None:
        return []
    ino = Ino(row[0])
    kind = tx.one("SELECT mode FROM inode WHERE ino = ?", directory)
    misplaced = kind is not None and not stat.S_ISDIR(kind[0])
    if not misplaced and tx.one("SELECT 1 FROM inode WHERE ino = ?", ino):
        return []
    if not misplaced and (done := rescue.restore(tx, ino)):
        return done
    if misplaced:
        tx.run("DELETE FROM dentry WHERE parent = ? AND name = ?", directory, name)
    else:
        rescue.strike(tx, directory, name)
    return ["entry removed", *rescue.mend(tx, ino)]
