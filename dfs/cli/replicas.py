"""`replicas`: how many copies files have, shown or set."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import click

from dfs import limits
from dfs.cli import show
from dfs.cli.arguments import RemotePath
from dfs.cli.attributes import change
from dfs.cli.context import complain, config_option, run

if TYPE_CHECKING:
    from dfs.cli.walk import Met
    from dfs.client import FileSystem
    from dfs.types import Attr


@click.command()
@click.argument("path", type=RemotePath())
@click.argument("copies", metavar="[N]", type=click.IntRange(0, limits.REPLICAS_MAX), required=False)
@click.option("-r", "recursive", is_flag=True, help="And all that is beneath.")
@config_option
def replicas(path: bytes, copies: int | None, recursive: bool) -> int:
    """Show how many copies the file or directory PATH is to have; with N, 16 at most, set it.

    A directory's number is that of the files that will be made in it; 0 is the cluster's default. Copies of files that
    exist are made, or dropped, in the background: `dfs status` shows how far that is.
    """

    async def body(fs: FileSystem) -> int:
        if copies is None:
            async for met in _met(fs, path, recursive):
                show.echo(f"{show.copies_of(met.attr):>7} {show.name(met.path)}")
            return 0
        wanted = copies

        def changes(attr: Attr) -> dict[str, int | str]:
            return {"replicas": wanted} if stat.S_ISREG(attr.mode) or stat.S_ISDIR(attr.mode) else {}

        status = await change(fs, (path,), changes, recursive=recursive, follow=True)
        if not status:
            await _warn_of_too_few_nodes(fs, wanted)
        return status

    return run(body)


async def _warn_of_too_few_nodes(fs: FileSystem, wanted: int) -> None:
    """No DataNode has two copies of a chunk."""
    there = sum(not view.draining for view in await fs.nodes())
    if wanted > there:
        nodes = show.counted(there, "DataNode")
        complain(
            f"there {'is' if there == 1 else 'are'} only {nodes}: {show.counted(wanted - there, 'copy', 'copies')} of"
            f" {wanted} will be missing until more are added, or fewer are asked for"
        )


async def _met(fs: FileSystem, path: bytes, recursive: bool) -> AsyncIterator[Met]:
    from dfs.cli.walk import Met, walk

    attr = await fs.stat(path)
    if not recursive:
        yield Met(path, attr, 0, True)
        return
    async for met in walk(fs, path, attr):
        if stat.S_ISREG(met.attr.mode) or met.is_directory:
            yield met
