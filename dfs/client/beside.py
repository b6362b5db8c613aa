"""How many files are owned at once, where one after the other is changed in a directory that others know as well.

Each change of a file that others know has them asked to forget it, and the change waits for that. Who removes a
directory's files, or changes the mode of each, had better have the others asked for many at a time. But to be asked
costs them what they knew; so files are owned beside the one that is changed only after others were changed there, few
at first, and twice as many each time as long as most of them are changed then. Where they are not, more changes have to
come first the next time, and twice as many each time.
"""

from __future__ import annotations

from collections.abc import Collection

from dfs import limits
from dfs.types import Ino

_DIRECTORIES_MAX = 1024


class _Pattern:
    """Of changes in one directory. `ahead` are those of the last `count` files that are not changed yet."""

    __slots__ = ("ahead", "count", "last", "missed", "patience")

    def __init__(self, last: Ino) -> None:
        self.last = last
        self.missed = 0
        self.patience = 1
        self.count = 0
        self.ahead: set[Ino] = set()

    def begin_anew(self) -> None:
        """It was in vain."""
        self.count = self.missed = 0
        self.patience = min(2 * self.patience, limits.OWNED_AT_ONCE_MAX)


class Beside:
    """Of one client; for directories that were changed of late."""

    def __init__(self) -> None:
        self._patterns: dict[Ino, _Pattern] = {}

    def is_new(self, directory: Ino) -> bool:
        """Whether no file that others know was changed in a directory of late."""
        return directory not in self._patterns

    def wanted(self, directory: Ino, ino: Ino) -> int:
        """A file is to be changed that others know: how many are to be owned now, with it. 0: not even that."""
        pattern = self._patterns.pop(directory, None)
        if pattern is None:
            if len(self._patterns) >= _DIRECTORIES_MAX:
                self._patterns.pop(next(iter(self._patterns)))
            self._patterns[directory] = _Pattern(ino)
            return 0
        self._patterns[directory] = pattern
        if ino == pattern.last:
            return 0
        pattern.last = ino
        if pattern.count:
            if 2 * len(pattern.ahead) > pattern.count:
                pattern.begin_anew()
            else:
                pattern.patience = 1
            pattern.ahead.clear()
        pattern.missed += 1
        if pattern.missed < pattern.patience:
            return 0
        pattern.count = min(2 * pattern.count or limits.OWNED_AT_ONCE_FIRST, limits.OWNED_AT_ONCE_MAX)
        return pattern.count

    def came(self, directory: Ino, ino: Ino, inos: Collection[Ino]) -> None:
        """These are owned now, of those that were asked for on account of a file."""
        pattern = self._patterns.get(directory)
        if pattern is None:
            return
        pattern.ahead = set(inos) - {ino}
        if ino not in inos:
            pattern.begin_anew()

    def changed(self, directory: Ino, ino: Ino) -> None:
        """A file was changed that was owned already."""
        pattern = self._patterns.get(directory)
        if pattern is not None:
            pattern.ahead.discard(ino)
