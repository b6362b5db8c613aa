"""What `dfs init` and `dfs join` do to a machine: all of it or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfs import errors
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
    assert machine.with_port(host, 9400) == address


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
