"""What another thread waits for, and a signal interrupts."""

from __future__ import annotations

import subprocess
import sys

_INTERRUPTED = """
import random, signal, threading, time
from dfs.client.loopthread import Ending

signal.signal(signal.SIGALRM, signal.default_int_handler)
chance, interrupts = random.Random(3), 0

def bring_about(ending):
    time.sleep(0.002)
    ending.set()

for _ in range(300):
    ending = Ending()
    other = threading.Thread(target=bring_about, args=(ending,), daemon=True)
    other.start()
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 3e-5))
            ending.wait()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        interrupts += 1
    other.join(20)
    assert not other.is_alive(), "it waits for what the interrupt has left locked"
    ending.wait()
assert interrupts > 0
print("ok")
"""


def test_an_interrupt_leaves_nothing_locked_wherever_it_comes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.stdout, done.stderr) == ("ok\n", "")
