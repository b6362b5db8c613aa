"""Open files and directories of a mount, by the numbers that the kernel knows them by.

A directory handle reads ahead a page of entries, from the cookie that the kernel asks for; the page is kept for as
long as the kernel goes on from within it.
"""

from __future__ import annotations

import itertools
from typing import Final, NamedTuple

from dfs.client.filesystem import FileSystem
from dfs.client.openinode import OpenInode
from dfs.types import Attr, DirEntry, Ino

_PAGE_ENTRIES: Final = 1024


class FileHandle(NamedTuple):
    """One open(2): its inode, and whether it appends."""

    inode: OpenInode
    append: bool


class DirectoryHandle:
    """One opendir(3). `attr` is as it was then; `_page` are entries in order of their cookies, those after `_after`."""

    def __init__(self, fs: FileSystem, attr: Attr) -> None:
        self.attr = attr
        self._fs = fs
        self._after = -1
        self._page: list[DirEntry] = []

    async def entries(self, after: int) -> list[DirEntry]:
        """Entries with cookies above `after`; empty at the end."""
        cookies = [entry.cookie for entry in self._page]
        if after != self._after and after not in cookies[:-1]:
            self._page = await self._fs.inodes.readdir(self.attr.ino, after, _PAGE_ENTRIES)
        else:
            self._page = [entry for entry in self._page if entry.cookie > after]
        self._after = after
        return self._page


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
