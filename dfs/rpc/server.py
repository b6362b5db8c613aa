"""The server: objects with exposed methods, called over Pyro5's protocol by our clients and by stock proxies.

A task per connection reads. Its first message is the handshake, which has `limits.HANDSHAKE_TIMEOUT_S`. Then each
call of a plain method is run and answered by the reader itself, which costs no task switch; an async method gets
a task, and answers when it is done, so that answers come in any order. At `limits.CALLS_IN_FLIGHT_MAX` of
them the reader stops reading, and more calls wait in the socket; likewise at ONEWAY_CALLS_MAX oneway calls of all
connections, of which each party has its share. The bytes that come with calls, and arguments that are long, lie in
buffers lent by two pools until the call is done; their bounds hold for all connections together.

With a `gate` nobody is served who has not proved that he knows a key (`dfs.rpc.authentication`), and `authorize` says
which calls his role may make. Connections that have not greeted yet are few: the oldest makes room for a new one, so
that strangers who connect and say nothing keep nobody out; and what they say is short. Who has a key takes turns with
others (`dfs.rpc.rounds`), however many connections he has: these are at most `limits.CONNECTIONS_PER_HOLDER_MAX` from
one host.

What must hold: whatever a peer sends, and however slowly it takes what it gets, the worst that happens is that its
connection is closed, with one line in the log, and with one a second for all who have shown no key. An error that a
method raises on purpose travels to the caller; any other one is logged here with its traceback, and the caller gets a
RemoteFault without internals. When a peer closes, its calls are cancelled, except oneway calls, whose caller was never
going to wait.
"""

from __future__ import annotations

import errno
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import structlog
import trio

from dfs import errors, limits
from dfs.checksum import Buffer
from dfs.keys import KeyId
from dfs.room import Room
from dfs.rpc import authentication, faults, serialize, versions
from dfs.rpc.buffers import BufferPool, Lease
from dfs.rpc.channel import Channel, cost_of
from dfs.rpc.network import Listener, Network, Stream
from dfs.rpc.objects import Call, Later, Method, Peer, Registry, WithData, expose
from dfs.rpc.protocol import (
    CONNECT,
    CONNECT_FAIL,
    CONNECT_OK,
    DAEMON_OBJECT,
    FLAG_BATCH,
    FLAG_COMPRESSED,
    FLAG_EXCEPTION,
    FLAG_KEEP_SERIALIZED,
    FLAG_ONEWAY,
    INVOKE,
    JSON,
    PING,
    RESULT,
    Message,
    Wanted,
    encode,
    inflate,
)
from dfs.rpc.rounds import Rounds

_OUT_OF_DESCRIPTORS: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_BATCH_CALL_FIELDS: Final = 3

log = structlog.get_logger(__name__)

Greet = Callable[[Peer, object], object]
Authorize = Callable[[Peer, str, Sequence[Any]], None]
Translate = Callable[[Exception], errors.DfsError | None]


class ServerStatistics(NamedTuple):
    """Counters since the start, but `connections`, `calls_in_work` and `data_bytes_in_work`, which are now."""

    connections: int
    connections_accepted: int
    connections_refused: int
    handshakes_refused: int
    calls: int
    calls_in_work: int
    calls_failed: int
    violations: int
    data_bytes_in_work: int


class Server:
    """Serves registered objects at any number of addresses.

    `greet(peer, handshake)` sees a client's handshake and returns ours: a dict or None for a dfs client (which
    gets it with the protocol's version), anything that serializes for a stock one (None: "hello"). It refuses by
    raising a DfsError, whose message the client sees. `gate` admits those who prove that they know a key;
    `authorize(peer, method, arguments)` raises a DfsError for a call that the peer may not make. `parted(peer)` is
    called when a connection has ended. `translate(error)` makes a DfsError of what a method has raised that is none,
    None of a bug. `spoken`: the versions of our protocol in which it answers. Everything here belongs to the one trio
    loop.
    """

    def __init__(
        self,
        network: Network,
        *,
        greet: Greet | None = None,
        gate: authentication.Gate | None = None,
        authorize: Authorize | None = None,
        parted: Callable[[Peer], None] | None = None,
        translate: Translate | None = None,
        spoken: versions.Versions = versions.SPOKEN,
    ) -> None:
        self._network = network
        self._greet = greet
        self._gate = gate
        self._authorize = authorize
        self._parted = parted
        self._translate = translate
        self._spoken = spoken
        self._registry = Registry()
        self._registry.add(_DaemonObject(self, self._registry), DAEMON_OBJECT)
        self._buffers = BufferPool()
        self._payloads = BufferPool(limits.PAYLOADS_IN_WORK_MAX_BYTES, 0)
        """For what is long besides DATA. Who has one waits for no other buffer."""
        self._rounds = Rounds()
        self._oneways = Room(limits.ONEWAY_CALLS_MAX)
        self._connections: dict[_Connection, None] = {}  # in the order of their arrival
        self._strangers: dict[_Connection, None] = {}  # those of them that have not greeted yet
        self._handshakes_refused = self._strangers_not_logged = 0
        self._stranger_logged_at = -math.inf
        self._bugs_shown: set[type[Exception]] = set()  # by strangers: each with its traceback once
        self._accepting: set[trio.CancelScope] = set()
        self._closing = False
        self._idle = trio.Event()  # set when the last connection has gone while closing
        self._accepted = self._refused = self._calls = self._failed = self._violations = self._in_work = 0
        self.addresses: list[str] = []
        """Where it serves, as bound."""

    def register(self, obj: object, object_id: str) -> None:
        """Serve the exposed methods of `obj` as `object_id`. Raises ValueError if it has none or the id is taken."""
        self._registry.add(obj, object_id)

    async def serve(self, address: str, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve at `address` until cancelled, or until `aclose_gracefully` is done; starts with the bound address.

        Raises Unreachable if nothing can listen there.
        """
        listener = await self._network.listen(address)
        self.addresses.append(listener.address)
        try:
            async with trio.open_nursery() as rounds:
                rounds.start_soon(self._rounds.run)
                async with trio.open_nursery() as nursery:
                    task_status.started(listener.address)
                    await self._accept_until_closing(listener, nursery)
                    await _close_shielded(listener)
                rounds.cancel_scope.cancel()
        finally:
            self.addresses.remove(listener.address)
            await _close_shielded(listener)

    async def aclose_gracefully(self, timeout_s: float) -> None:
        """Stop accepting and reading, let calls in work finish for up to `timeout_s`, then close what is left."""
        self._closing = True
        for accepting in self._accepting:
            accepting.cancel()
        for connection in self._connections:
            connection.drain()
        if self._connections:
            with trio.move_on_after(timeout_s):
                await self._idle.wait()
        for connection in self._connections:
            connection.cancel()

    def peers(self) -> list[Peer]:
        """Who is connected and has greeted."""
        return [connection.peer for connection in self._connections if connection not in self._strangers]

    def close_connections(self, of: Callable[[Peer], bool]) -> int:
        """Close, at once, the connections of those peers for whom `of` says so; how many."""
        found = [connection for connection in self._connections if of(connection.peer)]
        for connection in found:
            connection.cancel()
        return len(found)

    def statistics(self) -> ServerStatistics:
        return ServerStatistics(
            connections=len(self._connections),
            connections_accepted=self._accepted,
            connections_refused=self._refused,
            handshakes_refused=self._handshakes_refused,
            calls=self._calls,
            calls_in_work=self._in_work,
            calls_failed=self._failed,
            violations=self._violations,
            data_bytes_in_work=self._buffers.lent_bytes + self._payloads.lent_bytes,
        )

    async def _accept_until_closing(self, listener: Listener, nursery: trio.Nursery) -> None:
        with trio.CancelScope() as accepting:
            self._accepting.add(accepting)
            if self._closing:
                accepting.cancel()
            await self._accept(listener, nursery)
        self._accepting.discard(accepting)

    async def _accept(self, listener: Listener, nursery: trio.Nursery) -> None:
        for number in itertools.count(1):
            stream = await self._accept_one(listener)
            if len(self._strangers) >= limits.HANDSHAKES_AT_ONCE_MAX:
                oldest = next(iter(self._strangers))
                del self._strangers[oldest]
                oldest.cancel()
            if len(self._connections) >= limits.CONNECTIONS_MAX:
                self._refused += 1
                reason = f"there are {limits.CONNECTIONS_MAX}"
                self._log_stranger(log.warning, "connection refused: too many", stream.peer, reason)
                await stream.aclose()
                continue
            self._accepted += 1
            connection = _Connection(self, stream, nursery)
            self._connections[connection] = self._strangers[connection] = None
            nursery.start_soon(self._serve_connection, connection, name=f"connection {number} {stream.peer}")

    async def _accept_one(self, listener: Listener) -> Stream:
        while True:
            try:
                return await listener.accept()
            except OSError as error:
                if error.errno not in _OUT_OF_DESCRIPTORS:
                    raise
                log.warning("cannot accept", address=listener.address, error=str(error))
                # Not a condition of ours: descriptors come back when other connections end.
                await trio.sleep(limits.ACCEPT_PAUSE_S)

    def _check_share(self, peer: Peer, key: KeyId) -> None:
        """Whether one more connection may be made with a key from the peer's host. Raises `Busy`."""
        party = peer.party._replace(holder=key.holder)
        others = sum(other.peer.party == party for other in self._connections)
        if others >= limits.CONNECTIONS_PER_HOLDER_MAX:
            host = party.host or "this host"
            raise errors.Busy(f"{key} has {others} connections from {host} already: close some, or use another key")

    def _note_refusal(self, peer: Peer, reason: str) -> None:
        self._handshakes_refused += 1
        self._log_stranger(log.warning, "handshake refused", peer.address, reason)

    def _note_violation(self, peer: Peer, reason: str) -> None:
        self._violations += 1
        event = "connection closed: protocol violation"
        if peer.key is None:
            self._log_stranger(log.info, event, peer.address, reason)
        else:
            log.info(event, peer=peer.address, reason=reason)

    def _note_bug(self, peer: Peer, error: Exception) -> None:
        """A handshake that met a bug of ours is refused like others, so that nobody fills the log with tracebacks."""
        if type(error) not in self._bugs_shown:
            self._bugs_shown.add(type(error))
            log.error("handshake failed", peer=peer.address, exc_info=error)
        self._note_refusal(peer, f"it failed unexpectedly: {type(error).__name__}")

    def _log_stranger(self, write: Callable[..., None], event: str, address: str, reason: str) -> None:
        """Log what somebody did who has shown no key, unless something of the kind was logged a moment ago."""
        now = trio.current_time()
        if now < self._stranger_logged_at + limits.STRANGERS_LOG_PERIOD_S:
            self._strangers_not_logged += 1
            return
        write(event, peer=address, reason=reason, others=self._strangers_not_logged)
        self._stranger_logged_at, self._strangers_not_logged = now, 0

    async def _serve_connection(self, connection: _Connection) -> None:
        try:
            await connection.run()
        except errors.ProtocolViolation as error:
            self._note_violation(connection.peer, error.message)
        except errors.RpcError as error:
            log.debug("connection ended", peer=connection.peer.address, error=str(error))
        except Exception:
            log.exception("connection closed: unexpected error", peer=connection.peer.address)
        finally:
            with trio.CancelScope(shield=True):
                await connection.channel.aclose("the server closed it")
            self._connections.pop(connection, None)
            self._strangers.pop(connection, None)
            connection.peer.has_parted = True
            if self._parted is not None:
                self._parted(connection.peer)
            if self._closing and not self._connections:
                self._idle.set()


class _Lent:
    """The buffers in which a call came, where the connection's own was too small: they count until it is done."""

    __slots__ = ("_leases", "view")

    def __init__(self) -> None:
        self._leases: list[Lease] = []
        self.view: memoryview | None = None
        """Its DATA."""

    def add(self, lease: Lease, *, is_data: bool) -> memoryview:
        self._leases.append(lease)
        if is_data:
            self.view = lease.view
        return lease.view

    def release(self) -> None:
        for lease in self._leases:
            lease.release()


class _Request(NamedTuple):
    """A call that was read: what to do, and how to answer."""

    seq: int
    serializer: int
    flags: int
    lent: _Lent | None
    method: Method | None  # None: a batch
    named: serialize.CallRequest


class _Connection:
    """One client.

    The reader owns `_lent`; `_slots` counts the calls in tasks; `_receiving` is true while the reader may be
    stopped without harm to a call.
    """

    _ids = itertools.count(1)

    def __init__(self, server: Server, stream: Stream, oneway_nursery: trio.Nursery) -> None:
        self.channel = Channel(stream)
        self.channel.payload_max_bytes = limits.HANDSHAKE_MAX_BYTES
        self.peer = Peer(stream.peer, next(self._ids))
        self._server = server
        self._oneway_nursery = oneway_nursery
        self._nursery = oneway_nursery
        self._slots = trio.Semaphore(limits.CALLS_IN_FLIGHT_MAX)
        self._whole = trio.CancelScope()
        self._reading = trio.CancelScope()
        self._receiving = False
        self._draining = False
        self._lent: _Lent | None = None

    def drain(self) -> None:
        """Read no more; the connection ends when its calls are answered."""
        self._draining = True
        if self._receiving:
            self._reading.cancel()

    def cancel(self) -> None:
        self._whole.cancel()

    async def run(self) -> None:
        """Serve until the peer closes, violates the protocol, or the server drains."""
        failure: errors.RpcError | None = None
        with self._whole:
            async with trio.open_nursery() as self._nursery:
                try:
                    with self._reading:
                        if await self._greeted():
                            await self._read_calls()
                except errors.RpcError as error:
                    failure = error
                finally:
                    self._give_back()
                if failure is not None or not self._draining:
                    self._nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    # --- the handshake --------------------------------------------------------------------------------------

    async def _greeted(self) -> bool:
        with trio.move_on_after(limits.HANDSHAKE_TIMEOUT_S) as scope:
            is_welcome = await self._secured()
            if is_welcome:
                message = await self._receive_greeting()
                is_welcome = message is not None and await self._handshake(message)
            self._server._strangers.pop(self, None)
            self.channel.payload_max_bytes = limits.MESSAGE_MAX_BYTES
            return is_welcome
        assert scope.cancelled_caught
        raise errors.ProtocolViolation(f"no handshake within {limits.HANDSHAKE_TIMEOUT_S:g} s")

    async def _secured(self) -> bool:
        """Whether the connection is what the network asks for. To whom it is not TLS itself has said so."""
        self._receiving = True
        try:
            await self.channel.stream.secure()
        except errors.Refused as error:
            self._server._note_refusal(self.peer, error.message)
            return False
        finally:
            self._receiving = False
        return True

    async def _receive_greeting(self) -> Message | None:
        """As `_receive`, of who may be anybody: he takes turns with others like him, and his messages are short."""
        message = await self._receive()
        if message is not None:
            if message.flags & FLAG_COMPRESSED:
                raise errors.ProtocolViolation("a handshake that is compressed")
            cost = cost_of(message.payload_bytes, message.annotations_bytes)
            await self._server._rounds.wait(self.peer.party, self.peer.id, cost)
        return message

    async def _handshake(self, message: Message) -> bool:
        """Answer the client's first message; True if it may go on."""
        if message.kind != CONNECT:
            raise errors.ProtocolViolation("the first message is no handshake")
        serializer = message.serializer if serialize.supported(message.serializer) else JSON
        try:
            kind, answer = CONNECT_OK, await self._greeting(message)
        except errors.ConnectionLost:
            raise
        except (errors.DfsError, faults.PyroError) as error:
            kind, answer = CONNECT_FAIL, faults.sendable(str(error))
            self._server._note_refusal(self.peer, answer)
        except Exception as error:  # noqa: BLE001 - the boundary of a handshake; _note_bug logs
            kind, answer = CONNECT_FAIL, "the server failed to answer the handshake; its log says why"
            self._server._note_bug(self.peer, error)
        if kind == CONNECT_FAIL and self._server._gate is not None:
            await trio.sleep(limits.HANDSHAKE_FAILURE_DELAY_S)
        buffers, length = encode(kind, 0, message.seq, serializer, serialize.dumps(serializer, answer))
        await self.channel.send(buffers, length, self._nursery)
        return kind == CONNECT_OK

    async def _greeting(self, message: Message) -> Any:
        """Our half of the handshake. Raises to refuse."""
        received = bytes(self._payload(message))
        sent = serialize.loads_handshake(message.serializer, received)
        if not isinstance(sent, dict) or "handshake" not in sent or "object" not in sent:
            raise errors.ProtocolViolation("a handshake is a map of 'handshake' and 'object'")
        handshake = sent["handshake"]
        if isinstance(handshake, dict) and "dfs" in handshake:
            self.peer.version = versions.choose(self._server._spoken, handshake)
            self.peer.is_dfs = True
        self.peer.handshake = handshake
        proof = await self._proof(message, handshake, received)
        metadata = self._server._registry.metadata(str(sent["object"]))
        if metadata is None:
            raise faults.DaemonError("unknown object")
        greeting = self._server._greet(self.peer, handshake) if self._server._greet else None
        if self.peer.is_dfs:
            assert greeting is None or isinstance(greeting, dict), "greet() returns a dict to a dfs client"
            version = versions.answer(self.peer.version)
            return {"handshake": {**version, **(greeting or {}), **proof}, "meta": metadata}
        return {"handshake": "hello" if greeting is None else greeting, "meta": metadata}

    async def _proof(self, message: Message, handshake: Any, received: bytes) -> Mapping[str, Any]:
        """Have the client prove that it knows a key, and return our proof to one of ours. Raises to refuse."""
        gate = self._server._gate
        if gate is None:
            return {}
        if not self.peer.is_dfs:
            key = gate.check_stock(handshake)
            self._refuse_other_holder(key)
            self._server._check_share(self.peer, key)
            self.peer.key = key
            return {}
        if handshake.get("key") is None:
            raise errors.NotPermitted("this daemon admits nobody without a key")
        challenge = {"handshake": {**versions.answer(self.peer.version), **gate.challenge()}}
        payload = serialize.dumps(message.serializer, challenge)
        buffers, length = encode(CONNECT_OK, 0, message.seq, message.serializer, payload)
        await self.channel.send(buffers, length, self._nursery)
        answer = await self._receive_greeting()
        if answer is None:
            raise errors.ConnectionLost(f"{self.peer.address} closed the connection instead of giving a proof")
        if answer.kind != CONNECT or answer.serializer != message.serializer:
            raise errors.ProtocolViolation("the second message is no proof")
        tree = serialize.loads_handshake(answer.serializer, self._payload(answer))
        said = tree.get("handshake") if isinstance(tree, dict) else None
        proof = said.get("proof") if isinstance(said, dict) else None
        key, ours = gate.check(handshake, proof, received, payload, self.channel.stream.binding)
        self._refuse_other_holder(key)
        self._server._check_share(self.peer, key)
        self.peer.key = key
        return {"proof": ours}

    def _refuse_other_holder(self, key: KeyId) -> None:
        """With TLS the key and the certificate are one holder's: neither is of use to who has stolen only it."""
        holder = self.channel.stream.holder
        if holder and holder != f"{key.role}:{key.name}":
            raise errors.NotPermitted(f"the key of {key} came with the certificate of {holder.replace(':', ' ', 1)}")

    # --- reading --------------------------------------------------------------------------------------------

    async def _receive(self) -> Message | None:
        """The next message, what it came in in `_lent`; None when the peer has closed, or the server drains."""
        channel = self.channel
        while not self._draining:
            self._receiving = True
            try:
                event = await channel.receive()
            finally:
                self._receiving = False
            if not isinstance(event, Wanted):
                return event
            await self._give(event)
        return None

    async def _give(self, wanted: Wanted) -> None:
        if wanted.message.kind != INVOKE or self in self._server._strangers:
            if not wanted.is_data:
                raise errors.ProtocolViolation("a message that is too long for its kind")
            self.channel.give(None)
            return
        if self._lent is None:
            self._lent = _Lent()
        pool = self._server._buffers if wanted.is_data else self._server._payloads
        lease = await pool.lend(wanted.length, self.peer.party, self.peer.id)
        self.channel.give(self._lent.add(lease, is_data=wanted.is_data))

    def _payload(self, message: Message) -> memoryview | bytes:
        """What a message says. Of a compressed one it is known only now what it costs."""
        payload = message.payload
        assert payload is not None, "the server drops no payload of a message it reads"
        if not message.flags & FLAG_COMPRESSED:
            return payload
        plain = inflate(payload)
        more = cost_of(len(plain), 0) - cost_of(len(payload), 0)
        self._server._rounds.charge(self.peer.party, max(0, more))
        return plain

    async def _read_calls(self) -> None:
        while True:
            message = await self._receive()
            if message is None:
                return
            cost = cost_of(message.payload_bytes, message.annotations_bytes)
            await self._server._rounds.wait(self.peer.party, self.peer.id, cost)
            if message.kind == INVOKE:
                await self._on_invoke(message)
            elif message.kind == PING:
                await self._send(*encode(PING, 0, message.seq, message.serializer, b"pong"))
            else:
                raise errors.ProtocolViolation(f"a message of kind {message.kind} from a client")

    def _give_back(self) -> None:
        lent, self._lent = self._lent, None
        if lent is not None:
            lent.release()

    async def _on_invoke(self, message: Message) -> None:
        """Run a plain method and answer, or start the task of another."""
        server = self._server
        server._calls += 1
        lent, self._lent = self._lent, None
        try:
            request = self._request(message, lent)
        except (errors.DfsError, faults.PyroError) as error:
            if lent is not None:
                lent.release()
            await self._answer_error(message.seq, message.serializer, message.flags, error)
            return
        method = request.method
        if method is None or method.is_async:
            await self._start(request)
            return
        server._in_work += 1
        try:
            await self._perform(request, method)
        finally:
            server._in_work -= 1

    def _request(self, message: Message, lent: _Lent | None) -> _Request:
        """Read a call and find its method. Raises what the caller is to get."""
        if message.flags & FLAG_KEEP_SERIALIZED:
            raise errors.NotSupported("blobs that stay serialized are not accepted: send the bytes as DATA")
        named = serialize.loads_call(message.serializer, self._payload(message))
        if message.flags & FLAG_BATCH:
            method = None
            if self._server._registry.metadata(named.object_id) is None:
                raise faults.DaemonError("unknown object")
        else:
            method = self._server._registry.find(named.object_id, named.method)
            if method is None:
                raise faults.DaemonError("unknown object")
            self._authorize(named)
        return _Request(message.seq, message.serializer, message.flags, lent, method, named)

    def _authorize(self, named: serialize.CallRequest) -> None:
        """Raises what `authorize` says. What every daemon tells of itself may be asked by all who were admitted."""
        authorize = self._server._authorize
        if authorize is not None and named.object_id != DAEMON_OBJECT:
            authorize(self.peer, named.method, named.args)

    async def _start(self, request: _Request) -> None:
        try:
            await self._take_slot(request.flags)
        except BaseException:
            if request.lent is not None:
                request.lent.release()
            raise
        self._server._in_work += 1
        nursery = self._oneway_nursery if request.flags & FLAG_ONEWAY else self._nursery
        nursery.start_soon(self._run_task, request, name=request.named.method)

    async def _take_slot(self, flags: int) -> None:
        """Oneway calls stay when their connection has gone: they need room that all connections share."""
        if self._slots.value:
            self._slots.acquire_nowait()
        else:
            await self._slots.acquire()
        if flags & FLAG_ONEWAY:
            try:
                await self._server._oneways.enter(self.peer.party, self.peer.id, 1)
            except BaseException:
                self._slots.release()
                raise

    async def _run_task(self, request: _Request) -> None:
        try:
            if request.method is None:
                await self._perform_batch(request)
            else:
                await self._perform(request, request.method)
        except errors.RpcError as error:
            log.debug("an answer could not be sent", peer=self.peer.address, error=str(error))
        finally:
            self._server._in_work -= 1
            self._slots.release()
            if request.flags & FLAG_ONEWAY:
                self._server._oneways.leave(self.peer.party, self.peer.id, 1)

    # --- calls ----------------------------------------------------------------------------------------------

    async def _perform(self, request: _Request, method: Method) -> None:
        """Run one method and answer."""
        lent = request.lent
        fault: Exception | None = None
        result: Any = None
        try:
            if self._whole.cancel_called:  # it was closed when this was about to begin
                await trio.lowlevel.checkpoint()
            result = method.call(
                Call(self.peer, lent.view if lent is not None else None),
                request.named.args,
                request.named.kwargs,
            )
            if method.is_async:
                result = await result
            elif isinstance(result, Later):
                waiting = Method(result.work, method.name, is_async=True, takes_call=False)
                named = request.named._replace(args=(), kwargs={})
                await self._start(request._replace(lent=None, method=waiting, named=named))
                return
        except Exception as error:  # noqa: BLE001 - the boundary of a request; _fault logs
            fault = self._fault(method, request.named, error)
        finally:
            if lent is not None:
                lent.release()
        if fault is not None:
            await self._answer_error(request.seq, request.serializer, request.flags, fault)
        elif isinstance(result, WithData):
            await self._answer_with_data(request, method.name, result)
        else:
            await self._answer(request, method.name, result, None)

    async def _perform_batch(self, request: _Request) -> None:
        """Run the calls of a batch in order, up to the first that fails; the answer is the list of results.

        It ends, with an error, where these are more than one message takes: they are all in memory until then.
        """
        results: list[Any] = []
        length = 0
        call = Call(self.peer, request.lent.view if request.lent is not None else None)
        try:
            for entry in request.named.args:
                await self._server._rounds.wait(self.peer.party, self.peer.id, 1)
                result = await self._perform_in_batch(request.named.object_id, call, entry)
                results.append(result)
                length += self._charge_result(request.serializer, result)
                is_failed = isinstance(result, dict) and result.get("__class__") == "Pyro5.core._ExceptionWrapper"
                if is_failed or length > limits.MESSAGE_MAX_BYTES:
                    break
        finally:
            if request.lent is not None:
                request.lent.release()
        if length > limits.MESSAGE_MAX_BYTES:
            fault = errors.ArgumentTooLarge(
                f"the first {len(results)} results of a batch have {length} bytes, over the limit of"
                f" {limits.MESSAGE_MAX_BYTES} for all: make fewer calls in one batch"
            )
            await self._answer_error(request.seq, request.serializer, request.flags, fault)
            return
        await self._answer(request, f"{request.named.object_id}.<batch>", results, None)

    def _charge_result(self, serializer: int, result: Any) -> int:
        """Bytes of a result in a batch, charged as of a call by itself: to write it a second time is work as well."""
        try:
            length = len(serialize.dumps(serializer, result))
        except (TypeError, ValueError, OverflowError):
            return 0  # nor can the answer be sent, which says so
        self._server._rounds.charge(self.peer.party, cost_of(length, 0) - 1)
        return length

    async def _perform_in_batch(self, object_id: str, call: Call, entry: Any) -> Any:
        try:
            if not isinstance(entry, list | tuple) or len(entry) != _BATCH_CALL_FIELDS:
                raise errors.InvalidArgument("a call in a batch is not (method, arguments, named arguments)")
            named = serialize.CallRequest(object_id, str(entry[0]), entry[1], entry[2])
            if not isinstance(named.args, list | tuple) or not isinstance(named.kwargs, dict):
                raise errors.InvalidArgument("a call in a batch has arguments that are no list or no map")
            method = self._server._registry.find(object_id, named.method)
            assert method is not None, "the batch was checked for its object"
            self._authorize(named)
        except errors.DfsError as error:
            return faults.in_batch(faults.to_wire(error))
        try:
            result = method.call(call, named.args, named.kwargs)
            if method.is_async:
                result = await result
            elif isinstance(result, Later):
                result = await result.work()
        except Exception as error:  # noqa: BLE001 - the boundary of a request; _fault logs
            return faults.in_batch(faults.to_wire(self._fault(method, named, error)))
        if isinstance(result, WithData):
            if result.done is not None:
                result.done()
            return faults.in_batch(
                faults.to_wire(errors.NotSupported(f"{method.name} answers with data: not in a batch"))
            )
        return result

    def _fault(self, method: Method, named: serialize.CallRequest, error: Exception) -> Exception:
        """What the caller gets for an exception out of a method."""
        if isinstance(error, errors.DfsError | faults.PyroError):
            return error
        if isinstance(error, TypeError):
            reason = method.bind_error(error, named.args, named.kwargs)
            if reason is not None:
                return errors.InvalidArgument(reason)
        told = self._server._translate(error) if self._server._translate is not None else None
        if told is not None:
            return told
        log.error("a method failed unexpectedly", method=method.name, peer=self.peer.address, exc_info=error)
        return errors.RemoteFault(f"{method.name} failed unexpectedly; the log of its daemon has the details")

    # --- answers --------------------------------------------------------------------------------------------

    async def _answer_with_data(self, request: _Request, name: str, result: WithData) -> None:
        try:
            await self._answer(request, name, result.result, result)
        finally:
            if result.done is not None:
                result.done()

    async def _answer(self, request: _Request, name: str, result: Any, with_data: WithData | None) -> None:
        if request.flags & FLAG_ONEWAY:
            return
        try:
            buffers, length = encode(
                RESULT,
                request.flags & FLAG_BATCH,
                request.seq,
                request.serializer,
                serialize.dumps(request.serializer, result),
                None if with_data is None else with_data.buffers,
            )
        except Exception as error:
            log.error("a result could not be sent", method=name, peer=self.peer.address, exc_info=error)
            fault = errors.RemoteFault(f"the result of {name} could not be sent: {error}")
            await self._answer_error(request.seq, request.serializer, request.flags, fault)
            return
        cost = cost_of(length, 0) if with_data is None else cost_of(0, length)
        self._server._rounds.charge(self.peer.party, cost - 1)  # the call itself was paid for
        await self._send(buffers, length)

    async def _answer_error(self, seq: int, serializer: int, flags: int, error: Exception) -> None:
        self._server._failed += 1
        if flags & FLAG_ONEWAY:
            return
        if not serialize.supported(serializer):
            serializer = JSON
        payload = serialize.dumps(serializer, faults.to_wire(error))
        await self._send(*encode(RESULT, FLAG_EXCEPTION, seq, serializer, payload))

    async def _send(self, buffers: list[Buffer], length: int) -> None:
        """Send an answer; who does not take all of it in time is closed, since it holds what others may wait for.

        That time is longer than anybody waits for his answers. Raises Unreachable when the connection is broken.
        """
        rest = self.channel.start(buffers, length)
        if rest is None:
            return
        with trio.move_on_after(limits.MESSAGE_TIMEOUT_S) as scope:
            await self.channel.finish(rest, self._nursery)
        if scope.cancelled_caught:
            reason = f"it did not take an answer within {limits.MESSAGE_TIMEOUT_S:g} s"
            log.info("connection closed: the peer is too slow", peer=self.peer.address, reason=reason)
            await self.channel.aclose(reason)


class _DaemonObject:
    """`Pyro.Daemon`: what stock tools ask of a daemon."""

    def __init__(self, server: Server, registry: Registry) -> None:
        self._server = server
        self._registry = registry

    @expose
    def registered(self) -> list[str]:
        """The ids of all objects."""
        return self._registry.ids()

    @expose
    def ping(self) -> None:
        """Does nothing."""

    @expose
    def info(self) -> str:
        """A line about the daemon."""
        return (
            f"dfs daemon bound on {', '.join(self._server.addresses)}, {len(self._registry.ids())} objects registered"
        )

    @expose
    def get_metadata(self, objectId: str) -> dict[str, list[str]]:  # noqa: N803 - stock's name of the argument
        """The methods of an object. Raises DaemonError for an unknown one."""
        metadata = self._registry.metadata(objectId)
        if metadata is None:
            raise faults.DaemonError("unknown object")
        return metadata


async def _close_shielded(listener: Listener) -> None:
    with trio.CancelScope(shield=True):
        await listener.aclose()
