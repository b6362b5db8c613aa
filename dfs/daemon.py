"""What every daemon does: run until SIGTERM or SIGINT, tell systemd how it goes, end with a sentence and a status.

`run_daemon` gives the daemon's main task a nursery and `task_status`; the first signal cancels it (it stops in
order, within its own deadlines), a second one of the same kind ends the process at once.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
import trio

from dfs import errors, tasks
from dfs.telemetry import configure_logs

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_KEEP_BYTES = 64 << 20

log = structlog.get_logger(__name__)

Main = Callable[..., Awaitable[None]]


def notify(**states: str) -> None:
    """Tell systemd, where it started us with Type=notify; see sd_notify(3). Anywhere else it does nothing."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    message = "\n".join(f"{key}={value}" for key, value in states.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(message.encode(), "\0" + path[1:] if path.startswith("@") else path)
        except OSError as error:
            log.warning("systemd could not be notified", error=str(error))


def keep_freed_memory() -> None:
    """Have malloc keep large blocks that were freed: the first touch of fresh pages costs more than their copying."""
    try:
        libc = ctypes.CDLL(None)
        for option in (_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD):
            libc.mallopt(option, _KEEP_BYTES if option != _M_TOP_PAD else _KEEP_BYTES // 4)
    except (OSError, AttributeError):  # another C library: slower, nothing else
        pass


def raise_file_limit() -> None:
    """Let this process open as many files as the machine's administrator allows at all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run_daemon(main: Main, *, name: str, log_level: str) -> int:
    """Run `main(task_status=...)` until it ends or a signal ends it; the exit status.

    `main` calls `task_status.started(address)` when it serves. 0 after a signal, 1 after an error, which is told in
    one sentence if it is one of ours and logged with its traceback otherwise.
    """
    configure_logs(log_level)
    keep_freed_memory()
    raise_file_limit()
    try:
        trio.run(_until_signal, main, name)
    except BaseException as error:
        first = tasks.leaves(error)[0]
        if isinstance(first, KeyboardInterrupt):
            return 0
        if not isinstance(first, errors.DfsError):
            log.error("the daemon failed", daemon=name, exc_info=first)
            return 1
        notify(STATUS=str(first))
        print(f"dfs {name}: {first}", file=sys.stderr)  # noqa: T201 - the sentence for whoever started it
        return 1
    return 0


async def _until_signal(main: Main, name: str) -> None:
    async with tasks.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            work = trio.CancelScope()
            await nursery.start(_stop_at, signals, work, name)
            with work:
                async with tasks.open_nursery() as inner:
                    address: Any = await inner.start(main)
                    log.info("serving", daemon=name, address=address, pid=os.getpid())
                    notify(READY="1", STATUS=f"serving at {address}")
            nursery.cancel_scope.cancel()


async def _stop_at(
    signals: Any, work: trio.CancelScope, name: str, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    task_status.started()
    stopping = False
    async for number in signals:
        if stopping:
            os._exit(128 + number)
        stopping = True
        log.info("stopping", daemon=name, signal=signal.Signals(number).name)
        notify(STOPPING="1")
        work.cancel()
