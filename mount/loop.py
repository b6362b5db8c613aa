"""How a mount waits for the kernel's next request: awake for a moment, and in the same task while none has to wait.

pyfuse3 reads requests in several tasks, which take turns by a lock: one waits for the kernel, is woken, hands the lock
on, and answers. Asleep it wakes late, as whoever waits for an answer on the same machine asks again within microseconds
and a processor needs tens of them to wake up. So after an answer the kernel is asked for the next request for BUSY_S
before the task sleeps (as the Linux guest's halt polling does, and sockets with SO_BUSY_POLL); not when some request is
waiting for the network, whose answer would come later for it, nor when of late nothing came in that time.

And the turn is handed on only when a handler has to wait (`handled`), since most do not: then one task does it all.

pyfuse3 takes what it needs of trio from a name of its own, so that `pyfuse3.asyncio` can put something else there. That
is where `serve` puts this.

Invariants: whoever was let in by `_Turn` waits for the kernel, answers a request that has not had to wait, or has
handed on; so as long as tasks are left somebody looks for requests. When the connection has ended all are let in.
Whatever a handler has changed of the device for its answer is put right before anything else happens.
"""

from __future__ import annotations

import select
import time
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, TypeVar

import pyfuse3
import trio

from dfs import tasks
from mount.device import Device

T = TypeVar("T")

BUSY_S: Final = 50e-6
YIELD_S: Final = 100e-6
"""Other tasks get a turn at least as often, while one request follows the other."""
WATCH_EVERY_S: Final = 1.0
_MISSES_MAX: Final = 4
"""Times in a row that nothing came; then the processor is left alone until requests come quickly again."""
_TASKS_MAX: Final = 40
"""Requests in work at a time; each has a buffer of a little more than a mebibyte."""


class _Turn:
    """In place of pyfuse3's lock: let in is one at a time, and the next one by `hand_on` only, or at the end.

    Whoever comes has answered a request just now, if he had one: `answered` is called.
    """

    def __init__(self, answered: Callable[[], None]) -> None:
        self._answered = answered
        self._is_taken = False
        self._parked: list[trio.lowlevel.Task] = []
        self.has_ended = False

    async def __aenter__(self) -> None:
        self._answered()
        if not self._is_taken:
            self._is_taken = True
            return
        task = trio.lowlevel.current_task()
        self._parked.append(task)

        def leave(_: Any) -> trio.lowlevel.Abort:
            self._parked.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)

    async def __aexit__(self, *raised: object) -> None:
        self._is_taken = False
        if self.has_ended or raised[0] is not None:
            self.hand_on()

    def hand_on(self) -> None:
        """Whoever has the turn has something else to wait for. The next is who had it last: his buffer is in use."""
        if self._parked and not self._is_taken:
            self._is_taken = True
            trio.lowlevel.reschedule(self._parked.pop())


class Loop:
    """Of this process, as pyfuse3 has one mount of a process too. With the kernel at the other end of the `device`."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.turn = _Turn(device.settle)
        self._waiting = 0
        """Requests that wait for something."""
        self._misses = 0
        self._yielded_at = 0.0
        self._poll: select.poll | None = None

    async def wait_readable(self, fd: int) -> None:
        """Return when the kernel has a request, or the connection has ended. Raises as trio's."""
        if not self.device.has_begun:
            await trio.lowlevel.wait_readable(fd)
            self.device.begin(fd)
            return
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(fd, select.POLLIN)
        while True:
            if not (self._waiting == 0 and self._misses < _MISSES_MAX and self._came(self._poll)):
                began = time.perf_counter()
                await trio.lowlevel.wait_readable(fd)
                self._yielded_at = time.perf_counter()
                if self._yielded_at < began + 2 * BUSY_S:  # it takes that long to wake up
                    self._misses = 0
            elif time.perf_counter() > self._yielded_at + YIELD_S:
                await trio.lowlevel.checkpoint()
                self._yielded_at = time.perf_counter()
            if self._looks(self._poll):  # while others ran it may have gone: who asked was killed, or has his answer
                return

    def _looks(self, poll: select.poll) -> bool:
        """Whether there is a request, or the end."""
        events = poll.poll(0)
        self.turn.has_ended = any(event & ~select.POLLIN for _, event in events)
        return bool(events)

    async def watch(self) -> None:
        """Let all in when the connection has ended, also if that was when nobody was in to see it."""
        while not self.turn.has_ended:
            await trio.sleep(WATCH_EVERY_S)
            if self._poll is not None:
                self._looks(self._poll)
        self.turn.hand_on()

    def _came(self, poll: select.poll) -> bool:
        """Whether a request comes within a moment."""
        until = time.perf_counter() + BUSY_S
        while not poll.poll(0):
            if time.perf_counter() > until:
                self._misses += 1
                return False
        self._misses = 0
        return True

    async def handled(self, handler: Coroutine[Any, Any, T]) -> T:
        """What a handler returns, or raises. Only if it has to wait others may look for requests."""
        try:
            trap = handler.send(None)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        return await self._outlasting(handler, trap)

    @types.coroutine
    def _outlasting(self, handler: Coroutine[Any, Any, T], trap: Any) -> Generator[Any, Any, T]:
        """Go on with a handler that waits: its first step has said so with this."""
        self._waiting += 1
        self.turn.hand_on()
        try:
            while True:
                try:
                    answer = yield trap
                except BaseException as error:  # noqa: BLE001 - whatever it is, it is for the handler
                    trap = handler.throw(error)
                else:
                    trap = handler.send(answer)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        finally:
            self._waiting -= 1


_loop = Loop(Device())


def device() -> Device:
    """Of this process's loop."""
    return _loop.device


def handled(handler: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
    """What a handler returns, or raises; in this process's loop."""
    return _loop.handled(handler)


async def serve() -> None:
    """Answer the kernel's requests until it is unmounted. Once in a process, after `pyfuse3.init`."""
    lowlevel = types.SimpleNamespace(**{**vars(trio.lowlevel), "wait_readable": _loop.wait_readable})
    vars(pyfuse3)["trio"] = types.SimpleNamespace(**{**vars(trio), "lowlevel": lowlevel, "Lock": lambda: _loop.turn})
    try:
        async with tasks.open_nursery() as nursery:
            nursery.start_soon(_loop.watch)
            await pyfuse3.main(min_tasks=_TASKS_MAX, max_tasks=_TASKS_MAX)  # none ends before, as one in turn might
            nursery.cancel_scope.cancel()
    finally:
        _loop.device.close()
