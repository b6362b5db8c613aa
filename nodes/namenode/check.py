"""`dfs fsck` at the NameNode: do its own tables agree? The invariants of `schema`, slice by slice.

The cursor is [phase, position], None at the beginning and at the end. A slice is read at one moment; what changes
between two slices is consistent in both, since each finding needs the rows of one slice and what they refer to.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeAlias

from dfs import errors
from dfs.types import ROOT_INO
from nodes.namenode import arguments
from nodes.namenode.store import Database, Store

_SLICE: Final = 2000

Cursor: TypeAlias = list[int] | None
_Phase: TypeAlias = Callable[[Database, int], tuple[list[str], int | None]]


def check(store: Store, cursor: Any) -> tuple[list[str], Cursor]:
    """One slice: findings, each a sentence, and where to go on. Raises `InvalidArgument` for no cursor of ours."""
    fields = [0, 0] if cursor is None else arguments.array(cursor, "a cursor", 2)
    if len(fields) != 2:
        raise errors.InvalidArgument("not a cursor of a check")
    phase, position = (arguments.integer(each, "a cursor") for each in fields)
    if phase >= len(_PHASES):
        raise errors.InvalidArgument("not a cursor of a check")
    with store.reading() as db:
        findings, following = _PHASES[phase](db, position)
    if following is not None:
        return findings, [phase, following]
    return findings, [phase + 1, 0] if phase + 1 < len(_PHASES) else None


def _sliced(rows: Sequence[tuple[Any, ...]]) -> int | None:
    return rows[-1][0] if len(rows) == _SLICE else None


def _inodes(db: Database, after: int) -> tuple[list[str], int | None]:
    rows = db.execute(
        "SELECT ino, mode, nlink, size, allocated, parent, (SELECT count(*) FROM hold h WHERE h.ino = i.ino)"
        " + (SELECT count(*) FROM doomed m WHERE m.ino = i.ino)"
        " FROM inode i WHERE ino > ? ORDER BY ino LIMIT ?",
        (after, _SLICE),
    ).fetchall()
    names = dict(
        db.execute(
            "SELECT ino, count(*) FROM dentry WHERE ino IN (SELECT ino FROM inode WHERE ino > ? ORDER BY ino LIMIT ?)"
            " GROUP BY ino",
            (after, _SLICE),
        )
    )
    findings = [text for row in rows for text in _inode(db, row, names.get(row[0], 0))]
    return findings, _sliced(rows)


def _inode(db: Database, row: tuple[Any, ...], names: int) -> Iterator[str]:
    ino, mode, nlink, size, allocated, parent, holds = row
    if stat.S_ISDIR(mode):
        entries, directories = db.execute(
            "SELECT count(*), total((i.mode & 61440) = 16384) FROM dentry d JOIN inode i ON i.ino = d.ino"
            " WHERE d.parent = ?",
            (ino,),
        ).fetchone()
        if nlink and nlink != 2 + directories:
            yield f"Directory {ino} has {nlink} links and {int(directories)} directories in it."
        if entries != size:
            yield f"Directory {ino} says it has {size} entries and has {entries}."
        if nlink and ino != ROOT_INO and names != 1:
            yield f"Directory {ino} (in {parent}) has {names} names: it should have one."
    elif nlink != names:
        yield f"Inode {ino} has {nlink} links and {names} names."
    if not nlink and not holds:
        yield f"Inode {ino} has no name and nobody holds it: its space does not come back."
    if stat.S_ISREG(mode):
        yield from _extents(db, ino, size, allocated)


def _extents(db: Database, ino: int, size: int, allocated: int) -> Iterator[str]:
    position = total = 0
    for offset, length, chunk, chunk_offset, committed in db.execute(
        "SELECT e.offset, e.length, e.chunk, e.chunk_offset, c.length FROM extent e LEFT JOIN chunk c"
        " ON c.chunk = e.chunk WHERE e.ino = ? ORDER BY e.offset",
        (ino,),
    ):
        total += length
        if offset < position:
            yield f"Inode {ino} has two extents at offset {offset}."
        position = offset + length
        if committed is None:
            yield f"Inode {ino} points to chunk {chunk:x}, which does not exist: {length} bytes at {offset} are lost."
        elif chunk_offset + length > committed:
            yield f"Inode {ino} points beyond the end of chunk {chunk:x}."
    if position > size:
        yield f"Inode {ino} has {size} bytes and extents up to {position}."
    if total != allocated:
        yield f"Inode {ino} says that {allocated} bytes are allocated and has {total}."


def _dentries(db: Database, after: int) -> tuple[list[str], int | None]:
    """Entries that lead nowhere, or to a directory that says it is elsewhere. By parent's number, whole directories."""
    rows = db.execute(
        "SELECT DISTINCT parent FROM dentry WHERE parent > ? ORDER BY parent LIMIT ?", (after, _SLICE)
    ).fetchall()
    if not rows:
        return [], None
    lost = db.execute(
        "SELECT d.parent, d.name FROM dentry d LEFT JOIN inode i ON i.ino = d.ino LEFT JOIN inode p ON p.ino = d.parent"
        " WHERE d.parent > ? AND d.parent <= ? AND (i.ino IS NULL OR p.ino IS NULL) LIMIT ?",
        (after, rows[-1][0], _SLICE),
    )
    strangers = db.execute(
        "SELECT d.ino, i.parent, d.parent FROM dentry d JOIN inode i ON i.ino = d.ino WHERE d.parent > ?"
        " AND d.parent <= ? AND (i.mode & 61440) = 16384 AND i.parent != d.parent LIMIT ?",
        (after, rows[-1][0], _SLICE),
    )
    findings = [f"Entry {name!r} of directory {parent} leads nowhere." for parent, name in lost]
    findings += [f"Directory {ino} says it is in {says} and is in {parent}." for ino, says, parent in strangers]
    return findings, _sliced(rows)


def _chunks(db: Database, after: int) -> tuple[list[str], int | None]:
    rows = db.execute(
        "SELECT chunk, session, length, live, (SELECT count(*) FROM replica r WHERE r.chunk = c.chunk)"
        " FROM chunk c WHERE chunk > ? ORDER BY chunk LIMIT ?",
        (after, _SLICE),
    ).fetchall()
    return [text for row in rows for text in _chunk(db, *row)], _sliced(rows)


def _chunk(db: Database, chunk: int, session: int, length: int, live: int, replicas: int) -> Iterator[str]:
    position = total = 0
    for offset, size in db.execute(
        "SELECT chunk_offset, length FROM extent WHERE chunk = ? UNION ALL SELECT offset, -length FROM trim"
        " WHERE chunk = ? ORDER BY 1",
        (chunk, chunk),
    ):
        if offset < position:
            yield f"Bytes of chunk {chunk:x} at {offset} belong to two extents."
        position = offset + abs(size)
        total += max(size, 0)
    if total != live:
        yield f"Chunk {chunk:x} says that {live} bytes are in use and {total} are."
    if not session and not live:
        yield f"Chunk {chunk:x} is sealed and nothing points to it: its space does not come back."
    if live and not replicas:
        yield f"Chunk {chunk:x} has no replica left: {live} bytes are lost unless its DataNodes come back."
    if session and not db.execute("SELECT 1 FROM session WHERE session = ?", (session,)).fetchone():
        yield f"Chunk {chunk:x} is open in session {session}, which has ended."


def _totals(db: Database, _after: int) -> tuple[list[str], int | None]:
    counters = dict(db.execute("SELECT name, value FROM counter"))
    counted = dict(
        zip(
            ("inodes", "directories", "files"),
            db.execute(
                "SELECT count(*), total((mode & 61440) = 16384), total((mode & 61440) = 32768) FROM inode"
            ).fetchone(),
            strict=True,
        )
    )
    counted["allocated"] = db.execute("SELECT total(length) FROM extent").fetchone()[0]
    return [
        f"The counter of {name} says {counters[name]}, counted are {int(number)}."
        for name, number in counted.items()
        if counters[name] != number
    ], None


_PHASES: Final[Sequence[_Phase]] = (_inodes, _dentries, _chunks, _totals)
