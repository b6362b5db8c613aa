"""Whose a data directory is: DIR/identity.json, written when its node first joins a cluster, checked ever after.

    {"format": 1, "cluster": ..., "node": ..., "directory": ..., "directories": [...]}

`directory` is this directory's own id, `directories` those of all that the node had when it last started: by them it
finds out that a disk is not mounted, before it takes the empty mount point for a new directory.
"""

from __future__ import annotations

import json
import random
import re
from typing import Final, NamedTuple

from dfs import errors
from dfs.types import ClusterId, NodeId
from nodes.datanode.disk import Disk

FORMAT: Final = 1
PATH: Final = "identity.json"
_CLUSTER: Final = re.compile(r"[0-9a-f]{32}")
_DIRECTORY: Final = re.compile(r"[0-9a-f]{16}")


class Identity(NamedTuple):
    """What identity.json says. Directory ids are 16 hexadecimal digits."""

    cluster: ClusterId
    node: NodeId
    directory: str
    directories: tuple[str, ...]


def read(disk: Disk) -> Identity | None:
    """Whose the directory is; None if nobody's yet. Raises FormatUnknown for what this version cannot read."""
    if not disk.exists(PATH):
        return None
    try:
        found = json.loads(disk.read_file(PATH))
        if found["format"] != FORMAT:
            raise errors.FormatUnknown(
                f"{disk.name}/{PATH} has format {found['format']}, this version of dfs knows {FORMAT}: use the version"
                " of dfs that wrote it, or a newer one"
            )
        identity = Identity(found["cluster"], found["node"], found["directory"], tuple(found["directories"]))
        _check_values(identity)
    except (ValueError, KeyError, TypeError):
        raise errors.FormatUnknown(
            f"{disk.name}/{PATH} is damaged: restore it, or empty the directory to begin anew"
        ) from None
    return identity


def _check_values(identity: Identity) -> None:
    ids = (identity.directory, *identity.directories)
    if not _CLUSTER.fullmatch(identity.cluster) or not all(_DIRECTORY.fullmatch(each) for each in ids):
        raise ValueError("not an identity")


def check(disk: Disk, cluster: ClusterId | None, node: NodeId) -> Identity | None:
    """As `read`, and it is `node`'s in `cluster` (None: whichever). Raises WrongCluster, FormatUnknown."""
    identity = read(disk)
    if identity is None:
        return None
    if cluster is not None and identity.cluster != cluster:
        raise errors.WrongCluster(
            f"{disk.name} belongs to cluster {identity.cluster}, not to {cluster}: configure its own NameNode or"
            " another directory"
        )
    if identity.node != node:
        raise errors.WrongCluster(
            f"{disk.name} belongs to DataNode {identity.node!r}, not to {node!r}: configure that name or another"
            " directory"
        )
    return identity


def write(disk: Disk, identity: Identity) -> None:
    """Put it into the directory, durably. Raises OSError."""
    content = {"format": FORMAT, **identity._asdict()}
    disk.replace_file(PATH, json.dumps(content, indent=2).encode() + b"\n")


def new_directory_id(source: random.Random) -> str:
    """An id that no other directory has."""
    return f"{source.getrandbits(64):016x}"
