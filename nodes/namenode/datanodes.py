"""What DataNodes say of themselves and of their chunks, and what they are told to do.

A DataNode registers, beats, and says from time to time which chunks it has. A heartbeat tells what became of its orders
and which copies turned out to be damaged; its answer has the orders that are due. Reports are compared with what the
NameNode believes (`reconcile`), and what comes of that is decided by commands, as all else.

Invariants: a copy that is not whole is known as that before it counts (`Replication.note_damaged`), or it would count
as whole; no order to delete is given for a copy that cannot be spared (`Replication.can_be_spared`).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Container, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple, TypeVar

import msgpack  # type: ignore[import-untyped]
import structlog
import trio

from dfs import errors, limits
from dfs.types import ChunkId, NodeId, datanode_object
from nodes.namenode import arguments, reconcile
from nodes.namenode.membership import Member
from nodes.namenode.parts import Parts, Service
from nodes.namenode.replication import Damage

T = TypeVar("T")

log = structlog.get_logger(__name__)

_POSTPONE_NS: Final = 60 * 10**9
"""Before an order that failed is given again."""
_REFUSED: Final = "Refused"
"""Why an order has failed that an operator did not allow: it was never begun."""
_WITHHOLD_NS: Final = 10 * 10**9
"""Before it is looked at again whether a copy that is to be deleted can be spared."""
_POSTPONE_MAX_NS: Final = int(limits.WORK_POSTPONE_MAX_S * 10**9)
_ITEMS_MAX: Final = 65_536
"""In each array of a heartbeat."""
_LOOKED_UP_AT_ONCE: Final = 2048
"""Chunks of a report: four milliseconds or so, then others are served."""


class Reported(NamedTuple):
    """Chunks in a report, their lengths, and whether each is settled: packed, as many reports may wait."""

    numbers: array[int]
    lengths: array[int]
    settled: bytes

    def between(self, low: int, high: int) -> dict[ChunkId, reconcile.Held]:
        """Those with numbers from `low` to `high`, in order."""
        copies = map(reconcile.Held._make, zip(self.lengths, map(bool, self.settled), strict=True))
        held = zip(map(ChunkId, self.numbers), copies, strict=True)
        return dict(sorted(each for each in held if low <= each[0] <= high))


class DataNodeService(Service):
    """Methods may be called concurrently."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._doubts = reconcile.Doubts()
        self._reports = trio.Semaphore(limits.REPORTS_AT_ONCE)

    async def register(self, info: Any) -> dict[str, Any]:
        """A DataNode says where it is. Raises `WrongCluster`, `DiskMissing`, and as `Membership.check`."""
        member = self._members.check(info)
        cluster = info.get("cluster")
        if cluster is not None and cluster != self._store.cluster:
            raise errors.WrongCluster(
                f"DataNode {member.node} belongs to cluster {cluster}, and this is {self._store.cluster}"
            )
        is_new = bool(info.get("new_disk"))
        if not is_new and self._members.is_empty_handed(member) and self._queries.has_replicas(member.node):
            raise errors.DiskMissing(
                f"DataNode {member.node} has copies, and comes with none of the directories that they are in: mount its"
                " disk; or, if that is lost, put an empty file 'new-disk' into one of the directories that it has now"
            )
        await self._writer.decide(
            "register_node", member.node, member.address, member.host, member.rack, member.directories
        )
        await self._skip([ChunkId(arguments.integer(info.get("last_chunk", 0), "a chunk number"))])
        self._members.enter(member)
        await self._names.register(datanode_object(member.node), member.address)
        log.info("datanode registered", node=member.node, address=member.address)
        return {"cluster": self._store.cluster, "now_ns": self._runtime.now_ns(), "keys": self._issuing.told(info)}

    async def heartbeat(self, node: Any, report: Any) -> dict[str, Any]:
        """How a DataNode is, what it has done, and what it is to do. Raises `NotFound`: register first."""
        if not isinstance(report, Mapping):
            raise errors.InvalidArgument("a heartbeat's report is a map")
        name = self._members.registered(node, report.get("incarnation")).node
        if not self._issuing.confirm(name, report):
            raise errors.NotFound(f"DataNode {name} does not accept the keys that clients have: it has to register")
        member = self._members.heard(name, report)
        damages = _damages(report)
        if member.is_reporting:
            member.gone.update(self._gone(report))
        await self._note_done(name, report, damages)
        await self._note_undone(name, report)
        await self._note_corrupt(name, report)
        for chunk, damage in damages.items():
            self._replication.note_damaged(name, chunk, damage)
        orders, withheld = self._orders(name)
        await self._keep(name, withheld)
        answer: dict[str, Any] = {
            "cluster": self._store.cluster,
            "log_index": self._store.counters()["log_index"],
            "now_ns": self._runtime.now_ns(),
            "keys": self._issuing.told(report),
            "orders": orders,
        }
        if self._config.copy_bandwidth:
            answer["copy_bytes_per_s"] = self._config.copy_bandwidth
        if member.draining:  # an operator wants all of its chunks deleted there: no mistake
            answer["draining"] = True
        return answer

    def _gone(self, report: Mapping[str, Any]) -> Iterator[ChunkId]:
        """The chunks of which the node has deleted its copy, or found it to be of no use, as a heartbeat says."""
        for number in _array(report, "done"):
            if isinstance(number, int) and number > 0:
                yield from self._queries.deleted_by(number)
        for chunk, _ in _array(report, "corrupt"):
            yield arguments.chunk(chunk)

    async def _note_done(self, node: NodeId, report: Mapping[str, Any], damages: Mapping[ChunkId, Damage]) -> None:
        """Orders were carried out: those with numbers below 0 are copies, of which some are made in part only."""
        done = [number for number in _array(report, "done") if isinstance(number, int)]
        orders = [number for number in done if number > 0]
        if orders:
            await self._writer.decide("finish_work", node, orders)
        await self._replication.finished(node, [number for number in done if number < 0])
        partial = {
            arguments.integer(number, "a copy", -arguments.INTEGER_MAX, -1): damages.get(chunk)
            for number, chunk in _array(report, "partial")
        }
        await self._replication.finished(node, list(partial), partial)

    async def _note_undone(self, node: NodeId, report: Mapping[str, Any]) -> None:
        """Orders have failed, or are put off by the node."""
        failed: list[int] = []
        refused: list[int] = []
        for number, code, message in _array(report, "failed"):
            log.warning("an order failed", node=node, order=number, error=f"{code}: {message}")
            if number < 0:
                self._replication.failed(node, number, f"{code}: {message}")
            else:
                (refused if code == _REFUSED else failed).append(number)
        await self._postpone(node, _POSTPONE_NS, failed)
        held = [
            (min(arguments.integer(delay_ns, "a delay"), _POSTPONE_MAX_NS), numbers)
            for delay_ns, numbers in _array(report, "postponed")
        ]
        for delay_ns, numbers in [(_POSTPONE_NS, refused), *held]:
            await self._undo(node, arguments.array(numbers, "orders", _ITEMS_MAX))
            await self._postpone(node, delay_ns, numbers)

    async def _undo(self, node: NodeId, numbers: Sequence[int]) -> None:
        """The node has held these orders, and not begun them: copies that they are to delete may be needed by now."""
        for start in range(0, len(numbers), limits.WORK_ORDERS_MAX):
            found = self._queries.deletions_among(node, numbers[start : start + limits.WORK_ORDERS_MAX])
            lengths = {chunk: self._replication.is_needed_again(chunk, node) for _, chunk in found}
            await self._count_instead(node, [(*order, lengths[order[1]]) for order in found])
            await trio.lowlevel.checkpoint()

    async def _note_corrupt(self, node: NodeId, report: Mapping[str, Any]) -> None:
        """Copies are of no use, or blocks of them."""
        corrupt = _array(report, "corrupt")
        for chunk, what in corrupt:
            log.error("a replica is damaged", node=node, chunk=f"{chunk:x}", what=what)
        for chunk in await self._drop([arguments.chunk(chunk) for chunk, _ in corrupt], node):
            self._replication.note_missing(node, chunk)
        for chunk, what in _array(report, "damaged"):
            log.error("blocks of a replica are damaged", node=node, chunk=f"{chunk:x}", what=what)
            self._replication.note_damaged(node, arguments.chunk(chunk), None)

    async def _postpone(self, node: NodeId, delay_ns: int, wire: Any) -> None:
        numbers = arguments.array(wire, "orders", _ITEMS_MAX)
        if numbers:
            await self._writer.decide("postpone_work", node, numbers, delay_ns)

    # --- orders -----------------------------------------------------------------------------------------

    def _orders(self, node: NodeId) -> tuple[list[list[Any]], list[tuple[int, ChunkId]]]:
        """What a node is to do, and the orders to delete that are due, with the chunks, that cannot be spared now."""
        orders = self._replication.orders(node)
        withheld: list[tuple[int, ChunkId]] = []
        room, room_bytes = limits.WORK_ORDERS_MAX - len(orders), limits.WORK_ORDERS_MAX_BYTES
        for number, kind, chunk, packed in self._queries.due_work(node, self._runtime.now_ns(), room):
            if room_bytes <= 0:
                break  # the next heartbeat's answer has more
            if kind == "delete" and not self._replication.can_be_spared(chunk, node):
                withheld.append((number, chunk))
                continue
            room_bytes -= len(packed)
            argument = msgpack.unpackb(packed)
            orders.append([number, kind, chunk] if argument is None else [number, kind, chunk, argument])
        return orders, withheld

    async def _keep(self, node: NodeId, withheld: Sequence[tuple[int, ChunkId]]) -> None:
        """Copies that were to be deleted cannot be spared: they count again if they may mend others, else stay."""
        lengths = {chunk: self._replication.is_wanted_back(chunk, node) for _, chunk in withheld}
        await self._postpone(node, _WITHHOLD_NS, [number for number, chunk in withheld if lengths[chunk] is None])
        await self._count_instead(node, [(number, chunk, lengths[chunk]) for number, chunk in withheld])

    async def _count_instead(self, node: NodeId, orders: Sequence[tuple[int, ChunkId, int | None]]) -> None:
        """Have the copies count, as not whole, that were to be deleted by these orders; not those without a length."""
        back = {chunk: length for _, chunk, length in orders if length is not None}
        if back:
            log.warning("copies count that were to be deleted", node=node, count=len(back), first=next(iter(back)))
            await self._writer.decide("finish_work", node, [number for number, chunk, _ in orders if chunk in back])
            await self._count_again(node, list(back.items()), back)

    # --- copies -----------------------------------------------------------------------------------------

    async def _skip(self, unknown: list[ChunkId]) -> None:
        """Give none of these numbers again. One that is far above all that were given is but a damaged name."""
        first = self._store.counters()["next_chunk"]
        given = [chunk for chunk in unknown if first <= chunk < first + limits.SKIP_CHUNKS_MAX]
        if given:
            await self._writer.decide("skip_chunks", max(given))

    async def _count_again(
        self,
        node: NodeId,
        back: Sequence[tuple[ChunkId, int]],
        short: Container[ChunkId],
        gone: Container[ChunkId] = (),
    ) -> None:
        """Copies of chunks of these lengths count, those in `short` as not whole; not those that are `gone` by then."""
        for part in _parts(back):
            there = [copy for copy in part if copy[0] not in gone]
            for chunk, _ in there:
                if chunk in short:
                    self._replication.note_damaged(node, chunk, None)  # before it counts, or it would count as whole
            if there:
                await self._writer.decide("add_replicas", node, there)

    def _good_copies(self, chunks: Sequence[ChunkId]) -> tuple[list[NodeId], list[tuple[NodeId, ChunkId]]]:
        """The nodes whose copies are there, and which copies of these chunks are not all the same."""
        return self._members.up(reported=True), self._replication.short_copies(set(chunks))

    async def _drop(self, lost: Sequence[ChunkId], node: NodeId) -> list[ChunkId]:
        """Copies are of no use, and dropped.

        The last ones keep their places, in case that they come back, and are not to count: which these are.
        """
        kept: list[ChunkId] = []
        for part in _parts(lost):
            kept += await self._writer.decide("drop_replicas", node, part, *self._good_copies(part))
        if kept:
            log.error("replicas that cannot be spared are of no use", node=node, count=len(kept), first=kept[0])
        return kept

    async def report(self, node: Any, first: Any, last: Any, chunks: Reported, incarnation: Any = None) -> int:
        """All chunks of a DataNode with numbers from `first` to `last`.

        The answer is the number from which the node is to go on: `first`, when copies are missing from the report that
        may be younger than it; or one up to `last`, when the node should have too many of them for one look.
        """
        member = self._members.registered(node, incarnation)
        with self._members.reporting(member):
            async with self._turn():
                self._members.registered(node, incarnation)  # another process may have its name by now
                return await self._compare(member, first, last, chunks)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Around the work on a report: few at once, the others wait their turn. Raises `Busy`."""
        if self._reports.statistics().tasks_waiting >= limits.REPORTS_WAITING_MAX:
            raise errors.Busy("as many reports of chunks wait as may: try again")
        with trio.move_on_after(limits.REPORT_WAIT_MAX_S) as waiting:
            await self._reports.acquire()
        if waiting.cancelled_caught:  # before its node gives up, and goes on while it is still worked on
            raise errors.Busy("the reports of other DataNodes take long: try again")
        try:
            yield
        finally:
            self._reports.release()

    async def _compare(self, member: Member, first: Any, last: Any, chunks: Reported) -> int:
        name = member.node
        low, high = arguments.integer(first, "a chunk number"), arguments.integer(last, "a chunk number")
        high = min(high, self._queries.end_of_slice(name, low, limits.REPORT_SLICE_CHUNKS))
        held = chunks.between(low, high)
        believed = await self._believed(name, low, high, list(held))
        for chunk in member.gone:
            held.pop(chunk, None)
        found = reconcile.compare(
            held, believed, self._store.counters()["next_chunk"], self._queries.skipped(low, high)
        )
        back = [(chunk, believed[chunk].length) for chunk in found.back]
        # First: what the node deletes meanwhile must not count.
        await self._count_again(name, back, set(found.short), member.gone)
        lost = self._doubts.lost_again(name, found.lost)
        if lost:
            log.warning("replicas are missing", node=name, count=len(lost), first=lost[0])
        kept = await self._drop(lost, name)
        in_doubt = set(found.lost).difference(lost)
        self._doubts.note(name, in_doubt)
        unsure = [*found.unsure, *sorted(in_doubt)]
        self._replication.note_short(name, low, high, [*found.short, *kept], unsure, believed)
        for part in _parts(found.strays):
            await self._writer.decide("delete_stray", name, part)
        if found.unknown:
            log.error(
                "a datanode holds chunks that this namenode never gave: was it restored from an old copy?",
                node=name,
                chunks=len(found.unknown),
            )
            await self._skip(found.unknown)
        following = low if in_doubt else high + 1
        if self._members.reported(member, low, following, len(found.unknown)):
            self._replication.note_reported()
        return following

    async def _believed(
        self, node: NodeId, low: int, high: int, numbers: Sequence[ChunkId]
    ) -> dict[ChunkId, reconcile.Believed]:
        """As `Queries.believed`, part by part; others are served in between.

        Of what changes meanwhile the same holds as of what changes while a report is on its way: decisions are made by
        commands, which look again.
        """
        believed: dict[ChunkId, reconcile.Believed] = {}
        while low <= high:
            at = bisect_left(numbers, low)
            end = min(high, self._queries.end_of_slice(node, low, _LOOKED_UP_AT_ONCE))
            if len(numbers) > at + _LOOKED_UP_AT_ONCE:
                end = min(end, numbers[at + _LOOKED_UP_AT_ONCE] - 1)
            believed |= self._queries.believed(node, low, end, numbers[at : bisect_right(numbers, end)])
            low = end + 1
            await trio.lowlevel.checkpoint()
        return believed


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """What is decided in a command each."""
    for start in range(0, len(items), limits.OWN_COMMAND_CHUNKS_MAX):
        yield items[start : start + limits.OWN_COMMAND_CHUNKS_MAX]


def packed(wire: Any) -> Reported:
    """Raises `InvalidArgument`."""
    entries = arguments.array(wire, "a report", limits.REPORT_SLICE_CHUNKS)
    try:
        numbers, lengths, settled = zip(*entries, strict=True) if entries else ((), (), ())
    except (TypeError, ValueError):
        raise errors.InvalidArgument("a report is a list of [chunk, length, settled]") from None
    arguments.integers(numbers, "a chunk number", 1)
    arguments.integers(lengths, "a length")
    return Reported(array("q", numbers), array("q", lengths), bytes(map(bool, settled)))


def _array(report: Mapping[str, Any], part: str) -> Sequence[Any]:
    """A part of a heartbeat, empty if it is not there. Raises `InvalidArgument`."""
    return arguments.array(report.get(part, []), f"what is {part}", _ITEMS_MAX)


def _damages(report: Mapping[str, Any]) -> dict[ChunkId, Damage]:
    """What a heartbeat says of damaged chunks: [[chunk, [where a damaged block begins, ...], length], ...]."""
    return {
        arguments.chunk(chunk): Damage(
            frozenset(arguments.integer(start, "an offset") for start in arguments.array(starts, "blocks", _ITEMS_MAX)),
            arguments.integer(length, "a length"),
        )
        for chunk, starts, length in _array(report, "lacking")
    }
