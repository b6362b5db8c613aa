"""The book of copies under way: windows, sources that share the load, failures, and late reports."""

from __future__ import annotations

import random

import pytest

from dfs import limits
from dfs.types import ChunkId, NodeId, NodeState
from nodes.namenode.backlog import Backlog
from nodes.namenode.copies import Copies
from tests.unit.namenode.world import node_view

N1, N2, N3, N4 = (NodeId(f"n{number}") for number in range(1, 5))
MIB = limits.MIB


def copies(bytes_per_s: int = 100 * MIB) -> Copies:
    return Copies(random.Random(1), bytes_per_s)


def order(book: Copies, chunk: int, length: int = 10, target: NodeId = N1, now: float = 0.0) -> None:
    book.order(ChunkId(chunk), length, target, [N2, N3], extra=False, now=now)


def test_a_target_is_ordered_only_so_much_ahead_by_number_and_by_bytes() -> None:
    book = copies()
    for chunk in range(limits.COPIES_AHEAD_MAX):
        assert book.has_room(N1)
        order(book, chunk)
    assert not book.has_room(N1)
    assert book.has_room(N4)
    large = copies()
    while large.has_room(N1):
        order(large, len(large), limits.CHUNK_MAX_BYTES)
    assert len(large) == limits.COPIES_AHEAD_MAX_BYTES // limits.CHUNK_MAX_BYTES


def test_under_a_narrow_limit_a_target_has_room_for_one_chunk_still_and_time_to_make_it() -> None:
    book = copies(bytes_per_s=MIB // 4)
    assert book.has_room(N1)
    order(book, 1, limits.CHUNK_MAX_BYTES)
    assert not book.has_room(N1)
    book.give_up_overdue(now=limits.CHUNK_MAX_BYTES / (MIB / 4))
    assert len(book) == 1


def test_sources_share_the_load() -> None:
    book = copies()
    for chunk in range(10):
        order(book, chunk, target=(N1, N4)[chunk % 2])
    assert {copy.sources[0] for copy in book.all()} == {N2, N3}
    assert book.outgoing_bytes(N2) == book.outgoing_bytes(N3) == 50


def test_an_order_names_the_sources_that_are_not_dead_where_they_are_now() -> None:
    book = copies()
    order(book, 7)
    nodes = {N2: node_view("n2", state=NodeState.DEAD), N3: node_view("n3")}
    ((number, *rest),) = book.orders(N1, nodes)
    assert number < 0
    assert rest == ["copy", 7, 10, [["n3", "n3:9401"]]]
    assert book.orders(N4, nodes) == []


def test_what_is_done_leaves_the_book_and_makes_the_rate() -> None:
    book = copies()
    for chunk in range(3):
        order(book, chunk, 10 * MIB)
    done = book.reported(N1, [copy.number for copy in book.all()])
    assert book.reported(N2, [done[0].number]) == []  # another node's
    for at, copy in enumerate(done):
        book.finish(copy, counts=True, now=10.0 + 2 * at)
    assert (len(book), book.made, book.made_bytes) == (0, 3, 30 * MIB)
    assert book.incoming(N1) == book.outgoing_bytes(N2) == book.outgoing_bytes(N3) == 0
    assert book.rate.per_second(15.0) == pytest.approx(6 * MIB)
    assert book.rate.per_second(100.0) == 0


def test_a_copy_that_was_given_up_counts_if_it_is_made_after_all() -> None:
    book = copies()
    order(book, 1)
    (copy,) = book.all()
    book.cancel(copy)
    assert len(book) == 0
    assert book.of_chunk(ChunkId(1)) == []
    assert book.reported(N1, [copy.number]) == [copy]
    book.finish(copy, counts=True, now=1.0)
    assert book.reported(N1, [copy.number]) == []


def test_a_copy_that_fails_is_tried_later_and_later_and_its_sources_are_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    book = copies()
    waits = []
    for target in (N1, N4, N1):
        order(book, 1, target=target)
        (copy,) = book.all()
        book.fail(target, copy.number, "no source has it", now=100.0)
        failure = book.failure(ChunkId(1))
        assert failure is not None
        waits.append(failure.not_before - 100.0)
        assert target in failure.targets
    assert waits == [limits.COPY_RETRY_FIRST_S * factor for factor in (1, 2, 4)]
    assert len(book) == 0
    logged = capsys.readouterr().out
    assert logged.count("again and again") == 1
    assert "n2" in logged
    assert "n3" in logged


def test_a_copy_that_takes_too_long_is_given_up() -> None:
    book = copies()
    order(book, 1)
    book.give_up_overdue(now=1000.0)
    assert len(book) == 0


# --- the backlog ----------------------------------------------------------------------------------------


def test_chunks_with_the_fewest_copies_come_first_whatever_their_numbers() -> None:
    backlog = Backlog(10)
    for chunk, live in ((1, 2), (2, 1), (3, 2), (4, 1)):
        backlog.put(ChunkId(chunk), live)
    assert backlog.first(10) == [2, 4, 1, 3]
    backlog.put(ChunkId(3), 1)  # it lost another
    backlog.defer(ChunkId(2))
    assert backlog.first(10) == [4, 3, 2, 1]
    backlog.discard(ChunkId(4))
    backlog.discard(ChunkId(99))
    assert backlog.first(2) == [3, 2]


def test_a_full_backlog_forgets_the_least_urgent_and_says_so() -> None:
    backlog = Backlog(3)
    for chunk in range(1, 5):
        backlog.put(ChunkId(chunk), 2)
    assert backlog.overflowed
    backlog.put(ChunkId(9), 1)
    assert backlog.first(10) == [9, 1, 2]
    assert len(backlog) == 3
