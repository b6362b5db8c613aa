"""A DataNode and the orders of its NameNode, whose end is played here over a network in memory."""

from __future__ import annotations

import errno
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from dfs import errors, limits
from dfs.checksum import Buffer, sum_blocks
from dfs.config import DataNodeConfig
from dfs.rpc import Pool, Server, WithData, expose
from dfs.types import ChunkId, NodeId
from nodes.datanode.admission import Admission
from nodes.datanode.agent import Agent
from nodes.datanode.bandwidth import TokenBucket
from nodes.datanode.chain import Chain
from nodes.datanode.clientmemory import ClientMemories
from nodes.datanode.clock import NameNodeClock
from nodes.datanode.copier import Copier
from nodes.datanode.index import pack_records
from nodes.datanode.obeyed import Memory, load
from nodes.datanode.restraint import Restraint
from nodes.datanode.scrub import Scrub
from nodes.datanode.service import DataNode
from nodes.datanode.users import Background, Users
from nodes.datanode.volumes import Volumes
from tests.keys import MASTERS
from tests.simulation.disk import PAGE, InlineRuntime, MemoryDisk
from tests.simulation.network import MemoryNetwork
from tests.unit.datanode.world import CLUSTER

KIB = 1024
PATH = "chunks/01/0000000000000001"
ADMISSION = Admission(lambda: MASTERS, lambda: 0.0, lambda _: True)


class ScriptedNameNode:
    """Gives n1 `orders` until they are reported done or put off; `answer` is added to what it says to heartbeats."""

    def __init__(self) -> None:
        self.orders: dict[int, list[Any]] = {}
        self.put_off: dict[int, list[Any]] = {}
        self.failed: list[int] = []
        self.answer: dict[str, Any] = {"log_index": 100}
        self.reports: list[Mapping[str, Any]] = []
        self.chunks: list[list[Any]] = []
        """What each report of chunks had."""
        self.may_answer_reports = trio.Event()
        self.may_answer_reports.set()
        self.too_busy_for: list[int] = []
        """Which reports of chunks it does not look at."""

    @expose
    def register(self, _info: Any) -> dict[str, Any]:
        return {"cluster": CLUSTER}

    @expose
    async def report_chunks(self, _node: Any, _first: Any, last: Any, chunks: Any, _incarnation: Any) -> Any:
        self.chunks.append(chunks)
        await self.may_answer_reports.wait()
        if len(self.chunks) in self.too_busy_for:
            raise errors.Busy("other reports wait")
        return last + 1

    @expose
    def heartbeat(self, node: Any, report: Any) -> dict[str, Any]:
        if node != "n1":
            return {"cluster": CLUSTER, "orders": []}
        assert all(len(report[key]) <= 4096 for key in ("done", "failed", "corrupt", "damaged", "postponed"))
        self.reports.append(report)
        for number in report["done"]:
            self.orders.pop(number, None)
        for number, _, _ in report["failed"]:
            self.failed.append(number)
            self.orders.pop(number, None)
        for delay_ns, numbers in report["postponed"]:
            source, target = (self.orders, self.put_off) if delay_ns else (self.put_off, self.orders)
            target.update({number: source.pop(number) for number in numbers if number in source})
        return {"cluster": CLUSTER, "orders": list(self.orders.values())[: limits.WORK_ORDERS_MAX], **self.answer}

    def damaged(self) -> list[int]:
        """The chunks of which n1 said that its copies are of no use."""
        return [chunk for report in self.reports for chunk, _ in report["corrupt"]]

    def order_copy(self, chunk: int, length: int) -> None:
        """From n2."""
        self.orders[-1] = [-1, "copy", chunk, length, [["n2", "n2:9401"]]]

    def order_deletions(self, first: int, count: int) -> None:
        self.orders.update({number: [number, "delete", number] for number in range(first, first + count)})


class Node:
    """A DataNode on a host of the network, of the daemon's own parts."""

    def __init__(self, name: str, network: MemoryNetwork, disks: list[MemoryDisk], tmp_path: Path) -> None:
        self.runtime = InlineRuntime()
        self.config = DataNodeConfig(node=name, namenode="namenode:9400", listen=f"{name}:9401", directories=[tmp_path])
        self.volumes = Volumes(disks, NodeId(name), self.runtime, 0)
        self.volumes.open()
        self.volumes.join(CLUSTER)
        self.host = network.host(name)
        self.pool = Pool(self.host)
        self.bandwidth = TokenBucket()
        self.users = Users()
        self.restraint = Restraint(self.config.hold_share, load(disks))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Agent]:
        scrub = Scrub(*scrub_parts(self))
        chain, node = Chain(self.pool, self.config.namenode), NodeId(self.config.node)
        memories = ClientMemories(None, self.runtime)
        service = DataNode(
            *(node, self.volumes, ADMISSION, self.bandwidth, self.users, scrub, self.runtime, chain, memories)
        )
        server = Server(self.host, greet=service.greet)
        server.register(service, f"dfs.datanode.{self.config.node}")
        async with self.pool, trio.open_nursery() as nursery:
            address = await nursery.start(server.serve, self.config.listen)
            agent = Agent(
                self.config,
                self.volumes,
                self.pool,
                server,
                self.runtime,
                address,
                self.bandwidth,
                self.users,
                self.restraint,
                NameNodeClock(self.runtime),
            )
            nursery.start_soon(agent.run)
            yield agent
            nursery.cancel_scope.cancel()

    async def put(self, first: int, count: int, data: bytes = b"x") -> None:
        for number in range(first, first + count):
            for start in range(0, len(data), limits.APPEND_MAX_BYTES):
                piece = data[start : start + limits.APPEND_MAX_BYTES]
                await self.volumes.append(ChunkId(number), start, sum_blocks(piece), piece)


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork(latency_s=0.001)


@pytest.fixture
async def namenode(network: MemoryNetwork) -> AsyncIterator[ScriptedNameNode]:
    played = ScriptedNameNode()
    server = Server(network.host("namenode"))
    server.register(played, "dfs.namenode")
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, "namenode:9400")
        yield played
        nursery.cancel_scope.cancel()


@pytest.fixture
def disks() -> list[MemoryDisk]:
    return [MemoryDisk(1 << 30, "disk-1"), MemoryDisk(1 << 30, "disk-2")]


@pytest.fixture
async def node(network: MemoryNetwork, disks: list[MemoryDisk], tmp_path: Path) -> Node:
    return Node("n1", network, disks, tmp_path)


@pytest.fixture
async def source(network: MemoryNetwork, tmp_path: Path) -> Node:
    """Another, to make copies from."""
    return Node("n2", network, [MemoryDisk()], tmp_path)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(100):  # of virtual time
        while not condition():
            await trio.sleep(0.02)


# --- orders


async def test_many_small_orders_are_not_bound_to_one_heartbeat_a_second(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node
) -> None:
    await node.put(1, 900)
    async with node.running():
        await until(lambda: len(namenode.reports) > 1)
        namenode.order_deletions(1, 900)
        began = trio.current_time()
        await until(lambda: not namenode.orders)
        assert trio.current_time() - began < 3
    assert node.volumes.chunk_count() == 0


async def test_a_node_without_work_does_not_chatter(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node
) -> None:
    async with node.running():
        await until(lambda: len(namenode.reports) == 1)
        await trio.sleep(20)
        assert 19 <= len(namenode.reports) <= 22


async def test_what_was_obeyed_is_remembered_before_it_is_done(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node, disks: list[MemoryDisk]
) -> None:
    await node.put(1, 2)
    for disk in disks:
        disk.fail("write", errno.EIO, "obeyed.json")
    async with node.running():
        namenode.order_deletions(1, 1)
        await until(lambda: len(namenode.reports) > 5)
        assert node.volumes.chunk_count() == 2
        for disk in disks:
            disk.mend()
        await until(lambda: not namenode.orders)
    assert load(disks).log_index == 100


async def test_a_node_that_stops_in_order_remembers_how_far_the_namenode_was(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node, disks: list[MemoryDisk]
) -> None:
    async with node.running() as agent:
        await until(lambda: len(namenode.reports) > 1)
        namenode.answer["log_index"] = 120
        heard = len(namenode.reports)
        await until(lambda: len(namenode.reports) > heard + 2)
        assert load(disks).log_index == 100
        await agent.farewell(node.pool)
    assert load(disks).log_index == 120


async def test_copies_are_made_though_what_was_obeyed_cannot_be_written_down(
    autojump_clock: MockClock,
    namenode: ScriptedNameNode,
    node: Node,
    source: Node,
    disks: list[MemoryDisk],
) -> None:
    await source.put(9000, 1, b"copied")
    await node.put(1, 1)
    for disk in disks:
        disk.fail("write", errno.ENOSPC, "obeyed.json")
    namenode.order_deletions(1, 1)
    namenode.order_copy(9000, 6)
    async with source.running(), node.running():
        await until(lambda: list(namenode.orders) == [1])
    assert node.volumes.length(ChunkId(9000)) == 6 and node.volumes.length(ChunkId(1)) == 1


async def test_a_node_whose_first_disks_are_full_deletes(
    autojump_clock: MockClock, namenode: ScriptedNameNode, network: MemoryNetwork, tmp_path: Path
) -> None:
    disks = [MemoryDisk(name=f"disk-{number}") for number in (1, 2, 3)]
    node = Node("n1", network, disks, tmp_path)
    await node.put(1, 9)
    for disk in disks[:2]:
        disk.fail("write", errno.ENOSPC, "obeyed.json")
    async with node.running():
        namenode.order_deletions(1, 9)
        await until(lambda: not namenode.orders)
    assert node.volumes.chunk_count() == 0 and load(disks).log_index == 100


async def test_a_node_whose_disks_are_all_full_deletes(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node, disks: list[MemoryDisk]
) -> None:
    await node.put(1, 9)
    for disk in disks:
        disk.set_capacity(disk.capacity_bytes() - disk.free_bytes())
    async with node.running():
        namenode.order_deletions(1, 9)
        await until(lambda: not namenode.orders)
    assert node.volumes.chunk_count() == 0 and load(disks).log_index == 100


async def test_a_namenode_from_the_past_destroys_nothing_until_an_operator_allows_it(
    autojump_clock: MockClock,
    namenode: ScriptedNameNode,
    node: Node,
    disks: list[MemoryDisk],
    network: MemoryNetwork,
    tmp_path: Path,
) -> None:
    await node.put(1, 400)
    async with node.running() as agent:
        namenode.order_deletions(1, 1)
        await until(lambda: not namenode.orders)
        namenode.answer["log_index"] = 50
        namenode.order_deletions(2, 300)
        await until(lambda: len(namenode.put_off) == 300)
        await until(lambda: namenode.reports[-1].get("held", {}).get("orders") == 300)
        assert "old copy" in namenode.reports[-1]["held"]["reason"]
        assert node.volumes.chunk_count() == 399
        assert load(disks).held_because
        assert await agent.decide(True) == 300
        await until(lambda: not namenode.orders and not namenode.put_off)
        assert node.volumes.chunk_count() == 99
        await until(lambda: "held" not in namenode.reports[-1])
    again = load(disks)
    assert again.log_index == 50 and not again.held_because


async def test_held_deletions_do_not_keep_copies_waiting(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node, source: Node
) -> None:
    await source.put(9000, 1, b"copied")
    node.restraint = Restraint(0.5, Memory(log_index=1000))
    namenode.order_deletions(1, 2000)
    namenode.order_copy(9000, 6)
    async with source.running(), node.running():
        await until(lambda: node.volumes.length(ChunkId(9000)) == 6)
        await until(lambda: len(namenode.put_off) == 2000)


async def test_a_copy_cuts_nothing_off_while_deletions_are_held(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node, source: Node
) -> None:
    await source.put(1, 1, b"committed")
    await node.put(1, 1, b"committed, and later more")
    node.restraint = Restraint(0.5, Memory(log_index=1000))
    namenode.order_copy(1, 9)
    async with source.running(), node.running() as agent:
        await until(lambda: namenode.failed == [-1])
        assert node.volumes.length(ChunkId(1)) == 25
        await agent.decide(True)
        namenode.order_copy(1, 9)
        await until(lambda: not namenode.orders)
    assert node.volumes.length(ChunkId(1)) == 9


async def test_discarded_orders_are_answered_as_failed(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node
) -> None:
    await node.put(1, 10)
    node.restraint = Restraint(0.5, Memory(log_index=1000))
    namenode.order_deletions(1, 5)
    async with node.running() as agent:
        await until(lambda: len(namenode.put_off) == 5)
        assert await agent.decide(False) == 5
        await until(lambda: len(namenode.failed) == 5)
        namenode.order_deletions(1, 5)
        await until(lambda: len(namenode.put_off) == 5)
    assert node.volumes.chunk_count() == 10


async def test_a_decision_about_very_many_orders_takes_several_heartbeats(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node
) -> None:
    node.restraint = Restraint(0.5, Memory(log_index=1000))
    namenode.order_deletions(1, 10_000)
    async with node.running() as agent:
        await until(lambda: len(namenode.put_off) == 10_000)
        assert await agent.decide(False) == 10_000
        began = trio.current_time()
        await until(lambda: len(namenode.failed) == 10_000)
        assert trio.current_time() - began < limits.HEARTBEAT_PERIOD_S


async def test_deletions_of_what_was_on_a_disk_that_failed_are_done_and_copies_come_to_the_other(
    autojump_clock: MockClock,
    namenode: ScriptedNameNode,
    node: Node,
    source: Node,
    disks: list[MemoryDisk],
) -> None:
    for each in (node, source):
        await each.put(1, 20, b"copied")
    lost = list(node.volumes.stores[0].chunks)
    assert 0 < len(lost) < 20
    async with source.running(), node.running():
        disks[0].fail("space", errno.EIO)
        await until(lambda: bool(namenode.reports) and namenode.reports[-1]["directories"][0][1] is not None)
        namenode.orders.update({chunk: [chunk, "delete", chunk] for chunk in lost})
        await until(lambda: not namenode.orders)
        namenode.order_copy(lost[0], 6)
        await until(lambda: not namenode.orders)
    assert namenode.failed == []
    assert node.volumes.length(lost[0]) == 6


@pytest.mark.parametrize("order", [["cut", 1, 4], ["punch", 1, [[0, 4]]]])
@pytest.mark.parametrize("loss", ["gone", "its disk failed"])
async def test_a_copy_that_is_missing_when_its_chunk_is_cut_or_punched_is_reported(
    autojump_clock: MockClock,
    namenode: ScriptedNameNode,
    node: Node,
    order: list[Any],
    loss: str,
) -> None:
    await node.put(1, 2, b"copied")
    if loss == "gone":
        await node.volumes.delete(ChunkId(1))
    else:
        next(store for store in node.volumes.stores if ChunkId(1) in store.chunks).drive.fail("Input/output error")
    async with node.running():
        namenode.orders[7] = [7, *order]
        await until(lambda: not namenode.orders)
        await until(lambda: namenode.damaged() == [1])
    assert namenode.failed == []


async def test_a_copy_that_is_short_when_its_chunk_is_cut_is_told_by_a_report_of_chunks(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node
) -> None:
    await node.put(1, 1, b"copied")
    async with node.running():
        await trio.sleep(1.5 * limits.SETTLED_AFTER_S)
        assert namenode.chunks == [[[1, 6, False]]]  # when it registered
        namenode.orders[7] = [7, "cut", 1, 100]
        await until(lambda: len(namenode.chunks) == 2)
        assert namenode.chunks[-1] == [[1, 6, True]]
        await until(lambda: not namenode.orders)
    assert namenode.damaged() == [] and namenode.failed == []


async def test_what_was_not_settled_is_reported_again_soon_and_then_as_seldom_as_ever(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node
) -> None:
    """The NameNode counts no copy that may still be changing."""
    await node.put(1, 1, b"copied")
    async with node.running():
        await trio.sleep(2.5 * limits.SETTLED_AFTER_S)
        assert namenode.chunks == [[[1, 6, False]], [[1, 6, True]]]
        await trio.sleep((1 - limits.REPORT_SPREAD) * limits.REPORT_PERIOD_S - 2 * limits.SETTLED_AFTER_S)
        assert len(namenode.chunks) == 2
        await trio.sleep(limits.REPORT_SPREAD * limits.REPORT_PERIOD_S + 2 * limits.SETTLED_AFTER_S)
        assert len(namenode.chunks) == 3


async def test_a_slice_for_which_the_namenode_is_busy_is_sent_again(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, namenode: ScriptedNameNode, node: Node
) -> None:
    """And no other one: a long report would never end beside those of many nodes."""
    monkeypatch.setattr(limits, "REPORT_SLICE_CHUNKS", 2)
    await node.put(1, 3, b"copied")
    namenode.too_busy_for = [2]
    async with node.running():
        await until(lambda: len(namenode.chunks) == 3)
        await trio.sleep(limits.SETTLED_AFTER_S / 2)
    assert [[chunk for chunk, _, _ in chunks] for chunks in namenode.chunks] == [[1, 2], [3], [3]]


@pytest.mark.parametrize("seed", range(3))
async def test_nodes_that_registered_together_report_at_times_of_their_own(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, namenode: ScriptedNameNode, node: Node, seed: int
) -> None:
    monkeypatch.setattr(limits, "REPORT_SLICE_CHUNKS", 2)
    monkeypatch.setattr(node.runtime, "random", random.Random(seed))
    await node.put(1, 3, b"copied")
    async with node.running():
        await until(lambda: bool(namenode.chunks))
        first_s = trio.current_time()
        await trio.sleep(limits.REPORT_SPREAD_FIRST_S)
    chance = random.Random(seed)
    chance.getrandbits(62)  # the process's number
    chance.uniform(0, 1)  # the time of the next report
    assert first_s == pytest.approx(chance.uniform(0, limits.REPORT_SPREAD_FIRST_S), abs=0.5)


async def test_a_node_that_is_written_to_all_the_time_reports_its_chunks_ever_less_often(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node
) -> None:
    async with node.running():
        for chunk in range(1, 121):
            await node.put(chunk, 1, b"copied")
            await trio.sleep(limits.SETTLED_AFTER_S / 2)
    assert 4 <= len(namenode.chunks) <= 6


async def test_what_is_deleted_while_a_report_with_it_is_on_its_way_is_told_after_that_was_answered(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node
) -> None:
    """The NameNode would count the copy again."""
    await node.put(1, 3, b"copied")
    namenode.may_answer_reports = trio.Event()
    async with node.running():
        await until(lambda: len(namenode.chunks) == 1)
        namenode.order_deletions(1, 2)
        await until(lambda: node.volumes.chunk_count() == 1)
        await trio.sleep(5)
        assert not any(report["done"] for report in namenode.reports)
        namenode.may_answer_reports.set()
        await until(lambda: not namenode.orders)


async def test_what_goes_to_quarantine_while_a_report_with_it_is_on_its_way_is_told_after_that_was_answered(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node
) -> None:
    """The NameNode would count the copy again."""
    await node.put(1, 1, b"committed")
    namenode.may_answer_reports = trio.Event()
    async with node.running():
        await until(lambda: len(namenode.chunks) == 1)
        await node.volumes.set_aside(ChunkId(1), "its index is damaged")
        began = len(namenode.reports)
        await until(lambda: len(namenode.reports) > began + 3)
        assert namenode.damaged() == []
        namenode.may_answer_reports.set()
        await until(lambda: namenode.damaged() == [1])


async def test_a_chunk_without_committed_bytes_need_not_be_there_to_be_cut(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node
) -> None:
    async with node.running():
        namenode.orders[7] = [7, "cut", 1, 0]
        await until(lambda: not namenode.orders)
        await trio.sleep(5)
    assert namenode.damaged() == [] and len(namenode.chunks) == 1


# --- how it is


async def test_a_heartbeat_says_what_is_used_and_which_directory_failed(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node, disks: list[MemoryDisk]
) -> None:
    await node.put(1, 10, b"x" * 8 * PAGE)
    await node.volumes.sync([ChunkId(number) for number in range(1, 11)])
    async with node.running():
        await until(lambda: bool(namenode.reports) and namenode.reports[-1]["used_bytes"] == 80 * PAGE)
        assert namenode.reports[-1]["directories"] == [["disk-1", None, False], ["disk-2", None, False]]
        disks[0].fail("space", errno.EROFS)
        await until(lambda: namenode.reports[-1]["directories"][0] == ["disk-1", "Read-only file system", False])
        assert 0 < namenode.reports[-1]["chunks"] < 10
        disks[1].fail("space", errno.EROFS)
        await until(lambda: namenode.reports[-1]["chunks"] == 0)
        count = len(namenode.reports)
        await until(lambda: len(namenode.reports) > count + 3)  # it goes on saying so
        assert namenode.reports[-1]["capacity_bytes"] == namenode.reports[-1]["free_bytes"] == 0


# --- copies


def copier(node: Node) -> Copier:
    return Copier(node.pool, node.volumes, node.bandwidth, Background(node.users))


class HungNode:
    """Takes what it is asked, and answers nothing. `asked` is how often."""

    def __init__(self) -> None:
        self.asked = 0

    @expose
    async def read_blocks(self, _chunk: Any, _first: Any, _count: Any, _at: Any = None) -> None:
        self.asked += 1
        await trio.sleep_forever()


@asynccontextmanager
async def hung(network: MemoryNetwork, name: str) -> AsyncIterator[HungNode]:
    node, server = HungNode(), Server(network.host(name))
    server.register(node, f"dfs.datanode.{name}")
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, f"{name}:9401")
        yield node
        nursery.cancel_scope.cancel()


async def copied(node: Node, length: int) -> float:
    """How long a copy of chunk 1 took."""
    began = trio.current_time()
    sources = [(NodeId("n2"), "n2:9401")]
    await copier(node).copy(ChunkId(1), length, sources)
    return trio.current_time() - began


@pytest.mark.parametrize("limited", ["target", "source", "neither"])
async def test_a_copy_takes_no_more_than_its_bandwidth_at_either_end(
    autojump_clock: MockClock, node: Node, source: Node, limited: str
) -> None:
    await source.put(1, 1, bytes(4 * limits.MIB))
    async with source.pool, node.pool, trio.open_nursery() as nursery:
        scrub, chain = Scrub(*scrub_parts(source)), Chain(source.pool, source.config.namenode)
        server = Server(source.host)
        parts = (source.volumes, ADMISSION, source.bandwidth, source.users, scrub, source.runtime, chain)
        memories = ClientMemories(None, source.runtime)
        server.register(DataNode(NodeId("n2"), *parts, memories), "dfs.datanode.n2")
        await nursery.start(server.serve, "n2:9401")
        for each, name in ((node, "target"), (source, "source")):
            each.bandwidth.rate_bytes_per_s = float(limits.MIB) if name == limited else None
        took_s = await copied(node, 4 * limits.MIB)
        assert took_s < 1 if limited == "neither" else 2.8 <= took_s <= 4.5
        began = trio.current_time()
        await source.volumes.read(ChunkId(1), 0, limits.MIB)  # users are not held back
        assert trio.current_time() == began
        nursery.cancel_scope.cancel()


async def test_nodes_that_copy_from_each_other_while_users_are_at_both_get_done(
    autojump_clock: MockClock, network: MemoryNetwork, tmp_path: Path, namenode: ScriptedNameNode
) -> None:
    nodes = [Node(name, network, [MemoryDisk()], tmp_path) for name in ("n2", "n3")]
    both = nodes[0].users.call(), nodes[1].users.call()
    with both[0], both[1]:
        async with nodes[0].running(), nodes[1].running(), trio.open_nursery() as nursery:
            for first, source, target in ((1, *nodes), (101, *reversed(nodes))):
                await source.put(first, 20)
                sources = [(NodeId(source.config.node), source.config.listen)]
                making = copier(target)
                for chunk in range(first, first + 20):
                    nursery.start_soon(making.copy, ChunkId(chunk), 1, sources)
    assert [node.volumes.chunk_count() for node in nodes] == [40, 40]


async def time_beside_copies_from_a_hung_node(
    namenode: ScriptedNameNode, node: Node, source: Node, network: MemoryNetwork, hanging: int
) -> float:
    """How long a copy from n2 takes that is ordered after so many from a node that answers nothing. A user is here."""
    await source.put(9000, 1, b"copied")
    async with hung(network, "n3") as silent, source.running(), node.running():
        with node.users.call():
            for chunk in range(100, 100 + hanging):
                namenode.orders[-chunk] = [-chunk, "copy", chunk, 6, [["n3", "n3:9401"]]]
            await until(lambda: silent.asked == hanging)
            namenode.order_copy(9000, 6)
            began = trio.current_time()
            await until(lambda: node.volumes.length(ChunkId(9000)) == 6)
            return trio.current_time() - began


async def test_a_source_that_hangs_does_not_delay_copies_from_others(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node, source: Node, network: MemoryNetwork
) -> None:
    most = limits.ORDERS_AT_ONCE - 1
    assert await time_beside_copies_from_a_hung_node(namenode, node, source, network, most) < 2


async def test_copies_from_a_source_that_hangs_end_soon(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node, source: Node, network: MemoryNetwork
) -> None:
    all_places = limits.ORDERS_AT_ONCE
    assert await time_beside_copies_from_a_hung_node(namenode, node, source, network, all_places) < 10


async def test_a_source_that_ran_out_of_time_is_asked_after_others_for_a_while(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node, source: Node, network: MemoryNetwork
) -> None:
    await source.put(1, 3, b"copied")
    making = copier(node)
    sources = [(NodeId("n3"), "n3:9401"), (NodeId("n2"), "n2:9401")]
    async with hung(network, "n3") as silent, source.running(), node.pool:
        for chunk in (1, 2):
            await making.copy(ChunkId(chunk), 6, sources)
        assert silent.asked == 1
        await trio.sleep(limits.COPY_SOURCE_LATE_S)
        await making.copy(ChunkId(3), 6, sources)
        assert silent.asked == 2


async def test_a_source_whose_disk_failed_is_followed_by_the_next(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node, source: Node, network: MemoryNetwork
) -> None:
    class FailedNode:
        @expose
        async def read_blocks(self, _chunk: Any, _first: Any, _count: Any, _at: Any = None) -> None:
            raise errors.DiskFailed("/srv/dfs/disk1 is out of service: it does not answer")

    await source.put(1, 1, b"copied")
    server = Server(network.host("n3"))
    server.register(FailedNode(), "dfs.datanode.n3")
    async with source.running(), node.pool, trio.open_nursery() as nursery:
        await nursery.start(server.serve, "n3:9401")
        sources = [(NodeId("n3"), "n3:9401"), (NodeId("n2"), "n2:9401")]
        await copier(node).copy(ChunkId(1), 6, sources)
        nursery.cancel_scope.cancel()
    assert node.volumes.length(ChunkId(1)) == 6


async def test_a_copy_goes_to_another_disk_when_one_fails_at_it(
    autojump_clock: MockClock,
    namenode: ScriptedNameNode,
    node: Node,
    source: Node,
    network: MemoryNetwork,
    disks: list[MemoryDisk],
) -> None:
    await source.put(1, 1, b"copied")
    disks[0].fail("sync", errno.EIO)
    async with source.running(), node.pool:
        sources = [(NodeId("n2"), "n2:9401")] * 2
        await copier(node).copy(ChunkId(1), 6, sources)
    assert [line.failed is not None for line in node.volumes.statistics()] == [True, False]
    assert node.volumes.length(ChunkId(1)) == 6


async def test_a_busy_source_is_asked_again_while_others_copy(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node, source: Node, network: MemoryNetwork
) -> None:
    await source.put(1, 2, b"copied")
    refusals = [errors.Busy("there are others")] * 5

    class BusyNode:
        @expose
        async def read_blocks(self, chunk: Any, first: Any, count: Any) -> WithData:
            if refusals:
                raise refusals.pop()
            return WithData(*await records_of(source, chunk, first, count))

    server, making = Server(network.host("n3")), copier(node)
    server.register(BusyNode(), "dfs.datanode.n3")
    async with source.running(), node.pool, trio.open_nursery() as nursery:
        with node.users.call():
            await nursery.start(server.serve, "n3:9401")
            async with trio.open_nursery() as copies:
                copies.start_soon(making.copy, ChunkId(1), 6, [(NodeId("n3"), "n3:9401")])
                await until(lambda: len(refusals) < 5)
                began = trio.current_time()
                await making.copy(ChunkId(2), 6, [(NodeId("n2"), "n2:9401")])
                assert trio.current_time() - began < 1
        assert not refusals and node.volumes.length(ChunkId(1)) == 6
        nursery.cancel_scope.cancel()


async def records_of(node: Node, chunk: int, first: int, count: int) -> tuple[bytes, list[Buffer]]:
    records, buffers = await node.volumes.read_records(ChunkId(chunk), first, count)
    return pack_records(records), buffers


async def held(node: Node, chunk: int) -> bytes:
    """What a node has of a chunk."""
    length = node.volumes.length(ChunkId(chunk)) or 0
    return b"".join(bytes(part) for part in (await node.volumes.read(ChunkId(chunk), 0, length))[1])


async def appended_to(node: Node, *pieces: bytes) -> None:
    """Chunk 1, of pieces that were appended one after the other."""
    for number, piece in enumerate(pieces):
        await node.volumes.append(ChunkId(1), sum(map(len, pieces[:number])), sum_blocks(piece), piece)


@pytest.mark.parametrize("tail", [b"", b"never committed"])
async def test_what_is_here_already_is_not_copied(
    autojump_clock: MockClock, node: Node, disks: list[MemoryDisk], tail: bytes
) -> None:
    """With more than was ordered, it went before anybody had been asked, and nobody might answer."""
    await appended_to(node, b"committed", *([tail] if tail else []))
    await copier(node).copy(ChunkId(1), 9, [])
    assert sum(disk.durable_size("chunks/01/0000000000000001") for disk in disks) == 9
    assert await held(node, 1) == b"committed"


@pytest.mark.parametrize("tail", [b"", b"never committed"])
async def test_what_is_here_and_damaged_is_copied(
    autojump_clock: MockClock,
    namenode: ScriptedNameNode,
    node: Node,
    source: Node,
    disks: list[MemoryDisk],
    tail: bytes,
) -> None:
    await source.put(1, 1, b"committed")
    await appended_to(node, b"committed", *([tail] if tail else []))
    await node.volumes.sync([ChunkId(1)])
    damaged = next(disk for disk in disks if disk.exists("chunks/01/0000000000000001"))
    damaged.flip_bit("chunks/01/0000000000000001", 3)
    async with source.running(), node.pool:
        await copied(node, 9)
    assert await held(node, 1) == b"committed"
    assert damaged.list_dir("quarantine") == [] and not damaged.exists(PATH + ".bad")


async def hurt(node: Node, *offsets: int) -> None:
    """Flip bits of its copy of chunk 1."""
    await node.volumes.sync([ChunkId(1)])
    (disk,) = (store.disk for store in node.volumes.stores if ChunkId(1) in store.chunks)
    assert isinstance(disk, MemoryDisk)
    for offset in offsets:
        disk.flip_bit(PATH, offset)


@asynccontextmanager
async def sources_of(network: MemoryNetwork, tmp_path: Path, *names: str) -> AsyncIterator[list[Node]]:
    """DataNodes with a copy of chunk 1 each, which serve copies."""
    nodes = [Node(name, network, [MemoryDisk()], tmp_path) for name in names]
    async with AsyncExitStack() as stack:
        for node in nodes:
            await appended_to(node, b"one ", b"two ", b"three ", b"four ")
            await stack.enter_async_context(node.running())
        yield nodes


def addresses(*names: str) -> list[tuple[NodeId, str]]:
    return [(NodeId(name), f"{name}:9401") for name in names]


WHOLE = b"one two three four "


async def test_copies_that_are_damaged_in_different_places_mend_one_another(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node, network: MemoryNetwork, tmp_path: Path
) -> None:
    async with sources_of(network, tmp_path, "n2", "n3") as (second, third), node.pool:
        await appended_to(node, b"one ", b"two ", b"three ")  # and not the last block
        await hurt(node, 1, 5)
        await hurt(second, 1, 16)
        await hurt(third, 5)
        await copier(node).copy(ChunkId(1), len(WHOLE), addresses("n2", "n3"))
        assert await held(node, 1) == WHOLE
        assert not node.volumes.is_damaged(ChunkId(1)) and node.volumes.take_corrupt() == []
        assert second.volumes.is_damaged(ChunkId(1))


async def test_a_new_copy_takes_each_block_from_whoever_has_it(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node, network: MemoryNetwork, tmp_path: Path
) -> None:
    async with sources_of(network, tmp_path, "n2", "n3") as (second, third), node.pool:
        await hurt(second, 5, 16)
        await hurt(third, 1, 9)
        await copier(node).copy(ChunkId(1), len(WHOLE), addresses("n2", "n3"))
        assert await held(node, 1) == WHOLE


async def test_a_block_that_is_nowhere_whole_leaves_what_is_there_and_no_half_of_a_new_copy(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node, network: MemoryNetwork, tmp_path: Path
) -> None:
    async with sources_of(network, tmp_path, "n2", "n3") as (second, third), node.pool:
        await hurt(second, 5)
        await hurt(third, 6, 16)
        with pytest.raises(errors.Corrupt, match="bytes 4 to 8 do not match"):
            await copier(node).copy(ChunkId(1), len(WHOLE), addresses("n2", "n3"))
        assert node.volumes.length(ChunkId(1)) is None
        with pytest.raises(errors.Corrupt, match="bytes 4 to 8 do not match"):
            await copier(third).copy(ChunkId(1), len(WHOLE), addresses("n2"))
        assert [record.start for _, record in (await third.volumes.holding(ChunkId(1))).damaged] == [4]


async def test_a_copy_may_be_made_without_a_block_that_is_nowhere_whole(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node, network: MemoryNetwork, tmp_path: Path
) -> None:
    async with sources_of(network, tmp_path, "n2", "n3") as (second, third), node.pool:
        await hurt(second, 5, 16)
        await hurt(third, 1, 6)
        assert not await copier(node).copy(ChunkId(1), len(WHOLE), addresses("n2", "n3"), partly=True)
        here = await node.volumes.holding(ChunkId(1))
        assert (here.length, [record.start for _, record in here.damaged]) == (len(WHOLE), [4])
        for start, end in ((0, 4), (8, len(WHOLE))):
            (data,) = (await node.volumes.read(ChunkId(1), start, end - start))[1]
            assert bytes(data) == WHOLE[start:end]
        with pytest.raises(errors.Corrupt, match="no copy that was asked has a block whole"):
            await node.volumes.read(ChunkId(1), 4, 1)
        with pytest.raises(errors.Corrupt):
            await node.volumes.append(ChunkId(1), len(WHOLE), sum_blocks(b"more"), b"more")
        assert not await copier(third).copy(ChunkId(1), len(WHOLE), addresses("n2"), partly=True)
        assert [record.start for _, record in (await third.volumes.holding(ChunkId(1))).damaged] == [4]
        fourth = Node("n4", network, [MemoryDisk()], tmp_path)
        await appended_to(fourth, b"one ", b"two ", b"three ", b"four ")
        async with fourth.running():  # there it was all the time, and nobody could ask
            assert await copier(node).copy(ChunkId(1), len(WHOLE), addresses("n2", "n4"), partly=True)
        assert await held(node, 1) == WHOLE and not node.volumes.is_damaged(ChunkId(1))


async def test_a_copy_of_which_all_is_lost_has_the_places_of_its_blocks(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node, network: MemoryNetwork, tmp_path: Path
) -> None:
    async with sources_of(network, tmp_path, "n2") as (second,), node.pool:
        await hurt(second, 1, 5, 9, 15)
        assert not await copier(node).copy(ChunkId(1), len(WHOLE), addresses("n2"), partly=True)
        here = await node.volumes.holding(ChunkId(1))
        assert [record.start for _, record in here.damaged] == [0, 4, 8, 14]
        assert here.damaged == (await second.volumes.holding(ChunkId(1))).damaged


async def test_a_source_that_does_not_answer_may_have_what_others_have_not(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node, network: MemoryNetwork, tmp_path: Path
) -> None:
    async with sources_of(network, tmp_path, "n2") as (second,), node.pool:
        await hurt(second, 5)
        with pytest.raises(errors.DfsError):
            await copier(node).copy(ChunkId(1), len(WHOLE), addresses("n2", "n3"), partly=True)
        assert node.volumes.length(ChunkId(1)) is None


async def test_a_block_that_one_source_has_freed_is_mended_from_another_and_freed_by_order_only(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node, network: MemoryNetwork, tmp_path: Path
) -> None:
    async with sources_of(network, tmp_path, "n2", "n3") as (second, _), node.pool:
        await appended_to(node, b"one ", b"two ", b"three ", b"four ")
        await hurt(node, 5)
        await second.volumes.punch(ChunkId(1), [(4, 4)])
        with pytest.raises(errors.ChunkNotFound, match="was freed on DataNode n2"):
            await copier(node).copy(ChunkId(1), len(WHOLE), addresses("n2"))
        assert node.volumes.is_damaged(ChunkId(1))
        await copier(node).copy(ChunkId(1), len(WHOLE), addresses("n2", "n3"))
        assert await held(node, 1) == WHOLE


async def test_a_copy_with_other_blocks_than_its_source_is_set_aside(
    autojump_clock: MockClock,
    namenode: ScriptedNameNode,
    node: Node,
    disks: list[MemoryDisk],
    network: MemoryNetwork,
    tmp_path: Path,
) -> None:
    """As when a record of its index is damaged: so its block seems to be."""
    async with sources_of(network, tmp_path, "n2"), node.pool:
        await appended_to(node, b"one two ", b"three ")
        await hurt(node, 1)
        await copier(node).copy(ChunkId(1), len(WHOLE), addresses("n2"))
        assert await held(node, 1) == WHOLE
        assert any("0000000000000001.0" in disk.list_dir("quarantine") for disk in disks)


async def test_damage_is_told_and_mended(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node, source: Node
) -> None:
    for each in (node, source):
        await each.put(1, 1, b"committed")
    async with source.running(), node.running():
        await until(lambda: len(namenode.reports) > 0)
        await hurt(node, 3)
        with pytest.raises(errors.Corrupt):
            await node.volumes.read(ChunkId(1), 0, 9)
        told = len(namenode.reports)
        await until(lambda: any(report["damaged"] for report in namenode.reports))
        (report,) = [report for report in namenode.reports[told:] if report["damaged"]]
        assert report["damaged"] == [[1, "bytes 0 to 9 do not match their checksum"]] and report["corrupt"] == []
        namenode.order_copy(1, 9)
        await until(lambda: not namenode.orders)
        assert await held(node, 1) == b"committed"


async def test_a_copy_that_is_replaced_before_the_next_heartbeat_is_not_said_to_be_gone(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node, source: Node
) -> None:
    for each in (node, source):
        await each.put(1, 1, b"committed")
    async with source.running(), node.running():
        await until(lambda: len(namenode.reports) > 0)
        (disk,) = (store.disk for store in node.volumes.stores if ChunkId(1) in store.chunks)
        assert isinstance(disk, MemoryDisk)
        disk.flip_bit(PATH + ".idx", 3)  # seen only by who verifies it for the copy
        namenode.order_copy(1, 9)
        await until(lambda: not namenode.orders)
        await trio.sleep(10)
        assert namenode.damaged() == [] and await held(node, 1) == b"committed"
        assert len(disk.list_dir("quarantine")) == 3


async def test_what_is_here_and_too_short_stays_and_gets_the_rest(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node, source: Node, network: MemoryNetwork
) -> None:
    await appended_to(source, b"committed", b" later")
    await appended_to(node, b"committed")
    async with hung(network, "n3"), node.pool:
        with pytest.raises(errors.DeadlineExceeded):
            await copier(node).copy(ChunkId(1), 15, [(NodeId("n3"), "n3:9401")])
        assert await held(node, 1) == b"committed"
        async with source.running():
            await copied(node, 15)
    assert await held(node, 1) == b"committed later"


async def test_a_copy_that_is_cut_short_leaves_nothing(
    autojump_clock: MockClock,
    node: Node,
    source: Node,
    disks: list[MemoryDisk],
    namenode: ScriptedNameNode,
) -> None:
    await source.put(1, 1, bytes(8 * limits.MIB))
    async with source.running():
        namenode.answer["copy_bytes_per_s"] = float(limits.MIB)
        async with node.running():
            namenode.order_copy(1, 8 * limits.MIB)
            await until(lambda: (node.volumes.length(ChunkId(1)) or 0) > limits.MIB)
    assert node.volumes.length(ChunkId(1)) is None
    await node.volumes.close()
    assert not any("chunks/01/" in path for disk in disks for path in disk.paths())


async def test_a_source_that_has_too_many_copies_to_serve_says_so(autojump_clock: MockClock, source: Node) -> None:
    await source.put(1, 1, bytes(limits.MIB))
    service = DataNode(
        NodeId("n2"),
        source.volumes,
        ADMISSION,
        source.bandwidth,
        source.users,
        Scrub(*scrub_parts(source)),
        source.runtime,
        Chain(source.pool, source.config.namenode),
        ClientMemories(None, source.runtime),
    )
    source.bandwidth.rate_bytes_per_s = 64.0 * KIB
    await service.read_blocks(1, 0, 256)
    with pytest.raises(errors.Busy):
        await service.read_blocks(1, 0, 256)


def scrub_parts(node: Node) -> tuple[Any, ...]:
    return node.volumes, node.restraint, node.runtime, node.users, 0, 1 << 40


async def test_a_source_that_has_less_than_is_here_takes_nothing_away(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node, network: MemoryNetwork, tmp_path: Path
) -> None:
    async with sources_of(network, tmp_path, "n2") as (second,), node.pool:
        await second.volumes.cut(ChunkId(1), 8)
        await appended_to(node, b"one ", b"two ", b"three ")
        with pytest.raises(errors.ChunkNotFound):
            await copier(node).copy(ChunkId(1), len(WHOLE), addresses("n2"))
        assert await held(node, 1) == b"one two three "
        await hurt(node, 9)
        with pytest.raises(errors.ChunkNotFound):
            await copier(node).copy(ChunkId(1), len(WHOLE), addresses("n2"))
        assert (node.volumes.length(ChunkId(1)), node.volumes.take_corrupt()) == (14, [])


async def test_a_cut_through_a_damaged_block_takes_that_block_and_no_other(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node, network: MemoryNetwork, tmp_path: Path
) -> None:
    async with sources_of(network, tmp_path, "n2", "n3") as (second, third), node.pool:
        await appended_to(node, b"one ", b"two ", b"three ", b"four ")
        for other in (second, third):
            await other.volumes.cut(ChunkId(1), 11)
        await hurt(second, 1)
        await hurt(third, 5)
        await hurt(node, 9)
        await node.volumes.cut(ChunkId(1), 11)
        await copier(node).copy(ChunkId(1), 11, addresses("n2", "n3"))
        assert await held(node, 1) == WHOLE[:11]
        assert node.volumes.take_corrupt() == []


async def test_what_is_here_is_not_given_up_for_a_source_that_is_damaged_itself(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node, network: MemoryNetwork, tmp_path: Path
) -> None:
    async with sources_of(network, tmp_path, "n2") as (second,), node.pool:
        await appended_to(node, b"one two ", b"three ", b"four ")
        await hurt(node, 1)
        await hurt(second, 9)
        with pytest.raises(errors.Corrupt, match="bytes 8 to 14 do not match"):
            await copier(node).copy(ChunkId(1), len(WHOLE), addresses("n2"))
        assert (node.volumes.length(ChunkId(1)), node.volumes.take_corrupt()) == (len(WHOLE), [])
        assert (await node.volumes.read(ChunkId(1), 8, 6))[1] == [b"three "]


async def test_damage_that_is_found_while_a_report_is_on_its_way_is_told_again_after_it(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node
) -> None:
    """Or the report, which knows nothing of it, could have the last word."""
    namenode.may_answer_reports = trio.Event()
    await node.put(1, 1, b"committed")
    async with node.running():
        await until(lambda: len(namenode.chunks) > 0)
        await hurt(node, 3)
        with pytest.raises(errors.Corrupt):
            await node.volumes.read(ChunkId(1), 0, 9)
        await until(lambda: any(report["damaged"] for report in namenode.reports))
        told = len(namenode.reports)
        namenode.may_answer_reports.set()
        await until(lambda: any(report["damaged"] for report in namenode.reports[told:]))
        told = len(namenode.reports)
        await trio.sleep(30)
        assert not any(report["damaged"] for report in namenode.reports[told:])


async def test_a_copy_that_turns_out_to_be_whole_is_reported(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node, disks: list[MemoryDisk]
) -> None:
    """It may be the only one, which nobody orders to be mended."""
    await node.put(1, 1, b"committed")
    async with node.running():
        await until(lambda: len(namenode.chunks) > 0)
        for disk in disks:
            disk.fail("read", errno.EIO, PATH)
        with pytest.raises(errors.Corrupt):
            await node.volumes.read(ChunkId(1), 0, 9)
        await until(lambda: any(report["damaged"] for report in namenode.reports))
        for disk in disks:
            disk.mend()
        told = len(namenode.chunks)
        await node.volumes.verify(ChunkId(1))
        await trio.sleep(10)
        assert [chunks[0][:2] for chunks in namenode.chunks[told:]] == [[1, 9]]


async def test_a_copy_that_is_being_replaced_is_not_said_to_be_gone(
    autojump_clock: MockClock, namenode: ScriptedNameNode, node: Node, source: Node
) -> None:
    """The NameNode would have it deleted, and that would come after the copy."""
    data = b"x" * 4 * limits.READ_MAX_BYTES
    for each in (node, source):
        await each.put(1, 1, data)
    namenode.answer["copy_bytes_per_s"] = limits.READ_MAX_BYTES // 4
    async with source.running(), node.running():
        await until(lambda: len(namenode.reports) > 0)
        (disk,) = (store.disk for store in node.volumes.stores if ChunkId(1) in store.chunks)
        assert isinstance(disk, MemoryDisk)
        disk.flip_bit(PATH + ".idx", 3)
        began = len(namenode.reports)
        namenode.order_copy(1, len(data))
        await until(lambda: not namenode.orders)
        assert len(namenode.reports) > began + 3
        await trio.sleep(10)
        assert namenode.damaged() == [] and node.volumes.length(ChunkId(1)) == len(data)
