"""What libfuse answers reaches the kernel with the flags that it does not know, and notifications are the kernel's."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import pytest

from mount.device import CACHE_DIR, KEEP_CACHE, NO_FLUSH, Device

KILLPRIV_V2 = 1 << 28
CACHE_SYMLINKS = 1 << 23
ATOMIC_O_TRUNC = 1 << 3
ASYNC_DIO = 1 << 15
OTHERS = 1 << 5 | 1 << 31


@pytest.fixture
def kernel() -> Iterator[tuple[socket.socket, int]]:
    """The kernel's end of a connection, and the descriptor that libfuse reads from and writes to."""
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


def opened(flags: int, request: int = 7, handle: int = 3) -> bytes:
    return struct.pack("=IiQQIi", 32, 0, request, handle, flags, 0)


def created(flags: int) -> bytes:
    return struct.pack("=IiQ128sQIi", 160, 0, 7, bytes(range(128)), 3, flags, 0)


def begun(kernel: tuple[socket.socket, int]) -> Device:
    ours, fd = kernel
    device = Device()
    ours.send(init(OTHERS))
    device.begin(fd)
    os.read(fd, 4096)
    os.write(fd, answer(OTHERS))
    device.settle()
    assert ours.recv(4096) == answer(OTHERS)
    return device


@pytest.mark.parametrize(
    ("release", "does"),
    [
        ("6.11.0", True),
        ("6.10.14-amd64", False),
        ("6.18.3", True),
        ("7.0-rc1", True),
        ("5.15.0-91", False),
        ("x", False),
    ],
)
def test_only_kernels_that_zero_what_is_behind_a_file_are_given_its_end(
    monkeypatch: pytest.MonkeyPatch, release: str, does: bool
) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "host", release, "version", "machine")))
    assert Device().zeroes_ends is does


def test_pages_are_stored(kernel: tuple[socket.socket, int]) -> None:
    ours, _ = kernel
    device = begun(kernel)
    for data in (b"bytes", bytearray(b"bytes"), memoryview(b"some bytes")[5:]):
        device.store(77, 8192, data)
        assert ours.recv(4096) == struct.pack("=IiQ QQII", 16 + 24 + 5, 4, 0, 77, 8192, 5, 0) + b"bytes"
    device.close()


@pytest.mark.parametrize("offered", [KILLPRIV_V2, KILLPRIV_V2 | CACHE_SYMLINKS])
def test_a_flag_that_is_offered_is_added_to_the_answer(kernel: tuple[socket.socket, int], offered: int) -> None:
    ours, fd = kernel
    ours.send(init(offered | OTHERS))
    device = Device()
    assert not device.has_begun
    device.begin(fd)
    assert device.has_begun
    assert os.read(fd, 4096) == init(offered | OTHERS), "libfuse gets the request as it was"
    os.write(fd, answer(OTHERS))
    device.settle()
    assert ours.recv(4096) == answer(OTHERS | offered)
    ours.send(b"the next request")
    assert os.read(fd, 4096) == b"the next request"
    assert not os.get_inheritable(fd)
    device.close()


@pytest.mark.parametrize("taken", [ASYNC_DIO, ATOMIC_O_TRUNC, ASYNC_DIO | ATOMIC_O_TRUNC])
def test_flags_that_leave_wrong_pages_or_drop_right_ones_are_taken_from_the_answer(
    kernel: tuple[socket.socket, int], taken: int
) -> None:
    ours, fd = kernel
    ours.send(init(taken | OTHERS))
    device = Device()
    device.begin(fd)
    os.read(fd, 4096)
    os.write(fd, answer(taken | OTHERS))
    device.settle()
    assert ours.recv(4096) == answer(OTHERS)
    device.close()


@pytest.mark.parametrize("request_", [init(OTHERS), init(KILLPRIV_V2, opcode=1), b"short"])
def test_what_is_not_offered_is_passed_on_as_it_is(kernel: tuple[socket.socket, int], request_: bytes) -> None:
    ours, fd = kernel
    ours.send(request_)
    device = Device()
    device.begin(fd)
    assert os.read(fd, 4096) == request_
    os.write(fd, answer(OTHERS))
    device.settle()
    assert ours.recv(4096) == answer(OTHERS)
    device.close()


def test_what_ends_before_it_begins_is_left_to_libfuse() -> None:
    fd = os.open("/proc/self", os.O_RDONLY)  # reading it fails
    device = Device()
    device.begin(fd)
    device.add_open_flags(NO_FLUSH)
    device.settle()
    device.close()
    os.close(fd)


def test_flags_are_added_to_one_answer_to_an_open(kernel: tuple[socket.socket, int]) -> None:
    ours, fd = kernel
    device = begun(kernel)
    device.add_open_flags(CACHE_DIR | KEEP_CACHE)
    os.write(fd, opened(1))
    device.settle()
    assert ours.recv(4096) == opened(1 | CACHE_DIR | KEEP_CACHE)
    device.settle()
    os.write(fd, opened(1))
    assert ours.recv(4096) == opened(1), "the next one is as it was"
    device.add_open_flags(NO_FLUSH)
    os.write(fd, created(2))
    device.settle()
    assert ours.recv(4096) == created(2 | NO_FLUSH)
    device.close()


def test_an_error_is_passed_on_as_it_is(kernel: tuple[socket.socket, int]) -> None:
    ours, fd = kernel
    device = begun(kernel)
    failed = struct.pack("=IiQ", 16, -5, 7)
    device.add_open_flags(NO_FLUSH)
    os.write(fd, failed)
    device.settle()
    assert ours.recv(4096) == failed
    device.close()


def test_a_handler_that_never_answers_leaves_the_descriptor_to_the_kernel(kernel: tuple[socket.socket, int]) -> None:
    ours, fd = kernel
    device = begun(kernel)
    device.add_open_flags(NO_FLUSH)
    device.settle()
    os.write(fd, opened(0))
    assert ours.recv(4096) == opened(0)
    device.close()


def test_notifications_are_written_past_an_answer_under_way(kernel: tuple[socket.socket, int]) -> None:
    ours, fd = kernel
    device = begun(kernel)
    device.add_open_flags(NO_FLUSH)
    device.forget_inode(9)
    assert ours.recv(4096) == struct.pack("=IiQQqQ", 40, 2, 0, 9, 0, 0)
    device.forget_name(9, b"a name")
    assert ours.recv(4096) == struct.pack("=IiQQII7s", 39, 3, 0, 9, 6, 1, b"a name\0")
    assert device.forget_names()
    assert ours.recv(4096) == struct.pack("=IiQ", 16, 8, 0)
    os.write(fd, opened(0))
    device.close()
    assert ours.recv(4096) == opened(NO_FLUSH), "what was on its way arrives"


def test_a_kernel_that_cannot_forget_all_names_says_so(kernel: tuple[socket.socket, int]) -> None:
    ours, _ = kernel
    device = begun(kernel)
    ours.close()
    assert not device.forget_names()
    device.close()
