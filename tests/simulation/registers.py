"""What a file's bytes may be: every write leaves its stamp, and every read is held against the writes that were there.

A file is a row of grains of GRAIN bytes; each write and truncate (which writes zeros, to the end) has a number, growing
in the order in which the file's one writer made them. `check` says whether what a read gave can be:

* it is the stamp of a write that began before the read ended, or zeros;
* no later write had returned before the read began, unless the write's outcome is not known: then it may come late;
* it is not older than what an earlier read gave; but what a writer read of its own memory may be lost with that.

A write-back writer sees its own writes at once, others see them after the next flush: `returned` is for others,
`returned_here` for the writer itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

GRAIN: Final = 500
"""Of no relation to pages and blocks."""
_ZEROS: Final = bytes(GRAIN)


def stamp(file: int, number: int, grain: int) -> bytes:
    """The content of one grain as that write left it."""
    text = b"<file %d write %d grain %d>" % (file, number, grain)
    return (text * (GRAIN // len(text) + 1))[:GRAIN]


@dataclass(slots=True)
class Write:
    """Grains from `first` up to `end`: stamps, or zeros. `uncertain`: it failed, or its client died."""

    number: int
    first: int
    end: int
    zeros: bool
    called: float
    returned: float = math.inf
    returned_here: float = math.inf
    uncertain: bool = False
    synced: bool = False

    def returned_to(self, own: bool) -> float:
        return math.inf if self.uncertain else self.returned_here if own else self.returned


class Register:
    """One file. `number` is unique in a run. Times are virtual."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.name = f"file {number}"
        self.ino = 0
        self.size = 0
        """In grains, as its writer has it; right only while `is_certain`."""
        self.removed_at = math.inf
        """When its last name went, or may have gone."""
        self.writes: list[Write] = [Write(0, 0, 1 << 40, True, -1.0, -1.0, -1.0)]
        self._read: dict[int, tuple[float, int, bool]] = {}
        """The latest write that reads of a grain gave: when, which, and whether perhaps from its writer's memory."""
        self.writer: object = None
        """Whose memory that is."""

    @property
    def is_certain(self) -> bool:
        return not any(write.uncertain for write in self.writes)

    # --- writing

    def write(self, first: int, count: int, now: float) -> tuple[Write, bytes]:
        """A write begins: its record and its bytes."""
        write = Write(len(self.writes), first, first + count, False, now)
        self.writes.append(write)
        self.size = max(self.size, write.end)
        return write, b"".join(stamp(self.number, write.number, grain) for grain in range(first, write.end))

    def truncate(self, size: int, now: float) -> Write:
        write = Write(len(self.writes), size, 1 << 40, True, now)
        self.writes.append(write)
        self.size = size
        return write

    def finish(self, now: float, *, flushed: bool) -> None:
        """All writes so far have returned; with `flushed`, others see them too."""
        for write in self.writes:
            write.returned_here = min(write.returned_here, now)
            if flushed:
                write.returned = min(write.returned, now)

    def lose(self) -> None:
        """The writer does not know what became of the writes that nobody else is sure to see."""
        for write in self.writes:
            if write.returned == math.inf:
                write.uncertain = True

    def lose_unsynced(self, since: float) -> None:
        """The writer is no more: what it wrote since then may have been in its memory only."""
        for write in self.writes:
            if not write.synced and write.returned_here >= since:
                write.uncertain = True

    def synced(self, before: float) -> None:
        """An fsync returned that began at `before`."""
        for write in self.writes:
            if not write.uncertain and write.returned_here <= before:
                write.synced = True

    # --- reading

    def check(
        self, first: int, data: bytes, called: float, returned: float, own: bool, *, from_memory: bool = False
    ) -> str | None:
        """Why a read of `data` at grain `first` cannot be; None if it can. `from_memory`: the `writer` has read it."""
        for position in range(0, len(data), GRAIN):
            grain = first + position // GRAIN
            wrong = self._check(grain, data[position : position + GRAIN], called, returned, own, from_memory)
            if wrong:
                return f"{self.name}, grain {grain} (byte {grain * GRAIN}): {wrong}"
        return None

    def _check(
        self, grain: int, content: bytes, called: float, returned: float, own: bool, from_memory: bool
    ) -> str | None:
        writes = [write for write in self.writes if write.first <= grain < write.end]
        found = [write for write in writes if content == self._content(write, grain)[: len(content)]]
        if not found:
            return f"holds {content[:48]!r}..., which nobody wrote there"
        why = ""
        for write in reversed(found):
            why = self._inadmissible(write, writes, grain, called, returned, own)
            if not why:
                if not write.uncertain:
                    self._note_read(write, grain, called, returned, from_memory)
                return None
        return why

    def _note_read(self, write: Write, grain: int, called: float, returned: float, from_memory: bool) -> None:
        at, seen, was_from_memory = self._read.get(grain, (-math.inf, -1, True))
        if write.number == seen:
            self._read[grain] = (returned, seen, was_from_memory and from_memory)
        elif write.number > seen or at < called:  # or that one was in the writer's memory only, and is lost
            self._read[grain] = (returned, write.number, from_memory)

    def _content(self, write: Write, grain: int) -> bytes:
        return _ZEROS if write.zeros else stamp(self.number, write.number, grain)

    def _inadmissible(
        self, write: Write, writes: list[Write], grain: int, called: float, returned: float, own: bool
    ) -> str:
        if write.called > returned:
            return f"holds write {write.number}, which was not made yet"
        if write.uncertain:
            return ""
        for later in writes:
            if later.number > write.number and later.returned_to(own) < called:
                at = later.returned_to(own)
                return f"holds write {write.number}, but write {later.number} had returned at {at:.6f}"
        at, number, was_from_memory = self._read.get(grain, (math.inf, -1, True))
        may_be_lost = was_from_memory and self.writes[number].uncertain
        if at < called and number > write.number and not may_be_lost:
            return f"holds write {write.number}, but write {number} was read at {at:.6f}"
        return ""

    # --- durability

    def must_be_readable(self, grain: int) -> bool:
        """Whether no loss of power excuses that a grain cannot be read: it was on the disks once, and not given up."""
        durable = False
        for write in self.writes:
            if write.first <= grain < write.end:
                durable = not write.zeros and (write.synced or durable)
        return durable
