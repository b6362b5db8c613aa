"""The NameNode's tables: the truth for namespace, extents, chunks and where their replicas are.

Times are integer nanoseconds since the epoch, sizes and offsets bytes, names and values blobs. Invariants, which
`nodes.namenode.check` verifies:

* every dentry leads to an inode; an inode's `nlink` is the number of its dentries, a directory's is 2 and one for
  each directory in it (the root's parent is itself);
* an inode with `nlink` 0 has a row in `hold`, whose last release removes it, or in `doomed`;
* a directory's `size` is the number of its entries, its `parent` the directory it is in;
* a file's extents do not overlap, lie below its `size`, and point below their chunk's `length`; `allocated` is the
  sum of their lengths; no two extents share bytes of a chunk;
* a chunk's `live` is the sum of the lengths of the extents that point into it; a sealed chunk with none is gone:
  `work` has its replicas until their nodes report them deleted;
* a replica's row says that its node has at least `length` bytes of the chunk, unless its disk lost them;
* `counter` has the totals that would be too slow to count.
"""

from __future__ import annotations

import re
from typing import Final

FORMAT: Final = 5
"""Of these tables. A database of a newer format is refused, one of an older format is brought up to this one."""

TABLES: Final = """
CREATE TABLE setting (
    -- cluster (its id), format, replicas and min_replicas (the defaults that commands see), grace_ns (of freed bytes),
    -- key_generation (of the keys that are issued; absent: the oldest that there is),
    -- skipped:FIRST: the last number of a range of chunk numbers, from FIRST on, that are never given,
    -- mended_*: the log index at which a counter was last set right.
    name TEXT PRIMARY KEY,
    value NOT NULL
) WITHOUT ROWID;

CREATE TABLE counter (
    -- next_ino, next_chunk, next_session, next_work: numbers to be given, never twice.
    -- inodes, directories, files, allocated (sum of extents): totals.
    -- log_index: commands applied since the cluster began.
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE inode (
    ino INTEGER PRIMARY KEY,      -- 1 is the root
    mode INTEGER NOT NULL,        -- type and permissions, as st_mode
    nlink INTEGER NOT NULL,
    uid INTEGER NOT NULL,
    gid INTEGER NOT NULL,
    rdev INTEGER NOT NULL,
    size INTEGER NOT NULL,        -- bytes; of a symlink its target's; of a directory the number of its entries
    allocated INTEGER NOT NULL,   -- bytes that extents cover
    atime_ns INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL,
    btime_ns INTEGER NOT NULL,
    version INTEGER NOT NULL,     -- grows with every change
    replicas INTEGER NOT NULL,    -- copies of new data; of a directory: of files in it, 0: the default
    parent INTEGER NOT NULL,      -- of a directory; 0 for anything else
    next_cookie INTEGER NOT NULL, -- of a directory, for its next entry; 0 for anything else
    target BLOB                   -- of a symlink; NULL for anything else
);

CREATE TABLE dentry (
    parent INTEGER NOT NULL,
    name BLOB NOT NULL,
    cookie INTEGER NOT NULL,      -- place in a listing: grows within a directory, and is never used again
    ino INTEGER NOT NULL,
    PRIMARY KEY (parent, name)
) WITHOUT ROWID;
CREATE UNIQUE INDEX dentry_by_cookie ON dentry (parent, cookie);
CREATE INDEX dentry_by_ino ON dentry (ino);

CREATE TABLE doomed (
    -- Inodes without a name or a holder whose extents are too many to be freed in one command: `free_doomed` goes on.
    ino INTEGER PRIMARY KEY
);

CREATE TABLE xattr (
    ino INTEGER NOT NULL,
    name BLOB NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (ino, name)
) WITHOUT ROWID;

CREATE TABLE extent (
    ino INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    length INTEGER NOT NULL,
    chunk INTEGER NOT NULL,
    chunk_offset INTEGER NOT NULL,
    PRIMARY KEY (ino, offset)
) WITHOUT ROWID;
CREATE INDEX extent_by_chunk ON extent (chunk, chunk_offset, length);

CREATE TABLE chunk (
    chunk INTEGER PRIMARY KEY,
    session INTEGER NOT NULL,     -- who may append to it; 0: nobody, it is sealed
    length INTEGER NOT NULL,      -- committed bytes
    live INTEGER NOT NULL,        -- of these, bytes that extents point to
    replicas INTEGER NOT NULL     -- copies wanted
);
CREATE INDEX chunk_by_session ON chunk (session, chunk) WHERE session != 0;

CREATE TABLE replica (
    chunk INTEGER NOT NULL,
    node INTEGER NOT NULL,        -- node.id
    PRIMARY KEY (chunk, node)
) WITHOUT ROWID;
CREATE INDEX replica_by_node ON replica (node, chunk);

CREATE TABLE trim (
    -- Bytes of a chunk that no extent points to any more; punched out of its replicas once it is sealed and due.
    chunk INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    length INTEGER NOT NULL,
    due_ns INTEGER NOT NULL,
    PRIMARY KEY (chunk, offset)
) WITHOUT ROWID;
CREATE INDEX trim_by_time ON trim (due_ns);

CREATE TABLE node (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    address TEXT NOT NULL,
    host TEXT NOT NULL,
    rack TEXT NOT NULL,
    directories TEXT NOT NULL,    -- ids of its data directories, JSON
    draining INTEGER NOT NULL DEFAULT 0  -- 1: gets no new replicas, and those it has do not count
);

CREATE TABLE removed (
    -- Data directories of nodes that were removed: their DataNode is refused until they are empty.
    directory TEXT PRIMARY KEY,
    node TEXT NOT NULL            -- its name, as it was
) WITHOUT ROWID;

CREATE TABLE work (
    -- What a DataNode is to do with its replica, from `due_ns` on, until it reports it done.
    id INTEGER PRIMARY KEY,
    node INTEGER NOT NULL,        -- node.id
    kind TEXT NOT NULL,           -- delete, cut (to a length), punch (ranges)
    chunk INTEGER NOT NULL,
    argument BLOB NOT NULL,       -- msgpack: nothing, the length, [[offset, length], ...]
    due_ns INTEGER NOT NULL
);
CREATE INDEX work_by_node ON work (node, due_ns);
CREATE INDEX work_by_chunk ON work (chunk, node);
CREATE INDEX deletion_by_node ON work (node) WHERE kind = 'delete';

CREATE TABLE session (
    session INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    host TEXT NOT NULL,
    acked INTEGER NOT NULL,       -- replies below this have been forgotten: commands below it are refused
    opened_ns INTEGER NOT NULL,
    holder TEXT NOT NULL DEFAULT '',  -- of the key that opened it: no other may use it. Empty: of an older format, ends
    subtree TEXT NOT NULL DEFAULT '',  -- path of the directory that the key is limited to; empty: it is not
    caches INTEGER NOT NULL DEFAULT 0  -- `commands.open_session.caching`: leases it has to claim after a restart
);

CREATE TABLE inode_range (
    -- Inode numbers that a session may give to what it makes, from `first` to `last`.
    session INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    PRIMARY KEY (session, first)
) WITHOUT ROWID;

CREATE TABLE reply (
    session INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    reply BLOB NOT NULL,          -- msgpack, as it was sent
    PRIMARY KEY (session, seq)
) WITHOUT ROWID;

CREATE TABLE hold (
    -- A session keeps an inode, though its last name may go: `count` times.
    ino INTEGER NOT NULL,
    session INTEGER NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (ino, session)
) WITHOUT ROWID;
CREATE INDEX hold_by_session ON hold (session, ino);

CREATE TABLE token_used (
    -- Tokens that became keys; forgotten when they expire, for then they are refused anyway.
    nonce TEXT PRIMARY KEY,
    expires_ns INTEGER NOT NULL,
    receiver BLOB NOT NULL        -- a digest of for whom, and under which name: he may ask again
) WITHOUT ROWID;

CREATE TABLE revoked (
    -- Holders whose keys are refused.
    role TEXT NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (role, name)
) WITHOUT ROWID;
"""

INDEXES: Final = frozenset(re.findall(r"CREATE (?:UNIQUE )?INDEX (\w+)", TABLES))
"""Their names. All that is in them is in their tables, too."""

MIGRATIONS: Final = {
    1: (
        "ALTER TABLE node ADD COLUMN draining INTEGER NOT NULL DEFAULT 0",
        "CREATE TABLE removed (directory TEXT PRIMARY KEY, node TEXT NOT NULL) WITHOUT ROWID",
    ),
    2: (
        "CREATE TABLE token_used (nonce TEXT PRIMARY KEY, expires_ns INTEGER NOT NULL, receiver BLOB NOT NULL)"
        " WITHOUT ROWID",
        "CREATE TABLE revoked (role TEXT NOT NULL, name TEXT NOT NULL, PRIMARY KEY (role, name)) WITHOUT ROWID",
        "ALTER TABLE session ADD COLUMN holder TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE session ADD COLUMN subtree TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE session ADD COLUMN caches INTEGER NOT NULL DEFAULT 0",
    ),
    3: (
        "CREATE TABLE inode_range (session INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,"
        " PRIMARY KEY (session, first)) WITHOUT ROWID",
    ),
    4: ("CREATE INDEX deletion_by_node ON work (node) WHERE kind = 'delete'",),
}
"""What makes a database of each older format one of the next."""

COUNTERS: Final = {
    "next_ino": 2,
    "next_chunk": 1,
    "next_session": 1,
    "next_work": 1,
    "inodes": 1,
    "directories": 1,
    "files": 0,
    "allocated": 0,
    "log_index": 0,
}
"""Their values in an empty cluster, which has a root directory."""

ATTR_COLUMNS: Final = (
    "ino, mode, nlink, uid, gid, rdev, size, allocated, atime_ns, mtime_ns, ctime_ns, btime_ns, version, replicas"
)
"""The columns of `inode` that are a `dfs.types.Attr`, in its order."""
ENTRY_COLUMNS: Final = ", ".join(f"i.{column}" for column in ATTR_COLUMNS.split(", "))
"""Likewise, of `inode i` in a join."""
