"""Virtual time, and the network that wakes who waits by it."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import pytest
import trio

from dfs import errors
from dfs.rpc import Stream
from tests.simulation.clock import VirtualClock
from tests.simulation.network import JITTERY_LATENCY_S, JitteryNetwork
from tests.streams import send_all


def run(body: Callable[[VirtualClock], Awaitable[None]]) -> float:
    """How long it took, of virtual time."""
    clock = VirtualClock()
    trio.run(body, clock, clock=clock)
    return clock.current_time()


def connected(body: Callable[[JitteryNetwork, Stream, Stream], Awaitable[None]]) -> float:
    """Call it with both ends of a connection from `a` to `b`."""

    async def main(clock: VirtualClock) -> None:
        network = JitteryNetwork(random.Random(1))
        listener = await network.host("b").listen("b:1")
        client = await network.host("a").connect("b:1", 5)
        await body(network, client, await listener.accept())

    return run(main)


async def received(stream: Stream, count: int) -> bytes:
    got = bytearray()
    while len(got) < count:
        view = bytearray(count - len(got))
        step = await stream.receive_into(memoryview(view))
        if not step:
            break
        got += view[:step]
    return bytes(got)


def test_time_passes_only_while_nothing_can_run() -> None:
    async def main(clock: VirtualClock) -> None:
        for _ in range(100):
            await trio.lowlevel.checkpoint()
        assert trio.current_time() == 0.0
        await trio.sleep(1000.0)

    assert run(main) == 1000.0


def test_deadlines_and_calls_come_in_the_order_of_their_times() -> None:
    seen: list[tuple[str, float]] = []

    async def main(clock: VirtualClock) -> None:
        async def sleep(name: str, how: Callable[[float], Awaitable[None]], seconds: float) -> None:
            await how(seconds)
            seen.append((name, trio.current_time()))

        clock.at(2.0, lambda: seen.append(("call", trio.current_time())))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleep, "deadline", trio.sleep, 3.0)
            nursery.start_soon(sleep, "cheap", clock.sleep, 1.0)

    run(main)
    assert seen == [("cheap", 1.0), ("call", 2.0), ("deadline", 3.0)]


def test_who_sleeps_is_cancelled_and_not_woken_later() -> None:
    async def main(clock: VirtualClock) -> None:
        with trio.move_on_after(1.0):
            await clock.sleep(2.0)
        await trio.sleep(0.5)
        woken = trio.Event()
        with trio.move_on_after(1.0) as limit:  # past the time to which it slept
            await woken.wait()
        assert limit.cancelled_caught
        assert trio.current_time() == 2.5

    run(main)


def test_bytes_arrive_in_order_once_their_latency_has_passed() -> None:
    async def body(network: JitteryNetwork, client: Stream, server: Stream) -> None:
        async with trio.open_nursery() as nursery:
            got: list[bytes] = []

            async def receive() -> None:
                got.append(await received(server, 300))

            nursery.start_soon(receive)
            for number in range(3):
                await send_all(client, [bytes([number]) * 100])
            sent_at = trio.current_time()
        assert got == [bytes(100) + b"\1" * 100 + b"\2" * 100]
        assert 0 < trio.current_time() - sent_at <= 2 * JITTERY_LATENCY_S

    connected(body)


def test_what_is_under_way_when_a_link_is_cut_arrives_when_it_is_whole() -> None:
    async def body(network: JitteryNetwork, client: Stream, server: Stream) -> None:
        await send_all(client, [b"held"])
        network.partition("a", "b")
        with trio.move_on_after(10.0) as limit:
            await received(server, 4)
        assert limit.cancelled_caught
        network.heal("a", "b")
        assert await received(server, 4) == b"held"
        assert trio.current_time() < 11.0

    connected(body)


def test_an_end_and_a_reset_are_seen_by_who_waits() -> None:
    async def body(network: JitteryNetwork, client: Stream, server: Stream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.aclose)
            assert await server.receive_into(memoryview(bytearray(1))) == 0
        client = await network.host("a").connect("b:1", 5)

        async def reset() -> None:
            await trio.sleep(1.0)
            network.reset("a", "b")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reset)
            with pytest.raises(errors.ConnectionLost):
                await client.receive_into(memoryview(bytearray(1)))

    assert connected(body) >= 1.0


def test_who_has_no_room_to_send_goes_on_when_there_is_some() -> None:
    async def body(network: JitteryNetwork, client: Stream, server: Stream) -> None:
        data = random.Random(2).randbytes(3 * network.capacity_bytes)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all, client, [data])
            assert await received(server, len(data)) == data

    connected(body)
