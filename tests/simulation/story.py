"""What happened in a run, one line an event, in virtual time; and what should not have happened.

Two runs of one seed tell the same story to the byte. The daemons' own log lines are part of it, so it differs as soon
as any of them does anything else. A line: seconds, who, what.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any, Final, NoReturn

import structlog
import trio

LINES_MAX: Final = 2_000_000

who: ContextVar[str] = ContextVar("who", default="-")
"""The process whose code runs."""
is_alive: ContextVar[list[bool]] = ContextVar("is_alive")
"""Whether that process has not crashed: what one says that dies is of no interest."""

_NEVER: Final = frozenset({"a change was refused that was taken for done", "a change was foreseen otherwise"})
"""What no daemon or client may have to log."""


class Story:
    """`lines` in order; `violations` are those among them that break the contract, `counts` what happened how often."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()

    def tell(self, name: str, what: str) -> None:
        if len(self.lines) < LINES_MAX:
            self.lines.append(f"{trio.current_time():11.6f} {name:10} {what}")

    def violated(self, name: str, what: str) -> None:
        """The contract is broken. The run goes on, as what follows may help to see why."""
        self.violations.append(what)
        self.tell(name, "VIOLATION: " + what)

    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()

    # --- the daemons' logs ------------------------------------------------------------------------------

    def listen(self) -> None:
        """From now on, what this process logs goes into the story."""
        structlog.configure(
            processors=[self._log],
            wrapper_class=structlog.make_filtering_bound_logger(0),
            logger_factory=structlog.ReturnLoggerFactory(),
            cache_logger_on_first_use=False,
        )

    def _log(self, _logger: Any, level: str, event: MutableMapping[str, Any]) -> NoReturn:
        text = str(event.pop("event"))
        unexpected = event.pop("exc_info", None)
        if is_alive.get([True])[0]:
            self.tell(who.get(), f"[{level}] {text}{_fields(event)}")
            if text in _NEVER:
                self.violated(who.get(), f"{who.get()}: {text}{_fields(event)}")
            if unexpected:
                error = unexpected if isinstance(unexpected, BaseException) else _current()
                self.violated(who.get(), f"{who.get()} met an error that nobody planned: {text}: {error!r}")
        raise structlog.DropEvent


def _fields(event: Mapping[str, Any]) -> str:
    return "".join(f" {key}={value}" for key, value in event.items() if key != "directory")


def _current() -> BaseException | None:
    return sys.exc_info()[1]
