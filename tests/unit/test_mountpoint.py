"""The kernel's table of mounts, and taking one away."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from dfs import errors
from dfs.cli.main import cli
from dfs.mountpoint import Mounted, parse, unmount


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (b"/mnt", "/mnt"),
        (rb"/mnt/two\040words", "/mnt/two words"),
        (rb"/mnt/back\134slash", "/mnt/back\\slash"),
        ("/mnt/Übung".encode(), "/mnt/Übung"),
        ("/mnt/\u65e5\u672c\\040\u8a9e".encode(), "/mnt/\u65e5\u672c \u8a9e"),
        (b"/mnt/\xff", os.fsdecode(b"/mnt/\xff")),
    ],
)
def test_a_mount_point_may_have_any_name(written: bytes, meant: str) -> None:
    line = b"36 35 0:42 / %b rw,nosuid shared:7 - fuse.dfs 10.0.0.1:9400:/ rw,user_id=0" % written
    assert parse(line) == Mounted("36", "0:42", meant, "fuse.dfs", "10.0.0.1:9400:/")


def test_lines_have_any_number_of_optional_fields() -> None:
    assert parse(b"22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw") == Mounted("22", "8:1", "/", "ext4", "/dev/sda1")


def test_who_unmounts_is_not_given_up_for_a_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a service is stopped, and each of its processes gets one."""
    program = tmp_path / "fusermount3"
    program.write_text('#!/bin/sh\n[ -e "$0.again" ] || { : >"$0.again"; kill -TERM $$; }\necho busy >&2; exit 1\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(errors.NotPermitted, match="cannot unmount /proc: busy"):
        unmount(Path("/proc"))


def test_what_is_no_cluster_stays_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "fusermount3"
    program.write_text('#!/bin/sh\ntouch "$0.asked"\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    result = CliRunner().invoke(cli, ["umount", "/proc"])
    assert (result.exit_code, list(tmp_path.glob("*.asked"))) == (1, [])
    assert result.stderr == "dfs: what is mounted on /proc is no dfs: it is a file system of type proc\n"
