"""Small programs for a supervisor to keep: real processes that do one thing a daemon may do."""

from __future__ import annotations

import sys
from pathlib import Path

from dfs.cli.local.roster import Program
from dfs.daemon import REMOVED_STATUS

_PYTHON = (sys.executable, "-I", "-S", "-c")

_READY = """
import os, signal, socket, sys, time
def ready():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"STATUS=serving\\nREADY=1", "\\0" + os.environ["NOTIFY_SOCKET"][1:])
"""


def _child(name: str, code: str, stage: int) -> Program:
    return Program(name, (*_PYTHON, _READY + code), "127.0.0.1:1", stage)


def serving(name: str, stage: int = 0) -> Program:
    """Writes a line, says that it is ready, and runs until it is told to stop: who sees it ready finds the line."""
    return _child(name, "print('serving', flush=True)\nready()\nsignal.pause()", stage)


def never_ready(name: str) -> Program:
    """Runs, and never says that it is ready."""
    return _child(name, "signal.pause()", 0)


def failing(name: str) -> Program:
    """Ends at once with a sentence."""
    return _child(name, f"sys.exit('dfs {name}: the port is taken')", 0)


def removed(name: str) -> Program:
    """Ends at once as a DataNode that was removed from its cluster."""
    return _child(name, f"sys.exit({REMOVED_STATUS})", 1)


def deaf(name: str) -> Program:
    """Ignores SIGTERM."""
    return _child(name, "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nready()\nwhile True: signal.pause()", 0)


def signing_off(name: str, book: Path, stage: int) -> Program:
    """Writes its name into `book` as it stops, after taking a while over it."""
    code = f"""
def stop(*_):
    time.sleep(0.2)
    with open({str(book)!r}, "a") as file:
        file.write({name + chr(10)!r})
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
ready()
signal.pause()
"""
    return _child(name, code, stage)
