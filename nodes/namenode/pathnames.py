"""From inode numbers back to paths, for what a person reads.

A file may have several names, or none: the first one counts. The way up is bounded, as a damaged namespace may have
directories that are in each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dfs.types import ROOT_INO

if TYPE_CHECKING:
    from nodes.namenode.store import Database

_DEPTH_MAX: Final = 2048
"""Names in the longest path."""

_ON_A_LOOP: Final = """
WITH RECURSIVE above (ino) AS (VALUES (?) UNION SELECT d.parent FROM dentry d JOIN above a ON d.ino = a.ino)
SELECT 1 FROM above JOIN dentry d ON d.ino = above.ino WHERE d.parent = ?
"""


def path_of(db: Database, ino: int) -> bytes | None:
    """A path that leads to an inode; None if none does."""
    names = names_of(db, ino)
    return None if names is None else b"/" + b"/".join(names)


def names_of(db: Database, ino: int) -> list[bytes] | None:
    """The names in such a path."""
    names: list[bytes] = []
    while ino != ROOT_INO:
        row = db.execute("SELECT parent, name FROM dentry WHERE ino = ? LIMIT 1", (ino,)).fetchone()
        if row is None or len(names) == _DEPTH_MAX:
            return None
        ino = row[0]
        names.append(bytes(row[1]))
    return names[::-1]


def named(db: Database, ino: int) -> str:
    """An inode for a sentence: its path, else its number."""
    path = path_of(db, ino)
    return f"inode {ino} (no path leads to it)" if path is None else shown(path)


def shown(path: bytes) -> str:
    """A path or a name in a sentence: what is not UTF-8 is escaped."""
    return path.decode("utf-8", "backslashreplace")


def is_beneath_itself(db: Database, ino: int) -> bool:
    """Whether the way up from a directory leads back to it."""
    return db.execute(_ON_A_LOOP, (ino, ino)).fetchone() is not None
