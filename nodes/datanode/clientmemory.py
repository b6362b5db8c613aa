"""Memory of clients on this host, out of which a DataNode reads what they append (`dfs.rpc.sharing`).

    client: expect_memory() -> inbox, ticket;  gives its memory there;  append(..., [ticket, place]), again and again

The ticket names the memory from then on, to whoever shares the key and the host that it was given out to. Which ones
there are is no promise: those of which nothing was read for MEMORY_IDLE_S are closed, as are the oldest of too many,
and a node that was restarted has none. `MemoryUnknown` says so, and the client sends the bytes themselves.

What is being read is closed when that has ended.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from dfs import errors, limits
from dfs.rpc import ForeignMemory, Inbox, Party, SharedBytes


class _Memory:
    """What a ticket names. `memory` is None until it has arrived; `users` read it now."""

    __slots__ = ("is_dropped", "memory", "party", "used_at", "users")

    def __init__(self, party: Party) -> None:
        self.party = party
        self.memory: ForeignMemory | None = None
        self.used_at = trio.current_time()
        self.users = 0
        self.is_dropped = False

    def close_unused(self) -> None:
        if self.is_dropped and not self.users and self.memory is not None:
            self.memory.close()
            self.memory = None


class ClientMemories:
    """Of one DataNode; none where there is no `inbox` for them. In the order in which they were last used."""

    def __init__(self, inbox: Inbox | None) -> None:
        self._inbox = inbox
        self._known: OrderedDict[bytes, _Memory] = OrderedDict()
        self._spare: list[bytearray] = []

    @property
    def can_be_had(self) -> bool:
        """Whether clients may share memory with this node."""
        return self._inbox is not None

    def expect(self, party: Party) -> tuple[str, bytes]:
        """Where memory is to be given: an inbox's name, and a ticket. Raises `NotSupported`."""
        if self._inbox is None:
            raise errors.NotSupported("this DataNode reads no memory of others")
        ticket = self._inbox.expect()
        self._known[ticket] = _Memory(party)
        while len(self._known) > limits.MEMORIES_MAX:
            self._drop(next(iter(self._known)))
        return self._inbox.name, ticket

    @contextmanager
    def reading(self, party: Party, ticket: object, place: int, length: int) -> Iterator[SharedBytes]:
        """Around reading bytes of a memory.

        Raises `MemoryUnknown`, `InvalidArgument`; `NotSupported` if what was given is no such memory.
        """
        known = self._known.get(ticket) if isinstance(ticket, bytes) else None
        if known is None or known.party != party or not isinstance(ticket, bytes):
            raise errors.MemoryUnknown("no memory is known by this ticket")
        if known.memory is None:
            known.memory = self._arrived(ticket)
        span = known.memory.span(place, length)
        self._known.move_to_end(ticket)
        known.users += 1
        try:
            yield span
        finally:
            known.users -= 1
            known.used_at = trio.current_time()
            known.close_unused()

    def _arrived(self, ticket: bytes) -> ForeignMemory:
        assert self._inbox is not None, "it has given the ticket out"
        descriptor = self._inbox.take(ticket)
        if descriptor is None:
            self._drop(ticket)
            raise errors.MemoryUnknown("the memory that was to come has not arrived")
        try:
            return ForeignMemory(descriptor, limits.MEMORY_MAX_BYTES, self._spare, limits.MEMORY_PART_BYTES)
        except errors.NotSupported:
            self._drop(ticket)
            raise

    def _drop(self, ticket: bytes) -> None:
        assert self._inbox is not None, "it has given the ticket out"
        self._inbox.forget(ticket)
        known = self._known.pop(ticket)
        known.is_dropped = True
        known.close_unused()

    async def look_after(self) -> None:
        """Close what nobody uses. Runs until cancelled; all are closed then."""
        try:
            while True:
                await trio.sleep(limits.MEMORY_IDLE_S / 2)
                due = trio.current_time() - limits.MEMORY_IDLE_S
                for ticket in [ticket for ticket, known in self._known.items() if known.used_at <= due]:
                    self._drop(ticket)
                del self._spare[limits.MEMORY_PARTS_KEPT :]
                if self._inbox is not None:
                    self._inbox.sweep()
        finally:
            for ticket in list(self._known):
                self._drop(ticket)
            if self._inbox is not None:
                self._inbox.close()
