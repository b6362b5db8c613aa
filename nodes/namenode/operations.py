"""What operators order of the cluster: to empty, use again and remove nodes, to even them out; what they are told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
import trio

from dfs import errors
from dfs.types import ChunkId, NodeId, NodeState, datanode_object
from nodes.namenode import balance
from nodes.namenode.draining import DrainPlan
from nodes.namenode.membership import Member
from nodes.namenode.parts import Service
from nodes.namenode.repair import ChunkState

log = structlog.get_logger(__name__)


class Operations(Service):
    """Methods may be called concurrently."""

    # --- drain ------------------------------------------------------------------------------------------

    async def plan_drain(self, node: Any) -> dict[str, Any]:
        """What emptying `node` would mean; see `DrainPlan.result`. Raises `NotFound`."""
        member = self._members.member(node)
        views = {view.node: view for view in self._members.views()}
        plan = DrainPlan(member.node, views, self._runtime.random)
        after = 0
        while rows := self._queries.chunks_of(member.node, after):
            after = rows[-1][0]
            plan.add(
                ChunkState(ChunkId(chunk), length, wanted, tuple(map(NodeId, holders)))
                for chunk, length, wanted, holders in rows
            )
            await trio.lowlevel.checkpoint()
        return plan.result(self._config.copy_bandwidth)

    async def set_draining(self, node: Any, draining: bool) -> None:
        """Begin to empty a node, or use it again. Raises `NotFound`."""
        member = self._members.member(node)
        await self._writer.decide("set_draining", member.node, draining)
        self._members.set_draining(member.node, draining)
        log.info("datanode is to be emptied" if draining else "datanode is used again", node=member.node)

    # --- remove -----------------------------------------------------------------------------------------

    async def remove(self, node: Any) -> None:
        """Forget a node that is dead or drained, or whose disks have failed.

        Raises `NotFound`, or `NodeInUse`, which says what to do first.
        """
        member = self._members.member(node)
        name = member.node
        self._check_removable(member)
        await self._check_copies(name)
        while await self._writer.decide(
            "forget_replicas", name, self._members.up(reported=True), self._replication.short_copies()
        ):
            pass
        await self._writer.decide("remove_node", name)
        self._members.remove(name)
        self._replication.forget_node(name)
        await self._names.remove(datanode_object(name))
        log.info("datanode removed", node=name)

    def _check_removable(self, member: Member) -> None:
        state = self._members.state(member)
        is_drained = member.draining and not self._queries.has_replicas(member.node)
        if state == NodeState.DEAD or is_drained or member.has_no_disk:
            return
        if member.draining:
            raise errors.NodeInUse(
                f"DataNode {member.node} still holds chunks: wait with `dfs drain {member.node} --wait`"
            )
        if state == NodeState.SUSPECT:
            raise errors.NodeInUse(
                f"DataNode {member.node} fell silent only now: wait until it is dead, or start it and"
                f" run `dfs drain {member.node} --wait` first"
            )
        raise errors.NodeInUse(f"DataNode {member.node} is at work: run `dfs drain {member.node} --wait` first")

    async def _check_copies(self, node: NodeId) -> None:
        """Raises `NodeInUse` if bytes would be lost with `node`: nothing is forgotten then."""
        trusted = set(self._members.up(reported=True)) - {node}
        short = set(self._replication.short_copies())
        after = only = 0
        while rows := self._queries.chunks_of(node, after):
            after = rows[-1][0]
            for chunk, length, _, holders in rows:
                good = [each for each in holders if each in trusted and (each, chunk) not in short]
                only += length > 0 and not good
            await trio.lowlevel.checkpoint()
        late = [each for each in self._members.up(reported=False) if each != node]
        if only and late:
            raise errors.NodeInUse(
                f"DataNode {node} may hold the only copy of {only} chunks: {', '.join(late)} came back and have not"
                " reported yet what they hold; try again in a minute"
            )
        if only:
            raise errors.NodeInUse(
                f"DataNode {node} holds the only copy of {only} chunks: bring it back, and drain it; or remove the"
                " files that `dfs fsck` names, which are lost without it"
            )

    # --- balance ----------------------------------------------------------------------------------------

    def _threshold(self, threshold: Any) -> float:
        """None stands for the configured one."""
        if threshold is None:
            return self._config.balance_threshold
        if not isinstance(threshold, int | float) or not 0 < threshold < 1:
            raise errors.InvalidArgument("a threshold is a number between 0 and 1: 0.05 is 5 percentage points")
        return float(threshold)

    def plan_balance(self, threshold: Any) -> dict[str, Any]:
        """How full nodes are, and how many bytes each is to give (or, negative, to take). Raises `InvalidArgument`."""
        wanted = self._threshold(threshold)
        nodes = balance.able(self._members.views())
        copies = self._replication.wanted
        excesses = balance.excesses(nodes, copies)
        is_even = balance.is_even(nodes, wanted, copies)
        moves = {each.node: 0 if is_even else each.bytes for each in excesses}
        longest = max((abs(length) for length in moves.values()), default=0)
        limit = self._config.copy_bandwidth
        return {
            "threshold": wanted,
            "level": balance.mean_level(nodes),
            "even": is_even,
            "nodes": {each.node: {"level": each.level, "gives_bytes": moves[each.node]} for each in excesses},
            "bytes": sum(length for length in moves.values() if length > 0),
            "bytes_per_s": limit,
            "at_least_s": longest / limit if limit else 0.0,
        }

    def balance(self, threshold: Any) -> None:
        """Begin to even out fill levels. Raises `InvalidArgument`, `NotSupported` where repair is off."""
        if not self._config.repair:
            raise errors.NotSupported("copies are not moved while `repair` is off in the NameNode's configuration")
        self._replication.begin_balance(self._threshold(threshold))

    # --- status -----------------------------------------------------------------------------------------

    def status(self, deletions: Mapping[str, int]) -> dict[str, Any]:
        """What `dfs status` and `dfs nodes` show beyond totals and views. `deletions` are orders by node."""
        members = self._members.all()
        return {
            "repair": self._replication.status(),
            "balance": self._replication.balancing.status(),
            "drains": {member.node: self._drain(member) for member in members if member.draining},
            "held": {member.node: member.held._asdict() for member in members if member.held},
            "never_given": {member.node: member.never_given for member in members if member.never_given},
            "busy": {
                member.node: {**self._replication.busy(member.node), "deletions": deletions.get(member.node, 0)}
                for member in members
            },
        }

    def _drain(self, member: Member) -> dict[str, Any]:
        """`chunks` and `bytes` left, -1 as long as they were not counted; see `Replication.drain_left`."""
        drained = not self._queries.has_replicas(member.node)
        chunks, length = (0, 0) if drained else self._replication.drain_left(member.node)
        is_dead = self._members.state(member) == NodeState.DEAD
        return {"drained": drained, "dead": is_dead, "chunks": chunks, "bytes": length}
