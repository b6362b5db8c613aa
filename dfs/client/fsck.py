"""The first half of `dfs fsck`: does what the NameNode believes agree with itself, and with the DataNodes?

The NameNode checks its own tables slice by slice (`check`). Then each DataNode's list of chunks is merged with the
NameNode's, both in the order of chunk ids, so that neither is ever held whole.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from dfs import errors, limits
from dfs.client.datanodes import DataNodes
from dfs.client.session import Session
from dfs.types import NodeId, NodeState

_SLICE = limits.REPORT_SLICE_CHUNKS


async def check(session: Session, nodes: DataNodes) -> AsyncIterator[str]:
    """Sentences, each a finding and what to do about it; none where all is well."""
    cursor = None
    while True:
        findings, cursor = await session.query("check", cursor)
        for finding in findings:
            yield finding
        if cursor is None:
            break
    up: list[NodeId] = []
    for view in await nodes.refresh():
        if view.state == NodeState.UP:
            up.append(view.node)
        else:
            yield f"DataNode {view.node} is {view.state}: its copies could not be checked; start it and check again."
    for node in up:
        async for finding in _check_node(session, nodes, node):
            yield finding


async def _check_node(session: Session, nodes: DataNodes, node: NodeId) -> AsyncIterator[str]:
    after = 0
    while True:
        believed = await session.query("chunks", after, _SLICE)
        last = believed[-1][0] if len(believed) == _SLICE else None
        try:
            held = await _held(nodes, node, after, last)
        except errors.DfsError as error:
            yield f"DataNode {node} could not be asked for its chunks: {error}"
            return
        for chunk, length, _session, holders in believed:
            if node not in holders:
                continue
            if chunk not in held:
                if length:  # a chunk that nothing was committed to need not exist
                    yield f"Chunk {chunk:x} is missing on {node}: its other copies serve reads; a new copy is due."
            elif held[chunk] < length:
                yield f"Chunk {chunk:x} on {node} has {held[chunk]} of {length} bytes: a new copy is due."
        if last is None:
            return
        after = last


async def _held(nodes: DataNodes, node: NodeId, after: int, last: int | None) -> dict[int, int]:
    held: dict[int, int] = {}
    while last is None or after < last:
        page, _ = await nodes.call(node, "list_chunks", after, _SLICE)
        held.update((chunk, length) for chunk, length in page if last is None or chunk <= last)
        if len(page) < _SLICE:
            break
        after = page[-1][0]
    return held
