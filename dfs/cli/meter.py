"""Progress of a transfer: counted always, drawn on stderr if that is a terminal and the transfer lasts."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from dfs import limits, tasks


class Meter:
    """Bytes moved so far, and in all where that is known."""

    def __init__(self) -> None:
        self.moved_bytes = 0
        self.total_bytes: int | None = None
        self.drawn = False
        """Whether anybody looks: only then is it worth finding out the total."""

    def advance(self, moved_bytes: int) -> None:
        self.moved_bytes += moved_bytes


@asynccontextmanager
async def open_meter(label: str, *, quiet: bool) -> AsyncIterator[Meter]:
    """A meter that is drawn while the block runs, unless `quiet` or stderr is no terminal."""
    meter = Meter()
    if quiet or not sys.stderr.isatty():
        yield meter
        return
    meter.drawn = True
    async with tasks.open_nursery() as nursery:
        nursery.start_soon(_draw, meter, label)
        yield meter
        nursery.cancel_scope.cancel()


async def _draw(meter: Meter, label: str) -> None:
    await trio.sleep(limits.PROGRESS_AFTER_S)
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    # drawn by this task and by no thread: what others write to stderr meanwhile goes above the bar
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False, redirect_stdout=False) as progress:
        bar = progress.add_task(label, total=None)
        try:
            while True:
                progress.update(bar, completed=meter.moved_bytes, total=meter.total_bytes, refresh=True)
                await trio.sleep(limits.PROGRESS_PERIOD_S)
        finally:
            progress.update(bar, completed=meter.moved_bytes, total=meter.total_bytes, refresh=True)
