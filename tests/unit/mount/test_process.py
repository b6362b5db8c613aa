"""What a mount does beside serving."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from dfs import limits
from dfs.logfiles import open_log
from mount.process import _bound_log


async def test_the_log_of_a_mount_does_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOG_FILE_MAX_BYTES", 1000)
    monkeypatch.setattr(limits, "LOG_CHECK_PERIOD_S", 0.01)
    path = tmp_path / "mnt.log"
    log = open_log(path)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_bound_log, path)
            for _ in range(3):
                os.write(log, b"a line\n" * 200)
                while os.fstat(log).st_size:
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    os.close(log)
    assert path.with_name("mnt.log.1").read_bytes() == b"a line\n" * 200


async def test_a_log_that_cannot_be_bounded_ends_no_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOG_FILE_MAX_BYTES", 0)
    monkeypatch.setattr(limits, "LOG_CHECK_PERIOD_S", 0.01)
    path = tmp_path / "mnt.log"
    path.write_bytes(b"a line\n")
    aside = path.with_name("mnt.log.1")
    aside.mkdir()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_bound_log, path)
            await trio.sleep(0.1)
            aside.rmdir()
            while path.stat().st_size:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
