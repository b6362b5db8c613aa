"""A DataNode has a copy that it is not counted for."""

from __future__ import annotations

from typing import Any

from dfs import limits
from nodes.namenode import arguments, rescue
from nodes.namenode.commands import add_replicas, delete_stray, skip_chunks
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, node: Any, chunk: Any, length: Any) -> list[str]:
    """Count it if it is whole, have it deleted if nothing needs its chunk, or make a file of it; what was done.

    An order to delete a whole one is taken back if it is put off, as when no other copy can be reached.
    A chunk whose number was never given was written after this database was copied: its bytes become a file in
    /lost+found. Nothing is done about an open chunk, one that extents tell of and that is not known, and one with a
    number that is still to be given. Nor about a copy that is not whole: its node's next report has it counted, as one
    that is not.
    """
    name, number = arguments.text(node, "a node"), arguments.chunk(chunk)
    held = arguments.integer(length, "a length", most=limits.CHUNK_MAX_BYTES)
    known = tx.one("SELECT session, length FROM chunk WHERE chunk = ?", number)
    if known is not None:
        if known[0] or held < known[1]:
            return []
        tx.run(
            "DELETE FROM work WHERE chunk = ? AND node = (SELECT id FROM node WHERE name = ?) AND kind = 'delete'"
            " AND due_ns > ?",
            *(number, name, tx.clock_ns),
        )
        return ["counted again"] if add_replicas.apply(tx, name, [(number, known[1])])[0] else []
    if tx.lacks(number) or number >= tx.counters["next_chunk"]:
        return []
    if held and skip_chunks.ranges(tx.db, number, number):
        done = rescue.adopt(tx, number, held)
        add_replicas.apply(tx, name, [(number, held)])
        return [done]
    delete_stray.apply(tx, name, [number])
    ordered = tx.one(
        "SELECT 1 FROM work w JOIN node n ON n.id = w.node WHERE w.chunk = ? AND n.name = ? AND w.kind = 'delete'",
        *(number, name),
    )
    return ["to be deleted"] if ordered else []
