"""What commands and queries may be called with: every argument from outside passes through here.

Each function returns its argument, known to be good, or raises the error that POSIX has for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dfs import errors, limits
from dfs.types import ChunkId, Ino

INTEGER_MAX = 2**63 - 1
ID_MAX = 2**32 - 2  # of users and groups: -1 means none


def integer(value: Any, what: str, least: int = 0, most: int = INTEGER_MAX) -> int:
    if type(value) is not int or not least <= value <= most:
        raise errors.InvalidArgument(f"{what} is not a number from {least} to {most}")
    return value


def ino(value: Any) -> Ino:
    return Ino(integer(value, "an inode number", 1))


def chunk(value: Any) -> ChunkId:
    return ChunkId(integer(value, "a chunk number", 1))


def owner(value: Any) -> int:
    return integer(value, "a user or group id", 0, ID_MAX)


def permissions(value: Any) -> int:
    """The permission bits of a mode; a type that comes with them is not looked at."""
    return integer(value, "a mode", 0, 0o177777) & 0o7777


def time_ns(value: Any) -> int:
    return integer(value, "a time", -(2**63), INTEGER_MAX)


def size(value: Any) -> int:
    if type(value) is int and value > limits.FILE_SIZE_MAX_BYTES:
        raise errors.FileTooLarge(f"a file cannot be larger than {limits.FILE_SIZE_MAX_BYTES} bytes")
    return integer(value, "a size")


def name(value: Any) -> bytes:
    """A name for a directory entry."""
    if type(value) is not bytes or not value or value in (b".", b"..") or b"/" in value or b"\0" in value:
        raise errors.InvalidArgument("not a name for a directory entry: 1 to 255 bytes without / and NUL, not . or ..")
    if len(value) > limits.NAME_MAX_BYTES:
        raise errors.NameTooLong(f"a name is longer than {limits.NAME_MAX_BYTES} bytes")
    return value


def target(value: Any) -> bytes:
    """What a symlink points to."""
    if type(value) is not bytes or b"\0" in value:
        raise errors.InvalidArgument("not a target for a symbolic link")
    if not value:
        raise errors.NotFound("a symbolic link cannot point to nothing")
    if len(value) >= limits.PATH_MAX_BYTES:
        raise errors.NameTooLong(f"a symbolic link's target is {limits.PATH_MAX_BYTES} bytes or longer")
    return value


def xattr_name(value: Any) -> bytes:
    if type(value) is not bytes or not value or b"\0" in value:
        raise errors.InvalidArgument("not a name for an extended attribute")
    if len(value) > limits.XATTR_NAME_MAX_BYTES:
        raise errors.OutOfRange(f"the name of an extended attribute is longer than {limits.XATTR_NAME_MAX_BYTES} bytes")
    if value.find(b".") == len(value) - 1:
        raise errors.InvalidArgument("the name of an extended attribute has nothing behind its namespace")
    return value


def xattr_value(value: Any) -> bytes:
    if type(value) is not bytes:
        raise errors.InvalidArgument("the value of an extended attribute is bytes")
    if len(value) > limits.XATTR_VALUE_MAX_BYTES:
        raise errors.ArgumentTooLarge(f"an extended attribute is larger than {limits.XATTR_VALUE_MAX_BYTES} bytes")
    return value


def array(value: Any, what: str, most: int) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise errors.InvalidArgument(f"{what} is not a list")
    if len(value) > most:
        raise errors.ArgumentTooLarge(f"{what} has more than {most} items")
    return list(value)


def integers(values: Sequence[Any], what: str, least: int = 0, most: int = INTEGER_MAX) -> None:
    """As `integer`, of many at once."""
    if values and (set(map(type, values)) != {int} or min(values) < least or max(values) > most):
        raise errors.InvalidArgument(f"{what} is not a number from {least} to {most}")


def text(value: Any, what: str, most: int = 255) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise errors.InvalidArgument(f"{what} is not text of at most {most} characters")
    return value
