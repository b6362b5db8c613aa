"""What `dfs up` writes: a cluster's directory, made once, added to later, and never against people's edits."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from dfs import config, errors, limits
from dfs.cli.local import ports
from dfs.cli.local.layout import Layout
from dfs.cli.local.making import Wish
from tests.unit.cli_local.made import make


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "cluster")
    made.claim()
    return made


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind((ports.LOOPBACK, 0))
        sock.listen()
        yield sock.getsockname()[1]


def addresses(layout: Layout) -> list[str]:
    found = [config.load_namenode(layout.namenode).listen]
    return found + [config.load_datanode(layout.datanode(number)).listen for number in layout.datanode_numbers()]


def test_first_cluster_has_four_datanodes_and_three_copies(layout: Layout) -> None:
    made = make(layout, Wish())
    assert made[:3] == (4, 3, 2)
    assert made.added == ("n1", "n2", "n3", "n4")
    assert len(set(addresses(layout))) == 5
    assert config.load_client(layout.client).namenode == made.namenode == addresses(layout)[0]
    for number in layout.datanode_numbers():
        datanode = config.load_datanode(layout.datanode(number))
        assert datanode.namenode == made.namenode
        assert datanode.directories == [layout.directory / datanode.node]
        assert datanode.directories[0].is_dir()


def test_one_datanode_has_one_copy(layout: Layout) -> None:
    assert make(layout, Wish(datanodes=1))[:3] == (1, 1, 1)
    config.load_namenode(layout.namenode)


def test_again_changes_nothing(layout: Layout) -> None:
    first = make(layout, Wish(datanodes=2))
    before = addresses(layout)
    assert make(layout, Wish(datanodes=2, replicas=2)) == first._replace(added=())
    assert addresses(layout) == before


def test_edited_files_stay_as_they_are(layout: Layout) -> None:
    make(layout, Wish(datanodes=1))
    edited = layout.datanode(1).read_text() + '# mine\nrack = "left"\n'
    layout.datanode(1).write_text(edited)
    make(layout, Wish(datanodes=2))
    assert layout.datanode(1).read_text() == edited


def test_more_datanodes_are_added_with_ports_of_their_own(layout: Layout) -> None:
    make(layout, Wish(datanodes=2))
    made = make(layout, Wish(datanodes=4))
    assert made.datanodes == 4
    assert made.added == ("n3", "n4")
    assert len(set(addresses(layout))) == 5


def test_a_new_datanode_never_gets_the_name_of_one_that_was_removed(layout: Layout) -> None:
    make(layout, Wish(datanodes=3))
    layout.set_aside("n3")
    assert make(layout, Wish()).removed == ("n3",)
    made = make(layout, Wish(datanodes=3))
    assert (made.datanodes, made.added) == (3, ("n4",))


def test_fewer_datanodes_take_none_away(layout: Layout) -> None:
    make(layout, Wish(datanodes=3))
    assert make(layout, Wish(datanodes=1)).datanodes == 3


def test_copies_are_changed_in_the_file_only(layout: Layout) -> None:
    make(layout, Wish(datanodes=3, replicas=2))
    with pytest.raises(errors.InvalidArgument, match=r"namenode\.toml, then `dfs restart"):
        make(layout, Wish(replicas=3))
    with pytest.raises(errors.InvalidArgument, match="min_replicas = 2"):
        make(layout, Wish(min_replicas=1))


@pytest.mark.parametrize(
    "wish", [Wish(datanodes=2, replicas=3), Wish(datanodes=1, replicas=2), Wish(replicas=2, min_replicas=3)]
)
def test_more_copies_than_can_be_is_wrong_usage(layout: Layout, wish: Wish) -> None:
    with pytest.raises(click.UsageError):
        make(layout, wish)
    assert not layout.is_made()


def test_making_that_was_cut_short_is_done_again(layout: Layout) -> None:
    make(layout, Wish(datanodes=2))
    layout.namenode.unlink()
    assert make(layout, Wish(datanodes=2)).datanodes == 2


def test_broken_file_is_named(layout: Layout) -> None:
    make(layout, Wish(datanodes=1))
    layout.datanode(1).write_text("lisen = 1\n")
    with pytest.raises(errors.ConfigError, match=r"n1\.toml:1: unknown key 'lisen'"):
        make(layout, Wish())


def test_secrets_that_are_lost_are_not_made_anew(layout: Layout) -> None:
    make(layout, Wish(datanodes=1))
    layout.keys.unlink()
    with pytest.raises(errors.ConfigError, match=r"cluster\.keys is missing, .* put a copy of the file back"):
        make(layout, Wish(datanodes=2))
    assert not layout.keys.exists()
    assert layout.datanode_numbers() == [1]


def test_directory_may_be_moved(layout: Layout, tmp_path: Path) -> None:
    make(layout, Wish(datanodes=1))
    moved = Layout(shutil.move(layout.directory, tmp_path / "elsewhere"))
    assert config.load_namenode(moved.namenode).state_dir == tmp_path / "elsewhere" / "namenode"
    assert config.load_datanode(moved.datanode(1)).directories == [tmp_path / "elsewhere" / "n1"]


def test_directory_of_others_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(errors.NotEmpty, match="--dir"):
        Layout(tmp_path).claim()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for directory in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(errors.NotADirectory, match="--dir"):
            Layout(directory).claim()


def test_parents_are_made(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "a" / "b" / "c")
    layout.claim()
    layout.claim()
    assert layout.is_ours()


def test_port_in_use_is_passed_over(taken_port: int) -> None:
    assert not ports.is_free(taken_port)
    with ports.FreePorts() as free:
        assert free.take(taken_port) > taken_port


def test_port_is_handed_out_once(taken_port: int) -> None:
    with ports.FreePorts() as free:
        first, second = free.take(taken_port), free.take(taken_port)
    assert first < second


def test_port_is_claimed_until_the_last_descriptor_is_closed(taken_port: int) -> None:
    with ports.FreePorts() as ours, ports.FreePorts() as theirs:
        port = ours.take(taken_port)
        inherited = [os.dup(descriptor) for descriptor in ours.descriptors()]
        assert theirs.take(port) > port
    with ports.FreePorts() as later:
        assert not later.claim(port)
        for descriptor in inherited:
            os.close(descriptor)
        assert later.claim(port)


def test_no_port_at_all_is_a_sentence(taken_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PORTS_TRIED_MAX", 1)
    with pytest.raises(errors.NoSpace, match="configuration files"), ports.FreePorts() as free:
        free.take(taken_port)


def test_a_machine_without_a_loopback_address_is_told_so(taken_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "LOOPBACK", "198.51.100.1")
    with pytest.raises(errors.Unreachable, match="no address of this machine"), ports.FreePorts() as free:
        free.take(taken_port)


def test_cluster_file_of_another_version_is_none(layout: Layout) -> None:
    assert layout.read_cluster() == {}
    layout.write_cluster({"pid": 1})
    assert layout.read_cluster() == {"version": 1, "pid": 1}
    layout.cluster_file.write_text('{"version": 2}')
    assert layout.read_cluster() == {}
    layout.cluster_file.write_text("{")
    assert layout.read_cluster() == {}
