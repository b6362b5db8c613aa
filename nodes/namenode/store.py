"""SQLite: one database file, and what is done with it as a file. No other module imports sqlite3.

One connection writes, three read, and one copies while a copy is made.

WAL with synchronous=FULL: a commit returns when the change is on stable storage. The reading connection is in
autocommit mode, so each statement sees what is committed at its start; `reading` makes several statements see one
moment. The file belongs to one process: an flock beside it says so.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import structlog

from dfs import errors, limits
from dfs.types import ROOT_INO, ClusterId
from nodes.namenode.schema import COUNTERS, FORMAT, MIGRATIONS, TABLES

log = structlog.get_logger(__name__)

Database: TypeAlias = sqlite3.Connection
Row: TypeAlias = tuple[Any, ...]

_NAME = "namespace.sqlite"
_COPY_NAME = "copy.sqlite"
_COPIED_AT_ONCE = 1024
"""Pages: some milliseconds."""
_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA cache_size = -65536",  # KiB: bounds memory whatever the namespace's size
    "PRAGMA wal_autocheckpoint = 4000",  # pages: 16 MiB
    "PRAGMA journal_size_limit = 67108864",  # of the log, which grows while a copy is made, when that is done
    "PRAGMA temp_store = MEMORY",
    "PRAGMA foreign_keys = OFF",  # the commands keep the invariants, `check` verifies them
)


class Store:
    """Use `open_store`.

    `writing` belongs to the one writer, `reads` to the event loop, `checks` to the checker, `counts` to who counts.
    """

    def __init__(self, directory: Path, lock: int, new_cluster: str) -> None:
        self.directory = directory
        self._lock = lock
        with ExitStack() as connections:
            self.writing = connections.enter_context(closing(_connect(directory / _NAME)))
            if not self.writing.execute("SELECT 1 FROM sqlite_master WHERE name = 'setting'").fetchone():
                _create(self.writing, new_cluster)
            _migrate(self.writing, directory)
            self.reads = connections.enter_context(closing(_connect(directory / _NAME)))
            self.checks = connections.enter_context(closing(_connect(directory / _NAME)))
            self.counts = connections.enter_context(closing(_connect(directory / _NAME)))
            self.cluster = ClusterId(self.setting("cluster"))
            self._connections = connections.pop_all()

    def setting(self, name: str) -> Any:
        """A setting's committed value, None where it has none."""
        row = self.reads.execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def counters(self) -> dict[str, int]:
        """All counters as committed. Raises `DiskFailed`."""
        with self.translating():
            return dict(self.reads.execute("SELECT name, value FROM counter"))

    @contextmanager
    def reading(self) -> Iterator[Database]:
        """The reading connection in one transaction: all that is read is of one moment. Not for use over an await.

        Within another one it is a part of that.
        """
        if self.reads.in_transaction:
            yield self.reads
            return
        self.reads.execute("BEGIN")
        try:
            yield self.reads
        finally:
            self.reads.execute("COMMIT")

    def begin(self) -> None:
        """Begin the one write transaction. Raises `NoSpace` or `DiskFailed`."""
        with _translated(self.directory):
            self.writing.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make it durable. Blocks on the disk. Raises `NoSpace` or `DiskFailed`: then nothing of it happened."""
        with _translated(self.directory):
            try:
                self.writing.execute("COMMIT")
            except sqlite3.Error:
                self.rollback()
                raise

    def rollback(self) -> None:
        if self.writing.in_transaction:
            self.writing.execute("ROLLBACK")

    @contextmanager
    def translating(self) -> Iterator[None]:
        """Turn what SQLite says of its disk, and only that, into `NoSpace` or `DiskFailed`."""
        with _translated(self.directory):
            yield

    def told(self, error: Exception) -> errors.DfsError | None:
        """What SQLite has said of its disk, and only that, to who asked it something, as `NoSpace` or `DiskFailed`."""
        told = _told(error, self.directory)
        if told is not None:
            log.error("the database could not be read", error=told.message)
        return told

    def free_bytes(self) -> int:
        """Space left on the database's disk."""
        return shutil.disk_usage(self.directory).free

    def size_bytes(self) -> int:
        """Of the database: as much as a copy takes, but for what is committed meanwhile. Raises `DiskFailed`."""
        with self.translating():
            (pages,), (page_bytes,) = (
                self.reads.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size")
            )
        return int(pages * page_bytes)

    def copy(self, check: Callable[[], None]) -> Copy:
        """The database as it is now. Blocks until all of it is read and written, but for `check`, which may raise.

        What is committed meanwhile stays in the write-ahead log. Raises `NoSpace`, `DiskFailed`.
        """
        path = self.directory / _COPY_NAME
        with self.translating(), _copying(self.directory):
            try:
                with closing(_open(path)) as target, closing(_open(self.directory / _NAME)) as source:
                    target.execute("PRAGMA synchronous = OFF")
                    target.execute("PRAGMA journal_mode = OFF")
                    source.execute("BEGIN")
                    source.execute("SELECT 1 FROM setting").fetchone()  # from here on it sees one moment
                    source.backup(target, pages=_COPIED_AT_ONCE, progress=lambda *_: check())
                    (files,) = target.execute("SELECT value FROM counter WHERE name = 'files'").fetchone()
                return Copy(path, files)
            finally:
                _remove(path)

    def close(self) -> None:
        """Close; the write-ahead log is merged into the database."""
        self._connections.close()
        os.close(self._lock)


def _remove(copy: Path) -> None:
    """Of a copy all names, if there are any."""
    for suffix in ("", "-wal", "-shm"):
        copy.with_name(copy.name + suffix).unlink(missing_ok=True)


class Copy:
    """A copy of the database, in a file whose name may be gone. `files`: so many regular files are in it."""

    def __init__(self, path: Path, files: int) -> None:
        self._directory = path.parent
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.files = files
        self.size_bytes = os.fstat(self._fd).st_size

    def read(self, offset: int) -> bytes:
        """Its bytes from there on, READ_MAX_BYTES at most; none at its end. Raises `DiskFailed`."""
        with _copying(self._directory):
            return os.pread(self._fd, limits.READ_MAX_BYTES, offset)

    def close(self) -> None:
        os.close(self._fd)


@contextmanager
def _copying(directory: Path) -> Iterator[None]:
    try:
        yield
    except errors.DfsError:
        raise
    except OSError as error:
        raise errors.DiskFailed(f"a copy of the database in {directory} failed: {error.strerror}") from error


def open_store(directory: Path, chance: random.Random, cluster: str | None = None) -> Store:
    """Open the database under `directory`, made new if there is none: of a cluster, None for an id by `chance`.

    Raises `DirectoryInUse`, `FormatUnknown`, `DiskFailed`, `WrongCluster` if it is another's than `cluster`, or
    `ConfigError` for a directory that cannot be used.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise errors.ConfigError(f"{directory} cannot be used as state_dir: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise errors.DirectoryInUse(f"another NameNode runs on {directory}: stop it first") from None
    try:
        with _translated(directory):
            _remove(directory / _COPY_NAME)  # of a process that ended as it made one
            store = Store(directory, lock, cluster or f"{chance.getrandbits(128):032x}")
            if cluster not in (None, store.cluster):
                store.close()
                lock = -1
                raise errors.WrongCluster(
                    f"{directory} has the namespace of cluster {store.cluster}, and the keys are those of cluster"
                    f" {cluster}: configure the state_dir that belongs to these keys, or the keys of this state_dir"
                )
            return store
    except BaseException:
        if lock >= 0:
            os.close(lock)
        raise


def _open(path: Path) -> Database:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=512, timeout=10.0)


def _connect(path: Path) -> Database:
    db = _open(path)
    try:
        for pragma in _PRAGMAS:
            db.execute(pragma)
    except BaseException:
        db.close()
        raise
    return db


def _create(db: Database, cluster: str) -> None:
    db.execute("BEGIN IMMEDIATE")
    for statement in TABLES.split(";\n"):
        if statement.strip():
            db.execute(statement)
    db.executemany(
        "INSERT INTO setting VALUES (?, ?)",
        [
            ("cluster", cluster),
            ("format", FORMAT),
            ("replicas", 1),
            ("min_replicas", 1),
            ("grace_ns", 0),
        ],
    )
    db.executemany("INSERT INTO counter VALUES (?, ?)", COUNTERS.items())
    db.execute(
        "INSERT INTO inode VALUES (?, ?, 2, ?, ?, 0, 0, 0, 0, 0, 0, 0, 1, 0, ?, 1, NULL)",
        (ROOT_INO, stat.S_IFDIR | 0o755, os.geteuid(), os.getegid(), ROOT_INO),
    )
    db.execute("COMMIT")


def _migrate(db: Database, directory: Path) -> None:
    """Bring an older format up to ours, all or nothing. Raises `FormatUnknown`."""
    row = db.execute("SELECT value FROM setting WHERE name = 'format'").fetchone()
    found = row[0] if row else None
    if found != FORMAT and found not in MIGRATIONS:
        raise errors.FormatUnknown(
            f"{directory} has a namespace of format {found}, this dfs knows {FORMAT}:"
            " run the version that wrote it, or a newer one"
        )
    if found == FORMAT:
        return
    db.execute("BEGIN IMMEDIATE")
    for number in range(found, FORMAT):
        for statement in MIGRATIONS[number]:
            db.execute(statement)
    db.execute("UPDATE setting SET value = ? WHERE name = 'format'", (FORMAT,))
    db.execute("COMMIT")
    log.info("namespace migrated", directory=str(directory), found=found, format=FORMAT)


def made_anew(db: Database, index: str) -> bool:
    """Make an index anew, by its name, out of its table; whether that can be done."""
    try:
        db.execute(f"REINDEX {index}")
    except sqlite3.DatabaseError as error:
        if _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_CONSTRAINT):
            return False
        raise
    return True


_ROOM_BYTES = 64 * 1024
_DISK_FULL = {sqlite3.SQLITE_FULL}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_DISK_FAILED = _DAMAGED | {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}
_DISK_FAILED |= {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def is_of_disk(error: Exception) -> bool:
    """Whether SQLite says so of its disk, and not of what it was asked to do."""
    return _code(error) in _DISK_FULL | _DISK_FAILED


def _code(error: Exception) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _is_full(directory: Path) -> bool:
    """Whether the disk has no room, as when SQLite cannot make the files beside its database larger."""
    try:
        return shutil.disk_usage(directory).free < _ROOM_BYTES
    except OSError:
        return False


def _told(error: Exception, directory: Path) -> errors.DfsError | None:
    code = _code(error)
    if code in _DISK_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(directory)):
        return errors.NoSpace(f"the NameNode's disk is full: {directory}")
    if code in _DAMAGED:
        return errors.DiskFailed(
            f"the NameNode's database {directory / _NAME} is damaged ({error}): look at its disk, and bring back the"
            f" newest copy of {directory}"
        )
    if code in _DISK_FAILED:
        return errors.DiskFailed(f"the NameNode's database {directory / _NAME} failed: {error}")
    return None


@contextmanager
def _translated(directory: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        told = _told(error, directory)
        if told is None:
            raise
        raise told from error
