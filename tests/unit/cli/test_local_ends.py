"""The local half of a transfer: drafts that are published or vanish, holes that stay holes, crews that are bounded."""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

import pytest
import trio

from dfs import errors, limits
from dfs.cli import streams
from dfs.cli.arguments import base_name, beside, join, refuse_missing_name
from dfs.cli.crew import crew
from dfs.cli.drafts import Draft, check_target
from dfs.cli.streams import FileSink, FileSource, SparseFileSource, StreamSink

# --- drafts ---------------------------------------------------------------------------------------------


def draft_of(target: Path, data: bytes = b"new") -> Draft:
    draft = Draft(os.fsencode(target))
    os.write(draft.fd, data)
    return draft


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_draft_appears_under_its_name_when_it_is_published(tmp_path: Path) -> None:
    draft = draft_of(tmp_path / "file")
    assert not (tmp_path / "file").exists()
    draft.publish(replace=False)
    draft.discard()
    assert (tmp_path / "file").read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


def test_a_draft_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    draft_of(tmp_path / "file").discard()
    assert names(tmp_path) == []


def test_a_draft_never_takes_a_place_by_accident(tmp_path: Path) -> None:
    draft = draft_of(tmp_path / "file")
    (tmp_path / "file").write_bytes(b"somebody else's")
    with pytest.raises(FileExistsError, match="-f replaces it"):
        draft.publish(replace=False)
    draft.discard()
    assert (tmp_path / "file").read_bytes() == b"somebody else's"
    assert names(tmp_path) == ["file"]


def test_a_draft_takes_a_place_when_asked_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    draft = draft_of(tmp_path / "file")
    draft.publish(replace=True)
    draft.discard()
    assert (tmp_path / "file").read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


def test_the_longest_name_has_room_for_a_draft(tmp_path: Path) -> None:
    target = tmp_path / ("n" * limits.NAME_MAX_BYTES)
    draft = draft_of(target)
    draft.publish(replace=False)
    draft.discard()
    assert target.read_bytes() == b"new"


def test_a_directory_that_is_missing_is_named_by_the_target(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        Draft(os.fsencode(tmp_path / "none" / "file"))
    assert caught.value.filename == os.fsencode(tmp_path / "none" / "file")


def test_a_target_is_looked_at_before_any_byte_is_moved(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.touch()
    os.mkfifo(tmp_path / "fifo")
    assert check_target(os.fsencode(tmp_path / "free"), False, True) is False
    assert check_target(os.fsencode(taken), True, True) is False
    assert check_target(os.fsencode(tmp_path / "fifo"), True, True) is True
    assert check_target(b"/dev/null", True, True) is True
    (tmp_path / "link").symlink_to("/dev/null")
    assert check_target(os.fsencode(tmp_path / "link"), True, True) is True
    with pytest.raises(FileExistsError):
        check_target(os.fsencode(taken), False, True)
    with pytest.raises(IsADirectoryError):
        check_target(os.fsencode(tmp_path), True, True)


def test_what_nobody_has_named_is_no_device_wherever_it_leads(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo"):
        with pytest.raises(FileExistsError):
            check_target(os.fsencode(tmp_path / name), False, False)
        assert check_target(os.fsencode(tmp_path / name), True, False) is False, "it is replaced"


# --- streams --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buffer_bytes", [1000, 3 * limits.MIB])
async def test_a_file_is_read_by_its_pieces_without_its_holes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffer_bytes: int
) -> None:
    monkeypatch.setattr(streams, "_PIECES_MAX", 7)
    path, chance = tmp_path / "sparse", random.Random(5)
    with path.open("wb") as file:
        for number in range(40):
            file.seek(number * 64 * limits.KIB)
            file.write(chance.randbytes(chance.randrange(1, 9000)))
        file.truncate(64 * limits.MIB)
    shown, position, read = bytearray(64 * limits.MIB), 0, 0
    with path.open("rb") as file:
        source, buffer = SparseFileSource(file.fileno(), os.fsencode(path)), memoryview(bytearray(buffer_bytes))
        while pieces := await source.read_pieces(buffer):
            at = 0
            for gap, length in pieces:
                position += gap
                shown[position : position + length] = buffer[at : at + length]
                position, at, read = position + length, at + length, read + length
    assert position == len(shown)
    assert shown == path.read_bytes()
    assert read < 2 * limits.MIB


async def test_holes_stay_holes_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    sink = FileSink(fd, os.fsencode(path))
    await sink.skip(8 * limits.MIB)
    await sink.write(memoryview(b"middle"))
    await sink.skip(8 * limits.MIB)
    os.ftruncate(fd, sink.length)
    os.close(fd)
    data = path.read_bytes()
    assert len(data) == 16 * limits.MIB + 6
    assert data.strip(b"\0") == b"middle"
    assert path.stat().st_blocks * 512 < limits.MIB


async def test_holes_are_zeros_in_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "out"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    sink = StreamSink(fd, os.fsencode(path))
    await sink.write(memoryview(b"a"))
    await sink.skip(limits.MIB + 3)
    await sink.write(memoryview(b"b"))
    os.close(fd)
    assert path.read_bytes() == b"a" + bytes(limits.MIB + 3) + b"b"


async def test_a_device_that_takes_no_more_is_named() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError) as caught:
        await StreamSink(fd, b"/dev/full").write(memoryview(b"a"))
    os.close(fd)
    assert caught.value.filename == b"/dev/full"


async def test_a_source_is_read_to_its_end_and_names_itself_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"hello")
    fd = os.open(path, os.O_RDONLY)
    source = FileSource(fd, b"in")
    buffer = memoryview(bytearray(16))
    assert (await source.readinto(buffer), await source.readinto(buffer[5:])) == (5, 0)
    assert buffer[:5] == b"hello"
    os.close(fd)
    directory = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(IsADirectoryError) as caught:
        await FileSource(directory, b"in").readinto(buffer)
    os.close(directory)
    assert caught.value.filename == b"in"


# --- crews ----------------------------------------------------------------------------------------------


async def test_a_crew_does_everything_with_no_more_workers_than_it_has() -> None:
    done: list[int] = []
    at_work = most = 0
    all_at_work = trio.Event()

    async def work(item: int) -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        if at_work == 3:
            all_at_work.set()
        await all_at_work.wait()
        at_work -= 1
        done.append(item)

    async with crew(3, work) as put:
        for item in range(50):
            await put(item)
    assert sorted(done) == list(range(50))
    assert most == 3


async def test_an_error_in_a_crew_ends_it_and_comes_out_as_it_was() -> None:
    async def work(_item: int) -> None:
        raise errors.Unreachable("no NameNode at x:1")

    with pytest.raises(errors.Unreachable):
        async with crew(2, work) as put:
            while True:
                await put(0)


# --- paths ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "name"),
    [(b"/a/b", b"b"), (b"a", b"a"), (b"a/b/", b"b"), (b"/", b""), (b".", b""), (b"a/.", b""), (b"..", b"..")],
)
def test_the_last_name_of_a_path(path: bytes, name: bytes) -> None:
    assert base_name(path) == name


def test_names_are_joined_to_directories() -> None:
    assert [join(b"/", b"x"), join(b"/a", b"x"), join(b"/a/", b"x"), join(b"/a", b"")] == [
        b"/x",
        b"/a/x",
        b"/a/x",
        b"/a",
    ]


@pytest.mark.parametrize("path", [b"/", b"/..", b"/a/..", b"/."])
def test_some_paths_name_no_entry(path: bytes) -> None:
    with pytest.raises(errors.InvalidArgument):
        refuse_missing_name(path)


def test_a_draft_stands_beside_its_target() -> None:
    assert beside(b"/dir/name", "ab12") == b"/dir/.name.dfs-ab12"
    assert beside(b"name", "ab12") == b".name.dfs-ab12"
    assert len(beside(b"/dir/" + b"n" * 255, "ab12")) == len(b"/dir/") + 255


def test_a_draft_is_private_until_it_is_finished(tmp_path: Path) -> None:
    draft = draft_of(tmp_path / "file")
    assert stat.S_IMODE(os.fstat(draft.fd).st_mode) == 0o600
    draft.discard()
