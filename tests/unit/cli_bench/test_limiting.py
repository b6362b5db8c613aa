"""What was the limit, from what was busy."""

from __future__ import annotations

from dfs.cli.bench.limiting import Link, Process, Reading, Share, in_words, limit_of, shares


def reading(at_s: float, *processes: Process, **other: object) -> Reading:
    return Reading(at_s, processes, **other)  # type: ignore[arg-type]


def part_of(found: list[Share], what: str) -> float:
    return next(share.part for share in found if share.what == what)


def test_a_process_that_computes_all_the_time_is_the_limit() -> None:
    found = shares(
        reading(0, Process("client", 5), Process("NameNode", 7, 3)),
        reading(10, Process("client", 14.8), Process("NameNode", 9, 4)),
        on_the_way_s=0,
    )
    limit = limit_of(found)
    assert limit.is_known
    assert in_words(limit) == "client CPU 98 %"
    assert part_of(found, "NameNode disk") == 0.1


def test_a_disk_that_is_waited_for_all_the_time_is_the_limit() -> None:
    found = shares(reading(0, Process("n1", 0, 0)), reading(10, Process("n1", 2, 9)), on_the_way_s=0)
    assert in_words(limit_of(found)) == "n1 disk 90 %"


def test_a_full_link_is_the_limit_in_whichever_direction() -> None:
    before, after = Link("eth0", 10, 10, 125e6), Link("eth0", 10, 10 + 1_190_000_000, 125e6)
    found = shares(reading(0, links=(before,)), reading(10, links=(after,)), on_the_way_s=0)
    assert in_words(limit_of(found)) == "link eth0 95 %"


def test_round_trips_are_the_limit_of_calls_one_after_the_other_over_a_long_line() -> None:
    found = shares(reading(0, calls=100), reading(10, calls=1_000), on_the_way_s=0.01)
    assert in_words(limit_of(found)) == "round trips 90 %"


def test_calls_side_by_side_do_not_make_round_trips_of_more_than_all_the_time() -> None:
    found = shares(reading(0), reading(1, calls=1_000_000), on_the_way_s=0.01)
    assert part_of(found, "round trips") == 1


def test_small_calls_that_go_back_and_forth_are_limited_by_nothing_alone() -> None:
    found = shares(
        reading(0, Process("client", 0), Process("NameNode", 0, 0)),
        reading(10, Process("client", 4.4), Process("NameNode", 3.1, 0.4)),
        on_the_way_s=0,
    )
    limit = limit_of(found)
    assert not limit.is_known
    assert in_words(limit) == "shared: client CPU 44 %, NameNode CPU 31 %"


def test_a_machine_without_a_free_processor_is_the_limit_whatever_its_processes_say() -> None:
    found = shares(
        reading(0, Process("client", 0), Process("mount", 0), processors=2, busy_s=0),
        reading(10, Process("client", 6.5), Process("mount", 7.5), processors=2, busy_s=19.6),
        on_the_way_s=0,
    )
    assert in_words(limit_of(found)) == "all 2 CPUs here 98 %, most by mount CPU 75 %"


def test_where_other_programs_have_the_processors_they_are_blamed() -> None:
    found = shares(
        reading(0, Process("client", 0), processors=2, busy_s=0),
        reading(10, Process("client", 2), processors=2, busy_s=20.2),
        on_the_way_s=0,
    )
    assert in_words(limit_of(found)) == "all 2 CPUs here 100 %, most by other programs' CPU 182 %"


def test_other_programs_are_no_limit_while_processors_are_free() -> None:
    found = shares(
        reading(0, Process("client", 0), processors=8, busy_s=0),
        reading(10, Process("client", 2), processors=8, busy_s=30),
        on_the_way_s=0,
    )
    limit = limit_of(found)
    assert not limit.is_known
    assert in_words(limit) == "shared: client CPU 20 %"


def test_of_several_datanodes_the_busiest_is_named() -> None:
    found = shares(
        reading(0, *(Process(name, 0, 0, is_datanode=True) for name in ("n1", "n2", "n3"))),
        reading(10, *(Process(f"n{number}", number, 2 * number, is_datanode=True) for number in (1, 2, 3))),
        on_the_way_s=0,
    )
    assert in_words(limit_of(found)) == "shared: n3 disk 60 %, n3 CPU 30 %"


def test_a_daemon_that_was_started_again_meanwhile_says_nothing() -> None:
    found = shares(reading(0, Process("n1", 100, 50)), reading(10, Process("n1", 1, 0)), on_the_way_s=0)
    assert found == []


def test_a_daemon_that_was_away_before_says_nothing() -> None:
    assert shares(reading(0), reading(10, Process("n1", 9, 9)), on_the_way_s=0) == []


def test_where_nothing_was_busy_nothing_is_blamed() -> None:
    found = shares(reading(0, Process("client", 0)), reading(10, Process("client", 0.1)), on_the_way_s=0)
    assert in_words(limit_of(found)) == "nothing that was measured"
    assert in_words(limit_of([])) == "nothing that was measured"


def test_two_readings_of_one_moment_say_nothing() -> None:
    assert shares(reading(5, Process("n1", 0)), reading(5, Process("n1", 0)), on_the_way_s=0) == []
