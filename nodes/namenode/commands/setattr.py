"""Change mode, owner, times or the number of copies."""

from __future__ import annotations

import stat
from collections.abc import Callable
from typing import Any

from dfs import errors, limits
from dfs.posix import without_set_id
from dfs.types import Attr
from nodes.namenode import arguments
from nodes.namenode.transaction import Transaction

_TIMES = ("atime_ns", "mtime_ns")


def apply(tx: Transaction, ino: Any, changes: Any) -> Attr:
    """`changes` maps some of mode, uid, gid, atime_ns, mtime_ns, replicas to values; a time may be "now".

    0 replicas are the default number: a directory follows it, a file takes it as it is now. The chunks of a file
    follow its number: those that are open when they are sealed.
    """
    attr = tx.attr(arguments.ino(ino))
    if not isinstance(changes, dict):
        raise errors.InvalidArgument("setattr wants a map of what to change")
    values: dict[str, Any] = {}
    for key, value in changes.items():
        check = _CHECKS.get(key)
        if check is None:
            raise errors.InvalidArgument(f"setattr cannot change {key!r}")
        values[key] = tx.now_ns if key in _TIMES and value == "now" else check(value)
    if values.get("replicas") == 0 and not stat.S_ISDIR(attr.mode):
        values["replicas"] = tx.replicas
    takes_rights = ("uid" in values or "gid" in values) and not stat.S_ISDIR(attr.mode)
    if "mode" in values:
        values["mode"] |= stat.S_IFMT(attr.mode)
    elif takes_rights:
        values["mode"] = without_set_id(attr.mode)
    if takes_rights:
        tx.drop_capability(attr.ino)
    after = attr._replace(**values, ctime_ns=tx.now_ns, version=attr.version + 1)
    tx.run(
        "UPDATE inode SET mode = ?, uid = ?, gid = ?, atime_ns = ?, mtime_ns = ?, ctime_ns = ?, replicas = ?,"
        " version = ? WHERE ino = ?",
        *(after.mode, after.uid, after.gid, after.atime_ns, after.mtime_ns, after.ctime_ns, after.replicas),
        *(after.version, attr.ino),
    )
    if after.replicas != attr.replicas and stat.S_ISREG(attr.mode):
        _follow(tx, after)
    return after


def _follow(tx: Transaction, file: Attr) -> None:
    chunks = tx.all(
        "SELECT chunk, replicas FROM chunk WHERE session = 0 AND replicas != ?"
        " AND chunk IN (SELECT DISTINCT chunk FROM extent WHERE ino = ?)",
        *(file.replicas, file.ino),
    )
    for chunk, wanted in chunks:
        if wanted < file.replicas or not tx.is_wanted_as_often(chunk, wanted):
            tx.run("UPDATE chunk SET replicas = ? WHERE chunk = ?", tx.copies_wanted(chunk), chunk)


def _replicas(value: Any) -> int:
    return arguments.integer(value, "a number of copies", 0, limits.REPLICAS_MAX)


_CHECKS: dict[Any, Callable[[Any], int]] = {
    "mode": arguments.permissions,
    "uid": arguments.owner,
    "gid": arguments.owner,
    "atime_ns": arguments.time_ns,
    "mtime_ns": arguments.time_ns,
    "replicas": _replicas,
}
