"""Which role may call what at a DataNode: the whole policy. A method that is not listed may be called by nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from dfs import errors
from dfs.keys import Role
from dfs.rpc import Peer

_ALL: Final = frozenset({Role.ADMIN, Role.CLIENT, Role.READER})
_WRITERS: Final = frozenset({Role.ADMIN, Role.CLIENT})
_ADMINS: Final = frozenset({Role.ADMIN})

METHODS: Final[Mapping[str, frozenset[Role]]] = {
    **dict.fromkeys(("read", "read_ranges", "lend", "status"), _ALL),
    **dict.fromkeys(("append", "drop_memory", "expect_memory", "sync", "take_memory"), _WRITERS),
    "append_chain": _WRITERS | {Role.NODE},
    "read_blocks": frozenset({Role.NODE, Role.ADMIN}),
    "damaged_blocks": frozenset({Role.NODE, Role.ADMIN}),
    **dict.fromkeys(("list_chunks", "scrub_now", "scrub_status", "decide_held"), _ADMINS),
}
_PURPOSES: Final[Mapping[str, str]] = {
    "sync": "a look at copies",
    "list_chunks": "a list of chunks",
    **dict.fromkeys(("scrub_now", "scrub_status"), "a scrub"),
    "decide_held": "a decision on deletions",
}
"""What methods are for, where their names say nothing to who has called a command of another name."""


def authorize(peer: Peer, method: str, _args: Sequence[Any]) -> None:
    """Raises NotPermitted."""
    if peer.key is None:
        raise errors.NotPermitted("nobody is served without a key")
    if peer.key.role not in METHODS.get(method, ()):
        raise errors.NotPermitted(
            f"the key of {peer.key} does not allow {_PURPOSES.get(method, repr(method))} at a DataNode"
        )
    if method == "status" and peer.key.claim("subtree") is not None:
        raise errors.NotPermitted(f"the key of {peer.key} is limited to a subtree, and {method!r} is about all chunks")
