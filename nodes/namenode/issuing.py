"""Keys that are issued while the cluster runs: to who brings a token, and newer ones to who has an older.

**Generations.** `dfs key rotate` puts new masters beside the old ones into cluster.keys. From then on

1. the NameNode accepts keys of both generations, and tells DataNodes with every heartbeat which there are;
2. each DataNode asks for the new masters of its realm (`renew`), keeps them, and accepts keys of both;
3. when all that are not dead say so in their heartbeats, the new generation is *in use*: keys of it are issued,
   clients hear of it (`keys`, and `cluster` when they come) and renew theirs, and so do the DataNodes;
4. `dfs key retire` takes the old masters away: the NameNode, and with the next heartbeat every DataNode, refuses keys
   of that generation and closes the connections that were made with them.

What must hold: no key of a generation is issued before every DataNode that clients may be sent to accepts it. A
DataNode that was dead in step 3 and comes back has to register and renew its masters before it counts as heard, so no
client is sent to it before. The generation in use is in the database: a restart does not take it back.

**Revocation.** Holders whose keys are refused are in the database, and travel with the heartbeats to the DataNodes that
have another list, as its digest shows.

Answers with keys are sealed for who asks (`dfs.sealing`), under the secret of the key that he proved to have.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Final

import structlog
import trio

from dfs import errors, grants, keys, limits, sealing, tokens
from dfs.certificates import Authority
from dfs.grants import Range
from dfs.keys import Holder, KeyFile, KeyId, Role
from dfs.rpc import Gate, Peer, Server
from dfs.runtime import Runtime
from dfs.types import NODE_NAME, NODE_NAME_RULE, ChunkId, NodeId, NodeState
from nodes.namenode import arguments
from nodes.namenode.commands import use_generation
from nodes.namenode.membership import Member, Membership
from nodes.namenode.sessions import Sessions
from nodes.namenode.store import Store
from nodes.namenode.writer import Writer

log = structlog.get_logger(__name__)

RENEW: Final = "renew"
"""The context of what is sealed for `renew`."""
FIRST_GENERATION: Final = 1


class Issuing:
    """Belongs to the event loop. `gate` is the NameNode's; `reload` gives cluster.keys when it has changed.

    `authority` issues the certificates of those who join, None in a cluster without TLS.
    """

    def __init__(
        self,
        gate: Gate,
        store: Store,
        writer: Writer,
        members: Membership,
        sessions: Sessions,
        runtime: Runtime,
        authority: Authority | None = None,
        reload: Callable[[], KeyFile | None] | None = None,
    ) -> None:
        self._gate = gate
        self._store = store
        self._writer = writer
        self._members = members
        self._sessions = sessions
        self._runtime = runtime
        self._authority = authority
        self._reload = reload
        self._server: Server | None = None
        self._confirmed: dict[NodeId, tuple[int, ...]] = {}  # generations that each DataNode accepts, as it said last
        self._seen: OrderedDict[KeyId, float] = OrderedDict()  # when, in trio's time; the longest ago first
        self._joined: OrderedDict[str, Holder] = OrderedDict()  # what tokens have become, by their nonces
        self.in_use = self._stored_generation()
        self._load_revoked()

    def attach(self, server: Server) -> None:
        """Whose connections are watched, and closed when their keys count no more."""
        self._server = server

    def _stored_generation(self) -> int:
        """The generation in use: of what is stored and what there is."""
        known = self._gate.masters.generations
        stored = self._store.setting(use_generation.SETTING) or 0
        return next((each for each in known if each >= stored), known[-1])

    def _load_revoked(self) -> None:
        rows = self._store.reads.execute("SELECT role, name FROM revoked")
        self._gate.revoked = frozenset(Holder(Role(role), name) for role, name in rows)

    # --- DataNodes --------------------------------------------------------------------------------------

    def told(self, report: Mapping[str, Any]) -> dict[str, Any]:
        """What a DataNode is answered about keys: generations, the one in use, and who is revoked if that is news."""
        told = {"generations": list(self._gate.masters.generations), "in_use": self.in_use}
        if report.get("revoked", "") != keys.digest(self._gate.revoked):
            told["revoked"] = sorted(list(holder) for holder in self._gate.revoked)
        return told

    def confirm(self, node: NodeId, report: Mapping[str, Any]) -> bool:
        """A heartbeat says which generations its DataNode accepts; whether that of the keys in use is one of them."""
        said = arguments.array(report.get("generations", [FIRST_GENERATION]), "generations", limits.KEY_GENERATIONS_MAX)
        self._confirmed[node] = tuple(arguments.integer(each, "a generation", 1) for each in said)
        return self.in_use in self._confirmed[node]

    def _unconfirmed(self) -> list[Member]:
        """DataNodes that live and have not said that they accept the newest generation."""
        newest = self._gate.masters.generations[-1]
        living = [member for member in self._members.all() if self._members.state(member) != NodeState.DEAD]
        return [member for member in living if newest not in self._confirmed.get(member.node, ())]

    # --- keys -------------------------------------------------------------------------------------------

    def renew(self, key: KeyId, public: object) -> bytes:
        """A key file for who has `key`: the same in the generation in use, and with it what a node is to know."""
        made = self._key_file(key.role, key.name, dict(key.claims))
        return sealing.seal(keys.render(made), public, self._secret(key), RENEW)

    async def join(self, token: KeyId, request: object, party: Hashable) -> bytes:
        """A key file for who brings a token, of `party`. Raises `Busy`, `NotPermitted`, `InvalidArgument`, `Exists`."""
        if not isinstance(request, Mapping):
            raise errors.InvalidArgument("who joins says a map of name and public")
        grant = tokens.grant(token)
        name = self._joining_name(grant, arguments.text(request.get("name", ""), "a name", 64))
        claims = {"subtree": grant.subtree} if grant.subtree else {}
        made = self._key_file(grant.role, name, claims).certified(self._authority)
        public: Any = request.get("public")
        sealed = sealing.seal(keys.render(made), public, self._secret(token), tokens.CONTEXT)
        about = grant.nonce, grant.expires_s * 10**9, _receiver(name, public)
        try:
            await self._writer.decide("redeem_token", *about, party=party)
        except errors.NotPermitted as error:
            raise errors.NotPermitted(error.message + self._what_became_of(grant)) from None
        self._note_joined(grant, Holder(grant.role, name))
        if made.key is not None:
            self._note(made.key.id)
        log.info("joined", role=str(grant.role), name=name)
        return sealed

    def _note_joined(self, grant: tokens.Grant, holder: Holder) -> None:
        self._joined[grant.nonce] = holder
        if len(self._joined) > limits.KEY_HOLDERS_MAX:
            self._joined.popitem(last=False)

    def _what_became_of(self, grant: tokens.Grant) -> str:
        """For who has a token that was used, perhaps by a thief; "" if that was before this start: no table says it."""
        holder = self._joined.get(grant.nonce)
        if holder is None:
            return ""
        return (
            f". It has become {holder}: if that is none of your machines, say `dfs key revoke {holder.name} --role"
            f" {holder.role}`"
        )

    def _joining_name(self, grant: tokens.Grant, wished: str) -> str:
        """Raises `InvalidArgument` for no name, `Exists` for one that somebody has, `NotPermitted`."""
        name = grant.name or wished
        if grant.role == Role.NODE and not NODE_NAME.fullmatch(name):
            raise errors.InvalidArgument(f"the name of a DataNode is {NODE_NAME_RULE}: {name!r}: say --name")
        if grant.role == Role.NODE and not grant.name and any(each.node == name for each in self._members.all()):
            raise errors.Exists(
                f"there is a DataNode {name} already: say another --name; or, if this machine is to replace it, make"
                f" the token with `dfs join token --name {name}`"
            )
        holder = Holder(grant.role, name)
        if holder in self._gate.revoked:
            raise errors.NotPermitted(f"keys of {grant.role} {name} are revoked: say another --name")
        if not grant.name and self._is_known(holder, grant.nonce):
            raise errors.Exists(
                f"{grant.role} {name} has a key already, and would have the same one: say another --name; or, if this"
                f" machine is to replace that one, make the token with `dfs join token --name {name}`"
            )
        return name

    def _is_known(self, holder: Holder, nonce: str) -> bool:
        """Whether somebody has a key of his, as far as is remembered, who did not get it by this token."""
        if self._joined.get(nonce) == holder:
            return False
        names = itertools.chain((key.holder for key in self._seen), self._joined.values())
        return holder in names or bool(self._sessions.of(holder))

    def _key_file(self, role: Role, name: str, claims: Mapping[str, str]) -> KeyFile:
        """Without a certificate: who renews a key keeps his."""
        cluster = KeyFile(None, self._gate.masters, self._store.cluster)
        return cluster.issue(role, name, claims, self.in_use)

    def grant(self, key: KeyId, chunk: ChunkId, rights: int, expiry_s: int, ranges: Sequence[Range] = ()) -> bytes:
        """The word for DataNodes, which all know the generation in use."""
        return grants.make(self._gate.masters, key, chunk, rights, expiry_s, self.in_use, ranges)

    def _secret(self, key: KeyId) -> bytes:
        secret = self._gate.masters.secret(keys.NAMENODE, key)
        if secret is None:
            raise errors.NotPermitted(f"the key of {key} is of a generation that was retired")
        return secret

    # --- revoking ---------------------------------------------------------------------------------------

    async def revoke(self, by: KeyId, wire: object) -> int:
        """Refuse all keys of a holder, [role, name], from now on; the number of connections that this closed.

        His sessions end as those of others do of whom nothing is heard: until then programs on his mounts may be shown
        what these were told, and nobody may change that. Raises `InvalidArgument`, `ArgumentTooLarge`.
        """
        holder = Holder.from_wire(wire)
        if holder == by.holder:
            raise errors.InvalidArgument(f"{holder} is the key that asks for this: use another admin's")
        await self._writer.decide("revoke_key", str(holder.role), holder.name)
        self._load_revoked()
        closed = self._close_refused()
        log.warning("a key was revoked", role=str(holder.role), name=holder.name, by=str(by), connections=closed)
        return closed

    async def restore(self, wire: object) -> None:
        """Raises `InvalidArgument`, `NotFound`."""
        holder = Holder.from_wire(wire)
        await self._writer.decide("restore_key", str(holder.role), holder.name)
        self._load_revoked()
        log.warning("a key was restored", role=str(holder.role), name=holder.name)

    def _close_refused(self) -> int:
        if self._server is None:
            return 0
        return self._server.close_connections(lambda peer: peer.key is not None and not self._gate.admits(peer.key))

    # --- who is here ------------------------------------------------------------------------------------

    def note(self, peer: Peer) -> None:
        """A peer has proved his key."""
        if peer.key is not None and peer.key.role != Role.JOIN:
            self._note(peer.key)

    def _note(self, key: KeyId) -> None:
        self._seen[key] = trio.current_time()
        self._seen.move_to_end(key)
        if len(self._seen) > limits.KEY_HOLDERS_MAX:
            self._seen.popitem(last=False)

    def _note_connected(self) -> set[KeyId]:
        """Those who are here have been seen just now."""
        peers = self._server.peers() if self._server else []
        for peer in peers:
            self.note(peer)
        return {peer.key for peer in peers if peer.key is not None}

    def status(self) -> dict[str, Any]:
        """For `dfs key status`: see docs/architecture.md."""
        connected = self._note_connected()
        now = trio.current_time()
        return {
            "generations": list(self._gate.masters.generations),
            "in_use": self.in_use,
            "waits_for": [member.node for member in self._unconfirmed()],
            "nodes": [
                [member.node, str(self._members.state(member)), list(self._confirmed.get(member.node, ()))]
                for member in self._members.all()
            ],
            "holders": [
                [str(key.role), key.name, key.generation, now - at, key in connected] for key, at in self._seen.items()
            ],
            "revoked": sorted(list(holder) for holder in self._gate.revoked),
        }

    # --- generations ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow cluster.keys, and bring newer generations into use. Runs until cancelled."""
        while True:
            await trio.sleep(limits.KEYS_LOOK_PERIOD_S)
            self._note_connected()
            self._follow_file()
            newest = self._gate.masters.generations[-1]
            if self.in_use != newest and not self._unconfirmed():
                try:
                    await self._writer.decide("use_generation", newest)
                except errors.DfsError as error:
                    log.warning("a generation of keys is not in use yet: trying again", error=str(error))
                    continue
                self.in_use = newest
                log.info("keys of a newer generation are issued", generation=newest)
                self._sessions.push_all("keys", newest)

    def _follow_file(self) -> None:
        try:
            found = self._reload() if self._reload is not None else None
            if found is not None:
                self._exchange(found)
        except errors.ConfigError as error:
            log.error("the changed keys are not used: going on with those of before", error=str(error))

    def _exchange(self, found: KeyFile) -> None:
        """Go on with other masters. Raises `ConfigError` for those that cannot be."""
        masters = found.masters
        if not masters.by_realm().get(keys.NAMENODE):
            raise errors.ConfigError("cluster.keys has no master secrets any more: put the file back as it was")
        if found.cluster not in (None, self._store.cluster):
            raise errors.ConfigError(f"cluster.keys is of cluster {found.cluster}: put that of this cluster back")
        self._gate.masters, self._authority = masters, found.authority
        if self.in_use not in masters.generations:
            self.in_use = self._stored_generation()
        closed = self._close_refused()
        log.info("masters changed", generations=list(masters.generations), connections_closed=closed)


def _receiver(name: str, public: bytes) -> bytes:
    """For whom a token's answer was sealed, and as whom: in either it may not become anybody else's."""
    return hashlib.sha256(public + name.encode()).digest()
