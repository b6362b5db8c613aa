"""Small files that are read one after another: what the next ones hold is fetched before they are asked for.

Whoever reads a tree (cp, tar, git, grep, a compiler) reads its files in the order of their directories. Each costs a
question to the NameNode and a read at a DataNode, and nearly nothing of that is for its bytes. So after FOLLOWED_AFTER
files that stand near one another in a directory, one question tells where the next FOLLOWED_FIRST are, and later more
each time; whoever goes on in another directory is known already. Small files that were written together are neighbours
in a chunk, so a few reads get them all. Others are asked for when half of them are read.

What is fetched is offered to the kernel (`give`), which then has no need to ask for it. So its reader is seen opening
such files, and reading the others.

It needs no lease: what is kept is what a file held in one **version**, and it is handed out for this version only. That
the version is the newest is for those to know who ask (`OpenInode.read`). Chunks do not change where files are in them,
and a read that fails, as of a file that was removed meanwhile, only means that nothing was fetched ahead.

Invariants: `_kept_bytes` is the sum of `size_bytes` of `_batches`, at most SMALL_FILES_KEPT_BYTES besides the latest;
each of `_contents` is of one of `_batches`, which has it in `kept`; what is not `done` is being fetched by a task,
which sets it at the latest when it ends. Whoever has waited for one drops that one only: there may be another of the
same file by then.
"""

from __future__ import annotations

import math
import stat
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import structlog
import trio

from dfs import errors, limits, tasks
from dfs.checksum import Buffer
from dfs.client.cache import Cache
from dfs.client.inodes import Inodes, WholeFile
from dfs.client.reader import Piece, Reader
from dfs.types import Attr, ChunkId, ChunkPlace, Ino

log = structlog.get_logger(__name__)

_GIVEN_AT_ONCE: Final = 16
"""Files, of some ten microseconds each."""


class _Batch:
    """Files that are fetched together.

    `kept` are those of `files` whose bytes are kept here; `unread` those of which nobody has read the end yet, nor
    opened them if the kernel was given them.
    """

    __slots__ = ("files", "kept", "size_bytes", "unread")

    def __init__(self, files: Iterable[Attr]) -> None:
        sizes = {attr.ino: attr.size for attr in files}
        self.files = frozenset(sizes)
        self.size_bytes = sum(sizes.values())
        self.kept = set(sizes)
        self.unread = set(sizes)

    @property
    def is_half_read(self) -> bool:
        return 2 * len(self.unread) <= len(self.files)


class _Content:
    """What a file holds in `version`; `view` is None if that could not be had."""

    __slots__ = ("batch", "done", "version", "view")

    def __init__(self, batch: _Batch, version: int) -> None:
        self.batch = batch
        self.version = version
        self.view: memoryview | None = None
        self.done = trio.Event()


class _Walk:
    """Somebody who reads files of one directory. `cookie` is where he is, `reach` how far was fetched for him."""

    __slots__ = ("ahead", "batches", "cookie", "reach", "steps")

    def __init__(self, cookie: int, steps: int) -> None:
        self.cookie = cookie
        self.reach = cookie
        self.steps = steps
        """Files that he has read, each near the one before; what he read elsewhere counts as well."""
        self.ahead = limits.FOLLOWED_FIRST
        """Files that the next batch may have."""
        self.batches: deque[_Batch] = deque(maxlen=2)
        """The latest, last."""

    def has_fetched(self, ino: Ino) -> bool:
        """Whether a file was fetched for whoever reads here, of late."""
        return any(ino in batch.files for batch in self.batches)

    def take(self, ino: Ino) -> bool:
        """Somebody opens a file: whether it was fetched for whoever reads here, and not opened since."""
        for batch in self.batches:
            if ino in batch.unread:
                batch.unread.remove(ino)
                return True
        return False

    def begin_anew(self) -> None:
        """He is somewhere else."""
        self.steps, self.ahead = 1, limits.FOLLOWED_FIRST
        self.batches.clear()


class _Run(NamedTuple):
    """Neighbours in a chunk, in their order there."""

    chunk: ChunkId
    files: list[WholeFile]

    @property
    def start(self) -> int:
        return self.files[0].chunk_offset

    @property
    def length(self) -> int:
        return self.files[-1].chunk_offset + self.files[-1].length - self.start

    def is_continued_by(self, file: WholeFile) -> bool:
        is_next = self.chunk == file.chunk and self.start + self.length == file.chunk_offset
        return is_next and self.length + file.length <= limits.READ_MAX_BYTES


class SmallFiles:
    """Of one client. `start` runs a task that lasts as long as the client.

    `give` is called with the attributes of a file and all that it holds; whether the kernel has that now.
    """

    def __init__(
        self,
        cache: Cache,
        inodes: Inodes,
        reader: Reader,
        start: Callable[..., Any],
        give: Callable[[Attr, Buffer], bool],
    ) -> None:
        self._cache = cache
        self._inodes = inodes
        self._reader = reader
        self._start = start
        self._give = give
        self._walks: OrderedDict[Ino, _Walk] = OrderedDict()
        """By directory, the latest last."""
        self._contents: dict[Ino, _Content] = {}
        self._batches: dict[_Batch, None] = {}
        """In the order in which they were asked for."""
        self._kept_bytes = 0
        self._not_before = self._stepped_at = -math.inf
        self._stepped_in = Ino(0)
        self._fetched = self._used = self._given = 0

    def opened(self, ino: Ino) -> None:
        """A file is opened to be read: if the kernel was given it, this is all that is seen of its reader."""
        place = self._cache.place(ino)
        walk = self._walks.get(place[0]) if place is not None else None
        if walk is not None and ino not in self._contents and walk.take(ino):
            self._used += 1
            self._follow(ino)

    async def read(self, attr: Attr, offset: int, count: int) -> memoryview | None:
        """Bytes of a small file as it is in this version; None where the caller has to fetch them.

        They end before the end of file only if `count` says so.
        """
        self._follow(attr.ino)
        content = self._contents.get(attr.ino)
        if content is None:
            return None
        await content.done.wait()  # bounded: reads give up by their own deadlines
        if content.version != attr.version or content.view is None:
            self._drop(attr.ino, content)
            return None
        if offset + count >= attr.size:
            self._used += 1
            self._drop(attr.ino, content)  # the kernel has it now
        return content.view[offset : offset + count]

    # --- who reads what -----------------------------------------------------------------------------------

    def _follow(self, ino: Ino) -> None:
        """A small file is read: fetch what its reader is likely to read next, if he is seen to go on in order.

        What was fetched, and is asked for as the kernel has dropped it, is not fetched again: it might drop it again.
        """
        place = self._cache.place(ino)
        if place is None:
            return
        directory, cookie = place
        walk = self._walks.get(directory)
        if walk is None:
            walk = self._walks[directory] = _Walk(cookie, limits.FOLLOWED_AFTER if self._goes_on(directory) else 1)
            if len(self._walks) > limits.FOLLOWED_WALKS_MAX:
                self._walks.popitem(last=False)
        self._walks.move_to_end(directory)
        gap = cookie - walk.cookie
        if 0 < gap <= limits.FOLLOWED_GAP_MAX:
            walk.steps += 1
            self._stepped_at, self._stepped_in = trio.current_time(), directory
        elif gap:
            walk.begin_anew()
        walk.cookie = cookie
        if walk.steps < limits.FOLLOWED_AFTER or trio.current_time() < self._not_before:
            return
        if ino not in self._contents and not walk.has_fetched(ino):
            walk.reach = cookie - 1
        elif not walk.batches or not walk.batches[-1].is_half_read:
            return
        self._fetch_for(walk, directory)

    def _goes_on(self, directory: Ino) -> bool:
        """Whether somebody has just read files in order in the directory above, or in one beside."""
        if trio.current_time() > self._stepped_at + limits.FOLLOWED_ON_S:
            return False
        here, there = self._cache.place(directory), self._cache.place(self._stepped_in)
        return here is not None and here[0] in (self._stepped_in, there[0] if there is not None else None)

    def _fetch_for(self, walk: _Walk, directory: Ino) -> None:
        files: list[Attr] = []
        size_bytes = 0
        for cookie, attr in self._cache.following(directory, walk.reach, 2 * walk.ahead):
            size_bytes += attr.size if _is_small(attr) else 0
            if len(files) >= walk.ahead or size_bytes > limits.READ_MAX_BYTES:
                break
            walk.reach = cookie
            if _is_small(attr) and attr.ino not in self._contents:
                files.append(attr)
        if not files:
            return
        walk.ahead = min(2 * walk.ahead, limits.WHOLE_FILES_MAX)
        contents = self._add(files)
        walk.batches.append(contents[files[0].ino].batch)
        self._start(tasks.in_advance, self._fetch, contents)

    # --- what is kept -------------------------------------------------------------------------------------

    def _add(self, files: Sequence[Attr]) -> dict[Ino, _Content]:
        """A new batch: what is to be fetched."""
        batch = _Batch(files)
        self._batches[batch] = None
        self._kept_bytes += batch.size_bytes
        contents = {attr.ino: _Content(batch, attr.version) for attr in files}
        self._contents |= contents
        while self._kept_bytes > limits.SMALL_FILES_KEPT_BYTES and len(self._batches) > 1:
            for ino in list(next(iter(self._batches)).kept):
                self._drop(ino, self._contents[ino])
        return contents

    def _drop(self, ino: Ino, content: _Content, *, is_given: bool = False) -> None:
        """Keep this no longer; others may have dropped it already, and fetch the file anew.

        `is_given`: the kernel has it, but nobody has read it yet.
        """
        if self._contents.get(ino) is not content:
            return
        del self._contents[ino]
        batch = content.batch
        batch.kept.remove(ino)
        if not is_given:
            batch.unread.discard(ino)
        if not batch.kept:
            del self._batches[batch]
            self._kept_bytes -= batch.size_bytes

    # --- fetching -----------------------------------------------------------------------------------------

    async def _fetch(self, contents: dict[Ino, _Content]) -> None:
        """Fill the contents of a batch, as far as that can be done; none is waited for when this returns."""
        try:
            wholes, places = await self._inodes.whole_files(list(contents))
            wanted = [file for file in wholes if file.version == contents[file.ino].version]
            async with tasks.open_nursery() as nursery:
                for run in _runs(wanted):
                    nursery.start_soon(self._fetch_run, run, places, contents)
        except errors.DfsError as error:
            log.info("files are not fetched ahead for a while", count=len(contents), error=str(error))
            self._not_before = trio.current_time() + limits.FOLLOWED_AGAIN_AFTER_S
        finally:
            for ino, content in contents.items():
                if not content.done.is_set():
                    self._drop(ino, content)
                    content.done.set()

    async def _fetch_run(self, run: _Run, places: dict[ChunkId, ChunkPlace], contents: dict[Ino, _Content]) -> None:
        place = places.get(run.chunk)
        if place is None:
            return
        view = memoryview(bytearray(run.length))
        try:
            await self._reader.read_piece(place.nodes, Piece(0, run.length, run.chunk, run.start), view, place.grant)
        except (errors.DataLost, errors.GrantExpired) as error:
            log.info("files are not fetched ahead", count=len(run.files), error=str(error))
            return
        self._fetched += len(run.files)
        for number, file in enumerate(run.files, 1):
            start = file.chunk_offset - run.start
            content = contents[file.ino]
            content.view = view[start : start + file.length].toreadonly()
            content.done.set()
            attr = self._inodes.cached_attr(file.ino)
            is_kept = self._contents.get(file.ino) is content
            if is_kept and attr is not None and attr.version == content.version and self._give(attr, content.view):
                self._given += 1
                self._drop(file.ino, content, is_given=True)
            if not number % _GIVEN_AT_ONCE:
                await trio.lowlevel.checkpoint()

    def statistics(self) -> dict[str, int]:
        return {
            "fetched": self._fetched,
            "used": self._used,
            "given": self._given,
            "kept_bytes": self._kept_bytes,
        }


def _is_small(attr: Attr) -> bool:
    return stat.S_ISREG(attr.mode) and 0 < attr.size <= limits.SMALL_FILE_MAX_BYTES


def _runs(files: Sequence[WholeFile]) -> Iterator[_Run]:
    """The files by chunk, those together that are neighbours there, as far as one read goes."""
    run: _Run | None = None
    for file in sorted(files, key=lambda each: (each.chunk, each.chunk_offset)):
        if run is not None and run.is_continued_by(file):
            run.files.append(file)
            continue
        if run is not None:
            yield run
        run = _Run(file.chunk, [file])
    if run is not None:
        yield run
