"""Repair at work: a NameNode's database, nodes that the test plays, and the running task. Time is trio's, and jumps.

What the nodes hold is what the test's DataNodes made of the orders they got.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
import trio
import trio.testing

from dfs import errors, keys, limits
from dfs.config import NameNodeConfig
from dfs.rpc import Gate
from dfs.types import ChunkId, NodeId, NodeState
from nodes.namenode import collector, datanodes
from nodes.namenode.balance import MovePlan
from nodes.namenode.check import Checker
from nodes.namenode.counting import Counting
from nodes.namenode.explain import Explainer
from nodes.namenode.issuing import Issuing
from nodes.namenode.leases import Leases
from nodes.namenode.membership import Membership
from nodes.namenode.names import NameServer
from nodes.namenode.operations import Operations
from nodes.namenode.parts import Parts
from nodes.namenode.queries import Queries
from nodes.namenode.repair import ChunkState
from nodes.namenode.replication import Replication
from nodes.namenode.service import NameNode
from nodes.namenode.sessions import Sessions
from nodes.namenode.store import Store, open_store
from nodes.namenode.writer import Writer
from tests.keys import MASTERS
from tests.simulation.disk import InlineRuntime
from tests.unit.namenode.world import DAY_NS, MINUTE_NS, START_NS, Namespace, namespace

ROOM = 10**9
LENGTH = 100
CHUNK_LAST = 2**63 - 1


class World:
    """A NameNode's parts, and DataNodes that heartbeat when `beat` is called and do what they are told at once."""

    def __init__(self, store: Store, config: NameNodeConfig) -> None:
        self.store = store
        self.runtime = InlineRuntime()
        self.queries = Queries(store)
        self.leases = leases = Leases()
        self.writer = Writer(store, self.runtime, 0, leases)
        self.members = Membership(self.runtime, config.node_suspect_after_s, config.node_dead_after_s)
        self.members.load(self.queries.nodes())
        self.replication = Replication(store, self.writer, self.members, random.Random(1), config)
        sessions = Sessions(config.session_timeout_s, self._end_session, leases, 1)
        gate = Gate(keys.NAMENODE, "dfs.namenode", MASTERS, time.time)
        parts = Parts(
            config,
            store,
            self.writer,
            self.queries,
            self.members,
            sessions,
            leases,
            self.replication,
            NameServer(),
            Issuing(gate, store, self.writer, self.members, sessions, self.runtime),
            self.runtime,
        )
        self.service = NameNode(parts)
        self.operations = Operations(parts)
        self.used: dict[str, int] = {}
        self.racks: dict[str, str] = {}
        self.broken: set[str] = set()
        """Nodes on which every copy fails."""
        self.stuck: set[str] = set()
        """Nodes that heartbeat, and do nothing that they are told."""
        self.holding: set[str] = set()
        """Nodes that hold all deletions back."""
        self.orders: list[tuple[str, Any]] = []
        """All copies and deletions that nodes were ordered, as they came."""
        self.sources: dict[str, list[str]] = {}
        """From whom each node was to make its last copy."""
        self.damaged: dict[str, list[Any]] = {}
        """What nodes are to say of damaged chunks, with their next heartbeat."""
        self.lacking: dict[str, list[Any]] = {}
        """And of their damaged blocks."""
        self.lost: list[int] = []
        """Where blocks of chunks begin that no node has: no copy but one that may lack them can be made."""
        self.older: set[str] = set()
        """Nodes of a release before damaged blocks were mended."""
        self._done: dict[str, list[int]] = {}
        self._failed: dict[str, list[Any]] = {}
        self._partly: dict[str, list[Any]] = {}
        self._held: dict[str, list[int]] = {}
        self._put_off: dict[str, list[int]] = {}

    async def _end_session(self, _session: Any, _party: Any) -> bool:
        return False

    async def start(self, *names: str) -> None:
        """They register, heartbeat and report that they hold what they are believed to."""
        for name in names:
            await self.register(name)
            await self.report(name, *(row[0] for row in self.queries.chunks(0, 4096) if name in row[3]))

    async def register(self, *names: str) -> None:
        """They register and heartbeat, and have not reported yet."""
        for name in names:
            info = {
                "node": name,
                "address": f"{name}:1",
                "host": name,
                "rack": self.racks.get(name, ""),
                "directories": ["d-" + name],
            }
            await self.service.register(info)
            await self.beat(name)

    async def report(self, name: str, *chunks: int) -> None:
        """All that a node holds, as a DataNode reports it: until it is asked for no more."""
        held = [[chunk, LENGTH, True] for chunk in chunks]
        first = 1
        while first <= CHUNK_LAST:
            first = await self.report_slice(name, first, CHUNK_LAST, [each for each in held if each[0] >= first])

    async def deletions(self) -> dict[str, int]:
        return (await Counting(self.store, self.runtime).counts()).deletions

    async def report_slice(self, *args: Any) -> Any:
        return await self.service.report_chunks(*args).work()

    async def beat(self, *names: str) -> None:
        """A heartbeat of each; its orders are followed, and reported with its next one."""
        for name in names:
            used = self.used.get(name, 0)
            report = {
                "capacity_bytes": ROOM,
                "free_bytes": ROOM - used,
                "used_bytes": used,
                "chunks": 0,
                "load": 0,
                "done": self._done.pop(name, []),
                "failed": self._failed.pop(name, []),
                "postponed": [[3600 * 10**9, self._put_off.pop(name)]] if name in self._put_off else [],
                "held": {"orders": len(self._held.get(name, ())), "reason": "too many"},
            }
            if name not in self.older:
                report["damaged"] = self.damaged.pop(name, [])
                report["partial"] = self._partly.pop(name, [])
                report["lacking"] = self.lacking.pop(name, [])
                report["lacking"] += [[chunk, self.lost, LENGTH] for _, chunk in report["partial"]]
            for number, kind, chunk, *rest in (await self.service.heartbeat(name, report))["orders"]:
                if name in self.stuck:
                    continue
                if name in self.holding and kind == "delete":
                    self._held.setdefault(name, []).append(number)
                    self._put_off.setdefault(name, []).append(number)
                    continue
                self.orders.append((name, [kind, chunk]))
                if kind == "copy":
                    self.sources[name] = sorted(node for node, _ in rest[1])
                if kind == "copy" and (name in self.broken or (self.lost and len(rest) < 3)):
                    self._failed.setdefault(name, []).append([number, "NoSpace", "it is broken"])
                    continue
                if kind == "copy" and self.lost:
                    self._partly.setdefault(name, []).append([number, chunk])
                else:
                    self._done.setdefault(name, []).append(number)
                change = {"copy": rest[0] if rest else 0, "delete": -LENGTH}.get(kind, 0)
                self.used[name] = max(0, self.used.get(name, 0) + change)

    def discard(self, name: str) -> None:
        """An operator does not allow what a node holds back."""
        held = self._held.pop(name, [])
        self._failed[name] = [[number, "Refused", "an operator did not allow it"] for number in held]

    async def set_replicas(self, chunk: int, wanted: int) -> None:
        """An operator has the file whose bytes are in the chunk have so many copies."""
        (ino,) = self.store.reads.execute("SELECT ino FROM extent WHERE chunk = ?", (chunk,)).fetchone()
        session = await self.writer.decide("open_session", "operator", "here")
        (reply,) = await self.writer.apply("client", session, 0, [[1, "setattr", [ino, {"replicas": wanted}]]])
        assert reply[0] == 0

    async def beat_until(self, condition: Callable[[], bool], *names: str, most_s: float = 600.0) -> float:
        """Heartbeats each half second until `condition`; how long that took."""
        began = trio.current_time()
        while not condition():
            assert trio.current_time() < began + most_s, "waited in vain"
            await self.beat(*names)
            await trio.sleep(0.5)
        return trio.current_time() - began

    def holders(self, chunk: int) -> list[str]:
        return sorted(self.queries.chunks(chunk - 1, 1)[0][3])

    def all_holders(self) -> list[list[str]]:
        return [sorted(row[3]) for row in self.queries.chunks(0, 4096)]

    def ordered(self, kind: str) -> list[tuple[str, int]]:
        return [(name, order[1]) for name, order in self.orders if order[0] == kind]


def chunks_on(space: Namespace, *places: Sequence[str], wanted: int = 0) -> list[int]:
    """Sealed chunks of LENGTH bytes with copies on these nodes."""
    session = space.open_session()
    found = []
    for at, nodes in enumerate(places):
        attr = space.file(session, b"f%d" % (space.now_ns + at))
        space.do(session, "setattr", attr.ino, {"replicas": wanted or len(nodes)})
        chunk = space.written(session, attr.ino, LENGTH, nodes)
        space.do(session, "seal", [chunk])
        found.append(chunk)
    space.end_session(session)
    for row in space.rows("SELECT id, node FROM work"):  # the cuts that sealing ordered
        space.own("finish_work", space.rows("SELECT name FROM node WHERE id = ?", row[1])[0], [row[0]])
    return found


@asynccontextmanager
async def world(directory: Path, fill: Callable[[Namespace], Any], *names: str, **options: Any) -> AsyncIterator[World]:
    """A namespace that `fill` filled, its nodes up, and repair running."""
    with namespace(directory) as space:
        space.register(*names)
        fill(space)
    store = open_store(directory, random.Random(0))
    config = NameNodeConfig(state_dir=directory, **{"garbage_grace_s": 0.0, "balance": False, **options})
    try:
        async with trio.open_nursery() as nursery:
            opened = World(store, config)
            nursery.start_soon(opened.writer.run)
            nursery.start_soon(opened.members.watch)
            await opened.start(*names)
            nursery.start_soon(opened.replication.run)
            yield opened
            nursery.cancel_scope.cancel()
    finally:
        store.close()


N1, N2, N3, N4 = "n1", "n2", "n3", "n4"


async def test_after_a_node_died_all_its_copies_are_made_again_in_a_few_heartbeats(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    places = [[N1, N2, N4] if at % 2 else [N1, N3, N4] for at in range(600)]
    async with world(tmp_path, lambda space: chunks_on(space, *places), N1, N2, N3, N4) as cluster:
        await cluster.beat_until(lambda: cluster.replication.under_replicated == 600, N1, N2, N3)
        status = cluster.replication.status()
        assert (status["copies"], status["bytes"]) == (600, 600 * LENGTH)
        took_s = await cluster.beat_until(lambda: not cluster.replication.under_replicated, N1, N2, N3)
        assert took_s < 10
        assert all(set(holders) >= {N1, N2, N3} for holders in cluster.all_holders())
        status = cluster.replication.status()
        assert (status["copies"], status["copied"], status["copied_bytes"]) == (0, 600, 600 * LENGTH)


async def test_fsck_tells_of_the_first_chunks_with_too_few_copies_and_counts_the_others(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    places = [[N1, N2]] * 600
    async with world(tmp_path, lambda space: chunks_on(space, *places, wanted=3), N1, N2) as cluster:
        checker = Checker(cluster.store, cluster.runtime, lambda: ())
        explainer = Explainer(checker, cluster.members, cluster.replication, cluster.runtime)
        await cluster.beat_until(lambda: cluster.replication.under_replicated == 600, N1, N2)
        *told, others = await explainer.all_shortages()
        assert len(told) == limits.EXPLAIN_MAX_CHUNKS
        assert {finding.kind for finding in told} == {others.kind} == {"copies-few"}
        assert others.what == f"{600 - limits.EXPLAIN_MAX_CHUNKS} more chunks have too few copies"
        assert len(await explainer.shortages([ChunkId(chunk) for chunk in range(1, 601)])) == 600
        await cluster.start(N3)
        await cluster.beat_until(lambda: not cluster.replication.blocked, N1, N2)
        cluster.stuck.add(N3)
        assert {finding.kind for finding in await explainer.all_shortages()} == {"copies-coming"}


async def test_fsck_tells_of_chunks_that_are_to_have_more_copies_before_the_next_round_does(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2], wanted=2), N1, N2, N3) as cluster:
        checker = Checker(cluster.store, cluster.runtime, lambda: ())
        explainer = Explainer(checker, cluster.members, cluster.replication, cluster.runtime)
        await cluster.beat_until(lambda: not cluster.replication.under_replicated, N1, N2, N3)
        assert await explainer.all_shortages() == []
        cluster.store.writing.execute("UPDATE chunk SET replicas = 3")
        (told,) = await explainer.all_shortages()
        assert not cluster.replication.under_replicated
        assert told.what.endswith("has 2 of 3 copies") and told.kind == "copies-coming"


async def test_when_the_only_node_that_may_take_copies_has_enough_to_do_few_chunks_are_looked_at_in_vain(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "COPIES_AHEAD_MAX", 4)
    async with world(tmp_path, lambda space: chunks_on(space, *([[N1, N2]] * 60), wanted=3), N1, N2) as cluster:
        await cluster.beat_until(lambda: cluster.replication.under_replicated == 60, N1, N2)
        fill, mend = cluster.replication.fill, cluster.replication._mend
        looked_at: list[ChunkId] = []
        fills: list[int] = []

        def looking(chunk: ChunkId, *others: Any) -> bool:
            looked_at.append(chunk)
            return mend(chunk, *others)

        def filling() -> None:
            looked_at.clear()
            before = cluster.replication.copying
            fill()
            if cluster.replication.copying > before:
                fills.append(len(looked_at))

        monkeypatch.setattr(cluster.replication, "_mend", looking)
        monkeypatch.setattr(cluster.replication, "fill", filling)
        await cluster.start(N4)
        await cluster.beat_until(lambda: not cluster.replication.under_replicated, N4)
        assert 4 < max(fills) < 40


async def test_who_looks_for_targets_ends_after_some_milliseconds_and_goes_on_with_the_next_heartbeat(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, *([[N1, N2]] * 60), wanted=3), N1, N2) as cluster:
        await cluster.beat_until(lambda: cluster.replication.under_replicated == 60, N1, N2)
        cluster.stuck.add(N3)
        fill, mend = cluster.replication.fill, cluster.replication._mend
        looked_at: list[ChunkId] = []
        fills: list[int] = []

        def slowly(chunk: ChunkId, *others: Any) -> bool:
            looked_at.append(chunk)
            autojump_clock.jump(0.001)
            return mend(chunk, *others)

        def filling() -> None:
            before = len(looked_at)
            fill()
            fills.append(len(looked_at) - before)

        monkeypatch.setattr(cluster.replication, "_mend", slowly)
        monkeypatch.setattr(cluster.replication, "fill", filling)
        await cluster.start(N3)
        await cluster.beat_until(lambda: cluster.replication.copying == 60, N3)
        assert max(fills) <= 6
        assert len(looked_at) == len(set(looked_at)) == 60


async def test_the_chunk_with_one_copy_left_comes_before_those_with_two(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    rare: list[int] = []

    def fill(space: Namespace) -> None:
        chunks_on(space, *([[N1, N2, N4]] * 300))
        rare.extend(chunks_on(space, *([[N1, N4, "n5"]] * 5)))

    async with world(tmp_path, fill, N1, N2, N3, N4, "n5") as cluster:
        await cluster.beat_until(lambda: bool(cluster.ordered("copy")), N1, N2, N3)
        assert cluster.replication.under_replicated == 305
        first = [chunk for name, chunk in cluster.ordered("copy") if name == N3][:5]
        assert sorted(first) == rare


async def test_a_node_that_comes_back_is_used_and_copies_not_needed_any_more_are_cancelled(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    places = [[N1, N2, N4]] * 10
    async with world(tmp_path, lambda space: chunks_on(space, *places), N1, N2, N3, N4) as cluster:
        cluster.stuck.add(N3)
        await cluster.beat_until(lambda: cluster.replication.copying > 0, N1, N2, N3)
        await cluster.beat_until(lambda: cluster.replication.copying == 0, N1, N2, N3, N4)
        cluster.stuck.clear()
        await cluster.beat_until(lambda: not cluster.replication.under_replicated, N1, N2, N3, N4)
        assert cluster.all_holders() == places
        assert cluster.ordered("delete") == []


async def test_a_copy_that_came_too_late_is_trimmed_from_the_fullest_node(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2, N4]), N1, N2, N3, N4) as cluster:
        cluster.used[N2] = 5000
        await cluster.beat_until(lambda: bool(cluster.ordered("copy")), N1, N2, N3)
        await cluster.beat(N4)  # back, in the very moment that the copy is made
        await cluster.beat_until(lambda: bool(cluster.ordered("delete")), N1, N2, N3, N4)
        assert cluster.all_holders() == [[N1, N3, N4]]


async def test_a_node_that_comes_back_with_an_empty_disk_costs_no_copy_elsewhere(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    places = [[N1, N2]] * 20
    async with world(tmp_path, lambda space: chunks_on(space, *places), N1, N2, N3, N4) as cluster:
        await cluster.beat_until(lambda: cluster.all_holders() == [[N1, N2, N3]] * 20, N2, N3)
        await cluster.beat_until(lambda: cluster.all_holders() == [[N1, N2, N3, N4]] * 20, N3, N4)
        cluster.used |= {N1: 0, N2: 0}
        await cluster.register(N1, N2)
        back_at = trio.current_time()
        await cluster.beat_until(lambda: trio.current_time() > back_at + 30, N1, N2, N3, N4)
        assert cluster.all_holders() == [[N1, N2, N3, N4]] * 20
        await cluster.report(N1)
        await cluster.report(N2)
        await cluster.beat_until(lambda: not cluster.replication.under_replicated, N1, N2, N3, N4)
        assert cluster.all_holders() == [[N3, N4]] * 20
        assert not [name for name, _ in cluster.ordered("delete") if name in (N3, N4)]


async def test_a_node_whose_disk_was_away_while_the_other_copies_are_on_a_dead_one_has_lost_nothing(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2], [N1, N3]), N1, N2, N3) as cluster:
        await cluster.beat_until(lambda: cluster.members.by_name()[NodeId(N2)].state == NodeState.DEAD, N1, N3)
        cluster.stuck.add(N1)  # its disk is out of service
        await cluster.report(N1)
        assert cluster.all_holders() == [[N1, N2], [N3]]  # of the second chunk another copy is there
        assert cluster.replication.short_copies() == [(N1, 1)]
        cluster.stuck.clear()
        await cluster.register(N1)
        await cluster.report(N1, 1, 2)
        assert cluster.all_holders() == [[N1, N2], [N1, N3]]
        await cluster.beat_until(lambda: not cluster.replication.under_replicated, N1, N3)
        assert cluster.ordered("delete") == []


async def test_what_a_node_that_comes_back_holds_is_trimmed_once_it_has_reported(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    places = [[N1, N2]] * 20
    async with world(tmp_path, lambda space: chunks_on(space, *places), N1, N2, N3) as cluster:
        await cluster.beat_until(lambda: cluster.all_holders() == [[N1, N2, N3]] * 20, N2, N3)
        await cluster.register(N1)
        await cluster.report_slice(N1, 1, 10, [[chunk, LENGTH, True] for chunk in range(1, 11)])
        await cluster.register(N1)  # again: what it has reported before says nothing
        await cluster.report_slice(N1, 11, CHUNK_LAST, [[chunk, LENGTH, True] for chunk in range(11, 21)])
        await cluster.beat(N1, N2, N3)
        await trio.sleep(30)
        assert cluster.all_holders() == [[N1, N2, N3]] * 20
        await cluster.beat(N1, N2, N3)
        await trio.sleep(1)
        await cluster.report(N1, *range(1, 21))
        took_s = await cluster.beat_until(lambda: all(len(each) == 2 for each in cluster.all_holders()), N1, N2, N3)
        assert took_s <= 1


async def test_of_many_copies_too_many_all_nodes_drop_some_until_they_are_equally_full(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    places = [[N1, N2, N3]] * 90
    async with world(tmp_path, lambda space: chunks_on(space, *places, wanted=2), N1, N2, N3) as cluster:
        for name, more in ((N1, 0), (N2, 9 * LENGTH), (N3, 0)):
            cluster.used[name] = 90 * LENGTH + more
        await cluster.beat_until(lambda: len(cluster.ordered("delete")) == 90, N1, N2, N3)
        assert Counter(name for name, _ in cluster.ordered("delete")) == {N1: 27, N2: 36, N3: 27}


async def test_a_copy_that_fails_is_made_elsewhere_after_a_while(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2], wanted=3), N1, N2, N3, N4) as cluster:
        cluster.broken.add(N3)
        await cluster.beat_until(lambda: len(cluster.holders(1)) == 3, N1, N2, N3, N4)
        assert cluster.holders(1) == [N1, N2, N4]
        assert len([name for name, _ in cluster.ordered("copy") if name == N3]) <= 1


async def test_a_short_copy_is_mended_though_every_node_has_one(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2, N3]), N1, N2, N3) as cluster:
        await cluster.report_slice(N2, 1, 99, [[1, LENGTH - 10, True]])
        assert cluster.replication.short_copies() == [(N2, 1)]
        await cluster.beat_until(lambda: not cluster.replication.short_copies(), N1, N2, N3)
        assert cluster.sources == {N2: [N1, N3]}
        assert cluster.holders(1) == [N1, N2, N3] and not cluster.ordered("delete")


async def test_copies_that_are_damaged_all_are_mended_from_one_another(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2]), N1, N2, N3) as cluster:
        cluster.stuck = {N1, N2}
        cluster.damaged = {N1: [[1, "its sum"]], N2: [[1, "its sum"]]}
        await cluster.beat_until(lambda: cluster.replication.lost == 1, N1, N2, N3)
        assert cluster.replication.short_copies() == [(N1, 1), (N2, 1)]
        assert cluster.replication.under_replicated == 0
        cluster.stuck.clear()
        await cluster.beat_until(lambda: not cluster.replication.short_copies(), N1, N2, N3)
        assert cluster.sources == {N1: [N2], N2: [N1]}
        await cluster.beat_until(lambda: cluster.replication.lost == 0, N1, N2, N3)
        assert cluster.holders(1) == [N1, N2]


def say_damaged(cluster: World, **blocks: list[int]) -> None:
    """Nodes say with their next heartbeats which blocks of their copies of chunk 1 are damaged."""
    for name, starts in blocks.items():
        cluster.damaged[name] = [[1, f"{len(starts)} blocks"]]
        cluster.lacking[name] = [[1, starts, LENGTH]]


async def test_what_is_left_of_a_chunk_with_a_lost_block_has_copies_as_any_other(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2]), N1, N2, N3, N4) as cluster:
        cluster.lost = [40]
        say_damaged(cluster, n1=[40], n2=[40])
        await cluster.beat(N1, N2)
        since = trio.current_time()
        await cluster.beat_until(lambda: trio.current_time() > since + 100, N1, N2, N3, N4)
        assert not cluster.ordered("copy") and cluster.replication.lost == 1
        await cluster.beat_until(lambda: len(cluster.holders(1)) == 3, N1, N3, N4)  # N2 is silent
        (third,) = {*cluster.holders(1)} - {N1, N2}
        assert cluster.sources[third] == [N1] and not cluster.ordered("delete")
        assert cluster.replication.under_replicated == 0, "it is counted as lost"
        await cluster.operations.set_draining(N1, True)
        await cluster.beat_until(lambda: not cluster.queries.has_replicas(NodeId(N1)), N1, N3, N4)
        assert {N3, N4} <= {*cluster.holders(1)}
        await cluster.beat_until(lambda: cluster.replication.lost == 1, N1, N3, N4)


async def test_a_copy_with_lost_blocks_goes_only_for_one_that_lacks_nothing_that_it_has(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2]), N1, N2, N3) as cluster:
        cluster.lost = [40]
        say_damaged(cluster, n1=[20, 40], n2=[40, 60])
        await cluster.operations.set_draining(N1, True)
        since = trio.current_time()
        await cluster.beat_until(lambda: trio.current_time() > since + 60, N1, N2, N3)
        assert N1 in cluster.holders(1) and not cluster.ordered("delete"), "N2 has not block 60"
        assert (N2, 1) in cluster.ordered("copy"), "it gets that from N1"
        say_damaged(cluster, n2=[40])
        await cluster.beat_until(lambda: not cluster.queries.has_replicas(NodeId(N1)), N1, N2, N3)
        assert cluster.holders(1) == [N2, N3]
        say_damaged(cluster, n3=[40, 80])
        cluster.stuck = {N3}
        await cluster.operations.set_draining(N2, True)
        since = trio.current_time()
        await cluster.beat_until(lambda: trio.current_time() > since + 60, N2, N3)
        assert N2 in cluster.holders(1), "it has block 80"


async def test_copies_on_nodes_that_are_all_emptied_are_put_together_elsewhere(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2]), N1, N2, N3, N4) as cluster:
        cluster.lost = [40]
        say_damaged(cluster, n1=[20, 40], n2=[40, 60])
        for node in (N1, N2):
            await cluster.operations.set_draining(node, True)
        await cluster.beat_until(lambda: cluster.holders(1) == [N3, N4], N1, N2, N3, N4)


async def test_a_copy_that_cannot_be_mended_is_put_together_elsewhere(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2]), N1, N2, N3, N4) as cluster:
        cluster.lost = [40]  # and so no mending ends well
        say_damaged(cluster, n1=[20, 40], n2=[40, 60])
        await cluster.operations.set_draining(N1, True)
        await cluster.beat_until(lambda: not cluster.queries.has_replicas(NodeId(N1)), N1, N2, N3, N4)
        assert len({N3, N4} & {*cluster.holders(1)}) >= 1


async def test_a_copy_goes_only_for_what_its_node_says_now(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """It comes back, and has not reported: what it had damaged may be whole by now, and nowhere else."""
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2, N3], wanted=2), N2, N3) as cluster:
        cluster.stuck = {N1, N2, N3}
        say_damaged(cluster, n1=[40, 60], n2=[40], n3=[40])
        await cluster.beat(N2, N3)
        await cluster.register(N1)
        since = trio.current_time()
        await cluster.beat_until(lambda: trio.current_time() > since + 30, N1, N2, N3)
        assert cluster.holders(1) == [N1, N2, N3]
        await cluster.report_slice(N1, 1, CHUNK_LAST, [[1, 40, True]])
        await cluster.beat_until(lambda: cluster.holders(1) == [N2, N3], N1, N2, N3)


@pytest.mark.parametrize("length", [LENGTH - 20, None])
async def test_a_copy_that_is_shorter_or_says_nothing_may_have_what_others_lack(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, length: int | None
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2]), N1, N2, N3) as cluster:
        cluster.lost = [40]
        say_damaged(cluster, n1=[40], n2=[40])
        if length is None:
            del cluster.lacking[N2]
        else:
            cluster.lacking[N2] = [[1, [40], length]]
        await cluster.operations.set_draining(N1, True)
        since = trio.current_time()
        await cluster.beat_until(lambda: trio.current_time() > since + 60, N1, N2, N3)
        assert N1 in cluster.holders(1) and not cluster.ordered("delete")


async def test_a_copy_that_is_missing_is_no_source_of_others(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N1]), N1, N2) as cluster:
        await cluster.report_slice(N1, 1, CHUNK_LAST, [])
        await cluster.report_slice(N1, 1, CHUNK_LAST, [])
        await cluster.beat_until(lambda: cluster.replication.lost == 1, N1, N2)
        since = trio.current_time()
        await cluster.beat_until(lambda: trio.current_time() > since + 60, N1, N2)
        assert not cluster.ordered("copy")


async def test_an_older_node_is_not_told_to_mend_what_it_would_replace(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """By a copy that is not whole either: both have lost their ends."""
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2], [N1, N3]), N1, N2, N3) as cluster:
        cluster.older = {N1, N2}
        await cluster.beat(N1, N2, N3)
        await cluster.report_slice(N1, 1, CHUNK_LAST, [[1, LENGTH - 10, True], [2, LENGTH - 10, True]])
        await cluster.report_slice(N2, 1, CHUNK_LAST, [[1, LENGTH - 20, True]])
        await cluster.beat_until(lambda: (N2, 2) in cluster.ordered("copy"), N1, N2, N3)
        assert not {(N1, 1), (N2, 1)} & {*cluster.ordered("copy")}, "of both a copy is made elsewhere"
        cluster.older = {N1}
        await cluster.beat_until(lambda: (N2, 1) in cluster.ordered("copy"), N1, N2, N3)


async def test_a_short_copy_that_cannot_be_mended_is_replaced_and_then_dropped(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2, N3]), N1, N2, N3, N4) as cluster:
        cluster.broken.add(N2)
        await cluster.report_slice(N2, 1, 99, [[1, LENGTH - 10, True]])
        await cluster.beat_until(lambda: bool(cluster.ordered("delete")), N1, N2, N3, N4)
        assert cluster.holders(1) == [N1, N3, N4]
        assert cluster.replication.short_copies() == [(N2, 1)]
        await cluster.report_slice(N2, 1, 99, [])
        assert cluster.replication.short_copies() == []


async def test_the_last_copy_that_its_node_lacks_is_no_reason_to_drop_the_one_that_comes_back(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N1], [N1]), N1, N2) as cluster:
        await cluster.report(N1, 2)
        damaged = {"capacity_bytes": ROOM, "free_bytes": ROOM, "chunks": 0, "load": 0, "corrupt": [[2, "its sum"]]}
        await cluster.service.heartbeat(N1, damaged)
        assert cluster.all_holders() == [[N1], [N1]]
        cluster.used[N2] = 5000
        await cluster.beat(N1, N2)
        await cluster.report(N2, 1, 2)  # of old
        await cluster.beat_until(lambda: bool(cluster.ordered("delete")), N1, N2)
        assert cluster.all_holders() == [[N2], [N2]]


async def test_a_copy_that_may_be_short_is_no_reason_to_drop_another(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2]), N1, N2, N3) as cluster:
        await cluster.report_slice(N1, 1, CHUNK_LAST, [[1, LENGTH - 10, False]])
        cluster.used[N2] = 5000
        await cluster.beat(N2)
        await cluster.report(N3, 1)
        back_at = trio.current_time()
        await cluster.beat_until(lambda: trio.current_time() > back_at + 30, N1, N2, N3)
        assert cluster.holders(1) == [N1, N2, N3]
        await cluster.report_slice(N1, 1, CHUNK_LAST, [[1, LENGTH - 10, True]])
        await cluster.beat_until(lambda: bool(cluster.ordered("delete")), N1, N2, N3)
        assert cluster.holders(1) == [N2, N3]


async def test_a_copy_that_comes_back_in_part_while_the_other_is_in_quarantine_is_what_is_left(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2]), N1, N2, repair=False) as cluster:
        await cluster.report(N1)
        damaged = {"capacity_bytes": ROOM, "free_bytes": ROOM, "chunks": 0, "load": 0, "corrupt": [[1, "its index"]]}
        await cluster.service.heartbeat(N2, damaged)
        assert cluster.holders(1) == [N2], "it keeps its place, and does not count"
        await cluster.report_slice(N1, 1, CHUNK_LAST, [[1, 50, True]])
        assert cluster.holders(1) == [N1, N2]
        assert sorted(cluster.replication.short_copies()) == [(N1, 1), (N2, 1)]
        await cluster.beat(N1, N2)
        assert (await cluster.deletions()) == {}


async def test_a_copy_that_comes_back_in_part_is_mended_where_it_is_needed_and_else_dropped(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2], [N2]), N1, N2) as cluster:
        await cluster.report(N1)
        assert cluster.all_holders() == [[N2], [N2]]
        await cluster.report_slice(N1, 1, CHUNK_LAST, [[1, 50, True], [2, 50, True]])
        assert cluster.all_holders() == [[N1, N2], [N1, N2]]
        await cluster.beat_until(lambda: not cluster.replication.short_of(ChunkId(1), [N1]), N1, N2)
        assert cluster.ordered("copy") == [(N1, 1)]
        await cluster.beat_until(lambda: cluster.ordered("delete") == [(N1, 2)], N1, N2)
        assert cluster.all_holders() == [[N1, N2], [N2]]


async def surplus(cluster: World) -> tuple[list[NodeId], NodeId]:
    """Of a chunk on three nodes with a copy too many: the holders that stay, and the one whose copy is to go."""
    while len(cluster.holders(1)) == 3:
        await trio.sleep(0.1)
    (gone,) = {N1, N2, N3} - {*cluster.holders(1)}
    return cluster.holders(1), gone


async def test_a_surplus_copy_whose_order_comes_late_goes_only_while_another_can_be_reached(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its node stops before it is told, all the others after that, and it comes back alone."""
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2, N3], wanted=2), N1, N2, N3) as cluster:
        stay, gone = await surplus(cluster)
        while any(view.state != NodeState.DEAD for view in cluster.members.views()):
            await trio.sleep(1)
        await cluster.register(gone)
        await cluster.report(gone, 1)
        await cluster.beat(gone)
        assert not cluster.ordered("delete")
        assert cluster.queries.due_work(gone, cluster.runtime.now_ns(), 10) == [], "looked at again some time later"
        await cluster.start(*stay)
        monkeypatch.setattr(cluster.runtime, "now_ns", lambda: START_NS + MINUTE_NS)
        await cluster.beat(gone)
        assert cluster.ordered("delete") == [(gone, 1)]
        await cluster.beat(gone)
        assert (await cluster.deletions()) == {}


async def test_a_surplus_copy_counts_again_when_those_for_whose_sake_it_was_to_go_may_be_short(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2, N3], wanted=2), N1, N2, N3) as cluster:
        stay, gone = await surplus(cluster)
        for node in stay:
            await cluster.report_slice(node, 1, CHUNK_LAST, [[1, LENGTH - 10, False]])
        await cluster.beat(gone)
        assert not cluster.ordered("delete")
        assert cluster.holders(1) == [N1, N2, N3]


async def test_a_surplus_copy_counts_again_when_those_for_whose_sake_it_was_to_go_are_damaged(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2, N3], wanted=2), N1, N2, N3) as cluster:
        stay, gone = await surplus(cluster)
        for node in stay:
            cluster.replication.note_damaged(node, ChunkId(1), None)
        monkeypatch.setattr(cluster.runtime, "now_ns", lambda: START_NS + 2 * MINUTE_NS)
        await cluster.beat(gone)
        assert not cluster.ordered("delete")
        assert cluster.holders(1) == [N1, N2, N3]
        assert (await cluster.deletions()) == {}
        assert set(cluster.replication.short_of(ChunkId(1), [N1, N2, N3])) == {N1, N2, N3}, (
            "until it says that it is whole"
        )


async def test_a_copy_that_a_commit_left_out_goes_only_while_another_can_be_reached(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(space: Namespace) -> None:
        session = space.open_session()
        attr = space.file(session)
        chunk = space.written(session, attr.ino, LENGTH, [N1, N2, N3])
        space.do(session, "commit", attr.ino, [], [[chunk, LENGTH, [N1, N2]]])

    async with world(tmp_path, fill, N1, N2, N3) as cluster:
        assert cluster.holders(1) == [N1, N2]
        await cluster.register(N1, N2)  # perhaps with other disks
        monkeypatch.setattr(cluster.runtime, "now_ns", lambda: START_NS + MINUTE_NS)
        await cluster.beat(N3)
        assert not cluster.ordered("delete")
        await cluster.report(N2, 1)
        monkeypatch.setattr(cluster.runtime, "now_ns", lambda: START_NS + 2 * MINUTE_NS)
        await cluster.beat(N3)
        assert cluster.ordered("delete") == [(N3, 1)]


async def test_what_is_said_of_very_many_quarantined_chunks_takes_few_transactions_and_may_be_said_again(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """A DataNode does not wait for an answer for ever: it says it all again, and is ordered nothing meanwhile."""
    places = [*([[N1, N2]] * 100), [N1]]
    async with world(tmp_path, lambda space: chunks_on(space, *places), N1, N2, repair=False) as cluster:
        corrupt = [[chunk, "its index"] for chunk in range(1, 102)]
        report = {"capacity_bytes": ROOM, "free_bytes": ROOM, "chunks": 0, "load": 0, "corrupt": corrupt}
        before = cluster.store.counters()["log_index"]
        for _ in range(2):
            await cluster.service.heartbeat(N1, report)
            assert cluster.all_holders() == [*([[N2]] * 100), [N1]]
            assert cluster.replication.short_copies() == [(N1, 101)]
        assert cluster.store.counters()["log_index"] == before + 2


async def test_a_report_that_is_older_than_a_copy_does_not_take_it_back(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2], wanted=3), N1, N2, N3) as cluster:
        await cluster.beat_until(lambda: len(cluster.holders(1)) == 3, N1, N2, N3)
        assert await cluster.report_slice(N3, 1, 99, []) == 1  # say that again
        assert await cluster.report_slice(N3, 1, 99, [[1, LENGTH, False]]) == 100
        assert cluster.holders(1) == [N1, N2, N3]
        assert await cluster.report_slice(N3, 1, 99, []) == 1
        assert await cluster.report_slice(N3, 1, 99, []) == 100
        assert cluster.holders(1) == [N1, N2]


async def test_reports_wait_for_each_other_and_their_nodes_are_alive(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [[N1, N2, N3, N4]] * 10
    async with world(tmp_path, lambda space: chunks_on(space, *places), N1, N2, N3, N4, repair=False) as cluster:
        cluster.service._datanodes._reports = trio.Semaphore(2)
        monkeypatch.setattr(limits, "REPORTS_WAITING_MAX", 1)
        monkeypatch.setattr(limits, "REPORT_WAIT_MAX_S", 1000.0)
        resumed, commit = trio.Event(), cluster.runtime.run_blocking
        refused = []

        async def commit_later(*args: Any) -> Any:
            await resumed.wait()
            return await commit(*args)

        async def report(node: str) -> None:
            try:
                assert await cluster.report_slice(node, 1, 99, held) == 100
            except errors.Busy:
                refused.append(node)

        monkeypatch.setattr(cluster.runtime, "run_blocking", commit_later)
        held = [[chunk, LENGTH, True] for chunk in range(1, 12)]  # of one it is written down that it was never given
        async with trio.open_nursery() as nursery:
            for node in (N1, N2, N3, N4):
                nursery.start_soon(report, node)
                await trio.testing.wait_all_tasks_blocked()
            assert refused == [N4]
            await trio.sleep(900)
            assert [view.state for view in cluster.members.views()] == ["up", "up", "up", "dead"]
            resumed.set()


async def test_a_report_that_waits_too_long_is_refused_before_its_node_gives_up(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2]), N1, N2, repair=False) as cluster:
        reports = cluster.service._datanodes._reports
        for _ in range(limits.REPORTS_AT_ONCE):
            reports.acquire_nowait()
        with pytest.raises(errors.Busy):
            await cluster.report_slice(N1, 1, 99, [])
        assert trio.current_time() < limits.CALL_TIMEOUT_S
        reports.release()
        assert await cluster.report_slice(N1, 1, 99, [[1, LENGTH, True]]) == 100


@pytest.mark.parametrize("entry", [[0, 1, True], [True, 1, True], [2**63, 1, True], [1, -1, True], [1, None, True], 1])
async def test_reports_with_what_is_no_chunk_are_refused(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, entry: Any
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2]), N1, N2, repair=False) as cluster:
        with pytest.raises(errors.InvalidArgument):
            await cluster.report_slice(N1, 1, 99, [[1, LENGTH, True], entry])


async def test_a_long_report_is_looked_at_part_by_part(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the node's copies are lost, half of what it has nobody knows of."""

    def fill(space: Namespace) -> None:
        chunks_on(space, *[[N1, N2]] * 20)
        space.damage("UPDATE counter SET value = 100 WHERE name = 'next_chunk'")

    async with world(tmp_path, fill, N1, N2, repair=False) as cluster:
        monkeypatch.setattr(datanodes, "_LOOKED_UP_AT_ONCE", 3)
        held = [[chunk, LENGTH, True] for chunk in range(11, 31)]
        assert await cluster.report_slice(N1, 1, 99, held) == 1
        assert await cluster.report_slice(N1, 1, 99, held) == 100
        assert cluster.all_holders() == [[N2]] * 10 + [[N1, N2]] * 10
        strays = cluster.store.reads.execute("SELECT chunk FROM work WHERE kind = 'delete' ORDER BY chunk").fetchall()
        assert [chunk for (chunk,) in strays] == list(range(21, 31))


async def test_of_very_many_chunks_is_decided_in_several_commands(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10 copies are back, 10 are of chunks that nobody knows of."""

    def fill(space: Namespace) -> None:
        chunks_on(space, *[[N2]] * 10, wanted=2)
        space.damage("UPDATE counter SET value = 100 WHERE name = 'next_chunk'")

    async with world(tmp_path, fill, N1, N2, repair=False) as cluster:
        monkeypatch.setattr(limits, "OWN_COMMAND_CHUNKS_MAX", 3)
        before = cluster.store.counters()["log_index"]
        assert await cluster.report_slice(N1, 1, 99, [[chunk, LENGTH, True] for chunk in range(1, 21)]) == 100
        assert cluster.store.counters()["log_index"] == before + 8
        assert cluster.all_holders() == [[N1, N2]] * 10
        assert (await cluster.deletions()) == {N1: 10}


async def test_copies_that_could_not_be_dropped_are_dropped_after_the_next_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [[N1, N2]] * 10
    async with world(tmp_path, lambda space: chunks_on(space, *places), N1, N2, repair=False) as cluster:
        assert await cluster.report_slice(N1, 1, 99, []) == 1
        commit = cluster.store.commit

        def fail() -> None:
            monkeypatch.setattr(cluster.store, "commit", commit)
            raise errors.NoSpace("the disk is full")

        monkeypatch.setattr(cluster.store, "commit", fail)
        with pytest.raises(errors.NoSpace):
            await cluster.report_slice(N1, 1, 99, [])
        commits = cluster.writer.statistics()["commits"]
        assert await cluster.report_slice(N1, 1, 99, []) == 100
        assert cluster.all_holders() == [[N2]] * 10
        assert cluster.writer.statistics()["commits"] == commits + 1


async def test_a_node_that_lost_very_many_copies_reports_them_in_slices(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [[N1, N2]] * 10
    async with world(tmp_path, lambda space: chunks_on(space, *places), N1, N2, repair=False) as cluster:
        monkeypatch.setattr(limits, "REPORT_SLICE_CHUNKS", 4)
        began, asked = 1, []
        while began < 100:
            began = await cluster.report_slice(N1, began, 99, [])
            asked.append(began)
        assert asked == [1, 5, 5, 9, 9, 100]
        monkeypatch.undo()
        assert cluster.all_holders() == [[N2]] * 10


async def test_chunks_that_no_node_takes_now_are_not_looked_at_with_each_heartbeat(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [[N1, N2]] * 300
    async with world(tmp_path, lambda space: chunks_on(space, *places, wanted=3), N1, N2, N3, N4) as cluster:
        cluster.used[N4] = ROOM - LENGTH + 1  # it is up, and has no room for a chunk
        cluster.stuck.add(N3)
        await cluster.beat_until(lambda: cluster.replication.is_full(NodeId(N3)), N1, N2, N3, N4)
        await trio.sleep(3)
        mend, looked_at = Replication._mend, []

        def counted(self: Replication, number: ChunkId, *rest: Any) -> bool:
            looked_at.append(number)
            return mend(self, number, *rest)

        monkeypatch.setattr(Replication, "_mend", counted)
        await cluster.beat(N4)
        assert len(looked_at) == 172
        await cluster.beat(*[N1, N2, N3, N4] * 10)
        assert len(looked_at) == 172
        cluster.stuck.clear()
        took_s = await cluster.beat_until(lambda: len(cluster.ordered("copy")) == 300, N1, N2, N3, N4)
        assert took_s <= 2  # with each heartbeat of the node that has made its copies, as ever


async def test_chunks_that_wait_for_deletions_keep_neither_others_nor_a_balance_waiting(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodes.namenode.replication._TRIES", 8)
    waiting: list[int] = []
    others: list[int] = []
    orders: dict[str, list[int]] = {}

    def fill(space: Namespace) -> None:
        space.configure(replicas=3, min_replicas=1, grace_ns=0)
        waiting.extend(chunks_on(space, *([[N1, N2, N3]] * 20), wanted=2))
        others.extend(chunks_on(space, *([[N2, N3]] * 3), wanted=3))
        space.own("drop_surplus", [(chunk, [N2, N3], [N1]) for chunk in waiting])
        for name in (N2, N3):
            numbers = "SELECT w.id FROM work w JOIN node n ON n.id = w.node WHERE n.name = ? AND kind = 'delete'"
            orders[name] = space.rows(numbers, name)
            space.own("postpone_work", name, orders[name], 60 * MINUTE_NS)

    async with world(tmp_path, fill, N1, N2, N3) as cluster:
        await cluster.beat_until(
            lambda: all(cluster.holders(chunk) == [N1, N2, N3] for chunk in others), N1, N2, N3, most_s=10
        )
        cluster.operations.balance(0.05)
        await cluster.beat_until(lambda: not cluster.operations.status({})["balance"]["asked"], N1, N2, N3)
        status = cluster.replication.status()
        assert (cluster.replication.under_replicated, status["copies"], status["blocked"]) == (20, 20, 0)
        await cluster.writer.decide("postpone_work", N3, orders[N3], 0)
        await cluster.beat_until(
            lambda: all(cluster.holders(chunk) == [N1, N3] for chunk in waiting), N1, N2, N3, most_s=10
        )
        assert not cluster.replication.under_replicated


async def test_of_a_chunk_that_has_all_its_copies_on_nodes_that_are_well_nothing_is_planned(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [[N1, N2], [N1, N2, N3], [N1, N3], [N2, N4], [N2, N3], [N3, N4], [N1, N4]]

    def fill(space: Namespace) -> None:
        chunks_on(space, *places, wanted=2)

    async with world(tmp_path, fill, N1, N2, N3, N4, repair=False) as cluster:
        cluster.racks |= {N1: "a", N2: "b", N3: "c", N4: "b"}
        await cluster.start(N1, N2, N3, N4)
        config = NameNodeConfig(state_dir=tmp_path, repair=False)
        replication = Replication(cluster.store, cluster.writer, cluster.members, random.Random(1), config)
        plan = replication._plan
        planned: list[ChunkId] = []

        def planning(chunk: ChunkState, *others: Any, **options: Any) -> Any:
            planned.append(chunk.chunk)
            return plan(chunk, *others, **options)

        monkeypatch.setattr(replication, "_plan", planning)
        await replication.run_once()
        assert set(planned) == {2, 4}, "a copy too many, and all copies in one rack"
        replication.note_damaged(NodeId(N1), ChunkId(1), None)
        replication.note_short(NodeId(N3), 1, 99, [], [ChunkId(5)], ())
        cluster.members.unreported.add(NodeId(N4))
        planned.clear()
        await replication.run_once()
        assert set(planned) == {1, 2, 4, 5, 6, 7}
        assert replication.under_replicated == 1


async def test_a_round_lets_others_go_on_every_few_milliseconds(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, *([[N1, N2]] * 300)), N1, N2) as cluster:
        config = NameNodeConfig(state_dir=tmp_path, balance=False)
        replication = Replication(cluster.store, cluster.writer, cluster.members, random.Random(1), config)
        look_at = replication._look_at
        seen = [trio.current_time()]

        def slowly(*chunk: Any) -> Any:
            autojump_clock.jump(0.001)
            return look_at(*chunk)

        monkeypatch.setattr(replication, "_look_at", slowly)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(replication.run_once)
            while seen[-1] < seen[0] + 0.3:
                await trio.lowlevel.checkpoint()
                seen.append(trio.current_time())
        assert max(later - earlier for earlier, later in pairwise(seen)) < 0.15  # two turns


async def test_a_node_is_a_target_again_soon_after_a_clock_that_was_ahead_is_right(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2, N3]), N1, N2, N3) as cluster:
        ahead_ns = time.time_ns() + 365 * DAY_NS
        monkeypatch.setattr(cluster.runtime, "now_ns", lambda: ahead_ns + int(trio.current_time() * 1e9))
        await cluster.writer.decide("drop_surplus", [(1, [N3], [N1])])
        monkeypatch.setattr(cluster.runtime, "now_ns", lambda: ahead_ns - 365 * DAY_NS + int(trio.current_time() * 1e9))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collector.run, cluster.writer, 1.0)
            await cluster.beat_until(lambda: cluster.holders(1) == [N1, N2, N3], N1, N2, N3, most_s=120)
            nursery.cancel_scope.cancel()
        assert cluster.orders[:2] == [(N3, ["delete", 1]), (N3, ["copy", 1])]


async def test_how_long_repair_takes_is_not_said_of_copies_that_no_node_may_take(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2], wanted=3), N1, N2, N3) as cluster:
        await cluster.beat_until(lambda: cluster.holders(1) == [N1, N2, N3], N1, N2, N3)
        await cluster.set_replicas(1, 4)
        await cluster.beat_until(lambda: cluster.replication.blocked == 1, N1, N2, N3)
        status = cluster.replication.status()
        assert (status["copies"], status["bytes"], status["left_s"]) == (1, LENGTH, None)
        assert status["bytes_per_s"] > 0
        assert (await cluster.service.status())["now_ns"] == cluster.runtime.now_ns()


async def test_with_repair_off_nothing_is_ordered_and_all_is_counted(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2], wanted=3), N1, N2, N3, repair=False) as cluster:
        await cluster.beat_until(lambda: cluster.replication.under_replicated == 1, N1, N2, N3)
        assert cluster.replication.copying == 0
        with pytest.raises(errors.NotSupported, match="repair"):
            cluster.operations.balance(None)


# --- drain and remove -----------------------------------------------------------------------------------


def never_below(cluster: World, node: str, copies: int) -> Callable[[], bool]:
    """Whether `node` is drained; asserts that every chunk has its copies on the way."""

    def drained() -> bool:
        assert all(len(holders) >= copies for holders in cluster.all_holders())
        return bool(cluster.operations.status({})["drains"][node]["drained"])

    return drained


async def test_a_node_is_drained_without_a_chunk_ever_having_too_few_copies_and_removed(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    places = [[N1, N2, N3], [N2, N3, N4]] * 40
    async with world(tmp_path, lambda space: chunks_on(space, *places), N1, N2, N3, N4, "n5") as cluster:
        everyone = (N1, N2, N3, N4, "n5")
        with pytest.raises(errors.NodeInUse, match="drain"):
            await cluster.operations.remove(N2)
        plan = await cluster.operations.plan_drain(N2)
        assert (plan["chunks"], plan["bytes"], plan["only_copies"], plan["too_few_nodes"]) == (80, 80 * LENGTH, 0, 0)
        assert sum(moved["chunks"] for moved in plan["targets"].values()) == 80
        await cluster.operations.set_draining(N2, True)
        with pytest.raises(errors.NodeInUse, match="still holds"):
            await cluster.operations.remove(N2)
        await cluster.beat_until(never_below(cluster, N2, 3), *everyone)
        assert not cluster.replication.under_replicated
        assert not any(N2 in holders for holders in cluster.all_holders())
        await cluster.operations.remove(N2)
        assert N2 not in [view.node for view in cluster.members.views()]
        with pytest.raises(errors.NotFound, match="has to register"):
            await cluster.beat(N2)
        with pytest.raises(errors.NodeRemoved, match="was removed"):
            await cluster.start(N2)


async def test_a_drain_that_cannot_end_says_so_and_is_taken_back(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2, N3]), N1, N2, N3) as cluster:
        assert (await cluster.operations.plan_drain(N2))["too_few_nodes"] == 1
        await cluster.operations.set_draining(N2, True)
        await cluster.beat_until(lambda: cluster.replication.status()["blocked"] == 1, N1, N2, N3)
        assert cluster.holders(1) == [N1, N2, N3]
        assert cluster.operations.status({})["drains"][N2] == {
            "drained": False,
            "dead": False,
            "chunks": 1,
            "bytes": LENGTH,
        }
        await cluster.operations.set_draining(N2, False)
        await cluster.beat_until(lambda: cluster.replication.status()["blocked"] == 0, N1, N2, N3)
        assert cluster.operations.status({})["drains"] == {}


async def test_the_drain_of_a_node_that_dies_is_over_when_no_chunk_lacks_copies_elsewhere(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, *([[N1, N2, N4]] * 10)), N1, N2, N3, N4) as cluster:

        def drain() -> dict[str, Any]:
            found: dict[str, Any] = cluster.operations.status({})["drains"][N4]
            return found

        cluster.stuck.add(N3)
        await cluster.operations.set_draining(N4, True)
        await cluster.beat_until(lambda: drain()["chunks"] == 10, N1, N2, N3, N4)
        await cluster.beat_until(lambda: drain()["dead"], N1, N2, N3)
        await cluster.beat_until(lambda: cluster.replication.under_replicated == 10, N1, N2, N3)
        assert drain() == {"drained": False, "dead": True, "chunks": 10, "bytes": 10 * LENGTH}
        cluster.stuck.clear()
        await cluster.beat_until(lambda: not drain()["chunks"], N1, N2, N3)
        assert drain() == {"drained": False, "dead": True, "chunks": 0, "bytes": 0}
        await cluster.operations.remove(N4)
        assert cluster.all_holders() == [[N1, N2, N3]] * 10


async def test_a_dead_node_is_not_removed_while_it_has_the_only_copy_even_if_other_dead_ones_have_one(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N3, N4], [N1, N2, N4]), N1, N2, N3, N4) as cluster:
        await cluster.beat_until(lambda: cluster.replication.lost == 1, N1, N2)
        with pytest.raises(errors.NodeInUse, match="only copy of 1 chunks"):
            await cluster.operations.remove(N4)
        assert cluster.all_holders() == [[N3, N4], [N1, N2, N4]]
        await cluster.register(N3)
        with pytest.raises(errors.NodeInUse, match="n3 came back and have not reported"):
            await cluster.operations.remove(N4)
        await cluster.report(N3, 1)
        await cluster.operations.remove(N4)
        assert cluster.all_holders() == [[N3], [N1, N2]]
        with pytest.raises(errors.NotFound):
            await cluster.operations.remove(N4)


async def test_a_node_whose_disks_have_failed_is_removed_while_it_is_heard(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    failed = {"capacity_bytes": 0, "free_bytes": 0, "used_bytes": 0, "chunks": 0, "load": 0}
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N4], [N4]), N1, N2, N3, N4) as cluster:
        with pytest.raises(errors.NodeInUse, match="n4 is at work"):
            await cluster.operations.remove(N4)
        await cluster.service.heartbeat(N4, failed)
        with pytest.raises(errors.NodeInUse, match="only copy of 1 chunks"):
            await cluster.operations.remove(N4)
    async with world(tmp_path / "whole", lambda space: chunks_on(space, [N1, N4]), N1, N2, N3, N4) as cluster:
        await cluster.service.heartbeat(N4, failed)
        await cluster.operations.remove(N4)
        await cluster.beat_until(lambda: len(cluster.holders(1)) == 2, N1, N2, N3)


async def test_a_copy_that_is_known_to_be_short_does_not_make_another_dispensable(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2]), N1, N2, N3) as cluster:
        cluster.broken.add(N1)
        await cluster.report_slice(N1, 1, 99, [[1, 1, True]])
        await cluster.beat_until(lambda: cluster.members.by_name()[NodeId(N2)].state == NodeState.DEAD, N1)
        with pytest.raises(errors.NodeInUse, match="only copy"):
            await cluster.operations.remove(N2)


async def test_a_drain_survives_the_namenode(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    def fill(space: Namespace) -> None:
        chunks_on(space, [N1, N2, N3])
        space.own("set_draining", N2, True)

    async with world(tmp_path, fill, N1, N2, N3, N4) as cluster:
        await cluster.beat_until(lambda: N2 not in cluster.holders(1), N1, N2, N3, N4)
        assert cluster.holders(1) == [N1, N3, N4]


# --- balance and racks ----------------------------------------------------------------------------------


def used_of(cluster: World, chunk_bytes: int) -> None:
    for name in (N1, N2, N3, N4):
        cluster.used[name] = chunk_bytes * sum(name in holders for holders in cluster.all_holders())


async def test_a_node_that_was_added_empty_is_filled_and_then_there_is_peace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr("tests.unit.namenode.test_replication.ROOM", 60 * LENGTH)
    places = [[N1, N2, N3]] * 40
    async with world(tmp_path, lambda space: chunks_on(space, *places), N1, N2, N3, N4) as cluster:
        used_of(cluster, LENGTH)
        await cluster.beat(N1, N2, N3, N4)
        plan = cluster.operations.plan_balance(0.05)
        assert not plan["even"]
        assert plan["nodes"][N4]["gives_bytes"] == -30 * LENGTH
        cluster.operations.balance(0.05)
        await cluster.beat_until(lambda: not cluster.operations.status({})["balance"]["asked"], N1, N2, N3, N4)
        assert cluster.operations.plan_balance(0.05)["even"]
        assert all(len(holders) == 3 for holders in cluster.all_holders())
        before = len(cluster.orders)
        cluster.operations.balance(0.05)
        await cluster.beat_until(lambda: not cluster.operations.status({})["balance"]["asked"], N1, N2, N3, N4)
        assert len(cluster.orders) == before


async def test_all_empty_nodes_are_filled_at_once_and_on_between_two_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr("tests.unit.namenode.test_replication.ROOM", 200 * LENGTH)
    monkeypatch.setattr(limits, "COPIES_AHEAD_MAX", 4)

    names = [N1, N2, N3, N4]
    async with world(tmp_path, lambda space: chunks_on(space, *([[N1, N2]] * 100)), *names, balance=True) as cluster:
        used_of(cluster, LENGTH)
        await cluster.beat(*names)
        rounds: list[float] = []

        async def once() -> None:
            rounds.append(trio.current_time())
            cluster.replication._hungry = trio.Event()
            await trio.sleep(1)

        monkeypatch.setattr(cluster.replication, "run_once", once)  # after which the next one is ten seconds away
        await cluster.beat_until(lambda: len(cluster.ordered("copy")) >= 8, *names)
        assert {name for name, _ in cluster.ordered("copy")} == {N3, N4}
        await cluster.beat_until(lambda: cluster.operations.plan_balance(0.05)["even"], *names)
        assert len(cluster.ordered("copy")) > len(rounds) * 4


async def test_a_balance_ends_when_who_had_chunks_left_to_look_at_gives_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, *[[N1, N2]] * 10), N1, N2, N3) as cluster:
        cluster.used[N1] = ROOM // 2

        def is_away() -> bool:
            return cluster.members.state(cluster.members.member(N2)) != NodeState.UP

        await cluster.beat_until(is_away, N1, N3)  # the chunks of N1 cannot be moved just now
        cluster.operations.balance(0.05)
        with monkeypatch.context() as patched:
            patched.setattr("nodes.namenode.balancing._SLICE", 2)
            patched.setattr("nodes.namenode.balancing._ROWS", 2)
            await cluster.replication.balancing.go_on()
        assert cluster.operations.status({})["balance"]["asked"]
        cluster.used[N1] = 0
        await cluster.beat_until(lambda: not cluster.operations.status({})["balance"]["asked"], N1, N3)


async def test_a_balance_goes_on_when_a_node_dies_before_it_has_deleted_what_was_moved_off_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr("tests.unit.namenode.test_replication.ROOM", 200 * LENGTH)
    async with world(tmp_path, lambda space: chunks_on(space, *([[N1, N2]] * 40)), N1, N2, N3, N4) as cluster:
        used_of(cluster, LENGTH)
        await cluster.beat(N1, N2, N3, N4)
        cluster.operations.balance(0.05)
        cluster.stuck.add(N1)
        while not (await cluster.deletions()).get(N1):
            await cluster.beat(N1, N2, N3, N4)
            await trio.sleep(1)
        await cluster.beat_until(lambda: not cluster.operations.status({})["balance"]["asked"], N2, N3, N4)
        assert cluster.operations.plan_balance(0.05)["even"]


async def test_who_looks_for_chunks_to_move_lets_others_go_on_every_few_milliseconds(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, *([[N1, N2]] * 300)), N1, N2, N3) as cluster:
        cluster.used[N1] = ROOM // 2
        await cluster.beat(N1)
        config = NameNodeConfig(state_dir=tmp_path, balance=True)
        replication = Replication(cluster.store, cluster.writer, cluster.members, random.Random(1), config)
        looked_at: list[ChunkId] = []
        seen = [trio.current_time()]

        def slowly(_moves: MovePlan, chunk: ChunkState) -> None:
            looked_at.append(chunk.chunk)
            autojump_clock.jump(0.001)

        monkeypatch.setattr(MovePlan, "_move", slowly)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(replication.run_once)
            while len(looked_at) < 300 and trio.current_time() < seen[0] + 1:
                await trio.lowlevel.checkpoint()
                seen.append(trio.current_time())
        assert len(looked_at) == 300
        assert max(later - earlier for earlier, later in pairwise(seen)) < 0.15  # two turns


async def test_the_cluster_balances_itself_when_there_is_nothing_to_repair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr("tests.unit.namenode.test_replication.ROOM", 60 * LENGTH)
    places = [[N1, N2, N3]] * 40
    async with world(tmp_path, lambda space: chunks_on(space, *places), N1, N2, N3, N4, balance=True) as cluster:
        used_of(cluster, LENGTH)
        await cluster.beat_until(lambda: cluster.operations.plan_balance(0.05)["even"], N1, N2, N3, N4)


async def test_copies_move_apart_when_a_second_rack_is_there(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2]), N1, N2, N3) as cluster:
        cluster.racks |= {N1: "a", N2: "a", N3: "b"}
        await cluster.start(N1, N2, N3)
        await cluster.beat_until(lambda: N3 in cluster.holders(1) and len(cluster.holders(1)) == 2, N1, N2, N3)


async def test_files_that_are_to_have_more_or_fewer_copies_get_or_lose_them(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2], [N1, N2, N3]), N1, N2, N3) as cluster:
        await cluster.set_replicas(1, 3)
        await cluster.set_replicas(2, 1)
        await cluster.beat_until(lambda: [len(each) for each in cluster.all_holders()] == [3, 1], N1, N2, N3)


async def test_what_a_node_holds_back_is_shown_until_it_is_decided(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2]), N1, N2, N3) as cluster:
        report = {"capacity_bytes": 1, "free_bytes": 1, "chunks": 0, "load": 0}
        await cluster.service.heartbeat(N1, report | {"held": {"orders": 7, "reason": "an old namespace"}})
        assert (await cluster.service.status())["held"] == {N1: {"orders": 7, "reason": "an old namespace"}}
        await cluster.service.heartbeat(N1, report)
        assert (await cluster.service.status())["held"] == {}


@pytest.mark.parametrize("is_discarded", [True, False])
async def test_copies_whose_deletion_is_held_back_count_again_when_they_are_wanted_again(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, is_discarded: bool
) -> None:
    everyone = (N1, N2, N3)
    async with world(tmp_path, lambda space: chunks_on(space, *([everyone] * 6), wanted=2), *everyone) as cluster:
        checker = Checker(cluster.store, cluster.runtime, lambda: ())
        explainer = Explainer(checker, cluster.members, cluster.replication, cluster.runtime)
        cluster.holding |= {N1, N2, N3}
        await cluster.beat_until(lambda: sum(map(len, cluster._held.values())) == 6, *everyone)
        await cluster.beat(*everyone)
        for chunk in range(1, 7):
            await cluster.set_replicas(chunk, 3)
        await cluster.beat_until(lambda: cluster.replication.held_up == 6, *everyone)
        assert {finding.kind for finding in await explainer.all_shortages()} == {"copies-few"}
        for name in everyone:
            if is_discarded:
                cluster.discard(name)
            else:  # they come again after an hour
                await cluster.writer.decide("postpone_work", name, cluster._held.get(name, []), 0)
        await cluster.beat_until(lambda: cluster.all_holders() == [[N1, N2, N3]] * 6, *everyone, most_s=5)
        await cluster.beat_until(lambda: not cluster.replication.under_replicated, *everyone, most_s=5)
        assert cluster.ordered("delete") == []
        assert sorted(chunk for _, chunk in cluster.ordered("copy")) == [*range(1, 7)]  # each is looked at where it is
        assert (await cluster.deletions()) == {}


async def test_many_orders_done_are_not_compared_with_one_another(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    compared = []

    class Number(int):
        __hash__ = int.__hash__

        def __eq__(self, other: object) -> bool:
            compared.append(other)
            return int(self) == other

    async with world(tmp_path, lambda space: chunks_on(space, [N1, N2]), N1, N2) as cluster:
        report = {"capacity_bytes": ROOM, "free_bytes": ROOM, "chunks": 0, "load": 0}
        await cluster.service.heartbeat(N1, report | {"done": [Number(each) for each in range(-300, 300)]})
        assert len(compared) < 1000


async def test_a_heartbeat_brings_the_limit_and_no_more_orders_than_fit(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    def fill(space: Namespace) -> None:
        chunks_on(space, *([[N1, N2]] * 300), wanted=3)
        for chunk in range(1000, 1400):
            space.own("delete_stray", N3, [ChunkId(chunk)])

    async with world(tmp_path, fill, N1, N2, N3, copy_bandwidth=12345) as cluster:
        await trio.sleep(2)
        report = {"capacity_bytes": ROOM, "free_bytes": ROOM, "chunks": 0, "load": 0}
        answer = await cluster.service.heartbeat(N3, report)
        assert answer["copy_bytes_per_s"] == 12345
        assert len(answer["orders"]) <= 256
        assert {order[1] for order in answer["orders"]} == {"copy"} | {order[1] for order in answer["orders"]}


async def test_orders_to_punch_very_many_ranges_fit_a_message(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """What is due for a node is told by and by: an answer that is too large would never arrive."""
    count = 300

    def fill(space: Namespace) -> None:
        chunks = chunks_on(space, *([[N1]] * count), wanted=1)
        space.store.begin()
        ranges = msgpack.packb([[8192 * i + 4096 + (32 << 20), 4096] for i in range(4096)])
        space.store.writing.executemany(
            "INSERT INTO work VALUES (?, (SELECT id FROM node WHERE name = ?), 'punch', ?, ?, 0)",
            [(10_000 + chunk, N1, chunk, ranges) for chunk in chunks],
        )
        space.store.commit()

    async with world(tmp_path, fill, N1) as cluster:
        report = {"capacity_bytes": ROOM, "free_bytes": ROOM, "chunks": 0, "load": 0}
        seen: set[int] = set()
        done: list[int] = []
        for _ in range(count):
            answer = await cluster.service.heartbeat(N1, report | {"done": done})
            assert len(msgpack.packb(answer)) < limits.MESSAGE_MAX_BYTES / 2
            done = [order[0] for order in answer["orders"]]
            seen.update(done)
            if not done:
                break
        assert len(seen) >= count


async def test_a_copy_that_was_deleted_while_a_report_is_compared_is_not_counted(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """n4 has a copy too many of one chunk, and has lost its copy of another."""
    found: list[int] = []

    def fill(space: Namespace) -> None:
        found.extend(chunks_on(space, [N1, N2, N3, N4], [N2, N3, N4], wanted=3))

    async with world(tmp_path, fill, N1, N2, N3, N4, repair=False) as cluster:
        surplus, _ = found
        await cluster.beat(N1, N2, N3, N4)
        await cluster.writer.decide("drop_surplus", [(surplus, [N4], [N1, N2, N3])])
        report = {"capacity_bytes": ROOM, "free_bytes": ROOM, "chunks": 2, "load": 0}
        answer = await cluster.service.heartbeat(N4, report)
        (order,) = [order for order in answer["orders"] if order[1] == "delete"]
        held = [[surplus, LENGTH, True]]
        assert await cluster.report_slice(N4, 1, CHUNK_LAST, held) == 1, "the other one is doubted"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cluster.report_slice, N4, 1, CHUNK_LAST, held)
            await trio.lowlevel.checkpoint()
            nursery.start_soon(cluster.service.heartbeat, N4, report | {"done": [order[0]]})
        assert cluster.holders(surplus) == [N1, N2, N3]
