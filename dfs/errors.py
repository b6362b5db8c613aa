"""One tree of exceptions, each class with an errno: any of them can end as a POSIX error.

All derive from `OSError`; those with a counterpart among Python's own (`FileNotFoundError`, ...) derive
from that too, so scripts can catch what they know. On the wire an error is (code, message), the code being
the class's name; a stock Pyro5 peer sees a plain `OSError` with the same errno and message.
Raised where known, translated once, at the edge (CLI: a sentence; mount: the errno).
"""

from __future__ import annotations

import errno as _errno
from typing import ClassVar


class DfsError(OSError):
    """Base of all errors that dfs raises on purpose. `message` is a sentence for a person."""

    code: ClassVar[str] = "DfsError"
    default_errno: ClassVar[int] = _errno.EIO
    _registry: ClassVar[dict[str, type[DfsError]]] = {}

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        cls.code = cls.__name__
        DfsError._registry[cls.__name__] = cls

    def __init__(self, message: str) -> None:
        super().__init__(self.default_errno, message)
        self.message = message

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[type[DfsError], tuple[str]]:
        return type(self), (self.message,)


def from_wire(code: str, message: str) -> DfsError:
    """The exception that travelled as (code, message). A code of a newer version becomes `RemoteFault`."""
    known = DfsError._registry.get(code)
    return known(message) if known else RemoteFault(f"{code}: {message}")


# --- the namespace: what POSIX calls may answer ---------------------------------------------------------


class NotFound(DfsError, FileNotFoundError):
    default_errno = _errno.ENOENT


class Exists(DfsError, FileExistsError):
    default_errno = _errno.EEXIST


class NotADirectory(DfsError, NotADirectoryError):
    default_errno = _errno.ENOTDIR


class IsADirectory(DfsError, IsADirectoryError):
    default_errno = _errno.EISDIR


class NotEmpty(DfsError):
    default_errno = _errno.ENOTEMPTY


class InvalidArgument(DfsError):
    default_errno = _errno.EINVAL


class NameTooLong(DfsError):
    default_errno = _errno.ENAMETOOLONG


class NotPermitted(DfsError, PermissionError):
    default_errno = _errno.EPERM


class TooManyLinks(DfsError):
    default_errno = _errno.EMLINK


class TooManySymlinks(DfsError):
    default_errno = _errno.ELOOP


class NoAttribute(DfsError):
    default_errno = _errno.ENODATA


class ArgumentTooLarge(DfsError):
    """An xattr value, a symlink target or a batch that is over its limit."""

    default_errno = _errno.E2BIG


class OutOfRange(DfsError):
    """An xattr name that is over its limit."""

    default_errno = _errno.ERANGE


class FileTooLarge(DfsError):
    default_errno = _errno.EFBIG


class NotSupported(DfsError):
    default_errno = _errno.ENOTSUP


# --- the cluster ----------------------------------------------------------------------------------------


class NoSpace(DfsError):
    """No DataNode that may take the data has room for it (or the NameNode's own disk is full)."""

    default_errno = _errno.ENOSPC


class NotEnoughNodes(DfsError):
    """Fewer DataNodes are up than `min_replicas` asks for; the message names the missing ones."""

    default_errno = _errno.EIO


class NodeInUse(DfsError):
    """A DataNode that cannot be removed: it is at work, or holds what no other does. The message says what to do."""

    default_errno = _errno.EBUSY


class SessionExpired(DfsError):
    """The NameNode ended this session; what it had not committed is gone."""

    default_errno = _errno.ESTALE


class Busy(DfsError):
    """More work waits already than may; the same call may succeed a little later."""

    default_errno = _errno.EAGAIN


class WrongCluster(DfsError):
    """The peer, or the directory, belongs to another cluster or node."""

    default_errno = _errno.EPERM


class NodeRemoved(WrongCluster):
    """The cluster has let this DataNode go: it is not to be started again with the directories that it has."""


class DiskMissing(WrongCluster):
    """A DataNode has come without the directories that it had, and nobody has said that it is to begin anew."""


class GrantExpired(NotPermitted):
    """The NameNode's word that a chunk may be used counts no more: it gives another to who still may."""

    default_errno = _errno.EACCES


class DataLost(DfsError):
    """No replica that can be reached holds these committed bytes intact."""

    default_errno = _errno.EIO


# --- a DataNode's chunk store ---------------------------------------------------------------------------


class ChunkNotFound(DfsError):
    """This DataNode does not hold the chunk."""

    default_errno = _errno.EIO


class ChunkSealed(DfsError):
    """The chunk takes no more of this session: bytes that were not committed must be written to another."""

    default_errno = _errno.EIO


class Overwrites(DfsError):
    """What is to be committed would take the place of bytes that the file holds: it must be durable before."""

    default_errno = _errno.EIO


class MemoryUnknown(DfsError):
    """The DataNode does not have, or has no more, the memory out of which it is to read what is appended."""

    default_errno = _errno.EIO


class ChunkConflict(DfsError):
    """An append that does not continue the replica: another offset, or other bytes there already."""

    default_errno = _errno.EIO


class ChunkFull(DfsError):
    """The append would take the chunk over its size or its number of blocks."""

    default_errno = _errno.EIO


class Corrupt(DfsError):
    """Bytes that do not match their checksum, on a disk or on the wire."""

    default_errno = _errno.EIO


class DiskFailed(DfsError):
    """The data directory returned an I/O error and is out of service."""

    default_errno = _errno.EIO


# --- the transport --------------------------------------------------------------------------------------


class RpcError(DfsError):
    """Base of what can go wrong between two daemons."""


class Unreachable(RpcError, ConnectionError):
    """No connection could be made: the call was not sent, so it did not happen."""

    default_errno = _errno.EHOSTUNREACH


class ConnectionLost(RpcError, ConnectionError):
    """The connection broke after the call was sent: whether it happened is not known."""

    default_errno = _errno.ECONNRESET


class DeadlineExceeded(RpcError, TimeoutError):
    """No answer in time: whether the call happened is not known."""

    default_errno = _errno.ETIMEDOUT


class ProtocolViolation(RpcError):
    """The peer sent what the protocol does not allow; the connection is closed."""

    default_errno = _errno.EPROTO


class Refused(RpcError):
    """The peer refused the handshake: the message says why."""

    default_errno = _errno.ECONNREFUSED


class RemoteFault(RpcError):
    """The peer failed in a way it did not plan; its log has the traceback."""

    default_errno = _errno.EREMOTEIO


# --- starting up ----------------------------------------------------------------------------------------


class ConfigError(DfsError):
    """A configuration file that cannot be used; the message names file, line and remedy."""

    default_errno = _errno.EINVAL


class DirectoryInUse(DfsError):
    """Another daemon runs on this directory."""

    default_errno = _errno.EBUSY


class FormatUnknown(DfsError):
    """A file or database written by a version of dfs that this one does not know."""

    default_errno = _errno.EINVAL
