"""Waiting until a local cluster works: its daemons run, the NameNode answers, and it takes every DataNode for up."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from typing import Any

import trio

from dfs import config, errors, limits
from dfs.cli.local import control
from dfs.cli.local.keeper import RUNNING
from dfs.cli.local.layout import Layout
from dfs.client import FileSystem, open_filesystem
from dfs.keys import load_key
from dfs.logfiles import last_line
from dfs.types import NodeState

_NOT_YET = (errors.Unreachable, errors.ConnectionLost, errors.DeadlineExceeded, errors.Busy)


async def wait_until_up(
    layout: Layout, log_sizes: dict[str, int], timeout_s: float, awaited: Collection[str] | None = None
) -> dict[str, Any]:
    """Wait until clients can use the cluster and each of its DataNodes; what the supervisor knows of its daemons then.

    `awaited`: the daemons of those DataNodes that are to be up; None for all. `log_sizes`: what daemons' logs held
    before (`log_sizes`), so that a failure is told in words of this time. Raises `DfsError` after `timeout_s`, or
    when a daemon keeps failing, naming the daemon that is missing and its last words.
    """
    with trio.move_on_after(timeout_s):
        if await _wait_for_daemons(layout):
            await _wait_for_nodes(layout, awaited)
            return _cluster(layout)
    raise errors.DfsError(_failure(layout, log_sizes))


async def wait_until_ended(layout: Layout, name: str, restarts: int) -> None:
    """Wait until a daemon that had started again `restarts` times has ended once more, or is not kept any more.

    The supervisor sees to that.
    """
    while True:
        daemon = _cluster(layout)["daemons"].get(name)
        if daemon is None or daemon["restarts"] > restarts:
            return
        await trio.sleep(limits.LOCAL_POLL_PERIOD_S)


def log_sizes(layout: Layout) -> dict[str, int]:
    """How long each log is now, in bytes."""
    if not layout.logs.is_dir():
        return {}
    return {path.stem: path.stat().st_size for path in layout.logs.glob("*.log")}


async def _wait_for_daemons(layout: Layout) -> bool:
    """False when one of them has failed LOCAL_START_ATTEMPTS times since this was called."""
    before = {name: daemon["restarts"] for name, daemon in _cluster(layout)["daemons"].items()}
    while True:
        daemons = _cluster(layout)["daemons"]
        for name, daemon in daemons.items():
            if daemon["state"] != RUNNING and daemon["restarts"] - before.get(name, 0) >= limits.LOCAL_START_ATTEMPTS:
                return False
        if all(daemon["state"] == RUNNING for daemon in daemons.values()):
            return True
        await trio.sleep(limits.LOCAL_POLL_PERIOD_S)


def _cluster(layout: Layout) -> dict[str, Any]:
    reply = control.request(layout, "status")
    if reply is None:
        last = last_line(layout.log("supervisor"))
        raise errors.DfsError(
            f"the cluster in {layout.directory} was stopped while it started: its supervisor's last words are"
            f" {last!r}; `{layout.command('up')}` starts it again"
        )
    found: dict[str, Any] = reply["cluster"]
    return found


async def nodes_up(layout: Layout) -> set[str] | None:
    """The daemons of DataNodes that the NameNode counts as up; None if it cannot be asked."""
    client = config.load_client(layout.client)
    try:
        with trio.fail_after(limits.CALL_TIMEOUT_S):
            async with open_filesystem(client.namenode, load_key(client.key), wait_s=limits.CALL_TIMEOUT_S) as fs:
                up = {view.node for view in await fs.nodes() if view.state == NodeState.UP}
    except (errors.DfsError, trio.TooSlowError):
        return None
    return {daemon for daemon, node in _nodes(layout).items() if node in up}


def _nodes(layout: Layout) -> dict[str, str]:
    """What the cluster calls the DataNode of each daemon."""
    paths = [layout.datanode(number) for number in layout.datanode_numbers()]
    return {path.stem: config.load_datanode(path).node for path in paths}


async def _wait_for_nodes(layout: Layout, awaited: Collection[str] | None) -> None:
    client = config.load_client(layout.client)
    key = load_key(client.key)
    nodes = {daemon: node for daemon, node in _nodes(layout).items() if awaited is None or daemon in awaited}
    while True:
        try:
            async with open_filesystem(client.namenode, key, wait_s=limits.LOCAL_UP_TIMEOUT_S) as fs:
                return await _wait_for_views(fs, layout, nodes)
        except _NOT_YET:
            pass
        await trio.sleep(limits.LOCAL_POLL_PERIOD_S)


async def _wait_for_views(fs: FileSystem, layout: Layout, nodes: dict[str, str]) -> None:
    """Until all are up that are kept running; `nodes` has what the cluster calls each daemon."""
    while True:
        wanted = {nodes[name] for name in _cluster(layout)["daemons"] if name in nodes}
        if wanted <= {view.node for view in await fs.nodes() if view.state == NodeState.UP}:
            return
        await trio.sleep(limits.LOCAL_POLL_PERIOD_S)


def _failure(layout: Layout, sizes: dict[str, int]) -> str:
    daemons = _cluster(layout)["daemons"]
    missing = [name for name, daemon in daemons.items() if daemon["state"] != RUNNING]
    if not missing:
        return (
            f"the daemons in {layout.directory} run, but the NameNode does not count every DataNode as up:"
            f" `dfs status --config {shlex.quote(str(layout.client))}` shows which; their logs are in {layout.logs}"
        )
    name = missing[0]
    words = last_line(layout.log(name), sizes.get(name, 0)) or "it says nothing"
    return (
        f"{name} does not run: {words}; its log is {layout.log(name)}; it is tried again until"
        f" `{layout.command('down')}`"
    )
