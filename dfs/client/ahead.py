"""Listings fetched ahead: who walks a tree is told of the next directories before he comes to them.

Somebody who looks into a directory that was listed to him a moment ago walks a tree, as `find`, `du`, `git status`, `cp
-r` and `rm -rf` do. Each directory would cost him a question. So with the first one he is told what is beneath it,
meanwhile what is beside it in its own directory, and so on, part by part in the order of such a walk. Parts are small,
for he has to wait for a whole one when he is faster than they come; up to AHEAD_PARTS_MAX of them are asked for at a
time, so that the NameNode has one to work at while another is learnt here.

    _frontier   what a walk in this order comes to next and was not told or asked for yet: a stack, the next one last.
                An answer puts directories beneath what it tells in their place, and back what it had no room for; what
                was passed over when somebody came to one behind it goes to the bottom
    _untouched  what was told, and nobody has come to yet, with the entries in each
    _window     entries that may be untouched or asked for at a time: as many more as were used, a quarter when a walk
                ends before it has come to half of what it was told. Where nothing more fits in though the walk has come
                to the frontier, it will not come to the oldest: they count no more

When nothing of the frontier is left, the walk goes on beside the directory above. There is one walk at a time: it ends
when somebody comes to a directory that is neither told nor in the frontier.

Nothing here needs to be right: what is fetched in vain costs its time.
"""

from __future__ import annotations

import stat
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from dfs import limits
from dfs.client.cache import Cache, Listing
from dfs.types import Attr, Ino

_LEVELS: Final = 4
"""Directories one in the other in which a walk is looked for: it goes on above when it is through with one."""
_LINKS_OF_FLAT: Final = 2
"""A directory has one more for each directory in it."""


class Plan(NamedTuple):
    """To be asked for together: `directories` and what is beneath them, `entries` at most. For the walk of a number."""

    directories: Sequence[Ino]
    entries: int
    walk: int


class Ahead:
    """Of one cache. Each plan is to end with `came`."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._walk = 0
        self._frontier: OrderedDict[Ino, None] = OrderedDict()
        self._latest: Ino | None = None
        """The last directory of the topmost level that has been in the frontier."""
        self._untouched: dict[Ino, int] = {}
        self._untouched_entries = self._told = 0
        """In all of them; and how many directories this walk has been told of."""
        self._plans = self._asked_entries = 0
        """Those of `go_on` that are asked for, of any walk."""
        self._window = limits.AHEAD_FIRST
        self._fetched = self._used = 0

    def begin(self, directory: Ino, is_known: Callable[[Ino], bool]) -> Plan | None:
        """What to ask for when somebody comes to a directory; None where nobody is seen to walk.

        `is_known`: whether there is nothing to ask of another one.
        """
        attr = self._told_whole(directory)
        if attr is None or self._cache.place(directory) is None:
            return None
        if directory not in self._frontier or not self._pass_over(directory):
            self._begin_anew(directory)
        entries, beneath = attr.size + 1, 0 if attr.nlink <= _LINKS_OF_FLAT else limits.AHEAD_FIRST - attr.size
        more, of_more = self._take(beneath, limits.TREE_MAX_DIRECTORIES - 1, is_known)
        return Plan([directory, *more], min(entries + max(beneath, of_more), limits.TREE_MAX_ENTRIES), self._walk)

    def _told_whole(self, directory: Ino) -> Attr | None:
        """Its attributes; None of one that is too large to be told with others, or not known."""
        known = self._cache.kept(directory)
        return known.attr if known is not None and known.attr.size < limits.TREE_MAX_ENTRIES else None

    def _pass_over(self, directory: Ino) -> bool:
        """Somebody has come to a directory of the frontier: what was to come before it comes last, or never.

        False if that is too much: it is another walk.
        """
        for _ in range(limits.AHEAD_ENTRIES_SEEN):
            skipped, _ = self._frontier.popitem()
            if skipped == directory:
                break
            self._frontier[skipped] = None
            self._frontier.move_to_end(skipped, last=False)
        else:
            return False
        while self._untouched and not self._has_room():
            self._untouched_entries -= self._untouched.pop(next(iter(self._untouched)))
        return True

    def _begin_anew(self, directory: Ino) -> None:
        if 2 * len(self._untouched) > self._told:
            self._window = max(limits.AHEAD_FIRST, self._window // 4)
        self._walk += 1
        self._untouched.clear()
        self._untouched_entries = self._told = 0
        self._latest = directory
        self._frontier.clear()
        self._push(self._beside())

    def come_to(self, directory: Ino) -> bool:
        """Somebody has come to a directory that is known; whether he was told of it ahead."""
        entries = self._untouched.pop(directory, None)
        if entries is None:
            return False
        self._used += 1
        self._untouched_entries -= entries
        self._window = min(self._window + entries, limits.TREE_MAX_ENTRIES)
        return True

    def go_on(self, is_known: Callable[[Ino], bool]) -> Plan | None:
        """What to ask for next; None if it is not time for more, or there is none."""
        if self._plans == limits.AHEAD_PARTS_MAX or not self._has_room():
            return None
        directories, of_directories = self._take(self._part_entries, limits.TREE_MAX_DIRECTORIES, is_known)
        if not directories:
            return None
        entries = min(max(self._part_entries, of_directories), limits.TREE_MAX_ENTRIES)
        self._plans += 1
        self._asked_entries += entries
        return Plan(directories, entries, self._walk)

    @property
    def _part_entries(self) -> int:
        return min(self._window // 2, limits.AHEAD_PART)

    def _has_room(self) -> bool:
        """Whether a part more fits into the window."""
        return self._untouched_entries + self._asked_entries + self._part_entries <= self._window

    def _take(self, entries: int, most: int, is_known: Callable[[Ino], bool]) -> tuple[list[Ino], int]:
        """From the frontier, `most` directories, which have so many entries or hardly more; and how many they have."""
        taken: list[Ino] = []
        of_taken = levels = seen = 0
        while of_taken < entries and len(taken) < most and seen < limits.AHEAD_ENTRIES_SEEN:
            if not self._frontier:
                self._push(self._beside())
            if self._frontier:
                directory, _ = self._frontier.popitem()
                if is_known(directory):
                    inside = self._in(directory)
                    self._push(inside)
                    seen += 1 + len(inside)
                elif (attr := self._told_whole(directory)) is not None:
                    taken.append(directory)
                    of_taken += attr.size + 1
            elif taken or levels == _LEVELS or not self._go_up():
                break
            else:
                levels += 1
        return taken, of_taken

    def _push(self, directories: Sequence[Ino]) -> None:
        """These come next, in this order."""
        for directory in reversed(directories):
            self._frontier[directory] = None
            self._frontier.move_to_end(directory)

    def _place(self) -> tuple[Ino, int] | None:
        """The directory that `_latest` is in, and its cookie there, if that is known."""
        return self._cache.place(self._latest) if self._latest is not None else None

    def _go_up(self) -> bool:
        """To the directory above; whether that is known."""
        place = self._place()
        if place is not None:
            self._latest = place[0]
        return place is not None

    def _beside(self) -> list[Ino]:
        """The next directories in the one that `_latest` is in, which is then the last of them."""
        place = self._place()
        found = self._directories(*place) if place is not None else []
        if found:
            self._latest = found[-1]
        return found

    def _in(self, directory: Ino) -> list[Ino]:
        """The first directories in one that is known."""
        known = self._cache.kept(directory)
        if known is None or known.attr.nlink <= _LINKS_OF_FLAT:
            return []
        return self._directories(directory, 0)

    def _directories(self, directory: Ino, after: int) -> list[Ino]:
        following = self._cache.following(directory, after, limits.AHEAD_ENTRIES_SEEN)
        return [attr.ino for _, attr in following if stat.S_ISDIR(attr.mode)]

    def came(self, plan: Plan, listings: Sequence[Listing], asked: Ino | None) -> None:
        """These were told, and are in the cache. Somebody waits for what he `asked` for; the others came ahead."""
        if asked is None:
            self._plans -= 1
            self._asked_entries -= plan.entries
        told = {listing.attr.ino: listing.attr.size + 1 for listing in listings}
        ahead = {ino: entries for ino, entries in told.items() if ino != asked}
        self._fetched += len(ahead)
        if plan.walk != self._walk:
            self._window = max(limits.AHEAD_FIRST, self._window // 2)
            return
        self._untouched |= ahead
        self._untouched_entries = sum(self._untouched.values())
        self._told += len(ahead)
        self._push(self._left(plan, told))

    def _left(self, plan: Plan, told: dict[Ino, int]) -> list[Ino]:
        """What of a plan, or beneath it, there was no room for: the same walk as that of `nodes.namenode.trees`."""
        todo, left, room = [*reversed(plan.directories)], list[Ino](), plan.entries
        while todo:
            directory = todo.pop()
            entries = told.pop(directory, None)  # each is told once, whatever the listings say
            if entries is not None:
                room -= entries
                todo += reversed(self._in(directory))
                continue
            attr = self._told_whole(directory)
            if attr is not None and attr.size + 1 > room:  # or it is not to be had
                left.append(directory)
            room -= 1
        return left

    def statistics(self) -> dict[str, int]:
        return {"directories_ahead": self._fetched, "directories_ahead_used": self._used}
