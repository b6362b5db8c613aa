"""What verbs share: which cluster, a client of it in an event loop, and errors as sentences.

A verb hands `run` an async body that takes a `FileSystem` and returns an exit status. SIGINT, SIGTERM and SIGHUP
cancel the body, which cleans up behind itself; a second signal ends the process at once. A verb that goes on after
an error about one of its paths collects them in a `Report`, whose `status` it returns.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from dfs import errors
from dfs.cli import show
from dfs.cli.arguments import NamedPath
from dfs.config import ClientConfig, client_config_path, find_client_config
from dfs.stdio import OutputFailed

if TYPE_CHECKING:
    import trio

    from dfs.client import FileSystem
    from dfs.keys import KeyFile
    from dfs.keystore import KeyStore

F = TypeVar("F", bound=Callable[..., Any])

Body = Callable[["FileSystem"], Awaitable[int | None]]

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CLUSTER_IS_AWAY: Final = (errors.Unreachable, errors.ConnectionLost, errors.DeadlineExceeded)


class Interrupted(Exception):
    """A signal ended the command, after it cleaned up."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


@dataclasses.dataclass
class Chosen:
    """What the options that apply to every verb said."""

    config: str | None = None
    verbose: bool = False


def chosen() -> Chosen:
    """The current command's; defaults when a verb is called outside of the `dfs` group."""
    return click.get_current_context().find_object(Chosen) or Chosen()


def _remember_config(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(Chosen).config = value


def config_option(command: F) -> F:
    """`--config FILE`: on the group and on each verb; the verb's wins."""
    option = click.option(
        "--config",
        metavar="FILE",
        type=NamedPath(),
        expose_value=False,
        callback=_remember_config,
        help="The client.toml of the cluster to use.",
    )
    return option(command)


# --- errors ---------------------------------------------------------------------------------------------


def sentence(error: OSError) -> str:
    """What to tell a person of an error: ours say it themselves, the system's name the file."""
    if isinstance(error, errors.DfsError):
        return error.message
    words = error.strerror or str(error)
    words = words[:1].lower() + words[1:] or type(error).__name__
    return words if error.filename is None else f"{words}: {show.escaped(os.fsencode(error.filename))}"


def complain(text: str) -> None:
    """One line on stderr. Whatever the text holds, it cannot steer the terminal."""
    sys.stderr.write(f"dfs: {show.printable(text)}\n")
    sys.stderr.flush()


class Report:
    """Errors of a command that goes on after them. `failed` counts them."""

    def __init__(self) -> None:
        self.failed = 0

    def fail(self, text: str) -> None:
        self.failed += 1
        complain(text)

    def note(self, error: OSError) -> None:
        self.fail(sentence(error))

    @contextmanager
    def catching(self) -> Iterator[None]:
        """Report an error about one path and go on. A cluster or a stdout that is gone still ends the command."""
        try:
            yield
        except (*_CLUSTER_IS_AWAY, BrokenPipeError, OutputFailed):
            raise
        except OSError as error:
            self.note(error)

    @property
    def status(self) -> int:
        return 1 if self.failed else 0


# --- running --------------------------------------------------------------------------------------------


def run(body: Body) -> int:
    """Call `body` with a client of the chosen cluster; its status (None is 0).

    Raises `ConfigError` when no cluster is configured, `Unreachable` when it does not answer, `Interrupted`
    after a signal, and whatever the body raises.
    """
    import trio

    from dfs.telemetry import configure_logs

    options = chosen()
    config = find_client_config(options.config)
    configure_logs("info" if options.verbose else "error")
    try:
        return trio.run(_interruptible, functools.partial(_with_client, config, body))
    except errors.Unreachable as error:
        if hint := _how_to_start_it(options.config):
            raise errors.Unreachable(f"{error.message} ({hint})") from None
        raise


def _how_to_start_it(config: str | None) -> str:
    """What to do about a cluster of `dfs up` that is down; nothing about others."""
    from dfs.cli.local import locks
    from dfs.cli.local.layout import Layout

    path = client_config_path(config)
    layout = Layout(path.resolve().parent) if path else None
    try:
        is_down = layout is not None and layout.is_made() and locks.is_free(layout.supervisor_lock)
    except OSError:  # it is another user's
        is_down = False
    return f"the cluster is down: `{layout.command('up')}` starts it" if layout and is_down else ""


def run_here(body: Callable[[], Awaitable[int | None]]) -> int:
    """Call `body`, which opens itself what it needs; otherwise as `run`."""
    import trio

    from dfs.telemetry import configure_logs

    async def alone(_scopes: list[trio.CancelScope]) -> int:
        return await body() or 0

    configure_logs("info" if chosen().verbose else "error")
    return trio.run(_interruptible, alone)


async def _interruptible(body: Callable[[list[trio.CancelScope]], Awaitable[int | None]]) -> int:
    """Call `body` with a stack of scopes, the innermost of which a signal cancels; None from it: that happened."""
    from dfs import tasks

    received: list[int] = []
    status: int | None = None
    async with tasks.open_nursery() as nursery:
        scopes = [nursery.cancel_scope]
        await nursery.start(_watch_signals, scopes, received)
        status = await body(scopes)
        nursery.cancel_scope.cancel()
    if status is None:
        raise Interrupted(received[0])
    return status


async def _with_client(config: ClientConfig, body: Body, scopes: list[trio.CancelScope]) -> int | None:
    """The status of `body`; None if it was cancelled."""
    import trio

    from dfs.client import open_filesystem
    from dfs.client.session import this_process
    from dfs.keystore import KeyStore

    store = KeyStore(config.key)
    status: int | None = None
    async with open_filesystem(
        config.namenode,
        store.key,
        wait_s=config.namenode_wait_s,
        keep=functools.partial(_keep, store),
        name=this_process(click.get_current_context().command_path),
    ) as fs:
        with trio.CancelScope() as scope:  # the client outlives the body: it takes back what was half done
            scopes.append(scope)
            status = await body(fs) or 0
        scopes.pop()
    return status


def _keep(store: KeyStore, new: KeyFile) -> None:
    """Keep a newer key, or say what to do: without it the command goes on, but not the one after the retirement."""
    try:
        store.keep(new)
    except errors.ConfigError as error:
        complain(error.message)


async def _watch_signals(
    scopes: list[trio.CancelScope], received: list[int], *, task_status: trio.TaskStatus[None]
) -> None:
    """Cancel the innermost of `scopes` at the first signal.

    A signal that we were started to ignore (nohup, a shell's `&`) stays ignored.
    """
    import trio

    watched = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    if not watched:
        task_status.started()
        return
    with trio.open_signal_receiver(*watched) as arriving:
        task_status.started()
        async for number in arriving:
            received.append(number)
            break
    scopes[-1].cancel()
