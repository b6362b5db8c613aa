"""A client's session, and for how long it trusts what it caches. Time is trio's, and jumps."""

from __future__ import annotations

from collections import deque
from typing import Any, cast

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from dfs import errors, verbs
from dfs.client.cache import Cache
from dfs.client.session import Session
from dfs.rpc import Pool
from dfs.types import ROOT_INO, Ino
from tests.simulation.disk import InlineRuntime

TIMEOUT_S = 30.0
LIFE = 1
RECALL = (1, "recall", [(ROOT_INO, None)])


class NameNode:
    """A `Pool` to a NameNode whose answers to `events` are `after`, each so many seconds late, and then none every
    five. It never hears that anything is forgotten."""

    key = None

    def __init__(self, *after: tuple[float, list[Any]]) -> None:
        self._events = deque(after)
        self.life = LIFE
        self.claims: list[tuple[Any, ...]] = []
        self.asked: list[tuple[Any, ...]] = []

    async def call(self, _address: str, _name: str, method: str, *args: Any, **_options: Any) -> Any:
        if method == "open_session":
            return {"session": 1, "timeout_s": TIMEOUT_S, "root": ROOT_INO, "caches": True, "incarnation": LIFE}
        if method == "events":
            self.asked.append(args[1:])
            late_s, events = self._events.popleft() if self._events else (5.0, [])
            await trio.sleep(late_s)
            return self.life, events
        if method == "reclaim":
            self.claims.append(args[2:])
            return None
        return await trio.sleep_forever()


async def opened(namenode: NameNode, nursery: trio.Nursery) -> Session:
    session = Session(cast(Pool, namenode), InlineRuntime(), nursery, "namenode:1", 60.0, Cache(100, 100))
    await session.ensure()
    return session


async def test_a_recall_that_comes_late_is_counted_from_when_it_may_have_been_sent(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """That is when the NameNode begins to count until it ends who has not forgotten."""
    session = await opened(NameNode((12.0, [RECALL])), nursery)
    await trio.sleep(TIMEOUT_S / 2 - 1)
    assert session.is_trusted
    await trio.sleep(5)  # by now the next answer is here: the NameNode has been heard, and waits for ours
    assert not session.is_trusted
    nursery.cancel_scope.cancel()


async def test_a_kernel_shows_nothing_for_as_long_as_the_silence_after_which_the_session_ends(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    session = await opened(NameNode((1e9, [])), nursery)
    shown_until = 0.0
    for _ in range(int(2 * TIMEOUT_S)):
        if session.kernel_timeout_s:
            shown_until = trio.current_time() + session.kernel_timeout_s
        await trio.sleep(1)
    assert TIMEOUT_S / 2 < shown_until < TIMEOUT_S
    nursery.cancel_scope.cancel()


class CutOnce(NameNode):
    """What leads to it is cut without a word while the first `events` is under way."""

    async def call(self, address: str, name: str, method: str, *args: Any, **options: Any) -> Any:
        if method == "events" and not self.asked:
            self.asked.append(args[1:])
            await trio.sleep(options["timeout_s"])
            raise errors.DeadlineExceeded("no answer")
        return await super().call(address, name, method, *args, **options)


async def test_a_connection_that_is_cut_without_a_word_is_found_out_long_before_the_session_ends(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    session = await opened(CutOnce(), nursery)
    await trio.sleep(TIMEOUT_S * 2 / 3)
    assert session.is_trusted
    nursery.cancel_scope.cancel()


async def test_who_is_told_that_there_is_more_has_not_heard_all(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    parts = [(5.0, [(number, "nodes", None), (number, verbs.MORE, None)]) for number in range(1, 20)]
    session = await opened(NameNode(*parts), nursery)
    await trio.sleep(TIMEOUT_S / 2 + 1)
    assert not session.is_trusted
    nursery.cancel_scope.cancel()


async def test_after_a_restart_all_is_claimed_that_somebody_here_may_show(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """What was recalled as well, until the NameNode knows that it is forgotten."""
    namenode = NameNode((1.0, [RECALL, (2, "recall", [(Ino(7), b"name")])]))
    session = await opened(namenode, nursery)
    session.held_besides.append(lambda: ([Ino(8)], [Ino(9)]))
    session.dirty_inos = lambda: [Ino(10)]
    session.stream.put("setattr", (Ino(11), {}), 1, None, (Ino(11),))
    token = session.cache.ask() if session.cache is not None else 0
    await trio.sleep(2)
    namenode.life += 1
    await trio.sleep(10)
    assert namenode.claims == [([ROOT_INO, 8], [7, 9], [10, 11], True)]
    assert session.cache is not None and not session.cache.is_valid(token, (Ino(12), None)), "that was the one before"
    nursery.cancel_scope.cancel()


async def test_who_waits_for_an_answer_claims_nothing_after_a_restart_of_what_he_knew(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """It may have happened, and others may have seen that."""
    namenode = NameNode((1.0, []))
    session = await opened(namenode, nursery)
    assert session.cache is not None
    session.cache.learn_name(session.cache.ask(), ROOT_INO, b"name", Ino(7))
    forgotten = trio.Event()

    async def forget() -> None:
        forgotten.set()

    session.on_forget_all = forget
    session.take_seq()
    await trio.sleep(2)
    assert session.cache.held() == ([], [ROOT_INO])
    namenode.life += 1
    await trio.sleep(10)
    assert namenode.claims == [([], [], [], True)] and forgotten.is_set()
    nursery.cancel_scope.cancel()


async def test_what_a_command_is_about_that_goes_in_order_stays_owned_over_a_restart(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """Though somebody waits for it, and all that was known is forgotten: it would wait for others at the NameNode."""
    namenode = NameNode((1.0, []))
    session = await opened(namenode, nursery)
    session.stream.begin("setxattr", (Ino(7), b"user.name", b"", 0))
    session.take_seq()  # of another command, which does not go in order
    await trio.sleep(2)
    namenode.life += 1
    await trio.sleep(10)
    assert namenode.claims == [([], [], [7], True)]
    nursery.cancel_scope.cancel()


class FailingNameNode(NameNode):
    """To a method there is no answer but an error."""

    def __init__(self, method: str, error: errors.DfsError, *after: tuple[float, list[Any]]) -> None:
        super().__init__(*after)
        self._method = method
        self._error = error

    async def call(self, address: str, name: str, method: str, *args: Any, **options: Any) -> Any:
        if method == self._method:
            raise type(self._error)(self._error.message)
        return await super().call(address, name, method, *args, **options)


async def test_who_gives_up_his_session_shows_nothing_while_it_is_being_forgotten(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    refusal = errors.InvalidArgument("it is more than a session can have held")
    namenode = FailingNameNode("reclaim", refusal, (1.0, []))
    session = await opened(namenode, nursery)
    trusted: list[bool] = []

    async def forget() -> None:
        trusted.append(session.is_trusted)

    session.on_forget_all = forget
    await trio.sleep(2)
    assert session.is_trusted
    namenode.life += 1
    with capture_logs():
        await trio.sleep(10)
    assert trusted[0] is False
    nursery.cancel_scope.cancel()


async def test_events_of_another_life_are_numbered_anew(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    namenode = NameNode((1.0, [(7, "nodes", None)]))
    await opened(namenode, nursery)
    await trio.sleep(2)
    namenode.life += 1
    await trio.sleep(5)
    assert namenode.asked == [(0, LIFE), (7, LIFE), (0, LIFE + 1)]
    nursery.cancel_scope.cancel()


class FullNameNode(NameNode):
    """Its first `apply` waits for `answers` and fails then as on a full disk; by then the session has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = trio.Event()
        self.applied = 0

    async def call(self, address: str, name: str, method: str, *args: Any, **options: Any) -> Any:
        if method != "apply":
            return await super().call(address, name, method, *args, **options)
        self.applied += 1
        if self.applied == 1:
            await self.answers.wait()
            raise errors.NoSpace("the NameNode's disk is full")
        raise errors.SessionExpired("session 1 has ended")


async def test_what_was_lost_with_its_session_is_not_sent_again_when_the_namenode_says_that_its_disk_is_full(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    namenode = FullNameNode()
    session = await opened(namenode, nursery)
    session.stream.put("unlink", (1, b"a"), 1, None, (1,))
    await trio.sleep(1)
    with capture_logs():
        session.lose(session.session)
        namenode.answers.set()
        await trio.sleep(60)
    assert namenode.applied == 1
    assert session.stream.unsettled == 0
    nursery.cancel_scope.cancel()


async def test_what_may_have_happened_or_not_is_asked_for(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    session = await opened(FailingNameNode("apply", errors.ConnectionLost("it broke")), nursery)
    assert session.cache is not None
    session.cache.learn_name(session.cache.ask(), ROOT_INO, b"name", Ino(7))
    assert session.cache.name(ROOT_INO, b"name") == 7
    with capture_logs(), pytest.raises(errors.ConnectionLost):
        await session.apply("unlink", ROOT_INO, b"name")
    assert session.cache.name(ROOT_INO, b"name") is None
    nursery.cancel_scope.cancel()


class AwayNameNode(NameNode):
    async def call(self, *_args: Any, **_options: Any) -> Any:
        await trio.sleep(0.1)
        raise errors.Unreachable("nobody listens there")


async def test_all_who_wait_for_a_session_give_up_after_the_same_time(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    session = Session(cast(Pool, AwayNameNode()), InlineRuntime(), nursery, "namenode:1", 60.0, None)
    took_s: list[float] = []

    async def wait() -> None:
        began = trio.current_time()
        with pytest.raises(errors.Unreachable):
            await session.ensure()
        took_s.append(trio.current_time() - began)

    async with trio.open_nursery() as waiting:
        for _ in range(20):
            waiting.start_soon(wait)
    assert 50 < min(took_s) <= max(took_s) < 70
    nursery.cancel_scope.cancel()


async def test_who_hears_all_the_time_goes_on_trusting_while_he_answers_a_recall(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """For a sixth of the time-out at least: when the recall comes, he was told all until two calls ago."""
    session = await opened(NameNode(*[(5.0, [])] * 20, (5.0, [RECALL])), nursery)
    await trio.sleep(105 + TIMEOUT_S / 6 - 1)
    assert session.is_trusted
    await trio.sleep(2)
    assert not session.is_trusted
    nursery.cancel_scope.cancel()
