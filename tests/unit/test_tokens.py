"""Tokens are words to paste: what was mistyped is recognised, and nothing of one can be changed."""

from __future__ import annotations

import base64
import hashlib

import pytest

from dfs import certificates, errors, keys, tokens
from dfs.keys import KeyId, Masters, Role

MASTERS = Masters.make()


def made(role: Role = Role.CLIENT, name: str = "", subtree: str = "") -> str:
    return tokens.issue(MASTERS, role, name, subtree, 2_000_000_000)


def test_a_token_says_what_it_may_become_and_proves_that_the_cluster_made_it() -> None:
    word = made(Role.READER, "bob", "/photos/ä")
    token = tokens.parse(f"  {word}\n")
    found = tokens.grant(token.id)
    assert (found.role, found.name, found.subtree, found.expires_s) == (Role.READER, "bob", "/photos/ä", 2_000_000_000)
    assert token.secrets == {keys.NAMENODE: MASTERS.secret(keys.NAMENODE, token.id)}
    assert len(word) < 300 and word.isascii() and not set(word) & set(" /+=")


def test_with_tls_a_token_has_a_certificate_and_is_still_one_line_of_a_terminal() -> None:
    """Of 4095 letters: more a terminal does not take."""
    cluster = keys.make_cluster(tls=True)
    word = tokens.issue(cluster.masters, Role.NODE, "n" * 64, "", 2_000_000_000, cluster.authority)
    found = tokens.parse(word).tls
    assert found is not None and cluster.tls is not None and found.authority == cluster.tls.authority
    assert certificates.read(found.certificate).holder == "join:token"
    assert len(word) < 4000


def test_no_two_tokens_are_the_same() -> None:
    assert made() != made()
    assert tokens.parse(made()).secrets != tokens.parse(made()).secrets


def test_every_mistyped_letter_and_every_cut_is_recognised() -> None:
    word = made()
    wrong = [word[:at] + ("a" if word[at] != "a" else "b") + word[at + 1 :] for at in range(len(word) - 1)]
    wrong += [word[:end] for end in range(len(word))] + [word + "A" * 4, word.upper(), "", "dfsjoin_", "dfsjoin_é"]
    for bad in wrong:
        with pytest.raises(errors.InvalidArgument, match="not a whole token"):
            tokens.parse(bad)


def test_a_token_with_other_claims_has_another_secret() -> None:
    """Who knows how tokens are written can make a word of anything, and it proves nothing."""
    token = tokens.parse(made(Role.READER))
    raised = KeyId(
        token.id.generation,
        token.id.role,
        token.id.name,
        tuple((name, "admin" if name == "grants" else value) for name, value in token.id.claims),
    )
    forged = tokens.parse(tokens.text(token._replace(id=raised)))
    assert tokens.grant(forged.id).role == Role.ADMIN
    assert forged.secrets[keys.NAMENODE] != MASTERS.secret(keys.NAMENODE, raised)


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"grants": "client", "expires": "10"},
        {"grants": "client", "nonce": "x"},
        {"grants": "join", "expires": "10", "nonce": "x"},
        {"grants": "root", "expires": "10", "nonce": "x"},
        {"grants": "client", "expires": "-1", "nonce": "x"},
    ],
)
def test_what_lacks_a_claim_is_no_token(claims: dict[str, str]) -> None:
    key = MASTERS.issue(Role.JOIN, "token", claims)
    with pytest.raises(errors.InvalidArgument, match="is no token"):
        tokens.grant(key.id)


def test_other_keys_are_no_tokens() -> None:
    claims = {"grants": "admin", "expires": "2000000000", "nonce": "x"}
    with pytest.raises(errors.InvalidArgument, match="is no token"):
        tokens.grant(MASTERS.issue(Role.CLIENT, "alice", claims).id)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{}", b"", b"\xff", b"[1,2,3,4,5,6]"])
def test_a_word_with_a_right_checksum_around_nonsense_is_refused(content: bytes) -> None:
    raw = bytes(keys.SECRET_BYTES) + content
    word = "dfsjoin_" + base64.urlsafe_b64encode(raw + hashlib.sha256(raw).digest()[:4]).decode()
    with pytest.raises(errors.InvalidArgument, match="not a whole token"):
        tokens.parse(word)
