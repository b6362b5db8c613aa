"""Arguments that are paths, completed by the shell from the cluster or this machine.

What is copied and shown is bytes, whatever the locale.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from dfs import errors, limits

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Callable[..., Any])


class ArgumentType(click.ParamType):  # type: ignore[type-arg] # newer versions of click only have it generic
    """Base of our arguments' types."""


class RemotePath(ArgumentType):
    """A path in the cluster, absolute (a missing first slash is added), as bytes."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        raw = os.fsencode(value)
        if not raw:
            self.fail("a path cannot be empty", param, ctx)
        if b"\0" in raw:
            self.fail("a path cannot contain a NUL byte", param, ctx)
        return raw if raw.startswith(b"/") else b"/" + raw

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Names in the cluster; none where it does not answer at once, for a shell shows no errors."""
        from dfs.cli import completing

        return completing.remote_paths(ctx, incomplete)


class LocalPath(ArgumentType):
    """A path on this machine, as bytes."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        raw = os.fsencode(value)
        if not raw:
            self.fail("a path cannot be empty", param, ctx)
        return raw

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


class NodeName(ArgumentType):
    """The name of a DataNode."""

    name = "node"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from dfs.cli import completing

        return completing.nodes(ctx, incomplete)


class NamedPath(click.Path):
    """As `click.Path`, of one that is not empty, as a variable is that nobody has set."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not os.fspath(value):
            self.fail("a path cannot be empty", param, ctx)
        return super().convert(value, param, ctx)


class MountPoint(ArgumentType):
    """A directory on this machine. It is not looked at, as `click.Path` does: what is mounted there may hang."""

    name = "directory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if not os.fspath(value):
            self.fail("a directory's name cannot be empty", param, ctx)
        return Path(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="dir")]


REMOTE: Final = RemotePath()
DASH: Final = b"-"
"""In place of a local path: standard input or output."""
LOCAL: Final = LocalPath()
NODE: Final = NodeName()
MOUNTPOINT: Final = MountPoint()

remote_paths = functools.partial(click.argument, "paths", metavar="PATH...", nargs=-1, required=True, type=REMOTE)
"""`@remote_paths()`: one path in the cluster, or more."""


def sources_and_target(of: ArgumentType, to: ArgumentType) -> Callable[[F], F]:
    """SRC... DST, of which `refuse_missing` says what is missing: click would always say that SRC is."""

    def arguments(command: F) -> F:
        command = click.argument("target", metavar="DST", required=False, type=to)(command)
        return click.argument("sources", metavar="SRC...", nargs=-1, type=of)(command)

    return arguments


def refuse_missing(sources: tuple[bytes, ...], target: bytes | None) -> bytes:
    """The target, which a single argument is taken for, though it is none. Raises `MissingParameter`."""
    if target is None or not sources:
        raise click.MissingParameter(param_hint="'SRC...'" if target is None else "'DST'", param_type="argument")
    return target


def base_name(path: bytes) -> bytes:
    """The last name of a path; empty where it ends in the root, `.` or nothing, whose contents are meant then."""
    name = path.rstrip(b"/").rpartition(b"/")[2]
    return b"" if name == b"." else name


def join(directory: bytes, name: bytes) -> bytes:
    """A name in a directory."""
    return directory if not name else directory + name if directory.endswith(b"/") else directory + b"/" + name


def beside(path: bytes, token: str) -> bytes:
    """A name in the same directory for a draft of `path`: hidden, and no longer than a name may be."""
    directory, slash, name = path.rstrip(b"/").rpartition(b"/")
    ending = b".dfs-" + token.encode("ascii")
    kept = name[: limits.NAME_MAX_BYTES - len(ending) - 1]
    return directory + slash + b"." + kept + ending


def refuse_missing_name(path: bytes) -> bytes:
    """The last name of `path`. Raises `InvalidArgument` where there is none."""
    name = base_name(path)
    if name in (b"", b".."):
        raise errors.InvalidArgument(f"this names no entry of a directory: {os.fsdecode(path)}")
    return name
