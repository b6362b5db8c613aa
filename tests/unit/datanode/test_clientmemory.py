"""A DataNode reads what clients of its host append out of their memory, as long as it has it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import pytest
import trio
from crc32c import crc32c

from dfs import errors, limits
from dfs.checksum import Block, sum_blocks
from dfs.keys import Key, Role
from dfs.rpc import ForeignMemory, Inbox, Peer, SharedBytes, SharedMemory
from dfs.rpc.handover import give
from dfs.runtime import RealRuntime, Runtime
from nodes.datanode.clientmemory import ClientMemories
from tests.keys import MASTERS
from tests.simulation.disk import PAGE, MemoryDisk
from tests.unit.datanode.world import CHUNK, DATA, INDEX, appended, content, opened
from tests.unit.rpc.test_handover import open_descriptors

ALICE, BOB = MASTERS.issue(Role.CLIENT, "alice"), MASTERS.issue(Role.CLIENT, "bob")


@pytest.fixture
def shared() -> Iterator[SharedMemory]:
    memory = SharedMemory(2, limits.APPEND_MAX_BYTES)
    yield memory
    memory.close()


@pytest.fixture
async def memories() -> AsyncIterator[ClientMemories]:
    made = ClientMemories(Inbox(), RealRuntime())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        yield made
        nursery.cancel_scope.cancel()


def connected(number: int = 1, key: Key = ALICE) -> Peer:
    peer = Peer("here", number)
    peer.key = key.id
    return peer


async def given(memories: ClientMemories, shared: SharedMemory, peer: Peer) -> None:
    """A peer gives its memory."""
    name, ticket, user = memories.expect(peer)
    give(name, ticket, shared.descriptor(), [user])
    await memories.take(peer)


def read(memories: ClientMemories, peer: Peer, length: int, place: int = 0) -> bytes:
    return b"".join(bytes(part) for part in memories.span(peer, place, length).parts([length]))


async def test_what_was_given_is_read_again_and_again(memories: ClientMemories, shared: SharedMemory) -> None:
    assert memories.can_be_had
    peer = connected()
    await given(memories, shared, peer)
    shared.put([b"something"], 9)
    assert read(memories, peer, 9) == b"something"
    shared.free(0)
    shared.put([b"something else"], 14)
    assert read(memories, peer, 4, place=10) == b"else"
    with pytest.raises(errors.InvalidArgument):
        read(memories, peer, 1, place=2 * limits.APPEND_MAX_BYTES)


async def test_memory_is_of_one_connection(memories: ClientMemories, shared: SharedMemory) -> None:
    await given(memories, shared, connected(1))
    with pytest.raises(errors.MemoryUnknown):
        read(memories, connected(2), 1)


async def test_nothing_is_taken_that_is_not_expected_or_has_not_come(
    memories: ClientMemories, shared: SharedMemory
) -> None:
    peer = connected()
    with pytest.raises(errors.MemoryUnknown, match="no memory is expected"):
        await memories.take(peer)
    name, ticket, _ = memories.expect(peer)
    with pytest.raises(errors.MemoryUnknown, match="not arrived"):
        await memories.take(peer)
    give(name, ticket, shared.descriptor())
    await memories.take(peer)  # late, and not too late
    assert read(memories, peer, 1) == b"\0"
    with pytest.raises(errors.MemoryUnknown, match="no memory is expected"):
        await memories.take(peer)
    assert read(memories, peer, 1) == b"\0"


async def test_who_begins_anew_has_none_until_it_is_there(memories: ClientMemories, shared: SharedMemory) -> None:
    before, peer = open_descriptors(), connected()
    await given(memories, shared, peer)
    name, ticket, _ = memories.expect(peer)
    with pytest.raises(errors.MemoryUnknown):
        read(memories, peer, 1)
    give(name, ticket, shared.descriptor())
    memories.expect(peer)
    with pytest.raises(errors.MemoryUnknown, match="not arrived"):
        await memories.take(peer)
    await given(memories, shared, peer)
    assert read(memories, peer, 1) == b"\0"
    assert open_descriptors() == before + 1


async def test_when_a_connection_ends_all_that_came_over_it_is_closed(
    memories: ClientMemories, shared: SharedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, peer = open_descriptors(), connected()
    await given(memories, shared, peer)
    memories.drop(peer)
    memories.drop(peer)
    assert open_descriptors() == before
    name, ticket, _ = memories.expect(peer)
    give(name, ticket, shared.descriptor())
    collect = Inbox.collect

    async def ended_meanwhile(inbox: Inbox, runtime: Runtime) -> bool:
        is_done = await collect(inbox, runtime)
        memories.drop(peer)
        return is_done

    with monkeypatch.context() as patched, pytest.raises(errors.MemoryUnknown, match="any more"):
        patched.setattr(Inbox, "collect", ended_meanwhile)
        await memories.take(peer)
    await given(memories, shared, connected(2))  # with this what was given up is closed
    assert open_descriptors() == before + 1


async def test_over_a_connection_that_has_ended_nothing_is_expected(memories: ClientMemories) -> None:
    """A oneway call of it may still be in work."""
    peer = connected()
    peer.has_parted = True
    with pytest.raises(errors.MemoryUnknown, match="has ended"):
        memories.expect(peer)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done now and then is done all the time."""
    monkeypatch.setattr(limits, "MEMORY_IDLE_S", 0.05)


@pytest.mark.usefixtures("often")
async def test_an_inbox_that_was_filled_is_emptied(memories: ClientMemories, shared: SharedMemory) -> None:
    """By anybody on the host: nothing comes any more, so nothing is taken."""
    before, peer = open_descriptors(), connected()
    name, ticket, _ = memories.expect(peer)
    with pytest.raises(errors.Busy):
        for _ in range(1000):
            give(name, b"?" * len(ticket), shared.descriptor())
    with trio.fail_after(60):
        while True:
            with suppress(errors.Busy):
                await given(memories, shared, peer)
                break
            await trio.sleep(0.01)
    assert read(memories, peer, 1) == b"\0"
    assert open_descriptors() == before + 1


async def test_what_is_no_memory_is_refused(memories: ClientMemories, shared: SharedMemory) -> None:
    before, peer = open_descriptors(), connected()
    name, ticket, _ = memories.expect(peer)
    give(name, ticket, os.open("/dev/zero", os.O_RDONLY))
    with pytest.raises(errors.NotSupported):
        await memories.take(peer)
    with pytest.raises(errors.MemoryUnknown):
        read(memories, peer, 1)
    await given(memories, shared, peer)
    assert open_descriptors() == before + 1


async def test_a_node_without_an_inbox_has_none() -> None:
    memories = ClientMemories(None, RealRuntime())
    assert not memories.can_be_had
    with pytest.raises(errors.NotSupported):
        memories.expect(connected())
    with pytest.raises(errors.MemoryUnknown):
        await memories.take(connected())


async def test_nobody_has_more_than_his_share_and_all_together_no_more_than_there_are(
    memories: ClientMemories, shared: SharedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_descriptors()
    monkeypatch.setattr(limits, "MEMORIES_MAX", 8)
    monkeypatch.setattr(limits, "MEMORIES_OF_PARTY_MAX", 5)
    peers = [connected(number) for number in range(5)]
    for peer in peers:
        await given(memories, shared, peer)
    with pytest.raises(errors.Busy):
        await given(memories, shared, connected(5))
    for number in range(6, 9):
        await given(memories, shared, connected(number, BOB))
    with pytest.raises(errors.Busy):
        await given(memories, shared, connected(9, BOB))
    span = memories.span(peers[0], 0, 1)
    memories.drop(peers[0])
    with pytest.raises(errors.Busy):  # a thread reads it still
        await given(memories, shared, peers[0])
    del span
    await given(memories, shared, peers[0])
    assert open_descriptors() == before + 8


async def test_what_is_being_read_is_closed_when_that_has_ended(memories: ClientMemories, shared: SharedMemory) -> None:
    before, peer = open_descriptors(), connected()
    await given(memories, shared, peer)
    shared.put([b"something"], 9)
    first, second = memories.span(peer, 0, 4), memories.span(peer, 4, 5)
    memories.drop(peer)
    with pytest.raises(errors.MemoryUnknown):
        read(memories, peer, 1)
    assert b"".join(map(bytes, first.parts([4]))) == b"some"
    del first
    assert b"".join(map(bytes, second.parts([5]))) == b"thing"
    assert open_descriptors() == before + 1
    del second
    assert open_descriptors() == before


# --- appending what is there --------------------------------------------------------------------------------


class Client:
    """Memory, as a node sees it."""

    def __init__(self, shared: SharedMemory) -> None:
        self._shared = shared
        self._foreign = ForeignMemory(shared.descriptor(), 2**40, [], limits.MEMORY_PART_BYTES)

    def put(self, data: bytes) -> SharedBytes:
        self._shared.free(0)
        assert self._shared.put([data], len(data)) == 0
        return self._foreign.span(0, len(data))


@pytest.fixture
def client(shared: SharedMemory) -> Client:
    shared.put([], 0)
    return Client(shared)


@pytest.mark.parametrize("length", [1, 100_000, limits.MEMORY_PART_BYTES, limits.MEMORY_PART_BYTES + 1, 3_333_333])
async def test_bytes_in_a_clients_memory_are_appended(client: Client, length: int) -> None:
    store = opened(MemoryDisk(2000 * PAGE))
    before, data = os.urandom(5000), os.urandom(length)
    await appended(store, before)
    assert await store.append(CHUNK, 5000, sum_blocks(data), client.put(data)) == 5000 + length
    assert await content(store, 0, 5000 + length) == before + data
    await store.sync([CHUNK])
    assert await store.append(CHUNK, 5000, sum_blocks(data), client.put(b"what is there already")) == 5000 + length


async def test_blocks_of_any_length_are_appended(client: Client) -> None:
    pieces = [os.urandom(length) for length in [1, limits.BLOCK_MAX_BYTES, 4095, limits.BLOCK_MAX_BYTES, 7] * 8]
    blocks = [Block(len(piece), crc32c(piece)) for piece in pieces]
    data = b"".join(pieces)
    store = opened(MemoryDisk(2000 * PAGE))
    await store.append(CHUNK, 0, blocks, client.put(data))
    assert await content(store, 0, len(data)) == data


@pytest.mark.parametrize("damaged", [0, 2_000_000])
@pytest.mark.parametrize("is_new", [True, False])
async def test_what_has_changed_meanwhile_is_not_appended(client: Client, damaged: int, is_new: bool) -> None:
    """A slot is another append's by now: nothing of either is in the chunk."""
    disk = MemoryDisk(2000 * PAGE)
    store = opened(disk)
    if not is_new:
        await appended(store, b"before")
    files = {path: disk.read_file(path) for path in disk.paths() if path in (DATA, INDEX)}
    data = os.urandom(2_500_000)
    other = bytearray(data)
    other[damaged] ^= 1
    with pytest.raises(errors.Corrupt, match="do not match their checksum"):
        await store.append(CHUNK, 0 if is_new else 6, sum_blocks(data), client.put(bytes(other)))
    assert {path: disk.read_file(path) for path in disk.paths() if path in (DATA, INDEX)} == files
    length = await store.append(CHUNK, 0 if is_new else 6, sum_blocks(data), client.put(data))
    assert await content(store, length - len(data), len(data)) == data


async def test_a_full_disk_takes_nothing_of_it(client: Client) -> None:
    store = opened(MemoryDisk(100 * PAGE))
    await appended(store, b"before")
    data: Any = os.urandom(3_000_000)
    with pytest.raises(errors.NoSpace):
        await store.append(CHUNK, 6, sum_blocks(data), client.put(data))
    assert await content(store, 0, 6) == b"before"
