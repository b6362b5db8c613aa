"""The DataNode as a whole: its parts put together, its tasks, its start and its end."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Final

import structlog
import trio

from dfs import limits, tasks
from dfs.config import DataNodeConfig
from dfs.daemon import Condition, Health
from dfs.rpc import Network, Pool, Server
from dfs.runtime import Runtime
from dfs.types import NodeId
from nodes.datanode.agent import Agent
from nodes.datanode.bandwidth import TokenBucket
from nodes.datanode.disk import Disk, RealDisk
from nodes.datanode.restraint import Restraint, load
from nodes.datanode.scrub import Scrub
from nodes.datanode.service import DataNode
from nodes.datanode.users import Users
from nodes.datanode.volumes import Volumes

log = structlog.get_logger(__name__)

_GRACEFUL_S: Final = 5.0


async def run_datanode(
    config: DataNodeConfig,
    *,
    network: Network,
    runtime: Runtime,
    disks: Sequence[Disk] | None = None,
    health: Health | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; starts with the address. When cancelled, calls in work are finished and all is synced.

    `disks` stand in for the directories that `config` names. `health` says from then on whether it is registered. When
    cancelled it tells the NameNode that it means to come back.

    A NameNode that is away is waited for. Raises `DirectoryInUse`, `WrongCluster`, `FormatUnknown`, `DiskFailed`,
    `InvalidArgument` (a disk is not mounted), `Exists` (the name is taken) or `Unreachable` (the address is).
    """
    volumes = Volumes(
        disks if disks is not None else [RealDisk(directory) for directory in config.directories],
        NodeId(config.node),
        runtime,
        config.reserve_bytes,
        config.capacity_bytes,
    )
    await runtime.run_blocking(volumes.open)
    try:
        async with Pool(network, handshake={"role": "datanode"}) as pool, tasks.open_nursery() as nursery:
            await _serve(config, volumes, network, pool, runtime, nursery, health, task_status)
    finally:
        with trio.CancelScope(shield=True):  # bounded by the disks: what was accepted is not given up
            await volumes.close()


async def _serve(
    config: DataNodeConfig,
    volumes: Volumes,
    network: Network,
    pool: Pool,
    runtime: Runtime,
    nursery: trio.Nursery,
    health: Health | None,
    task_status: trio.TaskStatus[str],
) -> None:
    memory = await runtime.run_blocking(load, volumes.usable_disks())
    restraint, bandwidth = Restraint(config.hold_share, memory), TokenBucket()
    users = Users()
    scrub = Scrub(volumes, restraint, runtime, users, config.scrub_period_s, config.scrub_bandwidth)
    service = DataNode(NodeId(config.node), volumes, bandwidth, users, scrub)
    server = Server(network, greet=service.greet)
    server.register(service, f"dfs.datanode.{config.node}")
    address = await nursery.start(server.serve, config.listen)
    agent = Agent(config, volumes, pool, server, runtime, address, bandwidth, users, restraint)
    service.decide = agent.decide
    nursery.start_soon(_flush, volumes)
    nursery.start_soon(_probe, volumes)
    nursery.start_soon(scrub.run)
    log.info("chunks open", node=config.node, chunks=volumes.chunk_count(), cluster=volumes.cluster)
    if health is not None:
        health.ask = functools.partial(_condition, config, volumes, agent)
    task_status.started(address)
    try:
        await agent.run()
    finally:
        is_stopped = trio.current_effective_deadline() == -math.inf  # and did not fail
        with trio.CancelScope(shield=True):  # bounded by FAREWELL_TIMEOUT_S and _GRACEFUL_S
            if is_stopped:
                await agent.farewell()
            await server.aclose_gracefully(_GRACEFUL_S)


async def _probe(volumes: Volumes) -> None:
    """A disk that fails while nobody writes is noticed all the same. Runs until cancelled."""
    while True:
        await trio.sleep(limits.DISK_PROBE_PERIOD_S)
        await volumes.probe()


def _condition(config: DataNodeConfig, volumes: Volumes, agent: Agent) -> Condition:
    held = f"{volumes.chunk_count():,} chunks, {volumes.free_bytes() / limits.GIB:,.0f} GiB free"
    if not agent.is_registered:
        return Condition(False, f"waiting for the NameNode at {config.namenode}; {held}")
    if not agent.is_heard:
        return Condition(True, f"the NameNode at {config.namenode} does not answer; {held}")
    return Condition(True, f"registered at {config.namenode}, {held}")


async def _flush(volumes: Volumes) -> None:
    """Bytes that nobody syncs go to disk all the same, soon. Runs until cancelled."""
    while True:
        await trio.sleep(limits.FLUSH_AFTER_S / 5)
        await volumes.flush_due()
