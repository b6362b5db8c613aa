"""How long a read waits for one replica before another one is asked as well, and how often that may be.

Patience follows what reads took of late as TCP's retransmission timer follows round trips (RFC 6298): four deviations
above the mean, smoothed. So where all is slow, since a disk or a link is busy, nobody asks twice; where one replica is
slower than the rest, the others have the answer soon.

Asking twice costs the cluster a read that it need not do. So each read that is made saves up for a part of one.
"""

from __future__ import annotations

from typing import Final

from dfs import limits

_MEAN_WEIGHT: Final = 1 / 8  # of the newest: RFC 6298, section 2
_DEVIATION_WEIGHT: Final = 1 / 4
_DEVIATIONS: Final = 4


class Patience:
    """`delay_s` is how long to wait. `mean_s` and `deviation_s` are of what reads took; 0 before the first."""

    def __init__(self) -> None:
        self.mean_s = 0.0
        self.deviation_s = 0.0
        self._saved = limits.HEDGES_SAVED_MAX

    @property
    def delay_s(self) -> float:
        delay_s = self.mean_s + _DEVIATIONS * self.deviation_s
        return min(limits.HEDGE_AFTER_MAX_S, max(limits.HEDGE_AFTER_MIN_S, delay_s))

    def note(self, took_s: float) -> None:
        """A read has been answered."""
        self._saved = min(limits.HEDGES_SAVED_MAX, self._saved + limits.HEDGE_SHARE)
        if not self.mean_s:
            self.mean_s, self.deviation_s = took_s, took_s / 2
            return
        self.deviation_s += _DEVIATION_WEIGHT * (abs(took_s - self.mean_s) - self.deviation_s)
        self.mean_s += _MEAN_WEIGHT * (took_s - self.mean_s)

    def spend(self) -> bool:
        """Whether another replica may be asked as well, which is then paid for."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True
