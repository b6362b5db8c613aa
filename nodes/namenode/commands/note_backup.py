"""Somebody has a copy of the namespace."""

from __future__ import annotations

from typing import Final

from nodes.namenode.transaction import Transaction

SETTING: Final = "backup_ns"


def apply(tx: Transaction, made_ns: int) -> None:
    """What was durable at `made_ns` is in it."""
    tx.run("INSERT OR REPLACE INTO setting VALUES (?, ?)", SETTING, made_ns)
