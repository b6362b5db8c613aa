"""Each command happens exactly once, whole or not at all."""

from __future__ import annotations

from typing import Any

import pytest

from dfs import errors, limits
from dfs.types import ROOT_INO, SessionId
from nodes.namenode.machine import Command, HeldBack, Machine
from tests.unit.namenode.world import Namespace, result_of


def test_a_command_that_comes_twice_happens_once(space: Namespace) -> None:
    command = space.next_command(space.open_session(), "mkdir", ROOT_INO, b"d", 0o755, 0, 0)
    first = space.transact(command)[0]
    before = space.dump()
    again = space.transact(command)[0]
    assert [again[0], list(again[1])] == [first[0], list(first[1])]
    assert space.dump() == before


def test_an_error_is_repeated_too_even_if_the_command_would_succeed_now(space: Namespace) -> None:
    session = space.open_session()
    command = space.next_command(session, "unlink", ROOT_INO, b"file")
    with pytest.raises(errors.NotFound):
        result_of(space.transact(command)[0])
    space.file(session)
    with pytest.raises(errors.NotFound):
        result_of(space.transact(command)[0])
    assert space.queries.lookup(ROOT_INO, b"file")


def test_a_duplicate_in_one_transaction_is_answered_alike(space: Namespace) -> None:
    command = space.next_command(space.open_session(), "create", ROOT_INO, b"f", 0o644, 0, 0)
    first, again = space.transact(command, command)
    assert list(first[1]) == list(again[1])


def test_two_sessions_may_use_the_same_numbers(space: Namespace) -> None:
    one, other = space.open_session(), space.open_session()
    assert space.file(one, b"a").ino != space.file(other, b"b").ino


def test_replies_that_were_acknowledged_are_forgotten_and_late_duplicates_refused(space: Namespace) -> None:
    session = space.open_session()
    first = space.next_command(session, "create", ROOT_INO, b"f", 0o644, 0, 0)
    space.transact(first)
    for number in range(200):
        space.transact(space.next_command(session, "setattr", ROOT_INO, {"mode": 0o700}, acked=number))
    assert len(space.rows("SELECT 1 FROM reply")) < 150
    with pytest.raises(errors.InvalidArgument, match="acknowledged before"):
        result_of(space.transact(first)[0])


def test_a_duplicate_changes_nothing_whether_its_reply_is_there_or_forgotten(space: Namespace) -> None:
    session = space.open_session()
    sent = [space.next_command(session, "setattr", ROOT_INO, {"mode": number}) for number in range(100)]
    space.transact(*(command._replace(acked=command.seq) for command in sent))
    before = space.dump()
    for duplicate in sent:
        space.transact(duplicate)
        assert space.dump() == before, duplicate.seq


def test_a_session_that_ended_can_do_nothing(space: Namespace) -> None:
    session = space.open_session()
    command = space.next_command(session, "mkdir", ROOT_INO, b"d", 0o755, 0, 0)
    space.transact(command)
    space.own("end_session", session)
    for late in (command, space.next_command(session, "rmdir", ROOT_INO, b"d")):
        with pytest.raises(errors.SessionExpired):
            result_of(space.transact(late)[0])
    assert space.rows("SELECT * FROM reply") == []


def test_a_command_that_fails_half_way_leaves_nothing_and_takes_no_number(space: Namespace) -> None:
    session = space.open_session()
    ino = space.file(session).ino
    chunk = space.chunk(session)
    before, numbers = space.dump(), space.store.counters()
    good, beyond = [0, 10, chunk, 0], [10, 10, chunk, 10]
    with pytest.raises(errors.InvalidArgument):
        space.do(session, "commit", ino, [good, beyond], [[chunk, 15, ["n1", "n2", "n3"]]])
    assert (space.dump(), space.store.counters()) == (before, numbers)
    space.do(session, "mkdir", ROOT_INO, b"next", 0o755, 0, 0)
    assert space.store.counters()["inodes"] == numbers["inodes"] + 1


def test_a_failure_in_the_middle_of_a_transaction_spares_its_neighbours(space: Namespace) -> None:
    session = space.open_session()
    replies = space.transact(
        space.next_command(session, "mkdir", ROOT_INO, b"a", 0o755, 0, 0),
        space.next_command(session, "mkdir", ROOT_INO, b"a", 0o755, 0, 0),
        space.next_command(session, "mkdir", ROOT_INO, b"b", 0o755, 0, 0),
    )
    assert [reply[0] for reply in replies] == [0, errors.Exists.default_errno, 0]
    assert [entry[1] for entry in space.queries.readdir(ROOT_INO, 0, 10)] == [b"a", b"b"]
    assert space.findings() == []


def test_a_transaction_that_is_rolled_back_leaves_nothing_in_memory(space: Namespace) -> None:
    session = space.open_session()
    before = space.dump()
    space.store.begin()
    space.machine.apply(space.next_command(session, "mkdir", ROOT_INO, b"lost", 0o755, 0, 0))
    space.machine.end()
    space.store.rollback()
    space.machine.forget()
    assert space.dump() == before
    space.do(session, "mkdir", ROOT_INO, b"kept", 0o755, 0, 0)
    assert space.findings() == []


@pytest.mark.parametrize("verb", ["defragment", "end_session", "configure", "__init__"])
def test_clients_have_no_verbs_but_their_own(space: Namespace, verb: str) -> None:
    with pytest.raises(errors.NotSupported, match="no such command"):
        space.do(space.open_session(), verb, 1)


WRONG: list[tuple[str, list[Any]]] = [
    ("mkdir", []),
    ("mkdir", [1, b"d", 0o755, 0, 0, "one too many"]),
    ("mkdir", ["1", b"d", 0o755, 0, 0]),
    ("mkdir", [1, "text", 0o755, 0, 0]),
    ("mkdir", [1, b"..", 0o755, 0, 0]),
    ("mkdir", [1, b"a/b", 0o755, 0, 0]),
    ("mkdir", [1, b"a\0b", 0o755, 0, 0]),
    ("mkdir", [1, b"d", -1, 0, 0]),
    ("mkdir", [1, b"d", 0o755, 2**32 - 1, 0]),
    ("mkdir", [True, b"d", 0o755, 0, 0]),
    ("mkdir", [2**63, b"d", 0o755, 0, 0]),
    ("mknod", [1, b"d", 0o040755, 0, 0, 0]),
    ("rename", [1, b"a", 1, b"b", 3]),
    ("rename", [1, b"a", 1, b"b", [1]]),
    ("setattr", [1, [["mode", 0]]]),
    ("setattr", [1, {"size": 0}]),
    ("setattr", [1, {"mtime_ns": "yesterday"}]),
    ("setattr", [1, {"replicas": 17}]),
    ("accessed", [[1]]),
    ("accessed", [[[1, "now"]]]),
    ("accessed", [[[1, 2**60], [0, 1]]]),
    ("setxattr", [1, b"user.x", "text"]),
    ("setxattr", [1, b"user.x", b"", 3]),
    ("setxattr", [1, b"", b""]),
    ("commit", [1, [], []]),
    ("seal", ["all"]),
    ("seal", [["1"]]),
    ("hold", [None]),
    ("release", [0]),
]


@pytest.mark.parametrize(("verb", "args"), WRONG)
def test_wrong_arguments_are_the_callers_error_and_change_nothing(space: Namespace, verb: str, args: list[Any]) -> None:
    session = space.open_session()
    before = space.dump()
    with pytest.raises(errors.InvalidArgument):
        space.do(session, verb, *args)
    assert space.dump() == before


def test_limits_have_the_errors_that_posix_gives_them(space: Namespace) -> None:
    session = space.open_session()
    ino = space.file(session).ino
    with pytest.raises(errors.NameTooLong):
        space.do(session, "mkdir", ROOT_INO, b"x" * 256, 0o755, 0, 0)
    with pytest.raises(errors.NameTooLong):
        space.do(session, "symlink", ROOT_INO, b"l", b"x" * 4096, 0, 0)
    with pytest.raises(errors.NotFound):
        space.do(session, "symlink", ROOT_INO, b"l", b"", 0, 0)
    with pytest.raises(errors.OutOfRange):
        space.do(session, "setxattr", ino, b"x" * 256, b"")
    with pytest.raises(errors.ArgumentTooLarge):
        space.do(session, "setxattr", ino, b"user.x", bytes(65537))
    with pytest.raises(errors.FileTooLarge):
        space.do(session, "truncate", ino, 2**63)
    assert space.do(session, "truncate", ino, 2**63 - 1).size == 2**63 - 1


def test_extended_attributes_of_one_file_have_a_bound_together(space: Namespace) -> None:
    session = space.open_session()
    ino = space.file(session).ino
    for number in range(256):
        space.do(session, "setxattr", ino, b"%0255d" % number, b"")
    with pytest.raises(errors.NoSpace):
        space.do(session, "setxattr", ino, b"x", b"")
    space.do(session, "setxattr", ino, b"%0255d" % 7, b"an old one may change")


def test_the_default_number_of_copies_is_that_of_the_configuration(space: Namespace) -> None:
    session = space.open_session()
    assert space.file(session, b"a").replicas == 3
    space.do(session, "setattr", ROOT_INO, {"replicas": 2})
    directory = space.do(session, "mkdir", ROOT_INO, b"d", 0o755, 0, 0)
    assert (directory.replicas, space.file(session, b"b").replicas) == (2, 2)
    space.do(session, "setattr", ROOT_INO, {"replicas": 0})
    assert space.file(session, b"c").replicas == 3


def test_a_file_that_is_to_have_the_default_number_of_copies_gets_that_number(space: Namespace) -> None:
    session = space.open_session()
    ino = space.file(session).ino
    assert space.do(session, "setattr", ino, {"replicas": 1}).replicas == 1
    assert space.do(session, "setattr", ino, {"replicas": 0}).replicas == 3


def test_a_set_gid_directory_gives_its_group(space: Namespace) -> None:
    session = space.open_session()
    top = space.do(session, "mkdir", ROOT_INO, b"d", 0o2775, 0, 77)
    below = space.do(session, "mkdir", top.ino, b"below", 0o755, 0, 0)
    file = space.do(session, "create", below.ino, b"f", 0o644, 5, 0)
    assert (below.gid, below.mode & 0o7777, file.gid, file.mode & 0o7777) == (77, 0o2755, 77, 0o644)


def test_who_takes_over_a_program_does_not_get_its_former_owners_rights(space: Namespace) -> None:
    session = space.open_session()
    ino = space.do(session, "create", ROOT_INO, b"f", 0o6755, 0, 0).ino
    assert space.do(session, "setattr", ino, {"uid": 5}).mode & 0o7777 == 0o755


def test_the_time_of_a_change_is_the_commands(space: Namespace) -> None:
    session = SessionId(space.open_session())
    reply = space.transact(Command(session, 1, 0, "mkdir", [ROOT_INO, b"d", 0o755, 0, 0], 12345))[0]
    made = result_of(reply)
    assert (made.mtime_ns, made.ctime_ns, made.btime_ns) == (12345, 12345, 12345)
    assert space.queries.getattr(ROOT_INO).mtime_ns == 12345


def known(space: Namespace) -> dict[tuple[int, bytes | None], Any]:
    """What clients could know: of each inode its version, of each name what it stands for."""
    inodes = {(ino, None): version for ino, version in space.rows("SELECT ino, version FROM inode")}
    names = {(parent, name): ino for parent, name, ino in space.rows("SELECT parent, name, ino FROM dentry")}
    return inodes | names


def test_a_reply_says_all_that_others_may_know_and_is_not_so_any_more(space: Namespace) -> None:
    """Whatever verb it was; new inodes, that nobody can know, need not be in it."""
    session = space.open_session()
    d = space.do(session, "mkdir", ROOT_INO, b"d", 0o755, 0, 0).ino
    file = space.file(session, b"f").ino
    chunk = space.chunk(session)
    commands: list[tuple[Any, ...]] = [
        ("create", d, b"a", 0o644, 0, 0),
        ("mkdir", d, b"s", 0o755, 0, 0),
        ("mknod", d, b"p", 0o010644, 0, 0, 0),
        ("symlink", d, b"l", b"target", 0, 0),
        ("link", file, d, b"g"),
        ("setattr", file, {"mode": 0o600}),
        ("setxattr", file, b"user.k", b"v", 0),
        ("removexattr", file, b"user.k"),
        ("commit", file, [[0, 10, chunk, 0]], [[chunk, 10, ["n1", "n2", "n3"]]]),
        ("truncate", file, 3),
        ("rename", d, b"a", d, b"g"),
        ("rename", d, b"s", ROOT_INO, b"s"),
        ("rename", ROOT_INO, b"s", d, b"l", 2),
        ("hold", file),
        ("unlink", ROOT_INO, b"f"),
        ("release", file),
        ("rmdir", d, b"l"),
        ("unlink", d, b"g"),
        ("accessed", [[d, space.now_ns + 50]]),
    ]
    for verb, *args in commands:
        before = known(space)
        reply = space.transact(space.next_command(session, verb, *args))[0]
        result_of(reply)
        after = known(space)
        changed = {item for item in before | after if before.get(item) != after.get(item)}
        new = {(ino, name) for ino, name in after if name is None and (ino, None) not in before}
        assert changed - new <= {tuple(item) for item in reply[2]}, verb
    assert space.findings() == []


def test_a_command_that_may_not_happen_leaves_nothing_and_can_happen_later(space: Namespace) -> None:
    session = space.open_session()
    allowed = False
    machine = Machine(space.store.writing, lambda effect: () if allowed else effect.items)
    command = space.next_command(session, "mkdir", ROOT_INO, b"d", 0o755, 0, 0)
    before = space.dump()
    space.store.begin()
    with pytest.raises(HeldBack) as held:
        machine.apply(command)
    machine.end()
    space.store.commit()
    assert space.dump() == before
    assert held.value.items == [(ROOT_INO, None), (ROOT_INO, b"d")]
    allowed = True
    space.store.begin()
    assert machine.apply(command)[0] == 0
    machine.end()
    space.store.commit()
    assert space.queries.lookup(ROOT_INO, b"d")


@pytest.mark.meets_bugs
def test_a_damaged_directory_fails_what_is_done_in_it_and_nothing_else(space: Namespace) -> None:
    session = space.open_session()
    d = space.do(session, "mkdir", ROOT_INO, b"d", 0o755, 0, 0).ino
    space.do(session, "create", d, b"a", 0o644, 0, 0)
    space.damage("UPDATE inode SET next_cookie = next_cookie - 1 WHERE ino = ?", d)
    with pytest.raises(errors.RemoteFault, match="its log says why"):
        space.do(session, "create", d, b"b", 0o644, 0, 0)
    space.do(session, "mkdir", ROOT_INO, b"next", 0o755, 0, 0)


def test_a_series_of_numbers_cannot_be_mended_to_its_end(space: Namespace) -> None:
    session = space.open_session()
    with pytest.raises(errors.InvalidArgument):
        space.do(session, "mend_counter", "next_ino", 2**63 - 1, 0)
    space.do(session, "mkdir", ROOT_INO, b"d", 0o755, 0, 0)


@pytest.mark.parametrize(
    ("verb", "args"),
    [("rename", (ROOT_INO, b"d", ROOT_INO, b"e", "\ud800")), ("setxattr", (ROOT_INO, b"user.x", b"", "\ud800"))],
)
def test_what_a_refusal_quotes_can_be_stored_whatever_was_sent(space: Namespace, verb: str, args: Any) -> None:
    """A lone surrogate comes in a message of JSON, and cannot be packed."""
    session = space.open_session()
    space.do(session, "mkdir", ROOT_INO, b"d", 0o755, 0, 0)
    command = space.next_command(session, verb, *args)
    for _ in range(2):
        with pytest.raises(errors.InvalidArgument, match="ud800"):
            result_of(space.transact(command)[0])


def test_a_name_of_a_verb_that_cannot_be_stored_is_refused(space: Namespace) -> None:
    with pytest.raises(errors.NotSupported):
        space.do(space.open_session(), "\ud800")


def test_the_end_of_a_session_leaves_nothing_to_who_is_killed_before_its_next_command(space: Namespace) -> None:
    session = space.open_session()
    for number in range(256):
        space.do(session, "create", ROOT_INO, b"%d" % number, 0o644, 0, 0, True, True)
    assert space.own("end_session", session)
    assert space.rows("SELECT count(*) FROM reply WHERE session = ?", session) == [0]
    assert space.queries.sessions() == [(session, "", 0, "")]
    space.end_session(session)
    assert space.findings() == []


def test_a_session_ends_though_an_inode_that_it_holds_is_missing(space: Namespace) -> None:
    session = space.open_session()
    file = space.file(session)
    space.do(session, "hold", file.ino)
    space.damage("DELETE FROM inode WHERE ino = ?", file.ino)
    space.end_session(session)
    assert space.rows("SELECT count(*) FROM hold") == [0]


def test_a_directory_too_deep_to_look_at_all_that_it_is_in_is_not_moved(
    space: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodes.namenode.transaction._DEPTH_MAX", 10)
    session = space.open_session()
    parent = ROOT_INO
    for _ in range(12):
        parent = space.do(session, "mkdir", parent, b"d", 0o755, 0, 0).ino
    space.do(session, "mkdir", ROOT_INO, b"other", 0o755, 0, 0)
    with pytest.raises(errors.InvalidArgument, match="below the root"):
        space.do(session, "rename", ROOT_INO, b"other", parent, b"moved")


def test_a_total_is_not_mended_beyond_what_can_be_stored(space: Namespace) -> None:
    session = space.open_session()
    with pytest.raises(errors.InvalidArgument, match="cannot be"):
        space.do(session, "mend_counter", "inodes", 2**63 - 1, 10**9)
    space.do(session, "mkdir", ROOT_INO, b"d", 0o755, 0, 0)


def test_the_values_of_an_inodes_attributes_are_bounded(space: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "XATTR_VALUES_MAX_BYTES", 100)
    session = space.open_session()
    ino = space.file(session).ino
    space.do(session, "setxattr", ino, b"user.a", bytes(60))
    space.do(session, "setxattr", ino, b"user.a", bytes(100))
    with pytest.raises(errors.NoSpace):
        space.do(session, "setxattr", ino, b"user.b", bytes(1))
    space.do(session, "setxattr", ino, b"user.a", bytes(60))
    space.do(session, "setxattr", ino, b"user.b", bytes(40))
    size = 100 + 2 * len(b"user.a")
    assert space.queries.xattrs(ino, size) == {b"user.a": bytes(60), b"user.b": bytes(40)}
    assert space.queries.xattrs(ino, size - 1) is None
