"""What the kernel may show by itself, and how it is made to forget: the kernel's side of the cache's leases.

With what it is told the kernel is given time-outs, as long as the cache covers it (`Session.kernel_timeout_s`): within
them it answers lookups, attributes and the absence of names, and serves the pages that it has read. Here is kept what
it was told, until its time-out has passed: that, and no more, has to be forgotten when it is recalled.

Two things make this harder than it sounds:

* An answer takes a moment from here into the kernel's tables, and would undo a notification that overtook it; or the
  kernel would pass its attributes over, and read(2), for which it had asked, would end where the file ended before. So
  what was told in the last SETTLE_S is forgotten after that time; of what it may not show by itself only news.
* To forget a name the kernel takes the lock of its directory. A create or unlink in it, which waits for our answer,
  holds that lock, and the answer may wait for another mount to forget, which waits likewise. So notifications, some at
  a time, are given FORGET_MAX_S. After that the kernel is made to look up every name again, which takes no lock
  (`Device.forget_names`, Linux 6.16 and later), or the time-outs are waited for. They are short for names in
  directories that this mount changes itself (CHANGED_S), and there are none where something was recalled of late
  (CONTENDED_S).

Attributes are forgotten at once, without a lock. A page is locked while it is being read, which may take as long as a
DataNode does; so pages are given PAGES_MAX_S. Whoever calls read(2) later sees what is new all the same: as the kernel
has no attributes it asks for them, and drops all pages when it finds another modification time; and should he be given
what is being read at that moment, that is read again (`OpenInode.read`). The thread that waits for the page drops it
for who has it mapped. What is read while another mount changes it may be told without a lease, and nobody would have it
recalled: it is forgotten as soon as it is there (`forget_soon`). If that is while its attributes are being forgotten,
the recall is answered when that page is gone, too (`tells_meanwhile`).

A page is locked while it is being written as well. So two mounts that write to one page, each of which commits before
it returns, wait for each other to forget it. Who writes a part of it (`writing_part`) gives way after PARTS_MAX_S, as
what he writes is no more than he was asked to. A page of a shared mapping is written whole: if that came after what
another mount has written to a part of it, that would be undone.

**Listings** are kept by the kernel too, for who opens a directory with `listing_flags`. It reads one answer after the
other into its cache, and has the whole when an empty one says that it was the last. It drops what it has when the
directory is opened without KEEP_CACHE, and reads anew when this mount has changed the directory, as it sees that
itself, or when it finds another modification time. For all others a listing is told like anything else, and forgotten
when names are recalled. So one that may be out of date must never become whole: each answer counts as covered if the
cache has had the listing under its lease since the first one (`Pass`), and before the empty one the kernel is made to
forget what was not; a listing of which it misses a page is read anew. It has no time-out of its own, as an open
directory can be read from its beginning again at any time: so it is remembered here until it is forgotten. But after
the names' time-outs it is not worth having, since each of them would be looked up: then it is read anew, with
attributes.

Notifications that make it forget block, so they are made in threads.

**Pages** that are given to it before it asks for them (`give`) are those of attributes that the cache covers at that
moment, and of files that this mount has not open: so no request that waits for an answer of ours has such a page
locked, and giving it does not block. What is recalled later is forgotten as pages that it has read.
"""

from __future__ import annotations

import itertools
import math
import mmap
import stat
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

import pyfuse3
import structlog
import trio

from dfs import limits
from dfs.checksum import Buffer
from dfs.client.cache import Cache
from dfs.client.session import Session
from dfs.types import ALL_NAMES, Attr, DirEntry, Ino, Item
from mount.device import CACHE_DIR, KEEP_CACHE, Device

T = TypeVar("T")

log = structlog.get_logger(__name__)

SETTLE_S: Final = 0.025
FORGET_MAX_S: Final = 0.05
PAGES_MAX_S: Final = 1.0
PARTS_MAX_S: Final = 0.05
_DROPS_MAX: Final = 8
"""Times in a row that pages are forgotten which were told while the last ones were."""
CHANGED_S: Final = 1.0
"""The time-out of names in a directory that this mount changed so short a time ago, or somewhat longer."""
CONTENDED_S: Final = 5.0
_TOLD_MAX: Final = 65_536
"""Things told that are remembered before those whose time-outs have passed are looked for."""
_PAGES_MAX: Final = 131_072
"""Files whose pages are known; of others the kernel drops them when they are opened again."""
_LISTINGS_MAX: Final = 32_768
"""Directories of which the kernel may have a listing."""
_WORTH_KEEPING_S: Final = 1.0
"""Before its names' time-outs a listing is kept for who opens a directory."""
_UNCOVERED: Final = -math.inf
"""As the time until which a listing is worth keeping: it was told without a lease."""
_SET_ID: Final = stat.S_ISUID | stat.S_ISGID
"""Of a file with such bits the kernel is to ask each time: a write clears them, and nobody tells it: `mount.device`."""
_THREADS_MAX: Final = 16
_NOTIFIED_AT_ONCE: Final = 128
"""Names or inodes in one piece of a thread's work: a few milliseconds, when nobody holds a lock."""


class _Told(NamedTuple):
    """The kernel was told something `at` a time, and may show it `until` another."""

    at: float
    until: float


class _News(NamedTuple):
    """The kernel was told something new `at` a time, which it may not show: `what`, of all that it goes by itself."""

    at: float
    what: tuple[int, int, int, int]


class Pass(NamedTuple):
    """The kernel reads a directory from its beginning, for what it keeps: since when, and what was recalled before."""

    began: float
    recalls: int


class Kernel:
    """One mount's. `root` is the inode that the kernel knows as 1.

    `_names`, `_attrs` and `_listings` have what the kernel was told; between awaits all is of one moment.
    """

    def __init__(self, session: Session, cache: Cache, root: Ino, device: Device) -> None:
        self._session = session
        self._cache = cache
        self._root = root
        self._device = device
        self._names: dict[Ino, dict[bytes, _Told]] = {}
        self._attrs: dict[Ino, _Told] = {}
        self._news: dict[Ino, _News] = {}
        """Of files whose attributes it may not show, what it was told last."""
        self._versions: dict[Ino, int] = {}
        """Of which version the kernel was told the attributes last, if that is remembered."""
        self._told, self._clean_at = 0, _TOLD_MAX
        """Things told since it was looked through what has passed, and how many are to be."""
        self._changed: dict[Ino, float] = {}
        """Directories that this mount changes, and when it did so last."""
        self._contended: dict[tuple[Ino, bool], float] = {}
        """Inodes of which attributes (False) or names (True) were recalled, and when that was last."""
        self._pages: OrderedDict[Ino, int] = OrderedDict()
        """Of which version the kernel has pages, if it has any and they were not recalled since."""
        self._listings: OrderedDict[Ino, _Told] = OrderedDict()
        """Directories of which the kernel may have a listing; `until` is for how long that is worth keeping."""
        self._parts: Counter[Ino] = Counter()
        """Files of which parts of pages are being written, and how many."""
        self._forgetting: Counter[Ino] = Counter()
        """Files whose attributes are recalled, until the kernel has dropped their pages, and how often."""
        self._told_meanwhile: set[Ino] = set()
        """Those of them of which pages were told since the kernel began to drop all."""
        self._pages_awaited: dict[trio.CancelScope, Sequence[Ino]] = {}
        """Files whose pages the kernel is being made to forget, by how long that is waited for."""
        self._uncovered: set[Ino] = set()
        """Inodes of which pages are to be forgotten that were told without a lease."""
        self._recalls = 0
        """Of names, and listings that were told without a lease."""
        session.held_besides.append(lambda: (list(self._attrs), [*self._names, *self._listings]))
        self._threads = trio.CapacityLimiter(_THREADS_MAX)
        self._listing_threads = trio.CapacityLimiter(_THREADS_MAX)
        """For what no lock keeps up, though others may have all the other ones."""
        self._page_threads = trio.CapacityLimiter(_THREADS_MAX)
        self._forgotten = self._waited_out = self._given = self._uncovered_forgotten = 0

    # --- telling ----------------------------------------------------------------------------------------

    def attr_timeout_s(self, attr: Attr) -> float:
        """For how long the kernel may show the attributes that it is being told; notes that it is told."""
        timeout_s = self._session.kernel_timeout_s if self._cache.covers(attr) and not self._asks_always(attr) else 0.0
        if timeout_s:
            self._attrs[attr.ino] = self._tell(timeout_s)
            self._versions[attr.ino] = attr.version
            self._news.pop(attr.ino, None)
        else:
            self._versions.pop(attr.ino, None)
            if stat.S_ISREG(attr.mode):
                self._tell_news(attr)
        return timeout_s

    def _tell_news(self, attr: Attr) -> None:
        """The kernel is told attributes of a file which it may not show."""
        what = attr.size, attr.mode, attr.uid, attr.gid
        before = self._news.get(attr.ino)
        if before is None or before.what != what:
            self._news[attr.ino] = _News(self._tell(0.0).at, what)

    def _asks_always(self, attr: Attr) -> bool:
        """Whether the kernel is to show no attributes of this inode by itself, though they are leased."""
        if self._contended and self._is_contended(attr.ino, False):
            return True
        return bool(attr.mode & _SET_ID) and stat.S_ISREG(attr.mode)

    def name_timeout_s(self, directory: Ino, name: bytes, ino: Ino | None) -> float:
        """Likewise what a name stands for, or that it stands for nothing."""
        timeout_s = self._names_timeout_s(directory) if self._cache.covers_name(directory, name, ino) else 0.0
        if timeout_s:
            self._names.setdefault(directory, {})[name] = self._tell(timeout_s)
        return timeout_s

    def tell_entries(self, directory: Ino, entries: Iterable[DirEntry]) -> Iterator[tuple[DirEntry, float, float]]:
        """Entries of a directory with both time-outs of each, for who tells them with no await in between."""
        names_timeout_s, timeout_s = self._names_timeout_s(directory), self._session.kernel_timeout_s
        if self._told >= self._clean_at:
            self._clean()
        now = trio.current_time()
        told_name, told_attr = _Told(now, now + names_timeout_s), _Told(now, now + timeout_s)
        names = self._names.setdefault(directory, {}) if names_timeout_s else {}
        for entry, covers_name, covers_attr in self._cache.covered(directory, entries):
            _, name, attr = entry
            if self._news:
                self._news.pop(attr.ino, None)
            self._versions[attr.ino] = attr.version
            if not names_timeout_s:
                covers_name = False
            elif covers_name:
                names[name] = told_name
            if not timeout_s or self._asks_always(attr):
                covers_attr = False
            elif covers_attr:
                self._attrs[attr.ino] = told_attr
            self._told += 2
            yield entry, names_timeout_s if covers_name else 0.0, timeout_s if covers_attr else 0.0

    def _names_timeout_s(self, directory: Ino) -> float:
        """Of those that the cache covers."""
        timeout_s = self._session.kernel_timeout_s
        if self._is_contended(directory, True):
            return 0.0
        if trio.current_time() < self._changed.get(directory, -math.inf) + CHANGED_S:
            return min(timeout_s, CHANGED_S)
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
        self._versions = {ino: version for ino, version in self._versions.items() if ino in self._attrs}
        self._news = {ino: news for ino, news in self._news.items() if news.at + CONTENDED_S > now}
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
        self._has_pages(attr)
        return keeps

    def _has_pages(self, attr: Attr) -> None:
        self._pages[attr.ino] = attr.version
        self._pages.move_to_end(attr.ino)
        if len(self._pages) > _PAGES_MAX:
            self._pages.popitem(last=False)

    def give(self, attr: Attr, offset: int, data: Buffer) -> bool:
        """Put what a file that is not open holds from `offset` to its end into the page cache; whether that was done.

        Not what it holds after pages of another version; nor where the kernel was not told of this version, as it would
        drop the pages when it is.
        """
        is_covered = self._session.kernel_timeout_s and self._cache.covers(attr)
        if not is_covered or self._asks_always(attr) or self._versions.get(attr.ino) != attr.version:
            return False
        if offset and self._pages.get(attr.ino) != attr.version:
            return False
        if (offset + len(data)) % mmap.PAGESIZE and not self._device.zeroes_ends:
            return False
        try:
            self._device.store(self._number(attr.ino), offset, data)
        except OSError:  # the kernel does not know it, or not any more
            return False
        self._has_pages(attr)
        self._given += 1
        return True

    def lost(self, ino: Ino) -> None:
        """What was written to a file will not be in it."""
        self._pages[ino] = 0  # none that there is
        self._session.spawn(partial(self._forget_inodes, [ino]))

    def changed(self, attr: Attr) -> None:
        """A change of this mount's own, which leaves the kernel's pages as they should be, made it this version."""
        if self._pages.get(attr.ino) == attr.version - 1:
            self._pages[attr.ino] = attr.version

    # --- listings ---------------------------------------------------------------------------------------

    def listing_flags(self, directory: Attr) -> int:
        """What the kernel is to do with the listing of a directory that is being opened: flags of `mount.device`."""
        if directory.size >= limits.PREFETCH_MAX_ENTRIES or not self._names_timeout_s(directory.ino):
            return 0
        told = self._listings.get(directory.ino)
        keeps = told is not None and trio.current_time() + _WORTH_KEEPING_S < told.until
        return CACHE_DIR | (KEEP_CACHE if keeps else 0)

    async def begins_pass(self, directory: Ino) -> Pass:
        """The kernel reads a directory from its beginning: nothing that is not covered is there to be gone on with."""
        told = self._listings.get(directory)
        if told is not None and told.until == _UNCOVERED:
            await self._forget_listings([directory])
        return Pass(trio.current_time(), self._recalls)

    def _is_covered(self, reading: Pass) -> bool:
        return self._recalls == reading.recalls and self._session.is_trusted

    def lists(self, directory: Ino, reading: Pass) -> None:
        """The kernel is being told a part of a listing, which it keeps. The rest may be on its way here."""
        if self._is_covered(reading) and self._cache.lists_first(directory):
            until = reading.began + self._names_timeout_s(directory)
        else:
            until = _UNCOVERED
            self._recalls += 1  # what others are reading into the same listing is not covered either
        self._listings[directory] = _Told(trio.current_time(), until)
        self._listings.move_to_end(directory)
        if len(self._listings) > _LISTINGS_MAX:
            oldest = list(itertools.islice(self._listings, _NOTIFIED_AT_ONCE))
            for each in oldest:
                self._listings.move_to_end(each)
            self._session.spawn(partial(self._forget_listings, oldest))

    async def ends_listing(self, directory: Ino, reading: Pass) -> None:
        """The kernel is about to be told that a listing is whole: it is not to be, unless all of it is covered."""
        if not (self._is_covered(reading) and self._cache.lists(directory)):
            await self._forget_pages([self._number(directory)], [])

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

    def tells_meanwhile(self, ino: Ino) -> bool:
        """Whether pages of a file that the kernel is about to be told are dropped again before a recall is answered."""
        if ino not in self._forgetting:
            return False
        self._told_meanwhile.add(ino)
        return True

    def forget_attributes(self, ino: Ino) -> None:
        """The kernel is to ask for the attributes of an inode, which have changed though it noticed nothing."""
        _notify(self._device.forget_attributes, [self._number(ino)])

    def forget_soon(self, ino: Ino) -> None:
        """Pages of an inode are being told without a lease, so nobody would have them recalled: they go once they are
        there. For who calls read(2) the kernel asks for attributes first; who has the page mapped would keep it.
        """
        if ino not in self._uncovered:
            self._uncovered_forgotten += 1
            self._uncovered.add(ino)
            self._session.spawn(partial(self._forget_uncovered, ino))

    async def _forget_uncovered(self, ino: Ino) -> None:
        self._uncovered.discard(ino)
        await self._notify_pages([ino])

    async def _notify_pages(self, inos: Sequence[Ino]) -> None:
        """Return when the kernel has no pages of these files, or only some that are locked and forgotten after that."""
        async with trio.open_nursery() as nursery:
            for ino in self._parts.keys() & inos:
                nursery.start_soon(self._notify_pages_in_time, [ino])
            if others := [ino for ino in inos if ino not in self._parts]:
                nursery.start_soon(self._notify_pages_in_time, others)

    async def _notify_pages_in_time(self, inos: Sequence[Ino]) -> None:
        numbers = [self._number(ino) for ino in inos]
        with trio.move_on_after(PARTS_MAX_S if self._writes_part(inos) else PAGES_MAX_S) as limit:
            self._pages_awaited[limit] = inos
            try:
                await self._notify_in_thread(self._device.forget_inode, numbers, self._page_threads)
            finally:
                del self._pages_awaited[limit]
        if limit.cancelled_caught and not self._writes_part(inos):
            log.info("pages are being read for long, and forgotten then", inodes=len(inos))

    def _writes_part(self, inos: Sequence[Ino]) -> bool:
        return bool(self._parts) and any(ino in self._parts for ino in inos)

    @contextmanager
    def writing_part(self, ino: Ino) -> Iterator[None]:
        """While a part of a page is being written, which the kernel has locked meanwhile."""
        self._parts[ino] += 1
        latest = trio.current_time() + PARTS_MAX_S
        for limit, inos in self._pages_awaited.items():
            if ino in inos:
                limit.deadline = min(limit.deadline, latest)
        try:
            yield
        finally:
            self._parts[ino] -= 1
            if not self._parts[ino]:
                del self._parts[ino]

    async def forget(self, items: Sequence[Item]) -> None:
        """Return when the kernel shows none of these without asking. The cache has forgotten them already."""
        now = trio.current_time()
        inos = [ino for ino, name in items if name is None]
        names: dict[Ino, dict[bytes, _Told]] = {}
        self._recalls += len(inos) < len(items)
        for ino, name in items:
            self._contended[ino, name is not None] = now
            if name is not None:
                known = self._names.get(ino, {})
                taken = dict(known) if name == ALL_NAMES else {name: known[name]} if name in known else {}
                names.setdefault(ino, {}).update(taken)
        await self._forget(inos, names, [directory for directory in names if directory in self._listings])

    async def forget_all(self) -> None:
        """Likewise of all that it was told."""
        self._recalls += 1
        names = {directory: dict(names) for directory, names in self._names.items()}
        inodes = list({**self._attrs, **self._pages})  # of which it may have pages with bytes that are lost
        self._pages.clear()
        await self._forget(inodes, names, list(self._listings))

    async def _forget(self, inos: Sequence[Ino], names: dict[Ino, dict[bytes, _Told]], listings: Sequence[Ino]) -> None:
        async with trio.open_nursery() as nursery:
            if listings:
                nursery.start_soon(self._forget_listings, listings)
            for directory, told in names.items():
                if told:
                    nursery.start_soon(self._forget_names, directory, told)
            if inos:
                nursery.start_soon(self._forget_inodes, inos)
        self._forgotten += len(inos) + sum(map(len, names.values()))

    async def _forget_names(self, directory: Ino, told: dict[bytes, _Told]) -> None:
        notify = partial(self._device.forget_name, self._number(directory))
        if not await self._notify_in_time(notify, list(told), list(told.values())) and not self._device.forget_names():
            await self._wait_out(told.values())
        known = self._names.get(directory, {})
        for name, what in told.items():
            if known.get(name) is what:  # and it was not told anew meanwhile
                del known[name]

    async def _forget_inodes(self, inos: Sequence[Ino]) -> None:
        told = {ino: self._attrs[ino] for ino in inos if ino in self._attrs}
        self._forgetting.update(inos)
        try:
            await _settled([*told.values(), *(self._news[ino] for ino in inos if ino in self._news)])
            for part in _parts([self._number(ino) for ino in inos]):
                _notify(self._device.forget_attributes, part)
                await trio.lowlevel.checkpoint()
            for ino, what in told.items():
                if self._attrs.get(ino) is what:
                    del self._attrs[ino]
            left = inos
            for _ in range(_DROPS_MAX):
                self._told_meanwhile.difference_update(left)
                await self._notify_pages(left)
                left = [ino for ino in left if ino in self._told_meanwhile]
                if not left:
                    break
        finally:
            self._forgetting -= Counter(inos)
            self._told_meanwhile.intersection_update(self._forgetting)

    async def _forget_listings(self, directories: Sequence[Ino]) -> None:
        told = {directory: self._listings[directory] for directory in directories if directory in self._listings}
        numbers = [self._number(directory) for directory in told]
        await self._forget_pages(numbers, list(told.values()))
        for directory, what in told.items():
            if self._listings.get(directory) is what:
                del self._listings[directory]

    async def _forget_pages(self, numbers: Sequence[int], told: Sequence[_Told]) -> None:
        """Return when the kernel has no listing of these directories. No lock of theirs is in its way."""
        while not await self._notify_in_time(self._device.forget_inode, numbers, told, self._listing_threads):
            log.warning("the kernel does not forget listings, trying again", count=len(numbers))

    async def _notify_in_time(
        self,
        notify: Callable[[Any], None],
        what: Sequence[Any],
        told: Sequence[_Told],
        threads: trio.CapacityLimiter | None = None,
    ) -> bool:
        """Notify the kernel of what it was told, some at a time; False when it did not take that in time."""
        await _settled(told)
        for part in _parts(what):
            with trio.move_on_after(FORGET_MAX_S) as limit:
                await self._notify_in_thread(notify, part, threads or self._threads)
            if limit.cancelled_caught:
                return False
        return True

    async def _notify_in_thread(
        self, notify: Callable[[Any], None], part: Sequence[Any], threads: trio.CapacityLimiter
    ) -> None:
        """Notify the kernel. Who is cancelled leaves behind what waits for a lock."""
        try:
            await trio.to_thread.run_sync(_notify, notify, part, abandon_on_cancel=True, limiter=threads)
        except RuntimeError as error:  # the machine has no more threads
            log.warning("the kernel could not be notified", error=str(error))
            await trio.sleep_forever()  # as if it did not take it: all callers have a deadline

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
            "told_listings": len(self._listings),
            "given": self._given,
            "forgotten": self._forgotten,
            "waited_out": self._waited_out,
            "forgotten_without_lease": self._uncovered_forgotten,
        }


def _parts(what: Sequence[T]) -> Iterator[Sequence[T]]:
    """Pieces of _NOTIFIED_AT_ONCE."""
    for start in range(0, len(what), _NOTIFIED_AT_ONCE):
        yield what[start : start + _NOTIFIED_AT_ONCE]


async def _settled(told: Iterable[_Told | _News]) -> None:
    """Return when what was told has arrived in the kernel's tables."""
    await trio.sleep_until(max((each.at for each in told), default=-math.inf) + SETTLE_S)


def _notify(notify: Callable[[Any], None], what: Iterable[Any]) -> None:
    for each in what:
        try:
            notify(each)
        except OSError:  # the kernel does not know it, or not any more
            continue
