"""Changes in what this client owns, answered here: what the NameNode will say, by what its commands say.

A session that owns a directory, and has an inode's attributes to itself, knows all that a command on them depends on.
Each method here does to the cache what the command of that name does to the NameNode's tables
(`nodes.namenode.commands`), gives the same result or error, and puts the command into the stream (`dfs.client.stream`).
It returns None, and does nothing, where something is not known or not owned: then the NameNode is to be asked. Nothing
here waits, so each change is of one moment.

Not answered here: what moves a directory to another one, which may not go below itself; what replaces a directory;
exchanges; devices. They are rare.

Times are this client's. New inodes get numbers of a range that the NameNode has reserved for the session; when half of
one is used, the next is asked for.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

import trio

from dfs import errors, limits
from dfs.client.cache import Cache, Directory, Known
from dfs.client.session import Session
from dfs.posix import CAPABILITY, RENAME_NOREPLACE, without_set_id
from dfs.types import Attr, Ino, SessionId

_TYPES: Final = frozenset({stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK})
SETTABLE: Final = frozenset({"mode", "uid", "gid", "atime_ns", "mtime_ns"})


class _Place(NamedTuple):
    """A name in a directory that is owned, and what it stands for: None is nothing."""

    parent: Ino
    name: bytes
    known: Known
    directory: Directory
    ino: Ino | None


class _Range(NamedTuple):
    """Inode numbers that may be used in a session, `last` included, until more changes are lost: they may be why."""

    session: SessionId | None
    losses: int
    first: Ino
    last: Ino


_NONE: Final = _Range(None, 0, Ino(1), Ino(0))


class Users(Protocol):
    """Who has files open here."""

    def is_open(self, ino: Ino) -> bool: ...

    def take_hold(self, ino: Ino) -> bool:
        """Whether a file is open here that the session does not hold. It counts as held from now on."""

    async def hold(self, ino: Ino) -> None:
        """Have the NameNode hold a file for the session, if it is open here and not held."""

    def may_save(self, ino: Ino) -> bool:
        """Whether all that is written to a file is committed, or `save_soon` sees to it."""

    def save_soon(self, ino: Ino) -> bool:
        """Have what is written to a file that `may_save` leave soon; whether anything is, and so a commit follows."""

    async def settle(self, ino: Ino, *, soon: bool = False) -> None:
        """Commit what is written to a file; with `soon` what `may_save` allows is left to `save_soon`.

        Raises why bytes of it were lost, if nobody has been told: it is to replace another one.
        """

    def gone(self, attr: Attr, *, is_private: bool) -> None:
        """A file has lost a name; its attributes after it. `is_private`: nobody else has ever known it."""


class Nobody:
    """Where nothing is ever open."""

    def is_open(self, ino: Ino) -> bool:
        return False

    def take_hold(self, ino: Ino) -> bool:
        return False

    async def hold(self, ino: Ino) -> None:
        pass

    def may_save(self, ino: Ino) -> bool:
        return True

    def save_soon(self, ino: Ino) -> bool:
        return False

    async def settle(self, ino: Ino, *, soon: bool = False) -> None:
        pass

    def gone(self, attr: Attr, *, is_private: bool) -> None:
        pass


class Owned:
    """What one session owns. `users` are told what happens to the files that they have open."""

    def __init__(self, session: Session, cache: Cache) -> None:
        self._session = session
        self._cache = cache
        self._numbers = self._following = _NONE
        self._reserving: trio.Event | None = None
        """Set, and gone, when the numbers that were asked for are there, or will never be."""
        self.users: Users = Nobody()

    # --- inode numbers ----------------------------------------------------------------------------------

    async def reserve(self) -> None:
        """Have numbers for new inodes; there may be none all the same. Raises as `Session.apply`.

        One asks for all who want some: of a session the NameNode keeps few ranges, and forgets those before.
        """
        if not (self._is_used_up(self._numbers) and self._is_used_up(self._following)):
            return
        if self._reserving is not None:
            await self._reserving.wait()  # bounded: whoever asks is given up by its deadlines
            return
        self._reserving = trio.Event()
        await self._reserve()

    def _is_used_up(self, numbers: _Range) -> bool:
        """Or not to be used any more."""
        of_now = numbers.session == self._session.session and numbers.losses == self._session.stream.losses
        return not of_now or numbers.first > numbers.last

    async def _reserve(self) -> None:
        """Ask for numbers, for whoever waits for `_reserving`."""
        try:
            session, losses = await self._session.ensure(), self._session.stream.losses
            first, last = await self._session.apply("reserve_inodes", limits.INODES_RESERVED)
            self._following = _Range(session, losses, Ino(first), Ino(last))
        finally:
            asked, self._reserving = self._reserving, None
            assert asked is not None, "it was set by who began"
            asked.set()

    async def _reserve_more(self) -> None:
        with suppress(errors.DfsError):  # who needs them will ask again, and hear why
            await self._reserve()

    def _number(self) -> Ino | None:
        """A number for a new inode, which nobody gets again."""
        if self._is_used_up(self._numbers):
            self._numbers, self._following = self._following, _NONE
        numbers = self._numbers
        if self._is_used_up(numbers):
            return None
        self._numbers = numbers._replace(first=Ino(numbers.first + 1))
        is_short = numbers.last - numbers.first < limits.INODES_RESERVED // 2
        if is_short and self._is_used_up(self._following) and self._reserving is None:
            self._reserving = trio.Event()
            self._session.spawn(self._reserve_more)
        return numbers.first

    # --- what is known ----------------------------------------------------------------------------------

    @property
    def _may_answer(self) -> bool:
        """Whether what is owned is so for certain, and changes of it need not be made at the NameNode."""
        return self._session.owns_directories and self._session.is_trusted

    def _place(self, parent: Ino, name: bytes) -> _Place | None:
        if not self._may_answer or len(name) > limits.NAME_MAX_BYTES or self._cache.is_changing((parent, name)):
            return None
        found = self._cache.owned_directory(parent)
        if found is None or name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
            return None
        known, directory = found
        if name not in directory.names and not directory.is_complete:
            return None
        return _Place(parent, name, known, directory, directory.names.get(name))

    def _free(self, parent: Ino, name: bytes) -> _Place | None:
        """A place where there is nothing. Raises `Exists`."""
        place = self._place(parent, name)
        if place is not None and place.ino is not None:
            raise errors.Exists("exists already")
        return place

    def _put(self, verb: str, args: tuple[object, ...], now_ns: int, expected: Attr | None, *inos: Ino) -> None:
        self._session.stream.put(verb, args, now_ns, expected, inos)

    # --- making -----------------------------------------------------------------------------------------

    def create(self, parent: Ino, name: bytes, mode: int, uid: int, gid: int, *, exclusive: bool) -> Attr | None:
        place = self._place(parent, name)
        if place is None:
            return None
        if place.ino is not None:
            return self._there(place.ino, exclusive=exclusive)
        return self._make(place, stat.S_IFREG | mode & 0o7777, uid, gid, "create", mode, uid, gid, exclusive, False)

    def _there(self, ino: Ino, *, exclusive: bool) -> Attr | None:
        """What creating gives where there is something."""
        if exclusive:
            raise errors.Exists("exists already")
        known = self._cache.inode(ino)
        if known is not None and stat.S_ISDIR(known.attr.mode):
            raise errors.IsADirectory("is a directory")
        return known.attr if known is not None else None

    def mkdir(self, parent: Ino, name: bytes, mode: int, uid: int, gid: int) -> Attr | None:
        place = self._free(parent, name)
        if place is None or place.known.attr.nlink >= limits.LINK_MAX:
            return None
        return self._make(place, stat.S_IFDIR | mode & 0o7777, uid, gid, "mkdir", mode, uid, gid)

    def mknod(self, parent: Ino, name: bytes, mode: int, uid: int, gid: int, rdev: int) -> Attr | None:
        kind = stat.S_IFMT(mode) or stat.S_IFREG
        place = self._free(parent, name)
        if place is None or kind not in _TYPES:
            return None
        return self._make(place, kind | mode & 0o7777, uid, gid, "mknod", mode, uid, gid, rdev)

    def symlink(self, parent: Ino, name: bytes, target: bytes, uid: int, gid: int) -> Attr | None:
        place = self._free(parent, name)
        if place is None or not 0 < len(target) < limits.PATH_MAX_BYTES or b"\0" in target:
            return None
        return self._make(place, stat.S_IFLNK | 0o777, uid, gid, "symlink", target, uid, gid, target=target)

    def _make(
        self, place: _Place, mode: int, uid: int, gid: int, verb: str, *args: object, target: bytes | None = None
    ) -> Attr | None:
        """A new inode with a name, as `Transaction.make_inode` and `add_entry` make it; None without a number for it.

        `args` are those of the verb between the name and the number.
        """
        ino = self._number()
        if ino is None:
            return None
        directory, is_directory = place.known.attr, stat.S_ISDIR(mode)
        if directory.mode & stat.S_ISGID:
            gid = directory.gid
            mode |= stat.S_ISGID if is_directory else 0
        now_ns = self._session.runtime.now_ns()
        replicas = directory.replicas if is_directory else directory.replicas or self._session.replicas
        size = len(target) if target is not None else 0
        attr = Attr(
            ino, mode, 2 if is_directory else 1, uid, gid, 0, size, 0, now_ns, now_ns, now_ns, now_ns, 1, replicas
        )
        self._cache.changed((place.parent, None), (place.parent, place.name), (ino, None))
        known = self._cache.put_inode(attr)
        known.target = target
        known.at = (place.parent, place.name)
        self._enter(place, ino, now_ns, subdirectories=is_directory)
        if is_directory:
            known.parent = place.parent
            self._cache.put_directory(ino)
        self._put(verb, (place.parent, place.name, *args, ino), now_ns, attr, place.parent, ino)
        return attr

    def _enter(self, place: _Place, ino: Ino, now_ns: int, *, subdirectories: int = 0) -> None:
        self._cache.put_name(place.directory, place.name, ino)
        self._change(place.known, now_ns, 1, subdirectories)

    def _strike(self, place: _Place, now_ns: int, *, subdirectories: int = 0) -> None:
        self._cache.take_name(place.directory, place.name)
        self._change(place.known, now_ns, -1, -subdirectories)

    @staticmethod
    def _change(known: Known, now_ns: int, entries: int, subdirectories: int) -> None:
        """So many entries more in a directory."""
        attr = known.attr
        known.attr = attr._replace(
            size=attr.size + entries,
            nlink=attr.nlink + subdirectories,
            mtime_ns=now_ns,
            ctime_ns=now_ns,
            version=attr.version + 1,
        )

    def link(self, ino: Ino, parent: Ino, name: bytes) -> Attr | None:
        known = self._cache.owned_inode(ino)
        if known is None or stat.S_ISDIR(known.attr.mode) or not 0 < known.attr.nlink < limits.LINK_MAX:
            return None
        place = self._free(parent, name)
        if place is None:
            return None
        now_ns = self._session.runtime.now_ns()
        self._cache.changed((parent, None), (parent, name), (ino, None))
        self._enter(place, ino, now_ns)
        attr = known.attr
        known.attr = attr._replace(nlink=attr.nlink + 1, ctime_ns=now_ns, version=attr.version + 1)
        self._put("link", (ino, parent, name), now_ns, known.attr, parent, ino)
        return known.attr

    # --- taking away ------------------------------------------------------------------------------------

    def unlink(self, parent: Ino, name: bytes) -> Attr | None:
        place = self._there_at(parent, name)
        known = self._file(place)
        if place is None or known is None:
            return None
        now_ns = self._session.runtime.now_ns()
        self._hold_if_open(known, now_ns)
        self._cache.changed((parent, None), (parent, name), (known.attr.ino, None))
        self._strike(place, now_ns)
        attr = self._drop_link(known, now_ns)
        self._put("unlink", (parent, name), now_ns, attr, parent, attr.ino)
        self.users.gone(attr, is_private=known.is_private)
        return attr

    def _there_at(self, parent: Ino, name: bytes) -> _Place | None:
        """A place where there is something. Raises `NotFound`."""
        place = self._place(parent, name)
        if place is not None and place.ino is None:
            raise errors.NotFound("no such file or directory")
        return place

    def _file(self, place: _Place | None) -> Known | None:
        """What is at a place, if it is no directory and is owned."""
        if place is None or place.ino is None:
            return None
        known = self._cache.owned_inode(place.ino)
        return None if known is None or stat.S_ISDIR(known.attr.mode) else known

    def _hold_if_open(self, known: Known, now_ns: int) -> None:
        """What is open here outlives its last name."""
        if known.attr.nlink == 1 and self.users.take_hold(known.attr.ino):
            self._put("hold", (known.attr.ino,), now_ns, None, known.attr.ino)

    def _drop_link(self, known: Known, now_ns: int) -> Attr:
        """One name less, as `Transaction.drop_link` takes it. What is gone with the last is kept until it is closed."""
        attr = known.attr._replace(nlink=known.attr.nlink - 1, ctime_ns=now_ns, version=known.attr.version + 1)
        known.attr = attr
        self._drop_if_gone(known)
        return attr

    def _drop_if_gone(self, known: Known) -> None:
        """With its last name and its last user: a change of it must not be taken for done here."""
        if not known.attr.nlink and not self.users.is_open(known.attr.ino):
            self._cache.drop(known.attr.ino)

    def rmdir(self, parent: Ino, name: bytes) -> Attr | None:
        place = self._there_at(parent, name)
        if place is None or place.ino is None:
            return None
        child = self._cache.owned_directory(place.ino)
        if child is None:
            return None
        known = child[0]
        if known.attr.size:
            raise errors.NotEmpty("directory not empty")
        now_ns = self._session.runtime.now_ns()
        self._cache.changed((parent, None), (parent, name), (place.ino, None))
        self._strike(place, now_ns, subdirectories=1)
        attr = known.attr._replace(nlink=0, ctime_ns=now_ns, version=known.attr.version + 1)
        self._cache.drop(attr.ino)
        self._put("rmdir", (parent, name), now_ns, attr, parent, attr.ino)
        return attr

    # --- changing ---------------------------------------------------------------------------------------

    def rename(self, parent: Ino, name: bytes, new_parent: Ino, new_name: bytes, flags: int) -> Attr | None:
        if flags not in (0, RENAME_NOREPLACE):
            return None
        source = self._there_at(parent, name)
        target = self._place(new_parent, new_name)
        known = self._moved(source, target)
        if source is None or target is None or known is None:
            return None
        old: Known | None = None
        if target.ino is not None:
            if flags == RENAME_NOREPLACE:
                raise errors.Exists("exists already")
            if target.ino == known.attr.ino:
                return known.attr  # POSIX: two names of one file, nothing happens
            old = self._file(target)
            if old is None or stat.S_ISDIR(known.attr.mode) or not self.users.may_save(known.attr.ino):
                return None
        return self._move(source, target, known, old, flags)

    def _moved(self, source: _Place | None, target: _Place | None) -> Known | None:
        """What is at a place, if it may be moved to the other one here."""
        if source is None or target is None or source.ino is None:
            return None
        known = self._file(source)
        if known is None and source.parent == target.parent:
            directory = self._cache.owned_directory(source.ino)
            # Others may know what is beneath, though not the directory itself: who is limited to that is to forget it.
            known = directory[0] if directory is not None and directory[0].is_private else None
        return known

    def _move(self, source: _Place, target: _Place, known: Known, old: Known | None, flags: int) -> Attr:
        ino, now_ns = known.attr.ino, self._session.runtime.now_ns()
        is_directory = stat.S_ISDIR(known.attr.mode)
        self._cache.changed((source.parent, None), (source.parent, source.name), (ino, None))
        self._cache.changed((target.parent, None), (target.parent, target.name))
        inos = [source.parent, target.parent, ino]
        gone: Attr | None = None
        if old is not None:
            self._hold_if_open(old, now_ns)
            self._cache.changed((old.attr.ino, None))
            self._strike(target, now_ns)
            gone = self._drop_link(old, now_ns)
            inos.append(gone.ino)
        self._strike(source, now_ns, subdirectories=is_directory)
        self._enter(target, ino, now_ns, subdirectories=is_directory)
        known.attr = known.attr._replace(ctime_ns=now_ns, version=known.attr.version + 1)
        args = (source.parent, source.name, target.parent, target.name, flags)
        self._put("rename", args, now_ns, known.attr, *inos)
        if gone is not None and old is not None:
            if self.users.save_soon(ino):
                self._session.stream.hold_back(ino, gone.ino)
            self.users.gone(gone, is_private=old.is_private)
        return known.attr

    def setattr(self, ino: Ino, changes: Mapping[str, int | str]) -> Attr | None:
        """As the command does it, of an inode that is owned."""
        known = self._changeable(ino) if changes.keys() <= SETTABLE else None
        if known is None:
            return None
        is_more = self._session.stream.sets(ino)
        now_ns = self._session.runtime.now_ns()
        if is_more:  # of one version, the later attributes have the later time
            now_ns = max(now_ns, known.attr.ctime_ns)
        values = {key: now_ns if value == "now" else int(value) for key, value in changes.items()}
        attr = known.attr
        if "mode" in values:
            values["mode"] = values["mode"] & 0o7777 | stat.S_IFMT(attr.mode)
        elif ("uid" in values or "gid" in values) and not stat.S_ISDIR(attr.mode):
            values["mode"] = without_set_id(attr.mode)
        if "uid" in values or "gid" in values:
            known.drop_capability()
        self._cache.changed((ino, None))
        known.attr = attr._replace(
            mode=values.get("mode", attr.mode),
            uid=values.get("uid", attr.uid),
            gid=values.get("gid", attr.gid),
            atime_ns=values.get("atime_ns", attr.atime_ns),
            mtime_ns=values.get("mtime_ns", attr.mtime_ns),
            ctime_ns=now_ns,
            version=attr.version if is_more else attr.version + 1,
        )
        if "mode" in values:
            values["mode"] = stat.S_IMODE(values["mode"])
        if is_more:
            self._session.stream.set_more(ino, values, now_ns, known.attr)
        else:
            self._put("setattr", (ino, values), now_ns, known.attr, ino)
        return known.attr

    def _changeable(self, ino: Ino) -> Known | None:
        """An inode that is owned, be it a directory."""
        if not self._may_answer:
            return None
        found = self._cache.owned_directory(ino)
        return found[0] if found is not None else self._cache.owned_inode(ino)

    def setxattr(self, ino: Ino, name: bytes, value: bytes, flags: int) -> Attr | None:
        """Where all of the inode's are known, as they are unless they are large; not a file's capability."""
        known = self._changeable(ino)
        if known is None or known.xattrs is None or flags or name == CAPABILITY:
            return None
        if b"\0" in name or name.find(b".") == len(name) - 1 or len(name) > limits.XATTR_NAME_MAX_BYTES:
            return None  # it says what is wrong with it
        values = {**known.xattrs, name: value}
        if sum(map(len, values)) + sum(map(len, values.values())) > limits.XATTRS_CACHED_MAX_BYTES:
            return None
        return self._change_xattrs(known, values, "setxattr", name, value, flags)

    def removexattr(self, ino: Ino, name: bytes) -> Attr | None:
        """Likewise. Raises `NoAttribute`."""
        known = self._changeable(ino)
        if known is None or known.xattrs is None or name == CAPABILITY:
            return None
        if name not in known.xattrs:
            raise errors.NoAttribute("no such extended attribute")
        values = {key: value for key, value in known.xattrs.items() if key != name}
        return self._change_xattrs(known, values, "removexattr", name)

    def _change_xattrs(self, known: Known, values: dict[bytes, bytes], verb: str, *args: bytes | int) -> Attr:
        now_ns, attr = self._session.runtime.now_ns(), known.attr
        self._cache.changed((attr.ino, None))
        known.xattrs = values
        known.attr = attr._replace(ctime_ns=now_ns, version=attr.version + 1)
        self._put(verb, (attr.ino, *args), now_ns, None, attr.ino)
        return known.attr

    def empty(self, ino: Ino) -> Attr | None:
        """As `truncate` to nothing does it, of a regular file that is owned; None where it has no name any more."""
        known = self._cache.owned_inode(ino) if self._may_answer else None
        if known is None or not known.attr.nlink or not stat.S_ISREG(known.attr.mode):
            return None
        now_ns, attr = self._session.runtime.now_ns(), known.attr
        known.drop_capability()
        self._cache.changed((ino, None))
        known.attr = attr._replace(
            mode=without_set_id(attr.mode),
            size=0,
            allocated=0,
            mtime_ns=now_ns,
            ctime_ns=now_ns,
            version=attr.version + 1,
        )
        self._put("truncate", (ino, 0), now_ns, known.attr, ino)
        return known.attr

    def release(self, ino: Ino) -> bool:
        """Undo one `hold`; whether that is done."""
        is_done = self._may_answer and self._cache.owned_inode(ino) is not None
        if is_done:
            self._put("release", (ino,), self._session.runtime.now_ns(), None, ino)
        known = self._cache.kept(ino)
        if known is not None:
            self._drop_if_gone(known)
        return is_done
