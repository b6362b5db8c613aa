"""Which inodes are beneath a directory, by the way up from each: it costs what there is to ask about, not the tree.

Ways up share most of their directories, so what is found out of one is remembered. A `Beneath` is for one question of a
few slices: what moves in between may count as it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dfs.types import ROOT_INO, Ino

if TYPE_CHECKING:
    from nodes.namenode.store import Database

_PARENT: Final = "SELECT parent FROM inode WHERE ino = ?"
_NAMES: Final = "SELECT parent FROM dentry WHERE ino = ?"


class Beneath:
    """What is beneath `top`, a directory or a file, and `top` itself."""

    def __init__(self, db: Database, top: Ino) -> None:
        self._db = db
        self._top = top
        self._known = {0: False, int(ROOT_INO): top == ROOT_INO, int(top): True}
        """Of directories, whether they are; 0 is what those are in that are gone."""

    def has(self, ino: Ino) -> bool:
        """Whether one of its names is beneath; not if it is gone."""
        if ino == self._top:
            return True
        parent = self._parent(ino)
        if parent:
            return self._has_directory(ino)
        return any(self._has_directory(above) for (above,) in self._db.execute(_NAMES, (ino,)).fetchall())

    def _has_directory(self, ino: int) -> bool:
        way: list[int] = []
        while ino not in self._known:
            self._known[ino] = False  # until more is known: so a loop, in a damaged namespace, ends here
            way.append(ino)
            ino = self._parent(ino)
        found = self._known[ino]
        self._known.update(dict.fromkeys(way, found))
        return found

    def _parent(self, ino: int) -> int:
        """The directory that a directory is in; 0 of anything else."""
        row = self._db.execute(_PARENT, (ino,)).fetchone()
        return int(row[0]) if row else 0
