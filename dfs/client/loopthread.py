"""A trio loop in a thread of its own, with one client in it, for synchronous code (`dfs.client.blocking`).

A fork takes the thread that called it and no other, so a child has no loop, though it has a copy of the object: every
call there raises. When a program ends, what it has left open is closed, and the session ended: a thread that is a
daemon stands still from then on, and who called it would wait for ever.

What a signal's handler raises (Ctrl-C, a time-out) ends the call that it interrupts, and comes out of it when that has
ended: until then the caller's memory is read or written in the loop.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import threading
import weakref
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Generic, NoReturn, Protocol, TypeVar

import outcome
import structlog
import trio

from dfs import errors, tasks
from dfs.client.filesystem import FileSystem, open_filesystem
from dfs.keystore import KeyStore

T = TypeVar("T")

_CLOSED = "the connection to the cluster is closed"
_ELSEWHERE = "this connection to the cluster was opened in another process: call dfs.connect() in this one"
_NO_PICKLE = "a connection to the cluster cannot be pickled: call dfs.connect() in the other process"
_INSIDE = "a call of a connection cannot be made from within another call of it: it would wait for itself"
_ALL: weakref.WeakSet[LoopThread] = weakref.WeakSet()

log = structlog.get_logger(__name__)


class Closable(Protocol):
    def close(self) -> None: ...


class Ending:
    """What one thread waits for, and another brings about. `threading.Event` would be left locked, and whoever sets it
    with it, by a signal's handler that raises between two lines of it: this has but one lock, and no line holds it.
    """

    def __init__(self) -> None:
        self.is_there = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        if not self.is_there:
            self.is_there = True
            self._lock.release()

    def wait(self) -> None:
        if not self.is_there:
            self._lock.acquire()


class _Call(Generic[T]):
    """Work that another thread waits for: `has_ended` is set when `result` is there, or when there will be none."""

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        self._work = work
        self._scope = trio.CancelScope()
        self._has_begun = False
        self.has_ended = Ending()
        self.result: outcome.Outcome[T] = outcome.Error(trio.RunFinishedError(_CLOSED))

    def run(self, token: trio.lowlevel.TrioToken) -> T:
        """What the work returns or raises. What interrupts this thread is raised when the work has ended."""
        try:
            token.run_sync_soon(self._begin)
            self.has_ended.wait()  # bounded as the work is
        except BaseException:
            self._end(token)
            raise
        return self.result.unwrap()

    def _end(self, token: trio.lowlevel.TrioToken) -> None:
        while not self.has_ended.is_there:
            try:
                token.run_sync_soon(self._cancel)
                self.has_ended.wait()  # bounded by what shields itself from being cancelled
            except trio.RunFinishedError:
                return
            except BaseException:  # noqa: BLE001 - one more interrupt: the first is raised in a moment
                continue

    # --- in the loop, one after the other -------------------------------------------------------------------

    def _begin(self) -> None:
        try:
            trio.lowlevel.spawn_system_task(self._perform)
            self._has_begun = True
        except RuntimeError:  # it is about to end
            self.has_ended.set()

    def _cancel(self) -> None:
        self._scope.cancel()
        if not self._has_begun:  # who wanted it was interrupted before he could say so
            self.has_ended.set()

    async def _perform(self) -> None:
        with self._scope:
            self.result = await outcome.acapture(self._work)
        self.has_ended.set()


class LoopThread:
    """From `start` to `stop`. Its methods may be called by any other thread."""

    def __init__(self, namenode: str, store: KeyStore, wait_s: float | None) -> None:
        self._pid = os.getpid()
        self._namenode = namenode
        self._store = store
        self._wait_s = wait_s
        self._ready = Ending()
        self._opened: outcome.Maybe[FileSystem] | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        """There is a loop."""
        self._opening = trio.CancelScope()
        self._stop = trio.Event()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="dfs-client", daemon=True)
        self.left_open: weakref.WeakSet[Closable] = weakref.WeakSet()
        """What is to be closed before the connection or the program ends."""

    def start(self) -> FileSystem:
        """Raises what `open_filesystem` raises."""
        self._thread.start()
        try:
            self._ready.wait()
            assert self._opened is not None
            fs = self._opened.unwrap()
            _ALL.add(self)
            return fs
        except BaseException:  # perhaps an interrupt: nobody will use it, nor stop it
            self._begin_to_stop()
            raise

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:
            if self._ready.is_there:
                raise
            self._opened = outcome.Error(tasks.leaves(error)[0])
            self._ready.set()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        if self._is_stopping:
            return
        with self._opening:
            async with (
                open_filesystem(self._namenode, self._store.key, wait_s=self._wait_s, keep=self._store.keep) as fs,
                tasks.open_nursery() as self._nursery,
            ):
                self._opened = outcome.Value(fs)
                self._ready.set()
                await self._stop.wait()  # as long as the caller keeps the connection
                self._nursery.cancel_scope.cancel()

    @property
    def is_ours(self) -> bool:
        """Whether this process started it."""
        return os.getpid() == self._pid

    @property
    def is_inside(self) -> bool:
        """Whether the caller is the loop's own thread, where nobody can wait: so the garbage collector may call."""
        return threading.current_thread() is self._thread

    def __reduce__(self) -> NoReturn:
        raise TypeError(_NO_PICKLE)

    def call(self, work: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        """Raises what `work` raises, and `ValueError` from `stop` on, and in another process."""
        if not self.is_ours:
            raise ValueError(_ELSEWHERE)
        if self.is_inside:
            raise RuntimeError(_INSIDE)
        try:
            assert self._token is not None, "it was started"
            return _Call(partial(work, *args, **kwargs)).run(self._token)
        except (RuntimeError, trio.Cancelled, errors.DfsError) as error:
            if self._is_stopping:  # and with it whatever was under way
                raise ValueError(_CLOSED) from error
            raise

    def spawn(self, work: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Begin something that raises nothing; it ends with the loop. For what runs in the loop."""
        self._nursery.start_soon(work, *args)

    def stop(self) -> None:
        """End the client and its thread; in another process do nothing, as neither is there."""
        if self.is_ours and self._thread.is_alive():
            self._begin_to_stop()
            self._thread.join()

    def _begin_to_stop(self) -> None:
        self._is_stopping = True
        if self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._leave)

    def _leave(self) -> None:
        """In the loop."""
        self._stop.set()
        if self._opened is None:
            self._opening.cancel()

    def close(self) -> None:
        """Close what was left open, then stop; in another process do nothing. Raises why some could not be closed."""
        if not self.is_ours:
            return
        failure: OSError | None = None
        for each in sorted(self.left_open, key=lambda each: isinstance(each, io.RawIOBase)):  # what has a buffer first
            try:
                with contextlib.suppress(ValueError):  # its buffer was detached
                    each.close()
            except OSError as error:
                told = {"file": getattr(each, "name", "?"), "error": str(error)}
                log.error("a file that was left open could not be closed", **told)
                failure = error
        self.stop()
        if failure is not None:
            raise failure


@atexit.register
def _end_all() -> None:
    for loop in list(_ALL):
        with contextlib.suppress(OSError):  # which was said
            loop.close()
