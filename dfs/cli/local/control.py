"""Orders to the supervisor: one line of JSON each way over a Unix stream socket, then the connection is closed.

    {"do": "status"}    -> {"cluster": ...}: what cluster.json holds
    {"do": "reload"}    -> the same, after reading the configurations again, starting daemons that are new, and trying
                           at once those that wait to be started again
    {"do": "restart", "daemon": NAME}  -> the same, before that daemon has ended and started again, as it is configured
                           now: its `restarts` grow when it has ended
    {"do": "stop"}      -> {"stopped": true}, when every daemon is down

A request that cannot be done is answered {"error": SENTENCE}. A socket's address has 107 bytes at most and directories
may be deeper, so both sides reach the socket through a descriptor of its directory: /proc/self/fd/N/supervisor.sock.
Nobody but the cluster's owner may connect: the socket's mode says so.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from dfs import errors, limits
from dfs.cli.local.layout import Layout

_STOP_TIMEOUT_S = 2 * limits.LOCAL_STOP_TIMEOUT_S + limits.LOCAL_CONTROL_TIMEOUT_S  # DataNodes, then the NameNode


@contextmanager
def _short_path(layout: Layout) -> Iterator[str]:
    descriptor = os.open(layout.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{layout.socket.name}"
    finally:
        os.close(descriptor)


def listen(layout: Layout) -> socket.socket:
    """The supervisor's end, in place of any socket that an earlier one left. Only its lock's holder may call this."""
    layout.socket.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    umask = os.umask(0o177)
    try:
        with _short_path(layout) as path:
            sock.bind(path)
        sock.listen()
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(umask)
    return sock


class Order(NamedTuple):
    """What a request asks for."""

    do: str
    daemon: str = ""
    """Which daemon to restart."""


def request(layout: Layout, do: str, **what: str) -> dict[str, Any] | None:
    """Ask the supervisor; its reply, or None if none runs there (or it ended without a reply).

    Blocks for `limits.LOCAL_CONTROL_TIMEOUT_S` at most, `stop` for as long as daemons may take. Raises
    `DeadlineExceeded` after that, `InvalidArgument` with the supervisor's sentence for what it could not do.
    """
    timeout_s = _STOP_TIMEOUT_S if do == "stop" else limits.LOCAL_CONTROL_TIMEOUT_S
    try:
        reply = _exchange(layout, json.dumps({"do": do, **what}).encode() + b"\n", timeout_s)
    except (FileNotFoundError, ConnectionError):
        return None
    except TimeoutError:
        raise errors.DeadlineExceeded(
            f"the supervisor of {layout.directory} did not answer {do!r} within {timeout_s:.0f} s:"
            f" see {layout.log('supervisor')}; if it hangs, kill it, and its daemons stop too"
        ) from None
    return _understood(layout, reply)


def _exchange(layout: Layout, line: bytes, timeout_s: float) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, _short_path(layout) as path:
        sock.settimeout(timeout_s)
        sock.connect(path)
        sock.sendall(line)
        received = bytearray()
        while not received.endswith(b"\n") and len(received) < limits.LOCAL_CONTROL_MAX_BYTES:
            more = sock.recv(limits.LOCAL_CONTROL_MAX_BYTES)
            if not more:
                break
            received += more
        return bytes(received)


def _understood(layout: Layout, reply: bytes) -> dict[str, Any] | None:
    if not reply:
        return None
    try:
        found = json.loads(reply)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise errors.ProtocolViolation(
            f"what answers at {layout.socket} is no supervisor of this version:"
            " stop it with the version that started it"
        )
    if "error" in found:
        raise errors.InvalidArgument(str(found["error"]))
    return found


def parse_request(line: bytes) -> Order:
    """What a request line asks for: "status", "reload", "restart" or "stop". Raises `InvalidArgument` otherwise."""
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    do = found.get("do") if isinstance(found, dict) else None
    if do not in ("status", "reload", "restart", "stop"):
        raise errors.InvalidArgument(
            'a request is one line of JSON: {"do": "status"}, or "reload", or "stop", or "restart" with a "daemon"'
        )
    return Order(str(do), str(found.get("daemon", "")))


def encode_reply(reply: dict[str, Any]) -> bytes:
    """A reply as it goes over the socket."""
    return json.dumps(reply).encode() + b"\n"
