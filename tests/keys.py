"""The keys of the clusters that tests start: made once for a process, written where a cluster looks for them."""

from __future__ import annotations

from pathlib import Path

from dfs import keys
from dfs.keys import Key, KeyFile, Role

CLUSTER = keys.make_cluster(tls=True)._replace(cluster=None)
"""Of no id: each NameNode gets one by chance, as many clusters are made of these keys."""
PLAIN = CLUSTER._replace(tls=None, authority=None)
"""The same without TLS."""
MASTERS = CLUSTER.masters
ADMIN = MASTERS.issue(Role.ADMIN, "tests")
CLIENT = MASTERS.issue(Role.CLIENT, "a-client")
READER = MASTERS.issue(Role.READER, "a-reader")


def holder(role: Role, name: str, *, tls: bool = False) -> Key:
    """A key, with its certificate where there is TLS."""
    made = (CLUSTER if tls else PLAIN).issue(role, name)
    assert made.key is not None
    return made.key._replace(tls=made.tls)


def node_file(name: str, *, tls: bool = False) -> KeyFile:
    """What a DataNode's key file holds."""
    return (CLUSTER if tls else PLAIN).issue(Role.NODE, name)


def write(directory: Path, *nodes: str, key: Key = ADMIN, tls: bool = False) -> None:
    """cluster.keys, client.key and NODE.key, where they are not yet."""
    cluster = CLUSTER if tls else PLAIN
    files = {"cluster.keys": cluster, "client.key": cluster.issue(key.id.role, key.id.name, dict(key.id.claims))}
    files |= {f"{node}.key": node_file(node, tls=tls) for node in nodes}
    for name, content in files.items():
        if not (directory / name).exists():
            keys.save(directory / name, content)
