"""One open(2) of a file, and what its program has been told of bytes that were lost: as Linux tells it.

Of a loss hear all who had the file open then, each once: in close(2) or fsync(2), whichever comes first. If nobody had,
or nobody has heard yet, the first fsync(2) through any other handle does (`OpenInode.take_loss`). Writes hear of it
before, twice, so that who fills a disk stops soon: of an error that is not the first answer in a write(2) the kernel
makes a short write, and the rest comes as another one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from dfs import errors
from dfs.client.openinode import OpenInode


class OpenFile:
    """Made when the file is opened. `_told` of the inode's late errors have been heard of; by writes, `_told_writers`.

    All methods raise as the inode's do, besides the late errors that they tell.
    """

    __slots__ = ("_told", "_told_writers", "inode")

    def __init__(self, inode: OpenInode) -> None:
        self.inode = inode
        self._told = inode.late_errors
        self._told_writers = [inode.late_errors] * 2

    async def flush(self) -> None:
        """Raises also what went wrong since the file was opened, and neither this nor `fsync` has raised yet."""
        await self._telling(self.inode.flush)

    async def fsync(self) -> None:
        """Likewise; and what went wrong before it was opened, if nobody has heard of that."""
        await self._telling(self.inode.fsync)
        _raise(self.inode.take_loss())

    def tell_writer(self) -> None:
        """Raise what went wrong since the file was opened, unless `flush`, `fsync` or two calls of this have."""
        now = self.inode.late_errors
        if self._told_writers[0] != now:
            self._told_writers = [*self._told_writers[1:], now]
            if self._told_writers[0] == now:
                self.inode.take_loss()
            _raise(self.inode.late_error)

    async def _telling(self, work: Callable[[], Awaitable[None]]) -> None:
        told = self._told
        try:
            await work()
        except errors.DfsError:
            self._tell_all()
            self.inode.take_loss()
            raise
        self._tell_all()
        if self._told != told:
            self.inode.take_loss()
            _raise(self.inode.late_error)

    def _tell_all(self) -> None:
        self._told = self.inode.late_errors
        self._told_writers = [self._told] * 2


def _raise(error: errors.DfsError | None) -> None:
    """An error that was noted, anew: others may be told it as well, each with a traceback of his own."""
    if error is not None:
        raise type(error)(error.message)
