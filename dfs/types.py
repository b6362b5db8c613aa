"""The domain's values: what every part of dfs means by an inode, an extent, a chunk, a node.

All are immutable. The hot ones are NamedTuples, which msgpack carries as plain arrays: their field order
is the wire format, so fields are only ever added at the end. Sizes and offsets are bytes, times integer
nanoseconds since the epoch (UTC), names `bytes` (1 to 255, no NUL, no `/`, neither `.` nor `..`).
"""

from __future__ import annotations

import enum
import re
from typing import Final, NamedTuple, NewType, TypeAlias

Ino = NewType("Ino", int)
"""Inode number, 1 to 2^63-1, never reused."""
ChunkId = NewType("ChunkId", int)
"""Chunk number, 1 to 2^63-1, given by the NameNode in increasing order, never reused."""
NodeId = NewType("NodeId", str)
"""A DataNode's name, unique in its cluster: as NODE_NAME has it."""
SessionId = NewType("SessionId", int)
"""A client's session, 1 to 2^63-1, never reused; 0 stands for the NameNode's own commands."""
ClusterId = NewType("ClusterId", str)
"""A cluster's identity: 32 lower-case hexadecimal digits."""

NODE_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?")
NODE_NAME_RULE: Final = "1 to 64 of a-z, 0-9 and -, with a letter or digit first and last"

NAMENODE_OBJECT: Final = "dfs.namenode"
"""What the NameNode is called as; each DataNode has a `datanode_object`."""

ROOT_INO = Ino(1)
NAMENODE_SESSION = SessionId(0)

Item: TypeAlias = tuple[Ino, bytes | None]
"""What leases are about: an inode (None), or what a directory has under a name."""

ALL_NAMES: Final = b""
"""In an item of a recall: all that a directory has."""
SHAPE: Final[Item] = (Ino(0), None)
"""Which directories are beneath which. In a recall of who is limited to a subtree: all that he knows."""


COPIES_COMING: Final = "copies-coming"
"""The kind of a finding of `dfs fsck` that the cluster mends by itself: a chunk with too few copies, under repair."""


def datanode_object(node: str) -> str:
    """What a DataNode is called as."""
    return f"dfs.datanode.{node}"


class Attr(NamedTuple):
    """What stat shows of an inode. `mode` holds type and permission bits as in st_mode."""

    ino: Ino
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    """Bytes a reader sees: file length, length of a symlink's target, number of a directory's entries."""
    allocated: int
    """Bytes that extents cover, before replication (a hole takes none)."""
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int
    version: int
    """Grows with every change of the inode, its data, its xattrs or (directory) its entries."""
    replicas: int
    """Copies wanted of this file's data (directories: of files made in it)."""


class Extent(NamedTuple):
    """`length` bytes of a file at `offset` are those of `chunk` at `chunk_offset`.

    A file's extents do not overlap; where none covers, the file reads as zeros.
    """

    offset: int
    length: int
    chunk: ChunkId
    chunk_offset: int

    @property
    def end(self) -> int:
        """Where in the file it ends."""
        return self.offset + self.length


class ChunkPlace(NamedTuple):
    """Where a chunk's replicas are: nodes that hold at least its committed `length` bytes."""

    chunk: ChunkId
    length: int
    nodes: tuple[NodeId, ...]
    grant: bytes = b""
    """What DataNodes want to see before they serve it (`dfs.grants`); empty for who needs none."""


class DirEntry(NamedTuple):
    """One name in a directory. `cookie` grows within a directory and stays with its entry for life."""

    cookie: int
    name: bytes
    attr: Attr


class NodeState(enum.StrEnum):
    """What the NameNode believes of a DataNode."""

    UP = "up"
    SUSPECT = "suspect"
    """Silent for `limits.NODE_SUSPECT_AFTER_S`: not chosen for new chunks, still asked for old ones."""
    DEAD = "dead"
    """Silent for `limits.NODE_DEAD_AFTER_S`: its replicas no longer count."""


class NodeView(NamedTuple):
    """A DataNode as placement and clients see it."""

    node: NodeId
    address: str
    """Where it serves: `host:port`, `[v6]:port`, or `./u:/path` for a Unix socket."""
    host: str
    """Name of the machine it runs on: reads prefer a replica on the reader's own host."""
    rack: str
    """Failure domain; the empty string where none is configured."""
    state: NodeState
    capacity_bytes: int
    free_bytes: int
    chunks: int
    load: int
    """Requests in work at its last heartbeat."""
    last_heartbeat_ns: int
    draining: bool = False
    """It is being emptied: takes no new data, and its replicas are made again elsewhere."""
    used_bytes: int = 0
    """Bytes that its chunks take."""


class Statfs(NamedTuple):
    """The cluster's capacity, in bytes of stored data (replicas counted)."""

    capacity_bytes: int
    free_bytes: int
    used_bytes: int
    """Bytes of file data, before replication."""
    inodes: int
    replicas: int
    """The default number of copies."""
