"""The disk of one data directory: work on it, room on it, and whether it is in service.

A write error takes the directory out of service: `failed` says why, every later change raises DiskFailed, reads are
still tried. After an error of fsync nobody knows what the disk holds, so nothing is retried. So does a file system that
became read-only, so do files that may not be opened, and READ_ERRORS_MAX chunks that could not be read within
READ_ERRORS_WITHIN_S: the first ones are only damaged, and so is what a disk loses now and then. A directory without
space is not failed: it takes no more bytes until some are free, and serves what it has. Nor is one whose files cannot
be opened as the machine is short of descriptors or memory: that is Busy.

A disk that hangs keeps its threads, which nobody can stop: so each directory has threads of its own. That it hangs is
seen by what a thread does, not by what waits for one: the probe asks for so little that it is soon done however much
the disk has to do, other work may take longer. Who waits for the disk then gets DiskFailed at once, and what is read
after that comes from memory or not at all. The threads may go on any time, so the files that they have stay open: the
numbers of closed ones would be other files'.

Small writes are made by the event loop itself, as a thread's hop costs more than the write. The kernel could keep it
waiting for a disk that hangs (RWF_NOWAIT is for XFS and Btrfs only). So it writes only where the disk has just done
something for a thread, and keeps none waiting.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar, TypeVarTuple

import trio

from dfs import errors, limits
from dfs.runtime import Runtime
from nodes.datanode import chunkfiles
from nodes.datanode.disk import Disk

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_FORBIDDEN: Final = (errno.EACCES, errno.EPERM)


class Drive:
    """`failed` is None, or why the directory is out of service, until a restart; `hangs` if that is why.

    `reserve_bytes` of its file system stay free. All but the threads' work belongs to the event loop.
    """

    def __init__(self, disk: Disk, runtime: Runtime, reserve_bytes: int) -> None:
        self.disk = disk
        self.failed: str | None = None
        self.hangs = False
        self._workers = runtime.workers(limits.DISK_THREADS_MAX)
        self._prober = runtime.workers(1)
        self._looked_at = float("-inf")  # for a disk that hangs, trio's clock
        self._answered_at = float("-inf")  # trio's clock, of threads' work only
        self._read_errors: deque[float] = deque(maxlen=limits.READ_ERRORS_MAX)  # trio's clock, of the last ones
        self._reserve_bytes = reserve_bytes
        self._free_bytes = 0
        self._believed_until = float("-inf")
        self._written_since_bytes = 0

    # --- work

    async def run_blocking(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        """Work on the disk in a thread of this directory. Raises what it raises, or DiskFailed of a disk that hangs."""
        result = await self._workers.run(work, *args)
        self._answered_at = trio.current_time()
        return result

    async def on_disk(self, work: Callable[[*Ts], T], *args: *Ts, full_is_fatal: bool = False) -> T:
        """As `run_blocking`; OSErrors come out as DiskFailed, NoSpace or Busy, ours as they are."""
        try:
            return await self.run_blocking(work, *args)
        except OSError as error:
            raise self.explained(error, full_is_fatal) from error

    def run_inline(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        """As `on_disk`, in the event loop: only while it `answers_soon`."""
        try:
            return work(*args)
        except OSError as error:
            raise self.explained(error, False) from error

    def answers_soon(self) -> bool:
        """Whether nothing tells of a disk that hangs: see the module."""
        has_answered = trio.current_time() < self._answered_at + limits.INLINE_IO_BELIEVED_S
        return has_answered and self._workers.busy_s() < limits.INLINE_IO_BUSY_MAX_S

    # --- whether it answers

    async def wait_for_disk(self) -> None:
        """Before `open`: return when the disk says anything, which `open` is to judge, or is given up as it hangs."""
        with suppress(OSError):
            await self._prober.run(self._greet)

    def _greet(self) -> None:
        self.disk.make_dirs("")
        self.disk.sync_dir("")

    async def probe(self) -> None:
        """Find out whether the disk still takes changes, though nobody makes any. Raises DiskFailed."""
        self.check_usable()
        try:
            await self._prober.run(self._probe_blocking)
        except OSError as error:
            raise self.explained(error, False) from error

    def _probe_blocking(self) -> None:
        """Have the disk itself answer: a change of the least kind would wait in memory."""
        self.disk.touch(chunkfiles.CHUNKS)
        self.disk.sync_dir(chunkfiles.CHUNKS)

    def look_for_hang(self) -> None:
        """Take the directory out of service if its disk does not answer, and keep nobody waiting for it any more.

        To be called every DISK_WATCH_PERIOD_S. A call that is late counts little: the process may have stood still, and
        a disk that answered meanwhile is well.
        """
        if self.hangs:
            return
        now = trio.current_time()
        passed_s = min(now - self._looked_at, 2 * limits.DISK_WATCH_PERIOD_S)
        self._looked_at = now
        is_late = self._workers.watched_s(passed_s) >= limits.DISK_WORK_MAX_S
        if self._prober.watched_s(passed_s) >= limits.DISK_PROBE_TIMEOUT_S or is_late:
            self.hangs = True
            self.fail("it does not answer")
            self._workers.give_up(self._failure)
            self._prober.give_up(self._failure)

    # --- what can go wrong

    def check_usable(self) -> None:
        """Raises DiskFailed if it is out of service."""
        if self.failed is not None:
            raise self._failure()

    def explained(self, error: OSError, full_is_fatal: bool) -> errors.DfsError:
        """What an OSError means, to raise: ours as it is, NoSpace, Busy, or DiskFailed: it is out of service then.

        A sync that failed has failed, though it was space or memory that was short: to repeat it would succeed.
        """
        if isinstance(error, errors.DfsError):
            return error
        if isinstance(error, chunkfiles.NotSynced):
            return self._fail(error)
        if error.errno in chunkfiles.FULL and not full_is_fatal:
            self._believed_until = float("-inf")
            return errors.NoSpace(f"{self.disk.name} is full: free some space")
        if error.errno in chunkfiles.SHORT:
            return errors.Busy(f"{self.disk.name}: {error.strerror}: raise the DataNode's limits if this goes on")
        return self._fail(error)

    def note_read_error(self, error: OSError | None) -> None:
        """A disk that cannot read several chunks in a short time is not to be trusted with more."""
        if error is None or isinstance(error, errors.DfsError) or error.errno not in chunkfiles.MEDIUM:
            return
        now = trio.current_time()
        self._read_errors.append(now)
        if (
            len(self._read_errors) == limits.READ_ERRORS_MAX
            and self._read_errors[0] > now - limits.READ_ERRORS_WITHIN_S
        ):
            self._fail(error)

    def fail(self, reason: str) -> None:
        """Take the directory out of service, until a restart."""
        self.failed = self.failed or reason

    def _fail(self, error: OSError) -> errors.DiskFailed:
        reason = error.strerror or str(error)
        if error.errno in _FORBIDDEN:
            reason += ": all that is in the directory has to belong to the user that the DataNode runs as"
        self.fail(reason)
        return self._failure()

    def _failure(self) -> errors.DiskFailed:
        return errors.DiskFailed(
            f"{self.disk.name} is out of service: {self.failed}: mend or replace the disk, then restart"
        )

    # --- room

    def free_bytes(self) -> int:
        """What may be written before the reserve is reached; of a directory that failed, 0."""
        if self.failed is not None:
            return 0
        try:
            return max(0, self._disk_free_bytes() - self._reserve_bytes)
        except OSError as error:
            self._fail(error)
            return 0

    def is_full(self) -> bool:
        """Whether it is in service and takes no more bytes."""
        return self.free_bytes() == 0 and self.failed is None

    def file_system(self) -> int | None:
        """What directories share that share their space; None of a directory that failed."""
        try:
            return self.disk.file_system() if self.failed is None else None
        except OSError as error:
            self._fail(error)
            return None

    def capacity_bytes(self) -> int:
        """Size of the file system that the directory is on; of a directory that failed, 0."""
        if self.failed is not None:
            return 0
        try:
            return self.disk.capacity_bytes()
        except OSError as error:
            self._fail(error)
            return 0

    def check_room(self, length: int) -> None:
        """Raises NoSpace if so many bytes are not free above the reserve; DiskFailed."""
        if self.free_bytes() < length:
            self._believed_until = float("-inf")  # space may have come back: nobody is refused on a belief
        if self.free_bytes() < length:
            self.check_usable()
            raise errors.NoSpace(f"{self.disk.name} has no room for {length} bytes above its reserve: free some space")

    def note_written(self, length: int) -> None:
        """So many bytes were written: reckoned until the file system is asked again."""
        self._written_since_bytes += length

    def _disk_free_bytes(self) -> int:
        """Free bytes of the file system, asked for once a while and reckoned between."""
        now = trio.current_time()
        if now >= self._believed_until or self._written_since_bytes >= limits.FREE_SPACE_CHECK_BYTES:
            self._free_bytes = self.disk.free_bytes()
            self._believed_until = now + limits.FREE_SPACE_CHECK_PERIOD_S
            self._written_since_bytes = 0
        return self._free_bytes - self._written_since_bytes
