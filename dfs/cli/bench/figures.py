"""What was timed: steps of one kind, how long each took, and what that makes for rates and percentiles."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest of `ordered` (ascending, not empty) that `percent` per cent of them do not exceed: nearest rank."""
    rank = math.ceil(percent * len(ordered) / 100)
    return ordered[max(0, rank - 1)]


class Figures(NamedTuple):
    """One line. `latencies_s` are of steps; a step may be several operations, as one listing is of many entries."""

    operations: int
    moved_bytes: int
    elapsed_s: float
    """From the first step's beginning to the end, with what follows the last step, such as an fsync."""
    p50_s: float
    p95_s: float
    p99_s: float

    @property
    def operations_per_s(self) -> float:
        return self.operations / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def bytes_per_s(self) -> float:
        return self.moved_bytes / self.elapsed_s if self.elapsed_s else 0.0


class Stopwatch:
    """Times steps, one after the other, and says when they have taken long enough. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float], limit_s: float) -> None:
        self._clock = clock
        self._limit_s = limit_s
        self._latencies_s = array("d")
        self._operations = 0
        self.moved_bytes = 0
        self._started_s = self._lap_s = clock()

    def start(self) -> None:
        """Begin now: what came since this was made, as opening a file, is not timed."""
        self._started_s = self._lap_s = self._clock()

    @property
    def is_over(self) -> bool:
        """Whether no further step should begin; one there always is."""
        return self.steps > 0 and self._lap_s - self._started_s >= self._limit_s

    @property
    def steps(self) -> int:
        return len(self._latencies_s)

    def lap(self, moved_bytes: int = 0, operations: int = 1) -> None:
        """A step has ended, and the next begins."""
        now_s = self._clock()
        self._latencies_s.append(now_s - self._lap_s)
        self._lap_s = now_s
        self._operations += operations
        self.moved_bytes += moved_bytes

    def stop(self) -> Figures:
        """All is done. Without a step all figures but the time are 0."""
        ordered = sorted(self._latencies_s) or [0.0]
        return Figures(
            self._operations,
            self.moved_bytes,
            self._clock() - self._started_s,
            *(percentile(ordered, percent) for percent in (50, 95, 99)),
        )
