"""`scrub`: how far the DataNodes are in verifying their disks, and a pass at once."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any, Final

import click
import trio

from dfs import errors, tasks
from dfs.cli import show
from dfs.cli.arguments import NODE
from dfs.cli.context import Report, config_option, run
from dfs.cli.meter import Meter, open_meter
from dfs.cli.nodes import known_node
from dfs.types import NodeId, NodeState

if TYPE_CHECKING:
    from dfs.client import FileSystem

_HEADINGS: Final = ("DataNode", "State", "Chunks", "Read", "Of", "Done", "Damaged", "Last finished")
_NUMBERS: Final = (2, 3, 4, 5, 6)
_POLL_PERIOD_S: Final = 0.2


@dataclasses.dataclass(frozen=True)
class _Answer:
    """What one DataNode said, or why it did not."""

    node: NodeId
    status: dict[str, Any] | None
    error: str = ""
    is_refused: bool = False
    """It answered, and our key does not let us know."""

    @property
    def is_running(self) -> bool:
        return self.status is not None and bool(self.status["running"])

    def record(self) -> dict[str, Any]:
        return {"node": self.node, **(self.status or {"error": self.error})}


@click.command()
@click.argument("node", required=False, type=NODE)
@click.option("--now", is_flag=True, help="Begin a pass over everything at once.")
@click.option("--wait", is_flag=True, help="Wait for passes that were asked for, and say what they found.")
@click.option("--json", "as_json", is_flag=True, help="An array of objects; sizes in bytes, times in nanoseconds.")
@config_option
def scrub(node: str | None, now: bool, wait: bool, as_json: bool) -> int:
    """Show how far DataNodes are in verifying their disks (all, or NODE), or have them begin.

    They do so all the time, once in `scrub_period_s`. Damaged copies are replaced by themselves. With --wait it shows
    the passes that have finished, and ends with 1 if damage was found. So it does where a directory is out of service,
    which is not verified.
    """

    async def body(fs: FileSystem) -> int:
        nodes = await _chosen(fs, node)
        if now:
            await _begin(fs, nodes)
        answers = await _wait(fs, nodes, quiet=as_json) if wait else await _ask(fs, nodes)
        return _tell(answers, wait, as_json)

    return run(body)


async def _chosen(fs: FileSystem, node: str | None) -> list[NodeId]:
    """The node asked for, or all that are not dead. Raises NotFound."""
    if node is None:
        return [view.node for view in await fs.nodes() if view.state != NodeState.DEAD]
    return [await known_node(fs, node)]


async def _begin(fs: FileSystem, nodes: list[NodeId]) -> None:
    """Raises the error of a node that does not answer: it does not scrub."""
    async with tasks.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(fs.nodes_known.call, node, "scrub_now")


async def _ask(fs: FileSystem, nodes: list[NodeId]) -> list[_Answer]:
    answers: dict[NodeId, _Answer] = {}

    async def ask(node: NodeId) -> None:
        try:
            status, _ = await fs.nodes_known.call(node, "scrub_status")
            answers[node] = _Answer(node, status)
        except errors.NotPermitted as error:
            answers[node] = _Answer(node, None, error.message, is_refused=True)
        except errors.DfsError as error:
            answers[node] = _Answer(node, None, error.message)

    async with tasks.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(ask, node)
    return [answers[node] for node in nodes]


async def _wait(fs: FileSystem, nodes: list[NodeId], quiet: bool) -> list[_Answer]:
    async with open_meter("scrub", quiet=quiet) as meter:
        while True:
            answers = await _ask(fs, nodes)
            if not any(answer.is_running for answer in answers):
                meter.moved_bytes = meter.total_bytes or 0  # nodes are in their next passes
                return answers
            _note(meter, answers)
            await trio.sleep(_POLL_PERIOD_S)


def _note(meter: Meter, answers: list[_Answer]) -> None:
    known = [answer.status for answer in answers if answer.status is not None]
    meter.moved_bytes = sum(status["bytes_done"] for status in known)
    meter.total_bytes = sum(status["bytes_total"] for status in known)


def _tell(answers: list[_Answer], wait: bool, as_json: bool) -> int:
    """Print it; the exit status."""
    report = Report()
    if as_json:
        show.echo_json([answer.record() for answer in answers])
    else:
        _print_table(answers, wait)
    for answer in answers:
        if answer.status is None and not answer.is_refused:
            report.fail(f"{answer.node}: {answer.error}")
        for failed in (answer.status or {}).get("failed", ()):  # older DataNodes do not say it
            report.fail(f"{answer.node}: {failed}")
    for refusal in sorted({answer.error for answer in answers if answer.is_refused}):
        report.fail(f"{refusal}: use an admin's")
    damaged = any(answer.status["found"] for answer in answers if answer.status is not None)
    return 1 if wait and damaged else report.status


def _print_table(answers: list[_Answer], wait: bool) -> None:
    rows = [_row(answer, wait, time.time_ns()) for answer in answers]
    for line in show.table([list(_HEADINGS), *rows], right=_NUMBERS):
        show.echo(line)
    for answer in answers:
        for finding in (answer.status or {}).get("findings", ()):
            show.echo(show.printable(f"{answer.node}: {finding}"))


def _row(answer: _Answer, wait: bool, now_ns: int) -> list[str]:
    """The cells of a node's row: of the pass that is under way or, for who has waited, of the last whole one."""
    status = answer.status
    if status is None:
        return [answer.node, "not allowed" if answer.is_refused else "no answer", *["-"] * 6]
    finished = status["last_finished_ns"]
    state = "at once" if status["running"] else "at rest"
    chunks, done, total, found = (status[key] for key in ("chunks_done", "bytes_done", "bytes_total", "found"))
    if wait and finished and "last_bytes" in status:  # older DataNodes do not say it
        state, chunks, done, found = "finished", status["last_chunks"], status["last_bytes"], status["last_found"]
        total = done
    return [
        answer.node,
        state,
        str(chunks),
        show.human(done),
        show.human(total),
        show.share(done, total),
        str(found),
        show.age(max(0, now_ns - finished) / 10**9) + " ago" if finished else "never",
    ]
