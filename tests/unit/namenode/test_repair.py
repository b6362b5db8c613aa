"""What repair plans for a chunk: copies where there are too few, none dropped that might be the last."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from dfs import limits
from dfs.types import ChunkId, NodeId, NodeState, NodeView
from nodes.namenode.repair import ChunkState, Plan, plan
from tests.unit.namenode.world import node_view

NAMES = [NodeId(f"n{number}") for number in range(8)]


def views(*each: NodeView) -> dict[NodeId, NodeView]:
    return {view.node: view for view in each}


def planned(
    nodes: dict[NodeId, NodeView],
    holders: tuple[str, ...],
    wanted: int = 3,
    busy: dict[NodeId, int] | None = None,
    short: tuple[str, ...] = (),
) -> Plan:
    chunk = ChunkState(ChunkId(1), 100, wanted, tuple(map(NodeId, holders)))
    return plan(chunk, nodes, busy or {}, random.Random(1), tuple(map(NodeId, short)))


def test_a_copy_whose_node_died_is_made_again() -> None:
    nodes = views(*map(node_view, ("n1", "n2", "n4")), node_view("n3", state=NodeState.DEAD))
    assert planned(nodes, ("n1", "n2", "n3")) == Plan([NodeId("n4")], [], 2)


def test_a_silent_node_is_waited_for() -> None:
    nodes = views(*map(node_view, ("n1", "n2", "n4")), node_view("n3", state=NodeState.SUSPECT))
    assert planned(nodes, ("n1", "n2", "n3")) == Plan([], [], 3)


def test_nothing_can_be_copied_from_nowhere() -> None:
    nodes = views(node_view("n1", state=NodeState.DEAD), node_view("n2"))
    assert planned(nodes, ("n1",)) == Plan([], [], 0)
    assert planned(nodes, ()) == Plan([], [], 0)
    assert planned(nodes, ("n2",), short=("n2",)) == Plan([], [], 0)


def test_the_surplus_goes_from_the_fullest_node() -> None:
    nodes = views(*(node_view(f"n{number}", free_bytes=free) for number, free in ((1, 900), (2, 100), (3, 500))))
    assert planned(nodes, ("n1", "n2", "n3"), wanted=2) == Plan([], [NodeId("n2")], 3)


def test_a_silent_nodes_copy_is_no_reason_to_drop_another() -> None:
    nodes = views(node_view("n1"), node_view("n2"), node_view("n3", state=NodeState.SUSPECT))
    assert planned(nodes, ("n1", "n2", "n3"), wanted=2) == Plan([], [], 3)


def test_a_short_copy_is_replaced_first_and_dropped_then() -> None:
    nodes = views(*map(node_view, ("n1", "n2", "n3")))
    assert planned(nodes, ("n1", "n2"), wanted=2, short=("n2",)) == Plan([NodeId("n3")], [], 1)
    assert planned(nodes, ("n1", "n2", "n3"), wanted=2, short=("n2",)) == Plan([], [NodeId("n2")], 2)


def test_a_new_copy_goes_to_a_rack_that_has_none() -> None:
    nodes = views(
        *(node_view(name, rack="a") for name in ("n1", "n2", "n3", "n4", "n5")),
        node_view("n6", rack="b", free_bytes=150),
    )
    assert planned(nodes, ("n1", "n2")).targets == [NodeId("n6")]


def test_a_node_makes_few_copies_at_once() -> None:
    nodes = views(*map(node_view, ("n1", "n2", "n3")))
    busy = {NodeId("n3"): limits.COPIES_IN_FLIGHT_MAX}
    assert planned(nodes, ("n1", "n2"), busy=busy).targets == []


NODES = st.lists(
    st.tuples(st.sampled_from(NodeState), st.sampled_from(["a", "b", "c"]), st.integers(0, 300), st.integers(0, 3)),
    min_size=len(NAMES),
    max_size=len(NAMES),
)


@given(NODES, st.sets(st.sampled_from(NAMES)), st.sets(st.sampled_from(NAMES)), st.integers(1, 4), st.integers(0, 99))
def test_whatever_the_nodes_no_plan_loses_data_or_asks_too_much(
    properties: list[tuple[NodeState, str, int, int]],
    holders: set[NodeId],
    short: set[NodeId],
    wanted: int,
    seed: int,
) -> None:
    nodes = {
        name: node_view(name, state=state, rack=rack, free_bytes=free)
        for name, (state, rack, free, _) in zip(NAMES, properties, strict=True)
    }
    busy = {name: copies for name, (*_, copies) in zip(NAMES, properties, strict=True)}
    chunk = ChunkState(ChunkId(1), 100, wanted, tuple(sorted(holders)))
    result = plan(chunk, nodes, busy, random.Random(seed), short)
    whole = {name for name in holders - short if nodes[name].state == NodeState.UP}
    if result.surplus:
        assert not result.targets
        assert set(result.surplus) <= holders
        assert len(whole - set(result.surplus)) >= wanted
    assert len(set(result.targets)) == len(result.targets) <= max(0, wanted - result.live)
    for target in result.targets:
        assert target not in holders
        assert nodes[target].state == NodeState.UP
        assert nodes[target].free_bytes >= chunk.length
        assert busy[target] < limits.COPIES_IN_FLIGHT_MAX
    assert not result.targets or result.live
