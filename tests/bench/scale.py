"""How much of its link a client gets, and how reading scales with DataNodes: hosts on links of limited speed.

    python -m tests.bench.scale [--mbit 1000] [--mib 512] [--datanodes 1,2,4,8] [--clients 4] [--replicas 3]

Every daemon and client is on a host of its own, a network namespace, whose link carries no more than `--mbit` each way
(tests/integration/hosts.py). Needs root, and the programs ip, tc and nsenter. All hosts share the processors of this
machine, and at some number of DataNodes they are the limit: the table says how busy they were. Chunks are in memory
(`--directory`), for on one machine's disk all DataNodes together were slower than their links.

One client's share is its user bytes over what its link carries with headers and all; Ethernet, IP and TCP leave 95 % of
that to bytes. Reading is of files that DataNodes have in memory, each client its own, all at once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import trio

from dfs import limits
from dfs.client import open_filesystem
from dfs.config import load_client
from dfs.keys import load_key
from tests.integration.hosts import hosts
from tests.integration.sites import CLIENT, NAMENODE, PYTHON, Site

_TIMEOUT_S: Final = 600


class Reading(NamedTuple):
    """All clients reading at once."""

    bytes_per_s: float
    processors_busy: float
    """0 to 1, of all of the machine's."""


# --- what runs on a client's host -----------------------------------------------------------------------


class Nothing:
    """The sink of a download: counts."""

    leaves_holes = False

    def __init__(self) -> None:
        self.bytes = 0

    async def write(self, view: memoryview) -> None:
        self.bytes += len(view)

    async def skip(self, length: int) -> None:
        self.bytes += length


async def read(config: Path, path: str) -> None:
    """Connect, say so, wait for a line on stdin, read a file, and say how many bytes it had."""
    client = load_client(config)
    async with open_filesystem(client.namenode, load_key(client.key)) as fs:
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        sink = Nothing()
        await fs.download(path, sink)
        print(sink.bytes, flush=True)


# --- the cluster ----------------------------------------------------------------------------------------


def client_names(count: int) -> list[str]:
    return [CLIENT, *(f"{CLIENT}{number}" for number in range(2, count + 1))]


@contextmanager
def limited_site(directory: Path, datanodes: int, clients: int, replicas: int, mbit: int) -> Iterator[Site]:
    """A cluster that is up, with as many copies as it can have, on hosts with limited links."""
    nodes = [f"n{number}" for number in range(1, datanodes + 1)]
    names = [NAMENODE, *nodes, *client_names(clients)]
    with hosts(*names) as network:
        for name in names:
            network.limit(name, mbit)
        copies = min(replicas, datanodes)
        site = Site(network, directory, replicas=copies, min_replicas=min(2, copies), node_dead_after_s=60.0)
        site.start(NAMENODE, *nodes)
        site.until(lambda: list(site.states().values()) == ["up"] * datanodes, "the DataNodes")
        yield site


def bench_of_one(site: Site, mib: int) -> dict[str, Any]:
    """`dfs bench` on the client's host: its lines by their names."""
    options = ["--size", f"{mib}M", "--seconds", "60", "--only", "seq_write,seq_read", "--json"]
    command = [PYTHON, "-m", "dfs.cli", "bench", *options]
    done = site.network.run(CLIENT, command, env=site.environment(), timeout=_TIMEOUT_S, check=True)
    return {line["name"]: line for line in json.loads(done.stdout)["lines"]}


def read_at_once(site: Site, names: list[str]) -> Reading:
    """Each client reads the file of its name; from the first byte to the last."""
    with ExitStack() as stack:
        readers = [stack.enter_context(reader(site, name)) for name in names]
        for each in readers:
            assert each.stdout is not None
            assert each.stdout.readline() == b"ready\n"
        started_s, busy_s = time.monotonic(), busy()
        for each in readers:
            assert each.stdin is not None
            each.stdin.write(b"\n")
            each.stdin.flush()
        moved = sum(int(each.communicate(timeout=_TIMEOUT_S)[0]) for each in readers)
        elapsed_s = time.monotonic() - started_s
        return Reading(moved / elapsed_s, (busy() - busy_s) / elapsed_s)


def upload(site: Site, name: str, mib: int) -> None:
    noise = ["sh", "-c", f'head -c {mib}M /dev/urandom | "$0" -m dfs.cli upload --force - /{name}', PYTHON]
    site.network.run(name, noise, env=site.environment(), timeout=_TIMEOUT_S, check=True)


@contextmanager
def reader(site: Site, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """`read` on the host of that name; ended on leaving."""
    argv = [PYTHON, "-m", "tests.bench.scale", "--read", f"/{name}", "--config", site.environment()["DFS_CONFIG"]]
    process = subprocess.Popen(site.network.within(name, argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def busy() -> float:
    """Seconds of all processors, divided by their number, in which they did something."""
    user, nice, system, _idle, _wait, *others = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + sum(others)) / os.sysconf("SC_CLK_TCK") / (os.cpu_count() or 1)


# --- telling --------------------------------------------------------------------------------------------


def say_share(line: dict[str, Any], mbit: int) -> str:
    share = line["bytes_per_s"] * 8 / (mbit * 1e6)
    most = line["busy"][0]
    return (
        f"  one client, {line['title']:24} {line['bytes_per_s'] / limits.MIB:7.1f} MiB/s  {share:5.1%} of its link;"
        f" busiest: {most['what']} {most['part']:.0%}"
    )


def measure(datanodes: int, options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="dfs-scale-", dir=options.directory) as name:
        with limited_site(Path(name), datanodes, options.clients, options.replicas, options.mbit) as site:
            print(f"{datanodes} DataNodes, {min(options.replicas, datanodes)} copies", flush=True)
            for line in bench_of_one(site, options.mib).values():
                print(say_share(line, options.mbit), flush=True)
            for client in client_names(options.clients):
                upload(site, client, options.mib)
            counts = [count for count in (1, 2, 4, 8, 16) if count < options.clients] + [options.clients]
            for count in counts:
                found = read_at_once(site, client_names(count))
                print(
                    f"  {count} clients reading at once {found.bytes_per_s / limits.MIB:17.1f} MiB/s,"
                    f" this machine's processors busy {found.processors_busy:.0%}",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mbit", type=int, default=1000, help="of each host's link, each way")
    parser.add_argument("--mib", type=int, default=512, help="of each file")
    parser.add_argument("--datanodes", default="1,2,4,8")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path("/dev/shm"), help="of all daemons: memory")
    parser.add_argument("--read", metavar="PATH", help=argparse.SUPPRESS)
    parser.add_argument("--config", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        trio.run(read, options.config, options.read)
        return
    for datanodes in map(int, options.datanodes.split(",")):
        measure(datanodes, options)


if __name__ == "__main__":
    main()
