"""Memory that several processes of a host read, and only one of them writes."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs import errors
from dfs.rpc import ForeignMemory, SharedMemory
from tests.unit.rpc.test_handover import is_open

SLOT = 8192
SLOTS = 3


@pytest.fixture
def shared() -> Iterator[SharedMemory]:
    memory = SharedMemory(SLOTS, SLOT)
    yield memory
    memory.close()


@pytest.fixture
def foreign(shared: SharedMemory) -> ForeignMemory:
    return taken_over(shared.descriptor())


def taken_over(descriptor: int) -> ForeignMemory:
    return ForeignMemory(descriptor, SLOTS * SLOT, [], 4096)


def read(memory: ForeignMemory, place: int, *lengths: int) -> list[bytes]:
    return [bytes(part) for part in memory.span(place, sum(lengths)).parts(lengths)]


def put(shared: SharedMemory, data: bytes) -> int:
    place = shared.put([data], len(data))
    assert place is not None
    return place


def test_what_one_puts_there_the_other_reads_in_parts(shared: SharedMemory, foreign: ForeignMemory) -> None:
    put(shared, b"before")
    place = shared.put([b"some", memoryview(b"thing"), b"", bytearray(b" else")], 14)
    assert place == SLOT
    assert read(foreign, place, 4, 5, 5) == [b"some", b"thing", b" else"]
    assert len(foreign.span(place, 14)) == 14


def test_a_slot_is_used_again_when_it_is_free_the_lowest_first(shared: SharedMemory, foreign: ForeignMemory) -> None:
    assert shared.is_unused
    places = [put(shared, name) for name in (b"a", b"b", b"c")]
    assert places == [0, SLOT, 2 * SLOT]
    assert shared.put([b"d"], 1) is None
    shared.free(places[2])
    shared.free(places[0])
    assert not shared.is_unused
    assert put(shared, b"d") == 0
    assert read(foreign, 0, 1) == [b"d"]
    shared.free(0)
    shared.free(SLOT)
    assert shared.is_unused


def test_what_is_longer_than_a_slot_has_no_place(shared: SharedMemory) -> None:
    assert shared.put([bytes(SLOT + 1)], SLOT + 1) is None
    assert shared.put([bytes(SLOT)], SLOT) == 0


def test_nobody_else_can_write_or_cut_it(shared: SharedMemory) -> None:
    descriptor = shared.descriptor()
    again = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR)
    try:
        for attempt in (
            lambda: os.pwrite(again, b"x", 0),
            lambda: os.ftruncate(again, 0),
            lambda: os.ftruncate(again, SLOTS * SLOT * 2),
            lambda: fcntl.fcntl(again, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
        ):
            with pytest.raises(PermissionError):
                attempt()
    finally:
        os.close(again)
        os.close(descriptor)


def test_bytes_that_are_not_there_cannot_be_named(foreign: ForeignMemory) -> None:
    foreign.span(SLOTS * SLOT - 10, 10)
    for place, length in ((SLOTS * SLOT - 10, 11), (SLOTS * SLOT, 1), (2**62, 2**62)):
        with pytest.raises(errors.InvalidArgument, match="not in shared memory"):
            foreign.span(place, length)


def sealed(seals: int) -> int:
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, SLOT)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def pipe() -> int:
    reading, writing = os.pipe()
    os.close(writing)
    return reading


@pytest.mark.parametrize("kind", ["pipe", "file", "directory", "device", "no seals", "writable", "may be cut"])
def test_what_is_no_such_memory_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(SLOT))
    made = {
        "pipe": pipe,
        "file": lambda: os.open(path, os.O_RDONLY),
        "directory": lambda: os.open(tmp_path, os.O_RDONLY),
        "device": lambda: os.open("/dev/zero", os.O_RDONLY),
        "no seals": lambda: os.memfd_create("test"),
        "writable": lambda: sealed(fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL),
        "may be cut": lambda: sealed(fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE),
    }
    descriptor = made[kind]()
    with pytest.raises(errors.NotSupported, match="only its owner can change"):
        taken_over(descriptor)
    os.close(descriptor)  # it was not taken over


def test_memory_that_is_too_large_is_refused() -> None:
    large = SharedMemory(SLOTS + 1, SLOT)
    descriptor = large.descriptor()
    with pytest.raises(errors.NotSupported, match="too many"):
        taken_over(descriptor)
    os.close(descriptor)  # it was not taken over
    large.close()


def test_memory_that_cannot_be_read_is_no_error_of_a_disk(
    shared: SharedMemory, foreign: ForeignMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = put(shared, b"something")

    def failing(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(errors.MemoryUnknown, match="cannot be read: Input/output error"):
        read(foreign, place, 9)
    monkeypatch.setattr(os, "preadv", lambda *_: 3)
    with pytest.raises(errors.MemoryUnknown, match="ends before it should"):
        read(foreign, place, 9)


def test_a_buffer_is_used_again_also_by_another_memory(shared: SharedMemory) -> None:
    spare: list[bytearray] = []
    first, second = (ForeignMemory(shared.descriptor(), SLOTS * SLOT, spare, 4096) for _ in range(2))
    put(shared, b"something")
    assert read(first, 0, 9) == read(second, 0, 9) == [b"something"]
    assert len(spare) == 1
    for parts in (first.span(0, 9).parts([9]), second.span(0, 9).parts([9])):
        next(parts)
        parts.close()  # who does not read on gives it back as well
    assert len(spare) == 1


def test_memory_is_closed_when_nobody_refers_to_it_any_more() -> None:
    """Neither by its owner's end, nor while a thread reads what is in it."""
    shared = SharedMemory(SLOTS, SLOT)
    descriptor = shared.descriptor()
    foreign = taken_over(descriptor)
    put(shared, b"something")
    shared.close()
    span = foreign.span(0, 9)
    del foreign
    parts = span.parts([4, 5])
    del span
    assert bytes(next(parts)) == b"some"
    assert is_open(descriptor)
    assert [bytes(part) for part in parts] == [b"thing"]
    assert not is_open(descriptor)


def test_memory_is_taken_when_it_is_used_and_not_beyond_what_there_is(
    shared: SharedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptor = shared.descriptor()
    assert os.fstat(descriptor).st_blocks == 0
    put(shared, bytes(100))
    assert os.fstat(descriptor).st_blocks * 512 == 4096
    shared.free(0)

    def failing(*_: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(os, "posix_fallocate", failing)
    assert shared.put([bytes(4097)], 4097) is None
    assert shared.is_unused
    assert put(shared, bytes(100)) == 0, "of that there is enough"
    os.close(descriptor)


@pytest.mark.parametrize("buffers", [[memoryview(bytes(8)).cast("q")], [b"toolong"], [b"too", b"long"]])
def test_what_is_not_as_it_is_said_harms_nobody(shared: SharedMemory, buffers: list[memoryview]) -> None:
    put(shared, b"before")
    with pytest.raises(ValueError, match="different"):
        shared.put(buffers, 6)
    assert put(shared, b"after") == SLOT


def test_a_system_without_such_memory_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    create = os.memfd_create

    def counted(*args: object) -> int:
        made.append(create(*args))  # type: ignore[arg-type]
        return made[-1]

    def refusing(*_: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "memfd_create", counted)
    monkeypatch.setattr(fcntl, "fcntl", refusing)
    with pytest.raises(OSError, match="Invalid argument"):
        SharedMemory(SLOTS, SLOT)
    assert len(made) == 1
    assert not is_open(made[0])
