"""Completion of paths in the cluster: what a shell offers when Tab is pressed. Never says what went wrong."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from dfs import limits
from dfs.cli.context import Chosen
from dfs.config import ClientConfig, find_client_config

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem

    from dfs.types import DirEntry


def remote_paths(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """What `incomplete` may become: directories end in a slash. Empty on any error or after a second."""
    import trio
    from click.shell_completion import CompletionItem

    directory, _, beginning = os.fsencode(incomplete).rpartition(b"/")
    options = ctx.find_object(Chosen) or Chosen()
    try:
        config = find_client_config(options.config)
        entries = trio.run(_matching, config, directory + b"/", beginning)
    except OSError:
        return []
    ends = {entry.name: "/" if stat.S_ISDIR(entry.attr.mode) else "" for entry in entries}
    return [CompletionItem(os.fsdecode(directory + b"/" + name) + end) for name, end in sorted(ends.items())]


async def _matching(config: ClientConfig, directory: bytes, beginning: bytes) -> list[DirEntry]:
    import trio

    from dfs.client import open_filesystem
    from dfs.keys import load_key
    from dfs.telemetry import configure_logs

    configure_logs("error")
    found: list[DirEntry] = []
    with trio.move_on_after(limits.COMPLETION_TIMEOUT_S):
        async with open_filesystem(config.namenode, load_key(config.key), wait_s=limits.COMPLETION_TIMEOUT_S) as fs:
            async for entry in fs.scandir(directory):
                if entry.name.startswith(beginning):
                    found.append(entry)
                if len(found) >= limits.COMPLETIONS_MAX:
                    break
    return found
