"""Copies of the namespace, made while it is in use, and what they are for: to go on from one when all else is gone."""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import stat
from pathlib import Path

import pytest
import trio

from dfs import errors, limits
from dfs.types import ROOT_INO
from tests.cluster import running_cluster
from tests.forked import as_text
from tests.integration.real import NAMENODE, real_cluster, until
from tests.integration.test_failures import findings, get, put, store

KIB = limits.KIB


async def test_a_namenode_that_has_lost_all_goes_on_from_a_copy(tmp_path: Path) -> None:
    async with real_cluster(tmp_path) as cluster:
        files = {f"/{number}": os.urandom(100 * KIB) for number in range(20)}
        await store(cluster, files)
        target = tmp_path / "copy"
        async with cluster.client() as fs, trio.open_nursery() as nursery:

            async def go_on_writing() -> None:
                number = 0
                while True:
                    await put(fs, f"/later-{number}", os.urandom(10 * KIB))
                    number += 1

            nursery.start_soon(go_on_writing)
            said = as_text(await cluster.dfs("backup", target))
            assert re.fullmatch(rf"{re.escape(str(target))}: \d+ files, \S+, as of 20[-0-9]+ [:0-9]+\n", said.stdout), (
                said
            )
            assert stat.S_IMODE(target.stat().st_mode) == 0o600
            nursery.cancel_scope.cancel()
        assert (
            as_text(await cluster.dfs("backup", target)).stderr == f"dfs: exists already (-f replaces it): {target}\n"
        )
        assert (await cluster.dfs("backup", "-qf", target)).stdout == b""
        assert re.search(r"^Backup: +\d\.\d s ago$", as_text(await cluster.dfs("status")).stdout, re.MULTILINE)
        cluster.kill(NAMENODE)
        state = cluster.directory / NAMENODE
        shutil.rmtree(state)
        state.mkdir()
        shutil.copy(target, state / "namespace.sqlite")
        await cluster.start(NAMENODE)
        await cluster.wait_until_up("n1", "n2", "n3")
        async with cluster.client() as fs:
            for path, data in files.items():
                assert await get(fs, path) == data
            await put(fs, "/after", b"after")
            assert await get(fs, "/after") == b"after"

            async def is_sound() -> bool:
                return not await findings(fs)

            await until(is_sound, "a sound cluster")


async def test_a_copy_goes_to_standard_output_and_into_pipes(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, datanodes=0) as cluster:
        status = as_text(await cluster.dfs("status")).stdout
        assert re.search("^Backup: +none yet: `dfs backup` makes one$", status, re.MULTILINE), status
        assert (await cluster.dfs("backup", "-")).stdout.startswith(b"SQLite format 3\0")
        os.mkfifo(tmp_path / "pipe")
        read: list[bytes] = []
        async with trio.open_nursery() as nursery:

            async def read_pipe() -> None:
                read.append(await trio.Path(tmp_path / "pipe").read_bytes())

            nursery.start_soon(read_pipe)
            assert (await cluster.dfs("backup", "-q", tmp_path / "pipe")).returncode == 0
        assert read[0].startswith(b"SQLite format 3\0")
        failed = as_text(await cluster.dfs("backup", "/dev/full"))
        assert (failed.returncode, failed.stderr) == (1, "dfs: no space left on device: /dev/full\n")
        assert (await cluster.dfs("backup", tmp_path / "next")).returncode == 0  # that one stands in nobody's way


async def test_a_copy_that_could_not_be_kept_is_none(tmp_path: Path) -> None:
    class Collected(io.BytesIO):
        leaves_holes = False

        async def write(self, view: memoryview) -> None:  # type: ignore[override]
            super().write(view)

        async def skip(self, length: int) -> None:
            raise AssertionError("a copy has no holes")

    async def fail() -> None:
        raise OSError(errno.ENOSPC, "no space left")

    async with running_cluster(tmp_path, datanodes=0) as cluster, cluster.client() as fs:
        with pytest.raises(OSError, match="no space left"):
            await fs.backup(Collected(), finish=fail)
        assert (await fs.status())["backup_ns"] is None
        made = await fs.backup(Collected())
        assert (await fs.status())["backup_ns"] == made["made_ns"]


async def test_a_copy_whose_namenode_restarts_fails_and_says_what_to_do(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, datanodes=0) as cluster, cluster.client() as fs:
        for number in range(20):  # more than one read has
            await fs.inodes.setxattr(ROOT_INO, b"user.%d" % number, bytes(limits.XATTR_VALUE_MAX_BYTES), 0)

        class Restarting:
            leaves_holes = False

            async def write(self, view: memoryview) -> None:
                await cluster.stop("namenode")
                await cluster.start_namenode()

            async def skip(self, length: int) -> None:
                raise AssertionError("a copy has no holes")

        with pytest.raises(errors.NotFound, match="no such backup any more: begin another"):
            await fs.backup(Restarting())
