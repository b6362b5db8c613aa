"""Who looks a path up again, since what it led to was gone when it was to be used: somebody replaces it all the time.

The kernel does that once for a call of a program, in the same thread. If what it finds then is gone again before the
next request, the program gets ESTALE, which no local file system has. So what is found for such a thread is to stay for
a moment, even without a name: the mount takes it for open meanwhile, at most until the thread has opened something, or
has found so much else that it is at another call.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import trio

MOMENT_S: Final = 5.0
"""From one request of a call to the next, on a very busy machine."""
_THREADS_MAX: Final = 1024
_FILES_MAX: Final = 256
"""That stay for such threads: of those that cannot be seen one may be told so, and all others look."""
_FILES_OF_A_CALL: Final = 2
"""A call has two paths at most."""


class Retry:
    """Of a thread that was told so a moment ago: until then, or until it is over.

    `stays` has an event for each file that it has found, the last ones; it is set when the file need not stay any more.
    """

    def __init__(self) -> None:
        self.until = 0.0
        self.is_over = False
        self.stays: deque[trio.Event] = deque()


class Retries:
    """Threads by their numbers, of which 0 are all that the mount cannot see, as they are in another container."""

    def __init__(self) -> None:
        self._retries: dict[int, Retry] = {}
        self._files = 0
        """That stay at this moment."""

    def note(self, thread: int) -> None:
        """It was told that something is gone."""
        retry = self._retries.pop(thread, None) or Retry()
        retry.until = trio.current_time() + MOMENT_S
        self._retries[thread] = retry
        if len(self._retries) > _THREADS_MAX:
            del self._retries[next(iter(self._retries))]

    def of(self, thread: int) -> Retry | None:
        """Its own, if it is in one, and what it finds may stay."""
        if not self._retries or self._files >= _FILES_MAX:
            return None
        retry = self._retries.get(thread)
        return retry if retry is not None and retry.until > trio.current_time() else None

    def opened(self, thread: int) -> None:
        """It has opened something: if that was for a second time, it needs nothing more of what it found."""
        if thread and self._retries:
            retry = self._retries.pop(thread, None)
            if retry is not None:
                retry.is_over = True
                for stay in retry.stays:
                    stay.set()

    async def stay(self, thread: int, retry: Retry) -> None:
        """Return when what the thread has found just now need not stay any more."""
        if retry.is_over:
            return
        over = trio.Event()
        retry.stays.append(over)
        if thread and len(retry.stays) > _FILES_OF_A_CALL:
            retry.stays.popleft().set()
        self._files += 1
        try:
            with trio.move_on_after(MOMENT_S):
                await over.wait()
        finally:
            self._files -= 1
            if over in retry.stays:
                retry.stays.remove(over)
