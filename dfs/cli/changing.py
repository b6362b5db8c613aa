"""`delete`, `mkdir`, `mv` and `ln`: changes of the namespace."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from typing import TYPE_CHECKING

import click

from dfs import errors, limits
from dfs.cli import modes, show
from dfs.cli.arguments import (
    REMOTE,
    ArgumentType,
    beside,
    join,
    refuse_missing,
    refuse_missing_name,
    remote_paths,
    sources_and_target,
)
from dfs.cli.attributes import ModeType
from dfs.cli.context import Report, config_option, run

if TYPE_CHECKING:
    from dfs.client import FileSystem
    from dfs.types import Ino

# --- delete ---------------------------------------------------------------------------------------------


@click.command()
@remote_paths()
@click.option("-r", "-R", "--recursive", is_flag=True, help="Directories with all that is beneath.")
@click.option("-f", "--force", is_flag=True, help="What is not there is no error.")
@config_option
def delete(paths: tuple[bytes, ...], recursive: bool, force: bool) -> int:
    """Remove files; with -r directories and all that is beneath them."""
    return run(lambda fs: _delete(fs, paths, recursive, force))


async def _delete(fs: FileSystem, paths: tuple[bytes, ...], recursive: bool, force: bool) -> int:
    report = Report()
    for path in paths:
        with report.catching():
            _refuse_root(path)
            try:
                await (_delete_tree(fs, path, report) if recursive else _delete_file(fs, path))
            except errors.NotFound:
                if not force:
                    raise
    return report.status


def _refuse_root(path: bytes) -> None:
    if not [name for name in path.split(b"/") if name not in (b"", b".")]:
        raise errors.InvalidArgument("the root directory cannot be removed; name what is in it")


async def _delete_file(fs: FileSystem, path: bytes) -> None:
    try:
        await fs.remove(path)
    except errors.IsADirectory:
        raise errors.IsADirectory(f"is a directory (-r removes it and all beneath): {show.escaped(path)}") from None


async def _delete_tree(fs: FileSystem, path: bytes, report: Report) -> None:
    def on_error(where: bytes, error: errors.DfsError) -> None:
        report.fail(f"cannot remove {show.escaped(where)}: {error}")

    await fs.remove_tree(path, on_error=on_error)


# --- mkdir ----------------------------------------------------------------------------------------------


@click.command()
@remote_paths()
@click.option("-p", "--parents", is_flag=True, help="And those above that are missing; what is there is no error.")
@click.option("-m", "--mode", type=ModeType(), help="Permissions, as chmod takes them; without, 777 less the umask.")
@config_option
def mkdir(paths: tuple[bytes, ...], parents: bool, mode: list[modes.Change] | None) -> int:
    """Make directories."""

    async def body(fs: FileSystem) -> int:
        report = Report()
        for path in paths:
            with report.catching():
                await _mkdir(fs, path, parents, mode)
        return report.status

    return run(body)


async def _mkdir(fs: FileSystem, path: bytes, parents: bool, mode: list[modes.Change] | None) -> None:
    if parents and mode is not None and await fs.exists(path):
        mode = None  # it stays as it is; that it is a directory, `mkdir` says
    attr = await fs.mkdir(path, parents=parents, exist_ok=parents)
    if mode is not None:
        bits = modes.changed(mode, 0o777, directory=True, umask=fs.umask)
        if bits != stat.S_IMODE(attr.mode):
            await fs.inodes.setattr(attr.ino, {"mode": bits})


# --- mv -------------------------------------------------------------------------------------------------


@click.command()
@sources_and_target(REMOTE, REMOTE)
@click.option("-n", "--no-clobber", is_flag=True, help="Never take the place of a file that is there.")
@config_option
def mv(sources: tuple[bytes, ...], target: bytes | None, no_clobber: bool) -> int:
    """Rename SRC to DST, or move each SRC into DST if that is a directory."""
    there = refuse_missing(sources, target)
    return run(lambda fs: _mv(fs, sources, there, no_clobber))


async def _mv(fs: FileSystem, sources: tuple[bytes, ...], target: bytes, no_clobber: bool) -> int:
    into = await is_directory(fs, target)
    if len(sources) > 1 and not into:
        raise errors.NotADirectory(
            f"several files need a directory to go to, which this is not: {show.escaped(target)}"
        )
    report = Report()
    for source in sources:
        with report.catching():
            place = join(target, refuse_missing_name(source)) if into else target
            if not no_clobber and await _is_other_name(fs, source, place):
                await fs.remove(source)
            else:
                await fs.rename(source, place, replace=not no_clobber)
    return report.status


async def _is_other_name(fs: FileSystem, source: bytes, place: bytes) -> bool:
    """Whether they are two names of one file, which rename(2) leaves both. Raises `InvalidArgument` if they are one."""
    try:
        there = await fs.stat(place, follow=False)
    except errors.NotFound:
        return False
    if (await fs.stat(source, follow=False)).ino != there.ino or stat.S_ISDIR(there.mode):
        return False
    if await _entry(fs, source) == await _entry(fs, place):
        raise errors.InvalidArgument(f"this is the same file: {show.escaped(source)} and {show.escaped(place)}")
    return True


async def _entry(fs: FileSystem, path: bytes) -> tuple[Ino, bytes]:
    """The directory that a path ends in, and the name there."""
    above, _, name = path.rstrip(b"/").rpartition(b"/")
    return (await fs.stat(above or b"/")).ino, name


async def is_directory(fs: FileSystem, path: bytes) -> bool:
    """Whether a directory is there, symbolic links followed."""
    try:
        return stat.S_ISDIR((await fs.stat(path)).mode)
    except errors.NotFound:
        return False


# --- ln -------------------------------------------------------------------------------------------------


class LinkTarget(ArgumentType):
    """What a link leads to: of a symbolic link, any text, which stays as it is."""

    name = "path"

    def convert(self, value: str | bytes, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        return os.fsencode(value)


@click.command()
@click.argument("target", type=LinkTarget())
@click.argument("link", type=REMOTE)
@click.option("-s", "--symbolic", is_flag=True, help="A symbolic link, which holds TARGET as it is written.")
@click.option("-f", "--force", is_flag=True, help="Take the place of a file that is there.")
@config_option
def ln(target: bytes, link: bytes, symbolic: bool, force: bool) -> int:
    """Make LINK a link to TARGET; if LINK is a directory, make the link in it."""
    return run(lambda fs: _ln(fs, target, link, symbolic, force))


async def _ln(fs: FileSystem, target: bytes, link: bytes, symbolic: bool, force: bool) -> None:
    if not target:
        raise errors.InvalidArgument("a link cannot lead to nothing: name a TARGET")
    if await is_directory(fs, link):
        link = join(link, refuse_missing_name(target))
    if symbolic:
        await make_symlink(fs, target, link, replace=force)
    else:
        await _make_link(fs, target, link, replace=force)


async def make_symlink(fs: FileSystem, target: bytes, path: bytes, *, replace: bool) -> None:
    """A symbolic link at `path`; with `replace` it takes, in one moment, the place of a file that is there."""
    try:
        await fs.symlink(target, path)
    except errors.Exists:
        if not replace:
            raise
        draft = beside(path, secrets.token_hex(4))
        await fs.symlink(target, draft)
        await _take_place(fs, draft, path)


async def _make_link(fs: FileSystem, source: bytes, path: bytes, *, replace: bool) -> None:
    try:
        await fs.link(source, path)
    except errors.Exists:
        if not replace:
            raise
        there, wanted = await fs.stat(path, follow=False), await fs.stat(source, follow=False)
        if there.ino == wanted.ino:
            return  # renaming one name of a file to another does nothing, and would leave the draft
        draft = beside(path, secrets.token_hex(4))
        await fs.link(source, draft)
        await _take_place(fs, draft, path)


async def _take_place(fs: FileSystem, draft: bytes, path: bytes) -> None:
    import trio

    try:
        await fs.rename(draft, path)
    except BaseException:
        with trio.move_on_after(limits.CALL_TIMEOUT_S, shield=True), contextlib.suppress(errors.DfsError):
            await fs.remove(draft)
        raise
