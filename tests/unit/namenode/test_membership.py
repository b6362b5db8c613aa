"""Which DataNodes there are, by what they say and by how long they say nothing. Time is trio's, and jumps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import trio
import trio.testing

from dfs import errors, limits
from dfs.types import NodeState
from nodes.namenode.membership import Membership
from tests.simulation.disk import InlineRuntime
from tests.unit.namenode.world import Namespace

SUSPECT_S, DEAD_S, WINDOW_S = 10.0, 60.0, 300.0
REPORT = {"capacity_bytes": 1000, "free_bytes": 400, "chunks": 7, "load": 2}


def info(node: object = "n1", **changes: Any) -> Mapping[str, Any]:
    return {"node": node, "address": f"{node}:9401", "host": "h", "rack": "r", "directories": [f"d-{node}"]} | changes


def membership() -> Membership:
    return Membership(InlineRuntime(), SUSPECT_S, DEAD_S, WINDOW_S)


def registered(members: Membership, node: str = "n1", **changes: Any) -> None:
    members.enter(members.check(info(node, **changes)))


def at_work(incarnation: int) -> Membership:
    """With a node `n1` that is up, and says which process it is."""
    members = membership()
    registered(members, incarnation=incarnation)
    members.heard("n1", REPORT | {"incarnation": incarnation})
    return members


def watched(nursery: trio.Nursery) -> Membership:
    """With a node `n1` that is up."""
    members = membership()
    registered(members)
    members.heard("n1", REPORT)
    nursery.start_soon(members.watch)
    return members


def states(members: Membership) -> dict[str, str]:
    return {view.node: view.state.value for view in members.views()}


async def test_a_node_counts_as_up_from_its_first_heartbeat(autojump_clock: trio.testing.MockClock) -> None:
    members = membership()
    registered(members)
    assert states(members) == {"n1": "suspect"}
    members.heard("n1", REPORT)
    view = members.views()[0]
    assert (view.state, view.address, view.host, view.rack) == (NodeState.UP, "n1:9401", "h", "r")
    assert (view.capacity_bytes, view.free_bytes, view.chunks, view.load) == (1000, 400, 7, 2)


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_when_all_fell_silent_together_and_one_is_back_the_others_are_waited_for(
    autojump_clock: trio.testing.MockClock, is_restarted: bool
) -> None:
    """The NameNode was cut off, or their power was: there is nothing to make copies of."""
    members = membership()
    for node in ("n1", "n2", "gone", "stopped"):
        registered(members, node)
        members.heard(node, REPORT)
    await trio.sleep(SUSPECT_S - 1)
    members.heard("n1", REPORT)
    await trio.sleep(SUSPECT_S - 1)
    members.heard("n2", REPORT)
    members.heard("stopped", REPORT)
    members.farewell("stopped")
    assert not members.hears_nobody()
    await trio.sleep(SUSPECT_S)
    assert members.hears_nobody()
    await trio.sleep(DEAD_S)
    assert states(members) == {"n1": "dead", "n2": "dead", "gone": "dead", "stopped": "suspect"}
    if is_restarted:
        registered(members, "n2", incarnation=2)
        assert states(members) == {"n1": "suspect", "n2": "suspect", "gone": "dead", "stopped": "suspect"}
    members.heard("n2", REPORT | {"incarnation": 2} if is_restarted else REPORT)
    assert not members.hears_nobody()
    assert states(members) == {"n1": "suspect", "n2": "up", "gone": "dead", "stopped": "suspect"}
    await trio.sleep(DEAD_S - SUSPECT_S)
    assert states(members) == {"n1": "dead", "n2": "suspect", "gone": "dead", "stopped": "suspect"}


async def test_a_node_that_falls_silent_is_suspect_then_dead_and_back_with_a_heartbeat(
    autojump_clock: trio.testing.MockClock,
) -> None:
    members = membership()
    registered(members)
    members.heard("n1", REPORT)
    await trio.sleep(SUSPECT_S - 0.1)
    assert states(members) == {"n1": "up"}
    await trio.sleep(0.2)
    assert states(members) == {"n1": "suspect"}
    await trio.sleep(DEAD_S - SUSPECT_S)
    assert states(members) == {"n1": "dead"}
    members.heard("n1", REPORT)
    assert states(members) == {"n1": "up"}


async def test_a_node_that_said_farewell_is_not_given_up_before_the_maintenance_window_is_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    members = membership()
    registered(members)
    members.heard("n1", REPORT)
    changed = members.changed
    members.farewell("n1")
    assert changed.is_set()
    assert states(members) == {"n1": "suspect"}  # no new data, from the first moment
    await trio.sleep(WINDOW_S - 1)
    assert states(members) == {"n1": "suspect"}
    await trio.sleep(2)
    assert states(members) == {"n1": "dead"}


async def test_a_node_that_comes_back_in_its_maintenance_window_and_dies_then_is_dead_as_any(
    autojump_clock: trio.testing.MockClock,
) -> None:
    members = membership()
    registered(members)
    members.heard("n1", REPORT)
    members.farewell("n1")
    registered(members)
    members.heard("n1", REPORT)
    assert states(members) == {"n1": "up"}
    await trio.sleep(DEAD_S + 1)
    assert states(members) == {"n1": "dead"}


async def test_nobody_unknown_says_farewell() -> None:
    with pytest.raises(errors.NotFound, match="no DataNode n9"):
        membership().farewell("n9")


async def test_who_watches_hears_of_each_change_of_state_once(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    members = watched(nursery)
    began = trio.current_time()
    heard: list[tuple[str, int]] = []
    for _ in range(2):
        await members.changed.wait()
        heard.append((states(members)["n1"], round(trio.current_time() - began)))
    assert [state for state, _ in heard] == ["suspect", "dead"]
    assert heard[0][1] in (10, 11)
    assert heard[1][1] in (60, 61)
    changed = members.changed
    members.heard("n1", REPORT)
    assert changed.is_set()
    changed = members.changed
    members.heard("n1", REPORT)
    assert not changed.is_set()
    nursery.cancel_scope.cancel()


async def test_a_node_all_of_whose_disks_failed_is_suspect_and_says_so_once(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    members = watched(nursery)
    changed = members.changed
    members.heard("n1", REPORT | {"capacity_bytes": 0, "free_bytes": 0})
    assert changed.is_set()
    changed = members.changed
    for _ in range(20):
        assert states(members) == {"n1": "suspect"}
        await trio.sleep(1)
        members.heard("n1", REPORT | {"capacity_bytes": 0, "free_bytes": 0})
    assert not changed.is_set()
    members.heard("n1", REPORT)
    assert states(members) == {"n1": "up"}
    assert changed.is_set()
    nursery.cancel_scope.cancel()


async def test_after_a_restart_known_nodes_are_asked_to_register_and_given_time(
    autojump_clock: trio.testing.MockClock, space: Namespace
) -> None:
    members = membership()
    members.load(space.queries.nodes())
    assert states(members) == {"n1": "suspect", "n2": "suspect", "n3": "suspect"}
    with pytest.raises(errors.NotFound, match="has to register"):
        members.heard("n1", REPORT)
    await trio.sleep(DEAD_S - 1)
    registered(members)
    members.heard("n1", REPORT)
    assert states(members) == {"n1": "up", "n2": "suspect", "n3": "suspect"}
    await trio.sleep(1.1)
    assert states(members) == {"n1": "up", "n2": "dead", "n3": "dead"}


async def test_while_the_namenode_stands_still_no_node_falls_silent(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    members = watched(nursery)
    await trio.sleep(SUSPECT_S / 4)
    autojump_clock.jump(2 * DEAD_S)
    await trio.sleep(SUSPECT_S / 4)
    assert states(members) == {"n1": "up"}
    nursery.cancel_scope.cancel()


async def test_a_node_heard_as_the_namenode_goes_on_and_then_silent_is_dead_as_soon_as_any(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    members = watched(nursery)
    await trio.sleep(SUSPECT_S / 4)
    autojump_clock.jump(20 * DEAD_S)
    members.heard("n1", REPORT)
    await trio.sleep(1.2 * DEAD_S)
    assert states(members) == {"n1": "dead"}
    nursery.cancel_scope.cancel()


async def test_what_a_node_reported_before_it_registered_again_does_not_count() -> None:
    """It may have another disk now."""
    members, everything = membership(), 2**63
    registered(members)
    before = members.registered("n1")
    registered(members)
    assert not members.reported(before, 1, everything)
    assert members.unreported == {"n1"}
    assert members.reported(members.registered("n1"), 1, everything)
    assert not members.unreported


async def test_a_stranger_has_to_register_first(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(errors.NotFound, match="has to register"):
        membership().heard("stranger", REPORT)


async def test_a_name_that_is_taken_is_refused_while_its_owner_lives(autojump_clock: trio.testing.MockClock) -> None:
    members = membership()
    registered(members)
    members.heard("n1", REPORT)
    with pytest.raises(errors.Exists, match="another name"):
        members.check(info(directories=["d-other"]))
    assert members.views()[0].address == "n1:9401"
    await trio.sleep(SUSPECT_S + 1)
    registered(members, directories=["d-new"], address="elsewhere:1")  # its disks were replaced
    assert members.views()[0].address == "elsewhere:1"


async def test_of_two_processes_with_one_identity_the_second_waits_until_the_first_is_silent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    members = at_work(1)
    copy = info(address="copy:1", incarnation=2)
    with pytest.raises(errors.Busy, match="with the same directories is at work at n1:9401"):
        members.check(copy)
    for foreign in (REPORT, REPORT | {"incarnation": 2}):
        with pytest.raises(errors.NotFound, match="has to register"):
            members.heard("n1", foreign)
    with pytest.raises(errors.NotFound, match="another process"):
        members.farewell("n1", 2)
    assert states(members) == {"n1": "up"}
    registered(members, address="moved:1", incarnation=1)  # the same process
    registered(members, address="moved:1", incarnation=3)  # it was killed, or it could not have its port back
    members.heard("n1", REPORT | {"incarnation": 3})
    await trio.sleep(SUSPECT_S + 1)
    members.enter(members.check(copy))
    with pytest.raises(errors.NotFound, match="has to register"):
        members.heard("n1", REPORT | {"incarnation": 3})


async def test_a_node_that_stopped_in_order_may_begin_elsewhere_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    members = at_work(1)
    members.farewell("n1", 1)
    registered(members, address="moved:1", incarnation=2)
    assert members.views()[0].address == "moved:1"


async def test_a_node_that_moves_keeps_its_name_by_any_of_its_directories(
    autojump_clock: trio.testing.MockClock,
) -> None:
    members = membership()
    registered(members, directories=["d1", "d2"])
    members.heard("n1", REPORT)
    changed = members.changed
    registered(members, directories=["d2", "d3"], address="moved:1")
    assert changed.is_set()
    assert members.views()[0].address == "moved:1"


WRONG: list[Any] = [
    "n1",
    {},
    info(node=7),
    info(node="x" * 65),
    info(node="n1,n2"),
    info(node=""),
    info(address=None),
    info(directories="d"),
    info(directories=[1]),
    info(rack=b"r"),
]


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_registration_that_makes_no_sense_is_refused(
    autojump_clock: trio.testing.MockClock, wrong: Any
) -> None:
    with pytest.raises(errors.InvalidArgument):
        membership().check(wrong)


@pytest.mark.parametrize("key", list(REPORT))
async def test_a_heartbeat_that_makes_no_sense_is_none(autojump_clock: trio.testing.MockClock, key: str) -> None:
    members = membership()
    registered(members)
    for value in (-1, None, "much"):
        with pytest.raises(errors.InvalidArgument):
            members.heard("n1", REPORT | {key: value})
    assert members.views()[0].last_heartbeat_ns == 0


async def test_space_is_short_when_a_node_that_new_files_need_is_nearly_full(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SPACE_SHORT_BYTES", 100)
    members = Membership(InlineRuntime(), SUSPECT_S, DEAD_S, WINDOW_S, copies=2)
    for node in ("n1", "n2", "n3"):
        registered(members, node)
    told: list[bool] = []

    async def after(*free: int) -> bool:
        for node, free_bytes in zip(("n1", "n2", "n3"), free, strict=False):
            members.heard(node, {**REPORT, "free_bytes": free_bytes})
        await trio.sleep(SUSPECT_S / 5)
        return members.is_space_short

    async with trio.open_nursery() as nursery:
        nursery.start_soon(members.watch)
        told = [
            await after(400, 400, 10),  # files find room on the other two
            await after(400, 99, 10),
            await after(400, 101, 10),
            await after(99, 99, 99),
        ]
        await trio.sleep(SUSPECT_S)  # they fall silent, and nobody knows
        told.append(members.is_space_short)
        nursery.cancel_scope.cancel()
    assert told == [False, True, False, True, False]
