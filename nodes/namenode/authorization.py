"""Which role may call what at the NameNode: the whole policy, asked for every call before anything else.

A method that is not listed may be called by nobody. A reader's `apply` passes for commands that keep nothing but what
its own session holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from dfs import errors
from dfs.keys import KeyId, Role
from dfs.rpc import Peer
from nodes.namenode import commands

_ALL: Final = frozenset({Role.ADMIN, Role.CLIENT, Role.READER})
WRITERS: Final = frozenset({Role.ADMIN, Role.CLIENT})
_ADMINS: Final = frozenset({Role.ADMIN})
_NODES: Final = frozenset({Role.NODE})
_TOKENS: Final = frozenset({Role.JOIN})

METHODS: Final[Mapping[str, frozenset[Role]]] = {
    **dict.fromkeys(("cluster", "lookup", "getattr", "walk", "parent", "readdir", "readlink"), _ALL),
    **dict.fromkeys(("getxattr", "listxattr", "extents", "explain", "summarize", "statfs", "status"), _ALL),
    "nodes": _ALL | _NODES,
    **dict.fromkeys(("open_session", "close_session", "events", "apply"), _ALL),
    **dict.fromkeys(("leased_lookup", "leased_getattr", "leased_readdir", "leased_xattrs", "leased_extents"), _ALL),
    **dict.fromkeys(("leased_xattrs_of", "leased_tree", "forgot", "reclaim", "whole_files"), _ALL),
    **dict.fromkeys(("own", "own_files", "own_directory", "allocate", "renew_grants"), WRITERS),
    **dict.fromkeys(("chunks", "check", "check_inodes", "check_chunks", "check_totals", "check_file"), _ADMINS),
    **dict.fromkeys(("plan_drain", "drain", "undrain", "remove_node", "plan_balance", "balance"), _ADMINS),
    **dict.fromkeys(("register", "heartbeat", "farewell", "report_chunks"), _NODES),
    **dict.fromkeys(("key_status", "revoke_key", "restore_key", "clients"), _ADMINS),
    **dict.fromkeys(("begin_backup", "read_backup", "end_backup"), _ADMINS),
    "renew": _ALL | _NODES,
    "join": _TOKENS,
}
SUBTREE_METHODS: Final = frozenset(
    {"cluster", "lookup", "getattr", "walk", "parent", "readdir", "readlink", "getxattr", "listxattr", "extents"}
    | {"summarize", "statfs", "nodes", "open_session", "close_session", "events", "apply", "allocate", "renew_grants"}
    | {"leased_lookup", "leased_getattr", "leased_readdir", "leased_xattrs", "leased_extents"}
    | {"leased_xattrs_of", "leased_tree", "forgot", "reclaim", "own", "own_files", "whole_files", "renew", "join"}
)
"""What a key that is limited to a subtree may call, of what its role allows: nothing that tells of the rest."""
_NAMES_ITS_NODE: Final = frozenset({"heartbeat", "farewell", "report_chunks"})
_OF_ITSELF: Final = frozenset({"renew", "nodes"})
"""Methods of nodes that name none: they are about the key which the connection proved, or about all."""
READERS_VERBS: Final = frozenset({"hold", "release", "accessed"})
"""Commands of readers: what is open, and that it was read."""
ADMINS_VERBS: Final = frozenset(commands.MENDING)
_PURPOSES: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("chunks", "check", "check_inodes", "check_chunks", "check_totals", "check_file"), "a check (fsck)"
    ),
    "explain": "an answer to where copies are (why)",
    "status": "the status",
    "remove_node": "the removal of a DataNode",
    "plan_drain": "a plan for a drain",
    "plan_balance": "a plan for a balance",
    "key_status": "the status of keys",
    "clients": "a list of who else is connected",
    "begin_backup": "a copy of the namespace",
    "revoke_key": "the revocation of a key",
    "restore_key": "the restoration of a key",
    **dict.fromkeys(("own", "own_files", "own_directory", "allocate", "renew_grants"), "writing"),
}
"""What methods are for, where their names say nothing to who has called a command of another name."""
_APPLY_ARGUMENTS: Final = 3
_PEOPLES: Final = {Role.CLIENT: "a client's", Role.READER: "a reader's", Role.ADMIN: "an admin's"}


def authorize(peer: Peer, method: str, args: Sequence[Any]) -> None:
    """Raises NotPermitted."""
    key = peer.key
    if key is None:
        raise errors.NotPermitted("nobody is served without a key")
    allowed = METHODS.get(method, frozenset())
    what = _PURPOSES.get(method, repr(method))
    if key.role not in allowed:
        raise errors.NotPermitted(f"the key of {key} does not allow {what} at the NameNode{_instead(allowed)}")
    if key.claim("subtree") is not None and method not in SUBTREE_METHODS:
        raise errors.NotPermitted(f"the key of {key} is limited to a subtree, and {what} is about the whole cluster")
    if method == "apply" and key.role != Role.ADMIN:
        _check_verbs(key, args)
    if key.role == Role.NODE and method not in _OF_ITSELF:
        _check_node(key.name, method, args)


def _instead(allowed: frozenset[Role]) -> str:
    """Whose key would do, for people: of a method that is for clients of some kind."""
    whose = [words for role, words in _PEOPLES.items() if role in allowed]
    return f": use {' or '.join(filter(None, [', '.join(whose[:-1]), whose[-1]]))}" if whose else ""


def _check_verbs(key: KeyId, args: Sequence[Any]) -> None:
    if len(args) != _APPLY_ARGUMENTS or not isinstance(args[2], list | tuple):
        raise errors.InvalidArgument("apply takes a session, an acknowledgement and a list, by position")
    for command in args[2]:
        verb = command[1] if isinstance(command, list | tuple) and len(command) > 1 else None
        if not isinstance(verb, str):
            raise errors.InvalidArgument("a command is [sequence number, verb, [argument, ...]]")
        if key.role == Role.READER and verb not in READERS_VERBS:
            raise errors.NotPermitted(f"the key of {key} allows reading only{_instead(WRITERS)}")
        if key.role != Role.READER and verb in ADMINS_VERBS:
            raise errors.NotPermitted(f"the key of {key} does not allow mending{_instead(_ADMINS)}")


def _check_node(name: str, method: str, args: Sequence[Any]) -> None:
    """A node speaks for itself only."""
    about = args[0] if args else None
    claimed = about if method in _NAMES_ITS_NODE else about.get("node") if isinstance(about, Mapping) else None
    if claimed != name:
        raise errors.NotPermitted(f"the key is that of node {name}, not of {claimed}")
