"""DataNodes hold chunks with numbers that this database never gave: it is an old copy, and newer ones did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nodes.namenode.transaction import Transaction

if TYPE_CHECKING:
    from nodes.namenode.store import Database

SETTING: Final = "skipped:"
"""With the first number of a range after it, the name of a setting; its value is the last."""


def was_given(db: Database, chunk: int, following: int) -> bool:
    """Whether a number was given to somebody once, as far as this database knows; `following` is the next one."""
    return chunk < following and not ranges(db, chunk, chunk)


def ranges(db: Database, first: int, last: int) -> list[tuple[int, int]]:
    """What of [first, last] is never given: first and last number of each range that has any of it."""
    return db.execute(
        "SELECT CAST(substr(name, ?) AS INTEGER) AS first, value FROM setting WHERE name LIKE ? || '%'"
        " AND first <= ? AND value >= ?",
        (len(SETTING) + 1, SETTING, last, first),
    ).fetchall()


def apply(tx: Transaction, beyond: int) -> None:
    """Give no number up to `beyond` that was not given yet. Chunks that have such a number are nobody's to delete.

    A range that ends where this one begins grows, so that a NameNode that only starts, time and again, keeps one.
    """
    following = tx.counters["next_chunk"]
    if beyond < following:
        return
    before = ranges(tx.db, following - 1, following - 1)
    first = before[0][0] if before else following
    tx.run("INSERT OR REPLACE INTO setting VALUES (?, ?)", f"{SETTING}{first}", beyond)
    tx.counters["next_chunk"] = beyond + 1
