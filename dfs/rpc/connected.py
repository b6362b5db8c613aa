"""What streams over plain and over secured sockets have in common: one descriptor, waited for until it is closed."""

from __future__ import annotations

import socket

import trio


class ConnectedSocket:
    """Non-blocking. Waits raise ClosedResourceError when it is closed: then the number may be another connection's."""

    __slots__ = ("_closed", "_fd", "_sock", "peer")

    def __init__(self, sock: socket.socket, peer: str) -> None:
        sock.setblocking(False)
        self.peer = peer
        self._sock = sock
        self._fd = sock.fileno()
        self._closed = False

    async def _until_readable(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        await trio.lowlevel.wait_readable(self._fd)

    async def _until_writable(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        await trio.lowlevel.wait_writable(self._fd)

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._fd)
            self._sock.close()
        await trio.lowlevel.checkpoint()
