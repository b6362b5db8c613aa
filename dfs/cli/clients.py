"""`clients`: who is connected to the cluster, and what others may wait for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from dfs.cli import show
from dfs.cli.context import config_option, run

if TYPE_CHECKING:
    from dfs.client import FileSystem

_HEADINGS: Final = ("Client", "Host", "Key", "Since", "Seen", "Leases", "Owned", "Chunks", "Asked to forget")
_NUMBERS: Final = (5, 6, 7)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="An array of objects; times in seconds.")
@config_option
def clients(as_json: bool) -> int:
    """List who is connected: mounts, programs, and commands that change something, the oldest first.

    Of each: its host, whose key it uses, since when it is connected, when it was heard last, how many inodes and names
    it was given to keep (leases), how many of them it may change by itself (owned), and how many chunks it has open for
    writing. Others who want to change what it keeps ask it to forget that first, and wait: for how long by now is in
    the last column. Who does not answer within `session_timeout_s` is taken for dead.
    """

    async def body(fs: FileSystem) -> None:
        if as_json:
            with show.JsonArray() as array:
                async for client in fs.clients():
                    array.add(client)
            return
        rows = [row(client) async for client in fs.clients()]
        for line in show.table([list(_HEADINGS), *rows], right=_NUMBERS):
            show.echo(line)

    return run(body)


def row(client: Mapping[str, Any]) -> list[str]:
    """The cells of a client's row, as `_HEADINGS` has them."""
    subtree, silent_s = client["subtree"], client["silent_s"]
    cells = [client["name"], client["host"], client["key"] + (f" in {subtree}" if subtree else "")]
    cells += [show.age(client["open_s"]), "ending" if silent_s is None else f"{show.age(silent_s)} ago"]
    cells += [f"{client[key]:,}" if client["caches"] else "-" for key in ("leases", "owned")]
    cells += [f"{client['chunks']:,}", f"for {show.age(client['asked_s'])}" if client["asked"] else "-"]
    return [show.printable(cell) for cell in cells]
