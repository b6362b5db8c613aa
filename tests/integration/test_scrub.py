"""DataNodes that find out what is wrong with their disks, and with their NameNode."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from dfs import errors, limits
from dfs.client import FileSystem
from dfs.types import NodeId
from nodes.datanode import obeyed
from nodes.datanode.disk import RealDisk
from tests.forked import as_text
from tests.integration.real import NAMENODE, RealCluster, real_cluster, until
from tests.integration.test_failures import chunk_file, get, put, store, until_sound

KIB, MIB = limits.KIB, limits.MIB
IS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs needs root")


async def dfs(cluster: RealCluster, *args: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user of the cluster does."""
    return as_text(await cluster.dfs(*args))


async def node_status(fs: FileSystem, node: str) -> dict[str, Any]:
    found, _ = await fs.nodes_known.call(NodeId(node), "status")
    return dict(found)


def flip(path: Path, offset: int, bit: int = 0) -> None:
    """Flip a bit of one byte; a negative offset is from the end."""
    with path.open("r+b") as file:
        file.seek(offset, os.SEEK_END if offset < 0 else os.SEEK_SET)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ (1 << bit)]))


# --- scrub


async def test_dfs_scrub_finds_what_is_damaged_and_it_is_replaced(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, garbage_grace_s=0.2) as cluster, cluster.client() as fs:
        data = os.urandom(2 * MIB)
        await store(cluster, {"/file": data})
        sound = await dfs(cluster, "scrub", "--now", "--wait")
        assert sound.returncode == 0, sound.stdout + sound.stderr
        _, *rows = [line.split()[:7] for line in sound.stdout.splitlines()]
        assert rows == [[node, "finished", "1", "2.0M", "2.0M", "100%", "0"] for node in ("n1", "n2", "n3")]
        damaged = [await chunk_file(cluster, fs, "/file", node) for node in ("n1", "n2")]
        whole = [path.read_bytes() for path in damaged]
        flip(damaged[0], 1_234_567)
        damaged[1].with_suffix(".idx").unlink()
        (tmp_path / "n3" / "notes.txt").write_text("mine")
        found = await dfs(cluster, "scrub", "--now", "--wait", "--json")
        assert found.returncode == 1
        records = {record["node"]: record for record in json.loads(found.stdout)}
        assert [records[node]["found"] for node in ("n1", "n2", "n3")] == [1, 1, 0]
        assert "do not match their checksum" in records["n1"]["findings"][0]
        assert "its index is missing" in records["n2"]["findings"][0]
        assert "notes.txt is none of ours" in records["n3"]["findings"][0]

        async def replaced() -> bool:
            return [path.exists() and path.read_bytes() for path in damaged] == whole

        await until(replaced, "sound copies in the places of the damaged ones")
        assert await get(fs, "/file") == data
        await until_sound(fs)
        again = await dfs(cluster, "scrub", "n1", "--now", "--wait")
        assert again.returncode == 0 and "n1" in again.stdout and "n2" not in again.stdout


async def test_dfs_scrub_says_who_does_not_answer(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=2) as cluster:
        unknown = await dfs(cluster, "scrub", "n9")
        assert unknown.returncode == 1 and "there is no DataNode n9" in unknown.stderr
        cluster.kill("n2")
        shown = await dfs(cluster, "scrub")
        assert shown.returncode == 1
        assert "n2" in shown.stderr and any("no answer" in line for line in shown.stdout.splitlines())


async def test_dfs_scrub_says_which_directory_is_not_scrubbed(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=1) as cluster:
        cluster.stop("n1")
        (tmp_path / "spoiled").mkdir()
        (tmp_path / "spoiled" / "identity.json").write_text("no identity")
        cluster.configure_datanode("n1", directories=[tmp_path / "n1", tmp_path / "spoiled"])
        await cluster.start("n1")
        done = await dfs(cluster, "scrub", "--now", "--wait")
        assert done.returncode == 1 and "finished" in done.stdout
        assert f"n1: {tmp_path}/spoiled is out of service, and not scrubbed: " in done.stderr


def index_of(chunk: Path) -> Path:
    return chunk.with_suffix(".idx")


def swap(one: Path, other: Path) -> None:
    between = one.with_suffix(".tmp")
    one.rename(between)
    other.rename(one)
    between.rename(other)


Harm = Callable[[Path, Path], None]  # to a chunk's file, perhaps together with another chunk's


def in_data(offset: int, bit: int = 0) -> Harm:
    return lambda chunk, _: flip(chunk, offset, bit)


def in_index(offset: int, bit: int = 0) -> Harm:
    return lambda chunk, _: flip(index_of(chunk), offset, bit)


HARMS: dict[str, Harm] = {
    **{f"data at {offset}": in_data(offset, abs(offset) % 8) for offset in (0, 70_000, -1)},
    **{  # see nodes.datanode.index
        f"{field} of the index": in_index(offset)
        for field, offset in {
            "magic": 0,
            "version": 8,
            "cluster": 12,
            "chunk": 44,
            "header's zeros": 55,
            "header's sum": 60,
            "mark 0's generation": 64,
            "mark 0's blocks": 68,
            "mark 0's length": 72,
            "mark 0's sum": 76,
            "mark 1's generation": 80,
            "mark 1's blocks": 84,
            "mark 1's length": 88,
            "mark 1's sum": 92,
            "zeros": 100,
            "first length": 128,
            "first sum": 132,
            "last length": -8,
            "last sum": -1,
        }.items()
    },
    "first block called freed": in_index(131, bit=7),
    "last block called freed": in_index(-5, bit=7),
    "data cut": lambda chunk, _: os.truncate(chunk, 100_000),
    "data emptied": lambda chunk, _: os.truncate(chunk, 0),
    "data grown": lambda chunk, _: os.truncate(chunk, 1 * MIB),
    "index cut by a record": lambda chunk, _: os.truncate(index_of(chunk), index_of(chunk).stat().st_size - 8),
    "index cut within a mark": lambda chunk, _: os.truncate(index_of(chunk), 70),
    "index emptied": lambda chunk, _: os.truncate(index_of(chunk), 0),
    "data removed": lambda chunk, _: chunk.unlink(),
    "index removed": lambda chunk, _: index_of(chunk).unlink(),
    "both removed": lambda chunk, _: [chunk.unlink(), index_of(chunk).unlink()][0],
    "data swapped": lambda chunk, other: swap(chunk, other),
    "index swapped": lambda chunk, other: swap(index_of(chunk), index_of(other)),
    "both swapped": lambda chunk, other: [swap(chunk, other), swap(index_of(chunk), index_of(other))][0],
}


@pytest.mark.parametrize("state", ["running", "stopped", "killed"])
async def test_whatever_happens_to_a_chunks_files_is_never_read_and_made_good(tmp_path: Path, state: str) -> None:
    size = 200_000
    async with real_cluster(tmp_path, garbage_grace_s=0.2) as cluster, cluster.client() as fs:
        names = [*HARMS, *(f"partner of {harm}" for harm in HARMS if "swapped" in harm)]
        files = {f"/{name}".replace(" ", "-"): os.urandom(size) for name in names}
        for path, data in files.items():
            await store(cluster, {path: data})  # each in a chunk of its own
        await until_sound(fs)
        paths = dict(zip(names, files, strict=True))
        chunks = {name: await chunk_file(cluster, fs, paths[name], "n1") for name in names}
        places = {name: (await fs.replicas(paths[name]))[0] for name in names}
        cluster.configure_datanode("n4")
        await cluster.start("n4")  # a place for new copies of those that only became shorter: these stay until then
        if state == "stopped":
            cluster.stop("n1")
        elif state == "killed":
            cluster.kill("n1")
        for name, harm in HARMS.items():
            harm(chunks[name], chunks.get(f"partner of {name}", chunks[name]))
        if state != "running":
            await cluster.start("n1")
        for name in names[::2]:  # of some of them users find out, of the others the scrub
            await _is_right_or_refused(fs, places[name].chunk, files[paths[name]])
        for path, data in files.items():
            assert await get(fs, path) == data, path
        scrubbed = await dfs(cluster, "scrub", "n1", "--now", "--wait")
        assert scrubbed.returncode == 1, scrubbed.stdout

        async def made_good() -> bool:
            held = [cluster.chunk_files(node) for node in ("n1", "n2", "n3", "n4")]
            copies = {name: [found[path.name] for found in held if path.name in found] for name, path in chunks.items()}
            try:
                return all(
                    len(copies[name]) == 3
                    and all(
                        copy.read_bytes() == files[paths[name]] and index_of(copy).exists() for copy in copies[name]
                    )
                    for name in names
                )
            except FileNotFoundError:  # one too many, or one that was given up, is deleted meanwhile
                return False

        await until(made_good, "three sound copies of all that were harmed")
        await until_sound(fs)
        again = await dfs(cluster, "scrub", "n1", "--now", "--wait")
        assert again.returncode == 0, again.stdout
        for name, path in paths.items():
            await _is_right_or_refused(fs, places[name].chunk, files[path])
            assert await get(fs, path) == files[path], path


async def _is_right_or_refused(fs: FileSystem, chunk: int, data: bytes) -> None:
    """n1 reads a chunk right, or answers with an error, which a client takes for "ask another"."""
    buffer = memoryview(bytearray(len(data)))
    try:
        _, found = await fs.nodes_known.call(NodeId("n1"), "read", chunk, 0, len(data), into=buffer)
    except errors.DfsError:
        return
    assert found == data


# --- disks


@contextlib.contextmanager
def tmpfs(directory: Path, size: str) -> Iterator[Path]:
    directory.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@contextlib.contextmanager
def ext4(directory: Path, image: Path) -> Iterator[Path]:
    """A file system that can be made to fail, as ext4 does after an error of its disk."""
    directory.mkdir(parents=True)
    with image.open("wb") as file:
        file.truncate(400 * MIB)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    done = subprocess.run(["mount", "-o", "loop,errors=remount-ro", str(image), str(directory)], check=False)
    if done.returncode:
        pytest.skip("mounting an image needs a loop device")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@IS_ROOT
@pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="makes a file system with mkfs.ext4")
async def test_a_disk_that_becomes_read_only_leaves_service_and_its_copies_are_made_elsewhere(tmp_path: Path) -> None:
    with ext4(tmp_path / "disk", tmp_path / "image") as disk:
        async with real_cluster(tmp_path, datanodes=4, garbage_grace_s=0.2) as cluster, cluster.client() as fs:
            cluster.stop("n1")
            cluster.configure_datanode("n1", directories=[tmp_path / "n1", disk])
            await cluster.start("n1")
            files = {f"/{number}": os.urandom(300 * KIB) for number in range(12)}
            for path, data in files.items():
                await store(cluster, {path: data})  # each in a chunk of its own
            assert list((disk / "chunks").rglob("?" * 16))
            subprocess.run(["mount", "-o", "remount,abort", str(disk)], check=True)

            async def failed() -> bool:
                directories = (await node_status(fs, "n1"))["directories"]
                return [each["failed"] for each in directories] == [None, "Read-only file system"]

            await until(failed, "the directory out of service")
            await until_sound(fs)
            assert "out of service" in cluster.log("n1")
            for path, data in files.items():
                assert await get(fs, path) == data
            await store(cluster, {"/new": b"new"})


@IS_ROOT
async def test_a_disk_that_fills_up_takes_no_more_and_comes_back_when_there_is_space(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "80m") as disk:
        async with real_cluster(tmp_path, datanodes=3, garbage_grace_s=0.2) as cluster, cluster.client() as fs:
            cluster.stop("n1")
            cluster.configure_datanode("n1", directories=[disk, tmp_path / "n1"])
            (disk / "new-disk").touch()
            await cluster.start("n1")
            data = os.urandom(5 * MIB)
            await store(cluster, {"/before": data})
            filler = disk / "filler"
            with contextlib.suppress(OSError):  # the DataNode takes a little of it at the same time
                filler.write_bytes(bytes(disk_free(disk)))

            async def is_full() -> bool:
                first = (await node_status(fs, "n1"))["directories"][0]
                return bool(first["full"]) and first["failed"] is None

            await until(is_full, "the directory to be full")
            for number in range(4):
                await store(cluster, {f"/{number}": data})
            assert await get(fs, "/before") == data
            filler.unlink()

            async def is_back() -> bool:
                return not await is_full()

            await until(is_back, "the directory to take chunks again")
            await until_sound(fs)
            assert all(each["failed"] is None for each in (await node_status(fs, "n1"))["directories"])


def disk_free(directory: Path) -> int:
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


# --- a namenode from the past


async def test_a_namenode_restored_from_an_old_copy_destroys_nothing_and_gives_no_number_again(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, garbage_grace_s=0.2) as cluster:
        await store(cluster, {"/old": os.urandom(200 * KIB)})
        cluster.stop(NAMENODE)
        shutil.copytree(tmp_path / NAMENODE, tmp_path / "copy")
        await cluster.start(NAMENODE)
        async with cluster.client() as fs:
            copied_at = (await fs.status())["log_index"]
            for number in range(200):  # the copy is far behind, and not in a moment where it was
                await fs.mkdir(f"/directory-{number}")

            async def are_obeyed() -> bool:
                await store(cluster, {"/gone": os.urandom(200 * KIB)})  # the last chunks are of these
                await fs.remove("/gone")
                memories = [obeyed.read(RealDisk(tmp_path / name)) for name in cluster.datanodes]
                return all(memory is not None and memory.log_index >= copied_at + 200 for memory in memories)

            await until(are_obeyed, "deletions to be carried out")
            await store(cluster, {"/new": (new := os.urandom(200 * KIB))})
            precious = {name: await chunk_file(cluster, fs, "/new", name) for name in cluster.datanodes}
            number = int(precious["n1"].name, 16)
        cluster.stop(NAMENODE)
        shutil.rmtree(tmp_path / NAMENODE)
        shutil.copytree(tmp_path / "copy", tmp_path / NAMENODE)
        await cluster.start(NAMENODE)
        async with cluster.client() as fs:
            await store(cluster, {"/after": os.urandom(200 * KIB)})
            (place,) = await fs.replicas("/after")
            assert place.chunk > number
            await until(lambda: _says(cluster, NAMENODE, "never gave"), "the NameNode to see unknown chunks")

            async def status_says_so() -> bool:
                return set((await fs.status())["never_given"]) == set(cluster.datanodes)

            await until(status_says_so, "the status to say so of all DataNodes")
            old = {name: await chunk_file(cluster, fs, "/old", name) for name in cluster.datanodes}
            await fs.remove("/old")  # an order that is in the past, too
            await until(lambda: _says(cluster, "n1", "deletions are held"), "deletions to be held")
            assert all(path.exists() for path in precious.values())

            async def holds_orders() -> bool:  # they come when the grace of what was removed is over
                held = (await fs.status())["held"].get("n1")
                return bool(held and held["orders"])

            await until(holds_orders, "n1 to hold an order, and the NameNode to know")
            decided = await dfs(cluster, "deletions", "n1", "--allow")
            assert re.fullmatch(r"n1 carries out [1-9]\d* deletions?\n", decided.stdout)

            async def deleted() -> bool:
                return not old["n1"].exists()

            await until(deleted, "what the operator allowed to be deleted")
            assert old["n2"].exists() and old["n3"].exists()
            assert all(path.exists() for path in precious.values())
            found = await dfs(cluster, "fsck", "--repair")
            assert f"is now /lost+found/chunk-{number:x}." in found.stdout
            assert (await cluster.dfs("cat", f"/lost+found/chunk-{number:x}")).stdout == new
            assert (await dfs(cluster, "fsck")).returncode == 0


async def _says(cluster: RealCluster, name: str, words: str) -> bool:
    return words in cluster.log(name)


# --- restarts


async def test_datanodes_restarted_one_after_the_other_under_load_are_not_noticed(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=4, garbage_grace_s=0.2) as cluster, cluster.client() as fs:
        await fs.mkdir("/load")
        load = _Strict(fs)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.run)
            for name in cluster.datanodes:
                await trio.to_thread.run_sync(cluster.stop, name)
                assert (tmp_path / name / "clean").exists()
                await cluster.start(name)
                done = load.done
                await until(lambda done=done: _has_done(load, done + 3), "work to go on")  # type: ignore[misc]
            load.is_enough = True  # a change that is cut short may have happened or not: none is
        for path, data in load.files.items():
            assert await get(fs, path) == data


async def _has_done(load: _Strict, count: int) -> bool:
    return load.done >= count


class _Strict:
    """Writes and reads files until it is enough; an error of any is the test's."""

    def __init__(self, fs: FileSystem) -> None:
        self.files: dict[str, bytes] = {}
        self.done = 0
        self.is_enough = False
        self._fs = fs

    async def run(self) -> None:
        while not self.is_enough:
            path = f"/load/{self.done % 10}"
            data = os.urandom(400 * KIB)
            await put(self._fs, path, data)
            self.files[path] = data
            assert await get(self._fs, path) == data
            self.done += 1
