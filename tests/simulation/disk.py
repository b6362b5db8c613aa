"""A disk in memory, the twin of nodes.datanode.disk.RealDisk: it forgets, fills up and fails as told.

    disk = MemoryDisk(capacity_bytes=1 << 30)
    disk.crash(random)                        # what was not synced is there, or not, page by page and name by name
    disk.fail("sync", errno.EIO)              # from now on: "open", "read", "write", "sync", "names", "touch", "space"
                                              # (how much is free), of paths that begin so
    disk.mend()
    disk.power_off_after(3)                   # the fourth write, sync or change of a name from now raises PowerOff
    disk.flip_bit("chunks/01/...", 17, bit=0) # the lowest bit of byte 17, on the disk for good
    disk.cold = True                          # nothing is in the page cache: `pread_nowait_into` answers None

At a crash each page (4096 bytes) of a file is what it was at the last sync or after any write since, each change of a
name has happened or not, and the size is any that it had. Files opened before a crash cannot be used after it.

A sync that fails has written nothing, and the pages that it should have written are taken for written: they are read as
they were until they are dropped from the cache or the power goes, and no later sync writes them.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar, TypeVarTuple

import trio

from dfs.checksum import Buffer
from dfs.runtime import Runtime, Usage
from nodes.datanode.disk import in_use

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

PAGE = 4096


class InlineWorkers:
    """Workers of a runtime, in whose `run_blocking` nothing ever hangs."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._failure: Callable[[], Exception] | None = None

    async def run(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        if self._failure is not None:
            raise self._failure()
        return await self._runtime.run_blocking(work, *args)

    def busy_s(self) -> float:
        return 0.0

    def watched_s(self, passed_s: float) -> float:
        return 0.0

    def give_up(self, failure: Callable[[], Exception]) -> None:
        self._failure = failure


class InlineRuntime:
    """A Runtime whose worker is the event loop itself, so that a run is a function of its seed."""

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)

    def now_ns(self) -> int:
        return 1_700_000_000_000_000_000

    def boot_s(self) -> float:
        return trio.current_time()

    async def run_blocking(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        await trio.lowlevel.checkpoint()
        return work(*args)

    async def run_abandonable(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        return await self.run_blocking(work, *args)

    def workers(self, most: int) -> InlineWorkers:
        return InlineWorkers(self)

    def usage(self) -> Usage:
        return Usage(0.0, 0.0)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class PowerOff(Exception):
    """The machine stops here: the test catches this, and goes on with `crash`."""


class _Inode:
    """`now` is what reads see, `synced` what is on the disk for certain, `since` the states of `now` in between.

    `lost` are the numbers of pages that a sync failed to write: the disk has them as `synced` does, and no later sync
    writes them unless they are written to again. `allocated` are those of the pages that take space. A directory is an
    inode too, `is_dir`.
    """

    def __init__(self, is_dir: bool = False) -> None:
        self.is_dir = is_dir
        self.now = bytearray()
        self.synced: bytes = b""
        self.since: list[tuple[int, dict[int, bytes]]] = []  # after each change: size, the pages that it touched
        self.lost: set[int] = set()
        self.allocated: set[int] = set()

    def page(self, number: int) -> bytes:
        return bytes(self.now[number * PAGE : (number + 1) * PAGE])

    def note(self, first_byte: int, end: int) -> None:
        """Bytes were changed from `first_byte` to `end`."""
        touched = range(first_byte // PAGE, -(-end // PAGE))
        self.since.append((len(self.now), {number: self.page(number) for number in touched}))

    def dirty(self) -> set[int]:
        """Numbers of the pages that the next sync writes."""
        return {number for _, pages in self.since for number in pages}

    def sync(self) -> None:
        self.lost -= self.dirty()
        after = bytearray(self.now)
        for number in self.lost:
            after[number * PAGE : (number + 1) * PAGE] = self.on_disk(number)
        self.synced = bytes(after)
        self.since.clear()

    def on_disk(self, number: int) -> bytes:
        """What the disk has of a page, as long as that is in memory."""
        return self.synced[number * PAGE : (number + 1) * PAGE].ljust(PAGE, b"\0")[: len(self.page(number))]

    def fail_to_sync(self) -> None:
        self.lost |= self.dirty()
        self.since.clear()

    def drop_cached(self, offset: int, end: int) -> None:
        """But for pages that are still to be written."""
        dropped = self.lost.intersection(range(offset // PAGE, -(-end // PAGE))) - self.dirty()
        for number in dropped:
            self.now[number * PAGE : (number + 1) * PAGE] = self.on_disk(number)
        self.lost -= dropped

    def durable_bytes(self) -> int:
        """How many bytes no crash can take away."""
        sizes = (len(self.synced), *(size for size, _ in self.since))
        return min(*sizes, *(number * PAGE for number in self.lost), len(self.now))

    def crash(self, source: random.Random) -> None:
        if not self.since and not self.lost:
            return
        size = source.choice([len(self.synced), *(size for size, _ in self.since)])
        versions: dict[int, list[bytes]] = {}
        for _, pages in self.since:
            for number, content in pages.items():
                was = self.synced[number * PAGE : (number + 1) * PAGE]
                versions.setdefault(number, [was]).append(content)
        after = bytearray(self.synced)
        after.extend(bytes(max(0, size - len(after))))
        for number, choices in versions.items():
            after.extend(bytes(max(0, (number + 1) * PAGE - len(after))))
            after[number * PAGE : (number + 1) * PAGE] = source.choice(choices).ljust(PAGE, b"\0")
        self.now = after[:size]
        self.allocated = {number for number in self.allocated if number * PAGE < size}
        self.lost.clear()
        self.sync()


class MemoryFile:
    """A handle: `_epoch` is how many crashes the disk had had when it was opened."""

    def __init__(self, disk: MemoryDisk, path: str, inode: _Inode) -> None:
        self._disk = disk
        self._path = path
        self._inode = inode
        self._epoch = disk.crashes
        self._closed = False

    def _check(self, operation: str) -> None:
        self._check_open()
        self._disk.check(operation, self._path)

    def _check_open(self) -> None:
        if self._closed or self._epoch != self._disk.crashes:
            raise _error(errno.EBADF)

    def pread_into(self, view: memoryview, offset: int) -> int:
        self._check("read")
        content = self._inode.now[offset : offset + len(view)]
        view[: len(content)] = content
        return len(content)

    def pread_nowait_into(self, view: memoryview, offset: int) -> int | None:
        return None if self._disk.cold else self.pread_into(view, offset)

    def will_need(self, offset: int, length: int) -> None:
        pass  # what is read is there at once

    def pwrite(self, buffers: Sequence[Buffer], offset: int) -> int:
        self._check("write")
        data = b"".join(bytes(buffer) for buffer in buffers)
        written = 0
        while written < len(data):
            position = offset + written
            count = min(len(data) - written, PAGE - position % PAGE)
            self._disk.allocate(self._inode, position // PAGE)
            self._put(data[written : written + count], position)
            written += count
        return written

    def _put(self, data: bytes, position: int) -> None:
        content = self._inode.now
        first = min(len(content), position)
        content.extend(bytes(max(0, position - len(content))))
        content[position : position + len(data)] = data
        self._inode.note(first, position + len(data))

    def size(self) -> int:
        return len(self._inode.now)

    def truncate(self, length: int) -> None:
        self._check("write")
        content = self._inode.now
        before = len(content)
        if length != before:
            del content[length:]
            content.extend(bytes(length - len(content)))
            self._inode.allocated = {page for page in self._inode.allocated if page * PAGE < length}
            self._inode.note(min(length, before), max(length, before))

    def sync(self) -> None:
        self._check_open()
        self._disk.check_sync(self._path, [self._inode])
        self._inode.sync()

    def punch(self, offset: int, length: int) -> None:
        self._check("write")
        end = min(offset + length, len(self._inode.now))
        if end > offset:
            self._inode.now[offset:end] = bytes(end - offset)
            self._inode.note(offset, end)
            self._inode.allocated -= set(range(-(-offset // PAGE), end // PAGE))

    def allocated_bytes(self) -> int:
        return len(self._inode.allocated) * PAGE

    def inode(self) -> int:
        return id(self._inode)

    def lend(self) -> int:
        raise _error(errno.EOPNOTSUPP)

    def drop_cached(self, offset: int, length: int) -> None:
        self._inode.drop_cached(offset, offset + length)

    def close(self) -> None:
        if self._closed:
            raise _error(errno.EBADF)
        self._closed = True
        self._disk.open_files -= self._epoch == self._disk.crashes


class MemoryDisk:
    """`_names` is what is seen, `_synced_names` what is certain, `_changes` what was done to names in between."""

    def __init__(self, capacity_bytes: int = 1 << 30, name: str = "memory", file_system: int | None = None) -> None:
        self.name = name
        self._file_system = id(self) if file_system is None else file_system
        self.cold = False
        self.crashes = 0
        self.open_files = 0
        self.syncs = 0
        self._capacity_bytes = capacity_bytes
        self._names: dict[str, _Inode] = {}
        self._synced_names: dict[str, _Inode] = {}
        self._changes: list[tuple[str, str, _Inode | None]] = []  # (old, new, inode): add: old is ""; remove: new is ""
        self._faults: dict[str, tuple[int, str]] = {}
        self._operations_left: int | None = None
        self.on_power_off: Callable[[], None] | None = None
        """Called just before PowerOff is raised."""
        self._locks: set[str] = set()

    # --- as told

    def crash(self, source: random.Random) -> None:
        """The power goes and comes back."""
        self.kill()
        for change in self._changes:
            if source.random() < 0.5:
                _apply(self._synced_names, change)
        self._changes.clear()
        self._names = {path: inode for path, inode in self._synced_names.items() if self._is_reachable(path)}
        self._synced_names = dict(self._names)
        for inode in self._names.values():
            inode.crash(source)

    def _is_reachable(self, path: str) -> bool:
        parent = path.rpartition("/")[0]
        return not parent or (parent in self._synced_names and self._is_reachable(parent))

    def kill(self) -> None:
        """The process ends, the machine stays: nothing written is lost."""
        self.crashes += 1
        self.open_files = 0
        self._operations_left = None
        self._locks.clear()

    def power_off_after(self, operations: int) -> None:
        self._operations_left = operations

    def fail(self, operation: str, number: int, path: str = "") -> None:
        self._faults[operation] = number, path

    def mend(self) -> None:
        self._faults.clear()

    def flip_bit(self, path: str, offset: int, bit: int = 0) -> None:
        inode = self._file(path)
        inode.now[offset] ^= 1 << bit
        inode.sync()

    def durable_size(self, path: str) -> int:
        """How many bytes of a file no crash can take away; 0 if its name may go."""
        inode = self._synced_names.get(path)
        return inode.durable_bytes() if inode is not None and inode is self._names.get(path) else 0

    def set_capacity(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes

    def paths(self) -> list[str]:
        """Of all files, sorted."""
        return sorted(path for path, inode in self._names.items() if not inode.is_dir)

    # --- for its files

    def check(self, operation: str, path: str) -> None:
        if operation not in ("open", "read", "space", "touch") and self._operations_left is not None:
            if self._operations_left == 0:
                if self.on_power_off:
                    self.on_power_off()
                raise PowerOff
            self._operations_left -= 1
        if operation == "sync":
            self.syncs += 1
        number, prefix = self._faults.get(operation, (0, ""))
        if number and path.startswith(prefix):
            raise _error(number)

    def check_sync(self, path: str, inodes: Iterable[_Inode]) -> None:
        """As `check`; after an error what the sync should have written is lost."""
        try:
            self.check("sync", path)
        except OSError:
            for inode in inodes:
                inode.fail_to_sync()
            raise

    def allocate(self, inode: _Inode, page: int) -> None:
        if page not in inode.allocated:
            if self.free_bytes() < PAGE:
                raise _error(errno.ENOSPC)
            inode.allocated.add(page)

    # --- Disk

    def _file(self, path: str) -> _Inode:
        inode = self._names.get(path)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if inode.is_dir:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return inode

    def _check_dir(self, path: str) -> None:
        if path and (path not in self._names or not self._names[path].is_dir):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def _change(self, old: str, new: str, inode: _Inode | None) -> None:
        self.check("names", old or new)
        change = (old, new, inode)
        _apply(self._names, change)
        self._changes.append(change)

    def make_dirs(self, path: str) -> None:
        parts = path.split("/") if path else []
        for count in range(1, len(parts) + 1):
            if "/".join(parts[:count]) not in self._names:
                self._change("", "/".join(parts[:count]), _Inode(is_dir=True))

    def open(self, path: str, create: bool) -> MemoryFile:
        if create and path not in self._names:
            self._check_dir(path.rpartition("/")[0])
            self._change("", path, _Inode())
        inode = self._file(path)
        self.check("open", path)
        self.open_files += 1
        return MemoryFile(self, path, inode)

    def exists(self, path: str) -> bool:
        return path in self._names

    def size(self, path: str) -> int:
        return len(self._file(path).now)

    def allocated_bytes(self, path: str) -> int:
        return len(self._file(path).allocated) * PAGE

    def touch(self, path: str) -> None:
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self.check("touch", path)

    def remove(self, path: str) -> None:
        self._file(path)
        self._change(path, "", None)

    def rename(self, old: str, new: str) -> None:
        inode = self._file(old)
        self._check_dir(new.rpartition("/")[0])
        self._change(old, new, inode)

    def sync_dir(self, path: str) -> None:
        self._check_dir(path)
        self.check("sync", path)
        mine = [change for change in self._changes if _touches(change, path)]
        for change in mine:
            _apply(self._synced_names, change)
        self._changes = [change for change in self._changes if not _touches(change, path)]

    def sync_all(self) -> None:
        self.check_sync("", self._names.values())
        for change in self._changes:
            _apply(self._synced_names, change)
        self._changes.clear()
        for inode in self._names.values():
            inode.sync()

    def list_dir(self, path: str) -> list[str]:
        self._check_dir(path)
        return sorted(name.rpartition("/")[2] for name in self._names if name.rpartition("/")[0] == path)

    def read_file(self, path: str) -> bytes:
        self.check("read", path)
        return bytes(self._file(path).now)

    def replace_file(self, path: str, content: bytes) -> None:
        self._check_dir(path.rpartition("/")[0])
        temporary = _Inode()
        handle = MemoryFile(self, path, temporary)
        handle.pwrite([content], 0)
        handle.sync()
        self._change("", path, temporary)
        self.sync_dir(path.rpartition("/")[0])

    def lock(self, path: str) -> None:
        if path in self._locks:
            raise in_use(self.name)
        self.open(path, create=True).close()
        self._locks.add(path)

    def unlock(self, path: str) -> None:
        self._locks.remove(path)

    def free_bytes(self) -> int:
        self.check("space", "")
        return self._capacity_bytes - PAGE * sum(len(inode.allocated) for inode in self._names.values())

    def capacity_bytes(self) -> int:
        return self._capacity_bytes

    def file_system(self) -> int:
        return self._file_system


def _apply(names: dict[str, _Inode], change: tuple[str, str, _Inode | None]) -> None:
    """Do a change of names, as far as it can be done there."""
    old, new, inode = change
    if old and new and old not in names:
        return  # the name that was to be given up never was there
    if old:
        names.pop(old, None)
    if new and inode is not None:
        names[new] = inode


def _touches(change: tuple[str, str, _Inode | None], directory: str) -> bool:
    return any(name and name.rpartition("/")[0] == directory for name in change[:2])
