"""What a NameNode is made of, and what its services have of that: what clients, DataNodes and operators call."""

from __future__ import annotations

from typing import NamedTuple

from dfs.config import NameNodeConfig
from dfs.runtime import Runtime
from nodes.namenode.issuing import Issuing
from nodes.namenode.leases import Leases
from nodes.namenode.membership import Membership
from nodes.namenode.names import NameServer
from nodes.namenode.queries import Queries
from nodes.namenode.replication import Replication
from nodes.namenode.sessions import Sessions
from nodes.namenode.store import Store
from nodes.namenode.writer import Writer


class Parts(NamedTuple):
    """One of each; all of one NameNode."""

    config: NameNodeConfig
    store: Store
    writer: Writer
    queries: Queries
    members: Membership
    sessions: Sessions
    leases: Leases
    replication: Replication
    names: NameServer
    issuing: Issuing
    runtime: Runtime


class Service:
    """What is called from outside. The parts are attributes of their own: some are asked with every call."""

    def __init__(self, parts: Parts) -> None:
        self._config = parts.config
        self._store = parts.store
        self._writer = parts.writer
        self._queries = parts.queries
        self._members = parts.members
        self._sessions = parts.sessions
        self._leases = parts.leases
        self._replication = parts.replication
        self._names = parts.names
        self._issuing = parts.issuing
        self._runtime = parts.runtime
