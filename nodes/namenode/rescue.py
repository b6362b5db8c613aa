"""Mending the namespace: what an inode's entries, extents and holds say is right, its own columns follow.

Steps that the mending commands share. They lose nothing: an inode without a name gets one in /lost+found, an inode
that is missing while entries or extents of it are there is made again, for its owner is not known with the root's. A
chunk that only DataNodes know gets a file there.
"""

from __future__ import annotations

import stat
from typing import Final

from dfs import errors
from dfs.types import ROOT_INO, ChunkId, Extent, Ino
from nodes.namenode.pathnames import is_beneath_itself
from nodes.namenode.transaction import Directory, Transaction

LOST_AND_FOUND: Final = b"lost+found"


def mend(tx: Transaction, ino: Ino) -> list[str]:
    """Set an inode right; what was done, in a few words each. Nothing where nothing is wrong."""
    row = tx.one("SELECT mode FROM inode WHERE ino = ?", ino)
    if row is None:
        return restore(tx, ino)
    return _mend_directory(tx, ino) if stat.S_ISDIR(row[0]) else _mend_file(tx, ino)


# --- inodes that are missing ----------------------------------------------------------------------------


def restore(tx: Transaction, ino: Ino) -> list[str]:
    """Make an inode again that its entries or extents tell of."""
    holds_entries = ino == ROOT_INO or tx.one("SELECT 1 FROM dentry WHERE parent = ? LIMIT 1", ino) is not None
    if not holds_entries and not tx.one("SELECT 1 FROM extent WHERE ino = ? LIMIT 1", ino):
        return []
    root = tx.one("SELECT uid, gid FROM inode WHERE ino = ?", ROOT_INO) or (0, 0)
    mode = (stat.S_IFDIR | 0o700) if holds_entries else (stat.S_IFREG | 0o600)
    replicas = 0 if holds_entries else tx.replicas
    tx.run(
        "INSERT INTO inode VALUES (?, ?, 0, ?, ?, 0, 0, 0, ?, ?, ?, ?, 1, ?, ?, ?, NULL)",
        *(ino, mode, *root, *([tx.now_ns] * 4), replicas),
        *((ino if ino == ROOT_INO else 0, 1) if holds_entries else (0, 0)),
    )
    tx.count(mode, 1)
    tx.counters["next_ino"] = max(tx.counters["next_ino"], ino + 1)
    mend(tx, ino)
    return [f"made again as inode {ino}"]


# --- files ----------------------------------------------------------------------------------------------


def _mend_file(tx: Transaction, ino: Ino) -> list[str]:
    before = tx.attr(ino)
    names, total, furthest = tx.one(
        "SELECT (SELECT count(*) FROM dentry WHERE ino = ?), (SELECT ifnull(sum(length), 0) FROM extent WHERE ino = ?),"
        " (SELECT ifnull(max(offset + length), 0) FROM extent WHERE ino = ?)",
        *(ino, ino, ino),
    ) or (0, 0, 0)
    size = max(before.size, furthest) if stat.S_ISREG(before.mode) else before.size
    tx.run("UPDATE inode SET nlink = ?, size = ?, allocated = ? WHERE ino = ?", names, size, total, ino)
    done = [
        f"{what} set to {now}"
        for what, was, now in (("length", before.size, size), ("allocated bytes", before.allocated, total))
        if was != now
    ]
    if not names and (before.nlink or not _is_kept(tx, ino)):
        done.append(_shelter(tx, ino))
    elif names != before.nlink:
        done.append(f"links set to {names}")
    return _noted(tx, ino, done)


def _is_kept(tx: Transaction, ino: Ino) -> bool:
    held = tx.one("SELECT 1 FROM hold WHERE ino = ? UNION ALL SELECT 1 FROM doomed WHERE ino = ? LIMIT 1", ino, ino)
    return held is not None


def _noted(tx: Transaction, ino: Ino, done: list[str]) -> list[str]:
    if done:
        tx.run("UPDATE inode SET version = version + 1 WHERE ino = ?", ino)
    return done


# --- directories ----------------------------------------------------------------------------------------


def _mend_directory(tx: Transaction, ino: Ino) -> list[str]:
    done = _mend_names(tx, ino)
    return _noted(tx, ino, done + recount(tx, ino))


def _mend_names(tx: Transaction, ino: Ino) -> list[str]:
    """Exactly one name, none for the root, and `parent` where that is."""
    nlink, parent = tx.one("SELECT nlink, parent FROM inode WHERE ino = ?", ino) or (0, 0)
    names = tx.all("SELECT parent, name FROM dentry WHERE ino = ? ORDER BY parent != ?, parent, name", ino, parent)
    if ino == ROOT_INO:
        tx.run("UPDATE inode SET parent = ? WHERE ino = ?", ROOT_INO, ROOT_INO)
        superfluous = names
    elif not names:
        return [_shelter(tx, ino)] if nlink or not _is_kept(tx, ino) else []
    elif is_beneath_itself(tx.db, ino):
        superfluous = names
    else:
        superfluous = names[1:]
        if parent != names[0][0]:
            tx.shape_changes()
        tx.run("UPDATE inode SET parent = ? WHERE ino = ?", names[0][0], ino)
    done = [f"said to be in directory {names[0][0]}"] if names and parent != names[0][0] and ino != ROOT_INO else []
    for directory, name in superfluous:
        strike(tx, directory, name)
    if superfluous and len(superfluous) == len(names) and ino != ROOT_INO:
        return [*done, _shelter(tx, ino)]
    return done + (["one name kept"] if superfluous else [])


def recount(tx: Transaction, ino: Ino) -> list[str]:
    """A directory's size, links and next cookie as its entries have them."""
    before = tx.one("SELECT nlink, size, next_cookie FROM inode WHERE ino = ?", ino)
    if before is None:
        return []
    entries, inside, cookie = tx.one(
        "SELECT count(*), ifnull(sum(i.mode & 61440 = 16384), 0), ifnull(max(d.cookie), 0)"
        " FROM dentry d LEFT JOIN inode i ON i.ino = d.ino WHERE d.parent = ?",
        ino,
    ) or (0, 0, 0)
    named = ino == ROOT_INO or tx.one("SELECT 1 FROM dentry WHERE ino = ? LIMIT 1", ino) is not None
    after = (2 + inside if named else 0, entries, max(before[2], cookie, 1))
    tx.run("UPDATE inode SET nlink = ?, size = ?, next_cookie = ? WHERE ino = ?", *after, ino)
    words = ("links", "entries", "next place")
    return [f"{word} set to {now}" for word, was, now in zip(words, before, after, strict=True) if was != now]


def strike(tx: Transaction, parent: Ino, name: bytes) -> None:
    """Remove an entry, whatever it leads to, and count its directory anew."""
    tx.shape_changes()
    tx.run("DELETE FROM dentry WHERE parent = ? AND name = ?", parent, name)
    recount(tx, parent)


# --- /lost+found ----------------------------------------------------------------------------------------


def adopt(tx: Transaction, chunk: ChunkId, length: int) -> str:
    """Make a file of the bytes of a chunk that is not known; what was done.

    What they were, perhaps of many small files, nobody can tell any more: the newer namespace did.
    """
    shelter = _lost_and_found(tx)
    owner = tx.attr(shelter.ino)
    ino = tx.make_inode(shelter, stat.S_IFREG | 0o600, owner.uid, owner.gid, nlink=0).ino
    tx.run("INSERT INTO chunk VALUES (?, 0, ?, 0, ?)", chunk, length, tx.replicas)
    tx.point(ino, Extent(0, length, chunk, 0))
    tx.add_live(chunk, length)
    tx.run("UPDATE inode SET size = ?, allocated = ? WHERE ino = ?", length, length, ino)
    return _enter(tx, shelter, ino, b"chunk-%x" % chunk)


def _shelter(tx: Transaction, ino: Ino) -> str:
    """Give an inode without a name one in /lost+found; what was done."""
    return _enter(tx, _lost_and_found(tx), ino, b"%d" % ino)


def _enter(tx: Transaction, shelter: Directory, ino: Ino, name: bytes) -> str:
    tx.shape_changes()
    while tx.one("SELECT 1 FROM dentry WHERE parent = ? AND name = ?", shelter.ino, name):
        name += b"+"
    mode = tx.attr(ino).mode
    is_directory = stat.S_ISDIR(mode)
    tx.add_entry(shelter.ino, name, ino, subdirectories=is_directory)
    if is_directory:
        tx.run("UPDATE inode SET parent = ? WHERE ino = ?", shelter.ino, ino)
        recount(tx, ino)
    else:
        tx.run("UPDATE inode SET nlink = 1 WHERE ino = ?", ino)
    return f"is now /lost+found/{name.decode('ascii')}"


def _lost_and_found(tx: Transaction) -> Directory:
    """The directory for what has no name, made where it is missing. Raises `NotADirectory`."""
    if not tx.one("SELECT 1 FROM inode WHERE ino = ? AND nlink", ROOT_INO):
        mend(tx, ROOT_INO)
    found = tx.find(ROOT_INO, LOST_AND_FOUND)
    if found is not None and not stat.S_ISDIR(found.mode):
        raise errors.NotADirectory("/lost+found is not a directory: rename it, and run dfs fsck --repair again")
    if found is None:
        root = tx.directory(ROOT_INO)
        owner = tx.attr(ROOT_INO)
        found = tx.make_inode(root, stat.S_IFDIR | 0o700, owner.uid, owner.gid, nlink=2)
        tx.add_entry(ROOT_INO, LOST_AND_FOUND, found.ino, subdirectories=1)
    return tx.directory(found.ino)
