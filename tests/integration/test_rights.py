"""Attacks by who has a key: on what his key does not allow, at NameNode and DataNodes, with hand-made messages."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dfs import codec, errors, grants, limits
from dfs.checksum import sum_blocks
from dfs.client import open_filesystem
from dfs.client.openinode import open_inodes
from dfs.client.session import NAMENODE_OBJECT
from dfs.grants import APPEND
from dfs.keys import Key, Masters, Role
from dfs.rpc import Pool, SocketNetwork
from dfs.types import ROOT_INO, ChunkPlace, Ino
from tests.cluster import running_cluster
from tests.integration.real import RealCluster, lasting_cluster, make_as_new, until
from tests.keys import ADMIN, CLIENT, MASTERS, READER

BOB = MASTERS.issue(Role.CLIENT, "bob")
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
        return await self._pool.call(address, f"dfs.datanode.{node}", method, *args, data=data)

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
        _, _, ((_, _, _, grant),) = await wire.namenode("extents", await ino_of(cluster, "/file"), 0, 10)
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
                await fs.nodes_known.read_into(place.nodes[0], place.chunk, 0, view, place.grant)
            except errors.GrantExpired:
                return True
            return False

        await until(is_over)
        assert bytes(await inode.read(90_000, 10)) == DATA[90_000:90_010]
        await inode.write(len(DATA), b"more")
        await inode.fsync()
        async with await fs.open("/file") as file:
            assert await file.pread(2 * len(DATA), 0) == DATA + b"more"
        assert fs.statistics()["writer"]["struck"] == fs.statistics()["nodes"]["failures"] == 0
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
                        ("events", (session, 0)),
                        ("close_session", (session,)),
                    ):
                        with pytest.raises(errors.NotPermitted, match="another key"):
                            await other.namenode(method, *args)
            async with by_hand(cluster, BOB) as other:
                with pytest.raises(errors.NotPermitted, match="another key"):
                    await other.namenode("allocate", session, 0, 9, 1, 2, [], "")
        ((errno, *_),) = await wire.apply(session, [2, "rmdir", [ROOT_INO, b"mine"]])
        assert errno == 0
