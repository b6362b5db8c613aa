"""Within a host connections take the Unix socket beside the port, if it belongs to who listens at the port."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio

from dfs import errors
from dfs.rpc import Listener, SocketNetwork, Stream
from dfs.rpc.address import TcpAddress, parse
from dfs.rpc.shortcut import _SO_PASSRIGHTS
from tests.streams import send_all

NOBODY = 65533

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be two users")


@asynccontextmanager
async def connected(listener: Listener, address: str) -> AsyncIterator[tuple[Stream, Stream]]:
    with trio.fail_after(60):
        near = await SocketNetwork().connect(address, 60)
        far = await listener.accept()
        try:
            yield near, far
        finally:
            await near.aclose()
            await far.aclose()


def is_short(far: Stream) -> bool:
    return far.peer == f"process {os.getpid()}"


@contextmanager
def somebody_at(name: str) -> Iterator[None]:
    """Another user's process listens at an abstract name."""
    ready, is_ready = os.pipe()
    stop, stopped = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setresuid(NOBODY, NOBODY, NOBODY)
            squatter = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            squatter.bind(name)
            squatter.listen()
            os.write(is_ready, b"x")
            os.close(stopped)
            os.read(stop, 1)
        finally:
            os._exit(0)
    os.close(is_ready)
    os.close(stop)
    try:
        assert os.read(ready, 1), f"nobody could listen at {name!r}"
        yield
    finally:
        os.close(stopped)
        os.close(ready)
        os.waitpid(child, 0)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize(
    ("listen_at", "connect_to"),
    [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("0.0.0.0", "127.0.0.1"), ("0.0.0.0", "127.3.2.1"), ("::", "::1")],
)
async def test_a_client_on_the_host_takes_the_short_cut(listen_at: str, connect_to: str) -> None:
    listener = await SocketNetwork().listen(str(TcpAddress(listen_at, 0)))
    where = parse(listener.address)
    assert isinstance(where, TcpAddress)
    async with connected(listener, str(TcpAddress(connect_to, where.port))) as (near, far):
        assert is_short(far)
        await send_all(near, [b"hello"])
        view = memoryview(bytearray(10))
        assert await far.receive_into(view) == 5
        assert bytes(view[:5]) == b"hello"
    await listener.aclose()


async def test_a_port_of_another_address_of_the_host_is_another_daemons() -> None:
    port = free_port()
    first = await SocketNetwork().listen(f"127.0.0.1:{port}")
    second = await SocketNetwork().listen(f"127.0.0.2:{port}")
    async with connected(second, second.address) as (_, far):
        assert is_short(far)
    await first.aclose()
    await second.aclose()


async def test_who_wants_none_has_tcp() -> None:
    listener = await SocketNetwork(short_cuts=False).listen("127.0.0.1:0")
    async with connected(listener, listener.address) as (_, far):
        assert not is_short(far)
    await listener.aclose()


async def test_a_name_is_free_again_when_its_daemon_has_gone() -> None:
    address = f"127.0.0.1:{free_port()}"
    for _ in range(2):
        listener = await SocketNetwork().listen(address)
        async with connected(listener, address) as (_, far):
            assert is_short(far)
        await listener.aclose()
    with pytest.raises(errors.Unreachable):
        await SocketNetwork().connect(address, 60)


@root_only
async def test_a_name_that_another_user_took_before_is_not_trusted() -> None:
    port = free_port()
    with somebody_at(f"\0dfs 127.0.0.1:{port}"):
        listener = await SocketNetwork().listen(f"127.0.0.1:{port}")
        async with connected(listener, listener.address) as (_, far):
            assert not is_short(far)
        await listener.aclose()


@root_only
async def test_a_name_for_all_addresses_that_another_user_took_is_not_trusted() -> None:
    port = free_port()
    with somebody_at(f"\0dfs 0.0.0.0:{port}"):
        listener = await SocketNetwork(short_cuts=False).listen(f"127.0.0.1:{port}")
        async with connected(listener, listener.address) as (_, far):
            assert not is_short(far)
        await listener.aclose()


@root_only
async def test_nobody_is_reached_through_a_name_without_a_port() -> None:
    port = free_port()
    with somebody_at(f"\0dfs 127.0.0.1:{port}"), pytest.raises(errors.Unreachable):
        await SocketNetwork().connect(f"127.0.0.1:{port}", 60)


def can_refuse_files() -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.getsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS)
        except OSError:
            return False
        return True


@pytest.mark.skipif(not can_refuse_files(), reason="needs a kernel that can refuse files: Linux 6.16 or later")
@pytest.mark.parametrize("kind", ["abstract", "path"])
async def test_nobody_can_send_open_files_to_who_listens(kind: str, tmp_path: Path) -> None:
    """A stranger's may take a minute to close, and for so long the daemon would do nothing else."""
    listener = await SocketNetwork().listen(f"./u:{tmp_path}/socket" if kind == "path" else "127.0.0.1:0")
    where = parse(listener.address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger, socket.socket() as sent:
        stranger.connect(f"\0dfs {where}" if isinstance(where, TcpAddress) else where.path)
        with pytest.raises(PermissionError):
            socket.send_fds(stranger, [b"x"], [sent.fileno()])
        stranger.sendall(b"x")
        far = await listener.accept()
        with pytest.raises(PermissionError):
            socket.send_fds(stranger, [b"x"], [sent.fileno()])
        await far.aclose()
    await listener.aclose()
