"""The pool of receive buffers: reuse, bounds, and turns."""

from __future__ import annotations

import trio
import trio.testing

from dfs.rpc.buffers import BufferPool

KIB = 1024


async def test_a_buffer_has_the_length_asked_for_and_is_used_again() -> None:
    pool = BufferPool()
    for length in (0, 1, 4096, 4097, 1 << 20, (1 << 20) + 1):
        lease = await pool.lend(length)
        assert len(lease.view) == length
        memory = lease.view.obj
        lease.release()
        lease.release()
        again = await pool.lend(length)
        assert again.view.obj is memory
        again.release()
    assert pool.lent_bytes == 0


async def test_no_more_than_the_bound_is_kept() -> None:
    pool = BufferPool(kept_max_bytes=8 * KIB)
    leases = [await pool.lend(4 * KIB) for _ in range(3)]
    memory = {id(lease.view.obj) for lease in leases}
    held = [lease.view.obj for lease in leases]
    for lease in leases:
        lease.release()
    again = [await pool.lend(4 * KIB) for _ in range(3)]
    assert len(memory & {id(lease.view.obj) for lease in again}) == 2
    assert len(held) == 3


async def test_who_asks_for_more_than_there_is_waits_its_turn() -> None:
    pool = BufferPool(lent_max_bytes=16 * KIB)
    order: list[str] = []
    first = await pool.lend(12 * KIB)

    async def take(name: str, length: int) -> None:
        lease = await pool.lend(length)
        order.append(name)
        lease.release()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take, "large", 16 * KIB)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(take, "small", 4 * KIB)
        await trio.testing.wait_all_tasks_blocked()
        assert order == []
        first.release()
    assert order == ["large", "small"]
    assert pool.lent_bytes == 0


async def test_a_cancelled_wait_takes_nothing_and_lets_others_go_on() -> None:
    pool = BufferPool(lent_max_bytes=16 * KIB)
    first = await pool.lend(8 * KIB)
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as waiting:
                waiting.start_soon(pool.lend, 16 * KIB, "large")
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(pool.lend, 4 * KIB, "small")
                await trio.testing.wait_all_tasks_blocked()
                assert pool.lent_bytes == 8 * KIB
                scope.cancel()
    assert pool.lent_bytes == 12 * KIB
    first.release()
    assert pool.lent_bytes == 4 * KIB


async def test_a_wait_cancelled_at_the_moment_of_its_turn_gives_it_back() -> None:
    pool = BufferPool(lent_max_bytes=16 * KIB)
    first = await pool.lend(16 * KIB)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.lend, 16 * KIB)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        first.release()
    assert pool.lent_bytes in (0, 16 * KIB)  # it was granted, or it was cancelled: nothing is lost either way
