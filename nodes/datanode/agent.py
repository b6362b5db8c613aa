"""The DataNode's conversation with its NameNode: register, heartbeat, do what it is told, report what it has.

Heartbeats go out every HEARTBEAT_PERIOD_S, and as early as HEARTBEAT_EARLY_S after the last one when orders were worked
off and few are left: many small ones are not bound to one answer a second. Orders come in the answers, again and again
until they are reported done, so one that is done already is passed over, and so is one for a chunk that has an order in
work: it comes again. Destructive ones pass the `restraint` first, and none is begun before what that remembers is on
the disk, while copies do not wait for it; held ones are reported as postponed. A cut or punch that finds no copy, or a
cut that finds less than is to be left, tells of a loss that the NameNode did not see while the chunk was open: a
missing copy is reported like a damaged one, a short one by a report of all chunks. What was done, what failed and what
was found damaged stays in the report until a heartbeat with it was answered: the NameNode may restart at any moment.

A report of all chunks, in slices, goes out at the start, after each registration, when a directory fails, when a copy
is found to be short, and once in REPORT_PERIOD_S. The NameNode passes over what is not settled, so after a report with
such chunks, as at the start, the next ones come sooner: first when these have settled, then each time twice as long
after the one before, as on a node that is written to all the time something is never settled. When exactly is left to
chance, so that nodes which a NameNode that restarted has register at once do not go on reporting at once; a slice for
which it is too busy is put together anew, and sent again. What was done since a
slice was put together is not told before that slice is answered, nor that a copy is of no use: the NameNode would count
a copy that was there then, and is gone since. Damage is told once more after a report, which says nothing of what was
found since it was put together, and of open chunks is not asked for it. That a copy is of no use is not told while
another takes its place either: the NameNode would take that for the one that is lost. A copy that was told and turns
out to be whole, without an order to mend it, is told by a report: it may be the only one.

Of what is damaged the heartbeat tells where the blocks begin, as it is at that moment, and again when there are more or
fewer: the NameNode compares copies by that. So it does of a copy that was ordered, and made, without blocks that none
of its sources has whole.

Invariants: an order's number is in at most one of `_in_work`, `_done`, `_partial`, `_failed`; no two orders in work are
for the same chunk; an answer to a heartbeat is passed through the restraint whole, before the next one is sent.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog
import trio

from dfs import errors, limits, tasks
from dfs.config import DataNodeConfig
from dfs.rpc import Pool, Server
from dfs.runtime import Runtime
from dfs.types import NAMENODE_OBJECT, ChunkId, ClusterId, NodeId
from nodes.datanode.bandwidth import TokenBucket
from nodes.datanode.clock import NameNodeClock
from nodes.datanode.copier import Copier
from nodes.datanode.keyring import Keyring
from nodes.datanode.obeyed import PATH, save
from nodes.datanode.restraint import DESTRUCTIVE, Restraint
from nodes.datanode.users import Background, Users
from nodes.datanode.volumes import Volumes

log = structlog.get_logger(__name__)

_TOLD_AT_ONCE: Final = 4096
"""Orders done, failed, or put off together, and damaged chunks, in one heartbeat: others come with the next."""
_BLOCKS_AT_ONCE: Final = 16_384
"""Damaged blocks told in one heartbeat."""
_BLOCKS_OF_ONE: Final = 256
"""Of one chunk."""
_POSTPONED_AT_ONCE: Final = 4
_CHUNK_LAST: Final = 2**63 - 1
_HEARTBEAT_TIMEOUT_S: Final = 5.0


class Agent:
    """Use `join`, then `run` as a task."""

    def __init__(
        self,
        config: DataNodeConfig,
        volumes: Volumes,
        pool: Pool,
        server: Server,
        runtime: Runtime,
        address: str,
        bandwidth: TokenBucket,
        users: Users,
        restraint: Restraint,
        clock: NameNodeClock,
        keyring: Keyring | None = None,
    ) -> None:
        """`keyring` is absent where the DataNode serves without keys."""
        self._config = config
        self._clock = clock
        self._keyring = keyring
        self._runtime = runtime
        self._volumes = volumes
        self._pool = pool
        self._server = server
        self._address = config.advertise or address
        self._in_work: dict[int, ChunkId] = {}
        self._done: list[int] = []
        self._done_before_report: int | None = None
        """How many of these were done when the slice of a report that is under way was put together."""
        self._partial: list[tuple[int, ChunkId]] = []
        """Copies that were made without blocks that no source has."""
        self._failed: list[tuple[int, str, str]] = []
        self._corrupt: list[tuple[ChunkId, str]] = []
        self._damaged: list[tuple[ChunkId, str]] = []
        self._lacking: dict[ChunkId, None] = {}
        """Those of which the NameNode is to be told which blocks are."""
        self._known_damaged: set[ChunkId] = set()
        """Those of which the NameNode was told."""
        self._copying: set[ChunkId] = set()
        """Those of which copies are being made here."""
        self._incarnation = runtime.random.getrandbits(62)
        """Tells this process from another with the same name and a copy of its directories."""
        self.is_registered = False
        self.is_heard = False
        """The NameNode answered the last heartbeat."""
        self._report_due = trio.Event()
        self._report_may_wait = False
        """The report is due since this node registered, as others may have at the same time."""
        self._failed_directories = 0
        self._bandwidth = bandwidth
        self._copier = Copier(pool, volumes, bandwidth, Background(users))
        self._restraint = restraint
        self._remembered = restraint.memory  # as it is on the disk
        self._postponed: list[tuple[int, list[int]]] = []  # (delay in ns, orders)
        self._short_of_work = trio.Event()

    async def _call(self, method: str, *args: Any, timeout_s: float = _HEARTBEAT_TIMEOUT_S) -> Any:
        return await self._pool.call(self._config.namenode, NAMENODE_OBJECT, method, *args, timeout_s=timeout_s)

    # --- registering ------------------------------------------------------------------------------------

    async def register(self) -> None:
        """Say where we are, and join the cluster. Raises `WrongCluster` (also `DiskMissing`), `Exists`.

        These no waiting mends.
        """
        info: dict[str, Any] = {
            "node": self._config.node,
            "address": self._address,
            "host": socket.gethostname(),
            "rack": self._config.rack,
            "cluster": self._volumes.cluster,
            "directories": self._volumes.directory_ids(),
            "new_disk": self._volumes.begins_anew,
            "last_chunk": self._volumes.last_chunk(),
            "incarnation": self._incarnation,
            **self._known_keys(),
        }
        answer = await self._call("register", info)
        cluster = ClusterId(answer["cluster"])
        await self._volumes.join_in_time(cluster)
        if info["directories"] != self._volumes.directory_ids():  # some are new, and have ids only now
            info |= {"cluster": cluster, "directories": self._volumes.directory_ids()}
            await self._call("register", info)
        self._pool.handshake["cluster"] = cluster
        self._note_clock(answer)
        await self._follow_keys(answer)
        self.is_registered = True
        self._report_may_wait = not self._report_due.is_set()
        self._report_due.set()
        log.info("registered", namenode=self._config.namenode, cluster=cluster)

    def _note_clock(self, answer: Mapping[str, Any]) -> None:
        if "now_ns" in answer:  # not of a NameNode of an older release
            self._clock.told(answer["now_ns"])

    def _known_keys(self) -> dict[str, Any]:
        return self._keyring.report() if self._keyring is not None else {}

    async def _follow_keys(self, answer: Mapping[str, Any]) -> None:
        if self._keyring is not None and "keys" in answer:
            await self._keyring.follow(answer["keys"], self._call)

    async def farewell(self, pool: Pool) -> None:
        """Tell the NameNode, by a pool, that this node stops in order: it waits with making copies elsewhere.

        What the node is to know of it after a restart is written down.
        """
        self._restraint.note_heard()
        try:
            await self._remember()
        except errors.DiskFailed as error:
            log.warning("how far the namenode is could not be written down", error=error.message)
        if self.is_registered:
            try:
                who = self._config.node, self._incarnation
                timeout_s = limits.FAREWELL_TIMEOUT_S
                await pool.call(self._config.namenode, NAMENODE_OBJECT, "farewell", *who, timeout_s=timeout_s)
            except errors.DfsError as error:
                log.warning("namenode could not be told of the stop", error=str(error))

    # --- heartbeats -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Heartbeat, work and report until cancelled. Raises `WrongCluster` and `Exists` from registering."""
        async with tasks.open_nursery() as nursery:
            nursery.start_soon(self._report_when_due)
            workers = trio.CapacityLimiter(limits.ORDERS_AT_ONCE)
            silent_since: float | None = None
            while True:
                self._short_of_work = trio.Event()
                try:
                    await self._heartbeat(nursery, workers)
                    silent_since = None
                    self.is_heard = True
                except (errors.WrongCluster, errors.Exists):
                    raise
                except errors.DfsError as error:
                    if silent_since is None:
                        silent_since = trio.current_time()
                        self.is_heard = False
                        what = "take this node" if isinstance(error, errors.Busy) else "answer"
                        log.warning(f"namenode does not {what}", namenode=self._config.namenode, error=str(error))
                    await trio.sleep(limits.HEARTBEAT_PERIOD_S)
                    continue
                with trio.move_on_after(limits.HEARTBEAT_PERIOD_S):
                    await trio.sleep(limits.HEARTBEAT_EARLY_S)
                    await self._short_of_work.wait()

    async def _heartbeat(self, nursery: trio.Nursery, workers: trio.CapacityLimiter) -> None:
        if not self.is_registered:
            await self.register()
        self._corrupt += self._volumes.take_corrupt()
        self._damaged += self._volumes.take_damaged()
        self._damaged = [each for each in self._damaged if self._volumes.is_damaged(each[0])]
        self._note_whole()
        is_reporting = self._done_before_report is not None
        done = self._done[: self._done_before_report][:_TOLD_AT_ONCE]
        failed = self._failed[:_TOLD_AT_ONCE]
        useless = [each for each in self._corrupt if each[0] not in self._copying]
        corrupt = [] if is_reporting else useless[:_TOLD_AT_ONCE]
        damaged, postponed = self._damaged[:_TOLD_AT_ONCE], self._postponed[:_POSTPONED_AT_ONCE]
        self._lacking.update((chunk, None) for chunk, _ in damaged)
        self._settle_partial()
        partial = [] if is_reporting else self._partial[:_TOLD_AT_ONCE]
        lacking = self._lacking_now([chunk for _, chunk in partial])
        report = self._condition() | {
            "incarnation": self._incarnation,
            "done": done,
            "failed": failed,
            "postponed": postponed,
        }
        report |= {"corrupt": corrupt, "damaged": damaged, "lacking": lacking, "partial": partial}
        try:
            answer = await self._call("heartbeat", self._config.node, report)
        except errors.NotFound:
            self.is_registered = False
            return
        self._note_clock(answer)
        del self._done[: len(done)], self._failed[: len(failed)], self._partial[: len(partial)]
        self._corrupt = _without(self._corrupt, corrupt)
        self._damaged = _without(self._damaged, damaged)
        self._known_damaged.update(chunk for chunk, _ in damaged)
        for chunk, _, _ in lacking:
            self._lacking.pop(chunk, None)
        if self._done_before_report is not None:
            self._done_before_report = max(0, self._done_before_report - len(done))
        del self._postponed[: len(postponed)]
        if self._failed or self._postponed:  # more than one report takes
            self._short_of_work.set()
        self._note_failed_directories()
        self._bandwidth.rate_bytes_per_s = answer.get("copy_bytes_per_s")
        await self._accept(answer, nursery, workers)
        await self._follow_keys(answer)

    def _settle_partial(self) -> None:
        """Copies that are whole by now are done, those that are gone have failed."""
        left = []
        for number, chunk in self._partial:
            if self._volumes.is_damaged(chunk):
                left.append((number, chunk))
            elif self._volumes.length(chunk) is not None:
                self._done.append(number)
            else:
                self._failed.append((number, "ChunkNotFound", f"the copy of chunk {chunk:x} is gone again"))
        self._partial = left

    def _lacking_now(self, first: Sequence[ChunkId]) -> list[tuple[ChunkId, list[int], int]]:
        """Where damaged blocks begin, and the length, of these chunks, and of as many as fit that are still to be told.

        Of a chunk with very many nobody is told.
        """
        told: list[tuple[ChunkId, list[int], int]] = []
        room = _BLOCKS_AT_ONCE
        for chunk in [*first, *self._lacking]:
            blocks = self._volumes.damaged_blocks(chunk)
            if not 0 < len(blocks) <= _BLOCKS_OF_ONE:
                self._lacking.pop(chunk, None)
                continue
            room -= len(blocks)
            if room < 0:
                break
            told.append((chunk, blocks, self._volumes.length(chunk) or 0))
        return told

    def _note_whole(self) -> None:
        """Have it reported if copies that were damaged are not any more, and no order had them mended."""
        in_work = set(self._in_work.values())
        whole = [each for each in self._known_damaged if not self._volumes.is_damaged(each) and each not in in_work]
        self._known_damaged.difference_update(whole)
        if any(self._volumes.length(chunk) is not None for chunk in whole):
            self._report_due.set()

    def _condition(self) -> dict[str, Any]:
        """How this node is, as heartbeats say it."""
        volumes = self._volumes.statistics()
        condition: dict[str, Any] = {
            "capacity_bytes": self._volumes.capacity_bytes(),
            "free_bytes": self._volumes.free_bytes(),
            "used_bytes": self._volumes.used_bytes(),
            "chunks": self._volumes.chunk_count(),
            "load": self._server.statistics().calls_in_work,
            "directories": [[volume.name, volume.failed, volume.full] for volume in volumes],
        }
        condition |= self._known_keys()
        held = self._restraint.report()
        return condition | {"held": held} if held else condition

    def _note_failed_directories(self) -> None:
        volumes = self._volumes.statistics()
        failed = [volume for volume in volumes if volume.failed is not None]
        if len(failed) == self._failed_directories:
            return
        self._failed_directories = len(failed)
        self._report_due.set()
        for volume in failed:
            log.error("a data directory is out of service until a restart", directory=volume.name, reason=volume.failed)
        if len(failed) == len(volumes):
            log.error("no data directory is left in service: this node holds nothing", node=self._config.node)

    # --- orders -----------------------------------------------------------------------------------------

    async def _accept(self, answer: Mapping[str, Any], nursery: trio.Nursery, workers: trio.CapacityLimiter) -> None:
        """Begin an answer's orders, as far as they are new and may be obeyed."""
        settled = {*self._done, *(each[0] for each in (*self._failed, *self._partial))}
        chunks = set(self._in_work.values())
        new = [order for order in answer["orders"] if order[0] not in settled and order[2] not in chunks]
        is_draining = bool(answer.get("draining"))
        orders, held = self._restraint.sift(new, answer.get("log_index"), self._volumes, is_draining)
        if held:
            self._postponed.append((int(limits.HOLD_POSTPONE_S * 10**9), held))
        try:
            await self._remember()
        except errors.DiskFailed as error:
            if any(order[1] in DESTRUCTIVE for order in orders):
                log.error("nothing is deleted, cut or punched before this can be written down", error=error.message)
            orders = [order for order in orders if order[1] not in DESTRUCTIVE]
        for order in orders:
            number, kind, chunk, *rest = order
            if chunk not in self._in_work.values():
                self._restraint.note_begun(order, is_draining)
                self._in_work[number] = chunk
                nursery.start_soon(self._work, number, kind, chunk, rest, workers)

    async def _remember(self) -> None:
        """Write down what the restraint is to know after a restart. Raises DiskFailed."""
        async with self._restraint.writing:
            memory = self._restraint.memory
            if memory == self._remembered:
                return
            written = memory._replace(generation=self._remembered.generation + 1)
            try:
                await save(self._volumes.stores, written)
            except OSError as error:
                self._remembered = self._remembered._replace(generation=written.generation)  # it may be there in part
                raise errors.DiskFailed(f"no data directory takes {PATH}: {error.strerror}") from error
            self._restraint.memory = self._restraint.memory._replace(generation=written.generation)
            self._remembered = written

    async def decide(self, allow: bool) -> int:
        """An operator's decision about held orders; how many there were. Raises DiskFailed."""
        numbers = self._restraint.decide(allow)
        await self._remember()
        for start in range(0, len(numbers), _TOLD_AT_ONCE):
            part = numbers[start : start + _TOLD_AT_ONCE]
            if allow:
                self._postponed.append((0, part))
            else:
                self._failed += [(number, "Refused", "an operator did not allow it") for number in part]
        self._short_of_work.set()
        return len(numbers)

    async def _work(self, number: int, kind: str, chunk: ChunkId, rest: Sequence[Any], workers: Any) -> None:
        try:
            async with workers:
                is_whole = await self._obey(kind, chunk, rest)
        except errors.ChunkNotFound:
            if kind == "copy":
                self._failed.append((number, "ChunkNotFound", f"no source has chunk {chunk:x}"))
            else:
                self._corrupt.append((chunk, "it is not here, or in a directory that failed"))
                self._done.append(number)
        except errors.DfsError as error:
            self._failed.append((number, error.code, error.message))
        except Exception as error:
            log.exception("order failed unexpectedly", order=number, kind=kind, chunk=f"{chunk:x}")
            self._failed.append((number, "RemoteFault", str(error)))
        else:
            if is_whole:
                self._done.append(number)
            else:
                self._partial.append((number, chunk))
        finally:
            del self._in_work[number]
            if len(self._in_work) <= limits.ORDERS_AT_ONCE:
                self._short_of_work.set()

    async def _obey(self, kind: str, chunk: ChunkId, rest: Sequence[Any]) -> bool:
        """Do it; False for a copy that could be made in part only, and was to be then."""
        if kind == "delete":
            await self._volumes.delete(chunk)
        elif kind == "cut":
            await self._cut(chunk, rest[0])
        elif kind == "punch":
            await self._volumes.punch(chunk, [(offset, length) for offset, length in rest[0]])
        elif kind == "copy":
            sources = [(NodeId(node), address) for node, address in rest[1]]
            return await self._copy(chunk, rest[0], sources, partly=len(rest) > 2 and bool(rest[2]))
        else:
            raise errors.NotSupported(f"no such order: {kind!r}: is the NameNode newer than this DataNode?")
        return True

    async def _copy(self, chunk: ChunkId, length: int, sources: Sequence[tuple[NodeId, str]], *, partly: bool) -> bool:
        if (self._volumes.length(chunk) or 0) > length:
            self._restraint.refuse_to_shorten(chunk)
        self._copying.add(chunk)
        try:
            is_whole = await self._copier.copy(chunk, length, sources, partly=partly)
        finally:
            self._copying.discard(chunk)
        self._known_damaged.discard(chunk)
        self._corrupt += self._volumes.take_corrupt()
        self._corrupt = [each for each in self._corrupt if each[0] != chunk]  # that was what is replaced now
        return is_whole

    async def _cut(self, chunk: ChunkId, length: int) -> None:
        """Leave `length` bytes. Raises ChunkNotFound if there should be any and the chunk is not here."""
        has = self._volumes.length(chunk)
        if has is None or has > length:
            await self._volumes.cut(chunk, length)
        elif has < length:
            log.error("a chunk is shorter than what was committed", chunk=f"{chunk:x}", has=has, committed=length)
            self._report_due.set()

    # --- reports ----------------------------------------------------------------------------------------

    async def _report_when_due(self) -> None:
        wait_s = limits.REPORT_PERIOD_S
        while True:
            with trio.move_on_after(self._spread(wait_s)) as waiting:
                await self._report_due.wait()
            if self._report_may_wait:
                slices = min(1.0, self._volumes.chunk_count() / limits.REPORT_SLICE_CHUNKS)
                await trio.sleep(slices * self._chance(0, limits.REPORT_SPREAD_FIRST_S))
            self._report_may_wait = False
            self._report_due = trio.Event()
            try:
                is_settled = await self._report()
                sooner_s = 2 * (wait_s if waiting.cancelled_caught else limits.SETTLED_AFTER_S)
                wait_s = limits.REPORT_PERIOD_S if is_settled else min(sooner_s, limits.REPORT_PERIOD_S)
            except errors.DfsError as error:
                log.warning("report of chunks not delivered, trying again", error=str(error))
                await trio.sleep(limits.RETRY_DELAY_MAX_S)
                self._report_due.set()

    def _spread(self, wait_s: float) -> float:
        """The time until the next report. What waits for chunks to be settled is not shortened."""
        return wait_s if wait_s < limits.REPORT_PERIOD_S else wait_s * self._chance(1 - limits.REPORT_SPREAD, 1)

    def _chance(self, least: float, most: float) -> float:
        return self._runtime.random.uniform(least, most)

    async def _report(self) -> bool:
        """Report all chunks; whether all were settled."""
        first, is_settled = 1, True
        while first <= _CHUNK_LAST:
            entries = self._volumes.list_chunks(ChunkId(first - 1), limits.REPORT_SLICE_CHUNKS)
            is_last = len(entries) < limits.REPORT_SLICE_CHUNKS
            last = _CHUNK_LAST if is_last else entries[-1][0]
            is_settled = is_settled and all(settled for _, _, settled in entries)
            self._done_before_report = len(self._done)
            try:
                args = self._config.node, first, last, entries, self._incarnation
                first = await self._call("report_chunks", *args, timeout_s=limits.CALL_TIMEOUT_S)
                continue
            except errors.Busy:
                pass  # nothing of it was looked at
            finally:
                self._done_before_report = None
            await trio.sleep(self._chance(limits.RETRY_DELAY_MAX_S / 2, limits.RETRY_DELAY_MAX_S))
        self._volumes.tell_damaged_again()
        return is_settled


def _without(found: Sequence[tuple[ChunkId, str]], told: Sequence[tuple[ChunkId, str]]) -> list[tuple[ChunkId, str]]:
    """What is still to be told: some may have been settled meanwhile, and others found."""
    gone = set(told)
    return [each for each in found if each not in gone]
