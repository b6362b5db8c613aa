"""Record when inodes were read: what access times are."""

from __future__ import annotations

from typing import Any

from dfs import errors, limits
from nodes.namenode import arguments
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, times: Any) -> None:
    """`times` is [[ino, atime_ns], ...]. A time counts that is later than the access time and the last change.

    Clients tell of reads some seconds late: by then an inode may be gone, or somebody may have set its times, which
    stand. A read is no change: neither the time of change nor the version moves.
    """
    for item in arguments.array(times, "a list of times", limits.ACCESSES_MAX):
        if not isinstance(item, list | tuple) or len(item) != 2:
            raise errors.InvalidArgument("not an inode number and a time")
        ino, atime_ns = arguments.ino(item[0]), min(arguments.time_ns(item[1]), tx.now_ns)
        tx.run(
            "UPDATE inode SET atime_ns = ? WHERE ino = ? AND atime_ns < ? AND ctime_ns < ?",
            atime_ns,
            ino,
            atime_ns,
            atime_ns,
        )
