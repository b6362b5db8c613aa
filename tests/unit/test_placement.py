"""Where new copies go: apart from each other, where there is room, and where there is most of it most often."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from dfs.placement import candidates, choose_nodes, weight
from dfs.types import NodeId, NodeState, NodeView

RACKS = ["", "a", "b", "c"]


def view(
    name: str,
    rack: str = "",
    state: NodeState = NodeState.UP,
    free_bytes: int = 500,
    load: int = 0,
    capacity_bytes: int = 1000,
    host: str = "",
) -> NodeView:
    return NodeView(
        NodeId(name), f"{name}:1", host or f"host-{name}", rack, state, capacity_bytes, free_bytes, 0, load, 0
    )


@st.composite
def clusters(draw: st.DrawFn) -> list[NodeView]:
    properties = st.tuples(st.sampled_from(RACKS), st.sampled_from(NodeState), st.integers(0, 1000), st.integers(0, 50))
    return [view(f"n{number}", *each) for number, each in enumerate(draw(st.lists(properties, max_size=12)))]


@given(clusters(), st.sets(st.integers(0, 11)), st.integers(0, 1000))
def test_candidates_are_up_not_excluded_and_have_room(nodes: list[NodeView], excluded: set[int], needed: int) -> None:
    names = {NodeId(f"n{number}") for number in excluded}
    found = candidates(nodes, names, needed)
    for each in nodes:
        fits = each.state == NodeState.UP and each.free_bytes >= needed and each.node not in names
        assert (each in found) == fits


@given(clusters(), st.integers(0, 6), st.integers(0, 99), st.lists(st.sampled_from(RACKS), max_size=4))
def test_copies_are_on_different_nodes_and_spread_over_racks_as_far_as_can_be(
    nodes: list[NodeView], count: int, seed: int, taken: list[str]
) -> None:
    chosen = choose_nodes(nodes, count, random.Random(seed), racks_taken=taken)
    assert len(set(chosen)) == len(chosen) == min(count, len(nodes))
    racks = {each.node: each.rack for each in nodes}
    copies = Counter(taken) + Counter(racks[node] for node in chosen)
    for rack in {racks[node] for node in chosen}:
        added = copies[rack] > Counter(taken)[rack]
        for other, size in Counter(racks.values()).items():
            has_room = Counter(racks[node] for node in chosen)[other] < size
            assert not (added and has_room) or copies[rack] <= copies[other] + 1


@given(clusters(), st.integers(0, 99))
def test_the_first_copy_is_on_the_writers_own_host_where_that_can_be(nodes: list[NodeView], seed: int) -> None:
    for host in ("host-n0", "elsewhere", ""):
        chosen = choose_nodes(nodes, 3, random.Random(seed), near_host=host)
        if host == "host-n0" and nodes:
            assert chosen[0] == "n0"
        assert len(set(chosen)) == min(3, len(nodes))


def test_a_writer_without_a_host_is_near_no_node() -> None:
    nodes = [view("nameless")._replace(host=""), view("other")]
    firsts = {choose_nodes(nodes, 1, random.Random(seed))[0] for seed in range(50)}
    assert firsts == {"nameless", "other"}


def shares(nodes: list[NodeView], rounds: int = 4000) -> dict[str, float]:
    """How often each is chosen alone."""
    chance = random.Random(7)
    counted = Counter(choose_nodes(nodes, 1, chance)[0] for _ in range(rounds))
    return {each.node: counted[each.node] / rounds for each in nodes}


def test_a_node_with_three_times_the_share_free_is_chosen_three_times_as_often() -> None:
    found = shares([view("full", free_bytes=200), view("empty", free_bytes=600)])
    assert 0.72 < found["empty"] < 0.78


def test_what_counts_is_the_share_that_is_free_not_the_size() -> None:
    found = shares([view("small"), view("large", free_bytes=50_000, capacity_bytes=100_000)])
    assert 0.47 < found["small"] < 0.53


def test_a_node_with_much_to_do_is_chosen_less_often_and_a_full_one_still_sometimes() -> None:
    found = shares([view("busy", load=16), view("idle"), view("full", free_bytes=0)])
    assert 1.8 < found["idle"] / found["busy"] < 2.2
    assert 0 < found["full"] < 0.05


@given(st.integers(0, 10**15), st.integers(0, 10**15), st.integers(0, 10**6))
def test_a_weight_is_always_more_than_nothing(free: int, capacity: int, load: int) -> None:
    assert weight(view("n", free_bytes=free, capacity_bytes=capacity, load=load)) > 0
