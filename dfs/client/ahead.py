"""Listings fetched ahead: who walks a tree is told of the next directories together with the one that he came to.

Somebody who looks into a directory that was listed to him a moment ago walks a tree, as `find`, `du`, `git status`, `cp
-r` and `rm -rf` do. Each directory would cost him a question. So he is given with the first what is beneath it, and
beside it in its own directory, in the order of such a walk: AHEAD_FIRST entries, twice as many each time as long as at
least half of the directories that came ahead were looked into, and a quarter where they were not.

When he comes to the first directory of a part the next one is asked for, while he goes on. So there may be two parts
that he is not through with, and it is the one before that tells whether he uses them.

Nothing here needs to be right: what is fetched in vain costs its time.
"""

from __future__ import annotations

import itertools
import stat
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from dfs import limits
from dfs.client.cache import Cache
from dfs.types import Ino

_LEVELS: Final = 4
"""Directories one in the other in which a walk is looked for: it goes on above when it is through with one."""


class Plan(NamedTuple):
    """To be asked for together: `directories` and what is beneath them, `entries` at most."""

    directories: Sequence[Ino]
    entries: int


class Ahead:
    """Of one cache."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._entries = limits.AHEAD_FIRST
        self._parts: deque[frozenset[Ino]] = deque()
        """The directories that came ahead and were not judged yet, at most twice."""
        self._latest: frozenset[Ino] = frozenset()
        """Those that came the last time, until somebody comes to one of them."""
        self._fetched = self._looked_into = 0

    def plan(self, directory: Ino, is_known: Callable[[Ino], bool]) -> Plan | None:
        """What to ask for when somebody comes to a directory; None where nobody is seen to walk.

        `is_known`: whether there is nothing to ask of a directory.
        """
        place = self._cache.place(directory)
        known = self._cache.kept(directory)
        if place is None or known is None or known.attr.size >= limits.TREE_MAX_ENTRIES:
            return None
        while self._parts:
            self._judge()
        beside = itertools.islice(self._beside(directory, is_known), limits.TREE_MAX_DIRECTORIES - 1)
        return Plan([directory, *beside], min(known.attr.size + self._entries, limits.TREE_MAX_ENTRIES))

    def plan_next(self, directory: Ino, is_known: Callable[[Ino], bool]) -> Plan | None:
        """What to ask for now that somebody has come to a directory that is known; None if it is not time for more."""
        if directory not in self._latest:
            return None
        self._latest = frozenset()
        for _ in range(_LEVELS):
            beside = list(itertools.islice(self._beside(directory, is_known), limits.TREE_MAX_DIRECTORIES))
            if beside:
                if len(self._parts) > 1:
                    self._judge()
                return Plan(beside, self._entries)
            above = self._cache.place(directory)
            if above is None:
                break
            directory = above[0]
        return None

    def _beside(self, directory: Ino, is_known: Callable[[Ino], bool]) -> Iterator[Ino]:
        """The next directories in the one above, of which there is something to ask."""
        place = self._cache.place(directory)
        following = self._cache.following(*place, limits.AHEAD_ENTRIES_SEEN) if place is not None else ()
        return (attr.ino for _, attr in following if stat.S_ISDIR(attr.mode) and not is_known(attr.ino))

    def _judge(self) -> None:
        """Ask for more the next time, or for less."""
        part = self._parts.popleft()
        used = sum(map(self._cache.is_looked_into, part))
        self._looked_into += used
        more = 2 * self._entries if 2 * used >= len(part) else self._entries // 4
        self._entries = max(limits.AHEAD_FIRST, min(more, limits.TREE_MAX_ENTRIES))

    def came(self, directories: Sequence[Ino]) -> None:
        """These were told besides the one that was asked for."""
        if directories:
            self._latest = frozenset(directories)
            self._parts.append(self._latest)
        self._fetched += len(directories)

    def statistics(self) -> dict[str, int]:
        return {"directories_ahead": self._fetched, "directories_ahead_used": self._looked_into}
