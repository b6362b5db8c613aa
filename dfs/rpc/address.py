"""Where a daemon serves: `host:port`, `[v6]:port`, or `./u:/path` for a Unix socket, as Pyro5 writes it."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple, TypeAlias

from dfs import errors

UNIX_PREFIX = "./u:"
_URI_PREFIX = "PYRO:"
_UNIX_PATH_MAX_BYTES = 107  # sun_path less its NUL


class TcpAddress(NamedTuple):
    """`host` is a name or a numeric address without brackets; port 0, to listen, lets the kernel choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class UnixAddress(NamedTuple):
    """A socket in the file system of this machine."""

    path: str

    def __str__(self) -> str:
        return UNIX_PREFIX + self.path


Address: TypeAlias = TcpAddress | UnixAddress


def parse(text: str) -> Address:
    """The address that `text` writes. Raises InvalidArgument, saying what an address looks like."""
    if text.startswith(UNIX_PREFIX):
        return _parse_unix(text)
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not host or not colon or (":" in host) != bracketed or not (port.isascii() and port.isdigit()):
        raise errors.InvalidArgument(f"{text!r} is no address: write host:port, [v6]:port or ./u:/path/of/socket")
    if int(port) > 65535:
        raise errors.InvalidArgument(f"{text!r} is no address: ports end at 65535")
    return TcpAddress(host, int(port))


def _parse_unix(text: str) -> UnixAddress:
    path = text.removeprefix(UNIX_PREFIX)
    if not path or "\0" in path or ":" in path:
        raise errors.InvalidArgument(f"{text!r} is no address: the path is empty, or has a NUL or a colon")
    if len(path.encode(errors="surrogateescape")) > _UNIX_PATH_MAX_BYTES:
        raise errors.InvalidArgument(
            f"{text!r}: a Unix socket's path has at most {_UNIX_PATH_MAX_BYTES} bytes: use a shorter directory"
        )
    return UnixAddress(path)


def host_of(peer: str) -> str:
    """The host at the other end of a connection, by the name of that end.

    Empty for this machine, when it is reached by a Unix socket or a loopback address. With IPv6 it is a network of 64
    bits, since a host may have as many addresses of it as it likes. A link's own network says nothing: all have it.
    """
    host = peer.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if address.is_loopback:
        return ""
    if address.version == 4 or address.is_link_local:
        return str(address)
    return str(ipaddress.ip_network((int(address), 64), strict=False))


def uri(object_id: str, address: str) -> str:
    """The Pyro URI of an object: what a stock `Proxy` takes and a name server keeps."""
    return f"{_URI_PREFIX}{object_id}@{address}"


def parse_uri(text: str) -> tuple[str, str]:
    """The (object id, address) of a `PYRO:` URI. Raises InvalidArgument for anything else."""
    object_id, at, address = text.removeprefix(_URI_PREFIX).partition("@")
    if not text.startswith(_URI_PREFIX) or not at or not object_id:
        raise errors.InvalidArgument(f"{text!r} is no URI of the form PYRO:object@address")
    parse(address)
    return object_id, address
