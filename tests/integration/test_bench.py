"""`dfs bench` on a cluster, through the Python API: what it prints, and that nothing of it stays."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from dfs import errors
from dfs.cli.bench.api import open_api_target
from dfs.cli.bench.readings import Readings
from dfs.cli.bench.works import chosen_works
from dfs.client import open_filesystem
from dfs.keys import Role
from tests.integration.real import PATIENCE_S, RealCluster, environment, lasting_cluster, until
from tests.keys import MASTERS, READER

BENCH = [sys.executable, "-m", "dfs.cli", "bench"]
SMALL = ["--size", "3M", "--files", "8", "--seconds", "0.5"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    with lasting_cluster(tmp_path_factory.mktemp("bench"), datanodes=3) as running:
        yield running


def bench(cluster: RealCluster, *arguments: str) -> str:
    """What `dfs bench ARGUMENTS` prints. Asserts that it ends well."""
    argv = [*BENCH, *arguments]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=PATIENCE_S, env=environment(cluster), check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def names(cluster: RealCluster) -> list[bytes]:
    async with cluster.client() as fs:
        return [entry.name for entry in await fs.listdir("/")]


def test_every_line_has_its_figures_and_what_was_busy(cluster: RealCluster) -> None:
    found = json.loads(bench(cluster, "--json", *SMALL))
    assert [line["name"] for line in found["lines"]] == [work.name for work in chosen_works((), rereads=False)]
    assert found["namenode"] == cluster.namenode_address
    assert 0 <= found["call_on_the_way_s"] <= found["call_s"]
    for line in found["lines"]:
        assert line["operations"] > 0, line
        busy = {share["what"] for share in line["busy"]}
        assert busy >= {"client CPU", "NameNode CPU", "NameNode disk", "n1 CPU", "n2 disk", "n3 CPU"}
    assert trio.run(names, cluster) == []


def test_people_get_a_table(cluster: RealCluster) -> None:
    shown = bench(cluster, "--only", "append,stat", *SMALL)
    assert "limited by" in shown
    assert "Appending" in shown
    assert "Large files" not in shown
    assert len([line for line in shown.splitlines() if line.startswith("  ")]) == 2 + 1  # and the headings


async def test_more_than_there_is_room_for_is_refused_before_anything_is_written(cluster: RealCluster) -> None:
    async with cluster.client() as fs:
        with pytest.raises(errors.NoSpace, match=r"has room for .*--size"):
            async with open_api_target(fs, "much", 2**62):
                raise AssertionError("not reached")
    assert await names(cluster) == []


def test_without_datanodes_there_is_room_for_names_only(tmp_path: Path) -> None:
    with lasting_cluster(tmp_path, datanodes=0) as empty:
        assert "create an empty file" in bench(empty, "--only", "metadata", *SMALL)
        refused = subprocess.run([*BENCH, *SMALL], capture_output=True, text=True, env=environment(empty), check=False)
        assert refused.returncode == 1
        assert "room for 0" in refused.stderr
        assert trio.run(names, empty) == []


async def test_who_may_only_read_is_told_that_it_writes(cluster: RealCluster) -> None:
    async with open_filesystem(cluster.namenode_address, READER) as fs:
        with pytest.raises(errors.NotPermitted, match=r"a benchmark writes.*client's key"):
            async with open_api_target(fs, "little", 1):
                raise AssertionError("not reached")


async def test_who_may_not_ask_the_daemons_goes_without_their_figures(cluster: RealCluster) -> None:
    async with cluster.client() as fs:
        await fs.mkdir("/limited")
        limited = MASTERS.issue(Role.CLIENT, "limited", {"subtree": "/limited"})
        async with open_filesystem(cluster.namenode_address, limited) as theirs:
            readings = Readings(theirs, None)
            await readings.prepare()
            assert [process.name for process in (await readings.take()).processes] == ["client"]
            assert (await readings.round_trip()).whole_s > 0
        await fs.rmdir("/limited")


async def test_an_interrupted_one_leaves_nothing(cluster: RealCluster) -> None:
    process = subprocess.Popen(
        [*BENCH, "--seconds", "600"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(cluster)
    )

    async def has_begun() -> bool:
        return any(name.startswith(b".dfs-bench-") for name in await names(cluster))

    try:
        await until(has_begun, "a directory to measure in")
        process.send_signal(signal.SIGINT)
        _, said = await trio.to_thread.run_sync(lambda: process.communicate(timeout=PATIENCE_S))
        assert process.returncode == 128 + signal.SIGINT, said
        assert await names(cluster) == []
    finally:
        process.kill()
        process.wait()
