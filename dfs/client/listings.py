"""Listings of directories, learnt under leases page by page, with attributes.

Whoever lists a directory has the first page as soon as it is here: the NameNode is at the next one while this is
learnt, and told to the kernel. What came of a directory so far the cache keeps (`Cache.learn_page`), and forgets when a
name of it is recalled or changed meanwhile; then the rest is asked for page by page, by who wants it.

Invariant: a directory is in `_under_way` for as long as somebody fetches its listing; then whoever waits goes on, and
asks himself for what did not come. So each has all his patience.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

import structlog
import trio

from dfs import codec, errors, limits, tasks
from dfs.client.cache import Cache, Token
from dfs.client.session import Session
from dfs.types import DirEntry, Ino

log = structlog.get_logger(__name__)


_Page: TypeAlias = Sequence[Any]
"""As the NameNode answers: entries, whether their names are leased, and the inodes that are not."""


class Listings:
    """Of one session."""

    def __init__(self, session: Session, cache: Cache) -> None:
        self._session = session
        self._cache = cache
        self._under_way: dict[Ino, trio.Event] = {}
        """Set, and replaced by another one, when a page has come; set at the end."""

    async def begin(self, ino: Ino) -> None:
        """Have a directory's listing fetched, of one that is too large PREFETCH_MAX_ENTRIES, unless it is under way.

        Raises as the question for its first page.
        """
        if ino in self._under_way:
            return
        self._under_way[ino] = trio.Event()
        token = self._cache.ask()
        try:
            first = await self._ask(ino, 0, limits.PREFETCH_PAGE_ENTRIES)
        except BaseException:
            self._end(ino, token)
            raise
        self._session.spawn(partial(tasks.in_advance, self._fetch, ino, token, first))

    async def entries(self, ino: Ino, after: int, limit: int) -> list[DirEntry]:
        """Entries with cookies above `after`: known ones, or those that come, or else asked for."""
        while (found := self.known(ino, after, limit)) is None and ino in self._under_way:
            await self._under_way[ino].wait()  # bounded: it is a question to the NameNode
        return found if found is not None else await self._page(ino, after, limit)

    def known(self, ino: Ino, after: int, limit: int) -> list[DirEntry] | None:
        """Likewise, if they are known."""
        return self._cache.entries(ino, after, limit) if self._session.is_trusted else None

    async def end(self, ino: Ino) -> None:
        """Return when a listing is not under way any more."""
        while ino in self._under_way:
            await self._under_way[ino].wait()

    def _end(self, ino: Ino, token: Token) -> None:
        self._cache.answered(token)
        self._under_way.pop(ino).set()

    async def _fetch(self, ino: Ino, token: Token, first: _Page) -> None:
        try:
            await self._fetch_pages(ino, token, first)
        except errors.DfsError as error:
            log.info("the rest of a listing is not fetched ahead", ino=ino, error=str(error))
        finally:
            self._end(ino, token)

    async def _fetch_pages(self, ino: Ino, token: Token, first: _Page) -> None:
        answers = [first]

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
                self._learn(token, ino, after, entries, unleased, is_last=is_last)
                moved, self._under_way[ino] = self._under_way[ino], trio.Event()
                moved.set()
            if not self._cache.lists_first(ino):  # something has changed meanwhile
                return
            after = entries[-1][0] if entries else 0
        if not is_last:
            self._cache.note_large(ino, count)

    async def _page(self, ino: Ino, after: int, limit: int) -> list[DirEntry]:
        with self._cache.asking() as token:
            entries, is_leased, unleased = await self._ask(ino, after, limit)
            if is_leased:
                return self._learn(token, ino, after, entries, unleased, is_last=len(entries) < limit)
            return codec.dir_entries(entries)

    async def _ask(self, ino: Ino, after: int, limit: int) -> _Page:
        return await self._session.leased_query("leased_readdir", ino, after, limit)  # type: ignore[no-any-return]

    def _learn(
        self, token: Token, ino: Ino, after: int, wire: Sequence[Any], unleased: Sequence[Ino], *, is_last: bool
    ) -> list[DirEntry]:
        entries = codec.dir_entries(wire)
        self._cache.learn_page(token, ino, after, entries, set(unleased), is_last=is_last)
        return entries
