"""Who has most connections does not have most of a server: its event loop goes round among those who have keys."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
import trio.testing

from dfs import limits
from dfs.checksum import Buffer
from dfs.keys import NAMENODE, Masters, Role
from dfs.rpc import Gate, Pool
from dfs.rpc import protocol as wire
from dfs.rpc.channel import BURST_COST_MAX
from dfs.rpc.rounds import Rounds
from dfs.rpc.serialize import dumps_call
from tests.streams import send_all
from tests.unit.rpc.world import World, world

MASTERS = Masters.make()
FLOODER, OTHER = MASTERS.issue(Role.CLIENT, "flooder"), MASTERS.issue(Role.CLIENT, "other")
OPERATIONS = 50


@asynccontextmanager
async def running() -> AsyncIterator[Rounds]:
    rounds = Rounds()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rounds.run)
        yield rounds
        nursery.cancel_scope.cancel()


class Flood:
    """Connections of one party that want to work on message after message, of this cost."""

    def __init__(self, rounds: Rounds, cost: int = 1) -> None:
        self.had = 0
        self._rounds = rounds
        self._cost = cost

    async def run(self, connection: int) -> None:
        while True:
            await self._rounds.wait("flooder", connection, self._cost)
            self.had += self._cost


@pytest.mark.parametrize("connections", [1, 500])
async def test_a_flood_has_one_share_of_each_round_whatever_its_connections(connections: int) -> None:
    async with running() as rounds, trio.open_nursery() as nursery:
        flood = Flood(rounds)
        for connection in range(connections):
            nursery.start_soon(flood.run, connection)
        await trio.lowlevel.checkpoint()
        before = flood.had
        for _ in range(OPERATIONS):
            await rounds.wait("other", 1, 1)
            await trio.lowlevel.checkpoint()
        assert 0 < flood.had - before <= (OPERATIONS + 1) * BURST_COST_MAX
        nursery.cancel_scope.cancel()


async def test_large_messages_have_the_share_of_small_ones() -> None:
    async with running() as rounds, trio.open_nursery() as nursery:
        flood = Flood(rounds, cost=10 * BURST_COST_MAX)
        for connection in range(20):
            nursery.start_soon(flood.run, connection)
        for _ in range(OPERATIONS):
            await rounds.wait("other", 1, 1)
            await trio.lowlevel.checkpoint()
        assert flood.had <= (OPERATIONS + 10) * BURST_COST_MAX
        nursery.cancel_scope.cancel()


async def test_the_cost_of_answers_counts_for_the_messages_that_follow() -> None:
    async with running() as rounds:
        await rounds.wait("reader", 1, 1)
        rounds.charge("reader", 5 * BURST_COST_MAX)
        passed = 0

        async def ask() -> None:
            nonlocal passed
            await rounds.wait("reader", 1, 1)
            passed += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            for _ in range(4):
                await rounds.wait("other", 1, 1)
                await trio.lowlevel.checkpoint()
            assert not passed
        assert passed


async def test_who_is_cancelled_takes_no_turn() -> None:
    async with running() as rounds:
        await rounds.wait("party", 1, BURST_COST_MAX)
        with trio.CancelScope() as scope:
            scope.cancel()
            await rounds.wait("party", 1, 1)
        await rounds.wait("party", 2, BURST_COST_MAX)


def batch(seq: int) -> list[Buffer]:
    """Many calls in one message, as stock proxies send them."""
    calls = [["note", ["flood"], {}]] * 1000
    return wire.encode(wire.INVOKE, wire.FLAG_BATCH, seq, wire.MSGPACK, dumps_call("thing", "<batch>", calls))[0]


def batch_of_large_answers(seq: int) -> list[Buffer]:
    calls = [["repeat", ["flood", 10 * BURST_COST_MAX * 4096], {}]] * 100
    return wire.encode(wire.INVOKE, wire.FLAG_BATCH, seq, wire.MSGPACK, dumps_call("thing", "<batch>", calls))[0]


def compressed(seq: int) -> list[Buffer]:
    """Few bytes, of which many become."""
    payload = zlib.compress(dumps_call("thing", "note", ["flood" * 10 * BURST_COST_MAX * 800]))
    return wire.encode(wire.INVOKE, wire.FLAG_COMPRESSED, seq, wire.MSGPACK, payload)[0]


@pytest.mark.parametrize(
    ("message", "cost"), [(batch, 1), (batch_of_large_answers, 10 * BURST_COST_MAX), (compressed, 10 * BURST_COST_MAX)]
)
async def test_nobody_has_more_by_how_he_packs_his_calls(message: Callable[[int], list[Buffer]], cost: int) -> None:
    async with world(capacity_bytes=64 * limits.MIB) as here:
        assert await here.call("add", 1, 2) == 3
        stream = await here.network.host("flood").connect(here.address, 1)
        hello, _ = wire.encode(wire.CONNECT, 0, 0, wire.JSON, b'{"handshake": "hi", "object": "thing"}')
        await send_all(stream, hello)
        for seq in range(1, 200):
            await send_all(stream, message(seq))
        while not here.thing.heard:
            await trio.lowlevel.checkpoint()
        before = len(here.thing.heard)
        for _ in range(OPERATIONS):
            assert await here.call("add", 1, 2) == 3
        ticks_of_a_call = 4  # there and back
        rounds = OPERATIONS * ticks_of_a_call
        assert (len(here.thing.heard) - before) * cost <= rounds * BURST_COST_MAX
        await stream.aclose()


async def handled_meanwhile(here: World, connections: int) -> int:
    """How many calls of a flood are handled while another client makes OPERATIONS calls, one at a time."""

    async def flood(pool: Pool) -> None:
        while True:
            await pool.call(here.address, "thing", "note", "flood")

    async with AsyncExitStack() as stack:
        pools = [Pool(here.network.host("flood"), key=FLOODER) for _ in range(connections)]
        for pool in pools:
            await stack.enter_async_context(pool)
        async with trio.open_nursery() as nursery:
            for pool in pools * 64:
                nursery.start_soon(flood, pool)
            while len(here.thing.heard) < 64 * connections:
                await trio.lowlevel.checkpoint()
            before = len(here.thing.heard)
            for _ in range(OPERATIONS):
                assert await here.call("add", 1, 2) == 3
            handled = len(here.thing.heard) - before
            nursery.cancel_scope.cancel()
    here.thing.heard.clear()
    return handled


async def test_a_server_handles_no_more_of_a_flood_when_it_has_more_connections() -> None:
    def gate() -> Gate:
        return Gate(NAMENODE, "thing", MASTERS, lambda: 1e9)

    async with world(gate=gate(), key=OTHER) as here:
        assert await here.call("add", 1, 2) == 3
        by_one = await handled_meanwhile(here, 1)
        by_many = await handled_meanwhile(here, 50)
    ticks_of_a_call = 4  # there and back
    assert by_one <= OPERATIONS * ticks_of_a_call * BURST_COST_MAX
    assert by_many <= OPERATIONS * ticks_of_a_call * BURST_COST_MAX
