"""Copying files and trees out of a cluster.

One task walks the tree in the cluster, makes each local directory before anything goes into it, and hands files and
symbolic links to a fixed crew of workers; it waits while they are busy, so memory does not grow with the tree.

A file is written as a draft beside its place (`dfs.cli.drafts`), and gets that when all of it is there. On any error,
and on a signal, the draft is removed. A target that is a device or a pipe, or a link to one, is written into
instead, where somebody has named it as such.
Directories get the modes (and, with `preserve`, the times) that they are to have when all is in them.
"""

# ruff: noqa: PTH102, PTH105, PTH108, PTH211 - paths are bytes

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple

import trio

from dfs import errors, limits, tasks
from dfs.cli import show
from dfs.cli.arguments import base_name, beside, join
from dfs.cli.crew import Places, crew
from dfs.cli.drafts import Draft, check_target, opened, sync_directory, sync_names
from dfs.cli.streams import FileSink, StreamSink
from dfs.cli.walk import walk

if TYPE_CHECKING:
    from dfs.cli.context import Report
    from dfs.cli.meter import Meter
    from dfs.cli.transfer import Options
    from dfs.client import FileSystem
    from dfs.types import Attr


class Job(NamedTuple):
    """One file in the cluster, and where it goes."""

    source: bytes
    target: bytes
    attr: Attr
    is_named: bool = False
    """Somebody has named this very target: it may be a device or a pipe, or a link to one."""


Put = Callable[[Job], Awaitable[None]]


class Downloading:
    """One `dfs download`. `_made` are directories to be finished, parents before what is in them; `_filled` are all
    directories, where they are to be flushed."""

    def __init__(self, fs: FileSystem, options: Options, report: Report, meter: Meter) -> None:
        self._fs = fs
        self._options = options
        self._report = report
        self._meter = meter
        self._places = Places()
        self._made: list[Job] = []
        self._filled: list[bytes] = []

    async def run(self, sources: tuple[bytes, ...], target: bytes) -> None:
        """Copy `sources` to `target`, or into it. Errors about one of them go to the report."""
        into = await trio.to_thread.run_sync(os.path.isdir, target)
        if not into and (len(sources) > 1 or (target.endswith(b"/") and not self._options.recursive)):
            raise errors.NotADirectory(f"not a directory on this machine: {show.escaped(target)}")
        async with tasks.open_nursery() as nursery:
            if self._meter.drawn:
                nursery.start_soon(self._find_total, sources)
            async with crew(limits.SMALL_TRANSFERS_AT_ONCE, self._copy) as put:
                for source in sources:
                    with self._report.catching():
                        await self._plan(source, target, into, put)
            nursery.cancel_scope.cancel()
        for job in reversed(self._made):
            with self._report.catching():
                await trio.to_thread.run_sync(self._finish_directory, job)
        for directory in reversed(self._filled):
            with self._report.catching():
                await trio.to_thread.run_sync(_sync_filled, directory)

    # --- what there is to do ----------------------------------------------------------------------------

    async def _plan(self, source: bytes, target: bytes, into: bool, put: Put) -> None:
        attr = await self._fs.stat(source, follow=not self._options.recursive)
        name = base_name(source)
        if name == b"..":
            raise errors.InvalidArgument(f"this has no name to be copied under: {show.escaped(source)}")
        job = Job(source, join(target, name) if into else target, attr, not into)
        if not stat.S_ISDIR(attr.mode):
            await put(job)
        elif self._options.recursive:
            await self._copy_tree(job, put)
        else:
            raise errors.IsADirectory(f"is a directory (-r copies it and all beneath): {show.escaped(source)}")

    async def _copy_tree(self, top: Job, put: Put) -> None:
        refused: set[int] = set()  # directories that could not be made: what is in them is left out
        start = len(top.source.rstrip(b"/"))
        async for met in walk(self._fs, top.source, top.attr, descend=lambda met: met.attr.ino not in refused):
            job = Job(met.path, join(top.target, met.path[start:].strip(b"/")), met.attr)
            if not met.is_directory:
                await put(job)
                continue
            made = False
            with self._report.catching():
                await trio.to_thread.run_sync(_make_directory, job.target, self._mode(met.attr))
                made = True
            if not made:
                refused.add(met.attr.ino)
                continue
            if self._options.sync:
                self._filled.append(job.target)
            if self._options.preserve or self._mode(met.attr) & stat.S_IRWXU != stat.S_IRWXU:
                self._made.append(job)

    # --- doing it ---------------------------------------------------------------------------------------

    async def _copy(self, job: Job) -> None:
        with self._report.catching():
            mode = job.attr.mode
            if stat.S_ISLNK(mode):
                await self._copy_symlink(job)
            elif stat.S_ISREG(mode):
                async with self._places.for_file(job.attr.size):
                    await self._copy_file(job)
            else:
                self._report.fail(f"skipped, for it is a {show.type_of(mode)}: {show.escaped(job.source)}")

    async def _copy_file(self, job: Job) -> None:
        special = await trio.to_thread.run_sync(check_target, job.target, self._options.force, job.is_named)
        if special:
            await self._copy_into_special(job)
            return
        draft = await trio.to_thread.run_sync(Draft, job.target)
        try:
            sink = FileSink(draft.fd, job.target)
            attr = await self._fs.download(job.source, sink, progress=self._meter.advance)
            await trio.to_thread.run_sync(self._finish_file, draft, sink.length, attr)
        finally:
            draft.discard()

    async def _copy_into_special(self, job: Job) -> None:
        async with opened(job.target) as fd:
            await self._fs.download(job.source, StreamSink(fd, job.target), progress=self._meter.advance)

    async def _copy_symlink(self, job: Job) -> None:
        leads_to = await self._fs.inodes.readlink(job.attr.ino)
        await trio.to_thread.run_sync(self._make_symlink, leads_to, job)

    def _make_symlink(self, leads_to: bytes, job: Job) -> None:
        try:
            os.symlink(leads_to, job.target)
        except FileExistsError:
            if not self._options.force:
                raise FileExistsError(errno.EEXIST, "exists already", job.target) from None
            draft = beside(job.target, secrets.token_hex(4))
            os.symlink(leads_to, draft)
            try:
                os.replace(draft, job.target)
            except OSError:
                os.unlink(draft)
                raise
        if self._options.preserve:
            if os.geteuid() == 0:
                os.lchown(job.target, job.attr.uid, job.attr.gid)
            os.utime(job.target, ns=(job.attr.atime_ns, job.attr.mtime_ns), follow_symlinks=False)
        if self._options.sync:
            sync_directory(job.target)

    # --- at the end -------------------------------------------------------------------------------------

    def _finish_file(self, draft: Draft, length: int, attr: Attr) -> None:
        os.ftruncate(draft.fd, length)
        self._finish(draft.fd, attr)
        draft.publish(replace=self._options.force, sync=self._options.sync)

    def _finish_directory(self, job: Job) -> None:
        fd = os.open(job.target, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self._finish(fd, job.attr)
        finally:
            os.close(fd)

    def _finish(self, fd: int, attr: Attr) -> None:
        """Owner before mode, for a change of the owner takes set-id bits away."""
        if self._options.preserve and os.geteuid() == 0:
            os.fchown(fd, attr.uid, attr.gid)
        os.fchmod(fd, self._mode(attr))
        if self._options.preserve:
            os.utime(fd, ns=(attr.atime_ns, attr.mtime_ns))

    def _mode(self, attr: Attr) -> int:
        mode = stat.S_IMODE(attr.mode)
        if not self._options.preserve:
            return mode & 0o777 & ~self._fs.umask
        return mode if os.geteuid() in (0, attr.uid) else mode & 0o1777

    async def _find_total(self, sources: tuple[bytes, ...]) -> None:
        """For the progress bar only."""
        total = 0
        for source in sources:
            try:
                total += (await self._fs.summarize(source))["bytes"]
            except errors.DfsError:
                return  # the transfer will say so
        self._meter.total_bytes = total


# --- in worker threads ----------------------------------------------------------------------------------


def _make_directory(path: bytes, mode: int) -> None:
    """A directory that we may write to for now; one that is there stays as it is.

    A link to one is none: it may have come from the cluster, and lead anywhere.
    """
    try:
        os.mkdir(path, mode | stat.S_IRWXU)
    except FileExistsError:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "exists already, and is no directory", path) from None


def _sync_filled(directory: bytes) -> None:
    """Make a directory durable with the names in it, and its own name."""
    sync_names(directory)
    sync_directory(directory)
