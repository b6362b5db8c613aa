"""The seam to the disk: the only module of the DataNode that touches files.

A `Disk` is one directory; paths are relative to it, with `/`. Its twin in memory (tests/simulation/disk.py) loses at a
crash what was not synced, so these are the rules that the code above lives by:

- bytes written are certain to survive a crash after `File.sync`, names after `Disk.sync_dir` of their directory;
- before that any part of them may survive, page by page and name by name, in any order;
- of bytes that a sync could not write, any part may be lost, though they can be read until they are dropped from memory
  (`File.drop_cached`) or the machine stops; a later sync neither writes them nor says so;
- `replace_file` is all or nothing, and certain when it returns.

All methods block. OSErrors come out as the system raised them: what they mean is known further up.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

from dfs import errors, limits
from dfs.checksum import Buffer
from dfs.rpc.network import without_first

_FALLOC_FL_KEEP_SIZE: Final = 1
_FALLOC_FL_PUNCH_HOLE: Final = 2
_STAT_BLOCK_BYTES: Final = 512  # the unit of st_blocks, whatever the file system's own is
_IOV_MAX: Final = 1024  # as Linux: UIO_MAXIOV
_RWF_DONTCACHE: Final = 0x80  # of pwritev2(2)
_NO_SUCH_FLAG: Final = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
_WOULD_BLOCK: Final = (errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class File(Protocol):
    """An open file. Offsets and lengths are bytes. Threads may use one at the same time."""

    def pread_into(self, view: memoryview, offset: int) -> int:
        """Fill `view` from `offset`; the number of bytes read is less only at the end of the file."""
        ...

    def pread_nowait_into(self, view: memoryview, offset: int) -> int | None:
        """As `pread_into`, from memory only: None, or less than there is, where the disk would have to be read."""
        ...

    def will_need(self, offset: int, length: int) -> None:
        """Have the disk begin to read these bytes into memory, and do not wait for it; no promise, no error."""
        ...

    def pwrite(self, buffers: Sequence[Buffer], offset: int) -> int:
        """Write all of `buffers`, one after the other; the length of all. After an error any part may be there."""
        ...

    def size(self) -> int: ...

    def truncate(self, length: int) -> None:
        """Cut to `length`, or grow to it by a hole."""
        ...

    def sync(self) -> None:
        """Return when all bytes and the size are on the disk. No later one makes up for one that failed: see above."""
        ...

    def punch(self, offset: int, length: int) -> None:
        """Give the disk its space back; the bytes read as zeros. Raises EOPNOTSUPP where that cannot be done."""
        ...

    def allocated_bytes(self) -> int:
        """What the file takes on the disk: holes take nothing."""
        ...

    def inode(self) -> int:
        """Which file it is, of all that are open on the disk: another one may have its name by now."""
        ...

    def lend(self) -> int:
        """A descriptor of the file, for reading only, to give away. Raises EOPNOTSUPP where there is no such thing."""
        ...

    def drop_cached(self, offset: int, length: int) -> None:
        """Have the next read of these bytes come from the disk, as far as they were synced; no promise, no error.

        But all of a file, once synced, is sure to be dropped: parts of it may be in memory as parts of larger ones.
        """
        ...

    def close(self) -> None: ...


class Disk(Protocol):
    """One directory and all below it."""

    @property
    def name(self) -> str:
        """What to call the directory in messages."""
        ...

    def make_dirs(self, path: str) -> None:
        """Make the directory `path` with its parents, unless it is there; "" is the root."""
        ...

    def open(self, path: str, create: bool) -> File:
        """For reading and writing. `create` makes an empty file if there is none; else FileNotFoundError."""
        ...

    def exists(self, path: str) -> bool: ...

    def size(self, path: str) -> int: ...

    def allocated_bytes(self, path: str) -> int:
        """What the file takes on the disk: holes take nothing."""
        ...

    def touch(self, path: str) -> None:
        """Set the times of what is at `path` to now: the least that fails on a disk that takes no changes any more."""
        ...

    def remove(self, path: str) -> None: ...

    def rename(self, old: str, new: str) -> None:
        """Atomic; a file that was at `new` is gone."""
        ...

    def sync_dir(self, path: str) -> None:
        """Return when the names in the directory are on the disk."""
        ...

    def sync_all(self) -> None:
        """Return when all bytes and names are on the disk, whoever wrote them."""
        ...

    def list_dir(self, path: str) -> list[str]:
        """Names in the directory, sorted; `path` "" is the root."""
        ...

    def read_file(self, path: str) -> bytes: ...

    def replace_file(self, path: str, content: bytes) -> None:
        """`path` holds `content` after a crash too, or what it held before, never a mixture."""
        ...

    def lock(self, path: str) -> None:
        """Lock the directory by the file `path` until `unlock` or the process ends. Raises DirectoryInUse."""
        ...

    def unlock(self, path: str) -> None: ...

    def free_bytes(self) -> int:
        """What may still be written. Raises EROFS where nothing may, as the file system is read-only."""
        ...

    def capacity_bytes(self) -> int: ...

    def file_system(self) -> int:
        """A number that directories of one file system, and so of one free space, share."""
        ...


class RealFile:
    """A file descriptor.

    Large writes are on their way to the disk at once, and leave no pages behind in memory: a page that has never been
    used costs more than its copy, and a stream's are rarely read again before memory is full of it. Where the system
    cannot do that they are written as all others.
    """

    def __init__(self, descriptor: int) -> None:
        self._fd = descriptor
        self._large_flags = _LARGE_FLAGS

    def pread_into(self, view: memoryview, offset: int) -> int:
        done = 0
        while done < len(view):
            count = os.preadv(self._fd, [view[done:]], offset + done)
            if count == 0:
                break
            done += count
        return done

    def pread_nowait_into(self, view: memoryview, offset: int) -> int | None:
        try:
            return os.preadv(self._fd, [view], offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno in _WOULD_BLOCK:
                return None
            raise

    def will_need(self, offset: int, length: int) -> None:
        with suppress(OSError):
            os.posix_fadvise(self._fd, offset, length, os.POSIX_FADV_WILLNEED)

    def pwrite(self, buffers: Sequence[Buffer], offset: int) -> int:
        views: list[Buffer] = [memoryview(buffer) for buffer in buffers if len(buffer)]
        is_large = sum(map(len, views)) >= limits.UNCACHED_WRITE_MIN_BYTES
        total = 0
        while views:
            count = self._write_some(views[:_IOV_MAX], offset + total, is_large)
            total += count
            views = without_first(views, count)
        return total

    def _write_some(self, views: list[Buffer], offset: int, is_large: bool) -> int:
        if is_large and self._large_flags:
            try:
                return os.pwritev(self._fd, views, offset, self._large_flags)
            except OSError as error:
                if error.errno not in _NO_SUCH_FLAG:
                    raise
                self._large_flags = 0
        return os.pwritev(self._fd, views, offset)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def truncate(self, length: int) -> None:
        os.ftruncate(self._fd, length)

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def punch(self, offset: int, length: int) -> None:
        _punch(self._fd, offset, length)

    def allocated_bytes(self) -> int:
        return os.fstat(self._fd).st_blocks * _STAT_BLOCK_BYTES

    def inode(self) -> int:
        return os.fstat(self._fd).st_ino

    def lend(self) -> int:
        return os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)

    def drop_cached(self, offset: int, length: int) -> None:
        first = offset - offset % mmap.PAGESIZE  # a page that only a part of was dropped would stay
        end = offset + length + -(offset + length) % mmap.PAGESIZE
        with suppress(OSError):
            os.posix_fadvise(self._fd, first, end - first, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        os.close(self._fd)


def flags_of_large_writes(release: str) -> int:
    """For pwritev2, of a kernel that calls itself so: not to keep what is written in memory, where that is safe.

    Linux has the flag since 6.14, but a page that was written to again on its way to the disk, as the last of a file
    that is appended to is, could be dropped with what was new in it. 6.15 refuses the flag for that, and 6.16 is right.
    A vendor's kernel of an older number may have the one and not the other.
    """
    number = re.match(r"(\d+)\.(\d+)", release)
    is_safe = number is not None and (int(number[1]), int(number[2])) >= (6, 16)
    return _RWF_DONTCACHE if is_safe else 0


_LARGE_FLAGS: Final = flags_of_large_writes(os.uname().release)


_libc = ctypes.CDLL(None, use_errno=True)


def _punch(descriptor: int, offset: int, length: int) -> None:
    try:
        fallocate = _libc.fallocate64
    except AttributeError:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP)) from None
    mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
    if fallocate(descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(length)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class RealDisk:
    """A directory of the machine's file system. `_locks` holds the descriptors of lock files, by path."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._locks: dict[str, int] = {}

    @property
    def name(self) -> str:
        return str(self._root)

    def make_dirs(self, path: str) -> None:
        (self._root / path).mkdir(parents=True, exist_ok=True)

    def open(self, path: str, create: bool) -> RealFile:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        return RealFile(os.open(self._root / path, flags, 0o640))

    def exists(self, path: str) -> bool:
        try:
            (self._root / path).stat()
        except FileNotFoundError:
            return False
        return True

    def size(self, path: str) -> int:
        return (self._root / path).stat().st_size

    def allocated_bytes(self, path: str) -> int:
        return (self._root / path).stat().st_blocks * _STAT_BLOCK_BYTES

    def touch(self, path: str) -> None:
        os.utime(self._root / path)

    def remove(self, path: str) -> None:
        (self._root / path).unlink()

    def rename(self, old: str, new: str) -> None:
        (self._root / old).rename(self._root / new)

    def sync_dir(self, path: str) -> None:
        with self._opened(path) as descriptor:
            os.fsync(descriptor)

    def sync_all(self) -> None:
        """Of the whole file system, which a data directory has to itself, or nearly so."""
        with self._opened("") as descriptor:
            if _libc.syncfs(descriptor) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))

    @contextmanager
    def _opened(self, path: str) -> Iterator[int]:
        """A descriptor of a directory."""
        descriptor = os.open(self._root / path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def list_dir(self, path: str) -> list[str]:
        return sorted(os.listdir(self._root / path))  # noqa: PTH208 - names are wanted, a million at times, not paths

    def read_file(self, path: str) -> bytes:
        return (self._root / path).read_bytes()

    def replace_file(self, path: str, content: bytes) -> None:
        temporary = path + ".new"
        file = self.open(temporary, create=True)
        try:
            file.truncate(0)
            file.pwrite([content], 0)
            file.sync()
        finally:
            file.close()
        self.rename(temporary, path)
        self.sync_dir(path.rpartition("/")[0])

    def lock(self, path: str) -> None:
        descriptor = os.open(self._root / path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise in_use(self.name) from None
        except OSError:
            os.close(descriptor)
            raise
        self._locks[path] = descriptor

    def unlock(self, path: str) -> None:
        os.close(self._locks.pop(path))

    def free_bytes(self) -> int:
        found = os.statvfs(self._root)
        if found.f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return found.f_bavail * found.f_frsize

    def capacity_bytes(self) -> int:
        found = os.statvfs(self._root)
        return found.f_blocks * found.f_frsize

    def file_system(self) -> int:
        return self._root.stat().st_dev


def in_use(name: str) -> errors.DirectoryInUse:
    """The error of a directory `name` that is locked already."""
    return errors.DirectoryInUse(f"{name} is in use by another DataNode: stop that one, or configure another directory")
