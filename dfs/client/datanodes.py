"""Calls to DataNodes by their ids, and what this client knows of them: where they are, how busy, how well.

Addresses come from the NameNode and are asked for again when a node is not known or does not answer (it may
have moved). A node that failed a call is avoided for a while: asked last for reads, not at all for new chunks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import trio

from dfs import codec, errors, limits
from dfs.checksum import Block, Buffer, grouped, length_of, verify
from dfs.client.session import Session
from dfs.client.shared import Placed
from dfs.client.spans import Span, parts
from dfs.rpc.network import without_first
from dfs.tasks import open_nursery
from dfs.types import ChunkId, NodeId, NodeState, NodeView, datanode_object

_AVOID_S = 15.0  # a little more than the NameNode needs to suspect a silent node
SILENT = (errors.Unreachable, errors.ConnectionLost, errors.DeadlineExceeded)
"""Errors of nodes that may have what is asked for, and be back in a moment."""
_TRANSPORT = (*SILENT, errors.Refused)


class DataNodes:
    """All DataNodes of the cluster. Methods may be called concurrently."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._views: dict[NodeId, NodeView] = {}
        self._refreshing = trio.Lock()
        self._refreshes = 0
        self._busy: dict[NodeId, int] = {}
        self._avoid_until: dict[NodeId, float] = {}
        self._slow_until: dict[NodeId, float] = {}
        self._is_news = False
        """The NameNode has said that something changed, and what that is was not asked yet."""
        self._failures = 0
        self._waiting_told_at = -math.inf
        self._sending = trio.Semaphore(1)
        """Whoever has it sends what nodes send on."""
        session.on_nodes_changed = self._forget_views

    # --- what is known ----------------------------------------------------------------------------------

    async def refresh(self) -> list[NodeView]:
        """Ask the NameNode for all nodes. Concurrent callers share one question."""
        seen = self._refreshes
        async with self._refreshing:
            if seen == self._refreshes:
                views = [codec.node_view(wire) for wire in await self._session.ask("nodes")]
                self._views = {view.node: view for view in views}
                self._refreshes += 1
                if self._is_news:
                    self._is_news = False
                    self._avoid_until = {node: at for node, at in self._avoid_until.items() if not self._is_up(node)}
        return list(self._views.values())

    def _forget_views(self) -> None:
        """The NameNode says that something changed: ask it before the next call. Nodes that are back are trusted."""
        self._views.clear()
        self._is_news = True

    def avoid(self, node: NodeId) -> None:
        self._failures += 1
        self._avoid_until[node] = trio.current_time() + _AVOID_S

    def note_slow(self, node: NodeId) -> None:
        """Another one answered a read first, though it was asked later."""
        self._slow_until[node] = trio.current_time() + limits.SLOW_NODE_S

    def may_tell_of_waiting(self) -> bool:
        """Whether nobody has said of late that nodes are waited for, as the caller does now."""
        now = trio.current_time()
        is_news = now >= self._waiting_told_at + _AVOID_S
        if is_news:
            self._waiting_told_at = now
        return is_news

    def avoided(self) -> list[NodeId]:
        now = trio.current_time()
        return [node for node, until in self._avoid_until.items() if until > now]

    def draining(self) -> set[NodeId]:
        """Nodes that are being emptied, as far as is known."""
        return {node for node, view in self._views.items() if view.draining}

    async def well(self) -> set[NodeId]:
        """Nodes that take new chunks, as the NameNode says, which is asked if it has told of news."""
        views = await self.refresh() if self._is_news or not self._views else self._views.values()
        return {view.node for view in views if view.state == NodeState.UP and not view.draining}

    def by_preference(self, nodes: Iterable[NodeId]) -> list[NodeId]:
        """`nodes` in the order to read from: up, not avoided, not slow, on this host, least busy; ties by chance."""
        now = trio.current_time()

        def rank(node: NodeId) -> tuple[bool, bool, bool, bool, int, float]:
            return (
                not self._is_up(node),
                self._avoid_until.get(node, now) > now,
                self._slow_until.get(node, now) > now,
                not self.is_on_this_host(node),
                self._busy.get(node, 0),
                self._session.runtime.random.random(),
            )

        return sorted(nodes, key=rank)

    def _is_up(self, node: NodeId) -> bool:
        """As the NameNode has said last; one of which it has said nothing yet may be."""
        view = self._views.get(node)
        return view is None or view.state == NodeState.UP

    def is_well(self, node: NodeId) -> bool:
        """Whether it has neither failed of late nor been slower than another."""
        if not self._avoid_until and not self._slow_until:
            return True
        now = trio.current_time()
        return self._avoid_until.get(node, now) <= now and self._slow_until.get(node, now) <= now

    def is_on_this_host(self, node: NodeId) -> bool:
        """As far as is known."""
        view = self._views.get(node)
        return view is not None and view.host == self._session.host

    # --- calls ------------------------------------------------------------------------------------------

    async def call(
        self,
        node: NodeId,
        method: str,
        *args: Any,
        data: Sequence[Buffer] | None = None,
        into: memoryview | None = None,
        sent: Callable[[], None] | None = None,
        timeout_s: float = limits.DATA_TIMEOUT_S,
        attempts: int = 2,
    ) -> tuple[Any, memoryview | None]:
        """Call a DataNode. A transport failure is tried once more, at the address that the NameNode has now:
        every DataNode method may be repeated. Then the node is avoided for a while and the error raised.
        """
        if node not in self._views:
            await self.refresh()
        self._busy[node] = self._busy.get(node, 0) + 1
        try:
            try:
                return await self._call_once(node, method, args, data, into, sent, timeout_s)
            except (errors.Unreachable, errors.ConnectionLost, errors.Refused):  # who refuses may be another
                if attempts == 1:
                    raise
                await self.refresh()
                return await self._call_once(node, method, args, data, into, sent, timeout_s)
        except _TRANSPORT:
            self.avoid(node)
            raise
        finally:
            self._busy[node] -= 1

    async def _call_once(
        self,
        node: NodeId,
        method: str,
        args: Sequence[Any],
        data: Sequence[Buffer] | None,
        into: memoryview | None,
        sent: Callable[[], None] | None,
        timeout_s: float,
    ) -> tuple[Any, memoryview | None]:
        view = self._views.get(node)
        if view is None:
            raise errors.Unreachable(f"the NameNode knows no DataNode {node}")
        return await self._session.pool.call_with_data(
            *(view.address, datanode_object(node), method, *args),
            data=data,
            into=into,
            sent=sent,
            timeout_s=timeout_s,
        )

    async def append(
        self,
        node: NodeId,
        chunk: ChunkId,
        offset: int,
        blocks: Sequence[Block],
        data: Sequence[Buffer],
        grant: bytes,
        most_bytes: int,
        *,
        durably: bool = False,
        placed: Placed | None = None,
    ) -> bool:
        """Append `data` at `offset`, the replica's present end, in calls of `most_bytes`, or what the node takes.

        `placed`: where it is in memory that the node may be able to read.
        Whether all that the replica has is durable then: not before `sync`, unless it was to be flushed `durably` and
        the node can do that in the same call. May be repeated. After an error any part of it may be there.
        """
        durably = durably and self._said(node, "appends_durably") is True
        groups = list(grouped(blocks, min(most_bytes, self._append_max_bytes(node))))
        begin = offset
        for some in groups:
            length = length_of(some)
            flush = durably and some is groups[-1]
            timeout_s = limits.CALL_TIMEOUT_S if flush else limits.DATA_TIMEOUT_S
            args = (chunk, offset, codec.pack_blocks(some), grant)
            if placed is None or not await placed.append(node, (*args, flush), offset - begin, timeout_s):
                args = (*args, *((True,) if flush else ()))
                await self.call(node, "append", *args, data=_beginning(data, length), timeout_s=timeout_s)
            offset, data = offset + length, without_first(data, length)
        return durably

    def reads_memory(self, node: NodeId) -> bool:
        """Whether a node may be told where in this client's memory something is, as far as it has said."""
        return self.is_on_this_host(node) and self._said(node, "reads_memory") is True

    def may_begin_chain(self, node: NodeId, length: int) -> bool:
        """Whether a node takes so much in one append and sends it on to others, as far as it has said."""
        return self._said(node, "appends_along") is True and length <= self._append_max_bytes(node)

    async def append_chain(
        self,
        nodes: Sequence[NodeId],
        chunk: ChunkId,
        offset: int,
        blocks: Sequence[Block],
        data: Sequence[Buffer],
        grant: bytes,
    ) -> dict[NodeId, errors.DfsError]:
        """As `append`, in one call to the first of `nodes`, each of which sends it on to the next; who failed.

        One is sent after the other, and not all of them at half of the speed: the first is on its way on meanwhile.
        Raises nothing: if the first does not answer, all have failed. May be repeated. Who has waited while one of
        the nodes failed for somebody else does not try it.
        """
        first, *onward = nodes
        args = (chunk, offset, codec.pack_blocks(blocks), grant, onward)
        with ExitStack() as sending:
            await self._sending.acquire()
            sending.callback(self._sending.release)
            try:
                if not set(nodes).isdisjoint(self.avoided()):
                    raise errors.Unreachable("a node of the chain has failed a moment ago")
                failures, _ = await self.call(first, "append_chain", *args, data=data, sent=sending.close, attempts=1)
            except errors.DfsError as error:
                return dict.fromkeys(nodes, error)
        return {NodeId(node): errors.from_wire(code, message) for node, code, message in failures}

    def _append_max_bytes(self, node: NodeId) -> int:
        """How much the node takes in one append, as far as it has said."""
        said = self._said(node, "append_max_bytes")
        return max(said, limits.APPEND_SURE_BYTES) if isinstance(said, int) else limits.APPEND_SURE_BYTES

    def _said(self, node: NodeId, what: str) -> Any:
        """What the node says of itself when it is greeted; None before that, and where it says nothing."""
        view = self._views.get(node)
        return None if view is None else self._session.pool.said(view.address, datanode_object(node)).get(what)

    async def read_into(
        self, node: NodeId, chunk: ChunkId, spans: Sequence[Span], view: memoryview, grant: bytes
    ) -> None:
        """Fill `view` with these bytes of a chunk, one after the other, verified here.

        In one call, where the node has said that it can do that. Raises `Corrupt` where they are not right,
        `GrantExpired`.
        """
        offset, length = spans[0]
        if len(spans) > 1 and not self._reads_ranges(node):
            await self.read_into(node, chunk, spans[:1], view[:length], grant)  # it may say so when it is connected to
            if self._reads_ranges(node):
                await self.read_into(node, chunk, spans[1:], view[length:], grant)
                return
            async with open_nursery() as nursery:
                for span, part in parts(view[length:], spans[1:]):
                    nursery.start_soon(self.read_into, node, chunk, [span], part, grant)
            return
        if len(spans) == 1:
            packed, data = await self.call(node, "read", chunk, offset, length, grant, into=view)
        else:
            packed, data = await self.call(node, "read_ranges", chunk, codec.pack_ranges(spans), grant, into=view)
        if data is None or len(data) != len(view):
            raise errors.Corrupt(f"{node} sent {0 if data is None else len(data)} bytes for {len(view)}")
        verify(view, codec.unpack_blocks(packed), f"chunk {chunk:x} from {node}, offset {offset}")

    def _reads_ranges(self, node: NodeId) -> bool:
        return self._said(node, "reads_ranges") is True

    async def sync(self, node: NodeId, chunks: Mapping[ChunkId, bytes]) -> list[int]:
        """Flush chunks, of which the grants are given, to the node's disks.

        How many bytes of each are durable there, -1 for an absent one.
        """
        lengths: list[int] = []
        asked = list(chunks.items())
        for start in range(0, len(asked), limits.REPORT_SLICE_CHUNKS):
            some = asked[start : start + limits.REPORT_SLICE_CHUNKS]
            numbers, grants = [chunk for chunk, _ in some], [grant for _, grant in some]
            lengths += (await self.call(node, "sync", numbers, grants, timeout_s=limits.CALL_TIMEOUT_S))[0]
        return lengths

    def statistics(self) -> dict[str, int]:
        return {"nodes": len(self._views), "failures": self._failures, "avoided": len(self.avoided())}


def _beginning(buffers: Sequence[Buffer], length: int) -> list[Buffer]:
    """The first `length` bytes of the buffers. Copies nothing."""
    found: list[Buffer] = []
    for buffer in buffers:
        if length <= 0:
            break
        found.append(memoryview(buffer)[:length])
        length -= len(found[-1])
    return found
