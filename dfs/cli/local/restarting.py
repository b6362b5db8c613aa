"""`dfs restart`: the daemons of a cluster on this machine end and start again, one after another, while it is used."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from typing import Any

import click

from dfs import errors, limits
from dfs.cli.local import control, locks, running
from dfs.cli.local.commands import directory_option, json_option, removed_line
from dfs.cli.local.layout import Layout, usual_layout


def _daemons(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """What a shell offers: the daemons that the supervisor has noted."""
    layout = ctx.params.get("layout") or usual_layout()
    return [name for name in layout.read_cluster().get("daemons", {}) if name.startswith(incomplete)]


@click.command()
@click.argument("names", metavar="[DAEMON]...", nargs=-1, shell_complete=_daemons)
@directory_option
@json_option
def restart(names: tuple[str, ...], layout: Layout, as_json: bool) -> None:
    """Restart the daemons of the cluster on this machine, one after another: all, or those named (namenode, n1).

    That is how an upgrade of dfs, or an edited configuration, comes into use while the cluster is used. Each is stopped
    in order and started again, and the next has its turn when clients can use the cluster and all its DataNodes. Mounts
    and clients wait for what is away, and see no error where files have a second copy. A DataNode that was removed from
    the cluster is not started again.
    """
    import trio

    from dfs.cli.local import waiting
    from dfs.telemetry import configure_logs

    configure_logs("error")  # a client that waits for its NameNode says so; here that is no news
    cluster = _status(layout)
    with locks.holding(layout.command_lock):
        turns = _turns(layout, cluster, names)
        up = trio.run(waiting.nodes_up, layout)
        for name in turns:
            if up is not None:
                up.add(name)
            cluster = trio.run(_restart, layout, name, up)
            if not as_json:
                click.echo(f"{name} runs again." if name in cluster["daemons"] else removed_line(layout, [name]))
    if as_json:
        restarted = [name for name in turns if name in cluster["daemons"]]
        report = {"dir": os.fspath(layout.directory), "restarted": restarted, "daemons": cluster["daemons"]}
        click.echo(json.dumps(report))


def _status(layout: Layout) -> dict[str, Any]:
    """What the supervisor knows. Raises `DfsError` where none runs."""
    reply = running.ask(layout, "status") if layout.is_ours() else None
    if reply is None:
        raise errors.DfsError(f"no cluster runs in {layout.directory}: `{layout.command('up')}` starts it")
    found: dict[str, Any] = reply["cluster"]
    return found


def _turns(layout: Layout, cluster: dict[str, Any], names: Sequence[str]) -> list[str]:
    """In which order: the NameNode is first, as in any upgrade. Raises `InvalidArgument` for a name that is none."""
    known = list(cluster["daemons"])  # in the order of the roster
    for name in names:
        if name not in known:
            raise errors.InvalidArgument(f"no daemon {name!r} runs in {layout.directory}: there are {', '.join(known)}")
    return [name for name in known if name in (names or known)]


async def _restart(layout: Layout, name: str, awaited: Collection[str] | None) -> dict[str, Any]:
    """Restart one and wait until the cluster works; what the supervisor knows then: of one that is removed nothing.

    `awaited`: as `waiting.wait_until_up` has it. Those that did not work before, as their disks have failed, are not:
    their turn may mend that. Raises `DfsError`.
    """
    from dfs.cli.local import waiting

    log_sizes = waiting.log_sizes(layout)
    daemon = _status(layout)["daemons"].get(name)
    if daemon is not None:
        control.request(layout, "restart", daemon=name)
        await waiting.wait_until_ended(layout, name, daemon["restarts"])
    return await waiting.wait_until_up(layout, log_sizes, limits.LOCAL_UP_TIMEOUT_S, awaited)
