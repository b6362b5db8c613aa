"""A token becomes a key: once, and for one receiver."""

from __future__ import annotations

from typing import Final

from dfs import errors
from nodes.namenode.transaction import Transaction

_KEPT_NS: Final = 400 * 86_400 * 10**9
"""After a token's end: a clock that was ahead for a while must not have it forgotten too soon."""


def apply(tx: Transaction, nonce: str, expires_ns: int, receiver: bytes) -> None:
    """Raises `NotPermitted` for a token that has expired, or that another receiver has used.

    The same receiver may ask again: the answer may not have reached him.
    """
    tx.run("DELETE FROM token_used WHERE expires_ns <= ?", tx.now_ns - _KEPT_NS)
    if expires_ns <= tx.now_ns:
        raise errors.NotPermitted("the token has expired: make another with `dfs join token`")
    row = tx.one("SELECT receiver FROM token_used WHERE nonce = ?", nonce)
    if row is not None and row[0] != receiver:
        raise errors.NotPermitted("the token was used before: make another with `dfs join token`")
    if row is None:
        tx.run("INSERT INTO token_used VALUES (?, ?, ?)", nonce, expires_ns, receiver)
