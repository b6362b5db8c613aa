"""A file system in memory, as POSIX has it, with the NameNode's additions: sessions, holds, chunks and commits.

It is written for plainness: a file is a list with the source of every byte, a directory a dict in the order of its
listing. `attempt` runs an operation and takes everything back if it fails.

A byte's source is (chunk, offset in it), None in a hole. Chunks are append-only, so equal sources are equal bytes.
"""

from __future__ import annotations

import copy
import dataclasses
import stat
from collections.abc import Mapping, Sequence
from typing import Any

from dfs import errors

ROOT = 1
NOREPLACE, EXCHANGE = 1, 2

Source = tuple[int, int] | None


@dataclasses.dataclass
class Inode:
    """`entries` maps names to (inode number, serial number of the entry), in the order of a listing."""

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    replicas: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    rdev: int = 0
    target: bytes | None = None
    parent: int = 0
    entries: dict[bytes, tuple[int, int]] = dataclasses.field(default_factory=dict)
    data: list[Source] = dataclasses.field(default_factory=list)
    xattrs: dict[bytes, bytes] = dataclasses.field(default_factory=dict)
    holds: dict[int, int] = dataclasses.field(default_factory=dict)

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def size(self) -> int:
        if self.target is not None:
            return len(self.target)
        return len(self.entries) if self.is_directory else len(self.data)

    @property
    def allocated(self) -> int:
        return sum(source is not None for source in self.data)


@dataclasses.dataclass
class Chunk:
    """`session` is 0 once it is sealed; `used` are the bytes that are or were a file's."""

    session: int
    replicas: int
    nodes: set[str]
    length: int = 0
    used: set[int] = dataclasses.field(default_factory=set)


@dataclasses.dataclass
class State:
    inodes: dict[int, Inode]
    chunks: dict[int, Chunk] = dataclasses.field(default_factory=dict)
    sessions: set[int] = dataclasses.field(default_factory=set)
    next_ino: int = 2
    next_chunk: int = 1
    next_serial: int = 1


class FileSystem:
    """Operations are named and called as the NameNode's commands; `session` and `now_ns` are set before."""

    def __init__(self, root: Inode, replicas: int, min_replicas: int) -> None:
        self.state = State({ROOT: root})
        self.session = 0
        self.now_ns = 0
        self._replicas = replicas
        self._min_replicas = min_replicas

    def attempt(self, verb: str, *args: Any) -> Any:
        """Run an operation. If it raises, nothing has changed."""
        before = copy.deepcopy(self.state)
        try:
            if self.session and self.session not in self.state.sessions:
                raise errors.SessionExpired("ended")
            return getattr(self, verb)(*args)
        except errors.DfsError:
            self.state = before
            raise

    # --- steps ------------------------------------------------------------------------------------------

    def _inode(self, ino: int) -> Inode:
        if ino not in self.state.inodes:
            raise errors.NotFound("gone")
        return self.state.inodes[ino]

    def _directory(self, ino: int) -> Inode:
        inode = self._inode(ino)
        if not inode.nlink:
            raise errors.NotFound("gone")
        if not inode.is_directory:
            raise errors.NotADirectory("no")
        return inode

    def _find(self, directory: Inode, name: bytes) -> Inode | None:
        entry = directory.entries.get(name)
        return self.state.inodes[entry[0]] if entry else None

    def _get(self, directory: Inode, name: bytes) -> Inode:
        found = self._find(directory, name)
        if found is None:
            raise errors.NotFound("no such name")
        return found

    def lookup(self, parent: int, name: bytes) -> Inode:
        return self._get(self._directory(parent), name)

    def _touch(self, directory: Inode) -> None:
        directory.mtime_ns = directory.ctime_ns = self.now_ns

    def _drop_set_id(self, inode: Inode) -> None:
        """Who changes a program, or takes it over, does not get its owner's rights."""
        if not stat.S_ISDIR(inode.mode):
            inode.mode &= ~(stat.S_ISUID | (stat.S_ISGID if inode.mode & stat.S_IXGRP else 0))

    def _enter(self, directory: Inode, name: bytes, inode: Inode) -> None:
        directory.entries[name] = (inode.ino, self.state.next_serial)
        self.state.next_serial += 1
        if inode.is_directory:
            directory.nlink += 1
            inode.parent = directory.ino
        self._touch(directory)

    def _strike(self, directory: Inode, name: bytes) -> Inode:
        inode = self.state.inodes[directory.entries.pop(name)[0]]
        directory.nlink -= inode.is_directory
        self._touch(directory)
        return inode

    def _make(self, directory: Inode, mode: int, uid: int, gid: int, nlink: int = 1) -> Inode:
        replicas = directory.replicas
        if not stat.S_ISDIR(mode):
            replicas = replicas or self._replicas
        if directory.mode & stat.S_ISGID:
            gid = directory.gid
            mode |= stat.S_ISGID if stat.S_ISDIR(mode) else 0
        ino, now = self.state.next_ino, self.now_ns
        self.state.next_ino += 1
        inode = self.state.inodes[ino] = Inode(ino, mode, nlink, uid, gid, replicas, now, now, now)
        return inode

    def _unlink(self, inode: Inode) -> None:
        inode.nlink = 0 if inode.is_directory else inode.nlink - 1
        inode.ctime_ns = self.now_ns
        self._forget_unused(inode)

    def _forget_unused(self, inode: Inode) -> None:
        if not inode.nlink and not inode.holds:
            del self.state.inodes[inode.ino]
            self._forget_chunks()

    def _forget_chunks(self) -> None:
        """A sealed chunk that no file uses is gone."""
        in_use = {source[0] for inode in self.state.inodes.values() for source in inode.data if source}
        for number, chunk in list(self.state.chunks.items()):
            if not chunk.session and number not in in_use:
                del self.state.chunks[number]

    def _make_way(self, directory: Inode, name: bytes, is_directory: bool) -> None:
        old = self._get(directory, name)
        if old.is_directory and not is_directory:
            raise errors.IsADirectory("is one")
        if not old.is_directory and is_directory:
            raise errors.NotADirectory("is none")
        if old.entries:
            raise errors.NotEmpty("has entries")
        self._unlink(self._strike(directory, name))

    def _is_below(self, directory: Inode, ancestor: Inode) -> bool:
        while directory.ino not in (ROOT, ancestor.ino):
            directory = self.state.inodes[directory.parent]
        return directory is ancestor

    # --- names ------------------------------------------------------------------------------------------

    def create(
        self, parent: int, name: bytes, mode: int, uid: int, gid: int, exclusive: bool = True, hold: bool = False
    ) -> Inode:
        directory = self._directory(parent)
        inode = self._find(directory, name)
        if inode is None:
            inode = self._make(directory, stat.S_IFREG | mode, uid, gid)
            self._enter(directory, name, inode)
        elif exclusive:
            raise errors.Exists("is there")
        elif inode.is_directory:
            raise errors.IsADirectory("is one")
        if hold:
            self.hold(inode.ino)
        return inode

    def create_unnamed(self, near: int, mode: int, uid: int, gid: int) -> Inode:
        inode = self._make(self._directory(near), stat.S_IFREG | mode, uid, gid, nlink=0)
        return self.hold(inode.ino)

    def _make_named(self, parent: int, name: bytes, mode: int, uid: int, gid: int, nlink: int = 1) -> Inode:
        directory = self._directory(parent)
        if name in directory.entries:
            raise errors.Exists("is there")
        inode = self._make(directory, mode, uid, gid, nlink)
        self._enter(directory, name, inode)
        return inode

    def mkdir(self, parent: int, name: bytes, mode: int, uid: int, gid: int) -> Inode:
        return self._make_named(parent, name, stat.S_IFDIR | mode, uid, gid, nlink=2)

    def mknod(self, parent: int, name: bytes, mode: int, uid: int, gid: int, rdev: int) -> Inode:
        inode = self._make_named(parent, name, mode, uid, gid)
        inode.rdev = rdev if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0
        return inode

    def symlink(self, parent: int, name: bytes, target: bytes, uid: int, gid: int) -> Inode:
        inode = self._make_named(parent, name, stat.S_IFLNK | 0o777, uid, gid)
        inode.target = target
        return inode

    def link(self, ino: int, parent: int, name: bytes, replace: bool = False) -> Inode:
        inode, directory = self._inode(ino), self._directory(parent)
        if inode.is_directory:
            raise errors.NotPermitted("one name only")
        if not inode.nlink and self.session not in inode.holds:
            raise errors.NotFound("gone")
        old = self._find(directory, name)
        if old is not None:
            if not replace:
                raise errors.Exists("is there")
            if old is inode:
                return inode
            self._make_way(directory, name, is_directory=False)
        self._enter(directory, name, inode)
        inode.nlink += 1
        inode.ctime_ns = self.now_ns
        return inode

    def unlink(self, parent: int, name: bytes) -> Inode:
        directory = self._directory(parent)
        if self._get(directory, name).is_directory:
            raise errors.IsADirectory("is one")
        inode = self._strike(directory, name)
        self._unlink(inode)
        return inode

    def rmdir(self, parent: int, name: bytes) -> Inode:
        directory = self._directory(parent)
        inode = self._get(directory, name)
        if not inode.is_directory:
            raise errors.NotADirectory("is none")
        if inode.entries:
            raise errors.NotEmpty("has entries")
        self._strike(directory, name)
        self._unlink(inode)
        return inode

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0) -> Inode:
        source, target = self._directory(parent), self._directory(new_parent)
        inode, old = self._get(source, name), self._find(target, new_name)
        if flags == NOREPLACE and old is not None:
            raise errors.Exists("is there")
        if flags == EXCHANGE and old is None:
            raise errors.NotFound("nothing to exchange")
        if inode.is_directory and source is not target and self._is_below(target, inode):
            raise errors.InvalidArgument("below itself")
        if flags == EXCHANGE and old and old.is_directory and source is not target and self._is_below(source, old):
            raise errors.InvalidArgument("below itself")
        if old is inode:
            return inode
        if flags == EXCHANGE:
            assert old is not None
            self._exchange(source, name, target, new_name)
            old.ctime_ns = self.now_ns
        else:
            if old is not None:
                self._make_way(target, new_name, inode.is_directory)
            self._strike(source, name)
            self._enter(target, new_name, inode)
        inode.ctime_ns = self.now_ns
        return inode

    def _exchange(self, source: Inode, name: bytes, target: Inode, new_name: bytes) -> None:
        one, other = self._strike(source, name), self._strike(target, new_name)
        self._enter(source, name, other)
        self._enter(target, new_name, one)

    # --- attributes -------------------------------------------------------------------------------------

    def setattr(self, ino: int, changes: Mapping[str, Any]) -> Inode:
        inode = self._inode(ino)
        if {"uid", "gid"} & set(changes):
            self._drop_set_id(inode)
        for key, value in changes.items():
            if key == "mode":
                inode.mode = stat.S_IFMT(inode.mode) | value
            else:
                setattr(inode, key, self.now_ns if value == "now" else value)
        if not inode.is_directory:
            inode.replicas = inode.replicas or self._replicas
        inode.ctime_ns = self.now_ns
        return inode

    def accessed(self, times: Sequence[tuple[int, int]]) -> None:
        for ino, atime_ns in times:
            inode = self.state.inodes.get(ino)
            if inode is not None and min(atime_ns, self.now_ns) > max(inode.atime_ns, inode.ctime_ns):
                inode.atime_ns = min(atime_ns, self.now_ns)

    def setxattr(self, ino: int, name: bytes, value: bytes, flags: int = 0) -> None:
        inode = self._inode(ino)
        if flags == 1 and name in inode.xattrs:
            raise errors.Exists("is there")
        if flags == 2 and name not in inode.xattrs:
            raise errors.NoAttribute("is not there")
        inode.xattrs[name] = value
        inode.ctime_ns = self.now_ns

    def removexattr(self, ino: int, name: bytes) -> None:
        inode = self._inode(ino)
        if name not in inode.xattrs:
            raise errors.NoAttribute("is not there")
        del inode.xattrs[name]
        inode.ctime_ns = self.now_ns

    # --- holds and sessions -----------------------------------------------------------------------------

    def hold(self, ino: int) -> Inode:
        inode = self._inode(ino)
        inode.holds[self.session] = inode.holds.get(self.session, 0) + 1
        return inode

    def release(self, ino: int) -> None:
        inode = self.state.inodes.get(ino)
        if inode is not None and self.session in inode.holds:
            inode.holds[self.session] -= 1
            if not inode.holds[self.session]:
                self._let_go(inode, self.session)

    def _let_go(self, inode: Inode, session: int) -> None:
        del inode.holds[session]
        self._forget_unused(inode)

    def open_session(self, session: int) -> None:
        self.state.sessions.add(session)

    def end_session(self, session: int) -> None:
        self.state.sessions.discard(session)
        for chunk in self.state.chunks.values():
            if chunk.session == session:
                chunk.session = 0
        for inode in list(self.state.inodes.values()):
            if session in inode.holds:
                self._let_go(inode, session)
        self._forget_chunks()

    # --- data -------------------------------------------------------------------------------------------

    def truncate(self, ino: int, size: int) -> Inode:
        inode = self._inode(ino)
        if inode.is_directory:
            raise errors.IsADirectory("is one")
        if not stat.S_ISREG(inode.mode):
            raise errors.InvalidArgument("no file")
        inode.data = inode.data[:size] + [None] * (size - len(inode.data))
        self._touch(inode)
        self._drop_set_id(inode)
        self._forget_chunks()
        return inode

    def allocate_chunks(self, replicas: int, places: Sequence[Sequence[str]]) -> list[list[Any]]:
        chunks: list[list[Any]] = []
        for names in places:
            self.state.chunks[self.state.next_chunk] = Chunk(self.session, replicas, set(names))
            chunks.append([self.state.next_chunk, list(names)])
            self.state.next_chunk += 1
        return chunks

    def commit(
        self,
        ino: int,
        extents: Sequence[tuple[int, int, int, int]],
        chunks: Sequence[tuple[int, int, Sequence[str]]],
        append: bool = False,
    ) -> tuple[Inode, int]:
        inode = self._inode(ino)
        if not stat.S_ISREG(inode.mode):
            raise errors.InvalidArgument("no file")
        for number, length, names in chunks:
            self._grow(self.state.chunks.get(number), length, names)
        named = {number for number, _, _ in chunks}
        base = len(inode.data) if append else 0
        for offset, length, number, start in extents:
            chunk = self.state.chunks.get(number)
            wanted = set(range(start, start + length))
            if chunk is None or number not in named or start + length > chunk.length or chunk.used & wanted:
                raise errors.InvalidArgument("not bytes that can be given")
            chunk.used |= wanted
            end = base + offset + length
            inode.data += [None] * (end - len(inode.data))
            inode.data[end - length : end] = [(number, position) for position in range(start, start + length)]
        self._touch(inode)
        self._drop_set_id(inode)
        self._forget_chunks()
        return inode, base

    def _grow(self, chunk: Chunk | None, length: int, names: Sequence[str]) -> None:
        if chunk is None or chunk.session != self.session:
            raise errors.ChunkSealed("not open here")
        chunk.nodes &= set(names)
        if len(chunk.nodes) < min(self._min_replicas, chunk.replicas):
            raise errors.NotEnoughNodes("too few")
        chunk.length = max(chunk.length, length)

    def seal(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            chunk = self.state.chunks.get(number)
            if chunk is not None and chunk.session == self.session:
                chunk.session = 0
                self._forget_chunks()
