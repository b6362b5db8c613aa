"""Daemons and commands that begin where their modules are loaded: importing them takes more processor than most tests.

    daemon = Forked("nodes.namenode", ["--config", file], log)
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(10) == 0

    done = as_text(run_dfs("ls", "/", environment={**os.environ, "DFS_CONFIG": str(file)}))
    assert done.returncode == 0, done.stderr

One process for all tests of a worker has the modules, and forks what is asked for; each daemon or command then is a
process of its own that runs what `python -m MODULE` runs. Tests that are about how one is started do start it.
"""

from __future__ import annotations

import ctypes
import importlib
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

_COMMAND: Final = "dfs.cli"
_CONTEXT: Final = multiprocessing.get_context("forkserver")
_LOADED: Final = ("nodes.datanode.__main__", "nodes.namenode.__main__", "dfs.client", "rich.console", "rich.table")
_VERBS: Final = ("cluster", "listing", "checking", "nodes", "uploading", "downloading", "mounting", "keys", "join")
"""Modules of `dfs.cli` that many tests run."""
_CONTEXT.set_forkserver_preload([__name__, *_LOADED, *(f"{_COMMAND}.{name}" for name in _VERBS)])
_CLONE_NEWNET: Final = 0x40000000
_CLONE_NEWUTS: Final = 0x04000000
"""<linux/sched.h>."""


class Host(NamedTuple):
    """Where a process runs, if not where its parent does: a network namespace's file, and a name."""

    network: str
    name: str


class Forked:
    """Has of `subprocess.Popen` what is used of it. It ends at the latest with the process that made it."""

    def __init__(self, module: str, arguments: Sequence[str], log: Path) -> None:
        self.args = [module, *arguments]
        streams = _Streams(os.devnull, str(log), str(log))
        self._process = _start(module, arguments, streams, os.environ, None, None)

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        """Its exit status, less than 0 the signal that ended it; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout_s: float) -> int:
        """As `poll`, when it has ended. Raises `subprocess.TimeoutExpired`."""
        self._process.join(timeout_s)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout_s)
        return self._process.exitcode


def run_dfs(
    *arguments: str | bytes | Path | int,
    environment: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    directory: Path | None = None,
    host: Host | None = None,
    timeout_s: float = 120.0,
) -> subprocess.CompletedProcess[bytes]:
    """Run `dfs ARGUMENTS` to its end. Raises `subprocess.TimeoutExpired`, after killing it."""
    argv = [os.fsdecode(each) if isinstance(each, bytes) else str(each) for each in arguments]
    with tempfile.TemporaryDirectory(prefix="dfs-command-") as place:
        streams = _Streams(f"{place}/stdin", f"{place}/stdout", f"{place}/stderr")
        Path(streams.stdin).write_bytes(stdin)
        process = _start(_COMMAND, argv, streams, environment or os.environ, directory, host)
        process.join(timeout_s)
        status = process.exitcode
        if status is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(["dfs", *argv], timeout_s, Path(streams.stdout).read_bytes())
        out, err = Path(streams.stdout).read_bytes(), Path(streams.stderr).read_bytes()
    return subprocess.CompletedProcess(["dfs", *argv], status, out, err)


def as_text(done: subprocess.CompletedProcess[bytes]) -> subprocess.CompletedProcess[str]:
    """The same, with what was printed as text."""
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


class _Streams(NamedTuple):
    """Files in the place of the standard ones."""

    stdin: str
    stdout: str
    stderr: str


def _start(
    module: str,
    arguments: Sequence[str],
    streams: _Streams,
    environment: Mapping[str, str],
    directory: Path | None,
    host: Host | None,
) -> multiprocessing.process.BaseProcess:
    where = str(directory or Path.cwd())
    process = _CONTEXT.Process(
        target=_run, args=(module, list(arguments), streams, dict(environment), where, host), daemon=True
    )
    process.start()
    return process


# --- in the new process -----------------------------------------------------------------------------------


def _run(
    module: str, arguments: list[str], streams: _Streams, environment: dict[str, str], directory: str, host: Host | None
) -> None:
    if host is not None:
        _move(host)
    _redirect(streams)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    main = importlib.import_module(f"{module}.__main__")
    sys.argv = [main.__file__ or module, *arguments]
    sys.exit(main.main())


def _move(host: Host) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with open(host.network, "rb") as space:
        if libc.setns(space.fileno(), _CLONE_NEWNET) or libc.unshare(_CLONE_NEWUTS):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), host.network)
    socket.sethostname(host.name)


def _redirect(streams: _Streams) -> None:
    """Python's own streams are made anew: those that there are were made for others, and know how these are read."""
    encoding, errors = sys.stdout.encoding, sys.stdout.errors
    for number, path in enumerate(streams):
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT if number else os.O_RDONLY, 0o644)
        os.dup2(file, number)
        os.close(file)
    sys.stdin = open(0, encoding=encoding, errors=errors, closefd=False)  # noqa: SIM115 - for as long as the process runs
    sys.stdout = open(1, "w", encoding=encoding, errors=errors, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding=encoding, errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
