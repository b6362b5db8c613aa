"""Clients' sessions: events that wait for them, and their end when they are silent. Time is trio's, and jumps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from dfs import errors, limits, verbs
from dfs.types import Ino, Item, SessionId
from nodes.namenode import daemon
from nodes.namenode.leases import RECALL, Leases
from nodes.namenode.membership import Membership
from nodes.namenode.sessions import Sessions
from tests.simulation.disk import InlineRuntime

TIMEOUT_S = 30.0
LIFE = 7
ONE, OTHER = SessionId(1), SessionId(2)
KEY = "client alice"


class Ends:
    """Notes which sessions are ended. Each takes `rounds` calls; the first `failures` calls fail."""

    def __init__(self, rounds: int = 1, failures: int = 0) -> None:
        self.ended: list[int] = []
        self._rounds = rounds
        self._failures = failures

    async def end(self, session: SessionId, _party: object) -> bool:
        await trio.lowlevel.checkpoint()
        if self._failures:
            self._failures -= 1
            raise errors.NoSpace("no space for an end")
        self.ended.append(session)
        return self.ended.count(session) < self._rounds


def opened(ends: Ends) -> Sessions:
    sessions = Sessions(TIMEOUT_S, ends.end, Leases(), LIFE)
    sessions.add(ONE, KEY)
    sessions.add(OTHER, KEY)
    return sessions


def restarted(ends: Ends) -> tuple[Sessions, Leases]:
    """Of a NameNode that was started again: one session was there before, and has to say what it holds."""
    leases = Leases()
    sessions = Sessions(TIMEOUT_S, ends.end, leases, LIFE)
    sessions.add(ONE, KEY)
    leases.join(ONE, again=True)
    return sessions, leases


async def test_events_arrive_in_order_until_they_are_acknowledged(autojump_clock: trio.testing.MockClock) -> None:
    sessions = opened(Ends())
    sessions.push_all("nodes")
    sessions.push_all("settings")
    assert await sessions.events(ONE, KEY, 0, LIFE) == (LIFE, [(1, "nodes", None), (2, "settings", None)])
    assert await sessions.events(ONE, KEY, 0, LIFE) == (LIFE, [(1, "nodes", None), (2, "settings", None)])
    assert await sessions.events(ONE, KEY, 1, LIFE) == (LIFE, [(2, "settings", None)])
    assert len((await sessions.events(OTHER, KEY, 0, LIFE))[1]) == 2


async def test_after_a_restart_events_are_numbered_anew_and_the_client_sees_it() -> None:
    """It has heard more events of the NameNode before than this one has sent yet."""
    sessions = opened(Ends())
    sessions.push_all("nodes")
    assert await sessions.events(ONE, KEY, 55, LIFE - 1) == (LIFE, [(1, "nodes", None)])


async def test_the_same_news_waits_once(autojump_clock: trio.testing.MockClock) -> None:
    sessions = opened(Ends())
    for _ in range(1000):
        sessions.push_all("nodes")
    assert await sessions.events(ONE, KEY, 0, LIFE) == (LIFE, [(1, "nodes", None)])
    sessions.push_all("nodes")
    assert await sessions.events(ONE, KEY, 1, LIFE) == (LIFE, [])


async def test_who_waits_hears_at_once(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    sessions = opened(Ends())
    began = trio.current_time()

    async def push_soon() -> None:
        await trio.testing.wait_all_tasks_blocked()
        sessions.push_all("nodes")

    nursery.start_soon(push_soon)
    assert await sessions.events(ONE, KEY, 0, LIFE) == (LIFE, [(1, "nodes", None)])
    assert trio.current_time() == began


async def test_the_call_for_events_comes_back_empty_after_a_while(autojump_clock: trio.testing.MockClock) -> None:
    sessions = opened(Ends())
    began = trio.current_time()
    assert await sessions.events(ONE, KEY, 0, LIFE) == (LIFE, [])
    assert 1 <= trio.current_time() - began <= limits.EVENTS_WAIT_S


async def test_a_silent_session_is_ended_and_one_that_calls_is_not(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    ends = Ends(rounds=3)
    sessions = opened(ends)
    nursery.start_soon(sessions.reap)
    for _ in range(10):
        await trio.sleep(TIMEOUT_S / 3)
        sessions.touch(ONE, KEY)
    assert ends.ended == [OTHER] * 3
    with pytest.raises(errors.SessionExpired):
        sessions.touch(OTHER, KEY)
    assert len(sessions) == 1
    nursery.cancel_scope.cancel()


async def test_a_session_heard_as_the_namenode_goes_on_and_then_silent_is_ended_as_any(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    ends = Ends()
    sessions = opened(ends)
    nursery.start_soon(sessions.reap)
    await trio.sleep(1)
    autojump_clock.jump(20 * TIMEOUT_S)  # the NameNode stood still
    sessions.touch(ONE, KEY)
    await trio.sleep(TIMEOUT_S / 2)
    assert ends.ended == []
    await trio.sleep(TIMEOUT_S)
    assert sorted(ends.ended) == [ONE, OTHER]
    nursery.cancel_scope.cancel()


async def test_while_the_namenode_hears_nobody_at_all_no_session_is_ended(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """Its machine is cut off. When it is joined again all have a time-out to come back."""
    ends = Ends()
    sessions = opened(ends)
    hears_nobody = True
    nursery.start_soon(sessions.reap, lambda: hears_nobody)
    await trio.sleep(20 * TIMEOUT_S)
    assert ends.ended == []
    hears_nobody = False
    await trio.sleep(TIMEOUT_S * 0.85)
    assert ends.ended == []
    sessions.touch(ONE, KEY)
    hears_nobody = True  # but for a client
    await trio.sleep(TIMEOUT_S * 0.3)
    assert ends.ended == [OTHER]
    nursery.cancel_scope.cancel()


async def test_one_that_only_waits_for_events_lives(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    ends = Ends()
    sessions = opened(ends)
    nursery.start_soon(sessions.reap)
    for _ in range(10):
        await sessions.events(ONE, KEY, 0, LIFE)
    assert ends.ended == [OTHER]
    nursery.cancel_scope.cancel()


async def test_an_end_that_fails_is_tried_again_and_costs_nobody_else(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """The NameNode's disk may be full just then."""
    ends = Ends(failures=3)
    sessions = opened(ends)
    with pytest.raises(errors.NoSpace):
        await sessions.close(OTHER, KEY)
    nursery.start_soon(sessions.reap)
    for _ in range(40):
        await trio.sleep(1)
        sessions.touch(ONE, KEY)
    assert ends.ended == [OTHER]
    nursery.cancel_scope.cancel()


async def test_what_a_session_knows_is_asked_for_until_the_first_step_of_its_end_is_done(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """Nobody is there to hear it, and the session is not ended a second time for that."""
    ends = Ends(failures=1)
    leases = Leases()
    sessions = Sessions(TIMEOUT_S, ends.end, leases, LIFE)
    sessions.add(ONE, KEY)
    leases.join(ONE)
    item: Item = (Ino(10), None)
    assert leases.cover_attr(ONE, item[0])
    with pytest.raises(errors.NoSpace):
        await sessions.close(ONE, KEY)
    leases.begin(OTHER, [item])
    assert leases.conflicts(OTHER, [item])
    nursery.start_soon(sessions.reap)
    await trio.sleep(TIMEOUT_S / 5)
    assert ends.ended == [ONE]
    assert not leases.conflicts(OTHER, [item])
    nursery.cancel_scope.cancel()


async def test_who_waits_for_events_of_a_session_that_ends_is_told(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    sessions = opened(Ends())

    async def close_soon() -> None:
        await trio.testing.wait_all_tasks_blocked()
        await sessions.close(ONE, KEY)

    nursery.start_soon(close_soon)
    with pytest.raises(errors.SessionExpired):
        await sessions.events(ONE, KEY, 0, LIFE)


async def test_a_session_that_has_ended_may_be_closed_and_nothing_else(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ends = Ends()
    sessions = opened(ends)
    await sessions.close(ONE, KEY)
    await sessions.close(ONE, KEY)
    await sessions.close(99, KEY)
    with pytest.raises(errors.InvalidArgument):
        await sessions.close("nonsense", KEY)
    assert ends.ended == [ONE]
    with pytest.raises(errors.SessionExpired):
        await sessions.events(ONE, KEY, 0, LIFE)


async def test_there_is_a_bound_on_sessions(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SESSIONS_MAX", 3)
    sessions = opened(Ends())
    sessions.check_room("client bob")
    sessions.add(SessionId(3), "client bob")
    with pytest.raises(errors.Busy, match="as many as it can"):
        sessions.check_room("client carol")


async def test_one_key_leaves_as_many_sessions_as_it_has(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SESSIONS_MAX", 10)
    sessions = opened(Ends())
    for number in (3, 4, 5):
        sessions.check_room(KEY)
        sessions.add(SessionId(number), KEY)
    with pytest.raises(errors.Busy, match="has 5 sessions"):
        sessions.check_room(KEY)
    sessions.check_room("client bob")


async def test_a_session_is_of_the_key_that_opened_it() -> None:
    ends = Ends()
    sessions = opened(ends)
    for holder in ("client mallory", "reader alice", 'client alice {"subtree": "/"}', ""):
        with pytest.raises(errors.NotPermitted, match="another key"):
            sessions.touch(ONE, holder)
        with pytest.raises(errors.NotPermitted, match="another key"):
            await sessions.events(ONE, holder, 0, LIFE)
        with pytest.raises(errors.NotPermitted, match="another key"):
            await sessions.close(ONE, holder)
    assert ends.ended == []
    assert sessions.touch(ONE, KEY) == ONE


async def test_a_session_whose_end_a_restart_has_cut_short_has_ended_for_its_client() -> None:
    sessions = opened(Ends())
    half_ended = SessionId(3)
    sessions.add(half_ended, "")
    with pytest.raises(errors.SessionExpired):
        sessions.touch(half_ended, KEY)


async def test_a_session_that_nobody_can_use_is_ended(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """One of an older format, or one whose end was cut short by a crash."""
    ends = Ends()
    sessions = opened(ends)
    sessions.add(SessionId(3), "")
    assert 3 in sessions.known()
    with pytest.raises(errors.SessionExpired):
        sessions.touch(SessionId(3), "")
    nursery.start_soon(sessions.reap)
    await trio.sleep(TIMEOUT_S / 5)
    assert ends.ended == [3]
    nursery.cancel_scope.cancel()


async def test_news_that_go_to_and_fro_end_with_the_latest(autojump_clock: trio.testing.MockClock) -> None:
    """For who was away meanwhile."""
    sessions = opened(Ends())
    for short in (True, False, True, True):
        sessions.push_all("space", short)
    _, events = await sessions.events(ONE, KEY, 0, LIFE)
    assert [payload for _, kind, payload in events if kind == "space"] == [True, False, True]


async def test_who_is_there_and_never_says_what_he_holds_since_a_restart_keeps_nobody_waiting(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ends = Ends()
    sessions, leases = restarted(ends)

    async def listen() -> None:
        with pytest.raises(errors.SessionExpired):
            while True:
                await sessions.events(ONE, KEY, 0, LIFE)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sessions.reap)
        nursery.start_soon(listen)
        with trio.fail_after(2 * TIMEOUT_S):
            await leases.reclaimed()
        await trio.testing.wait_all_tasks_blocked()  # its end goes on beside it
        nursery.cancel_scope.cancel()
    assert ends.ended == [ONE]


async def test_while_the_namenode_stands_still_nobody_is_late(autojump_clock: trio.testing.MockClock) -> None:
    ends, leases, item = Ends(), Leases(), (Ino(5), None)
    sessions = Sessions(TIMEOUT_S, ends.end, leases, LIFE)
    sessions.add(ONE, KEY)
    leases.join(ONE)
    assert leases.cover_attr(ONE, item[0])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sessions.reap)
        leases.begin(OTHER, [item])
        await trio.sleep(0.55 * TIMEOUT_S)
        autojump_clock.jump(2 * TIMEOUT_S)
        await trio.sleep(0.1 * TIMEOUT_S)
        nursery.cancel_scope.cancel()
    assert not ends.ended


async def test_who_comes_late_after_a_restart_has_a_time_out_to_say_what_he_holds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ends = Ends()
    sessions, leases = restarted(ends)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sessions.reap)
        for _ in range(2):
            await trio.sleep(0.8 * TIMEOUT_S)
            sessions.touch(ONE, KEY)
        leases.reclaim(ONE, [], [], [], last=True)
        await trio.sleep(0.5 * TIMEOUT_S)
        nursery.cancel_scope.cancel()
    assert not ends.ended and not leases.is_reclaiming


async def test_what_a_client_has_done_is_not_told_again_and_who_takes_note_of_nothing_is_ended(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "EVENTS_MAX", 10)
    ends = Ends()
    sessions = opened(ends)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sessions.reap)
        for number in range(1, 13):
            sessions.drop_event(ONE, number - 1)
            sessions.push_all(f"news {number}")
            for session in (ONE, OTHER):
                sessions.touch(session, KEY)
        await trio.sleep(TIMEOUT_S / 2)
        nursery.cancel_scope.cancel()
    assert ends.ended == [OTHER]
    assert (await sessions.events(ONE, KEY, 0, LIFE))[1] == [(12, "news 12", None)]


async def test_what_is_much_comes_in_several_answers_each_of_which_says_whether_there_is_more() -> None:
    leases = Leases()
    sessions = Sessions(TIMEOUT_S, Ends().end, leases, LIFE)
    sessions.add(ONE, KEY)
    leases.join(ONE, owns_directories=True)
    owned = [Ino(number) for number in range(100, 100 + 5 * limits.RECALL_MAX_ITEMS)]
    for ino in owned:
        assert leases.own_unknown(ONE, ino, is_directory=True)
    leases.recall_owned()
    recalled: list[Item] = []
    after, answers, is_whole = 0, 0, False
    while not is_whole:
        _, events = await sessions.events(ONE, KEY, after, LIFE)
        answers += 1
        is_whole = events[-1][1] != verbs.MORE
        after = events[-1][0]
        items = [tuple(item) for _, kind, payload in events if kind == RECALL for item in payload]
        assert len(items) <= limits.EVENTS_ANSWER_ITEMS + limits.RECALL_MAX_ITEMS
        recalled += items
    assert answers > 1
    assert len(recalled) == len(set(recalled)) == 2 * len(owned), "attributes and names of each, once"


async def test_news_of_many_nodes_are_told_once_in_a_while(autojump_clock: trio.testing.MockClock) -> None:
    """Each has every client ask: the first at once, and the last is not lost."""
    members = Membership(InlineRuntime(), 10.0, 60.0)
    told: list[float] = []
    sessions: Any = SimpleNamespace(push_all=lambda _kind: told.append(round(trio.current_time() - began, 3)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(daemon._announce_nodes, members, sessions)
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        for _ in range(25):
            members._tell()
            await trio.sleep(0.1)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert told == [0, 1, 2, 3]
