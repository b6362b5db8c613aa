"""A node is to be emptied, or to be used again."""

from __future__ import annotations

from dfs import errors
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, node: str, draining: bool) -> None:
    """Raises `NotFound`."""
    if not tx.run("UPDATE node SET draining = ? WHERE name = ?", int(draining), node):
        raise errors.NotFound(f"there is no DataNode {node}: `dfs nodes` lists them")
