"""The namespace by inode numbers, answered from what is cached under leases as far as it goes. What a mount uses.

A directory of which several names had to be asked for is fetched whole, with attributes: whoever walks a tree or looks
at all files of a directory waits for one answer instead of hundreds.

An open file whose inode is leased need not be held at the NameNode: nobody else can remove its last name without a
recall, and before that is answered it is held (`dfs.client.openinode`). What is removed here is looked at first.
"""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from dfs import codec, errors, limits
from dfs.client.cache import ABSENT, Absent, Cache, Known, Token
from dfs.client.inodes import RENAME_EXCHANGE, Inodes, Layout, layout_of
from dfs.client.session import Session
from dfs.types import Attr, DirEntry, Ino

_OWN_ATTEMPTS = 3
"""Of owning what others want at the same time, before its bytes are written through."""


class CachedInodes(Inodes):
    """As `Inodes`, under the leases of its session."""

    def __init__(self, session: Session, cache: Cache) -> None:
        super().__init__(session)
        self._cache = cache
        self.unheld: Mapping[Ino, object] = {}
        """Inodes that are open here, and not held at the NameNode."""
        self.hold_open: Callable[[Ino], Awaitable[None]] | None = None
        """Has one of them held."""

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[Token]:
        token = self._cache.ask()
        try:
            yield token
        finally:
            self._cache.answered(token)

    def _known(self, ino: Ino) -> Known | None:
        return self._cache.inode(ino) if self._session.is_trusted else None

    def cached_attr(self, ino: Ino) -> Attr | None:
        """What may be shown of an inode without asking."""
        known = self._known(ino)
        return known.attr if known is not None else None

    def cached_lookup(self, parent: Ino, name: bytes) -> Attr | Absent | None:
        """What may be shown of a name without asking; `ABSENT` where there is nothing of that name."""
        if not self._session.is_trusted:
            return None
        ino = self._cache.name(parent, name)
        if ino is None or isinstance(ino, Absent):
            return ino
        known = self._cache.inode(ino)
        return known.attr if known is not None else None

    # --- queries ----------------------------------------------------------------------------------------

    async def lookup(self, parent: Ino, name: bytes) -> Attr:
        found = self.cached_lookup(parent, name)
        if found is None and self._cache.wants_listing(parent, limits.PREFETCH_AFTER_MISSES):
            await self._fetch_listing(parent)
            found = self.cached_lookup(parent, name)
        if found is None:
            found = await self._lookup(parent, name)
        if isinstance(found, Absent):
            raise errors.NotFound("no such file or directory")
        return found

    async def _lookup(self, parent: Ino, name: bytes) -> Attr | Absent:
        async with self._asking() as token:
            wire, is_name_leased, is_attr_leased = await self._session.leased_query("leased_lookup", parent, name)
            attr = codec.attr(wire) if wire is not None else None
            if attr is not None and is_attr_leased:
                self._cache.learn_attr(token, attr)
            if is_name_leased:
                self._cache.learn_name(token, parent, name, attr.ino if attr is not None else None)
        return attr or ABSENT

    async def getattr(self, ino: Ino) -> Attr:
        return self.cached_attr(ino) or await self._getattr(ino)

    async def _getattr(self, ino: Ino) -> Attr:
        async with self._asking() as token:
            wire, is_leased = await self._session.leased_query("leased_getattr", ino)
            attr = codec.attr(wire)
            if is_leased:
                self._cache.learn_attr(token, attr)
        return attr

    async def walk(self, ino: Ino, names: Sequence[bytes]) -> list[Attr]:
        steps: list[Attr] = []
        for name in names:
            try:
                steps.append(await self.lookup(ino, name))
            except errors.NotFound:
                break
            if not stat.S_ISDIR(steps[-1].mode):
                break
            ino = steps[-1].ino
        return steps

    async def parent(self, ino: Ino) -> Attr:
        known = self._known(ino)
        if known is not None and known.parent is not None:
            return await self.getattr(known.parent)
        async with self._asking():
            attr = await super().parent(ino)
            if known is not None and self._known(ino) is known:  # the same since before it was asked
                known.parent = attr.ino
        return attr

    async def readdir(self, ino: Ino, after: int = 0, limit: int = limits.READDIR_MAX_ENTRIES) -> list[DirEntry]:
        if self._session.is_trusted:
            found = self._cache.entries(ino, after, limit)
            if found is not None:
                return found
        if after == 0:
            await self._fetch_listing(ino)
            found = self._cache.entries(ino, after, limit) if self._session.is_trusted else None
            if found is not None:
                return found
        async with self._asking() as token:
            return (await self._page(token, ino, after, limit))[0]

    async def _page(self, token: Token, ino: Ino, after: int, limit: int) -> tuple[list[DirEntry], bool]:
        """Some entries, and whether their names are leased."""
        wire, is_leased, unleased = await self._session.leased_query("leased_readdir", ino, after, limit)
        entries = [codec.dir_entry(entry) for entry in wire]
        if is_leased:
            self._cache.learn_page(token, ino, entries, set(unleased))
        return entries, is_leased

    async def _fetch_listing(self, ino: Ino) -> None:
        """Learn all names of a directory that is not too large."""
        listing: list[tuple[int, bytes]] = []
        async with self._asking() as token:
            while len(listing) < limits.PREFETCH_MAX_ENTRIES:
                after = listing[-1][0] if listing else 0
                page, is_leased = await self._page(token, ino, after, limits.PREFETCH_PAGE_ENTRIES)
                if not is_leased:
                    return
                listing += [(entry.cookie, entry.name) for entry in page]
                if len(page) < limits.PREFETCH_PAGE_ENTRIES:
                    self._cache.learn_listing(token, ino, listing)
                    return

    async def readlink(self, ino: Ino) -> bytes:
        known = self._known(ino)
        if known is not None and known.target is not None:
            return known.target
        target = await super().readlink(ino)
        if known is not None:
            known.target = target  # it is the inode's for life
        return target

    async def getxattr(self, ino: Ino, name: bytes) -> bytes:
        values = await self._xattrs(ino)
        if values is None:
            return await super().getxattr(ino, name)
        if name not in values:
            raise errors.NoAttribute("no such extended attribute")
        return values[name]

    async def listxattr(self, ino: Ino) -> list[bytes]:
        values = await self._xattrs(ino)
        return await super().listxattr(ino) if values is None else list(values)

    async def _xattrs(self, ino: Ino) -> dict[bytes, bytes] | None:
        """All of an inode's, or None if they are many."""
        known = self._known(ino)
        if known is None:
            await self._getattr(ino)
            known = self._known(ino)
        if known is not None and known.xattrs is not None:
            return known.xattrs
        async with self._asking():
            values, is_leased = await self._session.leased_query("leased_xattrs", ino)
            if values is not None and is_leased and known is not None and self._known(ino) is known:
                known.xattrs = values
        return None if values is None else dict(values)

    async def own(self, ino: Ino) -> Attr | None:
        """Have it that nobody else knows the inode: what is written to it may stay here until it is recalled.

        Its attributes as they are then; None where it cannot be had.
        """
        await self._session.ensure()
        if not self._session.caches:
            return None
        for _ in range(_OWN_ATTEMPTS):
            async with self._asking() as token:
                wire, is_owned = await self._session.leased_query("own", ino)
                if not is_owned:
                    return None
                attr = codec.attr(wire)
                self._cache.learn_attr(token, attr)
                known = self._cache.kept(ino)
                if known is not None and self._cache.is_valid(token, (ino, None)):
                    known.is_owned = True
                    if self.owns(ino):
                        return attr
        return None

    def owns(self, ino: Ino) -> bool:
        """Whether `own` would have nothing to do."""
        known = self._cache.kept(ino) if self._session.is_trusted else None
        return known is not None and known.is_owned

    async def layout(self, ino: Ino, offset: int, length: int) -> Layout:
        """As `Reader.layout`; its attributes are leased where they can be."""
        async with self._asking() as token:
            *wire, is_leased = await self._session.leased_query("leased_extents", ino, offset, length)
            layout = layout_of(wire, offset, length)
            if is_leased:
                self._cache.learn_attr(token, layout.attr)
        return layout

    # --- commands ---------------------------------------------------------------------------------------

    async def unlink(self, parent: Ino, name: bytes) -> Attr:
        await self._hold_what_goes(parent, name)
        return await super().unlink(parent, name)

    async def rename(self, parent: Ino, name: bytes, new_parent: Ino, new_name: bytes, flags: int = 0) -> Attr:
        if flags != RENAME_EXCHANGE:
            await self._hold_what_goes(new_parent, new_name)
        return await super().rename(parent, name, new_parent, new_name, flags)

    async def link(self, ino: Ino, parent: Ino, name: bytes, *, replace: bool = False) -> Attr:
        if replace:
            await self._hold_what_goes(parent, name)
        return await super().link(ino, parent, name, replace=replace)

    async def _hold_what_goes(self, parent: Ino, name: bytes) -> None:
        """What has this name may lose its last one. Nothing is recalled from us on our own account."""
        if not self.unheld or self.hold_open is None:
            return
        try:
            ino = (await self.lookup(parent, name)).ino
        except errors.NotFound:
            return
        if ino in self.unheld:
            await self.hold_open(ino)

    async def accessed(self, times: Sequence[tuple[Ino, int]]) -> None:
        await super().accessed(times)
        for ino, atime_ns in times:
            self._cache.note_read(ino, atime_ns)
