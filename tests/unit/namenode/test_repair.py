"""What repair plans for a chunk: copies where there are too few, none dropped that might be the last."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dfs.placement import Lots
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
    busy: tuple[str, ...] = (),
    short: tuple[str, ...] = (),
    coming: tuple[str, ...] = (),
    unreported: tuple[str, ...] = (),
) -> Plan:
    chunk = ChunkState(ChunkId(1), 100, wanted, tuple(map(NodeId, holders)))
    return plan(
        chunk,
        nodes,
        random.Random(1),
        busy=tuple(map(NodeId, busy)),
        short=tuple(map(NodeId, short)),
        coming=tuple(map(NodeId, coming)),
        unreported=tuple(map(NodeId, unreported)),
    )


def decided(found: Plan) -> tuple[list[NodeId], list[NodeId], int]:
    return found.targets, found.surplus, found.live


def test_a_copy_whose_node_died_is_made_again() -> None:
    nodes = views(*map(node_view, ("n1", "n2", "n4")), node_view("n3", state=NodeState.DEAD))
    found = planned(nodes, ("n1", "n2", "n3"))
    assert decided(found) == (["n4"], [], 2)
    assert found.sources == ["n1", "n2"]


def test_a_copy_that_is_on_its_way_is_not_ordered_again() -> None:
    nodes = views(*map(node_view, ("n1", "n2", "n4", "n5")))
    assert decided(planned(nodes, ("n1", "n2"), coming=("n4",))) == ([], [], 2)
    assert planned(nodes, ("n1",), coming=("n4",)).targets in (["n2"], ["n5"])
    few = views(*map(node_view, ("n1", "n4")))
    assert decided(planned(few, ("n1",), coming=("n4",))) == ([], [], 1)


def test_a_silent_node_is_waited_for() -> None:
    nodes = views(*map(node_view, ("n1", "n2", "n4")), node_view("n3", state=NodeState.SUSPECT))
    assert decided(planned(nodes, ("n1", "n2", "n3"))) == ([], [], 3)


def test_nothing_can_be_copied_from_nowhere() -> None:
    nodes = views(node_view("n1", state=NodeState.DEAD), node_view("n2"))
    assert decided(planned(nodes, ("n1",))) == ([], [], 0)
    assert decided(planned(nodes, ())) == ([], [], 0)
    assert decided(planned(nodes, ("n2",), short=("n2",))) == ([], [], 0)


def test_where_no_node_is_left_the_chunk_is_blocked_and_where_they_are_busy_it_waits() -> None:
    nodes = views(*map(node_view, ("n1", "n2", "n3")))
    assert planned(nodes, ("n1", "n2"), wanted=4, busy=("n3",)).missing == 2
    assert not planned(nodes, ("n1", "n2"), busy=("n3",)).blocked
    assert planned(nodes, ("n1", "n2", "n3"), wanted=4).blocked


def test_the_surplus_goes_from_the_fullest_node() -> None:
    nodes = views(*(node_view(f"n{number}", used_bytes=used) for number, used in ((1, 100), (2, 900), (3, 500))))
    found = planned(nodes, ("n1", "n2", "n3"), wanted=2)
    assert decided(found) == ([], ["n2"], 3)
    assert found.kept == ["n1", "n3"]


def test_the_surplus_does_not_go_from_the_only_copy_in_a_rack_however_full_its_node() -> None:
    nodes = views(
        node_view("n1", rack="a", used_bytes=900), node_view("n2", rack="b"), node_view("n3", rack="b", used_bytes=100)
    )
    assert planned(nodes, ("n1", "n2", "n3"), wanted=2).surplus == ["n3"]


def test_a_silent_nodes_copy_is_no_reason_to_drop_another() -> None:
    nodes = views(node_view("n1"), node_view("n2"), node_view("n3", state=NodeState.SUSPECT))
    assert decided(planned(nodes, ("n1", "n2", "n3"), wanted=2)) == ([], [], 3)


def test_a_copy_that_was_not_reported_yet_counts_but_is_no_reason_to_drop_another() -> None:
    nodes = views(*map(node_view, ("n1", "n2", "n3", "n4")))
    assert decided(planned(nodes, ("n1", "n2"), wanted=2, unreported=("n2",))) == ([], [], 2)
    assert decided(planned(nodes, ("n1", "n2", "n3"), wanted=2, unreported=("n2",))) == ([], [], 3)
    found = planned(nodes, ("n1", "n2", "n3", "n4"), wanted=2, unreported=("n2",))
    assert len(found.surplus) == 1
    assert not {"n2"} & {*found.surplus, *found.kept}


def test_a_copy_that_is_not_whole_is_mended_where_it_is() -> None:
    nodes = views(node_view("n1"), node_view("n2", free_bytes=0), node_view("n3"))
    found = planned(nodes, ("n1", "n2"), wanted=2, short=("n2",))
    assert decided(found) == (["n2"], [], 1) and found.sources == ["n1"]
    assert decided(planned(nodes, ("n1", "n2"), wanted=2, short=("n2",), coming=("n2",))) == ([], [], 1)
    assert planned(nodes, ("n1", "n2"), wanted=3, short=("n2",)).targets == ["n2", "n3"]


def test_copies_none_of_which_is_whole_are_mended_from_one_another() -> None:
    nodes = views(node_view("n1"), node_view("n2"), node_view("n3", state=NodeState.DEAD), node_view("n4"))
    found = planned(nodes, ("n1", "n2", "n3"), short=("n1", "n2", "n3"))
    assert found.targets == found.sources == ["n1", "n2"]
    assert (found.whole, found.missing, found.surplus) == (0, 0, [])
    assert planned(nodes, ("n1", "n3"), short=("n1", "n3")).targets == []  # from whom?


def test_a_copy_that_cannot_be_mended_is_replaced_first_and_dropped_then() -> None:
    nodes = views(*map(node_view, ("n1", "n2", "n3")))
    assert decided(planned(nodes, ("n1", "n2"), wanted=2, short=("n2",), busy=("n2",))) == (["n3"], [], 1)
    assert decided(planned(nodes, ("n1", "n2", "n3"), wanted=2, short=("n2",))) == ([], ["n2"], 2)


def test_a_copy_on_a_node_that_is_emptied_is_replaced_first_and_dropped_then() -> None:
    nodes = views(node_view("n1", draining=True), *map(node_view, ("n2", "n3")))
    found = planned(nodes, ("n1", "n2"), wanted=2)
    assert decided(found) == (["n3"], [], 1)
    assert found.sources == ["n1", "n2"]
    assert decided(planned(nodes, ("n1", "n2", "n3"), wanted=2)) == ([], ["n1"], 2)
    assert planned(nodes, ("n2",), wanted=2).targets == ["n3"]  # it gets no new ones


def test_a_new_copy_goes_to_a_rack_that_has_none() -> None:
    nodes = views(
        *(node_view(name, rack="a") for name in ("n1", "n2", "n3", "n4", "n5")),
        node_view("n6", rack="b", free_bytes=150),
    )
    assert planned(nodes, ("n1", "n2")).targets == ["n6"]


def test_copies_that_are_all_in_one_rack_move_apart_when_another_rack_is_there() -> None:
    """All nodes of rack b were away when the chunk was written: now one copy goes there, and one in rack a goes."""
    nodes = views(node_view("n1", rack="a"), node_view("n2", rack="a", used_bytes=10), node_view("n3", rack="b"))
    found = planned(nodes, ("n1", "n2"), wanted=2)
    assert (found.targets, found.missing) == (["n3"], 0)
    assert planned(nodes, ("n1", "n2", "n3"), wanted=2).surplus == ["n2"]
    assert planned(nodes, ("n1", "n3"), wanted=2).targets == []


class OnlyLookedUp(dict[NodeId, NodeView]):
    """Nodes that are too many to be gone through."""

    def values(self) -> Any:
        raise AssertionError("all nodes were gone through")


def test_of_a_chunk_that_needs_nothing_only_its_holders_are_looked_at() -> None:
    racks = {"n1": "a", "n2": "b", "n3": "b"}
    nodes = OnlyLookedUp(views(*(node_view(name, rack=rack) for name, rack in racks.items())))
    assert decided(planned(nodes, ("n1", "n2"), wanted=2)) == ([], [], 2)
    chunk = ChunkState(ChunkId(1), 100, 2, (NodeId("n2"), NodeId("n3")))
    assert decided(plan(chunk, nodes, random.Random(1), is_one_rack=True)) == ([], [], 2)


NODES = st.lists(
    st.tuples(
        st.sampled_from(NodeState), st.sampled_from(["a", "b", "c"]), st.integers(0, 300), st.booleans(), st.booleans()
    ),
    min_size=len(NAMES),
    max_size=len(NAMES),
)
SOME = st.sets(st.sampled_from(NAMES))


@given(NODES, SOME, SOME, SOME, SOME, st.integers(1, 4), st.integers(0, 99))
def test_whatever_the_nodes_no_plan_loses_data_or_asks_too_much(
    properties: list[tuple[NodeState, str, int, bool, bool]],
    holders: set[NodeId],
    short: set[NodeId],
    coming: set[NodeId],
    unreported: set[NodeId],
    wanted: int,
    seed: int,
) -> None:
    nodes = {
        name: node_view(name, state=state, rack=rack, free_bytes=free, draining=draining)
        for name, (state, rack, free, _, draining) in zip(NAMES, properties, strict=True)
    }
    busy = {name for name, (*_, is_busy, _) in zip(NAMES, properties, strict=True) if is_busy}
    coming -= holders
    chunk = ChunkState(ChunkId(1), 100, wanted, tuple(sorted(holders)))
    chance = random.Random(seed)
    result = plan(chunk, nodes, chance, busy=busy, short=short, coming=coming, unreported=unreported)
    sure = holders - short - unreported
    whole = {name for name in sure if nodes[name].state == NodeState.UP and not nodes[name].draining}
    if result.surplus:
        assert not result.targets
        assert set(result.surplus) <= holders
        assert set(result.kept) == whole - set(result.surplus)
        assert len(result.kept) >= wanted
    most = max(result.missing, 1) if result.whole else len(holders)
    assert len(set(result.targets)) == len(result.targets) <= most
    for target in result.targets:
        assert target not in coming | busy
        assert target not in holders or target in short
        assert nodes[target].state == NodeState.UP
        assert not nodes[target].draining
        assert nodes[target].free_bytes >= chunk.length or target in holders
        assert set(result.sources) - {target}


@given(NODES, SOME, st.integers(1, 4), st.integers(0, 99))
def test_plan_after_plan_a_chunk_comes_to_rest_with_its_copies_apart(
    properties: list[tuple[NodeState, str, int, bool, bool]], holders: set[NodeId], wanted: int, seed: int
) -> None:
    """Each plan carried out, a few steps are enough, and then there is nothing more to do."""
    nodes = {
        name: node_view(name, state=state, rack=rack, free_bytes=free, draining=draining)
        for name, (state, rack, free, _, draining) in zip(NAMES, properties, strict=True)
    }
    chance = random.Random(seed)
    chunk = ChunkState(ChunkId(1), 100, wanted, tuple(sorted(holders)))
    for _ in range(2 * len(NAMES)):
        result = plan(chunk, nodes, chance)
        if not result.targets and not result.surplus:
            break
        left = (set(chunk.holders) | set(result.targets)) - set(result.surplus)
        chunk = chunk._replace(holders=tuple(sorted(left)))
    assert not result.targets
    assert not result.surplus
    good = [name for name in chunk.holders if nodes[name].state != NodeState.DEAD and not nodes[name].draining]
    assert len(good) >= wanted or result.blocked or not result.sources


def test_targets_are_drawn_from_the_nodes_that_may_take_the_chunk_without_looking_at_all() -> None:
    nodes = {
        view.node: view
        for view in (
            node_view(f"n{at}", rack="abc"[at % 3], free_bytes=1000 if at < 290 else 1, used_bytes=0)
            for at in range(300)
        )
    }
    chunk = ChunkState(ChunkId(1), 10, 3, (NodeId("n0"),))
    busy = {NodeId(f"n{at}") for at in range(150, 200)}
    lots = Lots(nodes, list(nodes), random.Random(1))
    for seed in range(50):
        todo = plan(chunk, nodes, random.Random(seed), busy=busy, lots=lots)
        assert (todo.missing, len(set(todo.targets)), todo.blocked) == (2, 2, False)
        assert sorted(nodes[node].rack for node in todo.targets) == ["b", "c"]
        assert all(nodes[node].free_bytes >= 10 for node in todo.targets)
        assert busy.isdisjoint(todo.targets)
