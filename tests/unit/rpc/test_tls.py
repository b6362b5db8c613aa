"""What TLS makes of bytes that somebody on the way has changed, and of sockets that take only part of a record."""

from __future__ import annotations

import random
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from dfs import errors
from dfs.keys import Role
from dfs.rpc.tls import Tls, TlsStream, client_context, server_context
from tests.keys import CLUSTER, holder
from tests.streams import send_all

CLIENT = holder(Role.CLIENT, "a", tls=True)
SMALL_BYTES = 4096  # less than a record


@asynccontextmanager
async def ends(near: socket.socket, far: socket.socket) -> AsyncIterator[tuple[TlsStream, TlsStream]]:
    """Client and server on two sockets, secured."""
    assert CLIENT.tls is not None and CLUSTER.tls is not None
    made: list[TlsStream] = []

    async def connect() -> None:
        assert CLIENT.tls is not None
        made.append(await Tls(CLIENT.tls).connect(near, "server"))

    server = Tls(CLUSTER.tls).accept(far, "client")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connect)
        await server.secure()
    try:
        yield made[0], server
    finally:
        await made[0].aclose()
        await server.aclose()


def narrow_pair() -> tuple[socket.socket, socket.socket]:
    pair = socket.socketpair()
    for sock in pair:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BYTES)
    return pair


async def test_each_end_knows_who_is_at_the_other_and_which_server_it_is() -> None:
    async with ends(*socket.socketpair()) as (client, server):
        assert (client.holder, server.holder) == ("namenode:namenode", "client:a")
        assert client.binding == server.binding and len(client.binding) == 32


async def test_records_that_a_socket_takes_in_parts_arrive_whole_and_once() -> None:
    dice = random.Random(1)
    pieces = [dice.randbytes(dice.choice([1, 7, 4096, 16384, 16385, 40000])) for _ in range(200)]
    sent = b"".join(pieces)
    async with ends(*narrow_pair()) as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(send_all, client, pieces)
        got = bytearray()
        while len(got) < len(sent):
            view = memoryview(bytearray(dice.choice([1, 5000, 100_000])))
            count = await server.receive_into(view)
            assert count
            got += view[:count]
        assert got == sent


async def test_a_changed_bit_ends_the_connection_and_is_never_delivered() -> None:
    (near, near_wire), (far_wire, far) = socket.socketpair(), socket.socketpair()
    wires = [trio.SocketStream(trio.socket.from_stdlib_socket(sock)) for sock in (near_wire, far_wire)]
    changing = False

    async def pass_on(source: trio.SocketStream, target: trio.SocketStream) -> None:
        async for data in source:
            middle = len(data) // 2
            if changing:
                data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
            with suppress(trio.BrokenResourceError):  # at the end the ends are gone
                await target.send_all(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pass_on, *wires)
        nursery.start_soon(pass_on, *reversed(wires))
        async with ends(near, far) as (client, server):
            await send_all(client, [b"sound"])
            view = memoryview(bytearray(100))
            assert view[: await server.receive_into(view)] == b"sound"
            changing = True
            await send_all(client, [b"changed"])
            with pytest.raises(errors.ProtocolViolation, match="no TLS of this connection"):
                await server.receive_into(view)
        nursery.cancel_scope.cancel()
    for wire in wires:
        await wire.aclose()


def test_there_is_nothing_to_fall_back_to() -> None:
    assert CLIENT.tls is not None
    for context in (server_context(CLIENT.tls), client_context(CLIENT.tls)):
        assert context.minimum_version == context.maximum_version == ssl.TLSVersion.TLSv1_3
        assert context.verify_mode == ssl.CERT_REQUIRED
    assert server_context(CLIENT.tls).num_tickets == 0
