"""What waits for the writer: each session has a queue of its own, and they take turns.

So a session that sends as much as it can delays another one's command by one turn of its own for each transaction,
however long its queue is; and when there is no more room, it is the one that is refused.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, NamedTuple, TypeVar

from dfs import errors
from dfs.types import SessionId

Item = TypeVar("Item")


class _Waiting(NamedTuple, Generic[Item]):
    item: Item
    commands: int


class _Queue(Generic[Item]):
    """What one session has waiting, oldest first."""

    __slots__ = ("commands", "items")

    def __init__(self) -> None:
        self.items: deque[_Waiting[Item]] = deque()
        self.commands = 0


class Turns(Generic[Item]):
    """Items of some commands each. Those of one session leave in the order in which they came."""

    def __init__(self) -> None:
        self._queues: dict[SessionId, _Queue[Item]] = {}
        """Those that are not empty; whose turn is next comes first."""
        self.commands = 0
        """That wait, of all sessions."""

    def __bool__(self) -> bool:
        return bool(self._queues)

    def put(self, session: SessionId, item: Item, commands: int, *, each_max: int, all_max: int) -> None:
        """At most `each_max` commands of one session wait, and `all_max` of all; but a session that has no more than an
        equal share of these is let in when others have taken the room. So less than twice `all_max` wait, ever.

        Raises `Busy`.
        """
        queue = self._queues.get(session) or _Queue()
        size = max(commands, 1)
        share = all_max // (len(self._queues) + (session not in self._queues))
        mine = queue.commands + size
        if mine > each_max or (self.commands + size > all_max and mine > share):
            raise errors.Busy("the NameNode has more commands waiting than it may: try again")
        queue.items.append(_Waiting(item, size))
        queue.commands += size
        self.commands += size
        self._queues[session] = queue

    def take(self, *, each_max: int, all_max: int) -> list[Item]:
        """One turn for each session whose turn it is, and for as many as there is room for: at most `each_max` commands
        of one, `all_max` together; or the one item that is larger.
        """
        taken: list[Item] = []
        room = all_max
        for session in list(self._queues):
            if room <= 0:
                break
            used = self._take_turn(session, min(each_max, room), taken)
            if not used:
                break
            room -= used
        return taken

    def _take_turn(self, session: SessionId, most: int, taken: list[Item]) -> int:
        """How many commands were taken. Nobody is passed over: without room for his first item, he is next."""
        queue = self._queues[session]
        used = 0
        while queue.items and (used + queue.items[0].commands <= most or not taken):
            item, commands = queue.items.popleft()
            taken.append(item)
            used += commands
        queue.commands -= used
        self.commands -= used
        if used:
            del self._queues[session]
            if queue.items:
                self._queues[session] = queue
        return used
