"""What clients ask of the namespace; with leases, for those who cache what they are told (`nodes.namenode.leases`).

Queries are plain methods that run in the connection's reader, as they take microseconds. What somebody else may know
better, who owns it, is asked of him first.
"""

from __future__ import annotations

import contextlib
import itertools
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import trio

from dfs import errors, limits
from dfs.rpc import Call, Later, expose, takes_call
from dfs.types import NAMENODE_SESSION, Attr, Ino, Item, SessionId
from nodes.namenode import arguments, authorization
from nodes.namenode.access import LOOKED_AT_ONCE, Access, identity, is_limited, key_of
from nodes.namenode.confinement import ConfinedQueries
from nodes.namenode.listing import Listing
from nodes.namenode.queries import Queries
from nodes.namenode.trees import Trees


class _Answer(NamedTuple):
    """What a query found. `items` are what it is about; `give` makes it the answer, with its leases.

    `way`: what must be in no doubt for the leases, though the query is not about it.
    """

    items: Sequence[Item]
    give: Callable[[], Any]
    way: Sequence[Item] = ()


def _there(found: Attr | None) -> Attr:
    if found is None:
        raise errors.NotFound("no such file or directory")
    return found


class Namespace(Access):
    """Methods may be called concurrently."""

    def _leased(self, call: Call, reader: SessionId, ask: Callable[[], _Answer]) -> Any:
        """As `_settled`, for who is given leases; of who is limited to a subtree, with the first the way to that."""

        def ask_for_way() -> _Answer:
            answer = ask()
            return answer._replace(way=self._view(call).way()) if self._leases.lacks_shape(reader) else answer

        return self._settled(ask_for_way, reader)

    def _settled(self, ask: Callable[[], _Answer], reader: SessionId = NAMENODE_SESSION) -> Any:
        """What `ask` gives, when those have been heard who may know better of what it is about."""
        if not self._leases.is_reclaiming:
            answer = ask()
            if not self._leases.in_doubt(reader, [*answer.items, *answer.way]):
                return answer.give()
        return Later(lambda: self._when_settled(ask, reader))

    async def _when_settled(self, ask: Callable[[], _Answer], reader: SessionId) -> Any:
        """The question is repeated until all who owned something of it have been heard: who owns it then does so since.

        Then that is the answer, when those have acknowledged their commands who may show what was before them.
        """
        heard = set[Item]()
        while True:
            await self._leases.reclaimed()
            answer = ask()
            doubtful = self._leases.in_doubt(reader, answer.items)
            owned = [item for item in doubtful if self._leases.is_owned_by_another(reader, item[0])]
            unheard = [item for item in owned if item not in heard] + self._leases.in_doubt(reader, answer.way)
            if not unheard:
                try:
                    return answer.give()
                finally:  # nor is it said that there is nothing before whoever has removed it knows
                    await self._leases.clear_doubt(self._leases.unacknowledged(reader, doubtful))
            await self._leases.clear_doubt([*doubtful, *unheard])
            heard.update(owned)

    @expose
    @takes_call
    def lookup(self, call: Call, parent: Any, name: Any) -> Any:
        """An Attr."""

        def ask() -> _Answer:
            found = self._find(call, parent, name)
            items: list[Item] = [(parent, name), *([(found.ino, None)] if found is not None else [])]
            return _Answer(items, lambda: _there(found))

        return self._settled(ask)

    def _find(self, call: Call, parent: Any, name: Any) -> Attr | None:
        """What a name stands for. Raises `NotADirectory`, or `NotFound` for the directory."""
        view = self._view(call)
        try:
            return view.lookup(parent, name)
        except errors.NotFound:
            view.getattr(parent)
            return None

    @expose
    @takes_call
    def getattr(self, call: Call, ino: Any) -> Any:
        """An Attr."""
        return self._about(call, ino, lambda view: view.getattr(ino))

    def _about(self, call: Call, ino: Any, query: Callable[[Queries | ConfinedQueries], Any]) -> Any:
        """What a query says of one inode."""

        def ask() -> _Answer:
            found = query(self._view(call))
            return _Answer([(ino, None)], lambda: found)

        return self._settled(ask)

    @expose
    @takes_call
    def walk(self, call: Call, ino: Any, names: Any) -> Any:
        """[Attr, ...]"""

        def ask() -> _Answer:
            steps = self._view(call).walk(ino, names)
            items: list[Item] = []
            directory = ino
            for name, attr in itertools.zip_longest(names, steps):
                items.append((directory, name))
                if attr is None:
                    break
                items.append((attr.ino, None))
                directory = attr.ino
            return _Answer(items, lambda: steps)

        return self._settled(ask)

    @expose
    @takes_call
    def parent(self, call: Call, ino: Any) -> Any:
        """An Attr."""

        def ask() -> _Answer:
            above = self._view(call).parent(ino)
            return _Answer([(ino, None), (above.ino, None)], lambda: above)

        return self._settled(ask)

    @expose
    @takes_call
    def readdir(self, call: Call, ino: Any, after: Any, limit: Any) -> Any:
        """[[cookie, name, Attr], ...]"""
        listing = Listing(self._leases, self._view(call), NAMENODE_SESSION, ino, after, limit)
        return self._listed(listing, lambda: listing.entries)

    def _listed(self, listing: Listing, give: Callable[[], Any]) -> Any:
        if not self._leases.is_reclaiming and listing.look():
            return give()

        async def settled() -> Any:
            await listing.settle()
            return give()

        return Later(settled)

    @expose
    @takes_call
    def readlink(self, call: Call, ino: Any) -> bytes:
        return self._view(call).readlink(ino)

    @expose
    @takes_call
    def getxattr(self, call: Call, ino: Any, name: Any) -> Any:
        """bytes"""
        return self._about(call, ino, lambda view: view.getxattr(ino, name))

    @expose
    @takes_call
    def listxattr(self, call: Call, ino: Any) -> Any:
        """[bytes, ...]"""
        return self._about(call, ino, lambda view: view.listxattr(ino))

    @expose
    @takes_call
    def extents(self, call: Call, ino: Any, offset: Any, length: Any) -> Any:
        """[Attr, [Extent, ...], [[chunk, length, [node, ...], grant], ...], up to where the extents are complete]"""
        return self._about(call, ino, lambda view: self._extents(call, view, ino, offset, length))

    def _extents(self, call: Call, view: Queries | ConfinedQueries, ino: Any, offset: Any, length: Any) -> list[Any]:
        most = limits.GRANT_RANGES_MAX if is_limited(call) else limits.EXTENTS_MAX
        attr, extents, places = view.extents(arguments.ino(ino), offset, length, most)
        is_full = len(extents) >= most or len({chunk for _, _, chunk, _ in extents}) >= limits.EXTENTS_CHUNKS_MAX
        end = extents[-1][0] + extents[-1][1] if is_full else offset + length
        pieces = ((chunk, start, size) for _, size, chunk, start in extents)
        return [attr, extents, self._readable(call, places, pieces), min(end, offset + length)]

    @expose
    @takes_call
    def whole_files(self, call: Call, inos: Any) -> Any:
        """Where the bytes of many small files are, of each in the version that it has at this moment.

        [[[version, chunk, offset in it, length] or None for what is not in one piece, ...],
        [[chunk, length, [node, ...], grant], ...]]
        """
        wanted = [arguments.ino(ino) for ino in arguments.array(inos, "a list of inodes", limits.WHOLE_FILES_MAX)]
        files, places = self._view(call).whole_files(wanted)
        pieces = ((chunk, start, size) for _, chunk, start, size in filter(None, files))
        return [files, self._readable(call, places, pieces)]

    # --- for those who cache it -------------------------------------------------------------------------

    @expose
    @takes_call
    def leased_lookup(self, call: Call, session: Any, parent: Any, name: Any) -> Any:
        """[Attr or None, whether the name is leased, whether the attributes are]. Raises `NotADirectory`."""
        reader = self._sessions.touch(session, identity(call))

        def ask() -> _Answer:
            found = self._find(call, parent, name)
            items: list[Item] = [(parent, name), *([(found.ino, None)] if found is not None else [])]

            def give() -> list[Any]:
                is_attr_leased = found is not None and self._leases.cover_attr(reader, found.ino)
                return [found, self._leases.cover_name(reader, parent, name), is_attr_leased]

            return _Answer(items, give)

        return self._leased(call, reader, ask)

    @expose
    @takes_call
    def leased_getattr(self, call: Call, session: Any, ino: Any) -> Any:
        """[Attr, whether it is leased]"""
        return self._leased_about(call, session, ino, lambda view: [view.getattr(ino)])

    def _leased_about(
        self, call: Call, session: Any, ino: Any, query: Callable[[Queries | ConfinedQueries], list[Any]]
    ) -> Any:
        """What a query says of one inode, and whether its attributes are leased."""
        reader = self._sessions.touch(session, identity(call))

        def ask() -> _Answer:
            found = query(self._view(call))
            return _Answer([(ino, None)], lambda: [*found, self._leases.cover_attr(reader, arguments.ino(ino))])

        return self._leased(call, reader, ask)

    @expose
    @takes_call
    def leased_readdir(self, call: Call, session: Any, ino: Any, after: Any, limit: Any) -> Any:
        """[[[cookie, name, Attr], ...], whether the names are leased, the inodes whose attributes are not]"""
        reader = self._sessions.touch(session, identity(call))
        listing = Listing(self._leases, self._view(call), reader, ino, after, limit)
        return self._listed(listing, lambda: [listing.entries, listing.is_leased, list(listing.unleased)])

    @expose
    @takes_call
    def leased_xattrs(self, call: Call, session: Any, ino: Any) -> Any:
        """[{name: value, ...}, whether they are leased]; None in place of a map that is larger than a page."""

        def query(view: Queries | ConfinedQueries) -> list[Any]:
            return [view.xattrs(ino, limits.XATTRS_CACHED_MAX_BYTES)]

        return self._leased_about(call, session, ino, query)

    @expose
    @takes_call
    def leased_xattrs_of(self, call: Call, session: Any, inos: Any) -> Any:
        """As `leased_xattrs`, of several inodes at once: [[[ino, {name: value, ...} or None], ...] of those that have
        some, the inodes of which nothing is said: they are gone, or somebody else knows better, or changes them]."""
        reader = self._sessions.touch(session, identity(call))
        wanted = [arguments.ino(ino) for ino in arguments.array(inos, "a list of inodes", limits.XATTRS_AT_ONCE_MAX)]

        def give() -> list[Any]:
            sure = [ino for ino in self._view(call).inside(wanted) if not self._leases.in_doubt(reader, [(ino, None)])]
            found = self._queries.xattrs_of(sure, limits.XATTRS_CACHED_MAX_BYTES)
            told = {ino: found[ino] for ino in sure if ino in found and self._leases.cover_attr(reader, ino)}
            having = [[ino, values] for ino, values in told.items() if values != {}]
            return [having, [ino for ino in wanted if ino not in told]]

        return self._leased(call, reader, lambda: _Answer((), give))

    @expose
    @takes_call
    def leased_extents(self, call: Call, session: Any, ino: Any, offset: Any, length: Any) -> Any:
        """As `extents`, and whether the attributes, with which the extents change, are leased."""
        return self._leased_about(call, session, ino, lambda view: self._extents(call, view, ino, offset, length))

    @expose
    @takes_call
    async def own(self, call: Call, session: Any, ino: Any) -> list[Any]:
        """[Attr, whether the session owns the inode now]: what it writes to it may stay in its memory."""
        writer = self._sessions.touch(session, identity(call))
        await self._leases.reclaimed()
        self._view(call).getattr(ino)
        is_owner = await self._leases.own(writer, arguments.ino(ino))
        return [self._still_there(call, writer, ino), is_owner]

    def _still_there(self, call: Call, owner: SessionId, ino: Ino) -> Attr:
        """Of what a session was made the owner of. Raises `NotFound`: it is gone, or has left the caller's subtree."""
        try:
            return self._view(call).getattr(ino)
        except errors.NotFound:
            self._leases.give_up(owner, ino)
            raise

    @expose
    @takes_call
    async def own_files(self, call: Call, session: Any, inos: Any) -> list[Any]:
        """As `own`, of several files: the attributes of those that the session owns now."""
        writer = self._sessions.touch(session, identity(call))
        wanted = [arguments.ino(ino) for ino in arguments.array(inos, "files to own", limits.OWNED_AT_ONCE_MAX)]
        await self._leases.reclaimed()
        files = [attr.ino for attr in self._existing(call, wanted) if not stat.S_ISDIR(attr.mode)]
        if self._writer.is_full or not files:
            return []
        owned = await self._leases.own_all(writer, files)
        found = self._existing(call, owned)
        for ino in {*owned}.difference(attr.ino for attr in found):
            self._leases.give_up(writer, ino)
        return found

    def _existing(self, call: Call, inos: Iterable[Ino]) -> list[Attr]:
        found: list[Attr] = []
        for ino in inos:
            with contextlib.suppress(errors.NotFound):
                found.append(self._view(call).getattr(ino))
        return found

    @expose
    @takes_call
    async def own_directory(self, call: Call, session: Any, ino: Any, limit: Any) -> list[Any]:
        """Have a session own a directory, and what is in it as far as nobody else knows that.

        [Attr, the cookie of its last entry or a later one, whether the session owns it now,
        [[cookie, name, Attr], ...] or None where there are more than `limit`, the inodes in it whose attributes are not
        leased, those that are owned]
        """
        owner = self._sessions.touch(session, identity(call))
        directory = arguments.ino(ino)
        most = arguments.integer(limit, "a number of entries", 1, limits.READDIR_MAX_ENTRIES - 1)
        await self._leases.reclaimed()
        if not stat.S_ISDIR(self._view(call).getattr(directory).mode):
            raise errors.NotADirectory("is no directory")
        is_owned = not self._writer.is_full and await self._leases.own(owner, directory, is_directory=True)
        attr = self._still_there(call, owner, directory)  # from here on all is of one moment
        if not is_owned:
            return [attr, 0, False, None, [], []]
        entries = self._view(call).readdir(directory, 0, most + 1)
        last_cookie = self._queries.last_cookie(directory)
        if len(entries) > most:
            return [attr, last_cookie, True, None, [], []]
        unleased, owned = Trees(self._queries, self._leases, owner, owns=True).children(entries)
        return [attr, last_cookie, True, entries, unleased, owned]

    @expose
    @takes_call
    def leased_tree(self, call: Call, session: Any, directories: Any, limit: Any, owns: Any) -> Any:
        """Some directories and what is beneath them, in the order of who walks there, `limit` entries at most.

        [what `own_directory` answers, for each of those that can be told at once, ...]: with leases on all names, and
        owned only with `owns`, if nobody else knows them.
        """
        reader = self._sessions.touch(session, identity(call))
        first = arguments.array(directories, "directories", limits.TREE_MAX_DIRECTORIES)
        inos = [arguments.ino(ino) for ino in first]
        most = arguments.integer(limit, "a number of entries", 1, limits.TREE_MAX_ENTRIES)

        def give() -> list[Any]:
            trees = Trees(self._queries, self._leases, reader, owns=bool(owns) and not self._writer.is_full)
            return list(trees.walk(self._view(call).inside(inos), most))

        return self._leased(call, reader, lambda: _Answer((), give))

    @expose
    @takes_call
    def forgot(self, call: Call, session: Any, incarnation: Any, number: Any, directories: Any) -> None:
        """What a recall named is forgotten; and all names of `directories`, by the client's own choice."""
        holder = self._sessions.touch(session, identity(call))
        if incarnation == self._sessions.incarnation:  # or the recall was of a NameNode before
            event = arguments.integer(number, "an event's number")
            self._sessions.drop_event(holder, event)
            self._leases.forgot(holder, event, _inos(directories))

    @expose
    @takes_call
    async def reclaim(
        self, call: Call, session: Any, incarnation: Any, attrs: Any, directories: Any, owned: Any, last: Any
    ) -> None:
        """What a session holds, and owns, since before our restart, or the `last` part of it.

        Raises `InvalidArgument`, `NotPermitted`.
        """
        holder = self._sessions.touch(session, identity(call))
        wanted = [_inos(part) for part in (attrs, directories, owned)]
        # Or it is of another restart, and will be said again.
        if incarnation == self._sessions.incarnation and self._leases.is_claiming(holder):
            await self._check_owned(call, holder, wanted[-1])
            parts = [await self._inside(call, part) for part in wanted]
            self._leases.reclaim(holder, *parts, last=bool(last))

    async def _check_owned(self, call: Call, session: SessionId, inos: Sequence[Ino]) -> None:
        """Raises `NotPermitted` if a session says that it owns what it cannot have been made the owner of."""
        key = key_of(call)
        if inos and key.role not in authorization.WRITERS:
            raise errors.NotPermitted(f"the key of {key} does not allow to own anything")
        if self._leases.owns_directories(session):
            return
        for part in _slices(inos):
            if self._queries.has_directory(part):
                raise errors.NotPermitted(f"session {session} cannot own directories")
            await trio.lowlevel.checkpoint()

    async def _inside(self, call: Call, inos: Sequence[Ino]) -> list[Ino]:
        """Those that the key allows to look at. Nothing is moved while this is asked: some session is reclaiming."""
        found: list[Ino] = []
        for part in _slices(inos):
            found += self._view(call).inside(part)
            await trio.lowlevel.checkpoint()
        return found


def _slices(inos: Sequence[Ino]) -> Iterator[Sequence[Ino]]:
    """So many as are looked at at a time."""
    for start in range(0, len(inos), LOOKED_AT_ONCE):
        yield inos[start : start + LOOKED_AT_ONCE]


def _inos(wire: Any) -> list[Ino]:
    return [arguments.ino(ino) for ino in arguments.array(wire, "inodes", limits.RECLAIM_MAX_INODES)]
