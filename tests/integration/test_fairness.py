"""One client sends as much as it can, by hand: the others finish their work without an error."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from dfs import errors, limits
from dfs.client.session import NAMENODE_OBJECT
from dfs.rpc import Pool, SocketNetwork
from dfs.types import ROOT_INO
from tests.integration.real import RealCluster, real_cluster
from tests.keys import CLIENT

_CALLS_AT_ONCE = 40
_FILES = 5


@pytest.mark.slow
async def test_a_client_finishes_its_work_while_another_floods_the_namenode(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=2, replicas=2) as cluster, Pool(SocketNetwork(), key=CLIENT) as pool:
        flood = Flood(cluster, pool)
        async with trio.open_nursery() as nursery:
            await nursery.start(flood.run)
            async with cluster.client() as fs:
                for number in range(_FILES):
                    async with await fs.open(f"/file{number}", "w") as file:
                        await file.pwrite(b"content", 0)
                        await file.fsync()
                assert len([entry for entry in await fs.listdir("/") if entry.name.startswith(b"file")]) == _FILES
            nursery.cancel_scope.cancel()
        assert flood.refused and not flood.other_errors


class Flood:
    """Full batches of commands that fail each by itself, so many at once that the queue of one session is full."""

    def __init__(self, cluster: RealCluster, pool: Pool) -> None:
        self._cluster = cluster
        self._pool = pool
        self._seq = 0
        self.refused = 0
        self.other_errors = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        opened = await self._call("open_session", {"name": "flood", "host": "here"})
        async with trio.open_nursery() as nursery:
            for _ in range(_CALLS_AT_ONCE):
                nursery.start_soon(self._send, int(opened["session"]))
            while not self.refused:
                await trio.sleep(0.01)
            task_status.started()

    async def _send(self, session: int) -> None:
        while True:
            first = self._seq + 1
            self._seq += limits.BATCH_MAX_COMMANDS
            commands = [[seq, "rmdir", [ROOT_INO, b"none"]] for seq in range(first, self._seq + 1)]
            try:
                await self._call("apply", session, 0, commands)
            except errors.Busy:
                self.refused += 1
                await trio.sleep(0.01)  # of a flood that still fills the queue
            except errors.DfsError:
                self.other_errors += 1

    async def _call(self, method: str, *args: object) -> dict[str, int]:
        answer: dict[str, int] = await self._pool.call(self._cluster.namenode_address, NAMENODE_OBJECT, method, *args)
        return answer
