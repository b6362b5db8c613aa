"""The Python API for scripts: the same file system, synchronous.

    import dfs
    with dfs.connect("127.0.0.1:9400") as fs:
        with fs.open("/notes.txt", "w") as file:
            file.write("hello")
        print(fs.listdir("/"))

A trio loop in a thread of its own runs the asynchronous client; every method here hands its work to that loop and
waits. Methods may be called from any number of threads, of the process that connected: one that was forked from it has
no such loop, and every call there raises `ValueError`. `open` gives Python's own file objects (text or binary,
buffered), so `shutil`, `csv`, `tarfile` and `zipfile` work with them; `flush` and `close` return when what was written
is visible to all clients, and say what went wrong with it, and `os.fsync`'s counterpart is `file.raw.fsync()` (binary)
or `fs.fsync(file)`. What a buffered file has given out of its buffer is written while the program goes on.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from types import TracebackType
from typing import IO, Any, NoReturn, TypeVar

import outcome
import trio

from dfs import config, errors, limits, tasks
from dfs.client.file import File
from dfs.client.filesystem import FileSystem, open_filesystem
from dfs.client.paths import Path, show
from dfs.keystore import KeyStore
from dfs.types import Attr, ChunkPlace, DirEntry, NodeView, Statfs

T = TypeVar("T")

_BUFFER_BYTES = 1 * limits.MIB
_ELSEWHERE = "this connection to the cluster was opened in another process: call dfs.connect() in this one"


class _Loop:
    """A trio loop in a thread, with one client in it, from `start` to `stop`.

    A fork takes the thread that called it and no other, so a child has no loop, though it has a copy of this object.
    """

    def __init__(self, namenode: str, store: KeyStore, wait_s: float | None) -> None:
        self._pid = os.getpid()
        self._namenode = namenode
        self._store = store
        self._wait_s = wait_s
        self._ready = threading.Event()
        self._opened: outcome.Maybe[tuple[FileSystem, trio.lowlevel.TrioToken]] | None = None
        self._stop: trio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="dfs-client", daemon=True)

    def start(self) -> FileSystem:
        self._thread.start()
        self._ready.wait()
        assert self._opened is not None
        fs, self._token = self._opened.unwrap()
        return fs

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:
            if self._ready.is_set():
                raise
            self._opened = outcome.Error(tasks.leaves(error)[0])
            self._ready.set()

    async def _main(self) -> None:
        self._stop = trio.Event()
        async with (
            open_filesystem(self._namenode, self._store.key, wait_s=self._wait_s, keep=self._store.keep) as fs,
            tasks.open_nursery() as self._nursery,
        ):
            self._opened = outcome.Value((fs, trio.lowlevel.current_trio_token()))
            self._ready.set()
            await self._stop.wait()  # as long as the caller keeps the connection
            self._nursery.cancel_scope.cancel()

    @property
    def is_ours(self) -> bool:
        """Whether this process started it."""
        return os.getpid() == self._pid

    def __reduce__(self) -> NoReturn:
        raise TypeError(_ELSEWHERE)

    def call(self, work: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        """Raises `ValueError` after `stop`, and in another process."""
        if not self.is_ours:
            raise ValueError(_ELSEWHERE)

        async def run() -> T:
            return await work(*args, **kwargs)

        try:
            return trio.from_thread.run(run, trio_token=self._token)
        except trio.RunFinishedError:
            raise ValueError("the connection to the cluster is closed") from None

    def spawn(self, work: Callable[[], Awaitable[Any]]) -> None:
        """Have the loop do something that raises nothing, and do not wait for it."""

        async def start() -> None:
            self._nursery.start_soon(work)

        self.call(start)

    def stop(self) -> None:
        """End the client and its thread; in another process do nothing, as neither is there."""
        if self.is_ours and self._stop is not None and self._thread.is_alive():
            self._token.run_sync_soon(self._stop.set)
            self._thread.join()


class _Behind:
    """Bytes of a file that are written after `write` has returned; `settle` says what became of them. Used once."""

    def __init__(self, loop: _Loop, file: File) -> None:
        self._loop = loop
        self._file = file
        self._pieces, self._incoming = trio.open_memory_channel[tuple[int, bytes]](0)
        self._done = threading.Event()
        self._error: Exception | None = ValueError("the connection to the cluster was closed before the file")
        loop.spawn(self._run)

    async def _run(self) -> None:
        try:
            with self._incoming:
                await self._file.write_behind(self._incoming)
            self._error = None
        except Exception as error:  # noqa: BLE001 - whatever it is, it is for who writes
            self._error = error
        finally:
            self._done.set()

    def write(self, data: memoryview, offset: int) -> bool:
        """Take bytes to write at `offset`, waiting for room. False if it has ended: `settle` says why."""
        try:
            for start in range(0, len(data), _BUFFER_BYTES):
                piece = bytes(data[start : start + _BUFFER_BYTES])
                self._loop.call(self._pieces.send, (offset + start, piece))
        except trio.BrokenResourceError:
            return False
        return True

    def settle(self) -> None:
        """Return when all is in the file. Raises what went wrong."""
        self._loop.call(self._pieces.aclose)
        self._done.wait()  # bounded as any write is
        if self._error is not None:
            raise self._error


class RawFile(io.RawIOBase):
    """An unbuffered file of the cluster, as `io` wants it. Made by `BlockingFileSystem.open`.

    Beneath a buffer it writes behind, from the first full buffer until anything else is asked of it.
    """

    def __init__(self, loop: _Loop, file: File, name: str, mode: str, *, is_buffered: bool) -> None:
        super().__init__()
        self._loop = loop
        self._file = file
        self._may_write_behind = is_buffered and not file.append
        self._behind: _Behind | None = None
        self._position = 0
        self.name = name
        self.mode = mode

    def readable(self) -> bool:
        return self._file.readable

    def writable(self) -> bool:
        return self._file.writable

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._file.readable:
            raise io.UnsupportedOperation("not readable")
        self._settle()
        count = self._loop.call(self._file.pread_into, memoryview(buffer).cast("B"), self._position)
        self._position += count
        return count

    def write(self, data: Any) -> int:
        if not self._file.writable:
            raise io.UnsupportedOperation("not writable")
        view = memoryview(data).cast("B")
        if self._may_write_behind and (self._behind or len(view) >= _BUFFER_BYTES):
            self._behind = self._behind or _Behind(self._loop, self._file)
            if not self._behind.write(view, self._position):
                self._settle()
            self._position += len(view)
            return len(view)
        attr = self._loop.call(self._file.pwrite, view, self._position)
        self._position = attr.size if self._file.append and attr else self._position + len(view)
        return len(view)

    def flush(self) -> None:
        """Return when all that was written is visible to all clients. Raises what went wrong with it."""
        super().flush()
        self._settle()

    def _settle(self) -> None:
        behind, self._behind = self._behind, None
        if behind is not None:
            behind.settle()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._settle()
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}.get(whence)
        if whence == os.SEEK_END:
            base = self._loop.call(self._file.stat).size
        if base is None:
            raise ValueError(f"not a place to seek from: {whence}")
        if base + offset < 0:
            raise errors.InvalidArgument(f"cannot seek before the beginning of {self.name}")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def truncate(self, size: int | None = None) -> int:
        self._settle()
        size = self._position if size is None else size
        self._loop.call(self._file.truncate, size)
        return size

    def fsync(self) -> None:
        """Return when all that was written is on stable storage on the replicas."""
        self._settle()
        self._loop.call(self._file.fsync)

    def stat(self) -> Attr:
        self._settle()
        return self._loop.call(self._file.stat)

    def close(self) -> None:
        if not self.closed:
            try:
                super().close()
            finally:
                if self._loop.is_ours:  # in another process it is not ours to close
                    self._loop.call(self._file.aclose)


class _BufferedWriter(io.BufferedWriter):
    """Its `flush` is that of the raw file too."""

    def flush(self) -> None:
        super().flush()
        self.raw.flush()


class _BufferedRandom(io.BufferedRandom):
    """Likewise."""

    def flush(self) -> None:
        super().flush()
        self.raw.flush()


def _buffered(raw: RawFile) -> io.BufferedIOBase:
    if raw.readable() and raw.writable():
        return _BufferedRandom(raw, _BUFFER_BYTES)
    return _BufferedWriter(raw, _BUFFER_BYTES) if raw.writable() else io.BufferedReader(raw, _BUFFER_BYTES)


class _FileSource:
    """A binary file object as the source of an upload; read in a worker thread, since it may block."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    async def readinto(self, view: memoryview) -> int:
        return await trio.to_thread.run_sync(self._fill, view)

    def _fill(self, view: memoryview) -> int:
        readinto = getattr(self._file, "readinto", None)
        if readinto is not None:
            return int(readinto(view) or 0)
        data = self._file.read(len(view))
        view[: len(data)] = data
        return len(data)


class _FileSink:
    """A binary file object as the sink of a download; written in a worker thread."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    async def write(self, view: memoryview) -> None:
        await trio.to_thread.run_sync(self._file.write, view)

    async def skip(self, length: int) -> None:
        zeros = bytes(min(length, _BUFFER_BYTES))
        for start in range(0, length, _BUFFER_BYTES):
            await trio.to_thread.run_sync(self._file.write, zeros[: length - start])


class BlockingFileSystem:
    """A connection to a cluster for synchronous code: made by `connect`, ended by `close` or `with`."""

    def __init__(self, namenode: str, store: KeyStore, wait_s: float | None = None) -> None:
        self._loop = _Loop(namenode, store, wait_s)
        self._fs = self._loop.start()

    def __enter__(self) -> BlockingFileSystem:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the session. Open files must be closed before. In a process that was forked since, this does nothing."""
        self._loop.stop()

    # --- files ------------------------------------------------------------------------------------------

    def open(
        self,
        path: Path,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        perm: int = 0o666,
    ) -> IO[Any]:
        """Open a file of the cluster, as Python's `open`: text unless mode has `b`; `buffering=0` for a raw one."""
        binary = "b" in mode
        if not binary and buffering == 0:
            raise ValueError("text cannot be unbuffered")
        if binary and (encoding or errors or newline):
            raise ValueError("a binary file has no encoding, errors or newline")
        file = self._loop.call(self._fs.open, path, mode.replace("b", "").replace("t", ""), perm)
        raw = RawFile(self._loop, file, show(path), mode, is_buffered=buffering != 0)
        if file.append:
            raw.seek(0, os.SEEK_END)
        if buffering == 0:
            return raw  # type: ignore[return-value]
        buffer = _buffered(raw)
        if binary:
            return buffer  # type: ignore[return-value]
        return io.TextIOWrapper(buffer, encoding or "utf-8", errors, newline)  # type: ignore[type-var]

    def fsync(self, file: IO[Any]) -> None:
        """Flush a file that `open` gave, and return when it is on stable storage on the replicas."""
        file.flush()
        binary: Any = getattr(file, "buffer", file)
        getattr(binary, "raw", binary).fsync()

    def read_bytes(self, path: Path) -> bytes:
        with self.open(path, "rb") as file:
            return bytes(file.read())

    def write_bytes(self, path: Path, data: bytes) -> None:
        """Make or replace a file, in one moment, durable on return."""
        self.upload(io.BytesIO(data), path, replace=True)

    def upload(self, source: IO[bytes], path: Path, **options: Any) -> Attr:
        """Make a file of all bytes of a binary file object; see `FileSystem.upload` for the options."""
        return self._loop.call(self._fs.upload, _FileSource(source), path, **options)

    def download(self, path: Path, sink: IO[bytes]) -> Attr:
        """Write all bytes of a file to a binary file object."""
        return self._loop.call(self._fs.download, path, _FileSink(sink))

    # --- the namespace ----------------------------------------------------------------------------------

    def stat(self, path: Path, *, follow: bool = True) -> Attr:
        return self._loop.call(self._fs.stat, path, follow=follow)

    def exists(self, path: Path, *, follow: bool = True) -> bool:
        return self._loop.call(self._fs.exists, path, follow=follow)

    def listdir(self, path: Path = "/") -> list[str]:
        """The names in a directory, sorted; bytes that are no UTF-8 as `os.fsdecode` shows them."""
        return [os.fsdecode(entry.name) for entry in self.scandir(path)]

    def scandir(self, path: Path = "/") -> list[DirEntry]:
        """The entries of a directory with their attributes, sorted by name."""
        return self._loop.call(self._fs.listdir, path)

    def walk(self, path: Path = "/") -> Iterator[tuple[str, list[DirEntry]]]:
        """Each directory beneath `path`, itself first, with its entries."""
        pending = [os.fsdecode(path)]
        while pending:
            directory = pending.pop()
            entries = self.scandir(directory)
            yield directory, entries
            pending += [
                f"{directory.rstrip('/')}/{os.fsdecode(entry.name)}"
                for entry in reversed(entries)
                if entry.attr.mode & 0o170000 == 0o040000
            ]

    def mkdir(self, path: Path, mode: int = 0o777, *, parents: bool = False, exist_ok: bool = False) -> Attr:
        return self._loop.call(self._fs.mkdir, path, mode, parents=parents, exist_ok=exist_ok)

    def rename(self, source: Path, target: Path, *, replace: bool = True) -> Attr:
        return self._loop.call(self._fs.rename, source, target, replace=replace)

    def remove(self, path: Path) -> None:
        self._loop.call(self._fs.remove, path)

    def rmdir(self, path: Path) -> None:
        self._loop.call(self._fs.rmdir, path)

    def remove_tree(self, path: Path) -> int:
        return self._loop.call(self._fs.remove_tree, path)

    def symlink(self, target: Path, path: Path) -> Attr:
        return self._loop.call(self._fs.symlink, target, path)

    def link(self, source: Path, path: Path) -> Attr:
        return self._loop.call(self._fs.link, source, path)

    def readlink(self, path: Path) -> str:
        return os.fsdecode(self._loop.call(self._fs.readlink, path))

    def chmod(self, path: Path, mode: int) -> Attr:
        return self._loop.call(self._fs.chmod, path, mode)

    def chown(self, path: Path, uid: int | None = None, gid: int | None = None, *, follow: bool = True) -> Attr:
        return self._loop.call(self._fs.chown, path, uid, gid, follow=follow)

    def utime(self, path: Path, atime_ns: int | None = None, mtime_ns: int | None = None) -> Attr:
        return self._loop.call(self._fs.utime, path, atime_ns, mtime_ns)

    def touch(self, path: Path) -> Attr:
        return self._loop.call(self._fs.touch, path)

    def truncate(self, path: Path, size: int) -> Attr:
        return self._loop.call(self._fs.truncate, path, size)

    # --- the cluster ------------------------------------------------------------------------------------

    def statfs(self) -> Statfs:
        return self._loop.call(self._fs.statfs)

    def nodes(self) -> list[NodeView]:
        return self._loop.call(self._fs.nodes)

    def status(self) -> dict[str, Any]:
        return self._loop.call(self._fs.status)

    def plan_drain(self, node: str) -> dict[str, Any]:
        return self._loop.call(self._fs.plan_drain, node)

    def drain(self, node: str) -> None:
        """Begin to empty a DataNode; `status()["drains"]` says how far that is."""
        self._loop.call(self._fs.drain, node)

    def undrain(self, node: str) -> None:
        self._loop.call(self._fs.undrain, node)

    def remove_node(self, node: str) -> None:
        self._loop.call(self._fs.remove_node, node)

    def plan_balance(self, threshold: float | None = None) -> dict[str, Any]:
        return self._loop.call(self._fs.plan_balance, threshold)

    def balance(self, threshold: float | None = None) -> None:
        """Begin to even out how full DataNodes are; `status()["balance"]` says how far that is."""
        self._loop.call(self._fs.balance, threshold)

    def set_replicas(self, path: Path, copies: int) -> Attr:
        """Have so many copies of a file, or of the files that will be made in a directory."""
        return self._loop.call(self._fs.set_replicas, path, copies)

    def summarize(self, path: Path = "/") -> dict[str, int]:
        return self._loop.call(self._fs.summarize, path)

    def replicas(self, path: Path) -> list[ChunkPlace]:
        return self._loop.call(self._fs.replicas, path)


def connect(
    namenode: str | None = None, *, key: str | os.PathLike[str] | None = None, wait_s: float | None = None
) -> BlockingFileSystem:
    """Connect to the cluster whose NameNode is at `namenode`, or to the one that the client's configuration
    names (`dfs.config.find_client_config`). `key`: the file with the key, if it is not the one that DFS_KEY or the
    configuration names. Raises `ConfigError` where there is none, `Unreachable` where nothing answers, `Refused` with a
    key of another cluster.
    """
    store = KeyStore(config.find_key_file(key))
    return BlockingFileSystem(namenode or config.find_client_config().namenode, store, wait_s)
