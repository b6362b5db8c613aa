"""What every daemon does: run until SIGTERM or SIGINT, tell systemd how it goes, end with a sentence and a status.

`run_daemon` gives the daemon's main task a nursery and `task_status`; the first signal cancels it (it stops in
order, within its own deadlines), a second one of the same kind ends the process at once.

What systemd hears: READY when the daemon's `Health` says that it serves, its sentence whenever that changes, and from
the event loop itself that the loop turns. When systemd's watchdog finds that it does not, it sends SIGABRT, and the log
has where each thread was.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import structlog
import trio

from dfs import errors, limits, tasks
from dfs.stdio import have_standard_streams
from dfs.systemd import keep_watchdog, notify
from dfs.telemetry import configure_logs

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_KEEP_BYTES = 64 << 20
_COLLECTED_AFTER_OBJECTS = 20_000

REMOVED_STATUS: Final = 3
"""Exit status of a DataNode that was removed from its cluster: whoever keeps it running need not try again."""

log = structlog.get_logger(__name__)

Main = Callable[..., Awaitable[None]]


class Condition(NamedTuple):
    """How a daemon is: whether others can use it, and a sentence about it for whoever looks after it."""

    is_serving: bool
    sentence: str


class Health:
    """Where a daemon says how it is. `ask` is set before the daemon starts to serve; the event loop calls it often."""

    ask: Callable[[], Condition]


def collect_seldom() -> None:
    """Have Python look for garbage in cycles seldom, of which there is little: that took a twentieth of the time."""
    gc.freeze()  # the modules stay
    gc.set_threshold(_COLLECTED_AFTER_OBJECTS)


def tune_memory() -> None:
    """Have malloc keep large blocks that were freed: the first touch of fresh pages costs more than their copying.

    And have Python collect seldom.
    """
    collect_seldom()
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


def run_daemon(main: Main, *, name: str, log_level: str, health: Health, **always: str) -> int:
    """Run `main(task_status=...)` until it ends or a signal ends it; the exit status.

    `main` calls `task_status.started(address)` when it listens; whether it serves, its `health` says from then on.
    `always` are keys of every log event. 0 after a signal, 1 after an error (`REMOVED_STATUS` after `NodeRemoved`),
    which is told in one sentence if it is one of ours and logged with its traceback otherwise.
    """
    have_standard_streams()
    configure_logs(log_level, daemon=name, **always)
    faulthandler.enable()
    tune_memory()
    raise_file_limit()
    try:
        trio.run(_until_signal, main, health)
    except BaseException as error:
        first = tasks.leaves(error)[0]
        if isinstance(first, KeyboardInterrupt):
            return 0
        if not isinstance(first, errors.DfsError):
            log.error("the daemon failed", exc_info=first)
            return 1
        notify(STATUS=str(first))
        print(f"dfs {name}: {first}", file=sys.stderr)  # noqa: T201 - the sentence for whoever started it
        return REMOVED_STATUS if isinstance(first, errors.NodeRemoved) else 1
    return 0


@contextmanager
def named(setting: str, file: str) -> Iterator[None]:
    """Listening where a setting of a configuration says. Raises `Unreachable`, which names both."""
    try:
        yield
    except errors.Unreachable as error:
        raise errors.Unreachable(
            f"{error.message}: `{setting}` in the daemon's configuration ({file}) says which address it is to be"
        ) from error


async def _until_signal(main: Main, health: Health) -> None:
    async with tasks.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            work = trio.CancelScope()
            await nursery.start(_stop_at, signals, work)
            nursery.start_soon(keep_watchdog)
            with work:
                async with tasks.open_nursery() as telling:
                    async with tasks.open_nursery() as inner:
                        notify(STATUS="starting")
                        address: Any = await inner.start(main)
                        log.info("serving", address=address, pid=os.getpid())
                        telling.start_soon(_tell_health, health)
                    telling.cancel_scope.cancel()
            nursery.cancel_scope.cancel()


async def _tell_health(health: Health) -> None:
    """Tell systemd how the daemon is, whenever that changes. Runs until cancelled."""
    is_ready, told = False, ""
    while True:
        try:
            is_serving, sentence = health.ask()
        except errors.DfsError as error:
            is_serving, sentence = False, error.message
        if is_serving and not is_ready:
            is_ready = True
            notify(READY="1", STATUS=sentence)
        elif sentence != told:
            notify(STATUS=sentence)
        told = sentence
        await trio.sleep(limits.HEALTH_PERIOD_S if is_ready else limits.STARTING_PERIOD_S)


async def _stop_at(
    signals: Any, work: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    task_status.started()
    stopping = False
    async for number in signals:
        if stopping:
            os._exit(128 + number)
        stopping = True
        log.info("stopping", signal=signal.Signals(number).name)
        notify(STOPPING="1", STATUS="stopping")
        work.cancel()
