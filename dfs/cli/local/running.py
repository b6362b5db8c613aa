"""Having a supervisor run, or none: what `dfs up` and `dfs down` decide while they hold the cluster's `up.lock`.

A directory is in one of three states. A supervisor answers; or nothing runs, and `supervisor.lock` is free; or
something is on its way from one to the other: a supervisor that starts or stops, or daemons that a killed one left and
that have got their SIGTERM. The third passes, if need be with SIGKILL, and so a command waits for it.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Collection
from typing import Any

from dfs import errors, limits
from dfs.cli.local import control, locks
from dfs.cli.local.layout import Layout
from dfs.cli.local.roster import environment, python_module
from dfs.logfiles import last_line, open_log

_PASSING_TIMEOUT_S = 2 * limits.LOCAL_STOP_TIMEOUT_S + limits.LOCAL_CONTROL_TIMEOUT_S  # a stop that takes its time


def ask(layout: Layout, do: str) -> dict[str, Any] | None:
    """The supervisor's reply, or None when it is certain that nothing runs: neither a supervisor nor a daemon.

    Raises what `control.request` raises.
    """
    deadline = time.monotonic() + _PASSING_TIMEOUT_S
    while True:
        reply = control.request(layout, do)
        if reply is not None:
            return reply
        if locks.is_free(layout.supervisor_lock):
            return None
        if time.monotonic() > deadline:
            locks.kill_holders(layout.supervisor_lock)
        locks.wait_for_a_holder(layout.supervisor_lock, limits.LOCAL_POLL_PERIOD_S)


def start_or_reload(layout: Layout, keep: Collection[int] = ()) -> bool:
    """Have a supervisor that answers, and runs all that is configured; whether it had to be started.

    One that is started inherits the descriptors `keep`, for as long as it lives. Raises
    `DfsError` with the supervisor's last words if it ends at once.
    """
    if ask(layout, "reload") is not None:
        return False
    process = _spawn(layout, keep)
    deadline = time.monotonic() + limits.LOCAL_UP_TIMEOUT_S
    while control.request(layout, "status") is None:
        if process.poll() is not None or time.monotonic() > deadline:
            raise errors.DfsError(_why(layout))
        time.sleep(limits.LOCAL_POLL_PERIOD_S)
    # It is init's child when this command ends; until then nobody waits for it, and that is as it should be.
    process.returncode = 0
    return True


def stop(layout: Layout) -> bool:
    """Stop the supervisor and every daemon; returns when none is left. Whether anything had been running."""
    ran = not locks.is_free(layout.supervisor_lock)
    while ask(layout, "stop") is not None:  # once more: the supervisor itself ends right after its answer
        ran = True
    return ran


def _spawn(layout: Layout, keep: Collection[int]) -> subprocess.Popen[bytes]:
    output = open_log(layout.log("supervisor"))
    argv = [*python_module("dfs.cli.local.supervisor"), "--dir", str(layout.directory)]
    with open(output, "wb") as log:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=layout.directory,
            env=environment(),
            pass_fds=keep,
            start_new_session=True,
        )


def _why(layout: Layout) -> str:
    path = layout.log("supervisor")
    return f"the supervisor of {layout.directory} does not start: {last_line(path) or 'it says nothing'}; see {path}"
