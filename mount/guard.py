"""A process beside each mount, which has the kernel give its connection up when the mount has been killed.

Of itself the kernel does so when nobody has the connection's descriptor any more, and so not while some thread of the
killed process cannot end: one that notifies the kernel waits for a lock, of a directory or a page, and whoever holds
that waits for an answer of this very process. Then every program that uses the mount waits for ever, so does who
unmounts it, and behind him every sync(2) on the machine.

    python -I -S guard.py ABORT PARENT

PARENT is the mount, whose main thread has started this; ABORT a descriptor of the connection's file `abort` (fusectl),
opened by the mount. The file means this connection and no later one of the same number. The kernel says with a signal
that the main thread has gone, whatever other threads do. It is all that this process waits for; signals that programs
and users send, to the mount's whole group perhaps, are none of its business. When the mount has ended in order there is
nothing left to abort.
"""

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
"""<linux/prctl.h>."""
_DEATH: Final = signal.SIGUSR1


def main() -> None:
    abort, parent = map(int, sys.argv[1:])
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _DEATH, 0, 0, 0)
    if os.getppid() == parent:  # it may have gone before
        signal.sigwait([_DEATH])
    os.write(abort, b"1")


if __name__ == "__main__":
    main()
