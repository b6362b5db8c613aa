"""The mount's loop, as pyfuse3's tasks use it, with a pipe in place of the kernel: each byte is a request."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import trio
import trio.testing

pytest.importorskip("pyfuse3", reason="the mount needs pyfuse3")

from mount import loop
from mount.device import Device

_PATIENCE_S = 20


class Begun(Device):
    """Nothing is to be negotiated."""

    has_begun = True


class Pipe(NamedTuple):
    reading: int
    writing: int


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    yield Pipe(reading, writing)
    os.close(reading)


class Kernel:
    """What answers requests: `w` waits until it is told to go on, all else is answered at once."""

    def __init__(self, pipe: Pipe, tasks: int) -> None:
        self.loop = loop.Loop(Begun())
        self.answers: list[bytes] = []
        self.answered = trio.Event()
        self.go_on = trio.Event()
        self._pipe = pipe
        self._tasks = tasks

    async def serve(self) -> None:
        """Until the writing end is closed, as pyfuse3's tasks do."""
        async with trio.open_nursery() as nursery:
            for _ in range(self._tasks):
                nursery.start_soon(self._task)

    async def _task(self) -> None:
        while True:
            async with self.loop.turn:
                await self.loop.wait_readable(self._pipe.reading)
            request = os.read(self._pipe.reading, 1)  # raises if another task took it
            if not request:
                return
            if request == b"e":  # the connection ends just when somebody has been let in
                os.close(self._pipe.writing)
                return
            await self.loop.handled(self._answer(request))

    async def _answer(self, request: bytes) -> None:
        if request == b"w":
            await self.go_on.wait()
        elif request == b"x":
            raise ValueError("a request that fails")
        self.answers.append(request)
        self.answered.set()
        self.answered = trio.Event()

    async def has_answered(self, count: int) -> None:
        while len(self.answers) < count:
            await self.answered.wait()


async def test_requests_are_answered_in_order_and_all_tasks_end_with_the_connection(pipe: Pipe) -> None:
    kernel = Kernel(pipe, tasks=5)
    with trio.fail_after(_PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kernel.serve)
            await trio.testing.wait_all_tasks_blocked()
            for number in range(50):
                os.write(pipe.writing, b"%d" % (number % 10))
            await kernel.has_answered(50)
            os.close(pipe.writing)
    assert kernel.answers == [b"%d" % (number % 10) for number in range(50)]


async def test_a_request_that_waits_does_not_keep_up_the_next_ones(pipe: Pipe) -> None:
    kernel = Kernel(pipe, tasks=3)
    with trio.fail_after(_PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kernel.serve)
            os.write(pipe.writing, b"w1w2")
            await kernel.has_answered(2)
            assert sorted(kernel.answers) == [b"1", b"2"], "two wait"
            kernel.go_on.set()
            await kernel.has_answered(4)
            os.close(pipe.writing)


async def test_others_get_a_turn_while_requests_come_without_a_pause(pipe: Pipe) -> None:
    kernel = Kernel(pipe, tasks=2)
    os.write(pipe.writing, b"." * 60_000)
    turns = 0
    with trio.fail_after(_PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kernel.serve)
            while len(kernel.answers) < 60_000:
                await trio.lowlevel.checkpoint()
                turns += 1
            os.close(pipe.writing)
    assert turns > 10


async def test_a_handler_that_fails_after_it_waited_fails_for_who_called_it(pipe: Pipe) -> None:
    door = loop.Loop(Begun())

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise KeyError("late")

    with pytest.raises(KeyError, match="late"):
        await door.handled(fail())
    os.close(pipe.writing)


async def test_a_handler_that_is_cancelled_while_it_waits_is_told_so() -> None:
    door = loop.Loop(Begun())
    heard = False

    async def wait() -> None:
        nonlocal heard
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            heard = True
            raise

    with trio.move_on_after(0) as scope:
        await door.handled(wait())
    assert scope.cancelled_caught
    assert heard


async def test_all_tasks_end_with_a_connection_that_ends_between_being_let_in_and_reading(
    pipe: Pipe, autojump_clock: trio.testing.MockClock
) -> None:
    kernel = Kernel(pipe, 4)
    with trio.fail_after(_PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kernel.serve)
            nursery.start_soon(kernel.loop.watch)
            await trio.testing.wait_all_tasks_blocked()
            os.write(pipe.writing, b"e")


async def test_who_is_woken_for_a_request_that_has_gone_meanwhile_goes_on_waiting(pipe: Pipe) -> None:
    kernel = Kernel(pipe, 1)
    with trio.fail_after(_PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kernel.serve)
            await trio.testing.wait_all_tasks_blocked()
            os.write(pipe.writing, b"1")
            assert os.read(pipe.reading, 1) == b"1"  # as the kernel takes back what a killed process has asked
            await trio.testing.wait_all_tasks_blocked(0.05)
            os.write(pipe.writing, b"2")
            await kernel.has_answered(1)
            os.close(pipe.writing)
    assert kernel.answers == [b"2"]
