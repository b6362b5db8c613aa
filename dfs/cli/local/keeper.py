"""Keeps one daemon running: starts it, waits for its end, starts it again, a little later each time.

A daemon's life in states:

    starting -> running -> backing off -> starting ...      and from any of them -> stopped
                running -> starting                         when it is told to start again
    starting, running -> removed                            when it ends as one that the cluster has let go

It is `running` once it says so with sd_notify(3)'s READY=1, on a socket that each start gets anew. After its end the
next start waits `limits.RESTART_DELAY_FIRST_S`, doubling to `limits.RESTART_DELAY_MAX_S`, and the first delay again
after a life of `limits.RESTART_DELAY_RESET_S`. There is no giving up but for a DataNode that was
removed from its cluster (`dfs.daemon.REMOVED_STATUS`): anything else that is wrong may be put right at any time.

Daemons are started from the main thread, and must be: the signal that a daemon gets when its parent dies
(PR_SET_PDEATHSIG) is sent when the *thread* that started it ends, and trio's worker threads end when they idle.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import socket
import subprocess
from collections.abc import Callable
from typing import Any, Final

import structlog
import trio

from dfs import limits, tasks
from dfs.cli.local.layout import Layout
from dfs.cli.local.roster import Program, environment
from dfs.daemon import REMOVED_STATUS
from dfs.logfiles import open_log

log = structlog.get_logger(__name__)

STARTING: Final = "starting"
RUNNING: Final = "running"
BACKING_OFF: Final = "backing off"
STOPPED: Final = "stopped"
REMOVED: Final = "removed"

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_NOTIFICATION_MAX_BYTES: Final = 4096
_libc: Final = ctypes.CDLL(None, use_errno=True)  # loaded before any fork: a child may only call, not load


class Keeper:
    """One daemon and its task. `pid`, `restarts` and `state` are for reading; only `keep` writes them."""

    def __init__(self, layout: Layout, program: Program, lock: int, changed: Callable[[], None]) -> None:
        """`lock`: a descriptor that every start inherits. `changed` is called after each change of state."""
        self.program = program
        self.pid: int | None = None
        self.restarts = 0
        self.state = STARTING
        self._log_path = layout.log(program.name)
        self._directory = layout.directory
        self._lock = lock
        self._changed = changed
        self._scope = trio.CancelScope()
        self._hurry = trio.Event()
        self._ended = trio.Event()
        self._life: trio.CancelScope | None = None
        self._again = False

    def view(self) -> dict[str, Any]:
        """What cluster.json says of this daemon; its pid is null while it does not run."""
        return {"pid": self.pid, "address": self.program.address, "restarts": self.restarts, "state": self.state}

    def hurry(self) -> None:
        """If the daemon waits to be started again, start it now."""
        self._hurry.set()

    def restart(self, program: Program) -> None:
        """End the daemon, as `stop` does, and start it again at once, as `program`. Returns before that."""
        self.program = program
        if self._life is None:
            self.hurry()
        else:
            self._again = True
            self._life.cancel()

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL after `limits.LOCAL_STOP_TIMEOUT_S`; returns when the daemon is gone for good."""
        self._scope.cancel()
        await self._ended.wait()  # no deadline: SIGKILL has the last word

    async def keep(self) -> None:
        """Run the daemon, over and over, until `stop`, or until it is `removed`."""
        last = STOPPED
        try:
            with self._scope:
                delay_s = limits.RESTART_DELAY_FIRST_S
                while True:
                    self._again = False
                    lived_s, status = await self._run_once()
                    if status == REMOVED_STATUS:
                        last = REMOVED
                        return
                    if lived_s >= limits.RESTART_DELAY_RESET_S:
                        delay_s = limits.RESTART_DELAY_FIRST_S
                    hurried = self._again or await self._back_off(delay_s)
                    delay_s = limits.RESTART_DELAY_FIRST_S if hurried else min(2 * delay_s, limits.RESTART_DELAY_MAX_S)
                    self.restarts += 1
        finally:
            self._become(last)
            self._ended.set()

    async def _back_off(self, delay_s: float) -> bool:
        """Wait before the next start; whether `hurry` cut it short."""
        self._become(BACKING_OFF)
        self._hurry = trio.Event()
        with trio.move_on_after(delay_s) as waiting:
            await self._hurry.wait()
        return not waiting.cancelled_caught

    def _become(self, state: str) -> None:
        self.state = state
        self._changed()

    # --- one life ---------------------------------------------------------------------------------------

    async def _run_once(self) -> tuple[float, int | None]:
        """Start the daemon and wait for its end; how many seconds it lived, its status. Ends it when cancelled."""
        started = trio.current_time()
        with _Notifications() as notifications:
            try:
                process = self._start(notifications.address)
            except OSError as error:
                log.error("a daemon cannot be started", daemon=self.program.name, error=str(error))
                await trio.lowlevel.checkpoint()
                return 0.0, None
            self.pid = process.pid
            self._become(STARTING)
            try:
                async with tasks.open_nursery() as nursery:
                    self._life = nursery.cancel_scope
                    nursery.start_soon(self._listen, notifications)
                    await _ended(process)
                    nursery.cancel_scope.cancel()
            finally:
                with trio.CancelScope(shield=True):
                    await _end(process)
                self.pid = self._life = None
        lived_s = trio.current_time() - started
        log.warning("a daemon ended", daemon=self.program.name, status=process.returncode, lived_s=round(lived_s, 1))
        return lived_s, process.returncode

    def _start(self, notify_address: str) -> subprocess.Popen[bytes]:
        output = open_log(self._log_path)
        try:
            return subprocess.Popen(
                self.program.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                env=environment() | {"NOTIFY_SOCKET": notify_address},
                pass_fds=(self._lock,),
                preexec_fn=_die_with(os.getpid()),
                start_new_session=True,
            )
        finally:
            os.close(output)

    async def _listen(self, notifications: _Notifications) -> None:
        # Read to the daemon's end, beyond what is of interest: a full socket would block the daemon.
        while True:
            if await notifications.receive_ready() and self.state == STARTING:
                self._become(RUNNING)
                log.info("a daemon runs", daemon=self.program.name, pid=self.pid)


def _die_with(parent: int) -> Callable[[], None]:
    """For the child, between fork and exec: SIGTERM when `parent` dies, also if it has already."""

    def arrange() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return arrange


async def _ended(process: subprocess.Popen[bytes]) -> None:
    """Wait until the process is over, and leave no zombie."""
    if process.poll() is None:
        descriptor = os.pidfd_open(process.pid)
        try:
            await trio.lowlevel.wait_readable(descriptor)  # no deadline: a daemon may run for ever
        finally:
            trio.lowlevel.notify_closing(descriptor)
            os.close(descriptor)
        process.wait()


async def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process if it still runs: in order if it can, in any case within `limits.LOCAL_STOP_TIMEOUT_S`."""
    if process.poll() is not None:
        return
    process.terminate()
    with trio.move_on_after(limits.LOCAL_STOP_TIMEOUT_S):
        await _ended(process)
    if process.poll() is None:
        log.warning("a daemon did not stop and is killed", pid=process.pid)
        process.kill()
        await _ended(process)


class _Notifications:
    """A socket on which one daemon says how it goes, as sd_notify(3) describes."""

    def __init__(self) -> None:
        name = f"dfs-local-{os.getpid()}-{secrets.token_hex(8)}"
        self.address = "@" + name
        """For NOTIFY_SOCKET: in the abstract namespace, which needs no path."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        sock.bind("\0" + name)
        self._socket = trio.socket.from_stdlib_socket(sock)

    def __enter__(self) -> _Notifications:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    async def receive_ready(self) -> bool:
        """Wait for the next notification; whether it is READY=1."""
        return b"READY=1" in (await self._socket.recv(_NOTIFICATION_MAX_BYTES)).split(b"\n")
