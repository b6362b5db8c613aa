"""The DataNode's conversation with its NameNode: register, heartbeat, do what it is told, report what it has.

Heartbeats go out every HEARTBEAT_PERIOD_S. Orders come in their answers, again and again until they are reported
done, so one that is done already is passed over, and so is one for
a chunk that has an order in work: it comes again. What was done, what failed and what was found damaged
stays in the report until a heartbeat with it was answered: the NameNode may restart at any moment.

A report of all chunks, in slices, goes out at the start, after each registration, when a directory fails, and once
in REPORT_PERIOD_S.

Invariants: an order's number is in at most one of `_in_work`, `_done`, `_failed`; no two orders in work are for the
same chunk.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, Final

import structlog
import trio

from dfs import errors, limits
from dfs.config import DataNodeConfig
from dfs.rpc import Pool, Server
from dfs.runtime import Runtime
from dfs.types import ChunkId, ClusterId, NodeId
from nodes.datanode.copier import copy
from nodes.datanode.volumes import Volumes

log = structlog.get_logger(__name__)

_NAMENODE: Final = "dfs.namenode"
_ORDERS_AT_ONCE: Final = 8
_CHUNK_LAST: Final = 2**63 - 1
_HEARTBEAT_TIMEOUT_S: Final = 5.0


class Agent:
    """Use `join`, then `run` as a task."""

    def __init__(
        self, config: DataNodeConfig, volumes: Volumes, pool: Pool, server: Server, runtime: Runtime, address: str
    ) -> None:
        self._config = config
        self._runtime = runtime
        self._volumes = volumes
        self._pool = pool
        self._server = server
        self._address = config.advertise or address
        self._in_work: dict[int, ChunkId] = {}
        self._done: list[int] = []
        self._failed: list[tuple[int, str, str]] = []
        self._corrupt: list[tuple[ChunkId, str]] = []
        self._is_registered = False
        self._report_due = trio.Event()
        self._failed_directories = 0

    async def _call(self, method: str, *args: Any, timeout_s: float = _HEARTBEAT_TIMEOUT_S) -> Any:
        return await self._pool.call(self._config.namenode, _NAMENODE, method, *args, timeout_s=timeout_s)

    # --- registering ------------------------------------------------------------------------------------

    async def register(self) -> None:
        """Say where we are, and join the cluster. Raises `WrongCluster`, `Exists`: these no waiting mends."""
        info: dict[str, Any] = {
            "node": self._config.node,
            "address": self._address,
            "host": socket.gethostname(),
            "rack": self._config.rack,
            "cluster": self._volumes.cluster,
            "directories": self._volumes.directory_ids(),
        }
        cluster = ClusterId((await self._call("register", info))["cluster"])
        await self._runtime.run_blocking(self._volumes.join, cluster)
        if info["directories"] != self._volumes.directory_ids():  # some are new, and have ids only now
            info |= {"cluster": cluster, "directories": self._volumes.directory_ids()}
            await self._call("register", info)
        self._pool.handshake["cluster"] = cluster
        self._is_registered = True
        self._report_due.set()
        log.info("registered", namenode=self._config.namenode, cluster=cluster)

    # --- heartbeats -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Heartbeat, work and report until cancelled. Raises `WrongCluster` and `Exists` from registering."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._report_when_due)
            workers = trio.CapacityLimiter(_ORDERS_AT_ONCE)
            silent_since: float | None = None
            while True:
                try:
                    await self._heartbeat(nursery, workers)
                    silent_since = None
                except (errors.WrongCluster, errors.Exists):
                    raise
                except errors.DfsError as error:
                    if silent_since is None:
                        silent_since = trio.current_time()
                        log.warning("namenode does not answer", namenode=self._config.namenode, error=str(error))
                await trio.sleep(limits.HEARTBEAT_PERIOD_S)

    async def _heartbeat(self, nursery: trio.Nursery, workers: trio.CapacityLimiter) -> None:
        if not self._is_registered:
            await self.register()
        self._corrupt += self._volumes.take_corrupt()
        done, failed, corrupt = self._done[:], self._failed[:], self._corrupt[:]
        report = {
            "capacity_bytes": self._volumes.capacity_bytes(),
            "free_bytes": self._volumes.free_bytes(),
            "chunks": self._volumes.chunk_count(),
            "load": self._server.statistics().calls_in_work,
            "done": done,
            "failed": failed,
            "corrupt": corrupt,
        }
        try:
            answer = await self._call("heartbeat", self._config.node, report)
        except errors.NotFound:
            self._is_registered = False
            return
        del self._done[: len(done)], self._failed[: len(failed)], self._corrupt[: len(corrupt)]
        self._note_failed_directories()
        for number, kind, chunk, *rest in answer["orders"]:
            if chunk not in self._in_work.values() and number not in self._done:
                self._in_work[number] = chunk
                nursery.start_soon(self._work, number, kind, chunk, rest, workers)

    def _note_failed_directories(self) -> None:
        failed = sum(volume.failed is not None for volume in self._volumes.statistics())
        if failed != self._failed_directories:
            self._failed_directories = failed
            self._report_due.set()

    # --- orders -----------------------------------------------------------------------------------------

    async def _work(self, number: int, kind: str, chunk: ChunkId, rest: Sequence[Any], workers: Any) -> None:
        try:
            async with workers:
                await self._obey(kind, chunk, rest)
        except errors.ChunkNotFound:
            if kind == "copy":
                self._failed.append((number, "ChunkNotFound", f"no source has chunk {chunk:x}"))
            else:
                self._done.append(number)  # nothing is there to delete, cut or punch
        except errors.DfsError as error:
            self._failed.append((number, error.code, error.message))
        except Exception as error:
            log.exception("order failed unexpectedly", order=number, kind=kind, chunk=chunk)
            self._failed.append((number, "RemoteFault", str(error)))
        else:
            self._done.append(number)
        finally:
            del self._in_work[number]

    async def _obey(self, kind: str, chunk: ChunkId, rest: Sequence[Any]) -> None:
        if kind == "delete":
            await self._volumes.delete(chunk)
        elif kind == "cut":
            if (self._volumes.length(chunk) or 0) > rest[0]:
                await self._volumes.cut(chunk, rest[0])
        elif kind == "punch":
            await self._volumes.punch(chunk, [(offset, length) for offset, length in rest[0]])
        elif kind == "copy":
            sources = [(NodeId(node), address) for node, address in rest[1]]
            await copy(self._pool, self._volumes, chunk, rest[0], sources)
        else:
            raise errors.NotSupported(f"no such order: {kind!r}: is the NameNode newer than this DataNode?")

    # --- reports ----------------------------------------------------------------------------------------

    async def _report_when_due(self) -> None:
        while True:
            with trio.move_on_after(limits.REPORT_PERIOD_S):
                await self._report_due.wait()
            self._report_due = trio.Event()
            try:
                await self._report()
            except errors.DfsError as error:
                log.warning("report of chunks not delivered, trying again", error=str(error))
                await trio.sleep(limits.RETRY_DELAY_MAX_S)
                self._report_due.set()

    async def _report(self) -> None:
        first = 1
        while first <= _CHUNK_LAST:
            entries = self._volumes.list_chunks(ChunkId(first - 1), limits.REPORT_SLICE_CHUNKS)
            is_last = len(entries) < limits.REPORT_SLICE_CHUNKS
            last = _CHUNK_LAST if is_last else entries[-1][0]
            first = await self._call(
                "report_chunks", self._config.node, first, last, entries, timeout_s=limits.CALL_TIMEOUT_S
            )
