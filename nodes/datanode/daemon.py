"""The DataNode as a whole: its parts put together, its tasks, its start and its end."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Final

import structlog
import trio

from dfs import errors, keys, limits, tasks
from dfs.config import DataNodeConfig
from dfs.daemon import Condition, Health, named
from dfs.keys import KeyFile
from dfs.rpc import SPOKEN, Gate, Network, Pool, Server, Versions
from dfs.runtime import Runtime
from dfs.types import NodeId, datanode_object
from nodes.datanode.admission import Admission
from nodes.datanode.agent import Agent
from nodes.datanode.authorization import authorize
from nodes.datanode.bandwidth import TokenBucket
from nodes.datanode.chain import Chain
from nodes.datanode.clientmemory import ClientMemories
from nodes.datanode.clock import NameNodeClock
from nodes.datanode.disk import Disk, RealDisk
from nodes.datanode.keyring import Keyring
from nodes.datanode.obeyed import load
from nodes.datanode.restraint import Restraint
from nodes.datanode.scrub import Scrub
from nodes.datanode.service import DataNode
from nodes.datanode.users import Users
from nodes.datanode.volumes import Volumes

log = structlog.get_logger(__name__)

_GRACEFUL_S: Final = 5.0


async def run_datanode(
    config: DataNodeConfig,
    key_file: KeyFile,
    *,
    network: Network,
    runtime: Runtime,
    health: Health,
    disks: Sequence[Disk] | None = None,
    keep: Callable[[KeyFile], None] | None = None,
    spoken: Versions = SPOKEN,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; starts with the address. When cancelled, calls in work are finished and all is synced.

    `key_file` has the node's key, and the masters of the DataNodes' realm; `keep` puts another in its place when the
    NameNode has newer ones. `disks` stand in for the directories that
    `config` names. `health` says from then on whether it is registered. When cancelled it tells the NameNode that it
    means to come back. `spoken`: versions of the protocol.

    A NameNode that is away is waited for. Raises `DirectoryInUse`, `WrongCluster`, `FormatUnknown`, `DiskFailed`,
    `InvalidArgument` (a disk is not mounted), `Busy` (descriptors or memory are short), `Exists` (the name is taken) or
    `Unreachable` (the address is).
    """
    volumes = Volumes(
        disks if disks is not None else [RealDisk(directory) for directory in config.directories],
        NodeId(config.node),
        runtime,
        config.reserve_bytes,
        config.capacity_bytes,
    )
    async with volumes.watched():
        await volumes.wait_for_disks()
        await runtime.run_blocking(volumes.open)
        try:
            _check_cluster(config, key_file, volumes)
            async with Pool(network, key=key_file.key, spoken=spoken) as pool, tasks.open_nursery() as nursery:
                await _serve(
                    config, key_file, keep, volumes, network, pool, runtime, nursery, health, spoken, task_status
                )
        finally:
            with trio.CancelScope(shield=True):  # bounded by DISK_WORK_MAX_S: what was accepted is not given up
                await volumes.close()


def _check_cluster(config: DataNodeConfig, key_file: KeyFile, volumes: Volumes) -> None:
    """Raises `WrongCluster` when the key and the directories are of different clusters."""
    if key_file.cluster is not None and volumes.cluster not in (None, key_file.cluster):
        raise errors.WrongCluster(
            f"{config.key} is a key of cluster {key_file.cluster}, and the directories belong to cluster"
            f" {volumes.cluster}: configure the key, or the directories, of the other"
        )


async def _serve(
    config: DataNodeConfig,
    key_file: KeyFile,
    keep: Callable[[KeyFile], None] | None,
    volumes: Volumes,
    network: Network,
    pool: Pool,
    runtime: Runtime,
    nursery: trio.Nursery,
    health: Health,
    spoken: Versions,
    task_status: trio.TaskStatus[str],
) -> None:
    memory = await runtime.run_blocking(load, volumes.usable_disks())
    restraint, bandwidth = Restraint(config.hold_share, memory), TokenBucket()
    users = Users()
    scrub = Scrub(volumes, restraint, runtime, users, config.scrub_period_s, config.scrub_bandwidth)

    def clock() -> float:
        return runtime.now_ns() / 1e9

    gate = Gate(keys.DATANODE, datanode_object(config.node), key_file.masters, clock)
    namenodes_clock = NameNodeClock(runtime)
    admission = Admission(lambda: gate.masters, namenodes_clock.now_s, gate.admits)
    chain = Chain(pool, config.namenode)
    memories = ClientMemories(network.inbox(), runtime)
    nursery.start_soon(memories.run)
    service = DataNode(
        *(NodeId(config.node), volumes, admission, bandwidth, users, scrub, runtime, chain, memories),
        lends=config.lend,
    )
    server = Server(network, greet=service.greet, gate=gate, authorize=authorize, parted=memories.drop, spoken=spoken)
    server.register(service, datanode_object(config.node))
    keyring = Keyring(key_file, gate, pool, server, runtime, keep)
    with named("listen", "datanode.toml"):
        address = await nursery.start(server.serve, config.listen)
    agent = Agent(
        *(config, volumes, pool, server, runtime, address, bandwidth, users, restraint, namenodes_clock, keyring)
    )
    service.decide = agent.decide
    nursery.start_soon(volumes.look_after)
    nursery.start_soon(scrub.run)
    log.info("chunks open", node=config.node, chunks=volumes.chunk_count(), cluster=volumes.cluster)
    health.ask = functools.partial(_condition, config, volumes, agent)
    task_status.started(address)
    try:
        await agent.run()
    finally:
        is_stopped = trio.current_effective_deadline() == -math.inf  # and did not fail
        with trio.CancelScope(shield=True):  # bounded by FAREWELL_TIMEOUT_S and _GRACEFUL_S
            if is_stopped:
                # Of its own: the connections of the other are cancelled, as all else is.
                async with Pool(network, key=pool.key, spoken=spoken) as last:
                    await agent.farewell(last)
            await server.aclose_gracefully(_GRACEFUL_S)


def _condition(config: DataNodeConfig, volumes: Volumes, agent: Agent) -> Condition:
    held = f"{volumes.chunk_count():,} chunks, {volumes.free_bytes() / limits.GIB:,.0f} GiB free"
    if not agent.is_registered:
        return Condition(False, f"waiting for the NameNode at {config.namenode}; {held}")
    if not agent.is_heard:
        return Condition(True, f"the NameNode at {config.namenode} does not answer; {held}")
    return Condition(True, f"registered at {config.namenode}, {held}")
