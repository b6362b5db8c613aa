"""`du` and `df`: what directories take, and what the cluster holds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from dfs import limits
from dfs.cli import show
from dfs.cli.arguments import REMOTE
from dfs.cli.context import Report, config_option, run

if TYPE_CHECKING:
    from dfs.client import FileSystem
    from dfs.types import Attr, Statfs

# --- du -------------------------------------------------------------------------------------------------


class Taken(NamedTuple):
    """What is at and beneath a path. Bytes are before replication."""

    path: bytes
    allocated: int
    size: int
    """What readers see: more than `allocated` where files have holes."""


@click.command()
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=REMOTE)
@click.option("-s", "summary", is_flag=True, help="Only the sum of each PATH: asks the NameNode once.")
@click.option("-h", "humanly", is_flag=True, help="Sizes like 1.5K and 20M.")
@click.option("-b", "apparent", is_flag=True, help="The lengths of files, in bytes, holes included.")
@click.option("-d", "depth", metavar="DEPTH", type=click.IntRange(0), help="Directories no deeper than this.")
@click.option("--json", "as_json", is_flag=True, help="An array of objects; sizes in bytes.")
@config_option
def du(paths: tuple[bytes, ...], summary: bool, humanly: bool, apparent: bool, depth: int | None, as_json: bool) -> int:
    """Show what each directory and all beneath it takes, before replication, in KiB."""
    if summary and depth:
        raise click.UsageError("-s shows one sum for each PATH, which -d contradicts")
    deepest = 0 if summary else depth
    if as_json:
        return run(lambda fs: _du_json(fs, paths or (b"/",), deepest))

    def line(taken: Taken) -> None:
        show.echo(f"{_size(taken, humanly, apparent)}\t{show.name(taken.path)}")

    return run(lambda fs: _du(fs, paths or (b"/",), deepest, line))


def _size(taken: Taken, humanly: bool, apparent: bool) -> str:
    size = taken.size if apparent else taken.allocated
    if humanly:
        return show.human(size)
    return str(size) if apparent else str(-(-size // limits.KIB))


async def _du_json(fs: FileSystem, paths: tuple[bytes, ...], deepest: int | None) -> int:
    with show.JsonArray() as array:
        status = await _du(
            fs, paths, deepest, lambda taken: array.add({**taken._asdict(), "path": show.text(taken.path)})
        )
        array.failed = bool(status)
    return status


async def _du(fs: FileSystem, paths: tuple[bytes, ...], deepest: int | None, tell: Callable[[Taken], None]) -> int:
    report = Report()
    for path in paths:
        with report.catching():
            async for taken in _sums(fs, path, await fs.stat(path, follow=path.endswith(b"/")), deepest):
                tell(taken)
    return report.status


async def _sums(fs: FileSystem, path: bytes, attr: Attr, deepest: int | None) -> AsyncIterator[Taken]:
    """Sums of directories, those beneath before those above. The NameNode adds up what lies deeper than `deepest`."""
    from dfs.cli.walk import walk

    sums: list[list[int]] = [[0, 0]]  # of the directories on the way
    linked: set[int] = set()  # files of several names count once
    async for met in walk(fs, path, attr, descend=lambda met: deepest is None or met.depth < deepest, leaving=True):
        done = met.leaving or not met.is_directory or met.depth == deepest
        if not done:
            sums.append([0, 0])
            continue
        if met.leaving:
            allocated, size = sums.pop()
        elif met.is_directory:
            found = await fs.inodes.summarize(met.attr.ino)
            allocated, size = found["allocated"], found["bytes"]
        elif met.attr.ino in linked:
            continue
        else:
            allocated, size = met.attr.allocated, met.attr.size
            if met.attr.nlink > 1:
                linked.add(met.attr.ino)
        sums[-1][0] += allocated
        sums[-1][1] += size
        if met.is_directory or met.depth == 0:
            yield Taken(met.path, allocated, size)


# --- df -------------------------------------------------------------------------------------------------


@click.command()
@click.option("-h", "humanly", is_flag=True, help="Sizes like 1.5K and 20M.")
@click.option("--json", "as_json", is_flag=True, help="One object; sizes in bytes.")
@config_option
def df(humanly: bool, as_json: bool) -> int:
    """Show how much the DataNodes hold and have free (copies counted), in KiB, and how much data that is."""

    async def body(fs: FileSystem) -> None:
        found = await fs.statfs()
        if as_json:
            show.echo_json(df_record(fs.session.address, found))
        else:
            for line in df_lines(fs.session.address, found, humanly=humanly):
                show.echo(line)

    return run(body)


def df_record(address: str, found: Statfs) -> dict[str, Any]:
    """As JSON has it; `used_bytes` has copies counted, `data_bytes` has not."""
    used, data = _used_bytes(found), found.used_bytes
    return {"namenode": address, **found._asdict(), "used_bytes": used, "data_bytes": data}


def _used_bytes(found: Statfs) -> int:
    return max(0, found.capacity_bytes - found.free_bytes)


def df_lines(address: str, found: Statfs, *, humanly: bool) -> list[str]:
    """A heading and a line; `Used` has copies counted, `Data` has not."""

    def size(size_bytes: int) -> str:
        return show.human(size_bytes) if humanly else str(-(-size_bytes // limits.KIB))

    used = _used_bytes(found)
    unit = "Size" if humanly else "1K-blocks"
    rows = [
        ["NameNode", unit, "Used", "Available", "Use%", "Data", "Inodes", "Copies"],
        [
            address,
            size(found.capacity_bytes),
            size(used),
            size(found.free_bytes),
            show.share(used, found.capacity_bytes),
            size(found.used_bytes),
            str(found.inodes),
            str(found.replicas),
        ],
    ]
    return show.table(rows, right=range(1, 8))
