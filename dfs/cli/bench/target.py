"""The seam between what is measured and how a directory is used: through the Python API, or through system calls."""

from __future__ import annotations

import time
from typing import Final, Protocol

import trio

from dfs.cli.bench.figures import Stopwatch

PIECE_BYTES: Final = 1 << 20
"""In which large files are written and read: as `cp` does, and more than most programs."""
_TURN_S: Final = 0.005


class Breather:
    """Other tasks' turns, in a loop whose steps may never wait: one every few milliseconds costs nothing."""

    def __init__(self) -> None:
        self._given_s = time.monotonic()

    async def give(self) -> None:
        """Let others run, if it is time."""
        if time.monotonic() - self._given_s >= _TURN_S:
            await trio.lowlevel.checkpoint()
            self._given_s = time.monotonic()


class Handle(Protocol):
    """An open file."""

    async def pread(self, length: int, offset: int) -> int:
        """Read; how many bytes there were."""
        ...

    async def pwrite(self, data: memoryview, offset: int) -> None:
        """Write all; in a file that was opened to append, at its end."""
        ...

    async def fsync(self) -> None: ...

    async def aclose(self) -> None: ...


class Target(Protocol):
    """A new directory to measure in. Paths are relative to it."""

    @property
    def rereads(self) -> bool:
        """Whether this machine keeps what was read, so that reading again is another thing."""
        ...

    async def write_whole(self, path: str, size_bytes: int, pattern: memoryview, watch: Stopwatch) -> None:
        """Make a file of `size_bytes`, or as much as time allows, of repetitions of `pattern`, a piece long.

        Durable on return; a lap a piece.
        """
        ...

    async def read_whole(self, path: str, watch: Stopwatch) -> None:
        """Read a file from its beginning to its end, or until time is up; a lap a piece."""
        ...

    async def open(self, path: str, mode: str) -> Handle:
        """`r`: to read; `r+`: to read and write; `x`: make it, write; `a`: make it if need be, append."""
        ...

    async def forget(self, path: str) -> None:
        """Have this machine's kernel keep nothing of a file's bytes, where it does."""
        ...

    async def stat(self, path: str) -> None: ...

    async def list(self, path: str) -> int:
        """Read a directory with the attributes of all that is in it; how many entries."""
        ...

    async def mkdir(self, path: str) -> None: ...

    async def rename(self, old: str, new: str) -> None: ...

    async def unlink(self, path: str) -> None: ...
