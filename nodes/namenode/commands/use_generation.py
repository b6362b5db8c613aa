"""Keys of a newer generation are issued from now on: every DataNode that lives knows them."""

from __future__ import annotations

from typing import Final

from nodes.namenode.transaction import Transaction

SETTING: Final = "key_generation"


def apply(tx: Transaction, generation: int) -> None:
    tx.run("INSERT OR REPLACE INTO setting VALUES (?, ?)", SETTING, generation)
