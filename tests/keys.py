"""The keys of the clusters that tests start: made once for a process, written where a cluster looks for them."""

from __future__ import annotations

from pathlib import Path

from dfs import keys
from dfs.keys import Key, KeyFile, Masters, Role

MASTERS = Masters.make()
ADMIN = MASTERS.issue(Role.ADMIN, "tests")


def node_file(name: str) -> KeyFile:
    """What a DataNode's key file holds."""
    return KeyFile(MASTERS.issue(Role.NODE, name), MASTERS.of(keys.DATANODE))


def write(directory: Path, *nodes: str, key: Key = ADMIN) -> None:
    """cluster.keys, client.key and NODE.key, where they are not yet."""
    wanted = {"cluster": KeyFile(None, MASTERS), "client": KeyFile(key, Masters({}))}
    files = {"cluster.keys": wanted["cluster"], "client.key": wanted["client"]}
    files |= {f"{node}.key": node_file(node) for node in nodes}
    for name, content in files.items():
        if not (directory / name).exists():
            keys.save(directory / name, content)
