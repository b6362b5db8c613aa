"""Evening out fill levels: every move helps, none is taken back, copies and racks stay as they should be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfs.placement import choose_surplus, fill_level
from dfs.types import ChunkId, NodeId, NodeState, NodeView
from nodes.namenode.balance import Move, MovePlan, able, apply_move, excesses, givers, is_even, mean_level
from nodes.namenode.repair import ChunkState
from tests.unit.namenode.world import node_view

THRESHOLD = 0.05
MANY = 10**9


def views(*each: NodeView) -> dict[NodeId, NodeView]:
    return {view.node: view for view in each}


def node(name: str, used: int, free: int, rack: str = "") -> NodeView:
    return node_view(name, used_bytes=used, free_bytes=free, rack=rack)


def chunk(number: int, length: int, *holders: str) -> ChunkState:
    return ChunkState(ChunkId(number), length, len(holders), tuple(map(NodeId, holders)))


def plan_moves(
    nodes: Mapping[NodeId, NodeView],
    chunks: Iterable[ChunkState],
    threshold: float,
    *,
    most: int = 1000,
    most_bytes: int = MANY,
    copies: Sequence[int] = (),
) -> list[Move]:
    return MovePlan(nodes, threshold, copies, most=most, most_bytes=most_bytes).add(chunks)


def test_an_empty_node_takes_from_the_fullest() -> None:
    nodes = views(node("n1", 600, 400), node("n2", 500, 500), node("n3", 0, 1000))
    chunks = [chunk(number, 20, "n1", "n2") for number in range(50)]
    moves = plan_moves(nodes, chunks, THRESHOLD)
    assert {move.target for move in moves} == {"n3"}
    assert {move.source for move in moves} == {"n1", "n2"}
    for move in moves:
        apply_move(nodes, move)
    assert is_even(nodes, THRESHOLD)


def test_within_the_threshold_nothing_moves() -> None:
    nodes = views(node("n1", 540, 460), node("n2", 460, 540))
    assert is_even(nodes, THRESHOLD)
    assert givers(nodes, THRESHOLD) == []
    assert plan_moves(nodes, [chunk(1, 10, "n1")], THRESHOLD) == []


def test_a_chunk_too_large_to_help_stays() -> None:
    nodes = views(node("n1", 600, 400), node("n2", 400, 600))
    assert plan_moves(nodes, [chunk(1, 150, "n1")], THRESHOLD) == []


def test_nodes_that_are_away_or_emptied_take_no_part() -> None:
    nodes = [
        node("n1", 600, 400),
        node("n2", 0, 1000)._replace(draining=True),
        node("n3", 0, 1000)._replace(state=NodeState.SUSPECT),
        node("n4", 0, 0),
    ]
    assert set(able(nodes)) == {"n1"}
    assert is_even({}, THRESHOLD, [3])


def test_levels_are_shares_so_a_larger_node_takes_more() -> None:
    nodes = views(node("small", 50, 50), node("large", 100, 900))
    found = {each.node: each.bytes for each in excesses(nodes)}
    assert round(mean_level(nodes), 3) == 0.136
    assert found["small"] == -found["large"] == 36


def test_a_move_does_not_bring_copies_together_in_a_rack() -> None:
    nodes = views(
        node("n1", 900, 100, "a"), node("n2", 500, 500, "b"), node("n3", 0, 1000, "b"), node("n4", 450, 550, "a")
    )
    moves = plan_moves(nodes, [chunk(1, 50, "n1", "n2")], THRESHOLD)
    assert [(move.source, move.target) for move in moves] == [("n1", "n4")]


def test_racks_between_which_no_copy_can_go_are_each_evened_out_by_themselves() -> None:
    """The larger rack is emptier for good, as each chunk has a copy in each rack."""
    nodes = views(
        *(node(f"a{at}", 500, 500, "a") for at in range(4)),
        *(node(f"b{at}", 650, 350, "b") for at in range(2)),
        node("b2", 500, 500, "b"),
    )
    chunks = [chunk(number, 10, f"a{number % 4}", f"b{number % 2}") for number in range(40)]
    assert is_even(nodes, 0.2, [2])
    assert givers(nodes, THRESHOLD, [2]) == ["b0", "b1"]
    assert {each.node: each.bytes for each in excesses(nodes, [2])} == {
        **{f"a{at}": 0 for at in range(4)},
        "b0": 50,
        "b1": 50,
        "b2": -100,
    }
    for move in plan_moves(nodes, chunks, THRESHOLD, copies=[2]):
        assert (move.source[0], move.target) == ("b", "b2")
        apply_move(nodes, move)
    assert is_even(nodes, THRESHOLD, [2])
    assert givers(nodes, THRESHOLD, [2]) == []
    assert givers(nodes, THRESHOLD), "nothing that can be done about it"
    assert givers(nodes, THRESHOLD, [2, 3]), "but if some chunks have three copies"


def test_all_who_take_get_chunks_at_once_and_none_more_than_its_share() -> None:
    nodes = views(
        *(node(f"full{at:02}", 600, 400) for at in range(40)), *(node(f"empty{at}", 0, 1000) for at in range(5))
    )
    chunks = [chunk(number, 10, f"full{number % 40:02}") for number in range(400)]
    moves = plan_moves(nodes, chunks, THRESHOLD, most=10, most_bytes=40)
    assert Counter(move.target for move in moves) == {f"empty{at}": 4 for at in range(5)}
    moves = plan_moves(nodes, [chunk(number, 10, "full00") for number in range(400)], THRESHOLD, most=3)
    assert len(moves) == 3


def test_nodes_that_no_copy_can_go_to_are_not_tried_and_few_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Move] = []

    def helps(_nodes: object, _chunk: object, move: Move) -> bool:
        tried.append(move)
        return move.target == "c99"

    monkeypatch.setattr("nodes.namenode.balance._helps", helps)
    empty = [node(f"{rack}{at:02}", at, 1000 - at, rack) for rack in "abc" for at in range(100)]
    nodes = views(*empty, node("full", 900, 100, "a"), node("other", 500, 500, "b"))
    assert plan_moves(nodes, [chunk(1, 1, "full", "other")], THRESHOLD) == []
    assert {move.target[0] for move in tried} == {"a", "c"}
    assert len(tried) <= 10


@st.composite
def clusters(draw: st.DrawFn) -> tuple[dict[NodeId, NodeView], list[ChunkState]]:
    """Nodes that have what their chunks take, and some room."""
    names = [NodeId(f"n{number}") for number in range(draw(st.integers(2, 7)))]
    racks = [draw(st.sampled_from(["a", "b", "c"])) for _ in names]
    chunks = []
    for number in range(draw(st.integers(0, 40))):
        copies = draw(st.integers(1, min(3, len(names))))
        holders = draw(st.permutations(names))[:copies]
        chunks.append(ChunkState(ChunkId(number + 1), draw(st.integers(1, 100)), copies, tuple(sorted(holders))))
    used = {name: sum(each.length for each in chunks if name in each.holders) for name in names}
    room = {name: draw(st.integers(0, 3000)) for name in names}
    nodes = {name: node(name, used[name], room[name], rack) for name, rack in zip(names, racks, strict=True)}
    return able(nodes.values()), chunks


def spread(nodes: dict[NodeId, NodeView]) -> float:
    """What each move makes smaller: the levels' squares, weighted by size."""
    return sum(fill_level(view) ** 2 * (view.used_bytes + view.free_bytes) for view in nodes.values())


def racks_of(each: ChunkState, nodes: dict[NodeId, NodeView]) -> int:
    return len({nodes[holder].rack for holder in each.holders})


@given(clusters(), st.sampled_from([0.01, 0.05, 0.2]), st.integers(1, 10))
def test_planned_and_carried_out_again_and_again_it_ends_and_each_time_the_spread_is_smaller(
    cluster: tuple[dict[NodeId, NodeView], list[ChunkState]], threshold: float, most: int
) -> None:
    nodes, chunks = cluster
    state = {each.chunk: each for each in chunks}
    total = sum(view.used_bytes for view in nodes.values())
    for _ in range(1000):
        moves = plan_moves(nodes, state.values(), threshold, most=most)
        if not moves:
            break
        assert max(Counter(node for move in moves for node in (move.source, move.target)).values()) <= most
        for move in moves:
            before, each = spread(nodes), state[move.chunk]
            together = [*each.holders, move.target]
            assert choose_surplus(together, 1, nodes) == [move.source]  # trimming does the other half
            after = each._replace(holders=tuple(sorted(set(together) - {move.source})))
            assert len(after.holders) == each.wanted
            assert racks_of(after, nodes) >= racks_of(each, nodes)
            apply_move(nodes, move)
            state[move.chunk] = after
            assert spread(nodes) < before
    else:
        raise AssertionError("it does not end")
    assert sum(view.used_bytes for view in nodes.values()) == total
    assert all(view.free_bytes >= 0 for view in nodes.values())
