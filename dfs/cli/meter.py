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


def _rate(bytes_per_s: float) -> str:
    """`900 bytes/s`, `1.5 MiB/s`."""
    from rich.filesize import pick_unit_and_suffix

    unit, suffix = pick_unit_and_suffix(int(bytes_per_s), ["bytes", "KiB", "MiB", "GiB", "TiB"], 1024)
    return f"{bytes_per_s / unit:,.{0 if unit == 1 else 1}f} {suffix}/s"


async def _draw(meter: Meter, label: str) -> None:
    await trio.sleep(limits.PROGRESS_AFTER_S)
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Speed(ProgressColumn):
        """In the units of what was moved: rich's own has others."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("?" if speed is None else _rate(speed), style="progress.data.speed")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        Speed(),
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
