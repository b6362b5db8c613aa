"""Appending to chunks: where a client's new bytes go until a commit makes them part of files.

A **lane** is a chunk that this client has open: it appends to all the chunk's replicas, one append at a time (the order
of appends is the chunk's order), each sent to all at once, or to one that sends it on (`routes`). Small files written
one after another share a lane, so they become one stream to each disk; files written at the same time use lanes of
their own.

**When a replica fails**, or answers long after enough others (`_hurry`), its node is struck from the lane. The others
have the bytes, so nothing needs to be sent again as long as `min_replicas` of them are left; the lane then takes no
more, and what follows goes to a new chunk with all its copies. With fewer left, the append that failed is repeated on a
new chunk. The commit names the nodes that have the bytes; the NameNode has the missing copies made.

**When too many are away at once**, as when all are started again, appends and flushes wait for them (`Wait`), but
not for long: somebody may want what this client holds, and the NameNode ends sessions that do not give it back. Those
that it calls dead are not waited for.

**When nobody appends to a lane**, it is sealed after `LANE_IDLE_S`: the NameNode has copies made, and bytes given back,
of sealed chunks only. But whoever writes a line now and then would get a chunk for each. So a client keeps a few short
ones for `LANE_KEPT_S`, for as long as it knows that no copy has to be made: they have as many as there can be, none of
their nodes is silent or being emptied, of which the NameNode tells when it finds out, and all have the bytes, which
they are asked now and then, as a disk may fail beneath a node that goes on. A client that does not hear the NameNode
seals nothing, but then its session ends, and that seals all.

**Durability.** `sync` flushes the replicas of chunks and strikes those that fail or have less than they should.
If fewer than `min_replicas` remain, the caller must write those bytes again (`FileWriter.flush` does).

Invariants: `lane.length` bytes are on every node of `lane.nodes`, as far as this client knows; a lane is used by
one append at a time; a lane belongs to the session that allocated it, and is never used in another. A lane that takes
no more is sealed at the NameNode as soon as none of its bytes await a commit.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import structlog
import trio

from dfs import errors, grants, limits, tasks
from dfs.checksum import Block, Buffer, length_of, sum_blocks
from dfs.client.datanodes import SILENT, DataNodes
from dfs.client.routes import Outcome, Routes
from dfs.client.session import Session
from dfs.client.shared import SharedAppends
from dfs.client.throttle import DirtyThrottle
from dfs.room import Room
from dfs.types import ChunkId, ChunkPlace, NodeId, NodeState, SessionId

_AHEAD_MAX = 4  # chunks allocated ahead of need
_PLACES_MAX = 4  # chunks that an append is tried on before it is given up
_PASSING = (*SILENT, errors.NotEnoughNodes, errors.ChunkConflict, errors.ChunkNotFound)
"""Failures after which a node, or another, may take an append in a moment: it is back, and perhaps without the unsynced
bytes of the chunks that this client had open."""
_STRAGGLER_TIMES = 10
"""As long as the others took a node may take in any case, when these are enough."""

log = structlog.get_logger(__name__)

Locate: TypeAlias = Callable[[], Awaitable[Mapping[ChunkId, ChunkPlace]]]
"""Asks the NameNode where all chunks of a file are now."""


class Written(NamedTuple):
    """Where appended bytes are. `lane` knows which nodes have them."""

    lane: Lane
    chunk_offset: int
    length: int


class Lane:
    """One open chunk. Changed by the append that holds it, and by `strike`, between awaits."""

    __slots__ = (
        "begun_at",
        "blocks",
        "chunk",
        "grant",
        "granted_at",
        "length",
        "nodes",
        "replicas",
        "sealed",
        "session",
        "struck",
        "synced",
        "uncommitted",
        "usable",
        "used_at",
    )

    def __init__(
        self, session: SessionId, chunk: ChunkId, replicas: int, nodes: Sequence[NodeId], grant: bytes
    ) -> None:
        self.session = session
        self.chunk = chunk
        self.grant = grant
        """What DataNodes want to see, given at `granted_at`."""
        self.granted_at = trio.current_time()
        self.replicas = replicas
        """Copies asked for; there may be fewer nodes."""
        self.nodes = list(nodes)
        self.struck: list[NodeId] = []
        """Nodes that were in `nodes`, and may have some of the bytes still."""
        self.length = 0
        self.blocks = 0
        self.synced = 0
        """Bytes known durable on every node of `nodes`."""
        self.uncommitted = 0
        """Bytes that some FileWriter still means to commit."""
        self.usable = True
        self.sealed = False
        self.begun_at = self.used_at = trio.current_time()

    def has_room(self, length: int) -> bool:
        blocks = -(-length // limits.BLOCK_BYTES)
        return self.length + length <= limits.CHUNK_MAX_BYTES and self.blocks + blocks <= limits.CHUNK_MAX_BLOCKS

    @property
    def full(self) -> bool:
        return not self.has_room(limits.BLOCK_BYTES)

    @property
    def is_old(self) -> bool:
        return trio.current_time() >= self.begun_at + limits.LANE_AGE_MAX_S

    def has_copies(self, nodes: int) -> bool:
        """Whether it has as many as were asked for, or as so many nodes can have."""
        return len(self.nodes) >= min(self.replicas, nodes)

    def rests(self, for_s: float) -> bool:
        """Whether nobody has used it for so long, and nothing in it awaits a commit."""
        return trio.current_time() >= self.used_at + for_s and not self.uncommitted

    def place(self, length: int) -> ChunkPlace:
        """Where its first `length` bytes are, when they are committed."""
        return ChunkPlace(self.chunk, length, tuple(self.nodes), self.grant)

    def strike(self, node: NodeId) -> None:
        """This replica is not to be counted on any more."""
        if node in self.nodes:
            self.nodes.remove(node)
            self.struck.append(node)
        self.usable = False


class Wait:
    """Of one append or flush for as many DataNodes as are `wanted`, until DATANODES_WAIT_S after it has begun.

    Or after the NameNode has first said that it knows of too few: it may itself have been away until then.
    """

    def __init__(self, session: Session, nodes: DataNodes, wanted: int) -> None:
        self._nodes = nodes
        self._wanted = wanted
        self._most_s = min(limits.DATANODES_WAIT_S, session.wait_s)
        self._give_up_at = trio.current_time() + self._most_s
        self._is_told = False
        self._delay_s = limits.RETRY_DELAY_FIRST_S

    async def step(self, failure: errors.DfsError, silent: Collection[NodeId] = ()) -> None:
        """Wait a moment. Raises `failure` if that is of no use: of another kind, after too long, or with too few that
        are not dead; or if there are enough nodes besides these `silent` ones, so that the bytes can be written there.
        """
        if isinstance(failure, errors.NotEnoughNodes) and not self._is_told:
            self._is_told = True
            self._give_up_at = trio.current_time() + self._most_s
        if not isinstance(failure, _PASSING) or trio.current_time() + self._delay_s > self._give_up_at:
            raise failure
        views = await self._nodes.refresh()
        alive = [view for view in views if view.state != NodeState.DEAD and not view.draining]
        others = [view for view in alive if view.state == NodeState.UP and view.node not in silent]
        if len(alive) < self._wanted or (silent and len(others) >= self._wanted):
            raise failure
        if self._nodes.may_tell_of_waiting():
            log.warning("too few DataNodes answer: waiting for them", error=failure.message)
        await trio.sleep(self._delay_s)
        self._delay_s = min(2 * self._delay_s, limits.RETRY_DELAY_MAX_S)


class ChunkWriter:
    """All lanes of one client. `append` and `sync` may be called concurrently."""

    def __init__(self, session: Session, nodes: DataNodes) -> None:
        self._session = session
        self._nodes = nodes
        self._unsealed: dict[Lane, None] = {}  # in the order of their allocation
        self._idle: list[Lane] = []
        self._lanes = trio.CapacityLimiter(2 * limits.TRANSFERS_AT_ONCE)
        self._routes = Routes()
        self.shared = SharedAppends(nodes)
        self._in_flight = Room(limits.BYTES_IN_FLIGHT_MAX)
        """Of bytes that are being appended. Each append is a party of its own, so they have it in order."""
        self.throttle = DirtyThrottle()
        self._ahead: dict[int, list[Lane]] = {}
        self._allocating = trio.Lock()
        self._append_bytes = limits.APPEND_SURE_BYTES
        self._is_chaining = False
        """Whether the last append that could go along a chain did."""
        self._appended_bytes = 0
        self._struck = 0
        self._not_flushing: set[NodeId] = set()
        """Nodes of which that was said: while one is away programs go on to sync."""

    def least(self, replicas: int) -> int:
        """On how many DataNodes bytes are to be that get so many copies, before they count as written."""
        return min(int(self._session.cluster["min_replicas"]), replicas)

    def wait(self, wanted: int) -> Wait:
        """Begin to wait."""
        return Wait(self._session, self._nodes, wanted)

    def forget_lanes(self) -> None:
        """The session is a new one: its chunks will be others."""
        self._unsealed.clear()
        self._idle.clear()
        self._ahead.clear()

    # --- appending --------------------------------------------------------------------------------------

    @property
    def append_bytes(self) -> int:
        """How much is best appended at a time: more where appends are fast, as each costs the same besides."""
        return min(self._append_bytes, limits.CHAINED_MAX_BYTES) if self._is_chaining else self._append_bytes

    @property
    def appends_at_once(self) -> int:
        """How many of one file."""
        return limits.CHAINED_AT_ONCE if self._is_chaining else limits.APPENDS_AT_ONCE

    async def append(
        self, data: Sequence[Buffer], replicas: int, prefer: Lane | None = None, *, durably: bool = False
    ) -> Written:
        """Append `data` (1 to APPEND_MAX_BYTES) to some chunk with `replicas` copies, in one piece.

        `durably`: a `sync` follows, so where nodes can flush in the same call they do, and it has nothing to do.
        Each buffer begins a block: all but the last best have a number of whole ones.
        `prefer` is the lane of the bytes before these: staying on it keeps a file in few extents. The caller
        takes the bytes off `lane.uncommitted` when they are committed or given up, and calls `seal_finished`.
        Raises `NoSpace` or `NotEnoughNodes` when no chunk can be had that may take them, and what nodes say that fail,
        or are away for too long.
        """
        length = sum(map(len, data))
        if not 0 < length <= limits.APPEND_MAX_BYTES:
            raise errors.InvalidArgument(f"an append has 1 to {limits.APPEND_MAX_BYTES} bytes, not {length}")
        blocks = [block for buffer in data for block in sum_blocks(buffer)]
        wanted = self.least(replicas)
        async with self._lanes, self._in_flight.entered(object(), None, length):
            wait = self.wait(wanted)
            while True:
                try:
                    with self.throttle.measured(length, self._session.timeout_s):
                        return await self._append_somewhere(
                            *(data, blocks, length, replicas, wanted, prefer), durably=durably
                        )
                except _PASSING as error:
                    await wait.step(error)

    async def _append_somewhere(
        self,
        data: Sequence[Buffer],
        blocks: Sequence[Block],
        length: int,
        replicas: int,
        wanted: int,
        prefer: Lane | None,
        *,
        durably: bool,
    ) -> Written:
        struck: set[NodeId] = set()
        failures: dict[NodeId, errors.DfsError] = {}
        for _ in range(_PLACES_MAX):
            lane = await self._take(length, replicas, prefer, struck)
            lane.uncommitted += length  # from now on: a lane with bytes on their way is not sealed
            began = trio.current_time()
            try:
                failures, is_durable = await self._append_to_all(lane, blocks, data, durably, wanted)
            except BaseException:
                lane.uncommitted -= length
                lane.usable = False  # how far its replicas got is not known
                raise
            for node, error in failures.items():
                log.warning("replica failed, going on without it", node=node, chunk=f"{lane.chunk:x}", error=str(error))
                lane.strike(node)
                struck.add(node)
                self._struck += 1
            if len(lane.nodes) >= wanted:
                written = Written(lane, lane.length, length)
                lane.length += length
                lane.blocks += len(blocks)
                self._appended_bytes += length
                if is_durable:
                    lane.synced = lane.length
                if not durably:  # or it tells of the disk
                    self._adapt(length, trio.current_time() - began)
                self._put_back(lane)
                return written
            lane.uncommitted -= length
        raise _most_hopeful(failures)

    def _adapt(self, length: int, took_s: float) -> None:
        """An append of so many bytes took so long."""
        if took_s > limits.APPEND_SHRINKS_OVER_S:
            self._append_bytes = max(limits.APPEND_SURE_BYTES, self._append_bytes // 2)
        elif took_s < limits.APPEND_GROWS_UNDER_S and length >= self._append_bytes:
            self._append_bytes = min(limits.APPEND_MAX_BYTES, self._append_bytes * 2)

    async def _append_to_all(
        self, lane: Lane, blocks: Sequence[Block], data: Sequence[Buffer], durably: bool, wanted: int
    ) -> tuple[dict[NodeId, errors.DfsError], bool]:
        """Why nodes failed, and whether all others have it on their disks, with what was in the chunk before."""
        grant = await self.grant(lane)
        chain = self._chain(lane, blocks) if not durably else None
        if chain is None:
            return await self._append_at_once(lane, lane.nodes, blocks, data, grant, durably, wanted)
        is_chained, outcome = self._routes.begin(), Outcome.UNKNOWN
        self._is_chaining = is_chained
        try:
            if not is_chained:
                failures, is_durable = await self._append_at_once(
                    lane, lane.nodes, blocks, data, grant, durably, wanted
                )
                outcome = Outcome.FAILED if failures else Outcome.DONE
                return failures, is_durable
            left: Collection[NodeId] = ()

            async def send() -> None:
                nonlocal left
                left = await self._nodes.append_chain(chain, lane.chunk, lane.length, blocks, data, grant)

            async with tasks.open_nursery() as nursery:
                nursery.start_soon(send)
                beside = [node for node in lane.nodes if node not in chain]
                failures, _ = await self._append_at_once(lane, beside, blocks, data, grant, durably, len(beside))
            outcome = Outcome.FAILED if left or failures else Outcome.DONE
            if left:
                more, _ = await self._append_at_once(lane, left, blocks, data, grant, durably, len(left))
                failures |= more
            return failures, False
        finally:
            self._routes.end(length_of(blocks), is_chained=is_chained, outcome=outcome)

    def _chain(self, lane: Lane, blocks: Sequence[Block]) -> list[NodeId] | None:
        """Those of its nodes that can have an append from one another, in their order; None where that is not worth it.

        Nodes on this host have it directly, which costs the link nothing. What is appended alone arrives at the last
        node no sooner along a chain than at once.
        """
        if self._lanes.borrowed_tokens < 2:
            return None
        length = length_of(blocks)
        chain = sorted(node for node in lane.nodes if not self._nodes.is_on_this_host(node))
        if length < limits.CHAINED_FROM_BYTES or len(chain) < 2:
            return None
        return chain if self._nodes.may_begin_chain(chain[0], length) else None

    async def _append_at_once(
        self,
        lane: Lane,
        nodes: Collection[NodeId],
        blocks: Sequence[Block],
        data: Sequence[Buffer],
        grant: bytes,
        durably: bool,
        wanted: int,
    ) -> tuple[dict[NodeId, errors.DfsError], bool]:
        """As `_append_to_all`, sent to each of `nodes`; when `wanted` have it the others are to follow soon."""
        began = trio.current_time()
        failures: dict[NodeId, errors.DfsError] = {}
        done: set[NodeId] = set()
        volatile: list[NodeId] = []
        nodes = tuple(nodes)
        distant = {node for node in nodes if not self._nodes.is_on_this_host(node)}

        async def append_to(node: NodeId) -> None:
            try:
                is_durable = await self._nodes.append(
                    *(node, lane.chunk, lane.length, blocks, data, grant, self._append_bytes),
                    durably=durably,
                    placed=placed,
                )
                if not is_durable:
                    volatile.append(node)
            except errors.DfsError as error:
                failed(node, error)
            else:
                done.add(node)
                if len(done) >= wanted and (not distant or not done.isdisjoint(distant)):  # those here say little
                    _hurry(nursery, began)

        def failed(node: NodeId, error: errors.DfsError) -> None:
            failures[node] = error
            if isinstance(error, errors.DeadlineExceeded | errors.Unreachable):
                self._append_bytes = limits.APPEND_SURE_BYTES  # the link may be slow: less at a time arrives sooner
            if not isinstance(error, errors.ChunkConflict | errors.ChunkFull | errors.GrantExpired):
                self._nodes.avoid(node)

        with self.shared.placed(nodes, data, length_of(blocks)) as placed:
            async with tasks.open_nursery() as nursery:
                for node in nodes:
                    nursery.start_soon(append_to, node)
        for node in nodes:
            if node not in done and node not in failures:
                failed(node, errors.DeadlineExceeded("no answer, long after the others"))
        return failures, not volatile

    async def grant(self, lane: Lane) -> bytes:
        """The lane's grant; another, when its time is half over or it is of older keys, and the chunk is open.

        Of one that is sealed no other is given, nor needed: to flush it one that has expired will do.
        """
        if lane.sealed or not lane.grant:
            return lane.grant
        is_old = trio.current_time() >= lane.granted_at + limits.GRANT_VALID_S / 2
        if is_old or grants.generation_of(lane.grant) < self._session.key_generation:
            try:
                fresh = (await self._session.ask("renew_grants", lane.session, [lane.chunk]))[0]
            except errors.DfsError as error:
                log.info("grant not renewed", chunk=f"{lane.chunk:x}", error=str(error))
                fresh = b""
            if fresh:
                lane.grant, lane.granted_at = fresh, trio.current_time()
        return lane.grant

    # --- lanes ------------------------------------------------------------------------------------------

    async def _take(self, length: int, replicas: int, prefer: Lane | None, struck: set[NodeId]) -> Lane:
        session = await self._session.ensure()
        avoided = struck.union(self._nodes.avoided())
        self._retire(self._nodes.draining())
        candidates = [prefer, *reversed(self._idle)] if prefer in self._idle else [*reversed(self._idle)]
        for lane in candidates:
            if lane is None or lane.session != session or not lane.has_room(length):
                continue
            if lane.replicas == replicas and avoided.isdisjoint(lane.nodes):
                self._idle.remove(lane)
                return lane
        return await self._allocate(replicas, avoided)

    def _retire(self, draining: set[NodeId]) -> None:
        """Lanes that lost a replica while nobody used them, or are on nodes being emptied, take no more.

        They are sealed soon, so that their copies can be made or moved; what is appended later would be cut off.
        """
        for lane in [lane for lane in self._idle if not lane.usable or not draining.isdisjoint(lane.nodes)]:
            self._idle.remove(lane)
            lane.usable = False

    def _put_back(self, lane: Lane) -> None:
        lane.used_at = trio.current_time()
        if lane.usable and not lane.full and not lane.is_old:
            self._idle.append(lane)
        else:
            lane.usable = False

    async def _allocate(self, replicas: int, avoided: set[NodeId]) -> Lane:
        """A chunk allocated ahead, or a few new ones. Avoided nodes are asked for only if nothing else is left."""
        async with self._allocating:
            session = await self._session.ensure()
            ahead = self._ahead.setdefault(replicas, [])
            while ahead:
                lane = ahead.pop()
                if lane.session == session and avoided.union(self._nodes.draining()).isdisjoint(lane.nodes):
                    return lane
                lane.usable = False  # nothing was appended to it: it is sealed, and so goes
            count = min(_AHEAD_MAX, 1 + len(self._idle))
            first, *more = await self._ask(count, replicas, avoided)
            self._ahead.setdefault(replicas, []).extend(more)  # another list, if the session before it has ended
            return first

    async def _ask(self, count: int, replicas: int, avoided: set[NodeId]) -> list[Lane]:
        async def ask(exclude: Iterable[NodeId]) -> list[Lane]:
            session = await self._session.ensure()  # in which it is asked then
            chunks = await self._session.ask_once("allocate", count, replicas, sorted(exclude), self._session.host)
            lanes = [Lane(session, ChunkId(chunk), replicas, nodes, grant) for chunk, nodes, grant in chunks]
            self._unsealed.update(dict.fromkeys(lanes))
            return lanes

        try:
            return await ask(avoided)
        except (errors.NotEnoughNodes, errors.NoSpace):
            suspects = set(self._nodes.avoided())
            if not suspects:
                raise
            # Better a node that has just failed than none at all.
            return await ask(avoided - suspects)

    async def seal_finished(self, lanes: Iterable[Lane]) -> None:
        """Tell the NameNode of those `lanes` that take no more and of which nothing awaits a commit.

        Raises nothing: what could not be sealed is tried again by `seal_idle`.
        """
        done = [lane for lane in lanes if (lane.full or not lane.usable) and not lane.uncommitted and not lane.sealed]
        mine = [lane for lane in done if lane.session == self._session.session]
        for lane in done:
            lane.sealed = True
        sealed = False
        try:
            for start in range(0, len(mine), limits.BATCH_MAX_COMMANDS):
                chunks = [lane.chunk for lane in mine[start : start + limits.BATCH_MAX_COMMANDS]]
                await self._session.apply("seal", chunks)
            sealed = True
        except errors.DfsError as error:
            log.info("chunks not sealed yet", count=len(mine), error=str(error))
        finally:
            if sealed:
                for lane in done:
                    self._unsealed.pop(lane, None)
            else:
                for lane in done:
                    lane.sealed = False

    async def seal_idle(self) -> None:
        """Seal what nobody has appended to for a while, and what was given up. Runs until cancelled.

        Only sealed chunks are repaired when a node dies, so none stays open for longer than it is of use.
        """
        looked_at = trio.current_time()
        while True:
            await trio.sleep(limits.LANE_IDLE_S / 4)
            is_due = trio.current_time() >= looked_at + limits.LANE_LOOK_PERIOD_S
            if is_due:
                looked_at = trio.current_time()
            kept = await self._worth_keeping(look=is_due)
            for waiting in (self._idle, *self._ahead.values()):
                for lane in [lane for lane in waiting if lane.rests(limits.LANE_IDLE_S) and lane not in kept]:
                    waiting.remove(lane)
                    lane.usable = False
            await self.seal_finished(self._unsealed)

    async def _worth_keeping(self, *, look: bool) -> list[Lane]:
        """Lanes to which somebody may append though they rest. `look`: if their nodes say that they have all of them.

        Raises nothing: if it cannot be known how their nodes are, it is none.
        """
        short = [lane for lane in self._idle if lane.usable and 0 < lane.length <= limits.LANE_KEPT_MAX_BYTES]
        some = [lane for lane in short if not lane.rests(limits.LANE_KEPT_S) and not lane.is_old]
        if not (kept := some[-limits.LANES_KEPT_MAX :]):
            return []
        with trio.move_on_after(limits.LANE_IDLE_S):
            try:
                well = await self._nodes.well()
                kept = [lane for lane in kept if well.issuperset(lane.nodes) and lane.has_copies(len(well))]
                return await self._sound(kept) if look else kept
            except errors.DfsError as error:
                log.info("it is not known how DataNodes are", error=str(error))
        return []

    async def _sound(self, lanes: Sequence[Lane]) -> list[Lane]:
        """Those of `lanes` of which all nodes have all bytes."""
        lacking: set[Lane] = set()

        async def ask(node: NodeId, held: Sequence[Lane]) -> None:
            due = [lane.length for lane in held]
            try:
                lengths = await self._nodes.sync(node, {lane.chunk: await self.grant(lane) for lane in held})
            except errors.DfsError as error:
                log.info("a DataNode does not say what it has", node=node, error=str(error))
                lengths = [-1] * len(held)
            lacking.update(lane for lane, length, least in zip(held, lengths, due, strict=True) if length < least)

        async with tasks.open_nursery() as nursery:
            for node in {node: None for lane in lanes for node in lane.nodes}:
                nursery.start_soon(ask, node, [lane for lane in lanes if node in lane.nodes])
        return [lane for lane in lanes if lane not in lacking]

    # --- durability -------------------------------------------------------------------------------------

    async def sync(self, lanes: Iterable[Lane]) -> None:
        """Flush the lanes' present bytes on all their nodes; strike the nodes that cannot.

        Afterwards each lane's `nodes` hold its bytes durably, up to its length when this was called.
        """
        due = {lane: lane.length for lane in lanes if lane.synced < lane.length}
        if not due:  # as after appends that were flushed in the same call
            return
        lacking = {lane: self.least(lane.replicas) for lane in due}
        by_node: dict[NodeId, list[Lane]] = {}
        for lane in due:
            for node in lane.nodes:
                by_node.setdefault(node, []).append(lane)
        wait = self.wait(max(lacking.values()))
        failures = await self._sync_on(by_node, due, lacking)
        while failures and max(lacking.values()) > 0:
            try:
                await wait.step(_most_hopeful(failures), failures)
            except errors.DfsError:
                break
            failures = await self._sync_on({node: by_node[node] for node in failures}, due, lacking)
        for node, error in failures.items():
            log.warning("replica not flushed, going on without it", node=node, error=str(error))
            for lane in by_node[node]:
                lane.strike(node)
                self._struck += 1
        for lane, length in due.items():
            lane.synced = max(lane.synced, length)

    async def _sync_on(
        self, by_node: Mapping[NodeId, Sequence[Lane]], due: Mapping[Lane, int], lacking: dict[Lane, int]
    ) -> dict[NodeId, errors.DfsError]:
        """Flush lanes on nodes, and strike those that have less than is `due`; which did not answer, and why.

        Each that has it counts as one of those that are `lacking`.
        """
        began = trio.current_time()
        failures: dict[NodeId, errors.DfsError] = {}
        unflushed = set(by_node)

        async def sync(node: NodeId, held: Sequence[Lane]) -> None:
            try:
                lengths = await self._nodes.sync(node, {lane.chunk: await self.grant(lane) for lane in held})
            except errors.DfsError as error:
                failures[node] = error
                lengths = []
            unflushed.discard(node)
            for lane, length in zip(held, lengths, strict=node not in failures):
                if length < due[lane]:
                    log.warning("replica not flushed, going on without it", node=node, chunk=f"{lane.chunk:x}")
                    lane.strike(node)
                    self._struck += 1
                else:
                    lacking[lane] -= 1
            if max(lacking.values()) <= 0:
                _hurry(nursery, began)

        async with tasks.open_nursery() as nursery:
            for node, held in by_node.items():
                nursery.start_soon(sync, node, held)
        for node in sorted(unflushed):
            self._nodes.avoid(node)
            failures[node] = errors.DeadlineExceeded("no answer, long after the others")
        return failures

    async def make_durable(self, reach: Mapping[Lane, int], wanted: int, locate: Locate) -> None:
        """Return when committed bytes of lanes, up to `reach`, are durable on every live replica, and on `wanted`.

        Where too few replicas are left, waits for the NameNode to have others made, for at most
        `NODE_DEAD_AFTER_S` and a copy's time; then raises `NotEnoughNodes`. `locate` says where they are.
        """
        await self.sync([lane for lane, length in reach.items() if lane.synced < length])
        weak = {lane.chunk: length for lane, length in reach.items() if len(lane.nodes) < wanted}
        await self.wait_for_copies(weak, wanted, locate)

    async def sync_places(self, places: Sequence[ChunkPlace], wanted: int, locate: Locate) -> None:
        """Have chunks flushed on all their live nodes, and on at least `wanted`.

        Waits for missing copies to be made; raises `NotEnoughNodes` when they are not, in time. `locate` says where
        they are.
        """
        by_node: dict[NodeId, list[ChunkPlace]] = {}
        for place in places:
            for node in place.nodes:
                by_node.setdefault(node, []).append(place)
        durable = dict.fromkeys((place.chunk for place in places), 0)
        began = trio.current_time()

        async def sync(node: NodeId, held: list[ChunkPlace]) -> None:
            try:
                lengths = await self._nodes.sync(node, {place.chunk: place.grant for place in held})
            except errors.DfsError as error:
                say = log.info if node in self._not_flushing else log.warning
                say("replicas not flushed", node=node, error=str(error))
                self._not_flushing.add(node)
                return
            self._not_flushing.discard(node)
            for place, length in zip(held, lengths, strict=True):
                durable[place.chunk] += length >= place.length
            if min(durable.values()) >= wanted:
                _hurry(nursery, began)

        async with tasks.open_nursery() as nursery:
            for node, held in by_node.items():
                nursery.start_soon(sync, node, held)
        weak = {place.chunk: place.length for place in places if durable[place.chunk] < wanted}
        await self.wait_for_copies(weak, wanted, locate)

    async def wait_for_copies(self, reach: Mapping[ChunkId, int], wanted: int, locate: Locate) -> None:
        """Return when these chunks, up to `reach`, are durable on `wanted` nodes that the NameNode counts.

        It has missing copies made: this waits for at most `NODE_DEAD_AFTER_S` and a copy's time, then raises
        `NotEnoughNodes`. A chunk that `locate` finds no more has no bytes of the file, so nothing is waited for.
        """
        if not reach:
            return
        with trio.move_on_after(limits.NODE_DEAD_AFTER_S + limits.CALL_TIMEOUT_S):
            waiting = dict(reach)
            while waiting:
                places = await locate()
                for chunk, length in list(waiting.items()):
                    if chunk not in places or await self._is_durable(places[chunk], length, wanted):
                        del waiting[chunk]
                if waiting:
                    await trio.sleep(limits.RETRY_DELAY_MAX_S)
            return
        chunks = ", ".join(f"{chunk:x}" for chunk in reach)
        raise errors.NotEnoughNodes(f"fewer than {wanted} DataNodes have chunk {chunks} on stable storage")

    async def _is_durable(self, place: ChunkPlace, length: int, wanted: int) -> bool:
        """Whether `wanted` of the replicas have `length` bytes on their disks."""
        durable = 0
        for node in place.nodes:
            try:
                durable += (await self._nodes.sync(node, {place.chunk: place.grant}))[0] >= length
            except errors.DfsError as error:
                log.info("replica cannot be flushed", node=node, chunk=f"{place.chunk:x}", error=str(error))
        return durable >= wanted

    def statistics(self) -> dict[str, int]:
        return (
            {
                "appended_bytes": self._appended_bytes,
                "idle_lanes": len(self._idle),
                "struck": self._struck,
            }
            | self.shared.statistics()
            | self._routes.statistics()
        )


def _most_hopeful(failures: Mapping[NodeId, errors.DfsError]) -> errors.DfsError:
    """Of the failures of several nodes one that passes, if there is such a one."""
    return next((error for error in failures.values() if isinstance(error, SILENT)), next(iter(failures.values())))


def _hurry(nursery: trio.Nursery, began: float) -> None:
    """Enough nodes have done what the tasks of a nursery have asked of each: not much longer is waited for the others.

    Whoever has not done it by then is taken for hung. His machine may be off, or his disk fail.
    """
    now = trio.current_time()
    patience_s = max(limits.STRAGGLER_S, _STRAGGLER_TIMES * (now - began))
    nursery.cancel_scope.deadline = min(nursery.cancel_scope.deadline, now + patience_s)
