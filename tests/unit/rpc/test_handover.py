"""An open file goes from one process of a host to another, and to nobody else."""

from __future__ import annotations

import errno
import os
import secrets
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import trio

from dfs import errors
from dfs.rpc import Inbox, handover
from dfs.rpc.handover import NAME_MAX_CHARS, TICKET_BYTES, give
from dfs.runtime import RealRuntime
from tests.unit.rpc.test_shortcut import NOBODY, root_only, somebody_at


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    opened = Inbox()
    yield opened
    opened.close_blocking()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    return path


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_a_file_that_was_given_is_there(inbox: Inbox, file: Path) -> None:
    ticket = inbox.expect()
    given = os.open(file, os.O_RDONLY)
    give(inbox.name, ticket, given)
    inbox.collect_blocking()
    taken = inbox.take(ticket)
    assert taken is not None
    assert os.pread(taken, 100, 0) == b"content"
    os.close(taken)
    assert inbox.take(ticket) is None


def test_the_giver_has_it_no_more(inbox: Inbox, file: Path) -> None:
    given = os.open(file, os.O_RDONLY)
    give(inbox.name, inbox.expect(), given)
    assert not is_open(given)


def test_files_are_told_apart_by_their_tickets(inbox: Inbox, tmp_path: Path) -> None:
    tickets = [inbox.expect() for _ in range(3)]
    for number, ticket in enumerate(tickets):
        (tmp_path / str(number)).write_bytes(b"%d" % number)
        give(inbox.name, ticket, os.open(tmp_path / str(number), os.O_RDONLY))
    for number, ticket in reversed(list(enumerate(tickets))):
        inbox.collect_blocking()
        taken = inbox.take(ticket)
        assert taken is not None
        assert os.pread(taken, 10, 0) == b"%d" % number
        os.close(taken)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_what_nobody_waits_for_is_closed(inbox: Inbox, file: Path) -> None:
    before = open_descriptors()
    late, twice = inbox.expect(), inbox.expect()
    inbox.forget(late)
    for ticket in (late, twice, twice, os.urandom(TICKET_BYTES)):
        give(inbox.name, ticket, os.open(file, os.O_RDONLY))
    inbox.collect_blocking()
    inbox.forget(twice)
    inbox.collect_blocking()
    assert open_descriptors() == before


def test_who_sends_something_else_disturbs_nobody(inbox: Inbox, file: Path) -> None:
    for noise in (b"", b"noise"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
            stranger.connect(f"\0dfs inbox {inbox.name}")
            stranger.sendall(noise)
            inbox.collect_blocking()
    ticket = inbox.expect()
    give(inbox.name, ticket, os.open(file, os.O_RDONLY))
    inbox.collect_blocking()
    taken = inbox.take(ticket)
    assert taken is not None
    os.close(taken)


def connected(inbox: Inbox) -> socket.socket:
    """Somebody who has connected, and sends nothing yet."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(f"\0dfs inbox {inbox.name}")
    return sock


def test_a_giver_who_was_interrupted_before_he_sent_is_heard_later(inbox: Inbox, file: Path) -> None:
    early, late = inbox.expect(), inbox.expect()
    with connected(inbox) as interrupted:
        give(inbox.name, late, os.open(file, os.O_RDONLY))
        inbox.collect_blocking()
        taken = inbox.take(late)
        assert taken is not None
        os.close(taken)
        with file.open("rb") as content:
            socket.send_fds(interrupted, [early], [content.fileno()])
    inbox.collect_blocking()
    taken = inbox.take(early)
    assert taken is not None
    os.close(taken)


def test_who_says_nothing_keeps_nobody_out_and_is_sent_away(
    inbox: Inbox, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as strangers:
        for _ in range(5):
            for _ in range(100):
                strangers.enter_context(connected(inbox))
            inbox.collect_blocking()
        ticket = inbox.expect()
        give(inbox.name, ticket, os.open(file, os.O_RDONLY))
        inbox.collect_blocking()
        taken = inbox.take(ticket)
        assert taken is not None
        os.close(taken)
        before = open_descriptors()
        monkeypatch.setattr(handover, "_SILENT_MAX_S", 0.0)
        inbox.collect_blocking()
        assert open_descriptors() == before - 63


def test_what_was_given_up_does_not_fill_the_inbox(inbox: Inbox, file: Path) -> None:
    for _ in range(500):
        ticket = inbox.expect()
        inbox.forget(ticket)
        give(inbox.name, ticket, os.open(file, os.O_RDONLY))
        inbox.collect_blocking()


def test_a_full_inbox_is_busy(inbox: Inbox, file: Path) -> None:
    ticket = inbox.expect()
    with pytest.raises(errors.Busy):
        for _ in range(1000):
            give(inbox.name, ticket, os.open(file, os.O_RDONLY))


def test_nothing_is_given_where_nobody_is(file: Path) -> None:
    given = os.open(file, os.O_RDONLY)
    with pytest.raises(errors.NotSupported, match="no file can be handed"):
        give("0" * NAME_MAX_CHARS, bytes(TICKET_BYTES), given)
    assert not is_open(given)


@pytest.mark.parametrize(("name", "ticket"), [("0" * 1000, bytes(TICKET_BYTES)), ("0", b"")])
def test_what_is_no_inbox_or_no_ticket_is_refused(file: Path, name: str, ticket: bytes) -> None:
    given = os.open(file, os.O_RDONLY)
    with pytest.raises(errors.InvalidArgument):
        give(name, ticket, given)
    assert not is_open(given)


@root_only
def test_nothing_is_given_to_another_user(file: Path) -> None:
    given = os.open(file, os.O_RDONLY)
    name = secrets.token_hex(NAME_MAX_CHARS // 2)
    with somebody_at(f"\0dfs inbox {name}"), pytest.raises(errors.NotPermitted, match="not handed to user"):
        give(name, bytes(TICKET_BYTES), given)
    assert not is_open(given)


@root_only
def test_a_file_is_given_to_a_user_who_is_named(file: Path) -> None:
    name = secrets.token_hex(NAME_MAX_CHARS // 2)
    with somebody_at(f"\0dfs inbox {name}"):
        for to in ([0], [os.geteuid(), NOBODY + 1]):
            with pytest.raises(errors.NotPermitted):
                give(name, bytes(TICKET_BYTES), os.open(file, os.O_RDONLY), to)
        give(name, bytes(TICKET_BYTES), os.open(file, os.O_RDONLY), [NOBODY])


def test_a_process_that_can_open_nothing_is_busy(inbox: Inbox, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    given = os.open(file, os.O_RDONLY)
    with monkeypatch.context() as patched, pytest.raises(errors.Busy, match="Too many open files"):
        patched.setattr(socket, "socket", failing)
        give(inbox.name, inbox.expect(), given)
    assert not is_open(given)


def lingering() -> tuple[socket.socket, socket.socket]:
    """A socket that takes 60 s to close, and the one that it is connected with, which takes nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        sock = socket.socket()
        sock.connect(listening.getsockname())
        far = listening.accept()[0]
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
    sock.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            sock.send(bytes(65536))
    sock.setblocking(True)
    return sock, far


@contextmanager
def held_up_by_a_stranger(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Who collects stands still meanwhile."""
    monkeypatch.setattr(handover, "COLLECT_MAX_S", 0.1)
    sent, far = lingering()
    with connected(inbox) as stranger, sent:
        socket.send_fds(stranger, [b"?" * TICKET_BYTES], [sent.fileno()])
    try:
        yield
    finally:
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()  # resets the other end, which has nothing left to wait for


async def until_collected(inbox: Inbox, runtime: RealRuntime, ticket: bytes) -> int:
    with trio.fail_after(60):
        while (taken := inbox.take(ticket)) is None:
            await inbox.collect(runtime)
    return taken


def test_a_file_that_fails_when_it_is_closed_is_nobodys_error(
    inbox: Inbox, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = os.close

    def failing(descriptor: int) -> None:
        closed(descriptor)
        raise OSError(errno.EIO, "Input/output error")

    ticket, unwanted = inbox.expect(), os.open(file, os.O_RDONLY)
    for each in (b"?" * TICKET_BYTES, ticket):
        give(inbox.name, each, os.open(file, os.O_RDONLY))
    inbox.put_away(unwanted)
    with monkeypatch.context() as patched:
        patched.setattr(os, "close", failing)
        assert inbox.collect_blocking()
    taken = inbox.take(ticket)
    assert taken is not None
    assert not os.get_inheritable(taken)
    os.close(taken)
    assert not is_open(unwanted)


async def test_who_sends_what_takes_long_to_close_holds_up_a_thread_and_nobody_else(
    inbox: Inbox, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = RealRuntime()
    with held_up_by_a_stranger(inbox, monkeypatch):
        ticket = inbox.expect()
        give(inbox.name, ticket, os.open(file, os.O_RDONLY))
        with trio.fail_after(10):
            assert [await inbox.collect(runtime) for _ in range(3)] == [False] * 3
        assert inbox.take(ticket) is None, "it is behind the stranger's"
    os.close(await until_collected(inbox, runtime, ticket))


async def test_the_end_does_not_wait_for_what_takes_long_to_close(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = RealRuntime()
    with held_up_by_a_stranger(inbox, monkeypatch), trio.fail_after(10):
        assert not await inbox.collect(runtime)
        await inbox.aclose(runtime)


async def test_where_no_thread_may_begin_nothing_is_collected_and_nobody_ends(
    inbox: Inbox, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = RealRuntime()
    ticket = inbox.expect()
    give(inbox.name, ticket, os.open(file, os.O_RDONLY))

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        assert not await inbox.collect(runtime)
    assert inbox.take(ticket) is None
    assert await inbox.collect(runtime)
    taken = inbox.take(ticket)
    assert taken is not None
    os.close(taken)


async def test_after_the_end_nothing_is_there(inbox: Inbox, file: Path) -> None:
    ticket = inbox.expect()
    give(inbox.name, ticket, os.open(file, os.O_RDONLY))
    await inbox.aclose(RealRuntime())
    assert inbox.take(ticket) is None
