"""Log files of daemons and mounts: bounded in size, and read from the end when something went wrong.

A process's stdout and stderr are its log, opened for appending: so a log can be emptied while its process writes, and
what it writes next goes to the beginning. The last full one is kept beside it as NAME.log.1. What a process writes in
the instant between copying and emptying is lost.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from dfs import limits

_TAIL_BYTES = 16 * limits.KIB  # the last line is in here, or too long to tell anybody


def open_log(path: Path) -> int:
    """A descriptor to append to, after putting a full log aside; makes the directory where missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if _size(path) > limits.LOG_FILE_MAX_BYTES:
        path.replace(_before(path))
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)


def empty_if_full(path: Path) -> None:
    """Put a log aside that its process is writing to. Raises `OSError` as the disk does."""
    if _size(path) > limits.LOG_FILE_MAX_BYTES:
        shutil.copyfile(path, _before(path))
        os.truncate(path, 0)


def last_line(path: Path, after: int = 0) -> str:
    """The last line that is not blank, of what was written after the first `after` bytes; "" if there is none.

    A log that has become shorter than `after` was begun anew, and counts from its beginning.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = after if size >= after else 0
            file.seek(max(start, size - _TAIL_BYTES))
            lines = file.read(_TAIL_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _before(path: Path) -> Path:
    return path.with_name(path.name + ".1")
