"""Standard input, output and error of a process that may have been started without (`dfs mount DIR <&- >&-`)."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_NAMES: Final = ("stdin", "stdout", "stderr")
"""By their descriptors."""


def have_standard_streams() -> None:
    """Have all three: before anything else is opened, which would get their descriptors, and what is printed.

    Who reads where nothing was gets an error, not the end of a file, and so does who has something to print there. What
    goes to stderr is passed over.
    """
    for fd, name in enumerate(_NAMES):
        try:
            os.fstat(fd)
        except OSError:
            flags = os.O_RDONLY if name == "stdout" else os.O_WRONLY
            os.set_inheritable(os.open(os.devnull, flags), True)  # it is `fd`: the lowest that is free
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            stream = open(fd, mode, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115 - stays
            setattr(sys, name, stream)


class OutputFailed(OSError):
    """Standard output takes nothing more."""


class _StandardOutput(io.FileIO):
    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputFailed(error.errno, error.strerror, "standard output") from None


def name_standard_output() -> None:
    """Have errors of stdout say that they are: else a full disk here passes for a cluster that is full."""
    before = sys.stdout
    if isinstance(before, io.TextIOWrapper):
        output = io.BufferedWriter(_StandardOutput(before.fileno(), "w", closefd=False))
        sys.stdout = io.TextIOWrapper(output, before.encoding, before.errors, line_buffering=before.line_buffering)
