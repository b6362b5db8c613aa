"""A cluster of two releases: daemons and clients of which some speak a version of the protocol that others do not.

The code is one, pinned to the versions that a release would speak; each end chooses, checks and refuses as it would.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from dfs import errors
from dfs.rpc import Versions
from tests.cluster import Cluster, running_cluster
from tests.integration.test_failures import get, put

OLD, NEW, AFTER = Versions(1, 1), Versions(1, 2), Versions(2, 3)
DATANODES = ("n1", "n2", "n3")


async def write_and_read(cluster: Cluster, stage: str, *clients: Versions) -> None:
    """Every client writes files, on all nodes, and reads what every client wrote."""
    for number, spoken in enumerate(clients):
        async with cluster.client(spoken=spoken) as fs:
            await put(fs, f"/{stage}-{number}", f"{stage} {spoken}".encode() * 10_000)
    for reader in clients:
        async with cluster.client(spoken=reader) as fs:
            for number, writer in enumerate(clients):
                assert await get(fs, f"/{stage}-{number}") == f"{stage} {writer}".encode() * 10_000
                for place in await fs.replicas(f"/{stage}-{number}"):
                    assert sorted(place.nodes) == list(DATANODES)


async def test_every_stage_of_an_upgrade_works_for_clients_of_both_releases(tmp_path: Path) -> None:
    spoken = dict.fromkeys(("namenode", *DATANODES), OLD)
    async with running_cluster(tmp_path, datanodes=3, replicas=3, spoken=spoken) as cluster:
        await write_and_read(cluster, "before", OLD, NEW)
        await cluster.stop("namenode")
        cluster.spoken["namenode"] = NEW
        await cluster.start_namenode()
        await cluster.wait_until_up(3)
        await write_and_read(cluster, "namenode", OLD, NEW)
        for name in DATANODES:
            await cluster.stop(name)
            cluster.spoken[name] = NEW
            await cluster.start_datanode(name)
            await cluster.wait_until_up(3)
            await write_and_read(cluster, name, OLD, NEW)


async def test_a_client_of_the_release_after_the_next_is_refused_and_told_what_to_upgrade(tmp_path: Path) -> None:
    spoken = dict.fromkeys(("namenode", *DATANODES), OLD)
    async with running_cluster(tmp_path, datanodes=3, spoken=spoken) as cluster:
        with pytest.raises(errors.DfsError) as caught:
            async with cluster.client(spoken=AFTER):
                pass
        said = str(caught.value)
        assert "speaks versions 2 to 3 of the protocol" in said
        assert "speaks version 1: upgrade the server" in said
