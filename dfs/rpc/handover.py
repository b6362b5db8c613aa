"""Open files, handed from one process of a host to another.

Over a Unix socket a process can give another one a file that it has open (SCM_RIGHTS, unix(7)). Who wants one has an
`Inbox`: a listening socket, whose abstract name nobody can guess. He tells that name and a ticket with his call; who is
called puts the ticket and the file there (`give`), and answers. So when the answer is there the file is, and neither
end has waited for the other.

Files are given to root and to the giver's own user only: whose process listens, the kernel knows (SO_PEERCRED). Memory
that nobody else can change (`dfs.rpc.sharing`) is given to whoever has the inbox that was named over an authenticated
connection. Abstract names belong to a network namespace: a process in another one, as in most containers, is not
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
until the second `sweep`, and the oldest makes room. Everybody is let in whenever the inbox is used, so that those of
whom nobody expects anything any more do not fill it.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
from typing import Final

from dfs import errors
from dfs.rpc.shortcut import OVERFLOW_UID, credentials

_NAME_BYTES: Final = 16
_BACKLOG: Final = 128
_SILENT_MAX: Final = 64
"""Connections that have sent nothing yet."""
NAME_MAX_CHARS: Final = 2 * _NAME_BYTES
TICKET_BYTES: Final = 16


class Inbox:
    """Where others put open files. `name` is what they are told.

    `_expected` has the tickets that somebody waits for, with the file where it has arrived. `_silent` are the
    connections over which nothing came yet, the oldest first, and whether they were there at the last `sweep`.
    """

    def __init__(self) -> None:
        self.name = secrets.token_hex(_NAME_BYTES)
        self._expected: dict[bytes, int | None] = {}
        self._silent: dict[socket.socket, bool] = {}
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
        self._collect()
        ticket = secrets.token_bytes(TICKET_BYTES)
        self._expected[ticket] = None
        return ticket

    def take(self, ticket: bytes) -> int | None:
        """The descriptor that has arrived with a ticket, for the caller to close; None if there is none."""
        self._collect()
        found = self._expected[ticket]
        self._expected[ticket] = None
        return found

    def forget(self, ticket: bytes) -> None:
        """Nobody waits any more: what arrived, or arrives, with this ticket is closed."""
        self._collect()
        found = self._expected.pop(ticket, None)
        if found is not None:
            os.close(found)

    def sweep(self) -> None:
        """Close the connections that have sent nothing since the sweep before: to be called now and then."""
        self._collect()
        for sock, was_there in list(self._silent.items()):
            self._silent[sock] = True
            if was_there:
                self._close_silent(sock)

    def _collect(self) -> None:
        """Take what has arrived; of the newly connected, no more than can wait to be let in."""
        for sock in list(self._silent):
            self._receive(sock)
        for _ in range(_BACKLOG):
            try:
                sock, _ = self._sock.accept()
            except OSError:  # none waits
                return
            sock.setblocking(False)
            if len(self._silent) >= _SILENT_MAX:
                self._close_silent(next(iter(self._silent)))
            self._silent[sock] = False
            self._receive(sock)

    def _receive(self, sock: socket.socket) -> None:
        try:
            ticket, descriptors, _, _ = socket.recv_fds(sock, TICKET_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            ticket, descriptors = b"", []
        self._close_silent(sock)
        for descriptor in descriptors:
            if self._expected.get(ticket, descriptor) is None:
                self._expected[ticket] = descriptor
            else:
                os.close(descriptor)

    def _close_silent(self, sock: socket.socket) -> None:
        del self._silent[sock]
        sock.close()

    def close(self) -> None:
        self._collect()
        for ticket in list(self._expected):
            self.forget(ticket)
        for sock in list(self._silent):
            self._close_silent(sock)
        self._sock.close()


def give(name: str, ticket: bytes, descriptor: int, *, to_anybody: bool = False) -> None:
    """Give a file away to who has the inbox of that name: here the descriptor is closed, whatever happens.

    `to_anybody`: he may be another user.
    Raises `NotSupported` if he cannot be reached from here, `NotPermitted` if he is another user, `Busy` if too much
    waits for him already.
    """
    try:
        _send(name, ticket, descriptor, to_anybody)
    finally:
        os.close(descriptor)


def _send(name: str, ticket: bytes, descriptor: int, to_anybody: bool) -> None:
    if len(name) > NAME_MAX_CHARS or len(ticket) != TICKET_BYTES:
        raise errors.InvalidArgument("this is no inbox, or no ticket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(_address(name))
            uid = credentials(sock).uid
            if not to_anybody and (uid == OVERFLOW_UID or uid not in (0, os.geteuid())):
                raise errors.NotPermitted(f"files are handed to root and to their owner, not to user {uid}")
            socket.send_fds(sock, [ticket], [descriptor])
        except OSError as error:
            if isinstance(error, errors.DfsError):
                raise
            if error.errno == errno.EAGAIN:
                raise errors.Busy("the process that wants a file has not taken others that wait for it") from None
            raise errors.NotSupported(f"no file can be handed to that process: {error.strerror}") from None


def _address(name: str) -> str:
    return f"\0dfs inbox {name}"
