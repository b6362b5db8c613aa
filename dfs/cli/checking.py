"""`fsck` and `why`: is the cluster sound, and what has become of the copies of a file.

What they print is read when something is wrong: a sentence a line, each with what to do about it.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any

import click

from dfs import errors
from dfs.cli import show
from dfs.cli.arguments import REMOTE
from dfs.cli.context import config_option, run
from dfs.cli.walk import walk

if TYPE_CHECKING:
    from dfs.client import FileSystem
    from dfs.client.fsck import Finding
    from dfs.client.why import ChunkReport
    from dfs.types import Attr, ChunkId

# --- fsck -----------------------------------------------------------------------------------------------


@click.command()
@click.argument("path", metavar="[PATH]", required=False, type=REMOTE)
@click.option("--repair", is_flag=True, help="Mend what can be mended without losing data.")
@click.option("--data", is_flag=True, help="Read and verify every byte of every copy as well.")
@click.option("--json", "as_json", is_flag=True, help="An array of objects.")
@config_option
def fsck(path: bytes | None, repair: bool, data: bool, as_json: bool) -> int:
    """Check that namespace, chunks and copies agree; with PATH, only what is beneath it.

    Ends with 0 if nothing is wrong, or all of it was mended, and with 1 if findings are left. A chunk with too few
    copies is a finding, which is left if no copy can be made, and not while the cluster sees to it by itself.

    May be run while the cluster is in use. Data of which no copy is left is never mended away: the finding says which
    files it concerns.
    """

    async def body(fs: FileSystem) -> int:
        if as_json:
            return await _fsck_json(fs, path, repair, data)
        found = mended = coming = 0
        async for finding in fs.fsck(path, repair=repair, data=data):
            found += 1
            mended += bool(finding.done)
            coming += finding.is_coming
            show.echo(show.printable(str(finding)))
        show.echo(summary(found, mended, coming))
        return int(found > mended + coming)

    return run(body)


async def _fsck_json(fs: FileSystem, path: bytes | None, repair: bool, data: bool) -> int:
    left = 0
    with show.JsonArray() as array:
        async for finding in fs.fsck(path, repair=repair, data=data):
            left += not (finding.done or finding.is_coming)
            array.add(finding_record(finding))
    return int(left > 0)


def finding_record(finding: Finding) -> dict[str, Any]:
    """A finding as JSON has it."""
    return {
        "kind": finding.kind,
        "what": finding.what,
        "remedy": finding.remedy,
        "can_be_repaired": finding.mend is not None,
        "done": finding.done or None,
    }


def summary(found: int, mended: int, coming: int) -> str:
    """The last line of `fsck`: how many findings, and what became of them. Of those `coming` copies are being made."""
    if not found:
        return "nothing wrong"
    count = show.counted(found, "finding")
    left = found - mended - coming
    if left == found:
        return count
    parts = [(mended, "repaired"), (coming, "being repaired"), (left, "left")]
    words = [(f"{number}" if number < found else "all") + f" {what}" for number, what in parts if number]
    return ", ".join([count, *words])


# --- why ------------------------------------------------------------------------------------------------


@click.command()
@click.argument("path", metavar="PATH", type=REMOTE)
@click.option("--data", is_flag=True, help="Read and verify every copy.")
@click.option(
    "--json", "as_json", is_flag=True, help="An array of objects; sizes in bytes, chunks by their numbers, in decimal."
)
@config_option
def why(path: bytes, data: bool, as_json: bool) -> int:
    """Say of each chunk of a file where its copies are, how they are, and why one is missing or being made.

    A chunk may hold several pieces of a file: of the first of them its offset in the file is told.

    Of a directory: how many chunks the files beneath have, and those that are not well, with one of their files each:
    small files share chunks. Ends with 1 if any is not well.
    """

    async def body(fs: FileSystem) -> int:
        attr = await fs.stat(path)
        if not stat.S_ISDIR(attr.mode) and not stat.S_ISREG(attr.mode):
            raise errors.InvalidArgument(f"only files and directories have copies of data: {show.escaped(path)}")
        if as_json:
            return await _why_json(fs, path, attr, data)
        if stat.S_ISDIR(attr.mode):
            return await _why_directory(fs, path, attr, data)
        return await _why_file(fs, path, attr, data)

    return run(body)


async def _why_file(fs: FileSystem, path: bytes, attr: Attr, data: bool) -> int:
    chunks = well = 0
    unseen = ""
    async for report in fs.why(attr, data=data):
        chunks += 1
        well += report.is_well
        unseen = unseen or report.unseen
        _print_chunk(report)
    if not chunks:
        show.echo(f"{show.escaped(path)} has no data, so there are no copies of it")
        return 0
    show.echo(_tally(chunks, well, unseen, data=data))
    return int(well < chunks)


async def _why_directory(fs: FileSystem, path: bytes, attr: Attr, data: bool) -> int:
    files = size = 0
    chunks: dict[ChunkId, bool] = {}  # is it well, as far as was told
    unseen = ""
    async for met in walk(fs, path, attr):
        if not stat.S_ISREG(met.attr.mode):
            continue
        files += 1
        is_named = False
        async for report in fs.why(met.attr, chunks, data=data):
            size += 0 if report.chunk in chunks else report.length
            chunks[report.chunk] = chunks.get(report.chunk, True) and report.is_well
            unseen = unseen or report.unseen
            if not report.is_well:
                if not is_named:
                    show.echo(f"{show.name(met.path)}:")
                is_named = True
                _print_chunk(report)
    well = sum(chunks.values())
    show.echo(f"{show.counted(files, 'file')}, chunks of {show.human(size)}")
    show.echo(_tally(len(chunks), well, unseen, data=data))
    return int(well < len(chunks))


async def _why_json(fs: FileSystem, path: bytes, attr: Attr, data: bool) -> int:
    ill = False
    told: set[ChunkId] = set()
    with show.JsonArray() as array:
        async for met in walk(fs, path, attr):
            if stat.S_ISREG(met.attr.mode):
                async for report in fs.why(met.attr, told, data=data):
                    told.add(report.chunk)
                    ill = ill or not report.is_well
                    array.add({"path": show.text(met.path), **chunk_record(report)})
    return int(ill)


def chunk_record(report: ChunkReport) -> dict[str, Any]:
    """A chunk as JSON has it."""
    return {
        **report._asdict(),
        "copies": [{**copy._asdict(), "condition": str(copy.condition)} for copy in report.copies],
        "is_well": report.is_well,
    }


def _print_chunk(report: ChunkReport) -> None:
    for line in chunk_lines(report):
        show.echo(show.printable(line))


def chunk_lines(report: ChunkReport) -> list[str]:
    """A chunk: its copies in a table, then what is to be said of them."""
    where = f"chunk {report.chunk:x}, first at {report.offset}"
    head = f"{where}: {report.length} bytes, {report.whole} of {report.wanted} copies"
    rows = [
        [f"  {copy.node}", copy.state, str(copy.condition), "-" if copy.length is None else str(copy.length)]
        for copy in report.copies
    ]
    return [head, *show.table(rows, right=(3,)), *(f"  {sentence}" for sentence in report.reasons)]


def _tally(chunks: int, well: int, unseen: str, *, data: bool) -> str:
    count = show.counted(chunks, "chunk")
    words = f"{count}, all well" if chunks == well else f"{count}, {chunks - well} not well"
    if not unseen:
        return words if data or well < chunks else f"{words} (`--data` reads them as well)"
    return (
        f"{words}, as far as the NameNode knows; whether DataNodes have the copies was not looked at, since"
        f" {unseen}: use a client's or an admin's"
    )
