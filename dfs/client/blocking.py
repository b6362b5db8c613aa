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
import stat
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import IO, Any, BinaryIO, Literal, TextIO, TypeAlias, overload

import trio

from dfs import config, errors
from dfs.client.loopthread import LoopThread
from dfs.client.paths import Path, show
from dfs.client.rawfile import BUFFER_BYTES, RawFile, opened
from dfs.keystore import KeyStore
from dfs.types import Attr, ChunkPlace, DirEntry, NodeView, Statfs

TextMode: TypeAlias = Literal["r", "r+", "w", "w+", "a", "a+", "x", "x+"]
BinaryMode: TypeAlias = Literal["rb", "rb+", "r+b", "wb", "wb+", "w+b", "ab", "ab+", "a+b", "xb", "xb+", "x+b"]


class _FileSource:
    """A binary file object as the source of an upload; read in a worker thread, since it may block."""

    def __init__(self, file: IO[bytes]) -> None:
        if not (hasattr(file, "readinto") or hasattr(file, "read")):
            raise TypeError(f"not a file object: {file!r}")
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

    leaves_holes = False

    def __init__(self, file: IO[bytes]) -> None:
        if not hasattr(file, "write"):
            raise TypeError(f"not a file object: {file!r}")
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
    """A connection to a cluster for synchronous code: made by `connect`, ended by `close` or `with`.

    Paths are absolute in the cluster: str, bytes or os.PathLike. What goes wrong is raised as a class of `dfs.errors`,
    each an OSError with `errno`, many of them Python's own, too (`NotFound` is a FileNotFoundError); besides what is
    named below any method may raise `DeadlineExceeded`, as the NameNode or DataNodes did not answer for `wait_s`,
    `NotPermitted` for what the key does not allow, and ValueError once the connection is closed.
    """

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

    @overload
    def open(
        self,
        path: Path,
        mode: TextMode = ...,
        buffering: int = ...,
        encoding: str | None = ...,
        errors: str | None = ...,
        newline: str | None = ...,
        perm: int = ...,
    ) -> TextIO: ...
    @overload
    def open(self, path: Path, mode: BinaryMode, buffering: int = ..., *, perm: int = ...) -> BinaryIO: ...
    @overload
    def open(
        self,
        path: Path,
        mode: str,
        buffering: int = ...,
        encoding: str | None = ...,
        errors: str | None = ...,
        newline: str | None = ...,
        perm: int = ...,
    ) -> IO[Any]: ...

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
        """Open a file of the cluster, as Python's `open`: text unless mode has `b`; `buffering=0` for a raw one.

        `perm` is what a new file's permissions are, less the umask. Raises `NotFound`, `Exists` with mode `x`,
        `IsADirectory`, `NotADirectory`, `NotPermitted`, and ValueError for what is no mode.
        """
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
        """Flush a file that `open` gave, and return when it is on stable storage on the replicas.

        Raises what went wrong with it, `NotEnoughNodes`, and TypeError for any other file.
        """
        binary: Any = getattr(file, "buffer", file)
        raw = getattr(binary, "raw", binary)
        if not isinstance(raw, RawFile):
            raise TypeError(f"not a file of the cluster: {file!r}")
        file.flush()
        raw.fsync()

    def read_bytes(self, path: Path) -> bytes:
        """All bytes of a file. Raises as `open`, and `DataLost`."""
        with self.open(path, "rb") as file:
            return bytes(file.read())

    def write_bytes(self, path: Path, data: bytes) -> None:
        """Make or replace a file, in one moment, durable on return. Raises as `upload`."""
        self.upload(io.BytesIO(data), path, replace=True)

    def upload(
        self,
        source: IO[bytes],
        path: Path,
        *,
        mode: int = 0o644,
        replace: bool = False,
        sync: bool = True,
        times: tuple[int, int] | None = None,
        owner: tuple[int, int] | None = None,
    ) -> Attr:
        """Make a file of all bytes of a binary file object; it appears, whole, when this returns.

        `mode` is taken as it is (no umask); `times` are (access, modification) in ns; `owner` is (uid, gid);
        with `sync` the bytes are durable on return. Raises `Exists` unless `replace`, `IsADirectory`, `NotFound`,
        `NoSpace`, `NotEnoughNodes`; nothing is left behind then.
        """
        options: dict[str, Any] = {"mode": mode, "replace": replace, "sync": sync, "times": times, "owner": owner}
        return self._loop.call(self._fs.upload, _FileSource(source), path, **options)

    def download(self, path: Path, sink: IO[bytes]) -> Attr:
        """Write all bytes of a file to a binary file object; the file's attributes.

        Raises `NotFound`, `IsADirectory`, `DataLost`, and what writing raises.
        """
        return self._loop.call(self._fs.download, path, _FileSink(sink))

    # --- the namespace ----------------------------------------------------------------------------------

    def stat(self, path: Path, *, follow: bool = True) -> Attr:
        """What is known of a name: `size`, `mode`, `mtime_ns` and so on; of a symbolic link's target with `follow`.

        Raises `NotFound`, `NotADirectory`.
        """
        return self._loop.call(self._fs.stat, path, follow=follow)

    def exists(self, path: Path, *, follow: bool = True) -> bool:
        """Whether there is something of that name. Raises what is wrong with the cluster, never `NotFound`."""
        return self._loop.call(self._fs.exists, path, follow=follow)

    def is_dir(self, path: Path) -> bool:
        """Whether it is a directory, or leads to one. Raises as `exists`."""
        return self._has_type(path, stat.S_ISDIR)

    def is_file(self, path: Path) -> bool:
        """Whether it is a regular file, or leads to one. Raises as `exists`."""
        return self._has_type(path, stat.S_ISREG)

    def _has_type(self, path: Path, is_type: Callable[[int], bool]) -> bool:
        try:
            return is_type(self.stat(path).mode)
        except (errors.NotFound, errors.NotADirectory):
            return False

    def listdir(self, path: Path = "/") -> list[str]:
        """The names in a directory, sorted; bytes that are no UTF-8 as `os.fsdecode` shows them.

        Raises `NotFound`, `NotADirectory`.
        """
        return [os.fsdecode(entry.name) for entry in self.scandir(path)]

    def scandir(self, path: Path = "/") -> list[DirEntry]:
        """The entries of a directory with their attributes, sorted by name, which is bytes. Raises as `listdir`."""
        return self._loop.call(self._fs.listdir, path)

    def walk(self, path: Path = "/") -> Iterator[tuple[str, list[DirEntry]]]:
        """Each directory beneath `path`, itself first, with its entries. Raises as `listdir`."""
        pending = [os.fsdecode(path)]
        while pending:
            directory = pending.pop()
            entries = self.scandir(directory)
            yield directory, entries
            pending += [
                f"{directory.rstrip('/')}/{os.fsdecode(entry.name)}"
                for entry in reversed(entries)
                if stat.S_ISDIR(entry.attr.mode)
            ]

    def mkdir(self, path: Path, mode: int = 0o777, *, parents: bool = False, exist_ok: bool = False) -> Attr:
        """Make a directory, with permissions `mode` less the umask, and with `parents` those above it that are missing.

        Raises `Exists`, unless `exist_ok` and it is a directory; `NotFound`, `NotADirectory`.
        """
        return self._loop.call(self._fs.mkdir, path, mode, parents=parents, exist_ok=exist_ok)

    def rename(self, source: Path, target: Path, *, replace: bool = True) -> Attr:
        """Give `source` the name `target`, in one moment; what had that name goes, if it may.

        Raises `NotFound`, `Exists` unless `replace`, `IsADirectory`, `NotADirectory`, `NotEmpty`, `InvalidArgument`.
        """
        return self._loop.call(self._fs.rename, source, target, replace=replace)

    def remove(self, path: Path) -> None:
        """Remove a name that is no directory. Raises `NotFound`, `IsADirectory`."""
        self._loop.call(self._fs.remove, path)

    def rmdir(self, path: Path) -> None:
        """Remove a directory that is empty. Raises `NotFound`, `NotADirectory`, `NotEmpty`."""
        self._loop.call(self._fs.rmdir, path)

    def remove_tree(self, path: Path) -> int:
        """Remove a name and all beneath it; how many names went. Raises `NotFound`, and the first thing that fails."""
        return self._loop.call(self._fs.remove_tree, path)

    def symlink(self, target: Path, path: Path) -> Attr:
        """Make a symbolic link at `path`, which leads to `target`. Raises `Exists`, `NotFound`."""
        return self._loop.call(self._fs.symlink, target, path)

    def link(self, source: Path, path: Path) -> Attr:
        """Give a file one more name. Raises `NotFound`, `Exists`, `NotPermitted` for a directory."""
        return self._loop.call(self._fs.link, source, path)

    def readlink(self, path: Path) -> str:
        """Where a symbolic link leads. Raises `NotFound`, `InvalidArgument` for what is none."""
        return os.fsdecode(self._loop.call(self._fs.readlink, path))

    def chmod(self, path: Path, mode: int) -> Attr:
        """Set the permissions. Raises `NotFound`, `NotPermitted`."""
        return self._loop.call(self._fs.chmod, path, mode)

    def chown(self, path: Path, uid: int | None = None, gid: int | None = None, *, follow: bool = True) -> Attr:
        """Set the owner and the group, those that are not None. Raises `NotFound`, `NotPermitted`."""
        return self._loop.call(self._fs.chown, path, uid, gid, follow=follow)

    def utime(self, path: Path, atime_ns: int | None = None, mtime_ns: int | None = None) -> Attr:
        """Set the times of access and of modification, in ns since 1970; None is now. Raises `NotFound`."""
        return self._loop.call(self._fs.utime, path, atime_ns, mtime_ns)

    def touch(self, path: Path) -> Attr:
        """Set a file's times to now; make it, empty, if there is none. Raises `NotFound` for a directory above it."""
        return self._loop.call(self._fs.touch, path)

    def truncate(self, path: Path, size: int) -> Attr:
        """Make a file `size` bytes long: cut it, or add zeros. Raises `NotFound`, `IsADirectory`, `FileTooLarge`."""
        return self._loop.call(self._fs.truncate, path, size)

    # --- the cluster ------------------------------------------------------------------------------------

    def statfs(self) -> Statfs:
        """How much the cluster holds, and has room for, in bytes."""
        return self._loop.call(self._fs.statfs)

    def nodes(self) -> list[NodeView]:
        """The DataNodes as the NameNode sees them."""
        return self._loop.call(self._fs.nodes)

    def status(self) -> dict[str, Any]:
        """What `dfs status --json` shows."""
        return self._loop.call(self._fs.status)

    def plan_drain(self, node: str) -> dict[str, Any]:
        """What emptying a DataNode would move, how long that takes at least, and what is at risk. Raises `NotFound`."""
        return self._loop.call(self._fs.plan_drain, node)

    def drain(self, node: str) -> None:
        """Begin to empty a DataNode; `status()["drains"]` says how far that is. Raises `NotFound`, `NotPermitted`."""
        self._loop.call(self._fs.drain, node)

    def undrain(self, node: str) -> None:
        """Use a DataNode again that was to be emptied. Raises `NotFound`, `NotPermitted`."""
        self._loop.call(self._fs.undrain, node)

    def remove_node(self, node: str) -> None:
        """Forget a DataNode that is dead or drained. Raises `NotFound`, or `NodeInUse`, which says what to do."""
        self._loop.call(self._fs.remove_node, node)

    def plan_balance(self, threshold: float | None = None) -> dict[str, Any]:
        """How full DataNodes are, and how much each would give or take. Raises `InvalidArgument`."""
        return self._loop.call(self._fs.plan_balance, threshold)

    def balance(self, threshold: float | None = None) -> None:
        """Begin to even out how full DataNodes are, to within `threshold` of the cluster's level (0.05: 5 points).

        `status()["balance"]` says how far that is. Raises `InvalidArgument`, `NotPermitted`.
        """
        self._loop.call(self._fs.balance, threshold)

    def set_replicas(self, path: Path, copies: int) -> Attr:
        """Have so many copies of a file, or of the files that will be made in a directory; 0 is the cluster's default.

        The copies are made, or dropped, in the background. Raises `NotFound`, `InvalidArgument`.
        """
        return self._loop.call(self._fs.set_replicas, path, copies)

    def summarize(self, path: Path = "/") -> dict[str, int]:
        """Counts beneath a directory: `files`, `directories`, `bytes`, and `allocated` bytes. Raises `NotFound`."""
        return self._loop.call(self._fs.summarize, path)

    def replicas(self, path: Path) -> list[ChunkPlace]:
        """The chunks that hold a file's bytes, in the order of the file, and the DataNodes that hold them."""
        return self._loop.call(self._fs.replicas, path)


def connect(
    namenode: str | None = None, *, key: str | os.PathLike[str] | None = None, wait_s: float | None = None
) -> BlockingFileSystem:
    """Connect to the cluster whose NameNode is at `namenode` (HOST or HOST:PORT), or to the one that the client's
    configuration names (`dfs.config.find_client_config`). `key`: the file with the key, if it is not the one that
    DFS_KEY or the configuration names. Raises `ConfigError` where there is none, `Unreachable` where nothing answers,
    `Refused` with a key of another cluster, `InvalidArgument` for what is no address.
    """
    address = namenode or config.find_client_config().namenode
    return BlockingFileSystem(address, KeyStore(config.find_key_file(key)), wait_s)
