"""Whoever speaks a version of the protocol that we say we speak finds all of it."""

from __future__ import annotations

import pytest

from dfs.rpc import SPOKEN
from tests.protocol_record import broken, record, recorded


@pytest.mark.parametrize("version", range(SPOKEN.oldest, SPOKEN.newest + 1))
def test_every_version_that_we_speak_is_written_down_and_kept(version: int) -> None:
    assert not broken(recorded(version), record()), "dfs/rpc/versions.py says how a change stays compatible"


def test_what_is_new_breaks_nothing() -> None:
    old = {"namenode": {"getattr": ["ino"]}}
    assert not broken(old, {"namenode": {"getattr": ["ino", "fields?"], "statx": ["ino"]}})


@pytest.mark.parametrize(
    ("new", "says"),
    [
        ({}, "is gone"),
        ({"read": ["length", "offset?"]}, "became"),
        ({"read": ["offset"]}, "became"),
        ({"read": ["offset", "length"]}, "needs length"),
        ({"read": ["offset", "length?", "check"]}, "needs check"),
    ],
)
def test_what_breaks_somebody_is_named(new: dict[str, list[str]], says: str) -> None:
    [problem] = broken({"datanode": {"read": ["offset", "length?"]}}, {"datanode": new})
    assert problem.startswith("datanode: read(offset, length?)") and says in problem
