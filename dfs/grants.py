"""Grants: the NameNode's word that the holder of a key may read a chunk, or append to it, for a while.

DataNodes know nothing of files: they serve a chunk to a client or reader who shows a grant for it. The NameNode gives
grants with the places of chunks, to who may see the file or has the chunk open, so the number of a chunk alone is of no
use. Files of several directories share chunks: who is limited to one may read the ranges only in which his files are. A
grant is, little-endian:

    generation  u32   of the master secret it was made from
    expiry      u64   seconds since 1970, by the clocks of NameNode and DataNode
    rights      u8    1: read, 2: append, which includes reading, 3: read the ranges that follow
    for 3:      u32   how many ranges, and for each
                u64   where it starts in the chunk
                u64   where it ends; they are in order, and do not touch
    tag         16    HMAC-SHA-256 under the generation's grant secret, cut off, of
                      "dfs grant 1" 0 chunk (u64) and all before the tag, then the holder (`dfs.keys.KeyId.identity`,
                      UTF-8)

The grant secret is HKDF-Expand(master of the DataNodes' realm, "dfs grant 1") (RFC 5869): the NameNode and DataNodes
have the masters, and nobody else can make a grant. Who steals another's grant cannot use it, as he is not its holder.
"""

from __future__ import annotations

import bisect
import hashlib
import hmac
import itertools
import struct
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from dfs import errors
from dfs.keys import DATANODE, KeyId, Masters
from dfs.types import ChunkId

READ: Final = 1
APPEND: Final = 2
READ_RANGES: Final = 3
_LABEL: Final = "dfs grant 1"
_TERMS: Final = struct.Struct("<IQB")
_ABOUT: Final = struct.Struct("<Q")
_COUNT: Final = struct.Struct("<I")
_RANGE: Final = struct.Struct("<QQ")
_TAG_BYTES: Final = 16
GRANT_BYTES: Final = _TERMS.size + _TAG_BYTES
"""Of one without ranges."""

Range = tuple[int, int]
"""Of a chunk: its first byte, and the one after its last."""


class Terms(NamedTuple):
    """What a grant says of itself. `rights` is READ, APPEND or READ_RANGES; of the last, `ranges` says which."""

    generation: int
    expiry_s: int
    rights: int
    ranges: tuple[Range, ...] = ()

    def covers(self, start: int, end: int) -> bool:
        """Whether these bytes may be read."""
        if self.rights != READ_RANGES:
            return True
        at = bisect.bisect_right(self.ranges, start, key=lambda each: each[0]) - 1
        return at >= 0 and end <= self.ranges[at][1]


def merged(ranges: Iterable[Range]) -> list[Range]:
    """The same bytes in as few ranges as can be, in order."""
    found: list[Range] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def make(
    masters: Masters,
    holder: KeyId,
    chunk: ChunkId,
    rights: int,
    expiry_s: int,
    generation: int | None = None,
    ranges: Sequence[Range] = (),
) -> bytes:
    """A grant of one of the generations, the newest unless told, good until `expiry_s`.

    `ranges`: of READ_RANGES, as `merged` makes them.
    """
    generation = masters.generations[-1] if generation is None else generation
    secret = masters.derived(DATANODE, generation, _LABEL)
    assert secret is not None, "the generation is one of those known"
    terms = _TERMS.pack(generation, expiry_s, rights)
    if rights == READ_RANGES:
        terms += _COUNT.pack(len(ranges)) + b"".join(itertools.starmap(_RANGE.pack, ranges))
    return terms + _tag(secret, terms, holder, chunk)


def is_for_ranges(grant: bytes) -> bool:
    """Whether it says so itself; who needs none has an empty one."""
    return len(grant) >= _TERMS.size and grant[_TERMS.size - 1] == READ_RANGES


def generation_of(grant: bytes) -> int:
    """Of the keys that it was made with, as it says itself."""
    return int(_TERMS.unpack_from(grant)[0])


def check(masters: Masters, holder: KeyId, chunk: ChunkId, grant: object) -> Terms:
    """What a grant allows its holder with a chunk, which may have expired.

    Raises NotPermitted for what the NameNode never gave this holder for this chunk, and GrantExpired for a grant of a
    generation that was retired.
    """
    if not isinstance(grant, bytes) or len(grant) < GRANT_BYTES or len(grant) != _length(grant):
        raise errors.NotPermitted(f"chunk {chunk:x} is served with a grant of the NameNode only")
    terms = Terms(*_TERMS.unpack_from(grant))
    secret = masters.derived(DATANODE, terms.generation, _LABEL)
    if secret is None:
        raise errors.GrantExpired("the grant is of a generation of keys that is not known here: ask for another")
    if not hmac.compare_digest(grant[-_TAG_BYTES:], _tag(secret, grant[:-_TAG_BYTES], holder, chunk)):
        raise errors.NotPermitted(f"the grant is not one that the NameNode gave {holder} for chunk {chunk:x}")
    if terms.rights != READ_RANGES:
        return terms
    return terms._replace(ranges=tuple(_RANGE.iter_unpack(grant[_TERMS.size + _COUNT.size : -_TAG_BYTES])))


def _length(grant: bytes) -> int:
    """How long it is, as it says itself: none is to be taken for another one, of another holder."""
    if not is_for_ranges(grant):
        return GRANT_BYTES
    (count,) = _COUNT.unpack_from(grant, _TERMS.size)
    return GRANT_BYTES + _COUNT.size + int(count) * _RANGE.size


def _tag(secret: bytes, terms: bytes, holder: KeyId, chunk: ChunkId) -> bytes:
    said = _LABEL.encode() + b"\0" + _ABOUT.pack(chunk) + terms + holder.identity.encode()
    return hmac.digest(secret, said, hashlib.sha256)[:_TAG_BYTES]
