"""`dfs fsck` at the NameNode: do its own tables agree? The invariants of `schema`, slice by slice.

Each slice is a few statements in one read transaction on a connection of their own, on a worker thread: SQLite does the
comparing and hands over only the rows that are wrong, so the event loop is not kept waiting, nor the interpreter's lock
held. A slice has a bounded number of rows to look at; what belongs to one of them (all entries of a directory, all
extents of a file) is looked at with it.

That holds while the cluster is in use. A command changes the tables in one transaction, so what agrees before and after
it agrees in every slice; and each finding compares only rows of one slice with what they refer to, read at the same
moment. Two things do not fit in a slice. Totals are counted in one read transaction that is held over many slices
(`totals`): the write-ahead log cannot shrink meanwhile. And the end of a session takes several commands: the sessions
that are known to the process are given to each slice, and their rows are left alone.

The cursor is [phase, position, position], None at the beginning and at the end. Phases come in the order in which
damage is to be mended: what can be put back (an inode that its entries and extents tell of) before what is counted.

All of it trusts the database's file. Whether that is whole, `check_file` asks SQLite, before anything is mended: an
index that has lost a row makes a chunk that is in use look as if it were not.

Whether copies of a chunk are left is not asked here: only the DataNodes know (`dfs.client.fsck`). Nor is whether there
are as many as there should be: which ones count is not in the tables (`nodes.namenode.explain`).

A finding names the command that mends it, where that loses nothing. Such commands look again: what is right by then is
left alone. They keep the counters as other commands do, and the totals come last.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import trio

from dfs import errors, limits
from dfs.runtime import Runtime
from dfs.types import ROOT_INO
from nodes.namenode import arguments
from nodes.namenode.orphans import ORPHANS, Orphan
from nodes.namenode.pathnames import is_beneath_itself, named, shown
from nodes.namenode.schema import INDEXES
from nodes.namenode.store import Database, Store

_SLICE: Final = 1000
"""Rows of the table that a slice is of."""
_COUNTED_AT_ONCE: Final = 20_000
_FINDINGS_MAX: Final = 1000
"""Of one statement: a slice with more says so."""

_DIR: Final = "mode & 61440 = 16384"

T = TypeVar("T")

Cursor: TypeAlias = list[int] | None
Position: TypeAlias = tuple[int, int]


class Finding(NamedTuple):
    """What is wrong, in words that a full stop may follow; what to do; and the command that does it, if there is one.

    `mend` is [verb, argument, ...] of a client's command.
    """

    kind: str
    what: str
    remedy: str
    mend: list[Any] | None = None


class _Range(NamedTuple):
    """A condition on the rows to look at."""

    sql: str
    values: tuple[int, ...]


_Phase: TypeAlias = Callable[[Database, Position, Collection[int]], tuple[list[Finding], Position | None]]


class Checker:
    """Checks while others work. One slice at a time, whoever asks."""

    def __init__(self, store: Store, runtime: Runtime, sessions: Callable[[], Collection[int]]) -> None:
        """`sessions()` are those that are open or being ended."""
        self._store = store
        self._runtime = runtime
        self._sessions = sessions
        self._lock = trio.Lock()

    async def read(self, work: Callable[[Database, Collection[int]], T]) -> T:
        """What `work` reads, all at one moment, on a worker thread; it is given the sessions as well."""
        async with self._lock:
            return await self._runtime.run_blocking(_at_one_moment, self._store, work, self._sessions())

    async def slice(self, cursor: Any) -> tuple[list[Finding], Cursor]:
        """See `check`."""
        return await self.read(lambda db, sessions: check(db, cursor, sessions))

    async def inodes(self, inos: Any) -> list[Finding]:
        """What is wrong with these inodes, their entries and extents. Raises `InvalidArgument`."""
        wanted = [arguments.ino(ino) for ino in arguments.array(inos, "the inodes", limits.CHECK_MAX_ITEMS)]
        return await self.read(lambda db, _: check_inodes(db, wanted))

    async def chunks(self, chunks: Any) -> list[Finding]:
        """What is wrong with these chunks in the tables. Raises `InvalidArgument`."""
        wanted = [arguments.chunk(chunk) for chunk in arguments.array(chunks, "the chunks", limits.CHECK_MAX_ITEMS)]
        return await self.read(lambda db, sessions: check_chunks(db, wanted, sessions))

    async def file(self) -> list[Finding]:
        """Is the database's file whole? What tables and indexes say is compared, which everything else trusts."""
        return await self.read(lambda db, _: check_file(db))

    async def totals(self) -> list[Finding]:
        """Do the counters agree with the tables? Counted at one moment, slice by slice."""
        async with self._lock:
            with self._store.translating(), _moment(self._store) as db:
                slices = totals(db)
                while (found := await self._runtime.run_blocking(next, slices)) is None:
                    pass
                return found


def _at_one_moment(store: Store, work: Callable[[Database, Collection[int]], T], sessions: Collection[int]) -> T:
    with store.translating(), _moment(store) as db:
        return work(db, sessions)


@contextmanager
def _moment(store: Store) -> Iterator[Database]:
    """All that is read within is of one moment."""
    store.checks.execute("BEGIN")
    try:
        yield store.checks
    finally:
        store.checks.execute("COMMIT")


_OF_INDEX: Final = re.compile(r"(?:missing from|entries in|entry in) index (\w+)$")


def check_file(db: Database) -> list[Finding]:
    """What SQLite finds wrong with its file: indexes can be made anew, and nothing but that is to be mended before."""
    told = [str(row[0]) for row in db.execute(f"PRAGMA integrity_check({_FINDINGS_MAX})")]
    if told == ["ok"]:
        return []
    of_index: dict[str, list[str]] = {}
    others = []
    for line in told:
        match = _OF_INDEX.search(line)
        if match and match[1] in INDEXES:
            of_index.setdefault(match[1], []).append(line)
        else:
            others.append(line)
    if others:
        what = f"The file of the NameNode's database is damaged ({_first_of(others)})"
        return [Finding("file-damaged", what, "look at its disk, and bring back a copy of its state_dir")]
    return [
        Finding(
            "index-damaged",
            f"Index {index} of the NameNode's tables does not agree with its table ({_first_of(lines)})",
            "look at its disk; `dfs fsck --repair` makes it anew from the table",
            ["mend_index", index],
        )
        for index, lines in sorted(of_index.items())
    ]


def _first_of(lines: Sequence[str]) -> str:
    first = " ".join(lines[0].split())
    return first if len(lines) == 1 else f"{first}, and {len(lines) - 1} more"


def check(db: Database, cursor: Any, sessions: Collection[int] = ()) -> tuple[list[Finding], Cursor]:
    """One slice: findings, and where to go on. Raises `InvalidArgument` for no cursor of ours.

    `sessions`: those that have not ended, or not wholly.
    """
    fields = [0, 0, 0] if cursor is None else arguments.array(cursor, "a cursor", 3)
    if len(fields) != 3:
        raise errors.InvalidArgument("not a cursor of a check")
    phase = arguments.integer(fields[0], "a cursor")
    position = tuple(arguments.integer(each, "a cursor", -(2**63)) for each in fields[1:])
    if phase >= len(_PHASES):
        raise errors.InvalidArgument("not a cursor of a check")
    findings, following = _PHASES[phase](db, (position[0], position[1]), sessions)
    if following is not None:
        return findings, [phase, *following]
    return findings, [phase + 1, 0, 0] if phase + 1 < len(_PHASES) else None


def check_inodes(db: Database, inos: Sequence[int]) -> list[Finding]:
    """What is wrong with these inodes, with their entries and extents."""
    found: list[Finding] = []
    for ino in inos:
        found += _find_extents(db, _Range("e.ino = ?", (ino,)))
        found += _find_dentries(db, _Range("d.parent = ?", (ino,)))
        found += _find_inodes(db, _Range("i.ino = ?", (ino,)))
    return found


def check_chunks(db: Database, chunks: Sequence[int], sessions: Collection[int] = ()) -> list[Finding]:
    """What is wrong with these chunks in the tables."""
    return [finding for chunk in chunks for finding in _find_chunks(db, chunk, chunk, sessions)]


def _rows(db: Database, sql: str, *values: Any) -> list[Any]:
    return db.execute(f"{sql} LIMIT {_FINDINGS_MAX}", values).fetchall()


def _told(rows: Sequence[Any], found: list[Finding]) -> list[Finding]:
    """Each finding once; and that there may be more, where a statement found as many as it may."""
    if len(rows) == _FINDINGS_MAX:
        what = f"There may be more damage of the last kind than is told at once ({_FINDINGS_MAX} rows)"
        found.append(Finding("more", what, "mend what is told, and check again"))
    return list({finding.what: finding for finding in found}.values())


def _pair_after(db: Database, table: str, columns: str, after: Position) -> Position | None:
    """The last row of the slice of a table that is in the order of a pair of numbers; None: it goes to the end."""
    row = db.execute(
        f"SELECT {columns} FROM {table} WHERE ({columns}) > (?, ?) ORDER BY {columns} LIMIT 1 OFFSET ?",
        (*after, _SLICE - 1),
    ).fetchone()
    return (row[0], row[1]) if row else None


def _number_after(db: Database, table: str, column: str, after: int) -> int | None:
    """Likewise in the order of one number, all rows with the last one included."""
    row = db.execute(
        f"SELECT {column} FROM {table} WHERE {column} > ? ORDER BY {column} LIMIT 1 OFFSET ?", (after, _SLICE - 1)
    ).fetchone()
    return row[0] if row else None


_LAST: Final = 2**63 - 1

# --- extents --------------------------------------------------------------------------------------------

_EXTENTS: Final = f"""
SELECT ino, offset, length, chunk, chunk_offset, committed, previous, kind FROM (
    SELECT e.ino, e.offset, e.length, e.chunk, e.chunk_offset, c.length AS committed, i.ino AS known,
        i.mode & 61440 AS kind, lag(e.offset + e.length) OVER (PARTITION BY e.ino ORDER BY e.offset) AS previous
    FROM extent e LEFT JOIN chunk c ON c.chunk = e.chunk LEFT JOIN inode i ON i.ino = e.ino WHERE {{}})
WHERE (ino, offset) > (?, ?) AND (known IS NULL OR kind != {stat.S_IFREG} OR previous > offset OR committed IS NULL
    OR chunk_offset + length > committed)
"""


def _extents(db: Database, after: Position, _sessions: Collection[int]) -> tuple[list[Finding], Position | None]:
    last = _pair_after(db, "extent", "ino, offset", after)
    # The last row of the slice before is read again, since the first of this one may overlap it.
    where = _Range("(e.ino, e.offset) >= (?, ?) AND (e.ino, e.offset) <= (?, ?)", (*after, *(last or (_LAST, _LAST))))
    return _find_extents(db, where, after), last


def _find_extents(db: Database, where: _Range, after: Position = (0, -1)) -> list[Finding]:
    rows = _rows(db, _EXTENTS.format(where.sql), *where.values, *after)
    return _told(rows, [finding for row in rows for finding in _extent(db, *row)])


def _extent(
    db: Database,
    ino: int,
    offset: int,
    length: int,
    chunk: int,
    chunk_offset: int,
    committed: int | None,
    previous: int | None,
    kind: int | None,
) -> Iterator[Finding]:
    file = named(db, ino)
    if kind is None:
        yield Finding(
            "inode-missing",
            f"The inode of {file} is missing, and {_bytes_of(db, ino)} of it are there",
            "`dfs fsck --repair` makes it again",
            ["mend_inode", ino],
        )
    elif kind != stat.S_IFREG:
        yield Finding("extent-of-no-file", f"{file} is no regular file and has extents", _ASK)
    if previous is not None and previous > offset:
        yield Finding(
            "extents-overlap",
            f"Two extents of {file} have its bytes from {offset} on, and it cannot be told which is right",
            "compare the file with a copy of it, and write it again",
        )
    if committed is None:
        yield Finding(
            "chunk-missing",
            f"Chunk {chunk:x} is not known any more, and {file} has bytes in it",
            "`dfs fsck --repair` enters it again, and what DataNodes still hold of it counts again",
            ["mend_chunk", chunk],
        )
    elif chunk_offset + length > committed:
        yield Finding(
            "beyond-chunk",
            f"{file} has bytes beyond the end of chunk {chunk:x} ({committed} bytes)",
            "`dfs fsck --repair` makes the chunk as long as its files say, and checks its copies for that",
            ["mend_chunk", chunk],
        )


_ASK: Final = "keep a copy of the NameNode's state_dir and ask for help"


def _bytes_of(db: Database, ino: int) -> str:
    return f"{db.execute('SELECT sum(length) FROM extent WHERE ino = ?', (ino,)).fetchone()[0]} bytes"


# --- entries --------------------------------------------------------------------------------------------


_DENTRIES: Final = f"""
SELECT d.parent, d.name, i.ino, p.ino, p.mode & 61440 FROM dentry d INDEXED BY dentry_by_cookie
    LEFT JOIN inode i ON i.ino = d.ino LEFT JOIN inode p ON p.ino = d.parent
WHERE {{}} AND (i.ino IS NULL OR p.ino IS NULL OR p.mode & 61440 != {stat.S_IFDIR})
"""
"""By name SQLite would look at the whole directory for each slice of it."""


def _dentries(db: Database, after: Position, _sessions: Collection[int]) -> tuple[list[Finding], Position | None]:
    last = _pair_after(db, "dentry", "parent, cookie", after)
    where = _Range(
        "(d.parent, d.cookie) > (?, ?) AND (d.parent, d.cookie) <= (?, ?)", (*after, *(last or (_LAST, _LAST)))
    )
    return _find_dentries(db, where), last


def _find_dentries(db: Database, where: _Range) -> list[Finding]:
    rows = _rows(db, _DENTRIES.format(where.sql), *where.values)
    return _told(rows, [_dentry(db, *row) for row in rows])


def _dentry(db: Database, parent: int, name: bytes, ino: int | None, known: int | None, kind: int | None) -> Finding:
    directory = named(db, parent)
    if known is None:
        return Finding(
            "inode-missing",
            f"The inode of directory {directory} is missing, and entries of it are there",
            "`dfs fsck --repair` makes it again",
            ["mend_inode", parent],
        )
    if kind != stat.S_IFDIR:
        return Finding(
            "entry-misplaced",
            f"{directory} is no directory and has an entry {shown(name)}",
            "`dfs fsck --repair` takes the entry out; a file that has no other name goes to /lost+found",
            ["mend_entry", parent, name],
        )
    return Finding(
        "entry-dangling",
        f"Entry {shown(name)} of {directory} leads nowhere",
        "`dfs fsck --repair` removes it, or makes again what it led to if bytes or entries of that are there",
        ["mend_entry", parent, name],
    )


# --- inodes ---------------------------------------------------------------------------------------------

_KEPT: Final = (
    "(EXISTS (SELECT 1 FROM hold h WHERE h.ino = i.ino) OR EXISTS (SELECT 1 FROM doomed m WHERE m.ino = i.ino))"
)

_FILES: Final = f"""
SELECT ino, nlink, size, allocated, names, total, furthest, kept FROM (
    SELECT i.ino, i.nlink, i.size, i.allocated, {_KEPT} AS kept, i.mode & 61440 AS kind,
        (SELECT count(*) FROM dentry d WHERE d.ino = i.ino) AS names,
        ifnull((SELECT sum(e.length) FROM extent e WHERE e.ino = i.ino), 0) AS total,
        ifnull((SELECT e.offset + e.length FROM extent e WHERE e.ino = i.ino ORDER BY e.offset DESC LIMIT 1), 0)
            AS furthest
    FROM inode i WHERE {{}} AND i.mode & 61440 != {stat.S_IFDIR})
WHERE nlink != names OR total != allocated OR (furthest > size AND kind = {stat.S_IFREG})
    OR (nlink = 0 AND names = 0 AND NOT kept)
"""

_DIRECTORIES: Final = f"""
SELECT ino, nlink, size, parent, names, entries, inside, place, cookies > next_cookie, kept FROM (
    SELECT i.ino, i.nlink, i.size, i.parent, i.next_cookie, {_KEPT} AS kept,
        (SELECT count(*) FROM dentry d WHERE d.ino = i.ino) AS names,
        (SELECT count(*) FROM dentry d WHERE d.parent = i.ino) AS entries,
        (SELECT count(*) FROM dentry d JOIN inode c ON c.ino = d.ino WHERE d.parent = i.ino AND c.{_DIR}) AS inside,
        (SELECT d.parent FROM dentry d WHERE d.ino = i.ino LIMIT 1) AS place,
        ifnull((SELECT max(d.cookie) FROM dentry d WHERE d.parent = i.ino), 0) AS cookies
    FROM inode i WHERE {{}} AND i.{_DIR})
WHERE size != entries OR cookies > next_cookie OR (nlink != 0 AND nlink != 2 + inside)
    OR (ino = {ROOT_INO} AND (nlink = 0 OR parent != {ROOT_INO} OR names != 0))
    OR (ino != {ROOT_INO} AND CASE names WHEN 0 THEN nlink != 0 OR NOT kept WHEN 1 THEN nlink = 0 OR parent != place
        ELSE 1 END)
"""


def _inodes(db: Database, after: Position, _sessions: Collection[int]) -> tuple[list[Finding], Position | None]:
    last = _number_after(db, "inode", "ino", after[0])
    found = _find_inodes(db, _Range("i.ino > ? AND i.ino <= ?", (after[0], last or _LAST)))
    if not after[0] and not db.execute(f"SELECT 1 FROM inode WHERE ino = ? AND {_DIR}", (ROOT_INO,)).fetchone():
        found.append(Finding("root-missing", "The root directory is missing", _MENDED, ["mend_inode", ROOT_INO]))
    return found, (last, 0) if last else None


def _find_inodes(db: Database, where: _Range) -> list[Finding]:
    found: list[Finding] = []
    for row in _rows(db, _FILES.format(where.sql), *where.values):
        found += _file(db, *row)
    for row in _rows(db, _DIRECTORIES.format(where.sql), *where.values):
        found += _directory(db, *row)
    # Every loop has a directory that is in one no older than itself, and only directories that were moved are.
    moved = (
        f"SELECT i.ino FROM inode i JOIN dentry d ON d.ino = i.ino WHERE {where.sql} AND i.{_DIR} AND d.parent >= i.ino"
    )
    for (ino,) in _rows(db, moved, *where.values):
        if is_beneath_itself(db, ino):
            found.append(Finding("directory-loop", f"Directory {ino} is beneath itself", _FOUND, ["mend_inode", ino]))
    return found


_MENDED: Final = "`dfs fsck --repair` sets it right"
_FOUND: Final = "`dfs fsck --repair` puts it into /lost+found"


def _file(
    db: Database, ino: int, nlink: int, size: int, allocated: int, names: int, total: int, furthest: int, kept: int
) -> Iterator[Finding]:
    mend = ["mend_inode", ino]
    if not names and (nlink or not kept):
        yield Finding("nameless", f"Inode {ino} ({size} bytes) has no name and nobody holds it", _FOUND, mend)
    elif nlink != names:
        what = f"{named(db, ino)} has {nlink} links and {names} name{'s' * (names != 1)}"
        yield Finding("link-count", what, _MENDED, mend)
    if furthest > size:
        what = f"{named(db, ino)} is {size} bytes long and has extents up to {furthest}"
        yield Finding("file-size", what, "`dfs fsck --repair` makes it as long as its extents", mend)
    if total != allocated:
        what = f"{named(db, ino)} says that {allocated} bytes are allocated and has {total}"
        yield Finding("allocated", what, _MENDED, mend)


def _directory(
    db: Database,
    ino: int,
    nlink: int,
    size: int,
    parent: int,
    names: int,
    entries: int,
    inside: int,
    place: int | None,
    cookies_are_wrong: int,
    kept: int,
) -> Iterator[Finding]:
    path, mend = named(db, ino), ["mend_inode", ino]
    if ino != ROOT_INO and not names and (nlink or not kept):
        what = f"Directory {ino} with {entries} entries has no name and nobody holds it"
        yield Finding("nameless", what, _FOUND, mend)
    elif names > (ino != ROOT_INO):
        yield Finding("directory-names", f"Directory {path} has {names} names more than it may", _MENDED, mend)
    elif (parent != place) if ino != ROOT_INO and names else (parent != ROOT_INO and ino == ROOT_INO):
        what = f"Directory {path} says that it is in {named(db, parent)} and is not"
        yield Finding("directory-parent", what, _MENDED, mend)
    if (nlink or names or ino == ROOT_INO) and nlink != 2 + inside:
        what = f"Directory {path} has {nlink} links and {inside} directories in it"
        yield Finding("link-count", what, _MENDED, mend)
    if entries != size:
        what = f"Directory {path} says it has {size} entries and has {entries}"
        yield Finding("directory-size", what, _MENDED, mend)
    if cookies_are_wrong:
        what = f"Directory {path} would give its next entry a place that is taken"
        yield Finding("directory-cookie", what, _MENDED, mend)


# --- chunks ---------------------------------------------------------------------------------------------

_CHUNKS: Final = """
SELECT chunk, session, length, live, total, ended FROM (
    SELECT c.chunk, c.session, c.length, c.live,
        ifnull((SELECT sum(e.length) FROM extent e WHERE e.chunk = c.chunk), 0) AS total,
        c.session != 0 AND NOT EXISTS (SELECT 1 FROM session s WHERE s.session = c.session) AS ended
    FROM chunk c WHERE c.chunk BETWEEN ? AND ?)
WHERE live != total OR (session = 0 AND total = 0) OR ended
"""

_SHARED: Final = """
SELECT chunk, start, freed OR previous_freed FROM (
    SELECT chunk, start, freed, lag(start + length) OVER bytes AS previous, lag(freed) OVER bytes AS previous_freed
    FROM (
        SELECT chunk, chunk_offset AS start, length, 0 AS freed FROM extent WHERE chunk BETWEEN ? AND ?
        UNION ALL SELECT chunk, offset, length, 1 FROM trim WHERE chunk BETWEEN ? AND ?)
    WINDOW bytes AS (PARTITION BY chunk ORDER BY start, freed))
WHERE previous > start
"""


def _chunks(db: Database, after: Position, sessions: Collection[int]) -> tuple[list[Finding], Position | None]:
    last = _number_after(db, "chunk", "chunk", after[0])
    return _find_chunks(db, after[0] + 1, last or _LAST, sessions), (last, 0) if last else None


def _find_chunks(db: Database, first: int, last: int, sessions: Collection[int]) -> list[Finding]:
    found: list[Finding] = []
    for row in _rows(db, _CHUNKS, first, last):
        found += _chunk(sessions, *row)
    shared = _rows(db, _SHARED, first, last, first, last)
    return found + _told(shared, [_shared(db, chunk, start, bool(freed)) for chunk, start, freed in shared])


def _chunk(
    sessions: Collection[int],
    chunk: int,
    session: int,
    length: int,
    live: int,
    total: int,
    ended: int,
) -> Iterator[Finding]:
    mend = ["mend_chunk", chunk]
    if live != total:
        yield Finding("chunk-live", f"Chunk {chunk:x} says that {live} bytes are in use and {total} are", _MENDED, mend)
    if not session and not total:
        what = f"Chunk {chunk:x} is sealed and nothing points to it: its {length} bytes do not come back"
        yield Finding("chunk-unused", what, "`dfs fsck --repair` has it deleted", mend)
    if ended and session not in sessions:
        what = f"Chunk {chunk:x} is open for session {session}, which has ended"
        yield Finding("chunk-open", what, "`dfs fsck --repair` seals it", mend)


def _shared(db: Database, chunk: int, start: int, is_freed: bool) -> Finding:
    if is_freed:
        return Finding(
            "freed-in-use",
            f"Bytes of chunk {chunk:x} at {start}, which {files_of(db, chunk)} uses, are to be freed",
            "`dfs fsck --repair` keeps them",
            ["mend_chunk", chunk],
        )
    return Finding(
        "bytes-shared",
        f"Bytes of chunk {chunk:x} at {start} belong to two extents, of {files_of(db, chunk)}",
        "compare these files with copies of them, and write those that are wrong again",
    )


_FILES_NAMED: Final = 5


def files_of(db: Database, chunk: int) -> str:
    """The files that have bytes in a chunk, for a sentence: a few by their paths, and how many more there are."""
    inos = [row[0] for row in db.execute("SELECT DISTINCT ino FROM extent WHERE chunk = ? LIMIT 1000", (chunk,))]
    more = len(inos) - _FILES_NAMED
    paths = ", ".join(named(db, ino) for ino in inos[:_FILES_NAMED])
    return paths + (f" and {more} more" if more > 0 else "") if inos else "no file"


# --- rows that belong to nothing ------------------------------------------------------------------------


def _delete_orders(db: Database, after: Position, _sessions: Collection[int]) -> tuple[list[Finding], Position | None]:
    last = _number_after(db, "work", "id", after[0])
    rows = _rows(
        db,
        "SELECT w.id, w.chunk, n.name FROM work w JOIN replica r ON r.chunk = w.chunk AND r.node = w.node"
        " LEFT JOIN node n ON n.id = w.node WHERE w.kind = 'delete' AND w.id > ? AND w.id <= ?",
        *(after[0], last or _LAST),
    )
    found = [
        Finding(
            "copy-to-be-deleted",
            f"The copy of chunk {chunk:x} on {node} counts and is to be deleted",
            "`dfs fsck --repair` takes the order back",
            ["mend_rows", "delete-order", number],
        )
        for number, chunk, node in rows
    ]
    return found, (last, 0) if last else None


def _orphans_of(orphan: Orphan) -> _Phase:
    def phase(db: Database, after: Position, sessions: Collection[int]) -> tuple[list[Finding], Position | None]:
        # Sessions and node numbers may be 0 in damaged rows: positions begin below them.
        last = _number_after(db, orphan.table, orphan.column, after[0] - (not after[1]))
        rows = _rows(
            db,
            f"SELECT t.{orphan.column}, count(*) FROM {orphan.table} t WHERE t.{orphan.column} > ?"
            f" AND t.{orphan.column} <= ? AND {orphan.orphaned} GROUP BY 1",
            *(after[0] - (not after[1]), _LAST if last is None else last),
        )
        found = [
            Finding(
                "orphan-rows",
                f"{count} {orphan.what.format(key)}, which is not known",
                "`dfs fsck --repair` removes them",
                ["mend_rows", orphan.kind, key],
            )
            for key, count in rows
            if orphan.owner != "session" or key not in sessions
        ]
        return found, None if last is None else (last, 1)

    return phase


_PHASES: Final[Sequence[_Phase]] = (
    _extents,
    _dentries,
    _inodes,
    _chunks,
    _delete_orders,
    *(_orphans_of(orphan) for orphan in ORPHANS),
)

# --- totals ---------------------------------------------------------------------------------------------

_SERIES: Final = {
    "next_ino": ("inode.ino", "dentry.ino"),
    "next_chunk": ("chunk.chunk", "extent.chunk"),
    "next_session": ("session.session",),
    "next_work": ("work.id",),
}


def totals(db: Database) -> Iterator[list[Finding] | None]:
    """The counters compared with the tables, all read at one moment: None after each slice, then the findings."""
    counters = dict(db.execute("SELECT name, value FROM counter"))
    counted = dict.fromkeys(("inodes", "directories", "files", "allocated"), 0)
    for step in (_count_inodes, _count_extents):
        position: int | None = 0
        while position is not None:
            position = step(db, position, counted)
            yield None
    yield [*_wrong_totals(counters, counted), *_wrong_series(db, counters)]


def _count_inodes(db: Database, after: int, counted: dict[str, int]) -> int | None:
    inodes, directories, files, last = db.execute(
        f"SELECT count(*), total({_DIR}), total(mode & 61440 = {stat.S_IFREG}), max(ino)"
        " FROM (SELECT ino, mode FROM inode WHERE ino > ? ORDER BY ino LIMIT ?)",
        (after, _COUNTED_AT_ONCE),
    ).fetchone()
    counted["inodes"] += inodes
    counted["directories"] += int(directories)
    counted["files"] += int(files)
    return last if inodes == _COUNTED_AT_ONCE else None


def _count_extents(db: Database, after: int, counted: dict[str, int]) -> int | None:
    last = db.execute(
        "SELECT chunk FROM extent WHERE chunk > ? ORDER BY chunk LIMIT 1 OFFSET ?", (after, _COUNTED_AT_ONCE)
    ).fetchone()
    (length,) = db.execute(
        "SELECT ifnull(sum(length), 0) FROM extent WHERE chunk > ? AND chunk <= ?", (after, last[0] if last else _LAST)
    ).fetchone()
    counted["allocated"] += length
    return last[0] if last else None


def _wrong_totals(counters: dict[str, int], counted: dict[str, int]) -> Iterator[Finding]:
    for name, number in counted.items():
        if counters[name] != number:
            what = f"The counter of {name} says {counters[name]}, counted are {number}"
            mend = ["mend_counter", name, number - counters[name], counters["log_index"]]
            yield Finding("counter", what, _MENDED, mend)


def _wrong_series(db: Database, counters: dict[str, int]) -> Iterator[Finding]:
    for name, columns in _SERIES.items():
        given = max(_greatest(db, *column.split(".")) for column in columns)
        if given >= counters[name]:
            what = f"Number {given} was given, and {name} says that {counters[name]} is the next"
            yield Finding("series", what, _MENDED, ["mend_counter", name, given + 1, counters["log_index"]])


def _greatest(db: Database, table: str, column: str) -> int:
    row = db.execute(f"SELECT max({column}) FROM {table}").fetchone()
    return row[0] if isinstance(row[0], int) else 0  # none, or not a number: the check of its table finds that
