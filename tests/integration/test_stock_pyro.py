"""Stock Pyro5 at the other end, over real sockets: its proxies call us, and we call its daemons."""

from __future__ import annotations

import errno
import os
import random
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import Pyro5.api
import Pyro5.callcontext
import Pyro5.errors
import Pyro5.nameserver
import pytest
import serpent
import trio

from dfs import errors
from dfs.rpc import Call, Peer, Pool, Server, SocketNetwork, WithData, expose, takes_call, uri
from dfs.rpc.naming import NAME_SERVER_OBJECT, NameServerClient, NameServerObject
from dfs.types import Attr, Ino

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

oneway: Callable[[F], F] = Pyro5.api.oneway

ATTR = Attr(Ino(1), 0o40755, 2, 0, 0, 0, 5, 0, 1, 2, 3, 4, 9, 3)
SERIALIZERS = ["serpent", "msgpack", "json"]


class Thing:
    def __init__(self) -> None:
        self.noted: list[str] = []
        self.was_noted = trio.Event()

    @expose
    def add(self, left: int, right: int = 10) -> int:
        return left + right

    @expose
    async def add_later(self, left: int, right: int) -> int:
        await trio.lowlevel.checkpoint()
        return left + right

    @expose
    def attr(self) -> list[Any]:
        return [ATTR, b"\0name"]

    @expose
    def name_is(self, name: Any) -> bool:
        return bool(name == b"\0name")

    @expose
    @takes_call
    async def up(self, call: Call) -> int:
        return sum(call.data or b"")

    @expose
    def down(self, length: int) -> WithData:
        return WithData(length, [b"a" * length, b"b" * length])

    @expose
    def missing(self) -> None:
        raise errors.NotFound("there is no file /x")

    @expose
    def bug(self) -> None:
        raise KeyError("secret")

    @oneway
    @expose
    async def note(self, word: str) -> None:
        self.noted.append(word)
        self.was_noted.set()


@asynccontextmanager
async def our_server(address: str = "127.0.0.1:0", **options: Any) -> AsyncIterator[tuple[Server, Thing, str]]:
    server = Server(SocketNetwork(), **options)
    thing = Thing()
    server.register(thing, "thing")
    async with trio.open_nursery() as nursery:
        bound = await nursery.start(server.serve, address)
        yield server, thing, bound
        nursery.cancel_scope.cancel()


async def in_thread(work: Callable[[], T]) -> T:
    with trio.fail_after(20):
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True)


def proxy(address: str, serializer: str, object_id: str = "thing") -> Pyro5.api.Proxy:
    made = Pyro5.api.Proxy(uri(object_id, address))
    made._pyroSerializer = serializer
    made._pyroTimeout = 10
    return made


# --- a stock proxy calls us ---------------------------------------------------------------------------------


@pytest.mark.parametrize("serializer", SERIALIZERS)
async def test_a_stock_proxy_calls_our_methods(serializer: str) -> None:
    def work() -> None:
        with proxy(address, serializer) as thing:
            assert thing.add(1, 2) == 3
            assert thing.add(1, right=2) == 3
            assert thing.add_later(3, 4) == 7
            attr, name = thing.attr()
            assert list(attr) == list(ATTR)
            assert type(attr) in (list, tuple)
            assert serpent.tobytes(name) == b"\0name"
            assert thing.name_is(name)
            assert set(thing._pyroMethods) >= {"add", "attr", "up", "down"}

    async with our_server() as (_, _, address):
        await in_thread(work)


async def test_a_stock_proxy_passes_bytes_in_its_default_serializer() -> None:
    def work() -> None:
        with proxy(address, "serpent") as thing:
            assert thing.name_is(b"\0name")

    async with our_server() as (_, _, address):
        await in_thread(work)


@pytest.mark.parametrize("serializer", SERIALIZERS)
async def test_data_annotations_travel_both_ways(serializer: str) -> None:
    data = os.urandom(1_500_000)

    def work() -> None:
        context = Pyro5.callcontext.current_context
        with proxy(address, serializer) as thing:
            context.annotations = {"DATA": data}
            assert thing.up() == sum(data)
            context.annotations = {}
            assert thing.down(300_000) == 300_000
            assert bytes(context.response_annotations["DATA"]) == b"a" * 300_000 + b"b" * 300_000

    async with our_server() as (server, _, address):
        await in_thread(work)
        assert server.statistics().data_bytes_in_work == 0


@pytest.mark.meets_bugs
@pytest.mark.parametrize("serializer", SERIALIZERS)
async def test_our_errors_are_os_errors_there(serializer: str) -> None:
    def work() -> None:
        with proxy(address, serializer) as thing:
            with pytest.raises(FileNotFoundError) as caught:
                thing.missing()
            assert caught.value.errno == errno.ENOENT
            assert "there is no file /x" in str(caught.value)
            assert caught.value.dfs_code == "NotFound"  # type: ignore[attr-defined]
            with pytest.raises(OSError, match="failed unexpectedly") as fault:
                thing.bug()
            assert fault.value.errno == errno.EREMOTEIO
            assert "secret" not in "".join(Pyro5.errors.get_pyro_traceback(type(fault.value), fault.value, None))
            with pytest.raises(OSError, match="missing a required argument") as wrong:
                thing.add()
            assert wrong.value.errno == errno.EINVAL
            assert thing.add(1, 1) == 2

    async with our_server() as (_, _, address):
        await in_thread(work)


@pytest.mark.parametrize("serializer", SERIALIZERS)
async def test_a_stock_batch_is_run_in_order(serializer: str) -> None:
    def work() -> None:
        with proxy(address, serializer) as thing:
            batch = Pyro5.api.BatchProxy(thing)
            batch.add(1, 2)
            batch.add_later(3, 4)
            batch.add(1, right=1)
            assert list(batch()) == [3, 7, 2]
            batch.add(1, 2)
            batch.missing()
            batch.add(3, 4)
            results = batch()
            assert next(results) == 3
            with pytest.raises(OSError, match="no file"):
                next(results)
            batch.down(5)
            with pytest.raises(OSError, match="not in a batch"):
                next(batch())

    async with our_server() as (_, _, address):
        await in_thread(work)


async def test_a_oneway_call_runs_although_the_caller_has_gone() -> None:
    def work() -> None:
        with proxy(address, "serpent") as thing:
            assert thing.note("heard") is None

    async with our_server() as (_, thing, address):
        await in_thread(work)
        with trio.fail_after(10):
            await thing.was_noted.wait()
        assert thing.noted == ["heard"]


async def test_compressed_messages_are_read() -> None:
    def work() -> None:
        Pyro5.config.COMPRESSION = True
        try:
            with proxy(address, "json") as thing:
                assert thing.name_is("x" * 100_000) is False
        finally:
            Pyro5.config.COMPRESSION = False

    async with our_server() as (_, _, address):
        await in_thread(work)


async def test_unknown_objects_and_marshal_are_refused_in_words() -> None:
    def work() -> None:
        with (
            pytest.raises(Pyro5.errors.CommunicationError, match="unknown object"),
            proxy(address, "serpent", "x") as other,
        ):
            other._pyroBind()
        with pytest.raises(Pyro5.errors.CommunicationError, match="marshal"), proxy(address, "marshal") as other:
            other._pyroBind()
        with proxy(address, "serpent", "Pyro.Daemon") as daemon:
            assert sorted(daemon.registered()) == ["Pyro.Daemon", "thing"]
            assert daemon.ping() is None
            with pytest.raises(Pyro5.errors.DaemonError, match="unknown object"):
                daemon.get_metadata("x")

    async with our_server() as (_, _, address):
        await in_thread(work)


async def test_a_stock_proxy_is_greeted_as_one() -> None:
    seen: list[tuple[object, bool]] = []

    def greet(peer: Peer, handshake: object) -> object:
        seen.append((handshake, peer.is_dfs))
        if handshake == "bad":
            raise errors.WrongCluster("not here")
        return None

    answers: list[object] = []

    class Listening(Pyro5.api.Proxy):  # type: ignore[misc]
        def _pyroValidateHandshake(self, response: object) -> None:
            answers.append(response)

    def work() -> None:
        with Listening(uri("thing", address)) as thing:
            thing._pyroBind()
        assert answers == ["hello"]
        with proxy(address, "serpent") as thing:
            thing._pyroHandshake = "bad"
            with pytest.raises(Pyro5.errors.CommunicationError, match="rejected: not here"):
                thing._pyroBind()

    async with our_server(greet=greet) as (_, _, address):
        await in_thread(work)
    assert seen == [("hello", False), ("bad", False)]


async def test_it_works_over_a_unix_socket(tmp_path: Path) -> None:
    def work() -> None:
        with proxy(address, "msgpack") as thing:
            assert thing.add(1, 2) == 3

    async with our_server(f"./u:{tmp_path}/s") as (_, _, address):
        await in_thread(work)


# --- strangers ----------------------------------------------------------------------------------------------


def _connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def _header(kind: int, payload_bytes: int, annotations_bytes: int = 0, serializer: int = 4) -> bytes:
    return struct.pack(
        "!4sHBBHHII16sHH", b"PYRO", 502, kind, serializer, 0, 1, payload_bytes, annotations_bytes, b"", 0, 0x4DC5
    )


async def test_whatever_strangers_send_the_server_goes_on() -> None:
    chance = random.Random(7)
    hello = b'{"handshake": "hi", "object": "thing"}'
    greeted = _header(1, len(hello), serializer=3) + hello
    openings = [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        chance.randbytes(100_000),
        b"PYRO" + chance.randbytes(200),
        _header(1, 0xFFFFFFFF),
        _header(1, 100, 0xFFFFFFF0),
        _header(1, 60_000) + bytes(60_000),
        _header(4, 10) + bytes(10),
        greeted + chance.randbytes(1000),
        greeted + _header(4, 8 << 20) + bytes(100),
        greeted + _header(4, 100, 8 << 20) + b"DATA" + struct.pack("!I", 7 << 20) + bytes(100),
        greeted + _header(4, 100, 16) + b"DATA" + struct.pack("!I", 50),
        greeted + _header(5, 10) + bytes(10),
        greeted + _header(4, 1000) + chance.randbytes(1000),
        greeted + _header(4, 1000, serializer=1) + b"[" * 1000,
        greeted + _header(4, 1000, serializer=2) + chance.randbytes(1000),
        greeted * 3,
    ]

    def work() -> None:
        for opening in openings:
            with _connect(address) as sock:
                try:
                    sock.sendall(opening)
                    sock.shutdown(socket.SHUT_WR)
                    while sock.recv(65536):
                        pass
                except OSError as error:  # the server hung up at once, which is right; a wait without end is not
                    assert error.errno in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN), error
        with proxy(address, "serpent") as thing:
            assert thing.add(1, 2) == 3

    async with our_server() as (server, _, address):
        await in_thread(work)
        assert server.statistics().violations > 5
        assert server.statistics().data_bytes_in_work == 0
        async with Pool(SocketNetwork()) as pool:
            assert await pool.call(address, "thing", "add", 1) == 11


# --- we call stock ------------------------------------------------------------------------------------------


class StockThing:
    @expose
    def add(self, left: int, right: int) -> int:
        return left + right

    @expose
    def echo_data(self) -> int:
        data = Pyro5.callcontext.current_context.annotations["DATA"]
        Pyro5.callcontext.current_context.response_annotations = {"DATA": bytes(data)[::-1]}
        return len(data)

    @expose
    def fail(self) -> None:
        raise ValueError("not today")

    @expose
    def stream(self) -> Iterator[int]:
        yield from range(3)


@contextmanager
def running(daemon: Pyro5.api.Daemon) -> Iterator[str]:
    thread = threading.Thread(target=daemon.requestLoop)
    thread.start()
    try:
        yield daemon.locationStr
    finally:
        daemon.shutdown()
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # stock's own sockets
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_our_pool_calls_a_stock_daemon() -> None:
    daemon = Pyro5.api.Daemon("127.0.0.1", 0)
    daemon.register(StockThing(), "stock")
    with running(daemon) as address:
        async with Pool(SocketNetwork()) as pool:
            results: list[int] = []

            async def ask(number: int) -> None:
                results.append(await pool.call(address, "stock", "add", number, 1))

            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(ask, number)
            assert sorted(results) == list(range(1, 21))
            into = memoryview(bytearray(200_000))
            count, data = await pool.call_with_data(address, "stock", "echo_data", data=[b"abc" * 50_000], into=into)
            assert count == 150_000
            assert data is not None
            assert bytes(data) == b"cba" * 50_000
            with pytest.raises(errors.RemoteFault, match="ValueError: not today"):
                await pool.call(address, "stock", "fail")
            with pytest.raises(errors.RemoteFault, match="AttributeError"):
                await pool.call(address, "stock", "nothing")
            with pytest.raises(errors.NotSupported, match="stream of items"):
                await pool.call(address, "stock", "stream")
            with pytest.raises(errors.RemoteFault, match="unknown object"):
                await pool.call(address, "nobody", "add", 1, 1)
            assert await pool.call(address, "stock", "add", 1, 1) == 2
            assert pool.statistics().connections_made == 2, "one for each object that was called"


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_our_client_uses_a_stock_name_server() -> None:
    def listed() -> Any:
        with Pyro5.api.locate_ns(*_host_and_port(address)) as found:
            return found.list("dfs.")

    with running(Pyro5.nameserver.NameServerDaemon("127.0.0.1", 0)) as address:
        async with Pool(SocketNetwork()) as pool:
            names = NameServerClient(pool, address)
            await names.register("dfs.datanode.a", "dfs.datanode.a", "10.0.0.1:9401")
            assert await in_thread(listed) == {"dfs.datanode.a": "PYRO:dfs.datanode.a@10.0.0.1:9401"}
            await names.remove("dfs.datanode.a")
            await names.remove("dfs.datanode.a")
            assert await in_thread(listed) == {}


async def test_stock_tools_use_the_name_server_that_we_serve() -> None:
    names = NameServerObject()
    server = Server(SocketNetwork())
    server.register(names, NAME_SERVER_OBJECT)

    def nsc(*command: str) -> str:
        host, _, port = address.rpartition(":")
        done = subprocess.run(
            [sys.executable, "-m", "Pyro5.nsc", "-n", host, "-p", port, *command],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        return done.stdout + done.stderr

    def work() -> None:
        listing = nsc("list")
        assert "dfs.namenode --> PYRO:dfs.namenode@127.0.0.1:9400" in listing
        assert "dfs.datanode.a --> " in listing
        assert "reserved" in nsc("remove", "dfs.namenode")
        assert "regular expressions" in nsc("listmatching", "d.*")
        assert "Registered mine" in nsc("register", "mine", "PYRO:x@127.0.0.1:1")
        with Pyro5.api.locate_ns(*_host_and_port(address)) as found:
            assert str(found.lookup("mine")) == "PYRO:x@127.0.0.1:1"
            found.register("ours", "PYRO:x@127.0.0.1:1", metadata={"class:dfs"})
            assert "class:dfs" in nsc("list")
            assert found.yplookup(meta_any={"class:dfs"}, return_metadata=False) == {"ours": "PYRO:x@127.0.0.1:1"}
            with pytest.raises(Pyro5.errors.NamingError, match="unknown name: nobody"):
                found.lookup("nobody")

    async with trio.open_nursery() as nursery:
        address = await nursery.start(server.serve, "127.0.0.1:0")
        names.register_own(NAME_SERVER_OBJECT, uri(NAME_SERVER_OBJECT, address))
        names.register_own("dfs.namenode", uri("dfs.namenode", "127.0.0.1:9400"))
        names.register_own("dfs.datanode.a", uri("dfs.datanode.a", "127.0.0.1:9401"))
        await in_thread(work)
        nursery.cancel_scope.cancel()


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)
