"""What a client may answer by itself, when answers, recalls and its own changes overtake each other."""

from __future__ import annotations

import pytest

from dfs.client.cache import ABSENT, NEVER, Cache, Listing
from dfs.types import ALL_NAMES, Attr, DirEntry, Ino

D, FILE, OTHER = Ino(10), Ino(11), Ino(12)


def attr(ino: Ino = FILE, version: int = 2, size: int = 0) -> Attr:
    return Attr(ino, 0o100644, 1, 0, 0, 0, size, 0, 1, 2, 3, 4, version, 3)


@pytest.fixture
def cache() -> Cache:
    return Cache(100, 100)


def learn_name(cache: Cache, name: bytes, ino: Ino | None) -> None:
    token = cache.ask()
    cache.learn_name(token, D, name, ino)
    cache.answered(token)


def learn_listing(cache: Cache, names: dict[bytes, Ino]) -> None:
    token = cache.ask()
    entries = [DirEntry(cookie, name, attr(ino)) for cookie, (name, ino) in enumerate(names.items(), 1)]
    cache.learn_page(token, D, 0, entries, set(), is_last=True)
    cache.answered(token)


def shown(cache: Cache, ino: Ino = FILE) -> Attr | None:
    known = cache.inode(ino)
    return known.attr if known is not None else None


# --- answers --------------------------------------------------------------------------------------------


def test_what_was_answered_is_shown_until_it_is_recalled(cache: Cache) -> None:
    cache.learn_attr(cache.ask(), attr())
    assert shown(cache) == attr()
    cache.recall([(FILE, None)])
    assert shown(cache) is None


def test_an_answer_that_a_recall_overtook_is_not_kept(cache: Cache) -> None:
    token = cache.ask()
    cache.recall([(FILE, None), (D, b"name")])
    cache.learn_attr(token, attr())
    cache.learn_name(token, D, b"name", FILE)
    assert shown(cache) is None
    assert cache.name(D, b"name") is None
    cache.learn_name(token, D, b"other", FILE)  # of which nothing was recalled
    assert cache.name(D, b"other") == FILE


def test_an_answer_to_a_question_after_the_recall_is_kept(cache: Cache) -> None:
    cache.recall([(FILE, None)])
    cache.learn_attr(cache.ask(), attr())
    assert shown(cache) == attr()


def test_of_two_answers_the_newer_version_stays(cache: Cache) -> None:
    early, late = cache.ask(), cache.ask()
    cache.learn_attr(late, attr(version=3))
    cache.learn_attr(early, attr(version=2))
    assert shown(cache) == attr(version=3)


def test_absence_is_known_too(cache: Cache) -> None:
    learn_name(cache, b"name", None)
    assert cache.name(D, b"name") is ABSENT
    cache.recall([(D, b"name")])
    assert cache.name(D, b"name") is None


def test_what_a_whole_listing_lacks_is_absent(cache: Cache) -> None:
    learn_listing(cache, {b"a": FILE})
    assert cache.name(D, b"b") is ABSENT
    assert cache.covers_name(D, b"b", None)
    cache.recall([(D, b"c")])
    assert cache.name(D, b"b") is None
    assert cache.name(D, b"a") == FILE


def test_a_listing_during_which_a_name_was_recalled_is_not_whole(cache: Cache) -> None:
    token = cache.ask()
    cache.learn_page(token, D, 0, [DirEntry(1, b"a", attr())], set(), is_last=False)
    cache.recall([(D, b"b")])
    cache.learn_page(token, D, 1, [], set(), is_last=True)
    assert cache.name(D, b"b") is None
    assert cache.entries(D, 0, 10) is None


def test_the_beginning_of_a_listing_is_known_before_the_rest(cache: Cache) -> None:
    first, second = DirEntry(4, b"a", attr(FILE)), DirEntry(7, b"b", attr(OTHER))
    cache.learn_page(cache.ask(), D, 0, [first, second], set(), is_last=False)
    assert cache.entries(D, 0, 2) == [first, second]
    assert cache.entries(D, 4, 1) == [second]
    assert cache.entries(D, 4, 2) is None
    assert cache.name(D, b"c") is None
    cache.learn_page(cache.ask(), D, 7, [], set(), is_last=True)
    assert cache.entries(D, 4, 2) == [second]
    assert cache.name(D, b"c") is ABSENT


def test_a_page_that_does_not_follow_the_last_one_is_none_of_the_listing(cache: Cache) -> None:
    first, third = DirEntry(1, b"a", attr(FILE)), DirEntry(3, b"c", attr(OTHER))
    cache.learn_page(cache.ask(), D, 0, [first], set(), is_last=False)
    cache.learn_page(cache.ask(), D, 2, [third], set(), is_last=True)
    assert cache.entries(D, 0, 2) is None
    assert cache.name(D, b"c") == OTHER


def test_the_beginning_of_a_listing_is_not_known_when_a_name_of_it_was_taken_away(cache: Cache) -> None:
    cache.learn_whole(cache.ask(), Listing(attr(D), 9, is_owned=True, entries=None, unleased=set(), owned=[]))
    first, second = DirEntry(1, b"a", attr(FILE)), DirEntry(2, b"b", attr(OTHER))
    cache.learn_page(cache.ask(), D, 0, [first, second], set(), is_last=False)
    assert cache.entries(D, 0, 2) == [first, second]
    owned = cache.owned_directory(D)
    assert owned is not None
    cache.take_name(owned[1], b"a")
    assert cache.entries(D, 0, 1) is None
    cache.learn_page(cache.ask(), D, 2, [], set(), is_last=True)
    assert cache.entries(D, 0, 1) is None


def test_entries_come_in_order_after_a_cookie(cache: Cache) -> None:
    learn_listing(cache, {b"b": FILE, b"a": OTHER})
    assert cache.entries(D, 0, 10) == [DirEntry(1, b"b", attr(FILE)), DirEntry(2, b"a", attr(OTHER))]
    assert cache.entries(D, 1, 10) == [DirEntry(2, b"a", attr(OTHER))]
    assert cache.entries(D, 2, 10) == []
    cache.recall([(OTHER, None)])
    assert cache.entries(D, 0, 10) is None


def test_a_listing_that_is_too_large_is_not_wanted_for_every_few_names(cache: Cache) -> None:
    """Of each two names in a large directory thousands were fetched, for nothing."""
    for name in (b"a", b"b"):
        learn_name(cache, name, None)
    assert cache.wants_listing(D, 2)
    cache.note_large(D, 8)
    wanted = []
    for number in range(20):
        learn_name(cache, b"%d" % number, None)
        wanted.append(cache.wants_listing(D, 2))
    assert wanted.index(True) == 8 + 2 - 1


def test_after_the_session_nothing_is_known_and_no_answer_of_it_is_kept(cache: Cache) -> None:
    token = cache.ask()
    learn_listing(cache, {b"a": FILE})
    cache.forget_all()
    cache.learn_attr(token, attr())
    assert shown(cache) is None
    assert cache.name(D, b"a") is None


def test_a_directory_that_is_given_up_is_learnt_again_only_when_the_namenode_knows(cache: Cache) -> None:
    learn_name(cache, b"a", FILE)
    assert cache.give_up_unused([(D, b"x")]) == []  # it was used since the last recall
    assert cache.give_up_unused([(D, b"x")]) == [D]
    token = cache.ask()
    cache.learn_name(token, D, b"a", FILE)
    assert cache.name(D, b"a") is None
    learn_listing(cache, {b"a": FILE})
    assert cache.name(D, b"a") is None
    cache.gave_up([D])
    cache.learn_name(token, D, b"a", FILE)  # asked when the NameNode did not know yet
    assert cache.name(D, b"a") is None
    learn_name(cache, b"a", FILE)
    assert cache.name(D, b"a") == FILE


def test_all_names_of_a_directory_can_be_recalled(cache: Cache) -> None:
    learn_listing(cache, {b"a": FILE})
    token = cache.ask()
    cache.recall([(D, ALL_NAMES)])
    cache.learn_name(token, D, b"a", FILE)
    assert cache.name(D, b"a") is None


# --- our own changes ------------------------------------------------------------------------------------


def test_what_we_make_is_known_and_what_we_took_away_is_absent(cache: Cache) -> None:
    learn_listing(cache, {b"a": FILE})
    token = cache.ask()
    cache.learn_reply(token, "create", [D, b"new", 0o644, 0, 0], attr(OTHER, 1), [[D, None], [D, b"new"]])
    assert cache.name(D, b"new") == OTHER
    assert shown(cache, OTHER) == attr(OTHER, 1)
    cache.learn_reply(token, "unlink", [D, b"a"], attr(FILE, 3), [[D, None], [D, b"a"], [FILE, None]])
    assert cache.name(D, b"a") is ABSENT
    assert cache.name(D, b"never") is ABSENT  # the listing stays whole
    assert cache.entries(D, 0, 10) is None  # but the place of the new name in it is not known


def test_what_a_command_touched_besides_is_forgotten(cache: Cache) -> None:
    """A rename over a file takes one of its names away."""
    learn_listing(cache, {b"a": FILE, b"b": OTHER})
    token = cache.ask()
    touched = [[D, None], [D, b"a"], [D, b"b"], [FILE, None], [OTHER, None]]
    cache.learn_reply(token, "rename", [D, b"a", D, b"b", 0], attr(FILE, 3), touched)
    assert cache.name(D, b"a") is ABSENT
    assert cache.name(D, b"b") == FILE
    assert shown(cache) == attr(FILE, 3)
    assert shown(cache, OTHER) is None


def test_a_rename_that_changed_nothing_takes_nothing_away(cache: Cache) -> None:
    learn_listing(cache, {b"a": FILE, b"b": FILE})
    cache.learn_reply(cache.ask(), "rename", [D, b"a", D, b"b", 0], attr(), [])
    assert cache.name(D, b"a") == FILE


def test_a_question_that_is_not_answered_for_long_has_what_was_voided_looked_through_seldom(cache: Cache) -> None:
    waiting, looked_through = cache.ask(), [cache._voided]
    for number in range(20_000):
        cache.changed((Ino(number), None))
        cache.answered(cache.ask())
        if cache._voided is not looked_through[-1]:
            looked_through.append(cache._voided)
    assert len(looked_through) < 5
    assert not cache.is_valid(waiting, (Ino(0), None))


def test_a_command_that_changed_nothing_enters_nothing_in_a_directory(cache: Cache) -> None:
    learn_listing(cache, {b"a": FILE, b"b": FILE})
    for verb, args in (("create", [D, b"a", 0o644, 0, 0, False]), ("rename", [D, b"a", D, b"b", 0])):
        cache.learn_reply(cache.ask(), verb, args, attr(), [])
    assert cache._directories[D].last_cookie == 0
    cache.learn_reply(cache.ask(), "create", [D, b"new", 0o644, 0, 0], attr(OTHER, 1), [[D, None], [D, b"new"]])
    assert cache._directories[D].last_cookie == 1


def test_two_commands_of_ours_at_once_leave_the_name_open(cache: Cache) -> None:
    learn_listing(cache, {b"a": FILE})
    first, second = cache.ask(), cache.ask()
    cache.learn_reply(second, "unlink", [D, b"a"], attr(FILE, 3), [[D, None], [D, b"a"], [FILE, None]])
    cache.learn_reply(first, "create", [D, b"a", 0o644, 0, 0], attr(OTHER, 1), [[D, None], [D, b"a"]])
    assert cache.name(D, b"a") is None


def test_a_question_that_our_change_overtook_is_not_kept(cache: Cache) -> None:
    question, command = cache.ask(), cache.ask()
    cache.learn_reply(command, "setattr", [FILE, {"mode": 0}], attr(version=3), [[FILE, None]])
    cache.recall([(FILE, None)])
    cache.learn_attr(question, attr(version=2))
    assert shown(cache) is None


def test_a_recall_during_our_command_leaves_its_result_unknown(cache: Cache) -> None:
    learn_listing(cache, {b"a": FILE})
    token = cache.ask()
    cache.recall([(D, b"a"), (FILE, None)])
    cache.learn_reply(token, "unlink", [D, b"a"], attr(FILE, 3), [[D, None], [D, b"a"], [FILE, None]])
    assert cache.name(D, b"a") is None
    assert shown(cache) is None


def test_until_a_recall_is_answered_nothing_is_learnt_of_its_items(cache: Cache) -> None:
    learn_listing(cache, {b"a": FILE})
    recalled = [(FILE, None), (D, b"new")]
    cache.begin_recall(recalled)

    def reply(token: int, version: int) -> None:
        cache.learn_reply(token, "link", [FILE, D, b"new"], attr(version=version), [[FILE, None], [D, b"new"]])
        learn_listing(cache, {b"a": OTHER})

    reply(cache.ask(), 3)
    late = cache.ask()
    assert shown(cache) is None and cache.name(D, b"new") is None and not cache.lists(D)
    cache.begin_recall(recalled[:1])
    cache.end_recall(recalled)
    reply(cache.ask(), 4)
    assert shown(cache) is None, "it is asked for once more"
    assert cache.lists(D)
    cache.end_recall(recalled[:1])
    reply(late, 5)
    assert shown(cache) is None, "that may have been answered before the recall was"
    reply(cache.ask(), 6)
    assert shown(cache) == attr(version=6)


def test_what_was_recalled_from_a_session_is_learnt_in_the_next(cache: Cache) -> None:
    cache.begin_recall([(FILE, None), (D, ALL_NAMES)])
    cache.forget_all()
    cache.end_recalls()
    cache.learn_attr(cache.ask(), attr())
    learn_listing(cache, {b"a": FILE})
    assert shown(cache) == attr() and cache.lists(D)


def test_a_directory_of_which_nothing_is_known_stays_unknown(cache: Cache) -> None:
    cache.learn_reply(cache.ask(), "create", [D, b"new", 0o644, 0, 0], attr(OTHER, 1), [[D, None], [D, b"new"]])
    assert cache.name(D, b"new") is None
    assert shown(cache, OTHER) == attr(OTHER, 1)


def test_from_a_reply_that_nobody_waits_for_only_what_it_ends_is_learnt(cache: Cache) -> None:
    learn_listing(cache, {b"a": FILE})
    cache.learn_reply(NEVER, "unlink", [D, b"a"], attr(FILE, 3), [[D, None], [D, b"a"], [FILE, None]])
    assert cache.name(D, b"a") is None
    assert shown(cache) is None


def test_extended_attributes_outlive_a_change_of_something_else(cache: Cache) -> None:
    cache.learn_attr(cache.ask(), attr())
    known = cache.inode(FILE)
    assert known is not None
    known.xattrs = {b"user.k": b"v"}
    cache.learn_reply(cache.ask(), "setattr", [FILE, {"mode": 0}], attr(version=3), [[FILE, None]])
    known = cache.inode(FILE)
    assert known is not None
    assert known.xattrs == {b"user.k": b"v"}
    cache.learn_reply(cache.ask(), "setxattr", [FILE, b"user.k", b"w", 0], None, [[FILE, None]])
    assert cache.inode(FILE) is None


# --- bounds ---------------------------------------------------------------------------------------------


def test_there_are_bounds_and_what_was_used_last_stays() -> None:
    cache = Cache(2, 3)
    for number in (1, 2):
        cache.learn_attr(cache.ask(), attr(Ino(number)))
    assert shown(cache, Ino(1)) is not None
    cache.learn_attr(cache.ask(), attr(Ino(3)))
    assert shown(cache, Ino(2)) is None
    assert shown(cache, Ino(1)) is not None
    for directory in (20, 21, 22, 23):
        cache.learn_name(cache.ask(), Ino(directory), b"n", FILE)
    assert cache.statistics()["names"] == 3
    assert cache.name(Ino(20), b"n") is None
    assert cache.name(Ino(23), b"n") == FILE


def test_nothing_is_answered_of_what_a_command_of_ours_may_be_changing(cache: Cache) -> None:
    """Another one's reply may tell of the change before its own does."""
    learn_listing(cache, {b"a": FILE})
    cache.learn_attr(cache.ask(), attr(D, 2))
    token = cache.ask()
    changes = cache.begin_change("rename", [D, b"a", D, b"b", 0])
    for name in (b"a", b"b"):
        assert cache.name(D, name) is None
        assert not cache.covers_name(D, name, FILE)
    assert shown(cache, D) is None
    assert shown(cache) is None
    assert cache.entries(D, 0, 10) is None
    assert cache.name(D, b"c") is ABSENT
    touched = [[D, None], [D, b"a"], [D, b"b"], [FILE, None]]
    cache.learn_reply(token, "rename", [D, b"a", D, b"b", 0], attr(FILE, 3), touched)
    cache.end_change(changes)
    assert cache.name(D, b"b") == FILE
    assert cache.name(D, b"a") is ABSENT
    assert shown(cache) == attr(FILE, 3)


# --- who is limited to a subtree ------------------------------------------------------------------------


def test_who_is_limited_learns_from_results_only_while_he_has_leases(cache: Cache) -> None:
    cache.is_limited = True

    def made(token: int, ino: Ino) -> Attr | None:
        cache.learn_reply(token, "create", [D, b"name", 0o644, 0, 0, True], list(attr(ino, version=1)), [[ino, None]])
        return shown(cache, ino)

    assert made(cache.ask(), FILE) is None
    before = cache.ask()
    cache.learn_attr(cache.ask(), attr(OTHER))
    assert made(before, FILE) is None, "it may have happened before there was a lease"
    assert made(cache.ask(), FILE) is not None
    cache.void_questions()  # all is recalled
    cache.forget_all()
    assert made(cache.ask(), Ino(13)) is None
    cache.learn_attr(cache.ask(), attr(OTHER))
    assert made(cache.ask(), Ino(14)) is not None
