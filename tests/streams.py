"""Bare bytes on the streams of `dfs.rpc`, for tests that speak for one end themselves."""

from __future__ import annotations

from collections.abc import Sequence

from dfs.checksum import Buffer
from dfs.rpc import Stream
from dfs.rpc.network import without_first


async def send_all(stream: Stream, buffers: Sequence[Buffer]) -> None:
    """Send all buffers in order, and wait for as long as the other end takes nothing."""
    rest = [buffer for buffer in buffers if len(buffer)]
    while rest:
        rest = without_first(rest, stream.send_nowait(rest))
        if rest:
            await stream.wait_writable()
