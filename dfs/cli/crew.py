"""A fixed number of workers on a stream of items: what bounds the work, and the memory, of anything recursive."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

from dfs import tasks

T = TypeVar("T")


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
