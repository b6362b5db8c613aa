"""`upload`, `download` and `cat`: the commands; `dfs.cli.uploading` and `dfs.cli.downloading` do the work."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from dfs.cli.arguments import DASH, LOCAL, REMOTE, refuse_missing, remote_paths, sources_and_target
from dfs.cli.context import F, Report, config_option, run

if TYPE_CHECKING:
    from dfs.client import FileSystem


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How to copy, in either direction."""

    recursive: bool
    force: bool
    preserve: bool
    sync: bool
    """An upload is durable on its replicas, a download on the local disk, before it counts as done."""


def _copying(command: F) -> F:
    for option in (
        click.option("-q", "--quiet", is_flag=True, help="No progress bar."),
        click.option("-p", "--preserve", is_flag=True, help="Keep modes and times; as root, owners too."),
        click.option("-f", "--force", is_flag=True, help="Take the place of files that are there."),
        click.option("-r", "-R", "--recursive", is_flag=True, help="Directories with all that is beneath."),
        config_option,
    ):
        command = option(command)
    return command


@click.command()
@sources_and_target(LOCAL, REMOTE)
@click.option("--no-sync", is_flag=True, help="Be done when the cluster has the data, before it is on its disks.")
@_copying
def upload(sources: tuple[bytes, ...], target: bytes | None, no_sync: bool, quiet: bool, **options: Any) -> int:
    """Copy local files into the cluster: to DST, or into it if it is a directory. `-` is standard input.

    DST begins at the cluster's root, with a slash or without. Pipes and devices are read as standard input only.

    A file appears under its name when all of it is there. One that fails is reported, the others are copied.
    """
    there = refuse_missing(sources, target)
    if sources.count(DASH) > 1 or (DASH in sources and there.endswith(b"/")):
        raise click.UsageError("standard input is one file: name it")
    return run(lambda fs: _upload(fs, sources, there, Options(sync=not no_sync, **options), quiet))


async def _upload(fs: FileSystem, sources: tuple[bytes, ...], target: bytes, options: Options, quiet: bool) -> int:
    from dfs.cli.meter import open_meter
    from dfs.cli.uploading import Uploading

    report = Report()
    async with open_meter("Uploading", quiet=quiet) as meter:
        await Uploading(fs, options, report, meter).run(sources, target)
    return report.status


@click.command()
@click.argument("sources", metavar="SRC...", nargs=-1, type=REMOTE)
@click.argument("target", metavar="[DST]", required=False, type=LOCAL)
@click.option("--sync", is_flag=True, help="Be done when files are on the disk, not only in the system's cache.")
@_copying
def download(sources: tuple[bytes, ...], target: bytes | None, quiet: bool, **options: Any) -> int:
    """Copy files out of the cluster: to DST, or into it if it is a directory. `-` is standard output.

    SRC begins at the cluster's root, with a slash or without. A single one goes into the working directory without DST.

    A file appears under its name when all of it is there. One that fails is reported, the others are copied.
    """
    if target is not None and not sources:
        sources, target = (REMOTE.convert(target, None, None),), b"."
    there = refuse_missing(sources, target)
    if there == DASH and options["recursive"]:
        raise click.UsageError("a tree cannot go to standard output: leave out -r, or name a directory")
    return run(lambda fs: _download(fs, sources, there, Options(**options), quiet))


async def _download(fs: FileSystem, sources: tuple[bytes, ...], target: bytes, options: Options, quiet: bool) -> int:
    from dfs.cli.downloading import Downloading
    from dfs.cli.meter import open_meter

    if target == DASH:
        return await _cat(fs, sources)
    report = Report()
    async with open_meter("Downloading", quiet=quiet) as meter:
        await Downloading(fs, options, report, meter).run(sources, target)
    return report.status


@click.command()
@remote_paths()
@config_option
def cat(paths: tuple[bytes, ...]) -> int:
    """Write the bytes of files to standard output, one after the other."""
    return run(lambda fs: _cat(fs, paths))


async def _cat(fs: FileSystem, paths: tuple[bytes, ...]) -> int:
    from dfs.cli.streams import standard_output

    report = Report()
    sink = standard_output()
    for path in paths:
        with report.catching():
            await fs.download(path, sink)
    return report.status
