"""The namespace by inode numbers, answered from what is cached under leases as far as it goes. What a mount uses.

A directory of which several names had to be asked for is fetched whole, with attributes: whoever walks a tree or looks
at all files of a directory waits for one answer instead of hundreds.

Changes in a directory that the session owns are answered here (`dfs.client.owned`). It comes to own a directory when it
changes it first; not again for a while when somebody else has wanted it since, as then it would go to and fro.

An open file whose inode is leased need not be held at the NameNode: nobody else can remove its last name without a
recall, and before that is answered it is held (`dfs.client.openinodes`). What is removed here is looked at first.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import structlog
import trio

from dfs import codec, errors, limits, tasks
from dfs.client.ahead import Ahead, Plan
from dfs.client.beside import Beside
from dfs.client.cache import ABSENT, Absent, Cache, Known, Listing, Token
from dfs.client.inodes import Inodes, Layout, layout_of
from dfs.client.listings import Listings
from dfs.client.owned import SETTABLE, Owned, Users
from dfs.client.session import Session
from dfs.posix import RENAME_NOREPLACE
from dfs.types import Attr, DirEntry, Ino, SessionId

log = structlog.get_logger(__name__)

_WANTED_KEPT = 4096
"""Directories that others have wanted that are remembered before those are looked for that may be owned again."""
_OWN_ATTEMPTS = 3
"""Of owning what others want at the same time, before its bytes are written through."""


class CachedInodes(Inodes):
    """As `Inodes`, under the leases of its session."""

    def __init__(self, session: Session, cache: Cache) -> None:
        super().__init__(session)
        self._cache = cache
        self.owned = Owned(session, cache)
        self._ahead = Ahead(cache)
        self._listings = Listings(session, cache)
        cache.on_disowned = self._note_disowned
        self._slow: set[Ino] = set()
        """Directories whose listing takes long, and is not waited for by who looks a name up."""
        self._fetching: dict[Ino, trio.Event] = {}
        """Directories that are fetched ahead of who walks a tree; set when they are there."""
        self._not_before: dict[Ino, tuple[float, float]] = {}
        """When directories that others have wanted may be owned again, and how long that is after they were wanted."""
        self._beside = Beside()
        self._owns_no_files: SessionId | None = None
        """The session in which the NameNode did not know what that is."""
        self._tells_no_xattrs: SessionId | None = None
        """Likewise, of several inodes at once."""
        self._owning: dict[Ino, trio.Event] = {}
        """Directories that are being asked for."""

    def statistics(self) -> dict[str, int]:
        return self._ahead.statistics()

    def attach(self, users: Users) -> None:
        """Tell who has files open what becomes of them."""
        self.owned.users = users

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
        if len(name) > limits.NAME_MAX_BYTES:
            raise errors.NameTooLong(f"a name is longer than {limits.NAME_MAX_BYTES} bytes")
        found = self.cached_lookup(parent, name)
        if found is not None and self._ahead.come_to(parent):
            self._fetch_more(parent)
        if found is None and (
            parent in self._fetching or self._cache.wants_listing(parent, limits.PREFETCH_AFTER_MISSES)
        ):
            await self._learn_names(parent)
            found = self.cached_lookup(parent, name)
        if found is None:
            found = await self._lookup(parent, name)
        if isinstance(found, Absent):
            raise errors.NotFound("no such file or directory")
        return found

    async def _learn_names(self, directory: Ino) -> None:
        """Learn a directory's listing, where a name of it is wanted: a guess, which is not waited for if it is slow.

        As it is where somebody does not answer whom the NameNode has to hear for it.
        """
        if directory in self._slow:
            return
        is_over = trio.Event()

        async def learn() -> None:
            try:
                await self._begin_listing(directory)
                await self._listings.end(directory)
            except errors.DfsError as error:  # who asks for the name hears of it as well
                log.info("a listing could not be fetched", ino=directory, error=str(error))
            finally:
                if directory in self._slow:
                    self._slow.remove(directory)
                    self._cache.note_large(directory, limits.PREFETCH_PAGE_ENTRIES)  # not soon again
                is_over.set()

        self._session.spawn(partial(tasks.in_advance, learn))
        with trio.move_on_after(limits.PREFETCH_AWAITED_S) as patience:
            await is_over.wait()
        if patience.cancelled_caught and not is_over.is_set():
            self._slow.add(directory)

    async def _lookup(self, parent: Ino, name: bytes) -> Attr | Absent:
        with self._cache.asking() as token:
            wire, is_name_leased, is_attr_leased = await self._session.leased_query(
                "leased_lookup",
                *(parent, name),
                about=[parent] if self._session.stream.decides(parent, name) else [],
                told=_told_by_lookup,
            )
            attr = codec.attr(wire) if wire is not None else None
            if attr is not None and is_attr_leased:
                self._cache.learn_attr(token, attr)
                known = self._cache.kept(attr.ino)
                if known is not None and stat.S_ISDIR(attr.mode) and self._cache.is_valid(token, (attr.ino, None)):
                    known.parent = parent
            if is_name_leased:
                self._cache.learn_name(token, parent, name, attr.ino if attr is not None else None)
        return attr or ABSENT

    async def getattr(self, ino: Ino) -> Attr:
        return self.cached_attr(ino) or await self._getattr(ino)

    async def _getattr(self, ino: Ino) -> Attr:
        with self._cache.asking() as token:
            wire, is_leased = await self._session.leased_query("leased_getattr", ino, about=[ino])
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
        with self._cache.asking():
            attr = await super().parent(ino)
            if known is not None and self._known(ino) is known:  # the same since before it was asked
                known.parent = attr.ino
        return attr

    async def readdir(self, ino: Ino, after: int = 0, limit: int = limits.READDIR_MAX_ENTRIES) -> list[DirEntry]:
        found = self._listings.known(ino, after, limit)
        if after == 0:
            if found is None:
                await self._begin_listing(ino)
            if self._ahead.come_to(ino) or found is None:
                self._fetch_more(ino)
        return found if found is not None else await self._listings.entries(ino, after, limit)

    async def _begin_listing(self, ino: Ino) -> None:
        """Begin to learn all names of a directory that is not too large; where somebody walks a tree, learn those that
        are ahead of him too."""
        if await self._fetch_tree(ino, owns=self._is_in_owned(ino)):
            return
        known = self._cache.kept(ino)
        if known is not None and known.parent is not None:
            self._cache.note_miss(known.parent)  # if that was listed as well, it would have been told ahead
        await self._listings.begin(ino)

    def _is_in_owned(self, ino: Ino) -> bool:
        """Whether a directory is in one that is owned: then what is done there is likely to be done in it as well."""
        known = self._cache.kept(ino)
        return known is not None and known.parent is not None and self._cache.owns_names(known.parent)

    async def _fetch_tree(self, ino: Ino, *, owns: bool) -> bool:
        """Learn the listing of a directory and what is ahead, if somebody walks there; whether that was done.

        `owns`: and own what nobody else knows of it.
        """
        owns = owns and self._session.owns_directories and not self._is_wanted(ino)
        while (fetching := self._fetching.get(ino)) is not None:
            await fetching.wait()  # bounded: it is a question to the NameNode; and so few, as each has another first
            if self._cache.owns_names(ino) if owns else self._cache.lists(ino):
                return True
        plan = self._ahead.begin(ino, self._is_known(owns)) if self._session.is_trusted else None
        if plan is None:
            return False
        fetched = self._note_fetching(plan)
        self._fetch_more(ino)
        return ino in await self._ask_tree(plan, ino, owns, fetched)

    def _is_known(self, owns: bool) -> Callable[[Ino], bool]:
        """Whether there is nothing to ask of a directory."""
        if owns:
            return lambda ino: self._cache.owns_names(ino) or self._is_wanted(ino)
        return self._cache.lists

    def _note_fetching(self, plan: Plan) -> trio.Event:
        fetched = trio.Event()
        self._fetching |= dict.fromkeys(plan.directories, fetched)
        return fetched

    def _fetch_more(self, ino: Ino) -> None:
        """Somebody is at a directory: have what is ahead of him fetched, if it is time for that."""
        owns = self._is_in_owned(ino) and self._session.owns_directories
        while self._session.is_trusted:
            plan = self._ahead.go_on(self._is_known(owns))
            if plan is None:
                break
            fetched = self._note_fetching(plan)
            self._session.spawn(partial(tasks.in_advance, self._fetch_ahead, plan, ino, owns, fetched))

    async def _fetch_ahead(self, plan: Plan, ino: Ino, owns: bool, fetched: trio.Event) -> None:
        try:
            await self._ask_tree(plan, None, owns, fetched)
        except errors.DfsError as error:
            log.info("directories are not fetched ahead", count=len(plan.directories), error=str(error))
        else:
            self._fetch_more(ino)

    async def _ask_tree(self, plan: Plan, ino: Ino | None, owns: bool, fetched: trio.Event) -> list[Ino]:
        """Learn the listings of a plan, of which somebody waits for that of `ino`; those that came."""
        directories, listings = plan.directories, list[Listing]()
        try:
            with self._cache.asking() as token:
                told = await self._session.leased_query(
                    "leased_tree", directories, plan.entries, owns, about=directories, told=_told_by
                )
                listings = [_listing(wire) for wire in told]
                for listing in listings:
                    if not self._cache.owns_names(listing.attr.ino):  # or nothing is new to us
                        self._cache.learn_whole(token, listing, is_used=listing.attr.ino == ino)
        finally:
            self._ahead.came(plan, listings, ino)
            fetched.set()
            for directory in directories:
                if self._fetching.get(directory) is fetched:
                    del self._fetching[directory]
        return [listing.attr.ino for listing in listings]

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
        if known is not None:
            if known.xattrs is None:
                await self._fetch_xattrs(ino)
            if known.xattrs is not None:
                return known.xattrs
        with self._cache.asking() as token:
            values, is_leased = await self._session.leased_query("leased_xattrs", ino, about=[ino])
            if is_leased:
                self._learn_xattrs(token, ino, known, values)
        return None if values is None else dict(values)

    async def _fetch_xattrs(self, ino: Ino) -> None:
        """Learn those of an inode, and of what comes after it in its directory: who asks for them asks for those next.

        Of any of these they may not be known then: they are large, or somebody else changes it.
        """
        if self._session.session == self._tells_no_xattrs:
            return
        beside = self._cache.without_xattrs_after(ino, limits.XATTRS_AT_ONCE_MAX - 1)
        asked = [ino, *(each for each in beside if not self._session.stream.concerns([each]))]
        before = {each: self._cache.kept(each) for each in asked}
        with self._cache.asking() as token:
            try:
                having, untold = await self._session.leased_query("leased_xattrs_of", asked, about=asked)
            except errors.NotSupported:  # the NameNode is older
                self._tells_no_xattrs = self._session.session
                return
            found: dict[Ino, dict[bytes, bytes] | None] = {each: {} for each in asked}
            found |= {**dict(having), **dict.fromkeys(untold)}
            for each, values in found.items():
                self._learn_xattrs(token, each, before[each], values)

    def _learn_xattrs(self, token: Token, ino: Ino, before: Known | None, values: dict[bytes, bytes] | None) -> None:
        """An answer, under a lease, of what was known of an inode `before` it was asked for; None: they are large."""
        if before is not None and self._known(ino) is before and self._cache.is_valid(token, (ino, None)):
            before.xattrs = values

    async def own(self, ino: Ino) -> Attr | None:
        """Have it that nobody else knows the inode: what is written to it may stay here until it is recalled.

        Its attributes as they are then; None where it cannot be had.
        """
        await self._session.ensure()
        if not self._session.caches:
            return None
        for _ in range(_OWN_ATTEMPTS):
            with self._cache.asking() as token:
                wire, is_owned = await self._session.leased_query("own", ino, about=[ino])
                if not is_owned:
                    return None
                attr = codec.attr(wire)
                self._cache.learn_attr(token, attr)
                if self._cache.note_owned(token, ino) and self.owned_attr(ino) is not None:
                    return attr
        return None

    def owned_attr(self, ino: Ino) -> Attr | None:
        known = self._cache.kept(ino) if self._session.is_trusted else None
        return known.attr if known is not None and known.is_owned else None

    def is_private(self, ino: Ino) -> bool:
        """Whether nobody else has ever known an inode."""
        known = self._cache.kept(ino) if self._session.is_trusted else None
        return known is not None and known.is_private

    async def layout(self, ino: Ino, offset: int, length: int) -> Layout:
        """As `Inodes.layout`; the attributes are leased where they can be."""
        with self._cache.asking() as token:
            *wire, is_leased = await self._session.leased_query("leased_extents", ino, offset, length, about=[ino])
            layout = layout_of(wire, offset, length)
            if is_leased:
                self._cache.learn_attr(token, layout.attr)
        return layout

    # --- owning directories -----------------------------------------------------------------------------

    def _note_disowned(self, directory: Ino) -> None:
        now = trio.current_time()
        if len(self._not_before) > _WANTED_KEPT:
            self._not_before = {ino: wanted for ino, wanted in self._not_before.items() if wanted[0] > now}
        until, wait_s = self._not_before.get(directory, (-math.inf, 0.0))
        if now >= until + limits.OWN_AGAIN_MAX_S:
            wait_s = limits.OWN_AGAIN_FIRST_S
        elif now >= until:  # it was owned again, and not for long
            wait_s = min(2 * wait_s, limits.OWN_AGAIN_MAX_S)
        self._not_before[directory] = now + wait_s, wait_s

    async def _owns(self, *directories: Ino) -> bool:
        """Whether changes in directories may be answered here, after asking for that where it is worth it."""
        await self._session.ensure()
        if not self._session.owns_directories:
            return False
        await self._session.stream.wait_for_room()
        await self.owned.reserve()
        for directory in directories:
            if self._cache.owned_directory(directory) is None:
                await self._own_directory(directory)
        return all(self._cache.owned_directory(directory) is not None for directory in directories)

    def _is_wanted(self, directory: Ino) -> bool:
        """Whether others have wanted a directory of late."""
        return trio.current_time() < self._not_before.get(directory, (-math.inf, 0.0))[0]

    async def _own_directory(self, directory: Ino) -> None:
        if self._cache.is_changing((directory, None)) or not self._session.is_trusted:
            return
        if self._is_wanted(directory):
            return
        asked = self._owning.get(directory)
        if asked is not None:
            await asked.wait()  # bounded: whoever asks is given up by its deadlines
            return
        self._owning[directory] = trio.Event()
        try:
            if self._cache.owns_names(directory):  # and a change that was not answered here has voided the rest
                await self._getattr(directory)
            else:
                await self._ask_to_own(directory)
        finally:
            self._owning.pop(directory).set()

    async def _ask_to_own(self, directory: Ino) -> None:
        if self._is_in_owned(directory):
            await self._fetch_tree(directory, owns=True)
            if self._cache.owns_names(directory):
                return
        with self._cache.asking() as token:
            wire = await self._session.leased_query(
                "own_directory",
                *(directory, limits.PREFETCH_PAGE_ENTRIES),
                about=[directory],
                told=lambda wire: _told_by([wire]),
            )
            listing = _listing(wire)
            if not listing.is_owned:
                self._note_disowned(directory)
                return
            self._cache.learn_whole(token, listing)

    async def _own_around(self, directory: Ino, name: bytes, child: Ino) -> bool:
        """Own what is about to be changed in a directory, with what else is likely to be; whether that was done."""
        around = child if self._cache.owns_names(directory) else directory
        return await self._own_unknown(around, child) or await self._own_beside(directory, name, child)

    async def _own_unknown(self, directory: Ino, child: Ino) -> bool:
        """Own a directory and what is in it, and beneath, as far as nobody else knows that; whether the child is owned.

        That costs others nothing, and is tried once: who changes owners or modes goes through the whole tree.
        """
        attr = self.cached_attr(directory)
        if attr is None or not stat.S_ISDIR(attr.mode) or attr.size > limits.AHEAD_FIRST:
            return False
        if not self._session.owns_directories or self._is_wanted(directory):
            return False
        if not self._beside.is_new(directory) or self._cache.is_changing((directory, None)):
            return False
        await self._fetch_tree(directory, owns=True)
        if self._cache.owned_inode(child) is not None or self._cache.owned_directory(child) is not None:
            return True
        self._beside.wanted(directory, child)
        return False

    async def _own_beside(self, directory: Ino, name: bytes, child: Ino | None) -> bool:
        """Own a file that others know as well, and some beside it, where one after the other is changed: see `beside`.

        Whether that was done, and it is worth asking again what was asked of `owned`.
        """
        known = self._cache.kept(child) if child is not None else None
        if child is None or known is None or known.is_owned or stat.S_ISDIR(known.attr.mode):
            return False
        if not self._session.owns_directories or not self._session.is_trusted:
            return False
        if self._cache.is_changing((child, None)) or self._session.session == self._owns_no_files:
            return False
        wanted = self._beside.wanted(directory, child)
        inos = self._cache.shared_beside(directory, name, wanted) if wanted else []
        if child not in inos:
            return False
        owned: list[Ino] = []
        with self._cache.asking() as token:
            try:
                wires = await self._session.leased_query("own_files", inos, about=inos)
            except errors.NotSupported:  # the NameNode is older
                self._owns_no_files = self._session.session
                return False
            for wire in wires:
                attr = codec.attr(wire)
                self._cache.learn_attr(token, attr)
                if self._cache.note_owned(token, attr.ino):
                    owned.append(attr.ino)
        self._beside.came(directory, child, owned)
        return child in owned

    # --- commands ---------------------------------------------------------------------------------------

    async def create(
        self, parent: Ino, name: bytes, mode: int, uid: int, gid: int, *, exclusive: bool = True, hold: bool = False
    ) -> Attr:
        made = None
        if not hold and await self._owns(parent):
            made = self.owned.create(parent, name, mode, uid, gid, exclusive=exclusive)
        return made or await super().create(parent, name, mode, uid, gid, exclusive=exclusive, hold=hold)

    async def mkdir(self, parent: Ino, name: bytes, mode: int, uid: int, gid: int) -> Attr:
        made = self.owned.mkdir(parent, name, mode, uid, gid) if await self._owns(parent) else None
        return made or await super().mkdir(parent, name, mode, uid, gid)

    async def mknod(self, parent: Ino, name: bytes, mode: int, uid: int, gid: int, rdev: int) -> Attr:
        made = self.owned.mknod(parent, name, mode, uid, gid, rdev) if await self._owns(parent) else None
        return made or await super().mknod(parent, name, mode, uid, gid, rdev)

    async def symlink(self, parent: Ino, name: bytes, target: bytes, uid: int, gid: int) -> Attr:
        made = self.owned.symlink(parent, name, target, uid, gid) if await self._owns(parent) else None
        return made or await super().symlink(parent, name, target, uid, gid)

    async def link(self, ino: Ino, parent: Ino, name: bytes, *, replace: bool = False) -> Attr:
        if replace:
            await self._hold_what_goes(parent, name)
        elif await self._owns(parent):
            made = self.owned.link(ino, parent, name)
            if made is not None:
                return made
        return await super().link(ino, parent, name, replace=replace)

    async def unlink(self, parent: Ino, name: bytes) -> Attr:
        gone: Attr | None = None
        if await self._owns(parent):
            gone = self.owned.unlink(parent, name)
            if gone is None and await self._own_beside(parent, name, self._child(parent, name)):
                gone = self.owned.unlink(parent, name)
            if gone is not None:
                self._beside.changed(parent, gone.ino)
        if gone is None:
            await self._hold_what_goes(parent, name)
            gone = await super().unlink(parent, name)
            self.owned.users.gone(gone, is_private=False)
        return gone

    async def rmdir(self, parent: Ino, name: bytes) -> Attr:
        gone: Attr | None = None
        if await self._owns(parent):
            child = self.cached_lookup(parent, name)
            if isinstance(child, Attr) and stat.S_ISDIR(child.mode) and not child.size:
                await self._owns(child.ino)
            gone = self.owned.rmdir(parent, name)
        if gone is None:
            await self._look_at(parent, name)
            gone = await super().rmdir(parent, name)
        return gone

    async def rename(self, parent: Ino, name: bytes, new_parent: Ino, new_name: bytes, flags: int = 0) -> Attr:
        replaces = self._child(parent, name) if self.cached_lookup(new_parent, new_name) is not ABSENT else None
        if replaces is not None:
            await self.owned.users.settle(replaces, soon=True)
        if await self._owns(parent, new_parent):
            moved = self.owned.rename(parent, name, new_parent, new_name, flags)
            is_simple = parent == new_parent and flags in (0, RENAME_NOREPLACE)
            if moved is None and is_simple and await self._own_beside(parent, name, self._child(parent, name)):
                moved = self.owned.rename(parent, name, new_parent, new_name, flags)
            if moved is not None:
                self._beside.changed(parent, moved.ino)
                return moved
        source = await self._look_at(parent, name)
        if source is not None and self.cached_lookup(new_parent, new_name) is not ABSENT:
            await self.owned.users.settle(source)  # or what was written to it might be lost where the other one was
        await self._hold_what_goes(new_parent, new_name)
        return await super().rename(parent, name, new_parent, new_name, flags)

    async def setattr(self, ino: Ino, changes: Mapping[str, int | str]) -> Attr:
        await self._session.stream.wait_for_room()
        now = self.owned.setattr(ino, changes)
        known = self._cache.kept(ino)
        at = known.at if known is not None else None
        if at is not None and at[1] is not None:
            if now is None and changes.keys() <= SETTABLE and await self._own_around(at[0], at[1], ino):
                now = self.owned.setattr(ino, changes)
            if now is not None:
                self._beside.changed(at[0], ino)
        return now or await super().setattr(ino, changes)

    async def setxattr(self, ino: Ino, name: bytes, value: bytes, flags: int = 0) -> Attr | None:
        await self._session.stream.wait_for_room()
        return self.owned.setxattr(ino, name, value, flags) or await super().setxattr(ino, name, value, flags)

    async def removexattr(self, ino: Ino, name: bytes) -> Attr | None:
        await self._session.stream.wait_for_room()
        return self.owned.removexattr(ino, name) or await super().removexattr(ino, name)

    async def truncate(self, ino: Ino, size: int) -> Attr:
        if size:
            return await super().truncate(ino, size)
        await self._session.stream.wait_for_room()
        return self.empty(ino) or await super().truncate(ino, size)

    def empty(self, ino: Ino) -> Attr | None:
        return self.owned.empty(ino)

    async def release(self, ino: Ino) -> None:
        if not self.owned.release(ino):
            await super().release(ino)

    def _child(self, parent: Ino, name: bytes) -> Ino | None:
        """What a name stands for, as far as it is known."""
        child = self.cached_lookup(parent, name)
        return child.ino if isinstance(child, Attr) else None

    async def _look_at(self, parent: Ino, name: bytes) -> Ino | None:
        """What has a name that a command is to change: nothing of that is changed here then while it is under way."""
        try:
            return (await self.lookup(parent, name)).ino
        except errors.NotFound:
            return None

    async def _hold_what_goes(self, parent: Ino, name: bytes) -> None:
        """What has this name may lose its last one. Nothing is recalled from us on our own account."""
        ino = await self._look_at(parent, name)
        if ino is not None:
            await self.owned.users.hold(ino)

    async def accessed(self, times: Sequence[tuple[Ino, int]]) -> None:
        await super().accessed(times)
        for ino, atime_ns in times:
            self._cache.note_read(ino, atime_ns)


def _listing(wire: Sequence[Any]) -> Listing:
    attr, last_cookie, is_owned, entries, unleased, owned = wire
    known = None if entries is None else codec.dir_entries(entries)
    return Listing(codec.attr(attr), last_cookie, is_owned, known, set(unleased), owned)


def _told_by_lookup(answer: Sequence[Any]) -> list[Ino]:
    attr = answer[0]
    return [codec.attr(attr).ino] if attr is not None else []


def _told_by(listings: Sequence[Sequence[Any]]) -> Iterator[Ino]:
    """The inodes of which these tell."""
    for listing in map(_listing, listings):
        yield listing.attr.ino
        for entry in listing.entries or ():
            yield entry.attr.ino
