"""Ports for daemons of this machine: the usual ones where they are free, else the next ones above.

A port is free if it can be bound now and nobody has claimed it. Its daemon binds it later, and again after a failure;
until then the claim keeps it from other clusters of this machine (of this network namespace, to be exact). A claim is
an abstract Unix socket named after the port: it ends with the last process that has its descriptor, so a cluster's
supervisor inherits the claims of `dfs up`. Programs that know nothing of claims may take the port all the same, and
then the daemon says so.
"""

from __future__ import annotations

import errno
import socket
from typing import Final, Self

from dfs import errors, limits

LOOPBACK: Final = "127.0.0.1"


def is_free(port: int) -> bool:
    """Whether a daemon could listen on this loopback port now. Raises `Unreachable` where there is no such address."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: old connections do not count
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise errors.Unreachable(
                    f"{LOOPBACK}, where `dfs up` has its clusters, is no address of this machine: give it to"
                    f" the loopback interface, with `ip address add {LOOPBACK}/8 dev lo`"
                ) from None
            return False
        return True


class FreePorts:
    """Hands out loopback ports that are free, each once, and claims them until it is closed."""

    def __init__(self) -> None:
        self._claims: dict[int, socket.socket] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for held in self._claims.values():
            held.close()

    def descriptors(self) -> list[int]:
        """For processes that are to keep the claims."""
        return [held.fileno() for held in self._claims.values()]

    def take(self, preferred: int) -> int:
        """`preferred`, or the next free port above. Raises `NoSpace` if many in a row are not free, `Unreachable`."""
        for port in range(preferred, min(preferred + limits.PORTS_TRIED_MAX, 65536)):
            if self.claim(port):
                if is_free(port):
                    return port
                self._claims.pop(port).close()
        raise errors.NoSpace(
            f"no port is free on {LOOPBACK} from {preferred} to {preferred + limits.PORTS_TRIED_MAX - 1}:"
            " stop what uses them, or write the ports you want into the cluster's configuration files"
        )

    def claim(self, port: int) -> bool:
        """Claim this port, free or not. False if it is claimed already, here or elsewhere."""
        held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            held.bind(f"\0dfs-port-{port}")
        except OSError:
            held.close()
            return False
        self._claims[port] = held
        return True
