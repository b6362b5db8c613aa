"""Who shares a daemon with others: the holder of a key on one host, whatever else tells his connections apart."""

from __future__ import annotations

import pytest

from dfs.keys import Key, Masters, Role
from dfs.rpc import Party, Peer

MASTERS = Masters.make()
KEY = MASTERS.issue(Role.CLIENT, "c")


def party(address: str, key: Key = KEY) -> Party:
    peer = Peer(address, 1)
    peer.key = key.id
    return peer.party


def test_processes_and_connections_of_a_host_are_one_party() -> None:
    assert party("10.0.0.1:1000") == party("10.0.0.1:2000")
    assert party("[fd00::1]:1000") == party("[fd00::1]:2000")


def test_hosts_that_use_one_key_are_parties_of_their_own() -> None:
    assert party("10.0.0.1:1000") != party("10.0.0.2:1000")
    assert party("[fd00:0:0:1::1]:1000") != party("[fd00:0:0:2::1]:1000")
    assert party("[fe80::1%eth0]:1000") != party("[fe80::2%eth0]:1000")


def test_a_host_is_one_however_many_addresses_of_its_network_it_has() -> None:
    assert party("[fd00::1]:1000") == party("[fd00::ffff:2]:1000")
    assert party("[::ffff:10.0.0.1]:1000") == party("10.0.0.1:1000")


@pytest.mark.parametrize("address", ["process 17", "127.0.0.1:1000", "127.1.2.3:1000", "[::1]:1000"])
def test_who_comes_from_this_machine_by_its_own_ways_is_of_one_host(address: str) -> None:
    assert party(address) == Party(KEY.id.holder, "")


def test_generations_and_claims_of_a_key_are_one_party_and_other_holders_are_not() -> None:
    here = "10.0.0.1:1"
    newer = MASTERS.with_next().issue(Role.CLIENT, "c")
    narrower = MASTERS.issue(Role.CLIENT, "c", {"subtree": "/a"})
    assert party(here) == party(here, newer) == party(here, narrower)
    for other in (MASTERS.issue(Role.READER, "c"), MASTERS.issue(Role.CLIENT, "d")):
        assert party(here) != party(here, other)


def test_who_has_shown_no_key_is_of_his_host() -> None:
    assert Peer("10.0.0.1:1", 1).party == Party(None, "10.0.0.1")
