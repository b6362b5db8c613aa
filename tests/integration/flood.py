"""A process that sends one daemon as much as it can, over many connections with one key, until it is killed.

    python -m tests.integration.flood KEYFILE CONNECTIONS namenode ADDRESS
    python -m tests.integration.flood KEYFILE CONNECTIONS NODE ADDRESS CHUNK LENGTH

It prints a line when the daemon has all it takes of it: to the NameNode each connection sends full batches of commands
that fail, until one is refused; of a DataNode it reads a chunk's first bytes, until each connection has had an answer.
It is sent away with Busy, and has to wait; other errors end it.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import trio

from dfs import errors, keys, limits
from dfs.rpc import Pool, SocketNetwork
from dfs.types import ROOT_INO

_CALLS_AT_ONCE = 8
"""On each connection."""


class Flood:
    """`full` is set when the daemon is."""

    def __init__(self, key: keys.Key, object_id: str, address: str) -> None:
        self.full = trio.Event()
        self._key = key
        self._object = object_id
        self._address = address
        self._answered = 0

    async def send_commands(self) -> None:
        async with Pool(SocketNetwork(), key=self._key) as pool:
            opened = None
            while opened is None:
                with contextlib.suppress(errors.DeadlineExceeded):  # others flood it already, on a slow machine
                    opened = await self._call(pool, "open_session", {"name": "flood", "host": "here"})
            seq, kept = 0, limits.REPLIES_KEPT_MAX // 2

            async def send() -> None:
                nonlocal seq
                while True:
                    first, seq = seq + 1, seq + limits.BATCH_MAX_COMMANDS
                    batch = [[number, "rmdir", [ROOT_INO, b"none"]] for number in range(first, seq + 1)]
                    try:
                        await self._call(pool, "apply", opened["session"], max(0, first - kept), batch)
                    except errors.Busy:
                        self.full.set()
                        await trio.sleep(0.01)  # of a flood that still fills the queue
                    except errors.DeadlineExceeded:
                        pass  # what has its share only may wait for long on a slow machine

            async with trio.open_nursery() as nursery:
                for _ in range(_CALLS_AT_ONCE):
                    nursery.start_soon(send)

    async def read(self, chunk: int, length: int, connections: int) -> None:
        async with Pool(SocketNetwork(), key=self._key) as pool, trio.open_nursery() as nursery:

            async def read() -> None:
                is_first = True
                while True:
                    await self._call(pool, "read", chunk, 0, length)
                    self._answered += is_first
                    is_first = False
                    if self._answered >= connections:
                        self.full.set()

            for _ in range(_CALLS_AT_ONCE):
                nursery.start_soon(read)

    async def _call(self, pool: Pool, method: str, *args: object) -> Any:
        return await pool.call(self._address, self._object, method, *args)


async def main(key_file: str, connections: str, daemon: str, address: str, *rest: str) -> None:
    key = keys.load_key(Path(key_file))
    flood = Flood(key, f"dfs.{daemon}" if daemon == "namenode" else f"dfs.datanode.{daemon}", address)
    async with trio.open_nursery() as nursery:
        for _ in range(int(connections)):
            if rest:
                nursery.start_soon(flood.read, *map(int, rest), int(connections))
            else:
                nursery.start_soon(flood.send_commands)
        await flood.full.wait()
        sys.stdout.write("full\n")
        sys.stdout.flush()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
