"""DataNodes hold chunks with numbers that this database never gave: it is an old copy, and newer ones did."""

from __future__ import annotations

from typing import Final

from nodes.namenode.transaction import Transaction

SETTING: Final = "skipped:"
"""With the first number of a range after it, the name of a setting; its value is the last."""


def apply(tx: Transaction, beyond: int) -> None:
    """Give no number up to `beyond` that was not given yet. Chunks that have such a number are nobody's to delete."""
    first = tx.counters["next_chunk"]
    if beyond < first:
        return
    tx.run("INSERT OR REPLACE INTO setting VALUES (?, ?)", f"{SETTING}{first}", beyond)
    tx.counters["next_chunk"] = beyond + 1
