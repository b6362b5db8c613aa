"""The directory that a key is limited to, and what is beneath it: for who has the key nothing else exists.

The claim is a path, looked up anew for each command and query: whatever directory has that path at the moment is the
holder's root. An inode is beneath it if one of its names is, however many others it has elsewhere; so what is moved out
is gone for him at once. An inode without a name was beneath it when it was opened, and is his as long as a session of
his key holds it: what loses its last name elsewhere is not held for him any more (`Transaction.drop_link`).

The cost is a walk up the tree, and only those pay it who have such a key.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from dfs import errors
from dfs.types import ROOT_INO, Ino, Item

if TYPE_CHECKING:
    from nodes.namenode.store import Database

_LOOKED_AT_MAX: Final = 4096
"""Directories on the way up from an inode, of all its names: some milliseconds. What is higher up is not found."""

_LEADS_UP: Final = """
WITH RECURSIVE above (ino) AS (
    {start}
    UNION SELECT i.parent FROM above JOIN inode i ON i.ino = above.ino WHERE above.ino NOT IN (:top, :root)
    LIMIT :most
) SELECT 1 FROM above WHERE ino = :top
"""
_DIRECTORY: Final = _LEADS_UP.format(start="VALUES (:ino)")
_NAMES: Final = _LEADS_UP.format(start="SELECT parent FROM dentry WHERE ino = :ino")


def claimed(path: str) -> list[bytes]:
    """The names in a claim."""
    return list(filter(None, path.encode().split(b"/")))


class Subtree:
    """As it is at one moment: use it within one transaction of `db`. `path` is the claim of the key of `holder`."""

    def __init__(self, db: Database, path: str, holder: str) -> None:
        self._db = db
        self._path = path
        self._holder = holder
        self._root: Ino | None = None

    def root(self) -> Ino:
        """The directory itself. Raises `NotFound`."""
        if self._root is None:
            self._root = self._find()
        return self._root

    def way(self) -> list[Item]:
        """The names from the root of all that lead to it, and the directories that they stand for."""
        items: list[Item] = []
        for parent, name, ino in self._steps():
            items += [(parent, name), (ino, None)]
        return items

    def _steps(self) -> Iterator[tuple[Ino, bytes, Ino]]:
        """Of the path: where a name is, and what it stands for; up to the first that stands for nothing."""
        ino = ROOT_INO
        for name in claimed(self._path):
            row = self._db.execute("SELECT ino FROM dentry WHERE parent = ? AND name = ?", (ino, name)).fetchone()
            parent, ino = ino, Ino(row[0]) if row else Ino(0)
            yield parent, name, ino
            if not ino:
                return

    def _find(self) -> Ino:
        ino = ROOT_INO
        for _, _, found in self._steps():
            ino = found
        row = self._db.execute("SELECT mode FROM inode WHERE ino = ?", (ino,)).fetchone()
        if row is None or not stat.S_ISDIR(row[0]):
            raise errors.NotFound(f"the directory {self._path} does not exist, and the key is limited to it")
        return ino

    def check(self, ino: Ino) -> None:
        """Raises `NotFound` for what is not beneath the directory, and is not the directory itself."""
        if not self.has(ino):
            raise errors.NotFound(f"inode {ino} is gone")

    def has(self, ino: Ino) -> bool:
        row = self._db.execute("SELECT mode, nlink FROM inode WHERE ino = ?", (ino,)).fetchone()
        if row is None:
            return False
        if not row[1]:
            return self._is_held(ino)
        return self.has_directory(ino) if stat.S_ISDIR(row[0]) else self._leads_up(_NAMES, ino)

    def has_directory(self, ino: Ino) -> bool:
        """Whether a directory that has a name is in it, or is it. Raises `NotFound` as `root`."""
        return self._leads_up(_DIRECTORY, ino)

    def _leads_up(self, sql: str, ino: Ino) -> bool:
        values = {"ino": ino, "top": self.root(), "root": ROOT_INO, "most": _LOOKED_AT_MAX}
        return self._db.execute(sql, values).fetchone() is not None

    def _is_held(self, ino: Ino) -> bool:
        sql = "SELECT 1 FROM hold h JOIN session s ON s.session = h.session WHERE h.ino = ? AND s.holder = ? LIMIT 1"
        return self._db.execute(sql, (ino, self._holder)).fetchone() is not None
