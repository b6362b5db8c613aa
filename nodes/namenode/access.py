"""What a caller's key lets him see of the namespace, and show DataNodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from dfs import errors, grants, limits
from dfs.grants import Range
from dfs.keys import KeyId, Role
from dfs.rpc import Call
from dfs.types import ChunkId
from nodes.namenode.confinement import ConfinedQueries
from nodes.namenode.parts import Service
from nodes.namenode.queries import Queries

LOOKED_AT_ONCE: Final = 500
"""Inodes of which something is found out at a time, such as whether they are beneath a directory: milliseconds."""


class Access(Service):
    """What the services of clients have in common."""

    def _view(self, call: Call) -> Queries | ConfinedQueries:
        """What the caller's key may see of the namespace."""
        key = call.peer.key
        path = key.claim("subtree") if key else None
        if key is None or path is None:
            return self._queries
        return ConfinedQueries(self._store, self._queries, path, key)

    def _readable(
        self, call: Call, places: Iterable[list[Any]], pieces: Iterable[tuple[int, int, int]]
    ) -> list[list[Any]]:
        """As `_granted`, to read. Who is limited to a subtree gets these pieces (chunk, start, length) and no more."""
        if not is_limited(call):
            return self._granted(call, places, grants.READ)
        ranges: dict[int, list[Range]] = {}
        for chunk, start, length in pieces:
            ranges.setdefault(chunk, []).append((start, start + length))
        return [
            [*place, self._grant(call, place[0], grants.READ_RANGES, grants.merged(ranges[place[0]]))]
            for place in places
        ]

    def _granted(self, call: Call, places: Iterable[list[Any]], rights: int) -> list[list[Any]]:
        """Each place, of which the chunk comes first, with what the caller is to show DataNodes for it."""
        return [[*place, self._grant(call, place[0], rights)] for place in places]

    def _grant(self, call: Call, chunk: ChunkId, rights: int, ranges: Sequence[Range] = ()) -> bytes:
        key = call.peer.key
        if key is None or (key.role == Role.ADMIN and rights != grants.APPEND):  # who may use every chunk himself
            return b""
        expiry_s = -(-self._runtime.now_ns() // 10**9) + limits.GRANT_VALID_S
        return self._issuing.grant(key, chunk, rights, expiry_s, ranges)


def key_of(call: Call) -> KeyId:
    """The key that the caller has proved. Raises `NotPermitted` if there is none."""
    if call.peer.key is None:
        raise errors.NotPermitted("nobody is served without a key")
    return call.peer.key


def is_limited(call: Call) -> bool:
    """Whether the caller's key is limited to a subtree."""
    return call.peer.key is not None and call.peer.key.claim("subtree") is not None


def identity(call: Call) -> str:
    """Whose key the caller has."""
    return key_of(call).identity
