"""What clients do, and what they may see: random operations, each answer held against a model.

A client has a directory of its own, in which nobody else changes anything: there every answer is known beforehand
(tests.model.posix for names and attributes, `registers` for bytes). When the outcome of a change is not known, the
directory is left as it is, for the end to look at, and another one begun. What all clients share: a directory of
names (`linearizable`), a file to which all append whole records, and each other's files, to read.

Two kinds of clients: one of paths and `File`, as the command line and the Python API; one with open inodes and
write-back, as a mount. Operations raise only errors that the contract allows; which these are depends on the faults
of the run (`Rules`).
"""

from __future__ import annotations

import contextlib
import copy
import math
import random
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import trio

from dfs import errors, limits
from dfs.client import FileSystem
from dfs.client.file import File
from dfs.client.openfile import OpenFile
from dfs.client.openinode import OpenInode
from dfs.client.openinodes import OpenInodes
from dfs.client.stream import CommandStream
from dfs.types import Ino
from tests.model import posix
from tests.simulation import naming
from tests.simulation.linearizable import UNKNOWN, Operation
from tests.simulation.registers import GRAIN, Register
from tests.simulation.story import Story

RECORD: Final = 64
"""Bytes of one record in the shared log."""
_FILES: Final = ("a", "b", "c", "d")
_LINKS: Final = ("l", "m")
_DIRECTORIES: Final = ("s", "t")
_SHARED: Final = (b"x", b"y", b"z")
SAVED: Final = ("a", "b")
"""Files that all clients replace."""
_SAVED_MAX: Final = 40
"""Grains of them."""
_LOOKUPS: Final = 8
"""Of a name under which one file after the other takes the place of the one before."""
_GRAINS_MAX: Final = 400
_IN_MEMORY_S: Final = 30.0
"""Longer than a mount keeps bytes that it could commit."""
_RUSH_EVERY_S: Final = 1.0
_RUSH_PAUSE_S: Final = 0.01
"""A few round trips."""
_GLANCE_S: Final = 0.5
_KNOWN: Final = (  # errors that say that nothing happened, and are part of POSIX
    errors.NotFound,
    errors.Exists,
    errors.NotADirectory,
    errors.IsADirectory,
    errors.NotEmpty,
    errors.InvalidArgument,
    errors.NotPermitted,
    errors.NoAttribute,
)


@dataclass
class Rules:
    """What the faults of a run excuse. `trouble`: errors of the cluster; `lost`: reads of what was not synced."""

    trouble: bool
    lost: bool


@dataclass
class Tree:
    """One private directory: the model of its names, the registers of its files by the model's inode numbers."""

    path: str
    model: posix.FileSystem
    files: dict[int, Register] = field(default_factory=dict)
    unsettled: tuple[Any, ...] | None = None
    """The change, as given to the model, of which nobody knows whether it happened."""
    before: list[tuple[int, posix.FileSystem, dict[int, Register]]] = field(default_factory=list)
    """What the directory was before each change that may be lost with its client: the place in the client's stream that
    has to be durable for the change to stay, the model and the files."""
    is_lost: bool = False
    """The client has lost changes: the directory may be as it was before any of these."""


class Shared:
    """What all clients of a run have in common, and what was seen of it."""

    def __init__(self, story: Story, rules: Rules) -> None:
        self.story = story
        self.rules = rules
        self.trees: list[Tree] = []
        self.registers: list[Register] = []
        self.names: list[Operation] = []
        self.log_returned: dict[bytes, float] = {}
        """When each record's append returned; infinity if it is not known to have."""
        self.log_seen: list[tuple[float, bytes]] = []
        self.names_ino = self.saved_ino = Ino(0)
        self.saving: list[tuple[str, OpenInode]] = []
        """What mounts have put in the place of others."""
        self.until = math.inf
        """No operation begins later."""

    def new_tree(self, path: str) -> Tree:
        root = posix.Inode(posix.ROOT, stat.S_IFDIR | 0o755, 2, 0, 0, 0, 0, 0, 0)
        tree = Tree(path, posix.FileSystem(root, 3, 2))
        self.trees.append(tree)
        return tree

    def new_register(self, name: str) -> Register:
        register = Register(len(self.registers) + 1)
        register.name = name
        self.registers.append(register)
        return register

    def check_log(self, who: str, content: bytes, called: float) -> None:
        """A read of the shared log: whole records, each once, all that had returned, nothing undone."""
        records = [content[start : start + RECORD] for start in range(0, len(content), RECORD)]
        for record in records:
            if record not in self.log_returned:
                self.story.violated(who, f"the shared log holds {record!r}, which nobody appended in one piece")
                return
        if len(set(records)) != len(records):
            twice = next(record for record in records if records.count(record) > 1)
            self.story.violated(who, f"the shared log has {twice.rstrip()!r} twice")
        there = set(records)
        for record, returned in self.log_returned.items():
            if returned < called and record not in there:
                self.story.violated(who, f"the shared log lacks {record.rstrip()!r}, appended at {returned:.6f}")
        for at, seen in self.log_seen:
            if at < called and content[: len(seen)] != seen:
                self.story.violated(who, f"the shared log does not begin as it was read at {at:.6f}")
        self.log_seen = [*self.log_seen[-3:], (trio.current_time(), content)]

    def check_saved(self, who: str, name: str, content: bytes) -> None:
        """A read of a file that clients replace: whole, as one of them wrote it, unless that one was told otherwise."""
        if not content and not any(inode.late_errors for saved, inode in self.saving if saved == name):
            self.story.violated(who, f"/saved/{name} is empty")
        if content:
            size = content[:GRAIN].split()[0]
            if not size.isdigit() or content != content[:GRAIN] * int(size):
                self.story.violated(who, f"/saved/{name} is not whole: {len(content)} bytes, {content[:40]!r}")


def saved(who: str, grains: int) -> bytes:
    """What is put in the place of a file."""
    return f"{grains} grains of {who} ".encode().ljust(GRAIN, b".") * grains


class Failed(Exception):
    """An operation failed for reasons that the faults excuse: what it was to do may have happened."""


class Client:
    """One life of one client. `run` ends when the workload does.

    `_hands`: how much is done at once where others do too; `_eyes`: and how many look only.
    """

    _hands = 1
    _eyes = 0

    def __init__(self, name: str, fs: FileSystem, shared: Shared, chance: random.Random, pause_s: float) -> None:
        self.name = name
        self.fs = fs
        self.shared = shared
        self.story = shared.story
        self.chance = chance
        self._pause_s = pause_s
        self._serial = 0
        self._unsynced: list[tuple[int, Operation]] = []
        """Operations on shared names that count only if the stream is durable up to a place."""
        self._named = 0
        """The place after its own last change of shared names."""

    @property
    def stream(self) -> CommandStream:
        return self.fs.session.stream

    def note_named(self, operation: Operation, *, changes: bool) -> None:
        """An operation on shared names has returned. Its effect may be lost, or that of an own one that it has seen."""
        if changes:
            self._named = self.stream.given
        self._unsynced.append((self._named, operation))
        self._unsynced = [entry for entry in self._unsynced if entry[0] > self.stream.settled]

    def lost(self) -> None:
        """What was not durable may never have been, and what was seen of it with it."""
        for _, operation in self._unsynced:
            operation.result, operation.returned = UNKNOWN, math.inf
        self._unsynced.clear()

    async def run(self, label: str) -> None:
        private = self._private(label)

        def lost() -> None:
            self.lost()
            private.lost()

        self.stream.on_loss = lost  # also while the client closes
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._repeat, private.step)
                for _ in range(self._hands):
                    nursery.start_soon(self._repeat, Common(self).step)
                for _ in range(self._eyes):
                    nursery.start_soon(self._repeat, Common(self).look)
            await private.finish()
        except BaseException:
            private.crashed()
            self.lost()
            raise

    def _private(self, label: str) -> Private:
        return Private(self, label)

    async def _repeat(self, step: Callable[[], Awaitable[None]]) -> None:
        while trio.current_time() < self.shared.until:
            await trio.sleep(self.chance.random() * self._pause_s)
            try:
                await step()
            except Failed:
                await trio.sleep(self.chance.random())

    async def attempt(self, what: str, work: Callable[[], Awaitable[Any]], *, loses: bool = False) -> Any:
        """What `work` gives, or the POSIX error that it raises. Raises `Failed` for an error that is excused.

        `loses`: it reads what may not be on any disk.
        """
        called = trio.current_time()
        try:
            result = await work()
        except _KNOWN as error:
            result = error
        except errors.DfsError as error:
            self.story.tell(self.name, f"{what} -> {error.code}: {error.message}")
            self.story.counts["errors"] += 1
            lost = isinstance(error, errors.DataLost) and loses and self.shared.rules.lost
            if not (self.shared.rules.trouble or lost):
                self.story.violated(self.name, f"{what} failed, and no fault of this run excuses it: {error}")
            raise Failed(what) from error
        shown = result.code if isinstance(result, errors.DfsError) else "ok"
        self.story.tell(self.name, f"{what} -> {shown} ({trio.current_time() - called:.3f} s)")
        self.story.counts["operations"] += 1
        return result

    async def pread(self, ino: Ino, length: int, offset: int) -> bytes:
        """Read a file that may be anybody's."""
        buffer = bytearray(length)
        return bytes(buffer[: await self.fs.reader.read_into(ino, offset, memoryview(buffer))])

    async def replace(self, name: str, data: bytes) -> None:
        """Put a file in the place of one of SAVED."""
        await self.fs.upload(_Source(data), f"/saved/{name}", replace=True)

    def next_serial(self) -> int:
        self._serial += 1
        return self._serial

    # --- a file's bytes ---------------------------------------------------------------------------------

    async def read(
        self, register: Register, read: Callable[[int, int], Awaitable[Any]], first: int, count: int, *, own: bool
    ) -> None:
        called = trio.current_time()
        what = f"reads {register.name} grains {first}..{first + count}"
        loses = not all(map(register.must_be_readable, range(first, min(first + count, register.size))))
        data = await self.attempt(what, lambda: read(count * GRAIN, first * GRAIN), loses=loses)
        if isinstance(data, errors.DfsError):
            if not isinstance(data, errors.NotFound) or register.removed_at > trio.current_time():
                self.story.violated(self.name, f"{what}: {data}")
            return
        from_memory = register.writer is self.fs
        wrong = register.check(first, bytes(data), called, trio.current_time(), own, from_memory=from_memory)
        if wrong:
            self.story.violated(self.name, f"{what} at {called:.6f}: {wrong}")
        elif own and register.is_certain:
            expected = max(0, min(count, register.size - first)) * GRAIN
            if len(data) != expected:
                self.story.violated(self.name, f"{what}: {len(data)} bytes came, {expected} are there")


class _Source:
    """Bytes to upload."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def readinto(self, view: memoryview) -> int:
        await trio.lowlevel.checkpoint()
        piece, self._data = self._data[: len(view)], self._data[len(view) :]
        view[: len(piece)] = piece
        return len(piece)


class Common:
    """What a client does where others do too."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._shared = client.shared
        self._fs = client.fs
        self._chance = client.chance

    async def step(self) -> None:
        verbs = [self._names] * 4 + [self._rush] * 2 + [self._append] * 2 + [self._read_log] + [self._read_other] * 3
        verbs += [self._read_directory, self._save, self._read_saved]
        await self._chance.choice(verbs)()

    async def look(self) -> None:
        """What is cached is shown also while the NameNode is away; for what is not, nobody waits here."""
        with trio.move_on_after(_GLANCE_S):
            await self._look_at(self._chance.choice((*_SHARED, None)))

    async def _rush(self) -> None:
        """Some operations on names in quick succession, at a moment when others do the same."""
        await trio.sleep_until(math.ceil(trio.current_time() / _RUSH_EVERY_S) * _RUSH_EVERY_S)
        for _ in range(self._chance.randrange(2, 7)):
            await trio.sleep(self._chance.random() * _RUSH_PAUSE_S)
            await self._names()

    async def _names(self) -> None:
        inodes, parent = self._fs.inodes, self._shared.names_ino
        name, other = self._chance.choice(_SHARED), self._chance.choice(_SHARED)
        kind = self._chance.choice(("symlink", "unlink", "rename", "readlink", "readlink", "listdir"))
        if kind == "symlink":
            target = f"{self._client.name}-{self._client.next_serial()}-{trio.current_time():.6f}".encode()
            await self._do(
                f"symlink {name!r} {target!r}",
                naming.symlink(name, target),
                lambda: inodes.symlink(parent, name, target, 0, 0),
            )
        elif kind == "unlink":
            await self._do(f"unlink {name!r}", naming.unlink(name), lambda: inodes.unlink(parent, name))
        elif kind == "rename":
            await self._do(
                f"rename {name!r} {other!r}",
                naming.rename(name, other),
                lambda: inodes.rename(parent, name, parent, other),
            )
        else:
            await self._look_at(name if kind == "readlink" else None)

    async def _look_at(self, name: bytes | None) -> None:
        """A shared name, or all of them."""
        if name is not None:
            await self._do(f"readlink {name!r}", naming.readlink(name), lambda: self._readlink(name), changes=False)
        else:
            await self._do("listdir", naming.listdir(), self._list, changes=False)

    async def _readlink(self, name: bytes) -> Any:
        found = await self._fs.inodes.lookup(self._shared.names_ino, name)
        try:
            return await self._fs.inodes.readlink(found.ino)
        except errors.NotFound:
            return UNKNOWN  # it went in between

    async def _list(self) -> tuple[bytes, ...]:
        entries = await self._fs.inodes.readdir(self._shared.names_ino, 0, len(_SHARED))
        return tuple(sorted(entry.name for entry in entries))

    async def _do(
        self, what: str, step: naming.Step, work: Callable[[], Awaitable[Any]], *, changes: bool = True
    ) -> None:
        operation = Operation(f"{self._client.name} {what}", trio.current_time(), step)
        self._shared.names.append(operation)
        losses = self._client.stream.losses
        result = await self._client.attempt(f"shared {what}", work)
        if result is UNKNOWN or self._client.stream.losses != losses:
            return
        operation.returned = trio.current_time()
        self._client.note_named(operation, changes=changes)
        if isinstance(result, errors.DfsError):
            operation.result = result.code
        else:
            operation.result = result if isinstance(result, bytes | tuple) and not hasattr(result, "ino") else "done"

    async def _append(self) -> None:
        text = f"{self._client.name} {self._client.next_serial()} {trio.current_time():.6f}"
        record = text.encode().ljust(RECORD - 1) + b"\n"
        self._shared.log_returned[record] = math.inf

        async def work() -> None:
            async with await self._fs.open("/log", "a") as file:
                await file.pwrite(record, 0)

        if await self._client.attempt(f"appends {text!r} to the log", work) is None:
            self._shared.log_returned[record] = trio.current_time()

    async def _save(self) -> None:
        """As an editor does, or `rsync` with one file after the other."""
        for _ in range(self._chance.randrange(1, 5)):
            name = self._chance.choice(SAVED)
            text = f"{self._client.name} {self._client.next_serial()} {trio.current_time():.6f}"
            data = saved(text, self._chance.randrange(1, _SAVED_MAX))
            await self._client.attempt(f"replaces /saved/{name}: {text}", partial(self._client.replace, name, data))

    async def _read_saved(self) -> None:
        name = self._chance.choice(SAVED)

        async def work() -> bytes | None:
            for _ in range(_LOOKUPS):
                found = await self._fs.inodes.lookup(self._shared.saved_ino, name.encode())
                with contextlib.suppress(errors.NotFound):  # another one has just taken its place
                    return await self._client.pread(found.ino, (_SAVED_MAX + 1) * GRAIN, 0)
            return None

        content = await self._client.attempt(f"reads /saved/{name}", work, loses=True)
        if isinstance(content, errors.DfsError):
            self._shared.story.violated(self._client.name, f"/saved/{name} could not be read: {content}")
        elif content is not None:
            self._shared.check_saved(self._client.name, name, content)

    async def _read_log(self) -> None:
        called = trio.current_time()

        async def work() -> bytes:
            async with await self._fs.open("/log") as file:
                return await file.pread((await file.stat()).size, 0)

        content = await self._client.attempt("reads the log", work, loses=True)
        self._shared.check_log(self._client.name, content, called)

    async def _read_other(self) -> None:
        if self._shared.registers:
            register = self._chance.choice(self._shared.registers)
            if register.ino:
                first = self._chance.randrange(max(1, register.size))
                await self._client.read(
                    register, lambda length, offset: self._pread(register, length, offset), first, 80, own=False
                )

    async def _read_directory(self) -> None:
        """All files of somebody's directory, one after the other, as some programs of this client do at once."""
        trees = self._shared.trees[-3:]
        if not trees:
            return
        path = self._chance.choice(trees).path
        listing = await self._client.attempt(f"listdir {path}", lambda: self._fs.listdir(path))
        if isinstance(listing, errors.DfsError):
            return
        registers = {register.ino: register for register in self._shared.registers}
        found = [registers[entry.attr.ino] for entry in listing if entry.attr.ino in registers]

        async def read() -> None:
            with contextlib.suppress(Failed):
                for register in found:
                    await self._client.read(register, partial(self._pread, register), 0, register.size + 1, own=False)

        async with trio.open_nursery() as nursery:
            for _ in range(self._chance.randrange(1, 5)):
                nursery.start_soon(read)

    async def _pread(self, register: Register, length: int, offset: int) -> bytes:
        return await self._client.pread(Ino(register.ino), length, offset)


class Private:
    """What a client does in a directory of its own. At most one file is open at a time."""

    def __init__(self, client: Client, label: str) -> None:
        self._client = client
        self._label = label
        self._shared = client.shared
        self._fs = client.fs
        self._chance = client.chance
        self._tree: Tree | None = None
        self._open: tuple[Register, Any] | None = None
        self._trees = 0
        self._losses = 0
        self._unpublished: list[tuple[int, Register, Ino]] = []

    async def step(self) -> None:
        if self._tree is not None:
            self._check_losses(self._tree)
        if self._tree is None or self._tree.unsettled:
            await self._begin()
            return
        verbs = [self._change_names] * 5 + [self._look] * 2
        verbs += [self._upload] * 2 + [self._open_file] * 4 if self._open is None else [self._use_file] * 20
        await self._chance.choice(verbs)(self._tree)

    async def _begin(self) -> None:
        await self._forget_open()
        self._trees += 1
        path = f"/{self._label}.{self._trees}"
        tree = self._shared.new_tree(path)
        tree.unsettled = ("whole tree",)

        async def work() -> None:
            await self._fs.mkdir(path)
            await self._client.stream.flush()  # that it is there need not be asked any more

        self._losses = self._client.stream.losses
        if not isinstance(await self._client.attempt(f"mkdir {path}", work), errors.DfsError):
            tree.unsettled = None
            self._tree = tree

    async def _forget_open(self) -> None:
        """The file that was open is not written any more."""
        if self._open is not None:
            (register, file), self._open = self._open, None
            with contextlib.suppress(Failed):
                await self._close(register, file)

    async def finish(self) -> None:
        """The end of the workload."""
        await self._forget_open()

    def crashed(self) -> None:
        """The client is no more: who knows what became of its last writes."""
        if self._open is not None:
            self._open[0].lose()
        self.lost()

    async def _close(self, register: Register, file: Any) -> None:
        try:
            await self._client.attempt(f"closes {register.name}", file.aclose)
        except BaseException:
            register.lose()
            raise

    # --- names ------------------------------------------------------------------------------------------

    def _find(self, tree: Tree, name: str) -> posix.Inode | None:
        """`name` is one name, or one in a directory below: `s/a`."""
        inode: posix.Inode | None = tree.model.state.inodes[posix.ROOT]
        for part in name.split("/"):
            entry = inode.entries.get(part.encode()) if inode is not None else None
            inode = tree.model.state.inodes.get(entry[0]) if entry else None
        return inode

    def _place(self, tree: Tree, name: str) -> tuple[int, bytes]:
        parent, _, last = name.rpartition("/")
        inode = self._find(tree, parent) if parent else tree.model.state.inodes[posix.ROOT]
        assert inode is not None
        return inode.ino, last.encode()

    def _pick(self, tree: Tree, names: tuple[str, ...]) -> str:
        below = [name for name in _DIRECTORIES if (found := self._find(tree, name)) and found.is_directory]
        name = self._chance.choice(names)
        return f"{self._chance.choice(below)}/{name}" if below and self._chance.random() < 0.4 else name

    async def _change(self, tree: Tree, what: str, work: Callable[[], Awaitable[Any]], verb: str, *args: Any) -> bool:
        """Do a change at both, and compare how it ended. Whether it happened."""
        tree.unsettled = (verb, *args)
        result = await self._client.attempt(f"{what} in {tree.path}", work)
        self._check_losses(tree)
        tree.unsettled = None
        self._remember(tree)
        try:
            tree.model.now_ns += 1
            tree.model.attempt(verb, *args)
            expected = ""
        except errors.DfsError as error:
            expected = error.code
        got = result.code if isinstance(result, errors.DfsError) else ""
        if got != expected:
            said, due = got or "success", expected or "success"
            self.story.violated(self._client.name, f"{what} in {tree.path} ended in {said}, which has to be {due}")
        return not got

    def _remember(self, tree: Tree) -> None:
        """A change has returned: what the directory was before it, for the case that it is lost."""
        stream = self._client.stream
        tree.before = [entry for entry in tree.before if entry[0] > stream.settled]
        if stream.given > stream.settled:
            tree.before.append((stream.given, copy.deepcopy(tree.model), dict(tree.files)))

    def _check_losses(self, tree: Tree) -> None:
        """Raises `Failed` when changes were lost: then nobody knows what the directory is."""
        if self._client.stream.losses != self._losses:
            self._losses = self._client.stream.losses
            self._leave()
            raise Failed("changes of names are lost")

    def _leave(self) -> None:
        """Look at the directory at the end only: its last changes may be lost."""
        self.lost()
        self._tree = None

    def lost(self) -> None:
        """The directory's last changes may be."""
        if self._tree is not None:
            self._tree.is_lost = True
            for _, _, files in self._tree.before:
                for ino, register in self._tree.files.items():
                    if ino not in files:
                        register.removed_at = min(register.removed_at, trio.current_time())

    @property
    def story(self) -> Story:
        return self._client.story

    async def _change_names(self, tree: Tree) -> None:
        verbs = (self._mkdir, self._rmdir, self._symlink, self._unlink, self._rename, self._link, self._chmod)
        await self._chance.choice((*verbs, self._xattr, self._unlink))(tree)

    async def _mkdir(self, tree: Tree) -> None:
        name = self._chance.choice(_DIRECTORIES)
        path = f"{tree.path}/{name}"
        await self._change(tree, f"mkdir {name}", lambda: self._fs.mkdir(path), "mkdir", 1, name.encode(), 0o755, 0, 0)

    async def _rmdir(self, tree: Tree) -> None:
        name = self._chance.choice((*_DIRECTORIES, "a"))
        path = f"{tree.path}/{name}"
        await self._change(tree, f"rmdir {name}", lambda: self._fs.rmdir(path), "rmdir", 1, name.encode())

    async def _symlink(self, tree: Tree) -> None:
        name = self._pick(tree, _LINKS)
        target = f"/nowhere/{self._client.next_serial()}"
        path, (parent, last) = f"{tree.path}/{name}", self._place(tree, name)
        work = lambda: self._fs.symlink(target, path)  # noqa: E731
        await self._change(tree, f"symlink {name}", work, "symlink", parent, last, target.encode(), 0, 0)

    async def _unlink(self, tree: Tree) -> None:
        name = self._pick(tree, (*_FILES, *_LINKS, "s"))
        path, (parent, last) = f"{tree.path}/{name}", self._place(tree, name)
        self._may_go(tree, name)
        await self._change(tree, f"unlink {name}", lambda: self._fs.remove(path), "unlink", parent, last)

    def _may_go(self, tree: Tree, name: str) -> None:
        found = self._find(tree, name)
        if found is not None and found.ino in tree.files and found.nlink == 1:
            tree.files[found.ino].removed_at = trio.current_time()

    async def _rename(self, tree: Tree) -> None:
        kind = self._chance.choice((_FILES, _FILES, _LINKS, _DIRECTORIES))
        if kind is _DIRECTORIES:
            old, new = self._chance.choice(kind), self._chance.choice(kind)
        else:
            old, new = self._pick(tree, kind), self._pick(tree, kind)
        (parent, last), (new_parent, new_last) = self._place(tree, old), self._place(tree, new)
        source, target = self._find(tree, old), self._find(tree, new)
        if source is not None and source is not target:
            self._may_go(tree, new)
        work = lambda: self._fs.rename(f"{tree.path}/{old}", f"{tree.path}/{new}")  # noqa: E731
        await self._change(tree, f"rename {old} {new}", work, "rename", parent, last, new_parent, new_last)

    async def _link(self, tree: Tree) -> None:
        old, new = self._pick(tree, _FILES), self._pick(tree, _FILES)
        source = self._find(tree, old)
        if source is not None:
            parent, last = self._place(tree, new)
            work = lambda: self._fs.link(f"{tree.path}/{old}", f"{tree.path}/{new}")  # noqa: E731
            await self._change(tree, f"link {old} {new}", work, "link", source.ino, parent, last)

    async def _chmod(self, tree: Tree) -> None:
        name = self._pick(tree, _FILES)
        found = self._find(tree, name)
        if found is not None:
            mode = self._chance.choice((0o600, 0o644, 0o755))
            work = lambda: self._fs.chmod(f"{tree.path}/{name}", mode)  # noqa: E731
            await self._change(tree, f"chmod {name} {mode:o}", work, "setattr", found.ino, {"mode": mode})

    async def _xattr(self, tree: Tree) -> None:
        name = self._pick(tree, _FILES)
        found = self._find(tree, name)
        if found is None:
            return
        inode = await self._client.attempt(f"stat {name}", lambda: self._fs.stat(f"{tree.path}/{name}"))
        key, value = b"user.k", str(self._client.next_serial()).encode()
        flags = self._chance.choice((0, 1, 2))
        if self._chance.random() < 0.3:
            remove = lambda: self._fs.inodes.removexattr(inode.ino, key)  # noqa: E731
            await self._change(tree, f"removexattr {name}", remove, "removexattr", found.ino, key)
        else:
            work = lambda: self._fs.inodes.setxattr(inode.ino, key, value, flags)  # noqa: E731
            await self._change(tree, f"setxattr {name} {flags}", work, "setxattr", found.ino, key, value, flags)

    async def _look(self, tree: Tree) -> None:
        """The whole tree is as the model has it."""
        found = await scan(self._client, tree.path)
        self._check_losses(tree)
        compare(self._client, tree, found)

    # --- files ------------------------------------------------------------------------------------------

    async def _upload(self, tree: Tree) -> None:
        name = self._pick(tree, _FILES)
        found = self._find(tree, name)
        register = self._shared.new_register(f"{tree.path}/{name}#{len(self._shared.registers) + 1}")
        register.writer = self._fs
        grains = self._grains()
        write, data = register.write(0, grains, trio.current_time())
        replace = self._chance.random() < 0.7
        parent, last = self._place(tree, name)
        if found is not None and replace:
            self._may_go(tree, name)
        tree.unsettled = ("upload", parent, last, register)

        async def work() -> Any:
            return await self._fs.upload(_Source(data), f"{tree.path}/{name}", replace=replace)

        result = await self._client.attempt(f"uploads {grains} grains as {register.name}", work)
        self._check_losses(tree)
        tree.unsettled = None
        if found is not None and (not replace or found.is_directory):
            if not isinstance(result, errors.Exists | errors.IsADirectory):
                self.story.violated(self._client.name, f"upload to {tree.path}/{name} ended in {result!r}")
            register.lose()
            return
        if isinstance(result, errors.DfsError):
            self.story.violated(self._client.name, f"upload to {tree.path}/{name} failed: {result}")
            register.lose()
            return
        register.ino = result.ino
        register.finish(trio.current_time(), flushed=True)
        write.synced = True
        self._remember(tree)
        install(tree, parent, last, register)

    def _grains(self) -> int:
        return self._chance.choice((1, 2, 7, 20, 60, 200, _GRAINS_MAX))

    async def _open_file(self, tree: Tree) -> None:
        name = self._pick(tree, _FILES)
        found = self._find(tree, name)
        path, (parent, last) = f"{tree.path}/{name}", self._place(tree, name)
        if found is not None and found.ino not in tree.files:
            return
        if found is None:
            register = self._shared.new_register(f"{path}#{len(self._shared.registers) + 1}")
            register.writer = self._fs
            tree.unsettled = ("upload", parent, last, register)
            file = await self._client.attempt(f"creates {register.name}", lambda: self._opened(path, "x+"))
            self._check_losses(tree)
            tree.unsettled = None
            if isinstance(file, errors.DfsError):
                self.story.violated(self._client.name, f"{path} could not be made: {file}")
                return
            self._remember(tree)
            install(tree, parent, last, register)
        else:
            register = tree.files[found.ino]
            file = await self._client.attempt(f"opens {register.name}", lambda: self._opened(path, "r+"))
            if isinstance(file, errors.DfsError):
                self._check_losses(tree)
                self.story.violated(self._client.name, f"{path} could not be opened: {file}")
                return
        self._open = register, file
        self._publish(register, file.ino)

    async def _opened(self, path: str, mode: str) -> Any:
        return await self._fs.open(path, mode)

    def _publish(self, register: Register, ino: Ino) -> None:
        """Others may read the file, by its number, from when the NameNode knows it."""
        self._unpublished.append((self._client.stream.given, register, ino))
        ready = [entry for entry in self._unpublished if entry[0] <= self._client.stream.settled]
        self._unpublished = [entry for entry in self._unpublished if entry not in ready]
        for _, known, number in ready:
            known.ino = number

    async def _use_file(self, tree: Tree) -> None:
        assert self._open is not None
        register, file = self._open
        verbs = [self._write] * 5 + [self._read] * 4 + [self._fsync] * 3 + [self._truncate, self._append_more]
        verbs += [self._close_file] * 2
        try:
            await self._chance.choice(verbs)(register, file)
        except Failed:
            register.lose()
            await self._forget_open()
            raise
        if self._tree is not None:
            self._check_losses(self._tree)

    async def _write(self, register: Register, file: Any) -> None:
        first = self._chance.randrange(min(register.size + 5, _GRAINS_MAX))
        await self._write_at(register, file, first)

    async def _append_more(self, register: Register, file: Any) -> None:
        if register.size < _GRAINS_MAX:
            await self._write_at(register, file, register.size)

    async def _write_at(self, register: Register, file: Any, first: int) -> None:
        count = self._grains()
        write, data = register.write(first, count, trio.current_time())
        what = f"writes {register.name} grains {first}..{first + count} as number {write.number}"
        await self._certainly(what, lambda: file.pwrite(data, first * GRAIN))
        register.finish(trio.current_time(), flushed=self._is_flushed(file))

    def _is_flushed(self, _file: Any) -> bool:
        """Whether others see a write that has returned."""
        return True

    async def _certainly(self, what: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """An operation that POSIX has no error for."""
        result = await self._client.attempt(what, work)
        if isinstance(result, errors.DfsError):
            self.story.violated(self._client.name, f"{what} failed: {result}")
            raise Failed(what)
        return result

    async def _truncate(self, register: Register, file: Any) -> None:
        size = self._chance.randrange(register.size + 10)
        write = register.truncate(size, trio.current_time())
        what = f"truncates {register.name} to {size} grains as number {write.number}"
        await self._certainly(what, lambda: file.truncate(size * GRAIN))
        write.returned = write.returned_here = trio.current_time()

    async def _read(self, register: Register, file: Any) -> None:
        first = self._chance.randrange(max(1, register.size))
        await self._client.read(register, file.pread, first, self._grains(), own=self._sees_own())

    def _sees_own(self) -> bool:
        """Whether what was written through a handle is read through it."""
        return True

    async def _fsync(self, register: Register, file: Any) -> None:
        called = trio.current_time()
        await self._certainly(f"fsyncs {register.name}", file.fsync)
        register.finish(trio.current_time(), flushed=True)
        register.synced(called)

    async def _close_file(self, register: Register, file: Any) -> None:
        self._open = None
        await self._close(register, file)


class MountedFile:
    """An open inode with the methods of a `File`."""

    def __init__(self, inodes: OpenInodes, inode: OpenInode) -> None:
        self.ino = inode.ino
        self._inodes = inodes
        self._inode = inode
        self._opened = OpenFile(inode)

    async def pread(self, length: int, offset: int) -> bytes:
        # As the kernel does, which asks for attributes first.
        await self._inodes.seen(await self._inodes.fs.inodes.getattr(self.ino))
        return bytes(await self._inode.read(offset, length))

    async def pwrite(self, data: bytes, offset: int) -> None:
        # Cut as the kernel does, but between grains: of these pieces some may reach the cluster and others not.
        size = limits.DIRTY_RANGE_MAX_BYTES // GRAIN * GRAIN
        for start in range(0, len(data), size):
            await self._inode.write(offset + start, data[start : start + size])

    async def truncate(self, size: int) -> None:
        await self._inode.truncate(size)

    async def fsync(self) -> None:
        await self._opened.fsync()

    async def aclose(self) -> None:
        try:
            await self._opened.flush()
        finally:
            self._inodes.close(self._inode)


class MountPrivate(Private):
    """With write-back."""

    def __init__(self, client: Client, label: str, inodes: OpenInodes) -> None:
        super().__init__(client, label)
        self._inodes = inodes
        self._closed: dict[Register, None] = {}

    async def _opened(self, path: str, mode: str) -> Any:
        if mode[0] == "x":
            file: File = await self._fs.open(path, mode)  # which holds the inode, as a mount that creates it does
            attr = await self._fs.inodes.getattr(file.ino)
            return MountedFile(self._inodes, self._inodes.open(attr, path))
        attr = await self._fs.stat(path)
        return MountedFile(self._inodes, await self._inodes.acquire(attr.ino, path))

    def _is_flushed(self, _file: Any) -> bool:
        return not self._shared.rules.trouble  # or it may be lost with the session

    def _sees_own(self) -> bool:
        return not self._shared.rules.trouble  # or what was written may be lost, which only a flush tells

    async def _close(self, register: Register, file: Any) -> None:
        """Others see what was written, but if the session ends it may be lost, and nobody is there to hear of it."""
        await super()._close(register, file)
        self._closed[register] = None
        may_be_lost = self._shared.rules.trouble and not self._inodes.flush_on_close
        register.finish(trio.current_time(), flushed=not may_be_lost)
        if may_be_lost:
            register.lose()

    def crashed(self) -> None:
        super().crashed()
        for register in self._closed:
            register.lose_unsynced(trio.current_time() - _IN_MEMORY_S)


class MountClient(Client):
    """As a mount, on which several programs run."""

    _hands = 3
    _eyes = 1

    def __init__(self, *args: Any, inodes: OpenInodes) -> None:
        super().__init__(*args)
        self._inodes = inodes
        inodes.on_loss = self._lost_bytes

    def _lost_bytes(self, ino: Ino) -> None:
        """What is lost others do not see, also before who wrote it is told."""
        for register in self.shared.registers:
            if register.ino == ino and register.writer is self.fs:
                register.lose()

    def _private(self, label: str) -> Private:
        return MountPrivate(self, label, self._inodes)

    async def replace(self, name: str, data: bytes) -> None:
        directory, temporary = self.shared.saved_ino, f"{self.name}-{self.next_serial()}".encode()
        inode = await self._inodes.create(directory, temporary, 0o600, 0, 0, exclusive=True)
        self.shared.saving.append((name, inode))
        file = MountedFile(self._inodes, inode)
        try:
            await file.pwrite(data, 0)
        finally:
            await file.aclose()
        await self.fs.inodes.rename(directory, temporary, directory, name.encode())

    async def pread(self, ino: Ino, length: int, offset: int) -> bytes:
        inode = await self._inodes.acquire(ino, f"inode {ino}")
        file = MountedFile(self._inodes, inode)
        try:
            return await file.pread(length, offset)
        finally:
            self._inodes.close(inode)


def install(tree: Tree, parent: int, name: bytes, register: Register) -> None:
    """In the model: a file, which takes the place of one that had the name."""
    model = tree.model
    directory = model.state.inodes[parent]
    if name in directory.entries:
        model.attempt("unlink", parent, name)
    inode = model.attempt("create", parent, name, 0o644, 0, 0)
    tree.files[inode.ino] = register


def compare(client: Client, tree: Tree, found: dict[str, str]) -> None:
    """What was found in a private directory has just the names, kinds and link counts that the model has."""
    expected = describe(tree.model)
    if found != expected:
        gone = sorted(expected.items() - found.items())
        more = sorted(found.items() - expected.items())
        client.story.violated(client.name, f"{tree.path} should have {gone} and has {more}")


async def scan(client: Client, path: str) -> dict[str, str]:
    """What a client finds below a directory: a line for each name."""
    found: dict[str, str] = {}

    async def look(where: str) -> None:
        listing = await client.attempt(f"listdir {where}", lambda: client.fs.listdir(where))
        if isinstance(listing, errors.DfsError):
            found[where[len(path) + 1 :]] = listing.code
            return
        for entry in listing:
            name, attr = f"{where}/{entry.name.decode()}", entry.attr
            target = b""
            if stat.S_ISLNK(attr.mode):
                target = await client.attempt(f"readlink {name}", partial(client.fs.readlink, name))
            xattr = b""
            if stat.S_ISREG(attr.mode):
                got = await client.attempt(f"getxattr {name}", partial(client.fs.inodes.getxattr, attr.ino, b"user.k"))
                xattr = got if isinstance(got, bytes) else b""
            found[name[len(path) + 1 :]] = _line(attr.mode, attr.nlink, target, xattr)
            if stat.S_ISDIR(attr.mode):
                await look(name)

    await look(path)
    return found


def describe(model: posix.FileSystem, directory: int = posix.ROOT, prefix: str = "") -> dict[str, str]:
    """The same of the model."""
    found: dict[str, str] = {}
    for name, (ino, _) in model.state.inodes[directory].entries.items():
        inode = model.state.inodes[ino]
        xattr = inode.xattrs.get(b"user.k", b"") if stat.S_ISREG(inode.mode) else b""
        found[prefix + name.decode()] = _line(inode.mode, inode.nlink, inode.target or b"", xattr)
        if inode.is_directory:
            found |= describe(model, ino, f"{prefix}{name.decode()}/")
    return found


def _line(mode: int, nlink: int, target: bytes, xattr: bytes) -> str:
    permissions = stat.filemode(mode) if stat.S_ISREG(mode) else stat.filemode(mode)[0]
    return f"{permissions} {nlink} {target.decode()} {xattr.decode()}"
