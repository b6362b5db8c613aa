"""Local files in the making. What is no coroutine blocks: call it in worker threads.

A file is written under a name of its own beside its place, and gets its place when all of it is there: by `rename`
where it may replace another, by `link` where it may not, which refuses a name that is taken in the same moment.
"""

# ruff: noqa: PTH104, PTH105, PTH108, PTH116, PTH120 - paths are bytes

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from dfs.cli.arguments import beside

_NO_HARD_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Draft:
    """A file in the making beside `target`, open as `fd`. `discard` must be called at the end, come what may."""

    def __init__(self, target: bytes) -> None:
        """Raises OSError, about `target`'s directory, if none can be made there."""
        self.target = target
        self._path: bytes | None = beside(target, secrets.token_hex(4))
        try:
            self.fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            error.filename = target
            raise

    def publish(self, *, replace: bool, sync: bool = False) -> None:
        """Give the file its place; with `sync` both are durable then. Raises FileExistsError if that is taken, unless
        `replace`.
        """
        assert self._path is not None, "a draft is published once"
        if sync:
            os.fsync(self.fd)
        try:
            if replace:
                os.replace(self._path, self.target)
                self._path = None
            else:
                self._link(self._path)
        except FileExistsError:
            raise FileExistsError(errno.EEXIST, "exists already (-f replaces it)", self.target) from None
        if sync:
            sync_directory(self.target)

    def _link(self, path: bytes) -> None:
        """`discard` removes the draft's own name later."""
        try:
            os.link(path, self.target)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            if os.path.lexists(self.target):
                raise FileExistsError from None
            os.rename(path, self.target)
            self._path = None

    def discard(self) -> None:
        """Close, and remove what was not published."""
        os.close(self.fd)
        if self._path is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
            self._path = None


def check_target(target: bytes, force: bool, is_named: bool) -> bool:
    """Whether it is to be written into, a device or a pipe. Says early what publishing would say after all were moved.

    What nobody has named may have come from the cluster, as a link that leads anywhere.
    """
    try:
        mode = os.lstat(target).st_mode
    except FileNotFoundError:
        return False
    if is_named and _is_special(target):  # links to one, such as /dev/stdout, too
        return True
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a directory", target)
    if not force:
        raise FileExistsError(errno.EEXIST, "exists already (-f replaces it)", target)
    return False


@asynccontextmanager
async def opened(special: bytes) -> AsyncIterator[int]:
    """A device or a pipe, to be written into; nobody may ever read it."""
    fd = await trio.to_thread.run_sync(os.open, special, os.O_WRONLY | os.O_CLOEXEC, abandon_on_cancel=True)
    try:
        yield fd
    finally:
        os.close(fd)


def _is_special(path: bytes) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False  # a link that leads nowhere
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode) or stat.S_ISFIFO(mode)


def sync_directory(path: bytes) -> None:
    """Make the name durable, too."""
    sync_names(os.path.dirname(path.rstrip(b"/")) or b".")


def sync_names(directory: bytes) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
