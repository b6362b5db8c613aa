"""Freed bytes become orders: from time to time, those whose grace period is over are punched out of their chunks."""

from __future__ import annotations

import trio

from nodes.namenode.writer import Writer


async def run(writer: Writer, period_s: float) -> None:
    """Look every `period_s` seconds, until cancelled."""
    while True:
        while await writer.decide("plan_punches"):
            pass
        await trio.sleep(period_s)
