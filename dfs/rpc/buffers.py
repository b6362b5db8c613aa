"""Receive buffers of a server, bounded and used again.

The first touch of a fresh page costs more than copying it, so a new buffer for each message would cost several
times what its bytes do. Buffers come in powers of two; up to `limits.DATA_KEPT_MAX_BYTES` of them are kept.
What is lent out at a time is bounded too: who asks for more waits its turn, and its connection with it.
"""

from __future__ import annotations

from collections import deque

import trio

from dfs import limits

_SMALLEST_BYTES = 4 * limits.KIB


class Lease:
    """A buffer on loan: `view` has exactly the length asked for, and is valid until `release`."""

    __slots__ = ("_buffer", "_pool", "view")

    def __init__(self, pool: BufferPool, buffer: bytearray, length: int) -> None:
        self._pool = pool
        self._buffer: bytearray | None = buffer
        self.view = memoryview(buffer)[:length]

    def release(self) -> None:
        """Give the buffer back. A second time is no error."""
        if self._buffer is not None:
            buffer, self._buffer = self._buffer, None
            self._pool._take_back(buffer)


class BufferPool:
    """Lends buffers.

    Not for use by several threads. `_lent_bytes` counts whole buffers; `_waiting` is in order of arrival.
    """

    def __init__(
        self,
        lent_max_bytes: int = limits.DATA_IN_WORK_MAX_BYTES,
        kept_max_bytes: int = limits.DATA_KEPT_MAX_BYTES,
    ) -> None:
        self._lent_max_bytes = lent_max_bytes
        self._kept_max_bytes = kept_max_bytes
        self._lent_bytes = 0
        self._kept_bytes = 0
        self._kept: dict[int, list[bytearray]] = {}
        self._waiting: deque[tuple[int, trio.Event]] = deque()

    @property
    def lent_bytes(self) -> int:
        return self._lent_bytes

    async def lend(self, length: int) -> Lease:
        """A buffer of `length` bytes, at most the pool's bound, as soon as there is room for it.

        It waits for as long as others hold theirs; they are bounded by the deadlines of messages and calls.
        """
        size = _size_for(length)
        assert size <= self._lent_max_bytes
        if self._waiting or not self._has_room(size):
            await self._wait_turn(size)
        else:
            self._lent_bytes += size
        return Lease(self, self._buffer_of(size), length)

    def _has_room(self, size: int) -> bool:
        return self._lent_bytes + size <= self._lent_max_bytes

    async def _wait_turn(self, size: int) -> None:
        """Return with `size` bytes accounted as lent."""
        turn = (size, trio.Event())
        self._waiting.append(turn)
        try:
            await turn[1].wait()
        except trio.Cancelled:
            if turn[1].is_set():
                self._lent_bytes -= size
            else:
                self._waiting.remove(turn)
            self._serve_waiting()
            raise

    def _serve_waiting(self) -> None:
        while self._waiting and self._has_room(self._waiting[0][0]):
            size, turn = self._waiting.popleft()
            self._lent_bytes += size
            turn.set()

    def _buffer_of(self, size: int) -> bytearray:
        kept = self._kept.get(size)
        if not kept:
            return bytearray(size)
        self._kept_bytes -= size
        return kept.pop()

    def _take_back(self, buffer: bytearray) -> None:
        size = len(buffer)
        self._lent_bytes -= size
        if self._kept_bytes + size <= self._kept_max_bytes:
            self._kept_bytes += size
            self._kept.setdefault(size, []).append(buffer)
        self._serve_waiting()


def _size_for(length: int) -> int:
    return max(_SMALLEST_BYTES, 1 << max(0, length - 1).bit_length())
