"""Which messages a server works on in one round of its event loop.

All that a plain method does, and all parsing, runs in the loop itself: whoever had most connections would have most of
it. So the reader of a connection asks before it works on a message, and parties have equal shares of each round
(`dfs.turns`), which many connections of one party have among them, a message each in turn. What a message costs is
known by its length; what its answer cost, or what it was when it came compressed, is charged afterwards. A batch asks
before each of its calls. Nobody waits as long as his party has not used up its
share, and then for no more than what the others have of a round.
"""

from __future__ import annotations

from collections.abc import Hashable

import trio

from dfs.rpc.channel import BURST_COST_MAX
from dfs.turns import Turns


class Rounds:
    """`run` is the task that begins rounds; it may run several times over, which makes for more of them."""

    def __init__(self) -> None:
        self._turns: Turns[trio.Event] = Turns(BURST_COST_MAX)
        self._needed = trio.Event()

    async def wait(self, party: Hashable, connection: int, cost: int) -> None:
        """Return when a message may be worked on: without a checkpoint if it is at once."""
        if self._turns.pass_by(party, cost):
            return
        turn = trio.Event()
        self._turns.put(party, connection, turn, cost)
        self._needed.set()
        try:
            await turn.wait()  # bounded: each round brings it nearer
        except trio.Cancelled:
            if not turn.is_set():
                self._turns.remove(party, connection, turn)
            raise

    def charge(self, party: Hashable, cost: int) -> None:
        """Count what an answer cost."""
        self._turns.charge(party, cost)

    async def run(self) -> None:
        """Begin rounds as long as somebody waits. Runs until cancelled."""
        while True:
            await self._needed.wait()
            self._needed = trio.Event()
            while self._turns:
                await trio.lowlevel.checkpoint()  # all who have work, and need not wait for it, do it now
                for turn in self._turns.take():
                    turn.set()
