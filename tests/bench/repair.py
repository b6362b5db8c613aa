"""How long a cluster needs to make all copies again after a DataNode died for good.

    python -m tests.bench.repair [--chunks 3000] [--bytes 20000] [--load]

Starts a NameNode and four DataNodes as processes, with their directories in a temporary one on the disk of TMPDIR,
fills `--chunks` sealed chunks of `--bytes` bytes with three copies each, kills a DataNode, and counts the seconds from
the moment it is dead to the NameNode until no chunk has too few copies. With `--load` a client stores and reads files
of 256 KiB all the time, and its rate during repair is compared with the one before.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import trio

from dfs import limits
from dfs.checksum import sum_blocks
from dfs.client import FileSystem
from dfs.types import ChunkId
from tests.integration.real import RealCluster, real_cluster

DEAD_AFTER_S = 4.0
LOAD_BYTES = 256 * limits.KIB


async def fill(fs: FileSystem, chunks: int, length: int) -> None:
    """One file of so many chunks."""
    data = os.urandom(length)
    blocks = sum_blocks(data)
    attr = await fs.touch("/filled")
    for first in range(0, chunks, limits.ALLOCATE_MAX_CHUNKS):
        count = min(limits.ALLOCATE_MAX_CHUNKS, chunks - first)
        places = await fs.session.ask_once("allocate", count, 3, [], "")
        async with trio.open_nursery() as nursery:
            for chunk, nodes, grant in places:
                for node in nodes:
                    nursery.start_soon(fs.nodes_known.append, node, ChunkId(chunk), 0, blocks, [data], grant, length)
        extents = [[(first + at) * length, length, chunk, 0] for at, (chunk, *_) in enumerate(places)]
        lengths = [[chunk, length, nodes] for chunk, nodes, _ in places]
        await fs.session.apply("commit", attr.ino, extents, lengths, False, None)
        await fs.session.apply("seal", [chunk for chunk, *_ in places])


async def wait(fs: FileSystem, dead: int, most_s: float) -> bool:
    """Whether, within that time, so many nodes are dead and no chunk has too few copies."""
    with trio.move_on_after(most_s):
        while True:
            status = await fs.status()
            states = [view.state for view in await fs.nodes()]
            if states.count("dead") == dead and not status["under_replicated"] and not status["copying"]:  # type: ignore[arg-type]
                return True
            await trio.sleep(0.1)
    return False


class Load:
    """A user who stores files, durably, and reads each again."""

    def __init__(self) -> None:
        self.files = 0

    async def run(self, cluster: RealCluster) -> None:
        """Until cancelled."""
        data = os.urandom(LOAD_BYTES)
        async with cluster.client() as fs:
            while True:
                async with await fs.open(f"/load-{self.files % 100}", "w+") as file:
                    await file.pwrite(data, 0)
                    await file.fsync()
                    assert await file.pread(LOAD_BYTES, 0) == data
                self.files += 1

    async def rate(self, seconds: float) -> float:
        """Files a second, from now on."""
        before, began = self.files, time.monotonic()
        await trio.sleep(seconds)
        return (self.files - before) / (time.monotonic() - began)


async def measure(cluster: RealCluster, chunks: int, length: int, load: Load | None) -> None:
    async with cluster.client() as fs, trio.open_nursery() as nursery:
        began = time.monotonic()
        await fill(fs, chunks, length)
        print(f"filled {chunks} chunks in {time.monotonic() - began:.1f} s")
        before = 0.0
        if load is not None:
            nursery.start_soon(load.run, cluster)
            await trio.sleep(2)
            before = await load.rate(10)
        cluster.kill("n4")
        while [view.state for view in await fs.nodes()][3] != "dead":
            await trio.sleep(0.1)
        began = time.monotonic()
        while not (await fs.status())["under_replicated"]:
            await trio.sleep(0.05)
        files = load.files if load is not None else 0
        done = await wait(fs, 1, 3600)
        took_s = time.monotonic() - began
        print(
            f"{'all copies made' if done else 'given up'} after {took_s:.1f} s: {0.75 * chunks / took_s:.0f} copies/s"
        )
        if load is not None:
            during = (load.files - files) / took_s
            nursery.cancel_scope.cancel()
            print(f"the user's files: {before:.1f} a second before, {during:.1f} during repair: {during / before:.2f}")


async def main(chunks: int, length: int, load: Load | None) -> None:
    with tempfile.TemporaryDirectory() as directory:
        options: dict[str, Any] = {"node_suspect_after_s": DEAD_AFTER_S / 2, "node_dead_after_s": DEAD_AFTER_S}
        async with real_cluster(Path(directory), datanodes=4, **options) as cluster:
            await measure(cluster, chunks, length, load)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", type=int, default=3000)
    parser.add_argument("--bytes", type=int, default=20_000)
    parser.add_argument("--load", action="store_true")
    given = parser.parse_args()
    trio.run(main, given.chunks, given.bytes, Load() if given.load else None)
