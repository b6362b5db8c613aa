"""Reads in order are told from reads at random."""

from __future__ import annotations

import random

from dfs import limits
from dfs.client.sequential import Streams

KIB, MIB = limits.KIB, limits.MIB
SURE = limits.STREAM_SURE_AFTER


def test_who_begins_at_the_beginning_is_taken_for_a_stream_at_once() -> None:
    assert Streams().note(0, 4 * KIB) >= SURE


def test_a_stream_in_the_middle_is_sure_when_it_has_gone_on() -> None:
    streams = Streams()
    assert [streams.note(5 * MIB + number * MIB, MIB) for number in range(4)] == [0, 1, 2, 3]


def test_requests_a_little_out_of_order_go_on_with_the_stream() -> None:
    streams = Streams()
    streams.note(0, 128 * KIB)
    order = [256, 128, 384, 640, 512]
    assert all(streams.note(number * KIB, 128 * KIB) > SURE for number in order)


def test_several_readers_of_one_file_are_each_a_stream() -> None:
    streams = Streams()
    for number in range(4):
        for reader in range(limits.STREAMS_MAX):
            assert streams.note(100 * MIB * (1 + reader) + number * MIB, MIB) == number


def test_reads_at_random_are_hardly_ever_taken_for_a_stream() -> None:
    streams, chance = Streams(), random.Random(1)
    pages = 256 * MIB // (4 * KIB)
    sure = sum(streams.note(chance.randrange(1, pages) * 4 * KIB, 4 * KIB) >= SURE for _ in range(10_000))
    assert sure < 100


def test_what_was_forgotten_begins_anew() -> None:
    streams = Streams()
    streams.note(5 * MIB, MIB)
    streams.forget()
    assert streams.note(6 * MIB, MIB) == 0
