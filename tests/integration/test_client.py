"""Files go in and come out again, through a client and a whole cluster, while daemons stop and start."""

from __future__ import annotations

import io
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio
import trio.testing

from dfs import errors, limits
from dfs.checksum import Block, Buffer
from dfs.client import FileSystem, filewriter, open_filesystem
from dfs.client.datanodes import DataNodes
from dfs.client.inodes import Inodes
from dfs.client.openinodes import open_inodes
from dfs.rpc import Peer
from dfs.types import ChunkId, NodeId
from nodes.datanode.service import DataNode
from nodes.datanode.volumes import Volumes
from tests.cluster import Cluster, running_cluster
from tests.keys import ADMIN

MIB = limits.MIB


class Bytes:
    """A source over bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    async def readinto(self, view: memoryview) -> int:
        return self._file.readinto(view)


class Collected:
    """A sink that keeps what it is given."""

    leaves_holes = True

    def __init__(self) -> None:
        self.data = bytearray()

    async def write(self, view: memoryview) -> None:
        self.data += view

    async def skip(self, length: int) -> None:
        self.data += bytes(length)


async def put(fs: FileSystem, path: str, data: bytes, **options: object) -> None:
    await fs.upload(Bytes(data), path, **options)  # type: ignore[arg-type]


async def get(fs: FileSystem, path: str) -> bytes:
    sink = Collected()
    await fs.download(path, sink)
    return bytes(sink.data)


def chunk_files(directory: Path) -> list[Path]:
    """Of all DataNodes of a cluster there."""
    return list(directory.glob("n*/chunks/*/*.idx"))


@pytest.mark.parametrize("size", [0, 1, 4095, limits.BLOCK_MAX_BYTES, MIB - 1, MIB, MIB + 1, 9 * MIB + 17])
async def test_what_goes_in_comes_out(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    async with running_cluster(tmp_path, datanodes=3) as cluster, cluster.client() as fs:
        await put(fs, "/file", data)
        assert (await fs.stat("/file")).size == size
        assert await get(fs, "/file") == data


@pytest.mark.parametrize("is_new", [True, False])
async def test_appends_grow_as_far_as_datanodes_say_that_they_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_new: bool
) -> None:
    """Those of a release before say nothing, and take a mebibyte."""
    data, lengths = os.urandom(24 * MIB), []
    greet, append = DataNode.greet, Volumes.append

    def say_less(node: DataNode, peer: Peer, handshake: object) -> dict[str, Any]:
        said = greet(node, peer, handshake) or {}
        return said if is_new else {name: value for name, value in said.items() if name != "append_max_bytes"}

    async def noted(volumes: Volumes, chunk: ChunkId, offset: int, blocks: list[Block], content: Buffer) -> int:
        lengths.append(len(content))
        return await append(volumes, chunk, offset, blocks, content)

    monkeypatch.setattr(DataNode, "greet", say_less)
    monkeypatch.setattr(Volumes, "append", noted)
    monkeypatch.setattr(limits, "APPEND_GROWS_UNDER_S", 100.0)
    async with running_cluster(tmp_path, datanodes=3) as cluster, cluster.client() as fs:
        await put(fs, "/file", data)
        assert await get(fs, "/file") == data
    assert max(lengths) == (limits.APPEND_MAX_BYTES if is_new else MIB)


async def test_appends_that_are_too_large_for_a_link_become_small_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each would be tried on one chunk after the other, and none would arrive in time."""
    data, is_slow, lengths = os.urandom(16 * MIB), False, []
    append = Volumes.append

    async def over_the_link(volumes: Volumes, chunk: ChunkId, offset: int, blocks: list[Block], content: Buffer) -> int:
        lengths.append(len(content))
        if is_slow and len(content) > limits.APPEND_SURE_BYTES:
            await trio.sleep_forever()
        return await append(volumes, chunk, offset, blocks, content)

    monkeypatch.setattr(Volumes, "append", over_the_link)
    monkeypatch.setattr(limits, "APPEND_GROWS_UNDER_S", 100.0)
    async with running_cluster(tmp_path, datanodes=3) as cluster, cluster.client() as fs:
        await put(fs, "/before", data)
        assert max(lengths) == limits.APPEND_MAX_BYTES
        monkeypatch.setattr(limits, "APPEND_GROWS_UNDER_S", 0.0)
        monkeypatch.setitem(DataNodes.call.__kwdefaults__, "timeout_s", 3.0)
        is_slow = True
        await put(fs, "/after", data)
        assert await get(fs, "/after") == data
        assert fs.chunks.append_bytes == limits.APPEND_SURE_BYTES


async def test_every_chunk_has_its_copies_on_different_nodes(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, datanodes=5) as cluster, cluster.client() as fs:
        await put(fs, "/file", os.urandom(70 * MIB))
        places = await fs.replicas("/file")
        assert len(places) >= 2, "70 MiB do not fit one chunk"
        assert all(len(set(place.nodes)) == 3 for place in places)


async def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    class Vanishing(Bytes):
        async def readinto(self, view: memoryview) -> int:
            count = await super().readinto(view)
            if not count:
                raise OSError("the disk is gone")
            return count

    async with running_cluster(tmp_path, datanodes=3) as cluster, cluster.client() as fs:
        with pytest.raises(OSError, match="the disk is gone"):
            await fs.upload(Vanishing(os.urandom(3 * MIB)), "/file")
        assert await fs.listdir("/") == []
        assert (await fs.statfs()).used_bytes == 0


async def test_an_upload_is_on_the_disks_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    sync, link = DataNodes.sync, Inodes.link

    async def synced(self: DataNodes, node: NodeId, chunks: Mapping[ChunkId, bytes]) -> list[int]:
        lengths = await sync(self, node, chunks)
        steps.append("flushed")
        return lengths

    async def linked(self: Inodes, *args: Any, **options: Any) -> Any:
        steps.append("named")
        return await link(self, *args, **options)

    monkeypatch.setattr(DataNodes, "sync", synced)
    monkeypatch.setattr(Inodes, "link", linked)
    async with running_cluster(tmp_path, datanodes=3) as cluster, cluster.client() as fs:
        await put(fs, "/file", b"content")
        assert steps == ["flushed"] * 3 + ["named"]
        steps.clear()
        await put(fs, "/other", b"content", sync=False)
        assert steps == ["named"]


async def test_upload_refuses_what_is_there_unless_told(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, datanodes=3) as cluster, cluster.client() as fs:
        await put(fs, "/file", b"old")
        with pytest.raises(errors.Exists, match="/file"):
            await put(fs, "/file", b"new")
        assert await get(fs, "/file") == b"old"
        await put(fs, "/file", b"new", replace=True)
        assert await get(fs, "/file") == b"new"
        await fs.mkdir("/directory")
        with pytest.raises(errors.IsADirectory, match="/directory"):
            await put(fs, "/directory", b"new", replace=True)


async def test_small_files_share_chunks(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, datanodes=3) as cluster, cluster.client() as fs:
        for number in range(20):
            await put(fs, f"/{number}", b"%d" % number * 1000)
        chunks = {place.chunk for number in range(20) for place in await fs.replicas(f"/{number}")}
        assert len(chunks) == 1
        assert [await get(fs, f"/{number}") for number in range(20)] == [b"%d" % n * 1000 for n in range(20)]


async def test_a_dead_datanode_costs_no_read_an_error(tmp_path: Path) -> None:
    data = os.urandom(5 * MIB)
    async with running_cluster(tmp_path, datanodes=3) as cluster, cluster.client() as fs:
        await put(fs, "/file", data)
        for name in ("n1", "n2"):
            await cluster.stop(name)
            assert await get(fs, "/file") == data


async def test_bytes_that_are_damaged_on_their_way_are_had_from_another_replica(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, damaging = Volumes.read, list[Volumes]()

    async def damaged(self: Volumes, chunk: ChunkId, offset: int, length: int) -> tuple[list[Block], list[Buffer]]:
        blocks, buffers = await read(self, chunk, offset, length)
        if not damaging or damaging[0] is self:  # the first that is asked
            damaging.append(self)
            buffers = [bytes([buffers[0][0] ^ 1]), memoryview(buffers[0])[1:], *buffers[1:]]
        return blocks, buffers

    monkeypatch.setattr(Volumes, "read", damaged)
    data = os.urandom(50_000)
    async with running_cluster(tmp_path, datanodes=3) as cluster, cluster.client() as fs:
        await put(fs, "/file", data)
        assert await get(fs, "/file") == data
        assert fs.reader.statistics()["failovers"] == len(damaging) > 0


async def test_a_datanode_that_dies_during_an_upload_costs_it_no_error(tmp_path: Path) -> None:
    class Killing(Bytes):
        position = 0
        left: ClassVar = ["n2", "n1"]

        async def readinto(self, view: memoryview) -> int:
            if self.position >= 6 * MIB * (3 - len(self.left)) and self.left:
                await cluster.stop(self.left.pop())
            count = await super().readinto(view)
            self.position += count
            return count

    data = os.urandom(24 * MIB)
    async with running_cluster(tmp_path, datanodes=5) as cluster, cluster.client() as fs:
        await fs.upload(Killing(data), "/file")
        assert await get(fs, "/file") == data
        for place in await fs.replicas("/file"):
            assert len(set(place.nodes) - {"n1", "n2"}) >= 2, "durable means on two live nodes"


async def test_too_few_nodes_is_said_with_their_names(tmp_path: Path) -> None:
    options = {"node_suspect_after_s": 0.3, "node_dead_after_s": 0.6}
    async with running_cluster(tmp_path, datanodes=3, **options) as cluster, cluster.client(wait_s=1.0) as fs:
        for name in ("n2", "n3"):
            await cluster.stop(name)
        await wait_for_state(fs, {"n2", "n3"})
        with pytest.raises(errors.NotEnoughNodes, match=r"n2.*n3"):
            await put(fs, "/file", b"data")
        assert await fs.listdir("/") == []


async def wait_for_state(fs: FileSystem, down: set[str]) -> None:
    with trio.fail_after(10):
        while {view.node for view in await fs.nodes() if view.state != "up"} != down:
            await trio.sleep(0.02)


async def test_the_namenode_restarts_under_a_client(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, datanodes=3) as cluster, cluster.client() as fs:
        await put(fs, "/before", b"before")
        await cluster.stop("namenode")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(put, fs, "/during", b"during")
            await trio.testing.wait_all_tasks_blocked()
            await cluster.start_namenode()
        assert await get(fs, "/before") == b"before"
        assert await get(fs, "/during") == b"during"


async def test_a_datanode_comes_back_elsewhere_with_its_chunks(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, datanodes=1, replicas=1) as cluster, cluster.client() as fs:
        await put(fs, "/file", b"still here")
        await cluster.stop("n1")
        await cluster.start_datanode("n1")
        assert await get(fs, "/file") == b"still here"


async def test_reads_see_writes_of_other_clients_at_once(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, datanodes=3) as cluster, cluster.client() as one, cluster.client() as other:
        async with await one.open("/log", "w+") as writer, await other.open("/log", "r") as reader:
            await writer.pwrite(b"hello", 0)
            assert await reader.pread(100, 0) == b"hello"
            await writer.pwrite(b"J", 0)
            await writer.pwrite(b"far", 10)
            assert await reader.pread(100, 0) == b"Jello" + bytes(5) + b"far"
            await writer.truncate(3)
            assert await reader.pread(100, 0) == b"Jel"


async def test_appends_of_two_clients_never_overwrite_each_other(tmp_path: Path) -> None:
    async def append(cluster: Cluster, letter: bytes) -> None:
        async with cluster.client() as fs, await fs.open("/log", "a") as file:
            for _ in range(20):
                await file.pwrite(letter * 10, 0)

    async with running_cluster(tmp_path, datanodes=3) as cluster:
        async with trio.open_nursery() as nursery:
            for letter in (b"a", b"b", b"c"):
                nursery.start_soon(append, cluster, letter)
        async with cluster.client() as fs:
            log = await get(fs, "/log")
    assert len(log) == 600
    assert sorted(log[at : at + 10] for at in range(0, 600, 10)) == sorted([b"a" * 10, b"b" * 10, b"c" * 10] * 20)


async def test_an_fsync_in_the_middle_of_an_append_does_not_put_it_at_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, data = DataNodes.append, os.urandom(2 * limits.APPEND_SURE_BYTES)
    async with running_cluster(tmp_path, datanodes=1, replicas=1) as cluster, cluster.client() as fs:
        await put(fs, "/log", b"beginning")
        async with await fs.open("/log", "a") as file, trio.open_nursery() as nursery:
            calls = 0

            async def half_way(*args: Any, **options: Any) -> bool:
                """Before the second piece somebody else syncs, as far as that gets."""
                nonlocal calls
                calls += 1
                if calls == 2:
                    nursery.start_soon(file.fsync)
                    await trio.testing.wait_all_tasks_blocked(0.1)
                return await append(*args, **options)

            monkeypatch.setattr(DataNodes, "append", half_way)
            await file.pwrite(data, 0)
        assert calls == 2
        assert await get(fs, "/log") == b"beginning" + data


async def test_an_open_file_outlives_its_name(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, datanodes=3) as cluster, cluster.client() as fs:
        await put(fs, "/file", b"data")
        async with await fs.open("/file", "r") as file:
            await fs.remove("/file")
            assert await file.pread(10, 0) == b"data"
        assert (await fs.statfs()).inodes == 1


async def test_a_file_that_could_not_be_opened_or_read_goes_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: Any) -> None:
        scope.cancel()
        await trio.sleep_forever()

    async with running_cluster(tmp_path, datanodes=3) as cluster, cluster.client() as fs:
        await put(fs, "/file", bytes(5_000_000))
        for method, work in (("truncate", fs.open("/file", "w")), ("layout", get(fs, "/file"))):
            with monkeypatch.context() as patch, trio.CancelScope() as scope:
                patch.setattr(fs.inodes, method, never)
                await work
            assert scope.cancelled_caught
        await fs.remove("/file")
        assert (await fs.statfs()).inodes == 1


async def test_closing_a_file_does_not_wait_for_ever_for_a_namenode_that_is_away(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, datanodes=0) as cluster, cluster.client(wait_s=0.2) as fs:
        file = await fs.open("/file", "x")
        await cluster.stop("namenode")
        with trio.fail_after(10):
            await file.aclose()
        await cluster.start_namenode()
        await fs.remove("/file")
        with trio.fail_after(10):
            while (await fs.statfs()).inodes > 1:
                await trio.sleep(0.05)


async def test_paths_follow_links_and_dots(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, datanodes=1, replicas=1) as cluster, cluster.client() as fs:
        await fs.mkdir("/a/b/c", parents=True)
        await put(fs, "/a/file", b"data")
        await fs.symlink("../a", "/a/up")
        await fs.symlink("/a/b", "/jump")
        await fs.symlink("loop", "/loop")
        assert await get(fs, "/a/b/c/../../file") == b"data"
        assert await get(fs, "/a/up/up/file") == b"data"
        assert await get(fs, "/jump/../file") == b"data"
        assert (await fs.stat("/jump/c")).ino == (await fs.stat("/a/b/c")).ino
        assert (await fs.stat("/../..")).ino == (await fs.stat("/")).ino
        with pytest.raises(errors.TooManySymlinks):
            await fs.stat("/loop")
        with pytest.raises(errors.NotADirectory, match="/a/file/x"):
            await fs.stat("/a/file/x")
        with pytest.raises(errors.NotFound, match="/a/nothing"):
            await fs.stat("/a/nothing")


async def test_a_tree_goes_whatever_its_depth(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, datanodes=1, replicas=1) as cluster, cluster.client() as fs:
        await _make_deep(fs, 1200)
        for number in range(30):
            await fs.touch(f"/d/file-{number}")
        assert await fs.remove_tree("/d") == 1230
        assert await fs.listdir("/") == []


async def test_directories_of_a_tree_go_many_at_a_time(tmp_path: Path) -> None:
    """Each costs round trips of its own, which others need not wait for."""
    async with running_cluster(tmp_path, datanodes=1, replicas=1) as cluster, cluster.client() as fs:
        for number in range(20):
            await fs.mkdir(f"/t/{number % 4}/{number}", parents=True)
        together, most = 0, 0
        readdir = fs.inodes.readdir

        async def listed(*args: Any) -> Any:
            nonlocal together, most
            together += 1
            most = max(most, together)
            try:
                return await readdir(*args)
            finally:
                together -= 1

        fs.inodes.readdir = listed  # type: ignore[method-assign]
        assert await fs.remove_tree("/t") == 25
        assert most >= 8


async def _during_the_listing(fs: FileSystem, of: str, then: Callable[[], Awaitable[Any]]) -> None:
    """Have something done as soon as a directory has been listed."""
    inodes, ino = fs.inodes, (await fs.stat(of)).ino
    readdir = inodes.readdir

    async def listed(directory: Any, *args: Any) -> Any:
        found = await readdir(directory, *args)
        if directory == ino:
            inodes.readdir = readdir  # type: ignore[method-assign]
            await then()
        return found

    inodes.readdir = listed  # type: ignore[method-assign]


@asynccontextmanager
async def _two_at_a_tree(directory: Path) -> AsyncIterator[tuple[FileSystem, FileSystem]]:
    """Two clients, and /t with three directories that have one, and a file, each."""
    async with (
        running_cluster(directory, datanodes=1, replicas=1) as cluster,
        cluster.client() as fs,
        cluster.client() as other,
    ):
        for name in ("a", "b", "c"):
            await fs.mkdir(f"/t/{name}/s", parents=True)
            await fs.touch(f"/t/{name}/file")
        yield fs, other


async def test_what_others_remove_of_a_tree_keeps_nobody_from_removing_the_rest(tmp_path: Path) -> None:
    async with _two_at_a_tree(tmp_path) as (fs, other):
        await _during_the_listing(fs, "/t", lambda: other.remove_tree("/t/c"))
        await fs.remove_tree("/t")
        assert await fs.listdir("/") == []


async def test_what_others_move_out_of_a_tree_is_not_removed_with_it(tmp_path: Path) -> None:
    async with _two_at_a_tree(tmp_path) as (fs, other):
        await _during_the_listing(fs, "/t", lambda: other.rename("/t/b", "/saved"))
        await fs.remove_tree("/t")
        assert [entry.name for entry in await fs.listdir("/")] == [b"saved"]
        assert {entry.name for entry in await fs.listdir("/saved")} == {b"s", b"file"}


async def _make_deep(fs: FileSystem, depth: int) -> None:
    parent = (await fs.stat("/")).ino
    for _ in range(depth):
        parent = (await fs.inodes.mkdir(parent, b"d", 0o755, 0, 0)).ino


async def test_names_of_any_bytes_are_kept(tmp_path: Path) -> None:
    names = [b"\xff\xfe", b"new\nline", "snow \u2603".encode(), b"x" * 255]
    async with running_cluster(tmp_path, datanodes=1, replicas=1) as cluster, cluster.client() as fs:
        for name in names:
            await fs.touch(b"/" + name)
        assert sorted(entry.name for entry in await fs.listdir("/")) == sorted(names)
        with pytest.raises(errors.NameTooLong):
            await fs.touch(b"/" + b"x" * 256)
        with pytest.raises(errors.InvalidArgument, match="NUL"):
            await fs.touch(b"/a\0b")


async def test_fsck_finds_nothing_wrong_after_ordinary_work(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, datanodes=4) as cluster, cluster.client() as fs:
        await put(fs, "/big", os.urandom(3 * MIB))
        await put(fs, "/small", b"x")
        await put(fs, "/small", b"y", replace=True)
        async with await fs.open("/big", "r+") as file:
            await file.pwrite(b"middle", MIB)
        await fs.remove("/small")
        assert [finding async for finding in fs.fsck()] == []


async def test_fsck_finds_a_chunk_that_is_gone(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, datanodes=3, repair=False) as cluster, cluster.client() as fs:
        await put(fs, "/file", os.urandom(MIB))
        await cluster.stop("n1")
        for chunk in (tmp_path / "n1" / "chunks").rglob("*"):
            if chunk.is_file():
                chunk.unlink()
        await cluster.start_datanode("n1")
        await wait_for_state(fs, set())
        with trio.fail_after(10):
            while not [finding async for finding in fs.fsck()]:
                await trio.sleep(0.02)
        assert len(await get(fs, "/file")) == MIB


async def test_no_namenode_is_said_at_once() -> None:
    with trio.fail_after(limits.FIRST_CONTACT_TIMEOUT_S + 2), pytest.raises(errors.Unreachable, match="no NameNode at"):
        async with open_filesystem("127.0.0.1:1", ADMIN):
            pass


async def test_a_namenode_is_looked_for_at_the_usual_port_unless_another_is_said() -> None:
    with pytest.raises(errors.Unreachable, match=f"no NameNode at nowhere.invalid:{limits.NAMENODE_PORT}"):
        async with open_filesystem("nowhere.invalid", ADMIN):
            pass


async def test_fsync_does_not_wait_for_bytes_that_were_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LANE_IDLE_S", 0.2)
    monkeypatch.setattr(limits, "LANE_KEPT_S", 0.2)
    async with running_cluster(tmp_path, datanodes=3, garbage_grace_s=0.1) as cluster, cluster.client() as fs:
        file = await fs.open("/file", "x+")
        await file.pwrite(b"soon gone", 0)
        await file.truncate(0)
        with trio.fail_after(60):
            while chunk_files(tmp_path):
                await trio.sleep(0.05)
        with trio.fail_after(limits.NODE_DEAD_AFTER_S / 2):
            await file.fsync()
        await file.aclose()


async def test_a_download_of_a_file_that_is_cut_meanwhile_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_cluster(tmp_path) as cluster, cluster.client() as fs, cluster.client() as other:
        await put(fs, "/f", b"o" * 5_000_000)
        layout = fs.inodes.layout

        async def late(*args: Any) -> Any:
            async with await other.open("/f", "r+") as theirs:
                await theirs.truncate(0)
                await theirs.pwrite(b"new", 0)
            return await layout(*args)

        monkeypatch.setattr(fs.inodes, "layout", late)
        with pytest.raises(errors.DataLost, match="became shorter"):
            await get(fs, "/f")


@pytest.mark.parametrize("size", [1000, 5_000_000])
async def test_a_file_that_is_replaced_as_its_download_begins_is_downloaded_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    async with running_cluster(tmp_path) as cluster, cluster.client() as fs, cluster.client() as other:
        await put(fs, "/f", b"o" * size)
        resolve, news = fs._paths.resolve, [b"n" * size, b"m" * size]

        async def replaced(*args: Any, **options: Any) -> Any:
            attr = await resolve(*args, **options)
            if news:
                await put(other, "/f", news.pop(0), replace=True)
            return attr

        monkeypatch.setattr(fs._paths, "resolve", replaced)
        assert await get(fs, "/f") == b"m" * size


async def test_a_download_never_goes_on_with_the_bytes_of_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in many pieces may be replaced, and its bytes go, when some were handed on already."""
    async with running_cluster(tmp_path) as cluster, cluster.client() as fs, cluster.client() as other:
        await put(fs, "/f", b"")
        async with await fs.open("/f", "r+") as file:
            for number in range(10):  # so many pieces, too large to be read together
                await file.pwrite(b"o" * 80_000, number * 100_000)
        sink, fill = Collected(), fs.reader.fill

        async def gone(*args: Any, **options: Any) -> Any:
            if sink.data:
                raise errors.NotFound("the inode is gone")
            return await fill(*args, **options)

        async def none(*_: Any) -> None:
            """It is not asked for in another way."""

        monkeypatch.setattr(fs.reader, "fill", gone)
        monkeypatch.setattr(fs.reader, "read_whole", none)
        with pytest.raises(errors.NotFound):
            await fs.download("/f", sink)
        assert sink.data
        await put(other, "/f", b"new", replace=True)
        assert await get(other, "/f") == b"new"


async def test_what_takes_the_place_of_bytes_that_others_have_added_is_on_the_disks_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be durable, and are gone with the commit."""
    async with running_cluster(tmp_path) as cluster, cluster.client() as fs, cluster.client() as other:
        async with await fs.open("/f", "w+") as ours, await other.open("/f", "r+") as theirs:
            await theirs.pwrite(b"o" * 100_000, 0)
            await theirs.fsync()
            flushed: list[Any] = []
            sync = DataNodes.sync

            async def counting(nodes: DataNodes, node: NodeId, chunks: Any) -> list[int]:
                flushed.append(node)
                return await sync(nodes, node, chunks)

            monkeypatch.setattr(DataNodes, "sync", counting)
            await ours.pwrite(b"n" * 150_000, 50_000)
            assert len(flushed) == 3
            await ours.pwrite(b"n" * 100_000, 200_000)
            assert len(flushed) == 3, "nothing was there"
            assert await theirs.pread(300_000, 0) == b"o" * 50_000 + b"n" * 250_000


async def test_a_file_that_is_written_now_and_then_and_never_synced_is_known_of_few_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filewriter, "_VOLATILE_MAX", 4)
    monkeypatch.setattr(limits, "REPORT_SLICE_CHUNKS", 2)
    async with running_cluster(tmp_path) as cluster, cluster.client() as fs:
        async with await fs.open("/f", "w+") as file:
            for number in range(12):
                await file.pwrite(b"%d" % (number % 10), number)
                for lane in fs.chunks._idle:  # as after a while
                    lane.usable = False
                assert len(file._writer._volatile) <= 5
            await file.fsync()
            assert not fs.chunks.statistics()["struck"]
            assert await file.pread(100, 0) == b"012345678901"


@pytest.mark.parametrize("has_written", [True, False])
async def test_an_fsync_counts_only_copies_of_which_all_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_written: bool
) -> None:
    short: set[NodeId] = set()
    sync = DataNodes.sync

    async def cut_short(self: DataNodes, node: NodeId, chunks: Mapping[ChunkId, bytes]) -> list[int]:
        return [length - (node in short) for length in await sync(self, node, chunks)]

    monkeypatch.setattr(DataNodes, "sync", cut_short)
    async with running_cluster(tmp_path, datanodes=3) as cluster, cluster.client() as fs, cluster.client() as other:
        async with await fs.open("/file", "x") as written:
            await written.pwrite(b"content", 0)
            (place,) = await fs.replicas("/file")
            short.update(place.nodes[:2])
            async with await other.open("/file", "r+") as known, trio.open_nursery() as nursery:
                synced = trio.Event()

                async def fsync() -> None:
                    await (written if has_written else known).fsync()
                    synced.set()

                nursery.start_soon(fsync)
                await trio.sleep(0.5)
                assert not synced.is_set()
                short.clear()


async def test_an_fsync_after_a_write_is_one_call_to_each_datanode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    call = DataNodes.call

    async def counted(self: DataNodes, node: NodeId, method: str, *args: Any, **kwargs: Any) -> Any:
        calls.append(method)
        return await call(self, node, method, *args, **kwargs)

    async with running_cluster(tmp_path, datanodes=3) as cluster, cluster.client() as fs, open_inodes(fs) as files:
        file = await files.create(fs.inodes.root, b"log", 0o644, 0, 0, exclusive=True)
        await file.append(b"first")
        await file.fsync()
        monkeypatch.setattr(DataNodes, "call", counted)
        await file.write(5, b"second")
        await file.fsync()
        assert calls == ["append"] * 3
        assert bytes(await file.read(0, 100)) == b"firstsecond"
        files.close(file)
