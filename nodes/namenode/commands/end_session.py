"""A client is gone, or taken for gone."""

from __future__ import annotations

from nodes.namenode.transaction import Transaction

_SLICE = 256
"""Chunks and holds in one command: the rest is left to the next, so that no command takes long."""


def apply(tx: Transaction, session: int) -> bool:
    """Refuse its commands, seal its chunks, let its inodes go; whether there is more to do."""
    tx.run("DELETE FROM session WHERE session = ?", session)
    chunks = tx.all("SELECT chunk FROM chunk WHERE session = ? AND session != 0 LIMIT ?", session, _SLICE + 1)
    for (chunk,) in chunks[:_SLICE]:
        tx.seal(chunk)
    holds = tx.all("SELECT ino FROM hold WHERE session = ? LIMIT ?", session, _SLICE + 1)
    for (ino,) in holds[:_SLICE]:
        tx.let_go(ino, session)
    if len(chunks) > _SLICE or len(holds) > _SLICE:
        return True
    tx.run("DELETE FROM reply WHERE session = ?", session)
    tx.run("DELETE FROM inode_range WHERE session = ?", session)
    return False
