"""What `dfs init` and `dfs join` do to a machine: all of it or nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dfs import config, errors
from dfs.cli import machine
from dfs.cli.machine import Files
from dfs.keys import KeyFile, Masters


def files(directory: Path) -> Files:
    made = Files(directory / "etc")
    made.add_directory(directory / "srv" / "disk")
    made.add_key(directory / "etc" / "client.key", KeyFile(None, Masters.make()), is_daemons=True)
    made.add(directory / "etc" / "client.toml", "text\n")
    return made


def everything(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_keys_are_for_their_owner_and_configuration_for_everybody(tmp_path: Path) -> None:
    made = files(tmp_path)
    made.make_directories()
    made.write()
    assert everything(tmp_path) == ["etc", "etc/client.key", "etc/client.toml", "srv", "srv/disk"]
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("etc/client.key", "etc/client.toml", "srv/disk")]
    assert modes == [0o600, 0o644, 0o700]


@pytest.mark.parametrize("mask", [0o077, 0o027, 0o777])
def test_daemons_can_read_what_is_for_everybody_whatever_the_umask_is(tmp_path: Path, mask: int) -> None:
    made, before = files(tmp_path), os.umask(mask)
    try:
        made.make_directories()
        made.write()
    finally:
        os.umask(before)
    names = ("etc", "etc/client.key", "etc/client.toml", "srv", "srv/disk")
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in names]
    assert modes == [0o755, 0o600, 0o644, 0o755, 0o700]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives directories away, as root may")
@pytest.mark.parametrize(("inside", "is_given"), [("", True), ("lost+found", True), ("chunks", False)])
def test_a_disk_that_was_formatted_a_moment_ago_is_given_to_the_daemons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str, is_given: bool
) -> None:
    (tmp_path / "srv" / "disk" / inside).mkdir(parents=True)
    monkeypatch.setattr(machine, "_daemons_owner", lambda _: (65534, 65534))
    files(tmp_path).make_directories()
    assert ((tmp_path / "srv" / "disk").stat().st_uid == 65534) is is_given


def test_what_fails_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_directory: Path) -> None:
        raise OSError("no space")

    made = files(tmp_path)
    made.make_directories()
    monkeypatch.setattr("dfs.keys.sync_directory", fail)
    with pytest.raises(OSError, match="no space"):
        made.write()
    assert everything(tmp_path) == []


def test_what_was_there_before_stays(tmp_path: Path) -> None:
    (tmp_path / "srv" / "disk").mkdir(parents=True)
    (tmp_path / "srv" / "disk" / "chunk").touch()
    made = files(tmp_path)
    made.make_directories()
    made.write()
    made.take_back()
    assert everything(tmp_path) == ["srv", "srv/disk", "srv/disk/chunk"]


def test_every_file_that_is_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "client.key").symlink_to("/nowhere")
    (tmp_path / "etc" / "client.toml").touch()
    with pytest.raises(errors.Exists, match=r"client\.key, .*client\.toml: there already"):
        files(tmp_path).refuse_existing()


@pytest.fixture
def daemons(monkeypatch: pytest.MonkeyPatch) -> int:
    """The user of the daemons, as on a machine with the package."""
    if os.geteuid():
        pytest.skip("only root gives files away")
    monkeypatch.setattr(machine, "_daemons_owner", lambda _: (12345, 12345))
    return 12345


def test_keys_and_directories_of_the_daemons_are_theirs(tmp_path: Path, daemons: int) -> None:
    made = files(tmp_path)
    made.make_directories()
    made.write()
    owners = {name: (tmp_path / name).stat().st_uid for name in everything(tmp_path)}
    assert owners == {"etc": 0, "etc/client.key": daemons, "etc/client.toml": 0, "srv": 0, "srv/disk": daemons}


def test_a_link_in_place_of_a_key_gives_nothing_else_away(
    tmp_path: Path, daemons: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As whoever runs as the daemons' user may put it into their directory."""
    shadow, key = tmp_path / "shadow", tmp_path / "etc" / "client.key"
    shadow.touch()
    made = files(tmp_path)
    made.make_directories()
    open_file = os.open

    def open_and_replace(path: Path, *how: int) -> int:
        fd = open_file(path, *how)
        if path == key:
            key.unlink()
            key.symlink_to(shadow)
        return fd

    monkeypatch.setattr(os, "open", open_and_replace)
    made.write()
    assert shadow.stat().st_uid == 0 and shadow.read_text() == ""


def test_a_link_in_place_of_a_directory_is_refused(tmp_path: Path, daemons: int) -> None:
    (tmp_path / "somebodys").mkdir()
    (tmp_path / "srv").mkdir()
    (tmp_path / "srv" / "disk").symlink_to(tmp_path / "somebodys")
    with pytest.raises(errors.InvalidArgument, match="srv/disk is a link"):
        files(tmp_path).make_directories()
    assert (tmp_path / "somebodys").stat().st_uid == 0


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("host", "host:9400"),
        ("host:1", "host:1"),
        ("10.0.0.1", "10.0.0.1:9400"),
        ("::1", "[::1]:9400"),
        ("[fe80::1]", "[fe80::1]:9400"),
        ("[fe80::1]:7", "[fe80::1]:7"),
    ],
)
def test_a_namenode_is_named_with_or_without_its_port(host: str, address: str) -> None:
    assert config.with_port(host, 9400) == address


@pytest.mark.parametrize(
    ("name", "node"),
    [("Web-1.example.org", "web-1"), ("my_host", "my-host"), ("-", "node"), ("x" * 80, "x" * 64), ("ü", "node")],
)
def test_a_machines_name_becomes_a_datanodes(name: str, node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: name)
    assert machine.node_name() == node


def test_a_datanode_listens_where_others_reach_it() -> None:
    assert machine.datanode_addresses("10.0.0.7", 9401) == ("0.0.0.0:9401", "10.0.0.7:9401")
    assert machine.datanode_addresses("[fd00::7]", 9401) == ("[::]:9401", "[fd00::7]:9401")
    assert machine.datanode_addresses("127.0.0.1", 9401) == ("127.0.0.1:9401", "")
    assert machine.address_towards("127.0.0.1:9400") == "127.0.0.1"
