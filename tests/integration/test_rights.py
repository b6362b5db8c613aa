"""Attacks by who has a key: on what his key does not allow, at NameNode and DataNodes, with hand-made messages."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio

from dfs import codec, errors, grants, limits
from dfs.checksum import sum_blocks
from dfs.client import FileSystem, open_filesystem, virtual
from dfs.client.openinodes import open_inodes
from dfs.client.spans import Span
from dfs.grants import APPEND
from dfs.keys import Key, Masters, Role
from dfs.rpc import Pool, SocketNetwork
from dfs.types import NAMENODE_OBJECT, ROOT_INO, ChunkPlace, Ino
from tests.cluster import running_cluster
from tests.forked import as_text, run_dfs
from tests.integration.real import RealCluster, lasting_cluster, make_as_new, until
from tests.keys import ADMIN, CLIENT, MASTERS, READER

BOB = MASTERS.issue(Role.CLIENT, "bob")
LIMITED = MASTERS.issue(Role.CLIENT, "limited", {"subtree": "/home/alice"})
LIMITED_READER = MASTERS.issue(Role.READER, "limited", {"subtree": "/home/alice"})
DATA = os.urandom(100_000)


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    with lasting_cluster(tmp_path_factory.mktemp("cluster"), datanodes=2, replicas=2) as made:
        yield made


@pytest.fixture
async def cluster(lasting: RealCluster) -> RealCluster:
    await make_as_new(lasting)
    return lasting


class Wire:
    """Calls by hand, with a key."""

    def __init__(self, cluster: RealCluster, pool: Pool) -> None:
        self._cluster = cluster
        self._pool = pool

    async def namenode(self, method: str, *args: Any) -> Any:
        return await self._pool.call(self._cluster.namenode_address, NAMENODE_OBJECT, method, *args)

    async def datanode(self, node: str, method: str, *args: Any, data: bytes | None = None) -> Any:
        address = self._cluster.addresses[node]
        blocks = None if data is None else [data]
        result, _ = await self._pool.call_with_data(address, f"dfs.datanode.{node}", method, *args, data=blocks)
        return result

    async def read(self, place: ChunkPlace, grant: Any) -> Any:
        return await self.datanode(place.nodes[0], "read", place.chunk, 0, min(place.length, 1000), grant)

    async def append(self, place: ChunkPlace, data: bytes, grant: Any) -> Any:
        blocks = codec.pack_blocks(sum_blocks(data))
        return await self.datanode(place.nodes[0], "append", place.chunk, place.length, blocks, grant, data=data)

    async def apply(self, session: int, *commands: list[Any]) -> list[Any]:
        return list(await self.namenode("apply", session, 0, list(commands)))

    async def open_session(self) -> int:
        return int((await self.namenode("open_session", {"name": "by hand", "host": "here"}))["session"])


@asynccontextmanager
async def by_hand(cluster: RealCluster, key: Key) -> AsyncIterator[Wire]:
    async with Pool(SocketNetwork(), key=key) as pool:
        yield Wire(cluster, pool)


async def written(cluster: RealCluster, path: str, data: bytes = DATA) -> ChunkPlace:
    """A file with these bytes, and where they are, as an admin sees it."""
    async with cluster.client() as fs:
        await fs.mkdir(str(Path(path).parent), parents=True, exist_ok=True)
        async with await fs.open(path, "w") as file:
            await file.pwrite(data, 0)
        (place,) = await fs.replicas(path)
    return place


async def content(cluster: RealCluster, path: str) -> bytes:
    async with cluster.client() as fs, await fs.open(path) as file:
        return await file.pread(10 * len(DATA), 0)


# --- grants -----------------------------------------------------------------------------------------------


async def test_the_number_of_a_chunk_is_of_no_use(cluster: RealCluster) -> None:
    place = await written(cluster, "/file")
    now_s = int(time.time())
    stranger = Masters.make()
    for key in (CLIENT, READER):
        forged = [
            b"",
            None,
            bytes(grants.GRANT_BYTES),
            grants.make(stranger, key.id, place.chunk, APPEND, now_s + 60),
            grants.make(MASTERS, BOB.id, place.chunk, APPEND, now_s + 60),
            grants.make(MASTERS, key.id, type(place.chunk)(place.chunk + 1), APPEND, now_s + 60),
        ]
        async with by_hand(cluster, key) as wire:
            for grant in forged:
                with pytest.raises(errors.NotPermitted):
                    await wire.read(place, grant)
                with pytest.raises(errors.NotPermitted):
                    await wire.append(place, b"x", grant)
                with pytest.raises(errors.NotPermitted):
                    await wire.datanode(place.nodes[0], "sync", [place.chunk], [grant])
            with pytest.raises(errors.NotPermitted):
                await wire.datanode(place.nodes[0], "sync", [place.chunk])
    assert await content(cluster, "/file") == DATA


async def test_a_grant_for_reading_is_not_one_for_writing(cluster: RealCluster) -> None:
    place = await written(cluster, "/file")
    async with by_hand(cluster, CLIENT) as wire:
        _, _, ((_, _, _, grant),), _ = await wire.namenode("extents", await ino_of(cluster, "/file"), 0, 10)
        await wire.read(place, grant)
        with pytest.raises(errors.NotPermitted, match="not appending"):
            await wire.append(place, b"x", grant)
    assert await content(cluster, "/file") == DATA


async def test_an_expired_grant_is_refused_as_such(cluster: RealCluster) -> None:
    place = await written(cluster, "/file")
    old = grants.make(MASTERS, CLIENT.id, place.chunk, APPEND, int(time.time()) - 1)
    async with by_hand(cluster, CLIENT) as wire:
        with pytest.raises(errors.GrantExpired):
            await wire.read(place, old)
        with pytest.raises(errors.GrantExpired):
            await wire.append(place, b"x", old)


async def test_grants_are_renewed_for_chunks_that_the_session_has_open(cluster: RealCluster) -> None:
    place = await written(cluster, "/file")
    async with by_hand(cluster, CLIENT) as wire:
        session = await wire.open_session()
        ((chunk, nodes, _),) = await wire.namenode("allocate", session, 0, 1, 1, 2, [], "")
        fresh, none = await wire.namenode("renew_grants", session, [chunk, place.chunk])
        assert none == b""
        await wire.append(ChunkPlace(chunk, 0, tuple(nodes)), b"mine", fresh)
    async with by_hand(cluster, BOB) as wire:
        with pytest.raises(errors.NotPermitted):
            await wire.namenode("renew_grants", session, [chunk])
        with pytest.raises(errors.NotPermitted):
            await wire.read(ChunkPlace(chunk, 4, tuple(nodes)), fresh)


async def test_users_never_see_that_a_grant_expired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is read and written with grants that are over a moment after they were given."""
    monkeypatch.setattr(limits, "GRANT_VALID_S", 1)
    async with (
        running_cluster(tmp_path, datanodes=2, replicas=2) as cluster,
        open_filesystem(cluster.namenode_address, CLIENT) as fs,
        open_inodes(fs) as inodes,
    ):
        inode = inodes.open(await fs.inodes.create(ROOT_INO, b"file", 0o644, 0, 0, hold=True), "file")
        await inode.write(0, DATA)
        await inode.fsync()
        (place,) = await fs.replicas("/file")
        assert bytes(await inode.read(50_000, 10)) == DATA[50_000:50_010]  # from here on it knows where the bytes are
        view = memoryview(bytearray(10))

        async def is_over() -> bool:
            try:
                await fs.nodes_known.read_into(place.nodes[0], place.chunk, [Span(0, 10)], view, place.grant)
            except errors.GrantExpired:
                return True
            return False

        await until(is_over)
        assert bytes(await inode.read(90_000, 10)) == DATA[90_000:90_010]
        await inode.write(len(DATA), b"more")
        await inode.fsync()
        async with await fs.open("/file") as file:
            assert await file.pread(2 * len(DATA), 0) == DATA + b"more"
        assert fs.statistics()["nodes"]["failures"] == 0
        inodes.close(inode)


async def ino_of(cluster: RealCluster, path: str) -> Ino:
    async with cluster.client() as fs:
        return (await fs.stat(path, follow=False)).ino


# --- sessions ---------------------------------------------------------------------------------------------


async def test_a_session_of_another_key_is_not_to_be_used(cluster: RealCluster) -> None:
    async with by_hand(cluster, CLIENT) as wire:
        session = await wire.open_session()
        await wire.apply(session, [1, "mkdir", [ROOT_INO, b"mine", 0o755, 0, 0]])
        for restart in (False, True):
            if restart:
                cluster.kill("namenode")
                await cluster.start("namenode")
                await cluster.wait_until_up(*cluster.datanodes)
            for key in (BOB, READER, ADMIN):
                async with by_hand(cluster, key) as other:
                    for method, args in (
                        ("apply", (session, 0, [[9, "hold", [ROOT_INO]]])),
                        ("events", (session, 0, 0)),
                        ("close_session", (session,)),
                    ):
                        with pytest.raises(errors.NotPermitted, match="another key"):
                            await other.namenode(method, *args)
            async with by_hand(cluster, BOB) as other:
                with pytest.raises(errors.NotPermitted, match="another key"):
                    await other.namenode("allocate", session, 0, 9, 1, 2, [], "")
        ((errno, *_),) = await wire.apply(session, [2, "rmdir", [ROOT_INO, b"mine"]])
        assert errno == 0


# --- keys that only read ----------------------------------------------------------------------------------


async def test_a_reader_writes_nothing_whatever_it_sends(cluster: RealCluster) -> None:
    place = await written(cluster, "/file")
    ino = await ino_of(cluster, "/file")
    async with by_hand(cluster, READER) as wire:
        session = await wire.open_session()
        for command in (
            [1, "unlink", [ROOT_INO, b"file"]],
            [1, "truncate", [ino, 0]],
            [1, "setattr", [ino, {"mode": 0}]],
            [1, "setxattr", [ino, b"user.x", b"y"]],
            [1, "commit", [ino, [], []]],
            [1, "mend_inode", [ino]],
            [1, "allocate_chunks", [1, [["n1"]]]],
            [1, "end_session", [1]],
        ):
            with pytest.raises(errors.NotPermitted):
                await wire.apply(session, command)
            with pytest.raises(errors.NotPermitted):
                await wire.apply(session, [1, "hold", [ino]], command)
        for method in ("allocate", "renew_grants"):
            with pytest.raises(errors.NotPermitted):
                await wire.namenode(method, session, [place.chunk])
        _, _, ((*_, grant),), _ = await wire.namenode("extents", ino, 0, 10)
        await wire.read(place, grant)
        for shown in (grant, grants.make(MASTERS, READER.id, place.chunk, APPEND, int(time.time()) + 60)):
            with pytest.raises(errors.NotPermitted):
                await wire.append(place, b"x", shown)
    assert await content(cluster, "/file") == DATA


# --- keys that are limited to a subtree -------------------------------------------------------------------


class Homes(NamedTuple):
    """/home/alice and /home/bob, with a file of the same name in each, and where bob's bytes are."""

    alice: Ino
    bob: Ino
    secret: Ino
    place: ChunkPlace


@pytest.fixture
async def homes(cluster: RealCluster) -> Homes:
    await written(cluster, "/home/alice/file", b"alice's")
    place = await written(cluster, "/home/bob/file", b"bob's")
    async with cluster.client() as fs:
        await fs.inodes.setxattr((await fs.stat("/home/bob/file")).ino, b"user.secret", b"x")
    paths = ("/home/alice", "/home/bob", "/home/bob/file")
    return Homes(*[await ino_of(cluster, path) for path in paths], place)


@asynccontextmanager
async def limited(cluster: RealCluster, key: Key = LIMITED) -> AsyncIterator[FileSystem]:
    async with open_filesystem(cluster.namenode_address, key) as fs:
        yield fs


async def test_the_subtree_is_a_whole_file_system(cluster: RealCluster, homes: Homes) -> None:
    async with limited(cluster) as fs:
        assert (await fs.stat("/")).ino == homes.alice
        assert [entry.name for entry in await fs.listdir("/")] == [b"file"]
        await fs.mkdir("/a/b", parents=True)
        async with await fs.open("/a/b/new", "w") as file:
            await file.pwrite(DATA, 0)
            await file.fsync()
        await fs.symlink("/a/b", "/to-b")
        async with await fs.open("/to-b/new") as file:
            assert await file.pread(len(DATA), 0) == DATA
        await fs.rename("/a/b/new", "/new")
        await fs.link("/new", "/a/other")
        assert (await fs.summarize("/"))["files"] == 3  # one is the symbolic link; a second name adds none
        assert (await fs.statfs()).capacity_bytes and len(await fs.nodes()) == 2
    assert await content(cluster, "/home/alice/new") == DATA
    async with limited(cluster, LIMITED_READER) as fs:
        async with await fs.open("/a/other") as file:
            assert await file.pread(len(DATA), 0) == DATA
        with pytest.raises(errors.NotPermitted):
            await fs.remove("/a/other")


async def test_no_path_leads_out(cluster: RealCluster, homes: Homes) -> None:
    async with limited(cluster) as fs:
        await fs.symlink("../../bob/file", "/up")
        await fs.symlink("/home/bob/file", "/down")
        await fs.symlink("..", "/dots")
        for path in (
            "/../bob/file",
            "/../../home/bob/file",
            "../bob/file",
            "/file/../../bob/file",
            "/dots/../bob/file",
            "/dots/bob/file",
            "/up",
            "/down",
            "/home/bob/file",
            "/\u2025/bob/file",
        ):
            with pytest.raises(errors.NotFound):
                await fs.stat(path)
            with pytest.raises(errors.DfsError):
                await fs.open(path)
        for path in ("/..", "/../..", "/dots", "/dots/.."):
            assert (await fs.stat(path)).ino == homes.alice


async def test_no_inode_number_leads_out(cluster: RealCluster, homes: Homes) -> None:
    for key in (LIMITED, LIMITED_READER):
        async with by_hand(cluster, key) as wire:
            assert (await wire.namenode("cluster"))["root"] == homes.alice
            assert (await wire.namenode("parent", homes.alice))[0] == homes.alice
            for method, args in (
                ("getattr", (homes.secret,)),
                ("lookup", (homes.bob, b"file")),
                ("lookup", (ROOT_INO, b"home")),
                ("walk", (ROOT_INO, [b"home", b"bob", b"file"])),
                ("readdir", (homes.bob, 0, 10)),
                ("readdir", (ROOT_INO, 0, 10)),
                ("parent", (homes.bob,)),
                ("readlink", (homes.secret,)),
                ("getxattr", (homes.secret, b"user.secret")),
                ("listxattr", (homes.secret,)),
                ("extents", (homes.secret, 0, 10)),
                ("summarize", (homes.bob,)),
                ("summarize", (ROOT_INO,)),
            ):
                with pytest.raises(errors.NotFound):
                    await wire.namenode(method, *args)


@pytest.mark.parametrize("name", [b"..", b".", b"../bob", b"../bob/file", b"/home/bob", b"", b"x/../..", b"..\0"])
async def test_no_name_leads_out(cluster: RealCluster, homes: Homes, name: bytes) -> None:
    async with by_hand(cluster, LIMITED) as wire:
        session = await wire.open_session()
        for method, args in (("lookup", (homes.alice, name)), ("walk", (homes.alice, [name]))):
            with pytest.raises(errors.InvalidArgument):
                await wire.namenode(method, *args)
        replies = await wire.apply(
            session,
            [1, "mkdir", [homes.alice, name, 0o755, 0, 0]],
            [2, "rename", [homes.alice, b"file", homes.alice, name]],
            [3, "unlink", [homes.alice, name]],
        )
        assert {code for _, code, _ in replies} == {"InvalidArgument"}
    assert await content(cluster, "/home/bob/file") == b"bob's"


async def test_no_command_reaches_out(cluster: RealCluster, homes: Homes) -> None:
    alice, bob, secret, place = homes
    mine = await ino_of(cluster, "/home/alice/file")
    async with by_hand(cluster, LIMITED) as wire:
        session = await wire.open_session()
        refused = await wire.apply(
            session,
            [1, "link", [secret, alice, b"stolen"]],
            [2, "link", [mine, bob, b"planted"]],
            [3, "rename", [bob, b"file", alice, b"stolen"]],
            [4, "rename", [alice, b"file", bob, b"file"]],
            [5, "rename", [alice, b"file", bob, b"file", 2]],
            [6, "rename", [bob, b"file", alice, b"file", 2]],
            [7, "setxattr", [secret, b"user.x", b"y"]],
            [8, "unlink", [bob, b"file"]],
            [9, "truncate", [secret, 0]],
            [10, "hold", [secret]],
            [11, "create", [bob, b"file", 0o644, 0, 0, False, True]],
        )
        assert {reply[1] for reply in refused} == {"NotFound"}
        ((_, code, _),) = await wire.apply(
            session, [12, "commit", [mine, [[0, 5, place.chunk, 0]], [[place.chunk, 5, place.nodes]]]]
        )
        assert code == "ChunkSealed"
    assert await content(cluster, "/home/bob/file") == b"bob's"
    assert await content(cluster, "/home/alice/file") == b"alice's"


async def test_the_rest_of_the_cluster_is_not_told_of(cluster: RealCluster, homes: Homes) -> None:
    async with by_hand(cluster, LIMITED) as wire:
        for method, args in (
            ("status", ()),
            ("explain", ([homes.place.chunk],)),
            ("chunks", (0, 10)),
            ("check", (None,)),
        ):
            with pytest.raises(errors.NotPermitted):
                await wire.namenode(method, *args)
        for method, args in (("status", ()), ("list_chunks", (0, 10)), ("read_blocks", (homes.place.chunk, 0, 1))):
            with pytest.raises(errors.NotPermitted):
                await wire.datanode("n1", method, *args)
        with pytest.raises(errors.NotPermitted):
            await wire.read(homes.place, b"")
        wide = grants.make(MASTERS, LIMITED.id._replace(claims=()), homes.place.chunk, APPEND, int(time.time()) + 60)
        with pytest.raises(errors.NotPermitted):
            await wire.read(homes.place, wide)


async def test_what_lies_beside_his_files_in_their_chunks_is_not_given(cluster: RealCluster, homes: Homes) -> None:
    async with cluster.client() as fs:
        for path, data in (("/home/bob/1", b"bob's"), ("/home/alice/2", b"alice's"), ("/home/bob/3", b"bob's too")):
            async with await fs.open(path, "w") as file:
                await file.pwrite(data, 0)
        (theirs,), (hers,) = [await fs.replicas(path) for path in ("/home/bob/1", "/home/alice/2")]
        assert theirs.chunk == hers.chunk, "they share one"
    ino = await ino_of(cluster, "/home/alice/2")
    for key in (LIMITED, LIMITED_READER):
        async with by_hand(cluster, key) as wire:
            _, [(_, size, chunk, start)], [(_, _, nodes, grant)], _ = await wire.namenode("extents", ino, 0, 100)
            _, [(_, _, _, at_once)] = await wire.namenode("whole_files", [ino])
            for shown in (grant, at_once):
                assert await wire.datanode(nodes[0], "read", chunk, start, size, shown)
                for first, length in (
                    (0, 1),
                    (start - 1, size),
                    (start, size + 1),
                    (start + size, 1),
                    (0, start + size),
                ):
                    with pytest.raises(errors.NotPermitted, match="other bytes"):
                        await wire.datanode(nodes[0], "read", chunk, first, length, shown)
                    ranges = codec.pack_ranges([(start, size), (first, length)])
                    with pytest.raises(errors.NotPermitted, match="other bytes"):
                        await wire.datanode(nodes[0], "read_ranges", chunk, ranges, shown)
                with pytest.raises(errors.NotPermitted, match="not lent"):
                    await wire.datanode(nodes[0], "lend", chunk, shown, "inbox", b"ticket")
        async with limited(cluster, key) as fs, await fs.open("/2") as file:
            assert await file.pread(100, 0) == b"alice's"


async def test_a_file_in_many_pieces_is_read_with_as_many_grants_as_it_takes(
    cluster: RealCluster, homes: Homes
) -> None:
    """Every second page in the chunk is of somebody else's file."""
    mine, others = random.Random(1).randbytes(300 * 4096), bytes(4096)
    async with cluster.client() as fs:
        async with await fs.open("/home/alice/pieces", "w") as file, await fs.open("/home/bob/pieces", "w") as other:
            for start in range(0, len(mine), 4096):
                await file.pwrite(mine[start : start + 4096], start)
                await other.pwrite(others, start)
        assert len((await fs.inodes.layout((await fs.stat("/home/alice/pieces")).ino, 0, len(mine))).extents) == 300
    async with limited(cluster) as fs:
        async with await fs.open("/pieces", "r+") as file:
            assert await file.pread(len(mine), 0) == mine
            assert await file.pread(10_000, 150 * 4096 - 5_000) == mine[150 * 4096 - 5_000 : 150 * 4096 + 5_000]
            await file.fsync()
            layout = await fs.inodes.layout(file.ino, 5 * 4096, len(mine))
            assert (len(layout.extents), layout.end) == (limits.GRANT_RANGES_MAX, (5 + limits.GRANT_RANGES_MAX) * 4096)
        attr = await fs.stat("/pieces")
        assert len((await virtual.read(fs, attr, b"dfs.chunks")).splitlines()) == 300
        chunks = {extent.chunk for extent in layout.extents}
        assert len((await virtual.read(fs, attr, b"dfs.replicas")).splitlines()) == len(chunks)


async def test_a_claim_cannot_be_widened(cluster: RealCluster, homes: Homes) -> None:
    for claims in ((), (("subtree", "/"),), (("subtree", "/home"),)):
        with pytest.raises(errors.Refused, match="not of this cluster"):
            async with limited(cluster, LIMITED._replace(id=LIMITED.id._replace(claims=claims))):
                pass


async def test_a_file_with_a_name_inside_may_be_read(cluster: RealCluster, homes: Homes) -> None:
    async with cluster.client() as admin, limited(cluster) as fs:
        await admin.link("/home/bob/file", "/home/alice/shared")
        async with await fs.open("/shared") as file:
            assert await file.pread(100, 0) == b"bob's"
            await admin.remove("/home/alice/shared")
            with pytest.raises(errors.NotFound):
                await file.pread(100, 0)


async def test_what_is_moved_out_while_in_use_is_gone(cluster: RealCluster, homes: Homes) -> None:
    async with cluster.client() as admin, limited(cluster) as fs:
        await fs.mkdir("/d")
        async with await fs.open("/d/file", "w+") as file:
            await file.pwrite(b"before", 0)
            await admin.rename("/home/alice/d", "/home/bob/d")
            for attempt in (
                file.pread(10, 0),
                file.stat(),
                file.pwrite(b"after", 0),
                file.truncate(0),
                fs.stat("/d"),
            ):
                with pytest.raises(errors.NotFound):
                    await attempt
            async with await admin.open("/home/bob/d/file", "w") as other:
                await other.pwrite(b"private", 0)
            await admin.remove("/home/bob/d/file")
            with pytest.raises(errors.NotFound):
                await file.pread(10, 0)


async def test_an_open_file_outlives_its_name(cluster: RealCluster, homes: Homes) -> None:
    async with limited(cluster) as fs, await fs.open("/file", "r+") as file:
        await fs.remove("/file")
        await file.pwrite(b"still", 0)
        assert await file.pread(5, 0) == b"still"


async def test_a_directory_that_is_not_there_is_said_so(cluster: RealCluster) -> None:
    with pytest.raises(errors.NotFound, match="/home/alice does not exist"):
        async with limited(cluster):
            pass


def test_keys_for_subtrees_are_made_from_the_command_line(lasting: RealCluster, tmp_path: Path) -> None:
    def dfs(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "DFS_CONFIG": str(tmp_path / "client.toml")}
        return as_text(run_dfs(*arguments, environment=environment, directory=tmp_path))

    (tmp_path / "client.toml").write_text(f'namenode = "{lasting.namenode_address}"\nkey = "guest.key"\n')
    trio.run(written, lasting, "/photos/2026/one", b"a picture")
    masters = ("--keys", str(lasting.directory / "cluster.keys"))
    assert dfs("key", "add", "guest", "--role", "reader", "--subtree", "/photos//2026/", *masters).returncode == 0
    assert (
        dfs("key", "show", "guest.key").stdout
        == "guest.key: the key of reader guest, generation 1, for /photos/2026 only\n"
    )
    assert dfs("ls", "/").stdout.split() == ["one"]
    assert dfs("cat", "/one").stdout == "a picture"
    nodes = dfs("nodes")
    assert (nodes.returncode, nodes.stderr) == (0, "")
    assert [line.split()[:2] for line in nodes.stdout.splitlines()[1:]] == [["n1", "up"], ["n2", "up"]]
    assert {each["busy"] == {} for each in json.loads(dfs("nodes", "--json").stdout)} == {True}
    missing = dfs("ls", "/photos")
    assert missing.returncode == 1 and "no such file" in missing.stderr
    for wrong in ("photos", "/", "/a/../b", ""):
        refused = dfs("key", "add", "other", "--subtree", wrong, *masters)
        assert refused.returncode == 1 and "--subtree is the absolute path" in refused.stderr
    for wrong in ("photos", "/", "/a/../b"):
        refused = dfs("join", "token", "--role", "reader", "--subtree", wrong, *masters)
        assert refused.returncode == 1 and "--subtree is the absolute path" in refused.stderr
    node = dfs("key", "add", "n9", "--role", "node", "--subtree", "/photos", *masters)
    assert node.returncode == 2 and "holds a client or a reader to a directory" in node.stderr
