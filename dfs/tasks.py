"""Nurseries that raise what went wrong in them as it was, where it was one thing; tasks that harm nobody; locks."""

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


class holding:  # noqa: N801 - it is used as a function
    """`async with holding(lock)`: as `async with lock`, but a lock that is free is taken without a round of the loop.

    For locks that are rarely contended and held at each of many small calls, which wait for something anyway.
    """

    __slots__ = ("_lock",)

    def __init__(self, lock: trio.Lock) -> None:
        self._lock = lock

    async def __aenter__(self) -> None:
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()

    async def __aexit__(self, *_exception: object) -> None:
        self._lock.release()


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
