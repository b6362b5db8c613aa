"""The small files of a data directory: JSON with a format and a checksum, replaced whole.

    {"crc32c": ..., "format": 1, "key": value, ...}

The checksum is CRC32C of the same object without it, keys sorted, no spaces. So a flipped bit is never taken for a
value: what a file cannot vouch for is `Corrupt`, and whoever owns the file decides what that means.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from crc32c import crc32c

from dfs import errors
from nodes.datanode.disk import Disk

_CHECKSUM: Final = "crc32c"


def write(disk: Disk, path: str, format_number: int, values: Mapping[str, Any]) -> None:
    """Put `values` into the file, durably. Raises OSError; the file is then as before."""
    disk.replace_file(path, pack(format_number, values))


def pack(format_number: int, values: Mapping[str, Any]) -> bytes:
    """What a file with `values` holds: the reverse of `parse`."""
    content = {"format": format_number, **values}
    return json.dumps({_CHECKSUM: _sum(content), **content}, indent=2).encode() + b"\n"


def read(disk: Disk, path: str, *known: int) -> dict[str, Any] | None:
    """What the file holds, None if there is none. `known` formats are read, of which the last is newest.

    Raises Corrupt if it is damaged, FormatUnknown if it is whole and of another format, OSError.
    """
    try:
        raw = disk.read_file(path)
    except FileNotFoundError:
        return None
    content = parse(raw, f"{disk.name}/{path}")
    check_format(content, f"{disk.name}/{path}", *known)
    return content


def parse(raw: bytes, what: str) -> dict[str, Any]:
    """The object in `raw`, with its format and without its checksum. Raises Corrupt, naming `what`."""
    try:
        content = json.loads(raw)
        expected = content.pop(_CHECKSUM)
        whole = expected == _sum(content) and "format" in content
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise errors.Corrupt(f"{what} is damaged")
    return dict(content)


def check_format(content: Mapping[str, Any], what: str, *known: int) -> None:
    """Raises FormatUnknown, naming `what`, unless its format is one of `known`, of which the last is newest."""
    if content["format"] not in known:
        raise errors.FormatUnknown(
            f"{what} has format {content['format']}, this version of dfs knows {known[-1]}: use the version of dfs that"
            " wrote it, or a newer one"
        )


def _sum(content: Mapping[str, Any]) -> int:
    return int(crc32c(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()))
