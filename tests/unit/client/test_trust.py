"""For how long a client may believe what it has leases on. Time is trio's, and jumps."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from dfs.client.trust import Trust
from tests.simulation.disk import InlineRuntime

TIMEOUT_S = 30.0


class Machine(InlineRuntime):
    """While it is suspended trio's clock stands still."""

    suspended_s = 0.0

    def boot_s(self) -> float:
        return trio.current_time() + self.suspended_s


@pytest.fixture
def machine() -> Machine:
    return Machine()


def begun(machine: Machine) -> Trust:
    trust = Trust(machine)
    trust.begin(TIMEOUT_S, trio.current_time(), trust.look_at_clocks(), is_leased=True)
    return trust


async def test_an_answer_to_what_was_asked_before_a_stop_tells_nothing_of_now(
    machine: Machine, autojump_clock: trio.testing.MockClock
) -> None:
    trust, asked_at = begun(machine), trio.current_time()
    await trio.sleep(1)
    machine.suspended_s += 2 * TIMEOUT_S
    assert not trust.holds
    assert trust.notice_stop() == pytest.approx(2 * TIMEOUT_S)
    trust.hear(asked_at)
    assert not trust.holds
    trust.hear(trio.current_time())
    assert trust.holds


async def test_what_is_owed_is_waited_for_while_the_machine_is_stopped(
    machine: Machine, autojump_clock: trio.testing.MockClock
) -> None:
    trust = begun(machine)
    trust.owe("a recall")
    await trio.sleep(1)
    machine.suspended_s += TIMEOUT_S / 2 - 5
    trust.notice_stop()
    trust.hear(trio.current_time())
    assert trust.holds
    await trio.sleep(5)
    assert not trust.holds
    trust.answered("a recall")
    assert trust.holds
