"""All data directories of a DataNode as one: a chunk lives in one of them, whole.

A new chunk goes to the directory with the largest share of its space free. A directory that fails is left out: its
chunks count as gone (though reads still try it), so the NameNode has copies made elsewhere; the node goes on with the
others, and without any goes on saying so. Changes are for what is in service: a chunk that only a failed directory has
is deleted already, is not found where it is to be cut or punched, and can be made anew in another. Directories on one
file system share its space, which counts once. The same chunk in two directories (a disk that came back) stays where it
has more bytes that can be read; the other is set aside.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import islice
from typing import Final, NamedTuple, TypeVar, TypeVarTuple

import structlog
import trio

from dfs import errors, limits
from dfs.checksum import Block, Buffer
from dfs.runtime import Runtime
from dfs.tasks import open_nursery
from dfs.types import ChunkId, ClusterId, NodeId
from nodes.datanode import identity
from nodes.datanode.chunkfiles import FULL, Content, total_length
from nodes.datanode.disk import Disk
from nodes.datanode.identity import Identity
from nodes.datanode.index import BlockIndex, Record, records_of
from nodes.datanode.store import ChunkStore, Holding

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

log = structlog.get_logger(__name__)

LOCK: Final = "lock"
NEW_DISK: Final = "new-disk"
"""An empty file of this name says that a directory is meant to be empty, or that one that was there is lost."""


class VolumeStatistics(NamedTuple):
    """One directory. Free and capacity are 0 if it failed, and `failed` then says why.

    One that is `full` takes no new chunk until space returns. `damaged` are chunks some blocks of which are.
    """

    name: str
    chunks: int
    used_bytes: int
    free_bytes: int
    capacity_bytes: int
    failed: str | None
    full: bool
    damaged: int


class _Placing:
    """Where a chunk is being created, and how many calls do so: the last one removes this."""

    __slots__ = ("store", "users")

    def __init__(self, store: ChunkStore) -> None:
        self.store = store
        self.users = 0


class Volumes:
    """The directories of DataNode `node`, in the order configured.

    `cluster` is whose they are, None until `join`. `capacity_limit_bytes` bounds what all chunks take together; 0 is
    no bound. `reserve_bytes` stay free in each directory.
    """

    def __init__(
        self,
        disks: Sequence[Disk],
        node: NodeId,
        runtime: Runtime,
        reserve_bytes: int,
        capacity_limit_bytes: int = 0,
    ) -> None:
        self.cluster: ClusterId | None = None
        self.begins_anew = False
        """An operator has said, in a directory, that one that was there is not to be waited for."""
        self.stores = [ChunkStore(disk, None, runtime, reserve_bytes) for disk in disks]
        self._node = node
        self._runtime = runtime
        self._limit_bytes = capacity_limit_bytes
        self._identities: dict[str, Identity] = {}  # by the directory's name
        self._outdated: set[str] = set()  # names of directories that had no room for their new identity.json
        # Of who writes a directory's identity: registering, and the scrub, in threads of theirs. Each has one, as disks
        # may hang.
        self._settling = {disk.name: threading.Lock() for disk in disks}
        self._joins = 0  # begun so far: a thread that comes late with an earlier one ends
        self._locked: list[Disk] = []
        self._placing: dict[ChunkId, _Placing] = {}  # chunks that are being created, so that a repeat follows

    # --- starting and stopping

    async def wait_for_disks(self) -> None:
        """Before `open`, and `watched`: directories whose disk hangs are out of service after this."""
        async with open_nursery() as nursery:
            for store in self.stores:
                nursery.start_soon(store.drive.wait_for_disk)

    def open(self) -> None:
        """Lock the directories, check whose they are, find the chunks. Blocks; after a crash for minutes.

        Raises DirectoryInUse, WrongCluster, FormatUnknown, InvalidArgument if a disk seems not to be mounted, Busy if
        descriptors or memory are short, and DiskFailed if no directory can be used; nothing is locked then.
        """
        try:
            self._check_directories()
            for store in self._usable():
                store.cluster = self.cluster
                self._attempt(store, store.open)
            self._check_any_usable()
            self._resolve_doubles()
        except BaseException:
            self._unlock()
            raise

    def _attempt(self, store: ChunkStore, work: Callable[[*Ts], T], *args: *Ts) -> T | None:
        """Do `work`; a damaged file or an OSError of the system's means that the directory failed: None is returned.

        Raises Busy if the machine is short of something, and others of our own errors as they are.
        """
        try:
            return work(*args)
        except errors.DiskFailed:
            return None
        except errors.Corrupt as error:
            store.drive.fail(error.message)
            return None
        except errors.DfsError:
            raise
        except OSError as error:
            explained = store.drive.explained(error, full_is_fatal=True)
            if isinstance(explained, errors.DiskFailed):
                return None
            raise explained from error

    def _usable(self) -> Iterator[ChunkStore]:
        return (store for store in self.stores if store.drive.failed is None)

    def _check_any_usable(self) -> None:
        if not any(self._usable()):
            reasons = "; ".join(f"{store.disk.name}: {store.drive.failed}" for store in self.stores)
            raise errors.DiskFailed(f"none of the data directories of DataNode {self._node!r} can be used: {reasons}")

    def _check_directories(self) -> None:
        for store in self._usable():
            self._attempt(store, self._lock, store.disk)
        for store in self._usable():
            found = self._attempt(store, identity.check, store.disk, self.cluster, self._node)
            if found is not None:
                self.cluster = found.cluster
                self._identities[store.disk.name] = found
        self._check_mounted()

    def _lock(self, disk: Disk) -> None:
        disk.make_dirs("")
        disk.lock(LOCK)
        self._locked.append(disk)

    def _unlock(self) -> None:
        while self._locked:
            self._locked.pop().unlock(LOCK)

    def _check_mounted(self) -> None:
        """A directory without identity is new, unless one that the others know is missing: it may be that one."""
        self.begins_anew = any(self._attempt(store, store.disk.exists, NEW_DISK) for store in list(self._usable()))
        present = {found.directory for found in self._identities.values()}
        missing = {other for found in self._identities.values() for other in found.directories} - present
        for store in self._usable() if missing else ():
            if store.disk.name not in self._identities and not self._attempt(store, store.disk.exists, NEW_DISK):
                raise errors.InvalidArgument(
                    f"{store.disk.name} is empty, and a directory that this DataNode had is missing: mount its disk,"
                    f" or put an empty file {NEW_DISK!r} there to begin anew on an empty disk"
                )

    async def join_in_time(self, cluster: ClusterId) -> None:
        """As `join`, in a thread; anew without it where a directory leaves service, as its disk may be what hangs."""

        async def until_one_fails(usable: list[Disk]) -> None:
            while self.usable_disks() == usable:  # noqa: ASYNC110 - drives fail in threads, which set no event
                await trio.sleep(limits.DISK_WATCH_PERIOD_S)
            nursery.cancel_scope.cancel()

        is_joined = False
        while not is_joined:
            async with open_nursery() as nursery:
                nursery.start_soon(until_one_fails, self.usable_disks())
                await self._runtime.run_abandonable(self.join, cluster)
                is_joined = True
                nursery.cancel_scope.cancel()

    def join(self, cluster: ClusterId) -> None:
        """Make the directories `cluster`'s, durably, where they are nobody's yet. Blocks. Raises WrongCluster, Busy.

        No directory is in the list of another before it has its own identity: so a join that was cut short leaves none
        that is missed, and the next one completes it. None takes chunks before all of them know it, but for those that
        are full: they learn of it when they have room.
        """
        if self.cluster is not None and self.cluster != cluster:
            raise errors.WrongCluster(
                f"the data directories of DataNode {self._node!r} belong to cluster {self.cluster}, the NameNode to"
                f" {cluster}: configure the directories' own NameNode, or other directories"
            )
        self._joins = turn = self._joins + 1
        remembered = {other for found in self._identities.values() for other in found.directories}
        for store in [store for store in self._usable() if store.disk.name not in self._identities]:
            directory = identity.new_directory_id(self._runtime.random)
            everything = {*self.directory_ids(), directory}
            self._attempt(store, self._settle_identity, store, cluster, directory, everything)
            if self._joins != turn:
                return
        usable = list(self._usable())
        lost = remembered if len(usable) < len(self.stores) else set()  # one that failed is not forgotten
        everything = {*self.directory_ids(), *lost}
        for store in usable:
            directory = self._identities[store.disk.name].directory
            self._attempt(store, self._settle_identity, store, cluster, directory, everything)
            if self._joins != turn:
                return
        self.cluster = cluster
        for store in self._usable():
            store.cluster = cluster

    def _settle_identity(self, store: ChunkStore, cluster: ClusterId, directory: str, everything: set[str]) -> None:
        wanted = Identity(cluster, self._node, directory, tuple(sorted(everything)))
        with self._settling[store.disk.name]:
            if identity.is_current(store.disk, wanted):
                self._outdated.discard(store.disk.name)
            else:
                self._write_identity(store, wanted)
            store.makes_journal = store.disk.name not in self._outdated
            self._identities[store.disk.name] = wanted
            if store.disk.exists(NEW_DISK):
                store.disk.remove(NEW_DISK)

    def _write_identity(self, store: ChunkStore, wanted: Identity) -> None:
        """A directory that has an identity, and no room for another list in it, keeps the one that it has for now."""
        name = store.disk.name
        try:
            identity.write(store.disk, wanted)
        except OSError as error:
            if error.errno not in FULL or name not in self._identities:
                raise
            self._outdated.add(name)
            log.warning("a full disk does not know the node's other directories yet", directory=name)
        else:
            self._outdated.discard(name)
            store.makes_journal = True

    def mend_identity(self, store: ChunkStore) -> bool:
        """Write identity.json anew where it is not as it should be; whether it was damaged. Blocks. Raises OSError."""
        with self._settling[store.disk.name]:
            wanted = self._identities.get(store.disk.name)
            if wanted is None or identity.is_current(store.disk, wanted):
                return False
            if store.disk.name in self._outdated or identity.says(store.disk, wanted):  # in an older format
                self._write_identity(store, wanted)
                return False
            identity.write(store.disk, wanted)
            return True

    def usable_disks(self) -> list[Disk]:
        """The directories in service, in the order configured."""
        return [store.disk for store in self._usable()]

    def directory_ids(self) -> list[str]:
        """The ids of the directories that have one, in order."""
        return sorted(found.directory for found in self._identities.values())

    def _resolve_doubles(self) -> None:
        holders: dict[ChunkId, ChunkStore] = {}
        for store in self._usable() if len(self.stores) > 1 else ():
            for chunk in list(store.chunks):
                other = holders.setdefault(chunk, store)
                if other is not store:
                    loser = store if _worth(store, chunk) <= _worth(other, chunk) else other
                    holders[chunk] = other if loser is store else store
                    winner = holders[chunk].disk.name
                    self._attempt(loser, loser.drop_double, chunk, f"a copy that is as good or better is in {winner}")

    async def close(self, clean: bool = True) -> None:
        """Sync (if `clean`), close and unlock everything. A directory that fails at that is looked through at start."""
        try:
            for store in self.stores:
                try:
                    await store.close(clean)
                except (errors.DiskFailed, errors.NoSpace, errors.Busy):
                    pass  # no file `clean` then: the next start looks at every chunk
        finally:
            self._unlock()

    # --- which directory

    def _holder(self, chunk: ChunkId) -> ChunkStore:
        """The directory that holds the chunk, one that failed only if no other does. Raises ChunkNotFound."""
        try:
            return self._in_service(chunk)
        except errors.ChunkNotFound:
            for store in self.stores:
                if chunk in store.chunks:
                    return store
            raise

    def _in_service(self, chunk: ChunkId) -> ChunkStore:
        """The directory in service that holds the chunk. Raises ChunkNotFound, also where one that failed has it."""
        for store in self._usable():
            if chunk in store.chunks:
                return store
        raise errors.ChunkNotFound(f"chunk {chunk:x} is not on DataNode {self._node!r}")

    def _chosen(self, length: int) -> ChunkStore:
        """The directory for a new chunk: the emptiest with room for all that it may become, or else for its beginning.

        Raises NoSpace, Busy before `join`, DiskFailed if there is none in service.
        """
        if self.cluster is None:
            raise errors.Busy(f"DataNode {self._node!r} belongs to no cluster yet: repeat when it reached its NameNode")
        free = [(store.drive.free_bytes(), store) for store in list(self._usable())]
        self._check_any_usable()
        able = [(room >= limits.CHUNK_MAX_BYTES, room, store) for room, store in free if room >= max(1, length)]
        if not able:
            raise errors.NoSpace(f"no data directory of DataNode {self._node!r} has room for a chunk: free some space")
        return max(able, key=lambda each: (each[0], each[1] / max(1, each[2].drive.capacity_bytes())))[2]

    # --- chunks; as ChunkStore's methods of the same names

    async def append(self, chunk: ChunkId, offset: int, blocks: Sequence[Block], data: Content) -> int:
        """See `ChunkStore.append`; a new chunk goes to the directory with most space. Raises as that."""
        return await self.append_records(chunk, offset, records_of(blocks, offset), data)

    async def append_records(
        self, chunk: ChunkId, offset: int, records: Sequence[Record], data: Content | None, *, to_damaged: bool = False
    ) -> int:
        length = total_length(records) if data is None else len(data)
        if offset + total_length(records) > (self.length(chunk) or 0):  # what is there already takes nothing
            self._check_limit(chunk, offset, length)
        try:
            return await self._in_service(chunk).append_records(chunk, offset, records, data, to_damaged=to_damaged)
        except errors.ChunkNotFound:
            if offset:
                raise
        placing = self._placing.get(chunk)
        if placing is None:
            placing = self._placing[chunk] = _Placing(self._chosen(length))
        placing.users += 1
        try:
            return await placing.store.append_records(chunk, offset, records, data, to_damaged=to_damaged)
        finally:
            placing.users -= 1
            if not placing.users:
                del self._placing[chunk]

    def _check_limit(self, chunk: ChunkId, offset: int, length: int) -> None:
        if self._limit_bytes and self.used_bytes() + length > self._limit_bytes:
            raise errors.NoSpace(
                f"DataNode {self._node!r} may use {self._limit_bytes} bytes, and {self.used_bytes()} are taken:"
                f" chunk {chunk:x} cannot grow at {offset}; raise capacity_bytes, or free some space"
            )

    async def read(self, chunk: ChunkId, offset: int, length: int) -> tuple[list[Block], list[Buffer]]:
        return await self._holder(chunk).read(chunk, offset, length)

    async def read_ranges(self, chunk: ChunkId, ranges: Sequence[tuple[int, int]]) -> tuple[list[Block], list[Buffer]]:
        return await self._holder(chunk).read_ranges(chunk, ranges)

    async def lend(self, chunk: ChunkId) -> tuple[BlockIndex, int]:
        return await self._holder(chunk).lend(chunk)

    async def read_records(
        self, chunk: ChunkId, first: int, count: int, at: int | None = None
    ) -> tuple[list[Record], list[Buffer]]:
        return await self._holder(chunk).read_records(chunk, first, count, at)

    async def damaged_records(self, chunk: ChunkId, first: int, count: int, at: int | None = None) -> list[Record]:
        return await self._holder(chunk).damaged_records(chunk, first, count, at)

    async def verify(self, chunk: ChunkId) -> int:
        return await self._holder(chunk).verify(chunk)

    async def sync(self, chunks: Sequence[ChunkId]) -> list[int]:
        """Durable lengths, -1 for chunks that are not here or whose directory failed."""
        lengths = dict.fromkeys(chunks, -1)

        async def sync_into(store: ChunkStore, held: list[ChunkId]) -> None:
            try:
                lengths.update(zip(held, await store.sync(held), strict=True))
            except errors.DiskFailed:
                pass  # its chunks count as gone

        held = ((store, [chunk for chunk in lengths if chunk in store.chunks]) for store in self._usable())
        due = [(store, of_store) for store, of_store in held if of_store]
        if len(due) == 1:
            await sync_into(*due[0])
        else:
            async with open_nursery() as nursery:
                for store, of_store in due:
                    nursery.start_soon(sync_into, store, of_store)
        return [lengths[chunk] for chunk in chunks]

    async def delete(self, chunk: ChunkId) -> None:
        """See `ChunkStore.delete`. In a directory that failed it stays: when that is back, the report tells of it."""
        try:
            store = self._in_service(chunk)
        except errors.ChunkNotFound:
            return
        await store.delete(chunk)

    async def cut(self, chunk: ChunkId, length: int) -> None:
        if length == 0:
            await self.delete(chunk)
        else:
            await self._in_service(chunk).cut(chunk, length)

    async def punch(self, chunk: ChunkId, ranges: Sequence[tuple[int, int]]) -> None:
        await self._in_service(chunk).punch(chunk, ranges)

    async def holding(self, chunk: ChunkId) -> Holding:
        """See `ChunkStore.holding`; nothing, of a chunk that is in no directory in service."""
        try:
            return await self._in_service(chunk).holding(chunk)
        except errors.ChunkNotFound:
            return Holding(0, 0, [])

    async def mend(self, chunk: ChunkId, record: Record, content: Buffer) -> None:
        await self._in_service(chunk).mend(chunk, record, content)

    async def set_aside(self, chunk: ChunkId, reason: str) -> None:
        """See `ChunkStore.set_aside`. In a directory that failed it stays."""
        with suppress(errors.ChunkNotFound):
            await self._in_service(chunk).set_aside(chunk, reason)

    # --- disks that fail while nobody looks

    async def look_after(self) -> None:
        """Flush and probe the directories, each in tasks of its own, until cancelled.

        Bytes that nobody syncs go to disk soon, and a disk is out of service though nobody writes when it is gone,
        became read-only, or hangs (that while `watched`). What could not be read for a while is read again.
        """
        async with open_nursery() as nursery:
            for store in self.stores:
                nursery.start_soon(_repeat, store, limits.FLUSH_AFTER_S / 5, store.flush_due)
                nursery.start_soon(_repeat, store, limits.DISK_PROBE_PERIOD_S, store.drive.probe)
                nursery.start_soon(_repeat, store, limits.DAMAGE_LOOK_PERIOD_S, store.look_at_damage)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Inside, a directory whose disk hangs is taken out of service: or who waits for it would wait for ever."""
        async with open_nursery() as nursery:
            scope = trio.CancelScope(shield=True)  # ends with what is inside, which may wait though it is cancelled
            nursery.start_soon(self._watch, scope)
            try:
                yield
            finally:
                scope.cancel()

    async def _watch(self, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                await trio.sleep(limits.DISK_WATCH_PERIOD_S)
                for store in self.stores:
                    store.drive.look_for_hang()

    # --- what the node reports

    def list_chunks(self, after: ChunkId, limit: int) -> list[tuple[ChunkId, int, bool]]:
        """Up to `limit` chunks above `after`, in order: id, length before the first damaged block, and whether it is
        settled (SETTLED_AFTER_S)."""
        merged = heapq.merge(*(_above(store, after) for store in self._usable()), key=lambda entry: entry[0])
        return list(islice(merged, limit))

    def length(self, chunk: ChunkId) -> int | None:
        """Bytes of the chunk, None if it is not here."""
        return next((store.chunks[chunk] for store in self._usable() if chunk in store.chunks), None)

    def chunks_up_to(self, chunk: ChunkId) -> int:
        """How many chunks with numbers up to this one are here."""
        return sum(store.chunks.bisect_right(chunk) for store in self._usable())

    def last_chunk(self) -> ChunkId:
        """The highest number of a chunk that is here; 0 if there is none."""
        return max((store.chunks.peekitem(-1)[0] for store in self._usable() if store.chunks), default=ChunkId(0))

    def take_corrupt(self) -> list[tuple[ChunkId, str]]:
        """See `ChunkStore.take_corrupt`."""
        return [entry for store in self.stores for entry in store.take_corrupt()]

    def take_damaged(self) -> list[tuple[ChunkId, str]]:
        """See `ChunkStore.take_damaged`."""
        return [entry for store in self.stores for entry in store.take_damaged()]

    def tell_damaged_again(self) -> None:
        """See `ChunkStore.tell_damaged_again`."""
        for store in self._usable():
            store.tell_damaged_again()

    def is_damaged(self, chunk: ChunkId) -> bool:
        """Whether a directory in service has the chunk, and any of its blocks is known to be damaged."""
        return any(store.is_damaged(chunk) for store in self._usable())

    def damaged_blocks(self, chunk: ChunkId) -> list[int]:
        """Where the damaged blocks of a chunk begin."""
        return [start for store in self._usable() for start in store.damaged_blocks(chunk)]

    def chunk_count(self) -> int:
        return sum(len(store.chunks) for store in self._usable())

    def used_bytes(self) -> int:
        """Of all chunks, without what was punched."""
        return sum(store.used_bytes for store in self._usable())

    def capacity_bytes(self) -> int:
        """What the directories hold at most, or the limit if that is less."""
        capacity = sum(max(store.drive.capacity_bytes() for store in group) for group in self._by_file_system())
        return min(capacity, self._limit_bytes) if self._limit_bytes else capacity

    def free_bytes(self) -> int:
        """What new data may take, reserves left out."""
        free = sum(min(store.drive.free_bytes() for store in group) for group in self._by_file_system())
        return min(free, max(0, self._limit_bytes - self.used_bytes())) if self._limit_bytes else free

    def _by_file_system(self) -> list[list[ChunkStore]]:
        groups: dict[int, list[ChunkStore]] = {}
        for store in self._usable():
            number = store.drive.file_system()
            if number is not None:
                groups.setdefault(number, []).append(store)
        return list(groups.values())

    def statistics(self) -> list[VolumeStatistics]:
        """A line a directory."""
        return [
            VolumeStatistics(
                name=store.disk.name,
                chunks=len(store.chunks),
                used_bytes=store.used_bytes,
                free_bytes=store.drive.free_bytes(),
                capacity_bytes=store.drive.capacity_bytes(),
                failed=store.drive.failed,
                full=store.drive.is_full(),
                damaged=store.damaged_count(),
            )
            for store in self.stores
        ]


async def _repeat(store: ChunkStore, period_s: float, work: Callable[[], Awaitable[None]]) -> None:
    """Until the directory is out of service."""
    while store.drive.failed is None:
        await trio.sleep(period_s)
        try:
            await work()
        except (errors.Busy, errors.NoSpace, errors.DiskFailed):
            pass  # short of means, and tried again; or `failed` says so, and the next report leaves its chunks out


def _above(store: ChunkStore, after: ChunkId) -> Iterator[tuple[ChunkId, int, bool]]:
    for chunk in store.chunks.irange(after, inclusive=(False, False)):
        yield chunk, store.intact_length(chunk) or 0, not store.changed_recently(chunk)


def _worth(store: ChunkStore, chunk: ChunkId) -> int:
    """How many bytes of a chunk can be read, at least."""
    length: int = store.chunks[chunk]
    return length - len(store.damaged_blocks(chunk)) * limits.BLOCK_MAX_BYTES
