"""The service manager that may have started this process: what it is told, and whether it reads our log.

Notifications are datagrams of KEY=VALUE lines to the socket that NOTIFY_SOCKET names, as sd_notify(3) describes; the
socket may be abstract. Without NOTIFY_SOCKET all this does nothing, so daemons need not know how they were started.
"""

from __future__ import annotations

import os
import socket
from typing import TextIO

import structlog
import trio

from dfs import limits

log = structlog.get_logger(__name__)


def notify(**states: str) -> None:
    """Tell systemd, where it started us with Type=notify. Anywhere else it does nothing. Values are of one line."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    message = "\n".join(f"{key}={' '.join(value.split())}" for key, value in states.items())
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)  # a service manager that does not listen holds up no event loop
            sock.sendto(message.encode("utf-8", "replace"), "\0" + path[1:] if path.startswith("@") else path)
    except OSError as error:
        log.warning("systemd could not be notified", error=str(error))


def watchdog_s() -> float | None:
    """The silence after which systemd takes this process for hung (WatchdogSec); None if it does not watch it."""
    microseconds, watched = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or not int(microseconds) or watched not in ("", str(os.getpid())):
        return None
    return int(microseconds) / 1e6


async def keep_watchdog() -> None:
    """Show systemd, for as long as the event loop turns, that it does. Runs until cancelled."""
    timeout_s = watchdog_s()
    if timeout_s is None:
        return
    while True:
        notify(WATCHDOG="1")
        await trio.sleep(min(limits.WATCHDOG_PING_PERIOD_S, timeout_s / 3))


def journal_reads(stream: TextIO) -> bool:
    """Whether what is written there goes straight to the journal; see systemd.exec(5) on JOURNAL_STREAM."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
