"""Listings of many directories in one answer, for who walks a tree (`dfs.client.ahead`).

Told is what nobody has to be asked for: a directory that another session owns, whose names are being changed, or that
has more entries than are left is passed over, and with it what is beneath it. Likewise a session comes to own only what
nobody else knows. All of one directory is of one moment, that in which its leases are given.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from typing import Any

from dfs import errors
from dfs.types import Attr, Ino, Item, SessionId
from nodes.namenode.leases import Leases
from nodes.namenode.queries import Queries


class Trees:
    """What `reader` may be told. If it `owns`, it is to own what it is told, as far as nobody else knows that."""

    def __init__(self, queries: Queries, leases: Leases, reader: SessionId, *, owns: bool) -> None:
        self._queries = queries
        self._leases = leases
        self._reader = reader
        self._owns = owns

    def walk(self, directories: Sequence[Ino], most: int) -> Iterator[list[Any]]:
        """The listings of directories and of those beneath them, each before those in it: `most` entries in all.

        A directory counts as an entry, and so does what is passed over. Each as `NameNode.own_directory` answers.
        """
        todo: list[Ino | Attr] = list(reversed(directories))
        while todo and most > 0:
            directory = todo.pop()
            most -= 1
            listing = self._listing(directory, most)
            if listing is not None:
                entries = listing[3]
                most -= len(entries)
                todo.extend(attr for _, _, attr in reversed(entries) if stat.S_ISDIR(attr.mode))
                yield listing

    def _listing(self, of: Ino | Attr, most: int) -> list[Any] | None:
        """Of an inode, or of a directory whose attributes have just been read."""
        try:
            attr = of if isinstance(of, Attr) else self._queries.getattr(of)
        except errors.NotFound:
            return None
        directory = attr.ino
        if not stat.S_ISDIR(attr.mode) or attr.size > most or self._is_doubtful(directory):
            return None
        entries = self._queries.readdir(directory, 0, attr.size + 1)
        if len(entries) != attr.size:  # a damaged namespace, which `check` tells of: the listing would not be whole
            return None
        leases = self._leases
        if not leases.cover_attr(self._reader, directory) or not leases.cover_entries(self._reader, directory):
            return None
        is_owned = self._owns and leases.own_unknown(self._reader, directory, is_directory=True)
        last_cookie = self._queries.last_cookie(directory) if is_owned else 0
        return [attr, last_cookie, is_owned, entries, *self.children(entries, is_owned=is_owned)]

    def _is_doubtful(self, directory: Ino) -> bool:
        items: list[Item] = [(directory, None), *self._leases.names_in_doubt(directory)]
        return bool(self._leases.in_doubt(self._reader, items))

    def children(
        self, entries: Sequence[tuple[int, bytes, Attr]], *, is_owned: bool = True
    ) -> tuple[list[Ino], list[Ino]]:
        """The inodes in a directory whose attributes are not leased, and those that the reader owns.

        In one that `is_owned` it comes to own all but directories that nobody else knows.
        """
        leases, reader = self._leases, self._reader
        inos = [attr.ino for _, _, attr in entries]
        doubtful = {ino for ino, _ in leases.in_doubt(reader, [(ino, None) for ino in inos])}
        unleased = [ino for ino in inos if ino in doubtful or not leases.cover_attr(reader, ino)]
        if is_owned:
            for _, _, attr in entries:
                if not stat.S_ISDIR(attr.mode):
                    leases.own_unknown(reader, attr.ino)
        return unleased, [ino for ino in inos if leases.is_owner(reader, ino)]
