"""The real network: TCP and Unix sockets, non-blocking, driven by trio's reactor.

The sockets are plain ones, not `trio.socket`: an operation that can proceed makes one system call and no
checkpoint, and only one that would block waits in trio. At a hundred microseconds a call the difference is a
tenth of the latency. Buffers go out with `sendmsg`, so that a header and a payload are never joined.

While a large message arrives over TCP, its receiver sleeps until much of what is expected is there (SO_RCVLOWAT). By
default the kernel wakes it for each piece, three or four times a MiB over loopback, and each time costs a turn of the
loop at this end and an interrupt of the other processor at the sender's.

Between processes of one host, connections to TCP addresses go over Unix sockets (`dfs.rpc.shortcut`).
"""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import structlog
import trio

from dfs import errors, limits
from dfs.certificates import TlsIdentity
from dfs.checksum import Buffer
from dfs.rpc import address as addresses
from dfs.rpc import shortcut
from dfs.rpc.address import TcpAddress, UnixAddress
from dfs.rpc.connected import ConnectedSocket
from dfs.rpc.handover import Inbox
from dfs.rpc.network import Listener, Stream
from dfs.rpc.tls import Tls

_IOV_MAX = min(os.sysconf("SC_IOV_MAX"), 1024) if "SC_IOV_MAX" in os.sysconf_names else 16
_BACKLOG = 1024
_TRY_AGAIN = {errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.EAGAIN, errno.EINTR}
_SMALL_BYTES = 4 * limits.KIB  # a receive of fewer has probably emptied the socket
_KEEPALIVE_IDLE_S = 30
_KEEPALIVE_PERIOD_S = 10
_KEEPALIVE_PROBES = 3
_SO_SNDBUFFORCE = 32  # socket(7)

log = structlog.get_logger(__name__)


class SocketStream(ConnectedSocket):
    """A connected socket as a `Stream`: what goes over it is not secured."""

    holder: ClassVar[str] = ""
    binding: ClassVar[bytes] = b""

    __slots__ = ("_drained", "_expected", "_waiting", "_watermark", "_watermark_max")

    def __init__(self, sock: socket.socket, peer: str) -> None:
        super().__init__(sock, peer)
        self._drained = False  # the last receive emptied the socket, so that the next one would block
        self._expected = 1
        self._watermark = 1  # as the kernel has it: only a wait brings it up to date
        # Unix sockets wake their receiver for any byte, whatever they are told.
        self._watermark_max = 1 if sock.family == socket.AF_UNIX else limits.RECEIVE_AT_ONCE_MAX_BYTES
        self._waiting = False
        if sock.family == socket.AF_UNIX:
            _hold_a_message(sock)

    async def secure(self) -> None:
        """Nothing to do."""

    def send_nowait(self, buffers: Sequence[Buffer]) -> int:
        try:
            if len(buffers) == 1:
                return self._sock.send(buffers[0])
            return self._sock.sendmsg(buffers[:_IOV_MAX])
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._lost(error) from error

    async def wait_writable(self) -> None:
        try:
            await self._until_writable()
        except (trio.ClosedResourceError, OSError) as error:
            raise self._lost(error) from error

    async def receive_into(self, view: memoryview) -> int:
        try:
            if self._drained:
                self._drained = False
                await self._wait_readable()
            while True:
                try:
                    count = self._sock.recv_into(view)
                except BlockingIOError:
                    await self._wait_readable()
                else:
                    self._drained = count < _SMALL_BYTES and count < len(view)
                    return count
        except (trio.ClosedResourceError, OSError) as error:
            raise self._lost(error) from error

    def expect(self, count: int) -> None:
        self._expected = min(count, self._watermark_max)
        if self._waiting and self._expected < self._watermark and not self._closed:
            self._set_watermark()  # which wakes the receiver if so much is there

    async def _wait_readable(self) -> None:
        """Wait for the bytes that are expected: the kernel wakes early if it can hold no more, and at the end."""
        if self._watermark != self._expected and not self._closed:
            self._set_watermark()
        self._waiting = True
        try:
            await self._until_readable()
        finally:
            self._waiting = False

    def _set_watermark(self) -> None:
        self._watermark = self._expected
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, self._watermark)

    def _lost(self, error: BaseException) -> errors.ConnectionLost:
        if self._closed:
            return errors.ConnectionLost(f"the connection with {self.peer} was closed")
        reason = error.strerror if isinstance(error, OSError) else None
        return errors.ConnectionLost(f"the connection with {self.peer} broke: {reason or error}")


class SocketListener:
    """A listening socket, perhaps with its short cut, as a `Listener`. `_ready` is readable when one of them is."""

    def __init__(
        self, sock: socket.socket, address: str, tls: Tls | None = None, short: socket.socket | None = None
    ) -> None:
        self.address = address
        self._tls = tls
        self._socks = [sock] if short is None else [sock, short]
        self._ready = select.epoll()
        for each in self._socks:
            each.setblocking(False)
            self._ready.register(each, select.EPOLLIN)
        self._closed = False
        self._unix_path = addresses.parse(address).path if sock.family == socket.AF_UNIX else None  # type: ignore[union-attr]
        self._inode = _socket_inode(self._unix_path) if self._unix_path else None

    async def accept(self) -> Stream:
        while True:
            if self._closed:
                raise errors.ConnectionLost(f"{self.address} no longer listens")
            for sock in self._socks:
                try:
                    accepted, name = sock.accept()
                except BlockingIOError:
                    continue
                except OSError as error:
                    if error.errno not in _TRY_AGAIN:
                        raise
                    continue
                self._socks.reverse()  # neither keeps the other waiting
                # A flood of connections must not starve the rest; and who is cancelled would leave this one open.
                await trio.lowlevel.cancel_shielded_checkpoint()
                return self._stream(accepted, name)
            await self._wait_ready()

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._ready.fileno())
            self._ready.close()
            for sock in self._socks:
                sock.close()
            self._unlink()
        await trio.lowlevel.checkpoint()

    async def _wait_ready(self) -> None:
        try:
            await trio.lowlevel.wait_readable(self._ready.fileno())
        except trio.ClosedResourceError as error:
            raise errors.ConnectionLost(f"{self.address} no longer listens") from error

    def _stream(self, sock: socket.socket, name: Any) -> Stream:
        if sock.family == socket.AF_UNIX:
            return SocketStream(sock, f"process {shortcut.credentials(sock).pid}")
        _tune_tcp(sock)
        peer = str(TcpAddress(name[0], name[1]))
        return SocketStream(sock, peer) if self._tls is None else self._tls.accept(sock, peer)

    def _unlink(self) -> None:
        """Remove the socket's name, unless another daemon has put its own there since."""
        if self._unix_path and self._inode is not None and _socket_inode(self._unix_path) == self._inode:
            Path(self._unix_path).unlink(missing_ok=True)


class SocketNetwork:
    """The machine's network: TCP over IPv4 and IPv6, with `short_cuts` within the host, and Unix sockets.

    With `tls` all that goes over TCP is secured, at both ends, and plain peers are refused; Unix sockets, and so short
    cuts, do not leave the kernel, and stay plain.
    """

    def __init__(self, tls: TlsIdentity | None = None, *, short_cuts: bool = True) -> None:
        """Raises `ConfigError` for an identity that cannot be used."""
        self._tls = None if tls is None else Tls(tls)
        self._short_cuts = short_cuts

    async def connect(self, address: str, timeout_s: float) -> Stream:
        where = addresses.parse(address)
        with trio.move_on_after(timeout_s):
            if isinstance(where, UnixAddress):
                return SocketStream(await _connect_unix(where), address)
            sock = await _connect_tcp(where, self._short_cuts)
            if self._tls is None or sock.family == socket.AF_UNIX:
                return SocketStream(sock, address)
            return await self._tls.connect(sock, address)
        raise errors.Unreachable(f"{address} did not answer within {timeout_s:g} s")

    async def listen(self, address: str) -> Listener:
        where = addresses.parse(address)
        try:
            if isinstance(where, UnixAddress):
                return SocketListener(_listen_unix(where), address)
            return await _listen_tcp(where, self._tls, self._short_cuts)
        except OSError as error:
            if isinstance(error, errors.DfsError):
                raise
            raise errors.Unreachable(f"cannot listen at {address}: {error.strerror or error}") from error

    def inbox(self) -> Inbox | None:
        try:
            return Inbox() if self._short_cuts else None
        except OSError as error:
            log.warning("files cannot be taken from other processes", error=error.strerror)
            return None


async def _resolve(where: TcpAddress, flags: int = 0) -> list[tuple[int, Any]]:
    """The (family, socket address) pairs of a host. A name is looked up in a thread, a number is not."""
    try:
        found = await trio.socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM, flags=flags)
    except socket.gaierror as error:
        raise errors.Unreachable(f"the host name {where.host!r} is not known: {error.strerror}") from error
    except (UnicodeError, OSError) as error:
        raise errors.Unreachable(f"the host name {where.host!r} cannot be looked up: {error}") from error
    return [(family, name) for family, _, _, _, name in found]


async def _connect_tcp(where: TcpAddress, short_cuts: bool) -> socket.socket:
    """The first of the host's addresses that answers.

    Each has its share of the caller's time: one may be silent, as where IPv6 is dropped on the way.
    """
    failure = errors.Unreachable(f"the host name {where.host!r} has no address")
    found = await _resolve(where)
    for others, (family, name) in zip(reversed(range(len(found))), found, strict=True):
        short = shortcut.connect(family, name[0], name[1]) if short_cuts else None
        if short is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()  # who is cancelled would leave it open
            return short
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            _tune_tcp(sock)
            left_s = trio.current_effective_deadline() - trio.current_time()
            with trio.move_on_after(left_s / (others + 1) if others else math.inf):
                await _finish_connect(sock, name)
                return sock
            sock.close()
            failure = errors.Unreachable(f"{where} did not answer at {name[0]}")
        except OSError as error:
            sock.close()
            failure = errors.Unreachable(_in_words(error, str(where)))
            failure.__cause__ = error
        except BaseException:
            sock.close()
            raise
    raise failure


async def _connect_unix(where: UnixAddress) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        await _finish_connect(sock, where.path)
        return sock
    except OSError as error:
        sock.close()
        raise errors.Unreachable(_in_words(error, str(where))) from error
    except BaseException:
        sock.close()
        raise


async def _finish_connect(sock: socket.socket, name: Any) -> None:
    sock.setblocking(False)
    code = sock.connect_ex(name)
    if code == errno.EINPROGRESS:
        await trio.lowlevel.wait_writable(sock)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    else:
        await trio.lowlevel.checkpoint()
    if code:
        raise OSError(code, os.strerror(code))


def _in_words(error: OSError, where: str) -> str:
    match error.errno:
        case errno.ECONNREFUSED:
            return f"nothing listens at {where}"
        case errno.ENOENT:
            return f"nothing listens at {where}: there is no such socket"
        case errno.ETIMEDOUT:
            return f"{where} does not answer"
        case errno.EAGAIN:
            return f"{where} has too many connections waiting"
    return f"{where} cannot be reached: {error.strerror or error}"


def _hold_a_message(sock: socket.socket) -> None:
    """Have a Unix socket take a large message at once: by default it takes a fifth of a mebibyte at a time."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, limits.UNIX_SEND_BUFFER_BYTES)
    except OSError:  # only root may go beyond net.core.wmem_max
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.UNIX_SEND_BUFFER_BYTES)


def _tune_tcp(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", _KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", _KEEPALIVE_PERIOD_S),
        ("TCP_KEEPCNT", _KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", int(limits.SEND_TIMEOUT_S * 1000)),
    ):
        if hasattr(socket, option):  # Linux has them all
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


async def _listen_tcp(where: TcpAddress, tls: Tls | None, short_cuts: bool) -> SocketListener:
    family, name = (await _resolve(where, socket.AI_PASSIVE))[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(name)
        sock.listen(_BACKLOG)
        host, port, *_ = sock.getsockname()
        short = shortcut.listen(host, port, _BACKLOG) if short_cuts else None
        return SocketListener(sock, str(TcpAddress(where.host, port)), tls, short)
    except BaseException:
        sock.close()
        raise


def _listen_unix(where: UnixAddress) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        shortcut.refuse_files(sock)
        try:
            sock.bind(where.path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_left_over(where.path):
                raise
            Path(where.path).unlink(missing_ok=True)
            sock.bind(where.path)
        sock.listen(_BACKLOG)
        return sock
    except BaseException:
        sock.close()
        raise


def _is_left_over(path: str) -> bool:
    """Whether `path` is a socket that nobody listens at: its daemon died without removing it."""
    if _socket_inode(path) is None:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) == errno.ECONNREFUSED


def _socket_inode(path: str) -> int | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - inode and type in one call
    except OSError:
        return None
    return found.st_ino if stat.S_ISSOCK(found.st_mode) else None
