"""`init`: a new cluster on this machine, as files; nothing runs yet."""

from __future__ import annotations

from pathlib import Path

import click

from dfs import config, errors, keys, limits
from dfs.cli import machine
from dfs.cli.arguments import NamedPath
from dfs.cli.machine import Files
from dfs.cli.show import say
from dfs.keys import KeyFile, Role

_ADMIN = "admin"
_STATE_DIR = Path("/var/lib/dfs/namenode")
_DIRECTORY = NamedPath(path_type=Path, file_okay=False)


@click.command()
@click.option("--dir", "directory", type=_DIRECTORY, default=machine.ETC, show_default=True, help="For the files.")
@click.option("--listen", default=f"0.0.0.0:{limits.NAMENODE_PORT}", show_default=True, help="Of the NameNode.")
@click.option(
    "--state-dir", type=_DIRECTORY, help=f"For the namespace. {_STATE_DIR}, or with --dir namenode in it, unless given."
)
@click.option(
    "--replicas",
    type=click.IntRange(1, limits.REPLICAS_MAX),
    default=limits.REPLICAS_DEFAULT,
    show_default=True,
    help="Copies of every file's data.",
)
@click.option("--datanode", "disks", type=_DIRECTORY, multiple=True, help="A directory for chunks here; repeatable.")
@click.option("--name", help="Of the DataNode here; the machine's name unless given.")
@click.option("--tls", is_flag=True, help="Encrypt what travels between machines.")
def init(
    directory: Path,
    listen: str,
    state_dir: Path | None,
    replicas: int,
    disks: tuple[Path, ...],
    name: str | None,
    *,
    tls: bool,
) -> None:
    """Make a new cluster, whose NameNode is on this machine: its keys, and configuration files with comments.

    With --datanode this machine keeps chunks as well. What is there is never overwritten. Other machines join with
    `dfs join`.
    """
    directory = directory.absolute()
    listen = config.with_port(listen, limits.NAMENODE_PORT)
    state_dir = _state_dir(directory, state_dir)
    cluster = keys.make_cluster(tls=tls)
    files = Files(directory)
    files.add_directory(state_dir)
    _add_namenode(files, directory, cluster, listen, state_dir, replicas)
    if disks:
        _add_datanode(files, directory, cluster, listen, name or machine.node_name(), disks)
    files.refuse_existing()
    files.make_directories()
    files.write()
    _say_what_next(directory, cluster, listen, has_datanode=bool(disks))


def _state_dir(directory: Path, wished: Path | None) -> Path:
    """Raises `Exists` if there is a namespace already."""
    standard = _STATE_DIR if directory == machine.ETC else directory / "namenode"
    found = (wished or standard).absolute()
    if (found / "namespace.sqlite").exists():
        raise errors.Exists(
            f"{found}: there is the namespace of a cluster already: nothing was changed; say another --state-dir, or"
            " use the cluster.keys of that cluster"
        )
    return found


def _near(listen: str) -> str:
    """Where this machine's own programs reach the NameNode."""
    if not config.is_anywhere(listen):
        return listen
    return f"{'[::1]' if listen.startswith('[') else '127.0.0.1'}:{machine.port_of(listen)}"


def _add_namenode(files: Files, directory: Path, cluster: KeyFile, listen: str, state_dir: Path, replicas: int) -> None:
    least = min(limits.MIN_REPLICAS_DEFAULT, replicas)
    namenode = config.NameNodeConfig(state_dir=state_dir, listen=listen, replicas=replicas, min_replicas=least)
    admin = cluster.issue(Role.ADMIN, _ADMIN)
    client = config.ClientConfig(namenode=_near(listen), key=Path(f"{_ADMIN}.key"))
    files.add_key(directory / "cluster.keys", cluster, is_daemons=True)
    files.add(directory / "namenode.toml", config.commented(namenode))
    files.add_key(directory / f"{_ADMIN}.key", admin, is_daemons=False)
    files.add(directory / "client.toml", config.commented(client))


def _add_datanode(
    files: Files, directory: Path, cluster: KeyFile, listen: str, name: str, disks: tuple[Path, ...]
) -> None:
    add_datanode(files, directory, cluster.issue(Role.NODE, name), _near(listen), machine.own_host(listen), disks)


def add_datanode(
    files: Files,
    directory: Path,
    key_file: KeyFile,
    namenode: str,
    host: str,
    disks: tuple[Path, ...],
    port: int = limits.DATANODE_PORT,
) -> None:
    """The files of a DataNode that other machines reach at `host`.

    Its key is in a directory of the daemon's own, for it puts newer ones there.
    """
    assert key_file.key is not None
    name = key_file.key.id.name
    own_listen, advertise = machine.datanode_addresses(host, port)
    datanode = config.DataNodeConfig(
        node=name,
        namenode=namenode,
        directories=[disk.absolute() for disk in disks],
        key=Path("keys") / f"{name}.key",
        listen=own_listen,
        advertise=advertise,
    )
    for disk in datanode.directories:
        files.add_directory(disk)
    files.add_directory(directory / "keys")
    files.add_key(directory / "keys" / f"{name}.key", key_file, is_daemons=True)
    files.add(directory / "datanode.toml", config.commented(datanode))


def _say_what_next(directory: Path, cluster: KeyFile, listen: str, *, has_datanode: bool) -> None:
    host = config.with_port(machine.own_host(listen), machine.port_of(listen))
    daemons = ["namenode", *(["datanode"] if has_datanode else [])]
    say(f"A new cluster, {cluster.cluster}, is described in {directory}. Start it:")
    say("")
    if machine.has_units(directory):
        say(f"    systemctl enable --now dfs.target {' '.join(f'dfs-{daemon}' for daemon in daemons)}")
    else:
        for daemon in daemons:
            say(f"    dfs {daemon} --config {directory / daemon}.toml &")
    where = "" if directory == machine.ETC else f" --keys {directory / 'cluster.keys'}"
    say("")
    say("For each machine that is to join, this prints a token and the command to run there:")
    say("")
    say(f"    dfs join token{where}                   # a DataNode")
    say(f"    dfs join token{where} --role client     # a client")
    say("")
    say(f"The NameNode is reached at {host}. {directory / 'cluster.keys'} is the cluster's master")
    say("secret: keep a copy of it in a safe place, and let nobody else have it.")
