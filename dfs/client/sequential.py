"""Who reads a file in order, and how sure that is: what is read ahead for who reads at random is wasted.

A read that begins where another one ended goes on with a stream; the kernel's own read-ahead asks a little out of
order, so near is enough. Near is a large part of a small file, and some reads at random hit it: so nothing is fetched
ahead before that has happened more than once.
"""

from __future__ import annotations

from dfs import limits


class Streams:
    """The readers of one open file. `_ends` is where each is, `_steps` how often it went on; the latest is last."""

    def __init__(self) -> None:
        self._ends: list[int] = []
        self._steps: list[int] = []

    def note(self, offset: int, count: int) -> int:
        """A read: how often its stream has gone on where it was, this time included.

        A read of the file's beginning counts as sure: most files are read whole, and most are small.
        """
        end = offset + count
        for index, last in enumerate(self._ends):
            if abs(offset - last) <= limits.STREAM_NEAR_BYTES and offset + limits.STREAM_NEAR_BYTES > last:
                self._ends[index] = max(end, last)
                self._steps[index] += 1
                return self._steps[index]
        steps = 0 if offset else limits.STREAM_SURE_AFTER
        self._ends = [*self._ends[1 - limits.STREAMS_MAX :], end]
        self._steps = [*self._steps[1 - limits.STREAMS_MAX :], steps]
        return steps

    def forget(self) -> None:
        self._ends.clear()
        self._steps.clear()
