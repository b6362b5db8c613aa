"""A page of a directory, told while others change what is in it.

To ask again until nobody knows better of any entry may never end: of twenty files that others append to, one is always
somebody's. So a page is not of one moment. Its names are of the first one since the question at which nobody has to be
heard of the directory. Each entry's attributes are of that moment, too; or, if somebody owned the inode then, of the
one at which he had given it up. Where a command has changed something that its author may still show as it was, the
answer waits until he has acknowledged it. For who owns or changes something after the moment that counts nobody waits:
that goes on at the same time as the listing, which may show it or not.

Leases are given at those moments. What is recalled before the answer has arrived, the client does not keep
(`dfs.client.cache`).
"""

from __future__ import annotations

from typing import Any

from dfs import errors
from dfs.types import ALL_NAMES, Attr, Ino, Item, SessionId
from nodes.namenode.confinement import ConfinedQueries
from nodes.namenode.leases import Leases
from nodes.namenode.queries import Queries


class Listing:
    """A page for `reader`: `entries` as `Queries.readdir` has them.

    `is_leased` says whether he has a lease on the names; of `unleased`, inodes, he has none on the attributes.
    """

    def __init__(
        self, leases: Leases, view: Queries | ConfinedQueries, reader: SessionId, directory: Any, after: Any, limit: Any
    ) -> None:
        self._leases = leases
        self._view = view
        self._reader = reader
        self._directory = directory
        self._after, self._limit = after, limit
        self._unheard: list[Item] = []
        """What others may know better, or show as it was."""
        self._owned: list[int] = []
        """Places of entries whose inodes somebody else has not given up yet."""
        self.entries: list[tuple[int, bytes, Attr]] = []
        self.is_leased = False
        self.unleased: set[Ino] = set()

    def look(self) -> bool:
        """Read the page and give leases; whether nobody has to be heard before it may be told. Raises as `readdir`."""
        leases, reader, directory = self._leases, self._reader, self._directory
        self.entries = self._view.readdir(directory, self._after, self._limit)
        inos = [attr.ino for _, _, attr in self.entries]
        names = leases.in_doubt(reader, leases.names_in_doubt(directory))
        way = self._way_in_doubt()
        self._unheard = [*names, *way, *leases.in_doubt(reader, [(ino, None) for ino in inos])]
        self.is_leased = not way and leases.cover_entries(reader, directory)
        self.unleased = {ino for ino in inos if way or not leases.cover_attr(reader, ino)}
        if not self._unheard:
            return True
        self._owned = [place for place, ino in enumerate(inos) if leases.is_owned_by_another(reader, ino)]
        return False

    def _way_in_doubt(self) -> list[Item]:
        """What has to be heard before a reader who is limited to a subtree is given his first lease."""
        leases, reader = self._leases, self._reader
        return leases.in_doubt(reader, self._view.way()) if leases.lacks_shape(reader) else []

    async def settle(self) -> None:
        """Have it so that it may be told. Raises as `readdir`.

        Each wait is bounded by the session time-out. There are three of them at most, but where a name leads to another
        inode each time that the owner of one has been heard.
        """
        await self._leases.reclaimed()
        if self.look():
            return
        if (self._directory, ALL_NAMES) in self._unheard or self._way_in_doubt():
            await self._leases.clear_doubt(self._unheard)
            self.look()
            names = self._leases.names_unacknowledged(self._reader, self._directory)
            inos: list[Item] = [(attr.ino, None) for _, _, attr in self.entries]
            self._unheard = [*names, *self._leases.in_doubt(self._reader, inos)]
        while self._unheard:
            await self._leases.clear_doubt(self._unheard)
            self._unheard = []
            self._look_at_owned()

    def _look_at_owned(self) -> None:
        """Those who owned inodes have been heard: who owns one of them now does so since the question."""
        owned, self._owned = self._owned, []
        gone = set[int]()
        for place in owned:
            cookie, name, before = self.entries[place]
            now = self._find(before.ino) or self._find_by(name)
            if now is None:
                gone.add(place)
                continue
            self.entries[place] = (cookie, name, now)
            leases, reader = self._leases, self._reader
            if leases.lacks_shape(reader) or not leases.cover_attr(reader, now.ino):
                self.unleased.add(now.ino)
            else:
                self.unleased.discard(now.ino)
            is_owned = leases.is_owned_by_another(reader, now.ino)
            if is_owned and now.ino != before.ino:  # since when?
                self._owned.append(place)
                self._unheard.append((now.ino, None))
            else:
                self._unheard += leases.unacknowledged(reader, [(now.ino, None)])
        if gone and len(self.entries) < self._limit:
            self._leave_out(gone)

    def _leave_out(self, gone: set[int]) -> None:
        """What is removed at this moment: not of a page that is full, which would be taken for the last one.

        There it is shown as it was before its owner had been heard, once more.
        """
        kept = [place for place in range(len(self.entries)) if place not in gone]
        self._owned = [kept.index(place) for place in self._owned]
        self.entries = [self.entries[place] for place in kept]
        self.unleased &= {attr.ino for _, _, attr in self.entries}

    def _find(self, ino: Ino) -> Attr | None:
        try:
            return self._view.getattr(ino)
        except errors.NotFound:
            return None

    def _find_by(self, name: bytes) -> Attr | None:
        try:
            return self._view.lookup(self._directory, name)
        except errors.NotFound:
            return None
