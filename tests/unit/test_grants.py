"""Grants: what the NameNode gave one holder for one chunk, and nothing else, passes."""

from __future__ import annotations

from typing import Any

import pytest

from dfs import errors, grants, keys
from dfs.grants import APPEND, GRANT_BYTES, READ, READ_RANGES, Range
from dfs.keys import KeyId, Masters, Role
from dfs.types import ChunkId

MASTERS = Masters.make()
ALICE = MASTERS.issue(Role.CLIENT, "alice").id
CHUNK = ChunkId(7)
EXPIRY_S = 1_800_000_000


def given(holder: KeyId = ALICE, chunk: int = CHUNK, rights: int = READ, masters: Masters = MASTERS) -> bytes:
    return grants.make(masters, holder, ChunkId(chunk), rights, EXPIRY_S)


@pytest.mark.parametrize("rights", [READ, APPEND])
def test_a_grant_says_what_was_granted(rights: int) -> None:
    grant = given(rights=rights)
    assert len(grant) == GRANT_BYTES
    assert grants.check(MASTERS.of(keys.DATANODE), ALICE, CHUNK, grant) == (1, EXPIRY_S, rights, ())
    assert not grants.is_for_ranges(grant)


def of_ranges(ranges: list[Range], holder: KeyId = ALICE) -> bytes:
    return grants.make(MASTERS, holder, CHUNK, READ_RANGES, EXPIRY_S, ranges=grants.merged(ranges))


def test_a_grant_for_ranges_covers_them_and_nothing_beside() -> None:
    grant = of_ranges([(100, 200), (10, 20), (200, 250), (15, 30), (1000, 1001)])
    assert grants.is_for_ranges(grant)
    terms = grants.check(MASTERS, ALICE, CHUNK, grant)
    assert terms == (1, EXPIRY_S, READ_RANGES, ((10, 30), (100, 250), (1000, 1001)))
    for start, end in ((10, 30), (10, 11), (29, 30), (100, 250), (199, 201), (1000, 1001)):
        assert terms.covers(start, end)
    for start, end in ((9, 30), (10, 31), (0, 5), (30, 31), (40, 50), (29, 101), (99, 100), (1000, 1002), (5000, 5001)):
        assert not terms.covers(start, end)
    assert not grants.check(MASTERS, ALICE, CHUNK, of_ranges([])).covers(0, 1)
    assert grants.check(MASTERS, ALICE, CHUNK, given()).covers(0, 2**63)


def test_a_grant_for_ranges_is_not_to_be_changed_cut_or_read_as_another() -> None:
    grant = of_ranges([(0, 5), (7, 9)])
    for bit in range(8 * len(grant)):
        forged = bytearray(grant)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(errors.NotPermitted):
            grants.check(MASTERS, ALICE, CHUNK, bytes(forged))
    for length in range(len(grant)):
        with pytest.raises(errors.NotPermitted):
            grants.check(MASTERS, ALICE, CHUNK, grant[:length])


def test_it_is_of_one_chunk_and_one_holder() -> None:
    others = [
        MASTERS.issue(Role.CLIENT, "bob").id,
        MASTERS.issue(Role.READER, "alice").id,
        MASTERS.issue(Role.CLIENT, "alice", {"subtree": "/a"}).id,
    ]
    for holder in others:
        with pytest.raises(errors.NotPermitted, match="not one that the NameNode gave"):
            grants.check(MASTERS, holder, CHUNK, given())
        with pytest.raises(errors.NotPermitted):
            grants.check(MASTERS, ALICE, CHUNK, given(holder))
    with pytest.raises(errors.NotPermitted):
        grants.check(MASTERS, ALICE, CHUNK, given(chunk=8))


def test_no_bit_of_it_can_be_changed() -> None:
    grant = given()
    for bit in range(8 * GRANT_BYTES):
        forged = bytearray(grant)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(errors.NotPermitted):
            grants.check(MASTERS, ALICE, CHUNK, bytes(forged))


@pytest.mark.parametrize("grant", [None, b"", b"x", "x" * GRANT_BYTES, bytes(GRANT_BYTES), 1, [], {}])
def test_what_is_no_grant_is_refused(grant: Any) -> None:
    with pytest.raises(errors.NotPermitted):
        grants.check(MASTERS, ALICE, CHUNK, grant)


def test_a_grant_with_more_behind_it_is_refused() -> None:
    with pytest.raises(errors.NotPermitted):
        grants.check(MASTERS, ALICE, CHUNK, given() + b"x")


def test_another_cluster_cannot_give_any() -> None:
    with pytest.raises(errors.NotPermitted):
        grants.check(MASTERS, ALICE, CHUNK, given(masters=Masters.make()))


def test_the_secrets_of_keys_make_no_grants() -> None:
    """Who knows his own secret, or one of the other realm, cannot speak for the NameNode."""
    key = MASTERS.issue(Role.CLIENT, "alice")
    for realm in keys.REALMS:
        thief = Masters({keys.DATANODE: {1: key.secrets[realm]}})
        with pytest.raises(errors.NotPermitted):
            grants.check(MASTERS, ALICE, CHUNK, given(masters=thief))
    swapped = Masters({keys.DATANODE: MASTERS.by_realm()[keys.NAMENODE]})
    with pytest.raises(errors.NotPermitted):
        grants.check(MASTERS, ALICE, CHUNK, given(masters=swapped))


def test_grants_outlive_a_new_generation_and_a_renewed_key() -> None:
    old = MASTERS.by_realm()
    both = Masters({realm: {**old[realm], 2: bytes([number]) * 32} for number, realm in enumerate(keys.REALMS)})
    renewed = both.issue(Role.CLIENT, "alice").id
    assert renewed.generation == 2
    assert grants.check(both, renewed, CHUNK, given()).generation == 1
    assert grants.check(both, ALICE, CHUNK, given(masters=both)).generation == 2
    with pytest.raises(errors.NotPermitted):
        grants.check(MASTERS, ALICE, CHUNK, given(masters=both))
