"""Appends that DataNodes send on to one another."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from dfs import codec, errors, grants, limits
from dfs.checksum import sum_blocks
from dfs.client import FileSystem
from dfs.client.datanodes import DataNodes
from dfs.keys import Key, Role
from dfs.rpc import Pool, SocketNetwork
from dfs.types import NodeId
from tests.cluster import Cluster, running_cluster
from tests.integration.test_client import get, put
from tests.keys import ADMIN, MASTERS

MIB = limits.MIB
CLIENT = MASTERS.issue(Role.CLIENT, "alice")
OTHER = MASTERS.issue(Role.CLIENT, "bob")
NODE = MASTERS.issue(Role.NODE, "n2")


@asynccontextmanager
async def chained(
    directory: Path, monkeypatch: pytest.MonkeyPatch, datanodes: int = 3
) -> AsyncIterator[tuple[Cluster, FileSystem, Counter[str]]]:
    """A cluster, and a client that is far away and has found a chain faster; what it calls, and how often."""
    calls: Counter[str] = Counter()
    call = DataNodes.call

    async def counted(self: DataNodes, node: Any, method: str, *args: Any, **options: Any) -> Any:
        calls[method] += 1
        return await call(self, node, method, *args, **options)

    monkeypatch.setattr(DataNodes, "is_on_this_host", lambda *_: False)
    monkeypatch.setattr(DataNodes, "call", counted)
    async with running_cluster(directory, datanodes=datanodes) as cluster, cluster.client() as fs:
        with trio.fail_after(120):
            await put(fs, "/first", bytes(20 * MIB))  # so that all have been greeted
            fs.chunks._routes._go(True, 1 << 50)
            calls.clear()
            yield cluster, fs, calls


async def test_a_client_sends_once_and_every_node_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with chained(tmp_path, monkeypatch) as (_, fs, calls):
        data = os.urandom(40 * MIB)
        await put(fs, "/file", data)
        assert calls["append_chain"] >= len(data) // limits.APPEND_MAX_BYTES
        alone = limits.SPREAD_FROM_BYTES // limits.CHAINED_FROM_BYTES + 1
        alone += 8  # on a busy machine some are later, too
        assert calls["append"] <= 3 * alone, "only what is appended alone goes to all at once"
        assert await get(fs, "/file") == data
        for place in await fs.replicas("/file"):
            assert len(place.nodes) == 3
            lengths = [await fs.nodes_known.sync(node, {place.chunk: place.grant}) for node in place.nodes]
            assert lengths == [[place.length]] * 3
        assert [finding async for finding in fs.fsck(data=True)] == []


async def test_a_node_that_dies_in_a_chain_costs_no_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with chained(tmp_path, monkeypatch, datanodes=4) as (cluster, fs, calls):
        data = os.urandom(64 * MIB)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(put, fs, "/file", data)
            while calls["append_chain"] < 4:
                await trio.sleep(0.001)
            await cluster.stop("n2")
        assert calls["append"], "to those behind it is sent directly"
        assert await get(fs, "/file") == data
        async with cluster.client() as other:
            assert await get(other, "/file") == data


async def test_what_a_chain_answers_names_who_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with chained(tmp_path, monkeypatch) as (_, fs, _):
        await put(fs, "/file", b"content")
        (place,) = await fs.replicas("/file")
        first, second, third = sorted(place.nodes)
        data = b"more"
        blocks, end = sum_blocks(data), place.length
        grant = grants.make(MASTERS, ADMIN.id, place.chunk, grants.APPEND, int(time.time()) + 60)
        append = fs.nodes_known.append_chain
        failures = await append([first, NodeId("n20"), third], place.chunk, end, blocks, [data], grant)
        assert sorted(failures) == sorted(["n20", third])
        assert all(isinstance(error, errors.Unreachable) for error in failures.values())
        failures = await append([second, third], place.chunk, end + 1, blocks, [data], grant)
        assert {node: type(error) for node, error in failures.items()} == dict.fromkeys(
            (second, third), errors.ChunkConflict
        )
        for nodes in (
            [second, first],  # a cycle of such chains would wait for itself
            [first, second, second],
            [first, second, first],
            [first, *(f"o{number:02}" for number in range(limits.REPLICAS_MAX))],
        ):
            failures = await append([*map(NodeId, nodes)], place.chunk, end, blocks, [data], grant)
            assert {type(error) for error in failures.values()} == {errors.InvalidArgument}


async def test_nodes_send_on_what_its_client_may_append_and_nothing_else(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, datanodes=2, replicas=2) as cluster:
        async with cluster.client() as fs:
            await put(fs, "/file", b"content")
            (place,) = await fs.replicas("/file")
            addresses = {view.node: view.address for view in await fs.nodes()}
        data, expiry_s = b"more", int(time.time()) + 60
        blocks = codec.pack_blocks(sum_blocks(data))
        mine = grants.make(MASTERS, CLIENT.id, place.chunk, grants.APPEND, expiry_s)
        to_read = grants.make(MASTERS, CLIENT.id, place.chunk, grants.READ, expiry_s)
        late = grants.make(MASTERS, CLIENT.id, place.chunk, grants.APPEND, int(time.time()) - 60)
        admins = MASTERS.issue(Role.ADMIN, "root").id.to_wire()

        async def append(key: Key, grant: Any, onward: Any, *holder: Any) -> Any:
            async with Pool(SocketNetwork(), key=key) as pool:
                args = (place.chunk, place.length, blocks, grant, onward, *holder)
                place_of_n1 = addresses["n1"], "dfs.datanode.n1"
                return (await pool.call_with_data(*place_of_n1, "append_chain", *args, data=[data]))[0]

        refused = [
            (NODE, mine, [], OTHER.id.to_wire()),
            (NODE, to_read, [], CLIENT.id.to_wire()),
            (NODE, b"", [], admins),
            (NODE, mine, []),
            (NODE, mine, [], "alice"),
            (CLIENT, mine, [], CLIENT.id.to_wire()),
            (OTHER, mine, [], CLIENT.id.to_wire()),
            (OTHER, mine, []),
            (CLIENT, to_read, ["n3"]),
            (MASTERS.issue(Role.READER, "alice"), mine, []),
        ]
        for arguments in refused:
            with pytest.raises((errors.NotPermitted, errors.InvalidArgument)):
                await append(*arguments)
        with pytest.raises(errors.GrantExpired):
            await append(NODE, late, [], CLIENT.id.to_wire())
        assert await append(NODE, mine, [], CLIENT.id.to_wire()) == []
        failures = await append(CLIENT, mine, ["n2"])
        assert failures == []
        async with cluster.client() as fs:
            lengths = [await fs.nodes_known.sync(node, {place.chunk: b""}) for node in ("n1", "n2")]
        assert lengths == [[place.length + len(data)]] * 2


async def test_a_first_node_that_hangs_costs_its_time_out_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many appends wait to be sent to it."""
    monkeypatch.setattr(limits, "NODES_NEWS_PERIOD_S", 0.0)  # whom news says to be up is tried again
    async with chained(tmp_path, monkeypatch, datanodes=4) as (_, fs, _):
        hung: list[str] = []
        call = DataNodes._call_once

        async def hang(self: DataNodes, node: Any, method: str, *args: Any) -> Any:
            if node == "n1" and method == "append_chain":
                hung.append(method)
                await trio.sleep(1)
                raise errors.DeadlineExceeded("n1 hangs")
            return await call(self, node, method, *args)

        monkeypatch.setattr(DataNodes, "_call_once", hang)
        data = os.urandom(48 * MIB)
        began = trio.current_time()
        await put(fs, "/file", data)
        took_s = trio.current_time() - began
        assert hung.count("append_chain") == 1
        assert took_s < 10
        assert await get(fs, "/file") == data


async def test_a_node_asks_where_others_are_seldom_whomever_it_is_to_send_to(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, datanodes=2, replicas=2) as cluster:
        async with cluster.client() as fs:
            await put(fs, "/file", b"content")
            (place,) = await fs.replicas("/file")
            (address,) = [view.address for view in await fs.nodes() if view.node == "n1"]
        grant = grants.make(MASTERS, CLIENT.id, place.chunk, grants.APPEND, int(time.time()) + 60)
        blocks = codec.pack_blocks(sum_blocks(b"more"))
        asked = 0
        call = Pool.call

        async def counted(self: Pool, address: str, object_id: str, method: str, *args: Any, **options: Any) -> Any:
            nonlocal asked
            asked += method == "nodes"
            return await call(self, address, object_id, method, *args, **options)

        async with Pool(SocketNetwork(), key=CLIENT) as pool:
            for number in range(20):
                args = (place.chunk, place.length, blocks, grant, [f"nowhere-{number}"])
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(Pool, "call", counted)
                    called = address, "dfs.datanode.n1", "append_chain", *args
                    failures, _ = await pool.call_with_data(*called, data=[b"more"])
                assert [failure[0] for failure in failures] == [f"nowhere-{number}"]
            with pytest.raises(errors.InvalidArgument):
                await pool.call(address, "dfs.datanode.n1", "append_chain", place.chunk, 0, b"", grant, ["n2"])
        assert asked <= 2
