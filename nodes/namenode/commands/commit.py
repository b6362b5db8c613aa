"""Make appended bytes part of a file."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterator
from typing import Any

from dfs import errors, limits
from dfs.posix import without_set_id
from dfs.types import Attr, ChunkId, Extent
from nodes.namenode import arguments
from nodes.namenode.schema import ATTR_COLUMNS
from nodes.namenode.transaction import Freed, Transaction


def apply(
    tx: Transaction, ino: Any, extents: Any, chunks: Any, append: Any = False, mtime_ns: Any = None, fresh: Any = False
) -> tuple[Attr, int]:
    """Point `extents` of the file at bytes of `chunks`; the attributes after it, and where offset 0 was.

    `chunks` are [chunk, length, [node, ...]]: these nodes have that many bytes. Replicas on other nodes are dropped.
    With `append`, offsets count from the end of file as it is now. Raises `ChunkSealed` for a chunk that this
    session has not open, `NotEnoughNodes` if fewer nodes than `min_replicas` have a chunk's bytes; with `fresh`,
    `Overwrites` if the file holds bytes already where the extents are.
    """
    attr = tx.attr(arguments.ino(ino))
    if not stat.S_ISREG(attr.mode):
        raise errors.InvalidArgument("not a regular file")
    lengths = {}
    for item in arguments.array(chunks, "the chunks of a commit", limits.EXTENTS_MAX):
        chunk, length, names = _triple(item)
        lengths[chunk] = _grow(tx, chunk, length, names)
    base = attr.size if append else 0
    wires = arguments.array(extents, "the extents of a commit", limits.EXTENTS_MAX)
    size, allocated = _point(tx, attr, [_extent(wire, base, lengths) for wire in wires], fresh=bool(fresh))
    mtime = tx.now_ns if mtime_ns is None else arguments.time_ns(mtime_ns)
    ctime = tx.now_ns if mtime_ns is None else max(attr.ctime_ns, mtime)  # as who wrote the bytes has shown it since
    row = tx.one(
        "UPDATE inode SET mode = ?, size = ?, allocated = allocated + ?, mtime_ns = ?, ctime_ns = ?,"
        f" version = version + 1 WHERE ino = ? RETURNING {ATTR_COLUMNS}",
        *(without_set_id(attr.mode), size, allocated, mtime, ctime, attr.ino),
    )
    assert row is not None
    tx.drop_capability(attr.ino)
    return Attr._make(row), base


def _point(tx: Transaction, attr: Attr, extents: list[Extent], *, fresh: bool) -> tuple[int, int]:
    """Make these the file's; its size then, and how much more it takes. A fsync after random writes has thousands."""
    size, allocated = attr.size, 0
    live: Counter[ChunkId] = Counter()
    for run in _runs(extents):
        _refuse_shared(tx, run)
        freed: list[Freed] = []
        for extent in run:
            end = extent.end
            if extent.offset < size:
                freed += tx.make_hole(attr.ino, extent.offset, end)
            tx.point(attr.ino, extent)
            size = max(size, end)
            allocated += extent.length
            live[extent.chunk] += extent.length
        if freed and fresh:
            raise errors.Overwrites("the file holds bytes where others are to be put that may be in memory only")
        if freed:
            tx.give_back(freed)  # before it is looked what the next ones share
            allocated -= sum(part.length for part in freed)
    for chunk, length in live.items():
        tx.add_live(chunk, length)
    return size, allocated


def _runs(extents: list[Extent]) -> Iterator[list[Extent]]:
    """The extents in order, those together that are neighbours in their chunk."""
    run: list[Extent] = []
    for extent in extents:
        if run and not (run[-1].chunk == extent.chunk and run[-1].chunk_offset + run[-1].length == extent.chunk_offset):
            yield run
            run = []
        run.append(extent)
    if run:
        yield run


def _triple(item: Any) -> tuple[ChunkId, int, list[Any]]:
    fields = arguments.array(item, "a chunk of a commit", 3)
    if len(fields) != 3:
        raise errors.InvalidArgument("a chunk of a commit is [chunk, length, [node, ...]]")
    length = arguments.integer(fields[1], "a chunk's length", 0, limits.CHUNK_MAX_BYTES)
    return arguments.chunk(fields[0]), length, arguments.array(fields[2], "the nodes of a chunk", limits.REPLICAS_MAX)


def _grow(tx: Transaction, chunk: ChunkId, length: int, names: list[Any]) -> int:
    """Note a chunk's new length and who has it; the length that is committed."""
    row = tx.one("SELECT session, length, replicas FROM chunk WHERE chunk = ?", chunk)
    if row is None or row[0] != tx.session or not tx.session:
        raise errors.ChunkSealed(f"chunk {chunk:x} is not open in this session: its bytes must be written again")
    committed: int = max(length, row[1])
    if length > row[1]:
        tx.run("UPDATE chunk SET length = ? WHERE chunk = ?", length, chunk)
    ids: dict[int, str] = dict(tx.all(_HOLDERS, chunk))
    missing = [node for node, name in ids.items() if name not in names]
    if len(ids) - len(missing) < min(tx.min_replicas, row[2]):
        raise errors.NotEnoughNodes(f"chunk {chunk:x} is on {len(ids) - len(missing)} DataNodes, too few to count")
    if missing:
        tx.drop_replicas(chunk, missing, tx.clock_ns)
    return committed


_HOLDERS = "SELECT n.id, n.name FROM replica r JOIN node n ON n.id = r.node WHERE r.chunk = ?"


def _extent(wire: Any, base: int, lengths: dict[ChunkId, int]) -> Extent:
    fields = arguments.array(wire, "an extent", 4)
    if len(fields) != 4:
        raise errors.InvalidArgument("an extent is [offset, length, chunk, offset in chunk]")
    offset = arguments.integer(fields[0], "an extent's offset") + base
    length = arguments.integer(fields[1], "an extent's length", 1, limits.CHUNK_MAX_BYTES)
    chunk = arguments.chunk(fields[2])
    chunk_offset = arguments.integer(fields[3], "an offset in a chunk")
    arguments.size(offset + length)
    if chunk_offset + length > lengths.get(chunk, 0):
        raise errors.InvalidArgument(f"an extent points beyond what chunk {chunk:x} is said to have")
    return Extent(offset, length, chunk, chunk_offset)


def _refuse_shared(tx: Transaction, run: list[Extent]) -> None:
    """No two extents share bytes, nor may one point at bytes that were freed and may be punched."""
    chunk, start = run[0].chunk, run[0].chunk_offset
    end = run[-1].chunk_offset + run[-1].length
    for table in ("extent", "trim"):
        column = "chunk_offset" if table == "extent" else "offset"
        row = tx.one(
            f"SELECT {column}, length FROM {table} WHERE chunk = ? AND {column} < ? ORDER BY {column} DESC LIMIT 1",
            *(chunk, end),
        )
        if row and row[0] + row[1] > start:
            raise errors.InvalidArgument(f"bytes of chunk {chunk:x} were committed before")
