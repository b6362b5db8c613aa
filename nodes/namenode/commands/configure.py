"""The operator's settings are put where commands see them: in the database."""

from __future__ import annotations

from collections.abc import Mapping

from dfs.types import ROOT_INO
from nodes.namenode.transaction import Transaction

_SETTINGS = ("replicas", "min_replicas", "grace_ns")


def apply(tx: Transaction, values: Mapping[str, int]) -> None:
    """Set them; the root's default number of copies follows `replicas`."""
    for name in _SETTINGS:
        tx.run("INSERT OR REPLACE INTO setting VALUES (?, ?)", name, values[name])
    born = "UPDATE inode SET atime_ns = ?, mtime_ns = ?, ctime_ns = ?, btime_ns = ? WHERE ino = ? AND btime_ns = 0"
    tx.run(born, *([tx.now_ns] * 4), ROOT_INO)  # the root is as old as the cluster
    tx.replicas, tx.min_replicas, tx.grace_ns = (values[name] for name in _SETTINGS)
