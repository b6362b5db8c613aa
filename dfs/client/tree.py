"""Removing a whole tree: many commands at a time, by inode numbers, whatever its depth.

Directories wait on a stack of our own (a tree may be deeper than Python's), and some are worked on at once: each costs
a few round trips, one after the other. What a directory holds besides directories is unlinked page by page, all at
once, so that it travels in few batches; it goes itself when the last of its directories has gone.
"""

from __future__ import annotations

import stat
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from dfs import errors, limits, tasks
from dfs.client.inodes import Inodes
from dfs.client.paths import Place
from dfs.types import Attr, Ino

OnError = Callable[[bytes, errors.DfsError], None]

_DIRECTORIES_AT_ONCE: Final = 16


class _Directory:
    """A directory to be removed. `left` is what goes before it does: its entries, as one, and its directories."""

    __slots__ = ("above", "ino", "left", "path", "place")

    def __init__(self, place: Place, ino: Ino, path: bytes, above: _Directory | None) -> None:
        self.place = place
        self.ino = ino
        self.path = path
        self.above = above
        self.left = 1


async def remove_tree(inodes: Inodes, place: Place, attr: Attr, path: bytes, on_error: OnError | None) -> int:
    """Remove what is at `place` and all beneath; how many names went.

    An error goes to `on_error` with the path it is about, and the rest goes on; without it, the first is raised.
    """
    if not stat.S_ISDIR(attr.mode):
        await inodes.unlink(place.parent, place.name)
        return 1
    removal = _Removal(inodes, on_error)
    await removal.run(_Directory(place, attr.ino, path, None))
    return removal.removed


class _Removal:
    """One tree that goes. `removed` are the names that have gone."""

    def __init__(self, inodes: Inodes, on_error: OnError | None) -> None:
        self.removed = 0
        self._inodes = inodes
        self._on_error = on_error
        self._stack: list[_Directory] = []
        self._at_work = 0
        self._progress = trio.Event()
        self._unlinks = trio.Semaphore(limits.BATCH_MAX_COMMANDS)

    async def run(self, top: _Directory) -> None:
        self._stack.append(top)
        async with tasks.open_nursery() as nursery:
            while self._stack or self._at_work:
                while self._stack and self._at_work < _DIRECTORIES_AT_ONCE:
                    self._at_work += 1
                    nursery.start_soon(self._remove, self._stack.pop())
                self._progress = trio.Event()
                await self._progress.wait()

    async def _remove(self, directory: _Directory) -> None:
        """Remove what is in a directory, itself if nothing is left, and those above that waited for nothing else."""
        try:
            await self._empty(directory)
        except (errors.NotFound, errors.NotADirectory):
            pass  # somebody else was faster
        self._progress.set()  # there may be directories to begin with
        done: _Directory | None = directory
        while done is not None:
            done.left -= 1
            if done.left:
                break
            await self._attempt(self._inodes.rmdir, done.place, done.path)
            done = done.above
        self._at_work -= 1
        self._progress.set()

    async def _empty(self, directory: _Directory) -> None:
        """Unlink all that is no directory; directories go on the stack."""
        after = 0
        while entries := await self._inodes.readdir(directory.ino, after, limits.BATCH_MAX_COMMANDS):
            after = entries[-1].cookie
            if not await self._is_there(directory):
                break
            async with tasks.open_nursery() as nursery:
                for entry in entries:
                    place, path = Place(directory.ino, entry.name), directory.path + b"/" + entry.name
                    if stat.S_ISDIR(entry.attr.mode):
                        directory.left += 1
                        self._stack.append(_Directory(place, entry.attr.ino, path, directory))
                    else:
                        await self._unlinks.acquire()
                        nursery.start_soon(self._unlink, place, path)

    async def _is_there(self, directory: _Directory) -> bool:
        """Whether a directory is still where it was listed: one that was moved away is not to be emptied."""
        parent, name = directory.place
        return (await self._inodes.lookup(parent, name)).ino == directory.ino

    async def _unlink(self, place: Place, path: bytes) -> None:
        try:
            await self._attempt(self._inodes.unlink, place, path)
        finally:
            self._unlinks.release()

    async def _attempt(self, verb: Callable[[Ino, bytes], Awaitable[Attr]], place: Place, path: bytes) -> None:
        try:
            await verb(place.parent, place.name)
            self.removed += 1
        except errors.NotFound:
            pass  # somebody else was faster
        except errors.DfsError as error:
            if self._on_error is None:
                raise
            self._on_error(path, error)
