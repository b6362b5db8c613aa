"""Memory of one process that others of its host read: what goes to several of them is copied once, through no socket.

Who shares has a `SharedMemory`, a file in memory (memfd_create(2)) in slots. He gives it away once, as an open file
(`dfs.rpc.handover`), and from then on only says where in it something is. Who was given it has a `ForeignMemory`, and
reads from that into memory of his own: so what he has checked does not change any more.

**What one can do to the other.** The file is sealed when it is made: who has it may read it, and nobody can write to it
or cut it, whatever user he is. Only the mapping that its maker has writes. Who is given a file looks whether it is such
a one before he does anything else with it: a pipe, or a file of somebody's file system, need not answer.

A slot is used again as soon as its owner waits for nobody any more, and somebody who was given up may read it later. So
whatever is read here comes with checksums that were told along with its place.
"""

from __future__ import annotations

import fcntl
import heapq
import mmap
import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from dfs import errors
from dfs.checksum import Buffer

_F_SEAL_FUTURE_WRITE: Final = 0x10  # of linux/fcntl.h, since 5.1: nobody writes, save by mappings that there are
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL | _F_SEAL_FUTURE_WRITE


class SharedMemory:
    """`slots` of `slot_bytes` each. Memory is taken when it is first used."""

    def __init__(self, slots: int, slot_bytes: int) -> None:
        """Raises OSError where the system has no such memory."""
        self._slot_bytes = slot_bytes
        self._free = list(range(0, slots * slot_bytes, slot_bytes))
        """A heap: as few slots as possible are ever used."""
        self._taken: dict[int, int] = {place: place for place in self._free}
        """How far the memory of each slot is taken."""
        self._descriptor = os.memfd_create("dfs", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self._descriptor, slots * slot_bytes)
            self._mapping = mmap.mmap(self._descriptor, slots * slot_bytes)
            self._view = memoryview(self._mapping)
            fcntl.fcntl(self._descriptor, fcntl.F_ADD_SEALS, _SEALS)
        except OSError:
            os.close(self._descriptor)
            raise

    @property
    def is_unused(self) -> bool:
        return len(self._free) == len(self._taken)

    def put(self, buffers: Iterable[Buffer], length: int) -> int | None:
        """Copy `length` bytes into a slot; where they are, to be given to `free`. None where there is no room."""
        if length > self._slot_bytes or not self._free:
            return None
        place = self._free[0]
        end = place + length
        try:
            if end > self._taken[place]:  # a mapping of memory that is not to be had would end the process
                os.posix_fallocate(self._descriptor, self._taken[place], end - self._taken[place])
                self._taken[place] = end
        except OSError:
            return None
        target, position = self._view[place:end], 0
        for buffer in buffers:
            target[position : position + len(buffer)] = buffer
            position += len(buffer)
        return heapq.heappop(self._free)

    def free(self, place: int) -> None:
        heapq.heappush(self._free, place)

    def descriptor(self) -> int:
        """One more descriptor of the memory, to give away."""
        return os.dup(self._descriptor)

    def close(self) -> None:
        """It is gone when those have closed it who were given it."""
        self._view.release()
        self._mapping.close()
        os.close(self._descriptor)


class ForeignMemory:
    """Another process's `SharedMemory`, closed when nobody refers to it any more. Threads may read it at the same time.

    `spare` has buffers of `part_bytes` for them, which several memories may have in common.
    """

    def __init__(self, descriptor: int, size_max_bytes: int, spare: list[bytearray], part_bytes: int) -> None:
        """Takes the descriptor over. Raises `NotSupported` if it is of something else, or larger: then it does not."""
        self._size = _size_of(descriptor)
        if self._size > size_max_bytes:
            raise errors.NotSupported(f"memory of {self._size} bytes is shared, and {size_max_bytes} are too many")
        self._descriptor = descriptor
        self._spare = spare
        self._part_bytes = part_bytes
        weakref.finalize(self, os.close, descriptor)

    def span(self, place: int, length: int) -> SharedBytes:
        """Raises `InvalidArgument` if it has no such bytes."""
        if place + length > self._size:
            raise errors.InvalidArgument(f"{length} bytes at {place} are not in shared memory of {self._size}")
        return SharedBytes(self, place, length)

    def parts(self, place: int, lengths: Iterable[int]) -> Iterator[memoryview]:
        """Copies of what is there, one after the other, each as long as is asked for and valid until the next.

        Raises `MemoryUnknown` where it cannot be read.
        """
        try:
            buffer = self._spare.pop()
        except IndexError:
            buffer = bytearray(self._part_bytes)
        try:
            for length in lengths:
                part = memoryview(buffer)[:length]
                self._read_into(part, place)
                yield part
                place += length
        finally:
            self._spare.append(buffer)

    def _read_into(self, part: memoryview, place: int) -> None:
        try:
            is_whole = os.preadv(self._descriptor, [part], place) == len(part)
        except OSError as error:
            raise errors.MemoryUnknown(f"shared memory cannot be read: {error.strerror}") from error
        if not is_whole:
            raise errors.MemoryUnknown("shared memory ends before it should")


class SharedBytes:
    """`len()` bytes in a `ForeignMemory`."""

    __slots__ = ("_length", "_memory", "_place")

    def __init__(self, memory: ForeignMemory, place: int, length: int) -> None:
        self._memory = memory
        self._place = place
        self._length = length

    def __len__(self) -> int:
        return self._length

    def parts(self, lengths: Sequence[int]) -> Iterator[memoryview]:
        """All of them, as `ForeignMemory.parts`."""
        return self._memory.parts(self._place, lengths)


def _size_of(descriptor: int) -> int:
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:  # it is no memory at all: nothing else may be asked of it
        seals = 0
    if seals & _SEALS != _SEALS:
        raise errors.NotSupported("what is shared is no memory that only its owner can change")
    return os.fstat(descriptor).st_size
