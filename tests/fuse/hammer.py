"""A process that does random operations in one directory of a mount, and says when each was called and what it gave.

    python -m tests.fuse.hammer DIRECTORY SEED OPERATIONS

Each process renames between the directory and one of its own beside it, so that one of the two names is shared: of two
the kernel looks up one after the other, and does nothing where it finds the same file twice.

It begins when a line comes on its standard input; what it did goes to its standard output, as JSON. Times are of
CLOCK_MONOTONIC, which all processes of a machine share. The directory has a file `register` of 8 bytes.
"""

from __future__ import annotations

import errno
import json
import os
import random
import sys
import time
from collections.abc import Callable
from typing import Any, Final

NAMES: Final = ("x", "y", "z")
REGISTER: Final = "register"
_KNOWN: Final = {errno.ENOENT: "not-found", errno.EEXIST: "exists"}


def _names(directory: str) -> list[str]:
    return sorted(name for name in os.listdir(directory) if name != REGISTER)


def _write(path: str, value: int) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(fd, value.to_bytes(8, "big"), 0)
    finally:
        os.close(fd)


def _read(path: str) -> int:
    """The value; -1 and below if bytes of it are missing."""
    fd = os.open(path, os.O_RDONLY)
    try:
        data = os.pread(fd, 8, 0)
        return int.from_bytes(data, "big") if len(data) == 8 else -len(data) - 1
    finally:
        os.close(fd)


def _publish(directory: str, own: str, name: str, target: str) -> None:
    os.symlink(target, f"{own}/new")
    os.rename(f"{own}/new", f"{directory}/{name}")


def _operation(chance: random.Random, serial: int, own: str) -> tuple[str, list[Any], Callable[[str], Any]]:
    """A verb, its arguments, and what does it to a directory."""
    one = chance.choice(NAMES)
    mode = chance.randrange(0o1000)
    choices: dict[str, tuple[list[Any], Callable[[str], Any]]] = {
        "symlink": ([one, str(serial)], lambda at: os.symlink(str(serial), f"{at}/{one}")),
        "unlink": ([one], lambda at: os.unlink(f"{at}/{one}")),
        "publish": ([one, str(serial)], lambda at: _publish(at, own, one, str(serial))),
        "take": ([one], lambda at: os.rename(f"{at}/{one}", f"{own}/taken")),
        "readlink": ([one], lambda at: os.readlink(f"{at}/{one}")),
        "listdir": ([], _names),
        "write": ([serial], lambda at: _write(f"{at}/{REGISTER}", serial)),
        "read": ([], lambda at: _read(f"{at}/{REGISTER}")),
        "chmod": ([mode], lambda at: os.chmod(f"{at}/{REGISTER}", mode)),
        "mode": ([], lambda at: os.stat(f"{at}/{REGISTER}").st_mode & 0o777),
    }
    verb = chance.choice((*choices, "readlink", "readlink", "listdir", "read", "mode", "mode"))
    return verb, *choices[verb]


def main() -> None:
    directory, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    chance = random.Random(seed)
    done = []
    own = f"{directory}/../of-{seed}"
    os.mkdir(own)
    sys.stdin.readline()
    for number in range(count):
        verb, args, work = _operation(chance, seed * 1_000_000 + number, own)
        called = time.monotonic()
        try:
            result = work(directory)
        except OSError as error:
            result = _KNOWN.get(error.errno or 0, f"errno {error.errno}")
        done.append([verb, args, called, time.monotonic(), result])
    json.dump(done, sys.stdout)


if __name__ == "__main__":
    main()
