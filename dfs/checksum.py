"""CRC32C over blocks: the one checksum that a byte has from the client that writes it to the one that reads it.

A block is `limits.BLOCK_BYTES` or less, and never crosses the border of an append; those of earlier versions are up to
BLOCK_MAX_BYTES. The client cuts what it appends into blocks and sums them; the DataNode verifies and keeps the same
sums; a read carries sums of the pieces it returns. CRC32C (Castagnoli, RFC 3720 appendix B.4) has instructions of its
own on x86-64 and arm64; the `crc32c` library uses them and releases the GIL for large buffers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from crc32c import crc32c

from dfs import errors, limits

Buffer: TypeAlias = bytes | bytearray | memoryview
Row = TypeVar("Row", bound=tuple[Any, ...])

_LENGTH: Final = itemgetter(0)


class Block(NamedTuple):
    """`length` bytes (1 to BLOCK_MAX_BYTES) whose CRC32C is `crc`."""

    length: int
    crc: int


def rows(kind: type[Row], values: Iterable[Iterable[Any]]) -> list[Row]:
    """Named tuples of a kind, each of as many values as it has fields: made without a call of Python's own for each."""
    return list(map(tuple.__new__, repeat(kind), values))


def sum_blocks(data: Buffer) -> list[Block]:
    """Cut `data` into blocks, all full but the last, and sum each. Empty data has none."""
    view = memoryview(data)
    parts = [view[start : start + limits.BLOCK_BYTES] for start in range(0, len(view), limits.BLOCK_BYTES)]
    return rows(Block, zip(map(len, parts), map(crc32c, parts), strict=True))


def length_of(blocks: Iterable[Block]) -> int:
    """Bytes in all of them."""
    return sum(map(_LENGTH, blocks))


def grouped(blocks: Sequence[Block], most_bytes: int) -> Iterator[list[Block]]:
    """The blocks in order, in groups of at most `most_bytes`, which is no less than one block may have."""
    if length_of(blocks) <= most_bytes:
        if blocks:
            yield list(blocks)
        return
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
