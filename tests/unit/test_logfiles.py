"""Logs stay bounded, and their last words can be found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dfs import limits
from dfs.logfiles import empty_if_full, last_line, open_log


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "n1.log"


def write(log: Path, text: str) -> None:
    descriptor = open_log(log)
    os.write(descriptor, text.encode())
    os.close(descriptor)


def test_starts_append_to_one_log(log: Path) -> None:
    write(log, "first\n")
    write(log, "second\n")
    assert log.read_text() == "first\nsecond\n"


def test_full_log_is_put_aside_and_one_is_kept(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOG_FILE_MAX_BYTES", 3)
    for text in ("first\n", "second\n", "third\n"):
        write(log, text)
    assert log.read_text() == "third\n"
    assert log.with_name("n1.log.1").read_text() == "second\n"
    assert len(list(log.parent.iterdir())) == 2


def test_log_emptied_while_written_to_goes_on_from_its_beginning(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOG_FILE_MAX_BYTES", 3)
    descriptor = open_log(log)
    os.write(descriptor, b"first\n")
    empty_if_full(log)
    os.write(descriptor, b"second\n")
    os.close(descriptor)
    assert log.read_text() == "second\n"
    assert log.with_name("n1.log.1").read_text() == "first\n"


def test_log_that_is_not_there_yet_is_not_full(log: Path) -> None:
    empty_if_full(log)
    assert last_line(log) == ""


def test_last_line_is_the_last_that_says_something(log: Path) -> None:
    write(log, "serving\ndfs n1: the disk is full\n\n  \n")
    assert last_line(log) == "dfs n1: the disk is full"


def test_last_line_of_this_time_only(log: Path) -> None:
    write(log, "yesterday's trouble\n")
    size = log.stat().st_size
    assert last_line(log, size) == ""
    write(log, "today's\n")
    assert last_line(log, size) == "today's"


def test_last_line_of_a_log_begun_anew(log: Path) -> None:
    write(log, "new\n")
    assert last_line(log, 1000) == "new"


def test_last_line_of_a_long_log_of_any_bytes(log: Path) -> None:
    write(log, "x" * 100_000 + "\nend\n")
    with log.open("ab") as file:
        file.write(b"\xff\xfe\n")
    assert last_line(log) == "\ufffd\ufffd"
