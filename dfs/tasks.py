"""Nurseries that raise what went wrong in them as it was, where it was one thing; and tasks that harm nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog
import trio

log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_nursery() -> AsyncIterator[trio.Nursery]:
    """As `trio.open_nursery`, but a single error comes out as itself and not in a group.

    For nurseries whose tasks share one fate and whose callers expect the errors of a plain call. Of several errors at
    once, cancellation aside, the first is raised, the others stay attached as its context's notes.
    """
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        raise _single(group) from None


async def in_advance(work: Callable[..., Awaitable[Any]], *args: Any) -> None:
    """Do what nothing depends on, as who needs it does without: a bug in it ends it, and nothing else of the process.

    That is for reading only. Who writes must not go on after what he does not understand.
    """
    try:
        await work(*args)
    except Exception:
        log.exception("what was done in advance failed unexpectedly", work=getattr(work, "__qualname__", repr(work)))


def _single(group: BaseExceptionGroup[BaseException]) -> BaseException:
    _, rest = group.split(trio.Cancelled)
    found = leaves(rest if rest is not None else group)
    if rest is not None:
        for other in found[1:]:
            found[0].add_note(f"and at the same time: {type(other).__name__}: {other}")
    return found[0]


def leaves(error: BaseException) -> list[BaseException]:
    """The errors in a group, however deep; an error that is no group is alone."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for child in error.exceptions for leaf in leaves(child)]
    return [error]


def reason(error: BaseException) -> str:
    """What to tell a person of an error: its own words, or its kind where it has none."""
    first = leaves(error)[0]
    return str(first) or type(first).__name__
