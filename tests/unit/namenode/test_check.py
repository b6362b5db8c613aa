"""Whatever is wrong in the tables, the check says so; and it says nothing of tables that are right."""

from __future__ import annotations

import pytest

from dfs import errors
from dfs.types import ROOT_INO
from nodes.namenode import check as check_module
from nodes.namenode.check import check
from tests.unit.namenode.world import Namespace

DAMAGES = [
    ("UPDATE inode SET nlink = 5 WHERE ino = 1", "Directory 1 has 5 links and 1 directories in it"),
    ("UPDATE inode SET size = 9 WHERE ino = 1", "Directory 1 says it has 9 entries and has 2"),
    ("INSERT INTO dentry VALUES (1, x'aa', 99, 2)", "Directory 2 (in 1) has 2 names"),
    ("UPDATE inode SET parent = 7 WHERE ino = 2", "Directory 2 says it is in 7 and is in 1"),
    ("UPDATE inode SET nlink = 2 WHERE ino = 3", "Inode 3 has 2 links and 1 names"),
    ("DELETE FROM dentry WHERE ino = 3", "Inode 3 has 1 links and 0 names"),
    ("DELETE FROM hold", "Inode 4 has no name and nobody holds it"),
    ("DELETE FROM inode WHERE ino = 3", "Entry b'file' of directory 1 leads nowhere"),
    ("UPDATE dentry SET parent = 77 WHERE ino = 3", "Entry b'file' of directory 77 leads nowhere"),
    ("INSERT INTO extent VALUES (3, 5, 10, 1, 90)", "Inode 3 has two extents at offset 5"),
    ("UPDATE extent SET chunk = 55", "Inode 3 points to chunk 37, which does not exist: 60 bytes at 0 are lost"),
    ("UPDATE chunk SET length = 59 WHERE chunk = 1", "Inode 3 points beyond the end of chunk 1"),
    ("UPDATE inode SET size = 10 WHERE ino = 3", "Inode 3 has 10 bytes and extents up to 60"),
    ("UPDATE inode SET allocated = 1 WHERE ino = 3", "Inode 3 says that 1 bytes are allocated and has 60"),
    ("INSERT INTO extent VALUES (4, 0, 10, 1, 20)", "Bytes of chunk 1 at 20 belong to two extents"),
    ("INSERT INTO trim VALUES (1, 10, 5, 0)", "Bytes of chunk 1 at 10 belong to two extents"),
    ("UPDATE chunk SET live = 3 WHERE chunk = 1", "Chunk 1 says that 3 bytes are in use and 60 are"),
    ("INSERT INTO chunk VALUES (9, 0, 10, 0, 3)", "Chunk 9 is sealed and nothing points to it"),
    ("DELETE FROM replica", "Chunk 1 has no replica left: 60 bytes are lost unless its DataNodes come back"),
    ("UPDATE chunk SET session = 77", "Chunk 1 is open in session 77, which has ended"),
    ("UPDATE counter SET value = 99 WHERE name = 'inodes'", "The counter of inodes says 99, counted are 4"),
    ("UPDATE counter SET value = 99 WHERE name = 'directories'", "The counter of directories says 99, counted are 2"),
    ("UPDATE counter SET value = 99 WHERE name = 'files'", "The counter of files says 99, counted are 2"),
    ("UPDATE counter SET value = 99 WHERE name = 'allocated'", "The counter of allocated says 99, counted are 60"),
]


@pytest.fixture
def small(space: Namespace) -> Namespace:
    """Directory 2 and file 3 of 60 bytes in the root, and file 4 without a name; chunk 1 is open."""
    session = space.open_session()
    space.do(session, "mkdir", ROOT_INO, b"directory", 0o755, 0, 0)
    space.written(session, space.file(session).ino, 100)
    space.do(session, "truncate", 3, 60)
    space.do(session, "create_unnamed", ROOT_INO, 0o644, 0, 0)
    return space


@pytest.mark.parametrize(("sql", "sentence"), DAMAGES)
def test_damage_is_found(small: Namespace, sql: str, sentence: str) -> None:
    assert small.findings() == []
    small.damage(sql)
    found = small.findings()
    assert [text for text in found if text.startswith(sentence)], found


@pytest.mark.parametrize("slice_rows", [1, 2, 3])
def test_damage_is_found_in_whichever_slice_it_is(
    small: Namespace, monkeypatch: pytest.MonkeyPatch, slice_rows: int
) -> None:
    session = small.open_session()
    for number in range(5):
        small.written(session, small.file(session, b"%d" % number).ino, 10)
    monkeypatch.setattr(check_module, "_SLICE", slice_rows)
    assert small.findings() == []
    small.damage("UPDATE inode SET allocated = allocated + 1 WHERE mode & 32768")
    small.damage("UPDATE chunk SET live = live + 1")
    found = small.findings()
    assert sum("are allocated and has" in text for text in found) == 7
    assert sum("bytes are in use and" in text for text in found) == 6


@pytest.mark.parametrize("cursor", [[99, 0], [0], "begin", [0, -1], [0, None]])
def test_a_cursor_that_is_none_is_refused(space: Namespace, cursor: object) -> None:
    with pytest.raises(errors.InvalidArgument):
        check(space.store, cursor)
