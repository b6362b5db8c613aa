"""A client begins a session: with whose key, limited to what, and whether it caches."""

from __future__ import annotations

from typing import Final

from nodes.namenode.transaction import Transaction

_DROPS_RECALLED: Final = 4


def caching(caches: bool, directories: bool, drops_recalled: bool) -> int:
    """Whether a session is given leases, on directories too that it changes by itself, and what it does with replies
    about what it is asked to forget (`nodes.namenode.leases`): 0; 1 or 2; plus 4."""
    return (caches + directories + _DROPS_RECALLED * drops_recalled) if caches else 0


def cached(value: int) -> tuple[bool, bool, bool]:
    """What `caching` was told."""
    level = value & ~_DROPS_RECALLED
    return level > 0, level > 1, bool(value & _DROPS_RECALLED)


def apply(tx: Transaction, name: str, host: str, holder: str = "", subtree: str = "", caches: int = 0) -> int:
    """The session's number. `holder` is that of the key that opens it, `subtree` the directory it is limited to.

    `caches`: as `caching` has it.
    """
    session = tx.number("next_session")
    row = (session, name, host, tx.now_ns, holder, subtree, caches)
    tx.run("INSERT INTO session VALUES (?, ?, ?, 0, ?, ?, ?, ?)", *row)
    return session
