"""Which chunks a client keeps open: few and short ones, as long as nothing has to be done about their copies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock as Clock

from dfs import errors, limits
from dfs.checksum import Block, Buffer, length_of
from dfs.client.datanodes import DataNodes
from dfs.client.session import Session
from dfs.client.writer import ChunkWriter, Lane
from dfs.types import ChunkId, NodeId, NodeState, NodeView, SessionId

NODES = [NodeId("n1"), NodeId("n2"), NodeId("n3")]


class NameNode:
    """What a `ChunkWriter` asks of a session."""

    cluster: Mapping[str, Any] = {"min_replicas": 2}
    session = SessionId(1)
    timeout_s = wait_s = 30.0
    host = "client"
    key_generation = 0

    def __init__(self) -> None:
        self.on_nodes_changed = lambda: None
        self.allocated = 0
        self.sealed: list[int] = []
        self.states = dict.fromkeys(NODES, NodeState.UP)
        self.draining: set[NodeId] = set()
        self.given = NODES

    async def ensure(self) -> SessionId:
        return self.session

    async def ask(self, method: str) -> list[Any]:
        assert method == "nodes"
        return [
            list(NodeView(node, "", node, "", state, 0, 0, 0, 0, 0, node in self.draining))
            for node, state in self.states.items()
        ]

    async def ask_once(self, method: str, count: int, *_: Any) -> list[Any]:
        assert method == "allocate"
        first, self.allocated = self.allocated + 1, self.allocated + count
        return [(chunk, self.given, b"") for chunk in range(first, self.allocated + 1)]

    async def apply(self, verb: str, chunks: list[int]) -> None:
        assert verb == "seal"
        self.sealed += chunks


class Disks(DataNodes):
    """DataNodes that have what they were sent, unless something is `lost` to one."""

    def __init__(self, session: NameNode) -> None:
        super().__init__(cast("Session", session))
        self.lengths: dict[ChunkId, int] = {}
        self.lost: set[NodeId] = set()
        self.asked = 0

    async def append(
        self, node: NodeId, chunk: ChunkId, offset: int, blocks: Sequence[Block], *_: Any, **__: Any
    ) -> bool:
        await trio.lowlevel.checkpoint()
        self.lengths[chunk] = offset + length_of(blocks)
        return False

    async def sync(self, node: NodeId, chunks: Mapping[ChunkId, bytes]) -> list[int]:
        self.asked += 1
        if node in self.lost:
            raise errors.DiskFailed("it is out of service")
        return [self.lengths[chunk] for chunk in chunks]

    def may_begin_chain(self, node: NodeId, length: int) -> bool:
        return False


class World:
    def __init__(self) -> None:
        self.namenode = NameNode()
        self.nodes = Disks(self.namenode)
        self.writer = ChunkWriter(cast("Session", self.namenode), self.nodes)

    async def write(self, data: Buffer = b"a line\n") -> Lane:
        written = await self.writer.append([data], 3)
        written.lane.uncommitted -= written.length
        await self.writer.seal_finished([written.lane])
        return written.lane

    def tell(self) -> None:
        """The NameNode tells that something is new with its nodes."""
        self.namenode.on_nodes_changed()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    here = World()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.writer.seal_idle)
        yield here
        nursery.cancel_scope.cancel()


async def test_who_writes_a_line_now_and_then_gets_a_chunk_for_many(world: World, autojump_clock: Clock) -> None:
    chunks = set()
    for _ in range(60):
        chunks.add((await world.write()).chunk)
        await trio.sleep(60)
    assert 6 <= len(chunks) <= 7
    assert set(world.namenode.sealed) >= set(sorted(chunks)[:-1])


async def test_a_short_chunk_is_sealed_when_nobody_has_used_it_for_long(world: World, autojump_clock: Clock) -> None:
    lane = await world.write()
    await trio.sleep(limits.LANE_KEPT_S - limits.LANE_IDLE_S)
    assert lane.chunk not in world.namenode.sealed
    await trio.sleep(2 * limits.LANE_IDLE_S)
    assert world.namenode.sealed == [lane.chunk]


async def test_a_long_chunk_is_sealed_soon(
    world: World, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LANE_KEPT_MAX_BYTES", 100)
    short, long = await world.write(bytes(50)), await world.write(bytes(51))
    assert short is long
    await trio.sleep(2 * limits.LANE_IDLE_S)
    assert world.namenode.sealed == [long.chunk]


async def test_only_a_few_are_kept_those_used_last(world: World, autojump_clock: Clock) -> None:
    lanes = []

    async def write() -> None:
        lanes.append(await world.write())

    async with trio.open_nursery() as nursery:
        for _ in range(3 * limits.LANES_KEPT_MAX):
            nursery.start_soon(write)
    assert len(set(lanes)) > limits.LANES_KEPT_MAX
    await trio.sleep(2 * limits.LANE_IDLE_S)
    kept = {lane.chunk for lane in lanes} - set(world.namenode.sealed)
    assert len(kept) == limits.LANES_KEPT_MAX
    assert (await world.write()).chunk in kept


@pytest.mark.parametrize("state", [NodeState.SUSPECT, NodeState.DEAD, "draining", "removed"])
async def test_a_chunk_is_sealed_when_one_of_its_nodes_is_not_up(
    world: World, autojump_clock: Clock, state: str
) -> None:
    lane = await world.write()
    await trio.sleep(2 * limits.LANE_IDLE_S)
    assert world.namenode.sealed == []
    match state:
        case "draining":
            world.namenode.draining.add(NODES[1])
        case "removed":
            del world.namenode.states[NODES[1]]
        case _:
            world.namenode.states[NODES[1]] = NodeState(state)
    world.tell()
    await trio.sleep(limits.LANE_IDLE_S / 2)
    assert world.namenode.sealed == [lane.chunk]


async def test_a_chunk_with_too_few_copies_is_sealed_when_there_are_nodes_for_more(
    world: World, autojump_clock: Clock
) -> None:
    world.namenode.given = NODES[:2]
    world.namenode.states[NODES[2]] = NodeState.SUSPECT
    lane = await world.write()
    await trio.sleep(2 * limits.LANE_IDLE_S)
    assert world.namenode.sealed == []
    world.namenode.states[NODES[2]] = NodeState.UP
    world.tell()
    await trio.sleep(limits.LANE_IDLE_S / 2)
    assert world.namenode.sealed == [lane.chunk]


async def test_a_chunk_is_sealed_when_a_disk_fails_beneath_a_node_that_goes_on(
    world: World, autojump_clock: Clock
) -> None:
    lane = await world.write()
    await trio.sleep(3 * limits.LANE_LOOK_PERIOD_S)
    assert world.namenode.sealed == []
    world.nodes.lost.add(NODES[2])
    await trio.sleep(limits.LANE_LOOK_PERIOD_S + limits.LANE_IDLE_S)
    assert world.namenode.sealed == [lane.chunk]


async def test_a_chunk_is_sealed_when_a_node_has_less_of_it_than_it_had(world: World, autojump_clock: Clock) -> None:
    lane = await world.write()
    world.nodes.lengths[lane.chunk] -= 1
    await trio.sleep(limits.LANE_LOOK_PERIOD_S + limits.LANE_IDLE_S)
    assert world.namenode.sealed == [lane.chunk]


async def test_a_chunk_is_sealed_when_it_cannot_be_known_how_its_nodes_are(
    world: World, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(*_: Any) -> list[int]:
        await trio.sleep_forever()
        raise AssertionError

    lane = await world.write()
    monkeypatch.setattr(world.nodes, "sync", hang)
    await trio.sleep(limits.LANE_LOOK_PERIOD_S + 3 * limits.LANE_IDLE_S)
    assert world.namenode.sealed == [lane.chunk]


async def test_who_keeps_no_chunks_asks_nobody(world: World, autojump_clock: Clock) -> None:
    await world.write()
    await trio.sleep(limits.LANE_KEPT_S + limits.LANE_LOOK_PERIOD_S)
    asked = world.nodes.asked
    assert asked <= len(NODES) * (limits.LANE_KEPT_S / limits.LANE_LOOK_PERIOD_S + 1)
    await trio.sleep(3600)
    assert world.nodes.asked == asked
