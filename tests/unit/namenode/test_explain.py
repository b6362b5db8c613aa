"""What `dfs why` says of a chunk: for each thing that can keep a copy from being made, the sentence that names it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dfs.types import ChunkId, NodeId, NodeState, NodeView
from nodes.namenode.explain import Copying, Facts, Outlook, facts_of, reasons, shortage
from tests.unit.namenode.world import START_NS, Namespace, node_view

NOW_NS = START_NS + 300 * 10**9


def outlook(
    full: Sequence[str] = (),
    *,
    is_on: bool = True,
    failures: int = 0,
    damaged: Sequence[str] = (),
    holding: Sequence[str] = (),
) -> Outlook:
    return Outlook(is_on, 12, 2, _ids(full), failures, 30.0 if failures else 0.0, _ids(damaged), _ids(holding))


def told(*nodes: NodeView, holders: Sequence[str] = ("n1", "n2"), copying: Sequence[Copying] = (), **how: Any) -> str:
    """What `dfs fsck` tells of a chunk that is to have three copies: the kind of finding, and its sentence."""
    deleting = _ids(how.pop("deleting", ()))
    facts = Facts(ChunkId(1), True, 100, 100, 3, how.pop("session", 0), "", _ids(holders), deleting, "/file")
    finding = shortage(facts, {view.node: view for view in nodes}, copying, outlook(**how))
    return f"{finding.kind}: {finding.what}: {finding.remedy}." if finding else ""


def said(
    *nodes: NodeView,
    holders: Sequence[str] = ("n1", "n2"),
    wanted: int = 3,
    session: int = 0,
    deleting: Sequence[str] = (),
    copying: Sequence[Copying] = (),
    full: Sequence[str] = (),
    is_on: bool = True,
    failures: int = 0,
    damaged: Sequence[str] = (),
) -> str:
    facts = Facts(ChunkId(1), True, 100, 100, wanted, session, "backup on h7", _ids(holders), _ids(deleting), "/file")
    known = {view.node: view for view in nodes}
    prospects = outlook(full, is_on=is_on, failures=failures, damaged=damaged)
    return " ".join(reasons(facts, known, copying, prospects, NOW_NS))


def _ids(names: Sequence[str]) -> tuple[NodeId, ...]:
    return tuple(map(NodeId, names))


N1, N2, N3, N4 = map(node_view, ("n1", "n2", "n3", "n4"))
DEAD = node_view("n3", state=NodeState.DEAD)


def test_nothing_is_said_of_a_chunk_that_is_well() -> None:
    assert said(N1, N2, N3, holders=("n1", "n2", "n3")) == ""


def test_a_dead_node_and_how_long_it_has_been_silent() -> None:
    text = said(N1, N2, DEAD, N4, holders=("n1", "n2", "n3"))
    assert "n3 is dead, it has been silent for 5 min" in text
    assert "waits for repair" in text
    assert "12 chunks have too few copies" in text


def test_a_node_that_was_not_heard_since_the_start_of_the_namenode() -> None:
    silent = node_view("n3", state=NodeState.SUSPECT)._replace(last_heartbeat_ns=0)
    assert "n3 has not been heard since the NameNode started: its copy counts" in said(
        N1, N2, silent, holders=("n1", "n2", "n3")
    )


def test_a_copy_that_is_being_made() -> None:
    copy = Copying(NodeId("n4"), _ids(("n1", "n2")), 3.2, extra=False)
    assert said(N1, N2, N4, copying=[copy]) == "A copy is being made on n4 from n1 or n2, for 3 s now."


def test_too_few_nodes() -> None:
    assert "no other DataNode is up; 3 are needed" in said(N1, N2, DEAD)


def test_no_space() -> None:
    assert "no space for 100 bytes on n4" in said(N1, N2, node_view("n4", free_bytes=99))


def test_an_old_copy_that_has_to_go_first() -> None:
    assert "waits until n4 deleted an old copy" in said(N1, N2, N4, deleting=["n4"])


def test_an_old_copy_whose_deletion_is_held_back() -> None:
    text = told(N1, N2, N4, deleting=["n4"], holding=["n4"])
    assert text.startswith("copies-few: Chunk 1 (/file) has 2 of 3 copies: no copy is made: the deletion of an old one")
    assert "held back on n4; `dfs deletions n4 --discard` has that used again" in text
    assert told(N1, N2, N4, deleting=["n4"], holding=["n1"]).startswith("copies-coming: ")
    assert told(N1, N2, N4, N3, deleting=["n4"], holding=["n4"]).startswith("copies-coming: ")


def test_targets_that_have_enough_to_do() -> None:
    text = said(N1, N2, N4, full=["n4"])
    assert "waits for its turn: n4 make as many as they may at once; 2 copies are being made in all" in text


def test_repair_that_is_switched_off() -> None:
    assert "repair is switched off" in said(N1, N2, N4, is_on=False)


def test_a_chunk_that_is_being_written() -> None:
    text = said(N1, N2, N4, session=5)
    assert "still being written by backup on h7" in text
    assert "2 of 3 copies" in text


def test_data_that_cannot_be_reached_names_who_has_it_and_what_it_is() -> None:
    text = said(N1, N2, DEAD, holders=("n3",))
    assert "No copy can be reached: start n3 again; else restore /file, or delete it." in text
    text = said(N1, N2, DEAD, holders=("n3",), deleting=("n1",))
    assert "n1 may have an old one, which stays until another can be reached: `dfs fsck --repair` counts it" in text


def test_a_copy_that_fails_again_and_again() -> None:
    assert "last 3 tries to make the copy failed" in said(N1, N2, N4, failures=3)
    assert "tried again in 30 s" in said(N1, N2, N4, failures=3)


def test_a_node_that_is_being_emptied() -> None:
    draining = N3._replace(draining=True)
    text = said(N1, N2, draining, N4, holders=("n1", "n2", "n3"))
    assert "n3 is being emptied: its copy goes when there are enough others." in text
    assert "waits for repair" in text


def test_a_copy_that_is_made_to_even_out_the_nodes_is_not_a_missing_one() -> None:
    copy = Copying(NodeId("n4"), _ids(("n1",)), 1.0, extra=True)
    assert said(N1, N2, N4, wanted=2, copying=[copy]) == (
        "A copy is being made on n4, to even out the nodes or racks, from n1, for 1 s now."
    )


def test_a_surplus() -> None:
    assert "3 copies where 2 are wanted" in said(N1, N2, N3, holders=("n1", "n2", "n3"), wanted=2)


def test_one_rack_that_has_all_copies() -> None:
    racks = [node_view("n1", rack="a"), node_view("n2", rack="a"), node_view("n3", rack="b")]
    assert "All its copies are in rack a" in said(*racks, wanted=2)


NOT_WHOLE = "n2 has not all of its blocks, as some are damaged or were lost with its power: only the others are read."


def test_a_copy_that_is_not_whole_and_is_mended_or_waits_for_that() -> None:
    copy = Copying(NodeId("n2"), _ids(("n1", "n3")), 3.2, extra=False)
    text = said(N1, N2, N3, holders=("n1", "n2", "n3"), damaged=["n2"], copying=[copy])
    assert text == f"{NOT_WHOLE} n2 is mending its copy from n1 or n3, for 3 s now."
    text = said(N1, N2, N3, holders=("n1", "n2", "n3"), damaged=["n2"])
    assert text.startswith(f"{NOT_WHOLE} The copy waits for repair")
    text = told(N1, N2, N3, holders=("n1", "n2", "n3"), damaged=["n2"])
    assert text.startswith("copies-coming: Chunk 1 (/file) has 2 of 3 copies (n2: not all blocks): the copy waits for")
    assert "copies-few: " in told(N1, N2, N3, holders=("n1", "n2", "n3"), damaged=["n2"], failures=3)


def test_copies_none_of_which_is_whole() -> None:
    text = said(N1, N2, wanted=2, damaged=["n1", "n2"])
    assert "No copy is whole: they are mended from one another as far as that can be." in text
    assert "No copy is whole: there is no other copy." in said(N1, N2, DEAD, holders=("n1",), damaged=["n1"])
    assert told(N1, N2, damaged=["n1", "n2"]) == ""  # it is told of as lost


def test_a_shortage_that_repair_sees_to_is_told_as_that() -> None:
    copy = Copying(NodeId("n4"), _ids(("n1",)), 3.2, extra=False)
    assert told(N1, N2, N4, copying=[copy]) == (
        "copies-coming: Chunk 1 (/file) has 2 of 3 copies: a copy is being made on n4 from n1, for 3 s now."
    )
    assert told(N1, N2, N4).startswith("copies-coming: Chunk 1 (/file) has 2 of 3 copies: the copy waits for repair,")
    assert told(N1, N2, DEAD, N4, holders=("n1", "n2", "n3"), failures=1).startswith("copies-coming: ")


def test_a_shortage_that_repair_cannot_end_is_told_with_what_keeps_it() -> None:
    assert told(N1, N2, DEAD, holders=("n1", "n2", "n3")).startswith(
        "copies-few: Chunk 1 (/file) has 2 of 3 copies: no copy can be made: no other DataNode is up;"
    )
    assert "copies-few: " in told(N1, N2, node_view("n4", free_bytes=99))
    assert "copies-few: " in told(N1, N2, N4, is_on=False)
    assert "the last 3 tries to make the copy failed" in told(N1, N2, N4, failures=3)
    assert "copies-few: " in told(N1, N2, N4, failures=3)
    copy = Copying(NodeId("n4"), _ids(("n1",)), 3.2, extra=False)
    assert "no other DataNode is up" in told(N1, N4, holders=("n1",), copying=[copy])


def test_no_shortage_is_told_of_a_chunk_that_is_written_or_lost_or_moves() -> None:
    assert told(N1, N2, session=7) == ""
    assert told(DEAD, holders=("n3",)) == ""
    assert told(N1, N2, N3._replace(draining=True), N4, holders=("n1", "n2", "n3")) == ""


def test_facts_are_what_the_tables_say(space: Namespace) -> None:
    session = space.open_session()
    chunk = ChunkId(space.written(session, space.file(session).ino, 100))
    with space.moment() as db:
        open_facts = facts_of(db, chunk)
        unknown = facts_of(db, ChunkId(77))
    assert (open_facts.client, open_facts.holders, open_facts.files) == (
        "test on here",
        _ids(("n1", "n2", "n3")),
        "/file",
    )
    assert (unknown.length, unknown.given) == (-1, False)
    space.do(session, "seal", [chunk])
    space.own("drop_surplus", [(chunk, ["n2"], ["n1"])])
    with space.moment() as db:
        assert facts_of(db, chunk)._replace(client="") == open_facts._replace(
            session=0, client="", holders=_ids(("n1", "n3")), deleting=_ids(("n2",))
        )
