"""How many changes and lookups a NameNode makes a second.

    python -m tests.bench.namenode [--seconds 3] [--clients 16] [--entries 100000] [--inodes 0]

Starts a NameNode in a process of its own, with its database in a temporary directory on the disk of TMPDIR, and
drives it over TCP from this process: durable creates one by one from several clients, durable creates in batches of 64,
lookups, and the listing of a directory of `--entries`. With `--inodes N` a namespace of N inodes is made first, and
the NameNode's resident memory is shown before and after.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import trio

from dfs import errors
from dfs.config import NameNodeConfig, render
from dfs.rpc import Pool, SocketNetwork
from dfs.types import NAMENODE_OBJECT
from tests.keys import ADMIN
from tests.keys import write as write_keys

BATCH = 64


class Client:
    """A session of its own, on a connection of its own."""

    def __init__(self, pool: Pool, address: str, name: str) -> None:
        self.pool = pool
        self.address = address
        self.name = name
        self.session = 0
        self.seq = 0
        self.made = 0

    async def call(self, method: str, *args: object) -> object:
        return await self.pool.call(self.address, NAMENODE_OBJECT, method, *args)

    async def open(self) -> None:
        opened = await self.call("open_session", {"name": self.name, "host": "bench"})
        self.session = opened["session"]  # type: ignore[index]

    async def apply(self, *commands: tuple[str, tuple[object, ...]]) -> list[object]:
        wire = []
        for verb, args in commands:
            self.seq += 1
            wire.append([self.seq, verb, args])
        replies = await self.call("apply", self.session, self.seq - len(wire) + 1, wire)
        for reply in replies:  # type: ignore[attr-defined]
            if reply[0]:
                raise errors.from_wire(*reply[1:])
        return [reply[1] for reply in replies]  # type: ignore[attr-defined]

    async def create(self, directory: int, count: int) -> None:
        names = [b"%s-%d" % (self.name.encode(), self.made + number) for number in range(count)]
        self.made += count
        await self.apply(*(("create", (directory, name, 0o644, 0, 0, True)) for name in names))


async def per_second(seconds: float, workers: list[Callable[[], Awaitable[int]]]) -> float:
    """How much the workers get done a second, together."""
    done = 0
    started = time.perf_counter()

    async def work(step: Callable[[], Awaitable[int]]) -> None:
        nonlocal done
        while time.perf_counter() - started < seconds:
            count = await step()
            done += count  # not across the await: others add, too

    async with trio.open_nursery() as nursery:
        for worker in workers:
            nursery.start_soon(work, worker)
    return done / (time.perf_counter() - started)


def rss_mib(pid: int) -> float:
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def measure(address: str, pid: int, options: argparse.Namespace) -> None:
    async with AsyncExitStack() as stack:
        pools = [await stack.enter_async_context(Pool(SocketNetwork(), key=ADMIN)) for _ in range(options.clients)]
        clients = [Client(pool, address, f"c{number}") for number, pool in enumerate(pools)]
        for client in clients:
            await client.open()
        root = int((await clients[0].apply(("mkdir", (1, b"bench", 0o755, 0, 0))))[0][0])  # type: ignore[index]
        print(f"resident memory {rss_mib(pid):.0f} MiB")
        if options.inodes:
            await fill(clients, root, options.inodes)
            print(f"resident memory {rss_mib(pid):.0f} MiB with {options.inodes} inodes")

        def creating(client: Client, count: int) -> Callable[[], Awaitable[int]]:
            async def step() -> int:
                await client.create(root, count)
                return count

            return step

        def looking(client: Client) -> Callable[[], Awaitable[int]]:
            async def step() -> int:
                await client.call("lookup", root, b"%s-%d" % (client.name.encode(), client.made // 2))
                return 1

            return step

        figures: dict[str, list[float]] = {}
        for _ in range(3):
            for what, workers in (
                ("durable creates, one by one", [creating(client, 1) for client in clients]),
                ("durable creates, batches of 64", [creating(client, BATCH) for client in clients[:4]]),
                ("lookups", [looking(client) for client in clients]),
            ):
                figures.setdefault(what, []).append(await per_second(options.seconds, workers))
        for what, values in figures.items():
            print(f"{what:32} {statistics.median(values):10,.0f} /s")
        await list_directory(clients[0], options.entries)
        print(f"resident memory {rss_mib(pid):.0f} MiB")


async def fill(clients: list[Client], root: int, inodes: int) -> None:
    async def some(client: Client, count: int) -> None:
        for _ in range(count // 512):
            await client.create(root, 512)

    async with trio.open_nursery() as nursery:
        for client in clients[:4]:
            nursery.start_soon(some, client, inodes // 4)


async def list_directory(client: Client, entries: int) -> None:
    directory = int((await client.apply(("mkdir", (1, b"large", 0o755, 0, 0))))[0][0])  # type: ignore[index]
    for _ in range(-(-entries // 512)):
        await client.create(directory, 512)
    started = time.perf_counter()
    after = count = 0
    while page := await client.call("readdir", directory, after, 4096):
        count += len(page)  # type: ignore[arg-type]
        after = page[-1][0]  # type: ignore[index]
    print(f"{'entries listed with attributes':32} {count / (time.perf_counter() - started):10,.0f} /s ({count} in one)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--inodes", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dfs-bench-") as name:
        socket = f"./u:{name}/socket" if len(name) > 90 else "127.0.0.1:9499"
        config = Path(name) / "namenode.toml"
        write_keys(Path(name))
        config.write_text(
            render(NameNodeConfig(state_dir=Path(name) / "state", listen=socket, nameserver="off", log_level="warning"))
        )
        daemon = subprocess.Popen([sys.executable, "-m", "nodes.namenode", "--config", str(config)])
        try:
            trio.run(until_it_answers, socket)
            trio.run(measure, socket, daemon.pid, options)
        finally:
            daemon.terminate()
            daemon.wait()


async def until_it_answers(address: str) -> None:
    with trio.fail_after(10):
        while True:
            async with Pool(SocketNetwork(), key=ADMIN) as pool:
                try:
                    await pool.call(address, NAMENODE_OBJECT, "cluster")
                    return
                except errors.RpcError:
                    await trio.sleep(0.05)


if __name__ == "__main__":
    main()
