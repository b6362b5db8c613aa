"""Extended attributes: who asks for those of one file is told of those beside it, and nobody is told what was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import pytest
import trio

from dfs import errors, limits
from dfs.client import FileSystem
from dfs.client.cache import Cache
from dfs.types import Ino
from nodes.namenode.namespace import Namespace
from tests.cluster import running_cluster
from tests.integration.test_owned_directories import count_questions

_FILES: Final = 20
_PATIENCE_S: Final = 60


class _Shared(NamedTuple):
    """Files of one directory, in the order of its listing, and two clients that cache."""

    top: Ino
    inos: list[Ino]
    clients: list[FileSystem]

    async def listed(self) -> FileSystem:
        """The second client, which has listed the directory."""
        await self.clients[1].inodes.readdir(self.top)
        return self.clients[1]


@asynccontextmanager
async def files(directory: Path) -> AsyncIterator[_Shared]:
    """Of every fifth one the first client has set an extended attribute."""
    async with running_cluster(directory, datanodes=0) as cluster, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(cluster.client(cache=Cache(10_000, 10_000))) for _ in range(2)]
        with trio.fail_after(_PATIENCE_S):
            fs = clients[0]
            top = await fs.mkdir("/top")
            inos = [(await fs.inodes.create(top.ino, b"%02d" % number, 0o644, 0, 0)).ino for number in range(_FILES)]
            for ino in inos:
                await fs.inodes.setattr(ino, {"mode": 0o600})  # or it is known to be new, and so to have none
            for ino in inos[::5]:
                await fs.inodes.setxattr(ino, b"user.k", b"%d" % ino)
            await fs.session.stream.flush()
            yield _Shared(top.ino, inos, clients)


async def found_by(fs: FileSystem, inos: list[Ino]) -> dict[Ino, bytes]:
    found = {}
    for ino in inos:
        for name in await fs.inodes.listxattr(ino):
            found[ino] = await fs.inodes.getxattr(ino, name)
    return found


async def test_those_of_a_directorys_files_are_fetched_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with files(tmp_path) as shared:
        fs = await shared.listed()
        asked = count_questions(fs, monkeypatch)
        assert await found_by(fs, shared.inos) == {ino: b"%d" % ino for ino in shared.inos[::5]}
        assert asked == {"leased_xattrs_of": 1}


async def test_what_is_set_elsewhere_afterwards_is_seen(tmp_path: Path) -> None:
    async with files(tmp_path) as shared:
        fs = await shared.listed()
        await found_by(fs, shared.inos)
        changed, gone = shared.inos[7], shared.inos[5]
        await shared.clients[0].inodes.setxattr(changed, b"user.k", b"new")
        await shared.clients[0].inodes.removexattr(gone, b"user.k")
        assert await fs.inodes.getxattr(changed, b"user.k") == b"new"
        assert await fs.inodes.listxattr(gone) == []


async def test_of_what_somebody_else_changes_nothing_is_told_on_account_of_another_file(tmp_path: Path) -> None:
    async with files(tmp_path) as shared:
        fs, inos = await shared.listed(), shared.inos
        owner = shared.clients[0]
        assert await owner.inodes.own(inos[1]) is not None
        having, untold = await fs.session.leased_query("leased_xattrs_of", inos[:3])
        assert [ino for ino, _ in having] == [inos[0]]
        assert untold == [inos[1]]
        await owner.inodes.setxattr(inos[1], b"user.k", b"of its owner")
        assert await fs.inodes.getxattr(inos[0], b"user.k")
        assert await fs.inodes.getxattr(inos[1], b"user.k") == b"of its owner"


async def test_many_bytes_of_one_file_are_asked_for_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = b"v" * limits.XATTRS_CACHED_MAX_BYTES
    async with files(tmp_path) as shared:
        await shared.clients[0].inodes.setxattr(shared.inos[2], b"user.large", large)
        fs = await shared.listed()
        asked = count_questions(fs, monkeypatch)
        for _ in range(2):
            assert await fs.inodes.getxattr(shared.inos[2], b"user.large") == large
        await found_by(fs, shared.inos[3:])
        assert asked["leased_xattrs"] == 2


async def test_files_that_are_gone_are_not_told_of_and_too_many_are_refused(tmp_path: Path) -> None:
    async with files(tmp_path) as shared:
        fs, inos = await shared.listed(), shared.inos
        missing = Ino(inos[-1] + 1000)
        assert await fs.session.leased_query("leased_xattrs_of", [missing, inos[1]]) == [[], [missing]]
        with pytest.raises(errors.ArgumentTooLarge):
            await fs.session.leased_query("leased_xattrs_of", inos * limits.XATTRS_AT_ONCE_MAX)


async def test_a_namenode_that_tells_of_one_file_at_a_time_is_asked_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Namespace, "leased_xattrs_of")
    async with files(tmp_path) as shared:
        fs = await shared.listed()
        asked = count_questions(fs, monkeypatch)
        assert await found_by(fs, shared.inos) == {ino: b"%d" % ino for ino in shared.inos[::5]}
        assert asked == {"leased_xattrs_of": 1, "leased_xattrs": _FILES}
