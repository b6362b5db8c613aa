"""Which chunks a peer may use: admins and DataNodes all, others those for which they show a grant (`dfs.grants`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dfs import errors, grants, limits
from dfs.grants import APPEND, READ, READ_RANGES, Terms
from dfs.keys import DATANODE, KeyId, Masters, Role
from dfs.rpc import Peer
from dfs.types import ChunkId

_NEED_NONE: Final = frozenset({Role.ADMIN, Role.NODE})


class Admission:
    """Checks grants. What a connection has shown is remembered with it, so that each grant is computed once.

    `masters` gives those of the moment, `clock` seconds since 1970; `admits` says whether who has a key may call.
    """

    def __init__(
        self, masters: Callable[[], Masters], clock: Callable[[], float], admits: Callable[[KeyId], bool]
    ) -> None:
        self._masters = masters
        self._admits = admits
        self._clock = clock

    def read(self, peer: Peer, chunk: ChunkId, grant: object, start: int, end: int) -> None:
        """These bytes of it. Raises `NotPermitted`, `GrantExpired`."""
        terms = self._in_force(peer, chunk, grant)
        if terms is not None and not terms.covers(start, end):
            raise errors.NotPermitted(f"the grant is for other bytes of chunk {chunk:x} than {start} to {end}")

    def lend(self, peer: Peer, chunk: ChunkId, grant: object) -> None:
        """All bytes that it has, or will have. Raises `NotPermitted`, `GrantExpired`."""
        terms = self._in_force(peer, chunk, grant)
        if terms is not None and terms.rights == READ_RANGES:
            raise errors.NotPermitted(f"the grant is for a part of chunk {chunk:x}: it is not lent")

    def append(self, peer: Peer, chunk: ChunkId, grant: object, holder: object = None) -> None:
        """Raises `NotPermitted`, `GrantExpired`. A DataNode shows the grant of a `holder`, who has it append."""
        terms = self._terms(peer, chunk, grant) if holder is None else self._terms_of(holder, peer, chunk, grant)
        if terms is not None:
            if terms.rights != APPEND:
                raise errors.NotPermitted(f"the grant allows reading chunk {chunk:x}, not appending to it")
            self._refuse_expired(terms)

    def sync(self, peer: Peer, chunk: ChunkId, grant: object) -> None:
        """Any grant will do, an expired one too: a flush changes nothing, and tells who has had the bytes no more
        than how many of them are safe. So an fsync long after the last write needs no question. Raises `NotPermitted`.
        """
        self._terms(peer, chunk, grant)

    def _in_force(self, peer: Peer, chunk: ChunkId, grant: object) -> Terms | None:
        """As `_terms`. Raises `GrantExpired`, too."""
        terms = self._terms(peer, chunk, grant)
        if terms is not None:
            self._refuse_expired(terms)
        return terms

    def _terms(self, peer: Peer, chunk: ChunkId, grant: object) -> Terms | None:
        """None: the peer needs no grant."""
        key = peer.key
        assert key is not None, "`authorize` lets nobody in without one"
        return None if key.role in _NEED_NONE else self._shown(peer, key, chunk, grant)

    def _terms_of(self, holder: object, peer: Peer, chunk: ChunkId, grant: object) -> Terms:
        """What the holder of a grant may do, of whom a DataNode speaks: it can do no more than who calls it may."""
        key = peer.key
        if key is None or key.role is not Role.NODE:
            raise errors.NotPermitted("only DataNodes speak for others")
        spoken_for = KeyId.from_wire(holder)
        if not self._admits(spoken_for):
            raise errors.NotPermitted(f"{spoken_for} is not admitted here")
        return self._shown(peer, spoken_for, chunk, grant)

    def _shown(self, peer: Peer, key: KeyId, chunk: ChunkId, grant: object) -> Terms:
        shown = (key.identity, chunk, grant) if isinstance(grant, bytes) else None
        known: Terms | None = peer.remembered.get(shown)
        masters = self._masters()
        if known is not None and masters.knows(DATANODE, known.generation):
            return known
        terms = grants.check(masters, key, chunk, grant)
        if terms.rights not in (READ, APPEND, READ_RANGES):
            raise errors.NotPermitted("the grant gives rights that are not known here: is the NameNode newer?")
        if len(peer.remembered) >= limits.GRANTS_REMEMBERED_MAX:
            peer.remembered.clear()
        peer.remembered[shown] = terms
        return terms

    def _refuse_expired(self, terms: Terms) -> None:
        late_s = self._clock() - terms.expiry_s
        if late_s >= 0:
            raise errors.GrantExpired(f"the grant expired {late_s:.0f} s ago: ask the NameNode for another")
