"""TLS on a connection of ours: 1.3 and nothing older, both ends certified by the cluster's authority.

An accepted connection is wrapped in its own task, by `secure`, and not where connections are accepted: a stranger who
dawdles, or is gone already, is met there. Names of hosts play no part. Each end asks whether the other's certificate is
from the authority (dfs.certificates), good for its end of a connection, and whose it is; the key that is proved
afterwards must be the same holder's, and that proof covers `binding` (see dfs.rpc.authentication).

Below is an `ssl.SSLSocket` that does not block. What there is to know of OpenSSL:

- It has decrypted bytes only from one record at a time, and reads no further in the socket. After a record that was
  taken whole, what is there is in the socket, and waiting for the socket is safe.
- A record that did not fit into the socket is encrypted already, and the next send must bring the same bytes. So all of
  it but the last byte is reported as sent, a copy is kept, and whoever waits, or comes with that byte, sends it off.
  Messages are longer than a byte, and one that has begun is never dropped (dfs.rpc.channel).
- In TLS 1.3 nothing but the handshake makes a send wait for bytes, or a receive for room.

The end of a connection is that of TCP, without a farewell of TLS: messages say how long they are, so nothing that was
cut off is taken for whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import ssl
from collections.abc import Iterator, Sequence
from typing import Final

import trio

from dfs import certificates, errors, limits
from dfs.certificates import TlsIdentity
from dfs.checksum import Buffer
from dfs.rpc import serialize
from dfs.rpc.connected import ConnectedSocket
from dfs.rpc.protocol import CONNECT_FAIL, JSON, encode

_RECORD_BYTES: Final = 16 * limits.KIB  # the most that a record carries (RFC 8446, 5.1)
_SMALL_BYTES: Final = 4 * limits.KIB  # a record with fewer has probably emptied the socket
_HANDSHAKE: Final = b"\x16"  # how TLS begins
_TLS_ONLY: Final = (
    "it is of a cluster with TLS, and this client has no certificate: its key file needs the one that"
    " `dfs key renew` gives it"
)
_NOT_YET_VALID: Final = 9  # X509_V_ERR_CERT_NOT_YET_VALID
_EXPIRED: Final = 10
_NOT_OURS: Final = frozenset({7, 18, 19, 20, 21})  # signatures, and issuers that are not the authority
_WORDS: Final = {
    "CERTIFICATE_EXPIRED": "it has expired, or this machine's clock is wrong: `dfs key renew` makes a new one",
    "UNKNOWN_CA": "it is of another cluster",
    "DECRYPT_ERROR": "it is of another cluster",
    "CERTIFICATE_REQUIRED": "there was none",
    "UNSUPPORTED_CERTIFICATE": "it is not good for this end of a connection",
}
"""What a peer's alert means for our certificate."""


def server_context(identity: TlsIdentity) -> ssl.SSLContext:
    """For connections that are accepted. Raises `ConfigError` for an identity that cannot be used."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, identity)
    context.num_tickets = 0  # no connection is resumed: each is proved anew
    return context


def client_context(identity: TlsIdentity) -> ssl.SSLContext:
    """For connections that are made. Raises `ConfigError` for an identity that cannot be used."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, identity)


def _context(protocol: int, identity: TlsIdentity) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False  # holders are known by name, wherever they are
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cadata=identity.authority)
        _load_certificate(context, identity)
    except (ssl.SSLError, ValueError) as error:
        raise errors.ConfigError(f"the [tls] table of the key file cannot be used: {error}") from None
    return context


def _load_certificate(context: ssl.SSLContext, identity: TlsIdentity) -> None:
    """`ssl` reads files only: this one is in memory, so that no private key touches a disk."""
    fd = os.memfd_create("dfs-tls", os.MFD_CLOEXEC)
    with open(fd, "wb", buffering=0) as file:
        file.write(f"{identity.certificate}\n{identity.private_key}\n".encode())
        context.load_cert_chain(f"/proc/self/fd/{fd}")


class Tls:
    """What a process needs to speak TLS, at either end of its connections."""

    def __init__(self, identity: TlsIdentity) -> None:
        """Raises `ConfigError` for an identity that cannot be used."""
        self._identity = identity
        self._server = server_context(identity)
        self._client = client_context(identity)

    async def connect(self, sock: socket.socket, peer: str) -> TlsStream:
        """Take over a connected socket, and shake hands. Raises Refused, Unreachable; then it is closed."""
        stream = TlsStream(sock, peer, self._client)
        try:
            await stream.secure()
        except BaseException as error:
            with trio.CancelScope(shield=True):
                await stream.aclose()
            if isinstance(error, errors.ConnectionLost):
                raise errors.Unreachable(f"{error.message}: does it speak TLS? this cluster does") from error
            raise
        return stream

    def accept(self, sock: socket.socket, peer: str) -> TlsStream:
        """Take over an accepted socket; `secure` comes next, in a task of the connection."""
        return TlsStream(sock, peer, self._server, ssl.PEM_cert_to_DER_cert(self._identity.certificate.strip()))


class TlsStream(ConnectedSocket):
    """A connected socket as a `Stream`, secured. `certificate`: the server's own, as DER; None at a client."""

    __slots__ = (
        "_ahead",
        "_certificate",
        "_context",
        "_drained",
        "_stuck",
        "binding",
        "holder",
    )

    def __init__(
        self, sock: socket.socket, peer: str, context: ssl.SSLContext, certificate: bytes | None = None
    ) -> None:
        super().__init__(sock, peer)
        self.holder = ""
        self.binding = b""
        self._context = context
        self._certificate = certificate
        self._drained = False  # the last receive emptied the socket, and OpenSSL has nothing left
        self._stuck = b""  # a record that OpenSSL has encrypted, and the socket not taken yet
        self._ahead = 0  # bytes that were sent and not reported: its last one, once it has gone

    # --- the handshake --------------------------------------------------------------------------------------

    async def secure(self) -> None:
        """Shake hands: nothing can be sent or received before. Raises Refused, ConnectionLost."""
        try:
            if self._certificate is not None:
                await self._refuse_plain()
            sock = self._wrapped()
            await self._shake_hands(sock)
        except (trio.ClosedResourceError, OSError) as error:
            if isinstance(error, ssl.SSLError) and self._certificate is not None:
                await self._linger()
            raise self._not_secured(error) from error
        theirs = sock.getpeercert(binary_form=True)
        assert sock.version() == "TLSv1.3" and theirs is not None
        self.holder = _holder(sock)
        is_client = self._certificate is None
        if not self.holder or (is_client and self.holder.partition(":")[0] not in certificates.SERVING_ROLES):
            raise errors.Refused(f"{self.peer} has a certificate of {self.holder or 'nobody'}, which is none for it")
        self.binding = hashlib.sha256(theirs if self._certificate is None else self._certificate).digest()

    async def _refuse_plain(self) -> None:
        """Tell a client that does not speak TLS why it is not served, in Pyro's own protocol. Raises Refused."""
        await self._until_readable()
        first = self._sock.recv(1, socket.MSG_PEEK)
        if first in (_HANDSHAKE, b""):
            return
        buffers, _ = encode(CONNECT_FAIL, 0, 0, JSON, serialize.dumps(JSON, _TLS_ONLY))
        self._sock.send(b"".join(buffers))
        self._sock.recv(_RECORD_BYTES)  # what nobody read would reset the connection, and the answer be lost
        raise errors.Refused("it does not speak TLS")

    def _wrapped(self) -> ssl.SSLSocket:
        """The socket as one of OpenSSL's, which takes its place. Raises ConnectionLost if the peer is gone already."""
        try:
            is_server = self._certificate is not None
            sock = self._context.wrap_socket(self._sock, server_side=is_server, do_handshake_on_connect=False)
        except (OSError, ValueError) as error:
            self._closed = True  # its descriptor may be another's by now
            self._sock.close()
            raise errors.ConnectionLost(f"{self.peer} closed the connection at once") from error
        self._sock = sock
        return sock

    async def _shake_hands(self, sock: ssl.SSLSocket) -> None:
        while True:
            try:
                sock.do_handshake()
                return
            except ssl.SSLWantReadError:
                await self._until_readable()
            except ssl.SSLWantWriteError:
                await self._until_writable()

    async def _linger(self) -> None:
        """Let a client hear why it is refused: if we closed while it still sends, the answer would be lost."""
        gone = (OSError, trio.ClosedResourceError)
        with trio.move_on_after(limits.HANDSHAKE_FAILURE_DELAY_S), contextlib.suppress(*gone):
            self._sock.shutdown(socket.SHUT_WR)
            await self._until_readable()
            while self._sock.recv(_RECORD_BYTES):
                await self._until_readable()

    def _not_secured(self, error: BaseException) -> errors.RpcError:
        """In words, why there was no handshake. Who hung up may come back; all else is meant."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return errors.Refused(f"the certificate of {self.peer} does not count: {_flaw(error)}")
        if not isinstance(error, ssl.SSLError) or isinstance(error, ssl.SSLEOFError):
            return self._lost(error)
        if _is_alert(error):
            return self._lost(error)
        if self._certificate is None:
            return errors.Refused(f"{self.peer} does not speak TLS 1.3, as this cluster does: {_reason(error)}")
        return errors.Refused(f"it does not speak TLS 1.3 with a certificate of this cluster: {_reason(error)}")

    # --- sending --------------------------------------------------------------------------------------------

    def send_nowait(self, buffers: Sequence[Buffer]) -> int:
        try:
            self._send_stuck()
            sent, self._ahead = self._ahead, 0
            for record in _records(buffers, sent):
                sent += self._send_record(record)
                if self._stuck:
                    break
        except ssl.SSLWantWriteError:
            return 0
        except OSError as error:
            raise self._lost(error) from error
        return sent

    def _send_record(self, record: Buffer) -> int:
        try:
            return self._sock.send(record)
        except ssl.SSLWantWriteError:
            self._stuck = bytes(record)
            return len(record) - 1

    def _send_stuck(self) -> None:
        if self._stuck:
            self._sock.send(self._stuck)
            self._stuck, self._ahead = b"", 1

    async def wait_writable(self) -> None:
        try:
            await self._until_writable()
            self._send_stuck()
        except ssl.SSLWantWriteError:
            pass  # as the next send will find
        except (trio.ClosedResourceError, OSError) as error:
            raise self._lost(error) from error

    # --- receiving ------------------------------------------------------------------------------------------

    async def receive_into(self, view: memoryview) -> int:
        try:
            if self._drained:
                self._drained = False
                await self._until_readable()
            while (count := self._receive_nowait(view)) is None:
                await self._until_readable()
            return count
        except (trio.ClosedResourceError, OSError) as error:
            raise self._lost(error) from error

    def _receive_nowait(self, view: memoryview) -> int | None:
        """Records for as long as there are and `view` has room; None: there are none yet. 0 is the end."""
        received = 0
        try:
            while received < len(view):
                count = self._sock.recv_into(view[received:])
                received += count
                if count < _SMALL_BYTES:
                    self._drained = count > 0 and received < len(view)
                    break
        except ssl.SSLWantReadError:
            self._drained = received > 0
            return received or None
        return received

    def expect(self, count: int) -> None:
        """Any byte wakes the receiver: what is expected may be in OpenSSL's hands, where the kernel does not see it."""

    # --- the end --------------------------------------------------------------------------------------------

    def _lost(self, error: BaseException) -> errors.RpcError:
        if self._closed:
            return errors.ConnectionLost(f"the connection with {self.peer} was closed")
        if not isinstance(error, ssl.SSLError):
            reason = error.strerror if isinstance(error, OSError) else None
            return errors.ConnectionLost(f"the connection with {self.peer} broke: {reason or error}")
        if isinstance(error, ssl.SSLEOFError):
            return errors.ConnectionLost(f"{self.peer} closed the connection")
        if _is_alert(error):
            return errors.Refused(f"{self.peer} refused our certificate: {_meaning(error)}")
        return errors.ProtocolViolation(f"{self.peer} sent what is no TLS of this connection: {_reason(error)}")


def _records(buffers: Sequence[Buffer], start: int) -> Iterator[Buffer]:
    """What buffers hold after `start` bytes, in pieces of a record; only what lies across two buffers is copied."""
    edge = bytearray()
    for buffer in buffers:
        view = memoryview(buffer)[start:]
        start = max(0, start - len(buffer))
        while len(view):
            if not edge and len(view) >= _RECORD_BYTES:
                yield view[:_RECORD_BYTES]
                view = view[_RECORD_BYTES:]
                continue
            room = _RECORD_BYTES - len(edge)
            edge += view[:room]
            view = view[room:]
            if len(edge) == _RECORD_BYTES:
                yield edge
                edge = bytearray()
    if edge:
        yield edge


def _holder(sock: ssl.SSLSocket) -> str:
    names = (sock.getpeercert() or {}).get("subjectAltName", ())
    return certificates.holder([str(name[1]) for name in names if isinstance(name, tuple) and name[0] == "URI"])


def _flaw(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in _NOT_OURS:
        return "it is of another cluster"
    if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
        return f"{error.verify_message}, or this machine's clock is wrong; `dfs key renew` makes a new one"
    return error.verify_message


def _is_alert(error: ssl.SSLError) -> bool:
    """Whether the peer said so, rather than OpenSSL at this end."""
    return "_ALERT_" in (error.reason or "")


def _meaning(error: ssl.SSLError) -> str:
    alert = (error.reason or "").partition("_ALERT_")[2]
    return _WORDS.get(alert, alert.lower().replace("_", " "))


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")
