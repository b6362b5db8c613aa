"""Numbers of chunks that an old copy of the database does not know are not given again."""

from __future__ import annotations

from dfs.types import ChunkId
from nodes.namenode.reconcile import Held, compare
from tests.unit.namenode.world import Namespace


def strays_and_unknown(space: Namespace, *chunks: int) -> tuple[list[int], list[int]]:
    """What becomes of chunks that a node reports and nobody knows."""
    held = {ChunkId(chunk): Held(10, settled=True) for chunk in chunks}
    found = compare(held, {}, space.store.counters()["next_chunk"], space.queries.skipped(1, 2**63 - 1))
    return list(found.strays), list(found.unknown)


def test_a_number_that_was_skipped_is_given_to_nobody(space: Namespace) -> None:
    session = space.open_session()
    assert space.chunk(session) == 1
    space.own("skip_chunks", 40)
    assert space.chunk(session) == 41
    space.own("skip_chunks", 40)
    space.own("skip_chunks", 7)
    assert space.chunk(session) == 42


def test_chunks_with_skipped_numbers_stay_untouched_however_far_the_namenode_comes(space: Namespace) -> None:
    session = space.open_session()
    space.chunk(session)
    assert strays_and_unknown(space, 2, 40) == ([], [2, 40])
    space.own("skip_chunks", 40)
    space.chunk(session)
    space.own("skip_chunks", 60)
    for _ in range(10):
        space.chunk(session)
    assert strays_and_unknown(space, 1, 2, 40, 41, 42, 60, 61) == ([1, 41, 61], [2, 40, 42, 60])
    assert space.queries.skipped(41, 41) == [] and space.queries.skipped(50, 50) == [(42, 60)]


def test_settings_and_the_check_do_not_mind(space: Namespace) -> None:
    space.own("skip_chunks", 40)
    space.machine.forget()
    space.configure()
    assert strays_and_unknown(space, 40) == ([], [40])
    assert space.findings() == []
