"""The message format: what is written is read back, and nothing else is read."""

from __future__ import annotations

import struct
import zlib

import Pyro5.protocol
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfs import errors, limits
from dfs.rpc import protocol
from dfs.rpc.protocol import Decoder, Message, Wanted, encode, inflate

KIB = 1024


def joined(kind: int, seq: int, payload: bytes, data: list[bytes] | None = None) -> bytes:
    buffers, length = encode(kind, 0, seq, protocol.MSGPACK, payload, data)
    whole = b"".join(buffers)
    assert len(whole) == length
    return whole


def feed(decoder: Decoder, stream: bytes, step: int = 1 << 30) -> list[tuple[int, bytes | None, bytes | None]]:
    """Messages as (seq, payload, data) from a stream of whole ones that comes in pieces of `step` bytes."""
    found = []
    position = 0
    while True:
        event = decoder.next()
        if isinstance(event, Message):
            found.append((event.seq, _bytes(event.payload), _bytes(event.data)))
        elif isinstance(event, Wanted):
            decoder.give(memoryview(bytearray(event.length)))
        elif position == len(stream):
            return found
        else:
            assert decoder.missing_bytes <= len(stream) - position, "a receiver would wait for bytes that never come"
            space = decoder.space()
            count = min(step, len(space), len(stream) - position)
            assert len(space)
            space[:count] = stream[position : position + count]
            decoder.received(count)
            position += count


def _bytes(view: memoryview | None) -> bytes | None:
    return None if view is None else bytes(view)


def header(
    tag: bytes = b"PYRO",
    version: int = 502,
    kind: int = protocol.INVOKE,
    serializer: int = protocol.MSGPACK,
    payload_bytes: int = 0,
    annotations_bytes: int = 0,
    magic: int = 0x4DC5,
) -> bytes:
    return struct.pack(
        "!4sHBBHHII16sHH", tag, version, kind, serializer, 0, 1, payload_bytes, annotations_bytes, b"", 0, magic
    )


SIZES = st.sampled_from([0, 1, 39, 40, 41, 4 * KIB, 16 * KIB, 32 * KIB, 32 * KIB + 1, 64 * KIB, 200 * KIB])
MESSAGES = st.lists(st.tuples(st.integers(0, 65535), SIZES, st.none() | SIZES), max_size=6)


@given(MESSAGES, st.integers(1, 100_000))
def test_what_is_encoded_is_decoded_however_it_is_cut(shapes: list[tuple[int, int, int | None]], step: int) -> None:
    messages = [
        (seq, bytes([seq % 251]) * payload, None if data is None else b"d" * data) for seq, payload, data in shapes
    ]
    stream = b"".join(
        joined(protocol.INVOKE, seq, payload, None if data is None else [data[:7], data[7:]])
        for seq, payload, data in messages
    )
    decoder = Decoder()
    assert feed(decoder, stream, max(step, len(stream) // 2000 + 1)) == messages
    assert not decoder.mid_message


@given(st.binary(max_size=400), st.lists(st.binary(max_size=60), max_size=8), st.integers(1, 500), st.booleans())
def test_no_bytes_do_worse_than_a_protocol_violation(noise: bytes, parts: list[bytes], step: int, drop: bool) -> None:
    # Noise alone rarely gets past the header: so messages, with noise in places where lengths are believed.
    stream = b"".join(header(payload_bytes=len(part), annotations_bytes=len(part) % 11) + part for part in parts)
    for data in (noise, stream + noise, header(annotations_bytes=300, payload_bytes=7) + noise):
        decoder = Decoder()
        position = 0
        try:
            while position < len(data):
                event = decoder.next()
                if isinstance(event, Wanted):
                    decoder.give(None if drop else memoryview(bytearray(event.length)))
                elif event is None:
                    space = decoder.space()
                    count = min(step, len(space), len(data) - position)
                    space[:count] = data[position : position + count]
                    decoder.received(count)
                    position += count
        except errors.ProtocolViolation:
            pass


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (header(tag=b"HTTP"), "does not speak"),
        (header(version=501), "does not speak"),
        (header(magic=1), "does not speak"),
        (header(kind=0), "unknown kind"),
        (header(kind=7), "unknown kind"),
        (header(payload_bytes=0xFFFFFFFF), "over the limit"),
        (header(payload_bytes=limits.MESSAGE_MAX_BYTES, annotations_bytes=1), "over the limit"),
        (header(serializer=1, payload_bytes=limits.FOREIGN_MESSAGE_MAX_BYTES + 1), "other than msgpack"),
        (header(annotations_bytes=7), "add up"),
        (header(annotations_bytes=12) + struct.pack("!4sI", b"DATA", 5), "longer than the message"),
        (header(annotations_bytes=800) + struct.pack("!4sI", b"XXXX", 0) * 100, "too many"),
        (header(annotations_bytes=16) + struct.pack("!4sI", b"DATA", 0) * 2, "two DATA"),
    ],
)
def test_what_the_format_does_not_allow_is_refused(bad: bytes, why: str) -> None:
    with pytest.raises(errors.ProtocolViolation, match=why):
        feed(Decoder(), bad)


def test_other_annotations_are_skipped() -> None:
    body = struct.pack("!4sI3s4sI4s4sI1s", b"AAAA", 3, b"xyz", b"DATA", 4, b"1234", b"BBBB", 1, b"z")
    stream = header(annotations_bytes=len(body), payload_bytes=2) + body + b"ok"
    for step in (1, 3, 1000):
        assert feed(Decoder(), stream, step) == [(1, b"ok", b"1234")]


def test_stock_pyro_reads_what_we_write_and_we_read_what_it_writes() -> None:
    ours = joined(protocol.INVOKE, 9, b"payload", [b"da", b"ta"])
    read = Pyro5.protocol.ReceivingMessage(ours[:40], ours[40:])
    assert (read.type, read.seq, bytes(read.data), bytes(read.annotations["DATA"])) == (4, 9, b"payload", b"data")
    theirs = Pyro5.protocol.SendingMessage(5, 0, 7, 4, b"result", {"DATA": b"bytes", "OTHR": b"x"})
    assert feed(Decoder(), theirs.data) == [(7, b"result", b"bytes")]


def test_data_goes_straight_to_the_buffer_given_for_it() -> None:
    decoder = Decoder()
    target = memoryview(bytearray(100 * KIB))
    stream = joined(protocol.RESULT, 1, b"p", [b"x" * (100 * KIB)])
    first = 10 * KIB
    decoder.space()[:first] = stream[:first]
    decoder.received(first)
    event = decoder.next()
    assert isinstance(event, Wanted)
    assert event.is_data
    decoder.give(target)
    assert decoder.next() is None
    rest = decoder.space()
    assert rest.obj is target.obj
    rest[:] = stream[first : first + len(rest)]
    decoder.received(len(rest))
    assert decoder.next() is None  # the payload is still to come
    decoder.space()[:1] = b"p"
    decoder.received(1)
    message = decoder.next()
    assert isinstance(message, Message)
    assert message.data is not None
    assert bytes(message.data) == b"x" * (100 * KIB)


def test_what_is_missing_of_a_message_is_known_to_the_byte() -> None:
    stream = joined(protocol.INVOKE, 7, b"p" * 300, [b"d" * 200 * KIB])
    for dropped in (False, True):
        decoder = Decoder()
        position = 0
        while decoder.next() is None:
            position = receive_some(decoder, stream, position)
        assert decoder.missing_bytes == len(stream) - position
        decoder.give(None if dropped else memoryview(bytearray(200 * KIB)))
        while decoder.next() is None:
            assert decoder.missing_bytes == len(stream) - position
            position = receive_some(decoder, stream, position)
        assert position == len(stream)
        assert decoder.missing_bytes == 0


def receive_some(decoder: Decoder, stream: bytes, position: int) -> int:
    """Put the next of `stream` into the decoder, at most 40,000 bytes; the new position."""
    space = decoder.space()
    count = min(40_000, len(space), len(stream) - position)
    space[:count] = stream[position : position + count]
    decoder.received(count)
    return position + count


def test_an_abandoned_buffer_is_not_written_again_and_the_stream_stays_whole() -> None:
    decoder = Decoder()
    target = memoryview(bytearray(50_000))
    stream = joined(protocol.RESULT, 1, b"p", [b"x" * 50_000]) + joined(protocol.RESULT, 2, b"next")
    decoder.space()[:1000] = stream[:1000]
    decoder.received(1000)
    decoder.next()
    decoder.give(target)
    assert decoder.next() is None
    decoder.abandon()
    written = bytes(target)
    assert feed(decoder, stream[1000:]) == [(1, b"p", None), (2, b"next", None)]
    assert bytes(target) == written


def test_a_message_over_the_limit_is_not_sent() -> None:
    with pytest.raises(errors.ArgumentTooLarge):
        encode(protocol.INVOKE, 0, 1, 4, b"", [bytes(limits.MESSAGE_MAX_BYTES)])
    with pytest.raises(errors.ArgumentTooLarge):
        encode(protocol.INVOKE, 0, 1, 4, bytes(limits.MESSAGE_MAX_BYTES + 1))


def test_many_buffers_are_sent_as_they_are() -> None:
    large = bytes(limits.MIB)
    buffers, _ = encode(protocol.RESULT, 0, 1, 4, b"result", [large, large])
    assert any(buffer is large for buffer in buffers)


def test_inflating_is_bounded() -> None:
    assert inflate(zlib.compress(b"hello")) == b"hello"
    bomb = zlib.compress(bytes(limits.FOREIGN_MESSAGE_MAX_BYTES * 4))
    for bad in (bomb, b"junk", zlib.compress(b"hello")[:-2]):
        with pytest.raises(errors.ProtocolViolation):
            inflate(bad)
