"""`nodes`, `drain`, `undrain`, `remove`, `balance` and `deletions`: what an operator does with DataNodes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from dfs import codec, errors, limits
from dfs.cli import show
from dfs.cli.arguments import NODE, ArgumentType
from dfs.cli.cluster import drain_words, now_ns, repair_words, seen, space_cells
from dfs.cli.context import complain, config_option, run
from dfs.types import NodeId, NodeState, NodeView

if TYPE_CHECKING:
    from dfs.client import FileSystem

Status = Mapping[str, Any]

_HEADINGS: Final = ("DataNode", "State", "Address", "Rack", "Used", "Free", "Use%", "Chunks", "Seen", "Doing")
_NUMBERS: Final = (4, 5, 6, 7)

_node = click.argument("node", metavar="NODE", type=NODE)
_json = click.option("--json", "as_json", is_flag=True, help="JSON; sizes in bytes, times in nanoseconds.")
_wait = click.option("--wait", is_flag=True, help="Return when it is done; shows how far it is.")


# --- nodes ----------------------------------------------------------------------------------------------


@click.command()
@_json
@config_option
def nodes(as_json: bool) -> int:
    """List the DataNodes: state, address, rack, space, chunks, last heartbeat, and what they are busy with.

    A node is up, suspect (silent for a while: gets no new data), dead (its copies are made again elsewhere), draining
    (being emptied) or drained (empty, may be removed).
    """

    async def body(fs: FileSystem) -> None:
        views, found = await _views(fs)
        if as_json:
            show.echo_json([record(view, found) for view in views])
        elif views:
            _print_nodes(views, found)
        else:
            show.echo("No DataNode has ever registered: start one with `dfs datanode --config FILE`.")

    return run(body)


async def _views(fs: FileSystem) -> tuple[list[NodeView], Status]:
    """The nodes, and what the NameNode's status says of them: nothing to a key that is limited to a subtree."""
    try:
        found = await fs.status()
    except errors.NotPermitted:
        return await fs.nodes(), {}
    return [codec.node_view(wire) for wire in found["nodes"]], found


async def known_node(fs: FileSystem, node: str) -> NodeId:
    """The DataNode of that name. Raises `NotFound`."""
    if node not in {view.node for view in await fs.nodes()}:
        raise errors.NotFound(f"there is no DataNode {node}: `dfs nodes` lists them")
    return NodeId(node)


def state_of(view: NodeView, found: Status) -> str:
    """up, suspect, dead, draining or drained: a node that is emptied is so first, unless it is silent."""
    if view.state != NodeState.UP or not view.draining:
        return "drained" if _is_drained(view, found) else str(view.state)
    return "drained" if _is_drained(view, found) else "draining"


def _is_drained(view: NodeView, found: Status) -> bool:
    return bool(found.get("drains", {}).get(view.node, {}).get("drained"))


def record(view: NodeView, found: Status) -> dict[str, Any]:
    """A node as a JSON object."""
    return {
        **view._asdict(),
        "state": state_of(view, found),
        "fill": round(_share(view), 4),
        "busy": found.get("busy", {}).get(view.node, {}),
        "drain": found.get("drains", {}).get(view.node),
        "held": found.get("held", {}).get(view.node),
    }


def _share(view: NodeView) -> float:
    total = view.used_bytes + view.free_bytes
    return view.used_bytes / total if total else 0.0


def _print_nodes(views: list[NodeView], found: Status) -> None:
    held = found.get("held", {})
    rows = [row(view, found, now_ns(found)) for view in views]
    headings = list(_HEADINGS)
    if held:  # rare, and then not to be overlooked
        headings.append("Held deletions")
        for view, cells in zip(views, rows, strict=True):
            cells.append(str(held[view.node]["orders"]) if view.node in held else "-")
    for line in show.table([headings, *rows], right=_NUMBERS):
        show.echo(line)
    for node, why in sorted(held.items()):
        show.echo(f"{show.printable(node)}: {show.printable(why['reason'])}")


def row(view: NodeView, found: Status, at_ns: int) -> list[str]:
    """The cells of a node's row, as `_HEADINGS` has them."""
    cells = [view.node, state_of(view, found), view.address, view.rack or "-"]
    cells += [*space_cells(view), str(view.chunks), seen(view, at_ns)]
    cells.append(doing(view, found))
    return [show.printable(cell) for cell in cells]


def doing(view: NodeView, found: Status) -> str:
    """What a node is busy with, in words."""
    busy = found.get("busy", {}).get(view.node, {})
    words = []
    if view.load:
        words.append(show.counted(view.load, "request"))
    if busy.get("copies"):
        words.append(f"makes {show.counted(busy['copies'], 'copy', 'copies')}")
    if busy.get("sending_bytes"):
        words.append(f"sends {show.human(busy['sending_bytes'])}")
    if busy.get("deletions"):
        words.append(f"{show.counted(busy['deletions'], 'deletion')} due")
    if view.draining and not _is_drained(view, found):
        words.append("drain: " + drain_words(found.get("drains", {}).get(view.node, _BEGUN)))
    return ", ".join(words) or "-"


_BEGUN: Final = {"drained": False, "chunks": -1, "bytes": -1}

# --- waiting --------------------------------------------------------------------------------------------


async def wait_for(fs: FileSystem, done: Callable[[Status], bool], words: Callable[[Status], str]) -> Status:
    """Look every `limits.PROGRESS_WAIT_S` until `done`, and return what was seen then.

    What `words` say is shown on stderr when it changes.
    """
    import trio

    on_terminal, last = sys.stderr.isatty(), ""
    while not done(found := await fs.status()):
        if (line := words(found)) != last:
            last = line
            sys.stderr.write(f"\r\x1b[K{show.printable(line)}" if on_terminal else f"{show.printable(line)}\n")
            sys.stderr.flush()
        await trio.sleep(limits.PROGRESS_WAIT_S)
    if last and on_terminal:
        sys.stderr.write("\r\x1b[K")
    return found


def _at_least(plan: Mapping[str, Any]) -> str:
    limit = plan["bytes_per_s"]
    if not limit:
        return "no limit of bandwidth is set"
    return f"at least {show.age(plan['at_least_s'])} at {show.human(limit)}/s for each DataNode"


# --- drain ----------------------------------------------------------------------------------------------


@click.command()
@_node
@click.option("--plan", "only_plan", is_flag=True, help="Only say what would move where, and what is at risk.")
@_wait
@config_option
def drain(node: str, only_plan: bool, wait: bool) -> int:
    """Empty DataNode NODE: it gets no new data, and each of its copies is made elsewhere before it is dropped.

    It goes on serving meanwhile. When it is drained, `dfs remove NODE` forgets it. `dfs undrain NODE` takes it back.
    """

    async def body(fs: FileSystem) -> None:
        if only_plan:
            for line in drain_plan_lines(await fs.plan_drain(node)):
                show.echo(line)
            return
        await fs.drain(node)
        for line in drain_risk_lines(await fs.plan_drain(node)):
            show.echo(line)
        if not wait:
            show.echo(f"{show.printable(node)} is being emptied: `dfs status` shows how far it is")
            return
        sys.stdout.flush()
        found = await wait_for(fs, lambda found: _is_emptied(found, node), lambda found: _drain_line(found, node))
        is_drained = _drain_of(found, node)["drained"]
        how = "drained" if is_drained else "dead, and what it held has its copies elsewhere"
        show.echo(f"{show.printable(node)} is {how}: `dfs remove {show.printable(node)}` forgets it")

    return run(body)


def _drain_of(found: Status, node: str) -> Mapping[str, Any]:
    drains = found.get("drains", {})
    if node not in drains:
        raise errors.NotFound(f"DataNode {node} is not being emptied any more")
    progress: Mapping[str, Any] = drains[node]
    return progress


def _is_emptied(found: Status, node: str) -> bool:
    """Whether the node holds nothing any more that others do not have; a dead one drops nothing."""
    drain = _drain_of(found, node)
    return bool(drain["drained"] or (drain.get("dead") and not drain["chunks"]))


def _drain_line(found: Status, node: str) -> str:
    repair = found.get("repair") or {}
    line = f"{node}: {drain_words(_drain_of(found, node))}"
    return f"{line}; {repair_words(repair)}" if repair.get("copies") else line


def drain_plan_lines(plan: Mapping[str, Any]) -> list[str]:
    """A drain's plan, for a person."""
    held = f"{show.counted(plan['chunks'], 'chunk')} ({show.human(plan['bytes'])})"
    lines = [f"{show.printable(plan['node'])} holds {held}"]
    if plan["already_elsewhere"]:
        lines.append(f"{plan['already_elsewhere']} of them have enough copies elsewhere, and need no move")
    if plan["targets"]:
        lines += ["", *_target_lines(plan["targets"]), "", f"Time: {_at_least(plan)}"]
    return lines + drain_risk_lines(plan)


def drain_risk_lines(plan: Mapping[str, Any]) -> list[str]:
    """What of a drain does not go by itself, or not without risk."""
    risks = [
        (plan["only_copies"], "their only live copy there: stop the node before it is drained, and they are lost"),
        (plan["too_few_nodes"], "no DataNode to go to: the drain ends when more DataNodes are started"),
        (plan["no_space"], "no space on the other DataNodes: the drain ends when there is"),
    ]
    return [f"WARNING: {show.counted(count, 'chunk')} with {why}" for count, why in risks if count]


def _target_lines(targets: Mapping[str, Mapping[str, int]]) -> list[str]:
    rows = [
        [show.printable(node), str(moved["chunks"]), show.human(moved["bytes"])]
        for node, moved in sorted(targets.items())
    ]
    return show.table([["To", "Chunks", "Bytes"], *rows], right=(1, 2))


@click.command()
@_node
@config_option
def undrain(node: str) -> int:
    """Use DataNode NODE again: it gets new data, and the copies that it has count."""

    async def body(fs: FileSystem) -> None:
        await fs.undrain(node)

    return run(body)


@click.command()
@_node
@config_option
def remove(node: str) -> int:
    """Forget DataNode NODE, which is dead or drained, or none of whose disks works any more.

    Refused while it holds the only copy of anything. Its directories are not taken back with what is in them: to use
    the machine again, start it with empty ones. Its key counts still.
    """

    async def body(fs: FileSystem) -> None:
        await fs.remove_node(node)
        name = show.printable(node)
        show.echo(f"{name} is removed: stop its DataNode, if it still runs")
        show.echo(f"If others may have its key file: `dfs key revoke {name} --role node`, which says what else to do")

    return run(body)


# --- balance --------------------------------------------------------------------------------------------


class ShareType(ArgumentType):
    """A percentage: `5%`, `5` or `0.5%`."""

    name = "percent"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if not isinstance(value, str):
            return value
        try:
            share = float(value.removesuffix("%")) / 100
        except ValueError:
            share = 0.0
        if not 0 < share < 1:
            self.fail(f"not a percentage between 0 and 100: {value!r}; write 5%", param, ctx)
        return share


@click.command()
@click.option("--plan", "only_plan", is_flag=True, help="Only say how full they are, and what would move.")
@click.option("--threshold", type=ShareType(), help="How far from the cluster's level a node may be: 5%.")
@_wait
@config_option
def balance(only_plan: bool, threshold: float | None, wait: bool) -> int:
    """Move chunks from full DataNodes to empty ones, until none is further from the cluster's level than --threshold.

    The cluster does so by itself, quietly, unless `balance = false` is in the NameNode's configuration: this does it
    now, as fast as `copy_bandwidth` allows.
    """

    async def body(fs: FileSystem) -> None:
        plan = await fs.plan_balance(threshold)
        if only_plan:
            for line in balance_plan_lines(plan):
                show.echo(line)
            return
        await fs.balance(threshold)
        if not wait:
            show.echo("the cluster is being balanced: `dfs status` shows it")
            return
        await wait_for(fs, lambda found: not found["balance"]["asked"], _balance_line)
        await _say_how_even(fs, threshold)

    return run(body)


async def _say_how_even(fs: FileSystem, threshold: float | None) -> None:
    plan = await fs.plan_balance(threshold)
    if plan["even"]:
        show.echo(f"balanced: no DataNode is more than {_percent(plan['threshold'])} from the cluster's level")
    else:
        complain("the DataNodes are as even as their chunks, copies and racks allow, and not as asked for")


def _balance_line(found: Status) -> str:
    return f"balance: {show.counted(found['balance']['moving'], 'copy', 'copies')} under way"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def balance_plan_lines(plan: Mapping[str, Any]) -> list[str]:
    """A balance's plan, for a person."""
    rows = [
        [show.printable(node), _percent(each["level"]), _moved_words(each["gives_bytes"])]
        for node, each in sorted(plan["nodes"].items())
    ]
    lines = [f"The cluster is {_percent(plan['level'])} full", ""]
    lines += show.table([["DataNode", "Full", "To move"], *rows], right=(1,))
    if plan["even"]:
        return [*lines, "", f"Nothing to do: none is more than {_percent(plan['threshold'])} away from that"]
    return [*lines, "", f"{show.human(plan['bytes'])} to move, at most; {_at_least(plan)}"]


def _moved_words(length: int) -> str:
    return f"gives {show.human(length)}" if length > 0 else f"takes {show.human(-length)}" if length else "-"


# --- deletions ------------------------------------------------------------------------------------------


@click.command()
@_node
@click.option("--allow/--discard", "allow", default=None, help="Carry them out, or pass them over.")
@config_option
def deletions(node: str, allow: bool | None) -> int:
    """Decide on deletions that DataNode NODE holds back, since they looked like a mistake; `dfs nodes` says why.

    --allow has them carried out, --discard passes them over.
    """
    if allow is None:
        raise click.UsageError("say --allow or --discard: `dfs nodes` shows what is held back, and why")

    async def body(fs: FileSystem) -> None:
        held = await fs.decide_held(await known_node(fs, node), allow)
        name, deletions = show.printable(node), show.counted(held, "deletion")
        if not held:
            show.echo(f"{name} held no deletions back")
        else:
            show.echo(f"{name} carries out {deletions}" if allow else f"{name} passes {deletions} over")

    return run(body)
