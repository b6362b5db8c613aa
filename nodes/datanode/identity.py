"""Whose a data directory is: DIR/identity.json, written when its node first joins a cluster, checked ever after.

    {"format": 3, "cluster": ..., "node": ..., "directory": ..., "directories": [...]}, see nodes.datanode.statefile

The number is that of all in the directory. Before 3 there was no journal, and 1 was without this file's checksum: these
are read, and written anew as 3. A file that is damaged says nothing: its directory is out of service until an operator
restores it, the node's other directories go on.
`directory` is this directory's own id, `directories` those of all that the node had when it last started: by them it
finds out that a disk is not mounted, before it takes the empty mount point for a new directory.
"""

from __future__ import annotations

import json
import random
import re
from typing import Any, Final, NamedTuple

from dfs import errors
from dfs.types import ClusterId, NodeId
from nodes.datanode import statefile
from nodes.datanode.disk import Disk

FORMAT: Final = 3
_FORMAT_WITHOUT_JOURNAL: Final = 2
_FORMAT_WITHOUT_CHECKSUM: Final = 1
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
    """Whose the directory is; None if nobody's yet.

    Raises FormatUnknown for what this version cannot read, Corrupt for what is damaged, OSError.
    """
    if not disk.exists(PATH):
        return None
    try:
        found = _of_format_1(disk) or statefile.read(disk, PATH, _FORMAT_WITHOUT_JOURNAL, FORMAT)
        assert found is not None
        identity = Identity(found["cluster"], found["node"], found["directory"], tuple(found["directories"]))
        _check_values(identity)
    except (errors.Corrupt, ValueError, KeyError, TypeError):
        raise errors.Corrupt(
            f"{disk.name}/{PATH} is damaged: restore it, or empty the directory to begin anew"
        ) from None
    return identity


def _of_format_1(disk: Disk) -> dict[str, Any] | None:
    """What a file of the format without checksum says; None if it is no such file."""
    try:
        found = json.loads(disk.read_file(PATH))
    except ValueError:
        return None
    is_old = isinstance(found, dict) and found.get("format") == _FORMAT_WITHOUT_CHECKSUM and "crc32c" not in found
    return found if is_old else None


def _check_values(identity: Identity) -> None:
    ids = (identity.directory, *identity.directories)
    if not _CLUSTER.fullmatch(identity.cluster) or not all(_DIRECTORY.fullmatch(each) for each in ids):
        raise ValueError("not an identity")


def check(disk: Disk, cluster: ClusterId | None, node: NodeId) -> Identity | None:
    """As `read`, and it is `node`'s in `cluster` (None: whichever). Raises WrongCluster, FormatUnknown, Corrupt."""
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
    statefile.write(disk, PATH, FORMAT, identity._asdict())


def says(disk: Disk, identity: Identity) -> bool:
    """Whether the directory says this, in any format that is known. Raises OSError of the disk's."""
    try:
        return read(disk) == identity
    except errors.DfsError:
        return False


def is_current(disk: Disk, identity: Identity) -> bool:
    """Whether the directory says just this, in the present format. Raises OSError of the disk's."""
    try:
        found = statefile.read(disk, PATH, FORMAT)
    except errors.DfsError:
        return False
    return found is not None and found == {
        "format": FORMAT,
        **identity._asdict(),
        "directories": [*identity.directories],
    }


def new_directory_id(source: random.Random) -> str:
    """An id that no other directory has."""
    return f"{source.getrandbits(64):016x}"
