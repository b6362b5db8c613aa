"""A NameNode whose disk is nearly full: what was open or answered before is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from dfs import errors, limits
from dfs.client.cache import Cache
from dfs.client.openinodes import open_inodes
from nodes.namenode.store import Store
from tests.cluster import running_cluster

CHECKED_S = 1.2
"""More than a NameNode believes its free space for."""


async def test_an_open_file_outlives_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        running_cluster(tmp_path, datanodes=0, reserve_bytes=1) as cluster,
        cluster.client(cache=Cache(10_000, 10_000)) as fs,
        open_inodes(fs) as files,
        cluster.client() as other,
    ):
        root = fs.inodes.root
        made = await other.inodes.create(root, b"file", 0o644, 0, 0)
        await fs.inodes.lookup(root, b"file")
        await files.acquire(made.ino, "file")
        monkeypatch.setattr(Store, "free_bytes", lambda _: 0)
        await trio.sleep(CHECKED_S)
        with pytest.raises(errors.NoSpace):
            await other.inodes.create(root, b"another", 0o644, 0, 0)
        await other.inodes.unlink(root, b"file")
        assert (await fs.inodes.getattr(made.ino)).nlink == 0


async def test_what_is_answered_in_a_directory_that_was_just_made_is_not_refused_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FULL_GRACE_S", 2.0)
    async with (
        running_cluster(tmp_path, datanodes=0, reserve_bytes=1) as cluster,
        cluster.client(cache=Cache(10_000, 10_000)) as fs,
        cluster.client() as other,
    ):
        top = await fs.mkdir("/top")
        await fs.session.stream.flush()
        await trio.sleep(CHECKED_S)
        monkeypatch.setattr(Store, "free_bytes", lambda _: 0)
        inner = await fs.inodes.mkdir(top.ino, b"inner", 0o755, 0, 0)  # answered here, and sent a moment later
        answered = refused = 0
        until = trio.current_time() + 4
        while trio.current_time() < until:
            try:
                await fs.inodes.create(inner.ino, b"%d" % answered, 0o644, 0, 0)
                answered += 1
            except errors.NoSpace:
                refused += 1
            await trio.sleep(0.05)
        assert refused
        assert fs.session.stream.losses == 0
        assert len(await other.inodes.readdir(inner.ino)) == answered
