"""Logs: one line an event, on stderr, so that grep and the journal both serve.

    a terminal      time level event key=value ..., in colours
    a file, a pipe  logfmt: time=... level=... event="..." key=value ...
    the journal     logfmt without the time, which the journal has, after the event's priority as <N>: sd-daemon(3)

    a program       that uses the client: its own `logging` says what becomes of them

Event names are sentences without variables; what varies is in the keys. A traceback follows its line, for people to
read; in the journal each of its lines has the event's priority.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any, Final

import structlog

from dfs.systemd import journal_reads

_PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def configure_logs(level: str = "info", **always: str) -> None:
    """Send the logs of this process to stderr, those of `level` and above.

    `always` are keys of every event, such as node="n1"; an event's own go before them.
    """

    def add_always(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        for key, value in always.items():
            event.setdefault(key, value)
        return event

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            add_always,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            *_rendering(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: _Lines(sys.stderr),
    )


def log_as_the_program_does() -> None:
    """Give the logs of this process to the loggers below "dfs" of the standard library, unless structlog is configured.

    So a program's standard output is its own: where it does not configure `logging` either, warnings go to stderr. What
    it logs itself with structlog's defaults is logged as before.
    """
    if structlog.is_configured():
        return
    others = structlog.get_config()
    ours: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.filter_by_level,
        structlog.processors.format_exc_info,
        _render_for_program,
    ]

    def make_logger(*args: Any) -> Any:
        is_ours = args and str(args[0]).partition(".")[0] == "dfs"
        return logging.getLogger(args[0]) if is_ours else others["logger_factory"](*args)

    def process(logger: Any, method: str, event: Any) -> Any:
        for processor in ours if isinstance(logger, logging.Logger) else others["processors"]:
            event = processor(logger, method, event)
        return event

    structlog.configure(processors=[process], logger_factory=make_logger)


class _Lines(structlog.PrintLogger):
    """What is logged is lost where it cannot be written, to a full disk or a pipe that nobody reads any more.

    Nobody fails by that: least of all who is about to say what failed.
    """

    def msg(self, message: str) -> None:
        with contextlib.suppress(OSError):
            super().msg(message)

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


def _rendering() -> list[structlog.typing.Processor]:
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    if sys.stderr.isatty():
        return [stamp, structlog.dev.ConsoleRenderer(pad_event_to=0, pad_level=False)]
    if journal_reads(sys.stderr):
        return [_render_for_journal]
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True, key="time")
    return [stamp, _render]


_logfmt: Final = structlog.processors.LogfmtRenderer(
    key_order=["time", "level", "event"], drop_missing=True, bool_as_flag=False
)


def _render(_logger: Any, _method: str, event: structlog.typing.EventDict) -> str:
    traceback = event.pop("exception", None)
    line = str(_logfmt(None, "", event))
    return f"{line}\n{traceback}" if traceback else line


def _render_for_journal(logger: Any, method: str, event: structlog.typing.EventDict) -> str:
    prefix = f"<{_PRIORITIES[event['level']]}>"
    return "\n".join(prefix + line for line in _render(logger, method, event).splitlines() if line)


def _render_for_program(logger: Any, method: str, event: structlog.typing.EventDict) -> str:
    """The level and the time are for the program's own format."""
    said = event.pop("event")
    return f"{said} {_render(logger, method, event)}".rstrip()
