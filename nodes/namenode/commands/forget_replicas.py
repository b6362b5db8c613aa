"""A node that is to be removed: what it holds counts no more."""

from __future__ import annotations

from collections.abc import Sequence

from dfs import errors
from nodes.namenode.transaction import Transaction

_AT_ONCE = 1024
"""Replicas in one command: some ten milliseconds."""


def apply(tx: Transaction, node: str, trusted: Sequence[str], short: Sequence[tuple[str, int]]) -> bool:
    """Forget a few of its replicas; whether there are more.

    `trusted` are nodes whose copies are there, but for those (node, chunk) in `short`. Raises `NotFound`, or
    `NodeInUse` for a chunk with bytes of which no trusted node has a copy: then nothing is forgotten.
    """
    known = tx.one("SELECT id FROM node WHERE name = ?", node)
    if known is None:
        raise errors.NotFound(f"there is no DataNode {node}: `dfs nodes` lists them")
    chunks = tx.all("SELECT chunk FROM replica WHERE node = ? ORDER BY chunk LIMIT ?", known[0], _AT_ONCE)
    good, bad = set(trusted), set(short)
    for (chunk,) in chunks:
        length = tx.one("SELECT length FROM chunk WHERE chunk = ?", chunk)
        if length and length[0] and not tx.is_elsewhere(chunk, node, good, bad):
            raise errors.NodeInUse(f"DataNode {node} holds the only copy of chunk {chunk:x}")
        tx.run("DELETE FROM replica WHERE node = ? AND chunk = ?", known[0], chunk)
    return len(chunks) == _AT_ONCE
