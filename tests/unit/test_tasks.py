"""Nurseries that raise what went wrong in them as it was; locks that cost little."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from dfs import errors, tasks


async def fail(error: Exception) -> None:
    raise error


async def test_a_single_error_comes_out_as_itself() -> None:
    with pytest.raises(errors.NotFound, match="gone"):
        async with tasks.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(fail, errors.NotFound("gone"))


async def test_the_bodys_own_error_comes_out_as_itself_however_deep() -> None:
    with pytest.raises(ValueError, match="body"):
        async with tasks.open_nursery():
            async with tasks.open_nursery():
                async with trio.open_nursery():
                    raise ValueError("body")


async def test_of_several_errors_the_others_are_noted() -> None:
    with pytest.raises((ValueError, KeyError)) as caught:
        async with tasks.open_nursery() as nursery:
            nursery.start_soon(fail, ValueError("one"))
            nursery.start_soon(fail, KeyError("other"))
    (note,) = caught.value.__notes__
    assert note.startswith("and at the same time: ")
    assert ("KeyError" in note) == isinstance(caught.value, ValueError)


async def test_cancellation_passes_to_the_scope_that_it_belongs_to() -> None:
    with trio.CancelScope() as scope:
        async with tasks.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            scope.cancel()
    assert scope.cancelled_caught


async def test_an_error_beats_the_cancellation_that_came_with_it() -> None:
    async def fails_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("while stopping")

    with pytest.raises(ValueError, match="while stopping"):
        with trio.CancelScope() as scope:
            async with tasks.open_nursery() as nursery:
                nursery.start_soon(fails_when_cancelled)
                nursery.start_soon(trio.sleep_forever)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()


async def test_nothing_wrong_raises_nothing() -> None:
    ran = []
    async with tasks.open_nursery() as nursery:
        nursery.start_soon(trio.lowlevel.checkpoint)
        ran.append(1)
    assert ran


def test_leaves_of_a_group_and_of_an_error() -> None:
    first, second = ValueError("1"), KeyError("2")
    group = ExceptionGroup("", [ExceptionGroup("", [first]), second])
    assert tasks.leaves(group) == [first, second]
    assert tasks.leaves(first) == [first]


def test_a_reason_is_never_empty() -> None:
    assert tasks.reason(errors.NotFound("gone")) == "gone"
    assert tasks.reason(trio.TooSlowError()) == "TooSlowError"
    assert tasks.reason(ExceptionGroup("", [ValueError("inner")])) == "inner"


async def test_a_lock_that_is_free_is_taken_at_once_and_one_that_is_not_is_waited_for() -> None:
    lock, order = trio.Lock(), []

    async def hold(name: str) -> None:
        async with tasks.holding(lock):
            order.append(f"{name} has it")
            await trio.sleep(1)
            order.append(f"{name} gives it back")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold, "first")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(hold, "second")
    assert order == ["first has it", "first gives it back", "second has it", "second gives it back"]
    with trio.CancelScope() as scope:
        scope.cancel()
        async with tasks.holding(lock):  # it does not look whether it was cancelled, as it waits for nothing
            order.append("third has it")
    assert order[-1] == "third has it" and not lock.locked()


async def test_who_gives_up_waiting_for_a_lock_does_not_get_it_later() -> None:
    lock = trio.Lock()
    async with tasks.holding(lock):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_give_up, lock)
    assert not lock.locked()


async def _give_up(lock: trio.Lock) -> None:
    with trio.move_on_after(0):
        async with tasks.holding(lock):
            raise AssertionError("it was held")
