"""The descriptor of /dev/fuse, and what the kernel is told through it that pyfuse3 or libfuse 3.14 has no word for.

**Notifications**, by which the kernel forgets what it was told, or has bytes of a file before it asks for those. They
are written to a descriptor of our own.

**Answers to INIT and to opens** are libfuse's with flags added. It writes them to its descriptor, so for that moment
the descriptor is the end of a socket, and what was written there is taken out, changed and given to the kernel:

    divert   the descriptor becomes the socket's end
             libfuse writes its answer
    settle   the descriptor is the kernel's again; the answer is passed on

Nobody else uses the descriptor meanwhile: handlers answer as soon as they return, in the task that comes back for the
next request then (`mount.loop`), and there is no await in between. What does not look as expected is passed on as it
is.

INIT is the kernel's first request; it is read here and given to libfuse through the socket, since the kernel's offer is
in it. Flags that are taken away from the answer:

* FUSE_ASYNC_DIO. With it direct I/O that is asynchronous (io_submit on an O_DIRECT file) ends without the kernel's
  dropping the pages that it has of what was written, and who reads those sees what was there before.
* FUSE_ATOMIC_O_TRUNC. With it opening cuts the file, and the kernel is not told when that was: it drops what is written
  next as soon as it hears of the new time of modification. Without it the kernel asks for the cut, and is told.

Flags that are added if they are offered:

* FUSE_HANDLE_KILLPRIV_V2 (Linux 5.11). Before a write(2) the kernel asks for the extended attribute security.capability
  of the file, which is to go then: one more request for each write. With the flag it does not, once it knows that there
  is none, and leaves it to the file system to clear set-id bits; the NameNode does so with each commit. The kernel goes
  on showing them until its attributes' time-out has passed, so for files that have such bits there is none (`Kernel`).
* FUSE_CACHE_SYMLINKS (Linux 4.20): the kernel keeps where a symbolic link leads, which never changes.

Numbers and layouts are those of <linux/fuse.h>.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dfs.checksum import Buffer

NO_FLUSH: Final = 1 << 5
"""FOPEN_NOFLUSH (Linux 5.16): closing the file needs no request."""
KEEP_CACHE: Final = 1 << 1
"""FOPEN_KEEP_CACHE: what the kernel has of it already is as it should be."""
CACHE_DIR: Final = 1 << 3
"""FOPEN_CACHE_DIR (Linux 4.20): the kernel keeps the listing that it reads."""

_INIT: Final = 26
_ATOMIC_O_TRUNC: Final = 1 << 3
_ASYNC_DIO: Final = 1 << 15
_CACHE_SYMLINKS: Final = 1 << 23
_HANDLE_KILLPRIV_V2: Final = 1 << 28
_ADDED: Final = _CACHE_SYMLINKS | _HANDLE_KILLPRIV_V2
_TAKEN: Final = _ATOMIC_O_TRUNC | _ASYNC_DIO
_ZEROES_ENDS_FROM: Final = (6, 11)
"""Of Linux: those before, but for some later patches of theirs, leave behind bytes that are stored what was there."""
_MESSAGE_MAX_BYTES: Final = 1 << 20
"""The kernel refuses to be read into less than its longest request; INIT is short."""
_FLAGS: Final = struct.Struct("=I")
_OPCODE: Final = struct.Struct("=4xI")
_HEADER: Final = struct.Struct("=IiQ")
"""Of an answer or a notification: its length, an error or the notification's number, the request or 0."""
_OFFERED_AT: Final = 40 + 12
"""Of the flags in INIT: behind fuse_in_header, and three numbers."""
_WANTED_AT: Final = _HEADER.size + 12
"""Of the flags in the answer to it: behind three numbers."""
_OPENED_BYTES: Final = (_HEADER.size + 16, _HEADER.size + 128 + 16)
"""Of an answer to OPEN or OPENDIR, and to CREATE, where it comes behind the new entry."""
_OPEN_FLAGS_FROM_END: Final = 8
"""Of the flags in it: behind the handle, before 4 bytes that mean nothing."""
_NOTIFY_INODE: Final = 2
_NOTIFY_NAME: Final = 3
_NOTIFY_STORE: Final = 4
_NOTIFY_EPOCH: Final = 8
_INODE: Final = struct.Struct("=QqQ")
"""Its number, and which of its bytes to forget: from here on, so many; all, if 0; none from -1 on."""
_STORE: Final = struct.Struct("=QQI4x")
"""Its number, where in it the bytes begin that follow, and how many they are."""
_NAME: Final = struct.Struct("=QII")
"""The directory's number, the name's length, and flags; the name and a 0 follow."""
_EXPIRE_ONLY: Final = 1
"""FUSE_EXPIRE_ONLY (Linux 6.2; passed over before): the name is looked up when it is used next, and until then whoever
works in that directory goes on, and what is mounted there stays."""


class Device:
    """Of this process, which has one mount. Notifications are for threads, all else is for the loop."""

    def __init__(self) -> None:
        self._fd = self._kernel = -1
        """libfuse's descriptor, and ours, of the same connection."""
        self._ours: socket.socket | None = None
        self._theirs: socket.socket | None = None
        self._change: Callable[[bytearray], None] | None = None
        """What is to be done to the answer that comes; None while none is diverted."""
        self.zeroes_ends = _zeroes_ends(os.uname().release)
        """Whether a page that is stored in part is zeros behind that, as is to be behind the end of a file."""

    @property
    def has_begun(self) -> bool:
        return self._kernel >= 0

    def begin(self, fd: int) -> None:
        """The kernel's first request is there. Afterwards it is there for libfuse."""
        self._fd, self._kernel = fd, os.dup(fd)
        try:
            request = os.read(fd, _MESSAGE_MAX_BYTES)
        except OSError:  # it was unmounted already: libfuse is to see that
            return
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        flags = _flags_to_add(request)
        self._divert(lambda answer: _change(answer, _WANTED_AT, add=flags, take=_TAKEN))
        self._ours.send(request)

    def add_open_flags(self, flags: int) -> None:
        """To the answer to the OPEN, CREATE or OPENDIR that is handled; the handler is to do nothing after this."""
        if flags and self._change is None and self._ours is not None:
            self._divert(lambda answer: _add_open_flags(answer, flags))

    def _divert(self, change: Callable[[bytearray], None]) -> None:
        assert self._theirs is not None, "it has begun"
        self._change = change
        os.dup2(self._theirs.fileno(), self._fd, inheritable=False)

    def settle(self) -> None:
        """Whatever was to be answered has been; pass it on."""
        if self._change is None:
            return
        assert self._ours is not None, "an answer was diverted"
        change, self._change = self._change, None
        os.dup2(self._kernel, self._fd, inheritable=False)
        try:
            answer = bytearray(self._ours.recv(_MESSAGE_MAX_BYTES, socket.MSG_DONTWAIT))
        except BlockingIOError:  # the handler was cancelled
            return
        change(answer)
        try:
            os.write(self._kernel, answer)
        except OSError:  # it was unmounted, or whoever asked has been interrupted: libfuse takes no notice either
            pass

    def close(self) -> None:
        """The mount has ended: nothing here keeps the connection open. Threads that come late notify nobody."""
        self.settle()
        for end in (self._ours, self._theirs):
            if end is not None:
                end.close()
        self._ours = self._theirs = None
        if self.has_begun:
            with Path(os.devnull).open("wb") as nobody:
                os.dup2(nobody.fileno(), self._kernel, inheritable=False)

    # --- notifications, which block while somebody has the lock of what they are about ------------------

    def forget_attributes(self, number: int) -> None:
        """The kernel is to forget the attributes of an inode. It has no lock to wait for."""
        self._notify(_NOTIFY_INODE, _INODE.pack(number, -1, 0))

    def forget_inode(self, number: int) -> None:
        """The kernel is to forget the attributes of an inode, and its pages: bytes, or a listing."""
        self._notify(_NOTIFY_INODE, _INODE.pack(number, 0, 0))

    def forget_name(self, directory: int, name: bytes) -> None:
        """The kernel is to ask what a name stands for, before it uses it again."""
        self._notify(_NOTIFY_NAME, _NAME.pack(directory, len(name), _EXPIRE_ONLY) + name + b"\0")

    def forget_names(self) -> bool:
        """The kernel is to look up every name anew that it was told before now; whether it can do that (Linux 6.16)."""
        try:
            self._notify(_NOTIFY_EPOCH, b"")
        except OSError:
            return False
        return True

    def store(self, number: int, offset: int, data: Buffer) -> None:
        """The kernel is to have these bytes of an inode in its page cache, of whose last page those that are there.

        Raises OSError if it does not know the inode.
        """
        self._notify(_NOTIFY_STORE, _STORE.pack(number, offset, len(data)), data)

    def _notify(self, number: int, body: bytes, data: Buffer = b"") -> None:
        header = _HEADER.pack(_HEADER.size + len(body) + len(data), number, 0)
        os.writev(self._kernel, (header + body, data))


def _zeroes_ends(release: str) -> bool:
    found = re.match(r"(\d+)\.(\d+)", release)
    return found is not None and (int(found[1]), int(found[2])) >= _ZEROES_ENDS_FROM


def _flags_to_add(request: bytes) -> int:
    """To the answer to INIT."""
    if len(request) < _OFFERED_AT + _FLAGS.size or _OPCODE.unpack_from(request)[0] != _INIT:
        return 0
    (offered,) = _FLAGS.unpack_from(request, _OFFERED_AT)
    return int(offered) & _ADDED


def _add_open_flags(answer: bytearray, flags: int) -> None:
    if len(answer) in _OPENED_BYTES and _HEADER.unpack_from(answer)[1] == 0:
        _change(answer, len(answer) - _OPEN_FLAGS_FROM_END, add=flags)


def _change(answer: bytearray, at: int, *, add: int, take: int = 0) -> None:
    """Flags in an answer."""
    if len(answer) >= at + _FLAGS.size:
        (before,) = _FLAGS.unpack_from(answer, at)
        _FLAGS.pack_into(answer, at, before & ~take | add)
