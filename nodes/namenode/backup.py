"""Copies of the namespace for who keeps them elsewhere: `dfs backup`.

A copy is of one moment. It is made on a worker thread, by a connection of its own, while commands go on, and is a file
of the database's disk that has no name any more; whoever asked for it reads it piece by piece. There is one at a time.
It goes when its reader says so, has not read for `IDLE_S`, or the process ends.

Who asks gives the copy a name by chance: asked for again, since an answer was lost or it takes long, it is the same.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import structlog
import trio

from dfs import errors, limits, tasks
from dfs.runtime import Runtime
from nodes.namenode import arguments
from nodes.namenode.store import Copy, Store

log = structlog.get_logger(__name__)

IDLE_S: Final = 60.0
"""More than a reader waits for the answer to one call before it asks again."""
_NAME_MAX: Final = 64


class _Backup:
    """`copy` or `error` is there when it `is_made`; `is_read`: nobody wants it any more. `lock`: held to use `copy`."""

    __slots__ = ("copy", "error", "is_given_up", "is_made", "is_read", "is_whole", "lock", "made_ns", "name", "used_at")

    def __init__(self, name: str, made_ns: int) -> None:
        self.name = name
        self.made_ns = made_ns
        self.is_given_up = False
        """Before it was made; of the thread that makes it, too."""
        self.is_whole = False
        """All of it was read."""
        self.lock = trio.Lock()
        self.copy: Copy | None = None
        self.error: errors.DfsError | None = None
        self.is_made = trio.Event()
        self.is_read = trio.Event()
        self.used_at = trio.current_time()


class Backups:
    """The copy that is being made, or read, if there is one. Belongs to the event loop."""

    def __init__(self, store: Store, runtime: Runtime, reserve_bytes: int) -> None:
        """`reserve_bytes` are left of the disk's space."""
        self._store = store
        self._runtime = runtime
        self._reserve_bytes = reserve_bytes
        self._backup: _Backup | None = None
        self._is_wanted = trio.Event()

    async def begin(self, name: Any) -> dict[str, Any] | None:
        """Make a copy: its `bytes`, the `files` in it, and `made_ns`: what was durable then is in it.

        None: it is not made yet, ask again.

        Raises `Busy` if there is another, `NoSpace`, `DiskFailed`.
        """
        name = arguments.text(name, "a backup's name", _NAME_MAX)
        backup = self._backup
        if backup is not None and backup.name != name:
            raise errors.Busy("another backup is being made: try again when it is done")
        if backup is None:
            backup = self._backup = _Backup(name, self._runtime.now_ns())
            self._is_wanted.set()
        with trio.move_on_after(limits.BACKUP_WAIT_S):
            await backup.is_made.wait()
        backup.used_at = trio.current_time()
        if backup.error is not None:
            raise backup.error
        if backup.copy is None:
            return None
        return {"bytes": backup.copy.size_bytes, "files": backup.copy.files, "made_ns": backup.made_ns}

    async def read(self, name: Any, offset: Any) -> bytes:
        """Bytes from `offset` on, READ_MAX_BYTES at most; none at the end. Raises `NotFound`, `DiskFailed`."""
        backup = self._backup
        start = arguments.integer(offset, "an offset")
        if backup is not None and backup.name == name:
            async with backup.lock:
                if backup.copy is not None:
                    backup.used_at = trio.current_time()
                    piece = await self._runtime.run_blocking(backup.copy.read, start)
                    backup.is_whole |= not piece
                    return piece
        raise errors.NotFound("the NameNode has no such backup any more: begin another")

    def end(self, name: Any) -> int | None:
        """It is read, or not wanted any more; its `made_ns` if somebody has all of it now."""
        backup = self._backup
        if backup is None or backup.name != name:
            return None
        backup.is_read.set()
        return backup.made_ns if backup.is_whole else None

    async def run(self) -> None:
        """Make what is asked for, and keep it for its reader. Runs until cancelled."""
        while True:
            await self._is_wanted.wait()
            self._is_wanted = trio.Event()
            backup = self._backup
            assert backup is not None, "it is wanted"
            try:
                await self._make(backup)
                await self._keep(backup)
            finally:
                self._backup = None
                with trio.CancelScope(shield=True):  # a read takes a moment
                    await self._let_go(backup)

    async def _make(self, backup: _Backup) -> None:
        try:
            self._check_space(self._store.size_bytes())
            async with tasks.open_nursery() as nursery:
                nursery.start_soon(self._give_up, backup)
                backup.copy = await self._runtime.run_blocking(self._store.copy, partial(self._check, backup))
                nursery.cancel_scope.cancel()
        except errors.DfsError as error:
            backup.error = error
            backup.is_read.set()
            log.warning("no backup made", error=error.message)
        else:
            took_s = (self._runtime.now_ns() - backup.made_ns) / 10**9
            log.info("backup made", bytes=backup.copy.size_bytes, files=backup.copy.files, seconds=round(took_s, 3))
        backup.used_at = trio.current_time()
        backup.is_made.set()

    async def _give_up(self, backup: _Backup) -> None:
        """When nobody wants it any more, or this process ends: the thread that makes it is not cancelled."""
        try:
            await backup.is_read.wait()
        finally:
            backup.is_given_up = True

    def _check(self, backup: _Backup) -> None:
        """In the thread, time and again. What is committed meanwhile takes space as well."""
        if backup.is_given_up:
            raise errors.Busy("the backup is given up")
        self._check_space(0)

    def _check_space(self, needed: int) -> None:
        free = self._store.free_bytes()
        if free < needed + self._reserve_bytes:
            raise errors.NoSpace(
                f"the NameNode's disk has {free:,} bytes left, and a copy of the namespace takes {needed:,} more until"
                f" it is read, besides the {self._reserve_bytes:,} of reserve_bytes"
            )

    async def _keep(self, backup: _Backup) -> None:
        while not backup.is_read.is_set():
            left_s = backup.used_at + IDLE_S - trio.current_time()
            if left_s <= 0:
                log.info("backup given up, as it is not read", idle_s=IDLE_S)
                return
            with trio.move_on_after(left_s):
                await backup.is_read.wait()

    async def _let_go(self, backup: _Backup) -> None:
        async with backup.lock:
            copy, backup.copy = backup.copy, None
            if copy is not None:
                await self._runtime.run_blocking(copy.close)  # frees its space
