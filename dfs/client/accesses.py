"""Access times of what a mount reads, as Linux's `relatime` keeps them.

A read moves the access time of an inode where that is not later than its last change, or is a day old; so a program
can tell whether something was read since it was written, and most reads cost nothing. `_pending` holds the times that
the NameNode does not know yet. This client shows them at once (`shown`); they leave together after
WRITE_BACK_AFTER_S, when there are ACCESSES_MAX, and at the end.

Invariant: a time that somebody set stands. `take` gives a pending one to the command that changes the inode, and the
NameNode passes over a time that is earlier than the last change. A mount killed with -9 loses the times of its last
seconds; nothing else depends on them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
import trio

from dfs import errors, limits, tasks
from dfs.client.filesystem import FileSystem
from dfs.types import Attr, Ino

log = structlog.get_logger(__name__)

_STALE_NS = 24 * 3600 * 10**9
"""As the kernel has it, for those who look for what nobody uses any more."""


class Accesses:
    """Use `record_accesses`."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._pending: dict[Ino, int] = {}
        self._full = trio.Event()

    def read(self, attr: Attr) -> bool:
        """The inode, whose newest attributes these are, is being read; whether that moves its access time."""
        now_ns = self._now_ns()
        known_ns = max(attr.atime_ns, self._pending.get(attr.ino, attr.atime_ns))
        if known_ns > max(attr.mtime_ns, attr.ctime_ns, now_ns - _STALE_NS):
            return False
        self._pending[attr.ino] = now_ns
        if len(self._pending) >= limits.ACCESSES_MAX:
            self._full.set()
        return True

    def _now_ns(self) -> int:
        return self._fs.session.runtime.now_ns()

    def shown(self, attr: Attr) -> Attr:
        """The attributes with the access time as this client knows it."""
        pending_ns = self._pending.get(attr.ino)
        if pending_ns is None or pending_ns <= max(attr.atime_ns, attr.ctime_ns):
            return attr
        return attr._replace(atime_ns=pending_ns)

    def is_pending(self, ino: Ino) -> bool:
        """Whether there is something to `take`."""
        return ino in self._pending

    def take(self, attr: Attr) -> int | None:
        """The time that is pending for an inode, which the caller is to set with what else it changes.

        None if it was changed since, by these attributes: then that stands.
        """
        shown_ns = self.shown(attr).atime_ns
        self._pending.pop(attr.ino, None)
        return shown_ns if shown_ns != attr.atime_ns else None

    async def run(self) -> None:
        """Send what is pending every now and then. Runs until cancelled."""
        while True:
            with trio.move_on_after(limits.WRITE_BACK_AFTER_S):
                await self._full.wait()
            self._full = trio.Event()
            await self.flush()

    async def flush(self) -> None:
        """Send what is pending, and say so in the log where that fails: nobody waits for it."""
        leaving = list(self._pending.items())
        for start in range(0, len(leaving), limits.ACCESSES_MAX):
            batch = leaving[start : start + limits.ACCESSES_MAX]
            try:
                await self._fs.inodes.accessed(batch)
            except errors.DfsError as error:
                log.info("access times are not recorded", inodes=len(batch), error=str(error))
            for ino, atime_ns in batch:
                if self._pending.get(ino) == atime_ns:
                    del self._pending[ino]


@asynccontextmanager
async def record_accesses(fs: FileSystem) -> AsyncIterator[Accesses]:
    """Access times over `fs`; on leaving, what is pending is sent."""
    async with tasks.open_nursery() as nursery:
        accesses = Accesses(fs)
        nursery.start_soon(accesses.run)
        try:
            yield accesses
        finally:
            with trio.move_on_after(limits.FIRST_CONTACT_TIMEOUT_S, shield=True):  # they are worth no longer wait
                await accesses.flush()
            nursery.cancel_scope.cancel()
