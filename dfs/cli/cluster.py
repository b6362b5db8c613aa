"""`status`: how the cluster is.

What the NameNode says of itself is a map whose keys may be missing in another version: what is not there is not
shown. Process ids are those of the local cluster, as its supervisor notes them in `cluster.json`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from dfs import codec, limits
from dfs.cli import show
from dfs.cli.context import chosen, config_option, run
from dfs.cli.local.layout import Layout
from dfs.config import client_config_path, local_cluster_dir
from dfs.placement import candidates, takes_orders
from dfs.types import NodeState, NodeView

if TYPE_CHECKING:
    from dfs.client import FileSystem

_STATE_COLOURS: Final = {"up": "green", "suspect": "yellow", "dead": "red"}
_HEADINGS: Final = ("DataNode", "Address", "PID", "State", "Rack", "Used", "Free", "Use%", "Chunks", "Load", "Seen")
_NUMBERS: Final = (2, 5, 6, 7, 8, 9)
_STATE: Final = 3
_WIDE: Final = 10_000
"""Columns that no row takes."""
_COUNTS: Final = (
    ("files", "Files"),
    ("directories", "Directories"),
    ("bytes", "Bytes"),
    ("chunks", "Chunks"),
    ("under_replicated", "Under-replicated chunks"),
    ("lost", "Chunks with no whole copy"),
    ("garbage", "Chunks to be deleted"),
    ("sessions", "Clients"),
)
_BAD_IF_ANY: Final = ("under_replicated", "lost")
_WARNING: Final = "WARNING: "
_DISK_LOW: Final = 4
"""Times `reserve_bytes`: with less than that free the NameNode's disk is one to look at."""

# --- local daemons --------------------------------------------------------------------------------------


def local_pids(config: str | None, namenode: str) -> dict[str, int]:
    """Process ids of the local daemons of the cluster whose NameNode is at `namenode`, by name; often none."""
    path = client_config_path(config)
    for directory in {path.parent if path else local_cluster_dir(), local_cluster_dir()}:
        daemons = Layout(directory).read_cluster().get("daemons", {})
        if daemons.get("namenode", {}).get("address", namenode) == namenode:
            pids = {name: daemon.get("pid") for name, daemon in daemons.items()}
            found = {name: pid for name, pid in pids.items() if isinstance(pid, int) and Path(f"/proc/{pid}").exists()}
            if found:
                return found
    return {}


# --- status ---------------------------------------------------------------------------------------------


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One object; sizes in bytes, times in nanoseconds.")
@click.option("--check", is_flag=True, help="End with 1 if there is a warning, or a chunk has too few copies.")
@config_option
def status(as_json: bool, check: bool) -> int:
    """Show the NameNode, the DataNodes, and how well the data is replicated."""
    config = chosen().config

    async def body(fs: FileSystem) -> int:
        found = await fs.status()
        found.setdefault("address", fs.session.address)
        found["nodes"] = [codec.node_view(wire) for wire in found.get("nodes") or ()]
        pids = local_pids(config, fs.session.address)
        if as_json:
            show.echo_json(status_record(found, pids))
        else:
            _print_status(found, pids)
        return int(check and is_to_be_seen_to(found, now_ns(found)))

    return run(body)


def status_record(found: Mapping[str, Any], pids: Mapping[str, int]) -> dict[str, Any]:
    """The status as JSON has it: nodes as objects, with `pid` where they run here, and all local `pids`."""
    nodes = [{**view._asdict(), "state": str(view.state), "pid": pids.get(view.node)} for view in found["nodes"]]
    return {
        **found,
        "nodes": nodes,
        "pid": pids.get("namenode", found.get("pid")),
        "pids": sorted(pids.values()),
        "warnings": [line.removeprefix(_WARNING) for line in warning_lines(found, now_ns(found))],
    }


def is_to_be_seen_to(found: Mapping[str, Any], at_ns: int) -> bool:
    """Whether anything is not as it should be: there is a warning, or a chunk has too few copies, or none."""
    return bool(warning_lines(found, at_ns)) or any(found.get(key) for key in _BAD_IF_ANY)


def _print_status(found: Mapping[str, Any], pids: Mapping[str, int]) -> None:
    for line in namenode_lines(found, pids):
        show.echo(line)
    show.echo("")
    at_ns = now_ns(found)
    rows = [node_row(view, pids, at_ns) for view in found["nodes"]]
    if not rows:
        show.echo("No DataNode has ever registered: start one with `dfs datanode --config FILE`.")
    elif sys.stdout.isatty():
        draw_nodes(rows)
    else:
        for line in show.table([list(_HEADINGS), *rows], right=_NUMBERS):
            show.echo(line)
    show.echo("")
    for line in [*count_lines(found), *progress_lines(found)]:
        show.echo(line)
    warnings = warning_lines(found, at_ns)
    for line in ["", *warnings] if warnings else []:
        show.echo(line)


def now_ns(found: Mapping[str, Any]) -> int:
    """The time by the NameNode's clock, as are those of heartbeats; by ours, where it does not say."""
    return int(found.get("now_ns") or time.time_ns())


def namenode_lines(found: Mapping[str, Any], pids: Mapping[str, int]) -> list[str]:
    """Who the NameNode is, a line for each thing known."""
    pid = pids.get("namenode", found.get("pid"))
    facts = [
        ("NameNode", f"{found.get('address', '?')}" + (f", pid {pid}" if pid else "")),
        ("Version", found.get("version")),
        ("Cluster", found.get("cluster")),
        ("Copies", _copies(found)),
        ("Commands", _commands(found.get("writer") or {})),
        ("Leases", _leases(found.get("leases") or {})),
        ("Disk", _disk(found.get("disk") or {})),
        ("Backup", _backup(found)),
    ]
    return [f"{label + ':':10}{value}" for label, value in facts if value]


def _copies(found: Mapping[str, Any]) -> str:
    if "replicas" not in found:
        return ""
    least = f", at least {found['min_replicas']} to count as written" if "min_replicas" in found else ""
    return f"{found['replicas']}{least}"


def _commands(writer: Mapping[str, int]) -> str:
    if not writer:
        return ""
    waiting = writer["queued"] + writer["held_back"]
    return f"{writer['commands_per_s']:,} a second, {writer['commands']:,} since its start" + (
        f", {waiting:,} waiting" if waiting else ""
    )


def _leases(leases: Mapping[str, int]) -> str:
    if not leases:
        return ""
    mounts, files, recalls = leases["caching_sessions"], leases["owned"], leases["recalls"]
    return (
        f"{leases['leases']:,} of {show.counted(mounts, 'mount')}, {files:,} {show.noun(files, 'file')} owned;"
        f" {recalls:,} {show.noun(recalls, 'recall')} since its start"
    )


def _disk(disk: Mapping[str, Any]) -> str:
    if not disk:
        return ""
    return f"{show.human(disk['free_bytes'])} free where {show.printable(disk['directory'])} is"


def _backup(found: Mapping[str, Any]) -> str:
    """When the namespace was copied last; an older NameNode does not say."""
    if "backup_ns" not in found:
        return ""
    made_ns = found["backup_ns"]
    return f"{show.age((now_ns(found) - made_ns) / 10**9)} ago" if made_ns else "none yet: `dfs backup` makes one"


def warning_lines(found: Mapping[str, Any], at_ns: int) -> list[str]:
    """What an operator has to look at before he does anything else."""
    views = found.get("nodes") or ()
    lines = [*_too_few_lines(views, found.get("min_replicas", 0), at_ns), *_dead_lines(views, at_ns)]
    disk = found.get("disk") or {}
    if disk and disk["free_bytes"] < _DISK_LOW * max(disk["reserve_bytes"], 1):
        least = show.human(disk["reserve_bytes"])
        lines.append(
            f"WARNING: the NameNode's disk is nearly full: only what frees space is accepted, till {least} are free"
            if disk["is_full"]
            else f"WARNING: the NameNode's disk fills up: below {least} free changes are refused"
        )
    never_given = _sorted(found, "never_given")
    if never_given:
        nodes = ", ".join(f"{show.printable(node)} {count}" for node, count in never_given)
        lines.append(
            f"WARNING: DataNodes have chunks that this NameNode never gave ({nodes}): its state_dir is an old copy, or"
            " new and empty. Nothing of them is deleted. Bring back the newest state_dir before anybody goes on; if"
            " there is none, `dfs fsck --repair` makes files of them in /lost+found"
        )
    for node, held in _sorted(found, "held"):
        lines.append(
            f"WARNING: {show.printable(node)} holds back {show.counted(held['orders'], 'deletion')}:"
            f" {show.printable(held['reason'])} (decide with `dfs deletions {show.printable(node)} --allow|--discard`)"
        )
    return lines


def _too_few_lines(views: Sequence[NodeView], least: int, at_ns: int) -> list[str]:
    """That fewer DataNodes than must have new data take any, and what has become of the others; or which are full."""
    able = candidates(views, (), limits.CHUNK_MAX_BYTES)
    taking = len(able)
    if taking >= least:
        full = [view.node for view in views if takes_orders(view) and view not in able]
        if not full:
            return []
        are, take = ("is", "takes") if len(full) == 1 else ("are", "take")
        nodes = show.printable(", ".join(full))
        return [f"WARNING: {nodes} {are} full, and {take} no new data: delete files, or add DataNodes"]
    take, are = "takes" if taking == 1 else "take", "is" if least == 1 else "are"
    away = ", ".join(f"{view.node} {_absence(view, at_ns)}" for view in views if view not in able)
    return [
        f"WARNING: {show.counted(taking, 'DataNode')} {take} new data, {least} {are} needed: nothing can be written"
        f" ({show.printable(away) or 'start more DataNodes'})"
    ]


def _dead_lines(views: Sequence[NodeView], at_ns: int) -> list[str]:
    return [
        f"{_WARNING}{show.printable(view.node)} is dead, it {_absence(view, at_ns)}: start it again, or forget it with"
        f" `dfs remove {show.printable(view.node)}`"
        for view in views
        if view.state == NodeState.DEAD
    ]


def _absence(view: NodeView, at_ns: int) -> str:
    """Why a node takes no new data."""
    if view.state == NodeState.UP:
        return "is being emptied" if view.draining else "is full: delete files, or add DataNodes"
    if not view.last_heartbeat_ns:
        return "has not been heard yet"
    silent_s = (at_ns - view.last_heartbeat_ns) / 10**9
    if not view.capacity_bytes and silent_s < limits.NODE_SUSPECT_AFTER_S:
        return "has no directory in service: its log says why"
    return f"has been silent for {show.age(silent_s)}"


def seen(view: NodeView, at_ns: int) -> str:
    """How long ago the NameNode heard a node."""
    return show.age((at_ns - view.last_heartbeat_ns) / 10**9) + " ago" if view.last_heartbeat_ns else "never"


def node_row(view: NodeView, pids: Mapping[str, int], at_ns: int) -> list[str]:
    """The cells of a DataNode's row, as `_HEADINGS` has them."""
    cells = [view.node, view.address, str(pids.get(view.node, "-")), str(view.state), view.rack or "-"]
    cells += [*space_cells(view), str(view.chunks), str(view.load), seen(view, at_ns)]
    return [show.printable(cell) for cell in cells]


def space_cells(view: NodeView) -> list[str]:
    """What a node's chunks take, what is free for more, and the share that is taken of both."""
    used, free = view.used_bytes, view.free_bytes
    return [show.human(used), show.human(free), show.share(used, used + free)]


def draw_nodes(rows: list[list[str]]) -> None:
    """The table for a terminal, as wide as it needs to be: where that is wider than the terminal, this breaks lines."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    for at, heading in enumerate(_HEADINGS):
        table.add_column(heading, justify="right" if at in _NUMBERS else "left")
    for row in rows:
        cells = [Text(cell) for cell in row]
        cells[_STATE].stylize(_STATE_COLOURS.get(row[_STATE], ""))
        table.add_row(*cells)
    Console(width=_WIDE).print(table)


def count_lines(found: Mapping[str, Any]) -> list[str]:
    """What there is, and what is wrong with it."""
    bad = [key for key in _BAD_IF_ANY if found.get(key)]
    rows = []
    for key, label in _COUNTS:
        if key in found:
            rows.append([f"{label}:", str(found[key])])
        if key in bad[-1:]:
            rows.append(["", "(run `dfs fsck` to see which)"])
    return show.table(rows)


def progress_lines(found: Mapping[str, Any]) -> list[str]:
    """What is being copied and moved, how fast, how long it takes still."""
    lines = []
    repair = found.get("repair") or {}
    if repair.get("copies"):
        lines.append(f"Repair: {repair_words(repair)}")
    if repair.get("surplus"):
        lines.append(f"Surplus: {show.counted(repair['surplus'], 'copy', 'copies')} to be dropped")
    deletions = sum(busy.get("deletions", 0) for busy in (found.get("busy") or {}).values())
    if deletions and "garbage_grace_s" in found:
        lines.append(
            f"Deletions: {show.counted(deletions, 'copy of a chunk', 'copies of chunks')};"
            f" what is deleted comes free after {show.age(found['garbage_grace_s'])}"
        )
    lines += [f"Drain of {show.printable(node)}: {drain_words(drain)}" for node, drain in _sorted(found, "drains")]
    if (found.get("balance") or {}).get("moving") or (found.get("balance") or {}).get("asked"):
        lines.append(f"Balance: under way, {show.counted(found['balance']['moving'], 'copy', 'copies')} being moved")
    return ["", *lines] if lines else []


def _sorted(found: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    return sorted((found.get(key) or {}).items())


def repair_words(repair: Mapping[str, Any]) -> str:
    """How far repair is, in words."""
    words = f"{show.counted(repair['copies'], 'copy', 'copies')} ({show.human(repair['bytes'])}) to be made"
    if repair.get("bytes_per_s"):
        words += f", {show.human(repair['bytes_per_s'])}/s of late"
    if repair.get("left_s") is not None:
        words += f", {show.age(repair['left_s'])} left"
    if repair.get("blocked"):
        words += f"; {repair['blocked']} of them have no DataNode to go to: start more, or free space"
    if repair.get("held_up"):
        words += f"; {repair['held_up']} of them wait for deletions that are held back"
    return words


def drain_words(drain: Mapping[str, Any]) -> str:
    """How far the drain of a node is, in words."""
    if drain["drained"]:
        return "done, it may be stopped and removed"
    if drain["chunks"] < 0:
        return "begun"
    if drain.get("dead"):
        if not drain["chunks"]:
            return "it is dead, and what it held has its copies elsewhere: it may be removed"
        return f"it is dead, and copies elsewhere are missing of {show.counted(drain['chunks'], 'chunk')}"
    return f"{show.counted(drain['chunks'], 'chunk')} ({show.human(drain['bytes'])}) left"
