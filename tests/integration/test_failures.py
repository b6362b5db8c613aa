"""What was acknowledged survives: daemons killed and started again, disks hurt, clients that die half-way."""

from __future__ import annotations

import hashlib
import io
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from dfs import errors, limits
from dfs.client import FileSystem
from dfs.client.filewriter import FileWriter
from dfs.types import NodeId
from tests.integration.real import NAMENODE, PATIENCE_S, RealCluster, environment, real_cluster, until

KIB, MIB = limits.KIB, limits.MIB


class Bytes:
    """A source over bytes in memory, and a sink that collects them."""

    leaves_holes = False

    def __init__(self, data: bytes = b"") -> None:
        self._file = io.BytesIO(data)

    async def readinto(self, view: memoryview) -> int:
        return self._file.readinto(view)

    async def write(self, view: memoryview) -> None:
        self._file.write(view)

    async def skip(self, length: int) -> None:
        self._file.write(bytes(length))

    def getvalue(self) -> bytes:
        return self._file.getvalue()


async def put(fs: FileSystem, path: str, data: bytes) -> None:
    await fs.upload(Bytes(data), path, replace=True)


async def get(fs: FileSystem, path: str) -> bytes:
    sink = Bytes()
    await fs.download(path, sink)
    return sink.getvalue()


async def store(cluster: RealCluster, files: Mapping[str, bytes]) -> None:
    """Put files there with a client that goes again: the chunks that it had open are sealed, and so looked after."""
    async with cluster.client() as fs:
        for path, data in files.items():
            await put(fs, path, data)


async def findings(fs: FileSystem) -> list[str]:
    return [str(finding) async for finding in fs.fsck()]


async def until_sound(fs: FileSystem, copies: int = 3) -> None:
    """Wait until every chunk has all its copies and fsck finds nothing."""

    async def sound() -> bool:
        if await findings(fs):  # first: copies that are dropped while it looks are missing afterwards
            return False
        chunks = await fs.session.query("chunks", 0, limits.REPORT_SLICE_CHUNKS)
        whole = all(len(nodes) == copies for _chunk, length, _session, nodes in chunks if length)
        return whole and not (await fs.status())["under_replicated"]

    await until(sound, "a sound cluster")


async def holders(fs: FileSystem, path: str) -> list[NodeId]:
    """The nodes that hold a file of one chunk."""
    (place,) = await fs.replicas(path)
    return sorted(place.nodes)


async def chunk_file(cluster: RealCluster, fs: FileSystem, path: str, node: str) -> Path:
    """Where `node` keeps its copy of a file of one chunk."""
    (place,) = await fs.replicas(path)
    return cluster.chunk_files(node)[f"{place.chunk:016x}"]


# --- DataNodes that are away together ---------------------------------------------------------------------------


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine under load takes its time to start DataNodes: they are waited for as long as that may last."""
    monkeypatch.setattr(limits, "DATANODES_WAIT_S", PATIENCE_S)


async def new_file(fs: FileSystem) -> FileWriter:
    """For the bytes of /file, which is there, and empty."""
    await put(fs, "/file", b"")
    return fs.writer(await fs.stat("/file"))


async def until_waiting(fs: FileSystem) -> None:
    async def waits() -> bool:
        return fs.nodes_known._waiting_told_at > 0

    await until(waits, "who writes to wait for DataNodes")


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("away", [["n2", "n3"], ["n1", "n2", "n3"]])
async def test_who_writes_waits_for_datanodes_that_are_away_together(tmp_path: Path, away: list[str]) -> None:
    data = os.urandom(5 * MIB)
    async with real_cluster(tmp_path) as cluster, cluster.client() as fs:
        await put(fs, "/before", data)
        async with trio.open_nursery() as nursery:
            for name in away:
                cluster.kill(name)
            for number in range(3):
                nursery.start_soon(put, fs, f"/file{number}", data)
            await until_waiting(fs)
            await trio.sleep(0.5)
            for name in away:
                await cluster.start(name)
        for path in ("/before", "/file0", "/file1", "/file2"):
            assert await get(fs, path) == data


@pytest.mark.usefixtures("patient")
async def test_who_reads_waits_for_datanodes_that_are_away_together(tmp_path: Path) -> None:
    data = os.urandom(MIB)
    async with real_cluster(tmp_path) as cluster:
        await store(cluster, {"/file": data})
        async with cluster.client() as fs:
            await fs.stat("/file")
            read: list[bytes] = []

            async def read_it() -> None:
                read.append(await get(fs, "/file"))

            async with trio.open_nursery() as nursery:
                for name in cluster.datanodes:
                    cluster.kill(name)
                nursery.start_soon(read_it)
                await trio.sleep(3.0)  # it is asked for often by then
                for name in cluster.datanodes:
                    await cluster.start(name)
            assert read == [data]


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("away", [["n2", "n3"], ["n1", "n2", "n3"]])
async def test_who_flushes_waits_for_datanodes_that_are_away_together(tmp_path: Path, away: list[str]) -> None:
    data = os.urandom(3 * MIB)
    async with real_cluster(tmp_path) as cluster, cluster.client() as fs:
        writer = await new_file(fs)
        await writer.write(0, data)
        async with trio.open_nursery() as nursery:
            for name in away:
                cluster.kill(name)
            nursery.start_soon(writer.flush)
            await until_waiting(fs)
            await trio.sleep(0.5)
            for name in away:
                await cluster.start(name)
        assert await get(fs, "/file") == data


@pytest.mark.usefixtures("patient")
async def test_what_is_not_committed_is_read_back_from_nodes_that_were_given_up_and_are_back(tmp_path: Path) -> None:
    """As when one after the other was away while a file was written: none was there all the time."""
    data = os.urandom(3 * MIB + 17)
    async with real_cluster(tmp_path) as cluster, cluster.client() as fs:
        writer = await new_file(fs)
        await writer.write(0, data)
        for run in writer._uncommitted:
            for node in list(run.lane.nodes):
                run.lane.strike(node)
        async with trio.open_nursery() as nursery:
            for name in cluster.datanodes:
                cluster.kill(name)
            nursery.start_soon(writer.flush)
            await until_waiting(fs)
            for name in cluster.datanodes:
                await cluster.start(name)
        assert await get(fs, "/file") == data


async def test_nobody_waits_for_datanodes_longer_than_he_is_to(tmp_path: Path) -> None:
    async with real_cluster(tmp_path) as cluster, cluster.client(wait_s=0.5) as fs:
        writer = await new_file(fs)
        await writer.write(0, b"written before")
        for name in cluster.datanodes:
            cluster.kill(name)
        with pytest.raises(errors.Unreachable), trio.fail_after(60):
            await put(fs, "/other", b"data")
        with pytest.raises((errors.DataLost, errors.NotEnoughNodes)), trio.fail_after(60):
            await writer.flush()


# --- everything is killed, again and again ------------------------------------------------------------------


class Load:
    """Changes of files in a directory of its own, and what each file may hold after them: digests, None for no file.

    A change that was acknowledged leaves one possibility. One that failed may have happened or not.
    """

    def __init__(self, fs: FileSystem, directory: str, seed: int) -> None:
        self.possible: dict[str, set[str | None]] = {}
        self.acknowledged = 0
        self._fs = fs
        self._directory = directory
        self._random = random.Random(seed)

    async def run(self) -> None:
        """Change files until cancelled."""
        while True:
            change = self._random.choice([self._upload, self._upload, self._upload, self._rename, self._remove])
            try:
                await change()
                self.acknowledged += 1
            except errors.DfsError:
                await trio.lowlevel.checkpoint()

    def _name(self) -> str:
        return f"{self._directory}/{self._random.randrange(12)}"

    def _certain(self) -> list[str]:
        return [path for path, digests in self.possible.items() if None not in digests]

    async def _upload(self) -> None:
        path, size = self._name(), self._random.choice([0, 1, 700, 50 * KIB, 300 * KIB, 2 * MIB + 3])
        data = self._random.randbytes(size)
        digest = hashlib.sha256(data).hexdigest()
        self.possible.setdefault(path, {None}).add(digest)
        await put(self._fs, path, data)
        self.possible[path] = {digest}

    async def _rename(self) -> None:
        if not (certain := self._certain()):
            return
        source, target = self._random.choice(certain), self._name()
        if source == target:
            return
        held = set(self.possible[source])
        self.possible[source].add(None)
        self.possible.setdefault(target, {None}).update(held)
        await self._fs.rename(source, target)
        self.possible[source], self.possible[target] = {None}, held

    async def _remove(self) -> None:
        if not (certain := self._certain()):
            return
        path = self._random.choice(certain)
        self.possible[path].add(None)
        await self._fs.remove(path)
        self.possible[path] = {None}

    async def check(self, fs: FileSystem) -> None:
        for path, digests in self.possible.items():
            try:
                found: str | None = hashlib.sha256(await get(fs, path)).hexdigest()
            except errors.NotFound:
                found = None
            assert found in digests, path


async def _progress(loads: Iterable[Load], changes: int) -> None:
    """Return when so many more changes were acknowledged."""
    goal = sum(load.acknowledged for load in loads) + changes

    async def reached() -> bool:
        return sum(load.acknowledged for load in loads) >= goal

    await until(reached, f"{changes} more changes to be acknowledged")


@pytest.mark.slow
async def test_every_daemon_is_killed_under_load_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=4) as cluster:
        names = ["n1", "n2", "n3", "n4"]
        async with cluster.client(wait_s=40) as fs, trio.open_nursery() as nursery:
            for number in range(3):
                await fs.mkdir(f"/{number}")
            loads = [Load(fs, f"/{number}", seed=number) for number in range(3)]
            for load in loads:
                nursery.start_soon(load.run)
            await _progress(loads, 10)
            for name in names:
                cluster.kill(name)
                await _progress(loads, 5)
                await cluster.start(name)
                await _progress(loads, 5)
            cluster.kill(NAMENODE)
            await cluster.start(NAMENODE)
            await _progress(loads, 10)
            cluster.kill_all()
            for name in [NAMENODE, *names]:
                cluster.launch(name)
            await cluster.wait_until_up(*names)
            await _progress(loads, 10)
            nursery.cancel_scope.cancel()
        cluster.kill_all()
        for name in [NAMENODE, *names]:
            cluster.launch(name)
        await cluster.wait_until_up(*names)
        async with cluster.client() as fs:
            await until_sound(fs)
            for load in loads:
                await load.check(fs)


# --- a client dies ------------------------------------------------------------------------------------------


async def test_an_upload_whose_client_is_killed_leaves_nothing_behind(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, session_timeout_s=2, garbage_grace_s=0.2) as cluster, cluster.client() as fs:
        argv = [sys.executable, "-m", "dfs.cli", "upload", "-", "/half"]
        uploading = subprocess.Popen(argv, env=environment(cluster), stdin=subprocess.PIPE)
        assert uploading.stdin is not None
        try:
            await trio.to_thread.run_sync(uploading.stdin.write, os.urandom(9 * MIB))

            async def arrived() -> bool:
                return cluster.disk_bytes() >= 12 * MIB

            await until(arrived, "the upload's bytes to be on the DataNodes")
        finally:
            uploading.kill()
            uploading.wait()
            uploading.stdin.close()
        assert await fs.listdir("/") == []

        async def given_back() -> bool:
            return not (await fs.statfs()).used_bytes and not any(map(cluster.chunk_files, ("n1", "n2", "n3")))

        await until(given_back, "the space to come back")
        assert await findings(fs) == []


# --- a DataNode goes ----------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_copies_of_a_dead_datanode_are_made_again_and_surplus_is_trimmed_when_it_is_back(tmp_path: Path) -> None:
    options: dict[str, Any] = {"node_suspect_after_s": 2.5, "node_dead_after_s": 3.5, "garbage_grace_s": 0.2}
    async with real_cluster(tmp_path, datanodes=4, **options) as cluster, cluster.client() as fs:
        files = {f"/{number}": os.urandom(300 * KIB + number) for number in range(6)}
        await store(cluster, files)
        names = {"n1", "n2", "n3", "n4"}
        lost = next(name for name in names if cluster.chunk_files(name))
        cluster.kill(lost)

        async def made_again() -> bool:
            status = await fs.status()
            copies = sum(len(cluster.chunk_files(name)) for name in names - {lost})
            return bool(copies == 3 * status["chunks"] and not status["under_replicated"])

        await until(made_again, "three copies on the other DataNodes")
        for path, data in files.items():
            assert await get(fs, path) == data
        await cluster.start(lost)

        async def trimmed() -> bool:
            copies = sum(len(cluster.chunk_files(name)) for name in names)
            return bool(copies == 3 * (await fs.status())["chunks"])

        await until(trimmed, "the surplus to be deleted")
        await until_sound(fs)


async def test_an_overwrite_goes_on_when_two_datanodes_die_before_it_is_committed(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=4) as cluster, cluster.client() as fs:
        old, new = os.urandom(MIB), os.urandom(MIB)
        await store(cluster, {"/file": old})
        names = ["n1", "n2", "n3", "n4"]
        before = {name: set(cluster.chunk_files(name)) for name in names}
        writer = fs.writer(await fs.stat("/file"))
        await writer.write(0, new)
        having = [name for name in names if set(cluster.chunk_files(name)) - before[name]]
        assert len(having) == 3
        for name in having[:2]:
            cluster.kill(name)
        assert await get(fs, "/file") == old
        await writer.commit()
        assert await get(fs, "/file") == new
        await writer.flush()
        for name in having[:2]:
            await cluster.start(name)
        cluster.kill(having[2])
        assert await get(fs, "/file") == new


async def test_fsync_of_bytes_whose_copies_died_waits_until_they_are_made_again(tmp_path: Path) -> None:
    options: dict[str, Any] = {"node_suspect_after_s": 2.5, "node_dead_after_s": 3.5}
    async with real_cluster(tmp_path, datanodes=4, **options) as cluster, cluster.client() as fs:
        await store(cluster, {"/file": os.urandom(MIB)})
        file = await fs.stat("/file")
        places = await fs.replicas("/file")
        for name in places[0].nodes[:2]:
            cluster.kill(name)
        await fs.chunks.sync_places(places, 2, lambda: fs.reader.places(file.ino))
        assert len(set(await holders(fs, "/file")) & set(cluster.running())) == 2


async def test_what_lost_a_copy_at_an_fsync_takes_no_more_bytes(tmp_path: Path) -> None:
    """It is sealed at once so that the copy can be made again: what came later would be cut off."""
    async with real_cluster(tmp_path, datanodes=4) as cluster, cluster.client() as fs:
        async with await fs.open("/before", "w") as file:
            await file.pwrite(b"before", 0)
            (place,) = await fs.replicas("/before")
            cluster.kill(place.nodes[0])
            await file.fsync()
        await put(fs, "/after", b"after")
        (later,) = await fs.replicas("/after")
        assert later.chunk != place.chunk
        assert await get(fs, "/before") == b"before"
        assert await get(fs, "/after") == b"after"


async def test_what_a_client_keeps_open_is_copied_when_a_node_dies_while_it_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LANE_IDLE_S", 0.2)
    options: dict[str, Any] = {"node_suspect_after_s": 2.5, "node_dead_after_s": 3.5}
    async with real_cluster(tmp_path, datanodes=4, **options) as cluster, cluster.client() as fs:
        await put(fs, "/log", b"a line\n")
        (place,) = await fs.replicas("/log")
        await trio.sleep(1.0)
        await put(fs, "/other", b"a line of another\n")
        assert [other.chunk for other in await fs.replicas("/other")] == [place.chunk]
        cluster.kill(place.nodes[0])
        with trio.fail_after(PATIENCE_S):
            while len(set(await holders(fs, "/log")) & set(cluster.running())) < 3:
                await trio.sleep(0.1)
        assert await get(fs, "/log") == b"a line\n"


async def test_what_is_given_up_while_the_namenode_is_away_does_not_happen_after_what_comes_later(
    tmp_path: Path,
) -> None:
    """A command may have arrived, so it is repeated though nobody waits for it: in its place, not behind others."""
    async with real_cluster(tmp_path, datanodes=1, replicas=1) as cluster, cluster.client() as fs:
        await put(fs, "/file", b"0" * 100)
        async with await fs.open("/file", "r+") as file:
            for size in (90, 80, 70, 60):
                cluster.kill(NAMENODE)
                with trio.move_on_after(1.0) as scope:
                    await file.truncate(10)
                assert scope.cancelled_caught
                await cluster.start(NAMENODE)
                await file.truncate(size)
                await trio.sleep(1.5)
                assert (await fs.stat("/file")).size == size
    assert not fs.session._abandoned


async def test_a_call_to_a_namenode_that_hangs_ends_when_the_client_wants_to_wait_no_longer(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=1, replicas=1) as cluster, cluster.client(wait_s=1) as fs:
        with cluster.suspended(NAMENODE), trio.fail_after(limits.CALL_TIMEOUT_S / 2):
            with pytest.raises((errors.DeadlineExceeded, errors.Unreachable)):
                await fs.stat("/")


def flip(path: Path, *offsets: int) -> None:
    content = bytearray(path.read_bytes())
    for offset in offsets:
        content[offset] ^= 1
    path.write_bytes(content)


async def test_a_flipped_bit_is_never_read_and_is_mended(tmp_path: Path) -> None:
    async with real_cluster(tmp_path) as cluster, cluster.client() as fs:
        data = os.urandom(2 * MIB)
        await store(cluster, {"/file": data})
        damaged = await chunk_file(cluster, fs, "/file", "n2")
        cluster.stop("n2")
        flip(damaged, 1_234_567)
        await cluster.start("n2")

        async def mended() -> bool:
            assert await get(fs, "/file") == data
            return damaged.read_bytes() == data

        await until(mended, "the block as it was")
        await until_sound(fs)
        assert await holders(fs, "/file") == ["n1", "n2", "n3"]
        assert not any((tmp_path / "n2" / "quarantine").iterdir())


async def test_copies_that_are_damaged_in_different_places_lose_nothing(tmp_path: Path) -> None:
    """Each block is whole somewhere, though no copy is: all of it is read, and after a while each copy has all."""
    async with real_cluster(tmp_path, datanodes=2, replicas=2) as cluster, cluster.client() as fs:
        data = os.urandom(2 * MIB)
        await store(cluster, {"/file": data})
        copies = [await chunk_file(cluster, fs, "/file", node) for node in ("n1", "n2")]
        cluster.stop("n1")
        cluster.stop("n2")
        flip(copies[0], 100, 1_234_567)
        flip(copies[1], 70_000, 2_000_000)
        await cluster.start("n1")
        await cluster.start("n2")
        assert await get(fs, "/file") == data

        async def mended() -> bool:
            return all(copy.read_bytes() == data for copy in copies)

        await until(mended, "both copies whole")
        await until_sound(fs, copies=2)


async def test_copies_of_small_blocks_that_are_damaged_near_one_another_are_read(tmp_path: Path) -> None:
    """As of a log: each write is a block of its own, and a read is of many."""
    async with real_cluster(tmp_path, datanodes=2, replicas=2, repair=False) as cluster, cluster.client() as fs:
        lines = [os.urandom(3000) for _ in range(40)]
        async with await fs.open("/log", "w") as file:
            for number, line in enumerate(lines):
                await file.pwrite(line, number * 3000)
                await file.fsync()
        copies = [await chunk_file(cluster, fs, "/log", node) for node in ("n1", "n2")]
        for node, copy, offsets in zip(("n1", "n2"), copies, ((100, 50_000), (4000, 53_000)), strict=True):
            cluster.stop(node)
            flip(copy, *offsets)
            await cluster.start(node)
        assert await get(fs, "/log") == b"".join(lines)


async def test_a_block_that_is_lost_everywhere_costs_itself_and_no_other(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=2, replicas=2) as cluster, cluster.client() as fs:
        data = os.urandom(2 * MIB)
        await store(cluster, {"/file": data})
        copies = [await chunk_file(cluster, fs, "/file", node) for node in ("n1", "n2")]
        for node, copy in zip(("n1", "n2"), copies, strict=True):
            cluster.stop(node)
            flip(copy, 700_000)
            await cluster.start(node)
        first, end = 688_128, 704_512
        with pytest.raises(errors.DataLost) as lost:
            await get(fs, "/file")
        assert lost.value.message.startswith(f"/file cannot be read: chunk {int(copies[0].name, 16):x}: n")
        assert lost.value.message.endswith(" (`dfs why /file`)")
        assert copies[0].name not in lost.value.message  # one number, spelled in one way
        async with await fs.open("/file", "r") as file:
            with pytest.raises(errors.DataLost):
                await file.pread(1, end - 1)
            assert await file.pread(first, 0) == data[:first]
            assert await file.pread(2 * MIB - end, end) == data[end:]

        async def told() -> bool:
            return (await fs.status())["lost"] == 1

        await until(told, "the NameNode to hear of it")
        said = [finding async for finding in fs.fsck("/file", data=True)]
        assert {finding.kind for finding in said} == {"chunk-lost", "copy-damaged"}
        assert "or some of them: check again, as copies mend one another" in str(said[0])


async def test_what_is_left_of_a_chunk_with_a_lost_block_is_copied_as_its_nodes_go(tmp_path: Path) -> None:
    options = {"replicas": 2, "garbage_grace_s": 0.2, "node_suspect_after_s": 1.0, "node_dead_after_s": 2.0}
    async with real_cluster(tmp_path, datanodes=4, **options) as cluster, cluster.client() as fs:
        data = os.urandom(2 * MIB)
        await store(cluster, {"/file": data})
        holders = [f"n{number}" for number in range(1, 5) if cluster.chunk_files(f"n{number}")]
        for node, places in zip(holders, ((700_000, 5), (700_000, 2 * MIB - 1)), strict=True):
            cluster.stop(node)
            for place in places:
                flip(next(iter(cluster.chunk_files(node).values())), place)
            await cluster.start(node)
        with pytest.raises(errors.DataLost):
            await get(fs, "/file")

        async def lost() -> bool:
            return (await fs.status())["lost"] == 1

        await until(lost, "the NameNode to hear of it")
        await fs.drain(holders[0])

        async def drained() -> bool:
            return bool((await fs.status())["drains"][holders[0]]["drained"])

        await until(drained, "the copies to be elsewhere")
        await fs.remove_node(holders[0])
        cluster.kill(holders[0])
        cluster.kill(holders[1])

        async def replaced() -> bool:
            nodes = [f"n{number}" for number in range(1, 5) if f"n{number}" not in holders]
            return all(cluster.chunk_files(node) for node in nodes) and await lost()

        await until(replaced, "a second copy to be made")
        first, end = 688_128, 704_512
        async with await fs.open("/file", "r") as file:
            assert await file.pread(first, 0) == data[:first]
            assert await file.pread(2 * MIB - end, end) == data[end:]
            with pytest.raises(errors.DataLost):
                await file.pread(1, first)


async def test_a_datanode_that_lost_a_disk_refuses_the_empty_one_until_it_is_said_to_be_new(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=2, replicas=2, garbage_grace_s=0.2) as cluster, cluster.client() as fs:
        cluster.stop("n2")
        disks = [tmp_path / "n2", tmp_path / "n2-more"]
        cluster.configure_datanode("n2", directories=disks)
        await cluster.start("n2")
        files = {f"/{number}": os.urandom(100 * KIB) for number in range(4)}
        await store(cluster, files)
        cluster.stop("n2")
        emptied = disks[0] if cluster.chunk_files("n2") else disks[1]
        shutil.rmtree(emptied)
        emptied.mkdir()
        refused = subprocess.run(cluster.command("n2"), capture_output=True, text=True, timeout=30)
        assert refused.returncode == 1
        assert refused.stderr.splitlines()[-1].startswith(f"dfs datanode: {emptied} is empty")
        (emptied / "new-disk").touch()
        await cluster.start("n2")
        await until_sound(fs, copies=2)
        cluster.kill("n1")
        for path, data in files.items():
            assert await get(fs, path) == data


async def test_a_datanode_whose_only_disk_is_not_mounted_is_refused_until_it_is_or_is_said_to_be_lost(
    tmp_path: Path,
) -> None:
    async with real_cluster(tmp_path, datanodes=2, replicas=2) as cluster, cluster.client() as fs:
        data = os.urandom(100 * KIB)
        await store(cluster, {"/file": data})
        cluster.stop("n2")
        disk = tmp_path / "n2"
        disk.rename(tmp_path / "elsewhere")
        disk.mkdir()
        refused = subprocess.run(cluster.command("n2"), capture_output=True, text=True, timeout=30)
        assert refused.returncode == 1
        said = refused.stderr.splitlines()[-1]
        assert said.startswith("dfs datanode: DataNode n2 has copies, and comes with none of the directories")
        assert not (disk / "identity.json").exists()
        shutil.rmtree(disk)
        (tmp_path / "elsewhere").rename(disk)
        await cluster.start("n2")
        await until_sound(fs, copies=2)
        cluster.stop("n2")
        shutil.rmtree(disk)
        disk.mkdir()
        (disk / "new-disk").touch()
        await cluster.start("n2")
        assert not (disk / "new-disk").exists()
        await until_sound(fs, copies=2)
        cluster.stop("n2")
        await cluster.start("n2")
        cluster.kill("n1")
        assert await get(fs, "/file") == data


# --- space comes back ---------------------------------------------------------------------------------------


async def test_a_file_rewritten_many_times_does_not_eat_the_disks(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, garbage_grace_s=0.2) as cluster, cluster.client() as fs:
        data, kept = os.urandom(MIB), os.urandom(MIB)
        async with cluster.client() as writer:
            for _ in range(8):
                await put(writer, "/file", data)
            async with await writer.open("/part", "w") as file:
                for _ in range(8):
                    await file.pwrite(kept, 0)
                    await file.fsync()

        async def given_back() -> bool:
            return cluster.disk_bytes() <= 3 * 2 * MIB + 3 * 256 * KIB

        await until(given_back, "all but two files' bytes to be given back")
        assert await get(fs, "/file") == data
        assert await get(fs, "/part") == kept
        await until_sound(fs)
