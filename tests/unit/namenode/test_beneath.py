"""Who is beneath a directory, asked from below."""

from __future__ import annotations

from dfs.types import ROOT_INO, Ino
from nodes.namenode.beneath import Beneath
from tests.unit.namenode.world import Namespace


def directory(space: Namespace, session: int, parent: int, name: bytes) -> int:
    return int(space.do(session, "mkdir", parent, name, 0o755, 0, 0).ino)


def file(space: Namespace, session: int, parent: int, name: bytes) -> int:
    return int(space.do(session, "create", parent, name, 0o644, 0, 0).ino)


def found(space: Namespace, top: int, *inos: int) -> list[int]:
    beneath = Beneath(space.store.reads, Ino(top))
    return [ino for ino in inos if beneath.has(Ino(ino))]


def test_what_is_in_a_directory_at_any_depth_is_beneath_it_and_it_is_itself(space: Namespace) -> None:
    session = space.open_session()
    top, other = (directory(space, session, ROOT_INO, name) for name in (b"top", b"other"))
    below = directory(space, session, top, b"below")
    deep = file(space, session, directory(space, session, below, b"deeper"), b"file")
    elsewhere = file(space, session, other, b"file")
    assert found(space, top, top, below, deep, other, elsewhere, ROOT_INO) == [top, below, deep]
    assert found(space, ROOT_INO, deep, elsewhere, ROOT_INO, other) == [deep, elsewhere, ROOT_INO, other]
    assert found(space, deep, deep, elsewhere, below) == [deep]


def test_one_of_several_names_is_enough_and_what_has_none_is_nowhere(space: Namespace) -> None:
    session = space.open_session()
    top = directory(space, session, ROOT_INO, b"top")
    linked, gone = file(space, session, ROOT_INO, b"linked"), file(space, session, top, b"gone")
    space.do(session, "link", linked, top, b"again")
    space.do(session, "hold", gone)
    space.do(session, "unlink", top, b"gone")
    assert found(space, top, linked, gone, 99_999) == [linked]
    assert found(space, ROOT_INO, gone, 99_999) == []


def test_directories_that_are_in_each_other_are_nowhere(space: Namespace) -> None:
    session = space.open_session()
    top, upper = (directory(space, session, ROOT_INO, name) for name in (b"top", b"upper"))
    lower = directory(space, session, upper, b"lower")
    space.damage("UPDATE inode SET parent = ? WHERE ino = ?", lower, upper)
    assert found(space, top, lower, upper) == []
