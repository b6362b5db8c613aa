"""Copying local files and trees into a cluster.

One task walks the local tree, makes each directory before anything goes into it, and hands files and symbolic links
to a fixed crew of workers; it waits while they are busy, so memory does not grow with the tree. Directories of one
listing are made many at once. With `preserve`, directories get their times when all is in them, the deepest first.

The local tree may be a mount of the cluster that it is copied to, and hold the directory that it is copied to, which
would have no end: a mount tells cluster and inode of each of its directories, so that this one is known when it is met.
"""

# ruff: noqa: PTH116 - paths are bytes, which pathlib does not take

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from dfs import errors, limits, tasks
from dfs.cli import show
from dfs.cli.arguments import DASH, base_name, join
from dfs.cli.changing import is_directory, make_symlink
from dfs.cli.crew import Places, crew
from dfs.cli.streams import FileSource, SparseFileSource, standard_input

if TYPE_CHECKING:
    from dfs.cli.context import Report
    from dfs.cli.meter import Meter
    from dfs.cli.transfer import Options
    from dfs.client import FileSystem
    from dfs.types import Attr

_BLOCK_BYTES: Final = 512  # of st_blocks
_SLICE: Final = limits.BATCH_MAX_COMMANDS  # directory entries read at once


class Job(NamedTuple):
    """One local file, and where it goes."""

    source: bytes
    target: bytes
    status: os.stat_result
    descriptor: int | None = None
    """On the command line, and open already: a pipe or a device, too, is read to its end. Opening it again may wait."""


Put = Callable[[Job], Awaitable[None]]


class Uploading:
    """One `dfs upload`. `_kept` are directories whose times are yet to be set, parents before what is in them."""

    def __init__(self, fs: FileSystem, options: Options, report: Report, meter: Meter) -> None:
        self._fs = fs
        self._options = options
        self._report = report
        self._meter = meter
        self._places = Places()
        self._kept: list[Job] = []

    async def run(self, sources: tuple[bytes, ...], target: bytes) -> None:
        """Copy `sources` to `target`, or into it. Errors about one of them go to the report."""
        into = await is_directory(self._fs, target)
        if len(sources) > 1 and not into:
            raise errors.NotADirectory(
                f"several files need a directory to go to, which this is not: {show.escaped(target)}"
            )
        async with tasks.open_nursery() as nursery:
            if self._meter.drawn:
                nursery.start_soon(self._find_total, sources)
            async with crew(limits.SMALL_TRANSFERS_AT_ONCE, self._copy) as put:
                for source in sources:
                    with self._report.catching():
                        await self._plan(source, target, into, put)
            nursery.cancel_scope.cancel()
        await self._finish_directories()

    # --- what there is to do ----------------------------------------------------------------------------

    async def _plan(self, source: bytes, target: bytes, into: bool, put: Put) -> None:
        if source == DASH:
            if into:
                raise errors.IsADirectory(f"standard input needs a name in this directory: {show.escaped(target)}")
            await self._copy_standard_input(target)
            return
        look = os.lstat if self._options.recursive else os.stat
        status = await trio.to_thread.run_sync(look, source)
        name = base_name(source)
        if name == b"..":
            name = base_name(await trio.to_thread.run_sync(os.path.realpath, source))
        job = Job(source, join(target, name) if into else target, status, descriptor=_descriptor(source))
        if stat.S_ISDIR(status.st_mode):
            await self._copy_tree(job, put)
        elif target.endswith(b"/") and not into:
            await self._fs.stat(target)  # raises NotFound if that is why
            raise errors.NotADirectory(f"not a directory: {show.escaped(target)}")
        else:
            await put(job)

    async def _copy_tree(self, top: Job, put: Put) -> None:
        if not self._options.recursive:
            raise IsADirectoryError(errno.EISDIR, "is a directory (-r copies it and all beneath)", top.source)
        await self._refuse_into_itself(top)
        waiting: list[Job] = []
        made = await self._make_directory(top, waiting)
        while waiting:
            directory = waiting.pop()
            with self._report.catching():
                if await self._ino_of(directory.source) == made.ino:
                    raise _into_itself(directory.source)
                await self._copy_directory(directory, waiting, put)

    async def _refuse_into_itself(self, top: Job) -> None:
        """Refuse, before anything is made, a directory that the target is in. Raises `InvalidArgument`."""
        ino = await self._ino_of(top.source)
        if ino is None:
            return
        above = await self._fs.stat(top.target.rstrip(b"/").rpartition(b"/")[0] or b"/")
        while above.ino != ino:
            if above.ino == self._fs.session.root:
                return
            above = await self._fs.inodes.parent(above.ino)
        raise _into_itself(top.source)

    async def _ino_of(self, directory: bytes) -> int | None:
        """Which directory of this cluster a local one is; None if it is none, or no mount says so."""
        cluster = str(self._fs.session.cluster["cluster"]).encode()
        return await trio.to_thread.run_sync(_mounted_ino, directory, cluster)

    async def _copy_directory(self, directory: Job, waiting: list[Job], put: Put) -> None:
        """Hand on what is in a directory; the directories in it are made, and added to `waiting`."""
        with await trio.to_thread.run_sync(os.scandir, directory.source) as entries:
            while found := await trio.to_thread.run_sync(_next_entries, entries):
                inner: list[Job] = []
                for name, source, status in found:
                    if isinstance(status, OSError):
                        self._report.note(status)
                        continue
                    job = Job(source, join(directory.target, name), status)
                    if stat.S_ISDIR(status.st_mode):
                        inner.append(job)
                    else:
                        await put(job)
                await self._make_directories(inner, waiting)

    async def _make_directories(self, jobs: list[Job], waiting: list[Job]) -> None:
        async def make(job: Job) -> None:
            with self._report.catching():
                await self._make_directory(job, waiting)

        if jobs:
            async with crew(min(len(jobs), limits.LOOKUPS_AT_ONCE), make) as put:
                for job in jobs:
                    await put(job)

    async def _make_directory(self, job: Job, waiting: list[Job]) -> Attr:
        try:
            made = await self._fs.mkdir(job.target, stat.S_IMODE(job.status.st_mode) & 0o777)
        except (errors.Exists, errors.InvalidArgument):  # a link to a directory is none: it may be anybody's
            made = await self._fs.stat(job.target, follow=False)
            if not stat.S_ISDIR(made.mode):
                raise
        waiting.append(job)
        if self._options.preserve:
            self._kept.append(job)
        return made

    # --- doing it ---------------------------------------------------------------------------------------

    async def _copy(self, job: Job) -> None:
        with self._report.catching(), _replaceable(job.target):
            mode = job.status.st_mode
            if stat.S_ISLNK(mode):
                await self._copy_symlink(job)
            elif stat.S_ISREG(mode) or (job.descriptor is not None and not self._options.recursive):
                async with self._places.for_file(job.status.st_size if stat.S_ISREG(mode) else None):
                    await self._copy_file(job)
            else:
                self._report.fail(
                    f"skipped, for it is a {show.type_of(mode)} (`dfs upload - DST` reads one from standard input):"
                    f" {show.escaped(job.source)}"
                )

    async def _copy_file(self, job: Job) -> None:
        plain = stat.S_ISREG(job.status.st_mode)
        fd, status = await trio.to_thread.run_sync(
            _open_source, job.source, job.descriptor, plain, abandon_on_cancel=not plain
        )
        is_sparse = plain and status.st_blocks * _BLOCK_BYTES < status.st_size
        try:
            await self._fs.upload(
                SparseFileSource(fd, job.source) if is_sparse else FileSource(fd, job.source, may_block=not plain),
                job.target,
                mode=self._mode(status),
                replace=self._options.force,
                sync=self._options.sync,
                times=(status.st_atime_ns, status.st_mtime_ns) if self._options.preserve else None,
                owner=self._owner(status),
                progress=self._meter.advance,
            )
        finally:
            os.close(fd)

    async def _copy_standard_input(self, target: bytes) -> None:
        with _replaceable(target):
            await self._fs.upload(
                standard_input(),
                target,
                mode=0o666 & ~self._fs.umask,
                replace=self._options.force,
                sync=self._options.sync,
                progress=self._meter.advance,
            )

    async def _copy_symlink(self, job: Job) -> None:
        leads_to = await trio.to_thread.run_sync(os.readlink, job.source)
        await make_symlink(self._fs, leads_to, job.target, replace=self._options.force)
        if self._options.preserve:
            await self._keep_owner_and_times(job)

    def _mode(self, status: os.stat_result) -> int:
        mode = stat.S_IMODE(status.st_mode)
        if not self._options.preserve:
            return mode & 0o777 & ~self._fs.umask
        return mode if os.geteuid() in (0, status.st_uid) else mode & 0o1777

    def _owner(self, status: os.stat_result) -> tuple[int, int] | None:
        return (status.st_uid, status.st_gid) if self._options.preserve and os.geteuid() == 0 else None

    # --- at the end -------------------------------------------------------------------------------------

    async def _finish_directories(self) -> None:
        """When nothing is made in them any more. Setting attributes changes no times of the directory above."""

        async def finish(job: Job) -> None:
            with self._report.catching():
                attr = await self._fs.stat(job.target)
                await self._fs.inodes.setattr(attr.ino, {"mode": self._mode(job.status)})
                await self._keep_owner_and_times(job)

        if self._kept:
            async with crew(limits.LOOKUPS_AT_ONCE, finish) as put:
                for job in reversed(self._kept):
                    await put(job)

    async def _keep_owner_and_times(self, job: Job) -> None:
        if owner := self._owner(job.status):
            await self._fs.chown(job.target, *owner, follow=False)
        await self._fs.utime(job.target, job.status.st_atime_ns, job.status.st_mtime_ns, follow=False)

    async def _find_total(self, sources: tuple[bytes, ...]) -> None:
        """For the progress bar only: the files' lengths as they are now."""
        if DASH not in sources:
            self._meter.total_bytes = await trio.to_thread.run_sync(
                _total_bytes, sources, self._options.recursive, abandon_on_cancel=True
            )


def _descriptor(path: bytes) -> int | None:
    """What this process has open, and a path names, as a shell writes `<(...)`; None if it does not."""
    if path == b"/dev/stdin":
        return 0
    found = re.fullmatch(rb"/(?:dev|proc/self)/fd/(\d{1,9})", path)
    return int(found[1]) if found else None


@contextmanager
def _replaceable(target: bytes) -> Iterator[None]:
    """Say how to replace what is in the way."""
    try:
        yield
    except errors.Exists:
        raise errors.Exists(f"exists already (-f replaces it): {show.escaped(target)}") from None


def _into_itself(directory: bytes) -> errors.InvalidArgument:
    return errors.InvalidArgument(f"cannot upload a directory into itself: {show.escaped(directory)}")


# --- in worker threads ----------------------------------------------------------------------------------


def _mounted_ino(directory: bytes, cluster: bytes) -> int | None:
    """The inode number of a directory on a mount of a cluster; None for another, and where that is not told."""
    try:
        if os.getxattr(directory, b"dfs.cluster") == cluster:
            return int(os.getxattr(directory, b"dfs.ino"))
    except OSError:
        pass  # as on any other file system; one that cannot be read is told of when it is
    return None


def _open_source(path: bytes, descriptor: int | None, plain: bool) -> tuple[int, os.stat_result]:
    """A descriptor and what it is of. `plain`: a regular file is expected, and anything else refused unread."""
    if descriptor is not None and not plain:
        fd = os.dup(descriptor)
    else:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (os.O_NONBLOCK if plain else 0))
    try:
        status = os.fstat(fd)
        if plain and not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(errno.ENOENT, "is no regular file any more", path)
    except BaseException:
        os.close(fd)
        raise
    return fd, status


def _next_entries(entries: Iterator[os.DirEntry[bytes]]) -> list[tuple[bytes, bytes, os.stat_result | OSError]]:
    """The next few names of a directory, their paths, and what they are or why that is not known."""
    found: list[tuple[bytes, bytes, os.stat_result | OSError]] = []
    for entry in entries:
        try:
            status: os.stat_result | OSError = entry.stat(follow_symlinks=False)
        except OSError as error:
            status = error
        found.append((entry.name, entry.path, status))
        if len(found) >= _SLICE:
            break
    return found


def _total_bytes(sources: tuple[bytes, ...], recursive: bool) -> int:
    total = 0
    waiting = list(sources)
    while waiting:
        path = waiting.pop()
        try:
            status = os.lstat(path) if recursive else os.stat(path)
            if stat.S_ISREG(status.st_mode):
                total += status.st_size
            elif stat.S_ISDIR(status.st_mode) and recursive:
                with os.scandir(path) as entries:
                    waiting += [entry.path for entry in entries if not entry.is_symlink()]
        except OSError:
            pass  # the transfer will say so
    return total
