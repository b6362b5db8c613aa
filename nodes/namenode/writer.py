"""Group commit: the one task that changes the database.

It takes a turn of each party that has commands waiting (`dfs.turns`), applies all in one transaction, commits it with
one fsync on a worker thread, and then answers. While the disk works, the next commands gather. Nothing is answered
before it is durable. Commands that wait, or are held back, take up room of which each party has its share: who wants
more is refused. Two have room besides: a session that others wait for, since what it sends may be what they wait for;
and the NameNode itself, whose commands clients cannot keep out. Replies are kept until they are acknowledged, and who
leaves too many of them is refused likewise.

While commands are applied nobody else is answered. So a transaction takes no more of them after TRANSACTION_MAX_S, and
what is left of its batches goes on in the next ones, before what their parties sent later. A command that would take
long itself is applied step by step.

If the commit fails (disk full, disk broken) nothing of the transaction happened, and every caller gets the error.

A command that changes what others may have cached is held back (`nodes.namenode.leases`): its batch is parked, with the
replies that it has so far, and goes on from there when they have forgotten it. Others do not wait for it. What goes on
has turns of its own, a round of them in each transaction, before those of what is new. With what the command waits for
others are asked to forget what the next ones of its batch will touch, or each would be held back in its turn. That
changes nothing of what is applied and when: only the command whose turn it is waits.
"""

from __future__ import annotations

import math
import stat
from collections import Counter, deque
from collections.abc import Hashable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

import structlog
import trio

from dfs import errors, limits
from dfs.runtime import Runtime
from dfs.turns import Shares, Turns, Verdict
from dfs.types import NAMENODE_SESSION, Attr, Item, SessionId
from dfs.verbs import OTHER, VERBS
from nodes.namenode import commands
from nodes.namenode.leases import Leases
from nodes.namenode.machine import Command, Effect, HeldBack, Machine, Reply, Unfinished
from nodes.namenode.store import Store

log = structlog.get_logger(__name__)

_RATE_OVER_S: Final = 10
_SPACE_CHECKED_EVERY_S: Final = 1.0


class _Batch:
    """Commands of a session that one caller, of `party`, waits for. They take up `room`.

    `done` is set when `replies`, of all of them, or `error` is there.

    `durable`: how many of the replies are of transactions before. `held`: what the next command touches, if it was held
    back; `is_held` by the transaction under way, `is_late` if that had no time for it. `ahead`: what others were asked
    to forget besides, for commands up to number `foreseen`.
    """

    __slots__ = (
        "ahead",
        "author",
        "commands",
        "done",
        "durable",
        "error",
        "foreseen",
        "held",
        "is_held",
        "is_late",
        "party",
        "replies",
        "room",
    )

    def __init__(self, room: Shares, party: Hashable, author: SessionId, batch: list[Command]) -> None:
        self.room = room
        self.party = party
        self.author = author
        self.commands = batch
        self.replies: list[Reply] = []
        self.durable = 0
        self.held: Sequence[Item] = ()
        self.is_held = self.is_late = False
        self.ahead: list[Item] = []
        self.foreseen = 0
        self.error: errors.DfsError | None = None
        self.done = trio.Event()

    def fail(self, error: errors.DfsError) -> None:
        """The transaction was undone: what it had of this did not happen, nor will the rest."""
        self.is_held = self.is_late = False
        if self.durable:
            failure: Reply = (error.errno, error.code, error.message)
            self.replies[self.durable :] = [failure] * (len(self.commands) - self.durable)
        else:
            self.error = type(error)(error.message)

    @property
    def cost(self) -> int:
        return _cost(len(self.commands))

    @property
    def cost_left(self) -> int:
        return _cost(len(self.commands) - len(self.replies))


class Writer:
    """`apply` and `decide` may be called concurrently; `run` is the task that serves them.

    `party` is for whom a command is, as `dfs.turns` counts them: None is the NameNode itself.
    """

    def __init__(self, store: Store, runtime: Runtime, reserve_bytes: int, leases: Leases) -> None:
        self._store = store
        self._leases = leases
        leases.forgotten = self._resume
        self._parked: dict[Item, list[_Batch]] = {}
        """Each is with one item, of those it waits for, that somebody has not forgotten yet."""
        self._runtime = runtime
        self._reserve_bytes = reserve_bytes
        self._machine = Machine(store.writing, self._waits_for, leases.in_doubt)
        self._turns: Turns[_Batch] = Turns(limits.BATCH_MAX_COMMANDS)
        self._room = Shares(limits.COMMAND_QUEUE_MAX)
        """Of commands that are not answered yet."""
        self._room_to_yield = Shares(limits.YIELDING_COMMANDS_MAX)
        """Likewise, of sessions that are asked to forget and have no room else."""
        self._own_room = Shares(limits.OWN_COMMANDS_MAX)
        self._resumed: Turns[_Batch] = Turns(limits.BATCH_MAX_COMMANDS)
        """Batches that were parked, or for which there was no time, and that may go on."""
        self._late: Counter[Hashable] = Counter()
        """Parties with batches for which there was no time, and how many."""
        self._arrived = trio.Event()
        self._space_checked_at = -1e9
        self._effects: list[Effect] = []
        """Those of the transaction under way of which leases hear when it is committed."""
        self._is_full = False
        self._full_since = -math.inf
        self._commits = 0
        self._unanswered: set[_Batch] = set()
        self._has_ended = False
        self._by_second: deque[list[int]] = deque(maxlen=_RATE_OVER_S + 1)
        """Seconds of trio's clock in which commands were applied, and how many."""
        self._applied = 0

    def check_room(self, party: Hashable, session: SessionId, commands: int) -> None:
        """Whether so many would be let in now. Raises `Busy`."""
        self._room_for(party, session, _cost(commands))

    def _room_for(self, party: Hashable, session: SessionId, cost: int) -> Shares:
        if party is None:
            if self._own_room.total + cost <= self._own_room.all_max:
                return self._own_room
        elif self._room.judge(party, session, cost) is Verdict.TAKE:
            return self._room
        elif self._may_yield(party, session, cost):
            return self._room_to_yield
        raise errors.Busy("the NameNode has as many commands of this client waiting as it may have: try again")

    def _may_yield(self, party: Hashable, session: SessionId, cost: int) -> bool:
        """Whether others wait for this session, and it has room to give up what it owns."""
        if not self._leases.is_asked_to_forget(session):
            return False
        room = self._room_to_yield
        return room.of(party, session) < limits.BATCH_MAX_COMMANDS and room.judge(party, session, cost) is Verdict.TAKE

    async def apply(self, party: Hashable, session: SessionId, acked: int, wire: Sequence[Any]) -> list[Reply]:
        """Apply a client's commands [seq, verb, args] or [seq, verb, args, its time]; their replies.

        Raises `Busy`, `NoSpace`, `DiskFailed`.
        """
        now_ns = self._runtime.now_ns()
        batch = [Command(session, seq, acked, verb, args, now_ns, *answered) for seq, verb, args, *answered in wire]
        return await self._submit(party, session, batch)

    async def apply_planned(
        self, party: Hashable, session: SessionId, acked: int, seq: int, verb: str, *args: Any
    ) -> Any:
        """Apply a client's command of which the NameNode filled in `args`; its result. Raises what it raises."""
        return await self._apply_one(party, Command(session, seq, acked, verb, args, self._runtime.now_ns()))

    async def decide(self, verb: str, *args: Any, party: Hashable = None) -> Any:
        """Apply a command that the NameNode itself has planned, for a party or of its own accord; its result.

        It is not to be cancelled: the caller has to see that what is in memory follows what is in the tables by now,
        whoever asked for it and has gone meanwhile. Raises what it raises.
        """
        with trio.CancelScope(shield=True):  # bounded as `_submit`
            return await self._apply_one(party, Command(NAMENODE_SESSION, 0, 0, verb, args, self._runtime.now_ns()))

    async def _apply_one(self, party: Hashable, command: Command) -> Any:
        errno, *rest = (await self._submit(party, command.session, [command]))[0]
        if errno:
            raise errors.from_wire(*rest)
        return rest[0]

    async def _submit(self, party: Hashable, session: SessionId, batch: list[Command]) -> list[Reply]:
        if self._has_ended:
            raise errors.Unreachable(_STOPPED)
        self._check_acknowledged(session, batch)
        waiting = _Batch(self._room_for(party, session, _cost(len(batch))), party, session, batch)
        waiting.room.add(party, session, waiting.cost)
        self._unanswered.add(waiting)
        self._turns.put(party, session, waiting, waiting.cost)
        self._arrived.set()
        await waiting.done.wait()  # bounded: the writer answers every batch, at its end at the latest
        if waiting.error is not None:
            raise waiting.error
        return waiting.replies

    def _check_acknowledged(self, session: SessionId, batch: Sequence[Command]) -> None:
        """Whether the replies of these may be kept with all that the session has not acknowledged. Raises `Busy`.

        Those below `acked` are forgotten, so there are no more than numbers from there on.
        """
        most = limits.REPLIES_KEPT_MAX * (2 if self._leases.is_asked_to_forget(session) else 1)
        if any(command.seq - command.acked > most for command in batch):
            raise errors.Busy(f"session {session} has not acknowledged {most} replies, as many as are kept: try again")

    async def run(self) -> None:
        """Serve until cancelled; the transaction under way is finished first. What waits then does not happen."""
        try:
            while True:
                await self._arrived.wait()
                self._arrived = trio.Event()
                while self._turns or self._resumed:
                    await trio.lowlevel.checkpoint_if_cancelled()
                    await self._transact()
        finally:
            self._has_ended = True
            for batch in self._unanswered:
                batch.fail(errors.Unreachable(_STOPPED))
                batch.done.set()

    def _take(self, turns: Turns[_Batch]) -> list[_Batch]:
        """A round. Who is alone has no more than his share of a transaction: whoever comes next, be it a session of his
        own, waits until it is done, and one commit for four shares would save little.

        Of a party that has batches for which there was no time, nothing that came later.
        """
        left = limits.TRANSACTION_MAX_COMMANDS

        def judge(party: Hashable, _member: Hashable, cost: int) -> Verdict:
            nonlocal left
            if left <= 0:
                return Verdict.STOP
            if turns is self._turns and party in self._late:
                return Verdict.NEXT_PARTY
            left -= cost
            return Verdict.TAKE

        taken = turns.take(judge)
        if turns is self._resumed:
            self._late -= Counter(batch.party for batch in taken if batch.is_late)
        return taken

    async def _transact(self) -> None:
        batches: list[_Batch] = []
        try:
            with trio.CancelScope(shield=True):  # bounded by the disk: half a commit cannot be abandoned
                with self._store.translating():
                    self._apply_all(batches)
                await self._runtime.run_blocking(self._store.commit)
            self._commits += 1
            self._tell_leases()
        except errors.DfsError as error:
            log.error("a transaction failed, nothing of it happened", error=str(error))
            self._store.rollback()
            self._machine.forget()
            for batch in batches:
                batch.fail(error)
        self._leases.committed()
        if self._is_full:
            self._leases.recall_owned()  # what was promised before may have made directories, and those are owned
        for batch in batches:
            batch.durable = len(batch.replies)
            if batch.is_held:
                self._park_or_go_on(batch)  # what was asked for while the disk worked may be answered already
            elif not batch.is_late:
                self._leases.finish([*batch.held, *batch.ahead])
                batch.room.release(batch.party, batch.author, batch.cost)
                self._unanswered.discard(batch)
                batch.done.set()
        for batch in reversed(batches):
            if batch.is_late:
                self._late[batch.party] += 1
                self._resumed.put_back(batch.party, batch.author, batch, batch.cost_left)

    def _apply_all(self, batches: list[_Batch]) -> None:
        """Take batches, and apply their commands, of each up to the first that has to wait, while there is time.

        Of each party one is begun in any case.
        """
        is_full = self._disk_is_full()
        self._effects = []
        batches += self._take(self._resumed) + self._take(self._turns)
        self._store.begin()
        deadline = trio.current_time() + limits.TRANSACTION_MAX_S
        begun: set[Hashable] = set()
        late: set[SessionId] = set()
        for batch in batches:
            batch.is_held = False
            batch.is_late = batch.author in late or (batch.party in begun and trio.current_time() >= deadline)
            begun.add(batch.party)
            if not batch.is_late:
                try:
                    batch.is_late = not self._apply_batch(batch, is_full, deadline)
                except HeldBack as reason:
                    self._hold_back(batch, reason.items)
            if batch.is_late:
                late.add(batch.author)  # whose batches stay in order
        self._machine.end()

    def _hold_back(self, batch: _Batch, items: Sequence[Item]) -> None:
        """Have others forget what the next command touches, and in the same moment what those after it will."""
        batch.is_held = True
        ahead = self._look_ahead(batch, limits.FORESEEN_BY_ALL_MAX // max(1, self._leases.count_holders(items)))
        self._leases.begin(batch.author, [*items, *ahead])
        before, batch.held = batch.held, items  # what has begun is finished, whatever happens to the transaction
        batch.ahead += ahead
        self._leases.finish(before)

    def _look_ahead(self, batch: _Batch, most: int) -> Sequence[Item]:
        """What the `most` commands after the next one will touch; of each command that is found out once at most."""
        first = max(batch.foreseen, len(batch.replies) + 1)
        batch.foreseen = max(first, len(batch.replies) + 1 + min(most, limits.FORESEEN_MAX_COMMANDS))
        coming = batch.commands[first : batch.foreseen]
        return self._machine.foreseen(coming) if coming else ()

    def _apply_batch(self, batch: _Batch, is_full: bool, deadline: float) -> bool:
        """One command, or step of one, at least; whether there was time for all."""
        while len(batch.replies) < len(batch.commands):
            command = batch.commands[len(batch.replies)]
            is_refused = is_full and command.verb not in commands.FREEING and not self._is_promised(command)
            with suppress(Unfinished):
                batch.replies.append(self._machine.apply(command, _FULL if is_refused else None))
            self._count_applied()
            if trio.current_time() >= deadline:
                break
        return len(batch.replies) == len(batch.commands)

    def _is_promised(self, command: Command) -> bool:
        """Whether a client may have answered it before it could know that the disk is nearly full."""
        return command.answered_ns is not None and trio.current_time() < self._full_since + limits.FULL_GRACE_S

    def _count_applied(self) -> None:
        self._applied += 1
        second = int(trio.current_time())
        if not self._by_second or self._by_second[-1][0] != second:
            self._by_second.append([second, 0])
        self._by_second[-1][1] += 1

    def _waits_for(self, effect: Effect) -> Sequence[Item]:
        """What others have to forget before a command happens: none, and then it does."""
        author, verb = effect.command.session, effect.command.verb
        attr = _attr_of(effect.result)
        items = effect.items
        told: Item | None = (attr.ino, None) if attr is not None else None
        if told is not None and told not in items and self._leases.in_doubt(author, [told]):
            return [*items, told]  # it changes nothing there, but its answer would be wrong
        if self._leases.conflicts(author, items):
            return items
        is_new = attr is not None and VERBS.get(verb, OTHER).has_made(attr.version, items)
        self._leases.applied(
            author,
            effect.command.seq,
            effect.items,
            attr.ino if attr is not None else None,
            is_new=is_new,
            is_directory=attr is not None and stat.S_ISDIR(attr.mode),
            is_awaited=effect.command.answered_ns is None,
        )
        if effect.read or effect.gone:
            self._effects.append(effect)
        return ()

    def _tell_leases(self) -> None:
        """What was applied is committed. Who had been told of an access time before could be given the old one anew."""
        for command, _, read, gone, _ in self._effects:
            self._leases.tell(command.session, read)
            self._leases.removed(command.session, command.seq, gone)

    def _resume(self, forgotten: Iterable[Item]) -> None:
        """Of the batches that waited for these, those whose next command may happen now go on."""
        for item in forgotten:
            for batch in self._parked.pop(item, ()):
                self._park_or_go_on(batch)

    def _park_or_go_on(self, batch: _Batch) -> None:
        item = self._leases.conflict(batch.author, batch.held)
        if item is not None:
            self._parked.setdefault(item, []).append(batch)
            return
        batch.commands = [command._replace(now_ns=self._runtime.now_ns()) for command in batch.commands]
        self._resumed.put(batch.party, batch.author, batch, batch.cost_left)
        self._arrived.set()

    def _disk_is_full(self) -> bool:
        now = trio.current_time()
        if now - self._space_checked_at > _SPACE_CHECKED_EVERY_S:
            self._space_checked_at = now
            was, self._is_full = self._is_full, self._store.free_bytes() < self._reserve_bytes
            if self._is_full and not was:
                self._full_since = now
                log.error("disk nearly full: only what frees space is accepted", directory=str(self._store.directory))
                self._leases.recall_owned()  # what is made in these is answered before it comes here
        return self._is_full

    def disk_status(self) -> dict[str, Any]:
        """Of the disk that the database is on; below `reserve_bytes` free, only what frees space is accepted."""
        free_bytes = self._store.free_bytes()
        return {
            "directory": str(self._store.directory),
            "free_bytes": free_bytes,
            "reserve_bytes": self._reserve_bytes,
            "is_full": free_bytes < self._reserve_bytes,
        }

    @property
    def is_full(self) -> bool:
        """Whether only what frees space is accepted, and what was answered before that was so."""
        return self._is_full

    def statistics(self) -> dict[str, int]:
        """Counts since the start, and what is now; `commands_per_s` over the last seconds."""
        now = int(trio.current_time())
        recent = sum(count for second, count in self._by_second if now - _RATE_OVER_S <= second < now)
        return {
            "commands": self._applied,
            "commands_per_s": recent // _RATE_OVER_S,
            "commits": self._commits,
            "queued": self._turns.cost + self._resumed.cost,
            "held_back": sum(len(batches) for batches in self._parked.values()),
        }


def _cost(commands: int) -> int:
    """Batches without commands count too."""
    return max(commands, 1)


def _attr_of(result: Any) -> Attr | None:
    """The attributes that a command's result has."""
    if isinstance(result, tuple) and result and isinstance(result[0], Attr):
        result = result[0]
    return result if isinstance(result, Attr) else None


_STOPPED: Final = "the NameNode stops"
_FULL_ERROR: Final = errors.NoSpace("the disk of the NameNode is nearly full: delete files, or give it more room")
_FULL: Final[Reply] = (_FULL_ERROR.errno, _FULL_ERROR.code, _FULL_ERROR.message)
