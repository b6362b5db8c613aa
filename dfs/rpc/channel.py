"""Messages over a stream: what client and server share of a connection.

Receiving: one task calls `receive`. Idle, it waits without a deadline; from a message's first byte on it has
`limits.MESSAGE_TIMEOUT_S`. Ready messages are handed out without a checkpoint: who receives sees to it that others get
their turn, by what messages cost.

Sending: any task, one message at a time. Most go out in one system call, without a lock or a deadline, because
nothing can come between. A message that does not fit into the socket takes the turn, and then must end: a
cancelled sender leaves a copy of the rest to a task of the connection, so that the stream stays whole
and the cancelled call returns at once. A peer that takes no byte for `limits.SEND_TIMEOUT_S` is gone;
how long a whole message may take is up to who sends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import trio

from dfs import errors, limits
from dfs.checksum import Buffer
from dfs.rpc.network import Stream, without_first
from dfs.rpc.protocol import Decoder, Message, Wanted

BURST_COST_MAX = 16  # small messages, or pieces of large ones, handled before others get their turn
_BYTES_PER_COST = 64 * limits.KIB
_PARSED_BYTES_PER_COST = 4 * limits.KIB  # of what is parsed, and worked on value by value


def cost_of(payload_bytes: int, annotations_bytes: int) -> int:
    """What it costs to work on a message, in small messages."""
    return 1 + annotations_bytes // _BYTES_PER_COST + payload_bytes // _PARSED_BYTES_PER_COST


class Sendable(Protocol):
    """What a message is sent for: `sent` becomes true when its first byte goes out."""

    sent: bool


class Channel:
    """One connection's messages.

    `broken` says why no more can be sent, None while they can.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.broken: str | None = None
        self._decoder = Decoder()
        self._deadline: float | None = None  # of the message that is under way
        self._receiving: trio.CancelScope | None = None
        self._abandoning: trio.Event | None = None
        self._heard: trio.Event | None = None  # set when bytes arrive
        self._turn = trio.Semaphore(1, max_value=1)

    # --- receiving ------------------------------------------------------------------------------------------

    @property
    def payload_max_bytes(self) -> int:
        """Who sends a longer payload violates the protocol."""
        return self._decoder.payload_max_bytes

    @payload_max_bytes.setter
    def payload_max_bytes(self, size: int) -> None:
        self._decoder.payload_max_bytes = size

    async def receive(self) -> Message | Wanted | None:
        """The next event of the decoder, or None when the peer has closed between messages.

        Raises ProtocolViolation, and ConnectionLost. After `Wanted`, call `give` before the next `receive`.
        """
        event = self._decoder.next()
        if event is None:
            event = await self._receive_more()
        if type(event) is Message:
            self._deadline = None
        return event

    def give(self, view: memoryview | None) -> None:
        """Where to put what is `Wanted`; None drops it."""
        self._decoder.give(view)

    async def abandon(self) -> None:
        """Return when nothing will be written any more into what was given last. Not cancellable, and brief."""
        if self._receiving is None:
            self._decoder.abandon()
            return
        with trio.CancelScope(shield=True):
            # The receiver may have been woken already, and would still write once: it must say that it is done.
            if self._abandoning is None:
                self._abandoning = trio.Event()
            self._receiving.cancel()
            await self._abandoning.wait()

    async def wait_heard(self) -> None:
        """Wait until any byte arrives: the peer is there. As long as it takes: who waits has a deadline."""
        if self._heard is None:
            self._heard = trio.Event()
            self.stream.expect(1)
        await self._heard.wait()

    def _received(self, count: int) -> None:
        self._decoder.received(count)
        if self._heard is not None:
            self._heard.set()
            self._heard = None

    async def _receive_more(self) -> Message | Wanted | None:
        decoder = self._decoder
        if not decoder.mid_message:
            # No deadline: an idle connection may stay.
            count = await self.stream.receive_into(decoder.space())
            if not count:
                return None
            self._received(count)
            event = decoder.next()
            if event is not None:
                return event
        return await self._receive_rest()

    async def _receive_rest(self) -> Message | Wanted:
        """Receive until the message that has begun yields an event."""
        if self._deadline is None:
            self._deadline = trio.current_time() + limits.MESSAGE_TIMEOUT_S
        while True:
            with trio.CancelScope(deadline=self._deadline) as self._receiving:
                try:
                    event = await self._receive_event()
                finally:
                    self._receiving = None
                    abandoning, self._abandoning = self._abandoning, None
                    if abandoning is not None:
                        self._decoder.abandon()
                        abandoning.set()
                if event is not None:
                    return event
            if trio.current_time() >= self._deadline:
                raise errors.ProtocolViolation(
                    f"{self.stream.peer} took more than {limits.MESSAGE_TIMEOUT_S:g} s to send a message"
                )

    async def _receive_event(self) -> Message | Wanted | None:
        """Receive until an event; None when told to abandon the buffer."""
        decoder = self._decoder
        while self._abandoning is None:
            self._expect_rest()
            count = await self.stream.receive_into(decoder.space())
            if not count:
                raise errors.ConnectionLost(f"{self.stream.peer} closed in the middle of a message")
            self._received(count)
            event = None if self._abandoning is not None else decoder.next()
            if event is not None:
                self.stream.expect(1)
                return event
        return None

    def _expect_rest(self) -> None:
        """Have few wakeups for a large message; but somebody who waits for a sign of life waits for any byte."""
        missing = self._decoder.missing_bytes
        self.stream.expect(1 if missing < limits.RECEIVE_BUFFER_BYTES or self._heard is not None else missing)

    # --- sending --------------------------------------------------------------------------------------------

    async def send(self, buffers: list[Buffer], length: int, finisher: trio.Nursery) -> None:
        """Send one message of `length` bytes: `start`, then `finish`."""
        rest = self.start(buffers, length)
        if rest is not None:
            await self.finish(rest, finisher)

    def start(self, buffers: list[Buffer], length: int, mark: Sendable | None = None) -> Rest | None:
        """Send what can be sent at once. None: that was all; else give what is left to `finish`.

        Raises Unreachable when the connection is broken.
        """
        if not self._turn.value:
            return Rest(buffers, mark)
        sent = self._send_nowait(buffers)
        if sent:
            if mark is not None:
                mark.sent = True
            if sent == length:
                return None
        self._turn.acquire_nowait()
        rest = Rest(without_first(buffers, sent), mark)
        rest.begun = sent > 0
        rest.has_turn = True
        return rest

    async def finish(self, rest: Rest, finisher: trio.Nursery) -> None:
        """Send what `start` left.

        When cancelled before its first byte went out, nothing is sent; after, `finisher` gets a task that
        sends the rest. Raises Unreachable when the peer cannot have got the whole message: it did not happen.
        """
        if not rest.has_turn:
            await self._turn.acquire()
        try:
            await self._push(rest)
        except trio.Cancelled:
            if rest.begun and rest.buffers:
                copied = Rest([b"".join(rest.buffers)], None)  # the caller may change its buffers once it is gone
                finisher.start_soon(self._complete, copied)
            else:
                self._turn.release()
            raise
        except BaseException:
            self._turn.release()
            raise
        self._turn.release()

    def _send_nowait(self, buffers: list[Buffer]) -> int:
        if self.broken is not None:
            raise errors.Unreachable(f"the connection with {self.stream.peer} is closed: {self.broken}")
        try:
            sent = self.stream.send_nowait(buffers)
        except errors.ConnectionLost as error:
            self.broken = error.message
            raise errors.Unreachable(error.message) from error
        return sent

    async def _push(self, rest: Rest) -> None:
        """Send what is left of the message whose turn it is."""
        while rest.buffers:
            sent = self._send_nowait(rest.buffers)
            if sent:
                rest.begin()
                rest.buffers = without_first(rest.buffers, sent)
            else:
                await self._wait_writable()

    async def _wait_writable(self) -> None:
        with trio.move_on_after(limits.SEND_TIMEOUT_S) as scope:
            try:
                await self.stream.wait_writable()
            except errors.ConnectionLost as error:
                self.broken = self.broken or error.message
        if scope.cancelled_caught:
            self.broken = f"it took no byte for {limits.SEND_TIMEOUT_S:g} s"
            await self.stream.aclose()

    async def _complete(self, rest: Rest) -> None:
        """Send the rest of a cancelled sender's message; what goes wrong shows at the receiving task."""
        try:
            await self._push(rest)
        except errors.Unreachable:
            await self.stream.aclose()
        finally:
            self._turn.release()

    async def aclose(self, reason: str) -> None:
        """Close the stream; senders that wait get an error."""
        if self.broken is None:
            self.broken = reason
        await self.stream.aclose()


class Rest:
    """What is left of a message, kept where a cancelled sender finds it.

    `begun`: some of it is under way; `has_turn`: no other message can come between.
    """

    __slots__ = ("begun", "buffers", "has_turn", "mark")

    def __init__(self, buffers: Sequence[Buffer], mark: Sendable | None) -> None:
        self.buffers: list[Buffer] = [buffer for buffer in buffers if len(buffer)]
        self.mark = mark
        self.begun = False
        self.has_turn = False

    def begin(self) -> None:
        self.begun = True
        if self.mark is not None:
            self.mark.sent = True
