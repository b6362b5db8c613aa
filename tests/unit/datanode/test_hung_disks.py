"""A disk that hangs, as a server's that went away, or one that dies slowly: it keeps nobody but who waits for it.

On the machine's own disk, with threads: what hangs in one cannot be stopped.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import trio

from dfs import errors, limits
from dfs.checksum import Buffer
from dfs.runtime import RealRuntime
from dfs.types import ChunkId, NodeId
from nodes.datanode import obeyed
from nodes.datanode.disk import RealDisk, RealFile
from nodes.datanode.obeyed import Memory
from nodes.datanode.store import ChunkStore
from nodes.datanode.volumes import Volumes
from tests.unit.datanode.world import CHUNK, CLUSTER, appended, content

PATIENCE_S = 60
LARGE = b"x" * 2 * limits.INLINE_IO_MAX_BYTES  # is written by a thread
HUNG, WELL = ChunkId(1), ChunkId(2)


class _File(RealFile):
    def __init__(self, disk: StubbornDisk, descriptor: int) -> None:
        super().__init__(descriptor)
        self._disk = disk

    def pwrite(self, buffers: Sequence[Buffer], offset: int) -> int:
        self._disk.wait()
        return super().pwrite(buffers, offset)

    def sync(self) -> None:
        self._disk.wait()
        super().sync()

    def close(self) -> None:
        self._disk.closed += 1
        super().close()


class StubbornDisk(RealDisk):
    """Who writes or syncs waits while it does not `answer`, and `delay_s` besides. `waiting` counts them all."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.answer = threading.Event()
        self.answer.set()
        self.waiting = threading.Semaphore(0)
        self.delay = threading.Event()
        self.delay_s = 0.0
        self.closed = 0

    def wait(self) -> None:
        self.waiting.release()
        assert self.answer.wait(PATIENCE_S)
        self.delay.wait(self.delay_s)

    def open(self, path: str, create: bool) -> RealFile:
        return _File(self, super().open(path, create)._fd)

    def sync_dir(self, path: str) -> None:
        self.wait()
        super().sync_dir(path)

    async def hang(self, volumes: Volumes, nursery: trio.Nursery, chunk: ChunkId) -> None:
        """Answer no more, and have somebody wait for it in a thread."""
        while self.waiting.acquire(blocking=False):
            pass
        self.answer.clear()
        nursery.start_soon(_failing_sync, volumes, chunk)
        while not self.waiting.acquire(blocking=False):
            await trio.sleep(0.001)


async def _failing_sync(volumes: Volumes, chunk: ChunkId) -> None:
    assert await volumes.sync([chunk]) == [-1]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[StubbornDisk]:
    made = StubbornDisk(tmp_path / "hangs")
    yield made
    made.answer.set()


@pytest.fixture
def volumes(disk: StubbornDisk, tmp_path: Path) -> Volumes:
    """Two directories, of which the disk of the first is `disk`."""
    made = Volumes([disk, RealDisk(tmp_path / "well")], NodeId("n1"), RealRuntime(), 0)
    made.open()
    made.join(CLUSTER)
    return made


@pytest.fixture
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DISK_WATCH_PERIOD_S", 0.01)
    monkeypatch.setattr(limits, "DISK_PROBE_PERIOD_S", 0.02)
    monkeypatch.setattr(limits, "DISK_PROBE_TIMEOUT_S", 0.3)


async def filled(volumes: Volumes) -> tuple[ChunkStore, ChunkStore]:
    """A chunk in each directory, not synced."""
    for store, chunk in zip(volumes.stores, (HUNG, WELL), strict=True):
        await appended(store, LARGE, chunk)
    return volumes.stores[0], volumes.stores[1]


async def until_failed(store: ChunkStore) -> None:
    with trio.fail_after(PATIENCE_S):
        while store.drive.failed is None:
            await trio.sleep(0.005)


async def test_other_disks_are_written_flushed_and_read_as_ever(
    volumes: Volumes, disk: StubbornDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FLUSH_AFTER_S", 0.05)
    hung, well = await filled(volumes)
    others = [ChunkId(number) for number in range(10, 10 + 2 * limits.DISK_THREADS_MAX)]
    for chunk in others:
        await appended(hung, LARGE, chunk)
    async with trio.open_nursery() as nursery:
        disk.answer.clear()
        for chunk in others:
            nursery.start_soon(volumes.sync, [chunk])
        nursery.start_soon(volumes.look_after)
        with trio.fail_after(PATIENCE_S / 2):
            while well._unsynced:  # until it was flushed, as nobody syncs it
                await trio.sleep(0.01)
            await appended(well, LARGE, WELL)
            assert await volumes.sync([WELL]) == [2 * len(LARGE)]
            assert await content(well, 0, 10, WELL) == LARGE[:10]
        disk.answer.set()
        nursery.cancel_scope.cancel()
    await volumes.close()


@pytest.mark.usefixtures("short_timeouts")
async def test_a_disk_that_hangs_while_its_node_registers_is_left_out_and_holds_up_nothing_else(
    volumes: Volumes, disk: StubbornDisk, tmp_path: Path
) -> None:
    (tmp_path / "hangs/identity.json").unlink()  # so that it is written
    well = volumes.stores[1]
    async with volumes.watched(), trio.open_nursery() as nursery:
        nursery.start_soon(volumes.look_after)
        disk.answer.clear()
        with trio.fail_after(PATIENCE_S):
            await volumes.join_in_time(CLUSTER)
            assert [line.failed for line in volumes.statistics()] == ["it does not answer", None]
            assert not await well.drive.on_disk(volumes.mend_identity, well)  # as a scrub does
            await appended(well, LARGE, WELL)
        disk.answer.set()  # its thread ends, and changes nothing that others know
        before = (tmp_path / "well/identity.json").read_bytes()
        await trio.sleep(0.2)
        assert (tmp_path / "well/identity.json").read_bytes() == before
        nursery.cancel_scope.cancel()
    await volumes.close()


@pytest.mark.usefixtures("short_timeouts")
async def test_a_disk_that_hangs_is_out_of_service_and_who_waits_for_it_hears_so(
    volumes: Volumes, disk: StubbornDisk
) -> None:
    hung, _ = await filled(volumes)
    async with volumes.watched(), trio.open_nursery() as nursery:
        nursery.start_soon(volumes.look_after)
        with trio.fail_after(PATIENCE_S):
            await disk.hang(volumes, nursery, HUNG)
            with pytest.raises(errors.DiskFailed, match="does not answer"):
                await appended(hung, LARGE, HUNG)
        assert [line.failed for line in volumes.statistics()] == ["it does not answer", None]
        assert volumes.chunk_count() == 1
        assert await content(hung, 0, 10, HUNG) == LARGE[:10]  # from memory
        assert await volumes.sync([HUNG, WELL]) == [-1, len(LARGE)]
        nursery.cancel_scope.cancel()
    await volumes.close()


@pytest.mark.usefixtures("short_timeouts")
async def test_a_node_starts_without_a_disk_that_hangs(disk: StubbornDisk, tmp_path: Path) -> None:
    runtime = RealRuntime()
    volumes = Volumes([disk, RealDisk(tmp_path / "well")], NodeId("n1"), runtime, 0)
    disk.answer.clear()
    with trio.fail_after(PATIENCE_S):
        async with volumes.watched():
            await volumes.wait_for_disks()
            await runtime.run_blocking(volumes.open)
    volumes.join(CLUSTER)
    assert [line.failed for line in volumes.statistics()] == ["it does not answer", None]
    await appended(volumes.stores[1], LARGE, WELL)
    assert await volumes.sync([WELL]) == [len(LARGE)]
    await volumes.close()


@pytest.mark.usefixtures("short_timeouts")
async def test_chunks_on_a_disk_that_hangs_are_not_taken_for_damaged(volumes: Volumes, disk: StubbornDisk) -> None:
    hung, _ = await filled(volumes)
    await volumes.sync([HUNG])
    hung._drop(hung._open[HUNG])  # as of a chunk that was not used for long
    async with volumes.watched(), trio.open_nursery() as nursery:
        nursery.start_soon(volumes.look_after)
        disk.answer.clear()
        await until_failed(hung)
        for look in (hung.read(HUNG, 0, 10), hung.verify(HUNG)):
            with pytest.raises(errors.DiskFailed, match="does not answer"):
                await look
        nursery.cancel_scope.cancel()
    assert volumes.take_corrupt() == []
    disk.answer.set()
    await volumes.close()


@pytest.mark.usefixtures("short_timeouts")
async def test_what_threads_still_use_stays_open(volumes: Volumes, disk: StubbornDisk) -> None:
    """Or what they write once the disk answers would go to other files, which have got the numbers of closed ones."""
    hung, _ = await filled(volumes)
    async with volumes.watched(), trio.open_nursery() as nursery:
        nursery.start_soon(volumes.look_after)
        await disk.hang(volumes, nursery, HUNG)
        await until_failed(hung)
        nursery.cancel_scope.cancel()
    before = disk.closed
    await volumes.close()
    assert disk.closed == before


@pytest.mark.usefixtures("short_timeouts")
async def test_a_daemon_whose_disk_hangs_can_be_stopped(volumes: Volumes, disk: StubbornDisk) -> None:
    await filled(volumes)
    with trio.fail_after(PATIENCE_S):
        with trio.CancelScope() as running:
            async with volumes.watched():
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(volumes.look_after)
                        await disk.hang(volumes, nursery, HUNG)
                        while not disk.waiting.acquire(blocking=False):  # the probe as well
                            await trio.sleep(0.001)
                        running.cancel()
                finally:
                    with trio.CancelScope(shield=True):
                        await volumes.close()
    assert not disk.answer.is_set() and volumes.stores[0].drive.failed == "it does not answer"


@pytest.mark.usefixtures("short_timeouts")
async def test_work_that_never_ends_is_noticed_though_the_disk_answers_others(
    volumes: Volumes, disk: StubbornDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DISK_WORK_MAX_S", 0.2)
    monkeypatch.setattr(disk, "sync_dir", lambda _path: None)  # what the probe asks for
    hung, _ = await filled(volumes)
    async with volumes.watched(), trio.open_nursery() as nursery:
        nursery.start_soon(volumes.look_after)
        await disk.hang(volumes, nursery, HUNG)
        await until_failed(hung)
        nursery.cancel_scope.cancel()
    await volumes.close()


async def test_a_slow_disk_stays_in_service_however_much_waits_for_it(
    volumes: Volumes, disk: StubbornDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DISK_WATCH_PERIOD_S", 0.01)
    monkeypatch.setattr(limits, "DISK_WORK_MAX_S", 1.5)  # much longer than one of these takes, on a busy machine, too
    slow = volumes.stores[0]
    chunks = [ChunkId(number) for number in range(1, 24 * limits.DISK_THREADS_MAX)]
    for chunk in chunks:
        await appended(slow, b"x", chunk)
    disk.delay_s = 0.02  # four times in each sync of a new chunk
    began = trio.current_time()
    async with volumes.watched():
        assert await volumes.sync(chunks) == [1] * len(chunks)
    assert trio.current_time() - began > limits.DISK_WORK_MAX_S
    assert slow.drive.failed is None
    await volumes.close()


async def test_a_process_that_stood_still_does_not_take_that_for_a_disk_that_hangs(
    volumes: Volumes, disk: StubbornDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that was sent SIGSTOP, or whose container was paused, with a thread at the disk."""
    monkeypatch.setattr(limits, "DISK_WATCH_PERIOD_S", 0.01)
    monkeypatch.setattr(limits, "DISK_WORK_MAX_S", 0.5)
    slow, _ = await filled(volumes)
    async with volumes.watched(), trio.open_nursery() as nursery:
        await trio.sleep(2 * limits.DISK_WATCH_PERIOD_S)
        disk.answer.clear()
        nursery.start_soon(volumes.sync, [HUNG])
        while not disk.waiting.acquire(blocking=False):
            await trio.sleep(0.001)
        looked_at = slow.drive._looked_at
        disk.delay.wait(1.1 * limits.DISK_WORK_MAX_S)  # in the event loop: nothing goes on
        while slow.drive._looked_at == looked_at:
            await trio.sleep(0.001)
        disk.answer.set()
    assert slow.drive.failed is None and await volumes.sync([HUNG]) == [len(LARGE)]
    await volumes.close()


async def test_small_appends_do_not_stop_the_loop_while_the_disk_keeps_others_waiting(
    volumes: Volumes, disk: StubbornDisk
) -> None:
    hung, _ = await filled(volumes)
    await appended(hung, LARGE, CHUNK)
    async with trio.open_nursery() as nursery:
        disk.answer.clear()
        nursery.start_soon(volumes.sync, [HUNG])
        await trio.sleep(2 * limits.INLINE_IO_BUSY_MAX_S)
        nursery.start_soon(appended, hung, b"small", CHUNK)
        await trio.sleep(0.01)
        disk.answer.set()
    assert hung.chunks[CHUNK] == len(LARGE) + 5
    await volumes.close()


async def test_the_first_small_append_after_a_while_does_not_stop_the_loop(
    volumes: Volumes, disk: StubbornDisk
) -> None:
    hung, _ = await filled(volumes)
    await trio.sleep(1.1 * limits.INLINE_IO_BELIEVED_S)
    disk.answer.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(appended, hung, b"small", HUNG)
        await trio.sleep(0.01)
        disk.answer.set()
    assert hung.chunks[HUNG] == len(LARGE) + 5
    await volumes.close()


@pytest.mark.usefixtures("short_timeouts")
async def test_what_was_obeyed_is_written_down_in_another_directory(volumes: Volumes, disk: StubbornDisk) -> None:
    """Or heartbeats, which wait for that, would stop for ever."""
    disk.answer.clear()
    async with volumes.watched(), trio.open_nursery() as nursery:
        nursery.start_soon(volumes.look_after)
        with trio.fail_after(PATIENCE_S):
            await obeyed.save(volumes.stores, Memory(100))
        nursery.cancel_scope.cancel()
    assert obeyed.load(volumes.usable_disks()) == Memory(100)
    await volumes.close()
