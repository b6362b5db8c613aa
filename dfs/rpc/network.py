"""The seam to the network: what the transport asks of it, whether sockets or a simulation answer.

Both implementations (dfs.rpc.sockets, and the simulated one of the tests) pass one contract suite. Errors
are those of `dfs.errors`: `Unreachable` when no connection could be made, `ConnectionLost` when one broke.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dfs.checksum import Buffer
from dfs.rpc.handover import Inbox


class Stream(Protocol):
    """One connection: a pipe of bytes each way, in order. One task receives, one at a time sends.

    A call that can go on at once does so without a checkpoint: who calls in a loop sees to fairness.
    """

    @property
    def peer(self) -> str:
        """Address of the other end, for people."""
        ...

    @property
    def holder(self) -> str:
        """Whose certificate the other end has shown, `role:name`; empty without TLS."""
        ...

    @property
    def binding(self) -> bytes:
        """A hash that both ends know of this connection's server, and no other server has; empty without TLS."""
        ...

    async def secure(self) -> None:
        """Shake hands where the network asks for it: once, after `accept` and before all else.

        A connection that was made is secured already. Raises Refused for a stranger, and ConnectionLost.
        """
        ...

    def send_nowait(self, buffers: Sequence[Buffer]) -> int:
        """Send what can be sent at once; return the number of bytes, which may be 0."""
        ...

    async def wait_writable(self) -> None:
        """Wait until `send_nowait` may take a byte, or would raise."""
        ...

    async def receive_into(self, view: memoryview) -> int:
        """Wait for bytes and put them at the start of `view`; return how many, 0 for the end.

        When cancelled, it has received nothing: no byte is lost.
        """
        ...

    def expect(self, count: int) -> None:
        """Say that at least `count` more bytes will come, so that `receive_into` may wait for many at once.

        A hint, in force until the next one: it may wait until `count` bytes are there, or fewer, or the end, and may
        return any number. 1, as at first: any byte ends the wait, also one that has begun.
        """
        ...

    async def aclose(self) -> None:
        """Close both directions. Tasks that wait on the stream get ConnectionLost. Again is no error."""
        ...


class Listener(Protocol):
    """A place where connections arrive."""

    @property
    def address(self) -> str:
        """As bound: with the port that the kernel chose where 0 was asked for."""
        ...

    async def accept(self) -> Stream:
        """Wait for the next connection. Raises OSError when the process has run out of descriptors."""
        ...

    async def aclose(self) -> None:
        """Stop listening. Again is no error."""
        ...


class Network(Protocol):
    """Makes connections. Addresses are written as in dfs.rpc.address."""

    async def connect(self, address: str, timeout_s: float) -> Stream:
        """A connection to `address`. Raises Unreachable with the reason in words."""
        ...

    async def listen(self, address: str) -> Listener:
        """Listen at `address`. Raises Unreachable when it cannot be bound."""
        ...

    def inbox(self) -> Inbox | None:
        """A place where other processes of this host can put open files; None where that cannot be had."""
        ...


def without_first(buffers: Sequence[Buffer], count: int) -> list[Buffer]:
    """The buffers less their first `count` bytes: what is left after a partial send. Copies nothing."""
    rest: list[Buffer] = []
    for buffer in buffers:
        if count >= len(buffer):
            count -= len(buffer)
        elif count:
            rest.append(memoryview(buffer)[count:])
            count = 0
        else:
            rest.append(buffer)
    return rest
