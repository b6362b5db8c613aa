"""`dfs key`: the cluster's master secrets, and keys made from them. Works on files, and needs no cluster."""

from __future__ import annotations

import os
from pathlib import Path

import click

from dfs import certificates, config, errors, keys
from dfs.cli import show
from dfs.keys import KeyFile, Role

_ETC = Path("/etc/dfs/cluster.keys")


@click.group(short_help="Make the cluster's keys, and keys of those who use it.")
def key() -> None:
    """Make the cluster's keys, and keys of those who use it.

    Whoever has a key may do what its role allows: a node is one DataNode, an admin does everything, a client reads and
    writes, a reader reads. Carry key files by a way that nobody else reads.
    """


@key.command()
@click.argument("file", type=click.Path(path_type=Path), default=Path("cluster.keys"))
@click.option(
    "--tls", is_flag=True, help="Encrypt what travels: with certificates of an authority of the cluster's own."
)
def init(file: Path, tls: bool) -> None:
    """Make the master secrets of a new cluster, for the NameNode only. FILE is cluster.keys unless given."""
    keys.save(file, keys.make_cluster(tls=tls))
    _say(f"{file}: the master secrets; `keys` in namenode.toml names this file, and nobody else needs it")


@key.command()
@click.argument("name")
@click.option("--role", type=click.Choice([str(role) for role in Role]), default=str(Role.CLIENT), show_default=True)
@click.option("--keys", "masters", type=click.Path(path_type=Path), help="The cluster's cluster.keys.")
@click.option("--out", type=click.Path(path_type=Path), help="The file to write; NAME.key unless given.")
def add(name: str, role: str, masters: Path | None, out: Path | None) -> None:
    """Make a key called NAME. A node's key has the name of its DataNode."""
    made = _cluster(masters).issue(Role(role), name)
    path = out or Path(f"{name}.key")
    keys.save(path, made)
    user = "datanode.toml" if role == Role.NODE else "client.toml"
    _say(f"{path}: {_in_words(made)}; `key` in {user} names this file")


@key.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--keys", "masters", type=click.Path(path_type=Path), help="The cluster's cluster.keys.")
def renew(file: Path, masters: Path | None) -> None:
    """Put a new certificate into FILE, a key file or cluster.keys itself. The key stays the same."""
    found = keys.load(file)
    authority = found.authority if found.key is None else _cluster(masters).authority
    if authority is None:
        raise errors.ConfigError("the cluster has no authority that issues certificates: see `dfs key init --tls`")
    made = found.certified(authority)
    keys.replace(file, made)
    _say(f"{file}: {_in_words(made)}")


@key.command(name="show")
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True)
def show_(files: tuple[Path, ...]) -> None:
    """Say whose keys are in files. Shows no secrets."""
    for file in files:
        _say(f"{file}: {_in_words(keys.load(file))}")


def _in_words(found: KeyFile) -> str:
    if found.key is None:
        words = "the master secrets of a cluster"
    else:
        words = f"the key of {found.key.id}, generation {found.key.id.generation}"
    return words if found.tls is None else f"{words}; {certificates.read(found.tls.certificate)}"


def _cluster(explicit: Path | None) -> KeyFile:
    """cluster.keys: a file, this machine's NameNode's, or the local cluster's. Raises `ConfigError`."""
    places = [explicit] if explicit else [_ETC, config.local_cluster_dir() / "cluster.keys"]
    for place in places:
        if explicit or place.exists():
            return keys.load_cluster(place)
    raise errors.ConfigError("which cluster's key is it to be? say --keys FILE, with the file that `dfs key init` made")


def _say(text: str) -> None:
    show.echo(show.name(os.fsencode(text)))
