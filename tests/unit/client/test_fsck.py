"""What follows from what the NameNode says of a chunk and what DataNodes have of it."""

from __future__ import annotations

from typing import Any, cast

import pytest

from dfs import errors, limits
from dfs.client.copies import NOT_THERE, ChunkFacts, Reading, Survey
from dfs.client.fsck import Finding, compare, disagreeing
from dfs.client.inodes import Layout
from dfs.client.why import Condition, report
from dfs.types import ChunkId, ChunkPlace, Extent, Ino, NodeId, NodeState, NodeView

N1, N2, N3, N4 = map(NodeId, ("n1", "n2", "n3", "n4"))


def view(node: NodeId, state: NodeState = NodeState.UP) -> NodeView:
    return NodeView(node, f"{node}:1", node, "", state, 1000, 500, 0, 0, 0)


ALL = {node: view(node) for node in (N1, N2, N3, N4)}
FACTS = ChunkFacts(ChunkId(31), True, 100, 60, 3, 0, (N1, N2, N3), (), (), "/file", ())
WHOLE = {N1: 100, N2: 100, N3: 100, N4: NOT_THERE}


def found(facts: ChunkFacts, now: dict[NodeId, int], before: dict[NodeId, int] | None = None) -> list[Finding]:
    return list(compare(facts, now if before is None else before, now, ALL))


def test_copies_that_are_there_are_no_finding() -> None:
    assert found(FACTS, WHOLE) == []
    assert found(FACTS, WHOLE | {N1: 120}) == []  # a tail that nobody committed


def test_a_copy_that_is_missing_or_short_is_made_again() -> None:
    for length, words in ((NOT_THERE, "is missing"), (40, "has 40 of 100 bytes")):
        (finding,) = found(FACTS, WHOLE | {N2: length})
        assert finding.what == f"The copy of chunk 1f (/file) on n2 {words}"
        assert finding.mend == ["mend_copy", 31, "n2"]


def test_a_copy_that_came_while_it_was_looked_for_is_no_finding() -> None:
    assert found(FACTS, WHOLE, before=WHOLE | {N2: NOT_THERE}) == []
    assert found(FACTS, WHOLE | {N2: NOT_THERE}, before=WHOLE) == []


def test_a_copy_of_a_chunk_that_is_being_written_is_left_to_its_writer() -> None:
    (finding,) = found(FACTS._replace(session=4), WHOLE | {N2: 40})
    assert finding.mend is None


def test_what_is_lost_is_named_and_nothing_of_it_is_dropped() -> None:
    facts = FACTS._replace(holders=(N1, N2, N3))
    nodes = ALL | {N3: view(N3, NodeState.DEAD)}
    has = {N1: NOT_THERE, N2: 40}
    (finding,) = compare(facts, has, has, nodes)
    assert finding.mend is None
    assert str(finding) == (
        "Chunk 1f has no whole copy that can be reached (n3 is dead; n1 has none; n2 has 40 of 100 bytes):"
        " 60 bytes of /file cannot be read: start n3 again; else restore them, or delete them."
    )


def test_copies_that_are_known_to_be_damaged_are_told_of_by_the_namenode_unless_none_is_whole() -> None:
    facts = FACTS._replace(damaged=(N1, N2, N3))
    assert found(facts, WHOLE | {N2: 40}) == []
    assert [finding.kind for finding in found(facts, WHOLE | {N2: NOT_THERE})] == ["copy-missing"]
    (finding,) = found(facts, WHOLE | {N1: 0, N2: 40, N3: NOT_THERE})
    assert (finding.kind, finding.mend) == ("chunk-lost", None)
    assert str(finding).endswith(
        ": 60 bytes of /file cannot be read, or some of them: check again, as copies mend one another;"
        " `dfs fsck --data` says which bytes are lost: restore them, or delete them."
    )


def test_a_copy_that_does_not_count_is_counted_if_it_is_whole_and_else_left_to_its_node() -> None:
    (whole,) = found(FACTS, WHOLE | {N4: 100})
    assert (whole.kind, whole.mend) == ("copy-uncounted", ["mend_stray", "n4", 31, 100])
    (part,) = found(FACTS, WHOLE | {N4: 10})
    assert (part.kind, part.mend) == ("stray", None)


def test_a_copy_that_is_being_made_or_deleted_is_no_stray() -> None:
    assert found(FACTS._replace(copying=(N4,)), WHOLE | {N4: 10}) == []
    assert found(FACTS._replace(deleting=(N4,)), WHOLE | {N4: 100}) == []
    assert found(FACTS, WHOLE | {N4: 10}, before=WHOLE) == []


def test_a_copy_that_is_to_be_deleted_counts_again_if_no_other_is_whole() -> None:
    deleting = FACTS._replace(deleting=(N4,))
    last = {N1: NOT_THERE, N4: 100}
    assert [each.mend for each in found(deleting, last)][-1] == ["mend_stray", "n4", 31, 100]
    assert [each.kind for each in found(deleting, last, before={N1: NOT_THERE, N4: NOT_THERE})] == ["chunk-lost"]
    assert [each.kind for each in found(deleting, last | {N4: 99})] == ["chunk-lost"]
    assert found(deleting._replace(session=5), last | {N1: 100}) == []


def test_the_only_whole_copy_is_one_that_does_not_count() -> None:
    kinds = {finding.kind for finding in found(FACTS, {N1: NOT_THERE, N2: NOT_THERE, N3: 5, N4: 100})}
    assert kinds == {"copy-missing", "copy-uncounted"}
    assert not [
        finding for finding in found(FACTS, {N1: NOT_THERE, N4: 100}) if finding.mend and finding.mend[0] == "mend_copy"
    ]


def test_a_chunk_that_no_node_is_counted_for_is_lost_unless_one_has_it() -> None:
    nobody = FACTS._replace(holders=())
    assert [finding.kind for finding in found(nobody, {N1: NOT_THERE})] == ["chunk-lost"]
    assert [finding.kind for finding in found(nobody, {N1: 100})] == ["copy-uncounted"]
    assert disagreeing([[31, 100, 0, []]], {N1: {}}) == {31}


def test_a_chunk_that_nobody_knows_is_deleted_unless_the_namenode_may_be_wrong() -> None:
    unknown = FACTS._replace(length=-1, holders=(), files="no file")
    (stray,) = found(unknown, {N1: 7})
    assert stray.mend == ["mend_stray", "n1", 31, 7]
    first, second = found(unknown._replace(given=False), {N1: 7, N2: 9})
    assert first.kind == second.kind == "chunk-never-given"
    assert (first.mend, second.mend) == (["mend_stray", "n2", 31, 9], ["mend_stray", "n1", 31, 7])
    (torn,) = found(unknown._replace(files="/file"), {N1: 7})
    assert (torn.kind, torn.mend) == ("chunk-missing", None)


def test_chunks_that_are_worth_a_second_look() -> None:
    believed = [[1, 100, 0, ["n1", "n2"]], [2, 0, 7, ["n1"]], [3, 10, 0, ["n3"]]]
    held = {N1: {ChunkId(1): 100}, N2: {ChunkId(1): 100}, N3: {ChunkId(3): 10}}
    assert disagreeing(believed, held) == set()
    assert disagreeing(believed, held | {N2: {ChunkId(1): 99}}) == {1}
    assert disagreeing(believed, held | {N2: {}}) == {1}
    assert disagreeing(believed, held | {N2: {ChunkId(1): 100, ChunkId(9): 1}}) == {9}
    assert disagreeing(believed, {N1: held[N1], N2: held[N2]}) == {3}  # nobody who has it could be asked


def test_how_each_copy_is_and_what_is_said_of_it() -> None:
    nodes = ALL | {N3: view(N3, NodeState.DEAD)}
    found = report(FACTS._replace(reasons=("n3 is dead.",)), 0, 4, nodes, {N1: 100, N2: 40}, ())
    assert [copy.condition for copy in found.copies] == [Condition.WHOLE, Condition.SHORT, Condition.UNKNOWN]
    assert [copy.length for copy in found.copies] == [100, 40, None]
    assert not found.is_well
    assert found.reasons[0] == "n3 is dead."
    assert found.reasons[1].startswith("n2 has 40 of 100 bytes")
    assert found.reasons[2] == "The file is to have 4 copies now; this chunk was written to have 3."
    assert report(FACTS, 0, 3, ALL, {N1: 100, N2: 100, N3: 100}, ()).is_well
    damaged = report(FACTS, 0, 3, ALL, {N1: 100, N2: 100, N3: 100}, [N2])
    assert [copy.condition for copy in damaged.copies][1] == Condition.DAMAGED
    assert not damaged.is_well
    known = report(FACTS._replace(damaged=(N2, N3)), 0, 3, ALL, {N1: 100, N2: 64, N3: 100}, [])
    assert [copy.condition for copy in known.copies] == [Condition.WHOLE, Condition.DAMAGED, Condition.WHOLE]
    assert known.reasons == ()  # the NameNode has told of it


def test_a_copy_that_may_not_be_looked_at_is_as_the_namenode_says() -> None:
    nodes = ALL | {N3: view(N3, NodeState.DEAD)}
    found = report(FACTS, 0, 3, nodes, {}, (), "the key does not allow it")
    assert [copy.condition for copy in found.copies] == [Condition.UNSEEN, Condition.UNSEEN, Condition.UNKNOWN]
    assert (found.whole, found.is_well, found.reasons) == (2, False, ())
    assert report(FACTS, 0, 3, ALL, {}, (), "the key does not allow it").is_well


def test_a_copy_that_was_found_damaged_is_told_of_once() -> None:
    found = report(FACTS, 0, 3, ALL, WHOLE, {N1})
    assert [copy.condition for copy in found.copies] == [Condition.DAMAGED, Condition.WHOLE, Condition.WHOLE]
    assert found.reasons == ("n1 has a damaged copy: it is mended from those that are right there.",)
    said = "n1 has not all of its blocks."
    known = FACTS._replace(damaged=(N1,), reasons=(said,))
    assert report(known, 0, 3, ALL, WHOLE | {N1: 0}, {N1}).reasons == (said,)


# --- reading every copy


async def read(answers: dict[NodeId, errors.DfsError | None]) -> tuple[Reading, list[NodeId]]:
    """Read two pieces of a chunk from nodes that answer so, and which nodes were asked."""
    asked: list[NodeId] = []

    class Played:
        async def read_into(self, node: NodeId, *_: Any) -> None:
            asked.append(node)
            if error := answers[node]:
                raise error

        async def layout(self, *_: Any) -> Layout:
            return layout

    size = 2 * limits.READ_MAX_BYTES
    places = {ChunkId(31): ChunkPlace(ChunkId(31), size, tuple(answers))}
    layout = Layout(cast(Any, None), [Extent(0, size, ChunkId(31), 0)], places, size)
    played = cast(Any, Played())
    return await Survey(played, played, played).read(Ino(7), layout, [N1, N2, N3]), asked


@pytest.mark.parametrize("kind", [errors.Corrupt, errors.ChunkNotFound, errors.InvalidArgument])
async def test_a_copy_is_damaged_whose_node_says_so(kind: type[errors.DfsError]) -> None:
    reading, _ = await read({N1: None, N2: kind("what is wrong")})
    assert {(each.chunk, each.node, each.others) for each in reading.damages} == {(31, N2, True)}
    assert not reading.silent


@pytest.mark.parametrize(
    "kind",
    [
        errors.Unreachable,
        errors.ConnectionLost,
        errors.DeadlineExceeded,
        errors.Refused,
        errors.RemoteFault,
        errors.Busy,
        errors.GrantExpired,
    ],
)
async def test_nothing_is_known_of_copies_on_a_node_that_could_not_be_asked(kind: type[errors.DfsError]) -> None:
    reading, asked = await read({N1: None, N2: kind("why"), N4: None})
    assert reading.damages == [] and list(reading.silent) == [N2]
    assert asked.count(N1) == 2 and N4 not in asked  # N4 is not up


async def test_a_damaged_copy_is_the_last_one_if_the_others_could_not_be_read() -> None:
    reading, _ = await read({N1: errors.Unreachable("away"), N2: errors.Corrupt("rot")})
    assert {(each.node, each.others) for each in reading.damages} == {(N2, False)}
