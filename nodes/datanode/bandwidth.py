"""A bound on bytes per second that several tasks share."""

from __future__ import annotations

from typing import Final

import trio

from dfs import errors

_BURST_S: Final = 0.1
"""What was not used in so much time may be caught up with: the clock's ticks cost no bandwidth."""


class TokenBucket:
    """`rate_bytes_per_s` may be changed at any time; None is no bound. Who waits already keeps the time it was given.

    `_free_at` is when all that was taken so far has been paid for, in trio's time.
    """

    def __init__(self, rate_bytes_per_s: float | None = None) -> None:
        self.rate_bytes_per_s = rate_bytes_per_s
        self._free_at = float("-inf")

    async def take(self, count_bytes: int, most_s: float | None = None) -> None:
        """Return when it is these bytes' turn, in the order of calls.

        Raises Busy at once, and takes nothing, if that would be later than `most_s` from now.
        """
        if not self.rate_bytes_per_s:
            await trio.lowlevel.checkpoint()
            return
        now = trio.current_time()
        turn = max(self._free_at, now - _BURST_S)
        if most_s is not None and turn - now > most_s:
            raise errors.Busy(
                f"copies wait for {turn - now:.0f} s of bandwidth already: ask again, or ask another node"
            )
        self._free_at = turn + count_bytes / self.rate_bytes_per_s
        await trio.sleep_until(turn)
