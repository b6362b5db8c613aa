"""A DataNode reads what clients of its host append out of their memory, as long as it has it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from crc32c import crc32c
from trio.testing import MockClock

from dfs import errors, limits
from dfs.checksum import Block, sum_blocks
from dfs.rpc import ForeignMemory, Inbox, Party, SharedBytes, SharedMemory
from dfs.rpc.handover import give
from nodes.datanode.clientmemory import ClientMemories
from tests.simulation.disk import PAGE, MemoryDisk
from tests.unit.datanode.world import CHUNK, DATA, INDEX, appended, content, opened
from tests.unit.rpc.test_handover import open_descriptors

KIB = limits.KIB
HERE, THERE = Party(None, "here"), Party(None, "there")


@pytest.fixture
def shared() -> Iterator[SharedMemory]:
    memory = SharedMemory(2, limits.APPEND_MAX_BYTES)
    yield memory
    memory.close()


def given(memories: ClientMemories, shared: SharedMemory, party: Party = HERE) -> bytes:
    """The ticket under which a node has the memory."""
    name, ticket = memories.expect(party)
    give(name, ticket, shared.descriptor(), to_anybody=True)
    return ticket


def read(memories: ClientMemories, ticket: object, length: int, party: Party = HERE, place: int = 0) -> bytes:
    with memories.reading(party, ticket, place, length) as data:
        return b"".join(bytes(part) for part in data.parts([length]))


async def test_what_was_given_is_read_again_and_again(shared: SharedMemory) -> None:
    memories = ClientMemories(Inbox())
    assert memories.can_be_had
    ticket = given(memories, shared)
    shared.put([b"something"], 9)
    assert read(memories, ticket, 9) == b"something"
    shared.free(0)
    shared.put([b"something else"], 14)
    assert read(memories, ticket, 4, place=10) == b"else"
    await closed(memories)


async def closed(memories: ClientMemories) -> None:
    """Let the node end."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await memories.look_after()


async def test_a_ticket_is_its_owners_and_names_what_has_arrived(shared: SharedMemory) -> None:
    memories = ClientMemories(Inbox())
    ticket = given(memories, shared)
    for other, party in ((ticket, THERE), (b"?" * 16, HERE), (None, HERE), ([ticket], HERE)):
        with pytest.raises(errors.MemoryUnknown):
            read(memories, other, 1, party)
    with pytest.raises(errors.InvalidArgument):
        read(memories, ticket, 1, place=2 * limits.APPEND_MAX_BYTES)
    assert read(memories, ticket, 1) == b"\0"
    _, empty = memories.expect(HERE)
    with pytest.raises(errors.MemoryUnknown, match="not arrived"):
        read(memories, empty, 1)
    await closed(memories)


async def test_what_is_no_memory_is_refused_once_and_unknown_then() -> None:
    memories = ClientMemories(Inbox())
    before = open_descriptors()
    name, ticket = memories.expect(HERE)
    give(name, ticket, os.open("/dev/zero", os.O_RDONLY), to_anybody=True)
    with pytest.raises(errors.NotSupported):
        read(memories, ticket, 1)
    with pytest.raises(errors.MemoryUnknown):
        read(memories, ticket, 1)
    assert open_descriptors() == before
    await closed(memories)


async def test_a_node_without_an_inbox_has_none() -> None:
    memories = ClientMemories(None)
    assert not memories.can_be_had
    with pytest.raises(errors.NotSupported):
        memories.expect(HERE)
    await closed(memories)


async def test_what_is_not_used_is_closed_and_what_is_used_stays(
    autojump_clock: MockClock, shared: SharedMemory
) -> None:
    before = open_descriptors()
    memories = ClientMemories(Inbox())
    used, unused = given(memories, shared), given(memories, shared)
    read(memories, unused, 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(memories.look_after)
        for _ in range(8):
            await trio.sleep(limits.MEMORY_IDLE_S / 4)
            read(memories, used, 1)
        with pytest.raises(errors.MemoryUnknown):
            read(memories, unused, 1)
        nursery.cancel_scope.cancel()
    with pytest.raises(errors.MemoryUnknown):
        read(memories, used, 1)
    assert open_descriptors() == before


async def test_of_too_many_the_one_that_was_not_used_for_longest_goes(shared: SharedMemory) -> None:
    before = open_descriptors()
    memories = ClientMemories(Inbox())
    tickets = [given(memories, shared) for _ in range(limits.MEMORIES_MAX)]
    for ticket in tickets:
        read(memories, ticket, 1)
    read(memories, tickets[0], 1)
    given(memories, shared)
    assert read(memories, tickets[0], 1) == b"\0"
    with pytest.raises(errors.MemoryUnknown):
        read(memories, tickets[1], 1)
    await closed(memories)
    assert open_descriptors() == before


async def test_what_is_being_read_is_closed_when_that_has_ended(shared: SharedMemory) -> None:
    memories = ClientMemories(Inbox())
    ticket = given(memories, shared)
    shared.put([b"something"], 9)
    with memories.reading(HERE, ticket, 0, 4) as first, memories.reading(HERE, ticket, 4, 5) as second:
        before = open_descriptors()
        for _ in range(limits.MEMORIES_MAX):
            memories.expect(HERE)
        with pytest.raises(errors.MemoryUnknown):
            read(memories, ticket, 1)
        assert b"".join(map(bytes, first.parts([4]))) == b"some"
        assert b"".join(map(bytes, second.parts([5]))) == b"thing"
        assert open_descriptors() == before
    assert open_descriptors() == before - 1
    await closed(memories)


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

    def close(self) -> None:
        self._foreign.close()


@pytest.fixture
def client(shared: SharedMemory) -> Iterator[Client]:
    shared.put([], 0)
    made = Client(shared)
    yield made
    made.close()


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
