"""Logins of stock proxies: once, for one object, within a minute, and none from before the server's start."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from dfs import errors, limits
from dfs.keys import DATANODE, Key, Masters, Role
from dfs.login import stock_login
from dfs.rpc import Gate, Pool
from tests.unit.rpc.world import world

MASTERS = Masters.make()
KEY = MASTERS.issue(Role.CLIENT, "c")
N1, N2 = "dfs.datanode.n1", "dfs.datanode.n2"


class Clock:
    now_s = 1e9

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def gate(object_id: str, clock: Clock) -> Gate:
    return Gate(DATANODE, object_id, MASTERS, clock)


def test_a_login_counts_once_and_at_one_daemon(clock: Clock) -> None:
    one, other = gate(N1, clock), gate(N2, clock)
    login = stock_login(KEY, N1, clock.now_s)
    assert one.check_stock(login) == KEY.id
    for server, why in ((one, "used before"), (other, "not of this cluster")):
        with pytest.raises(errors.NotPermitted, match=why):
            server.check_stock(login)


def test_a_login_is_remembered_for_as_long_as_it_counts(clock: Clock) -> None:
    server = gate(N1, clock)
    login = stock_login(KEY, N1, clock.now_s + limits.STOCK_LOGIN_MAX_S)
    server.check_stock(login)
    for _ in range(20):
        clock.now_s += limits.STOCK_LOGIN_MAX_S / 7
        server.check_stock(stock_login(KEY, N1, clock.now_s))
        with pytest.raises(errors.NotPermitted, match=r"used before|another time"):
            server.check_stock(login)


def test_a_restart_makes_no_login_good_again(clock: Clock) -> None:
    login = stock_login(KEY, N1, clock.now_s)
    gate(N1, clock).check_stock(login)
    clock.now_s += 1
    with pytest.raises(errors.NotPermitted, match="another time"):
        gate(N1, clock).check_stock(login)


def test_logins_are_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STOCK_LOGINS_MAX", 3)
    server = gate(N1, clock)
    for _ in range(3):
        server.check_stock(stock_login(KEY, N1, clock.now_s))
    with pytest.raises(errors.NotPermitted, match="too many"):
        server.check_stock(stock_login(KEY, N1, clock.now_s))
    clock.now_s += 2 * limits.STOCK_LOGIN_MAX_S + 1
    server.check_stock(stock_login(KEY, N1, clock.now_s))


# --- generations and revoked keys -------------------------------------------------------------------------


def test_a_gate_accepts_the_generations_that_it_has_at_the_moment(clock: Clock) -> None:
    server = gate(N1, clock)
    new = MASTERS.with_next()
    newer = new.issue(Role.CLIENT, "c")
    with pytest.raises(errors.NotPermitted, match="not known here"):
        server.check_stock(stock_login(newer, N1, clock.now_s))
    server.masters = new
    for key in (KEY, newer):
        assert server.check_stock(stock_login(key, N1, clock.now_s)) == key.id
        assert server.admits(key.id)
    server.masters = new.without(1)
    assert server.check_stock(stock_login(newer, N1, clock.now_s)) == newer.id
    assert not server.admits(KEY.id)
    with pytest.raises(errors.NotPermitted, match="which was retired"):
        server.check_stock(stock_login(KEY, N1, clock.now_s))


def test_a_revoked_key_is_refused_in_every_generation_and_told_so_only_with_a_proof(clock: Clock) -> None:
    server = gate(N1, clock)
    server.masters = MASTERS.with_next()
    server.revoked = frozenset({KEY.id.holder})
    for key in (KEY, server.masters.issue(Role.CLIENT, "c", {"subtree": "/a"})):
        assert not server.admits(key.id)
        with pytest.raises(errors.NotPermitted, match="was revoked"):
            server.check_stock(stock_login(key, N1, clock.now_s))
    forged = Masters.make().issue(Role.CLIENT, "c")
    with pytest.raises(errors.NotPermitted, match="not of this cluster"):
        server.check_stock(stock_login(forged, N1, clock.now_s))
    for other in (MASTERS.issue(Role.READER, "c"), MASTERS.issue(Role.CLIENT, "d")):
        assert server.check_stock(stock_login(other, N1, clock.now_s)) == other.id


async def test_one_key_has_so_many_connections_from_one_host_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS_PER_HOLDER_MAX", 2)
    other = MASTERS.issue(Role.CLIENT, "other")
    async with world(gate=Gate(DATANODE, "thing", MASTERS, Clock()), key=KEY) as here, AsyncExitStack() as stack:

        async def connect(host: str, key: Key) -> int:
            pool = await stack.enter_async_context(Pool(here.network.host(host), key=key))
            return int(await pool.call(here.address, "thing", "add", 1, 2))

        assert await here.call("add", 1, 2) == 3
        assert await connect("client", KEY) == 3
        with pytest.raises(errors.Refused, match="has 2 connections from client already"):
            await connect("client", KEY)
        assert await connect("client", other) == 3
        assert await connect("elsewhere", KEY) == 3
