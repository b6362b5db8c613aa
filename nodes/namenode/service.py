"""The object `dfs.namenode`: what clients and DataNodes call.

Methods translate: they check what came, ask `queries` or give commands to the writer, and answer. Queries are plain
methods that run in the connection's reader, as they take microseconds; whatever waits is async.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, NamedTuple

import structlog
import trio

import dfs
from dfs import errors, grants, limits
from dfs.grants import Range
from dfs.keys import KeyId, Role
from dfs.placement import candidates, choose_nodes, takes_orders
from dfs.room import Room
from dfs.rpc import Call, Later, Peer, expose, takes_call
from dfs.types import (
    NAMENODE_SESSION,
    Attr,
    ChunkId,
    Ino,
    Item,
    NodeId,
    NodeState,
    NodeView,
    SessionId,
    Statfs,
)
from nodes.namenode import arguments, authorization, commands
from nodes.namenode.backup import Backups
from nodes.namenode.beneath import Beneath
from nodes.namenode.check import Checker
from nodes.namenode.confinement import ConfinedQueries
from nodes.namenode.counting import Counting
from nodes.namenode.datanodes import DataNodes, packed
from nodes.namenode.explain import Explainer
from nodes.namenode.operations import Operations
from nodes.namenode.parts import Parts, Service
from nodes.namenode.queries import Queries, summary
from nodes.namenode.trees import Trees

log = structlog.get_logger(__name__)

_HANDSHAKE_MAX: Final = 16
"""Items in a handshake."""
_HEARINGS: Final = 2
"""Of who owns something beneath a directory: of what it has made, and of the bytes of that."""
_LOOKED_AT_ONCE: Final = 500
"""Inodes of which it is found out at a time whether they are beneath a directory, or are one: a few milliseconds."""


class _Answer(NamedTuple):
    """What a query found. `items` are what it is about; `give` makes it the answer, with its leases."""

    items: Sequence[Item]
    give: Callable[[], Any]


def _there(found: Attr | None) -> Attr:
    if found is None:
        raise errors.NotFound("no such file or directory")
    return found


class NameNode(Service):
    """Registered as `dfs.namenode`; its public methods are the protocol (docs/architecture.md)."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._operations = Operations(parts)
        self._datanodes = DataNodes(parts)
        self._long_queries = Room(limits.LONG_QUERIES_MAX)
        self._checker = Checker(parts.store, parts.runtime, parts.sessions.known)
        self._counting = Counting(parts.store, parts.runtime)
        self._backups = Backups(parts.store, parts.runtime, parts.config.reserve_bytes)
        self._explainer = Explainer(self._checker, parts.members, parts.replication, parts.runtime)
        self.address = ""

    def greet(self, peer: Peer, handshake: object) -> dict[str, Any] | None:
        """Every connection's first message. Raises `WrongCluster` for who looks for another cluster."""
        self._issuing.note(peer)
        if isinstance(handshake, Mapping) and len(handshake) <= _HANDSHAKE_MAX:
            wanted = handshake.get("cluster")
            if wanted is not None and wanted != self._store.cluster:
                raise errors.WrongCluster(f"this is the NameNode of cluster {self._store.cluster}, not of {wanted}")
            return {"cluster": self._store.cluster, "version": dfs.__version__}
        return None

    # --- the namespace ----------------------------------------------------------------------------------

    def _view(self, call: Call) -> Queries | ConfinedQueries:
        """What the caller's key may see of the namespace."""
        key = call.peer.key
        path = key.claim("subtree") if key else None
        if key is None or path is None:
            return self._queries
        return ConfinedQueries(self._store, self._queries, path, key)

    @expose
    @takes_call
    def cluster(self, call: Call) -> dict[str, Any]:
        return {
            "root": self._view(call).root(),
            "cluster": self._store.cluster,
            "version": dfs.__version__,
            "replicas": self._config.replicas,
            "min_replicas": self._config.min_replicas,
            "chunk_bytes": limits.CHUNK_MAX_BYTES,
            "session_timeout_s": self._config.session_timeout_s,
            "key_generation": self._issuing.in_use,
        }

    def _leased(self, call: Call, reader: SessionId, ask: Callable[[], _Answer]) -> Any:
        """As `_settled`, for who is given leases; of who is limited to a subtree, with the first the way to that."""

        def ask_for_way() -> _Answer:
            answer = ask()
            way = self._view(call).way() if self._leases.lacks_shape(reader) else []
            return answer._replace(items=[*answer.items, *way])

        return self._settled(ask_for_way, reader)

    def _settled(self, ask: Callable[[], _Answer], reader: SessionId = NAMENODE_SESSION) -> Any:
        """What `ask` gives, when nobody may know better of what it is about; the question is repeated until then."""
        if not self._leases.is_reclaiming:
            answer = ask()
            if not self._leases.in_doubt(reader, answer.items):
                return answer.give()
        return Later(lambda: self._when_settled(ask, reader))

    async def _when_settled(self, ask: Callable[[], _Answer], reader: SessionId) -> Any:
        while True:
            await self._leases.reclaimed()
            answer = ask()
            doubtful = self._leases.in_doubt(reader, answer.items)
            if not doubtful:
                return answer.give()
            await self._leases.clear_doubt(doubtful)

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

        def ask() -> _Answer:
            entries = self._view(call).readdir(ino, after, limit)
            return _Answer(self._items_of(ino, entries), lambda: entries)

        return self._settled(ask)

    def _items_of(self, directory: Ino, entries: Iterable[Any]) -> list[Item]:
        items: list[Item] = [(attr.ino, None) for _, _, attr in entries]
        return items + self._leases.names_in_doubt(directory)

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
        most = limits.GRANT_RANGES_MAX if _is_limited(call) else limits.EXTENTS_MAX
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

    # --- the namespace, for those who cache it (nodes.namenode.leases) ----------------------------------

    @expose
    @takes_call
    def leased_lookup(self, call: Call, session: Any, parent: Any, name: Any) -> Any:
        """[Attr or None, whether the name is leased, whether the attributes are]. Raises `NotADirectory`."""
        reader = self._sessions.touch(session, _identity(call))

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
        reader = self._sessions.touch(session, _identity(call))

        def ask() -> _Answer:
            found = query(self._view(call))
            return _Answer([(ino, None)], lambda: [*found, self._leases.cover_attr(reader, arguments.ino(ino))])

        return self._leased(call, reader, ask)

    @expose
    @takes_call
    def leased_readdir(self, call: Call, session: Any, ino: Any, after: Any, limit: Any) -> Any:
        """[[[cookie, name, Attr], ...], whether the names are leased, the inodes whose attributes are not]"""
        reader = self._sessions.touch(session, _identity(call))

        def ask() -> _Answer:
            entries = self._view(call).readdir(ino, after, limit)

            def give() -> list[Any]:
                cover = self._leases.cover_attr
                others = [attr.ino for _, _, attr in entries if not cover(reader, attr.ino)]
                return [entries, self._leases.cover_entries(reader, arguments.ino(ino)), others]

            return _Answer(self._items_of(ino, entries), give)

        return self._leased(call, reader, ask)

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
        reader = self._sessions.touch(session, _identity(call))
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
        writer = self._sessions.touch(session, _identity(call))
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
        writer = self._sessions.touch(session, _identity(call))
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
        owner = self._sessions.touch(session, _identity(call))
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
        reader = self._sessions.touch(session, _identity(call))
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
        holder = self._sessions.touch(session, _identity(call))
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
        holder = self._sessions.touch(session, _identity(call))
        wanted = [_inos(part) for part in (attrs, directories, owned)]
        # Or it is of another restart, and will be said again.
        if incarnation == self._sessions.incarnation and self._leases.is_claiming(holder):
            await self._check_owned(call, holder, wanted[-1])
            parts = [await self._inside(call, part) for part in wanted]
            self._leases.reclaim(holder, *parts, last=bool(last))

    async def _check_owned(self, call: Call, session: SessionId, inos: Sequence[Ino]) -> None:
        """Raises `NotPermitted` if a session says that it owns what it cannot have been made the owner of."""
        key = _key_of(call)
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

    @expose
    def chunks(self, after: Any, limit: Any) -> list[Any]:
        return self._queries.chunks(after, limit)

    @expose
    @takes_call
    async def check(self, call: Call, cursor: Any) -> list[Any]:
        async with self._at_length(call):
            findings, following = await self._checker.slice(cursor)
            return [findings, following]

    @expose
    @takes_call
    async def check_inodes(self, call: Call, inos: Any) -> list[Any]:
        async with self._at_length(call):
            return await self._checker.inodes(inos)

    @expose
    @takes_call
    async def check_chunks(self, call: Call, chunks: Any) -> list[Any]:
        async with self._at_length(call):
            return await self._checker.chunks(chunks) + await self._explainer.shortages(chunks)

    @expose
    @takes_call
    async def check_totals(self, call: Call) -> list[Any]:
        async with self._at_length(call):
            return await self._checker.totals() + await self._explainer.all_shortages()

    @expose
    @takes_call
    async def check_file(self, call: Call) -> list[Any]:
        async with self._at_length(call):
            return await self._checker.file()

    @expose
    @takes_call
    async def explain(self, call: Call, chunks: Any) -> list[Any]:
        async with self._at_length(call):
            return await self._explainer.explain(chunks)

    @expose
    @takes_call
    async def summarize(self, call: Call, ino: Any) -> dict[str, int]:
        self._view(call).getattr(ino)
        await self._hear_owners_beneath(call, arguments.ino(ino))
        total: dict[str, int] = {}
        async with self._at_length(call):
            for total in summary(arguments.ino(ino), self._queries):  # noqa: B007 - the last is the answer
                await trio.lowlevel.checkpoint()
        return total

    async def _hear_owners_beneath(self, call: Call, top: Ino) -> None:
        """Return when all that was written beneath before now is in the tables. Nobody else is asked for anything.

        Who owns a directory may have made files in it of which we do not know yet, and have their bytes besides: once
        he has said what he made, he is asked for these. What was asked for before is left alone: it is owned anew.
        """
        await self._leases.reclaimed()
        heard: set[Item] = set()
        for _ in range(_HEARINGS):
            async with self._at_length(call):
                owned = [item for item in await self._owned_beneath(top) if item not in heard]
            if not owned:
                return
            heard.update(owned)
            await self._leases.clear_doubt(owned)

    async def _owned_beneath(self, top: Ino) -> list[Item]:
        beneath = Beneath(self._store.reads, top)
        found: list[Item] = []
        for number, item in enumerate(self._leases.owned(), 1):
            if beneath.has(item[0]):
                found.append(item)
            if not number % _LOOKED_AT_ONCE:
                await trio.lowlevel.checkpoint()
        return found

    def _at_length(self, call: Call) -> AbstractAsyncContextManager[None]:
        """Around a query that takes its time: they are few at once, of each party its share."""
        return self._long_queries.entered(call.peer.party, call.peer.id)

    @expose
    @takes_call
    async def apply(self, call: Call, session: Any, acked: Any, wire: Any) -> list[Any]:
        """Apply commands; see docs/architecture.md.

        Raises `SessionExpired`, `NotPermitted`, `Busy`, `NoSpace`, `DiskFailed`.
        """
        number = self._sessions.touch(session, _identity(call))
        batch = arguments.array(wire, "a batch", limits.BATCH_MAX_COMMANDS)
        self._writer.check_room(call.peer.party, number, len(batch))  # before any work on what is to be refused
        for command in batch:
            _check_command(command)
        acknowledged = arguments.integer(acked, "an acknowledgement")
        self._leases.acknowledge(number, acknowledged)
        await self._leases.reclaimed()
        return await self._writer.apply(call.peer.party, number, acknowledged, batch)

    # --- sessions ---------------------------------------------------------------------------------------

    @expose
    @takes_call
    async def open_session(self, call: Call, info: Any) -> dict[str, Any]:
        if not isinstance(info, Mapping):
            raise errors.InvalidArgument("a session is opened with a map")
        name, host = arguments.text(info.get("name"), "a name"), arguments.text(info.get("host"), "a host")
        root, key, identity = self._view(call).root(), _key_of(call), _identity(call)
        self._sessions.check_room(identity)
        subtree = key.claim("subtree") or ""
        caches = bool(info.get("caches")) and (not subtree or bool(info.get("forgets_all")))
        directories = caches and bool(info.get("directories")) and key.role in authorization.WRITERS and not subtree
        about = name, host, identity, subtree, caches + directories
        session = SessionId(await self._writer.decide("open_session", *about, party=call.peer.party))
        self._sessions.add(session, identity)
        if caches:
            self._leases.join(session, owns_directories=directories, is_limited=bool(subtree))
        return {
            "session": session,
            "timeout_s": self._config.session_timeout_s,
            "root": root,
            "caches": caches,
            "limited": bool(subtree),
            "directories": directories,
            "replicas": self._config.replicas,
            "incarnation": self._sessions.incarnation,
            "space_is_short": self._members.is_space_short,
        }

    @expose
    @takes_call
    async def close_session(self, call: Call, session: Any) -> None:
        await self._sessions.close(session, _identity(call), call.peer.party)

    @expose
    @takes_call
    async def events(self, call: Call, session: Any, after: Any, incarnation: Any) -> tuple[int, list[Any]]:
        """(incarnation, [(number, kind, payload), ...])"""
        last = arguments.integer(after, "an event's number")
        return await self._sessions.events(session, _identity(call), last, arguments.integer(incarnation, "a number"))

    @expose
    def clients(self, after: Any) -> list[dict[str, Any]]:
        """Who has a session, in the order of their numbers beyond `after`: a page, empty at the end.

        `silent_s` is None of one that is being ended; others may wait for who was `asked` to forget leases.
        """
        now_ns = self._runtime.now_ns()
        return [
            {
                "session": session,
                "name": name,
                "host": host,
                "key": " ".join(holder.split(" ", 2)[:2]),
                "subtree": subtree,
                "open_s": (now_ns - opened_ns) / 10**9,
                "silent_s": self._sessions.silence_s(session),
                "chunks": chunks,
                **self._leases.of(session),
            }
            for session, name, host, holder, subtree, opened_ns, chunks in self._queries.clients(
                SessionId(arguments.integer(after, "a session"))
            )
        ]

    # --- copies of the namespace ------------------------------------------------------------------------

    async def run(self) -> None:
        """What goes on between calls. Runs until cancelled."""
        await self._backups.run()

    @expose
    async def begin_backup(self, backup: Any) -> dict[str, Any] | None:
        """See `Backups.begin`, as of the others."""
        return await self._backups.begin(backup)

    @expose
    async def read_backup(self, backup: Any, offset: Any) -> bytes:
        return await self._backups.read(backup, offset)

    @expose
    def end_backup(self, backup: Any) -> None:
        self._backups.end(backup)

    # --- chunks -----------------------------------------------------------------------------------------

    @expose
    @takes_call
    async def allocate(
        self, call: Call, session: Any, acked: Any, seq: Any, count: Any, replicas: Any, exclude: Any, host: Any
    ) -> list[Any]:
        """New chunks for a session: [[chunk, [node, ...], grant], ...]. Raises `NotEnoughNodes`, `NoSpace`.

        A command of the session's, with a number of its own, of which only the places are planned here.
        """
        number = self._sessions.touch(session, _identity(call))
        acknowledged = arguments.integer(acked, "an acknowledgement")
        sequence = arguments.integer(seq, "a sequence number", 1)
        copies = arguments.integer(replicas, "a number of copies", 1, limits.REPLICAS_MAX)
        shunned = {arguments.text(node, "a node") for node in arguments.array(exclude, "nodes", limits.NODES_MAX)}
        near = arguments.text(host, "a host")
        wanted = arguments.integer(count, "a number of chunks", 1, limits.ALLOCATE_MAX_CHUNKS)
        places: list[list[NodeId]] = []
        if not self._queries.is_answered(number, sequence):  # a repeat gets what its first attempt got
            places = await self._place_all(wanted, copies, shunned, near)
        chunks: list[Any] = await self._writer.apply_planned(
            call.peer.party, number, acknowledged, sequence, "allocate_chunks", copies, places
        )
        return self._granted(call, chunks, grants.APPEND)

    @expose
    @takes_call
    def renew_grants(self, call: Call, session: Any, chunks: Any) -> list[bytes]:
        """Grants to append to chunks that the session has open, in their order; empty for one that it has not."""
        number = self._sessions.touch(session, _identity(call))
        wanted = [arguments.chunk(chunk) for chunk in arguments.array(chunks, "chunks", limits.BATCH_MAX_COMMANDS)]
        own = self._queries.open_chunks(number, wanted)
        return [self._grant(call, chunk, grants.APPEND) if chunk in own else b"" for chunk in wanted]

    def _readable(
        self, call: Call, places: Iterable[list[Any]], pieces: Iterable[tuple[int, int, int]]
    ) -> list[list[Any]]:
        """As `_granted`, to read. Who is limited to a subtree gets these pieces (chunk, start, length) and no more."""
        if not _is_limited(call):
            return self._granted(call, places, grants.READ)
        ranges: dict[int, list[Range]] = {}
        for chunk, start, length in pieces:
            ranges.setdefault(chunk, []).append((start, start + length))
        return [
            [*place, self._grant(call, place[0], grants.READ_RANGES, grants.merged(ranges[place[0]]))]
            for place in places
        ]

    def _granted(self, call: Call, places: Iterable[list[Any]], rights: int) -> list[list[Any]]:
        """Each place, of which the chunk comes first, with what the caller is to show DataNodes for it."""
        return [[*place, self._grant(call, place[0], rights)] for place in places]

    def _grant(self, call: Call, chunk: ChunkId, rights: int, ranges: Sequence[Range] = ()) -> bytes:
        key = call.peer.key
        if key is None or (key.role == Role.ADMIN and rights != grants.APPEND):  # who may use every chunk himself
            return b""
        expiry_s = -(-self._runtime.now_ns() // 10**9) + limits.GRANT_VALID_S
        return self._issuing.grant(key, chunk, rights, expiry_s, ranges)

    async def _place_all(self, count: int, copies: int, shunned: set[str], near_host: str) -> list[list[NodeId]]:
        while True:
            changed = self._members.changed
            try:
                able = self._able(copies, shunned)
                return [choose_nodes(able, copies, self._runtime.random, near_host=near_host) for _ in range(count)]
            except errors.NotEnoughNodes:
                left_s = self._members.settling_s()
                if left_s <= 0:
                    raise
            with trio.move_on_after(left_s):  # just started: nodes that were there before will be heard in a moment
                await changed.wait()

    def _able(self, copies: int, shunned: set[str]) -> list[NodeView]:
        """The nodes that may take a new chunk. Raises `NotEnoughNodes`, `NoSpace`."""
        views = self._members.views()
        least = self._config.min_copies(copies)
        up = [view for view in views if takes_orders(view) and view.node not in shunned]
        if len(up) < least:
            away = ", ".join(view.node + " (drained)" * view.draining for view in views if view not in up)
            found = "1 DataNode" if len(up) == 1 else f"{len(up)} DataNodes"
            raise errors.NotEnoughNodes(
                f"{found} can be written to, {least} {'is' if least == 1 else 'are'} needed"
                + (f"; not available: {away}" if away else ": start more DataNodes")
            )
        able = candidates(up, (), limits.CHUNK_MAX_BYTES)
        if len(able) < least:
            full = ", ".join(view.node for view in up if view not in able)
            wait = ""
            if self._queries.is_freeing(self._runtime.now_ns()):
                wait = f"wait for what was deleted, which comes free after {self._config.garbage_grace_s:g} s, "
            raise errors.NoSpace(f"no space on DataNodes {full}: {wait}delete files or add DataNodes")
        return able

    # --- keys -------------------------------------------------------------------------------------------

    @expose
    @takes_call
    def renew(self, call: Call, public: Any) -> bytes:
        """The caller's key in the generation in use, as a key file that is sealed for him: see `dfs.sealing`."""
        return self._issuing.renew(_key_of(call), public)

    @expose
    @takes_call
    async def join(self, call: Call, request: Any) -> bytes:
        """A token becomes a key: its file, sealed. Raises `NotPermitted`, `InvalidArgument`, `Exists`."""
        return await self._issuing.join(_key_of(call), request, call.peer.party)

    @expose
    def key_status(self) -> dict[str, Any]:
        return self._issuing.status()

    @expose
    @takes_call
    async def revoke_key(self, call: Call, holder: Any) -> int:
        return await self._issuing.revoke(_key_of(call), holder)

    @expose
    async def restore_key(self, holder: Any) -> None:
        await self._issuing.restore(holder)

    # --- totals -----------------------------------------------------------------------------------------

    @expose
    def statfs(self) -> Statfs:
        totals = self._store.counters()
        live = [view for view in self._members.views() if view.state != NodeState.DEAD]
        return Statfs(
            sum(view.used_bytes + view.free_bytes for view in live),  # what else is on their disks is not the cluster's
            sum(view.free_bytes for view in live),
            totals["allocated"],
            totals["inodes"],
            self._config.replicas,
        )

    @expose
    def nodes(self) -> list[Any]:
        return self._members.views()

    @expose
    async def status(self) -> dict[str, Any]:
        counts = await self._counting.counts()
        totals = self._store.counters()
        return {
            "cluster": self._store.cluster,
            "version": dfs.__version__,
            "address": self.address,
            "pid": os.getpid(),
            "now_ns": self._runtime.now_ns(),
            "usage": self._runtime.usage()._asdict(),
            "replicas": self._config.replicas,
            "min_replicas": self._config.min_copies(self._config.replicas),
            "inodes": totals["inodes"],
            "files": totals["files"],
            "directories": totals["directories"],
            "bytes": totals["allocated"],
            "chunks": counts.chunks,
            "log_index": totals["log_index"],
            "sessions": len(self._sessions),
            "leases": self._leases.statistics(),
            "writer": self._writer.statistics(),
            "disk": self._writer.disk_status(),
            "orders": counts.orders,
            "garbage_grace_s": self._config.garbage_grace_s,
            "under_replicated": self._replication.under_replicated,
            "lost": self._replication.lost,
            "copying": self._replication.copying,
            "nodes": self._members.views(),
            **self._operations.status(counts.deletions),
        }

    # --- what operators order ---------------------------------------------------------------------------

    @expose
    @takes_call
    async def plan_drain(self, call: Call, node: Any) -> dict[str, Any]:
        async with self._at_length(call):
            return await self._operations.plan_drain(node)

    @expose
    async def drain(self, node: Any) -> None:
        await self._operations.set_draining(node, True)

    @expose
    async def undrain(self, node: Any) -> None:
        await self._operations.set_draining(node, False)

    @expose
    async def remove_node(self, node: Any) -> None:
        await self._operations.remove(node)

    @expose
    def plan_balance(self, threshold: Any) -> dict[str, Any]:
        return self._operations.plan_balance(threshold)

    @expose
    def balance(self, threshold: Any) -> None:
        self._operations.balance(threshold)

    # --- DataNodes --------------------------------------------------------------------------------------

    @expose
    async def register(self, info: Any) -> dict[str, Any]:
        return await self._datanodes.register(info)

    @expose
    async def heartbeat(self, node: Any, report: Any) -> dict[str, Any]:
        return await self._datanodes.heartbeat(node, report)

    @expose
    def farewell(self, node: Any, incarnation: Any = None) -> None:
        """A DataNode stops in order and means to come back: its copies count, for a while. Raises `NotFound`."""
        self._members.farewell(node, incarnation)

    @expose
    def report_chunks(self, node: Any, first: Any, last: Any, chunks: Any, incarnation: Any = None) -> Later:
        """The number of a chunk, from which to go on."""
        reported = packed(chunks)
        return Later(lambda: self._datanodes.report(node, first, last, reported, incarnation))


def _key_of(call: Call) -> KeyId:
    """The key that the caller has proved. Raises `NotPermitted` if there is none."""
    if call.peer.key is None:
        raise errors.NotPermitted("nobody is served without a key")
    return call.peer.key


def _is_limited(call: Call) -> bool:
    """Whether the caller's key is limited to a subtree."""
    return call.peer.key is not None and call.peer.key.claim("subtree") is not None


def _identity(call: Call) -> str:
    """Whose key the caller has."""
    return _key_of(call).identity


def _slices(inos: Sequence[Ino]) -> Iterator[Sequence[Ino]]:
    """So many as are looked at at a time."""
    for start in range(0, len(inos), _LOOKED_AT_ONCE):
        yield inos[start : start + _LOOKED_AT_ONCE]


def _inos(wire: Any) -> list[Ino]:
    return [arguments.ino(ino) for ino in arguments.array(wire, "inodes", limits.RECLAIM_MAX_INODES)]


def _check_command(command: Any) -> None:
    """Raises `InvalidArgument`."""
    if not isinstance(command, list | tuple) or len(command) not in (3, 4) or not isinstance(command[2], list | tuple):
        raise errors.InvalidArgument(
            "a command is [sequence number, verb, [argument, ...]], and its time if it is late"
        )
    arguments.integer(command[0], "a sequence number", 1)
    if len(command) == 4:
        arguments.time_ns(command[3])
    if arguments.text(command[1], "a verb", 64) in commands.PLANNED:
        raise errors.InvalidArgument(f"{command[1]} is planned by the NameNode: call its method")
