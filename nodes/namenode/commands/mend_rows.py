"""Remove rows that belong to nothing, and orders that contradict what is known."""

from __future__ import annotations

from typing import Any

from dfs import errors
from dfs.types import Ino
from nodes.namenode import arguments
from nodes.namenode.orphans import BY_KIND
from nodes.namenode.transaction import Transaction

_DELETE_ORDER = (
    "DELETE FROM work WHERE id = ? AND kind = 'delete' AND EXISTS"
    " (SELECT 1 FROM replica r WHERE r.chunk = work.chunk AND r.node = work.node)"
)


def apply(tx: Transaction, kind: Any, key: Any) -> list[str]:
    """`kind` is one of `orphans.BY_KIND`, or `delete-order` with an order's number; what was done."""
    number = arguments.integer(key, "a key", -(2**63))
    if kind == "delete-order":
        return ["order taken back"] if tx.run(_DELETE_ORDER, number) else []
    orphan = BY_KIND.get(kind) if isinstance(kind, str) else None
    if orphan is None:
        raise errors.InvalidArgument(f"no rows are called {kind!r}")
    where = f"t.{orphan.column} = ? AND {orphan.orphaned}"
    if orphan.kind == "hold.session":  # who holds keeps inodes: let go of them in order
        removed = _let_go(tx, where, number)
    else:
        removed = tx.run(f"DELETE FROM {orphan.table} AS t WHERE {where}", number)
    return [f"{removed} removed"] if removed else []


def _let_go(tx: Transaction, where: str, session: int) -> int:
    inos = tx.all(f"SELECT t.ino FROM hold t JOIN inode i ON i.ino = t.ino WHERE {where}", session)
    for (ino,) in inos:
        tx.let_go(Ino(ino), session)
    return len(inos)
