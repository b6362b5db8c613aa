"""What is sealed is for one receiver: who listens, who stands between, and who learns the secret later have nothing."""

from __future__ import annotations

import pytest

from dfs import errors, limits
from dfs.sealing import PUBLIC_BYTES, Receiver, seal

SECRET, OTHER = b"s" * 32, b"o" * 32
TEXT = "a key file, ä\n" * 50


def test_the_receiver_reads_it() -> None:
    receiver = Receiver()
    sealed = seal(TEXT, receiver.public, SECRET, "join")
    assert receiver.open(sealed, SECRET, "join") == TEXT
    assert TEXT[:10].encode() not in sealed


def test_who_recorded_all_and_learns_the_secret_later_reads_nothing() -> None:
    receiver = Receiver()
    sealed = seal(TEXT, receiver.public, SECRET, "join")
    listener = Receiver()
    listener.public = receiver.public  # the half that he saw
    with pytest.raises(errors.NotPermitted):
        listener.open(sealed, SECRET, "join")


def test_who_stands_between_without_the_secret_is_not_believed() -> None:
    receiver = Receiver()
    forged = seal("my own key file", receiver.public, OTHER, "join")
    with pytest.raises(errors.NotPermitted, match="nothing of it was used"):
        receiver.open(forged, SECRET, "join")


def test_who_puts_his_own_half_into_the_request_reads_nothing() -> None:
    middle = Receiver()
    sealed = seal(TEXT, middle.public, SECRET, "join")
    with pytest.raises(errors.NotPermitted):
        middle.open(sealed, OTHER, "join")
    with pytest.raises(errors.NotPermitted):
        Receiver().open(sealed, SECRET, "join")


def test_kinds_of_messages_are_kept_apart() -> None:
    receiver = Receiver()
    with pytest.raises(errors.NotPermitted):
        receiver.open(seal(TEXT, receiver.public, SECRET, "renew"), SECRET, "join")


def test_a_change_of_any_byte_is_noticed() -> None:
    receiver = Receiver()
    sealed = seal("short", receiver.public, SECRET, "join")
    changed = [bytes([*sealed[:at], sealed[at] ^ 1, *sealed[at + 1 :]]) for at in range(len(sealed))]
    for bad in (*changed, sealed[:-1], sealed + b"x", sealed[:PUBLIC_BYTES], b"", None, "text"):
        with pytest.raises(errors.NotPermitted):
            receiver.open(bad, SECRET, "join")


@pytest.mark.parametrize("public", [None, "x" * 32, b"", b"x" * 31, b"x" * 33, bytes(32), [1] * 32])
def test_what_is_no_half_of_a_pair_is_refused(public: object) -> None:
    """Of 32 zeros too: what comes of it would be known to everybody."""
    with pytest.raises(errors.InvalidArgument):
        seal(TEXT, public, SECRET, "join")


def test_a_text_has_a_bound() -> None:
    with pytest.raises(errors.ArgumentTooLarge):
        seal("x" * (limits.SEALED_MAX_BYTES + 1), Receiver().public, SECRET, "join")
