"""Pages of an open file that is read and written by turns, as a database is.

The kernel drops all pages of a file when it sees another time of modification, and so with each change that programs
make through it. Who reads on then asks here, for what has just been appended to a chunk: that costs a question to the
NameNode and one to a DataNode, as much as an fsync does. So what was read of such a file is kept, with what is written
to it since: RECENT_PAGES_MAX pages, the least recently used go first.

All is of one **version** of the file. A commit of this client's takes it to the next one: what that has changed is
known from what was seen leaving (`leaves`), or not known any more. With any other change all is forgotten, and with a
commit of which it is not known whether it happened. Only for who owns the file is anything learnt: then nobody else
changes it while it is read.

Invariants: a page has its first bytes, as many as are known, and none that the file does not have in `_version`;
`_leaving` has what left since the last commit, of each part of the file the latest or nothing.
"""

from __future__ import annotations

import mmap
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, Protocol

from dfs import limits
from dfs.checksum import Buffer
from dfs.client.dirty import DirtyRanges
from dfs.types import Extent

_PAGE: Final = mmap.PAGESIZE
_NO_VERSION: Final = -1
"""Neither this nor the next one is any file's."""


class Bounds(Protocol):
    """What all open files have in common."""

    def count_recent(self, change: int) -> None:
        """So many bytes more are kept."""

    def may_keep_recent(self) -> bool: ...


class RecentPages:
    """Of one file."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._pages: OrderedDict[int, bytes] = OrderedDict()
        """By their numbers, the most recently used last."""
        self._version = _NO_VERSION
        self._leaving = DirtyRanges()

    def read(self, version: int, offset: int, count: int) -> bytes | None:
        """The `count` bytes (1 or more) from `offset` on in this version; None unless all of them are here."""
        if version != self._version:
            return None
        numbers = range(offset // _PAGE, (offset + count - 1) // _PAGE + 1)
        pages = [self._pages.get(number, b"") for number in numbers]
        end = offset + count - numbers[-1] * _PAGE
        if len(pages[-1]) < end or any(len(page) < _PAGE for page in pages[:-1]):
            return None
        for number in numbers:
            self._pages.move_to_end(number)
        start = offset - numbers[0] * _PAGE
        return b"".join(pages)[start : start + count]

    def learn(self, version: int, offset: int, data: Buffer) -> None:
        """This was read of that version, in which the file is now."""
        if version != self._version:
            self.forget()
            self._version = version
        self._put(offset, data)
        self._bound()

    def leaves(self, pieces: Iterable[tuple[int, Buffer]]) -> None:
        """Pieces of the file (offset, bytes) are about to be committed."""
        if self._version == _NO_VERSION:
            return
        for offset, data in pieces:
            self._leaving.write(offset, data)
        if self._leaving.length_bytes > _PAGE * limits.RECENT_PAGES_MAX:
            self._leaving = DirtyRanges()

    def leaves_unseen(self) -> None:
        """Likewise others, which are not kept, nor what left before them."""
        self._leaving = DirtyRanges()

    def committed(self, version: int, extents: Iterable[Extent], *, is_all: bool) -> None:
        """A commit of this client's made the file this version, and these its own.

        `is_all`: nothing has left that was not committed.
        """
        if self._version == _NO_VERSION or version != self._version + 1:
            self.forget()
            return
        if not is_all:  # of a part that leaves again before it is committed, only the latest is here
            self._leaving = DirtyRanges()
        for extent in extents:
            data = self._leaving.read(extent.offset, extent.end)
            if data is None:
                self._drop(extent.offset, extent.end)
            else:
                self._put(extent.offset, data)
        self._leaving = DirtyRanges()
        self._version = version
        self._bound()

    def forget(self) -> None:
        """The file may be different now, or nobody has it open."""
        self._bounds.count_recent(-_PAGE * len(self._pages))
        self._pages.clear()
        self._leaving = DirtyRanges()
        self._version = _NO_VERSION

    def _drop(self, start: int, end: int) -> None:
        """Know the pages no more in which these bytes are."""
        before = len(self._pages)
        numbers = range(start // _PAGE, (end - 1) // _PAGE + 1)
        for number in list(self._pages) if len(numbers) > before else numbers:
            if number in numbers:
                self._pages.pop(number, None)
        self._bounds.count_recent(_PAGE * (len(self._pages) - before))

    def _put(self, offset: int, data: Buffer) -> None:
        view = memoryview(data)
        before = len(self._pages)
        while len(view):
            number, start = divmod(offset, _PAGE)
            part = view[: _PAGE - start]
            page = self._pages.pop(number, b"")
            if start <= len(page):  # or there are bytes between them that are not known
                self._pages[number] = page[:start] + bytes(part) + page[start + len(part) :]
            offset, view = offset + len(part), view[len(part) :]
        self._bounds.count_recent(_PAGE * (len(self._pages) - before))

    def _bound(self) -> None:
        while self._pages and (len(self._pages) > limits.RECENT_PAGES_MAX or not self._bounds.may_keep_recent()):
            self._pages.popitem(last=False)
            self._bounds.count_recent(-_PAGE)
