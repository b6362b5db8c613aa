"""How a mount ends: by a signal, or as somebody takes it away, who is told what is committed of it, and what is lost.

Mostly the kernel ends the connection then, and what is left is committed (`Unmounting.begin`, `end`). But what was
taken away from its directory may be in use for long: by files that are open there, a bind mount, or another mount
namespace, as a container's. So the kernel's table of mounts is watched (`watch`). When the mount is not in it any more
all is committed that was there so far, and told; the process goes on, and nobody waits for more.

Invariant: what is being committed is not cancelled when the connection ends meanwhile, as it would be lost. It is a
task of the open files, which go on until all is committed.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog
import trio

from dfs import errors
from dfs.client.accesses import Accesses
from dfs.client.filesystem import FileSystem
from dfs.client.openinodes import OpenInodes
from dfs.ending import Ending
from dfs.mountpoint import Changes, Mounted, find, still, unmount

log = structlog.get_logger(__name__)

_LOOK_EVERY_S: Final = 0.5
"""Whether the kernel's table of mounts has changed."""
_ENDS_WITHIN_S: Final = 0.2
"""The connection of what was taken away, if nobody uses it."""
_NAMED_MAX: Final = 5
"""Of the files of which bytes are lost, so many are named to who unmounts. The log has all."""


class Unmounting:
    """Of one mount; `tell` writes down what it has to say, and may wait for a disk."""

    def __init__(self, fs: FileSystem, inodes: OpenInodes, accesses: Accesses, tell: Callable[[Ending], None]) -> None:
        self._stream = fs.session.stream
        self._wait_s = fs.session.wait_s
        self._inodes = inodes
        self._accesses = accesses
        self._tell = tell
        self._ending = Ending(os.getpid(), 0, 0, self._wait_s)
        self._losses = 0

    async def watch(self, ours: Mounted) -> None:
        """Have all committed and told when the mount is taken away, and somebody uses it still."""
        with Changes() as changes:
            while not changes.any() or still(ours) is not None:  # noqa: ASYNC110 - who asks is told, and nobody else
                await trio.sleep(_LOOK_EVERY_S)
        await trio.sleep(_ENDS_WITHIN_S)  # this is cancelled
        self._begin()
        await trio.to_thread.run_sync(self._tell, self._ending)
        committed = trio.Event()
        self._inodes.start(self._commit, committed)
        with trio.move_on_after(self._wait_s):  # who waits for it gives up by then
            await committed.wait()
            self._ending = self._ending._replace(outcome=self._outcome(), goes_on=True)
            log.info("taken away, and committed, but still in use")
            await trio.to_thread.run_sync(self._tell, self._ending)

    async def _commit(self, committed: trio.Event) -> None:
        await self._inodes.settle_all()
        await self._accesses.flush()
        with contextlib.suppress(errors.DfsError):  # it counts what is lost
            await self._stream.flush()
        committed.set()

    def _begin(self) -> None:
        self._losses = self._stream.losses
        self._ending = Ending(os.getpid(), *self._inodes.uncommitted(), self._wait_s)

    def begin(self) -> None:
        """The connection has ended: tell what is to be committed."""
        if not self._ending.goes_on:
            self._begin()
            self._tell(self._ending)

    def end(self) -> None:
        """Tell what came of it."""
        if not self._ending.goes_on:
            self._tell(self._ending._replace(outcome=self._outcome()))

    def _outcome(self) -> str:
        """A sentence about what is lost that was written or changed, of which nobody has heard; or nothing."""
        found = []
        if losses := self._inodes.untold_losses():
            names = [name for name, _ in losses[:_NAMED_MAX]]
            more = len(losses) - len(names)
            listed = [*names, f"{more} other {'file' if more == 1 else 'files'}"] if more else names
            written = " and ".join(filter(None, [", ".join(listed[:-1]), listed[-1]]))
            found.append(f"what was written to {written} is lost: {losses[-1][1]}")
        if self._stream.losses > self._losses or self._stream.pending():
            found.append("changes of names are lost")
        return "; ".join(found)


async def unmount_on_signals(mountpoint: Path, ours: Mounted | None) -> None:
    """Take a mount away from its directory when this process gets SIGTERM or SIGINT, and nothing that is not ours."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("unmounting", mountpoint=str(mountpoint), signal=signal.Signals(number).name)
            there = still(ours) if ours is not None else None
            if ours is None:  # it was not found in the table: nothing is known better
                await trio.to_thread.run_sync(unmount, mountpoint)
            elif there is not None and find(Path(there.mountpoint)) != there:
                log.warning("not unmounted: something else is mounted on it", mountpoint=there.mountpoint)
            elif there is not None:
                await trio.to_thread.run_sync(unmount, Path(there.mountpoint))
