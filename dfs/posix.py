"""What POSIX says of names and modes where both ends have to do the same."""

from __future__ import annotations

import stat
from typing import Final

from dfs import errors, limits

RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
"""Flags of renameat2(2)."""
ID_MAX: Final = 2**32 - 2
"""Of users and groups: the one above means "unchanged" to the kernel."""
CAPABILITY: Final = b"security.capability"
"""The extended attribute with a program's capabilities, which go as set-id bits do."""


def without_set_id(mode: int) -> int:
    """As chown(2) and write(2) leave it: who changes a program or takes it over does not get its owner's rights."""
    return mode & ~(stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0))


def check_file_size(size: int) -> None:
    """Before a write that ends there. Raises `FileTooLarge`."""
    if size > limits.FILE_SIZE_MAX_BYTES:
        raise errors.FileTooLarge(f"a file cannot be larger than {limits.FILE_SIZE_MAX_BYTES} bytes")


def time_ns(value: int) -> int:
    """The nearest time that can be kept, from the year 1677 to 2262: local file systems do likewise."""
    return max(-(2**63), min(value, 2**63 - 1))
