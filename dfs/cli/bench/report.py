"""What is measured, as lines for people and as an object for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from dfs import limits
from dfs.cli import show
from dfs.cli.bench.figures import Figures
from dfs.cli.bench.limiting import Limit, in_words
from dfs.cli.bench.works import Work

HEADINGS: Final = ("", "cache", "ops/s", "MiB/s", "p50", "p95", "p99", "limited by")
_WIDTHS: Final = (29, 5, 8, 7, 7, 7, 7)
_TITLES: Final = {
    "large": "Large files",
    "append": "Appending",
    "small": "Small files",
    "metadata": "Metadata",
}
_NOTES: Final = {
    "cold": "the kernel here had none of it; a mount's process and the DataNodes may have had it in memory",
    "warm": "it had been asked for before; a mount remembers it, the Python API asks again",
    "list": "operations are entries, latencies those of whole listings",
    "limited by": "what was busy, and for how much of the time; a CPU: of one core",
    "shared": "nothing was busy all the time, since each waited for another in turn; the busiest come first",
}


class Line(NamedTuple):
    """One work, done."""

    work: Work
    figures: Figures
    limit: Limit


def heading() -> str:
    """Above the columns."""
    return _row(HEADINGS)


def group_title(group: str) -> str:
    return _TITLES[group]


def amounts(works: Sequence[Work], size_bytes: int, files: int) -> str:
    """How much there is to do, in words: `a file of 256M, 1000 small files`."""
    words = {
        "large": f"a file of {show.human(size_bytes)}",
        "append": show.counted(files, "append"),
        "small": show.counted(files, "small file"),
        "metadata": show.counted(files, "empty file"),
    }
    groups = {work.group for work in works}
    return ", ".join(said for group, said in words.items() if group in groups)


def notes(lines: Sequence[Line]) -> list[str]:
    """Beneath the table: its words, those that are there."""
    seen = {"limited by", *(line.work.name for line in lines), *(line.work.cache for line in lines)}
    seen |= {in_words(line.limit).partition(":")[0] for line in lines}
    return [f"{word}: {meaning}" for word, meaning in _NOTES.items() if word in seen]


def row(line: Line) -> str:
    """A line of the table."""
    figures = line.figures
    cells = [
        f"  {line.work.title}",
        line.work.cache,
        rate(figures.operations_per_s),
        rate(figures.bytes_per_s / limits.MIB) if figures.moved_bytes else "-",
        *(duration(seconds) for seconds in (figures.p50_s, figures.p95_s, figures.p99_s)),
        in_words(line.limit),
    ]
    return _row(cells)


def _row(cells: Sequence[str]) -> str:
    first, cache, *numbers, last = cells
    shown = [first.ljust(_WIDTHS[0]), cache.ljust(_WIDTHS[1])]
    shown += [number.rjust(width) for number, width in zip(numbers, _WIDTHS[2:], strict=True)]
    return " ".join([*shown, "", last]).rstrip()


def rate(value: float) -> str:
    """`12,345`, `123`, `12.3`, `0.12`."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def duration(seconds: float) -> str:
    """`85 us`, `1.2 ms`, `340 ms`, `2.1 s`."""
    for unit, size_s in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size_s * 0.9995:
            value = seconds / size_s
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{seconds * 1e6:.0f} us"


def record(line: Line) -> dict[str, Any]:
    """A line as JSON has it; sizes in bytes, times in seconds."""
    work, figures = line.work, line.figures
    return {
        "name": work.name,
        "group": work.group,
        "title": work.title,
        "cache": None if work.cache == "-" else work.cache,
        "operations": figures.operations,
        "bytes": figures.moved_bytes,
        "elapsed_s": figures.elapsed_s,
        "operations_per_s": figures.operations_per_s,
        "bytes_per_s": figures.bytes_per_s,
        "p50_s": figures.p50_s,
        "p95_s": figures.p95_s,
        "p99_s": figures.p99_s,
        "limited_by": line.limit.shares[0].what if line.limit.is_known else None,
        "busy": [{"what": share.what, "part": round(share.part, 3)} for share in line.limit.shares],
    }
