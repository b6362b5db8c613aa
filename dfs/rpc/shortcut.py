"""Short cuts: between two processes of one host, a connection to a TCP address goes over a Unix socket.

Over loopback TCP a small call takes half as long again, and a mebibyte nearly twice as long. So whoever listens at a
TCP address listens at an abstract Unix socket as well, whose name says which,

    NUL "dfs 127.0.0.1:9400"        or, for all addresses of the host, NUL "dfs 0.0.0.0:9400"

and who connects to an address of his own host tries that name first. Abstract names belong to a network namespace, as
ports do. Where anything is amiss there is no short cut, and TCP does.

Anybody on the host may take a name that is free, and could then pass on to the port what clients say, and read it. So a
name counts only if the user who listens there is the one who listens at the port: the kernel knows both (SO_PEERCRED,
/proc/net/tcp; see proc_pid_net(5)).
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from dfs.rpc.address import TcpAddress

_UCRED: Final = struct.Struct("=iII")
_SO_PASSRIGHTS: Final = 83  # of asm-generic/socket.h
OVERFLOW_UID: Final = 65534  # stands for every user that this user namespace does not know
_ANY: Final = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
_TABLES: Final = {socket.AF_INET: Path("/proc/net/tcp"), socket.AF_INET6: Path("/proc/net/tcp6")}
_LISTENING: Final = "0A"

log = structlog.get_logger(__name__)


class Credentials(NamedTuple):
    """Whose process is at the other end of a Unix socket; of a listening one, whose it was when it began to."""

    pid: int
    uid: int
    gid: int


def credentials(sock: socket.socket) -> Credentials:
    return Credentials(*_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


def refuse_files(sock: socket.socket) -> None:
    """Have a Unix socket, and the connections with it if it listens, take no open files: whoever is sent one has to
    close it, and that can take as long as the sender likes. Linux can do that since 6.16.
    """
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)


def listen(host: str, port: int, backlog: int) -> socket.socket | None:
    """A listening Unix socket for who listens at a numeric address; None if somebody else has its name."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        refuse_files(sock)
        sock.bind(_name(host, port))
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        log.warning("no short cut for clients on this host", address=str(TcpAddress(host, port)), error=error.strerror)
        return None
    return sock


def connect(family: int, host: str, port: int) -> socket.socket | None:
    """A connection with who listens at a numeric address, if it is this host's; None: take TCP."""
    if family not in _ANY or not _is_ours(family, host):
        return None
    for listening in (host, _ANY[socket.AddressFamily(family)]):
        sock = _connected(_name(listening, port))
        if sock is None:
            continue
        uid = credentials(sock).uid
        if uid != OVERFLOW_UID and uid in _listeners(family, listening, port):
            return sock
        sock.close()
        log.warning("somebody else has the name of a short cut", address=str(TcpAddress(host, port)), uid=uid)
    return None


def _name(host: str, port: int) -> str:
    return f"\0dfs {TcpAddress(host, port)}"


def _is_ours(family: int, host: str) -> bool:
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def _connected(name: str) -> socket.socket | None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    refuse_files(sock)
    code = sock.connect_ex(name)  # over a Unix socket it succeeds or fails at once
    if not code:
        return sock
    sock.close()
    if code not in (errno.ECONNREFUSED, errno.EAGAIN):
        log.debug("no short cut", name=name[1:], error=code)
    return None


def _listeners(family: int, host: str, port: int) -> set[int]:
    """The users who listen at an address of this host."""
    wanted = f"{_as_in_table(family, host)}:{port:04X}"
    return {uid for address, uid in _listening(_TABLES[socket.AddressFamily(family)]) if address == wanted}


def _as_in_table(family: int, host: str) -> str:
    """An address as the kernel's tables write it: in words of four bytes, in this machine's order."""
    packed = socket.inet_pton(family, host)
    return "".join(f"{word:08X}" for (word,) in struct.iter_unpack("=I", packed))


def _listening(table: Path) -> Iterator[tuple[str, int]]:
    """(address, user) of each socket that listens. The kernel lists them before the others."""
    try:
        with table.open(encoding="ascii") as lines:
            next(lines, None)
            for line in lines:
                _, address, _, state, _, _, _, uid, *_ = line.split()
                if state != _LISTENING:
                    return
                yield address, int(uid)
    except (OSError, ValueError) as error:
        log.warning("it cannot be seen who listens where", table=str(table), error=str(error))
