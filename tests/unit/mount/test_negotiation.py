"""What the kernel offers and libfuse does not know is accepted in its name."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import pytest

from mount.negotiation import Negotiation

KILLPRIV_V2 = 1 << 28
OTHERS = 1 << 5 | 1 << 31


@pytest.fixture
def kernel() -> Iterator[tuple[socket.socket, int]]:
    """The kernel's end of a connection, and the descriptor that libfuse reads from."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fd = theirs.detach()
    with ours:
        yield ours, fd
    os.close(fd)


def init(flags: int, opcode: int = 26) -> bytes:
    body = struct.pack("=IIII48x", 7, 41, 131072, flags)
    return struct.pack("=IIQQIIIHH", 40 + len(body), opcode, 2, 1, 0, 0, 0, 0, 0) + body


def answer(flags: int) -> bytes:
    body = struct.pack("=IIII48x", 7, 36, 131072, flags)
    return struct.pack("=IiQ", 16 + len(body), 0, 2) + body


def test_a_flag_that_is_offered_is_added_to_the_answer(kernel: tuple[socket.socket, int]) -> None:
    ours, fd = kernel
    ours.send(init(KILLPRIV_V2 | OTHERS))
    negotiation = Negotiation()
    assert negotiation.step(fd)
    assert os.read(fd, 4096) == init(KILLPRIV_V2 | OTHERS), "libfuse gets the request as it was"
    os.write(fd, answer(OTHERS))
    assert not negotiation.step(fd)
    assert ours.recv(4096) == answer(OTHERS | KILLPRIV_V2)
    assert negotiation.is_over
    ours.send(b"the next request")
    assert os.read(fd, 4096) == b"the next request"
    assert not os.get_inheritable(fd)


@pytest.mark.parametrize("request_", [init(OTHERS), init(KILLPRIV_V2, opcode=1), b"short"])
def test_what_is_not_offered_is_passed_on_as_it_is(kernel: tuple[socket.socket, int], request_: bytes) -> None:
    ours, fd = kernel
    ours.send(request_)
    negotiation = Negotiation()
    assert negotiation.step(fd)
    assert os.read(fd, 4096) == request_
    os.write(fd, answer(OTHERS))
    assert not negotiation.step(fd)
    assert ours.recv(4096) == answer(OTHERS)


def test_what_ends_before_it_begins_is_left_to_libfuse() -> None:
    fd = os.open("/proc/self", os.O_RDONLY)  # reading it fails
    negotiation = Negotiation()
    assert negotiation.step(fd)
    assert negotiation.is_over
    os.close(fd)
