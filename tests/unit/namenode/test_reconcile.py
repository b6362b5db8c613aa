"""A DataNode's report beside what the NameNode believes: each chunk has one verdict, and the careful one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfs.types import ChunkId
from nodes.namenode.reconcile import Believed, Differences, Held, compare

CHUNK = ChunkId(5)
NEXT = 100

VERDICTS = [
    # what the node has, what is believed, and what follows
    (None, Believed(10, is_open=False, is_counted=True), "lost"),
    (None, Believed(10, is_open=True, is_counted=True), ""),  # its writer's commits say who has it
    (None, Believed(0, is_open=False, is_counted=True), ""),  # nothing to have
    (Held(10, settled=True), Believed(10, is_open=False, is_counted=True), ""),
    (Held(20, settled=True), Believed(10, is_open=False, is_counted=True), ""),  # not yet cut
    (Held(9, settled=True), Believed(10, is_open=False, is_counted=True), "short"),
    (Held(9, settled=False), Believed(10, is_open=False, is_counted=True), "unsure"),  # the rest may be on its way
    (Held(10, settled=True), Believed(10, is_open=False, is_counted=False), "back"),
    (Held(9, settled=True), Believed(10, is_open=False, is_counted=False), "short back"),  # with what others may lack
    (Held(9, settled=False), Believed(10, is_open=False, is_counted=False), ""),
    (Held(10, settled=False), Believed(10, is_open=False, is_counted=False), ""),  # a copy being made
    (Held(10, settled=True), Believed(10, is_open=True, is_counted=False), ""),
    (Held(10, settled=True), None, "strays"),
    (Held(10, settled=False), None, ""),
]


@pytest.mark.parametrize(("held", "believed", "verdict"), VERDICTS)
def test_each_case_has_its_verdict(held: Held | None, believed: Believed | None, verdict: str) -> None:
    found = compare({CHUNK: held} if held else {}, {CHUNK: believed} if believed else {}, NEXT)
    assert {name: chunks for name, chunks in found._asdict().items() if chunks} == {
        name: [CHUNK] for name in verdict.split()
    }


def test_chunks_that_were_never_given_are_not_deleted() -> None:
    """They may be of a namespace that was restored from an old copy: somebody's data."""
    held = {ChunkId(number): Held(10, True) for number in (98, 99, 100, 101)}
    found = compare(held, {}, NEXT)
    assert (found.strays, found.unknown) == ([98, 99], [100, 101])


def test_numbers_that_were_skipped_stay_somebodys_data() -> None:
    held = {ChunkId(number): Held(10, True) for number in (49, 50, 60, 61)}
    found = compare(held, {}, NEXT, [(50, 60)])
    assert (found.strays, found.unknown) == ([49, 61], [50, 60])


CHUNKS = st.integers(1, 30).map(ChunkId)
HELD = st.builds(Held, st.integers(0, 5), st.booleans())
BELIEVED = st.builds(Believed, st.integers(0, 5), st.booleans(), st.booleans())


@given(st.dictionaries(CHUNKS, HELD), st.dictionaries(CHUNKS, BELIEVED), st.integers(1, 31))
def test_no_chunk_has_two_verdicts_unless_it_is_back_in_part_and_none_is_deleted_that_is_known(
    held: dict[ChunkId, Held], believed: dict[ChunkId, Believed], next_chunk: int
) -> None:
    found = compare(held, believed, next_chunk)
    in_part = set(found.back).intersection(found.short)
    assert all(held[chunk].length < believed[chunk].length and not believed[chunk].is_counted for chunk in in_part)
    verdicts = [chunk for chunks in found for chunk in chunks]
    assert len(verdicts) == len(set(verdicts)) + len(in_part)
    assert not [chunk for chunk in found.strays if chunk in believed]
    for chunk in (*found.short, *found.back, *found.strays):
        assert held[chunk].settled
    for chunk in (*found.lost, *found.short, *found.back):
        assert not believed[chunk].is_open


@given(st.dictionaries(CHUNKS, st.integers(1, 5)))
def test_where_both_agree_nothing_is_to_be_done(lengths: dict[ChunkId, int]) -> None:
    held = {chunk: Held(length, True) for chunk, length in lengths.items()}
    believed = {chunk: Believed(length, False, True) for chunk, length in lengths.items()}
    assert compare(held, believed, 31) == Differences(*([] for _ in Differences._fields))
