"""A DataNode's directory with every kind of thing in it, as files: one of each format that ever was.

    python -m tests.store_record        writes tests/data/store-N.json, N being the present format

Run it before a change raises FORMAT in nodes/datanode/identity.py: a test opens each with the present code. What a
released version wrote is never written anew. Format 1 was written by the code of its time with this module.
"""

from __future__ import annotations

import base64
import json
import random
import tempfile
import zlib
from pathlib import Path
from typing import Any, Final
from unittest import mock

import trio
from crc32c import crc32c

from dfs import limits
from dfs.checksum import Block
from dfs.types import ChunkId, NodeId
from nodes.datanode import identity
from nodes.datanode.chunkfiles import data_path, index_path
from nodes.datanode.disk import RealDisk
from nodes.datanode.identity import FORMAT, Identity
from nodes.datanode.journal import ALIGNMENT, Journal
from nodes.datanode.store import ChunkStore
from tests.simulation.disk import InlineRuntime
from tests.unit.datanode.world import CLUSTER

DIRECTORY: Final = Path(__file__).parent / "data"
NODE: Final = NodeId("n1")
DIRECTORY_ID: Final = "a" * 16
SHORT, LONG, CUT, PUNCHED, UNSYNCED, JOURNALED = map(ChunkId, range(1, 7))
PUNCHED_RANGE: Final = (100_000, 200_000)
_FIRST_WITH_JOURNAL: Final = 3
_IN_JOURNAL: Final = b" and in the journal alone"
_JOURNAL_BYTES: Final = 8 * ALIGNMENT


def path(number: int) -> Path:
    return DIRECTORY / f"store-{number}.json"


def expected(number: int = FORMAT) -> dict[ChunkId, bytes]:
    """What was written to each chunk of a directory of that format, and stayed."""
    source = random.Random(1)
    written = {
        SHORT: b"short and more",
        LONG: source.randbytes(700) * 300,
        CUT: bytes(range(250)) * 4,
        PUNCHED: source.randbytes(1000) * 400,
        UNSYNCED: b"unsynced" * 50,
    }
    if number >= _FIRST_WITH_JOURNAL:
        written[JOURNALED] = b"in its own files" + _IN_JOURNAL
    return written


async def _append(store: ChunkStore, data: bytes, chunk: ChunkId) -> None:
    """In the largest blocks that the format has: clients choose smaller ones by now."""
    parts = [data[at : at + limits.BLOCK_MAX_BYTES] for at in range(0, len(data), limits.BLOCK_MAX_BYTES)]
    blocks = [Block(len(part), crc32c(part)) for part in parts]
    await store.append(chunk, store.chunks.get(chunk, 0), blocks, data)


def _rest(chunk: ChunkId, data: bytes) -> bytes:
    """What is appended to the beginning: more than stays, or less than comes to be there."""
    return data + b"more than was committed" if chunk == CUT else data.removesuffix(_IN_JOURNAL)


async def furnish(directory: Path) -> None:
    """Make it, and end as a process does that is killed: with a chunk that was not synced.

    Of another the power took what was in the journal, too.
    """
    disk = RealDisk(directory)
    disk.make_dirs("")
    identity.write(disk, Identity(CLUSTER, NODE, DIRECTORY_ID, (DIRECTORY_ID,)))
    with mock.patch.object(limits, "JOURNAL_BYTES", _JOURNAL_BYTES):
        Journal.create(disk, random.Random(1)).close()
    store = ChunkStore(disk, CLUSTER, InlineRuntime(), 0)
    store.open()
    for chunk, data in expected().items():
        await _append(store, data[:5], chunk)
        await _append(store, _rest(chunk, data[5:]), chunk)
    await store.sync([SHORT, LONG, CUT, PUNCHED])
    await store.cut(CUT, len(expected()[CUT]))
    await store.punch(PUNCHED, [PUNCHED_RANGE])
    await store.sync([JOURNALED])
    before = files(directory)
    await _append(store, _IN_JOURNAL, JOURNALED)
    await store.sync([JOURNALED])
    await store.close(clean=False)
    for name in (data_path(JOURNALED), index_path(JOURNALED)):
        (directory / name).write_bytes(before[name])


def files(directory: Path) -> dict[str, bytes]:
    """What every file holds, by its path."""
    found = sorted(each for each in directory.rglob("*") if each.is_file())
    return {str(each.relative_to(directory)): each.read_bytes() for each in found}


def lay_down(number: int, directory: Path) -> None:
    """Make the directory of that format."""
    recorded: dict[str, Any] = json.loads(path(number).read_text())
    for name, packed in recorded.items():
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(zlib.decompress(base64.b64decode(packed)))


def write() -> None:
    """Write the file of the present format."""
    with tempfile.TemporaryDirectory() as directory:
        trio.run(furnish, Path(directory))
        packed = {
            name: base64.b64encode(zlib.compress(held, 9)).decode() for name, held in files(Path(directory)).items()
        }
        path(FORMAT).write_text(json.dumps(packed, indent=1) + "\n")


if __name__ == "__main__":
    write()
