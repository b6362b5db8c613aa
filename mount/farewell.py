"""Saying for a mount that was killed, or found no NameNode when it ended, that its session is over.

    python -P -m mount.farewell NAMENODE KEYFILE NOTE

Without that everybody who wants what it had leases on waits until the session has timed out. What the mount had not
committed is lost either way. After it was killed nothing is said before the kernel's time-outs are over, a third of
that time: until then programs on the dead mount may be shown what it was told, and nobody may change that. The guard
(`mount.guard`) becomes this program when the mount is no more, and NOTE, a descriptor, has a session: so nothing here
is imported before it is needed.

A machine that loses its power or its network says nothing: that is what the time-out is for. Nor is a session ended by
who only believes that the mount is dead: a process that is stopped, or waits for the kernel, has not ended.
"""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path
from typing import Final

import structlog
import trio

from dfs import errors, limits
from dfs.keys import Key
from dfs.keystore import KeyStore
from dfs.rpc import Pool, SocketNetwork
from dfs.telemetry import configure_logs
from dfs.types import NAMENODE_OBJECT, SessionId

log = structlog.get_logger(__name__)

_NOTE: Final = struct.Struct("<qd")


class Note:
    """The session that a process has, 0 for none, and for how many seconds the kernel believes what it says.

    In memory that outlives the process as long as somebody has the descriptor.
    """

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("dfs-session")
        self.write(None, 0.0)

    def write(self, session: SessionId | None, believed_s: float) -> None:
        os.pwrite(self.descriptor, _NOTE.pack(session or 0, believed_s), 0)


def read(descriptor: int) -> tuple[SessionId, float]:
    """What a note says."""
    session, believed_s = _NOTE.unpack(os.pread(descriptor, _NOTE.size, 0))
    return SessionId(session), believed_s


def command(namenode: str, key_file: Path, note: Note) -> list[str]:
    """What the guard is to become."""
    return [sys.executable, "-P", "-m", __name__, namenode, str(key_file), str(note.descriptor)]


async def end_session(namenode: str, key: Key, session: SessionId, after_s: float) -> None:
    """End a session that was opened with this key, after so many seconds; one that has ended is no error.

    Tries for FAREWELL_TRIES_S where the NameNode is away, after which the session has timed out or soon does. Raises
    the last error.
    """
    await trio.sleep(after_s)
    give_up_at = trio.current_time() + limits.FAREWELL_TRIES_S
    async with Pool(SocketNetwork(key.tls), key=key) as pool:
        while True:
            try:
                timeout_s = limits.FIRST_CONTACT_TIMEOUT_S
                await pool.call(namenode, NAMENODE_OBJECT, "close_session", session, timeout_s=timeout_s)
                return
            except errors.NotPermitted:
                raise
            except errors.DfsError:
                if trio.current_time() >= give_up_at:
                    raise
            await trio.sleep(limits.RETRY_DELAY_MAX_S)


def main() -> int:
    namenode, key_file, note = sys.argv[1:]
    configure_logs("info")
    session, believed_s = read(int(note))
    try:
        trio.run(end_session, namenode, KeyStore(Path(key_file)).key, session, believed_s)
    except errors.DfsError as error:
        log.warning("the mount is no more, and its session is left to its time-out", session=session, error=str(error))
        return 1
    log.warning("the mount is no more: its session was ended, with what it had not committed, if any", session=session)
    return 0


if __name__ == "__main__":
    sys.exit(main())
