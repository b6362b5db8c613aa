"""Recent pages against the file itself: whatever they tell is what it holds."""

from __future__ import annotations

import mmap
import os
import random
from typing import Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dfs import limits
from dfs.client.recentpages import RecentPages
from dfs.types import ChunkId, Extent

PAGE: Final = mmap.PAGESIZE
PLACES = st.integers(0, 5 * PAGE)
LENGTHS = st.one_of(st.just(PAGE), st.just(3 * PAGE), st.integers(1, 2 * PAGE))


def extents_of(pieces: list[tuple[int, bytes]]) -> list[Extent]:
    return [Extent(offset, len(data), ChunkId(1), 0) for offset, data in pieces]


class Room:
    """For so many pages of all files."""

    def __init__(self, pages: int = 1000) -> None:
        self.most_bytes = pages * PAGE
        self.kept_bytes = 0

    def count_recent(self, change: int) -> None:
        self.kept_bytes += change

    def may_keep_recent(self) -> bool:
        return self.kept_bytes <= self.most_bytes


class File(RuleBasedStateMachine):
    """A file, in `version`, and what is kept of it; `waiting` has what is to be in it with the next commit."""

    def __init__(self) -> None:
        super().__init__()
        self.room = Room(10)
        self.pages = RecentPages(self.room)
        self.version = 1
        self.random = random.Random(0)
        self.content = bytearray(self.random.randbytes(2 * PAGE + 100))
        self.waiting: list[tuple[int, bytes]] = []

    def put(self, offset: int, data: bytes) -> None:
        self.content += bytes(max(0, offset + len(data) - len(self.content)))
        self.content[offset : offset + len(data)] = data

    @rule(offset=PLACES, length=LENGTHS)
    def read(self, offset: int, length: int) -> None:
        data = bytes(self.content[offset : offset + length])
        if not data:
            return
        found = self.pages.read(self.version, offset, len(data))
        assert found in (None, data)
        if found is None:
            self.pages.learn(self.version, offset, data)
            assert self.pages.read(self.version, offset, len(data)) == data or offset % PAGE

    @rule(offset=PLACES, length=LENGTHS, is_seen=st.sampled_from([True, True, True, False]))
    def leaves(self, offset: int, length: int, is_seen: bool) -> None:
        data = self.random.randbytes(length)
        self.waiting.append((offset, data))
        if is_seen:
            self.pages.leaves([(offset, data)])
        else:
            self.pages.leaves_unseen()

    @rule()
    def commit_the_first(self) -> None:
        """The others are on their way still."""
        rest = self.waiting[1:]
        del self.waiting[1:]
        self.commit(is_all=not rest)
        self.waiting += rest

    @rule(is_all=st.just(True))
    def commit(self, is_all: bool) -> None:
        if self.waiting:
            extents = extents_of(self.waiting)
            for offset, data in self.waiting:
                self.put(offset, data)
            self.waiting.clear()
            self.version += 1
            self.pages.committed(self.version, extents, is_all=is_all)

    @rule(happens=st.booleans())
    def commit_that_is_not_known_to_happen(self, happens: bool) -> None:
        if self.waiting and happens:
            for offset, data in self.waiting:
                self.put(offset, data)
            self.version += 1
        self.waiting.clear()
        self.pages.forget()

    @rule(offset=PLACES)
    def other_changes_it(self, offset: int) -> None:
        self.put(offset, self.random.randbytes(100))
        self.version += 1

    @rule(size=PLACES)
    def is_cut(self, size: int) -> None:
        del self.content[size:]
        self.version += 1

    @invariant()
    def tells_what_the_file_holds(self) -> None:
        for offset in range(0, len(self.content), 1000):
            data = bytes(self.content[offset : offset + 1500])
            assert self.pages.read(self.version, offset, len(data)) in (None, data)

    def teardown(self) -> None:
        self.pages.forget()
        assert self.room.kept_bytes == 0


File.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestFile = File.TestCase


def test_what_was_read_is_kept_with_what_is_written_to_it() -> None:
    pages = RecentPages(Room())
    content = bytearray(os.urandom(4 * PAGE))
    pages.learn(7, 0, bytes(content))
    for version in range(8, 12):
        data = os.urandom(PAGE)
        content[PAGE : 2 * PAGE] = data
        pages.leaves([(PAGE, data)])
        assert pages.read(version, 0, 4 * PAGE) is None
        pages.committed(version, extents_of([(PAGE, data)]), is_all=True)
        assert pages.read(version, 0, 4 * PAGE) == content
        assert pages.read(version, PAGE + 1, 10) == content[PAGE + 1 : PAGE + 11]
        assert pages.read(version, 3 * PAGE, PAGE + 1) is None


def test_the_least_recently_used_pages_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RECENT_PAGES_MAX", 3)
    room = Room()
    pages = RecentPages(room)
    for number in range(3):
        pages.learn(1, number * PAGE, bytes(PAGE))
    assert pages.read(1, 0, PAGE) is not None
    pages.learn(1, 3 * PAGE, bytes(PAGE))
    assert [pages.read(1, number * PAGE, PAGE) is not None for number in range(4)] == [True, False, True, True]
    assert room.kept_bytes == 3 * PAGE
    pages.leaves([(0, bytes(4 * PAGE))])
    pages.committed(2, extents_of([(0, bytes(2 * PAGE))]), is_all=True)
    assert room.kept_bytes == 2 * PAGE, "what left was too much to keep, and what is not known is dropped"
    pages.committed(4, extents_of([]), is_all=True)
    assert room.kept_bytes == 0


def test_what_all_files_keep_is_bounded() -> None:
    room = Room(3)
    one, other = RecentPages(room), RecentPages(room)
    one.learn(1, 0, bytes(2 * PAGE))
    other.learn(1, 0, bytes(4 * PAGE))
    assert room.kept_bytes == 3 * PAGE
    assert one.read(1, 0, 2 * PAGE) is not None
    assert other.read(1, 3 * PAGE, PAGE) is not None
    other.leaves([(0, bytes(2 * PAGE))])
    other.committed(2, extents_of([(0, bytes(2 * PAGE))]), is_all=True)
    assert room.kept_bytes == 3 * PAGE
