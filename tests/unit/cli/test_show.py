"""Sizes, times, names and JSON look as people and programs expect them."""

from __future__ import annotations

import json
import os
import stat
import sys
import time

import pytest

from dfs.cli import show
from dfs.cli.listing import Item, long_lines, stat_lines
from dfs.cli.usage import df_record
from dfs.types import Attr, Ino, Statfs

NOT_UTF8 = b"caf\xe9"


def attr(mode: int = stat.S_IFREG | 0o644, size: int = 0, **other: int) -> Attr:
    """An inode of root's, a moment old."""
    now = time.time_ns()
    whole = Attr(Ino(7), mode, 1, 0, 0, 0, size, size, now, now, now, now, 1, 3)
    return whole._replace(**other)


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0"),
        (1023, "1023"),
        (1024, "1.0K"),
        (1025, "1.1K"),
        (1536, "1.5K"),
        (10 * 1024, "10K"),
        (10 * 1024 - 1, "10K"),
        (1024 * 1024 - 1, "1.0M"),
        (20 * 2**20, "20M"),
        (2**30, "1.0G"),
        (2**63 - 1, "8.0E"),
    ],
)
def test_sizes_for_people_are_those_of_ls(size: int, shown: str) -> None:
    assert show.human(size) == shown


def test_a_recent_time_shows_the_hour_and_an_old_one_the_year(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    now = 1_795_467_000.0  # 23 November 2026, 20:50
    assert show.listing_time(int(now - 180) * 10**9, now) == "Nov 23 20:47"
    assert show.listing_time(int(now - 300 * 86400) * 10**9, now) == "Jan 27  2026"
    assert show.listing_time(int(now + 86400) * 10**9, now) == "Nov 24  2026"


def test_a_long_listing_has_its_columns_under_each_other() -> None:
    items = [
        Item(b"/big", b"big", attr(size=123_456, nlink=12, uid=4_000_000_000, gid=4_000_000_000)),
        Item(b"/link", b"link", attr(stat.S_IFLNK | 0o777, size=3), b"big"),
        Item(b"/run", b"run", attr(stat.S_IFDIR | 0o1777, size=1)),
    ]
    big, link, run = long_lines(items)
    when = show.listing_time(items[0].attr.mtime_ns)
    assert big == f"-rw-r--r-- 12 4000000000 4000000000 123456 {when} big"
    assert link == f"lrwxrwxrwx  1 root       root            3 {when} link -> big"
    assert run == f"drwxrwxrwt  1 root       root            1 {when} run"


def test_long_listings_take_numbers_and_sizes_for_people() -> None:
    (line,) = long_lines([Item(b"/f", b"f", attr(size=20 * 2**20))], humanly=True, numeric=True)
    assert line.startswith("-rw-r--r-- 1 0 0 20M ")


def test_a_device_shows_its_numbers_for_a_size() -> None:
    assert show.size_of(attr(stat.S_IFCHR | 0o666, rdev=os.makedev(1, 3))) == "1, 3"


def test_stat_says_what_stat_says() -> None:
    item = Item(b"/x/link", b"/x/link", attr(stat.S_IFLNK | 0o777, size=6, mtime_ns=5), b"target")
    lines = stat_lines(item, [])
    assert lines[0] == "  File: /x/link -> target"
    assert "symbolic link" in lines[1]
    assert "(0777/lrwxrwxrwx)" in lines[3]
    assert ".000000005 " in lines[5]


def test_what_is_used_has_copies_counted_for_programs_as_for_people() -> None:
    record = df_record("h:1", Statfs(capacity_bytes=100, free_bytes=40, used_bytes=20, inodes=5, replicas=3))
    assert (record["used_bytes"], record["data_bytes"]) == (60, 20)


def test_copies_are_told_in_one_way() -> None:
    file, directory = attr(), attr(stat.S_IFDIR | 0o755, replicas=0)
    assert [show.copies_of(each) for each in (file, directory, attr(stat.S_IFLNK))] == ["3", "default", "-"]
    assert "Copies: default" in stat_lines(Item(b"/d", b"/d", directory), [])[2]


def test_a_name_that_is_not_utf8_survives_json() -> None:
    found = show.record(b"/dir/" + NOT_UTF8, attr())
    written = show.as_json(found)
    assert written.isascii()
    assert "caf\\udce9" in written
    back = json.loads(written)
    assert os.fsencode(back["name"]) == NOT_UTF8
    assert os.fsencode(back["path"]) == b"/dir/" + NOT_UTF8
    assert (back["type"], back["mode"], back["size"], back["replicas"]) == ("file", "0644", 0, 3)


def test_the_root_has_a_name_too() -> None:
    assert show.record(b"/", attr(stat.S_IFDIR | 0o755))["name"] == "/"


def test_a_name_goes_to_a_pipe_byte_for_byte(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    show.echo(show.name(NOT_UTF8 + b"\x1b[31m"))
    sys.stdout.flush()
    assert capfdbinary.readouterr().out == NOT_UTF8 + b"\x1b[31m\n"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"plain name", "plain name"),
        ("grüße 漢字".encode(), "grüße 漢字"),
        (b"a\nb\tc", "a\\nb\\tc"),
        (b"\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        (NOT_UTF8, "caf\\xe9"),
        ("\u202egnp.exe".encode(), "\\u202egnp.exe"),
    ],
)
def test_no_name_can_steer_a_terminal(raw: bytes, shown: str) -> None:
    assert show.escaped(raw) == shown


def test_columns_are_read_downwards() -> None:
    names = ["a", "bb", "ccc", "dddd", "eeeee"]
    assert show.columns(names, 80) == ["a  bb  ccc  dddd  eeeee"]
    assert show.columns(names, 14) == ["a    dddd", "bb   eeeee", "ccc"]
    assert show.columns(names, 5) == names
    assert show.columns([], 80) == []


def test_wide_characters_take_two_columns() -> None:
    assert show.table([["漢", "|"], ["abc", "|"]]) == ["漢  |", "abc |"]


def test_spaces_at_the_end_of_a_name_stay_and_no_others_are_put_there() -> None:
    assert show.table([["1", "a  "], ["22", "longer"], ["3", ""]]) == ["1  a  ", "22 longer", "3"]
    assert show.columns(["a ", "bb", "c "], 9) == ["a   c ", "bb"]


def test_shares_and_ages_for_people() -> None:
    assert [show.share(1, 3), show.share(0, 5), show.share(5, 5), show.share(0, 0)] == ["34%", "0%", "100%", "-"]
    assert [show.age(s) for s in (0.42, 12, 119, 150, 7300, 200_000)] == [
        "0.4 s",
        "12 s",
        "119 s",
        "2 min",
        "2 h",
        "2 d",
    ]
