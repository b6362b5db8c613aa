"""The namespace on its disk: what it refuses to open, and what is left when the disk fails it."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from dfs import errors
from dfs.types import ROOT_INO
from nodes.namenode.store import open_store
from tests.unit.namenode.world import Namespace, namespace


def test_what_was_committed_is_there_after_reopening(tmp_path: Path) -> None:
    with namespace(tmp_path) as space:
        session = space.open_session()
        space.written(session, space.file(session).ino, 100)
        space.do(session, "setxattr", ROOT_INO, b"user.x", b"y")
        cluster, before = space.store.cluster, space.dump()
    again = Namespace(tmp_path)
    try:
        assert (again.store.cluster, again.dump()) == (cluster, before)
        assert again.findings() == []
    finally:
        again.store.close()


def test_a_commit_is_flushed_to_the_disk(tmp_path: Path) -> None:
    """No test takes the power from SQLite: this is what it has to be told for a commit to survive that."""
    with namespace(tmp_path) as space:
        assert space.store.writing.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert space.store.writing.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_what_was_not_committed_is_not(tmp_path: Path) -> None:
    with namespace(tmp_path) as space:
        command = space.next_command(space.open_session(), "mkdir", ROOT_INO, b"d", 0o755, 0, 0)
        space.store.begin()
        space.machine.apply(command)
    with namespace(tmp_path) as space:
        assert space.queries.readdir(ROOT_INO, 0, 1) == []


def test_two_clusters_are_two(tmp_path: Path) -> None:
    with namespace(tmp_path / "a") as one, namespace(tmp_path / "b") as other:
        assert one.store.cluster != other.store.cluster


def test_a_second_namenode_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    with namespace(tmp_path):
        with pytest.raises(errors.DirectoryInUse, match="stop it first"):
            open_store(tmp_path, random.Random())
    open_store(tmp_path, random.Random()).close()


def test_a_namespace_of_another_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    with namespace(tmp_path) as space:
        space.damage("UPDATE setting SET value = 999 WHERE name = 'format'")
    for _ in range(2):  # the refusal gives the lock back
        with pytest.raises(errors.FormatUnknown, match="format 999"):
            open_store(tmp_path, random.Random())


def test_a_namespace_of_the_format_before_is_brought_up(tmp_path: Path) -> None:
    with namespace(tmp_path) as space:
        tables = schema_of(space)
        space.file(space.open_session())
        make_format_2(space)
    with namespace(tmp_path) as space:
        assert schema_of(space) == tables
        assert len(space.queries.readdir(ROOT_INO, 0, 10)) == 1


def make_format_2(space: Namespace) -> None:
    """Take away what later formats have more."""
    for table in ("token_used", "revoked", "inode_range"):
        space.damage(f"DROP TABLE {table}")
    for column in ("holder", "subtree", "caches"):
        space.damage(f"ALTER TABLE session DROP COLUMN {column}")
    space.damage("DROP INDEX deletion_by_node")
    space.damage("UPDATE setting SET value = 2 WHERE name = 'format'")


def schema_of(space: Namespace) -> list[tuple[str, ...]]:
    """The columns of all tables."""
    return sorted(
        space.store.reads.execute(
            "SELECT t.name, c.name, c.type, c.pk FROM sqlite_master t, pragma_table_info(t.name) c"
            " WHERE t.type = 'table'"
        )
    )


def test_a_namespace_is_of_the_cluster_whose_keys_made_it(tmp_path: Path) -> None:
    ours, other = "a" * 32, "b" * 32
    for wanted in (ours, ours, None):
        store = open_store(tmp_path, random.Random(), wanted)
        assert store.cluster == ours
        store.close()
    for _ in range(2):  # the refusal gives the lock back
        with pytest.raises(errors.WrongCluster, match=f"keys are those of cluster {other}"):
            open_store(tmp_path, random.Random(), other)


def test_a_namespace_of_the_format_before_gets_sessions_with_keys(tmp_path: Path) -> None:
    """Whose the sessions were that are open in it is not known."""
    with namespace(tmp_path) as space:
        session = space.open_session()
        make_format_2(space)
    with namespace(tmp_path) as space:
        opened = space.open_session("client alice", "/photos")
        assert space.queries.sessions() == [(session, "", 0, ""), (opened, "client alice", 0, "/photos")]


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "namespace.sqlite").write_bytes(b"not a database" * 1000)
    with pytest.raises(errors.DiskFailed, match=r"is damaged \(file is not a database\): .* bring back"):
        open_store(tmp_path, random.Random())


def test_a_directory_that_cannot_be_is_the_configurations_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(errors.ConfigError, match="cannot be used as state_dir"):
        open_store(tmp_path / "file" / "below", random.Random())


def test_a_full_disk_refuses_the_transaction_whole_and_nothing_else(space: Namespace) -> None:
    session = space.open_session()
    before = space.dump()
    pages = space.store.writing.execute("PRAGMA page_count").fetchone()[0]
    space.store.writing.execute(f"PRAGMA max_page_count = {pages + 10}")
    with pytest.raises(errors.NoSpace, match="disk is full"), space.store.translating():
        space.store.begin()
        for number in range(1000):
            space.machine.apply(space.next_command(session, "setxattr", ROOT_INO, b"%d" % number, bytes(4000)))
    space.store.rollback()
    space.machine.forget()
    assert space.dump() == before
    space.store.writing.execute("PRAGMA max_page_count = 1000000")
    space.do(session, "setxattr", ROOT_INO, b"user.x", bytes(4000))
    assert space.findings() == []


def test_an_error_that_is_not_the_disks_is_not_called_so(space: Namespace) -> None:
    with pytest.raises(sqlite3.OperationalError, match="no such table"), space.store.translating():
        space.store.writing.execute("SELECT 1 FROM elsewhere")


def test_reading_sees_one_moment(space: Namespace) -> None:
    session = space.open_session()
    with space.store.reading() as db:
        count = "SELECT count(*) FROM inode"
        assert db.execute(count).fetchone() == (1,)
        space.file(session)
        assert db.execute(count).fetchone() == (1,)
    assert space.rows(count) == [2]
