"""Group commit: many callers, few transactions, and all or nothing when the disk fails."""

from __future__ import annotations

import itertools
import math
import sqlite3
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Any, TypeVar, TypeVarTuple

import pytest
import trio
import trio.testing

from dfs import errors, limits
from dfs.types import ROOT_INO, Ino, SessionId
from nodes.namenode import collector
from nodes.namenode.commands import truncate
from nodes.namenode.leases import Leases
from nodes.namenode.machine import Unfinished
from nodes.namenode.sessions import Sessions
from nodes.namenode.writer import Writer
from tests.simulation.disk import InlineRuntime
from tests.unit.namenode.world import NODES, Namespace

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

CLIENT = "client"
_PATIENCE_S = 20


@pytest.fixture(autouse=True)
def _time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is: a transaction takes all that there is."""
    monkeypatch.setattr(limits, "TRANSACTION_MAX_S", math.inf)


class Gate(InlineRuntime):
    """A runtime whose disk waits while `closed`, and which notes how often it was asked to commit."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = trio.Event()
        self.opened.set()
        self.commits = 0

    def close(self) -> None:
        self.opened = trio.Event()

    async def run_blocking(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        self.commits += 1
        await self.opened.wait()
        return await super().run_blocking(work, *args)


@asynccontextmanager
async def writing(
    space: Namespace, runtime: Gate, reserve_bytes: int = 0, leases: Leases | None = None
) -> AsyncIterator[Writer]:
    writer = Writer(space.store, runtime, reserve_bytes, leases or Leases())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        yield writer
        nursery.cancel_scope.cancel()


def mkdir(seq: int, name: bytes) -> list[Any]:
    return [seq, "mkdir", [ROOT_INO, name, 0o755, 0, 0]]


async def test_commands_that_come_while_the_disk_works_share_the_next_commit(space: Namespace) -> None:
    sessions = [SessionId(space.open_session()) for _ in range(20)]
    runtime = Gate()
    async with writing(space, runtime) as writer:
        runtime.close()
        async with trio.open_nursery() as nursery:
            for session in sessions:
                nursery.start_soon(writer.apply, CLIENT, session, 0, [mkdir(1, b"%d" % session)])
                await trio.testing.wait_all_tasks_blocked()
            assert space.queries.readdir(ROOT_INO, 0, 100) == []  # nothing is shown before it is durable
            runtime.opened.set()
    assert len(space.queries.readdir(ROOT_INO, 0, 100)) == 20
    assert runtime.commits == 2
    found = writer.statistics()
    assert (found["commands"], found["commits"], found["queued"], found["held_back"]) == (20, 2, 0, 0)


async def test_nobody_is_answered_before_the_commit(space: Namespace) -> None:
    session = SessionId(space.open_session())
    runtime = Gate()
    async with writing(space, runtime) as writer:
        runtime.close()
        with trio.move_on_after(0):
            await writer.apply(CLIENT, session, 0, [mkdir(1, b"d")])
            pytest.fail("answered")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.apply, CLIENT, session, 0, [mkdir(1, b"d")])
            await trio.testing.wait_all_tasks_blocked()
            assert space.queries.readdir(ROOT_INO, 0, 1) == []
            runtime.opened.set()
    assert len(space.queries.readdir(ROOT_INO, 0, 9)) == 1


async def test_a_batch_is_answered_in_its_order_with_its_errors(space: Namespace) -> None:
    session = SessionId(space.open_session())
    async with writing(space, Gate()) as writer:
        replies = await writer.apply(CLIENT, session, 0, [mkdir(1, b"a"), mkdir(2, b"a"), mkdir(3, b"b")])
        assert [reply[0] for reply in replies] == [0, errors.Exists.default_errno, 0]
        with pytest.raises(errors.SessionExpired):
            await writer.apply_planned(CLIENT, SessionId(99), 0, 1, "allocate_chunks", 1, [["n1"]])


async def test_chunks_that_are_asked_for_twice_are_given_once(space: Namespace) -> None:
    space.register("n1", "n2")
    session = SessionId(space.open_session())
    async with writing(space, Gate()) as writer:
        first = await writer.apply_planned(CLIENT, session, 0, 1, "allocate_chunks", 1, [["n1"]])
        assert not space.queries.is_answered(session, 2)
        assert space.queries.is_answered(session, 1)
        assert await writer.apply_planned(CLIENT, session, 0, 1, "allocate_chunks", 1, [["n2"]]) == first
    assert [chunk[0] for chunk in space.queries.chunks(0, 10)] == [first[0][0]]


async def test_a_full_disk_fails_all_that_shared_the_transaction_and_leaves_nothing(space: Namespace) -> None:
    session = SessionId(space.open_session())
    before = space.dump()
    pages = space.store.writing.execute("PRAGMA page_count").fetchone()[0]
    space.store.writing.execute(f"PRAGMA max_page_count = {pages + 10}")
    large = [[seq, "setxattr", [ROOT_INO, b"%d" % seq, bytes(60_000)]] for seq in range(2, 10)]
    failed: list[str] = []

    async def expect_no_space(writer: Writer, *args: Any) -> None:
        with pytest.raises(errors.NoSpace):
            await writer.apply(CLIENT, *args)
        failed.append(str(args[1]))

    async with writing(space, Gate()) as writer:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_no_space, writer, session, 0, [mkdir(1, b"d")])
            nursery.start_soon(expect_no_space, writer, session, 0, large)
        assert len(failed) == 2
        assert space.dump() == before
        space.store.writing.execute("PRAGMA max_page_count = 1000000")
        reply = (await writer.apply(CLIENT, session, 0, [mkdir(1, b"d")]))[0]
        assert reply[0] == 0
    space.machine.forget()
    assert space.findings() == []


async def test_a_disk_that_fails_at_the_commit_fails_the_transaction_and_not_the_next(
    space: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = SessionId(space.open_session())
    before = space.dump()
    commit = space.store.commit

    def failing() -> None:
        monkeypatch.setattr(space.store, "commit", commit)
        raise errors.DiskFailed("the disk went away")

    monkeypatch.setattr(space.store, "commit", failing)
    async with writing(space, Gate()) as writer:
        with pytest.raises(errors.DiskFailed):
            await writer.apply(CLIENT, session, 0, [mkdir(1, b"d")])
        assert space.dump() == before
        assert (await writer.apply(CLIENT, session, 0, [mkdir(1, b"d")]))[0][0] == 0
    assert space.findings() == []


async def test_more_than_may_wait_is_refused_as_busy(space: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "COMMAND_QUEUE_MAX", 9)  # a session alone has a third
    session = SessionId(space.open_session())
    runtime = Gate()
    async with writing(space, runtime) as writer:
        runtime.close()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.apply, CLIENT, session, 0, [mkdir(1, b"a")])
            await trio.testing.wait_all_tasks_blocked()  # this one is at the disk
            nursery.start_soon(writer.apply, CLIENT, session, 0, [mkdir(2, b"b"), mkdir(3, b"c")])
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(errors.Busy):
                await writer.apply(CLIENT, session, 0, [mkdir(4, b"d")])
            runtime.opened.set()
    assert [name for _, name, _ in space.queries.readdir(ROOT_INO, 0, 9)] == [b"a", b"b", b"c"]


def holds(first: int, last: int) -> list[Any]:
    return [[seq, "hold", [ROOT_INO]] for seq in range(first, last + 1)]


async def test_who_leaves_more_replies_than_are_kept_has_to_acknowledge_some_first(
    space: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REPLIES_KEPT_MAX", 100)
    session = SessionId(space.open_session())
    async with writing(space, Gate(), reserve_bytes=2**62) as writer:
        assert len(await writer.apply(CLIENT, session, 0, holds(1, 100))) == 100
        with pytest.raises(errors.Busy, match="not acknowledged"):
            await writer.apply(CLIENT, session, 0, holds(101, 101))
        with pytest.raises(errors.Busy):
            await writer.apply(CLIENT, session, 70, holds(161, 171))
        assert space.rows("SELECT count FROM hold") == [100], "all of a batch is refused, or nothing"
        assert len(await writer.apply(CLIENT, session, 70, holds(101, 170))) == 70
        assert space.rows("SELECT count(*) FROM reply") == [101]


async def test_who_is_to_give_up_what_others_wait_for_may_leave_twice_as_many_replies(
    space: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REPLIES_KEPT_MAX", 10)
    session, other = SessionId(space.open_session()), SessionId(space.open_session())
    asked = Asked()
    asked.leases.join(session)
    assert asked.leases.cover_attr(session, ROOT_INO)
    async with writing(space, Gate(), leases=asked.leases) as writer:
        with pytest.raises(errors.Busy):
            await writer.apply(CLIENT, session, 0, holds(1, 11))
        asked.leases.begin(other, [(ROOT_INO, None)])
        assert len(await writer.apply(CLIENT, session, 0, holds(1, 20))) == 20
        with pytest.raises(errors.Busy):
            await writer.apply(CLIENT, session, 0, holds(21, 21))


async def test_a_nearly_full_disk_takes_what_frees_space_and_what_the_namenode_itself_needs(space: Namespace) -> None:
    session = SessionId(space.open_session())
    space.file(session)
    async with writing(space, Gate(), reserve_bytes=2**62) as writer:
        replies = await writer.apply(CLIENT, session, 0, [mkdir(2, b"d"), [3, "unlink", [ROOT_INO, b"file"]]])
        assert [reply[0] for reply in replies] == [errors.NoSpace.default_errno, 0]
        await writer.decide("end_session", session)


async def test_the_writer_finishes_what_it_began_when_it_is_stopped(space: Namespace) -> None:
    session = SessionId(space.open_session())
    runtime = Gate()
    writer = Writer(space.store, runtime, 0, Leases())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        runtime.close()
        nursery.start_soon(writer.apply, CLIENT, session, 0, [mkdir(1, b"d")])
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        runtime.opened.set()
    assert len(space.queries.readdir(ROOT_INO, 0, 9)) == 1


async def test_the_collector_outlives_a_disk_that_is_full_for_a_while(
    space: Namespace, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    session = space.open_session()
    ino = space.file(session).ino
    chunk = space.written(session, ino, 100)
    space.do(session, "seal", [chunk])
    space.do(session, "truncate", ino, 50)
    space.damage("UPDATE trim SET due_ns = 0")
    commit = space.store.commit

    def full() -> None:
        raise errors.NoSpace("full")

    monkeypatch.setattr(space.store, "commit", full)
    async with writing(space, Gate()) as writer, trio.open_nursery() as nursery:
        nursery.start_soon(collector.run, writer, 1.0)
        await trio.sleep(5)
        assert space.rows("SELECT count(*) FROM trim") == [1]
        monkeypatch.setattr(space.store, "commit", commit)
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert space.rows("SELECT count(*) FROM trim") == [0]


async def flood(space: Namespace, writer: Writer, sessions: list[SessionId], nursery: trio.Nursery) -> None:
    """Full batches of these sessions, in turn, until one is refused. They are one party's."""
    for seq in itertools.count(1, limits.BATCH_MAX_COMMANDS):
        for session in sessions:
            batch = [[number, "rmdir", [ROOT_INO, b"none"]] for number in range(seq, seq + limits.BATCH_MAX_COMMANDS)]
            try:
                writer.check_room("flooder", session, len(batch))
            except errors.Busy:
                return
            nursery.start_soon(writer.apply, "flooder", session, 0, batch)
            await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("sessions", [1, 20])
async def test_a_flood_of_one_party_delays_another_by_one_turn_whatever_its_sessions(
    space: Namespace, sessions: int
) -> None:
    flooders = [SessionId(space.open_session()) for _ in range(sessions)]
    other = SessionId(space.open_session())
    runtime = Gate()
    async with writing(space, runtime) as writer, trio.open_nursery() as nursery:
        runtime.close()
        await flood(space, writer, flooders, nursery)
        before = writer.statistics()["commands"]
        runtime.opened.set()
        for seq in range(1, 4):
            ((errno, *_),) = await writer.apply("other", other, 0, [mkdir(seq, b"%d" % seq)])
            assert errno == 0
            flooded = writer.statistics()["commands"] - before - seq
            # With each of the other's, and in the transaction that began when the last was answered.
            assert flooded <= 2 * seq * limits.BATCH_MAX_COMMANDS


async def test_another_session_of_a_flooding_party_has_its_turn_after_one_batch_of_each(space: Namespace) -> None:
    flooder, other = SessionId(space.open_session()), SessionId(space.open_session())
    runtime = Gate()
    async with writing(space, runtime) as writer, trio.open_nursery() as nursery:
        runtime.close()
        await flood(space, writer, [flooder], nursery)
        before = writer.statistics()["commands"]
        runtime.opened.set()
        ((errno, *_),) = await writer.apply("flooder", other, 0, [mkdir(1, b"mine")])
        assert errno == 0
        assert writer.statistics()["commands"] - before - 1 <= 3 * limits.BATCH_MAX_COMMANDS


async def test_room_is_held_until_commands_that_wait_for_others_are_answered(
    space: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "COMMAND_QUEUE_MAX", 3)
    author, reader = SessionId(space.open_session()), SessionId(space.open_session())
    leases = Leases()
    leases.push = lambda *_: 1
    leases.join(reader)
    async with writing(space, Gate(), leases=leases) as writer, trio.open_nursery() as nursery:
        assert leases.cover_name(reader, ROOT_INO, b"d")
        nursery.start_soon(writer.apply, "author", author, 0, [mkdir(1, b"d")])
        await trio.testing.wait_all_tasks_blocked()
        assert writer.statistics()["held_back"] == 1
        with pytest.raises(errors.Busy):
            await writer.apply("author", author, 0, [mkdir(2, b"e")])
        ((errno, *_),) = await writer.apply("reader", reader, 0, [mkdir(1, b"f")])
        assert errno == 0
        leases.leave(reader)
        await trio.testing.wait_all_tasks_blocked()
        writer.check_room("author", author, 1)


async def test_who_is_to_give_up_what_he_owns_has_room_for_that_beside_those_who_wait_for_it(
    space: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "COMMAND_QUEUE_MAX", 3)
    owner, author = SessionId(space.open_session()), SessionId(space.open_session())
    asked = Asked()
    asked.leases.join(owner, owns_directories=True)
    assert await asked.leases.own(owner, ROOT_INO, is_directory=True)
    async with writing(space, Gate(), leases=asked.leases) as writer, trio.open_nursery() as nursery:
        for seq in range(1, 4):
            nursery.start_soon(writer.apply, f"author {seq}", author, 0, [mkdir(seq, b"%d" % seq)])
            await trio.testing.wait_all_tasks_blocked()
        assert writer.statistics()["held_back"] == 3
        replies = await writer.apply(CLIENT, owner, 0, [mkdir(seq, b"o%d" % seq) for seq in range(1, 4)])
        assert [errno for errno, *_ in replies] == [0, 0, 0]
        asked.answer()
        await trio.testing.wait_all_tasks_blocked()
    assert len(space.queries.readdir(ROOT_INO, 0, 9)) == 6


async def test_who_is_asked_to_give_up_has_no_room_without_end(
    space: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "COMMAND_QUEUE_MAX", 3)
    owner, author = SessionId(space.open_session()), SessionId(space.open_session())
    asked = Asked()
    asked.leases.join(owner)
    assert asked.leases.cover_attr(owner, ROOT_INO)
    runtime = Gate()
    async with writing(space, runtime, leases=asked.leases) as writer, trio.open_nursery() as nursery:
        nursery.start_soon(writer.apply, "author", author, 0, [[1, "setattr", [ROOT_INO, {"mode": 0o700}]]])
        await trio.testing.wait_all_tasks_blocked()
        runtime.close()
        let_in = 0
        with pytest.raises(errors.Busy):
            while True:
                writer.check_room(CLIENT, owner, 600)
                nursery.start_soon(writer.apply, CLIENT, owner, 0, [[1, "seal", [1]]] * 600)
                await trio.testing.wait_all_tasks_blocked()
                let_in += 1
        assert let_in == 2
        runtime.opened.set()
        await trio.testing.wait_all_tasks_blocked()
        asked.answer()


async def test_clients_cannot_keep_the_namenodes_own_commands_out(
    space: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "COMMAND_QUEUE_MAX", 3)
    monkeypatch.setattr(limits, "OWN_COMMANDS_MAX", 20)
    session = SessionId(space.open_session())
    runtime = Gate()
    async with writing(space, runtime) as writer, trio.open_nursery() as nursery:
        runtime.close()
        for party in range(3):
            nursery.start_soon(writer.apply, party, session, 0, [mkdir(party + 1, b"%d" % party)])
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(errors.Busy):
            await writer.apply("another", session, 0, [mkdir(9, b"late")])
        for _ in range(limits.OWN_COMMANDS_MAX):
            nursery.start_soon(writer.decide, "free_doomed")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(errors.Busy):
            await writer.decide("free_doomed")
        runtime.opened.set()


# --- what others have cached ----------------------------------------------------------------------------


class Asked:
    """Leases of which recalls are noted."""

    def __init__(self) -> None:
        self.leases = Leases()
        self.leases.push = self._push
        self.numbers: list[tuple[SessionId, int]] = []

    def _push(self, session: SessionId, _kind: str, _payload: Any) -> int:
        self.numbers.append((session, len(self.numbers) + 1))
        return len(self.numbers)

    def answer(self) -> None:
        asked, self.numbers = self.numbers, []
        for session, number in asked:
            self.leases.forgot(session, number, ())


async def test_a_change_of_what_others_have_cached_waits_and_nobody_else_does(space: Namespace) -> None:
    author, other, reader = (SessionId(space.open_session()) for _ in range(3))
    asked = Asked()
    asked.leases.join(reader)
    done: list[bytes] = []
    d = space.do(author, "mkdir", ROOT_INO, b"d", 0o755, 0, 0).ino
    async with writing(space, Gate(), leases=asked.leases) as writer:
        assert asked.leases.cover_attr(reader, d)

        async def make() -> None:
            batch = [mkdir(2, b"before"), [3, "setattr", [d, {"mode": 0o700}]], mkdir(4, b"after")]
            await writer.apply(CLIENT, author, 0, batch)
            done.append(b"after")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(make)
            await trio.testing.wait_all_tasks_blocked()
            assert writer.statistics()["held_back"] == 1
            names = [name for _, name, _ in space.queries.readdir(ROOT_INO, 0, 10)]
            assert names == [b"d", b"before"]  # the rest of the batch waits, what came before it does not
            await writer.apply(CLIENT, other, 0, [[1, "setattr", [ROOT_INO, {"mode": 0o700}]]])
            assert done == []
            asked.answer()
    assert done == [b"after"]
    assert [name for _, name, _ in space.queries.readdir(ROOT_INO, 0, 10)] == [b"d", b"before", b"after"]
    assert space.findings() == []


def unlink(seq: int, name: bytes) -> list[Any]:
    return [seq, "unlink", [ROOT_INO, name]]


async def test_what_a_whole_batch_will_touch_is_forgotten_in_one_round(space: Namespace) -> None:
    """`rm -r` of what mounts have looked at: one question to each of them, not one for each file."""
    author, *readers = (SessionId(space.open_session()) for _ in range(3))
    asked = Asked()
    names = [b"%d" % number for number in range(20)]
    inos = [space.file(author, name).ino for name in names]
    for reader in readers:
        asked.leases.join(reader)
        assert asked.leases.cover_entries(reader, ROOT_INO)
        assert all(asked.leases.cover_attr(reader, ino) for ino in inos)
    async with writing(space, Gate(), leases=asked.leases) as writer, trio.open_nursery() as nursery:
        batch = [unlink(seq, name) for seq, name in enumerate(names, 100)]
        nursery.start_soon(writer.apply, CLIENT, author, 0, batch)
        await trio.testing.wait_all_tasks_blocked()
        assert [session for session, _ in asked.numbers] == readers
        asked.answer()
        await trio.testing.wait_all_tasks_blocked()
        assert asked.numbers == []
    assert space.queries.readdir(ROOT_INO, 0, 10) == []
    assert asked.leases.cover_entries(readers[0], ROOT_INO)  # nobody is about to change anything any more


async def test_who_sends_much_lets_others_in_between_and_stays_in_order(
    space: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TRANSACTION_MAX_S", 0.0)  # so each transaction has one command
    many, few = SessionId(space.open_session()), SessionId(space.open_session())
    runtime = Gate()
    async with writing(space, runtime) as writer, trio.open_nursery() as nursery:
        runtime.close()
        first, second = [mkdir(n, b"%d" % n) for n in range(1, 5)], [mkdir(n, b"%d" % n) for n in range(5, 7)]
        for session, batch in ((many, first), (many, second), (few, [mkdir(1, b"other")])):
            nursery.start_soon(writer.apply, CLIENT, session, 0, batch)
            await trio.testing.wait_all_tasks_blocked()
        runtime.opened.set()
    made = [name for _, name, _ in sorted(space.queries.readdir(ROOT_INO, 0, 9))]
    assert made.index(b"other") <= 2
    made.remove(b"other")
    assert made == [b"%d" % number for number in range(1, 7)]
    assert runtime.commits == 7


def scattered(space: Namespace, session: SessionId, extents: int) -> Ino:
    """A file of so many extents of 10 bytes, with as much between them."""
    ino = space.file(session, b"scattered").ino
    chunk = space.chunk(session)
    pieces = [[20 * number, 10, chunk, 10 * number] for number in range(extents)]
    space.do(session, "commit", ino, pieces, [[chunk, 10 * extents, list(NODES)]])
    return Ino(ino)


async def test_a_file_of_very_many_extents_is_cut_step_by_step_while_others_are_served(
    space: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(truncate, "FREED_AT_ONCE", 3)
    monkeypatch.setattr(limits, "TRANSACTION_MAX_S", 0.0)
    author, other = SessionId(space.open_session()), SessionId(space.open_session())
    ino = scattered(space, author, 20)
    seen = []
    async with writing(space, Gate()) as writer, trio.open_nursery() as nursery:

        async def cut() -> None:
            (reply,) = await writer.apply(CLIENT, author, 0, [[100, "truncate", [ino, 45]]])
            assert (reply[1].size, reply[1].allocated) == (45, 25)
            nursery.cancel_scope.cancel()

        nursery.start_soon(cut)
        for seq in range(1, 100):
            await writer.apply("another", other, 0, [mkdir(seq, b"%d" % seq)])
            seen.append(space.queries.getattr(ino).size)
    assert sorted(seen, reverse=True) == seen
    assert len(set(seen) - {390, 45}) >= 2, "it is seen while it is cut"
    assert space.findings() == []


def test_a_cut_that_was_answered_does_not_go_on_when_it_comes_again(
    space: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(truncate, "FREED_AT_ONCE", 3)
    session = SessionId(space.open_session())
    ino = scattered(space, session, 9)
    cut = space.next_command(session, "truncate", ino, 0)
    space.store.begin()
    with pytest.raises(Unfinished):
        space.machine.apply(cut)
    space.machine.end()
    space.store.commit()
    assert space.queries.getattr(ino).size == 100
    assert [reply[0] for reply in space.transact(cut)] == [0]
    space.do(session, "truncate", ino, 7)
    assert [reply[0] for reply in space.transact(cut)] == [0]
    assert space.queries.getattr(ino).size == 7


async def test_fewer_commands_are_looked_at_ahead_where_many_have_to_forget(
    space: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FORESEEN_BY_ALL_MAX", 6)
    author, readers = SessionId(space.open_session()), [SessionId(space.open_session()) for _ in range(3)]
    asked = Asked()
    inos = [space.file(author, b"%d" % number).ino for number in range(6)]
    for reader in readers:
        asked.leases.join(reader)
        assert all(asked.leases.cover_attr(reader, ino) for ino in inos)
    assert await recalls_of_unlinking(space, author, asked, 6) == [3, 3]  # the first and two after it, each time


async def test_what_is_asked_for_ahead_delays_nothing_before_it(space: Namespace) -> None:
    """Who is slow to forget what a later command touches holds up that one alone."""
    author, quick, slow = (SessionId(space.open_session()) for _ in range(3))
    asked = Asked()
    inos = [space.file(author, name).ino for name in (b"first", b"second")]
    for reader, ino in zip((quick, slow), inos, strict=True):
        asked.leases.join(reader)
        assert asked.leases.cover_attr(reader, ino)
    async with writing(space, Gate(), leases=asked.leases) as writer, trio.open_nursery() as nursery:
        nursery.start_soon(writer.apply, CLIENT, author, 0, [unlink(10, b"first"), unlink(11, b"second")])
        await trio.testing.wait_all_tasks_blocked()
        (first, number), _ = asked.numbers
        assert first == quick
        asked.leases.forgot(quick, number, ())
        await trio.testing.wait_all_tasks_blocked()
        assert [name for _, name, _ in space.queries.readdir(ROOT_INO, 0, 9)] == [b"second"]
        asked.answer()
    assert space.queries.readdir(ROOT_INO, 0, 9) == []


async def recalls_of_unlinking(space: Namespace, author: SessionId, asked: Asked, count: int) -> list[int]:
    """In one batch, so many files whose names are numbers: how many sessions are asked to forget, each time."""
    recalls = []
    async with writing(space, Gate(), leases=asked.leases) as writer, trio.open_nursery() as nursery:
        nursery.start_soon(writer.apply, CLIENT, author, 0, [unlink(20 + n, b"%d" % n) for n in range(count)])
        await trio.testing.wait_all_tasks_blocked()
        while asked.numbers:
            recalls.append(len(asked.numbers))
            asked.answer()
            await trio.testing.wait_all_tasks_blocked()
    return recalls


async def test_so_many_commands_are_looked_at_ahead_and_each_once(
    space: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FORESEEN_MAX_COMMANDS", 4)
    author, reader = SessionId(space.open_session()), SessionId(space.open_session())
    asked = Asked()
    asked.leases.join(reader)
    inos = [space.file(author, b"%d" % number).ino for number in range(10)]
    assert all(asked.leases.cover_attr(reader, ino) for ino in inos)
    # The first of five each, and the four after it.
    assert await recalls_of_unlinking(space, author, asked, 10) == [1, 1]


async def test_who_waited_need_not_forget_what_only_he_himself_changes_next(space: Namespace) -> None:
    author, reader = SessionId(space.open_session()), SessionId(space.open_session())
    asked = Asked()
    inos = [space.file(author, b"%d" % number).ino for number in range(5)]
    for session in (author, reader):
        asked.leases.join(session)
        assert all(asked.leases.cover_attr(session, ino) for ino in inos)
    async with writing(space, Gate(), leases=asked.leases) as writer:
        async with trio.open_nursery() as nursery:
            batch = [[20 + n, "setattr", [ino, {"mode": 0o600}]] for n, ino in enumerate(inos)]
            nursery.start_soon(writer.apply, CLIENT, author, 0, batch)
            await trio.testing.wait_all_tasks_blocked()
            assert [session for session, _ in asked.numbers] == [reader]
            asked.answer()
        assert asked.numbers == []
        assert asked.leases.conflicts(reader, [(inos[0], None)])  # he has learnt what it is now


async def test_who_is_limited_to_a_subtree_has_nobody_forget_what_is_outside_of_it(space: Namespace) -> None:
    author, reader = SessionId(space.open_session()), SessionId(space.open_session())
    mine = space.do(author, "mkdir", ROOT_INO, b"mine", 0o755, 0, 0).ino
    other = space.file(author).ino
    confined = SessionId(space.open_session(subtree="/mine"))
    asked = Asked()
    asked.leases.join(reader)
    assert asked.leases.cover_attr(reader, mine) and asked.leases.cover_attr(reader, other)
    async with writing(space, Gate(), leases=asked.leases) as writer, trio.open_nursery() as nursery:
        change = {"mode": 0o700}
        nursery.start_soon(
            writer.apply, CLIENT, confined, 0, [[1, "setattr", [mine, change]], [2, "setattr", [other, change]]]
        )
        await trio.testing.wait_all_tasks_blocked()
        asked.answer()
        await trio.testing.wait_all_tasks_blocked()
        assert asked.leases.conflicts(author, [(other, None)])


async def test_who_is_limited_to_a_subtree_has_nobody_give_up_what_is_outside_of_it(space: Namespace) -> None:
    author = SessionId(space.open_session())
    space.do(author, "mkdir", ROOT_INO, b"mine", 0o755, 0, 0)
    other = space.do(author, "mkdir", ROOT_INO, b"other", 0o755, 0, 0).ino
    confined = SessionId(space.open_session(subtree="/mine"))
    asked = Asked()
    asked.leases.join(author, owns_directories=True)
    assert await asked.leases.own(author, other, is_directory=True)
    async with writing(space, Gate(), leases=asked.leases) as writer:
        with trio.fail_after(_PATIENCE_S):
            wanted = [[1, "setattr", [other, {"mode": 0}]], [2, "unlink", [other, b"name"]]]
            replies = await writer.apply(CLIENT, confined, 0, wanted)
        assert [code for _, code, _ in replies] == ["NotFound", "NotFound"]
        assert not asked.numbers


async def test_a_change_goes_on_when_the_last_of_those_who_know_has_forgotten(space: Namespace) -> None:
    author, other, *readers = (SessionId(space.open_session()) for _ in range(4))
    asked = Asked()
    for reader in readers:
        asked.leases.join(reader)
        assert asked.leases.cover_attr(reader, ROOT_INO) and asked.leases.cover_entries(reader, ROOT_INO)
    async with writing(space, Gate(), leases=asked.leases) as writer:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.apply, CLIENT, author, 0, [mkdir(1, b"d")])
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(writer.apply, CLIENT, other, 0, [mkdir(1, b"e")])
            await trio.testing.wait_all_tasks_blocked()
            held: list[int] = []
            for session, number in asked.numbers:
                asked.leases.forgot(session, number, ())
                await trio.testing.wait_all_tasks_blocked()
                held.append(writer.statistics()["held_back"])
            assert held == [2, 1, 1, 0]  # one question to each of the two for each name
            nursery.cancel_scope.cancel()
    assert [name for _, name, _ in space.queries.readdir(ROOT_INO, 0, 9)] == [b"d", b"e"]


async def test_what_goes_on_is_charged_for_what_is_left_of_it(space: Namespace) -> None:
    author, reader = SessionId(space.open_session()), SessionId(space.open_session())
    asked = Asked()
    asked.leases.join(reader)
    runtime = Gate()
    async with writing(space, runtime, leases=asked.leases) as writer, trio.open_nursery() as nursery:
        failing = [[seq, "rmdir", [ROOT_INO, b"none"]] for seq in range(1, 100)]
        assert asked.leases.cover_name(reader, ROOT_INO, b"known")
        nursery.start_soon(writer.apply, CLIENT, author, 0, [*failing, mkdir(100, b"known")])
        await trio.testing.wait_all_tasks_blocked()
        runtime.close()
        nursery.start_soon(writer.decide, "free_doomed")
        await trio.testing.wait_all_tasks_blocked()
        assert writer.statistics()["queued"] == 0
        asked.answer()
        assert writer.statistics()["queued"] == 1
        runtime.opened.set()


async def test_a_command_that_waited_happens_once_though_it_came_again(space: Namespace) -> None:
    author, reader = SessionId(space.open_session()), SessionId(space.open_session())
    asked = Asked()
    asked.leases.join(reader)
    replies: list[Any] = []
    async with writing(space, Gate(), leases=asked.leases) as writer:
        assert asked.leases.cover_entries(reader, ROOT_INO)

        async def make() -> None:
            replies.append((await writer.apply(CLIENT, author, 0, [mkdir(1, b"d")]))[0][1])

        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(make)
                await trio.testing.wait_all_tasks_blocked()
            asked.answer()
    assert len(replies) == 2
    assert list(replies[0]) == list(replies[1])
    assert len(space.queries.readdir(ROOT_INO, 0, 10)) == 1


async def test_what_waits_fails_by_itself_when_its_transaction_does(space: Namespace, monkeypatch: Any) -> None:
    """What of its batch is durable already keeps its answer."""
    author, reader = SessionId(space.open_session()), SessionId(space.open_session())
    asked = Asked()
    asked.leases.join(reader)
    d = space.do(author, "mkdir", ROOT_INO, b"d", 0o755, 0, 0).ino
    assert asked.leases.cover_attr(reader, d)
    replies: list[Any] = []
    async with writing(space, Gate(), leases=asked.leases) as writer:

        async def make() -> None:
            replies.extend(
                await writer.apply(CLIENT, author, 0, [mkdir(2, b"before"), [3, "setattr", [d, {"mode": 0}]]])
            )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(make)
            await trio.testing.wait_all_tasks_blocked()

            def fail() -> None:
                raise errors.NoSpace("the disk is full")

            monkeypatch.setattr(space.store, "commit", fail)
            asked.answer()
    assert replies[0][0] == 0
    assert replies[1][1] == "NoSpace"
    assert asked.leases.statistics()["in_doubt"] == 0


async def test_who_finds_a_file_that_is_there_does_not_own_it(space: Namespace) -> None:
    """Two mounts create one name at the same time; the second one waits until the first has committed what it has."""
    first, second = SessionId(space.open_session()), SessionId(space.open_session())
    asked = Asked()
    for session in (first, second):
        asked.leases.join(session)
    create = [1, "create", [ROOT_INO, b"log", 0o644, 0, 0, False]]
    answers: list[Any] = []
    async with writing(space, Gate(), leases=asked.leases) as writer:
        ((_, made, _),) = await writer.apply(CLIENT, first, 0, [create])
        assert asked.leases.in_doubt(second, [(made.ino, None)])

        async def find() -> None:
            answers.extend(await writer.apply(CLIENT, second, 0, [create]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(find)
            await trio.testing.wait_all_tasks_blocked()
            assert answers == []
            assert [session for session, _ in asked.numbers] == [first]
            asked.answer()
    assert answers[0][1].ino == made.ino
    assert not asked.leases.in_doubt(first, [(made.ino, None)])


async def test_of_what_was_made_and_removed_no_lease_is_left(space: Namespace) -> None:
    session = SessionId(space.open_session())
    leases = Leases()
    leases.join(session, owns_directories=True)
    async with writing(space, Gate(), leases=leases) as writer:
        batch = [mkdir(11, b"d"), [12, "create", [ROOT_INO, b"f", 0o644, 0, 0]], unlink(13, b"f")]
        await writer.apply(CLIENT, session, 0, [*batch, [14, "rmdir", [ROOT_INO, b"d"]]])
        assert leases.statistics()["owned"] == 2
        leases.acknowledge(session, 15)
    found = leases.statistics()
    assert (found["leases"], found["owned"], found["in_doubt"]) == (0, 0, 0)


async def test_who_is_told_of_an_access_time_learns_no_older_one_after_that(space: Namespace) -> None:
    author, reader = SessionId(space.open_session()), SessionId(space.open_session())
    attr, asked, runtime = space.file(author), Asked(), Gate()
    asked.leases.join(reader)
    later = attr.atime_ns + 5
    async with writing(space, runtime, leases=asked.leases) as writer:
        assert asked.leases.cover_attr(reader, attr.ino)
        runtime.close()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.apply, CLIENT, author, 0, [[9, "accessed", [[[attr.ino, later]]], later]])
            await trio.testing.wait_all_tasks_blocked()
            asked.answer()
            assert asked.leases.cover_attr(reader, attr.ino)  # as it is committed: with the old time
            runtime.opened.set()
    assert space.queries.getattr(attr.ino).atime_ns == later
    assert [session for session, _ in asked.numbers] == [reader]


def sessions_of(writer: Writer, leases: Leases, *which: SessionId) -> Sessions:
    """As the NameNode has them; recalls are for nobody to hear."""

    async def end(session: SessionId, party: Hashable) -> bool:
        return bool(await writer.decide("end_session", session, party=party))

    sessions = Sessions(30.0, end, leases, 1)
    for session in which:
        sessions.add(session, "client tests")
    return sessions


async def test_what_waits_for_a_session_that_is_ended_happens_after_all_that_it_had_sent(space: Namespace) -> None:
    """It has answered a change of what it owns long ago, and that arrives at last, when its time has just run out."""
    owner, other, third = (SessionId(space.open_session()) for _ in range(3))
    leases, runtime = Leases(), Gate()
    async with writing(space, runtime, leases=leases) as writer:
        sessions = sessions_of(writer, leases, owner)
        leases.join(owner, owns_directories=True)
        ((_, made, _),) = await writer.apply("owner", owner, 0, [[1, "create", [ROOT_INO, b"f", 0o644, 0, 0]]])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.apply, "other", other, 0, [[1, "setattr", [made.ino, {"mode": 0o600}]]])
            await trio.testing.wait_all_tasks_blocked()
            assert writer.statistics()["held_back"] == 1
            runtime.close()
            nursery.start_soon(writer.apply, "third", third, 0, [mkdir(1, b"d")])
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(writer.apply, "owner", owner, 0, [[2, "setattr", [made.ino, {"mode": 0o777}]]])
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(sessions.close, owner, "client tests")
            await trio.testing.wait_all_tasks_blocked()
            runtime.opened.set()
    assert space.queries.getattr(made.ino).mode & 0o7777 == 0o600


async def test_what_waits_for_a_session_happens_when_a_restart_would_not_find_that_open(space: Namespace) -> None:
    """Though its end waits for somebody itself: who has removed the last name of a file that it holds knows that."""
    holder, remover, other = (SessionId(space.open_session()) for _ in range(3))
    leases = Leases()
    cached, removed = space.file(other, b"cached").ino, space.file(other, b"removed").ino
    space.do(holder, "hold", removed)
    async with writing(space, Gate(), leases=leases) as writer:
        sessions = sessions_of(writer, leases, holder, remover)
        leases.join(remover)
        await writer.apply("remover", remover, 0, [unlink(1, b"removed")])
        leases.join(holder)
        assert leases.cover_attr(holder, cached)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.apply, "other", other, 0, [[9, "setattr", [cached, {"mode": 0o600}]]])
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(sessions.close, holder, "client tests")
            await trio.testing.wait_all_tasks_blocked()
            mode, found, waiting = space.queries.getattr(cached).mode, space.queries.sessions(), writer.statistics()
            await sessions.close(remover, "client tests")
    assert mode & 0o7777 == 0o600
    assert (holder, "", 0, "") in found and waiting["held_back"] == 1
    assert [session for session, *_ in space.queries.sessions()] == [other]
    assert space.findings() == []


async def test_a_disk_that_fails_when_what_follows_is_looked_at_fails_the_transaction(
    space: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    author, reader = (SessionId(space.open_session()) for _ in range(2))
    asked = Asked()
    asked.leases.join(reader)
    d = space.do(author, "mkdir", ROOT_INO, b"d", 0o755, 0, 0).ino
    async with writing(space, Gate(), leases=asked.leases) as writer:
        assert asked.leases.cover_attr(reader, d)
        with monkeypatch.context() as patched:

            def fail(*_: Any) -> None:
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR
                raise error

            patched.setattr(writer._machine, "foreseen", fail)
            with pytest.raises(errors.DiskFailed):
                await writer.apply(CLIENT, author, 0, [[2, "setattr", [d, {"mode": 0o700}]], mkdir(3, b"after")])
        await writer.apply(CLIENT, author, 0, [mkdir(4, b"next")])
        assert not asked.leases.conflicts(author, [(ROOT_INO, b"next")])
    assert asked.leases.cover_attr(reader, d)  # nobody is about to change it any more


async def test_what_the_namenode_has_decided_is_done_though_who_asked_has_gone(space: Namespace) -> None:
    gate = Gate()
    followed = False

    async def decide() -> None:
        nonlocal followed
        await writer.decide("configure", {"replicas": 2, "min_replicas": 1, "grace_ns": 1})
        followed = True

    async with writing(space, gate) as writer:
        gate.close()
        async with trio.open_nursery() as nursery, trio.open_nursery() as gone:
            gone.start_soon(decide)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(_open_soon, gate)
            gone.cancel_scope.cancel()
        assert followed


async def test_nobody_waits_for_a_writer_that_has_ended(space: Namespace) -> None:
    session, gate = SessionId(space.open_session()), Gate()
    answers: list[str] = []

    async def apply(number: int) -> None:
        try:
            await writer.apply(CLIENT, session, 0, [mkdir(number, b"%d" % number)])
            answers.append("done")
        except errors.Unreachable as error:
            answers.append(error.message)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            async with writing(space, gate) as writer:
                gate.close()
                for number in (1, 2):
                    nursery.start_soon(apply, number)
                    await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(_open_soon, gate)
            with pytest.raises(errors.Unreachable, match="stops"):
                await writer.decide("configure", {"replicas": 2, "min_replicas": 1, "grace_ns": 1})
    assert sorted(answers) == ["done", "the NameNode stops"]


async def _open_soon(gate: Gate) -> None:
    await trio.testing.wait_all_tasks_blocked()
    gate.opened.set()


async def test_what_happened_before_the_disk_was_full_is_answered_when_it_is_asked_again(
    space: Namespace, autojump_clock: trio.testing.MockClock
) -> None:
    session = SessionId(space.open_session())
    async with writing(space, Gate(), reserve_bytes=1) as writer:
        first = await writer.apply(CLIENT, session, 0, [mkdir(1, b"a")])
        writer._reserve_bytes = 1 << 62
        await trio.sleep(60)
        again, new = await writer.apply(CLIENT, session, 0, [mkdir(1, b"a"), mkdir(2, b"b")])
        assert [again[0], list(again[1])] == [first[0][0], list(first[0][1])]
        assert isinstance(errors.from_wire(*new[1:]), errors.NoSpace)
