"""Grants: the NameNode's word that the holder of a key may read a chunk, or append to it, for a while.

DataNodes know nothing of files: they serve a chunk to a client or reader who shows a grant for it. The NameNode gives
grants with the places of chunks, to who may see the file or has the chunk open, so the number of a chunk alone is of no
use. A grant is 29 bytes, little-endian:

    generation  u32   of the master secret it was made from
    expiry      u64   seconds since 1970, by the clocks of NameNode and DataNode
    rights      u8    1: read, 2: append, which includes reading
    tag         16    HMAC-SHA-256 under the generation's grant secret, cut off, of
                      "dfs grant 1" 0 chunk (u64) generation expiry rights holder (`dfs.keys.KeyId.identity`, UTF-8)

The grant secret is HKDF-Expand(master of the DataNodes' realm, "dfs grant 1") (RFC 5869): the NameNode and DataNodes
have the masters, and nobody else can make a grant. Who steals another's grant cannot use it, as he is not its holder.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Final, NamedTuple

from dfs import errors
from dfs.keys import DATANODE, KeyId, Masters
from dfs.types import ChunkId

READ: Final = 1
APPEND: Final = 2
_LABEL: Final = "dfs grant 1"
_TERMS: Final = struct.Struct("<IQB")
_ABOUT: Final = struct.Struct("<Q")
_TAG_BYTES: Final = 16
GRANT_BYTES: Final = _TERMS.size + _TAG_BYTES


class Terms(NamedTuple):
    """What a grant says of itself. `rights` is READ or APPEND."""

    generation: int
    expiry_s: int
    rights: int


def make(
    masters: Masters, holder: KeyId, chunk: ChunkId, rights: int, expiry_s: int, generation: int | None = None
) -> bytes:
    """A grant of one of the generations, the newest unless told, good until `expiry_s`."""
    generation = masters.generations[-1] if generation is None else generation
    secret = masters.derived(DATANODE, generation, _LABEL)
    assert secret is not None, "the generation is one of those known"
    terms = _TERMS.pack(generation, expiry_s, rights)
    return terms + _tag(secret, terms, holder, chunk)


def generation_of(grant: bytes) -> int:
    """Of the keys that it was made with, as it says itself."""
    return Terms._make(_TERMS.unpack_from(grant)).generation


def check(masters: Masters, holder: KeyId, chunk: ChunkId, grant: object) -> Terms:
    """What a grant allows its holder with a chunk, which may have expired.

    Raises NotPermitted for what the NameNode never gave this holder for this chunk, and GrantExpired for a grant of a
    generation that was retired.
    """
    if not isinstance(grant, bytes) or len(grant) != GRANT_BYTES:
        raise errors.NotPermitted(f"chunk {chunk:x} is served with a grant of the NameNode only")
    terms = Terms._make(_TERMS.unpack_from(grant))
    secret = masters.derived(DATANODE, terms.generation, _LABEL)
    if secret is None:
        raise errors.GrantExpired("the grant is of a generation of keys that is not known here: ask for another")
    if not hmac.compare_digest(grant[_TERMS.size :], _tag(secret, grant[: _TERMS.size], holder, chunk)):
        raise errors.NotPermitted(f"the grant is not one that the NameNode gave {holder} for chunk {chunk:x}")
    return terms


def _tag(secret: bytes, terms: bytes, holder: KeyId, chunk: ChunkId) -> bytes:
    said = _LABEL.encode() + b"\0" + _ABOUT.pack(chunk) + terms + holder.identity.encode()
    return hmac.digest(secret, said, hashlib.sha256)[:_TAG_BYTES]
