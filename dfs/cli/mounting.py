"""`dfs mount` and `dfs umount`.

A mount is a process of its own (`python -m mount`). It is started in a session of its own, with a pipe on which it
says "ok" when the mount answers, or else why not. For each mount point there is a log, the process's number in a file,
and another one in which it says how it ends (`dfs.ending`), under ~/.local/state/dfs/mounts.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import re
import select
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from dfs import ending, errors, limits
from dfs.cli import show
from dfs.cli.arguments import MOUNTPOINT
from dfs.cli.context import chosen, complain, config_option
from dfs.logfiles import open_log
from dfs.mountpoint import as_listed, find, is_dead, is_mounted, unmount

_WAIT_S: Final = limits.NAMENODE_WAIT_S + 2 * limits.FIRST_CONTACT_TIMEOUT_S
"""By then a mount of the usual patience has given up, and has tried to end its session."""
_SILENT_S: Final = 3.0
"""Who waits for longer is told for what."""
_LOOK_EVERY_S: Final = 0.1
"""Whether a process says that it goes on."""
_NAME_MAX: Final = 200
"""Of a file for a mount point, without its suffix; a longer one is named by a hash."""


@click.command()
@config_option
@click.argument("mountpoint", type=MOUNTPOINT)
@click.option("-o", "options", default="", metavar="OPTIONS", help="As mount(8) takes them; see README.md.")
@click.option("--subtree", default="/", metavar="PATH", help="The directory of the cluster to mount.")
@click.option("--foreground", is_flag=True, help="Stay in the foreground, log to stderr.")
def mount(mountpoint: Path, options: str, subtree: str, foreground: bool) -> None:
    """Mount the cluster, or a directory of it, on MOUNTPOINT, a directory that is there. Returns when it answers."""
    config = chosen().config
    which = ["--config", config] if config else []
    if foreground:
        command = _command(mountpoint, options, subtree, which)
        if not is_mounted(mountpoint) or is_dead(mountpoint):  # or it is refused
            _forget_process(mountpoint)
            with contextlib.suppress(OSError):  # who unmounts it is told that it is not known
                _note_process(mountpoint, os.getpid())
            command += ["--end-file", os.fspath(_state_file(mountpoint, ".end"))]
        sys.stdout.flush()
        os.execv(sys.executable, command)
    try:
        mount_in_background(mountpoint, options, subtree, which)
    except errors.InvalidArgument as error:
        raise click.BadParameter(error.message, param_hint="-o") from None


@click.command()
@click.argument("mountpoint", type=MOUNTPOINT)
@click.option("-l", "--lazy", is_flag=True, help="Also while files on it are open.")
def umount(mountpoint: Path, lazy: bool) -> None:
    """Unmount MOUNTPOINT, and wait until everything written there is committed; what is lost is an error.

    With --lazy, files that are open stay usable; what was written to them so far is committed.
    """
    where = Path(as_listed(mountpoint))
    found = find(where)
    if found is None:
        raise errors.NotFound(f"nothing is mounted on {where}")
    if not found.is_dfs:
        raise errors.InvalidArgument(f"what is mounted on {where} is no dfs: it is a file system of type {found.kind}")
    was_killed = _has_ended(where)
    try:
        unmount(where, lazy=lazy)
    except errors.Busy as error:
        raise errors.Busy(f"{error.message}; --lazy unmounts it all the same") from None
    if was_killed and not _has_said_how(where):
        _forget_process(where)
        complain("unmounted; its process had ended before that: what it had not committed is lost, if there was any")
    elif (process := wait_for_end(where, _WAIT_S)) is not None and not lazy:
        complain(
            "unmounted here, and all is committed; but it is mounted elsewhere too, as in a container: process"
            f" {process} serves it there"
        )


# --- the process ----------------------------------------------------------------------------------------


def _command(mountpoint: Path, options: str, subtree: str, which: Sequence[str]) -> list[str]:
    where = ["--subtree", subtree, "-o", options, as_listed(mountpoint)]
    return [sys.executable, "-P", "-m", "mount", *which, *where]


def _state_file(mountpoint: Path, suffix: str) -> Path:
    base = Path(os.environ.get("XDG_STATE_HOME") or _home() / ".local" / "state")
    whole = urllib.parse.quote_from_bytes(os.fsencode(as_listed(mountpoint).strip("/")), safe="/")
    name = whole.replace("-", "%2D").replace("/", "-") or "-"  # as systemd-escape -p, and no two have the same
    if len(name) > _NAME_MAX:
        name = hashlib.sha256(name.encode()).hexdigest()
    return base / "dfs" / "mounts" / f"{name}{suffix}"


def _home() -> Path:
    """Not HOME, which sudo leaves as it is, or does not: who unmounts is to find what who mounted has written."""
    try:
        return Path(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:  # nobody knows him
        return Path.home()


def mount_in_background(mountpoint: Path, options: str, subtree: str, which: Sequence[str]) -> None:
    """Start a mount and return when it answers. `which` names the cluster, in the process's own options.

    Raises `DfsError` with what the process and libfuse say if it does not come to that; `InvalidArgument` for options
    that cannot be.
    """
    log = _state_file(mountpoint, ".log")
    end = _state_file(mountpoint, ".end")
    try:
        appending = open_log(log)
    except OSError as error:
        raise errors.DfsError(
            f"the mount's log, {log}, cannot be written ({error.strerror}): set XDG_STATE_HOME to a directory for it,"
            " for `dfs umount`, too"
        ) from None
    reading, writing = os.pipe()
    with open(appending, "ab") as output:
        begins_at = output.tell()
        process = subprocess.Popen(
            [
                *_command(mountpoint, options, subtree, which),
                *("--ready-fd", str(writing), "--end-file", str(end), "--log-file", str(log)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[writing],
            start_new_session=True,
        )
    os.close(writing)
    with open(reading, "rb") as said:
        words = os.fsdecode(said.read())  # ends when the process says something, or ends itself
    if words != "ok":
        if process.wait() == ending.USAGE_STATUS:
            raise errors.InvalidArgument(words)
        reasons = _said_by_libfuse(log, begins_at)
        if words and not reasons:
            raise errors.DfsError(words)
        why = ": ".join([words or "the mount ended before it answered", *reasons])
        raise errors.DfsError(f"{why}; its log is {log}")
    _note_process(mountpoint, process.pid)


def _said_by_libfuse(log: Path, begins_at: int) -> list[str]:
    """What libfuse, and fusermount3 for it, wrote to a log since it had so many bytes: they tell nobody else."""
    with open(log, "rb") as file:
        file.seek(begins_at)
        return [os.fsdecode(line[1]) for line in re.finditer(rb"^fuse\w*: (.+)$", file.read(), re.MULTILINE)]


def options_of(mountpoint: Path) -> str | None:
    """The options that the process of a mount was started with; None if it is not known which it is."""
    pid = _process_of(mountpoint)
    command = _command_of(pid, mountpoint) if pid is not None else []
    return os.fsdecode(command[command.index(b"-o") + 1]) if command else None


def _note_process(mountpoint: Path, pid: int) -> None:
    file = _state_file(mountpoint, ".pid")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{pid}\n")


def _process_of(mountpoint: Path) -> int | None:
    """The number of the process that was started last for a mount; it may have ended."""
    try:
        return int(_state_file(mountpoint, ".pid").read_text())
    except (OSError, ValueError):
        return None


def _has_ended(mountpoint: Path) -> bool:
    """Whether it is known which process served a mount, and that it is no more. What hangs is not asked anything."""
    pid = _process_of(mountpoint)
    return pid is not None and not _command_of(pid, mountpoint)


def _has_said_how(mountpoint: Path) -> bool:
    """Whether the process of a mount wrote down how it ended, as where the kernel has given up its connection."""
    pid = _process_of(mountpoint)
    return pid is not None and ending.read(_state_file(mountpoint, ".end"), pid) is not None


def _command_of(pid: int, mountpoint: Path) -> list[bytes]:
    """The command line of a mount's process; empty if it has ended."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []
    return command if os.fsencode(as_listed(mountpoint)) in command else []


def wait_for_end(mountpoint: Path, timeout_s: float) -> int | None:
    """Wait for the process of a mount that was taken away: it commits everything and ends.

    Its number if it goes on, as somebody still uses the mount. Raises `DeadlineExceeded` if all is not committed by
    then, `DfsError` if something is lost.
    """
    pid = _process_of(mountpoint)
    if pid is None:
        raise errors.DfsError(
            "unmounted, but not all of it may be committed yet: its process is not known here, as of others' mounts"
        )
    process = _open_process(pid, mountpoint)
    has_ended = process is None
    if process is not None:
        try:
            has_ended = _wait_for(process, pid, mountpoint, timeout_s)
        finally:
            os.close(process)
    said = ending.read(_state_file(mountpoint, ".end"), pid)
    _forget_process(mountpoint)
    if said is None:
        return None  # it was killed before, or says nothing, as one of an older version
    outcome = "its process ended before it had committed everything" if said.outcome is None else said.outcome
    if outcome:
        raise errors.DfsError(f"unmounted, but {outcome}; the log: {_state_file(mountpoint, '.log')}")
    return None if has_ended else pid


def _open_process(pid: int, mountpoint: Path) -> int | None:
    """A descriptor of a mount's process; None if it has ended."""
    try:
        return os.pidfd_open(pid) if _command_of(pid, mountpoint) else None
    except OSError:
        return None


def _wait_for(process: int, pid: int, mountpoint: Path, timeout_s: float) -> bool:
    """Wait until it has ended, or says that it goes on: whether it has ended. Says on stderr if that takes long.

    Raises `DeadlineExceeded`.
    """
    if (has_ended := _ends(process, pid, mountpoint, _SILENT_S)) is not None:
        return has_ended
    what, tries_s = _uncommitted(pid, mountpoint)
    complain(f"waiting for the cluster: {what} not committed (at most {min(timeout_s, tries_s):g} s)")
    if (has_ended := _ends(process, pid, mountpoint, timeout_s - _SILENT_S)) is not None:
        return has_ended
    what, tries_s = _uncommitted(pid, mountpoint)
    raise errors.DeadlineExceeded(
        f"unmounted, but {what} still not committed: process {pid} goes on trying, for at most {tries_s:g} s since it"
        f" was unmounted; its log: {_state_file(mountpoint, '.log')}"
    )


def _ends(process: int, pid: int, mountpoint: Path, timeout_s: float) -> bool | None:
    """Whether it ends, or says that it goes on; None if it does neither by then."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if poll.poll(1000 * _LOOK_EVERY_S):
            return True
        said = ending.read(_state_file(mountpoint, ".end"), pid)
        if said is not None and said.goes_on:
            return bool(poll.poll(0))
    return None


def _uncommitted(pid: int, mountpoint: Path) -> tuple[str, float]:
    """What a process commits that was unmounted, with the verb, and for how long it tries."""
    said = ending.read(_state_file(mountpoint, ".end"), pid)
    if said is None or not said.files:
        return "what was changed is", limits.NAMENODE_WAIT_S if said is None else said.tries_s
    files = f"{show.counted(said.files, 'file')} ({show.human(said.size_bytes)})"
    return f"{files} {'is' if said.files == 1 else 'are'}", said.tries_s


def _forget_process(mountpoint: Path) -> None:
    """What is known of the last one is nothing to go by any more."""
    for suffix in (".pid", ".end"):
        with contextlib.suppress(OSError):
            _state_file(mountpoint, suffix).unlink()
