"""What this client appends, in memory that DataNodes of its host read: it is copied once, and through no socket.

An append is put into a slot of a `SharedMemory` (`placed`), and each node that can read it there is told where it is
instead of being sent it. A node is given the memory once, when it first needs it, under a ticket of its own
(`nodes.datanode.clientmemory`). One that does not know it any more is sent the bytes, and is given the memory anew next
time; one that cannot have it is not asked again for a while.

The memory is made when it is first needed, and given up when nothing was put there for MEMORY_IDLE_S.

Invariant: as long as a slot is taken the memory stays the same, and so do the tickets.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import structlog
import trio

from dfs import errors, limits
from dfs.checksum import Buffer
from dfs.rpc import SharedMemory
from dfs.rpc.handover import give
from dfs.types import NodeId

if TYPE_CHECKING:
    from dfs.client.datanodes import DataNodes

_REFUSALS: Final = (errors.NotSupported, errors.NotPermitted, errors.InvalidArgument)

log = structlog.get_logger(__name__)


class Placed:
    """One append in the memory."""

    def __init__(self, shared: SharedAppends, place: int) -> None:
        self._shared = shared
        self._place = place

    async def at(self, node: NodeId, offset: int) -> tuple[bytes, int] | None:
        """What to tell a node of what begins `offset` bytes into the append; None: it is to be sent.

        Raises what the node says when it is offered the memory, if it does not answer.
        """
        ticket = await self._shared.ticket(node)
        return None if ticket is None else (ticket, self._place + offset)

    def unknown_to(self, node: NodeId) -> None:
        """A node does not have the memory any more."""
        self._shared.forget(node)


class SharedAppends:
    """Of one client. `_tickets` says which nodes have the memory, `_offering` to which it is on its way."""

    def __init__(self, nodes: DataNodes) -> None:
        self._nodes = nodes
        self._memory: SharedMemory | None = None
        self._used_at = 0.0
        self._tickets: dict[NodeId, bytes] = {}
        self._offering: set[NodeId] = set()
        self._refused_until: dict[NodeId, float] = {}
        self._none_until = 0.0
        self._placed_bytes = 0

    @contextmanager
    def placed(self, nodes: Collection[NodeId], data: Sequence[Buffer], length: int) -> Iterator[Placed | None]:
        """Around an append of `length` bytes to `nodes`: None where it is to be sent to all of them."""
        memory = None
        if length >= limits.SHARED_FROM_BYTES and any(map(self._may_read, nodes)):
            memory = self._memory or self._make()
        place = memory.put(data, length) if memory is not None else None
        if memory is None or place is None:
            yield None
            return
        self._placed_bytes += length
        try:
            yield Placed(self, place)
        finally:
            memory.free(place)
            self._used_at = trio.current_time()

    def _may_read(self, node: NodeId) -> bool:
        return self._nodes.reads_memory(node) and trio.current_time() >= self._refused_until.get(node, 0.0)

    def _make(self) -> SharedMemory | None:
        if trio.current_time() < self._none_until:
            return None
        try:
            self._memory = SharedMemory(limits.SHARED_SLOTS, limits.APPEND_MAX_BYTES)
        except OSError as error:
            log.info("no memory can be shared with DataNodes of this host", reason=error.strerror)
            self._none_until = trio.current_time() + limits.LEND_AGAIN_AFTER_S
        return self._memory

    async def ticket(self, node: NodeId) -> bytes | None:
        """The ticket of the memory at a node, which is offered it where it has none; None: it cannot have it now."""
        ticket = self._tickets.get(node)
        if ticket is None and node not in self._offering and self._may_read(node):
            self._offering.add(node)
            try:
                ticket = await self._offer(node)
            finally:
                self._offering.discard(node)
        return ticket

    async def _offer(self, node: NodeId) -> bytes | None:
        assert self._memory is not None, "a slot of it is taken"
        try:
            (name, ticket), _ = await self._nodes.call(node, "expect_memory")
            if not isinstance(name, str) or not isinstance(ticket, bytes):
                raise errors.NotSupported("it says no inbox and no ticket")
            give(name, ticket, self._memory.descriptor(), to_anybody=True)
        except errors.Busy:
            return None
        except _REFUSALS as error:
            log.info(
                "a DataNode of this host reads nothing out of this client's memory", node=node, reason=error.message
            )
            self._refused_until[node] = trio.current_time() + limits.LEND_AGAIN_AFTER_S
            return None
        self._tickets[node] = ticket
        return ticket

    def forget(self, node: NodeId) -> None:
        self._tickets.pop(node, None)

    async def give_up(self) -> None:
        """Give the memory up when nobody needs it. Runs until cancelled."""
        try:
            while True:
                await trio.sleep(limits.MEMORY_IDLE_S / 4)
                is_due = trio.current_time() >= self._used_at + limits.MEMORY_IDLE_S
                if self._memory is not None and self._memory.is_unused and is_due:
                    self._close()
        finally:
            if self._memory is not None and self._memory.is_unused:
                self._close()

    def _close(self) -> None:
        assert self._memory is not None
        self._memory.close()
        self._memory = None
        self._tickets.clear()

    def statistics(self) -> dict[str, int]:
        return {"placed_bytes": self._placed_bytes}
