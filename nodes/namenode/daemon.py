"""The NameNode as a whole: its parts put together, its tasks, its start and its end."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable

import structlog
import trio

from dfs import errors, keys, limits, tasks
from dfs.config import NameNodeConfig
from dfs.daemon import Condition, Health, named
from dfs.keys import KeyFile
from dfs.rpc import SPOKEN, Gate, Network, Pool, Server, Versions
from dfs.rpc.naming import NAME_SERVER_OBJECT, NameServerClient, NameServerObject
from dfs.runtime import Runtime
from dfs.types import NAMENODE_OBJECT, NodeState, SessionId, datanode_object
from nodes.namenode import collector
from nodes.namenode.authorization import authorize
from nodes.namenode.commands import open_session
from nodes.namenode.issuing import Issuing
from nodes.namenode.leases import Leases
from nodes.namenode.membership import Membership
from nodes.namenode.names import NameServer
from nodes.namenode.parts import Parts
from nodes.namenode.queries import Queries
from nodes.namenode.replication import Replication
from nodes.namenode.service import NameNode
from nodes.namenode.sessions import Sessions
from nodes.namenode.store import Store, open_store
from nodes.namenode.writer import Writer

log = structlog.get_logger(__name__)

_GRACEFUL_S = 5.0
_CONFIGURATION = "namenode.toml"


async def run_namenode(
    config: NameNodeConfig,
    cluster: KeyFile,
    *,
    network: Network,
    runtime: Runtime,
    health: Health,
    nameserver_network: Network | None = None,
    reload: Callable[[], KeyFile | None] | None = None,
    spoken: Versions = SPOKEN,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve who has a key made from `cluster`, what cluster.keys holds, until cancelled; starts with the address.

    What is under way when cancelled is finished first.

    `nameserver_network`: where Pyro5's name server is served or, if it is somebody else's, asked, where `network` asks
    for more than stock tools have: TLS. `reload` gives what cluster.keys holds, when that has changed. `health` says
    how it is from then on. `spoken`: versions of the protocol.

    Raises `ConfigError`, `DirectoryInUse`, `FormatUnknown`, `WrongCluster`, `DiskFailed`, or `Unreachable` (the address
    cannot be had).
    """
    store = open_store(config.state_dir, runtime.random, cluster.cluster)
    try:
        nameserver_network = nameserver_network or network
        async with Pool(nameserver_network, spoken=spoken) as pool, tasks.open_nursery() as nursery:
            name_server = Server(nameserver_network, spoken=spoken)
            with store.translating():
                await _serve(
                    config,
                    cluster,
                    store,
                    network,
                    name_server,
                    pool,
                    runtime,
                    nursery,
                    reload,
                    health,
                    spoken,
                    task_status,
                )
    finally:
        store.close()


async def _serve(
    config: NameNodeConfig,
    cluster: KeyFile,
    store: Store,
    network: Network,
    name_server: Server,
    pool: Pool,
    runtime: Runtime,
    nursery: trio.Nursery,
    reload: Callable[[], KeyFile | None] | None,
    health: Health,
    spoken: Versions,
    task_status: trio.TaskStatus[str],
) -> None:
    leases = Leases()
    writer = Writer(store, runtime, config.reserve_bytes, leases)
    members = Membership(
        runtime,
        config.node_suspect_after_s,
        config.node_dead_after_s,
        config.maintenance_window_s,
        copies=config.replicas,
    )
    queries = Queries(store)
    members.load(queries.nodes())

    async def end_session(session: SessionId, party: Hashable) -> bool:
        return bool(await writer.decide("end_session", session, party=party))

    sessions = Sessions(config.session_timeout_s, end_session, leases, runtime.random.getrandbits(62))
    for session, holder, caches, subtree in queries.sessions():
        sessions.add(session, holder)
        if holder and caches:
            _, directories, drops_recalled = open_session.cached(caches)
            leases.join(
                session,
                owns_directories=directories,
                drops_recalled=drops_recalled,
                is_limited=bool(subtree),
                again=True,
            )
    replication = Replication(store, writer, members, runtime.random, config)
    names, own_names = _name_server(config, pool)
    gate = Gate(keys.NAMENODE, NAMENODE_OBJECT, cluster.masters, lambda: runtime.now_ns() / 1e9)
    issuing = Issuing(gate, store, writer, members, sessions, runtime, cluster.authority, reload)
    service = NameNode(
        Parts(config, store, writer, queries, members, sessions, leases, replication, names, issuing, runtime)
    )
    server = Server(network, greet=service.greet, gate=gate, authorize=authorize, translate=store.told, spoken=spoken)
    issuing.attach(server)
    server.register(service, NAMENODE_OBJECT)
    nursery.start_soon(writer.run)
    nursery.start_soon(service.run)
    await writer.decide("begin_series")
    await writer.decide(
        "configure",
        {
            "replicas": config.replicas,
            "min_replicas": config.min_replicas,
            "grace_ns": int(config.garbage_grace_s * 1e9),
        },
    )
    nursery.start_soon(members.watch)
    nursery.start_soon(_announce_nodes, members, sessions)
    nursery.start_soon(_announce_space, members, sessions)
    nursery.start_soon(sessions.reap, members.waits_cut_off)
    nursery.start_soon(issuing.run)
    nursery.start_soon(replication.run)
    nursery.start_soon(collector.run, writer, max(0.1, min(10.0, config.garbage_grace_s / 4)))
    if own_names is not None:
        name_server.register(own_names, NAME_SERVER_OBJECT)
        try:
            with named("nameserver", _CONFIGURATION):
                address = await nursery.start(name_server.serve, config.nameserver)
            own_names.register_own(NAME_SERVER_OBJECT, f"PYRO:{NAME_SERVER_OBJECT}@{address}")
        except errors.Unreachable as error:
            if config.nameserver != NameNodeConfig.nameserver:
                raise
            log.warning("going on without a name server, as nobody has asked for this address", error=error.message)
    try:
        with named("listen", _CONFIGURATION):
            service.address = await nursery.start(server.serve, config.listen)
        await names.register(NAMENODE_OBJECT, service.address)
        for view in members.views():
            await names.register(datanode_object(view.node), view.address)
        log.info("namespace open", cluster=store.cluster, directory=str(store.directory), **store.counters())
        health.ask = functools.partial(_condition, store, members)
        task_status.started(service.address)
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):  # bounded by _GRACEFUL_S
            await server.aclose_gracefully(_GRACEFUL_S)
            await name_server.aclose_gracefully(0)


def _condition(store: Store, members: Membership) -> Condition:
    states = [view.state for view in members.by_name().values()]
    files, up = store.counters()["files"], states.count(NodeState.UP)
    return Condition(True, f"serving {files:,} files, {up} of {len(states)} DataNodes up")


def _name_server(config: NameNodeConfig, pool: Pool) -> tuple[NameServer, NameServerObject | None]:
    if config.nameserver == "off":
        return NameServer(), None
    if config.nameserver.startswith("at "):
        return NameServer(other=NameServerClient(pool, config.nameserver.removeprefix("at ").strip())), None
    own = NameServerObject()
    return NameServer(own=own), own


async def _announce_nodes(members: Membership, sessions: Sessions) -> None:
    """Clients hear that DataNodes came, moved or fell silent, and ask where they are now: once in a while for many."""
    changed = members.changed
    while True:
        await changed.wait()  # until cancelled
        changed = members.changed
        sessions.push_all("nodes")
        await trio.sleep(limits.NODES_NEWS_PERIOD_S)


async def _announce_space(members: Membership, sessions: Sessions) -> None:
    """Clients hear when space gets short, and when it is not any more."""
    while True:
        await members.space_changed.wait()  # until cancelled
        sessions.push_all("space", members.is_space_short)
