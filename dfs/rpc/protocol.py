"""Pyro5's message format without any I/O: bytes in, messages out.

A message is a header of 40 bytes, then annotations (4 letters, a length, bytes), then a payload:

    0x00  4s  "PYRO"                    0x0c  I    payload length
    0x04  H   protocol version, 502     0x10  I    annotations length, all of them
    0x06  B   kind                      0x14  16s  correlation id (not used)
    0x07  B   serializer                0x24  H    reserved
    0x08  H   flags                     0x26  H    magic number 0x4dc5
    0x0a  H   sequence number           all numbers big-endian

(Pyro5/protocol.py is the reference.) One annotation is ours: `DATA`, the bytes of a chunk. Others are skipped.

`Decoder` is driven like this, so that large parts are received where they belong and never copied:

    loop: event = decoder.next()
      Message  a message is complete; its payload is valid until the next call of `next` or `space`
      Wanted   a DATA annotation or a large payload comes: call `give` with a buffer for it, or None to drop it
      None     needs bytes: put some in `space()`, say how many with `received(count)`

What must hold: every length is checked against its limit before anything is allocated for it, and whatever
the bytes, the only exception is `ProtocolViolation`, after which the decoder is of no more use. Memory is
one fixed buffer; what is larger lives in what the owner gave.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Sequence
from typing import Final, NamedTuple

from dfs import errors, limits
from dfs.checksum import Buffer

CONNECT, CONNECT_OK, CONNECT_FAIL, INVOKE, RESULT, PING = range(1, 7)

FLAG_EXCEPTION = 1
FLAG_COMPRESSED = 2
FLAG_ONEWAY = 4
FLAG_BATCH = 8
FLAG_ITEM_STREAM = 16
FLAG_KEEP_SERIALIZED = 32

SERPENT, MARSHAL, JSON, MSGPACK = range(1, 5)

DAEMON_OBJECT: Final = "Pyro.Daemon"
"""The object that every daemon has; a handshake must name one."""
DFS_PROTOCOL: Final = 1
"""The newest version that we speak of what our own ends agree on beyond Pyro5's format: see `dfs.rpc.versions`."""
DFS_PROTOCOL_OLDEST: Final = 1
"""The oldest that we speak: the one before the newest, or the first."""

_HEADER: Final = struct.Struct("!4sHBBHHII16sHH")
_ANNOTATION: Final = struct.Struct("!4sI")
_TAG: Final = b"PYRO"
_VERSION: Final = 502
_MAGIC: Final = 0x4DC5
_NO_CORRELATION: Final = bytes(16)
_DATA: Final = b"DATA"
_JOIN_MAX_BYTES: Final = 16 * limits.KIB  # below this, joining costs less than a second buffer in sendmsg

HEADER_BYTES: Final = _HEADER.size


class Message:
    """A message as received.

    `payload` lies in the decoder's buffer, or in the buffer that was given for it; None if it was dropped.
    `data` is the buffer given for the DATA annotation, None if there was none or it was dropped.
    """

    __slots__ = ("annotations_bytes", "data", "flags", "kind", "payload", "payload_bytes", "seq", "serializer")

    def __init__(
        self, kind: int, serializer: int, flags: int, seq: int, payload_bytes: int, annotations_bytes: int
    ) -> None:
        self.kind = kind
        self.serializer = serializer
        self.flags = flags
        self.seq = seq
        self.payload_bytes = payload_bytes
        self.annotations_bytes = annotations_bytes
        self.data: memoryview | None = None
        self.payload: memoryview | None = None


class Wanted(NamedTuple):
    """`length` bytes of `message` come next: its DATA (`is_data`), or its payload."""

    message: Message
    length: int
    is_data: bool


def encode(
    kind: int,
    flags: int,
    seq: int,
    serializer: int,
    payload: bytes,
    data: Sequence[Buffer] | None = None,
) -> tuple[list[Buffer], int]:
    """A message as buffers to send in order, and their total length.

    Raises ArgumentTooLarge over `limits.MESSAGE_MAX_BYTES`.
    """
    if data is None:
        _check_size_to_send(len(payload))
        header = _HEADER.pack(_TAG, _VERSION, kind, serializer, flags, seq, len(payload), 0, _NO_CORRELATION, 0, _MAGIC)
        if len(payload) <= _JOIN_MAX_BYTES:
            return [header + payload], HEADER_BYTES + len(payload)
        return [header, payload], HEADER_BYTES + len(payload)
    return _encode_with_data(kind, flags, seq, serializer, payload, data)


def _encode_with_data(
    kind: int, flags: int, seq: int, serializer: int, payload: bytes, data: Sequence[Buffer]
) -> tuple[list[Buffer], int]:
    views = [memoryview(part).cast("B") if isinstance(part, memoryview) else part for part in data]
    length = sum(map(len, views))
    body_bytes = _ANNOTATION.size + length + len(payload)
    _check_size_to_send(body_bytes)
    head = _HEADER.pack(
        _TAG,
        _VERSION,
        kind,
        serializer,
        flags,
        seq,
        len(payload),
        _ANNOTATION.size + length,
        _NO_CORRELATION,
        0,
        _MAGIC,
    ) + _ANNOTATION.pack(_DATA, length)
    if body_bytes <= _JOIN_MAX_BYTES:
        return [b"".join((head, *views, payload))], HEADER_BYTES + body_bytes
    buffers: list[Buffer] = [head, *(view for view in views if len(view))]
    if payload:
        buffers.append(payload)
    return buffers, HEADER_BYTES + body_bytes


def _check_size_to_send(body_bytes: int) -> None:
    if body_bytes > limits.MESSAGE_MAX_BYTES:
        raise errors.ArgumentTooLarge(
            f"a message of {body_bytes} bytes is over the limit of {limits.MESSAGE_MAX_BYTES}"
        )


def _decode_header(buffer: bytearray, start: int, payload_max_bytes: int) -> Message:
    """The message that the 40 bytes at `start` announce, checked but for what follows them."""
    tag, version, kind, serializer, flags, seq, payload_bytes, annotations_bytes, _, _, magic = _HEADER.unpack_from(
        buffer, start
    )
    if tag != _TAG or version != _VERSION or magic != _MAGIC:
        raise errors.ProtocolViolation("the peer does not speak Pyro's protocol, version 502")
    if not CONNECT <= kind <= PING:
        raise errors.ProtocolViolation(f"a message of unknown kind {kind}")
    if payload_bytes + annotations_bytes > limits.MESSAGE_MAX_BYTES:
        raise errors.ProtocolViolation(
            f"a message of {payload_bytes + annotations_bytes} bytes is over the limit of {limits.MESSAGE_MAX_BYTES}"
        )
    if payload_bytes > payload_max_bytes:
        raise errors.ProtocolViolation(
            f"a payload of {payload_bytes} bytes is over the limit of {payload_max_bytes} at this moment"
        )
    if serializer != MSGPACK and payload_bytes > limits.FOREIGN_MESSAGE_MAX_BYTES:
        raise errors.ProtocolViolation(
            f"a payload of {payload_bytes} bytes is over the limit of {limits.FOREIGN_MESSAGE_MAX_BYTES} "
            "for serializers other than msgpack"
        )
    return Message(kind, serializer, flags, seq, payload_bytes, annotations_bytes)


def inflate(payload: Buffer) -> bytes:
    """The payload that FLAG_COMPRESSED announces, at most `limits.FOREIGN_MESSAGE_MAX_BYTES` of it."""
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(payload, limits.FOREIGN_MESSAGE_MAX_BYTES)
    except zlib.error as error:
        raise errors.ProtocolViolation(f"a compressed payload is damaged: {error}") from error
    if not inflater.eof:
        raise errors.ProtocolViolation(
            f"a compressed payload is cut short, or over {limits.FOREIGN_MESSAGE_MAX_BYTES} bytes when inflated"
        )
    return plain


class _Phase(enum.Enum):
    HEADER = enum.auto()
    ANNOTATIONS = enum.auto()
    PAYLOAD = enum.auto()
    WANTED = enum.auto()  # `Wanted` was returned, `give` not called yet
    FILL = enum.auto()  # receiving into what was given
    SKIP = enum.auto()


_HEADER_PHASE = _Phase.HEADER
_ANNOTATIONS_PHASE = _Phase.ANNOTATIONS
_PAYLOAD_PHASE = _Phase.PAYLOAD


class Decoder:
    """Turns the bytes of one connection into messages; see the module's page for how to drive it."""

    def __init__(self) -> None:
        self._buffer = bytearray(limits.RECEIVE_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._in_buffer_max = limits.RECEIVE_BUFFER_BYTES // 2  # a larger payload gets a buffer of its own
        self._start = 0  # received and not yet consumed: _buffer[_start:_end]
        self._end = 0
        self._need = HEADER_BYTES  # contiguous bytes that the next step takes
        self._phase = _HEADER_PHASE
        self._after = _HEADER_PHASE  # the phase that follows FILL and SKIP
        self._message = Message(0, 0, 0, 0, 0, 0)
        self._annotations_left = 0  # bytes
        self._annotations_seen = 0
        self._wanted_bytes = 0
        self._wanted_data = False
        self._target: memoryview | None = None
        self._filled = 0
        self._skip = 0
        self.payload_max_bytes = limits.MESSAGE_MAX_BYTES
        """A longer payload is a violation."""

    @property
    def mid_message(self) -> bool:
        """Whether a message has begun and is not complete."""
        return self._phase is not _HEADER_PHASE or self._end > self._start

    @property
    def missing_bytes(self) -> int:
        """How much of the message that is under way has not been received yet; 0 until its header is there."""
        phase = self._phase
        if phase is _HEADER_PHASE:
            return 0
        missing = self._start - self._end
        if phase is _ANNOTATIONS_PHASE or phase is _PAYLOAD_PHASE or self._after is _ANNOTATIONS_PHASE:
            missing += self._annotations_left + self._message.payload_bytes
        if self._target is not None:
            missing += len(self._target) - self._filled
        elif phase is _Phase.SKIP:
            missing += self._skip
        elif phase is _Phase.WANTED:
            missing += self._wanted_bytes
        return max(missing, 0)

    def space(self) -> memoryview:
        """Where the next bytes go: never empty after `next` returned None.

        Invalidates the payload of the last message.
        """
        if self._target is not None:
            return self._target[self._filled :]
        if self._start == self._end:
            self._start = self._end = 0
        elif len(self._buffer) - self._start < self._need or self._end == len(self._buffer):
            held = self._end - self._start
            self._view[:held] = self._view[self._start : self._end]
            self._start, self._end = 0, held
        return self._view[self._end :]

    def received(self, count: int) -> None:
        """`count` bytes were put at the start of `space()`."""
        if self._target is not None:
            self._filled += count
        else:
            self._end += count

    def next(self) -> Message | Wanted | None:
        """The next event, or None when more bytes are needed. Raises ProtocolViolation."""
        while True:
            phase = self._phase
            if phase is _HEADER_PHASE:
                if not self._has(HEADER_BYTES):
                    return None
                self._begin()
            elif phase is _ANNOTATIONS_PHASE:
                event = self._annotation()
                if event is not _GO_ON:
                    return event
            elif phase is _PAYLOAD_PHASE:
                return self._payload()
            elif phase is _Phase.FILL:
                if not self._fill_done():
                    return None
            elif phase is _Phase.SKIP:
                if not self._skip_done():
                    return None
            else:
                raise AssertionError("next() before give()")
            if self._phase is _HEADER_PHASE:
                return self._message  # a payload that was filled or skipped ends its message

    def give(self, view: memoryview | None) -> None:
        """Answer `Wanted` with a buffer of exactly its length, or with None to drop those bytes."""
        assert self._phase is _Phase.WANTED
        if view is None:
            self._phase = _Phase.SKIP
            self._skip = self._wanted_bytes
            return
        assert len(view) == self._wanted_bytes
        held = min(self._end - self._start, len(view))
        view[:held] = self._view[self._start : self._start + held]
        self._start += held
        self._filled = held
        self._target = view
        self._phase = _Phase.FILL

    def abandon(self) -> None:
        """Stop writing into what was given last: the rest of it is dropped as it comes."""
        if self._target is not None:
            self._skip = len(self._target) - self._filled
            self._target = None
            self._phase = _Phase.SKIP

    def _has(self, count: int) -> bool:
        self._need = count
        return self._end - self._start >= count

    def _begin(self) -> None:
        self._message = _decode_header(self._buffer, self._start, self.payload_max_bytes)
        self._start += HEADER_BYTES
        self._annotations_left = self._message.annotations_bytes
        self._annotations_seen = 0
        self._phase = _ANNOTATIONS_PHASE if self._annotations_left else _PAYLOAD_PHASE

    def _annotation(self) -> Wanted | None:
        """Take one annotation's head. Returns Wanted for DATA, None for more bytes, else _GO_ON."""
        if not self._annotations_left:
            self._phase = _PAYLOAD_PHASE
            return _GO_ON
        if self._annotations_left < _ANNOTATION.size:
            raise errors.ProtocolViolation("the annotations do not add up to their length")
        if not self._has(_ANNOTATION.size):
            return None
        name, length = _ANNOTATION.unpack_from(self._buffer, self._start)
        self._start += _ANNOTATION.size
        self._annotations_left -= _ANNOTATION.size + length
        self._annotations_seen += 1
        if self._annotations_left < 0 or self._annotations_seen > limits.ANNOTATIONS_MAX:
            raise errors.ProtocolViolation("an annotation is longer than the message, or there are too many")
        self._after = _ANNOTATIONS_PHASE
        if name == _DATA and INVOKE <= self._message.kind <= RESULT:
            if self._wanted_data:
                raise errors.ProtocolViolation("a message has two DATA annotations")
            return self._want(length, is_data=True)
        self._phase = _Phase.SKIP
        self._skip = length
        return _GO_ON

    def _want(self, length: int, *, is_data: bool) -> Wanted:
        self._phase = _Phase.WANTED
        self._wanted_bytes = length
        self._wanted_data = is_data
        return Wanted(self._message, length, is_data)

    def _payload(self) -> Message | Wanted | None:
        message = self._message
        length = message.payload_bytes
        self._wanted_data = False
        if length > self._in_buffer_max:
            self._after = _HEADER_PHASE
            return self._want(length, is_data=False)
        if not self._has(length):
            return None
        message.payload = self._view[self._start : self._start + length]
        self._start += length
        self._phase = _HEADER_PHASE
        return message

    def _fill_done(self) -> bool:
        target = self._target
        assert target is not None
        if self._filled < len(target):
            return False
        if self._wanted_data:
            self._message.data = target
        else:
            self._message.payload = target
        self._target = None
        self._phase = self._after
        return True

    def _skip_done(self) -> bool:
        step = min(self._skip, self._end - self._start)
        self._start += step
        self._skip -= step
        if self._skip:
            self._need = 1
            return False
        self._phase = self._after
        return True


_GO_ON: Final = Wanted(Message(0, 0, 0, 0, 0, 0), -1, False)
"""What `_annotation` returns for "nothing to report": compared by identity only."""
