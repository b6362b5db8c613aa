"""Completion of paths in the cluster and names of DataNodes: what a shell offers when Tab is pressed.

Never says what went wrong.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from dfs import limits
from dfs.cli.context import Chosen
from dfs.config import ClientConfig, find_client_config

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem

    from dfs.client import FileSystem
    from dfs.types import DirEntry, NodeView

T = TypeVar("T")


def remote_paths(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """What `incomplete` may become: directories end in a slash. Names that no shell could be told are left out."""
    from click.shell_completion import CompletionItem

    directory, _, beginning = os.fsencode(incomplete).rpartition(b"/")
    entries = _found(ctx, functools.partial(_matching, directory + b"/", beginning))
    ends = {entry.name: "/" if stat.S_ISDIR(entry.attr.mode) else "" for entry in entries}
    words = [os.fsdecode(directory + b"/" + name) + end for name, end in sorted(ends.items())]
    return [CompletionItem(word) for word in words if word.isprintable()]


def nodes(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """The DataNodes whose names begin so."""
    from click.shell_completion import CompletionItem

    names = sorted(view.node for view in _found(ctx, _nodes))
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _found(ctx: click.Context, look: Callable[[FileSystem, list[T]], Awaitable[None]]) -> list[T]:
    """What `look` finds in the chosen cluster, within a second. Empty on any error."""
    import trio

    options = ctx.find_object(Chosen) or Chosen()
    try:
        return trio.run(_ask, find_client_config(options.config), look)
    except OSError:
        return []


async def _ask(config: ClientConfig, look: Callable[[FileSystem, list[T]], Awaitable[None]]) -> list[T]:
    import trio

    from dfs.client import open_filesystem
    from dfs.keys import load_key
    from dfs.telemetry import configure_logs

    configure_logs("error")
    found: list[T] = []
    with trio.move_on_after(limits.COMPLETION_TIMEOUT_S):
        async with open_filesystem(config.namenode, load_key(config.key), wait_s=limits.COMPLETION_TIMEOUT_S) as fs:
            await look(fs, found)
    return found


async def _nodes(fs: FileSystem, found: list[NodeView]) -> None:
    found += await fs.nodes()


async def _matching(directory: bytes, beginning: bytes, fs: FileSystem, found: list[DirEntry]) -> None:
    async for entry in fs.scandir(directory):
        if entry.name.startswith(beginning):
            found.append(entry)
        if len(found) >= limits.COMPLETIONS_MAX:
            break
