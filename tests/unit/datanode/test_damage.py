"""A chunk with damaged blocks: the others are read as ever, and the damaged ones for nobody, until they are mended."""

from __future__ import annotations

import errno
import random
from contextlib import suppress

import pytest

from dfs import errors, limits
from dfs.checksum import sum_blocks
from nodes.datanode.index import Record, records_of
from nodes.datanode.store import ChunkStore
from tests.simulation.disk import MemoryDisk, PowerOff
from tests.unit.datanode.world import CHUNK, DATA, appended, content, opened

BAD = DATA + ".bad"
PIECES = [bytes([letter]) * 100 for letter in b"abcd"]


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk()


async def damaged(disk: MemoryDisk, *offsets: int) -> ChunkStore:
    """A chunk of four synced blocks, of which those with these bytes are damaged, and known to be."""
    store = opened(disk)
    for piece in PIECES:
        await appended(store, piece)
    await store.sync([CHUNK])
    for offset in offsets:
        disk.flip_bit(DATA, offset)
        with pytest.raises(errors.Corrupt):
            await store.read(CHUNK, offset, 1)
    return store


async def records(store: ChunkStore) -> list[Record]:
    return [record for _, record in (await store.holding(CHUNK)).damaged]


@pytest.mark.parametrize("cold", [False, True])
async def test_the_other_blocks_are_read_as_ever(disk: MemoryDisk, cold: bool) -> None:
    disk.cold = cold
    store = await damaged(disk, 150)
    assert await content(store, 0, 100) + await content(store, 200, 200) == PIECES[0] + PIECES[2] + PIECES[3]
    for offset, length in ((100, 1), (199, 1), (0, 400), (50, 51)):
        with pytest.raises(errors.Corrupt, match=r"bytes 100 to 200 do not match their checksum$"):
            await store.read(CHUNK, offset, length)
    assert store.take_corrupt() == []
    assert [chunk for chunk, _ in store.take_damaged()] == [CHUNK]
    assert store.take_damaged() == [] and store.damaged_count() == 1


async def test_it_counts_as_far_as_the_first_damaged_block(disk: MemoryDisk) -> None:
    store = await damaged(disk, 350, 150)
    assert (store.intact_length(CHUNK), store.chunks[CHUNK]) == (100, 400)
    assert await store.sync([CHUNK]) == [100]
    with pytest.raises(errors.Corrupt):
        await appended(store, b"more")


async def test_copies_are_served_up_to_a_damaged_block_and_from_behind_it(disk: MemoryDisk) -> None:
    store = await damaged(disk, 150)
    assert [record.start for record in (await store.read_records(CHUNK, 0, 9))[0]] == [0]
    with pytest.raises(errors.Corrupt):
        await store.read_records(CHUNK, 1, 9)
    found, buffers = await store.read_records(CHUNK, 2, 9, at=200)
    assert [record.start for record in found] == [200, 300]
    assert b"".join(bytes(buffer) for buffer in buffers) == PIECES[2] + PIECES[3]
    with pytest.raises(errors.ChunkConflict, match="block 2 begins at 200, not 100"):
        await store.read_records(CHUNK, 2, 9, at=100)


async def test_a_restart_does_not_forget_it(disk: MemoryDisk) -> None:
    store = await damaged(disk, 150)
    await store.close()
    again = opened(disk)
    assert (again.intact_length(CHUNK), again.chunks[CHUNK]) == (100, 400)
    assert again.take_damaged() == []  # the report tells of it
    disk.crash(random.Random(1))
    again = opened(disk)
    assert again.intact_length(CHUNK) == 100
    await again.delete(CHUNK)
    assert not any(path.startswith("chunks/") for path in disk.paths())


async def test_a_damaged_note_of_damage_puts_all_in_doubt_until_it_is_read(disk: MemoryDisk) -> None:
    store = await damaged(disk, 150)
    await store.close()
    disk.flip_bit(BAD, 20)
    again = opened(disk)
    assert again.intact_length(CHUNK) == 0
    with pytest.raises(errors.Corrupt):
        await again.verify(CHUNK)
    assert again.intact_length(CHUNK) == 100
    assert [record.start for record in await records(again)] == [100]


async def test_what_could_not_be_read_for_a_while_is_whole_again(disk: MemoryDisk) -> None:
    store = opened(disk)
    for piece in PIECES:
        await appended(store, piece)
    disk.fail("read", errno.EIO, DATA)
    with pytest.raises(errors.Corrupt, match="bytes 0 to 100 cannot be read: Input/output error, and 3 other blocks"):
        await store.read(CHUNK, 0, 400)
    assert store.drive.failed is None and store.intact_length(CHUNK) == 0
    disk.mend()
    assert await store.verify(CHUNK) == 0
    assert store.intact_length(CHUNK) == 400 and not disk.exists(BAD) and await content(store, 0, 400)


async def test_one_chunk_that_cannot_be_read_is_one_error_of_the_disk_however_often_it_is_asked_for(
    disk: MemoryDisk,
) -> None:
    store = await damaged(disk)
    disk.fail("read", errno.EIO, DATA)
    for number in range(3 * limits.READ_ERRORS_MAX):
        with pytest.raises(errors.Corrupt):
            await store.read(CHUNK, 100 * (number % 4), 100)
    assert store.drive.failed is None


async def test_a_damaged_block_is_mended_and_stays_so(disk: MemoryDisk) -> None:
    store = await damaged(disk, 150, 350)
    second, last = await records(store)
    with pytest.raises(errors.Corrupt):
        await store.mend(CHUNK, second, b"x" * 100)
    with pytest.raises(errors.ChunkConflict):
        await store.mend(CHUNK, second._replace(crc=1), PIECES[1])
    await store.mend(CHUNK, second, PIECES[1])
    await store.mend(CHUNK, second, PIECES[1])
    assert (store.intact_length(CHUNK), await records(store)) == (300, [last])
    await store.mend(CHUNK, last, PIECES[3])
    assert await store.sync([CHUNK]) == [400] and not disk.exists(BAD)
    disk.crash(random.Random(2))
    again = opened(disk)
    assert await content(again, 0, 400) == b"".join(PIECES)
    assert await again.verify(CHUNK) == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOMEM])
async def test_a_block_that_could_not_be_flushed_is_not_mended_by_trying_again(disk: MemoryDisk, number: int) -> None:
    """Nor is what was appended behind it durable, which the same sync should have written."""
    store = await damaged(disk, 150)
    disk.fail("sync", number, DATA)
    with pytest.raises(errors.DiskFailed):
        await store.mend(CHUNK, (await records(store))[0], PIECES[1])
    assert store.drive.failed


async def test_a_block_that_the_disk_does_not_give_back_is_not_mended(disk: MemoryDisk) -> None:
    store = await damaged(disk, 150)
    (block,) = await records(store)
    disk.fail("read", errno.EIO, DATA)
    with pytest.raises(errors.Corrupt, match="which was just written anew, cannot be read"):
        await store.mend(CHUNK, block, PIECES[1])
    assert store.intact_length(CHUNK) == 100 and store.drive.failed is None
    await store.look_at_damage()
    assert store.intact_length(CHUNK) == 100
    disk.mend()
    await store.look_at_damage()
    assert store.intact_length(CHUNK) == 400 and await content(store, 100, 100) == PIECES[1]


async def test_what_garbles_all_blocks_is_described_by_a_few(disk: MemoryDisk) -> None:
    store = opened(disk)
    for _ in range(20):
        await appended(store, b"x" * 100)
    for offset in range(0, 2000, 100):
        disk.flip_bit(DATA, offset)
    with pytest.raises(errors.Corrupt, match=r"bytes 0 to 100 .*, and 19 other blocks are damaged"):
        await store.verify(CHUNK)
    assert len(disk.read_file(BAD)) < 2000
    for number in range(9):
        await store.mend(CHUNK, (await records(store))[0], b"x" * 100)
        assert (await records(store))[0].start == 100 * (number + 1)
    with pytest.raises(errors.Corrupt, match="the block at 900 is damaged, and 10 other"):
        await store.read(CHUNK, 1000, 1)


async def test_damage_that_nobody_needs_any_more_is_none(disk: MemoryDisk) -> None:
    store = await damaged(disk, 150, 350)
    await store.cut(CHUNK, 300)
    assert store.intact_length(CHUNK) == 100
    await store.punch(CHUNK, [(100, 100)])
    assert store.intact_length(CHUNK) == 300 and not disk.exists(BAD)
    assert await store.verify(CHUNK) == 0


async def test_a_cut_through_a_damaged_block_leaves_it_whole(disk: MemoryDisk) -> None:
    store = await damaged(disk)
    disk.flip_bit(DATA, 150)
    await store.cut(CHUNK, 120)
    assert (store.chunks[CHUNK], store.intact_length(CHUNK)) == (200, 100)
    await store.cut(CHUNK, 190)
    assert store.chunks[CHUNK] == 200
    assert [chunk for chunk, _ in store.take_damaged()] == [CHUNK]
    await store.cut(CHUNK, 100)
    assert store.intact_length(CHUNK) == 100 and not disk.exists(BAD)


async def test_a_full_disk_forgets_damage_at_a_restart_and_not_before(disk: MemoryDisk) -> None:
    store = await damaged(disk)
    disk.fail("write", errno.ENOSPC, BAD)
    disk.flip_bit(DATA, 150)
    with pytest.raises(errors.Corrupt):
        await store.read(CHUNK, 100, 1)
    assert store.intact_length(CHUNK) == 100 and store.drive.failed is None and not disk.exists(BAD)


async def test_a_note_of_damage_that_is_older_than_its_chunk_may_stay_so_on_a_full_disk(disk: MemoryDisk) -> None:
    store = await damaged(disk, 150, 350)
    noted = disk.read_file(BAD)
    await store.cut(CHUNK, 300)
    await store.close()
    disk.replace_file(BAD, noted)
    disk.fail("write", errno.ENOSPC, BAD)
    again = opened(disk)
    assert again.drive.failed is None and again.damaged_blocks(CHUNK) == [100]


async def test_a_cut_through_a_block_that_cannot_be_read_leaves_the_disk_in_service(disk: MemoryDisk) -> None:
    store = await damaged(disk)
    disk.fail("read", errno.EIO, DATA)
    await store.cut(CHUNK, 120)
    assert store.drive.failed is None
    disk.mend()
    assert (store.chunks[CHUNK], store.intact_length(CHUNK)) == (200, 100)


async def test_a_crash_between_freeing_a_damaged_block_and_forgetting_its_damage(disk: MemoryDisk) -> None:
    store = await damaged(disk, 150)
    noted = disk.read_file(BAD)
    await store.punch(CHUNK, [(100, 100)])
    await store.close()
    disk.replace_file(BAD, noted)
    again = opened(disk)
    await again.punch(CHUNK, [(100, 100)])
    assert again.intact_length(CHUNK) == 400 and not disk.exists(BAD)
    assert await again.verify(CHUNK) == 0


async def test_a_note_of_damage_from_before_other_blocks_took_their_place_is_forgotten(disk: MemoryDisk) -> None:
    store = await damaged(disk, 150)
    noted = disk.read_file(BAD)
    await store.cut(CHUNK, 50)
    await appended(store, b"y" * 300)
    await store.close()
    disk.replace_file(BAD, noted)
    again = opened(disk)
    assert await again.verify(CHUNK) == 0
    assert again.intact_length(CHUNK) == 350 and not disk.exists(BAD)


# --- taken over


WHOLE, LOST, LAST = b"a whole block", b"one that is lost", b"the last"


def _lost(offset: int) -> list[Record]:
    return records_of(sum_blocks(LOST), offset)


async def test_a_block_that_no_copy_has_is_damaged_here_too(disk: MemoryDisk) -> None:
    store = opened(disk)
    await appended(store, WHOLE)
    await store.append_records(CHUNK, len(WHOLE), _lost(len(WHOLE)), None, to_damaged=True)
    end = len(WHOLE) + len(LOST)
    await store.append_records(CHUNK, end, records_of(sum_blocks(LAST), end), LAST, to_damaged=True)
    with pytest.raises(errors.Corrupt):
        await appended(store, b"of a client")
    assert await store.sync([CHUNK]) == [len(WHOLE)]
    disk.crash(random.Random(1))
    again = opened(disk)
    assert again.chunks == {CHUNK: end + len(LAST)} and again.intact_length(CHUNK) == len(WHOLE)
    assert again.damaged_blocks(CHUNK) == [len(WHOLE)]
    assert await content(again, 0, len(WHOLE)) == WHOLE
    assert await content(again, end, len(LAST)) == LAST
    with pytest.raises(errors.Corrupt, match="no copy that was asked has a block whole"):
        await again.read(CHUNK, len(WHOLE), 1)
    with pytest.raises(errors.Corrupt):
        await again.verify(CHUNK)
    assert again.used_bytes == end + len(LAST) and again.take_corrupt() == []
    await again.mend(CHUNK, _lost(len(WHOLE))[0], LOST)
    assert await content(again, 0, end + len(LAST)) == WHOLE + LOST + LAST


@pytest.mark.parametrize("before", [WHOLE, b""])
async def test_a_crash_while_a_lost_block_is_taken_over_leaves_what_was_synced(before: bytes) -> None:
    for operations in range(40):
        disk = MemoryDisk()
        store = opened(disk)
        if before:
            await appended(store, before)
            await store.sync([CHUNK])
        disk.power_off_after(operations)
        with suppress(PowerOff, errors.DiskFailed):
            await store.append_records(CHUNK, len(before), _lost(len(before)), None, to_damaged=True)
            await store.sync([CHUNK])
        disk.crash(random.Random(operations))
        again = opened(disk)
        length = again.chunks.get(CHUNK, 0)
        assert length in (len(before), len(before) + len(LOST)) and again.take_corrupt() == []
        assert again.damaged_blocks(CHUNK) == ([len(before)] if length > len(before) else [])
        if before:
            assert await content(again, 0, len(before)) == before


async def test_a_lost_block_that_cannot_be_noted_is_not_taken_over(disk: MemoryDisk) -> None:
    store = opened(disk)
    await appended(store, WHOLE)
    disk.fail("write", errno.ENOSPC, BAD)
    with pytest.raises(errors.NoSpace):
        await store.append_records(CHUNK, len(WHOLE), _lost(len(WHOLE)), None, to_damaged=True)
    assert store.chunks == {CHUNK: len(WHOLE)} and not store.is_damaged(CHUNK) and store.drive.failed is None
    await store.look_at_damage()
