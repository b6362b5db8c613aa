"""`dfs clients`: a row for each."""

from __future__ import annotations

from typing import Any, Final

from dfs.cli.clients import row

_MOUNT: Final[dict[str, Any]] = {
    "session": 7,
    "name": "mount /mnt/dfs (pid 31)",
    "host": "lab1",
    "key": "client alice",
    "subtree": "",
    "open_s": 7200.5,
    "silent_s": 1.25,
    "chunks": 2,
    "caches": True,
    "leases": 12031,
    "owned": 3,
    "asked": 0,
    "asked_s": 0.0,
}


def test_a_mount_at_work() -> None:
    shown = ["mount /mnt/dfs (pid 31)", "lab1", "client alice", "2 h", "1.2 s ago", "12,031", "3", "2", "-"]
    assert row(_MOUNT) == shown


def test_one_that_does_not_answer_when_it_is_asked_to_forget() -> None:
    assert row(_MOUNT | {"asked": 4, "asked_s": 12.0})[-1] == "for 12 s"
    assert row(_MOUNT | {"silent_s": None})[4] == "ending"


def test_a_command_keeps_nothing() -> None:
    command = _MOUNT | {"name": "dfs ls (pid 3)", "key": "reader guest", "subtree": "/a\nb", "caches": False}
    assert row(command)[2] == "reader guest in /a\\nb"
    assert row(command)[5:7] == ["-", "-"]
