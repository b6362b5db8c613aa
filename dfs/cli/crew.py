"""A fixed number of workers on a stream of items: what bounds the work, and the memory, of anything recursive."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any, TypeVar

import trio

from dfs import limits, tasks

T = TypeVar("T")


class Places:
    """Files that a crew of SMALL_TRANSFERS_AT_ONCE copies: of them TRANSFERS_AT_ONCE may be large."""

    def __init__(self) -> None:
        self._large = trio.Semaphore(limits.TRANSFERS_AT_ONCE)

    def for_file(self, size: int | None) -> AbstractAsyncContextManager[Any]:
        """Around the copying of a file of so many bytes; None: of nobody knows how many."""
        is_small = size is not None and size <= limits.SMALL_FILE_MAX_BYTES
        return nullcontext() if is_small else self._large


@asynccontextmanager
async def crew(workers: int, work: Callable[[T], Awaitable[None]]) -> AsyncIterator[Callable[[T], Awaitable[None]]]:
    """Gives `put(item)`, which waits until a worker is near; leaving the block waits until all items are done.

    An error in a worker ends the others and is raised.
    """
    send: trio.MemorySendChannel[T]
    receive: trio.MemoryReceiveChannel[T]
    send, receive = trio.open_memory_channel(workers)

    async def serve() -> None:
        async for item in receive:
            await work(item)

    async with tasks.open_nursery() as nursery:
        for _ in range(workers):
            nursery.start_soon(serve)
        async with send:
            yield send.send
