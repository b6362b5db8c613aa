"""`dfs up` and `dfs down` as far as they go without a daemon; with daemons: tests/integration/test_local_cluster.py."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dfs import errors, mountpoint
from dfs.cli.local import commands, making
from dfs.cli.local.commands import down, up
from dfs.cli.local.layout import Layout
from dfs.cli.local.restarting import restart
from dfs.cli.main import cli
from dfs.mountpoint import Mounted
from tests.unit.cli_local.made import make


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "DFS_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def run(command: object, *arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)  # type: ignore[arg-type]


def test_down_where_nothing_is(home: Path) -> None:
    result = run(down)
    assert result.exit_code == 0
    assert result.output.startswith("No cluster runs in ")
    assert list(home.iterdir()) == []


def test_down_where_nothing_runs(home: Path) -> None:
    layout = Layout(home / "cluster")
    layout.claim()
    make(layout, making.Wish(datanodes=1))
    result = run(down, "--dir", str(layout.directory), "--json")
    assert result.exit_code == 0
    assert json.loads(result.output) == {"dir": str(layout.directory), "stopped": False}


@pytest.fixture
def unmounted(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is asked of fusermount3, which finds everything busy at first."""
    program, asked = home / "fusermount3", home / "asked"
    program.write_text(
        f'#!/bin/sh\necho "$@" >>{asked}\n[ "$1" = -uz ] || {{ echo Device or resource busy >&2; exit 1; }}\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    return asked


def test_down_leaves_mounted_what_is_no_cluster(home: Path, unmounted: Path) -> None:
    """As where somebody has said `dfs umount`, and mounted something else since."""
    layout = Layout(home / "cluster")
    layout.claim()
    layout.write_mounts({Path("/proc")})
    assert run(down, "--dir", str(layout.directory)).exit_code == 0
    assert not unmounted.exists()
    assert layout.read_mounts() == set()


def test_down_says_on_which_mounts_files_were_open(
    home: Path, unmounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(home / "cluster")
    layout.claim()
    layout.write_mounts({home / "mnt"})
    for module in (commands, mountpoint):
        monkeypatch.setattr(module, "find", lambda path: Mounted("36", "0:42", str(path), "fuse.dfs", "x:1:/"))
    result = run(down, "--dir", str(layout.directory))
    assert f"dfs: {home / 'mnt'}: unmounted while files on it were open" in result.stderr
    assert unmounted.read_text() == f"-u {home / 'mnt'}\n-uz {home / 'mnt'}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--datanodes", "0"),
        ("--datanodes", "many"),
        ("--datanodes", "2", "--replicas", "3"),
        ("--replicas", "5"),
        ("--replicas", "2", "--min-replicas", "3"),
        ("--replicas", "17"),
    ],
)
def test_wish_that_cannot_be_is_wrong_usage_and_leaves_nothing(home: Path, arguments: tuple[str, ...]) -> None:
    result = run(up, "--dir", str(home / "cluster"), *arguments)
    assert result.exit_code == 2
    assert list(home.iterdir()) == []


def test_up_in_a_directory_of_others(home: Path) -> None:
    (home / "thesis.tex").touch()
    result = run(up, "--dir", str(home))
    assert result.exit_code == 1
    assert "holds other files" in str(result.exception)


def test_welcome_says_how_to_use_a_cluster_that_is_not_the_usual_one(home: Path) -> None:
    layout = Layout(home / "my cluster")
    layout.claim()
    made = make(layout, making.Wish(datanodes=1))
    text = commands._welcome(layout, made, True)
    assert "1 DataNode, 1 copy of all data" in text
    assert f"export DFS_CONFIG='{layout.client}'" in text
    assert f"dfs down --dir '{layout.directory}'" in text


def test_the_cluster_in_use_is_the_one_that_is_meant(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(home / "cluster")
    layout.claim()
    make(layout, making.Wish(datanodes=1))
    usual = home / ".local/share/dfs/local"
    by_option = CliRunner().invoke(cli, ["--config", str(layout.client), "down", "--json"])
    assert json.loads(by_option.output)["dir"] == str(layout.directory)
    assert json.loads(run(down, "--json").output)["dir"] == str(usual)
    monkeypatch.setenv("DFS_CONFIG", str(layout.client))
    assert json.loads(run(down, "--json").output)["dir"] == str(layout.directory)
    assert f"`dfs up --dir {usual}` starts it" in str(run(restart, "--dir", str(usual)).exception)
    monkeypatch.setenv("DFS_CONFIG", str(home / "client.toml"))  # of a cluster elsewhere
    assert json.loads(run(down, "--json").output)["dir"] == str(usual)


def test_every_hint_is_about_the_cluster_it_is_given_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dfs up` alone starts another one, an empty one, in the usual directory."""
    layout = Layout(home / "my cluster")
    layout.claim()
    make(layout, making.Wish(datanodes=1))
    wanted = f"`dfs up --dir '{layout.directory}'`"
    assert f"{wanted} starts it" in str(run(restart, "--dir", str(layout.directory)).exception)
    with pytest.raises(errors.InvalidArgument, match=re.escape(wanted)):
        make(layout, making.Wish(replicas=2))
    monkeypatch.setattr(commands.running, "stop", lambda _layout: True)
    assert f"{wanted} starts it again" in run(down, "--dir", str(layout.directory)).output
    monkeypatch.setenv("XDG_DATA_HOME", str(home))
    (home / "dfs").mkdir()
    (home / "dfs" / "local").symlink_to(layout.directory)
    assert "`dfs up` starts it again" in run(down).output


def test_welcome_says_where_the_command_is_if_the_shell_does_not_know(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = home / "bin"
    programs.mkdir()
    (programs / "dfs").touch(0o755)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    layout = Layout(home / "cluster")
    layout.claim()
    made = make(layout, making.Wish(datanodes=1))
    monkeypatch.setenv("PATH", "/nowhere")
    assert f"    export PATH={programs}:$PATH\n" in commands._welcome(layout, made, True)
    monkeypatch.setenv("PATH", f"/nowhere:{programs}")
    assert "export PATH" not in commands._welcome(layout, made, True)


def test_welcome_of_the_usual_cluster_needs_no_more(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(home / ".local/share/dfs/local")
    layout.claim()
    made = make(layout, making.Wish(datanodes=4))
    assert "export" not in commands._welcome(layout, made, True)
    assert "--dir" not in commands._welcome(layout, made, True)
    monkeypatch.setenv("DFS_CONFIG", "/etc/dfs/other.toml")
    assert "export DFS_CONFIG=" in commands._welcome(layout, made, True)
