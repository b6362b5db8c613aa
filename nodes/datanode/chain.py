"""Appends that go from node to node, for clients whose own link is the narrow one: they send their bytes once.

    client --append_chain--> n1 --append_chain--> n2 --append_chain--> n3

A node writes what came and sends it on at the same time, and answers when both have ended, with who failed and why: the
client sends it to those itself. Others are known by their ids; where they are the NameNode says, nobody else. What a
client showed goes along, and whose it is: each node checks the grant as if that client had called.

While a node waits for the next one it has no place among its calls, but the bytes that it holds take room. So all
chains go in the order of the nodes' ids: whoever waits for room waits for a node behind him, and the last one for
nobody. A node gives up before whoever waits for it does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import trio

from dfs import codec, errors, limits
from dfs.checksum import Buffer
from dfs.rpc import Pool
from dfs.types import NAMENODE_OBJECT, NodeId, datanode_object

ASKED_AGAIN_S: Final = 2.0


class Failure(NamedTuple):
    """A node that did not append, as it is told to who asked."""

    node: NodeId
    code: str
    message: str

    @classmethod
    def of(cls, node: NodeId, error: errors.DfsError) -> Failure:
        return cls(node, error.code, error.message)


class Chain:
    """What this node sends on."""

    def __init__(self, pool: Pool, namenode: str) -> None:
        self._pool = pool
        self._namenode = namenode
        self._addresses: dict[NodeId, str] = {}
        self._refreshing = trio.Lock()
        self._refreshed_at = -math.inf

    async def send_on(self, onward: Sequence[NodeId], args: Sequence[Any], holder: Any, data: Buffer) -> list[Failure]:
        """Have the nodes `onward` append as well; those that did not.

        `args` are the chunk, the offset, the blocks and the grant, `holder` whose that is, as they came.
        """
        if not onward:
            return []
        first, *rest = onward
        timeout_s = limits.DATA_TIMEOUT_S * len(onward) / (len(onward) + 1)
        until = trio.current_time() + timeout_s
        address = ""
        try:
            address = await self._address(first)
            left_s = until - trio.current_time()
            reply, _ = await self._pool.call_with_data(
                address, datanode_object(first), "append_chain", *args, rest, holder, data=[data], timeout_s=left_s
            )
            return [Failure(*failure) for failure in reply]
        except errors.DfsError as error:
            if isinstance(error, errors.RpcError) and self._addresses.get(first) == address:
                del self._addresses[first]  # it may have moved
            behind = errors.Unreachable(f"it is behind DataNode {first}, which failed: {error.message}")
            return [Failure.of(first, error), *(Failure.of(node, behind) for node in rest)]

    async def _address(self, node: NodeId) -> str:
        """Where a node is. The NameNode is asked for all of them, but not again within ASKED_AGAIN_S.

        Whoever names nodes that there are not has it asked no more often.
        """
        if node not in self._addresses:
            async with self._refreshing:
                if node not in self._addresses and trio.current_time() >= self._refreshed_at + ASKED_AGAIN_S:
                    self._refreshed_at = trio.current_time()
                    timeout_s = limits.DATA_TIMEOUT_S / 4
                    views = await self._pool.call(self._namenode, NAMENODE_OBJECT, "nodes", timeout_s=timeout_s)
                    self._addresses = {view.node: view.address for view in map(codec.node_view, views)}
        address = self._addresses.get(node)
        if address is None:
            raise errors.Unreachable(f"the NameNode knew no DataNode {node} a moment ago")
        return address
