"""A client's connection to one peer: many calls in flight, matched to their answers by sequence number.

One task receives. It hands each answer to the call that waits for it, and receives an answer's DATA straight into
the buffer that the call brought. A call that leaves early (its deadline, or cancelled) stays in
`_pending` as abandoned until its answer comes, so that its number is not given to another and the answer is
dropped; if its buffer is being received into at that moment, it leaves when that has stopped.

Deadlines: most calls are sent at once, and then wait for nothing but their answer. They have no cancel scope of
their own, which would cost a tenth of a small call, but a time in `Exchange.deadline`, which the pool's watch
looks at. Only a call that must wait to be sent runs in a scope.

A stock Pyro5 daemon answers in order, one call at a time: there the turn passes on when the answer is there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog
import trio

from dfs import errors, limits
from dfs.checksum import Buffer
from dfs.keys import Key
from dfs.rpc import authentication, faults, serialize, versions
from dfs.rpc.channel import BURST_COST_MAX, Channel, Rest, cost_of
from dfs.rpc.network import Stream
from dfs.rpc.protocol import (
    CONNECT,
    CONNECT_FAIL,
    CONNECT_OK,
    DAEMON_OBJECT,
    FLAG_COMPRESSED,
    FLAG_EXCEPTION,
    FLAG_ITEM_STREAM,
    INVOKE,
    MSGPACK,
    PING,
    RESULT,
    Message,
    Wanted,
    encode,
    inflate,
)

_SEQ_MASK: Final = 0xFFFF

log = structlog.get_logger(__name__)


class Exchange:
    """One call under way.

    Ends once: `error` is set, or `result` and `data`, or it expires. `task` is who waits; `abandoned` when nobody
    does any more. `sent`: at least its first byte is under way.
    """

    __slots__ = ("abandoned", "data", "deadline", "done", "error", "expired", "into", "result", "sent", "seq", "task")

    def __init__(self, into: memoryview | None, deadline: float) -> None:
        self.into = into
        self.deadline = deadline
        self.seq = -1
        self.expired = False
        self.task: trio.lowlevel.Task | None = None
        self.result: Any = None
        self.data: memoryview | None = None
        self.error: errors.DfsError | None = None
        self.done = False
        self.sent = False
        self.abandoned = False

    def finish(self) -> None:
        self.done = True
        if self.task is not None:
            task, self.task = self.task, None
            trio.lowlevel.reschedule(task)

    def fail(self, error: errors.DfsError) -> None:
        if not self.done:
            self.error = error
            self.finish()

    def expire(self) -> None:
        """Wake who waits with `expired` set; nothing to do if it does not wait for the answer yet, or any more."""
        if self.task is not None:
            self.expired = True
            task, self.task = self.task, None
            trio.lowlevel.reschedule(task)

    async def wait(self) -> None:
        if not self.done:
            self.task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._on_cancel)

    def _on_cancel(self, _: object) -> trio.lowlevel.Abort:
        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED


class Connection:
    """A connection that has been greeted.

    `closed` is true when no more calls can be made; `idle` when none is in work. `version` of our protocol is spoken
    on it, 0 with a stock peer. `nursery` holds its tasks.
    """

    def __init__(self, address: str, stream: Stream, nursery: trio.Nursery) -> None:
        self.address = address
        self.closed = False
        self.version = 0
        self.said: Mapping[str, Any] = {}
        """The server's half of the handshake, where it is one of ours."""
        self.last_used = trio.current_time()
        self._channel = Channel(stream)
        self._nursery = nursery
        self._pending: dict[int, Exchange] = {}
        self._waiting = 0
        self._seq = 0
        self._filling: Exchange | None = None  # whose buffer is being received into
        self._turn: trio.Semaphore | None = trio.Semaphore(1, max_value=1)  # None: calls need not take turns
        self._probing = False
        self._ends_when_idle = False

    @property
    def idle(self) -> bool:
        return not self._pending and not self._waiting

    @property
    def calls_in_flight(self) -> int:
        return len(self._pending)

    # --- the handshake --------------------------------------------------------------------------------------

    async def greet(
        self, handshake: dict[str, Any], key: Key | None, spoken: versions.Versions, object_id: str
    ) -> None:
        """Exchange handshakes, and agree on one of the versions `spoken`; with a key both ends prove that they know it.

        `object_id`: what is called. Raises Refused with the peer's reason, or another RpcError.
        """
        proofs = {} if key is None else authentication.hello(key, object_id)
        sent, received, said = await self._exchange({**versions.offer(spoken), **handshake, **proofs})
        # Of the first answer, which the proofs cover: not of the last.
        version = versions.chosen_by(self.address, spoken, said)
        if key is not None:
            if "nonce" not in said:
                raise errors.Refused(f"{self.address} asked for no key: it is no daemon of this cluster")
            binding = self._channel.stream.binding
            try:
                proof, owed = authentication.answer(key, object_id, said, sent, received, binding)
            except errors.Refused as error:
                raise errors.Refused(f"{self.address}: {error.message}") from None
            _, _, said = await self._exchange(proof)
            if not authentication.is_proved(said, owed):
                raise errors.Refused(f"{self.address} does not know the key of {key.id}: it is none of this cluster")
        if version is not None:
            self.version = version
            self.said = said
            self._turn = None

    async def _exchange(self, handshake: dict[str, Any]) -> tuple[bytes, bytes, dict[str, Any]]:
        """Send a handshake and receive the answer: the payloads of both, and what a peer of ours says of itself.

        A stock one says nothing of itself. Raises Refused, or another RpcError.
        """
        sent = serialize.dumps(MSGPACK, {"handshake": handshake, "object": DAEMON_OBJECT})
        buffers, length = encode(CONNECT, 0, 0, MSGPACK, sent)
        await self._channel.send(buffers, length, self._nursery)
        message = await self._channel.receive()
        if message is None:
            raise errors.ConnectionLost(f"{self.address} closed the connection without a greeting")
        if isinstance(message, Wanted) or message.kind not in (CONNECT_OK, CONNECT_FAIL):
            raise errors.ProtocolViolation(f"{self.address} did not answer the handshake")
        tree = _load(message)
        if message.kind == CONNECT_FAIL:
            raise errors.Refused(f"{self.address} refused the connection: {str(tree)[:1000]}")
        said = tree.get("handshake") if isinstance(tree, dict) else None
        return sent, bytes(_payload(message)), said if isinstance(said, dict) else {}

    # --- calls ----------------------------------------------------------------------------------------------

    @property
    def takes_turns(self) -> bool:
        """Whether calls go one by one: then `acquire_turn` comes before `start`."""
        return self._turn is not None

    async def acquire_turn(self) -> None:
        """Wait until no other call is in flight. The turn ends with the call, or if `start` raises."""
        assert self._turn is not None
        if self._waiting >= limits.POOL_CALLS_MAX:
            raise errors.Unreachable(f"{self._waiting} calls wait for {self.address} already")
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1

    def start(self, exchange: Exchange, payload: bytes, data: Sequence[Buffer] | None) -> Rest | None:
        """Send a call as far as it goes at once; None: that was all. Raises Unreachable, ArgumentTooLarge."""
        exchange.seq = self._next_seq()
        self._pending[exchange.seq] = exchange
        try:
            buffers, length = encode(INVOKE, 0, exchange.seq, MSGPACK, payload, data)
            return self._channel.start(buffers, length, exchange)
        except errors.DfsError:
            self._not_sent(exchange)
            raise

    async def finish_sending(self, exchange: Exchange, rest: Rest) -> None:
        """Send what `start` left. Raises Unreachable; the call did not happen."""
        try:
            await self._channel.finish(rest, self._nursery)
        except errors.DfsError:
            self._not_sent(exchange)
            raise
        except BaseException:
            self._leave(exchange)
            raise

    async def wait(self, exchange: Exchange) -> None:
        """Wait until a call that was sent ends, or expires. Raises what it raised, or ConnectionLost."""
        try:
            await exchange.wait()
        except BaseException:
            await self._leave_while_receiving(exchange)
            raise
        if exchange.error is not None and exchange.done:
            raise exchange.error
        if exchange.expired:
            await self._leave_while_receiving(exchange)

    def close_when_idle(self) -> None:
        """Close when no call is in work any more: now, if none is."""
        self._ends_when_idle = True
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._ends_when_idle and self.idle and not self.closed:
            self.closed = True
            self._nursery.start_soon(self.aclose, "a newer key is used")

    def expire(self, now: float) -> float:
        """Wake the calls whose deadline has come; returns the earliest of the others, infinity if none."""
        earliest = math.inf
        for exchange in self._pending.values():
            if exchange.abandoned:
                continue
            if exchange.deadline <= now:
                exchange.expire()
            elif exchange.deadline < earliest:
                earliest = exchange.deadline
        return earliest

    def _not_sent(self, exchange: Exchange) -> None:
        """The call cannot be sent: too large, or the connection is broken and the next call needs a new one."""
        self._forget(exchange)
        if self._channel.broken is not None and not self.closed:
            self.closed = True
            self._nursery.start_soon(self.aclose, self._channel.broken)

    async def _leave_while_receiving(self, exchange: Exchange) -> None:
        """Leave; return when nothing is written any more into the call's buffer."""
        self._leave(exchange)
        if self._filling is exchange:
            self._filling = None  # before the wait: afterwards another call's may be filled
            await self._channel.abandon()

    def _next_seq(self) -> int:
        if self.closed:
            self._pass_turn()
            raise errors.Unreachable(f"the connection with {self.address} is closed")
        if len(self._pending) >= limits.POOL_CALLS_MAX:
            self._pass_turn()
            raise errors.Unreachable(f"{self.address} leaves {len(self._pending)} calls without an answer")
        while True:
            self._seq = (self._seq + 1) & _SEQ_MASK
            if self._seq not in self._pending:
                return self._seq

    def _leave(self, exchange: Exchange) -> None:
        """A cancelled call: its answer is dropped when it comes, which it will if any of the call was sent."""
        if exchange.sent:
            exchange.abandoned = True
        else:
            self._forget(exchange)

    def _forget(self, exchange: Exchange) -> None:
        if self._pending.pop(exchange.seq, None) is not None:
            self._pass_turn()
            self._close_if_done()

    def _pass_turn(self) -> None:
        if self._turn is not None:
            self._turn.release()

    # --- receiving ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Receive answers until the connection ends; then every call that waits has its error."""
        reason = "the pool was closed"
        try:
            reason = await self._receive()
        except errors.RpcError as error:
            reason = error.message
        except Exception:
            log.exception("connection closed: unexpected error", peer=self.address)
            reason = "an unexpected error at this end; the log has it"
        finally:
            with trio.CancelScope(shield=True):
                await self.aclose(reason)

    async def aclose(self, reason: str) -> None:
        """Close; calls in flight get ConnectionLost."""
        self.closed = True
        await self._channel.aclose(reason)
        pending, self._pending = self._pending, {}
        for exchange in pending.values():
            exchange.fail(errors.ConnectionLost(f"the connection with {self.address} broke during a call: {reason}"))
        if self._turn is not None and pending:
            self._turn.release()

    async def _receive(self) -> str:
        """Handle answers until the peer closes; returns that as the reason."""
        channel = self._channel
        burst_cost = 0
        while True:
            if burst_cost >= BURST_COST_MAX:
                burst_cost = 0
                await trio.lowlevel.checkpoint()
            event = await channel.receive()
            if event is None:
                return "the peer closed it"
            if type(event) is Wanted:
                self._place(event)
                continue
            assert type(event) is Message
            burst_cost += cost_of(event.payload_bytes, event.annotations_bytes)
            self._filling = None
            if event.kind == RESULT:
                self._on_result(event)
            elif event.kind != PING:
                raise errors.ProtocolViolation(f"{self.address} sent a message of kind {event.kind}")

    def _place(self, wanted: Wanted) -> None:
        """Say where DATA, or a large result, is to go."""
        exchange = self._pending.get(wanted.message.seq)
        if exchange is None or exchange.abandoned or exchange.done:
            self._channel.give(None)
        elif not wanted.is_data or exchange.into is None:
            self._channel.give(memoryview(bytearray(wanted.length)))
        elif wanted.length > len(exchange.into):
            self._channel.give(None)
            exchange.error = errors.ProtocolViolation(
                f"{self.address} sent {wanted.length} bytes where at most {len(exchange.into)} were asked for"
            )
        else:
            self._filling = exchange
            self._channel.give(exchange.into[: wanted.length])

    def _on_result(self, message: Message) -> None:
        exchange = self._pending.pop(message.seq, None)
        if exchange is None:
            raise errors.ProtocolViolation(f"{self.address} answered call {message.seq}, which was not made")
        self._pass_turn()
        if not exchange.abandoned and not exchange.done:
            if exchange.error is None:
                try:
                    _take_result(exchange, message)
                except errors.DfsError as error:
                    exchange.error = error
            exchange.finish()
        self._close_if_done()

    # --- is it still there? ---------------------------------------------------------------------------------

    def probe(self) -> None:
        """Find out whether the peer still answers, after a call to it ran out of time; if not, close.

        A stock daemon answers nothing while a method runs: there the connection is closed at once, as a stock
        proxy does.
        """
        if not self._probing and not self.closed:
            self._probing = True
            self._nursery.start_soon(self._probe if self._turn is None else self._give_up)

    async def _give_up(self) -> None:
        await self.aclose("a call ran out of time")

    async def _probe(self) -> None:
        """Ping. Any byte shows that the peer is there, also one of a long answer that the pong must wait for."""
        buffers, length = encode(PING, 0, 0, MSGPACK, b"ping")
        try:
            # It may wait behind a long message of ours; a peer that takes nothing is found out by its sender.
            await self._channel.send(buffers, length, self._nursery)
            with trio.move_on_after(limits.PROBE_TIMEOUT_S) as scope:
                await self._channel.wait_heard()
            if scope.cancelled_caught:
                await self.aclose(f"the peer did not answer a ping within {limits.PROBE_TIMEOUT_S:g} s")
        except errors.RpcError:
            pass  # broken already: the receiving task knows
        finally:
            self._probing = False


def _payload(message: Message) -> Buffer:
    assert message.payload is not None
    return inflate(message.payload) if message.flags & FLAG_COMPRESSED else message.payload


def _load(message: Message) -> Any:
    return serialize.loads(message.serializer, _payload(message))


def _take_result(exchange: Exchange, message: Message) -> None:
    """Put what `message` answers into `exchange`. Raises what the peer raised."""
    value = _load(message)
    if message.flags & FLAG_ITEM_STREAM:
        raise errors.NotSupported("the peer answers with a stream of items: not supported")
    if message.flags & FLAG_EXCEPTION:
        raise faults.from_wire(value)
    exchange.result = value
    exchange.data = message.data
