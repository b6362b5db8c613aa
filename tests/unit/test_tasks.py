"""Nurseries that raise what went wrong in them as it was."""

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
