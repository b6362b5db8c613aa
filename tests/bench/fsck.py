"""How long the NameNode's part of `dfs fsck` takes, and how long lookups take meanwhile.

    python -m tests.bench.fsck [--inodes 100000] [--seconds 5]

Makes a namespace of `--inodes` files with bytes in shared chunks, in directories of a thousand, in a temporary
directory on the disk of TMPDIR; starts a NameNode on it; and drives it over TCP: lookups one by one, first alone, then
while the tables are checked from beginning to end. No DataNode runs, so copies are not looked at.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio

from dfs import limits
from dfs.config import NameNodeConfig, render
from dfs.rpc import Pool, SocketNetwork
from dfs.types import NAMENODE_OBJECT
from nodes.namenode.store import open_store
from tests.bench.namenode import until_it_answers
from tests.keys import ADMIN
from tests.keys import write as write_keys

ADDRESS = "127.0.0.1:9498"
FILES_OF_A_DIRECTORY = 1000
FILES_OF_A_CHUNK = 2000
FILE_BYTES = 4096


def make(directory: Path, files: int) -> int:
    """A sound namespace of so many files, written as the commands would; how many directories it has."""
    store = open_store(directory, random.Random(0))
    db, mode_of_file, mode_of_directory = store.writing, 0o100644, 0o040755
    directories = -(-files // FILES_OF_A_DIRECTORY)
    first_file = 2 + directories
    db.execute("BEGIN IMMEDIATE")
    made = "INSERT INTO inode VALUES (?, ?, ?, 0, 0, 0, ?, ?, 0, 0, 0, 0, 1, ?, ?, ?, NULL)"
    for number in range(directories):
        entries = min(FILES_OF_A_DIRECTORY, files - number * FILES_OF_A_DIRECTORY)
        db.execute(made, (2 + number, mode_of_directory, 2, entries, 0, 0, 1, entries + 1))
        db.execute("INSERT INTO dentry VALUES (1, ?, ?, ?)", (b"d%d" % number, number + 2, 2 + number))
    db.execute("UPDATE inode SET nlink = 2 + ?, size = ?, next_cookie = ? WHERE ino = 1", (directories,) * 2 + (files,))
    for number in range(files):
        ino, (parent, at) = first_file + number, divmod(number, FILES_OF_A_DIRECTORY)
        db.execute(made, (ino, mode_of_file, 1, FILE_BYTES, FILE_BYTES, 3, 0, 0))
        db.execute("INSERT INTO dentry VALUES (?, ?, ?, ?)", (2 + parent, b"f%d" % at, at + 2, ino))
        chunk, at = divmod(number, FILES_OF_A_CHUNK)
        db.execute("INSERT INTO extent VALUES (?, 0, ?, ?, ?)", (ino, FILE_BYTES, 1 + chunk, at * FILE_BYTES))
    chunks = -(-files // FILES_OF_A_CHUNK)
    for chunk in range(chunks):
        length = FILE_BYTES * min(FILES_OF_A_CHUNK, files - chunk * FILES_OF_A_CHUNK)
        db.execute("INSERT INTO chunk VALUES (?, 0, ?, ?, 3)", (1 + chunk, length, length))
    totals = {"next_ino": first_file + files, "next_chunk": 1 + chunks, "inodes": 1 + directories + files}
    totals |= {"directories": 1 + directories, "files": files, "allocated": files * FILE_BYTES}
    db.executemany("UPDATE counter SET value = ? WHERE name = ?", [(value, name) for name, value in totals.items()])
    db.execute("COMMIT")
    store.close()
    return directories


async def look_up(pool: Pool, directories: int, took_s: list[float], until: trio.Event | float) -> None:
    """Lookups one after another, as a shell makes them, until then."""
    chance = random.Random(1)
    while not until.is_set() if isinstance(until, trio.Event) else time.perf_counter() < until:
        started = time.perf_counter()
        await pool.call(ADDRESS, NAMENODE_OBJECT, "lookup", 2 + chance.randrange(directories), b"f0")
        took_s.append(time.perf_counter() - started)


async def check(pool: Pool) -> tuple[float, float, int]:
    """All slices, then the totals: seconds for each, and findings."""
    started, cursor, found = time.perf_counter(), None, 0
    while True:
        findings, cursor = await pool.call(ADDRESS, NAMENODE_OBJECT, "check", cursor)
        found += len(findings)
        if cursor is None:
            break
    sliced = time.perf_counter()
    findings = await pool.call(ADDRESS, NAMENODE_OBJECT, "check_totals", timeout_s=limits.CHECK_TOTALS_TIMEOUT_S)
    return sliced - started, time.perf_counter() - sliced, found + len(findings)


def show(what: str, took_s: list[float]) -> None:
    took_s.sort()
    p50, p99 = took_s[len(took_s) // 2], took_s[len(took_s) * 99 // 100]
    print(
        f"{what:20} {len(took_s):7} lookups, p50 {p50 * 1e3:6.2f} ms, p99 {p99 * 1e3:6.2f} ms,"
        f" longest {took_s[-1] * 1e3:6.1f} ms"
    )


async def measure(directories: int, seconds: float) -> None:
    async with Pool(SocketNetwork(), key=ADMIN) as one, Pool(SocketNetwork(), key=ADMIN) as other:
        await look_up(one, directories, [], time.perf_counter() + 1)
        alone: list[float] = []
        await look_up(one, directories, alone, time.perf_counter() + seconds)
        show("alone", alone)
        for attempt in ("first", "again"):
            meanwhile: list[float] = []
            done = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(look_up, one, directories, meanwhile, done)
                slices_s, totals_s, found = await check(other)
                done.set()
            show(f"checked, {attempt}", meanwhile)
            print(f"{'':20} slices {slices_s:.1f} s, totals {totals_s:.1f} s, {found} findings")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inodes", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dfs-bench-") as name:
        directories = make(Path(name) / "state", options.inodes)
        config = Path(name) / "namenode.toml"
        write_keys(Path(name))
        config.write_text(
            render(
                NameNodeConfig(state_dir=Path(name) / "state", listen=ADDRESS, nameserver="off", log_level="warning")
            )
        )
        daemon = subprocess.Popen([sys.executable, "-m", "nodes.namenode", "--config", str(config)])
        try:
            trio.run(until_it_answers, ADDRESS)
            trio.run(measure, directories, options.seconds)
        finally:
            daemon.terminate()
            daemon.wait()


if __name__ == "__main__":
    main()
