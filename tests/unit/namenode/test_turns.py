"""Sessions take turns: a flood of commands is the problem of who sends it."""

from __future__ import annotations

import random

import pytest

from dfs import errors
from dfs.types import SessionId
from nodes.namenode.turns import Turns

FLOODER, OTHER, THIRD = SessionId(1), SessionId(2), SessionId(3)


def put(turns: Turns[str], session: SessionId, item: str, commands: int = 1, each: int = 10_000) -> None:
    turns.put(session, item, commands, each_max=each, all_max=20_000)


def test_what_came_first_of_a_session_leaves_first() -> None:
    turns: Turns[str] = Turns()
    for item in "abc":
        put(turns, OTHER, item)
    assert turns.take(each_max=2, all_max=10) == ["a", "b"]
    assert turns.take(each_max=2, all_max=10) == ["c"]
    assert not turns and turns.commands == 0


def test_a_flood_delays_another_session_by_one_turn() -> None:
    turns: Turns[str] = Turns()
    for _ in range(9000):
        put(turns, FLOODER, "flood")
    put(turns, OTHER, "mine")
    assert turns.take(each_max=100, all_max=1000) == ["flood"] * 100 + ["mine"]


def test_who_had_his_turn_is_behind_those_who_had_none() -> None:
    turns: Turns[str] = Turns()
    for _ in range(1000):
        put(turns, FLOODER, "flood")
    for session, item in ((OTHER, "other"), (THIRD, "third")):
        put(turns, session, item, 5)
    assert turns.take(each_max=5, all_max=5) == ["flood"] * 5
    assert turns.take(each_max=5, all_max=5) == ["other"]
    assert turns.take(each_max=5, all_max=5) == ["third"]
    assert turns.take(each_max=5, all_max=5) == ["flood"] * 5


def test_nobody_is_passed_over_because_his_batch_is_large() -> None:
    turns: Turns[str] = Turns()
    put(turns, FLOODER, "small", 1)
    put(turns, OTHER, "large", 10)
    put(turns, THIRD, "small", 1)
    assert turns.take(each_max=10, all_max=10) == ["small"]
    assert turns.take(each_max=10, all_max=10) == ["large"]


def test_a_batch_that_is_larger_than_a_transaction_is_one_by_itself() -> None:
    turns: Turns[str] = Turns()
    put(turns, OTHER, "huge", 50)
    put(turns, OTHER, "next", 1)
    assert turns.take(each_max=10, all_max=10) == ["huge"]
    assert turns.take(each_max=10, all_max=10) == ["next"]


def test_too_much_of_one_session_is_refused_and_others_are_not() -> None:
    turns: Turns[str] = Turns()
    put(turns, FLOODER, "flood", 10, each=10)
    with pytest.raises(errors.Busy):
        put(turns, FLOODER, "flood", 1, each=10)
    put(turns, OTHER, "mine", 10, each=10)


def test_batches_without_commands_count_too() -> None:
    turns: Turns[str] = Turns()
    put(turns, FLOODER, "empty", 0, each=1)
    with pytest.raises(errors.Busy):
        put(turns, FLOODER, "empty", 0, each=1)


def test_who_has_less_than_his_share_is_let_in_when_others_have_taken_the_room() -> None:
    turns: Turns[int] = Turns()
    for session in (FLOODER, OTHER):
        turns.put(session, 0, 10, each_max=10, all_max=20)
    with pytest.raises(errors.Busy):
        turns.put(THIRD, 0, 7, each_max=10, all_max=20)
    turns.put(THIRD, 0, 6, each_max=10, all_max=20)


@pytest.mark.parametrize("seed", range(20))
def test_all_that_is_let_in_leaves_once_and_in_order_and_in_bounds(seed: int) -> None:
    chance = random.Random(seed)
    turns: Turns[tuple[int, int, int]] = Turns()
    left: dict[int, list[int]] = {}
    entered: dict[int, list[int]] = {}
    for number in range(2000):
        session, size = SessionId(chance.choice((1, 1, 1, 2, 3, 4))), chance.randint(1, 8)
        try:
            turns.put(session, (session, number, size), size, each_max=100, all_max=200)
            entered.setdefault(session, []).append(number)
        except errors.Busy:
            pass
        assert turns.commands < 400
        if chance.random() < 0.1 or number == 1999:
            while taken := turns.take(each_max=10, all_max=25):
                assert sum(each[2] for each in taken) <= 25
                for who in {each[0] for each in taken}:
                    assert sum(each[2] for each in taken if each[0] == who) <= 10
                for who, what, _ in taken:
                    left.setdefault(who, []).append(what)
                if number < 1999 and chance.random() < 0.5:
                    break
    assert left == entered and not turns
