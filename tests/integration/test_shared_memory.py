"""Who appends on a DataNode's host does so through memory, and as safely as who sends."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import trio

from dfs import errors, limits
from dfs.client import FileSystem
from dfs.client.datanodes import DataNodes
from dfs.rpc import SharedMemory
from dfs.types import NodeId
from tests.integration.real import real_cluster, until
from tests.integration.test_failures import findings, get, holders, put, until_sound
from tests.unit.rpc.test_handover import open_descriptors

MIB = limits.MIB


def placed_bytes(fs: FileSystem) -> int:
    return fs.statistics()["writer"]["placed_bytes"]


class Appends:
    """What is asked of DataNodes: how often with bytes, and how often with a place in memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent = 0
        self.placed = 0
        call = DataNodes.call

        async def counted(nodes: DataNodes, node: NodeId, method: str, *args: Any, **options: Any) -> Any:
            self.sent += method == "append" and options.get("data") is not None
            self.placed += method == "append" and options.get("data") is None
            return await call(nodes, node, method, *args, **options)

        monkeypatch.setattr(DataNodes, "call", counted)


async def known(fs: FileSystem) -> None:
    """Have the DataNodes greet this client: who has not been greeted does not know what they can do."""
    await put(fs, "/first", bytes(limits.SHARED_FROM_BYTES))


async def test_large_appends_go_through_memory_and_small_ones_through_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(20 * MIB)
    async with real_cluster(tmp_path) as cluster, cluster.client() as fs:
        await known(fs)
        appends = Appends(monkeypatch)
        before = placed_bytes(fs)
        await put(fs, "/file", data)
        assert appends.placed > 3
        assert placed_bytes(fs) - before == len(data)
        sent = appends.sent
        await put(fs, "/small", b"x" * (limits.SHARED_FROM_BYTES - 1))
        assert appends.sent == sent + 3
        await put(fs, "/again", data)
        assert appends.sent == sent + 3, "all have the memory by now"
        assert await get(fs, "/file") == await get(fs, "/again") == data
        assert await findings(fs) == []
        for node in cluster.datanodes:  # each has the very bytes
            assert sum(path.stat().st_size for path in cluster.chunk_files(node).values()) > 2 * len(data)


async def test_a_datanode_that_was_restarted_is_given_the_memory_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(3 * MIB)
    async with real_cluster(tmp_path) as cluster, cluster.client() as fs:
        await known(fs)
        await put(fs, "/before", data)
        for node in cluster.datanodes:
            cluster.kill(node)
        for node in cluster.datanodes:
            await cluster.start(node)
        appends = Appends(monkeypatch)
        for number in range(3):
            await put(fs, f"/after{number}", data)
        assert appends.placed >= 6
        for name in ("before", "after0", "after1", "after2"):
            assert await get(fs, f"/{name}") == data
        await until_sound(fs)


async def test_a_datanode_that_dies_in_the_middle_of_a_file_costs_none_of_it(tmp_path: Path) -> None:
    data = os.urandom(48 * MIB)
    async with real_cluster(tmp_path) as cluster:
        async with cluster.client() as fs:
            await known(fs)

            async def kill_later() -> None:
                before = placed_bytes(fs)
                while placed_bytes(fs) < before + 16 * MIB:
                    await trio.sleep(0.001)
                cluster.kill("n2")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(kill_later)
                await put(fs, "/file", data)
            assert await get(fs, "/file") == data
        await cluster.start("n2")
        async with cluster.client() as fs:  # all that was open is sealed, and so looked after
            await until_sound(fs)
            assert await get(fs, "/file") == data


async def test_what_a_datanode_reads_too_late_it_does_not_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is given up while it stands still, and then finds another append in the place that it was told."""
    monkeypatch.setattr(limits, "STRAGGLER_S", 0.5)
    first, second = os.urandom(MIB), os.urandom(MIB)
    async with real_cluster(tmp_path) as cluster:
        async with cluster.client() as fs:
            await known(fs)
            await put(fs, "/before", first)
            with cluster.suspended("n3"):
                await put(fs, "/first", first)
                for _ in range(4):
                    await put(fs, "/second", second)
            assert await get(fs, "/first") == first
            assert await get(fs, "/second") == second
        async with cluster.client() as fs:  # all that was open is sealed, and so looked after
            await until_sound(fs)
            for path, data in (("/before", first), ("/first", first), ("/second", second)):
                for node in await holders(fs, path):
                    fs.nodes_known.avoid(node)
                    assert await get(fs, path) == data
            assert await findings(fs) == []


async def test_memory_that_is_not_needed_is_given_up_at_both_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MEMORY_IDLE_S", 0.2)
    data = os.urandom(2 * MIB)
    async with real_cluster(tmp_path) as cluster, cluster.client() as fs:
        await known(fs)
        shared, made = fs.chunks.shared, list[object]()
        make = shared._make

        def noted() -> object:
            made.append(make())
            return made[-1]

        monkeypatch.setattr(shared, "_make", noted)
        before = open_descriptors()
        await put(fs, "/file", data)
        assert made

        async def is_given_up() -> bool:
            return shared._memory is None

        await until(is_given_up, "memory that is given up")
        assert open_descriptors() <= before
        made.clear()
        await put(fs, "/file", data)
        assert made
        assert await get(fs, "/file") == data


async def test_who_has_no_memory_to_share_sends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_: object) -> None:
        raise OSError(24, "Too many open files")

    data = os.urandom(2 * MIB)
    async with real_cluster(tmp_path) as cluster, cluster.client() as fs:
        await known(fs)
        monkeypatch.setattr(SharedMemory, "__init__", refusing)
        await put(fs, "/file", data)
        assert placed_bytes(fs) == 0
        assert await get(fs, "/file") == data


@pytest.mark.parametrize(
    "reply",
    [("nobody", b"t" * 16, 0), ("n" * 100, b"t" * 16, 0), ("", b"", 0), (7, 7, 7), ("nobody", b"t" * 16), None, 7],
)
async def test_a_datanode_that_cannot_be_reached_so_is_sent_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reply: Any
) -> None:
    """As one in a container, whose inbox has its name in another namespace."""
    data, asked = os.urandom(2 * MIB), 0
    call = DataNodes.call

    async def misled(nodes: DataNodes, node: NodeId, method: str, *args: Any, **options: Any) -> Any:
        nonlocal asked
        if method != "expect_memory":
            return await call(nodes, node, method, *args, **options)
        asked += 1
        return reply, None

    async with real_cluster(tmp_path) as cluster, cluster.client() as fs:
        await known(fs)
        monkeypatch.setattr(DataNodes, "call", misled)
        for _ in range(3):
            await put(fs, "/file", data)
        assert asked == 3, "each once"
        assert await get(fs, "/file") == data


async def test_who_can_open_no_more_files_sends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_: SharedMemory) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    data = os.urandom(2 * MIB)
    async with real_cluster(tmp_path) as cluster, cluster.client() as fs:
        await known(fs)
        monkeypatch.setattr(SharedMemory, "descriptor", failing)
        await put(fs, "/file", data)
        assert await get(fs, "/file") == data
        assert fs.statistics()["writer"]["struck"] == 0


async def test_a_datanode_that_never_keeps_what_it_is_given_is_not_asked_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, asked = os.urandom(2 * MIB), 0
    call = DataNodes.call

    async def losing(nodes: DataNodes, node: NodeId, method: str, *args: Any, **options: Any) -> Any:
        nonlocal asked
        asked += method == "expect_memory"
        if method == "append" and options.get("data") is None:
            await call(nodes, node, "drop_memory")
        return await call(nodes, node, method, *args, **options)

    async with real_cluster(tmp_path) as cluster, cluster.client() as fs:
        await known(fs)
        monkeypatch.setattr(DataNodes, "call", losing)
        for _ in range(5):
            await put(fs, "/file", data)
        assert asked == 6, "each twice"
        assert await get(fs, "/file") == data
        assert fs.statistics()["writer"]["struck"] == 0


async def test_a_client_that_ends_while_it_writes_keeps_nothing_open(tmp_path: Path) -> None:
    async with real_cluster(tmp_path) as cluster:
        before = open_descriptors()
        async with cluster.client() as fs, trio.open_nursery() as nursery:
            await known(fs)
            for number in range(4):
                nursery.start_soon(put, fs, f"/file{number}", bytes(16 * MIB))
            while placed_bytes(fs) < 8 * MIB:
                await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
        assert open_descriptors() == before


async def test_who_says_where_nothing_is_appends_nothing(tmp_path: Path) -> None:
    async with real_cluster(tmp_path) as cluster, cluster.client() as fs:
        await put(fs, "/file", b"content")
        [place] = await fs.replicas("/file")
        node = place.nodes[0]
        block = b"\x01\0\0\0\0\0\0\0"
        for at, error in ((0, errors.MemoryUnknown), (-1, errors.InvalidArgument), ("0", errors.InvalidArgument)):
            with pytest.raises(error):
                await fs.nodes_known.call(node, "append", place.chunk, 7, block, place.grant, False, at)
        with pytest.raises(errors.InvalidArgument, match="not both"):
            await fs.nodes_known.call(node, "append", place.chunk, 7, block, place.grant, False, 0, data=[b"x"])
        assert await get(fs, "/file") == b"content"
