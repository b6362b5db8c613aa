"""How appended bytes become a file's, and what becomes of bytes that are a file's no more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

from dfs import errors, limits
from dfs.types import ROOT_INO
from nodes.namenode.commands import plan_punches
from tests.unit.namenode.world import DAY_NS, MINUTE_NS, Namespace

ALL = ["n1", "n2", "n3"]


def orders(space: Namespace) -> list[tuple[str, str, int, Any, int]]:
    """(node, kind, chunk, argument, seconds from now until it is due) of all there are."""
    rows = space.rows(
        "SELECT n.name, w.kind, w.chunk, w.argument, w.due_ns FROM work w JOIN node n ON n.id = w.node"
        " ORDER BY n.name, w.id"
    )
    return [(*row[:3], msgpack.unpackb(row[3]), (row[4] - space.now_ns) // 10**9) for row in rows]


def trims(space: Namespace, chunk: int) -> list[tuple[int, int]]:
    return space.rows("SELECT offset, length FROM trim WHERE chunk = ? ORDER BY offset", chunk)


def sealed(space: Namespace, nodes: Sequence[str] = ALL) -> tuple[int, int, int]:
    """A session, a file of it, and the chunk that has the file's 100 bytes and takes no more."""
    session = space.open_session()
    ino = space.file(session).ino
    chunk = space.written(session, ino, 100, nodes)
    space.do(session, "seal", [chunk])
    return session, ino, chunk


def test_two_writers_append_to_one_file_and_each_learns_where(space: Namespace) -> None:
    one, other = space.open_session(), space.open_session()
    ino = space.file(one).ino
    for session, base in ((one, 0), (other, 30), (one, 60)):
        chunk = space.chunk(session)
        attr, found = space.do(
            session, "commit", ino, [[0, 10, chunk, 0], [10, 20, chunk, 10]], [[chunk, 30, ALL]], True
        )
        assert (attr[6], found) == (base + 30, base)
    assert space.queries.getattr(ino).allocated == 90
    assert space.findings() == []


def test_an_overwrite_replaces_what_it_covers_and_frees_it(space: Namespace) -> None:
    session = space.open_session()
    ino = space.file(session).ino
    old, new = space.written(session, ino, 100), space.chunk(session)
    attr, _ = space.do(session, "commit", ino, [[40, 20, new, 0]], [[new, 20, ALL]])
    assert (attr[6], attr[7]) == (100, 100)
    _, extents, _ = space.queries.extents(ino, 0, 1000)
    assert extents == [(0, 40, old, 0), (40, 20, new, 0), (60, 40, old, 60)]
    assert trims(space, old) == [(40, 20)]


def test_the_later_of_two_overlapping_pieces_of_a_commit_counts(space: Namespace) -> None:
    session = space.open_session()
    ino = space.file(session).ino
    chunk = space.chunk(session)
    space.do(session, "commit", ino, [[0, 10, chunk, 0], [5, 10, chunk, 10]], [[chunk, 20, ALL]])
    assert space.queries.extents(ino, 0, 100)[1] == [(0, 5, chunk, 0), (5, 10, chunk, 10)]
    assert space.findings() == []


def test_appends_that_continue_each_other_are_one_extent(space: Namespace) -> None:
    session = space.open_session()
    ino = space.file(session).ino
    chunk = space.chunk(session)
    for number in range(5):
        space.do(session, "commit", ino, [[0, 10, chunk, 10 * number]], [[chunk, 10 * number + 10, ALL]], True)
    assert space.queries.extents(ino, 0, 100)[1] == [(0, 50, chunk, 0)]


def test_a_node_that_failed_during_a_write_loses_its_copy_at_once(space: Namespace) -> None:
    session = space.open_session()
    ino = space.file(session).ino
    chunk = space.chunk(session)
    space.do(session, "commit", ino, [[0, 10, chunk, 0]], [[chunk, 10, ["n1", "n3"]]])
    assert space.queries.chunks(0, 1)[0][3] == ["n1", "n3"]
    assert orders(space) == [("n2", "delete", chunk, None, 0)]


def test_too_few_copies_do_not_count_as_written(space: Namespace) -> None:
    session = space.open_session()
    ino = space.file(session).ino
    chunk = space.chunk(session)
    for names in (["n1"], [], ["n1", "stranger"]):
        with pytest.raises(errors.NotEnoughNodes):
            space.do(session, "commit", ino, [[0, 10, chunk, 0]], [[chunk, 10, names]])
    assert space.queries.getattr(ino).size == 0
    assert space.queries.chunks(0, 1) == [[chunk, 0, session, ALL]]


def test_a_file_that_wants_one_copy_needs_one(space: Namespace) -> None:
    session = space.open_session()
    ino = space.file(session).ino
    space.written(session, ino, 10, ["n2"])
    assert space.queries.getattr(ino).size == 10


def test_only_its_own_session_commits_a_chunk_and_only_while_it_is_open(space: Namespace) -> None:
    one, other = space.open_session(), space.open_session()
    ino = space.file(one).ino
    chunk = space.written(one, ino, 10)

    def commit(session: int, number: int) -> None:
        space.do(session, "commit", ino, [[10, 10, number, 10]], [[number, 20, ALL]])

    with pytest.raises(errors.ChunkSealed, match="not open in this session"):
        commit(other, chunk)
    with pytest.raises(errors.ChunkSealed):
        commit(one, 999)
    space.do(one, "seal", [chunk])
    with pytest.raises(errors.ChunkSealed):
        commit(one, chunk)


def test_bytes_of_a_chunk_belong_to_one_place_in_one_file(space: Namespace) -> None:
    session = space.open_session()
    ino, other = space.file(session).ino, space.file(session, b"other").ino
    chunk = space.written(session, ino, 100)
    space.do(session, "truncate", ino, 50)
    for start, length in ((0, 10), (40, 20), (49, 1), (50, 10), (99, 5), (0, 110)):
        with pytest.raises(errors.InvalidArgument, match="committed before"):
            space.do(session, "commit", other, [[0, length, chunk, start]], [[chunk, 200, ALL]])
    space.do(session, "commit", other, [[0, 10, chunk, 100]], [[chunk, 200, ALL]])
    assert space.findings() == []


@pytest.mark.parametrize(
    "places",
    [
        [(0, 0), (10, 0)],  # the same bytes twice
        [(0, 0), (0, 0)],  # and in the same place
        [(0, 0), (10, 10), (20, 5)],  # what neighbours have
        [(0, 20), (10, 0), (20, 10), (30, 20)],  # neighbours that run into what is there
    ],
)
def test_one_commit_may_not_point_at_bytes_twice(space: Namespace, places: list[tuple[int, int]]) -> None:
    session = space.open_session()
    ino, chunk = space.file(session).ino, space.chunk(session)
    extents = [[offset, 10, chunk, chunk_offset] for offset, chunk_offset in places]
    before = space.dump()
    with pytest.raises(errors.InvalidArgument, match="committed before"):
        space.do(session, "commit", ino, extents, [[chunk, 100, ALL]])
    assert space.dump() == before


def test_of_one_commit_what_comes_later_covers_what_comes_first(space: Namespace) -> None:
    session = space.open_session()
    ino, chunk = space.file(session).ino, space.chunk(session)
    space.do(session, "commit", ino, [[0, 10, chunk, 0], [5, 10, chunk, 10], [0, 8, chunk, 20]], [[chunk, 28, ALL]])
    assert space.queries.extents(ino, 0, 100)[1] == [(0, 8, chunk, 20), (8, 7, chunk, 13)]
    assert space.queries.getattr(ino).allocated == 15
    assert space.findings() == []


def test_many_pages_written_anew_at_random_free_what_was_there(space: Namespace) -> None:
    session = space.open_session()
    ino = space.file(session).ino
    old = space.written(session, ino, 1000)
    space.do(session, "seal", [old])
    new = space.chunk(session)
    pages = [[10 * page, 10, new, 10 * number] for number, page in enumerate(range(99, -1, -1))]
    space.do(session, "commit", ino, pages[:50], [[new, 500, ALL]])
    assert space.findings() == []
    assert space.queries.getattr(ino).allocated == 1000
    space.do(session, "commit", ino, pages[50:], [[new, 1000, ALL]])
    assert space.findings() == []
    assert [chunk for chunk, *_ in space.queries.chunks(0, 9)] == [new], "nothing points to the old one any more"


WRONG: list[tuple[Any, Any]] = [
    ([[0, 10, 1, 5]], [[1, 10, ALL]]),  # beyond the chunk
    ([[0, 10, 2, 0]], [[1, 10, ALL]]),  # of a chunk that is not named
    ([[0, 0, 1, 0]], [[1, 10, ALL]]),
    ([[-1, 10, 1, 0]], [[1, 10, ALL]]),
    ([[0, 10, 1]], [[1, 10, ALL]]),
    ([[0, 10, 1, 0]], [[1, 10]]),
    ([[0, 10, 1, 0]], [[1, limits.CHUNK_MAX_BYTES + 1, ALL]]),
    ([[0, 10, 1, 0]], [[1, 10, "n1"]]),
    ("extents", [[1, 10, ALL]]),
]


@pytest.mark.parametrize(("extents", "chunks"), WRONG)
def test_what_makes_no_sense_is_refused(space: Namespace, extents: Any, chunks: Any) -> None:
    session = space.open_session()
    ino = space.file(session).ino
    assert space.chunk(session) == 1
    before = space.dump()
    with pytest.raises(errors.InvalidArgument):
        space.do(session, "commit", ino, extents, chunks)
    assert space.dump() == before


def test_a_file_does_not_grow_beyond_what_an_offset_can_say(space: Namespace) -> None:
    session = space.open_session()
    ino = space.file(session).ino
    chunk = space.chunk(session)
    end = limits.FILE_SIZE_MAX_BYTES
    with pytest.raises(errors.FileTooLarge):
        space.do(session, "commit", ino, [[end, 10, chunk, 0]], [[chunk, 10, ALL]])
    space.do(session, "commit", ino, [[end - 10, 10, chunk, 0]], [[chunk, 10, ALL]])
    assert space.queries.getattr(ino).size == end
    assert space.queries.extents(ino, end - 10, 10)[1] == [(end - 10, 10, chunk, 0)]
    space.do(session, "truncate", ino, 0)
    assert space.findings() == []


def test_only_regular_files_have_data(space: Namespace) -> None:
    session = space.open_session()
    chunk = space.chunk(session)
    fifo = space.do(session, "mknod", ROOT_INO, b"fifo", 0o010644, 0, 0, 0).ino
    for ino, error in ((ROOT_INO, errors.InvalidArgument), (fifo, errors.InvalidArgument), (99, errors.NotFound)):
        with pytest.raises(error):
            space.do(session, "commit", ino, [[0, 10, chunk, 0]], [[chunk, 10, ALL]])


def test_sealing_has_the_copies_cut_to_what_was_committed(space: Namespace) -> None:
    session = space.open_session()
    chunk = space.written(session, space.file(session).ino, 10)
    space.do(session, "seal", [chunk])
    assert orders(space) == [(node, "cut", chunk, 10, 0) for node in ALL]
    space.do(session, "seal", [chunk])
    assert len(orders(space)) == 3


def test_committed_bytes_that_never_became_a_files_are_freed_when_the_chunk_is_sealed(space: Namespace) -> None:
    session = space.open_session()
    ino = space.file(session).ino
    chunk = space.chunk(session)
    space.do(session, "commit", ino, [[0, 10, chunk, 20], [10, 10, chunk, 50]], [[chunk, 100, ALL]])
    space.do(session, "truncate", ino, 15)
    space.do(session, "seal", [chunk])
    assert trims(space, chunk) == [(0, 20), (30, 20), (55, 5), (60, 40)]
    assert space.findings() == []


def test_freed_bytes_are_punched_after_the_grace_period_once(space: Namespace) -> None:
    session = space.open_session()
    ino = space.file(session).ino
    chunk = space.written(session, ino, 100)
    space.do(session, "truncate", ino, 50)
    other = space.chunk(session)
    space.do(session, "commit", ino, [[10, 10, other, 0], [20, 10, other, 10]], [[other, 20, ALL]])
    space.now_ns += 2 * MINUTE_NS
    space.own("plan_punches")
    assert orders(space) == []  # it is open still: its writer may have given it up, or not
    space.do(session, "seal", [chunk])
    for _ in range(2):
        assert not space.own("plan_punches")
    found = [order[:4] for order in orders(space) if order[1] == "punch"]
    assert found == [(node, "punch", chunk, [[10, 20], [50, 50]]) for node in ALL]
    assert trims(space, chunk) == []
    assert space.findings() == []


def test_nothing_is_punched_before_readers_of_old_extents_are_done(space: Namespace) -> None:
    session, ino, chunk = sealed(space)
    space.do(session, "truncate", ino, 50)
    space.now_ns += MINUTE_NS // 2
    space.own("plan_punches")
    assert [order[1] for order in orders(space)] == ["cut"] * 3
    assert trims(space, chunk) == [(50, 50)]


def test_whatever_frees_bytes_they_are_not_punched_at_once(space: Namespace) -> None:
    session = space.open_session()
    chunk = space.chunk(session)
    a, b, c = (space.file(session, name).ino for name in (b"a", b"b", b"c"))
    for ino, extents in (
        (a, [[0, 10, chunk, 0]]),
        (b, [[0, 10, chunk, 10], [20, 10, chunk, 20]]),
        (c, [[0, 50, chunk, 50]]),
    ):
        space.do(session, "commit", ino, extents, [[chunk, 100, ALL]])
    for verb, *args in (("unlink", ROOT_INO, b"a"), ("truncate", b, 20), ("truncate", c, 40)):
        space.transact(space.next_command(session, verb, *args)._replace(answered_ns=1))  # by a clock far behind ours
    space.do(session, "seal", [chunk])
    freed = [(0, 10), (20, 10), (30, 20), (90, 10)]
    assert trims(space, chunk) == freed
    space.now_ns += MINUTE_NS // 2
    assert not space.own("plan_punches")
    assert trims(space, chunk) == freed


def punches(space: Namespace) -> list[list[list[int]]]:
    """The ranges of all orders to punch that n1 has."""
    return [order[3] for order in orders(space) if order[:2] == ("n1", "punch")]


def sealed_blocks(space: Namespace, blocks: int) -> tuple[int, int, int]:
    """As `sealed`, of a file that has so many blocks."""
    session = space.open_session()
    ino = space.file(session).ino
    chunk = space.written(session, ino, blocks * limits.BLOCK_BYTES)
    space.do(session, "seal", [chunk])
    return session, ino, chunk


def overwrite(space: Namespace, session: int, ino: int, offset: int, length: int) -> None:
    new = space.chunk(session)
    space.do(session, "commit", ino, [[offset, length, new, 0]], [[new, length, ALL]])


def test_a_block_that_is_freed_in_parts_is_punched_whole_with_the_last_of_them(space: Namespace) -> None:
    session, ino, chunk = sealed_blocks(space, 3)
    page = limits.BLOCK_BYTES // 4
    for part in (1, 3, 0, 2):
        overwrite(space, session, ino, limits.BLOCK_BYTES + part * page, page)
        space.now_ns += 2 * MINUTE_NS
        assert not space.own("plan_punches")
    block = limits.BLOCK_BYTES
    at = [block + part * page for part in range(4)]
    assert punches(space) == [[[at[1], page]], [[at[3], page]], [[at[0], 2 * page]], [[at[0], block]]]
    assert trims(space, chunk) == []
    assert space.findings() == []


def test_what_is_not_due_yet_is_not_punched_with_what_is_beside_it(space: Namespace) -> None:
    session, ino, chunk = sealed(space)
    overwrite(space, session, ino, 20, 20)
    space.now_ns += 2 * MINUTE_NS
    assert not space.own("plan_punches")
    overwrite(space, session, ino, 40, 10)
    space.now_ns += MINUTE_NS // 2
    overwrite(space, session, ino, 50, 10)
    overwrite(space, session, ino, 10, 10)
    space.now_ns += 3 * MINUTE_NS // 4
    assert not space.own("plan_punches")
    assert punches(space) == [[[20, 20]], [[20, 30]]]
    assert trims(space, chunk) == [(10, 10), (50, 10)]


def test_no_more_is_punched_again_than_may_be_in_one_block(space: Namespace) -> None:
    session, ino, _ = sealed_blocks(space, 16)
    block, most = limits.BLOCK_BYTES, limits.BLOCK_MAX_BYTES
    overwrite(space, session, ino, 0, 8 * block)
    overwrite(space, session, ino, 9 * block, 6 * block)
    space.now_ns += 2 * MINUTE_NS
    assert not space.own("plan_punches")
    overwrite(space, session, ino, 8 * block, block)
    space.now_ns += 2 * MINUTE_NS
    assert not space.own("plan_punches")
    assert punches(space)[1:] == [[[8 * block - most, block + 2 * most]]]


def test_what_the_index_of_extents_lacks_is_not_punched(space: Namespace) -> None:
    session, ino, chunk = sealed(space)
    overwrite(space, session, ino, 20, 20)
    space.damage("DELETE FROM extent WHERE chunk = ? AND chunk_offset = 40", chunk)  # as if it lacked that
    space.now_ns += 2 * MINUTE_NS
    assert not space.own("plan_punches")
    assert punches(space) == [[[20, 20]]]


def test_a_block_at_the_border_of_two_commands_is_punched(space: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_punches, "RANGES", 2)
    session, ino, _ = sealed(space)
    for at in (60, 40, 20):
        overwrite(space, session, ino, at, 20)
    space.now_ns += 2 * MINUTE_NS
    assert space.own("plan_punches")
    assert not space.own("plan_punches")
    assert punches(space) == [[[20, 40]], [[20, 60]]]


def test_one_command_orders_so_many_punches_and_no_more_however_many_are_due(
    space: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_punches, "RANGES", 4)
    session = space.open_session()
    chunks = [space.written(session, space.file(session, name).ino, 100) for name in (b"a", b"b")]
    for chunk in chunks:
        space.do(session, "seal", [chunk])
        for at in (0, 20, 40):
            space.damage("INSERT INTO trim VALUES (?, ?, 10, ?)", chunk, at, space.now_ns)
    assert space.own("plan_punches")
    assert [trims(space, chunk) for chunk in chunks] == [[], [(20, 10), (40, 10)]]
    assert not space.own("plan_punches")
    found = [order[2:4] for order in orders(space) if order[:2] == ("n1", "punch")]
    one, other = chunks
    assert found == [(one, [[0, 10], [20, 10], [40, 10]]), (other, [[0, 10]]), (other, [[20, 10], [40, 10]])]


def test_what_is_punched_while_a_copy_is_made_is_punched_in_the_copy_too(space: Namespace) -> None:
    session, ino, chunk = sealed(space, ["n1", "n2"])
    space.do(session, "truncate", ino, 80)
    space.now_ns += 2 * MINUTE_NS
    space.own("plan_punches")  # of the holders; n3 is making its copy, and has read these bytes
    space.do(session, "truncate", ino, 50)
    assert space.own("add_replicas", "n3", [(chunk, 100)]) == [True]
    assert [order[:4] for order in orders(space) if order[0] == "n3"] == [
        ("n3", "cut", chunk, 100),
        ("n3", "punch", chunk, [[80, 20]]),
    ]
    space.now_ns += 2 * MINUTE_NS
    space.own("plan_punches")
    assert orders(space)[-1][:4] == ("n3", "punch", chunk, [[50, 50]])
    assert space.findings() == []


def test_a_copy_of_a_chunk_of_which_all_is_used_is_not_punched(space: Namespace) -> None:
    session, ino, chunk = sealed(space, ["n1", "n2"])
    space.do(session, "truncate", ino, 50)
    assert space.own("add_replicas", "n3", [(chunk, 100)]) == [True]
    assert [order[1] for order in orders(space) if order[0] == "n3"] == ["cut"]


def test_a_removed_files_chunk_is_deleted_after_the_grace_period(space: Namespace) -> None:
    session = space.open_session()
    chunk = space.written(session, space.file(session).ino, 100)
    space.do(session, "seal", [chunk])
    space.do(session, "unlink", ROOT_INO, b"file")
    assert orders(space) == [(node, "delete", chunk, None, 60) for node in ALL]
    assert space.queries.chunks(0, 10) == []
    assert space.queries.due_work("n1", space.now_ns, 256) == []
    later = space.now_ns + MINUTE_NS
    assert [order[1] for order in space.queries.due_work("n1", later, 256)] == ["delete"]
    space.own("finish_work", "n1", [order[0] for order in space.queries.due_work("n1", later, 256)])
    assert [order[0] for order in orders(space)] == ["n2", "n3"]


@pytest.mark.parametrize("ahead_ns", [5 * 60 * MINUTE_NS, 365 * DAY_NS])
def test_orders_and_punches_of_a_clock_that_was_ahead_are_due_soon_once_it_is_right(
    space: Namespace, ahead_ns: int
) -> None:
    session, ino, chunk = sealed(space)
    space.own("finish_work", "n1", space.rows("SELECT id FROM work"))
    space.now_ns += ahead_ns
    space.do(session, "truncate", ino, 50)
    space.own("drop_surplus", [(chunk, ["n2"], ["n1"])])
    space.now_ns -= ahead_ns
    postponed = space.rows("SELECT w.id FROM work w JOIN node n ON n.id = w.node WHERE n.name = 'n3'")
    space.own("postpone_work", "n3", postponed, 60 * MINUTE_NS)
    assert not space.own("bring_forward")
    assert [order for order in orders(space) if order[0] != "n1"] == [
        ("n2", "delete", chunk, None, 60),
        ("n3", "cut", chunk, 100, 3599),
    ]
    assert space.rows("SELECT due_ns FROM trim") == [space.now_ns + MINUTE_NS]


def test_punches_of_a_clock_that_was_half_an_hour_ahead_are_due_soon_once_it_is_right(space: Namespace) -> None:
    session, ino, _ = sealed(space)
    space.now_ns += 30 * MINUTE_NS
    space.do(session, "truncate", ino, 50)
    space.now_ns -= 30 * MINUTE_NS
    assert not space.own("bring_forward")
    assert space.rows("SELECT due_ns FROM trim") == [space.now_ns + MINUTE_NS]


def test_an_order_is_finished_by_the_node_that_had_it_and_no_other(space: Namespace) -> None:
    session = space.open_session()
    space.do(session, "seal", [space.chunk(session)])
    numbers = space.rows("SELECT id FROM work")
    space.own("finish_work", "stranger", numbers)
    assert len(orders(space)) == 3
    space.own("finish_work", "n2", numbers)
    assert [order[0] for order in orders(space)] == ["n1", "n3"]


def test_a_removed_file_that_is_held_keeps_its_data_until_it_is_let_go(space: Namespace) -> None:
    session = space.open_session()
    ino = space.file(session).ino
    space.do(session, "hold", ino)
    space.do(session, "hold", ino)
    chunk = space.written(session, ino, 100)
    space.do(session, "unlink", ROOT_INO, b"file")
    space.do(session, "release", ino)
    assert space.queries.extents(ino, 0, 100)[1] == [(0, 100, chunk, 0)]
    space.do(session, "release", ino)
    with pytest.raises(errors.NotFound):
        space.queries.getattr(ino)
    space.do(session, "release", ino)


def test_the_end_of_a_session_seals_its_chunks_and_lets_its_files_go(space: Namespace) -> None:
    session = space.open_session()
    kept = space.written(session, space.file(session).ino, 100)
    unnamed = space.do(session, "create_unnamed", ROOT_INO, 0o644, 0, 0).ino
    space.written(session, unnamed, 10)
    space.chunk(session)
    space.end_session(session)
    assert space.queries.chunks(0, 10) == [[kept, 100, 0, ALL]]
    with pytest.raises(errors.NotFound):
        space.queries.getattr(unnamed)
    assert space.findings() == []
    with pytest.raises(errors.SessionExpired):
        space.do(session, "allocate_chunks", 1, [["n1"]])


def test_a_session_with_much_to_let_go_is_ended_piece_by_piece(space: Namespace) -> None:
    session = space.open_session()
    space.do(session, "allocate_chunks", 1, [["n1"]] * 300)
    assert space.end_session(session) == 3
    assert space.queries.chunks(0, 10) == []
    assert space.findings() == []


def test_a_copy_counts_only_for_a_sealed_chunk_of_that_length_and_not_while_it_is_to_be_deleted(
    space: Namespace,
) -> None:
    session = space.open_session()
    ino = space.file(session).ino
    chunk = space.written(session, ino, 10, ["n1", "n2"])
    assert space.own("add_replicas", "n3", [(chunk, 10)]) == [False]
    space.do(session, "seal", [chunk])
    assert space.own("add_replicas", "n3", [(chunk, 9)]) == [False]
    assert space.own("add_replicas", "stranger", [(chunk, 10)]) == [False]
    assert space.own("add_replicas", "n3", [(99, 10)]) == [False]  # long gone: its copy goes too
    assert orders(space)[-1][:3] == ("n3", "delete", 99)
    assert space.own("add_replicas", "n3", [(chunk, 10)]) == [True]
    assert space.own("add_replicas", "n3", [(chunk, 10)]) == [True]
    assert space.own("drop_surplus", [(chunk, ["n3"], ["n1"])])
    assert space.own("add_replicas", "n3", [(chunk, 10)]) == [False]
    assert space.queries.chunks(0, 1)[0][3] == ["n1", "n2"]


def test_a_copy_is_dropped_only_while_all_are_there_for_whose_sake_it_may_go(space: Namespace) -> None:
    space.register("n4")
    _, _, chunk = sealed(space)
    assert space.own("add_replicas", "n4", [(chunk, 100)]) == [True]
    space.own("drop_replicas", "n1", [chunk], ["n2"], [])  # since that was planned
    assert space.own("drop_surplus", [(chunk, ["n4"], ["n1", "n2", "n3"])]) == 0
    assert space.queries.chunks(0, 1)[0][3] == ["n2", "n3", "n4"]
    assert space.own("drop_surplus", [(chunk, ["n4"], ["n2", "n3"])]) == 1


def test_a_stray_copy_is_deleted_once_and_never_one_that_counts(space: Namespace) -> None:
    session = space.open_session()
    chunk = space.written(session, space.file(session).ino, 10, ["n1", "n2"])
    for _ in range(2):
        space.own("delete_stray", "n3", [chunk, 77])
        space.own("delete_stray", "n1", [chunk])
        space.own("delete_stray", "stranger", [chunk])
    assert orders(space) == [("n3", "delete", chunk, None, 59), ("n3", "delete", 77, None, 59)]


def test_a_stray_copy_is_deleted_whatever_else_was_to_be_done_with_it(space: Namespace) -> None:
    _, _, chunk = sealed(space)
    for table in ("extent", "chunk", "replica"):
        space.damage(f"DELETE FROM {table}")
    assert ("n3", "cut", chunk) in {each[:3] for each in orders(space)}
    for _ in range(2):
        space.own("delete_stray", "n3", [chunk])
    assert [each[:3] for each in orders(space) if each[0] == "n3"] == [("n3", "delete", chunk)]


def test_a_copy_that_only_the_tables_do_not_know_is_left_to_fsck(space: Namespace) -> None:
    session = space.open_session()
    chunk = space.written(session, space.file(session).ino, 10, ["n1", "n2"])
    space.damage("DELETE FROM chunk")
    space.damage("DELETE FROM replica")
    before = orders(space)
    space.own("delete_stray", "n1", [chunk])
    assert space.own("add_replicas", "n1", [(chunk, 10)]) == [False]
    assert orders(space) == before
    space.own("delete_stray", "n1", [chunk + 1])  # of no file
    assert orders(space)[-1][:3] == ("n1", "delete", chunk + 1)
