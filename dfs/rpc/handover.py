"""Open files, handed from one process of a host to another.

Over a Unix socket a process can give another one a file that it has open (SCM_RIGHTS, unix(7)). Who wants one has an
`Inbox`: a listening socket, whose abstract name nobody can guess. He tells that name and a ticket with his call; who is
called puts the ticket and the file there (`give`), and answers. So when the answer is there the file is, and neither
end has waited for the other.

Files are given to root and to the giver's own user only: whose process listens, the kernel knows (SO_PEERCRED). Memory
that nobody else can change (`dfs.rpc.sharing`) is given to the user who has said over an authenticated connection that
the inbox is his. Abstract names belong to a network namespace: a process in another one, as in most containers, is not
reached.

**What that means.** What is given is open for reading only. But whoever has it can open the same file again by
/proc/self/fd, for writing too, as far as its owner and mode let him. The giver's user could do that by the file's name
anyway, and so could root of the host. Root of a container that has the host's network and no user namespace of its own
is root here as well, and need not see the file's name: he gets a way to a file that he would not have had. A giver
cannot tell the two: where it is confined it does not see others' processes, nor in which namespaces they are. So this
can be switched off where such containers have keys (`lend` in a DataNode's configuration).

**Strangers.** The names of inboxes can be read in /proc/net/unix, so anybody on the host may connect; without a ticket,
which nobody can guess, he brings nothing. Who connects is not asked for his user: a DataNode may have one of its own.
Whoever has connected and sent nothing yet is heard later, as a giver that was interrupted there is, but no longer than
for _SILENT_MAX_S, and the oldest makes room. Everybody is let in whenever something is collected, so that those of whom
nobody expects anything any more do not fill it. What a stranger sends is closed, and that may take as long as he likes:
a socket lingers, a file may be one of a file system that does not answer. So only threads that can be left behind
receive and close.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from typing import Final

import trio

from dfs import errors
from dfs.rpc.shortcut import OVERFLOW_UID, credentials, refuse_files
from dfs.runtime import Runtime

_NAME_BYTES: Final = 16
_BACKLOG: Final = 128
_SILENT_MAX: Final = 64
"""Connections that have sent nothing yet."""
_SHORT: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS)
_SILENT_MAX_S: Final = 30.0
COLLECT_MAX_S: Final = 1.0
"""As long as a collection takes at most: it is a matter of microseconds, unless somebody means harm."""
NAME_MAX_CHARS: Final = 2 * _NAME_BYTES
TICKET_BYTES: Final = 16


class Inbox:
    """Where others put open files. `name` is what they are told, `user` whose it is.

    `_expected` has the tickets that somebody waits for, with the file where it has arrived; `_unwanted` is to be
    closed. `_silent` are the connections over which nothing came yet, the oldest first, and since when. Threads that
    hold `_collecting` may stand still for long, those that hold `_lock` never do: it guards `_expected`.
    """

    def __init__(self) -> None:
        self.name = secrets.token_hex(_NAME_BYTES)
        self.user = os.geteuid()
        self._expected: dict[bytes, int | None] = {}
        self._unwanted: list[int] = []
        self._silent: dict[socket.socket, float] = {}
        self._collecting = threading.Lock()
        self._lock = threading.Lock()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.setblocking(False)
        try:
            self._sock.bind(_address(self.name))
            self._sock.listen(_BACKLOG)
        except OSError:
            self._sock.close()
            raise

    def expect(self) -> bytes:
        """A new ticket. `forget` it in the end."""
        ticket = secrets.token_bytes(TICKET_BYTES)
        with self._lock:
            self._expected[ticket] = None
        return ticket

    async def collect(self, runtime: Runtime) -> bool:
        """Have `take` find what has arrived, and close what nobody wants; whether that was possible now. To be called
        now and then, also by who waits for nothing.
        """
        with suppress(errors.Busy), trio.move_on_after(COLLECT_MAX_S):  # perhaps no thread may begin at the moment
            return await runtime.run_abandonable(self.collect_blocking)
        return False

    def take(self, ticket: bytes) -> int | None:
        """The descriptor that was collected with a ticket, for the caller to close; None if there is none, or no more
        after `aclose`.
        """
        with self._lock:
            found = self._expected.get(ticket)
            if found is not None:
                self._expected[ticket] = None
        return found

    def forget(self, ticket: bytes) -> None:
        """Nobody waits any more: what has come, or comes, with this ticket is closed when others are collected."""
        with self._lock:
            found = self._expected.pop(ticket, None)
        if found is not None:
            self.put_away(found)

    def put_away(self, descriptor: int) -> None:
        """Close a descriptor that is not what it should be when others are collected: that may take its time."""
        self._unwanted.append(descriptor)

    async def aclose(self, runtime: Runtime) -> None:
        """Nothing is taken any more."""
        with trio.CancelScope(shield=True), trio.move_on_after(COLLECT_MAX_S), suppress(errors.Busy):
            await runtime.run_abandonable(self.close_blocking)

    # --- in threads -------------------------------------------------------------------------------------

    def collect_blocking(self) -> bool:
        """As `collect`. Of the newly connected, no more are let in than can wait for that."""
        if not self._collecting.acquire(timeout=COLLECT_MAX_S):
            return False
        try:
            self._collect()
        finally:
            self._collecting.release()
        return True

    def _collect(self) -> None:
        while self._unwanted:
            _close(self._unwanted.pop())
        due = time.monotonic() - _SILENT_MAX_S
        for sock, since in list(self._silent.items()):
            if not self._receive(sock) and since <= due:
                self._close_silent(sock)
        for _ in range(_BACKLOG):
            try:
                sock, _ = self._sock.accept()
            except OSError:  # none waits, or this process can open nothing more
                return
            sock.setblocking(False)
            if len(self._silent) >= _SILENT_MAX:
                self._close_silent(next(iter(self._silent)))
            self._silent[sock] = time.monotonic()
            self._receive(sock)

    def _receive(self, sock: socket.socket) -> bool:
        """Whether the connection has said what it had to say, and is closed."""
        try:
            ticket, descriptors, _, _ = socket.recv_fds(sock, TICKET_BYTES, 1)
        except BlockingIOError:
            return False
        except OSError:
            ticket, descriptors = b"", []
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)  # recv_fds takes no notice of MSG_CMSG_CLOEXEC
            with self._lock:
                is_expected = self._expected.get(ticket, descriptor) is None
                if is_expected:
                    self._expected[ticket] = descriptor
            if not is_expected:
                _close(descriptor)
        self._close_silent(sock)
        return True

    def _close_silent(self, sock: socket.socket) -> None:
        del self._silent[sock]
        sock.close()

    def close_blocking(self) -> None:
        """As `aclose`."""
        if not self.collect_blocking():
            return  # a thread is at it, and stands still; the end of the process ends all
        with self._collecting:
            with self._lock:
                arrived = [found for found in self._expected.values() if found is not None]
                self._expected.clear()
            for descriptor in arrived:
                _close(descriptor)
            for sock in list(self._silent):
                self._close_silent(sock)
            self._sock.close()


def _close(descriptor: int) -> None:
    """Whatever that says: it is no file of ours."""
    with suppress(OSError):
        os.close(descriptor)


def give(name: str, ticket: bytes, descriptor: int, to: Collection[int] = ()) -> None:
    """Give a file away to who has the inbox of that name: here the descriptor is closed, whatever happens.

    He is one of the users `to`; if none are named, root or this process's own. Raises `NotSupported` if he cannot be
    reached from here, `NotPermitted` if he is another user, `Busy` if too much waits for him already or this process
    can open nothing more.
    """
    try:
        _send(name, ticket, descriptor, to or (0, os.geteuid()))
    finally:
        os.close(descriptor)


def _send(name: str, ticket: bytes, descriptor: int, to: Collection[int]) -> None:
    if len(name) > NAME_MAX_CHARS or len(ticket) != TICKET_BYTES:
        raise errors.InvalidArgument("this is no inbox, or no ticket")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            refuse_files(sock)
            sock.connect(_address(name))
            uid = credentials(sock).uid
            if uid == OVERFLOW_UID or uid not in to:
                raise errors.NotPermitted(f"a file is not handed to user {uid}")
            socket.send_fds(sock, [ticket], [descriptor])
    except OSError as error:
        if isinstance(error, errors.DfsError):
            raise
        if error.errno == errno.EAGAIN:
            raise errors.Busy("the process that wants a file has not taken others that wait for it") from None
        if error.errno in _SHORT:
            raise errors.Busy(f"no file can be handed over now: {error.strerror}") from None
        raise errors.NotSupported(f"no file can be handed to that process: {error.strerror}") from None


def _address(name: str) -> str:
    return f"\0dfs inbox {name}"
