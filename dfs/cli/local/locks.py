"""Two locks keep a local cluster whole. Both are flock(2) on files in its directory, gone with their holders.

`up.lock` is held by one `dfs up`, `dfs down` or `dfs restart` at a time: by the last to its end, so that no two take
daemons away at once, by `dfs up` while it looks and decides, not while it waits for a cluster that starts.
`supervisor.lock` is taken by the supervisor, and every daemon inherits its descriptor: an flock belongs to the open
file and not to a process, so it is free only when the supervisor *and* all daemons it started are gone. That is how
a killed supervisor's daemons are known, without trusting process numbers that the kernel gives away again.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def holding(path: Path) -> Iterator[None]:
    """Hold the lock in an existing file, waiting for whoever has it: another command, which ends by itself."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def take(path: Path) -> int | None:
    """Take a lock, making its file where missing: a descriptor that holds it until closed, None if it is taken."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock now."""
    if not path.exists():
        return True
    descriptor = take(path)
    if descriptor is None:
        return False
    os.close(descriptor)
    return True


def holders(path: Path) -> list[int]:
    """Processes of ours that have the lock's file open, this one aside."""
    wanted = path.stat()
    processes = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in processes if pid != os.getpid() and _has_open(pid, wanted)]


def _has_open(pid: int, wanted: os.stat_result) -> bool:
    try:
        return any(_is_same(entry, wanted) for entry in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # it ended meanwhile, or is another user's
        return False


def _is_same(entry: Path, wanted: os.stat_result) -> bool:
    try:
        return os.path.samestat(entry.stat(), wanted)
    except OSError:  # closed meanwhile, or a kind of descriptor that has no such thing
        return False


def wait_for_a_holder(path: Path, timeout_s: float) -> None:
    """Wait until one of the lock's holders has ended, `timeout_s` seconds at most."""
    with _opened(holders(path)) as descriptors:
        poll = select.poll()
        for descriptor in descriptors:
            poll.register(descriptor, select.POLLIN)
        poll.poll(timeout_s * 1000)


def kill_holders(path: Path) -> None:
    """SIGKILL to every process that has the lock's file open."""
    for pid in holders(path):
        with _opened([pid]) as descriptors:
            # Looked at again now that the descriptor pins the process: the number cannot have changed hands since.
            if descriptors and _has_open(pid, path.stat()):
                signal.pidfd_send_signal(descriptors[0], signal.SIGKILL)


@contextmanager
def _opened(pids: list[int]) -> Iterator[list[int]]:
    """Process descriptors of those among `pids` that live."""
    descriptors = []
    try:
        for pid in pids:
            try:
                descriptors.append(os.pidfd_open(pid))
            except ProcessLookupError:
                continue
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
