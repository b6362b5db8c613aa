"""The cluster in memory: a NameNode, DataNodes and clients as processes of their own, on one network.

Everything here is the daemons' own code; what is in memory is the network and the DataNodes' disks. The NameNode's
SQLite is real, in a temporary directory: a crash closes its connections without a commit, which rolls back what was
under way, and a committed transaction is durable by SQLite's contract.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import trio

from dfs.config import DataNodeConfig, NameNodeConfig
from dfs.daemon import Health
from nodes.datanode.daemon import run_datanode
from nodes.datanode.volumes import NEW_DISK
from nodes.namenode.daemon import run_namenode
from tests.keys import PLAIN, node_file
from tests.simulation import settings
from tests.simulation.disk import MemoryDisk
from tests.simulation.network import JitteryNetwork
from tests.simulation.process import Life, Process
from tests.simulation.story import Story

NAMENODE: Final = "namenode"
ADDRESS: Final = "namenode:9400"


class ChunkRow(NamedTuple):
    """A chunk as the NameNode's tables have it. `is_open`: a session appends to it."""

    chunk: int
    length: int
    live: int
    replicas: int
    is_open: bool
    nodes: tuple[str, ...]


class Cluster:
    """`processes` by name. What it does with them is told in `story`."""

    def __init__(self, seed: int, directory: Path, nursery: trio.Nursery, story: Story, datanodes: int) -> None:
        self.story = story
        self.network = JitteryNetwork(random.Random(f"{seed}/network"))
        self.processes: dict[str, Process] = {}
        self.datanodes = [f"n{number}" for number in range(1, datanodes + 1)]
        self._seed = seed
        self._directory = directory
        self._nursery = nursery
        self.add(NAMENODE, self._namenode)
        for name in self.datanodes:
            self.add(name, self._datanode)
            self.give_disks(name)

    def add(self, name: str, main: Callable[[Life], Awaitable[None]]) -> Process:
        process = Process(name, main, str(self._seed), self.network, self._nursery, self.story)
        self.processes[name] = process
        return process

    def give_disks(self, name: str) -> None:
        """New, empty ones."""
        process = self.processes[name]
        process.disks = [MemoryDisk(settings.DISK_BYTES, f"{name}/d{number}.{process.lives}") for number in range(1, 3)]
        for disk in process.disks if process.lives else ():
            disk.replace_file(NEW_DISK, b"")

    async def _namenode(self, life: Life) -> None:
        config = NameNodeConfig(state_dir=self._directory, listen=ADDRESS, **settings.NAMENODE)
        await run_namenode(config, PLAIN, network=life, runtime=life, health=Health())

    async def _datanode(self, life: Life) -> None:
        process = self.processes[life.name]
        config = DataNodeConfig(
            node=life.name,
            namenode=ADDRESS,
            listen=f"{life.name}:9401",
            directories=[Path(disk.name) for disk in process.disks],
            reserve_bytes=0,
        )
        await run_datanode(
            config, node_file(life.name), network=life, runtime=life, health=Health(), disks=process.disks
        )

    def down(self) -> list[str]:
        return [name for name in self.datanodes if not self.processes[name].is_up]

    # --- what only a simulation can see -----------------------------------------------------------------

    def query(self, sql: str) -> list[tuple[object, ...]]:
        """The NameNode's committed tables."""
        db = sqlite3.connect(self._directory / "namespace.sqlite")
        try:
            return db.execute(sql).fetchall()
        finally:
            db.close()

    def chunks(self) -> list[ChunkRow]:
        rows = self.query(
            "SELECT c.chunk, c.length, c.live, c.replicas, c.session, group_concat(n.name) FROM chunk c LEFT JOIN"
            " replica r ON r.chunk = c.chunk LEFT JOIN node n ON n.id = r.node GROUP BY c.chunk ORDER BY c.chunk"
        )
        return [
            ChunkRow(
                int(str(row[0])), int(str(row[1])), int(str(row[2])), int(str(row[3])), row[4] != 0, _names(row[5])
            )
            for row in rows
        ]

    def held(self, name: str) -> Iterator[tuple[int, MemoryDisk, str]]:
        """The chunk files of a DataNode: chunk, disk, path."""
        for disk in self.processes[name].disks:
            for path in disk.paths():
                if path.startswith("chunks/") and "." not in path:
                    yield _chunk_of(path), disk, path

    def damaged(self, name: str) -> set[int]:
        """The chunks of which a DataNode knows that blocks are damaged."""
        paths = [path for disk in self.processes[name].disks for path in disk.paths()]
        return {_chunk_of(path) for path in paths if path.startswith("chunks/") and path.endswith(".bad")}

    def strays(self) -> list[str]:
        """Chunk files, with their indexes, that the NameNode's tables do not account for."""
        counted = {(row.chunk, name) for row in self.chunks() for name in row.nodes}
        return [
            f"{name} has {path}"
            for name in self.datanodes
            for disk in self.processes[name].disks
            for path in disk.paths()
            if path.startswith("chunks/") and (_chunk_of(path), name) not in counted
        ]


def _chunk_of(path: str) -> int:
    return int(path.rpartition("/")[2].partition(".")[0], 16)


def _names(joined: object) -> tuple[str, ...]:
    return tuple(sorted(str(joined).split(","))) if joined else ()
