"""Many copies of one node are lost: they count no more."""

from __future__ import annotations

from collections.abc import Sequence

from dfs.types import ChunkId
from nodes.namenode.commands import drop_replica
from nodes.namenode.transaction import Transaction


def apply(
    tx: Transaction, node: str, chunks: Sequence[ChunkId], trusted: Sequence[str], short: Sequence[tuple[str, int]]
) -> list[ChunkId]:
    """As `drop_replica` for each chunk; those of which the copy still counts."""
    good, bad = set(trusted), set(short)
    return [chunk for chunk in chunks if not drop_replica.apply(tx, chunk, node, good, bad)]
