"""Listings of directories, learnt under leases page by page, with attributes.

Whoever lists a directory has the first page as soon as it is here: the NameNode is at the next one while this is
learnt, and told to the kernel. What came of a directory so far the cache keeps (`Cache.learn_page`), and forgets when a
name of it is recalled or changed meanwhile; then the rest is asked for page by page, by who wants it.

Invariant: a directory is in `_under_way` for as long as a task fetches its listing; then whoever waits goes on. What
fails is raised there, and asked for again by who comes later.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import trio

from dfs import codec, errors, limits, tasks
from dfs.client.cache import Cache, Token
from dfs.client.session import Session
from dfs.types import DirEntry, Ino


class _Listing:
    """One that is being fetched."""

    def __init__(self, token: Token) -> None:
        self.token = token
        self.moved = trio.Event()
        """Set, and replaced by another one, when a page has come; set at the end."""
        self.error: errors.DfsError | None = None


class Listings:
    """Of one session."""

    def __init__(self, session: Session, cache: Cache) -> None:
        self._session = session
        self._cache = cache
        self._under_way: dict[Ino, _Listing] = {}

    def begin(self, ino: Ino) -> None:
        """Have a directory's listing fetched, of one that is too large PREFETCH_MAX_ENTRIES, unless it is under way."""
        if ino not in self._under_way:
            listing = self._under_way[ino] = _Listing(self._cache.ask())
            self._session.spawn(partial(tasks.in_advance, self._fetch, ino, listing))

    async def entries(self, ino: Ino, after: int, limit: int) -> list[DirEntry]:
        """Entries with cookies above `after`: known ones, or those that come, or else asked for."""
        while (found := self.known(ino, after, limit)) is None and ino in self._under_way:
            await self._wait(self._under_way[ino])
        return found if found is not None else await self._page(ino, after, limit)

    def known(self, ino: Ino, after: int, limit: int) -> list[DirEntry] | None:
        """Likewise, if they are known."""
        return self._cache.entries(ino, after, limit) if self._session.is_trusted else None

    async def end(self, ino: Ino) -> None:
        """Return when a listing is not under way any more. Raises what it failed with."""
        while (listing := self._under_way.get(ino)) is not None:
            await self._wait(listing)

    async def _wait(self, listing: _Listing) -> None:
        await listing.moved.wait()  # bounded: it is a question to the NameNode
        if listing.error is not None:
            raise listing.error

    async def _fetch(self, ino: Ino, listing: _Listing) -> None:
        try:
            await self._fetch_pages(ino, listing)
        except errors.DfsError as error:
            listing.error = error
        finally:
            self._cache.answered(listing.token)
            del self._under_way[ino]
            listing.moved.set()

    async def _fetch_pages(self, ino: Ino, listing: _Listing) -> None:
        answers = [await self._ask(ino, 0, limits.PREFETCH_PAGE_ENTRIES)]

        async def ask_for_more(after: int) -> None:
            answers.append(await self._ask(ino, after, limits.PREFETCH_PAGE_ENTRIES))

        count = after = 0
        while answers:
            entries, is_leased, unleased = answers.pop()
            if not is_leased:
                return
            count += len(entries)
            is_last = len(entries) < limits.PREFETCH_PAGE_ENTRIES
            async with tasks.open_nursery() as nursery:
                if not is_last and count < limits.PREFETCH_MAX_ENTRIES:
                    nursery.start_soon(ask_for_more, entries[-1][0])
                    await trio.lowlevel.checkpoint()  # it is on its way while this page is learnt
                self._learn(listing.token, ino, after, entries, unleased, is_last=is_last)
                moved, listing.moved = listing.moved, trio.Event()
                moved.set()
            after = entries[-1][0] if entries else 0
        if not is_last:
            self._cache.note_large(ino, count)

    async def _page(self, ino: Ino, after: int, limit: int) -> list[DirEntry]:
        token = self._cache.ask()
        try:
            entries, is_leased, unleased = await self._ask(ino, after, limit)
            if is_leased:
                return self._learn(token, ino, after, entries, unleased, is_last=len(entries) < limit)
            return codec.dir_entries(entries)
        finally:
            self._cache.answered(token)

    async def _ask(self, ino: Ino, after: int, limit: int) -> Sequence[Any]:
        return await self._session.leased_query("leased_readdir", ino, after, limit)  # type: ignore[no-any-return]

    def _learn(
        self, token: Token, ino: Ino, after: int, wire: Sequence[Any], unleased: Sequence[Ino], *, is_last: bool
    ) -> list[DirEntry]:
        entries = codec.dir_entries(wire)
        self._cache.learn_page(token, ino, after, entries, set(unleased), is_last=is_last)
        return entries
