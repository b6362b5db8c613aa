"""Give something another name, in one moment: rename(2) with its flags."""

from __future__ import annotations

import stat
from typing import Any

from dfs import errors
from dfs.posix import RENAME_EXCHANGE, RENAME_NOREPLACE
from dfs.types import Attr, Ino
from nodes.namenode import arguments
from nodes.namenode.transaction import Transaction


def apply(tx: Transaction, parent: Any, name: Any, new_parent: Any, new_name: Any, flags: Any = 0) -> Attr:
    """The attributes of what was renamed, after it."""
    source = tx.directory(arguments.ino(parent))
    target = source if new_parent == parent else tx.directory(arguments.ino(new_parent))
    if flags not in (0, RENAME_NOREPLACE, RENAME_EXCHANGE):
        raise errors.InvalidArgument(f"rename does not know flags {flags}")
    attr = tx.get(source.ino, arguments.name(name))
    old = tx.find(target.ino, arguments.name(new_name))
    if old is not None and flags == RENAME_NOREPLACE:
        raise errors.Exists("exists already")
    if flags == RENAME_EXCHANGE:
        if old is None:
            raise errors.NotFound("no such file or directory")
        _refuse_below_itself(tx, old, target.ino, source.ino)
    _refuse_below_itself(tx, attr, source.ino, target.ino)
    if old is not None and old.ino == attr.ino:
        return attr  # POSIX: two names of one file, nothing happens
    moved = (attr, old) if flags == RENAME_EXCHANGE else (attr,)
    with tx.moving([each.ino for each in moved if each is not None and stat.S_ISDIR(each.mode)]):
        if flags == RENAME_EXCHANGE:
            assert old is not None
            _exchange(tx, (source.ino, name, attr), (target.ino, new_name, old))
        else:
            _move(tx, (source.ino, name, attr), (target.ino, new_name, old))
    return tx.attr(attr.ino)


def _refuse_below_itself(tx: Transaction, attr: Attr, old_parent: Ino, new_parent: Ino) -> None:
    if old_parent != new_parent and stat.S_ISDIR(attr.mode) and tx.is_below(new_parent, attr.ino):
        raise errors.InvalidArgument("a directory cannot be moved below itself")


def _move(tx: Transaction, source: tuple[Ino, bytes, Attr], target: tuple[Ino, bytes, Attr | None]) -> None:
    parent, name, attr = source
    new_parent, new_name, old = target
    is_directory = stat.S_ISDIR(attr.mode)
    if old is not None:
        tx.remove_target(old, new_parent, new_name, is_directory)
    tx.remove_entry(parent, name, subdirectories=is_directory)
    tx.add_entry(new_parent, new_name, attr.ino, subdirectories=is_directory)
    _moved(tx, attr, new_parent)


def _exchange(tx: Transaction, one: tuple[Ino, bytes, Attr], other: tuple[Ino, bytes, Attr]) -> None:
    for parent, name, attr in (one, other):
        tx.remove_entry(parent, name, subdirectories=stat.S_ISDIR(attr.mode))
    for (parent, name, _), (_, _, attr) in ((one, other), (other, one)):
        tx.add_entry(parent, name, attr.ino, subdirectories=stat.S_ISDIR(attr.mode))
        _moved(tx, attr, parent)


def _moved(tx: Transaction, attr: Attr, parent: Ino) -> None:
    tx.touch_ctime(attr.ino)
    if stat.S_ISDIR(attr.mode):
        tx.run("UPDATE inode SET parent = ? WHERE ino = ?", parent, attr.ino)
