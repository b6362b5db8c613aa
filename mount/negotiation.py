"""What the kernel is told of this mount that libfuse 3.14 has no word for.

Before a write(2) the kernel asks for the extended attribute security.capability of the file, which is to go then: one
more request for each write. With FUSE_HANDLE_KILLPRIV_V2 (Linux 5.11) it does not, once it knows that there is none,
and leaves it to the file system to clear set-id bits; the NameNode does so with each commit. Then the kernel goes on
showing them until its attributes' time-out has passed, so for files that have such bits there is none (`Kernel`).

The kernel's first request is INIT, and libfuse answers it with the flags that it knows. So the first two times that
pyfuse3 looks for a request (`mount.loop`) the descriptor of /dev/fuse is another one:

    1   INIT is read from the kernel, and given to libfuse through a socket that has taken the descriptor's place
    2   libfuse's answer is taken from the socket, the flag is added if the kernel offered it, /dev/fuse is put back,
        and the answer is written to it

What does not look as expected is passed on as it is. Numbers and layouts are those of <linux/fuse.h>.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Final

_INIT: Final = 26
_HANDLE_KILLPRIV_V2: Final = 1 << 28
_REQUEST_MAX_BYTES: Final = 1 << 20
"""The kernel refuses to be read into less than its longest request; INIT is short."""
_OPCODE: Final = struct.Struct("=4xI")
_FLAGS: Final = struct.Struct("=I")
_OFFERED_AT: Final = 40 + 12
"""Of the flags in the request: behind fuse_in_header, and three numbers."""
_WANTED_AT: Final = 16 + 12
"""Of the flags in the answer: behind fuse_out_header, and three numbers."""


class Negotiation:
    """Of one mount. `has_begun`: its request is with libfuse; `is_over`: the descriptor is the kernel's for good."""

    def __init__(self) -> None:
        self.has_begun = self.is_over = False
        self._kernel: int | None = None
        self._libfuse: socket.socket | None = None
        self._adds = 0

    def step(self, fd: int) -> bool:
        """The first time when the kernel's `fd` is readable, the second time when libfuse has answered.

        Whether a request is there for libfuse.
        """
        if self._libfuse is None:
            self.has_begun = True
            self._intercept(fd)
            return True
        self._answer(fd, self._libfuse)
        return False

    def _intercept(self, fd: int) -> None:
        try:
            request = os.read(fd, _REQUEST_MAX_BYTES)
        except OSError:  # it was unmounted already: libfuse is to see that
            self.is_over = True
            return
        self._adds = _added(request)
        self._kernel = os.dup(fd)
        self._libfuse, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with end:
            os.dup2(end.fileno(), fd, inheritable=False)
        self._libfuse.send(request)

    def _answer(self, fd: int, libfuse: socket.socket) -> None:
        assert self._kernel is not None, "the request was intercepted"
        with libfuse:
            answer = bytearray(libfuse.recv(_REQUEST_MAX_BYTES, socket.MSG_DONTWAIT))
        os.dup2(self._kernel, fd, inheritable=False)
        os.close(self._kernel)
        if self._adds and len(answer) >= _WANTED_AT + _FLAGS.size:
            (wanted,) = _FLAGS.unpack_from(answer, _WANTED_AT)
            _FLAGS.pack_into(answer, _WANTED_AT, wanted | self._adds)
        os.write(fd, answer)
        self.is_over = True


def _added(request: bytes) -> int:
    """The flags to add to the answer."""
    if len(request) < _OFFERED_AT + _FLAGS.size or _OPCODE.unpack_from(request)[0] != _INIT:
        return 0
    (offered,) = _FLAGS.unpack_from(request, _OFFERED_AT)
    return int(offered) & _HANDLE_KILLPRIV_V2
