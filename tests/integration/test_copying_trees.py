"""How many files of a tree are on their way at once, up and down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from dfs import limits
from dfs.cli.context import Report
from dfs.cli.downloading import Downloading
from dfs.cli.meter import Meter
from dfs.cli.transfer import Options
from dfs.cli.uploading import Uploading
from dfs.client import FileSystem
from tests.cluster import running_cluster

OPTIONS = Options(recursive=True, force=False, preserve=False, sync=True)
FILES = 2 * limits.SMALL_TRANSFERS_AT_ONCE


class Together:
    """How often a method of `fs` was under way at once, at most. Each call waits for others to come."""

    def __init__(self, fs: FileSystem, method: str) -> None:
        self.most = 0
        self._count = 0
        self._method = getattr(fs, method)
        setattr(fs, method, self._call)

    async def _call(self, *args: Any, **options: Any) -> Any:
        self._count += 1
        self.most = max(self.most, self._count)
        try:
            await trio.sleep(0.05)
            return await self._method(*args, **options)
        finally:
            self._count -= 1


async def copied(directory: Path, content: bytes) -> tuple[int, int]:
    """Copy a tree of files with `content` up and down: how many were on their way at once, each time."""
    here, back = directory / "here", directory / "back"
    here.mkdir()
    for number in range(FILES):
        (here / f"{number}").write_bytes(content)
    async with running_cluster(directory / "cluster") as cluster, cluster.client() as fs:
        up, down, report = Together(fs, "upload"), Together(fs, "download"), Report()
        await Uploading(fs, OPTIONS, report, Meter()).run((bytes(here),), b"/there")
        await Downloading(fs, OPTIONS, report, Meter()).run((b"/there",), bytes(back))
        assert report.status == 0
        assert {path.read_bytes() for path in back.iterdir()} == {content}
        assert len(list(back.iterdir())) == FILES
        return up.most, down.most


async def test_many_small_files_are_on_their_way_at_once(tmp_path: Path) -> None:
    """Each is a few round trips, and little else."""
    for most in await copied(tmp_path, b"small"):
        assert limits.TRANSFERS_AT_ONCE < most <= limits.SMALL_TRANSFERS_AT_ONCE


async def test_of_large_files_there_are_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its buffers."""
    monkeypatch.setattr(limits, "SMALL_FILE_MAX_BYTES", 4)
    assert await copied(tmp_path, b"large") == (limits.TRANSFERS_AT_ONCE, limits.TRANSFERS_AT_ONCE)
