"""Configuration files: what they mean, and what is said about one that cannot be used."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfs import config, errors, limits
from dfs.config import ClientConfig, DataNodeConfig, NameNodeConfig
from dfs.types import NODE_NAME_RULE
from tests.keys import write as write_keys

MINIMAL = {
    "namenode": 'state_dir = "state"\n',
    "datanode": 'node = "n1"\ndirectories = ["disk"]\n',
    "client": "",
}


def write(directory: Path, kind: str, text: str) -> Path:
    path = directory / f"{kind}.toml"
    path.write_text(text)
    return path


def refusal(directory: Path, kind: str, text: str) -> str:
    """What is said about a file, without the path in front."""
    path = write(directory, kind, text)
    with pytest.raises(errors.ConfigError) as caught:
        config.check(path)
    assert caught.value.message.startswith(str(path))
    return caught.value.message.removeprefix(str(path)).removeprefix(":").strip()


# --- what can be used ---------------------------------------------------------------------------------------


def test_what_is_not_said_has_its_default(tmp_path: Path) -> None:
    namenode = config.load_namenode(write(tmp_path, "namenode", MINIMAL["namenode"]))
    assert namenode.replicas == limits.REPLICAS_DEFAULT
    assert namenode.listen == f"127.0.0.1:{limits.NAMENODE_PORT}"
    assert config.load_client(write(tmp_path, "client", "")) == ClientConfig(key=tmp_path / "client.key")


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    text = 'node = "n1"\ndirectories = ["disk", "/srv/disk", "~/disk"]\n'
    loaded = config.load_datanode(write(tmp_path, "datanode", text))
    assert loaded.key == tmp_path / "n1.key"
    assert config.load_namenode(write(tmp_path, "namenode", MINIMAL["namenode"])).keys == tmp_path / "cluster.keys"
    assert loaded.directories == [tmp_path / "disk", Path("/srv/disk"), Path("/home/somebody/disk")]


@pytest.mark.parametrize("kind", config.KINDS)
def test_an_example_shows_every_key_and_is_valid_as_it_stands(tmp_path: Path, kind: str) -> None:
    text = config.example(kind)
    for field in dataclasses.fields(config.KINDS[kind]):
        assert f"{field.name} = " in text
        assert str(field.metadata["doc"]).splitlines()[0] in text
    write_keys(tmp_path, "node-1")
    assert config.check(write(tmp_path, kind, text)) == kind


@pytest.mark.parametrize(("kind", "key"), [("namenode", "keys"), ("datanode", "key"), ("client", "key")])
def test_a_configuration_that_names_no_key_is_not_good(tmp_path: Path, kind: str, key: str) -> None:
    path = write(tmp_path, kind, config.example(kind))
    with pytest.raises(errors.ConfigError, match=f"{path}: {key}: .*: there is no such key file"):
        config.check(path)


@pytest.mark.parametrize("kind", config.KINDS)
def test_an_example_without_its_comment_signs_is_valid_too(tmp_path: Path, kind: str) -> None:
    lines = config.example(kind).splitlines()
    keys = [field.name for field in dataclasses.fields(config.KINDS[kind])]
    given = [line.removeprefix("# ") for line in lines if line.removeprefix("# ").split(" = ")[0] in keys]
    assert len(given) == len(keys)
    path = write(tmp_path, kind, "\n".join(given))
    write_keys(tmp_path, "node-1")
    assert config.check(path) == kind
    load: Callable[[Path], object] = getattr(config, f"load_{kind}")
    as_it_stands = load(write(tmp_path, kind, config.example(kind)))
    assert as_it_stands == load(write(tmp_path, kind, "\n".join(given)))  # what is commented out is the default


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('namenode = "h:1"', "client"),
        ('namenode = "h:1"\nnamenode_wait_s = 5', "client"),
        ('namenode = "h:1"\nnode = "n1"\ndirectories = ["d"]', "datanode"),
        ('state_dir = "d"', "namenode"),
    ],
)
def test_the_kind_of_a_file_shows_in_its_keys_where_its_name_does_not_say(tmp_path: Path, text: str, kind: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    write_keys(tmp_path, "n1")
    assert config.check(tmp_path / "mine.toml") == kind


def test_what_is_rendered_reads_as_it_was(tmp_path: Path) -> None:
    odd = tmp_path / 'with "quotes" and \\ and ü and \x7f'
    configs: list[Any] = [
        NameNodeConfig(
            state_dir=odd, replicas=5, min_replicas=1, repair=False, garbage_grace_s=0.5, reserve_bytes=7, keys=odd
        ),
        DataNodeConfig(
            node="n-1", directories=[odd, tmp_path], rack="r\x07", capacity_bytes=2**40, advertise="h:1", key=odd
        ),
        ClientConfig(namenode="[::1]:9400", namenode_wait_s=1.5, key=odd),
    ]
    loads: list[Any] = [config.load_namenode, config.load_datanode, config.load_client]
    for kind, load, each in zip(config.KINDS, loads, configs, strict=True):
        assert load(write(tmp_path, kind, config.render(each))) == each


@pytest.mark.parametrize("address", ["127.0.0.1:9400", "[::1]:9400", "name.example.org:1", "./u:/run/dfs/socket"])
def test_addresses(tmp_path: Path, address: str) -> None:
    assert config.load_client(write(tmp_path, "client", f'namenode = "{address}"')).namenode == address


@pytest.mark.parametrize(
    ("host", "address"), [("10.0.0.1", "10.0.0.1:9400"), ("::1", "[::1]:9400"), ("[::1]", "[::1]:9400")]
)
def test_a_namenode_is_at_the_usual_port_unless_another_is_said(tmp_path: Path, host: str, address: str) -> None:
    assert config.load_client(write(tmp_path, "client", f'namenode = "{host}"')).namenode == address
    node = config.load_datanode(write(tmp_path, "datanode", MINIMAL["datanode"] + f'namenode = "{host}"'))
    assert node.namenode == address


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0),
        (7, 7),
        ("7", 7),
        ("1 KiB", 1024),
        ("1K", 1024),
        ("2 MB", 2 * 2**20),
        ("1.5 GiB", 3 * 2**29),
        ("1t", 2**40),
    ],
)
def test_sizes(text: object, size: int) -> None:
    assert config.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1 XiB", "1e3", "1 2", None, True, 1.5, [1]])
def test_what_is_no_size(text: object) -> None:
    with pytest.raises(ValueError, match="size"):
        config.parse_size(text)


def test_fewest_copies_are_never_more_than_copies(tmp_path: Path) -> None:
    loaded = config.load_namenode(write(tmp_path, "namenode", MINIMAL["namenode"] + "min_replicas = 3"))
    assert (loaded.min_copies(1), loaded.min_copies(3), loaded.min_copies(5)) == (1, 3, 3)


# --- what cannot --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "line", "said"),
    [
        ("namenode", "replica = 3", "unknown key 'replica': did you mean 'replicas'?"),
        ("namenode", "replicas = 0", "replicas is 1 to 16"),
        ("namenode", "replicas = 17", "replicas is 1 to 16"),
        ("namenode", 'replicas = "3"', "replicas is a whole number, not '3'"),
        ("namenode", "replicas = true", "replicas is a whole number, not True"),
        ("namenode", "repair = 1", "repair is true or false, not 1"),
        ("namenode", "min_replicas = 0", "min_replicas is 1 to 16"),
        ("namenode", "session_timeout_s = 0", "session_timeout_s is more than 0"),
        ("namenode", "session_timeout_s = nan", "session_timeout_s is a finite number"),
        ("namenode", "garbage_grace_s = inf", "garbage_grace_s is a finite number"),
        ("namenode", "garbage_grace_s = 1e12", "garbage_grace_s is a number of seconds, 1000000000 at most"),
        ("namenode", f"garbage_grace_s = 1{'0' * 400}", "garbage_grace_s is a finite number"),
        ("namenode", f"reserve_bytes = '1{'0' * 400}'", "reserve_bytes is more than any disk or network has"),
        ("namenode", f"reserve_bytes = 1{'0' * 400}", "reserve_bytes is more than any disk or network has"),
        ("datanode", 'advertise = "0.0.0.0:1"', "advertise is no address that others can use: 0.0.0.0:1"),
        ("namenode", 'session_timeout_s = "1"', "session_timeout_s is a number, not '1'"),
        ("namenode", "node_dead_after_s = 1", "node_dead_after_s is more than node_suspect_after_s"),
        ("namenode", "garbage_grace_s = -1", "garbage_grace_s is 0 or more"),
        ("namenode", 'reserve_bytes = "much"', 'reserve_bytes is a number of bytes or a size like "20 GiB"'),
        ("namenode", 'listen = "9400"', "listen is not an address: '9400'; write HOST:PORT"),
        ("namenode", 'listen = "h:65536"', "listen has a port above 65535: 'h:65536'"),
        ("namenode", 'nameserver = "on"', "nameserver is not an address: 'on'; write HOST:PORT"),
        ("namenode", 'log_level = "loud"', "log_level is one of debug, info, warning, error"),
        ("datanode", "capacity_bytes = -1", "capacity_bytes is 0 or more"),
        ("datanode", 'rack = ["a"]', "rack is text, not ['a']"),
        ("client", "namenode_wait_s = 0", "namenode_wait_s is more than 0"),
        ("client", "zzz = 0", "unknown key 'zzz'; known are namenode, key, namenode_wait_s"),
    ],
)
def test_a_line_that_cannot_be_is_named_with_its_remedy(tmp_path: Path, kind: str, line: str, said: str) -> None:
    text = "# a comment\n" + MINIMAL[kind] + line + "\n"
    assert refusal(tmp_path, kind, text) == f"{text.count(chr(10))}: {said}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('directories = ["d"]', "node is missing: Its name"),
        ('node = "n1"', "directories is missing: "),
        ('node = "N1"\ndirectories = ["d"]', f"1: node is {NODE_NAME_RULE}: 'N1'"),
        ('node = "n1"\ndirectories = []', "2: directories names at least one directory"),
        ('node = "n1"\ndirectories = ["d", "./d"]', "2: directories names one directory twice"),
        ('node = "n1"\ndirectories = "d"', "2: directories is a list of paths, not 'd'"),
        (
            'node = "n1"\ndirectories = ["d"]\nlisten = "0.0.0.0:9401"',
            "advertise is needed when listen is 0.0.0.0:9401",
        ),
        ('node = "n1"\ndirectories = ["d"]\nlisten = "[0::0]:1"', "advertise is needed when listen is [0::0]:1"),
        ('node = "n1"\ndirectories = ["d"]\nlisten = "0:1"', "advertise is needed when listen is 0:1"),
        ('node = "n1"\ndirectories = ["~no one/d"]', "2: directories begins with a user who is not known here: '~no"),
        ('node = "n1"\ndirectories = [7]', "2: directories is a path, not 7"),
        ("node = \n", "not TOML: "),
        ("[node]\nx = 1\n", "directories is missing"),
    ],
)
def test_a_datanode_that_cannot_be(tmp_path: Path, text: str, said: str) -> None:
    assert refusal(tmp_path, "datanode", text).startswith(said)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match="there is no such file"):
        config.load_client(tmp_path / "none.toml")
    with pytest.raises(errors.ConfigError, match="cannot be read"):
        config.load_client(tmp_path)
    (tmp_path / "client.toml").write_bytes(b'namenode = "\xff"')
    with pytest.raises(errors.ConfigError, match="cannot be read"):
        config.load_client(tmp_path / "client.toml")


@given(st.text(max_size=200))
def test_any_text_is_a_configuration_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "client.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        config.load_client(path)
    except errors.ConfigError as error:
        assert str(path) in str(error)


# --- which cluster ------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("DFS_CONFIG", "DFS_KEY", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_the_nearest_configuration_counts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local, user = home / ".local/share/dfs/local", home / ".config/dfs"
    for number, directory in enumerate((local, user, home), 1):
        directory.mkdir(parents=True, exist_ok=True)
        write(directory, "client", f'namenode = "h:{number}"')
        if directory == home:
            monkeypatch.setenv("DFS_CONFIG", str(home / "client.toml"))
        assert config.find_client_config().namenode == f"h:{number}"
    named = home / "named.toml"
    named.write_text('namenode = "h:4"')
    assert config.find_client_config(named).namenode == "h:4"


def test_the_environment_names_a_key_for_the_configuration_that_it_or_a_place_names(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = home / "client.toml"
    path.write_text('namenode = "h:1"\nkey = "usual.key"')
    monkeypatch.setenv("DFS_CONFIG", str(path))
    assert config.find_client_config().key == config.find_key_file() == home / "usual.key"
    monkeypatch.setenv("DFS_KEY", str(home / "other.key"))
    assert config.find_client_config().key == config.find_key_file() == home / "other.key"
    assert config.find_client_config(path).key == home / "usual.key", "what is said on the command line is meant"
    assert config.find_key_file(home / "third.key") == home / "third.key"


def test_no_cluster_is_told_with_how_to_get_one(home: Path) -> None:
    if Path("/etc/dfs/client.toml").exists():
        pytest.skip("this machine has a cluster for everybody")
    with pytest.raises(errors.ConfigError, match="dfs up"):
        config.find_client_config()
    with pytest.raises(errors.ConfigError, match=r"there is no key: .* DFS_KEY"):
        config.find_key_file()


def test_what_is_named_must_be_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DFS_CONFIG", str(home / "none.toml"))
    with pytest.raises(errors.ConfigError, match=r"none\.toml: there is no such file"):
        config.find_client_config()
