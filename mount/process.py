"""One mount from beginning to end: contact, mount, serve, commit what is dirty, unmount.

The process ends when it is unmounted, or on SIGTERM or SIGINT (then it unmounts first). Whoever started it learns
through `ready` that the mount answers, and whoever unmounts it through `tell_end` what it had to commit, and what came
of that. What is taken away from its directory may still be in use, by files that are open there, a bind mount, or
another mount namespace, as a container's; then all is committed and told that was there so far, and the process goes
on. Its status is 0 also when something was lost: a service manager would mount it again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import pyfuse3
import structlog
import trio

from dfs import errors, limits
from dfs.client.accesses import Accesses, record_accesses
from dfs.client.cache import Cache
from dfs.client.filesystem import FileSystem, open_filesystem
from dfs.client.openinodes import OpenInodes, open_inodes
from dfs.client.paths import show
from dfs.ending import Ending
from dfs.keystore import KeyStore
from dfs.mountpoint import Changes, Mounted, find, is_mounted, mounted, prepare, unmount
from dfs.systemd import keep_watchdog
from dfs.types import Attr, SessionId
from mount import farewell, guard
from mount.kernel import Kernel
from mount.loop import device, serve
from mount.operations import Operations
from mount.options import Options

log = structlog.get_logger(__name__)

_CONNECTIONS: Final = Path("/sys/fs/fuse/connections")
_LOOK_EVERY_S: Final = 0.5
"""Whether the kernel's table of mounts has changed."""
_NAMED_MAX: Final = 5
"""Of the files of which bytes are lost, so many are named to who unmounts. The log has all."""


async def run_mount(
    namenode: str,
    store: KeyStore,
    subtree: str,
    mountpoint: Path,
    options: Options,
    ready: Callable[[], None],
    tell_end: Callable[[Ending], None],
) -> None:
    """Serve the directory `subtree` of the cluster at `mountpoint` until it is unmounted, with the key in a file.

    Raises `Unreachable` (no NameNode), `NotFound` or `NotADirectory` (`subtree`), and what `prepare` raises.
    """
    prepare(mountpoint)
    note = farewell.Note()
    cache = Cache(options.cache_entries, options.cache_entries)
    async with (
        open_filesystem(namenode, store.key, wait_s=options.wait_s, keep=store.keep, cache=cache) as fs,
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
        wanted = {"default_permissions", "subtype=dfs", f"fsname={namenode}:{subtree}", *options.kernel}
        wanted |= {"allow_other"} if options.allow_other else set()
        wanted |= {"ro"} if options.read_only else set()
        try:
            pyfuse3.init(operations, str(mountpoint), wanted)
        except RuntimeError as error:
            raise errors.NotPermitted(f"the kernel does not mount on {mountpoint}: {error}") from None
        try:
            ours = find(mountpoint)
            _guard(ours, note, farewell.command(namenode, store.path, note))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_signal, mountpoint, ours)
                nursery.start_soon(_commit_when_taken_away, ours, fs, inodes, accesses, tell_end)
                nursery.start_soon(keep_watchdog)
                nursery.start_soon(_tell_when_it_answers, mountpoint, ready)
                await serve()
                nursery.cancel_scope.cancel()
        finally:
            pyfuse3.close(unmount=is_mounted(mountpoint))
            note.write(fs.session.session, 0.0)
            losses = fs.session.stream.losses
            ending = _begin_to_end(fs, inodes)
            tell_end(ending)
            log.info("unmounted", mountpoint=str(mountpoint), **inodes.statistics(), **kernel.statistics())

    is_lost = fs.session.stream.losses > losses or bool(fs.session.stream.pending())
    tell_end(ending._replace(outcome=_outcome(inodes, names_are_lost=is_lost)))


def _begin_to_end(fs: FileSystem, inodes: OpenInodes) -> Ending:
    return Ending(os.getpid(), *inodes.uncommitted(), fs.session.wait_s)


async def _commit_when_taken_away(
    ours: Mounted | None,
    fs: FileSystem,
    inodes: OpenInodes,
    accesses: Accesses,
    tell_end: Callable[[Ending], None],
) -> None:
    """Who unmounts waits for what was written, not for those who still use the mount. Returns when that is told.

    Where nobody does the kernel ends the connection, and this is cancelled.
    """
    await _until_taken_away(ours)
    stream = fs.session.stream
    ending = _begin_to_end(fs, inodes)
    losses = stream.losses
    tell_end(ending)
    with trio.move_on_after(fs.session.wait_s) as limit:
        await inodes.settle_all()
        await accesses.flush()
        with contextlib.suppress(errors.DfsError):  # it counts what is lost
            await stream.flush()
    if limit.cancelled_caught:  # it is tried on, and who waits will have given up
        return
    are_lost = stream.losses > losses
    tell_end(ending._replace(outcome=_outcome(inodes, names_are_lost=are_lost), goes_on=True))
    log.info("taken away, and committed, but still in use")


async def _until_taken_away(ours: Mounted | None) -> None:
    """Return when a mount is not on its directory any more."""
    with Changes() as changes:
        while not changes.any() or ours in mounted():  # noqa: ASYNC110 - the kernel's table says it to who asks only
            await trio.sleep(_LOOK_EVERY_S)


def _outcome(inodes: OpenInodes, *, names_are_lost: bool) -> str:
    """A sentence about what is lost that was written or changed on the mount, of which nobody has heard; or nothing."""
    found = []
    if losses := inodes.untold_losses():
        names = [name for name, _ in losses[:_NAMED_MAX]]
        more = len(losses) - len(names)
        listed = [*names, f"{more} other {'file' if more == 1 else 'files'}"] if more else names
        written = " and ".join(filter(None, [", ".join(listed[:-1]), listed[-1]]))
        found.append(f"what was written to {written} is lost: {losses[-1][1]}")
    if names_are_lost:
        found.append("changes of names are lost")
    return "; ".join(found)


async def _top(fs: FileSystem, subtree: str) -> Attr:
    attr = await fs.stat(subtree)
    if (attr.mode & 0o170000) != 0o040000:
        raise errors.NotADirectory(f"not a directory of the cluster: {show(subtree)}")
    return attr


async def _tell_when_it_answers(mountpoint: Path, ready: Callable[[], None]) -> None:
    await trio.to_thread.run_sync(_read_ahead_more, mountpoint, abandon_on_cancel=True)
    log.info("mounted", mountpoint=str(mountpoint), pid=os.getpid())
    ready()


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
    return os.open(_CONNECTIONS / ours.number / "abort", os.O_WRONLY | os.O_CLOEXEC)


async def _until_signal(mountpoint: Path, ours: Mounted | None) -> None:
    """Take this mount away on each signal. Others may have mounted something there since it was."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("unmounting", mountpoint=str(mountpoint), signal=signal.Signals(number).name)
            if ours in mounted():
                await trio.to_thread.run_sync(unmount, mountpoint)
