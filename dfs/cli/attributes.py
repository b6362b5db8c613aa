"""`chmod`, `chown` and `touch`: what an inode says of itself. Recursive changes go by inode numbers, many at once."""

from __future__ import annotations

import grp
import pwd
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from dfs import errors, limits, posix
from dfs.cli import modes, show
from dfs.cli.arguments import ArgumentType, remote_paths
from dfs.cli.context import Report, config_option, run

if TYPE_CHECKING:
    from dfs.cli.walk import Met
    from dfs.client import FileSystem
    from dfs.types import Attr

Wanted = Callable[["Attr"], dict[str, int | str]]
"""What to set of an inode; nothing, if it is to stay as it is."""


async def change(fs: FileSystem, paths: tuple[bytes, ...], wanted: Wanted, *, recursive: bool, follow: bool) -> int:
    """Set attributes of each path, and of all beneath it where `recursive`; the exit status."""
    from dfs.cli.crew import crew
    from dfs.cli.walk import Met, walk

    report = Report()

    async def set_one(met: Met) -> None:
        if changes := wanted(met.attr):
            with report.catching():
                await _set(fs, met, changes)

    async with crew(limits.LOOKUPS_AT_ONCE if recursive else 1, set_one) as put:
        for path in paths:
            with report.catching():
                attr = await fs.stat(path, follow=follow)
                if not recursive:
                    await put(Met(path, attr, 0, True))
                    continue
                async for met in walk(fs, path, attr):
                    await put(met)
    return report.status


async def _set(fs: FileSystem, met: Met, changes: dict[str, int | str]) -> None:
    try:
        await fs.inodes.setattr(met.attr.ino, changes)
    except errors.NotFound:
        raise errors.NotFound(f"no such file or directory: {show.escaped(met.path)}") from None


# --- chmod ----------------------------------------------------------------------------------------------


class ModeType(ArgumentType):
    """A mode as chmod takes it."""

    name = "mode"

    def convert(
        self, value: str | list[modes.Change], param: click.Parameter | None, ctx: click.Context | None
    ) -> list[modes.Change]:
        if not isinstance(value, str):
            return value
        try:
            return modes.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command(context_settings={"ignore_unknown_options": True})  # `-w` is a mode
@click.argument("mode", type=ModeType())
@remote_paths()
@click.option("-R", "recursive", is_flag=True, help="And all that is beneath.")
@config_option
def chmod(mode: list[modes.Change], paths: tuple[bytes, ...], recursive: bool) -> int:
    """Change permissions. MODE is octal (644) or symbolic (u+rwx,g-w)."""

    async def body(fs: FileSystem) -> int:
        def wanted(attr: Attr) -> dict[str, int | str]:
            if stat.S_ISLNK(attr.mode):
                return {}
            bits = modes.changed(mode, attr.mode, directory=stat.S_ISDIR(attr.mode), umask=fs.umask)
            return {} if bits == stat.S_IMODE(attr.mode) else {"mode": bits}

        return await change(fs, paths, wanted, recursive=recursive, follow=True)

    return run(body)


# --- chown ----------------------------------------------------------------------------------------------


def parse_owner(text: str) -> dict[str, int | str]:
    """`uid` and `gid` of `[OWNER][:GROUP]`, names or numbers. Raises ValueError with a sentence.

    `OWNER:` stands for the owner's login group.
    """
    owner, colon, group = text.partition(":")
    if not owner and not group:
        raise ValueError(f"names neither an owner nor a group: {text!r}; write OWNER, OWNER:GROUP or :GROUP")
    wanted: dict[str, int | str] = {}
    if owner:
        wanted["uid"] = _uid(owner)
    if group:
        wanted["gid"] = _gid(group)
    elif colon:
        wanted["gid"] = _login_group(owner)
    return wanted


def _uid(name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return _number(name, "user")


def _gid(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return _number(name, "group")


def _login_group(name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_gid
    except KeyError:
        raise ValueError(f"no login group is known of {name!r}; name the group after the colon") from None


def _number(name: str, kind: str) -> int:
    if not (name.isascii() and name.isdigit()) or int(name) > posix.ID_MAX:
        raise ValueError(f"no such {kind}: {name!r}")
    return int(name)


class OwnerType(ArgumentType):
    """`[OWNER][:GROUP]`."""

    name = "owner"

    def convert(
        self, value: str | dict[str, int | str], param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, int | str]:
        if not isinstance(value, str):
            return value
        try:
            return parse_owner(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.argument("owner", metavar="[OWNER][:GROUP]", type=OwnerType())
@remote_paths()
@click.option("-R", "recursive", is_flag=True, help="And all that is beneath; symbolic links themselves.")
@click.option("-h", "no_follow", is_flag=True, help="Symbolic links themselves, not what they lead to.")
@config_option
def chown(owner: dict[str, int | str], paths: tuple[bytes, ...], recursive: bool, no_follow: bool) -> int:
    """Change owner and group, by names or numbers."""

    def wanted(attr: Attr) -> dict[str, int | str]:
        now = {"uid": attr.uid, "gid": attr.gid}
        return {key: value for key, value in owner.items() if now[key] != value}

    return run(lambda fs: change(fs, paths, wanted, recursive=recursive, follow=not (recursive or no_follow)))


# --- touch ----------------------------------------------------------------------------------------------


@click.command()
@remote_paths()
@click.option("-c", "no_create", is_flag=True, help="Make no files.")
@config_option
def touch(paths: tuple[bytes, ...], no_create: bool) -> int:
    """Set the times of files to now, and make those that are missing, empty."""

    async def body(fs: FileSystem) -> int:
        report = Report()
        for path in paths:
            with report.catching():
                await _touch(fs, path, no_create)
        return report.status

    return run(body)


async def _touch(fs: FileSystem, path: bytes, no_create: bool) -> None:
    if not no_create:
        await fs.touch(path)
        return
    try:
        await fs.utime(path)
    except errors.NotFound:
        pass  # what -c is for
