"""Mistakes planted on purpose: what the simulation has to find, and after how many seeds it does.

Each is a small change to the daemons' or the client's code, of the kind that a hasty edit makes, put in place for the
rest of the process. `python -m tests.simulation --mistake NAME` runs seeds until one fails.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Final

import trio

from dfs.client import datanodes as client_datanodes
from dfs.client.cache import Cache
from dfs.client.filewriter import FileWriter
from dfs.client.openinode import OpenInode
from dfs.client.recentpages import RecentPages
from dfs.client.session import Session
from dfs.client.stream import CommandStream
from dfs.client.writer import Lane
from dfs.types import Attr, ChunkId, Ino, Item, SessionId
from nodes.datanode import chunkfiles
from nodes.datanode import reading as datanode_reading
from nodes.datanode.chain import Chain
from nodes.datanode.store import ChunkStore
from nodes.namenode import commands
from nodes.namenode.leases import Leases
from nodes.namenode.machine import Command, Machine, Reply
from nodes.namenode.replication import Replication
from nodes.namenode.transaction import Transaction
from nodes.namenode.writer import Writer


def no_fsync() -> None:
    """A DataNode says that bytes are durable that are in its memory only."""

    async def sync_one(self: ChunkStore, chunk: ChunkId, *, journaling: bool) -> int:
        await trio.lowlevel.checkpoint()
        return int(self.chunks.get(chunk, -1))

    _put(ChunkStore, "_sync_one", sync_one)


def silent_replica() -> None:
    """A commit names replicas that did not answer."""

    def strike(self: Lane, _node: str) -> None:
        self.usable = False

    _put(Lane, "strike", strike)


def chain_ends_early() -> None:
    """A DataNode answers for those behind it without having sent anything on."""

    async def send_on(*_: Any) -> list[Any]:
        return []

    _put(Chain, "send_on", send_on)


def reply_not_stored() -> None:
    """A command that comes again happens again."""
    apply = Machine.apply

    def forgetful(self: Machine, command: Command, refusal: Reply | None = None) -> Reply:
        self._db.execute("DELETE FROM reply WHERE session = ? AND seq = ?", (command.session, command.seq))
        return apply(self, command, refusal)

    _put(Machine, "apply", forgetful)


def stale_copy_counts() -> None:
    """Repair counts copies that lack committed bytes."""

    def note_short(*_: Any) -> None:
        pass

    _put(Replication, "note_short", note_short)


def unverified_read() -> None:
    """Nobody looks at checksums when bytes are read."""

    def intact(*_: Any) -> bool:
        return True

    def verify(*_: Any) -> None:
        pass

    _put(chunkfiles, "intact", intact)
    _put(datanode_reading, "faults", _read)
    _put(client_datanodes, "verify", verify)


def _read(data: Any, view: memoryview, records: Any) -> list[Any]:
    data.pread_into(view, records[0].start)
    return []


def mended_unwritten() -> None:
    """A DataNode takes a damaged block for mended that it has not written."""

    def mend(*_: Any) -> None:
        pass

    _put(chunkfiles.ChunkFiles, "mend", mend)


def overwrite_unflushed() -> None:
    """An overwrite frees durable bytes before the new ones are durable."""
    prepare = FileWriter._prepare

    async def hasty(self: FileWriter, _append: bool, durable: bool) -> None:
        await prepare(self, True, durable)

    _put(FileWriter, "_prepare", hasty)


def answer_before_commit() -> None:
    """The NameNode answers first and commits then."""
    apply_all = Writer._apply_all

    def early(self: Writer, batches: list[Any]) -> None:
        apply_all(self, batches)
        for batch in batches:
            if not batch.is_held:
                batch.done.set()

    _put(Writer, "_apply_all", early)


def append_at_known_end() -> None:
    """An append goes where this client saw the end of file last."""
    command = FileWriter._command

    def careless(
        self: FileWriter,
        extents: Sequence[Any],
        reach: dict[Any, int],
        append: bool,
        mtime_ns: int | None,
        *,
        is_fresh: bool,
    ) -> list[Any]:
        if append:
            extents = [extent._replace(offset=extent.offset + self._size) for extent in extents]
        return command(self, extents, reach, False, mtime_ns, is_fresh=is_fresh)

    _put(FileWriter, "_command", careless)


def stale_layout() -> None:
    """A mount goes on reading where a file's bytes were."""

    def note(self: OpenInode, attr: Attr) -> None:
        if attr.version >= self.attr.version:
            self.attr = attr

    _put(OpenInode, "note", note)


def pages_kept_too_long() -> None:
    """What was read of a file is told again after it was changed by bytes that nobody has seen leaving."""

    def drop(self: RecentPages, start: int, end: int) -> None:
        pass

    _put(RecentPages, "_drop", drop)


def holds_outlive_sessions() -> None:
    """A dead client's unlinked files stay for ever."""

    def end_session(tx: Transaction, session: int) -> bool:
        tx.run("DELETE FROM session WHERE session = ?", session)
        for (chunk,) in tx.all("SELECT chunk FROM chunk WHERE session = ? AND session != 0", session):
            tx.seal(chunk)
        tx.run("DELETE FROM reply WHERE session = ?", session)
        return False

    own: dict[str, Callable[..., Any]] = dict(commands.OWN)
    own["end_session"] = end_session
    _put(commands, "OWN", own)


def recall_not_awaited() -> None:
    """A change happens while others still answer from their caches."""

    def conflicts(self: Leases, author: SessionId, items: Sequence[Item]) -> bool:
        return False

    _put(Leases, "conflicts", conflicts)


def doubt_ignored() -> None:
    """Others see a change while who made it may still show what was before."""

    def in_doubt(_self: Leases, _reader: SessionId, _items: Sequence[Item]) -> list[Item]:
        return []

    _put(Leases, "in_doubt", in_doubt)


def overtaken_answer_kept() -> None:
    """A client keeps an answer though what it says was recalled meanwhile."""

    def is_valid(*_: Any) -> bool:
        return True

    _put(Cache, "is_valid", is_valid)
    _put(Cache, "_is_valid_whole", is_valid)


def leased_while_committing() -> None:
    """What is being committed is leased as it was before."""

    def committed(_self: Leases) -> None:
        pass

    def applied(self: Leases, *args: Any, **options: Any) -> None:
        apply(self, *args, **options)
        self._applying.clear()
        self._applying_in.clear()

    apply = Leases.applied
    _put(Leases, "applied", applied)
    _put(Leases, "committed", committed)


def leases_forgotten_at_restart() -> None:
    """A NameNode that restarts does not wait for those who cache."""

    async def reclaimed(_self: Leases) -> None:
        await trio.lowlevel.checkpoint()

    def reclaim(*_: Any, **__: Any) -> None:
        pass

    _put(Leases, "reclaimed", reclaimed)
    _put(Leases, "reclaim", reclaim)


def renamed_before_its_bytes() -> None:
    """A file takes the place of another at the NameNode though its bytes may never come."""

    def hold_back(_self: CommandStream, _ino: Ino, _gone: Ino) -> None:
        pass

    _put(CommandStream, "hold_back", hold_back)


def trusted_for_ever() -> None:
    """A client goes on answering from its cache though it has not heard the NameNode for long."""
    _put(Session, "is_trusted", property(lambda self: self._caches and self.session is not None))


def _put(where: Any, name: str, what: Any) -> None:
    """Raises TypeError if it cannot be called as what was there: that would be found, and be no such mistake."""
    was = getattr(where, name)
    if inspect.isfunction(was):
        parameters = inspect.signature(was).parameters.values()
        named = {each.name: None for each in parameters if each.kind is each.KEYWORD_ONLY}
        plain = [each for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
        inspect.signature(what).bind(*plain, **named)
    setattr(where, name, what)


MISTAKES: Final[dict[str, Callable[[], None]]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        no_fsync,
        silent_replica,
        chain_ends_early,
        reply_not_stored,
        stale_copy_counts,
        unverified_read,
        mended_unwritten,
        overwrite_unflushed,
        answer_before_commit,
        append_at_known_end,
        stale_layout,
        pages_kept_too_long,
        holds_outlive_sessions,
        recall_not_awaited,
        doubt_ignored,
        overtaken_answer_kept,
        leased_while_committing,
        leases_forgotten_at_restart,
        renamed_before_its_bytes,
        trusted_for_ever,
    )
}
