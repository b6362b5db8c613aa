"""Keys are derived from master secrets, and their files are for nobody else to read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dfs import errors, keys
from dfs.keys import Holder, Key, KeyFile, KeyId, Masters, Role


@pytest.fixture
def masters() -> Masters:
    return Masters.make()


def test_daemons_derive_what_was_issued_and_nothing_else_gives_the_same(masters: Masters) -> None:
    key = masters.issue(Role.CLIENT, "alice")
    for realm in keys.REALMS:
        assert masters.of(realm).secret(realm, key.id) == key.secrets[realm]
    others = [
        masters.issue(Role.CLIENT, "alic"),
        masters.issue(Role.ADMIN, "alice"),
        Masters.make().issue(Role.CLIENT, "alice"),
        masters.issue(Role.CLIENT, "alice", {"subtree": "/"}),
        masters.issue(Role.CLIENT, "alice", {"subtree": "/a"}),
    ]
    everything = [secret for each in (key, *others) for secret in each.secrets.values()]
    assert len(set(everything)) == len(everything)
    assert all(len(secret) == keys.SECRET_BYTES for secret in everything)


def test_who_has_the_masters_of_one_realm_knows_nothing_of_the_other(masters: Masters) -> None:
    assert masters.of(keys.DATANODE).secret(keys.NAMENODE, KeyId(1, Role.ADMIN, "a")) is None


def test_a_generation_that_is_not_known_has_no_secrets(masters: Masters) -> None:
    assert masters.secret(keys.NAMENODE, KeyId(2, Role.ADMIN, "a")) is None


@pytest.mark.parametrize("name", ["", "a b", "A", "é", "-a", "a/b", "a\n", "x" * 65, "a\0b"])
def test_names_that_cannot_be_are_refused(masters: Masters, name: str) -> None:
    with pytest.raises(errors.InvalidArgument):
        masters.issue(Role.CLIENT, name)


def test_where_no_file_can_be_made_that_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        keys.save(tmp_path / "none" / "x.key", keys.make_cluster())
    assert caught.value.filename == str(tmp_path / "none" / "x.key")


def test_a_datanode_has_no_key_of_a_name_that_it_cannot_have(masters: Masters) -> None:
    masters.issue(Role.CLIENT, "n_1.x")
    with pytest.raises(errors.InvalidArgument, match=r"the name of a DataNode.* with a letter or digit first and last"):
        masters.issue(Role.NODE, "n_1")


NO_KEYS = [None, [], "1ca", {"a": 1}, [1, "client"], [1, "client", "a", 1], [1, "root", "a"], [1, ["client"], "a"]]
NO_KEYS += [[generation, "client", "a"] for generation in (0, -1, True, 1.0, 2**40, "1")] + [[1, "client", b"a"]]
NO_KEYS += [[1, "client", "a", claims] for claims in ([], {"other": "x"}, {"subtree": 1}, {"subtree": "\0"}, {1: "x"})]


@pytest.mark.parametrize("wire", NO_KEYS)
def test_what_names_no_key_is_refused(wire: object) -> None:
    with pytest.raises(errors.InvalidArgument):
        KeyId.from_wire(wire)


def test_files_keep_keys_and_masters(tmp_path: Path, masters: Masters) -> None:
    node = KeyFile(masters.issue(Role.NODE, "n1"), masters.of(keys.DATANODE))
    narrow = KeyFile(masters.issue(Role.CLIENT, "a", {"subtree": '/ä "\\\x7f\n\U0001f600'}), Masters({}))
    for number, content in enumerate((node, KeyFile(None, masters), KeyFile(node.key, Masters({})), narrow)):
        path = tmp_path / str(number)
        keys.save(path, content)
        assert path.stat().st_mode & 0o777 == 0o600
        found = keys.load(path)
        assert (found.key, found.masters.by_realm()) == (content.key, content.masters.by_realm())


def test_a_key_is_never_overwritten(tmp_path: Path, masters: Masters) -> None:
    path = tmp_path / "key"
    keys.save(path, KeyFile(None, masters))
    before = path.read_bytes()
    with pytest.raises(errors.Exists, match="never overwritten"):
        keys.save(path, KeyFile(None, Masters.make()))
    assert path.read_bytes() == before


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o660, 0o666])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, masters: Masters, mode: int) -> None:
    path = tmp_path / "key"
    keys.save(path, KeyFile(None, masters))
    path.chmod(mode)
    with pytest.raises(errors.ConfigError, match="chmod 600"):
        keys.load(path)
    path.write_text("root:x:0:0:root:/root:/bin/bash\n")  # whose mode is none of our business
    with pytest.raises(errors.ConfigError, match="is no key file of dfs"):
        keys.load(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs files of root and of others")
def test_root_may_let_a_group_read(tmp_path: Path, masters: Masters) -> None:
    path = tmp_path / "key"
    keys.save(path, KeyFile(None, masters))
    path.chmod(0o640)
    keys.load(path)
    os.chown(path, 1000, -1)
    with pytest.raises(errors.ConfigError, match="chmod 600"):
        keys.load(path)


NO_FILES = ["", "x", "name = 1", "secret = 1", "master = 1", "\xff", 'other = "x"', '[master]\nnamenode = "x"']
NO_KEYS += [[1, "client", "a", {"subtree": "\ud800"}]]  # what JSON may hold, and no encoding has
NO_FILES += ["tls = 1", 'tls = ["authority"]', "[master]\nnamenode = [1]", "claims = 1"]
NO_FILES += [
    f'[{table}]\n{name} = "AA=="' for table in ("secret", "master.namenode", "master.moon") for name in ("1", "a")
]


@pytest.mark.parametrize("text", NO_FILES)
def test_what_is_no_key_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key"
    path.write_text(text, "latin-1")
    path.chmod(0o600)
    with pytest.raises(errors.ConfigError, match="no key file"):
        keys.load(path)


def test_a_key_is_loaded_from_a_path_as_a_script_writes_it(tmp_path: Path, masters: Masters) -> None:
    made = masters.issue(Role.CLIENT, "alice")
    keys.save(tmp_path / "office.key", KeyFile(made, Masters({})))
    for path in (tmp_path / "office.key", str(tmp_path / "office.key")):
        assert keys.load_key(path) == made._replace(file=tmp_path / "office.key")
    with pytest.raises(errors.ConfigError, match="no such key file"):
        keys.load_key(str(tmp_path / "none"))


def test_a_bug_is_not_taken_for_a_file_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys.save(tmp_path / "key", keys.make_cluster())
    monkeypatch.setattr(keys, "_decode", lambda text: text.no_such_method())
    with pytest.raises(AttributeError):
        keys.load(tmp_path / "key")


def test_a_file_of_another_kind_is_refused_with_what_it_is(tmp_path: Path, masters: Masters) -> None:
    keys.save(tmp_path / "cluster", KeyFile(None, masters))
    keys.save(tmp_path / "alice", KeyFile(masters.issue(Role.CLIENT, "alice"), Masters({})))
    keys.save(tmp_path / "n1", KeyFile(masters.issue(Role.NODE, "n1"), masters.of(keys.DATANODE)))
    assert keys.load_node(tmp_path / "n1", "n1").key is not None
    with pytest.raises(errors.ConfigError, match="and no key"):
        keys.load_key(tmp_path / "cluster")
    with pytest.raises(errors.ConfigError, match="no master secrets"):
        keys.load_cluster(tmp_path / "alice")
    with pytest.raises(errors.ConfigError, match="no master secrets"):
        keys.load_cluster(tmp_path / "n1")
    with pytest.raises(errors.ConfigError, match="not that of node n2"):
        keys.load_node(tmp_path / "n1", "n2")
    with pytest.raises(errors.ConfigError, match="no such key file"):
        keys.load(tmp_path / "none")


def test_secrets_are_not_shown(masters: Masters) -> None:
    key: Key = masters.issue(Role.ADMIN, "boss")
    shown = f"{key!r} {key.id} {masters!r}"
    assert "boss" in shown and not any(repr(secret)[2:-1] in shown for secret in key.secrets.values())


def test_generations_come_and_go(masters: Masters) -> None:
    both = masters.with_next()
    assert (masters.generations, both.generations, both.without(1).generations) == ((1,), (1, 2), (2,))
    old, new = masters.issue(Role.CLIENT, "a"), both.issue(Role.CLIENT, "a")
    assert both.issue(Role.CLIENT, "a", generation=1) == old
    assert new.id.generation == 2 and not set(new.secrets.values()) & set(old.secrets.values())
    assert both.without(1).secret(keys.NAMENODE, old.id) is None
    assert both.of(keys.DATANODE).generations == (1, 2)


def test_a_file_says_its_cluster_and_whom_it_refuses(tmp_path: Path, masters: Masters) -> None:
    revoked = frozenset({Holder(Role.CLIENT, "alice"), Holder(Role.NODE, "n2")})
    content = KeyFile(masters.issue(Role.NODE, "n1"), masters.of(keys.DATANODE), "0" * 32, revoked)
    keys.save(tmp_path / "key", content)
    assert keys.load(tmp_path / "key") == content == keys.parse(keys.render(content))
    for bad in (
        'cluster = "x"\n',
        "cluster = 1\n",
        'revoked = ["alice"]\n',
        'revoked = [["root", "a"]]\n',
        "later = 1\n",
    ):
        with pytest.raises(errors.ConfigError, match="no key file"):
            keys.parse(bad + keys.render(content._replace(cluster=None, revoked=frozenset())))


def test_a_new_cluster_has_an_id_of_its_own() -> None:
    assert keys.make_cluster().cluster != keys.make_cluster().cluster


def test_a_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, masters: Masters, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"
    keys.save(path, KeyFile(None, masters))
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        keys.replace(path, KeyFile(None, masters.with_next()))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_file_is_flushed_before_it_has_its_name_and_the_name_after(
    tmp_path: Path, masters: Masters, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"
    flushed: list[tuple[Path, bytes]] = []

    def note(descriptor: int) -> None:
        flushed.append((Path(f"/proc/self/fd/{descriptor}").readlink(), path.read_bytes() if path.exists() else b""))

    monkeypatch.setattr(os, "fsync", note)
    before = b""
    for put, content in ((keys.save, KeyFile(None, masters)), (keys.replace, KeyFile(None, masters.with_next()))):
        flushed.clear()
        put(path, content)
        (new, there), (directory, then) = flushed
        assert new.parent == directory == tmp_path and new != path
        assert there == before and then == path.read_bytes()
        before = then


def test_a_file_of_a_newer_release_is_refused_with_what_to_run(tmp_path: Path, masters: Masters) -> None:
    path = tmp_path / "key"
    keys.save(path, KeyFile(masters.issue(Role.CLIENT, "alice"), Masters({})))
    path.write_text('lifetime = "a year"\n' + path.read_text())
    with pytest.raises(errors.ConfigError, match="'lifetime' is not known: if a newer release wrote it, run that one"):
        keys.load(path)
