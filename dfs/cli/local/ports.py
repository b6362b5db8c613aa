"""Ports for daemons of this machine: the usual ones where they are free, else the next ones above.

A port is free if it can be bound now. It is let go again and bound by the daemon later: another program may take it
in between, and then the daemon says so.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Final

from dfs import errors, limits

LOOPBACK: Final = "127.0.0.1"


def is_free(port: int) -> bool:
    """Whether a daemon could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: old connections do not count
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


class FreePorts:
    """Hands out loopback ports that are free, each once, and none of `taken`."""

    def __init__(self, taken: Iterable[int] = ()) -> None:
        self._taken = set(taken)

    def take(self, preferred: int) -> int:
        """`preferred`, or the next free port above. Raises `NoSpace` if many in a row are not free."""
        for port in range(preferred, min(preferred + limits.PORTS_TRIED_MAX, 65536)):
            if port not in self._taken and is_free(port):
                self._taken.add(port)
                return port
        raise errors.NoSpace(
            f"no port is free on {LOOPBACK} from {preferred} to {preferred + limits.PORTS_TRIED_MAX - 1}:"
            " stop what uses them, or write the ports you want into the cluster's configuration files"
        )
