"""What operators do with DataNodes, on real processes: they watch, drain, remove and balance, and change copies."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest
import trio

from dfs import limits
from nodes.datanode.restraint import Restraint
from tests.cluster import running_cluster
from tests.forked import as_text
from tests.integration.real import RealCluster, real_cluster, until
from tests.integration.test_failures import findings, get, holders, put, store, until_sound

KIB, MIB = limits.KIB, limits.MIB
QUICK = {"node_suspect_after_s": 2.0, "node_dead_after_s": 4.0, "garbage_grace_s": 0.2}


async def shell(cluster: RealCluster, *arguments: str, status: int = 0) -> str:
    """Run `dfs`; what it prints, or what it says if it is to fail."""
    done = as_text(await cluster.dfs(*arguments))
    assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stderr if status else done.stdout


async def nodes(cluster: RealCluster) -> dict[str, str]:
    """The DataNodes' states, as `dfs nodes` says."""
    return {node["node"]: node["state"] for node in json.loads(await shell(cluster, "nodes", "--json"))}


async def test_a_node_is_drained_under_load_then_removed_and_nobody_notices(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=4, **QUICK) as cluster, cluster.client() as fs:
        files = {f"/{number}": os.urandom(300 * KIB) for number in range(12)}
        await store(cluster, files)
        plan = await shell(cluster, "drain", "n2", "--plan")
        assert plan.startswith("n2 holds ")
        assert "WARNING" not in plan
        assert set((await nodes(cluster)).values()) == {"up"}  # a plan changes nothing
        refused = await shell(cluster, "remove", "n2", status=1)
        assert "n2" in refused
        assert "drain" in refused
        async with trio.open_nursery() as nursery:

            async def go_on_writing() -> None:
                number = 100
                while True:
                    files[f"/{number}"] = data = os.urandom(50 * KIB)
                    await put(fs, f"/{number}", data)
                    assert await get(fs, f"/{number}") == data
                    number += 1

            nursery.start_soon(go_on_writing)
            ended = await shell(cluster, "drain", "n2", "--wait")
            nursery.cancel_scope.cancel()
        assert "n2 is drained" in ended
        assert (await nodes(cluster))["n2"] == "drained"
        removed, next_step = (await shell(cluster, "remove", "n2")).splitlines()
        assert removed == "n2 is removed: stop its DataNode, if it still runs"
        assert "`dfs key revoke n2 --role node`" in next_step
        cluster.kill("n2")
        assert set(await nodes(cluster)) == {"n1", "n3", "n4"}
        await until_sound(fs)
        stored = {entry.name.decode() for entry in await fs.listdir("/")}
        for path, data in files.items():
            if path[1:] in stored:  # all but the one that the end cut off
                assert await get(fs, path) == data
        assert len(stored) >= len(files) - 1


async def test_a_drain_that_is_taken_back_leaves_a_node_as_it_was(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=3, **QUICK) as cluster, cluster.client() as fs:
        await store(cluster, {"/file": os.urandom(MIB)})
        plan = await shell(cluster, "drain", "n1", "--plan")
        assert "no DataNode to go to" in plan
        assert "no DataNode to go to" in await shell(cluster, "drain", "n1")
        assert (await nodes(cluster))["n1"] == "draining"
        await shell(cluster, "undrain", "n1")
        assert (await nodes(cluster))["n1"] == "up"
        await until_sound(fs)
        for words in (("drain", "n9"), ("deletions", "n9", "--allow")):
            assert "there is no DataNode n9: `dfs nodes` lists them" in await shell(cluster, *words, status=1)
        assert await shell(cluster, "deletions", "n1", "--allow") == "n1 held no deletions back\n"


async def test_after_a_node_died_for_good_its_copies_are_made_elsewhere_and_it_is_forgotten(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=4, **QUICK) as cluster, cluster.client() as fs:
        files = {f"/{number}": os.urandom(200 * KIB) for number in range(10)}
        await store(cluster, files)
        cluster.kill("n3")

        async def is_dead() -> bool:
            return (await nodes(cluster))["n3"] == "dead"

        await until(is_dead, "n3 to be dead")

        async def whole() -> bool:
            return all([{"n1", "n2", "n4"} <= set(await holders(fs, path)) for path in files])

        await until(whole, "three copies of each on the nodes that are left")
        assert "removed" in await shell(cluster, "remove", "n3")
        await until_sound(fs)
        cluster.kill("n1")
        cluster.kill("n2")
        for path, data in files.items():
            assert await get(fs, path) == data


async def test_a_node_that_was_added_takes_its_share(tmp_path: Path) -> None:
    options = {**QUICK, "balance": False}
    async with real_cluster(tmp_path, datanodes=3, **options) as cluster, cluster.client() as fs:
        files = {f"/{number}": os.urandom(MIB) for number in range(8)}
        for path, data in files.items():
            await store(cluster, {path: data})  # each time a client of its own, with a chunk of its own
        cluster.configure_datanode("n4")
        await cluster.start("n4")

        async def told() -> bool:
            return sum(view.used_bytes for view in await fs.nodes()) >= 8 * 3 * MIB

        await until(told, "heartbeats that tell what the chunks take")
        plan = await shell(cluster, "balance", "--plan", "--threshold", "0.0001%")
        assert "n4" in plan
        await shell(cluster, "balance", "--threshold", "0.0001%")

        async def shared() -> bool:
            return bool(cluster.chunk_files("n4"))

        await until(shared, "chunks on n4")
        await until_sound(fs)
        for path, data in files.items():
            assert await get(fs, path) == data


async def test_copies_of_a_tree_are_more_or_fewer_as_asked(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=4, **QUICK) as cluster, cluster.client() as fs:
        await fs.mkdir("/tree")
        data = os.urandom(MIB)
        await store(cluster, {"/tree/file": data})
        await shell(cluster, "replicas", "/tree", "4", "-r")
        await store(cluster, {"/tree/new": data})

        async def have(copies: int, *paths: str) -> bool:
            return all([len(await holders(fs, path)) == copies for path in paths])

        await until(partial(have, 4, "/tree/file", "/tree/new"), "four copies")
        await shell(cluster, "replicas", "/tree/file", "2")
        shown = (await shell(cluster, "replicas", "/tree", "-r")).split()
        assert shown == ["4", "/tree", "2", "/tree/file", "4", "/tree/new"]
        await until(partial(have, 2, "/tree/file"), "two copies")
        assert await get(fs, "/tree/file") == data
        assert await have(4, "/tree/new")


@pytest.mark.slow
async def test_copies_whose_deletion_is_held_back_are_used_again_when_that_was_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HOLD_MIN_CHUNKS", 0)  # any deletion is one of too many
    monkeypatch.setattr(Restraint, "_is_old", lambda *_: True)
    data = os.urandom(MIB)
    async with running_cluster(tmp_path, datanodes=3, garbage_grace_s=0.2) as cluster, cluster.client() as fs:
        async with cluster.client() as writer:  # whose end seals the chunk
            await put(writer, "/file", data)
        await until_sound(fs)
        ino = (await fs.stat("/file")).ino
        await fs.inodes.setattr(ino, {"replicas": 2})

        async def is_held() -> bool:
            return bool((await fs.status())["held"])

        await until(is_held, "a deletion that is held back")
        (node,) = (await fs.status())["held"]
        await fs.inodes.setattr(ino, {"replicas": 3})

        async def is_told() -> bool:
            return (await fs.status())["repair"]["held_up"] == 1

        await until(is_told, "repair to say that deletions are in its way")
        (finding,) = await findings(fs)
        assert f"is held back on {node}" in finding
        copied = (await fs.status())["repair"]["copied"]
        assert await fs.decide_held(node, allow=False) == 1
        await until_sound(fs)
        assert len(await holders(fs, "/file")) == 3
        assert await get(fs, "/file") == data
        assert (await fs.status())["repair"]["copied"] == copied + 1  # by the node that has it
