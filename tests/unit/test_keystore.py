"""Key files that change while a program runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dfs import errors, keys
from dfs.keys import Holder, KeyFile, Masters, Role
from dfs.keystore import KeyStore

OLD = Masters.make()
BOTH = OLD.with_next()


def file_of(masters: Masters) -> KeyFile:
    return KeyFile(masters.issue(Role.NODE, "n1"), masters.of(keys.DATANODE), "0" * 32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    keys.save(tmp_path / "n1.key", file_of(OLD))
    return tmp_path / "n1.key"


def test_a_newer_key_takes_the_place_of_the_old_one(path: Path) -> None:
    store = KeyStore(path)
    new = file_of(BOTH)._replace(revoked=frozenset({Holder(Role.CLIENT, "alice")}), cluster=None)
    store.keep(new)
    assert keys.load(path) == new._replace(cluster="0" * 32)
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]
    assert store.look() is None, "what we wrote is no news"


def test_the_owner_and_a_link_stay(path: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(path, 1234, 1235)
    path.chmod(0o400)
    link = tmp_path / "link.key"
    link.symlink_to(path)
    before = path.stat()
    KeyStore(link).keep(file_of(BOTH))
    after = path.stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    assert link.is_symlink() and keys.load_key(path).id.generation == 2


def test_what_somebody_else_changed_is_seen_once(path: Path) -> None:
    store = KeyStore(path)
    assert store.look() is None
    keys.replace(path, file_of(BOTH))
    assert store.look() == file_of(BOTH)
    assert store.look() is None


def test_a_file_that_is_gone_is_no_news_and_a_broken_one_is_an_error(path: Path) -> None:
    store = KeyStore(path)
    content = path.read_bytes()
    path.unlink()
    assert store.look() is None
    path.touch(0o600)
    with pytest.raises(errors.ConfigError):
        store.look()
    path.write_bytes(content)
    assert store.look() is not None


def test_a_key_that_cannot_be_kept_is_told_with_what_to_do(path: Path) -> None:
    store = KeyStore(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(errors.ConfigError, match="replace the file before the old key is retired"):
        store.keep(file_of(BOTH))
    assert store.key.id.generation == 2, "the program goes on with it"


def test_a_newer_certificate_in_the_file_stays(path: Path) -> None:
    store = KeyStore(path)
    tls = keys.make_cluster(tls=True).tls
    keys.replace(path, file_of(OLD)._replace(tls=tls))
    store.keep(file_of(BOTH))
    assert keys.load(path) == file_of(BOTH)._replace(tls=tls)


def test_the_key_of_another_is_not_replaced(path: Path) -> None:
    """The operator has put a reader's key there, for a client's."""
    store = KeyStore(path)
    other = KeyFile(OLD.issue(Role.READER, "n1"), Masters({}), "0" * 32)
    keys.replace(path, other)
    with pytest.raises(errors.ConfigError, match="another's"):
        store.keep(file_of(BOTH))
    assert keys.load(path) == other


def test_a_file_that_is_being_made_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_content: KeyFile) -> str:
        raise OSError("no space left")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space left"):
        patch.setattr(keys, "render", full)
        keys.save(tmp_path / "new.key", file_of(OLD))
    assert list(tmp_path.iterdir()) == []
    keys.save(tmp_path / "new.key", file_of(OLD))
    with pytest.raises(errors.Exists):
        keys.save(tmp_path / "new.key", file_of(BOTH))
    assert [file.name for file in tmp_path.iterdir()] == ["new.key"]
    assert keys.load(tmp_path / "new.key") == file_of(OLD)


def test_a_file_that_others_could_read_is_used_as_soon_as_its_rights_are_set_right(path: Path) -> None:
    store = KeyStore(path)
    keys.save(path.with_suffix(".new"), file_of(BOTH))
    path.with_suffix(".new").chmod(0o644)
    path.with_suffix(".new").rename(path)
    with pytest.raises(errors.ConfigError, match="chmod 600"):
        store.look()
    assert store.look() is None, "said once"
    path.chmod(0o600)
    found = store.look()
    assert found is not None and found.key is not None and found.key.id.generation == 2
