"""What the NameNode can be asked: reads of what is committed, microseconds each, without a cache of their own."""

from __future__ import annotations

import itertools
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any, Final

from dfs import errors, limits
from dfs.types import ROOT_INO, Attr, ChunkId, Ino, Item, SessionId
from nodes.namenode import arguments
from nodes.namenode.commands import skip_chunks
from nodes.namenode.reconcile import Believed
from nodes.namenode.schema import ATTR_COLUMNS, ENTRY_COLUMNS
from nodes.namenode.store import Store

_LOOKUP: Final = f"SELECT {ENTRY_COLUMNS} FROM dentry d JOIN inode i ON i.ino = d.ino WHERE d.parent = ? AND d.name = ?"
_WALK_MAX: Final = 2048
"""Names in one walk: as many as fit in the longest path."""
_SUMMARY_SLICE: Final = 2000
_CHUNKS_SLICE: Final = 1024
_PLACES: Final = (
    "SELECT c.chunk, c.length, c.session, n.name FROM chunk c LEFT JOIN replica r ON r.chunk = c.chunk"
    " LEFT JOIN node n ON n.id = r.node"
)


class Queries:
    """All by the store's reading connection."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._execute = store.reads.execute

    # --- the namespace ----------------------------------------------------------------------------------

    def root(self) -> Ino:
        """Where the paths of who asks begin."""
        return ROOT_INO

    def lookup(self, parent: Any, name: Any) -> Attr:
        """Raises `NotFound`, `NotADirectory`."""
        row = self._execute(_LOOKUP, (arguments.ino(parent), arguments.name(name))).fetchone()
        if row is None:
            self._directory(parent)
            raise errors.NotFound("no such file or directory")
        return Attr._make(row)

    def getattr(self, ino: Any) -> Attr:
        row = self._execute(f"SELECT {ATTR_COLUMNS} FROM inode WHERE ino = ?", (arguments.ino(ino),)).fetchone()
        if row is None:
            raise errors.NotFound(f"inode {ino} is gone")
        return Attr._make(row)

    def _directory(self, ino: Any) -> Attr:
        attr = self.getattr(ino)
        if not stat.S_ISDIR(attr.mode):
            raise errors.NotADirectory(f"inode {ino} is not a directory")
        return attr

    def walk(self, ino: Any, names: Any) -> list[Attr]:
        """The attributes of each step, up to the first that is missing and after the first that is no directory."""
        parent = arguments.ino(ino)
        steps: list[Attr] = []
        for name in arguments.array(names, "the names of a walk", _WALK_MAX):
            row = self._execute(_LOOKUP, (parent, arguments.name(name))).fetchone()
            if row is None:
                break
            steps.append(Attr._make(row))
            if not stat.S_ISDIR(steps[-1].mode):
                break
            parent = steps[-1].ino
        return steps

    def parent(self, ino: Any) -> Attr:
        """The directory that a directory is in; the root is in itself."""
        self._directory(ino)
        row = self._execute("SELECT parent FROM inode WHERE ino = ?", (ino,)).fetchone()
        return self.getattr(row[0])

    def readdir(self, ino: Any, after: Any, limit: Any) -> list[tuple[int, bytes, Attr]]:
        """Entries with cookies above `after`, in their order."""
        wanted = arguments.integer(limit, "a number of entries", 1, limits.READDIR_MAX_ENTRIES)
        rows = self._execute(
            f"SELECT d.cookie, d.name, {ENTRY_COLUMNS} FROM dentry d INDEXED BY dentry_by_cookie"
            " JOIN inode i ON i.ino = d.ino WHERE d.parent = ? AND d.cookie > ? ORDER BY d.cookie LIMIT ?",
            (arguments.ino(ino), arguments.integer(after, "a cookie"), wanted),
        ).fetchall()
        if not rows:
            self._directory(ino)
        return [(row[0], row[1], Attr._make(row[2:])) for row in rows]

    def last_cookie(self, ino: Ino) -> int:
        """The cookie that a directory has given last."""
        row = self._execute("SELECT next_cookie FROM inode WHERE ino = ?", (ino,)).fetchone()
        return int(row[0]) if row else 0

    def readlink(self, ino: Any) -> bytes:
        row = self._execute("SELECT target FROM inode WHERE ino = ?", (arguments.ino(ino),)).fetchone()
        if row is None:
            raise errors.NotFound(f"inode {ino} is gone")
        if row[0] is None:
            raise errors.InvalidArgument("not a symbolic link")
        return bytes(row[0])

    def getxattr(self, ino: Any, name: Any) -> bytes:
        key = arguments.xattr_name(name)
        row = self._execute("SELECT value FROM xattr WHERE ino = ? AND name = ?", (arguments.ino(ino), key)).fetchone()
        if row is None:
            self.getattr(ino)
            raise errors.NoAttribute("no such extended attribute")
        return bytes(row[0])

    def listxattr(self, ino: Any) -> list[bytes]:
        self.getattr(ino)
        return [row[0] for row in self._execute("SELECT name FROM xattr WHERE ino = ? ORDER BY name", (ino,))]

    def xattrs(self, ino: Any, most_bytes: int) -> dict[bytes, bytes] | None:
        """All by their names; None, and no value is read, where names and values are more than `most_bytes`."""
        self.getattr(ino)
        sizes = self._execute("SELECT length(name) + length(value) FROM xattr WHERE ino = ?", (ino,))
        if sum(size for (size,) in sizes) > most_bytes:
            return None
        return dict(self._execute("SELECT name, value FROM xattr WHERE ino = ? ORDER BY name", (ino,)).fetchall())

    def xattrs_of(self, inos: Sequence[Ino], most_bytes: int) -> dict[Ino, dict[bytes, bytes] | None]:
        """As `xattrs`, of those of some inodes that exist."""
        marks = ", ".join("?" * len(inos))
        found: dict[Ino, dict[bytes, bytes] | None]
        found = {ino: {} for (ino,) in self._execute(f"SELECT ino FROM inode WHERE ino IN ({marks})", inos)}
        having = self._execute(f"SELECT DISTINCT ino FROM xattr WHERE ino IN ({marks})", inos).fetchall()
        return found | {ino: self.xattrs(ino, most_bytes) for (ino,) in having}

    # --- data -------------------------------------------------------------------------------------------

    def extents(self, ino: Any, offset: Any, length: Any, most: int = limits.EXTENTS_MAX) -> list[Any]:
        """[attr, [extent, ...], [[chunk, length, [node, ...]], ...]]: what touches the range, at most so many extents.

        And in at most `EXTENTS_CHUNKS_MAX` chunks. A page that has as many of either may lack some.
        """
        start, count = arguments.integer(offset, "an offset"), arguments.integer(length, "a length")
        with self._store.reading():
            attr = self.getattr(ino)
            rows = self._execute(
                "SELECT offset, length, chunk, chunk_offset FROM extent WHERE ino = ? AND offset >= ifnull((SELECT"
                " max(offset) FROM extent WHERE ino = ? AND offset <= ?), 0) AND offset < ? ORDER BY offset LIMIT ?",
                (ino, ino, start, min(start + count, limits.FILE_SIZE_MAX_BYTES), most + 1),
            )
            # One row more than fits, since the first may end before the range: a full page says that there is more.
            with closing(rows):
                extents = _page(rows, start, most)
            places = self._places_of({row[2] for row in extents})
        return [attr, extents, places]

    def whole_files(self, inos: Sequence[Ino]) -> tuple[list[list[int] | None], list[list[Any]]]:
        """Where the bytes of files are that have them all in one piece.

        [[version, chunk, offset in it, length] or None, ...], and [[chunk, length, [node, ...]], ...]
        """
        with self._store.reading():
            found = [self._whole_file(ino) for ino in inos]
            return found, self._places_of({file[1] for file in found if file is not None})

    def _whole_file(self, ino: Ino) -> list[int] | None:
        rows = self._execute(
            "SELECT i.version, e.chunk, e.chunk_offset, e.length, e.offset, i.size FROM inode i"
            " JOIN extent e ON e.ino = i.ino WHERE i.ino = ? LIMIT 2",
            (ino,),
        ).fetchall()
        if len(rows) != 1:
            return None
        *file, offset, size = rows[0]
        return file if offset == 0 and file[3] == size else None

    def _places_of(self, chunks: Iterable[int]) -> list[list[Any]]:
        """[[chunk, length, [node, ...]], ...], in order."""
        found = (_grouped(self._execute(f"{_PLACES} WHERE c.chunk = ?", (chunk,))) for chunk in sorted(chunks))
        return [[number, length, nodes] for number, length, _session, nodes in itertools.chain.from_iterable(found)]

    def open_chunks(self, session: SessionId, chunks: Sequence[ChunkId]) -> set[ChunkId]:
        """Those that the session may append to."""
        sql = "SELECT 1 FROM chunk WHERE chunk = ? AND session = ?"
        return {chunk for chunk in chunks if self._execute(sql, (chunk, session)).fetchone()}

    def chunks(self, after: Any, limit: Any) -> list[list[Any]]:
        """[[chunk, length, session or 0, [node, ...]], ...] with numbers above `after`, in order."""
        wanted = arguments.integer(limit, "a number of chunks", 1, limits.REPORT_SLICE_CHUNKS)
        rows = self._execute(
            f"{_PLACES} WHERE c.chunk IN (SELECT chunk FROM chunk WHERE chunk > ? ORDER BY chunk LIMIT ?)"
            " ORDER BY c.chunk",
            (arguments.integer(after, "a chunk number"), wanted),
        )
        return list(_grouped(rows))

    # --- totals -----------------------------------------------------------------------------------------

    def children(self, directory: int, after: int) -> list[tuple[int, int, int, int, int, int]]:
        """(cookie, ino, mode, nlink, size, allocated) of a page of entries with cookies above `after`."""
        return self._execute(
            "SELECT d.cookie, i.ino, i.mode, i.nlink, i.size, i.allocated FROM dentry d INDEXED BY dentry_by_cookie"
            " JOIN inode i ON i.ino = d.ino WHERE d.parent = ? AND d.cookie > ? ORDER BY d.cookie LIMIT ?",
            (directory, after, _SUMMARY_SLICE),
        ).fetchall()

    def nodes(self) -> list[tuple[Any, ...]]:
        """(name, address, host, rack, directories, draining) of all that registered and were not removed."""
        return self._execute(
            "SELECT name, address, host, rack, directories, draining FROM node ORDER BY name"
        ).fetchall()

    def has_replicas(self, node: str) -> bool:
        row = self._execute(
            "SELECT 1 FROM replica WHERE node = (SELECT id FROM node WHERE name = ?) LIMIT 1", (node,)
        ).fetchone()
        return row is not None

    def chunks_of(self, node: str, after: int) -> list[tuple[int, int, int, list[str]]]:
        """(chunk, length, copies wanted, [node, ...]) of a slice of a node's chunks with numbers above `after`."""
        rows = self._execute(
            "SELECT c.chunk, c.length, c.replicas, group_concat(o.name) FROM (SELECT q.chunk FROM replica q WHERE"
            " q.node = (SELECT id FROM node WHERE name = ?) AND q.chunk > ? ORDER BY q.chunk LIMIT ?) h"
            " JOIN chunk c ON c.chunk = h.chunk JOIN replica r ON r.chunk = c.chunk JOIN node o ON o.id = r.node"
            " GROUP BY c.chunk ORDER BY c.chunk",
            (node, after, _CHUNKS_SLICE),
        )
        return [(row[0], row[1], row[2], row[3].split(",")) for row in rows]

    def is_freeing(self, now_ns: int) -> bool:
        """Whether there is something to be deleted, or punched, whose grace period is not over."""
        row = self._execute(
            "SELECT EXISTS (SELECT 1 FROM node n JOIN work w ON w.node = n.id WHERE w.kind = 'delete' AND w.due_ns > ?)"
            " OR EXISTS (SELECT 1 FROM trim WHERE due_ns > ?) OR EXISTS (SELECT 1 FROM doomed)",
            (now_ns, now_ns),
        ).fetchone()
        return bool(row[0])

    def is_answered(self, session: SessionId, seq: int) -> bool:
        """Whether this command was applied before, and its reply is kept."""
        row = self._execute("SELECT 1 FROM reply WHERE session = ? AND seq = ?", (session, seq)).fetchone()
        return row is not None

    def way(self) -> list[Item]:
        """What the key's root depends on: nothing."""
        return []

    def inside(self, inos: Sequence[Ino]) -> list[Ino]:
        """Those that the key allows to look at: all."""
        return list(inos)

    def has_directory(self, inos: Sequence[Ino]) -> bool:
        """Whether any of these is a directory."""
        sql = f"SELECT mode FROM inode WHERE ino IN ({', '.join('?' * len(inos))})"
        return any(stat.S_ISDIR(mode) for (mode,) in self._execute(sql, inos))

    def sessions(self) -> list[tuple[SessionId, str, int, str]]:
        """All sessions that have not ended, the holders of their keys, and what they have: 1 leases, 2 directories too.

        And the path of the directory that they are limited to, empty if they are not.

        The holder is empty of those whose chunks or holds remain of an end that was cut short, and of those that an
        older version opened.
        """
        rows = self._execute(
            "SELECT a.session, ifnull(s.holder, ''), ifnull(s.caches, 0), ifnull(s.subtree, '')"
            " FROM (SELECT session FROM session UNION SELECT session FROM hold"
            " UNION SELECT session FROM chunk WHERE session != 0) a LEFT JOIN session s ON s.session = a.session"
        )
        return [(SessionId(session), holder, caches, subtree) for session, holder, caches, subtree in rows]

    def clients(self, after: SessionId) -> list[tuple[SessionId, str, str, str, str, int, int]]:
        """(session, name, host, holder of the key, subtree, opened at, open chunks) of sessions beyond `after`."""
        return self._execute(
            "SELECT session, name, host, holder, subtree, opened_ns,"
            " (SELECT count(*) FROM chunk c WHERE c.session != 0 AND c.session = s.session)"
            " FROM session s WHERE session > ? ORDER BY session LIMIT ?",
            (after, limits.CLIENTS_TOLD_AT_ONCE),
        ).fetchall()

    def due_work(self, node: str, now_ns: int, most: int) -> list[tuple[int, str, ChunkId, bytes]]:
        """Orders for a node: (id, kind, chunk, packed argument)."""
        return self._execute(
            "SELECT w.id, w.kind, w.chunk, w.argument FROM work w JOIN node n ON n.id = w.node"
            " WHERE n.name = ? AND w.due_ns <= ? ORDER BY w.due_ns, w.id LIMIT ?",
            (node, now_ns, most),
        ).fetchall()

    def deletions_among(self, node: str, numbers: Sequence[int]) -> list[tuple[int, ChunkId]]:
        """Those of these orders to a node that are to delete a chunk: (id, chunk)."""
        found = (
            self._execute(
                "SELECT w.id, w.chunk FROM work w JOIN node n ON n.id = w.node"
                " WHERE w.id = ? AND n.name = ? AND w.kind = 'delete'",
                (number, node),
            ).fetchone()
            for number in numbers
        )
        return [row for row in found if row]

    def deleted_by(self, order: int) -> list[ChunkId]:
        """The chunk that an order has deleted, if it is such an order and not known to be done."""
        rows = self._execute("SELECT chunk FROM work WHERE id = ? AND kind = 'delete'", (order,))
        return [chunk for (chunk,) in rows]

    def end_of_slice(self, node: str, first: int, count: int) -> int:
        """The last of `count` chunks, from `first` on, that `node` is counted for; 2**63 - 1: there are fewer."""
        row = self._execute(
            "SELECT r.chunk FROM node n JOIN replica r ON r.node = n.id WHERE n.name = ? AND r.chunk >= ?"
            " ORDER BY r.chunk LIMIT 1 OFFSET ?",
            (node, first, count - 1),
        ).fetchone()
        return int(row[0]) if row else 2**63 - 1

    def skipped(self, first: int, last: int) -> list[tuple[int, int]]:
        """Ranges of chunk numbers in [first, last] that are never given: see the command `skip_chunks`."""
        return skip_chunks.ranges(self._store.reads, first, last)

    def believed(self, node: str, first: int, last: int, also: Sequence[int]) -> dict[ChunkId, Believed]:
        """What is known of the chunks that `node` is counted for in [first, last], and of those in `also`."""
        found: dict[ChunkId, Believed] = {}
        for chunk, length, session in self._execute(
            "SELECT c.chunk, c.length, c.session FROM node n JOIN replica r ON r.node = n.id"
            " JOIN chunk c ON c.chunk = r.chunk WHERE n.name = ? AND r.chunk BETWEEN ? AND ?",
            (node, first, last),
        ):
            found[chunk] = Believed(length, session != 0, True)
        for chunk in also:
            row = None
            if chunk not in found:
                row = self._execute("SELECT length, session FROM chunk WHERE chunk = ?", (chunk,)).fetchone()
            if row is not None:
                found[ChunkId(chunk)] = Believed(row[0], row[1] != 0, False)
        return found


def _page(rows: Any, start: int, most: int) -> list[tuple[int, int, int, int]]:
    """The first extents that end after `start`, at most so many, as far as they are in `EXTENTS_CHUNKS_MAX` chunks."""
    page: list[tuple[int, int, int, int]] = []
    chunks: set[int] = set()
    while len(chunks) <= limits.EXTENTS_CHUNKS_MAX and (some := rows.fetchmany(limits.EXTENTS_CHUNKS_MAX)):
        some = [row for row in some if row[0] + row[1] > start]
        page += some
        chunks.update([row[2] for row in some])
    if len(chunks) > limits.EXTENTS_CHUNKS_MAX:
        chunks.clear()
        for number, extent in enumerate(page):
            chunks.add(extent[2])
            if len(chunks) > limits.EXTENTS_CHUNKS_MAX:
                return page[: min(number, most)]
    return page[:most]


def _grouped(rows: Any) -> Iterator[list[Any]]:
    """Rows (chunk, length, session, node or None), those of a chunk together: [chunk, length, session, [node, ...]]."""
    current: list[Any] | None = None
    for chunk, length, session, node in rows:
        if current is None or current[0] != chunk:
            if current is not None:
                yield current
            current = [chunk, length, session, []]
        if node is not None:
            current[3].append(node)
    if current is not None:
        yield current


def summary(ino: Ino, queries: Queries) -> Iterator[dict[str, int]]:
    """What is beneath an inode, growing slice by slice: files, directories, bytes, allocated. The last is whole.

    Who iterates may let other work in between the slices. A file with several names beneath is counted once.
    """
    top = queries.getattr(ino)
    total = {"files": 0, "directories": 0, "bytes": 0, "allocated": 0}
    if not stat.S_ISDIR(top.mode):
        yield total | {"files": 1, "bytes": top.size, "allocated": top.allocated}
        return
    several_names: set[int] = set()
    pending = [(int(top.ino), 0)]
    read = 0
    while pending:
        directory, after = pending.pop()
        page = queries.children(directory, after)
        if len(page) == _SUMMARY_SLICE:
            pending.append((directory, page[-1][0]))
        for _, child, mode, nlink, size, allocated in page:
            if stat.S_ISDIR(mode):
                total["directories"] += 1
                pending.append((child, 0))
            elif child not in several_names:
                if nlink > 1:
                    several_names.add(child)
                total["files"] += 1
                total["bytes"] += size
                total["allocated"] += allocated
        read += 1 + len(page)
        if read >= _SUMMARY_SLICE:
            read = 0
            yield total
    yield total
