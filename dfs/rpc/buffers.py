"""Receive buffers of a server, bounded and used again.

The first touch of a fresh page costs more than copying it, so a new buffer for each message would cost several
times what its bytes do. Buffers come in powers of two; up to `limits.DATA_KEPT_MAX_BYTES` of them are kept.
What is lent out at a time is bounded too, and each party has its share of it (`dfs.room`): who asks for more waits its
turn, and its connection with it.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

from dfs import limits
from dfs.room import Room

_SMALLEST_BYTES = 4 * limits.KIB


class _Loan(NamedTuple):
    """To whom a buffer of `size` bytes is lent."""

    party: Hashable
    member: Hashable
    size: int


class Lease:
    """A buffer on loan: `view` has exactly the length asked for, and is valid until `release`."""

    __slots__ = ("_buffer", "_loan", "_pool", "view")

    def __init__(self, pool: BufferPool, loan: _Loan, buffer: bytearray, length: int) -> None:
        self._pool = pool
        self._loan = loan
        self._buffer: bytearray | None = buffer
        self.view = memoryview(buffer)[:length]

    def release(self) -> None:
        """Give the buffer back. A second time is no error."""
        if self._buffer is not None:
            buffer, self._buffer = self._buffer, None
            self._pool._take_back(buffer, self._loan)


class BufferPool:
    """Lends buffers.

    Not for use by several threads. `_room` counts whole buffers.
    """

    def __init__(
        self,
        lent_max_bytes: int = limits.DATA_IN_WORK_MAX_BYTES,
        kept_max_bytes: int = limits.DATA_KEPT_MAX_BYTES,
    ) -> None:
        self._room = Room(lent_max_bytes)
        self._kept_max_bytes = kept_max_bytes
        self._kept_bytes = 0
        self._kept: dict[int, list[bytearray]] = {}

    @property
    def lent_bytes(self) -> int:
        return self._room.taken

    async def lend(self, length: int, party: Hashable = None, member: Hashable = None) -> Lease:
        """A buffer of `length` bytes, at most the pool's bound, as soon as there is room for it: for a party's member.

        It waits for as long as others hold theirs; they are bounded by the deadlines of messages and calls.
        """
        loan = _Loan(party, member, _size_for(length))
        await self._room.enter(*loan)
        return Lease(self, loan, self._buffer_of(loan.size), length)

    def _buffer_of(self, size: int) -> bytearray:
        kept = self._kept.get(size)
        if not kept:
            return bytearray(size)
        self._kept_bytes -= size
        return kept.pop()

    def _take_back(self, buffer: bytearray, loan: _Loan) -> None:
        if self._kept_bytes + loan.size <= self._kept_max_bytes:
            self._kept_bytes += loan.size
            self._kept.setdefault(loan.size, []).append(buffer)
        self._room.leave(*loan)


def _size_for(length: int) -> int:
    return max(_SMALLEST_BYTES, 1 << max(0, length - 1).bit_length())
