"""Inode numbers for what a session will make by itself, in directories that it owns."""

from __future__ import annotations

from typing import Any, Final

from dfs import limits
from dfs.types import Ino
from nodes.namenode import arguments
from nodes.namenode.transaction import Transaction

_RANGES_KEPT: Final = 4
"""Of a session: more inodes than commands may wait in a client that were answered there."""


def apply(tx: Transaction, count: Any) -> tuple[Ino, Ino]:
    """The first and the last of so many. What the session has not used when it ends, or reserves more, is lost."""
    wanted = arguments.integer(count, "a number of inodes", 1, limits.INODES_RESERVED)
    first = tx.counters["next_ino"]
    tx.counters["next_ino"] = first + wanted
    tx.run("INSERT INTO inode_range VALUES (?, ?, ?)", tx.session, first, first + wanted - 1)
    tx.run(
        "DELETE FROM inode_range WHERE session = ? AND first <= (SELECT first FROM inode_range WHERE session = ?"
        " ORDER BY first DESC LIMIT 1 OFFSET ?)",
        *(tx.session, tx.session, _RANGES_KEPT),
    )
    return Ino(first), Ino(first + wanted - 1)
