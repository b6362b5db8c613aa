"""Whatever happens to a chunk store, and whenever the power goes: synced bytes stay, and no read is ever wrong.

The model keeps every chunk's bytes and blocks. At a crash the store may keep less than was appended, never less than
was synced, and always a run of whole blocks from the start; an operation that the power cut short may have happened or
not, in part. The journal is so small that a few syncs fill it.
"""

from __future__ import annotations

import dataclasses
import errno
import random
from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from itertools import accumulate, pairwise
from typing import Any, Final

import pytest
import trio
import trio.testing
from crc32c import crc32c
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dfs import errors, limits
from dfs.checksum import Block, verify
from dfs.types import ChunkId, ClusterId
from nodes.datanode.chunkfiles import data_path, index_path
from nodes.datanode.journal import JOURNAL, Journal
from nodes.datanode.store import ChunkStore
from tests.simulation.disk import InlineRuntime, MemoryDisk, PowerOff

CLUSTER = ClusterId("0123456789abcdef" * 2)
SIZES = st.one_of(
    st.lists(st.integers(1, 6000), min_size=1, max_size=4),
    st.lists(st.integers(1, 3), min_size=200, max_size=400),  # so that the records take several pages
)
SHARES = st.integers(0, 1000)
JOURNAL_BYTES: Final = 32 * limits.KIB


@pytest.fixture(autouse=True, scope="module")
def small_journal() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "JOURNAL_BYTES", JOURNAL_BYTES)
        yield


@dataclasses.dataclass
class Chunk:
    """`content` is all that was appended, cut into blocks with these `ends`; of it `durable` bytes are certain.

    `freed` are the starts of blocks that were punched, `maybe_freed` of those that may have been when the power went;
    `flipped` are offsets of bytes that are wrong on the disk, `bad` the starts of blocks that the store knows to be
    damaged.
    """

    content: bytes = b""
    ends: list[int] = dataclasses.field(default_factory=list)
    durable: int = 0
    freed: set[int] = dataclasses.field(default_factory=set)
    maybe_freed: set[int] = dataclasses.field(default_factory=set)
    flipped: set[int] = dataclasses.field(default_factory=set)
    bad: set[int] = dataclasses.field(default_factory=set)

    def blocks(self) -> list[tuple[int, int]]:
        """(start, end) of each."""
        return list(pairwise([0, *self.ends]))

    def append(self, pieces: list[bytes]) -> None:
        self.ends += list(accumulate(map(len, pieces), initial=len(self.content)))[1:]
        self.content += b"".join(pieces)

    def punched_bytes(self) -> int:
        """At most."""
        gone = self.freed | self.maybe_freed
        return sum(end - start for start, end in self.blocks() if start in gone)

    def cut(self, length: int) -> None:
        self.ends = [min(end, length) for start, end in self.blocks() if start < length]
        self.content = self.content[:length]
        self.durable = min(self.durable, length)
        for starts in (self.freed, self.maybe_freed, self.flipped, self.bad):
            starts.difference_update([start for start in starts if start >= length])

    def touched(self, offset: int, end: int) -> list[tuple[int, int]]:
        first, last = bisect_right(self.ends, offset), bisect_left(self.ends, end)
        begin = self.ends[first - 1] if first else 0
        return list(pairwise([begin, *self.ends[first : last + 1]]))

    def flipped_blocks(self) -> set[int]:
        """The starts of blocks that have bytes and some of these wrong."""
        return {self.touched(byte, byte + 1)[0][0] for byte in self.flipped} - self.freed

    def is_flipped(self, blocks: list[tuple[int, int]]) -> bool:
        return any(start <= byte < stop for start, stop in blocks for byte in self.flipped if start not in self.freed)

    def inside(self, offset: int, end: int) -> set[int]:
        return {start for start, stop in self.blocks() if offset <= start and stop <= end}


class StoreMachine(RuleBasedStateMachine):
    """`deleted` may be back after a crash; `gone` went to quarantine as it should."""

    @initialize(seed=st.integers(0, 2**32), cold=st.booleans(), journaling=st.booleans())
    def begin(self, seed: int, cold: bool, journaling: bool) -> None:
        self.random = random.Random(seed)
        self.clock = trio.testing.MockClock()
        self.disk = MemoryDisk()
        self.disk.cold = cold
        self.chunks: dict[ChunkId, Chunk] = {}
        self.deleted: dict[ChunkId, Chunk] = {}
        self.last_id = 0
        self.power_off_after: int | None = None
        self.open()
        if journaling:  # as after two small syncs
            Journal.create(self.disk, self.random).close()
            self.open()

    def open(self) -> None:
        self.store = ChunkStore(self.disk, CLUSTER, InlineRuntime(), reserve_bytes=0)
        self.store.open()
        self.store.makes_journal = self.random.random() < 0.8

    def do(self, work: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        return trio.run(work, *args, clock=self.clock)

    def change(self, work: Callable[..., Awaitable[Any]], *args: Any) -> bool:
        """Do what changes the store; False if the power went: the caller says what may have happened then."""
        if self.power_off_after is not None:
            self.disk.power_off_after(self.power_off_after)
        try:
            self.do(work, *args)
        except PowerOff:
            return False
        if self.power_off_after is not None:
            self.power_off_after = None
            self.disk.power_off_after(1 << 60)
        return True

    def after_power_cut(self) -> None:
        """Or only the process was killed, in the middle of something."""
        self.power_off_after = None
        if self.random.random() < 0.3:
            self.disk.kill()
            self.open()
            self.adopt(lost_allowed=True)
        else:
            self.crash()

    def pick(self, share: int) -> tuple[ChunkId, Chunk]:
        ids = sorted(self.chunks)
        chunk = ids[share % len(ids)]
        return chunk, self.chunks[chunk]

    # --- what users do

    @rule(share=SHARES, sizes=SIZES, new=st.booleans())
    def append(self, share: int, sizes: list[int], new: bool) -> None:
        if new or not self.chunks:
            self.last_id += 1
            chunk, model = ChunkId(self.last_id), Chunk()
        else:
            chunk, model = self.pick(share)
        pieces = [self.random.randbytes(size) for size in sizes]
        blocks = [Block(len(piece), crc32c(piece)) for piece in pieces]
        offset, data = len(model.content), b"".join(pieces)
        if model.bad:
            with pytest.raises(errors.Corrupt):
                self.do(self.store.append, chunk, offset, blocks, data)
            return
        self.chunks[chunk] = model
        model.append(pieces)
        if not self.change(self.store.append, chunk, offset, blocks, data):
            self.after_power_cut()

    @precondition(lambda self: self.chunks)
    @rule(share=SHARES, lengths=st.lists(st.integers(1, 5000), min_size=1, max_size=6), crashing=st.booleans())
    def log(self, share: int, lengths: list[int], crashing: bool) -> None:
        """Appended to and synced by turns, as the log of a database is; and what is durable then is in the journal."""
        chunk = self.pick(share)[0]
        self.sync(share)
        for length in lengths:
            if chunk not in self.chunks or self.chunks[chunk].bad:
                return
            place = sorted(self.chunks).index(chunk)
            self.append(place, [length], new=False)
            if chunk in self.chunks:
                self.sync(sorted(self.chunks).index(chunk))
        if crashing:
            self.crash()

    @precondition(lambda self: self.chunks)
    @rule(share=SHARES)
    def sync(self, share: int) -> None:
        chunk, model = self.pick(share)
        if self.change(self.store.sync, [chunk]):
            model.durable = len(model.content)
            assert self.do(self.store.sync, [chunk]) == [min(model.bad, default=len(model.content))]
        else:
            self.after_power_cut()

    @rule(later=st.booleans())
    def flush_due(self, later: bool) -> None:
        """As a DataNode does all the time."""
        self.clock.jump(limits.FLUSH_AFTER_S * later)
        if not self.change(self.store.flush_due):
            self.after_power_cut()
        elif later:
            for model in self.chunks.values():
                model.durable = len(model.content)

    @precondition(lambda self: self.chunks)
    @rule(share=SHARES, offset=SHARES, length=SHARES)
    def read(self, share: int, offset: int, length: int) -> None:
        chunk, model = self.pick(share)
        offset = len(model.content) * offset // 1001
        end = offset + max(1, (len(model.content) - offset) * length // 1000)
        self.check_read(chunk, model, offset, end)

    def check_read(self, chunk: ChunkId, model: Chunk, offset: int, end: int) -> None:
        touched = model.touched(offset, end)
        try:
            blocks, buffers = self.do(self.store.read, chunk, offset, end - offset)
        except errors.ChunkNotFound:
            maybe = {start for start, _ in touched} & (model.freed | model.maybe_freed)
            assert maybe
            return
        except errors.Corrupt:
            self.note_damage(chunk, model)
            assert {start for start, _ in touched} & model.bad
            return
        data = b"".join(bytes(buffer) for buffer in buffers)
        verify(data, blocks, "an answer")
        assert data == model.content[offset:end]
        assert not {start for start, _ in touched} & model.freed

    @precondition(lambda self: self.chunks)
    @rule(share=SHARES)
    def verify(self, share: int) -> None:
        chunk, model = self.pick(share)
        try:
            self.do(self.store.verify, chunk)
            model.bad = set()
        except errors.Corrupt:
            self.note_damage(chunk, model)
            assert model.bad <= model.flipped_blocks()
        assert model.flipped_blocks() - model.maybe_freed <= model.bad

    @precondition(lambda self: any(model.bad for model in self.chunks.values()))
    @rule(share=SHARES, right=st.booleans())
    def mend(self, share: int, right: bool) -> None:
        damaged = [(chunk, model) for chunk, model in sorted(self.chunks.items()) if model.bad]
        chunk, model = damaged[share % len(damaged)]
        number, record = self.do(self.store.holding, chunk).damaged[0]
        start, end = model.blocks()[number]
        assert start == record.start == min(model.bad)
        content = bytearray(model.content[start:end])
        if not right:
            content[share % len(content)] ^= 1
            with pytest.raises(errors.Corrupt):
                self.do(self.store.mend, chunk, record, content)
            return
        self.do(self.store.mend, chunk, record, content)
        model.bad.remove(start)
        model.flipped -= {byte for byte in model.flipped if start <= byte < end}
        assert self.do(self.store.read, chunk, start, end - start)[1] == [content]

    @precondition(lambda self: self.chunks)
    @rule(share=SHARES, where=SHARES, on_border=st.booleans())
    def cut(self, share: int, where: int, on_border: bool) -> None:
        chunk, model = self.pick(share)
        length = max(1, len(model.content) * where // 1000)
        if on_border:
            length = model.blocks()[where % len(model.ends)][1]
        last = [(start, stop) for start, stop in model.blocks() if start < length < stop]
        if model.is_flipped(last):  # it stays whole
            length = last[0][1]
        durable = model.durable if length == len(model.content) else length
        wanted = length if not last else max(1, len(model.content) * where // 1000) if not on_border else length
        if self.change(self.store.cut, chunk, wanted):
            found_damaged = model.is_flipped(last)
            model.cut(length)
            model.durable = durable
            if found_damaged:
                self.note_damage(chunk, model)
            return
        model.durable = min(model.durable, length)
        self.crash_in_cut = (chunk, length)
        self.after_power_cut()

    @precondition(lambda self: self.chunks)
    @rule(share=SHARES, start=SHARES, length=SHARES)
    def punch(self, share: int, start: int, length: int) -> None:
        chunk, model = self.pick(share)
        offset = len(model.content) * start // 1001
        end = offset + (len(model.content) - offset) * length // 1000
        inside = model.inside(offset, end)
        middle = (offset + end) // 2  # two neighbours count as one range
        if self.change(self.store.punch, chunk, [(middle, end - middle), (offset, middle - offset)]):
            model.freed |= inside
            model.maybe_freed -= inside
            model.bad -= inside
            return
        model.maybe_freed |= inside - model.freed
        self.after_power_cut()

    @precondition(lambda self: self.chunks)
    @rule(share=SHARES)
    def delete(self, share: int) -> None:
        chunk, model = self.pick(share)
        del self.chunks[chunk]
        model.durable = 0
        model.bad = set()  # what is known of them may be gone for good
        self.deleted[chunk] = model
        if not self.change(self.store.delete, chunk):
            self.after_power_cut()

    # --- what the world does

    @rule(operations=st.integers(0, 12))
    def power_will_go(self, operations: int) -> None:
        """During the next change, if it takes so many steps."""
        self.power_off_after = operations

    @rule()
    def crash(self) -> None:
        self.disk.crash(self.random)
        self.open()
        self.adopt(lost_allowed=True)

    @rule()
    def kill(self) -> None:
        self.disk.kill()
        self.open()
        self.adopt(lost_allowed=False)

    @precondition(lambda self: self.chunks)
    @rule(share=SHARES, what=st.sampled_from([data_path, index_path, lambda _: JOURNAL]))
    def fail_to_sync(self, share: int, what: Callable[[ChunkId], str]) -> None:
        """And start anew: what could not be written is still in memory."""
        chunk = self.pick(share)[0]
        self.disk.fail("sync", errno.EIO, what(chunk))
        with suppress(errors.DiskFailed):
            self.do(self.store.sync, [chunk])
        self.disk.mend()
        self.disk.kill()
        self.open()
        self.adopt(lost_allowed=True)

    @rule()
    def restart(self) -> None:
        self.do(self.store.close)
        assert self.disk.open_files == 0
        self.open()
        for model in self.chunks.values():
            model.durable = len(model.content)
        self.adopt(lost_allowed=False)

    @precondition(lambda self: self.chunks)
    @rule(share=SHARES, where=SHARES)
    def flip_a_bit(self, share: int, where: int) -> None:
        chunk, model = self.pick(share)
        offset = len(model.content) * where // 1001
        block = model.touched(offset, offset + 1)[0]
        if block[0] in model.freed | model.maybe_freed:
            return
        self.disk.flip_bit(data_path(chunk), offset)
        model.flipped ^= {offset}

    # --- what must hold

    def adopt(self, lost_allowed: bool) -> None:
        """Take over from the store what it may decide at a start, and check that it may."""
        quarantined = {chunk for chunk, _ in self.store.take_corrupt()}
        self.chunks |= {chunk: self.deleted[chunk] for chunk in self.deleted if chunk in self.store.chunks}
        self.deleted = {chunk: model for chunk, model in self.deleted.items() if chunk not in self.chunks}
        for chunk, model in list(self.chunks.items()):
            found = self.store.chunks.get(chunk, 0)
            borders = {0, *(end for _, end in model.blocks())}
            least = model.durable if lost_allowed else len(model.content)
            if model.flipped and not lost_allowed:
                damaged = min(model.touched(byte, byte + 1)[0][0] for byte in model.flipped)
                least = max(min(least, damaged), model.durable)  # unsynced blocks are kept up to the first bad one
            assert found >= least, f"chunk {chunk} has {found} bytes of {least}"
            self.check_border(chunk, model, found, borders)
            if not found:
                del self.chunks[chunk]
                continue
            assert chunk not in quarantined
            model.cut(found)
            self.note_healed(chunk, model)
            self.note_damage(chunk, model)
        self.crash_in_cut = None

    def note_healed(self, chunk: ChunkId, model: Chunk) -> None:
        """What the journal had of a chunk has been written anew."""
        on_disk = self.disk.read_file(data_path(chunk))
        model.flipped = {offset for offset in model.flipped if on_disk[offset] != model.content[offset]}

    crash_in_cut: tuple[ChunkId, int] | None = None

    def check_border(self, chunk: ChunkId, model: Chunk, found: int, borders: set[int]) -> None:
        """A store keeps whole blocks, or what a cut that was interrupted made of one."""
        interrupted = self.crash_in_cut is not None and self.crash_in_cut == (chunk, found)
        assert found in borders or interrupted

    def note_damage(self, chunk: ChunkId, model: Chunk) -> None:
        """The store may find blocks damaged that are, and forgets none; what was freed meanwhile is none."""
        found = {record.start for _, record in self.do(self.store.holding, chunk).damaged}
        assert found <= model.bad | model.flipped_blocks()
        assert model.bad - model.maybe_freed <= found
        model.bad = found
        intact = min(found, default=len(model.content))
        assert self.store.intact_length(chunk) == intact
        assert self.disk.exists(data_path(chunk) + ".bad") == bool(found)

    @invariant()
    def lists_match(self) -> None:
        assert dict(self.store.chunks) == {chunk: len(model.content) for chunk, model in self.chunks.items()}
        total = sum(len(model.content) for model in self.chunks.values())
        assert total - sum(model.punched_bytes() for model in self.chunks.values()) <= self.store.used_bytes <= total
        assert self.store.drive.failed is None

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        self.power_off_after = None
        self.disk.power_off_after(1 << 60)
        for chunk, model in list(self.chunks.items()):
            for start, end in model.blocks():
                if chunk in self.chunks:
                    self.check_read(chunk, model, start, end)
        self.do(self.store.close)
        assert self.disk.open_files == 0


StoreMachine.TestCase.settings = settings(
    max_examples=400,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestStore = pytest.mark.slow(StoreMachine.TestCase)
