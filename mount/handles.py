"""Open files and directories of a mount, by the numbers that the kernel knows them by.

A directory handle reads ahead a page of entries, from the cookie that the kernel asks for; the page is kept for as
long as the kernel goes on from within it.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from typing import Final

from dfs.client.filesystem import FileSystem
from dfs.client.openfile import OpenFile
from dfs.client.openinode import OpenInode
from dfs.types import Attr, DirEntry, Ino
from mount.kernel import Pass

_PAGE_ENTRIES: Final = 1024


class FileHandle(OpenFile):
    """An open file as the kernel uses it.

    `append`: it was opened with O_APPEND. `is_flushed`: closing it is a request, which tells of errors. `is_durable`:
    what it writes is on the disks when the write returns (O_SYNC, O_DSYNC). `is_cached`: it may have been read through
    this without our noticing, as the kernel had pages of it, and nothing was written. `moves_atime`: reading it moves
    its access time (not with O_NOATIME).
    """

    __slots__ = ("append", "is_cached", "is_durable", "is_flushed", "moves_atime")

    def __init__(
        self,
        inode: OpenInode,
        append: bool,
        *,
        is_flushed: bool,
        is_durable: bool,
        is_cached: bool,
        moves_atime: bool,
    ) -> None:
        super().__init__(inode)
        self.append = append
        self.is_flushed = is_flushed
        self.is_durable = is_durable
        self.is_cached = is_cached
        self.moves_atime = moves_atime


class DirectoryHandle:
    """One opendir(3). `attr` is as it was then; `_page` are entries in order of their cookies, those after `_after`.

    `_is_last`: there were no more when the page was read. So a directory that fits in one is listed as it was at one
    moment. `reading` is there if the kernel keeps what it reads.

    New names have higher cookies than all others, and so has what is renamed: who renames what he reads would never
    come to an end. So of a directory with several pages no more is told than it had when the reading began: what it had
    comes first. Told, or counted as that, is all up to the cookie `_reach`; `_left` may follow, None while one page has
    had all.
    """

    def __init__(self, fs: FileSystem, attr: Attr, reading: Pass | None) -> None:
        self.attr = attr
        self.reading = reading
        self._fs = fs
        self._losses = fs.session.stream.losses
        self.rewind()

    async def fsync(self) -> None:
        """Return when all changes of names are durable. Raises `SessionExpired` if some were lost since the opendir."""
        stream = self._fs.session.stream
        losses, self._losses = self._losses, stream.losses
        await stream.flush(losses)

    def rewind(self) -> None:
        """Whoever reads from the beginning sees the directory as it is now."""
        self._page: list[DirEntry] = []
        self._after = -1
        self._is_last = False
        self._reach = 0
        self._left: int | None = None

    async def entries(self, after: int) -> tuple[list[DirEntry], bool]:
        """Entries with cookies above `after`, none at the end, and whether they have just been looked at."""
        start = _behind(self._page, after)
        is_within = after == self._after or (start > 0 and self._page[start - 1].cookie == after)
        is_new = not is_within or (start == len(self._page) and not self._is_last)
        if is_new:
            page = await self._read(after)
            if self._left is None and len(page) == _PAGE_ENTRIES:
                attr = await self._fs.inodes.getattr(self.attr.ino)
                if attr.version != self.attr.version:  # those that it had by then are to be in the page
                    page = await self._read(after)
                self._left = attr.size
            self._page, start = self._from_the_beginning(page), 0
            self._is_last = len(self._page) < _PAGE_ENTRIES
            self._after = after
        return self._page[start:], is_new

    async def _read(self, after: int) -> list[DirEntry]:
        return await self._fs.inodes.readdir(self.attr.ino, after, _PAGE_ENTRIES)

    def _from_the_beginning(self, page: list[DirEntry]) -> list[DirEntry]:
        """Those of a page that were there, or may have been."""
        if self._left is None:
            return page
        more = page[_behind(page, self._reach) :][: self._left]
        if more:
            self._left -= len(more)
            self._reach = more[-1].cookie
        return page[: _behind(page, self._reach)]


def _behind(page: Sequence[DirEntry], cookie: int) -> int:
    """Where in a page the entries behind a cookie begin."""
    return bisect.bisect_right(page, cookie, key=lambda entry: entry.cookie)


class Handles:
    """All of one mount."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self.files: dict[int, FileHandle] = {}
        self.directories: dict[int, DirectoryHandle] = {}

    def add_file(self, handle: FileHandle) -> int:
        number = next(self._numbers)
        self.files[number] = handle
        return number

    def add_directory(self, handle: DirectoryHandle) -> int:
        number = next(self._numbers)
        self.directories[number] = handle
        return number

    def open_directory(self, ino: Ino) -> Attr | None:
        """What was known of a directory when it was opened, if it is open still."""
        found = (handle.attr for handle in self.directories.values() if handle.attr.ino == ino)
        return next(found, None)
