"""What a peer may do with a chunk: what its grant says, for as long as it says so."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dfs import errors, grants, limits
from dfs.grants import APPEND, READ, READ_RANGES
from dfs.keys import Key, Role
from dfs.rpc import Peer
from dfs.types import ChunkId
from nodes.datanode.admission import Admission
from tests.keys import ADMIN, MASTERS

CLIENT, NODE = MASTERS.issue(Role.CLIENT, "alice"), MASTERS.issue(Role.NODE, "n1")
CHUNK = ChunkId(7)


class Clock:
    now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def peer(key: Key = CLIENT) -> Peer:
    made = Peer("test", 1)
    made.key = key.id
    return made


def grant(rights: int, expiry_s: int = int(Clock.now_s) + 10, chunk: ChunkId = CHUNK) -> bytes:
    return grants.make(MASTERS, CLIENT.id, chunk, rights, expiry_s)


def test_reading_and_appending_need_their_rights(clock: Clock) -> None:
    admission = Admission(lambda: MASTERS, clock, lambda _: True)
    for rights in (READ, APPEND):
        admission.read(peer(), CHUNK, grant(rights), 0, 10)
        admission.lend(peer(), CHUNK, grant(rights))
    admission.append(peer(), CHUNK, grant(APPEND))
    with pytest.raises(errors.NotPermitted, match="not appending"):
        admission.append(peer(), CHUNK, grant(READ))


@pytest.mark.parametrize("key", [ADMIN, NODE])
def test_admins_and_datanodes_need_none(key: Key, clock: Clock) -> None:
    admission = Admission(lambda: MASTERS, clock, lambda _: True)
    admission.read(peer(key), CHUNK, b"", 0, 10)
    for check in (admission.lend, admission.append, admission.sync):
        check(peer(key), CHUNK, b"")


def test_a_part_of_a_chunk_is_read_and_flushed_and_nothing_else(clock: Clock) -> None:
    admission, connection = Admission(lambda: MASTERS, clock, lambda _: True), peer()
    expiry_s = int(clock.now_s) + 10
    shown = grants.make(MASTERS, CLIENT.id, CHUNK, READ_RANGES, expiry_s, ranges=[(10, 20), (30, 40)])
    for _ in range(2):  # remembered or not
        admission.read(connection, CHUNK, shown, 30, 40)
        admission.sync(connection, CHUNK, shown)
        for start, end in ((0, 20), (10, 21), (10, 40), (20, 30)):
            with pytest.raises(errors.NotPermitted, match="other bytes"):
                admission.read(connection, CHUNK, shown, start, end)
        with pytest.raises(errors.NotPermitted, match="not lent"):
            admission.lend(connection, CHUNK, shown)
        with pytest.raises(errors.NotPermitted, match="not appending"):
            admission.append(connection, CHUNK, shown)
    clock.now_s += 10
    with pytest.raises(errors.GrantExpired):
        admission.read(connection, CHUNK, shown, 30, 40)


def test_an_expired_grant_is_told_from_a_wrong_one(clock: Clock) -> None:
    admission, connection = Admission(lambda: MASTERS, clock, lambda _: True), peer()
    for _ in range(2):  # remembered or not
        admission.read(connection, CHUNK, grant(APPEND), 0, 10)
        clock.now_s += 10
        with pytest.raises(errors.GrantExpired):
            admission.read(connection, CHUNK, grant(APPEND), 0, 10)
        for check in (admission.lend, admission.append):
            with pytest.raises(errors.GrantExpired):
                check(connection, CHUNK, grant(APPEND))
        admission.sync(connection, CHUNK, grant(APPEND))
        clock.now_s -= 10


def test_nothing_is_done_without_a_grant(clock: Clock) -> None:
    admission = Admission(lambda: MASTERS, clock, lambda _: True)
    checks: tuple[Callable[[Peer, ChunkId, object], None], ...] = (admission.lend, admission.append, admission.sync)
    for check in checks:
        for shown in (b"", None, grant(APPEND, chunk=ChunkId(8)), bytes(grants.GRANT_BYTES)):
            with pytest.raises(errors.NotPermitted):
                check(peer(), CHUNK, shown)
            with pytest.raises(errors.NotPermitted):
                admission.read(peer(), CHUNK, shown, 0, 1)


def test_what_was_shown_on_one_connection_counts_there_only(clock: Clock) -> None:
    admission, connection, shown = Admission(lambda: MASTERS, clock, lambda _: True), peer(), grant(APPEND)
    admission.append(connection, CHUNK, shown)
    for stranger in (MASTERS.issue(Role.CLIENT, "bob"), MASTERS.issue(Role.READER, "alice")):
        with pytest.raises(errors.NotPermitted):
            admission.read(peer(stranger), CHUNK, shown, 0, 1)
    with pytest.raises(errors.NotPermitted):
        admission.read(connection, ChunkId(8), shown, 0, 1)


def test_what_was_shown_counts_no_longer_than_its_generation(clock: Clock) -> None:
    masters = MASTERS.with_next()
    admission, connection = Admission(lambda: masters, clock, lambda _: True), peer()
    admission.read(connection, CHUNK, grant(READ), 0, 1)
    masters = masters.without(1)
    with pytest.raises(errors.GrantExpired):
        admission.read(connection, CHUNK, grant(READ), 0, 1)


def test_what_a_connection_has_shown_takes_bounded_memory(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GRANTS_REMEMBERED_MAX", 10)
    admission, connection = Admission(lambda: MASTERS, clock, lambda _: True), peer()
    for number in range(1, 100):
        admission.read(connection, ChunkId(number), grant(READ, chunk=ChunkId(number)), 0, 1)
        assert len(connection.remembered) <= 10


def test_a_datanode_speaks_for_nobody_who_may_not_come_himself(clock: Clock) -> None:
    admitted = {CLIENT.id}
    admission, connection = Admission(lambda: MASTERS, clock, admitted.__contains__), peer(NODE)
    admission.append(connection, CHUNK, grant(APPEND), CLIENT.id.to_wire())
    admitted.clear()  # as when the key was revoked
    with pytest.raises(errors.NotPermitted, match="not admitted"):
        admission.append(connection, CHUNK, grant(APPEND), CLIENT.id.to_wire())
