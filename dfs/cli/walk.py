"""Walking a tree in the cluster, by inode numbers: any depth, with the names of the directories on the way in memory.

Paths are only for showing: a walk neither resolves them again nor minds that one grows longer than a path may be.
"""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from dfs import errors
from dfs.cli.arguments import join

if TYPE_CHECKING:
    from dfs.client import FileSystem
    from dfs.types import Attr, DirEntry, Ino

_NO_NAMES: Final = (b"", b".", b"..")
"""What is joined to a path with them is not beneath it: on this machine anything could be."""

Descend = Callable[["Met"], bool]


class Met(NamedTuple):
    """What a walk has come to. A directory that is left behind comes a second time, if that was asked for."""

    path: bytes
    attr: Attr
    depth: int
    """0 is where the walk began."""
    last: bool
    """No sibling follows."""
    leaving: bool = False

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.attr.mode)


async def read_directory(fs: FileSystem, ino: Ino) -> list[DirEntry]:
    """All entries, by name."""
    found: list[DirEntry] = []
    after = 0
    while page := await fs.inodes.readdir(ino, after):
        found += page
        after = page[-1].cookie
    return sorted(found, key=lambda entry: entry.name)


async def walk(
    fs: FileSystem,
    path: bytes,
    attr: Attr,
    *,
    descend: Descend = lambda _met: True,
    leaving: bool = False,
    hidden: bool = True,
    only: Callable[[int], bool] | None = None,
) -> AsyncIterator[Met]:
    """`path` and all beneath it, directories before what is in them, siblings by name.

    Directories for which `descend` is false are not read. With `leaving`, those that were come again after their
    contents. Without `hidden`, names that begin with a dot are left out; with `only`, those whose mode it
    refuses. A directory that vanishes meanwhile is empty.
    """
    stack = [Met(path, attr, 0, True)]
    while stack:
        met = stack.pop()
        yield met
        if met.leaving or not met.is_directory or not descend(met):
            continue
        if leaving:
            stack.append(met._replace(leaving=True))
        stack += await _children(fs, met, hidden, only)


async def _children(fs: FileSystem, directory: Met, hidden: bool, only: Callable[[int], bool] | None) -> list[Met]:
    """The last one first, as a stack wants them."""
    try:
        entries = await read_directory(fs, directory.attr.ino)
    except errors.NotFound:
        return []
    for name in (entry.name for entry in entries if entry.name in _NO_NAMES or b"/" in entry.name):
        raise errors.ProtocolViolation(f"the NameNode tells of an entry that has no name: {name!r}")
    shown = [entry for entry in entries if hidden or not entry.name.startswith(b".")]
    if only is not None:
        shown = [entry for entry in shown if only(entry.attr.mode)]
    return [
        Met(join(directory.path, entry.name), entry.attr, directory.depth + 1, at == 0)
        for at, entry in enumerate(reversed(shown))
    ]
