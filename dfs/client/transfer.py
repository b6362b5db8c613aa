"""Whole files in and out of the cluster, in constant memory, with reading and writing overlapped.

An upload goes into a file without a name, and gets its name in one command at the end: until then nobody
sees it, and if the client dies the NameNode clears it away with the session. A download keeps a window of reads
under way and hands their bytes on in order.
"""

from __future__ import annotations

import stat
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import trio

from dfs import errors, limits, tasks
from dfs.client.filewriter import FileWriter
from dfs.client.inodes import Inodes, Layout
from dfs.client.paths import Place
from dfs.client.reader import Reader
from dfs.posix import time_ns, without_set_id
from dfs.types import Attr, Extent, Ino

_WINDOW = 6  # reads of READ_MAX_BYTES under way in one download

Progress = Callable[[int], None]
"""Called with the number of bytes that have just been moved."""


class Source(Protocol):
    """Where an upload's bytes come from."""

    async def readinto(self, view: memoryview) -> int:
        """Fill part of `view`; how much, 0 at the end."""
        ...


@runtime_checkable
class SparseSource(Protocol):
    """A source that knows its holes, and is read by them."""

    async def read_pieces(self, view: memoryview) -> Sequence[tuple[int, int]]:
        """Fill `view` with what is next, one piece after the other: how long the hole before each is, and the piece.

        Behind a hole at the end there is a piece of 0 bytes. Nothing: it was the end.
        """
        ...


class Sink(Protocol):
    """Where a download's bytes go, in order.

    `leaves_holes`: it is told to `skip` the short ones as well, which are zeros among the bytes for others.
    """

    leaves_holes: bool

    async def write(self, view: memoryview) -> None:
        """Take all of `view`, which is valid until this returns."""
        ...

    async def skip(self, length: int) -> None:
        """The next `length` bytes are a hole: leave them out, or write zeros."""
        ...


# --- up -------------------------------------------------------------------------------------------------


async def _read_full(source: Source, buffer: memoryview) -> int:
    filled = 0
    while filled < len(buffer):
        count = await source.readinto(buffer[filled:])
        if count == 0:
            break
        filled += count
    return filled


async def pour(source: Source | SparseSource, writer: FileWriter, progress: Progress | None = None) -> int:
    """Write all of `source` at the file's beginning; the next bytes are read while some are written. Its length.

    Holes are left out, also at the end: the file may be shorter then.
    """
    free: list[memoryview] = []

    def is_written(buffer: memoryview, length: int) -> None:
        free.append(buffer)
        if progress:
            progress(length)

    offset, is_at_end = 0, False
    async with writer.window(writer.commit) as window:
        while not is_at_end:
            await window.room()
            size = writer.append_bytes
            buffer = free.pop() if free else memoryview(b"")
            if len(buffer) < size:  # there is none, or appends have become larger
                buffer = memoryview(bytearray(size))
            if isinstance(source, SparseSource):
                found = await source.read_pieces(buffer[:size])
                is_at_end = not found
            else:
                found = [(0, await _read_full(source, buffer[:size]))]
                is_at_end = found[0][1] < size
            pieces: list[tuple[int, memoryview]] = []
            filled = 0
            for gap, length in found:
                if gap and progress:
                    progress(gap)
                if length:
                    pieces.append((offset + gap, buffer[filled : filled + length]))
                offset, filled = offset + gap + length, filled + length
            if pieces:
                window.write(pieces, partial(is_written, buffer, filled))
            else:
                free.append(buffer)
    return offset


class Upload(NamedTuple):
    """What the uploaded file is to be like."""

    mode: int
    uid: int
    gid: int
    times_ns: tuple[int, int] | None
    """Access and modification time; None: now."""
    replace: bool
    """Take the place of a file of that name; otherwise `Exists` is raised."""
    sync: bool
    """Return when durable on the replicas; otherwise when committed."""


async def upload(
    inodes: Inodes,
    writer_for: Callable[[Attr], FileWriter],
    source: Source | SparseSource,
    place: Place,
    wanted: Upload,
    progress: Progress | None,
) -> Attr:
    """Move `source` into a new file at `place`. Nothing is left behind if it fails."""
    attr = await inodes.create_unnamed(place.parent, wanted.mode, wanted.uid, wanted.gid)
    writer = writer_for(attr)
    try:
        length = await pour(source, writer, progress)
        written = await (writer.flush() if wanted.sync else writer.commit())
        if length > (written.size if written else 0):
            await inodes.truncate(attr.ino, length)
        changes = {}
        if without_set_id(wanted.mode) != wanted.mode:
            changes["mode"] = wanted.mode  # writing has taken it away
        if wanted.times_ns:
            changes["atime_ns"], changes["mtime_ns"] = map(time_ns, wanted.times_ns)
        if changes:
            await inodes.setattr(attr.ino, changes)
        return await inodes.link(attr.ino, place.parent, place.name, replace=wanted.replace)
    finally:
        with trio.move_on_after(limits.CALL_TIMEOUT_S, shield=True):
            await _let_go(inodes, writer)


async def _let_go(inodes: Inodes, writer: FileWriter) -> None:
    try:
        await writer.discard()
        await inodes.release(writer.ino)
    except errors.DfsError:
        pass  # the NameNode does the same when the session ends


# --- down -----------------------------------------------------------------------------------------------


class _Segment(NamedTuple):
    """What follows a hole of `gap` bytes: `length` bytes of the file, at most READ_MAX_BYTES, to fetch with `layout`.

    `parts` are what of these is in no hole, [first, last) of the file. A hole at the end has nothing behind it.
    """

    gap: int
    offset: int
    length: int
    layout: Layout | None
    parts: Sequence[tuple[int, int]]


async def _segments(reader: Reader, ino: Ino, size: int) -> AsyncIterator[_Segment]:
    position = 0
    async for layout in reader.inodes.layouts(ino, size, limits.LAYOUT_BYTES):
        size = min(size, layout.attr.size)
        end = min(layout.end, size)
        for parts in stretches(layout.extents, position, end):
            first, last = parts[0][0], parts[-1][1]
            yield _Segment(first - position, first, last - first, layout, parts)
            position = last
        if position < end:
            yield _Segment(end - position, end, 0, None, ())
            position = end


def stretches(extents: Iterable[Extent], start: int, end: int) -> Iterator[list[tuple[int, int]]]:
    """What `extents` hold of the file's [start, end), in order: the [first, last) of what is to be read at a time.

    That is a part of a long extent, or short ones that follow one another or have holes between them.
    """
    parts: list[tuple[int, int]] = []
    for extent in extents:
        begin, stop = max(extent.offset, start), min(extent.end, end)
        if begin >= stop:
            continue
        is_short = stop - begin <= limits.BLOCK_MAX_BYTES
        if parts and (not is_short or stop - parts[0][0] > limits.READ_MAX_BYTES):
            yield parts
            parts = []
        while stop - begin > limits.READ_MAX_BYTES:
            yield [(begin, begin + limits.READ_MAX_BYTES)]
            begin += limits.READ_MAX_BYTES
        if parts and parts[-1][1] == begin:
            parts[-1] = parts[-1][0], stop
        else:
            parts.append((begin, stop))
        if not is_short:
            yield parts
            parts = []
    if parts:
        yield parts


class _Fetch:
    """One segment under way. `done` is set when `view` has its bytes, fewer where the file became shorter, or `error`
    says why not.

    `buffer` is where they are, if it is one of those that are used again and again.
    """

    def __init__(self, segment: _Segment, free: list[bytearray]) -> None:
        self.segment = segment
        self.view = memoryview(b"")
        self.buffer: bytearray | None = None
        self.error: errors.DfsError | None = None
        self.done = trio.Event()
        self._free = free

    async def run(self, reader: Reader, ino: Ino) -> None:
        try:
            if self.segment.layout is not None:
                self.view = await self._read(reader, ino, self.segment.layout)
        except errors.DfsError as error:
            self.error = error
        self.done.set()

    async def _read(self, reader: Reader, ino: Ino, layout: Layout) -> memoryview:
        segment = self.segment
        whole = await reader.read_whole(layout, segment.offset, segment.length)
        if whole is not None:
            return whole
        self.buffer = self._free.pop() if self._free else bytearray(limits.READ_MAX_BYTES)
        view = memoryview(self.buffer)[: segment.length]
        return view[: (await reader.fill(ino, layout, segment.offset, view)).length]


async def _hand_on(segment: _Segment, view: memoryview, sink: Sink) -> None:
    """`view` has the segment's bytes, fewer where the file became shorter."""
    position = -segment.gap
    for first, last in segment.parts if sink.leaves_holes else ((segment.offset, segment.offset + segment.length),):
        start, end = first - segment.offset, min(last - segment.offset, len(view))
        if start >= end:
            break
        if position < start:
            await sink.skip(start - position)
        await sink.write(view[start:end])
        position = end
    if position < 0:
        await sink.skip(-position)


async def download(reader: Reader, attr: Attr, sink: Sink, progress: Progress | None) -> int:
    """Hand the file's bytes to `sink`, as many as `attr.size`; how many there were (fewer if it shrank)."""
    if not stat.S_ISREG(attr.mode):
        raise errors.InvalidArgument("only regular files have bytes to download")
    free: list[bytearray] = []
    window: deque[_Fetch] = deque()
    moved = 0

    async def finish(fetch: _Fetch) -> int:
        await fetch.done.wait()
        if fetch.error is not None:
            raise fetch.error
        await _hand_on(fetch.segment, fetch.view, sink)
        if fetch.buffer is not None:
            free.append(fetch.buffer)
        length = fetch.segment.gap + len(fetch.view)
        if progress:
            progress(length)
        return length

    async with tasks.open_nursery() as nursery:
        async for segment in _segments(reader, attr.ino, attr.size):
            if len(window) >= _WINDOW:
                moved += await finish(window.popleft())
            fetch = _Fetch(segment, free)
            window.append(fetch)
            nursery.start_soon(fetch.run, reader, attr.ino)
        while window:
            moved += await finish(window.popleft())
    return moved
