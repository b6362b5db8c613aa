"""How much written data may wait in memory: what the link carries away in time (dirty throttling).

Whoever asks for a file that another client writes waits until that has committed it, and takes it for dead after the
session's time-out. So what is dirty must be able to leave well before that, over whatever link there is: at most what
left of late in a quarter of the time-out, as several files share the link, and never more than DIRTY_MAX_BYTES.

The rate is that of appends while as much as DIRTY_MEASURED_BYTES are under way: of less, the time of a call counts and
not the link. It is an average in which the last DIRTY_REMEMBERED_BYTES weigh most. The limit starts at
DIRTY_FIRST_BYTES, as it does after DIRTY_BELIEVED_S without any of this (the link may be another by then), and grows by
four bytes for each that has left, so that a burst which only buffers have taken says little.

Invariant: DIRTY_MIN_BYTES <= limit_bytes <= DIRTY_MAX_BYTES.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from dfs import limits

_SHARE_OF_TIMEOUT = 1 / 4
_GROWTH = 4


class DirtyThrottle:
    """Of one client."""

    def __init__(self) -> None:
        self.limit_bytes: int = limits.DIRTY_FIRST_BYTES
        """What may be dirty, of all files together."""
        self._under_way = 0
        self._measured_until = -math.inf
        self._left_bytes = 0.0
        self._busy_s = 0.0

    @property
    def rate(self) -> float:
        """Bytes per second that leave while there are enough; infinite while that is not known."""
        return self._left_bytes / self._busy_s if self._busy_s else math.inf

    @contextmanager
    def measured(self, size_bytes: int, timeout_s: float) -> Iterator[None]:
        """To be entered for the time of an append; after such a silence the client is taken for dead."""
        self._begin(size_bytes)
        left_bytes = 0
        try:
            yield
            left_bytes = size_bytes
        finally:
            self._end(size_bytes, left_bytes, timeout_s)

    def _begin(self, size_bytes: int) -> None:
        now = trio.current_time()
        if self._is_measured:
            self._busy_s += now - self._measured_until
        elif now > self._measured_until + limits.DIRTY_BELIEVED_S:
            self.limit_bytes = limits.DIRTY_FIRST_BYTES
            self._left_bytes = self._busy_s = 0.0
        self._under_way += size_bytes
        if self._is_measured:
            self._measured_until = now

    def _end(self, size_bytes: int, left_bytes: int, timeout_s: float) -> None:
        is_measured = self._is_measured
        self._under_way -= size_bytes
        if is_measured:
            now = trio.current_time()
            self._busy_s += now - self._measured_until
            self._measured_until = now
            self._adapt(left_bytes, timeout_s)

    @property
    def _is_measured(self) -> bool:
        return self._under_way >= limits.DIRTY_MEASURED_BYTES

    def _adapt(self, left_bytes: int, timeout_s: float) -> None:
        self._left_bytes += left_bytes
        if self._left_bytes > limits.DIRTY_REMEMBERED_BYTES:
            self._busy_s *= limits.DIRTY_REMEMBERED_BYTES / self._left_bytes
            self._left_bytes = limits.DIRTY_REMEMBERED_BYTES
        bearable = self.rate * timeout_s * _SHARE_OF_TIMEOUT
        grown = self.limit_bytes + _GROWTH * left_bytes
        self.limit_bytes = int(max(limits.DIRTY_MIN_BYTES, min(bearable, grown, limits.DIRTY_MAX_BYTES)))
