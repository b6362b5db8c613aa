"""The lines of the table: what is done to a `Target`, and what must be there before.

What a work needs and is not there is made before it, untimed. It ends when everything is done or the time is up,
whichever comes first; the works after it make do with what there is.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import trio

from dfs import errors
from dfs.cli.bench.figures import Figures, Stopwatch
from dfs.cli.bench.target import Breather, Target

SMALL_BYTES: Final = 4096
_BIG: Final = "big"
_LISTINGS: Final = 20
"""Of the directory with all empty files."""


@dataclasses.dataclass
class Place:
    """A target, how much to do, and what has been made there so far."""

    target: Target
    size_bytes: int
    files: int
    limit_s: float
    clock: Callable[[], float]
    chance: random.Random
    pattern: memoryview
    big_bytes: int = 0
    small: int = 0
    """Files of a few bytes: `small/0`, `small/1`, ..."""
    empty: int = 0
    """Empty files: `empty/0`, `empty/1`, ..."""
    moved: int = 0
    """Of the empty files, those that are called `empty/moved-0`, ... now."""
    directories: set[str] = dataclasses.field(default_factory=set)

    def watch(self) -> Stopwatch:
        return Stopwatch(self.clock, self.limit_s)

    async def need_directory(self, path: str) -> None:
        if path not in self.directories:
            await self.target.mkdir(path)
            self.directories.add(path)

    async def steps(self, watch: Stopwatch, count: int, step: Callable[[int], Awaitable[int]]) -> int:
        """Call `step` with 0, 1, ... and take its time, until `count` or the time is reached; how many there were.

        A step answers how many bytes it moved.
        """
        watch.start()
        breather = Breather()
        for number in range(count):
            watch.lap(await step(number))
            await breather.give()
            if watch.is_over:
                break
        return watch.steps


Do = Callable[[Place, Stopwatch], Awaitable[None]]
Prepare = Callable[[Place], Awaitable[None]]


class Work(NamedTuple):
    """One line."""

    name: str
    group: str
    title: str
    prepare: Prepare
    do: Do
    cache: str = "-"
    """`cold`: this machine's kernel was made to forget the bytes before; `warm`: it was read before."""
    only_rereads: bool = False
    """Left out where reading again is the same."""


async def measure(place: Place, work: Work) -> Figures:
    """Do once what was prepared. Raises what the target raises."""
    watch = place.watch()
    await work.do(place, watch)
    return watch.stop()


# --- large files ----------------------------------------------------------------------------------------


async def _nothing(_: Place) -> None:
    pass


async def _seq_write(place: Place, watch: Stopwatch) -> None:
    await place.target.write_whole(_BIG, place.size_bytes, place.pattern, watch)
    place.big_bytes = watch.moved_bytes


async def _need_big(place: Place) -> None:
    if not place.big_bytes:
        await _seq_write(place, place.watch())


async def _need_big_cold(place: Place) -> None:
    await _need_big(place)
    await place.target.forget(_BIG)


async def _need_big_warm(place: Place) -> None:
    await _need_big(place)
    await place.target.read_whole(_BIG, place.watch())


async def _seq_read(place: Place, watch: Stopwatch) -> None:
    await place.target.read_whole(_BIG, watch)


async def _rand_read(place: Place, watch: Stopwatch) -> None:
    file = await place.target.open(_BIG, "r")

    async def read(_: int) -> int:
        return await file.pread(SMALL_BYTES, _random_block(place))

    try:
        await place.steps(watch, place.big_bytes // SMALL_BYTES, read)
    finally:
        await file.aclose()


async def _rand_write(place: Place, watch: Stopwatch) -> None:
    file = await place.target.open(_BIG, "r+")
    data = place.pattern[:SMALL_BYTES]

    async def write(_: int) -> int:
        await file.pwrite(data, _random_block(place))
        return SMALL_BYTES

    try:
        await place.steps(watch, place.big_bytes // SMALL_BYTES, write)
        await file.fsync()
    finally:
        await file.aclose()


def _random_block(place: Place) -> int:
    return place.chance.randrange(max(1, place.big_bytes // SMALL_BYTES)) * SMALL_BYTES


async def _append_fsync(place: Place, watch: Stopwatch) -> None:
    file = await place.target.open("log", "a")
    data = place.pattern[:SMALL_BYTES]

    async def append(_: int) -> int:
        await file.pwrite(data, 0)
        await file.fsync()
        return SMALL_BYTES

    try:
        await place.steps(watch, place.files, append)
    finally:
        await file.aclose()


# --- small files ----------------------------------------------------------------------------------------


async def _need_small_directory(place: Place) -> None:
    await place.need_directory("small")


async def _small_create(place: Place, watch: Stopwatch) -> None:
    async def create(number: int) -> int:
        file = await place.target.open(f"small/{number}", "x")
        try:
            await file.pwrite(place.pattern[:SMALL_BYTES], 0)
        finally:
            await file.aclose()
        return SMALL_BYTES

    place.small = await place.steps(watch, place.files, create)


async def _need_small_cold(place: Place) -> None:
    if not place.small:
        await _need_small_directory(place)
        await _small_create(place, place.watch())
    breather = Breather()
    for number in range(place.small):
        await place.target.forget(f"small/{number}")
        await breather.give()


async def _small_read(place: Place, watch: Stopwatch) -> None:
    async def read(number: int) -> int:
        file = await place.target.open(f"small/{number}", "r")
        try:
            count = await file.pread(SMALL_BYTES, 0)
        finally:
            await file.aclose()
        if count != SMALL_BYTES:
            raise errors.DataLost(f"small/{number} has {count} bytes, and {SMALL_BYTES} were written")
        return count

    await place.steps(watch, place.small, read)


# --- metadata -------------------------------------------------------------------------------------------


async def _need_directories(place: Place) -> None:
    await place.need_directory("directories")


async def _mkdir(place: Place, watch: Stopwatch) -> None:
    async def make(number: int) -> int:
        await place.target.mkdir(f"directories/{number}")
        return 0

    await place.steps(watch, place.files, make)


async def _need_empty_directory(place: Place) -> None:
    await place.need_directory("empty")


async def _create(place: Place, watch: Stopwatch) -> None:
    async def create(number: int) -> int:
        await (await place.target.open(f"empty/{number}", "x")).aclose()
        return 0

    place.empty = await place.steps(watch, place.files, create)


async def _need_empty(place: Place) -> None:
    if not place.empty:
        await _need_empty_directory(place)
        await _create(place, place.watch())


def _called(place: Place, number: int) -> str:
    return f"empty/moved-{number}" if number < place.moved else f"empty/{number}"


async def _stat(place: Place, watch: Stopwatch) -> None:
    async def look(number: int) -> int:
        await place.target.stat(_called(place, number))
        return 0

    await place.steps(watch, place.empty, look)


async def _list(place: Place, watch: Stopwatch) -> None:
    for _ in range(_LISTINGS):
        watch.lap(operations=await place.target.list("empty"))
        await trio.lowlevel.checkpoint()
        if watch.is_over:
            break


async def _rename(place: Place, watch: Stopwatch) -> None:
    async def move(number: int) -> int:
        await place.target.rename(f"empty/{number}", f"empty/moved-{number}")
        place.moved = number + 1
        return 0

    await place.steps(watch, place.empty, move)


async def _unlink(place: Place, watch: Stopwatch) -> None:
    async def remove(number: int) -> int:
        await place.target.unlink(_called(place, number))
        return 0

    await place.steps(watch, place.empty, remove)


WORKS: Final = (
    Work("seq_write", "large", "sequential write, fsync", _nothing, _seq_write),
    Work("seq_read", "large", "sequential read", _need_big_cold, _seq_read, "cold"),
    Work("seq_reread", "large", "sequential read, again", _need_big_warm, _seq_read, "warm", only_rereads=True),
    Work("rand_read", "large", "random read, 4 KiB", _need_big_cold, _rand_read, "cold"),
    Work("rand_write", "large", "random write, 4 KiB, fsync", _need_big, _rand_write),
    Work("append", "append", "4 KiB, fsync each time", _nothing, _append_fsync),
    Work("small_create", "small", "create, write 4 KiB", _need_small_directory, _small_create),
    Work("small_read", "small", "open, read 4 KiB", _need_small_cold, _small_read, "cold"),
    Work("mkdir", "metadata", "make a directory", _need_directories, _mkdir),
    Work("create", "metadata", "create an empty file", _need_empty_directory, _create),
    Work("stat", "metadata", "stat", _need_empty, _stat, "warm"),
    Work("list", "metadata", "list with attributes", _need_empty, _list, "warm"),
    Work("rename", "metadata", "rename", _need_empty, _rename),
    Work("unlink", "metadata", "unlink", _need_empty, _unlink),
)
GROUPS: Final = tuple(dict.fromkeys(work.group for work in WORKS))


def chosen_works(names: tuple[str, ...], rereads: bool) -> list[Work]:
    """Those of these names or groups, all if there are none, in their order. Raises InvalidArgument."""
    known = {work.name for work in WORKS} | set(GROUPS)
    for name in names:
        if name not in known:
            listed = ", ".join([*GROUPS, *(work.name for work in WORKS if work.name not in GROUPS)])
            raise errors.InvalidArgument(f"there is nothing to measure called {name!r}: choose of {listed}")
    wanted = [work for work in WORKS if not names or work.name in names or work.group in names]
    different = [work for work in wanted if rereads or not work.only_rereads]
    if not different:
        raise errors.InvalidArgument("the Python API keeps nothing, and reads again as it did before: name a PATH")
    return different


def needed_bytes(works: list[Work], size_bytes: int, files: int) -> int:
    """What these will write at most. Names take no room in the cluster."""
    groups = {work.group for work in works}
    needed = size_bytes * 2 if groups & {"large"} else 0  # what is written over is given back later
    return needed + files * SMALL_BYTES * len(groups & {"small", "append"})
