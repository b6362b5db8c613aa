"""Who is at the other end: in the handshake both prove that they know the same key.

Between our own ends it is four messages, CONNECT and CONNECT_OK twice:

    client   hello      {dfs, key: [generation, role, name], nonce, calls, and what else it says of itself}
    server   challenge  {dfs, realm, nonce}
    client   proof      {proof: MAC("client")}
    server   greeting   {proof: MAC("server"), and what it says of itself}

    MAC(end) = HMAC-SHA-256(the key's secret in the realm,
                            "dfs handshake 1 " end | SHA-256(hello) | SHA-256(challenge) | binding)

over the payloads as they were sent. The binding is SHA-256 of the server's certificate, as each end of a TLS connection
sees it (tls-server-end-point of RFC 5929), so that nobody between the ends can pass on what they say; without TLS it is
empty. Both nonces are fresh, so a recorded handshake is of no use; the ends have different names, so a proof
cannot be sent back to who made it; and all that was said before is covered. So that no daemon can pass on to another
what was meant for itself, a client answers challenges of that realm only which the object that it calls is in, and its
hello names the object: a server with another one refuses it. (Clients of before name none.) The server proves itself
only to who has proved himself, and a name that nobody gave gets a challenge like any other. No secret travels.

A stock Pyro5 proxy has one message only. Its handshake (`dfs.login`) names the key, the time and a nonce, with an
HMAC of these and of the object that is called. It counts for STOCK_LOGIN_MAX_S around the server's clock, not from
before the server's start, and once: the server remembers the nonces of that time. It proves nothing to the proxy.

What comes after the handshake is protected by TLS (dfs.rpc.tls). Without it who can read packets on the way reads what
they carry, and who can change them can take over a connection that was proved. Who is refused hears it after
HANDSHAKE_FAILURE_DELAY_S.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

from dfs import errors, limits, login
from dfs.keys import DATANODE, NAMENODE, Holder, Key, KeyId, Masters
from dfs.types import NAMENODE_OBJECT, datanode_object

_NONCE_BYTES: Final = login.NONCE_BYTES
_TIME_MAX_S: Final = 2.0**53
_DATANODE_OBJECTS: Final = datanode_object("")
_CLIENT: Final = b"client"
_SERVER: Final = b"server"


def hello(key: Key, object_id: str) -> dict[str, Any]:
    """What a client's first message has beside what it says of itself. `object_id` is what it calls."""
    return {"key": key.id.to_wire(), "nonce": secrets.token_bytes(_NONCE_BYTES), "calls": object_id}


def _realm_of(object_id: str) -> str | None:
    """The realm of the daemon that serves an object; None for objects that any daemon may have."""
    if object_id == NAMENODE_OBJECT:
        return NAMENODE
    return DATANODE if object_id.startswith(_DATANODE_OBJECTS) else None


def answer(
    key: Key, object_id: str, challenge: Mapping[str, Any], sent: bytes, received: bytes, binding: bytes
) -> tuple[dict[str, Any], bytes]:
    """A client's second message, and the proof that the server owes. `sent`, `received`: payloads of the first two;
    `binding`: the connection's. `object_id`: what the client calls.

    Raises ProtocolViolation for what is no challenge, and Refused for that of another kind of daemon: without TLS one
    might pass it on, to act there as who has answered.
    """
    asked = str(challenge.get("realm"))
    secret = key.secrets.get(asked)
    if secret is None or not isinstance(challenge.get("nonce"), bytes):
        raise errors.ProtocolViolation("the peer did not ask for a proof as dfs daemons do")
    realm = _realm_of(object_id)
    if realm not in (None, asked):
        raise errors.Refused(f"it is no daemon of the {realm}'s kind: it asks for a proof of the {asked}'s")
    said = sent, received, binding
    return {"proof": _mac(secret, _CLIENT, *said)}, _mac(secret, _SERVER, *said)


def is_proved(greeting: Mapping[str, Any], owed: bytes) -> bool:
    """Whether the server's last message has the proof that it owes."""
    proof = greeting.get("proof")
    return isinstance(proof, bytes) and hmac.compare_digest(proof, owed)


class Gate:
    """A server's side, for the keys of a realm. `clock` gives seconds since 1970, `object_id` is what it serves.

    `masters` and `revoked` (holders whose keys are refused) may be exchanged while it serves: `admits` says of a key
    that came in before whether it still would.
    """

    def __init__(self, realm: str, object_id: str, masters: Masters, clock: Callable[[], float]) -> None:
        self.realm = realm
        self._object_id = object_id
        self._started_s = clock()
        self.masters = masters
        self.revoked: frozenset[Holder] = frozenset()
        self._clock = clock
        self._used: OrderedDict[str, float] = OrderedDict()  # nonces of stock logins, and until when they count

    def admits(self, key: KeyId) -> bool:
        """Whether a key that was proved before counts now."""
        return key.generation in self.masters.generations and key.holder not in self.revoked

    def challenge(self) -> dict[str, Any]:
        return {"realm": self.realm, "nonce": secrets.token_bytes(_NONCE_BYTES)}

    def check(
        self, said: Mapping[str, Any], proof: object, received: bytes, sent: bytes, binding: bytes = b""
    ) -> tuple[KeyId, bytes]:
        """Who it is, and our proof. `received`, `sent`: payloads of hello, which said `said`, and challenge; `binding`:
        the connection's.

        Raises NotPermitted.
        """
        key, secret = self._secret(said.get("key"))
        nonce = said.get("nonce")
        if not isinstance(nonce, bytes) or len(nonce) < _NONCE_BYTES:
            raise errors.NotPermitted("a handshake with a key has a nonce")
        if not isinstance(proof, bytes) or not hmac.compare_digest(
            proof, _mac(secret, _CLIENT, received, sent, binding)
        ):
            raise self._not_known(key)
        self._refuse_revoked(key)
        if said.get("calls", self._object_id) != self._object_id:
            raise errors.NotPermitted(f"this is {self._object_id}, and another object is called")
        return key, _mac(secret, _SERVER, received, sent, binding)

    def check_stock(self, said: object) -> KeyId:
        """Who logs in with one message. Raises NotPermitted."""
        if not isinstance(said, Mapping) or "key" not in said:
            raise errors.NotPermitted("this daemon admits nobody without a key: see dfs.login")
        key, secret = self._secret(said["key"])
        said_s, nonce, proof = said.get("time"), said.get("nonce"), said.get("proof")
        if not isinstance(said_s, int | float) or not abs(said_s) < _TIME_MAX_S:
            raise errors.NotPermitted("a login has a time")
        if not isinstance(nonce, str) or not nonce.isascii() or len(nonce) != 2 * login.NONCE_BYTES:
            raise errors.NotPermitted(f"a login has a nonce of {login.NONCE_BYTES} bytes in hexadecimal")
        owed = login.proof(secret, self._object_id, said_s, nonce)
        if not isinstance(proof, str) or not hmac.compare_digest(proof.encode("utf-8", "replace"), owed.encode()):
            raise self._not_known(key)
        now_s = self._clock()
        if abs(said_s - now_s) > limits.STOCK_LOGIN_MAX_S or said_s < self._started_s:
            raise errors.NotPermitted(f"the login is of another time, by {said_s - now_s:.0f} s: set the clocks")
        while self._used and next(iter(self._used.values())) < now_s:
            self._used.popitem(last=False)
        if nonce in self._used:
            raise errors.NotPermitted("the login was used before: each connection needs one of its own")
        if len(self._used) >= limits.STOCK_LOGINS_MAX:
            raise errors.NotPermitted("too many logins in a short time: try again in a minute")
        self._used[nonce] = now_s + 2 * limits.STOCK_LOGIN_MAX_S
        self._refuse_revoked(key)
        return key

    def _secret(self, wire: object) -> tuple[KeyId, bytes]:
        if wire is None:
            raise errors.NotPermitted("this daemon admits nobody without a key")
        try:
            key = KeyId.from_wire(wire)
        except errors.InvalidArgument as error:
            raise errors.NotPermitted(error.message) from None
        secret = self.masters.secret(self.realm, key)
        if secret is None:
            raise self._not_known(key)
        return key, secret

    def _refuse_revoked(self, key: KeyId) -> None:
        """Only who proved that he has the key hears that it was revoked."""
        if key.holder in self.revoked:
            raise errors.NotPermitted(f"the key of {key} was revoked: `dfs key restore` allows it again")

    def _not_known(self, key: KeyId) -> errors.NotPermitted:
        known = self.masters.generations
        if known and key.generation < known[0]:
            return errors.NotPermitted(
                f"the key of {key} is of generation {key.generation}, which was retired: get a new one with `dfs join`"
                " or `dfs key add`"
            )
        if known and key.generation > known[-1]:
            return errors.NotPermitted(
                f"the key of {key} is of generation {key.generation}, which is not known here (yet): the newest is"
                f" {known[-1]}"
            )
        return errors.NotPermitted(f"the key of {key} is not of this cluster")


def _mac(secret: bytes, end: bytes, hello_payload: bytes, challenge_payload: bytes, binding: bytes) -> bytes:
    said = hashlib.sha256(hello_payload).digest() + hashlib.sha256(challenge_payload).digest()
    return hmac.digest(secret, b"dfs handshake 1 " + end + said + binding, hashlib.sha256)
