"""A DataNode says where it is."""

from __future__ import annotations

import json
from collections.abc import Sequence

from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, name: str, address: str, host: str, rack: str, directories: Sequence[str]) -> None:
    """Add it, or note what is new about it."""
    tx.run(
        "INSERT INTO node (name, address, host, rack, directories) VALUES (?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE"
        " SET address = excluded.address, host = excluded.host, rack = excluded.rack,"
        " directories = excluded.directories",
        *(name, address, host, rack, json.dumps(list(directories))),
    )
