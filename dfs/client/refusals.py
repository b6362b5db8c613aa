"""DataNodes that are not asked for something for a while: one that refuses it, or promises it twice in vain."""

from __future__ import annotations

import structlog
import trio

from dfs import limits
from dfs.types import NodeId

log = structlog.get_logger(__name__)


class Refusals:
    """Of one thing that DataNodes of this host may do for a client; `consequence` is what the log says of one that does
    not.
    """

    def __init__(self, consequence: str) -> None:
        self._consequence = consequence
        self._until: dict[NodeId, float] = {}
        self._missed: set[NodeId] = set()

    def may_ask(self, node: NodeId) -> bool:
        return trio.current_time() >= self._until.get(node, 0.0)

    def refuse(self, node: NodeId, reason: str) -> None:
        """Ask a node no more for LEND_AGAIN_AFTER_S."""
        log.info(self._consequence, node=node, reason=reason)
        self._until[node] = trio.current_time() + limits.LEND_AGAIN_AFTER_S

    def miss(self, node: NodeId, reason: str) -> None:
        """What a node has promised did not come, as can happen once."""
        if node in self._missed:
            self.refuse(node, reason)
        self._missed.add(node)

    def came(self, node: NodeId) -> None:
        """What a node has promised has come."""
        self._missed.discard(node)

    def count(self) -> int:
        """Nodes that are not asked now."""
        return sum(not self.may_ask(node) for node in self._until)
