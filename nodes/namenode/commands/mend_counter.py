"""Set a counter right that does not agree with the tables."""

from __future__ import annotations

from typing import Any

from dfs import errors
from nodes.namenode import arguments
from nodes.namenode.transaction import Transaction

_TOTALS = ("inodes", "directories", "files", "allocated")
_SERIES = ("next_ino", "next_chunk", "next_session", "next_work")
_MAX = 2**62
"""There have to be numbers left to give."""


def apply(tx: Transaction, name: Any, value: Any, log_index: Any) -> list[str]:
    """Add `value` to a total; begin a series of numbers at `value`, unless it is further on. What was done.

    A total was counted when `log_index` commands had been applied. Commands since then change table and counter alike,
    so the difference is what it was, unless somebody else has mended it: then this changes nothing.
    """
    if name in _SERIES:
        least = arguments.integer(value, "a number", most=_MAX)
        if tx.counters[name] >= least:
            return []
        tx.counters[name] = least
        return [f"next is {least}"]
    if name not in _TOTALS:
        raise errors.InvalidArgument(f"no counter is called {name!r}")
    change = arguments.integer(value, "a difference", -(2**63))
    key = f"mended_{name}"  # a setting: how many commands had been applied when it was mended last
    mended = tx.one("SELECT value FROM setting WHERE name = ?", key)
    if mended is not None and arguments.integer(log_index, "a log index") <= mended[0]:
        return []
    if abs(tx.counters[name] + change) > _MAX:
        raise errors.InvalidArgument(f"{name} cannot be {tx.counters[name] + change}")
    tx.run("INSERT OR REPLACE INTO setting VALUES (?, ?)", key, tx.counters["log_index"])
    tx.counters[name] += change
    return [f"set to {tx.counters[name]}"]
