"""What a key that is limited to a subtree may send and ask: commands and queries that name only what is beneath it.

Commands are checked by the machine, in the transaction that applies them. A verb that is not in `dfs.verbs` is refused:
so a new one is not forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from dfs import errors, limits
from dfs.keys import KeyId
from dfs.types import Attr, Ino, Item
from dfs.verbs import VERBS
from nodes.namenode import arguments
from nodes.namenode.beneath import Beneath
from nodes.namenode.queries import Queries
from nodes.namenode.store import Store
from nodes.namenode.subtree import Subtree

ACCESSED: Final = "accessed"


def confined(subtree: Subtree, verb: str, args: Sequence[Any]) -> Sequence[Any]:
    """The arguments with which a command may be applied.

    Raises `NotFound` for inodes outside, `InvalidArgument` for what are no inodes, `NotPermitted` for the verb.
    """
    if verb == ACCESSED:
        return [_beneath(subtree, args[0]), *args[1:]] if args else args
    if verb not in VERBS:
        raise errors.NotPermitted(f"the key is limited to a subtree, which does not allow {verb!r}")
    for place in VERBS[verb].inodes:  # without any, what it names is the session's own
        if place < len(args):
            subtree.check(arguments.ino(args[place]))
    return args


def _beneath(subtree: Subtree, times: Any) -> list[Any]:
    """Of [[ino, time], ...] those beneath: as with any client, what is gone meanwhile is passed over."""
    found = []
    for item in arguments.array(times, "a list of times", limits.ACCESSES_MAX):
        if not isinstance(item, list | tuple) or len(item) != 2:
            raise errors.InvalidArgument("not an inode number and a time")
        try:
            subtree.check(arguments.ino(item[0]))
        except errors.NotFound:
            continue
        found.append(item)
    return found


class ConfinedQueries:
    """As `Queries`, for a key that is limited to a subtree. Each answer and its check are of one moment.

    All raise `NotFound` for an inode outside.
    """

    def __init__(self, store: Store, queries: Queries, path: str, key: KeyId) -> None:
        self._store = store
        self._queries = queries
        self._path = path
        self._holder = key.identity

    @contextmanager
    def _beneath(self, ino: Any) -> Iterator[Subtree]:
        with self._store.reading() as db:
            subtree = Subtree(db, self._path, self._holder)
            subtree.check(arguments.ino(ino))
            yield subtree

    def root(self) -> Ino:
        with self._store.reading() as db:
            return Subtree(db, self._path, self._holder).root()

    def lookup(self, parent: Any, name: Any) -> Attr:
        with self._beneath(parent):
            return self._queries.lookup(parent, name)

    def getattr(self, ino: Any) -> Attr:
        with self._beneath(ino):
            return self._queries.getattr(ino)

    def walk(self, ino: Any, names: Any) -> list[Attr]:
        with self._beneath(ino):
            return self._queries.walk(ino, names)

    def parent(self, ino: Any) -> Attr:
        """The directory that the key is limited to is in itself."""
        with self._beneath(ino) as subtree:
            return self._queries.getattr(ino) if ino == subtree.root() else self._queries.parent(ino)

    def readdir(self, ino: Any, after: Any, limit: Any) -> list[tuple[int, bytes, Attr]]:
        with self._beneath(ino):
            return self._queries.readdir(ino, after, limit)

    def readlink(self, ino: Any) -> bytes:
        with self._beneath(ino):
            return self._queries.readlink(ino)

    def getxattr(self, ino: Any, name: Any) -> bytes:
        with self._beneath(ino):
            return self._queries.getxattr(ino, name)

    def listxattr(self, ino: Any) -> list[bytes]:
        with self._beneath(ino):
            return self._queries.listxattr(ino)

    def xattrs(self, ino: Any, most_bytes: int) -> dict[bytes, bytes] | None:
        with self._beneath(ino):
            return self._queries.xattrs(ino, most_bytes)

    def extents(self, ino: Any, offset: Any, length: Any, most: int) -> list[Any]:
        with self._beneath(ino):
            return self._queries.extents(ino, offset, length, most)

    def way(self) -> list[Item]:
        """What leads to the subtree: directories from the root of all to it, and the names in them."""
        with self._store.reading() as db:
            return Subtree(db, self._path, self._holder).way()

    def inside(self, inos: Sequence[Ino]) -> list[Ino]:
        """Those beneath."""
        with self._store.reading() as db:
            subtree = Subtree(db, self._path, self._holder)
            try:
                beneath = Beneath(db, subtree.root())
            except errors.NotFound:
                return []
            return [ino for ino in inos if beneath.has(ino) or subtree.has(ino)]

    def whole_files(self, inos: Sequence[Ino]) -> tuple[list[list[int] | None], list[list[Any]]]:
        """Those outside are as those that are no files in one piece."""
        with self._store.reading():
            inside = self.inside(inos)
            found, places = self._queries.whole_files(inside)
        known = dict(zip(inside, found, strict=True))
        return [known.get(ino) for ino in inos], places
