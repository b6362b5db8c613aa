"""A DataNode says where it is, and which directories it has."""

from __future__ import annotations

import json
from collections.abc import Sequence

from dfs import errors
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, name: str, address: str, host: str, rack: str, directories: Sequence[str]) -> None:
    """Add it, or note what is new about it. Raises `NodeRemoved` for one that was removed."""
    for directory in directories:
        removed = tx.one("SELECT node FROM removed WHERE directory = ?", directory)
        if removed:
            raise errors.NodeRemoved(
                f"this DataNode was removed from the cluster, as {removed[0]}: stop it; to use its machine again,"
                " start it with empty directories"
            )
    tx.run(
        "INSERT INTO node (name, address, host, rack, directories) VALUES (?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE"
        " SET address = excluded.address, host = excluded.host, rack = excluded.rack,"
        " directories = excluded.directories",
        *(name, address, host, rack, json.dumps(list(directories))),
    )
