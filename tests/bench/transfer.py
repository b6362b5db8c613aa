"""Upload and download of one large file beside `cp` of it to three local directories.

    python -m tests.bench.transfer [--mib 1024] [--rounds 3] [--datanodes 4] [--replicas 3]

Starts a cluster of its own in a temporary directory with the `dfs` command, and removes it. Every round runs each
of: `cp` to three directories and `sync` of them, `dfs upload`, `dfs download`, `cat` of one local copy. Page caches
are warm in all of them. Prints MiB/s, medians, and the ratio of times.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

DFS = [sys.executable, "-m", "dfs.cli"]


def run(*command: str | Path, env: dict[str, str] | None = None) -> None:
    subprocess.run([str(word) for word in command], check=True, env=env, stdout=subprocess.DEVNULL)


@contextmanager
def cluster(directory: Path, datanodes: int, replicas: int) -> Iterator[dict[str, str]]:
    state = directory / "cluster"
    run(*DFS, "up", "--dir", state, "--datanodes", str(datanodes), "--replicas", str(replicas))
    try:
        yield {**os.environ, "DFS_CONFIG": str(state / "client.toml")}
    finally:
        run(*DFS, "down", "--dir", state)


def make_file(path: Path, mib: int) -> None:
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(1 << 20))
        os.fsync(file.fileno())


def copy_three_times(source: Path, directory: Path) -> None:
    for number in range(3):
        target = directory / f"copy-{number}"
        shutil.copyfile(source, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--datanodes", type=int, default=4)
    parser.add_argument("--replicas", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dfs-bench-") as name:
        directory = Path(name)
        source, back = directory / "source", directory / "back"
        make_file(source, options.mib)
        with cluster(directory, options.datanodes, options.replicas) as env:
            works: dict[str, Callable[[], object]] = {
                "cp to 3 directories, fsync": lambda: copy_three_times(source, directory),
                "dfs upload (durable)": lambda: run(*DFS, "upload", "--force", source, "/big", env=env),
                "cat > file": lambda: shutil.copyfile(directory / "copy-0", back),
                "dfs download": lambda: run(*DFS, "download", "--force", "/big", back, env=env),
            }
            times: dict[str, list[float]] = {what: [] for what in works}
            for _ in range(options.rounds):
                for what, work in works.items():
                    times[what].append(timed(work))
                if source.read_bytes() != back.read_bytes():
                    raise SystemExit("what came back is not what went in")
    print(f"{options.mib} MiB, {options.replicas} copies, {options.datanodes} DataNodes, median of {options.rounds}")
    for what, values in times.items():
        print(f"  {what:28} {statistics.median(values):7.2f} s {options.mib / statistics.median(values):8.0f} MiB/s")
    median = {what: statistics.median(values) for what, values in times.items()}
    print(f"  upload takes {median['dfs upload (durable)'] / median['cp to 3 directories, fsync']:.2f} times cp's time")
    print(f"  download takes {median['dfs download'] / median['cat > file']:.2f} times cat's time")


if __name__ == "__main__":
    main()
