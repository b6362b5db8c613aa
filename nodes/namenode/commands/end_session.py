"""A client is gone, or taken for gone.

The first command touches nothing that anybody caches, so it is never held back, and all that the session sent before it
has happened, or never will. Chunks and holds are left to the next ones: a session that has some and no row is one whose
end was cut short, and is ended anew after a restart.
"""

from __future__ import annotations

from nodes.namenode.transaction import Transaction

_SLICE = 256
"""Chunks and holds in one command: the rest is left to the next, so that no command takes long."""


def apply(tx: Transaction, session: int) -> bool:
    """Refuse its commands; if they are refused already, seal its chunks, let its inodes go. Whether there is more."""
    had_row = tx.run("DELETE FROM session WHERE session = ?", session) > 0
    tx.run("DELETE FROM reply WHERE session = ?", session)
    tx.run("DELETE FROM inode_range WHERE session = ?", session)
    chunks = tx.all("SELECT chunk FROM chunk WHERE session = ? AND session != 0 LIMIT ?", session, _SLICE + 1)
    holds = tx.all("SELECT ino FROM hold WHERE session = ? LIMIT ?", session, _SLICE + 1)
    if had_row:
        return bool(chunks or holds)
    for (chunk,) in chunks[:_SLICE]:
        tx.seal(chunk)
    for (ino,) in holds[:_SLICE]:
        tx.let_go(ino, session)
    return len(chunks) > _SLICE or len(holds) > _SLICE
