"""`namenode`, `datanode`, `config` and `completion`: what whoever runs a cluster needs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from dfs import config as configuration
from dfs.cli import show
from dfs.cli.arguments import NamedPath
from dfs.cli.context import Report

# --- daemons --------------------------------------------------------------------------------------------

_daemon_config = click.option(
    "--config", "file", metavar="FILE", required=True, type=NamedPath(), help="Its configuration file."
)


@click.command()
@_daemon_config
def namenode(file: str) -> None:
    """Run a NameNode in the foreground; SIGTERM stops it in order. See `dfs config example namenode`."""
    _become("nodes.namenode", file)


@click.command()
@_daemon_config
def datanode(file: str) -> None:
    """Run a DataNode in the foreground; SIGTERM stops it in order. See `dfs config example datanode`."""
    _become("nodes.datanode", file)


def _become(module: str, file: str) -> None:
    """Replace this process by the daemon: its pid, and the signals sent to it, are the daemon's."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, "--config", file])


# --- configuration --------------------------------------------------------------------------------------


@click.group()
def config() -> None:
    """Check configuration files, or show examples."""


@config.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=NamedPath())
def check(files: tuple[str, ...]) -> int:
    """Say whether files are fit for use, with the files of keys that they name, and what kind they are."""
    report = Report()
    for file in files:
        with report.catching():
            kind = configuration.check(Path(file))
            show.say(f"{file}: a good configuration of a {kind}")
    return report.status


@config.command()
@click.argument("kind", type=click.Choice(list(configuration.KINDS)))
def example(kind: str) -> None:
    """Print a file with every key, its meaning and its default."""
    show.echo(configuration.example(kind).rstrip("\n"))


# --- completion -----------------------------------------------------------------------------------------


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that makes a shell complete verbs, options and paths.

    For bash: `source <(dfs completion bash)` in ~/.bashrc.
    """
    from click.shell_completion import get_completion_class

    from dfs.cli.main import cli

    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"completion for {shell} is not known")
    show.echo(found(cli, {}, "dfs", "_DFS_COMPLETE").source())
