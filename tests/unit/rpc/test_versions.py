"""Two ends of different releases: which version they speak, and what is said when there is none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog
import trio

from dfs import errors
from dfs.keys import NAMENODE, Masters, Role
from dfs.release import RELEASE
from dfs.rpc import SPOKEN, Gate, Versions, serialize
from dfs.rpc import protocol as wire
from dfs.rpc.network import Stream
from tests.streams import send_all
from tests.unit.rpc.world import World, world

MASTERS = Masters.make()
KEY = MASTERS.issue(Role.CLIENT, "c")


def gate() -> Gate:
    return Gate(NAMENODE, "thing", MASTERS, lambda: 1e9)


def test_a_release_speaks_its_version_and_the_one_before() -> None:
    assert SPOKEN.oldest == max(1, SPOKEN.newest - 1)


@pytest.mark.parametrize("with_keys", [False, True])
@pytest.mark.parametrize(
    ("server", "client", "spoken"),
    [
        (Versions(1, 2), Versions(1, 2), 2),
        (Versions(2, 3), Versions(1, 2), 2),
        (Versions(1, 2), Versions(2, 3), 2),
        (Versions(1, 1), Versions(1, 2), 1),
        (Versions(3, 9), Versions(1, 5), 5),
    ],
)
async def test_both_ends_speak_the_highest_version_that_both_know(
    server: Versions, client: Versions, spoken: int, with_keys: bool
) -> None:
    key, gate_ = (KEY, gate()) if with_keys else (None, None)
    async with world(server_speaks=server, client_speaks=client, key=key, gate=gate_) as here:
        assert await here.pool.version(here.address, "thing") == spoken
        assert await here.call("version") == spoken
        assert here.pool.statistics().connections_made == 1


@pytest.mark.parametrize(
    ("server", "client", "behind", "spoken"),
    [
        (Versions(3, 4), Versions(1, 2), "client", "speaks versions 1 to 2 .* speaks versions 3 to 4"),
        (Versions(1, 1), Versions(2, 3), "server", "speaks versions 2 to 3 .* speaks version 1"),
    ],
)
async def test_further_apart_is_refused_with_both_releases_and_what_to_upgrade(
    server: Versions, client: Versions, behind: str, spoken: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(server_speaks=server, client_speaks=client, key=KEY, gate=gate()) as here:
        with structlog.testing.capture_logs() as logs, pytest.raises(errors.Refused, match=spoken) as caught:
            await here.call("add", 1)
        assert str(caught.value).count(f"dfs {RELEASE}") == 2
        assert str(caught.value).endswith(f"upgrade the {behind}")
        [line] = [line for line in logs if line["event"] == "handshake refused"]
        assert f"upgrade the {behind}" in line["reason"]  # whoever runs the server is told as well


@pytest.mark.parametrize(
    "said",
    [
        {"dfs": "1"},
        {"dfs": True},
        {"dfs": None},
        {"dfs": 0},
        {"dfs": -1},
        {"dfs": 2**40, "dfs_oldest": 1},
        {"dfs": 1, "dfs_oldest": 2},
        {"dfs": 1, "dfs_oldest": 0},
        {"dfs": 1, "dfs_oldest": 0.5},
        {"dfs": [1, 2]},
    ],
)
async def test_versions_that_make_no_sense_are_refused(said: dict[str, Any]) -> None:
    async with world(handshake=said) as here:
        with structlog.testing.capture_logs(), pytest.raises(errors.Refused, match="makes no sense"):
            await here.call("add", 1)


@pytest.mark.parametrize("release", ["x" * 1000, "1\n2", 7, b"1", None])
async def test_what_a_peer_calls_itself_is_not_repeated_when_it_is_no_release(release: object) -> None:
    async with world(handshake={"dfs": 9, "dfs_oldest": 9, "release": release}) as here:
        with structlog.testing.capture_logs(), pytest.raises(errors.Refused, match="unknown release of dfs and speaks"):
            await here.call("add", 1)


@pytest.mark.parametrize("version", [9, "1", 1.5, [1]])
async def test_a_server_that_chooses_what_was_not_offered_is_not_spoken_to(version: object) -> None:
    async with world() as here:
        listener = await here.network.host("server").listen("server:77")

        async def greet() -> None:
            stream = await listener.accept()
            await stream.receive_into(memoryview(bytearray(4096)))
            said = {"handshake": {"dfs": version, "release": "9.1"}, "meta": {}}
            buffers, _ = wire.encode(wire.CONNECT_OK, 0, 0, wire.MSGPACK, serialize.dumps(wire.MSGPACK, said))
            await send_all(stream, buffers)

        here.nursery.start_soon(greet)
        with pytest.raises(errors.ProtocolViolation, match=r"dfs 9\.1 and answers in a version"):
            await here.pool.call("server:77", "thing", "add", 1)


# --- somebody in the middle -----------------------------------------------------------------------------------

Change = Callable[[dict[str, Any]], None]


@asynccontextmanager
async def man_in_the_middle(here: World, number: int, change: Change) -> AsyncIterator[str]:
    """An address that leads to the server, where somebody changes what the message of this number says.

    Messages of the handshake: 0 hello, 1 challenge, 2 proof, 3 greeting.
    """
    listener = await here.network.host("middle").listen("middle:1")

    async def forward(source: Stream, target: Stream, numbers: range) -> None:
        decoder = wire.Decoder()
        for at in numbers:
            while not isinstance(message := decoder.next(), wire.Message):
                count = await source.receive_into(decoder.space())
                if not count:
                    await target.aclose()
                    return
                decoder.received(count)
            await send_all(target, wire.encode(message.kind, 0, 0, wire.MSGPACK, altered(message, at))[0])
        while count := await source.receive_into(decoder.space()):
            await send_all(target, [bytes(decoder.space()[:count])])

    def altered(message: wire.Message, at: int) -> bytes:
        assert message.payload is not None
        tree = serialize.loads(message.serializer, message.payload)
        if at == number:
            change(tree["handshake"])
        return serialize.dumps(wire.MSGPACK, tree)

    async def stand_between() -> None:
        client = await listener.accept()
        server = await here.network.host("middle").connect(here.address, 1.0)
        here.nursery.start_soon(forward, client, server, range(0, 4, 2))
        here.nursery.start_soon(forward, server, client, range(1, 4, 2))

    here.nursery.start_soon(stand_between)
    yield listener.address


def say_older(said: dict[str, Any]) -> None:
    said["dfs"] = 1


async def test_somebody_in_the_middle_who_changes_nothing_is_not_noticed() -> None:
    speaks = Versions(1, 2)
    async with (
        world(server_speaks=speaks, client_speaks=speaks, key=KEY, gate=gate()) as here,
        man_in_the_middle(here, 0, lambda said: None) as address,
    ):
        assert await here.pool.call(address, "thing", "version") == 2


@pytest.mark.parametrize("number", [0, 1])
async def test_nobody_in_the_middle_can_have_two_new_ends_speak_an_old_version(
    number: int, autojump_clock: trio.testing.MockClock
) -> None:
    speaks = Versions(1, 2)
    async with (
        world(server_speaks=speaks, client_speaks=speaks, key=KEY, gate=gate()) as here,
        man_in_the_middle(here, number, say_older) as address,
    ):
        with structlog.testing.capture_logs(), pytest.raises(errors.Refused, match="not of this cluster"):
            await here.pool.call(address, "thing", "version")


async def test_what_the_last_message_says_of_versions_counts_for_nothing() -> None:
    """The proofs do not cover it: the version is that of the challenge."""
    speaks = Versions(1, 2)
    async with (
        world(server_speaks=speaks, client_speaks=speaks, key=KEY, gate=gate()) as here,
        man_in_the_middle(here, 3, say_older) as address,
    ):
        assert await here.pool.version(address, "thing") == 2
