"""Who shares a daemon has his share of it: a flood is the problem of who sends it, however many connections he has."""

from __future__ import annotations

import random
from collections.abc import Hashable

import pytest

from dfs.turns import Judge, Shares, Turns, Verdict

FLOODER, OTHER, THIRD = "flooder", "other", "third"


def up_to(most: int) -> Judge:
    """So much in one round, of all together."""
    left = most

    def judge(_party: Hashable, _member: Hashable, cost: int) -> Verdict:
        nonlocal left
        if cost > left:
            return Verdict.STOP
        left -= cost
        return Verdict.TAKE

    return judge


# --- turns ------------------------------------------------------------------------------------------------


def test_what_came_first_of_a_member_leaves_first() -> None:
    turns: Turns[str] = Turns(each=2)
    for item in "abc":
        turns.put(OTHER, 1, item, 1)
    assert turns.take() == ["a", "b"]
    assert turns.take() == ["c"]
    assert not turns and turns.cost == 0


@pytest.mark.parametrize("members", [1, 500])
def test_a_flood_delays_another_party_by_one_turn_whatever_its_members(members: int) -> None:
    turns: Turns[str] = Turns(each=100)
    for number in range(9000):
        turns.put(FLOODER, number % members, "flood", 1)
    turns.put(OTHER, 1, "mine", 1)
    assert turns.take() == ["flood"] * 100 + ["mine"]


def test_a_party_that_works_one_item_at_a_time_has_one_in_each_round_of_a_flood() -> None:
    turns: Turns[str] = Turns(each=10)
    had = 0
    for _ in range(100):
        for member in range(50):
            turns.put(FLOODER, member, "flood", 1)
        turns.put(OTHER, 1, "mine", 1)
        taken = turns.take()
        assert taken.count("mine") == 1
        had += taken.count("flood")
    assert had == 100 * 10


def test_members_of_one_party_give_one_item_each_in_turn() -> None:
    turns: Turns[str] = Turns(each=4)
    for item in "abcd":
        turns.put(FLOODER, 1, item, 1)
    for item in "xy":
        turns.put(FLOODER, 2, item, 1)
    assert turns.take() == ["a", "x", "b", "y"]
    assert turns.take() == ["c", "d"]


def test_what_was_more_than_a_share_is_paid_for_in_later_rounds() -> None:
    turns: Turns[str] = Turns(each=10)
    for _ in range(2):
        turns.put(FLOODER, 1, "large", 35)
    for _ in range(5):
        turns.put(OTHER, 1, "small", 10)
    assert [turns.take() for _ in range(5)] == [["large", "small"], ["small"], ["small"], ["large", "small"], ["small"]]


def test_a_debt_is_not_forgotten_when_nothing_waits() -> None:
    turns: Turns[str] = Turns(each=10)
    turns.put(FLOODER, 1, "large", 35)
    assert turns.take() == ["large"]
    assert not turns.pass_by(FLOODER, 1)
    turns.put(FLOODER, 2, "again", 35)
    assert [turns.take() for _ in range(3)] == [[], [], ["again"]]


def test_who_has_not_used_up_his_share_need_not_wait() -> None:
    turns: Turns[str] = Turns(each=2)
    assert turns.pass_by(OTHER, 1) and turns.pass_by(OTHER, 1)
    assert not turns.pass_by(OTHER, 1)
    assert turns.pass_by(THIRD, 1)
    turns.put(OTHER, 1, "late", 1)
    assert turns.take() == ["late"]
    assert turns.pass_by(OTHER, 1)


def test_nothing_overtakes_what_waits_of_the_same_party() -> None:
    turns: Turns[str] = Turns(each=2)
    turns.put(OTHER, 1, "first", 1)
    assert not turns.pass_by(OTHER, 1)


def test_what_a_party_had_besides_is_counted() -> None:
    turns: Turns[str] = Turns(each=10)
    turns.charge(FLOODER, 25)
    turns.put(FLOODER, 1, "flood", 1)
    assert [turns.take() for _ in range(2)] == [[], ["flood"]]


def test_who_had_his_turn_is_behind_those_who_had_none() -> None:
    turns: Turns[str] = Turns(each=5)
    for _ in range(1000):
        turns.put(FLOODER, 1, "flood", 1)
    for party, item in ((OTHER, "other"), (THIRD, "third")):
        turns.put(party, 1, item, 5)
    assert turns.take(up_to(5)) == ["flood"] * 5
    assert turns.take(up_to(5)) == ["other"]
    assert turns.take(up_to(5)) == ["third"]
    assert turns.take(up_to(5)) == ["flood"] * 5


def test_nobody_is_passed_over_because_his_item_is_large() -> None:
    turns: Turns[str] = Turns(each=10)
    turns.put(FLOODER, 1, "small", 1)
    turns.put(OTHER, 1, "large", 10)
    turns.put(THIRD, 1, "small", 1)
    assert turns.take(up_to(10)) == ["small"]
    assert turns.take(up_to(10)) == ["large"]


def test_who_may_not_now_keeps_nobody_waiting() -> None:
    turns: Turns[str] = Turns(each=10)
    turns.put(FLOODER, 1, "flood", 1)
    turns.put(OTHER, 1, "mine", 1)
    assert turns.take(lambda party, *_: Verdict.NEXT_PARTY if party == FLOODER else Verdict.TAKE) == ["mine"]
    assert turns.take() == ["flood"]


def test_a_member_who_may_not_now_keeps_no_other_waiting() -> None:
    turns: Turns[str] = Turns(each=10)
    for member in "ab":
        turns.put(OTHER, member, member, 1)
    assert turns.take(lambda _, member, *_rest: Verdict.NEXT_MEMBER if member == "a" else Verdict.TAKE) == ["b"]
    assert turns.has(OTHER)
    assert turns.take() == ["a"]
    assert not turns.has(OTHER)


def test_what_is_removed_waits_no_more() -> None:
    turns: Turns[str] = Turns(each=10)
    for item in "abc":
        turns.put(OTHER, 1, item, 2)
    turns.remove(OTHER, 1, "b")
    assert turns.cost == 4
    assert turns.take() == ["a", "c"]
    turns.put(OTHER, 1, "d", 1)
    turns.remove(OTHER, 1, "d")
    assert not turns and turns.cost == 0


@pytest.mark.parametrize("seed", range(20))
def test_all_that_enters_leaves_once_and_in_order_and_in_shares(seed: int) -> None:
    chance = random.Random(seed)
    turns: Turns[tuple[str, int, int, int]] = Turns(each=10)
    left: dict[tuple[str, int], list[int]] = {}
    entered: dict[tuple[str, int], list[int]] = {}
    for number in range(2000):
        party, member, size = chance.choice("aaabcd"), chance.randint(1, 3), chance.randint(1, 8)
        turns.put(party, member, (party, member, number, size), size)
        entered.setdefault((party, member), []).append(number)
        while turns and (number == 1999 or chance.random() < 0.3):
            taken = turns.take(up_to(25))
            assert sum(size for *_, size in taken) <= 25
            for who in {each[0] for each in taken}:
                assert sum(each[3] for each in taken if each[0] == who) < 10 + 8
            for who, which, what, _ in taken:
                left.setdefault((who, which), []).append(what)
    assert left == entered and turns.cost == 0


# --- shares of room ---------------------------------------------------------------------------------------


def fits(shares: Shares, party: str, member: object, amount: int) -> bool:
    return shares.judge(party, member, amount) is Verdict.TAKE


def fill(shares: Shares, party: str, members: int, amount: int = 1) -> int:
    """Have members take as much as they may, in turn; how much it is."""
    before = shares.total
    found = True
    while found:
        found = False
        for member in range(members):
            if fits(shares, party, member, amount):
                shares.add(party, member, amount)
                found = True
    return shares.total - before


def test_a_member_alone_has_a_third() -> None:
    assert fill(Shares(300), FLOODER, 1) == 100


def test_a_party_leaves_as_much_as_it_has_however_many_its_members() -> None:
    shares = Shares(1000)
    assert 450 < fill(shares, FLOODER, 100) <= 500
    assert fill(shares, OTHER, 1) > 150
    assert shares.total < 1000


def test_another_member_of_a_flooding_party_finds_room_too() -> None:
    shares = Shares(1000)
    fill(shares, FLOODER, 3)
    assert fits(shares, FLOODER, "another", 70)


def test_who_has_nothing_may_have_all_there_is_and_no_more() -> None:
    shares = Shares(100)
    assert fits(shares, OTHER, 1, 100)
    assert not fits(shares, OTHER, 1, 101)


def test_who_is_kept_out_by_whom_is_told_apart() -> None:
    shares = Shares(300)
    fill(shares, FLOODER, 1)
    assert shares.judge(FLOODER, 0, 1) is Verdict.NEXT_MEMBER
    assert shares.judge(FLOODER, 1, 100) is Verdict.NEXT_PARTY
    assert shares.judge(OTHER, 1, 201) is Verdict.STOP


def test_what_is_given_back_can_be_had_again() -> None:
    shares = Shares(300)
    fill(shares, FLOODER, 1)
    assert not fits(shares, FLOODER, 0, 1)
    shares.release(FLOODER, 0, 100)
    assert shares.total == 0
    assert fill(shares, FLOODER, 1) == 100


def test_the_room_is_never_exceeded_by_however_many() -> None:
    shares = Shares(100)
    for party in range(1000):
        if fits(shares, party, 1, 7):
            shares.add(party, 1, 7)
        assert shares.total <= 100
