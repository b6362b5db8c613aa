"""The namespace by inode numbers: one method a verb, typed, over a `Session`. What a mount builds on.

Methods raise what the NameNode answers (`dfs.errors`), and wait while it is away (see `Session`). All may be
called concurrently. Names are bytes; times nanoseconds; `mode` holds permission bits (and the type for `mknod`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, NamedTuple

from dfs import codec, errors, limits
from dfs.client.session import Session
from dfs.types import Attr, ChunkId, ChunkPlace, DirEntry, Extent, Ino, Statfs


class Layout(NamedTuple):
    """What the NameNode says of a range of a file, at one moment."""

    attr: Attr
    extents: list[Extent]
    places: dict[ChunkId, ChunkPlace]
    end: int
    """The extents are complete up to here; behind it more must be asked for."""


class WholeFile(NamedTuple):
    """A file's bytes, as they are in `version`: `length` of them, all of one chunk from `chunk_offset` on."""

    ino: Ino
    version: int
    chunk: ChunkId
    chunk_offset: int
    length: int


def layout_of(wire: Sequence[Any], offset: int, length: int) -> Layout:
    """What came as [attr, extents, places, end] to a question for [offset, offset + length)."""
    attr, extents, places, end = wire
    if not offset + min(length, 1) <= end <= offset + length:
        raise errors.ProtocolViolation(
            f"the NameNode tells of a file up to {end}, where {length} from {offset} were meant"
        )
    return Layout(codec.attr(attr), list(map(codec.extent, extents)), _by_chunk(places), end)


def _by_chunk(places: Sequence[Any]) -> dict[ChunkId, ChunkPlace]:
    return {place.chunk: place for place in map(codec.chunk_place, places)}


class Inodes:
    """Queries and commands on inodes, in this client's session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def statistics(self) -> dict[str, int]:
        return {}

    @property
    def root(self) -> Ino:
        """The directory where paths begin: the root of all that this client's key may see."""
        return self._session.root

    @property
    def session(self) -> Session:
        return self._session

    # --- queries ----------------------------------------------------------------------------------------

    def cached_attr(self, ino: Ino) -> Attr | None:
        """What may be shown of an inode until it is recalled; None from who caches nothing."""
        return None

    def owned_attr(self, ino: Ino) -> Attr | None:
        """The attributes of an inode that nobody else can look at unnoticed: what is written to it may stay here.

        They may lack what commands of ours are changing that are under way. None of one that is not owned.
        """
        return None

    def is_private(self, ino: Ino) -> bool:
        """Whether nobody else has ever known an inode."""
        return False

    async def own(self, ino: Ino) -> Attr | None:
        """Have it so, if it can be had; the attributes as they are then."""
        return None

    async def lookup(self, parent: Ino, name: bytes) -> Attr:
        return codec.attr(await self._session.query("lookup", parent, name))

    async def getattr(self, ino: Ino) -> Attr:
        return codec.attr(await self._session.query("getattr", ino))

    async def walk(self, ino: Ino, names: Sequence[bytes]) -> list[Attr]:
        """Attributes step by step, as far as the names lead: stops at one that is missing or no directory."""
        return [codec.attr(wire) for wire in await self._session.query("walk", ino, list(names))]

    async def parent(self, ino: Ino) -> Attr:
        """The directory that a directory is in; the root is in itself."""
        return codec.attr(await self._session.query("parent", ino))

    async def readdir(self, ino: Ino, after: int = 0, limit: int = limits.READDIR_MAX_ENTRIES) -> list[DirEntry]:
        """Entries with cookies greater than `after`, in order; an empty list is the end."""
        return codec.dir_entries(await self._session.query("readdir", ino, after, limit))

    async def readlink(self, ino: Ino) -> bytes:
        return bytes(await self._session.query("readlink", ino))

    async def getxattr(self, ino: Ino, name: bytes) -> bytes:
        return bytes(await self._session.query("getxattr", ino, name))

    async def listxattr(self, ino: Ino) -> list[bytes]:
        return list(await self._session.query("listxattr", ino))

    async def layout(self, ino: Ino, offset: int, length: int) -> Layout:
        """Attributes, and the extents that touch [offset, offset + length), as many as fit in one answer."""
        return layout_of(await self._session.query("extents", ino, offset, length), offset, length)

    async def layouts(
        self, ino: Ino, size: int = limits.FILE_SIZE_MAX_BYTES, at_most: int = limits.FILE_SIZE_MAX_BYTES
    ) -> AsyncGenerator[Layout, None]:
        """Of a file's first `size` bytes, or of all that it has, in their order; `at_most` so many bytes in each."""
        position = 0
        while position < size:
            layout = await self.layout(ino, position, min(at_most, size - position))
            yield layout
            position, size = layout.end, min(size, layout.attr.size)

    async def whole_files(self, inos: Sequence[Ino]) -> tuple[list[WholeFile], dict[ChunkId, ChunkPlace]]:
        """Those of at most WHOLE_FILES_MAX inodes that are files in one piece, and where the chunks are.

        What was answered here and is not at the NameNode yet does not count: these are of older versions then.
        """
        files, places = await self._session.ask("whole_files", list(inos))
        found = [WholeFile(ino, *file) for ino, file in zip(inos, files, strict=True) if file is not None]
        return found, _by_chunk(places)

    async def statfs(self) -> Statfs:
        return Statfs._make(await self._session.query("statfs"))

    async def summarize(self, ino: Ino) -> dict[str, int]:
        return dict(await self._session.query("summarize", ino))

    # --- commands ---------------------------------------------------------------------------------------

    async def _attr(self, verb: str, *args: Any) -> Attr:
        return codec.attr(await self._session.apply(verb, *args))

    async def create(
        self, parent: Ino, name: bytes, mode: int, uid: int, gid: int, *, exclusive: bool = True, hold: bool = False
    ) -> Attr:
        """A regular file; unless `exclusive`, the one that is there will do. `hold`: as `hold` does, in one command."""
        return await self._attr("create", parent, name, mode, uid, gid, exclusive, hold)

    async def create_unnamed(self, near: Ino, mode: int, uid: int, gid: int) -> Attr:
        """A file without a name, which this session holds; `link` gives it one."""
        return await self._attr("create_unnamed", near, mode, uid, gid)

    async def mkdir(self, parent: Ino, name: bytes, mode: int, uid: int, gid: int) -> Attr:
        return await self._attr("mkdir", parent, name, mode, uid, gid)

    async def mknod(self, parent: Ino, name: bytes, mode: int, uid: int, gid: int, rdev: int) -> Attr:
        return await self._attr("mknod", parent, name, mode, uid, gid, rdev)

    async def symlink(self, parent: Ino, name: bytes, target: bytes, uid: int, gid: int) -> Attr:
        return await self._attr("symlink", parent, name, target, uid, gid)

    async def link(self, ino: Ino, parent: Ino, name: bytes, *, replace: bool = False) -> Attr:
        return await self._attr("link", ino, parent, name, replace)

    async def unlink(self, parent: Ino, name: bytes) -> Attr:
        return await self._attr("unlink", parent, name)

    async def rmdir(self, parent: Ino, name: bytes) -> Attr:
        return await self._attr("rmdir", parent, name)

    async def rename(self, parent: Ino, name: bytes, new_parent: Ino, new_name: bytes, flags: int = 0) -> Attr:
        return await self._attr("rename", parent, name, new_parent, new_name, flags)

    async def setattr(self, ino: Ino, changes: Mapping[str, int | str]) -> Attr:
        """Change some of mode, uid, gid, atime_ns, mtime_ns, replicas; a time may be "now"."""
        return await self._attr("setattr", ino, dict(changes))

    async def accessed(self, times: Sequence[tuple[Ino, int]]) -> None:
        """When inodes were read: at most ACCESSES_MAX pairs of an inode and an access time in nanoseconds."""
        await self._session.apply("accessed", [list(pair) for pair in times])

    async def truncate(self, ino: Ino, size: int) -> Attr:
        return await self._attr("truncate", ino, size)

    def empty(self, ino: Ino) -> Attr | None:
        """As `truncate` to nothing, where that is answered here at once; else None, and nothing has happened."""
        return None

    async def setxattr(self, ino: Ino, name: bytes, value: bytes, flags: int = 0) -> Attr | None:
        """The inode's attributes then, if they are known."""
        await self._session.apply("setxattr", ino, name, value, flags)
        return None

    async def removexattr(self, ino: Ino, name: bytes) -> Attr | None:
        """Likewise."""
        await self._session.apply("removexattr", ino, name)
        return None

    async def hold(self, ino: Ino) -> Attr:
        """Keep an inode, and its data, though its last name may go; until `release` or the session's end."""
        return await self._attr("hold", ino)

    async def release(self, ino: Ino) -> None:
        await self._session.apply("release", ino)
