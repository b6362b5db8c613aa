"""A NameNode whose database is damaged: who meets that is told what to do, and nobody reads a wrong answer."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from dfs import errors
from tests.cluster import running_cluster


def damage(database: Path, table: str) -> None:
    """Write over the page of a table that leads to all others."""
    with closing(sqlite3.connect(database)) as db:
        (page_bytes,) = db.execute("PRAGMA page_size").fetchone()
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    with database.open("r+b") as file:
        file.seek((page - 1) * page_bytes)
        file.write(b"\xa5" * page_bytes)


async def test_who_asks_for_what_cannot_be_read_is_told_what_to_do(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, datanodes=0) as cluster:
        async with cluster.client() as fs:
            await fs.mkdir("/there")
        await cluster.stop("namenode")
        damage(tmp_path / "namenode" / "namespace.sqlite", "dentry")
        await cluster.start_namenode()
        async with cluster.client() as fs:
            with pytest.raises(errors.DiskFailed, match=r"is damaged .*: look at its disk, and bring back"):
                await fs.stat("/there")


@pytest.mark.parametrize("table", ["session", "revoked"])
async def test_one_that_cannot_read_what_it_has_to_know_does_not_start_and_says_what_to_do(
    tmp_path: Path, table: str
) -> None:
    async with running_cluster(tmp_path, datanodes=0) as cluster:
        await cluster.stop("namenode")
        damage(tmp_path / "namenode" / "namespace.sqlite", table)
        with pytest.raises(errors.DiskFailed, match=r"is damaged .*: look at its disk, and bring back"):
            await cluster.start_namenode()
