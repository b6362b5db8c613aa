"""Freed bytes that are due become orders to the nodes that hold them.

DataNodes give back whole blocks only, and what lies in one block may have been freed bit by bit, and ordered long ago.
So a range is ordered with the free bytes on both sides of it that may be in a block with it. Nobody reads these any
more, nor will anybody have them: they lie below the length of a chunk that is sealed, in no extent, and not in `trim`,
where what is free stays until it is due.
"""

from __future__ import annotations

from typing import Final

from dfs import limits
from dfs.grants import Range, merged
from dfs.types import ChunkId
from nodes.namenode.transaction import Transaction

_CHUNKS: Final = 64
RANGES: Final = 1024
"""In one order, and in all of one command: some ten milliseconds."""
_EXTENTS_FOR_A_RANGE: Final = 16
"""As many are summed up in the time that one range takes."""

_BORDERS: Final = """
SELECT
    max(ifnull((SELECT chunk_offset + length FROM extent WHERE chunk = ?1 AND chunk_offset < ?2
            ORDER BY chunk_offset DESC LIMIT 1), 0),
        ifnull((SELECT offset + length FROM trim WHERE chunk = ?1 AND offset < ?2 ORDER BY offset DESC LIMIT 1), 0)),
    min(ifnull((SELECT chunk_offset FROM extent WHERE chunk = ?1 AND chunk_offset >= ?2
            ORDER BY chunk_offset LIMIT 1), ?3),
        ifnull((SELECT offset FROM trim WHERE chunk = ?1 AND offset >= ?2 ORDER BY offset LIMIT 1), ?3), ?3)
"""
"""Of chunk ?1, which has ?3 bytes: the end of what is in use, or not due, before ?2, and where more of it begins."""


def apply(tx: Transaction) -> bool:
    """Order some punches of a few sealed chunks; whether there may be more that are due."""
    due = tx.all(
        "SELECT t.chunk FROM trim t INDEXED BY trim_by_time JOIN chunk c ON c.chunk = t.chunk AND c.session = 0"
        " WHERE t.due_ns <= ? ORDER BY t.due_ns LIMIT ?",
        *(tx.now_ns, RANGES),
    )
    chunks = list(dict.fromkeys(chunk for (chunk,) in due))
    room = RANGES
    for chunk in chunks[:_CHUNKS]:
        room -= _order(tx, chunk, room)
        if room <= 0:
            return True
    return len(chunks) > _CHUNKS


def _order(tx: Transaction, chunk: ChunkId, most: int) -> int:
    """Order the first punches of a chunk that are due, `most` at most; how many ranges that is, by the time it took."""
    rows = tx.all(
        "SELECT offset, length FROM trim WHERE chunk = ? AND due_ns <= ? ORDER BY offset LIMIT ?",
        *(chunk, tx.now_ns, most),
    )
    count = tx.run("DELETE FROM trim WHERE chunk = ? AND due_ns <= ? AND offset <= ?", chunk, tx.now_ns, rows[-1][0])
    ranges, looked_at = _widened(tx, chunk, merged((offset, offset + length) for offset, length in rows))
    order = [[start, end - start] for start, end in ranges]
    for node in tx.holders(chunk):
        tx.add_work(node, "punch", chunk, order, tx.now_ns)
    return count + looked_at // _EXTENTS_FOR_A_RANGE


def _widened(tx: Transaction, chunk: ChunkId, ranges: list[Range]) -> tuple[list[Range], int]:
    """These ranges, in order, with the free bytes around them that may lie in the same blocks; how many extents it
    has summed up for that.
    """
    row = tx.one("SELECT length, live FROM chunk WHERE chunk = ?", chunk)
    assert row is not None, "the caller has found it"
    wider = merged(_with_free_bytes(tx, chunk, row[0], *each) for each in ranges)
    if wider == ranges:
        return ranges, 0
    found = tx.one("SELECT total(length), count(*) FROM extent INDEXED BY extent_by_chunk WHERE chunk = ?", chunk)
    assert found is not None, "an aggregate has a row"
    return wider if found[0] == row[1] else ranges, found[1]  # what the index lacks only looks free


def _with_free_bytes(tx: Transaction, chunk: ChunkId, chunk_length: int, start: int, end: int) -> Range:
    borders = tx.one(_BORDERS, chunk, end, chunk_length)
    assert borders is not None, "it is one row, whatever there is"
    first, last = borders
    if first > start or last < end:
        return start, end  # the tables contradict themselves
    return max(first, start - limits.BLOCK_MAX_BYTES), min(last, end + limits.BLOCK_MAX_BYTES)
