"""One mount from beginning to end: contact, mount, serve, commit what is dirty, unmount.

The process ends when it is unmounted, or on SIGTERM or SIGINT (then it unmounts first): `mount.unmounting`. Whoever
started it learns through `ready` that the mount answers, and whoever unmounts it through `tell_end` what it had to
commit, and what came of that. Its status is 0 also when something was lost: a service manager would mount it again.
"""

from __future__ import annotations

import os
import stat
import string
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import pyfuse3
import structlog
import trio

from dfs import errors, limits, tasks
from dfs.client.accesses import record_accesses
from dfs.client.cache import Cache
from dfs.client.filesystem import FileSystem, open_filesystem
from dfs.client.openinodes import open_inodes
from dfs.client.paths import show
from dfs.client.session import this_process
from dfs.ending import Ending
from dfs.keystore import KeyStore
from dfs.logfiles import empty_if_full
from dfs.mountoptions import Options
from dfs.mountpoint import Mounted, find, is_mounted, prepare
from dfs.systemd import keep_watchdog
from dfs.types import Attr, SessionId
from mount import farewell, guard
from mount.kernel import Kernel
from mount.loop import device, serve
from mount.operations import Operations
from mount.unmounting import Unmounting, unmount_on_signals

log = structlog.get_logger(__name__)

_CONNECTIONS: Final = Path("/sys/fs/fuse/connections")
_LISTED: Final = "".join({" ", *string.punctuation} - {"%", ",", "\\"})
"""What of a source is listed as it is, as are letters and digits: pyfuse3 wants ASCII, libfuse parts at commas."""


class Mounting(NamedTuple):
    """The directory `subtree` of the cluster at `namenode`, to be mounted on `mountpoint`.

    `source` is what the kernel lists as what is mounted there. `mount -a` mounts a line of fstab if there is none yet
    with the line's source and directory.
    """

    namenode: str
    subtree: str
    source: str
    mountpoint: Path

    @property
    def listed(self) -> str:
        return urllib.parse.quote(os.fsencode(self.source), safe=_LISTED)


async def run_mount(
    mounting: Mounting,
    store: KeyStore,
    options: Options,
    ready: Callable[[], None],
    tell_end: Callable[[Ending], None],
    log_file: Path | None = None,
) -> None:
    """Serve a directory of the cluster until it is unmounted, with the key in a file; keep the log bounded, if in one.

    Raises `Unreachable` (no NameNode), `NotFound` or `NotADirectory` (`subtree`), and what `prepare` raises.
    """
    namenode, subtree, mountpoint = mounting.namenode, mounting.subtree, mounting.mountpoint
    prepare(mountpoint)
    note = farewell.Note()
    cache = Cache(options.cache_entries, options.cache_entries)
    async with (
        open_filesystem(
            namenode,
            store.key,
            wait_s=options.wait_s,
            keep=store.keep,
            cache=cache,
            name=this_process(f"mount {mountpoint}"),
        ) as fs,
        record_accesses(fs) as accesses,
        open_inodes(fs) as inodes,
    ):

        def take_note(session: SessionId | None) -> None:
            note.write(session, fs.session.kernel_timeout_max_s)

        fs.session.on_session = take_note
        take_note(fs.session.session)
        fs.session.wants_directories = not options.sync_metadata
        top = await _top(fs, subtree)
        kernel = Kernel(fs.session, cache, top.ino, device())
        fs.recall_listeners.append(kernel.forget)  # after open files, which must be held before a name goes
        fs.session.on_forget_all = kernel.forget_all
        inodes.on_own_change = kernel.changed
        inodes.give = kernel.give
        inodes.on_loss = kernel.lost
        inodes.flush_on_close = options.flush_on_close
        operations = Operations(fs, inodes, accesses, kernel, device(), top.ino, options)
        wanted = {"default_permissions", "subtype=dfs", f"fsname={mounting.listed}", *options.kernel}
        wanted |= {"allow_other"} if options.allow_other else set()
        wanted |= {"ro"} if options.read_only else set()
        try:
            pyfuse3.init(operations, str(mountpoint), wanted)
        except RuntimeError as error:
            raise errors.NotPermitted(f"the kernel does not mount on {mountpoint}: {error}") from None
        unmounting = Unmounting(fs, inodes, accesses, tell_end)
        try:
            ours = find(mountpoint)
            _guard(ours, note, farewell.command(namenode, store.path, note))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(unmount_on_signals, mountpoint, ours)
                if ours is not None:
                    nursery.start_soon(tasks.in_advance, unmounting.watch, ours)
                nursery.start_soon(keep_watchdog)
                if log_file is not None:
                    nursery.start_soon(_bound_log, log_file)
                nursery.start_soon(_tell_when_it_answers, mountpoint, ready)
                await serve()
                nursery.cancel_scope.cancel()
        finally:
            pyfuse3.close(unmount=is_mounted(mountpoint))
            note.write(fs.session.session, 0.0)
            unmounting.begin()
            log.info("unmounted", mountpoint=str(mountpoint), **inodes.statistics(), **kernel.statistics())

    unmounting.end()


async def _top(fs: FileSystem, subtree: str) -> Attr:
    attr = await fs.stat(subtree)
    if not stat.S_ISDIR(attr.mode):
        raise errors.NotADirectory(f"not a directory of the cluster: {show(subtree)}")
    return attr


async def _tell_when_it_answers(mountpoint: Path, ready: Callable[[], None]) -> None:
    await trio.to_thread.run_sync(_read_ahead_more, mountpoint, abandon_on_cancel=True)
    log.info("mounted", mountpoint=str(mountpoint), pid=os.getpid())
    ready()


async def _bound_log(path: Path) -> None:
    while True:
        await trio.sleep(limits.LOG_CHECK_PERIOD_S)
        try:
            await trio.to_thread.run_sync(empty_if_full, path, abandon_on_cancel=True)
        except OSError as error:
            log.error("the log cannot be bounded", error=str(error))


def _read_ahead_more(mountpoint: Path) -> None:
    """Have the kernel ask for much at a time of files that are read in order: by default it is 128 KiB.

    It asks the mount, which answers by that. Only root may: without, reading in order costs half as much again. More
    would be a little faster still, but who reads pages of a mapped file at random has as much read around each.
    """
    device = mountpoint.stat().st_dev
    setting = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    try:
        setting.write_text(str(limits.KERNEL_READ_AHEAD_BYTES // limits.KIB), encoding="ascii")
    except OSError as error:
        log.info("the kernel reads ahead as little as it does by default", error=error.strerror)


def _guard(ours: Mounted | None, note: farewell.Note, command: Sequence[str]) -> None:
    """Have the connection, and the session in `note`, end with the thread that calls this: `mount.guard`."""
    abort = -1
    try:
        abort = _open_abort(ours)
    except OSError as error:
        log.info("should this process be killed, the mount may hang: nothing can abort it", error=str(error))
    try:
        program = [sys.executable, "-I", "-S", guard.__file__, str(abort), str(os.getpid()), str(note.descriptor)]
        passed = [descriptor for descriptor in (abort, note.descriptor) if descriptor >= 0]
        subprocess.Popen(
            [*program, *command], stdin=subprocess.DEVNULL, cwd="/", start_new_session=True, pass_fds=passed
        )
    except OSError as error:
        log.info("should this process be killed, others wait for its session to time out", error=str(error))
    finally:
        if abort >= 0:
            os.close(abort)


def _open_abort(ours: Mounted | None) -> int:
    """The file by which the kernel gives up the connection. Raises OSError."""
    if not is_mounted(_CONNECTIONS):  # systemd would have mounted it; root may
        subprocess.run(["mount", "-t", "fusectl", "fusectl", _CONNECTIONS], capture_output=True, check=False)
    if ours is None:
        raise FileNotFoundError("it is not listed among the mounts")
    return os.open(_CONNECTIONS / ours.connection / "abort", os.O_WRONLY | os.O_CLOEXEC)
