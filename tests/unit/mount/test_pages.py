"""Which pages of a file may be locked for what is under way, and which threads wait for a lock."""

from __future__ import annotations

import math
import mmap
import os
import threading
from typing import Any

import pytest
import trio

from dfs.types import Ino
from mount.pages import Pages, Request, _is_asleep, _pieces

PAGE = mmap.PAGESIZE
INO = Ino(7)


class Kernel:
    """What a `Device` is told; it raises for inode numbers that nobody knows."""

    def __init__(self, *unknown: int) -> None:
        self.unknown = unknown
        self.forgotten: list[tuple[int, int, int]] = []

    def forget_bytes(self, number: int, offset: int, length: int) -> None:
        if number in self.unknown:
            raise OSError
        self.forgotten.append((number, offset, length))


def pages(kernel: Kernel) -> Pages:
    device: Any = kernel
    return Pages(device, Ino(2))


@pytest.mark.parametrize(
    ("start", "end", "is_write", "locked"),
    [
        (0, 10, True, [(0, PAGE)]),
        (10, PAGE + 10, True, [(0, 2 * PAGE)]),
        (10, 5 * PAGE, True, [(0, PAGE), (4 * PAGE, 5 * PAGE)]),
        (PAGE, 5 * PAGE - 1, False, [(PAGE, 5 * PAGE)]),
    ],
)
def test_of_a_read_all_pages_may_be_locked_and_of_a_write_those_at_its_ends(
    start: int, end: int, is_write: bool, locked: list[tuple[int, int]]
) -> None:
    assert list(Request(start, end, is_write=is_write).locks()) == locked


def test_a_file_is_taken_in_pieces_round_what_may_be_locked() -> None:
    assert list(_pieces([])) == [(0, math.inf, False)]
    read, write = Request(0, PAGE, is_write=False), Request(PAGE // 2, 8 * PAGE, is_write=True)
    assert list(_pieces([read, write])) == [
        (0, PAGE, True),
        (PAGE, 7 * PAGE, False),
        (7 * PAGE, 8 * PAGE, True),
        (8 * PAGE, math.inf, False),
    ]


async def test_a_write_knows_of_reads_of_its_bytes_that_end_before_it() -> None:
    under_way = pages(Kernel())
    with under_way.writing(INO, 100, 100) as write:
        for offset, length in ((0, 100), (200, 50)):
            with under_way.reading(INO, offset, length):
                pass
        with under_way.reading(Ino(8), 100, 100), under_way.reading(INO, 150, 1):
            assert not write.was_read
        assert write.was_read


async def test_what_is_dropped_is_all_of_a_file_whatever_the_kernel_knows() -> None:
    kernel = Kernel(8)
    dropped = pages(kernel)
    await dropped.drop([Ino(2), Ino(8), INO])
    assert kernel.forgotten == [(1, 0, 0), (7, 0, 0)]
    kernel.forgotten.clear()
    with dropped.reading(INO, PAGE, PAGE), dropped.writing(INO, 10 * PAGE, PAGE) as write:
        await dropped.drop([INO])
        assert sorted(kernel.forgotten) == [
            (7, 0, PAGE),
            (7, PAGE, PAGE),
            (7, 2 * PAGE, 8 * PAGE),
            (7, 10 * PAGE, PAGE),
            (7, 11 * PAGE, 0),
        ]
        kernel.forgotten.clear()
        await dropped.drop_read(INO, write)
    assert kernel.forgotten == [(7, 10 * PAGE, PAGE)]


def test_a_thread_that_a_signal_can_wake_does_not_wait_for_a_lock() -> None:
    reading, writing = os.pipe()
    thread = threading.Thread(target=os.read, args=(reading, 1))
    thread.start()
    assert thread.native_id is not None
    assert not _is_asleep(thread.native_id)
    os.write(writing, b"x")
    thread.join()
    assert not _is_asleep(thread.native_id)
    os.close(reading)
    os.close(writing)


async def test_who_is_not_asleep_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes, as on a machine that is busy."""
    kernel = Kernel()
    entered, gate = threading.Event(), threading.Event()
    told = kernel.forget_bytes

    def slow(number: int, offset: int, length: int) -> None:
        entered.set()
        gate.wait()
        told(number, offset, length)

    monkeypatch.setattr(kernel, "forget_bytes", slow)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pages(kernel).drop, [INO])
        while not entered.is_set():
            await trio.sleep(0.01)
        await trio.sleep(0.1)
        assert not kernel.forgotten
        gate.set()
    assert kernel.forgotten == [(7, 0, 0)]
