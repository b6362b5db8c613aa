"""Tokens: what an operator carries to a new machine, there to become a key of it.

A token is a key of the role `join`. Its claims say what it may become, until when, and a nonce makes it one of its
kind; as its secret is derived from these, nobody keeps a list of tokens and nothing of one can be changed. The NameNode
remembers which were used (`redeem_token`), so each counts once.

The text of a token is one word to paste:

    "dfsjoin_" URL-safe base64 of (secret in the NameNode's realm, 32 bytes | JSON: [the key as `KeyId.to_wire` has it]
    or, in a cluster with TLS, [that, the fields of `TlsIdentity`]) and of the first 4 bytes of the SHA-256 of these

so that what was mistyped or cut off is recognised before anything is sent. There is no secret of the DataNodes' realm
in it: a token opens nothing there.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import json
import secrets
import time
from typing import Final, NamedTuple

from dfs import certificates, errors, keys
from dfs.certificates import Authority, TlsIdentity
from dfs.keys import Key, KeyId, Masters, Role

_PREFIX: Final = "dfsjoin_"
_SUM_BYTES: Final = 4
_NONCE_BYTES: Final = 8
_NAME: Final = "token"

CONTEXT: Final = "join"
"""Of what is sealed for the holder of a token."""


class Grant(NamedTuple):
    """What a token may become. `name` is empty where the machine may choose; `expires_s` in seconds since 1970."""

    role: Role
    name: str
    subtree: str
    expires_s: int
    nonce: str


def issue(
    masters: Masters, role: Role, name: str, subtree: str, expires_s: int, authority: Authority | None = None
) -> str:
    """The text of a new token; `authority` issues its certificate where the cluster has TLS.

    Raises `InvalidArgument` for a name that no key can have.
    """
    if name:
        masters.issue(role, name)  # for its refusal
    claims = {"grants": str(role), "expires": str(expires_s), "nonce": secrets.token_hex(_NONCE_BYTES)}
    claims |= {"as": name} if name else {}
    claims |= {"subtree": subtree} if subtree else {}
    token = masters.issue(Role.JOIN, _NAME, claims)
    if authority is None:
        return text(token)
    validity_s = max(0.0, expires_s - time.time())
    return text(token._replace(tls=certificates.issue(authority, Role.JOIN, _NAME, validity_s)))


def text(token: Key) -> str:
    """A token as a word."""
    about = [token.id.to_wire(), *([] if token.tls is None else dataclasses.astuple(token.tls))]
    content = token.secrets[keys.NAMENODE] + json.dumps(about, separators=(",", ":")).encode()
    return _PREFIX + base64.urlsafe_b64encode(content + _sum(content)).decode().rstrip("=")


def parse(word: str) -> Key:
    """The token in a word. Raises `InvalidArgument` for what is none, or not a whole one."""
    try:
        rest = word.strip().removeprefix(_PREFIX)
        if not word.strip().startswith(_PREFIX) or not rest.isascii():
            raise ValueError("not a token")
        raw = base64.b64decode(rest + "=" * (-len(rest) % 4), altchars=b"-_", validate=True)
        content, found = raw[:-_SUM_BYTES], raw[-_SUM_BYTES:]
        if found != _sum(content):
            raise ValueError("mistyped")
        about, *tls = json.loads(content[keys.SECRET_BYTES :])
        secret = {keys.NAMENODE: content[: keys.SECRET_BYTES]}
        token = Key(KeyId.from_wire(about), secret, TlsIdentity(*map(str, tls)) if tls else None)
        grant(token.id)
    except (ValueError, TypeError, binascii.Error, errors.InvalidArgument, RecursionError):
        raise errors.InvalidArgument(
            "this is not a whole token: copy all of the word that `dfs join token` printed, which begins with"
            f" {_PREFIX!r}"
        ) from None
    return token


def grant(token: KeyId) -> Grant:
    """What a token may become. Raises `InvalidArgument` for a key that is no token."""
    expires, nonce, role = token.claim("expires") or "", token.claim("nonce") or "", token.claim("grants")
    if token.role != Role.JOIN or not expires.isdecimal() or not nonce or role not in set(Role) - {Role.JOIN}:
        raise errors.InvalidArgument(f"the key of {token} is no token")
    return Grant(Role(role), token.claim("as") or "", token.claim("subtree") or "", int(expires), nonce)


def _sum(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:_SUM_BYTES]
