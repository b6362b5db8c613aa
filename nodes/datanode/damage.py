"""Blocks of a directory's chunks that are damaged: what is known of them, in memory and beside their chunks.

    DIR/chunks/XX/CHUNK.bad    {"format": 1, "blocks": [[where it begins, what is wrong], ...]}, see statefile

A chunk some blocks of which cannot be read, or do not match their checksums, stays in use: its other blocks may be the
only ones that there are. The damaged ones are read for nobody, and the chunk counts as far as the first of them only:
so the NameNode has it mended, block by block, from other copies (`nodes.datanode.copier`).

The file is for the next start: or the chunk would count as whole until somebody reads it, and whole copies could be
dropped for its sake. One that is damaged itself says that the first block may be; so does a block that is listed and
was only unreadable for a while. Whoever reads the whole chunk finds that out. It may be older than the chunk: as the
process ended after a block was freed or cut off and before that was written down, or the disk was full. What is no
block with bytes is not listed any more once the index is known.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from dfs import errors
from dfs.types import ChunkId
from nodes.datanode import chunkfiles, statefile
from nodes.datanode.disk import Disk
from nodes.datanode.index import BlockIndex, Record

Blocks = Mapping[int, str]
"""Where each damaged block of a chunk begins, in order, and what is wrong with it; of the first few, others have ""."""

_FORMAT: Final = 1
_REASONS_MAX: Final = 8
"""Of one chunk: a disk that garbles all of it is described by a few."""


class Damages:
    """The damaged blocks of one directory's chunks; no chunk is in here that has none. Offsets are bytes."""

    def __init__(self) -> None:
        self._blocks: dict[ChunkId, Blocks] = {}

    def __contains__(self, chunk: ChunkId) -> bool:
        return chunk in self._blocks

    def __iter__(self) -> Iterator[ChunkId]:
        return iter(self._blocks)

    def __len__(self) -> int:
        return len(self._blocks)

    def of(self, chunk: ChunkId) -> Blocks:
        return self._blocks.get(chunk, {})

    def intact(self, chunk: ChunkId, length: int) -> int:
        """How far a chunk of `length` bytes has no damaged block."""
        return min(length, next(iter(self.of(chunk)), length))

    def among(self, chunk: ChunkId, records: Sequence[Record]) -> list[Record]:
        """Those of `records` that are damaged, as far as that is known."""
        blocks = self._blocks.get(chunk)
        return [record for record in records if record.start in blocks] if blocks else []

    def note(self, chunk: ChunkId, found: Blocks) -> None:
        """These are damaged, besides those that are known already."""
        blocks = sorted({**found, **self.of(chunk)}.items())
        self._blocks[chunk] = {start: reason if at < _REASONS_MAX else "" for at, (start, reason) in enumerate(blocks)}

    def clear(self, chunk: ChunkId, whole: Collection[int]) -> None:
        """These blocks are not, or not any more."""
        left = {start: reason for start, reason in self.of(chunk).items() if start not in whole}
        if left:
            self._blocks[chunk] = left
        else:
            self.forget(chunk)

    def forget(self, chunk: ChunkId) -> None:
        """The chunk is gone, or whole."""
        self._blocks.pop(chunk, None)

    def summary(self, chunk: ChunkId) -> str:
        """What is wrong with a chunk that is in here."""
        blocks = self._blocks[chunk]
        (start, reason), others = next(iter(blocks.items())), len(blocks) - 1
        first = reason or f"the block at {start} is damaged"
        return f"{first}, and {others} other block{'s are' if others > 1 else ' is'} damaged" if others else first


def outdated(blocks: Blocks, index: BlockIndex) -> list[int]:
    """Those of `blocks` that are none in `index`, or were freed."""
    return [start for start in blocks if not _has_bytes(index, start)]


def _has_bytes(index: BlockIndex, start: int) -> bool:
    return start < index.length and index.is_border(start) and not index.record(index.blocks_in(start)).punched


def save(disk: Disk, chunk: ChunkId, blocks: Blocks) -> None:
    """Write down which blocks of a chunk are damaged, durably; none: that it is whole. Blocks. Raises OSError."""
    path = chunkfiles.damage_path(chunk)
    if blocks:
        statefile.write(disk, path, _FORMAT, {"blocks": [list(each) for each in blocks.items()]})
    elif disk.exists(path):
        disk.remove(path)
        disk.sync_dir(chunkfiles.directory_of(chunk))


def load(disk: Disk, chunk: ChunkId) -> dict[int, str]:
    """What was written down. Blocks. Raises OSError."""
    path = chunkfiles.damage_path(chunk)
    try:
        found = statefile.read(disk, path, _FORMAT) or {"blocks": []}
    except errors.FormatUnknown:
        return {0: f"{path} is of another version"}
    except OSError as error:  # Corrupt is one too
        if not chunkfiles.is_damage(error):
            raise
        return {0: f"{path} is damaged"}
    return {int(start): str(reason) for start, reason in found["blocks"]}
