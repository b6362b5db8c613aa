"""Calls between our own ends, on a simulated network and a virtual clock."""

from __future__ import annotations

import contextlib
import zlib
from typing import Any

import pytest
import structlog.testing
import trio
import trio.testing

from dfs import errors, limits
from dfs.checksum import Buffer
from dfs.rpc import Peer, Pool, Server, Stream, serialize
from dfs.rpc import protocol as wire
from dfs.rpc.buffers import BufferPool
from tests.streams import send_all
from tests.unit.rpc.world import Thing, world

MIB = 1024 * 1024


async def test_plain_and_async_methods_answer() -> None:
    async with world() as here:
        assert await here.call("add", 1, 2) == 3
        assert await here.call("add", 1) == 11
        assert await here.call("add_slowly", 1, 2, 0) == 3
        assert here.pool.statistics().connections_made == 1


async def test_answers_come_in_any_order(autojump_clock: trio.testing.MockClock) -> None:
    async with world(latency_s=0.01) as here:
        finished: list[float] = []

        async def ask(delay_s: float) -> None:
            assert await here.call("add_slowly", 1, 1, delay_s) == 2
            finished.append(delay_s)

        async with trio.open_nursery() as nursery:
            for delay_s in (3.0, 1.0, 2.0):
                nursery.start_soon(ask, delay_s)
        assert finished == [1.0, 2.0, 3.0]


async def test_a_plain_method_that_has_to_wait_holds_nobody_up() -> None:
    async with world() as here:
        answers: list[str] = []

        async def look() -> None:
            answers.append(await here.call("look", False))

        async with trio.open_nursery() as nursery:
            assert await here.call("look", True) == "there"
            nursery.start_soon(look)
            await here.thing.arrived.wait()
            assert await here.call("add", 1, 2) == 3
            assert answers == []
            here.thing.gate.set()
        assert answers == ["opened"]


async def test_a_server_is_told_when_a_peer_has_parted() -> None:
    parted: list[Peer] = []
    async with world(parted=parted.append) as here:
        await here.call("add", 1)
        [peer] = here.server.peers()
        assert parted == []
        assert not peer.has_parted
        here.server.close_connections(lambda _: True)
        await trio.testing.wait_all_tasks_blocked()
        assert parted == [peer]
        assert peer.has_parted


async def test_bytes_travel_both_ways() -> None:
    async with world() as here:
        assert await here.call("hear", "a", data=[b"bytes"]) == ["a", b"bytes", True]
        assert await here.call("hear", "a") == ["a", None, True]
        assert await here.call("hear", "a", data=[b"by", bytearray(b"te"), memoryview(b"s")]) == ["a", b"bytes", True]
        assert await here.call("hear", "a", data=[b""]) == ["a", b"", True]
        result, data = await here.call_with_data("send", 3, 2)
        assert (result, bytes(data or b"")) == (3, b"AABBCC")
        assert await here.call_with_data("add", 1) == (11, None)


@pytest.mark.parametrize("length", [1, 4096, 32 * 1024, 70_000, MIB, 5 * MIB])
async def test_bytes_of_any_size_go_into_the_callers_buffer(length: int) -> None:
    async with world() as here:
        assert await here.call("length", data=[bytes(length)]) == length
        into = memoryview(bytearray(length + 5))
        _, data = await here.call_with_data("send", 1, length, into=into)
        assert data is not None
        assert data.obj is into.obj
        assert bytes(into) == b"A" * length + bytes(5)
        assert here.thing.done == 1


async def test_values_of_any_size_travel() -> None:
    async with world() as here:
        for value in ("x" * 30_000, "x" * 40_000, b"x" * 3_000_000, [[number, None] for number in range(5000)]):
            assert await here.call("echo", value) == value


async def test_more_bytes_than_fit_fail_that_call_only() -> None:
    async with world() as here:
        into = memoryview(bytearray(10))
        with pytest.raises(errors.ProtocolViolation, match="11 bytes where at most 10"):
            await here.call("send", 1, 11, into=into)
        assert bytes(into) == bytes(10)
        assert await here.call("add", 1) == 11
        assert here.pool.statistics().connections_made == 1


@pytest.mark.parametrize("kind", ["NotFound", "NotEmpty", "SessionExpired", "ChunkConflict", "NoSpace"])
async def test_an_error_arrives_as_the_class_it_was(kind: str) -> None:
    async with world() as here:
        with pytest.raises(errors.DfsError, match=f"it is {kind}") as caught:
            await here.call("fail", kind)
        assert type(caught.value).__name__ == kind


async def test_an_error_that_names_what_utf8_cannot_carry_arrives() -> None:
    async with world() as here:
        with pytest.raises(errors.NotFound, match=r"it is gone: a\\udcff"):
            await here.call("fail_with", b"it is gone: a\xff")


async def test_a_bug_is_logged_there_and_not_shown_here() -> None:
    async with world() as here:
        with structlog.testing.capture_logs() as logs, pytest.raises(errors.RemoteFault) as caught:
            await here.call("bug")
        assert "secret" not in str(caught.value)
        assert "thing.bug" in str(caught.value)
        assert [(entry["method"], repr(entry["exc_info"])) for entry in logs] == [("thing.bug", "KeyError('secret')")]


async def test_wrong_arguments_are_told_from_a_bug() -> None:
    async with world() as here:
        with pytest.raises(errors.InvalidArgument, match="missing a required argument: 'left'"):
            await here.call("add")
        with pytest.raises(errors.InvalidArgument, match="too many positional"):
            await here.call("add_slowly", 1, 2, 3, 4)
        with structlog.testing.capture_logs() as logs:
            with pytest.raises(errors.RemoteFault):
                await here.call("inner_type_error")
            with pytest.raises(errors.RemoteFault):
                await here.call("add", 1, "2")
            with pytest.raises(errors.RemoteFault):
                await here.call("return_nonsense")
        assert len(logs) == 3


async def test_what_is_not_exposed_cannot_be_called() -> None:
    async with world() as here:
        for method in ("hidden", "nothing", "__init__", "_sent", "gate"):
            with pytest.raises(errors.NotSupported, match="has no method"):
                await here.call(method)
        with pytest.raises(errors.RemoteFault, match="unknown object"):
            await here.pool.call(here.address, "nobody", "add", 1)


async def test_an_error_about_what_is_very_long_does_not_repeat_all_of_it() -> None:
    async with world() as here:
        with structlog.testing.capture_logs() as logs:
            with pytest.raises(errors.NotSupported, match="has no method") as caught:
                await here.call("\x01" * 7_000_000)
            assert len(str(caught.value)) < 1000
            with pytest.raises(errors.NotFound) as caught_too:
                await here.call("fail_with", b"x" * 3_000_000)
            assert 1000 < len(str(caught_too.value)) < 20_000
            assert await here.call("add", 1) == 11
        assert not logs
        assert here.server.statistics().connections_accepted == 1


async def test_an_answer_that_is_too_large_is_an_error_of_that_call() -> None:
    async with world() as here:
        with structlog.testing.capture_logs(), pytest.raises(errors.RemoteFault, match="over the limit"):
            await here.call("send", 9, MIB)
        assert here.thing.done == 1
        with pytest.raises(errors.ArgumentTooLarge):
            await here.call("length", data=[bytes(MIB)] * 9)
        assert await here.call("add", 1) == 11


async def test_a_batch_ends_when_its_results_are_more_than_one_message_takes() -> None:
    async with world() as here:
        stream = await here.client.connect(here.address, 1)
        await send_all(stream, HELLO)
        calls = serialize.dumps_call("thing", "<batch>", [["repeat", ["word", MIB], {}]] * 100)
        await send_all(stream, wire.encode(wire.INVOKE, wire.FLAG_BATCH, 1, wire.MSGPACK, calls)[0])
        got, view = b"", memoryview(bytearray(4096))
        with trio.fail_after(60):
            while b"make fewer calls in one batch" not in got:
                got += view[: await stream.receive_into(view)]
        assert b"ArgumentTooLarge" in got
        assert len(here.thing.heard) == limits.MESSAGE_MAX_BYTES // MIB
        assert await here.call("add", 1) == 11
        await stream.aclose()


# --- deadlines and cancellation -----------------------------------------------------------------------------


async def test_a_call_without_an_answer_ends_at_its_deadline(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as here:
        started = trio.current_time()
        with pytest.raises(errors.DeadlineExceeded, match=r"thing\.wait at server:9: no answer within 3 s"):
            await here.call("wait", timeout_s=3)
        assert trio.current_time() - started == pytest.approx(3)
        here.thing.gate.set()
        assert await here.call("add", 1) == 11
        assert here.pool.statistics()[:2] == (1, 1)
        assert here.pool.statistics().calls_in_flight == 0


async def test_deadlines_of_many_calls_are_kept_each(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as here:
        ended: dict[float, float] = {}

        async def ask(timeout_s: float) -> None:
            with pytest.raises(errors.DeadlineExceeded):
                await here.call("wait", timeout_s=timeout_s)
            ended[timeout_s] = trio.current_time()

        await here.call("add", 1)
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            for timeout_s in (9.0, 2.0, 5.0, 2.5, 20.0):
                nursery.start_soon(ask, timeout_s)
        assert {timeout_s: round(at - started, 3) for timeout_s, at in ended.items()} == {
            timeout_s: timeout_s for timeout_s in (9.0, 2.0, 5.0, 2.5, 20.0)
        }


async def test_a_cancelled_call_leaves_the_connection_to_others(autojump_clock: trio.testing.MockClock) -> None:
    async with world(latency_s=0.01) as here:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(here.call, "wait")
            await here.thing.arrived.wait()
            nursery.cancel_scope.cancel()
        assert await here.call("add", 1) == 11
        here.thing.gate.set()
        assert await here.call("add", 2) == 12
        await trio.testing.wait_all_tasks_blocked()
        assert here.pool.statistics().connections_made == 1
        assert here.pool.statistics().calls_in_flight == 0


async def test_a_late_answer_is_not_written_into_the_buffer(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as here:
        into = memoryview(bytearray(100_000))
        with pytest.raises(errors.DeadlineExceeded):
            await here.call("send_when_open", 100_000, into=into, timeout_s=1)
        here.thing.gate.set()
        assert await here.call("add", 1) == 11
        assert bytes(into) == bytes(100_000)


@pytest.mark.parametrize("by_deadline", [True, False])
async def test_leaving_while_the_answer_is_received_stops_the_writing(
    autojump_clock: trio.testing.MockClock, by_deadline: bool
) -> None:
    # The network takes 64 KiB at a time, a second each: the answer of 1 MiB is under way for long.
    async with world(capacity_bytes=64 * 1024) as here:
        await here.call("add", 1)
        here.network.set_latency("server", "client", 1.0)
        into = memoryview(bytearray(MIB))
        with trio.move_on_after(1000 if by_deadline else 5.0):
            with pytest.raises(errors.DeadlineExceeded):
                await here.call("send", 1, MIB, into=into, timeout_s=5.0 if by_deadline else 1000)
        written = bytes(into)
        assert 0 < written.count(b"A") < MIB
        assert await here.call("add", 1, timeout_s=100) == 11  # behind the rest of the answer
        assert bytes(into) == written
        assert here.pool.statistics().connections_made == 1


@pytest.mark.parametrize("left_at", [1.0, 2.0, 3.0])
async def test_who_leaves_a_call_leaves_others_their_buffers(
    autojump_clock: trio.testing.MockClock, left_at: float
) -> None:
    """Bytes arrive at whole seconds: who leaves then meets a receiver that is awake, and goes on to the next answer."""
    for _ in range(20):
        async with world(capacity_bytes=64 * 1024) as here:
            await here.call("add", 1)
            here.network.set_latency("server", "client", 1.0)
            into = memoryview(bytearray(MIB))

            async def receive(length: int, into: memoryview, leave_at: float) -> None:
                with trio.move_on_at(leave_at):
                    await here.call("send", 1, length, into=into, timeout_s=1000)

            now = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive, 100_000, memoryview(bytearray(100_000)), now + left_at)
                await trio.sleep(0.001)
                nursery.start_soon(receive, MIB, into, now + left_at + 2.5)
            written = bytes(into)
            assert await here.call("add", 1, timeout_s=1000) == 11
            assert bytes(into) == written


async def test_a_call_cancelled_half_sent_does_not_harm_the_stream(autojump_clock: trio.testing.MockClock) -> None:
    async with world(capacity_bytes=64 * 1024) as here:
        await here.call("add", 1)
        here.network.set_latency("client", "server", 1.0)
        data = bytearray(b"d" * MIB)
        with trio.move_on_after(3.5) as scope:
            await here.call("hear", "word", data=[data], timeout_s=1000)
        assert scope.cancelled_caught
        assert trio.current_time() < 60, "a cancelled call returns at once"
        data[:] = bytes(MIB)  # it is the caller's again
        assert await here.call("add", 5, timeout_s=100) == 15
        assert here.server.statistics().violations == 0
        assert here.server.statistics().calls == 3
        assert here.pool.statistics().connections_made == 1


async def test_a_call_cancelled_before_it_is_sent_is_not_sent(autojump_clock: trio.testing.MockClock) -> None:
    async with world(capacity_bytes=64 * 1024) as here:
        await here.call("add", 1)
        here.network.set_latency("client", "server", 1.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: here.call("length", data=[bytes(MIB)], timeout_s=1000))
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(errors.Unreachable, match="could not be sent"):
                await here.call("note", "never", timeout_s=2)
        assert await here.call("add", 1, timeout_s=100) == 11
        assert here.thing.heard == []


# --- broken connections -------------------------------------------------------------------------------------


async def test_nobody_there_is_unreachable() -> None:
    async with world() as here:
        with pytest.raises(errors.Unreachable, match="nothing listens at server:1"):
            await here.pool.call("server:1", "thing", "add", 1)


async def test_no_answer_to_connecting_is_unreachable(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as here:
        here.network.partition("client", "server")
        with pytest.raises(errors.Unreachable, match="did not answer within 3 s"):
            await here.call("add", 1)
        with pytest.raises(errors.Unreachable, match="could not be sent within 1 s"):
            await here.call("add", 1, timeout_s=1)
        here.network.heal("client", "server")
        assert await here.call("add", 1) == 11


async def test_concurrent_callers_share_one_attempt_and_its_failure(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world(latency_s=0.5) as here:
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as first:

                async def leave() -> None:
                    await trio.sleep(0.1)
                    first.cancel()

                nursery.start_soon(leave)
                for _ in range(5):
                    nursery.start_soon(here.call, "add", 1)
                await here.call("add", 1)
        assert here.pool.statistics().connections_made == 1
        failures: list[errors.Unreachable] = []

        async def fail() -> None:
            with pytest.raises(errors.Unreachable) as caught:
                await here.pool.call("server:1", "thing", "add", 1)
            failures.append(caught.value)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(fail)
        assert len(set(map(id, failures))) == 3


async def test_a_reset_during_a_call_may_have_happened_and_the_next_call_connects_anew() -> None:
    async with world() as here:
        async with trio.open_nursery() as nursery:

            async def lose() -> None:
                with pytest.raises(errors.ConnectionLost, match="reset"):
                    await here.call("wait")

            for _ in range(3):
                nursery.start_soon(lose)
            await here.thing.arrived.wait()
            assert here.network.reset("client", "server") == 1
        assert await here.call("add", 1) == 11
        assert here.pool.statistics()[:2] == (1, 2)


async def test_calls_of_a_client_that_went_away_are_cancelled() -> None:
    async with world() as here:
        with trio.CancelScope() as scope:
            async with Pool(here.client) as pool, trio.open_nursery() as nursery:
                nursery.start_soon(pool.call, here.address, "thing", "wait")
                await here.thing.arrived.wait()
                scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert here.thing.cancelled == 1
        assert here.server.statistics().connections == 0


async def test_a_server_that_fell_silent_is_found_out_and_left(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as here:
        await here.call("add", 1)
        here.network.partition("client", "server")

        async def wait_long() -> None:
            with pytest.raises(errors.ConnectionLost, match="did not answer a ping"):
                await here.call("wait", timeout_s=1000)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_long)
            with pytest.raises(errors.DeadlineExceeded):
                await here.call("add", 1, timeout_s=2)
        assert trio.current_time() < 60
        here.network.heal("client", "server")
        assert await here.call("add", 1) == 11


async def test_a_slow_method_is_not_taken_for_a_dead_server(autojump_clock: trio.testing.MockClock) -> None:
    async with world(latency_s=0.01) as here:
        with pytest.raises(errors.DeadlineExceeded):
            await here.call("add_slowly", 1, 1, 100.0, timeout_s=1)
        assert await here.call("add_slowly", 1, 1, 50.0, timeout_s=60) == 2
        assert here.pool.statistics().connections_made == 1


async def test_closing_the_pool_ends_its_calls() -> None:
    async with world() as here, trio.open_nursery() as nursery:
        pool = Pool(here.client)
        await pool.__aenter__()

        async def ask() -> None:
            with pytest.raises(errors.ConnectionLost, match="the pool was closed"):
                await pool.call(here.address, "thing", "wait")

        nursery.start_soon(ask)
        await here.thing.arrived.wait()
        await pool.__aexit__(None, None, None)


async def test_an_error_in_the_body_of_a_pool_comes_out_as_it_is() -> None:
    async with world() as here:
        with pytest.raises(errors.NotFound):
            async with Pool(here.client) as pool:
                await pool.call(here.address, "thing", "fail", "NotFound")


async def test_a_full_pool_closes_the_connection_idle_for_longest(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "POOL_CONNECTIONS_MAX", 2)
    async with world() as here:
        addresses = [await here.nursery.start(here.server.serve, f"server:{port}") for port in (11, 12, 13)]
        async with Pool(here.client) as pool:
            for address in (*addresses[:2], addresses[0], addresses[2], addresses[0]):
                await pool.call(address, "thing", "add", 1)
                await trio.sleep(1)
            assert pool.statistics()[:2] == (2, 3)


async def test_a_peer_that_takes_nothing_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async with world(capacity_bytes=64 * 1024) as here:
        listener = await here.network.host("server").listen("server:99")

        async def greet_and_stop_reading() -> None:
            stream = await listener.accept()
            await stream.receive_into(memoryview(bytearray(4096)))
            buffers, _ = wire.encode(wire.CONNECT_OK, 0, 0, wire.JSON, b'{"handshake": {"dfs": 1}, "meta": {}}')
            await send_all(stream, buffers)

        here.nursery.start_soon(greet_and_stop_reading)
        with pytest.raises(errors.Unreachable, match="took no byte for 30 s"):
            await here.pool.call_with_data("server:99", "thing", "length", data=[bytes(MIB)], timeout_s=1000)


# --- handshakes ---------------------------------------------------------------------------------------------


async def test_both_ends_see_the_others_handshake() -> None:
    seen: list[tuple[Peer, object]] = []

    def greet(peer: Peer, handshake: object) -> dict[str, Any]:
        seen.append((peer, handshake))
        return {"cluster": "c"}

    async with world(greet=greet, handshake={"host": "h"}) as here:
        await here.call("add", 1)
        await here.call("add", 1)
        [(peer, handshake)] = seen
        assert isinstance(handshake, dict) and handshake["host"] == "h" and handshake is peer.handshake
        assert peer.is_dfs


async def test_a_refused_handshake_says_why() -> None:
    def greet(peer: Peer, handshake: object) -> None:
        raise errors.WrongCluster("you belong to cluster x, this is y")

    async with world(greet=greet) as here:
        for _ in range(2):
            with (
                structlog.testing.capture_logs(),
                pytest.raises(errors.Refused, match="refused the connection: you belong to cluster x"),
            ):
                await here.call("add", 1)


# --- the server's limits and its end ------------------------------------------------------------------------


async def test_calls_over_the_limit_wait_in_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CALLS_IN_FLIGHT_MAX", 3)
    async with world() as here:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(here.call, "wait")
            await here.thing.arrived.wait()
            await trio.testing.wait_all_tasks_blocked()
            assert here.thing.entered == 3
            here.thing.gate.set()
        assert here.thing.entered == 10


async def test_oneway_calls_are_bounded_though_their_connections_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ONEWAY_CALLS_MAX", 12)  # a party has half of it
    call, _ = wire.encode(wire.INVOKE, wire.FLAG_ONEWAY, 1, wire.MSGPACK, serialize.dumps_call("thing", "wait", []))
    async with world() as here:
        for _ in range(10):
            stream = await here.client.connect(here.address, 1)
            await send_all(stream, [*HELLO, *call * 10])
            await trio.testing.wait_all_tasks_blocked()
            await stream.aclose()
        assert here.thing.entered == 6
        other = await here.network.host("other").connect(here.address, 1)
        await send_all(other, [*HELLO, *call])
        await trio.testing.wait_all_tasks_blocked()
        assert here.thing.entered == 7
        here.thing.gate.set()
        while here.thing.entered < 101:
            await trio.lowlevel.checkpoint()
        await other.aclose()


async def test_connections_over_the_limit_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS_MAX", 1)
    async with world() as here:
        await here.call("add", 1)
        async with Pool(here.client) as other:
            with structlog.testing.capture_logs(), pytest.raises(errors.Unreachable):
                await other.call(here.address, "thing", "add", 1)
        assert here.server.statistics().connections_refused == 1


async def test_draining_finishes_calls_and_takes_no_more(autojump_clock: trio.testing.MockClock) -> None:
    async with world(latency_s=0.01) as here:
        results: list[int] = []

        async def ask() -> None:
            results.append(await here.call("add_slowly", 1, 1, 2.0))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(1)
            await here.server.aclose_gracefully(10)
            assert trio.current_time() < 5
        assert results == [2]
        assert here.server.statistics().connections == 0
        with pytest.raises(errors.Unreachable):
            await here.call("add", 1)


async def test_draining_gives_up_on_calls_that_take_too_long(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as here:

        async def ask() -> None:
            with pytest.raises(errors.ConnectionLost):
                await here.call("wait")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await here.thing.arrived.wait()
            await here.server.aclose_gracefully(10)
        assert here.thing.cancelled == 1


async def test_serve_returns_when_drained(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as here:
        server = Server(here.network.host("server"))
        async with trio.open_nursery() as nursery:
            address = await nursery.start(server.serve, "server:77")
            assert await here.pool.call(address, "Pyro.Daemon", "ping") is None
            assert await here.pool.call(address, "Pyro.Daemon", "registered") == ["Pyro.Daemon"]
            assert "bound on server:77" in await here.pool.call(address, "Pyro.Daemon", "info")
            await server.aclose_gracefully(1)


def test_registering_what_cannot_be_served_is_refused() -> None:
    from tests.simulation.network import MemoryNetwork

    server = Server(MemoryNetwork().host("h"))
    with pytest.raises(ValueError, match="exposes no methods"):
        server.register(object(), "x")

    async def register_twice() -> None:
        thing = Thing()
        server.register(thing, "x")
        with pytest.raises(ValueError, match="already"):
            server.register(thing, "x")

    trio.run(register_twice)


async def test_one_busy_client_does_not_starve_the_others() -> None:
    async with world() as here:
        await here.call("add", 1)
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        stream = await here.client.connect(here.address, 1)
        hello, _ = wire.encode(wire.CONNECT, 0, 0, wire.JSON, b'{"handshake": "hi", "object": "thing"}')
        ping, length = wire.encode(wire.PING, 0, 1, wire.MSGPACK, b"")
        await send_all(stream, [*hello, *ping * 2000])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_turns)
            view = memoryview(bytearray(1 << 16))
            got = 0
            while got < 2000 * length:
                got += await stream.receive_into(view)
            nursery.cancel_scope.cancel()
        await stream.aclose()
        assert turns >= 50, "ready messages were handled without letting others run"


# --- strangers ----------------------------------------------------------------------------------------------

HELLO, _ = wire.encode(wire.CONNECT, 0, 0, wire.JSON, b'{"handshake": "hi", "object": "thing"}')


async def end_of(stream: Stream) -> float:
    """Read until the other end closes; when that was."""
    view = memoryview(bytearray(4096))
    try:
        while await stream.receive_into(view):
            pass
    except errors.ConnectionLost:
        pass
    return trio.current_time()


@pytest.mark.parametrize(
    ("sent", "timeout_s"),
    [
        ([], limits.HANDSHAKE_TIMEOUT_S),
        ([b"PYRO"], limits.HANDSHAKE_TIMEOUT_S),
        ([*HELLO, b"PYRO"], limits.MESSAGE_TIMEOUT_S),
        ([*HELLO, wire.encode(wire.INVOKE, 0, 1, 4, b"", [bytes(9000)])[0][0][:5000]], limits.MESSAGE_TIMEOUT_S),
    ],
)
async def test_who_stops_in_the_middle_is_closed(
    autojump_clock: trio.testing.MockClock, sent: list[Buffer], timeout_s: float
) -> None:
    async with world() as here:
        stream = await here.client.connect(here.address, 1)
        started = trio.current_time()
        with structlog.testing.capture_logs() as logs:
            await send_all(stream, sent)
            assert await end_of(stream) - started == pytest.approx(timeout_s, abs=0.1)
        await stream.aclose()
        assert len([entry for entry in logs if entry["log_level"] != "debug"]) == 1
        assert here.server.statistics().connections == 0
        assert here.server.statistics().data_bytes_in_work == 0


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (wire.encode(wire.CONNECT, 0, 0, wire.MSGPACK, bytes(limits.HANDSHAKE_MAX_BYTES + 1))[0], "over the limit"),
        (wire.encode(wire.INVOKE, 0, 0, wire.MSGPACK, bytes(MIB))[0], "over the limit"),
        (wire.encode(wire.INVOKE, 0, 0, wire.MSGPACK, b"", [bytes(MIB)])[0], "no handshake"),
        (wire.encode(wire.CONNECT, wire.FLAG_COMPRESSED, 0, wire.JSON, zlib.compress(b"[]"))[0], "compressed"),
    ],
)
async def test_who_has_not_greeted_gets_no_memory_and_no_time(
    autojump_clock: trio.testing.MockClock, first: list[Buffer], why: str
) -> None:
    async with world() as here:
        stream = await here.client.connect(here.address, 1)
        started = trio.current_time()
        with structlog.testing.capture_logs() as logs:
            with contextlib.suppress(errors.ConnectionLost):
                await send_all(stream, first)
            assert await end_of(stream) < started + 1
        await stream.aclose()
        assert [entry for entry in logs if why in entry.get("reason", "")]
        assert await here.call("add", 1) == 11


async def test_strangers_who_talk_nonsense_are_logged_once_a_second(autojump_clock: trio.testing.MockClock) -> None:
    async def talk_nonsense() -> None:
        stream = await here.client.connect(here.address, 1)
        await send_all(stream, [b"GET / HTTP/1.1 and so on, and so on.\r\n\r\n"])
        await end_of(stream)
        await stream.aclose()

    async with world() as here:
        with structlog.testing.capture_logs() as logs:
            for _ in range(5):
                await talk_nonsense()
            await trio.sleep(limits.STRANGERS_LOG_PERIOD_S)
            await talk_nonsense()
        assert [entry["others"] for entry in logs if "violation" in entry["event"]] == [0, 4]
        assert here.server.statistics().violations == 6


async def test_a_bug_that_strangers_find_shows_its_traceback_once(autojump_clock: trio.testing.MockClock) -> None:
    def greet(peer: Peer, handshake: object) -> None:
        raise RuntimeError("a bug")

    async with world(greet=greet) as here:
        with structlog.testing.capture_logs() as logs:
            for _ in range(5):
                stream = await here.client.connect(here.address, 1)
                await send_all(stream, HELLO)
                await end_of(stream)
                await stream.aclose()
        assert [entry["event"] for entry in logs if "exc_info" in entry] == ["handshake failed"]
        assert [entry["others"] for entry in logs if entry["event"] == "handshake refused"] == [0]
        assert here.server.statistics().handshakes_refused == 5


@pytest.mark.parametrize("method", ["send_when_open", "send_at_once"])
async def test_who_takes_an_answer_byte_by_byte_does_not_keep_it_for_ever(
    autojump_clock: trio.testing.MockClock, method: str
) -> None:
    async with world(capacity_bytes=64 * 1024) as here:
        here.thing.gate.set()
        stream = await here.client.connect(here.address, 1)
        call, _ = wire.encode(wire.INVOKE, 0, 1, wire.MSGPACK, serialize.dumps_call("thing", method, [MIB]))
        await send_all(stream, [*HELLO, *call])
        started = trio.current_time()
        view = memoryview(bytearray(1))
        while not here.thing.done:
            await stream.receive_into(view)
            await trio.sleep(1)
        assert trio.current_time() - started == pytest.approx(limits.MESSAGE_TIMEOUT_S, abs=2)
        await end_of(stream)
        await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert here.server.statistics().connections == 0


async def test_an_idle_connection_may_stay(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as here:
        assert await here.call("add", 1) == 11
        await trio.sleep(80_000)
        assert await here.call("add", 1) == 11
        assert here.pool.statistics().connections_made == 1


@pytest.mark.parametrize("as_data", [True, False])
async def test_bytes_in_work_are_bounded_for_all_connections_together(
    monkeypatch: pytest.MonkeyPatch, as_data: bool
) -> None:
    async with world() as here:
        pool = "_buffers" if as_data else "_payloads"
        monkeypatch.setattr(here.server, pool, BufferPool(lent_max_bytes=6 * MIB))  # a third for one
        here.thing.gate = trio.Event()

        async def keep() -> None:
            await (here.call("keep", data=[bytes(MIB)]) if as_data else here.call("keep_value", bytes(MIB - 100)))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(keep)
            await trio.testing.wait_all_tasks_blocked()
            assert here.server.statistics().data_bytes_in_work == 2 * MIB
            assert here.thing.entered == 2
            here.thing.gate.set()
        assert here.thing.entered == 5
        assert here.server.statistics().data_bytes_in_work == 0
