"""What the kernel may show by itself, and how it is made to forget: the kernel's side of the cache's leases.

With what it is told the kernel is given time-outs, as long as the cache covers it (`Session.kernel_timeout_s`): within
them it answers lookups, attributes and the absence of names, and serves the pages that it has read. Here is kept what
it was told, until its time-out has passed: that, and no more, has to be forgotten when it is recalled.

Two things make this harder than it sounds:

* An answer takes a moment from here into the kernel's tables, and would undo a notification that overtook it. So what
  was told in the last SETTLE_S is forgotten after that time.
* To forget a name the kernel takes the lock of its directory. A create or unlink in it, which waits for our answer,
  holds that lock, and the answer may wait for another mount to forget, which waits likewise. So notifications, some at
  a time, are given FORGET_MAX_S. After that the kernel is made to look up every name again, which takes no lock
  (`_begin_epoch`, Linux 6.16 and later), or the time-outs are waited for. They are short for names in directories that
  this mount changes itself (CHANGED_S), and there are none where something was recalled of late (CONTENDED_S).

pyfuse3's notifications block, so they are made in threads.
"""

from __future__ import annotations

import errno
import math
import os
import stat
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyfuse3
import trio

from dfs.client.cache import Cache
from dfs.client.session import Session
from dfs.types import ALL_NAMES, Attr, Ino, Item

SETTLE_S: Final = 0.025
FORGET_MAX_S: Final = 0.05
CHANGED_S: Final = 1.0
"""The time-out of names in a directory that this mount changed so short a time ago, or somewhat longer."""
CONTENDED_S: Final = 5.0
_TOLD_MAX: Final = 65_536
"""Things told that are remembered before those whose time-outs have passed are looked for."""
_PAGES_MAX: Final = 131_072
"""Files whose pages are known; of others the kernel drops them when they are opened again."""
_INC_EPOCH: Final = struct.pack("=IiQ", 16, 8, 0)
"""Its length, the notification's number, no request that it would be the answer to."""
_SET_ID: Final = stat.S_ISUID | stat.S_ISGID
"""Of a file with such bits the kernel is to ask each time: a write clears them, and nobody tells it (`negotiation`)."""
_THREADS_MAX: Final = 16
_NOTIFIED_AT_ONCE: Final = 128
"""Names or inodes in one piece of a thread's work: a few milliseconds, when nobody holds a lock."""


class _Told(NamedTuple):
    """The kernel was told something `at` a time, and may show it `until` another."""

    at: float
    until: float


class Kernel:
    """One mount's. `root` is the inode that the kernel knows as 1.

    `_names` and `_attrs` have what the kernel was told; between awaits all is of one moment.
    """

    def __init__(self, session: Session, cache: Cache, root: Ino) -> None:
        self._session = session
        self._cache = cache
        self._root = root
        self._names: dict[Ino, dict[bytes, _Told]] = {}
        self._attrs: dict[Ino, _Told] = {}
        self._told, self._clean_at = 0, _TOLD_MAX
        """Things told since it was looked through what has passed, and how many are to be."""
        self._changed: dict[Ino, float] = {}
        """Directories that this mount changes, and when it did so last."""
        self._contended: dict[tuple[Ino, bool], float] = {}
        """Inodes of which attributes (False) or names (True) were recalled, and when that was last."""
        self._pages: OrderedDict[Ino, int] = OrderedDict()
        """Of which version the kernel has pages, if it has any and they were not recalled since."""
        session.held_besides.append(lambda: (list(self._attrs), list(self._names)))
        self._threads = trio.CapacityLimiter(_THREADS_MAX)
        self._forgotten = self._waited_out = 0

    # --- telling ----------------------------------------------------------------------------------------

    def attr_timeout_s(self, attr: Attr) -> float:
        """For how long the kernel may show the attributes that it is being told; notes that it is told."""
        timeout_s = self._session.kernel_timeout_s if self._cache.covers(attr) else 0.0
        if self._is_contended(attr.ino, False) or (attr.mode & _SET_ID and stat.S_ISREG(attr.mode)):
            timeout_s = 0.0
        if timeout_s:
            self._attrs[attr.ino] = self._tell(timeout_s)
        return timeout_s

    def name_timeout_s(self, directory: Ino, name: bytes, ino: Ino | None) -> float:
        """Likewise what a name stands for, or that it stands for nothing."""
        timeout_s = self._session.kernel_timeout_s if self._cache.covers_name(directory, name, ino) else 0.0
        if self._is_contended(directory, True):
            timeout_s = 0.0
        elif trio.current_time() < self._changed.get(directory, -math.inf) + CHANGED_S:
            timeout_s = min(timeout_s, CHANGED_S)
        if timeout_s:
            self._names.setdefault(directory, {})[name] = self._tell(timeout_s)
        return timeout_s

    def _is_contended(self, ino: Ino, names: bool) -> bool:
        at = self._contended.get((ino, names)) if self._contended else None
        return at is not None and trio.current_time() < at + CONTENDED_S

    def _tell(self, timeout_s: float) -> _Told:
        """Something is told now."""
        self._told += 1
        if self._told >= self._clean_at:
            self._clean()
        now = trio.current_time()
        return _Told(now, now + timeout_s)

    def _clean(self) -> None:
        """Remember only what has not passed."""
        now = trio.current_time()
        self._attrs = {ino: told for ino, told in self._attrs.items() if told.until > now}
        for directory, names in list(self._names.items()):
            left = {name: told for name, told in names.items() if told.until > now}
            if left:
                self._names[directory] = left
            else:
                del self._names[directory]
        self._changed = {ino: at for ino, at in self._changed.items() if at > now - CHANGED_S}
        self._contended = {what: at for what, at in self._contended.items() if at > now - CONTENDED_S}
        self._told = 0
        self._clean_at = max(_TOLD_MAX, len(self._attrs) + sum(map(len, self._names.values())))

    def keeps_pages(self, attr: Attr) -> bool:
        """Whether the pages that the kernel has of a file, which is being opened, are those of this version."""
        keeps = self._pages.get(attr.ino) == attr.version
        self._pages[attr.ino] = attr.version
        self._pages.move_to_end(attr.ino)
        if len(self._pages) > _PAGES_MAX:
            self._pages.popitem(last=False)
        return keeps

    def changed(self, attr: Attr) -> None:
        """A change of this mount's own, which leaves the kernel's pages as they should be, made it this version."""
        if self._pages.get(attr.ino) == attr.version - 1:
            self._pages[attr.ino] = attr.version

    def renames(self, old: Ino, name: bytes, new: Ino, new_name: bytes) -> None:
        """The kernel is about to give what it knows under one name another one, its time-out included."""
        one, other = self._names.get(old, {}).get(name), self._names.get(new, {}).get(new_name)
        latest = max(filter(None, (one, other)), key=lambda told: told.until, default=None)
        if latest is not None:
            self._names.setdefault(old, {})[name] = latest
            self._names.setdefault(new, {})[new_name] = latest

    def changes(self, directory: Ino) -> None:
        """The kernel has the directory locked for a change, which is about to be made."""
        self._changed[directory] = trio.current_time()

    # --- forgetting -------------------------------------------------------------------------------------

    async def forget(self, items: Sequence[Item]) -> None:
        """Return when the kernel shows none of these without asking. The cache has forgotten them already."""
        now = trio.current_time()
        inos = [ino for ino, name in items if name is None]
        names: dict[Ino, dict[bytes, _Told]] = {}
        for ino, name in items:
            self._contended[ino, name is not None] = now
            if name is not None:
                known = self._names.get(ino, {})
                taken = dict(known) if name == ALL_NAMES else {name: known[name]} if name in known else {}
                names.setdefault(ino, {}).update(taken)
        await self._forget(inos, names)

    async def forget_all(self) -> None:
        """Likewise of all that it was told."""
        await self._forget(list(self._attrs), {directory: dict(names) for directory, names in self._names.items()})

    async def _forget(self, inos: Sequence[Ino], names: dict[Ino, dict[bytes, _Told]]) -> None:
        async with trio.open_nursery() as nursery:
            for directory, told in names.items():
                if told:
                    nursery.start_soon(self._forget_names, directory, told)
            if inos:
                nursery.start_soon(self._forget_inodes, inos)
        self._forgotten += len(inos) + sum(map(len, names.values()))

    async def _forget_names(self, directory: Ino, told: dict[bytes, _Told]) -> None:
        notify = partial(_invalidate_names, self._number(directory))
        if not await self._notify_in_time(notify, list(told), list(told.values())) and not _begin_epoch():
            await self._wait_out(told.values())
        known = self._names.get(directory, {})
        for name, what in told.items():
            if known.get(name) is what:  # and it was not told anew meanwhile
                del known[name]

    async def _forget_inodes(self, inos: Sequence[Ino]) -> None:
        told = {ino: self._attrs[ino] for ino in inos if ino in self._attrs}
        numbers = [self._number(ino) for ino in inos]
        if not await self._notify_in_time(_invalidate_inodes, numbers, list(told.values())):
            await self._wait_out(told.values())
        for ino, what in told.items():
            if self._attrs.get(ino) is what:
                del self._attrs[ino]

    async def _notify_in_time(
        self, notify: Callable[[Sequence[Any]], None], what: Sequence[Any], told: Sequence[_Told]
    ) -> bool:
        """Notify the kernel of what it was told, some at a time; False when it did not take that in time."""
        await trio.sleep_until(max((each.at for each in told), default=-math.inf) + SETTLE_S)
        for start in range(0, len(what), _NOTIFIED_AT_ONCE):
            with trio.move_on_after(FORGET_MAX_S) as limit:
                part = what[start : start + _NOTIFIED_AT_ONCE]
                await trio.to_thread.run_sync(notify, part, abandon_on_cancel=True, limiter=self._threads)
            if limit.cancelled_caught:
                return False
        return True

    async def _wait_out(self, told: Iterable[_Told]) -> None:
        """Wait until the kernel does not show by itself any more what it was told."""
        self._waited_out += 1
        await trio.sleep_until(max((what.until for what in told), default=-math.inf))

    def _number(self, ino: Ino) -> int:
        return pyfuse3.ROOT_INODE if ino == self._root else ino

    def statistics(self) -> dict[str, int]:
        return {
            "told_attributes": len(self._attrs),
            "told_names": sum(map(len, self._names.values())),
            "forgotten": self._forgotten,
            "waited_out": self._waited_out,
        }


def _invalidate_names(directory: int, names: Sequence[bytes]) -> None:
    for name in names:
        try:
            pyfuse3.invalidate_entry(directory, name)
        except OSError:  # the kernel does not know it, or not any more
            continue


def _begin_epoch() -> bool:
    """Have the kernel look up every name again that it was told before now; whether it can do that.

    The notification FUSE_NOTIFY_INC_EPOCH of <linux/fuse.h>, which pyfuse3 does not have: a header, and nothing else.
    """
    for link in Path("/proc/self/fd").iterdir():
        try:
            if str(link.readlink()) == "/dev/fuse":
                os.write(int(link.name), _INC_EPOCH)
                return True
        except OSError as error:
            if error.errno == errno.EINVAL:  # an older kernel
                return False
    return False


def _invalidate_inodes(numbers: Sequence[int]) -> None:
    for number in numbers:
        try:
            pyfuse3.invalidate_inode(number, attr_only=False)
        except OSError:  # likewise
            continue
