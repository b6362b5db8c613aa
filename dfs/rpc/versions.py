"""Which version of our protocol two ends speak, and how a change stays compatible.

Beside Pyro5's message format our own ends agree on a version: the methods there are, what they take and answer, and
what may be sent in which order. Each release speaks its newest version and the one before it. A client says in its
handshake from which to which version it speaks, the server answers with the highest that both speak, and that one holds
for the connection (`Peer.version`, `Connection.version`, `Pool.version`). So releases one version apart work together;
further apart the handshake is refused, with a sentence that says who runs what and which end to upgrade. Stock Pyro5
proxies say no version: what they may rely on is the methods in docs/architecture.md.

The handshake's proofs cover what both ends said of versions (`dfs.rpc.authentication`): who changes it on the way
breaks the handshake, and cannot have two new ends speak an old version.

A change needs no new version while either end may know nothing of it:

* a method gets a new argument at its end, optional, with a default that means what was before;
* a map gets a new key, absent where it says nothing; readers pass over keys that they do not know;
* a NamedTuple of `dfs.types`, which travels as a list, gets a field at its end, with a default; readers take as many as
  they know (`dfs.codec`);
* a new method or verb: a server that has none answers `NotSupported`, and the caller does it the old way;
* a new kind of event: clients pass over kinds that they do not know; a new kind of order: a DataNode answers
  `NotSupported` for it, as for any order that it cannot obey, and the NameNode plans anew.

`tests/data/protocol-N.json` has what version N is, and tests/unit/test_protocol_kept.py fails when that is not kept.
Anything else raises `protocol.DFS_PROTOCOL`: an argument that changes its meaning, a reply in another form, a method
that goes. Then the older form is spoken on connections whose version is the older one, for one version, and
`DFS_PROTOCOL_OLDEST` follows with the next. Commands are more than messages: they are the log. A verb keeps the
meaning of arguments that were ever applied, for good.

The order of an upgrade is part of this: the NameNode first, then the DataNodes, then clients and mounts. So a newer
client never meets an older NameNode in a cluster upgraded as README.md says, and a newer NameNode speaks to all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from dfs import errors
from dfs.release import RELEASE
from dfs.rpc.protocol import DFS_PROTOCOL, DFS_PROTOCOL_OLDEST

_RELEASE_MAX_CHARS: Final = 40
_VERSION_MAX: Final = 2**31


class Versions(NamedTuple):
    """All versions from `oldest` to `newest`."""

    oldest: int
    newest: int

    def __str__(self) -> str:
        return f"version {self.newest}" if self.oldest == self.newest else f"versions {self.oldest} to {self.newest}"


SPOKEN: Final = Versions(DFS_PROTOCOL_OLDEST, DFS_PROTOCOL)
"""What this release speaks."""


def offer(spoken: Versions) -> dict[str, Any]:
    """What a client's handshake says of versions."""
    return {"dfs": spoken.newest, "dfs_oldest": spoken.oldest, "release": RELEASE}


def choose(spoken: Versions, said: Mapping[str, Any]) -> int:
    """The version for a client whose handshake `said` what it speaks: the highest that both do.

    Raises NotSupported when there is none, with a sentence for whoever runs the client; ProtocolViolation for nonsense.
    """
    theirs = _offered(said)
    chosen = min(spoken.newest, theirs.newest)
    if chosen >= max(spoken.oldest, theirs.oldest):
        return chosen
    behind = "client" if theirs.newest < spoken.newest else "server"
    raise errors.NotSupported(
        f"the client runs {_release(said)} and speaks {theirs} of the protocol, this server runs dfs {RELEASE} and "
        f"speaks {spoken}: upgrade the {behind}"
    )


def answer(chosen: int) -> dict[str, Any]:
    """What a server says of versions, each time it answers a handshake."""
    return {"dfs": chosen, "release": RELEASE}


def chosen_by(server: str, spoken: Versions, said: Mapping[str, Any]) -> int | None:
    """The version that a server chose; None: a stock one, which said none.

    Raises ProtocolViolation for one that was not offered.
    """
    chosen = said.get("dfs")
    if chosen is not None and chosen not in range(spoken.oldest, spoken.newest + 1):
        raise errors.ProtocolViolation(
            f"{server} runs {_release(said)} and answers in a version of the protocol that dfs {RELEASE} does not "
            "speak: upgrade one of them"
        )
    return chosen


def _offered(said: Mapping[str, Any]) -> Versions:
    newest = said["dfs"]
    oldest = said.get("dfs_oldest", newest)
    if type(newest) is not int or type(oldest) is not int or not 0 < oldest <= newest < _VERSION_MAX:
        raise errors.ProtocolViolation("the client says of its protocol's versions what makes no sense")
    return Versions(oldest, newest)


def _release(said: Mapping[str, Any]) -> str:
    release = said.get("release")
    if isinstance(release, str) and release.isprintable() and len(release) <= _RELEASE_MAX_CHARS:
        return f"dfs {release}"
    return "an unknown release of dfs"
