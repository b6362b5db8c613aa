"""Pages of files that the kernel has, and how it drops them: all but those that are locked, for which nobody waits.

To drop a page the kernel takes its lock. A page is locked while the kernel waits for our answer to a read of it, or to
a write of a part of it if it does not have the rest. That answer may take as long as a DataNode does, or wait for the
NameNode, which may wait for somebody to drop this very page: two mounts that write to one page would wait for each
other. So what is locked is left to the thread that waits for the lock. It holds nothing that anybody is shown later:

* A read that is under way is answered with what the file holds at the end of it, for all who are told of the file
  (`OpenInode.read`): what is written or forgotten meanwhile is no part of that, or it is read again.
* A page of which a part is written, and which stays locked for that, does not count as there afterwards.

A thread drops pages one after the other, and waits at the first that is locked. So where requests are under way the
file is taken in pieces: what each may have locked, and all between. A thread that waits for a page's lock is in
uninterruptible sleep (`proc(5)`), and as it can be in that for a moment for other reasons, for LOCKED_S at least.

**Written while dropped.** The kernel puts what is written into a page that it has before it asks us, and does not lock
that one. If the page is dropped then and read again before the write is taken, what the kernel has is from before the
write. So where a read of such bytes was answered meanwhile, they are dropped before the write is (`writing`).
"""

from __future__ import annotations

import math
import mmap
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import pyfuse3
import structlog
import trio

from dfs.types import Ino
from mount.device import Device

log = structlog.get_logger(__name__)

PAGES_MAX_S: Final = 1.0
"""For dropping pages that nothing is known to have locked: a request may be on its way here."""
LOCKED_S: Final = 0.005
_LOOKS: Final = 3
"""At a thread, within LOCKED_S, which all find it asleep."""
_AGAIN_AFTER_S: Final = 0.01
_INODES_AT_ONCE: Final = 128
"""In one piece of a thread's work: a few milliseconds, when nobody holds a lock."""
_THREADS_MAX: Final = 32


class Request:
    """The kernel waits for an answer about bytes [start, end) of a file; `was_read`: others have read some since."""

    __slots__ = ("end", "is_write", "start", "was_read")

    def __init__(self, start: int, end: int, *, is_write: bool) -> None:
        self.start = start
        self.end = end
        self.is_write = is_write
        self.was_read = False

    def locks(self) -> Iterator[tuple[int, int]]:
        """The bytes of pages that may be locked for it."""
        first, last = _page(self.start), _page(self.end + mmap.PAGESIZE - 1)
        if not self.is_write or last - first <= 2 * mmap.PAGESIZE:
            yield first, last
        else:
            yield first, first + mmap.PAGESIZE
            yield last - mmap.PAGESIZE, last


class _Piece(NamedTuple):
    """Of a file; `end` is infinite for all that follows. `may_be_locked`: by a request that is known."""

    start: int
    end: float
    may_be_locked: bool


class Pages:
    """Of all files of one mount. `root` is the inode that the kernel knows as 1.

    `_requests` has the inodes about which there are some under way, each with these.
    """

    def __init__(self, device: Device, root: Ino) -> None:
        self._device = device
        self._root = root
        self._requests: dict[Ino, list[Request]] = {}
        self._threads = trio.CapacityLimiter(_THREADS_MAX)

    # --- what is under way ------------------------------------------------------------------------------

    @contextmanager
    def reading(self, ino: Ino, offset: int, length: int) -> Iterator[None]:
        """Around a read; what it leads to is answered with no await in between."""
        with self._under_way(ino, Request(offset, offset + length, is_write=False)):
            yield
        for request in self._requests.get(ino, ()):
            if request.is_write and request.start < offset + length and offset < request.end:
                request.was_read = True

    @contextmanager
    def writing(self, ino: Ino, offset: int, length: int) -> Iterator[Request]:
        """Around a write. If it `was_read` meanwhile, `drop_read` is to be called before it is answered."""
        request = Request(offset, offset + length, is_write=True)
        with self._under_way(ino, request):
            yield request

    @contextmanager
    def _under_way(self, ino: Ino, request: Request) -> Iterator[None]:
        requests = self._requests.setdefault(ino, [])
        requests.append(request)
        try:
            yield
        finally:
            requests.remove(request)
            if not requests:
                del self._requests[ino]

    # --- dropping ---------------------------------------------------------------------------------------

    async def drop(self, inos: Sequence[Ino]) -> None:
        """Return when the kernel has forgotten the attributes of these, and has none of their pages but locked ones."""
        with trio.move_on_after(PAGES_MAX_S) as limit:
            async with trio.open_nursery() as nursery:
                for start in range(0, len(inos), _INODES_AT_ONCE):
                    nursery.start_soon(self._drop_together, inos[start : start + _INODES_AT_ONCE])
        if limit.cancelled_caught:
            log.info("pages are locked for long, and dropped then", inodes=len(inos))

    async def drop_read(self, ino: Ino, request: Request) -> None:
        """The bytes of a write were read while it was under way: the kernel may have them as they were before."""
        start, end = _page(request.start), _page(request.end + mmap.PAGESIZE - 1)
        with trio.move_on_after(PAGES_MAX_S):
            await self._drop_pieces(ino, [_Piece(start, end, may_be_locked=True)])

    async def _drop_together(self, inos: Sequence[Ino]) -> None:
        idle = [ino for ino in inos if ino not in self._requests]
        is_dropped = not idle or await self._notify([(ino, 0, math.inf) for ino in idle])
        async with trio.open_nursery() as nursery:
            for ino in inos:
                if ino in self._requests or not is_dropped:
                    nursery.start_soon(self._drop_one, ino)

    async def _drop_one(self, ino: Ino) -> None:
        """A request about which nothing is known yet may keep a thread waiting, until it has come here."""
        while True:
            if await self._drop_pieces(ino, list(_pieces(self._requests.get(ino, ())))):
                return
            await trio.sleep(_AGAIN_AFTER_S)

    async def _drop_pieces(self, ino: Ino, pieces: Iterable[_Piece]) -> bool:
        """Whether all is dropped but what may be locked by what is known."""
        kept: list[_Piece] = []

        async def drop(piece: _Piece) -> None:
            if not await self._notify([(ino, piece.start, piece.end)]) and not piece.may_be_locked:
                kept.append(piece)

        async with trio.open_nursery() as nursery:
            for piece in pieces:
                nursery.start_soon(drop, piece)
        return not kept

    async def _notify(self, ranges: Sequence[tuple[Ino, int, float]]) -> bool:
        """Have the kernel drop these bytes of inodes; False if a thread is left behind that waits for a lock."""
        thread: list[int] = []

        def drop() -> None:
            thread.append(threading.get_native_id())
            for ino, start, end in ranges:
                number = pyfuse3.ROOT_INODE if ino == self._root else ino
                try:
                    self._device.forget_bytes(number, start, 0 if end == math.inf else int(end) - start)
                except OSError:  # the kernel does not know it, or not any more
                    continue

        is_done = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_wait_until_asleep, thread, nursery.cancel_scope)
            try:
                await trio.to_thread.run_sync(drop, abandon_on_cancel=True, limiter=self._threads)
                is_done = True
            except RuntimeError as error:  # the machine has no more threads
                log.warning("the kernel could not be notified", error=str(error))
                await trio.sleep_forever()  # as if it did not take it: all callers have a deadline
            nursery.cancel_scope.cancel()
        return is_done


def _page(offset: int) -> int:
    """Where the page begins that has this byte."""
    return offset - offset % mmap.PAGESIZE


def _pieces(requests: Sequence[Request]) -> Iterator[_Piece]:
    """A whole file, in pieces of which each may be locked as a whole by what is under way, or not at all."""
    locked = sorted(lock for request in requests for lock in request.locks())
    cuts = sorted({0, *(edge for lock in locked for edge in lock)})
    for start, end in pairwise([*cuts, math.inf]):
        yield _Piece(int(start), end, any(first <= start and end <= last for first, last in locked))


async def _wait_until_asleep(thread: Sequence[int], scope: trio.CancelScope) -> None:
    """Cancel what waits for a thread when that has been in uninterruptible sleep for LOCKED_S."""
    asleep = 0
    while asleep < _LOOKS:
        await trio.sleep(LOCKED_S / _LOOKS)
        asleep = asleep + 1 if thread and _is_asleep(thread[0]) else 0
    scope.cancel()


def _is_asleep(thread: int) -> bool:
    """Whether a thread of this process waits in the kernel for what no signal interrupts."""
    try:
        status = Path(f"/proc/self/task/{thread}/stat").read_bytes()
    except OSError:  # it has ended
        return False
    return status[status.rindex(b")") + 2 :].startswith(b"D")
