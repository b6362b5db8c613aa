"""Keys of a holder count again."""

from __future__ import annotations

from dfs import errors
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, role: str, name: str) -> None:
    """Raises `NotFound` if they were not revoked."""
    if not tx.run("DELETE FROM revoked WHERE role = ? AND name = ?", role, name):
        raise errors.NotFound(f"the key of {role} {name} is not revoked: `dfs key status` lists those that are")
