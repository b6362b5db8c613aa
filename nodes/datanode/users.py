"""Users come first: how copies and the scrub make way for them.

`Users` counts the calls of clients in work. They are here as long as the last one ended less than USERS_GONE_AFTER_S
ago: a client that stores one small file after the other has no call in work most of the time, and still is hindered
by all that competes with it for the disk, the link and the processors.

`Background` bounds work that makes way. Without users it runs as it comes. With users one step is done at a time, and
after it comes a rest as long as the step took, up to COPY_REST_MAX_S: so whatever is scarce, users have it half of the
time or more, and the work still gets done under a load that never ends. No step may wait for another one's turn at the
same `Background`, on whatever node that waits in between.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio

from dfs import errors, limits


class Users:
    """`in_work` calls of clients are in work."""

    def __init__(self) -> None:
        self.in_work = 0
        self._seen_at = float("-inf")

    @contextmanager
    def call(self) -> Iterator[None]:
        """Around each call of a client."""
        self.in_work += 1
        try:
            yield
        finally:
            self.in_work -= 1
            self._seen_at = trio.current_time()

    @property
    def are_here(self) -> bool:
        return self.in_work > 0 or trio.current_time() < self._seen_at + limits.USERS_GONE_AFTER_S


class Background:
    """Of one kind of work that makes way for `users`."""

    def __init__(self, users: Users) -> None:
        self._users = users
        self._turn = trio.Lock()
        self._next_at = float("-inf")

    @asynccontextmanager
    async def step(self, most_s: float | None = None) -> AsyncIterator[None]:
        """Around a step. Raises Busy, before it has begun, if its turn does not come within `most_s`."""
        if not self._users.are_here:
            yield
            return
        with trio.move_on_after(float("inf") if most_s is None else most_s) as scope:
            await self._turn.acquire()
        if scope.cancelled_caught:
            raise errors.Busy("copies wait for users: ask again, or ask another node")
        try:
            if self._users.are_here:
                await trio.sleep_until(self._next_at)
            began = trio.current_time()
            yield
            ended = trio.current_time()
            self._next_at = ended + min(ended - began, limits.COPY_REST_MAX_S)
        finally:
            self._turn.release()
