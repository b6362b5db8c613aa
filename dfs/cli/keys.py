"""`dfs key`: the cluster's master secrets, and keys made from them. Works on files, and needs no cluster."""

from __future__ import annotations

import os
from pathlib import Path

import click

from dfs import config, errors, keys
from dfs.cli import show
from dfs.keys import Key, KeyFile, Masters, Role

_ETC = Path("/etc/dfs/cluster.keys")


@click.group(short_help="Make the cluster's keys, and keys of those who use it.")
def key() -> None:
    """Make the cluster's keys, and keys of those who use it.

    Whoever has a key may do what its role allows: a node is one DataNode, an admin does everything, a client reads and
    writes, a reader reads. Carry key files by a way that nobody else reads.
    """


@key.command()
@click.argument("file", type=click.Path(path_type=Path), default=Path("cluster.keys"))
def init(file: Path) -> None:
    """Make the master secrets of a new cluster, for the NameNode only. FILE is cluster.keys unless given."""
    keys.save(file, KeyFile(None, Masters.make()))
    _say(f"{file}: the master secrets; `keys` in namenode.toml names this file, and nobody else needs it")


@key.command()
@click.argument("name")
@click.option("--role", type=click.Choice([str(role) for role in Role]), default=str(Role.CLIENT), show_default=True)
@click.option("--keys", "masters", type=click.Path(path_type=Path), help="The cluster's cluster.keys.")
@click.option("--out", type=click.Path(path_type=Path), help="The file to write; NAME.key unless given.")
def add(name: str, role: str, masters: Path | None, out: Path | None) -> None:
    """Make a key called NAME. A node's key has the name of its DataNode."""
    source = _masters(masters)
    made = source.issue(Role(role), name)
    path = out or Path(f"{name}.key")
    is_node = made.id.role == Role.NODE
    keys.save(path, KeyFile(made, source.of(keys.DATANODE) if is_node else Masters({})))
    _say(f"{path}: the key of {made.id}; `key` in {'datanode.toml' if is_node else 'client.toml'} names this file")


@key.command(name="show")
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True)
def show_(files: tuple[Path, ...]) -> None:
    """Say whose keys are in files. Shows no secrets."""
    for file in files:
        found = keys.load(file)
        _say(f"{file}: {_in_words(found.key)}")


def _in_words(found: Key | None) -> str:
    if found is None:
        return "the master secrets of a cluster"
    return f"the key of {found.id}, generation {found.id.generation}"


def _masters(explicit: Path | None) -> Masters:
    """Those of a file, of this machine's NameNode, or of the local cluster. Raises `ConfigError`."""
    places = [explicit] if explicit else [_ETC, config.local_cluster_dir() / "cluster.keys"]
    for place in places:
        if explicit or place.exists():
            return keys.load_masters(place, keys.NAMENODE)
    raise errors.ConfigError("which cluster's key is it to be? say --keys FILE, with the file that `dfs key init` made")


def _say(text: str) -> None:
    show.echo(show.name(os.fsencode(text)))
