"""`dfs key`: the cluster's master secrets, keys made from them, and how both are renewed and withdrawn.

`init`, `add`, `show` and `rotate` work on files and need no cluster; the others ask the NameNode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from dfs import certificates, config, errors, keys, limits
from dfs.cli import show
from dfs.cli.arguments import NamedPath
from dfs.cli.context import chosen, complain, config_option, run
from dfs.cli.machine import ETC
from dfs.keys import KeyFile, Role

if TYPE_CHECKING:
    from dfs.client import FileSystem

ROLES: Final = [str(role) for role in Role if role != Role.JOIN]
"""Whose keys are made."""
keys_option = click.option(
    "--keys",
    "file",
    type=NamedPath(path_type=Path),
    help="The cluster's cluster.keys; unless given, the one beside the client.toml in use, else /etc/dfs/cluster.keys,"
    " else the local cluster's.",
)
_role_option = click.option("--role", type=click.Choice(ROLES), default=str(Role.CLIENT), show_default=True)


@click.group()
def key() -> None:
    """Make, renew and revoke the keys of the cluster and its users.

    Whoever has a key may do what its role allows: a node is one DataNode, an admin does everything, a client reads and
    writes, a reader reads. Carry key files by a way that nobody else reads, or have machines join (`dfs join`).
    """


# --- files ----------------------------------------------------------------------------------------------


@key.command()
@click.argument("file", type=NamedPath(path_type=Path), default=Path("cluster.keys"))
@click.option(
    "--tls", is_flag=True, help="Encrypt what travels: with certificates of an authority of the cluster's own."
)
def init(file: Path, tls: bool) -> None:
    """Make the master secrets of a new cluster, for the NameNode only. FILE is cluster.keys unless given."""
    keys.save(file, keys.make_cluster(tls=tls))
    show.say(f"{file}: the master secrets; `keys` in namenode.toml names this file, and nobody else needs it")


@key.command()
@click.argument("name")
@_role_option
@click.option("--subtree", metavar="DIRECTORY", help="All that the key may see, as if there was nothing else.")
@keys_option
@click.option("--out", type=NamedPath(path_type=Path), help="The file to write; NAME.key unless given.")
def add(name: str, role: str, subtree: str | None, file: Path | None, out: Path | None) -> None:
    """Make a key called NAME. A node's key has the name of its DataNode."""
    claims = {} if subtree is None else {"subtree": subtree_claim(subtree, role)}
    made = cluster_keys(file)[1].issue(Role(role), name, claims)
    path = out or Path(f"{name}.key")
    keys.save(path, made)
    user = "datanode.toml" if role == Role.NODE else "client.toml"
    show.say(f"{path}: {_in_words(made)}; `key` in {user} names this file")


@key.command()
@click.argument("renewed", metavar="FILE", type=NamedPath(path_type=Path))
@keys_option
def renew(renewed: Path, file: Path | None) -> None:
    """Put a new certificate into FILE, a key file or cluster.keys itself. The key stays the same."""
    with keys.locked(renewed):
        found = keys.load(renewed)
        authority = found.authority if found.key is None else _issuer(renewed, found, file).authority
        if authority is None:
            raise errors.ConfigError("the cluster has no authority that issues certificates: see `dfs key init --tls`")
        made = found.certified(authority)
        keys.replace(renewed, made)
    show.say(f"{renewed}: {_in_words(made)}")


def _issuer(path: Path, holder: KeyFile, file: Path | None) -> KeyFile:
    """The master secrets of the cluster of the key in `path`. Raises `ConfigError` if they are another cluster's."""
    place, found = cluster_keys(file)
    if None not in (holder.cluster, found.cluster) and holder.cluster != found.cluster:
        raise errors.ConfigError(
            f"{path}: is of cluster {holder.cluster}, and {place} of cluster {found.cluster}, whose certificates are no"
            " good there: say --keys FILE, with the cluster.keys of the same cluster"
        )
    return found


@key.command(name="show")
@click.argument("files", type=NamedPath(path_type=Path), nargs=-1, required=True)
def show_(files: tuple[Path, ...]) -> None:
    """Say whose keys are in files. Shows no secrets."""
    for file in files:
        found = keys.load(file)
        show.say(f"{file}: {_in_words(found)}")


@key.command()
@keys_option
def rotate(file: Path | None) -> None:
    """Begin a new generation of keys. The old one counts still, until it is retired.

    The NameNode notices within seconds; it, the DataNodes and all clients get keys of the new generation while they go
    on working. `dfs key status` says how far that is.
    """
    path, _ = cluster_keys(file)
    with keys.locked(path):
        content = keys.load_cluster(path)
        if len(content.masters.generations) >= limits.KEY_GENERATIONS_MAX:
            raise errors.ArgumentTooLarge(
                f"{path} has {limits.KEY_GENERATIONS_MAX} generations, as many as it may: `dfs key retire` old ones"
                " first"
            )
        masters = content.masters.with_next()
        keys.replace(path, content._replace(masters=masters))
    old, new = masters.generations[-2:]
    show.say(
        f"{path}: generation {new} has begun. When `dfs key status` shows that nobody uses generation {old} any more:"
    )
    show.say(f"`dfs key retire {old}`.")


def _in_words(found: KeyFile) -> str:
    if found.key is None:
        words = f"the master secrets of {f'cluster {found.cluster}' if found.cluster else 'a cluster'}"
    else:
        limit = found.key.id.claim("subtree")
        only = f", for {limit} only" if limit else ""
        whose = f", cluster {found.cluster}" if found.cluster else ""
        words = f"the key of {found.key.id}, generation {found.key.id.generation}{only}{whose}"
    return words if found.tls is None else f"{words}; {certificates.read(found.tls.certificate)}"


def subtree_claim(path: str, role: str) -> str:
    """An absolute path in its plain form. Raises `InvalidArgument`; `UsageError` for a role that knows no limit."""
    if role not in (Role.CLIENT, Role.READER):
        raise click.UsageError(f"--subtree holds a client or a reader to a directory, not a key of role {role}")
    names = [name for name in path.split("/") if name not in ("", ".")]
    if not path.startswith("/") or not names or ".." in names or not path.isprintable():
        raise errors.InvalidArgument(f"--subtree is the absolute path of a directory below /, without '..': {path!r}")
    return "/" + "/".join(names)


def cluster_keys(explicit: Path | None) -> tuple[Path, KeyFile]:
    """The master secrets in a file: the one that is named, beside the chosen configuration, this machine's NameNode's,
    or the local cluster's. Raises `ConfigError`.
    """
    beside = config.client_config_path(chosen().config)
    places = [explicit] if explicit else [*([beside.with_name("cluster.keys")] if beside else []), ETC / "cluster.keys"]
    for place in [*places, *([] if explicit else [config.local_cluster_dir() / "cluster.keys"])]:
        if explicit or place.exists():
            return place, keys.load_cluster(place)
    raise errors.ConfigError(
        "which cluster is it to be? say --keys FILE, with the file that `dfs init` or `dfs key init` made"
    )


# --- the cluster ----------------------------------------------------------------------------------------


class _Holder(NamedTuple):
    """Who was seen with a key: `age_s` since then."""

    role: str
    name: str
    generation: int
    age_s: float
    is_connected: bool

    def __str__(self) -> str:
        return f"{self.role} {self.name}"


@key.command()
@config_option
def status() -> int:
    """Show the generations of keys, who uses which, and which keys are revoked."""

    async def body(fs: FileSystem) -> None:
        for line in status_lines(await fs.session.query("key_status")):
            show.echo(line)

    return run(body)


@key.command()
@click.argument("generation", type=click.IntRange(1))
@click.option("--force", is_flag=True, help="Though it is still used: those who use it are cut off.")
@keys_option
@config_option
def retire(generation: int, force: bool, file: Path | None) -> int:
    """End an old GENERATION of keys: they are refused from then on, everywhere."""
    path, content = cluster_keys(file)
    known = content.masters.generations
    if generation not in known or generation == known[-1]:
        others = ", ".join(map(str, known[:-1]))
        can_be = f"those that can be: {others}" if others else f"there is only {known[-1]}, which is in use"
        raise errors.InvalidArgument(f"generation {generation} cannot be retired; {can_be}")

    async def body(fs: FileSystem) -> None:
        await _wait_until_unused(fs, generation)

    if not force and (ended := run(body)):
        return ended
    with keys.locked(path):
        content = keys.load_cluster(path)  # as it is now, after the wait: it may have a newer generation
        keys.replace(path, content._replace(masters=content.masters.without(generation)))
    show.say(f"{path}: generation {generation} is retired: its keys are refused as soon as the NameNode has seen this.")
    return 0


@key.command()
@click.argument("name")
@_role_option
@config_option
def revoke(name: str, role: str) -> int:
    """Refuse the key called NAME from now on: its connections are closed, its sessions end.

    Of a DataNode's key (--role node) that is half of it: says what else is to be done if others may have its file.
    Says so if nobody was seen with such a key since the NameNode's start, as the name may be a slip.
    """

    async def body(fs: FileSystem) -> None:
        known = await fs.session.query("key_status")
        closed = await fs.session.query("revoke_key", [role, name])
        show.say(
            f"the key of {role} {name} is refused from now on; {show.counted(closed, 'connection')} with the NameNode"
            " closed, those with DataNodes within seconds"
        )
        for line in what_else(role, name):
            show.say(line)
        if doubt := never_seen(known, role, name):
            complain(doubt)

    return run(body)


@key.command()
@click.argument("name")
@_role_option
@config_option
def restore(name: str, role: str) -> int:
    """Let the key called NAME count again, after it was revoked."""

    async def body(fs: FileSystem) -> None:
        await fs.session.query("restore_key", [role, name])
        show.say(f"the key of {role} {name} counts again")

    return run(body)


def what_else(role: str, name: str) -> list[str]:
    """What revoking does not do: a DataNode's file has the secrets of which those of all keys are made."""
    if role != Role.NODE:
        return []
    return [
        "Its file has secrets that are not its own: whoever has that can still pass for anybody at the DataNodes.",
        f"If it may be in strange hands, `dfs remove {name}`, then `dfs key rotate`, then `dfs key retire` for every",
        "older generation: that ends it.",
    ]


def never_seen(found: Mapping[str, Any], role: str, name: str) -> str:
    """What makes a name that is revoked look like a slip: nobody was seen with such a key. "" if somebody was."""
    seen = {(each.role, each.name) for each in _holders(found)} | {
        (str(Role.NODE), node) for node, _, _ in found["nodes"]
    }
    if (role, name) in seen:
        return ""
    others = ", ".join(f"{other} {name}" for other, known in sorted(seen) if known == name)
    return (
        f"nobody was seen with the key of {role} {name} since the NameNode's start"
        + (f", but with that of {others} (--role)" if others else "")
        + f": if it is the wrong one, `dfs key restore {name} --role {role}` takes this back"
    )


async def _wait_until_unused(fs: FileSystem, generation: int) -> None:
    """Raises `Busy`, naming who uses the generation, if that has not ended after KEY_RETIRE_WAIT_S."""
    import trio

    users: Sequence[str] = ()
    with trio.move_on_after(limits.KEY_RETIRE_WAIT_S):
        while True:
            found = await fs.session.query("key_status")
            users = users_of(found, generation, fs.session.cluster["session_timeout_s"])
            if not users:
                _warn_of_absent(found, generation)
                return
            await trio.sleep(limits.PROGRESS_WAIT_S)
    raise errors.Busy(
        f"generation {generation} is still used by {', '.join(users)}: wait until they have newer keys"
        " (`dfs key status`), or cut them off with --force"
    )


def _warn_of_absent(found: Mapping[str, Any], generation: int) -> None:
    absent = sorted({str(each) for each in _latest(found) if each.generation <= generation})
    if absent:
        complain(
            f"seen last with a key of generation {generation}, and away now: {', '.join(absent)}: they will be refused"
        )


def users_of(found: Mapping[str, Any], generation: int, timeout_s: float) -> list[str]:
    """Who is cut off when a generation is retired: DataNodes that know no newer one, and who is here with such a key.

    One who was seen within `timeout_s` is here, unless he was seen with a newer key since.
    """
    users = [f"node {node} ({state})" for node, state, known in found["nodes"] if not _has_newer(known, generation)]
    if found["in_use"] <= generation:
        users.append("all who come: no newer one is in use yet")
    present = {*(each for each in _holders(found) if each.is_connected)}
    present |= {each for each in _latest(found) if each.age_s < timeout_s}
    return users + sorted({str(each) for each in present if each.generation == generation} - set(users))


def _has_newer(known: Sequence[int], generation: int) -> bool:
    return any(each > generation for each in known)


def _holders(found: Mapping[str, Any]) -> list[_Holder]:
    return [_Holder(*each) for each in found["holders"]]


def _latest(found: Mapping[str, Any]) -> list[_Holder]:
    """Of each holder the key with which he was seen last."""
    latest: dict[tuple[str, str], _Holder] = {}
    for each in _holders(found):
        known = latest.get((each.role, each.name))
        if known is None or (each.age_s, -each.generation) < (known.age_s, -known.generation):
            latest[each.role, each.name] = each
    return list(latest.values())


def status_lines(found: Mapping[str, Any]) -> list[str]:
    """What `dfs key status` prints."""
    lines = []
    for generation in found["generations"]:
        lines.append(f"Generation {generation}: {_generation_words(found, generation)}")
    if found["waits_for"]:
        lines.append(
            f"Waiting for DataNodes {', '.join(map(show.printable, found['waits_for']))} to accept the newest."
        )
    rows = [["Key", "Generation", "Seen"]]
    for each in sorted(_holders(found)):
        seen = "connected" if each.is_connected else f"{show.age(each.age_s)} ago"
        rows.append([show.printable(str(each)), str(each.generation), seen])
    lines += ["", *show.table(rows, right=(1,))]
    if found["revoked"]:
        names = ", ".join(show.printable(f"{role} {name}") for role, name in found["revoked"])
        lines += ["", f"Revoked: {names}"]
    return lines


def _generation_words(found: Mapping[str, Any], generation: int) -> str:
    if generation == found["in_use"]:
        return "in use: keys of it are issued"
    return "to come" if generation > found["in_use"] else f"old: `dfs key retire {generation}` when nobody uses it"
