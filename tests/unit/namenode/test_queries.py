"""What the NameNode answers, page by page, while the namespace changes."""

from __future__ import annotations

import itertools

import pytest

from dfs import errors, limits
from dfs.types import ROOT_INO
from nodes.namenode import queries as queries_module
from nodes.namenode.queries import summary
from tests.unit.namenode.world import Namespace


def test_a_listing_goes_on_where_it_was_though_entries_go(space: Namespace) -> None:
    session = space.open_session()
    for number in range(10):
        space.file(session, b"%d" % number)
    page = space.queries.readdir(ROOT_INO, 0, 4)
    for name in (b"0", b"3", b"4"):
        space.do(session, "unlink", ROOT_INO, name)
    space.file(session, b"3")  # a new entry, for the end
    rest = space.queries.readdir(ROOT_INO, page[-1][0], 100)
    assert [name for _, name, _ in page] == [b"0", b"1", b"2", b"3"]
    assert [name for _, name, _ in rest] == [b"5", b"6", b"7", b"8", b"9", b"3"]
    assert space.queries.readdir(ROOT_INO, rest[-1][0], 100) == []


def test_a_cookie_is_not_used_again_when_the_directory_has_been_emptied(space: Namespace) -> None:
    session = space.open_session()
    space.file(session)
    cookie = space.queries.readdir(ROOT_INO, 0, 1)[0][0]
    space.do(session, "unlink", ROOT_INO, b"file")
    space.file(session)
    assert space.queries.readdir(ROOT_INO, 0, 1)[0][0] > cookie


def test_only_directories_are_listed(space: Namespace) -> None:
    ino = space.file(space.open_session()).ino
    with pytest.raises(errors.NotADirectory):
        space.queries.readdir(ino, 0, 1)
    with pytest.raises(errors.NotFound):
        space.queries.readdir(99, 0, 1)
    for limit in (0, limits.READDIR_MAX_ENTRIES + 1):
        with pytest.raises(errors.InvalidArgument):
            space.queries.readdir(ROOT_INO, 0, limit)


def test_a_walk_ends_at_what_is_missing_and_after_what_is_no_directory(space: Namespace) -> None:
    session = space.open_session()
    outer = space.do(session, "mkdir", ROOT_INO, b"outer", 0o755, 0, 0).ino
    inner = space.do(session, "mkdir", outer, b"inner", 0o755, 0, 0).ino
    file = space.do(session, "create", inner, b"file", 0o644, 0, 0).ino

    def walked(*names: bytes) -> list[int]:
        return [attr.ino for attr in space.queries.walk(ROOT_INO, names)]

    assert walked() == []
    assert walked(b"outer", b"inner", b"file") == [outer, inner, file]
    assert walked(b"outer", b"missing", b"file") == [outer]
    assert walked(b"outer", b"inner", b"file", b"beyond") == [outer, inner, file]


def test_lookup_tells_a_missing_name_from_a_parent_that_is_no_directory(space: Namespace) -> None:
    ino = space.file(space.open_session()).ino
    with pytest.raises(errors.NotFound, match="no such file"):
        space.queries.lookup(ROOT_INO, b"missing")
    with pytest.raises(errors.NotADirectory):
        space.queries.lookup(ino, b"below")
    with pytest.raises(errors.NotFound, match="gone"):
        space.queries.lookup(99, b"name")
    with pytest.raises(errors.InvalidArgument):
        space.queries.readlink(ino)
    with pytest.raises(errors.NoAttribute):
        space.queries.getxattr(ino, b"user.x")
    with pytest.raises(errors.NotFound):
        space.queries.getxattr(99, b"user.x")


def test_a_summary_counts_what_is_beneath_a_file_with_two_names_once(
    space: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = space.open_session()
    top = space.do(session, "mkdir", ROOT_INO, b"top", 0o755, 0, 0).ino
    below = space.do(session, "mkdir", top, b"below", 0o755, 0, 0).ino
    for directory in (top, below):
        for number in range(5):
            ino = space.do(session, "create", directory, b"%d" % number, 0o644, 0, 0).ino
            space.do(session, "truncate", ino, 100)
    space.written(session, ino, 50)
    space.do(session, "link", ino, top, b"again")
    monkeypatch.setattr(queries_module, "_SUMMARY_SLICE", 3)
    slices = [dict(total) for total in summary(top, space.queries)]
    assert slices[-1] == {"files": 10, "directories": 1, "bytes": 1000, "allocated": 50}
    assert len(slices) > 3
    assert all(earlier["files"] <= later["files"] for earlier, later in itertools.pairwise(slices))
    assert list(summary(ino, space.queries))[-1] == {"files": 1, "directories": 0, "bytes": 100, "allocated": 50}


def fragmented(space: Namespace, session: int, count: int) -> int:
    """A file with one byte at each even offset, `count` of them."""
    ino: int = space.file(session).ino
    chunk = space.chunk(session)
    nodes = ["n1", "n2", "n3"]
    for first in range(0, count, limits.EXTENTS_MAX):
        last = min(count, first + limits.EXTENTS_MAX)
        extents = [[2 * position, 1, chunk, position] for position in range(first, last)]
        space.do(session, "commit", ino, extents, [[chunk, last, nodes]])
    return ino


def test_a_file_of_more_extents_than_fit_a_page_is_read_in_pages_that_say_so(space: Namespace) -> None:
    """A page with room left says that there is no more: wherever it begins, even in a hole, it must be true."""
    count = limits.EXTENTS_MAX + 100
    ino = fragmented(space, space.open_session(), count)
    for start in (0, 1, 2, 3):
        position, found = start, 0
        while True:
            attr, extents, places = space.queries.extents(ino, position, 2 * count)
            found += len(extents)
            if len(extents) < limits.EXTENTS_MAX:
                break
            position = extents[-1][0] + extents[-1][1]
        assert found == count - (start + 1) // 2
        assert attr.allocated == count
        assert len(places) == 1


def test_a_page_of_extents_is_in_few_chunks(space: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each the places are looked up: of thousands that would take long."""
    monkeypatch.setattr(limits, "EXTENTS_CHUNKS_MAX", 3)
    session = space.open_session()
    ino = space.file(session).ino
    chunks = [space.chunk(session) for _ in range(4)]
    extents = [[position, 1, chunks[position // 2], 1 - position % 2] for position in range(8)]
    space.do(session, "commit", ino, extents, [[chunk, 2, ["n1", "n2", "n3"]] for chunk in chunks])
    _, page, places = space.queries.extents(ino, 1, 100)
    assert [offset for offset, *_ in page] == [1, 2, 3, 4, 5]
    assert [place[0] for place in places] == chunks[:3]
    assert [offset for offset, *_ in space.queries.extents(ino, 6, 100)[1]] == [6, 7]


def test_extents_are_those_that_touch_the_range(space: Namespace) -> None:
    session = space.open_session()
    ino = space.file(session).ino
    chunk = space.chunk(session)
    extents = [[0, 10, chunk, 0], [20, 10, chunk, 10], [40, 10, chunk, 20]]
    space.do(session, "commit", ino, extents, [[chunk, 30, ["n1", "n2", "n3"]]])

    def starts(offset: int, length: int) -> list[int]:
        return [extent[0] for extent in space.queries.extents(ino, offset, length)[1]]

    assert starts(0, 100) == [0, 20, 40]
    assert starts(9, 11) == [0]
    assert starts(10, 10) == []
    assert starts(15, 6) == [20]
    assert starts(29, 2**63 - 1) == [20, 40]
    assert starts(50, 100) == []
    assert space.queries.extents(ino, 10, 5)[2] == []


def test_chunks_are_listed_with_their_nodes_in_order(space: Namespace) -> None:
    session = space.open_session()
    first, second = space.written(session, space.file(session).ino, 7), space.chunk(session, ["n2"])
    assert space.queries.chunks(0, 1) == [[first, 7, session, ["n1", "n2", "n3"]]]
    assert space.queries.chunks(first, 10) == [[second, 0, session, ["n2"]]]


def test_sessions_whose_end_was_cut_short_are_still_listed(space: Namespace) -> None:
    session = space.open_session()
    space.do(session, "hold", ROOT_INO)
    space.damage("DELETE FROM session WHERE session = ?", session)
    assert space.queries.sessions() == [(session, "", 0, "")]
    assert not space.own("end_session", session)
    assert space.queries.sessions() == []


def test_whole_files_are_those_in_one_piece_from_beginning_to_end(space: Namespace) -> None:
    session = space.open_session()
    inos = [space.file(session, b"%d" % number).ino for number in range(6)]
    whole, pieces, holed, short, empty, gone = inos
    chunk = space.chunk(session)
    places = [[chunk, 60, ["n1", "n2", "n3"]]]
    space.do(session, "commit", whole, [[0, 10, chunk, 0]], places)
    space.do(session, "commit", pieces, [[0, 10, chunk, 10], [10, 5, chunk, 30]], places)
    space.do(session, "commit", holed, [[5, 10, chunk, 40]], places)
    space.do(session, "commit", short, [[0, 10, chunk, 50]], places)
    space.do(session, "truncate", short, 20)
    space.do(session, "unlink", ROOT_INO, b"5")
    found, chunks = space.queries.whole_files([*inos, ROOT_INO])
    assert found == [[space.queries.getattr(whole).version, chunk, 0, 10], *[None] * 6]
    assert chunks == [[chunk, 60, ["n1", "n2", "n3"]]]
    assert gone and empty
