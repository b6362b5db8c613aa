"""Group commit: the one task that changes the database.

It takes a turn of each session that has commands waiting (`nodes/namenode/turns.py`), applies all in one transaction,
commits it with one fsync on a worker thread, and then answers. While the disk works, the next commands gather. Nothing
is answered before it is durable.

If the commit fails (disk full, disk broken) nothing of the transaction happened, and every caller gets the error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import structlog
import trio

from dfs import errors, limits
from dfs.runtime import Runtime
from dfs.types import NAMENODE_SESSION, SessionId
from nodes.namenode import commands
from nodes.namenode.machine import Command, Machine, Reply
from nodes.namenode.store import Store
from nodes.namenode.turns import Turns

log = structlog.get_logger(__name__)

_SPACE_CHECKED_EVERY_S: Final = 1.0


class _Batch:
    """Commands that one caller waits for. `done` is set when `replies` or `error` is there."""

    __slots__ = ("commands", "done", "error", "replies")

    def __init__(self, batch: Sequence[Command]) -> None:
        self.commands = batch
        self.replies: list[Reply] = []
        self.error: errors.DfsError | None = None
        self.done = trio.Event()


class Writer:
    """`apply` and `decide` may be called concurrently; `run` is the task that serves them."""

    def __init__(self, store: Store, runtime: Runtime, reserve_bytes: int) -> None:
        self._store = store
        self._runtime = runtime
        self._reserve_bytes = reserve_bytes
        self._machine = Machine(store.writing)
        self._turns: Turns[_Batch] = Turns()
        self._arrived = trio.Event()
        self._space_checked_at = -1e9
        self._is_full = False
        self._commits = 0
        self._applied = 0

    async def apply(self, session: SessionId, acked: int, wire: Sequence[Any]) -> list[Reply]:
        """Apply a client's commands [seq, verb, args]; their replies. Raises `Busy`, `NoSpace`, `DiskFailed`."""
        now_ns = self._runtime.now_ns()
        batch = [Command(session, seq, acked, verb, args, now_ns) for seq, verb, args in wire]
        return await self._submit(session, batch)

    async def apply_planned(self, session: SessionId, acked: int, seq: int, verb: str, *args: Any) -> Any:
        """Apply a client's command of which the NameNode filled in `args`; its result. Raises what it raises."""
        return await self._apply_one(Command(session, seq, acked, verb, args, self._runtime.now_ns()))

    async def decide(self, verb: str, *args: Any) -> Any:
        """Apply a command of the NameNode's own; its result. Raises what it raises."""
        return await self._apply_one(Command(NAMENODE_SESSION, 0, 0, verb, args, self._runtime.now_ns()))

    async def _apply_one(self, command: Command) -> Any:
        errno, *rest = (await self._submit(command.session, [command]))[0]
        if errno:
            raise errors.from_wire(*rest)
        return rest[0]

    async def _submit(self, session: SessionId, batch: Sequence[Command]) -> list[Reply]:
        waiting = _Batch(batch)
        all_max = limits.COMMAND_QUEUE_MAX
        each_max = all_max if session == NAMENODE_SESSION else min(limits.SESSION_QUEUE_MAX, all_max)
        self._turns.put(session, waiting, len(batch), each_max=each_max, all_max=all_max)
        self._arrived.set()
        await waiting.done.wait()  # bounded: the writer answers every batch, or ends and takes the NameNode with it
        if waiting.error is not None:
            raise waiting.error
        return waiting.replies

    async def run(self) -> None:
        """Serve until cancelled; the transaction under way is finished first."""
        while True:
            await self._arrived.wait()
            self._arrived = trio.Event()
            while self._turns:
                await self._transact(self._take())

    def _take(self) -> list[_Batch]:
        return self._turns.take(each_max=limits.BATCH_MAX_COMMANDS, all_max=limits.TRANSACTION_MAX_COMMANDS)

    async def _transact(self, batches: list[_Batch]) -> None:
        try:
            with trio.CancelScope(shield=True):  # bounded by the disk: half a commit cannot be abandoned
                with self._store.translating():
                    self._apply_all(batches)
                await self._runtime.run_blocking(self._store.commit)
            self._commits += 1
        except errors.DfsError as error:
            log.error("a transaction failed, nothing of it happened", error=str(error))
            self._store.rollback()
            self._machine.forget()
            for batch in batches:
                batch.error = type(error)(error.message)
        for batch in batches:
            batch.done.set()

    def _apply_all(self, batches: list[_Batch]) -> None:
        is_full = self._disk_is_full()
        self._store.begin()
        for batch in batches:
            for command in batch.commands:
                if is_full and command.session and command.verb not in commands.FREEING:
                    batch.replies.append(_FULL)
                else:
                    batch.replies.append(self._machine.apply(command))
            self._applied += len(batch.commands)
        self._machine.end()

    def _disk_is_full(self) -> bool:
        now = trio.current_time()
        if now - self._space_checked_at > _SPACE_CHECKED_EVERY_S:
            self._space_checked_at = now
            was, self._is_full = self._is_full, self._store.free_bytes() < self._reserve_bytes
            if self._is_full and not was:
                log.error("disk nearly full: only what frees space is accepted", directory=str(self._store.directory))
        return self._is_full

    def statistics(self) -> dict[str, int]:
        return {"commands": self._applied, "commits": self._commits, "queued": self._turns.commands}


_FULL_ERROR: Final = errors.NoSpace("the disk of the NameNode is nearly full: delete files, or give it more room")
_FULL: Final[Reply] = (_FULL_ERROR.errno, _FULL_ERROR.code, _FULL_ERROR.message)
