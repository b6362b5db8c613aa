"""`join`: tokens for new machines, and what these do with them.

`dfs join token` is said on the NameNode's machine, `dfs join HOST` on the new one, which asks for the token: what
stands in a command line is seen by all who list processes, and stays in the shell's history.
"""

from __future__ import annotations

import re
import shlex
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import click

from dfs import config, errors, keys, limits, tokens
from dfs.cli import machine
from dfs.cli.arguments import ArgumentType, NamedPath
from dfs.cli.context import complain
from dfs.cli.init import add_datanode
from dfs.cli.keys import ROLES, cluster_keys, keys_option, subtree_claim
from dfs.cli.machine import Files
from dfs.cli.show import say
from dfs.keys import Key, KeyFile, Role

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
_DISK: Final = Path("/srv/dfs/disk1")
_DIRECTORY: Final = NamedPath(path_type=Path, file_okay=False)


# --- the token ------------------------------------------------------------------------------------------


def _seconds(_ctx: click.Context, _param: click.Parameter, value: str) -> int:
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", value.strip())
    seconds = int(match[1]) * _UNITS_S[match[2]] if match else 0
    if not 0 < seconds <= limits.TOKEN_EXPIRES_MAX_S:
        raise click.BadParameter(f"is a time like 30m, 1h or 2d, {limits.TOKEN_EXPIRES_MAX_S / 86400:g}d at most")
    return seconds


@click.command()
@click.option("--role", type=click.Choice(ROLES), default=str(Role.NODE), show_default=True)
@click.option("--name", default="", help="Of the key; unless given, the new machine's name.")
@click.option("--subtree", help="Hold a client or a reader to this directory.")
@click.option("--expires", callback=_seconds, default="1h", show_default=True, help="How long the token is good.")
@keys_option
@click.option("-q", "--quiet", is_flag=True, help="Print the token and nothing else.")
def token(role: str, name: str, subtree: str | None, expires: int, file: Path | None, quiet: bool) -> None:
    """Make a token, with which one machine may join, once."""
    limit = "" if subtree is None else subtree_claim(subtree, role)
    path, content = cluster_keys(file)
    word = tokens.issue(content.masters, Role(role), name, limit, int(time.time()) + expires, content.authority)
    where = _namenode_near(path)
    if machine.is_loopback(where):
        complain(
            f"no other machine reaches the NameNode at {where}: `listen` in {path.with_name('namenode.toml')} says"
            " where it is reached"
        )
    if quiet:
        say(word)
        return
    say(f"Run this on the new machine, once, within {_in_words(expires)}:")
    say("")
    say(f"    dfs join {shlex.quote(where)}")
    say("")
    say("It asks for the token; --token-file FILE has it read one, and --token - standard input:")
    say("")
    say(f"    {word}")


def _in_words(seconds: int) -> str:
    unit = next(unit for unit in reversed(_UNITS_S) if seconds % _UNITS_S[unit] == 0)
    return f"{seconds // _UNITS_S[unit]} {unit}"


def _namenode_near(cluster_keys: Path) -> str:
    """Where other machines reach the NameNode whose configuration is beside the keys."""
    path = cluster_keys.with_name("namenode.toml")
    if not path.exists():
        return "HOST"
    listen = config.load_namenode(path).listen
    host, port = machine.own_host(listen), machine.port_of(listen)
    return host if port == limits.NAMENODE_PORT else f"{host}:{port}"


# --- the new machine ------------------------------------------------------------------------------------


class _Join(click.Command):
    """`dfs join HOST`; and `dfs join token` is another command."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if args and args[0] == token.name:
            return token.make_context(f"{info_name} {token.name}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


class _Host(ArgumentType):
    """Where a NameNode is. A name of one word is looked up: it may be meant for another word, as `tokn`."""

    name = "host"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not {".", ":"}.intersection(value):
            try:
                socket.getaddrinfo(value, None)
            except (OSError, UnicodeError):
                self.fail(
                    f"nothing is known of a machine called {value!r}; `dfs join {token.name}` makes a token", param, ctx
                )
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(str(token.name))] if str(token.name).startswith(incomplete) else []


@click.command(cls=_Join)
@click.argument("namenode", metavar="HOST[:PORT]", type=_Host())
@click.option(
    "--token",
    "word",
    metavar="T",
    help="What `dfs join token` printed; - reads it from standard input. Unless given it is asked for, which leaves it"
    " in no list of processes and in no history.",
)
@click.option("--token-file", "file", type=click.File("rb"), help="The file that has it.")
@click.option("--dir", "directory", type=_DIRECTORY, default=machine.ETC, show_default=True, help="For the files.")
@click.option(
    "--data",
    "disks",
    type=_DIRECTORY,
    multiple=True,
    help=f"Of a DataNode: a directory for chunks, one for each disk; repeatable. {_DISK} unless given.",
)
@click.option("--name", default="", help="Of this machine in the cluster; its own name unless given.")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=limits.DATANODE_PORT, show_default=True, help="Of a DataNode."
)
@click.option("--no-start", is_flag=True, help="Do not start the DataNode.")
def join(
    namenode: str,
    word: str | None,
    file: BinaryIO | None,
    directory: Path,
    disks: tuple[Path, ...],
    name: str,
    port: int,
    no_start: bool,
) -> None:
    """Have this machine join the cluster whose NameNode is at HOST, with a token from there.

    \b
    dfs join token      on the NameNode's machine: prints the command for the new one, and a token
    dfs join HOST       on the new machine: asks for the token, and makes it a DataNode or a client

    What the token is good for, a DataNode or a client, is written as configuration with comments and a key; a DataNode
    is started where systemd has its unit.
    """
    found = tokens.parse(_given_token(word, file))
    grant = tokens.grant(found.id)
    address = config.with_port(namenode, limits.NAMENODE_PORT)
    directory = directory.absolute()
    wished = _wished_name(grant, name)
    if grant.role == Role.NODE:
        _join_as_node(address, found, wished, directory, disks or (_DISK,), port, no_start=no_start)
    elif disks:
        raise click.UsageError(f"--data is for DataNodes: the token is one for a {grant.role}")
    else:
        _join_as_client(address, found, wished, directory)


def _given_token(word: str | None, file: BinaryIO | None) -> str:
    """The token from where it is said to be, or from the terminal. Raises `UsageError` for none, and for two."""
    if word is not None and file is not None:
        raise click.UsageError("--token and --token-file both give the token: leave one away")
    if word not in (None, "-"):
        return word
    if file is None and sys.stdin.isatty():
        asked: str = click.prompt("Token", hide_input=True, err=True)
        return asked
    if word is None and file is None:
        raise click.UsageError("there is no terminal to ask for the token: say --token-file FILE or --token -")
    return (file or sys.stdin.buffer).read(limits.TOKEN_MAX_BYTES).decode("ascii", "replace")


def _wished_name(grant: tokens.Grant, name: str) -> str:
    if grant.name and name not in ("", grant.name):
        raise click.UsageError(f"the token is for {grant.name}, not for {name}: leave --name away")
    return grant.name or name or machine.node_name()


def _exchange(address: str, token: Key, name: str) -> KeyFile:
    """The token becomes a key. Raises what stands against it."""
    import trio

    from dfs.client.joining import join as ask
    from dfs.telemetry import configure_logs

    configure_logs("error")
    return trio.run(ask, address, token, name)


def _join_as_node(
    address: str, token: Key, name: str, directory: Path, disks: tuple[Path, ...], port: int, *, no_start: bool
) -> None:
    host = machine.address_towards(address)

    def plan(content: KeyFile) -> Files:
        files = Files(directory)
        add_datanode(files, directory, content, address, host, disks, port)
        return files

    _carry_out(plan, address, token, name)
    say(f"This machine is DataNode {name} of the cluster: see {directory / 'datanode.toml'}.")
    if machine.is_loopback(host):
        say(f"Other machines do not reach it at {host}: join with an address of the NameNode that they use as well.")
    if no_start or not machine.has_units(directory):
        say(f"Start it with `dfs datanode --config {directory / 'datanode.toml'}`.")
        return
    complaint = machine.start(["dfs-datanode.service"])
    if complaint is not None:
        raise errors.Busy(
            f"it has joined, but could not be started: {complaint}: mend that, then `systemctl enable --now"
            " dfs.target dfs-datanode`; no other token is needed"
        )
    say("It is started, and will be at each boot.")


def _join_as_client(address: str, token: Key, name: str, directory: Path) -> None:
    def plan(content: KeyFile) -> Files:
        files = Files(directory)
        files.add_key(directory / "client.key", content, is_daemons=False)
        files.add(directory / "client.toml", config.commented(config.ClientConfig(namenode=address)))
        return files

    _carry_out(plan, address, token, name)
    say(f"This machine is {tokens.grant(token.id).role} {name} of the cluster: see {directory / 'client.toml'}.")
    option = "" if directory == machine.ETC else f" --config {directory / 'client.toml'}"
    say(f"Try `dfs ls{option} /`, or `dfs mount{option} /mnt/dfs`.")


def _carry_out(plan: Any, address: str, token: Key, name: str) -> None:
    """Have the directories, then the key, then the files: what can fail here fails before the token is used up."""
    grant = tokens.grant(token.id)
    nothing = KeyFile(Key(keys.KeyId(1, grant.role, name), dict.fromkeys(keys.REALMS, bytes(32))), keys.Masters({}))
    files = plan(nothing)
    files.refuse_existing()
    files.make_directories()
    try:
        content = _exchange(address, token, name)
    except BaseException:
        files.take_back()
        raise
    final = plan(content)
    try:
        final.write()
    except OSError as error:
        files.take_back()
        raise errors.ConfigError(
            f"the key could not be written, and the token is used up: {error}: mend that, and make another token with"
            " `dfs join token`"
        ) from None
