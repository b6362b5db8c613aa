"""A client's conversation with the NameNode: queries, and commands that happen exactly once.

A command is sent as (session, sequence number, verb, arguments), and sent again, the same, until an answer
arrives: the NameNode stores its reply with the change, so a repeat finds the reply and changes nothing.
Commands that are issued while others are on their way travel together: at most `_BATCHES_IN_FLIGHT` apply calls
are open, and what queues behind them leaves as one batch.

While the NameNode is away, queries and commands wait and are tried again with growing delays, for at most
`wait_s`; then `Unreachable` or `DeadlineExceeded` is raised. The events call that this client keeps open
shows the NameNode that it lives; should it have been silent for too long all the same, its session has
ended: commands under way raise `SessionExpired`, and the next one opens a new session.

Invariants: a sequence number is used for one command only; `acked` is never above a command that still
awaits its reply; `_unanswered` has the number of every command for which a task waits.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import structlog
import trio

from dfs import errors, keys, limits, tasks
from dfs.keys import KeyFile
from dfs.rpc import Pool
from dfs.runtime import Runtime
from dfs.types import ROOT_INO, Ino, SessionId

NAMENODE_OBJECT = "dfs.namenode"

_BATCHES_IN_FLIGHT = 4
_TRY_AGAIN = (errors.Unreachable, errors.ConnectionLost, errors.DeadlineExceeded, errors.Busy)

log = structlog.get_logger(__name__)


class _Command:
    """One command on its way. `done` is set when `reply` or `error` is there."""

    __slots__ = ("args", "done", "error", "reply", "seq", "verb")

    def __init__(self, seq: int, verb: str, args: tuple[Any, ...]) -> None:
        self.seq = seq
        self.verb = verb
        self.args = args
        self.reply: Any = None
        self.error: Exception | None = None
        self.done = trio.Event()


class Session:
    """Use `open_session`. One per client process is enough: everything here may be called concurrently.

    Fields that change between awaits only: `session`, `_next_seq`, `_queue`, `_unanswered`, `_batches`.
    """

    def __init__(self, pool: Pool, runtime: Runtime, nursery: trio.Nursery, address: str, wait_s: float) -> None:
        self.pool = pool
        self.runtime = runtime
        self.address = address
        self.wait_s = wait_s
        self.host = socket.gethostname()
        self.cluster: dict[str, Any] = {}
        self.session: SessionId | None = None
        self.root = ROOT_INO
        """The directory where paths begin: that of the cluster, or the one that our key is limited to."""
        self.on_nodes_changed: Callable[[], None] | None = None
        """Called when DataNodes came, moved or fell silent."""
        self.on_new_session: Callable[[], None] | None = None
        """Called after a session was lost and a new one opened: chunks of the old one are no longer ours."""
        self.keep: Callable[[KeyFile], None] | None = None
        """Keeps the file of a renewed key, in a thread; raises `ConfigError` if it cannot."""
        self.generation = 0  # of the keys that the NameNode issues
        self._nursery = nursery
        self._opening = trio.Lock()
        self._next_seq = 1
        self._queue: list[_Command] = []
        self._unanswered: set[int] = set()
        self._batches = 0
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
        return await self._persistently(method, lambda: args)

    async def _call(self, method: str, *args: Any, timeout_s: float = limits.CALL_TIMEOUT_S) -> Any:
        return await self.pool.call(self.address, NAMENODE_OBJECT, method, *args, timeout_s=timeout_s)

    async def _persistently(self, method: str, arguments: Callable[[], Iterable[Any]]) -> Any:
        """Call until there is an answer, with what `arguments` says at that moment, for at most `wait_s`."""
        give_up_at = trio.current_time() + self.wait_s
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
        seq = self._take_seq()
        try:
            return await self._persistently(method, lambda: (session, self._acked(), seq, *args))
        except errors.SessionExpired:
            if self.session == session:
                self.session = None
            raise
        finally:
            self._unanswered.discard(seq)

    def _take_seq(self) -> int:
        seq = self._next_seq
        self._next_seq += 1
        self._unanswered.add(seq)
        return seq

    async def apply(self, verb: str, *args: Any) -> Any:
        """Apply one command exactly once and return its result; durable at the NameNode on return.

        Raises what the command raises, `SessionExpired` if the session ended with the command's outcome
        unknown, or `Unreachable` or `DeadlineExceeded` after `wait_s` (outcome unknown too).
        """
        if self.session is None:
            await self._open()
        command = _Command(self._take_seq(), verb, args)
        self._queue.append(command)
        self._pump()
        try:
            await command.done.wait()  # bounded: the batch that carries it ends within wait_s
        finally:
            self._unanswered.discard(command.seq)
        if command.error is not None:
            raise command.error
        return command.reply

    def _pump(self) -> None:
        if not self._queue or self._batches >= _BATCHES_IN_FLIGHT:
            return
        batch, self._queue = self._queue[: limits.BATCH_MAX_COMMANDS], self._queue[limits.BATCH_MAX_COMMANDS :]
        self._batches += 1
        self._nursery.start_soon(self._send, batch)

    async def _send(self, batch: list[_Command]) -> None:
        session = None
        try:
            session = await self.ensure()
            await self._send_until_answered(batch, session)
        except errors.SessionExpired as error:
            self._fail(batch, error)
            if self.session == session:
                self.session = None
        except errors.DfsError as error:
            self._fail(batch, error)
        finally:
            self._batches -= 1
            self._pump()

    async def _send_until_answered(self, batch: list[_Command], session: SessionId) -> None:
        wire = [[command.seq, command.verb, command.args] for command in batch]
        self._commands += len(batch)
        replies = await self._persistently("apply", lambda: (session, self._acked(), wire))
        for command, (errno, *rest) in zip(batch, replies, strict=True):
            if errno:
                command.error = errors.from_wire(*rest)
                if isinstance(command.error, errors.SessionExpired) and self.session == session:
                    self.session = None
            else:
                command.reply = rest[0]
            command.done.set()

    def _acked(self) -> int:
        """All replies below this have arrived, or nobody waits for them any more."""
        return min(self._unanswered, default=self._next_seq)

    @staticmethod
    def _fail(batch: list[_Command], error: errors.DfsError) -> None:
        for command in batch:
            if not command.done.is_set():
                command.error = errors.from_wire(error.code, error.message)
                command.done.set()

    # --- the session itself -----------------------------------------------------------------------------

    async def start(self) -> None:
        """First contact. Raises `Unreachable` when nothing answers within FIRST_CONTACT_TIMEOUT_S."""
        timeout_s = min(limits.FIRST_CONTACT_TIMEOUT_S, self.wait_s)
        wait_s, self.wait_s = self.wait_s, timeout_s
        try:
            with trio.fail_after(timeout_s):
                self.cluster = await self.query("cluster")
            self.root = Ino(self.cluster["root"])
            self.pool.handshake["cluster"] = self.cluster["cluster"]  # of no other may anybody answer us
            self.generation = self.cluster.get("key_generation", 0)
            with trio.move_on_after(timeout_s):
                await self._renew_key()
        except (trio.TooSlowError, errors.RpcError) as error:  # what answers may be something else altogether
            reason = "it does not answer" if isinstance(error, trio.TooSlowError) else str(error)
            raise errors.Unreachable(f"no NameNode at {self.address}: {reason}") from None
        finally:
            self.wait_s = wait_s

    async def _renew_key(self) -> None:
        """Have a key of the generation in use, if ours is older. What fails is logged: the older one counts still."""
        key = self.pool.key
        if key is None or key.id.generation >= self.generation:
            return
        from dfs import sealing  # with its cryptography: needed once in the life of a key

        receiver = sealing.Receiver()
        try:
            sealed = await self._call("renew", receiver.public)
            found = keys.parse(receiver.open(sealed, key.secrets[keys.NAMENODE], "renew"))
            if found.key is None or found.key.id._replace(generation=key.id.generation) != key.id:
                raise errors.ProtocolViolation("the NameNode renewed another key than ours: ours is kept")
            self.pool.change_key(found.key._replace(tls=key.tls))
            log.info("the key was renewed", generation=found.key.id.generation)
            if self.keep is not None:
                await self.runtime.run_blocking(self.keep, found)
        except errors.DfsError as error:
            log.warning("the key could not be renewed", key=str(key.id), error=error.message)

    async def ensure(self) -> SessionId:
        """The current session, opened now if there is none."""
        while self.session is None:
            await self._open()
        return self.session

    async def _open(self) -> None:
        async with self._opening:
            if self.session is not None:
                return
            again = self._next_seq > 1
            opened = await self.query("open_session", {"name": "client", "host": self.host})
            self.root = Ino(opened["root"])
            self.session = SessionId(opened["session"])
            self._nursery.start_soon(self._listen, self.session)
            if again:
                log.warning("the session had ended, a new one is open", session=self.session)
                if self.on_new_session:
                    self.on_new_session()

    async def _listen(self, session: SessionId) -> None:
        """Keep one events call open, which shows the NameNode that this client lives."""
        after = 0
        while self.session == session:
            try:
                timeout_s = limits.EVENTS_WAIT_S + limits.CALL_TIMEOUT_S
                for number, kind, payload in await self._call("events", session, after, timeout_s=timeout_s):
                    after = max(after, number)
                    if kind == "nodes" and self.on_nodes_changed:
                        self.on_nodes_changed()
                    if kind == "keys":
                        self.generation = payload
                await self._renew_key()
            except errors.SessionExpired:
                if self.session == session:
                    self.session = None
            except errors.DfsError:
                await trio.sleep(limits.RETRY_DELAY_MAX_S)

    async def close(self) -> None:
        """End the session, so that the NameNode need not wait for its time-out. Never raises."""
        session, self.session = self.session, None
        if session is not None:
            try:
                await self._call("close_session", session, timeout_s=limits.FIRST_CONTACT_TIMEOUT_S)
            except errors.DfsError as error:
                log.info("session left to its time-out", session=session, error=str(error))

    def statistics(self) -> dict[str, int]:
        return {"commands": self._commands, "retries": self._retries, "waiting": len(self._unanswered)}


@asynccontextmanager
async def open_session(
    address: str,
    pool: Pool,
    runtime: Runtime,
    wait_s: float = limits.NAMENODE_WAIT_S,
    keep: Callable[[KeyFile], None] | None = None,
) -> AsyncIterator[Session]:
    """Make contact with the NameNode at `address`; on leaving, end the session and its tasks.

    `keep` is given the file of a newer key, when the NameNode issues them.
    """
    async with tasks.open_nursery() as nursery:
        session = Session(pool, runtime, nursery, address, wait_s)
        session.keep = keep
        await session.start()
        try:
            yield session
        finally:
            with trio.CancelScope(shield=True):  # bounded by the close call's own deadline
                await session.close()
            nursery.cancel_scope.cancel()
