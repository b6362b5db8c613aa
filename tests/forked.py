"""Daemons that begin where their modules are loaded: importing them takes more processor than most tests of them.

    daemon = Forked("nodes.namenode", ["--config", file], log)
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(10) == 0

One process for all tests of a worker has the modules, and forks what is asked for; each daemon then is a process of its
own that runs what `python -m MODULE` runs. Tests that are about how a daemon is started do start one.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_CONTEXT: Final = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__, "nodes.datanode.__main__", "nodes.namenode.__main__"])


class Forked:
    """Has of `subprocess.Popen` what is used of it. It ends at the latest with the process that made it."""

    def __init__(self, module: str, arguments: Sequence[str], log: Path) -> None:
        self.args = [module, *arguments]
        self._process = _CONTEXT.Process(
            target=_run, args=(module, list(arguments), str(log), dict(os.environ)), daemon=True
        )
        self._process.start()

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


def _run(module: str, arguments: list[str], log: str, environment: dict[str, str]) -> None:
    """In the new process."""
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.environ.clear()
    os.environ.update(environment)
    main = importlib.import_module(f"{module}.__main__")
    sys.argv = [main.__file__ or module, *arguments]
    sys.exit(main.main())
