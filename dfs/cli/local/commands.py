"""`dfs up` and `dfs down`: a cluster of several DataNodes on this machine, to try things and to develop against."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from dfs import config, errors, limits
from dfs.cli import show
from dfs.cli.arguments import MOUNTPOINT, NamedPath
from dfs.cli.context import chosen, complain
from dfs.cli.local import locks, making, running
from dfs.cli.local.layout import Layout, usual_layout
from dfs.cli.local.ports import FreePorts
from dfs.mountpoint import find, is_dead, is_mounted, unmount

_COMMITTED_S: Final = 5.0
"""What was written to a mount is by then, if the cluster works."""
_WAS_BUSY: Final = "unmounted while files on it were open: what is written to them from now on is lost"


def _layout(_ctx: click.Context, _param: click.Parameter, directory: Path | None) -> Layout:
    return Layout(directory) if directory else usual_layout(chosen().config)


directory_option = click.option(
    "--dir",
    "layout",
    metavar="DIR",
    type=NamedPath(path_type=Path),
    callback=_layout,
    help="Where the cluster is kept; by default the directory of the client.toml in use, if `dfs up` made that, else"
    " ~/.local/share/dfs/local.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")


@click.command()
@directory_option
@click.option(
    "--datanodes",
    type=click.IntRange(1, limits.LOCAL_DATANODES_MAX),
    help=f"How many DataNodes, at least; {limits.LOCAL_DATANODES_DEFAULT} for a new cluster.",
)
@click.option(
    "--replicas",
    type=click.IntRange(1, limits.REPLICAS_MAX),
    help=f"Copies of every file's data; {limits.REPLICAS_DEFAULT} for a new cluster that has the DataNodes for it.",
)
@click.option(
    "--min-replicas",
    type=click.IntRange(1, limits.REPLICAS_MAX),
    help=f"Fewest copies on which data counts as written; {limits.MIN_REPLICAS_DEFAULT} for a new cluster.",
)
@click.option("--tls", is_flag=True, help="Encrypt all that travels: for a new cluster, which then stays so.")
@click.option("--mount", "mountpoint", metavar="DIR", type=MOUNTPOINT, help="Mount the cluster there; made if missing.")
@json_option
def up(
    layout: Layout,
    datanodes: int | None,
    replicas: int | None,
    min_replicas: int | None,
    tls: bool,
    mountpoint: Path | None,
    as_json: bool,
) -> None:
    """Start a cluster on this machine, in the background, and wait until it can be used.

    The first time this makes the cluster: configuration files, which are yours to edit, and directories for the data.
    After that it starts what does not run, and mounts again what it had mounted where that has died. A daemon that ends
    is started again until `dfs down`; a DataNode that was removed from the cluster is not.
    """
    made, started, cluster = _bring_up(layout, making.Wish(datanodes, replicas, min_replicas, tls))
    if mountpoint is not None:
        _mount(layout, mountpoint.absolute())
    mounted_again = _mount_again(layout)
    if as_json:
        click.echo(json.dumps(_report(layout, made, started, cluster)))
        return
    if datanodes is not None and datanodes < made.datanodes:
        click.echo(f"There are {made.datanodes} DataNodes already, and all of them stay.")
    if made.removed:
        click.echo(removed_line(layout, made.removed))
    for each in mounted_again:
        click.echo(f"Its mount on {each} had ended, and is there again.")
    click.echo(_welcome(layout, made, started))
    if mountpoint is not None:
        click.echo(f"    ls -l {shlex.quote(str(mountpoint))}    # the cluster is mounted there")


def _bring_up(layout: Layout, wish: making.Wish) -> tuple[making.Made, bool, dict[str, Any]]:
    """What there is, whether a supervisor was started for it, and what that knows of its daemons."""
    import trio

    from dfs.cli.local import waiting
    from dfs.telemetry import configure_logs

    configure_logs("error")  # a client that waits for its NameNode says so; here that is no news
    if not layout.is_made():
        making.complete(wish)  # a wish that cannot be leaves nothing behind
    layout.claim()
    added: tuple[str, ...] = ()
    is_new = False
    while True:
        with FreePorts() as ports:
            with locks.holding(layout.command_lock):
                made = making.make(layout, wish, ports)
                log_sizes = waiting.log_sizes(layout)
                is_new |= running.start_or_reload(layout, ports.descriptors())
            cluster = trio.run(waiting.wait_until_up, layout, log_sizes, limits.LOCAL_UP_TIMEOUT_S)
        added += made.added
        there = making.read(layout)
        if there.datanodes >= (wish.datanodes or 0):
            return there._replace(added=added), is_new, cluster
        # Some of those counted had been removed from the cluster, and have heard of it by now only.


def _mount(layout: Layout, mountpoint: Path) -> None:
    """Mount the cluster on a directory, made if it is missing; one on which it is mounted already will do."""
    from dfs.cli import mounting

    mountpoint.parent.mkdir(parents=True, exist_ok=True)
    if not is_mounted(mountpoint):
        mountpoint.mkdir(exist_ok=True)
    elif mountpoint in _mounts(layout) and not is_dead(mountpoint):
        return
    mounting.mount_in_background(mountpoint, "", "/", ["--config", str(layout.client)])
    layout.write_mounts({*layout.read_mounts(), mountpoint})


def _mount_again(layout: Layout) -> list[Path]:
    """Where mounts of `dfs up --mount` whose processes have died were made anew; says where that could not be."""
    from dfs.cli import mounting

    done = []
    for mountpoint in filter(is_dead, _mounts(layout)):
        try:
            mounting.mount_in_background(mountpoint, "", "/", ["--config", str(layout.client)])
            done.append(mountpoint)
        except errors.DfsError as error:
            complain(f"the mount on {mountpoint} has ended, and could not be made again: {error.message}")
    return done


def _mounts(layout: Layout) -> list[Path]:
    """Where `dfs up --mount` mounted the cluster, as far as `dfs umount` has left it there, and nobody came after."""
    found = ((mountpoint, find(mountpoint)) for mountpoint in layout.read_mounts())
    return sorted(mountpoint for mountpoint, there in found if there is not None and there.is_dfs)


def _unmount_all(layout: Layout) -> None:
    """Take away what `dfs up --mount` mounted, also while files on it are open: says of which that is so."""
    for mountpoint in _mounts(layout):
        try:
            _unmount(mountpoint)
        except errors.DfsError as error:
            complain(f"{mountpoint}: {error.message}")
    layout.write_mounts(set())


def _unmount(mountpoint: Path) -> None:
    """Raises `DfsError` if something is lost, or may be."""
    from dfs.cli import mounting

    is_busy = False
    try:
        unmount(mountpoint, lazy=False)
    except errors.Busy:
        is_busy = True
        unmount(mountpoint)
    try:
        goes_on = mounting.wait_for_end(mountpoint, _COMMITTED_S) is not None
    except errors.DfsError as error:
        raise errors.DfsError(f"{_WAS_BUSY}; {error.message}" if is_busy else error.message) from None
    if is_busy:
        raise errors.Busy(_WAS_BUSY)
    if goes_on:
        raise errors.Busy("unmounted, but it is mounted elsewhere too: what is written there from now on is lost")


def _report(layout: Layout, made: making.Made, started: bool, cluster: dict[str, Any]) -> dict[str, Any]:
    return {
        "dir": os.fspath(layout.directory),
        "config": os.fspath(layout.client),
        "namenode": made.namenode,
        "datanodes": made.datanodes,
        "replicas": made.replicas,
        "min_replicas": made.min_replicas,
        "started": started,
        "added": made.added,
        "removed": made.removed,
        "supervisor": cluster["pid"],
        "daemons": cluster["daemons"],
        "mounts": [os.fspath(mountpoint) for mountpoint in _mounts(layout)],
    }


def _welcome(layout: Layout, made: making.Made, started: bool) -> str:
    where = os.fspath(layout.directory)
    lines = [
        f"The cluster is up{'' if started else ' already' if not made.added else ', with ' + _some(made.added)}:"
        f" a NameNode at {made.namenode} and {show.counted(made.datanodes, 'DataNode')},"
        f" {show.counted(made.replicas, 'copy', 'copies')} of all data.",
        f"It is kept in {where}, its logs in {layout.logs}.",
        "",
    ]
    exports = _exports(layout)
    if exports:
        lines += ["To use it in this shell:", "", *(f"    export {each}" for each in exports), ""]
    lines += ["Try:", "", "    dfs status", "    dfs upload FILE /", "    dfs ls -l /", f"    {layout.command('down')}"]
    return "\n".join(lines)


def removed_line(layout: Layout, names: Sequence[str]) -> str:
    """What became of DataNodes that were removed from the cluster."""
    was, runs, it, keeps = ("was", "is", "it", "keeps") if len(names) == 1 else ("were", "are", "they", "keep")
    return (
        f"{', '.join(names)} {was} removed from the cluster and {runs} not run any more; what {it} {keeps} stays in"
        f" {layout.directory}."
    )


def _exports(layout: Layout) -> list[str]:
    """What a shell has to set before it finds the command `dfs`, and that finds this cluster."""
    programs = Path(sys.executable).parent
    exports = []
    if shutil.which("dfs") is None and (programs / "dfs").exists():
        exports.append(f"PATH={shlex.quote(str(programs))}:$PATH")
    if not _is_chosen(layout):
        exports.append(f"DFS_CONFIG={shlex.quote(str(layout.client))}")
    return exports


def _is_chosen(layout: Layout) -> bool:
    """Whether the other verbs use this cluster when they are told nothing else."""
    path = config.client_config_path()
    try:
        return path is not None and path.samefile(layout.client)
    except OSError:
        return False


def _some(names: tuple[str, ...]) -> str:
    return f"{', '.join(names)} added" if len(names) <= 4 else f"{names[0]} to {names[-1]} added"


@click.command()
@directory_option
@json_option
def down(layout: Layout, as_json: bool) -> None:
    """Stop the cluster on this machine, in order. The data stays; `dfs up` starts it again.

    What `dfs up --mount` mounted is unmounted first, also while files on it are open: it says where that is so.
    """
    stopped = False
    if layout.is_ours():
        with locks.holding(layout.command_lock):
            _unmount_all(layout)
            stopped = running.stop(layout)
    if as_json:
        click.echo(json.dumps({"dir": os.fspath(layout.directory), "stopped": stopped}))
    elif stopped:
        click.echo(
            f"The cluster is down. Its data stays in {layout.directory}; `{layout.command('up')}` starts it again."
        )
    else:
        click.echo(f"No cluster runs in {layout.directory}: there is nothing to stop.")
