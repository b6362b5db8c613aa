"""`ls`, `stat` and `tree`: what is there, as coreutils would show it, or as JSON."""

from __future__ import annotations

import dataclasses
import shutil
import stat as statmod
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from dfs import errors, limits
from dfs.cli import show
from dfs.cli.arguments import REMOTE, join, remote_paths
from dfs.cli.context import Report, config_option, run

if TYPE_CHECKING:
    from dfs.cli.walk import Met
    from dfs.client import FileSystem
    from dfs.types import Attr

# --- ls -------------------------------------------------------------------------------------------------


class Item(NamedTuple):
    """One line of a listing."""

    path: bytes
    shown: bytes
    """What stands for it in the listing: a name, or the path as it was given."""
    attr: Attr
    target: bytes | None = None
    """Of a symbolic link, where it is shown."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Style:
    """How `ls` was asked to list."""

    long: bool
    recursive: bool
    hidden: bool
    dots: bool
    humanly: bool
    numeric: bool
    directory: bool
    by_time: bool
    by_size: bool
    reverse: bool
    one: bool
    as_json: bool


@click.command()
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=REMOTE)
@click.option("-l", "long", is_flag=True, help="Mode, links, owner, group, size, time.")
@click.option("-R", "recursive", is_flag=True, help="And all directories beneath.")
@click.option("-a", "dots", is_flag=True, help="Names that begin with a dot, too, with . and ..")
@click.option("-A", "hidden", is_flag=True, help="Names that begin with a dot, too, without . and ..")
@click.option("-h", "humanly", is_flag=True, help="Sizes like 1.5K and 20M.")
@click.option("-n", "numeric", is_flag=True, help="As -l, with numbers for owner and group.")
@click.option("-d", "directory", is_flag=True, help="Directories themselves, not what is in them.")
@click.option("-t", "by_time", is_flag=True, help="Newest first.")
@click.option("-S", "by_size", is_flag=True, help="Largest first.")
@click.option("-r", "reverse", is_flag=True, help="The other way round.")
@click.option("-1", "one", is_flag=True, help="One name a line, on a terminal, too.")
@click.option("--json", "as_json", is_flag=True, help="An array of objects.")
@config_option
def ls(paths: tuple[bytes, ...], **options: Any) -> int:
    """List directories (the root, if none is named) and files."""
    options["long"] |= options["numeric"]
    options["hidden"] |= options["dots"]
    style = Style(**options)
    return run(lambda fs: _ls(fs, paths or (b"/",), style))


async def _ls(fs: FileSystem, paths: tuple[bytes, ...], style: Style) -> int:
    report = Report()
    files: list[Item] = []
    directories: list[Item] = []
    for path in paths:
        with report.catching():
            attr = await _look(fs, path, follow=not (style.long or style.directory))
            listed = statmod.S_ISDIR(attr.mode) and not style.directory
            (directories if listed else files).append(Item(path, path, attr))
    listing = _Listing(fs, style, report)
    if style.as_json:
        with show.JsonArray() as listing.array:
            await listing.all(files, directories, headed=False)
            listing.array.failed = bool(report.failed)
    else:
        await listing.all(files, directories, headed=style.recursive or len(paths) > 1)
    return report.status


async def _look(fs: FileSystem, path: bytes, *, follow: bool) -> Attr:
    """As stat, but a link that leads nowhere is shown itself."""
    attr = await fs.stat(path, follow=False)
    if follow and statmod.S_ISLNK(attr.mode):
        try:
            return await fs.stat(path)
        except errors.DfsError:
            return attr
    return attr


class _Listing:
    """One run of `ls`. `array` is where JSON goes, None for text."""

    def __init__(self, fs: FileSystem, style: Style, report: Report) -> None:
        self.array: show.JsonArray | None = None
        self._fs = fs
        self._style = style
        self._report = report
        self._begun = False

    async def all(self, files: list[Item], directories: list[Item], *, headed: bool) -> None:
        if files:
            await self._show(files)
        waiting = list(reversed(self._sorted(directories)))
        while waiting:
            directory = waiting.pop()
            with self._report.catching():
                items = await self._read(directory)
                if headed and self.array is None:
                    self._head(directory.path)
                await self._show(items)
                if self._style.recursive:
                    waiting += reversed([item for item in self._sorted(items) if self._is_child_directory(item)])
            self._begun = True

    @staticmethod
    def _is_child_directory(item: Item) -> bool:
        return statmod.S_ISDIR(item.attr.mode) and item.shown not in (b".", b"..")

    def _head(self, path: bytes) -> None:
        show.echo(f"\n{show.name(path)}:" if self._begun else f"{show.name(path)}:")

    async def _read(self, directory: Item) -> list[Item]:
        from dfs.cli.walk import read_directory

        entries = await read_directory(self._fs, directory.attr.ino)
        items = [Item(join(directory.path, entry.name), entry.name, entry.attr) for entry in entries]
        if not self._style.hidden:
            items = [item for item in items if not item.shown.startswith(b".")]
        if self._style.dots and self.array is None:
            above = await self._fs.stat(join(directory.path, b".."))
            items += [Item(directory.path, b".", directory.attr), Item(directory.path, b"..", above)]
        return items

    def _sorted(self, items: list[Item]) -> list[Item]:
        ordered = sorted(items, key=lambda item: item.shown)
        if self._style.by_size:
            ordered.sort(key=lambda item: -item.attr.size)
        elif self._style.by_time:
            ordered.sort(key=lambda item: -item.attr.mtime_ns)
        return ordered[::-1] if self._style.reverse else ordered

    async def _show(self, items: list[Item]) -> None:
        items = self._sorted(items)
        if self.array is not None or self._style.long:
            items = await _with_targets(self._fs, items)
        if self.array is not None:
            for item in items:
                self.array.add(show.record(item.path, item.attr, item.target))
        elif self._style.long:
            for line in long_lines(items, humanly=self._style.humanly, numeric=self._style.numeric):
                show.echo(line)
        else:
            for line in _short_lines([show.name(item.shown) for item in items], self._style.one):
                show.echo(line)
        self._begun = True


def long_lines(items: list[Item], *, humanly: bool = False, numeric: bool = False) -> list[str]:
    """`ls -l` of `items`, in columns."""
    rows = [show.listing_row(item.attr, _label(item), humanly=humanly, numeric=numeric) for item in items]
    return show.table(rows, right=(1, 4))


def _label(item: Item) -> str:
    shown = show.name(item.shown)
    return shown if item.target is None else f"{shown} -> {show.name(item.target)}"


def _short_lines(names: list[str], one: bool) -> list[str]:
    if one or not sys.stdout.isatty():
        return names
    return show.columns(names, shutil.get_terminal_size().columns)


async def _with_targets(fs: FileSystem, items: list[Item]) -> list[Item]:
    """The same with the targets of symbolic links, which are asked for many at once."""
    from dfs.cli.crew import crew

    found = list(items)

    async def ask(at: int) -> None:
        try:
            found[at] = found[at]._replace(target=await fs.inodes.readlink(found[at].attr.ino))
        except (errors.NotFound, errors.InvalidArgument):
            pass  # it has gone meanwhile: shown as it was

    links = [at for at, item in enumerate(items) if statmod.S_ISLNK(item.attr.mode)]
    if links:
        async with crew(min(limits.LOOKUPS_AT_ONCE, len(links)), ask) as put:
            for at in links:
                await put(at)
    return found


# --- stat -----------------------------------------------------------------------------------------------


@click.command()
@remote_paths()
@click.option("-L", "follow", is_flag=True, help="Of what a symbolic link leads to.")
@click.option("--chunks", is_flag=True, help="And which nodes hold a file's bytes.")
@click.option("--json", "as_json", is_flag=True, help="An array of objects; chunks by their numbers, in decimal.")
@config_option
def stat(paths: tuple[bytes, ...], follow: bool, chunks: bool, as_json: bool) -> int:
    """Show all attributes of files and directories."""
    return run(lambda fs: _stat(fs, paths, follow, chunks, as_json))


async def _stat(fs: FileSystem, paths: tuple[bytes, ...], follow: bool, chunks: bool, as_json: bool) -> int:
    report = Report()
    records = []
    for path in paths:
        with report.catching():
            attr = await fs.stat(path, follow=follow)
            target = await fs.readlink(path) if statmod.S_ISLNK(attr.mode) else None
            found = show.record(path, attr, target)
            if chunks and statmod.S_ISREG(attr.mode):
                found["chunks"] = [
                    {"chunk": place.chunk, "length": place.length, "nodes": list(place.nodes)}
                    for place in await fs.replicas(path)
                ]
            records.append(found)
            if not as_json:
                for line in stat_lines(Item(path, path, attr, target), found.get("chunks", [])):
                    show.echo(line)
    if as_json and (records or not report.failed):
        show.echo_json(records)
    return report.status


def stat_lines(item: Item, chunks: list[dict[str, Any]]) -> list[str]:
    """An inode as `stat` shows it, and where its chunks are."""
    attr = item.attr
    mode = f"({statmod.S_IMODE(attr.mode):04o}/{statmod.filemode(attr.mode)})"
    owner = f"({attr.uid:5d}/{show.owner(attr.uid):>8})"
    group = f"({attr.gid:5d}/{show.group(attr.gid):>8})"
    lines = [
        f"  File: {_label(item)}",
        f"  Size: {attr.size:<15} Allocated: {attr.allocated:<15} {show.long_type_of(attr)}",
        f" Inode: {attr.ino:<15} Links: {attr.nlink:<5} Copies: {show.copies_of(attr):<7} Version: {attr.version}",
        f"Access: {mode}  Uid: {owner}   Gid: {group}",
        f"Access: {show.full_time(attr.atime_ns)}",
        f"Modify: {show.full_time(attr.mtime_ns)}",
        f"Change: {show.full_time(attr.ctime_ns)}",
        f" Birth: {show.full_time(attr.btime_ns)}",
    ]
    return lines + [
        f" Chunk: {place['chunk']:x}, {place['length']} bytes on {', '.join(place['nodes']) or 'no node'}"
        for place in chunks
    ]


# --- tree -----------------------------------------------------------------------------------------------

_BRANCH: Final = {False: "├── ", True: "└── "}
_TRUNK: Final = {False: "│   ", True: "    "}


@click.command()
@click.argument("path", metavar="[PATH]", default="/", type=REMOTE)
@click.option("-L", "depth", metavar="DEPTH", type=click.IntRange(1), help="No deeper than this.")
@click.option("-a", "hidden", is_flag=True, help="Names that begin with a dot, too.")
@click.option("-d", "directories", is_flag=True, help="Directories only.")
@click.option("--json", "as_json", is_flag=True, help="Nested objects, with what is in a directory as `contents`.")
@config_option
def tree(path: bytes, depth: int | None, hidden: bool, directories: bool, as_json: bool) -> int:
    """Draw a directory (the root, if none is named) and all beneath it."""
    drawing = _JsonTree() if as_json else _Drawing()
    return run(lambda fs: _tree(fs, path, depth, hidden, directories, drawing))


async def _tree(
    fs: FileSystem, path: bytes, depth: int | None, hidden: bool, directories: bool, drawing: _JsonTree | _Drawing
) -> int:
    from dfs.cli.walk import walk

    attr = await fs.stat(path)
    only = statmod.S_ISDIR if directories else None
    async for met in walk(
        fs, path, attr, descend=lambda met: depth is None or met.depth < depth, leaving=True, hidden=hidden, only=only
    ):
        if met.leaving:
            drawing.leave(met)
            continue
        target = await fs.inodes.readlink(met.attr.ino) if statmod.S_ISLNK(met.attr.mode) else None
        drawing.meet(met, target)
    drawing.finish()
    return 0


class _Drawing:
    """Lines of a tree. `_last` says of each directory on the way whether a sibling of it follows."""

    def __init__(self) -> None:
        self._last: list[bool] = []
        self._directories = 0
        self._files = 0

    def meet(self, met: Met, target: bytes | None) -> None:
        del self._last[max(0, met.depth - 1) :]
        if met.depth:
            trunk = "".join(_TRUNK[last] for last in self._last)
            name = met.path.rpartition(b"/")[2]
            show.echo(trunk + _BRANCH[met.last] + _label(Item(met.path, name, met.attr, target)))
            self._last.append(met.last)
            self._directories += met.is_directory
        else:
            show.echo(show.name(met.path))
        self._files += not met.is_directory

    def leave(self, met: Met) -> None:
        """Nothing to draw."""

    def finish(self) -> None:
        directories = show.counted(self._directories, "directory", "directories")
        show.echo(f"\n{directories}, {show.counted(self._files, 'file')}")


class _JsonTree:
    """Nested objects, written as they are met: neither size nor depth of the tree costs memory.

    `_open` has, for each directory whose contents are being written, whether an item is there already.
    """

    def __init__(self) -> None:
        self._open: list[bool] = []

    def meet(self, met: Met, target: bytes | None) -> None:
        self._close(met.depth)
        separator = ""
        if self._open:
            separator = ",\n" if self._open[-1] else "\n"
            self._open[-1] = True
        written = show.as_json(show.record(met.path, met.attr, target))
        if met.is_directory:
            written = written[:-1] + ', "contents": ['
            self._open.append(False)
        show.JsonArray.write(separator + written)

    def leave(self, met: Met) -> None:
        self._close(met.depth)

    def finish(self) -> None:
        self._close(0)
        show.echo("")

    def _close(self, depth: int) -> None:
        """End the directories that are `depth` deep or deeper: what comes next is not in them."""
        while len(self._open) > depth:
            self._open.pop()
            show.JsonArray.write("]}")
