"""A directory that a DataNode of an earlier release wrote, and left when it was killed, is opened by this one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dfs import errors
from dfs.types import ChunkId
from nodes.datanode.disk import RealDisk
from nodes.datanode.identity import FORMAT
from nodes.datanode.volumes import Volumes
from tests.simulation.disk import InlineRuntime
from tests.store_record import (
    DIRECTORY_ID,
    NODE,
    PUNCHED,
    PUNCHED_RANGE,
    SHORT,
    expected,
    files,
    furnish,
    lay_down,
    path,
)
from tests.unit.datanode.world import CLUSTER

RECORDED = [number for number in range(1, FORMAT + 1) if path(number).exists()]


def opened(directory: Path) -> Volumes:
    volumes = Volumes([RealDisk(directory)], NODE, InlineRuntime(), 0)
    volumes.open()
    volumes.join(CLUSTER)
    return volumes


async def read(volumes: Volumes, chunk: ChunkId, offset: int = 0) -> bytes:
    """From there on to the chunk's end, and a little before, where a block begins."""
    _, buffers = await volumes.read(chunk, offset, (volumes.length(chunk) or 0) - offset)
    return b"".join(map(bytes, buffers))


def test_every_format_before_the_present_one_is_recorded() -> None:
    missing = [number for number in range(1, FORMAT) if number not in RECORDED]
    assert not missing, f"write {path(missing[0])} with the code of its time: see tests/store_record.py"


async def test_what_was_recorded_in_the_present_format_is_what_this_release_writes(tmp_path: Path) -> None:
    """Or the layout changed, and FORMAT did not."""
    await furnish(tmp_path / "now")
    lay_down(FORMAT, tmp_path / "recorded")
    assert files(tmp_path / "now") == files(tmp_path / "recorded")


@pytest.mark.parametrize("number", RECORDED)
async def test_every_chunk_of_an_old_directory_is_whole(tmp_path: Path, number: int) -> None:
    lay_down(number, tmp_path)
    volumes = opened(tmp_path)
    assert volumes.directory_ids() == [DIRECTORY_ID]
    written = expected(number)
    beyond = sum(PUNCHED_RANGE)
    assert (await read(volumes, PUNCHED, beyond)).endswith(written[PUNCHED][beyond:])
    with pytest.raises(errors.ChunkNotFound, match="were freed"):
        await read(volumes, PUNCHED)
    whole = set(written) - {PUNCHED}
    assert {chunk: await read(volumes, chunk) for chunk in whole} == {chunk: written[chunk] for chunk in whole}
    for chunk in written:
        await volumes.verify(chunk)
    assert volumes.take_corrupt() == []
    await volumes.close()
    assert not any((tmp_path / "quarantine").glob("*"))


@pytest.mark.parametrize("number", RECORDED)
async def test_an_old_directory_is_written_on_and_is_then_of_the_present_format(tmp_path: Path, number: int) -> None:
    lay_down(number, tmp_path)
    volumes = opened(tmp_path)
    await volumes.cut(SHORT, 3)
    await volumes.delete(PUNCHED)
    await volumes.close()
    assert json.loads((tmp_path / "identity.json").read_text())["format"] == FORMAT
    again = opened(tmp_path)
    assert await read(again, SHORT) == expected()[SHORT][:3]
    assert again.chunk_count() == len(expected(number)) - 1
    await again.close()
