"""Copies and the scrub make way for users."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from dfs import errors, limits
from nodes.datanode.users import Background, Users

STEP_S = 0.03


async def took(background: Background, steps: int) -> float:
    """How long so many steps take that are wanted at once."""

    async def work() -> None:
        async with background.step():
            await trio.sleep(STEP_S)

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(steps):
            nursery.start_soon(work)
    return trio.current_time() - began


async def test_steps_go_one_by_one_with_rests_while_users_are_here(autojump_clock: trio.testing.MockClock) -> None:
    users = Users()
    background = Background(users)
    assert await took(background, 10) == pytest.approx(STEP_S)
    with users.call():
        assert users.are_here
        await trio.sleep(10)
        assert await took(background, 10) == pytest.approx(STEP_S * (10 + 9))
    assert await took(background, 3) == pytest.approx(STEP_S * (3 + 3))  # users who have just been here count
    await trio.sleep(limits.USERS_GONE_AFTER_S)
    assert not users.are_here
    assert await took(background, 10) == pytest.approx(STEP_S)


async def test_who_waited_for_his_turn_does_not_rest_when_users_have_gone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    users = Users()
    background = Background(users)
    with users.call():
        pass
    steps = int(10 * limits.USERS_GONE_AFTER_S / STEP_S)
    assert await took(background, steps) == pytest.approx(
        STEP_S * steps + limits.USERS_GONE_AFTER_S / 2, abs=2 * STEP_S
    )


async def test_a_long_step_is_followed_by_a_short_rest(autojump_clock: trio.testing.MockClock) -> None:
    users = Users()
    background = Background(users)
    with users.call():
        async with background.step():
            await trio.sleep(60)
        began = trio.current_time()
        async with background.step():
            assert trio.current_time() - began == pytest.approx(limits.COPY_REST_MAX_S)


async def test_a_turn_that_is_too_far_off_is_refused_and_one_that_fails_is_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    users = Users()
    background = Background(users)

    async def come_too_late() -> None:
        with pytest.raises(errors.Busy):
            async with background.step(1.0):
                raise AssertionError("two steps at a time")

    with users.call():
        with pytest.raises(KeyError):
            async with background.step(1.0):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(come_too_late)
                raise KeyError
        assert await took(background, 1) <= STEP_S + limits.COPY_REST_MAX_S


async def test_a_call_that_fails_is_over(autojump_clock: trio.testing.MockClock) -> None:
    users = Users()
    with pytest.raises(KeyError), users.call():
        assert users.in_work == 1
        raise KeyError
    assert users.in_work == 0 and users.are_here
