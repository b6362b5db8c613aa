"""Something is broken, on purpose: `dfs fsck` says what, `--repair` mends what can be mended, `dfs why` says why.

Real processes; the NameNode's database and the DataNodes' files are damaged behind their backs, while they are stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from dfs import limits
from dfs.client import FileSystem
from dfs.runtime import RealRuntime
from dfs.types import ChunkId
from nodes.datanode.disk import RealDisk
from nodes.datanode.store import ChunkStore
from tests.integration.real import NAMENODE, PATIENCE_S, RealCluster, real_cluster, until
from tests.integration.test_client import get, put

MIB = limits.MIB
FOUND_DAMAGED = "has a damaged copy: it is mended from those that are right there."
KNOWN_DAMAGED = "has not all of its blocks, as some are damaged or were lost with its power: only the others are read."
"""The same where the NameNode was told of it before it was asked: within a second of its being found."""


async def dfs(cluster: RealCluster, *arguments: str) -> tuple[int, str]:
    """Run the command; its exit status and what it printed."""
    done = await cluster.dfs(*arguments)
    return done.returncode, (done.stdout + done.stderr).decode()


async def store(cluster: RealCluster, **files: bytes) -> None:
    """Files in the root, by a client that goes again, so that their chunks are sealed."""
    async with cluster.client() as fs:
        for name, data in files.items():
            await put(fs, f"/{name}", data)


async def the_chunk(fs: FileSystem, path: str) -> tuple[int, list[str]]:
    """The chunk of a file that has one, and the nodes that have it."""
    (place,) = await fs.replicas(path)
    return place.chunk, sorted(place.nodes)


def remove_copy(cluster: RealCluster, node: str, chunk: int) -> None:
    """Take a chunk's files away from a DataNode that is stopped."""
    path = cluster.chunk_files(node)[f"{chunk:016x}"]
    path.unlink()
    path.with_suffix(".idx").unlink()


async def damage(cluster: RealCluster, *statements: str) -> None:
    """Stop the NameNode, change its database, start it again."""
    cluster.stop(NAMENODE)
    database = sqlite3.connect(cluster.directory / NAMENODE / "namespace.sqlite")
    try:
        for statement in statements:
            database.execute(statement)
        database.commit()
    finally:
        database.close()
    await cluster.start(NAMENODE)
    await cluster.wait_until_up(*cluster.datanodes)


async def lose_row_of_index(cluster: RealCluster, index: str, table: str, where: str) -> None:
    """As `damage`: a row stays in its table, and is in an index no more."""
    cluster.stop(NAMENODE)
    path = cluster.directory / NAMENODE / "namespace.sqlite"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        (row,) = database.execute(f"SELECT * FROM {table} WHERE {where}").fetchall()
        database.execute(f"DELETE FROM {table} WHERE {where}")
        schema = database.execute("SELECT * FROM sqlite_schema WHERE name = ?", (index,)).fetchone()
        database.execute("PRAGMA writable_schema = ON")
        database.execute("DELETE FROM sqlite_schema WHERE name = ?", (index,))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
        database.execute("PRAGMA writable_schema = ON")
        database.execute("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", schema)
    await cluster.start(NAMENODE)
    await cluster.wait_until_up(*cluster.datanodes)


async def until_it_says(cluster: RealCluster, good: Callable[[int, str], bool], *arguments: str) -> str:
    """Run a command again and again until what it says is good."""
    said = ""

    async def says() -> bool:
        nonlocal said
        status, said = await dfs(cluster, *arguments)
        return good(status, said)

    try:
        await until(says, " ".join(arguments))
    except AssertionError as error:
        raise AssertionError(f"{error}: it said {said}") from None
    return said


def sound(status: int, said: str) -> bool:
    return (status, said) == (0, "nothing wrong\n")


async def test_a_damaged_namespace_is_mended_and_the_files_are_all_there(tmp_path: Path) -> None:
    data = os.urandom(MIB)
    async with real_cluster(tmp_path, datanodes=3) as cluster:
        await store(cluster, one=data, two=b"small")
        async with cluster.client() as fs:
            await fs.mkdir("/directory")
            one = (await fs.stat("/one")).ino
        await damage(
            cluster,
            f"DELETE FROM dentry WHERE ino = {one}",
            "UPDATE inode SET size = 77 WHERE ino = 1",
            "UPDATE chunk SET live = live + 5",
            "UPDATE counter SET value = 0 WHERE name = 'files'",
            "INSERT INTO xattr VALUES (9999, x'61', x'62')",
        )
        status, said = await dfs(cluster, "fsck")
        assert status == 1
        assert f"Inode {one} ({MIB} bytes) has no name and nobody holds it: `dfs fsck --repair` puts it into" in said
        assert "Directory / says it has 77 entries and has 2: `dfs fsck --repair` sets it right." in said
        status, said = await dfs(cluster, "fsck", "--repair")
        assert status == 0, said
        assert f"has no name and nobody holds it: is now /lost+found/{one}." in said
        assert said.rstrip().endswith("findings, all repaired")
        assert await dfs(cluster, "fsck") == (0, "nothing wrong\n")
        async with cluster.client() as fs:
            assert await get(fs, f"/lost+found/{one}") == data
            assert await get(fs, "/two") == b"small"


async def test_a_chunk_that_the_namenode_forgot_is_read_again(tmp_path: Path) -> None:
    data = os.urandom(MIB)
    async with real_cluster(tmp_path, datanodes=3) as cluster:
        await store(cluster, file=data)
        await damage(cluster, "DELETE FROM chunk", "DELETE FROM replica")
        status, said = await dfs(cluster, "fsck")
        assert status == 1
        assert "is not known any more, and /file has bytes in it" in said
        await dfs(cluster, "fsck", "--repair")
        await until_it_says(cluster, sound, "fsck", "--repair")
        async with cluster.client() as fs:
            assert await get(fs, "/file") == data
            assert len((await the_chunk(fs, "/file"))[1]) == 3


async def test_a_copy_that_is_gone_is_explained_and_made_again(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=4, repair=False) as cluster, cluster.client() as fs:
        await store(cluster, file=os.urandom(MIB))
        chunk, nodes = await the_chunk(fs, "/file")
        cluster.stop(nodes[0])
        remove_copy(cluster, nodes[0], chunk)
        await cluster.start(nodes[0])
        said = await until_it_says(cluster, lambda _, text: "2 of 3 copies" in text, "why", "/file")
        assert "No copy is made: repair is switched off in the NameNode's configuration." in said
        cluster.stop(NAMENODE)
        cluster.configure_namenode(repair=True)
        await cluster.start(NAMENODE)
        await cluster.wait_until_up(*cluster.datanodes)
        said = await until_it_says(cluster, lambda status, _: status == 0, "why", "/file")
        assert "1 chunk, all well" in said
        await until_it_says(cluster, sound, "fsck", "--data")


async def test_why_finds_a_damaged_copy_by_reading_it(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=3) as cluster, cluster.client() as fs:
        await store(cluster, file=os.urandom(MIB))
        chunk, nodes = await the_chunk(fs, "/file")
        with cluster.chunk_files(nodes[0])[f"{chunk:016x}"].open("r+b") as file:
            file.write(b"rot")
        assert (await dfs(cluster, "why", "/file"))[0] == 0
        status, said = await dfs(cluster, "why", "--data", "/file")
        assert status == 1
        assert f"{nodes[0]} up damaged" in said
        assert f"{nodes[0]} {FOUND_DAMAGED}" in said or f"{nodes[0]} {KNOWN_DAMAGED}" in said
        await until_it_says(cluster, lambda status, _: status == 0, "why", "--data", "/file")


async def test_fsck_repair_does_not_wait_for_a_report_to_replace_a_copy(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=4) as cluster, cluster.client() as fs:
        data = os.urandom(MIB)
        await store(cluster, file=data)
        _chunk, nodes = await the_chunk(fs, "/file")
        spare = ({"n1", "n2", "n3", "n4"} - set(nodes)).pop()
        cluster.stop(NAMENODE)
        database = sqlite3.connect(cluster.directory / NAMENODE / "namespace.sqlite")
        with database:  # a copy is counted on a node that never had it
            database.execute(
                "UPDATE replica SET node = (SELECT id FROM node WHERE name = ?) WHERE node = (SELECT id"
                " FROM node WHERE name = ?)",
                (spare, nodes[0]),
            )
        database.close()
        await cluster.start(NAMENODE)
        await cluster.wait_until_up(*cluster.datanodes)
        await until_it_says(cluster, lambda status, _: status == 0, "fsck", "--repair")
        await until_it_says(cluster, sound, "fsck")
        await until_it_says(cluster, lambda status, _: status == 0, "why", "/file")
        assert await get(fs, "/file") == data


async def test_a_damaged_index_is_made_anew_and_costs_no_file(tmp_path: Path) -> None:
    """Who trusts it takes a chunk that is in use for one that is not."""
    data = os.urandom(MIB)
    async with real_cluster(tmp_path, datanodes=3, garbage_grace_s=0.2) as cluster:
        await store(cluster, file=data)
        async with cluster.client() as fs:
            ino = (await fs.stat("/file")).ino
        await lose_row_of_index(cluster, "extent_by_chunk", "extent", f"ino = {ino}")
        says = "Index extent_by_chunk of the NameNode's tables does not agree with its table ("
        for arguments in (("fsck",), ("fsck", "--data")):
            status, said = await dfs(cluster, *arguments)
            assert status == 1 and said.startswith(says) and said.endswith("anew from the table.\n1 finding\n"), said
        status, said = await dfs(cluster, "fsck", "/file", "--repair")
        assert status == 0 and said.endswith("): made anew from its table.\n1 finding, all repaired\n"), said
        assert await dfs(cluster, "fsck", "--repair") == (0, "nothing wrong\n")
        async with cluster.client() as fs:
            assert await get(fs, "/file") == data


async def test_of_several_damaged_indexes_all_are_told(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=1, replicas=1, min_replicas=1) as cluster:
        await store(cluster, file=b"content")
        async with cluster.client() as fs:
            ino = (await fs.stat("/file")).ino
        await lose_row_of_index(cluster, "extent_by_chunk", "extent", f"ino = {ino}")
        await lose_row_of_index(cluster, "dentry_by_ino", "dentry", f"ino = {ino}")
        status, said = await dfs(cluster, "fsck")
        assert status == 1 and said.endswith("\n2 findings\n"), said
        assert [line.split()[1] for line in said.splitlines()[:2]] == ["dentry_by_ino", "extent_by_chunk"]


async def test_with_tables_that_were_damaged_nothing_is_removed_at_once(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=3, garbage_grace_s=0.2) as cluster:
        await store(cluster, file=os.urandom(MIB))
        await store(cluster, other=os.urandom(MIB))
        async with cluster.client() as fs:
            ino, other = (await fs.stat("/file")).ino, (await fs.stat("/other")).ino
            chunk, _nodes = await the_chunk(fs, "/file")
        await lose_row_of_index(cluster, "dentry_by_ino", "dentry", f"ino = {other}")
        await damage(cluster, f"DELETE FROM extent WHERE ino = {ino}")
        status, said = await dfs(cluster, "fsck", "--repair")
        assert status == 1 and "Index dentry_by_ino" in said, said
        assert (
            f"Chunk {chunk:x} is sealed and nothing points to it: its 1048576 bytes do not come back: the NameNode's"
            in said
        )
        status, said = await dfs(cluster, "fsck", "--repair")
        assert status == 0 and f"Chunk {chunk:x} is sealed" in said and "to be deleted" in said, said


async def test_a_database_that_is_damaged_as_a_file_is_neither_checked_nor_mended_further(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=1, replicas=1, min_replicas=1) as cluster:
        await store(cluster, file=os.urandom(MIB))
        await damage(
            cluster, "PRAGMA writable_schema = ON", "UPDATE sqlite_schema SET rootpage = 2 WHERE name = 'xattr'"
        )
        status, said = await dfs(cluster, "fsck", "--repair")
        assert status == 1 and said.startswith("The file of the NameNode's database is damaged ("), said
        assert said.endswith("): look at its disk, and bring back a copy of its state_dir.\n1 finding\n"), said


async def test_a_stray_is_deleted(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=3, garbage_grace_s=0.2) as cluster:
        await store(cluster, file=os.urandom(MIB))
        await store(cluster, other=os.urandom(MIB))
        async with cluster.client() as fs:
            chunk, _nodes = await the_chunk(fs, "/file")
            ino = (await fs.stat("/file")).ino
        # The NameNode forgets the file and its chunk, as if it never had them.
        await damage(
            cluster,
            f"DELETE FROM dentry WHERE ino = {ino}",
            f"DELETE FROM inode WHERE ino = {ino}",
            f"DELETE FROM extent WHERE ino = {ino}",
            f"DELETE FROM replica WHERE chunk = {chunk}",
            f"DELETE FROM chunk WHERE chunk = {chunk}",
            "UPDATE inode SET size = 1 WHERE ino = 1",
            "UPDATE counter SET value = value - 1 WHERE name IN ('files', 'inodes')",
            f"UPDATE counter SET value = value - {MIB} WHERE name = 'allocated'",
        )
        status, said = await dfs(cluster, "fsck", "--repair")
        assert status == 0, said
        assert said.count("which no file has bytes in: to be deleted.") == 3
        await until(lambda: _none_has(cluster, chunk), "the strays to be deleted")
        assert await dfs(cluster, "fsck") == (0, "nothing wrong\n")


async def _none_has(cluster: RealCluster, chunk: int) -> bool:
    return not any(f"{chunk:016x}" in cluster.chunk_files(node) for node in cluster.datanodes)


async def test_lost_data_is_told_with_its_files_and_never_mended_away(tmp_path: Path) -> None:
    async with real_cluster(
        tmp_path, datanodes=2, replicas=1, min_replicas=1, node_suspect_after_s=1.0, node_dead_after_s=2.0
    ) as cluster:
        await store(cluster, precious=os.urandom(MIB))
        async with cluster.client() as fs:
            chunk, (node,) = await the_chunk(fs, "/precious")
            cluster.kill(node)
            said = await until_it_says(cluster, lambda _, text: f"{node} is dead" in text, "fsck", "--repair")
            assert f"Chunk {chunk:x} has no whole copy that can be reached ({node} is dead)" in said
            assert f"{MIB} bytes of /precious cannot be read: start {node} again; else restore them" in said
            status, said = await dfs(cluster, "why", "/precious")
            assert status == 1
            assert f"{node} is dead, it has been silent for" in said
            assert f"No copy can be reached: start {node} again; else restore /precious, or delete it." in said
            await cluster.start(node)
            await until_it_says(cluster, sound, "fsck")


async def test_bytes_that_went_bad_are_found_by_reading_them(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=4) as cluster, cluster.client() as fs:
        data = os.urandom(MIB)
        await store(cluster, file=data)
        chunk, nodes = await the_chunk(fs, "/file")
        with cluster.chunk_files(nodes[0])[f"{chunk:016x}"].open("r+b") as file:
            file.seek(MIB // 2)
            file.write(b"rot")
        assert await dfs(cluster, "fsck") == (0, "nothing wrong\n")
        status, said = await dfs(cluster, "fsck", "--data", "--repair", "/")
        assert status == 0, said
        assert f"The copy of chunk {chunk:x} on {nodes[0]} does not give the bytes of /file" in said
        assert "its other copies serve reads, and it is mended from them." in said
        await until_it_says(cluster, sound, "fsck", "--data")
        await until_it_says(cluster, lambda status, _: status == 0, "why", "--data", "/")
        assert await get(fs, "/file") == data


async def test_copies_none_of_which_is_whole_are_not_dropped_for_one_another(tmp_path: Path) -> None:
    """One has lost its end, and another one is damaged where the first is right."""
    async with real_cluster(tmp_path, datanodes=2, replicas=2, repair=False) as cluster, cluster.client() as fs:
        data = os.urandom(4 * MIB)
        await store(cluster, file=data)
        number, _ = await the_chunk(fs, "/file")
        chunk = ChunkId(number)
        cluster.stop("n1")
        offline = ChunkStore(RealDisk(tmp_path / "n1"), None, RealRuntime(), 0)
        offline.open()
        await offline.cut(chunk, 2 * MIB)
        await offline.close()
        await cluster.start("n1")
        with cluster.chunk_files("n2")[f"{chunk:016x}"].open("r+b") as file:
            file.write(b"rot")
        _, said = await dfs(cluster, "fsck", "--data", "--repair", "/file")
        assert "its other copies serve reads, and they are mended from one another." in said
        assert (await the_chunk(fs, "/file"))[1] == ["n1", "n2"]
        assert await get(fs, "/file") == data


async def test_copies_on_a_node_that_does_not_answer_are_not_taken_for_damaged(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=4, node_suspect_after_s=40) as cluster, cluster.client() as fs:
        data = os.urandom(MIB)
        await store(cluster, file=data, other=data)
        chunk, nodes = await the_chunk(fs, "/file")
        cluster.kill(nodes[0])  # it counts as up for a while
        status, said = await dfs(cluster, "fsck", "--data", "--repair", "/")
        assert status == 1
        assert said.count(f"DataNode {nodes[0]} could not be asked for bytes of /") == 1  # not for each file
        assert "copy" not in said
        status, said = await dfs(cluster, "why", "--data", "/file")
        assert status == 1
        assert f"{nodes[0]} counts as up and did not answer" in said
        await cluster.start(nodes[0])
        assert await the_chunk(fs, "/file") == (chunk, nodes)
        await until_it_says(cluster, sound, "fsck", "--data")


async def test_why_says_what_keeps_a_copy_from_being_made(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=3, node_suspect_after_s=1.0, node_dead_after_s=2.0) as cluster:
        await store(cluster, file=os.urandom(MIB), empty=b"")
        assert await dfs(cluster, "why", "/empty") == (0, "/empty has no data, so there are no copies of it\n")
        status, said = await dfs(cluster, "why", "/file")
        assert status == 0, said
        assert said.count("whole") == 3
        cluster.kill("n2")
        said = await until_it_says(cluster, lambda _, text: "n2 is dead" in text, "why", "/file")
        assert "n2 is dead, it has been silent for" in said
        assert "No copy can be made: no other DataNode is up; 3 are needed, start or add one." in said
        status, said = await dfs(cluster, "why", "/")
        assert status == 1
        assert said.startswith("/file:\n")
        assert "2 files, chunks of 1.0M" in said
        assert "1 chunk, 1 not well" in said
        (record,) = json.loads((await dfs(cluster, "why", "--json", "/"))[1])
        assert record["path"] == "/file"
        conditions: dict[str, Any] = {copy["node"]: copy["condition"] for copy in record["copies"]}
        assert conditions == {"n1": "whole", "n2": "unknown", "n3": "whole"}


async def test_a_chunk_with_too_few_copies_is_left_if_no_node_can_take_it_and_not_while_it_is_copied(
    tmp_path: Path,
) -> None:
    async with real_cluster(tmp_path, datanodes=4, copy_bandwidth=64 * limits.KIB) as cluster:
        await store(cluster, file=os.urandom(4 * MIB))
        await store(cluster, other=os.urandom(MIB))
        await dfs(cluster, "replicas", "/file", "4")
        said = await until_it_says(cluster, lambda _, text: "a copy is being made" in text, "fsck")
        assert "(/file) has 3 of 4 copies: a copy is being made on n" in said
        assert said.endswith("\n1 finding, all being repaired\n")
        assert await dfs(cluster, "fsck", "/other") == (0, "nothing wrong\n")
        status, said = await dfs(cluster, "fsck", "--json", "/file")
        (finding,) = json.loads(said)
        assert (status, finding["kind"]) == (0, "copies-coming")
        await dfs(cluster, "replicas", "/file", "5")
        said = await until_it_says(cluster, lambda status, _: status == 1, "fsck")
        assert "(/file) has 3 of 5 copies: no copy can be made: no other DataNode is up; 5 are needed" in said
        assert said.endswith("\n1 finding\n")
        status, said = await dfs(cluster, "fsck", "--json", "/")
        (finding,) = json.loads(said)
        assert (status, finding["kind"]) == (1, "copies-few")


async def test_why_tells_of_a_chunk_once_however_many_files_share_it(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=3, node_suspect_after_s=1.0, node_dead_after_s=2.0) as cluster:
        await store(cluster, **{f"small{number}": bytes(1000) for number in range(20)})
        async with cluster.client() as fs:
            chunk, _ = await the_chunk(fs, "/small7")
        well = "20 files, chunks of 20K\n1 chunk, all well"
        unread = " (`--data` reads them as well)"
        assert await dfs(cluster, "why", "/") == (0, f"{well}{unread}\n")
        assert await dfs(cluster, "why", "--data", "/") == (0, f"{well}\n")
        (record,) = json.loads((await dfs(cluster, "why", "--json", "/"))[1])
        assert record["chunk"] == chunk
        cluster.kill("n2")
        said = await until_it_says(cluster, lambda _, text: "n2 is dead" in text, "why", "/")
        assert said.count(f"chunk {chunk:x}, first at 0: 20000 bytes, 2 of 3 copies") == 1
        assert said.endswith("\n1 chunk, 1 not well\n")


async def test_why_tells_of_damage_to_any_of_the_files_that_share_a_chunk(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=3) as cluster, cluster.client() as fs:
        await store(cluster, first=bytes(limits.BLOCK_MAX_BYTES), second=bytes(limits.BLOCK_MAX_BYTES))
        chunk, _ = await the_chunk(fs, "/second")
        with cluster.chunk_files("n1")[f"{chunk:016x}"].open("r+b") as file:
            file.seek(limits.BLOCK_MAX_BYTES + 7)
            file.write(b"rot")
        status, said = await dfs(cluster, "why", "--data", "/")
        assert status == 1
        assert said.startswith("/second:\n")
        assert said.endswith("\n1 chunk, 1 not well\n")


async def test_only_what_is_beneath_a_path_is_looked_at(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=3) as cluster:
        async with cluster.client() as fs:
            for name in ("good", "bad"):
                await fs.mkdir(f"/{name}")
                await put(fs, f"/{name}/file", os.urandom(1000))
            bad = (await fs.stat("/bad/file")).ino
        await damage(cluster, f"UPDATE inode SET nlink = 9 WHERE ino = {bad}")
        assert await dfs(cluster, "fsck", "/good") == (0, "nothing wrong\n")
        status, said = await dfs(cluster, "fsck", "--json", "/bad")
        assert status == 1
        (finding,) = json.loads(said)
        assert finding["what"] == "/bad/file has 9 links and 1 name"
        assert (await dfs(cluster, "fsck", "--repair", "/bad"))[0] == 0
        assert await dfs(cluster, "fsck") == (0, "nothing wrong\n")


async def test_a_cluster_in_use_is_sound_at_every_moment(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=4, garbage_grace_s=0.1) as cluster, cluster.client() as fs:
        rounds = 0

        async def work(name: str) -> None:
            while True:
                await put(fs, f"/{name}", os.urandom(300_000), replace=True)
                await fs.mkdir(f"/d{name}", exist_ok=True)
                await fs.rename(f"/{name}", f"/d{name}/moved")
                await fs.remove_tree(f"/d{name}")

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(work, str(number))
            with trio.fail_after(PATIENCE_S * 2):
                while rounds < 15:
                    assert [str(finding) async for finding in fs.fsck()] == []
                    assert [str(finding) async for finding in fs.fsck("/", data=True)] == []
                    rounds += 1
            nursery.cancel_scope.cancel()
