"""Clients share a DataNode: neither who asks most nor who does not take his answers keeps the others waiting."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, TypeVarTuple

import pytest
import trio
import trio.testing

from dfs import codec, errors, limits
from dfs.checksum import sum_blocks
from dfs.keys import Key, Role
from dfs.rpc import Call, Peer, Pool, WithData
from dfs.types import ChunkId, NodeId
from nodes.datanode.admission import Admission
from nodes.datanode.bandwidth import TokenBucket
from nodes.datanode.chain import Chain
from nodes.datanode.chunkfiles import data_path
from nodes.datanode.clientmemory import ClientMemories
from nodes.datanode.obeyed import load
from nodes.datanode.restraint import Restraint
from nodes.datanode.scrub import Scrub
from nodes.datanode.service import DataNode
from nodes.datanode.users import Users
from nodes.datanode.volumes import Volumes
from tests.keys import MASTERS
from tests.simulation.disk import PAGE, InlineRuntime, MemoryDisk
from tests.simulation.network import MemoryNetwork
from tests.unit.datanode.world import CLUSTER

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

LARGE = 2 * limits.INLINE_IO_MAX_BYTES  # is written by a worker thread
FLOODER, OTHER = MASTERS.issue(Role.ADMIN, "flooder"), MASTERS.issue(Role.ADMIN, "other")


class SlowDisk(InlineRuntime):
    """Worker threads wait while `closed`; `waiting` of them."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = trio.Event()
        self.opened.set()
        self.waiting = 0

    async def run_blocking(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        self.waiting += 1
        try:
            await self.opened.wait()
            return await super().run_blocking(work, *args)
        finally:
            self.waiting -= 1


class Node:
    def __init__(self) -> None:
        self.runtime = SlowDisk()
        self.disk = MemoryDisk(10_000 * PAGE, "disk")
        disks = [self.disk]
        self.volumes = Volumes(disks, NodeId("n1"), self.runtime, 0)
        self.volumes.open()
        self.volumes.join(CLUSTER)
        users = Users()
        scrub = Scrub(self.volumes, Restraint(0.5, load(disks)), self.runtime, users, 1e6, 1e6)
        admission = Admission(lambda: MASTERS, lambda: 0.0, lambda _: True)
        parts = Chain(Pool(MemoryNetwork().host("n1")), "namenode:1"), ClientMemories(None, self.runtime)
        self.service = DataNode(
            *(NodeId("n1"), self.volumes, admission, TokenBucket(), users, scrub, self.runtime, *parts)
        )
        self._connections = 0

    def connect(self, key: Key) -> Peer:
        self._connections += 1
        peer = Peer(f"{key.id.name}:1", self._connections)
        peer.key = key.id
        return peer

    async def append(self, peer: Peer, chunk: int, length: int = LARGE, *, durably: bool = False) -> int:
        data = memoryview(bytes(length))
        blocks = codec.pack_blocks(sum_blocks(data))
        return await self.service.append(Call(peer, data), chunk, 0, blocks, b"", durably)

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        self.runtime.opened = trio.Event()
        try:
            yield
        finally:
            self.runtime.opened.set()


@pytest.mark.parametrize("connections", [1, 100])
async def test_a_flood_of_writes_leaves_places_at_the_disks(connections: int) -> None:
    node = Node()
    flooders = [node.connect(FLOODER) for _ in range(connections)]
    async with trio.open_nursery() as nursery:
        with node.standing_still():
            for chunk in range(1, 201):
                nursery.start_soon(node.append, flooders[chunk % connections], chunk)
            await trio.testing.wait_all_tasks_blocked()
            flood = node.runtime.waiting
            assert limits.CALLS_AT_ONCE_MAX // 3 <= flood <= limits.CALLS_AT_ONCE_MAX // 2
            nursery.start_soon(node.append, node.connect(OTHER), 1000)
            await trio.testing.wait_all_tasks_blocked()
            assert node.runtime.waiting == flood + 1
    assert node.volumes.chunk_count() == 201


async def test_who_writes_one_chunk_after_the_other_has_his_turn_beside_a_flood() -> None:
    node = Node()
    done = 0

    async def flood(peer: Peer, first: int) -> None:
        nonlocal done
        for chunk in range(first, first + 50):
            await node.append(peer, chunk)
            done += 1

    async with trio.open_nursery() as nursery:
        for number in range(1, 101):
            nursery.start_soon(flood, node.connect(FLOODER), number * 1000)
        await trio.lowlevel.checkpoint()
        other, before = node.connect(OTHER), done
        for chunk in range(1, 11):
            await node.append(other, chunk)
        assert done - before <= 10 * limits.CALLS_AT_ONCE_MAX
        nursery.cancel_scope.cancel()


async def test_who_does_not_take_his_answers_gets_no_more_of_them_and_keeps_nobody_waiting() -> None:
    node = Node()
    flooder, other = node.connect(FLOODER), node.connect(OTHER)
    await node.append(flooder, 1)
    answers: list[WithData] = []

    async def read(peer: Peer) -> None:
        answers.append(await node.service.read(Call(peer, None), 1, 0, LARGE))

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(read, flooder)
        await trio.testing.wait_all_tasks_blocked()
        assert len(answers) == limits.CALLS_AT_ONCE_MAX // 3
        await read(other)
        for answer in answers:  # grows meanwhile: each that is sent lets another one be read
            assert answer.done is not None
            answer.done()
            await trio.testing.wait_all_tasks_blocked()
    assert len(answers) == 101


async def test_ranges_that_cannot_be_read_at_once_are_refused() -> None:
    node = Node()
    peer = node.connect(FLOODER)
    await node.append(peer, 1)

    async def read(*ranges: tuple[int, int]) -> WithData:
        return await node.service.read_ranges(Call(peer, None), 1, codec.pack_ranges(ranges))

    assert sum(len(buffer) for buffer in (await read((0, 10), (5, 100), (LARGE - 1, 1))).buffers) == 111
    for ranges in (
        [],
        [(0, 0)],
        [(0, 1), (5, 0)],
        [(0, LARGE), (1, LARGE)] * (limits.READ_MAX_BYTES // LARGE),
        [(0, 1)] * (limits.READ_RANGES_MAX + 1),
        [(LARGE, 1)],
        [(2**32 - 1, 2**32 - 1)],
    ):
        with pytest.raises(errors.InvalidArgument):
            await read(*ranges)
    for nonsense in (None, 5, "ranges", [], [[0, 1]], b"1234567", {}):
        with pytest.raises(errors.InvalidArgument):
            await node.service.read_ranges(Call(peer, None), 1, nonsense)


async def test_a_sync_of_many_chunks_goes_to_the_disks_a_few_at_a_time() -> None:
    node = Node()
    peer = node.connect(FLOODER)
    chunks = list(range(1, 101))
    for chunk in chunks:
        await node.append(peer, chunk)
    lengths: list[Any] = []

    async def sync() -> None:
        lengths.extend(await node.service.sync(Call(peer, None), [*chunks, 1000]))

    async with trio.open_nursery() as nursery:
        with node.standing_still():
            nursery.start_soon(sync)
            await trio.testing.wait_all_tasks_blocked()
            assert node.runtime.waiting == limits.SYNCED_AT_ONCE_MAX
    assert lengths == [LARGE] * 100 + [-1]
    assert node.volumes.length(ChunkId(1)) == LARGE


async def test_a_sync_has_its_turn_among_the_reads_of_its_party() -> None:
    node = Node()
    syncer = node.connect(FLOODER)
    chunks = list(range(1, 2 * limits.SYNCED_AT_ONCE_MAX))
    for chunk in chunks:
        await node.append(syncer, chunk)
    reads = 0

    async def flood(peer: Peer) -> None:
        nonlocal reads
        while True:
            answer = await node.service.read(Call(peer, None), 1, 0, LARGE)
            reads += 1
            await trio.lowlevel.checkpoint()
            assert answer.done is not None
            answer.done()

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(flood, node.connect(FLOODER))
        while reads < 100:
            await trio.lowlevel.checkpoint()
        before = reads
        with trio.CancelScope() as patience:

            async def lose_patience() -> None:
                while reads - before < 100 * limits.CALLS_AT_ONCE_MAX:
                    await trio.lowlevel.checkpoint()
                patience.cancel()

            nursery.start_soon(lose_patience)
            assert await node.service.sync(Call(syncer, None), chunks) == [LARGE] * len(chunks)
        assert not patience.cancelled_caught
        nursery.cancel_scope.cancel()


async def test_what_fails_leaves_its_place() -> None:
    node = Node()
    peer = node.connect(OTHER)
    for _ in range(2 * limits.CALLS_AT_ONCE_MAX):
        with pytest.raises(Exception, match="chunk"):
            await node.service.read(Call(peer, None), 5, 0, 1)
    assert await node.append(peer, 5) == LARGE


async def test_what_is_appended_durably_is_on_the_disk_when_that_is_answered() -> None:
    node, length = Node(), 100
    peer = node.connect(OTHER)
    assert await node.append(peer, 1, length) == length
    assert await node.append(peer, 2, length, durably=True) == length
    assert node.disk.durable_size(data_path(ChunkId(1))) == 0
    assert node.disk.durable_size(data_path(ChunkId(2))) == length


async def test_an_append_that_cannot_be_flushed_is_none() -> None:
    node = Node()
    node.disk.fail("sync", errno.EIO)
    with pytest.raises(errors.DiskFailed):
        await node.append(node.connect(OTHER), 1, durably=True)


async def test_what_could_be_flushed_in_part_only_is_not_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a block was found damaged meanwhile."""
    node = Node()
    sync = node.volumes.sync

    async def sync_less(chunks: list[ChunkId]) -> list[int]:
        return [length - 1 for length in await sync(chunks)]

    monkeypatch.setattr(node.volumes, "sync", sync_less)
    with pytest.raises(errors.DiskFailed, match="could not be flushed"):
        await node.append(node.connect(OTHER), 1, durably=True)
