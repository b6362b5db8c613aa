"""Which way appends go: by what was faster, when several were under way."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from dfs import limits
from dfs.client.routes import Outcome, Routes

_SIZE = 4 * limits.MIB
_COPIES = 3


class Link:
    """Of a client, of so many bytes a second each way, which an append along a chain takes once, another thrice."""

    def __init__(self, bytes_per_s: float, chain_bytes_per_s: float) -> None:
        self._turn = trio.Lock()
        self._rates = {False: bytes_per_s / _COPIES, True: min(bytes_per_s, chain_bytes_per_s)}
        self.sent: list[bool] = []

    async def append(self, routes: Routes, *, fails: bool = False) -> None:
        is_chained = routes.begin()
        async with self._turn:
            await trio.sleep(_SIZE / self._rates[is_chained])
        self.sent.append(is_chained)
        routes.end(_SIZE, is_chained=is_chained, outcome=Outcome.FAILED if fails and is_chained else Outcome.DONE)

    async def append_many(self, routes: Routes, size: int, *, fails: bool = False) -> list[bool]:
        """As a window of four does; which went along a chain."""
        self.sent = []
        places = trio.Semaphore(4)
        async with trio.open_nursery() as nursery:

            async def one() -> None:
                async with places:
                    await self.append(routes, fails=fails)

            for _ in range(size // _SIZE):
                nursery.start_soon(one)
        return self.sent


async def test_a_narrow_link_has_nodes_send_on_what_is_large(autojump_clock: MockClock) -> None:
    routes, link = Routes(), Link(100e6, 100e6)
    sent = await link.append_many(routes, limits.TRIED_AGAIN_BYTES)
    assert all(sent)
    sent = await link.append_many(routes, limits.TRIED_AGAIN_BYTES)
    assert 0.95 * len(sent) < sum(sent) < len(sent), "the other way is tried"


async def test_where_a_chain_is_no_faster_all_are_sent_to_at_once_and_a_chain_is_tried_now_and_then(
    autojump_clock: MockClock,
) -> None:
    routes, link = Routes(), Link(3e9, 1.1e9)
    sent = await link.append_many(routes, limits.TRIED_AGAIN_BYTES)
    assert all(sent)
    sent = await link.append_many(routes, 4 * limits.TRIED_AGAIN_BYTES)
    chained = sum(sent) * _SIZE
    assert 3 * limits.TRIAL_BYTES <= chained <= 6 * (limits.TRIAL_BYTES + 4 * _SIZE)


async def test_a_chain_that_breaks_is_left_at_once(autojump_clock: MockClock) -> None:
    routes, link = Routes(), Link(100e6, 100e6)
    await link.append_many(routes, 8 * _SIZE)
    sent = await link.append_many(routes, limits.TRIED_AGAIN_BYTES // 2, fails=True)
    assert sum(sent) <= 4, "those under way when the first one failed"
    sent = await link.append_many(routes, limits.TRIED_AGAIN_BYTES)
    assert any(sent), "it is tried again"


async def test_a_link_that_becomes_fast_is_noticed(autojump_clock: MockClock) -> None:
    routes, link = Routes(), Link(100e6, 100e6)
    await link.append_many(routes, limits.TRIED_AGAIN_BYTES + 4 * limits.TRIAL_BYTES)
    link = Link(3e9, 1e9)
    await link.append_many(routes, limits.TRIED_AGAIN_BYTES + 2 * limits.TRIAL_BYTES)
    sent = await link.append_many(routes, limits.TRIED_AGAIN_BYTES // 2)
    assert not any(sent)
