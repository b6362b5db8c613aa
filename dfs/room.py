"""Room that parties share, and wait for in turn: bytes in work, mostly.

Each has its share of it (`dfs.turns`), so that there is room for who comes next though others fill theirs and do not
give it back. What waits because its own party or member has its share already keeps nobody else waiting; what waits
for its party's share is not overtaken by others of the party, and what waits because there is no room at all is not
overtaken by anybody.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

import trio

from dfs.turns import Shares, Turns, Verdict


class Room:
    """Of `all_max`. What is entered must be left again, with the same arguments."""

    def __init__(self, all_max: int) -> None:
        self._shares = Shares(all_max)
        self._turns: Turns[trio.Event] = Turns(all_max)
        self._is_full = False
        """Something waits for room that nobody has left yet."""

    @property
    def taken(self) -> int:
        return self._shares.total

    async def enter(self, party: Hashable, member: Hashable, amount: int) -> None:
        """Return when there is room, at most `all_max`, for this. It takes as long as others hold theirs."""
        assert amount <= self._shares.all_max
        if self._is_full or self._turns.has(party) or self._let_in(party, member, amount) is not Verdict.TAKE:
            await self._wait_turn(party, member, amount)

    def leave(self, party: Hashable, member: Hashable, amount: int) -> None:
        self._shares.release(party, member, amount)
        self._serve()

    @asynccontextmanager
    async def entered(self, party: Hashable, member: Hashable, amount: int = 1) -> AsyncIterator[None]:
        """Around what needs this room."""
        await self.enter(party, member, amount)
        try:
            yield
        finally:
            self.leave(party, member, amount)

    async def _wait_turn(self, party: Hashable, member: Hashable, amount: int) -> None:
        turn = trio.Event()
        self._turns.put(party, member, turn, amount)
        if not self._is_full:
            self._serve()  # what waits of its party may wait for its own member alone
        try:
            await turn.wait()
        except trio.Cancelled:
            if turn.is_set():
                self._shares.release(party, member, amount)
            else:
                self._turns.remove(party, member, turn)
            self._serve()
            raise

    def _serve(self) -> None:
        """Let in whom there is room for now."""
        self._is_full = False
        while taken := self._turns.take(self._let_in):
            for turn in taken:
                turn.set()

    def _let_in(self, party: Hashable, member: Hashable, amount: int) -> Verdict:
        verdict = self._shares.judge(party, member, amount)
        if verdict is Verdict.TAKE:
            self._shares.add(party, member, amount)
        self._is_full = verdict is Verdict.STOP
        return verdict
