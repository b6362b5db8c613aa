"""Extended attributes that nobody set: what the cluster knows of a file, for people who want to look.

    dfs.ino          its inode number
    dfs.cluster      the id of its cluster, within which inode numbers are unique
    dfs.replicas     of a regular file: a line a chunk, by its number in hexadecimal, with the nodes that hold it
    dfs.chunks       of a regular file: a line an extent: offset, length, chunk, offset in chunk
    dfs.files, dfs.directories, dfs.bytes, dfs.allocated        of a directory: all that is beneath it

They are read-only and not listed, so that no archive keeps them.
"""

from __future__ import annotations

import itertools
import stat
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Final

from dfs import errors
from dfs.client.filesystem import FileSystem
from dfs.client.inodes import Layout
from dfs.types import Attr

PREFIX: Final = b"dfs."
_BENEATH: Final = (b"files", b"directories", b"bytes", b"allocated")
_ANSWER_MAX_LINES: Final = 1000
"""Of a file with more, the first: an extended attribute holds 64 KiB."""


async def read(fs: FileSystem, attr: Attr, name: bytes) -> bytes:
    """The value of `name`, which begins with PREFIX. Raises `NoAttribute` for one that this inode has not."""
    what = name.removeprefix(PREFIX)
    if what == b"ino":
        return b"%d" % attr.ino
    if what == b"cluster":
        return str(fs.session.cluster["cluster"]).encode()
    if stat.S_ISDIR(attr.mode) and what in _BENEATH:
        return b"%d" % (await fs.inodes.summarize(attr.ino))[what.decode()]
    render = _OF_FILES.get(what)
    if render is None or not stat.S_ISREG(attr.mode):
        raise errors.NoAttribute(f"no such extended attribute: {name!r}")
    return await render(fs, attr)


async def _lines(fs: FileSystem, attr: Attr, lines: Callable[[Layout], Iterable[str]]) -> bytes:
    """What `lines` has to say of all of a file, each once."""
    found: dict[str, None] = {}
    async with aclosing(fs.inodes.layouts(attr.ino, attr.size)) as layouts:
        async for layout in layouts:
            found.update(dict.fromkeys(lines(layout)))
            if len(found) >= _ANSWER_MAX_LINES:
                break
    return "\n".join(itertools.islice(found, _ANSWER_MAX_LINES)).encode()


async def _replicas(fs: FileSystem, attr: Attr) -> bytes:
    def lines(layout: Layout) -> Iterable[str]:
        return (f"{each.chunk:x} {','.join(layout.places[each.chunk].nodes)}" for each in layout.extents)

    return await _lines(fs, attr, lines)


async def _chunks(fs: FileSystem, attr: Attr) -> bytes:
    def lines(layout: Layout) -> Iterable[str]:
        return (f"{each.offset} {each.length} {each.chunk:x} {each.chunk_offset}" for each in layout.extents)

    return await _lines(fs, attr, lines)


_OF_FILES: Final[dict[bytes, Callable[[FileSystem, Attr], Awaitable[bytes]]]] = {
    b"replicas": _replicas,
    b"chunks": _chunks,
}
