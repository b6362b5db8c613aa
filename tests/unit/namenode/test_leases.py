"""Leases: who has to forget what before a change happens, and every order in which that can go wrong."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from dfs import errors, limits
from dfs.types import ALL_NAMES, SHAPE, Ino, Item, SessionId
from nodes.namenode.leases import Leases

ANNE, BERT, CARL = SessionId(1), SessionId(2), SessionId(3)
"""Anne and Bert cache, Carl does not."""
D, FILE = Ino(10), Ino(11)
ATTR: Item = (FILE, None)
NAME: Item = (D, b"name")


class Told:
    """Leases, with what sessions were asked to forget; `answer` has one do so."""

    def __init__(self) -> None:
        self.leases = Leases()
        self.leases.push = self._push
        self.asked: dict[SessionId, list[tuple[int, list[Item]]]] = {ANNE: [], BERT: [], CARL: []}
        self._last = 0
        for session in (ANNE, BERT):
            self.leases.join(session)

    def _push(self, session: SessionId, kind: str, payload: Any) -> int:
        assert kind == "recall"
        self._last += 1
        self.asked[session].append((self._last, list(payload)))
        return self._last

    def items(self, session: SessionId) -> list[Item]:
        """What a session is asked to forget and has not yet."""
        return [item for _, items in self.asked[session] for item in items]

    def answer(self, session: SessionId) -> None:
        asked, self.asked[session] = self.asked[session], []
        for number, _ in asked:
            self.leases.forgot(session, number, ())

    def change(self, author: SessionId, *items: Item, seq: int = 1, result: Ino | None = None) -> bool:
        """Apply and commit, if nobody has to be asked first."""
        if self.leases.conflicts(author, items):
            return False
        self.leases.applied(author, seq, items, result)
        self.leases.committed()
        return True


@pytest.fixture
def told() -> Told:
    return Told()


async def test_what_nobody_else_knows_is_changed_at_once(told: Told) -> None:
    assert told.leases.cover_attr(ANNE, FILE)
    assert told.change(ANNE, ATTR)
    assert told.items(ANNE) == []


async def test_who_caches_nothing_has_others_forget_and_is_never_asked(told: Told) -> None:
    assert not told.leases.cover_attr(CARL, FILE)
    assert told.leases.cover_attr(ANNE, FILE)
    assert not told.change(CARL, ATTR)
    assert told.change(CARL, NAME)
    assert told.items(CARL) == []


async def test_a_change_waits_until_all_others_have_forgotten(told: Told) -> None:
    for session in (ANNE, BERT):
        assert told.leases.cover_attr(session, FILE)
    told.leases.begin(CARL, [ATTR])
    assert told.items(ANNE) == told.items(BERT) == [ATTR]
    told.answer(ANNE)
    assert told.leases.conflicts(CARL, [ATTR])
    told.answer(BERT)
    assert told.change(CARL, ATTR)


async def test_one_lease_on_the_entries_covers_every_name_and_is_kept_when_one_changes(told: Told) -> None:
    assert told.leases.cover_name(ANNE, D, b"other")
    told.leases.begin(BERT, [NAME])
    assert told.items(ANNE) == [NAME]
    told.answer(ANNE)
    assert told.change(BERT, NAME)
    told.leases.finish([NAME])
    assert told.leases.conflicts(BERT, [(D, b"other")])


async def test_while_a_change_waits_nobody_learns_what_it_changes(told: Told) -> None:
    assert told.leases.cover_attr(ANNE, FILE)
    assert told.leases.cover_entries(ANNE, D)
    told.leases.begin(CARL, [ATTR, NAME])
    assert not told.leases.cover_attr(BERT, FILE)
    assert not told.leases.cover_name(BERT, D, b"name")
    assert not told.leases.cover_entries(BERT, D)
    assert told.leases.cover_name(BERT, D, b"other")
    told.leases.finish([ATTR, NAME])
    assert told.leases.cover_attr(BERT, FILE)
    assert told.leases.cover_entries(BERT, D)


async def test_while_all_names_are_being_forgotten_nobody_learns_one(told: Told) -> None:
    assert told.leases.cover_entries(ANNE, D)
    told.leases.begin(CARL, [(D, ALL_NAMES)])
    assert not told.leases.cover_name(BERT, D, b"name")
    told.leases.finish([(D, ALL_NAMES)])
    assert told.leases.cover_name(BERT, D, b"name")


async def test_who_learns_what_others_wait_to_change_is_waited_for(told: Told) -> None:
    """Both were held back, and the first to go on learns what it has made of it."""
    assert told.leases.cover_attr(BERT, FILE)
    for session in (CARL, ANNE):
        told.leases.begin(session, [ATTR])
    told.answer(BERT)
    assert told.change(ANNE, ATTR, result=FILE)
    told.leases.finish([ATTR])
    assert told.items(ANNE) == [ATTR]
    assert not told.change(CARL, ATTR)
    told.answer(ANNE)
    assert told.change(CARL, ATTR)


async def test_until_the_disk_has_a_change_nobody_learns_what_was_before_it(told: Told) -> None:
    told.leases.applied(CARL, 1, [ATTR, NAME], None)
    assert not told.leases.cover_attr(ANNE, FILE)
    assert not told.leases.cover_entries(ANNE, D)
    told.leases.committed()
    assert told.leases.cover_attr(ANNE, FILE)
    assert told.leases.cover_entries(ANNE, D)


async def test_nothing_is_leased_to_who_has_yet_to_forget_it(told: Told) -> None:
    """The answer that it has forgotten would end the new lease, of which it believes that it holds."""
    assert told.leases.cover_attr(ANNE, FILE)
    told.leases.tell(BERT, [FILE])
    assert not told.leases.cover_attr(ANNE, FILE)
    told.answer(ANNE)
    assert told.leases.cover_attr(ANNE, FILE)


async def test_a_result_is_leased_to_who_sent_the_command(told: Told) -> None:
    assert told.change(ANNE, NAME, result=FILE)
    assert not told.change(BERT, ATTR)


async def test_a_result_that_overtakes_the_answer_to_a_recall_is_recalled_again(told: Told) -> None:
    assert told.leases.cover_attr(ANNE, FILE)
    told.leases.tell(BERT, [FILE])
    told.leases.applied(ANNE, 1, [ATTR], FILE)
    told.leases.committed()
    assert told.items(ANNE).count(ATTR) >= 2


async def test_who_changes_what_another_waits_to_change_is_asked_to_forget_that_too(told: Told) -> None:
    assert told.leases.cover_attr(ANNE, FILE)
    told.leases.begin(BERT, [ATTR])
    assert told.change(ANNE, ATTR, result=FILE)  # it waits for nobody but Anne
    assert told.leases.conflicts(BERT, [ATTR])
    told.answer(ANNE)
    assert told.change(BERT, ATTR)


async def test_two_who_wait_for_each_other_go_one_after_the_other(told: Told) -> None:
    for session in (ANNE, BERT):
        assert told.leases.cover_attr(session, FILE)
    told.leases.begin(ANNE, [ATTR])
    told.leases.begin(BERT, [ATTR])
    assert told.items(ANNE) == told.items(BERT) == [ATTR]
    told.answer(BERT)
    assert told.change(ANNE, ATTR, result=FILE)
    told.leases.finish([ATTR])
    assert told.leases.conflicts(BERT, [ATTR])
    told.answer(ANNE)
    assert told.change(BERT, ATTR)


# --- doubt ----------------------------------------------------------------------------------------------


async def test_a_reader_waits_until_who_made_the_change_shows_it(told: Told, nursery: trio.Nursery) -> None:
    assert told.leases.cover_attr(ANNE, FILE)
    assert told.change(ANNE, ATTR)
    doubtful = told.leases.in_doubt(BERT, [ATTR, NAME])
    assert doubtful == [ATTR]
    cleared = trio.Event()

    async def read() -> None:
        await told.leases.clear_doubt(doubtful)
        cleared.set()

    nursery.start_soon(read)
    await trio.testing.wait_all_tasks_blocked()
    told.leases.forgot(BERT, 0, ())  # which is something else
    await trio.testing.wait_all_tasks_blocked()
    assert not cleared.is_set()
    told.answer(ANNE)
    await cleared.wait()
    assert told.leases.in_doubt(BERT, [ATTR]) == []


async def test_who_made_the_change_knows_it(told: Told) -> None:
    assert told.leases.cover_attr(ANNE, FILE)
    assert told.change(ANNE, ATTR)
    assert told.leases.in_doubt(ANNE, [ATTR]) == []


async def test_an_acknowledged_change_is_in_no_doubt(told: Told) -> None:
    assert told.leases.cover_entries(ANNE, D)
    assert told.change(ANNE, NAME, seq=5)
    told.leases.acknowledge(ANNE, 5)
    assert told.leases.names_in_doubt(D) == [NAME]
    told.leases.acknowledge(ANNE, 6)
    assert told.leases.names_in_doubt(D) == []


async def test_the_end_of_a_session_ends_its_leases_and_all_waits_for_it(told: Told, nursery: trio.Nursery) -> None:
    assert told.leases.cover_attr(ANNE, FILE)
    assert told.change(ANNE, ATTR)
    told.leases.begin(BERT, [ATTR])
    nursery.start_soon(told.leases.clear_doubt, [ATTR])
    await trio.testing.wait_all_tasks_blocked()
    resumed: list[tuple[list[Item], bool]] = []
    told.leases.forgotten = lambda items: resumed.append((list(items), told.leases.conflicts(BERT, [ATTR])))
    told.leases.leave(ANNE)
    assert resumed == [([ATTR], False)]


async def test_it_is_said_what_is_forgotten_when_all_that_a_session_was_asked_is_answered(told: Told) -> None:
    assert told.leases.cover_attr(ANNE, FILE) and told.leases.cover_entries(ANNE, D)
    told.leases.begin(BERT, [ATTR, NAME])
    heard: list[Item] = []
    told.leases.forgotten = heard.extend
    assert told.leases.conflict(BERT, [NAME, ATTR]) == NAME
    told.answer(ANNE)
    assert heard == [ATTR, NAME]
    assert told.leases.conflict(BERT, [NAME, ATTR]) is None


@pytest.mark.parametrize("drops", [False, True])
async def test_who_changes_all_the_time_what_others_wait_for_is_asked_once_if_he_drops_what_he_learns(
    told: Told, drops: bool
) -> None:
    told.leases.join(CARL, drops_recalled=drops)
    assert told.leases.cover_attr(CARL, FILE)
    told.leases.begin(BERT, [ATTR])
    asked = told.items(CARL)
    for seq in (1, 2):
        assert told.change(CARL, ATTR, seq=seq, result=FILE), "he may need that to answer"
    assert asked == [ATTR] and (told.items(CARL) == [ATTR]) == drops
    ((number, _), *more), told.asked[CARL] = told.asked[CARL], []
    told.leases.forgot(CARL, number, ())
    assert told.leases.conflicts(BERT, [ATTR]) == (not drops) == bool(more)
    assert not drops or told.leases.of(CARL)["leases"] == 0


async def test_what_he_changes_after_his_answer_he_is_asked_for_anew(told: Told) -> None:
    told.leases.join(CARL, drops_recalled=True)
    assert told.leases.cover_attr(CARL, FILE)
    told.leases.begin(BERT, [ATTR])
    told.answer(CARL)
    assert told.change(CARL, ATTR, result=FILE)
    assert told.items(CARL) == [ATTR] and told.leases.conflicts(BERT, [ATTR])


async def test_what_he_learns_before_he_hears_that_he_is_to_forget_it_nobody_changes_meanwhile(told: Told) -> None:
    """He had given up the directory by himself, and has come to know another name of it, since he was asked."""
    told.leases.join(CARL, drops_recalled=True)
    assert told.leases.cover_entries(CARL, D)
    told.leases.begin(BERT, [NAME])
    told.leases.finish([NAME])  # it was refused
    told.leases.forgot(CARL, 0, [D])
    assert told.leases.cover_entries(ANNE, D)
    told.leases.begin(BERT, [NAME])
    assert told.leases.cover_name(CARL, D, b"other")
    told.answer(ANNE)
    assert told.change(CARL, NAME)
    assert told.leases.conflicts(BERT, [NAME])
    told.answer(CARL)
    assert not told.leases.conflicts(BERT, [NAME])


async def test_who_asks_waits_for_a_session_that_is_being_ended_until_it_has(told: Told, nursery: trio.Nursery) -> None:
    """It hears nothing any more, and its events have no numbers."""
    told.leases.push = lambda *_: 0
    other = Ino(12)
    answered: list[Item] = []

    async def ask(item: Item) -> None:
        await told.leases.clear_doubt([item])
        answered.append(item)

    for ino in (FILE, other):
        assert told.leases.own_unknown(ANNE, ino)
    for item in (ATTR, (other, None), ATTR):
        nursery.start_soon(ask, item)
        await trio.testing.wait_all_tasks_blocked()
    assert not answered
    told.leases.leave(ANNE)
    await trio.testing.wait_all_tasks_blocked()
    assert len(answered) == 3


async def test_who_does_not_forget_in_time_is_overdue(told: Told, autojump_clock: trio.testing.MockClock) -> None:
    assert told.leases.cover_attr(ANNE, FILE)
    told.leases.begin(BERT, [ATTR])
    asked_at = trio.current_time()
    await trio.sleep(5)
    assert told.leases.overdue(asked_at) == []
    assert told.leases.overdue(asked_at + 1) == [ANNE]
    told.leases.forgive(2)
    assert told.leases.overdue(asked_at + 2) == []
    told.answer(ANNE)
    assert told.leases.overdue(trio.current_time()) == []


async def test_who_is_asked_as_the_namenode_goes_on_has_no_longer_for_that(
    told: Told, autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.jump(600)
    assert told.leases.cover_attr(ANNE, FILE)
    told.leases.begin(BERT, [ATTR])
    told.leases.forgive(600)
    assert told.leases.overdue(trio.current_time() + 1) == [ANNE]


# --- bounds and restarts --------------------------------------------------------------------------------


async def test_the_oldest_leases_are_recalled_when_a_session_has_too_many(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LEASES_MAX", 20)
    for number in range(1, 22):
        assert told.leases.cover_attr(ANNE, Ino(number))
    assert (Ino(1), None) in told.items(ANNE)
    told.answer(ANNE)
    for number in range(1, 22):
        assert told.leases.cover_entries(ANNE, Ino(number))
    assert (Ino(1), ALL_NAMES) in told.items(ANNE)
    told.answer(ANNE)
    assert not told.leases.conflicts(BERT, [(Ino(1), None), (Ino(1), b"any")])


async def test_who_reads_on_while_he_makes_room_is_asked_once(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LEASES_MAX", 20)
    for number in range(1, 41):
        assert told.leases.cover_attr(ANNE, Ino(number))
    assert len(told.asked[ANNE]) == 1
    told.answer(ANNE)
    for number in range(41, 61):
        assert told.leases.cover_attr(ANNE, Ino(number))
    assert len(told.asked[ANNE]) == 1, "and again when there is too much again"


async def test_entries_that_are_given_up_are_not_asked_for_again(told: Told) -> None:
    assert told.leases.cover_entries(ANNE, D)
    told.leases.begin(BERT, [NAME])
    ((number, _),) = told.asked[ANNE]
    told.leases.forgot(ANNE, number, [D])
    assert not told.leases.conflicts(BERT, [NAME, (D, b"other")])


async def test_after_a_restart_changes_wait_until_all_have_said_what_they_hold(
    told: Told, nursery: trio.Nursery
) -> None:
    leases = Leases()
    leases.push = told.leases.push
    leases.join(ANNE, again=True)
    leases.join(BERT, again=True)
    ready = trio.Event()

    async def wait() -> None:
        await leases.reclaimed()
        ready.set()

    nursery.start_soon(wait)
    leases.reclaim(ANNE, [FILE], [], [], last=False)
    leases.reclaim(ANNE, [], [D], [], last=True)
    await trio.testing.wait_all_tasks_blocked()
    assert not ready.is_set()
    leases.leave(BERT)
    await ready.wait()
    assert leases.conflicts(CARL, [ATTR])
    assert leases.conflicts(CARL, [NAME])
    leases.reclaim(ANNE, [Ino(99)], [], [], last=True)  # too late: it says so to a NameNode that has gone on
    assert not leases.conflicts(CARL, [(Ino(99), None)])


# --- owning ---------------------------------------------------------------------------------------------


async def test_what_a_session_has_made_it_owns_and_others_have_it_commit_first(
    told: Told, nursery: trio.Nursery
) -> None:
    told.leases.applied(ANNE, 1, [NAME], FILE, is_new=True)
    told.leases.committed()
    assert told.leases.in_doubt(ANNE, [ATTR]) == []
    assert told.leases.in_doubt(CARL, [ATTR]) == [ATTR]
    nursery.start_soon(told.leases.clear_doubt, [ATTR])
    await trio.testing.wait_all_tasks_blocked()
    assert told.items(ANNE) == [ATTR]
    told.leases.acknowledge(ANNE, 99)  # that it knows of its command is not enough
    assert told.leases.in_doubt(CARL, [ATTR]) == [ATTR]
    told.answer(ANNE)
    assert told.leases.in_doubt(CARL, [ATTR]) == []


async def test_who_wants_to_own_an_inode_waits_until_the_others_have_forgotten_it(
    told: Told, nursery: trio.Nursery
) -> None:
    assert told.leases.cover_attr(BERT, FILE)
    owned: list[bool] = []

    async def own() -> None:
        owned.append(await told.leases.own(ANNE, FILE))

    nursery.start_soon(own)
    await trio.testing.wait_all_tasks_blocked()
    assert owned == []
    assert told.items(BERT) == [ATTR]
    assert not told.leases.cover_attr(BERT, FILE)
    told.answer(BERT)
    await trio.testing.wait_all_tasks_blocked()
    assert owned == [True]
    assert told.leases.conflicts(BERT, [ATTR])


async def test_one_owner_at_a_time(told: Told, nursery: trio.Nursery) -> None:
    assert await told.leases.own(ANNE, FILE)
    nursery.start_soon(told.leases.own, BERT, FILE)
    await trio.testing.wait_all_tasks_blocked()
    assert told.leases.in_doubt(BERT, [ATTR]) == [ATTR]
    told.answer(ANNE)
    await trio.testing.wait_all_tasks_blocked()
    assert told.leases.in_doubt(BERT, [ATTR]) == []
    assert told.leases.in_doubt(ANNE, [ATTR]) == [ATTR]


async def test_who_caches_nothing_owns_nothing(told: Told) -> None:
    assert not await told.leases.own(CARL, FILE)


async def test_an_owner_that_is_asked_to_give_up_owns_nothing_new_before_it_has(
    told: Told, nursery: trio.Nursery
) -> None:
    assert await told.leases.own(ANNE, FILE)
    nursery.start_soon(told.leases.clear_doubt, [ATTR])
    await trio.testing.wait_all_tasks_blocked()
    assert not await told.leases.own(ANNE, FILE)
    told.answer(ANNE)
    assert await told.leases.own(ANNE, FILE)
    assert told.leases.in_doubt(BERT, [ATTR]) == [ATTR]
    assert told.items(ANNE) == []


async def test_of_two_who_want_to_own_one_is_asked_and_waits_for_nothing_before_he_answers(
    told: Told, nursery: trio.Nursery
) -> None:
    """His answer may have to wait until he knows: they would wait for one another."""
    for session in (ANNE, BERT):
        assert told.leases.cover_attr(session, FILE)
    results: dict[SessionId, bool] = {}

    async def own(session: SessionId) -> None:
        results[session] = await told.leases.own(session, FILE)

    nursery.start_soon(own, ANNE)
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(own, BERT)
    await trio.testing.wait_all_tasks_blocked()
    assert results == {BERT: False}
    told.answer(BERT)
    await trio.testing.wait_all_tasks_blocked()
    assert results == {BERT: False, ANNE: True}


async def test_who_waits_to_own_what_he_is_asked_for_meanwhile_waits_no_longer(
    told: Told, nursery: trio.Nursery
) -> None:
    for session in (ANNE, BERT):
        assert told.leases.cover_attr(session, FILE)
    results: list[bool] = []

    async def own() -> None:
        results.append(await told.leases.own(ANNE, FILE))

    nursery.start_soon(own)
    await trio.testing.wait_all_tasks_blocked()
    assert results == []
    told.leases.begin(CARL, [ATTR])
    await trio.testing.wait_all_tasks_blocked()
    assert results == [False]


async def test_a_session_that_ends_owns_nothing(told: Told) -> None:
    assert await told.leases.own(ANNE, FILE)
    told.leases.leave(ANNE)
    assert told.leases.in_doubt(BERT, [ATTR]) == []


async def test_what_is_removed_is_known_to_nobody_once_its_author_has_acknowledged_that(told: Told) -> None:
    told.leases.applied(ANNE, 1, [NAME], FILE, is_new=True)
    told.leases.applied(ANNE, 2, [NAME, ATTR], FILE)
    told.leases.committed()
    told.leases.removed(ANNE, 2, [FILE])
    told.leases.acknowledge(ANNE, 2)
    assert told.leases.in_doubt(BERT, [ATTR]) == [ATTR]  # she may show it until she has the answer
    told.leases.acknowledge(ANNE, 3)
    assert not told.leases.owned() and not told.leases.in_doubt(BERT, [ATTR])
    assert told.leases.statistics()["leases"] == 0
    assert told.items(ANNE) == []


async def test_who_waits_for_what_was_removed_goes_on_when_its_author_has_acknowledged_that(told: Told) -> None:
    forgotten: list[Item] = []
    told.leases.forgotten = forgotten.extend
    told.leases.applied(ANNE, 1, [NAME, ATTR], FILE)
    told.leases.committed()
    told.leases.begin(BERT, [ATTR])
    told.leases.removed(ANNE, 1, [FILE])
    told.leases.acknowledge(ANNE, 2)
    assert forgotten == [ATTR]


async def test_the_names_of_a_directory_that_is_removed_are_known_to_nobody(told: Told) -> None:
    for session in (ANNE, BERT):
        assert told.leases.cover_entries(session, D)
    assert told.change(ANNE, (D, None), seq=4, result=D)
    told.leases.removed(ANNE, 4, [D])
    assert not told.leases.conflicts(ANNE, [NAME])
    told.leases.acknowledge(ANNE, 5)
    assert told.leases.statistics()["leases"] == 0


async def test_what_is_owned_with_bytes_in_memory_stays_owned_over_a_restart(told: Told) -> None:
    leases = Leases()
    leases.push = told.leases.push
    leases.join(ANNE, again=True)
    leases.reclaim(ANNE, [], [], [FILE], last=True)
    assert not leases.is_reclaiming
    assert leases.in_doubt(CARL, [ATTR]) == [ATTR]
    assert leases.conflicts(CARL, [ATTR])


async def test_what_one_has_said_to_own_after_a_restart_nobody_takes_from_him_by_saying_so(told: Told) -> None:
    for session in (ANNE, BERT):
        told.leases.join(session, again=True)
    for session in (ANNE, ANNE, BERT):  # who has no answer says it again
        told.leases.reclaim(session, [], [], [FILE], last=False)
    assert told.leases.is_owner(ANNE, FILE) and told.leases.in_doubt(ANNE, [ATTR]) == []
    assert told.leases.conflicts(ANNE, [ATTR]), "the other may show it all the same"


async def test_nobody_can_say_without_end_what_he_held(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LEASES_CLAIMED_MAX", 10)
    told.leases.join(ANNE, again=True)
    told.leases.reclaim(ANNE, [Ino(1), Ino(2)], [Ino(ino) for ino in range(1, 11)], [Ino(3)], last=False)
    for more in (([Ino(ino) for ino in range(4, 12)], [], []), ([], [Ino(11)], []), ([], [], [Ino(4)] * 8)):
        with pytest.raises(errors.InvalidArgument, match="more than 10 leases"):
            told.leases.reclaim(ANNE, *more, last=True)
    assert told.leases.statistics()["leases"] == 13 and told.leases.is_claiming(ANNE)


# --- sessions that are limited to a subtree ---------------------------------------------------------------


@pytest.fixture
def limited() -> Told:
    """Anne is limited to a subtree, and knows a file and a name in it."""
    told = Told()
    told.leases.leave(ANNE)
    told.leases.join(ANNE, is_limited=True)
    assert told.leases.lacks_shape(ANNE) and not told.leases.lacks_shape(BERT)
    assert told.leases.cover_attr(ANNE, FILE) and told.leases.cover_name(ANNE, *NAME)
    assert not told.leases.lacks_shape(ANNE)
    return told


async def test_who_is_limited_forgets_all_when_something_leaves_the_subtree(limited: Told) -> None:
    leases = limited.leases
    assert leases.own_unknown(ANNE, FILE)
    assert not limited.change(BERT, SHAPE)
    leases.begin(BERT, [SHAPE])
    assert limited.items(ANNE) == [SHAPE]
    assert not leases.cover_attr(ANNE, Ino(77)) and not leases.cover_name(ANNE, D, b"x")
    assert not leases.cover_entries(ANNE, D) and not leases.own_unknown(ANNE, Ino(77))
    assert not limited.change(BERT, SHAPE)
    limited.answer(ANNE)
    assert leases.statistics()["leases"] == leases.statistics()["owned"] == 0
    assert not leases.cover_attr(ANNE, FILE), "the change is still on its way"
    leases.applied(BERT, 1, [SHAPE], None)
    leases.finish([SHAPE])
    assert not leases.cover_attr(ANNE, FILE), "and not durable"
    leases.committed()
    assert not leases.own_unknown(ANNE, FILE), "nobody was asked about the way to the subtree"
    assert leases.cover_attr(ANNE, FILE)
    assert leases.own_unknown(ANNE, FILE)


async def test_changes_that_wait_for_who_forgets_all_go_on(limited: Told) -> None:
    moved: list[Item] = []
    limited.leases.forgotten = moved.extend
    limited.leases.begin(BERT, [ATTR])
    (first, _), *_ = limited.asked[ANNE]
    limited.leases.begin(BERT, [SHAPE])
    number = limited.asked[ANNE][-1][0]
    limited.leases.forgot(ANNE, number, ())
    assert {ATTR, SHAPE} <= set(moved)
    assert limited.change(BERT, ATTR, SHAPE)
    limited.leases.forgot(ANNE, first, ())


async def test_what_it_learns_of_a_command_while_it_has_not_heard_nobody_changes(limited: Told) -> None:
    limited.leases.begin(BERT, [SHAPE])
    assert limited.change(ANNE, ATTR, result=FILE)
    assert limited.leases.conflicts(BERT, [ATTR])


@pytest.mark.parametrize("has_forgotten", [False, True])
async def test_what_a_command_gives_meanwhile_goes_with_the_rest_and_keeps_nobody_waiting(
    limited: Told, has_forgotten: bool
) -> None:
    """Who has not heard yet that he is to forget everything learns from the reply."""
    limited.leases.begin(BERT, [SHAPE])
    if has_forgotten:
        limited.answer(ANNE)
    new = Ino(78)
    for seq in range(1, 4):
        limited.leases.applied(ANNE, seq, [(new, None)], new, is_new=True)
        limited.leases.committed()
    assert limited.leases.is_owner(ANNE, new) == limited.leases.conflicts(BERT, [(new, None)]) == (not has_forgotten)
    assert limited.items(ANNE) == ([] if has_forgotten else [SHAPE]), "it is asked once"
    limited.answer(ANNE)
    assert limited.change(BERT, SHAPE, (new, None))
    assert limited.leases.statistics()["leases"] == 0
    limited.leases.finish([SHAPE])
    assert limited.leases.cover_attr(ANNE, FILE)
    limited.leases.applied(ANNE, 4, [(new, None)], new, is_new=True)
    limited.leases.committed()
    assert limited.leases.is_owner(ANNE, new)


async def test_who_is_limited_and_moves_something_itself_learns_what_it_did(limited: Told) -> None:
    limited.leases.join(BERT, is_limited=True)
    assert limited.leases.cover_attr(BERT, FILE)
    assert not limited.change(ANNE, SHAPE)
    limited.leases.begin(ANNE, [SHAPE])
    assert limited.items(ANNE) == [] and limited.items(BERT) == [SHAPE]
    limited.answer(BERT)
    assert limited.change(ANNE, SHAPE, result=D)
    assert not limited.change(CARL, (D, None)), "the author knows it"


async def test_who_is_limited_and_holds_too_much_keeps_what_all_depends_on(
    limited: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LEASES_MAX", 3)
    for number in range(5):
        limited.leases.cover_attr(ANNE, Ino(100 + number))
    assert limited.items(ANNE) and SHAPE not in limited.items(ANNE)


async def test_after_a_restart_who_is_limited_is_asked_before_something_leaves_the_subtree(told: Told) -> None:
    told.leases.leave(ANNE)
    told.leases.join(ANNE, is_limited=True, again=True)
    told.leases.reclaim(ANNE, [FILE], [], [], last=True)
    assert not told.change(BERT, SHAPE)
