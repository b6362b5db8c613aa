"""Orders and punches that are due later than they can be, since the clock was ahead when they were made."""

from __future__ import annotations

from typing import Final

from dfs import limits
from nodes.namenode.transaction import Transaction

_ROWS: Final = 1024
"""Of each table in one command: some milliseconds."""


def apply(tx: Transaction) -> bool:
    """Have them due after the grace period from now; whether there may be more.

    Punches are put off for no longer than that, orders for `WORK_POSTPONE_MAX_S` where that is more.
    """
    due_ns = tx.now_ns + tx.grace_ns
    latest_ns = tx.now_ns + max(tx.grace_ns, int(limits.WORK_POSTPONE_MAX_S * 10**9))
    orders = tx.run(
        "UPDATE work SET due_ns = ? WHERE id IN"
        " (SELECT w.id FROM node n CROSS JOIN work w ON w.node = n.id AND w.due_ns > ? LIMIT ?)",
        *(due_ns, latest_ns, _ROWS),
    )
    freed = tx.run(
        "UPDATE trim SET due_ns = ? WHERE (chunk, offset) IN (SELECT chunk, offset FROM trim WHERE due_ns > ? LIMIT ?)",
        *(due_ns, due_ns, _ROWS),
    )
    return _ROWS in (orders, freed)
