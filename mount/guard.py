"""A process beside each mount, for when that is killed: it has the kernel give the connection up, and ends the session.

Of itself the kernel does so when nobody has the connection's descriptor any more, and so not while some thread of the
killed process cannot end: one that notifies the kernel waits for a lock, of a directory or a page, and whoever holds
that waits for an answer of this very process. Then every program that uses the mount waits for ever, so does who
unmounts it, and behind him every sync(2) on the machine.

    python -I -S guard.py ABORT PARENT NOTE COMMAND...

PARENT is the mount, whose main thread has started this; ABORT a descriptor of the connection's file `abort` (fusectl),
opened by the mount, or -1 where it may not do that. NOTE is a descriptor, too, of the mount's session: 0 when the
NameNode knows that it is over; if it does not, this process becomes COMMAND (`mount.farewell`). The file `abort` means
this connection and no later one of the same number. When the main thread ends the kernel says so with a signal,
whatever other threads do. But a process that dumps core, if only into nothing, waits for all its threads before: so its
state is looked at now and then, too. That state alone counts, not the signal, which anybody may send. Signals to the
mount's whole group are none of this process's business, nor of what it becomes. When the mount has ended in order there
is nothing left to abort.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
"""<linux/prctl.h>."""
_DEATH: Final = signal.SIGUSR1
_LOOK_EVERY_S: Final = 2.0
_SESSION_BYTES: Final = 8
"""With which a note begins."""
_SOON_S: Final = 0.01
_SOON_LOOKS: Final = 100
"""Once there was a signal: it comes a moment before the state changes."""


def has_ended(parent: int) -> bool:
    """Whether the process that has started this one is no more, but for threads that cannot end."""
    if os.getppid() != parent:
        return True
    try:
        status = Path(f"/proc/{parent}/status").read_text()
    except OSError:
        return True
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return fields["State"][0] in "ZX" or fields.get("CoreDumping") == "1"


def main() -> None:
    abort, parent, note = map(int, sys.argv[1:4])
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _DEATH, 0, 0, 0)
    soon = 0
    while not has_ended(parent):
        came = signal.sigtimedwait([_DEATH], _SOON_S if soon else _LOOK_EVERY_S)
        soon = _SOON_LOOKS if came is not None else max(0, soon - 1)
    if abort >= 0:
        os.write(abort, b"1")
    if any(os.pread(note, _SESSION_BYTES, 0)):
        os.execv(sys.argv[4], sys.argv[4:])


if __name__ == "__main__":
    main()
