"""The client: a pool of connections, made at the first call and made anew when they broke.

There is one for an address and the object that is called there, since a handshake names it: daemons have one each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import structlog
import trio

from dfs import errors, limits
from dfs.checksum import Buffer
from dfs.keys import Key
from dfs.rpc import serialize, versions
from dfs.rpc.channel import Rest
from dfs.rpc.connection import Connection, Exchange
from dfs.rpc.handover import Inbox
from dfs.rpc.network import Network

log = structlog.get_logger(__name__)

_Place = tuple[str, str]
"""What calls are made of: an address, and the object there."""


class PoolStatistics(NamedTuple):
    """Counters since the start, but `connections` and `calls_in_flight`, which are now."""

    connections: int
    connections_made: int
    calls: int
    calls_in_flight: int


class _Attempt:
    """A connection being made, for which any number of callers wait."""

    def __init__(self) -> None:
        self.finished = trio.Event()
        self.connection: Connection | None = None
        self.error: errors.RpcError | None = None


class Pool:
    """Makes calls. An async context manager, which owns the tasks of its connections.

    With a `key` both ends of every connection prove that they know it: a server that does not is `Refused`. `spoken`
    are the versions of our protocol that it offers. At `POOL_CONNECTIONS_MAX` the connection that was idle for longest
    is closed. Everything here belongs to one trio loop.
    """

    def __init__(
        self,
        network: Network,
        *,
        key: Key | None = None,
        spoken: versions.Versions = versions.SPOKEN,
    ) -> None:
        self._network = network
        self.handshake: dict[str, Any] = {}
        """Sent with each new connection, beside the versions; may be changed while the pool is in use."""
        self._key = key
        self._leaving: set[Connection] = set()
        """Made with a key of before: they end when the last of their calls has."""
        self._spoken = spoken
        self._connections: dict[_Place, Connection] = {}
        self._attempts: dict[_Place, _Attempt] = {}
        self._nursery: trio.Nursery | None = None
        self._nursery_manager = trio.open_nursery()
        self._alarm = trio.CancelScope()
        self._made = 0
        self._calls = 0

    @property
    def key(self) -> Key | None:
        """The key that new connections are made with."""
        return self._key

    def change_key(self, key: Key) -> None:
        """Have all calls from now on go over connections made with another key; those under way end as they began."""
        self._key = key
        leaving, self._connections = self._connections, {}
        for connection in leaving.values():
            self._leaving.add(connection)
            connection.close_when_idle()

    def inbox(self) -> Inbox | None:
        """As `Network.inbox`: for files that servers of this host are asked to hand over."""
        return self._network.inbox()

    async def __aenter__(self) -> Self:
        self._nursery = await self._nursery_manager.__aenter__()
        self._nursery.start_soon(self._watch, name="deadlines of calls")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._nursery is not None
        self._nursery.cancel_scope.cancel()
        # Not given the body's exception, which would come out wrapped in a group: it propagates by itself.
        await self._nursery_manager.__aexit__(None, None, None)
        self._nursery = None

    async def call(
        self,
        address: str,
        object_id: str,
        method: str,
        *args: Any,
        timeout_s: float = limits.CALL_TIMEOUT_S,
    ) -> Any:
        """Call a method and return its result; see `call_with_data`."""
        result, _ = await self.call_with_data(address, object_id, method, *args, timeout_s=timeout_s)
        return result

    async def call_with_data(
        self,
        address: str,
        object_id: str,
        method: str,
        *args: Any,
        data: Sequence[Buffer] | None = None,
        into: memoryview | None = None,
        sent: Callable[[], None] | None = None,
        timeout_s: float = limits.CALL_TIMEOUT_S,
    ) -> tuple[Any, memoryview | None]:
        """Call a method; return its result and the bytes that came with it, None if none came.

        `data` goes along as bytes and must not change until the call returns. The answer's bytes are received
        into the start of `into`, and a view of them is returned; more of them than fit is a ProtocolViolation. `sent`
        is called when all is in the socket's hands, if it comes to that.
        Without `into` they are put into new memory. `into` belongs to the call until it returns, and nothing
        is written to it later; after an error its content is undefined.

        Raises Unreachable (the call did not happen), ConnectionLost and DeadlineExceeded (it may have happened),
        Refused, and what the method raised. A call that fails or is cancelled leaves the connection to others.
        """
        self._calls += 1
        payload = serialize.dumps_call(object_id, method, args)
        now = trio.current_time()
        exchange = Exchange(into, now + timeout_s)
        place = address, object_id
        connection = self._connections.get(place)
        rest: Rest | None = None
        if connection is not None and not connection.takes_turns and not connection.closed:
            connection.last_used = now
            rest = connection.start(exchange, payload, data)
            if rest is None:
                if sent is not None:
                    sent()
                # The common case: all is sent, and the watch sees to the deadline.
                if exchange.deadline < self._alarm.deadline:
                    self._alarm.deadline = exchange.deadline
                await connection.wait(exchange)
        if not exchange.done and not exchange.expired:
            connection = await self._call_slowly(place, exchange, payload, data, rest, sent)
        if exchange.done:
            return exchange.result, exchange.data
        raise self._out_of_time(connection, exchange, f"{object_id}.{method} at {address}", timeout_s)

    async def _call_slowly(
        self,
        place: _Place,
        exchange: Exchange,
        payload: bytes,
        data: Sequence[Buffer] | None,
        rest: Rest | None,
        sent: Callable[[], None] | None,
    ) -> Connection | None:
        """Do what is left of a call that must wait before it is sent: for a connection, its turn, or the socket.

        Returns the connection if there is one; the exchange is not done when time is up.
        """
        connection = self._connections.get(place)
        with trio.CancelScope(deadline=exchange.deadline):
            for _ in range(2):  # the first may have been closed for a newer key before we had it
                if connection is None or connection.closed:
                    connection = await self._connect(place)
            assert connection is not None
            if rest is None:
                if connection.takes_turns:
                    await connection.acquire_turn()
                connection.last_used = trio.current_time()
                rest = connection.start(exchange, payload, data)
            if rest is not None:
                await connection.finish_sending(exchange, rest)
            if sent is not None:
                sent()
            await connection.wait(exchange)
        return connection

    async def _watch(self) -> None:
        """Wake calls whose deadline has come. The alarm is never later than the earliest deadline."""
        while True:
            with self._alarm:
                await trio.sleep_forever()
            now = trio.current_time()
            connections = [*self._connections.values(), *self._leaving]
            earliest = min((connection.expire(now) for connection in connections), default=math.inf)
            self._alarm = trio.CancelScope(deadline=earliest)

    async def version(self, address: str, object_id: str) -> int:
        """The version of our protocol that is spoken with `address`, 0 with a stock peer. Connects if need be.

        For a call that has another form in the version before. Raises an RpcError.
        """
        place = address, object_id
        connection = self._connections.get(place)
        if connection is None or connection.closed:
            connection = await self._connect(place)
        return connection.version

    def said(self, address: str, object_id: str) -> Mapping[str, Any]:
        """What the server of an object says of itself in its handshake; nothing while there is no connection with it.

        For what newer servers can do and older ones do not mention.
        """
        connection = self._connections.get((address, object_id))
        return {} if connection is None else connection.said

    def statistics(self) -> PoolStatistics:
        return PoolStatistics(
            connections=len(self._connections),
            connections_made=self._made,
            calls=self._calls,
            calls_in_flight=sum(connection.calls_in_flight for connection in self._connections.values()),
        )

    def _out_of_time(
        self, connection: Connection | None, exchange: Exchange, what: str, timeout_s: float
    ) -> errors.RpcError:
        if connection is not None and exchange.sent:
            connection.probe()
            return errors.DeadlineExceeded(f"{what}: no answer within {timeout_s:g} s")
        return errors.Unreachable(f"{what}: could not be sent within {timeout_s:g} s")

    # --- connecting -----------------------------------------------------------------------------------------

    async def _connect(self, place: _Place) -> Connection:
        """The connection to a place; an attempt under way is shared. Raises an RpcError."""
        if self._nursery is None:
            raise RuntimeError("the pool is used outside of its `async with`")
        attempt = self._attempts.get(place)
        if attempt is None:
            attempt = self._attempts[place] = _Attempt()
            self._nursery.start_soon(self._run, place, attempt, name=f"connection to {place[0]}")
        await attempt.finished.wait()
        if attempt.error is not None:
            raise _copy(attempt.error)
        assert attempt.connection is not None
        return attempt.connection

    async def _run(self, place: _Place, attempt: _Attempt) -> None:
        """Connect, say so to those who wait, and receive until the connection ends."""
        address = place[0]
        try:
            connection = attempt.connection = await self._make(place)
        except errors.DfsError as error:
            attempt.error = _as_rpc_error(error)
            return
        except Exception:
            log.exception("connecting failed unexpectedly", address=address)
            attempt.error = errors.Unreachable(f"connecting to {address} failed; the log says why")
            return
        finally:
            del self._attempts[place]
            if attempt.connection is None and attempt.error is None:
                attempt.error = errors.Unreachable(f"the pool was closed while connecting to {address}")
            attempt.finished.set()
        try:
            await connection.run()
        finally:
            self._leaving.discard(connection)
            if self._connections.get(place) is connection:
                del self._connections[place]

    async def _make(self, place: _Place) -> Connection:
        """A connection made with the present key, also where that changed meanwhile."""
        while True:
            key = self._key
            connection = await self._greeted(place, key)
            if self._key is key:
                self._connections[place] = connection
                self._made += 1
                return connection
            await connection.aclose("a newer key is used")

    async def _greeted(self, place: _Place, key: Key | None) -> Connection:
        address, object_id = place
        assert self._nursery is not None
        self._make_room()
        stream = await self._network.connect(address, limits.CONNECT_TIMEOUT_S)
        connection = Connection(address, stream, self._nursery)
        try:
            with trio.move_on_after(limits.HANDSHAKE_TIMEOUT_S) as scope:
                await connection.greet(self.handshake, key, self._spoken, object_id)
            if scope.cancelled_caught:
                raise errors.Unreachable(
                    f"{address} did not greet within {limits.HANDSHAKE_TIMEOUT_S:g} s: is it a dfs daemon?"
                )
        except BaseException:
            with trio.CancelScope(shield=True):
                await connection.aclose("no greeting")
            raise
        return connection

    def _make_room(self) -> None:
        """Close the connection that was idle for longest when there are too many."""
        assert self._nursery is not None
        if len(self._connections) + len(self._attempts) <= limits.POOL_CONNECTIONS_MAX:
            return
        idle = [(place, connection) for place, connection in self._connections.items() if connection.idle]
        if not idle:
            raise errors.Unreachable(f"all {limits.POOL_CONNECTIONS_MAX} connections of the pool are in use")
        place, oldest = min(idle, key=lambda one: one[1].last_used)
        del self._connections[place]
        oldest.closed = True
        self._nursery.start_soon(oldest.aclose, "closed to make room for another")


def _as_rpc_error(error: errors.DfsError) -> errors.RpcError:
    """What a failed attempt means to the calls that wait for it: none of them was sent."""
    if isinstance(error, errors.Refused | errors.Unreachable | errors.ProtocolViolation):
        return error
    return errors.Unreachable(error.message)


def _copy(error: errors.RpcError) -> errors.RpcError:
    """A new exception for each waiter: a shared one would collect the tracebacks of all."""
    return type(error)(error.message)
