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

import errno
import io
import os
from collections.abc import Iterator
from types import TracebackType
from typing import IO, Any

import trio

from dfs import config
from dfs.client.loopthread import LoopThread
from dfs.client.paths import Path, show
from dfs.client.rawfile import BUFFER_BYTES, opened
from dfs.keystore import KeyStore
from dfs.types import Attr, ChunkPlace, DirEntry, NodeView, Statfs


class _FileSource:
    """A binary file object as the source of an upload; read in a worker thread, since it may block."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    async def readinto(self, view: memoryview) -> int:
        return await trio.to_thread.run_sync(self._fill, view)

    def _fill(self, view: memoryview) -> int:
        readinto = getattr(self._file, "readinto", None)
        if readinto is not None:
            return _now(readinto(view), "nothing to be read")
        data = self._file.read(len(view))
        length = _now(None if data is None else len(data), "nothing to be read")
        view[:length] = data
        return length


class _FileSink:
    """A binary file object as the sink of a download; written in a worker thread."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    async def write(self, view: memoryview) -> None:
        await trio.to_thread.run_sync(self._write_all, view)

    async def skip(self, length: int) -> None:
        zeros = memoryview(bytes(min(length, BUFFER_BYTES)))
        for start in range(0, length, BUFFER_BYTES):
            await trio.to_thread.run_sync(self._write_all, zeros[: length - start])

    def _write_all(self, view: memoryview) -> None:
        """A raw file may take less than it is given. What is like a file need not say how much it has taken."""
        if not isinstance(self._file, io.RawIOBase):
            self._file.write(view)
            return
        while view:
            view = view[_now(self._file.write(view) or None, "no room for more") :]


def _now(count: int | None, what: str) -> int:
    """How many bytes a file has given or taken. Raises `BlockingIOError` of one that would have to be waited for."""
    if count is None:
        raise BlockingIOError(errno.EAGAIN, f"the file is non-blocking, and there is {what}")
    return int(count)


class BlockingFileSystem:
    """A connection to a cluster for synchronous code: made by `connect`, ended by `close` or `with`."""

    def __init__(self, namenode: str, store: KeyStore, wait_s: float | None = None) -> None:
        self._loop = LoopThread(namenode, store, wait_s)
        self._fs = self._loop.start()

    def __enter__(self) -> BlockingFileSystem:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close files that are open still, and end the session. In a process that was forked since, this does nothing.

        Raises as closing them does; the session has ended then.
        """
        self._loop.close()

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
        made: Any = opened(self._loop, file, show(path), mode, is_buffered=buffering != 0)
        raw = getattr(made, "raw", made)
        if not binary:
            made = io.TextIOWrapper(made, encoding or "utf-8", errors, newline, line_buffering=buffering == 1)
        self._loop.left_open.update((made, raw))
        return made  # type: ignore[no-any-return]

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
    key of another cluster, `InvalidArgument` for what is no address.
    """
    address = namenode or config.find_client_config().namenode
    return BlockingFileSystem(address, KeyStore(config.find_key_file(key)), wait_s)
