"""Balance at work: chunks move from the fullest nodes to the emptiest, when nothing more urgent is to be done.

It orders copies besides those that chunks are to have (`Replication.order_move`), and the fullest nodes drop theirs
when these are made. `balance.MovePlan` decides which. As many are ordered at a time as fit into nodes' windows, or into
a part of these where nobody has asked for it: the next ones, between rounds as well, when the last ones' copies are
made and their deletions done, so that levels are true.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio

from dfs import limits
from dfs.config import NameNodeConfig
from dfs.types import ChunkId, NodeId, NodeState
from nodes.namenode import balance

if TYPE_CHECKING:
    from nodes.namenode.membership import Membership
    from nodes.namenode.replication import Replication

log = structlog.get_logger(__name__)

_SLICE: Final = 1024
_ROWS: Final = 64
"""Chunks of a node that are read at a time: a millisecond, or some in a very large cluster."""
_TURN_S: Final = 0.005
"""For which a look for moves keeps the event loop, but for its last rows."""
_QUIET_SHARE: Final = 4
"""Background balance keeps to this part of a target's window."""
_QUIET_S: Final = 60.0
"""Before background balance looks again, after it found nothing to move."""


class Balancing:
    """Of one `Replication`, which has `go_on` called time and again."""

    def __init__(self, replication: Replication, members: Membership, config: NameNodeConfig) -> None:
        self._replication = replication
        self._members = members
        self._config = config
        self._asked: float | None = None
        """The threshold that an operator wants, until the cluster is even."""
        self._cursor: dict[NodeId, ChunkId] = {}
        self._exhausted: set[NodeId] = set()
        """Nodes all of whose chunks were looked at since the last move."""
        self._moved: list[balance.Move] = []
        self._quiet_until = -1e9

    def begin(self, threshold: float) -> None:
        """Even out fill levels to within `threshold`, at the windows' full size, until that is reached."""
        self._asked = threshold
        self._begin_anew()

    def forget_node(self, node: NodeId) -> None:
        """It was removed."""
        self._cursor.pop(node, None)

    def status(self) -> dict[str, Any]:
        """Whether balance is on, was asked for, and has anything to do."""
        threshold = self._asked or self._config.balance_threshold
        return {
            "on": self._config.balance or self._asked is not None,
            "asked": self._asked is not None,
            "threshold": threshold,
            "even": balance.is_even(balance.able(self._members.views()), threshold, self._replication.wanted),
            "moving": self._replication.moving,
        }

    async def go_on(self) -> None:
        """Order the next moves if nothing is missing, the last ones are through and what nodes say they use is true."""
        asked = self._asked
        if not self._config.repair or (
            asked is None and (not self._config.balance or trio.current_time() < self._quiet_until)
        ):
            return
        if not self._replication.is_at_rest or not self._are_settled():
            return
        threshold = asked or self._config.balance_threshold
        share = 1 if asked is not None else _QUIET_SHARE
        nodes = balance.able(self._members.views())
        wanted = self._replication.wanted
        givers = [node for node in balance.givers(nodes, threshold, wanted) if node not in self._exhausted]
        most, most_bytes = limits.COPIES_AHEAD_MAX // share, limits.COPIES_AHEAD_MAX_BYTES // share
        moves = balance.MovePlan(nodes, threshold, wanted, most=most, most_bytes=most_bytes)
        try:
            is_through = await self._move_some(givers, moves)
        finally:
            if self._moved:
                self._begin_anew()
        gives = not self._cursor.keys().isdisjoint(givers)  # of who gives no more nothing else is looked at
        if is_through and not self._moved and not gives:
            self._end(asked)

    def _begin_anew(self) -> None:
        self._cursor.clear()
        self._exhausted.clear()

    def _end(self, asked: float | None) -> None:
        if asked is not None:
            log.info("the cluster is as even as its chunks allow", threshold=asked)
        self._asked = None
        self._quiet_until = trio.current_time() + _QUIET_S
        self._begin_anew()

    async def _move_some(self, givers: Sequence[NodeId], moves: balance.MovePlan) -> bool:
        """Order moves off the next slice of each giver, the fullest first, until all who take have enough to do.

        Givers at their last rows are exhausted. False if it ended before that, since a node came or went meanwhile, of
        which `moves` knows nothing, or a balance was asked for.
        """
        changed, asked = self._members.changed, self._asked
        until = trio.current_time() + _TURN_S
        for giver in givers:
            for _ in range(_SLICE // _ROWS):
                rows = self._replication.chunks_of(giver, self._cursor.get(giver, ChunkId(0)), _ROWS)
                if len(rows) < _ROWS:
                    self._cursor.pop(giver, None)
                    self._exhausted.add(giver)
                else:
                    self._cursor[giver] = rows[-1].chunk
                self._order(moves.add(rows))
                if trio.current_time() >= until:
                    await trio.lowlevel.checkpoint()
                    if self._members.changed is not changed or self._asked != asked:
                        return False
                    until = trio.current_time() + _TURN_S
                if moves.is_full:
                    return True
                if giver in self._exhausted or not moves.has_room(giver):
                    break
        return True

    def _order(self, moves: Iterable[balance.Move]) -> None:
        """In the same moment as they were planned."""
        for move in moves:
            chunk = self._replication.movable(move.chunk)
            if chunk is not None:
                self._moved.append(move)
                self._replication.order_move(chunk, move.target)

    def _are_settled(self) -> bool:
        """Whether the copies that the last moves left behind are deleted, where their nodes are there to do so.

        Looks for a turn at most: there may be very many.
        """
        nodes = self._members.by_name()
        until = trio.current_time() + _TURN_S
        while self._moved and trio.current_time() < until:
            move = self._moved[-1]
            is_there = move.source in nodes and nodes[move.source].state == NodeState.UP
            if is_there and self._replication.is_to_be_deleted(move.chunk, move.source):
                return False
            self._moved.pop()
        return not self._moved
