"""From paths to inodes: the walk with symlinks, `.` and `..`, done in few round trips.

Paths are `str` (as `os.fsencode` takes them) or `bytes`, absolute; a missing leading slash is added. One `walk`
query takes all names up to the first symlink; a symlink's target replaces it and the walk goes on.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple, TypeAlias

from dfs import errors, limits
from dfs.client.inodes import Inodes
from dfs.types import Attr, Ino

Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]


class Place(NamedTuple):
    """A name in a directory, whether or not it exists."""

    parent: Ino
    name: bytes


def show(path: Path) -> str:
    """A path for a message: as typed, with what is not UTF-8 escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def split(path: Path) -> list[bytes]:
    """The names of a path, without empty ones and `.`. Raises `InvalidArgument`, `NameTooLong` or `NotFound`."""
    raw = os.fsencode(path)
    if not raw:
        raise errors.NotFound("no such file or directory: an empty path")
    if b"\0" in raw:
        raise errors.InvalidArgument(f"a path cannot contain a NUL byte: {show(path)}")
    if len(raw) > limits.PATH_MAX_BYTES:
        raise errors.NameTooLong(f"the path is longer than {limits.PATH_MAX_BYTES} bytes: {show(raw[:60])}...")
    names = [name for name in raw.split(b"/") if name not in (b"", b".")]
    for name in names:
        if len(name) > limits.NAME_MAX_BYTES:
            raise errors.NameTooLong(f"a name is longer than {limits.NAME_MAX_BYTES} bytes: {show(name[:60])}...")
    return names


class Paths:
    """Resolves paths for one client."""

    def __init__(self, inodes: Inodes) -> None:
        self._inodes = inodes

    async def resolve(self, path: Path, *, follow: bool = True) -> Attr:
        """What `path` leads to. `follow`: a symlink at its end is followed too."""
        means_directory = os.fsencode(path).endswith(b"/")
        trail = await self._walk(split(path), path, follow or means_directory)
        if trail and means_directory and not stat.S_ISDIR(trail[-1].mode):
            raise errors.NotADirectory(f"not a directory: {show(path)}")
        if trail:
            return trail[-1]
        return await self._inodes.getattr(self._inodes.root)

    async def locate(self, path: Path, *, of_file: bool = False) -> Place:
        """The directory and name that `path` ends in; the directory exists, the name may not.

        `of_file`: the name is not that of a directory, so the path does not end in a slash.
        """
        names = split(path)
        if of_file and names and os.fsencode(path).endswith(b"/"):
            raise errors.NotADirectory(f"this names a directory, and no file: {show(path)}")
        if not names or names[-1] == b"..":
            raise errors.InvalidArgument(f"this names no entry of a directory: {show(path)}")
        trail = await self._walk(names[:-1], path, True)
        if trail and not stat.S_ISDIR(trail[-1].mode):
            raise errors.NotADirectory(f"not a directory: {show(b'/' + b'/'.join(names[:-1]))}")
        return Place(trail[-1].ino if trail else self._inodes.root, names[-1])

    async def locate_new(self, path: Path) -> Place:
        """Where a file is to be made that `path` leads to, at the end through symlinks that lead to nothing yet."""
        whole = os.fsencode(path)
        for _ in range(limits.SYMLINK_DEPTH_MAX):
            place = await self.locate(whole, of_file=True)
            try:
                attr = await self._inodes.lookup(place.parent, place.name)
            except errors.NotFound:
                return place
            if not stat.S_ISLNK(attr.mode):
                return place
            target = await self._inodes.readlink(attr.ino)
            whole = target if target.startswith(b"/") else whole[: whole.rfind(b"/") + 1] + target
        raise errors.TooManySymlinks(f"too many levels of symbolic links: {show(path)}")

    async def _walk(self, names: list[bytes], path: Path, follow: bool) -> list[Attr]:
        """Attributes from the root's child down to the path's end; empty for the root itself."""
        trail: list[Attr] = []
        links = 0
        while names:
            if names[0] == b"..":
                names = names[1:]
                trail = trail[:-1]
                continue
            run = names[: names.index(b"..")] if b".." in names else names
            steps = await self._inodes.walk(trail[-1].ino if trail else self._inodes.root, run)
            link = next((at for at, attr in enumerate(steps) if stat.S_ISLNK(attr.mode)), None)
            if link is not None and (follow or link + 1 < len(names)):
                links += 1
                if links > limits.SYMLINK_DEPTH_MAX:
                    raise errors.TooManySymlinks(f"too many levels of symbolic links: {show(path)}")
                target = await self._inodes.readlink(steps[link].ino)
                trail = [] if target.startswith(b"/") else trail + steps[:link]
                names = split(target) + names[link + 1 :]
                continue
            if len(steps) < len(run):
                self._missing(trail + steps, run[len(steps)], path)
            trail += steps
            names = names[len(run) :]
        return trail

    @staticmethod
    def _missing(trail: list[Attr], name: bytes, path: Path) -> None:
        if trail and not stat.S_ISDIR(trail[-1].mode):
            raise errors.NotADirectory(f"not a directory on the way to it: {show(path)}")
        where = "" if split(path)[-1:] == [name] else f" ({show(name)} is missing)"
        raise errors.NotFound(f"no such file or directory: {show(path)}{where}")
