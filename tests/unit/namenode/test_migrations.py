"""A namespace that an earlier release wrote is opened by this one: nothing is lost, and it is as if made today."""

from __future__ import annotations

import json
import random
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from dfs import errors
from dfs.types import ROOT_INO
from nodes.namenode.schema import FORMAT
from nodes.namenode.store import Database, open_store
from tests.namespace_record import dump_file, furnish, record, view, view_file
from tests.unit.namenode.world import NODES, Namespace, namespace

RECORDED = [number for number in range(1, FORMAT + 1) if dump_file(number).exists()]


def laid_down(directory: Path, script: str) -> Path:
    """A state_dir with what a dump says."""
    directory.mkdir()
    db = sqlite3.connect(directory / "namespace.sqlite")
    db.executescript(script)
    db.close()
    return directory


def opened(tmp_path: Path, number: int) -> Namespace:
    """The recorded namespace of that format, under this release."""
    return Namespace(laid_down(tmp_path / "state", dump_file(number).read_text()))


def shape(db: Database) -> dict[str, Any]:
    """Tables with their columns in order, and indexes, however they came to be; and what is counted and set."""
    tables = {
        row[1]: (row[4], row[5], db.execute(f"PRAGMA table_xinfo({row[1]})").fetchall())
        for row in db.execute("PRAGMA table_list").fetchall()
        if not row[1].startswith("sqlite_")
    }
    indexes = {
        name: re.sub(r"\s+", " ", sql)
        for name, sql in db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
    }
    counters = sorted(name for (name,) in db.execute("SELECT name FROM counter"))
    return {"tables": tables, "indexes": indexes, "counters": counters}


def test_every_format_before_the_present_one_is_recorded() -> None:
    missing = [number for number in range(1, FORMAT) if number not in RECORDED]
    assert not missing, f"write {dump_file(missing[0])} with the code of its time: see tests/namespace_record.py"


def test_the_present_format_can_be_recorded_and_read_again(tmp_path: Path) -> None:
    with namespace(tmp_path / "made") as space:
        furnish(space)
        dump, seen = record(space)
    again = Namespace(laid_down(tmp_path / "state", dump))
    try:
        assert view(again) == seen
        assert again.findings() == []
    finally:
        again.store.close()


@pytest.mark.parametrize("number", RECORDED)
def test_what_was_recorded_is_of_its_format(number: int) -> None:
    """No dump was written by a later release over that of an earlier one."""
    assert f"INSERT INTO \"setting\" VALUES('format',{number});" in dump_file(number).read_text()


@pytest.mark.parametrize("number", RECORDED)
def test_an_old_namespace_becomes_one_as_made_today(tmp_path: Path, number: int) -> None:
    old = opened(tmp_path, number)
    try:
        with namespace(tmp_path / "fresh") as fresh:
            assert shape(old.store.reads) == shape(fresh.store.reads)
            settings = "SELECT name FROM setting"
            assert set(fresh.rows(settings)) <= set(old.rows(settings))
        assert old.store.setting("format") == FORMAT
    finally:
        old.store.close()


@pytest.mark.parametrize("number", RECORDED)
def test_the_log_says_what_was_migrated(tmp_path: Path, number: int) -> None:
    with structlog.testing.capture_logs() as logs:
        opened(tmp_path, number).store.close()
        Namespace(tmp_path / "state").store.close()
    said = [(line["found"], line["format"]) for line in logs if line["event"] == "namespace migrated"]
    assert said == [(number, FORMAT)] * (number != FORMAT)


@pytest.mark.parametrize("number", RECORDED)
def test_users_find_an_old_namespace_as_it_was(tmp_path: Path, number: int) -> None:
    space = opened(tmp_path, number)
    try:
        missing = differences(json.loads(view_file(number).read_text()), json.loads(json.dumps(view(space))))
        assert missing == []
        assert space.findings() == []
    finally:
        space.store.close()


def differences(before: Any, now: Any, path: str = "") -> list[str]:
    """Where what there was is not so any more. What is new in maps is no difference."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [each for key in before for each in differences(before[key], now.get(key), f"{path} {key}")]
    return [] if before == now else [f"{path}: {before} became {now}"]


@pytest.mark.parametrize("number", RECORDED)
def test_an_old_namespace_is_worked_on_to_its_end(tmp_path: Path, number: int) -> None:
    """Sessions that were open go on, all that was begun is ended, all is removed, and nothing is left over."""
    space = opened(tmp_path, number)
    try:
        [session] = space.rows("SELECT session FROM session")
        space.go_on(session)
        file = space.file(session, b"new")
        chunk = space.written(session, file.ino, 700)
        space.do(session, "rename", ROOT_INO, b"new", ROOT_INO, b"plain", 0)
        assert space.queries.extents(file.ino, 0, 700)[1] == [(0, 700, chunk, 0)]
        space.do(session, "release", space.rows("SELECT ino FROM hold")[0])
        empty(space, session, ROOT_INO)
        while space.own("free_doomed"):
            pass
        assert space.rows("SELECT ino FROM inode") == [ROOT_INO]
        assert space.rows("SELECT * FROM extent") == []
        assert space.findings() == []
    finally:
        space.store.close()


def empty(space: Namespace, session: int, ino: int) -> None:
    """Remove all that is in a directory."""
    for _, name, below in space.queries.readdir(ino, 0, 1000):
        if below.mode & 0o170000 == 0o040000:
            empty(space, session, below.ino)
            space.do(session, "rmdir", ino, name)
        else:
            space.do(session, "unlink", ino, name)


@pytest.mark.parametrize("number", RECORDED)
def test_opening_it_again_changes_nothing_more(tmp_path: Path, number: int) -> None:
    space = opened(tmp_path, number)
    before = space.dump()
    space.store.close()
    again = Namespace(tmp_path / "state")
    try:
        assert again.dump() == before
        assert set(NODES) <= set(again.rows("SELECT name FROM node"))
    finally:
        again.store.close()


def test_what_no_release_wrote_is_refused_with_what_to_do(tmp_path: Path) -> None:
    space = opened(tmp_path, 1)
    space.damage("UPDATE setting SET value = ? WHERE name = 'format'", FORMAT + 1)
    space.store.close()
    with pytest.raises(errors.FormatUnknown, match=f"format {FORMAT + 1}, this dfs knows {FORMAT}: run the version"):
        open_store(tmp_path / "state", random.Random())
