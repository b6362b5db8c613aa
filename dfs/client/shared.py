"""What this client appends, in memory that DataNodes of its host read: it is copied once, and through no socket.

An append is put into a slot of a `SharedMemory` (`placed`), and each node that can read it there is told where it is
instead of being sent it. A node is given the memory once for each connection, when it first needs it
(`nodes.datanode.clientmemory`). One that does not know it any more is sent the bytes, and is given the memory anew next
time; one that cannot have it, or has lost it twice without having read it, is not asked again for a while.

The memory is made when it is first needed, and given up when nothing was put there for MEMORY_IDLE_S.

Invariant: as long as a slot is taken the memory stays the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio

from dfs import errors, limits, tasks
from dfs.checksum import Buffer
from dfs.client.refusals import Refusals
from dfs.rpc import SharedMemory
from dfs.rpc.handover import give
from dfs.types import NodeId

if TYPE_CHECKING:
    from dfs.client.datanodes import DataNodes

_REFUSALS: Final = (errors.Busy, errors.NotSupported, errors.NotPermitted, errors.InvalidArgument)
_INBOX_FIELDS: Final = 3
_LOST: Final = "it does not keep what it is given"

log = structlog.get_logger(__name__)


class Placed:
    """One append in the memory."""

    def __init__(self, shared: SharedAppends, place: int) -> None:
        self._shared = shared
        self._place = place

    async def append(self, node: NodeId, args: Sequence[Any], offset: int, timeout_s: float) -> bool:
        """Have a node append what begins `offset` bytes into this; whether it could read it.

        `args` are those of `append` before its place. Raises what the node says otherwise.
        """
        offer = await self._shared.offer_to(node)
        if offer is None:
            return False
        try:
            await self._shared.nodes.call(node, "append", *args, self._place + offset, timeout_s=timeout_s)
        except errors.MemoryUnknown:
            self._shared.note_unknown(node, offer)
            return False
        self._shared.note_read(node)
        return True


class SharedAppends:
    """Of one client.

    `_offers` has the nodes that have the memory, with a number for each time that one was given it; `_offering` those
    to which it is on its way.
    """

    def __init__(self, nodes: DataNodes) -> None:
        self.nodes = nodes
        self._memory: SharedMemory | None = None
        self._used_at = 0.0
        self._is_over = False
        self._is_dropping = False
        self._numbers = itertools.count()
        self._offers: dict[NodeId, int] = {}
        self._offering: set[NodeId] = set()
        self._refusals = Refusals("a DataNode of this host reads nothing out of this client's memory")
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
            if self._is_over and memory.is_unused:
                self._close()

    def _may_read(self, node: NodeId) -> bool:
        return self.nodes.reads_memory(node) and self._refusals.may_ask(node)

    def _make(self) -> SharedMemory | None:
        if self._is_over or self._is_dropping or trio.current_time() < self._none_until:
            return None
        try:
            self._memory = SharedMemory(limits.SHARED_SLOTS, limits.APPEND_MAX_BYTES)
        except OSError as error:
            log.info("no memory can be shared with DataNodes of this host", reason=error.strerror)
            self._none_until = trio.current_time() + limits.LEND_AGAIN_AFTER_S
        return self._memory

    # --- who has it -------------------------------------------------------------------------------------

    async def offer_to(self, node: NodeId) -> int | None:
        """The offer by which a node has the memory, made now where it has none; None: it cannot have it now.

        Raises what the node says, unless that is a refusal.
        """
        offer = self._offers.get(node)
        if offer is None and node not in self._offering and self._may_read(node):
            self._offering.add(node)
            try:
                await self._offer(node)
            finally:
                self._offering.discard(node)
            offer = self._offers.get(node)
        return offer

    async def _offer(self, node: NodeId) -> None:
        assert self._memory is not None, "a slot of it is taken"
        try:
            reply, _ = await self.nodes.call(node, "expect_memory")
            name, ticket, user = _inbox_of(reply)
            give(name, ticket, _descriptor_of(self._memory), [user])
            await self.nodes.call(node, "take_memory")
        except errors.MemoryUnknown:
            self._refusals.miss(node, _LOST)
        except _REFUSALS as error:
            self._refusals.refuse(node, error.message)
        else:
            self._offers[node] = next(self._numbers)

    def note_unknown(self, node: NodeId, offer: int) -> None:
        """A node that has had this offer does not have the memory any more."""
        if self._offers.get(node) == offer:
            del self._offers[node]
            self._refusals.miss(node, _LOST)

    def note_read(self, node: NodeId) -> None:
        self._refusals.came(node)

    # --- the end ----------------------------------------------------------------------------------------

    async def give_up(self) -> None:
        """Give the memory up when nobody needs it. Runs until cancelled."""
        try:
            while True:
                await trio.sleep(limits.MEMORY_IDLE_S / 4)
                is_due = trio.current_time() >= self._used_at + limits.MEMORY_IDLE_S
                if self._memory is not None and self._memory.is_unused and is_due:
                    await self._drop(self._close())
        finally:
            self._is_over = True
            if self._memory is not None and self._memory.is_unused:
                self._close()

    def _close(self) -> list[NodeId]:
        """Close the memory; the nodes that have it."""
        assert self._memory is not None
        self._memory.close()
        self._memory = None
        nodes = list(self._offers)
        self._offers.clear()
        return nodes

    async def _drop(self, nodes: Sequence[NodeId]) -> None:
        """Tell nodes that they need not keep the memory, which is only gone then. None is made meanwhile."""

        async def drop(node: NodeId) -> None:
            try:
                await self.nodes.call(node, "drop_memory", attempts=1)
            except errors.DfsError as error:  # it goes with the connection
                log.debug("memory not given up", node=node, error=str(error))

        self._is_dropping = True
        try:
            async with tasks.open_nursery() as nursery:
                for node in filter(self.nodes.reads_memory, nodes):  # those with a connection, that is
                    nursery.start_soon(drop, node)
        finally:
            self._is_dropping = False

    def statistics(self) -> dict[str, int]:
        return {"placed_bytes": self._placed_bytes}


def _inbox_of(reply: Any) -> tuple[str, bytes, int]:
    """What `expect_memory` answers. Raises `NotSupported` if it is something else."""
    if isinstance(reply, list | tuple) and len(reply) >= _INBOX_FIELDS:
        name, ticket, user = reply[:_INBOX_FIELDS]
        if isinstance(name, str) and isinstance(ticket, bytes) and isinstance(user, int):
            return name, ticket, user
    raise errors.NotSupported("it does not say where it takes memory")


def _descriptor_of(memory: SharedMemory) -> int:
    """Raises `Busy` if this process can have no more."""
    try:
        return memory.descriptor()
    except OSError as error:
        raise errors.Busy(f"this process can hand over no file now: {error.strerror}") from error
