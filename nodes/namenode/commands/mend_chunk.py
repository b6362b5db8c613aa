"""Set a chunk's row right that `dfs fsck` found wrong."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from dfs.types import ChunkId
from nodes.namenode import arguments
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, chunk: Any) -> list[str]:
    """What was done, in a few words each; nothing where nothing is wrong any more."""
    number = arguments.chunk(chunk)
    total, furthest = tx.one(
        "SELECT ifnull(sum(length), 0), ifnull(max(chunk_offset + length), 0) FROM extent WHERE chunk = ?", number
    ) or (0, 0)
    done = [] if tx.one("SELECT 1 FROM chunk WHERE chunk = ?", number) else _enter(tx, number, furthest)
    row = tx.one("SELECT session, length, live FROM chunk WHERE chunk = ?", number)
    if row is None:
        return []
    session, length, live = row
    if furthest > length:
        tx.run("UPDATE chunk SET length = ? WHERE chunk = ?", furthest, number)
        done.append(f"length set to {furthest}")
    if total != live:
        tx.run("UPDATE chunk SET live = ? WHERE chunk = ?", total, number)
        done.append(f"bytes in use set to {total}")
    done += _keep_what_is_used(tx, number, session)
    if session and not tx.one("SELECT 1 FROM session WHERE session = ?", session):
        tx.seal(number)
        done.append("sealed")
    elif not session and not total:
        tx.collect(number)
        done.append("to be deleted")
    return done


def _enter(tx: Transaction, chunk: ChunkId, furthest: int) -> list[str]:
    """A chunk that extents tell of: its copies count again as DataNodes report them."""
    if not furthest:
        return []
    tx.run("INSERT INTO chunk VALUES (?, 0, ?, 0, ?)", chunk, furthest, tx.replicas)
    tx.run("DELETE FROM work WHERE chunk = ? AND kind = 'delete'", chunk)
    tx.counters["next_chunk"] = max(tx.counters["next_chunk"], chunk + 1)
    return ["entered again"]


def _keep_what_is_used(tx: Transaction, chunk: ChunkId, session: int) -> list[str]:
    """Bytes that extents point to are not to be freed. What is to be freed of a sealed chunk is worked out anew."""
    ranges = tx.all(
        "SELECT chunk_offset, length, 0 FROM extent WHERE chunk = ? UNION ALL SELECT offset, length, 1 FROM trim"
        " WHERE chunk = ? ORDER BY 1, 3",
        *(chunk, chunk),
    )
    if not any(one[0] + one[1] > other[0] and (one[2] or other[2]) for one, other in pairwise(ranges)):
        return []
    tx.run("DELETE FROM trim WHERE chunk = ?", chunk)
    if not session:
        tx.trim_gaps(chunk)
    return ["bytes in use kept"]
