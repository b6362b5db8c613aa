"""Keys of a holder are refused from now on."""

from __future__ import annotations

from dfs import errors, limits
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, role: str, name: str) -> None:
    """Of every generation. Raises `ArgumentTooLarge` when so many are revoked as may be."""
    (count,) = tx.one("SELECT count(*) FROM revoked") or (0,)
    if count >= limits.REVOKED_MAX and tx.one("SELECT 1 FROM revoked WHERE role = ? AND name = ?", role, name) is None:
        raise errors.ArgumentTooLarge(
            f"the keys of {limits.REVOKED_MAX} holders are revoked, as many as may be: `dfs key rotate`, join anew"
            " who is to stay, `dfs key retire` the old generation, and restore the names"
        )
    tx.run("INSERT OR IGNORE INTO revoked VALUES (?, ?)", role, name)
