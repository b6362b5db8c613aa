"""The transport: Pyro5's wire protocol and serializers on trio, with our own and with stock Pyro5 peers."""

from __future__ import annotations

from dfs.rpc.address import parse_uri, uri
from dfs.rpc.authentication import Gate
from dfs.rpc.faults import PyroError
from dfs.rpc.handover import Inbox
from dfs.rpc.network import Listener, Network, Stream
from dfs.rpc.objects import Call, Later, Party, Peer, WithData, expose, takes_call
from dfs.rpc.pool import Pool, PoolStatistics
from dfs.rpc.server import Server, ServerStatistics
from dfs.rpc.sharing import ForeignMemory, SharedBytes, SharedMemory
from dfs.rpc.sockets import SocketNetwork
from dfs.rpc.versions import SPOKEN, Versions

__all__ = [
    "SPOKEN",
    "Call",
    "ForeignMemory",
    "Gate",
    "Inbox",
    "Later",
    "Listener",
    "Network",
    "Party",
    "Peer",
    "Pool",
    "PoolStatistics",
    "PyroError",
    "Server",
    "ServerStatistics",
    "SharedBytes",
    "SharedMemory",
    "SocketNetwork",
    "Stream",
    "Versions",
    "WithData",
    "expose",
    "parse_uri",
    "takes_call",
    "uri",
]
