"""Making a local cluster, and adding DataNodes to one: directories and configuration files, nothing that runs.

What is there is never changed: configurations are people's to edit once they are written. Paths in them are relative
to the file, so that the whole directory may be moved.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import click

from dfs import config, errors, keys, limits
from dfs.cli.local.layout import Layout, write_file
from dfs.cli.local.ports import LOOPBACK, FreePorts


class Wish(NamedTuple):
    """What a cluster is to be; None leaves it to what is there, or to the default."""

    datanodes: int | None = None
    replicas: int | None = None
    min_replicas: int | None = None
    tls: bool = False
    """False leaves it too: a cluster that was made with TLS stays so."""


class Made(NamedTuple):
    """What is there now."""

    datanodes: int
    replicas: int
    min_replicas: int
    namenode: str
    """Where clients reach the NameNode."""
    added: tuple[str, ...]
    """Names of the DataNodes that were not there before."""
    removed: tuple[str, ...]
    """Names of those that were removed from the cluster and are not run any more."""


def make(layout: Layout, wish: Wish, ports: FreePorts) -> Made:
    """Have a cluster as wished in a directory that is claimed and locked; one that is there keeps what it has.

    All its ports are claimed in `ports`. DataNodes are added, never taken away: that is for the supervisor, of those
    that were removed from the cluster. Raises `click.UsageError` for a wish that cannot be, `InvalidArgument` for one
    against the files that are there, `ConfigError` for files that cannot be used.
    """
    if not layout.is_made():
        return _make_new(layout, wish, ports)
    known = config.load_namenode(layout.namenode)
    _refuse_new_secrets(layout)
    _refuse_change(layout, "replicas", known.replicas, wish.replicas)
    _refuse_change(layout, "min_replicas", known.min_replicas, wish.min_replicas)
    _refuse_tls(layout, wish.tls)
    before = len(layout.datanode_numbers())
    _check_enough(wish.replicas, max(before, wish.datanodes or 0))
    for port in _ports_in(layout):
        ports.claim(port)
    added = _add_datanodes(layout, (wish.datanodes or before) - before, _namenode_of(layout), ports)
    _have_keys(layout, tls=wish.tls)
    return read(layout)._replace(added=added)


def read(layout: Layout) -> Made:
    """The cluster that is there. Raises `ConfigError` for files that cannot be used."""
    namenode = config.load_namenode(layout.namenode)
    numbers = layout.datanode_numbers()
    for number in numbers:
        config.load_datanode(layout.datanode(number))
    removed = tuple(f"n{number}" for number in layout.removed_numbers())
    return Made(len(numbers), namenode.replicas, namenode.min_replicas, _namenode_of(layout), (), removed)


def complete(wish: Wish) -> tuple[int, int, int]:
    """DataNodes, copies and fewest copies of a new cluster. Raises `click.UsageError` for a wish that cannot be."""
    datanodes = limits.LOCAL_DATANODES_DEFAULT if wish.datanodes is None else wish.datanodes
    replicas = min(limits.REPLICAS_DEFAULT, datanodes) if wish.replicas is None else wish.replicas
    _check_enough(replicas, datanodes)
    min_replicas = min(limits.MIN_REPLICAS_DEFAULT, replicas) if wish.min_replicas is None else wish.min_replicas
    if min_replicas > replicas:
        raise click.UsageError(
            f"--min-replicas {min_replicas} is more than the {replicas} copies that there are to be:"
            f" make it {replicas} or less"
        )
    return datanodes, replicas, min_replicas


def _make_new(layout: Layout, wish: Wish, ports: FreePorts) -> Made:
    datanodes, replicas, min_replicas = complete(wish)
    _refuse_tls(layout, wish.tls)
    address = f"{LOOPBACK}:{ports.take(limits.NAMENODE_PORT)}"
    nameserver = f"{LOOPBACK}:{ports.take(limits.NAMESERVER_PORT)}"
    layout.logs.mkdir(mode=0o700, exist_ok=True)
    _have_datanodes(layout, range(1, datanodes + 1), address, ports)
    write_file(layout.client, config.render(config.ClientConfig(namenode=address)))
    _have_keys(layout, tls=wish.tls)
    (layout.directory / "namenode").mkdir(mode=0o700, exist_ok=True)
    namenode = config.NameNodeConfig(
        state_dir=Path("namenode"), listen=address, nameserver=nameserver, replicas=replicas, min_replicas=min_replicas
    )
    write_file(layout.namenode, config.render(namenode))  # last: with it the cluster is made
    return read(layout)._replace(added=tuple(f"n{number}" for number in layout.datanode_numbers()))


def _add_datanodes(layout: Layout, count: int, namenode: str, ports: FreePorts) -> tuple[str, ...]:
    """Add `count` DataNodes (none if it is not positive), numbered on from those that are, or were, there."""
    first = max(layout.datanode_numbers() + layout.removed_numbers(), default=0) + 1
    new = range(first, first + max(count, 0))
    if new:
        _have_datanodes(layout, new, namenode, ports)
    return tuple(f"n{number}" for number in new)


def _have_datanodes(layout: Layout, numbers: range, namenode: str, ports: FreePorts) -> None:
    for number in numbers:
        name = f"n{number}"
        (layout.directory / name).mkdir(mode=0o700, exist_ok=True)
        listen = f"{LOOPBACK}:{ports.take(limits.DATANODE_PORT + number - 1)}"
        datanode = config.DataNodeConfig(node=name, namenode=namenode, listen=listen, directories=[Path(name)])
        write_file(layout.datanode(number), config.render(datanode))


def _have_keys(layout: Layout, *, tls: bool) -> None:
    """The master secrets, a key for each DataNode, and one for the owner of the cluster, who may do everything."""
    if not layout.keys.exists():
        keys.save(layout.keys, keys.make_cluster(tls=tls))
    cluster = keys.load_cluster(layout.keys)
    if not layout.client_key.exists():
        keys.save(layout.client_key, cluster.issue(keys.Role.ADMIN, "local"))
    for number in layout.datanode_numbers():
        path = layout.directory / f"n{number}.key"
        if not path.exists():
            keys.save(path, cluster.issue(keys.Role.NODE, f"n{number}"))


def _ports_in(layout: Layout) -> list[int]:
    """Ports that belong to daemons of this cluster, whether they run or not."""
    namenode = config.load_namenode(layout.namenode)
    addresses = [namenode.listen, namenode.nameserver]
    addresses += [config.load_datanode(layout.datanode(number)).listen for number in layout.datanode_numbers()]
    tails = (address.rpartition(":")[2] for address in addresses)
    return [int(tail) for tail in tails if tail.isdigit()]


def _namenode_of(layout: Layout) -> str:
    """Where clients reach the NameNode: client.toml may say another name for it than the NameNode listens on."""
    return config.load_client(layout.client).namenode


def _refuse_new_secrets(layout: Layout) -> None:
    """A cluster that is there has its own: others would be those of another cluster, in the place of a copy of them."""
    if not layout.keys.exists():
        raise errors.ConfigError(
            f"{layout.keys} is missing, and with it the master secrets of the cluster in {layout.directory}: put a copy"
            " of the file back"
        )


def _refuse_tls(layout: Layout, tls: bool) -> None:
    """A cluster that was made without TLS does not begin to speak it."""
    if tls and layout.keys.exists() and keys.load_cluster(layout.keys).tls is None:
        raise errors.InvalidArgument(
            f"the cluster in {layout.directory} was made without TLS: make another with `dfs up --tls --dir DIR`"
        )


def _refuse_change(layout: Layout, key: str, there: int, wished: int | None) -> None:
    if wished is not None and wished != there:
        raise errors.InvalidArgument(
            f"the cluster in {layout.directory} has {key} = {there}, not {wished}: to change it, edit"
            f" {layout.namenode}, then `{layout.command('restart')}`, or `{layout.command('up')}` where nothing runs"
        )


def _check_enough(replicas: int | None, datanodes: int) -> None:
    if replicas is not None and replicas > datanodes:
        raise click.UsageError(
            f"--replicas {replicas} needs as many DataNodes, and there are to be {datanodes}:"
            f" ask for --datanodes {replicas} or more"
        )
