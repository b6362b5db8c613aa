"""The state machine: a command applied exactly once, its reply stored with its effect.

A reply is `(0, result, touched)` or `(errno, code, message)`; `touched` are the items that the command changed. A
client's command is known by its session and its sequence number: one that was applied before is answered from `reply`;
one whose reply the client said it has (below `acked`) is a late duplicate, for which nobody waits, and is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import msgpack  # type: ignore[import-untyped]
import structlog

from dfs import errors
from dfs.types import NAMENODE_SESSION, Ino, Item, SessionId
from dfs.verbs import OTHER, VERBS
from nodes.namenode import arguments, commands
from nodes.namenode.confinement import confined
from nodes.namenode.store import is_of_disk
from nodes.namenode.subtree import Subtree
from nodes.namenode.transaction import Transaction

if TYPE_CHECKING:
    from nodes.namenode.store import Database

log = structlog.get_logger(__name__)

Reply: TypeAlias = Sequence[Any]

_FORGET_EVERY: Final = 64
"""Replies that are acknowledged before they are forgotten: fewer deletions, each of more rows."""


class Command(NamedTuple):
    """One change, with everything that decides what it does.

    `answered_ns`: when the client has answered it already, by its clock; None if it waits for our reply.
    """

    session: SessionId
    seq: int
    acked: int
    verb: str
    args: Sequence[Any]
    now_ns: int
    answered_ns: int | None = None


_TRIGGERS: Final = (
    "AFTER UPDATE OF version ON inode BEGIN SELECT touched(new.ino, NULL); END",
    "AFTER DELETE ON inode BEGIN SELECT touched(old.ino, NULL), is_gone(old.ino); END",
    "AFTER INSERT ON dentry BEGIN SELECT touched(new.parent, new.name); END",
    "AFTER DELETE ON dentry BEGIN SELECT touched(old.parent, old.name); END",
    "AFTER UPDATE OF ino ON dentry BEGIN SELECT touched(new.parent, new.name); END",
    "AFTER UPDATE OF atime_ns ON inode BEGIN SELECT was_read(new.ino); END",
)
"""What a command touches is seen where it happens, so that no verb can forget to say so."""


class Effect(NamedTuple):
    """What a command did. `read` are inodes whose access time moved, without any other change of them; `gone` those
    that it removed, whose numbers are never given again."""

    command: Command
    items: Sequence[Item]
    read: Sequence[Ino]
    gone: Sequence[Ino]
    result: Any


class HeldBack(Exception):
    """A command was undone: it may not happen before others have forgotten these items."""

    def __init__(self, command: Command, items: Sequence[Item]) -> None:
        super().__init__(command, items)
        self.command = command
        self.items = items


class Unfinished(Exception):
    """A part of a command has happened, which is as if its session had sent that before: it is to be applied again."""


class Machine:
    """Applies commands within the store's open transaction. `begin` and `end` go round each transaction.

    One that would take long, as it frees very many extents, happens in several steps.

    `waits_for` is asked about each command that succeeded: if it names items, that is undone, and `HeldBack` raised.
    `in_doubt` is asked about what a refused command has looked at: of which items somebody knows better than the
    tables. Then it is held back as well. What a key limited to a subtree may not look at, nobody is asked about.
    """

    def __init__(
        self,
        db: Database,
        waits_for: Callable[[Effect], Sequence[Item]] = lambda _: (),
        in_doubt: Callable[[SessionId, Sequence[Item]], Sequence[Item]] = lambda *_: (),
    ) -> None:
        self._db = db
        self._waits_for = waits_for
        self._in_doubt = in_doubt
        self._touched: dict[Item, None] = {}
        self._read: dict[Ino, None] = {}
        self._gone: list[Ino] = []
        db.create_function("touched", 2, lambda ino, name: self._touched.setdefault((ino, name)))
        db.create_function("was_read", 1, self._read.setdefault)
        db.create_function("is_gone", 1, self._gone.append)
        for number, trigger in enumerate(_TRIGGERS):
            db.execute(f"CREATE TEMP TRIGGER IF NOT EXISTS touches_{number} {trigger}")
        self._tx = self._fresh()
        self._stored = dict(self._tx.counters)

    def _fresh(self) -> Transaction:
        counters = dict(self._db.execute("SELECT name, value FROM counter"))
        return Transaction(self._db, counters, dict(self._db.execute("SELECT name, value FROM setting")))

    def end(self) -> None:
        """Write down the counters, as the last thing before the commit."""
        counters = self._tx.counters
        changed = [(value, name) for name, value in counters.items() if self._stored[name] != value]
        self._db.executemany("UPDATE counter SET value = ? WHERE name = ?", changed)
        self._stored = dict(counters)

    def forget(self) -> None:
        """The transaction was rolled back: what is in memory is read again."""
        self._tx = self._fresh()
        self._stored = dict(self._tx.counters)

    def apply(self, command: Command, refusal: Reply | None = None) -> Reply:
        """Apply one command; it happens whole or not at all. Errors of ours become replies, bugs are logged.

        `refusal`: the answer to a client's that has not happened before, which then does not happen. Raises `HeldBack`,
        and `Unfinished` after each step but the last.
        """
        if command.session == NAMENODE_SESSION:
            return self._attempt(command, commands.OWN)
        sql = "SELECT acked, subtree, holder FROM session WHERE session = ?"
        row = self._db.execute(sql, (command.session,)).fetchone()
        if row is None:
            return _failed(errors.SessionExpired(f"session {command.session} has ended"))
        if command.seq < row[0]:
            return _failed(errors.InvalidArgument(f"command {command.seq} was answered and acknowledged before"))
        stored = self._db.execute(
            "SELECT reply FROM reply WHERE session = ? AND seq = ?", (command.session, command.seq)
        ).fetchone()
        if stored is not None:
            return list(msgpack.unpackb(stored[0], use_list=True))
        if refusal is not None:
            return refusal
        verbs = commands.CLIENT if command.verb in commands.CLIENT else commands.PLANNED
        subtree = Subtree(self._db, row[1], row[2]) if row[1] else None
        first_part = commands.IN_PARTS.get(command.verb)
        part = first_part(self._db, *command.args) if first_part is not None else None
        if part is not None and not self._attempt(command._replace(args=part), verbs, subtree)[0]:
            raise Unfinished
        reply = self._attempt(command, verbs, subtree)
        self._db.execute("INSERT INTO reply VALUES (?, ?, ?)", (command.session, command.seq, msgpack.packb(reply)))
        if command.acked >= row[0] + _FORGET_EVERY:
            self._forget_replies(command.session, command.acked)
        return reply

    def _forget_replies(self, session: SessionId, acked: int) -> None:
        self._db.execute("UPDATE session SET acked = ? WHERE session = ?", (acked, session))
        self._db.execute("DELETE FROM reply WHERE session = ? AND seq < ?", (session, acked))

    def _attempt(self, command: Command, verbs: Any, subtree: Subtree | None = None) -> Reply:
        apply = verbs.get(command.verb)
        if apply is None:
            return _failed(errors.NotSupported(f"no such command: {command.verb!r}: is the client newer than we are?"))
        tx = self._tx
        tx.session, tx.clock_ns = command.session, command.now_ns
        tx.now_ns = command.now_ns if command.answered_ns is None else command.answered_ns
        before = tx.counters.copy()
        self._touched.clear()
        self._read.clear()
        self._gone.clear()
        self._db.execute("SAVEPOINT command")
        args: Sequence[Any] | None = None
        try:
            args = command.args if subtree is None else confined(subtree, command.verb, command.args)
            result = apply(tx, *args)
        except Exception as error:
            if is_of_disk(error) or not self._db.in_transaction:
                raise  # the disk's error ends the whole transaction: SQLite may have rolled it back, savepoint and all
            self._undo(before)
            doubtful = self._in_doubt(command.session, self._looked_at(command)) if args is not None else ()
            if doubtful:
                raise HeldBack(command, doubtful) from None
            return _refusal(command, error)
        read = [ino for ino in self._read if (ino, None) not in self._touched]
        effect = Effect(command, list(self._touched), read, list(self._gone), result)
        items = self._waits_for(effect)
        if items:
            self._undo(before)
            raise HeldBack(command, items)
        self._db.execute("RELEASE command")
        tx.counters["log_index"] += 1
        return (0, result, effect.items)

    def foreseen(self, batch: Sequence[Command]) -> list[Item]:
        """What commands of one session will touch, as far as their arguments and the tables as they are now tell.

        It may be too much, where a command fails, and too little. Nothing is applied.
        """
        row = self._db.execute("SELECT subtree, holder FROM session WHERE session = ?", (batch[0].session,)).fetchone()
        if row is None:
            return []
        subtree = Subtree(self._db, *row) if row[0] else None
        found: dict[Item, None] = {}
        for command in batch:
            how = VERBS.get(command.verb, OTHER)
            if (how.changes or how.names) and (subtree is None or _is_confined(subtree, command)):
                found.update(dict.fromkeys(self._looked_at(command)))
        return list(found)

    def _looked_at(self, command: Command) -> list[Item]:
        """The inodes and names that a command is about, and what the names stand for."""
        items: list[Item] = []
        how = VERBS.get(command.verb, OTHER)
        looks = how.changes or command.verb == "hold"
        if looks and command.args and type(command.args[0]) is int and command.args[0] > 0:
            items.append((Ino(command.args[0]), None))
        for at in how.names:
            parent, name = [*command.args[at : at + 2], None, None][:2]
            if type(parent) is int and 0 < parent <= arguments.INTEGER_MAX and type(name) is bytes:
                items += [(Ino(parent), None), (Ino(parent), name)]
                row = self._db.execute(
                    "SELECT ino FROM dentry WHERE parent = ? AND name = ?", (parent, name)
                ).fetchone()
                items += [(row[0], None)] if row else []
        return items

    def _undo(self, counters: dict[str, int]) -> None:
        self._db.execute("ROLLBACK TO command")
        self._db.execute("RELEASE command")
        self._tx.counters.update(counters)


def _is_confined(subtree: Subtree, command: Command) -> bool:
    """Whether a command of who is limited to a subtree would be let through."""
    try:
        confined(subtree, command.verb, command.args)
    except errors.DfsError:
        return False
    return True


def _refusal(command: Command, error: Exception) -> Reply:
    """What an error means to who sent the command."""
    if isinstance(error, errors.DfsError):
        return _failed(error)
    if isinstance(error, TypeError) and "apply() " in str(error):
        return _failed(errors.InvalidArgument(f"wrong arguments for {command.verb}"))
    log.error("command failed unexpectedly", verb=command.verb, session=command.session, exc_info=error)
    return _failed(errors.RemoteFault(f"{command.verb} failed at the NameNode: its log says why"))


def _failed(error: errors.DfsError) -> Reply:
    """It may quote what a client has sent, and is stored: so of text only what can be."""
    return (error.errno, error.code, error.message.encode("utf-8", "backslashreplace").decode())
