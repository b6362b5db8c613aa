"""Memory of clients on this host, out of which a DataNode reads what they append (`dfs.rpc.sharing`).

    client: expect_memory() -> inbox, ticket, user;  gives its memory there;  take_memory()
            append(..., at=place), as often as it likes;  drop_memory()

The memory belongs to the connection: when that ends, or brings another, it is closed, as soon as nobody reads it. An
append over a connection without one gets `MemoryUnknown`, and the client sends the bytes. There are at most
MEMORIES_MAX, and MEMORIES_OF_PARTY_MAX of one key and host: who wants one more is told that he cannot.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import trio

from dfs import errors, limits
from dfs.rpc import ForeignMemory, Inbox, Party, Peer, SharedBytes
from dfs.runtime import Runtime


class _Client:
    """What a connection has to do with memory: a ticket for what is to come, and what has."""

    __slots__ = ("memory", "ticket")

    def __init__(self, ticket: bytes) -> None:
        self.ticket: bytes | None = ticket
        self.memory: ForeignMemory | None = None


class ClientMemories:
    """Of one DataNode; none where there is no `inbox` for them.

    `_clients` are the connections that have asked, by their peers' ids. `_read` has the memories to which anybody still
    refers, and who gave them.
    """

    def __init__(self, inbox: Inbox | None, runtime: Runtime) -> None:
        self._inbox = inbox
        self._runtime = runtime
        self._clients: dict[int, _Client] = {}
        self._read: WeakKeyDictionary[ForeignMemory, Party] = WeakKeyDictionary()
        self._spare: list[bytearray] = []

    @property
    def can_be_had(self) -> bool:
        """Whether clients may share memory with this node."""
        return self._inbox is not None

    def expect(self, peer: Peer) -> tuple[str, bytes, int]:
        """Where a peer is to give its memory: an inbox's name, a ticket, and whose it is. It has none until then.

        Raises `NotSupported`, and `MemoryUnknown` where it cannot.
        """
        if self._inbox is None:
            raise errors.NotSupported("this DataNode reads no memory of others")
        if peer.has_parted:
            raise errors.MemoryUnknown("nothing can come over a connection that has ended")
        self.drop(peer)
        ticket = self._inbox.expect()
        self._clients[peer.id] = _Client(ticket)
        return self._inbox.name, ticket, self._inbox.user

    async def take(self, peer: Peer) -> None:
        """Take what a peer has given.

        Raises `MemoryUnknown` if nothing came, `NotSupported` if it is no such memory, `Busy` if there are too many.
        """
        client = self._clients.get(peer.id)
        if client is None or client.ticket is None or self._inbox is None:
            raise errors.MemoryUnknown("no memory is expected")
        if not await self._inbox.collect(self._runtime):
            raise errors.Busy("this DataNode cannot take memory now")
        if client.ticket is None:
            raise errors.MemoryUnknown("no memory is expected any more")
        descriptor = self._inbox.take(client.ticket)
        if descriptor is None:
            raise errors.MemoryUnknown("the memory that was to come has not arrived")
        self._forget_ticket(client)
        try:
            self._check_number(peer.party)
            memory = ForeignMemory(descriptor, limits.MEMORY_MAX_BYTES, self._spare, limits.MEMORY_PART_BYTES)
        except errors.DfsError:
            self._inbox.put_away(descriptor)
            raise
        self._read[memory] = peer.party
        client.memory = memory

    def _check_number(self, party: Party) -> None:
        of_party = sum(other == party for other in self._read.values())
        if len(self._read) >= limits.MEMORIES_MAX or of_party >= limits.MEMORIES_OF_PARTY_MAX:
            raise errors.Busy("this DataNode reads the memory of as many clients as it can")

    def _forget_ticket(self, client: _Client) -> None:
        ticket, client.ticket = client.ticket, None
        if ticket is not None and self._inbox is not None:
            self._inbox.forget(ticket)

    def drop(self, peer: Peer) -> None:
        """Close what a peer has given, as soon as nobody reads it, and expect nothing of it."""
        client = self._clients.pop(peer.id, None)
        if client is not None:
            self._forget_ticket(client)

    def span(self, peer: Peer, place: int, length: int) -> SharedBytes:
        """Bytes in a peer's memory. Raises `MemoryUnknown`, `InvalidArgument`."""
        client = self._clients.get(peer.id)
        if client is None or client.memory is None:
            raise errors.MemoryUnknown("no memory came over this connection")
        return client.memory.span(place, length)

    async def run(self) -> None:
        """Keep nothing that nobody needs. Runs until cancelled; no memory is taken any more then."""
        try:
            while True:
                await trio.sleep(limits.MEMORY_IDLE_S / 2)
                del self._spare[limits.MEMORY_PARTS_KEPT :]
                if self._inbox is not None:
                    await self._inbox.collect(self._runtime)
        finally:
            if self._inbox is not None:
                await self._inbox.aclose(self._runtime)
