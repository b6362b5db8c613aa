"""Numbers of chunks that an old copy of the database does not know are not given again."""

from __future__ import annotations

import shutil
from pathlib import Path

from dfs.types import ROOT_INO, ChunkId
from nodes.namenode.explain import facts_of
from nodes.namenode.reconcile import Held, compare
from tests.unit.namenode.test_replication import world
from tests.unit.namenode.world import DAY_NS, MINUTE_NS, START_NS, Namespace, namespace


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


def test_what_is_skipped_by_one_start_after_the_other_is_one_range(space: Namespace) -> None:
    session = space.open_session()
    space.chunk(session)
    for _ in range(3):
        space.now_ns += MINUTE_NS
        space.own("begin_series")
    last = space.store.counters()["next_chunk"] - 1
    assert space.queries.skipped(1, 2**63 - 1) == [(2, last)]
    assert space.chunk(session) == last + 1


def test_settings_and_the_check_do_not_mind(space: Namespace) -> None:
    space.own("skip_chunks", 40)
    space.machine.forget()
    space.configure()
    assert strays_and_unknown(space, 40) == ([], [40])
    assert space.findings() == []


def test_a_repair_makes_a_file_of_a_chunk_with_a_skipped_number(space: Namespace) -> None:
    space.register("n1", "n2", "n3")
    session = space.open_session()
    space.chunk(session, ["n1"])
    space.own("skip_chunks", 40)
    assert not facts_of(space.store.reads, ChunkId(30)).given
    assert facts_of(space.store.reads, ChunkId(1)).given
    assert space.do(session, "mend_stray", "n1", 30, 500) == ["is now /lost+found/chunk-1e"]
    assert space.do(session, "mend_stray", "n2", 30, 500) == ["counted again"]
    assert space.do(session, "mend_stray", "n3", 30, 400) == []  # not all of it: left for the node's next report
    assert space.rows("SELECT count(*) FROM replica WHERE chunk = 30") == [2]
    assert space.rows("SELECT count(*) FROM work WHERE kind = 'delete'") == [0]
    lost_and_found = space.queries.lookup(ROOT_INO, b"lost+found")[0]
    _, extents, _ = space.queries.extents(space.queries.lookup(lost_and_found, b"chunk-1e")[0], 0, 500)
    assert extents == [(0, 500, 30, 0)]
    assert space.do(session, "mend_stray", "n1", 31, 0) == ["to be deleted"]  # nothing was ever written to it
    assert space.do(session, "mend_stray", "n1", 41, 500) == []  # a number that is still to be given
    assert space.findings() == []


def test_a_life_gives_no_number_that_one_before_it_has_given_whatever_the_database_remembers(tmp_path: Path) -> None:
    """An old copy of it is put back: sessions and chunks of the time since then are there, and unknown."""
    old, lost = tmp_path / "old", tmp_path / "lost"
    with namespace(lost) as space:
        assert space.chunk(space.open_session()) == 1
    shutil.copytree(lost, old)
    with namespace(lost) as space:
        space.now_ns += MINUTE_NS
        space.own("begin_series")
        session = space.open_session()
        chunk = space.chunk(session)
        assert session > 1 and chunk > 2
    with namespace(old) as space:
        space.now_ns += 2 * MINUTE_NS
        space.own("begin_series")
        assert space.open_session() > session
        assert space.chunk(space.open_session()) > chunk
        assert strays_and_unknown(space, chunk) == ([], [chunk])
        assert space.findings() == []


def test_a_new_database_in_place_of_one_that_is_away_gives_none_of_its_numbers(tmp_path: Path) -> None:
    """Its disk is not mounted: DataNodes that come later have chunks of its first life, and of one after a restart."""
    given = []
    session = 0
    for life in range(2):
        with namespace(tmp_path / "away") as space:
            space.now_ns += life * MINUTE_NS
            space.own("begin_series")
            session = space.open_session()
            given.append(space.chunk(session))
    opened = Namespace(tmp_path / "new")
    opened.now_ns += 2 * MINUTE_NS
    opened.own("begin_series")
    opened.configure()
    opened.register("n1", "n2", "n3")
    other = opened.open_session()
    assert other > session
    assert opened.chunk(other) > max(given)
    assert strays_and_unknown(opened, *given) == ([], given)
    assert opened.findings() == []
    opened.store.close()


async def test_a_number_that_a_datanode_has_is_not_given_however_far_the_clock_is_behind(tmp_path: Path) -> None:
    async with world(tmp_path, lambda space: None) as here:
        info = {"node": "n1", "address": "n1:1", "host": "n1", "rack": "", "directories": ["d"]}
        last = START_NS // 10**9 << 16
        await here.service.register(info | {"last_chunk": last})
        assert here.store.counters()["next_chunk"] == last + 1
        await here.service.register(info | {"last_chunk": 2**62 + last})
        assert here.store.counters()["next_chunk"] == last + 1, "a damaged name would leave no numbers"


def test_a_clock_that_is_behind_takes_no_number_back(space: Namespace) -> None:
    session = space.open_session()
    space.own("begin_series")
    chunk = space.chunk(session)
    space.now_ns -= DAY_NS
    space.own("begin_series")
    assert space.chunk(session) == chunk + 1
