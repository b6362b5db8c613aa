"""A client's conversation with the NameNode: queries, and commands that happen exactly once.

A command is sent as (session, sequence number, verb, arguments), and sent again, the same, until an answer
arrives: the NameNode stores its reply with the change, so a repeat finds the reply and changes nothing.
Commands that are issued while others are on their way travel together: at most `_BATCHES_IN_FLIGHT` apply calls
are open, and what queues behind them leaves as one batch. A call that takes long, since the NameNode waits for other
clients to forget what it changes, does not count for that, and while there is one each command travels alone: a batch
waits for the one of its commands that waits longest.

What others may wait for themselves is apart (`_Outbox`): the answer to a recall may need commands, and those must not
wait behind commands that wait for the other client, which may be in the same position. They are about what is ours, so
the NameNode has them wait for nobody. Apart is also what nobody waits for, the release of a hold.

While the NameNode is away, queries and commands wait and are tried again with growing delays, for at most
`wait_s`; then `Unreachable` or `DeadlineExceeded` is raised. What others wait for is no question of that patience, nor
is what would be lost: an answer to a recall is owed for as long as the session lasts (`insist`); the commands that it
needs, and commits of what is owned, are given up no sooner than the NameNode would give up a silent session. The events
call that this client keeps open shows the NameNode that it lives; should it have been silent for too long all the same,
its session has ended: commands under way raise `SessionExpired`, and the next one opens a new session.

A session that caches (`cache`) keeps what the NameNode answers under leases, and forgets what it is told to; see
`dfs.client.cache`. For how long it believes that, `dfs.client.trust` says. After the machine was suspended or paused it
has the kernel forget everything.

Invariants: a command that the answer to a recall needs never waits for one that it does not need;
what a command changes whose waiter was cancelled nothing else changes before its outcome is known; a sequence number is
used for one command only; `acked` is never above a command that still
awaits its reply; `_unanswered` has the number of every command for which a task waits.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import structlog
import trio

from dfs import errors, keys, limits, tasks, verbs
from dfs.client.cache import NEVER, Cache
from dfs.client.stream import Command, CommandStream
from dfs.client.trust import Trust
from dfs.counts import take_away
from dfs.keys import KeyFile
from dfs.rpc import Pool
from dfs.rpc.address import parse
from dfs.runtime import Runtime
from dfs.types import ALL_NAMES, NAMENODE_OBJECT, ROOT_INO, SHAPE, Ino, Item, SessionId

T = TypeVar("T")

_BATCHES_IN_FLIGHT = 4
_PARKED_AFTER_S = 0.5
"""A call that is not answered by then is taken for one that waits for other clients."""
_CALLS_MAX = 64
"""Calls of an outbox in all: a server takes CALLS_IN_FLIGHT_MAX of a connection."""
_SESSIONS_TRIED = 3
_CLAIM = "claim"
"""What is owed to a NameNode that has restarted: what we hold (`reclaim`)."""
_ABOUT_ONE_INODE = frozenset(verb for verb, how in verbs.VERBS.items() if how.changes and not how.names)
"""Commands that touch their first argument and nothing else."""
_TRY_AGAIN = (errors.Unreachable, errors.ConnectionLost, errors.DeadlineExceeded, errors.Busy)

log = structlog.get_logger(__name__)


class _Recall(NamedTuple):
    """A recall that is not answered yet, and the inodes of it that were owned here until it came."""

    items: Sequence[Item]
    owned: Sequence[Ino]


class _Outbox:
    """Commands that wait to be sent, and since when calls with others are under way.

    They are repeated for `patience_s()`. `may_park`: the NameNode may have some of them wait for other clients.
    """

    def __init__(self, patience_s: Callable[[], float], *, may_park: bool) -> None:
        self.patience_s = patience_s
        self._may_park = may_park
        self.queue: list[Command] = []
        self.calls: dict[object, float] = {}
        """In the order of their times."""
        self.is_watched = False

    @property
    def is_busy(self) -> bool:
        parked = trio.current_time() - _PARKED_AFTER_S
        young = itertools.takewhile(lambda since: since > parked, reversed(self.calls.values()))
        return len(self.calls) >= _CALLS_MAX or len(list(young)) >= _BATCHES_IN_FLIGHT

    def take(self) -> list[Command]:
        """What the next call has."""
        oldest = next(iter(self.calls.values()), math.inf)
        is_parked = self._may_park and oldest <= trio.current_time() - _PARKED_AFTER_S
        count = 1 if is_parked else limits.BATCH_MAX_COMMANDS
        batch, self.queue = self.queue[:count], self.queue[count:]
        self.calls[batch[0]] = trio.current_time()
        return batch


def _numbers(args: Sequence[Any]) -> list[int]:
    return [arg for arg in args if isinstance(arg, int)]


def _with(session: SessionId, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (session, *args)


class Session:
    """Use `open_session`. One per client process is enough: everything here may be called concurrently.

    Fields that change between awaits only: `session`, `_next_seq`, `_unanswered`, and those of outboxes.
    """

    def __init__(
        self,
        pool: Pool,
        runtime: Runtime,
        nursery: trio.Nursery,
        address: str,
        wait_s: float,
        cache: Cache | None,
        name: str = "client",
    ) -> None:
        self.cache = cache
        self.pool = pool
        self.runtime = runtime
        self.address = address
        self.wait_s = wait_s
        self.host = socket.gethostname()
        self.name = name
        self.cluster: dict[str, Any] = {}
        self.session: SessionId | None = None
        self.root = ROOT_INO
        """The directory where paths begin: that of the cluster, or the one that our key is limited to."""
        self.on_nodes_changed: Callable[[], None] | None = None
        """Called when DataNodes came, moved or fell silent."""
        self.on_new_session: Callable[[], None] | None = None
        """Called after a session was lost and a new one opened: chunks of the old one are no longer ours."""
        self.on_session: Callable[[SessionId | None], None] | None = None
        """Called with each session when it is open, and with None when the NameNode knows that the last one is over."""
        self.keep: Callable[[KeyFile], None] | None = None
        """Keeps the file of a renewed key, in a thread; raises `ConfigError` if it cannot."""
        self.key_generation = 0  # of the keys that the NameNode issues
        self.on_recall: Callable[[Sequence[Item]], Awaitable[None]] | None = None
        """Called for items that the cache has just forgotten, before the NameNode hears of it."""
        self.on_lost: Callable[[Sequence[Ino]], None] | None = None
        """Called when the session has ended, before there is another one, with inodes whose changes are lost."""
        self.on_forget_all: Callable[[], Awaitable[None]] | None = None
        """Called after the cache has forgotten everything."""
        self.stream = CommandStream(self, cache)
        self.wants_directories = True
        """Whether to own directories, and answer changes in them here."""
        self.owns_directories = False
        """Whether the NameNode lets this session do so."""
        self.replicas = 0
        """Copies of a new file's data, unless its directory says otherwise."""
        self._caches = False
        self._trust = Trust(runtime)
        self._incarnation = 0
        self.is_space_short = False
        """Whether the NameNode has said that DataNodes are nearly full."""
        self.dirty_inos: Callable[[], Iterable[Ino]] = tuple
        """Inodes of which there is something here that is not committed."""
        self.held_besides: list[Callable[[], tuple[Iterable[Ino], Iterable[Ino]]]] = []
        """Inodes, and directories for their names, that count on leases though the cache has forgotten them."""
        self._recalls: dict[tuple[SessionId, int, int], _Recall] = {}
        """By session, incarnation and number."""
        self.ends_by = math.inf
        """When `close` gives up what is not at the NameNode, however short it has waited: set when the end begins."""
        self._nursery = nursery
        self._opening = trio.Lock()
        self._next_seq = 1
        self._outbox = _Outbox(lambda: self.wait_s, may_park=True)
        self._yielding = _Outbox(lambda: self._long_patience_s, may_park=False)
        self._unhurried = _Outbox(lambda: math.inf, may_park=True)
        """Commands for which nobody waits: they are repeated until the NameNode says that the session has ended."""
        self._unanswered: dict[int, None] = {}  # in their order
        self._abandoned: dict[int, Command] = {}
        """By their numbers, those that may still happen though nobody waits for them: they are repeated."""
        self._recalled: Counter[Ino] = Counter()
        """Inodes in `_recalls`, and how often."""
        self._given_up: Counter[Ino] = Counter()
        """Likewise those that were owned."""
        self._commands = 0
        self._retries = 0

    def spawn(self, work: Callable[[], Any]) -> None:
        """Run a task of this client for as long as it lasts."""
        self._nursery.start_soon(work)

    # --- queries ----------------------------------------------------------------------------------------

    async def query(self, method: str, *args: Any) -> Any:
        """Ask the NameNode; repeated while it is away, for at most `wait_s`.

        Raises what the method raises, or `Unreachable` or `DeadlineExceeded`.
        """
        await self._flush_before()
        return await self.ask(method, *args)

    async def ask(self, method: str, *args: Any) -> Any:
        """As `query`, for whom it is the same whether what was answered here has happened at the NameNode yet."""
        return await self._persistently(method, lambda: args)

    async def _flush_before(self) -> None:
        """What was answered here is to have happened when something is asked, or else changed, after it."""
        if self.stream:
            with contextlib.suppress(errors.SessionExpired):  # it never will: what is asked for is how it is without
                await self.stream.flush()

    async def _call(self, method: str, *args: Any, timeout_s: float = limits.CALL_TIMEOUT_S) -> Any:
        return await self.pool.call(self.address, NAMENODE_OBJECT, method, *args, timeout_s=timeout_s)

    async def leased_query(
        self,
        method: str,
        *args: Any,
        about: Iterable[Ino] | None = None,
        told: Callable[[Any], Iterable[Ino]] | None = None,
    ) -> Any:
        """Ask for what comes with leases of our session, or of a new one if it has ended. Raises as `query`.

        What was answered here of other inodes than it is `about` need not have happened at the NameNode yet. `told`
        says of which others an answer tells: it is asked for again if any was among those.
        """
        unseen: frozenset[Ino] = frozenset()
        if about is None or self.stream.concerns(about):
            await self._flush_before()
        elif told is not None:
            unseen = frozenset(self.stream.pending())
        answer = await self._leased_query(method, args)
        if told is not None and unseen and not unseen.isdisjoint(told(answer)):
            await self._flush_before()
            answer = await self._leased_query(method, args)
        return answer

    async def _leased_query(self, method: str, args: tuple[Any, ...]) -> Any:
        for left in reversed(range(_SESSIONS_TRIED)):
            session = await self.ensure()
            try:
                return await self._persistently(method, partial(_with, session, args))
            except errors.SessionExpired:
                self.lose(session)
                if not left:
                    raise
        raise AssertionError("the last try returns or raises")

    @property
    def caches(self) -> bool:
        """Whether the session has been given leases; where none is open, whether the next will ask for them."""
        return self._caches if self.session is not None else self.cache is not None

    @property
    def is_trusted(self) -> bool:
        """Whether what the cache has may be shown: the session cannot have ended, nor any of its leases."""
        return self._trust.holds

    async def _watch_for_stops(self, session: SessionId) -> None:
        """Trust nothing, and have the kernel forget everything, when the machine was suspended or paused."""
        while True:
            await trio.sleep(limits.STOPS_WATCHED_S)
            if self.session != session:
                return
            stopped_s = self._trust.notice_stop()
            if stopped_s:
                log.info("the machine was stopped, or its clock set ahead: nothing is trusted", seconds=stopped_s)
                if self.on_forget_all is not None:
                    await self.on_forget_all()

    @property
    def timeout_s(self) -> float:
        """The silence after which the NameNode ends the session; 0 before the first one."""
        return self._trust.timeout_s

    def is_recalled(self, ino: Ino) -> bool:
        """Whether the NameNode waits until we have forgotten something of an inode: nobody has changed that yet."""
        return ino in self._recalled

    @property
    def kernel_timeout_s(self) -> float:
        """For how long a kernel may show what the cache has, without asking again; see `is_trusted`."""
        return self.kernel_timeout_max_s if self.is_trusted else 0.0

    @property
    def kernel_timeout_max_s(self) -> float:
        """For how long a kernel shows things when nobody tells it to forget them."""
        return self.timeout_s / 3

    def patience_s(self, verb: str) -> float:
        """For how long the stream waits for the outcome of a command: of a commit without one the bytes are lost."""
        return self._long_patience_s if verb == "commit" else self.wait_s

    @property
    def _long_patience_s(self) -> float:
        """For what is not to fail as long as the session may last."""
        return max(self.wait_s, self.timeout_s)

    async def insist(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do what this session owes: again and again while the NameNode does not answer, until the session has ended.

        Raises what `work` raises.
        """
        session = self.session
        while True:
            try:
                return await work()
            except _TRY_AGAIN:
                if self.session != session:
                    raise
            await trio.sleep(limits.RECLAIM_DELAY_S)

    async def _persistently(
        self, method: str, arguments: Callable[[], Iterable[Any]], patience_s: float | None = None
    ) -> Any:
        """Call until there is an answer, with what `arguments` says then, for so long at most, or `wait_s`."""
        give_up_at = min(trio.current_time() + (self.wait_s if patience_s is None else patience_s), self.ends_by)
        delay_s = limits.RETRY_DELAY_FIRST_S
        while True:
            left_s = max(limits.RETRY_DELAY_FIRST_S, give_up_at - trio.current_time())
            try:
                return await self._call(method, *arguments(), timeout_s=min(limits.CALL_TIMEOUT_S, left_s))
            except _TRY_AGAIN as error:
                if trio.current_time() + delay_s > give_up_at:
                    raise
                if delay_s == limits.RETRY_DELAY_FIRST_S:
                    log.info("namenode does not answer, trying again", address=self.address, error=str(error))
            self._retries += 1
            await trio.sleep(delay_s * self.runtime.random.uniform(0.7, 1.3))
            delay_s = min(2 * delay_s, limits.RETRY_DELAY_MAX_S)

    # --- commands ---------------------------------------------------------------------------------------

    async def ask_once(self, method: str, *args: Any) -> Any:
        """Call a method of the NameNode that changes something and takes (session, acked, seq) before `args`.

        It happens exactly once, as a command does. Raises what the method raises, and what `apply` raises.
        """
        session = await self.ensure()
        seq = self.take_seq()
        try:
            return await self._persistently(method, lambda: (session, self._acked(), seq, *args))
        except errors.SessionExpired:
            self.lose(session)
            raise
        finally:
            self._unanswered.pop(seq, None)

    def lose(self, session: SessionId | None) -> None:
        """This session has ended: what was known under its leases is void."""
        if session is None or self.session != session:
            return
        ended = errors.SessionExpired(f"session {session} has ended")
        lost = self.stream.lose(ended)
        if self.on_lost is not None:
            self.on_lost(lost)
        releases = self._unhurried.queue[:]
        self._unhurried.queue.clear()  # the next session holds what is open anew, and that is not for them to release
        self._fail(releases, ended)
        self.session = None
        self._caches = False
        self.owns_directories = False
        self._trust.end()
        self.forget_all()

    @contextmanager
    def held_by(self, session: SessionId | None) -> Iterator[None]:
        """About a file that this session holds. When it has ended the file may be gone, which is no missing name.

        Raises `SessionExpired` then in place of `NotFound`.
        """
        try:
            yield
        except errors.NotFound:
            if self.session != session:
                raise errors.SessionExpired("the session ended that held the file, which is gone") from None
            raise

    def forget_all(self) -> None:
        """Trust nothing of what is known."""
        if self.cache is not None:
            self.cache.forget_all()
            if self.on_forget_all is not None:
                self.spawn(self.on_forget_all)

    def take_seq(self) -> int:
        """The number of a command; `end` it when nobody waits for it any more."""
        seq = self._next_seq
        self._next_seq += 1
        self._unanswered[seq] = None
        return seq

    async def apply(self, verb: str, *args: Any) -> Any:
        """Apply one command exactly once and return its result; durable at the NameNode on return.

        Raises what the command raises, `SessionExpired` if the session ended with the command's outcome
        unknown, or `Unreachable` or `DeadlineExceeded` after `wait_s` (outcome unknown too). A `release` is tried
        as long as the session lasts, also when nobody waits for it any more.
        """
        await self.ensure()
        begun = self.begin(verb, *args)
        if begun is not None:
            return await self.stream.result(begun)
        command = Command(self.take_seq(), verb, args)
        command.begin(self.cache)  # from now on, nothing that it may touch is changed by what is answered here
        try:
            await self._submit(command)
        except BaseException:
            self._abandon(command)
            raise
        finally:
            if self.cache is not None:
                self.cache.answered(command.token)
                command.token = NEVER  # should the reply come after all, nothing is learnt from it
        if command.error is not None:
            raise command.error
        return command.reply

    def begin(self, verb: str, *args: Any) -> Command | None:
        """As `apply`, without waiting: `stream.result` does. None if it does not go with the stream."""
        if self._goes_in_order(verb, args) or self.stream.holds_back_for(verb, args):
            return self.stream.begin(verb, args)
        return None

    def _abandon(self, command: Command) -> None:
        """Nobody waits for its outcome any more. If it may have been sent, what changes the same comes after it."""
        if command.done is None or command.done.is_set() or command.verb == "release":
            return
        for outbox in (self._outbox, self._yielding):
            if command in outbox.queue:
                outbox.queue.remove(command)
                self.end(command)
                return
        self._abandoned[command.seq] = command

    def _abandoned_about(self, args: Sequence[Any]) -> list[Command]:
        """Those that may still happen, and have an inode in common with a command's arguments, or seem to."""
        numbers = set(_numbers(args))
        return [each for each in self._abandoned.values() if not numbers.isdisjoint(_numbers(each.args))]

    async def _submit(self, command: Command) -> None:
        """Return when a command's outcome is known."""
        try:
            if self._abandoned and not self._is_awaited(command):
                for abandoned in self._abandoned_about(command.args):
                    assert abandoned.done is not None, "somebody waited for it"
                    await abandoned.done.wait()  # bounded: as below
            if command.verb != "seal" or not self.stream.holds_back:  # a commit waits for it perhaps
                await self._flush_before()
        except BaseException:
            self.end(command)
            raise
        outbox = self._outbox_for(command)
        outbox.queue.append(command)
        self._pump(outbox)
        assert command.done is not None, "it has begun"
        await command.done.wait()  # bounded: the batch that carries it ends with the outbox's patience

    def _goes_in_order(self, verb: str, args: Sequence[Any]) -> bool:
        """Whether a command is about an inode that this session owns, and nothing else."""
        if self.cache is None or verb not in _ABOUT_ONE_INODE or not self.is_trusted:
            return False
        if self._abandoned and self._abandoned_about(args):
            return False
        return self._owns(args[0])

    def _owns(self, ino: Ino) -> bool:
        known = self.cache.kept(ino) if self.cache is not None else None
        return known is not None and known.is_owned

    def _outbox_for(self, command: Command) -> _Outbox:
        if self._is_awaited(command):
            return self._yielding
        return self._unhurried if command.verb == "release" else self._outbox

    def _is_awaited(self, command: Command) -> bool:
        """Whether the answer to a recall may need it. It is about what was ours, so it waits for nobody itself."""
        if command.verb == "hold":
            return self.is_recalled(command.args[0])
        return command.verb == "seal" or (command.verb in _ABOUT_ONE_INODE and command.args[0] in self._given_up)

    def _pump(self, outbox: _Outbox) -> None:
        if not outbox.queue:
            return
        if outbox.is_busy:
            if not outbox.is_watched:
                outbox.is_watched = True
                self._nursery.start_soon(self._watch, outbox)
            return
        self._nursery.start_soon(self._send, outbox.take(), outbox)

    async def _watch(self, outbox: _Outbox) -> None:
        """Send what waits when calls that are under way turn out to be parked."""
        while outbox.queue:
            await trio.sleep(_PARKED_AFTER_S / 4)
            while outbox.queue and not outbox.is_busy:
                self._pump(outbox)
        outbox.is_watched = False

    async def _send(self, batch: list[Command], outbox: _Outbox) -> None:
        session = None
        try:
            session = await self.ensure()
            await self._send_until_answered(batch, session, outbox.patience_s())
        except errors.SessionExpired as error:
            self._fail(batch, error)
            self.lose(session)
        except errors.DfsError as error:
            self._fail(batch, error)
        except BaseException:  # the client ends: who waits for it all the same would do so for ever
            self._fail(batch, errors.Unreachable("the client ended before the NameNode had answered"))
            raise
        finally:
            del outbox.calls[batch[0]]
            self._pump(outbox)

    async def _send_until_answered(self, batch: list[Command], session: SessionId, patience_s: float) -> None:
        replies = await self.send(session, [command.wire() for command in batch], patience_s)
        for command, (errno, *rest) in zip(batch, replies, strict=True):
            if errno:
                command.error = errors.from_wire(*rest)
                if isinstance(command.error, errors.SessionExpired):
                    self.lose(session)
            else:
                self.learn(session, command, *rest)
            self.end(command)

    def learn(self, session: SessionId, command: Command, result: Any, touched: Sequence[Any]) -> None:
        """A command of this session has happened, with this result, and touched these items."""
        command.reply = result
        if self.cache is not None and self.session == session and self._caches:
            self.cache.learn_reply(command.token, command.verb, command.args, result, touched)

    async def send(self, session: SessionId, wire: Sequence[Any], patience_s: float) -> Sequence[Any]:
        """Have a batch of commands applied; their replies. Raises as `query` after so long, `SessionExpired`."""
        self._commands += len(wire)
        replies: Sequence[Any] = await self._persistently("apply", lambda: (session, self._acked(), wire), patience_s)
        return replies

    def end(self, command: Command) -> None:
        """Its outcome is known, or will not be."""
        self._unanswered.pop(command.seq, None)
        self._abandoned.pop(command.seq, None)
        if command.done is not None:
            if self.cache is not None:
                self.cache.end_change(command.items)
            command.done.set()

    def _acked(self) -> int:
        """All replies below this have arrived, or nobody waits for them any more."""
        return next(iter(self._unanswered), self._next_seq)

    def _fail(self, batch: list[Command], error: errors.DfsError) -> None:
        for command in batch:
            if command.seq in self._unanswered:
                command.error = errors.from_wire(error.code, error.message)
                if self.cache is not None:
                    self.cache.recall(command.items)  # it may have happened
                self.end(command)

    # --- the session itself -----------------------------------------------------------------------------

    async def start(self) -> None:
        """First contact. Raises `Unreachable` when nothing answers within FIRST_CONTACT_TIMEOUT_S, `Refused` with a key
        of another cluster, `InvalidArgument` for what is no address.
        """
        parse(self.address)
        timeout_s = min(limits.FIRST_CONTACT_TIMEOUT_S, self.wait_s)
        wait_s, self.wait_s = self.wait_s, timeout_s
        try:
            with trio.fail_after(timeout_s):
                self.cluster = await self.query("cluster")
            self.root = Ino(self.cluster["root"])
            self.pool.handshake["cluster"] = self.cluster["cluster"]  # of no other may anybody answer us
            self.key_generation = self.cluster.get("key_generation", 0)
            with trio.move_on_after(timeout_s):
                await self._renew_key()
        except errors.Refused as error:
            key = self.pool.key
            which = "" if key is None or key.file is None else f"; the key is that in {key.file}"
            raise errors.Refused(f"{error.message}{which}") from None
        except (trio.TooSlowError, errors.RpcError) as error:  # what answers may be something else altogether
            reason = "it does not answer" if isinstance(error, trio.TooSlowError) else str(error)
            raise errors.Unreachable(f"no NameNode at {self.address}: {reason}") from None
        finally:
            self.wait_s = wait_s

    async def _renew_key(self) -> None:
        """Have a key of the generation in use, if ours is older. What fails is logged: the older one counts still."""
        key = self.pool.key
        if key is None or key.id.generation >= self.key_generation:
            return
        from dfs import sealing  # with its cryptography: needed once in the life of a key

        receiver = sealing.Receiver()
        try:
            sealed = await self._call("renew", receiver.public)
            found = keys.parse(receiver.open(sealed, key.secrets[keys.NAMENODE], "renew"))
            if found.key is None or found.key.id._replace(generation=key.id.generation) != key.id:
                raise errors.ProtocolViolation("the NameNode renewed another key than ours: ours is kept")
            self.pool.change_key(found.key._replace(tls=key.tls, file=key.file))
            log.info("the key was renewed", generation=found.key.id.generation)
            if self.keep is not None:
                await self.runtime.run_blocking(self.keep, found)
        except errors.DfsError as error:
            log.warning("the key could not be renewed", key=str(key.id), error=error.message)

    async def ensure(self) -> SessionId:
        """The current session, opened now if there is none."""
        if self.session is None:
            began = trio.current_time()
            while self.session is None:
                await self._open(began)
        return self.session

    async def _open(self, began: float) -> None:
        """`began`: since when the caller waits, also for others who try in vain."""
        async with self._opening:
            if self.session is not None:
                return
            again = self.timeout_s > 0
            offsets, asked_at = self._trust.look_at_clocks(), trio.current_time()
            caches = self.cache is not None
            directories = caches and self.wants_directories
            wish = {
                "name": self.name,
                "host": self.host,
                "caches": caches,
                "directories": directories,
                "forgets_all": True,  # when `SHAPE` is recalled
                "drops_recalled": True,  # learns nothing of it from replies before it has answered
            }
            left_s = began + self.wait_s - trio.current_time()
            opened = await self._persistently("open_session", lambda: (wish,), left_s)
            self.root = Ino(opened["root"])
            self.session = SessionId(opened["session"])
            self._caches = bool(opened["caches"])
            if self.cache is not None:
                self.cache.is_limited = bool(opened.get("limited"))
            self.owns_directories = bool(opened.get("directories"))  # a NameNode one version older does not say
            self.replicas = int(opened.get("replicas", 0))
            self._trust.begin(float(opened["timeout_s"]), asked_at, offsets, is_leased=self._caches)
            if self.on_session is not None:
                self.on_session(self.session)
            self._incarnation = int(opened["incarnation"])
            self.is_space_short = bool(opened.get("space_is_short"))
            if self.cache is not None:
                self.cache.end_recalls()
            self._recalls.clear()
            self._recalled.clear()
            self._given_up.clear()
            self._nursery.start_soon(self._listen, self.session)
            if self._caches:
                self._nursery.start_soon(self._watch_for_stops, self.session)
            if again:
                log.warning("the session had ended, a new one is open", session=self.session)
                if self.on_new_session:
                    self.on_new_session()

    @property
    def _events_timeout_s(self) -> float:
        """The NameNode answers in half of it. What leads there may be cut without a word, as where a firewall forgets
        connections: that is found out, and another one made, long before the session ends.
        """
        return min(limits.EVENTS_WAIT_S + limits.CALL_TIMEOUT_S, self.timeout_s / 3)

    async def _listen(self, session: SessionId) -> None:
        """Keep one events call open, which shows the NameNode that this client lives."""
        after = 0
        while self.session == session:
            sent_at = trio.current_time()
            try:
                args = (session, after, self._incarnation)
                incarnation, events = await self._call("events", *args, timeout_s=self._events_timeout_s)
                if self.session != session:
                    return
                if incarnation != self._incarnation:
                    after = 0
                    self._begin_again(session, incarnation, sent_at)
                for number, kind, payload in events:
                    after = max(after, number)
                    self._on_event(session, number, kind, payload)
                if not events or events[-1][1] != verbs.MORE:
                    self._trust.hear(sent_at)
                await self._renew_key()
            except errors.SessionExpired:
                self.lose(session)
            except errors.DfsError:
                await trio.sleep(limits.RECLAIM_DELAY_S if self._caches else limits.RETRY_DELAY_MAX_S)

    def _on_event(self, session: SessionId, number: int, kind: str, payload: Any) -> None:
        if kind == "nodes" and self.on_nodes_changed:
            self.on_nodes_changed()
        elif kind == "keys":
            self.key_generation = payload
        elif kind == "space":
            self.is_space_short = bool(payload)
        elif kind == "recall" and self.cache is not None:
            items: list[Item] = [(ino, name) for ino, name in payload]
            if SHAPE in items:
                items = self._all_held()
                self.cache.void_questions()
            owned = [ino for ino, name in items if name is None and self._owns(ino)]
            self._recalls[session, self._incarnation, number] = _Recall(items, owned)
            self._recalled.update(ino for ino, _ in items)
            self._given_up.update(owned)
            self._yield_queued()
            self._trust.owe((session, self._incarnation, number))
            self.cache.begin_recall(items)
            self.stream.hurry()
            unused = self.cache.give_up_unused(items)
            self._nursery.start_soon(self._forget, session, number, items, unused)

    def _yield_queued(self) -> None:
        """What waits to be sent may be what others wait for by now."""
        queued, self._outbox.queue = self._outbox.queue, []
        for command in queued:
            (self._yielding if self._is_awaited(command) else self._outbox).queue.append(command)
        self._pump(self._yielding)

    # --- leases -----------------------------------------------------------------------------------------

    async def _forget(self, session: SessionId, number: int, items: Sequence[Item], unused: Sequence[Ino]) -> None:
        """Have everybody here forget what is recalled, then tell the NameNode: others wait until it knows."""
        cache = self.cache
        assert cache is not None, "nothing is recalled from who caches nothing"
        incarnation = self._incarnation
        whole: list[Item] = [(ino, ALL_NAMES) for ino in unused]
        try:
            if self.on_recall is not None:
                await self.on_recall([*items, *whole])
            with contextlib.suppress(errors.SessionExpired):  # what was refused, or is lost, nobody is to find
                await self.insist(self.stream.flush)  # who asks is to find what was answered here
            if self.session == session and self._incarnation == incarnation:
                args = (session, incarnation, number, list(unused))
                await self.insist(partial(self._persistently, "forgot", lambda: args))
        except errors.SessionExpired:
            self.lose(session)
        except errors.DfsError as error:
            log.warning("a recall could not be answered", session=session, error=str(error))
        finally:
            cache.gave_up(unused)
            recall = self._recalls.pop((session, incarnation, number), None)
            if recall is not None:
                cache.end_recall(items)
                take_away(self._recalled, (ino for ino, _ in items))
                take_away(self._given_up, recall.owned)
            self._trust.answered((session, incarnation, number))

    def _begin_again(self, session: SessionId, incarnation: int, asked_at: float) -> None:
        """The NameNode has restarted, and waits since then for us to say what we hold."""
        self._incarnation = incarnation
        self.is_space_short = False  # it says so again if it is
        if self.cache is not None and self._caches:
            self.cache.void_questions()
            self._trust.owe(_CLAIM, asked_at)
            self._nursery.start_soon(self._reclaim, session, incarnation)

    async def _reclaim(self, session: SessionId, incarnation: int) -> None:
        cache = self.cache
        assert cache is not None, "who caches nothing holds nothing"
        if len(self._unanswered) > self.stream.unsettled:  # what others see may be the result of one of these already
            cache.forget_all()
            if self.on_forget_all is not None:
                await self.on_forget_all()
        attrs, directories, owned = self._held(cache)
        lists = (attrs, directories, owned)
        longest = max(map(len, lists))
        size = limits.RECLAIM_MAX_INODES
        try:
            for start in range(0, max(longest, 1), size):
                parts = (part[start : start + size] for part in lists)
                args = (incarnation, *parts, start + size >= longest)
                await self.insist(partial(self._persistently, "reclaim", partial(_with, session, args)))
            if self.session == session and self._incarnation == incarnation:
                self._trust.answered(_CLAIM)
        except errors.SessionExpired:
            self.lose(session)
        except errors.DfsError as error:
            log.warning("leases could not be claimed again", session=session, error=str(error))
            if self.session == session and self._incarnation == incarnation:
                await self._give_up(session)  # all others wait until we have said it, or are gone

    def _held(self, cache: Cache) -> tuple[list[Ino], list[Ino], list[Ino]]:
        """Inodes of which something is known here, directories of which names are, and what is owned.

        With what was recalled: not everybody here has forgotten it yet.
        """
        attrs, directories = cache.held()
        owned = dict.fromkeys([*cache.owned(), *self.dirty_inos(), *self.stream.owned()])
        for items, _ in self._recalls.values():
            attrs += [ino for ino, name in items if name is None]
            directories += [ino for ino, name in items if name is not None]
        for more_attrs, more_directories in (besides() for besides in self.held_besides):
            attrs += more_attrs
            directories += more_directories
        return attrs, directories, list(owned)

    def _all_held(self) -> list[Item]:
        """All that is to be forgotten when everything is recalled."""
        assert self.cache is not None, "nothing is recalled from who caches nothing"
        attrs, directories, owned = self._held(self.cache)
        items = dict.fromkeys([(ino, None) for ino in (*attrs, *owned)])
        names: dict[Item, None] = dict.fromkeys((ino, ALL_NAMES) for ino in directories)
        return [*items, *names]

    async def _give_up(self, session: SessionId) -> None:
        """End a session whose leases others may think that we do not have. Never raises."""
        self._trust.end()  # nothing is shown any more, or told to the kernel
        if self.on_forget_all is not None:
            await self.on_forget_all()
        self.lose(session)
        await self._end(session)

    async def close(self) -> None:
        """End the session, so that the NameNode need not wait for its time-out. Never raises."""
        try:
            with trio.fail_at(self.ends_by):
                await self.stream.flush()
        except (errors.DfsError, trio.TooSlowError) as error:
            log.error("changes of names may be lost", **self.stream.statistics(), error=str(error) or "no time is left")
        session, self.session = self.session, None
        self._caches = self.owns_directories = False
        self._trust.end()
        if self.cache is not None:
            self.cache.forget_all()
        has_ended = session is None or await self._end(session)
        if has_ended and self.on_session is not None:
            self.on_session(None)

    async def _end(self, session: SessionId) -> bool:
        """Tell the NameNode that this session is not used any more; whether it knows. Never raises."""
        try:
            await self._call("close_session", session, timeout_s=limits.FIRST_CONTACT_TIMEOUT_S)
        except errors.DfsError as error:
            log.info("the session could not be ended", session=session, error=str(error))
            return False
        return True

    def statistics(self) -> dict[str, int]:
        return {"commands": self._commands, "retries": self._retries, "waiting": len(self._unanswered)}


def this_process(what: str = "") -> str:
    """What a client is called, for people: `what` it is, or else its program, and its process."""
    program = Path(sys.argv[0])
    run = program.parent.name if program.name == "__main__.py" else program.name
    shown = os.fsencode(what or run or "python").decode("utf-8", "backslashreplace")
    return f"{shown[: limits.CLIENT_NAME_MAX]} (pid {os.getpid()})"


@asynccontextmanager
async def open_session(
    address: str,
    pool: Pool,
    runtime: Runtime,
    wait_s: float = limits.NAMENODE_WAIT_S,
    keep: Callable[[KeyFile], None] | None = None,
    cache: Cache | None = None,
    name: str = "",
) -> AsyncIterator[Session]:
    """Make contact with the NameNode at `address`; on leaving, end the session and its tasks.

    `keep` is given the file of a newer key, when the NameNode issues them. With a `cache` it asks for leases.
    `name` says to people who this is.
    """
    async with tasks.open_nursery() as nursery:
        session = Session(pool, runtime, nursery, address, wait_s, cache, name or this_process())
        session.keep = keep
        await session.start()
        try:
            yield session
        finally:
            with trio.CancelScope(shield=True):  # bounded by the close call's own deadline
                await session.close()
            nursery.cancel_scope.cancel()
