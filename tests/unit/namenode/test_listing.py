"""A listing is told though others change what is in it all the time; each entry is as it was at some moment since."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
import trio.testing

from dfs import errors
from dfs.types import ALL_NAMES, ROOT_INO, Ino, Item, SessionId
from nodes.namenode.leases import Leases
from nodes.namenode.listing import Listing
from tests.unit.namenode.world import Namespace

ANNE, BERT = SessionId(1), SessionId(2)
"""Anne changes files, Bert lists them."""


class Pair:
    """Leases of the two, with what Anne is asked to forget."""

    def __init__(self, space: Namespace) -> None:
        self.space = space
        self.author = space.open_session()
        self.leases = Leases()
        self.leases.push = self._push
        self.recalls: list[int] = []
        self.asked: list[Item] = []
        self._last = 0
        for session in (ANNE, BERT):
            self.leases.join(session, owns_directories=True)

    def _push(self, session: SessionId, _: str, items: Sequence[Item]) -> int:
        self._last += 1
        if session == ANNE:
            self.recalls.append(self._last)
            self.asked += items
        return self._last

    def file(self, name: bytes, *, is_owned: bool = True) -> Ino:
        """Of Anne's."""
        ino: Ino = self.space.file(self.author, name).ino
        assert not is_owned or self.leases.own_unknown(ANNE, ino)
        return ino

    def chmod(self, ino: Ino, mode: int) -> None:
        self.space.do(self.author, "setattr", ino, {"mode": mode})

    def answer(self) -> None:
        """Anne has forgotten all that she was asked to."""
        recalls, self.recalls, self.asked = self.recalls, [], []
        for number in recalls:
            self.leases.forgot(ANNE, number, ())

    def listing(self, limit: int = 100) -> Listing:
        return Listing(self.leases, self.space.queries, BERT, ROOT_INO, 0, limit)


@pytest.fixture
def pair(space: Namespace) -> Pair:
    return Pair(space)


class Settling:
    def __init__(self, listing: Listing, nursery: trio.Nursery) -> None:
        assert not listing.look()
        self.is_over = False
        self._listing = listing
        nursery.start_soon(self._settle)

    async def _settle(self) -> None:
        await self._listing.settle()
        self.is_over = True


def modes(listing: Listing) -> dict[bytes, int]:
    return {name: attr.mode & 0o777 for _, name, attr in listing.entries}


async def moment() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def test_what_nobody_knows_better_is_told_at_once_with_leases(pair: Pair) -> None:
    pair.file(b"a", is_owned=False)
    listing = pair.listing()
    assert listing.look() and listing.is_leased and not listing.unleased
    assert pair.leases.of(BERT)["leases"] == 2 and not pair.asked


async def test_an_owner_is_heard_once_though_he_goes_on_at_once(pair: Pair, nursery: trio.Nursery) -> None:
    quiet, busy = pair.file(b"quiet", is_owned=False), pair.file(b"busy")
    listing = pair.listing()
    settling = Settling(listing, nursery)
    await moment()
    assert pair.asked == [(busy, None)] and not settling.is_over
    pair.chmod(busy, 0o600)  # what she has not sent yet
    pair.answer()
    assert pair.leases.own_unknown(ANNE, busy)  # before the listing is looked at again
    await moment()
    assert settling.is_over and not pair.recalls
    assert modes(listing) == {b"quiet": 0o644, b"busy": 0o600}
    assert listing.is_leased and listing.unleased == {busy}
    assert pair.leases.conflicts(ANNE, [(quiet, None)]) and not pair.leases.conflicts(ANNE, [(busy, None)])


async def test_what_was_given_up_comes_with_a_lease(pair: Pair, nursery: trio.Nursery) -> None:
    pair.file(b"file")
    listing = pair.listing()
    settling = Settling(listing, nursery)
    await moment()
    pair.answer()
    await moment()
    assert settling.is_over and listing.is_leased and not listing.unleased


async def test_a_file_that_takes_the_place_of_a_listed_one_is_asked_for_too(pair: Pair, nursery: trio.Nursery) -> None:
    old = pair.file(b"file")
    listing = pair.listing()
    settling = Settling(listing, nursery)
    await moment()
    new = pair.file(b"new")
    pair.space.do(pair.author, "rename", ROOT_INO, b"new", ROOT_INO, b"file", 0)
    pair.space.do(pair.author, "release", old)
    pair.answer()
    await moment()
    assert pair.asked == [(new, None)] and not settling.is_over
    pair.chmod(new, 0o600)
    pair.answer()
    await moment()
    assert settling.is_over and modes(listing) == {b"file": 0o600}
    assert [attr.ino for _, _, attr in listing.entries] == [new]


@pytest.mark.parametrize("limit", [2, 3])
async def test_a_file_that_is_removed_meanwhile_is_shown_only_where_the_page_would_seem_to_be_the_last(
    pair: Pair, nursery: trio.Nursery, limit: int
) -> None:
    gone, stays = pair.file(b"goes"), pair.file(b"stays")
    listing = pair.listing(limit)
    settling = Settling(listing, nursery)
    await moment()
    pair.space.do(pair.author, "unlink", ROOT_INO, b"goes")
    pair.answer()
    await moment()
    assert settling.is_over and list(modes(listing)) == ([b"goes", b"stays"] if limit == 2 else [b"stays"])
    assert listing.unleased == ({gone} if limit == 2 else set()) and listing.entries[-1][2].ino == stays


async def test_what_is_made_after_the_question_is_not_waited_for(pair: Pair, nursery: trio.Nursery) -> None:
    pair.file(b"old")
    listing = pair.listing()
    settling = Settling(listing, nursery)
    await moment()
    pair.file(b"new")
    pair.answer()
    await moment()
    assert settling.is_over and list(modes(listing)) == [b"old"]


async def test_the_names_of_an_owned_directory_are_those_when_it_was_given_up(
    pair: Pair, nursery: trio.Nursery
) -> None:
    pair.file(b"old", is_owned=False)
    assert pair.leases.own_unknown(ANNE, ROOT_INO, is_directory=True)
    listing = pair.listing()
    settling = Settling(listing, nursery)
    await moment()
    assert (ROOT_INO, ALL_NAMES) in pair.asked
    pair.file(b"new", is_owned=False)  # what she has not sent yet
    pair.answer()
    assert pair.leases.own_unknown(ANNE, ROOT_INO, is_directory=True)
    await moment()
    assert settling.is_over and list(modes(listing)) == [b"old", b"new"]
    assert not listing.is_leased


async def test_a_change_whose_author_may_show_what_was_before_is_not_told_before_he_knows(
    pair: Pair, nursery: trio.Nursery
) -> None:
    ino = pair.file(b"file", is_owned=False)
    assert pair.leases.cover_attr(ANNE, ino) and pair.leases.cover_entries(ANNE, ROOT_INO)
    pair.chmod(ino, 0o600)
    pair.leases.applied(ANNE, 1, [(ino, None), (ROOT_INO, b"file")], None)
    pair.leases.committed()
    listing = pair.listing()
    settling = Settling(listing, nursery)
    await moment()
    assert not settling.is_over
    pair.chmod(ino, 0o640)  # once more, which may be shown or not
    pair.leases.acknowledge(ANNE, 2)
    pair.answer()
    await moment()
    assert settling.is_over and modes(listing)[b"file"] == 0o600


async def test_what_who_owns_it_again_changes_by_a_command_is_not_told_before_he_knows(
    pair: Pair, nursery: trio.Nursery
) -> None:
    ino = pair.file(b"file")
    listing = pair.listing()
    settling = Settling(listing, nursery)
    await moment()
    pair.answer()
    assert pair.leases.own_unknown(ANNE, ino)
    pair.chmod(ino, 0o600)
    pair.leases.applied(ANNE, 7, [(ino, None)], ino)
    pair.leases.committed()
    await moment()
    assert not settling.is_over and pair.asked == [(ino, None)]
    pair.answer()
    await moment()
    assert settling.is_over and modes(listing) == {b"file": 0o600}


async def test_what_he_answers_by_himself_is_not_waited_for(pair: Pair, nursery: trio.Nursery) -> None:
    ino = pair.file(b"file")
    listing = pair.listing()
    settling = Settling(listing, nursery)
    await moment()
    pair.answer()
    assert pair.leases.own_unknown(ANNE, ino)
    pair.leases.applied(ANNE, 7, [(ino, None)], ino, is_awaited=False)
    pair.leases.committed()
    await moment()
    assert settling.is_over and not pair.asked


async def test_names_that_who_owns_the_directory_again_changes_are_not_told_before_he_knows(
    pair: Pair, nursery: trio.Nursery
) -> None:
    pair.file(b"a", is_owned=False)
    assert pair.leases.own_unknown(ANNE, ROOT_INO, is_directory=True)
    listing = pair.listing()
    settling = Settling(listing, nursery)
    await moment()
    pair.answer()
    assert pair.leases.own_unknown(ANNE, ROOT_INO, is_directory=True)
    pair.space.do(pair.author, "rename", ROOT_INO, b"a", ROOT_INO, b"b", 0)
    pair.leases.applied(ANNE, 7, [(ROOT_INO, b"a"), (ROOT_INO, b"b")], None)
    pair.leases.committed()
    await moment()
    assert not settling.is_over
    pair.answer()
    await moment()
    assert settling.is_over and list(modes(listing)) == [b"b"]


async def test_an_owner_who_is_asked_for_something_else_all_the_time_keeps_nobody_waiting(
    pair: Pair, nursery: trio.Nursery
) -> None:
    ino = pair.file(b"file")
    listing = pair.listing()
    settling = Settling(listing, nursery)
    await moment()
    (first,) = pair.recalls
    pair.leases.begin(BERT, [(ino, None)])
    pair.leases.applied(ANNE, 1, [(ino, None)], ino)  # a change of hers, which is recalled once more
    pair.leases.committed()
    second = pair.recalls[1:]
    assert second
    pair.leases.forgot(ANNE, first, ())
    await moment()
    assert not settling.is_over, "she may show what was before that change"
    pair.leases.applied(ANNE, 2, [(ino, None)], ino)
    pair.leases.committed()
    for number in second:
        pair.leases.forgot(ANNE, number, ())
    await moment()
    assert settling.is_over and pair.leases.is_asked_to_forget(ANNE)


async def test_what_cannot_be_listed_is_said(pair: Pair) -> None:
    ino = pair.file(b"file")
    for wrong, error in ((ino, errors.NotADirectory), (99, errors.NotFound), ("1", errors.InvalidArgument)):
        with pytest.raises(error):
            Listing(pair.leases, pair.space.queries, BERT, wrong, 0, 10).look()
