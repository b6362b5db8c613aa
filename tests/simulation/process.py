"""Processes of the simulated cluster: each is a task with a network, a clock, chance and blocking work of its own.

A crash takes a process away between two of its steps: its connections break, its disks refuse everything, and the
task is cancelled with all shields taken off, so that no `finally` of its code can send or write anything any more. What
`run_blocking` had in work has happened wholly or not at all; to stop a disk half-way there is
`MemoryDisk.power_off_after`. A crashed process is gone when `gone` is set; only then may another one take its name.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar, TypeVarTuple

import trio

from dfs import errors
from dfs.rpc.handover import Inbox
from dfs.rpc.network import Listener, Stream
from dfs.runtime import Usage
from tests.simulation.clock import virtual
from tests.simulation.disk import InlineWorkers, MemoryDisk, PowerOff
from tests.simulation.network import MemoryNetwork
from tests.simulation.story import Story, is_alive, who

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

START_NS: Final = 1_700_000_000_000_000_000
_LONG: Final = 30
_LONG_SHARE: Final = 0.03
"""So often blocking work takes up to so many times as long as it does else, as disks do: others come in between."""
_STEPS_MAX: Final = 100_000
"""Of a crashed process, until it is gone: more are a loop that swallows its cancellation."""


class Clock:
    """A machine's wall clock: wrong by `offset_s`."""

    def __init__(self) -> None:
        self.offset_s = 0.0

    def now_ns(self) -> int:
        return START_NS + round((trio.current_time() + self.offset_s) * 1e9)


class Life:
    """One life of a process, from its start to its end. It is what `main` gets: a Network and a Runtime.

    `delay_s` is the longest time that blocking work takes.
    """

    def __init__(self, name: str, network: MemoryNetwork, chance: random.Random, clock: Clock) -> None:
        self.name = name
        self.alive = [True]
        self.scope = trio.CancelScope()
        self.gone = trio.Event()
        self.random = chance
        self.delay_s = 0.002
        self._clock = clock
        self._network = network
        self._host = network.host(name)

    # --- Runtime

    def now_ns(self) -> int:
        return self._clock.now_ns()

    def boot_s(self) -> float:
        return trio.current_time()

    async def run_blocking(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        before, after = self._delays()
        with trio.CancelScope(shield=True):  # as a thread, which cannot be cancelled half-way
            await virtual().sleep(before)
            if not self.alive[0]:
                await trio.sleep_forever()
            try:
                result = work(*args)
            finally:
                await virtual().sleep(after)
        return result

    async def run_abandonable(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        return await self.run_blocking(work, *args)

    def workers(self, most: int) -> InlineWorkers:
        return InlineWorkers(self)

    def usage(self) -> Usage:
        return Usage(0.0, 0.0)

    def _delays(self) -> tuple[float, float]:
        """Others run before, or after, or both."""
        delay_s = self.random.random() * self.delay_s * (_LONG if self.random.random() < _LONG_SHARE else 1)
        return self.random.choice(((delay_s, 0.0), (0.0, delay_s)))

    # --- Network

    async def connect(self, address: str, timeout_s: float) -> Stream:
        self._check_alive()
        stream = await self._host.connect(address, timeout_s)
        if not self.alive[0]:
            self._network.crash(self.name)
            self._check_alive()
        return stream

    async def listen(self, address: str) -> Listener:
        self._check_alive()
        return await self._host.listen(address)

    def inbox(self) -> Inbox | None:
        return self._host.inbox()

    def _check_alive(self) -> None:
        if not self.alive[0]:
            raise errors.Unreachable(f"{self.name} has crashed")


class Process:
    """A daemon or client by name, in any number of lives, one at a time. `main` is its code."""

    def __init__(
        self,
        name: str,
        main: Callable[[Life], Awaitable[None]],
        seed: str,
        network: MemoryNetwork,
        nursery: trio.Nursery,
        story: Story,
    ) -> None:
        self.name = name
        self.clock = Clock()
        self.disks: list[MemoryDisk] = []
        self.lives = 0
        self.life: Life | None = None
        self.delay_s = 0.002
        self.may_end = False
        """It may end by itself, with an error: its disks are broken."""
        self._main = main
        self._seed = seed
        self._network = network
        self._nursery = nursery
        self._story = story

    @property
    def is_up(self) -> bool:
        return self.life is not None and self.life.alive[0] and not self.life.gone.is_set()

    def start(self) -> Life:
        """Begin a life. The one before is gone."""
        assert self.life is None or self.life.gone.is_set(), self.name
        self.lives += 1
        chance = random.Random(f"{self._seed}/{self.name}/{self.lives}")
        life = self.life = Life(self.name, self._network, chance, self.clock)
        life.delay_s = self.delay_s
        for disk in self.disks:
            disk.on_power_off = lambda: self.cut(power=True)
        self._story.tell(self.name, f"starts (life {self.lives})")
        self._nursery.start_soon(self._live, life)
        return life

    async def _live(self, life: Life) -> None:
        who.set(self.name)
        is_alive.set(life.alive)
        try:
            with life.scope:
                await self._main(life)
        except* PowerOff:
            assert not life.alive[0]
        except* Exception as group:  # noqa: BLE001 - it is the boundary of the process
            if life.alive[0]:
                self._ended(group)
        if not life.alive[0]:
            await trio.lowlevel.checkpoint()
            return  # `_bury` does the rest
        self._network.crash(self.name)
        for disk in self.disks:
            disk.kill()
        self._story.tell(self.name, "has ended")
        life.gone.set()

    def _ended(self, group: BaseExceptionGroup[Exception]) -> None:
        what = f"{self.name} ended by itself: {', '.join(map(_shown, _leaves(group)))}"
        if self.may_end:
            self._story.tell(self.name, what)
        else:
            self._story.violated(self.name, what)

    # --- ends -------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """As SIGTERM does."""
        if self.life is not None:
            self._story.tell(self.name, "is asked to stop")
            self.life.scope.cancel()
            await self.life.gone.wait()

    async def crash(self, *, power: bool) -> None:
        """Gone, now. `power`: and its machine's memory, with all that was not synced."""
        life = self.life
        self.cut(power=power)
        if life is not None:
            await life.gone.wait()

    def cut(self, *, power: bool) -> None:
        """Begin a crash: from now on nothing that the process does has any effect."""
        life = self.life
        if life is None or not life.alive[0] or life.gone.is_set():
            return
        life.alive[0] = False
        self._story.tell(self.name, "loses power" if power else "is killed")
        self._network.crash(self.name)
        for disk in self.disks:
            disk.on_power_off = None
            disk.power_off_after(0)
        life.scope.cancel()
        self._nursery.start_soon(self._bury, life, power)

    async def _bury(self, life: Life, power: bool) -> None:
        ended = life.scope
        for _ in range(_STEPS_MAX):
            status = ended._cancel_status
            if status is None:
                break
            for scope in list(_scopes_below(status)):
                scope.shield = False
            await trio.lowlevel.checkpoint()
        else:
            raise AssertionError(f"{self.name} does not let itself be cancelled")
        self._network.crash(self.name)
        for disk in self.disks:
            if power:
                disk.crash(life.random)
            else:
                disk.kill()
        self._story.tell(self.name, "is gone")
        life.gone.set()


def _scopes_below(status: Any) -> Iterator[trio.CancelScope]:
    for child in status._children:
        yield child._scope
        yield from _scopes_below(child)


def _shown(error: BaseException) -> str:
    """With the place where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}: {error}"


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
