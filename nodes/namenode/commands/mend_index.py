"""Make an index of the tables anew that does not agree with its table."""

from __future__ import annotations

from typing import Any

from dfs import errors
from nodes.namenode.schema import INDEXES
from nodes.namenode.store import made_anew
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, name: Any) -> list[str]:
    """What was done, in a few words each. Raises `Corrupt` where its table cannot be read, or contradicts itself."""
    if not isinstance(name, str) or name not in INDEXES:
        raise errors.InvalidArgument(f"no index is called {name!r}")
    if not made_anew(tx.db, name):
        raise errors.Corrupt(f"index {name} cannot be made anew, since its table is damaged as well")
    return ["made anew from its table"]
