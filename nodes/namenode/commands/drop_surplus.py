"""Copies that are not needed, since enough others are there."""

from __future__ import annotations

from collections.abc import Sequence

from dfs.types import ChunkId
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, surplus: Sequence[tuple[ChunkId, Sequence[str], Sequence[str]]]) -> int:
    """For each (chunk, nodes, others): the copies on `nodes` are to be deleted; how many are.

    Only if each of `others`, one or more that are well as the caller knows, still has its own.
    """
    dropped = 0
    for chunk, names, others in surplus:
        holders: dict[str, int] = dict(
            tx.all("SELECT n.name, n.id FROM replica r JOIN node n ON n.id = r.node WHERE r.chunk = ?", chunk)
        )
        going = [holders[name] for name in names if name in holders and name not in others]
        if others and all(name in holders for name in others):
            tx.drop_replicas(chunk, going, tx.now_ns)  # the others serve its readers
            dropped += len(going)
    return dropped
