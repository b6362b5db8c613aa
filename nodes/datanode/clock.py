"""The NameNode's wall clock, as a DataNode knows it: by that one grants expire, as by that one they were made.

Each answer of the NameNode says what its clock shows; from there it is taken to go on as time does here (`boot_s`). So
machines whose clocks differ serve each other all the same, and one whose clock is set goes on as it was. Before the
first answer there is only this machine's clock.
"""

from __future__ import annotations

from typing import Final

import structlog

from dfs.runtime import Runtime

log = structlog.get_logger(__name__)

_FAR_S: Final = 60.0
"""People are told of clocks that are so far apart: times of files come from those of clients, and of this one logs."""


class NameNodeClock:
    """`told` with each answer; `now_s` is seconds since 1970."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._ahead_s: float | None = None
        """Of `boot_s`."""
        self._is_far = False

    def now_s(self) -> float:
        if self._ahead_s is None:
            return self._runtime.now_ns() / 1e9
        return self._runtime.boot_s() + self._ahead_s

    def told(self, now_ns: int) -> None:
        """What the NameNode's clock has shown a moment ago."""
        self._ahead_s = now_ns / 1e9 - self._runtime.boot_s()
        apart_s = (self._runtime.now_ns() - now_ns) / 1e9
        is_far = abs(apart_s) >= _FAR_S
        if is_far != self._is_far:
            self._is_far = is_far
            if is_far:
                which = "ahead of" if apart_s > 0 else "behind"
                log.warning(f"this machine's clock is {which} the NameNode's: set both", seconds=round(abs(apart_s)))
            else:
                log.info("this machine's clock and the NameNode's agree")
