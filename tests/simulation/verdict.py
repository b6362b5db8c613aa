"""The end of a run: all faults are over, and what is there is held against what was promised.

In this order: the cluster comes to rest by itself (sessions of the dead end, copies are made, garbage goes); every
name and byte is what the models say; `dfs fsck` finds nothing; each chunk has all its copies, whole and intact; no
DataNode has a file that it should not have. Then everything is removed, and nothing may be left.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import trio

from dfs import errors
from dfs.client import FileSystem
from dfs.types import Ino, NodeId
from nodes.datanode.index import unpack_records
from tests.model import posix
from tests.simulation.cluster import ChunkRow, Cluster
from tests.simulation.linearizable import explain
from tests.simulation.naming import EMPTY
from tests.simulation.registers import GRAIN, Register
from tests.simulation.story import Story
from tests.simulation.workload import Client, Shared, Tree, describe, install, scan

_REST_MAX_S: Final = 400.0
"""Until a cluster without faults has nothing left to do."""
_LOOK_PERIOD_S: Final = 3.0
_BLOCKS_AT_ONCE: Final = 256
_GRAINS_AT_ONCE: Final = 100


async def judge(cluster: Cluster, fs: FileSystem, shared: Shared, client: Client) -> None:
    """All of it. Violations go into the story."""
    story = cluster.story
    if not await _rest(cluster, fs, "after the faults", lambda: _unrest(cluster, shared)):
        return
    findings = await _verify_copies(cluster, fs)
    if findings:  # which is what mends them
        if not await _rest(cluster, fs, "after damaged copies were found", lambda: _unrest(cluster, shared)):
            return
        findings = await _verify_copies(cluster, fs)
    while any(view.state != "up" for view in await fs.nodes()):  # which is a DataNode's own doing, and soon
        await trio.sleep(_LOOK_PERIOD_S)
    lost = _lost(cluster) if shared.rules.lost else []
    for finding in findings:
        if not _is_about(str(finding), lost):
            story.violated("verdict", finding)
    for tree in shared.trees:
        await _check_tree(client, tree)
    for register in shared.registers:
        await _check_bytes(client, register)
    _check_names(story, shared)
    async for found in fs.fsck():
        if not _is_about(str(found), lost):
            story.violated("verdict", f"fsck: {found}")
    await _remove_all(client)
    await _rest(cluster, fs, "after everything was removed", lambda: _leftovers(cluster))


async def _rest(cluster: Cluster, fs: FileSystem, when: str, unrest: Callable[[], list[str]]) -> bool:
    """Whether all is quiet soon; tells what is not."""
    deadline = trio.current_time() + _REST_MAX_S
    while trio.current_time() < deadline:
        left = unrest()
        if not left:
            return True
        await trio.sleep(_LOOK_PERIOD_S)
    cluster.story.violated("verdict", f"{when} the cluster does not come to rest: {'; '.join(left[-5:])}")
    return False


def _unrest(cluster: Cluster, shared: Shared) -> list[str]:
    """What there is still to do."""
    left = [f"{name} is down" for name in cluster.down()]
    lost = _lost(cluster) if shared.rules.lost else []
    for row in cluster.chunks():
        if row.is_open:
            left.append(f"chunk {row.chunk:x} is open")
        elif row.chunk not in lost:
            left += _missing_copies(cluster, row)
    left += [
        f"work for {row[0]}: {row[1]} of chunk {row[2]}" for row in cluster.query("SELECT node, kind, chunk FROM work")
    ]
    left += cluster.strays()
    left += [f"chunk {row[0]} has bytes to be punched" for row in cluster.query("SELECT chunk FROM trim")]
    sessions = cluster.query("SELECT count(*) FROM session")[0][0]
    if int(str(sessions)) > 1:  # the judge's own
        left.append(f"{sessions} sessions are open")
    return left


def _missing_copies(cluster: Cluster, row: ChunkRow) -> Iterator[str]:
    if len(row.nodes) != row.replicas:
        yield f"chunk {row.chunk:x} has copies on {row.nodes}, {row.replicas} are wanted"
    for name in row.nodes:
        size = max((disk.size(path) for chunk, disk, path in cluster.held(name) if chunk == row.chunk), default=0)
        if size < row.length:
            yield f"chunk {row.chunk:x} on {name} has {size} of {row.length} bytes"
        if row.chunk in cluster.damaged(name):
            yield f"chunk {row.chunk:x} on {name} is damaged"


def _leftovers(cluster: Cluster) -> list[str]:
    left = [str(row) for row in cluster.chunks()]
    left += [f"{name} has {path}" for name in cluster.datanodes for _, _, path in cluster.held(name)]
    left += [f"work for {row[0]}: {row[1]}" for row in cluster.query("SELECT node, kind FROM work")]
    for table, wanted in (
        ("inode", 1),
        ("dentry", 0),
        ("extent", 0),
        ("hold", 0),
        ("doomed", 0),
        ("trim", 0),
        ("xattr", 0),
    ):
        count = cluster.query(f"SELECT count(*) FROM {table}")[0][0]
        if count != wanted:
            left.append(f"{count} rows in table {table}, where {wanted} are due")
    return left


async def _verify_copies(cluster: Cluster, fs: FileSystem) -> list[str]:
    """Read every copy of every chunk, as a scrub does; what is wrong. A damaged copy that is found is mended."""
    findings: list[str] = []
    for row in cluster.chunks():
        for node in row.nodes:
            try:
                await _verify_copy(fs, NodeId(node), row)
            except errors.DfsError as error:
                findings.append(f"the copy of chunk {row.chunk:x} on {node} is not good: {error}")
    return findings


async def _verify_copy(fs: FileSystem, node: NodeId, row: ChunkRow) -> None:
    blocks = position = 0
    while position < row.length:
        packed, _ = await fs.nodes_known.call(node, "read_blocks", row.chunk, blocks, _BLOCKS_AT_ONCE)
        records = unpack_records(packed, position)
        if not records:
            raise errors.Corrupt(f"it has {position} of {row.length} bytes")
        blocks += len(records)
        position = records[-1].start + records[-1].length


def _lost(cluster: Cluster) -> list[int]:
    """Chunks that are short wherever they are: what was not synced went with the power. Whether it might is checked
    where files are read."""
    longest: dict[int, int] = {}
    for name in cluster.datanodes:
        for chunk, disk, path in cluster.held(name):
            longest[chunk] = max(longest.get(chunk, 0), disk.size(path))
    return [row.chunk for row in cluster.chunks() if longest.get(row.chunk, 0) < row.length]


def _is_about(finding: str, chunks: list[int]) -> bool:
    return any(f"hunk {chunk:x} " in finding for chunk in chunks)


# --- what clients did -----------------------------------------------------------------------------------


async def _check_tree(client: Client, tree: Tree) -> None:
    """The directory is what the model says, with the change whose outcome was not known, or without it."""
    if tree.unsettled == ("whole tree",):
        return  # not even the directory need be there, and nobody did anything in it
    found = await scan(client, tree.path)
    expected = describe(tree.model)
    for model, files in _possible(tree):
        if found == describe(model):
            return
        if tree.unsettled is not None:
            after = copy.deepcopy(model)
            if _apply(Tree(tree.path, after, dict(files)), tree.unsettled) and found == describe(after):
                return
    gone, more = sorted(expected.items() - found.items()), sorted(found.items() - expected.items())
    story, maybe = client.story, f" (not known: {tree.unsettled[:3]})" if tree.unsettled else ""
    story.violated("verdict", f"{tree.path} should have {gone} and has {more}{maybe}")


def _possible(tree: Tree) -> Iterator[tuple[posix.FileSystem, dict[int, Register]]]:
    """What the directory may be, but for a change of which nothing is known."""
    yield tree.model, tree.files
    for _, model, files in tree.before if tree.is_lost else ():
        yield model, files


def _apply(tree: Tree, change: tuple[Any, ...]) -> bool:
    """Do the unsettled change to the model. Whether it can be done."""
    verb, *args = change
    try:
        if verb == "upload":
            install(tree, *args)
        else:
            tree.model.attempt(verb, *args)
    except errors.DfsError:
        return False
    return True


async def _check_bytes(client: Client, register: Register) -> None:
    """Every byte is there that must be, and none is wrong."""
    if not register.ino or register.removed_at < math.inf:
        return
    size = (await client.fs.inodes.getattr(Ino(register.ino))).size
    if register.is_certain and size != register.size * GRAIN:
        client.story.violated("verdict", f"{register.name} has {size} bytes, {register.size * GRAIN} were written")
    end = -(-size // GRAIN)
    for first in range(0, end, _GRAINS_AT_ONCE):
        await _check_grains(client, register, first, min(_GRAINS_AT_ONCE, end - first))


async def _check_grains(client: Client, register: Register, first: int, count: int) -> None:
    """Read them. Reading them all at once may fail for the sake of one: then each half is tried."""
    called = trio.current_time()
    buffer = bytearray(count * GRAIN)
    try:
        length = await client.fs.reader.read_into(Ino(register.ino), first * GRAIN, memoryview(buffer))
    except errors.DfsError as error:
        needed = [grain for grain in range(first, first + count) if register.must_be_readable(grain)]
        if client.shared.rules.lost and not needed:
            client.story.counts["lost grains"] += count
        elif count == 1:
            client.story.violated("verdict", f"{register.name}, grain {first}, cannot be read: {error}")
        else:
            await _check_grains(client, register, first, count // 2)
            await _check_grains(client, register, first + count // 2, count - count // 2)
        return
    wrong = register.check(first, bytes(buffer[:length]), called, trio.current_time(), own=False)
    if wrong:
        client.story.violated("verdict", f"at the end {wrong}")


def _check_names(story: Story, shared: Shared) -> None:
    if explain(shared.names, EMPTY) is None:
        shown = "; ".join(map(str, shared.names))
        story.violated("verdict", f"no order explains what clients saw of the shared names: {shown}")


async def _remove_all(client: Client) -> None:
    for entry in await client.fs.listdir("/"):
        name = entry.name.decode()
        result = await client.attempt(f"removes /{name}", partial(client.fs.remove_tree, f"/{name}"))
        if isinstance(result, errors.DfsError):
            client.story.violated("verdict", f"/{name} cannot be removed: {result}")
