"""A node without replicas is forgotten."""

from __future__ import annotations

import json

from dfs import errors
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, node: str) -> None:
    """Its directories are remembered, so that it does not come back with what is in them.

    Raises `NotFound`, `NodeInUse`.
    """
    known = tx.one("SELECT id, directories FROM node WHERE name = ?", node)
    if known is None:
        raise errors.NotFound(f"there is no DataNode {node}: `dfs nodes` lists them")
    if tx.one("SELECT 1 FROM replica WHERE node = ? LIMIT 1", known[0]):
        raise errors.NodeInUse(f"DataNode {node} has been given new chunks meanwhile: try again")
    for directory in json.loads(known[1]):
        tx.run("INSERT OR REPLACE INTO removed VALUES (?, ?)", directory, node)
    tx.run("DELETE FROM work WHERE node = ?", known[0])
    tx.run("DELETE FROM node WHERE id = ?", known[0])
