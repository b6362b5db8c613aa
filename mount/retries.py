"""Who looks a path up again, since what it led to was gone when it was to be used: somebody replaces it all the time.

The kernel does that once for a call of a program, in the same thread. If what it finds then is gone again before the
next request, the program gets ESTALE, which no local file system has. So what is found for such a thread is to stay for
a moment, even without a name: the mount takes it for open meanwhile.
"""

from __future__ import annotations

from typing import Final

import trio

MOMENT_S: Final = 5.0
"""From one request of a call to the next, on a very busy machine."""
_THREADS_MAX: Final = 1024
_FILES_MAX: Final = 256
"""That stay for such threads: of those that cannot be seen one may be told so, and all others look."""


class Retries:
    """Threads by their numbers, of which 0 are all that the mount cannot see, as they are in another container."""

    def __init__(self) -> None:
        self._until: dict[int, float] = {}
        self.files = 0
        """That stay at this moment; who has them do so counts them."""

    def note(self, thread: int) -> None:
        """It was told that something is gone."""
        self._until.pop(thread, None)
        self._until[thread] = trio.current_time() + MOMENT_S
        if len(self._until) > _THREADS_MAX:
            del self._until[next(iter(self._until))]

    def has(self, thread: int) -> bool:
        """Whether it was told so a moment ago, and what it finds may stay."""
        if not self._until or self.files >= _FILES_MAX:
            return False
        return self._until.get(thread, 0.0) > trio.current_time()
