"""Removing a whole tree: many commands at a time, by inode numbers, whatever its depth.

Directories wait on a stack of our own (a tree may be deeper than Python's). What a directory holds besides
directories is unlinked page by page, a page's commands all at once, so that they travel in few batches.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from typing import NamedTuple

from dfs import errors, limits, tasks
from dfs.client.inodes import Inodes
from dfs.client.paths import Place
from dfs.types import Attr, Ino

OnError = Callable[[bytes, errors.DfsError], None]


class _Directory(NamedTuple):
    """A directory to be removed: the first time it is met its entries go, the second time itself."""

    place: Place
    ino: Ino
    path: bytes
    emptied: bool


async def remove_tree(inodes: Inodes, place: Place, attr: Attr, path: bytes, on_error: OnError | None) -> int:
    """Remove what is at `place` and all beneath; how many names went.

    An error goes to `on_error` with the path it is about, and the rest goes on; without it, the first is raised.
    """
    if not stat.S_ISDIR(attr.mode):
        await inodes.unlink(place.parent, place.name)
        return 1
    removed = 0
    stack = [_Directory(place, attr.ino, path, False)]
    while stack:
        directory = stack.pop()
        if directory.emptied:
            removed += await _attempt(inodes.rmdir, directory.place, directory.path, on_error)
            continue
        try:
            stack.append(directory._replace(emptied=True))
            removed += await _empty(inodes, directory, stack, on_error)
        except (errors.NotFound, errors.NotADirectory):
            pass  # somebody else was faster
    return removed


async def _is_there(inodes: Inodes, directory: _Directory) -> bool:
    """Whether a directory is still where it was listed: one that was moved away is not to be emptied."""
    return (await inodes.lookup(directory.place.parent, directory.place.name)).ino == directory.ino


async def _empty(inodes: Inodes, directory: _Directory, stack: list[_Directory], on_error: OnError | None) -> int:
    """Unlink all that is no directory; directories go on the stack."""
    removed = 0
    after = 0

    async def unlink(name: bytes) -> None:
        nonlocal removed
        count = await _attempt(inodes.unlink, Place(directory.ino, name), directory.path + b"/" + name, on_error)
        removed += count  # not across the await: the others add, too

    while entries := await inodes.readdir(directory.ino, after, limits.BATCH_MAX_COMMANDS):
        after = entries[-1].cookie
        if not await _is_there(inodes, directory):
            break
        async with tasks.open_nursery() as nursery:
            for entry in entries:
                if stat.S_ISDIR(entry.attr.mode):
                    place = Place(directory.ino, entry.name)
                    stack.append(_Directory(place, entry.attr.ino, directory.path + b"/" + entry.name, False))
                else:
                    nursery.start_soon(unlink, entry.name)
    return removed


async def _attempt(verb: Callable[..., object], place: Place, path: bytes, on_error: OnError | None) -> int:
    try:
        await verb(place.parent, place.name)  # type: ignore[misc]
    except errors.NotFound:
        return 0  # somebody else was faster
    except errors.DfsError as error:
        if on_error is None:
            raise
        on_error(path, error)
        return 0
    return 1
