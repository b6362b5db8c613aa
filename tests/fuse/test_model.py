"""Random operations on a mount and, the same, on a local directory: every result, errno and tree is equal."""

from __future__ import annotations

import os
import random
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.fuse

OPERATIONS = 350
NAMES = ("a", "b", "c", "sub", "x" * 40)


class Pair:
    """The same operation, done in both places; what comes of it must be the same."""

    def __init__(self, mount: Path, local: Path, chance: random.Random) -> None:
        self.roots = (mount, local)
        self.chance = chance
        self.open: list[tuple[int, int]] = []

    def both(self, operation: Callable[..., Any], *paths: str, **kwargs: Any) -> list[Any]:
        results = [self._one(operation, [root / path for path in paths], kwargs) for root in self.roots]
        assert results[0] == results[1], (operation.__name__, paths, kwargs)
        return results

    def both_open(self, operation: Callable[..., Any], pair: tuple[int, int], *args: Any) -> None:
        results = [self._one(operation, [fd, *args], {}) for fd in pair]
        assert results[0] == results[1], (operation.__name__, args)

    @staticmethod
    def _one(operation: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
        try:
            return "result", operation(*args, **kwargs)
        except OSError as error:
            return "error", error.errno

    def path(self) -> str:
        return "/".join(self.chance.choice(NAMES) for _ in range(self.chance.choice((1, 1, 2, 2, 3))))

    def step(self) -> None:
        weights = {name: 3 if name in ("write", "mkdir", "create") else 1 for name in STEPS}
        self.chance.choices(list(STEPS.values()), list(weights.values()))[0](self)

    def close_all(self) -> None:
        for pair in self.open:
            for fd in pair:
                os.close(fd)
        self.open.clear()


def _create(pair: Pair) -> None:
    flags = os.O_RDWR | os.O_CREAT | pair.chance.choice((0, 0, os.O_EXCL, os.O_TRUNC, os.O_APPEND))
    path, mode = pair.path(), pair.chance.choice((0o644, 0o600, 0o755))
    fds = []
    for root in pair.roots:
        try:
            fds.append(os.open(root / path, flags, mode))
        except OSError as error:
            fds.append(-(error.errno or 0))
    assert (fds[0] >= 0) == (fds[1] >= 0), (path, flags, fds)
    if fds[0] < 0:
        assert fds[0] == fds[1], (path, flags)
        return
    pair.open.append((fds[0], fds[1]))
    if len(pair.open) > 4:
        for fd in pair.open.pop(pair.chance.randrange(4)):
            os.close(fd)


def _write(pair: Pair) -> None:
    if pair.open:
        data = pair.chance.randbytes(pair.chance.choice((1, 500, 5_000, 130_000)))
        pair.both_open(os.pwrite, pair.chance.choice(pair.open), data, pair.chance.randrange(200_000))


def _read(pair: Pair) -> None:
    if pair.open:
        pair.both_open(os.pread, pair.chance.choice(pair.open), 150_000, pair.chance.randrange(300_000))


def _truncate(pair: Pair) -> None:
    if pair.open:
        pair.both_open(os.ftruncate, pair.chance.choice(pair.open), pair.chance.randrange(300_000))


def _stat_open(pair: Pair) -> None:
    def look(fd: int) -> tuple[int, ...]:
        found = os.fstat(fd)
        return found.st_mode, found.st_nlink, found.st_size

    if pair.open:
        pair.both_open(look, pair.chance.choice(pair.open))


def _symlink(pair: Pair) -> None:
    target = pair.chance.choice(NAMES)

    def make(path: Path) -> None:
        path.symlink_to(target)

    pair.both(make, pair.path())


def _chmod(pair: Pair) -> None:
    pair.both(os.chmod, pair.path(), mode=pair.chance.choice((0o600, 0o755, 0o1777)))


def _utime(pair: Pair) -> None:
    pair.both(os.utime, pair.path(), ns=(pair.chance.randrange(10**18), pair.chance.randrange(10**18)))


def _listing(pair: Pair) -> None:
    def names(path: Path) -> list[str]:
        return sorted(os.listdir(path))

    pair.both(names, pair.path())


STEPS: dict[str, Callable[[Pair], None]] = {
    "create": _create,
    "write": _write,
    "read": _read,
    "truncate": _truncate,
    "fstat": _stat_open,
    "mkdir": lambda pair: pair.both(os.mkdir, pair.path()) and None,
    "rmdir": lambda pair: pair.both(os.rmdir, pair.path()) and None,
    "unlink": lambda pair: pair.both(os.unlink, pair.path()) and None,
    "rename": lambda pair: pair.both(os.rename, pair.path(), pair.path()) and None,
    "link": lambda pair: pair.both(os.link, pair.path(), pair.path(), follow_symlinks=False) and None,
    "symlink": _symlink,
    "chmod": _chmod,
    "utime": _utime,
    "listing": _listing,
}


def tree(top: Path) -> Iterator[tuple[Any, ...]]:
    """Everything beneath `top`, in order: names, types, modes, links, sizes, contents, targets."""
    for path in sorted(top.rglob("*")):
        found = path.lstat()
        content: Any = None
        if stat.S_ISREG(found.st_mode):
            content = found.st_size, zlib.crc32(path.read_bytes())
        elif stat.S_ISLNK(found.st_mode):
            content = path.readlink()
        links = None if stat.S_ISDIR(found.st_mode) else found.st_nlink
        yield path.relative_to(top), found.st_mode, links, content


@pytest.mark.parametrize("seed", range(6))
def test_a_mount_does_what_a_local_directory_does(here: Path, there: Path, tmp_path: Path, seed: int) -> None:
    pair = Pair(here, tmp_path, random.Random(seed))
    try:
        for _ in range(OPERATIONS):
            pair.step()
        assert list(tree(here)) == list(tree(tmp_path))
    finally:
        pair.close_all()
    assert list(tree(there)) == list(tree(tmp_path)), "and so it looks through the other mount"
