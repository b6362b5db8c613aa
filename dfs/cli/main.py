"""The `dfs` command: its verbs, what applies to all of them, and the one place where errors become exit statuses.

Verbs live in modules that are imported when one of them is called, so that `dfs --help` costs nothing: the table
below has each verb's module and its line in the help. An error that a verb raises ends here: one sentence on stderr
and status 1 (2 for wrong usage, 128 + N for the signal N, 141 when the reader of stdout is gone).
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import click

from dfs import __version__
from dfs.cli.context import Chosen, Interrupted, complain, config_option, sentence
from dfs.leanlogs import load_structlog
from dfs.stdio import OutputFailed, have_standard_streams, name_standard_output

_INTERRUPTED_STATUS: Final = 130
_BROKEN_PIPE_STATUS: Final = 141


class Verb(NamedTuple):
    """Where a command is, and what the list of commands says of it."""

    module: str
    attribute: str
    help: str
    aliases: tuple[str, ...] = ()


SECTIONS: Final[dict[str, dict[str, Verb]]] = {
    "Looking": {
        "ls": Verb("dfs.cli.listing", "ls", "List directories and files."),
        "stat": Verb("dfs.cli.listing", "stat", "Show all attributes of files."),
        "tree": Verb("dfs.cli.listing", "tree", "Draw a directory and all beneath it."),
        "du": Verb("dfs.cli.usage", "du", "Show what directories take, before replication."),
        "df": Verb("dfs.cli.usage", "df", "Show how much the cluster holds and has free."),
        "cat": Verb("dfs.cli.transfer", "cat", "Write files to standard output."),
    },
    "Moving data": {
        "upload": Verb("dfs.cli.transfer", "upload", "Copy local files into the cluster.", ("put",)),
        "download": Verb("dfs.cli.transfer", "download", "Copy files out of the cluster.", ("get",)),
    },
    "Changing": {
        "delete": Verb("dfs.cli.changing", "delete", "Remove files and trees.", ("rm",)),
        "mkdir": Verb("dfs.cli.changing", "mkdir", "Make directories."),
        "mv": Verb("dfs.cli.changing", "mv", "Rename files, or move them into a directory."),
        "ln": Verb("dfs.cli.changing", "ln", "Make a hard or symbolic link."),
        "touch": Verb("dfs.cli.attributes", "touch", "Set times to now; make files that are missing."),
        "chmod": Verb("dfs.cli.attributes", "chmod", "Change permissions."),
        "chown": Verb("dfs.cli.attributes", "chown", "Change owner and group."),
        "replicas": Verb("dfs.cli.replicas", "replicas", "Show or set how many copies files have."),
    },
    "The cluster as a directory": {
        "mount": Verb("dfs.cli.mounting", "mount", "Mount the cluster on a local directory."),
        "umount": Verb("dfs.cli.mounting", "umount", "Unmount a mounted cluster."),
    },
    "The cluster": {
        "status": Verb("dfs.cli.cluster", "status", "Show the daemons and the state of the data."),
        "nodes": Verb("dfs.cli.nodes", "nodes", "List the DataNodes: how they are and what they do."),
        "clients": Verb("dfs.cli.clients", "clients", "List who is connected, and whom others wait for."),
        "backup": Verb("dfs.cli.backup", "backup", "Copy the namespace, to be kept elsewhere."),
        "drain": Verb("dfs.cli.nodes", "drain", "Empty a DataNode, so that it can be removed."),
        "undrain": Verb("dfs.cli.nodes", "undrain", "Use a DataNode again that was to be emptied."),
        "remove": Verb("dfs.cli.nodes", "remove", "Forget a DataNode that is dead or drained."),
        "balance": Verb("dfs.cli.nodes", "balance", "Even out how full the DataNodes are."),
        "deletions": Verb("dfs.cli.nodes", "deletions", "Decide on deletions that a DataNode holds back."),
        "fsck": Verb("dfs.cli.checking", "fsck", "Check that namespace, chunks and copies agree, and mend them."),
        "why": Verb("dfs.cli.checking", "why", "Say where a file's copies are, and why one is missing."),
        "bench": Verb("dfs.cli.bench.command", "bench", "Measure this cluster from here, and say what limits it."),
        "scrub": Verb("dfs.cli.scrub", "scrub", "Verify every block on the DataNodes' disks."),
        "up": Verb("dfs.cli.local.commands", "up", "Start a cluster on this machine."),
        "restart": Verb("dfs.cli.local.restarting", "restart", "Restart the daemons on this machine, one by one."),
        "down": Verb("dfs.cli.local.commands", "down", "Stop the cluster on this machine."),
        "init": Verb("dfs.cli.init", "init", "Make a new cluster, with this machine's NameNode."),
        "join": Verb("dfs.cli.join", "join", "Have a machine join the cluster, or make a token for one."),
        "namenode": Verb("dfs.cli.admin", "namenode", "Run a NameNode in the foreground."),
        "datanode": Verb("dfs.cli.admin", "datanode", "Run a DataNode in the foreground."),
        "key": Verb("dfs.cli.keys", "key", "Make, renew and revoke the keys of the cluster and its users."),
        "config": Verb("dfs.cli.admin", "config", "Check configuration files, or show examples."),
        "completion": Verb("dfs.cli.admin", "completion", "Print the completion script of a shell."),
    },
}

VERBS: Final = {name: verb for section in SECTIONS.values() for name, verb in section.items()}
ALIASES: Final = {alias: name for name, verb in VERBS.items() for alias in verb.aliases}


class Dfs(click.Group):
    """A group that imports a verb when it is called, and turns what goes wrong into a sentence and a status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*VERBS, *ALIASES])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        verb = VERBS.get(ALIASES.get(cmd_name, cmd_name))
        if verb is None:
            return None
        if not ctx.resilient_parsing:  # which is Tab, that needs no logs
            load_structlog()
        command: click.Command = getattr(importlib.import_module(verb.module), verb.attribute)
        command.short_help = verb.help  # which shells show beside the verb
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, verbs in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(", ".join([name, *verb.aliases]), verb.help) for name, verb in verbs.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """The verb's status. What it printed has arrived, or nobody wanted it: that is no error to speak of."""
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            _abandon_stdout()
            return _BROKEN_PIPE_STATUS

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command and end the process with its status."""
        extra["standalone_mode"] = False
        sys.exit(_status(functools.partial(super().main, *args, **extra)))


def _status(command: Callable[[], Any]) -> int:
    """The exit status of `command()`, after a sentence on stderr where something was wrong."""
    try:
        status = command()
    except BaseException as error:  # noqa: BLE001 - the process's edge: raised again if it is a bug
        return _ending(error)
    return status if isinstance(status, int) else 0


def _ending(error: BaseException) -> int:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if isinstance(error, Interrupted):
        return 128 + error.signal_number
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return _INTERRUPTED_STATUS
    if isinstance(error, OSError):
        if isinstance(error, OutputFailed):
            _abandon_stdout()
        complain(sentence(error))
        return 1
    raise error


def _abandon_stdout() -> None:
    """Nobody takes it: keep the interpreter from failing once more when it flushes at exit."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)


@click.group(cls=Dfs, context_settings={"help_option_names": ["--help"], "max_content_width": 100})
@config_option
@click.option("-v", "--verbose", is_flag=True, help="Log to stderr what is tried again, or goes on without.")
@click.version_option(__version__, prog_name="dfs", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, verbose: bool) -> None:
    """A distributed file system: its files, its transfers and its daemons.

    Paths in the cluster begin at its root, with a slash or without: there is no current directory.
    Which cluster: --config FILE, else $DFS_CONFIG, else ~/.config/dfs/client.toml, else
    /etc/dfs/client.toml, else the local one that `dfs up` starts. With which key: $DFS_KEY, unless
    --config is given, else the one that the configuration names.
    """
    ctx.ensure_object(Chosen).verbose = verbose


def main() -> None:
    """Entry point: ends the process with an exit status."""
    have_standard_streams()
    name_standard_output()
    cli.main(prog_name="dfs")
