"""Scrub: everything in the data directories is read and compared with what it should be, again and again.

One task a directory goes through its chunks by number. A pass takes `period_s`: each chunk takes, with the rest after
it, as much of the period as it has of all bytes, of neither those that were punched. All directories together read no
faster than the bandwidth allows, and wait a little, up to SCRUB_YIELD_MAX_S before each read, while users have calls in
work. `scrub_now` begins a pass without rests.

What a pass looks at: first the directory itself (identity.json and the other small files, names that should not be
there), then each chunk: that its files are where they belong, whole, as long as they should be, with the records that
were written, and every block that was not punched, read from the disk and not from the page cache. What is damaged goes
into the next heartbeat (`ChunkStore.verify` sees to that), and the NameNode has it mended or replaced. A small file
that is damaged is written anew; names of others are only told, never touched. What is wrong with one thing never
stops the sweep.

Progress is in DIR/scrub.json (see nodes.datanode.statefile), written every SCRUB_SAVE_PERIOD_S and at the end of a
pass:

    {"format": 1, "next": the first chunk not yet read, "started_ns": ..., "last_finished_ns": ..., "chunks": ...,
     "bytes": read in this pass, "found": damage in this pass, "again": how much of it the last whole pass had found,
     "findings": [sentence, ...],
     "last_found": damage in the last whole pass, "last_findings": [sentence, ...],
     "last_chunks", "last_bytes": what that pass read}

The next pass begins as one ends, so what the last whole one read and found is told until another is whole.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Final

import structlog
import trio

from dfs import errors, limits, tasks
from dfs.runtime import Runtime
from dfs.types import ChunkId
from nodes.datanode import chunkfiles, identity, obeyed, statefile
from nodes.datanode.bandwidth import TokenBucket
from nodes.datanode.disk import Disk
from nodes.datanode.journal import JOURNAL
from nodes.datanode.restraint import Restraint
from nodes.datanode.store import CLEAN, ChunkStore
from nodes.datanode.users import Users
from nodes.datanode.volumes import LOCK, NEW_DISK, Volumes

log = structlog.get_logger(__name__)

PATH: Final = "scrub.json"
_FORMAT: Final = 1
_CHUNK_DIRECTORY: Final = re.compile(r"[0-9a-f]{2}")
_CHUNK_FILE: Final = re.compile(r"([0-9a-f]{14}([0-9a-f]{2}))" + chunkfiles.SUFFIXES)
_STATE_FILES: Final = (identity.PATH, PATH, obeyed.PATH, CLEAN)
_OURS: Final = {
    *(chunkfiles.CHUNKS, chunkfiles.QUARANTINE, LOCK, NEW_DISK, JOURNAL, *_STATE_FILES),
    *(f"{name}.new" for name in (JOURNAL, *_STATE_FILES)),  # while it is being made
    "lost+found",  # the file system's
}
_YIELD_POLL_S: Final = 0.01


@dataclasses.dataclass
class _Pass:
    """How far the scrub of one directory is: the fields of DIR/scrub.json."""

    next: int = 0
    started_ns: int = 0
    last_finished_ns: int = 0
    chunks: int = 0
    bytes: int = 0
    found: int = 0
    again: int = 0
    findings: list[str] = dataclasses.field(default_factory=list)
    last_found: int = 0
    last_findings: list[str] = dataclasses.field(default_factory=list)
    last_chunks: int = 0
    last_bytes: int = 0

    def next_one(self, now_ns: int) -> _Pass:
        """A pass from the beginning."""
        return _Pass(
            1,
            now_ns,
            last_finished_ns=self.last_finished_ns,
            last_found=self.last_found,
            last_findings=self.last_findings,
            last_chunks=self.last_chunks,
            last_bytes=self.last_bytes,
        )

    def finish(self, now_ns: int) -> None:
        """The pass is whole."""
        self.next, self.last_finished_ns = 0, now_ns
        self.last_found, self.last_findings = self.found, self.findings
        self.last_chunks, self.last_bytes = self.chunks, self.bytes
        self.found, self.again, self.findings = 0, 0, []


class Scrub:
    """`run` as a task, or `run_once`."""

    def __init__(
        self,
        volumes: Volumes,
        restraint: Restraint,
        runtime: Runtime,
        users: Users,
        period_s: float,
        bandwidth_bytes_per_s: float,
    ) -> None:
        self._volumes = volumes
        self._restraint = restraint
        self._users = users
        self._runtime = runtime
        self._period_s = period_s
        self._bandwidth = TokenBucket(bandwidth_bytes_per_s)
        self._passes: dict[str, _Pass] = {}  # by the directory's name
        self._saved_at: dict[str, float] = {}
        self._wanted: dict[str, trio.Event] = {store.disk.name: trio.Event() for store in volumes.stores}

    # --- from outside

    def scrub_now(self) -> None:
        """Begin a pass of every directory from its first chunk, without rests. Answers at once."""
        for wanted in self._wanted.values():
            wanted.set()

    def status(self) -> dict[str, Any]:
        """How far this pass is, all directories together.

        {running (a pass without rests is wanted or under way), started_ns, chunks_done, chunks_total, bytes_done,
        bytes_total, found (damage, in the last whole pass or in this one), last_finished_ns (0: never, of some
        directory), last_chunks, last_bytes, last_found (of the last whole pass), findings (sentences about both),
        failed (a sentence for each directory out of service, which is not scrubbed, and left out of all before)}.
        """
        gone = [store for store in self._volumes.stores if store.drive.failed is not None]
        stores = [store for store in self._volumes.stores if store.drive.failed is None]
        passes = [self._passes.get(store.disk.name, _Pass()) for store in stores]
        done, read = sum(each.chunks for each in passes), sum(each.bytes for each in passes)
        findings = [finding for each in passes for finding in (*each.last_findings, *each.findings)]
        return {
            "running": any(self._wanted[store.disk.name].is_set() for store in stores),
            "started_ns": min((each.started_ns for each in passes), default=0),
            "chunks_done": done,
            "chunks_total": max(done, sum(len(store.chunks) for store in stores)),
            "bytes_done": read,
            "bytes_total": max(read, sum(store.used_bytes for store in stores)),
            "found": sum(each.last_found + each.found - each.again for each in passes),
            "last_finished_ns": min((each.last_finished_ns for each in passes), default=0),
            "last_chunks": sum(each.last_chunks for each in passes),
            "last_bytes": sum(each.last_bytes for each in passes),
            "last_found": sum(each.last_found for each in passes),
            "findings": list(dict.fromkeys(findings))[: limits.SCRUB_FINDINGS_MAX],
            "failed": [f"{each.disk.name} is out of service, and not scrubbed: {each.drive.failed}" for each in gone],
        }

    # --- going round

    async def run(self) -> None:
        """Scrub all directories, each in a task of its own, until cancelled."""
        async with tasks.open_nursery() as nursery:
            for store in self._volumes.stores:
                nursery.start_soon(self._run, store)

    async def run_once(self) -> None:
        """One whole pass of every directory, without rests."""
        self.scrub_now()
        for store in self._volumes.stores:
            if store.drive.failed is None:
                await self._pass(store, resume=False)

    async def _run(self, store: ChunkStore) -> None:
        self._passes[store.disk.name] = await self._load_progress(store)
        resume = True
        while store.drive.failed is None:
            if not self._period_s or not store.chunks:
                with trio.move_on_after(limits.SCRUB_IDLE_S if self._period_s else float("inf")):
                    await self._wanted[store.disk.name].wait()
            try:
                await self._pass(store, resume)
            except errors.DfsError as error:
                log.warning("scrub was interrupted, trying again", directory=store.disk.name, error=error.message)
                await trio.sleep(limits.SCRUB_IDLE_S)
            resume = False

    async def _pass(self, store: ChunkStore, resume: bool) -> None:
        """The rest of the pass that was under way, or a whole new one. A new one that is wanted takes its place.

        One in which the disk fails is not finished.
        """
        progress = self._passes.setdefault(store.disk.name, _Pass())
        wanted = self._wanted[store.disk.name]
        hurried = wanted.is_set()
        if hurried or not resume or not progress.next:
            progress = progress.next_one(self._runtime.now_ns())
            self._passes[store.disk.name] = progress
        await self._examine_directory(store, progress)
        while store.drive.failed is None:
            chunk = next(store.chunks.irange(progress.next), None)
            if chunk is None:
                await self._finish(store, progress, hurried)
                return
            began, size = trio.current_time(), store.used_bytes_of(chunk)
            await self._examine_chunk(store, chunk, progress)
            progress.next, progress.chunks, progress.bytes = chunk + 1, progress.chunks + 1, progress.bytes + size
            await self._save_progress(store, progress, every_s=limits.SCRUB_SAVE_PERIOD_S)
            if not hurried and await self._rest(store, began, size):
                return

    async def _finish(self, store: ChunkStore, progress: _Pass, hurried: bool) -> None:
        progress.finish(self._runtime.now_ns())
        await self._save_progress(store, progress, every_s=0)
        if hurried:
            self._wanted[store.disk.name] = trio.Event()
        log.info("scrub finished", directory=store.disk.name, chunks=progress.chunks, found=progress.last_found)

    async def _rest(self, store: ChunkStore, began: float, size: int) -> bool:
        """Wait until a chunk of `size` bytes has had its share of the period; whether a pass is wanted at once."""
        wanted = self._wanted[store.disk.name]
        with trio.move_on_at(began + self._period_s * size / max(1, store.used_bytes, size)):
            await wanted.wait()
        return wanted.is_set()

    async def _pace(self, count_bytes: int) -> None:
        with trio.move_on_after(limits.SCRUB_YIELD_MAX_S):
            while self._users.in_work:  # noqa: ASYNC110 - calls end too often for an event each
                await trio.sleep(_YIELD_POLL_S)
        await self._bandwidth.take(count_bytes)

    def _find(self, store: ChunkStore, progress: _Pass, what: str, is_damage: bool = True) -> None:
        log.error("scrub found damage" if is_damage else "scrub found a strange file", at=store.disk.name, what=what)
        finding = f"{store.disk.name}: {what}"
        progress.found += is_damage
        progress.again += is_damage and finding in progress.last_findings
        if len(progress.findings) < limits.SCRUB_FINDINGS_MAX:
            progress.findings.append(finding)

    # --- a chunk

    async def _examine_chunk(self, store: ChunkStore, chunk: ChunkId, progress: _Pass) -> None:
        try:
            restored = await store.verify(chunk, self._pace)
            if restored:
                self._find(store, progress, f"{restored} blocks of chunk {chunk:x} were wrongly called freed")
        except errors.Corrupt as error:
            self._find(store, progress, error.message)
        except errors.ChunkNotFound:
            pass  # deleted meanwhile
        except errors.DfsError as error:
            log.warning("a chunk could not be scrubbed", chunk=f"{chunk:x}", error=error.message)

    # --- the directory itself

    async def _examine_directory(self, store: ChunkStore, progress: _Pass) -> None:
        """A disk that fails at this leaves service; what else stands in the way must not stop the sweep."""
        try:
            await self._examine_names(store, progress)
            await self._examine_state_files(store, progress)
        except errors.DfsError as error:
            log.warning("a directory could not be scrubbed", directory=store.disk.name, error=error.message)

    async def _examine_names(self, store: ChunkStore, progress: _Pass) -> None:
        """One directory at a time: there may be a million chunks."""
        strange, directories = await store.drive.on_disk(_top_names, store.disk)
        for directory in directories:
            names, chunks = await store.drive.on_disk(_names_of_chunks, store.disk, directory)
            unknown = [path for path, chunk in chunks if not store.is_known(chunk)]
            strange += names
            strange += [path for path in unknown if await store.drive.on_disk(store.disk.exists, path)]
        for path in strange:
            self._find(store, progress, f"{path} is none of ours, and was let alone", is_damage=False)

    async def _examine_state_files(self, store: ChunkStore, progress: _Pass) -> None:
        if await store.drive.on_disk(self._volumes.mend_identity, store):
            self._find(store, progress, f"{identity.PATH} was damaged, and is written anew")
        if await self._is_memory_damaged(store):
            self._find(store, progress, f"{obeyed.PATH} was damaged, and is written anew")
            self._restraint.note_damaged()
        if await store.drive.on_disk(_is_damaged, store.disk, PATH):
            self._find(store, progress, f"{PATH} was damaged, and is written anew")
            await self._save_progress(store, progress, every_s=0)

    async def _is_memory_damaged(self, store: ChunkStore) -> bool:
        """A record that is just being written is not whole either: so what looks damaged is looked at once more."""
        if not await store.drive.on_disk(obeyed.is_damaged, store.disk):
            return False
        async with self._restraint.writing:
            return await store.drive.on_disk(obeyed.is_damaged, store.disk)

    # --- progress

    async def _load_progress(self, store: ChunkStore) -> _Pass:
        """Where the pass stopped; from the beginning if that cannot be known."""
        try:
            found = await store.drive.run_blocking(statefile.read, store.disk, PATH, _FORMAT)
        except OSError as error:
            log.warning("scrub begins anew", directory=store.disk.name, error=str(error))
            return _Pass()
        fields = {field.name for field in dataclasses.fields(_Pass)}
        return _Pass(**{key: value for key, value in (found or {}).items() if key in fields})

    async def _save_progress(self, store: ChunkStore, progress: _Pass, every_s: float) -> None:
        """Write it down, unless that was done less than `every_s` ago. A directory without room does without."""
        now = trio.current_time()
        if now < self._saved_at.get(store.disk.name, float("-inf")) + every_s:
            return
        self._saved_at[store.disk.name] = now
        values = dataclasses.asdict(progress)
        try:
            await store.drive.run_blocking(statefile.write, store.disk, PATH, _FORMAT, values)
        except OSError as error:
            log.warning("progress of the scrub was not written down", directory=store.disk.name, error=str(error))


def _top_names(disk: Disk) -> tuple[list[str], list[str]]:
    """Paths that should not be there, and the names of directories of chunks' files. Blocks."""
    strange = [name for name in disk.list_dir("") if name not in _OURS]
    directories = []
    for name in disk.list_dir(chunkfiles.CHUNKS):
        if _CHUNK_DIRECTORY.fullmatch(name):
            directories.append(name)
        else:
            strange.append(f"{chunkfiles.CHUNKS}/{name}")
    return strange, directories


def _names_of_chunks(disk: Disk, directory: str) -> tuple[list[str], list[tuple[str, ChunkId]]]:
    """Paths in a directory of chunks' files that should not be there, and those files with their chunks. Blocks."""
    strange, chunks = [], []
    path = f"{chunkfiles.CHUNKS}/{directory}"
    for name in _names_in(disk, path):
        match = _CHUNK_FILE.fullmatch(name)
        if match and match[2] == directory:
            chunks.append((f"{path}/{name}", ChunkId(int(match[1], 16))))
        else:
            strange.append(f"{path}/{name}".rstrip("/"))
    return strange, chunks


def _names_in(disk: Disk, path: str) -> list[str]:
    try:
        return disk.list_dir(path)
    except NotADirectoryError:
        return [""]


def _is_damaged(disk: Disk, path: str) -> bool:
    """Whether one of the small files is there and not whole. Blocks."""
    try:
        statefile.parse(disk.read_file(path), path)
    except FileNotFoundError:
        return False
    except errors.Corrupt:
        return True
    return False
