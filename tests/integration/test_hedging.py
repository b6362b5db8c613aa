"""A DataNode that is slow to answer costs its readers little: another one is asked as well."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import trio

from dfs import limits
from dfs.client.datanodes import DataNodes
from dfs.rpc import SocketNetwork
from dfs.types import NodeId
from tests.integration.real import real_cluster
from tests.integration.test_failures import get, put

MIB = limits.MIB


def far_away() -> SocketNetwork:
    """As from another host: nothing is read past the DataNodes."""
    return SocketNetwork(short_cuts=False)


async def test_readers_do_not_wait_for_a_datanode_that_hangs(tmp_path: Path) -> None:
    data = os.urandom(4 * MIB)
    async with real_cluster(tmp_path) as cluster, cluster.client(network=far_away()) as fs:
        await put(fs, "/file", data)
        assert await get(fs, "/file") == data
        with cluster.suspended("n1"):
            for _ in range(20):  # each replica is chosen by chance
                assert await get(fs, "/file") == data
        found = fs.statistics()["reader"]
        assert found["hedges"] > 0
        assert found["failovers"] == 0, "nobody has waited until his deadline"
        assert fs.statistics()["nodes"]["avoided"] == 0


async def test_when_the_second_fails_as_well_the_third_is_asked(tmp_path: Path) -> None:
    data = os.urandom(MIB)
    async with real_cluster(tmp_path) as cluster, cluster.client(network=far_away()) as fs:
        await put(fs, "/file", data)
        assert await get(fs, "/file") == data
        cluster.kill("n2")
        with cluster.suspended("n1"):
            for _ in range(5):
                assert await get(fs, "/file") == data


async def test_readers_do_not_wait_for_two_datanodes_that_hang(tmp_path: Path) -> None:
    data = os.urandom(MIB)
    async with real_cluster(tmp_path) as cluster, cluster.client(network=far_away()) as fs:
        await put(fs, "/file", data)
        assert await get(fs, "/file") == data
        fs.nodes_known.note_slow(NodeId("n2"))  # so it is asked last
        with cluster.suspended("n1"), cluster.suspended("n3"):
            assert await get(fs, "/file") == data
        found = fs.statistics()["reader"]
        assert found["hedges"] > 1
        assert found["failovers"] == 0, "nobody has waited until his deadline"


async def test_a_lone_replica_is_waited_for(tmp_path: Path) -> None:
    data = os.urandom(MIB)
    async with (
        real_cluster(tmp_path, datanodes=1, replicas=1, min_replicas=1) as cluster,
        cluster.client(network=far_away()) as fs,
    ):
        await put(fs, "/file", data)
        assert await get(fs, "/file") == data
        assert fs.statistics()["reader"]["hedges"] == 0


async def test_reads_that_may_not_ask_twice_yet_do_so_as_soon_as_they_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(4 * MIB)
    monkeypatch.setattr(limits, "HEDGES_SAVED_MAX", 1.0)
    monkeypatch.setattr(limits, "HEDGE_SHARE", 1.0)
    async with real_cluster(tmp_path) as cluster, cluster.client(network=far_away()) as fs:
        await put(fs, "/file", data)
        for node in ("n2", "n3"):
            fs.nodes_known.note_slow(NodeId(node))
        with cluster.suspended("n1"):
            assert await get(fs, "/file") == data
        found = fs.statistics()["reader"]
        assert found["hedges"] > 1
        assert found["failovers"] == 0, "nobody has waited until his deadline"


@pytest.mark.meets_bugs
async def test_a_mistake_in_asking_a_second_replica_ends_no_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, asked, found = os.urandom(MIB), trio.Event(), []
    read_into = DataNodes.read_into

    async def mistaken(nodes: DataNodes, node: NodeId, *args: Any) -> None:
        if node == "n2":
            asked.set()
            raise RuntimeError("a mistake")
        await read_into(nodes, node, *args)

    async with real_cluster(tmp_path, datanodes=2, replicas=2) as cluster, cluster.client(network=far_away()) as fs:
        await put(fs, "/file", data)
        monkeypatch.setattr(DataNodes, "read_into", mistaken)
        fs.nodes_known.note_slow(NodeId("n2"))

        async def read() -> None:
            found.append(await get(fs, "/file"))

        async with trio.open_nursery() as nursery:
            with cluster.suspended("n1"):
                nursery.start_soon(read)
                await asked.wait()
        assert found == [data]
