"""Sealing: a text for one receiver, who shares a secret with the sender, on a line that others may read and change.

Both ends make an X25519 key pair for this one message; the receiver sends its public half with the request.

    key = HKDF-SHA-256(X25519(the pairs), salt = the shared secret,
                       info = "dfs seal 1 " context NUL receiver's public half | sender's public half), 32 bytes
    sealed = sender's public half | ChaCha20-Poly1305(key, nonce of zeros, text)

(RFC 7748, 5869, 8439; a key serves once, so its nonce may be constant.) Who listens sees nothing, also when the shared
secret becomes known later, since the pairs are gone by then; who stands between the ends without the secret can neither
read the text nor put another in its place. The context keeps messages of different kinds apart.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from dfs import errors, limits

PUBLIC_BYTES: Final = 32
_KEY_BYTES: Final = 32
_NONCE: Final = bytes(12)


class Receiver:
    """One message's receiver: `public` goes with the request, `open` takes the answer."""

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()
        self.public = self._private.public_key().public_bytes_raw()

    def open(self, sealed: object, secret: bytes, context: str) -> str:
        """The text. Raises `NotPermitted` for what was not sealed for us, with this secret, in this context."""
        try:
            if not isinstance(sealed, bytes):
                raise ValueError("not bytes")
            theirs, locked = sealed[:PUBLIC_BYTES], sealed[PUBLIC_BYTES:]
            shared = self._private.exchange(X25519PublicKey.from_public_bytes(theirs))
            key = _key(shared, secret, context, self.public, theirs)
            return ChaCha20Poly1305(key).decrypt(_NONCE, locked, None).decode()
        except (InvalidTag, ValueError):
            raise errors.NotPermitted(
                "the answer was changed on the way, or is from who does not know our key: nothing of it was used"
            ) from None


def seal(text: str, public: object, secret: bytes, context: str) -> bytes:
    """Seal for the receiver with this public half. Raises `InvalidArgument` for what is none."""
    if len(text.encode()) > limits.SEALED_MAX_BYTES:
        raise errors.ArgumentTooLarge(f"what is sealed has more than {limits.SEALED_MAX_BYTES} bytes")
    pair = X25519PrivateKey.generate()
    ours = pair.public_key().public_bytes_raw()
    try:
        if not isinstance(public, bytes):
            raise ValueError("not bytes")
        shared = pair.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise errors.InvalidArgument(f"a receiver says {PUBLIC_BYTES} bytes, half of an X25519 pair") from None
    return ours + ChaCha20Poly1305(_key(shared, secret, context, public, ours)).encrypt(_NONCE, text.encode(), None)


def _key(shared: bytes, secret: bytes, context: str, receiver: bytes, sender: bytes) -> bytes:
    info = b"dfs seal 1 " + context.encode() + b"\0" + receiver + sender
    return HKDF(SHA256(), _KEY_BYTES, salt=secret, info=info).derive(shared)
