"""Listings fetched ahead: who walks a tree is told of the next directories together with the one that he came to.

Somebody who looks into a directory that was listed to him a moment ago walks a tree, as `find`, `du`, `git status`, `cp
-r` and `rm -rf` do. Each directory would cost him a question. So he is given with the first what is beneath it, and
beside it in its own directory, in the order of such a walk: AHEAD_FIRST entries, twice as many each time as long as at
least half of the directories that came ahead were looked into, and a quarter where they were not.

Nothing here needs to be right: what is fetched in vain costs its time.
"""

from __future__ import annotations

import itertools
import stat
from collections.abc import Callable, Sequence
from typing import NamedTuple

from dfs import limits
from dfs.client.cache import Cache
from dfs.types import Ino


class Plan(NamedTuple):
    """To be asked for together: `directories` and what is beneath them, `entries` at most."""

    directories: Sequence[Ino]
    entries: int


class Ahead:
    """Of one cache."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._entries = limits.AHEAD_FIRST
        self._latest: Sequence[Ino] = ()
        """The directories that came ahead the last time."""
        self._fetched = self._looked_into = 0

    def plan(self, directory: Ino, is_known: Callable[[Ino], bool]) -> Plan | None:
        """What to ask for when somebody comes to a directory; None where nobody is seen to walk.

        `is_known`: whether there is nothing to ask of a directory.
        """
        place = self._cache.place(directory)
        known = self._cache.kept(directory)
        if place is None or known is None or known.attr.size >= limits.TREE_MAX_ENTRIES:
            return None
        self._judge()
        following = self._cache.following(*place, limits.AHEAD_ENTRIES_SEEN)
        beside = (attr.ino for _, attr in following if stat.S_ISDIR(attr.mode) and not is_known(attr.ino))
        entries = min(known.attr.size + self._entries, limits.TREE_MAX_ENTRIES)
        return Plan([directory, *itertools.islice(beside, limits.TREE_MAX_DIRECTORIES - 1)], entries)

    def _judge(self) -> None:
        """Ask for more the next time, or for less."""
        if not self._latest:
            return
        used = sum(map(self._cache.is_looked_into, self._latest))
        self._looked_into += used
        more = 2 * self._entries if 2 * used >= len(self._latest) else self._entries // 4
        self._entries = max(limits.AHEAD_FIRST, min(more, limits.TREE_MAX_ENTRIES))
        self._latest = ()

    def came(self, directories: Sequence[Ino]) -> None:
        """These were told besides the one that was asked for."""
        self._latest = directories
        self._fetched += len(directories)

    def statistics(self) -> dict[str, int]:
        return {"directories_ahead": self._fetched, "directories_ahead_used": self._looked_into}
