"""What the transport may rely on, whichever network it runs on: sockets or the simulation."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing

from dfs import errors
from dfs.rpc import Listener, Network, SocketNetwork, Stream
from tests.keys import CLUSTER
from tests.simulation.network import MemoryNetwork
from tests.streams import send_all

MIB = 1024 * 1024


@dataclass
class Place:
    network: Network
    listen_at: str
    nobody_at: str


@pytest.fixture(params=["tcp", "tcp6", "tls", "short", "unix", "memory", "memory-slow"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    match request.param:
        case "tcp":
            yield Place(SocketNetwork(short_cuts=False), "127.0.0.1:0", "127.0.0.1:1")
        case "tcp6":
            yield Place(SocketNetwork(short_cuts=False), "[::1]:0", "[::1]:1")
        case "short":
            yield Place(SocketNetwork(), "127.0.0.1:0", "127.0.0.1:1")
        case "unix":
            with tempfile.TemporaryDirectory() as directory:
                yield Place(SocketNetwork(), f"./u:{directory}/s", f"./u:{directory}/nobody")
        case "tls":
            yield Place(SocketNetwork(CLUSTER.tls, short_cuts=False), "127.0.0.1:0", "127.0.0.1:1")
        case "memory":
            yield Place(MemoryNetwork().host("here"), "here:0", "here:1")
        case _:
            yield Place(MemoryNetwork(latency_s=0.002).host("here"), "here:0", "there:1")


@asynccontextmanager
async def connected(place: Place) -> AsyncIterator[tuple[Stream, Stream, Listener]]:
    listener = await place.network.listen(place.listen_at)
    accepted: list[Stream] = []

    async def accept() -> None:
        accepted.append(await listener.accept())
        await accepted[0].secure()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        client = await place.network.connect(listener.address, 5)
    server = accepted[0]
    try:
        yield client, server, listener
    finally:
        await client.aclose()
        await server.aclose()
        await listener.aclose()


async def receive_exactly(stream: Stream, count: int) -> bytes:
    view = memoryview(bytearray(count))
    got = 0
    while got < count:
        step = await stream.receive_into(view[got:])
        assert step, f"the stream ended after {got} of {count} bytes"
        got += step
    return bytes(view)


async def test_bytes_arrive_in_order_both_ways(place: Place) -> None:
    async with connected(place) as (client, server, _):
        await send_all(client, [b"one ", bytearray(b"two "), memoryview(b"three"), b""])
        assert await receive_exactly(server, 13) == b"one two three"
        await send_all(server, [b"back"])
        assert await receive_exactly(client, 4) == b"back"


async def test_a_large_message_in_many_buffers_arrives_whole(place: Place) -> None:
    pieces = [bytes([number % 251]) * 4099 for number in range(1500)]  # more buffers than one sendmsg takes
    async with connected(place) as (client, server, _), trio.open_nursery() as nursery:
        nursery.start_soon(send_all, client, pieces)
        assert await receive_exactly(server, 1500 * 4099) == b"".join(pieces)


async def test_a_sender_waits_for_a_receiver_that_does_not_read(place: Place) -> None:
    async with connected(place) as (client, server, _):
        sent = 0
        while step := client.send_nowait([bytes(MIB)]):
            sent += step
            await trio.lowlevel.checkpoint()
            assert sent < 256 * MIB, "the network holds back nobody"
        with trio.move_on_after(0.01) as scope:
            while not client.send_nowait([b"x"]):
                await client.wait_writable()
                sent += 1
        if not scope.cancelled_caught:
            sent += 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive_exactly, server, sent - 1)
            await client.wait_writable()


async def test_a_close_ends_the_other_side_after_what_was_sent(place: Place) -> None:
    async with connected(place) as (client, server, _):
        await send_all(client, [b"last words"])
        await client.aclose()
        assert await receive_exactly(server, 10) == b"last words"
        assert await server.receive_into(memoryview(bytearray(1))) == 0
        assert await server.receive_into(memoryview(bytearray(1))) == 0


async def test_a_cancelled_receive_loses_nothing(place: Place) -> None:
    async with connected(place) as (client, server, _):
        for round_number in range(20):
            view = memoryview(bytearray(8))
            got: list[int] = []

            async def receive(view: memoryview = view, got: list[int] = got) -> None:
                got.append(await server.receive_into(view))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                await trio.testing.wait_all_tasks_blocked(0.001)
                await send_all(client, [bytes([round_number])])  # it may be woken by this, or cancelled first
                nursery.cancel_scope.cancel()
            if not got:
                got.append(await server.receive_into(view))
            assert got == [1]
            assert view[0] == round_number


async def test_who_expects_much_gets_it_all(place: Place) -> None:
    sent = bytes(range(256)) * 4096
    async with connected(place) as (client, server, _), trio.open_nursery() as nursery:
        nursery.start_soon(send_all, client, [sent])
        view = memoryview(bytearray(len(sent)))
        got = 0
        with trio.fail_after(60):
            while got < len(sent):
                server.expect(len(sent) - got)
                got += await server.receive_into(view[got:])
        assert view == sent
        server.expect(1)
        await send_all(client, [b"next"])
        assert await receive_exactly(server, 4) == b"next"


async def test_who_expects_more_than_comes_gets_what_came_at_the_end(place: Place) -> None:
    async with connected(place) as (client, server, _):
        server.expect(MIB)
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                assert await receive_exactly(server, 10) == b"last words"
                assert await server.receive_into(memoryview(bytearray(1))) == 0

            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            await send_all(client, [b"last words"])
            await client.aclose()


async def test_who_no_longer_expects_much_gets_what_is_there(place: Place) -> None:
    async with connected(place) as (client, server, _):
        server.expect(MIB)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive_exactly, server, 4)
            await trio.testing.wait_all_tasks_blocked()
            await send_all(client, [b"some"])
            await trio.testing.wait_all_tasks_blocked(0.01)
            server.expect(1)
            nursery.cancel_scope.deadline = trio.current_time() + 60
        assert not nursery.cancel_scope.cancelled_caught, "the receiver slept on"


async def test_closing_wakes_who_receives_at_this_end(place: Place) -> None:
    async with connected(place) as (client, _, _):
        failed = trio.Event()

        async def receive() -> None:
            with pytest.raises(errors.ConnectionLost):
                await client.receive_into(memoryview(bytearray(1)))
            failed.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            await client.aclose()
            with trio.fail_after(5):
                await failed.wait()
        with pytest.raises(errors.ConnectionLost):
            client.send_nowait([b"x"])


async def test_sending_to_a_peer_that_has_closed_ends_in_connection_lost(place: Place) -> None:
    async with connected(place) as (client, server, _):
        await server.aclose()
        with trio.fail_after(5), pytest.raises(errors.ConnectionLost):
            while True:
                await send_all(client, [bytes(1000)])
                await trio.lowlevel.checkpoint()


async def test_connecting_where_nobody_listens_says_so(place: Place) -> None:
    with pytest.raises(errors.Unreachable, match="nothing listens at"):
        await place.network.connect(place.nobody_at, 5)


async def test_nobody_listens_after_the_listener_closed(place: Place) -> None:
    listener = await place.network.listen(place.listen_at)
    await listener.aclose()
    await listener.aclose()
    with pytest.raises(errors.Unreachable, match="nothing listens at"):
        await place.network.connect(listener.address, 5)


@pytest.mark.parametrize("passes", range(4))
async def test_who_is_cancelled_while_he_accepts_loses_no_connection(place: Place, passes: int) -> None:
    """He has it, or the next one gets it."""
    listener = await place.network.listen(place.listen_at)
    accepted: list[Stream] = []
    clients: list[Stream] = []

    async def accept() -> None:
        accepted.append(await listener.accept())

    async def connect() -> None:
        clients.append(await place.network.connect(listener.address, 5))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(connect)
        await trio.testing.wait_all_tasks_blocked(0.01)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as cancelled:
                cancelled.start_soon(accept)
                for _ in range(passes):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        if not accepted:
            with trio.fail_after(5):
                await accept()
        with trio.fail_after(5):
            await accepted[0].secure()
    for each in (accepted[0], clients[0], listener):
        await each.aclose()


async def test_an_address_in_use_is_refused(place: Place) -> None:
    listener = await place.network.listen(place.listen_at)
    with pytest.raises(errors.Unreachable, match="cannot listen"):
        await place.network.listen(listener.address)
    await listener.aclose()


async def test_what_is_no_address_is_an_invalid_argument(place: Place) -> None:
    for text in ("", "host", "host:", ":1", "host:99999", "1:2:3", "[::1]", "./u:", "host:1x"):
        with pytest.raises(errors.InvalidArgument):
            await place.network.connect(text, 1)


async def test_many_connections_at_once_are_all_served(place: Place) -> None:
    listener = await place.network.listen(place.listen_at)

    async def echo(stream: Stream) -> None:
        await stream.secure()
        await send_all(stream, [await receive_exactly(stream, 2)])
        await stream.aclose()

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(echo, await listener.accept())

    async def ask(number: int) -> None:
        stream = await place.network.connect(listener.address, 5)
        await send_all(stream, [b"%02d" % number])
        assert await receive_exactly(stream, 2) == b"%02d" % number
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        for number in range(50):
            nursery.start_soon(ask, number)
    await listener.aclose()


async def test_a_unix_socket_left_by_a_dead_daemon_is_taken_over(tmp_path: Path) -> None:
    import socket

    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    listener = await SocketNetwork().listen(f"./u:{path}")
    client = await SocketNetwork().connect(f"./u:{path}", 1)
    await client.aclose()
    await listener.aclose()
    assert not path.exists()


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(errors.Unreachable, match="cannot listen"):
        await SocketNetwork().listen(f"./u:{path}")
    assert path.read_text() == "data"
