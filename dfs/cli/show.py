"""How values look: sizes, times, modes, names of any bytes, JSON.

Text is `str` in which bytes that are not UTF-8 are surrogate escapes; `echo` turns them back into the bytes. A name
goes out as it is to a pipe or a file, and escaped to a terminal, which must not be steered by it.
"""

from __future__ import annotations

import functools
import grp
import json
import os
import pwd
import stat
import sys
import time
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from dfs.types import Attr

_HALF_A_YEAR_S: Final = 365.2425 * 86400 / 2  # as ls: what is older shows its year
_SHORT_ESCAPES: Final = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
_TYPES: Final = {
    stat.S_IFREG: ("file", "regular file"),
    stat.S_IFDIR: ("directory", "directory"),
    stat.S_IFLNK: ("symlink", "symbolic link"),
    stat.S_IFIFO: ("fifo", "fifo"),
    stat.S_IFSOCK: ("socket", "socket"),
    stat.S_IFCHR: ("character device", "character special file"),
    stat.S_IFBLK: ("block device", "block special file"),
}

# --- names ----------------------------------------------------------------------------------------------


def printable(text: str) -> str:
    """`text` with everything escaped that does not print: control characters, lone surrogates."""
    return text if text.isprintable() else "".join(map(_escape, text))


def _escape(char: str) -> str:
    if char.isprintable():
        return char
    if char in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[char]
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"  # a byte that is not UTF-8
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def text(raw: bytes) -> str:
    """Bytes as text that `echo` and JSON carry without loss."""
    return raw.decode("utf-8", "surrogateescape")


def escaped(raw: bytes) -> str:
    """A name or path for a message or a terminal."""
    return printable(text(raw))


def name(raw: bytes) -> str:
    """A name or path for stdout: escaped on a terminal, byte for byte elsewhere."""
    return escaped(raw) if sys.stdout.isatty() else text(raw)


# --- output ---------------------------------------------------------------------------------------------


def echo(line: str) -> None:
    """One line to stdout, with surrogate escapes as the bytes they stand for."""
    sys.stdout.buffer.write(line.encode("utf-8", "surrogateescape") + b"\n")


def say(words: str) -> None:
    """A line for a person; paths in it cannot steer the terminal."""
    echo(name(os.fsencode(words)))


def as_json(value: Any) -> str:
    """JSON in ASCII: a byte that is not UTF-8 is \\udcXX, as Python's surrogateescape has it."""
    return json.dumps(value, ensure_ascii=True)


def echo_json(value: Any) -> None:
    """One JSON value, indented, to stdout."""
    echo(json.dumps(value, ensure_ascii=True, indent=2))


class JsonArray:
    """An array that goes out item by item, so that its length costs no memory. Closed when the block is left.

    `failed`: an error was told. One with nothing in it is not written then, nor where the block raises.
    """

    def __init__(self) -> None:
        self.failed = False
        self._separator = "["

    def __enter__(self) -> JsonArray:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if self._separator != "[":
            echo("\n]")
        elif not self.failed and error is None:
            echo("[]")

    def add(self, value: Any) -> None:
        self.write(f"{self._separator}\n  {as_json(value)}")
        self._separator = ","

    @staticmethod
    def write(piece: str) -> None:
        sys.stdout.buffer.write(piece.encode("ascii"))


def width(shown: str) -> int:
    """Columns on a terminal."""
    if shown.isascii():
        return len(shown)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in shown
    )


def table(rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    """Lines with columns under each other; those numbered in `right` are aligned to the right."""
    if not rows:
        return []
    to_the_right = set(right)
    widths = [max(width(row[column]) for row in rows) for column in range(len(rows[0]))]
    if len(widths) - 1 not in to_the_right:
        widths[-1] = 0  # nothing is put behind the last cell: a name may end in spaces
    lines = [" ".join(_pad(cell, widths[at], at in to_the_right) for at, cell in enumerate(row)) for row in rows]
    return [line if row[-1] else line.rstrip(" ") for line, row in zip(lines, rows, strict=True)]


def _pad(cell: str, columns: int, to_the_right: bool) -> str:
    space = " " * (columns - width(cell))
    return space + cell if to_the_right else cell + space


def columns(names: Sequence[str], total: int) -> list[str]:
    """Names in as many columns as fit in `total`, read downwards, as ls does."""
    if not names:
        return []
    widths = [width(each) for each in names]
    for count in range(min(len(names), max(1, total // 3)), 1, -1):
        rows = -(-len(names) // count)
        fits = [max(widths[start : start + rows]) + 2 for start in range(0, len(names), rows)]
        if sum(fits) - 2 <= total:
            break
    else:
        return list(names)
    lines = []
    for row in range(rows):
        *before, last = range(row, len(names), rows)
        lines.append("".join(_pad(names[at], fits[column], False) for column, at in enumerate(before)) + names[last])
    return lines


# --- numbers and times ----------------------------------------------------------------------------------


def human(size_bytes: int) -> str:
    """As `ls -h`: 900, 1.5K, 20M; powers of 1024, rounded up."""
    if size_bytes < 1024:
        return str(size_bytes)
    unit = 1
    for letter in "KMGTPE":
        unit *= 1024
        tenths = -(-size_bytes * 10 // unit)
        if tenths < 100:
            return f"{tenths // 10}.{tenths % 10}{letter}"
        whole = -(-size_bytes // unit)
        if whole < 1024 or letter == "E":
            return f"{whole}{letter}"
    raise AssertionError("sizes end at exabytes")


def counted(number: int, one: str, many: str = "") -> str:
    """`1 chunk`, `3 chunks`."""
    return f"{number} {noun(number, one, many)}"


def noun(number: int, one: str, many: str = "") -> str:
    """`chunk`, `chunks`: behind a number that is written in another way than `counted` does."""
    return one if number == 1 else many or one + "s"


def share(part: int, whole: int) -> str:
    """A percentage, rounded up as df does; `-` of nothing."""
    return f"{-(-part * 100 // whole)}%" if whole > 0 else "-"


def listing_time(time_ns: int, now_s: float | None = None) -> str:
    """As `ls -l`: `Nov 23 20:47` within the last half year, `Nov 23  2024` else. Local time."""
    now_s = time.time() if now_s is None else now_s
    seconds = time_ns // 10**9
    recent = now_s - _HALF_A_YEAR_S < seconds <= now_s + 1
    return time.strftime("%b %e %H:%M" if recent else "%b %e  %Y", time.localtime(seconds))


def full_time(time_ns: int) -> str:
    """As `stat`: `2026-11-23 20:47:00.000000000 +0000`. Local time."""
    seconds, fraction = divmod(time_ns, 10**9)
    there = time.localtime(seconds)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', there)}.{fraction:09d} {time.strftime('%z', there)}"


def age(seconds: float) -> str:
    """How long ago, for a person: `0.4 s`, `12 s`, `3 min`, `5 h`, `2 d`."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.1f} s" if seconds < 10 else f"{seconds:.0f} s"


# --- attributes -----------------------------------------------------------------------------------------


@functools.cache
def owner(uid: int) -> str:
    """The user's name, the number where there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


@functools.cache
def group(gid: int) -> str:
    """The group's name, the number where there is none."""
    try:
        return grp.getgrgid(gid).gr_name
    except (KeyError, OverflowError):
        return str(gid)


def type_of(mode: int) -> str:
    """`file`, `directory`, `symlink`, ..."""
    return _TYPES.get(stat.S_IFMT(mode), ("unknown", ""))[0]


def long_type_of(attr: Attr) -> str:
    """As `stat` says it: `regular empty file`, `symbolic link`, ..."""
    if stat.S_ISREG(attr.mode) and not attr.size:
        return "regular empty file"
    return _TYPES.get(stat.S_IFMT(attr.mode), ("", "unknown"))[1]


def size_of(attr: Attr, *, humanly: bool = False) -> str:
    """The size column: of a device its numbers."""
    if stat.S_ISCHR(attr.mode) or stat.S_ISBLK(attr.mode):
        return f"{os.major(attr.rdev)}, {os.minor(attr.rdev)}"
    return human(attr.size) if humanly else str(attr.size)


def copies_of(attr: Attr) -> str:
    """How many copies it is to have, in words: of a directory, files that are made in it."""
    if not (stat.S_ISREG(attr.mode) or stat.S_ISDIR(attr.mode)):
        return "-"
    return str(attr.replicas) if attr.replicas else "default"


def listing_row(attr: Attr, shown: str, *, humanly: bool = False, numeric: bool = False) -> list[str]:
    """The columns of `ls -l`: mode, links, owner, group, size, time, name."""
    return [
        stat.filemode(attr.mode),
        str(attr.nlink),
        str(attr.uid) if numeric else owner(attr.uid),
        str(attr.gid) if numeric else group(attr.gid),
        size_of(attr, humanly=humanly),
        listing_time(attr.mtime_ns),
        shown,
    ]


def record(path: bytes, attr: Attr, target: bytes | None = None) -> dict[str, Any]:
    """A file as a JSON object; sizes in bytes, times in nanoseconds since the epoch."""
    found: dict[str, Any] = {
        "name": text(path.rstrip(b"/").rpartition(b"/")[2] or b"/"),
        "path": text(path),
        "type": type_of(attr.mode),
        "owner": owner(attr.uid),
        "group": group(attr.gid),
        **attr._asdict(),
    }
    found["mode"] = f"{stat.S_IMODE(attr.mode):04o}"
    if target is not None:
        found["target"] = text(target)
    return found
