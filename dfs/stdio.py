"""Standard input, output and error of a process that may have been started without (`dfs mount DIR <&- >&-`)."""

from __future__ import annotations

import os
import sys
from typing import Final

_NAMES: Final = ("stdin", "stdout", "stderr")
"""By their descriptors."""


def have_standard_streams() -> None:
    """Have all three: before anything else is opened, which would get their descriptors, and what is printed.

    What is printed where nothing was is passed over; who reads there gets an error, not the end of a file.
    """
    for fd, name in enumerate(_NAMES):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_WRONLY), True)  # it is `fd`: the lowest that is free
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            stream = open(fd, mode, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115 - stays
            setattr(sys, name, stream)
