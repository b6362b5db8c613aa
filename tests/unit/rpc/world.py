"""A server and a pool on a simulated network, for tests of calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from dfs import errors
from dfs.keys import Key
from dfs.rpc import SPOKEN, Call, Gate, Later, Peer, Pool, Server, Versions, WithData, expose, takes_call
from tests.simulation.network import MemoryHost, MemoryNetwork


class Thing:
    """What the tests call."""

    def __init__(self) -> None:
        self.gate = trio.Event()
        self.arrived = trio.Event()
        self.entered = 0
        self.cancelled = 0
        self.heard: list[Any] = []
        self.done = 0

    @expose
    def add(self, left: int, right: int = 10) -> int:
        return left + right

    @expose
    async def add_slowly(self, left: int, right: int, delay_s: float) -> int:
        await trio.sleep(delay_s)
        return left + right

    @expose
    def look(self, is_there: bool) -> Any:
        """Waits only if it has to."""
        return "there" if is_there else Later(self.wait)

    @expose
    async def wait(self) -> str:
        self.entered += 1
        self.arrived.set()
        try:
            await self.gate.wait()
        except trio.Cancelled:
            self.cancelled += 1
            raise
        return "opened"

    @expose
    @takes_call
    async def hear(self, call: Call, word: str) -> list[Any]:
        return [word, None if call.data is None else bytes(call.data), call.peer.is_dfs]

    @takes_call
    @expose
    def length(self, call: Call) -> int:
        return len(call.data or b"")

    @takes_call
    @expose
    async def keep(self, call: Call) -> None:
        self.entered += 1
        await self.gate.wait()

    @expose
    async def keep_value(self, _value: Any) -> None:
        self.entered += 1
        await self.gate.wait()

    @takes_call
    @expose
    def version(self, call: Call) -> int:
        return call.peer.version

    @expose
    def note(self, word: str) -> None:
        self.heard.append(word)

    @expose
    def repeat(self, word: str, length: int) -> bytes:
        self.heard.append(word)
        return bytes(length)

    @expose
    def send(self, pieces: int, length: int) -> WithData:
        return WithData(pieces, [bytes([65 + number]) * length for number in range(pieces)], self._sent)

    @expose
    def send_at_once(self, length: int) -> WithData:
        return self.send(1, length)

    @expose
    async def send_when_open(self, length: int) -> WithData:
        await self.gate.wait()
        return WithData(None, [b"z" * length], self._sent)

    def _sent(self) -> None:
        self.done += 1

    @expose
    def echo(self, value: Any) -> Any:
        return value

    @expose
    def fail(self, kind: str) -> None:
        raise errors.from_wire(kind, f"it is {kind}")

    @expose
    def fail_with(self, message: bytes) -> None:
        raise errors.NotFound(message.decode("utf-8", "surrogateescape"))

    @expose
    def bug(self) -> None:
        raise KeyError("secret")

    @expose
    def inner_type_error(self) -> None:
        len(3)  # type: ignore[arg-type]

    @expose
    async def return_nonsense(self) -> object:
        return object()

    def hidden(self) -> None:
        raise AssertionError("called from outside")


@dataclass
class World:
    network: MemoryNetwork
    client: MemoryHost
    server: Server
    thing: Thing
    pool: Pool
    address: str
    nursery: trio.Nursery

    async def call(self, method: str, *args: Any, **options: Any) -> Any:
        return (await self.call_with_data(method, *args, **options))[0]

    async def call_with_data(self, method: str, *args: Any, **options: Any) -> tuple[Any, memoryview | None]:
        return await self.pool.call_with_data(self.address, "thing", method, *args, **options)


@asynccontextmanager
async def world(
    latency_s: float = 0.0,
    greet: Callable[[Peer, object], object] | None = None,
    handshake: dict[str, Any] | None = None,
    capacity_bytes: int = 256 * 1024,
    gate: Gate | None = None,
    key: Key | None = None,
    server_speaks: Versions = SPOKEN,
    client_speaks: Versions = SPOKEN,
    parted: Callable[[Peer], None] | None = None,
) -> AsyncIterator[World]:
    network = MemoryNetwork(latency_s, capacity_bytes)
    thing = Thing()
    server = Server(network.host("server"), greet=greet, gate=gate, parted=parted, spoken=server_speaks)
    server.register(thing, "thing")
    async with trio.open_nursery() as nursery:
        address = await nursery.start(server.serve, "server:9")
        client = network.host("client")
        async with Pool(client, key=key, spoken=client_speaks) as pool:
            pool.handshake.update(handshake or {})
            yield World(network, client, server, thing, pool, address, nursery)
        nursery.cancel_scope.cancel()
