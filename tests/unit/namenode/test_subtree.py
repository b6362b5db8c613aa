"""A key that is limited to a subtree: for its sessions and questions nothing else exists."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from dfs import errors
from dfs.keys import KeyId, Role
from dfs.posix import RENAME_EXCHANGE
from dfs.types import ROOT_INO
from dfs.verbs import VERBS
from nodes.namenode import commands
from nodes.namenode.confinement import ACCESSED, ConfinedQueries
from nodes.namenode.subtree import Subtree
from tests.unit.namenode.world import NODES, Namespace

KEY = KeyId(1, Role.CLIENT, "alice", (("subtree", "/home/alice"),))


class Home:
    """/home/alice with a directory and a file in it, and /home/bob and a file of bob's outside."""

    def __init__(self, space: Namespace) -> None:
        self.space = space
        self.admin = space.open_session("admin tests")
        self.session = space.open_session(KEY.identity, "/home/alice")
        self.queries = ConfinedQueries(space.store, space.queries, "/home/alice", KEY)
        self.home = self.mkdir(ROOT_INO, b"home")
        self.alice, self.bob = self.mkdir(self.home, b"alice"), self.mkdir(self.home, b"bob")
        self.inside = self.mkdir(self.alice, b"inside")
        self.mine, self.his = self.create(self.inside, b"mine"), self.create(self.bob, b"his")
        self.secret = space.written(self.admin, self.his, 10)
        space.do(self.admin, "setxattr", self.his, b"user.secret", b"x")

    def mkdir(self, parent: int, name: bytes) -> int:
        return int(self.space.do(self.admin, "mkdir", parent, name, 0o755, 0, 0).ino)

    def create(self, parent: int, name: bytes) -> int:
        return int(self.space.do(self.admin, "create", parent, name, 0o644, 0, 0).ino)

    def move(self, parent: int, name: bytes, new_parent: int, new_name: bytes) -> None:
        self.space.do(self.admin, "rename", parent, name, new_parent, new_name)

    def do(self, verb: str, *args: Any) -> Any:
        """What the limited session does."""
        return self.space.do(self.session, verb, *args)

    def sees(self, ino: int) -> bool:
        try:
            self.queries.getattr(ino)
        except errors.NotFound:
            return False
        return True

    def outside(self) -> list[Any]:
        """All rows that are not alice's to change. Her own directory's parent counts its links only."""
        rows: list[Any] = self.space.rows(
            "WITH RECURSIVE below (ino) AS (VALUES (?) UNION SELECT d.ino FROM dentry d JOIN below ON"
            " d.parent = below.ino) SELECT * FROM inode WHERE ino NOT IN below",
            self.alice,
        )
        names = self.space.rows("SELECT * FROM dentry WHERE parent IN (?, ?, ?)", ROOT_INO, self.home, self.bob)
        extents = self.space.rows("SELECT * FROM extent WHERE ino = ?", self.his)
        xattrs = self.space.rows("SELECT * FROM xattr WHERE ino IN (?, ?, ?)", ROOT_INO, self.home, self.his)
        return [row for row in rows if row[2] or row[0] == self.his] + names + extents + xattrs


@pytest.fixture
def home(space: Namespace) -> Home:
    return Home(space)


def test_every_verb_of_clients_has_its_place_in_the_table() -> None:
    assert {*VERBS, ACCESSED} == {*commands.CLIENT, *commands.PLANNED} - {*commands.MENDING}


def test_the_root_is_where_the_claim_says(home: Home) -> None:
    assert home.queries.root() == home.alice
    assert home.queries.parent(home.alice).ino == home.alice
    assert home.queries.parent(home.inside).ino == home.alice
    assert [attr.ino for attr in home.queries.walk(home.alice, [b"inside", b"mine"])] == [home.inside, home.mine]


def test_nothing_outside_can_be_asked_for(home: Home) -> None:
    asked: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (home.queries.lookup, (b"his",)),
        (home.queries.getattr, ()),
        (home.queries.walk, ([b"his"],)),
        (home.queries.parent, ()),
        (home.queries.readdir, (0, 10)),
        (home.queries.readlink, ()),
        (home.queries.getxattr, (b"user.secret",)),
        (home.queries.listxattr, ()),
        (home.queries.extents, (0, 10, 10)),
    ]
    for query, args in asked:
        for ino in (ROOT_INO, home.home, home.bob, home.his, 999):
            with pytest.raises(errors.NotFound, match=f"inode {ino} is gone"):
                query(ino, *args)
    assert home.queries.whole_files([home.his, home.mine])[0][0] is None


def test_nothing_outside_can_be_changed(home: Home) -> None:
    alice, bob, his = home.alice, home.bob, home.his
    before = home.outside()
    attempts: list[tuple[Any, ...]] = [
        ("create", bob, b"new", 0o644, 0, 0),
        ("create", bob, b"his", 0o644, 0, 0, False, True),
        ("create_unnamed", bob, 0o644, 0, 0),
        ("mkdir", bob, b"new", 0o755, 0, 0),
        ("mknod", bob, b"new", 0o10644, 0, 0, 0),
        ("symlink", bob, b"new", b"target", 0, 0),
        ("link", his, alice, b"stolen"),
        ("link", home.mine, bob, b"planted"),
        ("unlink", bob, b"his"),
        ("rmdir", home.home, b"bob"),
        ("rename", bob, b"his", alice, b"stolen"),
        ("rename", home.inside, b"mine", bob, b"his"),
        ("rename", home.inside, b"mine", bob, b"his", RENAME_EXCHANGE),
        ("rename", bob, b"his", home.inside, b"mine", RENAME_EXCHANGE),
        ("rename", home.home, b"alice", home.home, b"alicia"),
        ("setattr", his, {"mode": 0o777}),
        ("truncate", his, 0),
        ("setxattr", his, b"user.x", b"y"),
        ("removexattr", his, b"user.secret"),
        ("hold", his),
        ("commit", his, [], []),
    ]
    assert {attempt[0] for attempt in attempts} == {verb for verb, how in VERBS.items() if how.inodes}
    for verb, *args in attempts:
        with pytest.raises(errors.NotFound):
            home.do(verb, *args)
    home.do("accessed", [[his, home.space.now_ns * 2], [home.mine, home.space.now_ns * 2]])
    home.do("release", his)
    assert home.outside() == before
    mine = home.queries.getattr(home.mine)
    assert mine.atime_ns > mine.ctime_ns


def test_a_verb_for_admins_is_refused_whoever_lets_it_through(home: Home) -> None:
    with pytest.raises(errors.NotPermitted, match="limited"):
        home.do("mend_inode", home.his)


@pytest.mark.parametrize("ino", [True, "1", b"1", None, -1, 2**64, [1], 1.0])
def test_what_is_no_inode_gets_past_no_check(home: Home, ino: Any) -> None:
    for verb, how in VERBS.items():
        if how.inodes:
            with pytest.raises(errors.InvalidArgument):
                home.do(verb, *[ino] * 6)
    with pytest.raises(errors.InvalidArgument):
        home.do("accessed", [[ino, 1]])
    with pytest.raises(errors.InvalidArgument):
        home.queries.getattr(ino)


def test_bytes_of_a_chunk_of_others_cannot_be_made_ones_own(home: Home) -> None:
    for chunks in ([[home.secret, 10, list(NODES)]], []):
        with pytest.raises((errors.ChunkSealed, errors.InvalidArgument)):
            home.do("commit", home.mine, [[0, 10, home.secret, 0]], chunks)
    home.do("seal", [home.secret])
    assert home.space.rows("SELECT session FROM chunk WHERE chunk = ?", home.secret) == [home.admin]
    own = home.space.chunk(home.session)
    home.do("commit", home.mine, [[0, 10, own, 0]], [[own, 10, list(NODES)]])


def test_a_file_that_has_a_name_inside_is_inside(home: Home) -> None:
    home.space.do(home.admin, "link", home.his, home.inside, b"shared")
    assert home.queries.extents(home.his, 0, 10, 10)[0].ino == home.his
    home.do("setxattr", home.his, b"user.x", b"y")
    home.do("unlink", home.inside, b"shared")
    assert not home.sees(home.his)


def test_what_is_moved_out_is_gone_and_what_is_moved_in_is_there(home: Home) -> None:
    home.do("hold", home.mine)
    home.move(home.alice, b"inside", home.bob, b"taken")
    assert not home.sees(home.inside) and not home.sees(home.mine)
    with pytest.raises(errors.NotFound):
        home.do("truncate", home.mine, 0)
    home.move(home.bob, b"taken", home.alice, b"back")
    assert home.sees(home.mine)


def test_what_lost_its_last_name_outside_is_not_held_any_more(home: Home) -> None:
    """It may have got other bytes there."""
    home.do("hold", home.mine)
    home.move(home.alice, b"inside", home.bob, b"taken")
    home.space.do(home.admin, "hold", home.mine)
    home.space.do(home.admin, "unlink", home.inside, b"mine")
    assert not home.sees(home.mine)
    home.do("release", home.mine)
    assert home.space.queries.getattr(home.mine).nlink == 0
    home.space.do(home.admin, "release", home.mine)
    assert home.space.findings() == []


def test_an_open_file_outlives_its_name_and_a_removed_directory_too(home: Home) -> None:
    home.do("hold", home.mine)
    home.do("hold", home.inside)
    home.space.do(home.admin, "unlink", home.inside, b"mine")
    home.do("rmdir", home.alice, b"inside")
    assert home.sees(home.mine) and home.sees(home.inside)
    assert home.do("link", home.mine, home.alice, b"again").nlink == 1
    unnamed = home.do("create_unnamed", home.alice, 0o644, 0, 0).ino
    assert home.sees(unnamed)
    stranger = ConfinedQueries(home.space.store, home.space.queries, "/home/alice", KEY._replace(name="eve"))
    with pytest.raises(errors.NotFound):
        stranger.getattr(unnamed)


def test_the_claim_is_a_path_and_whatever_has_it_is_the_root(home: Home) -> None:
    home.move(home.home, b"alice", home.home, b"old")
    with pytest.raises(errors.NotFound, match="/home/alice does not exist"):
        home.queries.root()
    with pytest.raises(errors.NotFound):
        home.do("mkdir", home.alice, b"d", 0o755, 0, 0)
    home.space.do(home.admin, "symlink", home.home, b"alice", b"bob", 0, 0)
    with pytest.raises(errors.NotFound):
        home.queries.root()
    home.space.do(home.admin, "unlink", home.home, b"alice")
    new = home.mkdir(home.home, b"alice")
    assert home.queries.root() == new
    assert not home.sees(home.alice)


@pytest.mark.parametrize("path", ["/home/..", "/home/alice/..", "/home/alice/.", "/home/alice/inside/mine", "/none"])
def test_a_claim_that_is_no_path_of_a_directory_is_a_view_of_nothing(home: Home, path: str) -> None:
    with home.space.store.reading() as db, pytest.raises(errors.NotFound):
        Subtree(db, path, KEY.identity).root()


def test_the_way_up_is_bounded(home: Home) -> None:
    """A client can make directories deeper than any path is long, and a damaged namespace can have loops."""
    home.space.damage("UPDATE inode SET parent = ? WHERE ino = ?", home.inside, home.inside)
    assert not home.sees(home.inside)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_sent_nothing_outside_changes(home: Home, seed: int) -> None:
    chance = random.Random(seed)
    before = home.outside()
    verbs = sorted({*VERBS, ACCESSED})
    values: list[Any] = [
        *range(1, 12),
        b"his",
        b"mine",
        b"inside",
        b"x",
        0,
        RENAME_EXCHANGE,
        {"mode": 0o700},
        [],
        [[7, 9]],
        True,
    ]
    for _ in range(300):
        verb = chance.choice(verbs)
        args = [chance.choice(values) for _ in range(chance.choice((1, 2, 3, 4, 5, 5, 6)))]
        if verb == "allocate_chunks":
            args = [1, [["n1"]]]
        try:
            result = home.do(verb, *args)
        except errors.DfsError as error:
            assert not isinstance(error, errors.RemoteFault)
            continue
        if result is not None and hasattr(result, "ino"):
            assert home.sees(result.ino) or not result.nlink
    assert home.outside() == before
    assert home.space.findings() == []
