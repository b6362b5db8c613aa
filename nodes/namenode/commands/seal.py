"""End appending to chunks."""

from __future__ import annotations

from typing import Any

from dfs import limits
from nodes.namenode import arguments
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, chunks: Any) -> None:
    """This session appends no more to these; those that it has not open are passed over."""
    for chunk in arguments.array(chunks, "the chunks to seal", limits.BATCH_MAX_COMMANDS):
        row = tx.one("SELECT session FROM chunk WHERE chunk = ?", arguments.chunk(chunk))
        if row and row[0] == tx.session:
            tx.seal(chunk)
