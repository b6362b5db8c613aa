"""What commands do to the tables: the small steps that several verbs share.

A `Transaction` is the world as one command sees it: the database, the time and the session as inputs, the counters
in memory until the whole batch is committed. Nothing here looks at a clock, rolls dice or waits, so a command
means the same whenever and wherever it is applied.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgpack  # type: ignore[import-untyped]

from dfs import errors, limits
from dfs.posix import CAPABILITY
from dfs.types import ROOT_INO, SHAPE, Attr, ChunkId, Extent, Ino
from nodes.namenode import arguments
from nodes.namenode.pathnames import names_of
from nodes.namenode.schema import ATTR_COLUMNS, ENTRY_COLUMNS
from nodes.namenode.subtree import Subtree, claimed

if TYPE_CHECKING:
    from nodes.namenode.store import Database, Row


_DEPTH_MAX: Final = 4096
"""Of directories in one another that are looked at, some microseconds each: longer paths than PATH_MAX allows."""
FREED_AT_ONCE: Final = 1024
"""Extents in one command: some ten milliseconds."""


class Directory(NamedTuple):
    """What a verb needs to know of a directory that it changes."""

    ino: Ino
    mode: int
    gid: int
    replicas: int
    entries: int


class Freed(NamedTuple):
    """Bytes of a chunk that no extent points at any more."""

    chunk: ChunkId
    offset: int
    length: int


class Transaction:
    """One command's view of the database. `counters` are shared by the commands of a batch.

    `now_ns` is when the command happened, for who looks at what it changed: by the clock of the client that answered
    it, or by ours. `clock_ns` is the time now, for what is due later: by ours.
    """

    __slots__ = ("clock_ns", "counters", "db", "grace_ns", "min_replicas", "now_ns", "replicas", "session")

    def __init__(self, db: Database, counters: dict[str, int], settings: dict[str, Any]) -> None:
        self.db = db
        self.counters = counters
        self.replicas = int(settings["replicas"])
        self.min_replicas = int(settings["min_replicas"])
        self.grace_ns = int(settings["grace_ns"])
        self.session = 0
        self.now_ns = self.clock_ns = 0

    # --- SQL --------------------------------------------------------------------------------------------

    def one(self, sql: str, *values: Any) -> Row | None:
        row: Row | None = self.db.execute(sql, values).fetchone()
        return row

    def all(self, sql: str, *values: Any) -> list[Row]:
        return self.db.execute(sql, values).fetchall()

    def run(self, sql: str, *values: Any) -> int:
        """Execute; the number of rows it changed."""
        return self.db.execute(sql, values).rowcount

    def number(self, counter: str) -> int:
        """The next number of a series."""
        number = self.counters[counter]
        self.counters[counter] = number + 1
        return number

    # --- inodes -----------------------------------------------------------------------------------------

    def attr(self, ino: Ino) -> Attr:
        """Raises `NotFound`."""
        row = self.one(f"SELECT {ATTR_COLUMNS} FROM inode WHERE ino = ?", ino)
        if row is None:
            raise errors.NotFound(f"inode {ino} is gone")
        return Attr._make(row)

    def directory(self, ino: Ino) -> Directory:
        """Raises `NotFound` also for a directory that has been removed, `NotADirectory`."""
        row = self.one("SELECT ino, mode, gid, replicas, size, nlink FROM inode WHERE ino = ?", ino)
        if row is None or not row[5]:
            raise errors.NotFound(f"directory {ino} is gone")
        if not stat.S_ISDIR(row[1]):
            raise errors.NotADirectory(f"inode {ino} is not a directory")
        return Directory(*row[:5])

    def find(self, parent: Ino, name: bytes) -> Attr | None:
        """What a name stands for."""
        row = self.one(
            f"SELECT {ENTRY_COLUMNS} FROM dentry d JOIN inode i ON i.ino = d.ino WHERE d.parent = ? AND d.name = ?",
            parent,
            name,
        )
        return Attr._make(row) if row else None

    def get(self, parent: Ino, name: bytes) -> Attr:
        """As `find`. Raises `NotFound`."""
        found = self.find(parent, name)
        if found is None:
            raise errors.NotFound("no such file or directory")
        return found

    def make_inode(
        self,
        directory: Directory,
        mode: int,
        uid: int,
        gid: int,
        *,
        rdev: int = 0,
        target: bytes | None = None,
        nlink: int = 1,
        ino: Any = 0,
    ) -> Attr:
        """A new inode as it is made in `directory`: a set-gid one gives its group, and to directories the bit.

        `ino`: the number that the session has chosen, of those reserved for it; 0 for the next one.
        """
        is_directory = stat.S_ISDIR(mode)
        if directory.mode & stat.S_ISGID:
            gid = directory.gid
            mode |= stat.S_ISGID if is_directory else 0
        ino = self._reserved(ino) if ino else Ino(self.number("next_ino"))
        now = self.now_ns
        replicas = directory.replicas if is_directory else directory.replicas or self.replicas
        size = len(target) if target is not None else 0
        self.run(
            "INSERT INTO inode VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?, 1, ?, ?, ?, ?)",
            *(ino, mode, nlink, uid, gid, rdev, size, now, now, now, now, replicas),
            *((directory.ino, 1) if is_directory else (0, 0)),
            target,
        )
        self.count(mode, 1)
        return Attr(ino, mode, nlink, uid, gid, rdev, size, 0, now, now, now, now, 1, replicas)

    def _reserved(self, ino: Any) -> Ino:
        """Raises `InvalidArgument` for a number that is not reserved for the session, `Exists` for one that is used."""
        number = arguments.ino(ino)
        if not self.one(
            "SELECT 1 FROM inode_range WHERE session = ? AND first <= ? AND last >= ?", self.session, number, number
        ):
            raise errors.InvalidArgument(f"inode number {number} is not reserved for session {self.session}")
        if self.one("SELECT 1 FROM inode WHERE ino = ?", number):
            raise errors.Exists(f"inode {number} exists already")
        return number

    def count(self, mode: int, change: int) -> None:
        """So many inodes of this mode more."""
        self.counters["inodes"] += change
        if stat.S_ISDIR(mode):
            self.counters["directories"] += change
        elif stat.S_ISREG(mode):
            self.counters["files"] += change

    # --- entries ----------------------------------------------------------------------------------------

    def add_entry(self, parent: Ino, name: bytes, ino: Ino, *, subdirectories: int = 0) -> None:
        """Enter `name`, which is free; `subdirectories` of the parent come with it."""
        row = self.one(
            "UPDATE inode SET size = size + 1, nlink = nlink + ?, next_cookie = next_cookie + 1, mtime_ns = ?,"
            " ctime_ns = ?, version = version + 1 WHERE ino = ? RETURNING next_cookie, nlink",
            *(subdirectories, self.now_ns, self.now_ns, parent),
        )
        assert row is not None, "the directory was just read"
        if row[1] > limits.LINK_MAX:
            raise errors.TooManyLinks("the directory has as many directories in it as it can")
        self.run("INSERT INTO dentry VALUES (?, ?, ?, ?)", parent, name, row[0], ino)

    def remove_entry(self, parent: Ino, name: bytes, *, subdirectories: int = 0) -> None:
        """Strike `name`, which is there."""
        self.run("DELETE FROM dentry WHERE parent = ? AND name = ?", parent, name)
        self.run(
            "UPDATE inode SET size = size - 1, nlink = nlink - ?, mtime_ns = ?, ctime_ns = ?, version = version + 1"
            " WHERE ino = ?",
            *(subdirectories, self.now_ns, self.now_ns, parent),
        )

    def drop_link(self, attr: Attr, parent: Ino) -> Attr:
        """One name less, which was in `parent`, of a file or an empty directory: with the last it goes, unless held."""
        nlink = 0 if stat.S_ISDIR(attr.mode) else attr.nlink - 1
        after = attr._replace(nlink=nlink, ctime_ns=self.now_ns, version=attr.version + 1)
        if not nlink:
            self._end_holds_outside(attr.ino, parent)
        if nlink or self.one("SELECT 1 FROM hold WHERE ino = ? LIMIT 1", attr.ino):
            self.run(
                "UPDATE inode SET nlink = ?, ctime_ns = ?, version = version + 1 WHERE ino = ?",
                *(nlink, self.now_ns, attr.ino),
            )
        else:
            self.remove_inode(attr)
        return after

    def _end_holds_outside(self, ino: Ino, parent: Ino) -> None:
        """Sessions that are limited to a subtree do not keep what loses its last name, in `parent`, outside of it."""
        limited = self.all(
            "SELECT h.session, s.subtree, s.holder FROM hold h JOIN session s ON s.session = h.session"
            " WHERE h.ino = ? AND s.subtree != ''",
            ino,
        )
        for session, path, holder in limited:
            if not self._is_inside(Subtree(self.db, path, holder), parent):
                self.run("DELETE FROM hold WHERE ino = ? AND session = ?", ino, session)

    @contextmanager
    def moving(self, directories: Sequence[Ino]) -> Iterator[None]:
        """Around what moves directories: whether that changes what sessions know that are limited to a subtree.

        It does if one leaves the subtree, or takes along the directory that the subtree begins with.
        """
        limited = self.all("SELECT DISTINCT subtree FROM session WHERE subtree != '' AND caches") if directories else []
        claims = [claimed(path) for (path,) in limited]
        before = {ino: names_of(self.db, ino) or [] for ino in directories} if claims else {}
        yield
        for ino, old in before.items():
            new = names_of(self.db, ino) or []
            for top in claims:
                is_left = old[: len(top)] == top != new[: len(top)]
                if is_left or (old != new and top[: len(old)] == old):
                    self.shape_changes()
                    return

    def shape_changes(self) -> None:
        """What is beneath what is not what it was: sessions that are limited to a subtree are to forget all."""
        self.run("SELECT touched(?, ?)", *SHAPE)

    @staticmethod
    def _is_inside(subtree: Subtree, directory: Ino) -> bool:
        try:
            return subtree.has_directory(directory)
        except errors.NotFound:
            return False

    def remove_inode(self, attr: Attr) -> None:
        """The inode and all that belongs to it."""
        if attr.allocated > FREED_AT_ONCE and self._has_many_extents(attr.ino):
            self.run("INSERT OR IGNORE INTO doomed VALUES (?)", attr.ino)
            self.run("UPDATE inode SET nlink = 0, version = version + 1 WHERE ino = ?", attr.ino)
            return
        if stat.S_ISREG(attr.mode):
            self.free(attr.ino, 0)
        self.run("DELETE FROM xattr WHERE ino = ?", attr.ino)
        self.run("DELETE FROM inode WHERE ino = ?", attr.ino)
        self.count(attr.mode, -1)

    def drop_capability(self, ino: Ino) -> None:
        """As the kernel does it on write(2), truncate(2) and chown(2): it leaves that to the file system."""
        self.run("DELETE FROM xattr WHERE ino = ? AND name = ?", ino, CAPABILITY)

    def _has_many_extents(self, ino: Ino) -> bool:
        return self.one("SELECT 1 FROM extent WHERE ino = ? LIMIT 1 OFFSET ?", ino, FREED_AT_ONCE) is not None

    def free_doomed(self, ino: Ino, most: int) -> None:
        """Free the last extents of a doomed inode, at most `FREED_AT_ONCE`; with the very last it goes itself."""
        row = self.one(
            "SELECT offset FROM extent WHERE ino = ? ORDER BY offset DESC LIMIT 1 OFFSET ?",
            ino,
            min(most, FREED_AT_ONCE),
        )
        if row is not None:
            self.free(ino, row[0])
            return
        self.run("DELETE FROM doomed WHERE ino = ?", ino)
        self.remove_inode(self.attr(ino))

    def remove_target(self, old: Attr, parent: Ino, name: bytes, new_is_directory: bool) -> None:
        """Make room for a rename onto `name`. Raises what rename(2) says of `old`."""
        if stat.S_ISDIR(old.mode):
            if not new_is_directory:
                raise errors.IsADirectory("is a directory")
            if old.size:
                raise errors.NotEmpty("directory not empty")
            self.remove_entry(parent, name, subdirectories=1)
        else:
            if new_is_directory:
                raise errors.NotADirectory("not a directory")
            self.remove_entry(parent, name)
        self.drop_link(old, parent)

    def touch_ctime(self, ino: Ino) -> None:
        self.run("UPDATE inode SET ctime_ns = ?, version = version + 1 WHERE ino = ?", self.now_ns, ino)

    def is_below(self, ino: Ino, ancestor: Ino) -> bool:
        """Whether directory `ino` is `ancestor` or somewhere beneath it. Raises InvalidArgument if it is too deep."""
        for _ in range(_DEPTH_MAX):
            if ino == ancestor:
                return True
            if ino == ROOT_INO:
                return False
            row = self.one("SELECT parent FROM inode WHERE ino = ?", ino)
            assert row is not None, "a directory has a parent"
            ino = row[0]
        raise errors.InvalidArgument(f"a directory more than {_DEPTH_MAX} below the root is not moved")

    # --- extents ----------------------------------------------------------------------------------------

    def free(self, ino: Ino, start: int) -> None:
        """Make what a file has from `start` on a hole; there may be very many extents."""
        length = self._free_whole(ino, start)
        freed = self.make_hole(ino, start, limits.FILE_SIZE_MAX_BYTES)
        length += sum(part.length for part in freed)
        if length:
            self.run("UPDATE inode SET allocated = allocated - ? WHERE ino = ?", length, ino)
            self.give_back(freed)

    def _free_whole(self, ino: Ino, start: int) -> int:
        """Free the extents from `start` on; how many bytes that was."""
        beyond = (ino, start)
        chunks = self.all("SELECT chunk, sum(length) FROM extent WHERE ino = ? AND offset >= ? GROUP BY chunk", *beyond)
        lengths: Counter[ChunkId] = Counter(dict(chunks))
        if lengths:
            self._count_freed(lengths)  # first: of chunks that go with that there is nothing to punch
            self.run(
                "INSERT INTO trim SELECT e.chunk, e.chunk_offset, e.length, ? FROM extent e CROSS JOIN chunk c"
                " ON c.chunk = e.chunk WHERE e.ino = ? AND e.offset >= ? ORDER BY e.chunk, e.chunk_offset",
                *(self.clock_ns + self.grace_ns, *beyond),
            )
            self.run("DELETE FROM extent WHERE ino = ? AND offset >= ?", *beyond)
        return lengths.total()

    def make_hole(self, ino: Ino, start: int, end: int) -> list[Freed]:
        """Make [start, end) a hole. The caller has what was there given back, and counts how much less the file has."""
        freed = []
        for extent in self._touching(ino, start, end):
            first = max(start, extent.offset)
            last = min(end, extent.end)
            self._cut_out(ino, extent, first, last)
            freed.append(Freed(extent.chunk, extent.chunk_offset + first - extent.offset, last - first))
        return freed

    def give_back(self, freed: Sequence[Freed]) -> None:
        """No extent points at these bytes any more."""
        due_ns = self.clock_ns + self.grace_ns
        self.db.executemany("INSERT INTO trim VALUES (?, ?, ?, ?)", [(*part, due_ns) for part in freed])
        lengths: Counter[ChunkId] = Counter()
        for part in freed:
            lengths[part.chunk] += part.length
        self._count_freed(lengths)

    def _count_freed(self, lengths: Counter[ChunkId]) -> None:
        """So many bytes of chunks, which go to `trim`, are not live any more."""
        for chunk, length in lengths.items():
            row = self.one("UPDATE chunk SET live = live - ? WHERE chunk = ? RETURNING live, session", length, chunk)
            assert row is not None, "an extent pointed there"
            if row == (0, 0):
                self.collect(chunk)
        self.counters["allocated"] -= lengths.total()

    def _touching(self, ino: Ino, start: int, end: int) -> list[Extent]:
        first = self.one(
            "SELECT offset, length, chunk, chunk_offset FROM extent WHERE ino = ? AND offset < ?"
            " ORDER BY offset DESC LIMIT 1",
            *(ino, start),
        )
        rows = [first] if first and first[0] + first[1] > start else []
        rows += self.all(
            "SELECT offset, length, chunk, chunk_offset FROM extent WHERE ino = ? AND offset >= ? AND offset < ?"
            " ORDER BY offset",
            *(ino, start, end),
        )
        return [Extent._make(row) for row in rows]

    def _cut_out(self, ino: Ino, extent: Extent, first: int, last: int) -> None:
        """Take [first, last) out of `extent`, leaving what is before and after it."""
        before, after = first - extent.offset, extent.end - last
        if before:
            self.run("UPDATE extent SET length = ? WHERE ino = ? AND offset = ?", before, ino, extent.offset)
        else:
            self.run("DELETE FROM extent WHERE ino = ? AND offset = ?", ino, extent.offset)
        if after:
            offset = extent.chunk_offset + last - extent.offset
            self.run("INSERT INTO extent VALUES (?, ?, ?, ?, ?)", ino, last, after, extent.chunk, offset)

    def point(self, ino: Ino, extent: Extent) -> None:
        """Make an extent's range of the file, now a hole, those bytes; joined to what it continues.

        The caller counts them as the chunk's, by `add_live`, before the command ends.
        """
        joined = self.run(
            "UPDATE extent SET length = length + ? WHERE ino = ? AND offset = (SELECT max(offset) FROM extent"
            " WHERE ino = ? AND offset < ?) AND offset + length = ? AND chunk = ? AND chunk_offset + length = ?",
            *(extent.length, ino, ino, extent.offset, extent.offset, extent.chunk, extent.chunk_offset),
        )
        if not joined:
            self.run("INSERT INTO extent VALUES (?, ?, ?, ?, ?)", ino, *extent)
        self.counters["allocated"] += extent.length

    def add_live(self, chunk: ChunkId, length: int) -> None:
        """So many more bytes of a chunk that is open are pointed to."""
        self.run("UPDATE chunk SET live = live + ? WHERE chunk = ?", length, chunk)

    # --- chunks -----------------------------------------------------------------------------------------

    def add_work(self, node: int, kind: str, chunk: ChunkId, argument: Any, due_ns: int) -> None:
        packed = msgpack.packb(argument)
        number = self.number("next_work")
        self.run("INSERT INTO work VALUES (?, ?, ?, ?, ?, ?)", number, node, kind, chunk, packed, due_ns)

    def holders(self, chunk: ChunkId) -> list[int]:
        return [row[0] for row in self.all("SELECT node FROM replica WHERE chunk = ?", chunk)]

    def drop_replicas(self, chunk: ChunkId, nodes: Iterable[int], due_ns: int) -> None:
        """These nodes' copies do not count any more, and are to be deleted."""
        for node in nodes:
            if self.forget_replica(chunk, node):
                self.add_work(node, "delete", chunk, None, due_ns)

    def forget_replica(self, chunk: ChunkId, node: int) -> bool:
        """A copy does not count any more, and nothing is to be done with it; whether it did count."""
        counted = self.run("DELETE FROM replica WHERE chunk = ? AND node = ?", chunk, node)
        if counted:
            self.run("DELETE FROM work WHERE chunk = ? AND node = ?", chunk, node)
        return bool(counted)

    def lacks(self, chunk: ChunkId) -> bool:
        """Whether a file has bytes in a chunk that is not known: the tables are damaged, and its copies are needed."""
        row = self.one(
            "SELECT 1 FROM extent WHERE chunk = ? AND NOT EXISTS (SELECT 1 FROM chunk WHERE chunk = ?) LIMIT 1",
            *(chunk, chunk),
        )
        return row is not None

    def is_elsewhere(
        self, chunk: ChunkId, node: str, trusted: Container[str], short: Container[tuple[str, int]]
    ) -> bool:
        """Whether a node other than `node` has a copy for sure.

        `trusted` are nodes whose copies are there, but for those (node, chunk) in `short`.
        """
        rows = self.all("SELECT n.name FROM replica r JOIN node n ON n.id = r.node WHERE r.chunk = ?", chunk)
        return any(name != node and name in trusted and (name, chunk) not in short for (name,) in rows)

    def collect(self, chunk: ChunkId) -> None:
        """A sealed chunk that nothing points to: forget it, and have its replicas deleted after the grace period."""
        self.drop_replicas(chunk, self.holders(chunk), self.clock_ns + self.grace_ns)
        self.run("DELETE FROM trim WHERE chunk = ?", chunk)
        self.run("DELETE FROM chunk WHERE chunk = ?", chunk)

    def copies_wanted(self, chunk: ChunkId) -> int:
        """The most that a file with bytes in the chunk is to have."""
        row = self.one("SELECT max(i.replicas) FROM extent e JOIN inode i ON i.ino = e.ino WHERE e.chunk = ?", chunk)
        return row[0] if row and row[0] else self.replicas

    def is_wanted_as_often(self, chunk: ChunkId, replicas: int) -> bool:
        """Whether some file with bytes in the chunk is to have `replicas` copies or more.

        Looked for from the chunk's end: who changes a tree changes its files in about the order they were written.
        """
        sql = (
            "SELECT 1 FROM extent e INDEXED BY extent_by_chunk JOIN inode i ON i.ino = e.ino"
            " WHERE e.chunk = ? AND i.replicas >= ? ORDER BY e.chunk_offset DESC LIMIT 1"
        )
        return self.one(sql, chunk, replicas) is not None

    def seal(self, chunk: ChunkId) -> None:
        """Nobody appends to it any more: what was appended and not committed is to be cut off.

        While it was open its number of copies was what its writer asked for, so that a commit that named as many nodes
        stayed good; now it is what its files are to have.
        """
        row = self.one("UPDATE chunk SET session = 0 WHERE chunk = ? RETURNING length, live", chunk)
        assert row is not None, "the caller has read it"
        if not row[1]:
            self.collect(chunk)
            return
        self.run("UPDATE chunk SET replicas = ? WHERE chunk = ?", self.copies_wanted(chunk), chunk)
        self.trim_gaps(chunk)
        for node in self.holders(chunk):
            self.add_work(node, "cut", chunk, row[0], self.clock_ns)

    def trim_gaps(self, chunk: ChunkId) -> None:
        """Committed bytes that never became a file's, since their writer gave them up, are freed as well."""
        for offset, length in self.gaps(chunk):
            self.run("INSERT INTO trim VALUES (?, ?, ?, ?)", chunk, offset, length, self.clock_ns + self.grace_ns)

    def gaps(self, chunk: ChunkId) -> list[tuple[int, int]]:
        """Ranges of committed bytes, (offset, length) in order, that are no file's and are not to be freed later.

        Of a sealed chunk they were freed before.
        """
        row = self.one(
            "SELECT length, live + (SELECT total(length) FROM trim WHERE chunk = c.chunk) FROM chunk c WHERE chunk = ?",
            chunk,
        )
        assert row is not None, "the caller has read it"
        length, accounted = row
        if accounted == length:
            return []
        taken = self.all(
            "SELECT chunk_offset, length FROM extent WHERE chunk = ? UNION ALL"
            " SELECT offset, length FROM trim WHERE chunk = ? ORDER BY 1",
            *(chunk, chunk),
        )
        position = 0
        found = []
        for offset, size in [*taken, (length, 0)]:
            if offset > position:
                found.append((position, offset - position))
            position = offset + size
        if sum(size for _, size in found) != length - accounted:
            return []  # the tables contradict themselves, and what looks free may be in use
        return found

    # --- holds ------------------------------------------------------------------------------------------

    def hold(self, ino: Ino) -> None:
        self.run(
            "INSERT INTO hold VALUES (?, ?, 1) ON CONFLICT (ino, session) DO UPDATE SET count = count + 1",
            *(ino, self.session),
        )

    def let_go(self, ino: Ino, session: int) -> None:
        """A session holds `ino` no more; if nobody does and it has no name, it goes."""
        self.run("DELETE FROM hold WHERE ino = ? AND session = ?", ino, session)
        row = self.one("SELECT nlink FROM inode WHERE ino = ?", ino)
        if row and not row[0] and not self.one("SELECT 1 FROM hold WHERE ino = ? LIMIT 1", ino):
            self.remove_inode(self.attr(ino))
