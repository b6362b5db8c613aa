"""The object `dfs.namenode`: what clients and DataNodes call.

Methods translate: they check what came, ask `queries` or give commands to the writer, and answer. What is asked of the
namespace is in `namespace`. Whatever waits is async.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import structlog
import trio

import dfs
from dfs import errors, grants, limits
from dfs.placement import candidates, choose_nodes, takes_orders
from dfs.room import Room
from dfs.rpc import Call, Later, Peer, expose, takes_call
from dfs.types import (
    Ino,
    Item,
    NodeId,
    NodeState,
    NodeView,
    SessionId,
    Statfs,
)
from nodes.namenode import arguments, authorization, commands
from nodes.namenode.access import LOOKED_AT_ONCE, identity, key_of
from nodes.namenode.backup import Backups
from nodes.namenode.beneath import Beneath
from nodes.namenode.check import Checker
from nodes.namenode.commands import note_backup, open_session
from nodes.namenode.counting import Counting
from nodes.namenode.datanodes import DataNodeService, packed
from nodes.namenode.explain import Explainer
from nodes.namenode.namespace import Namespace
from nodes.namenode.operations import Operations
from nodes.namenode.parts import Parts
from nodes.namenode.queries import summary

log = structlog.get_logger(__name__)

_HANDSHAKE_MAX: Final = 16
"""Items in a handshake."""
_HEARINGS: Final = 2
"""Of who owns something beneath a directory: of what it has made, and of the bytes of that."""


class NameNode(Namespace):
    """Registered as `dfs.namenode`; its public methods are the protocol (docs/architecture.md)."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._operations = Operations(parts)
        self._datanodes = DataNodeService(parts)
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
            if not number % LOOKED_AT_ONCE:
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
        number = self._sessions.touch(session, identity(call))
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
        root, key, holder = self._view(call).root(), key_of(call), identity(call)
        self._sessions.check_room(holder)
        subtree = key.claim("subtree") or ""
        caches = bool(info.get("caches")) and (not subtree or bool(info.get("forgets_all")))
        directories = caches and bool(info.get("directories")) and key.role in authorization.WRITERS and not subtree
        drops_recalled = caches and bool(info.get("drops_recalled"))
        about = name, host, holder, subtree, open_session.caching(caches, directories, drops_recalled)
        session = SessionId(await self._writer.decide("open_session", *about, party=call.peer.party))
        self._sessions.add(session, holder)
        if caches:
            self._leases.join(
                session, owns_directories=directories, drops_recalled=drops_recalled, is_limited=bool(subtree)
            )
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
        await self._sessions.close(session, identity(call), call.peer.party)

    @expose
    @takes_call
    async def events(self, call: Call, session: Any, after: Any, incarnation: Any) -> tuple[int, list[Any]]:
        """(incarnation, [(number, kind, payload), ...])"""
        last = arguments.integer(after, "an event's number")
        return await self._sessions.events(session, identity(call), last, arguments.integer(incarnation, "a number"))

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
    async def end_backup(self, backup: Any, is_kept: Any) -> None:
        made_ns = self._backups.end(backup)
        if made_ns is not None and is_kept:
            await self._writer.decide("note_backup", made_ns)

    # --- chunks -----------------------------------------------------------------------------------------

    @expose
    @takes_call
    async def allocate(
        self, call: Call, session: Any, acked: Any, seq: Any, count: Any, replicas: Any, exclude: Any, host: Any
    ) -> list[Any]:
        """New chunks for a session: [[chunk, [node, ...], grant], ...]. Raises `NotEnoughNodes`, `NoSpace`.

        A command of the session's, with a number of its own, of which only the places are planned here.
        """
        number = self._sessions.touch(session, identity(call))
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
        number = self._sessions.touch(session, identity(call))
        wanted = [arguments.chunk(chunk) for chunk in arguments.array(chunks, "chunks", limits.BATCH_MAX_COMMANDS)]
        own = self._queries.open_chunks(number, wanted)
        return [self._grant(call, chunk, grants.APPEND) if chunk in own else b"" for chunk in wanted]

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
        return self._issuing.renew(key_of(call), public)

    @expose
    @takes_call
    async def join(self, call: Call, request: Any) -> bytes:
        """A token becomes a key: its file, sealed. Raises `NotPermitted`, `InvalidArgument`, `Exists`."""
        return await self._issuing.join(key_of(call), request, call.peer.party)

    @expose
    def key_status(self) -> dict[str, Any]:
        return self._issuing.status()

    @expose
    @takes_call
    async def revoke_key(self, call: Call, holder: Any) -> int:
        return await self._issuing.revoke(key_of(call), holder)

    @expose
    async def restore_key(self, holder: Any) -> None:
        await self._issuing.restore(holder)

    # --- totals -----------------------------------------------------------------------------------------

    @expose
    def statfs(self) -> Statfs:
        totals = self._store.counters()
        live = [view for view in self._members.views() if view.state != NodeState.DEAD]
        free = sum(view.free_bytes for view in live if view.free_bytes >= limits.CHUNK_MAX_BYTES)  # others are full
        return Statfs(
            sum(view.used_bytes for view in live) + free,  # what else is on their disks is not the cluster's
            free,
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
            "backup_ns": self._store.setting(note_backup.SETTING),
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
