"""What real sockets do beyond the contract of all networks: large messages wake their receiver seldom."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import pytest
import trio
import trio.testing

from dfs import errors
from dfs.rpc import SocketNetwork, Stream, sockets
from dfs.rpc.channel import Channel
from dfs.rpc.protocol import INVOKE, MSGPACK, Wanted, encode
from tests.streams import send_all

KIB = 1024
MIB = 1024 * KIB


@asynccontextmanager
async def tcp_connection() -> AsyncIterator[tuple[Stream, Stream]]:
    """Both ends of a connection."""
    network = SocketNetwork(short_cuts=False)
    listener = await network.listen("127.0.0.1:0")
    near = await network.connect(listener.address, 60)
    far = await listener.accept()
    try:
        with trio.fail_after(60):
            yield near, far
    finally:
        await near.aclose()
        await far.aclose()
        await listener.aclose()


async def test_a_silent_address_of_a_host_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    network = SocketNetwork(short_cuts=False)
    listener = await network.listen("127.0.0.1:0")
    port = int(listener.address.rpartition(":")[2])
    with ExitStack() as stack:
        silent = stack.enter_context(socket.socket())
        silent.bind(("127.0.0.2", port))
        silent.listen(0)  # what comes when this is full is dropped, as where a firewall swallows it
        for _ in range(3):
            filling = stack.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex(("127.0.0.2", port))

        async def resolve(*_: object) -> list[tuple[int, tuple[str, int]]]:
            return [(socket.AF_INET, (host, port)) for host in ("127.0.0.2", "127.0.0.1")]

        monkeypatch.setattr(sockets, "_resolve", resolve)
        near = await network.connect(f"host:{port}", 3)
        far = await listener.accept()
        for end in (near, far):
            await end.aclose()
        await listener.aclose()
        with pytest.raises(errors.Unreachable, match="nothing listens at host"):
            await network.connect(f"host:{port}", 0.5)


async def test_a_receiver_sleeps_until_what_it_expects_is_there() -> None:
    async with tcp_connection() as (near, far), trio.open_nursery() as nursery:
        received: list[int] = []

        async def receive() -> None:
            far.expect(100 * KIB)
            received.append(await far.receive_into(memoryview(bytearray(MIB))))

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(10):
            assert not received, "it was woken for a piece"
            await send_all(near, [bytes(10 * KIB)])
            # Bytes are at the other end of a loopback connection when sending them returns.
            await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.deadline = trio.current_time() + 60
    assert received == [100 * KIB]


async def test_a_sign_of_life_is_seen_in_the_middle_of_a_large_message() -> None:
    buffers, _ = encode(INVOKE, 0, 1, MSGPACK, b"payload", [bytes(MIB)])
    message = b"".join(buffers)
    async with tcp_connection() as (near, far), trio.open_nursery() as nursery:
        channel = Channel(far)

        async def receive() -> None:
            while True:
                event = await channel.receive()
                if isinstance(event, Wanted):
                    channel.give(memoryview(bytearray(event.length)))

        nursery.start_soon(receive)
        await send_all(near, [message[: 100 * KIB]])
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.start_soon(send_all, near, [message[100 * KIB : 101 * KIB]])  # less than the receiver sleeps for
        await trio.testing.wait_all_tasks_blocked(0.01)
        await channel.wait_heard()
        nursery.cancel_scope.cancel()


async def test_small_messages_after_a_large_one_are_received_at_once() -> None:
    large, _ = encode(INVOKE, 0, 1, MSGPACK, b"payload", [bytes(MIB)])
    small, _ = encode(INVOKE, 0, 2, MSGPACK, b"payload")
    async with tcp_connection() as (near, far), trio.open_nursery() as nursery:
        channel = Channel(far)
        for round_number in range(3):
            nursery.start_soon(send_all, near, [*large, *small])
            seen = []
            while len(seen) < 2:
                event = await channel.receive()
                assert event is not None
                if isinstance(event, Wanted):
                    channel.give(memoryview(bytearray(event.length)))
                else:
                    seen.append(event.seq)
            assert seen == [1, 2], round_number


async def test_who_receives_from_a_closed_connection_waits_for_no_descriptor() -> None:
    """It is another connection's by then, perhaps."""
    async with tcp_connection() as (near, far):
        await send_all(near, [b"little"])
        assert await far.receive_into(memoryview(bytearray(KIB))) == 6
        await far.aclose()
        with pytest.raises(errors.ConnectionLost, match="was closed"):
            await far.receive_into(memoryview(bytearray(KIB)))
        with pytest.raises(errors.ConnectionLost, match="was closed"):
            await far.wait_writable()
