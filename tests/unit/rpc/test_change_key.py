"""A pool goes on with another key, and a server with other masters, while calls are in work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from dfs import errors
from dfs.keys import NAMENODE, Masters, Role
from dfs.rpc import Gate, Pool, Server
from tests.simulation.network import MemoryNetwork
from tests.unit.rpc.world import Thing, World

OLD = Masters.make()
BOTH = OLD.with_next()
FIRST = BOTH.issue(Role.CLIENT, "c", generation=1)
SECOND = BOTH.issue(Role.CLIENT, "c")


@asynccontextmanager
async def guarded(gate: Gate) -> AsyncIterator[World]:
    network, thing = MemoryNetwork(0.001), Thing()
    server = Server(network.host("server"), gate=gate, authorize=lambda *_: None)
    server.register(thing, "thing")
    async with trio.open_nursery() as nursery:
        address = await nursery.start(server.serve, "server:9")
        client = network.host("client")
        async with Pool(client, key=FIRST) as pool:
            yield World(network, client, server, thing, pool, address, nursery)
        nursery.cancel_scope.cancel()


@pytest.fixture
def gate() -> Gate:
    return Gate(NAMENODE, "thing", BOTH, lambda: 1e9)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not condition():
            await trio.sleep(0.001)


def keys_of(here: World) -> list[int]:
    return sorted(peer.key.generation for peer in here.server.peers() if peer.key is not None)


async def test_calls_in_work_end_as_they_began_and_new_ones_use_the_new_key(
    gate: Gate, autojump_clock: trio.testing.MockClock
) -> None:
    answers: list[object] = []

    async def wait() -> None:
        answers.append(await here.call("wait"))

    async with guarded(gate) as here, trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await here.thing.arrived.wait()
        here.pool.change_key(SECOND)
        assert await here.call("add", 1, 2) == 3
        assert keys_of(here) == [1, 2]
        here.thing.gate.set()
        await until(lambda: keys_of(here) == [2])  # the old connection ends with its last call
        assert answers == ["opened"]


async def test_a_connection_that_is_being_made_meanwhile_is_made_with_the_new_key(
    gate: Gate, autojump_clock: trio.testing.MockClock
) -> None:
    async with guarded(gate) as here, trio.open_nursery() as nursery:
        nursery.start_soon(here.call, "add", 1)
        await trio.sleep(0.0015)  # in the middle of the handshake
        here.pool.change_key(SECOND)
        assert await here.call("add", 1) == 11
        await until(lambda: keys_of(here) == [2])


async def test_a_key_that_counts_no_more_loses_its_connections(
    gate: Gate, autojump_clock: trio.testing.MockClock
) -> None:
    async with guarded(gate) as here:
        assert await here.call("add", 1) == 11
        gate.masters = BOTH.without(1)
        assert here.server.close_connections(lambda peer: peer.key is not None and not gate.admits(peer.key)) == 1
        await until(lambda: not here.pool.statistics().connections)
        with pytest.raises(errors.DfsError, match="which was retired"):
            await here.call("add", 1)
        here.pool.change_key(SECOND)
        assert await here.call("add", 1) == 11


async def test_what_has_come_already_from_who_loses_his_connection_is_not_done(
    gate: Gate, autojump_clock: trio.testing.MockClock
) -> None:
    async with guarded(gate) as here:
        assert await here.call("add", 1) == 11
        noted = here.thing.heard.append

        def close(word: str) -> None:
            noted(word)
            here.server.close_connections(lambda _: True)

        async def note(word: str) -> None:
            nonlocal lost
            try:
                await here.call("note", word)
            except errors.ConnectionLost:
                lost += 1

        lost = 0
        here.thing.heard = heard = _Heard(close)
        async with trio.open_nursery() as nursery:
            for number in range(3):  # which arrive together
                nursery.start_soon(note, f"{number}")
        assert len(heard.words) == 1
        assert lost == 2


class _Heard(list[object]):
    """Calls `then` for each word."""

    def __init__(self, then: Callable[[str], None]) -> None:
        super().__init__()
        self.words: list[str] = []
        self._then = then

    def append(self, word: object) -> None:
        self.words.append(str(word))
        self._then(str(word))
