"""What emptying a node would mean, in clusters of any size."""

from __future__ import annotations

import random

from dfs.types import ChunkId, NodeId, NodeState, NodeView
from nodes.namenode.draining import DrainPlan
from nodes.namenode.repair import ChunkState

LENGTH = 100


def view(node: str, rack: str = "r", free: int = 10**6, *, up: bool = True) -> NodeView:
    state = NodeState.UP if up else NodeState.DEAD
    return NodeView(NodeId(node), "a", node, rack, state, 10**6, free, 0, 0, 0, False, 10**6 - free)


def planned(views: list[NodeView], *chunks: ChunkState) -> dict[str, object]:
    plan = DrainPlan(NodeId("n0"), {each.node: each for each in views}, random.Random(1))
    for at in range(0, len(chunks), 10):
        plan.add(chunks[at : at + 10])
    return plan.result(1000)


def on(*holders: str, wanted: int = 2, length: int = LENGTH) -> ChunkState:
    return ChunkState(ChunkId(1), length, wanted, tuple(map(NodeId, holders)))


def chunks_to(result: dict[str, object]) -> dict[str, int]:
    targets = result["targets"]
    assert isinstance(targets, dict)
    return {node: counted["chunks"] for node, counted in targets.items()}


def test_chunks_go_to_nodes_that_have_none_of_them_by_the_space_there_is() -> None:
    views = [view("n0"), view("n1"), view("n2"), view("n3", free=10**5), view("n4", up=False)]
    result = planned(views, *[on("n0", "n1")] * 1000)
    found = chunks_to(result)
    assert found.keys() == {"n2", "n3"}
    assert sum(found.values()) == 1000
    assert 50 < found["n3"] < 150  # a tenth of the space
    assert (result["chunks"], result["bytes"]) == (1000, 1000 * LENGTH)
    assert (result["too_few_nodes"], result["no_space"]) == (0, 0)


def test_copies_stay_in_different_racks() -> None:
    views = [view("n0", "a"), view("n1", "b"), view("n2", "b"), view("n3", "c")]
    assert chunks_to(planned(views, *[on("n0", "n1")] * 50)) == {"n3": 50}
    full = [*views[:3], view("n3", "c", free=LENGTH - 1)]  # then better in one rack than nowhere
    assert chunks_to(planned(full, *[on("n0", "n1")] * 50)) == {"n2": 50}


def test_what_cannot_be_placed_is_counted() -> None:
    assert planned([view("n0"), view("n1")], on("n0", "n1"))["too_few_nodes"] == 1
    result = planned([view("n0"), view("n1"), view("n2", free=5 * LENGTH)], *[on("n0", "n1")] * 25)
    assert chunks_to(result) == {"n2": 5}
    assert result["no_space"] == 20
    assert planned([view("n0"), view("n1", up=False)], on("n0", "n1"))["only_copies"] == 1
    assert planned([view("n0"), view("n1"), view("n2")], on("n0", "n1", "n2"))["already_elsewhere"] == 1
