"""Machines whose clocks differ serve each other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dfs import limits
from dfs.keys import Role
from dfs.runtime import RealRuntime
from tests.cluster import running_cluster
from tests.integration.test_failures import get, put
from tests.keys import holder


class Askew(RealRuntime):
    """A machine whose clock is not set."""

    def __init__(self, ahead_s: float) -> None:
        super().__init__()
        self.ahead_s = ahead_s

    def now_ns(self) -> int:
        return super().now_ns() + int(self.ahead_s * 1e9)


@pytest.mark.parametrize("ahead_s", [-3.0 * limits.GRANT_VALID_S, 3.0 * limits.GRANT_VALID_S])
async def test_grants_are_good_whatever_the_clocks_say(tmp_path: Path, ahead_s: float) -> None:
    """A client needs one for all that it reads and writes."""
    askew = Askew(ahead_s)
    async with running_cluster(tmp_path, datanodes=0, runtime=askew) as cluster:
        cluster.runtime = RealRuntime()
        for name in ("n1", "n2"):
            await cluster.start_datanode(name)
        await cluster.wait_until_up(2)
        async with cluster.client(holder(Role.CLIENT, "bob"), wait_s=5.0) as fs:
            data = os.urandom(100_000)
            await put(fs, "/file", data)
            assert await get(fs, "/file") == data
            askew.ahead_s = -ahead_s  # somebody sets it, to what is wrong as well
            await put(fs, "/other", data)
            assert await get(fs, "/other") == data
