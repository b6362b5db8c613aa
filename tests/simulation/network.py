"""A network in memory, the twin of dfs.rpc.sockets: latency, partitions and resets, driven by trio's clock.

    network = MemoryNetwork(latency_s=0.001)
    namenode, client = network.host("namenode"), network.host("client")     # each is a dfs.rpc Network
    network.partition("client", "namenode")                                 # nothing passes, either way
    network.partition("client", "namenode", both_ways=False)                # nothing from client to namenode
    network.heal("client", "namenode")
    network.reset("client", "namenode")                                     # connections break, at both ends
    network.crash("namenode")                                               # and its listeners are gone

What passes a link arrives after its latency, in order. A partition loses nothing that was sent, as TCP loses
nothing: it arrives when the partition heals; connecting meanwhile runs out of time. A pipe holds at most
`capacity_bytes`, then the sender waits. There is no randomness: a run is a function of what its users do.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Iterator, Sequence
from typing import ClassVar, Final

import trio

from dfs import errors
from dfs.checksum import Buffer
from dfs.rpc import address as addresses
from dfs.rpc.handover import Inbox
from dfs.rpc.network import Listener, Stream
from tests.simulation.clock import virtual

_BACKLOG = 1024
_FIRST_PORT = 20_000
JITTERY_LATENCY_S: Final = 0.001


class Pipe:
    """Bytes on their way from one host to another.

    `_chunks` holds (time of arrival, bytes); empty bytes are the end. `_lot` holds who waits, at either end.
    """

    def __init__(self, network: MemoryNetwork, source: str, target: str) -> None:
        self.source = source
        self.target = target
        self._network = network
        self._chunks: deque[tuple[float, memoryview]] = deque()
        self._held_bytes = 0
        self._ended = False  # the sender has closed
        self._unread = False  # the receiver has closed: nobody will read
        self._reset = False
        self._lot = trio.lowlevel.ParkingLot()

    def wake(self) -> None:
        self._lot.unpark_all()

    def reset(self) -> None:
        self._reset = True
        self._chunks.clear()
        self.wake()

    def end(self) -> None:
        """The sender closes: the receiver gets what is under way, then the end."""
        if not self._ended:
            self._ended = True
            arrival = self._arrival()
            self._chunks.append((arrival, memoryview(b"")))
            self._network.announce(self, arrival)

    def stop_reading(self) -> None:
        self._unread = True
        self.wake()

    def send_nowait(self, buffers: Sequence[Buffer]) -> int:
        self._check_can_send()
        sent = 0
        arrival = self._arrival()
        for buffer in buffers:
            room = self._network.capacity_bytes - self._held_bytes
            piece = bytes(memoryview(buffer)[:room])
            if piece:
                self._chunks.append((arrival, memoryview(piece)))
                self._held_bytes += len(piece)
                sent += len(piece)
            if len(piece) < len(buffer):
                break
        if sent:
            self._network.announce(self, arrival)
        return sent

    async def wait_writable(self) -> None:
        # As long as it takes: whoever needs a deadline has one.
        while self._held_bytes >= self._network.capacity_bytes and self._can_send():
            await self._lot.park()
        self._check_can_send()

    async def receive_into(self, view: memoryview, closed: list[bool]) -> int:
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            if closed[0]:
                raise errors.ConnectionLost("the connection was closed at this end")
            if self._reset:
                raise errors.ConnectionLost(f"connection reset by {self.source}")
            if self._is_ready():
                return self._take(view)
            await self._network.rest(self._lot, self._next_arrival())

    def _can_send(self) -> bool:
        return not (self._reset or self._ended or self._unread)

    def _check_can_send(self) -> None:
        if not self._can_send():
            raise errors.ConnectionLost(f"the connection with {self.target} is broken")

    def _arrival(self) -> float:
        return trio.current_time() + self._network.latency(self.source, self.target)

    def _is_ready(self) -> bool:
        if not self._chunks or self._network.is_cut(self.source, self.target):
            return False
        return self._chunks[0][0] <= trio.current_time()

    def _next_arrival(self) -> float:
        """When to look again; a partition's healing wakes by itself."""
        if not self._chunks or self._network.is_cut(self.source, self.target):
            return float("inf")
        return self._chunks[0][0]

    def _take(self, view: memoryview) -> int:
        """Everything that has arrived, as far as `view` has room for it."""
        taken = 0
        while self._is_ready() and taken < len(view):
            arrival, chunk = self._chunks[0]
            if not chunk:
                break  # the end stays
            count = min(len(chunk), len(view) - taken)
            view[taken : taken + count] = chunk[:count]
            taken += count
            self._chunks.popleft()
            if count < len(chunk):
                self._chunks.appendleft((arrival, chunk[count:]))
        self._held_bytes -= taken
        if taken:
            self.wake()
        return taken


class MemoryStream:
    """One end of a connection."""

    holder: ClassVar[str] = ""
    binding: ClassVar[bytes] = b""

    def __init__(self, peer: str, outgoing: Pipe, incoming: Pipe) -> None:
        self.peer = peer
        self._outgoing = outgoing
        self._incoming = incoming
        self._closed = [False]

    async def secure(self) -> None:
        """Nothing to do: there is nobody between."""

    def send_nowait(self, buffers: Sequence[Buffer]) -> int:
        self._check_open()
        return self._outgoing.send_nowait(buffers)

    async def wait_writable(self) -> None:
        self._check_open()
        await self._outgoing.wait_writable()

    async def receive_into(self, view: memoryview) -> int:
        return await self._incoming.receive_into(view, self._closed)

    def expect(self, count: int) -> None:
        """Bytes arrive as they were sent: there is nothing to save."""

    async def aclose(self) -> None:
        self._closed[0] = True
        self._outgoing.end()
        self._incoming.stop_reading()
        await trio.lowlevel.checkpoint()

    def _check_open(self) -> None:
        if self._closed[0]:
            raise errors.ConnectionLost("the connection was closed at this end")


class MemoryListener:
    def __init__(self, host: MemoryHost, address: str) -> None:
        self.address = address
        self.host = host
        self._send, self._arrivals = trio.open_memory_channel[MemoryStream](_BACKLOG)
        self._waiting: set[trio.CancelScope] = set()

    def arrive(self, stream: MemoryStream) -> bool:
        """Whether there was room in the backlog."""
        try:
            self._send.send_nowait(stream)
        except trio.WouldBlock:
            return False
        return True

    async def accept(self) -> Stream:
        try:
            return await self._arrivals.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError) as error:
            raise errors.ConnectionLost(f"{self.address} no longer listens") from error

    async def aclose(self) -> None:
        self.stop()
        await trio.lowlevel.checkpoint()

    def stop(self) -> None:
        self.host.network.forget(self)
        self._send.close()
        self._arrivals.close()


class MemoryHost:
    """The network as one host sees it. An address names the host that serves: `namenode:9400`."""

    def __init__(self, network: MemoryNetwork, name: str) -> None:
        self.network = network
        self.name = name

    async def connect(self, address: str, timeout_s: float) -> Stream:
        addresses.parse(address)
        with trio.move_on_after(timeout_s):
            return await self.network.connect(self.name, address)
        raise errors.Unreachable(f"{address} did not answer within {timeout_s:g} s")

    async def listen(self, address: str) -> Listener:
        await trio.lowlevel.checkpoint()
        return self.network.listen(self, address)

    def inbox(self) -> Inbox | None:
        return None


class MemoryNetwork:
    """All hosts, links and connections of a simulation."""

    def __init__(self, latency_s: float = 0.0, capacity_bytes: int = 256 * 1024) -> None:
        self.capacity_bytes = capacity_bytes
        self._default_latency_s = latency_s
        self._latencies: dict[tuple[str, str], float] = {}
        self._cut: set[tuple[str, str]] = set()
        self._healed = trio.lowlevel.ParkingLot()
        self._listeners: dict[tuple[str, str], MemoryListener] = {}
        self._pipes: list[tuple[Pipe, Pipe]] = []
        self._ports = itertools.count(_FIRST_PORT)

    def host(self, name: str) -> MemoryHost:
        return MemoryHost(self, name)

    # --- faults ---------------------------------------------------------------------------------------------

    def set_latency(self, source: str, target: str, latency_s: float) -> None:
        """From now on, what goes from `source` to `target` takes so long."""
        self._latencies[source, target] = latency_s

    def partition(self, one: str, other: str, *, both_ways: bool = True) -> None:
        """Nothing passes from `one` to `other` (nor back, unless one-way)."""
        self._cut.add((one, other))
        if both_ways:
            self._cut.add((other, one))

    def heal(self, one: str, other: str) -> None:
        self._cut -= {(one, other), (other, one)}
        self._wake_all()

    def heal_all(self) -> None:
        self._cut.clear()
        self._wake_all()

    def reset(self, one: str, other: str) -> int:
        """Break all connections between two hosts, at both ends; returns how many."""
        return self._reset(set(self._between(one, other)))

    def crash(self, name: str) -> None:
        """A host is gone: its connections break, nothing listens there until it listens again."""
        for listener in [listener for (host, _), listener in self._listeners.items() if host == name]:
            listener.stop()
        self._reset({pair for pair in self._pipes if name in (pair[0].source, pair[0].target)})

    # --- for hosts and pipes --------------------------------------------------------------------------------

    def announce(self, pipe: Pipe, arrival: float) -> None:
        """Bytes are under way, or the end."""
        pipe.wake()  # the receiver then rests until they arrive

    async def rest(self, lot: trio.lowlevel.ParkingLot, arrival: float) -> None:
        """Until somebody wakes the lot, or what is under way arrives."""
        with trio.move_on_at(arrival):
            await lot.park()

    def latency(self, source: str, target: str) -> float:
        return self._latencies.get((source, target), self._default_latency_s)

    def is_cut(self, source: str, target: str) -> bool:
        return (source, target) in self._cut

    def listen(self, host: MemoryHost, address: str) -> MemoryListener:
        where = addresses.parse(address)
        if isinstance(where, addresses.TcpAddress) and where.port == 0:
            where = addresses.TcpAddress(where.host, next(self._ports))
        key = (self._owner(host.name, str(where)), str(where))
        if key in self._listeners:
            raise errors.Unreachable(f"cannot listen at {where}: it is in use")
        listener = self._listeners[key] = MemoryListener(host, str(where))
        return listener

    def forget(self, listener: MemoryListener) -> None:
        key = (self._owner(listener.host.name, listener.address), listener.address)
        if self._listeners.get(key) is listener:
            del self._listeners[key]

    async def connect(self, source: str, address: str) -> MemoryStream:
        target = self._owner(source, address)
        await self._pass(source, target)
        listener = self._listeners.get((target, address))
        if listener is None:
            await self._pass(target, source)
            raise errors.Unreachable(f"nothing listens at {address}")
        there, back = Pipe(self, source, target), Pipe(self, target, source)
        self._pipes.append((there, back))
        if not listener.arrive(MemoryStream(f"{source}:{next(self._ports)}", back, there)):
            raise errors.Unreachable(f"{address} has too many connections waiting")
        await self._pass(target, source)
        return MemoryStream(address, there, back)

    def _owner(self, host: str, address: str) -> str:
        """The host that an address leads to from `host`."""
        where = addresses.parse(address)
        if isinstance(where, addresses.UnixAddress) or where.host in ("127.0.0.1", "::1", "localhost"):
            return host
        return where.host

    async def _pass(self, source: str, target: str) -> None:
        """One packet's way: the link's latency, and as long as the link is cut."""
        await trio.sleep(self.latency(source, target))
        while self.is_cut(source, target):
            await self._healed.park()  # the connecting side has a deadline

    def _between(self, one: str, other: str) -> Iterator[tuple[Pipe, Pipe]]:
        return (pair for pair in self._pipes if {pair[0].source, pair[0].target} == {one, other})

    def _reset(self, pairs: set[tuple[Pipe, Pipe]]) -> int:
        for pair in self._pipes:
            if pair in pairs:
                pair[0].reset()
                pair[1].reset()
        self._pipes = [pair for pair in self._pipes if pair not in pairs]
        return len(pairs)

    def _wake_all(self) -> None:
        self._healed.unpark_all()
        for pair in self._pipes:
            pair[0].wake()
            pair[1].wake()


class JitteryNetwork(MemoryNetwork):
    """That of a whole simulated cluster: pieces take up to twice the latency, so that connections overtake each other.

    What is under way wakes its receiver by the clock, which costs less than a deadline of each receiver.
    """

    def __init__(self, chance: random.Random) -> None:
        super().__init__(latency_s=JITTERY_LATENCY_S)
        self._chance = chance

    def latency(self, source: str, target: str) -> float:
        return super().latency(source, target) * 2 * self._chance.random()

    def announce(self, pipe: Pipe, arrival: float) -> None:
        virtual().at(arrival, pipe.wake)

    async def rest(self, lot: trio.lowlevel.ParkingLot, arrival: float) -> None:
        await lot.park()
