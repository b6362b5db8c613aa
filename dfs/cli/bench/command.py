"""`bench`: measure the cluster and say what limits it; see the package's docstring."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from dfs import errors, limits
from dfs.cli import show
from dfs.cli.bench import report
from dfs.cli.bench.limiting import limit_of, shares
from dfs.cli.bench.readings import Readings, RoundTrip, mount_of
from dfs.cli.bench.target import PIECE_BYTES
from dfs.cli.bench.works import Place, Work, chosen_works, measure, needed_bytes
from dfs.cli.context import chosen, complain, config_option, run, run_here
from dfs.config import find_client_config, parse_size
from dfs.keystore import KeyStore

if TYPE_CHECKING:
    from dfs.cli.bench.target import Target
    from dfs.client import FileSystem


_LONGEST_S: Final = 3600.0
_SHORTEST_S: Final = 0.01


def _seconds(_ctx: click.Context, _param: click.Parameter, value: float) -> float:
    if not _SHORTEST_S <= value <= _LONGEST_S:  # nor is it NaN then
        raise click.BadParameter(f"from {_SHORTEST_S:g} to {_LONGEST_S:g}")
    return value


def _names(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...]:
    names = tuple(name.strip() for name in (value or "").split(",") if name.strip())
    if value is not None and not names:
        raise click.BadParameter("it names nothing to measure")
    return names


def _size(_ctx: click.Context, _param: click.Parameter, value: str) -> int:
    try:
        size = parse_size(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if not PIECE_BYTES <= size <= limits.BENCH_MAX_BYTES:
        raise click.BadParameter(f"from {show.human(PIECE_BYTES)} to {show.human(limits.BENCH_MAX_BYTES)}")
    return size


@click.command()
@click.argument("path", metavar="[PATH]", required=False, type=click.Path(path_type=Path))
@click.option("--size", metavar="SIZE", default="256M", show_default=True, callback=_size, help="Of the large file.")
@click.option(
    "--files",
    default=1000,
    show_default=True,
    type=click.IntRange(1, limits.BENCH_FILES_MAX),
    help="How many small files, and empty ones.",
)
@click.option(
    "--seconds",
    "limit_s",
    default=3.0,
    show_default=True,
    type=float,
    callback=_seconds,
    help=f"No line takes longer than this, {_SHORTEST_S:g} to {_LONGEST_S:g}; an fsync at its end may.",
)
@click.option(
    "--only", metavar="WHAT,...", callback=_names, help="Groups (large, append, small, metadata) or single lines."
)
@click.option("--json", "as_json", is_flag=True, help="One object; sizes in bytes, times in seconds.")
@config_option
def bench(path: Path | None, size: int, files: int, limit_s: float, only: tuple[str, ...], as_json: bool) -> int:
    """Measure the cluster from this machine: throughput, operations a second, latencies, and what limits each.

    With PATH, a directory of a mount, through its system calls (of any other file system too, to compare). Without,
    through the Python API, in a directory of the cluster's root. Both work in a new directory and remove it. One
    operation follows the other, as one program does it.
    """
    try:
        works = chosen_works(only, rereads=path is not None)
    except errors.InvalidArgument as error:
        raise click.UsageError(error.message) from None
    telling = _Json() if as_json else _Table(works)

    if path is None:

        async def through_api(fs: FileSystem) -> None:
            from dfs.cli.bench.api import open_api_target

            async with open_api_target(fs, _new_name(), needed_bytes(works, size, files)) as target:
                await _run(_place(target, size, files, limit_s), works, Readings(fs, None), telling, _about(fs))

        return run(through_api)
    where = path

    async def through_calls() -> None:
        from dfs.cli.bench.posix import open_posix_target

        async with (
            open_posix_target(where, _new_name(), needed_bytes(works, size, files)) as target,
            _cluster_of(where, config) as fs,
        ):
            readings = Readings(fs, where if mount_of(where) else None)
            await _run(_place(target, size, files, limit_s), works, readings, telling, _about(fs, where))

    config = chosen().config
    return run_here(through_calls)


def _new_name() -> str:
    return f".dfs-bench-{secrets.token_hex(4)}"


def _place(target: Target, size: int, files: int, limit_s: float) -> Place:
    pattern = memoryview(os.urandom(PIECE_BYTES))
    return Place(target, size, files, limit_s, time.monotonic, random.Random(1), pattern)


# --- the cluster beneath a mount ------------------------------------------------------------------------


@asynccontextmanager
async def _cluster_of(directory: Path, config: str | None) -> AsyncIterator[FileSystem | None]:
    """A client of the cluster whose mount a directory is in; None, with a word about why, where there is none."""
    from dfs.client import open_filesystem

    async with contextlib.AsyncExitStack() as stack:
        fs = None
        address = mount_of(directory)
        if address is None:
            complain(
                f"{show.escaped(os.fsencode(directory))} is in no mount of a cluster: only this machine is watched"
            )
        else:
            try:
                store = KeyStore(find_client_config(config).key)
                fs = await stack.enter_async_context(open_filesystem(address, store.key))
            except errors.DfsError as error:
                complain(f"the daemons are not watched, only this machine: {error}")
        yield fs


# --- running --------------------------------------------------------------------------------------------


async def _run(
    place: Place, works: list[Work], readings: Readings, telling: _Table | _Json, about: dict[str, Any]
) -> None:
    """Do the works and tell of each."""
    await readings.prepare()
    trip = await readings.round_trip() if about["namenode"] else RoundTrip(0.0, 0.0)
    telling.begin(about, trip, place)
    for work in works:
        telling.next(work)
        await work.prepare(place)
        before = await readings.take()
        figures = await measure(place, work)
        found = shares(before, await readings.take(), trip.on_the_way_s)
        telling.tell(report.Line(work, figures, limit_of(found)))
    telling.end()


def _about(fs: FileSystem | None, path: Path | None = None) -> dict[str, Any]:
    """What was measured."""
    return {
        "through": "Python API" if path is None else "system calls",
        "path": None if path is None else show.text(os.fsencode(path)),
        "namenode": None if fs is None else fs.session.address,
        "replicas": None if fs is None else fs.session.cluster["replicas"],
    }


class _Table:
    """For people: a line as soon as it is known."""

    def __init__(self, works: list[Work]) -> None:
        self._works = works
        self._group = ""
        self._lines: list[report.Line] = []

    def begin(self, about: dict[str, Any], trip: RoundTrip, place: Place) -> None:
        where = f"system calls, in {show.printable(about['path'])}" if about["path"] else "the Python API"
        amounts = report.amounts(self._works, place.size_bytes, place.files)
        self._line(f"Through {where}: {amounts}, one operation after the other.")
        if about["namenode"]:
            self._line(
                f"Cluster of {about['namenode']}, {show.counted(about['replicas'], 'copy', 'copies')}. An empty call"
                f" takes {report.duration(trip.whole_s)}, {report.duration(trip.on_the_way_s)} of it on the way."
            )
        self._line("")
        self._line(report.heading(), style="bold")

    def next(self, work: Work) -> None:
        if work.group != self._group:
            self._group = work.group
            self._line(report.group_title(work.group), style="bold")

    def tell(self, line: report.Line) -> None:
        self._lines.append(line)
        self._line(report.row(line))

    def end(self) -> None:
        self._line("")
        for note in report.notes(self._lines):
            self._line(note)

    def _line(self, text: str, style: str = "") -> None:
        if style and sys.stdout.isatty():
            from rich.console import Console
            from rich.text import Text

            Console().print(Text(text, style), soft_wrap=True)
        else:
            show.echo(text)
        sys.stdout.flush()


class _Json:
    """For programs: one object at the end."""

    def __init__(self) -> None:
        self._found: dict[str, Any] = {}

    def begin(self, about: dict[str, Any], trip: RoundTrip, place: Place) -> None:
        self._found = {
            **about,
            "size_bytes": place.size_bytes,
            "files": place.files,
            "call_s": trip.whole_s or None,
            "call_on_the_way_s": trip.on_the_way_s if trip.whole_s else None,
            "lines": [],
        }

    def next(self, work: Work) -> None:
        pass

    def tell(self, line: report.Line) -> None:
        self._found["lines"].append(report.record(line))

    def end(self) -> None:
        show.echo_json(self._found)
