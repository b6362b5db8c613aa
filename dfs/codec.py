"""Shapes on the wire that are not plain msgpack, and the checks of what comes from outside.

Domain values travel as msgpack arrays in field order (see dfs.types); this module turns arrays back into values, and
has the packed forms of block checksums and of ranges.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any

from dfs import errors, limits
from dfs.checksum import Block, rows
from dfs.types import Attr, ChunkPlace, DirEntry, Extent, NodeState, NodeView

_BLOCK = struct.Struct("<II")
_RANGE = struct.Struct("<II")


def pack_blocks(blocks: Sequence[Block]) -> bytes:
    """Blocks as `length, crc` pairs, u32 little-endian each: 8 bytes a block."""
    return struct.pack(f"<{2 * len(blocks)}I", *chain.from_iterable(blocks))


def unpack_blocks(packed: object) -> list[Block]:
    """The reverse of `pack_blocks`. Raises InvalidArgument for anything that it cannot have made, ArgumentTooLarge."""
    if not isinstance(packed, bytes | bytearray | memoryview) or len(packed) % _BLOCK.size:
        raise errors.InvalidArgument("block checksums are not pairs of 32-bit numbers")
    if len(packed) > limits.CHUNK_MAX_BLOCKS * _BLOCK.size:  # before any of them costs something
        raise errors.ArgumentTooLarge(f"these are more than the {limits.CHUNK_MAX_BLOCKS} blocks that a chunk can have")
    blocks = rows(Block, _BLOCK.iter_unpack(packed))
    lengths = [length for length, _ in blocks]
    if lengths and not 0 < min(lengths) <= max(lengths) <= limits.BLOCK_MAX_BYTES:
        raise errors.InvalidArgument(f"a block is not 1 to {limits.BLOCK_MAX_BYTES} bytes long")
    return blocks


def pack_ranges(ranges: Sequence[tuple[int, int]]) -> bytes:
    """Ranges of a chunk as `offset, length` pairs, u32 little-endian each: 8 bytes a range."""
    return struct.pack(f"<{2 * len(ranges)}I", *chain.from_iterable(ranges))


def unpack_ranges(packed: object) -> list[tuple[int, int]]:
    """The reverse of `pack_ranges`. Raises InvalidArgument for anything but what one read may ask for."""
    if not isinstance(packed, bytes | bytearray | memoryview) or len(packed) % _RANGE.size:
        raise errors.InvalidArgument("ranges of a chunk are not pairs of 32-bit numbers")
    if not 0 < len(packed) <= limits.READ_RANGES_MAX * _RANGE.size:
        raise errors.InvalidArgument(f"a read is of 1 to {limits.READ_RANGES_MAX} ranges")
    ranges = list(_RANGE.iter_unpack(packed))
    lengths = [length for _, length in ranges]
    if not all(lengths) or sum(lengths) > limits.READ_MAX_BYTES:
        raise errors.InvalidArgument(f"a read is of 1 to {limits.READ_MAX_BYTES} bytes, and no range is empty")
    return ranges


def attr(wire: Sequence[Any]) -> Attr:
    return Attr._make(wire[: len(Attr._fields)])


def extent(wire: Sequence[Any]) -> Extent:
    return Extent._make(wire[: len(Extent._fields)])


def dir_entries(wire: Sequence[Sequence[Any]]) -> list[DirEntry]:
    attrs = rows(Attr, [entry[2][: len(Attr._fields)] for entry in wire])
    return rows(DirEntry, [(entry[0], entry[1], attr) for entry, attr in zip(wire, attrs, strict=True)])


def chunk_place(wire: Sequence[Any]) -> ChunkPlace:
    return ChunkPlace(wire[0], wire[1], tuple(wire[2]), *wire[3:4])


def node_view(wire: Sequence[Any]) -> NodeView:
    view = NodeView(*wire[: len(NodeView._fields)])  # one of an older version has fewer
    return view._replace(state=NodeState(view.state))
