"""Counters that hold what is there, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import TypeVar

K = TypeVar("K", bound=Hashable)


def take_away(counts: Counter[K], keys: Iterable[K]) -> None:
    """One of each of `keys`; what none is left of is no key any more, so that the counter does not grow."""
    for key in keys:
        counts[key] -= 1
        if counts[key] <= 0:
            del counts[key]
