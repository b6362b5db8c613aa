"""Pages of an open file that is read and written by turns, as a database is.

The kernel drops all pages of a file when it sees another time of modification, and so with each change that programs
make through it. Who reads on then asks here, for what has just been appended to a chunk: that costs a question to the
NameNode and one to a DataNode, as much as an fsync does. So what was read of such a file is kept, with what is written
to it since: RECENT_PAGES_MAX pages, the least recently used go first.

All is of one **version** of the file. A change of this client's own, made of bytes that were seen leaving, takes it to
the next one (`committed`); with any other change, and with one of which it is not known whether it happened, all is
forgotten. Only for who owns the file is anything learnt: then nobody else changes it while it is read.

Invariants: a page has its first bytes, as many as are known, and none that the file does not have in `_version`;
`_leaving` has what left since then in the order in which it did, or `_is_unseen` says that something did that it lacks;
nothing is leaving of which nothing is kept.
"""

from __future__ import annotations

import mmap
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

from dfs import limits
from dfs.checksum import Buffer

_PAGE: Final = mmap.PAGESIZE
_NO_VERSION: Final = -1
"""Neither this nor the next one is any file's."""


class RecentPages:
    """Of one file. `count` is called with how many bytes more are kept, fewer if negative."""

    def __init__(self, count: Callable[[int], None]) -> None:
        self._count = count
        self._pages: OrderedDict[int, bytes] = OrderedDict()
        """By their numbers, the most recently used last."""
        self._version = _NO_VERSION
        self._leaving: list[tuple[int, Buffer]] = []
        self._is_unseen = False

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
        """Pieces of the file (offset, bytes), which do not change any more, become its own with the next commit."""
        if self._version == _NO_VERSION or self._is_unseen:
            return
        self._leaving += pieces
        if sum(len(data) for _, data in self._leaving) > _PAGE * limits.RECENT_PAGES_MAX:
            self.leaves_unseen()

    def leaves_unseen(self) -> None:
        """Likewise others, which are not kept."""
        self._is_unseen = self._version != _NO_VERSION
        self._leaving.clear()

    def committed(self, version: int) -> None:
        """All that has left is in the file, which has become this version."""
        if version != self._version + 1 or self._is_unseen:
            self.forget()
            return
        for offset, data in self._leaving:
            self._put(offset, data)
        self._leaving.clear()
        self._version = version
        self._bound()

    def forget(self) -> None:
        """The file may be different now, or nobody has it open."""
        self._count(-_PAGE * len(self._pages))
        self._pages.clear()
        self._leaving.clear()
        self._version = _NO_VERSION
        self._is_unseen = False

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
        self._count(_PAGE * (len(self._pages) - before))

    def _bound(self) -> None:
        surplus = len(self._pages) - limits.RECENT_PAGES_MAX
        for _ in range(surplus):
            self._pages.popitem(last=False)
        self._count(-_PAGE * max(0, surplus))
