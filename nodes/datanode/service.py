"""The object `dfs.datanode.<id>`: what clients and other DataNodes call.

Methods check what came, hand it to `Volumes`, and answer. All may be repeated: an append that is there already
succeeds, and everything else changes nothing. Calls of clients share CALLS_AT_ONCE_MAX places (`dfs.room`), from the
moment that they may go to the disks until they are done, and reads until their answer is sent: so neither who asks
most nor who does not take his answers keeps others waiting.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import Any, Final

import trio

import dfs
from dfs import codec, errors, limits
from dfs.checksum import Block, Buffer, length_of
from dfs.keys import Role
from dfs.room import Room
from dfs.rpc import Call, Peer, WithData, expose, takes_call
from dfs.rpc.handover import give
from dfs.runtime import Runtime
from dfs.tasks import open_nursery
from dfs.types import ChunkId, NodeId
from nodes.datanode.admission import Admission
from nodes.datanode.bandwidth import TokenBucket
from nodes.datanode.chain import Chain, Failure
from nodes.datanode.chunkfiles import Content
from nodes.datanode.clientmemory import ClientMemories
from nodes.datanode.index import pack_records
from nodes.datanode.scrub import Scrub
from nodes.datanode.users import Background, Users
from nodes.datanode.volumes import Volumes

_HANDSHAKE_MAX: Final = 16
"""Items in a handshake."""


class DataNode:
    """Its public methods are the protocol (docs/architecture.md)."""

    def __init__(
        self,
        node: NodeId,
        volumes: Volumes,
        admission: Admission,
        bandwidth: TokenBucket,
        users: Users,
        scrub: Scrub,
        runtime: Runtime,
        chain: Chain,
        memories: ClientMemories,
        *,
        lends: bool = True,
    ) -> None:
        self._node = node
        self._admission = admission
        self._volumes = volumes
        self._bandwidth = bandwidth
        self._users = users
        self._background = Background(users)
        self._places = Room(limits.CALLS_AT_ONCE_MAX)
        self._scrub = scrub
        self._lends = lends
        self._runtime = runtime
        self._chain = chain
        self._memories = memories
        self.decide: Callable[[bool], Awaitable[int]] | None = None
        """What carries out a decision about held orders; None until the agent is there."""

    def greet(self, _peer: Peer, handshake: object) -> dict[str, Any] | None:
        """Every connection's first message. Raises `WrongCluster`: chunk numbers mean nothing across clusters."""
        if not isinstance(handshake, Mapping) or len(handshake) > _HANDSHAKE_MAX:
            return None
        wanted, ours = handshake.get("cluster"), self._volumes.cluster
        if wanted is not None and ours is not None and wanted != ours:
            raise errors.WrongCluster(f"DataNode {self._node} belongs to cluster {ours}, not to {wanted}")
        return {
            "node": self._node,
            "cluster": ours,
            "version": dfs.__version__,
            "append_max_bytes": limits.APPEND_MAX_BYTES,
            "appends_durably": True,
            "appends_along": True,
            "reads_memory": self._memories.can_be_had,
            "reads_ranges": True,
        }

    @asynccontextmanager
    async def _work(self, peer: Peer) -> AsyncIterator[ExitStack]:
        """Around work of a client at the disks, which has a place then; the stack keeps it if it is taken over."""
        mine = peer.party, peer.id, 1
        with self._users.call():
            await self._places.enter(*mine)
            with ExitStack() as leaving:
                leaving.callback(self._places.leave, *mine)
                yield leaving

    @expose
    @takes_call
    async def append(
        self, call: Call, chunk: Any, offset: Any, blocks: Any, grant: Any = b"", durably: Any = False, at: Any = None
    ) -> int:
        """Append the call's data, cut into `blocks`; the chunk's new length, which is durable if that was asked for.

        `at`: the data are in the client's memory there, see `expect_memory`. Raises `MemoryUnknown` if they are not.
        """
        number, place = _chunk(chunk), _number(offset, "an offset")
        self._admission.append(call.peer, number, grant)
        parts = codec.unpack_blocks(blocks)
        if length_of(parts) > limits.APPEND_MAX_BYTES:
            raise errors.ArgumentTooLarge(f"an append has more than {limits.APPEND_MAX_BYTES} bytes")
        async with self._work(call.peer):
            length = await self._volumes.append(number, place, parts, self._data(call, parts, at))
            if durably and (await self._volumes.sync([number]))[0] < length:
                raise errors.DiskFailed(f"chunk {number:x} was appended to and could not be flushed to the disk")
            return length

    def _data(self, call: Call, parts: Sequence[Block], at: Any) -> Content:
        """What is to be appended: it came with the call, or is where that says."""
        if at is None:
            return call.data if call.data is not None else memoryview(b"")
        if call.data is not None:
            raise errors.InvalidArgument("what is appended comes with the call or is in memory, not both")
        return self._memories.span(call.peer, _number(at, "a place"), length_of(parts))

    @expose
    @takes_call
    def expect_memory(self, call: Call) -> tuple[str, bytes, int]:
        """Where a client of this host gives memory, to have bytes appended out of it: see `ClientMemories.expect`."""
        return self._memories.expect(call.peer)

    @expose
    @takes_call
    async def take_memory(self, call: Call) -> None:
        """The memory is given: see `ClientMemories.take`."""
        await self._memories.take(call.peer)

    @expose
    @takes_call
    def drop_memory(self, call: Call) -> None:
        """The client needs the memory no more."""
        self._memories.drop(call.peer)

    @expose
    @takes_call
    async def append_chain(
        self, call: Call, chunk: Any, offset: Any, blocks: Any, grant: Any, onward: Any, holder: Any = None
    ) -> list[Failure]:
        """As `append`, here and on the nodes `onward`, each of which is sent it by the one before; who failed and why.

        `holder`: whose the grant is, where the caller is the node before.
        """
        number, place = _chunk(chunk), _number(offset, "an offset")
        self._admission.append(call.peer, number, grant, holder)
        key = call.peer.key
        assert key is not None, "`authorize` lets nobody in without one"
        if key.role is Role.NODE and holder is None:
            raise errors.NotPermitted("a DataNode appends for others only")
        behind = self._behind(onward)
        data = call.data if call.data is not None else memoryview(b"")
        if len(data) > limits.APPEND_MAX_BYTES:
            raise errors.ArgumentTooLarge(f"an append has more than {limits.APPEND_MAX_BYTES} bytes")
        parts = codec.unpack_blocks(blocks)
        if not parts or length_of(parts) != len(data):
            raise errors.InvalidArgument("what is sent on is cut into blocks, as an append is")
        failures: list[Failure] = []

        async def send_on() -> None:
            args = (chunk, offset, blocks, grant)
            failures.extend(await self._chain.send_on(behind, args, key.to_wire() if holder is None else holder, data))

        async with open_nursery() as nursery:
            nursery.start_soon(send_on)
            try:
                async with self._work(call.peer):
                    await self._volumes.append(number, place, parts, data)
            except errors.DfsError as error:
                failures.append(Failure.of(self._node, error))
        return failures

    def _behind(self, onward: Any) -> list[NodeId]:
        """The nodes of a chain behind this one. Raises `InvalidArgument`."""
        if not isinstance(onward, list | tuple) or len(onward) >= limits.REPLICAS_MAX:
            raise errors.InvalidArgument(f"a chain is a list of at most {limits.REPLICAS_MAX} nodes")
        if not all(isinstance(node, str) for node in onward):
            raise errors.InvalidArgument("a chain is of node names")
        whole = [self._node, *map(NodeId, onward)]
        if any(node >= behind for node, behind in itertools.pairwise(whole)):
            raise errors.InvalidArgument("a chain goes in the order of the nodes' names, to none of them twice")
        return whole[1:]

    @expose
    @takes_call
    async def read(self, call: Call, chunk: Any, offset: Any, length: Any, grant: Any = b"") -> WithData:
        """Bytes of a chunk, and the checksums of the pieces in which they are sent."""
        number, start, count = _chunk(chunk), _number(offset, "an offset"), _number(length, "a length")
        self._admission.read(call.peer, number, grant, start, start + count)
        if not 0 < count <= limits.READ_MAX_BYTES:
            raise errors.InvalidArgument(f"a read is of 1 to {limits.READ_MAX_BYTES} bytes")
        return await self._read(call.peer, lambda: self._volumes.read(number, start, count))

    @expose
    @takes_call
    async def read_ranges(self, call: Call, chunk: Any, ranges: Any, grant: Any = b"") -> WithData:
        """As `read`, of several ranges of a chunk (`codec.pack_ranges`): one after the other, as if they were one."""
        number, wanted = _chunk(chunk), codec.unpack_ranges(ranges)
        for start, count in wanted:
            self._admission.read(call.peer, number, grant, start, start + count)
        return await self._read(call.peer, lambda: self._volumes.read_ranges(number, wanted))

    async def _read(
        self, peer: Peer, read: Callable[[], Awaitable[tuple[Sequence[Block], Sequence[Buffer]]]]
    ) -> WithData:
        async with self._work(peer) as place:
            blocks, buffers = await read()
            packed = codec.pack_blocks(blocks)
            until_sent = place.pop_all()  # from here on nothing may fail
        return WithData(packed, buffers, until_sent.close)

    @expose
    @takes_call
    async def lend(self, call: Call, chunk: Any, grant: Any, inbox: Any, ticket: Any) -> list[bytes]:
        """Hand the open file of a chunk's bytes to a process of this host, for reading only: see dfs.rpc.handover.

        The chunk's blocks as they are now: `BlockIndex.columns`. Raises `NotSupported`, `NotPermitted` where it cannot
        be handed over, `Busy` where it cannot now, and what `read` raises.
        """
        number = _chunk(chunk)
        self._admission.lend(call.peer, number, grant)
        if not isinstance(inbox, str) or not isinstance(ticket, bytes):
            raise errors.InvalidArgument("an inbox has a name, and a ticket is bytes")
        if not self._lends:
            raise errors.NotSupported(f"DataNode {self._node} lends no files: its configuration says so")
        async with self._work(call.peer):
            index, descriptor = await self._volumes.lend(number)
        give(inbox, ticket, descriptor)
        return list(index.columns())

    @expose
    async def read_blocks(self, chunk: Any, first: Any, count: Any, at: Any = None) -> WithData:
        """Whole blocks from number `first` on, at most `count` and as many as fit one read, for a copy elsewhere.

        Their records as in the index; the data of those that are not punched. Raises Busy if there are more copies to
        serve than the bandwidth for them, or users, allow; ChunkConflict unless block `first` begins `at` (None: it
        does).
        """
        wanted = _number(count, "a number of blocks")
        give_up_at = trio.current_time() + limits.COPY_WAIT_MAX_S
        async with self._background.step(limits.COPY_WAIT_MAX_S):
            place = _number(first, "a block's number"), wanted, None if at is None else _number(at, "an offset")
            records, buffers = await self._volumes.read_records(_chunk(chunk), *place)
        left_s = max(0.0, give_up_at - trio.current_time())
        await self._bandwidth.take(sum(len(buffer) for buffer in buffers), left_s)
        return WithData(pack_records(records), buffers)

    @expose
    async def damaged_blocks(self, chunk: Any, first: Any, count: Any, at: Any = None) -> bytes:
        """What `read_blocks` does not give: the records of blocks from number `first` on that are damaged here.

        At most `count`, none if block `first` is not known to be. Raises ChunkConflict as `read_blocks`.
        """
        place = _number(first, "a block's number"), _number(count, "a number of blocks")
        begins = None if at is None else _number(at, "an offset")
        return pack_records(await self._volumes.damaged_records(_chunk(chunk), *place, begins))

    @expose
    @takes_call
    async def sync(self, call: Call, chunks: Any, grants: Any = ()) -> list[int]:
        """Make chunks durable: how much of each is; -1 for one that is not here. `grants`: one for each."""
        for wire in (chunks, grants):
            if not isinstance(wire, list | tuple) or len(wire) > limits.REPORT_SLICE_CHUNKS:
                raise errors.InvalidArgument(f"sync takes lists of at most {limits.REPORT_SLICE_CHUNKS} chunks")
        numbers = [_chunk(chunk) for chunk in chunks]
        for number, grant in itertools.zip_longest(numbers, grants[: len(numbers)]):
            self._admission.sync(call.peer, number, grant)
        lengths: list[int] = []
        async with self._work(call.peer):  # one place for all: who needs several waits for as many to be free at once
            for start in range(0, len(numbers), limits.SYNCED_AT_ONCE_MAX):
                lengths += await self._volumes.sync(numbers[start : start + limits.SYNCED_AT_ONCE_MAX])
        return lengths

    @expose
    def list_chunks(self, after: Any, limit: Any) -> list[Any]:
        """[[chunk, length], ...] with numbers above `after`, in order."""
        wanted = min(_number(limit, "a limit"), limits.REPORT_SLICE_CHUNKS)
        entries = self._volumes.list_chunks(ChunkId(_number(after, "a chunk number")), wanted)
        return [[chunk, length] for chunk, length, _settled in entries]

    @expose
    def status(self) -> dict[str, Any]:
        return {
            "node": self._node,
            "cluster": self._volumes.cluster,
            "version": dfs.__version__,
            "usage": self._runtime.usage()._asdict(),
            "capacity_bytes": self._volumes.capacity_bytes(),
            "free_bytes": self._volumes.free_bytes(),
            "used_bytes": self._volumes.used_bytes(),
            "chunks": self._volumes.chunk_count(),
            "directories": [volume._asdict() for volume in self._volumes.statistics()],
        }

    @expose
    def scrub_now(self) -> None:
        """Begin a pass over all chunks at once, at the configured bandwidth; see `scrub_status`."""
        self._scrub.scrub_now()

    @expose
    def scrub_status(self) -> dict[str, Any]:
        """How far the scrub is, and what it found: see `Scrub.status`."""
        return self._scrub.status()

    @expose
    async def decide_held(self, allow: Any) -> int:
        """An operator has decided about held orders: see nodes.datanode.restraint. Returns how many there were.

        Raises InvalidArgument, Busy before the NameNode was reached, DiskFailed if it could not be written down.
        """
        if not isinstance(allow, bool):
            raise errors.InvalidArgument("held orders are allowed (true) or discarded (false)")
        if self.decide is None:
            raise errors.Busy(f"DataNode {self._node} has only just started: repeat in a moment")
        return await self.decide(allow)


def _number(value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise errors.InvalidArgument(f"{what} is not a number from 0 to 2^63-1")
    return value


def _chunk(value: Any) -> ChunkId:
    if not _number(value, "a chunk number"):
        raise errors.InvalidArgument("no chunk has number 0")
    return ChunkId(value)
