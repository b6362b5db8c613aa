"""What the kernel asks, through pyfuse3, translated into `dfs.client`.

Every handler is wrapped in `_handler`: an error of ours becomes its errno, anything unexpected EIO and a traceback in
the log, so no bug of one operation ends the mount.

Permissions are the kernel's to check (`default_permissions`). Set-id bits on writes and changes of owner are the
NameNode's to clear, as libfuse asks for. Reads move access times as `dfs.client.accesses` says.
"""

from __future__ import annotations

import errno
import functools
import json
import mmap
import os
import stat
from collections.abc import Callable, Coroutine, Sequence
from contextlib import nullcontext
from typing import Any, Final, ParamSpec, TypeVar

import pyfuse3
import structlog
import trio

from dfs import errors, limits
from dfs.client import virtual
from dfs.client.accesses import Accesses
from dfs.client.filesystem import FileSystem
from dfs.client.openinode import OpenInode
from dfs.client.openinodes import OpenInodes
from dfs.mountoptions import NOBODY, Options
from dfs.posix import CAPABILITY, time_ns
from dfs.types import ROOT_INO, Attr, DirEntry, Ino
from mount.device import NO_FLUSH, Device
from mount.handles import DirectoryHandle, FileHandle, Handles
from mount.kernel import Kernel
from mount.loop import handled
from mount.retries import Retries, Retry

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger(__name__)

_BLOCK: Final = 4096
_SECTOR: Final = 512
_CREATE_ATTEMPTS: Final = 4
"""Of a file that others make and remove meanwhile."""
_READS_FOR_A_LEASE: Final = 64
_READ_AGAIN_S: Final = 0.003
"""About as long as a change of another mount's takes."""
_INODES_SHOWN: Final = 2**40
"""There is no limit; programs want a number."""
_TRUSTED: Final = b"trusted."
"""The namespace of attributes that root sees, and nobody else."""
_XATTR_NAMESPACES: Final = (b"user.", _TRUSTED, b"security.", virtual.PREFIX)
_STATISTICS: Final = b"dfs.statistics"
_SELINUX: Final = b"security.selinux"
"""`ls -l` asks for it of every file, unless it hears of the first that there is no such thing here. Where SELinux is in
use, the kernel answers itself."""
_BY_NAME: Final = {"lookup", "unlink", "rmdir", "rename"}
"""Handlers that are given a name that may be missing."""
_AWAY: Final = (errors.Unreachable, errors.DeadlineExceeded, errors.ConnectionLost, errors.Busy)
"""Busy among them: programs take EAGAIN from a read of a file for its end."""


def _handler(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """The boundary round a handler; the only exception that leaves it is FUSEError.

    What is asked by inode number and has gone meanwhile, because it was renamed over perhaps, is stale, not missing:
    then the kernel looks the path up again, which may lead to something else now.
    """
    missing = errno.ENOENT if function.__name__ in _BY_NAME else errno.ESTALE

    @functools.wraps(function)
    async def bounded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await handled(function(*args, **kwargs))
        except pyfuse3.FUSEError as error:
            if error.errno == errno.ESTALE:
                _note_gone(args)
            raise
        except _AWAY as error:
            log.warning("the cluster does not answer", operation=function.__name__, error=str(error))
            raise pyfuse3.FUSEError(errno.ETIMEDOUT) from None
        except errors.NotFound:
            if missing == errno.ESTALE:
                _note_gone(args)
            raise pyfuse3.FUSEError(missing) from None
        except errors.SessionExpired as error:  # the kernel would take ESTALE for a reason to look the path up again
            log.warning("operation failed", operation=function.__name__, error=str(error))
            raise pyfuse3.FUSEError(errno.EIO) from None
        except errors.DfsError as error:
            if error.errno in (errno.EIO, errno.ENOSPC):
                log.warning("operation failed", operation=function.__name__, error=str(error))
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from None
        except Exception:
            log.exception("operation failed unexpectedly", operation=function.__name__)
            raise pyfuse3.FUSEError(errno.EIO) from None

    return bounded


def _note_gone(args: Sequence[Any]) -> None:
    """Arguments of a handler: somebody is told that what a path led to is gone."""
    for each in args:
        if isinstance(each, pyfuse3.RequestContext):
            args[0].retries.note(each.pid)


def _check_namespace(name: bytes) -> None:
    """Names of other kinds mean something, such as access control lists: to keep them and not obey were a lie."""
    if not name.startswith(_XATTR_NAMESPACES):
        raise errors.NotSupported("extended attributes are of user, trusted or security")


class Operations(pyfuse3.Operations):  # type: ignore[misc]  # Any: see pyproject.toml
    """One mount of the directory `root` of a cluster. The kernel's inode 1 is `root`, every other number the same."""

    enable_writeback_cache = False

    def __init__(
        self,
        fs: FileSystem,
        inodes: OpenInodes,
        accesses: Accesses,
        kernel: Kernel,
        device: Device,
        root: Ino,
        options: Options,
    ) -> None:
        super().__init__()
        self._device = device
        self._kernel = kernel
        self._fs = fs
        self._open = inodes
        self._accesses = accesses
        self._root = root
        self.supports_dot_lookup = root == ROOT_INO
        """Whether whoever names a file by its handle, as an NFS server does, is heard: never what is beside `root`."""
        self._options = options
        self._handles = Handles()
        self.retries = Retries()
        """Who has found an inode gone that a path had led to."""

    # --- translating ------------------------------------------------------------------------------------

    def _ino(self, inode: int) -> Ino:
        return self._root if inode == pyfuse3.ROOT_INODE else Ino(inode)

    def _entry(self, attr: Attr, parent: Ino | None = None, name: bytes = b"") -> pyfuse3.EntryAttributes:
        """What the kernel is told of an inode; of the name too with which it was found in `parent`."""
        name_timeout_s = 0.0 if parent is None else self._kernel.name_timeout_s(parent, name, attr.ino)
        return self._attributes(attr, name_timeout_s, self._kernel.attr_timeout_s(attr))

    def _attributes(self, attr: Attr, name_timeout_s: float, attr_timeout_s: float) -> pyfuse3.EntryAttributes:
        attr = self._accesses.shown(attr)
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = pyfuse3.ROOT_INODE if attr.ino == self._root else attr.ino
        entry.generation = 0
        entry.entry_timeout, entry.attr_timeout = name_timeout_s, attr_timeout_s
        entry.st_mode, entry.st_nlink, entry.st_rdev = attr.mode, attr.nlink, attr.rdev
        entry.st_uid = attr.uid if self._options.uid is None else self._options.uid
        entry.st_gid = attr.gid if self._options.gid is None else self._options.gid
        entry.st_size = attr.size
        entry.st_blksize = limits.LISTED_BYTES if stat.S_ISDIR(attr.mode) else limits.IO_BYTES
        entry.st_blocks = -(-attr.allocated // _SECTOR)
        entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns = attr.atime_ns, attr.mtime_ns, attr.ctime_ns
        entry.st_birthtime_ns = attr.btime_ns
        return entry

    async def _seen(self, attr: Attr, parent: Ino | None = None, name: bytes = b"") -> pyfuse3.EntryAttributes:
        return self._entry(await self._open.seen(attr), parent, name)

    def _absent(self, parent: Ino, name: bytes) -> pyfuse3.EntryAttributes:
        """What says that there is nothing of that name."""
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = 0
        entry.entry_timeout = self._kernel.name_timeout_s(parent, name, None)
        return entry

    def _changing(self, *parents: int) -> tuple[Ino, ...]:
        """The directories that the kernel has locked for what it asks."""
        inos = tuple(map(self._ino, parents))
        for ino in inos:
            self._kernel.changes(ino)
        return inos

    def _owner(self, ctx: pyfuse3.RequestContext) -> tuple[int, int]:
        """Whom what is made for this request belongs to."""
        squash = self._options.root_squash and ctx.uid == 0
        uid, gid = (NOBODY, NOBODY) if squash else (ctx.uid, ctx.gid)
        chosen = self._options
        return (uid if chosen.uid is None else chosen.uid), (gid if chosen.gid is None else chosen.gid)

    # --- names ------------------------------------------------------------------------------------------

    @_handler
    async def lookup(self, parent_inode: int, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        if name == b".":
            return await self._seen(await self._fs.inodes.getattr(self._ino(parent_inode)))
        if name == b"..":
            ino = self._ino(parent_inode)
            return self._entry(
                await (self._fs.inodes.getattr(ino) if ino == self._root else self._fs.inodes.parent(ino))
            )
        parent = self._ino(parent_inode)
        try:
            retry = self.retries.of(ctx.pid)
            if retry is not None:
                found = await self._lasting(parent, name, ctx.pid, retry)
            else:
                found = await self._fs.inodes.lookup(parent, name)
        except errors.NotFound:
            return self._absent(parent, name)
        return await self._seen(found, parent, name)

    async def _lasting(self, parent: Ino, name: bytes, thread: int, retry: Retry) -> Attr:
        """What a name leads to: if it is a file, it is there for this thread whatever becomes of the name."""
        while True:
            found = await self._fs.inodes.lookup(parent, name)
            if not stat.S_ISREG(found.mode):
                return found
            try:
                opened = await self._open.acquire(found.ino, os.fsdecode(name))
            except errors.NotFound:
                continue  # replaced once more
            self._open.start(self._let_go, opened, thread, retry)
            return found

    async def _let_go(self, opened: OpenInode, thread: int, retry: Retry) -> None:
        try:
            await self.retries.stay(thread, retry)
        finally:
            self._open.close(opened)

    @_handler
    async def getattr(self, inode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        try:
            return await self._seen(await self._open.getattr(self._ino(inode)))
        except errors.NotFound:
            attr = self._handles.open_directory(self._ino(inode))
            if attr is None:
                raise
            return self._entry(attr._replace(nlink=0, size=0))  # it was removed, and is open still

    @_handler
    async def setattr(
        self, inode: int, attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields, fh: int | None, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        ino = self._ino(inode)
        changes: dict[str, int | str] = {}
        if fields.update_mode:
            changes["mode"] = stat.S_IMODE(attr.st_mode)
        if fields.update_uid or fields.update_gid:
            if self._options.root_squash and ctx.uid == 0:
                raise errors.NotPermitted("root is nobody on this mount")
            changes |= {"uid": attr.st_uid} if fields.update_uid else {}
            changes |= {"gid": attr.st_gid} if fields.update_gid else {}
        if fields.update_atime:
            changes["atime_ns"] = time_ns(attr.st_atime_ns)
        if fields.update_mtime:
            changes["mtime_ns"] = time_ns(attr.st_mtime_ns)
        now: Attr | None = None
        opened = self._open.find(ino)
        set_id = fields.update_mode and attr.st_mode & (stat.S_ISUID | stat.S_ISGID)
        if fields.update_size:
            now = await self._truncate(ino, opened, attr.st_size)
        elif opened is not None and not (opened.is_owned and opened.is_simple and not set_id):
            await opened.settle()  # what was written before must not undo this
        if changes:
            if self._accesses.is_pending(ino):
                read_ns = self._accesses.take(now or await self._fs.inodes.getattr(ino))
                if read_ns is not None:
                    changes.setdefault("atime_ns", read_ns)
            now = await self._set(ino, opened, changes)
        return await self._seen(now or await self._fs.inodes.getattr(ino))

    async def _set(self, ino: Ino, opened: OpenInode | None, changes: dict[str, int | str]) -> Attr:
        mtime_ns = changes.get("mtime_ns")
        if opened is None or not isinstance(mtime_ns, int):
            now = await self._fs.inodes.setattr(ino, changes)
        else:
            if mtime_ns > self._open.now_ns():
                await opened.settle()  # what is committed with a time of modification is not changed before it
            before = opened.expect_mtime(mtime_ns)
            try:
                now = await self._fs.inodes.setattr(ino, changes)
            except BaseException:
                opened.expect_mtime(before)
                raise
        self._note_own(ino, now)
        return now

    async def _truncate(self, ino: Ino, opened: OpenInode | None, size: int) -> Attr:
        if opened is not None:
            return await opened.truncate(size)
        attr = await self._fs.inodes.truncate(ino, size)
        if size == 0:
            self._open.take_loss(ino)
        return attr

    @_handler
    async def readlink(self, inode: int, ctx: Any) -> bytes:
        return await self._fs.inodes.readlink(self._ino(inode))

    @_handler
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        (parent,) = self._changing(parent_inode)
        made = await self._fs.inodes.mknod(parent, name, mode, *self._owner(ctx), rdev)
        return self._entry(made, parent, name)

    @_handler
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        (parent,) = self._changing(parent_inode)
        made = await self._fs.inodes.mkdir(parent, name, stat.S_IMODE(mode), *self._owner(ctx))
        return self._entry(made, parent, name)

    @_handler
    async def unlink(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        (parent,) = self._changing(parent_inode)
        await self._fs.inodes.unlink(parent, name)

    @_handler
    async def rmdir(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        (parent,) = self._changing(parent_inode)
        await self._fs.inodes.rmdir(parent, name)

    @_handler
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        (parent,) = self._changing(parent_inode)
        made = await self._fs.inodes.symlink(parent, name, target, *self._owner(ctx))
        return self._entry(made, parent, name)

    @_handler
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: Any,
    ) -> None:
        old, new = self._changing(parent_inode_old, parent_inode_new)
        self._kernel.renames(old, name_old, new, name_new)
        await self._fs.inodes.rename(old, name_old, new, name_new, flags)

    @_handler
    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        (parent,) = self._changing(new_parent_inode)
        return await self._seen(await self._fs.inodes.link(self._ino(inode), parent, new_name), parent, new_name)

    # --- files ------------------------------------------------------------------------------------------

    @_handler
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        """Make and open a file, of a name that the kernel has found free."""
        (parent,) = self._changing(parent_inode)
        mode, (uid, gid) = stat.S_IMODE(mode), self._owner(ctx)
        opened = None
        for _ in range(_CREATE_ATTEMPTS):
            try:
                opened = await self._open.create(parent, name, mode, uid, gid, exclusive=True)
            except errors.Exists:
                if flags & os.O_EXCL:
                    raise
                opened = await self._open_what_was_made(parent, name, flags, ctx)
            if opened is not None:
                break
        if opened is None:
            raise pyfuse3.FUSEError(errno.ESTALE)
        if flags & os.O_TRUNC and opened.shown().size:
            await self._cut(opened)
        try:
            shown = await self._seen(opened.attr, parent, name)
        except BaseException:
            self._open.close(opened)
            raise
        info = self._opened(opened, flags)
        self._device.add_open_flags(self._closing_flags(info))
        return info, shown

    async def _open_what_was_made(
        self, parent: Ino, name: bytes, flags: int, ctx: pyfuse3.RequestContext
    ) -> OpenInode | None:
        """A file that somebody else has made since the kernel has found its name free; None if it has gone again.

        The kernel takes it for made by who opens it, and checks nothing. So it is opened here only where there can be
        no doubt: else the kernel is to look again, and open it as any other. It does so once.
        """
        try:
            attr = await self._fs.inodes.lookup(parent, name)
            wanted = stat.S_IRUSR * (flags & os.O_ACCMODE != os.O_WRONLY)
            wanted |= stat.S_IWUSR * (flags & os.O_ACCMODE != os.O_RDONLY or bool(flags & os.O_TRUNC))
            if not stat.S_ISREG(attr.mode) or attr.uid != ctx.uid or attr.mode & wanted != wanted:
                raise pyfuse3.FUSEError(errno.ESTALE)
            return await self._open.acquire(attr.ino, os.fsdecode(name))
        except errors.NotFound:
            return None

    @_handler
    async def open(self, inode: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        ino = self._ino(inode)
        opened = await self._open.acquire(ino, f"inode {ino}")
        if flags & os.O_TRUNC:  # only of a kernel that could not be told to ask for the cut (mount.device)
            await self._cut(opened)
        elif flags & os.O_ACCMODE != os.O_WRONLY:
            self._open.reads(opened)
        self.retries.opened(ctx.pid)
        info = self._opened(opened, flags)
        self._device.add_open_flags(self._closing_flags(info))
        return info

    def _closing_flags(self, info: pyfuse3.FileInfo) -> int:
        return 0 if self._handles.files[info.fh].is_flushed else NO_FLUSH

    async def _cut(self, opened: OpenInode) -> None:
        """Take away all that a file has that is being opened; if that fails, it is not opened."""
        try:
            await opened.truncate(0)
        except BaseException:
            self._open.close(opened)
            raise

    def _opened(self, inode: OpenInode, flags: int) -> pyfuse3.FileInfo:
        """A handle that appends is used past the page cache: there, the kernel may cut one write(2) in two.

        Closing a file is a request of its own only where it has something to wait for, and to tell.
        """
        append, access = bool(flags & os.O_APPEND), flags & os.O_ACCMODE
        keep = self._kernel.keeps_pages(inode.attr)
        handle = FileHandle(
            inode,
            append,
            is_flushed=access != os.O_RDONLY and inode.is_flushed_on_close,
            is_durable=bool(flags & os.O_DSYNC),
            is_cached=keep and not append and access != os.O_WRONLY,
            moves_atime=self._options.keeps_file_atimes and not flags & os.O_NOATIME,
        )
        return pyfuse3.FileInfo(fh=self._handles.add_file(handle), direct_io=append, keep_cache=keep)

    @_handler
    async def read(self, fh: int, off: int, size: int) -> Any:
        handle = self._handles.files[fh]
        inode = handle.inode
        found = await inode.read(off, size)
        if not (handle.append or self._is_covered(inode)):
            found = await self._read_again(inode, off, size, found)
        if handle.moves_atime:
            self._accesses.read(inode.attr)
        return found

    def _is_covered(self, inode: OpenInode) -> bool:
        """Whether what is told of a file now is recalled when somebody changes it. If it has no name, nobody does."""
        return self._fs.inodes.cached_attr(inode.ino) is not None or not inode.attr.nlink

    async def _read_again(self, inode: OpenInode, off: int, size: int, found: Any) -> Any:
        """What a file holds that others change at this moment, so that there is no lease on it; under one if may be.

        What is mapped is written back as whole pages: of an older one that would undo what others have written.
        """
        for _ in range(_READS_FOR_A_LEASE):
            if not self._fs.session.is_trusted or self._kernel.tells_meanwhile(inode.ino):
                break
            await trio.sleep(_READ_AGAIN_S)
            found = await inode.read(off, size)
            if self._is_covered(inode):
                return found
        self._kernel.forget_soon(inode.ino)
        return found

    @_handler
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        handle = self._handles.files[fh]
        handle.tell_writer()
        handle.is_cached = False
        if handle.append:
            await handle.inode.append(buf)
            if handle.is_durable:  # the kernel asks for an fsync of its own for what goes through its page cache only
                await handle.fsync()
        else:
            is_whole = off % mmap.PAGESIZE == 0 == len(buf) % mmap.PAGESIZE
            with nullcontext() if is_whole else self._kernel.writing_part(handle.inode.ino):
                await handle.inode.write(off, buf)
            if not self._is_covered(handle.inode):
                self._kernel.forget_soon(handle.inode.ino)
        is_untold = not handle.is_flushed and self._open.is_cautious  # closing will not tell whether there was room
        if is_untold or self._open.is_out_of_space:
            await handle.inode.flush()
        return len(buf)

    @_handler
    async def flush(self, fh: int) -> None:
        await self._handles.files[fh].flush()

    @_handler
    async def release(self, fh: int) -> None:
        handle = self._handles.files.pop(fh)
        inode = handle.inode
        is_read = handle.is_cached and inode.attr.nlink and handle.moves_atime
        if is_read and self._accesses.read(inode.attr):
            self._kernel.forget_attributes(inode.ino)
        self._open.close(inode)

    @_handler
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._handles.files[fh].fsync()

    # --- directories ------------------------------------------------------------------------------------

    @_handler
    async def opendir(self, inode: int, ctx: Any) -> int:
        attr = await self._fs.inodes.getattr(self._ino(inode))
        flags = self._kernel.listing_flags(attr)
        reading = await self._kernel.begins_pass(attr.ino) if flags else None
        number = self._handles.add_directory(DirectoryHandle(self._fs, attr, reading))
        self._device.add_open_flags(flags)
        return number

    @_handler
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Positions: 1 is after `.`, 2 after `..`, and two more than its cookie is after an entry."""
        handle = self._handles.directories[fh]
        if start_id == 0:
            handle.rewind()
            if handle.reading is not None:
                handle.reading = await self._kernel.begins_pass(handle.attr.ino)
        if start_id == 0 and self._options.keeps_directory_atimes:
            self._accesses.read(handle.attr)
        above = await self._above(handle.attr) if start_id < 2 else None
        entries, is_new = await self._entries(handle, max(0, start_id - 2))
        for attr in self._open.unsettled(entry.attr for entry in entries):
            await self._open.seen(attr)
            is_new = False
        if not entries and start_id >= 2 and handle.reading is not None:
            await self._kernel.ends_listing(handle.attr.ino, handle.reading)
            return
        # From here on nothing is waited for: what is recalled from now on the kernel has, or is just getting.
        if above is None or self._reply_dots(handle.attr, above, start_id, token):
            self._reply_entries(handle, entries, token, is_new=is_new)
        if handle.reading is not None:
            self._kernel.lists(handle.attr.ino, handle.reading)

    def _reply_entries(
        self, handle: DirectoryHandle, entries: Sequence[DirEntry], token: pyfuse3.ReaddirToken, *, is_new: bool
    ) -> None:
        """As many as there is room for. `is_new`: they have just been looked at."""
        newest = entries if is_new else map(self._newest, entries)
        for entry, name_timeout_s, attr_timeout_s in self._kernel.tell_entries(handle.attr.ino, newest):
            attr = self._open.seen_now(entry.attr)
            if attr is None:  # it is being written again: whoever wants to know more asks, and waits
                attr, attr_timeout_s = entry.attr, 0.0
            shown = self._attributes(attr, name_timeout_s, attr_timeout_s)
            if not pyfuse3.readdir_reply(token, entry.name, shown, entry.cookie + 2):
                return

    def _newest(self, entry: DirEntry) -> DirEntry:
        return entry._replace(attr=self._fs.inodes.cached_attr(entry.attr.ino) or entry.attr)

    async def _entries(self, handle: DirectoryHandle, after: int) -> tuple[list[DirEntry], bool]:
        try:
            return await handle.entries(after)
        except errors.NotFound:
            return [], True  # it was removed, and is open still

    async def _above(self, own: Attr) -> Attr:
        """What `..` is."""
        if own.ino in (self._root, ROOT_INO):
            return own
        try:
            return await self._fs.inodes.parent(own.ino)
        except errors.NotFound:
            return own  # it was removed, and is open still

    def _reply_dots(self, own: Attr, above: Attr, start_id: int, token: pyfuse3.ReaddirToken) -> bool:
        if start_id == 0 and not pyfuse3.readdir_reply(token, b".", self._entry(own), 1):
            return False
        return bool(pyfuse3.readdir_reply(token, b"..", self._entry(above), 2))

    @_handler
    async def releasedir(self, fh: int) -> None:
        del self._handles.directories[fh]

    @_handler
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self._handles.directories[fh].fsync()

    # --- the rest ---------------------------------------------------------------------------------------

    @_handler
    async def statfs(self, ctx: Any) -> pyfuse3.StatvfsData:
        """In bytes of files with the default number of copies, so that `df` says what a user can store."""
        found = await self._fs.statfs()
        copies = max(1, found.replicas)
        data = pyfuse3.StatvfsData()
        data.f_bsize = limits.IO_BYTES
        data.f_frsize = _BLOCK
        free = found.free_bytes // copies // _BLOCK
        data.f_blocks = free + -(-found.used_bytes // _BLOCK)
        data.f_bfree = data.f_bavail = free
        data.f_files = _INODES_SHOWN
        data.f_ffree = data.f_favail = _INODES_SHOWN - found.inodes
        data.f_namemax = limits.NAME_MAX_BYTES
        return data

    @_handler
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Any) -> None:
        _check_namespace(name)
        if name.startswith(virtual.PREFIX):
            raise errors.NotPermitted("extended attributes that begin with dfs. are the cluster's own")
        ino = self._ino(inode)
        if name == CAPABILITY:
            await self._settle_for(ino)  # or what was written before would take it away
        self._note_own(ino, await self._fs.inodes.setxattr(ino, name, value))

    def _note_own(self, ino: Ino, now: Attr | None) -> None:
        """A change of this mount's own left a file's bytes as they were, and its attributes are these."""
        if now is not None:
            self._kernel.changed(now)
            opened = self._open.find(ino)
            if opened is not None:
                opened.note_own(now)

    @_handler
    async def getxattr(self, inode: int, name: bytes, ctx: Any) -> bytes:
        _check_namespace(name)
        ino = self._ino(inode)
        if name == _STATISTICS:
            return json.dumps(self._statistics(), indent=1).encode()
        if name.startswith(virtual.PREFIX):
            await self._settle_for(ino)
            attr = await self._open.seen(await self._fs.inodes.getattr(ino))
            return await virtual.read(self._fs, attr, name)
        try:
            found = await self._fs.inodes.getxattr(ino, name)
        except errors.NoAttribute:
            if name == _SELINUX:
                raise errors.NotSupported("no label is given to what has none") from None
            raise
        if name == CAPABILITY and self._open.is_dirty(ino):
            await self._settle_for(ino)  # what was written takes it away
            return await self._fs.inodes.getxattr(ino, name)
        return found

    def _statistics(self) -> dict[str, dict[str, int]]:
        """What this mount has in memory, and has done since it was made."""
        return {
            **self._fs.statistics(),
            "open_files": self._open.statistics(),
            "kernel": self._kernel.statistics(),
        }

    async def _settle_for(self, ino: Ino) -> None:
        """Commit what the cluster is about to tell of."""
        opened = self._open.find(ino)
        if opened is not None:
            await opened.settle()
        elif stat.S_ISDIR((await self._fs.inodes.getattr(ino)).mode):
            await self._open.settle_all()

    @_handler
    async def listxattr(self, inode: int, ctx: Any) -> Sequence[bytes]:
        names = await self._fs.inodes.listxattr(self._ino(inode))
        return [name for name in names if ctx.uid == 0 or not name.startswith(_TRUSTED)]

    @_handler
    async def removexattr(self, inode: int, name: bytes, ctx: Any) -> None:
        _check_namespace(name)
        ino = self._ino(inode)
        self._note_own(ino, await self._fs.inodes.removexattr(ino, name))

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Nothing is kept for an inode that the kernel only knows."""

    async def access(self, inode: int, mode: int, ctx: Any) -> bool:
        raise pyfuse3.FUSEError(errno.ENOSYS)  # the kernel checks, and asks no more
