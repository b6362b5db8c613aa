"""How a mount ends: its process writes it into a file, for who has unmounted it and cannot ask it any more.

One JSON object, which a newer one takes the place of. It is there when the mount has been taken away and the process
commits what is left, and again when all is over; likewise where others still use what was taken away, when all is
committed that was there then.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, NamedTuple

import structlog

USAGE_STATUS: Final = 2
"""With it the process of a mount ends, as argparse does, that was asked for with wrong options."""

log = structlog.get_logger(__name__)


class Ending(NamedTuple):
    """What the process `pid` had to commit when it was unmounted, for how long it tries, and what came of it."""

    pid: int
    files: int
    """Those of which bytes were not committed."""
    size_bytes: int
    """How many."""
    tries_s: float
    outcome: str | None = None
    """None while it tries; empty when all is committed, else what is lost, and why."""
    goes_on: bool = False
    """Whether it serves on: files are open on the mount, or it is mounted elsewhere too."""


def write(file: Path, ending: Ending) -> None:
    """Have a file say so. Where that cannot be, the log does: it keeps no process from its end."""
    new = file.with_name(f"{file.name}.{ending.pid}")
    try:
        new.write_text(json.dumps(ending._asdict()), encoding="ascii")
        new.replace(file)
    except OSError as error:
        log.warning("who unmounts hears nothing of the end", file=str(file), error=str(error))


def read(file: Path, pid: int) -> Ending | None:
    """What a process has written there; None if that was another one, or nobody."""
    try:
        ending = Ending(**json.loads(file.read_text(encoding="ascii")))
    except (OSError, ValueError, TypeError):
        return None
    return ending if ending.pid == pid else None
