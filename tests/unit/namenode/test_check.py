"""Whatever is wrong in the tables, the check says so; and it says nothing of tables that are right."""

from __future__ import annotations

import contextlib
import random

import pytest

from dfs import errors
from dfs.types import ROOT_INO
from nodes.namenode import check as check_module
from nodes.namenode.check import check, check_chunks, check_inodes
from tests.unit.namenode.world import MINUTE_NS, Namespace

DAMAGES = [
    # Damage, what the check says, what mending it did; an empty text: nobody can mend it without losing something.
    ("UPDATE inode SET nlink = 5 WHERE ino = 1", "Directory / has 5 links and 1 directories in it", "links set to 3"),
    ("UPDATE inode SET size = 9 WHERE ino = 1", "Directory / says it has 9 entries and has 2", "entries set to 2"),
    ("INSERT INTO dentry VALUES (1, x'aa', 99, 2)", "Directory /directory has 2 names", "one name kept"),
    ("UPDATE inode SET parent = 3 WHERE ino = 2", "Directory /directory says that it is in /file", "in directory 1"),
    ("UPDATE inode SET next_cookie = 1 WHERE ino = 1", "Directory / would give its next entry", "next place set to 3"),
    ("UPDATE inode SET nlink = 2 WHERE ino = 3", "/file has 2 links and 1 name", "links set to 1"),
    ("DELETE FROM dentry WHERE ino = 3", "Inode 3 (60 bytes) has no name", "is now /lost+found/3"),
    ("DELETE FROM dentry WHERE ino = 2", "Directory 2 with 0 entries has no name", "is now /lost+found/2"),
    ("DELETE FROM hold", "Inode 4 (0 bytes) has no name and nobody holds it", "is now /lost+found/4"),
    ("DELETE FROM inode WHERE ino = 3", "The inode of /file is missing, and 60 bytes of it", "made again as inode 3"),
    ("DELETE FROM inode WHERE ino = 2", "Entry directory of / leads nowhere", "entry removed"),
    ("DELETE FROM inode WHERE ino = 1", "The inode of directory / is missing", "made again as inode 1"),
    ("UPDATE dentry SET parent = 77 WHERE ino = 3", "The inode of directory inode 77", "made again as inode 77"),
    ("UPDATE dentry SET parent = 4 WHERE ino = 3", "inode 4 (no path leads to it) is no directory", "entry removed"),
    ("UPDATE dentry SET parent = 2 WHERE ino = 2", "Directory 2 is beneath itself", "is now /lost+found/2"),
    ("INSERT INTO extent VALUES (3, 5, 10, 1, 90)", "Two extents of /file have its bytes from 5", ""),
    ("DELETE FROM chunk", "Chunk 1 is not known any more, and /file has bytes", "entered again"),
    ("UPDATE chunk SET length = 59 WHERE chunk = 1", "/file has bytes beyond the end of chunk 1", "length set to 60"),
    ("UPDATE inode SET size = 10 WHERE ino = 3", "/file is 10 bytes long and has extents up to 60", "length set to 60"),
    ("UPDATE inode SET allocated = 1 WHERE ino = 3", "/file says that 1 bytes are allocated and has 60", "set to 60"),
    ("INSERT INTO extent VALUES (4, 0, 10, 1, 20)", "Bytes of chunk 1 at 20 belong to two extents", ""),
    ("INSERT INTO trim VALUES (1, 10, 5, 0)", "Bytes of chunk 1 at 10, which /file uses, are to", "bytes in use kept"),
    ("UPDATE chunk SET live = 3 WHERE chunk = 1", "Chunk 1 says that 3 bytes are in use and 60 are", "use set to 60"),
    ("INSERT INTO chunk VALUES (9, 0, 10, 0, 3)", "Chunk 9 is sealed and nothing points to it", "to be deleted"),
    ("UPDATE chunk SET session = 77", "Chunk 1 is open for session 77, which has ended", "sealed"),
    ("INSERT INTO xattr VALUES (9, x'61', x'62')", "1 extended attributes are of inode 9", "1 removed"),
    ("INSERT INTO hold VALUES (9, 1, 1)", "1 holds are of inode 9", "1 removed"),
    ("INSERT INTO hold VALUES (3, 9, 1)", "1 holds are of session 9", "1 removed"),
    ("INSERT INTO doomed VALUES (9)", "1 removals under way are of inode 9", "1 removed"),
    ("INSERT INTO trim VALUES (9, 0, 5, 0)", "1 freed ranges are of chunk 9", "1 removed"),
    ("INSERT INTO replica VALUES (9, 1)", "1 replicas are of chunk 9", "1 removed"),
    ("INSERT INTO replica VALUES (1, 9)", "1 replicas are on DataNode number 9", "1 removed"),
    ("INSERT INTO work VALUES (1, 9, 'delete', 1, x'c0', 0)", "1 orders are to DataNode number 9", "1 removed"),
    ("INSERT INTO reply VALUES (9, 1, x'c0')", "1 stored replies are of session 9", "1 removed"),
    (
        "INSERT INTO work SELECT 1, node, 'delete', 1, x'c0', 0 FROM replica LIMIT 1",
        "The copy of chunk 1 on n1 counts and is to be deleted",
        "order taken back",
    ),
    ("UPDATE counter SET value = 99 WHERE name = 'inodes'", "The counter of inodes says 99, counted", "set to 4"),
    ("UPDATE counter SET value = 9 WHERE name = 'directories'", "The counter of directories says 9", "set to 2"),
    ("UPDATE counter SET value = 99 WHERE name = 'files'", "The counter of files says 99, counted are 2", "set to 2"),
    ("UPDATE counter SET value = 9 WHERE name = 'allocated'", "The counter of allocated says 9", "set to 60"),
    ("UPDATE counter SET value = 2 WHERE name = 'next_ino'", "Number 4 was given, and next_ino", "next is 5"),
    ("UPDATE counter SET value = 1 WHERE name = 'next_chunk'", "Number 1 was given, and next_chunk", "next is 2"),
    ("UPDATE counter SET value = 1 WHERE name = 'next_session'", "Number 2 was given", "next is 3"),
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


@pytest.mark.parametrize(("sql", "sentence", "done"), DAMAGES)
def test_damage_is_found_and_mended(small: Namespace, sql: str, sentence: str, done: str) -> None:
    session = small.open_session()
    assert small.findings() == []
    small.damage(sql)
    found = small.findings()
    assert [text for text in found if text.startswith(sentence)], found
    mended = small.mend(session)
    assert [text for text in mended if done in text], mended
    if done:
        assert all(mended), list(zip(mended, found, strict=False))
        assert small.findings() == []
    else:
        assert [text for text in small.findings() if text.startswith(sentence)]


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
        check(space.store.checks, cursor)


class Busy:
    """Clients that change everything there is, a random command at a time."""

    def __init__(self, space: Namespace, seed: int) -> None:
        self.space = space
        self.random = random.Random(seed)
        self.sessions = [space.open_session(), space.open_session()]
        self.directories = [ROOT_INO]

    def change(self) -> None:
        """One more command; one that is refused changes nothing."""
        session = self.random.choice(self.sessions)
        action = self.random.choice(
            [
                self.create,
                self.create,
                self.write,
                self.write,
                self.mkdir,
                self.rename,
                self.remove,
                self.remove,
                self.end,
            ]
        )
        with contextlib.suppress(errors.DfsError):
            action(session)

    def name(self) -> tuple[int, bytes]:
        return self.random.choice(self.directories), b"%d" % self.random.randrange(6)

    def create(self, session: int) -> None:
        self.space.do(session, "create", *self.name(), 0o644, 0, 0)

    def mkdir(self, session: int) -> None:
        self.directories.append(self.space.do(session, "mkdir", *self.name(), 0o755, 0, 0)[0])

    def write(self, session: int) -> None:
        ino = self.space.queries.lookup(*self.name()).ino
        self.space.do(session, "setxattr", ino, b"user.a", b"b")
        self.space.do(session, "hold", ino)
        self.space.written(session, ino, self.random.randrange(1, 100))

    def rename(self, session: int) -> None:
        self.space.do(session, "rename", *self.name(), *self.name())

    def remove(self, session: int) -> None:
        verb = self.random.choice(["unlink", "unlink", "rmdir"])
        self.space.do(session, verb, *self.name())

    def end(self, session: int) -> None:
        self.sessions.remove(session)
        self.sessions.append(self.space.open_session())
        self.space.end_session(session)


@pytest.mark.parametrize("seed", range(8))
def test_what_changes_while_it_is_checked_is_no_damage(
    space: Namespace, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    clients = Busy(space, seed)
    for _ in range(300):
        clients.change()
    monkeypatch.setattr(check_module, "_SLICE", 3)
    monkeypatch.setattr(check_module, "_COUNTED_AT_ONCE", 2)
    before = space.store.counters()["log_index"]

    def change(_found: object) -> None:
        for _ in range(4):
            clients.change()

    assert space.check(change) == []
    assert space.store.counters()["log_index"] > before + 50


def test_a_session_that_is_being_ended_is_no_damage(small: Namespace) -> None:
    small.damage("DELETE FROM session")
    with small.moment() as db:
        kinds = {finding.kind for finding in check_chunks(db, [1])}
        assert kinds == {"chunk-open"}
        assert check_chunks(db, [1], sessions={1}) == []


def test_two_who_mend_a_counter_at_once_mend_it_once(small: Namespace) -> None:
    one, other = small.open_session(), small.open_session()
    small.damage("UPDATE counter SET value = 99 WHERE name = 'files'")
    (finding,) = small.check()
    assert finding.mend is not None
    small.file(one, b"more")  # what changes meanwhile changes the counter as well
    assert small.do(one, *finding.mend) == ["set to 3"]
    assert small.do(other, *finding.mend) == []
    assert small.findings() == []


def test_a_directory_that_was_lost_keeps_its_name_and_all_beneath(space: Namespace) -> None:
    session = space.open_session()
    top = space.do(session, "mkdir", ROOT_INO, b"top", 0o755, 0, 0)[0]
    below = space.do(session, "mkdir", top, b"below", 0o755, 0, 0)[0]
    space.do(session, "create", below, b"file", 0o644, 0, 0)
    space.damage("DELETE FROM inode WHERE ino = ?", top)
    space.mend(session)
    assert space.findings() == []
    assert len(space.queries.walk(ROOT_INO, [b"top", b"below", b"file"])) == 3


def test_what_has_no_name_is_found_in_lost_and_found(small: Namespace) -> None:
    session = small.open_session()
    small.damage("DELETE FROM dentry WHERE ino = 3")
    small.mend(session)
    found = small.queries.walk(ROOT_INO, [b"lost+found", b"3"])
    assert [attr.size for attr in found] == [1, 60]


def test_a_file_called_lost_and_found_is_not_written_over(small: Namespace) -> None:
    session = small.open_session()
    small.file(session, b"lost+found")
    small.damage("DELETE FROM dentry WHERE ino = 3")
    with pytest.raises(errors.NotADirectory, match="rename it"):
        small.do(session, "mend_inode", 3)


def test_a_check_of_single_inodes_finds_what_the_whole_check_finds(small: Namespace) -> None:
    small.damage("UPDATE inode SET nlink = 2, size = 10, allocated = 1 WHERE ino = 3")
    small.damage("UPDATE extent SET length = 70")
    with small.moment() as db:
        some = check_inodes(db, [3]) + check_chunks(db, [1])
        assert check_inodes(db, [1, 2, 4]) == []
    assert sorted(some) == sorted(finding for finding in small.check() if finding.kind != "counter")


@pytest.mark.parametrize("name", ["extent", "extent_by_chunk; DROP TABLE inode", "", 5, None, ["extent_by_chunk"]])
def test_what_is_no_index_is_not_made_anew(small: Namespace, name: object) -> None:
    with pytest.raises(errors.InvalidArgument, match="no index"):
        small.do(small.open_session(), "mend_index", name)
    assert small.do(small.open_session(), "mend_index", "extent_by_chunk") == ["made anew from its table"]


def test_a_table_that_contradicts_itself_gives_no_index(small: Namespace) -> None:
    """Two entries of one place in a listing: the index that forbids it was damaged when the second came."""
    small.damage("DROP INDEX dentry_by_cookie")
    small.damage("UPDATE dentry SET cookie = 1")
    small.damage("PRAGMA writable_schema = ON")
    small.damage("CREATE INDEX dentry_by_cookie ON dentry (parent, cookie)")
    small.damage(
        "UPDATE sqlite_schema SET sql = 'CREATE UNIQUE INDEX dentry_by_cookie ON dentry (parent, cookie)'"
        " WHERE name = 'dentry_by_cookie'"
    )
    small.damage("PRAGMA writable_schema = RESET")
    with pytest.raises(errors.Corrupt, match="its table is damaged as well"):
        small.do(small.open_session(), "mend_index", "dentry_by_cookie")


def test_a_copy_that_is_dropped_is_never_the_last(small: Namespace) -> None:
    session = small.open_session()
    small.do(1, "seal", [1])
    assert small.do(session, "mend_copy", 1, "n1") == ["dropped, and a new copy is made"]
    assert small.own("drop_replicas", "n2", [1], ["n1", "n2"], []) == [1]  # n3 is away, or has not reported yet
    assert small.own("drop_replicas", "n2", [1], ["n2", "n3"], [("n3", 1)]) == [1]
    assert small.own("drop_replicas", "n2", [1], ["n2", "n3"], [("n2", 1)]) == []
    assert small.own("drop_replicas", "n2", [1], ["n2"], []) == []  # said again
    assert small.own("drop_replicas", "n3", [1], ["n2", "n3"], []) == [1]
    assert small.do(session, "mend_copy", 1, "n3") == []
    assert small.rows("SELECT count(*) FROM replica") == [1]
    assert small.rows("SELECT 1 FROM work WHERE kind = 'delete'") == []  # what comes back is as good as ever


def test_a_stray_is_deleted_unless_it_may_be_of_use(small: Namespace) -> None:
    session = small.open_session()
    small.own("configure", {"replicas": 3, "min_replicas": 2, "grace_ns": 0})
    small.do(1, "seal", [1])
    small.do(session, "mend_copy", 1, "n1")
    small.damage("DELETE FROM work")
    assert small.do(session, "mend_stray", "n1", 99, 5) == []  # a number that was never given
    assert small.do(session, "mend_stray", "n1", 1, 100) == ["counted again"]
    small.do(session, "mend_copy", 1, "n1")
    small.damage("DELETE FROM work")
    assert small.do(session, "mend_stray", "n1", 1, 50) == []  # it may have bytes that no other copy has
    small.own("drop_surplus", [(1, ["n2"], ["n3"])])
    assert small.do(session, "mend_stray", "n2", 1, 100) == []  # it may be deleted at this moment
    small.own("postpone_work", "n2", small.rows("SELECT id FROM work WHERE kind = 'delete'"), MINUTE_NS)
    assert small.do(session, "mend_stray", "n2", 1, 50) == []
    assert small.do(session, "mend_stray", "n2", 1, 100) == ["counted again"]
    assert small.rows("SELECT 1 FROM work WHERE kind = 'delete'") == []
    small.damage("DELETE FROM chunk")
    assert small.do(session, "mend_stray", "n2", 1, 100) == []  # a file has bytes in it
    small.damage("DELETE FROM extent")
    assert small.do(session, "mend_stray", "n1", 1, 100) == ["to be deleted"]


def test_a_directory_with_more_damage_than_is_told_at_once_says_so(
    space: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = space.open_session()
    for number in range(3):
        space.file(session, b"%d" % number)
    space.damage("DELETE FROM inode WHERE ino != 1")
    with space.moment() as db:
        assert "more" not in {finding.kind for finding in check_inodes(db, [1])}
        monkeypatch.setattr(check_module, "_FINDINGS_MAX", 2)
        assert [finding.kind for finding in check_inodes(db, [1])][:3] == ["entry-dangling", "entry-dangling", "more"]


def test_of_a_large_directory_each_slice_is_looked_at_once(space: Namespace) -> None:
    """And not the whole directory with each slice."""
    where = "(d.parent, d.cookie) > (?, ?) AND (d.parent, d.cookie) <= (?, ?)"
    plan = space.rows(f"EXPLAIN QUERY PLAN {check_module._DENTRIES.format(where)}", 1, 10, 1, 20)
    assert any("(parent,cookie)>(?,?) AND (parent,cookie)<(?,?)" in step for *_, step in plan), plan
