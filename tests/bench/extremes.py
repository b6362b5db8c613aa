"""A sparse file of a tebibyte, and a directory of a million files: how long what people do with them takes.

    python -m tests.bench.extremes [--gib 1024] [--files 1000000] [--mounted-files 150000] [--directory DIR]

Starts a cluster of its own in a temporary directory, with a mount, and removes both. The million files are created
through the Python API, many at a time. A second directory grows through the mount, one file after the other, beyond
what a mount remembers. After each step stands what the processes of the NameNode and the mount have in memory.
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
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import trio

from dfs import limits
from dfs.client import open_filesystem
from dfs.config import load_client
from dfs.keys import load_key
from dfs.mountpoint import is_mounted
from tests.bench.transfer import DFS, run

_TIMEOUT_S: Final = 7200
_MOUNT_TIMEOUT_S: Final = 60
_CHANGED: Final = 5_000
"""Files in a directory of many, one after the other."""
_GROWN_IN: Final = 5
"""Steps, so that one sees where it becomes slower."""
_MOST_SHOWN: Final = 40
"""Characters of what a program said."""


class Here(NamedTuple):
    """A mount, and whose memory is looked at."""

    mountpoint: Path
    environment: dict[str, str]
    processes: dict[str, int]
    """Process ids by what they are called in the table."""


@contextmanager
def cluster(directory: Path) -> Iterator[Here]:
    """A cluster of three DataNodes, mounted."""
    state, mountpoint = directory / "cluster", directory / "mnt"
    mountpoint.mkdir()
    environment = {**os.environ, "XDG_STATE_HOME": str(directory / "state"), "DFS_CONFIG": str(state / "client.toml")}
    run(*DFS, "up", "--dir", state, "--datanodes", "3", env=environment)
    try:
        status = subprocess.run([*DFS, "status", "--json"], env=environment, capture_output=True, check=True).stdout
        with mounted(mountpoint, environment) as mount:
            yield Here(mountpoint, environment, {"NameNode": json.loads(status)["pid"], "mount": mount})
    finally:
        run(*DFS, "down", "--dir", state, env=environment)


@contextmanager
def mounted(mountpoint: Path, environment: dict[str, str]) -> Iterator[int]:
    """The process id of a mount. What it says goes to stderr."""
    process = subprocess.Popen([*DFS, "mount", "--foreground", mountpoint], env=environment)
    try:
        deadline_s = time.monotonic() + _MOUNT_TIMEOUT_S
        while not is_mounted(mountpoint):
            assert process.poll() is None and time.monotonic() < deadline_s, "it was not mounted"
            time.sleep(0.05)
        yield process.pid
    finally:
        run("fusermount3", "-uz", mountpoint)
        process.wait(_MOUNT_TIMEOUT_S)


# --- telling --------------------------------------------------------------------------------------------


@contextmanager
def timed(here: Here, what: str, files: int = 0) -> Iterator[list[str]]:
    """Tell how long it took, how much is in memory then, and what was put into the list."""
    said: list[str] = []
    started_s = time.monotonic()
    yield said
    elapsed_s = time.monotonic() - started_s
    if files:
        said.append(f"{files / elapsed_s:,.0f} files/s")
    memories = " ".join(f"{name} {memory(pid):>14}" for name, pid in here.processes.items())
    print(f"  {what:36} {elapsed_s:8.2f} s  {memories}  {' '.join(said)}", flush=True)


def memory(pid: int) -> str:
    """MiB that a process has in memory now, and had at most."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    now, most = (int(fields[name].split()[0]) // 1024 for name in ("VmRSS", "VmHWM"))
    return f"{now} (most {most})"


def told(here: Here, what: str, *argv: str | Path) -> None:
    """Run a program; tell what it said last, and how it ended if not well."""
    with timed(here, what) as said:
        done = subprocess.run(
            list(map(str, argv)), capture_output=True, text=True, env=here.environment, timeout=_TIMEOUT_S, check=False
        )
        said.append(done.stdout.strip().rpartition("\n")[2][:_MOST_SHOWN])
        if done.returncode:
            said.append(f"(status {done.returncode}: {done.stderr.strip()})")


def shell(here: Here, command: str, what: str = "") -> None:
    """Run a line of shell in the mount's root."""
    told(here, what or command, "sh", "-c", f"cd '{here.mountpoint}' && {command}")


def verb(here: Here, *words: str) -> None:
    told(here, " ".join(["dfs", *words]), *DFS, *words)


# --- a sparse file --------------------------------------------------------------------------------------


def sparse(here: Here, size_bytes: int) -> None:
    """Data at the beginning, in the middle and at the end."""
    print(f"A file of {size_bytes / limits.GIB:,.0f} GiB, of which 3 MiB are data", flush=True)
    file, piece = here.mountpoint / "sparse", os.urandom(limits.MIB)
    places = (0, size_bytes // 2, size_bytes - limits.MIB)
    with timed(here, "write, fsync"), file.open("wb", buffering=0) as writing:
        for place in places:
            assert os.pwrite(writing.fileno(), piece, place) == len(piece)
        os.fsync(writing.fileno())
    with timed(here, "read it, and a MiB of hole"), file.open("rb", buffering=0) as reading:
        assert all(os.pread(reading.fileno(), limits.MIB, place) == piece for place in places)
        assert not any(os.pread(reading.fileno(), limits.MIB, size_bytes // 4))
    shell(here, "ls -l sparse")
    shell(here, "du -k sparse")
    shell(here, "dd if=sparse of=/dev/null bs=1M count=1024 skip=2 status=none", "read 1 GiB of hole")
    shell(here, "truncate -s +1G sparse && truncate -s -1G sparse", "1 GiB more, 1 GiB less")
    verb(here, "du", "/sparse")
    verb(here, "why", "/sparse")
    verb(here, "fsck")
    shell(here, "rm sparse")


# --- a directory ----------------------------------------------------------------------------------------


async def fill(here: Here, name: str, count: int) -> None:
    """A new directory with so many empty files, through the Python API."""
    client = load_client(Path(here.environment["DFS_CONFIG"]))
    async with open_filesystem(client.namenode, load_key(client.key)) as fs:
        directory = await fs.mkdir(f"/{name}")
        numbers = iter(range(count))

        async def create() -> None:
            for number in numbers:
                await fs.inodes.create(directory.ino, b"%07d" % number, 0o644, 0, 0)

        async with trio.open_nursery() as nursery:
            for _ in range(limits.BATCH_MAX_COMMANDS):
                nursery.start_soon(create)


def create(here: Here, directory: str, first: int, last: int) -> None:
    """Empty files through the mount."""
    with timed(here, f"create {last - first:,} through the mount", last - first):
        for number in range(first, last):
            path = here.mountpoint / directory / f"{number:07}"
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))


def unlink(here: Here, directory: str, first: int, last: int) -> None:
    with timed(here, f"unlink {last - first:,} through the mount", last - first):
        for number in range(first, last):
            (here.mountpoint / directory / f"{number:07}").unlink()


def many(here: Here, count: int) -> None:
    """Create, look, remove."""
    print(f"A directory of {count:,} files", flush=True)
    with timed(here, "create through the API", count):
        trio.run(fill, here, "many", count)
    look(here, count)
    create(here, "many", count, count + _CHANGED)
    unlink(here, "many", count, count + _CHANGED)
    verb(here, "rm", "-r", "/many")
    verb(here, "fsck")


def grow(here: Here, count: int) -> None:
    """As a program does that unpacks an archive."""
    print(f"A directory that grows to {count:,} files through the mount", flush=True)
    (here.mountpoint / "grown").mkdir()
    at_once = -(-count // _GROWN_IN)
    for first in range(0, count, at_once):
        create(here, "grown", first, min(first + at_once, count))
    shell(here, "sync -f grown")
    unlink(here, "grown", 0, min(count, _CHANGED))


def look(here: Here, count: int) -> None:
    """What leaves it as it is."""
    shell(here, f"stat -c %n many/{count // 2:07}")
    shell(here, "ls -f many | wc -l")
    shell(here, "ls -l many | wc -l")
    shell(here, "find many -name '*77' | wc -l")
    shell(here, "du -s --inodes many")
    shell(here, "mv many/0000000 many/x && mv many/x many/0000000", "mv, and back")
    told(here, "dfs ls /many | wc -l", "sh", "-c", f"{' '.join(DFS)} ls /many | wc -l")
    verb(here, "du", "-s", "/many")
    verb(here, "fsck")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=int, default=1024, help="of the sparse file; 0: none")
    parser.add_argument("--files", type=int, default=1_000_000, help="0: none")
    parser.add_argument("--mounted-files", type=int, default=150_000, help="0: none")
    parser.add_argument("--directory", type=Path, help="where to put the cluster; default: the system's for such")
    options = parser.parse_args()
    if not is_possible():
        sys.exit("this measures a mount, which needs /dev/fuse and fusermount3")
    with (
        tempfile.TemporaryDirectory(prefix="dfs-extremes-", dir=options.directory) as name,
        cluster(Path(name)) as here,
    ):
        print("  Memory in MiB.")
        if options.gib:
            sparse(here, options.gib * limits.GIB)
        if options.files:
            many(here, options.files)
        if options.mounted_files:
            grow(here, options.mounted_files)


def is_possible() -> bool:
    return os.access("/dev/fuse", os.R_OK | os.W_OK)


if __name__ == "__main__":
    main()
