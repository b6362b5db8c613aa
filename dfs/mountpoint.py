"""Local directories on which file systems are mounted: what is there, and how to take it away."""

from __future__ import annotations

import errno
import os
import queue
import re
import select
import stat
import subprocess
import threading
from pathlib import Path
from typing import Final, NamedTuple, Self

import structlog

from dfs import errors, limits

log = structlog.get_logger(__name__)

_TABLE: Final = Path("/proc/self/mountinfo")
_ATTEMPTS: Final = 3
_LINKS_MAX: Final = 40
"""As many as the kernel follows."""
_ESCAPED: Final = re.compile(rb"\\([0-7]{3})")


class Mounted(NamedTuple):
    """A line of the kernel's table."""

    mount_id: str
    """It is the same wherever its directory is moved. When it is gone another one may have it."""
    device: str
    """MAJOR:MINOR, as in `st_dev`."""
    mountpoint: str
    kind: str
    source: str

    @property
    def connection(self) -> str:
        """Of a FUSE file system: that of its connection below /sys/fs/fuse/connections."""
        return self.device.partition(":")[2]

    @property
    def is_dfs(self) -> bool:
        """Whether a cluster is mounted there, by a process that lives or one that has left it behind."""
        return self.kind == "fuse.dfs"


def prepare(mountpoint: Path) -> None:
    """See that something can be mounted there; clear away what a mount that was killed left.

    Raises `NotFound`, `NotADirectory`, `NotPermitted` or `Exists` (something is mounted there and works).
    """
    if is_dead(mountpoint):
        log.info("a mount was left behind there, taking it over", mountpoint=str(mountpoint))
        unmount(mountpoint)
    if is_mounted(mountpoint):  # before anything else of it is asked: it may hang
        raise errors.Exists(f"something is mounted on {mountpoint} already: unmount it first")
    try:
        is_directory = stat.S_ISDIR(mountpoint.stat().st_mode)
    except FileNotFoundError:
        raise errors.NotFound(f"there is no directory to mount on: {mountpoint}") from None
    except PermissionError:
        raise errors.NotPermitted(f"no permission to look at {mountpoint}") from None
    if not is_directory:
        raise errors.NotADirectory(f"not a directory: {mountpoint}")


def is_dead(mountpoint: Path) -> bool:
    """Whether a mount is there whose process is gone. One that does not answer in MOUNT_ANSWER_S hangs: it is not.

    It is asked for its space: attributes the kernel shows for a while after the process was killed.
    """
    said: queue.SimpleQueue[int] = queue.SimpleQueue()
    threading.Thread(target=_ask_for_space, args=(mountpoint, said), daemon=True).start()
    try:
        return said.get(timeout=limits.MOUNT_ANSWER_S) in (errno.ENOTCONN, errno.ECONNABORTED)
    except queue.Empty:
        return False


def _ask_for_space(mountpoint: Path, said: queue.SimpleQueue[int]) -> None:
    """Put there the errno that came of it, or 0. May wait for as long as the file system does."""
    try:
        os.statvfs(mountpoint)
    except OSError as error:
        said.put(error.errno or 0)
    else:
        said.put(0)


def is_mounted(mountpoint: Path) -> bool:
    """Whether something is mounted just there. Asks the kernel's table, never the file system that is mounted."""
    return find(mountpoint) is not None


def find(mountpoint: Path) -> Mounted | None:
    """What was mounted there last."""
    wanted = as_listed(mountpoint)
    return next((each for each in reversed(mounted()) if each.mountpoint == wanted), None)


def as_listed(mountpoint: Path) -> str:
    """A path as the kernel's table has it: through no symbolic link. A mount at its end is not asked."""
    whole = mountpoint.absolute()
    for _ in range(_LINKS_MAX):
        whole = Path(os.path.realpath(whole.parent), whole.name)
        try:
            whole = whole.parent / whole.readlink()
        except OSError:  # it is none
            break
    return os.fspath(whole)


def mounted() -> list[Mounted]:
    """All that is mounted, what was mounted last at the end."""
    return [parse(line) for line in _TABLE.read_bytes().split(b"\n") if line]  # a name may have other ends of lines


def still(mount: Mounted) -> Mounted | None:
    """What was mounted, as it is listed now. None if it was taken away."""
    found = (each for each in mounted() if (each.mount_id, each.device) == (mount.mount_id, mount.device))
    return next(found, None)


class Changes:
    """Whether what is mounted has changed: a context manager, as it keeps the kernel's table open."""

    def __init__(self) -> None:
        self._table = open(_TABLE, "rb")  # noqa: SIM115 - until `__exit__`
        self._poll = select.poll()
        self._poll.register(self._table, select.POLLPRI)  # proc(5)
        self._is_first = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._table.close()

    def any(self) -> bool:
        """Whether it may have changed since this was asked last; at first it may."""
        may_have, self._is_first = self._is_first, False
        return bool(self._poll.poll(0)) or may_have


def parse(line: bytes) -> Mounted:
    """A line of mountinfo: proc(5)."""
    fields, _, rest = line.partition(b" - ")
    mount_id, _, device, _, mountpoint = fields.split(b" ")[:5]
    kind, source = rest.split(b" ")[:2]
    return Mounted(*map(_unescaped, (mount_id, device, mountpoint, kind, source)))


def _unescaped(field: bytes) -> str:
    return os.fsdecode(_ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), field))


def unmount(mountpoint: Path, *, lazy: bool = True) -> None:
    """Take a mount away from its directory; `lazy`: whatever is still open on it.

    Raises `Busy` where that is so, or else `NotPermitted`, which says why.
    """
    command = ["fusermount3", "-uz" if lazy else "-u", str(mountpoint)]
    for _ in range(_ATTEMPTS):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not done.returncode or not is_mounted(mountpoint):
            return
        if done.returncode > 0:  # or a signal ended it that all processes of a service got, and this one came just then
            break
    if "resource busy" in done.stderr:  # EBUSY; fusermount3 speaks no other language
        raise errors.Busy(f"cannot unmount {mountpoint}: files on it are open, or somebody works in it")
    reason = done.stderr.strip() or f"fusermount3 ended with status {done.returncode}"
    raise errors.NotPermitted(f"cannot unmount {mountpoint}: {reason}")
