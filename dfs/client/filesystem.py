"""The cluster as a file system of paths: what the command line and the Python API call.

    async with open_filesystem("127.0.0.1:9400", dfs.keys.load_key(path)) as fs:
        await fs.mkdir("/results", exist_ok=True)
        async with await fs.open("/results/table.csv", "w") as file:
            await file.pwrite(b"...", 0)
            await file.fsync()

Paths are absolute (`dfs.client.paths`); errors are `dfs.errors`, with the path in the message. Files and directories
that are made belong to this process's user and group, and new modes are masked with its umask.
"""

from __future__ import annotations

import os
import secrets
import shlex
import stat as statmod
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import structlog
import trio

from dfs import codec, errors, limits
from dfs.client import transfer, tree, why
from dfs.client.cache import Cache
from dfs.client.cachedinodes import CachedInodes
from dfs.client.copies import Survey
from dfs.client.datanodes import DataNodes
from dfs.client.file import File
from dfs.client.filewriter import FileWriter
from dfs.client.fsck import Finding, Fsck
from dfs.client.inodes import Inodes
from dfs.client.lent import LentChunks
from dfs.client.paths import Path, Paths, Place, show
from dfs.client.reader import Reader
from dfs.client.session import Session, open_session
from dfs.client.writer import ChunkWriter
from dfs.config import namenode_address
from dfs.keys import Key, KeyFile
from dfs.posix import RENAME_NOREPLACE, check_file_size, time_ns
from dfs.rpc import SPOKEN, Network, Pool, SocketNetwork, Versions
from dfs.runtime import RealRuntime, Runtime
from dfs.telemetry import log_as_the_program_does
from dfs.types import Attr, ChunkId, ChunkPlace, DirEntry, Ino, Item, NodeId, NodeView, Statfs

log = structlog.get_logger(__name__)

_OPEN_MODES = {"r": (True, False), "r+": (True, True), "w": (False, True), "w+": (True, True)}
_OPEN_MODES |= {"a": (False, True), "a+": (True, True), "x": (False, True), "x+": (True, True)}
_OPEN_ATTEMPTS = 8
"""Of a path under which one file after the other is put in the place of the one before."""

_LET_GO_S = 1.0
"""For which whoever was interrupted waits until a file is released, which goes on after that."""

_SENTENCES = {
    errors.NotFound: "no such file or directory",
    errors.Exists: "exists already",
    errors.NotADirectory: "not a directory",
    errors.IsADirectory: "is a directory",
    errors.NotEmpty: "directory not empty",
}
_SAID_OF_PATHS = (errors.InvalidArgument, errors.NotPermitted, errors.TooManyLinks)
"""Errors whose own sentences stay, with a path at their end."""


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """Put the path as the caller knows it into the namespace's errors, which know inode numbers only."""
    try:
        yield
    except errors.DfsError as error:
        sentence = error.message if type(error) in _SAID_OF_PATHS else _SENTENCES.get(type(error))
        if sentence is None or show(path) in error.message:
            raise
        raise type(error)(f"{sentence}: {show(path)}") from None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say of which file bytes are lost: who reads chunks knows their numbers only."""
    try:
        yield
    except errors.DataLost as error:
        hint = f"`dfs why {shlex.quote(show(path))}`"
        raise errors.DataLost(f"{show(path)} cannot be read: {error.message} ({hint})") from error.__cause__


def _whole(path: Path, attr: Attr, moved: int) -> Attr:
    """What was read, with `moved` bytes. Raises `DataLost` if these are too few."""
    if moved != attr.size:
        raise errors.DataLost(f"the file became shorter while it was read: {show(path)}")
    return attr


class FileSystem:
    """A client of one cluster. Use `open_filesystem`. Methods may be called concurrently."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.inodes = Inodes(session) if session.cache is None else CachedInodes(session, session.cache)
        self.nodes_known = DataNodes(session)
        self.lent = LentChunks(self.nodes_known, session.runtime, session.pool.inbox())
        self.reader = Reader(self.inodes, self.nodes_known, self.lent)
        self.chunks = ChunkWriter(session, self.nodes_known)
        session.on_new_session = self._tell_new_session
        session.on_recall = self._recall
        self.recall_listeners: list[Callable[[Sequence[Item]], Awaitable[None]]] = []
        """Called one after the other for what is recalled from this client's cache, before the NameNode hears of it."""
        self._new_session_listeners: list[Callable[[], None]] = [self.chunks.forget_lanes]
        self._paths = Paths(self.inodes)
        self.umask = os.umask(0o077)
        os.umask(self.umask)

    def writer(self, attr: Attr) -> FileWriter:
        """For a regular file's new bytes."""
        return FileWriter(self.session, self.chunks, self.reader, attr)

    def when_session_is_new(self, listener: Callable[[], None]) -> None:
        """Have `listener` called when this client's session was lost and another one is open."""
        self._new_session_listeners.append(listener)

    def _tell_new_session(self) -> None:
        for listener in self._new_session_listeners:
            listener()

    async def _recall(self, items: Sequence[Item]) -> None:
        for listener in self.recall_listeners:
            await listener(items)

    # --- looking ----------------------------------------------------------------------------------------

    async def stat(self, path: Path, *, follow: bool = True) -> Attr:
        """What is known of a name, or with `follow` of what a symbolic link leads to. Raises `NotFound`."""
        return await self._paths.resolve(path, follow=follow)

    async def exists(self, path: Path, *, follow: bool = True) -> bool:
        """Whether there is something of that name."""
        try:
            await self._paths.resolve(path, follow=follow)
        except (errors.NotFound, errors.NotADirectory):
            return False
        return True

    async def scandir(self, path: Path) -> AsyncIterator[DirEntry]:
        """Entries of a directory with their attributes, in the order they were made. Raises `NotADirectory`."""
        attr = await self._paths.resolve(path)
        if not statmod.S_ISDIR(attr.mode):
            raise errors.NotADirectory(f"not a directory: {show(path)}")
        after = 0
        while entries := await self.inodes.readdir(attr.ino, after):
            for entry in entries:
                yield entry
            after = entries[-1].cookie

    async def listdir(self, path: Path) -> list[DirEntry]:
        """All entries of a directory, by name."""
        return sorted([entry async for entry in self.scandir(path)], key=lambda entry: entry.name)

    async def readlink(self, path: Path) -> bytes:
        """Where a symbolic link leads. Raises `NotFound`, `InvalidArgument` for what is none."""
        attr = await self._paths.resolve(path, follow=False)
        if not statmod.S_ISLNK(attr.mode):
            raise errors.InvalidArgument(f"not a symbolic link: {show(path)}")
        return await self.inodes.readlink(attr.ino)

    async def summarize(self, path: Path) -> dict[str, int]:
        """Counts beneath `path`: files, directories, bytes, allocated."""
        attr = await self._paths.resolve(path, follow=False)
        return await self.inodes.summarize(attr.ino)

    async def replicas(self, path: Path) -> list[ChunkPlace]:
        """The chunks that hold a file's bytes, in the order of the file, and the nodes that hold them."""
        attr = await self._paths.resolve(path)
        found: dict[int, ChunkPlace] = {}
        async for layout in self.inodes.layouts(attr.ino, attr.size):
            for extent in layout.extents:
                found.setdefault(extent.chunk, layout.places[extent.chunk])
        return list(found.values())

    # --- the namespace ----------------------------------------------------------------------------------

    async def mkdir(self, path: Path, mode: int = 0o777, *, parents: bool = False, exist_ok: bool = False) -> Attr:
        """Make a directory, with permissions `mode` less the umask, and with `parents` those above it that are missing.

        Raises `Exists`, unless `exist_ok` and it is a directory; `NotFound`, `NotADirectory`.
        """
        if parents:
            await self._make_parents(path)
        try:
            with _about(path):
                return await self._mkdir(await self._paths.locate(path), mode)
        except (errors.Exists, errors.InvalidArgument):
            attr = await self._paths.resolve(path) if exist_ok else None
            if attr is None or not statmod.S_ISDIR(attr.mode):
                raise
            return attr

    async def _mkdir(self, place: Place, mode: int) -> Attr:
        return await self.inodes.mkdir(place.parent, place.name, mode & ~self.umask, os.geteuid(), os.getegid())

    async def _make_parents(self, path: Path) -> None:
        parts = [part for part in os.fsencode(path).split(b"/") if part not in (b"", b".")]
        for end in range(1, len(parts)):
            ancestor = b"/" + b"/".join(parts[:end])
            if not await self.exists(ancestor):
                await self.mkdir(ancestor, exist_ok=True)

    async def rename(self, source: Path, target: Path, *, replace: bool = True) -> Attr:
        """Give `source` the name `target`, in one moment; what had that name goes, if it may.

        Raises `NotFound`, `Exists` unless `replace`, `IsADirectory`, `NotADirectory`, `NotEmpty`, `InvalidArgument`.
        """
        old = await self._paths.locate(source)
        new = await self._paths.locate(target)
        with _about(target if await self.exists(source, follow=False) else source):
            return await self.inodes.rename(
                old.parent, old.name, new.parent, new.name, 0 if replace else RENAME_NOREPLACE
            )

    async def remove(self, path: Path) -> None:
        """Remove a name that is no directory. Raises `NotFound`, `IsADirectory`."""
        place = await self._paths.locate(path, of_file=True)
        with _about(path):
            await self.inodes.unlink(place.parent, place.name)

    async def rmdir(self, path: Path) -> None:
        """Remove a directory that is empty. Raises `NotFound`, `NotADirectory`, `NotEmpty`."""
        place = await self._paths.locate(path)
        with _about(path):
            await self.inodes.rmdir(place.parent, place.name)

    async def remove_tree(self, path: Path, on_error: tree.OnError | None = None) -> int:
        """Remove `path` and all beneath it; how many names went. Errors go to `on_error`, or are raised."""
        attr = await self._paths.resolve(path, follow=False)
        place = await self._paths.locate(path)
        with _about(path):
            return await tree.remove_tree(self.inodes, place, attr, os.fsencode(path), on_error)

    async def symlink(self, target: Path, path: Path) -> Attr:
        """Make a symbolic link at `path`, which leads to `target`. Raises `Exists`, `NotFound`."""
        place = await self._paths.locate(path, of_file=True)
        with _about(path):
            return await self.inodes.symlink(place.parent, place.name, os.fsencode(target), os.geteuid(), os.getegid())

    async def link(self, source: Path, path: Path) -> Attr:
        """Give a file one more name. Raises `NotFound`, `Exists`, `NotPermitted` for a directory."""
        attr = await self._paths.resolve(source, follow=False)
        if statmod.S_ISDIR(attr.mode):
            raise errors.NotPermitted(f"a directory has one name only: {show(source)}")
        place = await self._paths.locate(path, of_file=True)
        with _about(path):
            return await self.inodes.link(attr.ino, place.parent, place.name)

    async def chmod(self, path: Path, mode: int) -> Attr:
        """Set the permissions. Raises `NotFound`."""
        return await self.inodes.setattr((await self._paths.resolve(path)).ino, {"mode": mode})

    async def chown(self, path: Path, uid: int | None = None, gid: int | None = None, *, follow: bool = True) -> Attr:
        """Set the owner and the group, those that are not None. Raises `NotFound`."""
        changes: dict[str, int | str] = {}
        if uid is not None:
            changes["uid"] = uid
        if gid is not None:
            changes["gid"] = gid
        return await self.inodes.setattr((await self._paths.resolve(path, follow=follow)).ino, changes)

    async def utime(
        self, path: Path, atime_ns: int | None = None, mtime_ns: int | None = None, *, follow: bool = True
    ) -> Attr:
        """Set both times, in ns since 1970; None is now. Raises `NotFound`."""
        attr = await self._paths.resolve(path, follow=follow)
        times: dict[str, int | str] = {
            "atime_ns": "now" if atime_ns is None else time_ns(atime_ns),
            "mtime_ns": "now" if mtime_ns is None else time_ns(mtime_ns),
        }
        return await self.inodes.setattr(attr.ino, times)

    async def touch(self, path: Path) -> Attr:
        """Set a file's times to now; make it, empty, if there is none."""
        try:
            return await self.utime(path)
        except errors.NotFound:
            place = await self._paths.locate_new(path)
            with _about(path):
                return await self._create(place, 0o666, exclusive=False)

    async def truncate(self, path: Path, size: int) -> Attr:
        """Make a file `size` bytes long: cut it, or add zeros. Raises `NotFound`, `IsADirectory`, `FileTooLarge`."""
        check_file_size(size)
        attr = await self._paths.resolve(path)
        with _about(path):
            return await self.inodes.truncate(attr.ino, size)

    async def _create(self, place: Place, mode: int, *, exclusive: bool) -> Attr:
        return await self.inodes.create(
            place.parent, place.name, mode & ~self.umask, os.geteuid(), os.getegid(), exclusive=exclusive
        )

    # --- data -------------------------------------------------------------------------------------------

    async def open(self, path: Path, mode: str = "r", perm: int = 0o666) -> File:
        """Open a file: mode as in Python's `open` (r, w, a, x, each with + or not; b is understood)."""
        plain = mode.replace("b", "")
        if plain not in _OPEN_MODES:
            raise ValueError(f"not a mode to open a file with: {mode!r}")
        readable, writable = _OPEN_MODES[plain]
        with _about(path):
            attr = await self._hold(path, plain[0], perm)
            if plain[0] == "w" and attr.size:
                try:
                    attr = await self.inodes.truncate(attr.ino, 0)
                except BaseException:
                    await self._let_go(attr.ino)
                    raise
        return File(
            self.inodes,
            self.reader,
            self.writer(attr),
            readable=readable,
            writable=writable,
            append=plain[0] == "a",
        )

    async def _hold(self, path: Path, kind: str, perm: int) -> Attr:
        """Hold the file that is to be opened. If that is replaced before it is held, the path leads to another one."""
        for left in reversed(range(_OPEN_ATTEMPTS)):
            attr = await self._open(path, kind, perm)
            if statmod.S_ISDIR(attr.mode):
                raise errors.IsADirectory(f"is a directory: {show(path)}")
            if not statmod.S_ISREG(attr.mode):
                raise errors.NotSupported(f"not a regular file: {show(path)}")
            try:
                return await self.inodes.hold(attr.ino)
            except errors.NotFound:
                if not left:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _let_go(self, ino: Ino) -> None:
        with trio.move_on_after(_LET_GO_S, shield=True), suppress(errors.DfsError):
            await self.inodes.release(ino)

    async def _open(self, path: Path, kind: str, perm: int) -> Attr:
        if kind == "r":
            return await self._paths.resolve(path)
        if kind == "x":
            return await self._create(await self._paths.locate(path, of_file=True), perm, exclusive=True)
        try:
            return await self._paths.resolve(path)
        except errors.NotFound:
            return await self._create(await self._paths.locate_new(path), perm, exclusive=False)

    async def upload(
        self,
        source: transfer.Source | transfer.SparseSource,
        path: Path,
        *,
        mode: int = 0o644,
        replace: bool = False,
        sync: bool = True,
        times: tuple[int, int] | None = None,
        owner: tuple[int, int] | None = None,
        progress: transfer.Progress | None = None,
    ) -> Attr:
        """Make a file of all bytes of `source`; it appears, whole, when this returns.

        `mode` is taken as it is (no umask); `times` are (access, modification) in ns; `owner` is (uid, gid);
        with `sync` the bytes are durable on return. Raises `Exists` unless `replace`, `IsADirectory`,
        `NoSpace`, `NotEnoughNodes`; nothing is left behind then.
        """
        place = await self._paths.locate(path, of_file=True)
        uid, gid = owner or (os.geteuid(), os.getegid())
        wanted = transfer.Upload(mode, uid, gid, times, replace, sync)
        losses = self.session.stream.losses
        with _about(path):
            await self._check_free(place, replace)
            with self.session.held_by(await self.session.ensure()):  # what has no name yet
                attr = await transfer.upload(self.inodes, self.writer, source, place, wanted, progress)
        if sync:
            await self.session.stream.flush(losses)
        return attr

    async def _check_free(self, place: Place, replace: bool) -> None:
        """Say early what `link` would say after all bytes were moved."""
        steps = await self.inodes.walk(place.parent, [place.name])
        if steps and statmod.S_ISDIR(steps[0].mode):
            raise errors.IsADirectory("is a directory")
        if steps and not replace:
            raise errors.Exists("exists already")

    async def download(self, path: Path, sink: transfer.Sink, *, progress: transfer.Progress | None = None) -> Attr:
        """Hand all bytes of the file at `path` to `sink`, in order. Its attributes as they were at the start."""
        attr = await self._paths.resolve(path)
        if statmod.S_ISDIR(attr.mode):
            raise errors.IsADirectory(f"is a directory: {show(path)}")
        if not statmod.S_ISREG(attr.mode):
            raise errors.InvalidArgument(f"not a regular file: {show(path)}")
        with _about(path), _reading(path):
            if attr.size <= limits.READ_MAX_BYTES:  # read at once, mostly: then nobody can take it away half-way
                handed = 0

                def note(length: int) -> None:
                    nonlocal handed
                    handed += length
                    if progress:
                        progress(length)

                try:
                    return _whole(path, attr, await transfer.download(self.reader, attr, sink, note))
                except errors.NotFound:  # it was replaced just now
                    if handed:
                        raise
            attr = await self._hold(path, "r", 0)
            try:
                return _whole(path, attr, await transfer.download(self.reader, attr, sink, progress))
            finally:
                await self._let_go(attr.ino)

    # --- the cluster ------------------------------------------------------------------------------------

    async def statfs(self) -> Statfs:
        """How much the cluster holds, and has room for, in bytes."""
        return await self.inodes.statfs()

    async def nodes(self) -> list[NodeView]:
        """The DataNodes as the NameNode sees them."""
        return [codec.node_view(wire) for wire in await self.session.query("nodes")]

    async def status(self) -> dict[str, Any]:
        """What `dfs status --json` shows."""
        return dict(await self.session.query("status"))

    async def clients(self) -> AsyncIterator[dict[str, Any]]:
        """Everybody who is connected, as `dfs clients --json` shows them. Raises `NotPermitted` but for admins."""
        after = 0
        while page := await self.session.query("clients", after):
            for client in page:
                yield dict(client)
            after = page[-1]["session"]

    async def backup(
        self,
        sink: transfer.Sink,
        progress: transfer.Progress | None = None,
        finish: Callable[[], Awaitable[None]] | None = None,
    ) -> dict[str, Any]:
        """A copy of the NameNode's database for `sink`: what to bring back as `namespace.sqlite` in its `state_dir`.

        When `sink` has all, `finish` is to make it last; what it raises is raised. Then the NameNode is told that there
        is a copy. Returns how many `bytes` that is and how many `files` are in it, and when it was begun, `made_ns`:
        what was durable then is in it. Raises `Busy` beside another, `NoSpace` of the NameNode's disk, `NotPermitted`
        but for admins, `NotFound` if the NameNode was restarted meanwhile.
        """
        name, is_kept = secrets.token_hex(16), False
        try:
            while (begun := await self.session.query("begin_backup", name)) is None:
                pass  # it waits there for as long as one call may
            length = 0
            while piece := await self.session.ask("read_backup", name, length):
                await sink.write(memoryview(piece))
                length += len(piece)
                if progress:
                    progress(len(piece))
            if length != begun["bytes"]:
                raise errors.DataLost(f"the copy has {length:,} bytes, and was to have {begun['bytes']:,}")
            if finish is not None:
                await finish()
            is_kept = True
        finally:
            with trio.move_on_after(limits.FIRST_CONTACT_TIMEOUT_S, shield=True), suppress(errors.DfsError):
                await self.session.ask("end_backup", name, is_kept)
        return dict(begun)

    async def plan_drain(self, node: str) -> dict[str, Any]:
        """What emptying a DataNode would move, how long that takes at least, and what is at risk. Raises `NotFound`."""
        return dict(await self.session.query("plan_drain", node))

    async def drain(self, node: str) -> None:
        """Begin to empty a DataNode: it gets no new data, and its copies are made again elsewhere, then dropped.

        `status()["drains"]` says how far that is. Raises `NotFound`.
        """
        await self.session.query("drain", node)

    async def undrain(self, node: str) -> None:
        """Use a DataNode again that was to be emptied. Raises `NotFound`."""
        await self.session.query("undrain", node)

    async def remove_node(self, node: str) -> None:
        """Forget a DataNode that is dead or drained. Raises `NotFound`, or `NodeInUse`, which says what to do."""
        await self.session.query("remove_node", node)

    async def plan_balance(self, threshold: float | None = None) -> dict[str, Any]:
        """How full DataNodes are, and how much each would give or take. Raises `InvalidArgument`."""
        return dict(await self.session.query("plan_balance", threshold))

    async def balance(self, threshold: float | None = None) -> None:
        """Begin to even out how full DataNodes are, to within `threshold` of the cluster's level (0.05: 5 points).

        `status()["balance"]` says how far that is; a NameNode that restarts forgets it. Raises `InvalidArgument`.
        """
        await self.session.query("balance", threshold)

    async def set_replicas(self, path: Path, copies: int) -> Attr:
        """Have so many copies of a file, or of the files that will be made in a directory; 0 is the cluster's default.

        The copies are made, or dropped, in the background. Raises `InvalidArgument`.
        """
        attr = await self._paths.resolve(path)
        with _about(path):
            return await self.inodes.setattr(attr.ino, {"replicas": copies})

    async def decide_held(self, node: str, allow: bool) -> int:
        """Have a DataNode carry out (`allow`), or discard, the deletions that it holds back; how many they were."""
        held, _ = await self.nodes_known.call(NodeId(node), "decide_held", allow)
        return int(held)

    async def fsck(
        self, path: Path | None = None, *, repair: bool = False, data: bool = False
    ) -> AsyncIterator[Finding]:
        """Check that namespace, extents, chunks and what DataNodes hold agree: all, or what is beneath `path`.

        `repair`: mend what can be mended without losing data. `data`: read every byte from every copy.
        """
        survey = Survey(self.session, self.nodes_known, self.inodes)
        check = Fsck(self.session, self.inodes, survey, repair=repair, data=data)
        findings = check.cluster()
        if path is not None:
            findings = check.beneath(await self._paths.resolve(path, follow=False), os.fsencode(path))
        async for finding in findings:
            yield finding

    def why(self, file: Attr, told: Collection[ChunkId] = (), *, data: bool = False) -> AsyncIterator[why.ChunkReport]:
        """Where the copies of a file's chunks are, and why one is missing: of those that were not told yet.

        `data`: read every copy; a chunk with damage is told in any case.
        """
        return why.file_report(Survey(self.session, self.nodes_known, self.inodes), file, told, data=data)

    def statistics(self) -> dict[str, dict[str, int]]:
        usage = self.session.runtime.usage()
        cache = self.session.cache
        return {
            "process": {"cpu_ms": round(usage.cpu_s * 1000), "calls": self.session.pool.statistics().calls},
            "session": self.session.statistics(),
            **({"cache": cache.statistics() | self.inodes.statistics()} if cache is not None else {}),
            "nodes": self.nodes_known.statistics(),
            "reader": {**self.reader.statistics(), **self.lent.statistics()},
            "writer": self.chunks.statistics(),
        }


@asynccontextmanager
async def open_filesystem(
    namenode: str,
    key: Key,
    *,
    wait_s: float | None = None,
    network: Network | None = None,
    runtime: Runtime | None = None,
    keep: Callable[[KeyFile], None] | None = None,
    spoken: Versions = SPOKEN,
    cache: Cache | None = None,
    name: str = "",
) -> AsyncIterator[FileSystem]:
    """A client of the cluster whose NameNode is at `namenode` (`host` or `host:port`), with the rights of a key; it
    speaks TLS if the key's holder has a certificate.

    `keep` keeps the file of a newer key, when there is one: see `dfs.keystore.KeyStore.keep`. `wait_s`: how long
    operations wait for a NameNode that is away. `spoken`: versions of the protocol. With a `cache`, what the NameNode
    leases is kept and answered from there: that pays for who lives long and looks at the same things again. `name` is
    what `dfs clients` calls it: the program and its process, unless given.

    Raises `Unreachable` when none answers within `limits.FIRST_CONTACT_TIMEOUT_S`, `Refused` when the key is not of the
    cluster, `InvalidArgument` for what is no address.
    """
    log_as_the_program_does()
    async with Pool(network or SocketNetwork(key.tls), key=key, spoken=spoken) as pool:
        wait_s = limits.NAMENODE_WAIT_S if wait_s is None else wait_s
        async with open_session(
            namenode_address(namenode), pool, runtime or RealRuntime(), wait_s, keep, cache, name
        ) as session:
            fs = FileSystem(session)
            session.spawn(fs.chunks.seal_idle)
            session.spawn(fs.chunks.shared.give_up)
            session.spawn(fs.reader.hedge)
            session.spawn(fs.lent.give_back)
            yield fs
