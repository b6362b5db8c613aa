"""`backup`: a copy of the namespace, to be kept elsewhere."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

import click

from dfs.cli import show
from dfs.cli.arguments import DASH, LOCAL
from dfs.cli.context import config_option, run

if TYPE_CHECKING:
    from dfs.cli.meter import Meter
    from dfs.client import FileSystem


@click.command()
@click.argument("target", metavar="FILE", type=LOCAL)
@click.option("-f", "--force", is_flag=True, help="Take the place of a file that is there.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar, and nothing said.")
@config_option
def backup(target: bytes, force: bool, quiet: bool) -> int:
    """Copy the NameNode's database, while it is in use, to FILE on this machine. `-` is standard output.

    It is of one moment: what was durable when the command began is in it. FILE appears when all of it is there and on
    the disk; only its owner can read it. Put it into an empty `state_dir` as `namespace.sqlite` to go on from there.

    Keys are not in it: keep copies of cluster.keys and of the NameNode's key, which change only with `dfs key`.
    """
    return run(functools.partial(_backup, target=target, force=force, quiet=quiet))


async def _backup(fs: FileSystem, target: bytes, force: bool, quiet: bool) -> int:
    from dfs.cli.meter import open_meter
    from dfs.cli.streams import standard_output

    async with open_meter("Copying", quiet=quiet) as meter:
        if target == DASH:
            made = await fs.backup(standard_output(), progress=meter.advance)
        else:
            made = await _into_file(fs, target, force, meter)
    if target != DASH and not quiet:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(made["made_ns"] // 10**9))
        files, size = show.counted(made["files"], "file"), show.human(made["bytes"])
        show.echo(f"{show.escaped(target)}: {files}, {size}, as of {when}")
    return 0


async def _into_file(fs: FileSystem, target: bytes, force: bool, meter: Meter) -> dict[str, Any]:
    import trio

    from dfs.cli.drafts import Draft, check_target, opened
    from dfs.cli.streams import FileSink, StreamSink

    if await trio.to_thread.run_sync(check_target, target, force, True):
        async with opened(target) as fd:
            return await fs.backup(StreamSink(fd, target), progress=meter.advance)
    draft = await trio.to_thread.run_sync(Draft, target)

    async def finish() -> None:
        await trio.to_thread.run_sync(functools.partial(draft.publish, replace=force, sync=True))

    try:
        return await fs.backup(FileSink(draft.fd, target), progress=meter.advance, finish=finish)
    finally:
        draft.discard()
