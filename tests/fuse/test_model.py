"""Random operations on a mount and on a local directory: each ends alike on both, and so do the trees.

The oracle is the local file system, reached through the same system calls. Results and errnos are compared after each
operation; names, types, modes, owners, link counts, contents and extended attributes at the end, on the mount that
was used and on another.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

pytestmark = pytest.mark.fuse

OPERATIONS: Final = 1500
NAMES: Final = ["a", "b", "c", "d"]
DEPTH_MAX: Final = 3
OPEN_MAX: Final = 6
OPEN_FLAGS: Final = [
    os.O_RDONLY,
    os.O_RDWR,
    os.O_RDWR | os.O_CREAT,
    os.O_RDWR | os.O_CREAT | os.O_EXCL,
    os.O_RDWR | os.O_CREAT | os.O_TRUNC,
    os.O_RDWR | os.O_APPEND,
    os.O_RDWR | os.O_CREAT | os.O_APPEND,
    os.O_RDONLY | os.O_NOFOLLOW,
]

_libc = ctypes.CDLL(None, use_errno=True)

Step = Callable[["Side"], Any]
"""One operation on one of the two sides; what it returns is compared."""


class Side:
    """A root directory, and descriptors of files below it in the order in which they were opened."""

    def __init__(self, root: Path) -> None:
        self.root = os.fsencode(root)
        self.open: list[int] = []

    def path(self, relative: str) -> bytes:
        return self.root + b"/" + relative.encode()

    def outcome(self, step: Step) -> Any:
        """What `step` returns, or the name of its errno."""
        try:
            return step(self)
        except OSError as error:
            return errno.errorcode[error.errno or 0]

    def close(self) -> None:
        for fd in self.open:
            os.close(fd)
        self.open.clear()


# --- operations -----------------------------------------------------------------------------------------


def _shown(status: os.stat_result) -> tuple[int, ...]:
    """Of attributes, what must be equal everywhere; a directory's size is a file system's own affair."""
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return status.st_mode, status.st_nlink, status.st_uid, status.st_gid, status.st_rdev, size


def _open(side: Side, path: str, flags: int, mode: int) -> str:
    side.open.append(os.open(side.path(path), flags | os.O_NONBLOCK, mode))
    return "opened"


def _close(side: Side, index: int) -> None:
    os.close(side.open.pop(index))


def _rename2(side: Side, old: str, new: str, flags: int) -> None:
    if _libc.renameat2(-100, side.path(old), -100, side.path(new), flags):
        raise OSError(ctypes.get_errno(), "renameat2")


def _read(side: Side, path: str) -> bytes:
    fd = os.open(side.path(path), os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(fd, 300_000)
    finally:
        os.close(fd)


class Chance:
    """Chooses operations: few names, so that most of them meet something."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def path(self) -> str:
        depth = self.random.choice([1, 1, 1, 2, 2, DEPTH_MAX])
        return "/".join(self.random.choices(NAMES, k=depth))

    def step(self, open_files: int) -> tuple[str, Step]:
        """An operation's description, and the operation."""
        if open_files and self.random.random() < 0.4:
            return self._on_open_file(self.random.randrange(open_files), full=open_files >= OPEN_MAX)
        return self.random.choice([self._on_name, self._on_name, self._on_two_names, self._on_contents])()

    def _on_open_file(self, index: int, *, full: bool) -> tuple[str, Step]:
        offset, length = self.random.randrange(200_000), self.random.choice([0, 1, 100, 4096, 70_000])
        data = self.random.randbytes(length)
        if full:
            return f"close {index}", lambda side: _close(side, index)
        return self.random.choice(
            [
                (f"close {index}", lambda side: _close(side, index)),
                (f"pwrite {index} {offset} {length}", lambda side: os.pwrite(side.open[index], data, offset)),
                (f"write {index} {length}", lambda side: os.write(side.open[index], data)),
                (f"pread {index} {offset} {length}", lambda side: os.pread(side.open[index], length, offset)),
                (f"read {index} {length}", lambda side: os.read(side.open[index], length)),
                (f"ftruncate {index} {offset}", lambda side: os.ftruncate(side.open[index], offset)),
                (f"fstat {index}", lambda side: _shown(os.fstat(side.open[index]))),
                (f"fsync {index}", lambda side: os.fsync(side.open[index])),
                (f"lseek {index}", lambda side: os.lseek(side.open[index], offset, os.SEEK_SET)),
                (f"seek to end {index}", lambda side: os.lseek(side.open[index], 0, os.SEEK_END)),
            ]
        )

    def _on_name(self) -> tuple[str, Step]:
        path, mode = self.path(), self.random.choice([0o777, 0o640, 0o1755, 0o600])
        flags = self.random.choice(OPEN_FLAGS)
        target = self.random.choice([self.path(), self.path(), "nowhere", "../a", "a"])
        stamp = self.random.randrange(2**60)
        return self.random.choice(
            [
                (f"open {path} {flags:o}", lambda side: _open(side, path, flags, mode)),
                (f"open {path} {flags:o}", lambda side: _open(side, path, flags, mode)),
                (f"mkdir {path}", lambda side: os.mkdir(side.path(path), mode)),
                (f"mkdir {path}", lambda side: os.mkdir(side.path(path), mode)),
                (f"rmdir {path}", lambda side: os.rmdir(side.path(path))),
                (f"unlink {path}", lambda side: os.unlink(side.path(path))),
                (f"symlink {path} -> {target}", lambda side: os.symlink(target, side.path(path))),
                (f"mkfifo {path}", lambda side: os.mkfifo(side.path(path), mode)),
                (f"mknod {path}", lambda side: os.mknod(side.path(path), stat.S_IFSOCK | mode)),
                (f"chmod {path}", lambda side: os.chmod(side.path(path), mode)),
                (f"chown {path}", lambda side: os.chown(side.path(path), mode, 7, follow_symlinks=False)),
                (f"utimens {path}", lambda side: os.utime(side.path(path), ns=(stamp, stamp))),
                (f"stat {path}", lambda side: _shown(os.stat(side.path(path)))),
                (f"readlink {path}", lambda side: os.readlink(side.path(path))),
                (f"listdir {path}", lambda side: sorted(os.listdir(side.path(path)))),
            ]
        )

    def _on_two_names(self) -> tuple[str, Step]:
        old, new = self.path(), self.path()
        return self.random.choice(
            [
                (f"rename {old} {new}", lambda side: os.rename(side.path(old), side.path(new))),
                (f"link {old} {new}", lambda side: os.link(side.path(old), side.path(new), follow_symlinks=False)),
                (f"rename {old} {new} noreplace", lambda side: _rename2(side, old, new, 1)),
                (f"exchange {old} {new}", lambda side: _rename2(side, old, new, 2)),
            ]
        )

    def _on_contents(self) -> tuple[str, Step]:
        path, size = self.path(), self.random.randrange(100_000)
        name, value = self.random.choice(["user.a", "user.b"]), self.random.randbytes(self.random.randrange(50))
        flags = self.random.choice([0, os.XATTR_CREATE, os.XATTR_REPLACE])
        return self.random.choice(
            [
                (f"read {path}", lambda side: _read(side, path)),
                (f"truncate {path} {size}", lambda side: os.truncate(side.path(path), size)),
                (f"setxattr {path} {name} {flags}", lambda side: os.setxattr(side.path(path), name, value, flags)),
                (f"getxattr {path} {name}", lambda side: os.getxattr(side.path(path), name)),
                (f"removexattr {path} {name}", lambda side: os.removexattr(side.path(path), name)),
            ]
        )


# --- comparing ------------------------------------------------------------------------------------------


def _described(path: bytes) -> tuple[Any, ...]:
    status = os.lstat(path)
    kind = stat.S_IFMT(status.st_mode)
    names = [name for name in os.listxattr(path, follow_symlinks=False) if name.startswith("user.")]
    xattrs = {name: os.getxattr(path, name, follow_symlinks=False) for name in sorted(names)}
    content: bytes | None = None
    if kind == stat.S_IFREG:
        content = Path(os.fsdecode(path)).read_bytes()
    elif kind == stat.S_IFLNK:
        content = os.readlink(path)
    return *_shown(status), xattrs, content


def tree(root: bytes) -> Iterator[tuple[bytes, tuple[Any, ...]]]:
    """All that is below `root`, each with all that should be equal."""
    for name in sorted(os.listdir(root)):
        path = root + b"/" + name
        yield path, _described(path)
        if stat.S_ISDIR(os.lstat(path).st_mode):
            yield from tree(path)


def relative_tree(root: Path) -> dict[bytes, tuple[Any, ...]]:
    top = os.fsencode(root)
    return {path.removeprefix(top): described for path, described in tree(top)}


@pytest.mark.parametrize("seed", range(4))
def test_a_mount_does_what_a_local_directory_does(here: Path, there: Path, tmp_path: Path, seed: int) -> None:
    local_root = tmp_path / "model"
    local_root.mkdir(0o755)
    mounted, local = Side(here), Side(local_root)
    chance = Chance(seed)
    history: list[str] = []
    try:
        for _ in range(OPERATIONS // 4):
            text, step = chance.step(len(local.open))
            expected, found = local.outcome(step), mounted.outcome(step)
            history.append(f"{text}: {expected!r:.80}")
            assert found == expected, "\n".join(history[-40:])
    finally:
        mounted.close()
        local.close()
    model = relative_tree(local_root)
    assert len(model) > 3
    assert relative_tree(here) == model
    assert relative_tree(there) == model
