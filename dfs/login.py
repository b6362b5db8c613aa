"""How a stock Pyro5 proxy shows that it has a key: with one message, which counts once and for a short time.

    proxy._pyroHandshake = dfs.login.stock_login(dfs.keys.load_key(file), "dfs.namenode")     # for one connection

The login names the key, the time and a nonce, with an HMAC-SHA-256 of these and of the object it is meant for, under
the key's secret in that object's realm. What daemons make of it is said in `dfs.rpc.authentication`.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from typing import Any, Final

from dfs.keys import DATANODE, NAMENODE, Key

NONCE_BYTES: Final = 16


def stock_login(key: Key, object_id: str, now_s: float | None = None) -> dict[str, Any]:
    """A handshake for one connection to the daemon of an object, as "dfs.namenode" or "dfs.datanode.n1".

    `now_s`: seconds since 1970, if it is not to be this machine's clock.
    """
    realm = NAMENODE if object_id == "dfs.namenode" else DATANODE
    time_s, nonce = time.time() if now_s is None else now_s, secrets.token_hex(NONCE_BYTES)
    said = proof(key.secrets[realm], object_id, time_s, nonce)
    return {"key": key.id.to_wire(), "time": time_s, "nonce": nonce, "proof": said}


def proof(secret: bytes, object_id: str, time_s: float, nonce: str) -> str:
    """What only who has the secret can say of an object, a time and a nonce."""
    return hmac.digest(secret, f"dfs login 1 {object_id} {float(time_s)!r} {nonce}".encode(), hashlib.sha256).hex()
