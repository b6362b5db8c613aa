"""What is freed in the background: the bytes of doomed inodes, and the punches whose grace period is over.

What would be due only in the far future, since the clock was ahead for a while, is brought forward.
"""

from __future__ import annotations

import structlog
import trio

from dfs import errors, limits
from nodes.namenode.writer import Writer

log = structlog.get_logger(__name__)


async def run(writer: Writer, period_s: float) -> None:
    """Look every `period_s` seconds, until cancelled."""
    while True:
        try:
            while await writer.decide("free_doomed", limits.OWN_COMMAND_CHUNKS_MAX):
                pass
            for verb in ("bring_forward", "plan_punches"):
                while await writer.decide(verb):
                    pass
        except errors.DfsError as error:
            log.warning("freed bytes could not be given back: trying again", error=str(error))
        await trio.sleep(period_s)
