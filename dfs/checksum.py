"""CRC32C over blocks: the one checksum that a byte has from the client that writes it to the one that reads it.

A block is `limits.BLOCK_BYTES` or less, and never crosses the border of an append; those of earlier versions are up to
BLOCK_MAX_BYTES. The client cuts what it appends into blocks and sums them; the DataNode verifies and keeps the same
sums; a read carries sums of the pieces it returns. CRC32C (Castagnoli, RFC 3720 appendix B.4) has instructions of its
own on x86-64 and arm64; the `crc32c` library uses them and releases the GIL for large buffers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from crc32c import crc32c

from dfs import errors, limits

Buffer: TypeAlias = bytes | bytearray | memoryview


class Block(NamedTuple):
    """`length` bytes (1 to BLOCK_MAX_BYTES) whose CRC32C is `crc`."""

    length: int
    crc: int


def cut(length: int) -> Iterator[tuple[int, int]]:
    """The (start, end) of the blocks into which `length` bytes are cut: all full but the last."""
    for start in range(0, length, limits.BLOCK_BYTES):
        yield start, min(start + limits.BLOCK_BYTES, length)


def sum_blocks(data: Buffer) -> list[Block]:
    """Cut `data` into blocks and sum each. Empty data has none."""
    view = memoryview(data)
    return [Block(end - start, crc32c(view[start:end])) for start, end in cut(len(view))]


def grouped(blocks: Sequence[Block], most_bytes: int) -> Iterator[list[Block]]:
    """The blocks in order, in groups of at most `most_bytes`, which is no less than one block may have."""
    group: list[Block] = []
    total = 0
    for block in blocks:
        if total + block.length > most_bytes:
            yield group
            group, total = [], 0
        group.append(block)
        total += block.length
    if group:
        yield group


def verify(data: Buffer, blocks: Iterable[tuple[int, int]], what: str) -> None:
    """Raise `Corrupt`, naming `what`, unless `blocks` (length, sum) cover `data` exactly and every sum is right."""
    view = memoryview(data)
    position = 0
    for length, crc in blocks:
        end = position + length
        if end > len(view) or crc32c(view[position:end]) != crc:
            raise errors.Corrupt(f"{what}: bytes {position} to {end} do not match their checksum")
        position = end
    if position != len(view):
        raise errors.Corrupt(f"{what}: {len(view)} bytes came with checksums for {position}")
