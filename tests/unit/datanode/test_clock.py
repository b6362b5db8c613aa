"""The NameNode's clock as a DataNode knows it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from dfs.runtime import Runtime
from nodes.datanode.clock import NameNodeClock


def test_it_goes_on_from_what_was_told_whatever_happens_to_this_machines_clock() -> None:
    here = SimpleNamespace(wall_s=5_000.0, boot=100.0)
    runtime = cast(Runtime, SimpleNamespace(now_ns=lambda: int(here.wall_s * 1e9), boot_s=lambda: here.boot))
    clock = NameNodeClock(runtime)
    assert clock.now_s() == 5_000.0
    clock.told(int(9_000e9))
    here.wall_s, here.boot = 1.0, 110.0
    assert clock.now_s() == 9_010.0
    clock.told(int(8_000e9))
    assert clock.now_s() == 8_000.0
